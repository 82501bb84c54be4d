/*
 * api_prompt.c: prompts of completions, text or token ids, one or many; and
 * the room that each prompt leaves in the context.
 */

#include "text/api_int.h"


int
api_encode(api_ctx_t *c, const char *param, const char *s,
    const uint8_t *client, size_t len, unsigned flags, infer_api_prompt_t *p)
{
    size_t       n = 0;
    int          rc;
    infer_err_t  err = { 0 };

    rc = infer_text_encode_marked(c->text, s, client, len, flags, &p->ids,
                                  &n, &err);

    if (rc == INFER_NOMEM) {
        return api_nomem(c);
    }

    if (rc != INFER_OK) {
        return api_invalid(c, param, "'%s' cannot be tokenized: %.400s.",
                           param, err.text);
    }

    if (n > INT32_MAX) {
        return api_invalid(c, param, "'%s' is too long.", param);
    }

    p->n_ids = (uint32_t) n;

    return INFER_OK;
}


int
api_budget(api_ctx_t *c, const char *param)
{
    infer_api_request_t  *req = c->req;
    uint32_t              context = c->conf->context, least = UINT32_MAX;

    for (uint32_t i = 0; i < req->n_prompts; i++) {
        infer_api_prompt_t *p = &req->prompts[i];

        if (p->n_ids == 0) {
            return api_invalid(c, param, "'%s' has no tokens.", param);
        }

        if (p->n_ids >= context) {
            (void) api_invalid(c, param, "This model's context is %u tokens, "
                               "but the prompt alone has %u.", context,
                               p->n_ids);
            c->error->code = "context_length_exceeded";

            return INFER_INVALID;
        }

        p->max_tokens = req->sampling.max_tokens;

        if (p->max_tokens > context - p->n_ids) {
            p->max_tokens = context - p->n_ids;
        }

        least = p->max_tokens < least ? p->max_tokens : least;
        req->n_prompt_tokens += p->n_ids;
    }

    req->sampling.max_tokens = least;

    return INFER_OK;
}


static int
prompt_text(api_ctx_t *c, const json_t *v, infer_api_prompt_t *p)
{
    const char  *s = json_string_value(v);
    size_t       len = json_string_length(v);

    if (c->req->sampling.echo) {
        int rc = api_copy(c, s, len, &p->echo);

        if (rc != INFER_OK) {
            return rc;
        }
    }

    return api_encode(c, "prompt", s, NULL, len,
                      INFER_TEXT_BOS | INFER_TEXT_SPECIAL, p);
}


/* The text of token ids, for echo. */
static int
prompt_echo_ids(api_ctx_t *c, infer_api_prompt_t *p)
{
    infer_buf_t  b = { 0 };
    size_t       len;
    const char  *s;
    int          rc;

    for (uint32_t i = 0; i < p->n_ids; i++) {
        s = infer_text_piece(c->text, p->ids[i], 1, &len);
        infer_buf_put(&b, s, len);
    }

    rc = infer_buf_rc(&b) == INFER_OK ? api_copy(c, b.data, b.len, &p->echo)
                                      : api_nomem(c);
    infer_buf_free(&b);

    return rc;
}


static int
prompt_one(api_ctx_t *c, const json_t *v, const char *param,
    infer_api_prompt_t *p)
{
    int rc;

    if (json_is_string(v)) {
        return prompt_text(c, v, p);
    }

    if (!json_is_array(v)) {
        return api_invalid(c, "prompt", "'prompt' must be a string, an array "
                           "of strings, an array of token ids or an array "
                           "of such arrays.");
    }

    rc = api_ids(c, param, v, 0, &p->ids, &p->n_ids);

    if (rc == INFER_OK && c->req->sampling.echo) {
        rc = prompt_echo_ids(c, p);
    }

    return rc;
}


/* Prompts and choices within the limit of slots. */
static int
prompt_room(api_ctx_t *c, size_t n_prompts)
{
    uint32_t  max = c->conf->max_n;

    if (max == 0 || max > INFER_MAX_CHOICES) {
        max = INFER_MAX_CHOICES;
    }

    if (n_prompts > max || n_prompts * c->req->n > max) {
        return api_invalid(c, n_prompts > 1 ? "prompt" : "n", "'n' %u for "
                           "%zu prompt%s makes %zu choices; at most %u are "
                           "possible.", c->req->n, n_prompts,
                           n_prompts == 1 ? "" : "s",
                           n_prompts * c->req->n, max);
    }

    c->req->prompts = calloc(n_prompts, sizeof(*c->req->prompts));

    if (c->req->prompts == NULL) {
        return api_nomem(c);
    }

    c->req->n_prompts = (uint32_t) n_prompts;

    return INFER_OK;
}


int
api_completions(api_ctx_t *c)
{
    json_t  *v = api_get(c, "prompt");
    int      rc, many;
    char     param[32];

    if (v == NULL) {
        return api_invalid(c, "prompt", "'prompt' is missing.");
    }

    if (json_is_array(v) && json_array_size(v) == 0) {
        return api_invalid(c, "prompt", "'prompt' is empty.");
    }

    many = json_is_array(v) && !json_is_number(json_array_get(v, 0));
    rc = prompt_room(c, many ? json_array_size(v) : 1);

    if (rc == INFER_OK && !many) {
        rc = prompt_one(c, v, "prompt", &c->req->prompts[0]);
    }

    for (uint32_t i = 0; many && rc == INFER_OK && i < c->req->n_prompts;
         i++)
    {
        (void) snprintf(param, sizeof(param), "prompt[%u]", i);
        rc = prompt_one(c, json_array_get(v, i), param, &c->req->prompts[i]);
    }

    return rc == INFER_OK ? api_budget(c, "prompt") : rc;
}


int
api_chat(api_ctx_t *c)
{
    int               rc = prompt_room(c, 1);
    infer_rendered_t  prompt;

    if (rc == INFER_OK) {
        rc = api_chat_prompt(c, &prompt);
    }

    if (rc != INFER_OK) {
        return rc;
    }

    rc = api_encode(c, "messages", prompt.text, prompt.client, prompt.len,
                    INFER_TEXT_SPECIAL, &c->req->prompts[0]);
    infer_rendered_free(&prompt);

    return rc == INFER_OK ? api_budget(c, "messages") : rc;
}
