/*
 * test_tokenizer.c: byte-level BPE on a small vocabulary (pre-tokenizers,
 * merges, special tokens, bytes that are no UTF-8, hostile lengths), then
 * the golden ids of the real model when its file is there.
 */

#include "tap.h"
#include "text_model.h"

#include <fcntl.h>
#include <time.h>

static const tm_token_t extra[] = {
    { "<s>", 3 },              /* 256 */
    { "</s>", 3 },             /* 257 */
    { "<|im_end|>", 3 },       /* 258 */
    { "<tool>", 4 },           /* 259 */
    { "<tool>>", 4 },          /* 260 */
    { "ab", 1 },               /* 261 */
    { "abc", 1 },              /* 262 */
    { "aa", 1 },               /* 263 */
    { "aaaa", 1 },             /* 264 */
    { "\xc4\xa0\xc4\xa0", 1 }, /* 265: two spaces */
    { "12", 1 },               /* 266 */
    { "\xc4\xa0x", 1 },        /* 267: " x" */
    { "bc", 1 },               /* 268 */
    { "xyz", 1 },              /* 269: only whole, no merge makes it */
    { "[PAD]", 5 },            /* 270 */
    { "unknown", 2 },          /* 271 */
    { NULL, 0 }
};

static const char *const merges[] = {
    "b c", "a b", "a a", "aa aa", "\xc4\xa0 \xc4\xa0", "1 2", "\xc4\xa0 x",
    "ab c", NULL
};

static const tm_conf_t base = {
    .pre = "gpt-2", .extra = extra, .merges = merges, .bos = 256,
    .eos = 257, .add_bos = -1
};


static int
same(const infer_text_t *t, const char *s, size_t len, unsigned flags,
    const int32_t *want, size_t n_want, const char *name)
{
    int32_t *ids;
    size_t n;
    int rc = infer_text_encode(t, s, len, flags, &ids, &n, NULL);
    int pass = rc == INFER_OK && n == n_want
               && (n == 0 || memcmp(ids, want, n * sizeof(*ids)) == 0);

    ok(pass, "%s", name);

    for (size_t i = 0; !pass && rc == INFER_OK && i < n; i++) {
        diag("got id %d", ids[i]);
    }

    free(ids);

    return pass;
}

#define SAME(t, s, flags, ...)  do {                                          \
        static const int32_t want_[] = { __VA_ARGS__ };                       \
        same(t, s, sizeof(s) - 1, flags, want_,                               \
             sizeof(want_) / sizeof(want_[0]), #s " -> " #__VA_ARGS__);       \
    } while (0)


/* Pieces of the ids, control tokens too; the caller frees it. */
static char *
detokenize(const infer_text_t *t, const int32_t *ids, size_t n, size_t *len)
{
    char *out = NULL;
    size_t got;

    *len = 0;

    for (int pass = 0; pass < 2; pass++) {
        size_t at = 0;

        for (size_t i = 0; i < n; i++) {
            const char *p = infer_text_piece(t, ids[i], 1, &got);

            if (pass == 1) {
                memcpy(out + at, p, got);
            }

            at += got;
        }

        if (pass == 0) {
            out = malloc(at + 1);

            if (out == NULL) {
                abort();
            }

            *len = at;
        }
    }

    return out;
}


/* The text as it comes back, the caller's. */
static char *
again(const infer_text_t *t, const char *s, size_t len, unsigned flags,
    size_t *got)
{
    int32_t *ids;
    size_t n;
    char *back;

    if (infer_text_encode(t, s, len, flags, &ids, &n, NULL) != INFER_OK) {
        abort();
    }

    back = detokenize(t, ids, n, got);
    free(ids);

    return back;
}


/* form: what comes back is another form of the text, which comes back. */
static int
round_trip(const infer_text_t *t, const char *s, size_t len, unsigned flags,
    int form)
{
    size_t got, twice;
    char *back = again(t, s, len, flags, &got), *more = NULL;
    int pass;

    if (form) {
        more = again(t, back, got, flags, &twice);
        pass = twice == got && memcmp(back, more, got) == 0;

    } else {
        pass = got == len && memcmp(back, s, len) == 0;
    }

    free(back);
    free(more);

    return pass;
}


static void
test_merges(void)
{
    void *image;
    infer_text_t *t = tm_open(tm_file(&base), &image);

    SAME(t, "ab", 0, 261);
    SAME(t, "abc", 0, 'a', 268);
    SAME(t, "aaa", 0, 263, 'a');
    SAME(t, "aaaaaaa", 0, 264, 263, 'a');
    SAME(t, "q", 0, 'q');
    SAME(t, "xyz", 0, 'x', 'y', 'z');
    same(t, "", 0, 0, NULL, 0, "empty text");
    SAME(t, "a", INFER_TEXT_BOS, 'a');
    infer_text_close(t);
    free(image);
}


static void
test_pre(void)
{
    tm_conf_t c = base;
    void *image;
    infer_text_t *t = tm_open(tm_file(&c), &image);

    SAME(t, "   x", 0, 265, 267);
    SAME(t, "12", 0, 266);
    SAME(t, " 12", 0, ' ', 266);
    SAME(t, "a\xc2\xa0 x", 0, 'a', 0xc2, 0xa0, 267);
    infer_text_close(t);
    free(image);

    c.pre = "smollm";
    t = tm_open(tm_file(&c), &image);
    SAME(t, "12", 0, '1', '2');
    SAME(t, "  1", 0, 265, '1');
    SAME(t, "   x", 0, 265, 267);
    infer_text_close(t);
    free(image);

    c.pre = "llama-bpe";
    t = tm_open(tm_file(&c), &image);
    SAME(t, "1212", 0, 266, '1', '2');
    SAME(t, "xyz", 0, 269);
    SAME(t, "abc", 0, 262);
    SAME(t, "xyz", INFER_TEXT_BOS, 256, 269);
    SAME(t, "  1", 0, ' ', ' ', '1');
    SAME(t, "1 \n  x", 0, '1', ' ', '\n', ' ', 267);
    infer_text_close(t);
    free(image);

    c.pre = "qwen2";
    t = tm_open(tm_file(&c), &image);
    SAME(t, "12", 0, '1', '2');
    SAME(t, "xyz", 0, 'x', 'y', 'z');
    SAME(t, "xyz", INFER_TEXT_BOS, 'x', 'y', 'z');
    SAME(t, "<s>e\xcc\x81\xff" "e\xcc\x81", INFER_TEXT_SPECIAL, 256, 0xc3,
         0xa9, 0xff, 0xc3, 0xa9);
    infer_text_close(t);
    free(image);

    c.add_bos = 1;
    t = tm_open(tm_file(&c), &image);
    SAME(t, "q", INFER_TEXT_BOS, 256, 'q');
    SAME(t, "", INFER_TEXT_BOS, 256);
    infer_text_close(t);
    free(image);
}


/* mine has a 'c' for every byte of s that is the client's. */
static void
marked(const infer_text_t *t, const char *s, const char *mine,
    const int32_t *want, size_t n_want)
{
    size_t len = strlen(s), n;
    uint8_t *client = malloc(len);
    int32_t *ids;

    if (client == NULL) {
        abort();
    }

    for (size_t i = 0; i < len; i++) {
        client[i] = mine[i] == 'c';
    }

    ok(infer_text_encode_marked(t, s, client, len, INFER_TEXT_SPECIAL, &ids,
                                &n, NULL) == INFER_OK
       && n == n_want && memcmp(ids, want, n * sizeof(*ids)) == 0,
       "%s as %s", s, mine);
    free(ids);
    free(client);
}

#define MARKED(t, s, mine, ...)  do {                                         \
        static const int32_t want_[] = { __VA_ARGS__ };                       \
        marked(t, s, mine, want_, sizeof(want_) / sizeof(want_[0]));          \
    } while (0)


static void
test_marked(void)
{
    void *image;
    infer_text_t *t = tm_open(tm_file(&base), &image);

    MARKED(t, "<s>", "...", 256);
    MARKED(t, "<s>", "ccc", '<', 's', '>');
    MARKED(t, "<s>", "..c", '<', 's', '>');
    MARKED(t, "<s>", "c..", '<', 's', '>');
    MARKED(t, "<s>", ".c.", '<', 's', '>');
    MARKED(t, "<s><s><s>", "...ccc...", 256, '<', 's', '>', 256);
    MARKED(t, "<s<s>", "cc...", '<', 's', 256);
    MARKED(t, "<s>ab</s>", ".....cccc", 256, 261, '<', '/', 's', '>');
    MARKED(t, "<s>ab</s>", "...cc....", 256, 261, 257);
    MARKED(t, "<tool>>", "ccccccc", 260);
    MARKED(t, "<tool><s>", "cccccc...", 259, 256);
    MARKED(t, "unknown", "......c", 'u', 'n', 'k', 'n', 'o', 'w', 'n');
    infer_text_close(t);
    free(image);
}


static void
test_special(void)
{
    void *image;
    size_t len;
    infer_text_t *t = tm_open(tm_file(&base), &image);

    SAME(t, "<s>ab</s>", INFER_TEXT_SPECIAL, 256, 261, 257);
    SAME(t, "<s>", 0, '<', 's', '>');
    SAME(t, "<s", INFER_TEXT_SPECIAL, '<', 's');
    SAME(t, "<<s><", INFER_TEXT_SPECIAL, '<', 256, '<');
    SAME(t, "<tool>ab", 0, 259, 261);
    SAME(t, "<tool>>>", 0, 260, '>');
    SAME(t, "a<tool>b", 0, 'a', 259, 'b');
    SAME(t, "<|im_end|>", INFER_TEXT_SPECIAL, 258);
    SAME(t, "[PAD]", INFER_TEXT_SPECIAL, '[', 'P', 'A', 'D', ']');
    SAME(t, "unknown", INFER_TEXT_SPECIAL, 271);

    ok(infer_text_is_control(t, 256) && !infer_text_is_control(t, 259)
       && !infer_text_is_control(t, 'a') && !infer_text_is_control(t, -1)
       && !infer_text_is_control(t, 272), "control tokens");
    ok(infer_text_is_eog(t, 257) && infer_text_is_eog(t, 258)
       && !infer_text_is_eog(t, 256) && !infer_text_is_eog(t, -1),
       "tokens that end");
    infer_text_piece(t, 256, 0, &len);
    ok(len == 0, "a control token shows nothing");
    ok(memcmp(infer_text_piece(t, 256, 1, &len), "<s>", 3) == 0 && len == 3,
       "but its text when asked for");
    infer_text_piece(t, 259, 0, &len);
    ok(len == 6, "a user-defined token shows");
    infer_text_piece(t, 272, 1, &len);
    ok(len == 0, "no token outside the vocabulary");
    ok(memcmp(infer_text_piece(t, 267, 0, &len), " x", 2) == 0 && len == 2,
       "pieces are bytes, not the alphabet");
    infer_text_close(t);
    free(image);
}


static void
test_bytes(void)
{
    static const char *const pre[] = { "gpt-2", "smollm", "llama-bpe",
                                       "qwen2" };
    tm_conf_t c = base;
    char buf[64];
    uint32_t rng = 12345;
    void *image;
    infer_text_t *t;

    for (int p = 0; p < 4; p++) {
        int pass = 1;

        c.pre = pre[p];
        t = tm_open(tm_file(&c), &image);

        for (int i = 0; i < 3000 && pass; i++) {
            size_t n = (size_t) i % sizeof(buf);
            char *end;

            for (size_t k = 0; k < n; k++) {
                static const char often[] = "a \n1'\xe2\x82\xac\xf0\x9f<s>\xed";

                rng = rng * 1664525 + 1013904223;
                buf[k] = rng >> 31 ? (char) (rng >> 16)
                         : often[(rng >> 16) % (sizeof(often) - 1)];
            }

            /* an exact copy: a sanitizer sees reads past its end */
            end = malloc(n ? n : 1);

            if (end == NULL) {
                abort();
            }

            memcpy(end, buf, n);
            pass = round_trip(t, end, n, (unsigned) i & INFER_TEXT_SPECIAL,
                              p == 3);
            free(end);
        }

        ok(pass, "%s: any bytes come back%s", pre[p],
           p == 3 ? ", in normal form" : "");
        infer_text_close(t);
        free(image);
    }

    c.pre = "gpt-2";
    c.skip_byte = 0xf1;
    t = tm_open(tm_file(&c), &image);
    SAME(t, "\xf1", 0, 0xef, 0xbf, 0xbd);
    infer_text_close(t);
    free(image);
}


/* A repeated text of len bytes must not take longer than a few seconds. */
static void
hostile(const infer_text_t *t, const char *unit, size_t len,
    const char *name)
{
    struct timespec a, z;
    size_t n = strlen(unit), ids_n;
    char *s = malloc(len);
    double took;
    int32_t *ids;
    int rc;

    if (s == NULL) {
        abort();
    }

    for (size_t i = 0; i < len; i++) {
        s[i] = unit[i % n];
    }

    clock_gettime(CLOCK_MONOTONIC, &a);
    rc = infer_text_encode(t, s, len, INFER_TEXT_SPECIAL, &ids, &ids_n, NULL);
    clock_gettime(CLOCK_MONOTONIC, &z);
    took = (double) (z.tv_sec - a.tv_sec) + 1e-9 * (z.tv_nsec - a.tv_nsec);
    ok(rc == INFER_OK && took < 10, "%s", name);
    diag("%zu bytes, %zu ids, %.3f s", len, ids_n, took);
    free(ids);
    free(s);
}


static void
test_hostile(void)
{
    static const char *const pre[] = { "gpt-2", "smollm", "llama-bpe",
                                       "qwen2" };
    tm_conf_t c = base;
    void *image;

    for (int p = 0; p < 4; p++) {
        c.pre = pre[p];

        infer_text_t *t = tm_open(tm_file(&c), &image);

        hostile(t, "a", 1 << 20, "a run of one letter");
        hostile(t, " ", 1 << 20, "a run of spaces");
        hostile(t, "\n ", 1 << 20, "lines of spaces");
        hostile(t, "\xff", 1 << 20, "a run of bytes that are no UTF-8");
        hostile(t, "<|im_end|<tool", 1 << 20, "beginnings of specials");
        hostile(t, "\xe2\x82\xac'", 1 << 20, "signs");
        infer_text_close(t);
        free(image);
    }
}


static int
golden_line(const infer_text_t *t, const char *line, int chat)
{
    json_t *o = json_loads(line, JSON_ALLOW_NUL, NULL), *ids, *text;
    const char *s;
    size_t len, n, got;
    int32_t *have = NULL;
    unsigned flags;
    char *back;
    int pass;

    text = json_object_get(o, chat ? "prompt" : "text");
    ids = json_object_get(o, "ids");
    s = json_string_value(text);
    len = json_string_length(text);
    flags = chat || json_is_true(json_object_get(o, "parse_special"))
            ? INFER_TEXT_SPECIAL : 0;

    if (s == NULL || !json_is_array(ids)
        || infer_text_encode(t, s, len, flags, &have, &n, NULL) != INFER_OK)
    {
        json_decref(o);
        return 0;
    }

    pass = n == json_array_size(ids);

    for (size_t i = 0; pass && i < n; i++) {
        pass = json_integer_value(json_array_get(ids, i)) == have[i];
    }

    back = detokenize(t, have, n, &got);
    pass = pass && got == len && memcmp(back, s, len) == 0;

    if (!pass) {
        diag("differs: %s", line);
    }

    free(back);
    free(have);
    json_decref(o);

    return pass;
}


static void
golden_file(const infer_text_t *t, const char *dir, const char *name,
    int chat)
{
    char path[512];
    char *line = NULL;
    size_t cap = 0;
    int n = 0, good = 0;
    FILE *f;

    snprintf(path, sizeof(path), "%s/%s", dir, name);
    f = fopen(path, "r");

    while (f != NULL && getline(&line, &cap, f) > 0) {
        n++;
        good += golden_line(t, line, chat);
    }

    ok(n > 0 && good == n, "%s: %d of %d texts have the golden ids and come "
       "back", name, good, n);
    free(line);

    if (f != NULL) {
        fclose(f);
    }
}


static void
test_golden(void)
{
    const char *model = getenv("INFER_MODEL");
    const char *dir = getenv("INFER_GOLDEN");
    void *image;
    infer_text_t *t;
    int fd;

    model = model ? model : "models/SmolLM2-135M-Instruct.Q4_1.gguf";
    fd = open(model, O_RDONLY | O_CLOEXEC);

    if (fd < 0) {
        ok(1, "golden ids # SKIP no model file \"%s\"", model);
        return;
    }

    t = tm_open(fd, &image);
    ok(t != NULL, "the model's image opens");

    if (t != NULL) {
        dir = dir ? dir : "t/golden/smollm2";
        golden_file(t, dir, "tokens.jsonl", 0);
        golden_file(t, dir, "chat.jsonl", 1);
        hostile(t, "a", 1 << 20, "a run of one letter, real vocabulary");
        hostile(t, "The quick brown fox, 42 times.\n", 1 << 20, "prose");
        ok(infer_text_eos(t) == 2 && infer_text_is_eog(t, 0)
           && infer_text_is_eog(t, 2) && !infer_text_is_eog(t, 1),
           "SmolLM2's end tokens");
    }

    infer_text_close(t);
    free(image);
}


int
main(void)
{
    test_merges();
    test_pre();
    test_special();
    test_marked();
    test_bytes();
    test_hostile();
    test_golden();

    return tap_done();
}
