/*
 * sample_log.cuh: logprobs: the f64 sum of exp(l - max) and the largest logits. The CPU adds
 * element k in lane k % 8, each lane in the order of ids, rounding after each addition. Here:
 *
 *   launch 2   a warp sums each lane's part of its chunk, in any order
 *   launch 3   so the exponent of the sum before and after a chunk is known, and what the chunk
 *              adds to a sum with that exponent is computed for all chunks at once (sample_add_t)
 *   launch 4   a warp a lane puts them together; the few chunks in which the exponent changes are
 *              added element by element
 */

#ifndef KERN_CUDA_SAMPLE_LOG_CUH
#define KERN_CUDA_SAMPLE_LOG_CUH

#include "sample_work.cuh"

#define SAMPLE_RUN     4               /* elements that a thread adds at once */
#define SAMPLE_MARGIN  1e-9            /* relative; sums in different orders differ by 2^-35 */


/* exp(l - max) of the t-th element of a lane's part of the chunk from lo. */
DEV_INLINE float
sample_lane_exp(const sample_args_t *a, const float *l, float max, u64 lo, uint32_t t,
    uint32_t lane)
{
    u64  k = lo + (u64) t * SAMPLE_LANES + lane;

    return k < a->vocab ? sample_exp(l[k] - max) : 0.0f;
}

DEV_INLINE double
sample_sum_over_quarters(double s)
{
    for (int o = SAMPLE_LANES; o < DEV_WARP; o *= 2) {
        s += __longlong_as_double(__shfl_xor_sync(~0u, __double_as_longlong(s), o));
    }
    return s;
}

/* Launch 2. */
DEV_INLINE void
sample_log_sums(const sample_args_t *a, const float *l, sample_work_t *w)
{
    uint32_t     c = blockIdx.x * SAMPLE_WARPS + threadIdx.x / DEV_WARP;
    uint32_t     lane = threadIdx.x % DEV_WARP;
    u64          lo = (u64) c * a->chunk, hi = lo + a->chunk;
    const float  max = w->raw_max;
    double       s = 0;

    hi = hi < a->vocab ? hi : a->vocab;
    #pragma unroll 4
    for (u64 k = lo + lane; k < hi; k += DEV_WARP) {
        s += sample_exp(l[k] - max);
    }
    s = sample_sum_over_quarters(s);
    if (lane < SAMPLE_LANES) {
        w->sum[lane][c] = s;
    }
}

/* Launch 3. Thread 8 q + j adds the q-th quarter of lane j's part. */
DEV_INLINE void
sample_log_adds(const sample_args_t *a, const float *l, sample_work_t *w)
{
    uint32_t      c = blockIdx.x * SAMPLE_WARPS + threadIdx.x / DEV_WARP;
    uint32_t      j = threadIdx.x % SAMPLE_LANES, q = threadIdx.x % DEV_WARP / SAMPLE_LANES;
    uint32_t      per = a->chunk / DEV_WARP;
    u64           lo = (u64) c * a->chunk;
    const float   max = w->raw_max;
    double        from = 0, to;
    int           exp_from, exp_to;
    sample_add_t  add = { 0, 0 }, other;

    for (uint32_t k = q; k < c; k += DEV_WARP / SAMPLE_LANES) {
        from += w->sum[j][k];
    }
    from = sample_sum_over_quarters(from);
    to = (from + w->sum[j][c]) * (1 + SAMPLE_MARGIN);
    from *= 1 - SAMPLE_MARGIN;
    exp_from = (int) ((u64) __double_as_longlong(from) >> 52);
    exp_to = (int) ((u64) __double_as_longlong(to) >> 52);

    #pragma unroll 4
    for (uint32_t t = q * per; t < (q + 1) * per; t++) {
        add = sample_add_then(add, sample_add_of(sample_lane_exp(a, l, max, lo, t, j), exp_from));
    }
    for (uint32_t o = SAMPLE_LANES; o < DEV_WARP; o *= 2) {
        other.even = __shfl_xor_sync(~0u, add.even, (int) o);
        other.odd = __shfl_xor_sync(~0u, add.odd, (int) o);
        add = (threadIdx.x & o) != 0 ? sample_add_then(other, add) : sample_add_then(add, other);
    }
    if (q == 0) {
        w->add[j][c] = add;
        w->add_exp[j][c] = exp_from == exp_to ? (uint32_t) exp_from : 0;
    }
}

/* Lane j's sum, by one warp. */
DEV_INLINE double
sample_log_lane(const sample_args_t *a, const float *l, const sample_work_t *w, uint32_t j,
    uint32_t n_chunks)
{
    uint32_t  lane = threadIdx.x % DEV_WARP, c = 0;
    double    s = 0;

    while (c < n_chunks) {
        uint32_t      mine = c + lane, first;
        uint32_t      sum_exp = (uint32_t) ((u64) __double_as_longlong(s) >> 52);
        sample_add_t  add = { 0, 0 };
        bool          known = true;

        if (mine < n_chunks) {
            known = sum_exp != 0 && w->add_exp[j][mine] == sum_exp;
            if (known) {
                add = w->add[j][mine];
            }
        }
        s = sample_warp_units(s, add, known, &first);
        for (uint32_t t = 0; first < DEV_WARP && t < a->chunk / SAMPLE_LANES;
             t += DEV_WARP * SAMPLE_RUN)
        {
            float  e[SAMPLE_RUN];

            for (uint32_t i = 0; i < SAMPLE_RUN; i++) {
                uint32_t  at = t + lane * SAMPLE_RUN + i;

                e[i] = at < a->chunk / SAMPLE_LANES
                       ? sample_lane_exp(a, l, w->raw_max, (u64) (c + first) * a->chunk, at, j)
                       : 0.0f;
            }
            s = sample_warp_add<SAMPLE_RUN>(s, e);
        }
        c += first + 1 < DEV_WARP ? first + 1 : DEV_WARP;
    }
    return s;
}

/* Launch 4, by one block. */
DEV_INLINE void
sample_log_finish(const sample_args_t *a, const float *l, const sample_work_t *w,
    uint32_t n_chunks, cu_sampled_t *out)
{
    __shared__ double  sum[SAMPLE_LANES];
    uint32_t           warp = threadIdx.x / DEV_WARP;

    if (warp < SAMPLE_LANES) {
        double  s = sample_log_lane(a, l, w, warp, n_chunks);

        if (threadIdx.x % DEV_WARP == 0) {
            sum[warp] = s;
        }
    }
    __syncthreads();                   /* sum is written */
    if (threadIdx.x == 0) {
        for (int n = SAMPLE_LANES / 2; n != 0; n /= 2) {
            for (int k = 0; k < n; k++) {
                sum[k] += sum[k + n];
            }
        }
        out->sum = sum[0];
    }
}

/* The n largest logits, larger first, of equal ones the lower id first. Each thread keeps the
 * largest of every 512th token; the owner's are looked through again after each. */
DEV_INLINE void
sample_top(const sample_args_t *a, const float *l, uint32_t n, cu_sampled_t *out, u64 *red)
{
    u64  mine = 0;

    for (uint32_t k = threadIdx.x; k < a->vocab; k += SAMPLE_THREADS) {
        u64  rank = sample_rank(l[k], k);

        mine = rank > mine ? rank : mine;
    }
    for (uint32_t r = 0; r < n; r++) {
        u64       best = sample_block_max(mine, red), next = 0;
        uint32_t  id = sample_rank_id(best), owner = id % SAMPLE_THREADS;

        if (threadIdx.x == 0) {
            out->top_id[r] = best != 0 ? (int32_t) id : -1;
            out->top_logit[r] = best != 0 ? l[id] : -INFINITY;
        }
        if (best == 0) {
            continue;
        }
        for (u64 k = owner + (u64) threadIdx.x * SAMPLE_THREADS; k < a->vocab;
             k += SAMPLE_THREADS * SAMPLE_THREADS)
        {
            u64  rank = sample_rank(l[k], (uint32_t) k);

            next = rank < best && rank > next ? rank : next;
        }
        next = sample_block_max(next, red);
        mine = threadIdx.x == owner ? next : mine;
    }
}

#endif
