/*
 * redis_breaker.c: which servers are passed by. All in shared memory, by
 * relaxed atomics: nothing else is ordered by them.
 *
 *   closed     open_until_ms 0
 *   open       before open_until_ms
 *   half open  from then on, until one call moves open_until_ms on by CAS:
 *              that one is the probe, for all others it is open again; a
 *              probe whose process died is followed by another
 */

#include <time.h>

#include "cache/redis_int.h"


static uint64_t
breaker_now_ms(void)
{
    return infer_redis_now_us() / 1000;
}

int
infer_redis_allow(infer_redis_t *redis, uint32_t i, int *probe)
{
    uint64_t           now, until;
    _Atomic uint64_t  *open = &redis->shared->server[i].open_until_ms;

    *probe = 0;
    until = atomic_load_explicit(open, memory_order_relaxed);
    if (redis->conf.failures == 0 || until == 0) {
        return 1;
    }
    now = breaker_now_ms();
    if (now < until) {
        return 0;
    }
    *probe = atomic_compare_exchange_strong_explicit(open, &until,
                 now + redis->conf.retry_ms, memory_order_relaxed,
                 memory_order_relaxed);
    return *probe;
}

void
infer_redis_tell(infer_redis_t *redis, uint32_t i, int good, int probe)
{
    uint32_t           n;
    uint64_t           zero = 0, until;
    _Atomic uint32_t  *failures = &redis->shared->server[i].failures;
    _Atomic uint64_t  *open = &redis->shared->server[i].open_until_ms;

    if (good) {
        if (atomic_load_explicit(failures, memory_order_relaxed) != 0) {
            atomic_store_explicit(failures, 0, memory_order_relaxed);
        }
        if (atomic_load_explicit(open, memory_order_relaxed) != 0) {
            atomic_store_explicit(open, 0, memory_order_relaxed);
        }
        return;
    }

    n = atomic_fetch_add_explicit(failures, 1, memory_order_relaxed) + 1;
    if (redis->conf.failures == 0) {
        return;
    }
    until = breaker_now_ms() + redis->conf.retry_ms;
    if (probe) {
        atomic_store_explicit(open, until, memory_order_relaxed);

    } else if (n >= redis->conf.failures) {
        (void) atomic_compare_exchange_strong_explicit(open, &zero, until,
                   memory_order_relaxed, memory_order_relaxed);
    }
}

/* A node that is new takes a free place; when all are taken, by nodes that
 * came and went, it takes one over: its state there begins anew. */
uint32_t
infer_redis_place(infer_redis_shared_t *shared, uint64_t id)
{
    uint32_t  i;
    uint64_t  is;

    for (i = 0; i < INFER_REDIS_NODES; i++) {
        is = atomic_load_explicit(&shared->server[i].node,
                                  memory_order_relaxed);
        if (is == 0) {
            (void) atomic_compare_exchange_strong_explicit(
                &shared->server[i].node, &is, id, memory_order_relaxed,
                memory_order_relaxed);
            is = is == 0 ? id : is;
        }
        if (is == id) {
            return i;
        }
    }

    i = (uint32_t) (id % INFER_REDIS_NODES);
    atomic_store_explicit(&shared->server[i].node, id, memory_order_relaxed);
    atomic_store_explicit(&shared->server[i].failures, 0,
                          memory_order_relaxed);
    atomic_store_explicit(&shared->server[i].open_until_ms, 0,
                          memory_order_relaxed);
    return i;
}

int
infer_redis_breaker(const infer_redis_shared_t *shared, uint32_t i,
    uint64_t now_ms)
{
    uint64_t  until;

    until = atomic_load_explicit(&shared->server[i].open_until_ms,
                                 memory_order_relaxed);
    return until == 0 ? 0 : now_ms < until ? 1 : 2;
}
