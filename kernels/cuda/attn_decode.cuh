/*
 * attn_decode.cuh: attention of one query row a sequence over a paged KV, with everything around it
 * in one launch: rotation of q and k, append of k and v, split over parts of the sequence, combine
 * by the block that ends last, and the quantized form of the result. Included by attn_decode_16.cu
 * and attn_decode_8.cu, which instantiate KV types.
 *
 * The heads of one kv head are rows 0..7 of an m16n8k16 product, so that every key and value is
 * loaded once for all of them. Rows 8..15 hold the same rows' low halves (x = hi + lo, both 16 bits),
 * which makes the products exact to about 22 bits (bf16: 16) for nothing: the sum of accumulators
 * c[0] + c[2] is the f32 result. Larger groups take several passes over the keys, mostly from L2.
 *
 * Operands go from global memory to registers without shared memory. k of the products (dimensions of
 * q k, keys of p v) may be permuted as long as both operands agree, and columns of v as well:
 *   K  lane 4 r + c, key r: dimensions 32 b + 8 c .. + 7 are k pairs c and c + 4 of two products
 *   V  lane 4 r + c, keys 2c, 2c + 1, 2c + 8, 2c + 9: VW values of a span of 8 VW, one column of each
 *      of VW products; VW = 8 for 16-bit types, from 8 (r / 2) + 32 (r % 2) on; 4 for 8-bit ones, from
 *      4 r on, where a span is then the 32 values of one scale
 */

#ifndef KERN_CUDA_ATTN_DECODE_CUH
#define KERN_CUDA_ATTN_DECODE_CUH

#include "attn.h"
#include "kv.cuh"

#define DEC_WARPS  4                          /* a page each: a chunk */
#define DEC_HEADS  8                          /* of a pass */
#define DEC_BATCH  8                          /* parts whose results are under way at a time */
#define DEC_TILES  (KERN_PAGE_TOKENS / 8)     /* of keys, in a page */

static_assert(DEC_WARPS * KERN_PAGE_TOKENS == CU_CHUNK, "a warp has a page of the chunk");

/* Dynamic shared memory. */
template <int D>
struct dec_smem_t {
    static const int  SPANS = (D + 31) / 32;
    static const int  LANES = D == 80 || D == 96 ? 32 : D / 4;     /* threads for a head's result */

    uint4  q[2][SPANS * DEV_WARP + 4];        /* fragments of hi and lo; halves on other banks */
    float  q_inv[DEC_HEADS];                  /* what scores are multiplied with */
    float  ml[2][DEC_WARPS][DEC_HEADS][2];    /* of a chunk, by parity */
    float  run_ml[2][DEC_HEADS][2];           /* of a part so far, by parity */
    float  weight[DEC_HEADS][CU_MAX_SPLITS + 1];   /* combine; a warp may read two heads */
    float  inv_l[DEC_HEADS];
    int    last;
    __align__(16) float  run[4];              /* [heads][D], then [2][DEC_WARPS][heads][D] */
};

template <int D>
static inline size_t
dec_smem_bytes(uint32_t heads)
{
    return sizeof(dec_smem_t<D>) + (size_t) (1 + 2 * DEC_WARPS) * heads * D * sizeof(float);
}

/* Four neighbouring values of the result and their quantized forms, if on. All lanes of the warp
 * come here, eight with neighbouring columns from a multiple of 32 on where something is wanted. */
DEV_INLINE void
attn_put(const attn_job_t &job, uint32_t row, uint32_t col, const float v[4], bool on)
{
    const cu_acts_t  &a = job.acts;
    size_t            at = (size_t) row * job.a.n_heads * job.a.head_dim + col;

    if (on) {
        stf4(job.out + at, make_float4(v[0], v[1], v[2], v[3]));
    }
    if (on && job.want & (1u << CU_BF16 | 1u << CU_W4A16)) {
        st8(a.h + at, make_uint2(dev_to_bf16(v[0]) | (uint32_t) dev_to_bf16(v[1]) << 16,
                                 dev_to_bf16(v[2]) | (uint32_t) dev_to_bf16(v[3]) << 16));
    }
    if (on && job.want & 1u << CU_F16) {
        st8(a.h + at, make_uint2(dev_to_f16(v[0]) | (uint32_t) dev_to_f16(v[1]) << 16,
                                 dev_to_f16(v[2]) | (uint32_t) dev_to_f16(v[3]) << 16));
    }
    if (job.want & 1u << CU_Q8) {             /* ref's rules, see norm.cu */
        uint32_t  amax = 0, word = 0;
        float     d, inv;
        int       sum = 0;

#pragma unroll
        for (int i = 0; i < 4; i++) {
            amax = max(amax, __float_as_uint(v[i]) & 0x7fffffff);
        }
        for (int o = 4; o > 0; o /= 2) {
            amax = max(amax, __shfl_xor_sync(~0u, amax, o));
        }
        d = amax < 0x0d800000 ? 0 : __uint_as_float(amax) / 127.0f;
        inv = amax < 0x0d800000 ? 0 : 127.0f / __uint_as_float(amax);
        if (amax >= 0x7f800000) {
            d = __uint_as_float(0x7fc00000);
            inv = 0;
        }
#pragma unroll
        for (int i = 0; i < 4; i++) {
            int  q = inv == 0 ? 0 : __float2int_rn(v[i] * inv);

            sum += q;
            word |= ((uint32_t) q & 0xff) << 8 * i;
        }
        sum += __shfl_xor_sync(~0u, sum, 1);
        sum += __shfl_xor_sync(~0u, sum, 2);
        if (on) {
            *(uint32_t *) (a.q + at) = word;
            if (at % 16 == 0) {
                a.dsum2[at / 16] = d * (float) sum;
            }
        }
        sum += __shfl_xor_sync(~0u, sum, 4);
        if (on && at % 32 == 0) {
            a.d[at / 32] = d;
            a.dsum[at / 32] = d * (float) sum;
        }
    }
}

template <uint32_t TYPE>
DEV_INLINE uint32_t
dec_pack(float lo, float hi)
{
    return TYPE == KERN_KV_BF16 ? dev_pack_bf16(lo, hi) : dev_pack_f16(lo, hi);
}

/* Two values as pairs of high and of low halves. */
template <uint32_t TYPE>
DEV_INLINE void
dec_split(float x, float y, uint32_t *hi, uint32_t *lo)
{
    uint32_t  h = dec_pack<TYPE>(x, y);
    float     hx, hy;

    if (TYPE == KERN_KV_BF16) {
        hx = dev_bf16((uint16_t) h);
        hy = dev_bf16((uint16_t) (h >> 16));
    } else {
        hx = dev_f16((uint16_t) h);
        hy = dev_f16((uint16_t) (h >> 16));
    }
    *hi = h;
    *lo = dec_pack<TYPE>(x - hx, y - hy);
}

template <uint32_t TYPE>
DEV_INLINE void
dec_mma(float c[4], const uint32_t a[4], uint32_t b0, uint32_t b1)
{
    const uint32_t  b[2] = { b0, b1 };

    if (TYPE == KERN_KV_BF16) {
        mma_bf16(c, a, b);
    } else {
        mma_f16(c, a, b);
    }
}

/* The lane's pairs of the table for a position. */
template <int D>
DEV_INLINE void
dec_rope(float2 t[(D + 63) / 64], const attn_job_t &job, uint32_t pos)
{
#pragma unroll
    for (uint32_t j = 0; j < (D + 63) / 64; j++) {
        uint32_t  d = 64 * j + threadIdx.x % DEV_WARP * 2;

        t[j] = d < job.a.rope_dim ? ldf2(rope_row(job.a, pos) + d) : make_float2(0, 0);
    }
}

/* The lane's pairs of a head of qkv; zeros where there are none. */
template <int D>
DEV_INLINE void
dec_pairs(float2 v[(D + 63) / 64], const float *x, bool on)
{
#pragma unroll
    for (uint32_t j = 0; j < (D + 63) / 64; j++) {
        uint32_t  d = 64 * j + threadIdx.x % DEV_WARP * 2;

        v[j] = on && d < D ? ldf2(x + d) : make_float2(0, 0);
    }
}

template <int D>
DEV_INLINE void
dec_rotate(float2 v[(D + 63) / 64], const float2 t[(D + 63) / 64], uint32_t rope_dim)
{
#pragma unroll
    for (uint32_t j = 0; j < (D + 63) / 64; j++) {
        if (64 * j + threadIdx.x % DEV_WARP * 2 < rope_dim) {
            v[j] = rope_turn(v[j], t[j]);
        }
    }
}

/* A warp scales a rotated head into fragments. It is brought near 2^10 by a power of two, so that
 * low halves keep their bits in f16. */
template <uint32_t TYPE, int D>
DEV_INLINE void
dec_query(dec_smem_t<D> *sm, float2 v[(D + 63) / 64], uint32_t h, float scale)
{
    const uint32_t  lane = threadIdx.x % DEV_WARP;
    float           top = 0, f;
    uint32_t        e;

#pragma unroll
    for (uint32_t j = 0; j < (D + 63) / 64; j++) {
        v[j].x *= scale;
        v[j].y *= scale;
        top = fmaxf(top, fmaxf(fabsf(v[j].x), fabsf(v[j].y)));
    }
    e = __float_as_uint(warp_max(top)) >> 23;
    e = e < 11 ? 11 : e;
    f = __uint_as_float(e == 255 ? 0x7fc00000 : (264 - e) << 23);    /* infinity: NaN */
    if (lane == 0) {
        sm->q_inv[h] = __uint_as_float((e - 10) << 23) * KV_BIAS(TYPE);
    }
#pragma unroll
    for (uint32_t j = 0; j < (D + 63) / 64; j++) {
        uint32_t  d = 64 * j + 2 * lane, hi, lo;

        if (d < dec_smem_t<D>::SPANS * 32) {
            dec_split<TYPE>(v[j].x * f, v[j].y * f, &hi, &lo);
            st8((uint32_t *) &sm->q[d % 8 / 4][d / 32 * DEV_WARP + h * 4 + d % 32 / 8] + d % 4,
                make_uint2(hi, lo));
        }
    }
}

/* The scales of a pair of neighbouring tokens: value e * NB + b is token e's, block b. */
template <int NB>
DEV_INLINE void
dec_scales(uint32_t w[NB], const uint8_t *p, bool on)
{
#pragma unroll
    for (int i = 0; i < NB; i++) {
        w[i] = 0;
    }
    if (!on) {
        return;
    }
    if (NB % 4 == 0) {
#pragma unroll
        for (int i = 0; i < NB; i += 4) {
            uint4  v = ld16a(p + 4 * i);

            w[i] = v.x, w[i + 1] = v.y, w[i + 2] = v.z, w[i + 3] = v.w;
        }
    } else if (NB % 2 == 0) {
        uint2  v = ld8a(p);

        w[0] = v.x, w[1] = v.y;
    } else {
#pragma unroll
        for (int i = 0; i < NB; i++) {
            w[i] = ((const uint32_t *) p)[i];
        }
    }
}

template <int NB>
DEV_INLINE float
dec_scale(const uint32_t w[NB], int e, int b)
{
    int  i = e * NB + b;

    return dev_f16((uint16_t) (w[i / 2] >> 16 * (i % 2)));
}

/* s[t][i] = q of the lane's row times key 8 t + 2 c + i of a page with n valid keys; 16-bit types. */
template <uint32_t TYPE, int D>
DEV_INLINE void
dec_scores_16(float s[DEC_TILES][2], const dec_smem_t<D> *sm, const uint8_t *head, uint32_t n)
{
    constexpr int   SPANS = dec_smem_t<D>::SPANS, STEP = SPANS > 4 ? 2 : SPANS;
    const uint32_t  lane = threadIdx.x % DEV_WARP, r = lane / 4, c = lane % 4;
    float           acc[DEC_TILES][4] = { };

    /* Keys of STEP spans are under way at a time. */
#pragma unroll(1)
    for (int b0 = 0; b0 < SPANS; b0 += STEP) {
        uint4  k[STEP][DEC_TILES];

#pragma unroll
        for (int b = 0; b < STEP; b++) {
#pragma unroll
            for (int t = 0; t < DEC_TILES; t++) {
                uint32_t  d = 32 * (b0 + b) + 8 * c;

                k[b][t] = make_uint4(0, 0, 0, 0);
                if (8 * t + r < n && d < D) {
                    k[b][t] = ld16a(head + ((8 * t + r) * D + d) * 2);
                }
            }
        }
#pragma unroll
        for (int b = 0; b < STEP; b++) {
#pragma unroll
            for (int half = 0; half < 2; half++) {
                const uint4     q = ld16a(&sm->q[half][(b0 + b) * DEV_WARP + lane]);
                const uint32_t  a[4] = { q.x, q.y, q.z, q.w };

#pragma unroll
                for (int t = 0; t < DEC_TILES; t++) {
                    dec_mma<TYPE>(acc[t], a, half ? k[b][t].z : k[b][t].x,
                                  half ? k[b][t].w : k[b][t].y);
                }
            }
        }
    }
#pragma unroll
    for (int t = 0; t < DEC_TILES; t++) {
        s[t][0] = acc[t][0] + acc[t][2];
        s[t][1] = acc[t][1] + acc[t][3];
    }
}

/* The same for 8-bit types: a block's sum times its scale, blocks ascending. */
template <uint32_t TYPE, int D>
DEV_INLINE void
dec_scores_8(float s[DEC_TILES][2], const dec_smem_t<D> *sm, const uint8_t *head, uint32_t n)
{
    constexpr int   NB = dec_smem_t<D>::SPANS, STEP = NB < 4 ? NB : 4;
    const uint32_t  lane = threadIdx.x % DEV_WARP, r = lane / 4, c = lane % 4;
    uint32_t        ks[DEC_TILES][NB];

#pragma unroll
    for (int t = 0; t < DEC_TILES; t++) {
        s[t][0] = s[t][1] = 0;
        dec_scales<NB>(ks[t], head + kv_scale_at(D, false, 8 * t + 2 * c), 8 * t + 2 * c < n);
    }
#pragma unroll
    for (int b0 = 0; b0 < NB; b0 += STEP) {
        uint2  k[STEP][DEC_TILES];

#pragma unroll
        for (int b = 0; b < STEP; b++) {
#pragma unroll
            for (int t = 0; t < DEC_TILES; t++) {
                uint32_t  d = 32 * (b0 + b) + 8 * c;

                k[b][t] = make_uint2(0, 0);
                if (8 * t + r < n && d < D) {
                    k[b][t] = ld8a(head + (8 * t + r) * D + d);
                }
            }
        }
#pragma unroll
        for (int b = 0; b < STEP; b++) {
            const uint4     q0 = ld16a(&sm->q[0][(b0 + b) * DEV_WARP + lane]);
            const uint4     q1 = ld16a(&sm->q[1][(b0 + b) * DEV_WARP + lane]);
            const uint32_t  a0[4] = { q0.x, q0.y, q0.z, q0.w }, a1[4] = { q1.x, q1.y, q1.z, q1.w };

#pragma unroll
            for (int t = 0; t < DEC_TILES; t++) {
                float     acc[4] = { };
                uint32_t  x = k[b][t].x, y = k[b][t].y;

                dec_mma<TYPE>(acc, a0, kv_pair<TYPE>(x, 0, x, 1), kv_pair<TYPE>(x, 2, x, 3));
                dec_mma<TYPE>(acc, a1, kv_pair<TYPE>(y, 0, y, 1), kv_pair<TYPE>(y, 2, y, 3));
                s[t][0] = fmaf(acc[0] + acc[2], dec_scale<NB>(ks[t], 0, b0 + b), s[t][0]);
                s[t][1] = fmaf(acc[1] + acc[3], dec_scale<NB>(ks[t], 1, b0 + b), s[t][1]);
            }
        }
    }
}

/* Scores into weights p relative to the page's largest, which is *m; their sum is *l. */
DEV_INLINE void
dec_softmax(float p[DEC_TILES][2], float inv, uint32_t n, float *m, float *l)
{
    const uint32_t  c = threadIdx.x % 4;
    float           top = -INFINITY, sum = 0;

#pragma unroll
    for (int t = 0; t < DEC_TILES; t++) {
#pragma unroll
        for (int i = 0; i < 2; i++) {
            p[t][i] = 8 * t + 2 * c + i < n ? p[t][i] * inv : -INFINITY;
            top = fmaxf(top, p[t][i]);
        }
    }
    top = fmaxf(top, __shfl_xor_sync(~0u, top, 1));
    top = fmaxf(top, __shfl_xor_sync(~0u, top, 2));
#pragma unroll
    for (int t = 0; t < DEC_TILES; t++) {
#pragma unroll
        for (int i = 0; i < 2; i++) {
            p[t][i] = 8 * t + 2 * c + i < n ? dev_exp2(p[t][i] - top) : 0.0f;
            sum += p[t][i];
        }
    }
    sum += __shfl_xor_sync(~0u, sum, 1);
    sum += __shfl_xor_sync(~0u, sum, 2);
    *m = top;
    *l = sum;
}

/* Value d of head h of a warp's result lies at d ^ dec_turn(h): the 16 bytes each that eight lanes, of
 * two heads, store at once are 32 bytes apart, and so are on 32 banks. */
DEV_INLINE uint32_t
dec_turn(uint32_t h)
{
    return h % 2 * 4;
}

/* Columns 2c and 2c + 1 of VW products: VW values of head h from d on, and as many from d + STEP. */
template <int D, int VW, int STEP>
DEV_INLINE void
dec_store(float *o, uint32_t h, uint32_t d, const float acc[VW][4], float f)
{
#pragma unroll
    for (int e = 0; e < 2; e++) {
        if (d + e * STEP < D) {
#pragma unroll
            for (int j = 0; j < VW; j += 4) {
                float4  v = make_float4((acc[j][e] + acc[j][2 + e]) * f,
                                        (acc[j + 1][e] + acc[j + 1][2 + e]) * f,
                                        (acc[j + 2][e] + acc[j + 2][2 + e]) * f,
                                        (acc[j + 3][e] + acc[j + 3][2 + e]) * f);

                stf4(o + d + ((e * STEP + j) ^ dec_turn(h)), v);
            }
        }
    }
}

/* o[0 .. D - 1] of the lane's head, if on, = sum of p times a page's values; 16-bit types. */
template <uint32_t TYPE, int D>
DEV_INLINE void
dec_values_16(float *o, bool on, const float p[DEC_TILES][2], const uint8_t *head, uint32_t n)
{
    const uint32_t  lane = threadIdx.x % DEV_WARP, r = lane / 4, c = lane % 4;
    const uint32_t  part = 8 * (r / 2) + 32 * (r % 2);        /* of a span, of lanes 4 r .. */
    uint32_t        a[2][4];

#pragma unroll
    for (int u = 0; u < 2; u++) {
        dec_split<TYPE>(p[2 * u][0], p[2 * u][1], &a[u][0], &a[u][1]);
        dec_split<TYPE>(p[2 * u + 1][0], p[2 * u + 1][1], &a[u][2], &a[u][3]);
    }
#pragma unroll(D == 128 ? 2 : 1)
    for (uint32_t d0 = 0; d0 < D; d0 += 64) {
        uint4  v[2][4];
        float  acc[8][4] = { };

#pragma unroll
        for (int i = 0; i < 8; i++) {
            uint32_t  key = i / 4 * 16 + i % 4 / 2 * 8 + 2 * c + i % 2;

            v[i / 4][i % 4] = make_uint4(0, 0, 0, 0);
            if (key < n && d0 + part < D) {
                v[i / 4][i % 4] = ld16a(head + kv_at(TYPE, D, true, key) + (d0 + part) * 2);
            }
        }
#pragma unroll
        for (int u = 0; u < 2; u++) {
            const uint32_t  w[4][4] = { { v[u][0].x, v[u][0].y, v[u][0].z, v[u][0].w },
                                        { v[u][1].x, v[u][1].y, v[u][1].z, v[u][1].w },
                                        { v[u][2].x, v[u][2].y, v[u][2].z, v[u][2].w },
                                        { v[u][3].x, v[u][3].y, v[u][3].z, v[u][3].w } };

#pragma unroll
            for (int j = 0; j < 8; j++) {
                const uint32_t  take = j % 2 ? 0x7632 : 0x5410;

                dec_mma<TYPE>(acc[j], a[u], __byte_perm(w[0][j / 2], w[1][j / 2], take),
                              __byte_perm(w[2][j / 2], w[3][j / 2], take));
            }
        }
        if (on) {
            dec_store<D, 8, 32>(o, r, d0 + 8 * c, acc, 1.0f);
        }
    }
}

/* The same for 8-bit types: a block's weights are p times the scales of its keys, and a power of two
 * that keeps the bits of their low halves in f16 and is taken back afterwards; it holds fp8's bias. */
#define DEC_LIFT(type)  ((type) == KERN_KV_FP8 ? KV_BIAS(type) : 64.0f)
template <uint32_t TYPE, int D>
DEV_INLINE void
dec_values_8(float *o, bool on, const float p[DEC_TILES][2], const uint8_t *head, uint32_t n)
{
    constexpr int   NB = dec_smem_t<D>::SPANS;
    const uint32_t  lane = threadIdx.x % DEV_WARP, r = lane / 4, c = lane % 4;
    uint32_t        vs[DEC_TILES][NB];

#pragma unroll
    for (int t = 0; t < DEC_TILES; t++) {
        dec_scales<NB>(vs[t], head + kv_scale_at(D, true, 8 * t + 2 * c), 8 * t + 2 * c < n);
    }
#pragma unroll
    for (int b = 0; b < NB; b++) {
        uint32_t  v[8], a[2][4];
        float     acc[4][4] = { };

#pragma unroll
        for (int i = 0; i < 8; i++) {
            uint32_t  key = i / 4 * 16 + i % 4 / 2 * 8 + 2 * c + i % 2, d = 32 * b + 4 * r;

            v[i] = 0;
            if (key < n && d < D) {
                v[i] = *(const uint32_t *) (head + kv_at(TYPE, D, true, key) + d);
            }
        }
#pragma unroll
        for (int t = 0; t < DEC_TILES; t++) {
            float  x[2];

#pragma unroll
            for (int i = 0; i < 2; i++) {      /* a slot never written may hold anything */
                x[i] = 8 * t + 2 * c + i < n
                       ? p[t][i] * (dec_scale<NB>(vs[t], i, b) * DEC_LIFT(TYPE)) : 0.0f;
            }
            dec_split<TYPE>(x[0], x[1], &a[t / 2][t % 2 * 2], &a[t / 2][t % 2 * 2 + 1]);
        }
#pragma unroll
        for (int u = 0; u < 2; u++) {
#pragma unroll
            for (int j = 0; j < 4; j++) {
                dec_mma<TYPE>(acc[j], a[u], kv_pair<TYPE>(v[4 * u], j, v[4 * u + 1], j),
                              kv_pair<TYPE>(v[4 * u + 2], j, v[4 * u + 3], j));
            }
        }
        if (on) {
            dec_store<D, 4, 4>(o, r, 32 * b + 8 * c, acc, KV_BIAS(TYPE) / DEC_LIFT(TYPE));
        }
    }
}

/* One warp, one page: partial result of n_heads heads. o: [n_heads][D] and ml: [DEC_HEADS][2] of this
 * warp, in shared memory. */
template <uint32_t TYPE, int D>
DEV_INLINE void
dec_page(float *o, float (*ml)[2], const dec_smem_t<D> *sm, const uint8_t *head, uint32_t n,
    uint32_t n_heads)
{
    const uint32_t  lane = threadIdx.x % DEV_WARP, r = lane / 4;
    float           p[DEC_TILES][2], m, l;

    if (kv_scaled(TYPE)) {
        dec_scores_8<TYPE, D>(p, sm, head, n);
    } else {
        dec_scores_16<TYPE, D>(p, sm, head, n);
    }
    dec_softmax(p, sm->q_inv[r], n, &m, &l);
    if (lane % 4 == 0) {
        ml[r][0] = m;
        ml[r][1] = l;
    }
    if (kv_scaled(TYPE)) {
        dec_values_8<TYPE, D>(o + r * D, r < n_heads, p, head, n);
    } else {
        dec_values_16<TYPE, D>(o + r * D, r < n_heads, p, head, n);
    }
}

/* What a block works on. */
typedef struct {
    uint32_t  seq, g, row, keys;       /* keys: positions 0 .. keys - 1 */
    uint32_t  h0, n_heads;             /* of this pass, within the group */
    uint32_t  group, parts, per;       /* per: chunks of a part */
} dec_unit_t;

/* Index of a head's result of a part in part_o / D and part_ml / 2. */
DEV_INLINE size_t
dec_part_at(const attn_job_t &job, const dec_unit_t &u, uint32_t part)
{
    return (((size_t) u.seq * job.a.n_kv_heads + u.g) * CU_MAX_SPLITS + part) * u.group + u.h0;
}

/* v += e * four values. */
DEV_INLINE void
dec_add(float v[4], uint4 x, float e)
{
    v[0] = fmaf(__uint_as_float(x.x), e, v[0]);
    v[1] = fmaf(__uint_as_float(x.y), e, v[1]);
    v[2] = fmaf(__uint_as_float(x.z), e, v[2]);
    v[3] = fmaf(__uint_as_float(x.w), e, v[3]);
}

/* The pages of a chunk, ascending, after what the part has so far, which *m and *l are of: columns
 * d .. d + 3 of head h. */
template <int D>
DEV_INLINE void
dec_chunk(float v[4], float *m, float *l, dec_smem_t<D> *sm, const float *o, const dec_unit_t &u,
    uint32_t h, uint32_t d, uint32_t pages, bool first, int parity)
{
    float  e[DEC_WARPS], nm;

    *m = -INFINITY;
    *l = 0;
#pragma unroll
    for (uint32_t w = 0; w < DEC_WARPS; w++) {
        e[w] = w < pages ? sm->ml[parity][w][h][0] : -INFINITY;
        *m = fmaxf(*m, e[w]);
    }
#pragma unroll
    for (uint32_t w = 0; w < DEC_WARPS; w++) {
        if (w < pages) {
            e[w] = dev_exp2(e[w] - *m);
            dec_add(v, ld16a(o + (w * u.n_heads + h) * D + (d ^ dec_turn(h))), e[w]);
            *l = fmaf(sm->ml[parity][w][h][1], e[w], *l);
        }
    }
    if (!first) {
        float  rm = sm->run_ml[parity ^ 1][h][0], f, g;

        nm = fmaxf(rm, *m);
        f = dev_exp2(rm - nm);
        g = dev_exp2(*m - nm);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            v[i] *= g;
        }
        dec_add(v, ld16a(sm->run + h * D + d), f);
        *l = fmaf(sm->run_ml[parity ^ 1][h][1], f, *l * g);
        *m = nm;
    }
}

/* A chunk into the part's running result; at the part's end to where it belongs. All threads; what
 * the warps wrote is behind a barrier. */
template <int D>
DEV_INLINE void
dec_merge(dec_smem_t<D> *sm, const float *o, const attn_job_t &job, const dec_unit_t &u,
    uint32_t part, uint32_t pages, bool first, bool last, int parity)
{
    constexpr uint32_t  LANES = dec_smem_t<D>::LANES;
    const size_t        at = dec_part_at(job, u, part);

    for (uint32_t base = 0; base < u.n_heads * LANES; base += DEC_WARPS * DEV_WARP) {
        const uint32_t  i = base + threadIdx.x, h = i / LANES, d = i % LANES * 4;
        const bool      on = h < u.n_heads && d < D;
        float           v[4] = { }, m = 0, l = 1;

        if (on) {
            dec_chunk<D>(v, &m, &l, sm, o, u, h, d, pages, first, parity);
        }
        if (last && u.parts == 1) {
            const float  f = 1.0f / l;

#pragma unroll
            for (int k = 0; k < 4; k++) {
                v[k] *= f;
            }
            attn_put(job, u.row, (u.g * u.group + u.h0 + h) * D + d, v, on);
        } else if (on) {                        /* run: this thread's own */
            float  *ml = last ? job.part_ml + (at + h) * 2 : sm->run_ml[parity][h];

            stf4(last ? job.part_o + (at + h) * D + d : sm->run + h * D + d,
                 make_float4(v[0], v[1], v[2], v[3]));
            if (d == 0) {
                ml[0] = m;
                ml[1] = l;
            }
        }
    }
}

/* Weights of all parts of the pass's heads, a warp a head, and the inverse of their sum. */
template <int D>
DEV_INLINE void
dec_weights(dec_smem_t<D> *sm, const attn_job_t &job, const dec_unit_t &u)
{
    const uint32_t  lane = threadIdx.x % DEV_WARP;

    for (uint32_t h = threadIdx.x / DEV_WARP; h < u.n_heads; h += DEC_WARPS) {
        float  m[2], l[2], top, sum = 0;

#pragma unroll
        for (int j = 0; j < 2; j++) {
            uint32_t      part = lane + j * DEV_WARP;
            const float  *ml = job.part_ml + (dec_part_at(job, u, part) + h) * 2;

            m[j] = part < u.parts ? ld_l2(ml) : -INFINITY;
            l[j] = part < u.parts ? ld_l2(ml + 1) : 0.0f;
        }
        top = warp_max(fmaxf(m[0], m[1]));
#pragma unroll
        for (int j = 0; j < 2; j++) {
            uint32_t  part = lane + j * DEV_WARP;

            if (part < u.parts) {
                float  e = dev_exp2(m[j] - top);

                sm->weight[h][part] = e;
                sum = fmaf(l[j], e, sum);
            }
        }
        sum = warp_sum(sum);
        if (lane == 0) {
            sm->inv_l[h] = 1.0f / sum;
        }
    }
}

/* Four columns of up to DEC_BATCH parts from `part` on. */
DEV_INLINE void
dec_batch(uint4 x[DEC_BATCH], const float *o, uint32_t stride, uint32_t part, uint32_t parts,
    bool on)
{
#pragma unroll
    for (uint32_t i = 0; i < DEC_BATCH; i++) {
        x[i] = make_uint4(0, 0, 0, 0);
        if (on && part + i < parts) {
            x[i] = ld16_l2(o + (size_t) (part + i) * stride);
        }
    }
}

/* All parts of the pass's heads into the result, parts ascending. The first batch is on its way
 * before the weights are known. */
template <int D>
DEV_INLINE void
dec_combine(dec_smem_t<D> *sm, const attn_job_t &job, const dec_unit_t &u)
{
    constexpr uint32_t  LANES = dec_smem_t<D>::LANES;

    for (uint32_t base = 0; base < u.n_heads * LANES; base += DEC_WARPS * DEV_WARP) {
        const uint32_t  at = base + threadIdx.x, h = at / LANES, d = at % LANES * 4;
        const bool      on = h < u.n_heads && d < D;
        const float    *o = job.part_o + (dec_part_at(job, u, 0) + h) * D + d;
        float           v[4] = { };
        uint4           x[DEC_BATCH];

        dec_batch(x, o, u.group * D, 0, u.parts, on);
        if (base == 0) {
            dec_weights<D>(sm, job, u);
            __syncthreads();                   /* weights of all heads are there */
        }
        for (uint32_t part = 0; part < u.parts; part += DEC_BATCH) {
            if (part > 0) {
                dec_batch(x, o, u.group * D, part, u.parts, on);
            }
#pragma unroll
            for (uint32_t i = 0; i < DEC_BATCH; i++) {
                if (on && part + i < u.parts) {
                    dec_add(v, x[i], sm->weight[h][part + i]);
                }
            }
        }
#pragma unroll
        for (int i = 0; i < 4; i++) {
            v[i] = on ? v[i] * sm->inv_l[h] : 0.0f;
        }
        attn_put(job, u.row, (u.g * u.group + u.h0 + h) * D + d, v, on);
    }
}

/* Brings the warp's page of the chunk at pos into L2, if there is one. */
DEV_INLINE void
dec_prefetch(const attn_job_t &job, const dec_unit_t &u, const int32_t *table, uint32_t pos)
{
    uint32_t  at = pos + threadIdx.x / DEV_WARP * KERN_PAGE_TOKENS;

    if (threadIdx.x % DEV_WARP == 0 && at < u.keys) {
        dev_prefetch(kv_head(job.a, table, at, u.g), (uint32_t) job.a.head_bytes);
    }
}

/* This block's parts of one pass: part blockIdx.x, and on by the width of the grid. */
template <uint32_t TYPE, int D>
DEV_INLINE void
dec_pass(dec_smem_t<D> *sm, const attn_job_t &job, const dec_unit_t &u, const int32_t *table)
{
    const uint32_t  warp = threadIdx.x / DEV_WARP;
    float          *o = sm->run + u.n_heads * D;
    int             parity = 0;

    for (uint32_t part = blockIdx.x; part < u.parts; part += gridDim.x) {
        uint32_t  start = part * u.per * CU_CHUNK, end = min(start + u.per * CU_CHUNK, u.keys);

        for (uint32_t pos = start; pos < end; pos += CU_CHUNK) {
            uint32_t  at = pos + warp * KERN_PAGE_TOKENS;
            float    *chunk = o + parity * DEC_WARPS * u.n_heads * D;

            dec_prefetch(job, u, table, pos + CU_CHUNK < end ? pos + CU_CHUNK
                                        : start + gridDim.x * u.per * CU_CHUNK);
            if (at < end) {
                dec_page<TYPE, D>(chunk + warp * u.n_heads * D, sm->ml[parity][warp], sm,
                                  kv_head(job.a, table, at, u.g),
                                  min(end - at, (uint32_t) KERN_PAGE_TOKENS), u.n_heads);
            }
            /* The warps' results are there; those of the other parity are read no more. */
            __syncthreads();
            dec_merge<D>(sm, chunk, job, u, part,
                         (min(end - pos, (uint32_t) CU_CHUNK) + KERN_PAGE_TOKENS - 1)
                         / KERN_PAGE_TOKENS,
                         pos == start, pos + CU_CHUNK >= end, parity);
            parity ^= 1;
        }
    }
}

/* False: a block without parts. Only the plan is read, which no kernel writes. */
DEV_INLINE bool
dec_unit(dec_unit_t *u, const attn_job_t &job)
{
    uint32_t  chunks;

    u->seq = blockIdx.z;
    u->g = blockIdx.y;
    u->row = (uint32_t) job.p.seq_row0[u->seq];
    u->keys = (uint32_t) job.p.seq_pos0[u->seq] + 1;
    u->group = job.a.n_heads / job.a.n_kv_heads;
    chunks = (u->keys + CU_CHUNK - 1) / CU_CHUNK;
    u->per = (chunks + CU_MAX_SPLITS - 1) / CU_MAX_SPLITS;
    u->parts = (chunks + u->per - 1) / u->per;
    return blockIdx.x < u->parts && job.p.seq_rows[u->seq] != 0;
}

/* Whether this block is the last of `active` that ends its parts; all threads get it. */
template <int D>
DEV_INLINE bool
dec_is_last(dec_smem_t<D> *sm, const attn_job_t &job, const dec_unit_t &u, uint32_t active)
{
    if (active == 1) {
        return true;
    }
    /* All parts of this block are out before it is counted (the caller's barrier, the fence); the
     * last to count sees everybody's. */
    if (threadIdx.x == 0) {
        int  *count = job.count + u.seq * job.a.n_kv_heads + u.g;

        __threadfence();
        sm->last = atomicAdd(count, 1) == (int) active - 1;
        if (sm->last) {
            *count = 0;
            __threadfence();
        }
    }
    __syncthreads();                           /* the verdict is there */
    return sm->last;
}

/* The pass's query, and in its first one the newest key and value into their page, if that is in
 * this block's part: a warp has two heads, the last two warps one of those. All are on their way
 * before the first is used. */
template <uint32_t TYPE, int D>
DEV_INLINE void
dec_prepare(dec_smem_t<D> *sm, const attn_job_t &job, const dec_unit_t &u, const int32_t *table)
{
    const uint32_t  warp = threadIdx.x / DEV_WARP, pos = u.keys - 1;
    const bool      value = warp == DEC_WARPS - 1;
    const bool      append = u.h0 == 0 && warp >= DEC_WARPS - 2
                             && (u.parts - 1) % gridDim.x == blockIdx.x;
    const float    *x = job.qkv + (size_t) u.row * job.ld;
    float2          v[2][(D + 63) / 64], kv[(D + 63) / 64], rope[(D + 63) / 64];

    dec_rope<D>(rope, job, pos);
#pragma unroll
    for (uint32_t k = 0; k < 2; k++) {
        uint32_t  h = warp + k * DEC_WARPS;

        dec_pairs<D>(v[k], x + (u.g * u.group + u.h0 + h) * D, h < u.n_heads);
    }
    dec_pairs<D>(kv, x + (job.a.n_heads + value * job.a.n_kv_heads + u.g) * D, append);
    if (append) {
        uint8_t  *head = kv_head(job.a, table, pos, u.g);

        dec_rotate<D>(kv, rope, value ? 0 : job.a.rope_dim);
#pragma unroll
        for (uint32_t j = 0; j < (D + 63) / 64; j++) {
            uint32_t  d = 64 * j + threadIdx.x % DEV_WARP * 2;

            kv_put(head, TYPE, D, value, pos % KERN_PAGE_TOKENS, d, kv[j], d < D);
        }
    }
#pragma unroll
    for (uint32_t k = 0; k < 2; k++) {
        dec_rotate<D>(v[k], rope, job.a.rope_dim);
        dec_query<TYPE, D>(sm, v[k], warp + k * DEC_WARPS, job.scale);
    }
}

/* Blocks of an SM at once, which bounds registers. */
KV_CONST int
dec_blocks(uint32_t type, int dim)
{
    return dim == 64 ? 4 : dim <= 128 ? 3 : kv_scaled(type) ? 2 : 4;
}

/* attn_decode_k: one row of attention for each of the first n_decode sequences
 * shapes   qkv f32 [T, (H + 2 G) D]; pages as in cuda.h; out f32 [T, H D] and acts
 * launch   (splits, G, n_decode) blocks of 128; a block takes parts of one kv head, a warp a page of a
 *          chunk; blocks beyond a sequence's parts end at once
 * math     see the head of this file and attn.h; against f64 from the same pages: 3e-6 of the largest
 *          value for f16, q8 and fp8, 3e-5 for bf16
 * traffic  cu_attend_cost(): the pages once, partials (D + 2) * 4 bytes a head and part, twice
 * bound    DRAM (pages)
 * measured H200, bench_attn, 32 / 8 heads of 128, f16, 2,048 keys: 13.2, 55, 184 us for 1, 16, 64
 *          sequences (the last 2.9 TB/s); 8,192 keys: 30, 195, 792 us; before dec_batch()
 * source   Dao et al., "Flash-Decoding for long-context inference", 2023, for the split
 */
template <uint32_t TYPE, int D>
__global__ void __launch_bounds__(DEC_WARPS * DEV_WARP, dec_blocks(TYPE, D))
attn_decode_k(attn_job_t job)
{
    DYN_SMEM(raw);
    dec_smem_t<D>  *sm = (dec_smem_t<D> *) raw;
    dec_unit_t      u;
    const bool      mine = dec_unit(&u, job);
    const int32_t  *table = job.p.table + (size_t) u.seq * job.p.max_pages;

    if (mine) {
        dec_prefetch(job, u, table, blockIdx.x * u.per * CU_CHUNK);
    }
    dev_wait();
    dev_launch_dependents();
    if (!mine) {
        return;
    }

    for (u.h0 = 0; u.h0 < u.group; u.h0 += DEC_HEADS) {
        u.n_heads = min(u.group - u.h0, (uint32_t) DEC_HEADS);
        dec_prepare<TYPE, D>(sm, job, u, table);
        __syncthreads();                       /* query and newest key are there */
        dec_pass<TYPE, D>(sm, job, u, table);
        __syncthreads();                       /* parts are out; nobody reads the query any more */
    }

    if (u.parts == 1 || !dec_is_last<D>(sm, job, u, min(gridDim.x, u.parts))) {
        return;
    }
    for (u.h0 = 0; u.h0 < u.group; u.h0 += DEC_HEADS) {
        u.n_heads = min(u.group - u.h0, (uint32_t) DEC_HEADS);
        dec_combine<D>(sm, job, u);
        __syncthreads();                       /* nobody reads the weights any more */
    }
}

template <uint32_t TYPE, int D>
static int
dec_launch(const cu_dev_t *dev, const attn_job_t *job)
{
    const cu_attn_t  *a = &job->a;
    uint32_t          group = a->n_heads / a->n_kv_heads, pairs = job->p.n_decode * a->n_kv_heads;
    uint32_t          chunks = (job->p.max_keys + CU_CHUNK - 1) / CU_CHUNK;
    uint32_t          splits = (16 * (uint32_t) dev->n_sms + pairs - 1) / pairs;

    /* About 16 blocks an SM, four of which run at once: enough to even out unequal lengths. */
    splits = splits < chunks ? splits : chunks;
    splits = splits < CU_MAX_SPLITS ? splits : CU_MAX_SPLITS;
    return dev_launch(dev, attn_decode_k<TYPE, D>, dim3(splits, a->n_kv_heads, job->p.n_decode),
                      dim3(DEC_WARPS * DEV_WARP),
                      dec_smem_bytes<D>(group < DEC_HEADS ? group : DEC_HEADS), *job);
}

template <uint32_t TYPE>
static int
dec_dispatch(const cu_dev_t *dev, const attn_job_t *job)
{
    switch (job->a.head_dim) {
    case 64:
        return dec_launch<TYPE, 64>(dev, job);
    case 80:
        return dec_launch<TYPE, 80>(dev, job);
    case 96:
        return dec_launch<TYPE, 96>(dev, job);
    case 128:
        return dec_launch<TYPE, 128>(dev, job);
    case 256:
        return dec_launch<TYPE, 256>(dev, job);
    default:
        return INFER_UNSUPPORTED;
    }
}

#endif
