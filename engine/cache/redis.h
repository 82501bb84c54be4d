/*
 * redis.h: L2 of the response cache: a small blocking client over hiredis for
 * the threads of a pool of its own. Never called on an event loop, which has
 * redis_lane.h for its lookups. Every call ends within conf's times:
 * connecting, each command, and a redirect are bounded, nothing is retried
 * without end.
 *
 * Speaks RESP2 without TLS, over TCP and unix sockets. Several servers are
 * tried in order (failover); with `cluster` they are only where the topology
 * is asked for, and keys go where CRC16 sends them (redis.io, "Redis cluster
 * specification"). What a server sends is bounded: a reply larger than
 * max_value and some, deeper or wider than our commands can have, closes the
 * connection and allocates no more than what has arrived.
 *
 * The breaker: after `failures` failed calls in a row to a server, by whatever
 * process, it is not asked for retry_ms; then one call probes it, the others
 * still pass it by. Its state and all counters lie in memory that all
 * processes share.
 */

#ifndef INFER_CACHE_REDIS_H
#define INFER_CACHE_REDIS_H

#include <stdatomic.h>

#include "infer.h"

#define INFER_REDIS_SERVERS   16
#define INFER_REDIS_NODES     64        /* of a cluster; masters */
#define INFER_REDIS_KEY_MAX   128
#define INFER_REDIS_BUCKETS   12        /* of latency */
#define INFER_REDIS_MAX_MS    3600000   /* connect_ms, command_ms */
#define INFER_REDIS_MAX_TTL_MS  (10ull * 365 * 86400000)

enum {
    INFER_REDIS_WELL = 0,
    INFER_REDIS_UNREACHABLE,            /* no connection */
    INFER_REDIS_TIMEOUT,
    INFER_REDIS_LOST,                   /* closed before the reply was whole */
    INFER_REDIS_NONSENSE,               /* not RESP, or not what was asked */
    INFER_REDIS_OVERSIZED,              /* larger than it may be */
    INFER_REDIS_DENIED,                 /* user, password or permission */
    INFER_REDIS_UNREADY,                /* loading, or its master is away */
    INFER_REDIS_MEMORY,                 /* it has no room for the value */
    INFER_REDIS_CROWDED,                /* no connection is free */
    INFER_REDIS_UNSERVED,               /* no node of a cluster has the key */
    INFER_REDIS_ERROR                   /* another error reply */
};

typedef struct {
    char      host[256];                /* a numeric IPv4 or IPv6 address:
                                         * a resolver's time has no bound;
                                         * or the path of a unix socket */
    uint16_t  port;                     /* 0: a unix socket */
} infer_redis_addr_t;

typedef struct {
    infer_redis_addr_t  server[INFER_REDIS_SERVERS];
    uint32_t            n_servers;
    uint32_t            cluster;
    uint32_t            database;       /* not with cluster */
    uint32_t            connections;    /* at most, of one process */
    uint32_t            connect_ms;
    uint32_t            command_ms;
    uint32_t            failures;       /* in a row; 0: no breaker */
    uint32_t            retry_ms;
    size_t              max_value;      /* bytes of a value, both ways */
    char                user[128];      /* empty: none */
    char                password[256];  /* empty: no AUTH */
} infer_redis_conf_t;

/* Of one infer_redis block, in memory that all processes share; zeroed by who
 * makes it. One writer per field does not hold here: all are relaxed atomics,
 * counters by fetch_add, the breaker by CAS. */
typedef struct {
    struct {
        _Atomic uint32_t  failures;     /* in a row */
        _Atomic uint64_t  open_until_ms;    /* CLOCK_MONOTONIC; 0: closed */
        _Atomic uint64_t  node;         /* of a cluster: hash of its address,
                                         * 0: none; else server i is i */
    } server[INFER_REDIS_NODES];
    _Atomic uint64_t  calls, failed, refused;   /* refused by the breaker */
    _Atomic uint64_t  connects, redirects, oversized;
    _Atomic uint64_t  sent_bytes, received_bytes;
    /* calls that took up to 2^i / 8 ms: 0.125, 0.25 ... 128, longer */
    _Atomic uint64_t  latency[INFER_REDIS_BUCKETS];
    _Atomic uint64_t  latency_us;       /* sum */
    _Atomic uint32_t  why;              /* INFER_REDIS_*, of the last BUSY
                                         * that was not the breaker's */
} infer_redis_shared_t;

typedef struct infer_redis_s  infer_redis_t;    /* of one process */

/* conf is copied, shared stays the caller's and outlives the client. Connects
 * to nothing yet. INVALID: conf (an address, a time of 0, a database of a
 * cluster); NOMEM. */
int infer_redis_new(infer_redis_t **redis, const infer_redis_conf_t *conf,
    infer_redis_shared_t *shared);
/* No call may be under way. */
void infer_redis_free(infer_redis_t *redis);

/*
 * Calls; of any thread, several at once. All return:
 *   OK       done
 *   AGAIN    nothing there, or for locks: another has it
 *   BUSY     not now: breaker open, no connection free in time, timeout, lost
 *            connection, error reply, CLUSTERDOWN; counted
 *   INVALID  key or value too long, no key, a time out of range
 *   NOMEM
 * Keys are bytes without NUL and of at most INFER_REDIS_KEY_MAX.
 */

/* The value of a key and of up to two counters (NULL: none), in one round
 * trip where they live on one server. A counter that does not exist is 0. The
 * value is malloc'd and the caller's. */
int infer_redis_get(infer_redis_t *redis, const char *key,
    const char *const counter[2], void **value, size_t *len,
    uint64_t count[2]);
/* SET with PX; ttl_ms: 1..INFER_REDIS_MAX_TTL_MS. */
int infer_redis_set(infer_redis_t *redis, const char *key, const void *value,
    size_t len, uint64_t ttl_ms);
/* AGAIN: there was none. */
int infer_redis_del(infer_redis_t *redis, const char *key);
/* INCR; a counter never expires. */
int infer_redis_count(infer_redis_t *redis, const char *counter,
    uint64_t *count);

/* A lock that its owner keeps alive: OK: ours. AGAIN: another's. renew and
 * unlock do nothing to a lock that is not owner's any more (AGAIN). */
int infer_redis_lock(infer_redis_t *redis, const char *key,
    const char *owner, uint64_t ttl_ms);
int infer_redis_renew(infer_redis_t *redis, const char *key,
    const char *owner, uint64_t ttl_ms);
int infer_redis_unlock(infer_redis_t *redis, const char *key,
    const char *owner);

/* 0 closed, 1 open, 2 half open: of the i-th server at now_ms
 * (CLOCK_MONOTONIC). Any process. */
int infer_redis_breaker(const infer_redis_shared_t *shared, uint32_t i,
    uint64_t now_ms);
/* shared->why as the end of a sentence, for a log. */
const char *infer_redis_why(uint32_t why);

#endif
