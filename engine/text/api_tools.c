/*
 * api_tools.c: /tokenize, /detokenize and /apply-template: requests that are
 * answered as soon as they are read.
 */

#include "text/api_int.h"


/* A piece as a string, or as an array of bytes when it is not UTF-8. */
static void
tools_piece(infer_buf_t *b, const infer_text_t *text, int32_t id)
{
    size_t       len;
    const char  *s = infer_text_piece(text, id, 1, &len);

    infer_buf_str(b, "{\"id\":");
    infer_buf_u64(b, (uint64_t) id);
    infer_buf_str(b, ",\"piece\":");

    if (infer_utf8_valid(s, len)) {
        infer_buf_quote(b, s, len);
        infer_buf_str(b, "}");
        return;
    }

    for (size_t i = 0; i < len; i++) {
        infer_buf_str(b, i ? "," : "[");
        infer_buf_u64(b, (unsigned char) s[i]);
    }

    infer_buf_str(b, "]}");
}


static int
tools_done(api_ctx_t *c)
{
    return infer_buf_rc(&c->req->body) == INFER_OK ? INFER_OK : api_nomem(c);
}


int
api_tokenize(api_ctx_t *c)
{
    int                  special = 1, bos = 0, pieces = 0, rc;
    const char          *name;
    json_t              *v;
    infer_buf_t         *b = &c->req->body;
    infer_api_prompt_t   p = { 0 };

    name = api_get(c, "content") || !api_get(c, "prompt") ? "content"
                                                          : "prompt";
    v = api_get(c, name);

    if (!json_is_string(v)) {
        return api_invalid(c, name, v ? "'%s' must be a string."
                                      : "'%s' is missing.", name);
    }

    if ((rc = api_bool(c, "add_special", &bos))
        || (rc = api_bool(c, "parse_special", &special))
        || (rc = api_bool(c, "with_pieces", &pieces)))
    {
        return rc;
    }

    rc = api_encode(c, name, json_string_value(v), NULL,
                    json_string_length(v), (special ? INFER_TEXT_SPECIAL : 0)
                    | (bos ? INFER_TEXT_BOS : 0), &p);

    if (rc != INFER_OK) {
        return rc;
    }

    infer_buf_str(b, "{\"tokens\":[");

    for (uint32_t i = 0; i < p.n_ids; i++) {
        infer_buf_put(b, ",", i > 0);

        if (pieces) {
            tools_piece(b, c->text, p.ids[i]);
        } else {
            infer_buf_u64(b, (uint64_t) p.ids[i]);
        }
    }

    infer_buf_printf(b, "],\"count\":%u,\"max_model_len\":%u}", p.n_ids,
                     c->conf->context);
    free(p.ids);

    return tools_done(c);
}


int
api_detokenize(api_ctx_t *c)
{
    int           rc;
    size_t        len;
    int32_t      *ids;
    uint32_t      n;
    json_t       *v = api_get(c, "tokens");
    const char   *s;
    infer_buf_t   text = { 0 }, *b = &c->req->body;

    if (v == NULL) {
        return api_invalid(c, "tokens", "'tokens' is missing.");
    }

    rc = api_ids(c, "tokens", v, 0, &ids, &n);

    if (rc != INFER_OK) {
        return rc;
    }

    for (uint32_t i = 0; i < n; i++) {
        s = infer_text_piece(c->text, ids[i], 1, &len);
        infer_buf_put(&text, s, len);
    }

    free(ids);

    infer_buf_str(b, "{\"content\":");
    infer_buf_quote(b, text.data ? text.data : "", text.len);
    infer_buf_str(b, ",\"prompt\":");
    infer_buf_quote(b, text.data ? text.data : "", text.len);
    infer_buf_str(b, "}");

    rc = infer_buf_rc(&text) == INFER_OK ? tools_done(c) : api_nomem(c);
    infer_buf_free(&text);

    return rc;
}


int
api_apply_template(api_ctx_t *c)
{
    infer_rendered_t  prompt;
    int               rc = api_chat_prompt(c, &prompt);

    if (rc != INFER_OK) {
        return rc;
    }

    infer_buf_str(&c->req->body, "{\"prompt\":");
    infer_buf_quote(&c->req->body, prompt.text, prompt.len);
    infer_buf_str(&c->req->body, "}");
    infer_rendered_free(&prompt);

    return tools_done(c);
}
