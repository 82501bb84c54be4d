/*
 * norm.cu: from the residual row in f32 to the activations that a linear reads: rmsnorm and
 * quantization in one pass, or quantization alone. Written values are those of kernels/ref/ref_vec.c
 * for the same normalized row; the row's sum of squares has an order of its own (a thread's values,
 * lanes of a warp, warps), because ref's chain of n / 16 links would be the longest part of the
 * kernel.
 *
 * Of the families in want at most one may fill each of q, h and row: q8 or W8A8; bf16 (W4A16 too) or
 * f16; fp8 or W8A8.
 */

#include "dev.cuh"

#define NORM_MAX_DIM  16384
#define NORM_WARPS    32           /* most of a block */
#define NORM_COLS     4096         /* of one block where nothing is per row */

#define NORM_HALF     (1u << CU_BF16 | 1u << CU_W4A16)
#define NORM_ROW      (1u << CU_FP8 | 1u << CU_W8A8)

/* Scale and its inverse of values whose largest magnitude has these bits; ref's rules: all zero for
 * next to nothing, NaN where one is not finite. */
typedef struct {
    float  d, inv;
} norm_scale_t;

DEV_INLINE norm_scale_t
norm_scale(uint32_t amax, float top)
{
    norm_scale_t  s = { __uint_as_float(amax) / top, top / __uint_as_float(amax) };

    if (amax < 0x0d800000) {
        s.d = 0;
        s.inv = 0;
    } else if (amax >= 0x7f800000) {
        s.d = __uint_as_float(0x7fc00000);
        s.inv = 0;
    }
    return s;
}

DEV_INLINE uint32_t
norm_amax(const float v[4])
{
    uint32_t  m = 0;

    for (int i = 0; i < 4; i++) {
        m = max(m, __float_as_uint(v[i]) & 0x7fffffff);
    }
    return m;
}

/* Four int8 as one word, and their sum. */
DEV_INLINE uint32_t
norm_bytes(const float v[4], float inv, int *sum)
{
    uint32_t  word = 0;

    *sum = 0;
    for (int i = 0; i < 4; i++) {
        int  q = inv == 0 ? 0 : __float2int_rn(v[i] * inv);

        word |= (uint32_t) (q & 0xff) << 8 * i;
        *sum += q;
    }
    return word;
}

/* q8: eight neighbouring lanes have a block of 32. All lanes come here; on: the lane has values. */
DEV_INLINE void
norm_put_q8(const cu_acts_t &a, size_t at, const float v[4], bool on)
{
    uint32_t      amax = norm_amax(v), word;
    norm_scale_t  s;
    int           half, sum;

    for (int o = 1; o < 8; o *= 2) {
        amax = max(amax, __shfl_xor_sync(~0u, amax, o));
    }
    s = norm_scale(amax, 127.0f);
    word = norm_bytes(v, s.inv, &half);
    half += __shfl_xor_sync(~0u, half, 1);
    half += __shfl_xor_sync(~0u, half, 2);
    sum = half + __shfl_xor_sync(~0u, half, 4);
    if (!on) {
        return;
    }
    *(uint32_t *) (a.q + at) = word;
    if (at % 16 == 0) {
        a.dsum2[at / 16] = s.d * (float) half;
    }
    if (at % 32 == 0) {
        a.d[at / 32] = s.d;
        a.dsum[at / 32] = s.d * (float) sum;
    }
}

/* Families that need no more than the value, or a block of 32. at: index in [rows, n_in]. */
DEV_INLINE void
norm_put(const cu_acts_t &a, uint32_t want, size_t at, const float v[4], bool on)
{
    if (want & 1u << CU_Q8) {
        norm_put_q8(a, at, v, on);
    }
    if (on && (want & NORM_HALF) != 0) {
        st8(a.h + at, make_uint2(dev_to_bf16(v[0]) | (uint32_t) dev_to_bf16(v[1]) << 16,
                                 dev_to_bf16(v[2]) | (uint32_t) dev_to_bf16(v[3]) << 16));
    }
    if (on && (want & 1u << CU_F16) != 0) {
        st8(a.h + at, make_uint2(dev_to_f16(v[0]) | (uint32_t) dev_to_f16(v[1]) << 16,
                                 dev_to_f16(v[2]) | (uint32_t) dev_to_f16(v[3]) << 16));
    }
}

/* Families with one scale a row. */
DEV_INLINE void
norm_put_row(const cu_acts_t &a, uint32_t want, size_t at, const float v[4], norm_scale_t s)
{
    if (want & 1u << CU_W8A8) {
        int  sum;

        *(uint32_t *) (a.q + at) = norm_bytes(v, s.inv, &sum);
    } else {
        uint32_t  word = 0;

        for (int i = 0; i < 4; i++) {
            word |= (uint32_t) dev_to_e4m3(s.inv == 0 ? 0 : v[i] * s.inv) << 8 * i;
        }
        *(uint32_t *) (a.f8 + at) = word;
    }
}

/* Largest of the block's values; all threads get it. part: [NORM_WARPS]. */
DEV_INLINE uint32_t
norm_block_max(uint32_t *part, uint32_t v)
{
    uint32_t  lane = threadIdx.x % DEV_WARP;

    for (int o = DEV_WARP / 2; o > 0; o /= 2) {
        v = max(v, __shfl_xor_sync(~0u, v, o));
    }
    if (lane == 0) {
        part[threadIdx.x / DEV_WARP] = v;
    }
    __syncthreads();                       /* every warp's part is there */
    v = lane < blockDim.x / DEV_WARP ? part[lane] : 0;
    for (int o = DEV_WARP / 2; o > 0; o /= 2) {
        v = max(v, __shfl_xor_sync(~0u, v, o));
    }
    return v;
}

DEV_INLINE norm_scale_t
norm_row_scale(const cu_acts_t &a, uint32_t want, size_t row, uint32_t amax)
{
    norm_scale_t  s = norm_scale(amax, want & 1u << CU_W8A8 ? 127.0f : 448.0f);

    if (threadIdx.x == 0) {
        a.row[row] = s.d;
    }
    return s;
}

/* norm_k: a[t, :] = quantized(x[r, :] / sqrt(mean(x[r, :]^2) + eps) * w), r = rows[t] or t
 * shapes   x f32 [R, D], w f32 [D]; D % 32 == 0, D <= 16384 = 1024 threads * 4 values * NV
 * launch   n blocks of up to 512 threads (1024 for D > 8192); one row a block, kept in registers
 * math     f32; sum: fma chain of a thread, lanes, warps; the rest bit-equal to ref for the same r
 * traffic  cu_norm_cost(): x and w once in, the forms once out      flops 4 * n * D
 * bound    latency at few rows, DRAM at many
 */
template <int NV>
__global__ void __launch_bounds__(1024)
norm_k(const float *x, const float *w, float eps, const int32_t *rows, uint32_t dim, uint32_t want,
    cu_acts_t a)
{
    __shared__ float     part[NORM_WARPS];
    __shared__ uint32_t  amax[NORM_WARPS];
    uint32_t             lane = threadIdx.x % DEV_WARP, top = 0;
    float                v[NV][4], g[NV][4], sum = 0;
    int32_t              r;

#pragma unroll
    for (int j = 0; j < NV; j++) {         /* no kernel writes w: before the wait */
        uint32_t  col = (j * blockDim.x + threadIdx.x) * 4;
        float4    t = col < dim ? *(const float4 *) (w + col) : make_float4(0, 0, 0, 0);

        g[j][0] = t.x, g[j][1] = t.y, g[j][2] = t.z, g[j][3] = t.w;
    }
    dev_wait();
    dev_launch_dependents();
    r = rows != NULL ? rows[blockIdx.x] : (int32_t) blockIdx.x;
    if (r < 0) {
        return;
    }

#pragma unroll
    for (int j = 0; j < NV; j++) {
        uint32_t  col = (j * blockDim.x + threadIdx.x) * 4;
        float4    t = make_float4(0, 0, 0, 0);

        if (col < dim) {
            t = *(const float4 *) (x + (size_t) r * dim + col);
        }
        v[j][0] = t.x, v[j][1] = t.y, v[j][2] = t.z, v[j][3] = t.w;
        for (int i = 0; i < 4; i++) {
            sum = fmaf(v[j][i], v[j][i], sum);
        }
    }
    sum = warp_sum(sum);
    if (lane == 0) {
        part[threadIdx.x / DEV_WARP] = sum;
    }
    __syncthreads();                       /* every warp's part is there */
    sum = warp_sum(lane < blockDim.x / DEV_WARP ? part[lane] : 0.0f);
    sum = 1.0f / sqrtf(sum / (float) dim + eps);

#pragma unroll
    for (int j = 0; j < NV; j++) {
        uint32_t  col = (j * blockDim.x + threadIdx.x) * 4;

        for (int i = 0; i < 4; i++) {
            v[j][i] = v[j][i] * sum * g[j][i];
        }
        top = max(top, norm_amax(v[j]));
        norm_put(a, want, (size_t) blockIdx.x * dim + col, v[j], col < dim);
    }
    if ((want & NORM_ROW) != 0) {
        norm_scale_t  s = norm_row_scale(a, want, blockIdx.x, norm_block_max(amax, top));

#pragma unroll
        for (int j = 0; j < NV; j++) {
            uint32_t  col = (j * blockDim.x + threadIdx.x) * 4;

            if (col < dim) {
                norm_put_row(a, want, (size_t) blockIdx.x * dim + col, v[j], s);
            }
        }
    }
}

int
cu_norm(const cu_dev_t *dev, const float *x, const float *w, float eps, const int32_t *rows,
    uint32_t n, uint32_t dim, uint32_t want, const cu_acts_t *a)
{
    uint32_t  threads, nv;

    if (n == 0) {
        return INFER_OK;
    }
    if (dim % CU_BLOCK != 0 || dim > NORM_MAX_DIM) {
        return INFER_UNSUPPORTED;
    }
    threads = (dim / 4 + DEV_WARP - 1) / DEV_WARP * DEV_WARP;
    threads = threads < 512 ? threads : dim > 8192 ? 1024 : 512;
    nv = (dim / 4 + threads - 1) / threads;
    return dev_launch(dev, nv == 1 ? norm_k<1> : nv == 2 ? norm_k<2> : norm_k<4>, dim3(n),
                      dim3(threads), 0, x, w, eps, rows, dim, want, *a);
}

/* quantize_k: a[t, :] = quantized(x[t, :])
 * shapes   x f32 [n, D]; D % 32 == 0
 * launch   n x ceil(D / 4096) blocks of 256, n blocks where a scale is per row (x is read twice)
 * math     bit-equal to ref        traffic  cu_quantize_cost()       bound  DRAM
 */
__global__ void __launch_bounds__(256)
quantize_k(const float *x, uint32_t dim, uint32_t cols, uint32_t want, cu_acts_t a)
{
    __shared__ uint32_t  amax[NORM_WARPS];
    size_t               at = (size_t) blockIdx.x * dim;
    uint32_t             from = blockIdx.y * cols, to = min(dim, from + cols), top = 0;
    uint32_t             c;

    dev_wait();
    dev_launch_dependents();
    for (c = from; c < to; c += blockDim.x * 4) {
        uint32_t  col = c + threadIdx.x * 4;
        float4    t = make_float4(0, 0, 0, 0);
        float     v[4];

        if (col < to) {
            t = *(const float4 *) (x + at + col);
        }
        v[0] = t.x, v[1] = t.y, v[2] = t.z, v[3] = t.w;
        top = max(top, norm_amax(v));
        norm_put(a, want, at + col, v, col < to);
    }
    if ((want & NORM_ROW) != 0) {
        norm_scale_t  s = norm_row_scale(a, want, blockIdx.x, norm_block_max(amax, top));

        for (c = from + threadIdx.x * 4; c < to; c += blockDim.x * 4) {
            float4  t = *(const float4 *) (x + at + c);
            float   v[4] = { t.x, t.y, t.z, t.w };

            norm_put_row(a, want, at + c, v, s);
        }
    }
}

int
cu_quantize(const cu_dev_t *dev, const float *x, uint32_t n, uint32_t dim, uint32_t want,
    const cu_acts_t *a)
{
    uint32_t  cols = (want & NORM_ROW) != 0 ? dim : NORM_COLS;

    if (n == 0 || want == 0) {
        return INFER_OK;
    }
    if (dim % CU_BLOCK != 0) {
        return INFER_UNSUPPORTED;
    }
    return dev_launch(dev, quantize_k, dim3(n, (dim + cols - 1) / cols), dim3(256), 0, x, dim, cols,
                      want, *a);
}
