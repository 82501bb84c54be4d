/*
 * template.h: a Jinja interpreter for the chat templates in model files.
 * Templates are hostile input: parsing and rendering are bounded in depth,
 * steps and output. Pure functions on the caller's memory, for a worker's
 * threads; one compiled template may be rendered by several threads at once.
 * Source of the language: Jinja's template designer documentation, with
 * trim_blocks and lstrip_blocks on, as chat templates are run elsewhere.
 */

#ifndef INFER_TEXT_TEMPLATE_H
#define INFER_TEXT_TEMPLATE_H

#include <jansson.h>

#include "infer.h"

typedef struct infer_template_s  infer_template_t;

typedef struct {
    uint32_t  max_steps;       /* 0: 1,000,000 evaluations */
    uint32_t  max_output;      /* 0: 8 MiB, bytes */
    uint32_t  max_depth;       /* 0: 64, nested calls, blocks, values */
} infer_template_limits_t;

/* A prompt, and whose text it is: client[i] is 1 where byte i came from the
 * variables, so that nobody takes what a client wrote for a special token
 * of the template's. client is NULL where all is the template's. */
typedef struct {
    char     *text;            /* NUL-terminated */
    uint8_t  *client;
    size_t    len;
} infer_rendered_t;

/* Compiles src[0..len). INVALID with a sentence that names the line. The
 * result belongs to the caller; src is not kept. */
int infer_template_compile(infer_template_t **tpl, const char *src,
    size_t len, infer_err_t *err);
void infer_template_free(infer_template_t *tpl);

/*
 * Renders with the members of the JSON object vars as global variables
 * (messages, add_generation_prompt, bos_token, eos_token, tools, and
 * whatever chat_template_kwargs brought). strftime_now, raise_exception,
 * namespace, range, dict and the usual filters and tests are built in; a
 * raise_exception("...") is INVALID with that text. *out belongs to the
 * caller, for infer_rendered_free(); all zero after an error. UNSUPPORTED
 * names a filter, test or function that we do not have; INVALID other
 * errors, with the line. now: seconds since the epoch for strftime_now.
 *
 * All strings and keys in vars are the client's, through whatever filter and
 * method they go, but for these, which the caller vouches for: bos_token,
 * eos_token and the `role` of each member of messages, of which templates
 * make special tokens ('<|' + role + '|>').
 */
int infer_template_render(const infer_template_t *tpl, json_t *vars,
    const infer_template_limits_t *limits, int64_t now,
    infer_rendered_t *out, infer_err_t *err);
void infer_rendered_free(infer_rendered_t *r);

#endif
