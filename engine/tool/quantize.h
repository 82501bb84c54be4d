/*
 * quantize.h: f32 values into blocks of every tensor type of GGUF files, for
 * the model tools and for C tests; all of it is static. Simple on purpose:
 * scales come from the largest value or the range of a sub-block, and no
 * error is minimised. The same input gives the same bytes on every machine:
 * no libm call, no floating-point contraction.
 */

#ifndef INFER_TOOL_QUANTIZE_H
#define INFER_TOOL_QUANTIZE_H

#include "cpu.h"
#include "ref/ref_dequant_k.h"

#include <string.h>
#include <strings.h>

#define QUANT_TYPES  31                   /* numbers are below this */

/* How a type of blocks of 256, or IQ4_NL, counts. */
typedef struct {
    int  lo, hi;                          /* of a value */
    int  scale_max;                       /* 1: d alone */
    int  min_max;                         /* 0: no minima */
} quant_range_t;


/* The number of a type by its name, in any case; 0: no such name. */
__attribute__((unused))
static int
quant_type(const char *name, uint32_t *type)
{
    uint32_t values, bytes;

    for (uint32_t t = 0; t < QUANT_TYPES; t++) {
        kern_block_layout_ref(t, &values, &bytes);

        if (values != 0 && strcasecmp(kern_block_name_ref(t), name) == 0) {
            *type = t;
            return 1;
        }
    }

    return 0;
}


/* type, or what takes its place in rows that are not whole blocks of it. */
__attribute__((unused))
static uint32_t
quant_fit(uint32_t type, uint64_t cols)
{
    uint32_t values, bytes;

    kern_block_layout_ref(type, &values, &bytes);

    if (values != 0 && cols % values == 0) {
        return type;
    }

    if (cols % 32 != 0) {
        return KERN_F16;
    }

    switch (type) {

    case REF_Q2_K:
    case REF_Q3_K:
    case REF_IQ4_XS:
        return REF_IQ4_NL;

    case REF_Q4_K:
        return KERN_Q5_0;

    case REF_Q5_K:
        return KERN_Q5_1;

    default:
        return KERN_Q8_0;
    }
}


/* Nearest whole number, halves away from 0, within lo .. hi. */
static int
quant_round(float v, int lo, int hi)
{
    if (!(v > (float) lo)) {
        return lo;
    }

    return v >= (float) hi ? hi : (int) (v < 0 ? v - 0.5f : v + 0.5f);
}


static void
quant_put_f16(uint8_t *p, float f)
{
    uint16_t half = cpu_f32_to_f16(f);

    memcpy(p, &half, sizeof(half));
}


/* Nearest, ties to even; a NaN stays one. */
static uint16_t
quant_bf16(float f)
{
    uint32_t u;

    memcpy(&u, &f, sizeof(u));

    if ((u & 0x7fffffff) > 0x7f800000) {
        return (uint16_t) (u >> 16 | 0x40);
    }

    return (uint16_t) ((u + 0x7fff + (u >> 16 & 1)) >> 16);
}


/* The value furthest from 0. */
static float
quant_top(const float *x, uint32_t n)
{
    float top = 0;

    for (uint32_t i = 0; i < n; i++) {
        top = x[i] * x[i] > top * top ? x[i] : top;
    }

    return top;
}


/* Q4_0, Q4_1, Q5_0, Q5_1. */
static void
quant_nibbles(uint8_t *out, uint32_t type, const float *x)
{
    int levels = type == KERN_Q4_0 || type == KERN_Q4_1 ? 16 : 32;
    int with_min = type == KERN_Q4_1 || type == KERN_Q5_1;
    float lo = x[0], hi = x[0], zero = (float) (levels / 2);
    uint32_t high = 0;
    uint8_t q[32];

    for (int i = 1; i < 32; i++) {
        lo = x[i] < lo ? x[i] : lo;
        hi = x[i] > hi ? x[i] : hi;
    }

    float d = with_min ? (hi - lo) / (float) (levels - 1)
              : quant_top(x, 32) / -zero;
    float inv = d != 0 ? 1 / d : 0;

    for (int i = 0; i < 32; i++) {
        q[i] = (uint8_t) (with_min
               ? quant_round((x[i] - lo) * inv, 0, levels - 1)
               : quant_round(x[i] * inv + zero, 0, levels - 1));
        high |= (uint32_t) (q[i] >> 4) << i;
    }

    quant_put_f16(out, d);
    out += 2;

    if (with_min) {
        quant_put_f16(out, lo);
        out += 2;
    }

    if (levels == 32) {
        memcpy(out, &high, sizeof(high));
        out += sizeof(high);
    }

    for (int i = 0; i < 16; i++) {
        out[i] = (uint8_t) ((q[i] & 15) | (q[i + 16] & 15) << 4);
    }
}


static void
quant_q8_0(uint8_t *out, const float *x)
{
    float top = quant_top(x, 32), d = (top < 0 ? -top : top) / 127;
    float inv = d != 0 ? 1 / d : 0;

    quant_put_f16(out, d);

    for (int i = 0; i < 32; i++) {
        out[2 + i] = (uint8_t) quant_round(x[i] * inv, -127, 127);
    }
}


static uint32_t
quant_iq4_index(float v)
{
    uint32_t n = 0;

    for (int i = 0; i < 15; i++) {
        n += v > 0.5f * (float) (kern_iq4_values[i] + kern_iq4_values[i + 1]);
    }

    return n;
}


/* Scales of the sub-blocks: the largest becomes scale_max, the others are
 * rounded; the same for minima. */
static void
quant_scales(ref_block_t *b, const quant_range_t *r, int f16, const float *x)
{
    float d[16], m[16], d_top = 0, m_top = 0;
    uint32_t n = b->values / b->sub;

    for (uint32_t s = 0; s < n; s++, x += b->sub) {
        float lo = 0, hi = 0;

        for (uint32_t i = 0; r->min_max != 0 && i < b->sub; i++) {
            lo = x[i] < lo ? x[i] : lo;
            hi = x[i] > hi ? x[i] : hi;
        }

        d[s] = r->min_max != 0 ? (hi - lo) / (float) r->hi
               : quant_top(x, b->sub) / (float) r->lo;
        m[s] = -lo;
        d_top = d[s] * d[s] > d_top * d_top ? d[s] : d_top;
        m_top = m[s] > m_top ? m[s] : m_top;
    }

    b->d = d_top / (float) r->scale_max;
    b->d = f16 ? cpu_f16_to_f32(cpu_f32_to_f16(b->d)) : b->d;
    b->dmin = r->min_max != 0 ? m_top / (float) r->min_max : 0;
    b->dmin = cpu_f16_to_f32(cpu_f32_to_f16(b->dmin));

    for (uint32_t s = 0; s < n; s++) {
        b->scale[s] = (int16_t) (r->scale_max == 1 ? 1 : b->d == 0 ? 0
                      : quant_round(d[s] / b->d, r->min_max ? 0
                                    : -r->scale_max, r->scale_max));
        b->min[s] = (uint8_t) (b->dmin == 0 ? 0
                    : quant_round(m[s] / b->dmin, 0, r->min_max));
    }
}


static void
quant_values(ref_block_t *b, const quant_range_t *r, int iq4, const float *x)
{
    for (uint32_t i = 0; i < b->values; i += b->sub) {
        float scale = b->d * (float) b->scale[i / b->sub];
        float min = b->dmin * (float) b->min[i / b->sub];
        float inv = scale != 0 ? 1 / scale : 0;

        for (uint32_t k = i; k < i + b->sub; k++) {
            float v = (x[k] + min) * inv;

            b->q[k] = iq4 ? kern_iq4_values[quant_iq4_index(v)]
                      : (int8_t) quant_round(v, r->lo, r->hi);
        }
    }
}


/* The places of values, as kern_unpack_ref() reads them. */

static void
quant_pack_two(uint8_t *out, const uint8_t *v, int shift)
{
    for (uint32_t i = 0; i < 256; i++) {
        out[i / 128 * 32 + i % 32] |=
            (uint8_t) ((v[i] >> shift & 3) << i % 128 / 32 * 2);
    }
}


static void
quant_pack_high(uint8_t *out, const uint8_t *v, int shift)
{
    for (uint32_t i = 0; i < 256; i++) {
        out[i % 32] |= (uint8_t) ((v[i] >> shift & 1) << i / 32);
    }
}


/* group values, the first half of them in the low halves of bytes. */
static void
quant_pack_nibbles(uint8_t *out, const uint8_t *v, uint32_t n,
    uint32_t group)
{
    for (uint32_t i = 0; i < n; i++) {
        out[i / group * (group / 2) + i % (group / 2)] |=
            (uint8_t) ((v[i] & 15) << i % group / (group / 2) * 4);
    }
}


static void
quant_pack_six(uint8_t *out, const ref_block_t *b)
{
    for (int i = 0; i < 4; i++) {
        out[i] = (uint8_t) (b->scale[i] | b->scale[4 + i] >> 4 << 6);
        out[4 + i] = (uint8_t) (b->min[i] | b->min[4 + i] >> 4 << 6);
        out[8 + i] = (uint8_t) ((b->scale[4 + i] & 15)
                                | (b->min[4 + i] & 15) << 4);
    }
}


static void
quant_pack_q3_k(uint8_t *out, const ref_block_t *b, const uint8_t *v)
{
    quant_pack_high(out, v, 2);
    quant_pack_two(out + 32, v, 0);

    for (int i = 0; i < 16; i++) {
        int s = b->scale[i] + 32;

        out[96 + i % 8] |= (uint8_t) ((s & 15) << i / 8 * 4);
        out[104 + i % 4] |= (uint8_t) (s >> 4 << i / 4 * 2);
    }

    quant_put_f16(out + 108, b->d);
}


static void
quant_pack_q8_k(uint8_t *out, const ref_block_t *b)
{
    memcpy(out, &b->d, sizeof(float));
    memcpy(out + 4, b->q, 256);

    for (int i = 0; i < 16; i++) {
        int16_t sum = 0;

        for (int k = 0; k < 16; k++) {
            sum = (int16_t) (sum + b->q[i * 16 + k]);
        }

        memcpy(out + 260 + 2 * i, &sum, sizeof(sum));
    }
}


static void
quant_pack_iq4_xs(uint8_t *out, const ref_block_t *b, const uint8_t *v)
{
    quant_put_f16(out, b->d);

    for (int i = 0; i < 8; i++) {
        int s = b->scale[i] + 32;

        out[2 + i / 4] |= (uint8_t) (s >> 4 << i % 4 * 2);
        out[4 + i / 2] |= (uint8_t) ((s & 15) << i % 2 * 4);
    }

    quant_pack_nibbles(out + 8, v, 256, 32);
}


/* The bytes of a block of 256 values or of IQ4_NL; v: values from 0 up. */
static void
quant_pack(uint8_t *out, uint32_t type, const ref_block_t *b,
    const uint8_t *v)
{
    switch (type) {

    case REF_Q2_K:
        for (int i = 0; i < 16; i++) {
            out[i] = (uint8_t) (b->scale[i] | b->min[i] << 4);
        }

        quant_pack_two(out + 16, v, 0);
        quant_put_f16(out + 80, b->d);
        quant_put_f16(out + 82, b->dmin);
        break;

    case REF_Q3_K:
        quant_pack_q3_k(out, b, v);
        break;

    case REF_Q4_K:
    case REF_Q5_K:
        quant_put_f16(out, b->d);
        quant_put_f16(out + 2, b->dmin);
        quant_pack_six(out + 4, b);
        out += 16;

        if (type == REF_Q5_K) {
            quant_pack_high(out, v, 4);
            out += 32;
        }

        quant_pack_nibbles(out, v, 256, 64);
        break;

    case REF_Q6_K:
        quant_pack_nibbles(out, v, 256, 128);
        quant_pack_two(out + 128, v, 4);

        for (int i = 0; i < 16; i++) {
            out[192 + i] = (uint8_t) b->scale[i];
        }

        quant_put_f16(out + 208, b->d);
        break;

    case REF_Q8_K:
        quant_pack_q8_k(out, b);
        break;

    case REF_IQ4_XS:
        quant_pack_iq4_xs(out, b, v);
        break;

    default:
        quant_put_f16(out, b->d);
        quant_pack_nibbles(out + 2, v, 32, 32);
    }
}


static int
quant_is_iq4(uint32_t type)
{
    return type == REF_IQ4_NL || type == REF_IQ4_XS;
}


/* A block's fields into bytes. */
static void
quant_block(uint8_t *out, uint32_t type, const ref_block_t *b)
{
    uint32_t values, bytes;
    int lo = type == REF_Q3_K ? -4 : type == REF_Q6_K ? -32 : 0;
    uint8_t v[256];

    kern_block_layout_ref(type, &values, &bytes);
    memset(out, 0, bytes);

    for (uint32_t i = 0; i < values; i++) {
        v[i] = (uint8_t) (quant_is_iq4(type) ? quant_iq4_index(b->q[i])
                          : (uint32_t) (b->q[i] - lo));
    }

    quant_pack(out, type, b, v);
}


static void
quant_k(uint8_t *out, uint32_t type, const float *x)
{
    static const quant_range_t range[] = {
        [REF_Q2_K] = { 0, 3, 15, 15 },
        [REF_Q3_K] = { -4, 3, 31, 0 },
        [REF_Q4_K] = { 0, 15, 63, 63 },
        [REF_Q5_K] = { 0, 31, 63, 63 },
        [REF_Q6_K] = { -32, 31, 127, 0 },
        [REF_Q8_K] = { -127, 127, 1, 0 },
        [REF_IQ4_NL] = { -127, 113, 1, 0 },
        [REF_IQ4_XS] = { -127, 113, 31, 0 }
    };
    uint32_t bytes;
    ref_block_t b = { 0 };

    kern_block_layout_ref(type, &b.values, &bytes);
    b.sub = type == REF_Q2_K || type == REF_Q3_K || type == REF_Q6_K ? 16
            : type == REF_Q8_K ? 256 : 32;

    quant_scales(&b, &range[type], type != REF_Q8_K, x);
    quant_values(&b, &range[type], quant_is_iq4(type), x);
    quant_block(out, type, &b);
}


/* n values, whole blocks of a known type, into out. */
__attribute__((unused))
static void
quant_row(uint8_t *out, uint32_t type, const float *x, size_t n)
{
    uint32_t values, bytes;

    kern_block_layout_ref(type, &values, &bytes);

    for (size_t i = 0; i < n; i += values, out += bytes) {
        uint16_t half;

        switch (type) {

        case KERN_F32:
            memcpy(out, &x[i], sizeof(float));
            break;

        case KERN_F16:
            quant_put_f16(out, x[i]);
            break;

        case KERN_BF16:
            half = quant_bf16(x[i]);
            memcpy(out, &half, sizeof(half));
            break;

        case KERN_Q4_0:
        case KERN_Q4_1:
        case KERN_Q5_0:
        case KERN_Q5_1:
            quant_nibbles(out, type, &x[i]);
            break;

        case KERN_Q8_0:
            quant_q8_0(out, &x[i]);
            break;

        default:
            quant_k(out, type, &x[i]);
        }
    }
}

#endif
