/*
 * test_golden.c: the forward pass on SmolLM2-135M-Instruct against greedy
 * continuations of an unrelated f32 implementation (t/golden/smollm2, whose
 * README has provenance and rules). Prompt and continuation are fed in one
 * pass, so each position is judged with the reference's own tokens before
 * it. f32 kernels are judged by the first rule, int8 activations by the
 * second.
 *
 *   INFER_MODEL    the model file
 *   INFER_GOLDEN   the directory with greedy.jsonl
 *   INFER_ISA      judge this level alone
 *   INFER_FULL     judge ref-q8 on all cases too; by default it gets short
 *                  ones of 100 rows in total, where it must give the bits of
 *                  a fast level, which is judged on all
 */

#include "model/model.h"
#include "tap.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <math.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define MAX_ROWS   1024
#define MAX_OUTS   64
#define MAX_CASES  64
#define TOP        6
#define REF_ROWS   100

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED  1              /* short cases and fast levels only */
#else
#define SANITIZED  0
#endif

typedef struct {
    uint32_t  n_prompt, n_tokens;
    int32_t   ids[MAX_ROWS];              /* prompt, then tokens */
    int32_t   top_id[MAX_OUTS][TOP];
    double    top_lp[MAX_OUTS][TOP];
} golden_t;

typedef struct {
    uint32_t  positions, equal, wrong;    /* wrong: beyond the margin */
    uint32_t  n_diff;
    double    sum, worst, diff[MAX_CASES * MAX_OUTS * TOP];
} score_t;

/* Hashes of each case's logits on the level that ran last; 0: not run. */
typedef struct {
    uint32_t  numerics;
    char      isa[32];
    uint64_t  hash[MAX_CASES];
} bits_t;


/* One line of greedy.jsonl; 0 when it is not as expected. */
static int
golden_parse(const char *line, golden_t *g)
{
    json_t *root = json_loads(line, 0, NULL);
    json_t *prompt = json_object_get(root, "prompt");
    json_t *tokens = json_object_get(root, "tokens");
    json_t *top = json_object_get(root, "top");
    size_t p = json_array_size(prompt), n = json_array_size(tokens);
    int good = p > 0 && n > 0 && n <= MAX_OUTS && p + n <= MAX_ROWS
               && json_array_size(top) == n;

    g->n_prompt = (uint32_t) p;
    g->n_tokens = (uint32_t) n;

    for (size_t i = 0; good && i < p + n; i++) {
        json_t *v = i < p ? json_array_get(prompt, i)
                    : json_array_get(tokens, i - p);

        g->ids[i] = (int32_t) json_integer_value(v);
    }

    for (size_t i = 0; good && i < n * TOP; i++) {
        json_t *pair = json_array_get(json_array_get(top, i / TOP), i % TOP);

        good = json_array_size(pair) == 2;
        g->top_id[i / TOP][i % TOP] =
            (int32_t) json_integer_value(json_array_get(pair, 0));
        g->top_lp[i / TOP][i % TOP] =
            json_number_value(json_array_get(pair, 1));
    }

    json_decref(root);

    return good;
}


static uint32_t
golden_read(const char *dir, golden_t *g)
{
    static char line[1 << 18];
    char path[4096];
    uint32_t n = 0;

    (void) snprintf(path, sizeof(path), "%s/greedy.jsonl", dir);

    FILE *f = fopen(path, "r");

    if (f == NULL) {
        diag("\"%s\": %s", path, strerror(errno));
        return 0;
    }

    while (n < MAX_CASES && fgets(line, sizeof(line), f) != NULL) {
        if (!golden_parse(line, &g[n++])) {
            diag("line %u is not as expected", n);
            n = 0;
            break;
        }
    }

    fclose(f);

    return n;
}


static void
score_row(score_t *s, const golden_t *g, uint32_t i, const float *logits,
    uint32_t vocab, int32_t best, double tie)
{
    double max = logits[best < 0 ? 0 : best], sum = 0;
    double margin = g->top_lp[i][0] - g->top_lp[i][1];

    for (uint32_t v = 0; v < vocab; v++) {
        sum += exp((double) logits[v] - max);
    }

    s->positions++;
    s->equal += best == g->top_id[i][0];
    s->wrong += best != g->top_id[i][0] && margin > tie;

    for (int k = 0; k < TOP; k++) {
        double lp = logits[g->top_id[i][k]] - max - log(sum);
        double diff = fabs(lp - g->top_lp[i][k]);

        diff = isnan(diff) ? INFINITY : diff;
        s->diff[s->n_diff++] = diff;
        s->sum += diff;
        s->worst = diff > s->worst ? diff : s->worst;
    }
}


/* FNV-1a over the bits. */
static uint64_t
hash_row(uint64_t h, const float *row, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        uint32_t u;

        memcpy(&u, &row[i], sizeof(u));
        h = (h ^ u) * 0x100000001b3ull;
    }

    return h;
}


/* 0: the forward pass failed; else a hash of the logits. */
static uint64_t
score_case(score_t *s, const golden_t *g, infer_model_t *m, double tie)
{
    uint64_t hash = 0xcbf29ce484222325ull;

    static uint32_t pages[MAX_ROWS / KERN_PAGE_TOKENS];
    const kern_ops_t *ops = infer_model_ops(m);
    uint32_t out[MAX_OUTS], vocab = infer_model_info(m)->vocab;

    for (uint32_t i = 0; i < MAX_ROWS / KERN_PAGE_TOKENS; i++) {
        pages[i] = i;
        ops->kv_zero(infer_model_ctx(m), i);
    }

    for (uint32_t i = 0; i < g->n_tokens; i++) {
        out[i] = g->n_prompt - 1 + i;
    }

    const kern_seq_t seq = {
        .first_row = 0, .n_rows = g->n_prompt + g->n_tokens - 1, .pos0 = 0,
        .pages = pages
    };
    const kern_batch_t batch = {
        .n_rows = seq.n_rows, .token = g->ids, .n_seqs = 1, .seq = &seq,
        .n_outs = g->n_tokens, .out_row = out
    };

    if (infer_model_forward(m, &batch) != INFER_OK) {
        return 0;
    }

    for (uint32_t i = 0; i < g->n_tokens; i++) {
        const float *l = ops->logits(infer_model_ctx(m), i);

        score_row(s, g, i, l, vocab, ops->argmax(l, vocab), tie);
        hash = hash_row(hash, l, vocab);
    }

    return hash | 1;
}


static int
by_value(const void *one, const void *two)
{
    const double *a = one, *b = two;

    return (*a > *b) - (*a < *b);
}


/* Row 1 of the rules' table for f32, row 2 for the others. */
static void
judge(score_t *s, const char *isa, int f32)
{
    qsort(s->diff, s->n_diff, sizeof(double), by_value);

    double mean = s->sum / s->n_diff;
    double p95 = s->diff[(size_t) (0.95 * (s->n_diff - 1))];
    double share = (double) s->equal / s->positions;

    diag("%s: %u positions, %.2f %% equal, logprobs: mean %.4f, 95 %% "
         "%.4f, worst %.4f", isa, s->positions, 100 * share, mean, p95,
         s->worst);
    ok(s->wrong == 0, "%s: equal where the margin is over %s (%u are not)",
       isa, f32 ? "0.02" : "0.5", s->wrong);

    if (f32) {
        ok(s->worst <= 0.02, "%s: each logprob within 0.02", isa);
        return;
    }

    ok(share >= 0.95, "%s: equal at 95 %% of the positions", isa);
    ok(mean <= 0.11, "%s: mean difference at most 0.11", isa);
    ok(p95 <= 0.31, "%s: 95th percentile at most 0.31", isa);
}


static infer_model_t *
load(int fd, const kern_ops_t *ops, uint32_t kv, infer_err_t *err)
{
    long cpus = sysconf(_SC_NPROCESSORS_ONLN);
    const infer_model_conf_t conf = {
        .context = MAX_ROWS, .max_rows = MAX_ROWS, .max_outs = MAX_OUTS,
        .max_seqs = 1, .n_pages = MAX_ROWS / KERN_PAGE_TOKENS,
        .kv_type = kv,
        .n_threads = cpus > 0 && cpus < KERN_MAX_THREADS ? (uint32_t) cpus
                     : 1
    };
    infer_gguf_t *g = NULL;
    infer_model_t *m = NULL;

    if (infer_gguf_open(&g, fd, err) == INFER_OK) {
        (void) infer_model_load(&m, g, ops, &conf, err);
    }

    infer_gguf_close(g);

    return m;
}


/* Runs the cases that fit into the budget of rows; their number, or -1. */
static int
score_all(score_t *s, const golden_t *g, uint32_t n, infer_model_t *m,
    double tie, uint32_t budget, uint64_t *hash)
{
    int ran = 0;

    memset(hash, 0, MAX_CASES * sizeof(*hash));

    for (uint32_t i = 0; i < n; i++) {
        uint32_t rows = g[i].n_prompt + g[i].n_tokens - 1;

        if (rows > budget) {
            continue;
        }

        hash[i] = score_case(s, &g[i], m, tie);
        if (hash[i] == 0) {
            return -1;
        }

        budget -= rows;
        ran++;
    }

    return ran;
}


/* Logits of a level with the same numerics id have the same bits. */
static int
same_bits(const bits_t *a, const bits_t *b)
{
    int equal = 1;

    for (int i = 0; i < MAX_CASES; i++) {
        equal &= a->hash[i] == 0 || b->hash[i] == 0
                 || a->hash[i] == b->hash[i];
    }

    return equal;
}


/* Runs a level; prev is the one before it, and takes this one's bits. */
static void
test_level(int fd, const char *level, uint32_t kv, const golden_t *g,
    uint32_t n, bits_t *prev)
{
    infer_err_t err = { 0, "" };
    const kern_ops_t *ops = kern_init("cpu", level, &err);
    char isa[32];
    int f32 = strcmp(level, "ref") == 0, ran = -1;
    struct timespec t0, t1;
    bits_t bits = { 0 };

    (void) snprintf(isa, sizeof(isa), "%s%s%s", level, kv ? " kv " : "",
                    kv ? kern_kv_name(kv) : "");

    if (ops == NULL) {
        ok(1, "%s # SKIP %s", isa, err.text);
        return;
    }

    (void) snprintf(bits.isa, sizeof(bits.isa), "%s", isa);
    bits.numerics = kern_numerics(ops, kv);

    int known = prev->numerics == bits.numerics, whole = 1;

    if (getenv("INFER_FULL") == NULL && known) {
        whole = strncmp(isa, "ref", 3) != 0;
    }

    whole &= !SANITIZED;

    clock_gettime(CLOCK_MONOTONIC, &t0);

    infer_model_t *m = load(fd, ops, kv, &err);
    score_t *s = calloc(1, sizeof(*s));

    if (m != NULL && s != NULL) {
        ran = score_all(s, g, n, m, f32 ? 0.02 : 0.5,
                        whole ? UINT32_MAX : REF_ROWS, bits.hash);
    }

    clock_gettime(CLOCK_MONOTONIC, &t1);

    if (ok(ran > 0, "%s: runs %d of %u cases %s", isa, ran, n, err.text)) {
        if (f32 || whole) {
            judge(s, isa, f32);
        }

        if (known) {
            ok(same_bits(&bits, prev), "%s: same bits as %s", isa,
               prev->isa);
        }

        diag("%s took %ld s", isa, (long) (t1.tv_sec - t0.tv_sec));
        *prev = bits;
    }

    infer_model_free(m);
    free(s);
}


int
main(void)
{
    static const char *const isa[] = { "avx512", "avx2", "ref-q8", "ref" };
    static golden_t golden[MAX_CASES];
    bits_t prev = { 0 };
    const char *path = getenv("INFER_MODEL"), *dir = getenv("INFER_GOLDEN");
    const char *only = getenv("INFER_ISA");

    path = path ? path : "models/SmolLM2-135M-Instruct.Q4_1.gguf";
    dir = dir ? dir : "t/golden/smollm2";

    int fd = open(path, O_RDONLY | O_CLOEXEC);

    if (fd < 0) {
        printf("1..0 # SKIP no model file \"%s\": make model fetches it\n",
               path);
        return 0;
    }

    uint32_t n = golden_read(dir, golden);

    ok(n > 0, "golden data in %s", dir);

    for (size_t i = 0; n > 0 && i < sizeof(isa) / sizeof(isa[0]); i++) {
        if (only != NULL && strcmp(only, isa[i]) != 0) {
            continue;
        }

        if (SANITIZED && isa[i][0] == 'r') {
            ok(1, "%s # SKIP too slow under a sanitizer", isa[i]);
            continue;
        }

        test_level(fd, isa[i], KERN_KV_F16, golden, n, &prev);
    }

    for (uint32_t kv = 1; n > 0 && only == NULL && kv < KERN_N_CPU_KV;
         kv++)
    {
        for (size_t i = 0; i < (SANITIZED ? 2 : 3); i++) {
            test_level(fd, isa[i], kv, golden, n, &prev);
        }
    }

    close(fd);

    return tap_done();
}
