/*
 * step.c: one batch: plan -> rows -> forward -> sample -> publish. No
 * allocation; the arrays belong to the model (load.c).
 *
 * A backend of depth 1 does that in one go. With depth 2 a step is planned
 * and launched while the one before runs; rows that follow what it samples
 * name its outputs instead of tokens. What ends in between is forgotten: its
 * rows still run, nobody reads them, and steps that get its pages run later.
 *
 *   launch 0 | launch 1, collect 0 | launch 2, collect 1 | ...
 */

#include <signal.h>
#include <string.h>

#include "run/engine.h"

/* Sampling of a step's outputs by the host, spread over the team. */
typedef struct {
    infer_engine_model_t  *m;
    infer_flight_t        *f;
    const kern_ops_t      *ops;
    kern_ctx_t            *ctx;
    _Atomic uint32_t       next;
    _Atomic int            broken;         /* logits cannot be had */
} step_sampling_t;


/*
 * Test builds only: a prompt with this token id three times in a row kills
 * the engine, each time (make BUILD=... CFLAGS=-DINFER_TEST_POISON=ID).
 */
#ifdef INFER_TEST_POISON
static void
step_poison(const infer_plan_item_t *item)
{
    uint32_t            i;
    const infer_seq_t  *q = (const infer_seq_t *) item->seq;
    const int32_t      *t = q->token;

    for (i = item->pos0; i + 2 < item->pos0 + item->n_rows; i++) {
        if (t[i] == INFER_TEST_POISON && t[i + 1] == t[i]
            && t[i + 2] == t[i])
        {
            raise(SIGKILL);
        }
    }
}
#endif

/* Marks who is in the batch: should the engine die now, it counts. */
static void
step_enter(infer_engine_t *e, infer_seq_t *q)
{
    infer_slot_t  *s = &e->bus.slot[q->ref.slot];

    if (atomic_load(&s->start_us) == 0) {
        atomic_store(&s->start_us, e->now_us);
        infer_hist_add(&e->bus.stats->queue, e->now_us - q->submit_us);
    }

    if (atomic_load(&s->preempted) != q->sched.preempted) {
        atomic_store(&s->preempted, q->sched.preempted);
    }

    atomic_store(&s->in_batch, 1);
    q->n_flying++;
}

/* Pages that the rows will be written to. */
static void
step_zero_pages(infer_engine_model_t *m, const infer_plan_item_t *item)
{
    uint32_t           p, page, last;
    const kern_ops_t  *ops = infer_model_ops(m->model);

    last = (item->pos0 + item->n_rows - 1) / KERN_PAGE_TOKENS;

    for (p = item->pos0 / KERN_PAGE_TOKENS; p <= last; p++) {
        page = item->seq->table.page[p];
        if (infer_kv_needs_zero(&m->kv, page)) {
            ops->kv_zero(infer_model_ctx(m->model), page);
        }
    }
}

/* Known tokens; behind them what the step before samples for q. */
static void
step_tokens(int32_t *token, const infer_plan_item_t *item)
{
    uint32_t            known = item->n_rows;
    const infer_seq_t  *q = (const infer_seq_t *) item->seq;

    if (item->pos0 + item->n_rows > q->sched.n_known) {
        token[--known] = KERN_TOKEN_OF(q->out);
    }

    memcpy(token, q->token + item->pos0, known * sizeof(token[0]));
}

/* The plan as arrays for the kernels. */
static void
step_batch(infer_engine_t *e, infer_engine_model_t *m, infer_flight_t *f,
    kern_batch_t *batch)
{
    uint32_t            i;
    infer_seq_t        *q;
    infer_plan_item_t  *item;

    f->n_outs = 0;
    for (i = 0; i < f->plan.n_items; i++) {
        item = &f->plan.item[i];
        q = (infer_seq_t *) item->seq;

        step_enter(e, q);
        step_zero_pages(m, item);
        step_tokens(m->token + item->first_row, item);
        m->kseq[i].first_row = item->first_row;
        m->kseq[i].n_rows = item->n_rows;
        m->kseq[i].pos0 = item->pos0;
        m->kseq[i].pages = item->seq->table.page;

        if (item->sample) {
            q->out = f->n_outs;
            f->out[f->n_outs].seq = q;
            m->out_row[f->n_outs++] = item->first_row + item->n_rows - 1;
        }
    }

    batch->n_rows = f->plan.n_rows;
    batch->token = m->token;
    batch->n_seqs = f->plan.n_items;
    batch->seq = m->kseq;
    batch->n_outs = f->n_outs;
    batch->out_row = m->out_row;
}

/* Outputs that the device samples; returns their number. */
static uint32_t
step_ask(infer_engine_model_t *m, infer_flight_t *f)
{
    uint32_t       k, n = 0;
    infer_out_t   *out;
    kern_edit_t   *edit = m->edit;

    for (k = 0; k < f->n_outs; k++) {
        out = &f->out[k];
        out->on_device = m->sample != NULL
                         && infer_sampler_edits(out->seq->sampler)
                            <= m->max_edits;
        if (!out->on_device) {
            /* nothing can be launched that names it */
            infer_assert(out->seq->sched.waits);
            continue;
        }

        infer_sampler_export(out->seq->sampler, out->seq->sched.n_ahead, edit,
                             &m->sample[n]);
        edit += infer_sampler_edits(out->seq->sampler);
        m->sample[n++].out = k;
    }

    return n;
}

static void
step_sample_some(void *arg, uint32_t task)
{
    float            *logits;
    uint32_t          k;
    infer_out_t      *out;
    step_sampling_t  *job = arg;

    while ((k = atomic_fetch_add_explicit(&job->next, 1,
                                          memory_order_relaxed))
           < job->f->n_outs)
    {
        out = &job->f->out[k];
        if (out->seq == NULL || out->on_device) {
            continue;
        }

        logits = job->ops->logits(job->ctx, k);
        if (logits == NULL) {
            atomic_store(&job->broken, 1);
            continue;
        }
        out->rc = infer_sample(out->seq->sampler, job->ops, logits,
                               job->m->scratch[task], &out->sampled);
    }
}

/* What the device has sampled. *left: outputs that the host samples. */
static int
step_sampled(infer_engine_model_t *m, infer_flight_t *f, uint32_t *left)
{
    uint32_t               k;
    infer_out_t           *out;
    const kern_ops_t      *ops = infer_model_ops(m->model);
    const kern_sampled_t  *got;

    *left = 0;
    for (k = 0; k < f->n_outs; k++) {
        out = &f->out[k];
        if (out->seq == NULL || !out->on_device) {
            *left += out->seq != NULL;
            continue;
        }

        got = ops->sampled(infer_model_ctx(m->model), k);
        if (got == NULL) {
            return INFER_DEVICE;
        }
        out->rc = got->rc;
        out->sampled.id = got->id;
        out->sampled.logprob = got->logprob;
        memcpy(out->sampled.top, got->top,
               out->seq->params.top_logprobs * sizeof(got->top[0]));
    }

    return INFER_OK;
}

static int
step_sample(infer_engine_model_t *m, infer_flight_t *f)
{
    int              rc;
    uint32_t         left;
    step_sampling_t  job = { .m = m, .f = f };

    rc = step_sampled(m, f, &left);
    if (rc != INFER_OK || left == 0) {
        return rc;
    }

    job.ops = infer_model_ops(m->model);
    job.ctx = infer_model_ctx(m->model);
    job.ops->parallel(job.ctx, step_sample_some, &job,
                      left < m->n_scratch ? left : m->n_scratch);

    return atomic_load(&job.broken) ? INFER_DEVICE : INFER_OK;
}

static void
step_measure(infer_engine_t *e, infer_seq_t *q)
{
    infer_slot_t       *s = &e->bus.slot[q->ref.slot];
    infer_bus_stats_t  *st = e->bus.stats;

    if (atomic_load(&s->first_us) == 0) {
        atomic_store(&s->first_us, e->now_us);
        atomic_store(&s->cached_tokens, q->sched.n_cached);
        infer_hist_add(&st->ttft, e->now_us - q->submit_us);
        atomic_fetch_add(&st->prompt_tokens, q->n_prompt);
        atomic_fetch_add(&st->prefix_queries, q->n_prompt);
        atomic_fetch_add(&st->prefix_hits, q->sched.n_cached);

    } else if (q->last_us != 0) {
        infer_hist_add(&st->itl, e->now_us - q->last_us);
    }

    q->last_us = e->now_us;
    atomic_fetch_add(&st->output_tokens, 1);
    e->rate_tokens++;
}

static void
step_publish(infer_engine_t *e, infer_out_t *out)
{
    infer_seq_t     *q = out->seq;
    const char      *why;
    infer_slot_t    *s = &e->bus.slot[q->ref.slot];
    infer_record_t   rec;

    if (out->rc != INFER_OK) {
        why = out->rc == INFER_INVALID
              ? "logit_bias and bans leave no token to choose"
              : "the model's output is not a number";
        infer_engine_log(e, INFER_LOG_ERR, "infer slot %u failed: %s",
                         q->ref.slot, why);
        infer_engine_finish(e, q, INFER_FINISH_ERROR, why);
        return;
    }

    infer_seq_accept(q, out->sampled.id, &rec);
    rec.logprob = out->sampled.logprob;

    if (infer_log_append(&e->bus, q->ref, &q->cursor, &rec, out->sampled.top)
        != INFER_OK)
    {
        infer_engine_finish(e, q, INFER_FINISH_ERROR,
                            "the output log in the bus is damaged");
        return;
    }

    q->sched.has_output = 1;
    step_measure(e, q);
    infer_engine_notify(e, q->ref);

    if (q->sched.alone) {
        q->sched.alone = 0;
        atomic_store(&s->deaths, 0);
    }

    if (q->finish != INFER_FINISH_NONE) {
        infer_engine_finish(e, q, q->finish, NULL);
    }
}

static void
step_leave(infer_engine_t *e, infer_flight_t *f)
{
    uint32_t            i, k = 0;
    infer_seq_t        *q;
    infer_plan_item_t  *item;

    for (i = 0; i < f->plan.n_items; i++) {
        item = &f->plan.item[i];
        q = (infer_seq_t *) item->seq;
        k += item->sample;

        if (q == NULL) {
            continue;
        }
        if (--q->n_flying == 0) {
            atomic_store(&e->bus.slot[q->ref.slot].in_batch, 0);
        }
        if (item->sample) {
            step_publish(e, &f->out[k - 1]);
        }
    }
}

static void
step_metrics(infer_engine_t *e, infer_engine_model_t *m)
{
    infer_bus_model_t  *bm = &e->bus.model[m - e->model];

    atomic_store(&bm->running, m->sched.n_running);
    atomic_store(&bm->waiting, m->sched.n_waiting);
    atomic_store(&bm->pages_used, infer_kv_used(&m->kv));
    atomic_store(&bm->pages_cached, m->kv.n_cached);
    atomic_store(&bm->pages_peak, m->kv.peak);
    atomic_store(&bm->preemptions, m->sched.preemptions);
    atomic_store(&bm->queued_tokens, infer_sched_queued_tokens(&m->sched));
}

void
infer_engine_forget(infer_engine_model_t *m, const infer_seq_t *q)
{
    uint32_t         i, k;
    infer_flight_t  *f;

    for (k = 0; k < m->n_flying; k++) {
        f = &m->flight[(m->oldest + k) % m->depth];

        for (i = 0; i < f->plan.n_items; i++) {
            if (f->plan.item[i].seq == &q->sched) {
                f->plan.item[i].seq = NULL;
            }
        }
        for (i = 0; i < f->n_outs; i++) {
            if (f->out[i].seq == q) {
                f->out[i].seq = NULL;
            }
        }
    }
}

void
infer_engine_drain(infer_engine_model_t *m)
{
    while (m->n_flying > 0) {
        if (m->depth > 1) {
            (void) infer_model_wait(m->model);
        }
        m->n_flying--;
    }
}

static int
step_failed(infer_engine_t *e, infer_engine_model_t *m, int rc)
{
    const char        *text = NULL;
    const kern_ops_t  *ops = infer_model_ops(m->model);

    if (ops->error != NULL) {
        text = ops->error(infer_model_ctx(m->model));
    }
    infer_engine_log(e, INFER_LOG_CRIT,
                     "infer model \"%s\": the device failed (%d)%s%s",
                     m->name, rc, text != NULL ? ": " : "",
                     text != NULL ? text : "");

    return INFER_DEVICE;
}

/* 1: a step is on its way; with depth 1 it has run. 0: nothing to do. */
static int
step_launch(infer_engine_t *e, infer_engine_model_t *m)
{
    int              rc;
    uint32_t         n;
    kern_batch_t     batch;
    infer_flight_t  *f = &m->flight[(m->oldest + m->n_flying) % m->depth];

    infer_sched_plan(&m->sched, &f->plan);
    if (f->plan.n_items == 0) {
        return 0;
    }

    f->start_us = infer_now_us();
    step_batch(e, m, f, &batch);
    n = step_ask(m, f);

#ifdef INFER_TEST_POISON
    for (uint32_t i = 0; i < f->plan.n_items; i++) {
        step_poison(&f->plan.item[i]);
    }
#endif

    rc = infer_model_launch(m->model, &batch, m->sample, n);
    if (rc == INFER_OK && m->depth == 1) {
        rc = infer_model_wait(m->model);
    }
    if (rc != INFER_OK) {
        return step_failed(e, m, rc);
    }

    infer_sched_launched(&m->sched, &f->plan);
    m->n_flying++;

    return 1;
}

static int
step_collect(infer_engine_t *e, infer_engine_model_t *m)
{
    int              rc = INFER_OK;
    uint64_t         start_us;
    infer_flight_t  *f = &m->flight[m->oldest];

    if (m->depth > 1) {
        rc = infer_model_wait(m->model);
    }
    m->oldest = (m->oldest + 1) % m->depth;
    m->n_flying--;
    if (rc != INFER_OK || (rc = step_sample(m, f)) != INFER_OK) {
        return step_failed(e, m, rc);
    }

    /* the device was at the step before until that was collected */
    start_us = f->start_us > m->ran_us ? f->start_us : m->ran_us;
    e->now_us = infer_now_us();
    m->ran_us = e->now_us;
    atomic_fetch_add(&e->bus.stats->rows, f->plan.n_rows);
    infer_sched_ran(&m->sched, &f->plan, e->now_us - start_us);
    step_leave(e, f);
    atomic_fetch_add(&e->bus.hdr->steps, 1);

    return 1;
}

int
infer_engine_step(infer_engine_t *e, infer_engine_model_t *m)
{
    int  rc = step_launch(e, m);

    if (rc >= 0 && (m->n_flying == m->depth || (rc == 0 && m->n_flying > 0)))
    {
        rc = step_collect(e, m);
    }

    step_metrics(e, m);

    return rc;
}
