/*
 * test_nfc.c: normal form C of every code point in several surroundings, as
 * sums by `python3 t/tool/nfc_table.py --sums` (Python's unicodedata); some
 * texts by hand; hostile runs of marks.
 */

#include "tap.h"
#include "text/nfc.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef struct {
    const char  *before, *after;
    uint32_t     crc;
} sum_t;

static const sum_t sums[] = {
    { "", "", 0x351812cb },
    { "a", "", 0xa9ea36e9 },
    { "", "\xcc\x81", 0x1d0233e0 },
    { "e\xcc\xa3", "\xcc\x81", 0x41751aec },
    { "q\xcc\x95", "\xcc\xa3", 0xb1750929 },
    { "\xe1\x84\x80", "\xe1\x86\xa8", 0x4980dd8d },
    { "\xea\xb0\x80", "\xe1\x85\xa1", 0x90bb7b58 }
};

static const char *const texts[][2] = {
    { "", "" },
    { "plain", "plain" },
    { "e\xcc\x81", "\xc3\xa9" },                         /* composes */
    { "xe\xcc\x81y\xc3\xa9", "x\xc3\xa9y\xc3\xa9" },
    { "\xcc\x81" "a", "\xcc\x81" "a" },                  /* no base */
    { "a\xcc\x81\xcc\xa3", "\xe1\xba\xa1\xcc\x81" },     /* reordered */
    { "\xe2\x84\xab", "\xc3\x85" },                      /* angstrom sign */
    { "\xe1\x84\x92\xe1\x85\xa1\xe1\x86\xab", "\xed\x95\x9c" },
    { "\xed\x95\x98\xe1\x86\xab", "\xed\x95\x9c" },      /* LV and T */
    { "\xe0\xa5\x98", "\xe0\xa4\x95\xe0\xa4\xbc" },      /* excluded */
    { "a\xcd\x8f\xcc\x81", "a\xcd\x8f\xcc\x81" },        /* a joiner blocks */
    { "\xf0\x9d\x85\x9e", "\xf0\x9d\x85\x97\xf0\x9d\x85\xa5" }
};


static uint32_t
crc32(uint32_t crc, const char *s, size_t n)
{
    static uint32_t table[256];

    for (uint32_t i = 0; table[255] == 0 && i < 256; i++) {
        table[i] = i;

        for (int k = 0; k < 8; k++) {
            table[i] = table[i] >> 1 ^ (table[i] & 1 ? 0xedb88320u : 0);
        }
    }

    crc = ~crc;

    for (size_t i = 0; i < n; i++) {
        crc = crc >> 8 ^ table[(crc ^ (unsigned char) s[i]) & 255];
    }

    return ~crc;
}


static size_t
put_cp(char *s, uint32_t cp)
{
    if (cp < 0x80) {
        s[0] = (char) cp;
        return 1;
    }

    size_t n = cp < 0x800 ? 2 : cp < 0x10000 ? 3 : 4;

    for (size_t i = n - 1; i > 0; i--, cp >>= 6) {
        s[i] = (char) (0x80 | (cp & 0x3f));
    }

    s[0] = (char) ((n == 2 ? 0xc0 : n == 3 ? 0xe0 : 0xf0) | cp);

    return n;
}


static uint32_t
sum_of(const sum_t *t)
{
    uint32_t crc = 0;

    for (uint32_t cp = 0; cp < 0x110000; cp++) {
        char s[32], *out;
        size_t n = strlen(t->before), len;

        if (cp >= 0xd800 && cp < 0xe000) {
            continue;
        }

        memcpy(s, t->before, n);
        n += put_cp(s + n, cp);
        memcpy(s + n, t->after, strlen(t->after));
        n += strlen(t->after);

        if (infer_nfc(s, n, &out, &len) != INFER_OK) {
            abort();
        }

        crc = out != NULL ? crc32(crc, out, len) : crc32(crc, s, n);
        crc = crc32(crc, "\n", 1);
        free(out);
    }

    return crc;
}


/* The form of an exact copy, so that a sanitizer sees reads past its end. */
static int
has_form(const char *text, const char *want)
{
    size_t n = strlen(text), len = 0;
    char *s = malloc(n + 1), *out = NULL;
    int pass;

    if (s == NULL) {
        abort();
    }

    s = realloc(memcpy(s, text, n + 1), n ? n : 1);

    if (s == NULL) {
        abort();
    }

    pass = infer_nfc(s, n, &out, &len) == INFER_OK
           && (strcmp(text, want) == 0
               ? out == NULL
               : out != NULL && len == strlen(want)
                 && memcmp(out, want, len) == 0);
    free(out);
    free(s);

    return pass;
}


static void
hostile(const char *unit, const char *name)
{
    size_t n = 1 << 20, k = strlen(unit), len;
    char *s = malloc(n), *out;
    struct timespec a, z;

    if (s == NULL) {
        abort();
    }

    for (size_t i = 0; i < n; i++) {
        s[i] = i < n / k * k ? unit[i % k] : ' ';
    }

    clock_gettime(CLOCK_MONOTONIC, &a);
    ok(infer_nfc(s, n, &out, &len) == INFER_OK, "%s", name);
    clock_gettime(CLOCK_MONOTONIC, &z);
    ok(z.tv_sec - a.tv_sec < 10, "in time");
    free(out);
    free(s);
}


int
main(void)
{
    for (size_t i = 0; i < sizeof(sums) / sizeof(sums[0]); i++) {
        uint32_t crc = sum_of(&sums[i]);

        ok(crc == sums[i].crc, "all code points, surroundings %zu: %08x", i,
           crc);
    }

    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        ok(has_form(texts[i][0], texts[i][1]), "text %zu", i);
    }

    hostile("\xcc\x81\xcc\x96\xcc\xa7", "a run of marks out of order");
    hostile("\xe1\x84\x80", "a run of Hangul's first letters");
    hostile("\xe0\xbd\xb3", "a run that grows");

    return tap_done();
}
