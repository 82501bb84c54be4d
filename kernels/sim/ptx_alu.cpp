/*
 * ptx_alu.cpp: arithmetic, logic, comparison and moves. Most instructions are
 * a plain function of one lane's operands; Map makes a loop over a warp of
 * it, and one table maps full opcodes to loops: what is not in the table is
 * not understood. Semantics: PTX ISA 9.0, chapters 9.7.1 to 9.7.9.
 */

#include <cmath>

#include "ptx_int.h"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace simt {
namespace ptx {

/* ---- a function of lanes -> a loop over a warp ---- */

template <class T> constexpr char storage = sizeof(T) == 8 ? 'd' : 'w';
template <auto F> struct Map;

template <class R, class A, R (*F)(A)> struct Map<F> {
    static constexpr char sig[] = {storage<R>, storage<A>, 0};

    static void run(Warp &w, const Ins &i, u32 mask)
    {
        const u32 *a = w.row(i.s[0]);
        R r[LANES];

        for (int l = 0; l < LANES; l++)
            r[l] = F(get<A>(a, l));
        put(w.row(i.d[0]), r, mask);
    }
};

template <class R, class A, class B, R (*F)(A, B)> struct Map<F> {
    static constexpr char sig[] = {storage<R>, storage<A>, storage<B>, 0};

    static void run(Warp &w, const Ins &i, u32 mask)
    {
        const u32 *a = w.row(i.s[0]), *b = w.row(i.s[1]);
        R r[LANES];

        for (int l = 0; l < LANES; l++)
            r[l] = F(get<A>(a, l), get<B>(b, l));
        put(w.row(i.d[0]), r, mask);
    }
};

template <class R, class A, class B, class C, R (*F)(A, B, C)>
struct Map<F> {
    static constexpr char sig[] = {storage<R>, storage<A>, storage<B>,
        storage<C>, 0};

    static void run(Warp &w, const Ins &i, u32 mask)
    {
        const u32 *a = w.row(i.s[0]), *b = w.row(i.s[1]);
        const u32 *c = w.row(i.s[2]);
        R r[LANES];

        for (int l = 0; l < LANES; l++)
            r[l] = F(get<A>(a, l), get<B>(b, l), get<C>(c, l));
        put(w.row(i.d[0]), r, mask);
    }
};

template <class R, class A, class B, class C, class D, R (*F)(A, B, C, D)>
struct Map<F> {
    static constexpr char sig[] = {storage<R>, storage<A>, storage<B>,
        storage<C>, storage<D>, 0};

    static void run(Warp &w, const Ins &i, u32 mask)
    {
        R r[LANES];

        for (int l = 0; l < LANES; l++)
            r[l] = F(get<A>(w.row(i.s[0]), l), get<B>(w.row(i.s[1]), l),
                get<C>(w.row(i.s[2]), l), get<D>(w.row(i.s[3]), l));
        put(w.row(i.d[0]), r, mask);
    }
};

/* ---- integers; sums and products wrap, so they are made unsigned ---- */

template <class T> using Uns = typename std::make_unsigned<T>::type;
template <class T> constexpr int bits_of = sizeof(T) * 8;

template <class T> T add(T a, T b) { return (T) (Uns<T>(a) + Uns<T>(b)); }
template <class T> T sub(T a, T b) { return (T) (Uns<T>(a) - Uns<T>(b)); }
template <class T> T mul(T a, T b)
{
    return (T) ((u64) Uns<T>(a) * (u64) Uns<T>(b));
}
template <class T> T mad(T a, T b, T c)
{
    return (T) ((u64) Uns<T>(a) * (u64) Uns<T>(b) + (u64) Uns<T>(c));
}
template <class T, class W> W mul_wide(T a, T b) { return (W) a * (W) b; }
template <class T, class W> W mad_wide(T a, T b, W c)
{
    return (W) (Uns<W>((W) a * (W) b) + Uns<W>(c));
}
template <class T, class W> T mul_hi(T a, T b)
{
    return (T) (((W) a * (W) b) >> bits_of<T>);
}
template <class T, class W> T mad_hi(T a, T b, T c)
{
    return add<T>(mul_hi<T, W>(a, b), c);
}

/* Division by zero gives all ones, what the hardware's sequence gives. */
template <class T> T div_int(T a, T b)
{
    if (b == 0)
        return (T) ~T(0);
    if (std::is_signed<T>::value && b == (T) -1)
        return sub<T>(0, a);
    return (T) (a / b);
}
template <class T> T rem_int(T a, T b)
{
    if (b == 0)
        return a;
    if (std::is_signed<T>::value && b == (T) -1)
        return 0;
    return (T) (a % b);
}
template <class T> T min_int(T a, T b) { return a < b ? a : b; }
template <class T> T max_int(T a, T b) { return a > b ? a : b; }
template <class T> T neg_int(T a) { return sub<T>(0, a); }
template <class T> T abs_int(T a) { return a < 0 ? sub<T>(0, a) : a; }
template <class T> T and_(T a, T b) { return a & b; }
template <class T> T or_(T a, T b) { return a | b; }
template <class T> T xor_(T a, T b) { return a ^ b; }
template <class T> T not_(T a) { return (T) ~a; }
template <class T> T cnot(T a) { return a == 0; }
template <class T> T move(T a) { return a; }
template <class T> T sad(T a, T b, T c)
{
    return add<T>(c, a < b ? sub<T>(b, a) : sub<T>(a, b));
}

/* Shift counts beyond the width are clamped to it. */
template <class T> T shl(T a, u32 n)
{
    return n >= bits_of<T> ? T(0) : (T) (a << n);
}
template <class T> T shr(T a, u32 n)
{
    if (n >= bits_of<T>)
        n = bits_of<T> - 1, a = (T) (std::is_signed<T>::value ? a : 0);
    return (T) (a >> n);
}
u32 shf_l_wrap(u32 lo, u32 hi, u32 n)
{
    return (u32) (((u64) hi << 32 | lo) << (n & 31) >> 32);
}
u32 shf_r_wrap(u32 lo, u32 hi, u32 n)
{
    return (u32) (((u64) hi << 32 | lo) >> (n & 31));
}
u32 shf_l_clamp(u32 lo, u32 hi, u32 n)
{
    return n >= 32 ? lo : shf_l_wrap(lo, hi, n);
}
u32 shf_r_clamp(u32 lo, u32 hi, u32 n)
{
    return n >= 32 ? hi : shf_r_wrap(lo, hi, n);
}

u32 popc32(u32 a) { return (u32) __builtin_popcount(a); }
u32 popc64(u64 a) { return (u32) __builtin_popcountll(a); }
u32 clz32(u32 a) { return a ? (u32) __builtin_clz(a) : 32; }
u32 clz64(u64 a) { return a ? (u32) __builtin_clzll(a) : 64; }
u32 brev32(u32 a)
{
    a = (a >> 1 & 0x55555555) | (a & 0x55555555) << 1;
    a = (a >> 2 & 0x33333333) | (a & 0x33333333) << 2;
    a = (a >> 4 & 0x0f0f0f0f) | (a & 0x0f0f0f0f) << 4;
    return __builtin_bswap32(a);
}
u64 brev64(u64 a)
{
    return (u64) brev32((u32) a) << 32 | brev32((u32) (a >> 32));
}
/* Position of the highest bit that differs from the sign; ~0: none. */
u32 bfind_u32(u32 a) { return a ? 31 - clz32(a) : ~0u; }
u32 bfind_s32(s32 a) { return bfind_u32((u32) (a < 0 ? ~a : a)); }
u32 bfind_u64(u64 a) { return a ? 63 - clz64(a) : ~0u; }
u32 bfind_shift_u32(u32 a) { return a ? clz32(a) : ~0u; }
u32 bfind_shift_s32(s32 a) { return bfind_shift_u32((u32) (a < 0 ? ~a : a)); }

/* Position and length are 8 bits wide. */
template <class T> T bfe(T a, u32 pos, u32 len)
{
    const int n = bits_of<T>;
    pos &= 255;
    len &= 255;
    if (len == 0)
        return 0;
    int top = (int) std::min(pos + len - 1, (u32) n - 1);
    T sign = std::is_signed<T>::value ? (T) (Uns<T>(a) >> top & 1) : T(0);
    Uns<T> v = pos >= (u32) n ? 0 : (Uns<T>) (Uns<T>(a) >> pos);
    u32 have = pos >= (u32) n ? 0 : std::min(len, n - pos);
    Uns<T> low = have >= (u32) n ? ~Uns<T>(0)
        : (Uns<T>) ((Uns<T>(1) << have) - 1);
    return (T) ((v & low) | (sign ? ~low : Uns<T>(0)));
}
template <class T> T bfi(T a, T b, u32 pos, u32 len)
{
    pos &= 255;
    len &= 255;
    if (pos >= bits_of<T> || len == 0)
        return b;
    T low = len >= bits_of<T> ? (T) ~T(0) : (T) ((T(1) << len) - 1);
    return (T) ((b & ~(low << pos)) | ((a & low) << pos));
}
u32 prmt(u32 a, u32 b, u32 sel)
{
    u64 v = (u64) b << 32 | a;
    u32 r = 0;

    for (int k = 0; k < 4; k++) {
        u32 c = sel >> 4 * k;
        u8 y = (u8) (v >> 8 * (c & 7));
        r |= (u32) (c & 8 ? (y & 0x80 ? 0xff : 0) : y) << 8 * k;
    }
    return r;
}
u32 lop3(u32 a, u32 b, u32 c, u32 table)
{
    u32 r = 0;

    for (u32 k = 0; k < 8; k++) {
        u32 hit = (k & 4 ? a : ~a) & (k & 2 ? b : ~b) & (k & 1 ? c : ~c);
        r |= table >> k & 1 ? hit : 0;
    }
    return r;
}
template <class A, class B> u32 dp4a(u32 a, u32 b, u32 c)
{
    for (int k = 0; k < 4; k++)
        c += (u32) ((s32) (A) (a >> 8 * k) * (s32) (B) (b >> 8 * k));
    return c;
}
/* Two halves of a with bytes FROM and FROM + 1 of b. */
template <class A, class B, int FROM> u32 dp2a(u32 a, u32 b, u32 c)
{
    for (int k = 0; k < 2; k++)
        c += (u32) ((s32) (A) (a >> 16 * k)
            * (s32) (B) (b >> 8 * (FROM + k)));
    return c;
}

/* Sum over four bytes of |a - b|, and c. */
template <class T> u32 vabsdiff4_add(u32 a, u32 b, u32 c)
{
    for (int k = 0; k < 4; k++)
        c += (u32) abs((s32) (T) (a >> 8 * k) - (s32) (T) (b >> 8 * k));
    return c;
}
template <class T> u32 vabsdiff4(u32 a, u32 b, u32)
{
    u32 r = 0;

    for (int k = 0; k < 4; k++) {
        s32 d = (s32) (T) (a >> 8 * k) - (s32) (T) (b >> 8 * k);
        r |= ((u32) abs(d) & 255) << 8 * k;
    }
    return r;
}

/* ---- floats ---- */

/* Every NaN that arithmetic on f32 makes is this one. */
template <class T> T canonical(T r)
{
    if (sizeof(T) == 4) {
        const u32 nan = 0x7fffffff;
        T n;
        memcpy(&n, &nan, 4);
        return r == r ? r : n;
    }
    return r;
}
template <class T> T fadd(T a, T b) { return canonical(a + b); }
template <class T> T fsub(T a, T b) { return canonical(a - b); }
template <class T> T fmul(T a, T b) { return canonical(a * b); }
template <class T> T fdiv(T a, T b) { return canonical(a / b); }
f32 fma32(f32 a, f32 b, f32 c)
{
    return canonical(__builtin_fmaf(a, b, c));
}
f64 fma64(f64 a, f64 b, f64 c) { return __builtin_fma(a, b, c); }
template <class T> T clamp01(T r) { return r > 0 ? (r < 1 ? r : 1) : 0; }
f32 fadd_sat(f32 a, f32 b) { return clamp01(a + b); }
f32 fmul_sat(f32 a, f32 b) { return clamp01(a * b); }
f32 fma_sat(f32 a, f32 b, f32 c) { return clamp01(fma32(a, b, c)); }

/* A sum that is exactly zero is -0 when rounded down, unless both are +0. */
template <Round R> f32 fma_round(f32 a, f32 b, f32 c)
{
    f64 v = fma_odd(a, b, c);

    if (R == R_DOWN && v == 0 && std::signbit(a * b) != std::signbit(c))
        return -0.0f;
    return canonical(f64_to_f32(v, R));
}
template <Round R> f32 add_round(f32 a, f32 b)
{
    return fma_round<R>(a, 1, b);
}
template <Round R> f32 mul_round(f32 a, f32 b)
{
    return canonical(f64_to_f32((f64) a * b, R));
}

/* One NaN gives the other operand; -0 is below +0. */
template <class T> T fmin_(T a, T b)
{
    if (a != a || b != b)
        return canonical(a != a ? b : a);
    return a < b || (a == b && std::signbit(a)) ? a : b;
}
template <class T> T fmax_(T a, T b)
{
    if (a != a || b != b)
        return canonical(a != a ? b : a);
    return a > b || (a == b && std::signbit(b)) ? a : b;
}
f32 fmin_nan(f32 a, f32 b)
{
    return a != a || b != b ? canonical(a + b) : fmin_(a, b);
}
f32 fmax_nan(f32 a, f32 b)
{
    return a != a || b != b ? canonical(a + b) : fmax_(a, b);
}
template <class T> T fneg(T a) { return -a; }
template <class T> T fabs_(T a) { return std::fabs(a); }
template <class T> T fcopysign(T sign, T a) { return std::copysign(a, sign); }
template <class T> T fsqrt(T a) { return canonical(std::sqrt(a)); }
template <class T> T frcp(T a) { return canonical(1 / a); }

/* The approximations of the hardware are within 2 ulp or so of these. */
f32 frsqrt(f32 a) { return canonical(1.0f / std::sqrt(a)); }
f32 fex2(f32 a) { return canonical(exp2f(a)); }
f32 flg2(f32 a) { return canonical(log2f(a)); }
f32 fsin(f32 a) { return canonical(sinf(a)); }
f32 fcos(f32 a) { return canonical(cosf(a)); }
f32 ftanh(f32 a) { return canonical(tanhf(a)); }
f32 flush(f32 a)
{
    return std::fabs(a) < 0x1p-126f ? std::copysign(0.f, a) : a;
}
template <f32 (*F)(f32)> f32 ftz(f32 a) { return flush(F(flush(a))); }
/* 20 bits of mantissa, the others 0. */
f64 rcp_approx_f64(f64 a)
{
    f64 r = 1 / a;
    u64 u;
    memcpy(&u, &r, 8);
    u &= ~0xffffffffull;
    memcpy(&r, &u, 8);
    return r;
}
f64 rsqrt_approx_f64(f64 a)
{
    f64 r = 1 / std::sqrt(a);
    u64 u;
    memcpy(&u, &r, 8);
    u &= ~0xffffffffull;
    memcpy(&r, &u, 8);
    return r;
}

/* ---- f16 and bf16: in f64, rounded once ---- */

inline f64 to_f64(Half h) { return half_to_f32(h.v); }
inline f64 to_f64(Bf16 b) { return bf16_to_f32(b.v); }
inline void from_f64(f64 v, Half &h) { h.v = f64_to_half(v, R_NEAREST); }
inline void from_f64(f64 v, Bf16 &b) { b.v = f64_to_bf16(v, R_NEAREST); }

template <class T> T small_fma(T a, T b, T c)
{
    T r;
    from_f64(fma_odd(to_f64(a), to_f64(b), to_f64(c)), r);
    return r;
}
template <class T> T small_add(T a, T b)
{
    T r;
    from_f64(fma_odd(to_f64(a), 1, to_f64(b)), r);
    return r;
}
template <class T> T small_sub(T a, T b)
{
    T r;
    from_f64(fma_odd(to_f64(b), -1, to_f64(a)), r);
    return r;
}
template <class T> T small_mul(T a, T b)
{
    T r;
    from_f64(to_f64(a) * to_f64(b), r);
    return r;
}
template <class T> T small_min(T a, T b)
{
    T r;
    from_f64(fmin_<f64>(to_f64(a), to_f64(b)), r);
    return r;
}
template <class T> T small_max(T a, T b)
{
    T r;
    from_f64(fmax_<f64>(to_f64(a), to_f64(b)), r);
    return r;
}
template <class T> T small_neg(T a) { return {(u16) (a.v ^ 0x8000)}; }
template <class T> T small_abs(T a) { return {(u16) (a.v & 0x7fff)}; }

/* The same for pairs. */
template <class T> struct Two { T x, y; };
template <class T, T (*F)(T)> Two<T> two1(Two<T> a)
{
    return {F(a.x), F(a.y)};
}
template <class T, T (*F)(T, T)> Two<T> two2(Two<T> a, Two<T> b)
{
    return {F(a.x, b.x), F(a.y, b.y)};
}
template <class T, T (*F)(T, T, T)> Two<T> two3(Two<T> a, Two<T> b, Two<T> c)
{
    return {F(a.x, b.x, c.x), F(a.y, b.y, c.y)};
}

/* ---- the table ---- */

#define OP(name, ...)   {name, {Map<__VA_ARGS__>::run, Map<__VA_ARGS__>::sig}}
#define OP_U(name, f)   OP(name ".u16", f<u16>), OP(name ".u32", f<u32>), \
                        OP(name ".u64", f<u64>)
#define OP_S(name, f)   OP(name ".s16", f<s16>), OP(name ".s32", f<s32>), \
                        OP(name ".s64", f<s64>)
#define OP_I(name, f)   OP_U(name, f), OP_S(name, f)
#define OP_B(name, f)   OP(name ".b16", f<u16>), OP(name ".b32", f<u32>), \
                        OP(name ".b64", f<u64>)
#define OP_F(name, f)   OP(name ".f32", f<f32>), OP(name ".f64", f<f64>), \
                        OP(name ".rn.f32", f<f32>), OP(name ".rn.f64", f<f64>)
#define OP_DP2A(name, from) \
    OP(name ".s32.s32", dp2a<s16, s8, from>), \
    OP(name ".s32.u32", dp2a<s16, u8, from>), \
    OP(name ".u32.s32", dp2a<u16, s8, from>), \
    OP(name ".u32.u32", dp2a<u16, u8, from>)
#define OP_FX(name, f)  OP(name ".f32", f<f32>), OP(name ".f64", f<f64>)
#define OP_SMALL(name, f, two) \
    OP(name ".f16", f<Half>), OP(name ".bf16", f<Bf16>), \
    OP(name ".f16x2", two<Half, f<Half>>), \
    OP(name ".bf16x2", two<Bf16, f<Bf16>>)
#define OP_ROUND(name, f) OP(name ".rz.f32", f<R_ZERO>), \
    OP(name ".rm.f32", f<R_DOWN>), OP(name ".rp.f32", f<R_UP>)
#define OP_APPROX(name, f) OP(name ".approx.f32", f), \
    OP(name ".approx.ftz.f32", ftz<f>)

static const std::unordered_map<std::string, Alu> &table()
{
    static const std::unordered_map<std::string, Alu> t = {
        OP_I("add", add), OP_I("sub", sub), OP_I("mul.lo", mul),
        OP_I("mad.lo", mad), OP_I("div", div_int), OP_I("rem", rem_int),
        OP_I("min", min_int), OP_I("max", max_int), OP_S("neg", neg_int),
        OP_S("abs", abs_int), OP_I("sad", sad), OP_B("and", and_),
        OP_B("or", or_), OP_B("xor", xor_), OP_B("not", not_),
        OP_B("cnot", cnot), OP_B("mov", move), OP_I("mov", move),
        OP_FX("mov", move), OP_B("shl", shl), OP_B("shr", shr),
        OP_I("shr", shr),
        OP("mul.wide.u16", mul_wide<u16, u32>),
        OP("mul.wide.s16", mul_wide<s16, s32>),
        OP("mul.wide.u32", mul_wide<u32, u64>),
        OP("mul.wide.s32", mul_wide<s32, s64>),
        OP("mad.wide.u16", mad_wide<u16, u32>),
        OP("mad.wide.s16", mad_wide<s16, s32>),
        OP("mad.wide.u32", mad_wide<u32, u64>),
        OP("mad.wide.s32", mad_wide<s32, s64>),
        OP("mul.hi.u16", mul_hi<u16, u32>),
        OP("mul.hi.s16", mul_hi<s16, s32>),
        OP("mul.hi.u32", mul_hi<u32, u64>),
        OP("mul.hi.s32", mul_hi<s32, s64>),
        OP("mul.hi.u64", mul_hi<u64, unsigned __int128>),
        OP("mul.hi.s64", mul_hi<s64, __int128>),
        OP("mad.hi.u32", mad_hi<u32, u64>),
        OP("mad.hi.s32", mad_hi<s32, s64>),
        OP("shf.l.wrap.b32", shf_l_wrap), OP("shf.r.wrap.b32", shf_r_wrap),
        OP("shf.l.clamp.b32", shf_l_clamp),
        OP("shf.r.clamp.b32", shf_r_clamp),
        OP("popc.b32", popc32), OP("popc.b64", popc64),
        OP("clz.b32", clz32), OP("clz.b64", clz64),
        OP("brev.b32", brev32), OP("brev.b64", brev64),
        OP("bfind.u32", bfind_u32), OP("bfind.s32", bfind_s32),
        OP("bfind.u64", bfind_u64),
        OP("bfind.shiftamt.u32", bfind_shift_u32),
        OP("bfind.shiftamt.s32", bfind_shift_s32),
        OP("bfe.u32", bfe<u32>), OP("bfe.s32", bfe<s32>),
        OP("bfe.u64", bfe<u64>), OP("bfe.s64", bfe<s64>),
        OP("bfi.b32", bfi<u32>), OP("bfi.b64", bfi<u64>),
        OP("prmt.b32", prmt), OP("lop3.b32", lop3),
        OP("dp4a.s32.s32", dp4a<s8, s8>), OP("dp4a.s32.u32", dp4a<s8, u8>),
        OP("dp4a.u32.s32", dp4a<u8, s8>), OP("dp4a.u32.u32", dp4a<u8, u8>),
        OP_DP2A("dp2a.lo", 0), OP_DP2A("dp2a.hi", 2),
        OP("vabsdiff4.u32.u32.u32", vabsdiff4<u8>),
        OP("vabsdiff4.u32.s32.s32", vabsdiff4<s8>),
        OP("vabsdiff4.u32.u32.u32.add", vabsdiff4_add<u8>),
        OP("vabsdiff4.u32.s32.s32.add", vabsdiff4_add<s8>),

        OP_F("add", fadd), OP_F("sub", fsub), OP_F("mul", fmul),
        OP_FX("min", fmin_), OP_FX("max", fmax_), OP_FX("neg", fneg),
        OP_FX("abs", fabs_), OP_FX("copysign", fcopysign),
        OP("min.NaN.f32", fmin_nan), OP("max.NaN.f32", fmax_nan),
        OP("fma.rn.f32", fma32), OP("fma.rn.f64", fma64),
        OP("add.sat.f32", fadd_sat), OP("mul.sat.f32", fmul_sat),
        OP("add.rn.sat.f32", fadd_sat), OP("mul.rn.sat.f32", fmul_sat),
        OP("fma.rn.sat.f32", fma_sat),
        OP_ROUND("fma", fma_round), OP_ROUND("add", add_round),
        OP_ROUND("mul", mul_round),
        OP("div.rn.f32", fdiv<f32>), OP("div.rn.f64", fdiv<f64>),
        OP("div.full.f32", fdiv<f32>), OP("div.approx.f32", fdiv<f32>),
        OP("rcp.rn.f32", frcp<f32>), OP("rcp.rn.f64", frcp<f64>),
        OP("sqrt.rn.f32", fsqrt<f32>), OP("sqrt.rn.f64", fsqrt<f64>),
        OP_APPROX("rcp", frcp<f32>), OP_APPROX("sqrt", fsqrt<f32>),
        OP_APPROX("rsqrt", frsqrt), OP_APPROX("ex2", fex2),
        OP_APPROX("lg2", flg2), OP_APPROX("sin", fsin),
        OP_APPROX("cos", fcos), OP("tanh.approx.f32", ftanh),
        OP("rcp.approx.ftz.f64", rcp_approx_f64),
        OP("rsqrt.approx.f64", rsqrt_approx_f64),
        OP("rsqrt.approx.ftz.f64", rsqrt_approx_f64),

        OP_SMALL("add", small_add, two2), OP_SMALL("add.rn", small_add, two2),
        OP_SMALL("sub", small_sub, two2), OP_SMALL("sub.rn", small_sub, two2),
        OP_SMALL("mul", small_mul, two2), OP_SMALL("mul.rn", small_mul, two2),
        OP_SMALL("min", small_min, two2), OP_SMALL("max", small_max, two2),
        OP_SMALL("neg", small_neg, two1), OP_SMALL("abs", small_abs, two1),
        OP_SMALL("fma.rn", small_fma, two3),
    };

    return t;
}

const Alu *find_alu(const std::string &opcode)
{
    auto it = table().find(opcode);

    return it == table().end() ? nullptr : &it->second;
}

/* ---- comparisons ---- */

enum Cmp : u8 { EQ, NE, LT, LE, GT, GE, EQU, NEU, LTU, LEU, GTU, GEU, NUM,
    NAN_ };

/* 32 times 0 or ~0 -> 32 bits. */
static u32 bits_of_lanes(const u32 *c)
{
    u32 r = 0;

#if defined(__AVX2__)
    for (int l = 0; l < LANES; l += 8) {
        __m256i v = _mm256_loadu_si256((const __m256i *) (c + l));
        r |= (u32) _mm256_movemask_ps(_mm256_castsi256_ps(v)) << l;
    }
#else
    for (int l = 0; l < LANES; l++)
        r |= (c[l] & 1) << l;
#endif
    return r;
}

/* How a type is compared: small floats as f32. */
template <class T> struct As {
    typedef T type;
    static T of(T v) { return v; }
};
template <> struct As<Half> {
    typedef f32 type;
    static f32 of(Half h) { return half_to_f32(h.v); }
};
template <> struct As<Bf16> {
    typedef f32 type;
    static f32 of(Bf16 b) { return bf16_to_f32(b.v); }
};

/* Unordered comparisons are the negated opposite ordered ones. */
template <class T, Cmp C> static bool holds(T a, T b)
{
    switch (C) {
    case EQ: return a == b;
    case NE: return a < b || a > b;
    case LT: return a < b;
    case LE: return a <= b;
    case GT: return a > b;
    case GE: return a >= b;
    case EQU: return !(a < b || a > b);
    case NEU: return !(a == b);
    case LTU: return !(a >= b);
    case LEU: return !(a > b);
    case GTU: return !(a <= b);
    case GEU: return !(a < b);
    case NUM: return a == a && b == b;
    case NAN_: return a != a || b != b;
    }
    return false;
}

/* d0 = (a cmp b) combine c, d1 = !(a cmp b) combine c. */
enum Combine : u8 { NO_COMBINE, C_AND, C_OR, C_XOR };

template <class T, Cmp C> static void setp(Warp &w, const Ins &i, u32 mask)
{
    const u32 *a = w.row(i.s[0]), *b = w.row(i.s[1]);
    u32 c[LANES];

    for (int l = 0; l < LANES; l++)
        c[l] = holds<typename As<T>::type, C>(As<T>::of(get<T>(a, l)),
            As<T>::of(get<T>(b, l))) ? ~0u : 0;
    u32 yes = bits_of_lanes(c), no = ~yes;
    if (i.op != NO_COMBINE) {
        u32 p = pred(w, i.s[2]) ^ (i.inv ? ~0u : 0);
        yes = i.op == C_AND ? yes & p : i.op == C_OR ? yes | p : yes ^ p;
        no = i.op == C_AND ? no & p : i.op == C_OR ? no | p : no ^ p;
    }
    if (i.d[0] != NONE)
        put_pred(w, i.d[0], yes, mask);
    if (i.d[1] != NONE)
        put_pred(w, i.d[1], no, mask);
}

template <class T> static Fn setp_fn(Cmp c)
{
    static const Fn fn[] = {setp<T, EQ>, setp<T, NE>, setp<T, LT>,
        setp<T, LE>, setp<T, GT>, setp<T, GE>, setp<T, EQU>, setp<T, NEU>,
        setp<T, LTU>, setp<T, LEU>, setp<T, GTU>, setp<T, GEU>,
        setp<T, NUM>, setp<T, NAN_>};

    return fn[c];
}

/* setp.cmp[.combine].type */
bool setp_decode(const Op &op, Ins &i, u32 &size, bool &combine)
{
    static const std::map<std::string, Cmp> cmps = {{"eq", EQ}, {"ne", NE},
        {"lt", LT}, {"le", LE}, {"gt", GT}, {"ge", GE}, {"lo", LT},
        {"ls", LE}, {"hi", GT}, {"hs", GE}, {"equ", EQU}, {"neu", NEU},
        {"ltu", LTU}, {"leu", LEU}, {"gtu", GTU}, {"geu", GEU},
        {"num", NUM}, {"nan", NAN_}};
    static const std::map<std::string, Fn (*)(Cmp)> types = {
        {"u16", setp_fn<u16>}, {"s16", setp_fn<s16>}, {"b16", setp_fn<u16>},
        {"u32", setp_fn<u32>}, {"s32", setp_fn<s32>}, {"b32", setp_fn<u32>},
        {"u64", setp_fn<u64>}, {"s64", setp_fn<s64>}, {"b64", setp_fn<u64>},
        {"f32", setp_fn<f32>}, {"f64", setp_fn<f64>}, {"f16", setp_fn<Half>},
        {"bf16", setp_fn<Bf16>}};
    static const std::map<std::string, Combine> combines = {
        {"and", C_AND}, {"or", C_OR}, {"xor", C_XOR}};
    size_t n = op.part.size();

    if (n < 3 || n > 4)
        return false;
    auto c = cmps.find(op.part[1]);
    auto t = types.find(op.part[n - 1]);
    auto b = combines.find(op.part[2]);
    combine = n == 4;
    if (c == cmps.end() || t == types.end()
        || (combine && b == combines.end()))
        return false;
    i.op = combine ? b->second : NO_COMBINE;
    size = type_size(op.part[n - 1]) == 8 ? 8 : 4;
    i.fn = t->second(c->second);
    return true;
}

/* ---- moves that a table of types does not say ---- */

template <class T> static void select(Warp &w, const Ins &i, u32 mask)
{
    const u32 *a = w.row(i.s[0]), *b = w.row(i.s[1]);
    u32 p = pred(w, i.s[2]);
    T r[LANES];

    for (int l = 0; l < LANES; l++)
        r[l] = p >> l & 1 ? get<T>(a, l) : get<T>(b, l);
    put(w.row(i.d[0]), r, mask);
}

void run_select32(Warp &w, const Ins &i, u32 mask) { select<u32>(w, i, mask); }
void run_select64(Warp &w, const Ins &i, u32 mask) { select<u64>(w, i, mask); }

/* op: 'a'nd, 'o'r, 'x'or, 'n'ot, 'm'ov, '1', '0'. */
void run_pred_logic(Warp &w, const Ins &i, u32 mask)
{
    u32 a = i.s[0] == NONE ? 0 : pred(w, i.s[0]);
    u32 b = i.s[1] == NONE ? 0 : pred(w, i.s[1]);

    put_pred(w, i.d[0], i.op == 'a' ? a & b : i.op == 'o' ? a | b
        : i.op == 'x' ? a ^ b : i.op == 'n' ? ~a : i.op == 'm' ? a
        : i.op == '1' ? ~0u : 0, mask);
}

static u32 low_half(u64 a) { return (u32) a; }
static u64 zero_extend(u32 a) { return a; }
static u64 sign_extend(u32 a) { return (u64) (s64) (s32) a; }

/* Between 64-bit registers and instructions of narrower types. */
void run_narrow(Warp &w, const Ins &i, u32 m) { Map<low_half>::run(w, i, m); }
void run_widen(Warp &w, const Ins &i, u32 m) { Map<zero_extend>::run(w, i, m); }
void run_widen_signed(Warp &w, const Ins &i, u32 m)
{
    Map<sign_extend>::run(w, i, m);
}

/* mov d, {s0, ...} and mov {d0, ...}, s: n parts of size bytes. */
void run_pack(Warp &w, const Ins &i, u32 mask)
{
    u64 r[LANES] = {0};
    u64 low = i.size == 4 ? 0xffffffffu : i.size == 2 ? 0xffff : 0xff;

    for (int k = 0; k < i.n; k++) {
        const u32 *s = w.row(i.s[k]);
        for (int l = 0; l < LANES; l++)
            r[l] |= (s[l] & low) << 8 * i.size * k;
    }
    if (i.size * i.n == 8) {
        put(w.row(i.d[0]), r, mask);
        return;
    }
    u32 r32[LANES];
    for (int l = 0; l < LANES; l++)
        r32[l] = (u32) r[l];
    put(w.row(i.d[0]), r32, mask);
}

void run_unpack(Warp &w, const Ins &i, u32 mask)
{
    const u32 *s = w.row(i.s[0]);
    u32 low = i.size == 4 ? ~0u : i.size == 2 ? 0xffff : 0xff;
    u64 v[LANES];

    for (int l = 0; l < LANES; l++)
        v[l] = i.size * i.n == 8 ? get<u64>(s, l) : s[l];
    for (int k = 0; k < i.n; k++) {
        u32 r[LANES];
        if (i.d[k] == NONE)
            continue;
        for (int l = 0; l < LANES; l++)
            r[l] = (u32) (v[l] >> 8 * i.size * k) & low;
        put(w.row(i.d[k]), r, mask);
    }
}

void run_nothing(Warp &, const Ins &, u32) {}

}  // namespace ptx
}  // namespace simt
