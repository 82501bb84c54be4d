/*
 * arena.c: blocks of the bus's arena (arena.h). Taking is lock-free and
 * leaves no state behind but the owner words themselves.
 */

#include "ipc/arena.h"


uint64_t
arena_owner(infer_ref_t ref)
{
    return ((uint64_t) (ref.slot + 1) << 40)
           | (ref.generation & 0xffffffffffull);
}

static void
arena_put_back(infer_bus_t *bus, uint32_t first, uint32_t n)
{
    uint32_t  b = first, next;

    while (n-- > 0) {
        next = bus->next[b];
        /* release: whoever takes it next (acquire) sees our last writes */
        atomic_store_explicit(&bus->owner[b], 0, memory_order_release);
        b = next;
    }
}

int
arena_take(infer_bus_t *bus, infer_ref_t ref, uint32_t n, uint32_t *first)
{
    uint32_t  b, taken = 0, last = INFER_NO_BLOCK;
    uint64_t  free_word, owner = arena_owner(ref);

    *first = INFER_NO_BLOCK;

    for (b = 0; b < bus->n_blocks && taken < n; b++) {
        if (atomic_load_explicit(&bus->owner[b], memory_order_relaxed) != 0) {
            continue;
        }

        free_word = 0;
        /* acquire: pairs with the release of the block's last owner */
        if (!atomic_compare_exchange_strong_explicit(&bus->owner[b],
                                                     &free_word, owner,
                                                     memory_order_acquire,
                                                     memory_order_relaxed))
        {
            continue;
        }

        bus->next[b] = INFER_NO_BLOCK;
        if (last == INFER_NO_BLOCK) {
            *first = b;
        } else {
            bus->next[last] = b;
        }
        last = b;
        taken++;
    }

    if (taken == n) {
        return INFER_OK;
    }

    arena_put_back(bus, *first, taken);
    *first = INFER_NO_BLOCK;

    return INFER_BUSY;
}

int
arena_owned(const infer_bus_t *bus, infer_ref_t ref, uint32_t b)
{
    return b < bus->n_blocks
           && atomic_load_explicit(&bus->owner[b], memory_order_relaxed)
              == arena_owner(ref);
}

uint32_t
arena_next(const infer_bus_t *bus, infer_ref_t ref, uint32_t b)
{
    b = bus->next[b];

    return arena_owned(bus, ref, b) ? b : INFER_NO_BLOCK;
}

void
arena_free(infer_bus_t *bus, infer_ref_t ref, uint32_t first)
{
    uint32_t  b = first, next;

    while (arena_owned(bus, ref, b)) {
        next = bus->next[b];
        atomic_store_explicit(&bus->owner[b], 0, memory_order_release);
        b = next;
    }
}

/* After a crash: a block whose owner word names no living generation. */
void
infer_bus_sweep_blocks(infer_bus_t *bus)
{
    uint32_t     b;
    uint64_t     word, state;
    infer_ref_t  ref;

    for (b = 0; b < bus->n_blocks; b++) {
        word = atomic_load_explicit(&bus->owner[b], memory_order_acquire);
        if (word == 0) {
            continue;
        }

        ref.slot = (uint32_t) (word >> 40) - 1;
        ref.generation = word & 0xffffffffffull;

        if (ref.slot < bus->n_slots) {
            state = atomic_load_explicit(&bus->slot[ref.slot].state,
                                         memory_order_acquire);
            if (infer_slot_state(state) != INFER_SLOT_FREE
                && (infer_slot_generation(state) & 0xffffffffffull)
                   == ref.generation)
            {
                continue;
            }
        }

        /* only if it is still the same dead owner's */
        (void) atomic_compare_exchange_strong(&bus->owner[b], &word, 0);
    }
}
