/*
 * gemm_f.cuh: the two kernels of the plain families (gemm_f.h), written once
 * over a traits class of the element: plain_decode_k streams weights from
 * memory straight into mma fragments, plain_tile_k is an ordinary tiled GEMM
 * through shared memory. Included by one .cu per element size, so that each
 * object holds its own instances.
 *
 * A traits class has: acc_t, the accumulator; step(), one mma over 32 bytes
 * of both operands; PROMOTE, whether tiles add sums of a few steps up in f32
 * outside the tensor core, whose own accumulator may keep fewer bits (fp8);
 * TAIL, whether a row may end within a block of 64 bytes; and for decode
 * frag(), fragments of 64 bytes of rows g and g + 8 of weights, x(), of rows
 * g of activations, and mma(), their product.
 */

#ifndef KERN_CUDA_GEMM_F_CUH
#define KERN_CUDA_GEMM_F_CUH

#include "dev.cuh"
#include "gemm_f.h"

#define F_THREADS  (CU_F_SPLIT * 32)

/* Fragments that are the bytes as they lie. */
template <class F, class ACC>
struct f_bytes_t {
    typedef ACC acc_t;
    typedef uint4 x_t;
    static constexpr bool PROMOTE = false;

    struct frag_t {
        uint4  lo, hi;
    };

    DEV_INLINE frag_t
    frag(const uint4 &lo, const uint4 &hi)
    {
        return { lo, hi };
    }

    DEV_INLINE x_t
    x(const uint4 &v)
    {
        return v;
    }

    DEV_INLINE void
    mma(ACC (&acc)[4], const frag_t &f, const x_t &x)
    {
        const uint4  lo = f.lo, hi = f.hi;
        const uint32_t  a0[4] = { lo.x, hi.x, lo.y, hi.y };
        const uint32_t  a1[4] = { lo.z, hi.z, lo.w, hi.w };
        const uint32_t  b0[2] = { x.x, x.y }, b1[2] = { x.z, x.w };

        F::step(acc, a0, b0);
        F::step(acc, a1, b1);
    }
};

struct f_bf16_t : f_bytes_t<f_bf16_t, float> {
    static constexpr bool TAIL = false;
    DEV_INLINE void
    step(float c[4], const uint32_t a[4], const uint32_t b[2])
    {
        mma_bf16(c, a, b);
    }
};

struct f_f16_t : f_bytes_t<f_f16_t, float> {
    static constexpr bool TAIL = false;
    DEV_INLINE void
    step(float c[4], const uint32_t a[4], const uint32_t b[2])
    {
        mma_f16(c, a, b);
    }
};

struct f_w8_t : f_bytes_t<f_w8_t, int> {
    static constexpr bool TAIL = true;
    DEV_INLINE void
    step(int c[4], const uint32_t a[4], const uint32_t b[2])
    {
        mma_s8(c, a, b);
    }
};

/* Where tensor cores have no e4m3 product (sm_90, sm_100), the compiler makes
 * one of two f16 products, and converts both sides and adds in f32 again for
 * each: here a side is converted once for all that it meets, and sums stay in
 * the tensor core. f16 holds every e4m3, so the products are exact. */
#if defined(__CUDA_ARCH__) && (__CUDA_ARCH__ < 900 || __CUDA_ARCH__ >= 1200)
#define F8_PRODUCTS  true
#else
#define F8_PRODUCTS  false
#endif

struct f_f8_t {
    typedef float acc_t;
    static constexpr bool PROMOTE = true;
    static constexpr bool TAIL = true;

    struct frag_t {
        uint32_t  a[4][4];        /* as bytes, the first two */
    };

    struct x_t {
        uint32_t  b[4][2];
    };

    DEV_INLINE void
    step(float c[4], const uint32_t a[4], const uint32_t b[2])
    {
        mma_e4m3(c, a, b);
    }

    DEV_INLINE frag_t
    frag(const uint4 &lo, const uint4 &hi)
    {
        const uint32_t  l[4] = { lo.x, lo.y, lo.z, lo.w };
        const uint32_t  u[4] = { hi.x, hi.y, hi.z, hi.w };
        frag_t  f;

#pragma unroll
        for (int k = 0; k < 4; k++) {
            if (F8_PRODUCTS) {
                f.a[k / 2][k % 2 * 2] = l[k];
                f.a[k / 2][k % 2 * 2 + 1] = u[k];

            } else {
                f.a[k][0] = dev_f16x2_e4m3((uint16_t) l[k]);
                f.a[k][1] = dev_f16x2_e4m3((uint16_t) u[k]);
                f.a[k][2] = dev_f16x2_e4m3((uint16_t) (l[k] >> 16));
                f.a[k][3] = dev_f16x2_e4m3((uint16_t) (u[k] >> 16));
            }
        }

        return f;
    }

    DEV_INLINE x_t
    x(const uint4 &v)
    {
        const uint32_t  w[4] = { v.x, v.y, v.z, v.w };
        x_t  x;

#pragma unroll
        for (int k = 0; k < 4; k++) {
            if (F8_PRODUCTS) {
                x.b[k / 2][k % 2] = w[k];

            } else {
                x.b[k][0] = dev_f16x2_e4m3((uint16_t) w[k]);
                x.b[k][1] = dev_f16x2_e4m3((uint16_t) (w[k] >> 16));
            }
        }

        return x;
    }

    DEV_INLINE void
    mma(float (&acc)[4], const frag_t &f, const x_t &x)
    {
        if (F8_PRODUCTS) {
            float  c[4] = {};

            mma_e4m3(c, f.a[0], x.b[0]);
            mma_e4m3(c, f.a[1], x.b[1]);

#pragma unroll
            for (int r = 0; r < 4; r++) {
                acc[r] += c[r];
            }

        } else {
#pragma unroll
            for (int k = 0; k < 4; k++) {
                mma_f16(acc, f.a[k], x.b[k]);
            }
        }
    }
};

/* The matrix that a block of the grid belongs to. */
DEV_INLINE int
f_part(const cu_f_args_t &p, uint32_t tile)
{
    int  i = 0;

    if (p.n_parts > 1 && tile >= p.part[1].tile0) {
        i = 1;
    }

    if (p.n_parts > 2 && tile >= p.part[2].tile0) {
        i = 2;
    }

    return i;
}

/* Words of a part without indexing the parameters, which would copy them to
 * local memory. */
DEV_INLINE cu_f_part_t
f_pick(const cu_f_args_t &p, int i)
{
    return i == 0 ? p.part[0] : i == 1 ? p.part[1] : p.part[2];
}

DEV_INLINE uint4
f_zero4(void)
{
    return make_uint4(0, 0, 0, 0);
}

/* out[T, F] of a fused gate and up. */
DEV_INLINE void
f_store_h(const cu_f_args_t &p, size_t i, float gate, float up)
{
    const float  v = gate / (1.0f + __expf(-gate)) * up;

    p.h[i] = p.h_f16 ? dev_to_f16(v) : dev_to_bf16(v);
}

/*
 * Adds the partial sums of the warps in their order and writes the results.
 * acc: this warp's fragments, MT tiles of 16 rows by NT of 8 columns. red:
 * CU_F_SPLIT * F_NC * 8 * (16 MT + 4) words; F_NC tiles of columns at a time,
 * so that 64 columns fit in 48 KB. The pitch of 16 MT + 4 words makes the
 * eight g and the four t of a store hit 32 different banks, and four columns
 * lie 16 banks apart.
 */
#define F_NC(NT)  ((NT) < 4 ? (NT) : 4)

/* The n-th column that is added up: where a warp has two columns of 16 rows
 * at once, they are four apart. */
template <int ROWS>
DEV_INLINE int
f_column(int n)
{
    return ROWS == 16 ? (n & ~7) | (n & 1) << 2 | (n >> 1 & 3) : n;
}

template <class F, int MT, int NT, bool GU>
DEV_INLINE void
f_finish(const cu_f_args_t &p, const cu_f_part_t &part, uint32_t row0,
    uint32_t col0, typename F::acc_t (&acc)[MT][NT][4],
    typename F::acc_t *red)
{
    typedef typename F::acc_t  acc_t;
    constexpr int  NC = F_NC(NT), PITCH = 16 * MT + 4;
    constexpr int  ROWS = GU ? 8 * MT : 16 * MT;
    const int  tid = threadIdx.x, warp = tid >> 5, lane = tid & 31;
    const int  g = lane >> 2, t = lane & 3;

#pragma unroll
    for (int j0 = 0; j0 < NT; j0 += NC) {
        acc_t  *mine = red + warp * NC * 8 * PITCH;

#pragma unroll
        for (int j = 0; j < NC; j++) {
#pragma unroll
            for (int m = 0; m < MT; m++) {
#pragma unroll
                for (int r = 0; r < 4; r++) {
                    mine[(8 * j + 2 * t + (r & 1)) * PITCH + 16 * m + g
                         + 8 * (r >> 1)] = acc[m][j0 + j][r];
                }
            }
        }

        __syncthreads();   /* all partial sums are in red */

        for (int e = tid; e < NC * 8 * ROWS; e += F_THREADS) {
            const int  col = f_column<ROWS>(e / ROWS), row = e % ROWS;
            const uint32_t  i = col0 + 8 * j0 + col, o = row0 + row;
            acc_t  s[2];

            if (i >= p.n || o >= part.n_out) {
                continue;
            }

#pragma unroll
            for (int k = 0; k < (GU ? 2 : 1); k++) {
                const acc_t  *q = red + col * PITCH + row + ROWS * k;

                s[k] = q[0];
#pragma unroll
                for (int w = 1; w < CU_F_SPLIT; w++) {
                    s[k] += q[w * NC * 8 * PITCH];
                }
            }

            float  v = (float) s[0];

            if (p.a_scale != NULL) {
                v *= p.a_scale[i] * ((const float *) part.scale)[o];
            }

            if (GU) {
                float  u = (float) s[1];

                if (p.a_scale != NULL) {
                    u *= p.a_scale[i] * ((const float *) p.part[1].scale)[o];
                }

                f_store_h(p, (size_t) i * part.n_out + o, v, u);

            } else {
                float  *y = part.y + (size_t) i * p.ldy + o;

                *y = p.add ? *y + v : v;
            }
        }

        if (j0 + NC < NT) {
            __syncthreads();   /* red is read before it is written again */
        }
    }
}

/* Shared memory of a decode kernel: a ring of S stages a warp, later the
 * partial sums. */
constexpr int
f_smem(int stage, int stages, int mt, int nt)
{
    const int  ring = CU_F_SPLIT * stage * stages;
    const int  red = CU_F_SPLIT * F_NC(nt) * 8 * (16 * mt + 4) * 4;

    return ring > red ? ring : red;
}

/* Activations of 64 bytes of columns from byte k on; off: where this lane's
 * row of each tile begins. Columns beyond the row, which bytes may have, are
 * zero. */
template <class F, int NJ>
DEV_INLINE void
f_fetch(uint4 (&x)[NJ], const uint8_t *a, const uint32_t *off, uint32_t k,
    uint32_t a_bytes)
{
    const uint32_t  at = k + 16 * (threadIdx.x & 3);
    const bool  in = !F::TAIL || at < a_bytes;

#pragma unroll
    for (int j = 0; j < NJ; j++) {
        x[j] = ld16a(a + off[j] + (in ? at : 0));

        if (F::TAIL && !in) {
            x[j] = f_zero4();
        }
    }
}

/* acc += the product of one block of 64 bytes with tiles j0 .. j0 + NJ - 1
 * of activation rows. */
template <class F, int MT, int NT, int NJ>
DEV_INLINE void
f_block(typename F::acc_t (&acc)[MT][NT][4], int j0,
    const typename F::frag_t (&a)[MT], const uint4 (&v)[NJ])
{
#pragma unroll
    for (int j = 0; j < NJ; j++) {
        const typename F::x_t  x = F::x(v[j]);

#pragma unroll
        for (int m = 0; m < MT; m++) {
            F::mma(acc[m][j0 + j], a[m], x);
        }
    }
}

/*
 * plain_decode_k: y[i, o] = sum_k a[i, k] w[o, k], few rows
 * shapes   a [n, a_bytes], w [n_out, pitch] in bytes; a_bytes % 32 == 0,
 *          pitch % 64 == 0; y f32 [n, ldy]
 * launch   (tiles of 16 MT rows of all parts) x (n / (8 NT)) blocks of 256;
 *          smem f_smem() bytes: each warp copies its own weights by cp.async, S - 1
 *          stages ahead, each lane what it alone reads, so no barrier; the
 *          first stages before the kernel before this one has ended.
 *          Activations come to registers, one block of columns ahead
 * math     64-byte blocks of a row to 8 warps in turn, then warps in order;
 *          against double precision: gemm_f_test.h states the bound
 * traffic  cu_linear_f_cost()
 * bound    DRAM up to about 16 rows; every block also reads all activations
 *          from L2, n_out / (16 MT) times n * a_bytes in all, and that is
 *          the limit of 64 rows
 * measured H200, bench_float, 6144 x 4096 at 1, 16, 64 rows: bf16 14.3, 17.8,
 *          32.0 us (78, 63, 36 % of the floor), fp8 9.3, 10.7, 28.7 us (60,
 *          53, 21 %), W8A8 8.7, 10.0, 17.5 us (64, 57, 34 %), before
 *          activations of more than 16 rows were fetched ahead and before
 *          fp8 was multiplied as f16; since then not measured
 * source   own
 */
#define F_STAGES_OF(MT)  ((MT) == 1 ? 6 : 3)

template <class F, int MT, int NT, int BLOCKS, bool GU>
__global__ void __launch_bounds__(F_THREADS, BLOCKS)
plain_decode_k(const cu_f_args_t p)
{
    typedef typename F::acc_t  acc_t;
    constexpr int  STAGE = MT * 1024, S = F_STAGES_OF(MT);
    constexpr int  NJ = MT < 4 ? NT : NT / 2;   /* tiles fetched at once */
    DYN_SMEM(smem);
    const int  warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
    const int  g = lane >> 2, t = lane & 3;
    const cu_f_part_t  part = f_pick(p, GU ? 0 : f_part(p, blockIdx.x));
    const uint32_t  row0 = (blockIdx.x - part.tile0) * (GU ? 8 * MT : 16 * MT);
    const uint32_t  rows = (part.n_out + 15) & ~15u, nb = p.pitch / 64;
    const uint32_t  col0 = blockIdx.y * (8 * NT);
    uint8_t *const  ring = smem + warp * (S * STAGE) + lane * 16;
    const uint8_t  *w[MT];
    uint32_t  off[NT], slot = 0;
    uint4  x[2][NJ] = {};         /* one in use, one under way */
    acc_t  acc[MT][NT][4] = {};

    static_assert(!GU || MT % 2 == 0, "gate and up have half the tiles each");
    static_assert(S >= 3, "a stage is read, one lands, one is asked for");

#pragma unroll
    for (int m = 0; m < MT; m++) {
        const uint32_t  r = row0 + 16 * (GU ? m % (MT / 2) : m);

        /* a tile beyond the matrix repeats the first; nothing stores it */
        w[m] = (GU && m >= MT / 2 ? p.part[1].data : part.data)
               + (size_t) ((r < rows ? r : row0) + g) * p.pitch + 16 * t;
    }

#pragma unroll
    for (int j = 0; j < NT; j++) {
        const uint32_t  i = col0 + 8 * j + g;

        off[j] = (i < p.n ? i : p.n - 1) * p.a_bytes;
    }

    auto load = [&](uint32_t kb, uint32_t s) {
        if (kb < nb) {
#pragma unroll
            for (int m = 0; m < MT; m++) {
                uint8_t *const  to = ring + s * STAGE + m * 1024;

                cp16(to, w[m] + kb * 64, true);
                cp16(to + 512, w[m] + kb * 64 + 8 * p.pitch, true);
            }
        }

        cp_commit();
    };

#pragma unroll
    for (int s = 0; s < S - 1; s++) {
        load(warp + s * CU_F_SPLIT, s);
    }

    dev_launch_dependents();
    dev_wait();   /* weights do not depend on the kernel before, a does */

    if (warp < (int) nb) {
        f_fetch<F, NJ>(x[0], p.a, off, warp * 64, p.a_bytes);
    }

    for (uint32_t kb = warp; kb < nb; kb += CU_F_SPLIT) {
        const uint32_t  next = kb + CU_F_SPLIT;
        typename F::frag_t  a[MT];

        if (NJ < NT) {
            f_fetch<F, NJ>(x[1], p.a, off + NT - NJ, kb * 64, p.a_bytes);

        } else if (next < nb) {
            f_fetch<F, NJ>(x[1], p.a, off, next * 64, p.a_bytes);
        }

        cp_wait<S - 2>();
        load(kb + (S - 1) * CU_F_SPLIT, slot == 0 ? S - 1 : slot - 1);

#pragma unroll
        for (int m = 0; m < MT; m++) {
            const uint8_t *const  at = ring + slot * STAGE + m * 1024;

            a[m] = F::frag(ld16a(at), ld16a(at + 512));
        }

        f_block<F, MT, NT, NJ>(acc, 0, a, x[0]);

        if (NJ < NT) {
            if (next < nb) {
                f_fetch<F, NJ>(x[0], p.a, off, next * 64, p.a_bytes);
            }

            f_block<F, MT, NT, NJ>(acc, NT - NJ, a, x[1]);

        } else {
#pragma unroll
            for (int j = 0; j < NJ; j++) {
                x[0][j] = x[1][j];
            }
        }

        slot = slot == S - 1 ? 0 : slot + 1;
    }

    cp_wait<0>();
    __syncthreads();   /* all warps are done with their rings: now sums */
    f_finish<F, MT, NT, GU>(p, part, row0, col0, acc, (acc_t *) (void *) smem);
}

/* Blocks of the grid that each part begins with; how many there are. rows:
 * of a block. */
static inline uint32_t
f_tiles(cu_f_args_t *p, uint32_t rows)
{
    const uint32_t  parts = p->h != NULL ? 1 : p->n_parts;
    uint32_t  tiles = 0;

    for (uint32_t i = 0; i < parts; i++) {
        p->part[i].tile0 = tiles;
        tiles += (p->part[i].n_out + rows - 1) / rows;
    }

    return tiles;
}

/* Whether blocks of 64 weight rows beat those of 32, where n_rows
 * activations are read by every block and one block fills an SM: waves of
 * blocks times rows that a block reads. */
static inline bool
f_wide(const cu_dev_t *dev, cu_f_args_t *p, uint32_t n_rows)
{
    const uint32_t  sms = (uint32_t) dev->n_sms, half = p->h != NULL ? 2 : 1;
    const uint32_t  few = (f_tiles(p, 32 / half) + sms - 1) / sms;
    const uint32_t  many = (f_tiles(p, 64 / half) + sms - 1) / sms;

    return many * (64 + n_rows) < few * (32 + n_rows);
}

template <class F, int MT, int NT, int BLOCKS, bool GU>
static int
plain_decode_launch(const cu_dev_t *dev, cu_f_args_t *p)
{
    const uint32_t  tiles = f_tiles(p, GU ? 8 * MT : 16 * MT);

    return dev_launch(dev, plain_decode_k<F, MT, NT, BLOCKS, GU>,
                      dim3(tiles, (p->n + 8 * NT - 1) / (8 * NT)),
                      dim3(F_THREADS),
                      f_smem(MT * 1024, F_STAGES_OF(MT), MT, NT), *p);
}

template <class F, bool GU>
static int
plain_decode_many(const cu_dev_t *dev, cu_f_args_t *p)
{
    constexpr int  BLOCKS = F::PROMOTE ? 1 : 2;

    if (p->n <= 32) {
        return plain_decode_launch<F, 2, 4, BLOCKS, GU>(dev, p);
    }

    if constexpr (!F::PROMOTE) {   /* whose sums would not fit in registers */
        if (f_wide(dev, p, 64)) {
            return plain_decode_launch<F, 4, 8, 1, GU>(dev, p);
        }
    }

    return plain_decode_launch<F, 2, 8, 1, GU>(dev, p);
}

/* By the number of rows and the shape; every choice gives the same bits. */
template <class F>
static int
plain_decode(const cu_dev_t *dev, cu_f_args_t *p)
{
    if (p->h != NULL) {
        return p->n <= 8 ? plain_decode_launch<F, 2, 1, 3, true>(dev, p)
               : p->n <= 16 ? plain_decode_launch<F, 2, 2, 2, true>(dev, p)
               : plain_decode_many<F, true>(dev, p);
    }

    return p->n <= 8 ? plain_decode_launch<F, 1, 1, 4, false>(dev, p)
           : p->n <= 16 ? plain_decode_launch<F, 1, 2, 3, false>(dev, p)
           : plain_decode_many<F, false>(dev, p);
}

/*
 * plain_tile_k: the same product for many rows
 * shapes   as plain_decode_k; tiles of TM activation rows x TN weight rows
 * launch   (n / TM) x (n_out / TN) blocks of a warp for WM x WN of a tile;
 *          smem S stages of (TM + TN) * 128 bytes, S - 1 ahead by cp.async
 * math     f32 (s32) in the tensor core, columns ascending; fp8 adds up in
 *          f32 after every 128 columns
 * traffic  cu_linear_f_cost()
 * bound    tensor core; mma.sync reaches about 60 % of an H100's wgmma rate
 * measured H200, bench_float, 6144 x 4096 at 2,048 rows: bf16 369 us, fp8
 *          478 us, W8A8 217 us (28, 11, 24 % of the floor; cublasLt 78, 65,
 *          56 %, which is why this is the fallback)
 * source   own
 */
/* Where 16-byte piece c of row r of a stage lies: pieces are permuted within
 * a row of 128 bytes so that 8 rows of one piece touch all banks. */
DEV_INLINE int
f_swizzle(int r, int c)
{
    return r * 128 + ((c ^ (r & 7)) << 4);
}

template <int TM, int TN, int THREADS>
DEV_INLINE void
f_load_stage(uint8_t *s, const cu_f_args_t &p, uint32_t m0, uint32_t n0,
    uint32_t k0)
{
    for (int i = threadIdx.x; i < (TM + TN) * 8; i += THREADS) {
        const int  r = i >> 3, c = i & 7;
        const uint32_t  k = k0 + 16 * c;
        const bool  act = r < TM;
        const uint32_t  row = act ? m0 + r : n0 + r - TM;
        const bool  ok = act ? row < p.n && k < p.a_bytes
                             : row < p.part[0].n_out && k < p.pitch;
        const uint8_t  *src = act ? p.a + (size_t) row * p.a_bytes + k
                              : p.part[0].data + (size_t) row * p.pitch + k;

        cp16(s + f_swizzle(r, c), ok ? src : p.a, ok);
    }
}

/* Fragments of mma step kk of a stage: 16 activation rows from row r on, 16
 * weight rows from row r on (two n8 tiles). */
DEV_INLINE void
f_fragment_a(uint32_t f[4], const uint8_t *s, int r, int kk)
{
    const int  lane = threadIdx.x & 31;

    ldsm4(f, s + f_swizzle(r + (lane & 15), 2 * kk + (lane >> 4)));
}

DEV_INLINE void
f_fragment_b(uint32_t f[4], const uint8_t *s, int r, int kk)
{
    const int  lane = threadIdx.x & 31;

    ldsm4(f, s + f_swizzle(r + (lane & 7) + (lane >> 4) * 8,
                           2 * kk + (lane >> 3 & 1)));
}

/* acc += the 128 bytes of columns of one stage. */
template <class F, int MI, int WN>
DEV_INLINE void
f_stage(typename F::acc_t (&acc)[MI][WN / 8][4], const uint8_t *sa,
    const uint8_t *sb, int wm, int wn)
{
#pragma unroll
    for (int kk = 0; kk < 4; kk++) {
        uint32_t  fa[MI][4];

#pragma unroll
        for (int i = 0; i < MI; i++) {
            f_fragment_a(fa[i], sa, wm + 16 * i, kk);
        }

#pragma unroll
        for (int j = 0; j < WN / 8; j += 2) {
            uint32_t  fb[4];

            f_fragment_b(fb, sb, wn + 8 * j, kk);

#pragma unroll
            for (int i = 0; i < MI; i++) {
                F::step(acc[i][j], fa[i], fb);
                F::step(acc[i][j + 1], fa[i], fb + 2);
            }
        }
    }
}

/* The same with the stage's sums made apart, 16 weight rows at a time so
 * that they fit in registers. */
template <class F, int MI, int WN>
DEV_INLINE void
f_stage_promote(typename F::acc_t (&acc)[MI][WN / 8][4], const uint8_t *sa,
    const uint8_t *sb, int wm, int wn)
{
    uint32_t  fa[4][MI][4];

#pragma unroll
    for (int kk = 0; kk < 4; kk++) {
#pragma unroll
        for (int i = 0; i < MI; i++) {
            f_fragment_a(fa[kk][i], sa, wm + 16 * i, kk);
        }
    }

#pragma unroll
    for (int j = 0; j < WN / 8; j += 2) {
        typename F::acc_t  part[MI][2][4] = {};

#pragma unroll
        for (int kk = 0; kk < 4; kk++) {
            uint32_t  fb[4];

            f_fragment_b(fb, sb, wn + 8 * j, kk);

#pragma unroll
            for (int i = 0; i < MI; i++) {
                F::step(part[i][0], fa[kk][i], fb);
                F::step(part[i][1], fa[kk][i], fb + 2);
            }
        }

#pragma unroll
        for (int i = 0; i < MI; i++) {
#pragma unroll
            for (int r = 0; r < 4; r++) {
                acc[i][j][r] += part[i][0][r];
                acc[i][j + 1][r] += part[i][1][r];
            }
        }
    }
}

/* A lane has two neighbouring columns of one row. Lanes of rows g and g + 1
 * trade, so that the even one stores its first column of both rows and the odd
 * one its second: eight lanes fill the 32 bytes of a row, whatever ldy is. */
template <class F, int MI, int WN>
DEV_INLINE void
f_store_tile(const cu_f_args_t &p, uint32_t m0, uint32_t n0,
    const typename F::acc_t (&acc)[MI][WN / 8][4])
{
    typedef typename F::acc_t  acc_t;
    const int  lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
    const bool  odd = g & 1;

#pragma unroll
    for (int i = 0; i < MI; i++) {
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const uint32_t  m = m0 + 16 * i + 8 * h + (g & 6);

#pragma unroll
            for (int j = 0; j < WN / 8; j++) {
                const uint32_t  o = n0 + 8 * j + 2 * t + odd;
                const acc_t  a = acc[i][j][2 * h], b = acc[i][j][2 * h + 1];
                const acc_t  got = __shfl_xor_sync(~0u, odd ? a : b, 4);
                const acc_t  sum[2] = { odd ? got : a, odd ? b : got };

#pragma unroll
                for (uint32_t r = 0; r < 2; r++) {
                    float  v = (float) sum[r];
                    float  *y = p.part[0].y + (size_t) (m + r) * p.ldy + o;

                    if (m + r >= p.n || o >= p.part[0].n_out) {
                        continue;
                    }

                    if (p.a_scale != NULL) {
                        v *= p.a_scale[m + r]
                             * ((const float *) p.part[0].scale)[o];
                    }

                    *y = p.add ? *y + v : v;
                }
            }
        }
    }
}

/* A warp's tile is WM activation rows x WN weight rows. */
template <class F, int TM, int TN, int WM, int WN, int S>
__global__ void __launch_bounds__(TM / WM * (TN / WN) * 32)
plain_tile_k(const cu_f_args_t p)
{
    typedef typename F::acc_t  acc_t;
    constexpr int  THREADS = TM / WM * (TN / WN) * 32, MI = WM / 16;
    constexpr int  STAGE = (TM + TN) * 128;
    DYN_SMEM(smem);
    const int  warp = threadIdx.x >> 5;
    const int  wm = warp % (TM / WM) * WM, wn = warp / (TM / WM) * WN;
    const uint32_t  m0 = blockIdx.x * TM, n0 = blockIdx.y * TN;
    const int  nk = (int) ((p.pitch + 127) / 128);
    acc_t  acc[MI][WN / 8][4] = {};

    static_assert(WN % 16 == 0, "B fragments are loaded for 16 rows at once");

    dev_launch_dependents();
    dev_wait();   /* the activations come from the kernel before */

    for (int s = 0; s < S - 1; s++) {
        if (s < nk) {
            f_load_stage<TM, TN, THREADS>(smem + s * STAGE, p, m0, n0, s * 128);
        }

        cp_commit();
    }

    for (int k = 0; k < nk; k++) {
        const uint8_t  *sa = smem + k % S * STAGE, *sb = sa + TM * 128;

        cp_wait<S - 2>();
        __syncthreads();   /* stage k is there; stage k - 1 is read */

        if (k + S - 1 < nk) {
            f_load_stage<TM, TN, THREADS>(
                smem + (k + S - 1) % S * STAGE, p, m0, n0,
                (k + S - 1) * 128);
        }

        cp_commit();

        if (F::PROMOTE) {
            f_stage_promote<F, MI, WN>(acc, sa, sb, wm, wn);
        } else {
            f_stage<F, MI, WN>(acc, sa, sb, wm, wn);
        }
    }

    cp_wait<0>();
    f_store_tile<F, MI, WN>(p, m0 + wm, n0 + wn, acc);
}

template <class F, int TM, int TN, int WM, int WN, int S>
static int
plain_tile_launch(const cu_dev_t *dev, const cu_f_args_t *p)
{
    constexpr int  SMEM = S * (TM + TN) * 128;

    /* blocks that run together share weights, which are the larger side */
    return dev_launch(dev, plain_tile_k<F, TM, TN, WM, WN, S>,
                      dim3((p->n + TM - 1) / TM,
                           (p->part[0].n_out + TN - 1) / TN),
                      dim3(TM / WM * (TN / WN) * 32), SMEM, *p);
}

/* Large tiles where they fill the device, else small ones. One matrix. */
template <class F>
static int
plain_tiles(const cu_dev_t *dev, const cu_f_args_t *p)
{
    constexpr int  WARP = F::PROMOTE ? 32 : 64;
    const uint64_t  large = (uint64_t) ((p->part[0].n_out + 127) / 128)
                            * ((p->n + 127) / 128);

    if (large < (uint64_t) dev->n_sms) {
        return plain_tile_launch<F, 64, 64, 32, 32, 6>(dev, p);
    }

    /* a warp of 64 x 64 reads the least shared memory for what it does; with
     * a second set of sums it would not fit in registers */
    return plain_tile_launch<F, 128, 128, WARP, WARP, 3>(dev, p);
}

#endif
