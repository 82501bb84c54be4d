/*
 * owner.c: see owner.h. A number is serial * INFER_OWNERS + byte, the serial
 * from 1 on: it comes round after 8 million claims.
 */

#include "cache/owner.h"
#include "ipc/bus.h"


int
infer_owner_claim(infer_owners_t *o, int fd, uint32_t *owner)
{
    uint32_t  i, serial;

    for (i = 0; i < INFER_OWNERS; i++) {
        if (infer_lock_take(fd, i) != INFER_OK) {
            continue;
        }
        do {
            serial = (atomic_fetch_add(&o->serial, 1) + 1)
                     % (UINT32_MAX / INFER_OWNERS);
        } while (serial == 0);
        *owner = serial * INFER_OWNERS + i;
        atomic_store_explicit(&o->holder[i], *owner, memory_order_release);
        return INFER_OK;
    }
    return INFER_BUSY;
}

int
infer_owner_alive(const infer_owners_t *o, int fd, uint32_t mine,
    uint32_t owner)
{
    uint32_t  i = owner % INFER_OWNERS;

    return owner == mine
           || (atomic_load_explicit(&o->holder[i], memory_order_acquire)
               == owner && infer_lock_alive(fd, i));
}
