/*
 * cost.h: bytes moved and operations done by the kernels, computed beside
 * them so that a bench only divides. Weights count once, as packed;
 * activations once in and once out. A multiply and an add are two
 * operations.
 */

#ifndef KERN_COST_H
#define KERN_COST_H

#include "kern.h"

typedef struct {
    double  bytes;
    double  ops;
} kern_cost_t;

/* rows x [n_out, n_in] of the type. */
kern_cost_t kern_linear_cost(uint32_t type, uint32_t n_out, uint32_t n_in,
    uint32_t rows);
kern_cost_t kern_rmsnorm_cost(uint32_t dim, uint32_t rows);
kern_cost_t kern_quantize_cost(uint32_t dim, uint32_t rows);
/* n values, `words` f32 moved and ops done for each. */
kern_cost_t kern_row_cost(uint32_t n, uint32_t words, uint32_t ops);
/* One query row against n_keys positions, all heads of one layer. */
kern_cost_t kern_attend_cost(const kern_shape_t *s, uint32_t n_keys);
/* rows positions ending at n_keys - 1 of one sequence through the model,
 * one row of logits; types: of the layers and of the head. */
kern_cost_t kern_step_cost(const kern_shape_t *s, uint32_t layer_type,
    uint32_t head_type, uint32_t rows, uint32_t outs, uint32_t n_keys);

#endif
