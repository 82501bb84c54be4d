/*
 * key.h: what makes an answer what it is. The ident of a request is its
 * canonical form: prompt ids and every parameter that changes the log of a
 * generation, nothing that does not (order of fields, dialect, streaming,
 * usage, echo). A hash of it finds an entry, its bytes prove the entry right.
 * Any process; memory from malloc.
 */

#ifndef INFER_CACHE_KEY_H
#define INFER_CACHE_KEY_H

#include "cache/store.h"
#include "text/api.h"

/* Kinds of keys, so that equal bytes of two kinds are two keys. */
enum {
    INFER_KEY_LOG = 1,       /* ident -> output logs (answer.h) */
    INFER_KEY_BODY           /* a body's own bytes -> a rendered answer */
};

/* Who may share an answer, and of which model. */
typedef struct {
    uint8_t  model[20];      /* digest of the model and how it is run */
    uint8_t  scope[16];      /* of the tenant */
} infer_key_space_t;

/* 1: the same request gives the same log again: greedy, or seeded by the
 * client or the location. */
int infer_key_repeatable(const infer_api_request_t *req);

/* Appends the ident; returns infer_buf_rc(out). The request must still have
 * its ids (before infer_api_request_shrink()). A seed that the request does
 * not have is left out: with infer_cache_sampled any answer will do. */
int infer_key_ident(infer_buf_t *out, const infer_key_space_t *space,
    const infer_api_request_t *req);

/* key = hash(kind, space, data) under a secret of the cache. */
void infer_key(const uint8_t secret[16], uint32_t kind,
    const infer_key_space_t *space, const void *data, size_t len,
    uint8_t key[INFER_STORE_KEY]);

#endif
