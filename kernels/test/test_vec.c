/*
 * test_vec.c: row functions. The definitions against double arithmetic, the
 * fast levels against the definitions by memcmp.
 */

#include "kern_test.h"

static const uint32_t  lens[] = { 1, 2, 15, 16, 17, 31, 33, 64, 100, 1000 };

#define N(a)  (sizeof(a) / sizeof((a)[0]))


static void
check_f16(void)
{
    uint32_t  h, bad = 0;
    float     f;

    for (h = 0; h < 65536; h++) {
        f = cpu_f16_to_f32((uint16_t) h);
        if ((h & 0x7c00) == 0x7c00) {
            bad += (h & 0x3ff) ? !isnan(f) : !isinf(f);
            bad += (h & 0x3ff) == 0
                   && cpu_f32_to_f16(f) != (0x7bff | (h & 0x8000));
            continue;
        }
        bad += cpu_f32_to_f16(f) != h;
        bad += f != (h & 0x8000 ? -1 : 1)
                    * ldexp((h & 0x7c00 ? 1024 : 0) + (h & 0x3ff),
                            (h & 0x7c00 ? (int) (h >> 10 & 31) - 1 : 0) - 24);
    }
    ok(bad == 0, "f16: all 65,536 values (%u bad)", bad);
    ok(isnan(cpu_f16_to_f32(cpu_f32_to_f16(NAN)))
       && cpu_f32_to_f16(1e30f) == 0x7bff && cpu_f32_to_f16(-1e30f) == 0xfbff
       && cpu_f32_to_f16(1.0f + 0x1p-11f) == 0x3c00
       && cpu_f32_to_f16(1.0f + 0x3p-11f) == 0x3c02
       && cpu_f32_to_f16(0x1p-25f) == 0 && cpu_f32_to_f16(0x3p-25f) == 2,
       "f16: rounding, clamping, NaN");
}

static void
check_exp(void)
{
    double  worst = 0, e;
    int     i;
    float   x;

    for (i = -86900; i < 88300; i++) {
        x = (float) i / 1000 + test_f32() / 1000;
        e = fabs(kern_exp(x) / exp(x) - 1);
        worst = e > worst ? e : worst;
    }
    ok(worst < 2e-7, "exp: worst relative error %.2e", worst);
    ok(kern_exp(-87.1f) == 0 && kern_exp(-INFINITY) == 0 && kern_exp(0) == 1
       && isinf(kern_exp(89)) && isinf(kern_exp(INFINITY))
       && isnan(kern_exp(NAN)), "exp: ends and NaN");
}

static int
same_f(const float *a, const float *b, size_t n)
{
    size_t  i;

    for (i = 0; i < n; i++) {
        if (isnan(a[i]) && isnan(b[i])) {
            continue;
        }
        if (memcmp(&a[i], &b[i], sizeof(float)) != 0) {
            return 0;
        }
    }
    return 1;
}

static int
check_exp_row(const cpu_inner_t *in)
{
    const cpu_inner_t  *ref = cpu_inner("ref-q8");
    float              *x, *y, *z;
    uint32_t            i, n;
    int                 good = 1;

    for (i = 0; i < N(lens); i++) {
        n = lens[i];
        x = test_floats(n, 100);
        y = test_alloc(n * sizeof(float));
        z = test_alloc(n * sizeof(float));
        x[test_below(n)] = NAN;
        x[test_below(n)] = -INFINITY;
        x[test_below(n)] = INFINITY;
        ref->exp_row(y, x, 3.5f, n);
        in->exp_row(z, x, 3.5f, n);
        good &= same_f(y, z, n);
        in->exp_row(x, x, 3.5f, n);
        good &= same_f(y, x, n);
        good &= test_free(x);
        good &= test_free(y);
        good &= test_free(z);
    }
    return good;
}

static int
check_argmax(const cpu_inner_t *in)
{
    const cpu_inner_t  *ref = cpu_inner("ref-q8");
    float              *x;
    uint32_t            i, k, n;
    int                 good = 1;

    for (i = 0; i < N(lens) * 20; i++) {
        n = lens[i % N(lens)];
        x = test_alloc(n * sizeof(float));
        for (k = 0; k < n; k++) {       /* ties, NaN and -inf are likely */
            x[k] = i % 3 == 0 ? -INFINITY
                   : (float) test_below(4) - (i % 3 == 1 ? 2 : 8);
            if (test_below(4) == 0) {
                x[k] = NAN;
            }
        }
        good &= in->argmax(x, n) == ref->argmax(x, n);
        for (k = 0; k < n; k++) {
            x[k] = NAN;
        }
        good &= in->argmax(x, n) == -1;
        x[n - 1] = -3;
        good &= in->argmax(x, n) == (int32_t) n - 1;
        good &= test_free(x);
    }
    return good;
}

static int
check_rmsnorm(const cpu_inner_t *in)
{
    float    *x, *w, *y, *z;
    uint32_t  n, i;
    double    ss;
    int       good = 1;

    for (n = 32; n <= 608; n += 96) {
        x = test_floats(n, 5);
        w = test_floats(n, 1);
        y = test_alloc(n * sizeof(float));
        z = test_alloc(n * sizeof(float));
        cpu_inner("ref-q8")->rmsnorm(y, x, w, 1e-5f, n);
        in->rmsnorm(z, x, w, 1e-5f, n);
        good &= memcmp(y, z, n * sizeof(float)) == 0;
        for (ss = 0, i = 0; i < n; i++) {
            ss += (double) x[i] * x[i];
        }
        for (i = 0; i < n; i++) {
            good &= fabs(z[i] - x[i] * w[i] / sqrt(ss / n + 1e-5)) < 1e-5;
        }
        good &= test_free(x);
        good &= test_free(w);
        good &= test_free(y);
        good &= test_free(z);
    }
    return good;
}

/* Rows with ordinary, tiny, zero, infinite and NaN blocks. */
static int
check_quantize(const cpu_inner_t *in)
{
    enum { NB = 40 };
    float      *x = test_floats(32 * NB, 1);
    cpu_acts_t  a[2];
    uint32_t    b, k, t;
    int         good = 1;
    float       amax;

    for (b = 0; b < NB; b++) {
        for (k = 0; k < 32; k++) {
            x[b * 32 + k] *= ldexpf(1, (int) test_below(60) - 30);
            if (b % 8 == 1) {
                x[b * 32 + k] = 0;
            }
            if (b % 8 == 2) {
                x[b * 32 + k] *= 1e-38f;
            }
            if (b % 8 == 3) {           /* exact halves to be rounded */
                x[b * 32 + k] = (float) test_below(255) / 2 - 63;
                x[b * 32] = 127;
            }
        }
        k = b * 32 + test_below(32);
        x[k] = b % 8 == 4 ? NAN : b % 8 == 5 ? -INFINITY : x[k];
    }
    for (t = 0; t < 2; t++) {
        a[t] = (cpu_acts_t) {
            .n_in = 32 * NB, .q = test_alloc(2 * 32 * NB),
            .d = test_alloc(2 * NB * 4), .nsum = test_alloc(2 * NB * 4),
            .hsum = test_alloc(4 * NB * 4), .dsum = test_alloc(2 * NB * 4)
        };
        memset(a[t].q, 0, 2 * 32 * NB);
        (t ? in : cpu_inner("ref-q8"))->quantize(&a[t], 1, 0, NB / 2, x);
        (t ? in : cpu_inner("ref-q8"))->quantize(&a[t], 1, NB / 2, NB / 2,
                                                 x + 16 * NB);
    }
    good &= memcmp(a[0].q, a[1].q, 2 * 32 * NB) == 0;
    good &= same_f(a[0].d + NB, a[1].d + NB, NB);
    good &= same_f(a[0].dsum + NB, a[1].dsum + NB, NB);
    good &= memcmp(a[0].nsum + NB, a[1].nsum + NB, NB * 4) == 0;
    good &= memcmp(a[0].hsum + 2 * NB, a[1].hsum + 2 * NB, NB * 8) == 0;

    for (b = 0; b < NB; b++) {
        amax = 0;
        for (k = 0; k < 32; k++) {
            amax = fmaxf(amax, fabsf(x[b * 32 + k]));
        }
        if (b % 8 == 4 || b % 8 == 5) {
            good &= isnan(a[1].d[NB + b]) && isnan(a[1].dsum[NB + b]);
            continue;
        }
        for (k = 0; k < 32; k++) {
            good &= fabsf(a[1].d[NB + b]
                          * a[1].q[32 * NB + b * 32 + k] - x[b * 32 + k])
                    <= amax / 253 + 1e-30f;
        }
    }
    for (t = 0; t < 2; t++) {
        good &= test_free(a[t].q);
        good &= test_free(a[t].d);
        good &= test_free(a[t].nsum);
        good &= test_free(a[t].hsum);
        good &= test_free(a[t].dsum);
    }
    good &= test_free(x);
    return good;
}

static int
check_silu(const cpu_inner_t *in)
{
    float    *g, *u, *y, *z;
    uint32_t  i, k, n;
    int       good = 1;

    for (i = 0; i < N(lens); i++) {
        n = lens[i];
        g = test_floats(n, 95);
        u = test_floats(n, 2);
        y = test_alloc(n * sizeof(float));
        z = test_alloc(n * sizeof(float));
        g[0] = i % 2 ? NAN : -1000;
        cpu_inner("ref-q8")->silu_mul(y, g, u, n);
        in->silu_mul(z, g, u, n);
        good &= same_f(y, z, n);
        for (k = 1; k < n; k++) {
            good &= fabs(z[k] - g[k] / (1 + exp(-g[k])) * u[k])
                    <= 1e-6 * (1 + fabs(z[k]));
        }
        good &= test_free(g);
        good &= test_free(u);
        good &= test_free(y);
        good &= test_free(z);
    }
    return good;
}

static int
check_rope(const cpu_inner_t *in)
{
    static const uint32_t  dims[][2] = {
        { 64, 64 }, { 2, 2 }, { 10, 20 }, { 30, 32 }, { 128, 128 }, { 0, 16 }
    };
    float    *x, *cs, *y, *z, co, si;
    uint32_t  i, k, rd, hd;
    int       good = 1;

    for (i = 0; i < N(dims); i++) {
        rd = dims[i][0];
        hd = dims[i][1];
        x = test_floats(hd, 2);
        cs = test_alloc((2 * rd + 1) * sizeof(float));
        y = test_alloc(hd * sizeof(float));
        z = test_alloc(hd * sizeof(float));
        for (k = 0; k < rd; k += 2) {
            co = cosf((float) k);
            si = sinf((float) k);
            cs[k] = cs[k + 1] = co;
            cs[rd + k] = -si;
            cs[rd + k + 1] = si;
        }
        cpu_inner("ref-q8")->rope(y, x, cs, rd, hd, 0.125f);
        in->rope(z, x, cs, rd, hd, 0.125f);
        good &= memcmp(y, z, hd * sizeof(float)) == 0;
        for (k = 0; k < rd; k += 2) {
            good &= fabsf(z[k] * 8 - (x[k] * cs[k] - x[k + 1] * cs[rd + k + 1]))
                    < 1e-5f;
            good &= fabsf(z[k + 1] * 8
                          - (x[k + 1] * cs[k] + x[k] * cs[rd + k + 1]))
                    < 1e-5f;
        }
        in->rope(x, x, cs, rd, hd, 0.125f);
        good &= memcmp(y, x, hd * sizeof(float)) == 0;
        good &= test_free(x);
        good &= test_free(cs);
        good &= test_free(y);
        good &= test_free(z);
    }
    return good;
}

/* Relative error of a stored value, of q8 relative to its block. */
static int
near_kv(uint32_t type, float x, float y, const float *block, uint32_t n)
{
    static const float  max[] = { 65504, 0x1.fep+127f, 8e6f };
    float               amax = 0;
    uint32_t            i;

    x = x > max[type] ? max[type] : x < -max[type] ? -max[type] : x;
    switch (type) {
    case KERN_KV_F16:
        return fabsf(x - y) <= fabsf(x) * 0x1p-11f + 0x1p-25f;
    case KERN_KV_BF16:
        return fabsf(x - y) <= fabsf(x) * 0x1p-8f;
    default:
        for (i = 0; i < n; i++) {
            amax = fabsf(block[i]) > amax ? fabsf(block[i]) : amax;
        }
        return isinf(amax) || fabsf(x - y) <= amax * 0.00405f + 4e-6f;
    }
}

static int
check_kv_slot(const cpu_inner_t *in, uint32_t type, uint8_t *const p[2],
    uint32_t slot, uint32_t hd)
{
    uint32_t  d, b, n, vd = (hd + 15) / 16 * 16;
    float    *k = test_floats(hd, slot % 2 ? 1e5f : 3);
    float    *v = test_floats(hd, 1e-3f), x;
    int       good = 1;

    k[hd - 1] = NAN;
    in->kv_store(p[1], type, slot, k, v, hd, vd);
    good &= isnan(test_kv_value(p[1], type, hd, vd, 0, slot, hd - 1));
    k[hd - 1] = slot == 8 ? -INFINITY : 1;
    v[0] = slot == 4 ? INFINITY : v[0];
    cpu_inner("ref-q8")->kv_store(p[0], type, slot, k, v, hd, vd);
    in->kv_store(p[1], type, slot, k, v, hd, vd);
    for (d = 0; d < hd; d++) {
        b = d / 32 * 32;
        n = hd - b < 32 ? hd - b : 32;
        x = test_kv_value(p[1], type, hd, vd, 0, slot, d);
        good &= near_kv(type, k[d], x, k + b, n);
        x = test_kv_value(p[1], type, hd, vd, 1, slot, d);
        good &= near_kv(type, v[d], x, v + b, n);
    }
    good &= test_free(k);
    good &= test_free(v);
    return good;
}

static int
check_kv_store(const cpu_inner_t *in, uint32_t type)
{
    static const uint32_t  dims[] = { 64, 2, 20, 80, 128, 256 };
    uint32_t               i, hd, slot;
    size_t                 bytes;
    uint8_t               *p[2];
    int                    good = 1;

    for (i = 0; i < N(dims); i++) {
        hd = dims[i];
        bytes = cpu_kv_head_bytes(type, hd, (hd + 15) / 16 * 16);
        p[0] = test_alloc(bytes);
        p[1] = test_alloc(bytes);
        memset(p[0], 0, bytes);
        memset(p[1], 0, bytes);
        for (slot = 0; slot < 32; slot += i % 2 ? 1 : 4) {
            good &= check_kv_slot(in, type, p, slot, hd);
        }
        good &= memcmp(p[0], p[1], bytes) == 0;
        good &= test_free(p[0]);
        good &= test_free(p[1]);
    }
    return good;
}

static void
check_level(const char *isa)
{
    const cpu_inner_t  *in = cpu_inner(isa);
    uint32_t            type;

    if (in == NULL) {
        ok(1, "%s # SKIP not on this machine", isa);
        return;
    }
    ok(check_exp_row(in), "%s: exp_row", isa);
    ok(check_argmax(in), "%s: argmax", isa);
    ok(check_rmsnorm(in), "%s: rmsnorm", isa);
    ok(check_quantize(in), "%s: quantize", isa);
    ok(check_silu(in), "%s: silu_mul", isa);
    ok(check_rope(in), "%s: rope", isa);
    for (type = 0; type < KERN_N_CPU_KV; type++) {
        ok(check_kv_store(in, type), "%s: kv_store %s", isa,
           kern_kv_name(type));
    }
}

int
main(void)
{
    uint32_t  l;

    test_seed();
    check_f16();
    check_exp();
    check_level("ref-q8");
    for (l = 0; l < TEST_N_FAST; l++) {
        check_level(test_fast[l]);
    }
    return tap_done();
}
