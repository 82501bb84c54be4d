/*
 * linear_avx512.c: one stripe of 48 outputs times rows of activations.
 *
 * kern_linear_avx512: y[r, j] (+)= sum_k x[r, k] * w[j, k]
 * shapes   w one stripe in the layout of cpu.h; rows of cpu_acts_t
 * tile     3 panels x 1..4 rows: 12 int32 and 12 f32 accumulators; the
 *          same code serves every number of rows, tails are smaller tiles
 * math     per block of 32: exact vpdpbusd sum (u8 weight x s8 activation,
 *          started from the zero point times minus the block sum), one fma
 *          with the product of the scales; minima in a chain of their own
 * traffic  kern_linear_cost(); weights once per call, from L2
 * bound    memory up to about 4 rows, then vpdpbusd: 8 of 11 multiply-port
 *          instructions per block are useful (73 %)
 * measured Zen 4, one core, 1536 x 576, 64 rows: Q4_1 322, Q4_0 348, Q8_0
 *          350 GOP/s of 465 (69 to 75 %); F32 113, BF16 98 of 118
 */

#include <immintrin.h>

#include "x86/x86.h"

#define TILE_ROWS  4
#define AHEAD      16384     /* a first row tile fetches this far ahead to L2 */

#define TILE_INLINE  static inline __attribute__((always_inline))

/* What the four quantized forms differ in; constant in each instance. */
typedef struct {
    int  nibble;
    int  min;
} tile_form_t;

/* Rows of one tile. */
typedef struct {
    const int8_t   *q;
    const float    *d;
    const int32_t  *nsum;
    const float    *dsum;
    uint32_t        n_in, nb;
} tile_rows_t;


TILE_INLINE __m512i
tile_x(const int8_t *p)
{
    int32_t  v;

    __builtin_memcpy(&v, p, sizeof(v));
    return _mm512_set1_epi32(v);
}

TILE_INLINE __m512
tile_half(const uint8_t *p)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *) p));
}

/* Integer sums of one block; s[panel][row] holds the start values. */
TILE_INLINE void
tile_block(__m512i (*s)[TILE_ROWS], const uint8_t *w, const int8_t *q,
    uint32_t n_in, const int rows, const int nibble)
{
    const __m512i  low = _mm512_set1_epi8(15);
    __m512i        w0, w1, w2, x;
    int            i, r;

    if (!nibble) {
#pragma GCC unroll 8
        for (i = 0; i < 8; i++) {
            w0 = _mm512_loadu_si512(w + i * 64);
            w1 = _mm512_loadu_si512(w + 512 + i * 64);
            w2 = _mm512_loadu_si512(w + 1024 + i * 64);
#pragma GCC unroll 4
            for (r = 0; r < rows; r++) {
                x = tile_x(q + (size_t) r * n_in + i * 4);
                s[0][r] = _mm512_dpbusd_epi32(s[0][r], w0, x);
                s[1][r] = _mm512_dpbusd_epi32(s[1][r], w1, x);
                s[2][r] = _mm512_dpbusd_epi32(s[2][r], w2, x);
            }
        }
        return;
    }

#pragma GCC unroll 4
    for (i = 0; i < 4; i++) {
        w0 = _mm512_loadu_si512(w + i * 64);
        w1 = _mm512_loadu_si512(w + 256 + i * 64);
        w2 = _mm512_loadu_si512(w + 512 + i * 64);
#pragma GCC unroll 4
        for (r = 0; r < rows; r++) {
            x = tile_x(q + (size_t) r * n_in + i * 4);
            s[0][r] = _mm512_dpbusd_epi32(s[0][r],
                                          _mm512_and_si512(w0, low), x);
            s[1][r] = _mm512_dpbusd_epi32(s[1][r],
                                          _mm512_and_si512(w1, low), x);
            s[2][r] = _mm512_dpbusd_epi32(s[2][r],
                                          _mm512_and_si512(w2, low), x);
        }
        w0 = _mm512_and_si512(_mm512_srli_epi16(w0, 4), low);
        w1 = _mm512_and_si512(_mm512_srli_epi16(w1, 4), low);
        w2 = _mm512_and_si512(_mm512_srli_epi16(w2, 4), low);
#pragma GCC unroll 4
        for (r = 0; r < rows; r++) {
            x = tile_x(q + (size_t) r * n_in + 16 + i * 4);
            s[0][r] = _mm512_dpbusd_epi32(s[0][r], w0, x);
            s[1][r] = _mm512_dpbusd_epi32(s[1][r], w1, x);
            s[2][r] = _mm512_dpbusd_epi32(s[2][r], w2, x);
        }
    }
}

TILE_INLINE void
tile_store(float *y, size_t ldy, __m512 (*acc)[TILE_ROWS], uint32_t valid,
    const int rows, int add)
{
    __mmask16  m;
    __m512     v;
    int        r, p;

#pragma GCC unroll 4
    for (r = 0; r < rows; r++) {
#pragma GCC unroll 3
        for (p = 0; p < 3; p++) {
            if (valid <= (uint32_t) p * 16) {
                continue;
            }
            m = valid - p * 16 >= 16 ? 0xffff
                : (__mmask16) ((1u << (valid - p * 16)) - 1);
            v = acc[p][r];
            if (add) {
                v = _mm512_add_ps(_mm512_maskz_loadu_ps(m, y + p * 16), v);
            }
            _mm512_mask_storeu_ps(y + p * 16, m, v);
        }
        y += ldy;
    }
}

/* Minima chains of a tile, added to acc. */
TILE_INLINE void
tile_minima(__m512 (*acc)[TILE_ROWS], const uint8_t *w, const tile_rows_t *t,
    size_t block_bytes, const int rows)
{
    __m512    min[3][TILE_ROWS], x;
    uint32_t  b;
    int       r, p;

    for (p = 0; p < 3; p++) {
        for (r = 0; r < rows; r++) {
            min[p][r] = _mm512_setzero_ps();
        }
    }
    w += block_bytes - 2 * CPU_STRIPE;
    for (b = 0; b < t->nb; b++, w += block_bytes) {
#pragma GCC unroll 4
        for (r = 0; r < rows; r++) {
            x = _mm512_set1_ps(t->dsum[(size_t) r * t->nb + b]);
#pragma GCC unroll 3
            for (p = 0; p < 3; p++) {
                min[p][r] = _mm512_fmadd_ps(tile_half(w + p * 32), x,
                                            min[p][r]);
            }
        }
    }
    for (p = 0; p < 3; p++) {
        for (r = 0; r < rows; r++) {
            acc[p][r] = _mm512_add_ps(acc[p][r], min[p][r]);
        }
    }
}

TILE_INLINE void
tile_quant(const kern_weight_t *wt, const uint8_t *w, const tile_rows_t *t,
    float *y, size_t ldy, uint32_t valid, int add, int ahead, const int rows,
    const tile_form_t form)
{
    const size_t    panel = form.nibble ? 256 : 512;
    const size_t    bytes = 3 * panel + (form.min ? 4 : 2) * CPU_STRIPE;
    const uint8_t  *wb = w;
    __m128i         shift = _mm_cvtsi32_si128((int) wt->zero_shift);
    __m512i         s[3][TILE_ROWS], z;
    __m512          acc[3][TILE_ROWS], d, da[TILE_ROWS];
    uint32_t        b, off;
    int             r, p;

    for (p = 0; p < 3; p++) {
        for (r = 0; r < rows; r++) {
            acc[p][r] = _mm512_setzero_ps();
        }
    }

    for (b = 0; b < t->nb; b++, wb += bytes) {
        if (ahead) {
#pragma GCC unroll 28
            for (off = 0; off < bytes; off += 64) {
                _mm_prefetch(wb + AHEAD + off, _MM_HINT_T1);
            }
        }
#pragma GCC unroll 4
        for (r = 0; r < rows; r++) {
            z = _mm512_setzero_si512();
            if (!form.min) {
                z = _mm512_set1_epi32(t->nsum[(size_t) r * t->nb + b]);
                z = _mm512_sll_epi32(z, shift);
            }
            s[0][r] = s[1][r] = s[2][r] = z;
        }
        tile_block(s, wb, t->q + b * CPU_BLOCK, t->n_in, rows, form.nibble);

#pragma GCC unroll 4
        for (r = 0; r < rows; r++) {
            da[r] = _mm512_set1_ps(t->d[(size_t) r * t->nb + b]);
        }
#pragma GCC unroll 3
        for (p = 0; p < 3; p++) {
            d = tile_half(wb + 3 * panel + p * 32);
#pragma GCC unroll 4
            for (r = 0; r < rows; r++) {
                acc[p][r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(s[p][r]),
                                            _mm512_mul_ps(d, da[r]),
                                            acc[p][r]);
            }
        }
    }

    if (form.min) {
        tile_minima(acc, w, t, bytes, rows);
    }
    tile_store(y, ldy, acc, valid, rows, add);
}

TILE_INLINE void
tile_quant_rows(const kern_weight_t *wt, const uint8_t *w,
    const cpu_acts_t *a, uint32_t r0, uint32_t n_rows, float *y, size_t ldy,
    uint32_t valid, int add, const tile_form_t form)
{
    uint32_t  nb = wt->n_in / CPU_BLOCK, r, n;

    for (r = 0; r < n_rows; r += n, y += n * ldy) {
        const tile_rows_t  t = {
            .q = a->q + (size_t) (r0 + r) * wt->n_in,
            .d = a->d + (size_t) (r0 + r) * nb,
            .nsum = a->nsum + (size_t) (r0 + r) * nb,
            .dsum = a->dsum + (size_t) (r0 + r) * nb,
            .n_in = wt->n_in,
            .nb = nb
        };

        n = n_rows - r < TILE_ROWS ? n_rows - r : TILE_ROWS;
        switch (n) {
        case 1:
            tile_quant(wt, w, &t, y, ldy, valid, add, r == 0, 1, form);
            break;
        case 2:
            tile_quant(wt, w, &t, y, ldy, valid, add, r == 0, 2, form);
            break;
        case 3:
            tile_quant(wt, w, &t, y, ldy, valid, add, r == 0, 3, form);
            break;
        default:
            tile_quant(wt, w, &t, y, ldy, valid, add, r == 0, 4, form);
        }
    }
}

/* Sixteen float weights of any float form. */
TILE_INLINE __m512
tile_float(const uint8_t *w, size_t i, const cpu_form_e form)
{
    __m256i  h;

    if (form == CPU_F32) {
        return _mm512_loadu_ps(w + i * 4);
    }
    if (form == CPU_F16) {
        return tile_half(w + i * 2);
    }
    h = _mm256_loadu_si256((const __m256i *) (w + i * 2));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h),
                                                 16));
}

TILE_INLINE void
tile_float_rows(const uint8_t *w, const float *x, uint32_t n_in, float *y,
    size_t ldy, uint32_t valid, int add, const int rows,
    const cpu_form_e form)
{
    __m512    acc[3][TILE_ROWS], v[3], xr;
    uint32_t  k;
    int       r, p;

    for (p = 0; p < 3; p++) {
        for (r = 0; r < rows; r++) {
            acc[p][r] = _mm512_setzero_ps();
        }
    }
    for (k = 0; k < n_in; k++) {
#pragma GCC unroll 3
        for (p = 0; p < 3; p++) {
            v[p] = tile_float(w, (size_t) k * CPU_STRIPE + p * 16, form);
        }
#pragma GCC unroll 4
        for (r = 0; r < rows; r++) {
            xr = _mm512_set1_ps(x[(size_t) r * n_in + k]);
#pragma GCC unroll 3
            for (p = 0; p < 3; p++) {
                acc[p][r] = _mm512_fmadd_ps(v[p], xr, acc[p][r]);
            }
        }
    }
    tile_store(y, ldy, acc, valid, rows, add);
}

TILE_INLINE void
tile_float_form(const uint8_t *w, const float *x, uint32_t n_in,
    uint32_t n_rows, float *y, size_t ldy, uint32_t valid, int add,
    const cpu_form_e form)
{
    while (n_rows >= 4) {
        tile_float_rows(w, x, n_in, y, ldy, valid, add, 4, form);
        x += (size_t) 4 * n_in;
        y += 4 * ldy;
        n_rows -= 4;
    }
    if (n_rows >= 2) {
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
kern_linear_avx512(const kern_weight_t *wt, uint32_t stripe,
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
    case CPU_B8M:
        tile_quant_rows(wt, w, a, r0, n_rows, y, ldy, valid, add,
                        (tile_form_t) { 0, 1 });
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
    }
}
