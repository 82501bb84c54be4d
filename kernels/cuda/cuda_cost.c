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
