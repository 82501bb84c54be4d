/*
 * intrinsics.h: CUDA's device functions for the emulator: barriers, warp
 * collectives, atomics, math and bit intrinsics. Included by simt.h.
 */

#ifndef SIMT_INTRINSICS_H
#define SIMT_INTRINSICS_H

/* ---- vectors ---- */

#define SIMT_MAKE2(T, N) \
    static inline N##2 make_##N##2(T x, T y) { return {x, y}; }
#define SIMT_MAKE4(T, N) \
    static inline N##4 make_##N##4(T x, T y, T z, T w) \
    { \
        return {x, y, z, w}; \
    }
SIMT_MAKE2(float, float)
SIMT_MAKE4(float, float)
SIMT_MAKE2(int, int)
SIMT_MAKE4(int, int)
SIMT_MAKE2(unsigned, uint)
SIMT_MAKE4(unsigned, uint)
SIMT_MAKE2(double, double)
SIMT_MAKE4(signed char, char)
SIMT_MAKE4(unsigned char, uchar)

/* ---- barriers ---- */

static inline void __syncthreads(SIMT_SITE)
{
    simt::barrier(file, line);
}

static inline int __syncthreads_count(int p, SIMT_SITE)
{
    return simt::barrier_count(p != 0, file, line);
}

static inline int __syncthreads_or(int p, SIMT_SITE)
{
    return simt::barrier_count(p != 0, file, line) > 0;
}

static inline int __syncthreads_and(int p, SIMT_SITE)
{
    return simt::barrier_count(p == 0, file, line) == 0;
}

static inline void __syncwarp(unsigned mask = ~0u, SIMT_SITE)
{
    simt::leave(simt::enter(simt::OP_SYNC, mask, nullptr, 0, file, line));
}

static inline unsigned __activemask()
{
    return simt::active();
}

/* ---- warp collectives ---- */

namespace simt {

/* The value of lane src; the lane's own when src is out of its segment. */
template <class T>
T shfl(unsigned mask, T v, int src, bool in_range, const char *file,
    int line)
{
    static_assert(sizeof(T) <= 64, "a shuffled value has at most 64 bytes");
    Coll *c = enter(OP_SHFL, mask, &v, sizeof v, file, line);
    T     r = v;

    if (in_range) {
        if (!(c->mask >> src & 1)) {
            fail("%s:%d: shuffle reads lane %d outside mask %08x", file,
                 line, src, mask);
        }
        memcpy(&r, c->val[src], sizeof r);
    }
    leave(c);
    return r;
}

/* f over the lanes of mask, ascending. */
template <class T, class F>
T reduce(unsigned mask, T v, F f, const char *file, int line)
{
    Coll *c = enter(OP_REDUCE, mask, &v, sizeof v, file, line);
    bool  first = true;
    T     r = v;

    for (int i = 0; i < 32; i++) {
        if (c->mask >> i & 1) {
            T x;
            memcpy(&x, c->val[i], sizeof x);
            r = first ? x : f(r, x);
            first = false;
        }
    }
    leave(c);
    return r;
}

}  // namespace simt

template <class T>
T __shfl_sync(unsigned mask, T v, int src, int width = 32, SIMT_SITE)
{
    int me = (int) simt::lane();

    return simt::shfl(mask, v, (me & ~(width - 1)) | (src & (width - 1)),
                      true, file, line);
}

template <class T>
T __shfl_xor_sync(unsigned mask, T v, int x, int width = 32, SIMT_SITE)
{
    int me = (int) simt::lane(), s = me ^ x;

    return simt::shfl(mask, v, s & 31, s < (me & ~(width - 1)) + width, file,
                      line);
}

template <class T>
T __shfl_down_sync(unsigned mask, T v, unsigned d, int width = 32, SIMT_SITE)
{
    int me = (int) simt::lane(), s = me + (int) d;

    return simt::shfl(mask, v, s & 31, s < (me & ~(width - 1)) + width, file,
                      line);
}

template <class T>
T __shfl_up_sync(unsigned mask, T v, unsigned d, int width = 32, SIMT_SITE)
{
    int me = (int) simt::lane(), s = me - (int) d;

    return simt::shfl(mask, v, s & 31, s >= (me & ~(width - 1)), file, line);
}

static inline unsigned __ballot_sync(unsigned mask, int p, SIMT_SITE)
{
    unsigned bit = p ? 1u << simt::lane() : 0;

    return simt::reduce(mask, bit,
        [](unsigned a, unsigned b) { return a | b; }, file, line);
}

static inline int __any_sync(unsigned mask, int p, SIMT_SITE)
{
    return __ballot_sync(mask, p, file, line) != 0;
}

static inline int __all_sync(unsigned mask, int p, SIMT_SITE)
{
    return __ballot_sync(mask, !p, file, line) == 0;
}

#define SIMT_REDUCE(NAME, T, EXPR) \
    static inline T NAME(unsigned mask, T v, SIMT_SITE) \
    { \
        return simt::reduce(mask, v, [](T a, T b) -> T { return EXPR; }, \
                            file, line); \
    }
SIMT_REDUCE(__reduce_add_sync, unsigned, a + b)
SIMT_REDUCE(__reduce_add_sync, int, (int) ((unsigned) a + (unsigned) b))
SIMT_REDUCE(__reduce_min_sync, unsigned, a < b ? a : b)
SIMT_REDUCE(__reduce_min_sync, int, a < b ? a : b)
SIMT_REDUCE(__reduce_max_sync, unsigned, a > b ? a : b)
SIMT_REDUCE(__reduce_max_sync, int, a > b ? a : b)
SIMT_REDUCE(__reduce_or_sync, unsigned, a | b)
SIMT_REDUCE(__reduce_and_sync, unsigned, a & b)
SIMT_REDUCE(__reduce_xor_sync, unsigned, a ^ b)
#undef SIMT_REDUCE

template <class T>
unsigned __match_any_sync(unsigned mask, T v, SIMT_SITE)
{
    simt::Coll *c = simt::enter(simt::OP_MATCH, mask, &v, sizeof v, file,
                                line);
    unsigned    same = 0;

    for (int i = 0; i < 32; i++) {
        if ((c->mask >> i & 1) && memcmp(c->val[i], &v, sizeof v) == 0) {
            same |= 1u << i;
        }
    }
    simt::leave(c);
    return same;
}

template <class T>
unsigned __match_all_sync(unsigned mask, T v, int *all, SIMT_SITE)
{
    unsigned same = __match_any_sync(mask, v, file, line);

    *all = same == (mask & simt::active());
    return *all ? same : 0;
}

/* ---- fences and atomics ---- */

static inline void __threadfence() { simt::fence(); }
static inline void __threadfence_system() { simt::fence(); }
static inline void __threadfence_block() {}
static inline void __nanosleep(unsigned) { simt::spin_yield(); }

namespace simt {

template <class T, class F>
__attribute__((noinline)) T rmw(T *p, F f)
{
    static_assert(std::is_integral<T>::value, "integer atomics only");
    T old, now;

    touch(p, sizeof *p, true, true, __builtin_return_address(0));
    __atomic_load(p, &old, __ATOMIC_RELAXED);
    do {
        now = f(old);
    } while (!__atomic_compare_exchange(p, &old, &now, false,
                                        __ATOMIC_SEQ_CST, __ATOMIC_RELAXED));
    return old;
}

}  // namespace simt

#define SIMT_ATOMIC(NAME, EXPR) \
    template <class T, class V> T NAME(T *p, V value) \
    { \
        T v = (T) value; \
        return simt::rmw(p, [=](T o) { (void) o; return (T) (EXPR); }); \
    }
SIMT_ATOMIC(atomicAdd, o + v)
SIMT_ATOMIC(atomicSub, o - v)
SIMT_ATOMIC(atomicMax, o > v ? o : v)
SIMT_ATOMIC(atomicMin, o < v ? o : v)
SIMT_ATOMIC(atomicExch, v)
SIMT_ATOMIC(atomicOr, o | v)
SIMT_ATOMIC(atomicAnd, o & v)
SIMT_ATOMIC(atomicXor, o ^ v)
SIMT_ATOMIC(atomicInc, o >= v ? 0 : o + 1)
SIMT_ATOMIC(atomicDec, o == 0 || o > v ? v : o - 1)
#undef SIMT_ATOMIC

template <class T, class C, class V>
T atomicCAS(T *p, C expected, V value)
{
    T c = (T) expected, v = (T) value;

    return simt::rmw(p, [=](T o) { return o == c ? v : o; });
}

/* ---- floats ---- */

using std::max;
using std::min;

#define __expf(x)   expf(x)       /* glibc has these names for itself */
#define __logf(x)   logf(x)
#define __sinf(x)   sinf(x)
#define __cosf(x)   cosf(x)
#define __exp10f(x) exp10f(x)
#define __powf(x, y) powf(x, y)
static inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
static inline float __log2f_(float x) { return log2f(x); }
#define __log2f(x)  __log2f_(x)
static inline float __fdividef(float a, float b) { return a / b; }
static inline float __fdiv_rn(float a, float b) { return a / b; }
static inline float __frcp_rn(float a) { return 1.0f / a; }
static inline float __fsqrt_rn(float a) { return sqrtf(a); }
static inline float __frsqrt_rn(float a)
{
    return (float) (1.0 / sqrt((double) a));
}
static inline float __fadd_rn(float a, float b) { return a + b; }
static inline float __fsub_rn(float a, float b) { return a - b; }
static inline float __fmul_rn(float a, float b) { return a * b; }
static inline float __fmaf_rn(float a, float b, float c)
{
    return fmaf(a, b, c);
}
static inline double __fma_rn(double a, double b, double c)
{
    return fma(a, b, c);
}
static inline double __dadd_rn(double a, double b) { return a + b; }
static inline double __dmul_rn(double a, double b) { return a * b; }
static inline float __saturatef(float x)
{
    return x > 0.f ? (x < 1.f ? x : 1.f) : 0.f;
}

namespace simt {

/* A rounded double into an integer type: saturating, NaN is 0. */
template <class I>
I to_int(double x)
{
    constexpr double two = sizeof(I) == 8 ? 0x1p63 : 0x1p31;
    constexpr bool   sgn = std::is_signed<I>::value;
    constexpr double top = sgn ? two : 2 * two, low = sgn ? -two : 0;

    if (x != x) {
        return 0;
    }
    if (x >= top) {
        return (I) (sgn ? ~(I) 0 ^ ((I) 1 << (sizeof(I) * 8 - 1)) : ~(I) 0);
    }
    return x <= low ? (I) low : (I) x;
}

}  // namespace simt

static inline int __float2int_rn(float x)
{
    return simt::to_int<int>(nearbyint(x));
}
static inline int __float2int_rz(float x)
{
    return simt::to_int<int>(trunc(x));
}
static inline int __float2int_rd(float x)
{
    return simt::to_int<int>(floor(x));
}
static inline int __float2int_ru(float x)
{
    return simt::to_int<int>(ceil(x));
}
static inline unsigned __float2uint_rn(float x)
{
    return simt::to_int<unsigned>(nearbyint(x));
}
static inline unsigned __float2uint_rz(float x)
{
    return simt::to_int<unsigned>(trunc(x));
}
static inline unsigned long long __float2ull_rz(float x)
{
    return simt::to_int<unsigned long long>(trunc(x));
}
static inline unsigned long long __double2ull_rz(double x)
{
    return simt::to_int<unsigned long long>(trunc(x));
}
static inline long long __double2ll_rn(double x)
{
    return simt::to_int<long long>(nearbyint(x));
}
static inline float __int2float_rn(int x) { return (float) x; }
static inline float __uint2float_rn(unsigned x) { return (float) x; }
static inline float __double2float_rn(double x) { return (float) x; }
static inline double __ull2double_rn(unsigned long long x)
{
    return (double) x;
}

/* ---- integers and bits ---- */

static inline int __popc(unsigned x) { return __builtin_popcount(x); }
static inline int __popcll(unsigned long long x)
{
    return __builtin_popcountll(x);
}
static inline int __clz(int x)
{
    return x ? __builtin_clz((unsigned) x) : 32;
}
static inline int __clzll(long long x)
{
    return x ? __builtin_clzll((unsigned long long) x) : 64;
}
static inline int __ffs(int x) { return __builtin_ffs(x); }
static inline int __ffsll(long long x) { return __builtin_ffsll(x); }
static inline unsigned __brev(unsigned x)
{
    unsigned r = 0;

    for (int i = 0; i < 32; i++) {
        r |= (x >> i & 1) << (31 - i);
    }
    return r;
}
static inline unsigned __umulhi(unsigned a, unsigned b)
{
    return (unsigned) ((uint64_t) a * b >> 32);
}
static inline int __mulhi(int a, int b)
{
    return (int) ((int64_t) a * b >> 32);
}
static inline unsigned long long __umul64hi(unsigned long long a,
    unsigned long long b)
{
    return (unsigned long long) ((unsigned __int128) a * b >> 64);
}
static inline long long __mul64hi(long long a, long long b)
{
    return (long long) ((__int128) a * b >> 64);
}
static inline unsigned __funnelshift_l(unsigned lo, unsigned hi, unsigned s)
{
    return (unsigned) (((uint64_t) hi << 32 | lo) << (s & 31) >> 32);
}
static inline unsigned __funnelshift_r(unsigned lo, unsigned hi, unsigned s)
{
    return (unsigned) (((uint64_t) hi << 32 | lo) >> (s & 31));
}

static inline unsigned __byte_perm(unsigned a, unsigned b, unsigned sel)
{
    uint64_t v = (uint64_t) b << 32 | a;
    unsigned r = 0;

    for (int i = 0; i < 4; i++) {
        unsigned k = sel >> 4 * i;
        unsigned byte = (unsigned) (v >> 8 * (k & 7)) & 0xff;
        if (k & 8) {
            byte = byte & 0x80 ? 0xff : 0;    /* the sign, replicated */
        }
        r |= byte << 8 * i;
    }
    return r;
}

namespace simt {

/* lop3.b32: bit k of the table is the result for a, b, c = bits 2, 1, 0. */
static inline unsigned lop3(unsigned a, unsigned b, unsigned c,
    unsigned table)
{
    unsigned r = 0;

    for (int k = 0; k < 8; k++) {
        if (table >> k & 1) {
            r |= (k & 4 ? a : ~a) & (k & 2 ? b : ~b) & (k & 1 ? c : ~c);
        }
    }
    return r;
}

/* f on each of the four bytes (two halves) of a and b as type T. */
template <class T, class F>
unsigned by_part(unsigned a, unsigned b, F f)
{
    unsigned r = 0;

    for (unsigned i = 0; i < 32; i += 8 * sizeof(T)) {
        r |= (unsigned) (std::make_unsigned_t<T>) f((T) (a >> i),
                                                    (T) (b >> i)) << i;
    }
    return r;
}

template <class T>
T saturate(int x)
{
    int lo = std::is_signed<T>::value ? -(1 << (8 * sizeof(T) - 1)) : 0;
    int hi = lo + (1 << 8 * sizeof(T)) - 1;

    return (T) (x < lo ? lo : x > hi ? hi : x);
}

}  // namespace simt

#define SIMT_VIDEO(NAME, T, EXPR) \
    static inline unsigned NAME(unsigned x, unsigned y) \
    { \
        return simt::by_part<T>(x, y, [](T a, T b) -> T { \
            return (T) (EXPR); }); \
    }
SIMT_VIDEO(__vadd4, uint8_t, a + b)
SIMT_VIDEO(__vsub4, uint8_t, a - b)
SIMT_VIDEO(__vaddss4, int8_t, simt::saturate<int8_t>(a + b))
SIMT_VIDEO(__vsubss4, int8_t, simt::saturate<int8_t>(a - b))
SIMT_VIDEO(__vaddus4, uint8_t, simt::saturate<uint8_t>(a + b))
SIMT_VIDEO(__vsubus4, uint8_t, simt::saturate<uint8_t>(a - b))
SIMT_VIDEO(__vmaxs4, int8_t, a > b ? a : b)
SIMT_VIDEO(__vmins4, int8_t, a < b ? a : b)
SIMT_VIDEO(__vmaxu4, uint8_t, a > b ? a : b)
SIMT_VIDEO(__vminu4, uint8_t, a < b ? a : b)
SIMT_VIDEO(__vcmpeq4, uint8_t, a == b ? 0xff : 0)
SIMT_VIDEO(__vcmpne4, uint8_t, a != b ? 0xff : 0)
SIMT_VIDEO(__vcmpgts4, int8_t, a > b ? -1 : 0)
SIMT_VIDEO(__vadd2, uint16_t, a + b)
SIMT_VIDEO(__vsub2, uint16_t, a - b)
SIMT_VIDEO(__vmaxs2, int16_t, a > b ? a : b)
SIMT_VIDEO(__vmins2, int16_t, a < b ? a : b)
#undef SIMT_VIDEO

static inline unsigned __vabs4(unsigned x)
{
    return simt::by_part<int8_t>(x, 0, [](int8_t a, int8_t) -> int8_t {
        return (int8_t) (a < 0 ? -a : a); });
}

static inline unsigned __vneg4(unsigned x)
{
    return __vsub4(0, x);
}

static inline int __dp4a(int a, int b, int c)
{
    for (int i = 0; i < 4; i++) {
        c += (int8_t) (a >> 8 * i) * (int8_t) (b >> 8 * i);
    }
    return c;
}

static inline unsigned __dp4a(unsigned a, unsigned b, unsigned c)
{
    for (int i = 0; i < 4; i++) {
        c += (uint8_t) (a >> 8 * i) * (unsigned) (uint8_t) (b >> 8 * i);
    }
    return c;
}

template <class T>
inline __attribute__((always_inline)) T __ldg(const T *p)
{
    return *p;
}

#endif
