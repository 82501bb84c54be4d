
/*
 * Refreshes: generations without a client, whose answers only go into the
 * cache. One begins with the tokenized request of a client that has been
 * answered, runs at low priority, may be joined like any other, and ends
 * silently: done, failed, or cancelled when its worker leaves. Its context
 * has no request; event.c brings its news here.
 *
 * A worker runs as many at once as a sixteenth of the zone's slots, and
 * begins none for a second after one has failed.
 */


#include "ngx_http_infer_request.h"


#define NGX_HTTP_INFER_REFRESH_PART      16     /* of the slots */
#define NGX_HTTP_INFER_REFRESH_PAUSE     1000   /* ms after a failure */
#define NGX_HTTP_INFER_REFRESH_PRIORITY  (-1)
#define NGX_HTTP_INFER_REFRESH_HOT       8      /* times asked for, of late */


/* ngx_http_infer_cache_counts_t.refreshes */

enum {
    NGX_HTTP_INFER_REFRESH_STARTED = 0,
    NGX_HTTP_INFER_REFRESH_DONE,
    NGX_HTTP_INFER_REFRESH_FAILED
};


/* malloc'd, with everything in it */

typedef struct {
    ngx_http_infer_ctx_t         ctx;           /* first */
    ngx_http_infer_cache_ctx_t   cache;
    ngx_queue_t                  queue;         /* of the bus */
    ngx_http_infer_choice_t      choices[];
} ngx_http_infer_refresh_t;


static ngx_uint_t ngx_http_infer_refresh_wanted(ngx_http_infer_ctx_t *client);
static ngx_uint_t ngx_http_infer_refresh_running(
    ngx_http_infer_ctx_t *client);
static ngx_http_infer_refresh_t *ngx_http_infer_refresh_new(
    ngx_http_infer_ctx_t *client);
static ngx_int_t ngx_http_infer_refresh_board(ngx_http_infer_ctx_t *ctx);
static ngx_int_t ngx_http_infer_refresh_choice(ngx_http_infer_ctx_t *ctx,
    ngx_http_infer_choice_t *choice);
static void ngx_http_infer_refresh_count(ngx_http_infer_ctx_t *ctx,
    ngx_uint_t what);
static void ngx_http_infer_refresh_free(ngx_http_infer_refresh_t *refresh);


/* Of the end of an answer's time, where a hot one is refreshed. */

ngx_msec_t
ngx_http_infer_cache_window(infer_store_get_t *g)
{
    return (ngx_msec_t) ((g->age_ms + g->left_ms) / 10);
}


/* A hit was sent: if it is hot and near its end, the next one is made. */

void
ngx_http_infer_refresh_ahead(ngx_http_infer_ctx_t *client,
    infer_store_get_t *g)
{
    ngx_http_infer_cache_ctx_t  *cc;

    cc = client->cache;

    if (cc->conf->ahead && cc->store
        && cc->frequency >= NGX_HTTP_INFER_REFRESH_HOT
        && g->left_ms < ngx_http_infer_cache_window(g))
    {
        ngx_http_infer_refresh(client);
    }
}


/*
 * The client is answered: its tokenized request is taken over, unless its
 * answer is being made already, or this is no time for it.
 */

void
ngx_http_infer_refresh(ngx_http_infer_ctx_t *client)
{
    ngx_http_infer_ctx_t      *ctx;
    ngx_http_infer_refresh_t  *refresh;

    if (!ngx_http_infer_refresh_wanted(client)) {
        return;
    }

    refresh = ngx_http_infer_refresh_new(client);
    if (refresh == NULL) {
        return;
    }

    ctx = &refresh->ctx;

    if (ngx_http_infer_claim(ctx) != INFER_OK
        || ngx_http_infer_refresh_board(ctx) != NGX_OK)
    {
        ngx_http_infer_refresh_free(refresh);
        return;
    }

    ngx_queue_insert_tail(&ctx->bus->refreshes, &refresh->queue);
    ctx->bus->nrefreshes++;

    ngx_http_infer_refresh_count(ctx, NGX_HTTP_INFER_REFRESH_STARTED);

    ngx_http_infer_launch(ctx);
    ngx_http_infer_timer(ctx);
}


static ngx_uint_t
ngx_http_infer_refresh_wanted(ngx_http_infer_ctx_t *client)
{
    ngx_uint_t             max;
    ngx_http_infer_bus_t  *bus;

    bus = client->bus;
    max = ngx_max(1, bus->bus.n_slots / NGX_HTTP_INFER_REFRESH_PART);

    /* a single process outlives its cycles, and a worker's end is near */

    if (ngx_process != NGX_PROCESS_WORKER || ngx_exiting || ngx_quit
        || ngx_terminate)
    {
        return 0;
    }

    return bus->nrefreshes < max
           && (ngx_msec_int_t) (ngx_current_msec - bus->refresh_pause) >= 0
           && ngx_http_infer_engine_ready(bus)
           && !ngx_http_infer_queue_full(client)
           && !ngx_http_infer_refresh_running(client);
}


/* Its answer is being made: by this worker, or, as far as known, by any. */

static ngx_uint_t
ngx_http_infer_refresh_running(ngx_http_infer_ctx_t *client)
{
    infer_ref_t                ref;
    ngx_queue_t               *q;
    infer_store_t             *store;
    infer_store_flight_t       flight;
    ngx_http_infer_refresh_t  *refresh;

    for (q = ngx_queue_head(&client->bus->refreshes);
         q != ngx_queue_sentinel(&client->bus->refreshes);
         q = ngx_queue_next(q))
    {
        refresh = ngx_queue_data(q, ngx_http_infer_refresh_t, queue);

        if (ngx_memcmp(refresh->cache.log_key, client->cache->log_key,
                       INFER_STORE_KEY)
            == 0)
        {
            return 1;
        }
    }

    store = ngx_http_infer_cache_enter(client->cache->conf->cache);

    if (store == NULL
        || infer_store_flight(store, client->cache->log_key, &flight)
           != INFER_OK)
    {
        return 0;
    }

    ref.slot = flight.slot;
    ref.generation = flight.generation;

    return ngx_http_infer_slot_runs(client->bus, ref);
}


/* The request, its canonical form and its key leave the client. */

static ngx_http_infer_refresh_t *
ngx_http_infer_refresh_new(ngx_http_infer_ctx_t *client)
{
    ngx_uint_t                   n;
    ngx_http_infer_ctx_t        *ctx;
    ngx_http_infer_refresh_t    *refresh;
    ngx_http_infer_cache_ctx_t  *cc;

    if (ngx_http_infer_prefix_scope(client) != NGX_OK) {
        return NULL;
    }

    n = (ngx_uint_t) client->req->n_prompts * client->req->n;

    refresh = ngx_calloc(sizeof(ngx_http_infer_refresh_t)
                         + n * sizeof(ngx_http_infer_choice_t),
                         ngx_cycle->log);
    if (refresh == NULL) {
        return NULL;
    }

    ctx = &refresh->ctx;
    cc = &refresh->cache;

    ctx->model = client->model;
    ctx->bus = client->bus;
    ctx->endpoint = client->endpoint;
    ctx->cache = cc;
    ctx->choices = refresh->choices;
    ctx->nchoices = n;
    ngx_memcpy(ctx->scope, client->scope, sizeof(ctx->scope));

    ctx->terms = client->terms;
    ctx->terms.priority = ngx_min(ctx->terms.priority,
                                  NGX_HTTP_INFER_REFRESH_PRIORITY);

    cc->conf = client->cache->conf;
    cc->tag = client->cache->tag;
    cc->shared = client->cache->shared;
    cc->store = 1;
    ngx_memcpy(cc->log_key, client->cache->log_key, sizeof(cc->log_key));
    ngx_http_infer_cache_epochs(ctx);

    cc->ident = client->cache->ident;
    ngx_memzero(&client->cache->ident, sizeof(infer_buf_t));
    client->cache->store = 0;

    ctx->req = client->req;
    client->req = NULL;

    ngx_http_infer_cache_redis_inherit(ctx, client);

    return refresh;
}


/* Others may read along; DECLINED: another worker was quicker. */

static ngx_int_t
ngx_http_infer_refresh_board(ngx_http_infer_ctx_t *ctx)
{
    int                          rc;
    ngx_uint_t                   i;
    infer_ref_t                  ref;
    infer_store_t               *store;
    infer_store_flight_t         theirs;
    ngx_http_infer_cache_ctx_t  *cc;

    cc = ctx->cache;
    store = ngx_http_infer_cache_enter(cc->conf->cache);

    if (store == NULL) {
        return NGX_OK;
    }

    cc->flight.slot = ctx->choices->ref.slot;
    cc->flight.generation = ctx->choices->ref.generation;
    cc->flight.epochs = cc->epochs;

    rc = infer_store_board(store, cc->log_key, cc->flight, &theirs, NULL);

    if (rc == INFER_AGAIN) {
        ref.slot = theirs.slot;
        ref.generation = theirs.generation;

        if (ngx_http_infer_slot_runs(ctx->bus, ref)) {

            for (i = 0; i < ctx->nchoices; i++) {
                infer_slot_abandon(&ctx->bus->bus, ctx->choices[i].ref);
                ctx->choices[i].held = 0;
            }

            return NGX_DECLINED;
        }

        rc = infer_store_takeoff(store, cc->log_key, cc->flight);
    }

    cc->flying = (rc == INFER_OK);

    return NGX_OK;
}


/* Something is new in a refresh's slots. */

void
ngx_http_infer_refresh_news(ngx_http_infer_ctx_t *ctx)
{
    ngx_int_t           rc;
    ngx_uint_t          i, open;
    infer_api_usage_t   usage;

    open = 0;

    for (i = 0; i < ctx->nchoices; i++) {

        rc = ngx_http_infer_refresh_choice(ctx, &ctx->choices[i]);

        if (rc == NGX_ERROR) {
            ngx_http_infer_refresh_end(ctx, 0);
            return;
        }

        open += (rc == NGX_AGAIN);
    }

    if (open) {
        return;
    }

    usage.prompt_tokens = ctx->req->n_prompt_tokens;
    usage.completion_tokens = ctx->info.completion_tokens;
    usage.cached_tokens = ctx->cached_tokens;

    ngx_http_infer_cache_store(ctx, &usage);
    ngx_http_infer_refresh_end(ctx, 1);
}


/* OK: its log is packed. AGAIN: it runs. ERROR: it has no answer. */

static ngx_int_t
ngx_http_infer_refresh_choice(ngx_http_infer_ctx_t *ctx,
    ngx_http_infer_choice_t *choice)
{
    uint32_t       finish;
    infer_slot_t  *slot;

    if (choice->ended) {
        return NGX_OK;
    }

    if (ngx_http_infer_slot_runs(ctx->bus, choice->ref)) {
        return NGX_AGAIN;
    }

    slot = &ctx->bus->bus.slot[choice->ref.slot];
    finish = atomic_load_explicit(&slot->finish, memory_order_acquire);

    if (infer_slot_status(&ctx->bus->bus, choice->ref) != INFER_SLOT_DONE
        || (finish != INFER_FINISH_STOP && finish != INFER_FINISH_LENGTH))
    {
        return NGX_ERROR;
    }

    choice->nread = infer_log_count(&ctx->bus->bus, choice->ref);
    ctx->info.completion_tokens += choice->nread;

    ngx_http_infer_note_finish(ctx, choice, finish);
    ngx_http_infer_cache_keep(ctx, choice, finish);

    choice->ended = 1;

    if (!ctx->cache->flying) {
        ngx_http_infer_release(ctx, choice);
    }

    return NGX_OK;
}


/* Good or not, it is freed. */

void
ngx_http_infer_refresh_end(ngx_http_infer_ctx_t *ctx, ngx_uint_t good)
{
    ngx_http_infer_bus_t      *bus;
    ngx_http_infer_refresh_t  *refresh;

    bus = ctx->bus;
    refresh = (ngx_http_infer_refresh_t *) ctx;

    if (good) {
        ngx_http_infer_refresh_count(ctx, NGX_HTTP_INFER_REFRESH_DONE);

    } else {
        ngx_http_infer_refresh_count(ctx, NGX_HTTP_INFER_REFRESH_FAILED);
        bus->refresh_pause = ngx_current_msec + NGX_HTTP_INFER_REFRESH_PAUSE;

        ngx_log_error(NGX_LOG_INFO, ngx_cycle->log, 0,
                      "infer refresh came to nothing");
    }

    ngx_http_infer_event_forget(ctx);

    ngx_queue_remove(&refresh->queue);
    bus->nrefreshes--;

    ngx_http_infer_refresh_free(refresh);

    /* who leaves the bus has no watch any more, and wakes it himself */

    if (bus->watch) {
        ngx_http_infer_engine_wake(bus);
    }
}


/* The worker leaves the bus. */

void
ngx_http_infer_refresh_cancel(ngx_http_infer_bus_t *bus)
{
    ngx_queue_t               *q;
    ngx_http_infer_refresh_t  *refresh;

    while (!ngx_queue_empty(&bus->refreshes)) {
        q = ngx_queue_head(&bus->refreshes);
        refresh = ngx_queue_data(q, ngx_http_infer_refresh_t, queue);

        ngx_http_infer_refresh_end(&refresh->ctx, 0);
    }
}


static void
ngx_http_infer_refresh_count(ngx_http_infer_ctx_t *ctx, ngx_uint_t what)
{
    ngx_atomic_t  *n;

    n = &ctx->cache->conf->cache->shm->counts.refreshes[what];

    (void) ngx_atomic_fetch_add(n, 1);
}


static void
ngx_http_infer_refresh_free(ngx_http_infer_refresh_t *refresh)
{
    ngx_uint_t             i;
    ngx_http_infer_ctx_t  *ctx;

    ctx = &refresh->ctx;

    for (i = 0; i < ctx->nchoices; i++) {
        if (ctx->choices[i].held) {
            ngx_http_infer_release(ctx, &ctx->choices[i]);
        }
    }

    ngx_http_infer_cache_redis_forget(ctx);
    ngx_http_infer_cache_free(ctx);
    infer_api_request_free(ctx->req);
    ngx_free(refresh);
}
