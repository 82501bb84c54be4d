/*
 * log.c: the append-only output log of a slot. The engine writes a record
 * and then publishes it with one release-store of n_records; any number of
 * readers, who never write, follow.
 */

#include <string.h>

#include "ipc/arena.h"


uint32_t
infer_log_count(const infer_bus_t *bus, infer_ref_t ref)
{
    /* acquire: pairs with the release in infer_log_append */
    return atomic_load_explicit(&bus->slot[ref.slot].n_records,
                                memory_order_acquire);
}

/* Address of record i, or NULL when the chain does not lead there. */
static uint8_t *
log_at(const infer_bus_t *bus, infer_ref_t ref, infer_cursor_t *cur,
    uint32_t i, uint32_t *stride)
{
    uint32_t             no, per_block;
    const infer_slot_t  *s = &bus->slot[ref.slot];

    *stride = s->stride;
    if (*stride < 16 || *stride > 16 + 8 * INFER_MAX_TOP_LOGPROBS
        || i >= s->max_records)
    {
        return NULL;
    }

    per_block = INFER_BLOCK_BYTES / *stride;
    no = i / per_block;

    if (!cur->valid || cur->block_no > no) {
        cur->block = s->ext[INFER_EXT_LOG].first;
        cur->block_no = 0;
        cur->valid = 1;
    }

    while (cur->block_no < no && cur->block < bus->n_blocks) {
        cur->block = arena_next(bus, ref, cur->block);
        cur->block_no++;
    }

    if (!arena_owned(bus, ref, cur->block)) {
        cur->valid = 0;
        return NULL;
    }

    return arena_block(bus, cur->block) + (size_t) (i % per_block) * *stride;
}

int
infer_log_read(const infer_bus_t *bus, infer_ref_t ref, infer_cursor_t *cur,
    uint32_t i, infer_record_t *rec, infer_top_t *top, uint32_t n_top)
{
    uint32_t        stride, n;
    const uint8_t  *p;

    p = log_at(bus, ref, cur, i, &stride);
    if (p == NULL) {
        return INFER_CORRUPT;
    }

    memcpy(rec, p, sizeof(*rec));
    n = (stride - 16) / 8;
    memcpy(top, p + 16, 8 * (size_t) (n < n_top ? n : n_top));

    return INFER_OK;
}

int
infer_log_append(infer_bus_t *bus, infer_ref_t ref, infer_cursor_t *cur,
    const infer_record_t *rec, const infer_top_t *top)
{
    uint8_t       *p;
    uint32_t       stride, i;
    infer_slot_t  *s = &bus->slot[ref.slot];

    i = atomic_load_explicit(&s->n_records, memory_order_relaxed);
    p = log_at(bus, ref, cur, i, &stride);
    if (p == NULL) {
        return i >= s->max_records ? INFER_BUSY : INFER_CORRUPT;
    }

    memcpy(p, rec, sizeof(*rec));
    if (stride > 16) {
        memcpy(p + 16, top, stride - 16);
    }

    /* release: pairs with the acquire in infer_log_count */
    atomic_store_explicit(&s->n_records, i + 1, memory_order_release);

    return INFER_OK;
}
