/*
 * ref.h: prototypes shared by the files of ref/, the definitions in plain C
 * that every other level is compared with.
 */

#ifndef KERN_REF_H
#define KERN_REF_H

#include "cpu.h"

void kern_rmsnorm_ref(float *y, const float *x, const float *w, float eps,
    uint32_t n);
void kern_quantize_ref(const cpu_acts_t *a, uint32_t row, uint32_t b0,
    uint32_t nb, const float *x);
void kern_silu_mul_ref(float *y, const float *g, const float *u, uint32_t n);
void kern_rope_ref(float *y, const float *x, const float *cs,
    uint32_t rope_dim, uint32_t head_dim, float scale);
void kern_kv_store_ref(uint8_t *kv, uint32_t type, uint32_t slot,
    const float *k, const float *v, uint32_t head_dim, uint32_t v_dim);
int32_t kern_argmax_ref(const float *x, size_t n);
void kern_exp_row_ref(float *y, const float *x, float sub, size_t n);

void kern_linear_f32_ref(const kern_weight_t *w, uint32_t stripe,
    const cpu_acts_t *a, uint32_t r0, uint32_t n_rows, float *y, size_t ldy,
    int add);
void kern_linear_q8_ref(const kern_weight_t *w, uint32_t stripe,
    const cpu_acts_t *a, uint32_t r0, uint32_t n_rows, float *y, size_t ldy,
    int add);

void kern_attend_ref(const cpu_attn_t *a);
void kern_attend_part_ref(const cpu_attn_t *a, uint32_t chunk, float *part);
void kern_attend_join_ref(const cpu_attn_t *a, float *part);

#endif
