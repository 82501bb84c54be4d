/*
 * api_int.h: what the files of prepare share; nobody else includes it.
 * Readers of fields leave *out alone when the field is absent or null, and
 * answer a wrong type or range with a 400 that names the field.
 */

#ifndef INFER_TEXT_API_INT_H
#define INFER_TEXT_API_INT_H

#include <jansson.h>

#include "text/api.h"

typedef struct {
    const infer_text_t      *text;
    const infer_api_conf_t  *conf;
    const char              *body;
    size_t                   body_len;
    int                      endpoint;
    int                      big;       /* some integer of the body has more
                                         * than 63 bits: all are reals */
    json_t                  *root;
    infer_api_request_t     *req;
    infer_api_error_t       *error;
} api_ctx_t;

/* api_fields.c: 400s; they return INFER_INVALID, INFER_UNSUPPORTED and
 * INFER_NOMEM. */
int api_invalid(api_ctx_t *c, const char *param, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
int api_unsupported(api_ctx_t *c, const char *param, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
int api_nomem(api_ctx_t *c);

/* NULL: absent or null. */
json_t *api_get(api_ctx_t *c, const char *name);
int api_bool(api_ctx_t *c, const char *name, int *out);
int api_int(api_ctx_t *c, const char *name, int64_t min, int64_t max,
    int64_t *out);
int api_number(api_ctx_t *c, const char *name, double min, double max,
    float *out);
/* An integer, also one written as 5.0: 1 when v is one. */
int api_integer(const json_t *v, int64_t *out);
/* An array of token ids -> malloc'd ids. max: most elements, 0 no limit. */
int api_ids(api_ctx_t *c, const char *param, const json_t *v, size_t max,
    int32_t **ids, uint32_t *n_ids);
/* A copy in malloc'd memory, with a NUL behind it. */
int api_copy(api_ctx_t *c, const char *s, size_t len, infer_str_t *out);
int api_seed(api_ctx_t *c);

/* api_sampling.c: everything but prompts. */
int api_sampling(api_ctx_t *c);
int api_refuse_later(api_ctx_t *c);

/* api_chat.c: renders the template over `messages`; *prompt is the
 * caller's. */
int api_chat_prompt(api_ctx_t *c, infer_rendered_t *prompt);
int api_chat(api_ctx_t *c);

/* api_prompt.c: `prompt` of completions; budget of every prompt. */
int api_completions(api_ctx_t *c);
int api_encode(api_ctx_t *c, const char *param, const char *s,
    const uint8_t *client, size_t len, unsigned flags,
    infer_api_prompt_t *p);
int api_budget(api_ctx_t *c, const char *param);

/* api_tools.c: the endpoints that answer at once. */
int api_tokenize(api_ctx_t *c);
int api_detokenize(api_ctx_t *c);
int api_apply_template(api_ctx_t *c);

#endif
