/*
 * cuda_cost.c: the formulas of cuda_cost.h.
 */

#include "cuda_cost.h"
#include "gemm.h"
#include "gemm_f.h"


kern_cost_t
cu_linear_f_cost(const cu_weight_t *w, uint32_t n)
{
    int          wide = w->family == CU_FP8 || w->family == CU_W8A8;
    double       row = wide ? w->n_in + 4.0 : 2.0 * w->n_in;
    kern_cost_t  c;

    c.bytes = (double) cu_pack_f_bytes(w) + n * (row + 4.0 * w->n_out);
    c.ops = 2.0 * n * w->n_out * w->n_in;
    return c;
}

/* Bytes of a row of activations for a matrix of the q8 family. */
static double
cost_row_q8(const cu_weight_t *w)
{
    const cu_traits_t  t = cu_traits(w->form);

    return w->n_in + w->n_in / 32 * (t.min ? 4.0 + 4.0 * t.subs : 4.0);
}

kern_cost_t
cu_linear_cost(const cu_weight_t *w, uint32_t n)
{
    kern_cost_t  c;

    if (w->family != CU_Q8) {
        return cu_linear_f_cost(w, n);
    }
    c.bytes = (double) cu_q8_data(w)
              + (1.0 + cu_traits(w->form).min) * (double) cu_q8_scale(w)
              + n * (cost_row_q8(w) + 4.0 * w->n_out);
    c.ops = 2.0 * n * w->n_out * w->n_in;
    return c;
}

kern_cost_t
cu_gate_up_cost(const cu_weight_t *gate, const cu_weight_t *up, uint32_t n,
    uint32_t want)
{
    double       values = (double) n * gate->n_out;
    kern_cost_t  g = cu_linear_cost(gate, n), u = cu_linear_cost(up, n);
    kern_cost_t  q = cu_quantize_cost(want, n, gate->n_out);

    /* neither f32 results, nor the activations twice, nor what is quantized */
    g.bytes += u.bytes - 8 * values
               - (cu_linear_cost(up, n).bytes - cu_linear_cost(up, 0).bytes
                  - 4 * values)
               + q.bytes - 4 * values;
    g.ops += u.ops;
    return g;
}

kern_cost_t
cu_embed_cost(const cu_weight_t *embd, uint32_t n)
{
    const double  rows = embd->n_out;
    kern_cost_t   c;

    c.bytes = n * (cu_linear_cost(embd, 0).bytes / rows + 4.0 * embd->n_in);
    c.ops = 2.0 * n * embd->n_in;
    return c;
}

kern_cost_t
cu_quantize_cost(uint32_t want, uint32_t n, uint32_t dim)
{
    double  values = (double) n * dim, bytes = 4 * values;

    if (want & 1u << CU_Q8) {
        bytes += values * (1 + 2 * 4.0 / 32 + 4.0 / 16);
    }
    if (want & (1u << CU_BF16 | 1u << CU_F16 | 1u << CU_W4A16)) {
        bytes += values * 2;
    }
    if (want & (1u << CU_FP8 | 1u << CU_W8A8)) {
        bytes += values + 4.0 * n;
    }
    return (kern_cost_t) { bytes, 2 * values };
}

kern_cost_t
cu_norm_cost(uint32_t want, uint32_t n, uint32_t dim)
{
    kern_cost_t  c = cu_quantize_cost(want, n, dim);

    c.bytes += 4.0 * dim;
    c.ops += 4.0 * n * dim;
    return c;
}

kern_cost_t
cu_attend_cost(const cu_attn_t *a, uint32_t rows, uint32_t n_keys)
{
    double       page = (double) a->n_kv_heads
                        * cu_kv_head_bytes(a->type, a->head_dim);
    double       token = page / KERN_PAGE_TOKENS;
    double       seen = (double) rows * n_keys
                        - (double) rows * (rows - 1) / 2;
    kern_cost_t  c;

    c.bytes = token * (n_keys + (double) rows)
              + 4.0 * rows * a->head_dim * (2.0 * a->n_heads
                                            + 2.0 * a->n_kv_heads);
    c.ops = 4.0 * a->n_heads * a->head_dim * seen;
    return c;
}
