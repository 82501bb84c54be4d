/*
 * quant.cuh: activations into the forms that linears read, four values a thread, and the rule by
 * which they get their scales, kern_quantize_ref()'s: all zero for next to nothing, NaN and zeros
 * where a value is not finite.
 *
 * Of the families in want at most one may fill each of q, h and row: q8 or W8A8; bf16 (W4A16 too) or
 * f16; fp8 or W8A8.
 */

#ifndef KERN_CUDA_QUANT_CUH
#define KERN_CUDA_QUANT_CUH

#include "dev.cuh"

#define NORM_HALF  (1u << CU_BF16 | 1u << CU_W4A16)
#define NORM_ROW   (1u << CU_FP8 | 1u << CU_W8A8)

typedef struct {
    float  d, inv;                /* a value is about q * d, and q round(value * inv) */
} quant_scale_t;

/* Bits of a magnitude; they order as the magnitudes do, NaN above all. */
DEV_INLINE uint32_t
quant_bits(float v)
{
    return __float_as_uint(v) & 0x7fffffff;
}

/* amax: the largest of quant_bits(); top: what the largest becomes, 127 for int8. */
DEV_INLINE quant_scale_t
quant_scale(uint32_t amax, float top)
{
    quant_scale_t  s = { __uint_as_float(amax) / top, top / __uint_as_float(amax) };

    if (amax < 0x0d800000) {
        s.d = 0;
        s.inv = 0;
    } else if (amax >= 0x7f800000) {
        s.d = __uint_as_float(0x7fc00000);
        s.inv = 0;
    }
    return s;
}

DEV_INLINE int
quant_int8(float v, float inv)
{
    return inv == 0 ? 0 : __float2int_rn(v * inv);
}

DEV_INLINE uint32_t
norm_amax(const float v[4])
{
    uint32_t  m = 0;

    for (int i = 0; i < 4; i++) {
        m = max(m, quant_bits(v[i]));
    }
    return m;
}

/* Four int8 as one word, and their sum. */
DEV_INLINE uint32_t
norm_bytes(const float v[4], float inv, int *sum)
{
    uint32_t  word = 0;

    *sum = 0;
    for (int i = 0; i < 4; i++) {
        int  q = quant_int8(v[i], inv);

        word |= (uint32_t) (q & 0xff) << 8 * i;
        *sum += q;
    }
    return word;
}

/* q8: eight neighbouring lanes have a block of 32. All lanes come here; on: the lane has values. */
DEV_INLINE void
norm_put_q8(const cu_acts_t &a, size_t at, const float v[4], bool on)
{
    uint32_t      amax = norm_amax(v), word;
    quant_scale_t  s;
    int           half, sum;

    for (int o = 1; o < 8; o *= 2) {
        amax = max(amax, __shfl_xor_sync(~0u, amax, o));
    }
    s = quant_scale(amax, 127.0f);
    word = norm_bytes(v, s.inv, &half);
    half += __shfl_xor_sync(~0u, half, 1);
    half += __shfl_xor_sync(~0u, half, 2);
    sum = half + __shfl_xor_sync(~0u, half, 4);
    if (!on) {
        return;
    }
    *(uint32_t *) (a.q + at) = word;
    if (at % 16 == 0) {
        a.dsum2[at / 16] = s.d * (float) half;
    }
    if (at % 32 == 0) {
        a.d[at / 32] = s.d;
        a.dsum[at / 32] = s.d * (float) sum;
    }
}

/* Families that need no more than the value, or a block of 32. at: index in [rows, n_in]. */
DEV_INLINE void
norm_put(const cu_acts_t &a, uint32_t want, size_t at, const float v[4], bool on)
{
    if (want & 1u << CU_Q8) {
        norm_put_q8(a, at, v, on);
    }
    if (on && (want & NORM_HALF) != 0) {
        st8(a.h + at, make_uint2(dev_to_bf16(v[0]) | (uint32_t) dev_to_bf16(v[1]) << 16,
                                 dev_to_bf16(v[2]) | (uint32_t) dev_to_bf16(v[3]) << 16));
    }
    if (on && (want & 1u << CU_F16) != 0) {
        st8(a.h + at, make_uint2(dev_to_f16(v[0]) | (uint32_t) dev_to_f16(v[1]) << 16,
                                 dev_to_f16(v[2]) | (uint32_t) dev_to_f16(v[3]) << 16));
    }
}

/* Families with one scale a row. */
DEV_INLINE void
norm_put_row(const cu_acts_t &a, uint32_t want, size_t at, const float v[4], quant_scale_t s)
{
    if (want & 1u << CU_W8A8) {
        int  sum;

        *(uint32_t *) (a.q + at) = norm_bytes(v, s.inv, &sum);
    } else {
        uint32_t  word = 0;

        for (int i = 0; i < 4; i++) {
            word |= (uint32_t) dev_to_e4m3(s.inv == 0 ? 0 : v[i] * s.inv) << 8 * i;
        }
        *(uint32_t *) (a.f8 + at) = word;
    }
}

#endif
