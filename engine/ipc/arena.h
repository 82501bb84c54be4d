/*
 * arena.h: blocks of the bus's arena, inside engine/ipc only. A block is
 * free when its owner word is 0; it is taken by CAS, lowest index first, so
 * a taker that dies leaves nothing but owner words that name its slot.
 */

#ifndef INFER_IPC_ARENA_H
#define INFER_IPC_ARENA_H

#include "ipc/bus.h"

/* The owner word of a generation; never 0. */
uint64_t arena_owner(infer_ref_t ref);

/* Takes n blocks, chained; *first gets the first (INFER_NO_BLOCK for 0).
 * BUSY, and nothing taken, when there are not so many. */
int arena_take(infer_bus_t *bus, infer_ref_t ref, uint32_t n,
    uint32_t *first);

/* Frees a chain; stops at a block that ref does not own. */
void arena_free(infer_bus_t *bus, infer_ref_t ref, uint32_t first);

/* The block after b in a chain of ref's, INFER_NO_BLOCK at its end or when
 * the chain leaves the arena or the owner. */
uint32_t arena_next(const infer_bus_t *bus, infer_ref_t ref, uint32_t b);

/* 1 when b is a block of the arena owned by ref. */
int arena_owned(const infer_bus_t *bus, infer_ref_t ref, uint32_t b);

static inline uint8_t *
arena_block(const infer_bus_t *bus, uint32_t b)
{
    return bus->arena + (size_t) b * INFER_BLOCK_BYTES;
}

#endif
