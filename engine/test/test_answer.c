/*
 * test_answer.c: what the response cache keys and keeps: idents of requests
 * that are the same and that are not; packed logs, damaged ones, and answers
 * rendered from them.
 */

#include "tap.h"
#include "api_text.h"

#include "cache/answer.h"
#include "cache/key.h"
#include "text/stream.h"

static infer_text_t                *text;
static const infer_key_space_t      space = { { 1 }, { 2 } };
static const infer_render_conf_t    conf = {
    .id = { "r\"1", 3 }, .created = 1764000000, .fingerprint = { "fp", 2 }
};


static infer_api_request_t *
request(int endpoint, const char *body)
{
    infer_api_request_t     *r = NULL;
    infer_api_error_t        e;
    static const infer_api_conf_t  c = {
        .model = { "tiny", 4 }, .context = 1000,
        .sampling = { .temperature = 1, .top_p = 1, .repetition_penalty = 1 }
    };

    (void) infer_api_prepare(text, &c, endpoint, body, strlen(body), &r, &e);
    return r;
}

static infer_buf_t
ident(int endpoint, const char *body)
{
    infer_buf_t           b = { 0 };
    infer_api_request_t  *r = request(endpoint, body);

    if (r != NULL) {
        (void) infer_key_ident(&b, &space, r);
        infer_api_request_free(r);
    }
    return b;
}

static int
same(int e1, const char *b1, int e2, const char *b2)
{
    int          r;
    infer_buf_t  a = ident(e1, b1), b = ident(e2, b2);

    r = a.len != 0 && a.len == b.len && memcmp(a.data, b.data, a.len) == 0;
    infer_buf_free(&a);
    infer_buf_free(&b);
    return r;
}

#define COMP  INFER_API_COMPLETIONS
#define CHAT  INFER_API_CHAT
#define BASE  "{\"prompt\":\"abc\",\"max_tokens\":4,\"temperature\":0.5," \
              "\"seed\":7"

static void
test_ident(void)
{
    size_t  i;
    static const char *const  others[] = {
        BASE ",\"max_tokens\":5}", BASE ",\"temperature\":0.6}",
        BASE ",\"seed\":8}", BASE ",\"top_p\":0.9}", BASE ",\"top_k\":3}",
        BASE ",\"min_p\":0.1}", BASE ",\"stop\":\"x\"}",
        BASE ",\"logit_bias\":{\"1\":2}}", BASE ",\"n\":2}",
        BASE ",\"presence_penalty\":0.5}", BASE ",\"frequency_penalty\":1}",
        BASE ",\"repetition_penalty\":1.1}", BASE ",\"logprobs\":2}",
        BASE ",\"prompt\":\"abd\"}", BASE ",\"prompt\":[\"abc\",\"d\"]}",
        BASE ",\"min_tokens\":2}", BASE ",\"stop_token_ids\":[3]}",
        BASE ",\"ignore_eos\":true}"
    };
    static const char *const  equals[] = {
        "{\"seed\":7,\"temperature\":0.5,\"max_tokens\":4,"
            "\"prompt\":\"abc\"}",
        BASE ",\"stream\":true,\"stream_options\":{\"include_usage\":true}}",
        BASE ",\"user\":\"me\",\"unknown\":[1]}", BASE ",\"top_p\":1}",
        BASE ",\"model\":\"tiny\"}", BASE ",\"stop\":[]}",
        BASE ",\"prompt\":[\"abc\"]}", BASE ",\"presence_penalty\":-0.0}"
    };

    for (i = 0; i < sizeof(others) / sizeof(others[0]); i++) {
        ok(!same(COMP, BASE "}", COMP, others[i]), "another: %s", others[i]);
    }
    for (i = 0; i < sizeof(equals) / sizeof(equals[0]); i++) {
        ok(same(COMP, BASE "}", COMP, equals[i]), "the same: %s", equals[i]);
    }

    ok(same(COMP, "{\"prompt\":\"a\",\"temperature\":0,\"seed\":1}",
            COMP, "{\"prompt\":\"a\",\"temperature\":0,\"top_p\":0.5,"
                  "\"seed\":2}"), "greedy: nothing random counts");
    /* the template's text as a prompt, bos and all */
    ok(same(CHAT, "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],"
                  "\"max_tokens\":4,\"temperature\":0}",
            COMP, "{\"prompt\":\"user:x</s><s>assistant:\",\"max_tokens\":4,"
                  "\"temperature\":0}"), "chat and completions meet");
}

static void
test_keys(void)
{
    uint8_t            a[INFER_STORE_KEY], b[INFER_STORE_KEY];
    infer_key_space_t  other = space;
    const uint8_t      secret[16] = { 9 };
    infer_api_request_t  *r;

    infer_key(secret, INFER_KEY_LOG, &space, "abc", 3, a);
    infer_key(secret, INFER_KEY_LOG, &space, "abc", 3, b);
    ok(memcmp(a, b, sizeof(a)) == 0, "a key repeats");
    infer_key(secret, INFER_KEY_BODY, &space, "abc", 3, b);
    ok(memcmp(a, b, sizeof(a)) != 0, "kinds differ");
    other.scope[15] = 1;
    infer_key(secret, INFER_KEY_LOG, &other, "abc", 3, b);
    ok(memcmp(a, b, sizeof(a)) != 0, "tenants differ");

    r = request(COMP, "{\"prompt\":\"a\"}");
    ok(r != NULL && !infer_key_repeatable(r), "random: not repeatable");
    infer_api_request_free(r);
    r = request(COMP, "{\"prompt\":\"a\",\"seed\":3}");
    ok(r != NULL && infer_key_repeatable(r), "seeded is");
    infer_api_request_free(r);
    r = request(COMP, "{\"prompt\":\"a\",\"temperature\":0}");
    ok(r != NULL && infer_key_repeatable(r), "greedy is");
    infer_api_request_free(r);
}

/* "Hi!" and an ending token, n_top pairs each. */
static infer_buf_t
pack(uint32_t n_choices, uint32_t n_top)
{
    uint32_t           i, k;
    infer_buf_t        b = { 0 };
    infer_top_t        top[4 * 2];
    infer_record_t     rec[4] = {
        { 'H', 0, -0.5f, 1 }, { 'i', 0, -0.25f, 2 }, { '!', 0, -1, 3 },
        { AT_EOS, INFER_REC_END | INFER_REC_HIDDEN, -2, 3 }
    };
    infer_api_usage_t  usage = { 5, 4 * n_choices, 1 };

    for (k = 0; k < 8; k++) {
        top[k] = (infer_top_t) { 'A' + (int32_t) k, -1.5f };
    }
    (void) infer_answer_begin(&b, n_choices, n_top);
    for (i = 0; i < n_choices; i++) {
        (void) infer_answer_choice(&b, INFER_FINISH_STOP, rec, top, 4, n_top);
    }
    (void) infer_answer_end(&b, &usage);
    return b;
}

/* What the event loop writes for the same records. */
static void
render_live(infer_buf_t *out, const infer_api_request_t *r,
    const infer_answer_t *a)
{
    size_t           len;
    uint32_t         i, k;
    const char      *p;
    infer_render_t  *render = NULL;
    infer_stream_t  *st = NULL;

    (void) infer_render_new(&render, text, r, &conf);
    (void) infer_render_begin(render, out);
    for (i = 0; i < a->n_choices; i++) {
        (void) infer_stream_new(&st, text, r->stops, r->stop_lens,
                                r->n_stops, 0);
        for (k = 0; k < a->choice[i].n; k++) {
            (void) infer_stream_put(st, a->choice[i].recs[k].id,
                                    a->choice[i].recs[k].flags != 0, &p,
                                    &len);
            (void) infer_render_piece(render, out, i, p, len,
                                      r->sampling.logprobs
                                      ? &a->choice[i].recs[k] : NULL,
                                      a->n_top
                                      ? &a->choice[i].top[k * a->n_top]
                                      : NULL, 1);
        }
        (void) infer_render_finish(render, out, i, a->choice[i].finish);
        infer_stream_free(st);
    }
    (void) infer_render_end(render, out, &a->usage);
    infer_render_free(render);
}

static void
test_render(void)
{
    size_t                i;
    infer_buf_t           packed, want, got, blank;
    infer_answer_t        a;
    infer_render_conf_t   c = conf;
    infer_api_request_t  *r;
    static const struct {
        int          endpoint;
        const char  *body;
    } cases[] = {
        { COMP, "{\"prompt\":\"a\",\"n\":2,\"logprobs\":2}" },
        { COMP, "{\"prompt\":\"a\",\"n\":2,\"logprobs\":2,"
                "\"stream\":true,\"stream_options\":"
                "{\"include_usage\":true}}" },
        { CHAT, "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"n\":2,"
                "\"logprobs\":true,\"top_logprobs\":2}" },
        { CHAT, "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"n\":2,"
                "\"logprobs\":true,\"top_logprobs\":2,\"stream\":true}" }
    };

    packed = pack(2, 2);
    ok(infer_answer_open(&a, packed.data, packed.len, 2, 2, 300) == INFER_OK
       && a.usage.completion_tokens == 8 && a.choice[1].n == 4
       && a.choice[1].recs[2].id == '!', "a packed log opens");

    for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        memset(&want, 0, sizeof(want));
        memset(&got, 0, sizeof(got));
        memset(&blank, 0, sizeof(blank));
        r = request(cases[i].endpoint, cases[i].body);
        render_live(&want, r, &a);

        c.blank = 0;
        ok(infer_answer_render(&got, text, r, &a, &c) == INFER_OK
           && got.len == want.len
           && memcmp(got.data, want.data, got.len) == 0,
           "case %zu: as it was written live", i);

        infer_buf_reset(&got);
        c.blank = 1;
        ok(infer_answer_render(&blank, text, r, &a, &c) == INFER_OK
           && infer_answer_fill(&got, blank.data, blank.len, &conf)
              == INFER_OK
           && memchr(blank.data, INFER_RENDER_ID, blank.len) != NULL
           && got.len == want.len
           && memcmp(got.data, want.data, got.len) == 0,
           "and with the blanks filled in");
        infer_api_request_free(r);
        infer_buf_free(&want);
        infer_buf_free(&got);
        infer_buf_free(&blank);
    }
    infer_buf_free(&packed);
}

static void
test_damage(void)
{
    int              opened = 0;
    size_t           i, k;
    infer_buf_t      packed = pack(2, 1);
    infer_answer_t   a;
    uint8_t         *copy;

    ok(infer_answer_open(&a, packed.data, packed.len, 1, 1, 300)
       == INFER_CORRUPT, "other choices");
    ok(infer_answer_open(&a, packed.data, packed.len, 2, 2, 300)
       == INFER_CORRUPT, "other pairs");
    ok(infer_answer_open(&a, packed.data, packed.len, 2, 1, 200)
       == INFER_CORRUPT, "ids beyond the vocabulary");

    for (i = 0; i < packed.len; i++) {
        copy = malloc(i + 1);
        memcpy(copy, packed.data, i);
        opened += infer_answer_open(&a, copy, i, 2, 1, 300) == INFER_OK;
        free(copy);
    }
    ok(opened == 0, "no shorter one opens");

    /* whatever a changed byte means, nothing outside is read (ASan) */
    copy = malloc(packed.len);
    for (i = 0; i < packed.len; i++) {
        for (k = 0; k < 8; k++) {
            memcpy(copy, packed.data, packed.len);
            copy[i] ^= (uint8_t) (1u << k);
            (void) infer_answer_open(&a, copy, packed.len, 2, 1, 300);
        }
    }
    ok(1, "changed bytes");
    free(copy);
    infer_buf_free(&packed);
}

static void
test_once(void)
{
    uint32_t  i, id, time, bad = 0;
    static const struct {
        const char  *blank;
        int          once;
        uint32_t     id, time;
    } c[] = {
        { "a\1bc\2d", 1, 1, 4 }, { "\1\2", 1, 0, 1 }, { "\1-\2", 1, 0, 2 },
        { "", 0, 0, 0 }, { "abc", 0, 0, 0 }, { "a\1", 0, 0, 0 },
        { "\2b", 0, 0, 0 }, { "\2\1", 0, 0, 0 }, { "\1\2\1", 0, 0, 0 },
        { "\1\1\2", 0, 0, 0 }, { "\1\2\2", 0, 0, 0 },
        { "\1a\2b\1c\2", 0, 0, 0 }
    };

    for (i = 0; i < sizeof(c) / sizeof(c[0]); i++) {
        id = time = 0;
        bad += infer_answer_once(c[i].blank, strlen(c[i].blank), &id, &time)
               != c[i].once || id != c[i].id || time != c[i].time;
    }
    ok(bad == 0, "one mark of each kind is found, and only those");
}

static void
test_fill(void)
{
    uint32_t             i, bad = 0;
    infer_buf_t          got;
    infer_render_conf_t  conf = { .id = { "x\"y", 3 } };
    static const struct {
        int64_t      created;
        const char  *blank, *want;
    } c[] = {
        { 0, "\2", "0" }, { 7, "a\1b\2c", "ax\\\"yb7c" },
        { 1700000000, "\2\1\1\2", "1700000000x\\\"yx\\\"y1700000000" },
        { -5, "\1-\2", "x\\\"y--5" },
        { INT64_MAX, "\2.", "9223372036854775807." },
        { INT64_MIN, ".\2", ".-9223372036854775808" },
        { 1, "none", "none" }, { 1, "", "" }
    };

    for (i = 0; i < sizeof(c) / sizeof(c[0]); i++) {
        memset(&got, 0, sizeof(got));
        conf.created = c[i].created;
        bad += infer_answer_fill(&got, c[i].blank, strlen(c[i].blank), &conf)
               != INFER_OK
               || got.len != strlen(c[i].want)
               || (got.len > 0
                   && memcmp(got.data, c[i].want, got.len) != 0);
        infer_buf_free(&got);
    }
    ok(bad == 0, "marks are filled in, in any order");
}

int
main(void)
{
    void  *image;

    text = at_open(AT_TEMPLATE, &image);
    ok(text != NULL, "a vocabulary");
    test_ident();
    test_keys();
    test_render();
    test_damage();
    infer_text_close(text);
    free(image);
    test_fill();
    test_once();

    return tap_done();
}
