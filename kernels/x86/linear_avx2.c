/*
 * linear_avx2.c: one stripe of 48 outputs times rows of activations, the
 * same sums as linear_avx512.c in 256-bit registers without VNNI.
 *
 * math     nibbles: maddubs; all eight products of a column group stay in
 *          16 bits (8 * 2 * 15 * 127 = 30,480). bytes: even and odd bytes as
 *          16-bit values through madd, since 255 * 127 * 2 would saturate
 * tile     8 outputs x 1..4 rows, panels one after the other
 */

#include <immintrin.h>

#include "x86/x86.h"

#define TILE_ROWS  4

#define TILE_INLINE  static inline __attribute__((always_inline))

/* The block layout of one quantized form; constant in each instance. */
typedef struct {
    int  nibble;
    int  min;
} tile_form_t;


TILE_INLINE __m256i
tile_x(const int8_t *p)
{
    int32_t  v;

    __builtin_memcpy(&v, p, sizeof(v));
    return _mm256_set1_epi32(v);
}

TILE_INLINE __m256
tile_half(const uint8_t *p)
{
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *) p));
}

/* Integer sums of one block for 8 outputs: w at the panel's half. */
TILE_INLINE void
tile_block(__m256i *s, const uint8_t *w, const int8_t *q, uint32_t n_in,
    const int rows, const int nibble)
{
    const __m256i  low = _mm256_set1_epi8(15);
    const __m256i  even = _mm256_set1_epi16(255);
    const __m256i  one = _mm256_set1_epi16(1);
    __m256i        a[TILE_ROWS], w0, w1, x;
    int            i, r;

    if (!nibble) {
        for (i = 0; i < 8; i++) {
            w0 = _mm256_loadu_si256((const __m256i *) (w + i * 64));
            w1 = _mm256_srli_epi16(w0, 8);
            w0 = _mm256_and_si256(w0, even);
#pragma GCC unroll 4
            for (r = 0; r < rows; r++) {
                x = tile_x(q + (size_t) r * n_in + i * 4);
                s[r] = _mm256_add_epi32(s[r], _mm256_madd_epi16(w1,
                                            _mm256_srai_epi16(x, 8)));
                x = _mm256_srai_epi16(_mm256_slli_epi16(x, 8), 8);
                s[r] = _mm256_add_epi32(s[r], _mm256_madd_epi16(w0, x));
            }
        }
        return;
    }

#pragma GCC unroll 4
    for (r = 0; r < rows; r++) {
        a[r] = _mm256_setzero_si256();
    }
#pragma GCC unroll 4
    for (i = 0; i < 4; i++) {
        w0 = _mm256_loadu_si256((const __m256i *) (w + i * 64));
        w1 = _mm256_and_si256(_mm256_srli_epi16(w0, 4), low);
        w0 = _mm256_and_si256(w0, low);
#pragma GCC unroll 4
        for (r = 0; r < rows; r++) {
            x = tile_x(q + (size_t) r * n_in + i * 4);
            a[r] = _mm256_add_epi16(a[r], _mm256_maddubs_epi16(w0, x));
            x = tile_x(q + (size_t) r * n_in + 16 + i * 4);
            a[r] = _mm256_add_epi16(a[r], _mm256_maddubs_epi16(w1, x));
        }
    }
#pragma GCC unroll 4
    for (r = 0; r < rows; r++) {
        s[r] = _mm256_add_epi32(s[r], _mm256_madd_epi16(a[r], one));
    }
}

TILE_INLINE void
tile_store(float *y, __m256 v, uint32_t valid, int add)
{
    float     t[8];
    uint32_t  i;

    if (valid >= 8) {
        if (add) {
            v = _mm256_add_ps(_mm256_loadu_ps(y), v);
        }
        _mm256_storeu_ps(y, v);
        return;
    }
    _mm256_storeu_ps(t, v);
    for (i = 0; i < valid; i++) {
        y[i] = add ? y[i] + t[i] : t[i];
    }
}

/* Outputs 8 * oct .. + 7 of the stripe for `rows` rows. */
TILE_INLINE void
tile_quant(const kern_weight_t *wt, const uint8_t *w, uint32_t oct,
    const cpu_acts_t *a, uint32_t row, float *y, size_t ldy, uint32_t valid,
    int add, const int rows, const tile_form_t form)
{
    const size_t   panel = form.nibble ? 256 : 512;
    const size_t   bytes = 3 * panel + (form.min ? 4 : 2) * CPU_STRIPE;
    uint32_t       nb = wt->n_in / CPU_BLOCK, b;
    const int8_t  *q = a->q + (size_t) row * wt->n_in;
    size_t         at = (size_t) row * nb;
    __m128i        shift = _mm_cvtsi32_si128((int) wt->zero_shift);
    __m256         acc[TILE_ROWS], min[TILE_ROWS], d, m;
    __m256i        s[TILE_ROWS];
    int            r;

    for (r = 0; r < rows; r++) {
        acc[r] = min[r] = _mm256_setzero_ps();
    }
    m = _mm256_setzero_ps();
    for (b = 0; b < nb; b++, w += bytes, q += CPU_BLOCK) {
        d = tile_half(w + 3 * panel + oct * 16);
        if (form.min) {
            m = tile_half(w + 3 * panel + 2 * CPU_STRIPE + oct * 16);
        }
#pragma GCC unroll 4
        for (r = 0; r < rows; r++) {
            s[r] = _mm256_setzero_si256();
            if (!form.min) {
                s[r] = _mm256_set1_epi32(a->nsum[at + (size_t) r * nb + b]);
                s[r] = _mm256_sll_epi32(s[r], shift);
            }
        }
        tile_block(s, w + oct / 2 * panel + oct % 2 * 32, q, wt->n_in, rows,
                   form.nibble);
#pragma GCC unroll 4
        for (r = 0; r < rows; r++) {
            acc[r] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(s[r]),
                _mm256_mul_ps(d, _mm256_set1_ps(a->d[at + (size_t) r * nb
                                                     + b])), acc[r]);
            if (form.min) {
                min[r] = _mm256_fmadd_ps(m,
                    _mm256_set1_ps(a->dsum[at + (size_t) r * nb + b]),
                    min[r]);
            }
        }
    }
    for (r = 0; r < rows; r++) {
        if (form.min) {
            acc[r] = _mm256_add_ps(acc[r], min[r]);
        }
        tile_store(y + r * ldy, acc[r], valid, add);
    }
}

TILE_INLINE void
tile_quant_rows(const kern_weight_t *wt, const uint8_t *w,
    const cpu_acts_t *a, uint32_t row, uint32_t n_rows, float *y, size_t ldy,
    uint32_t valid, int add, const tile_form_t form)
{
    uint32_t  oct, r, left;

    for (oct = 0; oct * 8 < valid; oct++) {
        left = valid - oct * 8;
        for (r = 0; r + TILE_ROWS <= n_rows; r += TILE_ROWS) {
            tile_quant(wt, w, oct, a, row + r, y + r * ldy + oct * 8, ldy,
                       left, add, TILE_ROWS, form);
        }
        for ( /* void */ ; r < n_rows; r++) {
            tile_quant(wt, w, oct, a, row + r, y + r * ldy + oct * 8, ldy,
                       left, add, 1, form);
        }
    }
}

/* Eight float weights of any float form. */
TILE_INLINE __m256
tile_float(const uint8_t *w, size_t i, const cpu_form_e form)
{
    __m128i  h;

    if (form == CPU_F32) {
        return _mm256_loadu_ps((const float *) (w + i * 4));
    }
    if (form == CPU_F16) {
        return tile_half(w + i * 2);
    }
    h = _mm_loadu_si128((const __m128i *) (w + i * 2));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h),
                                                 16));
}

/* All 48 outputs of `rows` rows (1 or 2). */
TILE_INLINE void
tile_float_rows(const uint8_t *w, const float *x, uint32_t n_in, float *y,
    size_t ldy, uint32_t valid, int add, const int rows,
    const cpu_form_e form)
{
    __m256    acc[6][2], v, xr[2];
    uint32_t  k;
    int       r, p;

    for (p = 0; p < 6; p++) {
        acc[p][0] = acc[p][1] = _mm256_setzero_ps();
    }
    for (k = 0; k < n_in; k++) {
        for (r = 0; r < rows; r++) {
            xr[r] = _mm256_set1_ps(x[(size_t) r * n_in + k]);
        }
#pragma GCC unroll 6
        for (p = 0; p < 6; p++) {
            v = tile_float(w, (size_t) k * CPU_STRIPE + p * 8, form);
            for (r = 0; r < rows; r++) {
                acc[p][r] = _mm256_fmadd_ps(v, xr[r], acc[p][r]);
            }
        }
    }
    for (p = 0; p < 6 && (uint32_t) p * 8 < valid; p++) {
        for (r = 0; r < rows; r++) {
            tile_store(y + r * ldy + p * 8, acc[p][r], valid - p * 8, add);
        }
    }
}

TILE_INLINE void
tile_float_form(const uint8_t *w, const float *x, uint32_t n_in,
    uint32_t n_rows, float *y, size_t ldy, uint32_t valid, int add,
    const cpu_form_e form)
{
    while (n_rows >= 2) {
        tile_float_rows(w, x, n_in, y, ldy, valid, add, 2, form);
        x += (size_t) 2 * n_in;
        y += 2 * ldy;
        n_rows -= 2;
    }
    if (n_rows == 1) {
        tile_float_rows(w, x, n_in, y, ldy, valid, add, 1, form);
    }
}

void
kern_linear_avx2(const kern_weight_t *wt, uint32_t stripe,
    const cpu_acts_t *a, uint32_t r0, uint32_t n_rows, float *y, size_t ldy,
    int add)
{
    const uint8_t  *w = wt->data + stripe * wt->stripe_bytes;
    const float    *x = a->f + (size_t) r0 * wt->n_in;
    uint32_t        valid = cpu_valid(wt, stripe);

    switch (wt->form) {
    case CPU_N4Z:
        tile_quant_rows(wt, w, a, r0, n_rows, y, ldy, valid, add,
                        (tile_form_t) { 1, 0 });
        break;
    case CPU_N4M:
        tile_quant_rows(wt, w, a, r0, n_rows, y, ldy, valid, add,
                        (tile_form_t) { 1, 1 });
        break;
    case CPU_B8Z:
        tile_quant_rows(wt, w, a, r0, n_rows, y, ldy, valid, add,
                        (tile_form_t) { 0, 0 });
        break;
    case CPU_F32:
        tile_float_form(w, x, wt->n_in, n_rows, y, ldy, valid, add, CPU_F32);
        break;
    case CPU_F16:
        tile_float_form(w, x, wt->n_in, n_rows, y, ldy, valid, add, CPU_F16);
        break;
    case CPU_BF16:
        tile_float_form(w, x, wt->n_in, n_rows, y, ldy, valid, add, CPU_BF16);
        break;
    default:
        kern_linear_k_avx2(wt, stripe, a, r0, n_rows, y, ldy, add);
    }
}
