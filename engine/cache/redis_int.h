/*
 * redis_int.h: what the files of the Redis client share: redis.c (the calls),
 * redis_conn.c (connections and their pool), redis_reply.c (bounded replies),
 * redis_breaker.c (servers that are passed by), redis_cluster.c (which node
 * has a key), redis_lane.c (lookups of an event loop). Times are microseconds
 * of CLOCK_MONOTONIC.
 *
 * One mutex guards the pool and the map of a cluster; it is never held over
 * a system call that waits, but for the condition.
 */

#ifndef INFER_CACHE_REDIS_INT_H
#define INFER_CACHE_REDIS_INT_H

#include <hiredis/read.h>
#include <pthread.h>
#include <string.h>

#include "cache/redis.h"
#include "text/buf.h"

#define REDIS_LINE_MAX  1024           /* of anything but a bulk string */
#define REDIS_PENDING   3              /* replies of one exchange, at most */
#define REDIS_SLOTS     16384
#define REDIS_NO_NODE   0xff           /* INFER_REDIS_NODES are fewer */

/* ---- redis_reply.c ---- */

/* Strings are NUL-terminated too and malloc'd; an array is a list. */
typedef struct redis_reply_s  redis_reply_t;

struct redis_reply_s {
    int             type;              /* REDIS_REPLY_* */
    long long       integer;
    char           *str;
    size_t          len;
    uint32_t        n;                 /* elements that are there */
    redis_reply_t  *first, *last, *next;
};

/* What one reply may have; counted down while it is read. */
typedef struct {
    size_t    bytes;                   /* of strings */
    uint32_t  objects;
    int       arrays;                  /* 0: none is expected */
    int       over;                    /* out: it had more */
} redis_budget_t;

/* The reader counts on budget, which outlives it. NULL: no memory. */
redisReader *infer_redis_reader(redis_budget_t *budget);
/* The next reply of what was fed: AGAIN when it is not whole yet and may
 * still fit the budget; CORRUPT: not RESP, or budget->over. */
int infer_redis_read(redisReader *r, redis_budget_t *budget,
    redis_reply_t **reply);
void infer_redis_reply_free(redis_reply_t *reply);
/* 1: an error that begins with word. */
int infer_redis_error(const redis_reply_t *reply, const char *word);

/* ---- redis_conn.c ---- */

typedef struct {
    infer_redis_addr_t  addr;
    uint64_t            id;            /* hash of addr, not 0 */
    uint32_t            breaker;       /* index in shared->server */
} redis_target_t;

typedef struct redis_conn_s  redis_conn_t;

struct redis_conn_s {
    redis_conn_t    *next;             /* idle; the last used first */
    uint64_t         id;               /* of its target */
    int              fd;
    int              reused;
    redisReader     *reader;
    redis_budget_t   budget;
};

/* Commands in RESP, and what is expected. */
typedef struct {
    const char      *data;
    size_t           len;
    uint32_t         n;                /* replies, <= REDIS_PENDING */
    const char      *key[REDIS_PENDING];    /* of a cluster: each one's, and */
    size_t           end[REDIS_PENDING];    /* where it ends in data */
    redis_budget_t   budget;           /* of each */
} redis_command_t;

/* Appends a command of n strings. */
void infer_redis_put(infer_buf_t *b, uint32_t n, ...);

/* A connection that is up and logged in. AGAIN: all are in use for too long;
 * BUSY: the server does not want one. fresh: not one from the pool. */
int infer_redis_conn_get(infer_redis_t *redis, const redis_target_t *target,
    uint64_t deadline_us, int fresh, redis_conn_t **conn);
/* Gives it back; broken: it is closed. */
void infer_redis_conn_put(infer_redis_t *redis, redis_conn_t *conn,
    int broken);
/* Sends and reads. On OK the replies are the caller's, in order; else there
 * are none and the connection is broken: BUSY timeout, AGAIN: lost before a
 * byte came, CORRUPT (lost in a reply, not RESP, too large), NOMEM. */
int infer_redis_exchange(infer_redis_t *redis, redis_conn_t *conn,
    const redis_command_t *cmd, uint64_t deadline_us,
    redis_reply_t *reply[REDIS_PENDING]);
void infer_redis_conn_close_all(infer_redis_t *redis);
/* An idle connection of id leaves the pool: *fd is the caller's, with nothing
 * asked and nothing said. AGAIN: there is none. */
int infer_redis_conn_detach(infer_redis_t *redis, uint64_t id, int *fd);
/* INVALID when it is neither a number nor a path that fits. */
int infer_redis_target(redis_target_t *target,
    const infer_redis_addr_t *addr);

/* ---- redis_breaker.c ---- */

/* 1: the server may be asked; *probe: as the only one for retry_ms. */
int infer_redis_allow(infer_redis_t *redis, uint32_t i, int *probe);
/* How a call to it went. */
void infer_redis_tell(infer_redis_t *redis, uint32_t i, int good, int probe);
/* The index that all processes use for a cluster's node. */
uint32_t infer_redis_place(infer_redis_shared_t *shared, uint64_t id);

/* ---- redis.c ---- */

/* Asks one server, through its breaker: OK: the replies are there, none says
 * that the server cannot serve; BUSY; NOMEM. *asked: 1 when it was asked at
 * all, else as it was. */
int infer_redis_ask(infer_redis_t *redis, const redis_target_t *target,
    const redis_command_t *cmd, uint64_t deadline_us,
    redis_reply_t *reply[REDIS_PENDING], int *asked);
void infer_redis_free_replies(redis_reply_t *reply[REDIS_PENDING]);
uint64_t infer_redis_now_us(void);

/* INFER_REDIS_* of a reply that was not expected. */
uint32_t infer_redis_reason(const redis_reply_t *reply);
/* 1: a reply says that the server as a whole is of no use now. */
int infer_redis_unfit(infer_redis_t *redis,
    redis_reply_t *const reply[REDIS_PENDING]);
/* OK: a counter's value, 0 of none; else no counter. */
int infer_redis_counter(const redis_reply_t *reply, uint64_t *count);
/* 1: there is a key, and it is not too long. */
int infer_redis_key_sane(const char *key);
/* A call took so long. */
void infer_redis_measure(infer_redis_shared_t *shared, uint64_t us);

/* ---- redis_cluster.c ---- */

typedef struct {
    uint32_t        n_nodes;
    redis_target_t  node[INFER_REDIS_NODES];
    uint8_t         slot[REDIS_SLOTS]; /* node, or REDIS_NO_NODE */
    int             stale;             /* to be asked for again */
    int             asking;            /* a thread does */
    uint64_t        asked_us;          /* 0: never */
    uint32_t        turn;              /* whom to ask first */
} redis_map_t;

uint32_t infer_redis_slot(const char *key);
redis_map_t *infer_redis_map_new(void);
/* As infer_redis_ask(), each command at the node of its key, following
 * redirects; those of one node go together. */
int infer_redis_cluster_ask(infer_redis_t *redis,
    const redis_command_t *cmd, uint64_t deadline_us,
    redis_reply_t *reply[REDIS_PENDING], int *asked);

struct infer_redis_s {
    infer_redis_conf_t     conf;
    infer_redis_shared_t  *shared;
    redis_target_t         server[INFER_REDIS_SERVERS];
    pthread_mutex_t        lock;
    pthread_cond_t         freed;      /* a connection */
    pthread_cond_t         mapped;     /* map->asking is over */
    redis_conn_t          *idle;
    uint32_t               n_conns;    /* idle and in use */
    redis_map_t           *map;        /* of a cluster, or NULL */
};

#define infer_redis_blame(redis, reason)                                    \
    ((void) atomic_store_explicit(&(redis)->shared->why, (reason),          \
                                  memory_order_relaxed))
#define infer_redis_add(counter, n)                                         \
    ((void) atomic_fetch_add_explicit(&(counter), (n), memory_order_relaxed))

#endif
