/*
 * bus.h: making, mapping and using the bus of layout.h. "Worker" functions
 * are for nginx's processes, "engine" functions for the engine's loop
 * thread, "any" for both.
 */

#ifndef INFER_IPC_BUS_H
#define INFER_IPC_BUS_H

#include "ipc/layout.h"

/* A process's view of a bus: pointers into its own mapping. */
typedef struct {
    int                  fd;             /* the memfd; never closed while a
                                          * byte lock is held */
    size_t               bytes;
    infer_bus_header_t  *hdr;
    infer_entry_t       *entry;
    infer_bus_model_t   *model;
    infer_slot_t        *slot;
    infer_log_rec_t     *ring;
    infer_bus_stats_t   *stats;
    _Atomic uint64_t    *owner;
    uint32_t            *next;
    uint8_t             *arena;
    /* copied and checked when the bus was mapped; never read again from it */
    uint32_t             n_slots, n_blocks, n_models;
} infer_bus_t;

typedef struct {
    uint64_t                  bytes;     /* whole zone, rounded down to 4 KiB */
    uint32_t                  n_slots;   /* 1..INFER_MAX_SLOTS */
    uint32_t                  n_models;
    const infer_bus_model_t  *models;    /* M fields are copied */
    uint32_t                  threads;
    int32_t                   nice;
    const uint16_t           *cpus;
    uint32_t                  n_cpus;
    const char               *isa;
} infer_bus_conf_t;

/* The build both sides must share; a function of the sources. */
const char *infer_build_id(void);

/* Bytes that one generation with this many prompt and output tokens takes
 * of the arena, and the least zone for `sequences` of them. Any. */
uint64_t infer_bus_reservation(uint32_t n_prompt, uint32_t max_tokens,
    uint32_t top_logprobs);
uint64_t infer_bus_least(uint32_t n_slots, uint32_t sequences,
    uint32_t max_tokens);

/* Master: makes a sealed, close-on-exec memfd and maps it. */
int infer_bus_create(infer_bus_t *bus, const infer_bus_conf_t *conf,
    infer_err_t *err);
/* Engine: maps fd and checks every size and offset before use. */
int infer_bus_attach(infer_bus_t *bus, int fd, infer_err_t *err);
/* Unmaps; closes the descriptor when close_fd. */
void infer_bus_unmap(infer_bus_t *bus, int close_fd);

uint64_t infer_now_us(void);             /* CLOCK_MONOTONIC */

/* Liveness: bytes of a file, the bus's or another, that are locked while
 * their process lives and has closed no descriptor of it. take: INFER_OK, or
 * INFER_BUSY when another process has it. alive: 1 when some other process
 * holds the byte. */
int infer_lock_take(int fd, uint32_t byte);
void infer_lock_drop(int fd, uint32_t byte);
int infer_lock_alive(int fd, uint32_t byte);
#define INFER_LOCK_ENGINE    0
#define INFER_LOCK_ENTRY(k)  (1 + (k))

/* ---- worker ---- */

/* Takes a free entry and its byte lock. BUSY when all are in use. */
int infer_entry_claim(infer_bus_t *bus, uint32_t *entry);
/* Gives back an entry that has done nothing yet. */
void infer_entry_return(infer_bus_t *bus, uint32_t entry);
/* A worker that leaves: its unfinished slots lose their reader. The entry
 * itself is freed by the engine's sweep once the lock is gone. */
void infer_entry_leave(infer_bus_t *bus, uint32_t entry);

typedef struct {
    uint32_t  slot;
    uint64_t  generation;
} infer_ref_t;

/* FREE -> CLAIMED, with this entry as reader. BUSY when none is free. */
int infer_slot_claim(infer_bus_t *bus, uint32_t entry, infer_ref_t *ref);
/* In CLAIMED: copies data into a chain of blocks. BUSY when the arena has
 * no room (the slot stays claimed). len 0 is an empty extent. */
int infer_slot_put(infer_bus_t *bus, infer_ref_t ref, uint32_t kind,
    const void *data, size_t len);
/* In CLAIMED, after sampling.top_logprobs is set: room for exactly
 * n_records; sets stride and max_records. */
int infer_slot_reserve_log(infer_bus_t *bus, infer_ref_t ref,
    uint32_t n_records);
/* In CLAIMED: next is the choice of the group behind ref. */
void infer_slot_chain(infer_bus_t *bus, infer_ref_t ref, infer_ref_t next);
/* The choice behind ref, of which the caller is a reader; its slot is
 * INFER_NO_SLOT behind the last. It may be gone, and is joined in its turn. */
infer_ref_t infer_slot_next(const infer_bus_t *bus, infer_ref_t ref);
/* CLAIMED -> FREE: blocks go back. */
void infer_slot_abandon(infer_bus_t *bus, infer_ref_t ref);
/* CLAIMED -> SUBMITTED; draws the ticket; sets the entry's bit. The caller
 * then writes the engine's eventfd (once for several slots). */
void infer_slot_submit(infer_bus_t *bus, uint32_t entry, infer_ref_t ref);
/* Drops this entry's reader bit. The engine frees the slot (cancels it
 * first when it still runs): the caller writes the engine's eventfd. A stale
 * ref does nothing. */
void infer_slot_release(infer_bus_t *bus, uint32_t entry, infer_ref_t ref);
/* This entry reads a generation that another request started, from its first
 * record on; its news bit is set, and the caller writes its own eventfd.
 * AGAIN: it is gone. An entry that reads it already may join again, and
 * releases once. */
int infer_slot_join(infer_bus_t *bus, uint32_t entry, infer_ref_t ref);
/* What a reader asks of a generation. */
typedef struct {
    uint64_t  queue_deadline_us, first_deadline_us, total_deadline_us;
    int32_t   priority;
} infer_terms_t;
/* A reader of a generation brings its own terms: the highest priority and the
 * latest deadlines of all readers count, 0 (none) being the latest. 1: they
 * have changed, and the caller writes the engine's eventfd. */
int infer_slot_raise(infer_bus_t *bus, uint32_t entry, infer_ref_t ref,
    const infer_terms_t *t);
/* Takes the news bitmap: bits[] gets the slots that have news. Returns their
 * number. */
uint32_t infer_entry_news(infer_bus_t *bus, uint32_t entry,
    uint64_t bits[INFER_BITMAP_WORDS]);
/* 1 while ref names a living generation. */
int infer_slot_valid(const infer_bus_t *bus, infer_ref_t ref);
/* State now (INFER_SLOT_*), or FREE for a stale ref. */
uint32_t infer_slot_status(const infer_bus_t *bus, infer_ref_t ref);

/* Load of the bus for admission: slots of a model that wait (SUBMITTED, or
 * RUNNING without start_us) and their prompt tokens; free slots and blocks
 * over all models. Any. A scan without locks: a snapshot. */
typedef struct {
    uint32_t  waiting, running, free_slots, free_blocks;
    uint64_t  waiting_tokens;
} infer_bus_load_t;
void infer_bus_load(const infer_bus_t *bus, uint32_t model,
    infer_bus_load_t *load);

/* ---- reading a log; any ---- */

/* Published records (acquire). Read the state first, then this: after DONE
 * nothing is added. */
uint32_t infer_log_count(const infer_bus_t *bus, infer_ref_t ref);
/* Copies record i and its top pairs (at most n_top). cursor caches the block
 * of the last read and starts as {0}; records are read ascending. CORRUPT
 * when the chain is damaged. */
typedef struct {
    uint32_t  block, block_no;
    uint32_t  valid;
} infer_cursor_t;
int infer_log_read(const infer_bus_t *bus, infer_ref_t ref,
    infer_cursor_t *cur, uint32_t i, infer_record_t *rec, infer_top_t *top,
    uint32_t n_top);

/* ---- engine ---- */

/* Clears and returns the submitted bits of all entries, as one bitmap. */
uint32_t infer_bus_submitted(infer_bus_t *bus,
    uint64_t bits[INFER_BITMAP_WORDS]);
/* Copies an extent out, at most cap bytes; CORRUPT when the slot's extent is
 * damaged or longer than cap. *len is what was copied. */
int infer_slot_get(const infer_bus_t *bus, infer_ref_t ref, uint32_t kind,
    void *dst, size_t cap, size_t *len);
/* SUBMITTED -> RUNNING etc. 1 when the exchange happened. */
int infer_slot_advance(infer_bus_t *bus, infer_ref_t ref, uint32_t from,
    uint32_t to);
/* No reader bit is set, or cancel is. */
int infer_slot_cancelled(const infer_bus_t *bus, infer_ref_t ref);
/* Appends one record (E); BUSY when the log is full. Does not wake. */
int infer_log_append(infer_bus_t *bus, infer_ref_t ref, infer_cursor_t *cur,
    const infer_record_t *rec, const infer_top_t *top);
/* -> DONE with finish (and an error sentence or NULL). */
void infer_slot_finish(infer_bus_t *bus, infer_ref_t ref, uint32_t finish,
    const char *error);
/* Any state but FREE -> CLOSING -> FREE, generation + 1, blocks freed; a DONE
 * one that somebody has joined meanwhile stays. */
void infer_slot_free(infer_bus_t *bus, uint32_t slot);
/* Sets the news bit of every reader of the slot; woken[] collects entries
 * whose eventfd must be written (a bitmap of INFER_MAX_ENTRIES bits). */
void infer_slot_notify(infer_bus_t *bus, infer_ref_t ref,
    uint64_t woken[INFER_MAX_ENTRIES / 64]);
/* Entries whose process is gone: their reader bits are cleared in all
 * slots, claimed slots freed (who had joined one has news, as by
 * infer_slot_notify()), the entry made free. Returns entries in use (alive).
 * Called at start and about ten times a second. */
uint32_t infer_bus_sweep(infer_bus_t *bus,
    uint64_t woken[INFER_MAX_ENTRIES / 64]);
/* At engine start: blocks owned by no living generation are freed. */
void infer_bus_sweep_blocks(infer_bus_t *bus);

/* Log ring. put (E) cuts long lines and drops when full. take (worker):
 * 1 when *rec is this caller's to write to the error log. */
void infer_ring_put(infer_bus_t *bus, uint32_t level, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
int infer_ring_take(infer_bus_t *bus, infer_log_rec_t *rec);

/* Statistics. Upper bounds in us; the last bucket is +Inf. */
extern const uint64_t infer_hist_bounds_us[INFER_HIST_BUCKETS - 1];
void infer_hist_add(infer_hist_t *h, uint64_t us);

#endif
