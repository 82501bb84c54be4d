/*
 * rope.cuh: rotation of neighbouring pairs of a head, as kern_rope_ref() does it with the same
 * cosine and sine.
 */

#ifndef KERN_CUDA_ROPE_CUH
#define KERN_CUDA_ROPE_CUH

#include "dev.cuh"

/* A pair of values, rotated by a pair of the table. */
DEV_INLINE float2
rope_turn(float2 v, float2 t)
{
    return make_float2(fmaf(v.x, t.x, v.y * -t.y), fmaf(v.y, t.x, v.x * t.y));
}

/* Values d and d + 1 (d even) of a head, rotated. table: cos, sin pairs of the position. */
DEV_INLINE float2
rope_pair(const float *x, uint32_t d, const float *table, uint32_t rope_dim)
{
    float2  v = ldf2(x + d);

    return d < rope_dim ? rope_turn(v, ldf2(table + d)) : v;
}

/* Row of the table for a position. */
DEV_INLINE const float *
rope_row(const cu_attn_t &a, uint32_t pos)
{
    return a.rope + (size_t) pos * a.rope_dim;
}

#endif
