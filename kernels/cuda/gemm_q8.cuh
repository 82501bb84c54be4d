/*
 * gemm_q8.cuh: what the kernels of the q8 family share: a step's fragments, an exact block sum as
 * f32, scales. Layout in gemm.h.
 *
 * An mma adds the integer sum of a block to the bits of MAGIC = 1.5 2^23, of which a step of one
 * in the last place is 1: read as f32 and less MAGIC it is the sum, in one addition instead of a
 * conversion. |sum| <= 32 * 128 * 128 < 2^22. Signed nibbles stay in the upper halves of their
 * bytes, so their sums come out 16 times as large; there MAGIC is 1.5 2^19, whose last place is
 * 1/16.
 */

#ifndef KERN_CUDA_GEMM_Q8_CUH
#define KERN_CUDA_GEMM_Q8_CUH

#include "gemm.h"
#include "dev.cuh"

#define Q8_KB  4              /* blocks of a stage: 128 columns */

template <int FORM>
struct Q8Form {
    static constexpr cu_traits_t  t = cu_traits(FORM);
    static constexpr bool         nibbles = t.nibbles != 0;
    static constexpr bool         sign4 = FORM == CU_N4Z;
    static constexpr bool         min = t.min != 0;
    static constexpr int          subs = t.subs;
    static constexpr int          steps = nibbles ? Q8_KB / 2 : Q8_KB;   /* of a stage */
    static constexpr int          row_bytes = CU_GROUP * t.scale;        /* of a group */
    static constexpr int          group_bytes = CU_TILE * row_bytes;
    static constexpr int          scale_bytes = subs * group_bytes;      /* of a stage and tile */
    static constexpr int          links = Q8_KB * subs;                  /* of a stage */
    static constexpr int          magic = sign4 ? 0x49400000 : 0x4b400000;
};

/* Fragment of block b of the step that v holds. */
template <int FORM>
DEV_INLINE void
q8_frag(uint32_t a[4], const uint4 &v, int b)
{
    const uint32_t  w[4] = { v.x, v.y, v.z, v.w };

    for (int j = 0; j < 4; j++) {
        if (!Q8Form<FORM>::nibbles) {
            a[j] = w[j];
        } else if (Q8Form<FORM>::sign4) {
            a[j] = (b & 1 ? w[j] : w[j] << 4) & 0xf0f0f0f0;
        } else {
            a[j] = (b & 1 ? w[j] >> 4 : w[j]) & 0x0f0f0f0f;
        }
    }
}

/* A sum that came out of an mma with MAGIC. */
template <int FORM>
DEV_INLINE float
q8_sum(int s)
{
    return __int_as_float(s) - __int_as_float(Q8Form<FORM>::magic);
}

/* One link of the chains of an mma's outputs: dw0, dw1 scales of rows g and g + 8, da of columns
 * 2 t and 2 t + 1. */
template <int FORM>
DEV_INLINE void
q8_link(float acc[4], const int s[4], float dw0, float dw1, const uint2 &da)
{
    const float  d0 = __uint_as_float(da.x), d1 = __uint_as_float(da.y);

    acc[0] = fmaf(q8_sum<FORM>(s[0]), dw0 * d0, acc[0]);
    acc[1] = fmaf(q8_sum<FORM>(s[1]), dw0 * d1, acc[1]);
    acc[2] = fmaf(q8_sum<FORM>(s[2]), dw1 * d0, acc[2]);
    acc[3] = fmaf(q8_sum<FORM>(s[3]), dw1 * d1, acc[3]);
}

/* The same of the minima. */
DEV_INLINE void
q8_min(float min[4], float m0, float m1, const uint2 &dsum)
{
    const float  d0 = __uint_as_float(dsum.x), d1 = __uint_as_float(dsum.y);

    min[0] = fmaf(m0, d0, min[0]);
    min[1] = fmaf(m0, d1, min[1]);
    min[2] = fmaf(m1, d0, min[2]);
    min[3] = fmaf(m1, d1, min[3]);
}

/* BYTES of scales, or minima, of SIZE each, from shared memory. */
template <int BYTES, int SIZE>
DEV_INLINE void
q8_scales(float *s, const void *p)
{
    uint32_t  v[4] = {};

    if (BYTES == 16) {
        const uint4  u = ld16a(p);

        v[0] = u.x;
        v[1] = u.y;
        v[2] = u.z;
        v[3] = u.w;
    } else if (BYTES == 8) {
        const uint2  u = ld8a(p);

        v[0] = u.x;
        v[1] = u.y;
    } else {
        v[0] = *(const uint32_t *) p;
    }
#pragma unroll
    for (int i = 0; i < BYTES / SIZE; i++) {
        s[i] = SIZE == 4 ? __uint_as_float(v[i]) : dev_f16((uint16_t) (v[i / 2] >> 16 * (i % 2)));
    }
}

/* The matrix that block x of the grid works on. */
DEV_INLINE const cu_q8_part_t &
q8_part(const cu_q8_args_t &p, uint32_t x)
{
    uint32_t  i = 0;

    while (i + 1 < p.n_parts && x >= p.part[i + 1].block0) {
        i++;
    }
    return p.part[i];
}

#endif
