/*
 * linear_avx512.c: one stripe of 48 outputs times rows of activations.
 *
 * kern_linear_avx512: y[r, j] (+)= sum_k x[r, k] * w[j, k]
 * shapes   w one stripe in the layout of cpu.h; rows of cpu_acts_t
 * tile     3 panels x 1..4 rows: 12 int32 and 12 f32 accumulators; the
 *          same code serves every number of rows, tails are smaller tiles
 * math     per scale, 32 columns or 16: exact vpdpbusd sum (u8 weight x s8
 *          activation, started from the zero point times minus the sum of
 *          activations), one fma with the product of the scales; minima in
 *          a chain of their own
 * traffic  kern_linear_cost(); weights once per call, from L2
 * bound    memory up to about 4 rows, then vpdpbusd: 8 of 11 multiply-port
 *          instructions per block are useful (73 %)
 * measured Zen 4, one core, 1536 x 576, 64 rows: Q4_1 322, Q4_0 348, Q8_0
 *          350 GOP/s of 465 (69 to 75 %); F32 113, BF16 98 of 118
 */

#include <immintrin.h>

#include "ref/ref_dequant_k.h"
#include "x86/x86.h"

#define TILE_ROWS  4
#define AHEAD      16384     /* a first row tile fetches this far ahead to L2 */

#define TILE_INLINE  static inline __attribute__((always_inline))

/* Rows of one tile. */
typedef struct {
    const int8_t   *q;
    const float    *d;
    const int32_t  *nsum, *hsum;
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

/* Unsigned values of columns 16h + 4i .. + 3 of 16 outputs. */
TILE_INLINE __m512i
tile_values(const uint8_t *w, const int h, const int i, const cpu_traits_t t)
{
    __m512i  v, u;

    if (t.low == 8) {
        return _mm512_loadu_si512(w + (4 * h + i) * 64);
    }
    if (t.low == 4) {
        v = _mm512_loadu_si512(w + i * 64);
        v = h ? _mm512_srli_epi16(v, 4) : v;
        v = _mm512_and_si512(v, _mm512_set1_epi8(15));
    } else {
        v = _mm512_loadu_si512(w + h * 64);
        v = i ? _mm512_srli_epi16(v, 2 * i) : v;
        v = _mm512_and_si512(v, _mm512_set1_epi8(3));
    }
    if (t.table) {
        u = _mm512_broadcast_i32x4(_mm_xor_si128(
                _mm_loadu_si128((const __m128i *) kern_iq4_values),
                _mm_set1_epi8((char) 0x80)));
        return _mm512_shuffle_epi8(u, v);
    }

    if (t.high == 1) {
        u = _mm512_loadu_si512(w + t.low * 64);
        u = 4 * h + i < t.low ? _mm512_slli_epi16(u, t.low - 4 * h - i)
            : _mm512_srli_epi16(u, 4 * h + i - t.low);
        u = _mm512_and_si512(u, _mm512_set1_epi8((char) (1 << t.low)));
        v = _mm512_or_si512(v, u);
    } else if (t.high == 2) {
        u = _mm512_loadu_si512(w + t.low * 64 + h * 64);
        u = 2 * i < t.low ? _mm512_slli_epi16(u, t.low - 2 * i)
            : _mm512_srli_epi16(u, 2 * i - t.low);
        u = _mm512_and_si512(u, _mm512_set1_epi8((char) (3 << t.low)));
        v = _mm512_or_si512(v, u);
    }
    return v;
}

TILE_INLINE void
tile_dot(__m512i (*s)[TILE_ROWS], const uint8_t *w, const int8_t *q,
    uint32_t n_in, const int h, const int i, const int rows,
    const cpu_traits_t t)
{
    const size_t  panel = cpu_panel_bytes(t);
    __m512i       w0, w1, w2, x;
    int           r;

    w0 = tile_values(w, h, i, t);
    w1 = tile_values(w + panel, h, i, t);
    w2 = tile_values(w + 2 * panel, h, i, t);
#pragma GCC unroll 4
    for (r = 0; r < rows; r++) {
        x = tile_x(q + (size_t) r * n_in + h * 16 + i * 4);
        s[0][r] = _mm512_dpbusd_epi32(s[0][r], w0, x);
        s[1][r] = _mm512_dpbusd_epi32(s[1][r], w1, x);
        s[2][r] = _mm512_dpbusd_epi32(s[2][r], w2, x);
    }
}

/* Integer sums of a block, or of its half `sub` where the block has two
 * scales; s[panel][row] holds the start values. */
TILE_INLINE void
tile_block(__m512i (*s)[TILE_ROWS], const uint8_t *w, const int8_t *q,
    uint32_t n_in, const int sub, const int rows, const cpu_traits_t t)
{
    int  i;

    if (t.low == 4 && t.subs == 1) {
#pragma GCC unroll 4
        for (i = 0; i < 4; i++) {
            tile_dot(s, w, q, n_in, 0, i, rows, t);
            tile_dot(s, w, q, n_in, 1, i, rows, t);
        }
        return;
    }
#pragma GCC unroll 4
    for (i = 0; i < 4; i++) {
        tile_dot(s, w, q, n_in, sub, i, rows, t);
    }
    if (t.subs == 1) {
#pragma GCC unroll 4
        for (i = 0; i < 4; i++) {
            tile_dot(s, w, q, n_in, 1, i, rows, t);
        }
    }
}

/* Sixteen scales of panel p, half sub; w: the block, head: of its group. */
TILE_INLINE __m512
tile_scale(const uint8_t *w, const uint8_t *head, const int p, const int sub,
    const cpu_traits_t t)
{
    __m512i  i;

    w += 3 * cpu_panel_bytes(t);
    if (t.scale == 2) {
        return tile_half(w + p * 32);
    }
    if (t.scale == 4) {
        return _mm512_loadu_ps(w + p * 64);
    }
    i = _mm512_cvtepi8_epi32(_mm_loadu_si128(
            (const __m128i *) (w + sub * CPU_STRIPE + p * 16)));
    if (t.shared) {
        i = _mm512_and_si512(i, _mm512_set1_epi32(15));
    }
    return _mm512_mul_ps(tile_half(head + p * 32), _mm512_cvtepi32_ps(i));
}

TILE_INLINE __m512
tile_min(const uint8_t *w, const uint8_t *head, const int p, const int sub,
    const cpu_traits_t t)
{
    __m512i  i;

    w += 3 * cpu_panel_bytes(t);
    if (t.min == 2) {
        return tile_half(w + t.scale * CPU_STRIPE + p * 32);
    }
    w += (t.shared ? sub : 1) * CPU_STRIPE + p * 16;
    i = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *) w));
    if (t.shared) {
        i = _mm512_srli_epi32(i, 4);
    }
    return _mm512_mul_ps(tile_half(head + 2 * CPU_STRIPE + p * 32),
                         _mm512_cvtepi32_ps(i));
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

/* What a block's minima are multiplied with: its sum of activations, or
 * minus that where minima are to be taken off. */
TILE_INLINE __m512
tile_sum(const tile_rows_t *rows, size_t at, const int sub,
    const cpu_traits_t t)
{
    if (t.subs == 2) {
        return _mm512_mul_ps(_mm512_set1_ps(rows->d[at]),
                   _mm512_cvtepi32_ps(_mm512_set1_epi32(
                       rows->hsum[2 * at + (size_t) sub])));
    }
    return _mm512_set1_ps(t.min == 2 ? rows->dsum[at] : -rows->dsum[at]);
}

/* Minima chains of a tile, added to acc. */
TILE_INLINE void
tile_minima(__m512 (*acc)[TILE_ROWS], const uint8_t *w,
    const tile_rows_t *tr, const int rows, const cpu_traits_t t)
{
    const uint8_t  *head = w;
    __m512          min[3][TILE_ROWS], m[3], x;
    uint32_t        b;
    int             r, p, sub;

    for (p = 0; p < 3; p++) {
        for (r = 0; r < rows; r++) {
            min[p][r] = _mm512_setzero_ps();
        }
    }
    for (b = 0; b < tr->nb; b++, w += cpu_block_bytes(t)) {
        if (t.group > 1 && b % (uint32_t) t.group == 0) {
            head = w;
            w += cpu_head_bytes(t);
        }
#pragma GCC unroll 2
        for (sub = 0; sub < t.subs; sub++) {
#pragma GCC unroll 3
            for (p = 0; p < 3; p++) {
                m[p] = tile_min(w, head, p, sub, t);
            }
#pragma GCC unroll 4
            for (r = 0; r < rows; r++) {
                x = tile_sum(tr, (size_t) r * tr->nb + b, sub, t);
#pragma GCC unroll 3
                for (p = 0; p < 3; p++) {
                    min[p][r] = _mm512_fmadd_ps(m[p], x, min[p][r]);
                }
            }
        }
    }
    for (p = 0; p < 3; p++) {
        for (r = 0; r < rows; r++) {
            acc[p][r] = _mm512_add_ps(acc[p][r], min[p][r]);
        }
    }
}

/* One link of the chains of a tile: a block, or half of one. */
TILE_INLINE void
tile_link(__m512 (*acc)[TILE_ROWS], const uint8_t *w, const uint8_t *head,
    const tile_rows_t *tr, uint32_t b, __m128i shift, const int sub,
    const int rows, const cpu_traits_t t)
{
    __m512i  s[3][TILE_ROWS], z;
    __m512   d, da[TILE_ROWS];
    size_t   at;
    int      r, p;

#pragma GCC unroll 4
    for (r = 0; r < rows; r++) {
        z = _mm512_setzero_si512();
        if (!t.min) {
            at = (size_t) r * tr->nb + b;
            z = _mm512_set1_epi32(t.subs == 2 ? tr->hsum[2 * at + sub]
                                              : tr->nsum[at]);
            z = _mm512_sll_epi32(z, shift);
        }
        s[0][r] = s[1][r] = s[2][r] = z;
    }
    tile_block(s, w, tr->q + b * CPU_BLOCK, tr->n_in, sub, rows, t);

#pragma GCC unroll 4
    for (r = 0; r < rows; r++) {
        da[r] = _mm512_set1_ps(tr->d[(size_t) r * tr->nb + b]);
    }
#pragma GCC unroll 3
    for (p = 0; p < 3; p++) {
        d = tile_scale(w, head, p, sub, t);
#pragma GCC unroll 4
        for (r = 0; r < rows; r++) {
            acc[p][r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(s[p][r]),
                                        _mm512_mul_ps(d, da[r]), acc[p][r]);
        }
    }
}

TILE_INLINE void
tile_quant(const kern_weight_t *wt, const uint8_t *w, const tile_rows_t *tr,
    float *y, size_t ldy, uint32_t valid, int add, int ahead, const int rows,
    const cpu_traits_t t)
{
    const size_t    bytes = cpu_block_bytes(t);
    const uint8_t  *wb = w, *head = w;
    __m128i         shift = _mm_cvtsi32_si128((int) wt->zero_shift);
    __m512          acc[3][TILE_ROWS];
    uint32_t        b, off;
    int             r, p;

    for (p = 0; p < 3; p++) {
        for (r = 0; r < rows; r++) {
            acc[p][r] = _mm512_setzero_ps();
        }
    }

    for (b = 0; b < tr->nb; b++, wb += bytes) {
        if (t.group > 1 && b % (uint32_t) t.group == 0) {
            head = wb;
            wb += cpu_head_bytes(t);
            if (ahead) {
                _mm_prefetch(head + AHEAD, _MM_HINT_T1);
                _mm_prefetch(head + AHEAD + 64, _MM_HINT_T1);
            }
        }
        if (ahead) {
#pragma GCC unroll 28
            for (off = 0; off < bytes; off += 64) {
                _mm_prefetch(wb + AHEAD + off, _MM_HINT_T1);
            }
        }
        tile_link(acc, wb, head, tr, b, shift, 0, rows, t);
        if (t.subs == 2) {
            tile_link(acc, wb, head, tr, b, shift, 1, rows, t);
        }
    }

    if (t.min) {
        tile_minima(acc, w, tr, rows, t);
    }
    tile_store(y, ldy, acc, valid, rows, add);
}

TILE_INLINE void
tile_quant_rows(const kern_weight_t *wt, const uint8_t *w,
    const cpu_acts_t *a, uint32_t r0, uint32_t n_rows, float *y, size_t ldy,
    uint32_t valid, int add, const cpu_traits_t form)
{
    uint32_t  nb = wt->n_in / CPU_BLOCK, r, n;

    for (r = 0; r < n_rows; r += n, y += n * ldy) {
        const tile_rows_t  t = {
            .q = a->q + (size_t) (r0 + r) * wt->n_in,
            .d = a->d + (size_t) (r0 + r) * nb,
            .nsum = a->nsum + (size_t) (r0 + r) * nb,
            .hsum = a->hsum + (size_t) (r0 + r) * nb * 2,
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
                        cpu_traits(CPU_N4Z));
        break;
    case CPU_N4M:
        tile_quant_rows(wt, w, a, r0, n_rows, y, ldy, valid, add,
                        cpu_traits(CPU_N4M));
        break;
    case CPU_B8Z:
        tile_quant_rows(wt, w, a, r0, n_rows, y, ldy, valid, add,
                        cpu_traits(CPU_B8Z));
        break;
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
    case CPU_G6:
        tile_quant_rows(wt, w, a, r0, n_rows, y, ldy, valid, add,
                        cpu_traits(CPU_G6));
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
