/*
 * kv.h: which KV page belongs to which sequence, and which pages are kept
 * for those to come. Pure bookkeeping: numbers of pages, no memory of them
 * and no kernel; so the scheduler's tests run without a model. Loop thread
 * only; one store per model, so model and KV type need no place in a key.
 *
 * A page is free, used (refs > 0) or cached (refs 0, content known). Pages
 * that are full are committed: found again by a hash over the tenant's scope
 * and all tokens up to the page's end, by any sequence, from then on, and
 * never written again. When the last sequence lets go of a committed page it
 * becomes cached; when no page is free, the cached one that was let go
 * longest ago is given away.
 *
 *   scope --> page of 32 ids --> page of 32 ids --> ...   each knows the life
 *                                                         (uid) before it
 *
 * A hash only says where to look: ids, scope and the life of the page before
 * are compared, so a collision is a miss.
 *
 * Lifetimes: the pool lives as long as its model, a table as long as its
 * sequence. Neither allocates between init and free.
 */

#ifndef INFER_RUN_KV_H
#define INFER_RUN_KV_H

#include "ipc/hash.h"
#include "kern.h"

#define INFER_KV_NONE  UINT32_MAX

/* What is known of a page. */
typedef struct {
    uint64_t  uid;             /* of this content; 0: not committed */
    uint64_t  before;          /* uid of the page before; 0: the first */
    uint8_t   hash[INFER_HASH_BYTES];
    uint8_t   scope[INFER_HASH_BYTES];
    uint32_t  refs;            /* tables that have it */
    uint32_t  chain;           /* next page with this bucket, or NONE */
    uint32_t  older;           /* of the cached ones, or NONE */
    uint32_t  newer;
    uint8_t   stale;           /* 1: zero it before its next use */
    int32_t   id[KERN_PAGE_TOKENS];
} infer_kv_page_t;

/* A sequence's pages; page[p / KERN_PAGE_TOKENS] holds position p. */
typedef struct {
    uint32_t  *page;
    uint32_t   n;
    uint32_t   cap;
    uint32_t   n_full;         /* the first ones, that are committed */
} infer_kv_table_t;

/* What a sequence's pages are found by. */
typedef struct {
    const int32_t  *token;     /* from position 0; NULL: share nothing */
    uint8_t         scope[INFER_HASH_BYTES];
} infer_kv_key_t;

typedef struct {
    uint32_t         *free;    /* stack, top at n_free - 1 */
    infer_kv_page_t  *page;    /* [n_pages] */
    uint32_t         *bucket;  /* [n_buckets], first page or NONE */
    uint32_t          n_buckets;       /* a power of 2 */
    uint32_t          n_pages;
    uint32_t          n_free;
    uint32_t          n_cached;
    uint32_t          oldest;  /* of the cached ones, or NONE */
    uint32_t          newest;
    uint32_t          peak;    /* pages ever used or cached at once */
    uint64_t          last_uid;
    uint64_t          evictions;
    uint8_t           key[INFER_HASH_BYTES];   /* of the hash */
    uint8_t           hash_mask;       /* of each byte of a hash: 0xff; tests
                                        * clear it to force collisions */
} infer_kv_t;

/* NOMEM. Pages are handed out lowest first and the last one freed is the
 * first one used again, so pages beyond the peak are never touched. key: of
 * the hash, secret and random; NULL in tests. */
int infer_kv_init(infer_kv_t *kv, uint32_t n_pages,
    const uint8_t key[INFER_HASH_BYTES]);
void infer_kv_done(infer_kv_t *kv);

/* Room for the pages of `context` tokens. NOMEM. */
int infer_kv_table_init(infer_kv_table_t *t, uint32_t context);
void infer_kv_table_done(infer_kv_table_t *t);

/* Pages that hold n tokens. */
static inline uint32_t
infer_kv_pages(uint32_t n_tokens)
{
    return n_tokens / KERN_PAGE_TOKENS + (n_tokens % KERN_PAGE_TOKENS != 0);
}

/* Pages that can be had. */
static inline uint32_t
infer_kv_available(const infer_kv_t *kv)
{
    return kv->n_free + kv->n_cached;
}

static inline uint32_t
infer_kv_used(const infer_kv_t *kv)
{
    return kv->n_pages - kv->n_free - kv->n_cached;
}

/* The table holds at least n_tokens afterwards; BUSY, and nothing taken,
 * when there are not enough pages, INVALID beyond the table's context. */
int infer_kv_extend(infer_kv_t *kv, infer_kv_table_t *t, uint32_t n_tokens);
/* Keeps the pages of the first n_tokens; 0 gives back all. A committed page
 * is kept whole or not at all. */
void infer_kv_truncate(infer_kv_t *kv, infer_kv_table_t *t,
    uint32_t n_tokens);

/* The first n_kv tokens are in the table's pages: those that are full can be
 * found from now on. A page that is known already takes the place of the
 * table's own, which has the same content. */
void infer_kv_commit(infer_kv_t *kv, infer_kv_table_t *t,
    const infer_kv_key_t *key, uint32_t n_kv);
/* Appends the known pages that hold the next of the first n_tokens, full
 * ones only. Every page of the table must be committed. Returns the tokens
 * in the table's pages afterwards. */
uint32_t infer_kv_match(infer_kv_t *kv, infer_kv_table_t *t,
    const infer_kv_key_t *key, uint32_t n_tokens);

/* 1 once for a page whose content is somebody else's: the caller zeroes it.
 * A page's last life may have ended with NaNs, and 0 times NaN is not 0 for
 * a kernel that masks keys by their weight. */
int infer_kv_needs_zero(infer_kv_t *kv, uint32_t page);

#endif
