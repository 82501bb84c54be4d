/*
 * test_cuda_norm.cpp: cu_quantize() bit for bit against kernels/ref and the
 * scalar definitions of the row families; cu_norm() against double
 * precision, whatever family it writes; gathered rows.
 */

#include "cuda_test.h"

extern "C" {
#include "ref/ref.h"
}

/* All forms of n rows. */
struct Acts {
    TestBuf<int8_t>    q;
    TestBuf<float>     d, dsum, dsum2, row;
    TestBuf<uint16_t>  h;
    TestBuf<uint8_t>   f8;
    cu_acts_t          a;

    Acts(uint32_t n, uint32_t dim)
        : q((size_t) n * dim), d((size_t) n * dim / 32),
          dsum((size_t) n * dim / 32), dsum2((size_t) n * dim / 16), row(n),
          h((size_t) n * dim), f8((size_t) n * dim)
    {
        q.up(std::vector<int8_t>(q.n, 99));
        d.up(std::vector<float>(d.n, 99));
        dsum.up(std::vector<float>(dsum.n, 99));
        dsum2.up(std::vector<float>(dsum2.n, 99));
        row.up(std::vector<float>(n, 99));
        h.up(std::vector<uint16_t>(h.n, 99));
        f8.up(std::vector<uint8_t>(f8.n, 99));
        a = { q.p, d.p, dsum.p, dsum2.p, h.p, f8.p, row.p, dim };
    }

    bool clean() const
    {
        return q.clean() && d.clean() && dsum.clean() && dsum2.clean()
               && row.clean() && h.clean() && f8.clean();
    }
};

static bool
same_float(float a, float b)
{
    return (isnan(a) && isnan(b)) || memcmp(&a, &b, 4) == 0;
}

/* Nearest e4m3 by search, ties to the even code, clamped; NaN 0x7f. */
static double
e4m3_value(int code)
{
    int  e = code >> 3 & 15, m = code & 7;

    return e == 0 ? ldexp(m, -9) : ldexp(8 + m, e - 10);
}

static uint8_t
e4m3_of(float x)
{
    double  ax = fabs((double) x), best = 1e30;
    int     code = 0;

    if (isnan(x)) {
        return 0x7f;
    }
    for (int i = 0; i < 127; i++) {
        double  e = fabs(ax - e4m3_value(i));

        if (e < best || (e == best && i % 2 == 0)) {
            best = e;
            code = i;
        }
    }
    return (uint8_t) (code | (signbit(x) ? 0x80 : 0));
}

/* Row x of dim values as the q8 family has it: all from ref. */
static bool
check_q8(const Acts &acts, uint32_t r, const float *x, uint32_t dim)
{
    std::vector<int8_t>   q(dim), gq = acts.q.down();
    std::vector<float>    d(dim / 32), dsum(dim / 32);
    std::vector<float>    gd = acts.d.down(), gs = acts.dsum.down();
    std::vector<float>    gh = acts.dsum2.down();
    std::vector<int32_t>  nsum(dim / 32), hsum(dim / 16);
    cpu_acts_t            a = { q.data(), d.data(), nsum.data(), hsum.data(),
                                dsum.data(), NULL, dim };
    bool                  same = true;

    kern_quantize_ref(&a, 0, 0, dim / 32, x);
    same = memcmp(q.data(), &gq[(size_t) r * dim], dim) == 0;
    for (uint32_t b = 0; b < dim / 32; b++) {
        size_t  at = (size_t) r * (dim / 32) + b;

        same = same && same_float(d[b], gd[at])
               && same_float(dsum[b], gs[at])
               && same_float(d[b] * (float) -hsum[2 * b], gh[2 * at])
               && same_float(d[b] * (float) -hsum[2 * b + 1], gh[2 * at + 1]);
    }
    return same;
}

static bool
check_half(const Acts &acts, uint32_t r, const float *x, uint32_t dim,
    uint16_t (*round)(float))
{
    std::vector<uint16_t>  h = acts.h.down();
    bool                   same = true;

    for (uint32_t i = 0; i < dim; i++) {
        uint16_t  want = round(x[i]), got = h[(size_t) r * dim + i];

        same = same && (isnan(x[i]) ? (got & 0x7fff) > 0x7c00 : got == want);
    }
    return same;
}

/* One scale a row: largest magnitude / top; 0 and NaN rules as q8's. */
static bool
check_row(const Acts &acts, uint32_t r, const float *x, uint32_t dim,
    bool fp8)
{
    std::vector<int8_t>   q = acts.q.down();
    std::vector<uint8_t>  f8 = acts.f8.down();
    std::vector<float>    row = acts.row.down();
    const float           top = fp8 ? 448 : 127;
    float                 amax = 0, d, inv;
    bool                  bad = false, same;

    for (uint32_t i = 0; i < dim; i++) {
        bad = bad || !isfinite(x[i]);
        amax = fabsf(x[i]) > amax ? fabsf(x[i]) : amax;
    }
    d = bad ? NAN : amax < 0x1p-100f ? 0 : amax / top;
    inv = bad || amax < 0x1p-100f ? 0 : top / amax;
    same = same_float(d, row[r]);
    for (uint32_t i = 0; i < dim; i++) {
        size_t  at = (size_t) r * dim + i;
        float   v = inv == 0 ? 0 : x[i] * inv;

        same = same && (fp8 ? e4m3_of(v) == f8[at]
                            : (int8_t) lrintf(v) == q[at]);
    }
    return same;
}

static bool
check_family(const Acts &acts, int family, uint32_t r, const float *x,
    uint32_t dim)
{
    switch (family) {
    case CU_Q8:
        return check_q8(acts, r, x, dim);
    case CU_F16:
        return check_half(acts, r, x, dim, cpu_f32_to_f16);
    case CU_FP8:
        return check_row(acts, r, x, dim, true);
    case CU_W8A8:
        return check_row(acts, r, x, dim, false);
    default:
        return check_half(acts, r, x, dim, cpu_f32_to_bf16);
    }
}

static std::vector<float>
some_rows(uint32_t n, uint32_t dim)
{
    std::vector<float>  x = test_floats((size_t) n * dim, 3);

    for (size_t i = 0; i < x.size(); i += 1 + test_below(64)) {
        x[i] *= 20;
    }
    return x;
}

/* Families that can be written at once: each of q, h and row once. */
static const uint32_t  wants[] = {
    1u << CU_Q8 | 1u << CU_BF16 | 1u << CU_FP8, 1u << CU_W8A8 | 1u << CU_F16,
    1u << CU_W4A16, 1u << CU_Q8, 1u << CU_FP8
};

static void
quantize(TestDev &t, uint32_t n, uint32_t dim, uint32_t want)
{
    std::vector<float>  x = some_rows(n, dim);
    TestBuf<float>      dx;
    Acts                acts(n, dim);
    bool                same = true;

    for (uint32_t i = 0; i < 32 && n > 1; i++) {
        x[i] = i % 3 == 0 ? 1e-32f : 0;            /* a block of nothing */
        x[dim + 64 % dim + i] = i == 7 ? NAN : 1;
    }
    if (n > 2) {
        x[2 * dim + dim - 1] = INFINITY;
    }
    dx.alloc(x.size());
    dx.up(x);
    ok(cu_quantize(&t.dev, dx.p, n, dim, want, &acts.a) == INFER_OK
       && t.sync(), "quantize %u x %u, want %#x", n, dim, want);
    for (int f = 0; f < CU_N_FAMILIES; f++) {
        for (uint32_t r = 0; r < n && (want >> f & 1); r++) {
            same = same && check_family(acts, f, r, &x[(size_t) r * dim],
                                        dim);
        }
    }
    ok(same && acts.clean(), "quantize %u x %u: ref's bits", n, dim);
}

/* Largest error of row r of acts against y, in units of what the family may
 * be off by: half a step of its scale, or half an ulp; 1 % for the row's own
 * scale. */
static double
norm_error(const Acts &acts, int family, uint32_t r,
    const std::vector<double> &y)
{
    const uint32_t         dim = (uint32_t) y.size();
    std::vector<int8_t>    q = acts.q.down();
    std::vector<uint8_t>   f8 = acts.f8.down();
    std::vector<uint16_t>  h = acts.h.down();
    std::vector<float>     d = acts.d.down(), row = acts.row.down();
    double                 worst = 0;

    for (uint32_t i = 0; i < dim; i++) {
        size_t  at = (size_t) r * dim + i;
        double  got, may, a = fabs(y[i]);

        switch (family) {
        case CU_Q8:
            got = q[at] * (double) d[at / 32];
            may = d[at / 32] / 2;
            break;
        case CU_W8A8:
            got = q[at] * (double) row[r];
            may = row[r] / 2;
            break;
        case CU_FP8:
            got = e4m3_value(f8[at] & 0x7f) * row[r]
                  * (f8[at] & 0x80 ? -1 : 1);
            may = fmax(a / 16, row[r] * 0x1p-10);
            break;
        case CU_F16:
            got = cpu_f16_to_f32(h[at]);
            may = fmax(a * 0x1p-11, 0x1p-25);
            break;
        default:
            got = cpu_bf16_to_f32(h[at]);
            may = a * 0x1p-8;
        }
        may = may * 1.01 + a * 2e-6 + 1e-30;
        worst = fmax(worst, fabs(got - y[i]) / may);
    }
    return worst;
}

static void
norm(TestDev &t, uint32_t n, uint32_t dim, uint32_t want)
{
    std::vector<float>    x = some_rows(n + 2, dim), w = test_floats(dim, 2);
    std::vector<int32_t>  rows(n);
    TestBuf<float>        dx(x), dw(w);
    Acts                  acts(n, dim);
    double                worst = 0;
    const float           eps = 1e-5f;
    bool                  gather = test_below(3) != 0, same = true;

    for (uint32_t i = 0; i < n; i++) {
        rows[i] = gather ? (int32_t) test_below(n + 2) : (int32_t) i;
    }
    if (gather && n > 1) {
        rows[n / 2] = -1;
    }
    TestBuf<int32_t>  dr(rows);

    ok(cu_norm(&t.dev, dx.p, dw.p, eps, gather ? dr.p : NULL, n, dim, want,
               &acts.a) == INFER_OK && t.sync(),
       "norm %u x %u, want %#x%s", n, dim, want, gather ? ", gather" : "");
    for (uint32_t r = 0; r < n; r++) {
        std::vector<double>  y(dim);
        double               ss = 0;

        if (rows[r] < 0) {                          /* untouched */
            same = same && acts.h.down()[(size_t) r * dim] == 99
                   && acts.q.down()[(size_t) r * dim] == 99
                   && acts.f8.down()[(size_t) r * dim] == 99;
            continue;
        }
        for (uint32_t i = 0; i < dim; i++) {
            y[i] = x[(size_t) rows[r] * dim + i];
            ss += y[i] * y[i];
        }
        for (uint32_t i = 0; i < dim; i++) {
            y[i] *= w[i] / sqrt(ss / dim + eps);
        }
        for (int f = 0; f < CU_N_FAMILIES; f++) {
            if (want >> f & 1) {
                worst = fmax(worst, norm_error(acts, f, r, y));
            }
        }
    }
    ok(worst <= 1 && same && acts.clean(),
       "norm %u x %u: %.3f of what rounding may cost", n, dim, worst);
}

/* A row's bits are its own: alone or among others; NaN stays where it is. */
static void
alone(TestDev &t)
{
    const uint32_t      dim = 576, n = 5, want = 1u << CU_Q8;
    std::vector<float>  x = some_rows(n, dim), w = test_floats(dim, 2);
    Acts                many(n, dim), one(1, dim);

    x[2 * dim + 17] = NAN;
    TestBuf<float>  dx(x), dw(w);

    cu_norm(&t.dev, dx.p, dw.p, 1e-6f, NULL, n, dim, want, &many.a);
    cu_norm(&t.dev, dx.p + 3 * dim, dw.p, 1e-6f, NULL, 1, dim, want, &one.a);
    t.sync();
    std::vector<int8_t>  q = many.q.down(), q1 = one.q.down();
    std::vector<float>   d = many.d.down(), d1 = one.d.down();

    ok(memcmp(&q[3 * dim], q1.data(), dim) == 0
       && memcmp(&d[3 * dim / 32], d1.data(), dim / 32 * sizeof(float)) == 0,
       "the bits of a row do not depend on the others");
    ok(isnan(d[2 * dim / 32]) && isnan(d[3 * dim / 32 - 1])
       && !isnan(d[2 * dim / 32 - 1]) && !isnan(d[3 * dim / 32]),
       "a NaN fails its row and no other");
}

static void
all(TestDev &t)
{
    static const uint32_t  dims[] = { 32, 96, 576, 1024, 2080, 4128, 16384 };

    for (size_t i = 0; i < N_OF(dims); i++) {
        for (size_t j = 0; j < N_OF(wants); j++) {
            if (test_quick() && (i + j) % 3 != 0) {
                continue;
            }
            quantize(t, i < 3 ? 5 : 2, dims[i], wants[j]);
            norm(t, i < 3 ? 5 : 2, dims[i], wants[j]);
        }
    }
    quantize(t, 2, 18944, 1u << CU_Q8 | 1u << CU_FP8);
    ok(cu_norm(&t.dev, NULL, NULL, 0, NULL, 0, 64, 1, NULL) == INFER_OK
       && cu_norm(&t.dev, NULL, NULL, 0, NULL, 1, 48, 1, NULL)
          == INFER_UNSUPPORTED
       && cu_norm(&t.dev, NULL, NULL, 0, NULL, 1, 32768, 1, NULL)
          == INFER_UNSUPPORTED, "no rows, and sizes that are refused");
    alone(t);
}

int
main(int argc, char **argv)
{
    test_begin(argc, argv);
    test_schedules(all);
    return test_end();
}
