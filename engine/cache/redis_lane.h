/*
 * redis_lane.h: the lane: lookups pipelined over one connection that an event
 * loop owns, so that they need no thread. What is here knows no sockets: it
 * writes commands into a buffer, takes the bytes that came, and gives replies
 * in order, bounded as those of redis.h are. Who owns the descriptor sends,
 * receives, and ends lookups whose time is over. Not for a cluster, where a
 * value and its counters lie on different nodes.
 *
 * A lane begins as a connection that a thread's call has just used and left
 * idle: it is up, logged in and proven. So nothing here connects, and a server
 * that was passed by is probed by threads alone. Counters, latency and breaker
 * are the client's, and mean the same as for its own calls.
 *
 * One thread uses a lane, other threads the client beside it. Memory of a
 * lane: INFER_REDIS_LANE_DEPTH commands, and at most one reply of max_value
 * and some; none that was only claimed.
 */

#ifndef INFER_CACHE_REDIS_LANE_H
#define INFER_CACHE_REDIS_LANE_H

#include "cache/redis.h"

#define INFER_REDIS_LANE_DEPTH  128     /* lookups that wait; a power of 2 */

typedef struct infer_redis_lane_s  infer_redis_lane_t;

/* What became of a lookup. OK: value is malloc'd and the taker's; AGAIN: no
 * value; both: the counters, 0 for one that is not there. BUSY: an error
 * reply, or a lookup that failed with its connection. */
typedef struct {
    int       rc;
    void     *value;
    size_t    len;
    uint64_t  count[2];
} infer_redis_got_t;

/* Takes an idle connection of the server that is to be asked now; *fd is the
 * caller's from here on: connected, non-blocking, close-on-exec, and not one
 * of conf's `connections` any more. Blocks on nothing but the client's mutex,
 * which nobody holds over a call that waits. AGAIN: there is none, or the
 * server is to be probed first; UNSUPPORTED: a cluster; NOMEM. */
int infer_redis_lane_take(infer_redis_t *redis, infer_redis_lane_t **lane,
    int *fd);
/* One to the i-th server without a connection; take() uses it. */
int infer_redis_lane_new(infer_redis_t *redis, uint32_t i,
    infer_redis_lane_t **lane);
/* Lookups that wait are forgotten and not counted. The descriptor stays the
 * caller's, the client is not freed before. */
void infer_redis_lane_free(infer_redis_lane_t *lane);

/* 1: its server is the one that a call would ask first now. */
int infer_redis_lane_first(const infer_redis_lane_t *lane);

/* A lookup as of infer_redis_get(), begun at now_us (CLOCK_MONOTONIC). BUSY:
 * too many wait; INVALID: a key; NOMEM: the lane is of no use any more. */
int infer_redis_lane_get(infer_redis_lane_t *lane, const char *key,
    const char *const counter[2], uint64_t now_us);
/* What is to be sent; n bytes of it were. Valid until the next get. */
const char *infer_redis_lane_out(const infer_redis_lane_t *lane, size_t *len);
void infer_redis_lane_sent(infer_redis_lane_t *lane, size_t n);

/* Bytes that came, at most 64 KiB, followed by pops until AGAIN. NOMEM. */
int infer_redis_lane_feed(infer_redis_lane_t *lane, const void *data,
    size_t n);
/* The next lookup's end. AGAIN: it is not whole yet; CORRUPT: not RESP, not
 * what was asked for, too large, or unasked for; NOMEM. After both the lane is
 * to be ended. */
int infer_redis_lane_pop(infer_redis_lane_t *lane, uint64_t now_us,
    infer_redis_got_t *got);

/* Lookups that wait, and until when the first one does; 0: none. */
uint32_t infer_redis_lane_waiting(const infer_redis_lane_t *lane);
uint64_t infer_redis_lane_until_us(const infer_redis_lane_t *lane);

/*
 * The connection is over: pop() or feed() said so with rc, or BUSY: the first
 * lookup's time is, or AGAIN: it was closed. Returns how many of those that
 * wait, from the first on, have failed and are counted: all after BUSY; else
 * the one whose reply had begun. The others were not answered and may be asked
 * for otherwise. Only infer_redis_lane_free() may follow.
 */
uint32_t infer_redis_lane_end(infer_redis_lane_t *lane, int rc,
    uint64_t now_us);

#endif
