/*
 * kv.cuh: KV pages on the device (layout in cuda.h): where things lie, how keys and values are
 * rounded on their way in, which is ref_kv.c's way, and back to 16-bit operands of the tensor cores.
 *
 * fp8 values become f16 by moving bits, which leaves out a factor of 2^8 (the exponent's bias):
 * exact, subnormals included, and on every architecture. KV_BIAS is put back into a scale.
 */

#ifndef KERN_CUDA_KV_CUH
#define KERN_CUDA_KV_CUH

#include "rope.cuh"

#define KV_PAIRS       4       /* of a lane, in a head of up to 256 values */
#define KV_CONST       static __host__ __device__ __forceinline__ constexpr
#define KV_BIAS(type)  ((type) == KERN_KV_FP8 ? 256.0f : 1.0f)

KV_CONST bool
kv_scaled(uint32_t type)
{
    return type == KERN_KV_Q8 || type == KERN_KV_FP8;
}

/* Bytes of a value. */
KV_CONST uint32_t
kv_bytes(uint32_t type)
{
    return kv_scaled(type) ? 1 : 2;
}

/* Scales of a token's key or value. */
KV_CONST uint32_t
kv_blocks(uint32_t dim)
{
    return (dim + CU_BLOCK - 1) / CU_BLOCK;
}

/* Offset of slot's key (or value) in a page's head, and of its scales. */
DEV_INLINE size_t
kv_at(uint32_t type, uint32_t dim, bool value, uint32_t slot)
{
    return (size_t) (value * KERN_PAGE_TOKENS + slot) * dim * kv_bytes(type);
}

DEV_INLINE size_t
kv_scale_at(uint32_t dim, bool value, uint32_t slot)
{
    return (size_t) 2 * KERN_PAGE_TOKENS * dim
           + (size_t) (value * KERN_PAGE_TOKENS + slot) * kv_blocks(dim) * 2;
}

/* Head g of the page that holds position pos of a sequence. */
DEV_INLINE uint8_t *
kv_head(const cu_attn_t &a, const int32_t *table, uint32_t pos, uint32_t g)
{
    return a.kv + ((size_t) table[pos / KERN_PAGE_TOKENS] * a.n_kv_heads + g) * a.head_bytes;
}

/* Scale of a block from the bits of its largest magnitude, and its inverse. */
DEV_INLINE uint16_t
kv_scale(uint32_t type, uint32_t amax, float *inv)
{
    uint16_t  h = dev_to_f16(__uint_as_float(amax) / (type == KERN_KV_Q8 ? 127.0f : 448.0f));
    float     d = dev_f16(h);

    *inv = d != 0 ? 1 / d : 0;
    return h;
}

DEV_INLINE uint32_t
kv_q8(float x, float inv)
{
    float  t = x * inv;

    t = t > -127 ? t : -127;             /* NaN too: the scale is one then */
    t = t < 127 ? t : 127;
    return (uint32_t) __float2int_rn(t) & 0xff;
}

/* Two values of a token's key or value, d and d + 1, into the page. Lanes of a half-warp hold one
 * block of 32; all lanes come here, on: there is such a pair. */
DEV_INLINE void
kv_put(uint8_t *head, uint32_t type, uint32_t dim, bool value, uint32_t slot, uint32_t d, float2 v,
    bool on)
{
    uint8_t  *to = head + kv_at(type, dim, value, slot) + (size_t) d * kv_bytes(type);
    uint32_t  amax, pair;
    uint16_t  h;
    float     inv;

    if (!kv_scaled(type)) {
        pair = type == KERN_KV_F16 ? dev_to_f16(v.x) | (uint32_t) dev_to_f16(v.y) << 16
                                   : dev_to_bf16(v.x) | (uint32_t) dev_to_bf16(v.y) << 16;
        if (on) {
            *(uint32_t *) to = pair;
        }
        return;
    }

    amax = max(__float_as_uint(v.x) & 0x7fffffff, __float_as_uint(v.y) & 0x7fffffff);
    for (int o = DEV_WARP / 4; o > 0; o /= 2) {
        amax = max(amax, __shfl_xor_sync(~0u, amax, o));
    }
    h = kv_scale(type, amax, &inv);
    pair = type == KERN_KV_Q8
           ? kv_q8(v.x, inv) | kv_q8(v.y, inv) << 8
           : dev_to_e4m3(v.x * inv) | (uint32_t) dev_to_e4m3(v.y * inv) << 8;
    if (on) {
        *(uint16_t *) to = (uint16_t) pair;
        if (d % CU_BLOCK == 0) {
            *(uint16_t *) (head + kv_scale_at(dim, value, slot) + d / CU_BLOCK * 2) = h;
        }
    }
}

/* One warp: the key (rotated) or value of one token and kv head into slot. x: [dim] f32. */
DEV_INLINE void
kv_append(uint8_t *head, uint32_t type, uint32_t dim, bool value, uint32_t slot, const float *x,
    const float *table, uint32_t rope_dim)
{
    const uint32_t  d0 = threadIdx.x % DEV_WARP * 2;
    float2          v[KV_PAIRS];

#pragma unroll
    for (uint32_t j = 0; j < KV_PAIRS; j++) {       /* all on their way before the first is used */
        v[j] = make_float2(0, 0);
        if (d0 + 64 * j < dim) {
            v[j] = rope_pair(x, d0 + 64 * j, table, value ? 0 : rope_dim);
        }
    }
#pragma unroll
    for (uint32_t j = 0; j < KV_PAIRS; j++) {
        if (64 * j < dim) {
            kv_put(head, type, dim, value, slot, d0 + 64 * j, v[j], d0 + 64 * j < dim);
        }
    }
}

/* Byte i of a and byte j of b, which are values of a page of this type, as a pair of f16. */
template <uint32_t TYPE>
DEV_INLINE uint32_t
kv_pair(uint32_t a, int i, uint32_t b, int j)
{
    if (TYPE == KERN_KV_FP8) {
        uint32_t  w = __byte_perm(a, b, (uint32_t) (i << 4 | (4 + j) << 12));

        return (w & 0x80008000) | (w >> 1 & 0x3f803f80);
    }
    /* 2^23 + byte + 128 as a float */
    return dev_pack_f16(__uint_as_float(__byte_perm(a ^ 0x80808080, 0x4b000000, 0x7440 | i))
                        - 8388736.0f,
                        __uint_as_float(__byte_perm(b ^ 0x80808080, 0x4b000000, 0x7440 | j))
                        - 8388736.0f);
}

/* The value at index i of a page's row of this type, without its scale; f32. */
DEV_INLINE float
kv_value(uint32_t type, const uint8_t *row, uint32_t i)
{
    switch (type) {
    case KERN_KV_F16:
        return dev_f16(((const uint16_t *) row)[i]);
    case KERN_KV_BF16:
        return dev_bf16(((const uint16_t *) row)[i]);
    case KERN_KV_Q8:
        return (float) ((const int8_t *) row)[i];
    default:
        return dev_e4m3(row[i]);
    }
}

#endif
