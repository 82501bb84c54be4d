/*
 * store_int.h: what a shard looks like in memory; shared by store.c (the
 * doors), store_shard.c (blocks, buckets, entries), store_pin.c (values that
 * are read where they lie) and store_policy.c (who stays). Offsets and
 * indices only.
 */

#ifndef INFER_CACHE_STORE_INT_H
#define INFER_CACHE_STORE_INT_H

#include <string.h>

#include "cache/store.h"

#define STORE_MAGIC    0x34435249u        /* "IRC4" */
#define STORE_NONE     UINT32_MAX
#define STORE_TAGS     4096
#define STORE_MIN_BLOCKS  16             /* of a shard */
#define STORE_PINS     32                /* of a shard */
#define STORE_DATA     (INFER_STORE_BLOCK - sizeof(uint32_t))

/* Segments of the policy. */
enum {
    STORE_FREE = 0,
    STORE_WINDOW,
    STORE_PROBATION,
    STORE_PROTECTED,
    STORE_N_LISTS
};

typedef struct {
    uint32_t  newest, oldest;
    uint32_t  blocks;                     /* of its entries */
} store_list_t;

typedef struct {
    uint8_t   key[INFER_STORE_KEY];
    uint64_t  born_ms, fresh_ms, stale_ms;    /* points in time */
    uint64_t  epoch;
    uint32_t  mark[2], mark_epoch[2];     /* of tag and origin: index + 1;
                                           * 0: none */
    uint32_t  chain;                      /* next in the bucket */
    uint32_t  newer, older;               /* in its list; older also links
                                           * free entries */
    uint32_t  block;                      /* first, STORE_NONE: none */
    uint32_t  n_blocks;
    uint32_t  ident_len, value_len;
    uint32_t  list;
} store_entry_t;

typedef struct {
    uint32_t  next;
    uint8_t   data[STORE_DATA];
} store_block_t;

typedef struct {
    uint8_t               key[INFER_STORE_KEY];
    infer_store_flight_t  f;
    uint32_t              used;
} store_flight_t;

/* So many readers of one process for one chain. count belongs to the owner,
 * who raises it under the lock and lowers it without; release, pairs with
 * the acquire in store_pin_count(). All else is written under the lock. An
 * orphan is a chain whose entry has gone: it is freed when no pin of it has
 * a count, and until then the pin is taken. One pin of a chain says so. */
typedef struct {
    uint32_t          owner;
    _Atomic uint32_t  count;
    uint32_t          block;              /* the chain's first */
    uint16_t          orphan;
    uint16_t          reserved;
    uint32_t          n_blocks;
} store_pin_t;

_Static_assert(sizeof(store_block_t) == INFER_STORE_BLOCK, "store block");

/* lock: CAS 0 -> owner (acquire; pairs with the release in
 * store_unlock()). Everything else is written under the lock; counters are
 * read without it. */
typedef struct {
    _Atomic uint32_t  lock;
    _Atomic uint32_t  dirty;
    uint32_t          n_entries, n_blocks, n_buckets, n_words;
    uint32_t          free_entry, free_block, n_free;
    uint32_t          next_flight, flights;   /* known ones */
    uint32_t          used;               /* blocks, those promised to the
                                           * entry being put included */
    uint32_t          additions;          /* to the sketch since it halved */
    uint32_t          orphans;            /* pins that say so */
    uint32_t          period_asked, period_hits, period_lost;
    double            average, average_lost;  /* of requests in periods: hits,
                                           * known keys that left */
    store_list_t      list[STORE_N_LISTS];
    _Atomic uint64_t  hits, misses, stale, inserts, updates, evictions,
                      rejects, expired, collisions, wiped, entries;
    _Atomic uint64_t  locked;
    _Atomic uint64_t  busy;               /* any process, relaxed adds */
    uint8_t           pad[64];
} store_shard_t;

struct infer_store_head_s {
    uint32_t          magic;
    uint32_t          n_shards;
    uint64_t          bytes;
    uint64_t          shard_bytes;
    _Atomic uint64_t  epoch;
    _Atomic uint32_t  tag[STORE_TAGS];
};

/* ---- where things are ---- */

static inline store_shard_t *
store_shard(const infer_store_head_t *h, const uint8_t *key)
{
    uint32_t  bits;

    memcpy(&bits, key, sizeof(bits));
    return (store_shard_t *) ((uint8_t *) h + sizeof(*h)
                              + bits % h->n_shards * h->shard_bytes);
}

static inline uint64_t *
store_sketch(const store_shard_t *s)
{
    return (uint64_t *) (s + 1);
}

static inline uint32_t *
store_buckets(const store_shard_t *s)
{
    return (uint32_t *) (store_sketch(s) + s->n_words);
}

static inline store_entry_t *
store_entries(const store_shard_t *s)
{
    return (store_entry_t *) (store_buckets(s) + s->n_buckets);
}

static inline store_flight_t *
store_flights(const store_shard_t *s)
{
    return (store_flight_t *) (store_entries(s) + s->n_entries);
}

static inline store_pin_t *
store_pins(const store_shard_t *s)
{
    return (store_pin_t *) (store_flights(s) + INFER_STORE_FLIGHTS);
}

static inline store_block_t *
store_blocks(const store_shard_t *s)
{
    return (store_block_t *) (store_pins(s) + STORE_PINS);
}

static inline void
store_count(_Atomic uint64_t *n)
{
    atomic_store_explicit(n, atomic_load_explicit(n, memory_order_relaxed)
                          + 1, memory_order_relaxed);
}

/* ---- store_shard.c ---- */

/* Bytes of a shard of so many blocks. */
size_t store_shard_bytes(uint32_t n_blocks);
void store_shard_make(store_shard_t *s, uint32_t n_blocks);
/* Empties it, but for chains that have readers. */
void store_shard_format(store_shard_t *s);
uint32_t store_find(const store_shard_t *s, const uint8_t *key);
/* A free entry in its bucket, in no list; there is always one. */
uint32_t store_entry_new(store_shard_t *s, const uint8_t *key);
/* Out of bucket and list; its blocks are given back and not `used` any more,
 * now or after the last reader. */
void store_entry_free(store_shard_t *s, uint32_t i);
/* A chain becomes free blocks; returns how many. */
uint32_t store_give_back(store_shard_t *s, uint32_t first);
/* ident and value into blocks taken from the free ones, which suffice. */
void store_write(store_shard_t *s, store_entry_t *e,
    const infer_store_put_t *p);
/* 1: the chain holds these bytes at its start. */
int store_ident_equal(const store_shard_t *s, const store_entry_t *e,
    const void *ident, size_t len);
void store_read_value(const store_shard_t *s, const store_entry_t *e,
    uint8_t *to);

/* ---- store_pin.c ---- */

/* One more reader; NULL: none is to be had, the value must be copied. */
_Atomic uint32_t *store_pin(store_shard_t *s, const store_entry_t *e,
    uint32_t owner);
/* 1: the chain has readers, and is an orphan from now on. */
int store_pin_orphan(store_shard_t *s, uint32_t block);
/* Frees orphans without readers. */
void store_pin_collect(store_shard_t *s);
/* No readers of the dead any more. */
void store_pin_bury(store_shard_t *s,
    int (*alive)(void *arg, uint32_t owner), void *arg);
/* Of a shard that is being formatted: marks the blocks of chains with readers
 * by list != STORE_FREE in the entry of the same index, all of which are free,
 * and makes them orphans. Returns how many. */
uint32_t store_pin_keep(store_shard_t *s);
uint32_t store_pin_readers(const store_shard_t *s);

/* ---- store_policy.c ---- */

void store_list_add(store_shard_t *s, uint32_t list, uint32_t i);
void store_list_remove(store_shard_t *s, uint32_t i);
/* How often key was asked for lately, 0..255; the same after one more. */
uint32_t store_frequency(const store_shard_t *s, const uint8_t *key);
uint32_t store_asked(store_shard_t *s, const uint8_t *key);
/* A request ended with a hit or without. */
void store_outcome(store_shard_t *s, int hit);
/* Entry i was hit. */
void store_touch(store_shard_t *s, uint32_t i);
/* Entry i, new, with n_blocks set and none taken, enters; others leave until
 * all fit. 0: i itself was turned away, and is freed. */
int store_admit(store_shard_t *s, uint32_t i);

#endif
