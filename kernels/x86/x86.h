/*
 * x86.h: entries of the x86 levels. Files ending in the name of a level are
 * compiled with its flags and called only after the probe in kern_init.c.
 * avxvnni and vnni256 have linears of their own and take the rest from avx2.
 */

#ifndef KERN_X86_H
#define KERN_X86_H

#include "cpu.h"

void kern_rmsnorm_avx2(float *y, const float *x, const float *w, float eps,
    uint32_t n);
void kern_quantize_avx2(const cpu_acts_t *a, uint32_t row, uint32_t b0,
    uint32_t nb, const float *x);
void kern_linear_avx2(const kern_weight_t *w, uint32_t stripe,
    const cpu_acts_t *a, uint32_t r0, uint32_t n_rows, float *y, size_t ldy,
    int add);
void kern_linear_avxvnni(const kern_weight_t *w, uint32_t stripe,
    const cpu_acts_t *a, uint32_t r0, uint32_t n_rows, float *y, size_t ldy,
    int add);
void kern_linear_vnni256(const kern_weight_t *w, uint32_t stripe,
    const cpu_acts_t *a, uint32_t r0, uint32_t n_rows, float *y, size_t ldy,
    int add);
void kern_silu_mul_avx2(float *y, const float *g, const float *u,
    uint32_t n);
void kern_rope_avx2(float *y, const float *x, const float *cs,
    uint32_t rope_dim, uint32_t head_dim, float scale);
void kern_kv_store_avx2(uint8_t *kv, uint32_t type, uint32_t slot,
    const float *k, const float *v, uint32_t head_dim, uint32_t v_dim);
void kern_attend_avx2(const cpu_attn_t *a);
void kern_attend_part_avx2(const cpu_attn_t *a, uint32_t chunk, float *part);
void kern_attend_join_avx2(const cpu_attn_t *a, float *part);
int32_t kern_argmax_avx2(const float *x, size_t n);
void kern_exp_row_avx2(float *y, const float *x, float sub, size_t n);

void kern_rmsnorm_avx512(float *y, const float *x, const float *w, float eps,
    uint32_t n);
void kern_quantize_avx512(const cpu_acts_t *a, uint32_t row, uint32_t b0,
    uint32_t nb, const float *x);
void kern_linear_avx512(const kern_weight_t *w, uint32_t stripe,
    const cpu_acts_t *a, uint32_t r0, uint32_t n_rows, float *y, size_t ldy,
    int add);
void kern_silu_mul_avx512(float *y, const float *g, const float *u,
    uint32_t n);
void kern_rope_avx512(float *y, const float *x, const float *cs,
    uint32_t rope_dim, uint32_t head_dim, float scale);
void kern_kv_store_avx512(uint8_t *kv, uint32_t type, uint32_t slot,
    const float *k, const float *v, uint32_t head_dim, uint32_t v_dim);
void kern_attend_avx512(const cpu_attn_t *a);
void kern_attend_part_avx512(const cpu_attn_t *a, uint32_t chunk, float *part);
void kern_attend_join_avx512(const cpu_attn_t *a, float *part);
int32_t kern_argmax_avx512(const float *x, size_t n);
void kern_exp_row_avx512(float *y, const float *x, float sub, size_t n);

#endif
