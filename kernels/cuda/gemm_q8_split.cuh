/*
 * gemm_q8_split.cuh: linears of the q8 family for up to CU_SPLIT_MAX rows. A block has a tile of
 * 16 outputs. Some warps share its columns: each makes the exact sums of four links of the chains
 * at a time and puts them into shared memory. Other warps, one thread an output, run the chains
 * over them one chunk behind. So a small matrix keeps all SMs loading, and the bits are those of
 * one chain.
 *
 * With less than 8 rows an mma's 8 columns hold several links of the same rows: column j has row
 * j / SL and the (j % SL)-th of SL links; in the step of a link the activations of all other
 * columns are zero, and the steps add up. SL is 4 for 1 and 2 rows, 2 for 4 rows.
 */

#ifndef KERN_CUDA_GEMM_Q8_SPLIT_CUH
#define KERN_CUDA_GEMM_Q8_SPLIT_CUH

#include "gemm_q8.cuh"

/* Where a row of activations lies in a ring of those of a chunk, a warp's of q or all chains' of
 * scales or sums, so that neither who puts them there nor who reads them meets a bank twice: two or
 * four rows of 64 bytes fill all banks in twos, else 16 bytes are left after each. */
static CU_BOTH constexpr uint32_t
q8_split_row_at(int bytes, int cols, uint32_t row)
{
    return bytes == 64 && (cols == 2 || cols == 4) ? row * 64 + row / 2 * 16 : row * (bytes + 16);
}

/* COLS: most rows of activations, 1, 2, 4, 8 or 16. A chunk is one group of links for each of the
 * WARPS that make sums; up to RING chunks of weights are under way. */
template <int FORM, int COLS_>
struct Q8Split {
    using F = Q8Form<FORM>;
    static constexpr int  form = FORM, COLS = COLS_;
    static constexpr int  WARPS = COLS >= 8 ? 4 : 8;
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
    static constexpr int  qrow = per * CU_BLOCK;           /* of a warp's rows of a chunk */
    static constexpr int  qslot = q8_split_row_at(qrow, COLS, COLS);
    static constexpr int  pieces = COLS * per * 2;         /* of these, 16 bytes each */
    /* of a chunk; eight lanes load half of the banks of two chunks, or all of one */
    static constexpr int  qgap = pieces < 8 ? 64 : 0, qchunk = WARPS * qslot + qgap;
    static constexpr int  scales = WARPS * F::group_bytes; /* of a chunk */
    static constexpr int  sums = WARPS * outs * 16;        /* of a chunk: [group][output][4] */
    static constexpr int  drow = KC * 4, mrow = WARPS * 16;    /* of a row of d, of dsum */
    static constexpr int  dslot = q8_split_row_at(drow, COLS, COLS);
    static constexpr int  mslot = F::min ? q8_split_row_at(mrow, COLS, COLS) : 0;
    static constexpr int  chunk = WARPS * slot + qchunk + (F::min ? 2 : 1) * scales
                                  + dslot + mslot;
    static constexpr int  fit = ((100 << 10) - 2 * sums) / chunk - 1;
    static constexpr int  RING = fit < 32 / WARPS ? fit : 32 / WARPS;
    static constexpr int  q_at = RING * WARPS * slot;
    static constexpr int  scale_at = q_at + RING * qchunk;
    static constexpr int  min_at = scale_at + (RING + 1) * scales;
    static constexpr int  d_at = min_at + (F::min ? (RING + 1) * scales : 0);
    static constexpr int  dsum_at = d_at + (RING + 1) * dslot;
    static constexpr int  sums_at = dsum_at + (RING + 1) * mslot;
    static constexpr int  smem = sums_at + 2 * sums;

    static_assert(RING >= 2 && smem <= 113 * 1024, "two blocks share an SM");
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
    const int       n = left < C::scales ? left : C::scales;

    if (c >= s.n_chunks) {
        return;
    }
#pragma unroll
    for (int j = 0; j < C::scales; j += C::chains * 16) {
        const int  i = j + u * 16;

        if (i < n) {
            cp16(smem + C::scale_at + at + i, s.scale + from + i, true);
            if (F::min) {
                cp16(smem + C::min_at + at + i, s.min + from + i, true);
            }
        }
    }
}

/* The j-th row to be loaded, where N are loaded at once: a row's pitch has 16 bytes more than what
 * 1 / N of the banks hold, so that rows 8 / N apart fill all of them and neighbours do not. */
template <class C, int N>
DEV_INLINE uint32_t
q8_split_row(uint32_t j)
{
    return C::COLS < 8 ? j : (j & ~7) | j % N * (8 / N) | j % 8 / N;
}

/* Where a warp's rows are, of the chunk in that place of the ring. */
template <class C>
DEV_INLINE int
q8_split_q_at(uint32_t slot, int warp)
{
    return C::q_at + (int) (slot * C::WARPS + warp) * C::qslot + (int) slot * C::qgap;
}

/* Piece i of a warp's rows in chunk c: where from, where to, and whether there is such a thing. */
template <class C>
DEV_INLINE bool
q8_split_piece(const cu_q8_args_t &p, const Q8Piece &s, uint32_t c, int warp, int i,
    const int8_t **from, int *to)
{
    constexpr int   n = C::per * 2;                        /* of a row */
    const uint32_t  row = q8_split_row<C, 8 / n>(i / n), at = (c * C::WARPS + warp) * n + i % n;
    const bool      in = row < p.n && at < s.n_blocks * 2;

    *from = p.q + (in ? (uint64_t) row * p.n_in + at * 16 : 0);
    *to = q8_split_q_at<C>(c % C::RING, warp)
          + (int) q8_split_row_at(C::qrow, C::COLS, row) + i % n * 16;
    return in;
}

/* Begins to load a warp's rows of chunk c. */
template <class C>
DEV_INLINE void
q8_split_rows(unsigned char *smem, const cu_q8_args_t &p, const Q8Piece &s, uint32_t c, int warp,
    int lane)
{
    const int8_t  *from;
    int            to;

#pragma unroll
    for (int i = lane; i < C::pieces; i += DEV_WARP) {
        const bool  in = q8_split_piece<C>(p, s, c, warp, i, &from, &to);

        cp16(smem + to, from, in);
    }
}

/* The same of the first RING chunks, there at once: a cp.async would be waited for together with
 * the weights asked for before it. */
template <class C>
DEV_INLINE void
q8_split_rows_first(unsigned char *smem, const cu_q8_args_t &p, const Q8Piece &s, int warp,
    int lane)
{
    const int8_t  *from;
    int            to;

#pragma unroll 4
    for (int k = lane; k < C::RING * C::pieces; k += DEV_WARP) {
        const bool  in = q8_split_piece<C>(p, s, k / C::pieces, warp, k % C::pieces, &from, &to);

        st16(smem + to, in ? ld16a(from) : make_uint4(0, 0, 0, 0));
    }
}

/* Registers of the fragments of a group's links that are in this lane's column: link i + SL a, with
 * two links in a column 2 i + a. */
template <class C>
DEV_INLINE void
q8_split_frags(uint32_t q[C::NT][C::NACC][C::regs], const unsigned char *rows, int lane)
{
    const int  g = lane / 4, t = lane % 4, i = g % C::SL;
    const int  row = C::COLS < 8 ? g / C::SL % C::COLS : g;

#pragma unroll
    for (int nt = 0; nt < C::NT; nt++) {
#pragma unroll
        for (int a = 0; a < C::NACC; a++) {
            const int  link = C::SL == 2 ? 2 * i + a : C::SL == 4 ? i : a;

#pragma unroll
            for (int k = 0; k < C::regs; k++) {
                q[nt][a][k] = *(const uint32_t *) (const void *) (rows
                              + q8_split_row_at(C::qrow, C::COLS, nt * 8 + row)
                              + (link * C::regs + k) * 16 + 4 * t);
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
            st16(sums + (h * 32 + lane) * 16, make_uint4(f[0][0][2 * h], f[0][1][2 * h],
                                                         f[0][0][2 * h + 1], f[0][1][2 * h + 1]));
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
q8_split_sums(unsigned char *sums, const unsigned char *data, const unsigned char *rows, int lane)
{
    using F = typename C::F;
    const int  slot = lane / 4 % C::SL;
    const bool on = lane / 4 / C::SL < C::COLS;
    uint4      w = make_uint4(0, 0, 0, 0);
    uint32_t   q[C::NT][C::NACC][C::regs], a[4] = {}, f[2];
    int        c[C::NT][C::NACC][4];

    q8_split_frags<C>(q, rows, lane);

#pragma unroll
    for (int k = 0; k < CU_GROUP; k++) {
        const int  b = k / F::subs;
        const int  i = C::SL == 2 ? k % 2 : k / C::SL;     /* accumulator, and place in it */
        const int  at = C::SL == 2 ? k / 2 : k % C::SL;

        if (k % F::subs == 0) {
            if (!F::nibbles || b % 2 == 0) {
                w = ld16a(data + (F::nibbles ? b / 2 : b) * CU_STEP + lane * 16);
            }
            q8_frag<C::form>(a, w, b);
        }
#pragma unroll
        for (int nt = 0; nt < C::NT; nt++) {
            const bool  mine = C::SL == 1 || (on && slot == at);

            f[0] = mine ? q[nt][i][0] : 0;
            f[1] = mine ? q[nt][i][C::regs - 1] : 0;
            if (F::subs == 2) {
                const int  h = k % 2;

                if (at == 0) {
                    mma_s8_k16_from(c[nt][i], a[2 * h], a[2 * h + 1], f[0], F::magic);
                } else {
                    mma_s8_k16(c[nt][i], a[2 * h], a[2 * h + 1], f[0]);
                }
            } else if (at == 0) {
                mma_s8_from(c[nt][i], a, f, F::magic);
            } else {
                mma_s8(c[nt][i], a, f);
            }
        }
    }
    q8_split_put<C>(sums, c, lane);
}

/* d of chunk c, or sums for minima, LINKS of a row in a chunk and SUBS of a block, into the ring at
 * `at`; WAIT: they are there at once, for this thread. */
template <class C, int LINKS, int SUBS, bool WAIT>
DEV_INLINE void
q8_split_floats(unsigned char *smem, int at, const float *src, const cu_q8_args_t &p,
    const Q8Piece &s, uint32_t c, int u)
{
    constexpr int   all = C::COLS * LINKS;
    const uint32_t  nb = s.n_blocks * SUBS;

#pragma unroll
    for (int j = 0; j < all; j += C::chains) {
        const int       i = j + u;
        const uint32_t  r = q8_split_row<C, DEV_WARP / LINKS>(i / LINKS), k = c * LINKS + i % LINKS;
        const bool      in = r < p.n && k < nb;
        const float    *from = src + (in ? (uint64_t) r * nb + k : 0);
        unsigned char  *to = smem + at + i % LINKS * 4
                             + q8_split_row_at(LINKS * 4, C::COLS, c % (C::RING + 1) * C::COLS + r);

        if (all % C::chains != 0 && i >= all) {
            continue;
        }
        if (WAIT) {
            *(float *) (void *) to = in ? *from : 0;
        } else {
            cp4(to, from, in);
        }
    }
}

/* All that the chains need of the activations in chunk c. */
template <class C, bool WAIT>
DEV_INLINE void
q8_split_acts(unsigned char *smem, const cu_q8_args_t &p, const Q8Piece &s, uint32_t c, int u)
{
    q8_split_floats<C, C::KC, 1, WAIT>(smem, C::d_at, p.d, p, s, c, u);
    if constexpr (C::F::min) {
        q8_split_floats<C, C::WARPS * CU_GROUP, C::F::subs, WAIT>(smem, C::dsum_at, p.dsum, p, s,
                                                                  c, u);
    }
}

/* The chain of thread u's output over n groups of a chunk. */
template <class C>
DEV_INLINE void
q8_split_chain(float &acc, float &min, const unsigned char *smem, uint32_t c, int n, int u, int out,
    int row)
{
    using F = typename C::F;
    const uint32_t        ring = c % (C::RING + 1) * C::scales + out * F::row_bytes;
    const unsigned char  *sums = smem + C::sums_at + c % 2 * C::sums + u * 16;
    const uint32_t        at = c % (C::RING + 1) * C::COLS + row;
    const unsigned char  *d = smem + C::d_at + q8_split_row_at(C::drow, C::COLS, at);
    const unsigned char  *ds = smem + C::dsum_at + q8_split_row_at(C::mrow, C::COLS, at);

#pragma unroll (F::min ? 2 : 4)
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

/* A warp that makes sums: what it does before the first chunk, and its sums of chunk c. */
template <class C>
DEV_INLINE void
q8_split_make_first(unsigned char *smem, const cu_q8_args_t &p, const Q8Piece &s, int warp,
    int lane)
{
    /* weights do not depend on the kernel before this one */
    for (uint32_t c = 0; c < C::RING; c++) {
        q8_split_data<C>(smem, s, c, warp, lane);
        cp_commit();
    }
    dev_wait();
    q8_split_rows_first<C>(smem, p, s, warp, lane);
}

template <class C>
DEV_INLINE void
q8_split_make(unsigned char *smem, const cu_q8_args_t &p, const Q8Piece &s, uint32_t c, int warp,
    int lane)
{
    const uint32_t  slot = c % C::RING;

    cp_wait<C::RING - 1>();
    __syncwarp();                          /* rows that other lanes have loaded are there */
    if (c * C::WARPS + warp < s.groups) {
        q8_split_sums<C>(smem + C::sums_at + c % 2 * C::sums + warp * (C::outs * 16),
                         smem + (slot * C::WARPS + warp) * C::slot,
                         smem + q8_split_q_at<C>(slot, warp), lane);
    }
    __syncwarp();                          /* all lanes have read the rows */
    if ((c + C::RING) * C::WARPS + warp < s.groups) {
        q8_split_data<C>(smem, s, c + C::RING, warp, lane);
        q8_split_rows<C>(smem, p, s, c + C::RING, warp, lane);
    }
    cp_commit();
}

/* Thread u of the chains. */
template <class C>
struct Q8Consumer {
    using F = typename C::F;
    int    out, row;
    float  acc, min;

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
#pragma unroll
        for (uint32_t c = 0; c < C::RING; c++) {
            q8_split_acts<C, true>(smem, p, s, c, u);
        }
    }

    /* Chains of chunk c - 1. */
    __device__ __forceinline__ void
    run(unsigned char *smem, uint32_t c, int u)
    {
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
 * traffic  cu_linear_cost()     bound: DRAM; 32 KB of nibbles or 64 KB of bytes
 *          are under way in each of two or more blocks of an SM; from 16 rows on the chains
 * measured H200, bench_gemm: head of 128256 x 4096 at 1 row Q4_0 77 us (85 % of the read rate),
 *          Q8_0 126 us (98 %); 6144 x 4096 at 1, 16 rows Q4_0 6.6, 14.7 us (48, 22 %), Q8_0 10.8,
 *          17.8 us (55, 34 %)
 * source   DESIGN.md 5 */
template <class C>
__global__ void __launch_bounds__(C::threads, 2)
q8_split_k(const cu_q8_args_t p)
{
    using F = typename C::F;
    DYN_SMEM(smem);
    const cu_q8_part_t  &part = q8_part(p, blockIdx.x);
    const uint32_t       tile = blockIdx.x - part.block0;
    const int            warp = threadIdx.x / DEV_WARP, lane = threadIdx.x % DEV_WARP;
    const int            u = (int) threadIdx.x - C::WARPS * DEV_WARP;
    Q8Piece              s;
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
        q8_split_make_first<C>(smem, p, s, warp, lane);
    } else {
        chain.start(smem, p, s, u);
    }
    for (uint32_t c = 0; c < s.n_chunks; c++) {
        if (u < 0) {
            q8_split_make<C>(smem, p, s, c, warp, lane);
        } else {
            chain.run(smem, c, u);
        }
        /* sums, scales and d of chunk c are there for all chains; these are done with what they
         * need of chunk c - 1 */
        __syncthreads();
        if (u >= 0) {
            q8_split_scales<C>(smem, s, c + C::RING, u);
            if (c + C::RING < s.n_chunks) {
                q8_split_acts<C, false>(smem, p, s, c + C::RING, u);
            }
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
