/*
 * fuzz_api.c: any bytes as a request's body. The first byte chooses the
 * endpoint; what is taken is shrunk, rendered with its own settings and
 * freed, and the answer must be JSON again.
 */

#include "api_text.h"

#include <jansson.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);
size_t fuzz_seed(uint32_t i, uint8_t *buf, size_t cap);


size_t
fuzz_seed(uint32_t i, uint8_t *buf, size_t cap)
{
    static const char *const seed[] = {
        "0{\"messages\":[{\"role\":\"system\",\"content\":\"a\"},{\"role\":"
        "\"user\",\"content\":[{\"type\":\"text\",\"text\":\"b\"}]}],"
        "\"stream\":true,\"stream_options\":{\"include_usage\":true},"
        "\"logprobs\":true,\"top_logprobs\":2,\"n\":2,\"stop\":[\"x\"]}",
        "1{\"prompt\":[\"ab\",\"<s>\"],\"echo\":true,\"max_tokens\":5,"
        "\"temperature\":0.5,\"logit_bias\":{\"5\":-1},\"n\":2}",
        "1{\"prompt\":[[5,6],[7]],\"logprobs\":3,\"min_tokens\":1,"
        "\"seed\":18446744073709551615,\"stop_token_ids\":[3]}",
        "2{\"content\":\"ab<s>\",\"with_pieces\":true,\"add_special\":true}",
        "3{\"tokens\":[195,169,256,1]}",
        "4{\"messages\":[{\"role\":\"assistant\",\"content\":\"z\"}],"
        "\"continue_final_message\":true,\"chat_template_kwargs\":"
        "{\"extra\":[1,{\"a\":null}]}}",
    };
    size_t len;

    if (i >= sizeof(seed) / sizeof(seed[0])) {
        return 0;
    }

    len = strlen(seed[i]);
    len = len > cap ? 0 : len;
    memcpy(buf, seed[i], len);

    return len;
}


static void
fuzz_is_json(const char *s, size_t len)
{
    json_t *v = json_loadb(s, len, JSON_ALLOW_NUL, NULL);

    if (v == NULL) {
        abort();
    }

    json_decref(v);
}


static void
fuzz_render(const infer_text_t *text, const infer_api_request_t *req)
{
    static const infer_record_t rec = { 195, 0, -1.5f, 0 };
    infer_top_t top[INFER_MAX_TOP_LOGPROBS];
    infer_render_conf_t conf = { .id = { "\"\xff", 2 } };
    infer_api_usage_t usage = { 1, 2, 0 };
    infer_buf_t out = { .max = 1 << 20 };
    infer_render_t *r;

    if (infer_render_new(&r, text, req, &conf) != INFER_OK) {
        return;
    }

    /* not byte 0: jansson has no such key */
    for (int32_t k = 0; k < INFER_MAX_TOP_LOGPROBS; k++) {
        top[k] = (infer_top_t) { 'a' + k, -1 };
    }

    (void) infer_render_begin(r, &out);

    for (uint32_t i = 0; i < req->n_prompts * req->n; i++) {
        (void) infer_render_piece(r, &out, i, "a\n\"", 3, &rec, top, 1);
        (void) infer_render_finish(r, &out, i, INFER_FINISH_STOP);
    }

    if (infer_render_end(r, &out, &usage) == INFER_OK && !req->stream) {
        fuzz_is_json(out.data, out.len);
    }

    infer_render_free(r);
    infer_buf_free(&out);
}


int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    static infer_text_t *text;
    static void *image;
    infer_api_conf_t conf = at_conf();
    infer_api_request_t *req;
    infer_api_error_t error;
    infer_buf_t out = { 0 };

    if (text == NULL) {
        text = at_open(AT_TEMPLATE, &image);
    }

    if (len == 0) {
        return 0;
    }

    /* '0' is the first endpoint */
    if (infer_api_prepare(text, &conf, (data[0] + 2) % 5,
                          (const char *) data + 1, len - 1, &req, &error)
        != INFER_OK)
    {
        if (infer_api_render_error(&out, &error) != INFER_OK
            || error.status < 400)
        {
            abort();
        }

        fuzz_is_json(out.data, out.len);
        infer_buf_free(&out);

        return 0;
    }

    if (req->n_prompts > 0) {
        infer_api_request_shrink(req);
        fuzz_render(text, req);
    } else {
        fuzz_is_json(req->body.data, req->body.len);
    }

    infer_api_request_free(req);

    return 0;
}
