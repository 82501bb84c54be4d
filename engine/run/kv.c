/*
 * kv.c: page numbers of the KV store: a stack of free pages, tables of
 * sequences, an index of committed pages and a list of the cached ones.
 */

#include <string.h>

#include "run/kv.h"


int
infer_kv_init(infer_kv_t *kv, uint32_t n_pages,
    const uint8_t key[INFER_HASH_BYTES])
{
    uint32_t  i;

    memset(kv, 0, sizeof(*kv));
    kv->n_buckets = 1;
    while (kv->n_buckets < n_pages && kv->n_buckets < 1u << 30) {
        kv->n_buckets *= 2;
    }

    kv->free = calloc(n_pages, sizeof(kv->free[0]));
    kv->page = calloc(n_pages, sizeof(kv->page[0]));
    kv->bucket = malloc((size_t) kv->n_buckets * sizeof(kv->bucket[0]));

    if (kv->free == NULL || kv->page == NULL || kv->bucket == NULL) {
        infer_kv_done(kv);
        return INFER_NOMEM;
    }

    if (key != NULL) {
        memcpy(kv->key, key, sizeof(kv->key));
    }
    kv->hash_mask = 0xff;
    kv->n_pages = n_pages;
    kv->n_free = n_pages;
    kv->oldest = INFER_KV_NONE;
    kv->newest = INFER_KV_NONE;
    memset(kv->bucket, 0xff, (size_t) kv->n_buckets * sizeof(kv->bucket[0]));
    for (i = 0; i < n_pages; i++) {
        kv->free[i] = n_pages - 1 - i;
    }

    return INFER_OK;
}

void
infer_kv_done(infer_kv_t *kv)
{
    free(kv->free);
    free(kv->page);
    free(kv->bucket);
    memset(kv, 0, sizeof(*kv));
}

int
infer_kv_table_init(infer_kv_table_t *t, uint32_t context)
{
    t->n = 0;
    t->n_full = 0;
    t->cap = infer_kv_pages(context);
    t->page = calloc(t->cap, sizeof(t->page[0]));

    return t->page != NULL ? INFER_OK : INFER_NOMEM;
}

void
infer_kv_table_done(infer_kv_table_t *t)
{
    free(t->page);
    memset(t, 0, sizeof(*t));
}

/* ---- cached pages, by the time they were let go ---- */

static void
kv_cache_put(infer_kv_t *kv, uint32_t page)
{
    infer_kv_page_t  *p = &kv->page[page];

    p->older = kv->newest;
    p->newer = INFER_KV_NONE;
    if (kv->newest != INFER_KV_NONE) {
        kv->page[kv->newest].newer = page;
    } else {
        kv->oldest = page;
    }
    kv->newest = page;
    kv->n_cached++;
}

static void
kv_cache_take(infer_kv_t *kv, uint32_t page)
{
    infer_kv_page_t  *p = &kv->page[page];

    if (p->older != INFER_KV_NONE) {
        kv->page[p->older].newer = p->newer;
    } else {
        kv->oldest = p->newer;
    }
    if (p->newer != INFER_KV_NONE) {
        kv->page[p->newer].older = p->older;
    } else {
        kv->newest = p->older;
    }
    kv->n_cached--;
}

/* ---- the index of committed pages ---- */

static uint32_t *
kv_bucket(infer_kv_t *kv, const uint8_t hash[INFER_HASH_BYTES])
{
    uint32_t  h;

    memcpy(&h, hash, sizeof(h));

    return &kv->bucket[h & (kv->n_buckets - 1)];
}

/* Of a full page: the hash before it (nothing, for the first), the scope and
 * its ids. */
static void
kv_hash(const infer_kv_t *kv, const infer_kv_page_t *before,
    const infer_kv_key_t *key, const int32_t *id,
    uint8_t hash[INFER_HASH_BYTES])
{
    size_t  i;
    struct {
        uint8_t  before[INFER_HASH_BYTES];
        uint8_t  scope[INFER_HASH_BYTES];
        int32_t  id[KERN_PAGE_TOKENS];
    } in;

    memset(in.before, 0, sizeof(in.before));
    if (before != NULL) {
        memcpy(in.before, before->hash, sizeof(in.before));
    }
    memcpy(in.scope, key->scope, sizeof(in.scope));
    memcpy(in.id, id, sizeof(in.id));
    infer_hash(kv->key, &in, sizeof(in), hash);

    for (i = 0; i < INFER_HASH_BYTES; i++) {
        hash[i] &= kv->hash_mask;
    }
}

static uint32_t
kv_find(infer_kv_t *kv, uint64_t before, const infer_kv_key_t *key,
    const int32_t *id, const uint8_t hash[INFER_HASH_BYTES])
{
    uint32_t                i;
    const infer_kv_page_t  *p;

    for (i = *kv_bucket(kv, hash); i != INFER_KV_NONE; i = p->chain) {
        p = &kv->page[i];
        if (memcmp(p->hash, hash, sizeof(p->hash)) == 0
            && p->before == before
            && memcmp(p->scope, key->scope, sizeof(p->scope)) == 0
            && memcmp(p->id, id, sizeof(p->id)) == 0)
        {
            return i;
        }
    }

    return INFER_KV_NONE;
}

static void
kv_index_remove(infer_kv_t *kv, uint32_t page)
{
    uint32_t         *at = kv_bucket(kv, kv->page[page].hash);
    infer_kv_page_t  *p = &kv->page[page];

    while (*at != page) {
        infer_assert(*at != INFER_KV_NONE);
        at = &kv->page[*at].chain;
    }

    *at = p->chain;
    p->uid = 0;
}

/* ---- taking and giving back ---- */

static uint32_t
kv_take(infer_kv_t *kv)
{
    uint32_t  page;

    if (kv->n_free > 0) {
        page = kv->free[--kv->n_free];

    } else {
        page = kv->oldest;
        kv_cache_take(kv, page);
        kv_index_remove(kv, page);
        kv->evictions++;
    }

    infer_assert(kv->page[page].refs == 0 && kv->page[page].uid == 0);
    kv->page[page].refs = 1;
    kv->page[page].stale = 1;

    return page;
}

static void
kv_drop(infer_kv_t *kv, uint32_t page)
{
    infer_kv_page_t  *p = &kv->page[page];

    infer_assert(page < kv->n_pages && p->refs > 0);
    if (--p->refs > 0) {
        return;
    }

    if (p->uid != 0) {
        kv_cache_put(kv, page);
    } else {
        kv->free[kv->n_free++] = page;
    }
}

static void
kv_share(infer_kv_t *kv, uint32_t page)
{
    if (kv->page[page].refs++ == 0) {
        kv_cache_take(kv, page);
    }
}

int
infer_kv_extend(infer_kv_t *kv, infer_kv_table_t *t, uint32_t n_tokens)
{
    uint32_t  want = infer_kv_pages(n_tokens);

    if (want <= t->n) {
        return INFER_OK;
    }
    if (want > t->cap) {
        return INFER_INVALID;
    }
    if (want - t->n > infer_kv_available(kv)) {
        return INFER_BUSY;
    }

    while (t->n < want) {
        t->page[t->n++] = kv_take(kv);
    }

    if (kv->n_pages - kv->n_free > kv->peak) {
        kv->peak = kv->n_pages - kv->n_free;
    }

    return INFER_OK;
}

/* The last page goes first, so that of a chain the far end is the oldest. */
void
infer_kv_truncate(infer_kv_t *kv, infer_kv_table_t *t, uint32_t n_tokens)
{
    uint32_t  keep = infer_kv_pages(n_tokens);

    infer_assert(n_tokens % KERN_PAGE_TOKENS == 0
                 || t->n_full <= n_tokens / KERN_PAGE_TOKENS);

    while (t->n > keep) {
        kv_drop(kv, t->page[--t->n]);
    }

    if (t->n_full > t->n) {
        t->n_full = t->n;
    }
}

/* The committed page that the table's next one follows, or NULL. */
static const infer_kv_page_t *
kv_last(const infer_kv_t *kv, const infer_kv_table_t *t)
{
    return t->n_full > 0 ? &kv->page[t->page[t->n_full - 1]] : NULL;
}

void
infer_kv_commit(infer_kv_t *kv, infer_kv_table_t *t,
    const infer_kv_key_t *key, uint32_t n_kv)
{
    uint8_t                 hash[INFER_HASH_BYTES];
    uint32_t                own, known, *bucket;
    const int32_t          *id;
    infer_kv_page_t        *p;
    const infer_kv_page_t  *before;

    while (key->token != NULL && t->n_full < n_kv / KERN_PAGE_TOKENS) {
        infer_assert(t->n_full < t->n);
        id = key->token + (size_t) t->n_full * KERN_PAGE_TOKENS;
        before = kv_last(kv, t);
        kv_hash(kv, before, key, id, hash);
        known = kv_find(kv, before != NULL ? before->uid : 0, key, id, hash);
        own = t->page[t->n_full];

        if (known != INFER_KV_NONE) {
            t->page[t->n_full++] = known;
            kv_share(kv, known);
            kv_drop(kv, own);
            continue;
        }

        p = &kv->page[own];
        p->uid = ++kv->last_uid;
        p->before = before != NULL ? before->uid : 0;
        memcpy(p->hash, hash, sizeof(p->hash));
        memcpy(p->scope, key->scope, sizeof(p->scope));
        memcpy(p->id, id, sizeof(p->id));
        bucket = kv_bucket(kv, hash);
        p->chain = *bucket;
        *bucket = own;
        t->n_full++;
    }
}

uint32_t
infer_kv_match(infer_kv_t *kv, infer_kv_table_t *t,
    const infer_kv_key_t *key, uint32_t n_tokens)
{
    uint8_t                 hash[INFER_HASH_BYTES];
    uint32_t                page;
    const int32_t          *id;
    const infer_kv_page_t  *before;

    infer_assert(t->n == t->n_full);

    while (key->token != NULL && t->n < n_tokens / KERN_PAGE_TOKENS
           && t->n < t->cap)
    {
        id = key->token + (size_t) t->n * KERN_PAGE_TOKENS;
        before = kv_last(kv, t);
        kv_hash(kv, before, key, id, hash);
        page = kv_find(kv, before != NULL ? before->uid : 0, key, id, hash);
        if (page == INFER_KV_NONE) {
            break;
        }

        kv_share(kv, page);
        t->page[t->n++] = page;
        t->n_full++;
    }

    return t->n * KERN_PAGE_TOKENS;
}

int
infer_kv_needs_zero(infer_kv_t *kv, uint32_t page)
{
    int  stale = kv->page[page].stale;

    kv->page[page].stale = 0;

    return stale;
}
