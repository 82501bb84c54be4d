/*
 * ref_vec.c: definitions of everything that works on one row: norm,
 * quantization, activation, rotation, exp, argmax. Sums over a
 * row are 16 lane partials (element i goes to lane i % 16) and one tree.
 */

#include <math.h>
#include <string.h>

#include "ref/ref.h"


static uint32_t
ref_bits(float f)
{
    uint32_t  u;

    memcpy(&u, &f, sizeof(u));
    return u;
}

static float
ref_float(uint32_t u)
{
    float  f;

    memcpy(&f, &u, sizeof(f));
    return f;
}

float
cpu_f16_to_f32(uint16_t h)
{
    uint32_t  sign = (uint32_t) (h & 0x8000) << 16;
    uint32_t  exp = (h >> 10) & 31;
    uint32_t  man = h & 0x3ff;
    float     f;

    if (exp == 31) {
        man = man != 0 ? man << 13 | 0x400000 : 0;
        return ref_float(sign | 0x7f800000 | man);
    }
    if (exp == 0) {
        f = (float) man * 0x1p-24f;
        return sign != 0 ? -f : f;
    }
    return ref_float(sign | (exp + 112) << 23 | man << 13);
}

uint16_t
cpu_f32_to_f16(float f)
{
    uint32_t  u, sign, abs;

    u = ref_bits(f);
    sign = u >> 16 & 0x8000;
    abs = u & 0x7fffffff;

    if (abs > 0x7f800000) {
        return (uint16_t) (sign | 0x7e00 | (abs >> 13 & 0x1ff));
    }
    if (abs >= 0x477fe000) {               /* 65504 and above: clamped */
        return (uint16_t) (sign | 0x7bff);
    }
    if (abs < 0x38800000) {                /* below 2^-14: steps of 2^-24 */
        f = ref_float(abs) + 0x1p-1f;      /* rounds at 2^-24, nearest even */
        return (uint16_t) (sign | (ref_bits(f) - ref_bits(0x1p-1f)));
    }
    abs += 0xfff + (abs >> 13 & 1);
    return (uint16_t) (sign | ((abs >> 13) - (112 << 10)));
}

/*
 * exp by 2^n * p(r), r = x - n ln 2, |r| <= ln 2 / 2, p the Taylor polynomial
 * of degree 7 (its remainder is below 6e-9 of the value). n comes from adding
 * 1.5 * 2^23, whose low bits then hold it. Exact 0 below -87, infinity from
 * 88.37 on, where n would be 128.
 */
float
kern_exp(float x)
{
    float  t, n, r, p;

    if (x < -87.0f) {
        return 0.0f;
    }
    if (x > 88.37f) {
        return INFINITY;
    }
    t = fmaf(x, 0x1.715476p+0f, 0x1.8p+23f);
    n = t - 0x1.8p+23f;
    r = fmaf(n, -0x1.62e400p-1f, x);
    r = fmaf(n, -0x1.7f7d1cp-20f, r);
    p = fmaf(r, 1.0f / 5040, 1.0f / 720);
    p = fmaf(p, r, 1.0f / 120);
    p = fmaf(p, r, 1.0f / 24);
    p = fmaf(p, r, 1.0f / 6);
    p = fmaf(p, r, 0.5f);
    p = fmaf(p, r, 1.0f);
    p = fmaf(p, r, 1.0f);
    return p * ref_float((ref_bits(t) << 23) + 0x3f800000);
}

void
kern_exp_row_ref(float *y, const float *x, float sub, size_t n)
{
    size_t  i;

    for (i = 0; i < n; i++) {
        y[i] = kern_exp(x[i] - sub);
    }
}

int32_t
kern_argmax_ref(const float *x, size_t n)
{
    float    max = -INFINITY;
    int32_t  best = -1;
    size_t   i;

    for (i = 0; i < n; i++) {
        if (x[i] > max) {
            max = x[i];
            best = (int32_t) i;
        }
    }
    return best;
}

void
kern_rmsnorm_ref(float *y, const float *x, const float *w, float eps,
    uint32_t n)
{
    float     lane[CPU_LANES] = { 0 }, r;
    uint32_t  i, step;

    for (i = 0; i < n; i++) {
        lane[i % CPU_LANES] = fmaf(x[i], x[i], lane[i % CPU_LANES]);
    }
    for (step = CPU_LANES / 2; step > 0; step /= 2) {
        for (i = 0; i < step; i++) {
            lane[i] += lane[i + step];
        }
    }

    r = 1.0f / sqrtf(lane[0] / (float) n + eps);
    for (i = 0; i < n; i++) {
        y[i] = x[i] * r * w[i];
    }
}

/*
 * Blocks of 32: d = amax / 127, q = round-half-even(x * (127 / amax)). All
 * zero when amax is 0 (or below 2^-100, where 127 / amax could overflow). A
 * block with a NaN or an infinity gets q = 0 and d = NaN, so that it fails
 * its own row and nothing else.
 */
void
kern_quantize_ref(const cpu_acts_t *a, uint32_t row, uint32_t b0,
    uint32_t nb, const float *x)
{
    uint32_t  b, i, amax, bits;
    size_t    at = (size_t) row * (a->n_in / CPU_BLOCK) + b0;
    int8_t   *q = a->q + at * CPU_BLOCK;
    int32_t   sum[2];
    float     id, d;

    for (b = 0; b < nb; b++, x += CPU_BLOCK, q += CPU_BLOCK) {
        amax = 0;
        for (i = 0; i < CPU_BLOCK; i++) {
            bits = ref_bits(x[i]) & 0x7fffffff;
            amax = bits > amax ? bits : amax;
        }

        d = ref_float(amax) / 127.0f;
        id = 127.0f / ref_float(amax);
        if (amax < 0x0d800000) {
            d = 0;
            id = 0;
        } else if (amax >= 0x7f800000) {
            d = NAN;
            id = 0;
        }

        sum[0] = sum[1] = 0;
        for (i = 0; i < CPU_BLOCK; i++) {
            q[i] = id == 0 ? 0 : (int8_t) lrintf(x[i] * id);
            sum[i / 16] += q[i];
        }
        a->d[at + b] = d;
        a->nsum[at + b] = -(sum[0] + sum[1]);
        a->hsum[2 * (at + b)] = -sum[0];
        a->hsum[2 * (at + b) + 1] = -sum[1];
        a->dsum[at + b] = d * (float) (sum[0] + sum[1]);
    }
}

void
kern_silu_mul_ref(float *y, const float *g, const float *u, uint32_t n)
{
    uint32_t  i;

    for (i = 0; i < n; i++) {
        y[i] = g[i] / (1.0f + kern_exp(-g[i])) * u[i];
    }
}

void
kern_rope_ref(float *y, const float *x, const float *cs, uint32_t rope_dim,
    uint32_t head_dim, float scale)
{
    const float  *sn = cs + rope_dim;
    uint32_t      i;
    float         a, b;

    for (i = 0; i < rope_dim; i += 2) {
        a = x[i];
        b = x[i + 1];
        y[i] = fmaf(a, cs[i], b * sn[i]) * scale;
        y[i + 1] = fmaf(b, cs[i + 1], a * sn[i + 1]) * scale;
    }
    for ( /* void */ ; i < head_dim; i++) {
        y[i] = x[i] * scale;
    }
}
