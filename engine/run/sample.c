/*
 * sample.c: the sampler of one sequence. What a request changes is sparse
 * (biases, bans, tokens seen), so it is edited in the row; top_k and top_p
 * find their threshold by digits of the ordered logit instead of sorting
 * the vocabulary. Sequence lifetime for infer_sampler_t, step lifetime for
 * the scratch.
 */

#include <float.h>
#include <math.h>
#include <string.h>

#include "run/sample.h"

/* A token that was in the prompt or in the output. */
typedef struct {
    int32_t   id;
    uint32_t  n_out;
} sample_seen_t;

struct infer_sampler_s {
    infer_sampling_t  params;
    uint32_t          choice;
    uint32_t          vocab;
    uint32_t          n_out;         /* output tokens accepted */
    uint32_t          n_biases, n_bans;
    infer_bias_t     *bias;
    int32_t          *ban;           /* for the first min_tokens */

    /* only with penalties: dense list and an open-addressed index into it,
     * index + 1, 0 for free */
    sample_seen_t    *seen;
    uint32_t         *slot;
    uint32_t          n_seen, max_seen, mask;
};

/* What may be drawn, in id order. */
typedef struct {
    uint64_t  w;                     /* floor(2^32 exp(l - max)) */
    uint32_t  id;
    uint32_t  key;                   /* orders as the logit does */
} sample_cand_t;

#define SAMPLE_LANES  8


void
infer_philox(const uint32_t ctr[4], const uint32_t key[2], uint32_t out[4])
{
    uint32_t c[4] = { ctr[0], ctr[1], ctr[2], ctr[3] };
    uint32_t k0 = key[0], k1 = key[1];

    for (int i = 0; i < 10; i++) {
        uint64_t p0 = (uint64_t) 0xd2511f53 * c[0];
        uint64_t p1 = (uint64_t) 0xcd9e8d57 * c[2];

        c[0] = (uint32_t) (p1 >> 32) ^ c[1] ^ k0;
        c[1] = (uint32_t) p1;
        c[2] = (uint32_t) (p0 >> 32) ^ c[3] ^ k1;
        c[3] = (uint32_t) p0;
        k0 += 0x9e3779b9;
        k1 += 0xbb67ae85;
    }

    memcpy(out, c, sizeof(c));
}


static int
sample_has_penalties(const infer_sampling_t *p)
{
    return p->repetition_penalty != 1 || p->presence_penalty != 0
           || p->frequency_penalty != 0;
}

/* Counts id; in the prompt when out is 0. */
static void
sample_see(infer_sampler_t *s, int32_t id, uint32_t out)
{
    uint32_t h;

    if (s->slot == NULL || id < 0 || (uint32_t) id >= s->vocab) {
        return;
    }

    h = ((uint32_t) id * 0x9e3779b1u) & s->mask;
    while (s->slot[h] != 0) {
        if (s->seen[s->slot[h] - 1].id == id) {
            s->seen[s->slot[h] - 1].n_out += out;
            return;
        }
        h = (h + 1) & s->mask;
    }

    if (s->n_seen < s->max_seen) {
        s->seen[s->n_seen++] = (sample_seen_t) { .id = id, .n_out = out };
        s->slot[h] = s->n_seen;
    }
}

/* Room for every distinct token that the sequence can come to hold. */
static int
sample_new_seen(infer_sampler_t *s, const int32_t *prompt, uint32_t n_prompt)
{
    uint64_t need = s->params.max_tokens, size = 16;

    if (s->params.repetition_penalty == 1) {
        n_prompt = 0;
    }
    need += n_prompt;
    need = need < s->vocab ? need : s->vocab;
    while (size < need * 2) {
        size *= 2;
    }
    s->seen = malloc((size_t) (need * sizeof(sample_seen_t)));
    s->slot = calloc((size_t) size, sizeof(uint32_t));
    if (s->seen == NULL || s->slot == NULL) {
        return INFER_NOMEM;
    }
    s->max_seen = (uint32_t) need;
    s->mask = (uint32_t) (size - 1);

    for (uint32_t i = 0; i < n_prompt; i++) {
        sample_see(s, prompt[i], 0);
    }

    return INFER_OK;
}

static void
sample_ban(infer_sampler_t *s, const int32_t *ids, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        if (ids[i] >= 0 && (uint32_t) ids[i] < s->vocab) {
            s->ban[s->n_bans++] = ids[i];
        }
    }
}

int
infer_sampler_new(infer_sampler_t **sp, const infer_sampling_t *params,
    uint32_t choice, uint32_t vocab, const infer_bias_t *biases,
    uint32_t n_biases, const int32_t *stop_ids, uint32_t n_stop_ids,
    const int32_t *eog_ids, uint32_t n_eog_ids, const int32_t *prompt,
    uint32_t n_prompt)
{
    infer_sampler_t *s;

    *sp = NULL;
    if (vocab == 0 || vocab > INT32_MAX || n_biases > INFER_MAX_LOGIT_BIAS
        || n_stop_ids > INFER_MAX_STOP_IDS || n_eog_ids > INFER_MAX_EOG
        || params->top_logprobs > INFER_MAX_TOP_LOGPROBS)
    {
        return INFER_INVALID;
    }

    s = calloc(1, sizeof(infer_sampler_t));
    if (s == NULL) {
        return INFER_NOMEM;
    }
    s->params = *params;
    s->choice = choice;
    s->vocab = vocab;
    s->bias = malloc((n_biases + 1) * sizeof(infer_bias_t));
    s->ban = malloc((n_stop_ids + n_eog_ids + 1) * sizeof(int32_t));
    if (s->bias == NULL || s->ban == NULL
        || (sample_has_penalties(params)
            && sample_new_seen(s, prompt, n_prompt) != INFER_OK))
    {
        infer_sampler_free(s);
        return INFER_NOMEM;
    }

    for (uint32_t i = 0; i < n_biases; i++) {
        if (biases[i].id >= 0 && (uint32_t) biases[i].id < vocab) {
            s->bias[s->n_biases++] = biases[i];
        }
    }
    sample_ban(s, stop_ids, n_stop_ids);
    sample_ban(s, eog_ids, n_eog_ids);

    *sp = s;
    return INFER_OK;
}

void
infer_sampler_free(infer_sampler_t *s)
{
    if (s != NULL) {
        free(s->bias);
        free(s->ban);
        free(s->seen);
        free(s->slot);
        free(s);
    }
}

void
infer_sampler_accept(infer_sampler_t *s, int32_t id)
{
    s->n_out++;
    sample_see(s, id, 1);
}

/* Bans that hold for output token n_out. */
static uint32_t
sample_active_bans(const infer_sampler_t *s, uint32_t n_out)
{
    return n_out < s->params.min_tokens ? s->n_bans : 0;
}

uint32_t
infer_sampler_edits(const infer_sampler_t *s)
{
    return s->n_biases + sample_active_bans(s, s->n_out) + s->n_seen;
}

int
infer_sampler_needs_last(const infer_sampler_t *s)
{
    return s->slot != NULL;
}

void
infer_sampler_export(const infer_sampler_t *s, uint32_t ahead,
    kern_edit_t *edit, kern_sample_t *to)
{
    infer_assert(ahead == 0 || !infer_sampler_needs_last(s));
    *to = (kern_sample_t) {
        .n_out = s->n_out + ahead, .choice = s->choice,
        .n_bias = s->n_biases,
        .n_ban = sample_active_bans(s, s->n_out + ahead),
        .n_seen = s->n_seen, .params = &s->params, .edit = edit
    };

    for (uint32_t i = 0; i < to->n_bias; i++) {
        *edit++ = (kern_edit_t) { s->bias[i].id, s->bias[i].bias };
    }
    for (uint32_t i = 0; i < to->n_ban; i++) {
        *edit++ = (kern_edit_t) { s->ban[i], 0 };
    }
    for (uint32_t i = 0; i < to->n_seen; i++) {
        *edit++ = (kern_edit_t) { s->seen[i].id, (float) s->seen[i].n_out };
    }
}

/* Candidates, exponentials, a copy of the raw row; 64 to align each. */
size_t
infer_sample_scratch(uint32_t vocab)
{
    return (size_t) vocab * (sizeof(sample_cand_t) + 2 * sizeof(float))
           + 3 * 64;
}

static void *
sample_align(void *p)
{
    return (void *) (((uintptr_t) p + 63) & ~(uintptr_t) 63);
}


typedef float  sample_v4_t __attribute__((vector_size(16)));
typedef int    sample_m4_t __attribute__((vector_size(16)));

static int
sample_has_nan(const float *x, uint32_t n)
{
    sample_m4_t nan = { 0, 0, 0, 0 };
    uint32_t    i;
    int         any;

    for (i = 0; i + 4 <= n; i += 4) {
        sample_v4_t v;

        memcpy(&v, x + i, sizeof(v));
        nan |= v != v;
    }
    any = nan[0] | nan[1] | nan[2] | nan[3];
    for ( ; i < n; i++) {
        any |= x[i] != x[i];
    }

    return any != 0;
}

/* log(sum(exp(x - max))) + max; f64, element i in lane i % 8, lanes added
 * in a tree. e[0..n) is overwritten. */
static double
sample_log_sum(const kern_ops_t *ops, const float *x, float *e, float max,
    uint32_t n)
{
    double   sum[SAMPLE_LANES] = { 0 };
    uint32_t i;

    ops->exp_row(e, x, max, n);
    for (i = 0; i + SAMPLE_LANES <= n; i += SAMPLE_LANES) {
        for (uint32_t k = 0; k < SAMPLE_LANES; k++) {
            sum[k] += e[i + k];
        }
    }
    for ( ; i < n; i++) {
        sum[i % SAMPLE_LANES] += e[i];
    }
    for (uint32_t w = SAMPLE_LANES / 2; w != 0; w /= 2) {
        for (uint32_t k = 0; k < w; k++) {
            sum[k] += sum[k + w];
        }
    }

    return (double) max + log(sum[0]);
}

/* The n largest, larger first, of equal ones the lower id first. */
static void
sample_top(const float *x, uint32_t vocab, uint32_t n, double lse,
    infer_top_t *top)
{
    uint32_t have = 0;

    for (uint32_t i = 0; i < vocab && n != 0; i++) {
        uint32_t at;

        if (have == n && !(x[i] > top[n - 1].logprob)) {
            continue;
        }
        for (at = have < n ? have++ : n - 1;
             at > 0 && x[i] > top[at - 1].logprob; at--)
        {
            top[at] = top[at - 1];
        }
        top[at] = (infer_top_t) { .id = (int32_t) i, .logprob = x[i] };
    }

    for (uint32_t i = 0; i < n; i++) {
        if (i < have) {
            top[i].logprob = (float) ((double) top[i].logprob - lse);

        } else {
            top[i] = (infer_top_t) { .id = -1, .logprob = -INFINITY };
        }
    }
}


/* Keeps extreme parameters from making infinities or NaN of finite values;
 * -inf stays. */
static float
sample_clamp(float l)
{
    return l > FLT_MAX ? FLT_MAX : isnan(l) ? -INFINITY : l;
}

/* Bias, bans, penalties, in this order. */
static void
sample_edit(const infer_sampler_t *s, float *l)
{
    const infer_sampling_t *p = &s->params;

    for (uint32_t i = 0; i < s->n_biases; i++) {
        float *x = &l[s->bias[i].id];

        *x = sample_clamp(*x + s->bias[i].bias);
    }
    for (uint32_t i = 0; i < sample_active_bans(s, s->n_out); i++) {
        l[s->ban[i]] = -INFINITY;
    }
    for (uint32_t i = 0; i < s->n_seen; i++) {
        const sample_seen_t *t = &s->seen[i];
        float                x = l[t->id];

        if (p->repetition_penalty != 1) {
            x = x > 0 ? x / p->repetition_penalty
                      : x * p->repetition_penalty;
        }
        if (t->n_out != 0) {
            x -= p->presence_penalty
                 + p->frequency_penalty * (float) t->n_out;
        }
        l[t->id] = sample_clamp(x);
    }
}

/* An unsigned number that orders as f does, both zeros equal. */
static uint32_t
sample_key(float f)
{
    uint32_t u;

    f += 0.0f;
    memcpy(&u, &f, sizeof(u));
    return u & 0x80000000 ? ~u : u | 0x80000000;
}

/*
 * Keeps, in the order of falling logits (ties: lower id first), each
 * candidate before which less than limit has been kept, counted in weight
 * or, by_weight 0, in candidates. The threshold comes digit by digit from
 * histograms; sums are of integers below 2^53, so exact. Returns what is
 * kept, at least one, still in id order.
 */
static uint32_t
sample_cut(sample_cand_t *c, uint32_t n, int by_weight, double limit)
{
    uint32_t prefix = 0, mask = 0, kept = 0;
    double   above = 0;              /* held by keys over the threshold */

    limit = limit > 0.5 ? limit : 0.5;
    for (int shift = 24; shift >= 0; shift -= 8) {
        double   h[256] = { 0 };
        uint32_t d = 255;

        for (uint32_t i = 0; i < n; i++) {
            if ((c[i].key & mask) == prefix) {
                h[c[i].key >> shift & 255] += by_weight ? (double) c[i].w : 1;
            }
        }
        while (d > 0 && above + h[d] < limit) {
            above += h[d--];
        }
        prefix |= d << shift;
        mask |= 255u << shift;
    }

    for (uint32_t i = 0; i < n; i++) {
        if (c[i].key < prefix || (c[i].key == prefix && above >= limit)) {
            continue;
        }
        if (c[i].key == prefix) {
            above += by_weight ? (double) c[i].w : 1;
        }
        c[kept++] = c[i];
    }

    return kept;
}

static uint64_t
sample_total(const sample_cand_t *c, uint32_t n)
{
    uint64_t sum = 0;

    for (uint32_t i = 0; i < n; i++) {
        sum += c[i].w;
    }

    return sum;
}

/* top_k, top_p, min_p; returns what is left. need: the weight that top_p
 * keeps when there is no top_k. */
static uint32_t
sample_filter(const infer_sampling_t *p, sample_cand_t *c, uint32_t n,
    double need)
{
    uint32_t kept = 0;

    if (p->top_k > 0) {
        if ((uint32_t) p->top_k < n) {
            n = sample_cut(c, n, 0, p->top_k);
        }
        need = (double) p->top_p * (double) sample_total(c, n);
    }
    if (p->top_p < 1) {
        n = sample_cut(c, n, 1, need);
    }
    if (p->min_p > 0) {
        /* the largest weight is that of the largest logit, 2^32 */
        double least = (double) p->min_p * 0x1p32;

        least = least < 0x1p32 ? least : 0x1p32;
        for (uint32_t i = 0; i < n; i++) {
            if ((double) c[i].w >= least) {
                c[kept++] = c[i];
            }
        }
        n = kept;
    }

    return n;
}

/* Where in 0 .. total - 1 the draw falls. */
static uint64_t
sample_target(const infer_sampler_t *s, uint64_t total)
{
    uint32_t ctr[4] = { s->n_out, s->choice, INFER_SAMPLE_DRAW, 0 };
    uint32_t key[2] = { (uint32_t) s->params.seed,
                        (uint32_t) (s->params.seed >> 32) };
    uint32_t word[4];
    uint64_t r;

    infer_philox(ctr, key, word);
    r = (uint64_t) word[1] << 32 | word[0];
    return (uint64_t) ((unsigned __int128) r * total >> 64);
}

static int32_t
sample_draw(const infer_sampler_t *s, const sample_cand_t *c, uint32_t n)
{
    uint64_t target = sample_target(s, sample_total(c, n)), sum = 0;
    uint32_t i;

    for (i = 0; i + 1 < n; i++) {
        sum += c[i].w;
        if (sum > target) {
            break;
        }
    }

    return (int32_t) c[i].id;
}

/* e <= 1: the product is exact, the cast is the floor */
static uint64_t
sample_weight(float e)
{
    return (uint64_t) (int64_t) (e * 0x1p32f);
}

static uint64_t
sample_row_total(const float *e, uint32_t n)
{
    uint64_t sum = 0;

    for (uint32_t i = 0; i < n; i++) {
        sum += sample_weight(e[i]);
    }

    return sum;
}

/* With nothing to filter: from the exponentials of the row. */
static int32_t
sample_draw_row(const infer_sampler_t *s, const float *e)
{
    uint64_t target = sample_target(s, sample_row_total(e, s->vocab));
    uint64_t sum = 0;
    uint32_t i;

    for (i = 0; i + 1 < s->vocab; i++) {
        sum += sample_weight(e[i]);
        if (sum > target) {
            break;
        }
    }

    return (int32_t) i;
}

static void
sample_scale(float *l, uint32_t n, float scale)
{
    uint32_t i;

    for (i = 0; i + 4 <= n; i += 4) {
        sample_v4_t v;

        memcpy(&v, l + i, sizeof(v));
        v *= scale;
        memcpy(l + i, &v, sizeof(v));
    }
    for ( ; i < n; i++) {
        l[i] *= scale;
    }
}

/* The tokens with a logit of at least least, in id order; their logits go
 * to x. Few pass, so four at a time are passed over. */
static uint32_t
sample_gather(const float *l, uint32_t vocab, float least, sample_cand_t *c,
    float *x)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < vocab; i += 4) {
        uint32_t end = vocab - i < 4 ? vocab : i + 4;

        if (end == i + 4) {
            sample_v4_t v;
            sample_m4_t m;

            memcpy(&v, l + i, sizeof(v));
            m = v >= least;
            if ((m[0] | m[1] | m[2] | m[3]) == 0) {
                continue;
            }
        }
        for (uint32_t k = i; k < end; k++) {
            if (l[k] >= least) {
                c[n].id = k;
                c[n].key = sample_key(l[k]);
                x[n++] = l[k];
            }
        }
    }

    return n;
}

/*
 * What the filters are applied to: the tokens within some distance of the
 * largest logit, chosen so that no filter can reach further down; at 23
 * everything that has a weight is in. *need: for top_p without top_k, the
 * weight that it keeps.
 */
static uint32_t
sample_candidates(const infer_sampler_t *s, const kern_ops_t *ops,
    const float *l, float max, float *e, sample_cand_t *c, double *need)
{
    static const float      depth[] = { 1.5, 5, 11, 23 };
    const infer_sampling_t *p = &s->params;
    uint32_t                top_k = p->top_k > 0 ? (uint32_t) p->top_k : 0;
    uint32_t                n;

    *need = 0;
    if (top_k == 0 && p->top_p < 1) {
        ops->exp_row(e, l, max, s->vocab);
        *need = (double) p->top_p
                * (double) sample_row_total(e, s->vocab);
    }

    for (int i = 0; ; i++) {
        int enough;

        n = sample_gather(l, s->vocab, max - depth[i], c, e);
        ops->exp_row(e, e, max, n);
        for (uint32_t k = 0; k < n; k++) {
            c[k].w = sample_weight(e[k]);
        }

        if (top_k != 0) {
            enough = n >= top_k;

        } else if (p->top_p < 1) {
            enough = (double) sample_total(c, n) >= *need;

        } else {
            enough = depth[i] > 0.1 - log((double) p->min_p);
        }
        if (enough || depth[i] == 23) {
            return n;
        }
    }
}

/* best: the largest logit, its token. */
static int32_t
sample_random(const infer_sampler_t *s, const kern_ops_t *ops, float *l,
    int32_t best, float *e, sample_cand_t *c)
{
    const infer_sampling_t *p = &s->params;
    float                   scale = 1 / p->temperature;
    float                   max = l[best] * scale;
    double                  need;
    uint32_t                n;

    /* so cold that nothing but the largest has weight */
    if (!isfinite(scale) || !isfinite(max)) {
        return best;
    }
    if (scale != 1) {
        sample_scale(l, s->vocab, scale);
    }

    if (p->top_k <= 0 && p->top_p >= 1 && p->min_p <= 0) {
        ops->exp_row(e, l, max, s->vocab);
        return sample_draw_row(s, e);
    }

    n = sample_candidates(s, ops, l, max, e, c, &need);
    return sample_draw(s, c, sample_filter(p, c, n, need));
}

int
infer_sample(const infer_sampler_t *s, const kern_ops_t *ops, float *logits,
    void *scratch, infer_sampled_t *out)
{
    const infer_sampling_t *p = &s->params;
    sample_cand_t          *cand = sample_align(scratch);
    float                  *e = sample_align(cand + s->vocab);
    float                  *raw = sample_align(e + s->vocab);
    int                     want = p->logprobs || p->top_logprobs != 0;
    int32_t                 best = ops->argmax(logits, s->vocab);
    double                  lse = 0;

    if (best < 0 || !isfinite(logits[best])
        || sample_has_nan(logits, s->vocab))
    {
        return INFER_DEVICE;
    }

    if (want) {
        lse = sample_log_sum(ops, logits, e, logits[best], s->vocab);
        sample_top(logits, s->vocab, p->top_logprobs, lse, out->top);
        memcpy(raw, logits, s->vocab * sizeof(float));
    }

    if (infer_sampler_edits(s) != 0) {
        sample_edit(s, logits);
        best = ops->argmax(logits, s->vocab);
        if (best < 0) {
            return INFER_INVALID;
        }
    }

    out->id = p->temperature > 0
              ? sample_random(s, ops, logits, best, e, cand) : best;
    out->logprob = want ? (float) ((double) raw[out->id] - lse) : 0;
    return INFER_OK;
}
