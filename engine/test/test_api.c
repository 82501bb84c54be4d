/*
 * test_api.c: request JSON: what is taken, what is refused and by which
 * name, every truncation of a body, and the golden chats on the real model's
 * text side when its file is there.
 */

#include "tap.h"
#include "api_text.h"

#include <fcntl.h>
#include <jansson.h>

static infer_text_t  *text;
static infer_api_conf_t  conf;
static infer_api_error_t  error;

#define CHAT  INFER_API_CHAT
#define COMP  INFER_API_COMPLETIONS
#define TOK   INFER_API_TOKENIZE
#define DETOK INFER_API_DETOKENIZE
#define TPL   INFER_API_TEMPLATE
#define USER  "\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]"


static infer_api_request_t *
prep(int endpoint, const char *body)
{
    infer_api_request_t *req;
    size_t len = strlen(body);

    memset(&error, 0, sizeof(error));
    (void) infer_api_prepare(text, &conf, endpoint, at_guard(body, len), len,
                             &req, &error);

    return req;
}


static void
good(int endpoint, const char *body)
{
    infer_api_request_t *req = prep(endpoint, body);

    ok(req != NULL, "taken: %.70s", body);

    if (req == NULL) {
        diag("%d %s: %s", error.status, error.param, error.message);
    }

    infer_api_request_free(req);
}


typedef struct {
    int          endpoint;
    const char  *param;
    const char  *body;
} bad_t;

static const bad_t bad[] = {
    { CHAT, "", "" },
    { CHAT, "", "{" },
    { CHAT, "", "[]" },
    { CHAT, "", "3" },
    { CHAT, "", "{} x" },
    { CHAT, "messages", "{}" },
    { CHAT, "messages", "{\"messages\":null}" },
    { CHAT, "messages", "{\"messages\":\"hi\"}" },
    { CHAT, "messages", "{\"messages\":[]}" },
    { CHAT, "messages[0]", "{\"messages\":[3]}" },
    { CHAT, "messages[0].role", "{\"messages\":[{\"content\":\"a\"}]}" },
    { CHAT, "messages[0].role", "{\"messages\":[{\"role\":\"king\","
      "\"content\":\"a\"}]}" },
    { CHAT, "messages[0].role", "{\"messages\":[{\"role\":7,"
      "\"content\":\"a\"}]}" },
    { CHAT, "messages[0].content", "{\"messages\":[{\"role\":\"user\"}]}" },
    { CHAT, "messages[0].content", "{\"messages\":[{\"role\":\"user\","
      "\"content\":null}]}" },
    { CHAT, "messages[0].content", "{\"messages\":[{\"role\":\"user\","
      "\"content\":5}]}" },
    { CHAT, "messages[0].content[0]", "{\"messages\":[{\"role\":\"user\","
      "\"content\":[\"a\"]}]}" },
    { CHAT, "messages[0].content[0]", "{\"messages\":[{\"role\":\"user\","
      "\"content\":[{\"type\":\"text\"}]}]}" },
    { CHAT, "messages[0].content[1]", "{\"messages\":[{\"role\":\"user\","
      "\"content\":[{\"type\":\"text\",\"text\":\"a\"},"
      "{\"type\":\"image_url\"}]}]}" },
    { CHAT, "messages[0].content[0]", "{\"messages\":[{\"role\":\"user\","
      "\"content\":[{\"type\":\"input_audio\"}]}]}" },
    { CHAT, "tools", "{" USER ",\"tools\":[{\"type\":\"function\"}]}" },
    { CHAT, "functions", "{" USER ",\"functions\":[{\"name\":\"f\"}]}" },
    { CHAT, "tool_choice", "{" USER ",\"tool_choice\":\"auto\"}" },
    { CHAT, "tool_choice", "{" USER ",\"tool_choice\":{\"type\":\"x\"}}" },
    { CHAT, "response_format", "{" USER ",\"response_format\":{\"type\":"
      "\"json_object\"}}" },
    { CHAT, "response_format", "{" USER ",\"response_format\":\"text\"}" },
    { CHAT, "guided_json", "{" USER ",\"guided_json\":{\"a\":1}}" },
    { CHAT, "structured_outputs", "{" USER ",\"structured_outputs\":"
      "{\"regex\":\"a\"}}" },
    { CHAT, "grammar", "{" USER ",\"grammar\":\"root\"}" },
    { CHAT, "json_schema", "{" USER ",\"json_schema\":{\"type\":1}}" },
    { CHAT, "modalities", "{" USER ",\"modalities\":[\"audio\"]}" },
    { CHAT, "logprobs", "{" USER ",\"logprobs\":3}" },
    { CHAT, "top_logprobs", "{" USER ",\"logprobs\":true,"
      "\"top_logprobs\":21}" },
    { CHAT, "top_logprobs", "{" USER ",\"logprobs\":true,"
      "\"top_logprobs\":-1}" },
    { CHAT, "top_logprobs", "{" USER ",\"top_logprobs\":2}" },
    { CHAT, "chat_template_kwargs", "{" USER
      ",\"chat_template_kwargs\":[]}" },
    { CHAT, "add_generation_prompt", "{" USER
      ",\"add_generation_prompt\":1}" },
    { CHAT, "continue_final_message", "{" USER
      ",\"continue_final_message\":true}" },
    { CHAT, "continue_final_message", "{" USER
      ",\"continue_final_message\":true,\"add_generation_prompt\":true}" },
    { CHAT, "echo", "{" USER ",\"echo\":true}" },
    { COMP, "prompt", "{}" },
    { COMP, "prompt", "{\"prompt\":null}" },
    { COMP, "prompt", "{\"prompt\":5}" },
    { COMP, "prompt", "{\"prompt\":[]}" },
    { COMP, "prompt", "{\"prompt\":[[]]}" },
    { COMP, "prompt", "{\"prompt\":[true]}" },
    { COMP, "prompt", "{\"prompt\":[5,\"a\"]}" },
    { COMP, "prompt", "{\"prompt\":[5,259]}" },
    { COMP, "prompt", "{\"prompt\":[-1]}" },
    { COMP, "prompt[1]", "{\"prompt\":[[5],[1.5]]}" },
    { COMP, "model", "{\"prompt\":\"a\",\"model\":3}" },
    { COMP, "model", "{\"prompt\":\"a\",\"model\":\"gpt-4\"}" },
    { COMP, "model", "{\"prompt\":\"a\",\"model\":\"tiny\\u0000\"}" },
    { COMP, "temperature", "{\"prompt\":\"a\",\"temperature\":2.1}" },
    { COMP, "temperature", "{\"prompt\":\"a\",\"temperature\":-1}" },
    { COMP, "temperature", "{\"prompt\":\"a\",\"temperature\":\"1\"}" },
    { COMP, "top_p", "{\"prompt\":\"a\",\"top_p\":0}" },
    { COMP, "top_p", "{\"prompt\":\"a\",\"top_p\":1.01}" },
    { COMP, "min_p", "{\"prompt\":\"a\",\"min_p\":1.5}" },
    { COMP, "top_k", "{\"prompt\":\"a\",\"top_k\":-2}" },
    { COMP, "top_k", "{\"prompt\":\"a\",\"top_k\":1.5}" },
    { COMP, "repetition_penalty",
      "{\"prompt\":\"a\",\"repetition_penalty\":0}" },
    { COMP, "repeat_penalty", "{\"prompt\":\"a\",\"repeat_penalty\":-1}" },
    { COMP, "presence_penalty",
      "{\"prompt\":\"a\",\"presence_penalty\":2.5}" },
    { COMP, "frequency_penalty",
      "{\"prompt\":\"a\",\"frequency_penalty\":-3}" },
    { COMP, "max_tokens", "{\"prompt\":\"a\",\"max_tokens\":0}" },
    { COMP, "max_tokens", "{\"prompt\":\"a\",\"max_tokens\":-1}" },
    { COMP, "max_tokens", "{\"prompt\":\"a\",\"max_tokens\":\"5\"}" },
    { COMP, "max_completion_tokens",
      "{\"prompt\":\"a\",\"max_completion_tokens\":0}" },
    { COMP, "min_tokens",
      "{\"prompt\":\"a\",\"max_tokens\":4,\"min_tokens\":5}" },
    { COMP, "min_tokens", "{\"prompt\":\"a\",\"min_tokens\":-1}" },
    { COMP, "ignore_eos", "{\"prompt\":\"a\",\"ignore_eos\":0}" },
    { COMP, "n", "{\"prompt\":\"a\",\"n\":0}" },
    { COMP, "n", "{\"prompt\":\"a\",\"n\":129}" },
    { COMP, "n", "{\"prompt\":\"a\",\"n\":true}" },
    { COMP, "prompt", "{\"prompt\":[\"a\",\"b\"],\"n\":128}" },
    { COMP, "best_of", "{\"prompt\":\"a\",\"best_of\":2}" },
    { COMP, "best_of", "{\"prompt\":\"a\",\"n\":3,\"best_of\":2}" },
    { COMP, "stream", "{\"prompt\":\"a\",\"stream\":\"yes\"}" },
    { COMP, "stream_options",
      "{\"prompt\":\"a\",\"stream_options\":{\"include_usage\":true}}" },
    { COMP, "stream_options",
      "{\"prompt\":\"a\",\"stream\":true,\"stream_options\":1}" },
    { COMP, "stream_options.include_usage", "{\"prompt\":\"a\","
      "\"stream\":true,\"stream_options\":{\"include_usage\":1}}" },
    { COMP, "seed", "{\"prompt\":\"a\",\"seed\":1.5}" },
    { COMP, "seed", "{\"prompt\":\"a\",\"seed\":\"1\"}" },
    { COMP, "seed", "{\"prompt\":\"a\",\"seed\":1e300}" },
    { COMP, "stop", "{\"prompt\":\"a\",\"stop\":5}" },
    { COMP, "stop", "{\"prompt\":\"a\",\"stop\":[\"a\",5]}" },
    { COMP, "stop", "{\"prompt\":\"a\",\"stop\":\"\"}" },
    { COMP, "stop", "{\"prompt\":\"a\",\"stop\":[1,2,3,4,5,6,7,8,9,10,11,"
      "12,13,14,15,16,17]}" },
    { COMP, "stop_token_ids", "{\"prompt\":\"a\",\"stop_token_ids\":1}" },
    { COMP, "stop_token_ids", "{\"prompt\":\"a\",\"stop_token_ids\":[259]}" },
    { COMP, "logit_bias", "{\"prompt\":\"a\",\"logit_bias\":[]}" },
    { COMP, "logit_bias", "{\"prompt\":\"a\",\"logit_bias\":{\"x\":1}}" },
    { COMP, "logit_bias", "{\"prompt\":\"a\",\"logit_bias\":{\"\":1}}" },
    { COMP, "logit_bias", "{\"prompt\":\"a\",\"logit_bias\":{\"259\":1}}" },
    { COMP, "logit_bias", "{\"prompt\":\"a\",\"logit_bias\":{\"-1\":1}}" },
    { COMP, "logit_bias", "{\"prompt\":\"a\",\"logit_bias\":{\"5\":101}}" },
    { COMP, "logit_bias", "{\"prompt\":\"a\",\"logit_bias\":{\"5\":null}}" },
    { COMP, "logit_bias",
      "{\"prompt\":\"a\",\"logit_bias\":{\"5\":1,\"05\":2}}" },
    { COMP, "logit_bias", "{\"prompt\":\"a\",\"logit_bias\":"
      "{\"99999999999999999999\":1}}" },
    { COMP, "logprobs", "{\"prompt\":\"a\",\"logprobs\":21}" },
    { COMP, "logprobs", "{\"prompt\":\"a\",\"logprobs\":true}" },
    { COMP, "logprobs", "{\"prompt\":\"a\",\"logprobs\":1,\"echo\":true}" },
    { COMP, "echo", "{\"prompt\":\"a\",\"echo\":\"a\"}" },
    { COMP, "suffix", "{\"prompt\":\"a\",\"suffix\":\"b\"}" },
    { COMP, "use_beam_search", "{\"prompt\":\"a\",\"use_beam_search\":true}" },
    { TOK, "content", "{}" },
    { TOK, "content", "{\"content\":3}" },
    { TOK, "add_special", "{\"content\":\"a\",\"add_special\":1}" },
    { DETOK, "tokens", "{}" },
    { DETOK, "tokens", "{\"tokens\":\"a\"}" },
    { DETOK, "tokens", "{\"tokens\":[1,-1]}" },
    { TPL, "messages", "{}" },
    { TPL, "tools", "{" USER ",\"tools\":[1]}" },
};


static void
test_bad(void)
{
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        infer_api_request_t *req = prep(bad[i].endpoint, bad[i].body);
        int is_model = strcmp(bad[i].param, "model") == 0
                       && strstr(bad[i].body, "\"model\":\"") != NULL;
        int pass = req == NULL && error.status == (is_model ? 404 : 400)
                   && strcmp(error.param, bad[i].param) == 0
                   && error.message[0] != '\0'
                   && strcmp(error.type, is_model ? "not_found_error"
                                         : "invalid_request_error") == 0
                   && (!is_model
                       || strcmp(error.code, "model_not_found") == 0);

        ok(pass, "refused: %.60s", bad[i].body);

        if (!pass) {
            diag("%d '%s': %s", error.status, error.param, error.message);
        }

        infer_api_request_free(req);
    }
}


static const struct {
    int          endpoint;
    const char  *body;
} fine[] = {
    { CHAT, "{" USER ",\"tools\":[],\"tool_choice\":\"none\",\"user\":\"u\","
      "\"response_format\":{\"type\":\"text\"},\"metadata\":{\"a\":[1]}}" },
    { CHAT, "{" USER ",\"model\":\"other\",\"n\":128}" },
    { CHAT, "{" USER ",\"temperature\":null,\"stop\":null,\"n\":null,"
      "\"seed\":null,\"max_tokens\":null,\"logprobs\":null,\"tools\":null,"
      "\"stream\":null,\"logit_bias\":null,\"stream_options\":null}" },
    { CHAT, "{" USER ",\"max_tokens\":16.0}" },
    { CHAT, "{" USER ",\"unknown\":123456789012345678901234567890}" },
    { CHAT, "{" USER ",\"modalities\":[\"text\"],\"audio\":null}" },
    { COMP, "{\"prompt\":\"\"}" },
    { COMP, "{\"prompt\":\"a\\u0000b\"}" },
    { COMP, "{\"prompt\":\"a\",\"stop\":[],\"stop_token_ids\":[],"
      "\"logit_bias\":{},\"suffix\":\"\",\"best_of\":1}" },
    { COMP, "{\"prompt\":\"a\",\"n\":2,\"best_of\":2}" },
    { COMP, "{\"prompt\":\"a\",\"max_tokens\":9223372036854775807}" },
    { COMP, "{\"prompt\":\"a\",\"logprobs\":0,\"top_k\":-1,"
      "\"temperature\":2}" },
};


static int
ids_are(const infer_api_prompt_t *p, const int32_t *ids, uint32_t n)
{
    return p->n_ids == n && memcmp(p->ids, ids, n * sizeof(*ids)) == 0;
}


/* Everything of a rich request arrives where it belongs. */
static void
test_fields(void)
{
    infer_api_request_t *r = prep(COMP,
        "{\"prompt\":[\"ab\",\"b\"],\"temperature\":0.5,\"top_p\":0.25,"
        "\"min_p\":0.125,\"top_k\":7,\"repeat_penalty\":1.5,"
        "\"presence_penalty\":-1,\"frequency_penalty\":2,\"max_tokens\":9,"
        "\"min_tokens\":3,\"ignore_eos\":true,\"n\":3,\"seed\":-7,"
        "\"stop\":[\"x\",\"yz\\u0000\"],\"stop_token_ids\":[5,6],"
        "\"logit_bias\":{\"9\":-100,\"3\":0.5},\"logprobs\":4,"
        "\"stream\":true,\"stream_options\":{\"include_usage\":true}}");
    const int32_t first[] = { AT_BOS, 258 }, second[] = { AT_BOS, 'b' };

    if (!ok(r != NULL, "a rich request")) {
        diag("%s: %s", error.param, error.message);
        return;
    }

    infer_sampling_t *s = &r->sampling;

    ok(r->n_prompts == 2 && r->n == 3 && r->n_prompt_tokens == 4
       && ids_are(&r->prompts[0], first, 2)
       && ids_are(&r->prompts[1], second, 2)
       && r->prompts[0].max_tokens == 9, "prompts");
    ok(s->temperature == 0.5f && s->top_p == 0.25f && s->min_p == 0.125f
       && s->top_k == 7 && s->repetition_penalty == 1.5f
       && s->presence_penalty == -1 && s->frequency_penalty == 2
       && s->min_tokens == 3 && s->max_tokens == 9 && s->ignore_eos == 1,
       "sampling");
    ok(s->seed == UINT64_MAX - 6 && r->seed_set == 1, "a negative seed");
    ok(r->n_stops == 2 && r->stop_lens[0] == 1 && r->stop_lens[1] == 3
       && memcmp(r->stops[1], "yz", 3) == 0, "stops");
    ok(r->n_stop_ids == 2 && r->stop_ids[1] == 6, "stop ids");
    ok(r->n_bias == 2 && r->bias[0].id == 3 && r->bias[0].bias == 0.5f
       && r->bias[1].id == 9 && r->bias[1].bias == -100, "biases, sorted");
    ok(s->logprobs == 1 && s->top_logprobs == 4, "logprobs");
    ok(r->stream == 1 && r->include_usage == 1, "stream");
    ok(r->model.len == 4 && memcmp(r->model.data, "tiny", 4) == 0, "model");

    infer_api_request_shrink(r);
    ok(r->prompts[0].ids == NULL && r->n_stops == 2, "shrunk");
    infer_api_request_free(r);
}


static void
seed_is(const char *json, uint64_t want)
{
    char body[256];

    snprintf(body, sizeof(body), "{\"x\":[{\"seed\":1}, \"seed\"], "
             "\"y\":\"\\\"seed\\\":2\", \"prompt\":\"a\",\n\"seed\" :\t%s}",
             json);

    infer_api_request_t *r = prep(COMP, body);

    ok(r != NULL && r->seed_set && r->sampling.seed == want, "seed %s", json);
    infer_api_request_free(r);
}


static void
test_seeds(void)
{
    seed_is("0", 0);
    seed_is("-1", UINT64_MAX);
    seed_is("9223372036854775807", INT64_MAX);
    seed_is("-9223372036854775808", 1ull << 63);
    seed_is("9223372036854775808", 1ull << 63);
    seed_is("18446744073709551615", UINT64_MAX);
    seed_is("18446744073709551617", 1);
    seed_is("-18446744073709551617", UINT64_MAX);

    infer_api_request_t *r = prep(COMP, "{\"prompt\":\"a\"}");

    ok(r != NULL && r->seed_set == 0, "no seed");
    infer_api_request_free(r);

    conf.seed_set = 1;
    conf.sampling.seed = 42;
    r = prep(COMP, "{\"prompt\":\"a\"}");
    ok(r != NULL && r->seed_set == 1 && r->sampling.seed == 42,
       "the location's seed");
    infer_api_request_free(r);
    conf.seed_set = 0;
    conf.sampling.seed = 0;
}


static void
max_is(const char *fields, uint32_t def, uint32_t cap, uint32_t want)
{
    char body[256];

    snprintf(body, sizeof(body), "{\"prompt\":\"x\"%s}", fields);
    conf.max_tokens = def;
    conf.max_tokens_cap = cap;

    infer_api_request_t *r = prep(COMP, body);

    ok(r != NULL && r->prompts[0].max_tokens == want
       && r->sampling.max_tokens == want, "%s, default %u, cap %u: %u",
       fields, def, cap, want);
    infer_api_request_free(r);
    conf.max_tokens = conf.max_tokens_cap = 0;
}


static void
test_budget(void)
{
    char body[600];

    max_is("", 0, 0, 254);                       /* context - prompt */
    max_is("", 10, 0, 10);
    max_is("", 10, 5, 5);
    max_is(",\"max_tokens\":20", 10, 0, 20);
    max_is(",\"max_tokens\":20", 10, 15, 15);
    max_is(",\"max_tokens\":1000000000000", 0, 0, 254);
    max_is(",\"max_tokens\":7,\"max_completion_tokens\":8", 0, 0, 8);

    ok(prep(COMP, "{\"prompt\":\"x\",\"top_k\":3000000000}") == NULL
       && strcmp(error.message, "'top_k' is too large.") == 0,
       "what is too large is not called too small: %s", error.message);

    memset(body, 'x', sizeof(body));
    memcpy(body, "{\"prompt\":\"", 11);
    memcpy(body + 11 + 254, "\"}", 3);           /* 254 and BOS: 255 */

    infer_api_request_t *r = prep(COMP, body);

    ok(r != NULL && r->prompts[0].max_tokens == 1, "room for one token");
    infer_api_request_free(r);

    memcpy(body + 11 + 254, "xx\"}", 5);
    r = prep(COMP, body);
    ok(r == NULL && error.status == 400
       && strcmp(error.code, "context_length_exceeded") == 0
       && strstr(error.message, "256") && strstr(error.message, "257"),
       "a prompt that does not fit: %s", error.message);
    infer_api_request_free(r);

    conf.max_n = 4;
    good(COMP, "{\"prompt\":\"a\",\"n\":4}");
    r = prep(COMP, "{\"prompt\":\"a\",\"n\":5}");
    ok(r == NULL && strcmp(error.param, "n") == 0, "n over the limit");
    infer_api_request_free(r);
    conf.max_n = 0;
}


static void
body_is(int endpoint, const char *body, const char *want)
{
    infer_api_request_t *r = prep(endpoint, body);
    int pass = r != NULL && r->body.len == strlen(want)
               && memcmp(r->body.data, want, r->body.len) == 0;

    ok(pass, "%.60s -> %.60s", body, want);

    if (!pass && r == NULL) {
        diag("%s: %s", error.param, error.message);
    } else if (!pass) {
        diag("got %.*s", (int) r->body.len, r->body.data);
    }

    infer_api_request_free(r);
}


static void
test_tools(void)
{
    body_is(TOK, "{\"content\":\"ab<s>\"}",
            "{\"tokens\":[258,256],\"count\":2,\"max_model_len\":256}");
    body_is(TOK, "{\"prompt\":\"a\",\"add_special\":true}",
            "{\"tokens\":[256,97],\"count\":2,\"max_model_len\":256}");
    body_is(TOK, "{\"content\":\"<s>\",\"parse_special\":false}",
            "{\"tokens\":[60,115,62],\"count\":3,\"max_model_len\":256}");
    body_is(TOK, "{\"content\":\"\xc3\xa9\\\"\",\"with_pieces\":true}",
            "{\"tokens\":[{\"id\":195,\"piece\":[195]},{\"id\":169,\"piece\":"
            "[169]},{\"id\":34,\"piece\":\"\\\"\"}],\"count\":3,"
            "\"max_model_len\":256}");
    body_is(TOK, "{\"content\":\"\"}",
            "{\"tokens\":[],\"count\":0,\"max_model_len\":256}");
    body_is(DETOK, "{\"tokens\":[256,258,195,169,255]}",
            "{\"content\":\"<s>ab\xc3\xa9\xef\xbf\xbd\","
            "\"prompt\":\"<s>ab\xc3\xa9\xef\xbf\xbd\"}");
    body_is(DETOK, "{\"tokens\":[]}", "{\"content\":\"\",\"prompt\":\"\"}");
    body_is(TPL, "{\"messages\":[{\"role\":\"developer\",\"content\":"
            "[{\"type\":\"text\",\"text\":\"a\"},{\"type\":\"text\","
            "\"text\":\"b\"}]},{\"role\":\"assistant\",\"content\":null}]}",
            "{\"prompt\":\"<s>system:a\\nb</s><s>assistant:</s>"
            "<s>assistant:\"}");
    body_is(TPL, "{" USER ",\"add_generation_prompt\":false,"
            "\"chat_template_kwargs\":{\"extra\":\"E\",\"messages\":[]}}",
            "{\"prompt\":\"<s>user:hi</s>E\"}");
    body_is(TPL, "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"},"
            "{\"role\":\"assistant\",\"content\":\"s \"}],"
            "\"continue_final_message\":true}",
            "{\"prompt\":\"<s>user:a</s><s>assistant:s \"}");
    conf.system = (infer_str_t) { "be kind", 7 };
    body_is(TPL, "{" USER "}", "{\"prompt\":\"<s>system:be kind</s>"
            "<s>user:hi</s><s>assistant:\"}");
    body_is(TPL, "{\"messages\":[{\"role\":\"developer\","
            "\"content\":\"x\"}]}",
            "{\"prompt\":\"<s>system:x</s><s>assistant:\"}");
    conf.system.len = 0;
}


static void
test_prompts(void)
{
    const int32_t chat[] = { AT_BOS, 'u', 's', 'e', 'r', ':', 'h', 'i',
                             AT_EOS, AT_BOS, 'a', 's', 's', 'i', 's', 't',
                             'a', 'n', 't', ':' };
    const int32_t ids[] = { 5, 6 };
    infer_api_request_t *r = prep(CHAT, "{" USER "}");

    ok(r != NULL && ids_are(&r->prompts[0], chat, 20),
       "a chat's ids, BOS not doubled");
    infer_api_request_free(r);

    r = prep(COMP, "{\"prompt\":[5,6],\"echo\":true}");
    ok(r != NULL && r->n_prompts == 1 && ids_are(&r->prompts[0], ids, 2)
       && r->prompts[0].echo.len == 2
       && memcmp(r->prompts[0].echo.data, "\5\6", 2) == 0,
       "token ids as they are, with their text");
    infer_api_request_free(r);

    r = prep(COMP, "{\"prompt\":[[7],[5,6]],\"n\":2}");
    ok(r != NULL && r->n_prompts == 2 && ids_are(&r->prompts[1], ids, 2)
       && r->prompts[0].n_ids == 1, "arrays of ids");
    infer_api_request_free(r);
}


/* Every truncation of each good body is refused and reads nothing behind. */
static void
test_truncation(void)
{
    int taken = 0;

    for (size_t i = 0; i < sizeof(fine) / sizeof(fine[0]); i++) {
        for (size_t len = 0; len < strlen(fine[i].body); len++) {
            infer_api_request_t *req;

            (void) infer_api_prepare(text, &conf, fine[i].endpoint,
                                     at_guard(fine[i].body, len), len, &req,
                                     &error);
            taken += req != NULL;
            infer_api_request_free(req);
        }
    }

    ok(taken == 0, "no truncated body is taken");
}


static void
test_no_template(void)
{
    void *image;
    infer_text_t *with = text;
    infer_api_request_t *r;

    text = at_open(NULL, &image);
    r = prep(CHAT, "{" USER "}");
    ok(r == NULL && error.status == 400
       && strstr(error.message, "chat_template") != NULL,
       "no template: the error says how to give one");
    good(COMP, "{\"prompt\":\"a\"}");
    infer_text_close(text);
    free(image);
    text = with;
}


static void
golden_line(const char *line, int *n, int *equal)
{
    json_t *v = json_loads(line, 0, NULL), *body, *ids;
    infer_api_request_t *r = NULL;
    char *s;
    int same;

    if (v == NULL) {
        return;
    }

    (*n)++;
    body = json_pack("{s:O}", "messages", json_object_get(v, "messages"));
    ids = json_object_get(v, "ids");
    s = json_dumps(body, 0);
    conf.context = 8192;
    (void) infer_api_prepare(text, &conf, CHAT, s, strlen(s), &r, &error);
    same = r != NULL && r->prompts[0].n_ids == json_array_size(ids);

    for (uint32_t i = 0; same && i < r->prompts[0].n_ids; i++) {
        same = r->prompts[0].ids[i]
               == json_integer_value(json_array_get(ids, i));
    }

    infer_api_request_free(r);
    (void) infer_api_prepare(text, &conf, TPL, s, strlen(s), &r, &error);

    if (r != NULL) {
        json_t *out = json_loadb(r->body.data, r->body.len, 0, NULL);

        same = same && json_equal(json_object_get(out, "prompt"),
                                  json_object_get(v, "prompt"));
        json_decref(out);
    }

    *equal += same && r != NULL;
    infer_api_request_free(r);
    free(s);
    json_decref(body);
    json_decref(v);
}


static void
test_golden(void)
{
    const char *model = getenv("INFER_MODEL"), *dir = getenv("INFER_GOLDEN");
    char path[4096], *line = NULL;
    size_t cap = 0;
    int n = 0, equal = 0, fd;
    void *image;

    model = model ? model : "models/SmolLM2-135M-Instruct.Q4_1.gguf";
    dir = dir ? dir : "t/golden/smollm2";
    snprintf(path, sizeof(path), "%s/chat.jsonl", dir);
    fd = open(model, O_RDONLY | O_CLOEXEC);
    FILE *f = fopen(path, "r");

    if (fd < 0 || f == NULL) {
        ok(1, "golden chats # SKIP no model file \"%s\"", model);
        return;
    }

    infer_text_close(text);
    text = tm_open(fd, &image);

    while (getline(&line, &cap, f) > 0) {
        golden_line(line, &n, &equal);
    }

    ok(n > 0 && equal == n, "%d of %d golden chats: same prompt, same ids",
       equal, n);
    free(line);
    fclose(f);
    infer_text_close(text);
    text = NULL;
    free(image);
}


int
main(void)
{
    void *image;

    conf = at_conf();
    text = at_open(AT_TEMPLATE, &image);

    if (text == NULL) {
        ok(0, "text side of the test model");
        return tap_done();
    }

    for (size_t i = 0; i < sizeof(fine) / sizeof(fine[0]); i++) {
        good(fine[i].endpoint, fine[i].body);
    }

    test_bad();
    test_fields();
    test_seeds();
    test_budget();
    test_tools();
    test_prompts();
    test_truncation();
    test_no_template();
    test_golden();
    infer_text_close(text);
    free(image);

    return tap_done();
}
