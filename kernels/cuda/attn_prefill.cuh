/*
 * attn_prefill.cuh: causal attention of prompt rows over a paged KV that holds their keys already,
 * in tiles: FlashAttention-2's scheme with mma.sync. Included by attn_prefill_{f16,bf16,8}.cu.
 *
 * A tile's rows are (row, head) pairs of one kv head, heads inner, so that every group size fills
 * tiles and shares keys. Queries and weights are rounded to 16 bits; 8-bit pages are turned into f16
 * in shared memory. A row's arithmetic is the same in whatever tile and place it lies: keys in tiles
 * from position 0, tiles beyond its own position leave it as it is.
 *
 * Rows of shared memory are padded by 16 bytes: an odd number of 16-byte units for all head sizes, so
 * that the eight rows of an ldmatrix lie in different banks.
 */

#ifndef KERN_CUDA_ATTN_PREFILL_CUH
#define KERN_CUDA_ATTN_PREFILL_CUH

#include "attn.h"
#include "kv.cuh"

#define PRE_WARPS    4
#define PRE_THREADS  (PRE_WARPS * DEV_WARP)

/* Sizes of an instance: head size, and blocks of 16 rows that a warp has. */
template <int D, int WM>
struct pre_tile_t {
    static const int  ROWS = PRE_WARPS * 16 * WM;
    static const int  KEYS = D <= 128 ? 64 : 32;
    static const int  PAGES = KEYS / KERN_PAGE_TOKENS;
    static const int  PITCH = D + 8;                       /* halves */
    static const int  PAGE8 = 2 * KERN_PAGE_TOKENS * (D + 2 * ((D + 31) / 32));  /* 8-bit head */

    static_assert(PAGES <= 2, "pages of a fetch");
    static_assert(D % 16 == 0, "whole steps of the products");
    static_assert(PITCH / 8 % 2 == 1, "rows of an ldmatrix in different banks");
    static_assert(PAGE8 % 16 == 0, "a head is copied in units of 16 bytes");
};

template <int D, int WM>
static inline size_t
pre_smem_bytes(bool scaled)
{
    typedef pre_tile_t<D, WM>  T;
    size_t                     kv = (size_t) 2 * T::KEYS * T::PITCH * 2;

    return (size_t) T::ROWS * T::PITCH * 2 + (scaled ? kv + T::PAGES * T::PAGE8 : 2 * kv);
}

/* What a block works on. */
typedef struct {
    uint32_t        g, group, row0, pos0;      /* of the sequence */
    uint32_t        first, rows;               /* (row, head) pairs: of the tile, of the sequence */
    uint32_t        keys;                      /* that the tile's last row sees */
} pre_unit_t;

/* The block's row of the page table; made when needed, registers are short. */
DEV_INLINE const int32_t *
pre_table(const attn_job_t &job)
{
    return job.p.table + (size_t) (job.p.n_decode + blockIdx.y) * job.p.max_pages;
}

template <uint32_t TYPE>
DEV_INLINE uint32_t
pre_pack(float lo, float hi)
{
    return TYPE == KERN_KV_BF16 ? dev_pack_bf16(lo, hi) : dev_pack_f16(lo, hi);
}

template <uint32_t TYPE>
DEV_INLINE void
pre_mma(float c[4], const uint32_t a[4], const uint32_t b[2])
{
    if (TYPE == KERN_KV_BF16) {
        mma_bf16(c, a, b);
    } else {
        mma_f16(c, a, b);
    }
}

/* In the padding of a row's query: its position, then the keys of the tile. Registers are short. */
template <int D>
DEV_INLINE uint32_t *
pre_position(uint16_t *q, uint32_t m)
{
    return (uint32_t *) (q + m * pre_tile_t<D, 1>::PITCH + D);
}

/* The tile's queries, rotated, scaled and rounded, and positions of its rows; rows beyond the
 * sequence are zero and see what its last one sees. */
template <uint32_t TYPE, int D, int WM>
DEV_INLINE void
pre_query(uint16_t *q, const attn_job_t &job, const pre_unit_t &u)
{
    typedef pre_tile_t<D, WM>  T;

    for (uint32_t i = threadIdx.x; i < T::ROWS * D / 4; i += PRE_THREADS) {
        uint32_t  m = i / (D / 4), d = i % (D / 4) * 4, at = u.first + m, r = at / u.group;
        uint2     w = make_uint2(0, 0);

        if (at < u.rows) {
            const float  *x = job.qkv + (size_t) (u.row0 + r) * job.ld
                              + (u.g * u.group + at % u.group) * D;
            const float  *rope = rope_row(job.a, u.pos0 + r);
            float2        a = rope_pair(x, d, rope, job.a.rope_dim);
            float2        b = rope_pair(x, d + 2, rope, job.a.rope_dim);

            w.x = pre_pack<TYPE>(a.x * job.scale, a.y * job.scale);
            w.y = pre_pack<TYPE>(b.x * job.scale, b.y * job.scale);
        }
        st8(q + m * T::PITCH + d, w);
        if (d == 0) {
            pre_position<D>(q, m)[0] = u.pos0 + min(at, u.rows - 1) / u.group;
            pre_position<D>(q, m)[1] = u.keys;
        }
    }
}

/* Starts the copy of keys and values from .. into kv, [2][KEYS][PITCH]; 16-bit types. Keys that no
 * row of the tile sees become zero. A thread has one unit of 16 bytes of every STEP-th row. */
template <uint32_t TYPE, int D, int WM>
DEV_INLINE void
pre_fetch_16(uint16_t *kv, const attn_job_t &job, uint32_t keys, uint32_t from)
{
    typedef pre_tile_t<D, WM>  T;
    constexpr uint32_t         UNITS = D / 8, STEP = PRE_THREADS / UNITS, ROWS = 2 * T::KEYS;
    const uint32_t             c = threadIdx.x % UNITS, r0 = threadIdx.x / UNITS;
    const uint8_t             *low = kv_head(job.a, pre_table(job), from, blockIdx.x), *high = low;

    if (T::PAGES > 1 && from + KERN_PAGE_TOKENS < keys) {
        high = kv_head(job.a, pre_table(job), from + KERN_PAGE_TOKENS, blockIdx.x);
    }
    if (PRE_THREADS % UNITS != 0 && r0 >= STEP) {
        return;
    }
    low += kv_at(TYPE, D, false, r0) + c * 16;
    high += kv_at(TYPE, D, false, r0) + c * 16;
    kv += r0 * T::PITCH + c * 8;
    if constexpr (KERN_PAGE_TOKENS % STEP == 0) {           /* all steps are constants */
        const int  left = (int) (keys - from - r0);

#pragma unroll
        for (uint32_t r = 0; r < ROWS; r += STEP) {
            const uint32_t  key = r % T::KEYS;

            cp16(kv + r * T::PITCH, (key < KERN_PAGE_TOKENS ? low : high)
                                    + kv_at(TYPE, D, r >= T::KEYS, key % KERN_PAGE_TOKENS),
                 (int) key < left);
        }
    } else {
        for (uint32_t r = 0; r + r0 < ROWS; r += STEP) {
            const uint32_t  key = (r + r0) % T::KEYS;

            cp16(kv + r * T::PITCH, (key < KERN_PAGE_TOKENS ? low : high)
                                    + kv_at(TYPE, D, r + r0 >= T::KEYS, key % KERN_PAGE_TOKENS)
                                    - kv_at(TYPE, D, false, r0), from + key < keys);
        }
    }
}

/* Starts the copy of the heads' bytes as they are; 8-bit types. */
template <int D, int WM>
DEV_INLINE void
pre_fetch_8(uint8_t *raw, const attn_job_t &job, uint32_t keys, uint32_t from)
{
    typedef pre_tile_t<D, WM>  T;

#pragma unroll
    for (int p = 0; p < T::PAGES; p++) {
        uint32_t        pos = from + p * KERN_PAGE_TOKENS;
        bool            on = pos < keys;
        const uint8_t  *head = kv_head(job.a, pre_table(job), on ? pos : from, blockIdx.x);

#pragma unroll(1)
        for (uint32_t i = threadIdx.x; i < T::PAGE8 / 16; i += PRE_THREADS) {
            cp16(raw + p * T::PAGE8 + i * 16, head + i * 16, on);
        }
    }
}

/* Two f16 times a scale. */
DEV_INLINE uint32_t
pre_scaled(uint32_t pair, float scale)
{
    return dev_pack_f16(dev_f16((uint16_t) pair) * scale, dev_f16((uint16_t) (pair >> 16)) * scale);
}

/* raw into f16 keys and values with their scales, eight at a time. */
template <uint32_t TYPE, int D, int WM>
DEV_INLINE void
pre_expand(uint16_t *kv, const uint8_t *raw, uint32_t n)
{
    typedef pre_tile_t<D, WM>  T;

#pragma unroll(1)
    for (uint32_t i = threadIdx.x; i < 2 * T::KEYS * D / 8; i += PRE_THREADS) {
        uint32_t        c = i % (D / 8), key = i / (D / 8) % T::KEYS, value = i / (D / 8 * T::KEYS);
        uint32_t        slot = key % KERN_PAGE_TOKENS;
        const uint8_t  *head = raw + key / KERN_PAGE_TOKENS * T::PAGE8;
        uint4           w = make_uint4(0, 0, 0, 0);

        if (key < n) {
            const uint2  v = ld8a(head + kv_at(TYPE, D, value != 0, slot) + c * 8);
            const float  s = KV_BIAS(TYPE) * dev_f16(*(const uint16_t *)
                             (head + kv_scale_at(D, value != 0, slot) + c / 4 * 2));

            w.x = pre_scaled(kv_pair<TYPE>(v.x, 0, v.x, 1), s);
            w.y = pre_scaled(kv_pair<TYPE>(v.x, 2, v.x, 3), s);
            w.z = pre_scaled(kv_pair<TYPE>(v.y, 0, v.y, 1), s);
            w.w = pre_scaled(kv_pair<TYPE>(v.y, 2, v.y, 3), s);
        }
        st16(kv + (value * T::KEYS + key) * T::PITCH + c * 8, w);
    }
}

/* s = q k of the warp's rows and the tile's keys. */
template <uint32_t TYPE, int D, int WM>
DEV_INLINE void
pre_scores(float s[WM][pre_tile_t<D, WM>::KEYS / 8][4], const uint16_t *q, const uint16_t *k)
{
    typedef pre_tile_t<D, WM>  T;
    const uint32_t             lane = threadIdx.x % DEV_WARP;

#pragma unroll
    for (int i = 0; i < WM * T::KEYS / 8 * 4; i++) {
        (&s[0][0][0])[i] = 0;
    }
#pragma unroll(2)
    for (int d = 0; d < D; d += 16) {
        uint32_t  a[WM][4];

#pragma unroll
        for (int mi = 0; mi < WM; mi++) {
            ldsm4(a[mi], q + (mi * 16 + lane % 16) * T::PITCH + d + lane / 16 * 8);
        }
#pragma unroll
        for (int n = 0; n < T::KEYS; n += 16) {
            uint32_t  b[4];

            ldsm4(b, k + (n + lane / 16 * 8 + lane % 8) * T::PITCH + d + lane / 8 % 2 * 8);
#pragma unroll
            for (int mi = 0; mi < WM; mi++) {
                pre_mma<TYPE>(s[mi][n / 8], a[mi], b);
                pre_mma<TYPE>(s[mi][n / 8 + 1], a[mi], b + 2);
            }
        }
    }
}

/* False: the block has nothing to do. Later rows see more keys, so their tiles start first, those
 * of all heads and sequences: blocks start in the order of x, y, z. */
template <int D, int WM>
DEV_INLINE bool
pre_unit(pre_unit_t *u, const attn_job_t &job)
{
    const uint32_t  seq = job.p.n_decode + blockIdx.y, tile = gridDim.z - 1 - blockIdx.z;

    u->g = blockIdx.x;
    u->group = job.a.n_heads / job.a.n_kv_heads;
    u->rows = (uint32_t) job.p.seq_rows[seq] * u->group;
    u->first = tile * pre_tile_t<D, WM>::ROWS;
    u->row0 = (uint32_t) job.p.seq_row0[seq];
    u->pos0 = (uint32_t) job.p.seq_pos0[seq];
    u->keys = u->pos0 + 1
              + (min(u->rows, u->first + pre_tile_t<D, WM>::ROWS) - 1) / u->group;
    return u->first < u->rows;
}

/* Keys after a row's own position out of its scores. q: of the warp; from: position of the tile's
 * first key. */
template <int D, int WM>
DEV_INLINE void
pre_mask(float s[WM][pre_tile_t<D, WM>::KEYS / 8][4], uint16_t *q, uint32_t from)
{
    const uint32_t  lane = threadIdx.x % DEV_WARP;

#pragma unroll
    for (int mi = 0; mi < WM; mi++) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            int  see = (int) (*pre_position<D>(q, mi * 16 + half * 8 + lane / 4) - from)
                       - (int) (lane % 4 * 2);

#pragma unroll
            for (int n = 0; n < pre_tile_t<D, WM>::KEYS / 8; n++) {
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    if (n * 8 + i > see) {
                        s[mi][n][2 * half + i] = -INFINITY;
                    }
                }
            }
        }
    }
}

/* Scores into weights; what rows have so far is brought to the new maximum, which soon is the old
 * one. l is the lane's own part of the sum. */
template <int D, int KEYS, int WM>
DEV_INLINE void
pre_softmax(float s[WM][KEYS / 8][4], float o[WM][D / 8][4], float m[WM][2], float l[WM][2])
{
#pragma unroll
    for (int mi = 0; mi < WM; mi++) {
        float  f[2];

#pragma unroll
        for (int half = 0; half < 2; half++) {
            float  top = m[mi][half], sum = 0;

#pragma unroll
            for (int n = 0; n < KEYS / 8; n++) {
                top = fmaxf(top, fmaxf(s[mi][n][2 * half], s[mi][n][2 * half + 1]));
            }
            top = fmaxf(top, __shfl_xor_sync(~0u, top, 1));
            top = fmaxf(top, __shfl_xor_sync(~0u, top, 2));
            f[half] = dev_exp2(m[mi][half] - top);
            m[mi][half] = top;
#pragma unroll
            for (int n = 0; n < KEYS / 8; n++) {
#pragma unroll
                for (int i = 2 * half; i < 2 * half + 2; i++) {
                    s[mi][n][i] = dev_exp2(s[mi][n][i] - top);
                    sum += s[mi][n][i];
                }
            }
            l[mi][half] = fmaf(l[mi][half], f[half], sum);
        }
        if (__any_sync(~0u, f[0] != 1.0f || f[1] != 1.0f)) {
#pragma unroll
            for (int n = 0; n < D / 8; n++) {
                o[mi][n][0] *= f[0];
                o[mi][n][1] *= f[0];
                o[mi][n][2] *= f[1];
                o[mi][n][3] *= f[1];
            }
        }
    }
}

/* o += p v */
template <uint32_t TYPE, int D, int WM>
DEV_INLINE void
pre_values(float o[WM][D / 8][4], const float p[WM][pre_tile_t<D, WM>::KEYS / 8][4],
    const uint16_t *v)
{
    typedef pre_tile_t<D, WM>  T;
    const uint32_t             lane = threadIdx.x % DEV_WARP;

#pragma unroll
    for (int k = 0; k < T::KEYS; k += 16) {
        uint32_t  a[WM][4];

#pragma unroll
        for (int mi = 0; mi < WM; mi++) {
            const float  *lo = p[mi][k / 8], *hi = p[mi][k / 8 + 1];

            a[mi][0] = pre_pack<TYPE>(lo[0], lo[1]);
            a[mi][1] = pre_pack<TYPE>(lo[2], lo[3]);
            a[mi][2] = pre_pack<TYPE>(hi[0], hi[1]);
            a[mi][3] = pre_pack<TYPE>(hi[2], hi[3]);
        }
#pragma unroll
        for (int d = 0; d < D; d += 16) {
            uint32_t  b[4];

            ldsm4_t(b, v + (k + lane % 16) * T::PITCH + d + lane / 16 * 8);
#pragma unroll
            for (int mi = 0; mi < WM; mi++) {
                pre_mma<TYPE>(o[mi][d / 8], a[mi], b);
                pre_mma<TYPE>(o[mi][d / 8 + 1], a[mi], b + 2);
            }
        }
    }
}

/* The warp's rows, divided by their sums, to out. */
template <int D, int WM>
DEV_INLINE void
pre_store(const attn_job_t &job, const pre_unit_t &u, const float o[WM][D / 8][4],
    const float l[WM][2])
{
    const uint32_t  lane = threadIdx.x % DEV_WARP, warp = threadIdx.x / DEV_WARP;

#pragma unroll
    for (int mi = 0; mi < WM; mi++) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            uint32_t  at = u.first + warp * 16 * WM + mi * 16 + half * 8 + lane / 4;
            float     sum = l[mi][half], f;
            float    *to = job.out + ((size_t) (u.row0 + at / u.group) * job.a.n_heads
                                      + u.g * u.group + at % u.group) * D + lane % 4 * 2;

            sum += __shfl_xor_sync(~0u, sum, 1);
            sum += __shfl_xor_sync(~0u, sum, 2);
            f = 1.0f / sum;
            if (at < u.rows) {
#pragma unroll
                for (int n = 0; n < D / 8; n++) {
                    stf2(to + 8 * n, make_float2(o[mi][n][2 * half] * f,
                                                 o[mi][n][2 * half + 1] * f));
                }
            }
        }
    }
}

/* attn_prefill_k: causal attention of the rows of the plan's sequences from n_decode on
 * shapes   qkv f32 [T, (H + 2 G) D]; pages as in cuda.h, with the rows' own keys; out f32 [T, H D]
 * launch   (G, prefill sequences, tiles) blocks of 128; 64 WM (row, head) pairs a block, 16 WM a
 *          warp
 * math     f16 or bf16 products, f32 sums, weights rounded to the operands' type; against f64 from
 *          the same pages: 3e-3 of the largest value for f16 and 8-bit pages, 1.5e-2 for bf16
 * traffic  q and out once, pages once for each tile of rows      flops 4 * D * keys a (row, head)
 * bound    tensor cores (mma.sync)
 * measured H200, 32 / 8 heads of 128, f16, 2,048 tokens: 244 us (141 TFLOP/s), before tile was z
 * source   Dao, "FlashAttention-2", 2023
 */
template <uint32_t TYPE, int D, int WM>
__global__ void __launch_bounds__(PRE_THREADS, WM == 1 && D <= 128 ? 3 : 2)
attn_prefill_k(attn_job_t job)
{
    typedef pre_tile_t<D, WM>  T;
    DYN_SMEM(raw_smem);
    constexpr bool   SCALED = kv_scaled(TYPE);
    constexpr int    KV = 2 * T::KEYS * T::PITCH;          /* halves of keys and values of a tile */
    const uint32_t   warp = threadIdx.x / DEV_WARP;
    uint16_t        *q = (uint16_t *) raw_smem, *kv = q + T::ROWS * T::PITCH;
    uint8_t         *raw = (uint8_t *) (kv + KV);
    pre_unit_t       u;
    float            o[WM][D / 8][4], s[WM][T::KEYS / 8][4], m[WM][2], l[WM][2];

    dev_wait();
    dev_launch_dependents();
    if (!pre_unit<D, WM>(&u, job)) {
        return;
    }
    if (SCALED) {
        pre_fetch_8<D, WM>(raw, job, u.keys, 0);
    } else {
        pre_fetch_16<TYPE, D, WM>(kv, job, u.keys, 0);
    }
    cp_commit();
    pre_query<TYPE, D, WM>(q, job, u);
#pragma unroll
    for (int mi = 0; mi < WM; mi++) {
        m[mi][0] = m[mi][1] = -INFINITY;
        l[mi][0] = l[mi][1] = 0;
#pragma unroll
        for (int i = 0; i < D / 8 * 4; i++) {
            (&o[mi][0][0])[i] = 0;
        }
    }
    q += warp * 16 * WM * T::PITCH;

    uint32_t  from = 0, stage = 0;

    do {
        uint16_t  *tile = kv + stage * KV;
        uint32_t   keys;

        cp_wait<0>();
        /* The tile (and at first the query) is there; the last tile is read no more. */
        __syncthreads();
        keys = pre_position<D>(q, 0)[1];
        if (SCALED) {
            if (job.a.type == KERN_KV_Q8) {
                pre_expand<KERN_KV_Q8, D, WM>(kv, raw, keys - from);
            } else {
                pre_expand<KERN_KV_FP8, D, WM>(kv, raw, keys - from);
            }
            __syncthreads();                   /* the f16 tile is there, raw is free */
        }
        if (from + T::KEYS < keys) {
            if (SCALED) {
                pre_fetch_8<D, WM>(raw, job, keys, from + T::KEYS);
            } else {
                pre_fetch_16<TYPE, D, WM>(kv + (stage ^ 1) * KV, job, keys, from + T::KEYS);
            }
            cp_commit();
        }

        pre_scores<TYPE, D, WM>(s, q, tile);
        if (from + T::KEYS > *pre_position<D>(q, 0) + 1) {
            pre_mask<D, WM>(s, q, from);
        }
        pre_softmax<D, T::KEYS, WM>(s, o, m, l);
        pre_values<TYPE, D, WM>(o, s, tile + KV / 2);
        stage ^= SCALED ? 0 : 1;
        from += T::KEYS;
    } while (from < pre_position<D>(q, 0)[1]);
    pre_unit<D, WM>(&u, job);                  /* again, not kept in registers meanwhile */
    pre_store<D, WM>(job, u, o, l);
}

/* Dynamic shared memory of a block, by compute capability. */
static inline size_t
pre_smem_max(int cc)
{
    return (size_t) (cc == 80 || cc == 87 ? 163 : cc < 90 || cc >= 120 ? 99 : 227) << 10;
}

static inline uint32_t
pre_tiles(const attn_job_t *job, uint32_t rows)
{
    return (job->p.max_rows * (job->a.n_heads / job->a.n_kv_heads) + rows - 1) / rows;
}

template <uint32_t TYPE, int D, int WM>
static int
pre_launch(const cu_dev_t *dev, const attn_job_t *job)
{
    return dev_launch(dev, attn_prefill_k<TYPE, D, WM>,
                      dim3(job->a.n_kv_heads, job->p.n_seqs - job->p.n_decode,
                           pre_tiles(job, pre_tile_t<D, WM>::ROWS)),
                      dim3(PRE_THREADS), pre_smem_bytes<D, WM>(kv_scaled(TYPE)), *job);
}

/* Tiles of 128 rows where they fit (8-bit pages of D = 128 leave no registers for them) and there
 * are enough for every SM; the same bits either way. */
template <uint32_t TYPE, int D>
static int
pre_choose(const cu_dev_t *dev, const attn_job_t *job)
{
    if constexpr (!kv_scaled(TYPE) || D < 128) {
        uint32_t  blocks = pre_tiles(job, pre_tile_t<D, 2>::ROWS) * job->a.n_kv_heads
                           * (job->p.n_seqs - job->p.n_decode);

        if (blocks >= (uint32_t) dev->n_sms
            && pre_smem_bytes<D, 2>(kv_scaled(TYPE)) <= pre_smem_max(dev->cc))
        {
            return pre_launch<TYPE, D, 2>(dev, job);
        }
    }
    return pre_launch<TYPE, D, 1>(dev, job);
}

template <uint32_t TYPE>
static int
pre_dispatch(const cu_dev_t *dev, const attn_job_t *job)
{
    switch (job->a.head_dim) {
    case 64:
        return pre_choose<TYPE, 64>(dev, job);
    case 80:
        return pre_launch<TYPE, 80, 1>(dev, job);
    case 96:
        return pre_launch<TYPE, 96, 1>(dev, job);
    case 128:
        return pre_choose<TYPE, 128>(dev, job);
    case 256:
        return pre_launch<TYPE, 256, 1>(dev, job);
    default:
        return INFER_UNSUPPORTED;
    }
}

#endif
