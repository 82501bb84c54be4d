/*
 * cuda_cost.h: bytes moved and operations done by the CUDA kernels, computed
 * beside them so that a bench only divides (kernels/cost.h has the CPU's).
 * Weights count once, as packed; activations once in and once out, in the
 * form that the kernel reads and writes. A multiply and an add are two
 * operations.
 */

#ifndef KERN_CUDA_COST_H
#define KERN_CUDA_COST_H

#include "cuda.h"
#include "cost.h"

#ifdef __cplusplus
extern "C" {
#endif

/* n rows of a linear of a float family (gemm_f.h), y = a W^T in f32:
 * packed matrix + n (a row of activations and its scale + 4 n_out). */
kern_cost_t cu_linear_f_cost(const cu_weight_t *w, uint32_t n);

/* n rows of a linear of any family; q8: packed matrix + n (q, d, sums where
 * there are minima, 4 n_out). */
kern_cost_t cu_linear_cost(const cu_weight_t *w, uint32_t n);
/* n rows of cu_gate_up(): both matrices and the activations in, out's forms
 * for the families in want out; no scratch. */
kern_cost_t cu_gate_up_cost(const cu_weight_t *gate, const cu_weight_t *up,
    uint32_t n, uint32_t want);
/* n rows of cu_embed(): the row as packed in, f32 out. */
kern_cost_t cu_embed_cost(const cu_weight_t *embd, uint32_t n);

/* n rows of cu_norm() and of cu_quantize() for the families in want: x in
 * f32 (and the weights of the norm) in, their forms out. */
kern_cost_t cu_norm_cost(uint32_t want, uint32_t n, uint32_t dim);
kern_cost_t cu_quantize_cost(uint32_t want, uint32_t n, uint32_t dim);

/* cu_attend() of one sequence's last rows, the last of which sees n_keys:
 * pages and q, k, v in, the rows' own keys and out written; partial results
 * and quantized forms are left out. */
kern_cost_t cu_attend_cost(const cu_attn_t *a, uint32_t rows,
    uint32_t n_keys);

#ifdef __cplusplus
}
#endif

#endif
