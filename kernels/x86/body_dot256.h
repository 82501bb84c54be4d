/*
 * body_dot256.h: one stripe of 48 outputs times rows of activations in
 * 256-bit registers, the same sums as linear_avx512.c. Included once by
 * linear_avx2.c, linear_avxvnni.c and linear_vnni256.c, which define
 * DOT_NAME, the entry, and DOT_VNNI, whether vpdpbusd exists.
 *
 * tile     16 outputs x 1..4 rows; all three panels of a block before the
 *          next one, so that a stripe is read once, in order. f32 sums of
 *          more than one row live in L1, registers hold the integer sums
 * math     vpdpbusd, or else maddubs of nibbles summed in 16 bits and
 *          widened once a block, 8 * 2 * 15 * 127 = 30,480; bytes as even
 *          and odd ones in 16 bits, madd: two products a weight, but sums
 *          of 32 bits at once
 * traffic  kern_linear_cost(); weights once per tile of rows, from L2
 */

#include <immintrin.h>

#include "ref/ref_dequant_k.h"
#include "x86/x86.h"

#define TILE_ROWS  4
#define AHEAD      4096      /* a first row tile fetches this far ahead to L2 */

#define TILE_INLINE  static inline __attribute__((always_inline))

/* The compiler must not gather the products before it adds them, nor load
 * the activations of a block before the loop over panels: both spill. */
#define TILE_PIN(v)  __asm__ volatile ("" : "+x" (v))
#define TILE_PIN_PTR(p)  __asm__ volatile ("" : "+r" (p))

/* What the quantized forms differ in; constant in each instance. */
typedef struct {
    int  bits;      /* of a value: 4 (nibbles) or 8 (bytes) */
    int  min;
} tile_form_t;


TILE_INLINE __m256i
tile_x(const int8_t *p)
{
    int32_t  v;

    __builtin_memcpy(&v, p, sizeof(v));
    return _mm256_set1_epi32(v);
}

TILE_INLINE __m256i
tile_w(const uint8_t *p)
{
    return _mm256_loadu_si256((const __m256i *) p);
}

/* A first row tile does this for the third of a block that it begins: a
 * burst for a whole block would keep its own loads waiting. */
TILE_INLINE void
tile_ahead(const uint8_t *w, const size_t bytes)
{
    size_t  off;

#pragma GCC unroll 9
    for (off = 0; off < bytes; off += 64) {
        _mm_prefetch(w + AHEAD + off, _MM_HINT_T1);
    }
}

TILE_INLINE __m256
tile_half(const uint8_t *p)
{
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *) p));
}

#if DOT_VNNI

/* s[half][row] += w * x */
TILE_INLINE void
tile_dot(__m256i (*s)[TILE_ROWS], __m256i w0, __m256i w1, const int8_t *q,
    size_t step, const int rows)
{
    __m256i  x;
    int      r;

#pragma GCC unroll 4
    for (r = 0; r < rows; r++) {
        x = tile_x(q + (size_t) r * step);
        s[0][r] = _mm256_dpbusd_epi32(s[0][r], w0, x);
        s[1][r] = _mm256_dpbusd_epi32(s[1][r], w1, x);
    }
}

/* One block of a panel: 32-bit sums s[half][row]. */
TILE_INLINE void
tile_block(__m256i (*s)[TILE_ROWS], const uint8_t *w, const int8_t *q,
    size_t step, const int rows, const int bits)
{
    const __m256i  low = _mm256_set1_epi8(15);
    __m256i        w0, w1;
    int            i;

    if (bits != 4) {
#pragma GCC unroll 8
        for (i = 0; i < 8; i++) {
            tile_dot(s, tile_w(w + i * 64), tile_w(w + i * 64 + 32),
                     q + i * 4, step, rows);
        }
        return;
    }
#pragma GCC unroll 4
    for (i = 0; i < 4; i++) {
        w0 = _mm256_and_si256(tile_w(w + i * 64), low);
        w1 = _mm256_and_si256(tile_w(w + i * 64 + 32), low);
        tile_dot(s, w0, w1, q + i * 4, step, rows);
        w0 = _mm256_srli_epi16(tile_w(w + i * 64), 4);
        w1 = _mm256_srli_epi16(tile_w(w + i * 64 + 32), 4);
        w0 = _mm256_and_si256(w0, low);
        w1 = _mm256_and_si256(w1, low);
        tile_dot(s, w0, w1, q + 16 + i * 4, step, rows);
    }
}

#else

/* a[half][row] (+)= w * x in 16 bits; first: there is nothing to add to. */
TILE_INLINE void
tile_pairs(__m256i (*a)[TILE_ROWS], __m256i w0, __m256i w1, const int8_t *q,
    size_t step, const int rows, const int first)
{
    __m256i  x, y0, y1;
    int      r;

#pragma GCC unroll 4
    for (r = 0; r < rows; r++) {
        x = tile_x(q + (size_t) r * step);
        y0 = _mm256_maddubs_epi16(w0, x);
        y1 = _mm256_maddubs_epi16(w1, x);
        a[0][r] = first ? y0 : _mm256_add_epi16(a[0][r], y0);
        a[1][r] = first ? y1 : _mm256_add_epi16(a[1][r], y1);
        TILE_PIN(a[0][r]);
        TILE_PIN(a[1][r]);
    }
}

/* s += 16-bit pairs of a times m. */
TILE_INLINE void
tile_widen(__m256i (*s)[TILE_ROWS], __m256i (*a)[TILE_ROWS], __m256i m,
    const int rows)
{
    int  r;

#pragma GCC unroll 4
    for (r = 0; r < rows; r++) {
        s[0][r] = _mm256_add_epi32(s[0][r], _mm256_madd_epi16(a[0][r], m));
        s[1][r] = _mm256_add_epi32(s[1][r], _mm256_madd_epi16(a[1][r], m));
    }
}

/* s[half][row] += words w0, w1 of 16 bits times those of x, in pairs. */
TILE_INLINE void
tile_words(__m256i (*s)[TILE_ROWS], __m256i w0, __m256i w1, const int8_t *q,
    const int rows)
{
    __m256i  x;
    int      r;

#pragma GCC unroll 4
    for (r = 0; r < rows; r++) {
        x = tile_x(q + r * CPU_BLOCK);
        s[0][r] = _mm256_add_epi32(s[0][r], _mm256_madd_epi16(w0, x));
        TILE_PIN(s[0][r]);
        s[1][r] = _mm256_add_epi32(s[1][r], _mm256_madd_epi16(w1, x));
        TILE_PIN(s[1][r]);
    }
}

/* One block of a panel: 32-bit sums s[half][row]. bits 8: q has the rows'
 * values as tile_split() leaves them. */
TILE_INLINE void
tile_block(__m256i (*s)[TILE_ROWS], const uint8_t *w, const int8_t *q,
    size_t step, const int rows, const int bits)
{
    const __m256i  low = _mm256_set1_epi8(15), even = _mm256_set1_epi16(255);
    __m256i        a[2][TILE_ROWS], w0, w1;
    int            i;

    if (bits == 8) {
#pragma GCC unroll 8
        for (i = 0; i < 8; i++, q += 4) {
            w0 = tile_w(w + i * 64);
            w1 = tile_w(w + i * 64 + 32);
            tile_words(s, _mm256_and_si256(w0, even),
                       _mm256_and_si256(w1, even), q, rows);
            tile_words(s, _mm256_srli_epi16(w0, 8), _mm256_srli_epi16(w1, 8),
                       q + TILE_ROWS * CPU_BLOCK, rows);
        }
        return;
    }

#pragma GCC unroll 4
    for (i = 0; i < 4; i++) {
        w0 = _mm256_and_si256(tile_w(w + i * 64), low);
        w1 = _mm256_and_si256(tile_w(w + i * 64 + 32), low);
        tile_pairs(a, w0, w1, q + i * 4, step, rows, i == 0);
        w0 = _mm256_srli_epi16(tile_w(w + i * 64), 4);
        w1 = _mm256_srli_epi16(tile_w(w + i * 64 + 32), 4);
        w0 = _mm256_and_si256(w0, low);
        w1 = _mm256_and_si256(w1, low);
        tile_pairs(a, w0, w1, q + 16 + i * 4, step, rows, 0);
    }
    tile_widen(s, a, _mm256_set1_epi16(1), rows);
}

/* Even and odd ones of 32 values, in 16 bits. */
TILE_INLINE void
tile_split(int8_t *even, int8_t *odd, const int8_t *q)
{
    __m256i  x = tile_w((const uint8_t *) q);

    _mm256_store_si256((__m256i *) even,
                       _mm256_srai_epi16(_mm256_slli_epi16(x, 8), 8));
    _mm256_store_si256((__m256i *) odd, _mm256_srai_epi16(x, 8));
}

#endif

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

/* Activations of one tile and block: of row r at q + r * step, nsum[r *
 * nb] and so on. */
typedef struct {
    const int8_t   *q;
    size_t          step, nb;
    const float    *d;
    const int32_t  *nsum;
    __m128i         shift;
} tile_acts_t;

/* One panel of one block: w its values, d its scales. */
TILE_INLINE void
tile_panel(__m256 (*acc)[TILE_ROWS], const uint8_t *w, const uint8_t *d,
    tile_acts_t a, const int rows, const tile_form_t form)
{
    __m256i  s[2][TILE_ROWS], z;
    __m256   w0, w1, x;
    int      r;

#pragma GCC unroll 4
    for (r = 0; r < rows; r++) {
        z = _mm256_setzero_si256();
        if (!form.min) {
            z = _mm256_sll_epi32(_mm256_set1_epi32(a.nsum[r * a.nb]),
                                 a.shift);
        }
        s[0][r] = s[1][r] = z;
    }
    TILE_PIN_PTR(a.q);
    tile_block(s, w, a.q, a.step, rows, form.bits);

    w0 = tile_half(d);
    w1 = tile_half(d + 16);
#pragma GCC unroll 4
    for (r = 0; r < rows; r++) {
        x = _mm256_set1_ps(a.d[r * a.nb]);
        acc[0][r] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(s[0][r]),
                                    _mm256_mul_ps(w0, x), acc[0][r]);
        acc[1][r] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(s[1][r]),
                                    _mm256_mul_ps(w1, x), acc[1][r]);
    }
}

/* The chains of the minima of one panel, added to acc; m: in block 0. */
TILE_INLINE void
tile_minima(__m256 (*acc)[TILE_ROWS], const uint8_t *m, size_t bytes,
    const float *dsum, size_t nb, const int rows)
{
    __m256    min[2][TILE_ROWS], w0, w1, x;
    uint32_t  b;
    int       r;

#pragma GCC unroll 4
    for (r = 0; r < rows; r++) {
        min[0][r] = min[1][r] = _mm256_setzero_ps();
    }
    for (b = 0; b < nb; b++, m += bytes, dsum++) {
        w0 = tile_half(m);
        w1 = tile_half(m + 16);
#pragma GCC unroll 4
        for (r = 0; r < rows; r++) {
            x = _mm256_set1_ps(dsum[r * nb]);
            min[0][r] = _mm256_fmadd_ps(w0, x, min[0][r]);
            min[1][r] = _mm256_fmadd_ps(w1, x, min[1][r]);
        }
    }
#pragma GCC unroll 4
    for (r = 0; r < rows; r++) {
        acc[0][r] = _mm256_add_ps(acc[0][r], min[0][r]);
        acc[1][r] = _mm256_add_ps(acc[1][r], min[1][r]);
    }
}

TILE_INLINE void
tile_quant(const kern_weight_t *wt, const uint8_t *w, const cpu_acts_t *a,
    uint32_t row, float *y, size_t ldy, uint32_t valid, int add, int ahead,
    const int rows, const tile_form_t form)
{
    const size_t  panel = form.bits == 4 ? 256 : 512;
    const size_t  bytes = 3 * panel + (form.min ? 4 : 2) * CPU_STRIPE;
    uint32_t      nb = wt->n_in / CPU_BLOCK, b;
    const uint8_t  *first = w;
    __m256        acc[6][TILE_ROWS];
    tile_acts_t   x = {
        .q = a->q + (size_t) row * wt->n_in, .step = wt->n_in, .nb = nb,
        .d = a->d + (size_t) row * nb,
        .nsum = a->nsum + (size_t) row * nb,
        .shift = _mm_cvtsi32_si128((int) wt->zero_shift)
    };
    int           r, p;
#if !DOT_VNNI
    int8_t        part[2 * TILE_ROWS * CPU_BLOCK]
                      __attribute__((aligned(32)));
#endif

    for (p = 0; p < 6; p++) {
        for (r = 0; r < rows; r++) {
            acc[p][r] = _mm256_setzero_ps();
        }
    }
    for (b = 0; b < nb; b++, w += bytes, x.d++, x.nsum++) {
        x.q = a->q + (size_t) row * wt->n_in + b * CPU_BLOCK;
#if !DOT_VNNI
        if (form.bits == 8) {
            for (r = 0; r < rows; r++) {
                tile_split(part + r * CPU_BLOCK,
                           part + (TILE_ROWS + r) * CPU_BLOCK,
                           x.q + (size_t) r * wt->n_in);
            }
            x.q = part;
            x.step = CPU_BLOCK;
        }
#endif
        for (p = 0; p < 3; p++) {
            if (ahead) {
                tile_ahead(w + p * (bytes / 3), bytes / 3);
            }
            tile_panel(acc + 2 * p, w + p * panel, w + 3 * panel + p * 32, x,
                       rows, form);
        }
    }
    for (p = 0; form.min && p < 3; p++) {
        tile_minima(acc + 2 * p, first + bytes - 2 * CPU_STRIPE + p * 32, bytes,
                    a->dsum + (size_t) row * nb, nb, rows);
    }
    for (r = 0; r < rows; r++) {
        for (p = 0; p < 6 && (uint32_t) p * 8 < valid; p++) {
            tile_store(y + r * ldy + p * 8, acc[p][r], valid - p * 8, add);
        }
    }
}

TILE_INLINE void
tile_quant_rows(const kern_weight_t *wt, const uint8_t *w,
    const cpu_acts_t *a, uint32_t row, uint32_t n_rows, float *y, size_t ldy,
    uint32_t valid, int add, const tile_form_t form)
{
    uint32_t  r, n;

    for (r = 0; r < n_rows; r += n, y += n * ldy) {
        n = n_rows - r < TILE_ROWS ? n_rows - r : TILE_ROWS;
        switch (n) {
        case 1:
            tile_quant(wt, w, a, row + r, y, ldy, valid, add, r == 0, 1,
                       form);
            break;
        case 2:
            tile_quant(wt, w, a, row + r, y, ldy, valid, add, r == 0, 2,
                       form);
            break;
        case 3:
            tile_quant(wt, w, a, row + r, y, ldy, valid, add, r == 0, 3,
                       form);
            break;
        default:
            tile_quant(wt, w, a, row + r, y, ldy, valid, add, r == 0, 4,
                       form);
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

#include "x86/body_k256.h"

void
DOT_NAME(const kern_weight_t *wt, uint32_t stripe, const cpu_acts_t *a,
    uint32_t r0, uint32_t n_rows, float *y, size_t ldy, int add)
{
    const uint8_t  *w = wt->data + stripe * wt->stripe_bytes;
    const float    *x = a->f + (size_t) r0 * wt->n_in;
    uint32_t        valid = cpu_valid(wt, stripe);

    switch (wt->form) {
    case CPU_N4Z:
        tile_quant_rows(wt, w, a, r0, n_rows, y, ldy, valid, add,
                        (tile_form_t) { 4, 0 });
        break;
    case CPU_N4M:
        tile_quant_rows(wt, w, a, r0, n_rows, y, ldy, valid, add,
                        (tile_form_t) { 4, 1 });
        break;
    case CPU_B8Z:
        tile_quant_rows(wt, w, a, r0, n_rows, y, ldy, valid, add,
                        (tile_form_t) { 8, 0 });
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
        k_linear(wt, w, a, r0, n_rows, y, ldy, valid, add);
    }
}
