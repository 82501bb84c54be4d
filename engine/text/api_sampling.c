/*
 * api_sampling.c: how to generate: sampling parameters, stops, biases,
 * lengths, n. And the fields that are understood but not served, which are
 * refused by name and never silently dropped.
 */

#include "text/api_int.h"

/* Refused unless they ask for nothing: null, false, 0, empty. */
static const char *const  later_any[] = {
    "tools", "functions", "suffix", "audio", "prediction", "prompt_embeds",
    "web_search_options", "structured_outputs", "guided_json",
    "guided_regex", "guided_choice", "guided_grammar", "grammar",
    "json_schema", "prompt_logprobs", "allowed_token_ids", "bad_words",
    "use_beam_search", "include_stop_str_in_output", "mirostat",
    "dry_multiplier", "xtc_probability", "dynatemp_range", "lora"
};


/* A value that asks for nothing. */
static int
later_neutral(const json_t *v)
{
    switch (json_typeof(v)) {
    case JSON_OBJECT:
        return json_object_size(v) == 0;
    case JSON_ARRAY:
        return json_array_size(v) == 0;
    case JSON_STRING:
        return json_string_length(v) == 0;
    case JSON_INTEGER:
    case JSON_REAL:
        return json_number_value(v) == 0;
    default:
        return !json_is_true(v);
    }
}


static int
later_string_is(const json_t *v, const char *s)
{
    return json_is_string(v) && strcmp(json_string_value(v), s) == 0;
}


int
api_refuse_later(api_ctx_t *c)
{
    json_t *v;

    for (size_t i = 0; i < sizeof(later_any) / sizeof(later_any[0]); i++) {
        v = api_get(c, later_any[i]);

        if (v != NULL && !later_neutral(v)) {
            return api_unsupported(c, later_any[i],
                                   "'%s' is not supported.", later_any[i]);
        }
    }

    v = api_get(c, "tool_choice");

    if (v != NULL && !later_string_is(v, "none")) {
        return api_unsupported(c, "tool_choice", "'tool_choice' other than "
                               "\"none\" is not supported.");
    }

    v = api_get(c, "function_call");

    if (v != NULL && !later_string_is(v, "none")) {
        return api_unsupported(c, "function_call", "'function_call' other "
                               "than \"none\" is not supported.");
    }

    v = api_get(c, "response_format");

    if (v != NULL && !json_is_object(v)) {
        return api_invalid(c, "response_format",
                           "'response_format' must be an object.");
    }

    if (v != NULL && !later_string_is(json_object_get(v, "type"), "text")) {
        return api_unsupported(c, "response_format", "'response_format' of "
                               "a type other than \"text\" is not "
                               "supported.");
    }

    v = api_get(c, "modalities");

    if (v != NULL && (json_array_size(v) != 1
                      || !later_string_is(json_array_get(v, 0), "text")))
    {
        return api_unsupported(c, "modalities", "'modalities' other than "
                               "[\"text\"] is not supported.");
    }

    return INFER_OK;
}


static int
sampling_stop_add(api_ctx_t *c, const json_t *v)
{
    infer_str_t           copy;
    size_t                len = json_string_length(v);
    infer_api_request_t  *req = c->req;
    int                   rc;

    if (!json_is_string(v)) {
        return api_invalid(c, "stop", "'stop' must be a string or an array "
                           "of strings.");
    }

    if (len == 0 || len > INFER_MAX_STOP_BYTES) {
        return api_invalid(c, "stop", "A stop string has %zu bytes; 1 to %d "
                           "are possible.", len, INFER_MAX_STOP_BYTES);
    }

    rc = api_copy(c, json_string_value(v), len, &copy);

    if (rc == INFER_OK) {
        req->stops[req->n_stops] = copy.data;
        req->stop_lens[req->n_stops++] = len;
    }

    return rc;
}


static int
sampling_stops(api_ctx_t *c)
{
    json_t  *v = api_get(c, "stop");
    size_t   n = json_is_array(v) ? json_array_size(v) : 1;
    int      rc = INFER_OK;

    if (v == NULL || n == 0) {
        return INFER_OK;
    }

    if (n > INFER_MAX_STOPS) {
        return api_invalid(c, "stop", "'stop' has %zu strings; at most %d "
                           "are possible.", n, INFER_MAX_STOPS);
    }

    c->req->stops = calloc(n, sizeof(*c->req->stops));
    c->req->stop_lens = calloc(n, sizeof(*c->req->stop_lens));

    if (c->req->stops == NULL || c->req->stop_lens == NULL) {
        return api_nomem(c);
    }

    if (!json_is_array(v)) {
        return sampling_stop_add(c, v);
    }

    for (size_t i = 0; i < n && rc == INFER_OK; i++) {
        rc = sampling_stop_add(c, json_array_get(v, i));
    }

    return rc;
}


static int
bias_compare(const void *a, const void *b)
{
    int32_t x = ((const infer_bias_t *) a)->id;
    int32_t y = ((const infer_bias_t *) b)->id;

    return (x > y) - (x < y);
}


/* A token id as an object's key; -1 when it is none. */
static int32_t
bias_key(const char *key, uint32_t vocab)
{
    int64_t  id = 0;

    for (size_t i = 0; key[i] != '\0'; i++) {
        if (key[i] < '0' || key[i] > '9' || i == 10) {
            return -1;
        }

        id = id * 10 + (key[i] - '0');
    }

    return key[0] != '\0' && id < vocab ? (int32_t) id : -1;
}


static int
bias_read(api_ctx_t *c, const char *key, const json_t *v, infer_bias_t *b)
{
    double d = json_number_value(v);

    b->id = bias_key(key, infer_text_vocab(c->text));

    if (b->id < 0) {
        return api_invalid(c, "logit_bias", "'logit_bias' has the key "
                           "\"%.32s\"; keys are token ids from 0 to %u.",
                           key, infer_text_vocab(c->text) - 1);
    }

    if (!json_is_number(v) || !(d >= -100 && d <= 100)) {
        return api_invalid(c, "logit_bias", "'logit_bias' of token %d must "
                           "be a number from -100 to 100.", (int) b->id);
    }

    b->bias = (float) d;

    return INFER_OK;
}


static int
sampling_bias(api_ctx_t *c)
{
    json_t               *v = api_get(c, "logit_bias"), *value;
    size_t                n = json_object_size(v);
    const char           *key;
    infer_api_request_t  *req = c->req;
    int                   rc;

    if (v == NULL) {
        return INFER_OK;
    }

    if (!json_is_object(v)) {
        return api_invalid(c, "logit_bias", "'logit_bias' must be an object "
                           "of token ids and numbers.");
    }

    if (n > INFER_MAX_LOGIT_BIAS) {
        return api_invalid(c, "logit_bias", "'logit_bias' has %zu members; "
                           "at most %d are possible.", n,
                           INFER_MAX_LOGIT_BIAS);
    }

    if (n == 0) {
        return INFER_OK;
    }

    req->bias = malloc(n * sizeof(*req->bias));

    if (req->bias == NULL) {
        return api_nomem(c);
    }

    json_object_foreach(v, key, value) {
        rc = bias_read(c, key, value, &req->bias[req->n_bias]);

        if (rc != INFER_OK) {
            return rc;
        }

        req->n_bias++;
    }

    qsort(req->bias, req->n_bias, sizeof(*req->bias), bias_compare);

    for (uint32_t i = 1; i < req->n_bias; i++) {
        if (req->bias[i].id == req->bias[i - 1].id) {
            return api_invalid(c, "logit_bias", "'logit_bias' has token %d "
                               "twice.", (int) req->bias[i].id);
        }
    }

    return INFER_OK;
}


static int
sampling_logprobs_chat(api_ctx_t *c)
{
    int      on = 0, rc;
    int64_t  top = 0;

    rc = api_bool(c, "logprobs", &on);

    if (rc == INFER_OK) {
        rc = api_int(c, "top_logprobs", 0, INFER_MAX_TOP_LOGPROBS, &top);
    }

    if (rc == INFER_OK && top > 0 && !on) {
        rc = api_invalid(c, "top_logprobs",
                         "'top_logprobs' needs 'logprobs' to be true.");
    }

    c->req->sampling.logprobs = (uint8_t) on;
    c->req->sampling.top_logprobs = (uint32_t) top;

    return rc;
}


static int
sampling_logprobs_text(api_ctx_t *c)
{
    int64_t  top = -1;
    int      rc = api_int(c, "logprobs", 0, INFER_MAX_TOP_LOGPROBS, &top);

    c->req->sampling.logprobs = top >= 0;
    c->req->sampling.top_logprobs = top > 0 ? (uint32_t) top : 0;

    if (rc == INFER_OK && top >= 0 && c->req->sampling.echo) {
        rc = api_unsupported(c, "logprobs", "'logprobs' together with "
                             "'echo' is not supported.");
    }

    return rc;
}


/* Numbers that go to the sampler as they are. */
static int
sampling_numbers(api_ctx_t *c)
{
    infer_sampling_t  *s = &c->req->sampling;
    int64_t            top_k = s->top_k;
    const char        *repeat;
    int                rc;

    repeat = api_get(c, "repetition_penalty") ? "repetition_penalty"
                                              : "repeat_penalty";

    if ((rc = api_number(c, "temperature", 0, 2, &s->temperature))
        || (rc = api_number(c, "top_p", 0, 1, &s->top_p))
        || (rc = api_number(c, "min_p", 0, 1, &s->min_p))
        || (rc = api_int(c, "top_k", -1, INT32_MAX, &top_k))
        || (rc = api_number(c, repeat, 0.01, 100, &s->repetition_penalty))
        || (rc = api_number(c, "presence_penalty", -2, 2,
                            &s->presence_penalty))
        || (rc = api_number(c, "frequency_penalty", -2, 2,
                            &s->frequency_penalty)))
    {
        return rc;
    }

    if (s->top_p <= 0 && api_get(c, "top_p") != NULL) {
        return api_invalid(c, "top_p", "'top_p' must be greater than 0.");
    }

    s->top_k = (int32_t) top_k;

    return INFER_OK;
}


/* sampling.max_tokens: what was asked for, under the cap; the context comes
 * in with the prompts. */
static int
sampling_lengths(api_ctx_t *c)
{
    const infer_api_conf_t  *conf = c->conf;
    infer_sampling_t        *s = &c->req->sampling;
    int64_t                  max, min = 0;
    const char              *name;
    int                      rc;

    max = conf->max_tokens ? conf->max_tokens : INFER_API_MAX_TOKENS;
    name = api_get(c, "max_completion_tokens") ? "max_completion_tokens"
                                               : "max_tokens";
    rc = api_int(c, name, 1, INT64_MAX, &max);

    if (rc != INFER_OK) {
        return rc;
    }

    if (conf->max_tokens_cap != 0 && max > conf->max_tokens_cap) {
        max = conf->max_tokens_cap;
    }

    rc = api_int(c, "min_tokens", 0, INT32_MAX, &min);

    if (rc == INFER_OK && min > max) {
        rc = api_invalid(c, "min_tokens", "'min_tokens' is %lld, more than "
                         "the %lld tokens that may be generated.",
                         (long long) min, (long long) max);
    }

    s->max_tokens = (uint32_t) (max > INT32_MAX ? INT32_MAX : max);
    s->min_tokens = (uint32_t) min;

    return rc;
}


static int
sampling_choices(api_ctx_t *c)
{
    int64_t  n = 1, best_of = 0;
    int      rc = api_int(c, "n", 1, INFER_MAX_CHOICES, &n);

    c->req->n = (uint32_t) n;

    if (rc == INFER_OK) {
        rc = api_int(c, "best_of", 1, INT32_MAX, &best_of);
    }

    if (rc == INFER_OK && best_of > n) {
        return api_unsupported(c, "best_of",
                               "'best_of' greater than 'n' is not "
                               "supported.");
    }

    if (rc == INFER_OK && best_of != 0 && best_of < n) {
        return api_invalid(c, "best_of",
                           "'best_of' must not be less than 'n'.");
    }

    return rc;
}


static int
sampling_stream(api_ctx_t *c)
{
    json_t  *v = api_get(c, "stream_options"), *usage;
    int      stream = 0, rc = api_bool(c, "stream", &stream);

    c->req->stream = (uint8_t) stream;

    if (rc != INFER_OK || v == NULL) {
        return rc;
    }

    if (!json_is_object(v)) {
        return api_invalid(c, "stream_options",
                           "'stream_options' must be an object.");
    }

    if (!stream) {
        return api_invalid(c, "stream_options", "'stream_options' needs "
                           "'stream' to be true.");
    }

    usage = json_object_get(v, "include_usage");

    if (usage != NULL && !json_is_null(usage) && !json_is_boolean(usage)) {
        return api_invalid(c, "stream_options.include_usage",
                           "'stream_options.include_usage' must be true or "
                           "false.");
    }

    c->req->include_usage = usage != NULL && json_is_true(usage);

    return INFER_OK;
}


static int
sampling_flags(api_ctx_t *c)
{
    infer_sampling_t  *s = &c->req->sampling;
    int                ignore_eos = s->ignore_eos, echo = 0, rc;

    rc = api_bool(c, "ignore_eos", &ignore_eos);

    if (rc == INFER_OK) {
        rc = api_bool(c, "echo", &echo);
    }

    if (rc == INFER_OK && echo && c->endpoint == INFER_API_CHAT) {
        rc = api_unsupported(c, "echo", "'echo' is not supported in chats.");
    }

    s->ignore_eos = (uint8_t) ignore_eos;
    s->echo = (uint8_t) echo;

    return rc;
}


int
api_sampling(api_ctx_t *c)
{
    int      rc;
    json_t  *v = api_get(c, "stop_token_ids");

    c->req->sampling = c->conf->sampling;

    if ((rc = sampling_numbers(c))
        || (rc = sampling_lengths(c))
        || (rc = sampling_choices(c))
        || (rc = sampling_flags(c))
        || (rc = c->endpoint == INFER_API_CHAT ? sampling_logprobs_chat(c)
                                               : sampling_logprobs_text(c))
        || (rc = sampling_stream(c))
        || (rc = sampling_stops(c))
        || (rc = sampling_bias(c))
        || (rc = api_seed(c)))
    {
        return rc;
    }

    return v == NULL ? INFER_OK
                     : api_ids(c, "stop_token_ids", v, INFER_MAX_STOP_IDS,
                               &c->req->stop_ids, &c->req->n_stop_ids);
}
