/*
 * silu.cuh: silu(gate) * up of four values, the bits of kern_silu_mul_ref().
 */

#ifndef KERN_CUDA_SILU_CUH
#define KERN_CUDA_SILU_CUH

#include "dev.cuh"

/* kern_exp() of kernels/ref, the same operations in the same order. */
DEV_INLINE float
silu_exp(float x)
{
    float  t, n, r, p;

    if (x < -87.0f) {
        return 0.0f;
    }
    if (x > 88.37f) {
        return __uint_as_float(0x7f800000);
    }
    t = fmaf(x, 0x1.715476p+0f, 0x1.8p+23f);
    n = t - 0x1.8p+23f;
    r = fmaf(n, -0x1.62e400p-1f, x);
    r = fmaf(n, -0x1.7f7d1cp-20f, r);
    p = fmaf(r, 1.0f / 5040, 1.0f / 720);
    p = fmaf(p, r, 1.0f / 120);
    p = fmaf(p, r, 1.0f / 24);
    p = fmaf(p, r, 1.0f / 6);
    p = fmaf(p, r, 0.5f);
    p = fmaf(p, r, 1.0f);
    p = fmaf(p, r, 1.0f);
    return p * __uint_as_float((__float_as_uint(t) << 23) + 0x3f800000);
}

DEV_INLINE void
silu_mul(float v[4], uint4 gate, uint4 up)
{
    const uint32_t  f[4] = { gate.x, gate.y, gate.z, gate.w }, m[4] = { up.x, up.y, up.z, up.w };

    for (int k = 0; k < 4; k++) {
        const float  s = __uint_as_float(f[k]);

        v[k] = s / (1.0f + silu_exp(-s)) * __uint_as_float(m[k]);
    }
}

#endif
