/*
 * fuzz_vocab.c: any bytes as a model file whose text side is built into an
 * image: what is built must open, and give ids that it has. Seeds: files of
 * a small vocabulary, one for each pre-tokenizer.
 */

#include "text_model.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);
size_t fuzz_seed(uint32_t i, uint8_t *buf, size_t cap);


size_t
fuzz_seed(uint32_t i, uint8_t *buf, size_t cap)
{
    static const tm_token_t extra[] = {
        { "<s>", 3 }, { "</s>", 3 }, { "<s><s>", 4 }, { "ab", 1 },
        { "abc", 1 }, { "\xc4\xa0\xc4\xa0", 1 }, { "x", 5 }, { NULL, 0 }
    };
    static const char *const merges[] = { "a b", "ab c",
                                          "\xc4\xa0 \xc4\xa0", NULL };
    static const char *const pre[] = { "gpt-2", "smollm", "llama-bpe",
                                       "qwen2" };
    tm_conf_t c = {
        .pre = pre[i % 4], .extra = extra, .merges = merges, .bos = 256,
        .eos = 257, .add_bos = 1, .tpl = "{{ messages[0].content }}"
    };
    ssize_t n;
    int fd;

    if (i > 3) {
        return 0;
    }

    fd = tm_file(&c);
    n = pread(fd, buf, cap, 0);
    close(fd);

    return n > 0 ? (size_t) n : 0;
}


/* Ids stay inside the vocabulary; no more of them than there may be. */
static void
fuzz_encode(const infer_text_t *t)
{
    static const char text[] = "<s>ab abc  <s><s>c</s>\xff 12\n  x'll\xc3\xa4";
    int32_t *ids;
    size_t n;

    for (unsigned flags = 0; flags < 4; flags++) {
        if (infer_text_encode(t, text, sizeof(text) - 1, flags, &ids, &n,
                              NULL) != INFER_OK || n > 3 * sizeof(text))
        {
            abort();
        }

        for (size_t i = 0; i < n; i++) {
            if (ids[i] < 0 || (uint32_t) ids[i] >= infer_text_vocab(t)) {
                abort();
            }
        }

        free(ids);
    }
}


int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    infer_text_t *t;
    infer_err_t err = { 0, "" };
    void *image;
    size_t image_len;
    int fd = memfd_create("fuzz", MFD_CLOEXEC);

    if (fd < 0 || pwrite(fd, data, len, 0) != (ssize_t) len) {
        abort();
    }

    if (tm_build(fd, &image, &image_len, &err) != INFER_OK) {
        if (err.text[0] == '\0') {
            abort();
        }

        return 0;
    }

    if (infer_text_open(&t, image, image_len, &err) != INFER_OK) {
        fprintf(stderr, "built but does not open: %s\n", err.text);
        abort();
    }

    fuzz_encode(t);
    infer_text_close(t);
    free(image);

    return 0;
}
