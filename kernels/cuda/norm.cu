/*
 * norm.cu: from the residual row in f32 to the activations that a linear reads: rmsnorm and
 * quantization in one pass, or quantization alone. Written values are those of kernels/ref/ref_vec.c
 * for the same normalized row; the row's sum of squares has an order of its own (a thread's values,
 * lanes of a warp, warps), because ref's chain of n / 16 links would be the longest part of the
 * kernel.
 */

#include "quant.cuh"

#define NORM_MAX_DIM  16384
#define NORM_WARPS    32           /* most of a block */
#define NORM_COLS     4096         /* of one block where nothing is per row */

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

DEV_INLINE quant_scale_t
norm_row_scale(const cu_acts_t &a, uint32_t want, size_t row, uint32_t amax)
{
    quant_scale_t  s = quant_scale(amax, want & 1u << CU_W8A8 ? 127.0f : 448.0f);

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
        float4    t = col < dim ? ldf4(w + col) : make_float4(0, 0, 0, 0);

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
            t = ldf4(x + (size_t) r * dim + col);
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
        quant_scale_t  s = norm_row_scale(a, want, blockIdx.x, norm_block_max(amax, top));

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
            t = ldf4(x + at + col);
        }
        v[0] = t.x, v[1] = t.y, v[2] = t.z, v[3] = t.w;
        top = max(top, norm_amax(v));
        norm_put(a, want, at + col, v, col < to);
    }
    if ((want & NORM_ROW) != 0) {
        quant_scale_t  s = norm_row_scale(a, want, blockIdx.x, norm_block_max(amax, top));

        for (c = from + threadIdx.x * 4; c < to; c += blockDim.x * 4) {
            float4  t = ldf4(x + at + c);
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
