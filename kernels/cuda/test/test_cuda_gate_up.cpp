/*
 * test_cuda_gate_up.cpp: gate and up of the q8 family, silu(gate) * up and
 * its quantized forms: q8 equal bits to the same steps of kernels/ref, the
 * others what cu_quantize() makes of ref's values.
 */

#include "test_q8.h"

template <typename T>
static bool
equal(const TestBuf<T> &a, const std::vector<T> &b)
{
    const std::vector<T>  v = a.down();

    return memcmp(v.data(), b.data(), b.size() * sizeof(T)) == 0;
}

/* Gate, up and silu by ref into f [n, F]. */
static std::vector<float>
reference(const TestMatrix &gate, const TestMatrix &up, const TestActs &x,
    uint32_t n)
{
    const uint32_t      F = gate.w.n_out;
    std::vector<float>  g((size_t) n * F), u(g.size()), y(g.size());

    test_linear_ref(gate, x, n, g.data(), F, 0);
    test_linear_ref(up, x, n, u.data(), F, 0);
    cpu_inner("ref-q8")->silu_mul(y.data(), g.data(), u.data(), n * F);
    return y;
}

static bool
run(TestDev &t, const TestMatrix &gate, const TestMatrix &up,
    const TestActs &x, uint32_t n, uint32_t want)
{
    const uint32_t            F = gate.w.n_out;
    const std::vector<float>  y = reference(gate, up, x, n);
    TestBuf<float>            scratch((size_t) n * 2 * F), dy(y);
    TestForms                 out(n, F), other(n, F);
    TestActs                  q8;
    bool                      same = true;

    if (cu_gate_up(&t.dev, &gate.w, &up.w, &x.a, n, want, &out.a, scratch.p)
        != INFER_OK
        || cu_quantize(&t.dev, dy.p, n, F, want, &other.a) != INFER_OK
        || !t.sync())
    {
        return false;
    }
    if (want & 1u << CU_Q8) {
        q8.make(n, F);
        for (uint32_t r = 0; r < n; r++) {
            cpu_inner("ref-q8")->quantize(&q8.cpu, r, 0, F / 32,
                                          y.data() + (size_t) r * F);
        }
        q8.up();
        same = equal(out.q, q8.q) && equal(out.d, q8.d)
               && equal(out.dsum, q8.dsum) && equal(out.dsum2, q8.dsum2);
    }
    if (want & (1u << CU_BF16 | 1u << CU_F16 | 1u << CU_W4A16)) {
        same = same && equal(out.h, other.h.down());
    }
    if (want & 1u << CU_FP8) {
        same = same && equal(out.f8, other.f8.down())
               && equal(out.row, other.row.down());
    }
    if (want & 1u << CU_W8A8) {
        same = same && equal(out.q, other.q.down())
               && equal(out.row, other.row.down());
    }
    return same && out.clean() && scratch.clean();
}

static void
all(TestDev &t)
{
    static const struct {
        uint32_t  gate, up, F, D, want;
    } shape[] = {
        { KERN_Q4_0, KERN_Q4_0, 96, 288, 1u << CU_Q8 },
        { KERN_Q4_K, KERN_Q4_K, 64, 256, 1u << CU_Q8 | 1u << CU_BF16 },
        { KERN_Q8_0, KERN_Q8_0, 160, 64, 1u << CU_Q8 | 1u << CU_F16 },
        { KERN_Q6_K, KERN_Q6_K, 32, 256, 1u << CU_Q8 },
        { KERN_Q4_K, KERN_Q6_K, 64, 256, 1u << CU_Q8 },
        { KERN_Q4_1, KERN_Q4_1, 96, 96, 1u << CU_FP8 | 1u << CU_BF16 },
        { KERN_Q5_0, KERN_Q5_0, 96, 96, 1u << CU_W8A8 },
        { KERN_Q4_0, KERN_Q4_0, 64, 64, 1u << CU_W4A16 },
        { KERN_Q4_1, KERN_Q4_1, 32, 64, 1u << CU_Q8 | 1u << CU_F16 },
        { KERN_Q4_1, KERN_Q4_1, 32, 64, 1u << CU_BF16 },
        { KERN_Q5_1, KERN_Q5_1, 32, 64, 1u << CU_Q8 | 1u << CU_F16 },
        { KERN_Q5_1, KERN_Q5_1, 32, 64, 1u << CU_BF16 },
        { KERN_IQ4_XS, KERN_IQ4_XS, 32, 256, 1u << CU_Q8 | 1u << CU_F16 },
        { KERN_IQ4_XS, KERN_IQ4_XS, 32, 256, 1u << CU_BF16 },
        { KERN_Q5_K, KERN_Q5_K, 32, 256, 1u << CU_Q8 | 1u << CU_F16 },
        { KERN_Q5_K, KERN_Q5_K, 32, 256, 1u << CU_BF16 },
        { KERN_Q2_K, KERN_Q2_K, 32, 256, 1u << CU_Q8 | 1u << CU_F16 },
        { KERN_Q2_K, KERN_Q2_K, 32, 256, 1u << CU_BF16 },
        { KERN_Q3_K, KERN_Q3_K, 32, 256, 1u << CU_F16 },
        { KERN_Q3_K, KERN_Q3_K, 32, 256, 1u << CU_BF16 },
        { KERN_Q4_K, KERN_Q4_K, 32, 256, 1u << CU_F16 },
        { KERN_Q8_0, KERN_Q8_0, 32, 64, 1u << CU_BF16 },
        { KERN_Q4_0, KERN_Q4_0, 32, 64, 1u << CU_F16 }
    };
    static const uint32_t  rows[] = { 1, 2, 4, 7, 9, 17, 65 };

    for (size_t i = 0; i < N_OF(shape); i++) {
        TestMatrix  gate, up;
        TestActs    x;
        bool        same;

        x.make(65, shape[i].D);
        same = gate.make(shape[i].gate, shape[i].F, shape[i].D)
               && up.make(shape[i].up, shape[i].F, shape[i].D);
        for (uint32_t n : rows) {
            if (test_quick() && n > 9) {
                continue;
            }
            if (same && !run(t, gate, up, x, n, shape[i].want)) {
                diag("%u rows differ", n);
                same = false;
            }
        }
        ok(same, "%s, %s, %u x %u, families %#x",
           kern_type_name(shape[i].gate), kern_type_name(shape[i].up),
           shape[i].F, shape[i].D, shape[i].want);
    }
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
