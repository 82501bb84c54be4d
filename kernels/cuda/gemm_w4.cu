/*
 * gemm_w4.cu: linears of 4-bit weights and bf16 activations (W4A16; layout
 * in gemm_f.h). Nibbles become bf16 by one and-or and one addition: 0x4300 |
 * q is 128 + q, less 128 or 136. The tensor core sums q a of 32 columns in
 * f32, where there are minima a second product with a matrix of ones gives
 * sum(a), and then
 *     acc = fma(scale, sum(q a), acc)
 *     acc = fma(min, sum(a), acc)
 * so weights are exact and only activations are rounded, to bf16.
 */

#include "gemm_f.cuh"

#define W4_ONES  0x3f803f80u       /* bf16 1.0, twice */

struct f_w4_t {
    typedef float acc_t;
};

/* Fragments of mma step s from a lane's word: q, or q - 8 without minima. */
template <bool MIN>
DEV_INLINE void
w4_unpack(uint32_t w, uint32_t a[4])
{
#pragma unroll
    for (int i = 0; i < 4; i++) {
        a[i] = add_bf16x2((w >> (4 * i) & 0x000f000fu) | 0x43004300u,
                          MIN ? 0xc300c300u : 0xc308c308u);
    }
}

/* Scale and minimum of rows g and g + 8, as f32. */
struct w4_scale_t {
    float  scale[2], min[2];
};

/* v: what a lane reads of a group: f16 x 2, or with MIN f16 pairs x 2. */
template <bool MIN>
DEV_INLINE w4_scale_t
w4_scales(uint2 v)
{
    w4_scale_t  s;

#pragma unroll
    for (int h = 0; h < 2; h++) {
        const uint32_t  u = h == 0 ? v.x : v.y;

        s.scale[h] = dev_f16((uint16_t) (MIN ? u : v.x >> (16 * h)));
        s.min[h] = MIN ? dev_f16((uint16_t) (u >> 16)) : 0.0f;
    }

    return s;
}

/* The same from memory, global or shared. */
template <bool MIN>
DEV_INLINE w4_scale_t
w4_scales_at(const uint8_t *p)
{
    return w4_scales<MIN>(MIN ? ld8a(p)
                              : make_uint2(*(const uint32_t *) (const void *) p,
                                           0));
}

/* Weights of 32 columns of each tile. */
template <int MT>
struct w4_frag_t {
    uint32_t    a[MT][2][4];
    w4_scale_t  f[MT];
};

/* acc += their product with tiles j0 .. j0 + NJ - 1 of activation rows. */
template <int MT, int NT, int NJ, bool MIN>
DEV_INLINE void
w4_half(float (&acc)[MT][NT][4], int j0, const w4_frag_t<MT> &w,
    const uint4 (&x)[NJ])
{
    const uint32_t  one[4] = { W4_ONES, W4_ONES, W4_ONES, W4_ONES };

#pragma unroll
    for (int j = 0; j < NJ; j++) {
        const uint32_t  b0[2] = { x[j].x, x[j].y }, b1[2] = { x[j].z, x[j].w };
        float  sum[4] = {};

        if (MIN) {
            mma_bf16(sum, one, b0);
            mma_bf16(sum, one, b1);
        }

#pragma unroll
        for (int m = 0; m < MT; m++) {
            float  c[4] = {};

            mma_bf16(c, w.a[m][0], b0);
            mma_bf16(c, w.a[m][1], b1);

#pragma unroll
            for (int r = 0; r < 4; r++) {
                float  *q = &acc[m][j0 + j][r];

                *q = fmaf(w.f[m].scale[r >> 1], c[r], *q);

                if (MIN) {
                    *q = fmaf(w.f[m].min[r >> 1], sum[r & 1], *q);
                }
            }
        }
    }
}

/* Bytes of a lane's scales of a group, and of a stage of a warp's ring: data
 * and scales of up to two groups of each tile. */
#define W4_SB(MIN)         ((MIN) ? 8 : 4)
#define W4_TILE(MIN)       (512 + 16 * W4_SB(MIN))
#define W4_STAGES(MT)      ((MT) == 1 ? 8 : 4)

/*
 * w4_decode_k: y[i, o] = sum_k a[i, k] w[o, k], few rows
 * shapes   a bf16 [n, n_in], n_in % 32 == 0; w as in gemm_f.h
 * launch   (tiles of 16 MT rows of all parts) x (n / (8 NT)) blocks of 256;
 *          smem f_smem() bytes: each warp copies its own weights and scales
 *          by cp.async, S - 1 stages ahead, the first ones before the kernel
 *          before this one has ended
 * math     blocks of 64 columns to 8 warps in turn, then warps in order
 * traffic  cu_linear_f_cost()
 * bound    DRAM up to about 32 rows, then mma issue
 * measured H200, bench_float, 6144 x 4096 at 1, 16, 64 rows: 12.3, 10.1, 27.8
 *          us (25, 32, 13 % of the floor), before activations of more than 16
 *          rows were fetched ahead; since then not measured
 * source   own; 128 + q by and-or is what other int4 kernels do too
 */
template <int MT, int NT, int BLOCKS, bool MIN, bool GU>
__global__ void __launch_bounds__(F_THREADS, BLOCKS)
w4_decode_k(const cu_f_args_t p)
{
    constexpr int  SB = W4_SB(MIN), TILE = W4_TILE(MIN);
    constexpr int  STAGE = MT * TILE, S = W4_STAGES(MT);
    constexpr bool  AHEAD = NT < 4;       /* registers for the next block */
    constexpr int  NJ = AHEAD ? NT : NT / 2;   /* tiles fetched at once */
    DYN_SMEM(smem);
    const int  warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
    const int  g = lane >> 2;
    const cu_f_part_t  part = f_pick(p, GU ? 0 : f_part(p, blockIdx.x));
    const uint32_t  tile = (blockIdx.x - part.tile0) * (GU ? MT / 2 : MT);
    const uint32_t  tiles = (part.n_out + 15) / 16, nb = p.pitch;
    const uint32_t  halves = p.a_bytes / 64, scale_bytes = p.n_groups * 8 * SB;
    const uint32_t  col0 = blockIdx.y * (8 * NT);
    uint8_t *const  ring = smem + warp * (S * STAGE);
    const uint8_t  *w[MT], *sc[MT];
    uint32_t  off[NT], slot = 0;
    uint4  x[AHEAD ? 4 : 2][NJ] = {};     /* in use, and under way */
    float  acc[MT][NT][4] = {};

    static_assert(!GU || MT % 2 == 0, "gate and up have half the tiles each");

#pragma unroll
    for (int m = 0; m < MT; m++) {
        const uint32_t  r = tile + (GU ? m % (MT / 2) : m);
        const cu_f_part_t  q = GU && m >= MT / 2 ? p.part[1] : part;
        const size_t  at = r < tiles ? r : tile;   /* beyond: the first again */

        w[m] = q.data + at * nb * 512 + lane * 16;
        sc[m] = (const uint8_t *) q.scale + at * scale_bytes;
    }

#pragma unroll
    for (int j = 0; j < NT; j++) {
        const uint32_t  i = col0 + 8 * j + g;

        off[j] = (i < p.n ? i : p.n - 1) * p.a_bytes;
    }

    /* block kb into stage s; scales by the first lanes for all */
    auto load = [&](uint32_t kb, uint32_t s) {
        if (kb < nb) {
            const uint32_t  at = (2 * kb >> p.group_shift) * 8 * SB + lane * 16;

#pragma unroll
            for (int m = 0; m < MT; m++) {
                uint8_t *const  to = ring + s * STAGE + m * TILE;

                cp16(to + lane * 16, w[m] + (size_t) kb * 512, true);

                if (lane < SB && at < scale_bytes) {
                    cp16(to + 512 + lane * 16, sc[m] + at, true);
                }
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

    /* half k of the row, if it has it, of tiles j0 .. j0 + NJ - 1 */
    auto fetch = [&](uint32_t k, int j0, uint4 (&to)[NJ]) {
        if (k < halves) {
            f_fetch<f_bf16_t, NJ>(to, p.a, off + j0, k * 64, p.a_bytes);
        }
    };

    fetch(2 * warp, 0, x[0]);

    if (AHEAD) {
        fetch(2 * warp + 1, 0, x[1]);
    }

    for (uint32_t kb = warp; kb < nb; kb += CU_F_SPLIT) {
        const uint8_t *const  from = ring + slot * STAGE;
        uint4  a[MT];

        if (AHEAD) {
            fetch(2 * (kb + CU_F_SPLIT), 0, x[2 * AHEAD]);
            fetch(2 * (kb + CU_F_SPLIT) + 1, 0, x[3 * AHEAD]);

        } else {
            fetch(2 * kb, NT - NJ, x[1]);
        }

        cp_wait<S - 2>();
        __syncwarp();   /* scales that other lanes copied; and all lanes are
                         * done with the stage that is written next */
        load(kb + (S - 1) * CU_F_SPLIT, slot == 0 ? S - 1 : slot - 1);

#pragma unroll
        for (int m = 0; m < MT; m++) {
            a[m] = ld16a(from + m * TILE + lane * 16);
        }

#pragma unroll (AHEAD ? 2 : 1)
        for (uint32_t h = 0; h < 2; h++) {
            const uint32_t  k = 2 * kb + h;
            const uint32_t  grp = (k >> p.group_shift)
                                  - (2 * kb >> p.group_shift);
            w4_frag_t<MT>  w;

            if (k >= halves) {
                break;
            }

#pragma unroll
            for (int m = 0; m < MT; m++) {
                w4_unpack<MIN>(h == 0 ? a[m].x : a[m].z, w.a[m][0]);
                w4_unpack<MIN>(h == 0 ? a[m].y : a[m].w, w.a[m][1]);
                w.f[m] = w4_scales_at<MIN>(from + m * TILE + 512
                                           + (grp * 8 + g) * SB);
            }

            if (AHEAD) {
                w4_half<MT, NT, NJ, MIN>(acc, 0, w, x[h]);
                continue;
            }

            /* while half the tiles are multiplied, the next ones come */
            w4_half<MT, NT, NJ, MIN>(acc, 0, w, x[0]);
            fetch(h == 0 ? k + 1 : 2 * (kb + CU_F_SPLIT), 0, x[0]);
            w4_half<MT, NT, NJ, MIN>(acc, NT - NJ, w, x[1]);

            if (h == 0) {
                fetch(k + 1, NT - NJ, x[1]);
            }
        }

        slot = slot == S - 1 ? 0 : slot + 1;

        if (AHEAD) {
#pragma unroll
            for (int j = 0; j < NJ; j++) {
                x[0][j] = x[2 * AHEAD][j];
                x[1][j] = x[3 * AHEAD][j];
            }
        }
    }

    cp_wait<0>();
    __syncthreads();   /* all warps are done with their rings: now sums */
    f_finish<f_w4_t, MT, NT, GU>(p, part, tile * 16, col0, acc,
                                 (float *) (void *) smem);
}

template <int MT, int NT, int BLOCKS, bool MIN, bool GU>
static int
w4_decode_launch(const cu_dev_t *dev, cu_f_args_t *p)
{
    const uint32_t  tiles = f_tiles(p, GU ? 8 * MT : 16 * MT);

    return dev_launch(dev, w4_decode_k<MT, NT, BLOCKS, MIN, GU>,
                      dim3(tiles, (p->n + 8 * NT - 1) / (8 * NT)),
                      dim3(F_THREADS),
                      f_smem(MT * W4_TILE(MIN), W4_STAGES(MT), MT, NT), *p);
}

/* By the number of rows alone; every choice gives the same bits. */
template <bool MIN>
static int
w4_decode(const cu_dev_t *dev, cu_f_args_t *p)
{
    if (p->h != NULL) {
        return p->n <= 8 ? w4_decode_launch<2, 1, 3, MIN, true>(dev, p)
               : p->n <= 16 ? w4_decode_launch<2, 2, 2, MIN, true>(dev, p)
               : p->n <= 32 ? w4_decode_launch<2, 4, MIN ? 1 : 2, MIN, true>(dev, p)
               : w4_decode_launch<2, 8, 1, MIN, true>(dev, p);
    }

    return p->n <= 8 ? w4_decode_launch<1, 1, 4, MIN, false>(dev, p)
           : p->n <= 16 ? w4_decode_launch<1, 2, MIN ? 2 : 3, MIN, false>(dev, p)
           : p->n <= 32 ? w4_decode_launch<2, 4, MIN ? 1 : 2, MIN, false>(dev, p)
           : w4_decode_launch<2, 8, 1, MIN, false>(dev, p);
}

int
cu_w4_decode(const cu_dev_t *dev, cu_f_args_t *p, uint32_t form)
{
    return form == CU_N4M ? w4_decode<true>(dev, p) : w4_decode<false>(dev, p);
}

/*
 * w4_plain_k: plain[o, k] = bf16(q scale + min), for tiles and cublasLt
 * shapes   plain bf16 [n_out, pitch bytes]
 * launch   (tiles of 16 rows) x (blocks of 64 columns / 8) blocks of 256, a
 *          warp a block of 64 columns
 * math     one fma, rounded to bf16: weights lose up to 2^-9 here, which
 *          decode does not
 * traffic  the matrix + 2 n_out n_in bytes
 * bound    DRAM
 * measured H200, bench_float, 6144 x 4096 at 2,048 rows, with the product:
 *          152 us by cublasLt, 389 us by tiles; alone not measured
 * source   own
 */
template <bool MIN>
__global__ void __launch_bounds__(256)
w4_plain_k(const cu_weight_t w, uint32_t nb, uint32_t n_groups, uint32_t shift,
    uint32_t pitch, uint8_t *plain)
{
    constexpr int  SB = MIN ? 8 : 4;
    const int  lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
    const uint32_t  tile = blockIdx.x, kb = blockIdx.y * 8 + (threadIdx.x >> 5);

    dev_launch_dependents();

    if (kb >= nb) {
        return;
    }

    const uint4  a = ld16(w.data + ((size_t) tile * nb + kb) * 512 + lane * 16);

    dev_wait();   /* the kernel before may still read the last plain copy */

#pragma unroll
    for (int h = 0; h < 2; h++) {
        const uint32_t  grp = (2 * kb + h) >> shift, k = (2 * kb + h) * 32;

        if (k >= w.n_in) {
            break;
        }

        const uint8_t  *sc = (const uint8_t *) w.scale
                             + (((size_t) tile * n_groups + grp) * 8 + g) * SB;
        const w4_scale_t  f = w4_scales_at<MIN>(sc);
        uint32_t  fa[2][4];

        w4_unpack<MIN>(h == 0 ? a.x : a.z, fa[0]);
        w4_unpack<MIN>(h == 0 ? a.y : a.w, fa[1]);

#pragma unroll
        for (int r = 0; r < 2; r++) {
            const uint32_t  row = tile * 16 + g + 8 * r;
            uint32_t  out[4];

#pragma unroll
            for (int i = 0; i < 4; i++) {
                const uint32_t  v = fa[i >> 1][2 * (i & 1) + r];
                const float  lo = dev_bf16((uint16_t) v);
                const float  hi = dev_bf16((uint16_t) (v >> 16));

                out[i] = dev_to_bf16(fmaf(lo, f.scale[r], f.min[r]))
                         | (uint32_t) dev_to_bf16(fmaf(hi, f.scale[r],
                                                       f.min[r])) << 16;
            }

            if (row < w.n_out) {
                st16(plain + (size_t) row * pitch + 2 * k + 16 * t,
                     make_uint4(out[0], out[1], out[2], out[3]));
            }
        }
    }
}

int
cu_w4_plain(const cu_dev_t *dev, const cu_weight_t *w, uint16_t *plain)
{
    const uint32_t  nb = (w->n_in + 63) / 64;
    const uint32_t  groups = (w->n_in + w->group - 1) / w->group;
    const uint32_t  shift = w->group == 128 ? 2 : w->group == 64 ? 1 : 0;
    const uint32_t  pitch = cu_f_pitch(CU_BF16, w->n_in);
    const dim3  grid((w->n_out + 15) / 16, (nb + 7) / 8);

    return w->form == CU_N4M
           ? dev_launch(dev, w4_plain_k<true>, grid, dim3(256), 0, *w, nb,
                        groups, shift, pitch, (uint8_t *) plain)
           : dev_launch(dev, w4_plain_k<false>, grid, dim3(256), 0, *w, nb,
                        groups, shift, pitch, (uint8_t *) plain);
}
