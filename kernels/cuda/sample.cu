/*
 * sample.cu: from rows of logits to tokens, by the definition of DESIGN.md 4: the same token, code
 * and logprob bits as infer_sample() (engine/run/sample.c) for the same logits. Four launches,
 * each with several blocks a row; what a row needs is read on the device, so that a captured graph
 * serves any request, and blocks of rows that do not need a launch end at once.
 *
 *   max<0>   largest logit, NaNs, ends greedy rows; where a row is edited (bias, bans, mask,
 *            penalties) it is copied to the work memory and edited there
 *   max<1>   largest logit of an edited copy
 *   weigh    integer weights: their sum, and how many tokens lie within some distances of the
 *            largest; chooses the distance that no filter can reach beyond. In two more blocks of
 *            a row: log-sum, top logprobs
 *   pick     the tokens within that distance in order of ids, filters, draw
 *
 * Everything that decides is integer or compared exactly, so nothing depends on the number of
 * blocks. Work memory: one sample_work_t and a row of logits for each output, all zero before the
 * first call; counters are back at zero after each.
 *
 * traffic  B V 4 bytes for greedy rows; 3 times that for random ones, mostly from L2; an edited row
 *          is copied, 3 times more
 * bound    DRAM or L2; floor of B=64 V=128256 is 32.8 MB -> 10 us at 3.35 TB/s (data sheet H100)
 * measured not measured
 */

#include "sample.cuh"

#define SAMPLE_PARTS    32             /* most blocks of a row */
#define SAMPLE_CHUNKS   (SAMPLE_PARTS * SAMPLE_WARPS)
#define SAMPLE_WINDOWS  6
#define SAMPLE_LIST     16384          /* candidates that are listed; more are found in the row */
#define SAMPLE_DIGIT    11             /* bits */
#define SAMPLE_BINS     (1u << SAMPLE_DIGIT)
#define SAMPLE_LANES    8              /* of the f64 sum */
#define SAMPLE_RUN      8              /* elements of a lane that a thread adds at once */
#define SAMPLE_TILE     (SAMPLE_LANES * DEV_WARP * SAMPLE_RUN)
#define SAMPLE_PITCH    268            /* > 33 * 8, and 8 x 4 accesses without a bank conflict */

/* How far a row is. */
enum { ROW_DONE = 0, ROW_EDITED, ROW_RANDOM, ROW_RANGE, ROW_LISTED, ROW_DENSE };

typedef struct {
    uint32_t  counter[4];              /* blocks that are through, of a launch */
    uint32_t  mode;
    uint32_t  failed;
    float     raw_max;
    float     scale;                   /* 1 / temperature */
    float     max;                     /* scaled */
    float     least;                   /* of candidates, scaled */
    uint32_t  lo, n;                   /* tokens, or entries of list, to look at */
    u64       target;                  /* ROW_RANGE: of the draw, from lo on */
    u64       need;                    /* weight that top_p keeps when there is no top_k */
    u64       part[SAMPLE_PARTS];      /* largest rank */
    u64       weight[SAMPLE_WINDOWS][SAMPLE_CHUNKS];
    uint32_t  count[SAMPLE_WINDOWS][SAMPLE_CHUNKS];
    uint32_t  place[SAMPLE_CHUNKS];    /* in list */
    uint32_t  list[SAMPLE_LIST];       /* ids, ascending */
} sample_work_t;

/* Arguments of all launches. */
typedef struct {
    const float        *logits;
    const int32_t      *out_row;
    const cu_sample_t  *sample;
    const kern_edit_t  *edit;
    const uint32_t     *mask;
    int32_t            *sampled;
    cu_sampled_t       *out;
    uint8_t            *work;
    uint32_t            vocab;
    uint32_t            chunk;         /* ids of one warp's part, a multiple of 32 */
} sample_args_t;

__device__ static const float  sample_depth[SAMPLE_WINDOWS] = { 1.5f, 4, 6.5f, 9, 12, 23 };


static inline __host__ __device__ size_t
sample_row_bytes(uint32_t vocab)
{
    return (sizeof(sample_work_t) + (size_t) vocab * sizeof(float) + 255) / 256 * 256;
}

DEV_INLINE sample_work_t *
sample_work(const sample_args_t *a, uint32_t i)
{
    return (sample_work_t *) (a->work + i * sample_row_bytes(a->vocab));
}

/* The row as the request has edited it, in the work memory. */
DEV_INLINE float *
sample_copy(sample_work_t *w)
{
    return (float *) (w + 1);
}

DEV_INLINE bool
sample_is_edited(const cu_sample_t *s)
{
    return s->n_bias != 0 || s->n_ban != 0 || s->n_seen != 0 || s->mask_off != UINT32_MAX;
}

DEV_INLINE const float *
sample_source(const sample_args_t *a, uint32_t i)
{
    return sample_is_edited(&a->sample[i]) ? sample_copy(sample_work(a, i))
                                           : a->logits + (size_t) i * a->vocab;
}

DEV_INLINE void
sample_finish(const sample_args_t *a, uint32_t i, uint32_t id)
{
    a->out[i].id = (int32_t) id;
    a->out[i].rc = INFER_OK;
    a->out[i].logit = a->logits[(size_t) i * a->vocab + id];
    a->sampled[i] = (int32_t) id;
}

/* The row fails; the next step may still look its token up. */
DEV_INLINE void
sample_fail(const sample_args_t *a, uint32_t i, int rc)
{
    sample_work_t  *w = sample_work(a, i);

    w->mode = ROW_DONE;
    w->failed = 1;
    a->out[i].id = 0;
    a->out[i].rc = rc;
    a->out[i].logit = 0;
    a->out[i].max = 0;
    a->out[i].sum = 0;
    a->sampled[i] = 0;
}


/* ---- launches 1 and 2: the largest ---- */

/* What the row's own filters start from: best is the largest logit's token. */
DEV_INLINE void
sample_best(const sample_args_t *a, uint32_t i, const float *l, uint32_t best)
{
    const cu_sample_t  *s = &a->sample[i];
    sample_work_t      *w = sample_work(a, i);
    float               scale = 1.0f / s->temperature, max = l[best] * scale;

    /* greedy, or so cold that nothing but the largest has weight */
    if (!(s->temperature > 0) || !(fabsf(scale) < INFINITY) || !(fabsf(max) < INFINITY)) {
        w->mode = ROW_DONE;
        sample_finish(a, i, best);
        return;
    }
    w->scale = scale;
    w->max = max;
    w->mode = ROW_RANDOM;
}

/* No edit before i has its id. */
DEV_INLINE bool
sample_is_first(const kern_edit_t *e, uint32_t i)
{
    uint32_t  k = 0;

    while (e[k].id != e[i].id) {
        k++;
    }
    return k == i;
}

/* Biases in order, also where an id has several; bans; penalties. Ids of the seen are distinct. */
DEV_INLINE void
sample_edit(const cu_sample_t *s, const kern_edit_t *edit, float *l)
{
    const kern_edit_t  *e = edit + s->first_edit;

    for (uint32_t i = threadIdx.x; i < s->n_bias; i += SAMPLE_THREADS) {
        int32_t  id = e[i].id;

        if (sample_is_first(e, i)) {
            float  x = l[id];

            for (uint32_t k = i; k < s->n_bias; k++) {
                if (e[k].id == id) {
                    x = sample_clamp(x + e[k].value);
                }
            }
            l[id] = x;
        }
    }
    __syncthreads();                   /* biases before bans */
    e += s->n_bias;
    for (uint32_t i = threadIdx.x; i < s->n_ban; i += SAMPLE_THREADS) {
        if (sample_is_first(e, i)) {
            l[e[i].id] = -INFINITY;
        }
    }
    __syncthreads();                   /* bans before penalties */
    e += s->n_ban;
    for (uint32_t i = threadIdx.x; i < s->n_seen; i += SAMPLE_THREADS) {
        float  x = l[e[i].id];

        if (s->repetition != 1) {
            x = x > 0 ? x / s->repetition : x * s->repetition;
        }
        if (e[i].value != 0) {
            x -= s->presence + s->frequency * e[i].value;
        }
        l[e[i].id] = sample_clamp(x);
    }
}

/* The largest rank of this block's part of a row. copy: NULL, or where the row goes, without the
 * ids that the mask does not allow. */
DEV_INLINE u64
sample_part_max(const sample_args_t *a, const float *l, const uint32_t *mask, float *copy)
{
    uint32_t  part = a->chunk * SAMPLE_WARPS, lo = blockIdx.x * part;
    uint32_t  hi = a->vocab - lo < part ? a->vocab : lo + part;
    uint32_t  id = 0, nan = 0;
    float     max = -INFINITY;
    u64       rank;

    if (lo >= a->vocab) {
        return 0;
    }
    #pragma unroll 8
    for (uint32_t k = lo + threadIdx.x; k < hi; k += SAMPLE_THREADS) {
        float  x = l[k];

        nan |= x != x;
        if (x > max) {
            max = x;
            id = k;
        }
        if (copy != NULL) {
            copy[k] = mask == NULL || (mask[k / 32] >> k % 32 & 1) != 0 ? x : -INFINITY;
        }
    }
    rank = max > -INFINITY ? sample_rank(max, id) : 0;
    return nan != 0 ? SAMPLE_NAN : rank;
}

/* sample_max_k<EDITED>: launches 1 (the row itself) and 2 (its edited copy).
 * launch   (parts, O) blocks of SAMPLE_THREADS; the last block of a row goes on alone
 * traffic  4 V bytes a row; 8 V more where it is copied      flops none */
template <int EDITED>
__global__ void __launch_bounds__(SAMPLE_THREADS)
sample_max_k(const sample_args_t a)
{
    __shared__ u64       red[SAMPLE_WARPS];
    __shared__ uint32_t  flag;
    const uint32_t       i = blockIdx.y;
    u64                  rank;
    float               *copy = NULL;
    const float         *l;
    const uint32_t      *mask = NULL;
    const cu_sample_t   *s;
    sample_work_t       *w;

    dev_wait();
    dev_launch_dependents();
    w = sample_work(&a, i);
    if (a.out_row[i] < 0 || (EDITED && w->mode != ROW_EDITED)) {
        return;
    }
    s = &a.sample[i];
    l = a.logits + (size_t) i * a.vocab;
    if (EDITED) {
        l = sample_copy(w);

    } else if (sample_is_edited(s)) {
        copy = sample_copy(w);
        mask = s->mask_off != UINT32_MAX ? a.mask + s->mask_off : NULL;
    }

    rank = sample_block_max(sample_part_max(&a, l, mask, copy), red);
    if (threadIdx.x == 0) {
        w->part[blockIdx.x] = rank;
    }
    if (!sample_is_last(&w->counter[EDITED], gridDim.x, &flag)) {
        return;
    }

    rank = 0;
    if (threadIdx.x < gridDim.x) {
        rank = *(volatile u64 *) &w->part[threadIdx.x];
    }
    rank = sample_block_max(rank, red);

    if (EDITED) {
        if (threadIdx.x == 0 && rank == 0) {
            sample_fail(&a, i, INFER_INVALID);
        } else if (threadIdx.x == 0) {
            sample_best(&a, i, l, sample_rank_id(rank));
        }
        return;
    }

    /* nothing above -inf, infinity, or a NaN */
    if (rank == 0 || rank >> 32 >= sample_key(INFINITY)) {
        if (threadIdx.x == 0) {
            sample_fail(&a, i, INFER_DEVICE);
        }
        return;
    }
    if (threadIdx.x == 0) {
        w->failed = 0;
        w->raw_max = l[sample_rank_id(rank)];
        a.out[i].max = w->raw_max;
        a.out[i].sum = 0;
    }
    if (copy != NULL) {
        sample_edit(s, a.edit, copy);
        if (threadIdx.x == 0) {
            w->mode = ROW_EDITED;
        }

    } else if (threadIdx.x == 0) {
        sample_best(&a, i, l, sample_rank_id(rank));
    }
}


/* ---- launch 3: weights, log-sum, top logprobs ---- */

/* The f64 sum of exp(l - max), element k in lane k % 8, each lane in the order of ids. */
DEV_INLINE void
sample_log_sum(const sample_args_t *a, const float *l, float max, cu_sampled_t *out)
{
    __shared__ float   e[SAMPLE_LANES * SAMPLE_PITCH];
    __shared__ double  sum[SAMPLE_LANES];
    uint32_t           warp = threadIdx.x / DEV_WARP, lane = threadIdx.x % DEV_WARP;
    double             s = 0;

    for (uint32_t base = 0; base < a->vocab; base += SAMPLE_TILE) {
        for (uint32_t k = threadIdx.x; k < SAMPLE_TILE; k += SAMPLE_THREADS) {
            uint32_t  j = k / SAMPLE_LANES;
            float    *to = &e[k % SAMPLE_LANES * SAMPLE_PITCH
                              + j % SAMPLE_RUN * (DEV_WARP + 1) + j / SAMPLE_RUN];

            *to = base + k < a->vocab ? sample_exp(l[base + k] - max) : 0.0f;
        }
        __syncthreads();               /* e is written */
        if (warp < SAMPLE_LANES) {
            float  run[SAMPLE_RUN];

            for (int r = 0; r < SAMPLE_RUN; r++) {
                run[r] = e[warp * SAMPLE_PITCH + (uint32_t) r * (DEV_WARP + 1) + lane];
            }
            s = sample_warp_add<SAMPLE_RUN>(s, run);
        }
        __syncthreads();               /* e is no longer read */
    }

    if (warp < SAMPLE_LANES && lane == 0) {
        sum[warp] = s;
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

/* 1: no filter can reach beyond window j of n tokens and this weight. */
DEV_INLINE int
sample_is_enough(const cu_sample_t *s, int j, u64 n, u64 weight, u64 need)
{
    if (j == SAMPLE_WINDOWS - 1) {
        return 1;
    }
    if (s->top_k > 0) {
        return n >= (u64) s->top_k;
    }
    if (s->top_p < 1) {
        return weight >= need;
    }
    return sample_exp(-sample_depth[j]) * 1.1f < s->min_p;
}

/* The integer that a limit in f64 stands for: sum < limit is the same as sum < it. */
DEV_INLINE u64
sample_limit(double limit)
{
    limit = limit > 0.5 ? limit : 0.5;
    return (u64) __double2ull_rz(ceil(limit));
}

/* Sums and counts of one warp's chunk. */
DEV_INLINE void
sample_weigh_chunk(const sample_args_t *a, const float *l, sample_work_t *w)
{
    uint32_t     c = blockIdx.x * SAMPLE_WARPS + threadIdx.x / DEV_WARP;
    u64          lo = (u64) c * a->chunk, hi = lo + a->chunk;
    uint32_t     count[SAMPLE_WINDOWS] = { 0 };
    u64          weight[SAMPLE_WINDOWS] = { 0 };
    float        least[SAMPLE_WINDOWS];
    const float  scale = w->scale, max = w->max;

    for (int j = 0; j < SAMPLE_WINDOWS; j++) {
        least[j] = max - sample_depth[j];
    }
    hi = hi < a->vocab ? hi : a->vocab;
    #pragma unroll 4
    for (u64 k = lo + threadIdx.x % DEV_WARP; k < hi; k += DEV_WARP) {
        float  x = l[k] * scale;

        if (x >= least[SAMPLE_WINDOWS - 1]) {
            u64  v = sample_weight(x - max);

            for (int j = 0; j < SAMPLE_WINDOWS; j++) {
                count[j] += x >= least[j];
                weight[j] += x >= least[j] ? v : 0;
            }
        }
    }
    for (int j = 0; j < SAMPLE_WINDOWS; j++) {
        count[j] = __reduce_add_sync(~0u, count[j]);
        weight[j] = sample_warp_sum(weight[j]);
        if (threadIdx.x % DEV_WARP == 0) {
            w->count[j][c] = count[j];
            w->weight[j][c] = weight[j];
        }
    }
}

/* Nothing to filter: in which chunk the draw falls. */
DEV_INLINE void
sample_choose_chunk(const sample_args_t *a, const cu_sample_t *s, sample_work_t *w,
    uint32_t n_chunks, u64 *red)
{
    u64       before, mine = 0, total, target;
    uint32_t  c = threadIdx.x;

    if (c < n_chunks) {
        mine = *(volatile u64 *) &w->weight[SAMPLE_WINDOWS - 1][c];
    }
    before = sample_block_scan(mine, red, &total);
    target = __umul64hi(sample_random(s->seed, s->n_out, s->choice), total);
    if (target >= before && target - before < mine) {
        w->lo = c * a->chunk;
        w->n = a->vocab - w->lo < a->chunk ? a->vocab - w->lo : a->chunk;
        w->least = -INFINITY;
        w->target = target - before;
        w->mode = ROW_RANGE;
    }
}

/* What the filters are applied to: the smallest window that is enough, and each chunk's place in
 * the list of its tokens. */
DEV_INLINE void
sample_choose_window(const sample_args_t *a, const cu_sample_t *s, sample_work_t *w,
    uint32_t n_chunks, u64 *red)
{
    __shared__ u64  n[SAMPLE_WINDOWS], weight[SAMPLE_WINDOWS];
    uint32_t        warp = threadIdx.x / DEV_WARP, lane = threadIdx.x % DEV_WARP, window = 0;
    u64             v = 0, m = 0, need, total;

    if (warp < SAMPLE_WINDOWS) {
        for (uint32_t c = lane; c < n_chunks; c += DEV_WARP) {
            m += *(volatile uint32_t *) &w->count[warp][c];
            v += *(volatile u64 *) &w->weight[warp][c];
        }
        m = sample_warp_sum(m);
        v = sample_warp_sum(v);
        if (lane == 0) {
            n[warp] = m;
            weight[warp] = v;
        }
    }
    __syncthreads();                   /* n and weight are written */
    need = sample_limit((double) s->top_p * (double) weight[SAMPLE_WINDOWS - 1]);
    while (!sample_is_enough(s, (int) window, n[window], weight[window], need)) {
        window++;
    }

    m = 0;
    if (threadIdx.x < n_chunks) {
        m = *(volatile uint32_t *) &w->count[window][threadIdx.x];
    }
    m = sample_block_scan(m, red, &total);
    if (threadIdx.x < n_chunks) {
        w->place[threadIdx.x] = (uint32_t) m;
    }
    if (threadIdx.x == 0) {
        w->least = w->max - sample_depth[window];
        w->need = need;
        w->lo = 0;
        w->mode = total <= SAMPLE_LIST ? ROW_LISTED : ROW_DENSE;
        w->n = total <= SAMPLE_LIST ? (uint32_t) total : a->vocab;
    }
}

/* sample_weigh_k: launch 3.
 * launch   (parts + 2, O) blocks of SAMPLE_THREADS; the last two blocks of a row make logprobs
 * traffic  4 V bytes a random row, 4 V a row with logprobs (from L2)
 * bound    instructions: about 50 a token of a random row; the log-sum's chain of 63 tiles */
__global__ void __launch_bounds__(SAMPLE_THREADS)
sample_weigh_k(const sample_args_t a)
{
    __shared__ u64       red[SAMPLE_WARPS];
    __shared__ uint32_t  flag;
    const uint32_t       i = blockIdx.y, parts = gridDim.x - 2;
    const cu_sample_t   *s;
    sample_work_t       *w;

    dev_wait();
    dev_launch_dependents();
    if (a.out_row[i] < 0) {
        return;
    }
    s = &a.sample[i];
    w = sample_work(&a, i);

    if (blockIdx.x >= parts) {
        const float  *l = a.logits + (size_t) i * a.vocab;

        if (w->failed == 0 && blockIdx.x == parts && (s->want != 0 || s->top_logprobs != 0)) {
            sample_log_sum(&a, l, w->raw_max, &a.out[i]);
        }
        if (w->failed == 0 && blockIdx.x == parts + 1 && s->top_logprobs != 0) {
            sample_top(&a, l, s->top_logprobs, &a.out[i], red);
        }
        return;
    }

    if (*(volatile uint32_t *) &w->mode != ROW_RANDOM) {
        return;
    }
    sample_weigh_chunk(&a, sample_source(&a, i), w);
    if (!sample_is_last(&w->counter[2], parts, &flag)) {
        return;
    }
    if (s->top_k <= 0 && s->top_p >= 1 && s->min_p <= 0) {
        sample_choose_chunk(&a, s, w, parts * SAMPLE_WARPS, red);
    } else {
        sample_choose_window(&a, s, w, parts * SAMPLE_WARPS, red);
    }
}


/* ---- launch 4: filters and draw ---- */

/* Candidates of a row and what is kept of them, in the order of falling logits, ties by id. */
typedef struct {
    const float     *l;
    const uint32_t  *list;             /* NULL: ids lo, lo + 1, ... */
    uint32_t         lo, n;
    float            scale, max, least;
    uint32_t         key;              /* of max */
    uint32_t         cut;              /* distance of keys from the largest: all nearer ones */
    uint32_t         ties;             /* and so many at cut */
    u64              least_weight;     /* min_p */
} sample_view_t;

/* Candidate k: its id, distance and weight; 0 when it is none. */
DEV_INLINE int
sample_get(const sample_view_t *v, uint32_t k, uint32_t *id, uint32_t *dist, u64 *weight)
{
    float  x;

    *id = v->list != NULL ? v->list[k] : v->lo + k;
    x = v->l[*id] * v->scale;
    *dist = v->key - sample_key(x);
    *weight = sample_weight(x - v->max);
    return x >= v->least;
}

/* The weight of a candidate at distance dist. */
DEV_INLINE u64
sample_weight_at(const sample_view_t *v, uint32_t dist)
{
    return sample_weight(sample_unkey(v->key - dist) - v->max);
}

/* Sums of up to 2^51 from 32-bit atomics. */
typedef struct {
    uint32_t  lo[SAMPLE_BINS], hi[SAMPLE_BINS];
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
    u64             v[per], before, sum = 0, total;

    #pragma unroll
    for (uint32_t k = 0; k < per; k++) {
        uint32_t  bin = threadIdx.x * per + k;

        v[k] = (u64) h->hi[bin] << 32 | h->lo[bin];
        sum += v[k];
    }
    before = *above + sample_block_scan(sum, h->red, &total);
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
        for (uint32_t k = threadIdx.x; k < SAMPLE_BINS; k += SAMPLE_THREADS) {
            h->lo[k] = h->hi[k] = 0;
        }
        __syncthreads();               /* it is zero */
        for (uint32_t k = threadIdx.x; k < v->n; k += SAMPLE_THREADS) {
            uint32_t  id, dist;
            u64       weight;

            if (sample_get(v, k, &id, &dist, &weight) && dist <= v->cut
                && (u64) dist >> bits == (u64) prefix >> bits)
            {
                sample_hist_add(h, dist >> shift & (SAMPLE_BINS - 1), by_weight ? weight : 1);
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

    for (uint32_t k = threadIdx.x; k < v->n; k += SAMPLE_THREADS) {
        uint32_t  id, dist;
        u64       weight;

        if (sample_get(v, k, &id, &dist, &weight) && dist < v->cut) {
            sum += weight;
        }
    }
    (void) sample_block_scan(sum, red, &total);
    return v->cut == SAMPLE_ALL ? total : total + sample_weight_at(v, v->cut) * v->ties;
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

/* What candidates k .. end - 1 of this warp have of kept weight, and how many lie at the cut. */
DEV_INLINE void
sample_sum_range(const sample_view_t *v, uint32_t k, uint32_t end, u64 *sum, uint32_t *ties)
{
    uint32_t  n = 0;
    u64       w = 0;

    for (k += threadIdx.x % DEV_WARP; k < end; k += DEV_WARP) {
        uint32_t  id, dist;
        u64       weight;

        if (sample_get(v, k, &id, &dist, &weight)) {
            w += dist < v->cut && weight >= v->least_weight ? weight : 0;
            n += dist == v->cut;
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
    uint32_t             lane = threadIdx.x % DEV_WARP, before = 0, id, dist, tie_here;
    u64                  weight, upto, tie = 0;
    int                  is;

    if (v->cut != SAMPLE_ALL) {
        tie = sample_weight_at(v, v->cut);
        tie = tie >= v->least_weight ? tie : 0;
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
    is = sample_get(v, lo + (lane < n ? lane : 0), &id, &dist, &weight) && lane < n;
    tie_here = __ballot_sync(~0u, is && dist == v->cut);
    if (is && dist == v->cut) {
        weight = sample_tie_weight(v, tie, before + __popc(tie_here & ((1u << lane) - 1)), 1);
    } else if (!is || dist > v->cut || weight < v->least_weight) {
        weight = 0;
    }
    upto = sample_warp_scan(weight);
    if (target < upto && target >= upto - weight) {
        *result = id;
    }
}

/* The tokens within the window, in order of ids, from this warp's chunk. */
DEV_INLINE void
sample_list_chunk(const sample_args_t *a, const float *l, sample_work_t *w)
{
    uint32_t     c = blockIdx.x * SAMPLE_WARPS + threadIdx.x / DEV_WARP, lane;
    u64          lo = (u64) c * a->chunk, hi = lo + a->chunk;
    uint32_t    *to = w->list + w->place[c];
    const float  scale = w->scale, least = w->least;

    lane = threadIdx.x % DEV_WARP;
    hi = hi < a->vocab ? hi : a->vocab;
    #pragma unroll 4
    for (u64 k = lo; k < hi; k += DEV_WARP) {
        int       is = k + lane < hi && l[k + lane] * scale >= least;
        uint32_t  who = __ballot_sync(~0u, is);

        if (is) {
            to[__popc(who & ((1u << lane) - 1))] = (uint32_t) k + lane;
        }
        to += __popc(who);
    }
}

/* sample_pick_k: launch 4.
 * launch   (parts, O) blocks of SAMPLE_THREADS; the last block of a row, or the only one where
 *          nothing is listed, filters and draws
 * traffic  4 V bytes a filtered row (from L2), then 8 bytes a candidate and pass */
__global__ void __launch_bounds__(SAMPLE_THREADS)
sample_pick_k(const sample_args_t a)
{
    __shared__ sample_hist_t  hist;
    __shared__ uint32_t       flag;
    const uint32_t            i = blockIdx.y;
    uint32_t                  mode;
    const float              *l;
    const cu_sample_t        *s;
    sample_work_t            *w;
    sample_view_t             v;

    dev_wait();
    dev_launch_dependents();
    w = sample_work(&a, i);
    if (a.out_row[i] < 0) {
        return;
    }
    s = &a.sample[i];
    mode = *(volatile uint32_t *) &w->mode;
    l = sample_source(&a, i);

    if (mode == ROW_LISTED) {
        sample_list_chunk(&a, l, w);
        if (!sample_is_last(&w->counter[3], gridDim.x, &flag)) {
            return;
        }

    } else if (mode == ROW_DONE || blockIdx.x != 0) {
        return;
    }

    v.l = l;
    v.list = mode == ROW_LISTED ? w->list : NULL;
    v.lo = w->lo;
    v.n = w->n;
    v.scale = w->scale;
    v.max = w->max;
    v.least = w->least;
    v.key = sample_key(v.max);
    v.cut = SAMPLE_ALL;
    v.ties = SAMPLE_ALL;
    v.least_weight = 0;
    if (mode != ROW_RANGE) {
        sample_filter(s, &v, v.n, w->need, &hist);
    }
    sample_draw(&v, mode == ROW_RANGE, w->target, sample_random(s->seed, s->n_out, s->choice),
                &flag);
    __syncthreads();                   /* flag is the token */
    if (threadIdx.x == 0) {
        sample_finish(&a, i, flag);
    }
}


/* ---- launchers ---- */

size_t
cu_sample_work(uint32_t max_outs, uint32_t vocab)
{
    return max_outs * sample_row_bytes(vocab);
}

/* Blocks of a row: four of them fit an SM, and each should have some work. */
static uint32_t
sample_parts(const cu_dev_t *dev, uint32_t vocab, uint32_t n_outs)
{
    uint32_t  parts = (uint32_t) dev->n_sms * 4 / n_outs, most = vocab / (4 * SAMPLE_THREADS) + 1;

    most = most < SAMPLE_PARTS ? most : SAMPLE_PARTS;
    return parts < 1 ? 1 : parts < most ? parts : most;
}

int
cu_sample(const cu_dev_t *dev, const float *logits, uint32_t vocab, uint32_t n_outs,
    const int32_t *out_row, const cu_sample_t *s, const kern_edit_t *edit, const uint32_t *mask,
    int32_t *sampled, cu_sampled_t *out, void *work)
{
    int            rc;
    uint32_t       parts;
    sample_args_t  a;

    if (n_outs == 0) {
        return INFER_OK;
    }
    parts = sample_parts(dev, vocab, n_outs);
    a.logits = logits;
    a.out_row = out_row;
    a.sample = s;
    a.edit = edit;
    a.mask = mask;
    a.sampled = sampled;
    a.out = out;
    a.work = (uint8_t *) work;
    a.vocab = vocab;
    a.chunk = (vocab + parts * SAMPLE_THREADS - 1) / (parts * SAMPLE_THREADS) * DEV_WARP;

    rc = dev_launch(dev, sample_max_k<0>, dim3(parts, n_outs), dim3(SAMPLE_THREADS), 0, a);
    if (rc == INFER_OK) {
        rc = dev_launch(dev, sample_max_k<1>, dim3(parts, n_outs), dim3(SAMPLE_THREADS), 0, a);
    }
    if (rc == INFER_OK) {
        rc = dev_launch(dev, sample_weigh_k, dim3(parts + 2, n_outs), dim3(SAMPLE_THREADS), 0, a);
    }
    if (rc == INFER_OK) {
        rc = dev_launch(dev, sample_pick_k, dim3(parts, n_outs), dim3(SAMPLE_THREADS), 0, a);
    }
    return rc;
}
