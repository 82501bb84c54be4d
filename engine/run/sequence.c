/*
 * sequence.c: from a slot to a sequence (sequence.h). A worker may be broken
 * or hostile: every number is copied, then checked, then used.
 */

#include <math.h>
#include <string.h>

#include "run/sequence.h"

#define SEQ_STOPS_BYTES  (INFER_MAX_STOPS * (2 + INFER_MAX_STOP_BYTES))

/* The request, as copied from the slot. */
typedef struct {
    uint32_t          choice;
    uint32_t          n_prompt;
    uint32_t          n_stops;
    uint32_t          n_stop_ids;
    uint32_t          n_bias;
    uint32_t          stride;
    uint32_t          max_records;
    uint32_t          n_records;
} seq_request_t;


static int
seq_check_sampling(const infer_sampling_t *p, infer_err_t *err)
{
    if (!(p->temperature >= 0 && p->temperature <= 1e6f)
        || !(p->top_p >= 0 && p->top_p <= 1)
        || !(p->min_p >= 0 && p->min_p <= 1)
        || !(p->repetition_penalty > 0 && isfinite(p->repetition_penalty))
        || !isfinite(p->presence_penalty) || !isfinite(p->frequency_penalty)
        || p->top_logprobs > INFER_MAX_TOP_LOGPROBS || p->max_tokens == 0)
    {
        return infer_err(err, INFER_INVALID,
                         "a sampling parameter is out of range");
    }

    return INFER_OK;
}

static int
seq_check_request(const infer_seq_t *q, const seq_request_t *r,
    infer_err_t *err)
{
    if (r->n_prompt == 0 || r->n_prompt >= q->context) {
        return infer_err(err, INFER_INVALID,
                         "a prompt of %u tokens does not fit the context of "
                         "%u", r->n_prompt, q->context);
    }

    if (r->n_stops > INFER_MAX_STOPS || r->n_stop_ids > INFER_MAX_STOP_IDS
        || r->n_bias > INFER_MAX_LOGIT_BIAS || r->max_records == 0
        || r->stride != 16 + 8 * q->params.top_logprobs
        || r->n_records > r->max_records)
    {
        return infer_err(err, INFER_INVALID, "a count is out of range");
    }

    return INFER_OK;
}

static int32_t
seq_priority(const infer_slot_t *s)
{
    int32_t  p = atomic_load(&s->priority);

    if (p > INFER_MAX_PRIORITY) {
        return INFER_MAX_PRIORITY;
    }

    return p < -INFER_MAX_PRIORITY ? -INFER_MAX_PRIORITY : p;
}

/* 1: another one than before. */
static int
seq_deadline(uint64_t *deadline_us, const _Atomic uint64_t *from)
{
    uint64_t  us = atomic_load(from);
    int       changed = us != *deadline_us;

    *deadline_us = us;

    return changed;
}

static int
seq_deadlines(infer_seq_t *q, const infer_slot_t *s)
{
    return seq_deadline(&q->sched.queue_deadline_us, &s->queue_deadline_us)
           | seq_deadline(&q->sched.first_deadline_us, &s->first_deadline_us)
           | seq_deadline(&q->sched.total_deadline_us, &s->total_deadline_us);
}

int
infer_seq_terms(infer_seq_t *q, const infer_slot_t *s, infer_sched_t *sched)
{
    int32_t  priority = seq_priority(s);

    if (priority != q->sched.priority) {
        infer_sched_raise(sched, &q->sched, priority);
    }

    return seq_deadlines(q, s);
}

static void
seq_copy_request(infer_seq_t *q, seq_request_t *r, const infer_slot_t *s)
{
    r->choice = s->choice;
    r->n_prompt = s->n_prompt;
    r->n_stops = s->n_stops;
    r->n_stop_ids = s->n_stop_ids;
    r->n_bias = s->n_bias;
    r->stride = s->stride;
    r->max_records = s->max_records;
    q->params = s->sampling;
    q->submit_us = s->submit_us;
    q->sched.ticket = s->ticket;
    q->sched.priority = seq_priority(s);
    (void) seq_deadlines(q, s);
    q->sched.started = atomic_load(&s->start_us) != 0;
    memcpy(q->sched.key.scope, s->scope, sizeof(q->sched.key.scope));
}

static int
seq_damaged(infer_err_t *err, const char *what)
{
    return infer_err(err, INFER_CORRUPT, "the %s in the bus is damaged",
                     what);
}

/* An extent of exactly len bytes. */
static int
seq_get(const infer_bus_t *bus, const infer_seq_t *q, uint32_t kind,
    void *dst, size_t len)
{
    size_t  got;

    if (infer_slot_get(bus, q->ref, kind, dst, len, &got) != INFER_OK
        || got != len)
    {
        return INFER_CORRUPT;
    }

    return INFER_OK;
}

static int
seq_ids_ok(const int32_t *id, uint32_t n, uint32_t vocab)
{
    uint32_t  i;

    for (i = 0; i < n; i++) {
        if (id[i] < 0 || (uint32_t) id[i] >= vocab) {
            return 0;
        }
    }

    return 1;
}

static int
seq_new_tokens(infer_seq_t *q, const infer_bus_t *bus, uint32_t vocab,
    infer_err_t *err)
{
    size_t  n = (size_t) q->n_prompt + q->max_out;

    q->token = calloc(n, sizeof(q->token[0]));
    if (q->token == NULL
        || infer_kv_table_init(&q->sched.table, (uint32_t) n) != INFER_OK)
    {
        return infer_err(err, INFER_NOMEM, "no memory for %zu tokens", n);
    }

    if (seq_get(bus, q, INFER_EXT_PROMPT, q->token,
                (size_t) q->n_prompt * sizeof(q->token[0])) != INFER_OK)
    {
        return seq_damaged(err, "prompt");
    }

    if (!seq_ids_ok(q->token, q->n_prompt, vocab)) {
        return infer_err(err, INFER_INVALID,
                         "the prompt has a token outside the vocabulary");
    }

    q->sched.n_known = q->n_prompt;
    q->sched.key.token = q->token;

    return INFER_OK;
}

static int
seq_new_stream(infer_seq_t *q, const infer_bus_t *bus, uint32_t n_stops,
    infer_err_t *err)
{
    char         buf[SEQ_STOPS_BYTES];
    size_t       got, at = 0, len[INFER_MAX_STOPS];
    uint16_t     n;
    uint32_t     i;
    const char  *stop[INFER_MAX_STOPS];

    if (infer_slot_get(bus, q->ref, INFER_EXT_STOPS, buf, sizeof(buf), &got)
        != INFER_OK)
    {
        return seq_damaged(err, "stop strings");
    }

    for (i = 0; i < n_stops; i++) {
        if (got - at < sizeof(n)) {
            return seq_damaged(err, "stop strings");
        }
        memcpy(&n, buf + at, sizeof(n));
        at += sizeof(n);
        if (n == 0 || n > INFER_MAX_STOP_BYTES || got - at < n) {
            return seq_damaged(err, "stop strings");
        }
        stop[i] = buf + at;
        len[i] = n;
        at += n;
    }

    if (infer_stream_new(&q->stream, q->text, stop, len, n_stops,
                         q->params.min_tokens) != INFER_OK)
    {
        return infer_err(err, INFER_NOMEM, "no memory for a text stream");
    }

    return INFER_OK;
}

static int
seq_new_sampler(infer_seq_t *q, const infer_bus_t *bus,
    const seq_request_t *r, uint32_t vocab, infer_err_t *err)
{
    int            rc;
    int32_t        eog[INFER_MAX_EOG];
    uint32_t       i, n_eog;
    infer_bias_t  *bias;

    q->n_stop_ids = r->n_stop_ids;
    if (seq_get(bus, q, INFER_EXT_STOP_IDS, q->stop_id,
                r->n_stop_ids * sizeof(q->stop_id[0])) != INFER_OK)
    {
        return seq_damaged(err, "list of stop ids");
    }

    bias = calloc((size_t) r->n_bias + 1, sizeof(bias[0]));
    if (bias == NULL) {
        return infer_err(err, INFER_NOMEM, "no memory for a logit bias");
    }

    if (seq_get(bus, q, INFER_EXT_BIAS, bias, r->n_bias * sizeof(bias[0]))
        != INFER_OK)
    {
        free(bias);
        return seq_damaged(err, "logit bias");
    }

    for (i = 0; i < r->n_bias; i++) {
        if (!seq_ids_ok(&bias[i].id, 1, vocab) || isnan(bias[i].bias)) {
            free(bias);
            return infer_err(err, INFER_INVALID,
                             "a logit bias is out of range");
        }
    }

    n_eog = infer_text_eog(q->text, eog);
    rc = infer_sampler_new(&q->sampler, &q->params, r->choice, vocab, bias,
                           r->n_bias, q->stop_id, q->n_stop_ids, eog, n_eog,
                           q->token, q->n_prompt);
    free(bias);

    if (rc != INFER_OK) {
        return infer_err(err, rc, rc == INFER_NOMEM
                         ? "no memory for a sampler"
                         : "a sampling parameter is out of range");
    }

    q->sched.waits = (uint8_t) infer_sampler_needs_last(q->sampler);

    return INFER_OK;
}

/* What an engine before this one has published. */
static int
seq_replay(infer_seq_t *q, const infer_bus_t *bus, uint32_t n_records,
    uint32_t vocab, infer_err_t *err)
{
    uint32_t        i;
    infer_top_t     none;
    infer_record_t  rec, again;

    for (i = 0; i < n_records; i++) {
        if (q->n_out >= q->max_out
            || infer_log_read(bus, q->ref, &q->cursor, i, &rec, &none, 0)
               != INFER_OK
            || !seq_ids_ok(&rec.id, 1, vocab))
        {
            return seq_damaged(err, "output log");
        }

        infer_seq_accept(q, rec.id, &again);

        if (rec.flags & INFER_REC_END) {
            /* logged before the death: what it said is what counts */
            q->finish = rec.flags & (INFER_REC_HIDDEN | INFER_REC_STOP)
                        ? INFER_FINISH_STOP : INFER_FINISH_LENGTH;
            break;
        }
        q->finish = INFER_FINISH_NONE;
    }

    q->sched.has_output = q->n_out > 0;

    if (q->finish == INFER_FINISH_NONE && q->n_out >= q->max_out) {
        q->finish = INFER_FINISH_LENGTH;
    }

    return INFER_OK;
}

int
infer_seq_new(infer_seq_t **seq, const infer_bus_t *bus, infer_ref_t ref,
    const infer_seq_env_t *env, infer_err_t *err)
{
    int            rc;
    uint32_t       most;
    infer_seq_t   *q;
    seq_request_t  r;

    q = calloc(1, sizeof(*q));
    if (q == NULL) {
        return infer_err(err, INFER_NOMEM, "no memory for a sequence");
    }

    q->ref = ref;
    q->text = env->text;
    q->model = env->model;
    q->context = env->context;
    seq_copy_request(q, &r, &bus->slot[ref.slot]);
    r.n_records = infer_log_count(bus, ref);

    if ((rc = seq_check_sampling(&q->params, err)) != INFER_OK
        || (rc = seq_check_request(q, &r, err)) != INFER_OK)
    {
        infer_seq_free(q);
        return rc;
    }

    q->n_prompt = r.n_prompt;
    most = q->context - q->n_prompt;
    most = most < r.max_records ? most : r.max_records;
    q->max_out = most < q->params.max_tokens ? most : q->params.max_tokens;
    q->sched.max_known = q->n_prompt + q->max_out;

    if ((rc = seq_new_tokens(q, bus, env->vocab, err)) != INFER_OK
        || (rc = seq_new_stream(q, bus, r.n_stops, err)) != INFER_OK
        || (rc = seq_new_sampler(q, bus, &r, env->vocab, err)) != INFER_OK
        || (rc = seq_replay(q, bus, r.n_records, env->vocab, err))
           != INFER_OK)
    {
        infer_seq_free(q);
        return rc;
    }

    *seq = q;

    return INFER_OK;
}

void
infer_seq_free(infer_seq_t *q)
{
    if (q == NULL) {
        return;
    }

    infer_assert(q->sched.state == INFER_SEQ_NONE);
    infer_sampler_free(q->sampler);
    infer_stream_free(q->stream);
    infer_kv_table_done(&q->sched.table);
    free(q->token);
    free(q);
}

static int
seq_is_ending(const infer_seq_t *q, int32_t id)
{
    uint32_t  i;

    for (i = 0; i < q->n_stop_ids; i++) {
        if (q->stop_id[i] == id) {
            return 1;
        }
    }

    return !q->params.ignore_eos && infer_text_is_eog(q->text, id);
}

void
infer_seq_accept(infer_seq_t *q, int32_t id, infer_record_t *rec)
{
    int          hidden = seq_is_ending(q, id), matched;
    size_t       len;
    const char  *out;

    infer_assert(q->n_out < q->max_out);
    infer_sampler_accept(q->sampler, id);
    matched = infer_stream_put(q->stream, id, hidden, &out, &len);
    q->token[q->sched.n_known++] = id;
    q->n_out++;

    rec->id = id;
    rec->flags = 0;

    if (hidden) {
        rec->flags = INFER_REC_END | INFER_REC_HIDDEN;
        q->finish = INFER_FINISH_STOP;

    } else if (matched) {
        rec->flags = INFER_REC_END | INFER_REC_STOP;
        q->finish = INFER_FINISH_STOP;

    } else if (q->n_out >= q->max_out) {
        rec->flags = INFER_REC_END;
        q->finish = INFER_FINISH_LENGTH;
    }

    if (rec->flags & INFER_REC_END) {
        infer_stream_finish(q->stream, &out, &len);

        /* one that waited for another, which did not come */
        if (infer_stream_matched(q->stream) >= 0) {
            rec->flags |= INFER_REC_STOP;
            q->finish = INFER_FINISH_STOP;
        }
    }

    rec->visible = (uint32_t) infer_stream_visible(q->stream);
}
