/*
 * sample.cuh: arithmetic of the sampler (sample.cu), bit for bit that of engine/run/sample.c and
 * kernels/ref: ordered keys, exp, integer weights, Philox, the f64 sum in the CPU's order of
 * additions; and reductions over a block of SAMPLE_THREADS.
 */

#ifndef KERN_CUDA_SAMPLE_CUH
#define KERN_CUDA_SAMPLE_CUH

#include "dev.cuh"

typedef unsigned long long  u64;

#define SAMPLE_THREADS  512
#define SAMPLE_WARPS    (SAMPLE_THREADS / DEV_WARP)
#define SAMPLE_ALL      0xffffffffu


/* ---- one logit ---- */

/* An unsigned number that orders as f does, both zeros equal; and back. */
DEV_INLINE uint32_t
sample_key(float f)
{
    uint32_t  u = __float_as_uint(f + 0.0f);

    return (u & 0x80000000u) != 0 ? ~u : u | 0x80000000u;
}

DEV_INLINE float
sample_unkey(uint32_t key)
{
    return __uint_as_float((key & 0x80000000u) != 0 ? key ^ 0x80000000u : ~key);
}

/* Larger for the larger logit, of equal ones for the lower id; above all others for a NaN. 0 is
 * below everything. */
#define SAMPLE_NAN  (~0ull)

DEV_INLINE u64
sample_rank(float x, uint32_t id)
{
    return x != x ? SAMPLE_NAN : (u64) sample_key(x) << 32 | (SAMPLE_ALL - id);
}

DEV_INLINE uint32_t
sample_rank_id(u64 rank)
{
    return SAMPLE_ALL - (uint32_t) rank;
}

/* kern_exp() of kernels/ref for x <= 0 or NaN. */
DEV_INLINE float
sample_exp(float x)
{
    float  t, n, r, p;

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
    p *= __uint_as_float((__float_as_uint(t) << 23) + 0x3f800000u);
    return x < -87.0f ? 0.0f : p;
}

/* floor(2^32 exp(x)), x <= 0. */
DEV_INLINE u64
sample_weight(float x)
{
    float  e = sample_exp(x);

    return e < 1.0f ? (u64) __float2uint_rz(e * 0x1p32f) : 1ull << 32;
}

/* Keeps extreme parameters from making infinities or NaN of finite values; -inf stays. */
DEV_INLINE float
sample_clamp(float l)
{
    return l != l ? -INFINITY : l > 0x1.fffffep+127f ? 0x1.fffffep+127f : l;
}

/* The integer that a limit in f64 stands for: sum < limit is the same as sum < it. */
DEV_INLINE u64
sample_limit(double limit)
{
    limit = limit > 0.5 ? limit : 0.5;
    return (u64) __double2ull_rz(ceil(limit));
}

/* The 64 random bits of an output token: words 0 and 1 of Philox4x32-10, purpose 0. */
DEV_INLINE u64
sample_random(uint64_t seed, uint32_t n_out, uint32_t choice)
{
    uint32_t  c[4] = { n_out, choice, 0, 0 };
    uint32_t  k0 = (uint32_t) seed, k1 = (uint32_t) (seed >> 32);

    for (int i = 0; i < 10; i++) {
        u64  p0 = (u64) 0xd2511f53u * c[0];
        u64  p1 = (u64) 0xcd9e8d57u * c[2];

        c[0] = (uint32_t) (p1 >> 32) ^ c[1] ^ k0;
        c[1] = (uint32_t) p1;
        c[2] = (uint32_t) (p0 >> 32) ^ c[3] ^ k1;
        c[3] = (uint32_t) p0;
        k0 += 0x9e3779b9u;
        k1 += 0xbb67ae85u;
    }
    return (u64) c[1] << 32 | c[0];
}


/* ---- a block ---- */

DEV_INLINE u64
sample_warp_max(u64 v)
{
    for (int o = DEV_WARP / 2; o > 0; o /= 2) {
        u64  w = __shfl_xor_sync(~0u, v, o);

        v = w > v ? w : v;
    }
    return v;
}

DEV_INLINE u64
sample_warp_sum(u64 v)
{
    for (int o = DEV_WARP / 2; o > 0; o /= 2) {
        v += __shfl_xor_sync(~0u, v, o);
    }
    return v;
}

/* The sum of the lanes up to this one. */
DEV_INLINE u64
sample_warp_scan(u64 v)
{
    uint32_t  lane = threadIdx.x % DEV_WARP;

    for (uint32_t o = 1; o < DEV_WARP; o *= 2) {
        u64  w = __shfl_up_sync(~0u, v, o);

        v += lane >= o ? w : 0;
    }
    return v;
}

/* The largest v of the block, in all threads; red: [SAMPLE_WARPS], shared. */
DEV_INLINE u64
sample_block_max(u64 v, u64 *red)
{
    v = sample_warp_max(v);
    __syncthreads();                   /* red is no longer read */
    if (threadIdx.x % DEV_WARP == 0) {
        red[threadIdx.x / DEV_WARP] = v;
    }
    __syncthreads();                   /* red is written */
    for (int i = 0; i < SAMPLE_WARPS; i++) {
        v = red[i] > v ? red[i] : v;
    }
    return v;
}

/* The sum of v over the threads before this one; *total: over all. */
DEV_INLINE u64
sample_block_scan(u64 v, u64 *red, u64 *total)
{
    u64  before = 0, all = 0, upto = sample_warp_scan(v);

    __syncthreads();                   /* red is no longer read */
    if (threadIdx.x % DEV_WARP == DEV_WARP - 1) {
        red[threadIdx.x / DEV_WARP] = upto;
    }
    __syncthreads();                   /* red is written */
    for (uint32_t i = 0; i < SAMPLE_WARPS; i++) {
        before += i < threadIdx.x / DEV_WARP ? red[i] : 0;
        all += red[i];
    }
    *total = all;
    return before + upto - v;
}


/* ---- a sum of floats in f64, rounded after each addition, by a warp ---- */

/*
 * While a running sum s stays between two powers of 2 it is an integer S of units u = ulp(s), and
 * adding e adds round(e / u), where only a tie looks at S: at its parity. So a stretch of elements
 * is a pair: what it adds to an even S and what to an odd one, and pairs compose. Where the sum
 * reaches the next power of 2 an element is added in f64 itself.
 */
typedef struct {
    u64  even, odd;
} sample_add_t;

#define SAMPLE_UNITS  (1ull << 52)     /* S is at least that, less than its double */

/* a, then b. */
DEV_INLINE sample_add_t
sample_add_then(sample_add_t a, sample_add_t b)
{
    sample_add_t  r;

    r.even = a.even + ((a.even & 1) != 0 ? b.odd : b.even);
    r.odd = a.odd + ((a.odd & 1) != 0 ? b.even : b.odd);
    return r;
}

/* e, 0 or normal, in units of a sum with exponent field sum_exp (0: the sum is 0). What cannot but
 * leave the units counts as 2^53. */
DEV_INLINE sample_add_t
sample_add_of(float e, int sum_exp)
{
    uint32_t      bits = __float_as_uint(e), m = (bits & 0x7fffffu) | 0x800000u, rem, half;
    int           shift = (int) (bits >> 23) - sum_exp + 925;
    u64           q;
    sample_add_t  r = { 0, 0 };

    if (bits == 0 || shift < -24) {
        return r;
    }
    if (shift > 29 || sum_exp == 0) {
        r.even = r.odd = 2 * SAMPLE_UNITS;
        return r;
    }
    if (shift >= 0) {
        r.even = r.odd = (u64) m << shift;
        return r;
    }
    q = m >> -shift;
    rem = m & ((1u << -shift) - 1);
    half = 1u << (-shift - 1);
    r.even = q + (rem > half || (rem == half && (q & 1) != 0));
    r.odd = q + (rem > half || (rem == half && (q & 1) == 0));
    return r;
}

/*
 * s after the additions of the lanes before *first, the first one that is not known or leaves the
 * units; DEV_WARP when there is none.
 */
DEV_INLINE double
sample_warp_units(double s, sample_add_t a, bool known, uint32_t *first)
{
    uint32_t  lane = threadIdx.x % DEV_WARP, left;
    u64       bits = (u64) __double_as_longlong(s), units, before, after, high = bits >> 52;

    units = high == 0 ? 0 : (bits & (SAMPLE_UNITS - 1)) | SAMPLE_UNITS;
    for (uint32_t o = 1; o < DEV_WARP; o *= 2) {
        sample_add_t  b;

        b.even = __shfl_up_sync(~0u, a.even, o);
        b.odd = __shfl_up_sync(~0u, a.odd, o);
        if (lane >= o) {
            a = sample_add_then(b, a);
        }
    }
    after = units + ((units & 1) != 0 ? a.odd : a.even);
    left = __ballot_sync(~0u, !known || after >= 2 * SAMPLE_UNITS);
    *first = left != 0 ? (uint32_t) __ffs((int) left) - 1 : DEV_WARP;
    before = __shfl_sync(~0u, after, *first == 0 ? 0 : (int) *first - 1);
    if (*first != 0 && before != 0) {
        s = __longlong_as_double((long long) (high << 52 | (before & (SAMPLE_UNITS - 1))));
    }
    return s;
}

/* s after adding e[0 .. N) of lane 0, then those of lane 1, ... */
template <int N>
DEV_INLINE double
sample_warp_add(double s, const float e[N])
{
    uint32_t  lane = threadIdx.x % DEV_WARP, from = 0, first;

    while (from < DEV_WARP) {
        int           sum_exp = (int) ((u64) __double_as_longlong(s) >> 52);
        sample_add_t  a = { 0, 0 };

        for (int i = 0; lane >= from && i < N; i++) {
            a = sample_add_then(a, sample_add_of(e[i], sum_exp));
        }
        s = sample_warp_units(s, a, true, &first);
        if (first < DEV_WARP) {
            for (int i = 0; i < N; i++) {
                s += lane == first ? (double) e[i] : 0.0;
            }
            s = __longlong_as_double(__shfl_sync(~0u, __double_as_longlong(s), (int) first));
        }
        from = first + 1;
    }
    return s;
}

#endif
