/*
 * test_sample.c: the sampler against a slow definition written apart from
 * it (sort everything, no hash, no thresholds), on every backend that this
 * machine has; Philox vectors; frequencies of draws; replay.
 *
 * SEED=n chooses the random rows.
 */

#include <math.h>
#include <pthread.h>
#include <string.h>

#include "run/sample.h"
#include "tap.h"

#define MAX_V  5000

typedef struct {
    infer_sampling_t  p;
    uint32_t          choice, vocab;
    infer_bias_t      bias[8];
    int32_t           stop[4], eog[2], prompt[32], output[64];
    uint32_t          n_bias, n_stop, n_eog, n_prompt, n_out;
} case_t;

static uint64_t
rnd(uint64_t *s)
{
    *s ^= *s << 13;
    *s ^= *s >> 7;
    *s ^= *s << 17;
    return *s;
}

static double
unit(uint64_t *s)
{
    return (double) (rnd(s) >> 11) * 0x1p-53;
}

static infer_sampling_t
plain(void)
{
    return (infer_sampling_t) { .temperature = 1, .top_p = 1,
                                .repetition_penalty = 1, .max_tokens = 64 };
}


/* The definition: logits -> token, word by word. */

typedef struct {
    float     l;
    uint64_t  w;
    uint32_t  id;
} def_t;

static int
def_by_logit(const void *a, const void *b)
{
    const def_t *x = a, *y = b;

    if (x->l != y->l) {
        return x->l > y->l ? -1 : 1;
    }
    return x->id < y->id ? -1 : 1;
}

static int
def_by_id(const void *a, const void *b)
{
    return ((const def_t *) a)->id < ((const def_t *) b)->id ? -1 : 1;
}

static void
def_edit(const case_t *k, float *l)
{
    for (uint32_t i = 0; i < k->n_bias; i++) {
        l[k->bias[i].id] += k->bias[i].bias;
    }
    if (k->n_out < k->p.min_tokens) {
        for (uint32_t i = 0; i < k->n_stop; i++) {
            l[k->stop[i]] = -INFINITY;
        }
        for (uint32_t i = 0; i < k->n_eog; i++) {
            l[k->eog[i]] = -INFINITY;
        }
    }
    for (uint32_t id = 0; id < k->vocab; id++) {
        uint32_t count = 0, in_prompt = 0;

        for (uint32_t i = 0; i < k->n_prompt; i++) {
            in_prompt |= k->prompt[i] == (int32_t) id;
        }
        for (uint32_t i = 0; i < k->n_out; i++) {
            count += k->output[i] == (int32_t) id;
        }
        if (count != 0 || in_prompt) {
            float r = k->p.repetition_penalty;

            l[id] = l[id] > 0 ? l[id] / r : l[id] * r;
        }
        if (count != 0) {
            l[id] -= k->p.presence_penalty
                     + k->p.frequency_penalty * (float) count;
        }
    }
}

static int32_t
def_sample(const case_t *k, float *l)
{
    static def_t d[MAX_V];
    uint32_t     n = k->vocab, keep;
    uint64_t     total = 0, sum = 0, r;
    double       cum = 0;
    float        max;

    def_edit(k, l);
    for (uint32_t i = 0; i < n; i++) {
        d[i] = (def_t) { .l = l[i], .id = i };
    }
    qsort(d, n, sizeof(d[0]), def_by_logit);
    if (k->p.temperature == 0) {
        return (int32_t) d[0].id;
    }

    for (uint32_t i = 0; i < n; i++) {
        d[i].l *= 1 / k->p.temperature;
    }
    max = d[0].l;
    for (uint32_t i = 0; i < n; i++) {
        d[i].w = (uint64_t) floor((double) kern_exp(d[i].l - max)
                                  * 4294967296.0);
    }
    if (k->p.top_k > 0 && (uint32_t) k->p.top_k < n) {
        n = (uint32_t) k->p.top_k;
    }
    if (k->p.top_p < 1) {
        for (uint32_t i = 0; i < n; i++) {
            total += d[i].w;
        }
        for (keep = 0; keep < n; keep++) {
            if (keep > 0 && cum >= (double) k->p.top_p * (double) total) {
                break;
            }
            cum += (double) d[keep].w;
        }
        n = keep;
    }
    if (k->p.min_p > 0) {
        for (keep = 0; keep < n && (double) d[keep].w
             >= (double) k->p.min_p * (double) d[0].w; keep++)
        {
            /* void */
        }
        n = keep;
    }

    total = 0;
    for (uint32_t i = 0; i < n; i++) {
        total += d[i].w;
    }
    qsort(d, n, sizeof(d[0]), def_by_id);

    uint32_t ctr[4] = { k->n_out, k->choice, 0, 0 }, word[4];
    uint32_t key[2] = { (uint32_t) k->p.seed, (uint32_t) (k->p.seed >> 32) };

    infer_philox(ctr, key, word);
    r = word[0] + ((uint64_t) word[1] << 32);
    r = (uint64_t) (((unsigned __int128) r * total) >> 64);
    for (uint32_t i = 0; ; i++) {
        sum += d[i].w;
        if (sum > r) {
            return (int32_t) d[i].id;
        }
    }
}


static infer_sampler_t *
make(const case_t *k)
{
    infer_sampler_t *s;

    if (infer_sampler_new(&s, &k->p, k->choice, k->vocab, k->bias, k->n_bias,
                          k->stop, k->n_stop, k->eog, k->n_eog, k->prompt,
                          k->n_prompt) != INFER_OK)
    {
        abort();
    }
    for (uint32_t i = 0; i < k->n_out; i++) {
        infer_sampler_accept(s, k->output[i]);
    }

    return s;
}

static void
random_case(case_t *k, float *l, uint64_t *s)
{
    uint32_t shape = (uint32_t) (rnd(s) % 5);

    memset(k, 0, sizeof(*k));
    k->p = plain();
    k->vocab = 1 + (uint32_t) (rnd(s) % (rnd(s) % 4 ? 300 : MAX_V));
    k->p.seed = rnd(s);
    k->choice = (uint32_t) (rnd(s) % 3);
    k->p.temperature = rnd(s) % 5 == 0 ? 0 : rnd(s) % 4 == 0 ? 1
                       : (float) (0.05 + 3 * unit(s));
    k->p.top_k = rnd(s) % 2 ? 0 : (int32_t) (rnd(s) % (k->vocab + 2));
    k->p.top_p = rnd(s) % 2 ? 1 : rnd(s) % 9 ? (float) unit(s) : 0;
    k->p.min_p = rnd(s) % 3 ? 0 : rnd(s) % 9 == 0 ? 1
                 : (float) pow(10, -4 * unit(s));
    k->p.min_tokens = (uint32_t) (rnd(s) % 40);
    if (rnd(s) % 2) {
        k->p.repetition_penalty = (float) (0.5 + unit(s));
        k->p.presence_penalty = (float) (4 * unit(s) - 2);
        k->p.frequency_penalty = rnd(s) % 2 ? (float) (4 * unit(s) - 2) : 0;
    }
    for (k->n_bias = 0; k->n_bias < rnd(s) % 8; k->n_bias++) {
        k->bias[k->n_bias].id = (int32_t) (rnd(s) % k->vocab);
        k->bias[k->n_bias].bias = (float) (200 * unit(s) - 100);
    }
    if (k->vocab > 8) {
        for (k->n_stop = 0; k->n_stop < rnd(s) % 4; k->n_stop++) {
            k->stop[k->n_stop] = (int32_t) (rnd(s) % k->vocab);
        }
        k->n_eog = 1;
        k->eog[0] = (int32_t) (rnd(s) % k->vocab);
    }
    for (k->n_prompt = 0; k->n_prompt < rnd(s) % 32; k->n_prompt++) {
        k->prompt[k->n_prompt] = (int32_t) (rnd(s) % k->vocab);
    }
    for (k->n_out = 0; k->n_out < rnd(s) % 64; k->n_out++) {
        k->output[k->n_out] = (int32_t) (rnd(s) % k->vocab
                                         % (rnd(s) % 2 ? 5 : MAX_V));
    }

    for (uint32_t i = 0; i < k->vocab; i++) {
        double x = unit(s) + unit(s) + unit(s) + unit(s) - 2;

        /* wide, narrow, many ties, all equal, many -inf */
        l[i] = (float) (shape == 0 ? 12 * x : shape == 1 ? x
                        : shape == 2 ? floor(4 * x) : shape == 3 ? 1.5
                        : rnd(s) % 3 ? 5 * x : i ? -INFINITY : 0);
        if (shape == 3 && k->vocab % 2) {
            l[i] = 0;                /* equal all the same, of both signs */
        }
        if (l[i] == 0 && rnd(s) % 2) {
            l[i] = -0.0f;
        }
    }
}

static void
against_definition(const kern_ops_t *ops, uint64_t seed)
{
    static float row[MAX_V], a[MAX_V], b[MAX_V];
    void        *scratch = malloc(infer_sample_scratch(MAX_V));
    int          bad = 0, greedy = 0;

    for (int i = 0; i < 3000; i++) {
        case_t           k;
        infer_sampler_t *s;
        infer_sampled_t  out;
        int              rc;
        int32_t          want;

        random_case(&k, row, &seed);
        memcpy(a, row, sizeof(row));
        memcpy(b, row, sizeof(row));
        s = make(&k);
        rc = infer_sample(s, ops, a, scratch, &out);
        want = def_sample(&k, b);
        greedy += k.p.temperature == 0;
        if (rc == INFER_INVALID && isinf(b[want])) {
            want = out.id = -1;          /* every token is out */
            rc = INFER_OK;
        }
        if (rc != INFER_OK || out.id != want) {
            bad++;
            diag("case %d: %d, token %d, want %d (T %g k %d p %g m %g)", i,
                 rc, out.id, want, (double) k.p.temperature, k.p.top_k,
                 (double) k.p.top_p, (double) k.p.min_p);
        }
        infer_sampler_free(s);
    }
    free(scratch);
    ok(bad == 0, "%s: 3000 rows, %d greedy, as the definition; %d differ",
       ops->name, greedy, bad);
}


static void
philox(void)
{
    static const uint32_t in[3][6] = {
        { 0, 0, 0, 0, 0, 0 },
        { 0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff,
          0xffffffff },
        { 0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344, 0xa4093822,
          0x299f31d0 }
    };
    static const uint32_t out[3][4] = {
        { 0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8 },
        { 0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd },
        { 0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1 }
    };

    for (int i = 0; i < 3; i++) {
        uint32_t w[4];

        infer_philox(in[i], in[i] + 4, w);
        ok(memcmp(w, out[i], sizeof(w)) == 0, "Philox vector %d", i);
    }
}

/* Frequencies of 40,000 draws against the distribution. */
static void
frequencies(const kern_ops_t *ops)
{
    static const float row[8] = { 0, 1, 2, -1, 0.5f, 1, -3, 1.5f };
    char             scratch[1024];
    infer_sampling_t p = plain();
    infer_sampler_t *s;
    double           w[8], sum = 0, chi = 0;
    int              n = 40000, hits[8] = { 0 };

    p.seed = 42;
    if (infer_sampler_new(&s, &p, 0, 8, NULL, 0, NULL, 0, NULL, 0, NULL, 0)
        != INFER_OK || infer_sample_scratch(8) > sizeof(scratch))
    {
        ok(0, "a small sampler");
        return;
    }
    for (int i = 0; i < n; i++) {
        float           l[8];
        infer_sampled_t out;

        memcpy(l, row, sizeof(l));
        if (infer_sample(s, ops, l, scratch, &out) == INFER_OK) {
            hits[out.id]++;
            infer_sampler_accept(s, out.id);
        }
    }
    infer_sampler_free(s);

    for (int i = 0; i < 8; i++) {
        sum += w[i] = exp(row[i]);
    }
    for (int i = 0; i < 8; i++) {
        double e = n * w[i] / sum;

        chi += (hits[i] - e) * (hits[i] - e) / e;
    }
    ok(chi < 24.3, "chi-square of %d draws is %.1f (7 degrees, 0.1 %%)", n,
       chi);
}

static void
logprobs(const kern_ops_t *ops)
{
    float            l[5] = { 1, 3, -INFINITY, 3, 2 }, x[5];
    char             scratch[1024];
    infer_sampling_t p = plain();
    infer_bias_t     bias = { 4, 50 };
    infer_sampler_t *s;
    infer_sampled_t  out;
    double           lse = log(exp(1) + 2 * exp(3) + exp(2));
    int              rc;

    p.logprobs = 1;
    p.top_logprobs = 7;
    p.temperature = 0;
    if (infer_sampler_new(&s, &p, 0, 5, &bias, 1, NULL, 0, NULL, 0, NULL, 0)
        != INFER_OK)
    {
        ok(0, "a sampler with logprobs");
        return;
    }
    memcpy(x, l, sizeof(l));
    rc = infer_sample(s, ops, x, scratch, &out);
    ok(rc == INFER_OK && out.id == 4
       && fabs((double) out.logprob - (2 - lse)) < 1e-6,
       "the logprob is of the raw logits, not of the bias");
    ok(out.top[0].id == 1 && out.top[1].id == 3 && out.top[2].id == 4
       && out.top[3].id == 0 && out.top[4].id == 2 && out.top[5].id == -1
       && out.top[6].id == -1
       && fabs((double) out.top[0].logprob - (3 - lse)) < 1e-6
       && isinf(out.top[4].logprob), "top_logprobs: order, ties, filling");
    infer_sampler_free(s);

    p.top_logprobs = 1;
    p.logprobs = 0;
    if (infer_sampler_new(&s, &p, 0, 5, NULL, 0, NULL, 0, NULL, 0, NULL, 0)
        == INFER_OK)
    {
        memcpy(x, l, sizeof(l));
        ok(infer_sample(s, ops, x, scratch, &out) == INFER_OK && out.id == 1
           && out.top[0].id == 1 && out.top[0].logprob == out.logprob,
           "of two equal ones the lower id");
        infer_sampler_free(s);
    }
}

/* Rows that no token comes of, and parameters at the edge of floats. */
static void
edges(const kern_ops_t *ops)
{
    static const struct {
        float        l[5], temperature, rep, freq;
        infer_bias_t bias;
        int          rc;
        int32_t      id;
        const char  *what;
    } t[] = {
        { { 1, NAN, 3, 0, 0 }, 0, 1, 0, { 9, 0 }, INFER_DEVICE, 0, "NaN" },
        { { 1, 2, 3, 0, NAN }, 1, 1, 0, { 9, 0 }, INFER_DEVICE, 0,
          "NaN at the end" },
        { { 1, INFINITY, 3, 0, 0 }, 1, 1, 0, { 9, 0 }, INFER_DEVICE, 0,
          "+inf" },
        { { -INFINITY, -INFINITY, -INFINITY, -INFINITY, -INFINITY }, 1, 1, 0,
          { 9, 0 }, INFER_DEVICE, 0, "nothing but -inf" },
        { { -INFINITY, -INFINITY, 7, -INFINITY, -INFINITY }, 1, 1, 0,
          { 9, 0 }, INFER_OK, 2, "one token" },
        { { -INFINITY, -INFINITY, 7, -INFINITY, -INFINITY }, 1, 1, 0,
          { 2, -INFINITY }, INFER_INVALID, 0, "the one token is out" },
        { { 1, 2, 3, 4, 5 }, 1, 1, 0, { 0, INFINITY }, INFER_OK, 0,
          "a bias of +inf" },
        { { 1, 2, 3, 5, 4 }, 1e-38f, 1, 0, { 9, 0 }, INFER_OK, 3,
          "a temperature of 1e-38" },
        { { 1, 2, 3, 5, 4 }, 1e-45f, 1, 0, { 9, 0 }, INFER_OK, 3,
          "a denormal temperature" },
        { { -1, -2, -3, -5, -4 }, 1e-38f, 1, 0, { 9, 0 }, INFER_OK, 0,
          "the same below 0" },
        { { 1, 2, 3, 5, 4 }, 0, 1e-38f, 0, { 9, 0 }, INFER_OK, 1,
          "a penalty that overflows" },
        { { 1, 2, 3, 5, 4 }, 1, 1, -3e38f, { 9, 0 }, INFER_OK, 1,
          "a frequency that overflows" },
        { { 0x1p-140f, 0x1p-141f, -1, -1, -1 }, 0, 1, 0, { 9, 0 }, INFER_OK,
          0, "denormal logits" }
    };
    char scratch[1024];

    for (size_t i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
        infer_sampling_t p = plain();
        infer_sampler_t *s;
        infer_sampled_t  out = { .id = -5 };
        float            l[5];
        int              rc;

        p.temperature = t[i].temperature;
        p.repetition_penalty = t[i].rep;
        p.frequency_penalty = t[i].freq;
        if (infer_sampler_new(&s, &p, 0, 5, &t[i].bias, 1, NULL, 0, NULL, 0,
                              NULL, 0) != INFER_OK)
        {
            ok(0, "%s", t[i].what);
            continue;
        }
        infer_sampler_accept(s, 1);
        infer_sampler_accept(s, 1);
        infer_sampler_accept(s, 1 << 30);
        memcpy(l, t[i].l, sizeof(l));
        rc = infer_sample(s, ops, l, scratch, &out);
        ok(rc == t[i].rc && (rc != INFER_OK || out.id == t[i].id),
           "%s: %d, token %d", t[i].what, rc, out.id);
        infer_sampler_free(s);
    }
}

/* A sequence sampled in one go, and one whose sampler is thrown away and
 * rebuilt from the ids at every step, give the same tokens. */
static void
replay(const kern_ops_t *ops, uint64_t seed)
{
    static float     l[300], x[300];
    char            *scratch = malloc(infer_sample_scratch(300));
    case_t           k;
    infer_sampler_t *s, *t;
    infer_sampled_t  a, b;
    int              same = 0, differs = 0;

    memset(&k, 0, sizeof(k));
    k.p = plain();
    k.p.temperature = 1.5f;
    k.p.seed = seed;
    k.p.repetition_penalty = 1.3f;
    k.p.frequency_penalty = 0.5f;
    k.vocab = 300;
    s = make(&k);
    for (k.n_out = 0; k.n_out < 64; k.n_out++) {
        for (int i = 0; i < 300; i++) {
            l[i] = (float) (4 * unit(&seed));
        }
        memcpy(x, l, sizeof(l));
        (void) infer_sample(s, ops, x, scratch, &a);
        t = make(&k);
        memcpy(x, l, sizeof(l));
        (void) infer_sample(t, ops, x, scratch, &b);
        infer_sampler_free(t);
        same += a.id == b.id;

        k.choice = 1;
        t = make(&k);
        k.choice = 0;
        memcpy(x, l, sizeof(l));
        (void) infer_sample(t, ops, x, scratch, &b);
        infer_sampler_free(t);
        differs += a.id != b.id;

        infer_sampler_accept(s, a.id);
        k.output[k.n_out] = a.id;
    }
    infer_sampler_free(s);
    free(scratch);
    ok(same == 64, "a rebuilt sampler goes on as the old one (%d of 64)",
       same);
    ok(differs > 40, "another choice draws other tokens (%d of 64)", differs);
}

typedef struct {
    const kern_ops_t *ops;
    uint64_t          sum;
} thread_arg_t;

static void *
thread_main(void *p)
{
    thread_arg_t    *a = p;
    char            *scratch = malloc(infer_sample_scratch(300));
    infer_sampling_t sp = plain();
    infer_sampler_t *s;
    float            l[300];

    sp.seed = 7;
    sp.presence_penalty = 1;
    if (infer_sampler_new(&s, &sp, 0, 300, NULL, 0, NULL, 0, NULL, 0, NULL,
                          0) == INFER_OK)
    {
        for (int i = 0; i < 64; i++) {
            infer_sampled_t out = { .id = 0 };

            for (int k = 0; k < 300; k++) {
                l[k] = (float) (k * 37 % 101) / 30;
            }
            (void) infer_sample(s, a->ops, l, scratch, &out);
            infer_sampler_accept(s, out.id);
            a->sum = a->sum * 31 + (uint32_t) out.id;
        }
        infer_sampler_free(s);
    }
    free(scratch);
    return NULL;
}

static void
threads(const kern_ops_t *ops)
{
    thread_arg_t a[2] = { { ops, 0 }, { ops, 0 } };
    pthread_t    id[2];

    for (int i = 0; i < 2; i++) {
        if (pthread_create(&id[i], NULL, thread_main, &a[i]) != 0) {
            abort();
        }
    }
    for (int i = 0; i < 2; i++) {
        pthread_join(id[i], NULL);
    }
    ok(a[0].sum == a[1].sum && a[0].sum != 0, "two threads, same tokens");
}

static void
refusals(void)
{
    infer_sampling_t p = plain();
    infer_sampler_t *s;

    ok(infer_sampler_new(&s, &p, 0, 0, NULL, 0, NULL, 0, NULL, 0, NULL, 0)
       == INFER_INVALID && s == NULL, "no vocabulary");
    p.top_logprobs = INFER_MAX_TOP_LOGPROBS + 1;
    ok(infer_sampler_new(&s, &p, 0, 5, NULL, 0, NULL, 0, NULL, 0, NULL, 0)
       == INFER_INVALID && s == NULL, "too many top_logprobs");
    infer_sampler_free(NULL);
}


int
main(void)
{
    static const char *const isa[] = { "ref", "avx2", "avx512" };
    const char       *env = getenv("SEED");
    uint64_t          seed = env != NULL ? strtoull(env, NULL, 10) : 88172645;
    const kern_ops_t *ops = NULL;
    infer_err_t       err;

    diag("SEED=%llu", (unsigned long long) seed);
    philox();
    for (size_t i = 0; i < sizeof(isa) / sizeof(isa[0]); i++) {
        const kern_ops_t *o = kern_init("cpu", isa[i], &err);

        if (o == NULL) {
            ok(1, "%s # SKIP %s", isa[i], err.text);
            continue;
        }
        ops = o;
        against_definition(o, seed | 1);
        edges(o);
    }
    frequencies(ops);
    logprobs(ops);
    replay(ops, seed | 1);
    threads(ops);
    refusals();
    return tap_done();
}
