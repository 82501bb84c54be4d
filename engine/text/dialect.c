/*
 * dialect.c: the course of an answer, the same in every dialect: head,
 * choices, usage, end. What a stream keeps between two calls is the head and
 * 16 bytes per choice.
 */

#include "text/dialect.h"


static void
dialect_head(infer_render_t *r, const infer_render_conf_t *conf)
{
    infer_buf_t      *b = &r->head;
    const dialect_t  *d = r->dialect;

    if (r->req->stream) {
        infer_buf_str(b, "data: ");
    }

    infer_buf_printf(b, "{\"id\":\"%s", d->id_prefix);
    if (conf->blank) {
        infer_buf_put(b, (const char []) { INFER_RENDER_ID }, 1);
    } else {
        infer_buf_escape_any(b, conf->id.data, conf->id.len);
    }
    infer_buf_printf(b, "\",\"object\":\"%s\",\"created\":",
                     r->req->stream ? d->chunk_object : d->object);
    if (conf->blank) {
        infer_buf_put(b, (const char []) { INFER_RENDER_TIME }, 1);
    } else {
        infer_buf_printf(b, "%lld", (long long) conf->created);
    }
    infer_buf_str(b, ",\"model\":");
    infer_buf_quote(b, r->req->model.data, r->req->model.len);
    infer_buf_str(b, ",\"system_fingerprint\":");

    if (conf->fingerprint.len != 0) {
        infer_buf_quote(b, conf->fingerprint.data, conf->fingerprint.len);
    } else {
        infer_buf_str(b, "null");
    }

    infer_buf_str(b, ",\"choices\":[");
}


int
infer_render_new(infer_render_t **out, const infer_text_t *text,
    const infer_api_request_t *req, const infer_render_conf_t *conf)
{
    uint32_t         n = req->n_prompts * req->n;
    infer_render_t  *r;

    infer_assert(n >= 1 && n <= INFER_MAX_CHOICES);

    *out = NULL;
    r = calloc(1, sizeof(*r) + n * sizeof(r->choice[0]));

    if (r == NULL) {
        return INFER_NOMEM;
    }

    r->text = text;
    r->req = req;
    r->n_choices = n;
    r->dialect = req->endpoint == INFER_API_CHAT ? &dialect_chat
                                                 : &dialect_completions;
    dialect_head(r, conf);

    if (infer_buf_rc(&r->head) != INFER_OK) {
        infer_render_free(r);
        return INFER_NOMEM;
    }

    *out = r;

    return INFER_OK;
}


void
infer_render_free(infer_render_t *r)
{
    if (r == NULL) {
        return;
    }

    infer_buf_free(&r->head);
    infer_buf_free(&r->recs);
    infer_buf_free(&r->top);
    free(r);
}


int
infer_render_begin(infer_render_t *r, infer_buf_t *out)
{
    if (!r->req->stream) {
        infer_buf_put(out, r->head.data, r->head.len);
    }

    return infer_buf_rc(out);
}


void
dialect_event_open(infer_render_t *r, infer_buf_t *out)
{
    infer_buf_put(out, r->head.data, r->head.len);
}


void
dialect_event_close(infer_render_t *r, infer_buf_t *out)
{
    infer_buf_str(out, r->req->include_usage ? "],\"usage\":null}\n\n"
                                             : "]}\n\n");
}


/* Opens a choice when it isn't open yet. */
static void
dialect_start(infer_render_t *r, infer_buf_t *out, uint32_t choice)
{
    if (r->choice[choice].started) {
        return;
    }

    r->choice[choice].started = 1;

    if (r->req->stream) {
        r->dialect->start(r, out, choice);
        return;
    }

    infer_buf_put(out, ",", choice > 0);
    r->dialect->open(r, out, choice);
    infer_buf_reset(&r->recs);
    infer_buf_reset(&r->top);
}


/* Ending tokens are the last of what was read, and have no entry. */
static dialect_recs_t
dialect_visible(infer_render_t *r, const infer_record_t *recs,
    const infer_top_t *top, uint32_t n)
{
    dialect_recs_t v = { recs, top, n, r->req->sampling.top_logprobs };

    if (!r->req->sampling.logprobs || recs == NULL) {
        v.n = 0;
    }

    while (v.n > 0 && (recs[v.n - 1].flags & INFER_REC_HIDDEN)) {
        v.n--;
    }

    return v;
}


/* A whole answer shows its logprobs behind the text. */
static void
dialect_keep(infer_render_t *r, infer_buf_t *out, const dialect_recs_t *v)
{
    infer_buf_put(&r->recs, (const char *) v->recs,
                  v->n * sizeof(infer_record_t));
    infer_buf_put(&r->top, (const char *) v->top,
                  (size_t) v->n * v->n_top * sizeof(infer_top_t));

    if (infer_buf_rc(&r->recs) || infer_buf_rc(&r->top)) {
        out->rc = INFER_NOMEM;
    }
}


int
infer_render_piece(infer_render_t *r, infer_buf_t *out, uint32_t choice,
    const char *text, size_t len, const infer_record_t *recs,
    const infer_top_t *top, uint32_t n_recs)
{
    dialect_recs_t v = dialect_visible(r, recs, top, n_recs);

    infer_assert(choice < r->n_choices && !r->choice[choice].finished);

    dialect_start(r, out, choice);

    if (!r->req->stream) {
        infer_buf_escape(out, text, len);
        dialect_keep(r, out, &v);
        return infer_buf_rc(out);
    }

    if (len > 0 || v.n > 0) {
        dialect_event_open(r, out);
        r->dialect->delta(r, out, choice, text, len, &v, NULL);
        dialect_event_close(r, out);
    }

    return infer_buf_rc(out);
}


int
infer_render_finish(infer_render_t *r, infer_buf_t *out, uint32_t choice,
    uint32_t finish)
{
    const char      *name = infer_api_finish_name(finish);
    dialect_recs_t   v = { .n_top = r->req->sampling.top_logprobs };

    infer_assert(choice < r->n_choices && !r->choice[choice].finished);

    if (finish != INFER_FINISH_STOP && finish != INFER_FINISH_LENGTH) {
        return INFER_INVALID;
    }

    dialect_start(r, out, choice);
    r->choice[choice].finished = 1;

    if (r->req->stream) {
        dialect_event_open(r, out);
        r->dialect->delta(r, out, choice, "", 0, &v, name);
        dialect_event_close(r, out);

        return infer_buf_rc(out);
    }

    v.recs = (const infer_record_t *) (const void *) r->recs.data;
    v.top = (const infer_top_t *) (const void *) r->top.data;
    v.n = (uint32_t) (r->recs.len / sizeof(infer_record_t));
    r->dialect->close(r, out, choice, &v, name);
    infer_buf_free(&r->recs);
    infer_buf_free(&r->top);

    return infer_buf_rc(out);
}


static void
dialect_usage(infer_buf_t *out, const infer_api_usage_t *u)
{
    infer_buf_printf(out, "\"usage\":{\"prompt_tokens\":%llu,"
                     "\"completion_tokens\":%llu,\"total_tokens\":%llu,"
                     "\"prompt_tokens_details\":{\"cached_tokens\":%llu}}",
                     (unsigned long long) u->prompt_tokens,
                     (unsigned long long) u->completion_tokens,
                     (unsigned long long) (u->prompt_tokens
                                           + u->completion_tokens),
                     (unsigned long long) u->cached_tokens);
}


int
infer_render_end(infer_render_t *r, infer_buf_t *out,
    const infer_api_usage_t *usage)
{
    if (!r->req->stream) {
        infer_buf_str(out, "],");
        dialect_usage(out, usage);
        infer_buf_str(out, "}");

        return infer_buf_rc(out);
    }

    if (r->req->include_usage) {
        dialect_event_open(r, out);
        infer_buf_str(out, "],");
        dialect_usage(out, usage);
        infer_buf_str(out, "}\n\n");
    }

    infer_buf_str(out, "data: [DONE]\n\n");

    return infer_buf_rc(out);
}


int
infer_render_failed(infer_buf_t *out, const infer_api_error_t *e)
{
    infer_buf_str(out, "data: ");
    (void) infer_api_render_error(out, e);
    infer_buf_str(out, "\n\n");

    return infer_buf_rc(out);
}


int
infer_render_ping(infer_buf_t *out)
{
    infer_buf_str(out, ": ping\n\n");

    return infer_buf_rc(out);
}


const char *
infer_render_content_type(const infer_api_request_t *req)
{
    return req->stream ? "text/event-stream" : "application/json";
}


const char *
dialect_piece(infer_render_t *r, int32_t id, size_t *len)
{
    return infer_text_piece(r->text, id, 1, len);
}


void
dialect_token(infer_render_t *r, infer_buf_t *out, int32_t id,
    const char *prefix)
{
    size_t       len;
    const char  *s = dialect_piece(r, id, &len);

    infer_buf_put(out, "\"", 1);

    if (infer_utf8_valid(s, len)) {
        infer_buf_escape(out, s, len);

    } else {
        infer_buf_str(out, prefix);

        for (size_t i = 0; i < len; i++) {
            infer_buf_printf(out, "\\\\x%02x", (unsigned char) s[i]);
        }
    }

    infer_buf_put(out, "\"", 1);
}


void
dialect_finish_reason(infer_buf_t *out, const char *finish)
{
    if (finish == NULL) {
        infer_buf_str(out, "\"finish_reason\":null}");
        return;
    }

    infer_buf_printf(out, "\"finish_reason\":\"%s\"}", finish);
}
