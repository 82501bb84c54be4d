/*
 * test_image.c: building the text image (same bytes each time, sentences
 * for what is wrong with a file) and opening one that nobody trusts: ends
 * at a guard page, each truncation, each header byte, and damage behind a
 * right checksum, after which every function still has to be safe.
 */

#include "tap.h"
#include "text_model.h"
#include "text/image.h"
#include "text/stream.h"

static const tm_token_t extra[] = {
    { "<s>", 3 }, { "</s>", 3 }, { "<s><s>", 4 }, { "ab", 1 }, { "abc", 1 },
    { NULL, 0 }
};

static const char *const merges[] = { "a b", "ab c", NULL };

static const tm_conf_t base = {
    .pre = "smollm", .extra = extra, .merges = merges, .bos = 256,
    .eos = 257, .add_bos = 1, .tpl = "{{ messages[0].content }}"
};


/* A copy of p[0..len) whose last byte is the last of a mapping; on 8 bytes
 * when len is a multiple of 8. */
static char *
guarded(const void *p, size_t len, void **map, size_t *map_len)
{
    size_t page = (size_t) sysconf(_SC_PAGESIZE);
    size_t body = (len + page) / page * page;
    char *m = mmap(NULL, body + page, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (m == MAP_FAILED || mprotect(m + body, page, PROT_NONE) != 0) {
        abort();
    }

    memcpy(m + body - len, p, len);
    *map = m;
    *map_len = body + page;

    return m + body - len;
}


static void
refused(const tm_conf_t *c, int code, const char *word)
{
    infer_err_t err = { 0, "" };
    void *image;
    size_t len;
    int rc = tm_build(tm_file(c), &image, &len, &err);

    ok(rc == code && image == NULL && strstr(err.text, word) != NULL,
       "refused: %s", err.text);
}


static void
test_refused(void)
{
    static const tm_token_t bad_type[] = { { "x1", 9 }, { NULL, 0 } };
    static const char *const bad_merge[] = { "a q", NULL };
    static const char *const no_space[] = { "abc", NULL };
    static char longer[IMAGE_MAX_PIECE + 2];
    static const tm_token_t too_long[] = { { longer, 1 }, { NULL, 0 } };
    tm_conf_t c;

    memset(longer, 'x', IMAGE_MAX_PIECE + 1);

    c = base, c.model = "llama";
    refused(&c, INFER_UNSUPPORTED, "\"llama\"");
    c = base, c.pre = "viking";
    refused(&c, INFER_UNSUPPORTED, "\"viking\"");
    c = base, c.pre = NULL;
    refused(&c, INFER_UNSUPPORTED, "tokenizer.ggml.pre");
    c = base, c.extra = bad_type, c.merges = NULL, c.bos = -1, c.eos = -1;
    refused(&c, INFER_CORRUPT, "token 256");
    c.extra = too_long;
    refused(&c, INFER_CORRUPT, "token 256");
    c = base, c.merges = bad_merge;
    refused(&c, INFER_CORRUPT, "merge 0");
    c = base, c.merges = no_space;
    refused(&c, INFER_CORRUPT, "merge 0");
    c = base, c.bos = 261;
    refused(&c, INFER_CORRUPT, "bos_token_id");
    c = base, c.eos = 100000;
    refused(&c, INFER_CORRUPT, "eos_token_id");
    c = base, c.tpl = "{% if %}";
    refused(&c, INFER_INVALID, "");
}


static void
test_build(void)
{
    infer_err_t err = { 0, "" };
    void *a, *b;
    size_t a_len, b_len, len;
    infer_text_t *t = NULL;
    infer_gguf_t *g;
    tm_conf_t c = base;
    int fd, rc;
    const char *s;

    ok(tm_build(tm_file(&base), &a, &a_len, &err) == INFER_OK
       && tm_build(tm_file(&base), &b, &b_len, &err) == INFER_OK, "builds");
    ok(a_len == b_len && memcmp(a, b, a_len) == 0, "the same bytes again");
    free(b);

    ok(infer_text_open(&t, a, a_len, &err) == INFER_OK, "opens");
    ok(infer_text_vocab(t) == 261 && infer_text_bos(t) == 256
       && infer_text_eos(t) == 257 && infer_text_add_bos(t) == 1
       && infer_text_max_piece(t) == 6, "counts and ids");
    s = infer_text_template_source(t, &len);
    ok(len == strlen(base.tpl) && memcmp(s, base.tpl, len) == 0
       && infer_text_template(t) != NULL, "the template is there");
    infer_text_close(t);
    free(a);

    fd = tm_file(&base);
    rc = infer_gguf_open(&g, fd, &err);
    ok(rc == INFER_OK && infer_text_build(g, "own", 3, &a, &a_len, &err)
       == INFER_OK && infer_text_open(&t, a, a_len, &err) == INFER_OK,
       "builds with a template from outside");
    s = infer_text_template_source(t, &len);
    ok(len == 3 && memcmp(s, "own", 3) == 0, "which replaces the file's");
    infer_text_close(t);
    free(a);
    ok(infer_text_build(g, "{% for %}", 9, &a, &a_len, &err)
       == INFER_INVALID && a == NULL, "a bad one is refused: %s", err.text);
    infer_gguf_close(g);
    close(fd);

    c.tpl = NULL;
    c.bos = c.eos = -1;
    c.no_types = 1;
    t = tm_open(tm_file(&c), &a);
    ok(infer_text_template(t) == NULL
       && infer_text_template_source(t, &len) == NULL && len == 0
       && infer_text_bos(t) == -1 && infer_text_eos(t) == -1
       && infer_text_add_bos(t) == 0 && !infer_text_is_control(t, 256),
       "a file without template, ids and types");
    infer_text_close(t);
    free(a);
}


static void
test_truncated(const void *image, size_t len)
{
    infer_text_t *t;
    infer_err_t err;
    void *map;
    size_t map_len;
    int pass = 1;
    char *p;

    for (size_t n = 0; n < len; n += n < 1400 ? 1 : 37) {
        p = guarded(image, n, &map, &map_len);

        if ((uintptr_t) p % 8 == 0 && n >= sizeof(image_header_t)) {
            image_header_t *h = (image_header_t *) p;

            h->total = n;
            h->checksum = n % 8 == 0 ? image_checksum(p, n) : 0;
        }

        pass &= infer_text_open(&t, p, n, &err) == INFER_CORRUPT && t == NULL;
        munmap(map, map_len);
    }

    ok(pass, "each truncation is refused");

    p = guarded(image, len, &map, &map_len);
    ok(infer_text_open(&t, p, len, &err) == INFER_OK,
       "the whole one before a guard page opens");
    infer_text_close(t);
    munmap(map, map_len);
}


static void
test_flipped(char *image, size_t len)
{
    infer_text_t *t;
    infer_err_t err;
    int pass = 1;

    for (size_t i = 0; i < len; i += i < sizeof(image_header_t) ? 1 : 11) {
        image[i] ^= 0x20;
        pass &= infer_text_open(&t, image, len, &err) == INFER_CORRUPT;
        image[i] ^= 0x20;
    }

    ok(pass, "each changed byte is noticed");
}


/* Uses everything that a damaged but accepted image offers. */
static void
use(const infer_text_t *t)
{
    static const char text[] = "<s>ab abc <s><s>c</s>\xff\xf0\x9f";
    const char *stop = "abc", *out;
    size_t stop_len = 3, len, n;
    int32_t *ids, eog[INFER_MAX_EOG];
    infer_stream_t *st;
    volatile size_t sum = 0;

    for (int32_t i = -1; i <= (int32_t) infer_text_vocab(t); i++) {
        const char *p = infer_text_piece(t, i, 1, &len);

        sum += len > 0 ? (size_t) p[len - 1] : 0;
    }

    sum += infer_text_eog(t, eog);

    if (infer_stream_new(&st, t, &stop, &stop_len, 1, 1) != INFER_OK) {
        return;
    }

    if (infer_text_encode(t, text, sizeof(text) - 1,
                          INFER_TEXT_SPECIAL | INFER_TEXT_BOS, &ids, &n,
                          NULL) == INFER_OK)
    {
        for (size_t i = 0; i < n; i++) {
            infer_stream_put(st, ids[i], 0, &out, &len);
        }

        free(ids);
    }

    infer_stream_finish(st, &out, &len);
    infer_stream_free(st);
}


static void
test_damaged(const void *image, size_t len)
{
    static const uint32_t edge[] = { 0, 1, 0x7fffffff, 0xffffffff, 261, 262 };
    infer_text_t *t;
    infer_err_t err;
    uint32_t rng = 1, opened = 0, refused_n = 0;
    char *p = malloc(len);

    if (p == NULL) {
        abort();
    }

    for (int i = 0; i < 4000; i++) {
        image_header_t *h = (image_header_t *) p;
        size_t at;

        rng = rng * 1664525 + 1013904223;
        memcpy(p, image, len);
        at = (rng >> 8) % (i % 2 ? len / 4 : sizeof(*h) / 4);
        rng = rng * 1664525 + 1013904223;
        memcpy(p + 4 * at, &edge[(rng >> 16) % 6], 4);
        h->checksum = image_checksum(p, len);

        if (infer_text_open(&t, p, len, &err) == INFER_OK) {
            use(t);
            infer_text_close(t);
            opened++;

        } else {
            refused_n++;
        }
    }

    free(p);
    ok(opened > 100 && refused_n > 100, "damage behind a right checksum: "
       "%u opened and used, %u refused", opened, refused_n);
}


int
main(void)
{
    infer_err_t err = { 0, "" };
    void *image;
    size_t len;
    int rc;

    test_refused();
    test_build();
    rc = tm_build(tm_file(&base), &image, &len, &err);

    if (!ok(rc == INFER_OK, "an image to damage")) {
        return tap_done();
    }

    test_truncated(image, len);
    test_flipped(image, len);
    test_damaged(image, len);
    free(image);

    return tap_done();
}
