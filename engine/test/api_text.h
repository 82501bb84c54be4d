/*
 * api_text.h: a small vocabulary with a chat template for tests of the API,
 * and requests that end at a guard page.
 */

#ifndef INFER_API_TEXT_H
#define INFER_API_TEXT_H

#include "text_model.h"
#include "text/api.h"

#include <stdio.h>

#define AT_BOS  256
#define AT_EOS  257

#define AT_TEMPLATE                                                           \
    "{% for m in messages %}<s>{{ m.role }}:{{ m.content }}</s>{% endfor %}"  \
    "{% if add_generation_prompt %}<s>assistant:{% endif %}"                  \
    "{% if extra %}{{ extra }}{% endif %}"

#define AT_BODY_MAX  (1 << 16)

/* tpl NULL: a model without a template. */
__attribute__((unused))
static infer_text_t *
at_open(const char *tpl, void **image)
{
    static const tm_token_t extra[] = {
        { "<s>", 3 }, { "</s>", 3 }, { "ab", 1 }, { NULL, 0 }
    };
    static const char *const merges[] = { "a b", NULL };
    tm_conf_t c = {
        .pre = "gpt-2", .extra = extra, .merges = merges, .bos = AT_BOS,
        .eos = AT_EOS, .add_bos = 1, .tpl = tpl
    };

    return tm_open(tm_file(&c), image);
}


/* A copy of body that ends where memory ends; at most AT_BODY_MAX bytes.
 * One buffer, reused by the next call. */
__attribute__((unused))
static const char *
at_guard(const char *body, size_t len)
{
    static char *base;

    if (base == NULL) {
        base = mmap(NULL, AT_BODY_MAX + 4096, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (base == MAP_FAILED || len > AT_BODY_MAX
            || mprotect(base + AT_BODY_MAX, 4096, PROT_NONE) != 0)
        {
            abort();
        }
    }

    memcpy(base + AT_BODY_MAX - len, body, len);

    return base + AT_BODY_MAX - len;
}


__attribute__((unused))
static infer_api_conf_t
at_conf(void)
{
    static const infer_str_t alias[] = { { "other", 5 } };
    infer_api_conf_t c = {
        .model = { "tiny", 4 }, .aliases = alias, .n_aliases = 1,
        .context = 256, .now = 1764000000,
        .sampling = { .temperature = 1, .top_p = 1, .repetition_penalty = 1 }
    };

    return c;
}

#endif
