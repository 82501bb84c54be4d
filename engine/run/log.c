/*
 * log.c: lines of the engine. They go through the bus's ring and a worker
 * writes them into nginx's error log; stderr is for when no worker is there.
 */

#include <string.h>

#include "run/engine.h"


void
infer_engine_log(infer_engine_t *e, uint32_t level, const char *fmt, ...)
{
    int       n;
    char      line[sizeof(e->bus.ring->text)];
    va_list   ap;
    uint32_t  k;

    va_start(ap, fmt);
    n = vsnprintf(line, sizeof(line), fmt, ap);
    va_end(ap);

    if (n < 0) {
        return;
    }

    infer_ring_put(&e->bus, level, "%s", line);

    for (k = 0; k < INFER_MAX_ENTRIES; k++) {
        if (atomic_load(&e->bus.entry[k].state) != INFER_ENTRY_FREE) {
            return;
        }
    }

    fprintf(stderr, "%s\n", line);
}
