/*
 * test_linear.c: packing and linears. Packed weights are read back exactly;
 * both reference definitions are near a sum in double over the file's own
 * values; every fast level equals ref-q8 by memcmp.
 */

#include "kern_test.h"

static const uint32_t  outs[] = { 1, 15, 16, 17, 47, 48, 49, 96, 200 };
static const uint32_t  ins[] = { 32, 64, 96, 576, 256, 768 };
static const uint32_t  rows_list[] = { 1, 2, 3, 4, 5, 7, 8, 33 };

#define N(a)      (sizeof(a) / sizeof((a)[0]))
#define MAX_ROWS  33

static kern_ctx_t *
open_ctx(void)
{
    static const float  freq[16];
    const kern_ops_t   *ops = kern_init("cpu", "ref-q8", NULL);
    kern_ctx_t         *c = NULL;
    infer_err_t         err;
    kern_shape_t        s = {
        .n_layers = 1, .dim = 32, .n_heads = 1, .n_kv_heads = 1,
        .head_dim = 32, .ffn = 32, .vocab = 32, .rope_dim = 32,
        .rope_inv_freq = freq, .rope_attn_scale = 1, .eps = 1e-5f,
        .max_rows = 1, .max_outs = 1, .max_seqs = 1, .context = 32,
        .n_pages = 1, .n_threads = 2
    };

    if (ops->open(&c, ops, &s, &err) != INFER_OK) {
        diag("%s", err.text);
        exit(1);
    }
    return c;
}

static cpu_acts_t
make_acts(uint32_t n_in)
{
    cpu_acts_t  a = { .n_in = n_in };
    size_t      n = (size_t) MAX_ROWS * n_in;
    uint32_t    r;

    a.q = test_alloc(n);
    a.d = test_alloc(n / 32 * sizeof(float));
    a.nsum = test_alloc(n / 32 * sizeof(int32_t));
    a.hsum = test_alloc(n / 16 * sizeof(int32_t));
    a.dsum = test_alloc(n / 32 * sizeof(float));
    a.f = test_floats(n, 3);
    for (r = 0; r < MAX_ROWS; r++) {
        cpu_inner("ref-q8")->quantize(&a, r, 0, n_in / 32,
                                      a.f + (size_t) r * n_in);
    }
    return a;
}

static int
free_acts(cpu_acts_t *a)
{
    int  whole = test_free(a->q);

    whole &= test_free(a->d);
    whole &= test_free(a->nsum);
    whole &= test_free(a->hsum);
    whole &= test_free(a->dsum);
    whole &= test_free(a->f);
    return whole;
}

/* All stripes for all rows into y [rows, n_out]. */
static void
run(const cpu_inner_t *in, const kern_weight_t *w, const cpu_acts_t *a,
    uint32_t r0, uint32_t rows, float *y, int add)
{
    uint32_t  s;

    for (s = 0; s < w->n_stripes; s++) {
        in->linear(w, s, a, r0, rows, y + s * CPU_STRIPE, w->n_out, add);
    }
}

static int
check_packed(const test_tensor_t *t, const kern_weight_t *w)
{
    float    *x = test_alloc(t->src.n_in * sizeof(float)), a;
    uint32_t  r, c;
    int       same = 1;

    for (r = 0; r < t->src.n_out; r++) {
        cpu_weight_row(w, r, x);
        for (c = 0; c < t->src.n_in; c++) {
            a = test_value(t, r, c);
            same &= memcmp(&a, &x[c], sizeof(a)) == 0;
        }
    }
    return test_free(x) && same;
}

/* Largest error of level `isa` relative to sum |x w|. */
static double
check_near(const char *isa, const test_tensor_t *t, const kern_weight_t *w,
    const cpu_acts_t *a)
{
    uint32_t  r, j, k;
    double    sum, mag, worst = 0;
    float    *y = test_alloc(2 * (size_t) w->n_out * sizeof(float)), v, x;

    run(cpu_inner(isa), w, a, 0, 2, y, 0);
    for (r = 0; r < 2; r++) {
        for (j = 0; j < w->n_out; j++) {
            sum = mag = 0;
            for (k = 0; k < w->n_in; k++) {
                v = test_value(t, j, k);
                x = a->f[(size_t) r * w->n_in + k];
                sum += (double) v * x;
                mag += fabs((double) v * x);
            }
            sum = fabs(sum - y[(size_t) r * w->n_out + j]) / (mag + 1e-9);
            worst = sum > worst ? sum : worst;
        }
    }
    return test_free(y) ? worst : 1;
}

static int
check_equal(const cpu_inner_t *in, const kern_weight_t *w,
    const cpu_acts_t *a)
{
    size_t    n = (size_t) MAX_ROWS * w->n_out;
    float    *y = test_floats(n, 1), *z = test_alloc(n * sizeof(float));
    float    *keep = test_alloc(n * sizeof(float));
    uint32_t  i, rows, r0;
    int       same = 1, add;

    memcpy(keep, y, n * sizeof(float));
    for (i = 0; i < N(rows_list); i++) {
        for (add = 0; add < 2; add++) {
            rows = rows_list[i];
            r0 = rows < MAX_ROWS ? test_below(MAX_ROWS - rows) : 0;
            memcpy(y, keep, n * sizeof(float));
            memcpy(z, keep, n * sizeof(float));
            run(cpu_inner("ref-q8"), w, a, r0, rows, y, add);
            run(in, w, a, r0, rows, z, add);
            same &= memcmp(y, z, n * sizeof(float)) == 0;
        }
    }
    same &= test_free(y);
    same &= test_free(z);
    same &= test_free(keep);
    return same;
}

static void
check_type(kern_ctx_t *c, uint32_t type)
{
    const kern_ops_t  *ops = kern_init("cpu", "ref-q8", NULL);
    uint32_t           i, j, l, values, bytes;
    int                packed = 1, whole = 1, equal[TEST_N_FAST];
    double             e, e32 = 0, e8 = 0;
    test_tensor_t      t;
    kern_weight_t     *w;
    cpu_acts_t         a;

    for (l = 0; l < TEST_N_FAST; l++) {
        equal[l] = 1;
    }
    kern_type_layout(type, &values, &bytes);
    for (i = 0; i < N(ins); i++) {
        if (values > 32 ? ins[i] % values != 0 : ins[i] % 256 == 0) {
            continue;
        }
        if (test_quick() && ins[i] > 256) {
            continue;
        }
        a = make_acts(ins[i]);
        for (j = 0; j < N(outs); j++) {
            t = test_tensor(type, outs[j], ins[i], 1);
            if (ops->pack(c, &w, &t.src, NULL) != INFER_OK) {
                ok(0, "%s: pack", kern_type_name(type));
                return;
            }
            packed &= check_packed(&t, w);
            if (j % 3 == 0) {
                e = check_near("ref", &t, w, &a);
                e32 = e > e32 ? e : e32;
                e = check_near("ref-q8", &t, w, &a);
                e8 = e > e8 ? e : e8;
            }
            for (l = 0; l < TEST_N_FAST; l++) {
                if (cpu_inner(test_fast[l]) != NULL) {
                    equal[l] &= check_equal(cpu_inner(test_fast[l]), w, &a);
                }
            }
            ops->weight_free(c, w);
            free(t.raw);
        }
        whole &= free_acts(&a);
    }

    ok(packed, "%s: packed values read back", kern_type_name(type));
    ok(e32 < 1e-5, "%s: f32 definition near double (%.1e)",
       kern_type_name(type), e32);
    ok(e8 < (type == KERN_F32 || type == KERN_F16 || type == KERN_BF16
             ? 1e-5 : 2e-2), "%s: q8 definition near double (%.1e)",
       kern_type_name(type), e8);
    ok(whole, "%s: canaries", kern_type_name(type));
    for (l = 0; l < TEST_N_FAST; l++) {
        if (cpu_inner(test_fast[l]) == NULL) {
            ok(1, "%s # SKIP not on this machine", test_fast[l]);
            continue;
        }
        ok(equal[l], "%s: %s equals ref-q8", kern_type_name(type),
           test_fast[l]);
    }
}

/* Sums at the edge of what fits: all values and activations extreme. */
static void
check_extremes(kern_ctx_t *c, uint32_t type, const int8_t x[2])
{
    const kern_ops_t  *ops = kern_init("cpu", "ref-q8", NULL);
    uint32_t           l, v, bytes, head, n_in;
    size_t             i;
    test_tensor_t      t;
    cpu_acts_t         a;
    kern_weight_t     *w;
    int                same[TEST_N_FAST][2], k, fill;

    kern_type_layout(type, &v, &bytes);
    n_in = v > 64 ? v : 64;
    t = test_tensor(type, 48, n_in, 1);
    a = make_acts(n_in);
    for (i = 0; i < MAX_ROWS * n_in; i++) {
        a.q[i] = x[i & 1];
    }
    for (i = 0; i < MAX_ROWS * n_in / 32; i++) {
        a.nsum[i] = -16 * (x[0] + x[1]);
    }
    /* scales stay: IQ4_XS has those of its sub-blocks behind d */
    head = type == KERN_Q4_1 || type == KERN_Q5_1 || type == KERN_Q8_K ? 4
           : type == KERN_IQ4_XS ? 8 : 2;
    for (k = 0; k < 2; k++) {
        fill = (k ? 0xff : 0)
               ^ (type == KERN_Q8_0 || type == KERN_Q8_K ? 0x80 : 0);
        for (i = 0; i < t.row_bytes * 48; i++) {
            if (i % bytes >= head) {
                t.raw[i] = (uint8_t) fill;
            }
        }
        if (ops->pack(c, &w, &t.src, NULL) != INFER_OK) {
            exit(1);
        }
        for (l = 0; l < TEST_N_FAST; l++) {
            same[l][k] = cpu_inner(test_fast[l]) == NULL
                         || check_equal(cpu_inner(test_fast[l]), w, &a);
        }
        ops->weight_free(c, w);
    }
    for (l = 0; l < TEST_N_FAST; l++) {
        ok(same[l][0] && same[l][1], "%s: %s, extremes %d, %d",
           kern_type_name(type), test_fast[l], x[0], x[1]);
    }
    free_acts(&a);
    free(t.raw);
}

/* A tensor whose source fails, and shapes that must be refused. */
static void
check_refused(kern_ctx_t *c)
{
    const kern_ops_t  *ops = kern_init("cpu", "ref-q8", NULL);
    test_tensor_t      t = test_tensor(KERN_Q4_0, 48, 64, 1);
    kern_weight_t     *w = NULL;
    infer_err_t        err = { 0 };
    kern_src_t         s = t.src;

    s.type = 16;
    ok(ops->pack(c, &w, &s, &err) == INFER_UNSUPPORTED && err.text[0] != 0,
       "unknown type: %s", err.text);
    s.type = KERN_Q4_K;
    s.n_in = 288;
    ok(ops->pack(c, &w, &s, &err) == INFER_UNSUPPORTED, "part of a group: %s",
       err.text);
    s = t.src;
    s.n_in = 48;
    ok(ops->pack(c, &w, &s, &err) == INFER_UNSUPPORTED, "odd columns: %s",
       err.text);
    s.n_in = 64;
    s.n_out = 0;
    ok(ops->pack(c, &w, &s, &err) == INFER_UNSUPPORTED, "no rows");
    free(t.raw);
}

static int
fail_read(void *arg, void *buf, size_t len, uint64_t off)
{
    (void) arg;
    (void) buf;
    (void) len;
    return off > 10000 ? INFER_CORRUPT : INFER_OK;
}

int
main(void)
{
    static const int8_t  edge[3][2] = { { 127, 127 }, { -127, -127 },
                                        { 120, -120 } };
    kern_ctx_t        *c;
    kern_weight_t     *w = NULL;
    kern_src_t         s = { .type = KERN_F32, .n_out = 500, .n_in = 64,
                             .read = fail_read };
    size_t             i;

    test_seed();
    c = open_ctx();
    for (i = 0; i < TEST_N_TYPES; i++) {
        check_type(c, test_types[i]);
    }
    for (i = 0; i < 3; i++) {
        check_extremes(c, KERN_Q4_0, edge[i]);
        check_extremes(c, KERN_Q4_1, edge[i]);
        check_extremes(c, KERN_Q5_0, edge[i]);
        check_extremes(c, KERN_Q5_1, edge[i]);
        check_extremes(c, KERN_Q8_0, edge[i]);
        check_extremes(c, KERN_Q8_K, edge[i]);
        check_extremes(c, KERN_IQ4_NL, edge[i]);
        check_extremes(c, KERN_IQ4_XS, edge[i]);
    }
    check_refused(c);
    ok(kern_cpu_pack(c, &w, &s, NULL) == INFER_CORRUPT,
       "a failing source fails the packing");
    kern_cpu_close(c);
    return tap_done();
}
