
/*
 * Join-in-progress: equal requests that come while the first one runs, to
 * whatever worker, read the same generation from its start.
 */


#include "ngx_http_infer_request.h"


/*
 * Reads along with a generation that runs for the same request. flight: of
 * it, or NULL to look for one. DONE: joined.
 */

ngx_int_t
ngx_http_infer_cache_join(ngx_http_infer_ctx_t *ctx,
    infer_store_flight_t *flight)
{
    infer_ref_t                  ref;
    infer_store_t               *store;
    infer_store_flight_t         found;
    ngx_http_infer_choice_t     *choice;
    ngx_http_infer_loc_conf_t   *ilcf;

    if (ctx->req->n_prompts * ctx->req->n != 1) {
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

    ref.slot = flight->slot;
    ref.generation = flight->generation;

    if ((ctx->cache->failed.generation == flight->generation
         && ctx->cache->failed.slot == flight->slot)
        || infer_slot_join(&ctx->bus->bus, (uint32_t) ctx->bus->entry, ref)
           != INFER_OK)
    {
        return NGX_DECLINED;
    }

    choice = ngx_pcalloc(ctx->request->pool, sizeof(ngx_http_infer_choice_t));
    if (choice == NULL) {
        infer_slot_release(&ctx->bus->bus, (uint32_t) ctx->bus->entry, ref);
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    choice->ctx = ctx;
    choice->ref = ref;
    choice->held = 1;
    choice->joined = 1;

    ctx->choices = choice;
    ctx->nchoices = 1;
    ctx->cache->flight = *flight;
    ctx->cache->flying = 1;

    ngx_http_infer_cache_status(ctx, "JOIN");

    return ngx_http_infer_joined(ctx);
}


/*
 * The slot is filled and not yet submitted: others may read along from now
 * on. DONE: another request was quicker, and is joined.
 */

ngx_int_t
ngx_http_infer_cache_board(ngx_http_infer_ctx_t *ctx)
{
    int                          rc;
    infer_ref_t                  ref;
    infer_store_t               *store;
    infer_store_flight_t         theirs;
    ngx_http_infer_cache_ctx_t  *cc;
    ngx_http_infer_loc_conf_t   *ilcf;

    cc = ctx->cache;

    if (cc == NULL || !cc->store || ctx->nchoices != 1) {
        return NGX_DECLINED;
    }

    ilcf = ngx_http_get_module_loc_conf(ctx->request, ngx_http_infer_module);
    store = ngx_http_infer_cache_enter(ilcf->cache.cache);

    if (store == NULL) {
        return NGX_DECLINED;
    }

    ref = ctx->choices->ref;
    ngx_memzero(&cc->flight, sizeof(infer_store_flight_t));
    cc->flight.slot = ref.slot;
    cc->flight.generation = ref.generation;

    rc = infer_store_board(store, cc->log_key, cc->flight, &theirs);

    if (rc == INFER_AGAIN && cc->lookup
        && ngx_http_infer_cache_join(ctx, &theirs) == NGX_DONE)
    {
        infer_slot_abandon(&ctx->bus->bus, ref);
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

    ngx_http_infer_cache_status(ctx, "MISS");
}
