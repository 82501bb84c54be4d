/*
 * test_sim_types.cpp: bf16, half and fp8 against arithmetic: the nearest
 * value of the format, even of two, found by search over all values of it;
 * and intrinsics against plain formulas.
 */

#include "sim_test.h"

static uint64_t rng = 20261125;

static uint64_t
random64(void)
{
    rng ^= rng << 13;
    rng ^= rng >> 7;
    rng ^= rng << 17;
    return rng;
}

/* All finite values of a format that are not negative, ascending; the
 * code is the index. */
struct Format {
    std::vector<double> value;
    unsigned            infinity;  /* code for what rounds beyond the last;
                                    * the last itself where it saturates */
    unsigned            sign;      /* its bit */

    template <class F>
    Format(unsigned n, F decode, unsigned inf, unsigned sign_bit)
        : infinity(inf), sign(sign_bit)
    {
        for (unsigned i = 0; i < n; i++) {
            value.push_back(decode(i));
        }
    }

    unsigned nearest(float f) const
    {
        double   a = fabs((double) f);
        unsigned s = std::signbit(f) ? sign : 0;
        size_t   hi = (size_t) (std::lower_bound(value.begin(), value.end(),
                                                 a) - value.begin());

        if (hi == value.size()) {
            /* half a step beyond the last rounds away from it (even) */
            double step = value[hi - 1] - value[hi - 2];
            return s | (a < value[hi - 1] + step / 2 ? (unsigned) hi - 1
                                                     : infinity);
        }
        if (hi == 0 || value[hi] == a) {
            return s | (unsigned) hi;
        }
        double down = a - value[hi - 1], up = value[hi] - a;
        bool   low = down < up || (down == up && (hi - 1) % 2 == 0);
        return s | (unsigned) (low ? hi - 1 : hi);
    }
};

/* Values near those of the format, and random bits. */
template <class F>
static void
conversions(const char *name, const Format &fmt, F encode)
{
    long wrong = 0, tried = 0;
    auto one = [&](float f) {
        if (f == f) {
            tried++;
            wrong += encode(f) != fmt.nearest(f);
        }
    };

    for (size_t i = 0; i < fmt.value.size(); i++) {
        float  f = (float) fmt.value[i];
        double next = i + 1 < fmt.value.size() ? fmt.value[i + 1]
                      : 2 * f - fmt.value[i - 1];
        float  half = (float) ((f + next) / 2);

        for (float x : {f, half}) {
            for (float y : {x, nextafterf(x, 0), nextafterf(x, INFINITY)}) {
                one(y);
                one(-y);
            }
        }
    }
    for (int i = 0; i < 1000000; i++) {
        one(__uint_as_float((unsigned) random64()));
    }
    ok(wrong == 0, "%s: %ld of %ld conversions are not the nearest", name,
       wrong, tried);
}

static void
formats(void)
{
    /* values from their definition: mantissa * 2^exponent */
    auto decode = [](int man, int bias) {
        return [=](unsigned i) {
            int    e = (int) (i >> man);
            double m = (double) (i & ((1u << man) - 1));
            return e ? ldexp(m + (1 << man), e - bias - man)
                     : ldexp(m, 1 - bias - man);
        };
    };
    Format bf16(0x7f80, decode(7, 127), 0x7f80, 0x8000);
    Format half(0x7c00, decode(10, 15), 0x7c00, 0x8000);
    Format e4m3(0x7f, decode(3, 7), 0x7e, 0x80);
    Format e5m2(0x7c, decode(2, 15), 0x7b, 0x80);
    long   wrong = 0;

    conversions("bf16", bf16, simt::bf16_bits);
    conversions("half", half, simt::half_bits);
    conversions("e4m3", e4m3, simt::e4m3_bits);
    conversions("e5m2", e5m2, simt::e5m2_bits);
    for (unsigned i = 0; i < 0x7f80; i++) {
        wrong += simt::bf16_value((uint16_t) i) != (float) bf16.value[i];
        wrong += i < 0x7c00
                 && simt::half_value((uint16_t) i) != (float) half.value[i];
        wrong += i < 0x7f
                 && simt::e4m3_value((uint8_t) i) != (float) e4m3.value[i];
        wrong += i < 0x7c
                 && simt::e5m2_value((uint8_t) i) != (float) e5m2.value[i];
    }
    ok(wrong == 0, "values of all codes");
    ok(simt::bf16_bits(NAN) == 0x7fff && simt::half_bits(NAN) == 0x7fff
       && simt::e4m3_bits(NAN) == 0x7f && std::isnan(simt::e4m3_value(0xff))
       && simt::e4m3_bits(INFINITY) == 0x7e
       && __nv_cvt_float_to_fp8(500, __NV_NOSAT, __NV_E4M3) == 0x7f,
       "NaN and infinity");

    /* one rounding in fused operations; also where twice would differ */
    wrong = 0;
    for (int i = 0; i < 300000; i++) {
        uint64_t r = random64();
        float a = simt::half_value((uint16_t) (r & 0xbfff));
        float b = simt::half_value((uint16_t) (r >> 16 & 0xbfff));
        float c = simt::half_value((uint16_t) (r >> 32 & 0xbfff));
        long double exact = (long double) a * b + (long double) c;

        if (!std::isfinite(a) || !std::isfinite(b) || !std::isfinite(c)
            || fabsl(exact) > 60000)
        {
            continue;
        }
        /* 64 bits of mantissa hold what matters; to odd in f32 */
        float f = (float) exact;
        if ((long double) f != exact && !(__float_as_uint(f) & 1)) {
            f = nextafterf(f, exact > (long double) f ? INFINITY
                                                      : -INFINITY);
        }
        __half h = __hfma(__float2half(a), __float2half(b), __float2half(c));
        wrong += __half_as_ushort(h) != simt::half_bits(f);
    }
    ok(wrong == 0, "__hfma rounds once (%ld wrong)", wrong);
    ok((float) __hmul(__half(3.0f), __half(0.5f)) == 1.5f
       && (float) __hadd2({__half(1.f), __half(2.f)},
                          {__half(3.f), __half(4.f)}).y == 6.f,
       "half arithmetic");
}

static void
integers(void)
{
    long wrong = 0;

    for (int i = 0; i < 100000; i++) {
        unsigned a = (unsigned) random64(), b = (unsigned) random64();
        unsigned c = (unsigned) random64(), sel = (unsigned) random64();
        uint64_t x = random64(), y = random64();

        for (int k = 0; k < 4; k++) {
            int sa = (int8_t) (a >> 8 * k), sb = (int8_t) (b >> 8 * k);
            int ua = (uint8_t) (a >> 8 * k), ub = (uint8_t) (b >> 8 * k);
            auto at = [k](unsigned v) { return (int) (v >> 8 * k & 0xff); };
            int clamped = std::min(127, std::max(-128, sa - sb));

            wrong += at(__vsub4(a, b)) != ((sa - sb) & 0xff);
            wrong += at(__vadd4(a, b)) != ((sa + sb) & 0xff);
            wrong += at(__vsubss4(a, b)) != (clamped & 0xff);
            wrong += at(__vsubus4(a, b)) != std::max(0, ua - ub);
            wrong += at(__vmaxs4(a, b)) != (std::max(sa, sb) & 0xff);
            wrong += at(__vminu4(a, b)) != std::min(ua, ub);
            wrong += at(__vcmpgts4(a, b)) != (sa > sb ? 255 : 0);
            wrong += at(__vcmpeq4(a, b)) != (ua == ub ? 255 : 0);

            unsigned from = sel >> 4 * k & 15;
            int      byte = (int) ((from & 4 ? b : a) >> 8 * (from & 3)
                                   & 0xff);
            wrong += at(__byte_perm(a, b, sel))
                     != (from & 8 ? (byte > 127 ? 255 : 0) : byte);
        }
        int dot = (int) c;
        for (int k = 0; k < 4; k++) {
            dot = (int) ((unsigned) dot + (unsigned) ((int8_t) (a >> 8 * k)
                                                      * (int8_t) (b >> 8 * k)));
        }
        wrong += __dp4a((int) a, (int) b, (int) c) != dot;
        wrong += __umulhi(a, b) != (uint64_t) a * b >> 32;
        uint64_t mid = (x >> 32) * (y & 0xffffffff)
                       + ((x & 0xffffffff) * (y & 0xffffffff) >> 32);
        uint64_t top = (x >> 32) * (y >> 32) + (mid >> 32)
                       + (((mid & 0xffffffff) + (x & 0xffffffff) * (y >> 32))
                          >> 32);
        wrong += __umul64hi(x, y) != top;
        wrong += simt::lop3(a, b, c, 0xea) != ((a & b) | c);
        wrong += simt::lop3(a, b, c, 0x96) != (a ^ b ^ c);
        wrong += __funnelshift_l(a, b, sel)
                 != (sel & 31 ? b << (sel & 31) | a >> (32 - (sel & 31)) : b);
    }
    ok(wrong == 0, "integer intrinsics (%ld wrong)", wrong);
    ok(__float2int_rn(2.5f) == 2 && __float2int_rn(3.5f) == 4
       && __float2int_rn(-1e20f) == INT32_MIN && __float2int_rn(NAN) == 0
       && __float2int_rz(-1.9f) == -1 && __float2int_rd(-1.1f) == -2
       && __float2uint_rn(-3.f) == 0
       && __float2uint_rn(1e20f) == UINT32_MAX
       && __float2int_rn(3e9f) == INT32_MAX
       && __double2ull_rz(1e30) == UINT64_MAX,
       "floats to integers saturate");
    ok(__popc(0xf0f0u) == 8 && __clz(1) == 31 && __clz(0) == 32
       && __ffs(8) == 4 && __brev(1) == 0x80000000u, "bits");
}

int
main(void)
{
    formats();
    integers();
    return tap_done();
}
