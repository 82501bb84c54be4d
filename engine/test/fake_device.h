/*
 * fake_device.h: a device for tests of the loop: a backend of depth 1 that
 * leaves sampling to the host, or of depth 2 that samples. Its model is a
 * hash: the logits of a position follow from all tokens up to it, as they
 * stand in its pages, so a wrong page, position or token gives other tokens.
 * Work is done when it is submitted, when it is waited for, or now so, now so.
 *
 * The sampler is rebuilt from what sample() is given and run by
 * infer_sample(), so a wrong edit or count shows as well.
 */

#ifndef INFER_FAKE_DEVICE_H
#define INFER_FAKE_DEVICE_H

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kern.h"
#include "run/sample.h"

#define FAKE_EOS       2           /* of the tiny vocabulary */
#define FAKE_MAX_SEQS  16
#define FAKE_EDITS     4096        /* of a step */

enum { FAKE_EAGER = 0, FAKE_LAZY, FAKE_MIXED };

/* What tests choose and count. */
typedef struct {
    int       when;                /* FAKE_* */
    uint32_t  fail_step;           /* this one fails, from 1; 0: none */
    int       lose;                /* results cannot be had any more */
    uint32_t  by_host;             /* rows of logits that were asked for */
    uint32_t  steps, ahead, bad;   /* done; rows that name an output; reads of
                                    * what nobody wrote */
    uint32_t  most;                /* steps in flight at once */
} fake_conf_t;

static fake_conf_t  fake;

typedef struct {
    uint32_t          n_rows, n_seqs, n_outs, n_samples;
    int32_t          *token;
    kern_seq_t        seq[FAKE_MAX_SEQS];
    uint32_t         *pages;       /* [FAKE_MAX_SEQS, seq_pages] */
    uint32_t          out_row[FAKE_MAX_SEQS];
    kern_sample_t     sample[FAKE_MAX_SEQS];
    infer_sampling_t  params[FAKE_MAX_SEQS];
    kern_edit_t       edit[FAKE_EDITS];
    kern_sampled_t    sampled[FAKE_MAX_SEQS];
    float            *logits;      /* [FAKE_MAX_SEQS, vocab] */
    uint32_t         *zero;        /* pages to be zeroed before it */
    uint32_t          n_zero;
    int               done;
} fake_step_t;

struct kern_ctx_s {
    const kern_ops_t  *ops;
    kern_shape_t       shape;
    uint32_t           seq_pages;
    int32_t           *page;       /* [n_pages, KERN_PAGE_TOKENS], id + 1 */
    fake_step_t        step[2];
    int32_t            last[FAKE_MAX_SEQS];    /* sampled by the last step */
    uint32_t           n_last;
    uint32_t           n_begun, n_submitted, n_waited;
    uint32_t           seed;
    int                broken;
};


static int
fake_open(kern_ctx_t **ctx, const kern_ops_t *ops, const kern_shape_t *shape,
    infer_err_t *err)
{
    kern_ctx_t  *c = calloc(1, sizeof(*c));

    (void) err;
    c->ops = ops;
    c->shape = *shape;
    c->seq_pages = shape->context / KERN_PAGE_TOKENS + 1;
    c->page = calloc((size_t) shape->n_pages * KERN_PAGE_TOKENS,
                     sizeof(c->page[0]));
    for (uint32_t i = 0; i < 2; i++) {
        c->step[i].token = calloc(shape->max_rows, sizeof(int32_t));
        c->step[i].pages = calloc((size_t) FAKE_MAX_SEQS * c->seq_pages,
                                  sizeof(uint32_t));
        c->step[i].logits = calloc((size_t) FAKE_MAX_SEQS * shape->vocab,
                                   sizeof(float));
        c->step[i].zero = calloc(shape->n_pages, sizeof(uint32_t));
    }
    *ctx = c;

    return INFER_OK;
}

static void
fake_close(kern_ctx_t *c)
{
    for (uint32_t i = 0; i < 2; i++) {
        free(c->step[i].token);
        free(c->step[i].pages);
        free(c->step[i].logits);
        free(c->step[i].zero);
    }
    free(c->page);
    free(c);
}

static int
fake_pack(kern_ctx_t *c, kern_weight_t **w, const kern_src_t *src,
    infer_err_t *err)
{
    (void) src;
    (void) err;
    *w = (kern_weight_t *) c;      /* anything: nobody reads it */

    return INFER_OK;
}

static void
fake_weight_free(kern_ctx_t *c, kern_weight_t *w)
{
    (void) c;
    (void) w;
}

static fake_step_t *
fake_begun(kern_ctx_t *c)
{
    return &c->step[c->n_submitted % c->ops->depth];
}

static int
fake_begin(kern_ctx_t *c, const kern_batch_t *b)
{
    fake_step_t  *s = fake_begun(c);

    infer_assert(c->n_submitted - c->n_waited < c->ops->depth);
    infer_assert(b->n_seqs <= FAKE_MAX_SEQS && b->n_outs <= FAKE_MAX_SEQS
                 && b->n_rows <= c->shape.max_rows);
    s->n_rows = b->n_rows;
    s->n_seqs = b->n_seqs;
    s->n_outs = b->n_outs;
    s->n_samples = 0;
    s->done = 0;
    memcpy(s->token, b->token, b->n_rows * sizeof(s->token[0]));
    memcpy(s->out_row, b->out_row, b->n_outs * sizeof(s->out_row[0]));

    for (uint32_t i = 0; i < b->n_seqs; i++) {
        uint32_t  last = b->seq[i].pos0 + b->seq[i].n_rows - 1;

        infer_assert(last < c->shape.context);
        s->seq[i] = b->seq[i];
        s->seq[i].pages = s->pages + i * c->seq_pages;
        memcpy(s->pages + i * c->seq_pages, b->seq[i].pages,
               (last / KERN_PAGE_TOKENS + 1) * sizeof(s->pages[0]));
    }

    return INFER_OK;
}

static int
fake_embed(kern_ctx_t *c, const kern_weight_t *w)
{
    (void) c;
    (void) w;

    return INFER_OK;
}

static int
fake_layer(kern_ctx_t *c, uint32_t layer, const kern_layer_t *w)
{
    (void) c;
    (void) layer;
    (void) w;

    return INFER_OK;
}

static int
fake_head(kern_ctx_t *c, const float *norm, const kern_weight_t *w)
{
    (void) c;
    (void) norm;
    (void) w;

    return INFER_OK;
}

static int
fake_sample(kern_ctx_t *c, const kern_sample_t *k, uint32_t n)
{
    uint32_t      at = 0;
    fake_step_t  *s = fake_begun(c);

    for (uint32_t i = 0; i < n; i++) {
        uint32_t  edits = k[i].n_bias + k[i].n_ban + k[i].n_seen;

        infer_assert(k[i].out < s->n_outs && at + edits <= FAKE_EDITS);
        s->sample[i] = k[i];
        s->params[i] = *k[i].params;
        if (edits != 0) {
            memcpy(s->edit + at, k[i].edit, edits * sizeof(s->edit[0]));
        }
        s->sample[i].params = &s->params[i];
        s->sample[i].edit = s->edit + at;
        at += edits;
    }
    s->n_samples = n;

    return INFER_OK;
}

static uint64_t
fake_mix(uint64_t h)
{
    h ^= h >> 31;
    h *= 0x7fb5d329728ea185ull;
    h ^= h >> 27;
    h *= 0x81dadef4bc2dd44dull;

    return h ^ h >> 33;
}

/* The logits of a context: letters, now and then the end, seldom a NaN. */
static void
fake_logits(float *l, uint32_t vocab, uint64_t h)
{
    for (uint32_t i = 0; i < vocab; i++) {
        l[i] = (float) (fake_mix(h + i) % 1000) * 0.01f
               - (i < 3 + 'a' || i >= 3 + 'z' ? 9 : 0);
    }
    if (h % 50 == 7) {
        l[FAKE_EOS] = 20;
    }
    if (h % 250 == 3) {
        l[h % vocab] = NAN;
    }
}

/* Rows into pages; the hash of what lies up to the last. */
static uint64_t
fake_run_seq(kern_ctx_t *c, fake_step_t *s, const kern_seq_t *q)
{
    uint64_t  h = 1;

    for (uint32_t i = 0; i < q->n_rows; i++) {
        uint32_t  pos = q->pos0 + i;
        int32_t   id = s->token[q->first_row + i];

        if (id < 0) {
            fake.ahead++;
            infer_assert((uint32_t) (-1 - id) < c->n_last);
            id = c->last[-1 - id];
        }
        c->page[q->pages[pos / KERN_PAGE_TOKENS] * KERN_PAGE_TOKENS
                + pos % KERN_PAGE_TOKENS] = id + 1;
    }
    for (uint32_t pos = 0; pos < q->pos0 + q->n_rows; pos++) {
        int32_t  id = c->page[q->pages[pos / KERN_PAGE_TOKENS]
                              * KERN_PAGE_TOKENS + pos % KERN_PAGE_TOKENS];

        fake.bad += id == 0;
        h = fake_mix(h * 31 + (uint64_t) (id + 7));
    }

    return h;
}

/* A sampler with the same state, from what the device is told. */
static void
fake_draw(const kern_ctx_t *c, const kern_sample_t *k, const float *logits,
    kern_sampled_t *to)
{
    int32_t          ban[INFER_MAX_STOP_IDS + INFER_MAX_EOG];
    int32_t         *seen = calloc(k->n_seen + 1, sizeof(int32_t));
    float           *l = malloc(c->shape.vocab * sizeof(float));
    void            *scratch = malloc(infer_sample_scratch(c->shape.vocab));
    uint32_t         said = 0;
    infer_bias_t     bias[64];
    infer_sampled_t  out;
    infer_sampler_t *s;

    infer_assert(k->n_bias <= 64);
    for (uint32_t i = 0; i < k->n_bias; i++) {
        bias[i] = (infer_bias_t) { k->edit[i].id, k->edit[i].value };
    }
    for (uint32_t i = 0; i < k->n_ban; i++) {
        ban[i] = k->edit[k->n_bias + i].id;
    }
    for (uint32_t i = 0; i < k->n_seen; i++) {
        seen[i] = k->edit[k->n_bias + k->n_ban + i].id;
    }
    (void) infer_sampler_new(&s, k->params, k->choice, c->shape.vocab, bias,
                             k->n_bias, ban, k->n_ban, NULL, 0, seen,
                             k->n_seen);
    for (uint32_t i = 0; i < k->n_seen; i++) {
        for (float n = k->edit[k->n_bias + k->n_ban + i].value; n > 0; n--) {
            infer_sampler_accept(s, seen[i]);
            said++;
        }
    }
    while (said < k->n_out) {
        infer_sampler_accept(s, -1);
        said++;
    }

    memcpy(l, logits, c->shape.vocab * sizeof(float));
    to->rc = infer_sample(s, c->ops, l, scratch, &out);
    to->id = to->rc == INFER_OK ? out.id : 0;
    to->logprob = out.logprob;
    memcpy(to->top, out.top, k->params->top_logprobs * sizeof(out.top[0]));
    infer_sampler_free(s);
    free(seen);
    free(l);
    free(scratch);
}

static void
fake_run(kern_ctx_t *c, fake_step_t *s)
{
    uint64_t  h[FAKE_MAX_SEQS];

    for (uint32_t i = 0; i < s->n_zero; i++) {
        memset(c->page + (size_t) s->zero[i] * KERN_PAGE_TOKENS, 0,
               KERN_PAGE_TOKENS * sizeof(c->page[0]));
    }
    s->n_zero = 0;
    for (uint32_t i = 0; i < s->n_seqs; i++) {
        h[i] = fake_run_seq(c, s, &s->seq[i]);
    }
    for (uint32_t k = 0, i = 0; k < s->n_outs; k++) {
        while (s->out_row[k] >= s->seq[i].first_row + s->seq[i].n_rows) {
            i++;
        }
        fake_logits(s->logits + k * c->shape.vocab, c->shape.vocab, h[i]);
    }
    for (uint32_t i = 0; i < s->n_samples; i++) {
        uint32_t  out = s->sample[i].out;

        fake_draw(c, &s->sample[i], s->logits + out * c->shape.vocab,
                  &s->sampled[out]);
        c->last[out] = s->sampled[out].id;
    }
    c->n_last = s->n_outs;
    s->done = 1;
    fake.steps++;
}

static int
fake_submit(kern_ctx_t *c)
{
    fake_step_t  *s = fake_begun(c);

    c->n_submitted++;
    if (c->n_submitted - c->n_waited > fake.most) {
        fake.most = c->n_submitted - c->n_waited;
    }
    c->seed = c->seed * 1103515245u + 12345u;
    if (fake.when == FAKE_EAGER
        || (fake.when == FAKE_MIXED && (c->seed >> 16 & 1) != 0))
    {
        for (uint32_t i = c->n_waited; i < c->n_submitted; i++) {
            s = &c->step[i % c->ops->depth];
            if (!s->done) {
                fake_run(c, s);
            }
        }
    }

    return INFER_OK;
}

static int
fake_wait(kern_ctx_t *c)
{
    fake_step_t  *s = &c->step[c->n_waited % c->ops->depth];

    if (c->broken) {
        return INFER_DEVICE;
    }
    infer_assert(c->n_waited < c->n_submitted);
    if (!s->done) {
        fake_run(c, s);
    }
    c->n_waited++;
    c->broken = c->n_waited == fake.fail_step;

    return c->broken ? INFER_DEVICE : INFER_OK;
}

static fake_step_t *
fake_last(kern_ctx_t *c)
{
    return &c->step[(c->n_waited - 1) % c->ops->depth];
}

static float *
fake_logits_of(kern_ctx_t *c, uint32_t out)
{
    fake.by_host++;

    return fake.lose ? NULL : fake_last(c)->logits + out * c->shape.vocab;
}

static const kern_sampled_t *
fake_sampled(kern_ctx_t *c, uint32_t out)
{
    return fake.lose ? NULL : &fake_last(c)->sampled[out];
}

static uint64_t
fake_page_bytes(const kern_shape_t *shape)
{
    (void) shape;

    return KERN_PAGE_TOKENS * sizeof(int32_t);
}

/* In the order of the calls: before the step that is begun next. */
static void
fake_zero(kern_ctx_t *c, uint32_t page)
{
    fake_step_t  *s = fake_begun(c);

    s->zero[s->n_zero++] = page;
}

static void
fake_parallel(kern_ctx_t *c, void (*fn)(void *arg, uint32_t i), void *arg,
    uint32_t n)
{
    (void) c;
    for (uint32_t i = 0; i < n; i++) {
        fn(arg, i);
    }
}

/* A table of this depth; the rest of it from the CPU's. */
static kern_ops_t
fake_ops(uint32_t depth)
{
    infer_err_t        err;
    const kern_ops_t  *cpu = kern_init("cpu", "ref", &err);

    return (kern_ops_t) {
        .name = "fake", .depth = depth, .open = fake_open,
        .close = fake_close, .pack = fake_pack,
        .weight_free = fake_weight_free, .begin = fake_begin,
        .embed = fake_embed, .attn = fake_layer, .ffn = fake_layer,
        .head = fake_head, .sample = depth > 1 ? fake_sample : NULL,
        .submit = fake_submit, .wait = fake_wait, .logits = fake_logits_of,
        .sampled = depth > 1 ? fake_sampled : NULL,
        .kv_page_bytes = fake_page_bytes, .kv_zero = fake_zero,
        .parallel = fake_parallel, .argmax = cpu->argmax,
        .exp_row = cpu->exp_row
    };
}

#endif
