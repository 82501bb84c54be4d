/*
 * dialect.h: what the files of render share; nobody else includes it. A
 * dialect is one output format: its file says how a choice looks as an event
 * of a stream and inside a whole answer; dialect.c does the rest.
 */

#ifndef INFER_TEXT_DIALECT_H
#define INFER_TEXT_DIALECT_H

#include "text/api.h"

typedef struct {
    uint64_t  offset;        /* characters before the next token's text */
    uint8_t   started;
    uint8_t   finished;
} dialect_choice_t;

/* Records that were read together, without ending tokens. */
typedef struct {
    const infer_record_t  *recs;
    const infer_top_t     *top;      /* n x n_top */
    uint32_t               n, n_top;
} dialect_recs_t;

typedef struct {
    const char  *id_prefix;
    const char  *object, *chunk_object;
    /* a stream's first event of a choice; may write nothing */
    void (*start)(infer_render_t *r, infer_buf_t *out, uint32_t choice);
    /* the element of "choices" in an event; finish NULL: not yet */
    void (*delta)(infer_render_t *r, infer_buf_t *out, uint32_t choice,
        const char *text, size_t len, const dialect_recs_t *recs,
        const char *finish);
    /* a whole answer: up to the inside of the text's quotes, and from their
     * end on */
    void (*open)(infer_render_t *r, infer_buf_t *out, uint32_t choice);
    void (*close)(infer_render_t *r, infer_buf_t *out, uint32_t choice,
        const dialect_recs_t *recs, const char *finish);
} dialect_t;

struct infer_render_s {
    const infer_text_t         *text;
    const infer_api_request_t  *req;
    const dialect_t            *dialect;
    infer_buf_t                 head;    /* of the answer or of each event */
    /* a whole answer's records of the choice being written */
    infer_buf_t                 recs, top;
    uint32_t                    n_choices;
    dialect_choice_t            choice[];
};

extern const dialect_t  dialect_chat;
extern const dialect_t  dialect_completions;

/* An event from the head to the array "choices", and its end. */
void dialect_event_open(infer_render_t *r, infer_buf_t *out);
void dialect_event_close(infer_render_t *r, infer_buf_t *out);
/* A token's bytes, special ones too. */
const char *dialect_piece(infer_render_t *r, int32_t id, size_t *len);
/* A JSON string of a token; bytes that are no UTF-8 as \xNN after prefix. */
void dialect_token(infer_render_t *r, infer_buf_t *out, int32_t id,
    const char *prefix);
/* "stop", or null when finish is NULL. */
void dialect_finish_reason(infer_buf_t *out, const char *finish);

#endif
