/*
 * test_cuda_gemm.cpp: linears of the q8 family: for any number of rows and
 * every type, bits equal to ref-q8 on the same GGUF bytes; nothing else is
 * written.
 */

#include "test_q8.h"

/* Multiply-adds of one launch: an emulator works here. */
#define MACS  (4u << 20)

static const uint32_t  all_rows[] = { 1, 2, 3, 7, 8, 9, 15, 16, 17, 33, 64,
                                      65, 129 };
static const uint32_t  outs[] = { 1, 15, 16, 17, 63, 64, 65, 200 };
static const uint32_t  ins[] = { 32, 64, 96, 256, 288, 576 };

/* Equal bits; NaN is NaN, whose bits differ between CPUs and GPUs. The first
 * difference is printed. */
static bool
same_bits(const std::vector<float> &want, const std::vector<float> &got,
    uint32_t ld)
{
    for (size_t i = 0; i < want.size(); i++) {
        if (memcmp(&want[i], &got[i], sizeof(float)) != 0
            && !(isnan(want[i]) && isnan(got[i])))
        {
            diag("row %zu column %zu: %a, not %a", i / ld, i % ld,
                 (double) got[i], (double) want[i]);
            return false;
        }
    }
    return true;
}

/* One launch of up to three matrices against ref. */
static bool
equal(TestDev &t, TestMatrix *const *m, uint32_t n_m, const TestActs &x,
    uint32_t n, int add)
{
    uint32_t            ld = 5, at = 0;
    cu_linear_t         l;
    std::vector<float>  want, got;
    TestBuf<float>      y;

    memset(&l, 0, sizeof(l));
    for (uint32_t i = 0; i < n_m; i++) {
        l.w[i] = &m[i]->w;
        ld += m[i]->w.n_out;
    }
    want = test_floats((size_t) n * ld, 1);
    y.alloc(want.size());
    y.up(want);
    l.y = y.p;
    l.ldy = ld;
    l.add = add;
    if (cu_linear(&t.dev, &l, &x.a, n) != INFER_OK || !t.sync()) {
        return false;
    }
    for (uint32_t i = 0; i < n_m; i++) {
        test_linear_ref(*m[i], x, n, want.data() + at, ld, add);
        at += m[i]->w.n_out;
    }
    got = y.down();
    return same_bits(want, got, ld) && y.clean();
}

/* All row counts for one matrix; how many were wrong. */
static uint32_t
wrong_rows(TestDev &t, TestMatrix &m, const TestActs &x, uint32_t step)
{
    TestMatrix  *one[1] = { &m };
    uint32_t     bad = 0;

    for (uint32_t i = 0; i < N_OF(all_rows); i += step) {
        const uint32_t  n = all_rows[i];

        if ((uint64_t) n * m.w.n_out * m.w.n_in > MACS) {
            continue;
        }
        if (!equal(t, one, 1, x, n, (int) ((i / step + 1) & 1))) {
            diag("%s %u x %u: %u rows differ", kern_type_name(m.type),
                 m.w.n_out, m.w.n_in, n);
            bad++;
        }
    }
    return bad;
}

static void
types(TestDev &t)
{
    for (uint32_t type : test_types) {
        uint32_t  bad = 0, values, bytes, shapes = 0;

        kern_type_layout(type, &values, &bytes);
        if (values == 1) {
            continue;
        }
        for (uint32_t n_in : ins) {
            TestActs  x;

            if (n_in % values != 0 || (test_quick() && n_in > 96)) {
                continue;
            }
            x.make(129, n_in);
            for (uint32_t i = 0; i < N_OF(outs); i++) {
                TestMatrix  m;

                /* every shape of some type, some shapes of every type */
                if ((i + n_in / 32 + type) % (test_quick() ? 8 : 3) != 0) {
                    continue;
                }
                if (!m.make(type, outs[i], n_in)) {
                    bad++;
                    continue;
                }
                bad += wrong_rows(t, m, x, outs[i] > 64 ? 2 : 1);
                shapes++;
            }
        }
        ok(bad == 0, "%s: equals ref-q8 (%u shapes)", kern_type_name(type),
           shapes);
    }
}

/* q, k and v of different types and sizes in one call. */
static void
segments(TestDev &t)
{
    static const uint32_t  type[][3] = {
        { KERN_Q4_0, KERN_Q4_0, KERN_Q4_0 },
        { KERN_Q4_K, KERN_Q4_K, KERN_Q6_K },
        { KERN_Q8_0, KERN_Q4_1, KERN_Q5_0 }
    };
    TestActs  x;

    x.make(65, 256);
    for (const uint32_t *ty : type) {
        TestMatrix   m[3];
        TestMatrix  *at[3] = { &m[0], &m[1], &m[2] };
        bool         same = m[0].make(ty[0], 70, 256)
                            && m[1].make(ty[1], 33, 256)
                            && m[2].make(ty[2], 17, 256);

        for (uint32_t n : { 1u, 5u, 16u, 65u }) {
            same = same && equal(t, at, 3, x, n, n == 5)
                   && equal(t, at, 2, x, n, n == 16);
        }
        ok(same, "%s, %s, %s in one call", kern_type_name(ty[0]),
           kern_type_name(ty[1]), kern_type_name(ty[2]));
    }
}

/* Sums at the edge of what fits, and a row that is not a number. */
static void
extremes(TestDev &t)
{
    static const uint32_t  type[] = { KERN_Q4_0, KERN_Q4_1, KERN_Q8_0,
                                      KERN_Q5_1 };

    for (uint32_t ty : type) {
        bool  same = true;

        for (int fill = 0; fill < 2; fill++) {
            const uint32_t  head = ty == KERN_Q4_1 || ty == KERN_Q5_1 ? 4 : 2;
            TestMatrix      m;
            TestActs        x;
            uint32_t        values, bytes;

            x.make(9, 64);
            for (int8_t &q : x.q) {
                q = -127;
            }
            for (size_t i = 0; i < x.nsum.size(); i++) {
                x.nsum[i] = 32 * 127;
                x.hsum[2 * i] = x.hsum[2 * i + 1] = 16 * 127;
            }
            x.d[2] = x.dsum[2] = NAN;
            x.up();

            kern_type_layout(ty, &values, &bytes);
            m.fill = fill ? 0xff ^ (ty == KERN_Q8_0 ? 0x80 : 0)
                          : ty == KERN_Q8_0 ? 0x80 : 0;
            m.fill_from = head;
            same = same && m.make(ty, 33, 64);

            TestMatrix  *one[1] = { &m };

            same = same && equal(t, one, 1, x, 1, 0)
                   && equal(t, one, 1, x, 9, 0);
        }
        ok(same, "%s: extremes", kern_type_name(ty));
    }
}

/* More columns than the stages in shared memory hold at once, of every form,
 * for every number of rows that has kernels of its own; as on a device so
 * small that large tiles fill it, too. */
static void
deep(TestDev &t)
{
    static const uint32_t  rows[] = { 1, 2, 4, 8, 16, 17, 65 };
    const int              n_sms = t.dev.n_sms;
    uint32_t               seen = 0;

    for (uint32_t type : test_types) {
        TestMatrix   m, wide;
        TestMatrix  *one[1] = { &m }, *both[2] = { &m, &wide };
        TestActs     x;
        uint32_t     values, bytes;
        bool         same;

        kern_type_layout(type, &values, &bytes);
        if (values == 1 || !m.make(type, 17, 5632)
            || (seen & 1u << m.w.form) != 0)
        {
            continue;
        }
        seen |= 1u << m.w.form;
        x.make(16, 5632);
        same = true;
        for (uint32_t n : rows) {
            same = same && (n > 16 || equal(t, one, 1, x, n, n == 2));
        }

        x.make(65, 1280);
        same = same && m.make(type, 17, 1280) && wide.make(type, 16, 1280);
        t.dev.n_sms = 132;
        same = same && equal(t, both, 2, x, 65, 1);
        t.dev.n_sms = 1;
        for (uint32_t n : rows) {
            same = same && equal(t, both, n == 16 ? 1 : 2, x, n, n != 65);
        }

        /* a whole large tile, and two small ones */
        x.make(65, 256);
        same = same && m.make(type, 128, 256) && equal(t, one, 1, x, 65, 1);
        t.dev.n_sms = 132;
        same = same && equal(t, one, 1, x, 65, 1);
        t.dev.n_sms = n_sms;
        ok(same, "%s: many columns", kern_type_name(type));
    }
}

static void
all(TestDev &t)
{
    types(t);
    deep(t);
    segments(t);
    extremes(t);
}

int
main(int argc, char **argv)
{
    test_begin(argc, argv);
    test_cpu_open();
    test_schedules(all);
    kern_init("cpu", "ref-q8", NULL)->close(test_cpu);
    return test_end();
}
