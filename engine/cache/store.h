/*
 * store.h: L1 of the response cache: finished answers in shared memory, found
 * by a keyed hash of what makes them what they are. Plain C on a piece of
 * memory that every process maps anywhere; no pointer in it.
 *
 *   header | tags[4096] | shard 0 | shard 1 | ...
 *   shard: lock, lists, counters | sketch | buckets | entries | flights
 *          | pins | blocks of 2 KiB
 *
 * A key's first bits choose its shard. A shard has one lock, which is tried
 * and never waited for: busy is a miss. The lock word names its owner and a
 * flag says that lists are being changed: a shard whose owner died in a
 * change is wiped by the next infer_store_recover(), one that died otherwise
 * is just unlocked.
 *
 * Values are copied in and out under the lock, or are read where they lie: a
 * pin counts the readers that one process has of one chain of blocks. Who
 * evicts, replaces or wipes leaves such a chain alone, and it is freed after
 * its last reader. Pinned chains may take half of a shard; then, and when all
 * pins are taken, values are copied, so slow readers cost others nothing
 * else. A dead process' pins are taken back by infer_store_recover().
 *
 * What stays: W-TinyLFU (Einziger, Friedman, Manes: "TinyLFU: a highly
 * efficient cache admission policy", ACM TOS 13/4, 2017). New entries enter
 * a small window; what leaves it must have been asked for more often, by a
 * sketch of 8-bit counters that halves itself, than the oldest entry on
 * probation. An entry hit on probation is protected (80 % of the main part,
 * segmented LRU). When hits of known keys get rare of a sudden, the sketch is
 * emptied and nobody is protected. Everything is counted in blocks.
 *
 * A purge costs nothing: an entry remembers the epochs of its tag, of its
 * origin (the key of what it was made from, or its own) and of the store, and
 * is a miss when one has moved on. Tags and origins share 4,096 epochs by
 * their hash, so a purge may hit another one too, never miss its own.
 */

#ifndef INFER_CACHE_STORE_H
#define INFER_CACHE_STORE_H

#include <stdatomic.h>

#include "infer.h"

#define INFER_STORE_KEY     16      /* bytes; the caller's keyed hash */
#define INFER_STORE_BLOCK   2048
#define INFER_STORE_SHARDS  256     /* at most */
#define INFER_STORE_FLIGHTS 64      /* running generations a shard knows */

typedef struct infer_store_head_s  infer_store_head_t;   /* the memory */

/* A process' view. */
typedef struct {
    infer_store_head_t  *head;
    uint32_t             owner;     /* >= 1, no other process ever has it */
} infer_store_t;

typedef struct {
    uint64_t  hits, misses, stale, busy, tries;
    uint64_t  inserts, updates, evictions, rejects, expired, collisions;
    uint64_t  wiped;                /* shards, after a death */
    uint64_t  entries, bytes;       /* now; bytes of blocks in use */
    uint64_t  capacity;             /* bytes of all blocks */
    uint64_t  refs;                 /* readers of values in place, now */
} infer_store_stats_t;

/* What purges have moved on to: of the store, of a tag and of an origin. */
typedef struct {
    uint64_t  epoch;
    uint32_t  mark_epoch[2];
} infer_store_epochs_t;

/* A generation that runs for a key, so that others can read along; what it
 * makes is purged with what was there when it began. */
typedef struct {
    uint64_t              generation;
    uint32_t              slot;
    uint32_t              reserved;
    infer_store_epochs_t  epochs;
} infer_store_flight_t;

/* What is stored under a key. ident is compared byte by byte on a hit: equal
 * hashes of different requests are a miss. */
typedef struct {
    const void  *ident;
    size_t       ident_len;
    const void  *value;
    size_t       value_len;
    uint64_t     now_ms;            /* any clock, the same everywhere */
    uint64_t     fresh_ms;          /* from now on a plain hit */
    uint64_t     stale_ms;          /* then, for so long, only stale */
    uint64_t     tag;               /* hash of the tag; 0: none */
    uint64_t     origin;            /* purged like a tag; 0: none */
    /* as they were for this tag and origin before the value was made; NULL:
     * as they are */
    const infer_store_epochs_t
                *epochs;
    /* the flight that made it, which lands with this, put or turned away;
     * NULL: none. One that has landed already puts nothing */
    const infer_store_flight_t
                *flight;
} infer_store_put_t;

/* A value that stays where it is while it is read; good in the process that
 * got it, until released. */
typedef struct {
    _Atomic uint32_t  *count;
    const void        *blocks;
    uint32_t           block;       /* that is read next, from at on */
    size_t             at, left;
} infer_store_ref_t;

typedef struct {
    const void  *ident;
    size_t       ident_len;
    uint64_t     now_ms;
    /* not NULL: fresh values of so many bytes may stay where they are: then
     * value is NULL and *ref is to be released */
    infer_store_ref_t
                *ref;
    size_t       ref_min;
    /* memory for the value, called under the lock: must be quick; NULL
     * leaves it, and the get ends with NOMEM */
    void       *(*alloc)(void *arg, size_t len);
    void        *alloc_arg;

    /* out */
    void        *value;
    size_t       value_len;
    uint64_t     age_ms;
    uint64_t     left_ms;           /* of being fresh; 0 when stale */
    uint32_t     stale;
    uint32_t     frequency;         /* 0..255, of late */
} infer_store_get_t;

/* Bytes of a store whose shards have so many blocks each, 16 at least. */
size_t infer_store_bytes(uint32_t n_shards, uint32_t n_blocks);
/* Formats the memory, 64-aligned: INVALID when it is too small. */
int infer_store_init(void *mem, size_t bytes, uint32_t n_shards);
/* A view of formatted memory; CORRUPT when it is not ours or of another
 * size. */
int infer_store_attach(infer_store_t *s, void *mem, size_t bytes,
    uint32_t owner);

/* OK: the value is in g (stale says how). AGAIN: nothing there. BUSY: the
 * shard is locked. NOMEM: alloc gave nothing. */
int infer_store_get(infer_store_t *s, const uint8_t *key,
    infer_store_get_t *g);
/* The next piece of a value, most bytes at most; 0: that was all. It may be
 * read until the release, which needs no lock; both only by the thread that
 * calls infer_store_get(). */
size_t infer_store_piece(infer_store_ref_t *r, size_t most,
    const uint8_t **p);
void infer_store_release(infer_store_ref_t *r);
/* OK: stored. BUSY: locked. INVALID: larger than an eighth of a shard.
 * AGAIN: not admitted, others are asked for more often; or purged while it
 * was made. CANCELLED: its flight has landed before. */
int infer_store_put(infer_store_t *s, const uint8_t *key,
    const infer_store_put_t *p);
/* OK or AGAIN when it was not there; BUSY. */
int infer_store_remove(infer_store_t *s, const uint8_t *key);

/* Taken before something is made that is going to be put, of other entries
 * or not, so that a purge that comes meanwhile meets it. 0: none. */
void infer_store_epochs(const infer_store_t *s, uint64_t tag, uint64_t origin,
    infer_store_epochs_t *e);
/* What was put with this tag or origin. */
void infer_store_purge_tag(infer_store_t *s, uint64_t tag);
void infer_store_purge_all(infer_store_t *s);

/* Flights: the caller checks that slot and generation still run. OK, AGAIN
 * (none known), BUSY; a full table forgets its oldest. */
int infer_store_flight(infer_store_t *s, const uint8_t *key,
    infer_store_flight_t *f);
int infer_store_takeoff(infer_store_t *s, const uint8_t *key,
    infer_store_flight_t f);
/* Takes off, unless there is a flight already: AGAIN, and it is in *theirs; or
 * a fresh value: CANCELLED, and it is in g, as infer_store_get() leaves it.
 * So what lands by a put is made once. g NULL: values do not count. */
int infer_store_board(infer_store_t *s, const uint8_t *key,
    infer_store_flight_t mine, infer_store_flight_t *theirs,
    infer_store_get_t *g);
int infer_store_land(infer_store_t *s, const uint8_t *key,
    infer_store_flight_t f);

/* Unlocks what the dead left locked, wiping what they left half-changed, and
 * takes back their pins. alive(arg, owner) says who lives. Any process, now
 * and then. Returns shards wiped. */
uint32_t infer_store_recover(infer_store_t *s,
    int (*alive)(void *arg, uint32_t owner), void *arg);

/* Sums over shards; counters may be a moment old. */
void infer_store_stats(const infer_store_t *s, infer_store_stats_t *st);

#endif
