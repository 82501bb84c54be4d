/*
 * linear_neon.c: one stripe of 48 outputs times rows of activations, the
 * same sums as x86/linear_avx512.c.
 *
 * math     sdot by element: four columns of four outputs at a time. Values
 *          of up to 6 bits are their own signed bytes; forms of 8 bits and
 *          of the table have a zero point of 128, so that their signed value
 *          needs no correction
 * tile     16 outputs x 1, 2 or 4 rows; all three panels of a block before
 *          the next one, so that a stripe is read once, in order
 */

#include <arm_neon.h>
#include <string.h>

#include "arm/arm.h"
#include "ref/ref_dequant_k.h"

#define TILE_ROWS  4

#define TILE_INLINE  static inline __attribute__((always_inline))

/* f32 sums of one panel: quarters of four outputs of each row. */
typedef float32x4_t  tile_sums_t[TILE_ROWS][4];


TILE_INLINE float32x4_t
tile_half(const uint8_t *p)
{
    return vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(p)));
}

TILE_INLINE uint8x16_t
tile_shift(uint8x16_t v, const int left)
{
    return vshlq_u8(v, vdupq_n_s8((int8_t) left));
}

/* Signed values of columns 16h + 4i .. + 3 of four outputs; w at those of
 * the panel. */
TILE_INLINE int8x16_t
tile_values(const uint8_t *w, const int h, const int i, const cpu_traits_t t)
{
    uint8x16_t  v, u;

    if (t.low == 8) {
        return vreinterpretq_s8_u8(veorq_u8(vld1q_u8(w + (4 * h + i) * 64),
                                            vdupq_n_u8(0x80)));
    }
    if (t.low == 4) {
        v = vld1q_u8(w + i * 64);
        v = h ? vshrq_n_u8(v, 4) : vandq_u8(v, vdupq_n_u8(15));
    } else {
        v = tile_shift(vld1q_u8(w + h * 64), -2 * i);
        v = vandq_u8(v, vdupq_n_u8(3));
    }
    if (t.table) {
        return vqtbl1q_s8(vld1q_s8(kern_iq4_values), v);
    }
    if (t.high == 1) {
        u = tile_shift(vld1q_u8(w + t.low * 64), -4 * h - i);
        u = tile_shift(vandq_u8(u, vdupq_n_u8(1)), t.low);
        v = vorrq_u8(v, u);
    } else if (t.high == 2) {
        u = tile_shift(vld1q_u8(w + (t.low + h) * 64), -2 * i);
        u = tile_shift(vandq_u8(u, vdupq_n_u8(3)), t.low);
        v = vorrq_u8(v, u);
    }
    return vreinterpretq_s8_u8(v);
}

/* Columns 16h .. + 15 of a block added to the sums of a panel. */
TILE_INLINE void
tile_dot(int32x4_t (*s)[4], const uint8_t *w, const int8_t *q, size_t step,
    const int h, const int rows, const cpu_traits_t t)
{
    int8x16_t  x[TILE_ROWS], v;
    int        r, p;

#pragma GCC unroll 4
    for (r = 0; r < rows; r++) {
        x[r] = vld1q_s8(q + (size_t) r * step + 16 * h);
    }
#pragma GCC unroll 4
    for (p = 0; p < 4; p++) {
        v = tile_values(w + p * 16, h, 0, t);
#pragma GCC unroll 4
        for (r = 0; r < rows; r++) {
            s[r][p] = vdotq_laneq_s32(s[r][p], v, x[r], 0);
        }
        v = tile_values(w + p * 16, h, 1, t);
#pragma GCC unroll 4
        for (r = 0; r < rows; r++) {
            s[r][p] = vdotq_laneq_s32(s[r][p], v, x[r], 1);
        }
        v = tile_values(w + p * 16, h, 2, t);
#pragma GCC unroll 4
        for (r = 0; r < rows; r++) {
            s[r][p] = vdotq_laneq_s32(s[r][p], v, x[r], 2);
        }
        v = tile_values(w + p * 16, h, 3, t);
#pragma GCC unroll 4
        for (r = 0; r < rows; r++) {
            s[r][p] = vdotq_laneq_s32(s[r][p], v, x[r], 3);
        }
    }
}

/* Four 8-bit factors as f32. */
TILE_INLINE float32x4_t
tile_factors(const uint8_t *p, const int is_signed, const int part)
{
    uint32_t    u;
    uint16x8_t  w;

    memcpy(&u, p, sizeof(u));
    if (is_signed) {
        return vcvtq_f32_s32(vmovl_s16(vget_low_s16(
                   vmovl_s8(vcreate_s8(u)))));
    }
    u = part == 1 ? u & 0x0f0f0f0f : part == 2 ? u >> 4 & 0x0f0f0f0f : u;
    w = vmovl_u8(vcreate_u8(u));
    return vcvtq_f32_u32(vmovl_u16(vget_low_u16(w)));
}

/* Scales of outputs j .. j + 3; w: the block, head: of its group. */
TILE_INLINE float32x4_t
tile_scale(const uint8_t *w, const uint8_t *head, uint32_t j, const int sub,
    const cpu_traits_t t)
{
    w += 3 * cpu_panel_bytes(t);
    if (t.scale == 2) {
        return tile_half(w + 2 * j);
    }
    if (t.scale == 4) {
        return vreinterpretq_f32_u8(vld1q_u8(w + 4 * j));
    }
    return vmulq_f32(tile_half(head + 2 * j),
                     tile_factors(w + sub * CPU_STRIPE + j, !t.shared, 1));
}

/* Minima; 8-bit ones are to be taken off. */
TILE_INLINE float32x4_t
tile_min(const uint8_t *w, const uint8_t *head, uint32_t j, const int sub,
    const cpu_traits_t t)
{
    w += 3 * cpu_panel_bytes(t);
    if (t.min == 2) {
        return tile_half(w + t.scale * CPU_STRIPE + 2 * j);
    }
    w += (t.shared ? sub : 1) * CPU_STRIPE + j;
    return vmulq_f32(tile_half(head + 2 * (CPU_STRIPE + j)),
                     tile_factors(w, 0, t.shared ? 2 : 0));
}

/* One link of the chains of panel p: a block, or half of one. at: of row 0
 * and the block. */
TILE_INLINE void
tile_link(tile_sums_t acc, tile_sums_t min, const uint8_t *w,
    const uint8_t *head, uint32_t p, const cpu_acts_t *a, size_t at,
    uint32_t nb, uint32_t shift, const int sub, const int rows,
    const cpu_traits_t t)
{
    const int       is_signed = t.low == 8 || t.table;
    const uint8_t  *v = w + p * cpu_panel_bytes(t);
    int32x4_t       s[TILE_ROWS][4];
    float32x4_t     d, m;
    size_t          k;
    float           sum;
    int32_t         zero;
    uint32_t        j;
    int             r, i;

#pragma GCC unroll 4
    for (r = 0; r < rows; r++) {
        k = at + (size_t) r * nb;
        zero = t.subs == 2 ? a->hsum[2 * k + (size_t) sub] : a->nsum[k];
        zero = t.min || is_signed ? 0 : zero * (1 << shift);
        s[r][0] = s[r][1] = s[r][2] = s[r][3] = vdupq_n_s32(zero);
    }
    tile_dot(s, v, a->q + at * CPU_BLOCK, (size_t) nb * CPU_BLOCK, sub, rows,
             t);
    if (t.subs == 1) {
        tile_dot(s, v, a->q + at * CPU_BLOCK, (size_t) nb * CPU_BLOCK, 1,
                 rows, t);
    }

#pragma GCC unroll 4
    for (i = 0; i < 4; i++) {
        j = p * CPU_LANES + 4 * (uint32_t) i;
        d = tile_scale(w, head, j, sub, t);
        m = t.min ? tile_min(w, head, j, sub, t) : d;
#pragma GCC unroll 4
        for (r = 0; r < rows; r++) {
            k = at + (size_t) r * nb;
            acc[r][i] = vfmaq_f32(acc[r][i], vcvtq_f32_s32(s[r][i]),
                                  vmulq_n_f32(d, a->d[k]));
            if (t.min) {
                sum = t.subs == 2
                      ? a->d[k] * (float) a->hsum[2 * k + (size_t) sub]
                      : t.min == 2 ? a->dsum[k] : -a->dsum[k];
                min[r][i] = vfmaq_f32(min[r][i], m, vdupq_n_f32(sum));
            }
        }
    }
}

TILE_INLINE void
tile_store(float *y, float32x4_t v, uint32_t valid, int add)
{
    float     t[4];
    uint32_t  i;

    vst1q_f32(t, v);
    for (i = 0; i < (valid < 4 ? valid : 4); i++) {
        y[i] = add ? y[i] + t[i] : t[i];
    }
}

TILE_INLINE void
tile_quant(const kern_weight_t *wt, const uint8_t *w, const cpu_acts_t *a,
    uint32_t row, float *y, size_t ldy, uint32_t valid, int add,
    const int rows, const cpu_traits_t t)
{
    uint32_t        nb = wt->n_in / CPU_BLOCK, b, p, j;
    size_t          at = (size_t) row * nb;
    const uint8_t  *head = w;
    tile_sums_t     acc[3], min[3];
    float32x4_t     v;
    int             r;

    memset(acc, 0, sizeof(acc));
    memset(min, 0, sizeof(min));
    for (b = 0; b < nb; b++, w += cpu_block_bytes(t)) {
        if (t.group > 1 && b % (uint32_t) t.group == 0) {
            head = w;
            w += cpu_head_bytes(t);
        }
#pragma GCC unroll 1
        for (p = 0; p < 3; p++) {
            tile_link(acc[p], min[p], w, head, p, a, at + b, nb,
                      wt->zero_shift, 0, rows, t);
            if (t.subs == 2) {
                tile_link(acc[p], min[p], w, head, p, a, at + b, nb,
                          wt->zero_shift, 1, rows, t);
            }
        }
    }
    for (r = 0; r < rows; r++) {
        for (j = 0; j < valid; j += 4) {
            v = acc[j / 16][r][j / 4 % 4];
            if (t.min) {
                v = vaddq_f32(v, min[j / 16][r][j / 4 % 4]);
            }
            tile_store(y + r * ldy + j, v, valid - j, add);
        }
    }
}

TILE_INLINE void
tile_quant_rows(const kern_weight_t *wt, const uint8_t *w,
    const cpu_acts_t *a, uint32_t row, uint32_t n_rows, float *y, size_t ldy,
    uint32_t valid, int add, const cpu_traits_t t)
{
    uint32_t  r = 0;

    for ( /* void */ ; r + 4 <= n_rows; r += 4) {
        tile_quant(wt, w, a, row + r, y + r * ldy, ldy, valid, add, 4, t);
    }
    if (r + 2 <= n_rows) {
        tile_quant(wt, w, a, row + r, y + r * ldy, ldy, valid, add, 2, t);
        r += 2;
    }
    if (r < n_rows) {
        tile_quant(wt, w, a, row + r, y + r * ldy, ldy, valid, add, 1, t);
    }
}

/* Four float weights of any float form. */
TILE_INLINE float32x4_t
tile_float(const uint8_t *w, size_t i, const cpu_form_e form)
{
    if (form == CPU_F32) {
        return vreinterpretq_f32_u8(vld1q_u8(w + i * 4));
    }
    if (form == CPU_F16) {
        return tile_half(w + i * 2);
    }
    return vreinterpretq_f32_u32(vshll_n_u16(
               vreinterpret_u16_u8(vld1_u8(w + i * 2)), 16));
}

/* Outputs of `rows` rows, 1 or 2. */
TILE_INLINE void
tile_float_rows(const uint8_t *w, const float *x, uint32_t n_in, float *y,
    size_t ldy, uint32_t valid, int add, const int rows,
    const cpu_form_e form)
{
    float32x4_t  acc[12][2], v;
    uint32_t     k, p;
    int          r;

    memset(acc, 0, sizeof(acc));
    for (k = 0; k < n_in; k++) {
#pragma GCC unroll 12
        for (p = 0; p < 12; p++) {
            v = tile_float(w, (size_t) k * CPU_STRIPE + p * 4, form);
#pragma GCC unroll 2
            for (r = 0; r < rows; r++) {
                acc[p][r] = vfmaq_f32(acc[p][r], v,
                    vdupq_n_f32(x[(size_t) r * n_in + k]));
            }
        }
    }
    for (r = 0; r < rows; r++) {
        for (p = 0; p * 4 < valid; p++) {
            tile_store(y + r * ldy + p * 4, acc[p][r], valid - p * 4, add);
        }
    }
}

TILE_INLINE void
tile_float_form(const uint8_t *w, const float *x, uint32_t n_in,
    uint32_t n_rows, float *y, size_t ldy, uint32_t valid, int add,
    const cpu_form_e form)
{
    for ( /* void */ ; n_rows >= 2; n_rows -= 2) {
        tile_float_rows(w, x, n_in, y, ldy, valid, add, 2, form);
        x += (size_t) 2 * n_in;
        y += 2 * ldy;
    }
    if (n_rows == 1) {
        tile_float_rows(w, x, n_in, y, ldy, valid, add, 1, form);
    }
}

#define TILE_FORM(form)                                                       \
    case form:                                                                \
        tile_quant_rows(wt, w, a, r0, n_rows, y, ldy, valid, add,             \
                        cpu_traits(form));                                    \
        break

void
kern_linear_neon(const kern_weight_t *wt, uint32_t stripe,
    const cpu_acts_t *a, uint32_t r0, uint32_t n_rows, float *y, size_t ldy,
    int add)
{
    const uint8_t  *w = wt->data + stripe * wt->stripe_bytes;
    const float    *x = a->f + (size_t) r0 * wt->n_in;
    uint32_t        valid = cpu_valid(wt, stripe);

    switch (wt->form) {
    TILE_FORM(CPU_N4Z);
    TILE_FORM(CPU_N4M);
    TILE_FORM(CPU_B8Z);
    TILE_FORM(CPU_N5Z);
    TILE_FORM(CPU_N5M);
    TILE_FORM(CPU_B8D);
    TILE_FORM(CPU_T4);
    TILE_FORM(CPU_T4G);
    TILE_FORM(CPU_G2);
    TILE_FORM(CPU_G3);
    TILE_FORM(CPU_G4);
    TILE_FORM(CPU_G5);
    TILE_FORM(CPU_G6);
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
