/*
 * test_stream.c: UTF-8 hold, U+FFFD, stop strings, min_tokens and finish;
 * then random tokens and stop strings against a second, slow definition
 * that sees the whole text at once.
 */

#include "tap.h"
#include "text_model.h"
#include "text/stream.h"

static const tm_token_t extra[] = {
    { "<s>", 3 }, { "</s>", 3 },                 /* 256, 257 */
    { "ab", 1 }, { "abc", 1 }, { "bcd", 1 },     /* 258, 259, 260 */
    { "\xc3\xa2\xc4\xa4", 1 },                   /* 261: e2 82 */
    { "\xc2\xac" "ab", 1 },                      /* 262: ac 'a' 'b' */
    { "<t>", 4 },                                /* 263 */
    { NULL, 0 }
};

static const tm_conf_t conf = {
    .pre = "gpt-2", .extra = extra, .bos = 256, .eos = 257, .add_bos = -1
};

#define MAX_TEXT  4096

typedef struct {
    char    text[MAX_TEXT];
    size_t  len;
    size_t  tokens;           /* put until the match, all without one */
    int     matched;          /* index, -1 */
} result_t;


static void
run(const infer_text_t *t, const int32_t *ids, size_t n,
    const char *const *stops, uint32_t n_stops, uint32_t min_tokens,
    result_t *r)
{
    size_t lens[INFER_MAX_STOPS], len;
    infer_stream_t *st;
    const char *out;
    int hit = 0;

    for (uint32_t i = 0; i < n_stops; i++) {
        lens[i] = strlen(stops[i]);
    }

    memset(r, 0, sizeof(*r));

    if (infer_stream_new(&st, t, stops, lens, n_stops, min_tokens)
        != INFER_OK)
    {
        abort();
    }

    for (size_t i = 0; i < n && !hit; i++) {
        hit = infer_stream_put(st, ids[i], 0, &out, &len);
        memcpy(r->text + r->len, out, len);
        r->len += len;
        r->tokens++;
    }

    infer_stream_finish(st, &out, &len);
    memcpy(r->text + r->len, out, len);
    r->len += len;
    r->matched = infer_stream_matched(st);

    if (infer_stream_visible(st) != r->len) {
        r->matched = -2;
    }

    infer_stream_free(st);
}


static void
shows(const infer_text_t *t, const char *want, int matched, size_t tokens,
    const int32_t *ids, size_t n, const char *const *stops,
    uint32_t min_tokens, const char *name)
{
    uint32_t n_stops = 0;
    result_t r;

    while (stops != NULL && stops[n_stops] != NULL) {
        n_stops++;
    }

    run(t, ids, n, stops, n_stops, min_tokens, &r);

    if (!ok(r.len == strlen(want) && memcmp(r.text, want, r.len) == 0
            && r.matched == matched && (tokens == 0 || r.tokens == tokens),
            "%s", name))
    {
        diag("got \"%.*s\", matched %d, %zu tokens", (int) r.len, r.text,
             r.matched, r.tokens);
    }
}

#define IDS(...)    (const int32_t[]) { __VA_ARGS__ },                        \
                    sizeof((const int32_t[]) { __VA_ARGS__ }) / 4
#define STOPS(...)  (const char *const[]) { __VA_ARGS__, NULL }
#define BAD         "\xef\xbf\xbd"


static void
test_utf8(const infer_text_t *t)
{
    shows(t, "ab", -1, 0, IDS('a', 'b'), NULL, 0, "plain");
    shows(t, "\xe2\x82\xac", -1, 0, IDS(0xe2, 0x82, 0xac), NULL, 0,
          "a character in three tokens");
    shows(t, "\xe2\x82\xac" "ab", -1, 0, IDS(261, 262), NULL, 0,
          "a character over two tokens");
    shows(t, BAD "a", -1, 0, IDS(0xe2, 0x82, 'a'), NULL, 0,
          "one U+FFFD for a cut character");
    shows(t, BAD BAD BAD, -1, 0, IDS(0xed, 0xa0, 0x80), NULL, 0,
          "a surrogate is three");
    shows(t, BAD BAD "A", -1, 0, IDS(0xf0, 0x80, 'A'), NULL, 0,
          "an overlong beginning is two");
    shows(t, BAD BAD, -1, 0, IDS(0xc0, 0xff), NULL, 0,
          "bytes that are never right");
    shows(t, BAD "\xf0\x9f\x99\x82", -1, 0,
          IDS(0xf0, 0x9f, 0xf0, 0x9f, 0x99, 0x82), NULL, 0,
          "a new lead byte ends the old character");
    shows(t, BAD, -1, 0, IDS(0xf0, 0x9f, 0x99), NULL, 0,
          "held bytes come out as one at the end");
    shows(t, "a<t>b", -1, 0, IDS(256, 'a', 263, 'b', 257, -5, 9999), NULL, 0,
          "control tokens show nothing, user-defined ones do");
}


static void
test_stops(const infer_text_t *t)
{
    shows(t, "x", 0, 3, IDS('x', 'a', 'b', 'c'), STOPS("ab"), 0,
          "a stop string over two tokens");
    shows(t, "xa", -1, 0, IDS('x', 'a'), STOPS("ab"), 0,
          "what was held comes out at the end");
    shows(t, "xac", -1, 0, IDS('x', 'a', 'c'), STOPS("ab"), 0,
          "and when it does not come true");
    shows(t, "", 1, 1, IDS(259), STOPS("bc", "ab"), 0,
          "the one that starts first");
    shows(t, "", 1, 1, IDS(259), STOPS("ab", "abc"), 0, "then the longer");
    shows(t, "", 0, 1, IDS(258, 'c'), STOPS("ab", "abc"), 0,
          "but a complete one does not wait for it");
    shows(t, "", 0, 4, IDS('a', 'b', 'c', 'd'), STOPS("abcd", "bc"), 0,
          "an earlier start is waited for");
    shows(t, "a", 1, 4, IDS('a', 'b', 'c', 'x'), STOPS("abcd", "bc"), 0,
          "and given up");
    shows(t, "a", 1, 3, IDS('a', 'b', 'c'), STOPS("abcd", "bc"), 0,
          "at the end the waiting match counts");
    shows(t, "aab", 0, 0, IDS('a', 'a', 'b', 'a', 'a', 'c'),
          STOPS("aac"), 0, "a false start inside a stop string");
    shows(t, "", 0, 3, IDS(0xe2, 0x82, 0xac, 'a'), STOPS("\xe2\x82\xac"), 0,
          "a stop string of split characters");
    shows(t, "", 0, 2, IDS(0xff, 'a'), STOPS(BAD "a"), 0,
          "stop strings are matched in what is shown");
}


static void
test_min(const infer_text_t *t)
{
    shows(t, "ab", 0, 4, IDS('a', 'b', 'a', 'b'), STOPS("ab"), 2,
          "not within min_tokens");
    shows(t, "abb", -1, 0, IDS('a', 'b', 'b'), STOPS("bb"), 2,
          "nor with text of those tokens");
    shows(t, "\xe2\x82\xac", 1, 4, IDS(0xe2, 0x82, 0xac, 'a'),
          STOPS("\xe2\x82\xac", "a"), 1,
          "a character that began there does not count");
    shows(t, BAD, 0, 0, IDS(0xe2, 'a'), STOPS("a"), 1,
          "what comes after it does");
    shows(t, BAD, -1, 0, IDS(0xe2), STOPS(BAD), 1, "not at the end either");
    shows(t, "", 0, 2, IDS(256, 'a'), STOPS("a"), 1,
          "a token without text counts");
}


static void
test_calls(const infer_text_t *t)
{
    const char *stops[INFER_MAX_STOPS + 1], *out;
    size_t lens[INFER_MAX_STOPS + 1], len;
    infer_stream_t *st;

    for (int i = 0; i <= INFER_MAX_STOPS; i++) {
        stops[i] = "zz";
        lens[i] = 2;
    }

    ok(infer_stream_new(&st, t, stops, lens, INFER_MAX_STOPS + 1, 0)
       == INFER_INVALID && st == NULL, "too many stop strings");
    lens[0] = 0;
    ok(infer_stream_new(&st, t, stops, lens, 1, 0) == INFER_INVALID,
       "an empty one");
    lens[0] = INFER_MAX_STOP_BYTES + 1;
    ok(infer_stream_new(&st, t, stops, lens, 1, 0) == INFER_INVALID,
       "one that is too long");
    lens[0] = 2;
    ok(infer_stream_new(&st, t, stops, lens, INFER_MAX_STOPS, 0) == INFER_OK,
       "as many as there may be");
    ok(infer_stream_put(st, 'a', 1, &out, &len) == 0 && len == 0,
       "a hidden token shows nothing");
    ok(infer_stream_put(st, 'z', 0, &out, &len) == 0 && len == 0, "held");
    ok(infer_stream_put(st, 'z', 0, &out, &len) == 1 && len == 0, "matched");
    ok(infer_stream_put(st, 'a', 0, &out, &len) == 1 && len == 0,
       "nothing after a match");
    infer_stream_finish(st, &out, &len);
    ok(len == 0 && infer_stream_visible(st) == 0, "nor at the end");
    infer_stream_free(st);
}


/* The definition: all text at once, U+FFFD by Unicode's recommendation. */
static size_t
whole_text(const infer_text_t *t, const int32_t *ids, size_t n, char *out)
{
    static const struct { unsigned char a, b, c, d; int len; } row[] = {
        { 0x00, 0x7f, 0, 0, 1 }, { 0xc2, 0xdf, 0x80, 0xbf, 2 },
        { 0xe0, 0xe0, 0xa0, 0xbf, 3 }, { 0xe1, 0xec, 0x80, 0xbf, 3 },
        { 0xed, 0xed, 0x80, 0x9f, 3 }, { 0xee, 0xef, 0x80, 0xbf, 3 },
        { 0xf0, 0xf0, 0x90, 0xbf, 4 }, { 0xf1, 0xf3, 0x80, 0xbf, 4 },
        { 0xf4, 0xf4, 0x80, 0x8f, 4 }
    };
    unsigned char raw[MAX_TEXT];
    size_t len = 0, got, o = 0;

    for (size_t i = 0; i < n; i++) {
        const char *p = infer_text_piece(t, ids[i], 0, &got);

        memcpy(raw + len, p, got);
        len += got;
    }

    for (size_t i = 0; i < len; ) {
        size_t good = 0, want = 0;

        for (size_t k = 0; k < sizeof(row) / sizeof(row[0]); k++) {
            if (raw[i] < row[k].a || raw[i] > row[k].b) {
                continue;
            }

            want = (size_t) row[k].len;
            good = 1;

            while (good < want && i + good < len) {
                unsigned char lo = good == 1 ? row[k].c : 0x80;
                unsigned char hi = good == 1 ? row[k].d : 0xbf;

                if (raw[i + good] < lo || raw[i + good] > hi) {
                    break;
                }

                good++;
            }
        }

        if (good > 0 && good == want) {
            memcpy(out + o, raw + i, good);
            o += good;

        } else {
            memcpy(out + o, BAD, 3);
            o += 3;
        }

        i += good > 0 ? good : 1;
    }

    return o;
}


/* Where the first stop string begins; len when none is there. */
static size_t
first_stop(const char *s, size_t len, const char *const *stops, uint32_t n)
{
    for (size_t i = 0; i < len; i++) {
        for (uint32_t k = 0; k < n; k++) {
            size_t m = strlen(stops[k]);

            if (m <= len - i && memcmp(s + i, stops[k], m) == 0) {
                return i;
            }
        }
    }

    return len;
}


static void
test_random(const infer_text_t *t)
{
    static const int32_t some[] = { 'a', 'a', 'b', 'c', 'd', 258, 259, 260,
                                    261, 262, 0xe2, 0x82, 0xac, 0xf0, 256 };
    static const char *const pool[] = {
        "aab", "abab", "abcd", "bcd", "aaaa", "dab", "cc", "abcabd", BAD BAD,
        "\xe2\x82\xac" "ab", "babc", "dd", "acab", "aaab", "bcda", "cabc"
    };
    const char *stops[3];
    int32_t ids[80];
    char text[MAX_TEXT];
    uint32_t rng = 99, hits = 0;
    int pass = 1;
    result_t r;

    for (int i = 0; i < 20000 && pass; i++) {
        size_t n = (size_t) i % 60, len, cut;

        for (size_t k = 0; k < n; k++) {
            rng = rng * 1664525 + 1013904223;
            ids[k] = some[(rng >> 16) % (sizeof(some) / sizeof(some[0]))];
        }

        for (int k = 0; k < 3; k++) {
            rng = rng * 1664525 + 1013904223;
            stops[k] = pool[(rng >> 16) % 16];
        }

        len = whole_text(t, ids, n, text);
        cut = first_stop(text, len, stops, (uint32_t) i % 4);
        run(t, ids, n, stops, (uint32_t) i % 4, 0, &r);
        hits += cut < len;
        pass = r.len == cut && memcmp(r.text, text, cut) == 0
               && (r.matched >= 0) == (cut < len);
    }

    ok(pass && hits > 1000, "random tokens against the whole text, %u stops",
       hits);
}


int
main(void)
{
    void *image;
    infer_text_t *t = tm_open(tm_file(&conf), &image);

    if (!ok(t != NULL, "the image opens")) {
        return tap_done();
    }

    test_utf8(t);
    test_stops(t);
    test_min(t);
    test_calls(t);
    test_random(t);
    infer_text_close(t);
    free(image);

    return tap_done();
}
