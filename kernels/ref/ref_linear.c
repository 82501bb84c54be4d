/*
 * ref_linear.c: the two definitions of a linear layer. f32 activations:
 * weights dequantized, one chain of multiply and add over k ascending. q8
 * activations: exact integer sum per block, then one fma chain over blocks
 * ascending, minima in a second chain that is added at the end; float
 * weights: one fma chain over k ascending.
 */

#include <math.h>
#include <string.h>

#include "ref/ref.h"

#define REF_ROWS  16     /* rows served by one dequantized block */

/* Four outputs; every x86-64 and arm64 has such a register. */
typedef float  ref_v4 __attribute__((vector_size(16)));

#define REF_V4  (CPU_STRIPE / 4)


static inline int
ref_is_nibble(const kern_weight_t *w)
{
    return w->form == CPU_N4Z || w->form == CPU_N4M;
}

static inline int
ref_has_min(const kern_weight_t *w)
{
    return w->form == CPU_N4M || w->form == CPU_B8M;
}

static inline size_t
ref_block_bytes(const kern_weight_t *w)
{
    return (ref_is_nibble(w) ? 16 : 32) * CPU_STRIPE
           + (ref_has_min(w) ? 4 : 2) * CPU_STRIPE;
}

/* Unsigned value of output j (0..47), column k (0..31) of a block. */
static inline uint32_t
ref_value(const kern_weight_t *w, const uint8_t *blk, uint32_t j, uint32_t k)
{
    uint32_t  panel = j / CPU_LANES, lane = j % CPU_LANES, v;

    if (ref_is_nibble(w)) {
        v = blk[panel * 256 + k % 16 / 4 * 64 + lane * 4 + k % 4];
        return k < 16 ? v & 15 : v >> 4;
    }
    return blk[panel * 512 + k / 4 * 64 + lane * 4 + k % 4];
}

static inline float
ref_half(const uint8_t *p, uint32_t i)
{
    uint16_t  h;

    memcpy(&h, p + 2 * i, sizeof(h));
    return cpu_f16_to_f32(h);
}

static float
ref_scale(const kern_weight_t *w, const uint8_t *blk, uint32_t j)
{
    return ref_half(blk + (ref_is_nibble(w) ? 16 : 32) * CPU_STRIPE, j);
}

static float
ref_min(const kern_weight_t *w, const uint8_t *blk, uint32_t j)
{
    return ref_half(blk + (ref_is_nibble(w) ? 18 : 34) * CPU_STRIPE, j);
}

static float
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

float
cpu_weight_at(const kern_weight_t *w, uint32_t row, uint32_t col)
{
    const uint8_t  *s = w->data + row / CPU_STRIPE * w->stripe_bytes;
    uint32_t        j = row % CPU_STRIPE, v;

    if (w->form >= CPU_F32) {
        return ref_float_at(w, s, j, col);
    }
    s += col / CPU_BLOCK * ref_block_bytes(w);
    v = ref_value(w, s, j, col % CPU_BLOCK);
    if (ref_has_min(w)) {
        return ref_scale(w, s, j) * (float) v + ref_min(w, s, j);
    }
    return ref_scale(w, s, j) * (float) ((int32_t) v - (1 << w->zero_shift));
}

static void
ref_store(float *y, const float *acc, uint32_t n, int add)
{
    uint32_t  j;

    for (j = 0; j < n; j++) {
        y[j] = add ? y[j] + acc[j] : acc[j];
    }
}

/* Unsigned values of a block as [32][48]. */
static void
ref_unpack(const kern_weight_t *w, const uint8_t *blk, uint8_t *v)
{
    uint32_t  p, i, j, t, k, nibble = (uint32_t) ref_is_nibble(w);

    for (p = 0; p < 3; p++, v += CPU_LANES) {
        for (i = 0; i < (nibble ? 4u : 8u); i++) {
            for (j = 0; j < CPU_LANES; j++) {
                for (t = 0; t < 4; t++, blk++) {
                    k = 4 * i + t;
                    if (nibble) {
                        v[k * CPU_STRIPE + j] = *blk & 15;
                        v[(k + 16) * CPU_STRIPE + j] = *blk >> 4;
                    } else {
                        v[k * CPU_STRIPE + j] = *blk;
                    }
                }
            }
        }
    }
}

/* Block b of a stripe as f32 [32][48]. */
static void
ref_block_f32(const kern_weight_t *w, uint32_t stripe, uint32_t b,
    float *out)
{
    const uint8_t  *s = w->data + stripe * w->stripe_bytes;
    uint8_t         v[CPU_BLOCK * CPU_STRIPE];
    float           d[CPU_STRIPE], m[CPU_STRIPE];
    uint32_t        j, k;
    int32_t         zero;

    if (w->form >= CPU_F32) {
        for (k = 0; k < CPU_BLOCK; k++) {
            for (j = 0; j < CPU_STRIPE; j++) {
                out[k * CPU_STRIPE + j] =
                    ref_float_at(w, s, j, b * CPU_BLOCK + k);
            }
        }
        return;
    }

    s += b * ref_block_bytes(w);
    ref_unpack(w, s, v);
    zero = ref_has_min(w) ? 0 : 1 << w->zero_shift;
    for (j = 0; j < CPU_STRIPE; j++) {
        d[j] = ref_scale(w, s, j);
        m[j] = ref_has_min(w) ? ref_min(w, s, j) : 0;
    }
    for (k = 0; k < CPU_BLOCK; k++) {
        for (j = 0; j < CPU_STRIPE; j++) {
            *out = d[j] * (float) ((int32_t) v[k * CPU_STRIPE + j] - zero);
            if (ref_has_min(w)) {
                *out += m[j];
            }
            out++;
        }
    }
}

/* One block's additions to the chains of one row. */
static void
ref_add_block(ref_v4 *acc, const ref_v4 (*wt)[REF_V4], const float *x)
{
    ref_v4    a, b, c, d, v;
    uint32_t  k, j;

    for (j = 0; j < REF_V4; j += 4) {
        a = acc[j];
        b = acc[j + 1];
        c = acc[j + 2];
        d = acc[j + 3];
        for (k = 0; k < CPU_BLOCK; k++) {
            v = (ref_v4) { x[k], x[k], x[k], x[k] };
            a += wt[k][j] * v;
            b += wt[k][j + 1] * v;
            c += wt[k][j + 2] * v;
            d += wt[k][j + 3] * v;
        }
        acc[j] = a;
        acc[j + 1] = b;
        acc[j + 2] = c;
        acc[j + 3] = d;
    }
}

void
kern_linear_f32_ref(const kern_weight_t *w, uint32_t stripe,
    const cpu_acts_t *a, uint32_t r0, uint32_t n_rows, float *y, size_t ldy,
    int add)
{
    ref_v4    acc[REF_ROWS][REF_V4], wt[CPU_BLOCK][REF_V4];
    uint32_t  r, n, b, nb = w->n_in / CPU_BLOCK;

    for ( /* void */ ; n_rows > 0; n_rows -= n, r0 += n, y += n * ldy) {
        n = n_rows < REF_ROWS ? n_rows : REF_ROWS;
        memset(acc, 0, sizeof(acc));
        for (b = 0; b < nb; b++) {
            ref_block_f32(w, stripe, b, (float *) wt);
            for (r = 0; r < n; r++) {
                ref_add_block(acc[r], wt, a->f + (size_t) (r0 + r) * a->n_in
                                          + b * CPU_BLOCK);
            }
        }
        for (r = 0; r < n; r++) {
            ref_store(y + r * ldy, (float *) acc[r], cpu_valid(w, stripe),
                      add);
        }
    }
}

static void
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

/* One block's links of the chains of one row. */
static void
ref_link(const kern_weight_t *w, const uint8_t *v, const float *d,
    const float *m, const cpu_acts_t *a, uint32_t row, uint32_t b,
    float *acc, float *min)
{
    const int8_t  *q = a->q + (size_t) row * w->n_in + b * CPU_BLOCK;
    size_t         at = (size_t) row * (w->n_in / CPU_BLOCK) + b;
    int32_t        sum[CPU_STRIPE];
    uint32_t       j, k;

    for (j = 0; j < CPU_STRIPE; j++) {
        sum[j] = ref_has_min(w) ? 0 : a->nsum[at] * (1 << w->zero_shift);
    }
    for (k = 0; k < CPU_BLOCK; k++) {
        for (j = 0; j < CPU_STRIPE; j++) {
            sum[j] += (int16_t) (v[k * CPU_STRIPE + j] * q[k]);
        }
    }
    for (j = 0; j < CPU_STRIPE; j++) {
        acc[j] = fmaf((float) sum[j], d[j] * a->d[at], acc[j]);
        if (ref_has_min(w)) {
            min[j] = fmaf(m[j], a->dsum[at], min[j]);
        }
    }
}

/* Up to REF_ROWS rows of a quantized weight. */
static void
ref_linear_quant(const kern_weight_t *w, uint32_t stripe,
    const cpu_acts_t *a, uint32_t r0, uint32_t n, float (*acc)[CPU_STRIPE])
{
    const uint8_t  *blk = w->data + stripe * w->stripe_bytes;
    uint8_t         v[CPU_BLOCK * CPU_STRIPE];
    float           min[REF_ROWS][CPU_STRIPE], d[CPU_STRIPE], m[CPU_STRIPE];
    uint32_t        b, j, r;

    memset(acc, 0, REF_ROWS * sizeof(acc[0]));
    memset(min, 0, sizeof(min));
    for (b = 0; b < w->n_in / CPU_BLOCK; b++, blk += ref_block_bytes(w)) {
        ref_unpack(w, blk, v);
        for (j = 0; j < CPU_STRIPE; j++) {
            d[j] = ref_scale(w, blk, j);
            m[j] = ref_has_min(w) ? ref_min(w, blk, j) : 0;
        }
        for (r = 0; r < n; r++) {
            ref_link(w, v, d, m, a, r0 + r, b, acc[r], min[r]);
        }
    }
    for (r = 0; r < n && ref_has_min(w); r++) {
        for (j = 0; j < CPU_STRIPE; j++) {
            acc[r][j] += min[r][j];
        }
    }
}

void
kern_linear_q8_ref(const kern_weight_t *w, uint32_t stripe,
    const cpu_acts_t *a, uint32_t r0, uint32_t n_rows, float *y, size_t ldy,
    int add)
{
    float     acc[REF_ROWS][CPU_STRIPE];
    uint32_t  r, n;

    for ( /* void */ ; n_rows > 0; n_rows -= n, r0 += n, y += n * ldy) {
        n = n_rows < REF_ROWS ? n_rows : REF_ROWS;
        if (w->form < CPU_F32) {
            ref_linear_quant(w, stripe, a, r0, n, acc);
        }
        for (r = 0; r < n; r++) {
            if (w->form >= CPU_F32) {
                ref_linear_float(w, stripe,
                                 a->f + (size_t) (r0 + r) * w->n_in, acc[r]);
            }
            ref_store(y + r * ldy, acc[r], cpu_valid(w, stripe), add);
        }
    }
}
