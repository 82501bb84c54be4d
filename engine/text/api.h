/*
 * api.h: the HTTP API without HTTP: a request's JSON -> what to generate,
 * and what was generated -> JSON or server-sent events. No nginx, no globals,
 * memory from malloc. Two halves:
 *
 *   prepare   in a thread of the pool: parse, template, tokenize, check
 *   render    in the event loop: a few KiB per request, nothing slow
 *
 * Compatible with OpenAI's chat.completions and completions, and with
 * llama-server's /tokenize, /detokenize and /apply-template.
 */

#ifndef INFER_TEXT_API_H
#define INFER_TEXT_API_H

#include "infer.h"
#include "ipc/layout.h"      /* infer_record_t, infer_top_t */
#include "text/buf.h"
#include "text/text.h"


typedef struct {
    const char  *data;
    size_t       len;
} infer_str_t;


/* ---- errors ---- */

/* type and code are static strings, code may be NULL; param is empty when
 * no field is to blame. */
typedef struct {
    int          status;         /* HTTP */
    const char  *type, *code;
    char         param[64];
    char         message[512];
} infer_api_error_t;

/* Sets everything by HTTP status, the one place that knows type and code of
 * each; message NULL: that status's own sentence. Any status >= 400. */
void infer_api_error_status(infer_api_error_t *e, int status,
    const char *message);
/* From an INFER_ code (message may be NULL). */
void infer_api_error_rc(infer_api_error_t *e, int rc, const char *message);
/* From a finish that is no answer: TIMEOUT_QUEUE 503, TIMEOUT 504, ERROR and
 * CANCELLED 500. message NULL: its own sentence. */
void infer_api_error_finish(infer_api_error_t *e, uint32_t finish,
    const char *message);
/* {"error":{...}}. Returns infer_buf_rc(out). */
int infer_api_render_error(infer_buf_t *out, const infer_api_error_t *e);


/* ---- prepare ---- */

enum {
    INFER_API_CHAT = 0,
    INFER_API_COMPLETIONS,
    INFER_API_TOKENIZE,
    INFER_API_DETOKENIZE,
    INFER_API_TEMPLATE
};

#define INFER_API_MAX_TOKENS  1024   /* default of a request without any */

/* What the location says. All pointers stay the caller's and are only read
 * during the call. */
typedef struct {
    infer_str_t         model;       /* name; what answers say if the request
                                      * names none */
    const infer_str_t  *aliases;     /* other names that are accepted */
    uint32_t            n_aliases;
    uint32_t            context;     /* tokens of prompt + output */
    /* what a request leaves out; seed counts when seed_set; max_tokens is
     * not read */
    infer_sampling_t    sampling;
    uint8_t             seed_set;
    uint32_t            max_tokens;      /* default; 0: INFER_API_MAX_TOKENS */
    uint32_t            max_tokens_cap;  /* a larger one is lowered to it;
                                          * 0: none */
    uint32_t            max_n;       /* prompts x n, 0: INFER_MAX_CHOICES */
    infer_str_t         system;      /* for a chat without one; len 0: none */
    int64_t             now;         /* seconds, for strftime_now */
} infer_api_conf_t;

typedef struct {
    int32_t     *ids;                /* NULL after infer_api_request_shrink */
    uint32_t     n_ids;
    uint32_t     max_tokens;         /* min(asked, cap, context - n_ids) */
    infer_str_t  echo;               /* prompt text, if echo was asked for */
} infer_api_prompt_t;

/* Owns everything it points to. The slots of a request are its n_prompts x n
 * choices, choice = prompt index x n + number. */
typedef struct {
    int                  endpoint;   /* INFER_API_* */
    uint32_t             n_prompts;
    uint32_t             n;
    infer_api_prompt_t  *prompts;
    uint64_t             n_prompt_tokens;    /* over all prompts */

    infer_sampling_t     sampling;   /* max_tokens is the smallest of the
                                      * prompts': use prompts[].max_tokens */
    uint8_t              seed_set;   /* 0: the caller draws sampling.seed */
    uint8_t              stream;
    uint8_t              include_usage;      /* in the stream */

    /* as infer_stream_new() takes them */
    const char         **stops;
    size_t              *stop_lens;
    uint32_t             n_stops;
    int32_t             *stop_ids;
    uint32_t             n_stop_ids;
    infer_bias_t        *bias;       /* sorted by id, each id once */
    uint32_t             n_bias;

    infer_str_t          model;      /* as the client wrote it */
    infer_buf_t          body;       /* TOKENIZE, DETOKENIZE, TEMPLATE: the
                                      * answer; nothing to generate */
} infer_api_request_t;

/*
 * Parses and checks body[0..len), renders the chat template, tokenizes. Any
 * thread. INFER_OK: *req is the caller's, to be freed with
 * infer_api_request_free(). Else: *error is filled in with what to answer,
 * *req is NULL; INVALID or UNSUPPORTED for the client's fault, NOMEM ours.
 */
int infer_api_prepare(const infer_text_t *text, const infer_api_conf_t *conf,
    int endpoint, const char *body, size_t len, infer_api_request_t **req,
    infer_api_error_t *error);
void infer_api_request_free(infer_api_request_t *req);
/* Once the slots are submitted: gives back ids, stop ids and biases. What
 * rendering and infer_stream_new() need stays. */
void infer_api_request_shrink(infer_api_request_t *req);


/* ---- render ---- */

typedef struct infer_render_s  infer_render_t;

typedef struct {
    infer_str_t  id;             /* request id, without prefix; any bytes */
    int64_t      created;        /* seconds */
    infer_str_t  fingerprint;    /* system_fingerprint; len 0: null */
    uint8_t      blank;          /* 1: INFER_RENDER_ID and _TIME, bytes that
                                  * JSON never holds, stand for id and
                                  * created */
} infer_render_conf_t;

#define INFER_RENDER_ID    1
#define INFER_RENDER_TIME  2

typedef struct {
    uint64_t  prompt_tokens;     /* of all prompts, each counted once */
    uint64_t  completion_tokens; /* of all choices, ending tokens too */
    uint64_t  cached_tokens;
} infer_api_usage_t;

/*
 * A renderer of one answer. text and req must outlive it. Its output is
 * appended to the caller's buffer; every call returns infer_buf_rc(out).
 *
 *   stream     per choice, in any interleaving: piece* finish; then end
 *   otherwise  when all is done: begin, then choice by choice, ascending,
 *              piece* finish; then end
 *
 * so that a request which does not stream keeps no text: at the end the logs
 * are run through infer_stream_t into the buffer. begin writes nothing in a
 * stream, and may be called there too.
 */
int infer_render_new(infer_render_t **r, const infer_text_t *text,
    const infer_api_request_t *req, const infer_render_conf_t *conf);
void infer_render_free(infer_render_t *r);

int infer_render_begin(infer_render_t *r, infer_buf_t *out);

/*
 * Text newly visible in one choice (what infer_stream_put() gave, valid
 * UTF-8, of one record or of several joined) together with the records that
 * were read; text may be empty (held back), and so may be the records (the
 * flush at the end). Logprob entries go out with the record, not with its
 * text. top: n_recs x sampling.top_logprobs pairs, NULL when that is 0;
 * recs NULL when no logprobs were asked for. In a stream: at most one event
 * (and the role's before it); nothing when there is nothing to say.
 */
int infer_render_piece(infer_render_t *r, infer_buf_t *out, uint32_t choice,
    const char *text, size_t len, const infer_record_t *recs,
    const infer_top_t *top, uint32_t n_recs);

/* The choice has ended; finish is STOP or LENGTH, else INFER_INVALID comes
 * back and the caller sends an error (infer_render_failed). */
int infer_render_finish(infer_render_t *r, infer_buf_t *out, uint32_t choice,
    uint32_t finish);

/* Usage, and [DONE] of a stream. */
int infer_render_end(infer_render_t *r, infer_buf_t *out,
    const infer_api_usage_t *usage);

/* Stream: an error event, after which the connection is closed (no [DONE]).
 * ping: a comment that keeps proxies awake. */
int infer_render_failed(infer_buf_t *out, const infer_api_error_t *e);
int infer_render_ping(infer_buf_t *out);

/* "text/event-stream" or "application/json". */
const char *infer_render_content_type(const infer_api_request_t *req);
/* "stop", "length", "cancelled", "timeout", "error"; "" for NONE. */
const char *infer_api_finish_name(uint32_t finish);


/* ---- models ---- */

typedef struct {
    infer_str_t         name;
    int64_t             created;
    uint32_t            n_ctx, n_ctx_train, n_vocab;
    uint64_t            n_params, size;  /* size: tensor bytes */
} infer_api_model_t;

/* {"object":"list","data":[...]}, and one element alone. */
int infer_api_render_models(infer_buf_t *out, const infer_api_model_t *models,
    uint32_t n);
int infer_api_render_model(infer_buf_t *out, const infer_api_model_t *model);

#endif
