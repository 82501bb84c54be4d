/*
 * api_prepare.c: a request's body -> infer_api_request_t: the JSON as a
 * whole, the model's name, and which endpoint reads what.
 *
 * Jansson bounds the nesting (2,048) and nginx the size. The last of two
 * members with the same name counts.
 */

#include "text/api_int.h"


void
infer_api_request_shrink(infer_api_request_t *req)
{
    for (uint32_t i = 0; i < req->n_prompts; i++) {
        free(req->prompts[i].ids);
        req->prompts[i].ids = NULL;
    }

    free(req->stop_ids);
    free(req->bias);
    req->stop_ids = NULL;
    req->bias = NULL;
}


void
infer_api_request_free(infer_api_request_t *req)
{
    if (req == NULL) {
        return;
    }

    infer_api_request_shrink(req);

    for (uint32_t i = 0; i < req->n_prompts; i++) {
        free((void *) req->prompts[i].echo.data);
    }

    for (uint32_t i = 0; i < req->n_stops; i++) {
        free((void *) req->stops[i]);
    }

    free(req->prompts);
    free(req->stops);
    free(req->stop_lens);
    free((void *) req->model.data);
    infer_buf_free(&req->body);
    free(req);
}


static int
prepare_parse(api_ctx_t *c)
{
    json_error_t  error;
    int           rc;

    if (c->body_len == 0) {
        return api_invalid(c, "", "The body is empty; it must be a JSON "
                           "object.");
    }

    c->root = json_loadb(c->body, c->body_len, JSON_ALLOW_NUL, &error);

    if (c->root == NULL
        && json_error_code(&error) == json_error_numeric_overflow)
    {
        c->big = 1;
        c->root = json_loadb(c->body, c->body_len,
                             JSON_ALLOW_NUL | JSON_DECODE_INT_AS_REAL,
                             &error);
    }

    if (c->root == NULL) {
        /* jansson says mostly nothing when memory runs out */
        if (error.text[0] == '\0'
            || json_error_code(&error) == json_error_out_of_memory)
        {
            return api_nomem(c);
        }

        rc = api_invalid(c, "", "The body is not valid JSON: %s (line %d, "
                         "column %d, byte %d).", error.text, error.line,
                         error.column, error.position);
        c->error->code = "invalid_json";

        return rc;
    }

    if (!json_is_object(c->root)) {
        return api_invalid(c, "", "The body must be a JSON object.");
    }

    return INFER_OK;
}


static int
prepare_name_is(const json_t *v, const infer_str_t *name)
{
    return json_string_length(v) == name->len
           && memcmp(json_string_value(v), name->data, name->len) == 0;
}


static int
prepare_model(api_ctx_t *c)
{
    json_t                  *v = api_get(c, "model");
    const infer_api_conf_t  *conf = c->conf;
    int                      known;

    if (v == NULL) {
        return api_copy(c, conf->model.data, conf->model.len,
                        &c->req->model);
    }

    if (!json_is_string(v)) {
        return api_invalid(c, "model", "'model' must be a string.");
    }

    known = prepare_name_is(v, &conf->model);

    for (uint32_t i = 0; i < conf->n_aliases && !known; i++) {
        known = prepare_name_is(v, &conf->aliases[i]);
    }

    if (known) {
        return api_copy(c, json_string_value(v), json_string_length(v),
                        &c->req->model);
    }

    infer_api_error_status(c->error, 404, "");
    c->error->code = "model_not_found";
    (void) snprintf(c->error->param, sizeof(c->error->param), "model");
    (void) snprintf(c->error->message, sizeof(c->error->message),
                    "There is no model \"%.200s\" here; this is \"%.*s\".",
                    json_string_value(v),
                    (int) (conf->model.len > 200 ? 200 : conf->model.len),
                    conf->model.data);

    return INFER_INVALID;
}


static int
prepare_endpoint(api_ctx_t *c)
{
    int rc;

    switch (c->endpoint) {
    case INFER_API_TOKENIZE:
        return api_tokenize(c);
    case INFER_API_DETOKENIZE:
        return api_detokenize(c);
    default:
        break;
    }

    rc = api_refuse_later(c);

    if (rc != INFER_OK) {
        return rc;
    }

    if (c->endpoint == INFER_API_TEMPLATE) {
        return api_apply_template(c);
    }

    rc = api_sampling(c);

    if (rc != INFER_OK) {
        return rc;
    }

    return c->endpoint == INFER_API_CHAT ? api_chat(c) : api_completions(c);
}


int
infer_api_prepare(const infer_text_t *text, const infer_api_conf_t *conf,
    int endpoint, const char *body, size_t len, infer_api_request_t **req,
    infer_api_error_t *error)
{
    int        rc;
    api_ctx_t  c = { text, conf, body, len, endpoint, 0, NULL, NULL, error };

    *req = NULL;
    c.req = calloc(1, sizeof(*c.req));

    if (c.req == NULL) {
        return api_nomem(&c);
    }

    c.req->endpoint = endpoint;
    rc = prepare_parse(&c);

    if (rc == INFER_OK) {
        rc = prepare_model(&c);
    }

    if (rc == INFER_OK) {
        rc = prepare_endpoint(&c);
    }

    json_decref(c.root);

    if (rc != INFER_OK) {
        infer_api_request_free(c.req);
        return rc;
    }

    *req = c.req;

    return INFER_OK;
}
