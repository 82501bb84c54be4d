/*
 * arm.h: entries of the neon level: aarch64 with the dot product
 * instructions (Armv8.2-A and later; probed in kern_init.c). Machines
 * without them run ref-q8.
 */

#ifndef KERN_ARM_H
#define KERN_ARM_H

#include "cpu.h"

void kern_rmsnorm_neon(float *y, const float *x, const float *w, float eps,
    uint32_t n);
void kern_quantize_neon(const cpu_acts_t *a, uint32_t row, uint32_t b0,
    uint32_t nb, const float *x);
void kern_linear_neon(const kern_weight_t *w, uint32_t stripe,
    const cpu_acts_t *a, uint32_t r0, uint32_t n_rows, float *y, size_t ldy,
    int add);
void kern_silu_mul_neon(float *y, const float *g, const float *u,
    uint32_t n);
void kern_rope_neon(float *y, const float *x, const float *cs,
    uint32_t rope_dim, uint32_t head_dim, float scale);
void kern_kv_store_neon(uint8_t *kv, uint32_t type, uint32_t slot,
    const float *k, const float *v, uint32_t head_dim, uint32_t v_dim);
void kern_attend_neon(const cpu_attn_t *a);
void kern_attend_part_neon(const cpu_attn_t *a, uint32_t chunk, float *part);
void kern_attend_join_neon(const cpu_attn_t *a, float *part);
int32_t kern_argmax_neon(const float *x, size_t n);
void kern_exp_row_neon(float *y, const float *x, float sub, size_t n);

#endif
