/*
 * store_pin.c: values that are read where they lie. A pin counts the readers
 * that one process has of one chain. Called under the shard's lock; what is
 * done without it is infer_store_release().
 */

#include "cache/store_int.h"


static uint32_t
store_pin_count(const store_pin_t *p)
{
    return atomic_load_explicit(&p->count, memory_order_acquire);
}

_Atomic uint32_t *
store_pin(store_shard_t *s, const store_entry_t *e, uint32_t owner)
{
    uint32_t      i, n, taken = e->n_blocks;
    store_pin_t  *all = store_pins(s), *p = NULL;

    if (e->block == STORE_NONE) {
        return NULL;
    }
    for (i = 0; i < STORE_PINS; i++) {
        n = store_pin_count(&all[i]);
        if (n > 0 && all[i].block == e->block && all[i].owner == owner) {
            atomic_store_explicit(&all[i].count, n + 1, memory_order_relaxed);
            return &all[i].count;
        }
        if (n > 0 || all[i].orphan) {
            taken += all[i].n_blocks;
        } else if (p == NULL) {
            p = &all[i];
        }
    }
    if (p == NULL || taken > s->n_blocks / 2) {
        return NULL;
    }
    p->owner = owner;
    p->block = e->block;
    p->n_blocks = e->n_blocks;
    /* last: who dies before has pinned nothing */
    atomic_store_explicit(&p->count, 1, memory_order_release);
    return &p->count;
}

static int
store_pin_read(const store_shard_t *s, uint32_t block)
{
    uint32_t            i;
    const store_pin_t  *all = store_pins(s);

    for (i = 0; i < STORE_PINS; i++) {
        if (all[i].block == block && store_pin_count(&all[i]) > 0) {
            return 1;
        }
    }
    return 0;
}

int
store_pin_orphan(store_shard_t *s, uint32_t block)
{
    uint32_t      i;
    store_pin_t  *all = store_pins(s);

    for (i = 0; i < STORE_PINS; i++) {
        if (all[i].block == block && store_pin_count(&all[i]) > 0) {
            all[i].orphan = 1;
            s->orphans++;
            return 1;
        }
    }
    return 0;
}

void
store_pin_collect(store_shard_t *s)
{
    uint32_t      i;
    store_pin_t  *all = store_pins(s);

    for (i = 0; s->orphans > 0 && i < STORE_PINS; i++) {
        if (all[i].orphan && !store_pin_read(s, all[i].block)) {
            s->used -= store_give_back(s, all[i].block);
            all[i].orphan = 0;
            s->orphans--;
        }
    }
}

void
store_pin_bury(store_shard_t *s, int (*alive)(void *arg, uint32_t owner),
    void *arg)
{
    uint32_t      i;
    store_pin_t  *all = store_pins(s);

    for (i = 0; i < STORE_PINS; i++) {
        if (store_pin_count(&all[i]) > 0 && !alive(arg, all[i].owner)) {
            atomic_store_explicit(&all[i].count, 0, memory_order_relaxed);
        }
    }
}

/* Marks a chain; 0: it is marked already, by another process' pin. */
static uint32_t
store_pin_mark(store_shard_t *s, uint32_t block)
{
    uint32_t              n = 0;
    store_entry_t        *e = store_entries(s);
    const store_block_t  *b = store_blocks(s);

    while (block < s->n_blocks && e[block].list == STORE_FREE) {
        e[block].list = STORE_WINDOW;
        block = b[block].next;
        n++;
    }
    return n;
}

uint32_t
store_pin_keep(store_shard_t *s)
{
    uint32_t      i, n, kept = 0;
    store_pin_t  *all = store_pins(s);

    s->orphans = 0;
    for (i = 0; i < STORE_PINS; i++) {
        all[i].orphan = 0;
        n = store_pin_count(&all[i]) > 0 ? store_pin_mark(s, all[i].block) : 0;
        if (n > 0) {
            all[i].orphan = 1;
            s->orphans++;
            kept += n;
        }
    }
    return kept;
}

uint32_t
store_pin_readers(const store_shard_t *s)
{
    uint32_t  i, n = 0;

    for (i = 0; i < STORE_PINS; i++) {
        n += store_pin_count(&store_pins(s)[i]);
    }
    return n;
}
