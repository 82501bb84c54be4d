/*
 * v16_neon.h: sixteen f32 lanes as four registers. Same names and the same
 * meaning, lane by lane, as x86/v16_avx512.h.
 */

#ifndef KERN_V16_NEON_H
#define KERN_V16_NEON_H

#include <arm_neon.h>
#include <stdint.h>

#define V16_NAME(op)  kern_ ## op ## _neon

/* Attention tiles that fit 32 registers. */
#define V16_QK_ROWS  2
#define V16_PV_ROWS  4
#define V16_PV_COLS  1
#define V16_AHEAD    0

typedef struct { float32x4_t v[4]; } v16_t;
typedef struct { uint32x4_t v[4]; } v16i_t;

#define V16_INLINE  static inline __attribute__((always_inline))

#define V16_ALL(e0, e1, e2, e3)  (v16_t) { { e0, e1, e2, e3 } }
#define V16_ONE(f, x)                                                         \
    V16_ALL(f((x).v[0]), f((x).v[1]), f((x).v[2]), f((x).v[3]))
#define V16_TWO(f, x, y)                                                      \
    V16_ALL(f((x).v[0], (y).v[0]), f((x).v[1], (y).v[1]),                     \
            f((x).v[2], (y).v[2]), f((x).v[3], (y).v[3]))

V16_INLINE v16_t
v16_load(const float *p)
{
    return V16_ALL(vld1q_f32(p), vld1q_f32(p + 4), vld1q_f32(p + 8),
                   vld1q_f32(p + 12));
}

V16_INLINE void
v16_store(float *p, v16_t a)
{
    vst1q_f32(p, a.v[0]);
    vst1q_f32(p + 4, a.v[1]);
    vst1q_f32(p + 8, a.v[2]);
    vst1q_f32(p + 12, a.v[3]);
}

V16_INLINE v16_t
v16_set1(float f)
{
    float32x4_t  x = vdupq_n_f32(f);

    return V16_ALL(x, x, x, x);
}

V16_INLINE v16_t
v16_add(v16_t a, v16_t b)
{
    return V16_TWO(vaddq_f32, a, b);
}

V16_INLINE v16_t
v16_sub(v16_t a, v16_t b)
{
    return V16_TWO(vsubq_f32, a, b);
}

V16_INLINE v16_t
v16_mul(v16_t a, v16_t b)
{
    return V16_TWO(vmulq_f32, a, b);
}

V16_INLINE v16_t
v16_div(v16_t a, v16_t b)
{
    return V16_TWO(vdivq_f32, a, b);
}

/* The second operand where one is NaN, unlike vmaxq_f32(). */
V16_INLINE float32x4_t
v16_max4(float32x4_t a, float32x4_t b)
{
    return vbslq_f32(vcgtq_f32(a, b), a, b);
}

V16_INLINE float32x4_t
v16_min4(float32x4_t a, float32x4_t b)
{
    return vbslq_f32(vcltq_f32(a, b), a, b);
}

V16_INLINE v16_t
v16_max(v16_t a, v16_t b)
{
    return V16_TWO(v16_max4, a, b);
}

V16_INLINE v16_t
v16_min(v16_t a, v16_t b)
{
    return V16_TWO(v16_min4, a, b);
}

/* a * b + c */
V16_INLINE v16_t
v16_fma(v16_t a, v16_t b, v16_t c)
{
    return V16_ALL(vfmaq_f32(c.v[0], a.v[0], b.v[0]),
                   vfmaq_f32(c.v[1], a.v[1], b.v[1]),
                   vfmaq_f32(c.v[2], a.v[2], b.v[2]),
                   vfmaq_f32(c.v[3], a.v[3], b.v[3]));
}

V16_INLINE v16_t
v16_if_lt(v16_t a, v16_t b, v16_t x, v16_t y)
{
    return V16_ALL(vbslq_f32(vcltq_f32(a.v[0], b.v[0]), x.v[0], y.v[0]),
                   vbslq_f32(vcltq_f32(a.v[1], b.v[1]), x.v[1], y.v[1]),
                   vbslq_f32(vcltq_f32(a.v[2], b.v[2]), x.v[2], y.v[2]),
                   vbslq_f32(vcltq_f32(a.v[3], b.v[3]), x.v[3], y.v[3]));
}

V16_INLINE uint32_t
v16_eq_mask(v16_t a, v16_t b)
{
    const uint32x4_t  bit = { 1, 2, 4, 8 };
    uint32_t          m = 0;
    int               i;

#pragma GCC unroll 4
    for (i = 0; i < 4; i++) {
        m |= vaddvq_u32(vandq_u32(vceqq_f32(a.v[i], b.v[i]), bit)) << 4 * i;
    }
    return m;
}

V16_INLINE v16_t
v16_load_n(const float *p, uint32_t n, float fill)
{
    float     t[16];
    uint32_t  i;

    for (i = 0; i < 16; i++) {
        t[i] = i < n ? p[i] : fill;
    }
    return v16_load(t);
}

V16_INLINE void
v16_store_n(float *p, uint32_t n, v16_t a)
{
    float     t[16];
    uint32_t  i;

    v16_store(t, a);
    for (i = 0; i < n; i++) {
        p[i] = t[i];
    }
}

V16_INLINE float32x4_t
v16_half4(const uint16_t *p)
{
    return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p)));
}

V16_INLINE v16_t
v16_from_f16(const uint16_t *p)
{
    return V16_ALL(v16_half4(p), v16_half4(p + 4), v16_half4(p + 8),
                   v16_half4(p + 12));
}

V16_INLINE float32x4_t
v16_bf4(const uint16_t *p)
{
    return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p), 16));
}

V16_INLINE v16_t
v16_from_bf16(const uint16_t *p)
{
    return V16_ALL(v16_bf4(p), v16_bf4(p + 4), v16_bf4(p + 8),
                   v16_bf4(p + 12));
}

V16_INLINE void
v16_to_f16(uint16_t *p, v16_t a)
{
    int  i;

#pragma GCC unroll 4
    for (i = 0; i < 4; i++) {
        vst1_u16(p + 4 * i, vreinterpret_u16_f16(vcvt_f16_f32(a.v[i])));
    }
}

V16_INLINE void
v16_to_bf16(uint16_t *p, v16_t a)
{
    uint32x4_t  u, h, r, nan;
    int         i;

#pragma GCC unroll 4
    for (i = 0; i < 4; i++) {
        u = vreinterpretq_u32_f32(a.v[i]);
        h = vshrq_n_u32(u, 16);
        r = vaddq_u32(u, vdupq_n_u32(0x7fff));
        r = vaddq_u32(r, vandq_u32(h, vdupq_n_u32(1)));
        nan = vmvnq_u32(vceqq_f32(a.v[i], a.v[i]));
        r = vbslq_u32(nan, vorrq_u32(h, vdupq_n_u32(0x40)),
                      vshrq_n_u32(r, 16));
        vst1_u16(p + 4 * i, vmovn_u32(r));
    }
}

V16_INLINE v16_t
v16_from_i8(const int8_t *p)
{
    int8x16_t  q = vld1q_s8(p);
    int16x8_t  a = vmovl_s8(vget_low_s8(q)), b = vmovl_s8(vget_high_s8(q));

    return V16_ALL(vcvtq_f32_s32(vmovl_s16(vget_low_s16(a))),
                   vcvtq_f32_s32(vmovl_s16(vget_high_s16(a))),
                   vcvtq_f32_s32(vmovl_s16(vget_low_s16(b))),
                   vcvtq_f32_s32(vmovl_s16(vget_high_s16(b))));
}

V16_INLINE v16_t
v16_swap(v16_t a)
{
    return V16_ONE(vrev64q_f32, a);
}

V16_INLINE float32x4_t
v16_pow2_4(float32x4_t t)
{
    uint32x4_t  u = vshlq_n_u32(vreinterpretq_u32_f32(t), 23);

    return vreinterpretq_f32_u32(vaddq_u32(u, vdupq_n_u32(0x3f800000)));
}

V16_INLINE v16_t
v16_pow2(v16_t t)
{
    return V16_ONE(v16_pow2_4, t);
}

V16_INLINE float
v16_sum(v16_t a)
{
    float32x4_t  c = vaddq_f32(vaddq_f32(a.v[0], a.v[2]),
                               vaddq_f32(a.v[1], a.v[3]));
    float32x2_t  d = vadd_f32(vget_low_f32(c), vget_high_f32(c));

    return vget_lane_f32(d, 0) + vget_lane_f32(d, 1);
}

V16_INLINE float
v16_hmax(v16_t a)
{
    float32x4_t  c = v16_max4(v16_max4(a.v[0], a.v[2]),
                              v16_max4(a.v[1], a.v[3]));

    c = v16_max4(c, vextq_f32(c, c, 2));
    c = v16_max4(c, vextq_f32(c, c, 1));
    return vgetq_lane_f32(c, 0);
}

V16_INLINE v16i_t
v16_abs_bits(v16_t a)
{
    v16i_t  r;
    int     i;

#pragma GCC unroll 4
    for (i = 0; i < 4; i++) {
        r.v[i] = vandq_u32(vreinterpretq_u32_f32(a.v[i]),
                           vdupq_n_u32(0x7fffffff));
    }
    return r;
}

V16_INLINE uint32_t
v16_hmax_u32(v16i_t a, v16i_t b)
{
    uint32x4_t  m = vmaxq_u32(a.v[0], b.v[0]);
    int         i;

#pragma GCC unroll 3
    for (i = 1; i < 4; i++) {
        m = vmaxq_u32(m, vmaxq_u32(a.v[i], b.v[i]));
    }
    return vmaxvq_u32(m);
}

/* Rounds 16 values to int8 at q; returns minus their sum. */
V16_INLINE int32_t
v16_round8(int8_t *q, v16_t a)
{
    int32x4_t  i0 = vcvtnq_s32_f32(a.v[0]), i1 = vcvtnq_s32_f32(a.v[1]);
    int32x4_t  i2 = vcvtnq_s32_f32(a.v[2]), i3 = vcvtnq_s32_f32(a.v[3]);
    int16x8_t  lo = vcombine_s16(vqmovn_s32(i0), vqmovn_s32(i1));
    int16x8_t  hi = vcombine_s16(vqmovn_s32(i2), vqmovn_s32(i3));

    vst1q_s8(q, vcombine_s8(vqmovn_s16(lo), vqmovn_s16(hi)));
    return -vaddvq_s32(vaddq_s32(vaddq_s32(i0, i1), vaddq_s32(i2, i3)));
}

V16_INLINE void
v16_store_q8(int8_t *q, int32_t *nsum, v16_t a, v16_t b)
{
    nsum[0] = v16_round8(q, a);
    nsum[1] = v16_round8(q + 16, b);
}

#endif
