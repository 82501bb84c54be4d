/*
 * dev_wg.cuh: tensor cores used by four warps at a time: wgmma of sm_90a, for every engine. To be
 * part of dev.cuh when the first kernel with it is. Never run on a device.
 *
 * m64nNk16 of f16 with f32 sums: warp i of four that follow each other has rows 16 i .. 16 i + 15
 * of a and d, in fragments as of mma m16n8k16: a[4], and d[j][4] for columns 8 j .. 8 j + 7. b lies
 * in shared memory, aligned to 128 bytes: bricks of 8 columns x 8 k, a column's 8 values being 16
 * bytes and 8 columns 128 bytes; bricks of 8 more columns follow each other, those of 8 more k are
 * `pitch` bytes on.
 *
 * With sm_90a the product goes on beside the warps until wg_wait(): a and d are not touched, and d
 * is not read, before. Elsewhere it is an mma of each warp, done at once.
 */

#ifndef KERN_CUDA_DEV_WG_CUH
#define KERN_CUDA_DEV_WG_CUH

#include "dev.cuh"

/* a b + c of two f16 each, each rounded once. */
DEV_INLINE uint32_t
fma_f16x2(uint32_t a, uint32_t b, uint32_t c)
{
    uint32_t  d;
#ifdef SIMT_EMU
    d = dev_pack_f16(fmaf(dev_f16((uint16_t) a), dev_f16((uint16_t) b), dev_f16((uint16_t) c)),
                     fmaf(dev_f16((uint16_t) (a >> 16)), dev_f16((uint16_t) (b >> 16)),
                          dev_f16((uint16_t) (c >> 16))));
#else
    asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
#endif
    return d;
}

/* a & b ^ c. As one instruction: the compiler makes two of two constants. */
DEV_INLINE uint32_t
and_xor(uint32_t a, uint32_t b, uint32_t c)
{
#ifdef SIMT_EMU
    return (a & b) ^ c;
#else
    uint32_t  d;

    asm("lop3.b32 %0, %1, %2, %3, 0x6a;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
    return d;
#endif
}

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define DEV_WGMMA  1
#else
#define DEV_WGMMA  0
#endif

/* Registers written by this warp are seen by the wgmma that follow. */
DEV_INLINE void
wg_fence(void)
{
#if DEV_WGMMA
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#endif
}

DEV_INLINE void
wg_commit(void)
{
#if DEV_WGMMA
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#endif
}

/* All groups but the last N are done; d, of such ones, may be used. */
template <int N, int L, int NT>
DEV_INLINE void
wg_wait(float (&d)[L][NT][4])
{
#if DEV_WGMMA
    asm volatile("wgmma.wait_group.sync.aligned %0;" :: "n"(N) : "memory");
#pragma unroll
    for (int i = 0; i < L * NT * 4; i++) {
        asm volatile("" : "+f"(d[i / 4 / NT][i / 4 % NT][i % 4]) :: "memory");
    }
#else
    (void) d;
#endif
}

/* What this thread has seen land in shared memory may be read by wgmma after the next barrier. */
DEV_INLINE void
wg_shared(void)
{
#if DEV_WGMMA
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

#if DEV_WGMMA

#define WG_D(d)  "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])

/* 8 columns. */
template <bool ADD>
DEV_INLINE void
wg_mma_asm(float (&d)[1][4], const uint32_t a[4], uint64_t b)
{
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %9, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n8k16.f32.f16.f16 "
        "{%0, %1, %2, %3}, "
        "{%4, %5, %6, %7}, %8, p, 1, 1, 0;\n}\n"
        : WG_D(d[0])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "n"((int) ADD));
}

/* 16 columns. */
template <bool ADD>
DEV_INLINE void
wg_mma_asm(float (&d)[2][4], const uint32_t a[4], uint64_t b)
{
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %13, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n16k16.f32.f16.f16 "
        "{%0, %1, %2, %3, %4, %5, %6, %7}, "
        "{%8, %9, %10, %11}, %12, p, 1, 1, 0;\n}\n"
        : WG_D(d[0]), WG_D(d[1])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "n"((int) ADD));
}

/* 32 columns. */
template <bool ADD>
DEV_INLINE void
wg_mma_asm(float (&d)[4][4], const uint32_t a[4], uint64_t b)
{
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %21, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n32k16.f32.f16.f16 "
        "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15}, "
        "{%16, %17, %18, %19}, %20, p, 1, 1, 0;\n}\n"
        : WG_D(d[0]), WG_D(d[1]), WG_D(d[2]), WG_D(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "n"((int) ADD));
}

/* 48 columns. */
template <bool ADD>
DEV_INLINE void
wg_mma_asm(float (&d)[6][4], const uint32_t a[4], uint64_t b)
{
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %29, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n48k16.f32.f16.f16 "
        "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, "
        "%19, %20, %21, %22, %23}, "
        "{%24, %25, %26, %27}, %28, p, 1, 1, 0;\n}\n"
        : WG_D(d[0]), WG_D(d[1]), WG_D(d[2]), WG_D(d[3]), WG_D(d[4]), WG_D(d[5])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "n"((int) ADD));
}

/* 64 columns. */
template <bool ADD>
DEV_INLINE void
wg_mma_asm(float (&d)[8][4], const uint32_t a[4], uint64_t b)
{
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %37, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 "
        "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, "
        "%19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
        "{%32, %33, %34, %35}, %36, p, 1, 1, 0;\n}\n"
        : WG_D(d[0]), WG_D(d[1]), WG_D(d[2]), WG_D(d[3]), WG_D(d[4]), WG_D(d[5]), WG_D(d[6]),
          WG_D(d[7])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "n"((int) ADD));
}

#endif

/* Shared memory as the fallback and as wgmma want its address. */
struct WgShared {
    const unsigned char  *p;
    uint64_t              at;              /* of a descriptor without pitch */

    __device__ __forceinline__ explicit
    WgShared(const unsigned char *from)
    {
        p = from;
#if DEV_WGMMA
        at = __cvta_generic_to_shared(from) / 16 | (uint64_t) (128 / 16) << 32;
#else
        at = 0;
#endif
    }
};

/* d = a b, or d += a b; b at `bytes` from s, both multiples of 128. */
template <bool ADD, int NT>
DEV_INLINE void
wg_mma(float (&d)[NT][4], const uint32_t a[4], const WgShared &s, uint32_t bytes, uint32_t pitch)
{
#if DEV_WGMMA
    wg_mma_asm<ADD>(d, a, s.at + (bytes / 16 | pitch / 16 << 16));
#else
    const int  lane = threadIdx.x % DEV_WARP;

#pragma unroll
    for (int j = 0; j < NT; j++) {
        const unsigned char *from = s.p + bytes + j * 128 + lane * 4;
        const uint32_t       f[2] = { *(const uint32_t *) (const void *) from,
                                      *(const uint32_t *) (const void *) (from + pitch) };

        if (!ADD) {
            d[j][0] = d[j][1] = d[j][2] = d[j][3] = 0;
        }
        mma_f16(d[j], a, f);
    }
#endif
}

#endif
