/*
 * gemm_q8_split.cuh: linears of the q8 family for up to CU_SPLIT_MAX rows. A block has a tile of
 * 16 outputs. Some warps share its columns: each makes the exact sums of four links of the chains
 * at a time and puts them into shared memory. Other warps, one thread an output, run the chains
 * over them one chunk behind. So a small matrix keeps all SMs loading, and the bits are those of
 * one chain.
 *
 * With less than 8 rows an mma's 8 columns hold several links of the same rows: column j has row
 * j / SL and link j % SL; in the step of link s the activations of all other columns are zero, and
 * the steps add up. SL is 4 for 1 and 2 rows, 2 for 4 rows.
 */

#ifndef KERN_CUDA_GEMM_Q8_SPLIT_CUH
#define KERN_CUDA_GEMM_Q8_SPLIT_CUH

#include "gemm_q8.cuh"

/* COLS: most rows of activations, 1, 2, 4, 8 or 16. A chunk is one group of links for each of the
 * WARPS that make sums; up to RING chunks of weights are under way. */
template <int FORM, int COLS_>
struct Q8Split {
    using F = Q8Form<FORM>;
    static constexpr int  form = FORM, COLS = COLS_;
    static constexpr int  WARPS = COLS >= 8 ? 4 : 8;
    static constexpr int  RING = COLS == 16 && !F::nibbles ? 6 : 32 / WARPS;
    static constexpr int  SL = COLS <= 2 ? 4 : COLS == 4 ? 2 : 1;
    static constexpr int  NACC = CU_GROUP / SL;            /* accumulators of a group */
    static constexpr int  NT = COLS == 16 ? 2 : 1;         /* tiles of 8 rows */
    static constexpr int  per = CU_GROUP / F::subs;        /* blocks of a group */
    static constexpr int  steps = F::nibbles ? per / 2 : per;
    static constexpr int  KC = WARPS * per;                /* blocks of a chunk */
    static constexpr int  regs = 2 / F::subs;              /* of a link's fragment of a row */
    static constexpr int  outs = CU_TILE * COLS;           /* chains */
    static constexpr int  chains = (outs + DEV_WARP - 1) / DEV_WARP * DEV_WARP;
    static constexpr int  threads = WARPS * DEV_WARP + chains;
    static constexpr int  slot = steps * CU_STEP;          /* a warp's weights of a chunk */
    static constexpr int  scales = WARPS * F::group_bytes; /* of a chunk */
    static constexpr int  sums = WARPS * outs * 16;        /* of a chunk: [group][output][4] */
    static constexpr int  dpitch = KC * 4 + 16;            /* of a row of d: no bank conflicts */
    static constexpr int  mpitch = WARPS * 16 + 16;        /* of a row of dsum */
    static constexpr int  scale_at = RING * WARPS * slot;
    static constexpr int  min_at = scale_at + (RING + 1) * scales;
    static constexpr int  sums_at = min_at + (F::min ? (RING + 1) * scales : 0);
    static constexpr int  d_at = sums_at + 2 * sums;
    static constexpr int  dsum_at = d_at + 2 * COLS * dpitch;
    static constexpr int  smem = dsum_at + (F::min ? 2 * COLS * mpitch : 0);

    static_assert(smem <= 113 * 1024, "two blocks share an SM");
};

/* What a block reads. */
struct Q8Piece {
    const uint8_t  *data, *scale, *min;    /* of its tile */
    uint32_t        steps, groups, n_blocks, n_chunks;
};

/* Begins to load a warp's weights of chunk c; only the lane that asks for 16 bytes reads them. */
template <class C>
DEV_INLINE void
q8_split_data(unsigned char *smem, const Q8Piece &s, uint32_t c, int warp, int lane)
{
    const uint32_t  group = c * C::WARPS + warp, step = group * C::steps;
    unsigned char  *to = smem + (c % C::RING * C::WARPS + warp) * C::slot + lane * 16;
    const uint8_t  *from = s.data + (uint64_t) step * CU_STEP + lane * 16;

    if (group < s.groups) {
#pragma unroll
        for (int i = 0; i < C::steps; i++) {
            const bool  in = step + i < s.steps;

            cp16(to + i * CU_STEP, in ? from + i * CU_STEP : s.data, in);
        }
    }
}

/* Begins to load the scales of chunk c; u: thread among those of the chains. */
template <class C>
DEV_INLINE void
q8_split_scales(unsigned char *smem, const Q8Piece &s, uint32_t c, int u)
{
    using F = typename C::F;
    const uint32_t  at = c % (C::RING + 1) * C::scales;
    const uint64_t  from = (uint64_t) c * C::scales;
    const int       left = (int) (s.groups - c * C::WARPS) * F::group_bytes;

    if (c >= s.n_chunks) {
        return;
    }
    for (int i = u * 16; i < C::scales && i < left; i += C::chains * 16) {
        cp16(smem + C::scale_at + at + i, s.scale + from + i, true);
        if (F::min) {
            cp16(smem + C::min_at + at + i, s.min + from + i, true);
        }
    }
}

/* A lane's fragments of its rows and links in chunk c, of up to four accumulators. */
template <class C>
DEV_INLINE void
q8_split_rows(uint32_t q[C::NT][C::NACC][C::regs], const cu_q8_args_t &p, const Q8Piece &s,
    uint32_t c, int warp, int lane)
{
    using F = typename C::F;
    const int       g = lane / 4, t = lane % 4;
    const uint32_t  link0 = (c * C::WARPS + warp) * CU_GROUP + g % C::SL;

#pragma unroll
    for (int nt = 0; nt < C::NT; nt++) {
        const uint32_t  row = nt * 8 + g / C::SL;

#pragma unroll
        for (int a = 0; a < C::NACC; a++) {
            const uint32_t  link = link0 + a * C::SL, b = link / F::subs;
            const bool      in = row < p.n && row < C::COLS && b < s.n_blocks;
            const int8_t   *at = p.q + (uint64_t) row * p.n_in + b * CU_BLOCK + 4 * t
                                 + link % F::subs * 16;

#pragma unroll
            for (int i = 0; i < C::regs; i++) {
                q[nt][a][i] = in ? *(const uint32_t *) (const void *) (at + 16 * i) : 0;
            }
        }
    }
}

/* Where the chains find the sums of a group's links: 16 bytes at v for the output of thread v.
 * c[nt][a][i]: element i of an mma. */
template <class C>
DEV_INLINE void
q8_split_put(unsigned char *sums, const int c[C::NT][C::NACC][4], int lane)
{
    const int  g = lane / 4, t = lane % 4;
    uint32_t   f[C::NT][C::NACC][4];

#pragma unroll
    for (int i = 0; i < C::NT * C::NACC * 4; i++) {
        const int  nt = i / (C::NACC * 4), a = i / 4 % C::NACC, k = i % 4;

        f[nt][a][k] = __float_as_uint(q8_sum<C::form>(c[nt][a][k]));
    }

#pragma unroll
    for (int h = 0; h < 2; h++) {
        if constexpr (C::COLS == 1) {
            if (t < 2) {
                st8(sums + (h * 8 + g) * 16 + t * 8,
                    make_uint2(f[0][0][2 * h], f[0][0][2 * h + 1]));
            }
        } else if constexpr (C::COLS == 2) {
            st8(sums + h * 256 + lane * 8, make_uint2(f[0][0][2 * h], f[0][0][2 * h + 1]));
        } else if constexpr (C::COLS == 4) {
            st16(sums + (h * 32 + lane) * 16, make_uint4(f[0][0][2 * h], f[0][0][2 * h + 1],
                                                         f[0][1][2 * h], f[0][1][2 * h + 1]));
        } else {
#pragma unroll
            for (int i = 0; i < C::NT * 2; i++) {
                const int  nt = i / 2, e = i % 2, k = 2 * h + e;

                st16(sums + (nt * 128 + e * 64 + h * 32 + lane) * 16,
                     make_uint4(f[nt][0][k], f[nt][1][k], f[nt][2][k], f[nt][3][k]));
            }
        }
    }
}

/* Output row of the tile and row of the activations of thread v of the chains. */
template <class C>
DEV_INLINE void
q8_split_place(int v, int *out, int *row)
{
    if (C::COLS == 1) {
        *out = v;
        *row = 0;
    } else if (C::COLS == 2) {
        *out = v % 16 / 2 + v / 16 * 8;
        *row = v % 2;
    } else if (C::COLS == 4) {
        *out = v % 32 / 4 + v / 32 * 8;
        *row = v % 4;
    } else {
        *out = v % 32 / 4 + v / 32 % 2 * 8;
        *row = v / 128 * 8 + v % 4 * 2 + v / 64 % 2;
    }
}

/* A warp's sums of chunk c from its weights and rows. */
template <class C>
DEV_INLINE void
q8_split_sums(unsigned char *sums, const unsigned char *data, uint32_t q[C::NT][C::NACC][C::regs],
    int lane)
{
    using F = typename C::F;
    const int  slot = lane / 4 % C::SL;
    const bool on = lane / 4 / C::SL < C::COLS;
    uint4      w = make_uint4(0, 0, 0, 0);
    uint32_t   a[4] = {}, f[2];
    int        c[C::NT][C::NACC][4];

#pragma unroll
    for (int k = 0; k < CU_GROUP; k++) {
        const int  b = k / F::subs, i = k / C::SL;

        if (k % F::subs == 0) {
            if (!F::nibbles || b % 2 == 0) {
                w = ld16a(data + (F::nibbles ? b / 2 : b) * CU_STEP + lane * 16);
            }
            q8_frag<C::form>(a, w, b);
        }
#pragma unroll
        for (int nt = 0; nt < C::NT; nt++) {
            const bool  mine = C::SL == 1 || (on && slot == k % C::SL);

            f[0] = mine ? q[nt][i][0] : 0;
            f[1] = mine ? q[nt][i][C::regs - 1] : 0;
            if (F::subs == 2) {
                const int  h = k % 2;

                if (k % C::SL == 0) {
                    mma_s8_k16_from(c[nt][i], a[2 * h], a[2 * h + 1], f[0], F::magic);
                } else {
                    mma_s8_k16(c[nt][i], a[2 * h], a[2 * h + 1], f[0]);
                }
            } else if (k % C::SL == 0) {
                mma_s8_from(c[nt][i], a, f, F::magic);
            } else {
                mma_s8(c[nt][i], a, f);
            }
        }
    }
    q8_split_put<C>(sums, c, lane);
}

/* d, or for minima sums, of a thread's share of chunk c: from global memory to v, and from v to
 * shared memory one chunk later. links: of a row in a chunk; subs: of a block. */
template <class C, int LINKS, int SUBS>
struct Q8Part {
    static constexpr int  n = (C::COLS * LINKS + C::chains - 1) / C::chains;
    float                 v[n];

    __device__ __forceinline__ void
    load(const float *src, const cu_q8_args_t &p, const Q8Piece &s, uint32_t c, int u)
    {
#pragma unroll
        for (int i = 0; i < n; i++) {
            const uint32_t  at = u + i * C::chains, r = at / LINKS, k = c * LINKS + at % LINKS;
            const bool      in = r < p.n && r < C::COLS && k < s.n_blocks * SUBS;

            v[i] = in ? src[(uint64_t) r * s.n_blocks * SUBS + k] : 0;
        }
    }

    __device__ __forceinline__ void
    store(unsigned char *to, int pitch, int u) const
    {
#pragma unroll
        for (int i = 0; i < n; i++) {
            const int  at = u + i * C::chains;

            if (at < C::COLS * LINKS) {
                *(float *) (void *) (to + at / LINKS * pitch + at % LINKS * 4) = v[i];
            }
        }
    }
};

/* The chain of thread u's output over n groups of a chunk. */
template <class C>
DEV_INLINE void
q8_split_chain(float &acc, float &min, const unsigned char *smem, uint32_t c, int n, int u, int out,
    int row)
{
    using F = typename C::F;
    const uint32_t        ring = c % (C::RING + 1) * C::scales + out * F::row_bytes;
    const unsigned char  *sums = smem + C::sums_at + c % 2 * C::sums + u * 16;
    const unsigned char  *d = smem + C::d_at + c % 2 * (C::COLS * C::dpitch) + row * C::dpitch;
    const unsigned char  *ds = smem + C::dsum_at + c % 2 * (C::COLS * C::mpitch)
                               + row * C::mpitch;

#pragma unroll 4
    for (int i = 0; i < n; i++) {
        float  f[CU_GROUP], dw[CU_GROUP], da[CU_GROUP];

        q8_scales<16, 4>(f, sums + i * (C::outs * 16));
        q8_scales<F::row_bytes, F::t.scale>(dw, smem + C::scale_at + ring + i * F::group_bytes);
        q8_scales<16 / F::subs, 4>(da, d + i * (16 / F::subs));
#pragma unroll
        for (int k = 0; k < CU_GROUP; k++) {
            acc = fmaf(f[k], dw[k] * da[k / F::subs], acc);
        }
        if constexpr (F::min) {
            q8_scales<F::row_bytes, F::t.scale>(dw, smem + C::min_at + ring + i * F::group_bytes);
            q8_scales<16, 4>(da, ds + i * 16);
#pragma unroll
            for (int k = 0; k < CU_GROUP; k++) {
                min = fmaf(dw[k], da[k], min);
            }
        }
    }
}

/* A warp that makes sums. */
template <class C>
struct Q8Producer {
    uint32_t  q[C::NT][C::NACC][C::regs], next[C::NT][C::NACC][C::regs];

    __device__ __forceinline__ void
    start(unsigned char *smem, const cu_q8_args_t &p, const Q8Piece &s, int warp, int lane)
    {
        /* weights do not depend on the kernel before this one */
        for (uint32_t c = 0; c < C::RING; c++) {
            q8_split_data<C>(smem, s, c, warp, lane);
            cp_commit();
        }
        dev_wait();
        q8_split_rows<C>(q, p, s, 0, warp, lane);
    }

    /* Sums of chunk c. */
    __device__ __forceinline__ void
    run(unsigned char *smem, const cu_q8_args_t &p, const Q8Piece &s, uint32_t c, int warp,
        int lane)
    {
        q8_split_rows<C>(next, p, s, c + 1, warp, lane);
        cp_wait<C::RING - 1>();
        if (c * C::WARPS + warp < s.groups) {
            q8_split_sums<C>(smem + C::sums_at + c % 2 * C::sums + warp * (C::outs * 16),
                             smem + (c % C::RING * C::WARPS + warp) * C::slot, q, lane);
        }
        q8_split_data<C>(smem, s, c + C::RING, warp, lane);
        cp_commit();
        memcpy(q, next, sizeof(q));
    }
};

/* Thread u of the chains. */
template <class C>
struct Q8Consumer {
    using F = typename C::F;
    int                                      out, row;
    float                                    acc, min;
    Q8Part<C, C::KC, 1>                      d;
    Q8Part<C, C::WARPS * CU_GROUP, F::subs>  ds;

    __device__ __forceinline__ void
    start(unsigned char *smem, const cu_q8_args_t &p, const Q8Piece &s, int u)
    {
        acc = min = 0;
        q8_split_place<C>(u, &out, &row);
        for (uint32_t c = 0; c < C::RING; c++) {
            q8_split_scales<C>(smem, s, c, u);
            cp_commit();
        }
        dev_wait();
        d.load(p.d, p, s, 0, u);
        if constexpr (F::min) {
            ds.load(p.dsum, p, s, 0, u);
        }
    }

    /* Chains of chunk c - 1; d of chunk c into shared memory. */
    __device__ __forceinline__ void
    run(unsigned char *smem, const cu_q8_args_t &p, const Q8Piece &s, uint32_t c, int u)
    {
        d.store(smem + C::d_at + c % 2 * (C::COLS * C::dpitch), C::dpitch, u);
        d.load(p.d, p, s, c + 1, u);
        if constexpr (F::min) {
            ds.store(smem + C::dsum_at + c % 2 * (C::COLS * C::mpitch), C::mpitch, u);
            ds.load(p.dsum, p, s, c + 1, u);
        }
        if (c > 0 && u < C::outs) {
            q8_split_chain<C>(acc, min, smem, c - 1, C::WARPS, u, out, row);
        }
        cp_wait<C::RING - 1>();
    }

    /* The last chunk, and the result. */
    __device__ __forceinline__ void
    end(unsigned char *smem, const cu_q8_args_t &p, const Q8Piece &s, const cu_q8_part_t &part,
        uint32_t tile, int u)
    {
        const uint32_t  c = s.n_chunks - 1, o = tile * CU_TILE + out;

        if (u >= C::outs) {
            return;
        }
        q8_split_chain<C>(acc, min, smem, c, (int) (s.groups - c * C::WARPS), u, out, row);
        if (row < (int) p.n && o < part.n_out) {
            float  *y = part.y + (uint64_t) row * p.ldy + o;

            acc = F::min ? acc + min : acc;
            *y = p.add ? *y + acc : acc;
        }
    }
};

/* q8_split_k: as q8_tile_k, for n <= COLS
 * launch   (tiles of 16 outputs of all matrices) of WARPS warps for sums, the others for chains
 * math     equal bits to kern_linear_q8_ref
 * traffic  cu_linear_cost()     bound: DRAM; 32 KB of nibbles or 64 KB of bytes are under way in
 *          each of two or more blocks of an SM
 * measured not measured
 * source   DESIGN.md 5 */
template <class C>
__global__ void __launch_bounds__(C::threads)
q8_split_k(const cu_q8_args_t p)
{
    using F = typename C::F;
    DYN_SMEM(smem);
    const cu_q8_part_t  &part = q8_part(p, blockIdx.x);
    const uint32_t       tile = blockIdx.x - part.block0;
    const int            warp = threadIdx.x / DEV_WARP, lane = threadIdx.x % DEV_WARP;
    const int            u = (int) threadIdx.x - C::WARPS * DEV_WARP;
    Q8Piece              s;
    Q8Producer<C>        make = {};
    Q8Consumer<C>        chain = {};

    s.n_blocks = p.n_in / CU_BLOCK;
    s.steps = cu_steps(F::t, p.n_in);
    s.groups = cu_groups(F::t, p.n_in);
    s.n_chunks = (s.groups + C::WARPS - 1) / C::WARPS;
    s.data = part.data + (uint64_t) tile * s.steps * CU_STEP;
    s.scale = part.scale + (uint64_t) tile * s.groups * F::group_bytes;
    s.min = F::min ? part.min + (uint64_t) tile * s.groups * F::group_bytes : NULL;

    dev_launch_dependents();
    if (u < 0) {
        make.start(smem, p, s, warp, lane);
    } else {
        chain.start(smem, p, s, u);
    }
    for (uint32_t c = 0; c < s.n_chunks; c++) {
        if (u < 0) {
            make.run(smem, p, s, c, warp, lane);
        } else {
            chain.run(smem, p, s, c, u);
        }
        /* sums, scales and d of chunk c are there for all chains; these are done with what they
         * need of chunk c - 1 */
        __syncthreads();
        if (u >= 0) {
            q8_split_scales<C>(smem, s, c + C::RING, u);
            cp_commit();
        }
    }
    cp_wait<0>();
    if (u >= 0) {
        chain.end(smem, p, s, part, tile, u);
    }
}

template <class C>
static int
q8_split_launch(const cu_dev_t *dev, cu_q8_args_t *p)
{
    p->n_blocks = 0;
    for (uint32_t i = 0; i < p->n_parts; i++) {
        p->part[i].block0 = p->n_blocks;
        p->n_blocks += cu_tiles(p->part[i].n_out);
    }
    return dev_launch(dev, q8_split_k<C>, dim3(p->n_blocks), dim3(C::threads), C::smem, *p);
}

/* More than 8 rows not with two scales a block. */
template <int FORM>
static int
q8_split_any(const cu_dev_t *dev, cu_q8_args_t *p)
{
    if constexpr (Q8Form<FORM>::subs == 1) {
        if (p->n > 8) {
            return q8_split_launch<Q8Split<FORM, 16>>(dev, p);
        }
    }
    return p->n == 1 ? q8_split_launch<Q8Split<FORM, 1>>(dev, p)
           : p->n == 2 ? q8_split_launch<Q8Split<FORM, 2>>(dev, p)
           : p->n <= 4 ? q8_split_launch<Q8Split<FORM, 4>>(dev, p)
           : q8_split_launch<Q8Split<FORM, 8>>(dev, p);
}

#endif
