
/*
 * The response cache's first tier in nginx: a shared memory zone that holds
 * an infer_store_t (engine/cache), what locations say about it, and what a
 * request carries along. cache_conf.c has the directives, cache_zone.c the
 * zone, cache.c the way of a request.
 */


#ifndef _NGX_HTTP_INFER_CACHE_H_INCLUDED_
#define _NGX_HTTP_INFER_CACHE_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>

#include "cache/answer.h"
#include "cache/key.h"
#include "cache/owner.h"
#include "cache/store.h"
#include "ngx_http_infer_redis.h"


/* infer_cache_use_stale; 1 is NGX_CONF_BITMASK_SET */

#define NGX_HTTP_INFER_STALE_ERROR     0x0002
#define NGX_HTTP_INFER_STALE_TIMEOUT   0x0004
#define NGX_HTTP_INFER_STALE_OVERLOAD  0x0008
#define NGX_HTTP_INFER_STALE_UPDATING  0x0010
#define NGX_HTTP_INFER_STALE_ALL       0x001e
#define NGX_HTTP_INFER_STALE_OFF       0x0020
#define NGX_HTTP_INFER_STALE_CAUSES    4


/* what workers count: old answers by cause, in the order of the bits above,
 * and refreshes */

typedef struct {
    ngx_atomic_t                 stale[NGX_HTTP_INFER_STALE_CAUSES];
    ngx_atomic_t                 refreshes[3];  /* started, done, failed */
} ngx_http_infer_cache_counts_t;


/* in the zone's shared memory; lives until nginx ends or the size changes */

typedef struct {
    u_char                       secret[16];    /* of the keys */
    size_t                       bytes;
    void                        *store;
    ngx_http_infer_cache_counts_t
                                 counts;
    _Atomic uint64_t             purges;        /* ever, by anybody */
    _Atomic uint64_t             polled_ms;     /* with redis=: when Redis */
    _Atomic uint64_t             seen;          /* was asked for the number */
    _Atomic uint32_t             known;         /* of purges, and it */
    infer_owners_t               owners;
} ngx_http_infer_cache_shm_t;


typedef struct ngx_http_infer_cache_life_s  ngx_http_infer_cache_life_t;


/* infer_cache_zone; in the cycle's pool, the view is each process's own */

typedef struct {
    ngx_str_t                    name;
    ngx_uint_t                   shards;
    ngx_shm_zone_t              *shm_zone;
    ngx_http_infer_cache_shm_t  *shm;
    ngx_http_infer_cache_life_t *life;
    infer_store_t                store;
    ngx_pid_t                    pid;           /* that attached */
    ngx_msec_t                   recovered;

    ngx_http_infer_redis_t      *redis;         /* NULL: none */
    u_char                       redis_id[INFER_STORE_KEY];
    ngx_event_t                  poll;
    unsigned                     polling:1;
} ngx_http_infer_cache_t;


/* what a body's answer depends on, but for the body and the system prompt */

typedef struct {
    infer_key_space_t            space;
    u_char                       names[20];     /* of the model */
    uint32_t                     endpoint;
    uint32_t                     seed_set;
    uint32_t                     max_tokens;
    uint32_t                     max_tokens_cap;
    uint32_t                     max_n;
    uint32_t                     day;           /* templates may ask */
    uint32_t                     system_len;
    uint32_t                     sampled;
    infer_sampling_t             sampling;
} ngx_http_infer_cache_body_t;


/*
 * What a process has hashed for a location and need not hash again: the scope
 * of clients without credentials, and the key for bodies behind a head.
 */

typedef struct {
    ngx_http_infer_cache_body_t  head;
    u_char                       key[INFER_STORE_KEY];  /* of bodies */
    u_char                       anonymous[INFER_STORE_KEY];
    unsigned                     has_key:1;
    unsigned                     has_anonymous:1;
} ngx_http_infer_cache_memo_t;


/* of a location */

typedef struct {
    ngx_http_infer_cache_t      *cache;         /* NULL: off */
    ngx_http_infer_redis_t      *redis;         /* NULL: one tier */
    ngx_msec_t                   lock_ms;       /* 0: no lock over nodes */
    ngx_msec_t                   stop_ms;       /* how long answers are */
    ngx_msec_t                   length_ms;     /* good, by their end */
    size_t                       max_size;      /* of one answer's log */
    ngx_flag_t                   sampled;
    ngx_uint_t                   use_stale;     /* NGX_HTTP_INFER_STALE_* */
    ngx_msec_t                   stale_ms;      /* for so long */
    ngx_flag_t                   refresh;       /* as said */
    ngx_uint_t                   ahead;         /* hot ones before the end */
    ngx_uint_t                   pace;          /* tokens/s, 0: at once */
    ngx_http_complex_value_t    *scope;         /* NULL: by credentials */
    ngx_http_complex_value_t    *tag;
    ngx_array_t                 *bypass;        /* ngx_http_complex_value_t */
    ngx_array_t                 *no_cache;
    ngx_http_infer_cache_t      *purge;         /* of a purge location */
    ngx_http_infer_cache_memo_t  memo;
} ngx_http_infer_cache_conf_t;


typedef struct ngx_http_infer_l2_s  ngx_http_infer_l2_t;   /* cache_redis.c */


/* of a request that may be cached */

typedef struct {
    ngx_http_infer_cache_conf_t *conf;
    infer_key_space_t            space;
    u_char                       body_key[INFER_STORE_KEY];
    u_char                       log_key[INFER_STORE_KEY];
    infer_buf_t                  body;          /* ident, until used */
    infer_buf_t                  ident;         /* of the request */
    infer_buf_t                 *logs;          /* [nchoices] packed */
    uint64_t                     tag;
    infer_store_epochs_t         epochs;        /* before it was looked for */
    infer_store_flight_t         flight;        /* what we read */
    infer_store_flight_t         failed;        /* what we read before */
    u_char                      *old;           /* past its time, or NULL; */
    size_t                       old_len;       /* in the request's pool */
    uint64_t                     old_age_ms;
    uint32_t                     frequency;     /* of what was looked up */
    unsigned                     old_page:1;    /* it is a page, not logs */
    unsigned                     expired:1;     /* there was one */
    ngx_http_infer_l2_t         *l2;            /* NULL: not asked */
    unsigned                     lookup:1;
    unsigned                     store:1;
    unsigned                     flying:1;
    unsigned                     shared:1;      /* a key of all nodes */
    unsigned                     second:1;      /* a hit of the second tier */
} ngx_http_infer_cache_ctx_t;


/* of a purge: a tag, all (0), or a key, whose tag is that of its origin */

typedef struct {
    uint64_t                     tag;
    u_char                       key[INFER_STORE_KEY];
    unsigned                     by_key:1;
} ngx_http_infer_purge_t;


/* a rendered answer: this, then its bytes with id and time left blank. The
 * zone outlives a module that is replaced */

#define NGX_HTTP_INFER_CACHE_PAGE  4

typedef struct {
    uint32_t                     version;       /* ..._CACHE_PAGE */
    uint32_t                     stream;
    uint32_t                     prompt_tokens;
    uint32_t                     completion_tokens;
    uint32_t                     finish;
    uint32_t                     age;           /* s, when it was rendered */
    uint32_t                     id_at;         /* the only marks in it, */
    uint32_t                     time_at;       /* or 0: look for them */
    u_char                       key[INFER_STORE_KEY];  /* of its logs */
} ngx_http_infer_cache_page_t;


/* what answering a hit needs of the request's pool, in one piece; the value
 * that was copied lies behind it, after room for it to grow in front */

typedef struct {
    ngx_http_request_body_t      rb;
    ngx_chain_t                  in;
    ngx_chain_t                  out;
    ngx_buf_t                    in_buf;
    ngx_buf_t                    out_buf;
    char                         age[INFER_ANSWER_DECIMAL];
} ngx_http_infer_hit_room_t;


/* a page that was found: where it lies, and its head once it is read */

typedef struct {
    ngx_pool_t                  *pool;
    size_t                       grow;          /* when it is filled in */
    ngx_http_infer_hit_room_t   *room;
    infer_store_get_t            got;
    infer_store_ref_t            ref;           /* unless got.value */
    ngx_http_infer_cache_page_t  head;
} ngx_http_infer_hit_t;


/* values of so many bytes are sent out of the zone, shorter ones are copied
 * (kernels/bench/LOG.md) */

#define NGX_HTTP_INFER_CACHE_REF_MIN  4096


/* cache_conf.c */

char *ngx_http_infer_cache_zone(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
char *ngx_http_infer_cache(ngx_conf_t *cf, ngx_command_t *cmd, void *conf);
char *ngx_http_infer_cache_valid(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
char *ngx_http_infer_cache_use_stale(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
char *ngx_http_infer_cache_purge(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
void ngx_http_infer_cache_create_conf(ngx_http_infer_cache_conf_t *conf);
char *ngx_http_infer_cache_merge_conf(ngx_http_infer_cache_conf_t *prev,
    ngx_http_infer_cache_conf_t *conf);

/* cache_zone.c: the zone of a cycle that comes and of one that goes */

ngx_int_t ngx_http_infer_cache_init(ngx_shm_zone_t *shm_zone, void *data);
void ngx_http_infer_cache_cleanup(void *data);

/* this process's view, or NULL */

infer_store_t *ngx_http_infer_cache_enter(ngx_http_infer_cache_t *cache);

/* what scopes and tags are hashed with: the same on all nodes with redis= */

u_char *ngx_http_infer_cache_hash_key(ngx_http_infer_cache_t *cache);

/* cache_status.c: of all caches; main is the module's main configuration */

u_char *ngx_http_infer_metrics_caches(u_char *p, u_char *last, void *main);

/* a shard was busy: perhaps its owner is dead */

void ngx_http_infer_cache_busy(ngx_http_infer_cache_t *cache);


#endif /* _NGX_HTTP_INFER_CACHE_H_INCLUDED_ */
