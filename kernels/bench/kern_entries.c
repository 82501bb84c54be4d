/*
 * kern_entries.c: time of each entry of an inner table on one thread.
 *
 *   kern_entries [isa]        INFER_BENCH_MS=N time per row (default 60)
 *
 * Data lies in L2 mostly, so the limit that counts is arithmetic: % is of the
 * int8 rate of one core for quantized linears, of its f32 rate for the rest.
 * GB/s are held against reading 1 MB over and over.
 */

#include "limits.h"

enum { DIM = 576, FFN = 1536, MAX_ROWS = 64, KEYS = 512 };

typedef struct {
    const cpu_inner_t    *in;
    const kern_weight_t  *w;
    cpu_acts_t            acts;
    cpu_attn_t            attn;
    uint32_t              rows;
    float                *x, *y, *cs;
    uint8_t              *kv;
    double                int8, f32, gbs;    /* limits of one thread */
} entry_t;


static void
run_linear(void *arg)
{
    entry_t   *e = arg;
    uint32_t   s;

    for (s = 0; s < e->w->n_stripes; s++) {
        e->in->linear(e->w, s, &e->acts, 0, e->rows, e->y + s * CPU_STRIPE,
                      e->w->n_out, 0);
    }
}

static void
run_rmsnorm(void *arg)
{
    entry_t  *e = arg;

    e->in->rmsnorm(e->y, e->x, e->x, 1e-5f, DIM);
}

static void
run_quantize(void *arg)
{
    entry_t  *e = arg;

    e->in->quantize(&e->acts, 0, 0, DIM / CPU_BLOCK, e->x);
}

static void
run_silu_mul(void *arg)
{
    entry_t  *e = arg;

    e->in->silu_mul(e->y, e->x, e->x, FFN);
}

static void
run_rope(void *arg)
{
    entry_t  *e = arg;

    e->in->rope(e->y, e->x, e->cs, 64, 64, 0.125f);
}

static void
run_kv_store(void *arg)
{
    entry_t  *e = arg;

    e->in->kv_store(e->kv, e->attn.kv_type, 7, e->x, e->x, 64, 64);
}

static void
run_attend(void *arg)
{
    entry_t  *e = arg;

    e->in->attend(&e->attn);
}

static void
run_argmax(void *arg)
{
    entry_t  *e = arg;

    (void) e->in->argmax(e->x, 49152);
}

static void
run_exp_row(void *arg)
{
    entry_t  *e = arg;

    e->in->exp_row(e->y, e->x, 1, 49152);
}

/* Many calls to one reading of the clock: some entries take 50 ns. */
typedef struct {
    void     (*fn)(void *arg);
    entry_t   *e;
    uint32_t   n;
} many_t;

static void
run_many(void *arg)
{
    many_t    *m = arg;
    uint32_t   i;

    for (i = 0; i < m->n; i++) {
        m->fn(m->e);
    }
}

static void
row(const char *name, void (*fn)(void *arg), entry_t *e, kern_cost_t c,
    double limit)
{
    const char  *env = getenv("INFER_BENCH_MS");
    double       ms = env != NULL ? atof(env) : 60, us, min, max;
    many_t       m = { fn, e, 1 };

    us = bench_us(ms / 4, run_many, &m, &min, &max);
    m.n = us < 100 ? (uint32_t) (100 / (us + 0.05)) + 1 : 1;
    us = bench_us(ms, run_many, &m, &min, &max) / m.n;
    printf("%-24s %10.2f us %7.1f GB/s %4.0f %% %7.1f GOP/s %4.0f %%\n",
           name, us, c.bytes / us / 1e3, c.bytes / us / 10 / e->gbs,
           c.ops / us / 1e3, c.ops / us / 10 / limit);
}

static void
linears(kern_ctx_t *c, entry_t *e)
{
    static const uint32_t  rows[] = { 1, 2, 4, 16, 64 };
    kern_weight_t         *w;
    uint32_t               i, r;
    char                   name[64];

    for (i = 0; i < TEST_N_TYPES; i++) {
        kern_src_t  s = { .type = test_types[i], .n_out = DIM, .n_in = FFN,
                          .read = bench_read };

        if (kern_cpu_pack(c, &w, &s, NULL) != INFER_OK) {
            exit(1);
        }
        e->w = w;
        for (r = 0; r < sizeof(rows) / sizeof(rows[0]); r++) {
            e->rows = rows[r];
            snprintf(name, sizeof(name), "linear %s x %u",
                     kern_type_name(s.type), e->rows);
            row(name, run_linear, e,
                kern_linear_cost(s.type, DIM, FFN, e->rows),
                e->in->q8 && s.type != KERN_F32 && s.type != KERN_F16
                && s.type != KERN_BF16 ? e->int8 : e->f32);
        }
        kern_cpu_weight_free(c, w);
    }
}

static void
attention(entry_t *e, const kern_shape_t *s, uint32_t type)
{
    static const uint32_t  pages[KEYS / 32] = {
        0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
    };
    static const uint32_t  keys[] = { 128, 150, KEYS };
    uint32_t     i, k, n;
    char         name[64];
    kern_cost_t  c;

    e->attn = (cpu_attn_t) { .head_dim = 64, .v_dim = 64, .kv = e->kv,
                             .page_bytes = cpu_kv_head_bytes(type, 64, 64),
                             .kv_type = type,
                             .pages = pages };
    e->attn.work = test_alloc(cpu_attn_work(64) * sizeof(float));
    for (i = 0; i < 12; i++) {
        e->attn.q[i] = e->x + i * 64;
        e->attn.out[i] = e->y + i * 64;
    }
    for (k = 0; k < sizeof(keys) / sizeof(keys[0]); k++) {
        for (n = 3; n <= 12; n *= 4) {
            for (i = 0; i < n; i++) {
                e->attn.n_keys[i] = keys[k];
            }
            e->attn.nq = n;
            snprintf(name, sizeof(name), "attend %s %u x %u keys",
                     kern_kv_name(type), n, keys[k]);
            c = kern_attend_cost(s, keys[k]);
            c.ops *= n;
            row(name, run_attend, e, c, e->f32);
        }
    }
    snprintf(name, sizeof(name), "kv_store %s 64", kern_kv_name(type));
    row(name, run_kv_store, e, kern_row_cost(64, 3, 4), e->f32);
    test_free(e->attn.work);
}

int
main(int argc, char **argv)
{
    static const float  freq[32];
    const kern_ops_t   *ops = kern_init("cpu", argc > 1 ? argv[1] : NULL,
                                        NULL);
    const char         *isa = ops != NULL ? ops->name : argv[1];
    kern_shape_t        s = {
        .n_layers = 1, .dim = DIM, .n_heads = 1, .n_kv_heads = 1,
        .head_dim = 64, .ffn = FFN, .vocab = 64, .rope_dim = 64,
        .rope_inv_freq = freq, .rope_attn_scale = 1, .max_rows = 1,
        .max_outs = 1, .max_seqs = 1, .context = KEYS, .n_threads = 1
    };
    entry_t             e = { .in = cpu_inner(isa) };
    kern_ctx_t         *c;
    size_t              n = (size_t) MAX_ROWS * FFN;
    uint32_t            r;

    if (ops == NULL || ops->open(&c, ops, &s, NULL) != INFER_OK) {
        fprintf(stderr, "%s: not on this machine\n", isa);
        return 1;
    }
    e.x = test_floats(n > 49152 ? n : 49152, 2);
    e.y = test_floats((size_t) MAX_ROWS * FFN, 2);
    e.cs = test_floats(128, 1);
    e.kv = calloc(KEYS / 32, cpu_kv_head_bytes(KERN_KV_F16, 64, 64));
    e.acts = (cpu_acts_t) {
        .n_in = FFN, .q = test_alloc(n), .d = test_alloc(n / 8),
        .nsum = test_alloc(n / 8), .hsum = test_alloc(n / 4),
        .dsum = test_alloc(n / 8),
        .f = test_floats(n, 2)
    };
    for (r = 0; r < MAX_ROWS; r++) {
        e.in->quantize(&e.acts, r, 0, FFN / 32, e.acts.f + r * FFN);
    }

    e.int8 = limit_int8(c, 1, 200);
    e.f32 = limit_f32(c, 1, 200);
    e.gbs = limit_read(c, 1, 200, 1 << 20);
    printf("%s, one thread: int8 %.1f GOP/s, f32 %.1f GOP/s, read of 1 MB "
           "%.1f GB/s\n", e.in->name, e.int8, e.f32, e.gbs);
    linears(c, &e);
    row("rmsnorm 576", run_rmsnorm, &e, kern_rmsnorm_cost(DIM, 1), e.f32);
    row("quantize 576", run_quantize, &e, kern_quantize_cost(DIM, 1), e.f32);
    row("silu_mul 1536", run_silu_mul, &e, kern_row_cost(FFN, 3, 20), e.f32);
    row("rope 64", run_rope, &e, kern_row_cost(64, 4, 4), e.f32);
    for (r = 0; r < KERN_N_CPU_KV; r++) {
        attention(&e, &s, r);
    }
    row("argmax 49152", run_argmax, &e, kern_row_cost(49152, 1, 1), e.f32);
    row("exp_row 49152", run_exp_row, &e, kern_row_cost(49152, 2, 18), e.f32);
    ops->close(c);
    return 0;
}
