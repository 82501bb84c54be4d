/*
 * dev.cuh: device primitives of the CUDA kernels, and their launch. The only file with inline PTX
 * and the only one that knows nvcc from the emulator (kernels/sim): everything else is CUDA C++
 * that both compile. Of the emulator it needs, in namespace simt: load, store, cp_async,
 * cp_commit, cp_wait, ldmatrix_x4, ldmatrix_x4_trans, mma with mma_{bf16,f16,s8,e4m3}_fin,
 * grid_wait, grid_launch_dependents, dyn_smem.
 *
 * Fragments of a warp's m16n8 product, lane = 4 g + t (PTX ISA, "Matrix Fragments for mma"), in
 * 32-bit registers of 2 halves or 4 bytes, "k pair/quad t" meaning columns 2t.. or 4t..:
 *   a[0] row g, first half of k    a[1] row g + 8     a[2], a[3] the same in the second half of k
 *   b[0] column g, first half of k                    b[1] in the second half
 *   c[0], c[1] row g, columns 2t, 2t + 1              c[2], c[3] row g + 8
 */

#ifndef KERN_CUDA_DEV_CUH
#define KERN_CUDA_DEV_CUH

#include <cuda_runtime.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "cuda.h"

#define DEV_INLINE  static __device__ __forceinline__
#define DEV_WARP    32

#ifdef SIMT_EMU
#define DYN_SMEM(p)  unsigned char *p = (unsigned char *) simt::dyn_smem()
#else
#define DYN_SMEM(p)  extern __shared__ __align__(128) unsigned char p[]
#endif


/* ---- memory ---- */

/* Reads of what no kernel writes while this one may run (weights, tables): past L1, and allowed
 * before dev_wait(). Aligned to their size. */
DEV_INLINE uint4
ld16(const void *p)
{
    uint4  v;
#ifdef SIMT_EMU
    simt::load(&v, p, 16);
#else
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(p));
#endif
    return v;
}

DEV_INLINE uint2
ld8(const void *p)
{
    uint2  v;
#ifdef SIMT_EMU
    simt::load(&v, p, 8);
#else
    asm volatile("ld.global.nc.L1::no_allocate.v2.u32 {%0,%1}, [%2];"
                 : "=r"(v.x), "=r"(v.y) : "l"(p));
#endif
    return v;
}

DEV_INLINE uint32_t
ld4(const void *p)
{
    uint32_t  v;
#ifdef SIMT_EMU
    simt::load(&v, p, 4);
#else
    asm volatile("ld.global.nc.L1::no_allocate.u32 %0, [%1];" : "=r"(v) : "l"(p));
#endif
    return v;
}

/* A read of activations or of shared memory, and stores; one access of 16 or 8 bytes each. */
DEV_INLINE uint4
ld16a(const void *p)
{
#ifdef SIMT_EMU
    uint4  v;

    simt::load(&v, p, 16);
    return v;
#else
    return *(const uint4 *) p;
#endif
}

DEV_INLINE uint2
ld8a(const void *p)
{
#ifdef SIMT_EMU
    uint2  v;

    simt::load(&v, p, 8);
    return v;
#else
    return *(const uint2 *) p;
#endif
}

/* The same of floats. */
DEV_INLINE float4
ldf4(const float *p)
{
#ifdef SIMT_EMU
    float4  v;

    simt::load(&v, p, 16);
    return v;
#else
    return *(const float4 *) p;
#endif
}

DEV_INLINE float2
ldf2(const float *p)
{
#ifdef SIMT_EMU
    float2  v;

    simt::load(&v, p, 8);
    return v;
#else
    return *(const float2 *) p;
#endif
}

/* A read of what another block of this grid wrote: from L2, past a stale line of L1. */
DEV_INLINE float
ld_l2(const float *p)
{
#ifdef SIMT_EMU
    return *p;
#else
    float  f;

    asm volatile("ld.global.cg.f32 %0, [%1];" : "=f"(f) : "l"(p) : "memory");
    return f;
#endif
}

DEV_INLINE uint4
ld16_l2(const void *p)
{
    uint4  v;

#ifdef SIMT_EMU
    simt::load(&v, p, 16);
#else
    asm volatile("ld.global.cg.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(p) : "memory");
#endif
    return v;
}

DEV_INLINE void
stf4(float *p, float4 v)
{
#ifdef SIMT_EMU
    simt::store(p, &v, 16);
#else
    *(float4 *) p = v;
#endif
}

DEV_INLINE void
stf2(float *p, float2 v)
{
#ifdef SIMT_EMU
    simt::store(p, &v, 8);
#else
    *(float2 *) p = v;
#endif
}

DEV_INLINE void
st16(void *p, uint4 v)
{
#ifdef SIMT_EMU
    simt::store(p, &v, 16);
#else
    *(uint4 *) p = v;
#endif
}

DEV_INLINE void
st8(void *p, uint2 v)
{
#ifdef SIMT_EMU
    simt::store(p, &v, 8);
#else
    *(uint2 *) p = v;
#endif
}

/* Starts to bring memory into L2: a hint, allowed before dev_wait() for anything, since L2 is where
 * writes of other SMs go. p and bytes: multiples of 16. Nothing before sm_90. */
DEV_INLINE void
dev_prefetch(const void *p, uint32_t bytes)
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" :: "l"(p), "r"(bytes));
#else
    (void) p;
    (void) bytes;
#endif
}

/* cp.async of 16 bytes from global to shared memory; zeros when !pred (src must be a valid address
 * all the same). It has landed when a cp_wait() leaves its group out, and other threads see it
 * after the barrier that follows. */
DEV_INLINE void
cp16(void *smem, const void *src, bool pred)
{
#ifdef SIMT_EMU
    simt::cp_async(smem, src, 16, pred ? 16 : 0);
#else
    unsigned  to = (unsigned) __cvta_generic_to_shared(smem);
    int       n = pred ? 16 : 0;

    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
                 :: "r"(to), "l"(src), "r"(n) : "memory");
#endif
}

/* The same for 4 bytes, through L1. */
DEV_INLINE void
cp4(void *smem, const void *src, bool pred)
{
#ifdef SIMT_EMU
    simt::cp_async(smem, src, 4, pred ? 4 : 0);
#else
    unsigned  to = (unsigned) __cvta_generic_to_shared(smem);
    int       n = pred ? 4 : 0;

    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;"
                 :: "r"(to), "l"(src), "r"(n) : "memory");
#endif
}

DEV_INLINE void
cp_commit(void)
{
#ifdef SIMT_EMU
    simt::cp_commit();
#else
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

/* Waits until at most N of this thread's groups are under way. */
template <int N>
DEV_INLINE void
cp_wait(void)
{
#ifdef SIMT_EMU
    simt::cp_wait(N, __FILE__, __LINE__);
#else
    asm volatile("cp.async.wait_group %0;" :: "n"(N) : "memory");
#endif
}


/* ---- tensor cores ---- */

/* Four 8x8 matrices of 16-bit values: lane 8 i + r gives the address of row r (16 bytes, aligned)
 * of matrix i; r[i] gets the pair t of row g of matrix i, with _t of column g. */
DEV_INLINE void
ldsm4(uint32_t r[4], const void *row)
{
#ifdef SIMT_EMU
    simt::ldmatrix_x4(r, row);
#else
    unsigned  a = (unsigned) __cvta_generic_to_shared(row);

    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(a) : "memory");
#endif
}

DEV_INLINE void
ldsm4_t(uint32_t r[4], const void *row)
{
#ifdef SIMT_EMU
    simt::ldmatrix_x4_trans(r, row);
#else
    unsigned  a = (unsigned) __cvta_generic_to_shared(row);

    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(a) : "memory");
#endif
}

#ifdef SIMT_EMU
#define DEV_MMA(fin, c, a, b)  simt::mma(simt::fin, c, a, b, __FILE__, __LINE__)
#else
#define DEV_MMA_ASM(op, con, c, a, b)                                                             \
    asm(op " {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"                               \
        : con(c[0]), con(c[1]), con(c[2]), con(c[3])                                              \
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]))
#endif

/* c += a b, m16n8k16, f32 sums. */
DEV_INLINE void
mma_bf16(float c[4], const uint32_t a[4], const uint32_t b[2])
{
#ifdef SIMT_EMU
    DEV_MMA(mma_bf16_fin, c, a, b);
#else
    DEV_MMA_ASM("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32", "+f", c, a, b);
#endif
}

DEV_INLINE void
mma_f16(float c[4], const uint32_t a[4], const uint32_t b[2])
{
#ifdef SIMT_EMU
    DEV_MMA(mma_f16_fin, c, a, b);
#else
    DEV_MMA_ASM("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32", "+f", c, a, b);
#endif
}

/* c += a b, m16n8k32, exact 32-bit sums. */
DEV_INLINE void
mma_s8(int c[4], const uint32_t a[4], const uint32_t b[2])
{
#ifdef SIMT_EMU
    DEV_MMA(mma_s8_fin, c, a, b);
#else
    DEV_MMA_ASM("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32", "+r", c, a, b);
#endif
}

/* d = a b + c, the same c everywhere. */
DEV_INLINE void
mma_s8_from(int d[4], const uint32_t a[4], const uint32_t b[2], int c)
{
#ifdef SIMT_EMU
    d[0] = d[1] = d[2] = d[3] = c;
    DEV_MMA(mma_s8_fin, d, a, b);
#else
    asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
        "{%10,%10,%10,%10};"
        : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "r"(c));
#endif
}

/* The same with 16 columns, m16n8k16: a0 and a1 are rows g and g + 8 of k quad t, b0 column g. */
DEV_INLINE void
mma_s8_k16_from(int d[4], uint32_t a0, uint32_t a1, uint32_t b0, int c)
{
#ifdef SIMT_EMU
    uint32_t  a[4] = { a0, a1, 0, 0 }, b[2] = { b0, 0 };

    d[0] = d[1] = d[2] = d[3] = c;
    DEV_MMA(mma_s8_fin, d, a, b);
#else
    asm("mma.sync.aligned.m16n8k16.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5}, {%6}, "
        "{%7,%7,%7,%7};"
        : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3]) : "r"(a0), "r"(a1), "r"(b0), "r"(c));
#endif
}

/* c += a b of that shape. */
DEV_INLINE void
mma_s8_k16(int c[4], uint32_t a0, uint32_t a1, uint32_t b0)
{
#ifdef SIMT_EMU
    uint32_t  a[4] = { a0, a1, 0, 0 }, b[2] = { b0, 0 };

    DEV_MMA(mma_s8_fin, c, a, b);
#else
    asm("mma.sync.aligned.m16n8k16.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5}, {%6}, "
        "{%0,%1,%2,%3};"
        : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3]) : "r"(a0), "r"(a1), "r"(b0));
#endif
}

/* c += a b, m16n8k32 of e4m3, f32 sums; nothing on devices before sm_89, whose launchers must not
 * get here (cu_linear_supports). */
DEV_INLINE void
mma_e4m3(float c[4], const uint32_t a[4], const uint32_t b[2])
{
#if defined(SIMT_EMU)
    DEV_MMA(mma_e4m3_fin, c, a, b);
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 890
    DEV_MMA_ASM("mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32", "+f", c, a, b);
#else
    (void) c;
    (void) a;
    (void) b;
#endif
}


/* ---- programmatic dependent launch ---- */

/* Orders everything that the kernels before this one in the stream wrote before what follows.
 * Every kernel calls it, in all threads that touch such memory, also where nothing was launched
 * that way (then it is free). */
DEV_INLINE void
dev_wait(void)
{
#if defined(SIMT_EMU)
    simt::grid_wait();
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

/* Lets the next kernel's blocks start where there is room; they still wait for this kernel's end
 * in dev_wait(). */
DEV_INLINE void
dev_launch_dependents(void)
{
#if defined(SIMT_EMU)
    simt::grid_launch_dependents();
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}


/* ---- conversions ---- */

DEV_INLINE float
dev_f16(uint16_t h)
{
    float  f;
#ifdef SIMT_EMU
    __half  v;

    memcpy(&v, &h, 2);
    f = __half2float(v);
#else
    asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(h));
#endif
    return f;
}

DEV_INLINE float
dev_bf16(uint16_t h)
{
    return __uint_as_float((uint32_t) h << 16);
}

/* Nearest even, clamped to +-65504 as cpu_f32_to_f16(). */
DEV_INLINE uint16_t
dev_to_f16(float f)
{
    uint16_t  h;
#ifdef SIMT_EMU
    __half  v = __float2half_rn(f);

    memcpy(&h, &v, 2);
#else
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h) : "f"(f));
#endif
    return (h & 0x7fff) == 0x7c00 ? (uint16_t) (h - 1) : h;
}

/* Nearest even, clamped to the largest finite ones as cpu_f32_to_bf16(). */
DEV_INLINE uint16_t
dev_to_bf16(float f)
{
    uint16_t  h;
#ifdef SIMT_EMU
    __nv_bfloat16  v = __float2bfloat16_rn(f);

    memcpy(&h, &v, 2);
#else
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(h) : "f"(f));
#endif
    return (h & 0x7fff) == 0x7f80 ? (uint16_t) (h - 1) : h;
}

/* Sums of two pairs of bf16, rounded once. (sm_80 has the fma alone.) */
DEV_INLINE uint32_t
add_bf16x2(uint32_t a, uint32_t b)
{
    uint32_t  c;
#ifdef SIMT_EMU
    __nv_bfloat162  x, y;

    memcpy(&x, &a, 4);
    memcpy(&y, &b, 4);
    x = __hadd2(x, y);
    memcpy(&c, &x, 4);
#else
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(c) : "r"(a), "r"(0x3f803f80u), "r"(b));
#endif
    return c;
}

/* e4m3: sign, 4 bits of exponent (bias 7), 3 of mantissa; 0x7f is NaN, no infinities. */
DEV_INLINE float
dev_e4m3(uint8_t v)
{
    float  f = dev_f16((uint16_t) ((v & 0x80u) << 8 | (v & 0x7fu) << 7)) * 256.0f;

    return (v & 0x7f) == 0x7f ? __uint_as_float(0x7fc00000) : f;
}

/* Nearest even, clamped to +-448; NaN stays one. */
DEV_INLINE uint8_t
dev_to_e4m3(float f)
{
    uint32_t  u = __float_as_uint(f), sign = u >> 24 & 0x80;

    u &= 0x7fffffff;
    if (u > 0x7f800000) {
        return (uint8_t) (sign | 0x7f);
    }
    if (u < 0x3c800000) {                       /* below 2^-6: steps of 2^-9 */
        u = __float_as_uint(__uint_as_float(u) + 16384.0f) - 0x46800000;
        return (uint8_t) (sign | u);
    }
    u = ((u + 0x7ffff + (u >> 20 & 1)) >> 20) - (120 << 3);
    return (uint8_t) (sign | (u > 0x7e ? 0x7e : u));
}

/* Two values rounded to nearest even, lo in the low half; not clamped. */
DEV_INLINE uint32_t
dev_pack_f16(float lo, float hi)
{
    uint32_t  u;
#ifdef SIMT_EMU
    __half  v[2] = { __float2half_rn(lo), __float2half_rn(hi) };

    memcpy(&u, v, 4);
#else
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(u) : "f"(hi), "f"(lo));
#endif
    return u;
}

DEV_INLINE uint32_t
dev_pack_bf16(float lo, float hi)
{
    uint32_t  u;
#ifdef SIMT_EMU
    __nv_bfloat16  v[2] = { __float2bfloat16_rn(lo), __float2bfloat16_rn(hi) };

    memcpy(&u, v, 4);
#else
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(u) : "f"(hi), "f"(lo));
#endif
    return u;
}


/* ---- arithmetic of a warp ---- */

/* 2^x, within 2 ulp; below 2^-126 it is 0. NaN for NaN. */
DEV_INLINE float
dev_exp2(float x)
{
    float  y;
#ifdef SIMT_EMU
    y = exp2f(x);
    y = y < 0x1p-126f ? 0.0f : y;
#else
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
#endif
    return y;
}

/* c + the sum of the four products of signed bytes. */
DEV_INLINE int
dp4a(uint32_t a, uint32_t b, int c)
{
    return __dp4a((int) a, (int) b, c);
}

/* The same result in all lanes; pairs at distance 16, 8, 4, 2, 1. */
DEV_INLINE float
warp_sum(float v)
{
    for (int o = DEV_WARP / 2; o > 0; o /= 2) {
        v += __shfl_xor_sync(~0u, v, o);
    }
    return v;
}

DEV_INLINE float
warp_max(float v)
{
    for (int o = DEV_WARP / 2; o > 0; o /= 2) {
        v = fmaxf(v, __shfl_xor_sync(~0u, v, o));
    }
    return v;
}


/* Two e4m3, the first in the low byte, as f16, which holds each; nothing on devices before sm_89
 * (mma_e4m3). */
DEV_INLINE uint32_t
dev_f16x2_e4m3(uint16_t v)
{
    uint32_t  u = 0;
#if defined(SIMT_EMU)
    __half  h[2] = { __float2half_rn(dev_e4m3((uint8_t) v)),
                     __float2half_rn(dev_e4m3((uint8_t) (v >> 8))) };

    memcpy(&u, h, 4);
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 890
    asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(u) : "h"(v));
#else
    (void) v;
#endif
    return u;
}


/* ---- the last block ---- */

/* 1, in all threads, for the block that is the last of n to come here. What the others wrote before
 * is then visible to it (ld_l2, ld16_l2). *counter is 0 before and afterwards; flag in shared
 * memory, which nobody may use until all have returned. */
DEV_INLINE int
dev_is_last(uint32_t *counter, uint32_t n, uint32_t *flag)
{
    __syncthreads();                   /* the block's writes before this thread's fence */
    if (threadIdx.x == 0) {
        __threadfence();               /* and so before the count */
        *flag = atomicInc(counter, n - 1) == n - 1;
        __threadfence();               /* the count before reads of others' writes */
    }
    __syncthreads();                   /* flag is written */
    return (int) *flag;
}


/* ---- launch ---- */

#define DEV_SMEM_PLAIN  (48u << 10)   /* dynamic shared memory that needs no attribute */

/* kernel(args...) on dev's stream, as a dependent launch where dev says so. INFER_OK, or
 * INFER_DEVICE and nothing runs; the runtime keeps its error. */
template <class... P, class... A>
static inline int
dev_launch(const cu_dev_t *dev, void (*kernel)(P...), dim3 grid, dim3 block, size_t smem, A... args)
{
    cudaLaunchConfig_t   cfg = {};
    cudaLaunchAttribute  attr[1] = {};

    if (smem > DEV_SMEM_PLAIN
        && cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int) smem)
           != cudaSuccess)
    {
        return INFER_DEVICE;
    }
    attr[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attr[0].val.programmaticStreamSerializationAllowed = 1;
    cfg.gridDim = grid;
    cfg.blockDim = block;
    cfg.dynamicSmemBytes = smem;
    cfg.stream = dev->stream;
    cfg.attrs = attr;
    cfg.numAttrs = dev->pdl ? 1 : 0;
    return cudaLaunchKernelEx(&cfg, kernel, P(args)...) == cudaSuccess ? INFER_OK : INFER_DEVICE;
}

#endif
