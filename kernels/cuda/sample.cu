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
 *            largest; chooses the distance that no filter can reach beyond
 *   pick     the tokens within that distance in order of ids, filters, draw (sample_pick.cuh)
 *   2 to 4   logprobs (sample_log.cuh)
 *
 * Everything that decides is integer or compared exactly, so nothing depends on the number of
 * blocks. Work memory: one sample_work_t and a row of logits for each output, all zero before the
 * first call; counters are back at zero after each.
 *
 * traffic  B V 4 bytes for greedy rows; 3 times that for random ones, mostly from L2; an edited row
 *          is copied, 3 times more
 * bound    DRAM or L2; floor of B=64 V=128256 is 32.8 MB -> 10 us at 3.35 TB/s (data sheet H100)
 * measured H200, V=128256, graph, programmatic launches, bench_sample, commit c2b4878: greedy 9.7 us
 *          at B=1, 22 us at B=64; T=1 54 us, T=0.8 top_k=40 top_p=0.95 92 us at B=64. Log-sums and
 *          wide filters were changed since: not measured
 */

#include "sample_log.cuh"
#include "sample_pick.cuh"

#define SAMPLE_AHEAD  8                /* loads before the first store */


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

/* Ids lo .. hi - 1 of the row into the copy, without those that the mask does not allow. Loads
 * first: a store might be to what the next one reads, for all that the compiler knows. */
DEV_INLINE void
sample_copy_part(const float *l, const uint32_t *mask, float *copy, uint32_t lo, uint32_t hi)
{
    for (uint32_t k = lo + threadIdx.x; k < hi; k += SAMPLE_AHEAD * SAMPLE_THREADS) {
        float  x[SAMPLE_AHEAD];

        #pragma unroll
        for (uint32_t u = 0; u < SAMPLE_AHEAD; u++) {
            uint32_t  id = k + u * SAMPLE_THREADS;

            x[u] = id < hi ? l[id] : 0;
            if (id < hi && mask != NULL && (mask[id / 32] >> id % 32 & 1) == 0) {
                x[u] = -INFINITY;
            }
        }
        #pragma unroll
        for (uint32_t u = 0; u < SAMPLE_AHEAD; u++) {
            if (k + u * SAMPLE_THREADS < hi) {
                copy[k + u * SAMPLE_THREADS] = x[u];
            }
        }
    }
}

/* The largest rank of ids lo .. hi - 1. */
DEV_INLINE u64
sample_part_max(const float *l, uint32_t lo, uint32_t hi)
{
    uint32_t  id = 0, nan = 0;
    float     max = -INFINITY;
    u64       rank;

    #pragma unroll 8
    for (uint32_t k = lo + threadIdx.x; k < hi; k += SAMPLE_THREADS) {
        float  x = l[k];

        nan |= x != x;
        if (x > max) {
            max = x;
            id = k;
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
    uint32_t             lo, hi;
    u64                  rank;
    float               *copy = NULL;
    const float         *l;
    const uint32_t      *mask = NULL;
    const cu_sample_t   *s;
    sample_work_t       *w;

    dev_wait();
    dev_launch_dependents();
    if (a.out_row[i] < 0) {
        return;
    }
    w = sample_work(&a, i);
    s = &a.sample[i];
    l = a.logits + (size_t) i * a.vocab;
    if (EDITED) {
        if (w->failed == 0 && sample_wants_log(s)) {
            sample_log_sums(&a, l, w);
        }
        if (w->mode != ROW_EDITED) {
            return;
        }
        l = sample_copy(w);

    } else if (sample_is_edited(s)) {
        copy = sample_copy(w);
        mask = s->mask_off != UINT32_MAX ? a.mask + s->mask_off : NULL;
    }

    lo = blockIdx.x * a.chunk * SAMPLE_WARPS;
    lo = lo < a.vocab ? lo : a.vocab;
    hi = a.vocab - lo < a.chunk * SAMPLE_WARPS ? a.vocab : lo + a.chunk * SAMPLE_WARPS;
    if (copy != NULL) {
        sample_copy_part(l, mask, copy, lo, hi);
    }
    rank = sample_block_max(sample_part_max(l, lo, hi), red);
    if (threadIdx.x == 0) {
        w->part[blockIdx.x] = rank;
    }
    if (!dev_is_last(&w->counter[EDITED], gridDim.x, &flag)) {
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

/* Sums and counts of one warp's chunk; plain: of the widest window only. */
DEV_INLINE void
sample_weigh_chunk(const sample_args_t *a, const float *l, sample_work_t *w, bool plain)
{
    uint32_t     c = blockIdx.x * SAMPLE_WARPS + threadIdx.x / DEV_WARP;
    u64          lo = (u64) c * a->chunk, hi = lo + a->chunk;
    uint32_t     count[SAMPLE_WINDOWS] = { 0 };
    u64          weight[SAMPLE_WINDOWS] = { 0 };
    float        least[SAMPLE_WINDOWS];
    const float  scale = w->scale, max = w->max;

    for (int j = 0; j < SAMPLE_WINDOWS; j++) {
        least[j] = plain && j < SAMPLE_WINDOWS - 1 ? INFINITY : max - sample_depth[j];
    }
    hi = hi < a->vocab ? hi : a->vocab;
    #pragma unroll 4
    for (u64 k = lo + threadIdx.x % DEV_WARP; k < hi; k += DEV_WARP) {
        float  x = l[k] * scale;
        u64    v = sample_weight(x - max);

        /* from the widest inwards: most tokens are in few */
        #pragma unroll
        for (int j = SAMPLE_WINDOWS - 1; j >= 0 && x >= least[j]; j--) {
            count[j]++;
            weight[j] += v;
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
 * launch   (parts + 1, O) blocks of SAMPLE_THREADS; the last of a row makes top logprobs
 * traffic  4 V bytes a random row, 4 V a row with logprobs (from L2)
 * bound    instructions: about 40 a token of a random row */
__global__ void __launch_bounds__(SAMPLE_THREADS)
sample_weigh_k(const sample_args_t a)
{
    __shared__ u64       red[SAMPLE_WARPS];
    __shared__ uint32_t  flag;
    const uint32_t       i = blockIdx.y, parts = gridDim.x - 1;
    const float         *l;
    const cu_sample_t   *s;
    sample_work_t       *w;

    dev_wait();
    dev_launch_dependents();
    if (a.out_row[i] < 0) {
        return;
    }
    s = &a.sample[i];
    w = sample_work(&a, i);

    if (w->failed == 0 && sample_wants_log(s)) {
        l = a.logits + (size_t) i * a.vocab;
        if (blockIdx.x < parts) {
            sample_log_adds(&a, l, w);
        } else {
            sample_top(&a, l, s->top_logprobs, &a.out[i], red);
        }
    }
    if (blockIdx.x == parts) {
        return;
    }

    if (*(volatile uint32_t *) &w->mode != ROW_RANDOM) {
        return;
    }
    sample_weigh_chunk(&a, sample_source(&a, i), w, sample_is_plain(s));
    if (!dev_is_last(&w->counter[2], parts, &flag)) {
        return;
    }
    if (sample_is_plain(s)) {
        sample_choose_chunk(&a, s, w, parts * SAMPLE_WARPS, red);
    } else {
        sample_choose_window(&a, s, w, parts * SAMPLE_WARPS, red);
    }
}


/* ---- launch 4: filters and draw ---- */

/* The tokens within the window, in order of ids, from this warp's chunk. Their scaled logits
 * go with them, so that the passes over the list need not look for them all over the row. */
DEV_INLINE void
sample_list_chunk(const sample_args_t *a, const float *l, sample_work_t *w)
{
    uint32_t     c = blockIdx.x * SAMPLE_WARPS + threadIdx.x / DEV_WARP, lane;
    u64          lo = (u64) c * a->chunk, hi = lo + a->chunk;
    uint32_t    *to = w->list + w->place[c];
    float       *scaled = w->scaled + w->place[c];
    const float  scale = w->scale, least = w->least;

    lane = threadIdx.x % DEV_WARP;
    hi = hi < a->vocab ? hi : a->vocab;
    for (u64 k = lo; k < hi; k += SAMPLE_AHEAD * DEV_WARP) {
        float  x[SAMPLE_AHEAD];

        #pragma unroll
        for (uint32_t u = 0; u < SAMPLE_AHEAD; u++) {
            u64  id = k + u * DEV_WARP + lane;

            x[u] = id < hi ? l[id] * scale : -INFINITY;
        }
        #pragma unroll
        for (uint32_t u = 0; u < SAMPLE_AHEAD; u++) {
            u64       id = k + u * DEV_WARP + lane;
            int       is = id < hi && x[u] >= least;
            uint32_t  who = __ballot_sync(~0u, is);

            if (is) {
                uint32_t  at = __popc(who & ((1u << lane) - 1));

                to[at] = (uint32_t) id;
                scaled[at] = x[u];
            }
            to += __popc(who);
            scaled += __popc(who);
        }
    }
}

/* sample_pick_k: launch 4.
 * launch   (parts + 1, O) blocks of SAMPLE_THREADS; of the first ones of a row the last, or the
 *          only one where nothing is listed, filters and draws; one more ends the log-sum
 * traffic  4 V bytes a filtered row (from L2), then 12 bytes a listed candidate, or 4 bytes an id
 *          and pass where nothing is listed */
__global__ void __launch_bounds__(SAMPLE_THREADS)
sample_pick_k(const sample_args_t a)
{
    __shared__ sample_hist_t  hist;
    __shared__ uint32_t       dist[SAMPLE_NEAR], flag;
    const uint32_t            i = blockIdx.y, parts = gridDim.x - 1;
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
    if (blockIdx.x == parts) {
        if (w->failed == 0 && sample_wants_log(s)) {
            sample_log_finish(&a, a.logits + (size_t) i * a.vocab, w, parts * SAMPLE_WARPS,
                              &a.out[i]);
        }
        return;
    }
    mode = *(volatile uint32_t *) &w->mode;
    l = sample_source(&a, i);

    if (mode == ROW_LISTED) {
        sample_list_chunk(&a, l, w);
        if (!dev_is_last(&w->counter[3], parts, &flag)) {
            return;
        }

    } else if (mode == ROW_DONE || blockIdx.x != 0) {
        return;
    }

    v.l = mode == ROW_LISTED ? w->scaled : l;
    v.list = mode == ROW_LISTED ? w->list : NULL;
    v.lo = w->lo;
    v.n = w->n;
    v.scale = mode == ROW_LISTED ? 1 : w->scale;
    v.max = w->max;
    v.least = w->least;
    v.key = sample_key(v.max);
    v.cut = SAMPLE_NO_CUT;
    v.ties = SAMPLE_ALL;
    v.least_weight = 0;
    v.dist = NULL;
    if (v.n <= SAMPLE_NEAR) {
        sample_keep_near(&v, dist);
    }
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
        rc = dev_launch(dev, sample_weigh_k, dim3(parts + 1, n_outs), dim3(SAMPLE_THREADS), 0, a);
    }
    if (rc == INFER_OK) {
        rc = dev_launch(dev, sample_pick_k, dim3(parts + 1, n_outs), dim3(SAMPLE_THREADS), 0, a);
    }
    return rc;
}
