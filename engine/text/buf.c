/*
 * buf.c: the growing byte buffer, and JSON strings written into it.
 * UTF-8 by Unicode's table of well-formed sequences; an ill-formed one is
 * replaced per maximal subpart.
 */

#include <math.h>

#include "text/buf.h"

#define BUF_FIRST  256


void
infer_buf_free(infer_buf_t *b)
{
    free(b->data);
    *b = (infer_buf_t) { .max = b->max };
}


void
infer_buf_reset(infer_buf_t *b)
{
    b->len = 0;
    b->rc = INFER_OK;
}


int
infer_buf_rc(const infer_buf_t *b)
{
    return b->rc;
}


char *
infer_buf_room(infer_buf_t *b, size_t n)
{
    size_t limit = b->max ? b->max : SIZE_MAX / 2;

    if (b->rc != INFER_OK) {
        return NULL;
    }

    if (b->len > limit || n > limit - b->len) {
        b->rc = INFER_BUSY;
        return NULL;
    }

    if (b->cap - b->len < n) {
        size_t cap = b->cap ? b->cap : BUF_FIRST;

        while (cap < b->len + n) {
            cap *= 2;
        }

        char *data = realloc(b->data, cap);

        if (data == NULL) {
            b->rc = INFER_NOMEM;
            return NULL;
        }

        b->data = data;
        b->cap = cap;
    }

    return b->data + b->len;
}


void
infer_buf_put(infer_buf_t *b, const char *s, size_t len)
{
    char *p;

    if (len == 0) {
        return;
    }

    p = infer_buf_room(b, len);

    if (p != NULL) {
        memcpy(p, s, len);
        b->len += len;
    }
}


void
infer_buf_str(infer_buf_t *b, const char *s)
{
    infer_buf_put(b, s, strlen(s));
}


void
infer_buf_printf(infer_buf_t *b, const char *fmt, ...)
{
    char     text[512];
    int      n;
    va_list  ap;

    va_start(ap, fmt);
    n = vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);

    infer_assert(n >= 0 && (size_t) n < sizeof(text));

    if (n > 0) {
        infer_buf_put(b, text, (size_t) n < sizeof(text)
                               ? (size_t) n : sizeof(text) - 1);
    }
}


void
infer_buf_u64(infer_buf_t *b, uint64_t v)
{
    char    text[20];
    size_t  at = sizeof(text);

    do {
        text[--at] = (char) ('0' + v % 10);
        v /= 10;
    } while (v != 0);

    infer_buf_put(b, text + at, sizeof(text) - at);
}


void
infer_buf_float(infer_buf_t *b, float v)
{
    if (!isfinite(v)) {
        infer_buf_str(b, "-9999.0");
        return;
    }

    infer_buf_printf(b, "%.9g", (double) v);
}


/* The sequence at s: *good 1 when it is well-formed; else the length of its
 * maximal subpart. */
static size_t
utf8_scan(const unsigned char *s, size_t len, int *good)
{
    unsigned char  lo = 0x80, hi = 0xbf;
    size_t         n;

    *good = 1;

    if (s[0] < 0x80) {
        return 1;
    }

    if (s[0] >= 0xc2 && s[0] <= 0xdf) {
        n = 2;

    } else if ((s[0] & 0xf0) == 0xe0) {
        n = 3;
        lo = s[0] == 0xe0 ? 0xa0 : lo;
        hi = s[0] == 0xed ? 0x9f : hi;

    } else if (s[0] >= 0xf0 && s[0] <= 0xf4) {
        n = 4;
        lo = s[0] == 0xf0 ? 0x90 : lo;
        hi = s[0] == 0xf4 ? 0x8f : hi;

    } else {
        *good = 0;
        return 1;
    }

    for (size_t i = 1; i < n; i++) {
        if (i == len || s[i] < lo || s[i] > hi) {
            *good = 0;
            return i;
        }

        lo = 0x80;
        hi = 0xbf;
    }

    return n;
}


size_t
infer_utf8_len(const char *s, size_t len)
{
    int     good;
    size_t  n = utf8_scan((const unsigned char *) s, len, &good);

    return good ? n : 0;
}


int
infer_utf8_valid(const char *s, size_t len)
{
    for (size_t i = 0, n; i < len; i += n) {
        n = infer_utf8_len(s + i, len - i);

        if (n == 0) {
            return 0;
        }
    }

    return 1;
}


static void
buf_escape_char(infer_buf_t *b, unsigned char c)
{
    static const char  hex[] = "0123456789abcdef";
    char               text[6] = { '\\', 'u', '0', '0', 0, 0 };

    switch (c) {
    case '"':  infer_buf_put(b, "\\\"", 2); return;
    case '\\': infer_buf_put(b, "\\\\", 2); return;
    case '\n': infer_buf_put(b, "\\n", 2);  return;
    case '\r': infer_buf_put(b, "\\r", 2);  return;
    case '\t': infer_buf_put(b, "\\t", 2);  return;
    default:
        text[4] = hex[c >> 4];
        text[5] = hex[c & 15];
        infer_buf_put(b, text, 6);
    }
}


void
infer_buf_escape(infer_buf_t *b, const char *s, size_t len)
{
    size_t from = 0;

    for (size_t i = 0; i < len; i++) {
        unsigned char c = (unsigned char) s[i];

        if (c >= 0x20 && c != '"' && c != '\\') {
            continue;
        }

        infer_buf_put(b, s + from, i - from);
        buf_escape_char(b, c);
        from = i + 1;
    }

    infer_buf_put(b, s + from, len - from);
}


void
infer_buf_escape_any(infer_buf_t *b, const char *s, size_t len)
{
    int     good;
    size_t  from = 0, n;

    for (size_t i = 0; i < len; i += n) {
        n = utf8_scan((const unsigned char *) s + i, len - i, &good);

        if (!good) {
            infer_buf_escape(b, s + from, i - from);
            infer_buf_put(b, "\xef\xbf\xbd", 3);
            from = i + n;
        }
    }

    infer_buf_escape(b, s + from, len - from);
}


void
infer_buf_quote(infer_buf_t *b, const char *s, size_t len)
{
    infer_buf_put(b, "\"", 1);
    infer_buf_escape_any(b, s, len);
    infer_buf_put(b, "\"", 1);
}
