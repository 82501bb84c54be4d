/*
 * dialect_completions.c: text_completion, streamed or whole.
 */

#include "text/dialect.h"


/* Characters that start in s: over all tokens of a text each is counted
 * once, also one that several tokens share. */
static uint64_t
completions_chars(const char *s, size_t len)
{
    uint64_t n = 0;

    for (size_t i = 0; i < len; i++) {
        n += ((unsigned char) s[i] & 0xc0) != 0x80;
    }

    return n;
}


static const infer_str_t *
completions_echo(const infer_render_t *r, uint32_t choice)
{
    return &r->req->prompts[choice / r->req->n].echo;
}


/* The pairs of one token, and the token itself when it isn't one of them. */
static void
completions_top(infer_render_t *r, infer_buf_t *out, const dialect_recs_t *v,
    uint32_t i)
{
    int                 seen = 0;
    const infer_top_t  *top = v->top + (size_t) i * v->n_top;

    infer_buf_str(out, "{");

    for (uint32_t k = 0; k < v->n_top; k++) {
        infer_buf_put(out, ",", k > 0);
        dialect_token(r, out, top[k].id, "bytes:");
        infer_buf_str(out, ":");
        infer_buf_float(out, top[k].logprob);
        seen |= top[k].id == v->recs[i].id;
    }

    if (!seen) {
        infer_buf_put(out, ",", v->n_top > 0);
        dialect_token(r, out, v->recs[i].id, "bytes:");
        infer_buf_str(out, ":");
        infer_buf_float(out, v->recs[i].logprob);
    }

    infer_buf_str(out, "}");
}


/* "logprobs":..., with the comma behind it. */
static void
completions_logprobs(infer_render_t *r, infer_buf_t *out, uint32_t choice,
    const dialect_recs_t *v, int always)
{
    size_t       len;
    uint64_t    *offset = &r->choice[choice].offset;
    const char  *s;

    if (!r->req->sampling.logprobs || (v->n == 0 && !always)) {
        infer_buf_str(out, "\"logprobs\":null,");
        return;
    }

    infer_buf_str(out, "\"logprobs\":{\"tokens\":[");

    for (uint32_t i = 0; i < v->n; i++) {
        infer_buf_put(out, ",", i > 0);
        dialect_token(r, out, v->recs[i].id, "bytes:");
    }

    infer_buf_str(out, "],\"token_logprobs\":[");

    for (uint32_t i = 0; i < v->n; i++) {
        infer_buf_put(out, ",", i > 0);
        infer_buf_float(out, v->recs[i].logprob);
    }

    infer_buf_str(out, "],\"top_logprobs\":[");

    for (uint32_t i = 0; i < v->n; i++) {
        infer_buf_put(out, ",", i > 0);
        completions_top(r, out, v, i);
    }

    infer_buf_str(out, "],\"text_offset\":[");

    for (uint32_t i = 0; i < v->n; i++) {
        infer_buf_put(out, ",", i > 0);
        infer_buf_u64(out, *offset);
        s = infer_text_piece(r->text, v->recs[i].id, 0, &len);
        *offset += completions_chars(s, len);
    }

    infer_buf_str(out, "]},");
}


static void
completions_delta(infer_render_t *r, infer_buf_t *out, uint32_t choice,
    const char *text, size_t len, const dialect_recs_t *recs,
    const char *finish)
{
    infer_buf_str(out, "{\"index\":");
    infer_buf_u64(out, choice);
    infer_buf_str(out, ",\"text\":\"");
    infer_buf_escape(out, text, len);
    infer_buf_str(out, "\",");
    completions_logprobs(r, out, choice, recs, 0);
    dialect_finish_reason(out, finish);
}


/* With echo, the prompt comes first. It need not be UTF-8. */
static void
completions_start(infer_render_t *r, infer_buf_t *out, uint32_t choice)
{
    const infer_str_t *echo = completions_echo(r, choice);

    if (echo->len == 0) {
        return;
    }

    dialect_event_open(r, out);
    infer_buf_printf(out, "{\"index\":%u,\"text\":\"", choice);
    infer_buf_escape_any(out, echo->data, echo->len);
    infer_buf_str(out, "\",\"logprobs\":null,");
    dialect_finish_reason(out, NULL);
    dialect_event_close(r, out);
}


static void
completions_open(infer_render_t *r, infer_buf_t *out, uint32_t choice)
{
    const infer_str_t *echo = completions_echo(r, choice);

    infer_buf_printf(out, "{\"index\":%u,\"text\":\"", choice);
    infer_buf_escape_any(out, echo->data, echo->len);
}


static void
completions_close(infer_render_t *r, infer_buf_t *out, uint32_t choice,
    const dialect_recs_t *recs, const char *finish)
{
    infer_buf_str(out, "\",");
    completions_logprobs(r, out, choice, recs, 1);
    dialect_finish_reason(out, finish);
}


const dialect_t  dialect_completions = {
    .id_prefix = "cmpl-",
    .object = "text_completion",
    .chunk_object = "text_completion",
    .start = completions_start,
    .delta = completions_delta,
    .open = completions_open,
    .close = completions_close
};
