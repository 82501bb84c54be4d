/*
 * gate_up.cu: cu_gate_up(): the linears of gate and up, silu(gate) * up, and its quantization.
 */

#include "dev.cuh"
#include "gemm.h"
#include "gemm_f.h"

#define SILU_THREADS  256
#define SILU_BLOCKS   8            /* of an SM */

/* kern_exp() of kernels/ref, the same operations in the same order. */
DEV_INLINE float
silu_exp(float x)
{
    float  t, n, r, p;

    if (x < -87.0f) {
        return 0.0f;
    }
    if (x > 88.37f) {
        return __uint_as_float(0x7f800000);
    }
    t = fmaf(x, 0x1.715476p+0f, 0x1.8p+23f);
    n = t - 0x1.8p+23f;
    r = fmaf(n, -0x1.62e400p-1f, x);
    r = fmaf(n, -0x1.7f7d1cp-20f, r);
    p = fmaf(r, 1.0f / 5040, 1.0f / 720);
    p = fmaf(p, r, 1.0f / 120);
    p = fmaf(p, r, 1.0f / 24);
    p = fmaf(p, r, 1.0f / 6);
    p = fmaf(p, r, 0.5f);
    p = fmaf(p, r, 1.0f);
    p = fmaf(p, r, 1.0f);
    return p * __uint_as_float((__float_as_uint(t) << 23) + 0x3f800000);
}

/* silu_k: g[i] = silu(g[i]) * u[i]
 * shapes   g, u f32 [n], n % 4 == 0
 * launch   up to 8 blocks of 256 an SM, four values a thread and turn
 * math     equal bits to kern_silu_mul_ref
 * traffic  12 n bytes     bound: L2, which holds what the linears wrote
 * measured not measured
 * source   ref_vec.c */
__global__ void __launch_bounds__(SILU_THREADS)
silu_k(float *g, const float *u, uint64_t n)
{
    const uint64_t  step = (uint64_t) gridDim.x * SILU_THREADS * 4;

    dev_wait();
    dev_launch_dependents();
    for (uint64_t i = ((uint64_t) blockIdx.x * SILU_THREADS + threadIdx.x) * 4; i < n; i += step) {
        const uint4     a = ld16a(g + i), b = ld16a(u + i);
        const uint32_t  x[4] = { a.x, a.y, a.z, a.w }, y[4] = { b.x, b.y, b.z, b.w };
        uint32_t        v[4];

        for (int k = 0; k < 4; k++) {
            const float  f = __uint_as_float(x[k]);

            v[k] = __float_as_uint(f / (1.0f + silu_exp(-f)) * __uint_as_float(y[k]));
        }
        st16(g + i, make_uint4(v[0], v[1], v[2], v[3]));
    }
}

int
cu_gate_up(const cu_dev_t *dev, const cu_weight_t *gate, const cu_weight_t *up, const cu_acts_t *a,
    uint32_t n, uint32_t want, const cu_acts_t *out, float *scratch)
{
    const uint64_t  count = (uint64_t) n * gate->n_out;
    const uint64_t  blocks = (count / 4 + SILU_THREADS - 1) / SILU_THREADS;
    const uint32_t  most = (uint32_t) dev->n_sms * SILU_BLOCKS;
    cu_linear_t     l = { { gate, NULL, NULL }, scratch, gate->n_out, 0 };
    int             rc;

    if (n == 0) {
        return INFER_OK;
    }
    if (gate->family != CU_Q8 && cu_gate_up_f_fuses(gate, up, n, want)) {
        return cu_gate_up_f(dev, gate, up, a, n, want, out);
    }
    rc = cu_linear(dev, &l, a, n);
    if (rc == INFER_OK) {
        l.w[0] = up;
        l.y = scratch + count;
        rc = cu_linear(dev, &l, a, n);
    }
    if (rc == INFER_OK) {
        rc = dev_launch(dev, silu_k, dim3(blocks < most ? (uint32_t) blocks : most),
                        dim3(SILU_THREADS), 0, scratch, scratch + count, count);
    }
    return rc == INFER_OK ? cu_quantize(dev, scratch, n, gate->n_out, want, out) : rc;
}
