/*
 * linear_k_avx2.c: 5-bit, K and IQ4 forms in 256-bit registers without VNNI;
 * the same sums as linear_avx512.c.
 *
 * math     maddubs of unsigned values; as many of its results stay in 16
 *          bits as fit: 8 of up to 15, 4 of up to 31, 2 of up to 63. Forms
 *          of 8 bits: |w| times the activation with the sign of w, at most
 *          2 * 128 * 127, one by one
 * tile     8 outputs x 1..4 rows, panels one after the other
 */

#include <immintrin.h>

#include "ref/ref_dequant_k.h"
#include "x86/x86.h"

#define TILE_ROWS  4

#define TILE_INLINE  static inline __attribute__((always_inline))


TILE_INLINE __m256i
tile_load(const uint8_t *p)
{
    return _mm256_loadu_si256((const __m256i *) p);
}

TILE_INLINE __m256
tile_half(const uint8_t *p)
{
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *) p));
}

/* Values of columns 16h + 4i .. + 3 of 8 outputs: signed for forms of 8
 * bits and of the table, else unsigned. */
TILE_INLINE __m256i
tile_values(const uint8_t *w, const int h, const int i, const cpu_traits_t t)
{
    __m256i  v, u;

    if (t.low == 8) {
        return _mm256_xor_si256(tile_load(w + (4 * h + i) * 64),
                                _mm256_set1_epi8((char) 0x80));
    }
    if (t.low == 4) {
        v = tile_load(w + i * 64);
        v = h ? _mm256_srli_epi16(v, 4) : v;
        v = _mm256_and_si256(v, _mm256_set1_epi8(15));
    } else {
        v = tile_load(w + h * 64);
        v = i ? _mm256_srli_epi16(v, 2 * i) : v;
        v = _mm256_and_si256(v, _mm256_set1_epi8(3));
    }
    if (t.table) {
        u = _mm256_broadcastsi128_si256(
                _mm_loadu_si128((const __m128i *) kern_iq4_values));
        return _mm256_shuffle_epi8(u, v);
    }

    if (t.high == 1) {
        u = tile_load(w + t.low * 64);
        u = 4 * h + i < t.low ? _mm256_slli_epi16(u, t.low - 4 * h - i)
            : _mm256_srli_epi16(u, 4 * h + i - t.low);
        u = _mm256_and_si256(u, _mm256_set1_epi8((char) (1 << t.low)));
        v = _mm256_or_si256(v, u);
    } else if (t.high == 2) {
        u = tile_load(w + t.low * 64 + h * 64);
        u = 2 * i < t.low ? _mm256_slli_epi16(u, t.low - 2 * i)
            : _mm256_srli_epi16(u, 2 * i - t.low);
        u = _mm256_and_si256(u, _mm256_set1_epi8((char) (3 << t.low)));
        v = _mm256_or_si256(v, u);
    }
    return v;
}

/* Integer sums of a block, or of its half `sub`, for 8 outputs. */
TILE_INLINE void
tile_block(__m256i *s, const uint8_t *w, const int8_t *q, uint32_t n_in,
    const int sub, const int rows, const cpu_traits_t t)
{
    const __m256i  one = _mm256_set1_epi16(1);
    const int      is_signed = t.low == 8 || t.table;
    const int      bits = t.low + t.high;
    const int      fit = is_signed ? 1 : bits > 5 ? 2 : bits > 4 ? 4 : 8;
    const int      n = t.subs == 2 ? 4 : 8;
    __m256i        a[TILE_ROWS], v, x;
    int32_t        word;
    int            c, r, h, i;

#pragma GCC unroll 8
    for (c = 0; c < n; c++) {
        /* nibbles: low and high halves of one load */
        h = t.subs == 2 ? sub : t.low == 4 ? c % 2 : c / 4;
        i = t.subs == 2 ? c : t.low == 4 ? c / 2 : c % 4;
        v = tile_values(w, h, i, t);
#pragma GCC unroll 4
        for (r = 0; r < rows; r++) {
            __builtin_memcpy(&word, q + (size_t) r * n_in + h * 16 + i * 4,
                             sizeof(word));
            x = _mm256_set1_epi32(word);
            x = is_signed
                ? _mm256_maddubs_epi16(_mm256_abs_epi8(v),
                                       _mm256_sign_epi8(x, v))
                : _mm256_maddubs_epi16(v, x);
            a[r] = c % fit == 0 ? x : _mm256_add_epi16(a[r], x);
            if (c % fit == fit - 1 || c == n - 1) {
                s[r] = _mm256_add_epi32(s[r], _mm256_madd_epi16(a[r], one));
            }
        }
    }
}

/* Eight scales of the stripe's outputs from 8 * oct on. */
TILE_INLINE __m256
tile_scale(const uint8_t *w, const uint8_t *head, uint32_t oct, const int sub,
    const cpu_traits_t t)
{
    __m256i  i;

    w += 3 * cpu_panel_bytes(t);
    if (t.scale == 2) {
        return tile_half(w + oct * 16);
    }
    if (t.scale == 4) {
        return _mm256_loadu_ps((const float *) (w + oct * 32));
    }
    i = _mm256_cvtepi8_epi32(_mm_loadl_epi64(
            (const __m128i *) (w + sub * CPU_STRIPE + oct * 8)));
    if (t.shared) {
        i = _mm256_and_si256(i, _mm256_set1_epi32(15));
    }
    return _mm256_mul_ps(tile_half(head + oct * 16), _mm256_cvtepi32_ps(i));
}

/* Minima to be added where they are f16, to be taken off otherwise. */
TILE_INLINE __m256
tile_min(const uint8_t *w, const uint8_t *head, uint32_t oct, const int sub,
    const cpu_traits_t t)
{
    __m256i  i;

    w += 3 * cpu_panel_bytes(t);
    if (t.min == 2) {
        return tile_half(w + 2 * CPU_STRIPE + oct * 16);
    }
    w += (t.shared ? sub : 1) * CPU_STRIPE;
    i = _mm256_cvtepu8_epi32(_mm_loadl_epi64(
            (const __m128i *) (w + oct * 8)));
    if (t.shared) {
        i = _mm256_srli_epi32(i, 4);
    }
    return _mm256_mul_ps(tile_half(head + 2 * CPU_STRIPE + oct * 16),
                         _mm256_cvtepi32_ps(i));
}

/* One link of the chains: a block, or half of one. at: of row 0, block b. */
TILE_INLINE void
tile_link(__m256 *acc, __m256 *min, const uint8_t *w, const uint8_t *head,
    uint32_t oct, const cpu_acts_t *a, size_t at, uint32_t nb, __m128i shift,
    const int sub, const int rows, const cpu_traits_t t)
{
    const int  is_signed = t.low == 8 || t.table;
    __m256i    s[TILE_ROWS];
    __m256     d, m, x;
    size_t     k;
    float      sum;
    int        r;

#pragma GCC unroll 4
    for (r = 0; r < rows; r++) {
        k = at + (size_t) r * nb;
        s[r] = _mm256_setzero_si256();
        if (!t.min && !is_signed) {
            s[r] = _mm256_sll_epi32(_mm256_set1_epi32(
                       t.subs == 2 ? a->hsum[2 * k + (size_t) sub]
                                   : a->nsum[k]), shift);
        }
    }
    tile_block(s, w + oct / 2 * cpu_panel_bytes(t) + oct % 2 * 32,
               a->q + at * CPU_BLOCK, nb * CPU_BLOCK, sub, rows, t);

    d = tile_scale(w, head, oct, sub, t);
    m = t.min ? tile_min(w, head, oct, sub, t) : d;
#pragma GCC unroll 4
    for (r = 0; r < rows; r++) {
        k = at + (size_t) r * nb;
        x = _mm256_mul_ps(d, _mm256_set1_ps(a->d[k]));
        acc[r] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(s[r]), x, acc[r]);
        if (t.min) {
            sum = t.subs == 2
                  ? a->d[k] * (float) a->hsum[2 * k + (size_t) sub]
                  : t.min == 2 ? a->dsum[k] : -a->dsum[k];
            min[r] = _mm256_fmadd_ps(m, _mm256_set1_ps(sum), min[r]);
        }
    }
}

TILE_INLINE void
tile_store(float *y, __m256 v, uint32_t valid, int add)
{
    float     t[8];
    uint32_t  i;

    _mm256_storeu_ps(t, v);
    for (i = 0; i < (valid < 8 ? valid : 8); i++) {
        y[i] = add ? y[i] + t[i] : t[i];
    }
}

/* Outputs 8 * oct .. + 7 of the stripe for `rows` rows. */
TILE_INLINE void
tile_quant(const kern_weight_t *wt, const uint8_t *w, uint32_t oct,
    const cpu_acts_t *a, uint32_t row, float *y, size_t ldy, uint32_t valid,
    int add, const int rows, const cpu_traits_t t)
{
    uint32_t        nb = wt->n_in / CPU_BLOCK, b;
    size_t          at = (size_t) row * nb;
    __m128i         shift = _mm_cvtsi32_si128((int) wt->zero_shift);
    const uint8_t  *head = w;
    __m256          acc[TILE_ROWS], min[TILE_ROWS];
    int             r;

    for (r = 0; r < rows; r++) {
        acc[r] = min[r] = _mm256_setzero_ps();
    }
    for (b = 0; b < nb; b++, w += cpu_block_bytes(t)) {
        if (t.group > 1 && b % (uint32_t) t.group == 0) {
            head = w;
            w += cpu_head_bytes(t);
        }
        tile_link(acc, min, w, head, oct, a, at + b, nb, shift, 0, rows, t);
        if (t.subs == 2) {
            tile_link(acc, min, w, head, oct, a, at + b, nb, shift, 1, rows,
                      t);
        }
    }
    for (r = 0; r < rows; r++) {
        if (t.min) {
            acc[r] = _mm256_add_ps(acc[r], min[r]);
        }
        tile_store(y + r * ldy, acc[r], valid, add);
    }
}

TILE_INLINE void
tile_quant_rows(const kern_weight_t *wt, const uint8_t *w,
    const cpu_acts_t *a, uint32_t row, uint32_t n_rows, float *y, size_t ldy,
    uint32_t valid, int add, const cpu_traits_t t)
{
    uint32_t  oct, r, left;

    for (oct = 0; oct * 8 < valid; oct++) {
        left = valid - oct * 8;
        for (r = 0; r + TILE_ROWS <= n_rows; r += TILE_ROWS) {
            tile_quant(wt, w, oct, a, row + r, y + r * ldy + oct * 8, ldy,
                       left, add, TILE_ROWS, t);
        }
        for ( /* void */ ; r < n_rows; r++) {
            tile_quant(wt, w, oct, a, row + r, y + r * ldy + oct * 8, ldy,
                       left, add, 1, t);
        }
    }
}

void
kern_linear_k_avx2(const kern_weight_t *wt, uint32_t stripe,
    const cpu_acts_t *a, uint32_t r0, uint32_t n_rows, float *y, size_t ldy,
    int add)
{
    const uint8_t  *w = wt->data + stripe * wt->stripe_bytes;
    uint32_t        valid = cpu_valid(wt, stripe);

    switch (wt->form) {
    case CPU_N5Z:
        tile_quant_rows(wt, w, a, r0, n_rows, y, ldy, valid, add,
                        cpu_traits(CPU_N5Z));
        break;
    case CPU_N5M:
        tile_quant_rows(wt, w, a, r0, n_rows, y, ldy, valid, add,
                        cpu_traits(CPU_N5M));
        break;
    case CPU_B8D:
        tile_quant_rows(wt, w, a, r0, n_rows, y, ldy, valid, add,
                        cpu_traits(CPU_B8D));
        break;
    case CPU_T4:
        tile_quant_rows(wt, w, a, r0, n_rows, y, ldy, valid, add,
                        cpu_traits(CPU_T4));
        break;
    case CPU_T4G:
        tile_quant_rows(wt, w, a, r0, n_rows, y, ldy, valid, add,
                        cpu_traits(CPU_T4G));
        break;
    case CPU_G2:
        tile_quant_rows(wt, w, a, r0, n_rows, y, ldy, valid, add,
                        cpu_traits(CPU_G2));
        break;
    case CPU_G3:
        tile_quant_rows(wt, w, a, r0, n_rows, y, ldy, valid, add,
                        cpu_traits(CPU_G3));
        break;
    case CPU_G4:
        tile_quant_rows(wt, w, a, r0, n_rows, y, ldy, valid, add,
                        cpu_traits(CPU_G4));
        break;
    case CPU_G5:
        tile_quant_rows(wt, w, a, r0, n_rows, y, ldy, valid, add,
                        cpu_traits(CPU_G5));
        break;
    default:
        tile_quant_rows(wt, w, a, r0, n_rows, y, ldy, valid, add,
                        cpu_traits(CPU_G6));
    }
}
