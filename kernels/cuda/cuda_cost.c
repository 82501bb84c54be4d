/*
 * cuda_cost.c: the formulas of cuda_cost.h.
 */

#include "cuda_cost.h"
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
