/*
 * nfc.c: canonical decomposition, ordering and composition. Text is taken in
 * stretches that begin with a character which neither changes nor composes
 * with what stands before it, so most stretches are one character and are
 * copied. Memory lives for one call.
 *
 * Source of the method: Unicode Standard Annex #15, and chapter 3.12 of the
 * standard for Hangul, whose syllables are computed.
 */

#include "text/nfc.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    uint32_t  cp, first, second;
} nfc_pair_t;

typedef struct {
    uint32_t  from, to, value;
} nfc_range_t;

#include "text/nfc_table.h"

#define NFC_COUNT(a)  (sizeof(a) / sizeof((a)[0]))

#define NFC_FIRST     0x300u          /* nothing below is unsure */
#define NFC_FIRST_BYTE  0xcc          /* of it in UTF-8 */

/* Hangul: syllables, and the letters that lead, follow and close them. */
enum {
    HAN_S = 0xac00, HAN_L = 0x1100, HAN_V = 0x1161, HAN_T = 0x11a7,
    HAN_NL = 19, HAN_NV = 21, HAN_NT = 28, HAN_NS = HAN_NL * HAN_NV * HAN_NT
};

/* A character of a stretch: class, place, code point; by the first two these
 * numbers are in canonical order. */
#define NFC_CLASS(c)  ((uint32_t) ((c) >> 56))
#define NFC_CP(c)     ((uint32_t) (c) & 0x1fffffu)

typedef struct {
    char      *out;
    size_t     len, cap;
    uint64_t  *chr;
    size_t     n, cap_chr;
} nfc_t;


/* The first of n ascending keys, `step` bytes apart, that is not below cp. */
static size_t
nfc_search(const char *keys, size_t step, size_t n, uint32_t cp)
{
    size_t lo = 0, hi = n;

    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;

        if (*(const uint32_t *) (const void *) (keys + mid * step) < cp) {
            lo = mid + 1;

        } else {
            hi = mid;
        }
    }

    return lo;
}


/* The value of the range that cp lies in, or 0. */
static uint32_t
nfc_range(const nfc_range_t *r, size_t n, uint32_t cp)
{
    size_t i = nfc_search((const char *) r + offsetof(nfc_range_t, to),
                          sizeof(*r), n, cp);

    return i < n && r[i].from <= cp ? r[i].value : 0;
}


static int
nfc_is_unsure(uint32_t cp)
{
    return cp >= NFC_FIRST
           && nfc_range(nfc_unsure, NFC_COUNT(nfc_unsure), cp) != 0;
}


static const nfc_pair_t *
nfc_decompose(uint32_t cp)
{
    size_t i = nfc_search((const char *) nfc_pairs, sizeof(nfc_pairs[0]),
                          NFC_COUNT(nfc_pairs), cp);

    return i < NFC_COUNT(nfc_pairs) && nfc_pairs[i].cp == cp
           ? &nfc_pairs[i] : NULL;
}


/* What the two become, or 0. */
static uint32_t
nfc_compose(uint32_t a, uint32_t b)
{
    size_t lo = 0, hi = NFC_COUNT(nfc_order);

    if (a - HAN_L < HAN_NL && b - HAN_V < HAN_NV) {
        return HAN_S + ((a - HAN_L) * HAN_NV + (b - HAN_V)) * HAN_NT;
    }

    if (a - HAN_S < HAN_NS && (a - HAN_S) % HAN_NT == 0
        && b - HAN_T - 1 < HAN_NT - 1)
    {
        return a + (b - HAN_T);
    }

    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        const nfc_pair_t *p = &nfc_pairs[nfc_order[mid]];

        if (p->first < a || (p->first == a && p->second < b)) {
            lo = mid + 1;

        } else {
            hi = mid;
        }
    }

    if (lo < NFC_COUNT(nfc_order)) {
        const nfc_pair_t *p = &nfc_pairs[nfc_order[lo]];

        if (p->first == a && p->second == b) {
            return p->cp;
        }
    }

    return 0;
}


static int
nfc_put(nfc_t *x, const char *s, size_t n)
{
    if (n > x->cap - x->len) {
        size_t cap = 2 * (x->len + n) + 64;
        char *p = realloc(x->out, cap);

        if (p == NULL) {
            return INFER_NOMEM;
        }

        x->out = p;
        x->cap = cap;
    }

    if (n != 0) {
        memcpy(x->out + x->len, s, n);
        x->len += n;
    }

    return INFER_OK;
}


static int
nfc_put_cp(nfc_t *x, uint32_t cp)
{
    char s[4];
    size_t n = cp < 0x80 ? 1 : cp < 0x800 ? 2 : cp < 0x10000 ? 3 : 4;

    for (size_t i = n - 1; i > 0; i--, cp >>= 6) {
        s[i] = (char) (0x80 | (cp & 0x3f));
    }

    s[0] = (char) (n == 1 ? cp : (0xf00u >> n & 0xf0u) | cp);

    return nfc_put(x, s, n);
}


static size_t
nfc_get(const char *s, uint32_t *cp)
{
    const unsigned char *u = (const unsigned char *) s;
    size_t n = u[0] < 0x80 ? 1 : u[0] < 0xe0 ? 2 : u[0] < 0xf0 ? 3 : 4;

    *cp = n == 1 ? u[0] : u[0] & (0x7fu >> n);

    for (size_t i = 1; i < n; i++) {
        *cp = *cp << 6 | (u[i] & 0x3fu);
    }

    return n;
}


static int
nfc_push(nfc_t *x, uint32_t cp)
{
    uint64_t class;

    if (x->n == x->cap_chr) {
        size_t cap = x->cap_chr ? 2 * x->cap_chr : 64;
        uint64_t *p = realloc(x->chr, cap * sizeof(*p));

        if (p == NULL) {
            return INFER_NOMEM;
        }

        x->chr = p;
        x->cap_chr = cap;
    }

    class = cp < NFC_FIRST ? 0 : nfc_range(nfc_classes,
                                           NFC_COUNT(nfc_classes), cp);
    x->chr[x->n] = class << 56 | (uint64_t) x->n << 21 | cp;
    x->n++;

    return INFER_OK;
}


/* One character, decomposed in full: what comes second does not decompose
 * further, so what waits is one character for each step. */
static int
nfc_add(nfc_t *x, uint32_t cp)
{
    uint32_t wait[8];
    size_t n = 0;
    const nfc_pair_t *p;
    int rc;

    if (cp - HAN_S < HAN_NS) {
        uint32_t s = cp - HAN_S, t = s % HAN_NT;

        rc = nfc_push(x, HAN_L + s / (HAN_NV * HAN_NT));

        if (rc == INFER_OK) {
            rc = nfc_push(x, HAN_V + s / HAN_NT % HAN_NV);
        }

        return rc == INFER_OK && t != 0 ? nfc_push(x, HAN_T + t) : rc;
    }

    while (n < NFC_COUNT(wait) && (p = nfc_decompose(cp)) != NULL) {
        cp = p->first;

        if (p->second != 0) {
            wait[n++] = p->second;
        }
    }

    rc = nfc_push(x, cp);

    while (n > 0 && rc == INFER_OK) {
        rc = nfc_push(x, wait[--n]);
    }

    return rc;
}


static int
nfc_by_order(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *) a, y = *(const uint64_t *) b;

    return (x > y) - (x < y);
}


/* Runs of characters whose class is not 0 are sorted by it. */
static void
nfc_sort(nfc_t *x)
{
    for (size_t i = 0, end; i < x->n; i = end) {
        end = i + 1;

        if (NFC_CLASS(x->chr[i]) == 0) {
            continue;
        }

        while (end < x->n && NFC_CLASS(x->chr[end]) != 0) {
            end++;
        }

        if (end - i > 1) {
            qsort(x->chr + i, end - i, sizeof(x->chr[0]), nfc_by_order);
        }
    }
}


/* Each character with the last one of class 0 before it, unless one between
 * them has no lower class; what is left is written. */
static int
nfc_recompose(nfc_t *x)
{
    size_t kept = 0, starter = SIZE_MAX;
    uint32_t last = 0, cp, both;
    int rc = INFER_OK;

    for (size_t i = 0; i < x->n; i++) {
        uint32_t class = NFC_CLASS(x->chr[i]);

        cp = NFC_CP(x->chr[i]);

        if (starter != SIZE_MAX && (kept == starter + 1 || last < class)) {
            both = nfc_compose(NFC_CP(x->chr[starter]), cp);

            if (both != 0) {
                x->chr[starter] = both;
                continue;
            }
        }

        if (class == 0) {
            starter = kept;
        }

        last = class;
        x->chr[kept++] = x->chr[i];
    }

    for (size_t i = 0; i < kept && rc == INFER_OK; i++) {
        rc = nfc_put_cp(x, NFC_CP(x->chr[i]));
    }

    return rc;
}


static int
nfc_stretch(nfc_t *x, const char *s, size_t len)
{
    uint32_t cp;
    int rc = INFER_OK;

    x->n = 0;

    for (size_t i = 0; i < len && rc == INFER_OK; ) {
        i += nfc_get(s + i, &cp);
        rc = nfc_add(x, cp);
    }

    if (rc != INFER_OK) {
        return rc;
    }

    nfc_sort(x);

    return nfc_recompose(x);
}


/* The next unsure character from i on, or len; *start: the one before it,
 * with which its stretch begins. */
static size_t
nfc_find(const char *s, size_t len, size_t i, size_t *start)
{
    uint32_t cp;
    size_t n;

    *start = i;

    while (i < len) {
        if ((unsigned char) s[i] < NFC_FIRST_BYTE) {
            *start = i;
            i += (unsigned char) s[i] < 0x80 ? 1 : 2;
            continue;
        }

        n = nfc_get(s + i, &cp);

        if (nfc_is_unsure(cp)) {
            return i;
        }

        *start = i;
        i += n;
    }

    *start = len;

    return len;
}


static int
nfc_all(nfc_t *x, const char *s, size_t len, size_t at, size_t start)
{
    size_t done = 0, n;
    uint32_t cp;
    int rc = INFER_OK;

    while (rc == INFER_OK) {
        rc = nfc_put(x, s + done, start - done);

        if (at == len || rc != INFER_OK) {
            break;
        }

        while (at < len) {
            n = nfc_get(s + at, &cp);

            if (!nfc_is_unsure(cp)) {
                break;
            }

            at += n;
        }

        rc = nfc_stretch(x, s + start, at - start);
        done = at;
        at = nfc_find(s, len, at, &start);
    }

    return rc;
}


int
infer_nfc(const char *s, size_t len, char **out, size_t *out_len)
{
    nfc_t x = { .out = NULL };
    size_t start, at = nfc_find(s, len, 0, &start);
    int rc;

    *out = NULL;
    *out_len = 0;

    if (at == len) {
        return INFER_OK;
    }

    rc = nfc_all(&x, s, len, at, start);
    free(x.chr);

    if (rc != INFER_OK || (x.len == len && memcmp(x.out, s, len) == 0)) {
        free(x.out);
        return rc;
    }

    *out = x.out;
    *out_len = x.len;

    return INFER_OK;
}
