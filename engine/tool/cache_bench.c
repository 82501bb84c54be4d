/*
 * cache_bench.c: hit ratios of the response cache's L1 (engine/cache/store,
 * the very code that runs in nginx) beside LRU, S3-FIFO, LFU with exact counts
 * since the beginning, the best static set and Belady's optimum, at equal
 * size, on synthetic workloads or a trace.
 *
 *   cache_bench [-n requests] [-k keys] [-c percent] [-s shards] [TRACE...]
 *
 * A trace has one `key size` a line; sizes are counted in blocks of 2 KiB.
 * Ratios are of the second half, when the caches are warm; by requests. The
 * shards of the store each have their part of the size.
 */

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cache/store.h"
#include "ipc/hash.h"

typedef struct {
    uint32_t  *key;                 /* [n], below n_keys */
    uint32_t  *size;                /* [n_keys] blocks */
    uint32_t   n, n_keys;
    uint64_t   capacity;            /* blocks */
} bench_load_t;

typedef struct {
    uint32_t   newer, older;
    uint32_t   in;                  /* 0: out; queue number otherwise */
    uint32_t   hits;
} bench_node_t;

static uint64_t  bench_seed = 88172645463325252ull;


static void *
bench_alloc(size_t n)
{
    void  *p = calloc(1, n);

    if (p == NULL) {
        fprintf(stderr, "cache_bench: no memory\n");
        exit(1);
    }
    return p;
}

static double
bench_random(void)
{
    bench_seed ^= bench_seed << 13;
    bench_seed ^= bench_seed >> 7;
    bench_seed ^= bench_seed << 17;
    return (double) (bench_seed >> 11) * 0x1p-53;
}

static double
bench_ratio(const bench_load_t *w, uint32_t hits)
{
    return (double) hits / (double) (w->n - w->n / 2);
}

/* ---- queues ---- */

static void
bench_push(bench_node_t *node, uint32_t head, uint32_t k)
{
    node[k].older = node[head].older;
    node[k].newer = head;
    node[node[head].older].newer = k;
    node[head].older = k;
}

static void
bench_cut(bench_node_t *node, uint32_t k)
{
    node[node[k].newer].older = node[k].older;
    node[node[k].older].newer = node[k].newer;
}

/* Nodes of all keys and of n_heads queues behind them. */
static bench_node_t *
bench_nodes(uint32_t n_keys, uint32_t n_heads)
{
    uint32_t       i;
    bench_node_t  *node = bench_alloc((n_keys + n_heads)
                                      * sizeof(bench_node_t));

    for (i = n_keys; i < n_keys + n_heads; i++) {
        node[i].newer = node[i].older = i;
    }
    return node;
}

static double
bench_lru(const bench_load_t *w)
{
    uint32_t       i, k, hits = 0, head = w->n_keys;
    uint64_t       used = 0;
    bench_node_t  *node = bench_nodes(w->n_keys, 1);

    for (i = 0; i < w->n; i++) {
        k = w->key[i];
        if (node[k].in) {
            hits += i >= w->n / 2;
            bench_cut(node, k);
        } else {
            if (w->size[k] > w->capacity) {
                continue;
            }
            used += w->size[k];
            node[k].in = 1;
        }
        bench_push(node, head, k);
        while (used > w->capacity) {
            k = node[head].newer;
            bench_cut(node, k);
            node[k].in = 0;
            used -= w->size[k];
        }
    }
    free(node);
    return bench_ratio(w, hits);
}

/* S3-FIFO (Yang et al., "FIFO queues are all you need for cache eviction",
 * SOSP 2023): a small queue of a tenth, a main one, a ghost of the main
 * one's size. */
typedef struct {
    const bench_load_t  *w;
    bench_node_t        *node;
    uint64_t             used[4];
} bench_s3_t;

enum { S3_SMALL = 1, S3_MAIN, S3_GHOST };

static void
bench_s3_put(bench_s3_t *s, uint32_t k, uint32_t queue)
{
    bench_push(s->node, s->w->n_keys + queue, k);
    s->node[k].in = queue;
    s->used[queue] += s->w->size[k];
}

static uint32_t
bench_s3_get(bench_s3_t *s, uint32_t queue)
{
    uint32_t  k = s->node[s->w->n_keys + queue].newer;

    bench_cut(s->node, k);
    s->node[k].in = 0;
    s->used[queue] -= s->w->size[k];
    return k;
}

static void
bench_s3_evict(bench_s3_t *s)
{
    uint32_t  k;

    if (s->used[S3_SMALL] * 10 > s->w->capacity || s->used[S3_MAIN] == 0) {
        k = bench_s3_get(s, S3_SMALL);
        if (s->node[k].hits > 1) {
            s->node[k].hits = 0;
            bench_s3_put(s, k, S3_MAIN);
            return;
        }
        bench_s3_put(s, k, S3_GHOST);
        while (s->used[S3_GHOST] * 10 > s->w->capacity * 9) {
            (void) bench_s3_get(s, S3_GHOST);
        }
        return;
    }
    k = bench_s3_get(s, S3_MAIN);
    if (s->node[k].hits > 0) {
        s->node[k].hits--;
        bench_s3_put(s, k, S3_MAIN);
    }
}

static double
bench_s3fifo(const bench_load_t *w)
{
    uint32_t    i, k, ghost, hits = 0;
    bench_s3_t  s = { .w = w, .node = bench_nodes(w->n_keys, 4) };

    for (i = 0; i < w->n; i++) {
        k = w->key[i];
        if (s.node[k].in == S3_SMALL || s.node[k].in == S3_MAIN) {
            hits += i >= w->n / 2;
            s.node[k].hits += s.node[k].hits < 3;
            continue;
        }
        if (w->size[k] > w->capacity) {
            continue;
        }
        ghost = s.node[k].in == S3_GHOST;
        if (ghost) {
            bench_cut(s.node, k);
            s.used[S3_GHOST] -= w->size[k];
        }
        s.node[k].hits = 0;
        bench_s3_put(&s, k, ghost ? S3_MAIN : S3_SMALL);
        while (s.used[S3_SMALL] + s.used[S3_MAIN] > w->capacity) {
            bench_s3_evict(&s);
        }
    }
    free(s.node);
    return bench_ratio(w, hits);
}

/* LFU that never forgets, also not what it has not; ties stay. Where requests
 * are independent and popularity does not change, nothing that knows only the
 * past does better on average. */
static double
bench_lfu(const bench_load_t *w)
{
    uint32_t       i, k, v, hits = 0, low = 1;
    uint64_t       used = 0;
    bench_node_t  *node = bench_nodes(w->n_keys, w->n + 1);
    bench_node_t  *head = node + w->n_keys;         /* [count] */

    for (i = 0; i < w->n; i++) {
        k = w->key[i];
        node[k].hits++;
        if (node[k].in) {
            hits += i >= w->n / 2;
            bench_cut(node, k);
        } else if (w->size[k] > w->capacity) {
            continue;
        } else {
            used += w->size[k];
            low = low < node[k].hits ? low : node[k].hits;
        }
        node[k].in = 1;
        bench_push(node, w->n_keys + node[k].hits, k);
        while (used > w->capacity) {
            while (head[low].newer == w->n_keys + low) {
                low++;
            }
            v = node[k].hits == low ? k : head[low].newer;
            bench_cut(node, v);
            node[v].in = 0;
            used -= w->size[v];
        }
    }
    free(node);
    return bench_ratio(w, hits);
}

/* ---- what no online policy can beat ---- */

typedef struct {
    uint32_t  key;
    double    worth;
} bench_rank_t;

static int
bench_by_worth(const void *a, const void *b)
{
    const bench_rank_t  *x = a, *y = b;

    return x->worth < y->worth ? 1 : x->worth > y->worth ? -1
           : x->key > y->key ? 1 : -1;
}

/* The set that has the most hits in the second half, each key in it from
 * the start. */
static double
bench_static(const bench_load_t *w)
{
    uint32_t       i, hits = 0, *count = bench_alloc(w->n_keys * 4);
    uint64_t       used = 0;
    bench_rank_t  *rank = bench_alloc(w->n_keys * sizeof(bench_rank_t));

    for (i = w->n / 2; i < w->n; i++) {
        count[w->key[i]]++;
    }
    for (i = 0; i < w->n_keys; i++) {
        rank[i].key = i;
        rank[i].worth = (double) count[i] / (w->size[i] ? w->size[i] : 1);
    }
    qsort(rank, w->n_keys, sizeof(bench_rank_t), bench_by_worth);
    for (i = 0; i < w->n_keys; i++) {
        if (used + w->size[rank[i].key] <= w->capacity) {
            used += w->size[rank[i].key];
            hits += count[rank[i].key];
        }
    }
    free(rank);
    free(count);
    return bench_ratio(w, hits);
}

/* A heap of keys by their next use, latest on top; stale items are skipped
 * when they come up. */
typedef struct {
    uint32_t  next, key;
} bench_use_t;

static void
bench_heap_push(bench_use_t *h, uint32_t *n, bench_use_t u)
{
    uint32_t  i = (*n)++;

    while (i > 0 && h[(i - 1) / 2].next < u.next) {
        h[i] = h[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    h[i] = u;
}

static bench_use_t
bench_heap_pop(bench_use_t *h, uint32_t *n)
{
    uint32_t     i = 0, c;
    bench_use_t  top = h[0], last = h[--*n];

    while ((c = 2 * i + 1) < *n) {
        c += c + 1 < *n && h[c + 1].next > h[c].next;
        if (h[c].next <= last.next) {
            break;
        }
        h[i] = h[c];
        i = c;
    }
    h[i] = last;
    return top;
}

/* Belady's optimum (exact for equal sizes), with bypass. */
static double
bench_belady(const bench_load_t *w)
{
    uint32_t      i, k, hits = 0, n_heap = 0;
    uint32_t     *next = bench_alloc(w->n * 4);
    uint32_t     *due = bench_alloc(w->n_keys * 4);
    uint64_t      used = 0;
    uint8_t      *in = bench_alloc(w->n_keys);
    bench_use_t  *heap = bench_alloc((w->n + 1) * sizeof(bench_use_t)), u;

    memset(due, 0xff, w->n_keys * 4);
    for (i = w->n; i-- > 0; /* void */ ) {
        next[i] = due[w->key[i]];
        due[w->key[i]] = i;
    }
    for (i = 0; i < w->n; i++) {
        k = w->key[i];
        due[k] = next[i];
        if (in[k]) {
            hits += i >= w->n / 2;
        } else {
            in[k] = 1;
            used += w->size[k];
        }
        bench_heap_push(heap, &n_heap, (bench_use_t) { next[i], k });
        while (used > w->capacity) {
            u = bench_heap_pop(heap, &n_heap);
            if (in[u.key] && due[u.key] == u.next) {
                in[u.key] = 0;
                used -= w->size[u.key];
            }
        }
    }
    free(next);
    free(due);
    free(in);
    free(heap);
    return bench_ratio(w, hits);
}

/* ---- ours ---- */

static void *
bench_value(void *arg, size_t len)
{
    (void) len;
    return arg;
}

static double
bench_store(const bench_load_t *w, uint32_t n_shards)
{
    size_t             bytes;
    uint8_t            key[INFER_STORE_KEY], secret[16] = { 7 };
    uint32_t           i, k, hits = 0, per;
    static uint8_t     value[1 << 22];
    infer_store_t      s;
    infer_store_get_t  g = { .alloc = bench_value, .alloc_arg = value };
    infer_store_put_t  p = { .value = value, .fresh_ms = UINT32_MAX };
    void              *mem;

    per = (uint32_t) ((w->capacity + n_shards - 1) / n_shards);
    per = per < 16 ? 16 : per;
    bytes = infer_store_bytes(n_shards, per);
    mem = aligned_alloc(64, bytes);
    if (mem == NULL || infer_store_init(mem, bytes, n_shards) != INFER_OK
        || infer_store_attach(&s, mem, bytes, 1) != INFER_OK)
    {
        fprintf(stderr, "cache_bench: no store\n");
        exit(1);
    }
    for (i = 0; i < w->n; i++) {
        k = w->key[i];
        infer_hash(secret, &k, sizeof(k), key);
        g.ident = p.ident = &k;
        g.ident_len = p.ident_len = sizeof(k);
        if (infer_store_get(&s, key, &g) == INFER_OK) {
            hits += i >= w->n / 2;
            continue;
        }
        /* the chain's links are part of the blocks */
        p.value_len = (size_t) w->size[k] * (INFER_STORE_BLOCK - 4) - 4;
        if (p.value_len <= sizeof(value)) {
            (void) infer_store_put(&s, key, &p);
        }
    }
    free(mem);
    return bench_ratio(w, hits);
}

/* ---- workloads ---- */

/* n keys drawn by Zipf's law, by bisection of the cumulative weights. */
static double *
bench_zipf(uint32_t n, double alpha)
{
    uint32_t  i;
    double    sum = 0, *cum = bench_alloc(n * sizeof(double));

    for (i = 0; i < n; i++) {
        sum += pow(i + 1, -alpha);
        cum[i] = sum;
    }
    for (i = 0; i < n; i++) {
        cum[i] /= sum;
    }
    return cum;
}

static uint32_t
bench_draw(const double *cum, uint32_t n)
{
    double    x = bench_random();
    uint32_t  low = 0, high = n - 1, mid;

    while (low < high) {
        mid = (low + high) / 2;
        if (cum[mid] < x) {
            low = mid + 1;
        } else {
            high = mid;
        }
    }
    return low;
}

/* once: part of the requests that are for a key nobody asks for again; scans:
 * times that a fortieth of all requests are nothing else. shifts: times that
 * the popular keys become others. */
static void
bench_fill(bench_load_t *w, uint32_t n_popular, double alpha, double once,
    uint32_t scans, uint32_t shifts)
{
    double    *cum = bench_zipf(n_popular, alpha);
    uint32_t   i, fresh = n_popular;

    for (i = 0; i < w->n; i++) {
        if ((scans != 0 && i % (w->n / scans) < w->n / 40)
            || bench_random() < once)
        {
            w->key[i] = fresh++;
            continue;
        }
        w->key[i] = bench_draw(cum, n_popular);
        if (shifts != 0) {
            w->key[i] = (uint32_t) ((w->key[i]
                        + (uint64_t) i * shifts / w->n
                          * (n_popular / (shifts + 1))) % n_popular);
        }
    }
    w->n_keys = fresh;
    for (i = 0; i < fresh; i++) {
        w->size[i] = 1;
    }
    free(cum);
}

static void
bench_row(const char *name, const bench_load_t *w, uint32_t n_shards)
{
    double  ours = bench_store(w, n_shards), set = bench_static(w);

    printf("%-26s %7.4f %7.4f %7.4f %7.4f %7.4f %7.4f   %.3f\n", name, ours,
           bench_lru(w), bench_s3fifo(w), bench_lfu(w), set, bench_belady(w),
           set > 0 ? ours / set : 0);
    fflush(stdout);
}

/* ---- traces ---- */

static uint64_t
bench_text_hash(const char *s)
{
    uint64_t  h = 14695981039346656037ull;

    while (*s != '\0') {
        h = (h ^ (uint8_t) *s++) * 1099511628211ull;
    }
    return h ? h : 1;
}

/* Keys are numbered in order of appearance. */
static int
bench_trace(bench_load_t *w, const char *path, double percent)
{
    char       line[4096], name[4096];
    FILE      *f = fopen(path, "r");
    uint32_t   max = 1 << 20, mask = (1 << 24) - 1, at;
    uint64_t  *seen, total = 0, h;
    uint32_t  *number;
    unsigned long long  bytes;

    if (f == NULL) {
        fprintf(stderr, "cache_bench: cannot open %s\n", path);
        return -1;
    }
    seen = bench_alloc((mask + 1ull) * sizeof(*seen));
    number = bench_alloc((mask + 1ull) * sizeof(*number));
    w->n = w->n_keys = 0;
    w->key = bench_alloc(max * 4ull);
    w->size = bench_alloc((mask + 1ull) * 4);

    while (fgets(line, sizeof(line), f) != NULL) {
        if (sscanf(line, "%4095s %llu", name, &bytes) != 2) {
            continue;
        }
        if (w->n == max) {
            max *= 2;
            w->key = realloc(w->key, max * 4ull);
            if (w->key == NULL) {
                fprintf(stderr, "cache_bench: no memory\n");
                exit(1);
            }
        }
        h = bench_text_hash(name);
        for (at = (uint32_t) h & mask; seen[at] != 0 && seen[at] != h;
             at = (at + 1) & mask) { /* void */ }
        if (seen[at] == 0) {
            if (w->n_keys > mask / 4 * 3) {
                break;                    /* enough of it */
            }
            seen[at] = h;
            number[at] = w->n_keys;
            w->size[w->n_keys] = (uint32_t) (bytes / INFER_STORE_BLOCK + 1);
            total += w->size[w->n_keys++];
        }
        w->key[w->n++] = number[at];
    }
    fclose(f);
    free(seen);
    free(number);
    w->capacity = (uint64_t) ((double) total * percent / 100);
    return w->n > 1 ? 0 : -1;
}

int
main(int argc, char **argv)
{
    int           i;
    char          name[64];
    double        percent = 10;
    uint32_t      n = 2000000, n_keys = 100000, n_shards = 8;
    bench_load_t  w = { 0 };
    static const double  alphas[] = { 0.8, 1.0, 1.2 };

    for (i = 1; i + 1 < argc && argv[i][0] == '-'; i += 2) {
        switch (argv[i][1]) {
        case 'n': n = (uint32_t) atoi(argv[i + 1]); break;
        case 'k': n_keys = (uint32_t) atoi(argv[i + 1]); break;
        case 'c': percent = atof(argv[i + 1]); break;
        case 's': n_shards = (uint32_t) atoi(argv[i + 1]); break;
        default: n = 0;
        }
    }
    if (n < 1000 || n_keys < 100 || !(percent > 0) || n_shards == 0) {
        fprintf(stderr, "usage: cache_bench [-n requests] [-k keys] "
                "[-c percent] [-s shards] [TRACE...]\n");
        return 2;
    }

    printf("hit ratio, second half, cache of %g %% of the keys, %u shards\n"
           "%-26s %7s %7s %7s %7s %7s %7s   %s\n", percent, n_shards,
           "workload", "ours", "LRU", "S3-FIFO", "LFU", "static", "Belady",
           "ours / static");
    for ( /* void */ ; i < argc; i++) {
        if (bench_trace(&w, argv[i], percent) == 0) {
            bench_row(argv[i], &w, n_shards);
        }
        free(w.key);
        free(w.size);
        w.key = w.size = NULL;
        n = 0;
    }
    if (n == 0) {
        return 0;
    }

    w.n = n;
    w.key = bench_alloc(n * 4ull);
    w.size = bench_alloc(((uint64_t) n + n_keys) * 4);
    w.capacity = (uint64_t) (n_keys * percent / 100);
    for (i = 0; i < 3; i++) {
        bench_fill(&w, n_keys, alphas[i], 0, 0, 0);
        snprintf(name, sizeof(name), "zipf %.1f", alphas[i]);
        bench_row(name, &w, n_shards);
    }
    bench_fill(&w, n_keys, 1.0, 0.3, 0, 0);
    bench_row("zipf 1.0, 30 % once", &w, n_shards);
    bench_fill(&w, n_keys, 1.0, 0, 4, 0);
    bench_row("zipf 1.0, 4 scans", &w, n_shards);
    bench_fill(&w, n_keys, 1.0, 0, 0, 4);
    bench_row("zipf 1.0, shifts 4 times", &w, n_shards);
    free(w.key);
    free(w.size);
    return 0;
}
