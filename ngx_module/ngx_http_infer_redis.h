
/*
 * The response cache's second tier in nginx: infer_redis blocks, jobs in their
 * thread pools, and what locations and requests keep of them.
 *
 *   redis_conf.c   infer_redis {}, infer_cache_secret, infer_cache_lock
 *   redis_zone.c   the thread pool and the zone of a block
 *   redis.c        a process's client, jobs, epochs, purges, the poll
 *   redis_lane.c   lookups of the event loop itself, over one connection
 *   cache_redis.c  a request's way: looked up, answered, waiting for a lock
 *   cache_redis_job.c
 *                  what threads do: read, lock, write back
 *
 * A job owns its memory and knows nothing of the request, which may end while
 * the job is under way: then its owner is NULL and what it brings is freed.
 */


#ifndef _NGX_HTTP_INFER_REDIS_H_INCLUDED_
#define _NGX_HTTP_INFER_REDIS_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>

#include "cache/redis.h"
#include "cache/redis_lane.h"
#include "cache/seal.h"
#include "text/api.h"


#define NGX_HTTP_INFER_REDIS_NAME  64      /* bytes of our keys in Redis */


typedef struct ngx_http_infer_redis_job_s  ngx_http_infer_redis_job_t;

typedef void (*ngx_http_infer_redis_run_pt)(ngx_http_infer_redis_job_t *job);
typedef void (*ngx_http_infer_redis_done_pt)(ngx_http_infer_redis_job_t *job);


/* in a zone of its own, which lives until nginx ends; all are counters */

typedef struct {
    infer_redis_shared_t         client;
    _Atomic uint64_t             hits;
    _Atomic uint64_t             misses;
    _Atomic uint64_t             errors;        /* could not be asked */
    _Atomic uint64_t             foreign;       /* values that did not open */
    _Atomic uint64_t             outdated;      /* of another epoch, too old */
    _Atomic uint64_t             stores;
    _Atomic uint64_t             store_errors;
    _Atomic uint64_t             dropped;       /* write-backs */
    _Atomic uint64_t             lock_waits;
    _Atomic uint64_t             lock_timeouts;
    _Atomic uint64_t             purges;
    _Atomic uint64_t             lane;          /* lookups it answered */
    _Atomic uint64_t             warned_ms;
} ngx_http_infer_redis_shm_t;


/* infer_redis {} */

typedef struct {
    ngx_str_t                    name;
    infer_redis_conf_t           conf;
    ngx_int_t                    level;         /* of zstd */
    ngx_str_t                    password_file;
    ngx_thread_pool_t           *thread_pool;
    ngx_shm_zone_t              *shm_zone;
    ngx_http_infer_redis_shm_t  *shm;
    uint8_t                     *secret;        /* of the main conf */
    ngx_str_t                    file;          /* where it is used first */
    ngx_uint_t                   line;
    unsigned                     used:1;

    /* this process's */

    ngx_pid_t                    pid;
    infer_redis_t               *client;
    ngx_uint_t                   reads;         /* jobs under way */
    ngx_uint_t                   writes;
    infer_redis_lane_t          *lane;          /* NULL: there is none now */
    ngx_connection_t            *lane_conn;
    ngx_queue_t                  lane_jobs;     /* as their replies come */
    int                          lane_rc;       /* not OK: to be ended */
} ngx_http_infer_redis_t;


/* what all jobs have; each kind adds its own behind */

struct ngx_http_infer_redis_job_s {
    ngx_thread_task_t            task;
    ngx_http_infer_redis_t      *redis;
    ngx_http_infer_redis_run_pt  run;           /* in a thread */
    ngx_http_infer_redis_done_pt done;          /* in the event loop */
    void                        *owner;         /* loop only; NULL: gone */
    uint64_t                     posted_us;
    ngx_queue_t                  queue;         /* in the lane: */
    ngx_http_infer_redis_done_pt told;
    infer_redis_got_t            got;
    int                          rc;
    unsigned                     write:1;
};


/* redis_zone.c */

ngx_int_t ngx_http_infer_redis_pool(ngx_conf_t *cf,
    ngx_http_infer_redis_t *redis);
ngx_int_t ngx_http_infer_redis_zone(ngx_conf_t *cf,
    ngx_http_infer_redis_t *redis);

/* redis_conf.c */

char *ngx_http_infer_redis_block(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
char *ngx_http_infer_cache_secret(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
char *ngx_http_infer_cache_lock(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);

/* the name of a cache zone's redis=; NULL after an error was logged */

ngx_http_infer_redis_t *ngx_http_infer_redis_use(ngx_conf_t *cf,
    ngx_str_t *name);
ngx_int_t ngx_http_infer_redis_finish(ngx_conf_t *cf, void *main);

/*
 * redis.c. post: OK, the job is under way and done() will be called, which
 * frees it; BUSY: too many are, or no server is to be asked now, and the job
 * stays the caller's. alloc: zeroed, of size bytes, at least a job's.
 */

void *ngx_http_infer_redis_job(ngx_http_infer_redis_t *redis, size_t size,
    ngx_http_infer_redis_run_pt run, ngx_http_infer_redis_done_pt done);
ngx_int_t ngx_http_infer_redis_post(ngx_http_infer_redis_job_t *job);
uint64_t ngx_http_infer_redis_wall_us(void);

/* why Redis does not answer, into the log now and then */

void ngx_http_infer_redis_warn(ngx_http_infer_redis_t *redis);

/*
 * redis_lane.c. get: OK: told() will be called, later, with the job's again;
 * rc is then OK (got is what came), BUSY (a miss, counted) or AGAIN (it was
 * not answered: a thread may ask). DECLINED: there is no lane, or too many are
 * in it. take: opens it, where it is closed and a connection is idle. exit: of
 * the process; jobs that wait are told BUSY, without an owner.
 */

ngx_int_t ngx_http_infer_lane_get(ngx_http_infer_redis_job_t *job,
    const char *key, const char *const counter[2],
    ngx_http_infer_redis_done_pt told);
void ngx_http_infer_lane_take(ngx_http_infer_redis_t *redis);
void ngx_http_infer_lane_exit(ngx_http_infer_redis_t *redis);

/* "infer:", a letter, and the name in hex; NUL-terminated */

#define NGX_HTTP_INFER_REDIS_VALUE    'v'
#define NGX_HTTP_INFER_REDIS_EPOCH    'e'
#define NGX_HTTP_INFER_REDIS_NUMBER   'n'
#define NGX_HTTP_INFER_REDIS_JOURNAL  'j'
#define NGX_HTTP_INFER_REDIS_LOCK     'l'

u_char *ngx_http_infer_redis_name(char *dst, u_char kind, u_char *id);

/* In a thread: gives counters that Redis does not have a beginning. counter
 * NULL: none. Codes of redis.h. */

int ngx_http_infer_redis_begin(infer_redis_t *client,
    const char *const counter[2], uint64_t count[2]);

void ngx_http_infer_redis_exit(void *main);

/* redis_status.c: main is the module's main configuration */

#define NGX_HTTP_INFER_METRICS_REDIS  24576     /* bytes of one, at most */

u_char *ngx_http_infer_metrics_redis(u_char *p, u_char *last, void *main);

#define NGX_HTTP_INFER_REDIS_YEARS  INFER_REDIS_MAX_TTL_MS


#endif /* _NGX_HTTP_INFER_REDIS_H_INCLUDED_ */
