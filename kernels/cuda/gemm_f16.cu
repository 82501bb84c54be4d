/*
 * gemm_f16.cu: linears of bf16 and f16 weights and activations, and what the
 * float families share: scaling of raw sums.
 */

#include "gemm_f.cuh"

/*
 * f_scale_k: y = raw * (a_scale[i] * scale[o]), or added to y
 * shapes   raw f32 or s32 [n, ld_raw], y f32 [n, ldy]; raw may be y
 * launch   (n_out / 1024) x n blocks of 256; 4 values a thread, in one access
 *          where rows are aligned to 16 bytes
 * traffic  8 bytes a value, 12 when added
 * bound    DRAM (L2 where the sums were just written)
 * measured not measured
 * source   own
 */
__global__ void __launch_bounds__(256)
f_scale_k(const float *raw, uint32_t ld_raw, int s32, int wide,
    const cu_f_args_t p)
{
    const uint32_t  i = blockIdx.y, n_out = p.part[0].n_out;
    const uint32_t  o0 = (blockIdx.x * 256 + threadIdx.x) * 4;
    const float *const  scale = (const float *) p.part[0].scale;
    const float *const  from = raw + (size_t) i * ld_raw + o0;
    float *const  to = p.part[0].y + (size_t) i * p.ldy + o0;
    const uint32_t  some = o0 >= n_out ? 0 : n_out - o0 < 4 ? n_out - o0 : 4;
    float  v[4], old[4] = {};

    dev_launch_dependents();
    dev_wait();   /* raw sums come from the kernel before */

    if (some == 0) {
        return;
    }

    const float  sa = p.a_scale[i];

    if (wide && some == 4) {
        const uint4  u = ld16a(from), w = p.add ? ld16a(to) : make_uint4(0, 0, 0, 0);

        memcpy(v, &u, 16);
        memcpy(old, &w, 16);

    } else {
        for (uint32_t k = 0; k < some; k++) {
            v[k] = from[k];
            old[k] = p.add ? to[k] : 0.0f;
        }
    }

    for (uint32_t k = 0; k < some; k++) {
        const float  x = s32 ? (float) __float_as_int(v[k]) : v[k];

        v[k] = x * (sa * scale[o0 + k]);
        v[k] = p.add ? old[k] + v[k] : v[k];
    }

    if (wide && some == 4) {
        st16(to, make_uint4(__float_as_uint(v[0]), __float_as_uint(v[1]),
                            __float_as_uint(v[2]), __float_as_uint(v[3])));

    } else {
        for (uint32_t k = 0; k < some; k++) {
            to[k] = v[k];
        }
    }
}

int
cu_f_scale(const cu_dev_t *dev, const void *raw, uint32_t ld_raw, int raw_s32,
    const cu_f_args_t *p)
{
    const uintptr_t  at = (uintptr_t) raw | (uintptr_t) p->part[0].y
                          | (uintptr_t) (ld_raw * 4) | (uintptr_t) (p->ldy * 4);

    return dev_launch(dev, f_scale_k,
                      dim3((p->part[0].n_out + 1023) / 1024, p->n), dim3(256),
                      0, (const float *) raw, ld_raw, raw_s32,
                      (int) ((at & 15) == 0), *p);
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
