/*
 * fuzz_gguf.c: any bytes as a model file: opened, every key and tensor
 * asked for, and inspected as a model. Seeds: generated models.
 */

#include "model/model.h"
#include "tool/tiny_gguf.h"

#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);
size_t fuzz_seed(uint32_t i, uint8_t *buf, size_t cap);


size_t
fuzz_seed(uint32_t i, uint8_t *buf, size_t cap)
{
    tiny_conf_t conf = tiny_default;
    size_t len = 0;

    if (i > 2) {
        return 0;
    }

    conf.L = 1;
    conf.D = 32;
    conf.H = 2;
    conf.G = 1;
    conf.F = 32;
    conf.V = 259 + i;
    conf.rope_freqs = i == 1;
    conf.rope_scaling = i == 2 ? "yarn" : NULL;
    conf.rope_factor = 2;

    void *file = tiny_build(&conf, &len);

    len = file == NULL || len > cap ? 0 : len;

    if (len > 0) {
        memcpy(buf, file, len);
    }

    free(file);

    return len;
}


/* Sums over what is asked for keep the calls from being dropped. */
static uint64_t
ask(infer_gguf_t *g)
{
    static const char *const key[] = {
        "general.architecture", "general.alignment", "llama.block_count",
        "tokenizer.ggml.tokens", "tokenizer.ggml.token_type",
        "tokenizer.chat_template", "tokenizer.ggml.merges"
    };
    uint64_t sum = 0, u, count;
    uint32_t type;
    int64_t i64;
    double f;
    const char *s;
    size_t len;

    for (size_t k = 0; k < sizeof(key) / sizeof(key[0]); k++) {
        sum += infer_gguf_get_u64(g, key[k], &u) ? u : 0;
        sum += infer_gguf_get_f64(g, key[k], &f);

        if (infer_gguf_get_str(g, key[k], &s, &len) && len > 0) {
            sum += (unsigned char) s[0] + (unsigned char) s[len - 1];
        }

        if (!infer_gguf_get_array(g, key[k], &type, &count)) {
            continue;
        }

        for (uint64_t i = count > 16 ? count - 16 : 0; i <= count; i++) {
            sum += (uint64_t) infer_gguf_array_i64(g, key[k], i, &i64);

            if (infer_gguf_array_str(g, key[k], i, &s, &len) && len > 0) {
                sum += (unsigned char) s[len - 1];
            }
        }
    }

    return sum;
}


static uint64_t
ask_tensors(infer_gguf_t *g)
{
    unsigned char byte;
    uint64_t sum = 0;

    for (uint64_t i = 0; i < infer_gguf_n_tensors(g); i++) {
        const infer_gguf_tensor_t *t = infer_gguf_tensor_at(g, i);

        if (t->bytes > 0) {
            if (infer_gguf_read(g, t, &byte, 1, t->bytes - 1) != INFER_OK
                || infer_gguf_tensor(g, t->name) != t)
            {
                abort();
            }

            sum += byte;
        }
    }

    return sum;
}


int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    infer_model_info_t info;
    infer_gguf_t *g = NULL;
    infer_err_t err = { 0, "" };
    volatile uint64_t sum = 0;
    int fd = memfd_create("fuzz", MFD_CLOEXEC);

    if (fd < 0 || pwrite(fd, data, len, 0) != (ssize_t) len) {
        abort();
    }

    if (infer_gguf_open(&g, fd, &err) == INFER_OK) {
        sum += ask(g);
        sum += ask_tensors(g);

        if (infer_model_inspect(g, &info, &err) != INFER_OK
            && err.text[0] == '\0')
        {
            abort();
        }

        infer_gguf_close(g);

    } else if (err.text[0] == '\0') {
        abort();
    }

    close(fd);

    return 0;
}
