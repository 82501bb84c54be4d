/*
 * sched.c: policy of a step (sched.h). The sets are small sorted arrays:
 * running is bounded by the model's sequences, waiting by the bus's slots.
 */

#include <string.h>

#include "run/sched.h"

#define SCHED_STEP_US    50000
#define SCHED_CALM       4         /* longer steps while nobody decodes */
#define SCHED_FIRST_ROWS 64        /* before anything has been measured */
#define SCHED_LEAST_ROWS 16        /* of prefill in a step, if wanted */
#define SCHED_DECAY      0.9


int
infer_sched_init(infer_sched_t *s, const infer_sched_conf_t *conf,
    infer_kv_t *kv)
{
    memset(s, 0, sizeof(*s));

    if (conf->max_seqs == 0 || conf->batch_tokens < conf->max_seqs) {
        return INFER_INVALID;
    }

    s->conf = *conf;
    s->kv = kv;
    if (s->conf.step_us == 0) {
        s->conf.step_us = SCHED_STEP_US;
    }

    /* a preempted sequence goes back to the waiting ones whatever waits */
    s->running = calloc(conf->max_seqs, sizeof(s->running[0]));
    s->waiting = calloc((size_t) conf->max_waiting + conf->max_seqs,
                        sizeof(s->waiting[0]));

    if (s->running == NULL || s->waiting == NULL) {
        infer_sched_done(s);
        return INFER_NOMEM;
    }

    return INFER_OK;
}

void
infer_sched_done(infer_sched_t *s)
{
    free(s->running);
    free(s->waiting);
    memset(s, 0, sizeof(*s));
}

static int
sched_before(const infer_sched_seq_t *a, const infer_sched_seq_t *b)
{
    if (a->state == INFER_SEQ_WAITING) {

        if (a->started != b->started) {
            return a->started;
        }
        if (a->priority != b->priority) {
            return a->priority > b->priority;
        }
    }

    return a->ticket < b->ticket;
}

static void
sched_insert(infer_sched_seq_t **set, uint32_t *n, infer_sched_seq_t *q)
{
    uint32_t  i = *n;

    while (i > 0 && sched_before(q, set[i - 1])) {
        set[i] = set[i - 1];
        i--;
    }

    set[i] = q;
    (*n)++;
}

static void
sched_take_out(infer_sched_seq_t **set, uint32_t *n,
    const infer_sched_seq_t *q)
{
    uint32_t  i = 0;

    while (i < *n && set[i] != q) {
        i++;
    }

    infer_assert(i < *n);
    (*n)--;
    memmove(&set[i], &set[i + 1], (*n - i) * sizeof(set[0]));
}

int
infer_sched_add(infer_sched_t *s, infer_sched_seq_t *q)
{
    if (s->n_waiting >= s->conf.max_waiting) {
        return INFER_BUSY;
    }

    q->state = INFER_SEQ_WAITING;
    sched_insert(s->waiting, &s->n_waiting, q);

    return INFER_OK;
}

void
infer_sched_raise(infer_sched_t *s, infer_sched_seq_t *q, int32_t priority)
{
    if (q->state == INFER_SEQ_WAITING) {
        sched_take_out(s->waiting, &s->n_waiting, q);
        q->priority = priority;
        sched_insert(s->waiting, &s->n_waiting, q);

    } else {
        q->priority = priority;
    }
}

static void
sched_drop_pages(infer_sched_t *s, infer_sched_seq_t *q)
{
    infer_kv_truncate(s->kv, &q->table, 0);
    q->n_kv = 0;
}

void
infer_sched_remove(infer_sched_t *s, infer_sched_seq_t *q)
{
    if (q->state == INFER_SEQ_RUNNING) {
        sched_take_out(s->running, &s->n_running, q);

    } else if (q->state == INFER_SEQ_WAITING) {
        sched_take_out(s->waiting, &s->n_waiting, q);
    }

    q->state = INFER_SEQ_NONE;
    sched_drop_pages(s, q);
}

static uint32_t
sched_pending(const infer_sched_seq_t *q)
{
    infer_assert(q->n_known + q->n_ahead > q->n_kv);

    return q->n_known + q->n_ahead - q->n_kv;
}

/* 1: it can go on before launched steps have run. */
static int
sched_is_ready(const infer_sched_seq_t *q)
{
    return q->n_ahead == 0
           || (!q->waits && q->n_known + q->n_ahead < q->max_known);
}

/* Takes over the known pages that come next. The last token is always
 * computed, since its logits are wanted. */
static void
sched_match(infer_sched_t *s, infer_sched_seq_t *q)
{
    uint32_t  n;

    if (q->key.token == NULL || q->n_kv % KERN_PAGE_TOKENS != 0
        || sched_pending(q) <= KERN_PAGE_TOKENS)
    {
        return;
    }

    n = infer_kv_match(s->kv, &q->table, &q->key, q->n_known - 1);
    if (!q->has_output && q->preempted == 0) {
        q->n_cached += n - q->n_kv;
    }
    q->n_kv = n;
}

static int
sched_over(uint64_t deadline_us, uint64_t now_us)
{
    return deadline_us != 0 && now_us >= deadline_us;
}

static uint32_t
sched_deadline(const infer_sched_seq_t *q, uint64_t now_us)
{
    if (!q->started && sched_over(q->queue_deadline_us, now_us)) {
        return INFER_FINISH_TIMEOUT_QUEUE;
    }

    if ((!q->has_output && sched_over(q->first_deadline_us, now_us))
        || sched_over(q->total_deadline_us, now_us))
    {
        return INFER_FINISH_TIMEOUT;
    }

    return INFER_FINISH_NONE;
}

infer_sched_seq_t *
infer_sched_expired(const infer_sched_t *s, uint64_t now_us, uint32_t *finish)
{
    uint32_t  i;

    for (i = 0; i < s->n_running; i++) {
        *finish = sched_deadline(s->running[i], now_us);
        if (*finish != INFER_FINISH_NONE) {
            return s->running[i];
        }
    }

    for (i = 0; i < s->n_waiting; i++) {
        *finish = sched_deadline(s->waiting[i], now_us);
        if (*finish != INFER_FINISH_NONE) {
            return s->waiting[i];
        }
    }

    return NULL;
}

/* Pages that the running sequences have not taken yet, though their tokens
 * are known: they are spoken for. */
static uint32_t
sched_promised(const infer_sched_t *s)
{
    uint32_t                  i, want, n = 0;
    const infer_sched_seq_t  *q;

    for (i = 0; i < s->n_running; i++) {
        q = s->running[i];
        want = infer_kv_pages(q->n_known + q->n_ahead);
        n += want > q->table.n ? want - q->table.n : 0;
    }

    return n;
}

/* In order, nobody overtakes: the first one that does not fit waits until it
 * does. A few pages stay free, so that the running ones can grow a little
 * before one of them has to go. */
static void
sched_admit(infer_sched_t *s)
{
    uint32_t            n_cached;
    uint64_t            need;
    infer_sched_seq_t  *q;

    while (s->n_waiting > 0 && s->n_running < s->conf.max_seqs) {
        q = s->waiting[0];
        n_cached = q->n_cached;
        sched_match(s, q);

        if (s->n_running > 0) {
            need = (uint64_t) infer_kv_pages(q->n_known + 1) - q->table.n
                   + sched_promised(s) + (s->n_running + 3) / 4;
            if (need > infer_kv_available(s->kv)) {
                sched_drop_pages(s, q);
                q->n_cached = n_cached;
                return;
            }
        }

        sched_take_out(s->waiting, &s->n_waiting, q);
        q->state = INFER_SEQ_RUNNING;
        sched_insert(s->running, &s->n_running, q);
    }
}

static void
sched_preempt(infer_sched_t *s, infer_sched_seq_t *q)
{
    sched_take_out(s->running, &s->n_running, q);
    sched_drop_pages(s, q);
    q->state = INFER_SEQ_WAITING;
    q->preempted++;
    s->preemptions++;
    sched_insert(s->waiting, &s->n_waiting, q);
}

/* Pages for up to `rows` more tokens of q; returns the rows that have room.
 * 0: q itself was the youngest and had to go. Nobody planned so far is lost,
 * because plans are made in order of arrival. */
static uint32_t
sched_take_pages(infer_sched_t *s, infer_sched_seq_t *q, uint32_t rows)
{
    uint64_t            room;
    infer_sched_seq_t  *youngest;

    for ( ;; ) {
        room = ((uint64_t) q->table.n + infer_kv_available(s->kv))
               * KERN_PAGE_TOKENS - q->n_kv;

        if (room > 0) {
            if (rows > room) {
                rows = (uint32_t) room;
            }
            if (infer_kv_extend(s->kv, &q->table, q->n_kv + rows)
                == INFER_OK)
            {
                return rows;
            }
            return 0;
        }

        youngest = s->running[s->n_running - 1];
        sched_preempt(s, youngest);
        if (youngest == q) {
            return 0;
        }
    }
}

/* Rows that a step can hold in step_us: time = base + slope * rows, fitted
 * over the last steps that prefilled. The weights are read once a step, so
 * where nobody waits for a next token a longer step wastes less. */
static uint32_t
sched_time_rows(const infer_sched_t *s, uint32_t n_decode)
{
    double  var, slope, base, rows, step_us = s->conf.step_us;

    if (s->w == 0) {
        return SCHED_FIRST_ROWS;
    }

    slope = s->y / s->x;
    base = 0;
    var = s->w * s->xx - s->x * s->x;

    /* one size of step only says what a row of such a step costs */
    if (var > 0.01 * s->x * s->x) {
        slope = (s->w * s->xy - s->x * s->y) / var;
        base = (s->y - slope * s->x) / s->w;
        if (slope <= 0 || base < 0) {
            slope = s->y / s->x;
            base = 0;
        }
    }

    if (n_decode == 0) {
        step_us *= SCHED_CALM;
    }

    rows = (step_us - base) / slope;
    if (rows >= s->conf.batch_tokens) {
        return s->conf.batch_tokens;
    }

    return rows < SCHED_LEAST_ROWS ? SCHED_LEAST_ROWS : (uint32_t) rows;
}

/* Rows for prefill beside n_decode rows of decode. */
static uint32_t
sched_prefill_rows(const infer_sched_t *s, uint32_t n_decode)
{
    uint32_t  rows = sched_time_rows(s, n_decode), left;

    left = s->conf.batch_tokens > n_decode ? s->conf.batch_tokens - n_decode
                                           : 0;
    rows = rows > n_decode + SCHED_LEAST_ROWS ? rows - n_decode
                                              : SCHED_LEAST_ROWS;

    return rows < left ? rows : left;
}

static void
sched_put(infer_plan_t *plan, infer_sched_seq_t *q, uint32_t rows)
{
    infer_plan_item_t  *item = &plan->item[plan->n_items++];

    item->seq = q;
    item->first_row = plan->n_rows;
    item->n_rows = rows;
    item->pos0 = q->n_kv;
    item->sample = rows == sched_pending(q);
    q->started = 1;
    plan->n_rows += rows;
}

/* 1: the next page of q is computed in this step by another one. */
static int
sched_is_coming(const infer_plan_t *plan, const infer_sched_seq_t *q)
{
    uint32_t                  i, end = q->n_kv + KERN_PAGE_TOKENS;
    const infer_plan_item_t  *item;
    const infer_kv_key_t     *key;

    if (q->key.token == NULL || q->n_kv % KERN_PAGE_TOKENS != 0
        || q->n_known <= end)
    {
        return 0;
    }

    for (i = 0; i < plan->n_items; i++) {
        item = &plan->item[i];
        key = &item->seq->key;

        if (key->token != NULL && item->pos0 + item->n_rows >= end
            && item->seq->n_known >= end
            && memcmp(key->scope, q->key.scope, sizeof(key->scope)) == 0
            && memcmp(key->token, q->key.token,
                      end * sizeof(key->token[0])) == 0)
        {
            return 1;
        }
    }

    return 0;
}

/* only: the one sequence of a step for a poisoned one, or NULL for a step of
 * all that are not. */
static void
sched_fill(infer_sched_t *s, infer_plan_t *plan, const infer_sched_seq_t *only)
{
    int                 prefills;
    uint32_t            i, rows, left, n_decode = 0;
    infer_sched_seq_t  *q;

    for (i = 0; i < s->n_running; i++) {
        q = s->running[i];
        n_decode += only == NULL && !q->alone && sched_is_ready(q)
                    && sched_pending(q) == 1;
    }

    left = sched_prefill_rows(s, n_decode);

    for (i = 0; i < s->n_running; i++) {
        q = s->running[i];
        if ((only != NULL ? q != only : q->alone) || !sched_is_ready(q)) {
            continue;
        }

        /* also when all but its last token is found: that row has not been
         * counted as one of decode */
        prefills = sched_pending(q) > 1;
        sched_match(s, q);
        if (sched_is_coming(plan, q)) {
            continue;
        }

        rows = sched_pending(q);
        if (prefills && rows > left) {
            rows = left;
        }
        if (rows == 0) {
            continue;
        }

        rows = sched_take_pages(s, q, rows);
        if (rows == 0) {
            break;
        }

        if (prefills) {
            left -= rows;
            plan->n_prefill += rows;
        }
        sched_put(plan, q, rows);
    }
}

void
infer_sched_plan(infer_sched_t *s, infer_plan_t *plan)
{
    uint32_t            i, n_alone = 0;
    infer_sched_seq_t  *first = NULL;

    plan->n_items = 0;
    plan->n_rows = 0;
    plan->n_prefill = 0;

    if (s->n_launched > 0 && s->last_alone) {
        return;
    }

    sched_admit(s);

    for (i = 0; i < s->n_running; i++) {
        if (s->running[i]->alone) {
            n_alone++;
            first = first != NULL ? first : s->running[i];
        }
    }

    if (first != NULL && (!s->last_alone || n_alone == s->n_running)) {
        if (s->n_launched > 0) {
            return;
        }
        s->last_alone = 1;
        sched_fill(s, plan, first);

    } else {
        s->last_alone = 0;
        sched_fill(s, plan, NULL);
    }
}

void
infer_sched_launched(infer_sched_t *s, const infer_plan_t *plan)
{
    uint32_t            i;
    infer_sched_seq_t  *q;

    for (i = 0; i < plan->n_items; i++) {
        q = plan->item[i].seq;
        q->n_kv += plan->item[i].n_rows;
        q->n_ahead += plan->item[i].sample;
        infer_kv_commit(s->kv, &q->table, &q->key,
                        q->n_kv < q->n_known ? q->n_kv : q->n_known);
    }

    s->n_launched++;
}

void
infer_sched_ran(infer_sched_t *s, const infer_plan_t *plan, uint64_t step_us)
{
    double    x = plan->n_rows, y = (double) step_us;
    uint32_t  i;

    s->n_launched--;
    for (i = 0; i < plan->n_items; i++) {
        if (plan->item[i].seq != NULL) {
            plan->item[i].seq->n_ahead -= plan->item[i].sample;
        }
    }

    /* steps of decode alone wait for the weights, not for the rows */
    if (plan->n_prefill < SCHED_LEAST_ROWS / 2) {
        return;
    }

    s->w = s->w * SCHED_DECAY + 1;
    s->x = s->x * SCHED_DECAY + x;
    s->y = s->y * SCHED_DECAY + y;
    s->xx = s->xx * SCHED_DECAY + x * x;
    s->xy = s->xy * SCHED_DECAY + x * y;
}

uint64_t
infer_sched_queued_tokens(const infer_sched_t *s)
{
    uint32_t  i, pending;
    uint64_t  n = 0;

    for (i = 0; i < s->n_waiting; i++) {
        n += s->waiting[i]->n_known;
    }

    for (i = 0; i < s->n_running; i++) {
        pending = sched_pending(s->running[i]);
        n += pending > 1 ? pending : 0;
    }

    return n;
}
