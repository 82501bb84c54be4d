/*
 * gate_up.cu: cu_gate_up(): the linears of gate and up, silu(gate) * up, and its quantization: one
 * launch for few rows of float families, where both matrices are of one kind and no scale is a
 * whole row's; else a launch for the linears, if they are alike, and one for the rest. Of q8, a
 * kernel whose last block of some did the rest was slower (LOG.md).
 */

#include "gemm.h"
#include "gemm_f.h"
#include "quant.cuh"
#include "silu.cuh"

#define SILU_THREADS  256

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
        silu_mul(v, ld16a(g + i), ld16a(u + i));
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
    if (gate->family != CU_Q8 && cu_gate_up_f_alike(gate, up) && n <= CU_F_DECODE) {
        return cu_gate_up_f_sums(dev, gate, up, a, n, y);
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
