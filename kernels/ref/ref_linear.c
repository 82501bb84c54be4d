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

/* 16 lanes; the compiler lowers it to what the machine has. */
typedef float  ref_v16 __attribute__((vector_size(64)));


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

/* Block b of a stripe as f32 [32][48]. */
static void
ref_block_f32(const kern_weight_t *w, uint32_t stripe, uint32_t b,
    float *out)
{
    const uint8_t  *s = w->data + stripe * w->stripe_bytes;
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
    zero = ref_has_min(w) ? 0 : 1 << w->zero_shift;
    for (j = 0; j < CPU_STRIPE; j++) {
        d[j] = ref_scale(w, s, j);
        m[j] = ref_has_min(w) ? ref_min(w, s, j) : 0;
    }
    for (k = 0; k < CPU_BLOCK; k++) {
        for (j = 0; j < CPU_STRIPE; j++) {
            out[k * CPU_STRIPE + j] =
                d[j] * (float) ((int32_t) ref_value(w, s, j, k) - zero);
            if (ref_has_min(w)) {
                out[k * CPU_STRIPE + j] += m[j];
            }
        }
    }
}

void
kern_linear_f32_ref(const kern_weight_t *w, uint32_t stripe,
    const cpu_acts_t *a, uint32_t r0, uint32_t n_rows, float *y, size_t ldy,
    int add)
{
    ref_v16       acc[REF_ROWS][3], wt[CPU_BLOCK][3], a0, a1, a2;
    uint32_t      r, n, b, k, nb = w->n_in / CPU_BLOCK;
    const float  *x;

    for ( /* void */ ; n_rows > 0; n_rows -= n, r0 += n, y += n * ldy) {
        n = n_rows < REF_ROWS ? n_rows : REF_ROWS;
        memset(acc, 0, sizeof(acc));
        for (b = 0; b < nb; b++) {
            ref_block_f32(w, stripe, b, (float *) wt);
            for (r = 0; r < n; r++) {
                x = a->f + (size_t) (r0 + r) * a->n_in + b * CPU_BLOCK;
                a0 = acc[r][0];
                a1 = acc[r][1];
                a2 = acc[r][2];
                for (k = 0; k < CPU_BLOCK; k++) {
                    a0 += wt[k][0] * x[k];
                    a1 += wt[k][1] * x[k];
                    a2 += wt[k][2] * x[k];
                }
                acc[r][0] = a0;
                acc[r][1] = a1;
                acc[r][2] = a2;
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

static void
ref_linear_row(const kern_weight_t *w, uint32_t stripe, const cpu_acts_t *a,
    uint32_t row, float *acc)
{
    const uint8_t  *blk = w->data + stripe * w->stripe_bytes;
    uint32_t        nb = w->n_in / CPU_BLOCK, b, j, k;
    const int8_t   *q = a->q + (size_t) row * w->n_in;
    size_t          at = (size_t) row * nb;
    int32_t         sum;
    float           min[CPU_STRIPE] = { 0 };

    memset(acc, 0, CPU_STRIPE * sizeof(float));
    for (b = 0; b < nb; b++, q += CPU_BLOCK, blk += ref_block_bytes(w)) {
        for (j = 0; j < CPU_STRIPE; j++) {
            sum = 0;
            if (!ref_has_min(w)) {
                sum = a->nsum[at + b] * (1 << w->zero_shift);
            }
            for (k = 0; k < CPU_BLOCK; k++) {
                sum += (int32_t) ref_value(w, blk, j, k) * q[k];
            }
            acc[j] = fmaf((float) sum, ref_scale(w, blk, j) * a->d[at + b],
                          acc[j]);
            if (ref_has_min(w)) {
                min[j] = fmaf(ref_min(w, blk, j), a->dsum[at + b], min[j]);
            }
        }
    }
    if (ref_has_min(w)) {
        for (j = 0; j < CPU_STRIPE; j++) {
            acc[j] += min[j];
        }
    }
}

void
kern_linear_q8_ref(const kern_weight_t *w, uint32_t stripe,
    const cpu_acts_t *a, uint32_t r0, uint32_t n_rows, float *y, size_t ldy,
    int add)
{
    float     acc[CPU_STRIPE];
    uint32_t  r;

    for (r = r0; r < r0 + n_rows; r++, y += ldy) {
        if (w->form >= CPU_F32) {
            ref_linear_float(w, stripe, a->f + (size_t) r * w->n_in, acc);
        } else {
            ref_linear_row(w, stripe, a, r, acc);
        }
        ref_store(y, acc, cpu_valid(w, stripe), add);
    }
}
