
/*
 * Join-in-progress: equal requests that come while the first one runs, to
 * whatever worker, read the same generation from its start.
 */


#include "ngx_http_infer_request.h"


static ngx_uint_t ngx_http_infer_cache_group(ngx_http_infer_ctx_t *ctx,
    ngx_http_infer_choice_t *choices, ngx_uint_t n, infer_ref_t ref);


/*
 * Reads along with the generations that run for the same request, all of its
 * choices or none. flight: of them, or NULL to look for one. DONE: joined.
 * Where no engine runs, a slot that a dead one left will not go on.
 */

ngx_int_t
ngx_http_infer_cache_join(ngx_http_infer_ctx_t *ctx,
    infer_store_flight_t *flight)
{
    infer_ref_t                  ref;
    ngx_uint_t                   n;
    infer_store_t               *store;
    infer_store_flight_t         found;
    ngx_http_infer_choice_t     *choices;
    ngx_http_infer_loc_conf_t   *ilcf;

    if (ngx_http_infer_engine_down(ctx->bus)) {
        return NGX_DECLINED;
    }

    if (flight == NULL) {
        ilcf = ngx_http_get_module_loc_conf(ctx->request,
                                            ngx_http_infer_module);
        store = ngx_http_infer_cache_enter(ilcf->cache.cache);
        flight = &found;

        if (store == NULL
            || infer_store_flight(store, ctx->cache->log_key, &found)
               != INFER_OK)
        {
            return NGX_DECLINED;
        }
    }

    if (ctx->cache->failed.generation == flight->generation
        && ctx->cache->failed.slot == flight->slot)
    {
        return NGX_DECLINED;
    }

    n = (ngx_uint_t) ctx->req->n_prompts * ctx->req->n;

    choices = ngx_pcalloc(ctx->request->pool,
                          n * sizeof(ngx_http_infer_choice_t));
    if (choices == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    ref.slot = flight->slot;
    ref.generation = flight->generation;

    if (!ngx_http_infer_cache_group(ctx, choices, n, ref)) {
        return NGX_DECLINED;
    }

    ctx->choices = choices;
    ctx->nchoices = n;
    ctx->cache->flight = *flight;
    ctx->cache->flying = 1;
    ctx->cache->epochs = flight->epochs;

    ngx_http_infer_cache_status(ctx, "JOIN");

    return ngx_http_infer_joined(ctx);
}


/* 1: all are ours to read, and their terms are ours too */

static ngx_uint_t
ngx_http_infer_cache_group(ngx_http_infer_ctx_t *ctx,
    ngx_http_infer_choice_t *choices, ngx_uint_t n, infer_ref_t ref)
{
    uint32_t      entry;
    ngx_uint_t    i, raised;
    infer_bus_t  *bus;

    bus = &ctx->bus->bus;
    entry = (uint32_t) ctx->bus->entry;
    raised = 0;

    for (i = 0; i < n; i++) {

        if (infer_slot_join(bus, entry, ref) != INFER_OK) {
            break;
        }

        choices[i].ctx = ctx;
        choices[i].ref = ref;
        choices[i].held = 1;
        choices[i].joined = 1;

        ngx_http_infer_event_add(ctx, &choices[i]);

        ref = infer_slot_next(bus, ref);
    }

    if (i == n) {

        for (i = 0; i < n; i++) {
            raised |= infer_slot_raise(bus, entry, choices[i].ref,
                                       &ctx->terms);
        }

        if (raised) {
            ngx_http_infer_engine_wake(ctx->bus);
        }

        return 1;
    }

    n = i;

    for (i = 0; i < n; i++) {
        if (ngx_http_infer_event_del(ctx, &choices[i])) {
            infer_slot_release(bus, entry, choices[i].ref);
        }
    }

    if (n) {
        ngx_http_infer_engine_wake(ctx->bus);
    }

    return 0;
}


/*
 * The slots are filled and not yet submitted: others may read along from now
 * on. DONE: another request was quicker, and is joined.
 */

ngx_int_t
ngx_http_infer_cache_board(ngx_http_infer_ctx_t *ctx)
{
    int                          rc;
    infer_ref_t                  ref;
    ngx_uint_t                   i, n;
    infer_store_t               *store;
    infer_store_flight_t         theirs;
    ngx_http_infer_choice_t     *choices;
    ngx_http_infer_cache_ctx_t  *cc;
    ngx_http_infer_loc_conf_t   *ilcf;

    cc = ctx->cache;

    if (cc == NULL || !cc->store) {
        return NGX_DECLINED;
    }

    ilcf = ngx_http_get_module_loc_conf(ctx->request, ngx_http_infer_module);
    store = ngx_http_infer_cache_enter(ilcf->cache.cache);

    if (store == NULL) {
        return NGX_DECLINED;
    }

    choices = ctx->choices;
    n = ctx->nchoices;
    ref = choices[0].ref;

    ngx_memzero(&cc->flight, sizeof(infer_store_flight_t));
    cc->flight.slot = ref.slot;
    cc->flight.generation = ref.generation;
    cc->flight.epochs = cc->epochs;

    rc = infer_store_board(store, cc->log_key, cc->flight, &theirs);

    if (rc == INFER_AGAIN && cc->lookup
        && ngx_http_infer_cache_join(ctx, &theirs) == NGX_DONE)
    {
        for (i = 0; i < n; i++) {
            infer_slot_abandon(&ctx->bus->bus, choices[i].ref);
        }

        return NGX_DONE;
    }

    if (rc == INFER_AGAIN) {
        rc = infer_store_takeoff(store, cc->log_key, cc->flight);
    }

    cc->flying = (rc == INFER_OK);

    return NGX_DECLINED;
}


/* What was joined has failed: not that one again. */

void
ngx_http_infer_cache_crashed(ngx_http_infer_ctx_t *ctx)
{
    ctx->cache->failed = ctx->cache->flight;
    ctx->cache->flying = 0;

    ngx_http_infer_cache_epochs(ctx);

    ngx_http_infer_cache_status(ctx, ctx->cache->expired ? "EXPIRED"
                                                         : "MISS");
}
