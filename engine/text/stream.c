/*
 * stream.c: token ids -> visible text of one generation (stream.h). One
 * object belongs to one generation and one thread at a time; all its memory
 * is one allocation, sized by the longest token and the stop strings.
 *
 * Bytes go through a UTF-8 decoder (at most 3 bytes wait there) into one
 * buffer. Text that is given out stays at its front until the next call;
 * after it lies what may still become a stop string.
 */

#include "text/stream.h"

#include <string.h>

struct infer_stream_s {
    const infer_text_t  *text;
    uint64_t             visible;
    uint32_t             n_tokens;
    uint32_t             min_tokens;
    uint32_t             n_stops;
    int                  matched;         /* -1: none yet */
    unsigned char        partial[4];      /* incomplete UTF-8 */
    uint32_t             n_partial;
    int                  partial_early;   /* began within min_tokens */
    size_t               out;             /* given out by the last call */
    size_t               len;             /* bytes in buf */
    const char          *stop[INFER_MAX_STOPS];
    size_t               stop_len[INFER_MAX_STOPS];
    char                *buf;
};


int
infer_stream_new(infer_stream_t **st, const infer_text_t *text,
    const char *const *stops, const size_t *stop_lens, uint32_t n_stops,
    uint32_t min_tokens)
{
    infer_stream_t *s;
    size_t total = 0, longest = 0, room;
    char *p;

    *st = NULL;

    if (n_stops > INFER_MAX_STOPS) {
        return INFER_INVALID;
    }

    for (uint32_t i = 0; i < n_stops; i++) {
        if (stop_lens[i] == 0 || stop_lens[i] > INFER_MAX_STOP_BYTES) {
            return INFER_INVALID;
        }

        total += stop_lens[i];
        longest = stop_lens[i] > longest ? stop_lens[i] : longest;
    }

    /* each byte of a token, and each that waited, may become U+FFFD */
    room = longest + 3 * ((size_t) infer_text_max_piece(text) + 4);
    s = calloc(1, sizeof(*s) + total + room);

    if (s == NULL) {
        return INFER_NOMEM;
    }

    s->text = text;
    s->min_tokens = min_tokens;
    s->n_stops = n_stops;
    s->matched = -1;
    p = (char *) (s + 1);

    for (uint32_t i = 0; i < n_stops; i++) {
        memcpy(p, stops[i], stop_lens[i]);
        s->stop[i] = p;
        s->stop_len[i] = stop_lens[i];
        p += stop_lens[i];
    }

    s->buf = p;
    *st = s;

    return INFER_OK;
}


void
infer_stream_free(infer_stream_t *st)
{
    free(st);
}


/* Whether b may follow the bytes that wait (Unicode's table 3-7). */
static int
stream_follows(const infer_stream_t *st, unsigned char b)
{
    unsigned char lead = st->partial[0];

    if (st->n_partial == 1) {
        switch (lead) {
        case 0xe0:
            return b >= 0xa0 && b <= 0xbf;
        case 0xed:
            return b >= 0x80 && b <= 0x9f;
        case 0xf0:
            return b >= 0x90 && b <= 0xbf;
        case 0xf4:
            return b >= 0x80 && b <= 0x8f;
        default:
            break;
        }
    }

    return (b & 0xc0) == 0x80;
}


static uint32_t
stream_char_bytes(unsigned char lead)
{
    return lead < 0x80 ? 1 : lead < 0xc2 ? 0 : lead < 0xe0 ? 2
           : lead < 0xf0 ? 3 : lead < 0xf5 ? 4 : 0;
}


static void
stream_append(infer_stream_t *st, const void *s, size_t len)
{
    memcpy(st->buf + st->len, s, len);
    st->len += len;
}


/* Gives up on the bytes that wait: they are one maximal subpart. */
static void
stream_replace(infer_stream_t *st)
{
    stream_append(st, "\xef\xbf\xbd", 3);
    st->n_partial = 0;
}


static void
stream_byte(infer_stream_t *st, unsigned char b)
{
    uint32_t want;

    if (st->n_partial > 0 && !stream_follows(st, b)) {
        stream_replace(st);
    }

    if (st->n_partial == 0) {
        want = stream_char_bytes(b);

        if (want == 1) {
            stream_append(st, &b, 1);

        } else if (want == 0) {
            stream_replace(st);

        } else {
            st->partial[0] = b;
            st->n_partial = 1;
        }

        return;
    }

    st->partial[st->n_partial++] = b;

    if (st->n_partial == stream_char_bytes(st->partial[0])) {
        stream_append(st, st->partial, st->n_partial);
        st->n_partial = 0;
    }
}


/* What can begin at buf[i]: 1 a whole stop string (*which is the longest),
 * 0 perhaps one, with text yet to come, -1 none. */
static int
stream_at(const infer_stream_t *st, size_t i, int *which)
{
    size_t left = st->len - i, best = 0;
    int found = -1;

    for (uint32_t k = 0; k < st->n_stops; k++) {
        size_t n = st->stop_len[k];

        if (n > left) {
            if (found < 0 && memcmp(st->stop[k], st->buf + i, left) == 0) {
                found = 0;
            }

        } else if (n > best && memcmp(st->stop[k], st->buf + i, n) == 0) {
            best = n;
            found = 1;
            *which = (int) k;
        }
    }

    return found;
}


/* Splits buf[from..len) into what is visible now and what waits. At the end
 * nothing is left that could come true. */
static void
stream_scan(infer_stream_t *st, size_t from, int end)
{
    int which = -1, found;
    size_t i;

    for (i = from; i < st->len; i++) {
        found = stream_at(st, i, &which);

        if (found == 1) {
            st->matched = which;
            st->len = i;
            break;
        }

        if (found == 0 && !end) {
            break;
        }
    }

    st->out = i;
    st->visible += i;
}


/* Drops what the last call gave out. */
static void
stream_next(infer_stream_t *st)
{
    memmove(st->buf, st->buf + st->out, st->len - st->out);
    st->len -= st->out;
    st->out = 0;
}


int
infer_stream_put(infer_stream_t *st, int32_t id, int hidden,
    const char **out, size_t *out_len)
{
    size_t n, from, k = 0;
    const char *s;
    int early;

    stream_next(st);
    *out = st->buf;
    *out_len = 0;

    if (st->matched >= 0) {
        return 1;
    }

    early = st->n_tokens < st->min_tokens;
    st->n_tokens += st->n_tokens < UINT32_MAX;

    if (hidden) {
        return 0;
    }

    s = infer_text_piece(st->text, id, 0, &n);

    if (n == 0) {
        return 0;
    }

    /* the rest of a character that an early token began is early, too */
    while (st->partial_early && k < n && st->n_partial > 0
           && stream_follows(st, (unsigned char) s[k]))
    {
        stream_byte(st, (unsigned char) s[k++]);
    }

    if (st->partial_early && st->n_partial > 0 && k < n) {
        stream_replace(st);
    }

    from = st->partial_early ? st->len : 0;

    for ( ; k < n; k++) {
        stream_byte(st, (unsigned char) s[k]);
    }

    if (early) {
        from = st->len;
    }

    st->partial_early = st->n_partial > 0
                        && (early || (st->partial_early && st->len == 0));
    stream_scan(st, from, 0);
    *out_len = st->out;

    return st->matched >= 0;
}


void
infer_stream_finish(infer_stream_t *st, const char **out, size_t *out_len)
{
    size_t from = 0;

    stream_next(st);
    *out = st->buf;
    *out_len = 0;

    if (st->matched >= 0) {
        return;
    }

    if (st->n_partial > 0) {
        stream_replace(st);
        from = st->partial_early ? st->len : 0;
        st->partial_early = 0;
    }

    stream_scan(st, from, 1);
    *out_len = st->out;
}


uint64_t
infer_stream_visible(const infer_stream_t *st)
{
    return st->visible;
}


int
infer_stream_matched(const infer_stream_t *st)
{
    return st->matched;
}
