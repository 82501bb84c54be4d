/*
 * step.c: one batch: plan -> rows -> forward -> sample -> publish. No
 * allocation; the arrays belong to the model (load.c).
 */

#include <signal.h>
#include <string.h>

#include "run/engine.h"

/* Sampling of all outputs of a step, spread over the team. */
typedef struct {
    infer_engine_model_t  *m;
    const kern_ops_t      *ops;
    kern_ctx_t            *ctx;
    uint32_t               n_outs;
    _Atomic uint32_t       next;
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
step_enter(infer_engine_t *e, const infer_seq_t *q)
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

/* The plan as arrays for the kernels; returns outputs. */
static uint32_t
step_batch(infer_engine_t *e, infer_engine_model_t *m, kern_batch_t *batch)
{
    uint32_t            i, n_outs = 0;
    infer_seq_t        *q;
    infer_plan_item_t  *item;

    for (i = 0; i < m->plan.n_items; i++) {
        item = &m->plan.item[i];
        q = (infer_seq_t *) item->seq;

        step_enter(e, q);
        step_zero_pages(m, item);
        memcpy(m->token + item->first_row, q->token + item->pos0,
               item->n_rows * sizeof(m->token[0]));
        m->kseq[i].first_row = item->first_row;
        m->kseq[i].n_rows = item->n_rows;
        m->kseq[i].pos0 = item->pos0;
        m->kseq[i].pages = item->seq->table.page;

        if (item->sample) {
            m->out[n_outs].seq = q;
            m->out_row[n_outs++] = item->first_row + item->n_rows - 1;
        }
    }

    batch->n_rows = m->plan.n_rows;
    batch->token = m->token;
    batch->n_seqs = m->plan.n_items;
    batch->seq = m->kseq;
    batch->n_outs = n_outs;
    batch->out_row = m->out_row;

    return n_outs;
}

static void
step_sample_some(void *arg, uint32_t task)
{
    uint32_t          k;
    infer_out_t      *out;
    step_sampling_t  *job = arg;

    while ((k = atomic_fetch_add_explicit(&job->next, 1,
                                          memory_order_relaxed))
           < job->n_outs)
    {
        out = &job->m->out[k];
        out->rc = infer_sample(out->seq->sampler, job->ops,
                               job->ops->logits(job->ctx, k),
                               job->m->scratch[task], &out->sampled);
    }
}

static void
step_sample(infer_engine_model_t *m, uint32_t n_outs)
{
    uint32_t         n_tasks;
    step_sampling_t  job = { .m = m, .n_outs = n_outs };

    job.ops = infer_model_ops(m->model);
    job.ctx = infer_model_ctx(m->model);
    n_tasks = n_outs < m->n_scratch ? n_outs : m->n_scratch;
    job.ops->parallel(job.ctx, step_sample_some, &job, n_tasks);
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
step_leave(infer_engine_t *e, infer_engine_model_t *m)
{
    uint32_t            i, k = 0;
    infer_seq_t        *q;
    infer_plan_item_t  *item;

    for (i = 0; i < m->plan.n_items; i++) {
        item = &m->plan.item[i];
        q = (infer_seq_t *) item->seq;

        /* before publishing: the slot may be free and taken again after */
        atomic_store(&e->bus.slot[q->ref.slot].in_batch, 0);
        if (item->sample) {
            step_publish(e, &m->out[k++]);
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

int
infer_engine_step(infer_engine_t *e, infer_engine_model_t *m)
{
    int           rc;
    uint32_t      n_outs;
    uint64_t      start_us = e->now_us;
    kern_batch_t  batch;

    infer_sched_plan(&m->sched, &m->plan);
    if (m->plan.n_items == 0) {
        step_metrics(e, m);
        return 0;
    }

    n_outs = step_batch(e, m, &batch);

#ifdef INFER_TEST_POISON
    for (uint32_t i = 0; i < m->plan.n_items; i++) {
        step_poison(&m->plan.item[i]);
    }
#endif

    rc = infer_model_forward(m->model, &batch);
    if (rc != INFER_OK) {
        infer_engine_log(e, INFER_LOG_CRIT,
                         "infer model \"%s\": the device failed (%d)",
                         m->name, rc);
        return INFER_DEVICE;
    }

    step_sample(m, n_outs);

    e->now_us = infer_now_us();
    atomic_fetch_add(&e->bus.stats->rows, m->plan.n_rows);
    infer_sched_ran(&m->sched, &m->plan, e->now_us - start_us);
    step_leave(e, m);
    step_metrics(e, m);
    atomic_fetch_add(&e->bus.hdr->steps, 1);

    return 1;
}
