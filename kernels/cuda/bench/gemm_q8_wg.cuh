/*
 * gemm_q8_wg.cuh: a candidate for linears of the q8 family on devices of compute capability 9.0,
 * for any number of rows; not part of the plugin, since no device has run it yet. It must beat
 * q8_tile_k (17 rows and more) and q8_split_k (9 to 16) in bench_q8_wg, which compares bits, too;
 * then it goes beside them, with cu_linear_work() for its scratch memory.
 *
 * Quants and int8 activations are whole numbers that f16 holds exactly, their products and a
 * block's sum such that f32 does (at most 32 * 128 * 128 = 2^19): so an f16 wgmma gives the exact
 * sum as f32, and a link of the chain is two operations a lane instead of three; and it costs one
 * instruction for 64 x 8 NT sums. By the SASS 13.2 instructions of a warp for 16 x 8 outputs and
 * a block of 32 (q8_tile_k: 19.4). Weights become f16 in registers, activations before in a
 * launch of their own, into dev->work.
 */

#ifndef BENCH_GEMM_Q8_WG_CUH
#define BENCH_GEMM_Q8_WG_CUH

#include "dev_wg.cuh"
#include "gemm_q8.cuh"

#define Q8_WG_ROWS     128    /* most rows of a block */
#define Q8_WG_THREADS  256    /* of q8_wg_acts_k */

/* A block: WGS times four warps, each group of four with 64 outputs x NT tiles of 8 rows. A stage
 * is 128 columns: activations as q8_wg_acts_k writes them, then weights and scales, and there are
 * at most STAGES of them. What is asked of the tensor cores at a time, a batch: LB links of the NT
 * tiles, or one link of half of them (HALF); the sums of one are made while the chains run over
 * those of the one before. */
template <int FORM, int WGS_, int NT_, int LB_, bool HALF_, int STAGES_, int BLOCKS_>
struct Q8Wg {
    using F = Q8Form<FORM>;
    static constexpr int   form = FORM;
    static constexpr int   WGS = WGS_, NT = NT_, BLOCKS = BLOCKS_;
    static constexpr int   LB = LB_ * F::subs, PARTS = HALF_ ? 2 : 1, PN = NT / PARTS;
    static constexpr int   batches = F::links / LB * PARTS;             /* of a stage */
    static constexpr bool  early = PN * LB <= (F::min ? 2 : 8);   /* products before the sums */
    static constexpr int   tiles = WGS * 4;
    static constexpr int   BM = tiles * CU_TILE, BN = NT * 8;
    static constexpr int   threads = WGS * 4 * DEV_WARP;
    static constexpr int   pitch = BN * 16;                /* of 8 columns of activations */
    static constexpr int   d = BN * Q8_KB * CU_BLOCK * 2;
    static constexpr int   dsum = d + Q8_KB * BN * 4;
    static constexpr int   unit = dsum + (F::min ? F::links * BN * 4 : 0);
    static constexpr int   data = unit;
    static constexpr int   scale = data + tiles * F::steps * CU_STEP;
    static constexpr int   min = scale + tiles * F::scale_bytes;
    static constexpr int   stage = min + (F::min ? tiles * F::scale_bytes : 0);
    static constexpr int   fit = ((228 << 10) / BLOCKS - 1024) / stage;
    static constexpr int   STAGES = STAGES_ < fit ? STAGES_ : fit;
    static constexpr int   smem = STAGES * stage;

    static_assert(BN % 16 == 0 && BN <= Q8_WG_ROWS, "rows lie in pairs of tiles, in dev->work");
    static_assert(NT % PARTS == 0 && batches % 2 == 0, "two batches take turns in registers");
    static_assert(unit % 128 == 0 && stage % 128 == 0, "bricks begin at 128 bytes");
};

/* Bytes 0 and 2 of w as f16, those of block b of the two where they are nibbles. */
template <int FORM>
DEV_INLINE uint32_t
q8_wg_half(uint32_t w, int b)
{
    constexpr bool  s4 = Q8Form<FORM>::sign4;

    /* the bits of an f16 between 1024 and 2048 end in its whole number */
    if (!Q8Form<FORM>::nibbles) {
        return fma_f16x2(and_xor(w, 0x00ff00ff, 0x64806480), 0x3c003c00, 0xe480e480);
    }
    if (b & 1) {
        return fma_f16x2(and_xor(w, 0x00f000f0, s4 ? 0x64806480 : 0x64006400),
                         0x2c002c00, s4 ? 0xd480d480 : 0xd400d400);
    }
    return fma_f16x2(and_xor(w, 0x000f000f, s4 ? 0x64086408 : 0x64006400), 0x3c003c00,
                     s4 ? 0xe408e408 : 0xe400e400);
}

/* Fragments of the two halves of block b of the step that v holds: bytes 0, 2, 1, 3 of a word
 * become k 2 t, 2 t + 1, 2 t + 8, 2 t + 9. */
template <int FORM>
DEV_INLINE void
q8_wg_frag(uint32_t a[2][4], const uint4 &v, int b)
{
    const uint32_t  w[4] = { v.x, v.y, v.z, v.w };

#pragma unroll
    for (int j = 0; j < 4; j++) {
        a[j / 2][j % 2] = q8_wg_half<FORM>(w[j], b);
        a[j / 2][j % 2 + 2] = q8_wg_half<FORM>(w[j] >> 8, b);
    }
}

/* Where the float of row r of a block's BN lies: four of a lane's columns of two tiles together. */
DEV_INLINE uint32_t
q8_wg_float(uint32_t r)
{
    return r / 16 * 16 + r % 8 / 2 * 4 + r / 8 % 2 * 2 + r % 2;
}

/* q8_wg_acts_k: activations of BN rows and 128 columns as a stage of q8_wg_k has them
 * shapes   q int8 [n, n_in], d, dsum [n, links]; out [row tiles][stages][unit bytes]
 * launch   (stages, row tiles) blocks of 256; 16 values of a row a thread
 * math     exact
 * traffic  n n_in (1 + 2) bytes and scales     bound: L2
 * measured not measured
 * source   dev_wg.cuh for the order */
__global__ void __launch_bounds__(Q8_WG_THREADS)
q8_wg_acts_k(const cu_q8_args_t p, unsigned char *out, uint32_t BN, uint32_t links)
{
    const uint32_t  nb = p.n_in / CU_BLOCK, c = blockIdx.x, row0 = blockIdx.y * BN;
    const uint32_t  pitch = BN * 16, sums = p.dsum != NULL ? links * BN : 0;
    const uint32_t  unit = BN * Q8_KB * CU_BLOCK * 2 + (Q8_KB * BN + sums) * 4;
    unsigned char  *to = out + ((uint64_t) blockIdx.y * gridDim.x + c) * unit;
    float          *d = (float *) (void *) (to + BN * Q8_KB * CU_BLOCK * 2);

    dev_wait();
    dev_launch_dependents();
    for (uint32_t i = threadIdx.x; i < BN * 8; i += blockDim.x) {
        /* 16 rows x 2 pieces a warp: whole sectors both ways */
        const uint32_t  r = i / 128 * 16 + i % 32 / 2, s = i / 32 % 4 * 2 + i % 2;
        const uint32_t  at = (c * 8 + s) * 16;
        const bool      in = row0 + r < p.n && at < p.n_in;
        uint32_t        a[2][4] = {};

        if (in) {
            q8_wg_frag<CU_B8H>(a, ld16a(p.q + (uint64_t) (row0 + r) * p.n_in + at), 0);
        }
        st16(to + 2 * s * pitch + r * 16, make_uint4(a[0][0], a[0][1], a[1][0], a[1][1]));
        st16(to + (2 * s + 1) * pitch + r * 16, make_uint4(a[0][2], a[0][3], a[1][2], a[1][3]));
    }
    for (uint32_t i = threadIdx.x; i < Q8_KB * BN + sums; i += blockDim.x) {
        const bool      sum = i >= Q8_KB * BN;
        const uint32_t  j = sum ? i - Q8_KB * BN : i, per = sum ? links : Q8_KB;
        const uint32_t  all = sum ? nb * (links / Q8_KB) : nb;
        const uint32_t  r = j / per, k = c * per + j % per;
        const float    *from = sum ? p.dsum : p.d;

        d[(sum ? Q8_KB * BN : 0) + j % per * BN + q8_wg_float(r)] =
            row0 + r < p.n && k < all ? from[(uint64_t) (row0 + r) * all + k] : 0;
    }
}

/* What a block reads. */
struct Q8WgSpan {
    const uint8_t  *data, *scale, *min;    /* of its first tile */
    const uint8_t  *acts;                  /* of its rows */
    uint32_t        tiles;                 /* left in the matrix, from there */
    uint32_t        steps, groups;         /* of a tile */
    uint32_t        n_stages;
};

/* One thread's share of every stage, as pointers that go on from stage to stage. What is beyond the
 * last tile is read as that one, since nothing comes of it; beyond the columns are zeros. */
template <class C>
struct Q8WgLoader {
    using F = typename C::F;
    static constexpr uint32_t  size = F::steps * CU_STEP, per = size / 16;   /* of a tile's data */
    static constexpr uint32_t  nd = C::tiles * per / C::threads;
    static constexpr uint32_t  na = C::d / 16 / C::threads;                  /* activations */
    static constexpr uint32_t  rest = C::d / 16 - na * C::threads;
    static constexpr uint32_t  floats = (C::unit - C::d) / 16, sper = F::scale_bytes / 16;
    static constexpr uint32_t  others = floats + C::tiles * sper * (F::min ? 2 : 1) + rest;
    static constexpr uint32_t  no = (others + C::threads - 1) / C::threads;

    static_assert(C::threads % per == 0, "a thread has one place in all its tiles");

    const uint8_t  *data, *acts;
    uint32_t        last;                  /* of its tiles: how many times `rows` on */
    const uint8_t  *other[no];             /* floats, scales, minima, the rest of activations */
    uint32_t        step[no], to[no];      /* of memory, in shared memory */
    uint32_t        n[no];                 /* stages that have it */

    __device__ __forceinline__ void
    start(const Q8WgSpan &s)
    {
        constexpr uint32_t  rows = C::threads / per;
        const uint32_t      tile = min(threadIdx.x / per, s.tiles - 1);

        data = s.data + (tile * s.steps * CU_STEP + threadIdx.x % per * 16);
        last = (s.tiles - 1 - tile) / rows;
        acts = s.acts + threadIdx.x * 16;
#pragma unroll
        for (uint32_t j = 0; j < no; j++) {
            uint32_t  i = threadIdx.x + j * C::threads;

            if (i < floats + rest) {
                i = i < floats ? C::d + i * 16 : (na * C::threads + i - floats) * 16;
                other[j] = s.acts + i;
                step[j] = C::unit;
                to[j] = i;
                n[j] = s.n_stages;
                continue;
            }
            i -= floats + rest;

            const bool      minima = i >= C::tiles * sper;
            const uint32_t  k = minima ? i - C::tiles * sper : i, at = k % sper * 16;
            const uint32_t  all = s.groups * F::group_bytes;

            other[j] = (minima ? s.min : s.scale) + min(k / sper, s.tiles - 1) * all + at;
            step[j] = F::scale_bytes;
            to[j] = C::scale + i * 16;
            n[j] = at < all ? (all - at + F::scale_bytes - 1) / F::scale_bytes : 0;
        }
    }

    /* Begins to load the weights of the next stage, which is c. */
    __device__ __forceinline__ void
    weights(unsigned char *stage, const Q8WgSpan &s, uint32_t c)
    {
        const uint32_t  rows = C::threads / per * s.steps * CU_STEP;
        const uint32_t  left = (s.steps - c * F::steps) * CU_STEP;
        unsigned char  *at = stage + C::data + threadIdx.x * 16;

        if (left >= size) {
#pragma unroll
            for (uint32_t j = 0; j < nd; j++) {
                cp16(at + j * C::threads * 16, data + (uint64_t) min(j, last) * rows, true);
            }
        } else {
            const bool  in = threadIdx.x % per * 16 < left;

#pragma unroll
            for (uint32_t j = 0; j < nd; j++) {
                cp16(at + j * C::threads * 16, in ? data + (uint64_t) min(j, last) * rows : s.data,
                     in);
            }
        }
        data += size;
    }

    /* The same of all else, which the kernel before this one may have written. */
    __device__ __forceinline__ void
    all_else(unsigned char *stage, const Q8WgSpan &s, uint32_t c)
    {
#pragma unroll
        for (uint32_t j = 0; j < na; j++) {
            cp16(stage + threadIdx.x * 16 + j * C::threads * 16, acts + j * C::threads * 16, true);
        }
        acts += C::unit;
#pragma unroll
        for (uint32_t j = 0; j < no; j++) {
            const bool  in = c < n[j];

            if (others % C::threads == 0 || j + 1 < no || threadIdx.x + j * C::threads < others) {
                cp16(stage + to[j], in ? other[j] : s.acts, in);
            }
            other[j] += step[j];
        }
    }
};

/* Stage c is there; the stage STAGES - 2 on begins to be loaded, where stage c - 2 was, of which
 * nobody has sums or scales to read any more. All threads come here. */
template <class C>
DEV_INLINE void
q8_wg_turn(unsigned char *smem, Q8WgLoader<C> &load, const Q8WgSpan &s, uint32_t c)
{
    const uint32_t  next = c + C::STAGES - 2;

    cp_wait<C::STAGES - 3>();
    wg_shared();
    __syncthreads();
    if (next < s.n_stages) {
        unsigned char  *to = smem + next % C::STAGES * C::stage;

        load.weights(to, s, next);
        load.all_else(to, s, next);
    }
    cp_commit();
}

/* A warp's chains and what is under way for them. q: number of a batch in its stage. */
template <class C>
struct Q8WgWarp {
    using F = typename C::F;
    static constexpr int  P = C::PARTS, PN = C::PN, LB = C::LB;
    static constexpr int  blocks = LB / F::subs;           /* of a batch */
    static constexpr int  steps = F::nibbles ? (blocks + 1) / 2 : blocks;

    float     acc[P][PN][4], min[F::min ? P : 1][F::min ? PN : 1][4];
    float     sum[2][LB][PN][4];
    float     dw[2][4], m[F::min ? 2 : 1][4];    /* of four links, rows g and g + 8 */
    uint4     w[steps];
    uint32_t  a[2][blocks][2][4];

    /* Reads the weights of batch q. */
    __device__ __forceinline__ void
    fetch(const unsigned char *stage, int q)
    {
#pragma unroll
        for (int i = 0; i < steps && q % P == 0; i++) {
            const int  b = q / P * blocks + i * (F::nibbles ? 2 : 1);
            const int  step = F::nibbles ? b / 2 : b;

            if (!F::nibbles || b % 2 == 0) {
                w[i] = ld16a(stage + C::data + (threadIdx.x / DEV_WARP * F::steps + step) * CU_STEP
                             + threadIdx.x % DEV_WARP * 16);
            }
        }
    }

    /* They become fragments. */
    __device__ __forceinline__ void
    frags(int q)
    {
#pragma unroll
        for (int i = 0; i < blocks && q % P == 0; i++) {
            q8_wg_frag<C::form>(a[q / P % 2][i], w[F::nibbles ? i / 2 : i], q / P * blocks + i);
        }
    }

    /* Begins the sums of batch q. */
    __device__ __forceinline__ void
    begin(const WgShared &stage, int q)
    {
        wg_fence();
#pragma unroll
        for (int i = 0; i < LB; i++) {
            const int             b = i / F::subs;
            const uint32_t        at = (q / P * blocks + b) * 4 * C::pitch + q % P * PN * 128;
            const uint32_t (*const f)[4] = a[q / P % 2][b];

            if (F::subs == 2) {
                wg_mma<false>(sum[q % 2][i], f[i % 2], stage, at + i % 2 * 2 * C::pitch,
                              C::pitch);
            } else {
                wg_mma<false>(sum[q % 2][i], f[0], stage, at, C::pitch);
                wg_mma<true>(sum[q % 2][i], f[1], stage, at + 2 * C::pitch, C::pitch);
            }
        }
        wg_commit();
    }

    /* Scales, or minima, of the four links of a group, of rows g and g + 8; from: where the stage
     * has them. */
    __device__ __forceinline__ void
    scales(float s[2][4], const unsigned char *from, int group) const
    {
        from += threadIdx.x / DEV_WARP * F::scale_bytes + group * F::group_bytes
                + threadIdx.x % DEV_WARP / 4 * F::row_bytes;
        q8_scales<F::row_bytes, F::t.scale>(s[0], from);
        q8_scales<F::row_bytes, F::t.scale>(s[1], from + 8 * F::row_bytes);
    }

    /* Floats of tile j of a row of BN at p, for this lane's two columns. */
    __device__ __forceinline__ float2
    floats(const unsigned char *p, int j) const
    {
        return ldf2((const float *) (const void *) p + j / 2 * 16 + threadIdx.x % 4 * 4
                    + j % 2 * 2);
    }

    /* The chains of batch q. */
    __device__ __forceinline__ void
    chain(const unsigned char *stage, int q)
    {
        float  s[LB][PN][4];

        if (C::early) {
            products(s, stage, q);
        }
        wg_wait<1>(sum[q % 2]);
        if (!C::early) {
            products(s, stage, q);
        }
#pragma unroll
        for (int i = 0; i < LB * PN * 4; i++) {
            const int  l = i / 4 / PN, j = i / 4 % PN;

            acc[q % P][j][i % 4] = fmaf(sum[q % 2][l][j][i % 4], s[l][j][i % 4],
                                        acc[q % P][j][i % 4]);
        }
    }

    /* Products of scales of batch q; and links of the chains of minima. */
    __device__ __forceinline__ void
    products(float s[LB][PN][4], const unsigned char *stage, int q)
    {
#pragma unroll
        for (int i = 0; i < LB; i++) {
            const int  l = q / P * LB + i;

            if (l % CU_GROUP == 0 && q % P == 0) {
                scales(dw, stage + C::scale, l / CU_GROUP);
                if constexpr (F::min) {
                    scales(m, stage + C::min, l / CU_GROUP);
                }
            }
#pragma unroll
            for (int j = 0; j < PN; j++) {
                const int     at = q % P * PN + j;
                const float2  da = floats(stage + C::d + l / F::subs * C::BN * 4, at);

#pragma unroll
                for (int k = 0; k < 4; k++) {
                    s[i][j][k] = dw[k / 2][l % 4] * (k % 2 ? da.y : da.x);
                }
                if constexpr (F::min) {
                    const float2  ds = floats(stage + C::dsum + l * C::BN * 4, at);

#pragma unroll
                    for (int k = 0; k < 4; k++) {
                        min[q % P][j][k] = fmaf(m[k / 2][l % 4], k % 2 ? ds.y : ds.x,
                                                min[q % P][j][k]);
                    }
                }
            }
        }
    }

    __device__ __forceinline__ void
    store(const cu_q8_args_t &p, const cu_q8_part_t &part, uint32_t out0, uint32_t row0) const
    {
        const uint32_t  lane = threadIdx.x % DEV_WARP;
        const uint32_t  out = out0 + threadIdx.x / DEV_WARP * CU_TILE + lane / 4;

#pragma unroll
        for (int k = 0; k < P * PN * 4; k++) {
            const int       q = k / 4 / PN, j = k / 4 % PN, i = k % 4;
            const uint32_t  row = row0 + k / 4 * 8 + lane % 4 * 2 + (i & 1), o = out + i / 2 * 8;
            float          *y = part.y + (uint64_t) row * p.ldy + o;
            float           v = acc[q][j][i];

            if (F::min) {
                v += min[F::min ? q : 0][F::min ? j : 0][i];
            }
            if (row < p.n && o < part.n_out) {
                *y = p.add ? *y + v : v;
            }
        }
    }
};

/* q8_wg_k: as q8_tile_k; acts: what q8_wg_acts_k made of the activations
 * launch   (blocks of BN rows, blocks of BM outputs of all matrices): a wave reads few weights
 * math     equal bits to kern_linear_q8_ref
 * traffic  cu_linear_cost(), and activations of 2 bytes     bound: DRAM for few rows, then issue
 *          slots, 2 f32 operations a lane for each output and block
 * measured not measured
 * source   DESIGN.md 5; PTX ISA for fragments and shared memory */
template <class C>
__global__ void __launch_bounds__(C::threads, C::BLOCKS)
q8_wg_k(const cu_q8_args_t p, const uint8_t *acts)
{
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ == 900
    using F = typename C::F;
    static_assert(C::STAGES >= 3, "stages fit into an SM's shared memory");
    DYN_SMEM(smem);
    const cu_q8_part_t  &part = q8_part(p, blockIdx.y);
    const uint32_t       tile0 = (blockIdx.y - part.block0) * C::tiles;
    Q8WgWarp<C>          x;
    Q8WgSpan             s;
    Q8WgLoader<C>        load;

    s.n_stages = (p.n_in / CU_BLOCK + Q8_KB - 1) / Q8_KB;
    s.steps = cu_steps(F::t, p.n_in);
    s.groups = cu_groups(F::t, p.n_in);
    s.tiles = cu_tiles(part.n_out) - tile0;
    s.data = part.data + (uint64_t) tile0 * s.steps * CU_STEP;
    s.scale = part.scale + (uint64_t) tile0 * s.groups * F::group_bytes;
    s.min = F::min ? part.min + (uint64_t) tile0 * s.groups * F::group_bytes : NULL;
    s.acts = acts + (uint64_t) blockIdx.x * s.n_stages * C::unit;
    memset(&x, 0, sizeof(x));

    /* Weights do not depend on the kernel before this one. */
    load.start(s);
    for (uint32_t c = 0; c < C::STAGES - 2 && c < s.n_stages; c++) {
        load.weights(smem + c * C::stage, s, c);
    }
    dev_wait();
    for (uint32_t c = 0; c < C::STAGES - 2; c++) {
        if (c < s.n_stages) {
            load.all_else(smem + c * C::stage, s, c);
        }
        cp_commit();
    }

    q8_wg_turn<C>(smem, load, s, 0);
    x.fetch(smem, 0);
    x.frags(0);
    x.begin(WgShared(smem), 0);
    wg_wait<0>(x.sum[0]);

    const unsigned char  *stage = smem;

    for (uint32_t c = 0; c < s.n_stages; c++) {
        const unsigned char  *next = stage;

        x.fetch(stage, 1);
#pragma unroll
        for (int q = 0; q < C::batches; q++) {
            const bool  last = q + 1 == C::batches;

            /* after the last stage its first sums are made once more, for nobody */
            if (last && c + 1 < s.n_stages) {
                next = smem + (c + 1) % C::STAGES * C::stage;
                q8_wg_turn<C>(smem, load, s, c + 1);
            }
            if (last) {
                x.fetch(next, 0);
            }
            x.frags((q + 1) % C::batches);
            x.begin(WgShared(last ? next : stage), (q + 1) % C::batches);
            if (q + 2 < C::batches) {
                x.fetch(stage, q + 2);
            }
            x.chain(stage, q);
        }
        wg_wait<0>(x.sum[0]);
        stage = next;
    }
    cp_wait<0>();
    dev_launch_dependents();
    x.store(p, part, tile0 * CU_TILE, blockIdx.x * C::BN);
#endif
}

/* Bytes of dev->work for n rows: the last block of rows may be all but empty. */
static size_t
q8_wg_work(uint32_t form, uint32_t n_in, uint32_t n)
{
    const cu_traits_t  t = cu_traits(form);
    const uint64_t     n_stages = (n_in / CU_BLOCK + Q8_KB - 1) / Q8_KB;
    const uint64_t     floats = Q8_KB * (1 + t.min * t.subs);

    return ((uint64_t) n + Q8_WG_ROWS - 1) * n_stages
           * (Q8_KB * CU_BLOCK * 2 + floats * sizeof(float));
}

/* Two launches. INFER_OK or INFER_DEVICE. */
template <class C>
static int
q8_wg_launch(const cu_dev_t *dev, cu_q8_args_t *p)
{
    const uint32_t  n_stages = (p->n_in / CU_BLOCK + Q8_KB - 1) / Q8_KB;
    const uint32_t  rows = (p->n + C::BN - 1) / C::BN;
    int             rc;

    p->n_blocks = 0;
    for (uint32_t i = 0; i < p->n_parts; i++) {
        p->part[i].block0 = p->n_blocks;
        p->n_blocks += (cu_tiles(p->part[i].n_out) + C::tiles - 1) / C::tiles;
    }
    rc = dev_launch(dev, q8_wg_acts_k, dim3(n_stages, rows), dim3(Q8_WG_THREADS), 0, *p, dev->work,
                    (uint32_t) C::BN, (uint32_t) C::F::links);
    return rc != INFER_OK ? rc
           : dev_launch(dev, q8_wg_k<C>, dim3(rows, p->n_blocks), dim3(C::threads), C::smem, *p,
                        dev->work);
}

#endif
