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

#ifdef __cplusplus
}
#endif

#endif
