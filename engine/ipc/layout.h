/*
 * layout.h: what lies in the bus, the one piece of memory that nginx's
 * workers and the engine share. A sealed memfd, mapped by all:
 *
 *   0        header              infer_bus_header_t, one page
 *   entry_off  entries[256]      infer_entry_t, one per worker process
 *   model_off  models[n_models]  infer_bus_model_t
 *   slot_off   slots[n_slots]    infer_slot_t, one generation each
 *   ring_off   log ring[256]     infer_log_rec_t, engine -> error log
 *   stats_off  statistics        infer_bus_stats_t
 *   owner_off  owner[n_blocks]   who holds an arena block
 *   next_off   next[n_blocks]    chain of blocks, by index
 *   arena_off  arena             n_blocks of 4 KiB
 *
 * Fixed-width integers, offsets and indices only. One writer per field; the
 * comment behind a field names it: M the master before anybody else maps
 * the bus, W the worker that holds the entry or has claimed the slot, E the
 * engine, * anybody, atomically. Either side may die at any instruction; no
 * lock is held across processes. Liveness is a byte lock on the memfd: byte
 * 0 the engine, byte 1 + k entry k. Recovery is a sweep by the engine.
 *
 * Slot states, in the low byte of infer_slot_t.state:
 *
 *   FREE --W--> CLAIMED --W--> SUBMITTED --E--> RUNNING --E--> DONE
 *     ^            |                |              |             |
 *     +-----W------+                +------E-------+----> CLOSING -E-> FREE
 *
 * Each step back to FREE adds one to the generation, which begins at a number
 * that is random for each bus. A slot whose reader bits are all clear is
 * cancelled; the engine takes it through CLOSING.
 */

#ifndef INFER_IPC_LAYOUT_H
#define INFER_IPC_LAYOUT_H

#include <stdatomic.h>

#include "infer.h"

#define INFER_BUS_MAGIC      0x3153554252464e49ull  /* "INFRBUS1" */
#define INFER_BUS_VERSION    2
#define INFER_MAX_ENTRIES    256
#define INFER_MAX_SLOTS      1024
#define INFER_MAX_MODELS     16
#define INFER_MAX_STEP_US    10000000
#define INFER_BLOCK_BYTES    4096
#define INFER_NO_BLOCK       UINT32_MAX
#define INFER_NO_SLOT        UINT32_MAX
#define INFER_RING_RECORDS   256
#define INFER_BITMAP_WORDS   (INFER_MAX_SLOTS / 64)

/* Engine states, in infer_bus_header_t.engine_state. */
enum {
    INFER_ENGINE_NONE = 0,       /* never started, or died */
    INFER_ENGINE_LOADING,
    INFER_ENGINE_READY,
    INFER_ENGINE_DRAINING,       /* bus retired, finishing what runs */
    INFER_ENGINE_FAILED          /* could not load: see the error log */
};

typedef struct {
    uint64_t          magic;             /* M */
    uint32_t          version;           /* M */
    uint32_t          header_bytes;      /* M sizeof(infer_bus_header_t) */
    uint64_t          total_bytes;       /* M */
    uint32_t          n_slots;           /* M */
    uint32_t          n_blocks;          /* M */
    uint32_t          n_models;          /* M */
    uint32_t          threads;           /* M engine's, 0: all cpus */
    int32_t           nice;              /* M */
    uint32_t          n_cpus;            /* M */
    uint64_t          entry_off, model_off, slot_off, ring_off, stats_off;
    uint64_t          owner_off, next_off, arena_off;   /* M */
    char              build_id[64];      /* M both sides must be of one build */
    char              isa[16];           /* M "auto", "ref", "avx2", ... */
    uint16_t          cpus[128];         /* M [n_cpus] pinned threads */
    uint8_t           hash_key[16];      /* M random: of scopes and pages */
    uint8_t           pad0[488];

    /* engine -> workers */
    _Alignas(64)
    _Atomic uint32_t  engine_state;      /* E */
    _Atomic uint32_t  engine_pid;        /* E for logs only */
    _Atomic uint32_t  engine_starts;     /* E + 1 at each start */
    _Atomic uint32_t  load_percent;      /* E 0..100 */
    _Atomic uint64_t  heartbeat_us;      /* E CLOCK_MONOTONIC, each step */
    _Atomic uint64_t  steps;             /* E */
    _Atomic uint32_t  numerics;          /* E of the engine that runs now */
    _Atomic uint32_t  tokens_per_s;      /* E recent output rate, all models */
    char              error[320];        /* E why it FAILED: written before
                                          * the state, release */

    /* anybody */
    _Alignas(64)
    _Atomic uint64_t  ticket;            /* * fetch_add: order of submission */
    _Alignas(64)
    _Atomic uint32_t  retired;           /* M at reload, when another bus took
                                          * over: drain, then end */
    _Atomic uint32_t  spawn_lock_us;     /* reserved */
    _Atomic uint64_t  last_spawn_us;     /* * CAS by the worker that spawns */
    _Atomic uint32_t  spawn_failures;    /* * consecutive; E clears at READY */

    /* the log ring's indices */
    _Alignas(64)
    _Atomic uint64_t  ring_head;         /* E published, release */
    _Atomic uint64_t  ring_dropped;      /* E */
    _Alignas(64)
    _Atomic uint64_t  ring_tail;         /* * CAS by the worker that took one */
} infer_bus_header_t;

_Static_assert(sizeof(infer_bus_header_t) <= 4096, "header fits a page");


enum { INFER_ENTRY_FREE = 0, INFER_ENTRY_USED = 1 };

typedef struct {
    _Alignas(64)
    _Atomic uint32_t  state;             /* W free -> used by CAS, holding the
                                          * byte lock; E used -> free */
    _Atomic uint32_t  pid;               /* W for logs only */
    _Atomic uint32_t  leaving;           /* W 1: exits gracefully */
    /* Slots that the engine should look at: W sets a slot's bit after
     * SUBMITTED, after dropping a reader bit or when it leaves (release); E
     * clears, then reads. A bit is a hint: the slot may be in any state. */
    _Alignas(64)
    _Atomic uint64_t  submitted[INFER_BITMAP_WORDS];
    /* E sets after publishing (release); W clears (acquire), then reads */
    _Alignas(64)
    _Atomic uint64_t  news[INFER_BITMAP_WORDS];
} infer_entry_t;

_Static_assert(sizeof(infer_entry_t) == 64 + 128 + 128, "infer_entry_t");


typedef struct {
    char              name[64];          /* M */
    char              device[16];        /* M "cpu", "cuda:N" */
    uint32_t          context;           /* M tokens of one sequence */
    uint32_t          sequences;         /* M running together */
    uint32_t          batch_tokens;      /* M rows of one step */
    uint32_t          step_us;           /* M time of one step; 0: default */
    uint32_t          n_pages;           /* M KV pages */
    uint32_t          kv_type;           /* M KERN_KV_* */
    uint32_t          vocab;             /* M */
    uint64_t          tensor_bytes;      /* M */
    uint64_t          n_params;          /* M */
    uint32_t          train_context;     /* M */
    uint32_t          page_tokens;       /* M */
    uint32_t          precision;         /* M KERN_PREC_*, of devices */
    uint32_t          gpu_permille;      /* M of free memory; 0: default */
    uint64_t          gpu_bytes;         /* M 0: gpu_permille says it */

    _Alignas(64)
    _Atomic uint32_t  loaded;            /* E */
    _Atomic uint32_t  running;           /* E sequences in the batch */
    _Atomic uint32_t  waiting;           /* E taken, not in the batch */
    _Atomic uint32_t  pages_used;        /* E */
    _Atomic uint32_t  pages_peak;        /* E ever in use */
    _Atomic uint32_t  preemptions;       /* E */
    _Atomic uint64_t  queued_tokens;     /* E prompt tokens not yet prefilled */
    _Atomic uint32_t  pages_cached;      /* E not used, content known */
    _Atomic uint32_t  pages_total;       /* E that there are, <= n_pages */
    /* E its device once a second; negative: not known */
    _Atomic int32_t   device_known;      /* 1: the rest was written */
    _Atomic int32_t   device_celsius;
    _Atomic int32_t   device_percent;
    _Atomic int32_t   device_mw;
    _Atomic int64_t   device_used;       /* bytes */
    _Atomic int64_t   device_total;
    /* E hash of the file's bytes, once it is known: kept as long as the bus
     * (run/content.c) */
    _Atomic uint32_t  content_known;     /* 1: release, after content */
    uint8_t           content[16];
} infer_bus_model_t;


enum {
    INFER_SLOT_FREE = 0,
    INFER_SLOT_CLAIMED,
    INFER_SLOT_SUBMITTED,
    INFER_SLOT_RUNNING,      /* waiting after a preemption is RUNNING too */
    INFER_SLOT_DONE,
    INFER_SLOT_CLOSING
};

/* The state word: generation << 16 | entry << 8 | state. The entry is there
 * in CLAIMED only, so that one exchange says who claimed; else 0. */
#define infer_slot_state(w)       ((uint32_t) ((w) & 0xff))
#define infer_slot_claimer(w)     ((uint32_t) ((w) >> 8) & 0xff)
#define infer_slot_generation(w)  ((uint64_t) ((w) >> 16))
#define infer_slot_word(gen, st)  (((uint64_t) (gen) << 16) | (st))

/* Typed extents: chains of arena blocks, first block and bytes. One that
 * fits behind the prompt, in the last block of that, has no block of its own:
 * its ext_offset, else 0, says where it begins. */
enum {
    INFER_EXT_PROMPT = 0,    /* int32_t ids */
    INFER_EXT_STOPS,         /* per string: uint16_t length, bytes */
    INFER_EXT_STOP_IDS,      /* int32_t ids */
    INFER_EXT_BIAS,          /* infer_bias_t pairs */
    INFER_EXT_LOG,           /* output records */
    INFER_EXT_RESERVED0,     /* grammar, images later */
    INFER_EXT_RESERVED1,
    INFER_N_EXTENTS = 8
};

typedef struct {
    uint32_t  first;                     /* block index or INFER_NO_BLOCK */
    uint32_t  bytes;
} infer_extent_t;

/* Flags of an output record. */
#define INFER_REC_END     1u    /* the last record of the generation */
#define INFER_REC_HIDDEN  2u    /* ending token: shows nothing */
#define INFER_REC_STOP    4u    /* a stop string matched here */

/* One record of the output log; stride 16 + 8 * top_logprobs, followed by
 * that many infer_bias_t-like (id, logprob) pairs. No record crosses a
 * block: a block holds INFER_BLOCK_BYTES / stride records. */
typedef struct {
    int32_t   id;
    uint32_t  flags;
    float     logprob;
    uint32_t  visible;                   /* bytes of text visible after it */
} infer_record_t;

_Static_assert(sizeof(infer_record_t) == 16, "infer_record_t");

typedef struct {
    _Alignas(64)
    _Atomic uint64_t  state;             /* infer_slot_word(), see top */
    _Atomic uint32_t  cancel;            /* * 1: stop, whoever reads */
    uint32_t          reserved0;
    _Alignas(64)
    _Atomic uint64_t  readers[INFER_MAX_ENTRIES / 64];  /* * or / and */
    /* What its readers ask for: W in CLAIMED, then * infer_slot_raise(). The
     * deadlines are CLOCK_MONOTONIC, 0: none. */
    _Atomic uint64_t  queue_deadline_us;
    _Atomic uint64_t  first_deadline_us;
    _Atomic uint64_t  total_deadline_us;
    _Atomic int32_t   priority;          /* higher is earlier */
    uint32_t          reserved3;

    /* W, between CLAIMED and SUBMITTED; constant afterwards */
    _Alignas(64)
    uint32_t          entry;             /* that submitted it */
    uint32_t          model;
    uint64_t          ticket;            /* order of arrival */
    uint64_t          submit_us;         /* CLOCK_MONOTONIC */
    uint64_t          linger_us;         /* reserved */
    uint32_t          choice;            /* prompt index * n + choice */
    uint32_t          group;             /* slot index of choice 0 */
    uint32_t          n_prompt;          /* tokens */
    uint32_t          n_stops;
    uint32_t          n_stop_ids;
    uint32_t          n_bias;
    uint32_t          stride;            /* of the log's records */
    uint32_t          max_records;       /* log room, >= max_tokens */
    uint32_t          next;              /* slot of the group's next choice;
                                          * INFER_NO_SLOT: the last */
    infer_sampling_t  sampling;
    infer_extent_t    ext[INFER_N_EXTENTS];
    uint8_t           scope[16];         /* whose prefixes it may share: hash
                                          * of the tenant under hash_key */
    uint16_t          ext_offset[INFER_N_EXTENTS];
    uint64_t          next_generation;   /* of next */
    uint8_t           reserved2[88];     /* cache key, join, resume */

    /* E */
    _Alignas(64)
    _Atomic uint32_t  n_records;         /* release; pairs with acquire in
                                          * infer_log_count() */
    _Atomic uint32_t  finish;            /* INFER_FINISH_*, before DONE */
    _Atomic uint32_t  deaths;            /* engines that died with it */
    _Atomic uint32_t  in_batch;          /* 1 while a step runs with it */
    _Atomic uint64_t  start_us;          /* first taken into a batch */
    _Atomic uint64_t  first_us;          /* first token published */
    _Atomic uint64_t  done_us;
    _Atomic uint32_t  cached_tokens;
    _Atomic uint32_t  preempted;         /* times */
    char              error[96];         /* before DONE, finish ERROR */
} infer_slot_t;

_Static_assert(sizeof(infer_slot_t) % 64 == 0, "slots on cache lines");


typedef struct {
    uint32_t  level;                     /* E as nginx's: 1 emerg .. 8 debug */
    uint32_t  len;
    char      text[1016];
} infer_log_rec_t;

_Static_assert(sizeof(infer_log_rec_t) == 1024, "infer_log_rec_t");


#define INFER_HIST_BUCKETS  16

/* Prometheus histogram: counts per bucket (not cumulative), sum in us. The
 * bounds are infer_hist_bounds_us[] (ipc/bus.h); the last is +Inf. */
typedef struct {
    _Atomic uint64_t  bucket[INFER_HIST_BUCKETS];
    _Atomic uint64_t  sum_us;
    _Atomic uint64_t  count;
} infer_hist_t;

typedef struct {
    /* E */
    _Alignas(64)
    _Atomic uint64_t  prompt_tokens;
    _Atomic uint64_t  output_tokens;
    _Atomic uint64_t  finished[8];       /* by INFER_FINISH_* */
    infer_hist_t      ttft, itl, e2e, queue;
    _Atomic uint64_t  rows;              /* tokens run through a model */
    _Atomic uint64_t  prefix_queries;    /* prompt tokens looked for in pages */
    _Atomic uint64_t  prefix_hits;       /* and found */
    /* *: workers, fetch_add */
    _Alignas(64)
    _Atomic uint64_t  requests;          /* that reached the handler */
    _Atomic uint64_t  rejected_429;
    _Atomic uint64_t  rejected_503;
    _Atomic uint64_t  client_gone;
    _Atomic uint64_t  stale_messages;
} infer_bus_stats_t;

#endif
