/*
 * gemm_q8_split.cuh: linears of the q8 family for up to CU_SPLIT_MAX rows. Eight warps of a block
 * share the columns of one tile of 16 outputs and put exact sums of blocks into shared memory;
 * other warps, one thread an output, run the chains over them one chunk behind. So a small matrix
 * keeps all SMs loading, and the bits are those of one chain.
 */

#ifndef KERN_CUDA_GEMM_Q8_SPLIT_CUH
#define KERN_CUDA_GEMM_Q8_SPLIT_CUH

#include "gemm_q8.cuh"

#define SPLIT_WARPS  8                     /* that make sums */
#define SPLIT_SMEM   (100 << 10)           /* so that two blocks share an SM */

/* COLS: most rows of activations, 1, 2, 4 or 8. A chunk is KC blocks of columns; STAGES of them are
 * in shared memory, the parts of one follow each other. */
template <int FORM, int COLS_>
struct Q8Split {
    using F = Q8Form<FORM>;
    static constexpr int  form = FORM, COLS = COLS_;
    static constexpr int  KC = COLS >= 4 ? 16 : 32;
    static constexpr int  per = KC / SPLIT_WARPS;          /* blocks of a warp */
    static constexpr int  outs = CU_TILE * COLS;           /* chains */
    static constexpr int  lanes = COLS / 2;                /* t below it have sums of use */
    static constexpr int  chains = (outs + DEV_WARP - 1) / DEV_WARP * DEV_WARP;
    static constexpr int  threads = SPLIT_WARPS * DEV_WARP + chains;
    static constexpr int  links = KC * F::subs, groups = links / CU_GROUP;
    static constexpr int  steps = F::nibbles ? KC / 2 : KC;
    static constexpr int  pitch = KC * CU_BLOCK + 16;      /* of a row of q: no bank conflicts */
    static constexpr int  dpitch = KC * 4 + 16;            /* of a row of d */
    static constexpr int  mpitch = links * 4 + 16;         /* of a row of dsum */
    static constexpr int  data = 0;
    static constexpr int  scale = data + steps * CU_STEP;
    static constexpr int  min = scale + groups * F::group_bytes;
    static constexpr int  q = min + (F::min ? groups * F::group_bytes : 0);
    static constexpr int  d = q + COLS * pitch;
    static constexpr int  dsum = d + COLS * dpitch;
    static constexpr int  stage = dsum + (F::min ? COLS * mpitch : 0);
    static constexpr int  sums = links * outs * 4;         /* of a chunk; two of them */
    static constexpr int  fit = (SPLIT_SMEM - 2 * sums) / stage;
    static constexpr int  STAGES = fit > 6 ? 6 : fit < 3 ? 3 : fit;
    static constexpr int  smem = STAGES * stage + 2 * sums;

    static_assert(stage % 16 == 0 && sums % 16 == 0, "parts begin at 16 bytes");
    static_assert(smem <= 227 * 1024, "fits into an SM's shared memory");
};

/* What a block reads. */
struct Q8Piece {
    const uint8_t  *data, *scale, *min;    /* of its tile */
    uint32_t        steps, groups, n_blocks;
};

/* Begins to load the weights of chunk c. */
template <class C>
DEV_INLINE void
q8_split_weights(unsigned char *stage, const Q8Piece &s, uint32_t c)
{
    using F = typename C::F;
    const int       left = (int) (s.steps - c * C::steps) * (CU_STEP / 16);
    const int       gleft = (int) (s.groups - c * C::groups) * (F::group_bytes / 16);
    const uint8_t  *data = s.data + (uint64_t) c * C::steps * CU_STEP;
    const uint64_t  at = (uint64_t) c * C::groups * F::group_bytes;

    for (int i = threadIdx.x; i < C::steps * (CU_STEP / 16); i += C::threads) {
        cp16(stage + C::data + i * 16, i < left ? data + i * 16 : s.data, i < left);
    }
    for (int i = threadIdx.x; i < C::groups * F::group_bytes / 16; i += C::threads) {
        const bool  in = i < gleft;

        cp16(stage + C::scale + i * 16, in ? s.scale + at + i * 16 : s.scale, in);
        if (F::min) {
            cp16(stage + C::min + i * 16, in ? s.min + at + i * 16 : s.min, in);
        }
    }
}

/* Rows of activations of chunk c; WAIT: they are there on return (for this thread), so that they
 * need not wait for weights that were asked for earlier. */
template <class C, bool WAIT>
DEV_INLINE void
q8_split_acts(unsigned char *stage, const cu_q8_args_t &p, const Q8Piece &s, uint32_t c)
{
    using F = typename C::F;
    constexpr int   per = C::KC * CU_BLOCK / 16;
    const int       left = (int) (s.n_blocks - c * C::KC);
    const uint64_t  nb = s.n_blocks;

    for (int i = threadIdx.x; i < C::COLS * per; i += C::threads) {
        const int   r = i / per, k = i % per;
        const bool  in = r < (int) p.n && k < 2 * left;
        const void *src = in ? p.q + (r * nb + c * C::KC) * CU_BLOCK + k * 16 : p.q;

        if (WAIT) {
            st16(stage + C::q + r * C::pitch + k * 16, in ? ld16a(src) : make_uint4(0, 0, 0, 0));
        } else {
            cp16(stage + C::q + r * C::pitch + k * 16, src, in);
        }
    }
    for (int i = threadIdx.x; i < C::COLS * C::KC; i += C::threads) {
        const int     r = i / C::KC, k = i % C::KC;
        const bool    in = r < (int) p.n && k < left;
        const float  *src = in ? p.d + r * nb + c * C::KC + k : p.d;

        if (WAIT) {
            *(float *) (void *) (stage + C::d + r * C::dpitch + k * 4) = in ? *src : 0;
        } else {
            cp4(stage + C::d + r * C::dpitch + k * 4, src, in);
        }
    }
    if constexpr (F::min) {
        for (int i = threadIdx.x; i < C::COLS * C::links; i += C::threads) {
            const int     r = i / C::links, k = i % C::links;
            const bool    in = r < (int) p.n && k < left * F::subs;
            const float  *src = in ? p.dsum + (r * nb + c * C::KC) * F::subs + k : p.dsum;

            if (WAIT) {
                *(float *) (void *) (stage + C::dsum + r * C::mpitch + k * 4) = in ? *src : 0;
            } else {
                cp4(stage + C::dsum + r * C::mpitch + k * 4, src, in);
            }
        }
    }
}

/* Sums of a link that are of use, from a lane to where chains find them. */
template <class C>
DEV_INLINE void
q8_split_put(float *sums, int link, const int s[4])
{
    const int  lane = threadIdx.x % DEV_WARP, g = lane / 4, t = lane % 4;

    if (C::COLS == 1) {
        if (t == 0) {
            sums[link * C::outs + g] = q8_sum<C::form>(s[0]);
            sums[link * C::outs + g + 8] = q8_sum<C::form>(s[2]);
        }
    } else if (t < C::lanes) {
        st16(sums + link * C::outs + (g * C::lanes + t) * 4,
             make_uint4(__float_as_uint(q8_sum<C::form>(s[0])),
                        __float_as_uint(q8_sum<C::form>(s[1])),
                        __float_as_uint(q8_sum<C::form>(s[2])),
                        __float_as_uint(q8_sum<C::form>(s[3]))));
    }
}

/* A warp's blocks of a chunk. */
template <class C>
DEV_INLINE void
q8_split_sums(float *sums, const unsigned char *stage)
{
    using F = typename C::F;
    const int  lane = threadIdx.x % DEV_WARP, warp = threadIdx.x / DEV_WARP;
    const int  row = C::COLS == 8 ? lane % 8 : lane % C::COLS;
    uint4      w = make_uint4(0, 0, 0, 0);
    uint32_t   a[4], q[4];
    int        s[4];

#pragma unroll
    for (int i = 0; i < C::per; i++) {
        const int  b = warp * C::per + i;

        if (i % 2 == 0) {                  /* two blocks of all rows */
            ldsm4(q, stage + C::q + row * C::pitch + b * CU_BLOCK + lane / 8 * 16);
        }
        if (!F::nibbles || i % 2 == 0) {
            w = ld16a(stage + C::data + (F::nibbles ? b / 2 : b) * CU_STEP + lane * 16);
        }
        q8_frag<C::form>(a, w, i);
        if (F::subs == 1) {
            const uint32_t  f[2] = { q[i % 2 * 2], q[i % 2 * 2 + 1] };

            mma_s8_from(s, a, f, F::magic);
            q8_split_put<C>(sums, b, s);
        } else {
            mma_s8_k16_from(s, a[0], a[1], q[i % 2 * 2], F::magic);
            q8_split_put<C>(sums, 2 * b, s);
            mma_s8_k16_from(s, a[2], a[3], q[i % 2 * 2 + 1], F::magic);
            q8_split_put<C>(sums, 2 * b + 1, s);
        }
    }
}

/* The chain of thread u's output, row of the tile and col of the activations, over n groups. */
template <class C>
DEV_INLINE void
q8_split_chain(float &acc, float &min, const float *sums, const unsigned char *stage, int u,
    int row, int col, int n)
{
    using F = typename C::F;

#pragma unroll 4
    for (int i = 0; i < n; i++) {
        const int  at = i * F::group_bytes + row * F::row_bytes;
        float      dw[CU_GROUP], da[CU_GROUP];

        q8_scales<F::row_bytes, F::t.scale>(dw, stage + C::scale + at);
        q8_scales<16 / F::subs, 4>(da, stage + C::d + col * C::dpitch + i * (16 / F::subs));
#pragma unroll
        for (int k = 0; k < CU_GROUP; k++) {
            acc = fmaf(sums[(i * CU_GROUP + k) * C::outs + u], dw[k] * da[k / F::subs], acc);
        }
        if constexpr (F::min) {
            float  m[CU_GROUP], ds[CU_GROUP];

            q8_scales<F::row_bytes, F::t.scale>(m, stage + C::min + at);
            q8_scales<16, 4>(ds, stage + C::dsum + col * C::mpitch + i * 16);
#pragma unroll
            for (int k = 0; k < CU_GROUP; k++) {
                min = fmaf(m[k], ds[k], min);
            }
        }
    }
}

/* q8_split_k: as q8_tile_k, for n <= COLS
 * launch   (tiles of 16 outputs of all matrices) of 256 threads for sums and 32 .. 128 for chains
 * math     equal bits to kern_linear_q8_ref
 * traffic  cu_linear_cost()     bound: DRAM; up to STAGES chunks of 16 x 512 or 16 x 1024 values
 *          are under way in each of two or more blocks of an SM
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
    const int            u = (int) threadIdx.x - SPLIT_WARPS * DEV_WARP;
    const int            g = u / 4 / (C::COLS == 1 ? 1 : C::lanes);
    const int            row = C::COLS == 1 ? u : g + u % 4 / 2 * 8;
    const int            col = C::COLS == 1 ? 0 : u / 4 % (C::COLS == 1 ? 1 : C::lanes) * 2 + u % 2;
    float               *sums = (float *) (void *) (smem + C::STAGES * C::stage);
    float                acc = 0, min = 0;
    Q8Piece              s;

    s.n_blocks = p.n_in / CU_BLOCK;
    s.steps = cu_steps(F::t, p.n_in);
    s.groups = cu_groups(F::t, p.n_in);
    s.data = part.data + (uint64_t) tile * s.steps * CU_STEP;
    s.scale = part.scale + (uint64_t) tile * s.groups * F::group_bytes;
    s.min = F::min ? part.min + (uint64_t) tile * s.groups * F::group_bytes : NULL;

    const uint32_t  n_chunks = (s.n_blocks + C::KC - 1) / C::KC;

    /* Weights do not depend on the kernel before this one. */
    for (uint32_t c = 0; c < C::STAGES; c++) {
        if (c < n_chunks) {
            q8_split_weights<C>(smem + c * C::stage, s, c);
        }
        cp_commit();
    }
    dev_wait();
    dev_launch_dependents();
    for (uint32_t c = 0; c < C::STAGES && c < n_chunks; c++) {
        q8_split_acts<C, true>(smem + c * C::stage, p, s, c);
    }

    for (uint32_t c = 0; c <= n_chunks; c++) {
        const uint32_t  next = c + C::STAGES - 2, last = c - 1;

        if (c == 0) {
            cp_wait<C::STAGES - 1>();
        } else if (c == 1) {
            cp_wait<C::STAGES - 2>();
        } else {
            cp_wait<C::STAGES - 3>();
        }
        /* chunk c and the sums of chunk c - 1 are there for all; nobody reads chunk c - 2 or its
         * sums any more */
        __syncthreads();
        if (c >= 2) {
            if (next < n_chunks) {
                unsigned char  *to = smem + next % C::STAGES * C::stage;

                q8_split_weights<C>(to, s, next);
                q8_split_acts<C, false>(to, p, s, next);
            }
            cp_commit();
        }
        if (u < 0) {
            /* whole groups, as the chains take them */
            if ((c * C::KC + threadIdx.x / DEV_WARP * C::per) * F::subs < s.groups * CU_GROUP) {
                q8_split_sums<C>(sums + c % 2 * (C::sums / 4), smem + c % C::STAGES * C::stage);
            }
        } else if (c > 0 && u < C::outs) {
            const uint32_t  left = s.groups - last * C::groups;

            q8_split_chain<C>(acc, min, sums + last % 2 * (C::sums / 4),
                              smem + last % C::STAGES * C::stage, u, row, col,
                              left < C::groups ? (int) left : C::groups);
        }
    }
    cp_wait<0>();

    const uint32_t  out = tile * CU_TILE + row;

    if (u >= 0 && u < C::outs && col < (int) p.n && out < part.n_out) {
        float  *y = part.y + (uint64_t) col * p.ldy + out;

        acc = F::min ? acc + min : acc;
        *y = p.add ? *y + acc : acc;
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

template <int FORM>
static int
q8_split_rows(const cu_dev_t *dev, cu_q8_args_t *p)
{
    return p->n == 1 ? q8_split_launch<Q8Split<FORM, 1>>(dev, p)
           : p->n == 2 ? q8_split_launch<Q8Split<FORM, 2>>(dev, p)
           : p->n <= 4 ? q8_split_launch<Q8Split<FORM, 4>>(dev, p)
           : q8_split_launch<Q8Split<FORM, 8>>(dev, p);
}

#endif
