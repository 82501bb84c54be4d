/*
 * gemm_f_runs.cuh: linears of the float families in another way, for the next
 * GPU to judge; not part of the plugin. bench_runs.cu checks and times them
 * beside the kernels in use. Right in the emulator, never run on a device.
 *
 * Why. Decode kernels of today read all activations for every 16 or 32
 * outputs: at 64 rows the L2 delivers three times the bytes of the weights,
 * 5.4 TB/s on an H200, which is all it can. Here 128 outputs share them.
 *
 * A unit is 128 bytes of an activation row. The units of a row are four runs,
 * each summed ascending, and the runs are added up in their order: by four
 * warps of a block (runs_few_k), by one warp (runs_many_k) or by up to four
 * blocks of a tile, all with the same bits. To be taken, every number of rows
 * has to beat today's kernels, since bits must not depend on it: runs_few_k
 * 1 and 8 rows, runs_many_k 16, 32 and 64.
 */

#ifndef GEMM_F_RUNS_CUH
#define GEMM_F_RUNS_CUH

#include "dev.cuh"
#include "gemm_f.h"

namespace runs {

#define RUNS        4              /* of a row; warps of a block */
#define RUNS_TILES  8              /* of 16 weight rows, of runs_many_k */
#define RUNS_UNIT   128            /* bytes of an activation row */

struct args_t {
    const uint8_t  *w, *a;
    const void     *scale;         /* f32 a row of fp8, W8A8; of groups */
    const float    *a_scale;
    float          *y, *sums;      /* sums of runs: tiles * RUNS * 32 KiB */
    uint32_t       *counters;      /* of tiles, zero */
    uint32_t        n, n_out, pitch, a_bytes, units, chunk, groups, shift;
};

/* Place of a lane's 16 bytes in rows of a unit where a warp copies 4 rows at
 * once: halves of odd rows are exchanged, so that the eight lanes of a pass
 * touch all banks both when a row is written and when a half is read. */
DEV_INLINE uint32_t
place(int lane)
{
    return (lane >> 3) * 128 + (((lane >> 2 ^ lane >> 3) & 1) << 6)
           + ((lane & 3) << 4);
}

/* Where lane (g, t) finds its 16 bytes of half h of row r. */
DEV_INLINE uint32_t
find(uint32_t r, uint32_t h, int t)
{
    return r * 128 + (((h ^ r) & 1) << 6) + (t << 4);
}

/* Families. TILE: bytes in shared memory of a unit of 16 weight rows; UNITS
 * of a stage of runs_few_k; PARKED: runs_many_k keeps sums of runs in shared
 * memory. src: where a lane reads its part of a tile. */
struct src_t {
    const uint8_t  *a, *b;
};

template <class F, class ACC>
struct plain_t {
    typedef ACC acc_t;
    static constexpr int  TILE = 16 * RUNS_UNIT, UNITS = 1;
    static constexpr bool  PARKED = false;

    DEV_INLINE src_t
    src(const args_t &p, uint32_t tile)
    {
        const int  lane = threadIdx.x & 31;
        const size_t  at = (size_t) (tile * 16 + (lane >> 3)) * p.pitch
                           + (lane & 7) * 16;

        return { p.w + at, p.w + at + 8 * (size_t) p.pitch };
    }

    DEV_INLINE void
    copy(uint8_t *to, const src_t &s, const args_t &p, uint32_t unit)
    {
        const int  lane = threadIdx.x & 31;
        const bool  in = unit * RUNS_UNIT + (lane & 7) * 16 < p.pitch;
        const size_t  at = in ? unit * RUNS_UNIT : 0;

        to += place(lane);
        cp16(to, s.a + at, in);
        cp16(to + 512, s.a + at + 4 * (size_t) p.pitch, in);
        cp16(to + 1024, s.b + at, in);
        cp16(to + 1536, s.b + at + 4 * (size_t) p.pitch, in);
    }

    typedef typename F::frag_t frag_t;
    typedef typename F::x_t x_t;

    DEV_INLINE frag_t
    frag(const uint8_t *tile, const args_t &, uint32_t, uint32_t h)
    {
        const int  lane = threadIdx.x & 31;
        const uint8_t  *at = tile + find(lane >> 2, h, lane & 3);

        return F::frag(ld16a(at), ld16a(at + 1024));
    }

    DEV_INLINE x_t
    x(const uint4 &v)
    {
        return F::x(v);
    }

    DEV_INLINE void
    mma(ACC (&acc)[4], const frag_t &f, const x_t &x)
    {
        F::mma(acc, f, x);
    }
};

template <bool MIN>
struct w4_t {
    typedef float acc_t;
    static constexpr int  SB = MIN ? 8 : 4, TILE = 512 + 16 * SB, UNITS = 2;
    static constexpr bool  PARKED = true;

    DEV_INLINE src_t
    src(const args_t &p, uint32_t tile)
    {
        return { p.w + (size_t) tile * p.pitch * 512 + (threadIdx.x & 31) * 16,
                 (const uint8_t *) p.scale + (size_t) tile * p.groups * 8 * SB };
    }

    /* scales by the first lanes for all */
    DEV_INLINE void
    copy(uint8_t *to, const src_t &s, const args_t &p, uint32_t unit)
    {
        const uint32_t  lane = threadIdx.x & 31;
        const uint32_t  at = (2 * unit >> p.shift) * 8 * SB + lane * 16;
        const bool  in = unit < p.units;
        const bool  scale = in && at < p.groups * 8 * SB;

        cp16(to + lane * 16, s.a + (in ? (size_t) unit * 512 : 0), in);

        if (lane < (uint32_t) SB) {
            cp16(to + 512 + lane * 16, s.b + (scale ? at : 0), scale);
        }
    }

    struct frag_t {
        uint32_t  a[2][4];
        float     scale[2], min[2];
    };

    DEV_INLINE frag_t
    frag(const uint8_t *tile, const args_t &p, uint32_t unit, uint32_t h)
    {
        const int  lane = threadIdx.x & 31;
        const uint4  w = ld16a(tile + lane * 16);
        const uint32_t  grp = ((2 * unit + h) >> p.shift)
                              - (2 * unit >> p.shift);
        const uint8_t  *at = tile + 512 + (grp * 8 + (lane >> 2)) * SB;
        const uint2  v = MIN ? ld8a(at)
                             : make_uint2(*(const uint32_t *) (const void *) at,
                                          0);
        const uint32_t  q[2] = { h == 0 ? w.x : w.z, h == 0 ? w.y : w.w };
        frag_t  f;

#pragma unroll
        for (int s = 0; s < 2; s++) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                f.a[s][i] = add_bf16x2((q[s] >> (4 * i) & 0x000f000fu)
                                       | 0x43004300u,
                                       MIN ? 0xc300c300u : 0xc308c308u);
            }

            f.scale[s] = dev_f16((uint16_t) (MIN ? (s == 0 ? v.x : v.y)
                                                 : v.x >> (16 * s)));
            f.min[s] = MIN ? dev_f16((uint16_t) ((s == 0 ? v.x : v.y) >> 16))
                           : 0.0f;
        }

        return f;
    }

    struct x_t {
        uint4  v;
        float  sum[4];                    /* MIN: of columns 2t, 2t + 1 */
    };

    DEV_INLINE x_t
    x(const uint4 &v)
    {
        const uint32_t  one[4] = { 0x3f803f80u, 0x3f803f80u, 0x3f803f80u,
                                   0x3f803f80u };
        const uint32_t  b0[2] = { v.x, v.y }, b1[2] = { v.z, v.w };
        x_t  x = { v, {} };

        if (MIN) {
            mma_bf16(x.sum, one, b0);
            mma_bf16(x.sum, one, b1);
        }

        return x;
    }

    DEV_INLINE void
    mma(float (&acc)[4], const frag_t &f, const x_t &x)
    {
        const uint32_t  b0[2] = { x.v.x, x.v.y }, b1[2] = { x.v.z, x.v.w };
        float  c[4] = {};

        mma_bf16(c, f.a[0], b0);
        mma_bf16(c, f.a[1], b1);

#pragma unroll
        for (int r = 0; r < 4; r++) {
            acc[r] = fmaf(f.scale[r >> 1], c[r], acc[r]);

            if (MIN) {
                acc[r] = fmaf(f.min[r >> 1], x.sum[r & 1], acc[r]);
            }
        }
    }
};

DEV_INLINE void
store(const args_t &p, uint32_t i, uint32_t o, float v)
{
    if (i < p.n && o < p.n_out) {
        p.y[(size_t) i * p.n_out + o] =
            p.a_scale == NULL ? v
            : v * (p.a_scale[i] * ((const float *) p.scale)[o]);
    }
}

/*
 * runs_few_k: y[i, o] = sum_k a[i, k] w[o, k], up to 8 rows
 * launch   a block of 4 warps for 16 outputs, a warp a run; each copies its
 *          own weights and activations by cp.async, S - 1 stages ahead
 */
#define RUNS_FEW_STAGE(F)  (F::UNITS * (F::TILE + 8 * RUNS_UNIT))
#define RUNS_PITCH         20      /* words of a column of sums */

template <class F, int S, int BLOCKS>
__global__ void __launch_bounds__(32 * RUNS, BLOCKS)
runs_few_k(const args_t p)
{
    typedef typename F::acc_t  acc_t;
    constexpr int  STAGE = RUNS_FEW_STAGE(F), UN = F::UNITS;
    constexpr int  ACTS = UN * F::TILE;           /* where they begin */
    DYN_SMEM(smem);
    const int  tid = threadIdx.x, warp = tid >> 5, lane = tid & 31;
    const uint32_t  g = lane >> 2, t = lane & 3;
    const uint32_t  u0 = warp * p.chunk;
    const uint32_t  u1 = u0 + p.chunk < p.units ? u0 + p.chunk : p.units;
    const uint32_t  x_at = ACTS + find(g < p.n ? g : p.n - 1, 0, t);
    const src_t  src = F::src(p, blockIdx.x);
    uint8_t *const  ring = smem + warp * (S * STAGE);
    acc_t *const  red = (acc_t *) (void *) smem;
    uint32_t  slot = 0;
    acc_t  acc[4] = {}, sum = 0;

    auto weights = [&](uint32_t u, uint32_t s) {
        for (int k = 0; k < UN && u < u1; k++) {
            F::copy(ring + s * STAGE + k * F::TILE, src, p, u + k);
        }
    };

    auto acts = [&](uint32_t u, uint32_t s) {
        for (int k = 0; k < UN && u < u1; k++) {
            const uint32_t  at = (u + k) * RUNS_UNIT + (lane & 7) * 16;
            const bool  in = at < p.a_bytes;

#pragma unroll
            for (int i = 0; i < 2; i++) {
                const uint32_t  r = 4 * i + (lane >> 3);

                if (r < p.n) {
                    cp16(ring + s * STAGE + ACTS + (k * 8 + 4 * i) * RUNS_UNIT
                         + place(lane),
                         p.a + r * p.a_bytes + (in ? at : 0), in);
                }
            }
        }
    };

#pragma unroll
    for (int s = 0; s < S - 1; s++) {
        weights(u0 + s * UN, s);
    }

    dev_launch_dependents();
    dev_wait();   /* weights do not depend on the kernel before, a does */

#pragma unroll
    for (int s = 0; s < S - 1; s++) {
        acts(u0 + s * UN, s);
        cp_commit();
    }

    for (uint32_t u = u0; u < u1; u += UN) {
        const uint8_t *const  from = ring + slot * STAGE;
        const uint32_t  next = slot == 0 ? S - 1 : slot - 1;

        cp_wait<S - 2>();
        __syncwarp();   /* what other lanes copied is there, and all are done
                         * with the stage that is written next */
        weights(u + (S - 1) * UN, next);
        acts(u + (S - 1) * UN, next);
        cp_commit();

#pragma unroll
        for (int k = 0; k < UN; k++) {
#pragma unroll
            for (uint32_t h = 0; h < 2; h++) {
                F::mma(acc, F::frag(from + k * F::TILE, p, u + k, h),
                       F::x(ld16a(from + k * 8 * RUNS_UNIT
                                  + (x_at ^ h << 6))));
            }
        }

        slot = slot == S - 1 ? 0 : slot + 1;
    }

    cp_wait<0>();
    __syncthreads();   /* all warps are done with their rings: now sums */

#pragma unroll
    for (int r = 0; r < 4; r++) {
        red[warp * 8 * RUNS_PITCH + (2 * t + (r & 1)) * RUNS_PITCH + g
            + 8 * (r >> 1)] = acc[r];
    }

    __syncthreads();   /* all sums are in red */

    const uint32_t  row = tid & 15, col = tid >> 4;

#pragma unroll
    for (int w = 0; w < RUNS; w++) {
        sum += red[w * 8 * RUNS_PITCH + col * RUNS_PITCH + row];
    }

    store(p, col, blockIdx.x * 16 + row, (float) sum);
}

/* 16 bytes of sums. */
DEV_INLINE void
put(void *to, const float (&v)[4])
{
    stf4((float *) to, make_float4(v[0], v[1], v[2], v[3]));
}

DEV_INLINE void
put(void *to, const int (&v)[4])
{
    st16(to, make_uint4(v[0], v[1], v[2], v[3]));
}

DEV_INLINE void
add(float (&to)[4], const uint4 &v)
{
    to[0] += __uint_as_float(v.x);
    to[1] += __uint_as_float(v.y);
    to[2] += __uint_as_float(v.z);
    to[3] += __uint_as_float(v.w);
}

DEV_INLINE void
add(int (&to)[4], const uint4 &v)
{
    to[0] += (int) v.x;
    to[1] += (int) v.y;
    to[2] += (int) v.z;
    to[3] += (int) v.w;
}

/*
 * runs_many_k: the same for up to 8 NT rows, 128 outputs a block
 * launch   (n_out / 128) x splits blocks of 4 warps, a warp 32 weight rows
 *          and all columns; S stages of both operands, S - 1 ahead. Where
 *          splits (1, 2, 4) is not 1, sums of runs go to p.sums, and the
 *          last block of a tile adds them in order
 */
#define RUNS_STAGE(F, NT)  (RUNS_TILES * F::TILE + 8 * (NT) * RUNS_UNIT)
#define RUNS_SMEM(F, NT, S)                                               \
    ((S) * RUNS_STAGE(F, NT) + (F::PARKED && (NT) == 8 ? 32768 : 0))

template <class F, int NT, int S, int BLOCKS>
__global__ void __launch_bounds__(128, BLOCKS)
runs_many_k(const args_t p)
{
    typedef typename F::acc_t  acc_t;
    constexpr int  STAGE = RUNS_STAGE(F, NT), ROUND = 128 * 16;
    constexpr bool  PARKED = F::PARKED && NT == 8;
    DYN_SMEM(smem);
    const int  tid = threadIdx.x, warp = tid >> 5, lane = tid & 31;
    const uint32_t  g = lane >> 2, t = lane & 3, last = (p.n_out + 15) / 16 - 1;
    const uint32_t  tile = blockIdx.x * RUNS_TILES + 2 * warp;
    const uint32_t  mine = RUNS / gridDim.y, u0 = blockIdx.y * mine * p.chunk;
    const uint32_t  u1 = u0 + mine * p.chunk < p.units ? u0 + mine * p.chunk
                                                       : p.units;
    uint8_t *const  sums = (uint8_t *) p.sums
                           + (size_t) blockIdx.x * (RUNS * 2 * NT * ROUND)
                           + tid * 16;
    uint8_t *const  parked = smem + S * STAGE + tid * 16;
    src_t  src[2];
    uint32_t  slot = 0, u = u0;
    acc_t  acc[2][NT][4];
    acc_t  total[PARKED ? 1 : 2 * NT][4] = {};    /* of runs so far */

#pragma unroll
    for (int m = 0; m < 2; m++) {
        /* a tile beyond the matrix repeats the last; nothing stores it */
        src[m] = F::src(p, tile + m < last ? tile + m : last);
    }

    auto weights = [&](uint32_t at, uint32_t s) {
        for (int m = 0; m < 2 && at < u1; m++) {
            F::copy(smem + s * STAGE + (2 * warp + m) * F::TILE, src[m], p, at);
        }
    };

    auto acts = [&](uint32_t at, uint32_t s) {
        const uint32_t  k = at * RUNS_UNIT + (lane & 7) * 16;
        const bool  in = k < p.a_bytes;

#pragma unroll
        for (int i = 0; i < NT / 2; i++) {
            const uint32_t  r = 16 * i + 4 * warp, row = r + (lane >> 3);

            if (at < u1) {
                cp16(smem + s * STAGE + RUNS_TILES * F::TILE + r * RUNS_UNIT
                     + place(lane), p.a + (row < p.n ? row : p.n - 1) * p.a_bytes
                     + (in ? k : 0), in);
            }
        }
    };

#pragma unroll
    for (int s = 0; s < S - 1; s++) {
        weights(u0 + s, s);
    }

    dev_launch_dependents();
    dev_wait();   /* weights do not depend on the kernel before, a does */

#pragma unroll
    for (int s = 0; s < S - 1; s++) {
        acts(u0 + s, s);
        cp_commit();
    }

    for (uint32_t c = 0; c < mine; c++) {
        const uint32_t  end = u0 + (c + 1) * p.chunk;

        memset(acc, 0, sizeof(acc));

        for ( ; u < end && u < u1; u++) {
            const uint8_t *const  from = smem + slot * STAGE;
            const uint32_t  next = slot == 0 ? S - 1 : slot - 1;

            cp_wait<S - 2>();
            __syncthreads();   /* this stage is there for all, and all are
                                * done with the one that is written next */
            weights(u + S - 1, next);
            acts(u + S - 1, next);
            cp_commit();

#pragma unroll (NT < 8 && !F::PARKED ? 2 : 1)
            for (uint32_t h = 0; h < 2; h++) {
                typename F::frag_t  f[2];

#pragma unroll
                for (int m = 0; m < 2; m++) {
                    f[m] = F::frag(from + (2 * warp + m) * F::TILE, p, u, h);
                }

#pragma unroll
                for (int j = 0; j < NT; j++) {
                    const typename F::x_t  x =
                        F::x(ld16a(from + RUNS_TILES * F::TILE
                                   + find(8 * j + g, h, t)));

                    F::mma(acc[0][j], f[0], x);
                    F::mma(acc[1][j], f[1], x);
                }
            }

            slot = slot == S - 1 ? 0 : slot + 1;
        }

#pragma unroll
        for (int i = 0; i < 2 * NT; i++) {
            acc_t  (&v)[4] = acc[i / NT][i % NT];

            if (gridDim.y != 1) {
                put(sums + ((blockIdx.y * mine + c) * 2 * NT + i) * ROUND, v);

            } else if (PARKED) {
                if (c != 0) {
                    add(v, ld16a(parked + i * ROUND));
                }

                put(parked + i * ROUND, v);

            } else {
#pragma unroll
                for (int r = 0; r < 4; r++) {
                    v[r] += total[i][r];
                    total[i][r] = v[r];
                }
            }
        }
    }

    cp_wait<0>();

    if (gridDim.y != 1) {
        if (!dev_is_last(p.counters + blockIdx.x, gridDim.y,
                         (uint32_t *) (void *) smem))
        {
            return;
        }

        memset(acc, 0, sizeof(acc));

#pragma unroll 1
        for (int c = 0; c < RUNS; c++) {
#pragma unroll
            for (int i = 0; i < 2 * NT; i++) {
                add(acc[i / NT][i % NT],
                    ld16_l2(sums + (c * 2 * NT + i) * ROUND));
            }
        }
    }

#pragma unroll
    for (int i = 0; i < 2 * NT; i++) {
#pragma unroll
        for (int r = 0; r < 4; r++) {
            store(p, 8 * (i % NT) + 2 * t + (r & 1),
                  (tile + i / NT) * 16 + g + 8 * (r >> 1),
                  (float) acc[i / NT][i % NT][r]);
        }
    }
}

/* deep: more stages of runs_few_k, for few tiles. */
template <class F>
static int
launch(const cu_dev_t *dev, const args_t &p, uint32_t splits, bool deep)
{
    const dim3  few((p.n_out + 15) / 16);
    const dim3  many((p.n_out + 127) / 128, splits), block(32 * RUNS);

    if (p.n <= 8) {
        return deep ? dev_launch(dev, runs_few_k<F, 8, 2>, few, block,
                                 RUNS * 8 * RUNS_FEW_STAGE(F), p)
               : dev_launch(dev, runs_few_k<F, 4, 4>, few, block,
                            RUNS * 4 * RUNS_FEW_STAGE(F), p);
    }

    return p.n <= 16 ? dev_launch(dev, runs_many_k<F, 2, 4, 3>, many, block,
                                  RUNS_SMEM(F, 2, 4), p)
           : p.n <= 32 ? dev_launch(dev, runs_many_k<F, 4, 4, 2>, many, block,
                                    RUNS_SMEM(F, 4, 4), p)
           : dev_launch(dev, runs_many_k<F, 8, 4, 2>, many, block,
                        RUNS_SMEM(F, 8, 4), p);
}

}   /* namespace runs */

#endif
