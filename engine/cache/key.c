/*
 * key.c: canonical requests and their keys.
 */

#include <string.h>

#include "cache/key.h"
#include "ipc/hash.h"

#define KEY_VERSION  1u


int
infer_key_repeatable(const infer_api_request_t *req)
{
    return req->seed_set || !(req->sampling.temperature > 0);
}

static void
key_u32(infer_buf_t *b, uint32_t v)
{
    infer_buf_put(b, (const char *) &v, sizeof(v));
}

static void
key_bytes(infer_buf_t *b, const void *p, size_t len)
{
    key_u32(b, (uint32_t) len);
    infer_buf_put(b, p, len);
}

/* Parameters by value; what has no effect is as if it had not been said.
 * Minus zero is zero: it compares equal wherever it is used. */
static void
key_sampling(infer_buf_t *b, const infer_api_request_t *req)
{
    uint32_t          i;
    infer_sampling_t  s = req->sampling;
    float            *f[] = { &s.temperature, &s.top_p, &s.min_p,
                              &s.repetition_penalty, &s.presence_penalty,
                              &s.frequency_penalty };

    s.seed = req->seed_set ? s.seed : 0;
    if (!(s.temperature > 0)) {
        s.seed = 0;
        s.temperature = 0;
        s.top_p = 1;
        s.min_p = 0;
        s.top_k = 0;
    }
    s.top_k = s.top_k > 0 ? s.top_k : 0;
    s.top_p = s.top_p < 1 ? s.top_p : 1;
    for (i = 0; i < sizeof(f) / sizeof(f[0]); i++) {
        *f[i] += 0.0f;
    }
    s.max_tokens = 0;                    /* each prompt has its own */
    s.echo = 0;
    memset(s.reserved, 0, sizeof(s.reserved));
    infer_buf_put(b, (const char *) &s, sizeof(s));
    key_u32(b, req->seed_set && s.temperature > 0);
}

int
infer_key_ident(infer_buf_t *out, const infer_key_space_t *space,
    const infer_api_request_t *req)
{
    uint32_t  i;

    key_u32(out, KEY_VERSION);
    infer_buf_put(out, (const char *) space, sizeof(*space));
    key_sampling(out, req);
    key_u32(out, req->n);
    key_u32(out, req->n_prompts);
    for (i = 0; i < req->n_prompts; i++) {
        key_u32(out, req->prompts[i].max_tokens);
        key_bytes(out, req->prompts[i].ids,
                  req->prompts[i].n_ids * sizeof(int32_t));
    }
    key_u32(out, req->n_stops);
    for (i = 0; i < req->n_stops; i++) {
        key_bytes(out, req->stops[i], req->stop_lens[i]);
    }
    key_bytes(out, req->stop_ids, req->n_stop_ids * sizeof(int32_t));
    key_bytes(out, req->bias, req->n_bias * sizeof(infer_bias_t));

    return infer_buf_rc(out);
}

void
infer_key(const uint8_t secret[16], uint32_t kind,
    const infer_key_space_t *space, const void *data, size_t len,
    uint8_t key[INFER_STORE_KEY])
{
    /* two steps, so that the data need not be copied behind the space */
    struct {
        uint32_t           kind;
        uint32_t           len;
        infer_key_space_t  space;
        uint8_t            hash[INFER_HASH_BYTES];
    } head;

    memset(&head, 0, sizeof(head));
    head.kind = kind;
    head.len = (uint32_t) len;
    head.space = *space;
    infer_hash(secret, data, len, head.hash);
    infer_hash(secret, &head, sizeof(head), key);
}
