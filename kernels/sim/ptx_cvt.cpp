/*
 * ptx_cvt.cpp: cvt between all integer and float types, and the formats that
 * the host's compiler lacks (f16, bf16, e4m3). PTX ISA 9.0, 9.7.9.21.
 */

#include <cmath>
#include <limits>

#include "ptx_int.h"

namespace simt {
namespace ptx {

/* ---- formats ---- */

template <class To, class From> static To bits(From f)
{
    To t;
    static_assert(sizeof(t) == sizeof(f), "same size");
    memcpy(&t, &f, sizeof(t));
    return t;
}

f32 half_to_f32(u16 h)
{
    /* The exponent is 112 too small, also of subnormals. */
    f32 f = bits<f32>((u32) (h & 0x7fff) << 13) * 0x1p112f;
    u32 u = bits<u32>(f);

    u |= (h & 0x7c00) == 0x7c00 ? 0x7f800000u : 0;
    return bits<f32>(u | (u32) (h & 0x8000) << 16);
}

f32 e4m3_to_f32(u8 e)
{
    f32 f = bits<f32>((u32) (e & 0x7f) << 20) * 0x1p120f;

    if ((e & 0x7f) == 0x7f)
        f = bits<f32>(0x7fffffffu);
    return bits<f32>(bits<u32>(f) | (u32) (e & 0x80) << 24);
}

/* The magnitude of a finite v with `mant` bits of mantissa and an exponent
 * biased by `bias`; past the largest code it just goes on counting. */
static u32 narrow(f64 v, int mant, int bias, Round r)
{
    u64 b = bits<u64>(v);
    int e = (int) (b >> 52 & 0x7ff) - 1023;
    u64 m = (b & ((1ull << 52) - 1)) | (e > -1023 ? 1ull << 52 : 0);
    int low = e < 1 - bias ? 1 - bias - e : 0;       /* subnormal */
    int shift = std::min(52 - mant + low, 63);
    u64 q = m >> shift, rest = m - (q << shift), half = 1ull << (shift - 1);
    bool minus = b >> 63;

    if (r == R_NEAREST)
        q += rest > half || (rest == half && (q & 1));
    else if (r == (minus ? R_DOWN : R_UP))
        q += rest != 0;
    return low ? (u32) q
        : (u32) (((u64) (e + bias - 1) << mant) + q);
}

static u16 f64_to_16(f64 v, int mant, int bias, u32 inf, Round r)
{
    u16 sign = (u16) (bits<u64>(v) >> 48 & 0x8000);

    if (v != v)
        return 0x7fff;
    if (std::isinf(v))
        return (u16) (sign | inf);
    u32 q = std::fabs(v) >= 0x1p300 ? inf + 1 : narrow(v, mant, bias, r);
    if (q >= inf) {
        bool away = r == R_NEAREST || r == (sign ? R_DOWN : R_UP);
        q = away ? inf : inf - 1;
    }
    return (u16) (sign | q);
}

u16 f64_to_half(f64 v, Round r) { return f64_to_16(v, 10, 15, 0x7c00, r); }
u16 f64_to_bf16(f64 v, Round r) { return f64_to_16(v, 7, 127, 0x7f80, r); }

u8 f64_to_e4m3(f64 v)
{
    u8 sign = (u8) (bits<u64>(v) >> 56 & 0x80);

    if (v != v)
        return 0x7f;
    if (std::fabs(v) >= 448)
        return (u8) (sign | 0x7e);
    return (u8) (sign | std::min(narrow(v, 3, 7, R_NEAREST), 0x7eu));
}

f64 fma_odd(f64 a, f64 b, f64 c)
{
    f64 p = a * b, s = p + c;     /* a, b have 26 bits at most: p is exact */
    f64 t = s - p;
    f64 err = (p - (s - t)) + (c - t);

    if (!std::isfinite(s) || err == 0)
        return s;
    u64 u = bits<u64>(s);
    if ((err > 0) != (s > 0))
        u--;                      /* s was rounded away from zero */
    return bits<f64>(u | 1);
}

f32 f64_to_f32(f64 v, Round r)
{
    f32 f = (f32) v;

    if (r == R_DOWN || (r == R_ZERO && v > 0))
        return f > v ? std::nextafterf(f, -INFINITY) : f;
    if (r == R_UP || (r == R_ZERO && v < 0))
        return f < v ? std::nextafterf(f, INFINITY) : f;
    return f;
}

/* ---- scalar conversions ---- */

const u8 INTEGRAL = 4;            /* in Ins::op beside a Round: .rni ... */
const u8 SATURATE = 8;

template <class T> struct Is { static constexpr bool small = false; };
template <> struct Is<Half> { static constexpr bool small = true; };
template <> struct Is<Bf16> { static constexpr bool small = true; };
template <class T> constexpr bool is_float =
    std::is_floating_point<T>::value || Is<T>::small;

static f64 value(Half h) { return half_to_f32(h.v); }
static f64 value(Bf16 b) { return bf16_to_f32(b.v); }
template <class T> static f64 value(T v) { return (f64) v; }

static f64 integral(f64 v, Round r)
{
    return r == R_ZERO ? std::trunc(v) : r == R_DOWN ? std::floor(v)
        : r == R_UP ? std::ceil(v) : std::nearbyint(v);
}

static void from_f64(f64 v, Round r, Half &h) { h.v = f64_to_half(v, r); }
static void from_f64(f64 v, Round r, Bf16 &b) { b.v = f64_to_bf16(v, r); }
static void from_f64(f64 v, Round, f64 &d) { d = v; }
static void from_f64(f64 v, Round r, f32 &f)
{
    f = v == v ? f64_to_f32(v, r) : bits<f32>(0x7fffffffu);
}

template <class D, class S> static D to_int(S s, u8 op)
{
    typedef std::numeric_limits<D> Lim;
    f64 v = integral(value(s), (Round) (op & 3));

    if (v != v)
        return sizeof(D) == 8 || sizeof(S) == 8
            ? (D) (1ull << (sizeof(D) * 8 - 1)) : D(0);
    if (v <= (f64) Lim::min())
        return Lim::min();
    return v >= (f64) Lim::max() ? Lim::max() : (D) v;
}

template <class D, class S> static D int_to_int(S s, u8 op)
{
    typedef std::numeric_limits<D> Lim;

    if (op & SATURATE) {
        __int128 v = s, lo = Lim::min(), hi = Lim::max();
        return (D) (v < lo ? lo : v > hi ? hi : v);
    }
    return (D) s;
}

template <class D, class S> static D to_float(S s, u8 op)
{
    D d;
    f64 v;

    if constexpr (std::is_same<D, f32>::value && sizeof(S) == 8
        && !is_float<S>)
        return (f32) s;           /* decoded for .rn only */
    v = value(s);
    if (op & INTEGRAL)
        v = integral(v, (Round) (op & 3));
    if (op & SATURATE)
        v = v > 0 ? std::min(v, 1.0) : 0;
    from_f64(v, (Round) (op & 3), d);
    return d;
}

template <class D, class S> static void convert(Warp &w, const Ins &i,
    u32 mask)
{
    const u32 *s = w.row(i.s[0]);
    D r[LANES];

    for (int l = 0; l < LANES; l++) {
        if constexpr (is_float<D>)
            r[l] = to_float<D, S>(get<S>(s, l), i.op);
        else if constexpr (is_float<S>)
            r[l] = to_int<D, S>(get<S>(s, l), i.op);
        else
            r[l] = int_to_int<D, S>(get<S>(s, l), i.op);
    }
    if constexpr (std::is_integral<D>::value && sizeof(D) < 4) {
        /* Narrow results are extended to the register's width. */
        s32 x[LANES];
        for (int l = 0; l < LANES; l++)
            x[l] = r[l];
        put(w.row(i.d[0]), x, mask);
    } else {
        put(w.row(i.d[0]), r, mask);
    }
}

/* ---- pairs ---- */

/* d = a in the upper half, b in the lower. */
template <u16 (*F)(f64, Round)>
static void pack_f32(Warp &w, const Ins &i, u32 mask)
{
    const u32 *a = w.row(i.s[0]), *b = w.row(i.s[1]);
    Round r = (Round) (i.op & 3);
    u32 d[LANES];

    for (int l = 0; l < LANES; l++)
        d[l] = (u32) F(get<f32>(a, l), r) << 16 | F(get<f32>(b, l), r);
    put(w.row(i.d[0]), d, mask);
}

static void e4m3x2_f32(Warp &w, const Ins &i, u32 mask)
{
    const u32 *a = w.row(i.s[0]), *b = w.row(i.s[1]);
    u32 d[LANES];

    for (int l = 0; l < LANES; l++)
        d[l] = (u32) f64_to_e4m3(get<f32>(a, l)) << 8
            | f64_to_e4m3(get<f32>(b, l));
    put(w.row(i.d[0]), d, mask);
}

static void e4m3x2_f16x2(Warp &w, const Ins &i, u32 mask)
{
    const u32 *a = w.row(i.s[0]);
    u32 d[LANES];

    for (int l = 0; l < LANES; l++)
        d[l] = (u32) f64_to_e4m3(half_to_f32((u16) (a[l] >> 16))) << 8
            | f64_to_e4m3(half_to_f32((u16) a[l]));
    put(w.row(i.d[0]), d, mask);
}

static void f16x2_e4m3x2(Warp &w, const Ins &i, u32 mask)
{
    const u32 *a = w.row(i.s[0]);
    u32 d[LANES];

    for (int l = 0; l < LANES; l++)
        d[l] = (u32) f64_to_half(e4m3_to_f32((u8) (a[l] >> 8)), R_NEAREST)
            << 16 | f64_to_half(e4m3_to_f32((u8) a[l]), R_NEAREST);
    put(w.row(i.d[0]), d, mask);
}

/* ---- decoding ---- */

template <class D> static Fn by_source(const std::string &s)
{
    static const std::map<std::string, Fn> fn = {
        {"u8", convert<D, u8>}, {"s8", convert<D, s8>},
        {"u16", convert<D, u16>}, {"s16", convert<D, s16>},
        {"u32", convert<D, u32>}, {"s32", convert<D, s32>},
        {"u64", convert<D, u64>}, {"s64", convert<D, s64>},
        {"f16", convert<D, Half>}, {"bf16", convert<D, Bf16>},
        {"f32", convert<D, f32>}, {"f64", convert<D, f64>}};
    auto it = fn.find(s);

    return it == fn.end() ? nullptr : it->second;
}

static Fn scalar(const std::string &d, const std::string &s)
{
    static const std::map<std::string, Fn (*)(const std::string &)> by = {
        {"u8", by_source<u8>}, {"s8", by_source<s8>},
        {"u16", by_source<u16>}, {"s16", by_source<s16>},
        {"u32", by_source<u32>}, {"s32", by_source<s32>},
        {"u64", by_source<u64>}, {"s64", by_source<s64>},
        {"f16", by_source<Half>}, {"bf16", by_source<Bf16>},
        {"f32", by_source<f32>}, {"f64", by_source<f64>}};
    auto it = by.find(d);

    return it == by.end() ? nullptr : it->second(s);
}

static bool pair_decode(const std::string &d, const std::string &s,
    bool satfinite, Ins &i, std::string &sig)
{
    sig = "www";
    if (d == "bf16x2" && s == "f32" && !satfinite)
        i.fn = pack_f32<f64_to_bf16>;
    else if (d == "f16x2" && s == "f32" && !satfinite)
        i.fn = pack_f32<f64_to_half>;
    else if (d == "e4m3x2" && s == "f32" && satfinite)
        i.fn = e4m3x2_f32;
    else if (d == "e4m3x2" && s == "f16x2" && satfinite)
        i.fn = e4m3x2_f16x2, sig = "ww";
    else if (d == "f16x2" && s == "e4m3x2" && !satfinite)
        i.fn = f16x2_e4m3x2, sig = "ww";
    else
        return false;
    return i.op == R_NEAREST || (i.op == R_ZERO && s == "f32"
        && d != "e4m3x2");
}

/* cvt[.round][.sat|.satfinite].d.s */
bool cvt_decode(const Op &op, Ins &i, std::string &sig)
{
    static const std::map<std::string, u8> rounds = {
        {"rn", R_NEAREST}, {"rz", R_ZERO}, {"rm", R_DOWN}, {"rp", R_UP},
        {"rni", R_NEAREST | INTEGRAL}, {"rzi", R_ZERO | INTEGRAL},
        {"rmi", R_DOWN | INTEGRAL}, {"rpi", R_UP | INTEGRAL}};
    size_t n = op.part.size(), p = 1;
    bool satfinite = false;

    if (n < 3)
        return false;
    i.op = 0;
    if (rounds.count(op.part[p]))
        i.op = rounds.at(op.part[p++]);
    if (op.part[p] == "sat")
        i.op |= SATURATE, p++;
    else if (op.part[p] == "satfinite")
        satfinite = true, p++;
    if (p + 2 != n)
        return false;
    const std::string &d = op.part[n - 2], &s = op.part[n - 1];
    if (d.find("x2") != d.npos)
        return pair_decode(d, s, satfinite, i, sig);
    bool d_small = d == "f32" || d == "f16" || d == "bf16";
    if (satfinite || ((s == "u64" || s == "s64") && d_small
        && (i.op || d != "f32")))
        return false;             /* would be rounded twice */
    sig = std::string(type_size(d) == 8 ? "d" : "w")
        + (type_size(s) == 8 ? "d" : "w");
    i.fn = scalar(d, s);
    return i.fn != nullptr;
}

}  // namespace ptx
}  // namespace simt
