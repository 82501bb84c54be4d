/*
 * v16_avx2.h: sixteen f32 lanes as two ymm registers. Same names and the
 * same meaning, lane by lane, as v16_avx512.h.
 */

#ifndef KERN_V16_AVX2_H
#define KERN_V16_AVX2_H

#include <immintrin.h>
#include <stdint.h>

#define V16_NAME(op)  kern_ ## op ## _avx2

#define V16_QK_ROWS  3
#define V16_PV_ROWS  4
#define V16_PV_COLS  1
#define V16_AHEAD    1

/* Tiles of many rows have eight lanes: body_attn8.h. */
#define V8_ROWS      12

typedef __m256 v8_t;
typedef struct { __m256  a, b; } v16_t;
typedef struct { __m256i a, b; } v16i_t;

#define V16_INLINE  static inline __attribute__((always_inline))

#define V16_TWO(f, x, y)                                                      \
    (v16_t) { f((x).a, (y).a), f((x).b, (y).b) }

V16_INLINE v16_t
v16_load(const float *p)
{
    return (v16_t) { _mm256_loadu_ps(p), _mm256_loadu_ps(p + 8) };
}

V16_INLINE void
v16_store(float *p, v16_t a)
{
    _mm256_storeu_ps(p, a.a);
    _mm256_storeu_ps(p + 8, a.b);
}

V16_INLINE v16_t
v16_set1(float f)
{
    return (v16_t) { _mm256_set1_ps(f), _mm256_set1_ps(f) };
}

V16_INLINE v16_t
v16_add(v16_t a, v16_t b)
{
    return V16_TWO(_mm256_add_ps, a, b);
}

V16_INLINE v16_t
v16_sub(v16_t a, v16_t b)
{
    return V16_TWO(_mm256_sub_ps, a, b);
}

V16_INLINE v16_t
v16_mul(v16_t a, v16_t b)
{
    return V16_TWO(_mm256_mul_ps, a, b);
}

V16_INLINE v16_t
v16_div(v16_t a, v16_t b)
{
    return V16_TWO(_mm256_div_ps, a, b);
}

V16_INLINE v16_t
v16_max(v16_t a, v16_t b)
{
    return V16_TWO(_mm256_max_ps, a, b);
}

V16_INLINE v16_t
v16_min(v16_t a, v16_t b)
{
    return V16_TWO(_mm256_min_ps, a, b);
}

V16_INLINE v16_t
v16_fma(v16_t a, v16_t b, v16_t c)
{
    return (v16_t) { _mm256_fmadd_ps(a.a, b.a, c.a),
                     _mm256_fmadd_ps(a.b, b.b, c.b) };
}

V16_INLINE v16_t
v16_if_lt(v16_t a, v16_t b, v16_t x, v16_t y)
{
    return (v16_t) {
        _mm256_blendv_ps(y.a, x.a, _mm256_cmp_ps(a.a, b.a, _CMP_LT_OQ)),
        _mm256_blendv_ps(y.b, x.b, _mm256_cmp_ps(a.b, b.b, _CMP_LT_OQ))
    };
}

V16_INLINE uint32_t
v16_eq_mask(v16_t a, v16_t b)
{
    return (uint32_t) _mm256_movemask_ps(_mm256_cmp_ps(a.a, b.a, _CMP_EQ_OQ))
           | (uint32_t) _mm256_movemask_ps(_mm256_cmp_ps(a.b, b.b,
                                                         _CMP_EQ_OQ)) << 8;
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

/* Zen 1 converts a register in 2 cycles and memory in 3, so the load must
 * not become an operand. */
V16_INLINE __m128i
v8_halves(const uint16_t *p)
{
    __m128i  h = _mm_loadu_si128((const __m128i *) p);

    __asm__ ("" : "+x" (h));
    return h;
}

V16_INLINE v16_t
v16_from_f16(const uint16_t *p)
{
    return (v16_t) { _mm256_cvtph_ps(v8_halves(p)),
                     _mm256_cvtph_ps(v8_halves(p + 8)) };
}

V16_INLINE v16_t
v16_from_bf16(const uint16_t *p)
{
    __m256i  a = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *) p));
    __m256i  b = _mm256_cvtepu16_epi32(
                     _mm_loadu_si128((const __m128i *) (p + 8)));

    return (v16_t) { _mm256_castsi256_ps(_mm256_slli_epi32(a, 16)),
                     _mm256_castsi256_ps(_mm256_slli_epi32(b, 16)) };
}

V16_INLINE void
v16_to_f16(uint16_t *p, v16_t a)
{
    _mm_storeu_si128((__m128i *) p,
        _mm256_cvtps_ph(a.a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
    _mm_storeu_si128((__m128i *) (p + 8),
        _mm256_cvtps_ph(a.b, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}

V16_INLINE __m256i
v16_half_bf16(__m256 a)
{
    __m256i  u = _mm256_castps_si256(a), h = _mm256_srli_epi32(u, 16);
    __m256i  odd = _mm256_and_si256(h, _mm256_set1_epi32(1)), r, nan;

    r = _mm256_add_epi32(u, _mm256_set1_epi32(0x7fff));
    r = _mm256_srli_epi32(_mm256_add_epi32(r, odd), 16);
    nan = _mm256_castps_si256(_mm256_cmp_ps(a, a, _CMP_UNORD_Q));
    return _mm256_blendv_epi8(r, _mm256_or_si256(h, _mm256_set1_epi32(0x40)),
                              nan);
}

V16_INLINE void
v16_to_bf16(uint16_t *p, v16_t a)
{
    __m256i  r = _mm256_packus_epi32(v16_half_bf16(a.a), v16_half_bf16(a.b));

    /* packed in 128-bit halves: quarters come out 0 2 1 3 */
    _mm256_storeu_si256((__m256i *) p, _mm256_permute4x64_epi64(r, 0xd8));
}

V16_INLINE v16_t
v16_from_i8(const int8_t *p)
{
    __m128i  q = _mm_loadu_si128((const __m128i *) p);

    return (v16_t) {
        _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(q)),
        _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(q, 8)))
    };
}

V16_INLINE v8_t
v8_load(const float *p)
{
    return _mm256_loadu_ps(p);
}

V16_INLINE void
v8_store(float *p, v8_t a)
{
    _mm256_storeu_ps(p, a);
}

V16_INLINE v8_t
v8_set1(float f)
{
    return _mm256_set1_ps(f);
}

V16_INLINE v8_t
v8_mul(v8_t a, v8_t b)
{
    return _mm256_mul_ps(a, b);
}

V16_INLINE v8_t
v8_fma(v8_t a, v8_t b, v8_t c)
{
    return _mm256_fmadd_ps(a, b, c);
}

V16_INLINE v8_t
v8_from_f16(const uint16_t *p)
{
    return _mm256_cvtph_ps(v8_halves(p));
}

V16_INLINE v8_t
v8_from_bf16(const uint16_t *p)
{
    __m256i  a = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *) p));

    return _mm256_castsi256_ps(_mm256_slli_epi32(a, 16));
}

V16_INLINE v8_t
v8_from_i8(const int8_t *p)
{
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(
               _mm_loadl_epi64((const __m128i *) p)));
}

V16_INLINE v16_t
v16_swap(v16_t a)
{
    return (v16_t) { _mm256_permute_ps(a.a, 0xb1),
                     _mm256_permute_ps(a.b, 0xb1) };
}

V16_INLINE v16_t
v16_pow2(v16_t t)
{
    __m256i  one = _mm256_set1_epi32(0x3f800000);
    __m256i  a = _mm256_slli_epi32(_mm256_castps_si256(t.a), 23);
    __m256i  b = _mm256_slli_epi32(_mm256_castps_si256(t.b), 23);

    return (v16_t) { _mm256_castsi256_ps(_mm256_add_epi32(a, one)),
                     _mm256_castsi256_ps(_mm256_add_epi32(b, one)) };
}

V16_INLINE float
v16_sum(v16_t a)
{
    __m256  b = _mm256_add_ps(a.a, a.b);
    __m128  c = _mm_add_ps(_mm256_castps256_ps128(b),
                           _mm256_extractf128_ps(b, 1));

    c = _mm_add_ps(c, _mm_movehl_ps(c, c));
    c = _mm_add_ss(c, _mm_shuffle_ps(c, c, 1));
    return _mm_cvtss_f32(c);
}

V16_INLINE float
v16_hmax(v16_t a)
{
    __m256  b = _mm256_max_ps(a.a, a.b);
    __m128  c = _mm_max_ps(_mm256_castps256_ps128(b),
                           _mm256_extractf128_ps(b, 1));

    c = _mm_max_ps(c, _mm_movehl_ps(c, c));
    c = _mm_max_ss(c, _mm_shuffle_ps(c, c, 1));
    return _mm_cvtss_f32(c);
}

V16_INLINE v16i_t
v16_abs_bits(v16_t a)
{
    __m256i  m = _mm256_set1_epi32(0x7fffffff);

    return (v16i_t) { _mm256_and_si256(_mm256_castps_si256(a.a), m),
                      _mm256_and_si256(_mm256_castps_si256(a.b), m) };
}

V16_INLINE uint32_t
v16_hmax_u32(v16i_t a, v16i_t b)
{
    __m256i  m = _mm256_max_epu32(_mm256_max_epu32(a.a, a.b),
                                  _mm256_max_epu32(b.a, b.b));
    __m128i  c = _mm_max_epu32(_mm256_castsi256_si128(m),
                               _mm256_extracti128_si256(m, 1));

    c = _mm_max_epu32(c, _mm_shuffle_epi32(c, 0x4e));
    c = _mm_max_epu32(c, _mm_shuffle_epi32(c, 0xb1));
    return (uint32_t) _mm_cvtsi128_si32(c);
}

V16_INLINE void
v16_store_q8(int8_t *q, int32_t *nsum, v16_t a, v16_t b)
{
    __m256i  i0 = _mm256_cvtps_epi32(a.a), i1 = _mm256_cvtps_epi32(a.b);
    __m256i  j0 = _mm256_cvtps_epi32(b.a), j1 = _mm256_cvtps_epi32(b.b);
    __m256i  s = _mm256_hadd_epi32(_mm256_add_epi32(i0, i1),
                                   _mm256_add_epi32(j0, j1));
    __m128i  c = _mm_add_epi32(_mm256_castsi256_si128(s),
                               _mm256_extracti128_si256(s, 1));
    __m256i  w;

    /* packs work in 128-bit halves: dwords come out 0 4 1 5 2 6 3 7 */
    w = _mm256_packs_epi16(_mm256_packs_epi32(i0, i1),
                           _mm256_packs_epi32(j0, j1));
    w = _mm256_permutevar8x32_epi32(w, _mm256_setr_epi32(0, 4, 1, 5,
                                                         2, 6, 3, 7));
    _mm256_storeu_si256((__m256i *) q, w);

    c = _mm_hadd_epi32(c, c);
    _mm_storeu_si64(nsum, _mm_sub_epi32(_mm_setzero_si128(), c));
}

#endif
