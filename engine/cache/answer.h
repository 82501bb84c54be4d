/*
 * answer.h: finished answers as they lie in a cache: the output logs of all
 * choices, or one rendered answer in which id and time are still to be filled
 * in. Made from and turned into bytes; what comes out of a cache is checked
 * before use, since a second tier may hold anything. Any process; memory from
 * malloc.
 */

#ifndef INFER_CACHE_ANSWER_H
#define INFER_CACHE_ANSWER_H

#include "text/api.h"

#define INFER_ANSWER_MAX  (16u << 20)      /* bytes of one */
#define INFER_ANSWER_DECIMAL  24           /* bytes that hold any int64_t */

/* One choice of a packed log; recs and top point into the bytes. */
typedef struct {
    uint32_t               finish;         /* INFER_FINISH_STOP or LENGTH */
    uint32_t               n;              /* records */
    const infer_record_t  *recs;
    const infer_top_t     *top;            /* n * n_top */
} infer_answer_choice_t;

typedef struct {
    uint32_t               n_choices, n_top;
    infer_api_usage_t      usage;
    infer_answer_choice_t  choice[INFER_MAX_CHOICES];
} infer_answer_t;

/* Packing: begin, then per choice, ascending, its records, then end with the
 * usage. Every call returns infer_buf_rc(out). */
int infer_answer_begin(infer_buf_t *out, uint32_t n_choices, uint32_t n_top);
int infer_answer_choice(infer_buf_t *out, uint32_t finish,
    const infer_record_t *recs, const infer_top_t *top, uint32_t n,
    uint32_t n_top);
/* The same without the records: room for them, to be written by the caller;
 * *rec NULL when there is none. */
int infer_answer_room(infer_buf_t *out, uint32_t finish, uint32_t n,
    uint32_t n_top, infer_record_t **rec, infer_top_t **top);
int infer_answer_end(infer_buf_t *out, const infer_api_usage_t *usage);

/* Checks everything: CORRUPT when it is not an answer to a request of so
 * many choices and top_logprobs over a vocabulary. data: 8-aligned, stays
 * the caller's. */
int infer_answer_open(infer_answer_t *a, const void *data, size_t len,
    uint32_t n_choices, uint32_t n_top, uint32_t vocab);

/*
 * The whole answer to req from its logs, in its dialect, streamed or not, as
 * infer_render_* would have written it piece by piece. conf->blank: id and
 * time are left as marks for infer_answer_fill().
 */
int infer_answer_render(infer_buf_t *out, const infer_text_t *text,
    const infer_api_request_t *req, const infer_answer_t *a,
    const infer_render_conf_t *conf);
/*
 * A blank answer from mark to mark, for callers that do not want it copied:
 * part says what text comes next and returns the mark behind it, 0 at the
 * end. No mark lies across the pieces that an answer is cut into.
 */
typedef struct {
    const char  *at, *end, *id, *time;
} infer_answer_parts_t;

void infer_answer_parts(infer_answer_parts_t *p, const char *blank,
    size_t len);
int infer_answer_part(infer_answer_parts_t *p, const char **text,
    size_t *len);
/* Digits without printf(), into the end of to; returns their number. */
size_t infer_answer_decimal(char to[INFER_ANSWER_DECIMAL], int64_t value);
/* 1: blank has one mark of each kind, the id's before the time's, and they
 * are at these offsets. */
int infer_answer_once(const char *blank, size_t len, uint32_t *id_at,
    uint32_t *time_at);
/* blank with the marks replaced. */
int infer_answer_fill(infer_buf_t *out, const char *blank, size_t len,
    const infer_render_conf_t *conf);

#endif
