/*
 * store_shard.c: the inside of a shard: blocks, buckets, entries. Called
 * under its lock.
 */

#include "cache/store_int.h"

#define SHARD_WORDS  8                    /* of the sketch, per block: 64
                                           * counters */


static uint32_t
shard_power(uint32_t n)
{
    uint32_t  p = 16;

    while (p < n) {
        p *= 2;
    }
    return p;
}

size_t
store_shard_bytes(uint32_t n_blocks)
{
    size_t  n;

    n = sizeof(store_shard_t)
        + (size_t) shard_power(n_blocks) * (SHARD_WORDS * sizeof(uint64_t)
                                            + sizeof(uint32_t))
        + (size_t) n_blocks * (sizeof(store_entry_t) + INFER_STORE_BLOCK)
        + sizeof(store_entry_t)
        + INFER_STORE_FLIGHTS * sizeof(store_flight_t)
        + STORE_PINS * sizeof(store_pin_t);
    return (n + 63) & ~(size_t) 63;
}

/* All blocks but those that are marked to be kept (store_pin_keep()). */
static void
shard_free_blocks(store_shard_t *s)
{
    uint32_t        i;
    store_block_t  *b = store_blocks(s);

    s->free_block = STORE_NONE;
    for (i = s->n_blocks; i-- > 0; ) {
        if (store_entries(s)[i].list == STORE_FREE) {
            b[i].next = s->free_block;
            s->free_block = i;
        }
        store_entries(s)[i].list = STORE_FREE;
    }
}

void
store_shard_make(store_shard_t *s, uint32_t n_blocks)
{
    memset(s, 0, sizeof(*s));
    s->n_blocks = n_blocks;
    /* each has a block at least, but the one that asks to be let in */
    s->n_entries = n_blocks + 1;
    s->n_buckets = shard_power(n_blocks);
    s->n_words = SHARD_WORDS * shard_power(n_blocks);
    memset(store_pins(s), 0, STORE_PINS * sizeof(store_pin_t));
    store_shard_format(s);
}

void
store_shard_format(store_shard_t *s)
{
    uint32_t  i;

    s->additions = 0;
    s->period_asked = s->period_hits = s->period_lost = 0;
    s->average = s->average_lost = 0;
    s->next_flight = s->flights = 0;
    memset(store_sketch(s), 0, s->n_words * sizeof(uint64_t));
    memset(store_buckets(s), 0xff, s->n_buckets * sizeof(uint32_t));
    memset(store_flights(s), 0,
           INFER_STORE_FLIGHTS * sizeof(store_flight_t));

    for (i = 0; i < STORE_N_LISTS; i++) {
        s->list[i].newest = s->list[i].oldest = STORE_NONE;
        s->list[i].blocks = 0;
    }
    for (i = 0; i < s->n_entries; i++) {
        store_entries(s)[i].older = i + 1 < s->n_entries ? i + 1 : STORE_NONE;
        store_entries(s)[i].list = STORE_FREE;
    }
    s->used = store_pin_keep(s);
    s->n_free = s->n_blocks - s->used;
    shard_free_blocks(s);
    s->free_entry = 0;
    atomic_store_explicit(&s->entries, 0, memory_order_relaxed);
}

static uint32_t *
shard_bucket(const store_shard_t *s, const uint8_t *key)
{
    uint32_t  bits;

    memcpy(&bits, key + 4, sizeof(bits));
    return &store_buckets(s)[bits & (s->n_buckets - 1)];
}

uint32_t
store_find(const store_shard_t *s, const uint8_t *key)
{
    uint32_t  i = *shard_bucket(s, key);

    while (i != STORE_NONE
           && memcmp(store_entries(s)[i].key, key, INFER_STORE_KEY) != 0)
    {
        i = store_entries(s)[i].chain;
    }
    return i;
}

uint32_t
store_entry_new(store_shard_t *s, const uint8_t *key)
{
    uint32_t        i = s->free_entry, *bucket = shard_bucket(s, key);
    store_entry_t  *e;

    e = &store_entries(s)[i];
    s->free_entry = e->older;
    memset(e, 0, sizeof(*e));
    memcpy(e->key, key, INFER_STORE_KEY);
    e->block = STORE_NONE;
    e->chain = *bucket;
    *bucket = i;
    atomic_fetch_add_explicit(&s->entries, 1, memory_order_relaxed);
    return i;
}

uint32_t
store_give_back(store_shard_t *s, uint32_t first)
{
    uint32_t        last = first, n = 1;
    store_block_t  *b = store_blocks(s);

    while (b[last].next != STORE_NONE) {
        last = b[last].next;
        n++;
    }
    b[last].next = s->free_block;
    s->free_block = first;
    s->n_free += n;
    return n;
}

void
store_entry_free(store_shard_t *s, uint32_t i)
{
    store_entry_t  *e = &store_entries(s)[i];
    uint32_t       *at = shard_bucket(s, e->key);

    while (*at != i) {
        at = &store_entries(s)[*at].chain;
    }
    *at = e->chain;

    if (e->list != STORE_FREE) {
        store_list_remove(s, i);
    }
    if (e->block == STORE_NONE) {
        s->used -= e->n_blocks;           /* promised, and not taken */
    } else if (!store_pin_orphan(s, e->block)) {
        s->used -= store_give_back(s, e->block);
    }
    e->block = STORE_NONE;
    e->older = s->free_entry;
    s->free_entry = i;
    atomic_fetch_sub_explicit(&s->entries, 1, memory_order_relaxed);
}

/* ---- chains ---- */

/* len bytes to the end of a chain that has `at` bytes. */
static void
shard_append(store_shard_t *s, store_entry_t *e, uint32_t *tail, size_t at,
    const uint8_t *from, size_t len)
{
    size_t          room, n;
    uint32_t        i;
    store_block_t  *b = store_blocks(s);

    while (len > 0) {
        room = at % STORE_DATA;
        if (room == 0) {
            i = s->free_block;
            s->free_block = b[i].next;
            s->n_free--;
            b[i].next = STORE_NONE;
            if (*tail == STORE_NONE) {
                e->block = i;
            } else {
                b[*tail].next = i;
            }
            *tail = i;
        }
        n = STORE_DATA - room < len ? STORE_DATA - room : len;
        memcpy(b[*tail].data + room, from, n);
        from += n;
        at += n;
        len -= n;
    }
}

void
store_write(store_shard_t *s, store_entry_t *e, const infer_store_put_t *p)
{
    uint32_t  tail = STORE_NONE;

    shard_append(s, e, &tail, 0, p->ident, p->ident_len);
    shard_append(s, e, &tail, p->ident_len, p->value, p->value_len);
    e->ident_len = (uint32_t) p->ident_len;
    e->value_len = (uint32_t) p->value_len;
}

int
store_ident_equal(const store_shard_t *s, const store_entry_t *e,
    const void *ident, size_t len)
{
    size_t               n;
    uint32_t             i = e->block;
    const uint8_t       *p = ident;
    const store_block_t *b = store_blocks(s);

    if (e->ident_len != len) {
        return 0;
    }
    for ( /* void */ ; len > 0; i = b[i].next, p += n, len -= n) {
        n = len < STORE_DATA ? len : STORE_DATA;
        if (memcmp(b[i].data, p, n) != 0) {
            return 0;
        }
    }
    return 1;
}

/* By libc: where the compiler knows a bound of len, it would take a string
 * instruction of the processor, which is slow to start. */
static void
shard_copy(uint8_t *to, const uint8_t *from, size_t len)
{
    __asm__ ("" : "+r" (len));
    memcpy(to, from, len);
}

void
store_read_value(const store_shard_t *s, const store_entry_t *e, uint8_t *to)
{
    size_t               at = e->ident_len, len = e->value_len, n;
    uint32_t             i = e->block;
    const store_block_t *b = store_blocks(s);

    for ( /* void */ ; at >= STORE_DATA; at -= STORE_DATA) {
        i = b[i].next;
    }
    for ( /* void */ ; len > 0; i = b[i].next, to += n, len -= n, at = 0) {
        n = STORE_DATA - at < len ? STORE_DATA - at : len;
        shard_copy(to, b[i].data + at, n);
    }
}
