/*
 * ring.c: lines of the engine on their way to nginx's error log, and the
 * histograms of the statistics. One producer, the engine; a worker takes a
 * line by exchanging the tail after it has copied it, so a worker that dies
 * loses at most the line it had in hand.
 */

#include <string.h>

#include "ipc/bus.h"

const uint64_t infer_hist_bounds_us[INFER_HIST_BUCKETS - 1] = {
    1000, 2500, 5000, 10000, 25000, 50000, 100000, 250000, 500000, 1000000,
    2500000, 5000000, 10000000, 30000000, 60000000
};


void
infer_ring_put(infer_bus_t *bus, uint32_t level, const char *fmt, ...)
{
    int               n;
    va_list           ap;
    uint64_t          head;
    infer_log_rec_t  *rec;

    head = atomic_load_explicit(&bus->hdr->ring_head, memory_order_relaxed);

    /* acquire: the slot is ours again only after its reader has copied it */
    if (head - atomic_load_explicit(&bus->hdr->ring_tail,
                                    memory_order_acquire)
        >= INFER_RING_RECORDS)
    {
        atomic_fetch_add(&bus->hdr->ring_dropped, 1);
        return;
    }

    rec = &bus->ring[head % INFER_RING_RECORDS];
    va_start(ap, fmt);
    n = vsnprintf(rec->text, sizeof(rec->text), fmt, ap);
    va_end(ap);

    rec->level = level;
    rec->len = n < 0 ? 0 : (uint32_t) n;
    if (rec->len >= sizeof(rec->text)) {
        rec->len = sizeof(rec->text) - 1;
    }

    /* release: pairs with the acquire in infer_ring_take */
    atomic_store_explicit(&bus->hdr->ring_head, head + 1,
                          memory_order_release);
}

int
infer_ring_take(infer_bus_t *bus, infer_log_rec_t *rec)
{
    uint64_t  tail, head;

    tail = atomic_load_explicit(&bus->hdr->ring_tail, memory_order_acquire);
    head = atomic_load_explicit(&bus->hdr->ring_head, memory_order_acquire);
    if (tail == head) {
        return 0;
    }

    memcpy(rec, &bus->ring[tail % INFER_RING_RECORDS], sizeof(*rec));

    /* release: the producer may write this cell again from here on. Another
     * worker that was faster makes the copy worthless. */
    if (!atomic_compare_exchange_strong_explicit(&bus->hdr->ring_tail, &tail,
                                                 tail + 1,
                                                 memory_order_acq_rel,
                                                 memory_order_relaxed))
    {
        return 0;
    }

    if (rec->len >= sizeof(rec->text)) {
        rec->len = sizeof(rec->text) - 1;
    }
    rec->text[rec->len] = '\0';

    return 1;
}

void
infer_hist_add(infer_hist_t *h, uint64_t us)
{
    uint32_t  i = 0;

    while (i < INFER_HIST_BUCKETS - 1 && us > infer_hist_bounds_us[i]) {
        i++;
    }

    atomic_fetch_add_explicit(&h->bucket[i], 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&h->sum_us, us, memory_order_relaxed);
    atomic_fetch_add_explicit(&h->count, 1, memory_order_relaxed);
}
