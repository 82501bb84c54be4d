/*
 * v16_avx512.h: sixteen f32 lanes as one zmm register. Same names as
 * v16_avx2.h; the bodies in body_*.h are written once over them.
 */

#ifndef KERN_V16_AVX512_H
#define KERN_V16_AVX512_H

#include <immintrin.h>
#include <stdint.h>

#define V16_NAME(op)  kern_ ## op ## _avx512

/* Attention tiles that fit 32 registers: queries x 16 keys halves, and
 * queries x 16 output columns. */
#define V16_QK_ROWS  12
#define V16_PV_ROWS  6
#define V16_PV_COLS  4
#define V16_AHEAD    0

typedef __m512  v16_t;
typedef __m512i v16i_t;

#define V16_INLINE  static inline __attribute__((always_inline))

V16_INLINE v16_t v16_load(const float *p) { return _mm512_loadu_ps(p); }
V16_INLINE void v16_store(float *p, v16_t a) { _mm512_storeu_ps(p, a); }
V16_INLINE v16_t v16_set1(float f) { return _mm512_set1_ps(f); }
V16_INLINE v16_t v16_add(v16_t a, v16_t b) { return _mm512_add_ps(a, b); }
V16_INLINE v16_t v16_sub(v16_t a, v16_t b) { return _mm512_sub_ps(a, b); }
V16_INLINE v16_t v16_mul(v16_t a, v16_t b) { return _mm512_mul_ps(a, b); }
V16_INLINE v16_t v16_div(v16_t a, v16_t b) { return _mm512_div_ps(a, b); }

/* a * b + c */
V16_INLINE v16_t
v16_fma(v16_t a, v16_t b, v16_t c)
{
    return _mm512_fmadd_ps(a, b, c);
}

/* b where a is NaN */
V16_INLINE v16_t v16_max(v16_t a, v16_t b) { return _mm512_max_ps(a, b); }
V16_INLINE v16_t v16_min(v16_t a, v16_t b) { return _mm512_min_ps(a, b); }

/* Lanes of x where a < b, else of y; false for NaN. */
V16_INLINE v16_t
v16_if_lt(v16_t a, v16_t b, v16_t x, v16_t y)
{
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), y, x);
}

V16_INLINE uint32_t
v16_eq_mask(v16_t a, v16_t b)
{
    return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ);
}

/* p[i] for i < n, fill in the other lanes. */
V16_INLINE v16_t
v16_load_n(const float *p, uint32_t n, float fill)
{
    return _mm512_mask_loadu_ps(_mm512_set1_ps(fill),
                                (__mmask16) ((1u << n) - 1), p);
}

V16_INLINE void
v16_store_n(float *p, uint32_t n, v16_t a)
{
    _mm512_mask_storeu_ps(p, (__mmask16) ((1u << n) - 1), a);
}

V16_INLINE v16_t
v16_from_f16(const uint16_t *p)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *) p));
}

V16_INLINE v16_t
v16_from_bf16(const uint16_t *p)
{
    __m256i  h = _mm256_loadu_si256((const __m256i *) p);

    return _mm512_castsi512_ps(
        _mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16));
}

V16_INLINE void
v16_to_f16(uint16_t *p, v16_t a)
{
    _mm256_storeu_si256((__m256i *) p,
        _mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}

/* Nearest even; finite or NaN. */
V16_INLINE void
v16_to_bf16(uint16_t *p, v16_t a)
{
    __m512i  u = _mm512_castps_si512(a), h = _mm512_srli_epi32(u, 16);
    __m512i  odd = _mm512_and_si512(h, _mm512_set1_epi32(1));
    __m512i  r;

    r = _mm512_add_epi32(u, _mm512_set1_epi32(0x7fff));
    r = _mm512_srli_epi32(_mm512_add_epi32(r, odd), 16);
    r = _mm512_mask_or_epi32(r, _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q), h,
                             _mm512_set1_epi32(0x40));
    _mm256_storeu_si256((__m256i *) p, _mm512_cvtepi32_epi16(r));
}

V16_INLINE v16_t
v16_from_i8(const int8_t *p)
{
    return _mm512_cvtepi32_ps(
        _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *) p)));
}

/* Neighbours exchanged: lanes 1, 0, 3, 2, ... */
V16_INLINE v16_t
v16_swap(v16_t a)
{
    return _mm512_permute_ps(a, 0xb1);
}

/* 2^n from t = 1.5 * 2^23 + n. */
V16_INLINE v16_t
v16_pow2(v16_t t)
{
    __m512i  u = _mm512_slli_epi32(_mm512_castps_si512(t), 23);

    return _mm512_castsi512_ps(
        _mm512_add_epi32(u, _mm512_set1_epi32(0x3f800000)));
}

/* The tree: lane i and i + 8, then + 4, + 2, + 1. */
V16_INLINE float
v16_sum(v16_t a)
{
    __m256  b = _mm256_add_ps(_mm512_castps512_ps256(a),
                              _mm512_extractf32x8_ps(a, 1));
    __m128  c = _mm_add_ps(_mm256_castps256_ps128(b),
                           _mm256_extractf128_ps(b, 1));

    c = _mm_add_ps(c, _mm_movehl_ps(c, c));
    c = _mm_add_ss(c, _mm_shuffle_ps(c, c, 1));
    return _mm_cvtss_f32(c);
}

V16_INLINE float
v16_hmax(v16_t a)
{
    __m256  b = _mm256_max_ps(_mm512_castps512_ps256(a),
                              _mm512_extractf32x8_ps(a, 1));
    __m128  c = _mm_max_ps(_mm256_castps256_ps128(b),
                           _mm256_extractf128_ps(b, 1));

    c = _mm_max_ps(c, _mm_movehl_ps(c, c));
    c = _mm_max_ss(c, _mm_shuffle_ps(c, c, 1));
    return _mm_cvtss_f32(c);
}

/* Integer lanes, for quantization. */
V16_INLINE v16i_t
v16_abs_bits(v16_t a)
{
    return _mm512_and_si512(_mm512_castps_si512(a),
                            _mm512_set1_epi32(0x7fffffff));
}

V16_INLINE uint32_t
v16_hmax_u32(v16i_t a, v16i_t b)
{
    return _mm512_reduce_max_epu32(_mm512_max_epu32(a, b));
}

/* Rounds 32 values to int8 at q; minus the sums of a and b to nsum. */
V16_INLINE void
v16_store_q8(int8_t *q, int32_t *nsum, v16_t a, v16_t b)
{
    __m512i  i = _mm512_cvtps_epi32(a), j = _mm512_cvtps_epi32(b);
    __m256i  s;
    __m128i  c;

    _mm_storeu_si128((__m128i *) q, _mm512_cvtepi32_epi8(i));
    _mm_storeu_si128((__m128i *) (q + 16), _mm512_cvtepi32_epi8(j));

    s = _mm256_hadd_epi32(_mm256_add_epi32(_mm512_castsi512_si256(i),
                              _mm512_extracti64x4_epi64(i, 1)),
                          _mm256_add_epi32(_mm512_castsi512_si256(j),
                              _mm512_extracti64x4_epi64(j, 1)));
    c = _mm_add_epi32(_mm256_castsi256_si128(s),
                      _mm256_extracti128_si256(s, 1));
    c = _mm_hadd_epi32(c, c);
    _mm_storeu_si64(nsum, _mm_sub_epi32(_mm_setzero_si128(), c));
}

#endif
