/*
 * sample_pick.cuh: launch 4's block of a row: top_k, top_p and min_p on its candidates, and the
 * draw. Up to SAMPLE_NEAR candidates are kept in shared memory; more are read again by each pass,
 * SAMPLE_BATCH at a time, since a pass waits for L2.
 */

#ifndef KERN_CUDA_SAMPLE_PICK_CUH
#define KERN_CUDA_SAMPLE_PICK_CUH

#include "sample_work.cuh"

#define SAMPLE_NEAR    7168
#define SAMPLE_BATCH   4
#define SAMPLE_DIGIT   11              /* bits */
#define SAMPLE_BINS    (1u << SAMPLE_DIGIT)
#define SAMPLE_NONE    SAMPLE_ALL      /* distance of what is no candidate */
#define SAMPLE_NO_CUT  (SAMPLE_ALL - 1)


/* Candidates of a row and what is kept of them, in the order of falling logits, ties by id. */
typedef struct {
    const float     *l;                /* from l[lo] on: of the ids, or of the list */
    const uint32_t  *list;             /* NULL: ids lo, lo + 1, ... */
    uint32_t         lo, n;            /* with a list, lo is 0 */
    const uint32_t  *dist;             /* of all n, in shared memory; or NULL */
    float            scale, max, least;
    uint32_t         key;              /* of max */
    uint32_t         cut;              /* distance of keys from the largest: all nearer ones */
    uint32_t         ties;             /* and so many at cut */
    u64              least_weight;     /* min_p */
} sample_view_t;

DEV_INLINE uint32_t
sample_id(const sample_view_t *v, uint32_t k)
{
    return v->list != NULL ? v->list[k] : v->lo + k;
}

/* Distances of candidates k, k + step, ... before end. */
DEV_INLINE void
sample_load(const sample_view_t *v, uint32_t k, uint32_t step, uint32_t end,
    uint32_t dist[SAMPLE_BATCH])
{
    float  x[SAMPLE_BATCH];

    if (v->dist != NULL) {
        for (uint32_t u = 0; u < SAMPLE_BATCH; u++) {
            dist[u] = k + u * step < end ? v->dist[k + u * step] : SAMPLE_NONE;
        }
        return;
    }
    for (uint32_t u = 0; u < SAMPLE_BATCH; u++) {
        x[u] = k + u * step < end ? v->l[v->lo + k + u * step] : -INFINITY;
    }
    for (uint32_t u = 0; u < SAMPLE_BATCH; u++) {
        float  y = x[u] * v->scale;

        dist[u] = k + u * step < end && y >= v->least ? v->key - sample_key(y) : SAMPLE_NONE;
    }
}

/* The weight of a candidate at distance dist. */
DEV_INLINE u64
sample_weight_at(const sample_view_t *v, uint32_t dist)
{
    return sample_weight(sample_unkey(v->key - dist) - v->max);
}

/* Distances of all candidates into shared memory. */
DEV_INLINE void
sample_keep_near(sample_view_t *v, uint32_t *near)
{
    uint32_t  dist[SAMPLE_BATCH];

    for (uint32_t k = threadIdx.x; k < v->n; k += SAMPLE_BATCH * SAMPLE_THREADS) {
        sample_load(v, k, SAMPLE_THREADS, v->n, dist);
        for (uint32_t u = 0; u < SAMPLE_BATCH && k + u * SAMPLE_THREADS < v->n; u++) {
            near[k + u * SAMPLE_THREADS] = dist[u];
        }
    }
    __syncthreads();                   /* near is written */
    v->dist = near;
}

/* Sums of up to 2^51 from 32-bit atomics; a thread clears and reads four at once. */
typedef struct {
    alignas(16) uint32_t  lo[SAMPLE_BINS];
    alignas(16) uint32_t  hi[SAMPLE_BINS];
    u64       red[SAMPLE_WARPS];
    u64       above;
    uint32_t  bin;
} sample_hist_t;

DEV_INLINE void
sample_hist_add(sample_hist_t *h, uint32_t bin, u64 v)
{
    uint32_t  low = (uint32_t) v, was = atomicAdd(&h->lo[bin], low);
    uint32_t  high = (uint32_t) (v >> 32) + (was + low < low);

    if (high != 0) {
        atomicAdd(&h->hi[bin], high);
    }
}

/* The bin in which the sum over bins reaches limit - *above: *above becomes the sum before it.
 * SAMPLE_BINS when none does. */
DEV_INLINE uint32_t
sample_hist_find(sample_hist_t *h, u64 limit, u64 *above)
{
    const uint32_t  per = SAMPLE_BINS / SAMPLE_THREADS;
    const uint4     lo = ld16a(&h->lo[threadIdx.x * per]), hi = ld16a(&h->hi[threadIdx.x * per]);
    const u64       v[per] = { (u64) hi.x << 32 | lo.x, (u64) hi.y << 32 | lo.y,
                               (u64) hi.z << 32 | lo.z, (u64) hi.w << 32 | lo.w };
    u64             before, total;

    static_assert(per == 4, "a thread has four bins");
    before = *above + sample_block_scan(v[0] + v[1] + v[2] + v[3], h->red, &total);
    if (threadIdx.x == 0) {
        h->bin = SAMPLE_BINS;
    }
    __syncthreads();                   /* "none" before what is found */
    #pragma unroll
    for (uint32_t k = 0; k < per; k++) {
        if (before < limit && before + v[k] >= limit) {
            h->bin = threadIdx.x * per + k;
            h->above = before;
        }
        before += v[k];
    }
    __syncthreads();                   /* bin and above are written */
    if (h->bin < SAMPLE_BINS) {
        *above = h->above;
    }
    return h->bin;
}

/* The least n with n w >= rest > 0, without a division. */
DEV_INLINE uint32_t
sample_times(u64 rest, u64 w)
{
    uint32_t  n = 0;

    for (uint32_t bit = 1u << 30; bit != 0; bit /= 2) {
        n += (n + bit) * w < rest ? bit : 0;
    }
    return n + 1;
}

/*
 * Keeps, of what is kept, each candidate before which less than limit has been kept, counted in
 * weight or in candidates. The threshold comes digit by digit from histograms of distances.
 */
DEV_INLINE void
sample_cut(sample_view_t *v, sample_hist_t *h, int by_weight, u64 limit)
{
    uint32_t  farthest = v->key - sample_key(v->least), prefix = 0, ties;
    int       bits;
    u64       above = 0;

    farthest = farthest < v->cut ? farthest : v->cut;
    bits = 32 - __clz((int) farthest);
    do {
        int       shift = bits > SAMPLE_DIGIT ? bits - SAMPLE_DIGIT : 0;
        uint32_t  bin;

        __syncthreads();               /* the histogram is no longer read */
        st16(&h->lo[threadIdx.x * 4], make_uint4(0, 0, 0, 0));
        st16(&h->hi[threadIdx.x * 4], make_uint4(0, 0, 0, 0));
        __syncthreads();               /* it is zero */
        for (uint32_t k = threadIdx.x; k < v->n; k += SAMPLE_BATCH * SAMPLE_THREADS) {
            uint32_t  dist[SAMPLE_BATCH];

            sample_load(v, k, SAMPLE_THREADS, v->n, dist);
            for (uint32_t u = 0; u < SAMPLE_BATCH; u++) {
                if (dist[u] <= v->cut && (u64) dist[u] >> bits == (u64) prefix >> bits) {
                    sample_hist_add(h, dist[u] >> shift & (SAMPLE_BINS - 1),
                                    by_weight ? sample_weight_at(v, dist[u]) : 1);
                }
            }
        }
        __syncthreads();               /* it is filled */
        bin = sample_hist_find(h, limit, &above);
        if (bin == SAMPLE_BINS) {
            return;                    /* all of them are less than limit */
        }
        prefix |= bin << shift;
        bits = shift;
    } while (bits > 0);

    if (by_weight) {
        ties = sample_times(limit - above, sample_weight_at(v, prefix));
    } else {
        ties = (uint32_t) (limit - above);
    }
    v->ties = prefix == v->cut && v->ties < ties ? v->ties : ties;
    v->cut = prefix;
}

/* The weight of what is kept. */
DEV_INLINE u64
sample_kept(const sample_view_t *v, u64 *red)
{
    u64  sum = 0, total;

    for (uint32_t k = threadIdx.x; k < v->n; k += SAMPLE_BATCH * SAMPLE_THREADS) {
        uint32_t  dist[SAMPLE_BATCH];

        sample_load(v, k, SAMPLE_THREADS, v->n, dist);
        for (uint32_t u = 0; u < SAMPLE_BATCH; u++) {
            sum += dist[u] < v->cut ? sample_weight_at(v, dist[u]) : 0;
        }
    }
    (void) sample_block_scan(sum, red, &total);
    return v->cut == SAMPLE_NO_CUT ? total : total + sample_weight_at(v, v->cut) * v->ties;
}

/* top_k, top_p, min_p. */
DEV_INLINE void
sample_filter(const cu_sample_t *s, sample_view_t *v, uint32_t n_candidates, u64 need,
    sample_hist_t *h)
{
    double  least = (double) s->min_p * 0x1p32;

    if (s->top_k > 0) {
        if ((uint32_t) s->top_k < n_candidates) {
            sample_cut(v, h, 0, (u64) s->top_k);
        }
        if (s->top_p < 1) {
            need = sample_limit((double) s->top_p * (double) sample_kept(v, h->red));
        }
    }
    if (s->top_p < 1) {
        sample_cut(v, h, 1, need);
    }
    if (s->min_p > 0) {
        v->least_weight = (u64) __double2ull_rz(ceil(least < 0x1p32 ? least : 0x1p32));
    }
}

/* The same after min_p. */
DEV_INLINE u64
sample_kept_weight(const sample_view_t *v, uint32_t dist)
{
    u64  weight = sample_weight_at(v, dist);

    return weight >= v->least_weight ? weight : 0;
}

/* What candidates k .. end - 1 of this warp have of kept weight, and how many lie at the cut. */
DEV_INLINE void
sample_sum_range(const sample_view_t *v, uint32_t k, uint32_t end, u64 *sum, uint32_t *ties)
{
    uint32_t  n = 0;
    u64       w = 0;

    for (k += threadIdx.x % DEV_WARP; k < end; k += SAMPLE_BATCH * DEV_WARP) {
        uint32_t  dist[SAMPLE_BATCH];

        sample_load(v, k, DEV_WARP, end, dist);
        for (uint32_t u = 0; u < SAMPLE_BATCH; u++) {
            w += dist[u] < v->cut ? sample_kept_weight(v, dist[u]) : 0;
            n += dist[u] == v->cut;
        }
    }
    *sum = sample_warp_sum(w);
    *ties = __reduce_add_sync(~0u, n);
}

/* The lane's part of ties, of which before lie in front of it. */
DEV_INLINE u64
sample_tie_weight(const sample_view_t *v, u64 tie, uint32_t before, uint32_t ties)
{
    uint32_t  room = v->ties > before ? v->ties - before : 0;

    return tie * (ties < room ? ties : room);
}

/* The candidate, in order of ids, in which the running sum exceeds the target: *id of it is
 * written by one thread. random: what the target is made of, when it is not given. */
DEV_INLINE void
sample_draw(const sample_view_t *v, int given, u64 target, u64 random, uint32_t *result)
{
    __shared__ u64       sums[SAMPLE_WARPS];
    __shared__ uint32_t  ties[SAMPLE_WARPS];
    uint32_t             lo = 0, n = v->n, warp = threadIdx.x / DEV_WARP;
    uint32_t             lane = threadIdx.x % DEV_WARP, before = 0, dist[SAMPLE_BATCH], who;
    u64                  weight = 0, upto, tie = 0;

    if (v->cut != SAMPLE_NO_CUT) {
        tie = sample_kept_weight(v, v->cut);
    }

    /* narrow it down to the part of one warp, until that is one candidate a lane */
    while (n > DEV_WARP || !given) {
        uint32_t  per = ((n + SAMPLE_WARPS - 1) / SAMPLE_WARPS + DEV_WARP - 1) / DEV_WARP
                        * DEV_WARP;
        uint32_t  from = warp * per < n ? warp * per : n, k = 0, seen = before, part_ties;
        uint32_t  to = n - from < per ? n : from + per;
        u64       sum = 0, part;

        sample_sum_range(v, lo + from, lo + to, &part, &part_ties);
        __syncthreads();               /* sums and ties are no longer read */
        if (lane == 0) {
            sums[warp] = part;
            ties[warp] = part_ties;
        }
        __syncthreads();               /* they are written */
        if (!given) {
            for (uint32_t p = 0; p < SAMPLE_WARPS; p++) {
                sum += sums[p] + sample_tie_weight(v, tie, seen, ties[p]);
                seen += ties[p];
            }
            target = __umul64hi(random, sum);
            given = 1;
        }
        for ( ; k + 1 < SAMPLE_WARPS; k++) {
            sum = sums[k] + sample_tie_weight(v, tie, before, ties[k]);
            if (sum > target) {
                break;
            }
            target -= sum;
            before += ties[k];
        }
        lo += k * per;
        n = n - k * per < per ? n - k * per : per;
    }

    if (warp != 0) {
        return;
    }
    sample_load(v, lo + lane, DEV_WARP, lo + n, dist);
    who = __ballot_sync(~0u, dist[0] == v->cut);
    if (dist[0] < v->cut) {
        weight = sample_kept_weight(v, dist[0]);
    } else if (dist[0] == v->cut) {
        weight = sample_tie_weight(v, tie, before + __popc(who & ((1u << lane) - 1)), 1);
    }
    upto = sample_warp_scan(weight);
    if (target < upto && target >= upto - weight) {
        *result = sample_id(v, lo + lane);
    }
}

#endif
