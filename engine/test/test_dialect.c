/*
 * test_dialect.c: the buffer and its JSON strings, then answers as bytes:
 * chat and text completions, whole and streamed, errors, models.
 */

#include "tap.h"
#include "api_text.h"

#include <jansson.h>
#include <math.h>

static infer_text_t  *text;

static const infer_render_conf_t conf = {
    .id = { "r1", 2 }, .created = 1764000000, .fingerprint = { "fp", 2 }
};
static const infer_api_usage_t usage = { 3, 4, 1 };


static void
out_is(infer_buf_t *b, const char *want, const char *name)
{
    int pass = infer_buf_rc(b) == INFER_OK && b->len == strlen(want)
               && (b->len == 0 || memcmp(b->data, want, b->len) == 0);

    ok(pass, "%s", name);

    if (!pass) {
        diag("got  %.*s", (int) b->len, b->data);
        diag("want %s", want);
    }

    infer_buf_reset(b);
}


static void
escape_is(const char *s, size_t len, const char *want)
{
    infer_buf_t b = { 0 };

    infer_buf_quote(&b, s, len);
    out_is(&b, want, want);
    infer_buf_free(&b);
}


static void
test_buf(void)
{
    infer_buf_t b = { .max = 10 };
    char all[256];

    escape_is("", 0, "\"\"");
    escape_is("a\"\\/\b\n\r\t\0\x1f\x7f", 11,
              "\"a\\\"\\\\/\\u0008\\n\\r\\t\\u0000\\u001f\x7f\"");
    escape_is("\xc3\xa9\xf0\x9f\x98\x80", 6, "\"\xc3\xa9\xf0\x9f\x98\x80\"");
    /* per maximal subpart: Unicode's own example in table 3-8 */
    escape_is("a\xf1\x80\x80\xe1\x80\xc2" "b\x80" "c\x80\xbf" "d", 13,
              "\"a\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd" "b\xef\xbf\xbd"
              "c\xef\xbf\xbd\xef\xbf\xbd" "d\"");
    escape_is("\xed\xa0\x80", 3, "\"\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\"");
    escape_is("\xc0\xaf\xf5", 3, "\"\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\"");
    escape_is("\xf0\x9f\x98", 3, "\"\xef\xbf\xbd\"");

    for (int i = 0; i < 256; i++) {
        all[i] = (char) i;
    }

    infer_buf_put(&b, "12345", 5);
    infer_buf_put(&b, "123456", 6);
    infer_buf_put(&b, "1", 1);
    ok(infer_buf_rc(&b) == INFER_BUSY && b.len == 5, "the limit sticks");
    infer_buf_reset(&b);
    infer_buf_put(&b, all, 10);
    ok(infer_buf_rc(&b) == INFER_OK && b.len == 10, "up to the limit");
    infer_buf_free(&b);

    b.max = 0;
    infer_buf_float(&b, -0.5f);
    infer_buf_put(&b, " ", 1);
    infer_buf_float(&b, -INFINITY);
    infer_buf_put(&b, " ", 1);
    infer_buf_u64(&b, UINT64_MAX);
    out_is(&b, "-0.5 -9999.0 18446744073709551615", "numbers");
    infer_buf_free(&b);
}


static infer_api_request_t *
request(int endpoint, const char *body)
{
    infer_api_request_t *req;
    infer_api_error_t error;
    infer_api_conf_t c = at_conf();

    if (infer_api_prepare(text, &c, endpoint, body, strlen(body), &req,
                          &error) != INFER_OK)
    {
        diag("%s: %s", error.param, error.message);
        abort();
    }

    return req;
}


#define CHAT_STREAM(fields)                                                   \
    "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}],"                  \
    "\"stream\":true" fields "}"
#define CHUNK(rest)                                                           \
    "data: {\"id\":\"chatcmpl-r1\",\"object\":\"chat.completion.chunk\","     \
    "\"created\":1764000000,\"model\":\"tiny\",\"system_fingerprint\":"       \
    "\"fp\",\"choices\":[" rest "}\n\n"
#define USAGE                                                                 \
    "\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":4,"                 \
    "\"total_tokens\":7,\"prompt_tokens_details\":{\"cached_tokens\":1}}"


static void
test_chat_stream(void)
{
    infer_api_request_t *req = request(INFER_API_CHAT, CHAT_STREAM(""));
    infer_render_t *r;
    infer_buf_t b = { 0 };

    (void) infer_render_new(&r, text, req, &conf);
    (void) infer_render_begin(r, &b);
    out_is(&b, "", "a stream begins with nothing");
    (void) infer_render_piece(r, &b, 0, "a\n", 2, NULL, NULL, 0);
    out_is(&b,
           CHUNK("{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":"
                 "\"\"},\"logprobs\":null,\"finish_reason\":null}]")
           CHUNK("{\"index\":0,\"delta\":{\"content\":\"a\\n\"},\"logprobs\":"
                 "null,\"finish_reason\":null}]"), "role, then text");
    (void) infer_render_piece(r, &b, 0, "", 0, NULL, NULL, 0);
    out_is(&b, "", "nothing to say, no event");
    ok(infer_render_finish(r, &b, 0, INFER_FINISH_ERROR) == INFER_INVALID
       && b.len == 0, "an error is no finish");
    (void) infer_render_finish(r, &b, 0, INFER_FINISH_LENGTH);
    (void) infer_render_end(r, &b, &usage);
    out_is(&b, CHUNK("{\"index\":0,\"delta\":{},\"logprobs\":null,"
                     "\"finish_reason\":\"length\"}]") "data: [DONE]\n\n",
           "finish and end");
    infer_render_free(r);
    infer_buf_free(&b);
    infer_api_request_free(req);
}


static void
test_chat_usage(void)
{
    infer_api_request_t *req = request(INFER_API_CHAT, CHAT_STREAM(
        ",\"stream_options\":{\"include_usage\":true},\"n\":2,"
        "\"logprobs\":true,\"top_logprobs\":1"));
    infer_record_t rec[] = { { 258, 0, -0.5f, 2 },
                             { AT_EOS, INFER_REC_HIDDEN, -0.25f, 2 } };
    infer_top_t top[] = { { 0xc3, -0.125f }, { 'b', -3 } };
    infer_render_t *r;
    infer_buf_t b = { 0 };

    (void) infer_render_new(&r, text, req, &conf);
    (void) infer_render_finish(r, &b, 1, INFER_FINISH_STOP);
    out_is(&b,
           CHUNK("{\"index\":1,\"delta\":{\"role\":\"assistant\",\"content\":"
                 "\"\"},\"logprobs\":null,\"finish_reason\":null}],\"usage\":"
                 "null")
           CHUNK("{\"index\":1,\"delta\":{},\"logprobs\":null,"
                 "\"finish_reason\":\"stop\"}],\"usage\":null"),
           "a choice without text has its role too");
    (void) infer_render_piece(r, &b, 0, "", 0, &rec[1], &top[1], 1);
    infer_buf_reset(&b);
    (void) infer_render_piece(r, &b, 0, "", 0, &rec[1], &top[1], 1);
    out_is(&b, "", "an ending token is no entry");
    (void) infer_render_piece(r, &b, 0, "", 0, rec, top, 2);
    out_is(&b,
           CHUNK("{\"index\":0,\"delta\":{\"content\":\"\"},\"logprobs\":{"
                 "\"content\":[{\"token\":\"ab\",\"logprob\":-0.5,\"bytes\":"
                 "[97,98],\"top_logprobs\":[{\"token\":\"\\\\xc3\","
                 "\"logprob\":-0.125,\"bytes\":[195]}]}],\"refusal\":null},"
                 "\"finish_reason\":null}],\"usage\":null"),
           "an entry goes out though its text is held");
    (void) infer_render_end(r, &b, &usage);
    out_is(&b, CHUNK("]," USAGE) "data: [DONE]\n\n", "usage");
    infer_render_free(r);
    infer_buf_free(&b);
    infer_api_request_free(req);
}


static void
test_chat_whole(void)
{
    infer_api_request_t *req = request(INFER_API_CHAT,
        "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}],\"n\":2,"
        "\"logprobs\":true,\"model\":\"other\"}");
    infer_record_t rec[] = { { 'a', 0, -1, 1 },
                             { AT_EOS, INFER_REC_HIDDEN, -2, 1 } };
    infer_render_t *r;
    infer_buf_t b = { 0 };

    (void) infer_render_new(&r, text, req, &conf);
    (void) infer_render_begin(r, &b);
    (void) infer_render_piece(r, &b, 0, "a", 1, &rec[0], NULL, 1);
    (void) infer_render_piece(r, &b, 0, "\"", 1, &rec[1], NULL, 1);
    (void) infer_render_finish(r, &b, 0, INFER_FINISH_STOP);
    (void) infer_render_finish(r, &b, 1, INFER_FINISH_LENGTH);
    (void) infer_render_end(r, &b, &usage);
    out_is(&b, "{\"id\":\"chatcmpl-r1\",\"object\":\"chat.completion\","
           "\"created\":1764000000,\"model\":\"other\",\"system_fingerprint\":"
           "\"fp\",\"choices\":[{\"index\":0,\"message\":{\"role\":"
           "\"assistant\",\"content\":\"a\\\"\",\"refusal\":null},\"logprobs\":"
           "{\"content\":[{\"token\":\"a\",\"logprob\":-1,\"bytes\":[97],"
           "\"top_logprobs\":[]}],\"refusal\":null},\"finish_reason\":\"stop\"}"
           ",{\"index\":1,\"message\":{\"role\":\"assistant\",\"content\":\"\","
           "\"refusal\":null},\"logprobs\":{\"content\":[],\"refusal\":null},"
           "\"finish_reason\":\"length\"}]," USAGE "}", "a whole chat");
    infer_render_free(r);
    infer_buf_free(&b);
    infer_api_request_free(req);
}


#define CMPL(rest)                                                            \
    "{\"id\":\"cmpl-r1\",\"object\":\"text_completion\",\"created\":"         \
    "1764000000,\"model\":\"tiny\",\"system_fingerprint\":\"fp\","            \
    "\"choices\":[" rest


static void
test_completions(void)
{
    infer_api_request_t *req = request(INFER_API_COMPLETIONS,
        "{\"prompt\":\"p\",\"logprobs\":1}");
    infer_record_t rec[] = { { 0xc3, 0, -1, 0 }, { 0xa9, 0, -2, 2 },
                             { 'b', 0, -3, 3 } };
    infer_top_t top[] = { { 0xc3, -1 }, { 'x', -0.5f }, { 'b', -3 } };
    infer_render_t *r;
    infer_buf_t b = { 0 };

    (void) infer_render_new(&r, text, req, &conf);
    (void) infer_render_begin(r, &b);
    (void) infer_render_piece(r, &b, 0, "", 0, rec, top, 1);
    (void) infer_render_piece(r, &b, 0, "\xc3\xa9" "b", 3, rec + 1, top + 1,
                              2);
    (void) infer_render_finish(r, &b, 0, INFER_FINISH_LENGTH);
    (void) infer_render_end(r, &b, &usage);
    out_is(&b, CMPL("{\"index\":0,\"text\":\"\xc3\xa9" "b\",\"logprobs\":{"
           "\"tokens\":[\"bytes:\\\\xc3\",\"bytes:\\\\xa9\",\"b\"],"
           "\"token_logprobs\":[-1,-2,-3],\"top_logprobs\":["
           "{\"bytes:\\\\xc3\":-1},{\"x\":-0.5,\"bytes:\\\\xa9\":-2},"
           "{\"b\":-3}],\"text_offset\":[0,1,1]},\"finish_reason\":"
           "\"length\"}],") USAGE "}", "logprobs of a completion");
    infer_render_free(r);
    infer_api_request_free(req);

    req = request(INFER_API_COMPLETIONS,
                  "{\"prompt\":[\"p\",\"q\"],\"n\":2,\"echo\":true,"
                  "\"stream\":true}");
    (void) infer_render_new(&r, text, req, &conf);
    (void) infer_render_piece(r, &b, 2, "z", 1, NULL, NULL, 0);
    (void) infer_render_finish(r, &b, 2, INFER_FINISH_STOP);
    out_is(&b,
           "data: " CMPL("{\"index\":2,\"text\":\"q\",\"logprobs\":null,"
                         "\"finish_reason\":null}]}\n\n")
           "data: " CMPL("{\"index\":2,\"text\":\"z\",\"logprobs\":null,"
                         "\"finish_reason\":null}]}\n\n")
           "data: " CMPL("{\"index\":2,\"text\":\"\",\"logprobs\":null,"
                         "\"finish_reason\":\"stop\"}]}\n\n"),
           "a choice echoes its own prompt");
    infer_render_free(r);
    infer_buf_free(&b);
    infer_api_request_free(req);
}


static void
test_errors(void)
{
    static const int status[] = { 400, 401, 403, 404, 405, 413, 415, 418, 429,
                                  499, 500, 503, 504, 599 };
    infer_api_error_t e;
    infer_buf_t b = { 0 };

    for (size_t i = 0; i < sizeof(status) / sizeof(status[0]); i++) {
        json_t *v, *error;

        infer_api_error_status(&e, status[i], NULL);
        (void) infer_api_render_error(&b, &e);
        v = json_loadb(b.data, b.len, 0, NULL);
        error = json_object_get(v, "error");
        ok(json_object_size(error) == 4
           && json_is_string(json_object_get(error, "message"))
           && json_is_string(json_object_get(error, "type"))
           && json_is_null(json_object_get(error, "param")),
           "error object of %d", status[i]);
        json_decref(v);
        infer_buf_reset(&b);
    }

    infer_api_error_rc(&e, INFER_BUSY, "no \"slot\"");
    snprintf(e.param, sizeof(e.param), "n");
    (void) infer_render_failed(&b, &e);
    out_is(&b, "data: {\"error\":{\"message\":\"no \\\"slot\\\"\",\"type\":"
           "\"unavailable_error\",\"param\":\"n\",\"code\":\"unavailable\"}}"
           "\n\n", "an error event");
    infer_api_error_finish(&e, INFER_FINISH_TIMEOUT, NULL);
    ok(e.status == 504, "timeout");
    infer_api_error_finish(&e, INFER_FINISH_TIMEOUT_QUEUE, NULL);
    ok(e.status == 503, "queue timeout");
    infer_api_error_finish(&e, INFER_FINISH_ERROR, "x");
    ok(e.status == 500 && strcmp(e.message, "x") == 0, "failure");
    (void) infer_render_ping(&b);
    out_is(&b, ": ping\n\n", "ping");
    infer_buf_free(&b);
}


static void
test_models(void)
{
    infer_api_model_t m[] = {
        { { "a", 1 }, 5, 256, 512, 259, 1000, 2000 },
        { { "b", 1 }, 6, 1, 2, 3, 4, 5 },
    };
    infer_buf_t b = { 0 };

    (void) infer_api_render_models(&b, m, 2);
    out_is(&b, "{\"object\":\"list\",\"data\":[{\"id\":\"a\",\"object\":"
           "\"model\",\"created\":5,\"owned_by\":\"ngx_infer\","
           "\"max_model_len\":256,\"meta\":{\"n_ctx\":256,\"n_ctx_train\":512,"
           "\"n_vocab\":259,\"n_params\":1000,\"size\":2000}},{\"id\":\"b\","
           "\"object\":\"model\",\"created\":6,\"owned_by\":\"ngx_infer\","
           "\"max_model_len\":1,\"meta\":{\"n_ctx\":1,\"n_ctx_train\":2,"
           "\"n_vocab\":3,\"n_params\":4,\"size\":5}}]}", "models");
    infer_buf_free(&b);
}


int
main(void)
{
    void *image;

    text = at_open(AT_TEMPLATE, &image);

    if (text == NULL) {
        ok(0, "text side of the test model");
        return tap_done();
    }

    test_buf();
    test_chat_stream();
    test_chat_usage();
    test_chat_whole();
    test_completions();
    test_errors();
    test_models();
    infer_text_close(text);
    free(image);

    return tap_done();
}
