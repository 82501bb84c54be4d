/*
 * buf.h: a growing byte buffer with a limit, and JSON text written into it
 * by hand. Memory from malloc; pure, for any thread. A failed append marks
 * the buffer and later ones do nothing, so that a caller checks once, with
 * infer_buf_rc(), when a whole document is written.
 */

#ifndef INFER_TEXT_BUF_H
#define INFER_TEXT_BUF_H

#include <string.h>

#include "infer.h"

typedef struct {
    char    *data;       /* malloc'd; may be taken: then zero the struct */
    size_t   len, cap;
    size_t   max;        /* 0: no limit but memory's */
    int      rc;         /* INFER_OK, INFER_NOMEM or INFER_BUSY (over max) */
} infer_buf_t;

/* {0} is an empty buffer without a limit. */
void infer_buf_free(infer_buf_t *b);
/* Empties it and clears rc; keeps the memory. */
void infer_buf_reset(infer_buf_t *b);
int infer_buf_rc(const infer_buf_t *b);
/* Room for n more bytes, or NULL; the caller writes them and adds to len. */
char *infer_buf_room(infer_buf_t *b, size_t n);

void infer_buf_put(infer_buf_t *b, const char *s, size_t len);
void infer_buf_str(infer_buf_t *b, const char *s);
void infer_buf_printf(infer_buf_t *b, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));
void infer_buf_u64(infer_buf_t *b, uint64_t v);
/* A float with nine digits; no number or infinite: -9999.0. */
void infer_buf_float(infer_buf_t *b, float v);

/* The inside of a JSON string, without its quotes. s is valid UTF-8. */
void infer_buf_escape(infer_buf_t *b, const char *s, size_t len);
/* The same for any bytes: what is not UTF-8 becomes U+FFFD. */
void infer_buf_escape_any(infer_buf_t *b, const char *s, size_t len);
/* A whole JSON string of any bytes, with quotes. */
void infer_buf_quote(infer_buf_t *b, const char *s, size_t len);

/* Length of the valid UTF-8 sequence at s[0..len), or 0; len >= 1. */
size_t infer_utf8_len(const char *s, size_t len);
int infer_utf8_valid(const char *s, size_t len);

#endif
