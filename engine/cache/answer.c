/*
 * answer.c: see answer.h. A packed log is a head, then per choice a head and
 * its records and pairs; all of 8 bytes or multiples.
 */

#include <string.h>

#include "cache/answer.h"
#include "text/stream.h"

#define ANSWER_MAGIC  0x31414952u         /* "RIA1" */

typedef struct {
    uint32_t           magic;
    uint32_t           n_choices, n_top;
    uint32_t           bytes;
    infer_api_usage_t  usage;
} answer_head_t;

typedef struct {
    uint32_t  finish, n;
} answer_choice_t;


int
infer_answer_begin(infer_buf_t *out, uint32_t n_choices, uint32_t n_top)
{
    answer_head_t  h = {
        .magic = ANSWER_MAGIC, .n_choices = n_choices, .n_top = n_top
    };

    infer_buf_put(out, (const char *) &h, sizeof(h));
    return infer_buf_rc(out);
}

int
infer_answer_room(infer_buf_t *out, uint32_t finish, uint32_t n,
    uint32_t n_top, infer_record_t **rec, infer_top_t **top)
{
    char             *p;
    size_t            bytes;
    answer_choice_t   c = { finish, n };

    bytes = (size_t) n * (sizeof(**rec) + n_top * sizeof(**top));
    p = infer_buf_room(out, sizeof(c) + bytes);
    *rec = NULL;
    if (p != NULL) {
        memcpy(p, &c, sizeof(c));
        *rec = (infer_record_t *) (p + sizeof(c));
        *top = (infer_top_t *) (*rec + n);
        out->len += sizeof(c) + bytes;
    }
    return infer_buf_rc(out);
}

int
infer_answer_choice(infer_buf_t *out, uint32_t finish,
    const infer_record_t *recs, const infer_top_t *top, uint32_t n,
    uint32_t n_top)
{
    infer_top_t     *t;
    infer_record_t  *r;

    if (infer_answer_room(out, finish, n, n_top, &r, &t) == INFER_OK) {
        memcpy(r, recs, n * sizeof(*recs));
        if (n_top != 0) {
            memcpy(t, top, (size_t) n * n_top * sizeof(*top));
        }
    }
    return infer_buf_rc(out);
}

int
infer_answer_end(infer_buf_t *out, const infer_api_usage_t *usage)
{
    answer_head_t  h;

    if (infer_buf_rc(out) != INFER_OK || out->len > INFER_ANSWER_MAX) {
        return out->rc != INFER_OK ? out->rc : (out->rc = INFER_BUSY);
    }
    memcpy(&h, out->data, sizeof(h));
    h.usage = *usage;
    h.bytes = (uint32_t) out->len;
    memcpy(out->data, &h, sizeof(h));
    return INFER_OK;
}

/* The ids name tokens of the vocabulary, and only the last record ends. */
static int
answer_records_sane(const infer_answer_choice_t *c, uint32_t n_top,
    uint32_t vocab)
{
    uint32_t  i;

    for (i = 0; i < c->n; i++) {
        if (c->recs[i].id < 0 || (uint32_t) c->recs[i].id >= vocab) {
            return 0;
        }
    }
    for (i = 0; i < c->n * n_top; i++) {
        if (c->top[i].id < -1 || (c->top[i].id >= 0
                                  && (uint32_t) c->top[i].id >= vocab))
        {
            return 0;
        }
    }
    return 1;
}

int
infer_answer_open(infer_answer_t *a, const void *data, size_t len,
    uint32_t n_choices, uint32_t n_top, uint32_t vocab)
{
    size_t                  at = sizeof(answer_head_t), each, need;
    uint32_t                i;
    answer_head_t           h;
    answer_choice_t         ch;
    infer_answer_choice_t  *c;

    if (len < sizeof(h) || len > INFER_ANSWER_MAX) {
        return INFER_CORRUPT;
    }
    memcpy(&h, data, sizeof(h));
    if (h.magic != ANSWER_MAGIC || h.bytes != len
        || h.n_choices != n_choices || n_choices > INFER_MAX_CHOICES
        || h.n_top != n_top || n_top > INFER_MAX_TOP_LOGPROBS)
    {
        return INFER_CORRUPT;
    }

    a->n_choices = n_choices;
    a->n_top = n_top;
    a->usage = h.usage;
    each = sizeof(infer_record_t) + n_top * sizeof(infer_top_t);

    for (i = 0; i < n_choices; i++) {
        if (len - at < sizeof(ch)) {
            return INFER_CORRUPT;
        }
        memcpy(&ch, (const uint8_t *) data + at, sizeof(ch));
        at += sizeof(ch);
        need = ch.n * each;
        if (ch.n > len / sizeof(infer_record_t) || len - at < need
            || (ch.finish != INFER_FINISH_STOP
                && ch.finish != INFER_FINISH_LENGTH))
        {
            return INFER_CORRUPT;
        }
        c = &a->choice[i];
        c->finish = ch.finish;
        c->n = ch.n;
        c->recs = (const void *) ((const uint8_t *) data + at);
        c->top = (const void *) (c->recs + ch.n);
        if (!answer_records_sane(c, n_top, vocab)) {
            return INFER_CORRUPT;
        }
        at += need;
    }
    return at == len ? INFER_OK : INFER_CORRUPT;
}

/* ---- from logs to an answer ---- */

typedef struct {
    infer_buf_t                  *out;
    infer_render_t               *render;
    const infer_api_request_t    *req;
    const infer_answer_t         *a;
} answer_job_t;

/* In a stream each record is a piece of its own; else they need not be. */
static int
answer_choice(const answer_job_t *j, infer_stream_t *st, uint32_t i)
{
    int                           rc = INFER_OK;
    size_t                        len;
    uint32_t                      k;
    const char                   *text;
    const infer_answer_choice_t  *c = &j->a->choice[i];

    for (k = 0; k < c->n && rc == INFER_OK; k++) {
        (void) infer_stream_put(st, c->recs[k].id,
                                (c->recs[k].flags & INFER_REC_HIDDEN) != 0,
                                &text, &len);
        rc = infer_render_piece(j->render, j->out, i, text, len,
                                j->req->sampling.logprobs ? &c->recs[k]
                                                          : NULL,
                                j->a->n_top ? c->top + k * j->a->n_top
                                            : NULL, 1);
    }

    infer_stream_finish(st, &text, &len);
    if (rc == INFER_OK && len != 0) {
        rc = infer_render_piece(j->render, j->out, i, text, len, NULL, NULL,
                                0);
    }
    return rc == INFER_OK ? infer_render_finish(j->render, j->out, i,
                                                c->finish) : rc;
}

static int
answer_choices(const answer_job_t *j, const infer_text_t *text)
{
    int                         rc = INFER_OK;
    uint32_t                    i;
    infer_stream_t             *st;
    const infer_api_request_t  *req = j->req;

    for (i = 0; i < j->a->n_choices && rc == INFER_OK; i++) {
        rc = infer_stream_new(&st, text, req->stops, req->stop_lens,
                              req->n_stops, req->sampling.min_tokens);
        if (rc == INFER_OK) {
            rc = answer_choice(j, st, i);
            infer_stream_free(st);
        }
    }
    return rc;
}

int
infer_answer_render(infer_buf_t *out, const infer_text_t *text,
    const infer_api_request_t *req, const infer_answer_t *a,
    const infer_render_conf_t *conf)
{
    int           rc;
    answer_job_t  j = { .out = out, .req = req, .a = a };

    rc = infer_render_new(&j.render, text, req, conf);
    if (rc != INFER_OK) {
        return rc;
    }
    rc = infer_render_begin(j.render, out);
    if (rc == INFER_OK) {
        rc = answer_choices(&j, text);
    }
    if (rc == INFER_OK) {
        rc = infer_render_end(j.render, out, &a->usage);
    }
    infer_render_free(j.render);
    return rc;
}

/* The next such mark, or the end. */
static const char *
answer_mark(const char *from, const char *end, int mark)
{
    const char  *p = memchr(from, mark, (size_t) (end - from));

    return p != NULL ? p : end;
}

/* printf() cost more than all else that a hit needs filled in. */
size_t
infer_answer_decimal(char to[INFER_ANSWER_DECIMAL], int64_t value)
{
    char      *p = to + INFER_ANSWER_DECIMAL;
    uint64_t   n = value < 0 ? 0 - (uint64_t) value : (uint64_t) value;

    do {
        *--p = (char) ('0' + n % 10);
        n /= 10;
    } while (n > 0);
    if (value < 0) {
        *--p = '-';
    }
    return (size_t) (to + INFER_ANSWER_DECIMAL - p);
}

/* The marks are looked for one kind at a time, since libc's memchr() is many
 * times as fast as a loop over bytes; most of an answer is neither. */
void
infer_answer_parts(infer_answer_parts_t *p, const char *blank, size_t len)
{
    p->at = blank;
    p->end = blank + len;
    p->id = answer_mark(blank, p->end, INFER_RENDER_ID);
    p->time = answer_mark(blank, p->end, INFER_RENDER_TIME);
}

int
infer_answer_part(infer_answer_parts_t *p, const char **text, size_t *len)
{
    const char  *mark = p->id < p->time ? p->id : p->time;

    *text = p->at;
    *len = (size_t) (mark - p->at);
    if (mark == p->end) {
        p->at = p->end;
        return 0;
    }
    p->at = mark + 1;
    if (mark == p->id) {
        p->id = answer_mark(p->at, p->end, INFER_RENDER_ID);
        return INFER_RENDER_ID;
    }
    p->time = answer_mark(p->at, p->end, INFER_RENDER_TIME);
    return INFER_RENDER_TIME;
}

int
infer_answer_once(const char *blank, size_t len, uint32_t *id_at,
    uint32_t *time_at)
{
    const char  *end = blank + len;
    const char  *id = answer_mark(blank, end, INFER_RENDER_ID);
    const char  *time = answer_mark(blank, end, INFER_RENDER_TIME);

    if (id >= time || time == end || len > UINT32_MAX
        || answer_mark(id + 1, end, INFER_RENDER_ID) != end
        || answer_mark(time + 1, end, INFER_RENDER_TIME) != end)
    {
        return 0;
    }
    *id_at = (uint32_t) (id - blank);
    *time_at = (uint32_t) (time - blank);
    return 1;
}

int
infer_answer_fill(infer_buf_t *out, const char *blank, size_t len,
    const infer_render_conf_t *conf)
{
    int                    mark;
    char                   created[INFER_ANSWER_DECIMAL];
    size_t                 n = infer_answer_decimal(created, conf->created);
    const char            *text;
    infer_answer_parts_t   p;

    infer_answer_parts(&p, blank, len);
    do {
        mark = infer_answer_part(&p, &text, &len);
        infer_buf_put(out, text, len);
        if (mark == INFER_RENDER_ID) {
            infer_buf_escape_any(out, conf->id.data, conf->id.len);
        } else if (mark == INFER_RENDER_TIME) {
            infer_buf_put(out, created + sizeof(created) - n, n);
        }
    } while (mark != 0);
    return infer_buf_rc(out);
}
