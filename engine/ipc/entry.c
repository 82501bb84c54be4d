/*
 * entry.c: worker entries: who is there, what they submitted, what is new
 * for them, and the sweep after one that died.
 */

#include <string.h>
#include <unistd.h>

#include "ipc/bus.h"


int
infer_entry_claim(infer_bus_t *bus, uint32_t *entry)
{
    uint32_t        i, j, old;
    infer_entry_t  *e;

    for (i = 0; i < INFER_MAX_ENTRIES; i++) {
        e = &bus->entry[i];

        /* The lock first: an entry whose process died still says USED, and
         * stays unusable until the engine has swept it. */
        if (atomic_load(&e->state) != INFER_ENTRY_FREE
            || infer_lock_take(bus->fd, INFER_LOCK_ENTRY(i)) != INFER_OK)
        {
            continue;
        }

        old = INFER_ENTRY_FREE;
        if (!atomic_compare_exchange_strong(&e->state, &old,
                                            INFER_ENTRY_USED))
        {
            /* who took it meanwhile has died: the engine sweeps it */
            infer_lock_drop(bus->fd, INFER_LOCK_ENTRY(i));
            continue;
        }

        atomic_store(&e->pid, (uint32_t) getpid());
        atomic_store(&e->leaving, 0);
        for (j = 0; j < INFER_BITMAP_WORDS; j++) {
            atomic_store(&e->news[j], 0);
        }
        *entry = i;

        return INFER_OK;
    }

    return INFER_BUSY;
}

void
infer_entry_return(infer_bus_t *bus, uint32_t entry)
{
    atomic_store(&bus->entry[entry].pid, 0);
    /* before the lock goes: what is unlocked and USED is the engine's */
    atomic_store(&bus->entry[entry].state, INFER_ENTRY_FREE);
    infer_lock_drop(bus->fd, INFER_LOCK_ENTRY(entry));
}

static void
entry_drop_readers(infer_bus_t *bus, uint32_t entry)
{
    uint32_t  i;

    for (i = 0; i < bus->n_slots; i++) {
        atomic_fetch_and(&bus->slot[i].readers[entry / 64],
                         ~(1ull << (entry % 64)));
    }
}

void
infer_entry_leave(infer_bus_t *bus, uint32_t entry)
{
    uint32_t  i;

    atomic_store(&bus->entry[entry].leaving, 1);
    entry_drop_readers(bus, entry);

    /* the engine looks at every slot that we may have left behind */
    for (i = 0; i < bus->n_slots; i++) {
        atomic_fetch_or(&bus->entry[entry].submitted[i / 64],
                        1ull << (i % 64));
    }
}

uint32_t
infer_entry_news(infer_bus_t *bus, uint32_t entry,
    uint64_t bits[INFER_BITMAP_WORDS])
{
    uint32_t  i, n = 0;

    for (i = 0; i < INFER_BITMAP_WORDS; i++) {
        bits[i] = 0;
        if (atomic_load_explicit(&bus->entry[entry].news[i],
                                 memory_order_relaxed) != 0)
        {
            /* acquire: pairs with the release in infer_slot_notify */
            bits[i] = atomic_exchange(&bus->entry[entry].news[i], 0);
            n += (uint32_t) __builtin_popcountll(bits[i]);
        }
    }

    return n;
}

uint32_t
infer_bus_submitted(infer_bus_t *bus, uint64_t bits[INFER_BITMAP_WORDS])
{
    uint32_t  i, k, n = 0;

    memset(bits, 0, INFER_BITMAP_WORDS * sizeof(bits[0]));

    for (k = 0; k < INFER_MAX_ENTRIES; k++) {
        for (i = 0; i < INFER_BITMAP_WORDS; i++) {
            if (atomic_load_explicit(&bus->entry[k].submitted[i],
                                     memory_order_relaxed) != 0)
            {
                bits[i] |= atomic_exchange(&bus->entry[k].submitted[i], 0);
            }
        }
    }

    for (i = 0; i < INFER_BITMAP_WORDS; i++) {
        n += (uint32_t) __builtin_popcountll(bits[i]);
    }

    return n;
}

void
infer_slot_notify(infer_bus_t *bus, infer_ref_t ref,
    uint64_t woken[INFER_MAX_ENTRIES / 64])
{
    uint32_t  i, k;
    uint64_t  readers;

    for (i = 0; i < INFER_MAX_ENTRIES / 64; i++) {
        readers = atomic_load(&bus->slot[ref.slot].readers[i]);
        woken[i] |= readers;

        while (readers != 0) {
            k = i * 64 + (uint32_t) __builtin_ctzll(readers);
            readers &= readers - 1;
            /* release: pairs with the exchange in infer_entry_news */
            atomic_fetch_or(&bus->entry[k].news[ref.slot / 64],
                            1ull << (ref.slot % 64));
        }
    }
}

/* Slots that a dead worker had only claimed: nobody else can move them. Who
 * has joined one waits for news: from CLOSING on nobody joins any more. */
static void
entry_free_claimed(infer_bus_t *bus, uint32_t entry,
    uint64_t woken[INFER_MAX_ENTRIES / 64])
{
    uint32_t     i;
    uint64_t     w;
    infer_ref_t  ref;

    for (i = 0; i < bus->n_slots; i++) {
        w = atomic_load(&bus->slot[i].state);
        if (infer_slot_state(w) == INFER_SLOT_CLAIMED
            && infer_slot_claimer(w) == entry)
        {
            ref.slot = i;
            ref.generation = infer_slot_generation(w);
            atomic_store(&bus->slot[i].state,
                         infer_slot_word(ref.generation, INFER_SLOT_CLOSING));
            infer_slot_notify(bus, ref, woken);
            infer_slot_free(bus, i);
        }
    }
}

uint32_t
infer_bus_sweep(infer_bus_t *bus, uint64_t woken[INFER_MAX_ENTRIES / 64])
{
    uint32_t        k, alive = 0, dead = 0;
    infer_entry_t  *e;

    for (k = 0; k < INFER_MAX_ENTRIES; k++) {
        e = &bus->entry[k];
        if (atomic_load(&e->state) == INFER_ENTRY_FREE) {
            continue;
        }

        if (infer_lock_alive(bus->fd, INFER_LOCK_ENTRY(k))) {
            alive++;
            continue;
        }

        dead++;
        entry_free_claimed(bus, k, woken);
        entry_drop_readers(bus, k);
        atomic_store(&e->pid, 0);
        /* last: from here on another worker may claim it */
        atomic_store(&e->state, INFER_ENTRY_FREE);
    }

    if (dead != 0) {
        /* it may have died with blocks that no extent names yet */
        infer_bus_sweep_blocks(bus);
    }

    return alive;
}
