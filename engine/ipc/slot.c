/*
 * slot.c: the life of one generation in the bus: claim, fill, submit, run,
 * finish, free. Each step is one atomic exchange of the state word, so a
 * process that dies between two steps leaves a state that the engine's
 * sweep understands.
 */

#include <string.h>

#include "ipc/arena.h"


static uint64_t
slot_word(const infer_bus_t *bus, uint32_t slot)
{
    /* acquire: pairs with the release of every state change below */
    return atomic_load_explicit(&bus->slot[slot].state, memory_order_acquire);
}

static int
slot_exchange(infer_bus_t *bus, infer_ref_t ref, uint32_t from, uint32_t to)
{
    uint64_t  old = infer_slot_word(ref.generation, from);

    return atomic_compare_exchange_strong(&bus->slot[ref.slot].state, &old,
                                    infer_slot_word(ref.generation, to));
}

int
infer_slot_valid(const infer_bus_t *bus, infer_ref_t ref)
{
    return infer_slot_status(bus, ref) != INFER_SLOT_FREE;
}

uint32_t
infer_slot_status(const infer_bus_t *bus, infer_ref_t ref)
{
    uint64_t  w;

    if (ref.slot >= bus->n_slots) {
        return INFER_SLOT_FREE;
    }

    w = slot_word(bus, ref.slot);

    return infer_slot_generation(w) == ref.generation ? infer_slot_state(w)
                                                      : INFER_SLOT_FREE;
}

/* Readies a freshly claimed slot: nothing of the last generation is left. */
static void
slot_clear(infer_slot_t *s)
{
    size_t  i, from = offsetof(infer_slot_t, entry);

    for (i = 0; i < INFER_N_EXTENTS; i++) {
        s->ext[i].first = INFER_NO_BLOCK;
        s->ext[i].bytes = 0;
    }

    memset((uint8_t *) s + from, 0, offsetof(infer_slot_t, ext) - from);
    memset(s->scope, 0, sizeof(s->scope));
    memset(s->ext_offset, 0, sizeof(s->ext_offset));
    s->next = INFER_NO_SLOT;
    s->next_generation = 0;
    memset(s->reserved2, 0, sizeof(s->reserved2));
    atomic_store(&s->cancel, 0);
    atomic_store(&s->queue_deadline_us, 0);
    atomic_store(&s->first_deadline_us, 0);
    atomic_store(&s->total_deadline_us, 0);
    atomic_store(&s->priority, 0);
    atomic_store(&s->n_records, 0);
    atomic_store(&s->finish, INFER_FINISH_NONE);
    atomic_store(&s->deaths, 0);
    atomic_store(&s->in_batch, 0);
    atomic_store(&s->start_us, 0);
    atomic_store(&s->first_us, 0);
    atomic_store(&s->done_us, 0);
    atomic_store(&s->cached_tokens, 0);
    atomic_store(&s->preempted, 0);
    s->error[0] = '\0';
}

int
infer_slot_claim(infer_bus_t *bus, uint32_t entry, infer_ref_t *ref)
{
    uint32_t       i, j;
    uint64_t       w;
    infer_slot_t  *s;

    for (i = 0; i < bus->n_slots; i++) {
        w = slot_word(bus, i);
        if (infer_slot_state(w) != INFER_SLOT_FREE) {
            continue;
        }

        s = &bus->slot[i];
        if (!atomic_compare_exchange_strong(&s->state, &w,
                    infer_slot_word(infer_slot_generation(w),
                                    INFER_SLOT_CLAIMED | entry << 8)))
        {
            continue;
        }

        for (j = 0; j < INFER_MAX_ENTRIES / 64; j++) {
            atomic_store(&s->readers[j],
                         j == entry / 64 ? 1ull << (entry % 64) : 0);
        }
        slot_clear(s);
        s->entry = entry;
        ref->slot = i;
        ref->generation = infer_slot_generation(w);

        return INFER_OK;
    }

    return INFER_BUSY;
}

/* Where len bytes fit behind the prompt: its last block, or INFER_NO_BLOCK. */
static uint32_t
slot_behind_prompt(const infer_bus_t *bus, infer_ref_t ref, size_t len,
    uint32_t *offset)
{
    uint32_t             k, b, end;
    const infer_slot_t  *s = &bus->slot[ref.slot];

    b = s->ext[INFER_EXT_PROMPT].first;
    end = s->ext[INFER_EXT_PROMPT].bytes;

    while (end > INFER_BLOCK_BYTES && arena_owned(bus, ref, b)) {
        b = bus->next[b];
        end -= INFER_BLOCK_BYTES;
    }

    for (k = 0; k < INFER_N_EXTENTS; k++) {
        if (s->ext_offset[k] != 0 && s->ext_offset[k] + s->ext[k].bytes > end)
        {
            end = s->ext_offset[k] + s->ext[k].bytes;
        }
    }

    *offset = (end + 7) & ~7u;

    return end > 0 && *offset <= INFER_BLOCK_BYTES
           && len <= INFER_BLOCK_BYTES - *offset && arena_owned(bus, ref, b)
           ? b : INFER_NO_BLOCK;
}

int
infer_slot_put(infer_bus_t *bus, infer_ref_t ref, uint32_t kind,
    const void *data, size_t len)
{
    size_t           n;
    uint32_t         b, offset;
    const uint8_t   *p = data;
    infer_extent_t  *ext = &bus->slot[ref.slot].ext[kind];

    if (len > UINT32_MAX - INFER_BLOCK_BYTES) {
        return INFER_BUSY;
    }

    if (kind != INFER_EXT_PROMPT && len > 0) {
        b = slot_behind_prompt(bus, ref, len, &offset);
        if (b != INFER_NO_BLOCK) {
            memcpy(arena_block(bus, b) + offset, data, len);
            ext->first = b;
            ext->bytes = (uint32_t) len;
            bus->slot[ref.slot].ext_offset[kind] = (uint16_t) offset;
            return INFER_OK;
        }
    }

    n = (len + INFER_BLOCK_BYTES - 1) / INFER_BLOCK_BYTES;
    if (arena_take(bus, ref, (uint32_t) n, &ext->first) != INFER_OK) {
        return INFER_BUSY;
    }

    ext->bytes = (uint32_t) len;
    b = ext->first;

    while (len > 0) {
        n = len < INFER_BLOCK_BYTES ? len : INFER_BLOCK_BYTES;
        memcpy(arena_block(bus, b), p, n);
        p += n;
        len -= n;
        b = bus->next[b];
    }

    return INFER_OK;
}

int
infer_slot_reserve_log(infer_bus_t *bus, infer_ref_t ref, uint32_t n_records)
{
    uint32_t       n, per_block;
    infer_slot_t  *s = &bus->slot[ref.slot];

    if (s->sampling.top_logprobs > INFER_MAX_TOP_LOGPROBS) {
        return INFER_INVALID;
    }

    s->stride = 16 + 8 * s->sampling.top_logprobs;
    s->max_records = n_records;
    per_block = INFER_BLOCK_BYTES / s->stride;
    n = n_records / per_block + (n_records % per_block != 0);

    if (arena_take(bus, ref, n, &s->ext[INFER_EXT_LOG].first) != INFER_OK) {
        return INFER_BUSY;
    }

    s->ext[INFER_EXT_LOG].bytes = n * INFER_BLOCK_BYTES;

    return INFER_OK;
}

static void
slot_free_blocks(infer_bus_t *bus, infer_ref_t ref)
{
    uint32_t       i;
    infer_slot_t  *s = &bus->slot[ref.slot];

    for (i = 0; i < INFER_N_EXTENTS; i++) {
        if (s->ext_offset[i] == 0) {
            arena_free(bus, ref, s->ext[i].first);
        }
        s->ext_offset[i] = 0;
        s->ext[i].first = INFER_NO_BLOCK;
        s->ext[i].bytes = 0;
    }
}

void
infer_slot_abandon(infer_bus_t *bus, infer_ref_t ref)
{
    slot_free_blocks(bus, ref);
    /* seq_cst exchange of the whole word: the next claimer sees all above */
    atomic_store(&bus->slot[ref.slot].state,
                 infer_slot_word(ref.generation + 1, INFER_SLOT_FREE));
}

void
infer_slot_chain(infer_bus_t *bus, infer_ref_t ref, infer_ref_t next)
{
    bus->slot[ref.slot].next = next.slot;
    bus->slot[ref.slot].next_generation = next.generation;
}

infer_ref_t
infer_slot_next(const infer_bus_t *bus, infer_ref_t ref)
{
    infer_ref_t  next = { bus->slot[ref.slot].next,
                          bus->slot[ref.slot].next_generation };

    return next;
}

void
infer_slot_submit(infer_bus_t *bus, uint32_t entry, infer_ref_t ref)
{
    infer_slot_t  *s = &bus->slot[ref.slot];

    s->ticket = atomic_fetch_add(&bus->hdr->ticket, 1);
    s->submit_us = infer_now_us();

    /* release (seq_cst): pairs with the acquire in slot_word */
    atomic_store(&s->state,
                 infer_slot_word(ref.generation, INFER_SLOT_SUBMITTED));
    atomic_fetch_or(&bus->entry[entry].submitted[ref.slot / 64],
                    1ull << (ref.slot % 64));
}

void
infer_slot_release(infer_bus_t *bus, uint32_t entry, infer_ref_t ref)
{
    if (!infer_slot_valid(bus, ref)) {
        return;
    }

    /* our bit keeps this generation alive until here, so it is ours */
    atomic_fetch_and(&bus->slot[ref.slot].readers[entry / 64],
                     ~(1ull << (entry % 64)));
    atomic_fetch_or(&bus->entry[entry].submitted[ref.slot / 64],
                    1ull << (ref.slot % 64));
}

int
infer_slot_join(infer_bus_t *bus, uint32_t entry, infer_ref_t ref)
{
    uint32_t       st;
    uint64_t       bit = 1ull << (entry % 64), had;
    infer_slot_t  *s;

    if (ref.slot >= bus->n_slots) {
        return INFER_AGAIN;
    }

    s = &bus->slot[ref.slot];
    /* seq_cst: set the bit, then look; infer_slot_free() closes, then looks
     * at the bits: one of the two sees the other */
    had = atomic_fetch_or(&s->readers[entry / 64], bit) & bit;
    st = infer_slot_status(bus, ref);

    if (st == INFER_SLOT_FREE || st == INFER_SLOT_CLOSING) {
        if (had == 0) {
            atomic_fetch_and(&s->readers[entry / 64], ~bit);
        }
        return INFER_AGAIN;
    }

    atomic_fetch_or(&bus->entry[entry].news[ref.slot / 64],
                    1ull << (ref.slot % 64));
    return INFER_OK;
}

/* 1: the deadline has moved; none is later than any. */
static int
slot_later(_Atomic uint64_t *deadline_us, uint64_t us)
{
    uint64_t  old = atomic_load(deadline_us);

    while (old != 0 && (us == 0 || us > old)) {
        if (atomic_compare_exchange_weak(deadline_us, &old, us)) {
            return 1;
        }
    }

    return 0;
}

int
infer_slot_raise(infer_bus_t *bus, uint32_t entry, infer_ref_t ref,
    const infer_terms_t *t)
{
    int            raised;
    int32_t        old;
    infer_slot_t  *s = &bus->slot[ref.slot];

    raised = slot_later(&s->queue_deadline_us, t->queue_deadline_us);
    raised |= slot_later(&s->first_deadline_us, t->first_deadline_us);
    raised |= slot_later(&s->total_deadline_us, t->total_deadline_us);

    old = atomic_load(&s->priority);
    while (t->priority > old) {
        if (atomic_compare_exchange_weak(&s->priority, &old, t->priority)) {
            raised = 1;
            break;
        }
    }

    if (raised) {
        /* seq_cst: the engine clears the bit, then reads the above */
        atomic_fetch_or(&bus->entry[entry].submitted[ref.slot / 64],
                        1ull << (ref.slot % 64));
    }

    return raised;
}

void
infer_bus_load(const infer_bus_t *bus, uint32_t model, infer_bus_load_t *load)
{
    uint32_t             i, st;
    const infer_slot_t  *s;

    memset(load, 0, sizeof(*load));

    for (i = 0; i < bus->n_slots; i++) {
        s = &bus->slot[i];
        st = infer_slot_state(slot_word(bus, i));

        if (st == INFER_SLOT_FREE) {
            load->free_slots++;
            continue;
        }

        if ((st != INFER_SLOT_SUBMITTED && st != INFER_SLOT_RUNNING)
            || s->model != model)
        {
            continue;
        }

        if (st == INFER_SLOT_RUNNING && atomic_load(&s->start_us) != 0) {
            load->running++;
        } else {
            load->waiting++;
            load->waiting_tokens += s->n_prompt;
        }
    }

    for (i = 0; i < bus->n_blocks; i++) {
        load->free_blocks +=
            atomic_load_explicit(&bus->owner[i], memory_order_relaxed) == 0;
    }
}

/* ---- engine ---- */

int
infer_slot_get(const infer_bus_t *bus, infer_ref_t ref, uint32_t kind,
    void *dst, size_t cap, size_t *len)
{
    size_t          n, left;
    uint8_t        *p = dst;
    uint32_t        b, offset;
    infer_extent_t  ext;

    ext = bus->slot[ref.slot].ext[kind];
    offset = bus->slot[ref.slot].ext_offset[kind];
    *len = 0;
    if (ext.bytes > cap || offset >= INFER_BLOCK_BYTES) {
        return INFER_CORRUPT;
    }

    left = ext.bytes;
    b = ext.first;

    while (left > 0) {
        if (!arena_owned(bus, ref, b)) {
            return INFER_CORRUPT;
        }
        n = INFER_BLOCK_BYTES - offset;
        n = left < n ? left : n;
        memcpy(p, arena_block(bus, b) + offset, n);
        offset = 0;
        p += n;
        left -= n;
        b = bus->next[b];
    }

    *len = ext.bytes;

    return INFER_OK;
}

int
infer_slot_advance(infer_bus_t *bus, infer_ref_t ref, uint32_t from,
    uint32_t to)
{
    return slot_exchange(bus, ref, from, to);
}

static int
slot_has_reader(const infer_bus_t *bus, uint32_t slot)
{
    uint32_t  i;
    uint64_t  bits = 0;

    for (i = 0; i < INFER_MAX_ENTRIES / 64; i++) {
        bits |= atomic_load(&bus->slot[slot].readers[i]);
    }

    return bits != 0;
}

int
infer_slot_cancelled(const infer_bus_t *bus, infer_ref_t ref)
{
    return !slot_has_reader(bus, ref.slot)
           || atomic_load(&bus->slot[ref.slot].cancel) != 0;
}

void
infer_slot_finish(infer_bus_t *bus, infer_ref_t ref, uint32_t finish,
    const char *error)
{
    infer_slot_t  *s = &bus->slot[ref.slot];

    if (error != NULL) {
        snprintf(s->error, sizeof(s->error), "%s", error);
    }

    atomic_store(&s->in_batch, 0);
    atomic_store(&s->done_us, infer_now_us());
    atomic_store(&s->finish, finish);
    /* seq_cst: a reader that sees DONE sees finish, error and all records */
    atomic_store(&s->state,
                 infer_slot_word(ref.generation, INFER_SLOT_DONE));
}

void
infer_slot_free(infer_bus_t *bus, uint32_t slot)
{
    uint64_t     w = slot_word(bus, slot);
    infer_ref_t  ref = { slot, infer_slot_generation(w) };

    if (infer_slot_state(w) == INFER_SLOT_FREE) {
        return;
    }

    atomic_store(&bus->slot[slot].state,
                 infer_slot_word(ref.generation, INFER_SLOT_CLOSING));

    /* pairs with infer_slot_join() */
    if (infer_slot_state(w) == INFER_SLOT_DONE && slot_has_reader(bus, slot)) {
        atomic_store(&bus->slot[slot].state, w);
        return;
    }

    slot_free_blocks(bus, ref);
    atomic_store(&bus->slot[slot].state,
                 infer_slot_word(ref.generation + 1, INFER_SLOT_FREE));
}
