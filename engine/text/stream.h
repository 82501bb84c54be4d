/*
 * stream.h: token ids -> visible text of one generation, as a pure function
 * of the ids: detokenizer, UTF-8 hold and stop-string matcher. The engine
 * runs it to find the end of a generation, the worker runs it on the log to
 * get the same bytes; after a crash it is rebuilt by replay.
 *
 * Raw token bytes are turned into valid UTF-8: an incomplete sequence is
 * held until it is complete, an invalid one becomes U+FFFD (one per maximal
 * subpart, as Unicode recommends). Text that may be the start of a stop
 * string is held back. When a stop string matches, everything before it is
 * visible and the rest is dropped; of several, the one that starts first,
 * then the longer. A complete match therefore waits while one that starts
 * before it may still come true; it does not wait for a longer one at its
 * own place, since that shows the same text: the longest that is complete
 * with the token that decides is reported. So the visible text depends on
 * the bytes alone, not on where tokens end. Within the first min_tokens
 * tokens no stop string is matched (text of those tokens never takes part in
 * a match). finish() gives out what is held (an incomplete sequence as
 * U+FFFD).
 */

#ifndef INFER_TEXT_STREAM_H
#define INFER_TEXT_STREAM_H

#include "text/text.h"

typedef struct infer_stream_s  infer_stream_t;

/* stop strings are copied. n_stops <= INFER_MAX_STOPS, each 1 ..
 * INFER_MAX_STOP_BYTES bytes. One allocation, of bounded size (a few KiB at
 * most), given back by infer_stream_free. */
int infer_stream_new(infer_stream_t **st, const infer_text_t *text,
    const char *const *stops, const size_t *stop_lens, uint32_t n_stops,
    uint32_t min_tokens);
void infer_stream_free(infer_stream_t *st);

/* Puts one token in. hidden: 1 for an ending token (EOS, stop id), which
 * shows nothing. The newly visible bytes are out[0..*out_len), valid until
 * the next call. Returns 1 when a stop string has matched (the generation
 * ends; later calls give nothing), else 0. */
int infer_stream_put(infer_stream_t *st, int32_t id, int hidden,
    const char **out, size_t *out_len);

/* The generation ended: what is held comes out, nothing after a match. A
 * match that waited counts now: ask infer_stream_matched() afterwards. */
void infer_stream_finish(infer_stream_t *st, const char **out,
    size_t *out_len);

/* Visible bytes given out so far, over all calls. */
uint64_t infer_stream_visible(const infer_stream_t *st);
/* Index of the stop string that matched, or -1. */
int infer_stream_matched(const infer_stream_t *st);

#endif
