
/*
 * What cache_redis.c (a request's way, in the event loop) and
 * cache_redis_job.c (what threads do) share.
 */


#ifndef _NGX_HTTP_INFER_CACHE_REDIS_H_INCLUDED_
#define _NGX_HTTP_INFER_CACHE_REDIS_H_INCLUDED_


#include "ngx_http_infer_request.h"


#define NGX_HTTP_INFER_L2_LOCK       3000      /* ms that a lock lives */
#define NGX_HTTP_INFER_L2_BEAT       1000      /* between renewals */


typedef enum {
    NGX_HTTP_INFER_L2_MISS = 0,
    NGX_HTTP_INFER_L2_HIT,
    NGX_HTTP_INFER_L2_OLD,                      /* past its time, of use */
    NGX_HTTP_INFER_L2_FOREIGN,
    NGX_HTTP_INFER_L2_OUTDATED
} ngx_http_infer_l2_found_e;


typedef struct {
    char                         key[NGX_HTTP_INFER_REDIS_NAME];
    char                         tag[NGX_HTTP_INFER_REDIS_NAME];
    char                         all[NGX_HTTP_INFER_REDIS_NAME];
    char                         lock[NGX_HTTP_INFER_REDIS_NAME];
    char                         owner[2 * 16 + 1];
} ngx_http_infer_l2_names_t;


typedef struct ngx_http_infer_l2_job_s  ngx_http_infer_l2_job_t;


struct ngx_http_infer_l2_job_s {
    ngx_http_infer_redis_job_t   job;
    ngx_http_infer_l2_job_t     *next;          /* to be posted when done */
    ngx_http_infer_l2_names_t    name;
    infer_buf_t                  ident;
    uint64_t                     epoch[2];      /* of the tag, of all */
    size_t                       max;

    ngx_http_infer_l2_found_e    found;
    void                        *data;          /* what sealed points into */
    infer_sealed_t               sealed;

    infer_buf_t                  value;         /* to be written */
    uint64_t                     fresh_ms;
    uint64_t                     stale_ms;
    unsigned                     lock:1;        /* wanted */
    unsigned                     locked:1;
    unsigned                     renew:1;
};


/* of a request, in its pool */

struct ngx_http_infer_l2_s {
    ngx_http_infer_redis_t      *redis;
    ngx_http_infer_l2_job_t     *job;           /* under way */
    ngx_http_infer_l2_names_t    name;
    uint64_t                     epoch[2];
    uint64_t                     purges;        /* of L1, when we asked */
    uint64_t                     until_us;      /* the lock is waited for */
    ngx_msec_t                   pause;
    ngx_event_t                  timer;
    unsigned                     known:1;       /* the epochs are */
    unsigned                     locked:1;
    unsigned                     own:1;         /* malloc'd: of a refresh */
};


/* a job whose name and ident are given is under way, by the lane or, without
 * one, by a thread; codes of ngx_http_infer_redis_post() */

ngx_int_t ngx_http_infer_l2_post(ngx_http_infer_l2_job_t *job);

/* in a thread; epochs: of a job whose name alone is given */

void ngx_http_infer_l2_read(ngx_http_infer_redis_job_t *rj);
void ngx_http_infer_l2_epochs(ngx_http_infer_redis_job_t *rj);

/* done() of jobs that nobody waits for */

void ngx_http_infer_l2_free(ngx_http_infer_redis_job_t *rj);

/* a job that writes is under way, or BUSY, and freed */

ngx_int_t ngx_http_infer_l2_post_write(ngx_http_infer_l2_job_t *job);

/* the lock: kept for a while, by the timer; given back; OK: a job does it */

void ngx_http_infer_l2_beat(ngx_http_infer_ctx_t *ctx);
void ngx_http_infer_l2_unlock(ngx_http_infer_l2_t *l2);
ngx_int_t ngx_http_infer_l2_owner(ngx_http_infer_l2_t *l2,
    ngx_uint_t renew);


#endif /* _NGX_HTTP_INFER_CACHE_REDIS_H_INCLUDED_ */
