
/*
 * From a tokenized request to slots that run: admission by the location's
 * limits and the engine's state, slots filled and submitted, all or none;
 * and given back.
 */


#include "ngx_http_infer_request.h"


#define NGX_HTTP_INFER_RETRY_MAX  60
#define NGX_HTTP_INFER_DEAD       3      /* failed starts in a row */


static void ngx_http_infer_submitted(ngx_http_infer_ctx_t *ctx);
static int ngx_http_infer_stops(infer_api_request_t *req, infer_buf_t *stops);
static int ngx_http_infer_fill(ngx_http_infer_ctx_t *ctx, ngx_uint_t i,
    infer_buf_t *stops);


/* DECLINED: it may go on, else an answer has been given */

ngx_int_t
ngx_http_infer_admit(ngx_http_infer_ctx_t *ctx)
{
    if (ngx_http_infer_engine_down(ctx->bus)) {
        (void) atomic_fetch_add(&ctx->bus->bus.stats->rejected_503, 1);

        return ngx_http_infer_refuse(ctx->request,
                                     NGX_HTTP_SERVICE_UNAVAILABLE, 10,
                                     "The engine is down.");
    }

    if (ngx_http_infer_queue_full(ctx)) {
        return ngx_http_infer_overload(ctx, NGX_HTTP_TOO_MANY_REQUESTS,
                                       ngx_http_infer_retry_after(ctx),
                                       "The queue is full.");
    }

    return NGX_DECLINED;
}


/* It could not load, or does not come up. */

ngx_uint_t
ngx_http_infer_engine_down(ngx_http_infer_bus_t *bus)
{
    infer_bus_header_t  *hdr;

    hdr = bus->bus.hdr;

    return atomic_load(&hdr->engine_state) == INFER_ENGINE_FAILED
           || (atomic_load(&hdr->spawn_failures) >= NGX_HTTP_INFER_DEAD
               && !ngx_http_infer_engine_alive(bus));
}


/* The location's limits leave no room for the request. */

ngx_uint_t
ngx_http_infer_queue_full(ngx_http_infer_ctx_t *ctx)
{
    uint64_t                    n;
    infer_bus_t                *bus;
    infer_bus_load_t            load;
    ngx_http_infer_loc_conf_t  *ilcf;

    bus = &ctx->bus->bus;
    ilcf = ngx_http_get_module_loc_conf(ctx->request, ngx_http_infer_module);

    if (ilcf->queue_length == 0 && ilcf->queue_tokens == 0) {
        return 0;
    }

    infer_bus_load(bus, (uint32_t) ctx->model->index, &load);

    /* what runs at once is not a queue */

    n = (uint64_t) load.waiting + load.running
        + (uint64_t) ctx->req->n_prompts * ctx->req->n;

    return (ilcf->queue_length
            && n > bus->model[ctx->model->index].sequences
                   + ilcf->queue_length)
           || (ilcf->queue_tokens && load.waiting
               && load.waiting_tokens + ctx->req->n_prompt_tokens
                  > ilcf->queue_tokens);
}


/* Seconds until what waits now is likely to have been worked off. */

ngx_uint_t
ngx_http_infer_retry_after(ngx_http_infer_ctx_t *ctx)
{
    uint64_t          tokens, rate;
    infer_bus_load_t  load;

    infer_bus_load(&ctx->bus->bus, (uint32_t) ctx->model->index, &load);

    rate = atomic_load(&ctx->bus->bus.hdr->tokens_per_s);
    tokens = load.waiting_tokens;

    if (rate == 0) {
        return load.waiting + load.running ? 5 : 1;
    }

    return (ngx_uint_t) ngx_max(1, ngx_min(tokens / rate,
                                           NGX_HTTP_INFER_RETRY_MAX));
}


/* There is too much to do: an old answer, or a refusal. */

ngx_int_t
ngx_http_infer_overload(ngx_http_infer_ctx_t *ctx, ngx_uint_t status,
    ngx_uint_t retry, char *message)
{
    ngx_int_t           rc;
    infer_bus_stats_t  *stats;

    rc = ngx_http_infer_cache_stale(ctx, NGX_HTTP_INFER_STALE_OVERLOAD,
                                    message);

    if (rc != NGX_DECLINED) {
        return rc;
    }

    stats = ctx->bus->bus.stats;

    (void) atomic_fetch_add(status == NGX_HTTP_TOO_MANY_REQUESTS
                            ? &stats->rejected_429 : &stats->rejected_503, 1);

    return ngx_http_infer_refuse(ctx->request, status, retry, message);
}


/* DONE: submitted, else an answer has been given. */

ngx_int_t
ngx_http_infer_submit(ngx_http_infer_ctx_t *ctx)
{
    ngx_int_t            rc;
    ngx_uint_t           n;
    ngx_http_request_t  *r;

    r = ctx->request;
    n = (ngx_uint_t) ctx->req->n_prompts * ctx->req->n;

    ctx->choices = ngx_pcalloc(r->pool, n * sizeof(ngx_http_infer_choice_t));
    if (ctx->choices == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    if (ngx_http_infer_prefix_scope(ctx) != NGX_OK) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    ctx->nchoices = n;

    if (ngx_http_infer_claim(ctx) != INFER_OK) {
        ctx->nchoices = 0;

        return ngx_http_infer_overload(ctx, NGX_HTTP_SERVICE_UNAVAILABLE,
                                       ngx_http_infer_retry_after(ctx),
                                       "The server has no room for the "
                                       "request.");
    }

    rc = ngx_http_infer_cache_board(ctx);

    if (rc != NGX_DECLINED) {
        return rc;
    }

    ctx->ping = 0;

    ngx_http_infer_launch(ctx);
    ngx_http_infer_submitted(ctx);

    return NGX_DONE;
}


int
ngx_http_infer_claim(ngx_http_infer_ctx_t *ctx)
{
    int                   rc;
    ngx_uint_t            i;
    infer_buf_t           stops;
    infer_api_request_t  *req;

    req = ctx->req;

    if (!req->seed_set) {
        ngx_http_infer_random(&req->sampling.seed, sizeof(uint64_t));
    }

    rc = ngx_http_infer_stops(req, &stops);

    for (i = 0; i < ctx->nchoices && rc == INFER_OK; i++) {
        rc = ngx_http_infer_fill(ctx, i, &stops);
    }

    infer_buf_free(&stops);

    if (rc == INFER_OK) {
        return INFER_OK;
    }

    for (i = 0; i < ctx->nchoices && ctx->choices[i].held; i++) {
        infer_slot_abandon(&ctx->bus->bus, ctx->choices[i].ref);
        ctx->choices[i].held = 0;
    }

    return rc;
}


void
ngx_http_infer_launch(ngx_http_infer_ctx_t *ctx)
{
    ngx_uint_t                i;
    infer_api_request_t      *req;
    ngx_http_infer_choice_t  *choice;

    req = ctx->req;

    for (i = 0; i < ctx->nchoices; i++) {
        choice = &ctx->choices[i];

        ngx_http_infer_event_add(ctx, choice);

        infer_slot_submit(&ctx->bus->bus, (uint32_t) ctx->bus->entry,
                          choice->ref);

        ngx_log_debug3(NGX_LOG_DEBUG_HTTP, ngx_http_infer_log(ctx), 0,
                       "infer submitted slot %uD, %uD prompt tokens, "
                       "at most %uD", choice->ref.slot,
                       req->prompts[i / req->n].n_ids,
                       req->prompts[i / req->n].max_tokens);
    }

    infer_api_request_shrink(req);

    ngx_http_infer_engine_wake(ctx->bus);
}


ngx_uint_t
ngx_http_infer_slot_runs(ngx_http_infer_bus_t *bus, infer_ref_t ref)
{
    uint32_t  status;

    status = infer_slot_status(&bus->bus, ref);

    return ngx_http_infer_status_runs(status);
}


static void
ngx_http_infer_submitted(ngx_http_infer_ctx_t *ctx)
{
    ngx_http_infer_loc_conf_t  *ilcf;

    if (ctx->req->stream) {
        ilcf = ngx_http_get_module_loc_conf(ctx->request,
                                            ngx_http_infer_module);
        ctx->ping = ilcf->ping;
        ctx->last_sent = ngx_current_msec;
    }

    ngx_http_infer_timer(ctx);
}


/*
 * The choices read generations that another request began, from their start.
 * The ids are kept: should one of them fail before anything was sent, we begin
 * our own.
 */

ngx_int_t
ngx_http_infer_joined(ngx_http_infer_ctx_t *ctx)
{
    ngx_http_infer_event_kick(ctx);
    ngx_http_infer_submitted(ctx);

    ngx_log_debug1(NGX_LOG_DEBUG_HTTP, ctx->request->connection->log, 0,
                   "infer joined slot %uD", ctx->choices->ref.slot);

    return NGX_DONE;
}


/* The extent of stop strings: each with its length before it. */

static int
ngx_http_infer_stops(infer_api_request_t *req, infer_buf_t *stops)
{
    uint32_t  i;
    uint16_t  len;

    ngx_memzero(stops, sizeof(infer_buf_t));

    for (i = 0; i < req->n_stops; i++) {
        len = (uint16_t) req->stop_lens[i];
        infer_buf_put(stops, (char *) &len, sizeof(len));
        infer_buf_put(stops, req->stops[i], len);
    }

    return infer_buf_rc(stops);
}


/* BUSY: no slot or no room; what has been claimed is marked as held */

static int
ngx_http_infer_fill(ngx_http_infer_ctx_t *ctx, ngx_uint_t i,
    infer_buf_t *stops)
{
    int                       rc;
    infer_bus_t              *bus;
    infer_ref_t               ref;
    infer_slot_t             *slot;
    infer_api_prompt_t       *prompt;
    infer_api_request_t      *req;
    ngx_http_infer_choice_t  *choice;

    req = ctx->req;
    bus = &ctx->bus->bus;
    choice = &ctx->choices[i];
    prompt = &req->prompts[i / req->n];

    rc = infer_slot_claim(bus, (uint32_t) ctx->bus->entry, &ref);

    if (rc != INFER_OK) {
        return rc;
    }

    choice->ctx = ctx;
    choice->ref = ref;
    choice->held = 1;

    if (i) {
        infer_slot_chain(bus, ctx->choices[i - 1].ref, ref);
    }

    slot = &bus->slot[ref.slot];

    slot->model = (uint32_t) ctx->model->index;
    slot->queue_deadline_us = ctx->terms.queue_deadline_us;
    slot->first_deadline_us = ctx->terms.first_deadline_us;
    slot->total_deadline_us = ctx->terms.total_deadline_us;
    slot->priority = ctx->terms.priority;
    slot->choice = (uint32_t) i;
    slot->group = ctx->choices[0].ref.slot;
    slot->n_prompt = prompt->n_ids;
    slot->n_stops = req->n_stops;
    slot->n_stop_ids = req->n_stop_ids;
    slot->n_bias = req->n_bias;
    slot->sampling = req->sampling;
    slot->sampling.max_tokens = prompt->max_tokens;
    ngx_memcpy(slot->scope, ctx->scope, sizeof(slot->scope));

    rc = infer_slot_put(bus, ref, INFER_EXT_PROMPT, prompt->ids,
                        (size_t) prompt->n_ids * sizeof(int32_t));

    if (rc == INFER_OK) {
        rc = infer_slot_put(bus, ref, INFER_EXT_STOPS, stops->data,
                            stops->len);
    }

    if (rc == INFER_OK) {
        rc = infer_slot_put(bus, ref, INFER_EXT_STOP_IDS, req->stop_ids,
                            (size_t) req->n_stop_ids * sizeof(int32_t));
    }

    if (rc == INFER_OK) {
        rc = infer_slot_put(bus, ref, INFER_EXT_BIAS, req->bias,
                            (size_t) req->n_bias * sizeof(infer_bias_t));
    }

    if (rc == INFER_OK) {
        rc = infer_slot_reserve_log(bus, ref, prompt->max_tokens);
    }

    return rc;
}


/* The caller wakes the engine. Tokens that nobody read count too. */

void
ngx_http_infer_release(ngx_http_infer_ctx_t *ctx,
    ngx_http_infer_choice_t *choice)
{
    uint32_t  n;

    n = infer_log_count(&ctx->bus->bus, choice->ref);

    if (n > choice->nread) {
        ctx->info.completion_tokens += n - choice->nread;
        choice->nread = n;
    }

    ngx_http_infer_output_note(ctx, choice);

    if (ngx_http_infer_event_del(ctx, choice)) {
        infer_slot_release(&ctx->bus->bus, (uint32_t) ctx->bus->entry,
                           choice->ref);
    }

    choice->held = 0;

    ngx_log_debug2(NGX_LOG_DEBUG_HTTP, ngx_http_infer_log(ctx), 0,
                   "infer released slot %uD after %uD tokens",
                   choice->ref.slot, choice->nread);
}


void
ngx_http_infer_release_all(ngx_http_infer_ctx_t *ctx)
{
    ngx_uint_t  i, n;

    n = 0;

    for (i = 0; i < ctx->nchoices; i++) {
        if (ctx->choices[i].held) {
            ngx_http_infer_release(ctx, &ctx->choices[i]);
            n++;
        }
    }

    if (n) {
        ngx_http_infer_engine_wake(ctx->bus);
    }
}
