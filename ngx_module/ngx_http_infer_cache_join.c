
/*
 * Join-in-progress: equal requests that come while the first one runs, to
 * whatever worker, read the same generation from its start.
 */


#include "ngx_http_infer_request.h"


static ngx_uint_t ngx_http_infer_cache_group(ngx_http_infer_ctx_t *ctx,
    ngx_http_infer_choice_t *choices, ngx_uint_t n, infer_ref_t ref);
static void ngx_http_infer_cache_give_up(ngx_http_infer_ctx_t *ctx,
    ngx_http_infer_choice_t *choices, ngx_uint_t n);


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

    if (ngx_http_infer_engine_down(ctx->bus)) {
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
 * on. Unless somebody was quicker: then his generation is joined, or what it
 * made is the answer, and the slots are given back. One that is known and
 * cannot be joined has ended, so that its answer is there when it is looked
 * for again, or was lost with its worker.
 */

ngx_int_t
ngx_http_infer_cache_board(ngx_http_infer_ctx_t *ctx)
{
    int                          rc;
    ngx_int_t                    answer;
    ngx_uint_t                   i, n;
    infer_store_t               *store;
    infer_store_get_t            g;
    infer_store_flight_t         mine, theirs;
    ngx_http_infer_choice_t     *choices;
    ngx_http_infer_cache_ctx_t  *cc;

    cc = ctx->cache;

    if (cc == NULL || !cc->store) {
        return NGX_DECLINED;
    }

    store = ngx_http_infer_cache_enter(cc->conf->cache);

    if (store == NULL) {
        return NGX_DECLINED;
    }

    choices = ctx->choices;
    n = ctx->nchoices;

    ngx_memzero(&mine, sizeof(infer_store_flight_t));
    mine.slot = choices[0].ref.slot;
    mine.generation = choices[0].ref.generation;
    mine.epochs = cc->epochs;

    answer = NGX_DECLINED;
    rc = INFER_AGAIN;

    for (i = 0; i < 2 && rc == INFER_AGAIN; i++) {
        ngx_memzero(&g, sizeof(infer_store_get_t));
        ngx_http_infer_cache_query(ctx, &cc->ident, &g);

        rc = infer_store_board(store, cc->log_key, mine, &theirs,
                               cc->lookup ? &g : NULL);

        if (rc == INFER_AGAIN && cc->lookup) {
            answer = ngx_http_infer_cache_join(ctx, &theirs);

        } else if (rc == INFER_CANCELLED) {
            ctx->nchoices = 0;
            answer = ngx_http_infer_cache_log(ctx, &g);
        }

        if (answer != NGX_DECLINED) {
            ngx_http_infer_cache_give_up(ctx, choices, n);
            return answer;
        }

        ctx->nchoices = n;
    }

    if (rc == INFER_AGAIN || rc == INFER_CANCELLED) {
        rc = infer_store_takeoff(store, cc->log_key, mine);
    }

    cc->flight = mine;
    cc->flying = (rc == INFER_OK);

    return NGX_DECLINED;
}


/* Slots that were filled for nothing. */

static void
ngx_http_infer_cache_give_up(ngx_http_infer_ctx_t *ctx,
    ngx_http_infer_choice_t *choices, ngx_uint_t n)
{
    ngx_uint_t  i;

    for (i = 0; i < n; i++) {
        infer_slot_abandon(&ctx->bus->bus, choices[i].ref);
        choices[i].held = 0;
    }
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
