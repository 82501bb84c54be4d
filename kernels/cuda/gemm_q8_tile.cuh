/*
 * gemm_q8_tile.cuh: linears of the q8 family for any number of rows, chains in registers.
 */

#ifndef KERN_CUDA_GEMM_Q8_TILE_CUH
#define KERN_CUDA_GEMM_Q8_TILE_CUH

#include "gemm_q8.cuh"

/* A tile of a block: WM x WN warps, each MT tiles of 16 outputs x NT of 8 rows; STAGES stages of
 * 128 columns in shared memory, in which the parts of a stage follow each other; BLOCKS such blocks
 * at least fit an SM's registers.
 *
 * Scales of rows and sums for minima lie in columns of 8 rows, so that a warp that puts them there
 * 4 bytes a lane, 8 columns of 4 rows, meets each bank once: [8 rows][link][row], the halves of the
 * 8 rows traded in four of the 8 columns: of scales in stages of odd number, of sums of two links a
 * block in the second pair of blocks. */
template <int FORM, int WM_, int WN_, int MT_, int NT_, int STAGES_, int BLOCKS_>
struct Q8Tile {
    using F = Q8Form<FORM>;
    static constexpr int  form = FORM;
    static constexpr int  WM = WM_, WN = WN_, MT = MT_, NT = NT_;
    static constexpr int  STAGES = STAGES_, BLOCKS = BLOCKS_;
    /* pairs of blocks that follow each other in the code; f32 minima would spill */
    static constexpr int  PAIRS = F::min && F::t.scale == 4 && MT * NT > 4 ? 1 : 2;
    static constexpr int  tiles = WM * MT;                 /* of 16 outputs */
    static constexpr int  BM = tiles * CU_TILE, BN = WN * NT * 8;
    static constexpr int  threads = WM * WN * DEV_WARP;
    static constexpr int  pitch = Q8_KB * CU_BLOCK + 16;   /* of a row of q: no bank conflicts */
    static constexpr int  data = 0;
    static constexpr int  scale = data + tiles * F::steps * CU_STEP;
    static constexpr int  min = scale + tiles * F::scale_bytes;
    static constexpr int  q = min + (F::min ? tiles * F::scale_bytes : 0);
    static constexpr int  d = q + BN * pitch;
    static constexpr int  dsum = d + Q8_KB * BN * 4;
    static constexpr int  stage = dsum + (F::min ? F::links * BN * 4 : 0);
    static constexpr int  smem = STAGES * stage;

    static_assert(NT % 2 == 0, "fragments of rows are loaded for two tiles of 8");
    static_assert(stage % 128 == 0 && d % 128 == 0, "columns of 8 rows begin at bank 0");
    static_assert(STAGES >= 3, "one more stage is on its way while scales of two are asked for");
    static_assert(smem <= 227 * 1024, "stages fit into an SM's shared memory");
};

/* What a block reads. */
struct Q8Span {
    const uint8_t  *data, *scale, *min;    /* of its first tile */
    uint32_t        tiles;                 /* left in the matrix, from there */
    uint32_t        steps, groups;         /* of a tile */
    uint32_t        row0, n_blocks;        /* of the activations */
};

/* Where in its part of a stage a row's scale of a link lies, of LINKS; odd: halves are traded. */
template <int LINKS>
DEV_INLINE uint32_t
q8_tile_at(uint32_t row, uint32_t link, uint32_t odd)
{
    return (row / 8 * LINKS + link) * 32 + (row % 8 ^ odd * 4) * 4;
}

/* One thread's share of every stage: where its pieces lie in memory, computed once. What is beyond
 * the last tile or row is read as that one, since nothing comes of it; beyond the columns are
 * zeros. A sector has 8 scales of a row: they are loaded for two stages at once. */
template <class C>
struct Q8Loader {
    using F = typename C::F;
    static constexpr int  per = F::steps * (CU_STEP / 16);   /* pieces of a tile's stage */
    static constexpr int  sper = F::scale_bytes / 16;
    static constexpr int  qper = Q8_KB * CU_BLOCK / 16;      /* of a row's */
    static constexpr int  nd = C::tiles * per / C::threads;
    static constexpr int  ns = (C::tiles * sper + C::threads - 1) / C::threads;
    static constexpr int  nq = C::BN * qper / C::threads;
    static constexpr int  wide = 2 * Q8_KB;                  /* scales of a row at once */
    static constexpr int  arows = C::threads / wide;         /* of a piece of all threads */
    static constexpr int  na = C::BN / arows;

    static_assert(C::tiles * per % C::threads == 0 && C::BN % arows == 0 && arows % 8 == 0,
                  "every thread has as many pieces");

    uint32_t  data[nd], scale[ns];         /* in 16 bytes */
    uint32_t  q[nq];                       /* in 16 bytes */

    __device__ __forceinline__ void
    start(const cu_q8_args_t &p, const Q8Span &s)
    {
#pragma unroll
        for (int j = 0; j < nd; j++) {
            const uint32_t  i = threadIdx.x + j * C::threads;

            data[j] = min(i / per, s.tiles - 1) * s.steps * (CU_STEP / 16) + i % per;
        }
#pragma unroll
        for (int j = 0; j < ns; j++) {
            const uint32_t  i = threadIdx.x + j * C::threads;

            scale[j] = min(i / sper, s.tiles - 1) * s.groups * (F::group_bytes / 16) + i % sper;
        }
#pragma unroll
        for (int j = 0; j < nq; j++) {
            const uint32_t  i = threadIdx.x + j * C::threads;

            q[j] = min(s.row0 + i / qper, p.n - 1) * (p.n_in / 16) + i % qper;
        }
    }

    /* Begins to load the weights of stage c. */
    __device__ __forceinline__ void
    weights(unsigned char *stage, const Q8Span &s, uint32_t c) const
    {
        const uint32_t  left = (s.steps - c * F::steps) * (CU_STEP / 16);
        const uint32_t  gleft = (s.groups - c * F::subs) * (F::group_bytes / 16);

#pragma unroll
        for (int j = 0; j < nd; j++) {
            const uint32_t  i = threadIdx.x + j * C::threads;
            const bool      in = i % per < left;

            cp16(stage + C::data + i * 16,
                 s.data + (uint64_t) (in ? data[j] + c * per : 0) * 16, in);
        }
#pragma unroll
        for (int j = 0; j < ns; j++) {
            const uint32_t  i = threadIdx.x + j * C::threads;
            const bool      in = i % sper < gleft;
            const uint64_t  at = (uint64_t) (in ? scale[j] + c * sper : 0) * 16;

            if (C::tiles * sper % C::threads == 0 || i < C::tiles * sper) {
                cp16(stage + C::scale + i * 16, s.scale + at, in);
                if (F::min) {
                    cp16(stage + C::min + i * 16, s.min + at, in);
                }
            }
        }
    }

    /* Begins to load the rows of stage c, and sums of two links a block. */
    __device__ __forceinline__ void
    rows(unsigned char *stage, const cu_q8_args_t &p, const Q8Span &s, uint32_t c) const
    {
        const uint32_t  left = s.n_blocks - c * Q8_KB;

#pragma unroll
        for (int j = 0; j < nq; j++) {
            const uint32_t  i = threadIdx.x + j * C::threads;
            const bool      in = i % qper < 2 * left;

            cp16(stage + C::q + i / qper * C::pitch + i % qper * 16,
                 p.q + (uint64_t) (in ? q[j] + c * qper : 0) * 16, in);
        }
        if constexpr (F::min && F::subs == 2) {
            const uint32_t  link = threadIdx.x % wide, row = threadIdx.x / wide;

#pragma unroll
            for (int j = 0; j < na; j++) {
                const bool      in = link < 2 * left;
                const uint32_t  at = min(s.row0 + row + j * arows, p.n - 1) * s.n_blocks * 2;

                cp4(stage + C::dsum + q8_tile_at<wide>(row + j * arows, link, link / Q8_KB),
                    p.dsum + (in ? at + c * wide + link : 0), in);
            }
        }
    }

    /* Begins to load the scales of stages c, which is even, and c + 1, and sums of one link a
     * block. */
    __device__ __forceinline__ void
    scales(unsigned char *even, unsigned char *odd, const cu_q8_args_t &p, const Q8Span &s,
        uint32_t c) const
    {
        const uint32_t  block = threadIdx.x % wide, row = threadIdx.x / wide;
        unsigned char  *stage = block < Q8_KB ? even : odd;

#pragma unroll
        for (int j = 0; j < na; j++) {
            const bool      in = block < s.n_blocks - c * Q8_KB;
            const uint32_t  at = min(s.row0 + row + j * arows, p.n - 1) * s.n_blocks;
            const uint32_t  from = in ? at + c * Q8_KB + block : 0;
            const uint32_t  to = q8_tile_at<Q8_KB>(row + j * arows, block % Q8_KB, block / Q8_KB);

            cp4(stage + C::d + to, p.d + from, in);
            if constexpr (F::min && F::subs == 1) {
                cp4(stage + C::dsum + to, p.dsum + from, in);
            }
        }
    }
};

/* Chains of a warp's outputs: element i of c[mt][nt] as in an mma. */
template <class C>
struct Q8Acc {
    float  acc[C::MT][C::NT][4];
    float  min[C::F::min ? C::MT : 1][C::F::min ? C::NT : 1][4];
};

/* Block b of a pair, in a stage of odd number or not. w: steps of the warp's tiles; dw, m: scales
 * and minima of the pair's links, of rows g and g + 8. */
template <class C>
DEV_INLINE void
q8_tile_block(Q8Acc<C> &x, const unsigned char *stage, int odd, int pair, int b, const uint4 *w,
    const float (*dw)[2][4], const float (*m)[2][4], int row)
{
    using F = typename C::F;
    const int             lane = threadIdx.x % DEV_WARP, t = lane % 4, at = 2 * pair + b;
    const unsigned char  *d = stage + C::d + q8_tile_at<Q8_KB>(row + 2 * t, 0, odd);
    const unsigned char  *dsum = stage + C::dsum + q8_tile_at<F::links>(row + 2 * t, 0,
                                                                        F::subs == 2 ? pair : odd);
    uint32_t              a[C::MT][4], q[4];
    int                   s[4];

#pragma unroll
    for (int mt = 0; mt < C::MT; mt++) {
        q8_frag<C::form>(a[mt], w[mt], b);
    }

#pragma unroll
    for (int nt = 0; nt < C::NT; nt++) {
        if (nt % 2 == 0) {
            ldsm4(q, stage + C::q + (row + nt * 8 + lane / 16 * 8 + lane % 8) * C::pitch
                     + at * CU_BLOCK + lane / 8 % 2 * 16);
        }
        const uint2     da = ld8a(d + (nt * Q8_KB + at) * 32);
        const uint32_t  f[2] = { q[nt % 2 * 2], q[nt % 2 * 2 + 1] };

#pragma unroll
        for (int h = 0; h < F::subs; h++) {
            const int  i = b * F::subs + h;

#pragma unroll
            for (int mt = 0; mt < C::MT; mt++) {
                if (F::subs == 1) {
                    mma_s8_from(s, a[mt], f, F::magic);
                } else {
                    mma_s8_k16_from(s, a[mt][2 * h], a[mt][2 * h + 1], f[h], F::magic);
                }
                q8_link<C::form>(x.acc[mt][nt], s, dw[mt][0][i], dw[mt][1][i], da);
            }
            if constexpr (F::min) {
                const uint2  ds = ld8a(dsum + (nt * F::links + at * F::subs + h) * 32);

#pragma unroll
                for (int mt = 0; mt < C::MT; mt++) {
                    q8_min(x.min[mt][nt], m[mt][0][i], m[mt][1][i], ds);
                }
            }
        }
    }
}

/* A stage, of odd number or not, of the warp whose first tile and row in the block are tile and
 * row. */
template <class C>
DEV_INLINE void
q8_tile_stage(Q8Acc<C> &x, const unsigned char *stage, int odd, int tile, int row)
{
    using F = typename C::F;
    constexpr int  bytes = 2 * F::subs * F::t.scale;       /* of a pair's scales of a row */
    const int      lane = threadIdx.x % DEV_WARP, g = lane / 4;
    uint4          w[C::MT] = {};
    float          dw[C::MT][2][4] = {}, m[F::min ? C::MT : 1][2][4] = {};

#pragma unroll (C::PAIRS)
    for (int pair = 0; pair < Q8_KB / 2; pair++) {
#pragma unroll
        for (int mt = 0; mt < C::MT; mt++) {
            const int  at = (tile + mt) * F::scale_bytes + g * F::row_bytes
                            + (F::subs == 2 ? pair * F::group_bytes : pair * bytes);

            q8_scales<bytes, F::t.scale>(dw[mt][0], stage + C::scale + at);
            q8_scales<bytes, F::t.scale>(dw[mt][1], stage + C::scale + at + 8 * F::row_bytes);
            if constexpr (F::min) {
                q8_scales<bytes, F::t.scale>(m[mt][0], stage + C::min + at);
                q8_scales<bytes, F::t.scale>(m[mt][1], stage + C::min + at + 8 * F::row_bytes);
            }
        }
#pragma unroll
        for (int b = 0; b < 2; b++) {
#pragma unroll
            for (int mt = 0; mt < C::MT; mt++) {
                const int  step = F::nibbles ? pair : 2 * pair + b;

                if (!F::nibbles || b == 0) {
                    w[mt] = ld16a(stage + C::data + ((tile + mt) * F::steps + step) * CU_STEP
                                  + lane * 16);
                }
            }
            q8_tile_block<C>(x, stage, odd, pair, b, w, dw, m, row);
        }
    }
}

template <class C>
DEV_INLINE void
q8_tile_store(const Q8Acc<C> &x, const cu_q8_args_t &p, const cu_q8_part_t &part, uint32_t out0,
    uint32_t row0)
{
    const int  lane = threadIdx.x % DEV_WARP, g = lane / 4, t = lane % 4;

#pragma unroll
    for (int nt = 0; nt < C::NT; nt++) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const uint32_t  row = row0 + nt * 8 + 2 * t + (i & 1);
            float          *y = part.y + (uint64_t) row * p.ldy;

            for (int mt = 0; mt < C::MT; mt++) {
                const uint32_t  out = out0 + mt * CU_TILE + g + 8 * (i >> 1);
                float           v = x.acc[mt][nt][i];

                if (C::F::min) {
                    v += x.min[C::F::min ? mt : 0][C::F::min ? nt : 0][i];
                }
                if (row < p.n && out < part.n_out) {
                    y[out] = p.add ? y[out] + v : v;
                }
            }
        }
    }
}

/* q8_tile_k: y[r, o] (+)= chain over blocks b of sum_b(w[o] a[r]) * (dw[o, b] * da[r, b])
 * shapes   a as cu_acts_t [n, n_in]; w packed [n_out, n_in]; up to three w of one form and n_in
 * launch   (blocks of BM outputs of all matrices, blocks of BN rows) of 32 WM WN threads
 * math     equal bits to kern_linear_q8_ref
 * traffic  cu_linear_cost()     bound: DRAM for few rows, then issue slots: 3
 *          f32 operations a lane for each output and block beside an mma of 4096 products for 128
 *          outputs
 * measured H200, bench_gemm, 6144 x 4096 at 64 rows: Q4_0 22.7 us, Q8_0 25.3 us (16, 25 % of the
 *          read rate); at 2,048 450 and 435 us (229, 237 TOP/s); before pairs of blocks were
 *          unrolled, which takes instructions for an mma from 33.1 to 28.3 and 30.8 to 26.1 at 64
 *          rows, 21.3 to 19.4 and 20.3 to 18.4 at 2,048 (SASS of sm_90a). Not measured since
 * source   DESIGN.md 5; PTX ISA for fragments */
template <class C>
__global__ void __launch_bounds__(C::threads, C::BLOCKS)
q8_tile_k(const cu_q8_args_t p)
{
    using F = typename C::F;
    DYN_SMEM(smem);
    const cu_q8_part_t  &part = q8_part(p, blockIdx.x);
    const uint32_t       tile0 = (blockIdx.x - part.block0) * C::tiles;
    const int            warp = threadIdx.x / DEV_WARP;
    const int            tile = warp % C::WM * C::MT, row = warp / C::WM * C::NT * 8;
    Q8Acc<C>             x;
    Q8Span               s;
    Q8Loader<C>          load;

    s.n_blocks = p.n_in / CU_BLOCK;
    s.steps = cu_steps(F::t, p.n_in);
    s.groups = cu_groups(F::t, p.n_in);
    s.tiles = cu_tiles(part.n_out) - tile0;
    s.row0 = blockIdx.y * C::BN;
    s.data = part.data + (uint64_t) tile0 * s.steps * CU_STEP;
    s.scale = part.scale + (uint64_t) tile0 * s.groups * F::group_bytes;
    s.min = F::min ? part.min + (uint64_t) tile0 * s.groups * F::group_bytes : NULL;
    memset(&x, 0, sizeof(x));

    const uint32_t  n_stages = (s.n_blocks + Q8_KB - 1) / Q8_KB;

    /* Weights do not depend on the kernel before this one. */
    load.start(p, s);
    for (uint32_t c = 0; c < C::STAGES - 1 && c < n_stages; c++) {
        load.weights(smem + c * C::stage, s, c);
    }
    dev_wait();
    for (uint32_t c = 0; c < C::STAGES - 1; c++) {
        if (c % 2 != 0 && c - 1 < n_stages) {
            load.scales(smem + (c - 1) * C::stage, smem + c * C::stage, p, s, c - 1);
        }
        cp_commit();
        if (c < n_stages) {
            load.rows(smem + c * C::stage, p, s, c);
        }
        cp_commit();
    }

    for (uint32_t c = 0; c < n_stages; c++) {
        const uint32_t  next = c + C::STAGES - 1;
        unsigned char  *to = smem + next % C::STAGES * C::stage;

        /* the scales of stage c came with those of c + 1, before the rest of that */
        cp_wait<2 * C::STAGES - 5>();
        /* stage c is there for all, and nobody reads stage c - 1 any more */
        __syncthreads();
        if (next % 2 != 0 && next - 1 < n_stages) {
            load.scales(smem + (next - 1) % C::STAGES * C::stage, to, p, s, next - 1);
        }
        cp_commit();
        if (next < n_stages) {
            load.weights(to, s, next);
            load.rows(to, p, s, next);
        }
        cp_commit();
        q8_tile_stage<C>(x, smem + c % C::STAGES * C::stage, (int) (c % 2), tile, row);
    }
    cp_wait<0>();
    dev_launch_dependents();
    q8_tile_store<C>(x, p, part, (tile0 + tile) * CU_TILE, s.row0 + row);
}

template <class C>
static int
q8_tile_launch(const cu_dev_t *dev, cu_q8_args_t *p)
{
    p->n_blocks = 0;
    for (uint32_t i = 0; i < p->n_parts; i++) {
        p->part[i].block0 = p->n_blocks;
        p->n_blocks += (cu_tiles(p->part[i].n_out) + C::tiles - 1) / C::tiles;
    }
    return dev_launch(dev, q8_tile_k<C>, dim3(p->n_blocks, (p->n + C::BN - 1) / C::BN),
                      dim3(C::threads), C::smem, *p);
}

/* Few rows: blocks small in outputs, so that a matrix is spread over all SMs; many: large ones,
 * where they fill the device. Chains with minima need registers that large ones have not; those
 * with two scales a block spill on sm_120 where two large blocks share an SM. */
template <int FORM>
static int
q8_tile_any(const cu_dev_t *dev, cu_q8_args_t *p)
{
    using F = Q8Form<FORM>;
    uint64_t  blocks = 0;

    if (p->n <= 64) {
        return q8_tile_launch<Q8Tile<FORM, 2, 2, 1, 2, 8, 4>>(dev, p);
    }
    if constexpr (!F::min) {
        using Large = Q8Tile<FORM, 4, 2, 2, 4, 3, F::subs == 2 ? 1 : 2>;

        for (uint32_t i = 0; i < p->n_parts; i++) {
            blocks += (uint64_t) ((p->part[i].n_out + Large::BM - 1) / Large::BM)
                      * ((p->n + Large::BN - 1) / Large::BN);
        }
        if (blocks >= (uint64_t) dev->n_sms) {
            return q8_tile_launch<Large>(dev, p);
        }
    }
    return q8_tile_launch<Q8Tile<FORM, 2, 2, 2, 4, 3, F::subs == 2 ? 2 : 3>>(dev, p);
}

#endif
