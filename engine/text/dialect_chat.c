/*
 * dialect_chat.c: chat.completion and chat.completion.chunk.
 */

#include "text/dialect.h"


static void
chat_entry(infer_render_t *r, infer_buf_t *out, int32_t id, float logprob)
{
    size_t       len;
    const char  *s = dialect_piece(r, id, &len);

    infer_buf_str(out, "{\"token\":");
    dialect_token(r, out, id, "");
    infer_buf_str(out, ",\"logprob\":");
    infer_buf_float(out, logprob);
    infer_buf_str(out, ",\"bytes\":[");

    for (size_t i = 0; i < len; i++) {
        infer_buf_put(out, ",", i > 0);
        infer_buf_u64(out, (unsigned char) s[i]);
    }

    infer_buf_str(out, "]");
}


/* "logprobs":..., with the comma behind it. */
static void
chat_logprobs(infer_render_t *r, infer_buf_t *out, const dialect_recs_t *v,
    int always)
{
    const infer_top_t *top;

    if (!r->req->sampling.logprobs || (v->n == 0 && !always)) {
        infer_buf_str(out, "\"logprobs\":null,");
        return;
    }

    infer_buf_str(out, "\"logprobs\":{\"content\":[");

    for (uint32_t i = 0; i < v->n; i++) {
        infer_buf_put(out, ",", i > 0);
        chat_entry(r, out, v->recs[i].id, v->recs[i].logprob);
        infer_buf_str(out, ",\"top_logprobs\":[");

        for (uint32_t k = 0; k < v->n_top; k++) {
            top = &v->top[(size_t) i * v->n_top + k];
            infer_buf_put(out, ",", k > 0);
            chat_entry(r, out, top->id, top->logprob);
            infer_buf_str(out, "}");
        }

        infer_buf_str(out, "]}");
    }

    infer_buf_str(out, "],\"refusal\":null},");
}


static void
chat_start(infer_render_t *r, infer_buf_t *out, uint32_t choice)
{
    dialect_event_open(r, out);
    infer_buf_printf(out, "{\"index\":%u,\"delta\":{\"role\":\"assistant\","
                     "\"content\":\"\"},\"logprobs\":null,", choice);
    dialect_finish_reason(out, NULL);
    dialect_event_close(r, out);
}


static void
chat_delta(infer_render_t *r, infer_buf_t *out, uint32_t choice,
    const char *text, size_t len, const dialect_recs_t *recs,
    const char *finish)
{
    infer_buf_str(out, "{\"index\":");
    infer_buf_u64(out, choice);
    infer_buf_str(out, ",\"delta\":{");

    if (finish == NULL) {
        infer_buf_str(out, "\"content\":\"");
        infer_buf_escape(out, text, len);
        infer_buf_str(out, "\"");
    }

    infer_buf_str(out, "},");
    chat_logprobs(r, out, recs, 0);
    dialect_finish_reason(out, finish);
}


static void
chat_open(infer_render_t *r, infer_buf_t *out, uint32_t choice)
{
    (void) r;
    infer_buf_printf(out, "{\"index\":%u,\"message\":{\"role\":"
                     "\"assistant\",\"content\":\"", choice);
}


static void
chat_close(infer_render_t *r, infer_buf_t *out, uint32_t choice,
    const dialect_recs_t *recs, const char *finish)
{
    (void) choice;
    infer_buf_str(out, "\",\"refusal\":null},");
    chat_logprobs(r, out, recs, 1);
    dialect_finish_reason(out, finish);
}


const dialect_t  dialect_chat = {
    .id_prefix = "chatcmpl-",
    .object = "chat.completion",
    .chunk_object = "chat.completion.chunk",
    .start = chat_start,
    .delta = chat_delta,
    .open = chat_open,
    .close = chat_close
};
