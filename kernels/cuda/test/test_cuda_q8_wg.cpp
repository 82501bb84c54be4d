/*
 * test_cuda_q8_wg.cpp: a candidate of kernels/cuda/bench, linears of the q8
 * family by wgmma: bits equal to ref-q8 for every form, so that it still
 * fits when a device is there to measure it. On a GPU of compute capability
 * 9.0 alone, where it is wgmma; emulated, what stands for that.
 */

#include "test_q8.h"
#include "../bench/gemm_q8_wg.cuh"

typedef int (*launch_pt)(const cu_dev_t *dev, cu_q8_args_t *p);

/* One launch of two matrices against ref. */
static bool
equal(TestDev &t, launch_pt launch, TestMatrix *const m[2], const TestActs &x,
    uint32_t n, int add)
{
    const cu_traits_t   tr = cu_traits(m[0]->w.form);
    uint32_t            ld = m[0]->w.n_out + m[1]->w.n_out + 5, at = 0;
    std::vector<float>  want = test_floats((size_t) n * ld), got;
    TestBuf<float>      y(want);
    TestBuf<uint8_t>    work(q8_wg_work(m[0]->w.form, x.n_in, n));
    cu_q8_args_t        p;

    memset(&p, 0, sizeof(p));
    for (uint32_t i = 0; i < 2; i++) {
        const cu_weight_t  &w = m[i]->w;

        p.part[i].data = w.data;
        p.part[i].scale = (const uint8_t *) w.scale;
        p.part[i].min = (const uint8_t *) w.min;
        p.part[i].y = y.p + at;
        p.part[i].n_out = w.n_out;
        test_linear_ref(*m[i], x, n, want.data() + at, ld, add);
        at += w.n_out;
    }
    p.n_parts = 2;
    p.q = x.a.q;
    p.d = x.a.d;
    p.dsum = !tr.min ? NULL : tr.subs == 2 ? x.a.dsum2 : x.a.dsum;
    p.n_in = x.n_in;
    p.n = n;
    p.ldy = ld;
    p.add = add;
    t.dev.work = work.p;
    t.dev.work_bytes = work.bytes();
    if (launch(&t.dev, &p) != INFER_OK || !t.sync()) {
        return false;
    }
    got = y.down();
    for (size_t i = 0; i < want.size(); i++) {
        if (memcmp(&want[i], &got[i], sizeof(float)) != 0) {
            diag("%u rows: row %zu column %zu: %a, not %a", n, i / ld, i % ld,
                 (double) got[i], (double) want[i]);
            return false;
        }
    }
    return y.clean() && work.clean();
}

/* A form at ragged numbers of rows, outputs and columns, fewer and more than
 * the stages in shared memory hold. */
template <int FORM>
static void
form(TestDev &t, uint32_t type)
{
    using F = Q8Form<FORM>;
    const uint32_t  block = type == KERN_Q4_0 || type == KERN_Q4_1
                            || type == KERN_Q8_0 || type == KERN_Q5_1
                            ? 32 : 256;
    bool            same = true;

    for (uint32_t n_in : { block, block == 32 ? 288u : 1280u, 32 * block }) {
        TestMatrix   a, b;
        TestMatrix  *m[2] = { &a, &b };
        TestActs     x;

        if (n_in > 1280 || (test_quick() && n_in > 288)) {
            continue;
        }
        x.make(97, n_in);
        same = same && a.make(type, 200, n_in) && b.make(type, 17, n_in)
               && a.w.form == FORM
               && equal(t, q8_wg_launch<Q8Wg<FORM, 1, 2, 1, false, 8, 3>>, m,
                        x, 13, 1)
               && equal(t, q8_wg_launch<Q8Wg<FORM, 1, 4, 1, true, 5, 3>>, m,
                        x, 33, 0)
               && equal(t, q8_wg_launch<Q8Wg<FORM, 2, 8, 1, true, 4, 1>>, m,
                        x, 65, 1);
        if constexpr (!F::min && F::subs == 1) {
            same = same
                   && equal(t, q8_wg_launch<Q8Wg<FORM, 3, 12, 1, true, 4, 1>>,
                            m, x, 97, 0)
                   && equal(t, q8_wg_launch<Q8Wg<FORM, 2, 16, 1, true, 4, 1>>,
                            m, x, 97, 0);
        }
    }
    ok(same, "%s: equals ref-q8", kern_type_name(type));
}

static void
all(TestDev &t)
{
    form<CU_N4Z>(t, KERN_Q4_0);
    form<CU_N4M>(t, KERN_Q4_1);
    form<CU_N4S>(t, KERN_Q4_K);
    form<CU_B8H>(t, KERN_Q8_0);
    form<CU_B8HM>(t, KERN_Q5_1);
    form<CU_B8S>(t, KERN_Q8_K);
    form<CU_B8SM>(t, KERN_Q5_K);
    form<CU_B8S2>(t, KERN_Q6_K);
    form<CU_B8SM2>(t, KERN_Q2_K);
}

int
main(int argc, char **argv)
{
    cudaDeviceProp  prop;

    test_begin(argc, argv);
    if (getenv("SIMT_PTX") != NULL
        || cudaGetDeviceProperties(&prop, 0) != cudaSuccess
        || prop.major != 9)
    {
        printf("1..0 # SKIP not in the plugin's PTX, for sm_90a alone\n");
        return 0;
    }
    test_cpu_open();
    test_schedules(all);
    kern_init("cpu", "ref-q8", NULL)->close(test_cpu);
    return test_end();
}
