/*
 * types.h: bf16, half and fp8 of the emulator: names and results of the
 * toolkit's cuda_bf16.h, cuda_fp16.h and cuda_fp8.h for the part that
 * kernels use. Conversions round to nearest even, to the bit; arithmetic on
 * half and bf16 computes in f32 and rounds once, as the hardware does for
 * one operation.
 */

#ifndef SIMT_TYPES_H
#define SIMT_TYPES_H

#include <cmath>
#include <cstdint>
#include <cstring>

#include "include/vector_types.h"

/* ---- bits ---- */

static inline float __uint_as_float(unsigned u)
{
    float f;
    memcpy(&f, &u, 4);
    return f;
}

static inline unsigned __float_as_uint(float f)
{
    unsigned u;
    memcpy(&u, &f, 4);
    return u;
}

static inline float __int_as_float(int i)
{
    return __uint_as_float((unsigned) i);
}

static inline int __float_as_int(float f)
{
    return (int) __float_as_uint(f);
}

static inline long long __double_as_longlong(double d)
{
    long long i;
    memcpy(&i, &d, 8);
    return i;
}

static inline double __longlong_as_double(long long i)
{
    double d;
    memcpy(&d, &i, 8);
    return d;
}

/* ---- bf16 ---- */

struct __nv_bfloat16_raw { unsigned short x; };

namespace simt {

static inline uint16_t bf16_bits(float f)
{
    unsigned u = __float_as_uint(f);

    if (f != f) {
        return 0x7fff;
    }
    return (uint16_t) ((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

static inline float bf16_value(uint16_t b)
{
    return __uint_as_float((unsigned) b << 16);
}

static inline float half_value(uint16_t h)
{
    unsigned s = (h & 0x8000u) << 16, e = h >> 10 & 31, m = h & 0x3ff;

    if (e == 31) {
        return __uint_as_float(s | 0x7f800000u | m << 13);
    }
    if (e == 0) {
        return (s ? -1.f : 1.f) * ((float) m * 0x1p-24f);
    }
    return __uint_as_float(s | (e + 112) << 23 | m << 13);
}

static inline uint16_t half_bits(float f)
{
    unsigned u = __float_as_uint(f), s = u >> 16 & 0x8000;

    u &= 0x7fffffff;
    if (u > 0x7f800000) {
        return 0x7fff;
    }
    if (u >= 0x477ff000) {             /* rounds to 65536 or more */
        return (uint16_t) (s | 0x7c00);
    }
    if (u < 0x38800000) {              /* subnormal: units of 2^-24 */
        return (uint16_t) (s | (unsigned)
            nearbyintf(__uint_as_float(u) * 0x1p24f));
    }
    u += 0xfff + (u >> 13 & 1);
    return (uint16_t) (s | (u - 0x38000000) >> 13);
}

/* e4m3: no infinity, NaN is 0x7f, largest 448. e5m2: as half, cut. */
static inline float e4m3_value(uint8_t b)
{
    unsigned e = b >> 3 & 15, m = b & 7;
    float    v;

    if ((b & 0x7f) == 0x7f) {
        return __uint_as_float(0x7fffffff);
    }
    v = e ? ldexpf((float) (8 + m), (int) e - 10)
          : ldexpf((float) m, -9);
    return b & 0x80 ? -v : v;
}

/* Saturates to the largest finite value, as __NV_SATFINITE does. */
static inline uint8_t e4m3_bits(float f)
{
    unsigned u = __float_as_uint(f), s = u >> 24 & 0x80, e, m;

    u &= 0x7fffffff;
    if (u > 0x7f800000) {
        return 0x7f;
    }
    if (u >= __float_as_uint(448.f)) {
        return (uint8_t) (s | 0x7e);
    }
    if (u < __float_as_uint(0x1p-6f)) {    /* subnormal: units of 2^-9 */
        return (uint8_t) (s | (unsigned)
            nearbyintf(__uint_as_float(u) * 512.f));
    }
    u += 0x7ffff + (u >> 20 & 1);
    e = (u >> 23) - 120;
    m = u >> 20 & 7;
    return (uint8_t) (s | e << 3 | m);
}

static inline float e5m2_value(uint8_t b)
{
    return half_value((uint16_t) (b << 8));
}

static inline uint8_t e5m2_bits(float f)
{
    unsigned u = __float_as_uint(f), s = u >> 24 & 0x80;

    u &= 0x7fffffff;
    if (u > 0x7f800000) {
        return 0x7f;
    }
    if (u >= __float_as_uint(57344.f)) {
        return (uint8_t) (s | 0x7b);
    }
    if (u < __float_as_uint(0x1p-14f)) {
        return (uint8_t) (s | (unsigned)
            nearbyintf(__uint_as_float(u) * 65536.f));
    }
    u += 0xfffff + (u >> 21 & 1);
    return (uint8_t) (s | (u - 0x38000000) >> 21);
}

}  // namespace simt

struct __nv_bfloat16 {
    unsigned short __x;

    __nv_bfloat16() = default;
    __nv_bfloat16(__nv_bfloat16_raw r) : __x(r.x) {}
    explicit __nv_bfloat16(float f) : __x(simt::bf16_bits(f)) {}
    operator __nv_bfloat16_raw() const { return {__x}; }
    operator float() const { return simt::bf16_value(__x); }
};
struct alignas(4) __nv_bfloat162 { __nv_bfloat16 x, y; };
typedef __nv_bfloat16 nv_bfloat16;
typedef __nv_bfloat162 nv_bfloat162;

static inline float __bfloat162float(__nv_bfloat16 b)
{
    return simt::bf16_value(b.__x);
}

static inline __nv_bfloat16 __ushort_as_bfloat16(unsigned short u)
{
    return __nv_bfloat16(__nv_bfloat16_raw{u});
}

static inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 b)
{
    return b.__x;
}

static inline __nv_bfloat16 __float2bfloat16_rn(float f)
{
    return __ushort_as_bfloat16(simt::bf16_bits(f));
}

static inline __nv_bfloat16 __float2bfloat16(float f)
{
    return __float2bfloat16_rn(f);
}

static inline __nv_bfloat162 __floats2bfloat162_rn(float a, float b)
{
    return {__float2bfloat16_rn(a), __float2bfloat16_rn(b)};
}

static inline float2 __bfloat1622float2(__nv_bfloat162 v)
{
    return {__bfloat162float(v.x), __bfloat162float(v.y)};
}

/* ---- half ---- */

struct __half_raw { unsigned short x; };

struct __half {
    unsigned short __x;

    __half() = default;
    __half(__half_raw r) : __x(r.x) {}
    explicit __half(float f) : __x(simt::half_bits(f)) {}
    operator __half_raw() const { return {__x}; }
    operator float() const { return simt::half_value(__x); }
};
struct alignas(4) __half2 { __half x, y; };
typedef __half half;
typedef __half2 half2;

static inline float __half2float(__half h)
{
    return simt::half_value(h.__x);
}

static inline __half __ushort_as_half(unsigned short u)
{
    return __half(__half_raw{u});
}

static inline unsigned short __half_as_ushort(__half h)
{
    return h.__x;
}

static inline __half __float2half_rn(float f)
{
    return __ushort_as_half(simt::half_bits(f));
}

static inline __half __float2half(float f)
{
    return __float2half_rn(f);
}

static inline __half2 __floats2half2_rn(float a, float b)
{
    return {__float2half_rn(a), __float2half_rn(b)};
}

static inline float2 __half22float2(__half2 v)
{
    return {__half2float(v.x), __half2float(v.y)};
}

static inline __half2 __halves2half2(__half a, __half b)
{
    return {a, b};
}

static inline __half __low2half(__half2 v) { return v.x; }
static inline __half __high2half(__half2 v) { return v.y; }

/* One operation each. Sums and products of two 16-bit values are computed in
 * f32, which has more than twice their bits, so that rounding again is as
 * rounding once; fma is not so, and rounds to odd in f32 first. */
#define SIMT_ARITH(T, T2, FROM, TO) \
    static inline T __hadd(T a, T b) { return TO(FROM(a) + FROM(b)); } \
    static inline T __hsub(T a, T b) { return TO(FROM(a) - FROM(b)); } \
    static inline T __hmul(T a, T b) { return TO(FROM(a) * FROM(b)); } \
    static inline T __hfma(T a, T b, T c) \
    { \
        return TO((float) simt::fma_odd(FROM(a), FROM(b), FROM(c))); \
    } \
    static inline T2 __hadd2(T2 a, T2 b) \
    { \
        return {__hadd(a.x, b.x), __hadd(a.y, b.y)}; \
    } \
    static inline T2 __hsub2(T2 a, T2 b) \
    { \
        return {__hsub(a.x, b.x), __hsub(a.y, b.y)}; \
    } \
    static inline T2 __hmul2(T2 a, T2 b) \
    { \
        return {__hmul(a.x, b.x), __hmul(a.y, b.y)}; \
    } \
    static inline T2 __hfma2(T2 a, T2 b, T2 c) \
    { \
        return {__hfma(a.x, b.x, c.x), __hfma(a.y, b.y, c.y)}; \
    }

namespace simt {

/* a * b + c in f32, the last bit 1 when it is not exact, so that a second
 * rounding is right. The product is exact in double; err is what the sum
 * lost there. */
static inline float fma_odd(float a, float b, float c)
{
    double   p = (double) a * b, s = p + c, t = s - p;
    double   err = (p - (s - t)) + (c - t);
    float    f = (float) s;
    double   rest = s - (double) f != 0 ? s - (double) f : err;

    if (!std::isfinite(f) || rest == 0 || (__float_as_uint(f) & 1)) {
        return f;
    }
    return nextafterf(f, rest > 0 ? INFINITY : -INFINITY);
}

}  // namespace simt

SIMT_ARITH(__nv_bfloat16, __nv_bfloat162, __bfloat162float,
           __float2bfloat16_rn)
SIMT_ARITH(__half, __half2, __half2float, __float2half_rn)
#undef SIMT_ARITH

/* ---- fp8 ---- */

typedef unsigned char  __nv_fp8_storage_t;
typedef unsigned short __nv_fp8x2_storage_t;
typedef unsigned       __nv_fp8x4_storage_t;
enum __nv_saturation_t { __NV_NOSAT, __NV_SATFINITE };
enum __nv_fp8_interpretation_t { __NV_E4M3, __NV_E5M2 };

struct __nv_fp8_e4m3 {
    __nv_fp8_storage_t __x;

    __nv_fp8_e4m3() = default;
    explicit __nv_fp8_e4m3(float f) : __x(simt::e4m3_bits(f)) {}
    explicit operator float() const { return simt::e4m3_value(__x); }
};

static inline __nv_fp8_storage_t __nv_cvt_float_to_fp8(float f,
    __nv_saturation_t sat, __nv_fp8_interpretation_t kind)
{
    if (sat == __NV_NOSAT && kind == __NV_E4M3 && !(fabsf(f) < 464.f)) {
        return (__nv_fp8_storage_t) (std::signbit(f) && f == f ? 0xff : 0x7f);
    }
    if (sat == __NV_NOSAT && kind == __NV_E5M2 && !(fabsf(f) < 61440.f)
        && f == f)
    {
        return (__nv_fp8_storage_t) (std::signbit(f) ? 0xfc : 0x7c);
    }
    return kind == __NV_E4M3 ? simt::e4m3_bits(f) : simt::e5m2_bits(f);
}

static inline __nv_fp8x2_storage_t __nv_cvt_float2_to_fp8x2(float2 f,
    __nv_saturation_t sat, __nv_fp8_interpretation_t kind)
{
    return (__nv_fp8x2_storage_t) (__nv_cvt_float_to_fp8(f.x, sat, kind)
        | __nv_cvt_float_to_fp8(f.y, sat, kind) << 8);
}

static inline __half_raw __nv_cvt_fp8_to_halfraw(__nv_fp8_storage_t b,
    __nv_fp8_interpretation_t kind)
{
    return {simt::half_bits(kind == __NV_E4M3 ? simt::e4m3_value(b)
                                              : simt::e5m2_value(b))};
}

#endif
