/*
 * gate_up.cu: cu_gate_up(): the linears of gate and up, silu(gate) * up, and its quantization.
 */

#include "gemm.h"
#include "gemm_f.h"
#include "quant.cuh"

#define SILU_THREADS  256

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

/* silu_k: a[t, :] = quantized(silu(g[t, :]) * u[t, :]); PLAIN: g[t, :] = that, not quantized
 * shapes   g, u f32 [n, F] one after the other, F % 32 == 0
 * launch   blocks of 256, four values a thread
 * math     equal bits to kern_silu_mul_ref and kern_quantize_ref
 * traffic  8 n F bytes in, the forms out     bound: L2, which holds what the linears wrote
 * measured not measured
 * source   ref_vec.c */
template <bool PLAIN>
__global__ void __launch_bounds__(SILU_THREADS)
silu_k(float *g, const float *u, uint64_t n, uint32_t want, cu_acts_t a)
{
    const uint64_t  i = ((uint64_t) blockIdx.x * SILU_THREADS + threadIdx.x) * 4;
    const bool      on = i < n;
    float           v[4] = { 0, 0, 0, 0 };

    dev_wait();
    dev_launch_dependents();
    if (on) {
        const uint4     x = ld16a(g + i), y = ld16a(u + i);
        const uint32_t  f[4] = { x.x, x.y, x.z, x.w }, m[4] = { y.x, y.y, y.z, y.w };

        for (int k = 0; k < 4; k++) {
            const float  s = __uint_as_float(f[k]);

            v[k] = s / (1.0f + silu_exp(-s)) * __uint_as_float(m[k]);
        }
    }
    if (!PLAIN) {
        norm_put(a, want, i, v, on);
    } else if (on) {
        st16(g + i, make_uint4(__float_as_uint(v[0]), __float_as_uint(v[1]),
                               __float_as_uint(v[2]), __float_as_uint(v[3])));
    }
}

/* Both products into scratch: gate's [n, F], then up's. */
static int
gate_up_linear(const cu_dev_t *dev, const cu_weight_t *gate, const cu_weight_t *up,
    const cu_acts_t *a, uint32_t n, float *scratch)
{
    const cu_weight_t  *w[2] = { gate, up };
    float              *y[2] = { scratch, scratch + (uint64_t) n * gate->n_out };
    cu_linear_t         l;
    int                 rc = INFER_OK;

    if (gate->family == CU_Q8 && cu_linear_alike(gate, up)) {
        return cu_linear_q8(dev, w, y, 2, a, n, gate->n_out, 0);
    }
    for (int i = 0; i < 2 && rc == INFER_OK; i++) {
        memset(&l, 0, sizeof(l));
        l.w[0] = w[i];
        l.y = y[i];
        l.ldy = gate->n_out;
        rc = cu_linear(dev, &l, a, n);
    }
    return rc;
}

int
cu_gate_up(const cu_dev_t *dev, const cu_weight_t *gate, const cu_weight_t *up, const cu_acts_t *a,
    uint32_t n, uint32_t want, const cu_acts_t *out, float *scratch)
{
    const uint64_t  count = (uint64_t) n * gate->n_out;
    const dim3      blocks((uint32_t) ((count / 4 + SILU_THREADS - 1) / SILU_THREADS));
    const bool      rows = (want & NORM_ROW) != 0;     /* scales of whole rows */
    int             rc;

    if (n == 0) {
        return INFER_OK;
    }
    if (gate->family != CU_Q8 && cu_gate_up_f_fuses(gate, up, n, want)) {
        return cu_gate_up_f(dev, gate, up, a, n, want, out);
    }
    rc = gate_up_linear(dev, gate, up, a, n, scratch);
    if (rc == INFER_OK) {
        rc = dev_launch(dev, rows ? silu_k<true> : silu_k<false>, blocks, dim3(SILU_THREADS), 0,
                        scratch, scratch + count, count, want, *out);
    }
    return rc == INFER_OK && rows ? cu_quantize(dev, scratch, n, gate->n_out, want, out) : rc;
}
