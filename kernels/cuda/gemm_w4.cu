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

/* p: scales of tile, group and lane's g: f16 x 2, or with MIN f16 pairs x 2 */
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

template <bool MIN>
DEV_INLINE uint2
w4_load_scales(const uint8_t *p)
{
    return MIN ? ld8(p) : make_uint2(ld4(p), 0);
}

/* acc += the product of 32 columns, half h of a block, with NJ tiles of
 * activation rows from j0 on; x: activations. */
template <int MT, int NT, int NJ, bool MIN>
DEV_INLINE void
w4_half(float (&acc)[MT][NT][4], int j0, const uint4 (&a)[MT],
    const uint2 (&s)[MT][2], const uint4 (&x)[NJ], int h)
{
    uint32_t  fa[MT][2][4];
    w4_scale_t  f[MT];

#pragma unroll
    for (int m = 0; m < MT; m++) {
        w4_unpack<MIN>(h == 0 ? a[m].x : a[m].z, fa[m][0]);
        w4_unpack<MIN>(h == 0 ? a[m].y : a[m].w, fa[m][1]);
        f[m] = w4_scales<MIN>(h == 0 ? s[m][0] : s[m][1]);
    }

#pragma unroll
    for (int j = 0; j < NJ; j++) {
        const uint32_t  b0[2] = { x[j].x, x[j].y }, b1[2] = { x[j].z, x[j].w };
        const uint32_t  one[4] = { W4_ONES, W4_ONES, W4_ONES, W4_ONES };
        float  sum[4] = {};

        if (MIN) {
            mma_bf16(sum, one, b0);
            mma_bf16(sum, one, b1);
        }

#pragma unroll
        for (int m = 0; m < MT; m++) {
            float  c[4] = {};

            mma_bf16(c, fa[m][0], b0);
            mma_bf16(c, fa[m][1], b1);

#pragma unroll
            for (int r = 0; r < 4; r++) {
                float  *q = &acc[m][j0 + j][r];

                *q = fmaf(f[m].scale[r >> 1], c[r], *q);

                if (MIN) {
                    *q = fmaf(f[m].min[r >> 1], sum[r & 1], *q);
                }
            }
        }
    }
}

/*
 * w4_decode_k: y[i, o] = sum_k a[i, k] w[o, k], few rows
 * shapes   a bf16 [n, n_in], n_in % 32 == 0; w as in gemm_f.h
 * launch   (tiles of 16 MT rows of all parts) x (n / (8 NT)) blocks of 256;
 *          smem CU_F_SPLIT * F_NC(NT) * 8 * (16 MT + 4) words
 * math     blocks of 64 columns to 8 warps in turn, then warps in order
 * traffic  cu_linear_f_cost()
 * bound    DRAM up to about 32 rows, then mma issue
 * measured not measured
 * source   own; 128 + q as in Marlin's and others' int4 kernels
 */
template <int MT, int NT, int U, bool MIN, bool GU>
__global__ void __launch_bounds__(F_THREADS, NT < 4 ? 2 : 1)
w4_decode_k(const cu_f_args_t p)
{
    constexpr int  SB = MIN ? 8 : 4;      /* bytes of a lane's scales */
    constexpr bool  AHEAD = NT < 4;       /* registers for a whole block */
    constexpr int  NJ = NT < 2 ? NT : 2;  /* tiles of rows fetched at once */
    __shared__ __align__(16) float
        red[CU_F_SPLIT * F_NC(NT) * 8 * (16 * MT + 4)];
    const int  warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
    const int  g = lane >> 2, t = lane & 3;
    const cu_f_part_t  part = f_pick(p, GU ? 0 : f_part(p, blockIdx.x));
    const uint32_t  tile = (blockIdx.x - part.tile0) * (GU ? 1 : MT);
    const uint32_t  tiles = (part.n_out + 15) / 16, nb = p.pitch;
    const uint32_t  col0 = blockIdx.y * (8 * NT);
    const uint8_t  *const b = p.a + (size_t) (col0 + g) * p.a_bytes + 16 * t;
    const uint8_t  *w[MT], *sc[MT];
    bool  has[MT], live[NT];
    uint4  a[U][MT];
    uint2  s[U][MT][2];
    float  acc[MT][NT][4] = {};

    static_assert(!GU || MT == 2, "gate and up are one tile each");

#pragma unroll
    for (int m = 0; m < MT; m++) {
        const uint32_t  r = GU ? tile : tile + m;
        const cu_f_part_t  q = GU && m == 1 ? p.part[1] : part;

        has[m] = r < tiles;
        w[m] = q.data + (size_t) (has[m] ? r : 0) * nb * 512 + lane * 16;
        sc[m] = (const uint8_t *) q.scale
                + ((size_t) (has[m] ? r : 0) * p.n_groups * 8 + g) * SB;
    }

#pragma unroll
    for (int j = 0; j < NT; j++) {
        live[j] = col0 + 8 * j + g < p.n;
    }

    auto load = [&](uint32_t kb, uint4 (&a)[MT], uint2 (&s)[MT][2]) {
#pragma unroll
        for (int m = 0; m < MT; m++) {
            const bool  ok = kb < nb && has[m];

            a[m] = ok ? ld16(w[m] + (size_t) kb * 512) : f_zero4();

#pragma unroll
            for (int h = 0; h < 2; h++) {
                const uint32_t  grp = (2 * kb + h) >> p.group_shift;

                s[m][h] = ok && grp < p.n_groups
                          ? w4_load_scales<MIN>(sc[m] + (size_t) grp * 8 * SB)
                          : make_uint2(0, 0);
            }
        }
    };

    auto fetch = [&](uint32_t k, int j0, uint4 (&x)[NJ]) {
#pragma unroll
        for (int j = 0; j < NJ; j++) {
            const bool  ok = live[j0 + j] && k * 64 + 16 * t < p.a_bytes;

            x[j] = ok ? ld16a(b + (8 * (j0 + j)) * p.a_bytes + k * 64) : f_zero4();
        }
    };

#pragma unroll
    for (int u = 0; u < U; u++) {
        load(warp + u * CU_F_SPLIT, a[u], s[u]);
    }

    dev_launch_dependents();
    dev_wait();   /* weights do not depend on the kernel before, a does */

    for (uint32_t k0 = warp; k0 < nb; k0 += U * CU_F_SPLIT) {
        uint4  x[AHEAD ? U : 1][AHEAD ? 2 : 1][NJ], aw[U][MT];
        uint2  sw[U][MT][2];

        if (AHEAD) {
#pragma unroll
            for (int u = 0; u < U; u++) {
                fetch(2 * (k0 + u * CU_F_SPLIT), 0, x[u][0]);
                fetch(2 * (k0 + u * CU_F_SPLIT) + 1, 0, x[u][AHEAD]);
            }
        }

#pragma unroll
        for (int u = 0; u < U; u++) {
            load(k0 + (u + U) * CU_F_SPLIT, aw[u], sw[u]);
        }

#pragma unroll
        for (int u = 0; u < U; u++) {
            if (k0 + u * CU_F_SPLIT >= nb) {
                break;
            }

#pragma unroll (AHEAD ? 2 : 1)
            for (int h = 0; h < 2; h++) {
#pragma unroll
                for (int j0 = 0; j0 < NT; j0 += NJ) {
                    uint4 (&v)[NJ] = AHEAD && h == 1 ? x[u][AHEAD]
                                                     : x[AHEAD ? u : 0][0];

                    if (!AHEAD) {
                        /* orders nothing: keeps these loads from being moved
                         * up, where they would cost registers */
                        __syncwarp();
                        fetch(2 * (k0 + u * CU_F_SPLIT) + h, j0, v);
                    }

                    w4_half<MT, NT, NJ, MIN>(acc, j0, a[u], s[u], v, h);
                }
            }
        }

#pragma unroll
        for (int u = 0; u < U; u++) {
#pragma unroll
            for (int m = 0; m < MT; m++) {
                a[u][m] = aw[u][m];
                s[u][m][0] = sw[u][m][0];
                s[u][m][1] = sw[u][m][1];
            }
        }
    }

    f_finish<f_w4_t, MT, NT, GU>(p, part, tile * 16, col0, acc, red);
}

template <int MT, int NT, int U, bool MIN, bool GU>
static int
w4_decode_launch(const cu_dev_t *dev, cu_f_args_t *p)
{
    const uint32_t  rows = GU ? 16 : 16 * MT;
    uint32_t  tiles = 0;

    for (uint32_t i = 0; i < (GU ? 1 : p->n_parts); i++) {
        p->part[i].tile0 = tiles;
        tiles += (p->part[i].n_out + rows - 1) / rows;
    }

    return dev_launch(dev, w4_decode_k<MT, NT, U, MIN, GU>,
                      dim3(tiles, (p->n + 8 * NT - 1) / (8 * NT)),
                      dim3(F_THREADS), 0, *p);
}

/* By the number of rows alone; every choice gives the same bits. */
template <bool MIN>
static int
w4_decode(const cu_dev_t *dev, cu_f_args_t *p)
{
    if (p->h != NULL) {
        return p->n <= 8 ? w4_decode_launch<2, 1, 2, MIN, true>(dev, p)
               : p->n <= 16 ? w4_decode_launch<2, 2, 1, MIN, true>(dev, p)
               : p->n <= 32 ? w4_decode_launch<2, 4, 1, MIN, true>(dev, p)
               : w4_decode_launch<2, 8, 1, MIN, true>(dev, p);
    }

    return p->n <= 8 ? w4_decode_launch<1, 1, MIN ? 3 : 4, MIN, false>(dev, p)
           : p->n <= 16 ? w4_decode_launch<1, 2, 2, MIN, false>(dev, p)
           : p->n <= 32 ? w4_decode_launch<2, 4, 1, MIN, false>(dev, p)
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
 * measured not measured
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
        const w4_scale_t  f = w4_scales<MIN>(w4_load_scales<MIN>(sc));
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
