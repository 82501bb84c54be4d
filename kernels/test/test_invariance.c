/*
 * test_invariance.c: the promise of DESIGN.md 4. A random model run through
 * the outer table; the logits of every token must have the same bits whether
 * its prompt comes in chunks of 1, 33 or whole, alone or beside others, on
 * 1 or 2 threads, with each type of KV pages, and on every q8 level. A NaN
 * stays in its sequence.
 */

#include "kern_model.h"

enum { V = 100, LEN = 140, N_SEQ = 3, N_ALL = 16, MAX_ROWS = N_ALL * LEN };

static const kern_shape_t  shape = {
    .n_layers = MODEL_LAYERS, .dim = 96, .n_heads = 6, .n_kv_heads = 2,
    .head_dim = 32, .ffn = 160, .vocab = V, .rope_dim = 32,
    .rope_attn_scale = 1, .eps = 1e-5f, .max_rows = MAX_ROWS,
    .max_outs = MAX_ROWS, .max_seqs = N_ALL, .context = 320, .n_pages = 96
};

static int32_t   tokens[N_ALL][LEN];
static uint32_t  pages[N_ALL][6];


/* Runs n_seq sequences, each advancing by chunk tokens a step, and collects
 * the logits of sequence `which` into out [LEN, V]. */
static int
collect(test_run_t *r, uint32_t which, uint32_t n_seq, uint32_t chunk,
    float *out)
{
    int32_t       tok[MAX_ROWS];
    uint32_t      rows[MAX_ROWS], pos, s, i, n, at, first, sq;
    kern_seq_t    seq[N_ALL];
    kern_batch_t  b = { .token = tok, .seq = seq, .out_row = rows };

    for (pos = 0; pos < LEN; pos += n) {
        n = LEN - pos < chunk ? LEN - pos : chunk;
        at = first = 0;
        for (s = 0; s < n_seq; s++) {
            sq = n_seq == 1 ? which : s;
            first = sq == which ? at : first;
            seq[s] = (kern_seq_t) { .first_row = at, .n_rows = n,
                                    .pos0 = pos, .pages = pages[sq] };
            for (i = 0; i < n; i++) {
                tok[at++] = tokens[sq][pos + i];
            }
        }
        b.n_rows = at;
        b.n_seqs = n_seq;
        b.n_outs = n;
        for (i = 0; i < n; i++) {
            rows[i] = first + n - 1 - i;      /* any order */
        }
        if (test_step(r, &b) != INFER_OK) {
            return 0;
        }
        for (i = 0; i < n; i++) {
            memcpy(out + (size_t) (pos + n - 1 - i) * V,
                   r->ops->logits(r->c, i), V * sizeof(float));
        }
    }
    return 1;
}

static int
sane(const float *x, size_t n)
{
    size_t  i, differ = 0;

    for (i = 0; i < n; i++) {
        if (!isfinite(x[i])) {
            return 0;
        }
        differ += i > 0 && x[i] != x[i - 1];
    }
    return differ > n / 2;
}

/* base: what everything is compared with; filled by the first call. */
static void
check_level(const test_model_t *m, const char *isa, float *base, int *have)
{
    static const uint32_t  chunks[] = { 1, 33, LEN };
    int                    slow = strncmp(isa, "ref", 3) == 0;
    size_t                 n = (size_t) LEN * V;
    float                 *x = malloc(n * sizeof(float));
    uint32_t               threads, c, seqs;
    test_run_t             r;
    int                    good;

    if (cpu_inner(isa) == NULL) {
        ok(1, "%s # SKIP not on this machine", isa);
        free(x);
        return;
    }
    for (threads = 1; threads <= 2; threads++) {
        r = test_open(m, isa, threads);
        for (c = 0; c < 3; c++) {
            for (seqs = 1; seqs <= N_SEQ; seqs += N_SEQ - 1) {
                if (slow && (seqs == 1) != (threads == 1)) {
                    continue;
                }
                good = collect(&r, 1, seqs, chunks[c], x) && sane(x, n);
                if (!*have) {
                    memcpy(base, x, n * sizeof(float));
                    *have = 1;
                }
                ok(good && memcmp(base, x, n * sizeof(float)) == 0,
                   "%s: %u threads, chunks of %u, %u sequences", isa,
                   threads, chunks[c], seqs);
            }
        }
        test_close(&r);
    }
    free(x);
}

/* Batches of 2, 7 and 16 against a sequence alone, for a type of pages.
 * base as above. */
static void
check_kv(const test_model_t *like, const char *isa, uint32_t type,
    float *base, int *have)
{
    static const uint32_t  seqs[] = { 1, 2, 7, 16 }, chunks[] = { 1, 33, LEN };
    size_t                 n = (size_t) LEN * V;
    float                 *x = malloc(n * sizeof(float));
    test_model_t           m = *like;
    uint32_t               i, c, threads;
    test_run_t             r;
    int                    slow = strncmp(isa, "ref", 3) == 0, good = 1;

    if (cpu_inner(isa) == NULL) {
        ok(1, "%s # SKIP not on this machine", isa);
        free(x);
        return;
    }
    m.shape.kv_type = type;
    for (threads = 1; threads <= 2; threads++) {
        r = test_open(&m, isa, threads);
        for (i = 0; i < 4; i++) {
            for (c = 0; c < 3; c++) {
                if (slow && (i > 1 || (c + threads) % 3 != i)) {
                    continue;
                }
                good &= collect(&r, 1, seqs[i], chunks[c], x) && sane(x, n);
                if (!*have) {
                    memcpy(base, x, n * sizeof(float));
                    *have = 1;
                }
                good &= memcmp(base, x, n * sizeof(float)) == 0;
            }
        }
        test_close(&r);
    }
    ok(good, "%s: kv %s, batches of 1, 2, 7, 16 in chunks", isa,
       kern_kv_name(type));
    free(x);
}

static void
check_kv_types(const test_model_t *m, float *base)
{
    size_t    n = (size_t) LEN * V;
    float    *f16 = malloc(n * sizeof(float));
    uint32_t  type;
    int       have;

    for (type = 0; type < KERN_N_CPU_KV; type++) {
        have = 0;
        check_kv(m, "ref", type, base, &have);
        have = 0;
        check_kv(m, "ref-q8", type, base, &have);
        check_kv(m, "avx2", type, base, &have);
        check_kv(m, "avx512", type, base, &have);
        if (type == KERN_KV_F16) {
            memcpy(f16, base, n * sizeof(float));
        } else {
            ok(memcmp(f16, base, n * sizeof(float)) != 0, "kv %s differs",
               kern_kv_name(type));
        }
    }
    free(f16);
}

/* 300 tokens whole on one thread against steps of one token at the end,
 * with attention split into chunks over four threads. */
static void
check_split(const test_model_t *m, const char *isa)
{
    enum { LONG = 300, TAIL = 4 };
    int32_t       tok[LONG];
    uint32_t      page[10], rows[TAIL], i;
    float         x[TAIL * V];
    kern_seq_t    seq = { 0, LONG, 0, page };
    kern_batch_t  b = { LONG, tok, 1, &seq, TAIL, rows };
    test_run_t    r;
    int           good;

    if (cpu_inner(isa) == NULL) {
        ok(1, "%s # SKIP not on this machine", isa);
        return;
    }
    r = test_open(m, isa, 1);
    for (i = 0; i < LONG; i++) {
        tok[i] = tokens[i % N_SEQ][i / N_SEQ];
    }
    for (i = 0; i < 10; i++) {
        page[i] = 23 - 2 * i;
    }
    for (i = 0; i < TAIL; i++) {
        rows[i] = LONG - TAIL + i;
    }
    good = test_step(&r, &b) == INFER_OK;
    memcpy(x, r.ops->logits(r.c, 0), sizeof(x));
    test_close(&r);

    r = test_open(m, isa, 4);
    seq.n_rows = b.n_rows = LONG - TAIL;
    b.n_outs = 0;
    good &= test_step(&r, &b) == INFER_OK;
    for (i = 0; i < TAIL; i++) {
        seq.n_rows = b.n_rows = b.n_outs = 1;
        seq.pos0 = LONG - TAIL + i;
        b.token = tok + seq.pos0;
        rows[0] = 0;
        good &= test_step(&r, &b) == INFER_OK;
        good &= r.c->n_chunks == 3;
        good &= memcmp(x + i * V, r.ops->logits(r.c, 0), V * sizeof(float))
                == 0;
    }
    ok(good && sane(x, TAIL * V), "%s: attention split over threads", isa);
    test_close(&r);
}

/* Shapes off the beaten path: heads that are not whole blocks, more queries
 * of a kv head than one call takes, widths of less than a stripe. */
static void
check_shapes(void)
{
    static const uint32_t  dims[][7] = {
        /* dim, heads, kv heads, head, ffn, rope, type */
        { 32, 4, 4, 24, 32, 24, KERN_Q4_1 },
        { 64, 16, 1, 2, 96, 2, KERN_Q8_0 },
        { 32, 26, 2, 16, 128, 8, KERN_Q4_0 },
        { 96, 2, 1, 80, 64, 80, KERN_Q5_1 },
        { 160, 1, 1, 128, 224, 64, KERN_BF16 }
    };
    size_t                 n = (size_t) LEN * V;
    float                 *x = malloc(2 * n * sizeof(float)), *y = x + n;
    uint32_t               i, l, k, types[8];
    kern_shape_t           s = shape;
    test_model_t           m;
    test_run_t             r;
    int                    good;

    for (i = 0; i < sizeof(dims) / sizeof(dims[0]); i++) {
        s.dim = dims[i][0];
        s.n_heads = dims[i][1];
        s.n_kv_heads = dims[i][2];
        s.head_dim = dims[i][3];
        s.ffn = dims[i][4];
        s.rope_dim = dims[i][5];
        for (k = 0; k < 8; k++) {
            types[k] = dims[i][6];
        }
        m = test_model(s, types);
        r = test_open(&m, "ref-q8", 1);
        good = collect(&r, 1, 1, LEN, x) && sane(x, n);
        test_close(&r);
        ok(good, "shape %u: ref-q8 runs", i);
        for (l = 0; l < TEST_N_FAST; l++) {
            if (cpu_inner(test_fast[l]) == NULL) {
                continue;
            }
            r = test_open(&m, test_fast[l], 3);
            good = collect(&r, 1, N_SEQ, 5, y);
            ok(good && memcmp(x, y, n * sizeof(float)) == 0,
               "shape %u: %s, 3 threads, chunks of 5", i, test_fast[l]);
            test_close(&r);
        }
        test_model_free(&m);
    }
    free(x);
}

/* One sequence's embedding holds a NaN: the others keep their bits. */
static void
check_nan(test_model_t *m, const char *isa)
{
    size_t      n = (size_t) LEN * V, i, at = 99 * m->embd.row_bytes;
    float      *x = malloc(2 * n * sizeof(float)), *y = x + n;
    test_run_t  r = test_open(m, isa, 2);
    uint8_t     keep[2];
    int         good, nan = 1;

    good = collect(&r, 1, N_SEQ, 33, x);
    test_close(&r);

    memcpy(keep, m->embd.raw + at, 2);
    memcpy(m->embd.raw + at, "\x00\x7e", 2);    /* token 99: a NaN scale */
    tokens[0][3] = 99;
    r = test_open(m, isa, 2);
    good &= collect(&r, 1, N_SEQ, 33, y);
    for (i = 0; i < n; i++) {                   /* its own logit is NaN */
        good &= i % V == 99 || memcmp(&x[i], &y[i], sizeof(float)) == 0;
    }
    ok(good, "%s: a NaN in one sequence leaves the others alone", isa);
    collect(&r, 0, 1, LEN, y);
    for (i = 3 * V; i < n; i++) {
        nan &= isnan(y[i]);
    }
    ok(nan && isfinite(y[0]), "%s: and fails its own", isa);
    test_close(&r);
    memcpy(m->embd.raw + at, keep, 2);
    tokens[0][3] = 0;
    free(x);
}

static void
check_refused(const test_model_t *m)
{
    test_run_t    r = test_open(m, "ref", 2);
    int32_t       tok[4] = { 1, 2, 3, 4 };
    uint32_t      row = 0;
    kern_seq_t    s[2] = { { 0, 2, 0, pages[0] }, { 2, 2, 0, pages[1] } };
    kern_batch_t  b = { 4, tok, 2, s, 1, &row }, bad;

    ok(test_step(&r, &b) == INFER_OK, "a small batch");
    bad = b;
    bad.n_rows = 5;
    ok(test_step(&r, &bad) == INFER_INVALID, "rows without a sequence");
    bad = b;
    s[1].pos0 = 319;
    ok(test_step(&r, &bad) == INFER_INVALID, "position beyond the context");
    s[1].pos0 = 0;
    s[1].first_row = 1;
    ok(test_step(&r, &b) == INFER_INVALID, "overlapping sequences");
    s[1].first_row = 2;
    b.n_outs = MAX_ROWS + 1;
    ok(test_step(&r, &b) == INFER_INVALID, "too many outputs");
    ok(r.ops->submit(r.c) == INFER_INVALID, "submit without a batch");
    test_close(&r);
}

int
main(void)
{
    /* the file that we serve most, one mixed and one of floats */
    static const uint32_t  types[3][8] = {
        { KERN_Q4_1, KERN_Q4_1, KERN_Q4_1, KERN_Q4_1, KERN_Q4_1, KERN_Q4_1,
          KERN_Q4_1, KERN_Q8_0 },
        { KERN_Q4_0, KERN_Q5_0, KERN_F16, KERN_BF16, KERN_Q5_1, KERN_Q4_0,
          KERN_Q8_0, KERN_Q4_0 },
        { KERN_F32, KERN_F32, KERN_F32, KERN_F32, KERN_F16, KERN_BF16,
          KERN_F32, KERN_F16 }
    };
    float         *base = malloc((size_t) LEN * V * sizeof(float));
    test_model_t   m;
    uint32_t       i, s, l;
    int            have;

    test_seed();
    for (s = 0; s < N_ALL; s++) {
        for (i = 0; i < LEN; i++) {
            tokens[s][i] = (int32_t) test_below(V - 1);
        }
        for (i = 0; i < 6; i++) {
            pages[s][i] = (i * N_ALL + s) % 96;
        }
    }

    for (i = test_quick() ? 1 : 0; i < (test_quick() ? 2 : 3); i++) {
        diag("model %u: %s ...", i, kern_type_name(types[i][0]));
        m = test_model(shape, types[i]);
        have = 0;
        check_level(&m, "ref", base, &have);
        have = 0;
        check_level(&m, "ref-q8", base, &have);
        for (l = 0; l < TEST_N_FAST; l++) {
            check_level(&m, test_fast[l], base, &have);
        }
        if (i == 0) {
            check_kv_types(&m, base);
            check_split(&m, "ref-q8");
            check_split(&m, "avx512");
            m.shape.kv_type = KERN_KV_Q8;
            check_split(&m, "avx2");
            m.shape.kv_type = KERN_KV_F16;
            check_nan(&m, "ref");
            check_nan(&m, cpu_inner("avx512") != NULL ? "avx512" : "ref-q8");
            check_refused(&m);
        }
        test_model_free(&m);
    }
    check_shapes();
    free(base);
    return tap_done();
}
