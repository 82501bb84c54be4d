/*
 * fuzz_image.c: any bytes as a text image behind a right size and checksum:
 * opened, every piece asked for, text encoded and streamed. Seeds: images
 * of a small vocabulary, one for each pre-tokenizer.
 */

#include "text_model.h"
#include "text/image.h"
#include "text/stream.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);
size_t fuzz_seed(uint32_t i, uint8_t *buf, size_t cap);


size_t
fuzz_seed(uint32_t i, uint8_t *buf, size_t cap)
{
    static const tm_token_t extra[] = {
        { "<s>", 3 }, { "</s>", 3 }, { "<s><s>", 4 }, { "ab", 1 },
        { "abc", 1 }, { NULL, 0 }
    };
    static const char *const merges[] = { "a b", "ab c", NULL };
    static const char *const pre[] = { "gpt-2", "smollm", "llama-bpe",
                                       "qwen2" };
    tm_conf_t c = {
        .pre = pre[i % 4], .extra = extra, .merges = merges, .bos = 256,
        .eos = 257, .add_bos = 1, .tpl = "{{ messages[0].content }}"
    };
    infer_err_t err;
    void *image;
    size_t len = 0;

    if (i > 3 || tm_build(tm_file(&c), &image, &len, &err) != INFER_OK) {
        return 0;
    }

    len = len > cap ? 0 : len;
    memcpy(buf, image, len);
    free(image);

    return len;
}


static void
fuzz_use(const infer_text_t *t)
{
    static const char text[] = "<s>ab abc <s><s>c</s>\xff\xf0\x9f 12\n  x'll";
    const char *stop = "abc", *out;
    size_t stop_len = 3, len, n;
    int32_t *ids;
    infer_stream_t *st;
    volatile size_t sum = 0;

    for (int32_t i = -1; i <= (int32_t) infer_text_vocab(t); i++) {
        const char *p = infer_text_piece(t, i, 1, &len);

        sum += len > 0 ? (size_t) p[len - 1] : 0;
    }

    if (infer_stream_new(&st, t, &stop, &stop_len, 1, 1) != INFER_OK
        || infer_text_encode(t, text, sizeof(text) - 1,
                             INFER_TEXT_SPECIAL | INFER_TEXT_BOS, &ids, &n,
                             NULL) != INFER_OK)
    {
        abort();
    }

    for (size_t i = 0; i < n; i++) {
        infer_stream_put(st, ids[i], 0, &out, &len);
    }

    infer_stream_finish(st, &out, &len);
    infer_stream_free(st);
    free(ids);
}


int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    infer_text_t *t = NULL;
    infer_err_t err = { 0, "" };
    char *p = malloc(len ? len : 1);

    if (p == NULL) {
        abort();
    }

    memcpy(p, data, len);

    if (len % 8 == 0 && len >= sizeof(image_header_t)) {
        image_header_t *h = (image_header_t *) p;

        h->magic = IMAGE_MAGIC;
        h->version = IMAGE_VERSION;
        h->total = len;
        h->checksum = image_checksum(p, len);
    }

    if (infer_text_open(&t, p, len, &err) == INFER_OK) {
        fuzz_use(t);
        infer_text_close(t);

    } else if (err.text[0] == '\0') {
        abort();
    }

    free(p);

    return 0;
}
