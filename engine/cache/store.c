/*
 * store.c: the doors of the store: each tries the shard's lock, does its
 * work and leaves. See store.h for the method.
 */

#include "cache/store_int.h"


static int
store_lock(const infer_store_t *c, store_shard_t *s)
{
    uint32_t  nobody = 0;

    if (atomic_compare_exchange_strong_explicit(&s->lock, &nobody, c->owner,
                                                memory_order_acquire,
                                                memory_order_relaxed))
    {
        store_count(&s->locked);
        return 1;
    }
    atomic_fetch_add_explicit(&s->busy, 1, memory_order_relaxed);
    return 0;
}

/* release; pairs with the acquire in store_lock() and
 * infer_store_recover() */
static void
store_unlock(store_shard_t *s)
{
    atomic_store_explicit(&s->lock, 0, memory_order_release);
}

/* Around every change of lists, chains and buckets: who finds the flag set
 * and its owner dead cannot trust the shard. Signal fences are enough: a
 * killed process leaves its stores in program order behind. */
static void
store_change(store_shard_t *s, uint32_t on)
{
    atomic_signal_fence(memory_order_seq_cst);
    atomic_store_explicit(&s->dirty, on, memory_order_relaxed);
    atomic_signal_fence(memory_order_seq_cst);
}

/* ---- the memory ---- */

/* Blocks of a shard of so many bytes; 0 when there is room for too few. */
static uint32_t
store_fit(size_t shard_bytes)
{
    uint32_t  low = 0, high, mid;

    if (shard_bytes / INFER_STORE_BLOCK > UINT32_MAX / 2) {
        return 0;
    }
    high = (uint32_t) (shard_bytes / INFER_STORE_BLOCK);
    while (low < high) {
        mid = low + (high - low + 1) / 2;
        if (store_shard_bytes(mid) <= shard_bytes) {
            low = mid;
        } else {
            high = mid - 1;
        }
    }
    return low < STORE_MIN_BLOCKS ? 0 : low;
}

size_t
infer_store_bytes(uint32_t n_shards, uint32_t n_blocks)
{
    return sizeof(infer_store_head_t)
           + (size_t) n_shards * store_shard_bytes(n_blocks);
}

int
infer_store_init(void *mem, size_t bytes, uint32_t n_shards)
{
    uint32_t             i, n_blocks;
    size_t               shard_bytes;
    store_shard_t       *s;
    infer_store_head_t  *h = mem;

    if (n_shards == 0 || n_shards > INFER_STORE_SHARDS
        || bytes < infer_store_bytes(n_shards, STORE_MIN_BLOCKS))
    {
        return INFER_INVALID;
    }
    shard_bytes = (bytes - sizeof(*h)) / n_shards & ~(size_t) 63;
    n_blocks = store_fit(shard_bytes);
    if (n_blocks == 0) {
        return INFER_INVALID;
    }

    memset(h, 0, sizeof(*h));
    h->n_shards = n_shards;
    h->bytes = bytes;
    h->shard_bytes = shard_bytes;
    for (i = 0; i < n_shards; i++) {
        s = (store_shard_t *) ((uint8_t *) mem + sizeof(*h)
                               + i * shard_bytes);
        store_shard_make(s, n_blocks);
    }
    h->magic = STORE_MAGIC;
    return INFER_OK;
}

int
infer_store_attach(infer_store_t *c, void *mem, size_t bytes, uint32_t owner)
{
    infer_store_head_t  *h = mem;

    if (bytes < sizeof(*h) || h->magic != STORE_MAGIC || h->bytes != bytes
        || h->n_shards == 0 || h->n_shards > INFER_STORE_SHARDS
        || owner == 0)
    {
        return INFER_CORRUPT;
    }
    c->head = h;
    c->owner = owner;
    return INFER_OK;
}

/* ---- what is still true ---- */

static uint32_t
store_epoch(const infer_store_t *c, uint64_t hash)
{
    return hash != 0 ? atomic_load(&c->head->tag[hash % STORE_TAGS]) : 0;
}

void
infer_store_epochs(const infer_store_t *c, uint64_t tag, uint64_t origin,
    infer_store_epochs_t *e)
{
    e->epoch = atomic_load(&c->head->epoch);
    e->mark_epoch[0] = store_epoch(c, tag);
    e->mark_epoch[1] = store_epoch(c, origin);
}

static void
store_mark(store_entry_t *e, uint32_t k, uint64_t hash, uint32_t epoch)
{
    if (hash != 0) {
        e->mark[k] = (uint32_t) (hash % STORE_TAGS) + 1;
        e->mark_epoch[k] = epoch;
    }
}

static int
store_purged(const infer_store_t *c, const store_entry_t *e, uint32_t k)
{
    return e->mark[k] != 0
           && e->mark_epoch[k] != atomic_load(&c->head->tag[e->mark[k] - 1]);
}

/* 1: purged, or too old even for stale. */
static int
store_gone(const infer_store_t *c, const store_entry_t *e, uint64_t now_ms)
{
    return now_ms >= e->stale_ms
           || e->epoch != atomic_load(&c->head->epoch)
           || store_purged(c, e, 0) || store_purged(c, e, 1);
}

/* 1: the value stays where it is and has one reader more. */
static int
store_refer(const infer_store_t *c, store_shard_t *s, const store_entry_t *e,
    infer_store_get_t *g)
{
    size_t              at = e->ident_len;
    uint32_t            i = e->block;
    infer_store_ref_t  *r = g->ref;

    if (r == NULL || g->stale || e->value_len < g->ref_min) {
        return 0;
    }
    r->count = store_pin(s, e, c->owner);
    if (r->count == NULL) {
        return 0;
    }
    for ( /* void */ ; at >= STORE_DATA; at -= STORE_DATA) {
        i = store_blocks(s)[i].next;
    }
    r->blocks = store_blocks(s);
    r->block = i;
    r->at = at;
    r->left = e->value_len;
    return 1;
}

static int
store_take(const infer_store_t *c, store_shard_t *s, const store_entry_t *e,
    infer_store_get_t *g)
{
    int64_t  age;

    g->stale = g->now_ms >= e->fresh_ms;
    g->value = NULL;
    g->value_len = e->value_len;
    if (!store_refer(c, s, e, g)) {
        g->value = g->alloc(g->alloc_arg, e->value_len);
        if (g->value == NULL) {
            return INFER_NOMEM;
        }
        store_read_value(s, e, g->value);
    }
    /* one that came from elsewhere may be older than the clock */
    age = (int64_t) (g->now_ms - e->born_ms);
    g->age_ms = age > 0 ? (uint64_t) age : 0;
    g->left_ms = g->stale ? 0 : e->fresh_ms - g->now_ms;
    return INFER_OK;
}

/* Locked, in a change. */
static int
store_lookup(const infer_store_t *c, store_shard_t *s, const uint8_t *key,
    infer_store_get_t *g)
{
    int             rc;
    uint32_t        i;
    store_entry_t  *e;

    g->frequency = store_asked(s, key);
    i = store_find(s, key);
    if (i == STORE_NONE) {
        store_count(&s->misses);
        return INFER_AGAIN;
    }

    e = &store_entries(s)[i];
    if (store_gone(c, e, g->now_ms)) {
        store_entry_free(s, i);
        store_count(&s->expired);
        store_count(&s->misses);
        return INFER_AGAIN;
    }
    if (!store_ident_equal(s, e, g->ident, g->ident_len)) {
        store_count(&s->collisions);
        store_count(&s->misses);
        return INFER_AGAIN;
    }

    rc = store_take(c, s, e, g);
    if (rc == INFER_OK) {
        store_touch(s, i);
        store_count(g->stale ? &s->stale : &s->hits);
    }
    return rc;
}

int
infer_store_get(infer_store_t *c, const uint8_t *key, infer_store_get_t *g)
{
    int             rc;
    store_shard_t  *s = store_shard(c->head, key);

    if (!store_lock(c, s)) {
        return INFER_BUSY;
    }
    store_change(s, 1);
    store_pin_collect(s);
    rc = store_lookup(c, s, key, g);
    store_outcome(s, rc == INFER_OK);
    store_change(s, 0);
    store_unlock(s);
    return rc;
}

/* ---- values that are read where they lie ---- */

size_t
infer_store_piece(infer_store_ref_t *r, size_t most, const uint8_t **p)
{
    size_t                n;
    const store_block_t  *b = r->blocks;

    if (r->at == STORE_DATA) {
        r->block = b[r->block].next;
        r->at = 0;
    }
    n = STORE_DATA - r->at < r->left ? STORE_DATA - r->at : r->left;
    n = n < most ? n : most;
    *p = n > 0 ? b[r->block].data + r->at : NULL;
    r->at += n;
    r->left -= n;
    return n;
}

void
infer_store_release(infer_store_ref_t *r)
{
    if (r->count != NULL) {
        atomic_store_explicit(r->count,
                              atomic_load_explicit(r->count,
                                                   memory_order_relaxed) - 1,
                              memory_order_release);
        r->count = NULL;
    }
}

/* Locked, in a change; n blocks are wanted. */
static int
store_insert(const infer_store_t *c, store_shard_t *s, const uint8_t *key,
    const infer_store_put_t *p, uint32_t n)
{
    uint32_t              i = store_find(s, key);
    store_entry_t        *e;
    infer_store_epochs_t  now, at;

    infer_store_epochs(c, p->tag, p->origin, &now);
    at = p->epochs != NULL ? *p->epochs : now;
    if (at.epoch != now.epoch || at.mark_epoch[0] != now.mark_epoch[0]
        || at.mark_epoch[1] != now.mark_epoch[1])
    {
        return INFER_AGAIN;
    }

    if (i != STORE_NONE) {
        store_entry_free(s, i);
        store_count(&s->updates);
    }
    i = store_entry_new(s, key);
    e = &store_entries(s)[i];
    e->n_blocks = n;
    e->born_ms = p->now_ms;
    e->fresh_ms = p->now_ms + p->fresh_ms;
    e->stale_ms = e->fresh_ms + p->stale_ms;
    e->epoch = at.epoch;
    store_mark(e, 0, p->tag, at.mark_epoch[0]);
    store_mark(e, 1, p->origin, at.mark_epoch[1]);

    if (!store_admit(s, i)) {
        return INFER_AGAIN;
    }
    store_write(s, e, p);
    store_count(&s->inserts);
    return INFER_OK;
}

static store_flight_t *
store_flight_find(const store_shard_t *s, const uint8_t *key)
{
    uint32_t         i;
    store_flight_t  *f = store_flights(s);

    for (i = 0; s->flights > 0 && i < INFER_STORE_FLIGHTS; i++) {
        if (f[i].used && memcmp(f[i].key, key, INFER_STORE_KEY) == 0) {
            return &f[i];
        }
    }
    return NULL;
}

/* Locked, in a change. 1: it was known, and is not any more. */
static int
store_landed(store_shard_t *s, const uint8_t *key,
    const infer_store_flight_t *flight)
{
    store_flight_t  *f = store_flight_find(s, key);

    if (f == NULL || f->f.slot != flight->slot
        || f->f.generation != flight->generation)
    {
        return 0;
    }
    f->used = 0;
    s->flights--;
    return 1;
}

int
infer_store_put(infer_store_t *c, const uint8_t *key,
    const infer_store_put_t *p)
{
    int             rc;
    size_t          n;
    store_shard_t  *s = store_shard(c->head, key);

    if (p->ident_len > UINT32_MAX / 2 || p->value_len > UINT32_MAX / 2) {
        return INFER_INVALID;
    }
    n = (p->ident_len + p->value_len + STORE_DATA - 1) / STORE_DATA;
    n = n > 0 ? n : 1;
    if (n > (s->n_blocks >= 8 ? s->n_blocks / 8 : 1)) {
        return INFER_INVALID;
    }
    if (!store_lock(c, s)) {
        return INFER_BUSY;
    }
    store_change(s, 1);
    store_pin_collect(s);
    rc = p->flight == NULL || store_landed(s, key, p->flight)
         ? store_insert(c, s, key, p, (uint32_t) n) : INFER_CANCELLED;
    store_change(s, 0);
    store_unlock(s);
    return rc;
}

int
infer_store_remove(infer_store_t *c, const uint8_t *key)
{
    uint32_t        i;
    store_shard_t  *s = store_shard(c->head, key);

    if (!store_lock(c, s)) {
        return INFER_BUSY;
    }
    i = store_find(s, key);
    if (i != STORE_NONE) {
        store_change(s, 1);
        store_entry_free(s, i);
        store_change(s, 0);
    }
    store_unlock(s);
    return i != STORE_NONE ? INFER_OK : INFER_AGAIN;
}

void
infer_store_purge_tag(infer_store_t *c, uint64_t tag)
{
    atomic_fetch_add(&c->head->tag[tag % STORE_TAGS], 1);
}

void
infer_store_purge_all(infer_store_t *c)
{
    atomic_fetch_add(&c->head->epoch, 1);
}

/* ---- flights ---- */

int
infer_store_flight(infer_store_t *c, const uint8_t *key,
    infer_store_flight_t *out)
{
    store_shard_t   *s = store_shard(c->head, key);
    store_flight_t  *f;

    if (!store_lock(c, s)) {
        return INFER_BUSY;
    }
    f = store_flight_find(s, key);
    if (f != NULL) {
        *out = f->f;
    }
    store_unlock(s);
    return f != NULL ? INFER_OK : INFER_AGAIN;
}

/* Locked, in a change. Over a known flight of the key, else over a free place
 * or the oldest. */
static void
store_fly(store_shard_t *s, const uint8_t *key, store_flight_t *f,
    infer_store_flight_t flight)
{
    uint32_t         i;
    store_flight_t  *all = store_flights(s);

    for (i = 0; f == NULL && i < INFER_STORE_FLIGHTS; i++) {
        f = all[i].used ? NULL : &all[i];
    }
    if (f == NULL) {
        f = &all[s->next_flight++ % INFER_STORE_FLIGHTS];
    }
    s->flights += !f->used;
    memcpy(f->key, key, INFER_STORE_KEY);
    f->f = flight;
    f->used = 1;
}

int
infer_store_takeoff(infer_store_t *c, const uint8_t *key,
    infer_store_flight_t flight)
{
    store_shard_t  *s = store_shard(c->head, key);

    if (!store_lock(c, s)) {
        return INFER_BUSY;
    }
    store_change(s, 1);
    store_fly(s, key, store_flight_find(s, key), flight);
    store_change(s, 0);
    store_unlock(s);
    return INFER_OK;
}

/* Locked: there is a fresh value of g. */
static int
store_fresh(const infer_store_t *c, const store_shard_t *s,
    const uint8_t *key, const infer_store_get_t *g)
{
    uint32_t              i = store_find(s, key);
    const store_entry_t  *e;

    if (i == STORE_NONE) {
        return 0;
    }
    e = &store_entries(s)[i];
    return g->now_ms < e->fresh_ms && !store_gone(c, e, g->now_ms)
           && store_ident_equal(s, e, g->ident, g->ident_len);
}

int
infer_store_board(infer_store_t *c, const uint8_t *key,
    infer_store_flight_t mine, infer_store_flight_t *theirs,
    infer_store_get_t *g)
{
    int              rc = INFER_OK;
    store_shard_t   *s = store_shard(c->head, key);
    store_flight_t  *f;

    if (!store_lock(c, s)) {
        return INFER_BUSY;
    }
    f = store_flight_find(s, key);
    store_change(s, 1);
    if (f != NULL) {
        *theirs = f->f;
        rc = INFER_AGAIN;
    } else if (g != NULL && store_fresh(c, s, key, g)
               && store_lookup(c, s, key, g) == INFER_OK)
    {
        store_outcome(s, 1);
        rc = INFER_CANCELLED;
    } else {
        store_fly(s, key, NULL, mine);
    }
    store_change(s, 0);
    store_unlock(s);
    return rc;
}

int
infer_store_land(infer_store_t *c, const uint8_t *key,
    infer_store_flight_t flight)
{
    int             landed;
    store_shard_t  *s = store_shard(c->head, key);

    if (!store_lock(c, s)) {
        return INFER_BUSY;
    }
    store_change(s, 1);
    landed = store_landed(s, key, &flight);
    store_change(s, 0);
    store_unlock(s);
    return landed ? INFER_OK : INFER_AGAIN;
}

/* ---- the dead; figures ---- */

static store_shard_t *
store_nth(const infer_store_t *c, uint32_t i)
{
    return (store_shard_t *) ((uint8_t *) c->head + sizeof(*c->head)
                              + i * c->head->shard_bytes);
}

uint32_t
infer_store_recover(infer_store_t *c, int (*alive)(void *arg, uint32_t owner),
    void *arg)
{
    uint32_t        i, owner, wiped = 0;
    store_shard_t  *s;

    for (i = 0; i < c->head->n_shards; i++) {
        s = store_nth(c, i);
        owner = atomic_load_explicit(&s->lock, memory_order_relaxed);
        if ((owner != 0 && alive(arg, owner))
            || !atomic_compare_exchange_strong_explicit(
                    &s->lock, &owner, c->owner, memory_order_acquire,
                    memory_order_relaxed))
        {
            continue;
        }
        store_pin_bury(s, alive, arg);
        if (owner != 0 && atomic_load(&s->dirty)) {
            store_shard_format(s);
            store_count(&s->wiped);
            wiped++;
        } else {
            store_change(s, 1);
            store_pin_collect(s);
        }
        store_change(s, 0);
        store_unlock(s);
    }
    return wiped;
}

void
infer_store_stats(const infer_store_t *c, infer_store_stats_t *st)
{
    uint32_t        i;
    store_shard_t  *s;

    memset(st, 0, sizeof(*st));
    for (i = 0; i < c->head->n_shards; i++) {
        s = store_nth(c, i);
        st->refs += store_pin_readers(s);
        st->hits += atomic_load(&s->hits);
        st->misses += atomic_load(&s->misses);
        st->stale += atomic_load(&s->stale);
        st->tries += atomic_load(&s->locked) + atomic_load(&s->busy);
        st->busy += atomic_load(&s->busy);
        st->inserts += atomic_load(&s->inserts);
        st->updates += atomic_load(&s->updates);
        st->evictions += atomic_load(&s->evictions);
        st->rejects += atomic_load(&s->rejects);
        st->expired += atomic_load(&s->expired);
        st->collisions += atomic_load(&s->collisions);
        st->wiped += atomic_load(&s->wiped);
        st->entries += atomic_load(&s->entries);
        st->bytes += (uint64_t) (s->n_blocks - s->n_free)
                     * INFER_STORE_BLOCK;
        st->capacity += (uint64_t) s->n_blocks * INFER_STORE_BLOCK;
    }
}
