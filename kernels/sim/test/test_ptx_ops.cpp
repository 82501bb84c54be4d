/*
 * test_ptx_ops.cpp: every arithmetic instruction of the PTX interpreter
 * against plain C++, on edge values and random ones, with all lanes and with
 * some of them switched off. The PTX is made here, one kernel a case.
 */

#include <cfenv>
#include <cmath>
#include <functional>

#include "ptx_test.h"

typedef uint64_t u64;
typedef uint32_t u32;
typedef int64_t  s64;
typedef int32_t  s32;
typedef uint16_t u16;
typedef int16_t  s16;
typedef uint8_t  u8;
typedef int8_t   s8;
typedef __int128 s128;
typedef unsigned __int128 u128;

static const int N = 32 * 24;     /* operand tuples of a case */
static const u64 OLD = 0x5a5a5a5a5a5a5a5aull;

/* Kinds of operands; the result's first. h 16, w 32, d 64 bits of integers;
 * f float, F double; H f16, B bf16 bits; n small count in 32 bits; p
 * predicate. */
struct Case {
    const char *op;
    const char *sig;
    u64       (*want)(u64, u64, u64);
    double      ulp;              /* of an f result, allowed */
    const char *tail;             /* a literal operand behind the others */
};

static float f_of(u64 v)
{
    float f;

    memcpy(&f, &v, 4);            /* the low half */
    return f;
}

static double d_of(u64 v)
{
    double d;

    memcpy(&d, &v, 8);
    return d;
}

static u64 bits(float f)
{
    u32 u;

    memcpy(&u, &f, 4);
    return u;
}

static u64 bits(double d)
{
    u64 u;

    memcpy(&u, &d, 8);
    return u;
}

/* Independent of the interpreter: by search over all codes. */
template <class F> static u64 nearest(double v, u32 codes, F value)
{
    u64 best = 0;
    double diff = INFINITY;

    for (u32 c = 0; c < codes; c++) {
        double e = fabs(value(c) - fabs(v));
        if (e < diff || (e == diff && !(c & 1))) {
            best = c;
            diff = e;
        }
    }
    return best;
}

static double half_at(u32 c)
{
    int e = (int) (c >> 10), m = (int) (c & 1023);

    return e ? ldexp(1024 + m, e - 25) : ldexp(m, -24);
}

static double e4m3_at(u32 c)
{
    int e = (int) (c >> 3), m = (int) (c & 7);

    return e ? ldexp(8 + m, e - 10) : ldexp(m, -9);
}

/* The code of f16 whose value is nearest, ties to even. */
static u64 to_half(double v)
{
    u64 sign = std::signbit(v) ? 0x8000 : 0;
    int e;

    if (v != v)
        return 0x7fff;
    if (fabs(v) >= 65520)
        return sign | 0x7c00;
    if (v == 0)
        return sign;
    frexp(v, &e);
    int unit = std::max(e - 11, -24);
    double n = nearbyint(ldexp(fabs(v), -unit));
    u32 c = unit == -24 ? (u32) n
        : (u32) ((unit + 25) * 1024 + (int) n - 1024);
    return sign | c;
}

static u64 to_bf16(double v)
{
    u64 sign = std::signbit(v) ? 0x8000 : 0;
    int e;

    if (v != v)
        return 0x7fff;
    if (v == 0 || std::isinf(v))
        return sign | (v == 0 ? 0 : 0x7f80);
    frexp(v, &e);
    int unit = std::max(e - 8, -133);
    double n = nearbyint(ldexp(fabs(v), -unit));
    u64 c = unit == -133 ? (u64) n : (u64) ((unit + 134) * 128 + (s64) n - 128);
    return sign | std::min(c, (u64) 0x7f80);
}

static double half_of(u64 h)
{
    double v = (h & 0x7c00) == 0x7c00 ? (h & 0x3ff ? NAN : INFINITY)
        : half_at((u32) (h & 0x7fff));
    return h & 0x8000 ? -v : v;
}

static double bf_of(u64 b) { return f_of(b << 16); }

static u64 to_e4m3(double v)
{
    if (v != v)
        return 0x7f;
    return (std::signbit(v) ? 0x80 : 0) | nearest(std::min(fabs(v), 448.0),
        127, e4m3_at);
}

template <class D> static u64 to_int(double v, bool zero_nan = true)
{
    typedef std::numeric_limits<D> L;

    if (v != v)
        return zero_nan ? 0 : 1ull << (sizeof(D) * 8 - 1);
    if (v <= (double) L::min())
        return (u64) L::min();
    return v >= (double) L::max() ? (u64) L::max() : (u64) (D) v;
}

/* Directed rounding by the host's own mode. */
static float fma_mode(int mode, float a, float b, float c)
{
    volatile float x = a, y = b, z = c, r;

    fesetround(mode);
    r = fmaf(x, y, z);
    fesetround(FE_TONEAREST);
    return r;
}

static float mul_mode(int mode, float a, float b)
{
    volatile float x = a, y = b, r;

    fesetround(mode);
    r = x * y;
    fesetround(FE_TONEAREST);
    return r;
}

/* A NaN gives the other operand, -0 is less than +0. */
static double least(double a, double b)
{
    if (a != a || b != b)
        return a != a ? b : a;
    return a < b || (a == b && std::signbit(a)) ? a : b;
}

static double most(double a, double b) { return -least(-a, -b); }

#define W(expr)  [](u64 A, u64 B, u64 C) -> u64 { \
    u32 a = (u32) A, b = (u32) B, c = (u32) C; \
    (void) a; (void) b; (void) c; return (u32) (expr); }
#define S(expr)  [](u64 A, u64 B, u64 C) -> u64 { \
    s32 a = (s32) A, b = (s32) B, c = (s32) C; \
    (void) a; (void) b; (void) c; return (u32) (expr); }
#define D(expr)  [](u64 a, u64 b, u64 c) -> u64 { \
    (void) a; (void) b; (void) c; return (u64) (expr); }
#define F(expr)  [](u64 A, u64 B, u64 C) -> u64 { \
    float a = f_of(A), b = f_of(B), c = f_of(C); \
    (void) a; (void) b; (void) c; return bits((float) (expr)); }
#define FI(expr) [](u64 A, u64 B, u64 C) -> u64 { \
    float a = f_of(A), b = f_of(B), c = f_of(C); \
    (void) a; (void) b; (void) c; return (u64) (expr); }
#define FD(expr) [](u64 A, u64 B, u64 C) -> u64 { \
    double a = d_of(A), b = d_of(B), c = d_of(C); \
    (void) a; (void) b; (void) c; return bits((double) (expr)); }
#define FDI(expr) [](u64 A, u64 B, u64 C) -> u64 { \
    double a = d_of(A), b = d_of(B), c = d_of(C); \
    (void) a; (void) b; (void) c; return (u64) (expr); }
#define HH(expr) [](u64 A, u64 B, u64 C) -> u64 { \
    double a = half_of(A), b = half_of(B), c = half_of(C); \
    (void) a; (void) b; (void) c; return (expr); }
#define BB(expr) [](u64 A, u64 B, u64 C) -> u64 { \
    double a = bf_of(A), b = bf_of(B), c = bf_of(C); \
    (void) a; (void) b; (void) c; return (expr); }

static u32 permute(u32 a, u32 b, u32 sel)
{
    u8 in[8];
    u32 r = 0;

    memcpy(in, &a, 4);
    memcpy(in + 4, &b, 4);
    for (int i = 0; i < 4; i++) {
        u32 s = sel >> 4 * i & 15;
        u32 v = in[s & 7];
        r |= (s & 8 ? (v & 128 ? 255u : 0) : v) << 8 * i;
    }
    return r;
}

static u64 extract(u64 a, u32 pos, u32 len, int width, bool is_signed)
{
    u64 r = 0;
    int top = (int) std::min(pos + len - 1, (u32) width - 1);
    u64 sign = is_signed && len ? a >> top & 1 : 0;

    for (u32 i = 0; i < (u32) width; i++)
        r |= (i < len && pos + i < (u32) width ? a >> (pos + i) & 1 : sign)
            << i;
    return r;
}

static u64 insert(u64 a, u64 b, u32 pos, u32 len, u32 width)
{
    for (u32 i = 0; i < len && pos + i < width; i++)
        b = (b & ~(1ull << (pos + i))) | (a >> i & 1) << (pos + i);
    return b;
}

static u32 dot4(u32 a, u32 b, u32 c, bool sa, bool sb)
{
    for (int i = 0; i < 32; i += 8) {
        int x = sa ? (int) (s8) (a >> i) : (int) (u8) (a >> i);
        int y = sb ? (int) (s8) (b >> i) : (int) (u8) (b >> i);
        c += (u32) (x * y);
    }
    return c;
}

static u32 dot2(u32 a, u32 b, u32 c, bool sa, bool sb)
{
    for (int i = 0; i < 2; i++) {
        int x = sa ? (int) (s16) (a >> 16 * i) : (int) (u16) (a >> 16 * i);
        int y = sb ? (int) (s8) (b >> 8 * i) : (int) (u8) (b >> 8 * i);
        c += (u32) (x * y);
    }
    return c;
}

static const Case cases[] = {
    /* integers */
    {"add.s32", "www", W(a + b), 0, 0}, {"sub.s32", "www", W(a - b), 0, 0},
    {"add.s64", "ddd", D(a + b), 0, 0}, {"sub.u64", "ddd", D(a - b), 0, 0},
    {"add.s16", "hhh", D((u16) (a + b)), 0, 0},
    {"mul.lo.s32", "www", W(a * b), 0, 0},
    {"mul.lo.s64", "ddd", D(a * b), 0, 0},
    {"mul.lo.s16", "hhh", D((u16) (a * b)), 0, 0},
    {"mad.lo.s32", "wwww", W(a * b + c), 0, 0},
    {"mad.lo.s64", "dddd", D(a * b + c), 0, 0},
    {"mul.wide.s32", "dww", D((s64) (s32) a * (s32) b), 0, 0},
    {"mul.wide.u32", "dww", D((u64) (u32) a * (u32) b), 0, 0},
    {"mul.wide.u16", "whh", D((u32) (u16) a * (u16) b), 0, 0},
    {"mul.wide.s16", "whh", D((u32) ((s16) a * (s16) b)), 0, 0},
    {"mad.wide.u32", "dwwd", D((u64) (u32) a * (u32) b + c), 0, 0},
    {"mad.wide.s32", "dwwd", D((s64) (s32) a * (s32) b + c), 0, 0},
    {"mul.hi.s32", "www", S((s64) a * b >> 32), 0, 0},
    {"mul.hi.u32", "www", W((u64) a * b >> 32), 0, 0},
    {"mul.hi.u64", "ddd", D((u128) a * b >> 64), 0, 0},
    {"mul.hi.s64", "ddd", D((s128) (s64) a * (s64) b >> 64), 0, 0},
    {"mad.hi.u32", "wwww", W(((u64) a * b >> 32) + c), 0, 0},
    {"div.s32", "www", S(b == 0 ? -1 : (s64) a / b), 0, 0},
    {"rem.s32", "www", S(b == 0 ? a : (s64) a % b), 0, 0},
    {"div.u32", "www", W(b == 0 ? ~0u : a / b), 0, 0},
    {"rem.u32", "www", W(b == 0 ? a : a % b), 0, 0},
    {"div.u64", "ddd", D(b == 0 ? ~0ull : a / b), 0, 0},
    {"rem.u64", "ddd", D(b == 0 ? a : a % b), 0, 0},
    {"min.s32", "www", S(a < b ? a : b), 0, 0},
    {"max.s32", "www", S(a > b ? a : b), 0, 0},
    {"min.u32", "www", W(a < b ? a : b), 0, 0},
    {"max.u64", "ddd", D(a > b ? a : b), 0, 0},
    {"min.s64", "ddd", D((s64) a < (s64) b ? a : b), 0, 0},
    {"max.s16", "hhh", D((u16) std::max((s16) a, (s16) b)), 0, 0},
    {"neg.s32", "ww", W(0 - a), 0, 0},
    {"abs.s32", "ww", W((s32) a < 0 ? 0 - a : a), 0, 0},
    {"neg.s64", "dd", D(0 - a), 0, 0},
    {"abs.s64", "dd", D((s64) a < 0 ? 0 - a : a), 0, 0},
    {"sad.s32", "wwww", S((u32) c + (u32) llabs((s64) a - b)), 0, 0},
    {"sad.u32", "wwww", W(c + (a > b ? a - b : b - a)), 0, 0},
    {"and.b32", "www", W(a & b), 0, 0}, {"or.b64", "ddd", D(a | b), 0, 0},
    {"xor.b16", "hhh", D((u16) (a ^ b)), 0, 0}, {"not.b32", "ww", W(~a), 0, 0},
    {"not.b64", "dd", D(~a), 0, 0}, {"cnot.b32", "ww", W(a == 0), 0, 0},
    {"mov.b32", "ww", W(a), 0, 0}, {"mov.u64", "dd", D(a), 0, 0},
    {"mov.b16", "hh", D((u16) a), 0, 0},
    {"shl.b32", "wwn", W(b > 31 ? 0 : a << b), 0, 0},
    {"shl.b64", "ddn", D((u32) b > 63 ? 0 : a << (u32) b), 0, 0},
    {"shl.b16", "hhn", D((u32) b > 15 ? 0 : (u16) (a << (u32) b)), 0, 0},
    {"shr.u32", "wwn", W(b > 31 ? 0 : a >> b), 0, 0},
    {"shr.s32", "wwn", W((s64) (s32) a >> std::min(b, 32u)), 0, 0},
    {"shr.u64", "ddn", D((u32) b > 63 ? 0 : a >> (u32) b), 0, 0},
    {"shr.s64", "ddn", D((s64) a >> std::min((u32) b, 63u)), 0, 0},
    {"shr.s16", "hhn", D((u16) ((s16) a >> std::min((u32) b, 15u))), 0, 0},
    {"shr.u16", "hhn", D((u32) b > 15 ? 0 : (u16) a >> (u32) b), 0, 0},
    {"shf.l.wrap.b32", "wwwn", W(((u64) b << 32 | a) << (c & 31) >> 32), 0, 0},
    {"shf.r.wrap.b32", "wwwn", W(((u64) b << 32 | a) >> (c & 31)), 0, 0},
    {"shf.l.clamp.b32", "wwwn",
        W((u128) ((u64) b << 32 | a) << std::min(c, 32u) >> 32), 0, 0},
    {"shf.r.clamp.b32", "wwwn",
        W(((u64) b << 32 | a) >> std::min(c, 32u)), 0, 0},
    {"popc.b32", "ww", W(__builtin_popcount(a)), 0, 0},
    {"popc.b64", "wd", D(__builtin_popcountll(a)), 0, 0},
    {"clz.b32", "ww", W(a ? __builtin_clz(a) : 32), 0, 0},
    {"clz.b64", "wd", D(a ? __builtin_clzll(a) : 64), 0, 0},
    {"brev.b32", "ww",
        [](u64 a, u64, u64) { u64 r = 0; for (int i = 0; i < 32; i++) r |= (a >>
            i & 1) << (31 - i); return r; }, 0, 0},
    {"brev.b64", "dd",
        [](u64 a, u64, u64) { u64 r = 0; for (int i = 0; i < 64; i++) r |= (a >>
            i & 1) << (63 - i); return r; }, 0, 0},
    {"bfind.u32", "ww", W(a ? 31 - __builtin_clz(a) : ~0), 0, 0},
    {"bfind.s32", "ww",
        W(((s32) a < 0 ? ~a : a) ? 31 - __builtin_clz((s32) a < 0 ? ~a : a) :
            ~0), 0, 0},
    {"bfind.shiftamt.u32", "ww", W(a ? __builtin_clz(a) : ~0), 0, 0},
    {"bfe.u32", "wwnn",
        D(extract((u32) a, (u32) b & 255, (u32) c & 255, 32, false)), 0, 0},
    {"bfe.s32", "wwnn",
        D(extract((u32) a, (u32) b & 255, (u32) c & 255, 32, true)), 0, 0},
    {"bfe.u64", "ddnn",
        D(extract(a, (u32) b & 255, (u32) c & 255, 64, false)), 0, 0},
    {"bfe.s64", "ddnn",
        D(extract(a, (u32) b & 255, (u32) c & 255, 64, true)), 0, 0},
    {"bfi.b32", "wwwn",
        D(insert((u32) a, (u32) b, (u32) c & 255, 5, 32)), 0, "5"},
    {"bfi.b64", "dddn", D(insert(a, b, (u32) c & 255, 37, 64)), 0, "37"},
    {"bfi.b32", "wwwn",
        D(insert((u32) a, (u32) b, (u32) c & 255, 32, 32)), 0, "32"},
    {"prmt.b32", "wwww", W(permute(a, b, c)), 0, 0},
    {"lop3.b32", "wwww", W((a & b) ^ c), 0, "0x6a"},
    {"lop3.b32", "wwww", W((a & b) | (~a & c)), 0, "0xca"},
    {"lop3.b32", "wwww", W(a ^ b ^ c), 0, "150"},
    {"dp4a.s32.s32", "wwww", W(dot4(a, b, c, true, true)), 0, 0},
    {"dp4a.u32.u32", "wwww", W(dot4(a, b, c, false, false)), 0, 0},
    {"dp4a.u32.s32", "wwww", W(dot4(a, b, c, false, true)), 0, 0},
    {"dp4a.s32.u32", "wwww", W(dot4(a, b, c, true, false)), 0, 0},
    {"dp2a.lo.s32.s32", "wwww", W(dot2(a, b, c, true, true)), 0, 0},
    {"dp2a.lo.u32.u32", "wwww", W(dot2(a, b, c, false, false)), 0, 0},
    {"dp2a.hi.u32.s32", "wwww", W(dot2(a, b >> 16, c, false, true)), 0, 0},
    {"dp2a.hi.s32.u32", "wwww", W(dot2(a, b >> 16, c, true, false)), 0, 0},
    {"vabsdiff4.u32.u32.u32", "wwww",
        [](u64 a, u64 b, u64) { u64 r = 0; for (int i = 0; i < 32; i += 8) r |=
            (u64) (u8) abs((int) (u8) (a >> i) - (int) (u8) (b >> i)) << i;
            return r; }, 0, 0},

    /* comparisons */
    {"setp.eq.s32", "pww", S(a == b), 0, 0},
    {"setp.ne.s32", "pww", S(a != b), 0, 0},
    {"setp.lt.s32", "pww", S(a < b), 0, 0},
    {"setp.le.s32", "pww", S(a <= b), 0, 0},
    {"setp.gt.u32", "pww", W(a > b), 0, 0},
    {"setp.ge.u32", "pww", W(a >= b), 0, 0},
    {"setp.lo.u32", "pww", W(a < b), 0, 0},
    {"setp.hs.u32", "pww", W(a >= b), 0, 0},
    {"setp.lt.u64", "pdd", D(a < b), 0, 0},
    {"setp.gt.s64", "pdd", D((s64) a > (s64) b), 0, 0},
    {"setp.eq.b16", "phh", D((u16) a == (u16) b), 0, 0},
    {"setp.lt.s16", "phh", D((s16) a < (s16) b), 0, 0},
    {"setp.eq.f32", "pff", FI(a == b), 0, 0},
    {"setp.ne.f32", "pff", FI(a == a && b == b && a != b), 0, 0},
    {"setp.lt.f32", "pff", FI(a < b), 0, 0},
    {"setp.le.f32", "pff", FI(a <= b), 0, 0},
    {"setp.gt.f32", "pff", FI(a > b), 0, 0},
    {"setp.ge.f32", "pff", FI(a >= b), 0, 0},
    {"setp.equ.f32", "pff", FI(!(a < b || a > b)), 0, 0},
    {"setp.neu.f32", "pff", FI(a != b), 0, 0},
    {"setp.ltu.f32", "pff", FI(!(a >= b)), 0, 0},
    {"setp.leu.f32", "pff", FI(!(a > b)), 0, 0},
    {"setp.gtu.f32", "pff", FI(!(a <= b)), 0, 0},
    {"setp.geu.f32", "pff", FI(!(a < b)), 0, 0},
    {"setp.num.f32", "pff", FI(a == a && b == b), 0, 0},
    {"setp.nan.f32", "pff", FI(a != a || b != b), 0, 0},
    {"setp.lt.f64", "pFF", FDI(a < b), 0, 0},
    {"setp.neu.f64", "pFF", FDI(a != b), 0, 0},
    {"setp.gt.f16", "pHH", HH((u64) (a > b)), 0, 0},
    {"setp.leu.bf16", "pBB", BB((u64) !(a > b)), 0, 0},

    /* floats */
    {"add.f32", "fff", F(a + b), 0, 0}, {"sub.rn.f32", "fff", F(a - b), 0, 0},
    {"mul.rn.f32", "fff", F(a * b), 0, 0},
    {"div.rn.f32", "fff", F(a / b), 0, 0},
    {"fma.rn.f32", "ffff", F(fmaf(a, b, c)), 0, 0},
    {"fma.rm.f32", "ffff", F(fma_mode(FE_DOWNWARD, a, b, c)), 0, 0},
    {"fma.rz.f32", "ffff", F(fma_mode(FE_TOWARDZERO, a, b, c)), 0, 0},
    {"fma.rp.f32", "ffff", F(fma_mode(FE_UPWARD, a, b, c)), 0, 0},
    {"add.rz.f32", "fff", F(fma_mode(FE_TOWARDZERO, a, 1, b)), 0, 0},
    {"mul.rm.f32", "fff", F(mul_mode(FE_DOWNWARD, a, b)), 0, 0},
    {"add.sat.f32", "fff", F(a + b > 0 ? std::min(a + b, 1.f) : 0), 0, 0},
    {"min.f32", "fff", F(least(a, b)), 0, 0},
    {"max.f32", "fff", F(most(a, b)), 0, 0},
    {"min.NaN.f32", "fff", F(a != a || b != b ? NAN : least(a, b)), 0, 0},
    {"neg.f32", "ff", F(-a), 0, 0}, {"abs.f32", "ff", F(fabsf(a)), 0, 0},
    {"copysign.f32", "fff", F(copysignf(b, a)), 0, 0},
    {"sqrt.rn.f32", "ff", F(sqrtf(a)), 0, 0},
    {"rcp.rn.f32", "ff", F(1 / a), 0, 0},
    {"sqrt.approx.f32", "ff", F(sqrt((double) a)), 2, 0},
    {"rsqrt.approx.f32", "ff", F(1 / sqrt((double) a)), 2, 0},
    {"rcp.approx.ftz.f32", "ff",
        F(fabsf(a) < 0x1p-126f ? copysignf(INFINITY, a) : fabs(1.0 / a) <
            0x1p-126 ? copysignf(0, a) : 1 / a), 2, 0},
    {"div.approx.f32", "fff", F(a / b), 2, 0},
    {"ex2.approx.ftz.f32", "ff",
        F(exp2((double) a) < 0x1p-126 ? 0 : exp2((double) a)), 2, 0},
    {"ex2.approx.f32", "ff", F(exp2((double) a)), 2, 0},
    {"lg2.approx.f32", "ff", F(log2((double) a)), 2, 0},
    {"sin.approx.f32", "ff", F(sin((double) a)), 2, 0},
    {"tanh.approx.f32", "ff", F(tanh((double) a)), 2, 0},
    {"mov.f32", "ff", F(a), 0, 0},
    {"add.f64", "FFF", FD(a + b), 0, 0}, {"sub.rn.f64", "FFF", FD(a - b), 0, 0},
    {"mul.rn.f64", "FFF", FD(a * b), 0, 0},
    {"div.rn.f64", "FFF", FD(a / b), 0, 0},
    {"fma.rn.f64", "FFFF", FD(fma(a, b, c)), 0, 0},
    {"min.f64", "FFF", FD(least(a, b)), 0, 0},
    {"max.f64", "FFF", FD(most(a, b)), 0, 0},
    {"neg.f64", "FF", FD(-a), 0, 0}, {"abs.f64", "FF", FD(fabs(a)), 0, 0},
    {"sqrt.rn.f64", "FF", FD(sqrt(a)), 0, 0},
    {"rcp.rn.f64", "FF", FD(1 / a), 0, 0},

    /* small floats */
    {"add.f16", "HHH", HH(to_half(a + b)), 0, 0},
    {"mul.f16", "HHH", HH(to_half(a * b)), 0, 0},
    {"sub.rn.f16", "HHH", HH(to_half(a - b)), 0, 0},
    {"fma.rn.f16", "HHHH",
        HH(to_half((double) ((long double) a * b + c))), 0, 0},
    {"add.bf16", "BBB", BB(to_bf16(a + b)), 0, 0},
    {"mul.bf16", "BBB", BB(to_bf16(a * b)), 0, 0},
    {"neg.bf16", "BB", D((u16) a ^ 0x8000), 0, 0},
    {"abs.f16", "HH", D(a & 0x7fff), 0, 0},
    {"max.f16", "HHH",
        HH(a != a && b != b ? 0x7fff : to_half(most(a, b))), 0, 0},
    {"min.bf16", "BBB",
        BB(a != a && b != b ? 0x7fff : to_bf16(least(a, b))), 0, 0},

    /* cvt */
    {"cvt.rn.f32.s32", "fw", S(bits((float) a)), 0, 0},
    {"cvt.rn.f32.u32", "fw", W(bits((float) a)), 0, 0},
    {"cvt.rn.f32.u64", "fd", D(bits((float) a)), 0, 0},
    {"cvt.rn.f32.s64", "fd", D(bits((float) (s64) a)), 0, 0},
    {"cvt.rn.f32.u16", "fh", D(bits((float) (u16) a)), 0, 0},
    {"cvt.rn.f32.s8", "fw", D(bits((float) (s8) a)), 0, 0},
    {"cvt.rn.f64.s32", "Fw", S(0) , -1, 0},
    {"cvt.rn.f64.u64", "Fd", D(bits((double) a)), 0, 0},
    {"cvt.rn.f64.s64", "Fd", D(bits((double) (s64) a)), 0, 0},
    {"cvt.f64.f32", "Ff", FI(bits((double) a)), 0, 0},
    {"cvt.rn.f32.f64", "fF", FDI(bits((float) a)), 0, 0},
    {"cvt.rni.s32.f32", "wf", FI((u32) to_int<s32>(nearbyint(a))), 0, 0},
    {"cvt.rzi.s32.f32", "wf", FI((u32) to_int<s32>(trunc(a))), 0, 0},
    {"cvt.rmi.s32.f32", "wf", FI((u32) to_int<s32>(floor(a))), 0, 0},
    {"cvt.rpi.s32.f32", "wf", FI((u32) to_int<s32>(ceil(a))), 0, 0},
    {"cvt.rzi.u32.f32", "wf", FI((u32) to_int<u32>(trunc(a))), 0, 0},
    {"cvt.rzi.u64.f32", "df", FI(to_int<u64>(trunc(a), false)), 0, 0},
    {"cvt.rni.s64.f64", "dF", FDI(to_int<s64>(nearbyint(a), false)), 0, 0},
    {"cvt.rzi.s32.f64", "wF", FDI((u32) to_int<s32>(trunc(a), false)), 0, 0},
    {"cvt.rni.sat.s8.f32", "wf",
        FI((u32) (s32) (s8) to_int<s8>(nearbyint(a))), 0, 0},
    {"cvt.rni.f32.f32", "ff", F(nearbyintf(a)), 0, 0},
    {"cvt.rzi.f32.f32", "ff", F(truncf(a)), 0, 0},
    {"cvt.rmi.f32.f32", "ff", F(floorf(a)), 0, 0},
    {"cvt.rpi.f64.f64", "FF", FD(ceil(a)), 0, 0},
    {"cvt.sat.f32.f32", "ff", F(a > 0 ? std::min(a, 1.f) : 0), 0, 0},
    {"cvt.u64.u32", "dw", D((u32) a), 0, 0},
    {"cvt.s64.s32", "dw", D((s64) (s32) a), 0, 0},
    {"cvt.u32.u64", "wd", D((u32) a), 0, 0},
    {"cvt.s32.s8", "ww", D((u32) (s8) a), 0, 0},
    {"cvt.u32.u8", "ww", D((u8) a), 0, 0},
    {"cvt.u32.u16", "wh", D((u16) a), 0, 0},
    {"cvt.s32.s16", "wh", D((u32) (s16) a), 0, 0},
    {"cvt.u16.u32", "hw", D((u16) a), 0, 0},
    {"cvt.s16.s8", "hh", D((u16) (s8) a), 0, 0},
    {"cvt.u16.u8", "hh", D((u8) a), 0, 0},
    {"cvt.s64.s16", "dh", D((s64) (s16) a), 0, 0},
    {"cvt.u64.u8", "dw", D((u8) a), 0, 0},
    {"cvt.sat.s8.s32", "ww", S(std::min(std::max(a, -128), 127)), 0, 0},
    {"cvt.sat.u8.s32", "ww", S(std::min(std::max(a, 0), 255)), 0, 0},
    {"cvt.s64.s8", "dd", D((s64) (s8) a), 0, 0},
    {"cvt.s8.s64", "dd", D((s64) (s8) a), 0, 0},
    {"cvt.rn.f16.f32", "hf", FI(to_half(a)), 0, 0},
    {"cvt.f32.f16", "fH", HH(bits((float) a)), 0, 0},
    {"cvt.rn.bf16.f32", "hf", FI(to_bf16(a)), 0, 0},
    {"cvt.f32.bf16", "fB", BB(bits((float) a)), 0, 0},
    {"cvt.rz.bf16.f32", "hf", FI(a != a ? 0x7fff : bits(a) >> 16), 0, 0},
    {"cvt.rn.f16.s32", "hw", S(to_half((double) a)), 0, 0},
    {"cvt.rni.s32.f16", "wH", HH((u32) to_int<s32>(nearbyint(a))), 0, 0},
    {"cvt.rn.bf16x2.f32", "wff", FI(to_bf16(a) << 16 | to_bf16(b)), 0, 0},
    {"cvt.rn.f16x2.f32", "wff", FI(to_half(a) << 16 | to_half(b)), 0, 0},
    {"cvt.rn.satfinite.e4m3x2.f32", "hff",
        FI(to_e4m3(a) << 8 | to_e4m3(b)), 0, 0},
    {"cvt.rn.f16x2.e4m3x2", "wh",
        [](u64 a, u64, u64) -> u64 { u64 r = 0; for (int i = 0; i < 2; i++) {
            u32 c = (u32) (a >> 8 * i & 255); double v = (c & 127) == 127 ? NAN
            : e4m3_at(c & 127); r |= to_half(c & 128 ? -v : v) << 16 * i; }
            return r; }, 0, 0},
};

/* Pairs: the scalar case in both halves. */
static const char *const pairs[][2] = {
    {"add.f16x2", "add.f16"}, {"mul.bf16x2", "mul.bf16"},
    {"fma.rn.f16x2", "fma.rn.f16"}, {"add.bf16x2", "add.bf16"},
    {"mul.f16x2", "mul.f16"}, {"abs.f16x2", "abs.f16"},
    {"neg.bf16x2", "neg.bf16"},
};

static u64 value(char kind, int i)
{
    static const u64 ints[] = {0, 1, ~0ull, 0x80000000u, 0x7fffffff,
        0x8000000000000000ull, 0x7fffffffffffffffull, 0xffffffffu, 0x8000,
        0x7fff, 0x80, 0x7f, 0xff, 0x100000000ull, 31, 32};
    static const float floats[] = {0, -0.f, 1, -1, INFINITY, -INFINITY, NAN,
        0x1p-149f, -0x1p-130f, 3.4e38f, 0.5f, 1.5f, 2.5f, -2.5f,
        2147483648.f, 448, 464, 65504, 65520, 1e-9f, 127.5f, 0x1p-24f};
    const int ni = sizeof(ints) / sizeof(*ints);
    const int nf = sizeof(floats) / sizeof(*floats);
    u64 r = test_random();

    switch (kind) {
    case 'n':
        return r % 5 ? r >> 8 & 63 : r >> 8 & 511;
    case 'f':
        if (i % 3 == 0)
            return bits(floats[(r >> 5) % nf]);
        if (i % 3 == 1)
            return bits((float) ldexp((double) (s32) r,
                (int) (r >> 40 & 15) - 31));
        return (u32) (r >> 20);
    case 'F':
        if (i % 3 == 0)
            return bits((double) floats[(r >> 5) % nf]);
        return i % 3 == 1
            ? bits(ldexp((double) (s64) r, (int) (r & 31) - 63)) : r;
    case 'H':
    case 'B':
        return i % 4 ? r >> 13 & 0xffff : to_half(floats[(r >> 5) % nf]);
    default:
        return i % 3 == 0 ? ints[(r >> 5) % ni]
            : i % 3 == 1 ? r >> 3 : r >> (r & 63);
    }
}

static char reg_of(char kind)
{
    return strchr("wfn", kind) ? 'w' : strchr("dF", kind) ? 'd'
        : kind == 'p' ? 'p' : 'h';
}

static const char *prefix(char kind)
{
    char r = reg_of(kind);

    return r == 'w' ? "%r" : r == 'd' ? "%rd" : r == 'p' ? "%p" : "%rs";
}

/* A kernel: in: three operands of 8 bytes a thread, out: one result. */
static std::string kernel(const std::string &name, const std::string &op,
    const std::string &sig, const char *tail, bool guard)
{
    std::string s = ".visible .entry " + name
        + "(.param .u64 in, .param .u64 out)\n{\n"
        ".reg .pred %p<4>;\n.reg .b16 %rs<8>;\n.reg .b32 %r<12>;\n"
        ".reg .b64 %rd<12>;\n"
        "ld.param.u64 %rd8, [in];\nld.param.u64 %rd9, [out];\n"
        "mov.u32 %r8, %tid.x;\nmov.u32 %r9, %ctaid.x;\n"
        "mov.u32 %r10, %ntid.x;\nmad.lo.s32 %r8, %r9, %r10, %r8;\n"
        "mul.wide.u32 %rd10, %r8, 24;\nadd.s64 %rd8, %rd8, %rd10;\n"
        "mul.wide.u32 %rd10, %r8, 8;\nadd.s64 %rd9, %rd9, %rd10;\n"
        "rem.u32 %r9, %r8, 3;\nsetp.ne.s32 %p1, %r9, 0;\n"
        "mov.u64 %rd0, 0x5a5a5a5a5a5a5a5a;\nmov.u32 %r0, 0x5a5a5a5a;\n"
        "mov.u16 %rs0, 0x5a5a;\nsetp.ne.s32 %p0, %r8, %r8;\n";

    for (size_t i = 1; i < sig.size(); i++) {
        char r = reg_of(sig[i]);
        s += std::string("ld.global.b") + (r == 'w' ? "32 " : r == 'd'
            ? "64 " : "16 ") + prefix(sig[i]) + std::to_string(i)
            + ", [%rd8+" + std::to_string(8 * (i - 1)) + "];\n";
    }
    s += std::string(guard ? "@%p1 " : "") + op + " ";
    for (size_t i = 0; i < sig.size(); i++)
        s += std::string(i ? ", " : "") + prefix(sig[i]) + std::to_string(i);
    s += std::string(tail ? ", " : "") + (tail ? tail : "") + ";\n";
    char r = reg_of(sig[0]);
    if (r == 'w')
        s += "cvt.u64.u32 %rd0, %r0;\n";
    else if (r == 'h')
        s += "cvt.u64.u16 %rd0, %rs0;\n";
    else if (r == 'p')
        s += "selp.b64 %rd0, 1, 0, %p0;\n";
    return s + "st.global.b64 [%rd9], %rd0;\nret;\n}\n";
}

static u64 old_value(char kind)
{
    char r = reg_of(kind);

    return r == 'w' ? OLD & 0xffffffff : r == 'd' ? OLD
        : r == 'p' ? 0 : OLD & 0xffff;
}

static bool same(char kind, u64 got, u64 want, double ulp)
{
    if (kind == 'f') {
        float a = f_of(got), b = f_of(want);
        if (a != a || b != b)
            return a != a && b != b;
        if (ulp > 0 && std::isfinite(a) && std::isfinite(b))
            return llabs((s64) (s32) got - (s64) (s32) want) <= (s64) ulp;
        return got == want;
    }
    if (kind == 'F' && d_of(want) != d_of(want))
        return d_of(got) != d_of(got);
    return got == want;
}

static void check(const char *name, const std::string &op,
    const std::string &sig, double ulp, bool guard,
    const std::function<u64(u64, u64, u64)> &want)
{
    std::vector<u64> in(3 * N), out;
    Dev<u64> d_out(N);
    int bad = -1;

    for (int i = 0; i < N; i++)
        for (size_t k = 1; k < sig.size(); k++)
            in[(size_t) i * 3 + k - 1] = value(sig[k], i + (int) k * (i / 7));
    Dev<u64> d_in(in);
    run_ptx(name, dim3(N / 96), dim3(96), 0, {(u64) d_in.p, (u64) d_out.p});
    out = d_out.down();
    for (int i = 0; i < N && bad < 0; i++) {
        const u64 *v = &in[(size_t) i * 3];
        u64 w = guard && i % 3 == 0 ? old_value(sig[0])
            : want(v[0], v[1], v[2]);
        if (!same(sig[0], out[(size_t) i], w, ulp)) {
            printf("# %s: %llx %llx %llx -> %llx, not %llx\n", op.c_str(),
                (unsigned long long) v[0], (unsigned long long) v[1],
                (unsigned long long) v[2],
                (unsigned long long) out[(size_t) i], (unsigned long long) w);
            bad = i;
        }
    }
    tap(bad < 0, "%s%s", op.c_str(), guard ? ", some lanes" : "");
}

int main()
{
    const size_t n = sizeof(cases) / sizeof(*cases);
    char path[] = "/tmp/test_ptx_ops.XXXXXX";
    int fd = mkstemp(path);
    std::string text = ".version 9.0\n.target sm_90\n.address_size 64\n";

    for (size_t i = 0; i < n; i++)
        for (int g = 0; g < 2; g++)
            text += kernel("c" + std::to_string(i) + (g ? "g" : ""),
                cases[i].op, cases[i].sig, cases[i].tail, g);
    for (auto &p : pairs) {
        size_t k = 0;
        while (std::string(cases[k].op) != p[1])
            k++;
        text += kernel(std::string("p") + std::to_string(&p - pairs), p[0],
            std::string(strlen(cases[k].sig), 'w'), nullptr, false);
    }
    if (fd < 0 || write(fd, text.data(), text.size()) != (ssize_t) text.size())
        return 1;
    close(fd);
    setenv("SIMT_PTX", path, 1);
    simt::ptx::modules();
    unlink(path);

    for (size_t i = 0; i < n; i++) {
        const Case &c = cases[i];
        std::function<u64(u64, u64, u64)> want = c.want;
        if (c.ulp < 0)            /* cvt.rn.f64.s32: more than 32 bits */
            want = [](u64 a, u64, u64) { return bits((double) (s32) a); };
        for (int g = 0; g < 2; g++)
            check(("c" + std::to_string(i) + (g ? "g" : "")).c_str(), c.op,
                c.sig, c.ulp, g, want);
    }
    for (auto &p : pairs) {
        size_t k = 0;
        while (std::string(cases[k].op) != p[1])
            k++;
        auto one = cases[k].want;
        check(("p" + std::to_string(&p - pairs)).c_str(), p[0],
            std::string(strlen(cases[k].sig), 'w'), 0, false,
            [one](u64 a, u64 b, u64 c) {
                return one(a >> 16 & 0xffff, b >> 16 & 0xffff, c >> 16 & 0xffff)
                    << 16 | one(a & 0xffff, b & 0xffff, c & 0xffff); });
    }
    return tap_end();
}
