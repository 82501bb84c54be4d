
/*
 * The context of one request, shared by the files that serve requests:
 * handler.c, request.c, submit.c, event.c, output.c, health.c, metrics.c,
 * filter.c and auth.c.
 *
 * A request's small state lives in its pool. What is large, or is made by a
 * thread, is malloc'd: a pool cleanup frees it, since HTTP/2 frames may refer
 * to the output buffer until the pool goes. A request cleanup, which runs as
 * soon as the client is gone, gives back the slots.
 */


#ifndef _NGX_HTTP_INFER_REQUEST_H_INCLUDED_
#define _NGX_HTTP_INFER_REQUEST_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>

#include "ngx_http_infer_module.h"
#include "text/api.h"
#include "text/stream.h"


#define NGX_HTTP_INFER_ID_MAX  128


/* the first ones are INFER_API_*, asked by POST; the others by GET */

typedef enum {
    NGX_HTTP_INFER_CHAT = INFER_API_CHAT,
    NGX_HTTP_INFER_COMPLETIONS = INFER_API_COMPLETIONS,
    NGX_HTTP_INFER_TOKENIZE = INFER_API_TOKENIZE,
    NGX_HTTP_INFER_DETOKENIZE = INFER_API_DETOKENIZE,
    NGX_HTTP_INFER_TEMPLATE = INFER_API_TEMPLATE,
    NGX_HTTP_INFER_MODELS,
    NGX_HTTP_INFER_LIVE,
    NGX_HTTP_INFER_READY,
    NGX_HTTP_INFER_METRICS
} ngx_http_infer_endpoint_e;


typedef struct ngx_http_infer_ctx_s  ngx_http_infer_ctx_t;
typedef struct ngx_http_infer_job_s  ngx_http_infer_job_t;   /* request.c */
typedef struct ngx_http_infer_pace_s  ngx_http_infer_pace_t;  /* pace.c */


/* one generation: a slot of the bus */

typedef struct ngx_http_infer_choice_s  ngx_http_infer_choice_t;

struct ngx_http_infer_choice_s {
    ngx_http_infer_ctx_t       *ctx;
    ngx_http_infer_choice_t    *next;           /* of the same slot, here */
    infer_ref_t                 ref;
    infer_cursor_t              cursor;
    infer_stream_t             *stream;         /* made at the first token */
    uint32_t                    nread;          /* records taken */
    unsigned                    held:1;         /* the slot is ours */
    unsigned                    done:1;         /* as seen in this turn */
    unsigned                    ended:1;
    unsigned                    joined:1;       /* another request began it */
};


struct ngx_http_infer_ctx_s {
    ngx_http_infer_info_t       info;           /* first: module.h */

    ngx_http_request_t         *request;        /* NULL: a refresh */
    ngx_http_infer_model_t     *model;
    ngx_http_infer_bus_t       *bus;
    ngx_http_infer_endpoint_e   endpoint;

    ngx_http_infer_job_t       *job;            /* in the thread pool */
    infer_api_request_t        *req;
    ngx_http_infer_cache_ctx_t *cache;          /* NULL: not cached */
    infer_render_t             *render;
    ngx_http_infer_pace_t      *pace;           /* NULL: not from the cache */
    infer_buf_t                 out;            /* what busy points to */
    ngx_chain_t                *free;
    ngx_chain_t                *busy;

    ngx_http_infer_choice_t    *choices;
    ngx_uint_t                  nchoices;
    uint64_t                    cached_tokens;
    u_char                      scope[16];      /* of shared prefixes */

    infer_terms_t               terms;          /* this client's own */
    ngx_msec_t                  ping;           /* 0: none */
    ngx_msec_t                  last_sent;
    ngx_event_t                 timer;
    ngx_queue_t                 queue;          /* event.c */

    ngx_str_t                   page;           /* filter.c */

    ngx_table_elt_t            *api_key;        /* of the request, or NULL */
    ngx_table_elt_t            *cache_control;
    u_char                      id[32];         /* when it gave none */

    unsigned                    ready:1;        /* in the queue */
    unsigned                    blocked:1;      /* output waits */
    unsigned                    done:1;         /* answered, well or not */
    unsigned                    own:1;          /* the answer is ours */
    unsigned                    page_sent:1;
    unsigned                    outlived:1;     /* by what it reads */
    unsigned                    freed:1;        /* out is, with the pool */
};


#define ngx_http_infer_log(ctx)                                               \
    ((ctx)->request ? (ctx)->request->connection->log : ngx_cycle->log)


/* name is a string literal; value is the caller's, as long as the request */

#define ngx_http_infer_header_out(r, name, value)                             \
    ngx_http_infer_header_add(r, name, sizeof(name) - 1, value)


/* handler.c */

ngx_http_infer_ctx_t *ngx_http_infer_get_ctx(ngx_http_request_t *r);

/* request.c: after the body; and the end of a request, whatever its phase */

void ngx_http_infer_body_handler(ngx_http_request_t *r);
ngx_int_t ngx_http_infer_proceed(ngx_http_infer_ctx_t *ctx, ngx_int_t rc);
void ngx_http_infer_watch_client(ngx_http_request_t *r);
void ngx_http_infer_drop(ngx_http_infer_ctx_t *ctx);
void ngx_http_infer_gone(ngx_http_infer_ctx_t *ctx);
ngx_int_t ngx_http_infer_own(ngx_http_infer_ctx_t *ctx);

/* submit.c: whether a request may be generated; DECLINED: it may, else it is
 * answered. overload: an old answer from the cache, or a refusal */

ngx_int_t ngx_http_infer_admit(ngx_http_infer_ctx_t *ctx);
ngx_uint_t ngx_http_infer_queue_full(ngx_http_infer_ctx_t *ctx);
ngx_uint_t ngx_http_infer_engine_down(ngx_http_infer_bus_t *bus);
ngx_int_t ngx_http_infer_overload(ngx_http_infer_ctx_t *ctx,
    ngx_uint_t status, ngx_uint_t retry, char *message);
ngx_int_t ngx_http_infer_submit(ngx_http_infer_ctx_t *ctx);
ngx_int_t ngx_http_infer_joined(ngx_http_infer_ctx_t *ctx);

/*
 * submit.c: claim fills a slot for each of the ctx->nchoices, all or none;
 * codes of infer.h. launch submits them. slot_runs: it will have news. So has
 * one that is joined while another worker is about to submit it, or dies.
 */

#define ngx_http_infer_status_runs(status)                                    \
    ((status) == INFER_SLOT_CLAIMED || (status) == INFER_SLOT_SUBMITTED       \
     || (status) == INFER_SLOT_RUNNING)

int ngx_http_infer_claim(ngx_http_infer_ctx_t *ctx);
void ngx_http_infer_launch(ngx_http_infer_ctx_t *ctx);
ngx_uint_t ngx_http_infer_slot_runs(ngx_http_infer_bus_t *bus,
    infer_ref_t ref);
void ngx_http_infer_release(ngx_http_infer_ctx_t *ctx,
    ngx_http_infer_choice_t *choice);
void ngx_http_infer_release_all(ngx_http_infer_ctx_t *ctx);
ngx_uint_t ngx_http_infer_retry_after(ngx_http_infer_ctx_t *ctx);

/* event.c */

void ngx_http_infer_event_add(ngx_http_infer_ctx_t *ctx,
    ngx_http_infer_choice_t *choice);
ngx_uint_t ngx_http_infer_event_del(ngx_http_infer_ctx_t *ctx,
    ngx_http_infer_choice_t *choice);
void ngx_http_infer_event_kick(ngx_http_infer_ctx_t *ctx);
void ngx_http_infer_event_forget(ngx_http_infer_ctx_t *ctx);
void ngx_http_infer_timer(ngx_http_infer_ctx_t *ctx);

/* output.c: may end the request, ctx included */

void ngx_http_infer_output(ngx_http_infer_ctx_t *ctx);
void ngx_http_infer_output_ping(ngx_http_infer_ctx_t *ctx);
void ngx_http_infer_output_note(ngx_http_infer_ctx_t *ctx,
    ngx_http_infer_choice_t *choice);
void ngx_http_infer_output_timeout(ngx_http_infer_ctx_t *ctx,
    ngx_uint_t status);

/*
 * output.c: flush sends what lies in memory until the request ends; finalize
 * ends it. note_finish: a choice is done and its slot still ours
 */

ngx_int_t ngx_http_infer_flush(ngx_http_infer_ctx_t *ctx, u_char *data,
    size_t len, ngx_uint_t last);
void ngx_http_infer_finalize(ngx_http_infer_ctx_t *ctx, ngx_int_t rc);
void ngx_http_infer_note_finish(ngx_http_infer_ctx_t *ctx,
    ngx_http_infer_choice_t *choice, uint32_t finish);

/* pace.c */

ngx_int_t ngx_http_infer_pace(ngx_http_infer_ctx_t *ctx, infer_buf_t *body);
void ngx_http_infer_pace_output(ngx_http_infer_ctx_t *ctx);

/* refresh.c; the last three are for contexts without a request */

void ngx_http_infer_refresh(ngx_http_infer_ctx_t *client);
void ngx_http_infer_refresh_ahead(ngx_http_infer_ctx_t *client,
    infer_store_get_t *g);
ngx_msec_t ngx_http_infer_cache_window(infer_store_get_t *g);
void ngx_http_infer_refresh_cancel(ngx_http_infer_bus_t *bus);
void ngx_http_infer_refresh_news(ngx_http_infer_ctx_t *ctx);
void ngx_http_infer_refresh_end(ngx_http_infer_ctx_t *ctx, ngx_uint_t good);

/* answer.c: whole answers; the code is for ngx_http_finalize_request() */

ngx_int_t ngx_http_infer_send(ngx_http_request_t *r, ngx_uint_t status,
    char *type, ngx_str_t *body);
ngx_int_t ngx_http_infer_send_chain(ngx_http_request_t *r, ngx_uint_t status,
    ngx_str_t *type, ngx_chain_t *out, off_t len);
ngx_int_t ngx_http_infer_send_buf(ngx_http_request_t *r, ngx_uint_t status,
    char *type, infer_buf_t *buf);
ngx_int_t ngx_http_infer_send_error(ngx_http_request_t *r,
    infer_api_error_t *e, ngx_uint_t retry);
ngx_int_t ngx_http_infer_error(ngx_http_request_t *r, ngx_uint_t status,
    char *message);
ngx_int_t ngx_http_infer_refuse(ngx_http_request_t *r, ngx_uint_t status,
    ngx_uint_t retry, char *message);
ngx_int_t ngx_http_infer_no_model(ngx_http_request_t *r);
ngx_int_t ngx_http_infer_unauthorized(ngx_http_request_t *r);
ngx_int_t ngx_http_infer_header_add(ngx_http_request_t *r, char *name,
    size_t len, ngx_str_t *value);
ngx_int_t ngx_http_infer_stream_headers(ngx_http_request_t *r);
ngx_table_elt_t *ngx_http_infer_header_in(ngx_http_request_t *r, char *name,
    size_t len);

/* cache_body.c, cache.c: look up, DECLINED when there is nothing; early is
 * before the body is read */

ngx_int_t ngx_http_infer_cache_lookup_early(ngx_http_request_t *r,
    ngx_http_infer_ctx_t *ctx);
ngx_int_t ngx_http_infer_cache_lookup_body(ngx_http_request_t *r,
    ngx_http_infer_ctx_t *ctx);
uint64_t ngx_http_infer_cache_tag(ngx_http_infer_cache_t *cache,
    ngx_str_t *tag);
ngx_int_t ngx_http_infer_cache_lookup(ngx_http_infer_ctx_t *ctx);
ngx_int_t ngx_http_infer_cache_missed(ngx_http_infer_ctx_t *ctx);
void ngx_http_infer_cache_free(ngx_http_infer_ctx_t *ctx);

/* cache.c: for the other cache files; codes of infer.h. get leaves the value
 * in the request's pool, or where g->alloc says, which the caller has set or
 * zeroed; or in the zone, where g->ref is not NULL: then there is no g->value
 * and *g->ref is the caller's to release */

int ngx_http_infer_cache_get(ngx_http_infer_ctx_t *ctx, u_char *key,
    infer_buf_t *ident, infer_store_get_t *g);
void ngx_http_infer_cache_query(ngx_http_infer_ctx_t *ctx, infer_buf_t *ident,
    infer_store_get_t *g);
int ngx_http_infer_cache_put(ngx_http_infer_ctx_t *ctx, u_char *key,
    infer_buf_t *ident, infer_buf_t *value, ngx_msec_t fresh,
    ngx_msec_t stale);
int ngx_http_infer_cache_render(ngx_http_infer_ctx_t *ctx, void *logs,
    size_t len, uint64_t age_ms, infer_buf_t *page);
void ngx_http_infer_cache_conf(ngx_http_infer_ctx_t *ctx,
    infer_render_conf_t *conf);
void ngx_http_infer_cache_status(ngx_http_infer_ctx_t *ctx, char *status);
void ngx_http_infer_cache_known(ngx_http_infer_ctx_t *ctx, u_char *key);
uint64_t ngx_http_infer_cache_origin(u_char *key);
void ngx_http_infer_cache_epochs(ngx_http_infer_ctx_t *ctx);

/*
 * cache_page.c: rendered answers; DONE: it is under way. A hit is one that a
 * look-up found, in its own memory or in the zone; begin is for the look-up,
 * read takes its head (DECLINED: it is none), and send releases it.
 */

ngx_int_t ngx_http_infer_cache_head(ngx_http_infer_cache_page_t *head,
    void *page, size_t len);
ngx_int_t ngx_http_infer_cache_send(ngx_http_infer_ctx_t *ctx, u_char *page,
    size_t len, uint64_t age_ms);
void ngx_http_infer_hit_begin(ngx_http_infer_ctx_t *ctx,
    ngx_http_infer_hit_t *hit);
ngx_int_t ngx_http_infer_hit_read(ngx_http_infer_hit_t *hit);
ngx_int_t ngx_http_infer_hit_send(ngx_http_infer_ctx_t *ctx,
    ngx_http_infer_hit_t *hit);

/* cache_stale.c: answers past their time */

void ngx_http_infer_cache_expired(ngx_http_infer_ctx_t *ctx, u_char *key,
    infer_store_get_t *g);
ngx_int_t ngx_http_infer_cache_stale(ngx_http_infer_ctx_t *ctx,
    ngx_uint_t causes, const char *why);
ngx_uint_t ngx_http_infer_cache_older(ngx_http_infer_cache_ctx_t *cc,
    uint64_t age_ms);
ngx_msec_t ngx_http_infer_cache_stale_ms(ngx_http_infer_cache_conf_t *ccf);

/* cache_join.c: DONE: it reads along with another's generation; DECLINED: it
 * does not. board may find an answer, too, and gives what
 * ngx_http_infer_cache_lookup() does */

ngx_int_t ngx_http_infer_cache_join(ngx_http_infer_ctx_t *ctx,
    infer_store_flight_t *flight);
ngx_int_t ngx_http_infer_cache_board(ngx_http_infer_ctx_t *ctx);
void ngx_http_infer_cache_crashed(ngx_http_infer_ctx_t *ctx);

/* cache.c: answers from packed logs; DECLINED: they are none */

ngx_int_t ngx_http_infer_cache_log(ngx_http_infer_ctx_t *ctx,
    infer_store_get_t *g);

/* cache_redis.c: the second tier. DONE: it is being asked. */

ngx_uint_t ngx_http_infer_cache_redis_space(ngx_http_infer_ctx_t *ctx,
    ngx_http_infer_cache_conf_t *ccf, uint64_t tag, u_char *model);
ngx_int_t ngx_http_infer_cache_redis(ngx_http_infer_ctx_t *ctx);
ngx_uint_t ngx_http_infer_cache_redis_due(ngx_http_infer_ctx_t *ctx,
    ngx_uint_t landed);
void ngx_http_infer_cache_redis_put(ngx_http_infer_ctx_t *ctx,
    infer_buf_t *value, ngx_msec_t fresh, ngx_msec_t stale);
void ngx_http_infer_cache_redis_inherit(ngx_http_infer_ctx_t *ctx,
    ngx_http_infer_ctx_t *client);
void ngx_http_infer_cache_redis_forget(ngx_http_infer_ctx_t *ctx);

/* redis_purge.c, purge.c */

void ngx_http_infer_redis_tag(ngx_http_infer_cache_t *cache, uint64_t tag,
    char *name);
ngx_int_t ngx_http_infer_redis_purge(ngx_http_request_t *r,
    ngx_http_infer_cache_t *cache, ngx_http_infer_purge_t *purge,
    ngx_uint_t n);
void ngx_http_infer_purge_here(ngx_http_infer_cache_t *cache, uint64_t tag);
ngx_int_t ngx_http_infer_purge_answer(ngx_http_request_t *r, ngx_uint_t ok);

/* cache_keep.c */

void ngx_http_infer_cache_keep(ngx_http_infer_ctx_t *ctx,
    ngx_http_infer_choice_t *choice, uint32_t finish);
void ngx_http_infer_cache_store(ngx_http_infer_ctx_t *ctx,
    infer_api_usage_t *usage);

/* health.c, metrics.c */

ngx_int_t ngx_http_infer_health_live(ngx_http_request_t *r);
ngx_int_t ngx_http_infer_health_ready(ngx_http_request_t *r,
    ngx_http_infer_model_t *model);
ngx_int_t ngx_http_infer_metrics(ngx_http_request_t *r);

/* auth.c */

ngx_int_t ngx_http_infer_auth(ngx_http_request_t *r,
    ngx_http_infer_keys_t *keys, ngx_str_t *name);
ngx_int_t ngx_http_infer_prefix_scope(ngx_http_infer_ctx_t *ctx);
ngx_int_t ngx_http_infer_cors_answer(ngx_http_request_t *r,
    ngx_http_infer_loc_conf_t *ilcf);
ngx_int_t ngx_http_infer_cors_preflight(ngx_http_request_t *r,
    ngx_http_infer_loc_conf_t *ilcf);


#endif /* _NGX_HTTP_INFER_REQUEST_H_INCLUDED_ */
