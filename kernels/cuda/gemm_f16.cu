/*
 * gemm_f16.cu: linears of bf16 and f16 weights and activations, and what the
 * float families share: scaling of raw sums.
 */

#include "gemm_f.cuh"

/*
 * f_scale_k: y = raw * (a_scale[i] * scale[o]), or added to y
 * shapes   raw f32 or s32 [n, ld_raw], y f32 [n, ldy]; raw may be y
 * launch   n x (n_out / 1024) blocks of 256; 4 values a thread
 * traffic  8 bytes a value, 12 when added
 * bound    DRAM (L2 where the sums were just written)
 * measured not measured
 * source   own
 */
__global__ void __launch_bounds__(256)
f_scale_k(const void *raw, uint32_t ld_raw, int s32, const cu_f_args_t p)
{
    const uint32_t  i = blockIdx.x, o0 = blockIdx.y * 1024 + threadIdx.x;

    dev_launch_dependents();
    dev_wait();   /* raw sums come from the kernel before */

    const float  sa = p.a_scale[i];

#pragma unroll
    for (int k = 0; k < 4; k++) {
        const uint32_t  o = o0 + 256 * k;
        const size_t  at = (size_t) i * ld_raw + o;

        if (o < p.part[0].n_out) {
            const float  x = s32 ? (float) ((const int *) raw)[at]
                                 : ((const float *) raw)[at];
            const float  v = x * (sa * ((const float *) p.part[0].scale)[o]);
            float  *y = p.part[0].y + (size_t) i * p.ldy + o;

            *y = p.add ? *y + v : v;
        }
    }
}

int
cu_f_scale(const cu_dev_t *dev, const void *raw, uint32_t ld_raw, int raw_s32,
    const cu_f_args_t *p)
{
    return dev_launch(dev, f_scale_k,
                      dim3(p->n, (p->part[0].n_out + 1023) / 1024), dim3(256),
                      0, raw, ld_raw, raw_s32, *p);
}

int
cu_f16_decode(const cu_dev_t *dev, cu_f_args_t *p, int f16)
{
    return f16 ? plain_decode<f_f16_t>(dev, p) : plain_decode<f_bf16_t>(dev, p);
}

int
cu_f16_tiles(const cu_dev_t *dev, const cu_f_args_t *p, int f16)
{
    return f16 ? plain_tiles<f_f16_t>(dev, p) : plain_tiles<f_bf16_t>(dev, p);
}
