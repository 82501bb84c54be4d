/*
 * seal.h: an answer as it lies in Redis: version, times, epochs, the request's
 * canonical form and the packed log, under a MAC. Whoever else can write to
 * that Redis can make a value a miss, but not a hit: without the secret no
 * value opens, under no other key than it was made for, and not with other
 * epochs or times. Any process; memory from malloc.
 *
 *   magic | version, flags | created_ms, fresh_ms, stale_ms | epochs
 *   | lengths | ident | value (as it is, or zstd) | MAC of all before it and
 *   of the Redis key
 */

#ifndef INFER_CACHE_SEAL_H
#define INFER_CACHE_SEAL_H

#include "infer.h"
#include "text/api.h"                   /* infer_buf_t */

#define INFER_SEAL_SECRET  16
#define INFER_SEAL_LEAST   32           /* bytes of a secret file */

typedef struct {
    const char  *key;                   /* in Redis */
    uint64_t     created_ms;            /* CLOCK_REALTIME */
    uint64_t     fresh_ms, stale_ms;    /* as in infer_store_put_t */
    uint64_t     epoch[2];              /* of its tag, of all, when made */
    const void  *ident;
    size_t       ident_len;
    const void  *value;                 /* out: 8-aligned */
    size_t       value_len;
    void        *memory;                /* out: to be freed, or NULL */
} infer_sealed_t;

/* A secret from a file's bytes; INVALID when there are too few. */
int infer_seal_secret(const void *file, size_t len,
    uint8_t secret[INFER_SEAL_SECRET]);

/* level: of zstd, 0 stores as it is; so does a build where zstd.h was not
 * there, and a value that would not shrink. Returns
 * infer_buf_rc(out). */
int infer_seal(infer_buf_t *out, const uint8_t secret[INFER_SEAL_SECRET],
    const infer_sealed_t *s, int level);

/* s->key and s->ident are given and must be the sealed ones; data stays the
 * caller's, and s points into it or into s->memory. max: of the value's
 * length. CORRUPT: anything is wrong; NOMEM. */
int infer_seal_open(infer_sealed_t *s,
    const uint8_t secret[INFER_SEAL_SECRET], const void *data, size_t len,
    size_t max);
/* Bytes that opening data goes through, by its own word, which nothing has
 * proved: only to choose who opens it. At least len. */
size_t infer_seal_size(const void *data, size_t len);

#endif
