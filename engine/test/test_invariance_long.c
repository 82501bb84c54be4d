/*
 * test_invariance_long.c: batch invariance at the lengths of real requests.
 * Six requests of 5 to 2,000 tokens run alone, in batches of 2, 7, 16 and 32,
 * in chunks of 1, 33 and 512, on 1 and 2 threads, with f16, bf16 and q8
 * pages, after a hit in known pages and after a preemption (with the real
 * scheduler and KV store), on every level of this machine: the bits of their
 * logits are those of a run alone and whole, and levels with equal numerics
 * ids agree with each other.
 */

#include "levels.h"
#include "model/model.h"
#include "run/sched.h"
#include "tap.h"
#include "tool/tiny_gguf.h"

#include <math.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SHORT  1                  /* everything is ten times slower */
#else
#define SHORT  0
#endif

/* Fillers are there to make batches larger; nobody looks at them. */
enum {
    N_REQ = 6, N_SEQ = 32, LONGEST = 2000, FILLER = 40, STRIDE = 61,
    OUTS = 3 * N_REQ + 3100 / STRIDE, PAGES = 512, MAX_ROWS = 600,
    SEQ_PAGES = LONGEST / KERN_PAGE_TOKENS + 1, ROOM = 2016,
    TIGHT = SHORT ? 20 : 80       /* pages that hold all prompts, no more */
};

static const uint32_t  len[N_REQ] = { 5, 127, 128, 129, SHORT ? 200 : 700,
                                      SHORT ? 300 : LONGEST };

typedef struct {
    infer_model_t     *m;
    const kern_ops_t  *ops;
    uint32_t           vocab;
    uint32_t           page[N_SEQ][SEQ_PAGES];
    uint32_t           fed[N_SEQ];
    int32_t            token[N_REQ][LONGEST];
    /* the batch being made */
    int32_t            row[MAX_ROWS];
    uint32_t           n_rows, n_seqs, n_outs;
    kern_seq_t         seq[N_SEQ];
    uint32_t           out_row[MAX_ROWS];
    float             *out_to[MAX_ROWS];
    /* of the scheduler's runs */
    infer_kv_t         kv;
    infer_sched_t      sched;
    infer_sched_seq_t  q[N_REQ];
} run_t;


static uint32_t
seq_len(uint32_t s)
{
    return s < N_REQ ? len[s] : FILLER + s;
}

static int32_t
token_of(uint32_t s, uint32_t pos, uint32_t vocab)
{
    return (int32_t) (((s * 7919 + pos) * 2654435761u >> 7) % vocab);
}

/* Which of the logits kept is that of position pos of request s; -1: none.
 * Kept are every 61st position and the last two. */
static int
out_index(uint32_t s, uint32_t pos)
{
    uint32_t  i, at = 0, n;

    if (s >= N_REQ) {
        return -1;
    }
    for (i = 0; i < s; i++) {
        at += (len[i] - 1) / STRIDE + 3;
    }
    n = (len[s] - 1) / STRIDE + 1;
    if (pos + 2 >= len[s]) {
        return (int) (at + n + len[s] - 1 - pos);
    }
    return pos % STRIDE == 0 ? (int) (at + pos / STRIDE) : -1;
}

static int
open_model(run_t *r, const kern_ops_t *ops, uint32_t kv_type,
    uint32_t threads)
{
    tiny_conf_t  conf = tiny_default;
    infer_err_t  err = { 0, "" };
    size_t       bytes = 0;
    void        *file;
    int          fd = memfd_create("model", MFD_CLOEXEC);
    infer_gguf_t              *g = NULL;
    const infer_model_conf_t   mc = {
        .context = ROOM, .max_rows = MAX_ROWS, .max_outs = MAX_ROWS,
        .max_seqs = N_SEQ, .n_pages = PAGES, .kv_type = kv_type,
        .n_threads = threads
    };

    conf.L = 2;
    conf.V = 300;
    file = tiny_build(&conf, &bytes);
    r->ops = ops;
    r->m = NULL;
    if (file == NULL || fd < 0 || pwrite(fd, file, bytes, 0)
                                  != (ssize_t) bytes
        || infer_gguf_open(&g, fd, &err) != INFER_OK
        || infer_model_load(&r->m, g, ops, &mc, &err) != INFER_OK)
    {
        diag("%s", err.text);
    }
    infer_gguf_close(g);
    close(fd);
    free(file);
    r->vocab = conf.V;
    return r->m != NULL;
}

static void
add_rows(run_t *r, uint32_t s, uint32_t pos, uint32_t n,
    const uint32_t *pages, float *logits)
{
    uint32_t  i;
    int       o;

    r->seq[r->n_seqs++] = (kern_seq_t) {
        .first_row = r->n_rows, .n_rows = n, .pos0 = pos, .pages = pages
    };
    for (i = 0; i < n; i++) {
        o = out_index(s, pos + i);
        if (o >= 0) {
            r->out_to[r->n_outs] = logits + (size_t) o * r->vocab;
            r->out_row[r->n_outs++] = r->n_rows;
        }
        r->row[r->n_rows++] = token_of(s, pos + i, r->vocab);
    }
}

static int
run_batch(run_t *r)
{
    uint32_t            i;
    const kern_batch_t  batch = {
        .n_rows = r->n_rows, .token = r->row, .n_seqs = r->n_seqs,
        .seq = r->seq, .n_outs = r->n_outs, .out_row = r->out_row
    };
    int                 rc = infer_model_forward(r->m, &batch);

    for (i = 0; rc == INFER_OK && i < r->n_outs; i++) {
        memcpy(r->out_to[i], r->ops->logits(infer_model_ctx(r->m), i),
               r->vocab * sizeof(float));
    }
    r->n_rows = r->n_seqs = r->n_outs = 0;
    return rc == INFER_OK;
}

/* Fresh pages, in an order of this run's own. */
static void
take_pages(run_t *r, uint32_t shift)
{
    uint32_t  i, s, p, at = 0;

    for (i = 0; i < PAGES; i++) {
        r->ops->kv_zero(infer_model_ctx(r->m), i);
    }
    for (s = 0; s < N_SEQ; s++) {
        for (p = 0; p < infer_kv_pages(seq_len(s)); p++) {
            r->page[s][p] = (at++ * 7 + shift) % PAGES;
        }
    }
}

/* Sequences first .. end - 1 together, `chunk` tokens of each in a step as
 * long as there are rows. */
static int
run_together(run_t *r, uint32_t first, uint32_t end, uint32_t chunk,
    float *logits)
{
    uint32_t  s, n, left;

    memset(r->fed, 0, sizeof(r->fed));
    do {
        left = 0;
        for (s = first; s < end; s++) {
            n = seq_len(s) - r->fed[s];
            n = n < chunk ? n : chunk;
            if (n > 0 && r->n_rows + n <= MAX_ROWS) {
                add_rows(r, s, r->fed[s], n, r->page[s], logits);
                r->fed[s] += n;
            }
            left += seq_len(s) - r->fed[s];
        }
        if (r->n_rows > 0 && !run_batch(r)) {
            return 0;
        }
    } while (left > 0);
    return 1;
}

/* All requests in batches of n sequences. */
static int
run_batches(run_t *r, uint32_t n, uint32_t chunk, float *logits)
{
    uint32_t  s;
    int       good = 1;

    take_pages(r, n + chunk);
    if (n >= N_REQ) {
        return run_together(r, 0, n, chunk, logits);
    }
    for (s = 0; s < N_REQ; s += n) {
        good &= run_together(r, s, s + n, chunk, logits);
    }
    return good;
}

static size_t
logits_bytes(const run_t *r)
{
    return (size_t) (out_index(N_REQ - 1, len[N_REQ - 1] - 2) + 1)
           * r->vocab * sizeof(float);
}

static int
same(const run_t *r, const float *want, float *got)
{
    int  good = memcmp(want, got, logits_bytes(r)) == 0;

    memset(got, 0xff, logits_bytes(r));
    return good;
}

/* ---- with the scheduler ---- */

static void
sched_open(run_t *r, uint32_t n_pages)
{
    uint32_t                  s, i;
    const infer_sched_conf_t  conf = { .max_seqs = N_REQ, .max_waiting = 16,
                                       .batch_tokens = 512 };

    memset(&r->sched, 0, sizeof(r->sched));
    memset(r->q, 0, sizeof(r->q));
    for (i = 0; i < PAGES; i++) {
        r->ops->kv_zero(infer_model_ctx(r->m), i);
    }
    if (infer_kv_init(&r->kv, n_pages, NULL) != INFER_OK
        || infer_sched_init(&r->sched, &conf, &r->kv) != INFER_OK)
    {
        printf("Bail out! no memory\n");
        exit(1);
    }
    for (s = 0; s < N_REQ; s++) {
        for (i = 0; i < len[s]; i++) {
            r->token[s][i] = token_of(s, i, r->vocab);
        }
    }
}

/* The last half, or 300 tokens, are output, known beforehand. */
static void
sched_add(run_t *r, uint32_t s, uint32_t ticket)
{
    infer_sched_seq_t  *q = &r->q[s];

    memset(q, 0, sizeof(*q));
    q->ticket = ticket;
    q->n_known = len[s] - (len[s] < 600 ? len[s] / 2 : 300);
    q->max_known = len[s] + 1;
    q->key.token = r->token[s];
    (void) infer_kv_table_init(&q->table, ROOM);
    (void) infer_sched_add(&r->sched, q);
}

static void
sched_end(run_t *r, uint32_t s)
{
    infer_sched_remove(&r->sched, &r->q[s]);
    infer_kv_table_done(&r->q[s].table);
}

/* One step as step.c does it; 0: nothing to do or failed. */
static int
sched_step(run_t *r, float *logits)
{
    uint32_t                  i, p, s;
    infer_plan_item_t         item[N_REQ];
    infer_plan_t              plan = { .item = item };
    const infer_plan_item_t  *it;

    infer_sched_plan(&r->sched, &plan);
    for (i = 0; i < plan.n_items; i++) {
        it = &item[i];
        s = (uint32_t) (it->seq - r->q);
        for (p = it->pos0 / KERN_PAGE_TOKENS;
             p <= (it->pos0 + it->n_rows - 1) / KERN_PAGE_TOKENS; p++)
        {
            if (infer_kv_needs_zero(&r->kv, it->seq->table.page[p])) {
                r->ops->kv_zero(infer_model_ctx(r->m),
                                it->seq->table.page[p]);
            }
        }
        add_rows(r, s, it->pos0, it->n_rows, it->seq->table.page, logits);
    }
    if (plan.n_items == 0 || !run_batch(r)) {
        return 0;
    }

    infer_sched_launched(&r->sched, &plan);
    infer_sched_ran(&r->sched, &plan, 1000);
    for (i = 0; i < plan.n_items; i++) {
        s = (uint32_t) (item[i].seq - r->q);
        if (item[i].sample && r->q[s].n_known == len[s]) {
            sched_end(r, s);
        } else if (item[i].sample) {
            r->q[s].n_known++;
            r->q[s].has_output = 1;
        }
    }
    return 1;
}

/* All requests, longest first or last; returns whether all came to an end. */
static int
sched_run(run_t *r, int longest_first, float *logits)
{
    uint32_t  i, left = 0;

    for (i = 0; i < N_REQ; i++) {
        sched_add(r, longest_first ? N_REQ - 1 - i : i, i);
    }
    while (sched_step(r, logits)) {
        continue;
    }
    for (i = 0; i < N_REQ; i++) {
        left += r->q[i].state != INFER_SEQ_NONE;
    }
    return left == 0;
}

static void
sched_close(run_t *r)
{
    infer_sched_done(&r->sched);
    infer_kv_done(&r->kv);
}

/* The second time, full pages are known, and their logits not computed. */
static void
test_hit(run_t *r, const char *what, const float *want, float *got)
{
    uint32_t  s, cached = 0;
    int       good;

    sched_open(r, PAGES);
    good = sched_run(r, 0, got) && memcmp(want, got, logits_bytes(r)) == 0;
    for (s = 0; s < N_REQ; s++) {
        memset(got + (size_t) out_index(s, len[s] - 1) * r->vocab, 0xff,
               2 * r->vocab * sizeof(float));
    }
    good &= sched_run(r, 1, got) && same(r, want, got);
    for (s = 0; s < N_REQ; s++) {
        cached += r->q[s].n_cached;
    }
    ok(good && cached > len[N_REQ - 1] / 2, "%s: after a hit of %u tokens",
       what, cached);
    sched_close(r);
}

static void
test_preempted(run_t *r, const char *what, const float *want, float *got)
{
    int       good;
    uint32_t  n;

    sched_open(r, TIGHT);
    good = sched_run(r, 0, got) && same(r, want, got);
    n = r->sched.preemptions;
    ok(good && n > 0, "%s: after %u preemptions", what, n);
    sched_close(r);
}

/* ---- levels ---- */

static void
test_batches(run_t *r, const char *what, int few, const float *want,
    float *got)
{
    static const uint32_t  batch[] = { 1, 2, 7, 16, N_SEQ };
    static const uint32_t  chunk[] = { 1, 33, 512 };
    uint32_t               i, c;
    int                    good;

    for (i = 0; i < sizeof(batch) / sizeof(batch[0]); i++) {
        good = 1;
        for (c = 0; c < sizeof(chunk) / sizeof(chunk[0]); c++) {
            if (few && (batch[i] != 7 || chunk[c] != 33)) {
                continue;
            }
            good &= run_batches(r, batch[i], chunk[c], got)
                    && same(r, want, got);
        }
        if (!few || batch[i] == 7) {
            ok(good, "%s: %s%u together, chunks of %s", what,
               batch[i] == 1 ? "alone, " : "", batch[i],
               few ? "33" : "1, 33, 512");
        }
    }
}

/* want: filled by 1 thread, alone and whole. */
static void
test_level(run_t *r, const kern_ops_t *ops, uint32_t kv_type, float *want,
    float *got)
{
    char      what[64];
    uint32_t  threads;
    int       slow = strncmp(ops->name, "ref", 3) == 0;
    int       few = slow || (SHORT && kv_type == KERN_KV_BF16);

    for (threads = 1; threads <= 2; threads++) {
        snprintf(what, sizeof(what), "%s, kv %s, %u thread%s", ops->name,
                 kern_kv_name(kv_type), threads, threads > 1 ? "s" : "");
        if (!open_model(r, ops, kv_type, threads)) {
            ok(0, "%s: loads", what);
            return;
        }
        if (threads == 1) {
            memset(got, 0xff, logits_bytes(r));
            ok(run_batches(r, 1, 512, want)
               && isfinite(want[0])
               && isfinite(want[logits_bytes(r) / sizeof(float) - 1]),
               "%s: alone and whole", what);
        }
        if (threads == 2 || !slow) {
            test_batches(r, what, few || (SHORT && threads == 1), want, got);
            test_hit(r, what, want, got);
            test_preempted(r, what, want, got);
        }
        infer_model_free(r->m);
    }
}

int
main(void)
{
    size_t             n = (size_t) OUTS * 300 * sizeof(float);
    float             *want[TEST_N_LEVELS][KERN_N_CPU_KV] = { 0 };
    float             *got = malloc(n);
    const kern_ops_t  *ops[TEST_N_LEVELS];
    infer_err_t        err;
    run_t             *r = calloc(1, sizeof(*r));
    size_t             i, j;
    uint32_t           t;

    for (i = 0; i < TEST_N_LEVELS; i++) {
        err = (infer_err_t) { 0, "" };
        ops[i] = kern_init("cpu", test_levels[i], &err);
        if (ops[i] == NULL) {
            ok(1, "%s # SKIP %s", test_levels[i], err.text);
            continue;
        }
        for (t = 0; t < KERN_N_CPU_KV; t++) {
            want[i][t] = calloc(1, n);
            if (want[i][t] == NULL || got == NULL || r == NULL) {
                printf("Bail out! no memory\n");
                return 1;
            }
            test_level(r, ops[i], t, want[i][t], got);
            for (j = 0; j < i; j++) {
                if (ops[j] != NULL && ops[j]->numerics == ops[i]->numerics) {
                    ok(memcmp(want[i][t], want[j][t], n) == 0,
                       "%s equals %s, kv %s", test_levels[i], test_levels[j],
                       kern_kv_name(t));
                }
            }
        }
    }
    for (i = 0; i < TEST_N_LEVELS; i++) {
        for (t = 0; t < KERN_N_CPU_KV; t++) {
            free(want[i][t]);
        }
    }
    free(got);
    free(r);
    return tap_done();
}
