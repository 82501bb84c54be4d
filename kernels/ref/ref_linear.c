/*
 * ref_linear.c: the two definitions of a linear layer. f32 activations:
 * weights dequantized, one chain of multiply and add over k ascending. q8
 * activations: exact integer sum per scale (32 columns or 16), then one fma
 * chain over these ascending, minima in a second chain that is added at the
 * end; 8-bit scales and minima are first multiplied out in f32. Float
 * weights: one fma chain over k ascending.
 */

#include <math.h>
#include <string.h>

#include "ref/ref.h"
#include "ref/ref_dequant_k.h"

#define REF_INLINE  static inline __attribute__((always_inline))
#define REF_ROWS  64     /* rows served by one dequantized block */

/* Eight outputs; what has no such register takes two. */
typedef float  ref_v8 __attribute__((vector_size(32)));

#define REF_V8  (CPU_STRIPE / 8)

/* The same source once more with wider registers and fmaf() as an
 * instruction: exact both ways, for multiply and add are not contracted. */
#if defined(__x86_64__)
#define REF_WIDE  __attribute__((target("avx2,fma,f16c")))
#define REF_WIDEST(name)  (__builtin_cpu_supports("avx2")                    \
                           && __builtin_cpu_supports("fma")                  \
                           && __builtin_cpu_supports("f16c")                 \
                           ? name ## _wide : name)
#else
#define REF_WIDEST(name)  name
#endif


static inline float
ref_half(const uint8_t *p, uint32_t i)
{
    uint16_t  h;

    memcpy(&h, p + 2 * i, sizeof(h));
    return cpu_f16_to_f32(h);
}

/* Unsigned value of output j (0..47), column k (0..31) of a block. */
REF_INLINE uint32_t
ref_value(const cpu_traits_t t, const uint8_t *blk, uint32_t j, uint32_t k)
{
    const uint8_t  *p = blk + j / CPU_LANES * cpu_panel_bytes(t)
                        + j % CPU_LANES * 4 + k % 4;
    uint32_t        h = k / 16, i = k % 16 / 4, v;

    if (t.low == 8) {
        return p[k / 4 * 64];
    }
    v = t.low == 4 ? p[i * 64] >> 4 * h & 15 : p[h * 64] >> 2 * i & 3;
    p += 64 * t.low;
    if (t.high == 1) {
        v |= (uint32_t) (p[0] >> (4 * h + i) & 1) << t.low;
    } else if (t.high == 2) {
        v |= (uint32_t) (p[h * 64] >> 2 * i & 3) << t.low;
    }
    return t.table ? (uint32_t) (kern_iq4_values[v] + 128) : v;
}

/* Scale s of output j of a block; what 8-bit ones count is in the head. */
REF_INLINE float
ref_scale(const cpu_traits_t t, const uint8_t *head, const uint8_t *blk,
    uint32_t j, uint32_t s)
{
    const uint8_t  *p = blk + 3 * cpu_panel_bytes(t);
    float           d;

    if (t.scale == 2) {
        return ref_half(p, j);
    }
    if (t.scale == 4) {
        memcpy(&d, p + 4 * j, sizeof(d));
        return d;
    }
    p += s * CPU_STRIPE + j;
    return ref_half(head, j)
           * (float) (t.shared ? *p & 15 : (int8_t) *p);
}

/* What is added to a value after scaling. */
REF_INLINE float
ref_min(const cpu_traits_t t, const uint8_t *head, const uint8_t *blk,
    uint32_t j, uint32_t s)
{
    const uint8_t  *p = blk + 3 * cpu_panel_bytes(t)
                        + t.scale * t.subs * CPU_STRIPE;

    if (t.min == 2) {
        return ref_half(p, j);
    }
    if (t.shared) {
        p = blk + 3 * cpu_panel_bytes(t) + s * CPU_STRIPE;
    }
    return -(ref_half(head, CPU_STRIPE + j)
             * (float) (t.shared ? p[j] >> 4 : p[j]));
}

REF_INLINE float
ref_float_at(const kern_weight_t *w, const uint8_t *stripe, uint32_t j,
    uint32_t k)
{
    size_t    i = (size_t) k * CPU_STRIPE + j;
    uint16_t  h;
    uint32_t  u;
    float     f;

    if (w->form == CPU_F16) {
        memcpy(&h, stripe + 2 * i, sizeof(h));
        return cpu_f16_to_f32(h);
    }
    if (w->form == CPU_BF16) {
        memcpy(&h, stripe + 2 * i, sizeof(h));
        u = (uint32_t) h << 16;
        memcpy(&f, &u, sizeof(f));
        return f;
    }
    memcpy(&f, stripe + 4 * i, sizeof(f));
    return f;
}

void
cpu_weight_row(const kern_weight_t *w, uint32_t row, float *x)
{
    const cpu_traits_t  t = cpu_traits(w->form);
    const uint8_t      *s = w->data + row / CPU_STRIPE * w->stripe_bytes;
    const uint8_t      *head, *blk;
    uint32_t            j = row % CPU_STRIPE, b, k, v, sub;
    int32_t             zero = t.min ? 0 : 1 << w->zero_shift;
    float               d = 0, m = 0;

    if (w->form >= CPU_F32) {
        for (k = 0; k < w->n_in; k++) {
            x[k] = ref_float_at(w, s, j, k);
        }
        return;
    }
    for (b = 0; b < w->n_in / CPU_BLOCK; b++) {
        head = s + cpu_head_at(t, b);
        blk = s + cpu_block_at(t, b);
        for (k = 0; k < CPU_BLOCK; k++) {
            if (k % 16 == 0) {
                sub = t.subs == 2 ? k / 16 : 0;
                d = ref_scale(t, head, blk, j, sub);
                m = t.min ? ref_min(t, head, blk, j, sub) : 0;
            }
            v = ref_value(t, blk, j, k);
            *x = d * (float) ((int32_t) v - zero);
            if (t.min) {
                *x += m;
            }
            x++;
        }
    }
}

static void
ref_store(float *y, const float *acc, uint32_t n, int add)
{
    uint32_t  j;

    for (j = 0; j < n; j++) {
        y[j] = add ? y[j] + acc[j] : acc[j];
    }
}

/* A block taken apart: unsigned values, scales and minima of its halves,
 * which are the same where the block has one scale. */
typedef struct {
    uint8_t  v[CPU_BLOCK][CPU_STRIPE];
    float    d[2][CPU_STRIPE], m[2][CPU_STRIPE];
} ref_part_t;

REF_INLINE void
ref_unpack_values(const cpu_traits_t t, const uint8_t *blk, ref_part_t *part)
{
    uint32_t  j, k;

    for (k = 0; k < CPU_BLOCK; k++) {
        for (j = 0; j < CPU_STRIPE; j++) {
            part->v[k][j] = (uint8_t) ref_value(t, blk, j, k);
        }
    }
}

REF_INLINE void
ref_unpack(cpu_form_e form, const uint8_t *stripe, uint32_t b,
    ref_part_t *part)
{
    const cpu_traits_t  t = cpu_traits(form);
    const uint8_t      *head = stripe + cpu_head_at(t, b);
    const uint8_t      *blk = stripe + cpu_block_at(t, b);
    uint32_t            j, k, s;

    switch (form) {
    case CPU_N4Z:
    case CPU_N4M:
        ref_unpack_values(cpu_traits(CPU_N4Z), blk, part);
        break;
    case CPU_N5Z:
    case CPU_N5M:
        ref_unpack_values(cpu_traits(CPU_N5Z), blk, part);
        break;
    case CPU_B8Z:
        ref_unpack_values(cpu_traits(CPU_B8Z), blk, part);
        break;
    default:
        ref_unpack_values(t, blk, part);
    }
    for (j = 0; j < CPU_STRIPE; j++) {
        for (s = 0; s < 2; s++) {
            k = t.subs == 2 ? s : 0;
            part->d[s][j] = ref_scale(t, head, blk, j, k);
            part->m[s][j] = t.min ? ref_min(t, head, blk, j, k) : 0;
        }
    }
}

/* Block b of a stripe as f32 [32][48]. */
REF_INLINE void
ref_block_f32(const kern_weight_t *w, uint32_t stripe, uint32_t b,
    float *out)
{
    const cpu_traits_t  t = cpu_traits(w->form);
    const uint8_t      *s = w->data + stripe * w->stripe_bytes;
    ref_part_t          part;
    uint32_t            j, k;
    int32_t             zero = t.min ? 0 : 1 << w->zero_shift;

    if (w->form >= CPU_F32) {
        for (k = 0; k < CPU_BLOCK; k++) {
            for (j = 0; j < CPU_STRIPE; j++) {
                out[k * CPU_STRIPE + j] =
                    ref_float_at(w, s, j, b * CPU_BLOCK + k);
            }
        }
        return;
    }

    ref_unpack(w->form, s, b, &part);
    for (k = 0; k < CPU_BLOCK; k++) {
        for (j = 0; j < CPU_STRIPE; j++) {
            *out = part.d[k / 16][j]
                   * (float) ((int32_t) part.v[k][j] - zero);
            if (t.min) {
                *out += part.m[k / 16][j];
            }
            out++;
        }
    }
}

/* One block's additions to the chains of two rows; y may be x and acc1
 * acc0 for one row, whose chains are then made twice. */
REF_INLINE void
ref_add_block(ref_v8 *acc0, ref_v8 *acc1, const ref_v8 (*wt)[REF_V8],
    const float *x, const float *y)
{
    ref_v8    a0, a1, b0, b1, c0, c1, v;
    uint32_t  k, j;

    for (j = 0; j < REF_V8; j += 3) {
        a0 = acc0[j];
        b0 = acc0[j + 1];
        c0 = acc0[j + 2];
        a1 = acc1[j];
        b1 = acc1[j + 1];
        c1 = acc1[j + 2];
        for (k = 0; k < CPU_BLOCK; k++) {
            v = (ref_v8) { x[k], x[k], x[k], x[k], x[k], x[k], x[k], x[k] };
            a0 += wt[k][j] * v;
            b0 += wt[k][j + 1] * v;
            c0 += wt[k][j + 2] * v;
            v = (ref_v8) { y[k], y[k], y[k], y[k], y[k], y[k], y[k], y[k] };
            a1 += wt[k][j] * v;
            b1 += wt[k][j + 1] * v;
            c1 += wt[k][j + 2] * v;
        }
        acc0[j] = a0;
        acc0[j + 1] = b0;
        acc0[j + 2] = c0;
        acc1[j] = a1;
        acc1[j + 1] = b1;
        acc1[j + 2] = c1;
    }
}

/* Up to REF_ROWS rows. */
REF_INLINE void
ref_linear_f32(const kern_weight_t *w, uint32_t stripe, const cpu_acts_t *a,
    uint32_t r0, uint32_t n, ref_v8 (*acc)[REF_V8])
{
    ref_v8        wt[CPU_BLOCK][REF_V8];
    const float  *x;
    uint32_t      r, b, last;

    for (b = 0; b < w->n_in / CPU_BLOCK; b++) {
        ref_block_f32(w, stripe, b, (float *) wt);
        x = a->f + (size_t) r0 * a->n_in + b * CPU_BLOCK;
        for (r = 0; r < n; r += 2, x += 2 * (size_t) a->n_in) {
            last = r + 1 < n ? 1 : 0;
            ref_add_block(acc[r], acc[r + last], wt, x, x + last * a->n_in);
        }
    }
}

#ifdef REF_WIDE

REF_WIDE static void
ref_linear_f32_wide(const kern_weight_t *w, uint32_t stripe,
    const cpu_acts_t *a, uint32_t r0, uint32_t n, ref_v8 (*acc)[REF_V8])
{
    ref_linear_f32(w, stripe, a, r0, n, acc);
}

#endif

void
kern_linear_f32_ref(const kern_weight_t *w, uint32_t stripe,
    const cpu_acts_t *a, uint32_t r0, uint32_t n_rows, float *y, size_t ldy,
    int add)
{
    ref_v8    acc[REF_ROWS][REF_V8];
    uint32_t  r, n;

    for ( /* void */ ; n_rows > 0; n_rows -= n, r0 += n, y += n * ldy) {
        n = n_rows < REF_ROWS ? n_rows : REF_ROWS;
        memset(acc, 0, n * sizeof(acc[0]));
        REF_WIDEST(ref_linear_f32)(w, stripe, a, r0, n, acc);
        for (r = 0; r < n; r++) {
            ref_store(y + r * ldy, (float *) acc[r], cpu_valid(w, stripe),
                      add);
        }
    }
}

REF_INLINE void
ref_linear_float(const kern_weight_t *w, uint32_t stripe, const float *x,
    float *acc)
{
    const uint8_t  *s = w->data + stripe * w->stripe_bytes;
    uint32_t        j, k;

    for (j = 0; j < CPU_STRIPE; j++) {
        acc[j] = 0;
        for (k = 0; k < w->n_in; k++) {
            acc[j] = fmaf(ref_float_at(w, s, j, k), x[k], acc[j]);
        }
    }
}

/* Half s of a block, or (with one scale) all of it: one link of the chains
 * of one row. */
REF_INLINE void
ref_link(const kern_weight_t *w, const cpu_traits_t t, const ref_part_t *part,
    const cpu_acts_t *a, uint32_t row, uint32_t b, uint32_t s, float *acc,
    float *min)
{
    const int8_t  *q = a->q + (size_t) row * w->n_in + b * CPU_BLOCK;
    size_t         at = (size_t) row * (w->n_in / CPU_BLOCK) + b;
    int32_t        sum[CPU_STRIPE];
    int32_t        nsum = t.subs == 2 ? a->hsum[2 * at + s] : a->nsum[at];
    float          dsum;
    uint32_t       j, k, to = t.subs == 2 ? 16 * s + 16 : CPU_BLOCK;

    for (j = 0; j < CPU_STRIPE; j++) {
        sum[j] = t.min ? 0 : nsum * (1 << w->zero_shift);
    }
    for (k = 16 * s; k < to; k++) {
        for (j = 0; j < CPU_STRIPE; j++) {
            sum[j] += (int16_t) (part->v[k][j] * q[k]);
        }
    }
    dsum = t.subs == 2 ? a->d[at] * (float) -nsum : a->dsum[at];
    for (j = 0; j < CPU_STRIPE; j++) {
        acc[j] = fmaf((float) sum[j], part->d[s][j] * a->d[at], acc[j]);
        if (t.min) {
            min[j] = fmaf(part->m[s][j], dsum, min[j]);
        }
    }
}

/* Up to REF_ROWS rows of a quantized weight. */
REF_INLINE void
ref_linear_quant(const kern_weight_t *w, uint32_t stripe,
    const cpu_acts_t *a, uint32_t r0, uint32_t n, float (*acc)[CPU_STRIPE])
{
    const cpu_traits_t  t = cpu_traits(w->form);
    const uint8_t      *data = w->data + stripe * w->stripe_bytes;
    ref_part_t          part;
    float               min[REF_ROWS][CPU_STRIPE];
    uint32_t            b, j, r;

    memset(acc, 0, n * sizeof(acc[0]));
    memset(min, 0, n * sizeof(min[0]));
    for (b = 0; b < w->n_in / CPU_BLOCK; b++) {
        ref_unpack(w->form, data, b, &part);
        for (r = 0; r < n; r++) {
            ref_link(w, t, &part, a, r0 + r, b, 0, acc[r], min[r]);
            if (t.subs == 2) {
                ref_link(w, t, &part, a, r0 + r, b, 1, acc[r], min[r]);
            }
        }
    }
    for (r = 0; r < n && t.min; r++) {
        for (j = 0; j < CPU_STRIPE; j++) {
            acc[r][j] += min[r][j];
        }
    }
}

REF_INLINE void
ref_linear_q8(const kern_weight_t *w, uint32_t stripe, const cpu_acts_t *a,
    uint32_t r0, uint32_t n, float (*acc)[CPU_STRIPE])
{
    uint32_t  r;

    if (w->form < CPU_F32) {
        ref_linear_quant(w, stripe, a, r0, n, acc);
        return;
    }
    for (r = 0; r < n; r++) {
        ref_linear_float(w, stripe, a->f + (size_t) (r0 + r) * w->n_in,
                         acc[r]);
    }
}

#ifdef REF_WIDE

REF_WIDE static void
ref_linear_q8_wide(const kern_weight_t *w, uint32_t stripe,
    const cpu_acts_t *a, uint32_t r0, uint32_t n, float (*acc)[CPU_STRIPE])
{
    ref_linear_q8(w, stripe, a, r0, n, acc);
}

#endif

void
kern_linear_q8_ref(const kern_weight_t *w, uint32_t stripe,
    const cpu_acts_t *a, uint32_t r0, uint32_t n_rows, float *y, size_t ldy,
    int add)
{
    float     acc[REF_ROWS][CPU_STRIPE];
    uint32_t  r, n;

    for ( /* void */ ; n_rows > 0; n_rows -= n, r0 += n, y += n * ldy) {
        n = n_rows < REF_ROWS ? n_rows : REF_ROWS;
        REF_WIDEST(ref_linear_q8)(w, stripe, a, r0, n, acc);
        for (r = 0; r < n; r++) {
            ref_store(y + r * ldy, acc[r], cpu_valid(w, stripe), add);
        }
    }
}
