/*
 * gemm_f_test.h: what the tests of the float families share: matrices and
 * activations on both sides, and one linear against sums in double precision
 * over the packed values, which are made here from the definitions of the
 * layouts, not by the packers.
 *
 * Error allowed of y[i, o], with S = sum_k |a w| (W4A16 with minima: S =
 * sum_k |a| (q |scale| + |min|), which are two sums):
 *     bf16, f16, W4A16   2^-20 S     f32 sums of a tensor core (an H200 needs
 *                                    a fifth of that)
 *     fp8 decode         2^-20 S     the same, of f16; but where tensor cores
 *                                    have e4m3 products, as the next
 *     fp8 prefill        2^-12 S     some keep fewer bits (an H200 needs half)
 *     W8A8               none: bits equal the definition
 *     W4A16 prefill      2^-8 S      weights rounded to bf16
 * Decode kernels: equal bits for any number of rows.
 */

#ifndef GEMM_F_TEST_H
#define GEMM_F_TEST_H

#include "cuda_test.h"
#include "gemm_f.h"

struct Case {
    cu_family_e  family;
    uint32_t     n_out, n_in, group;
    bool         min;             /* W4A16: CU_N4M */
};

/* A matrix as packed, and its values. */
struct Matrix {
    cu_weight_t            w;
    std::vector<uint8_t>   image;
    std::vector<float>     v;       /* [n_out][n_in], without the scale */
    std::vector<float>     scale;   /* [n_out], 1 where there is none */
    std::vector<float>     mag;     /* what S sums, [n_out][n_in] */
    TestBuf<uint8_t>       dev;
};

static float
round16(cu_family_e family, float x)
{
    return family == CU_F16 ? cpu_f16_to_f32(cpu_f32_to_f16(x))
                            : cpu_bf16_to_f32(cpu_f32_to_bf16(x));
}

static void
make_plain(Matrix &m, const Case &c)
{
    std::vector<float>  x((size_t) c.n_out * c.n_in);
    uint64_t            bytes;
    int                 lossy;

    for (float &f : x) {
        f = test_f32() * 0.1f;
    }

    if (cu_pack_f_plan(KERN_F32, c.n_out, c.n_in, c.family, &m.w, &bytes,
                       &lossy) != INFER_OK)
    {
        ok(0, "plan");
        return;
    }

    m.image.assign(bytes, 0xa5);
    m.v.resize(x.size());
    m.scale.assign(c.n_out, 1.0f);

    for (uint32_t r = 0; r < c.n_out; r += CU_PACK_ROWS) {
        const uint32_t  n = c.n_out - r < CU_PACK_ROWS ? c.n_out - r
                                                       : CU_PACK_ROWS;

        cu_pack_f_rows(&m.w, KERN_F32, m.image.data(), NULL,
                       x.data() + (size_t) r * c.n_in, r, n);
    }

    for (uint32_t o = 0; o < c.n_out; o++) {
        const float  *row = x.data() + (size_t) o * c.n_in;
        float         max = 0;

        for (uint32_t k = 0; k < c.n_in; k++) {
            max = fmaxf(max, fabsf(row[k]));
        }

        if (c.family == CU_FP8 || c.family == CU_W8A8) {
            m.scale[o] = max / (c.family == CU_FP8 ? 448.0f : 127.0f);
        }

        for (uint32_t k = 0; k < c.n_in; k++) {
            const float  q = row[k] * (1.0f / m.scale[o]);

            m.v[(size_t) o * c.n_in + k] =
                c.family == CU_FP8 ? cu_e4m3_value(cu_e4m3(q))
                : c.family == CU_W8A8 ? nearbyintf(q)
                : round16(c.family, row[k]);
        }
    }

    m.mag = m.v;
}

static void
make_w4(Matrix &m, const Case &c)
{
    const uint32_t         groups = (c.n_in + c.group - 1) / c.group;
    std::vector<uint8_t>   q((size_t) c.n_out * c.n_in);
    std::vector<uint16_t>  s((size_t) c.n_out * groups), z(s.size());

    memset(&m.w, 0, sizeof(m.w));
    m.w.family = CU_W4A16;
    m.w.form = c.min ? CU_N4M : CU_N4Z;
    m.w.group = c.group;
    m.w.n_out = c.n_out;
    m.w.n_in = c.n_in;
    m.image.assign(cu_pack_f_bytes(&m.w), 0xa5);
    m.v.resize(q.size());
    m.mag.resize(q.size());
    m.scale.assign(c.n_out, 1.0f);

    for (uint8_t &x : q) {
        x = (uint8_t) test_below(16);
    }

    for (size_t i = 0; i < s.size(); i++) {
        s[i] = cpu_f32_to_f16(test_f32() * 0.02f);
        z[i] = cpu_f32_to_f16(test_f32() * 0.1f);
    }

    for (uint32_t r = 0; r < c.n_out; r += CU_PACK_ROWS) {
        const uint32_t  n = c.n_out - r < CU_PACK_ROWS ? c.n_out - r
                                                       : CU_PACK_ROWS;

        cu_pack_w4_rows(&m.w, m.image.data(), q.data() + (size_t) r * c.n_in,
                        s.data() + (size_t) r * groups,
                        c.min ? z.data() + (size_t) r * groups : NULL, r, n);
    }

    for (uint32_t o = 0; o < c.n_out; o++) {
        for (uint32_t k = 0; k < c.n_in; k++) {
            const size_t  i = (size_t) o * c.n_in + k;
            const size_t  g = (size_t) o * groups + k / c.group;
            const float   d = cpu_f16_to_f32(s[g]);
            const float   b = c.min ? cpu_f16_to_f32(z[g]) : -8 * d;

            m.v[i] = (float) ((double) d * q[i] + b);
            m.mag[i] = c.min ? q[i] * fabsf(d) + fabsf(b) : fabsf(m.v[i]);
        }
    }
}

static void
make(Matrix &m, const Case &c)
{
    if (c.family == CU_W4A16) {
        make_w4(m, c);
    } else {
        make_plain(m, c);
    }

    m.dev.alloc(m.image.size());
    m.dev.up(m.image.data());
    cu_pack_f_place(&m.w, m.dev.p);
}

/* Activations of n rows, on both sides. */
struct Acts {
    std::vector<float>  v;          /* [n][n_in], without the scale */
    std::vector<float>  row;        /* [n] */
    TestBuf<uint8_t>    dev;
    TestBuf<float>      dev_row;
    cu_acts_t           a;
};

static void
make_acts(Acts &x, cu_family_e family, uint32_t n, uint32_t n_in)
{
    const size_t          count = (size_t) n * n_in;
    const bool            half = family == CU_BF16 || family == CU_F16
                                 || family == CU_W4A16;
    std::vector<uint8_t>  raw(count * (half ? 2 : 1));

    x.v.resize(count);
    x.row.assign(n, 1.0f);

    for (size_t i = 0; i < count; i++) {
        const float  f = test_f32();

        if (half) {
            const uint16_t  h = family == CU_F16 ? cpu_f32_to_f16(f)
                                                 : cpu_f32_to_bf16(f);

            memcpy(&raw[2 * i], &h, 2);
            x.v[i] = round16(family, f);

        } else if (family == CU_FP8) {
            raw[i] = cu_e4m3(f * 448.0f);
            x.v[i] = cu_e4m3_value(raw[i]);

        } else {
            x.v[i] = nearbyintf(f * 127.0f);
            raw[i] = (uint8_t) (int8_t) x.v[i];
        }
    }

    if (!half) {
        for (float &f : x.row) {
            f = 0.001f + 0.01f * fabsf(test_f32());
        }
    }

    x.dev.alloc(raw.size());
    x.dev.up(raw.data());
    x.dev_row.alloc(n);
    x.dev_row.up(x.row.data());
    memset(&x.a, 0, sizeof(x.a));
    x.a.q = (int8_t *) x.dev.p;
    x.a.h = (uint16_t *) (void *) x.dev.p;
    x.a.f8 = x.dev.p;
    x.a.row = x.dev_row.p;
    x.a.n_in = n_in;
}

static double
tolerance(const cu_dev_t &dev, cu_family_e family, uint32_t n)
{
    const bool  products = dev.cc < 90 || dev.cc >= 120;

    return family == CU_FP8 && (n > CU_F_DECODE || products) ? ldexp(1, -12)
           : family == CU_W4A16 && n > CU_F_DECODE && dev.work != NULL
           ? ldexp(1, -8)
           : ldexp(1, -20);
}

/* Rows of y [n, ld] at column col against the matrix; the worst error in
 * units of S. W8A8: 0 or, where bits differ, 1. */
static double
worst(const Matrix &m, const Acts &x, uint32_t n, const float *y, uint32_t ld,
    uint32_t col, const float *before)
{
    double  bad = 0;

    for (uint32_t i = 0; i < n; i++) {
        for (uint32_t o = 0; o < m.w.n_out; o++) {
            const float  *a = x.v.data() + (size_t) i * m.w.n_in;
            const size_t  at = (size_t) o * m.w.n_in;
            const float   got = y[(size_t) i * ld + col + o];
            const float   old = before == NULL ? 0
                                : before[(size_t) i * ld + col + o];
            const double  f = (double) x.row[i] * m.scale[o];
            double        sum = 0, mag = 0;

            for (uint32_t k = 0; k < m.w.n_in; k++) {
                sum += (double) a[k] * m.v[at + k];
                mag += fabs(a[k]) * fabs(m.mag[at + k]);
            }

            if (m.w.family == CU_W8A8) {
                const float  s = x.row[i] * m.scale[o];
                const float  want = (float) sum * s;
                const float  all = before == NULL ? want : old + want;

                bad = memcmp(&got, &all, 4) == 0 ? bad : 1;
                continue;
            }

            mag = mag * fabs(f) + fabs(old) + 1e-30;
            bad = fmax(bad, isfinite(got) ? fabs(got - (sum * f + old)) / mag
                                          : 1e9);
        }
    }

    return bad;
}

static const char *
name(const Case &c)
{
    static const char  *const  names[] = { "q8", "bf16", "f16", "W4A16",
                                           "fp8", "W8A8" };

    return c.family == CU_W4A16 && c.min ? "W4A16 min" : names[c.family];
}

/* One matrix, many row counts: values, canaries, bits of decode. */
TEST_UNUSED static void
linear(TestDev &t, const Case &c, const std::vector<uint32_t> &rows,
    bool add)
{
    /* rows of y at multiples of 16 bytes where it has n_out to match */
    const uint32_t  ld = c.n_out + (c.n_out % 8 == 0 ? 4 : 3);
    uint32_t        most = 0;
    Matrix          m;
    Acts            x;
    double          bad = 0;
    bool            same = true, clean = true;

    for (uint32_t n : rows) {
        most = n > most ? n : most;
    }

    make(m, c);
    make_acts(x, c.family, most, c.n_in);

    std::vector<float>  first, before((size_t) most * ld);

    for (float &f : before) {
        f = test_f32();
    }

    for (uint32_t n : rows) {
        const size_t        count = (size_t) n * ld;
        TestBuf<float>      y;
        cu_linear_t         l = {};
        std::vector<float>  got(count);

        y.alloc(count);
        y.up(before.data());
        l.w[0] = &m.w;
        l.y = y.p;
        l.ldy = ld;
        l.add = add;

        if (cu_linear_f(&t.dev, &l, &x.a, n) != INFER_OK
            || !t.sync())
        {
            ok(0, "%s launch of %u rows", name(c), n);
            return;
        }

        y.down(got.data());
        clean = clean && y.clean();

        for (uint32_t i = 0; i < n; i++) {
            for (uint32_t k = c.n_out; k < ld; k++) {
                clean = clean && got[(size_t) i * ld + k]
                                 == before[(size_t) i * ld + k];
            }
        }

        bad = fmax(bad, worst(m, x, n, got.data(), ld, 0,
                              add ? before.data() : NULL)
                        / tolerance(t.dev, c.family, n));

        if (n <= CU_F_DECODE) {
            const size_t  both = first.size() < count ? first.size() : count;

            same = same && memcmp(first.data(), got.data(),
                                  both * sizeof(float)) == 0;

            if (first.size() < count) {
                first.swap(got);
            }
        }
    }

    ok(bad <= (c.family == CU_W8A8 ? 0 : 1) && same && clean,
       "%s %ux%u%s: error %.3f of what is allowed%s%s", name(c), c.n_out,
       c.n_in, add ? " added" : "", bad, same ? "" : ", bits differ",
       clean ? "" : ", wrote outside");
}

#endif
