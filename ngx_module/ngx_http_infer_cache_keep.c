
/*
 * What a generation made goes into the response cache: the logs of its choices
 * are packed as they end, and stored when all have.
 */


#include "ngx_http_infer_request.h"

#include "cache/answer.h"


static ngx_uint_t ngx_http_infer_cache_first(ngx_http_infer_cache_ctx_t *cc);
static ngx_uint_t ngx_http_infer_cache_land(ngx_http_infer_ctx_t *ctx,
    infer_buf_t *value, ngx_msec_t fresh, ngx_msec_t stale);
static int ngx_http_infer_cache_pack(ngx_http_infer_ctx_t *ctx,
    infer_api_usage_t *usage, infer_buf_t *value, ngx_msec_t *fresh);


/* A choice is done and its slot still ours: its log is packed. */

void
ngx_http_infer_cache_keep(ngx_http_infer_ctx_t *ctx,
    ngx_http_infer_choice_t *choice, uint32_t finish)
{
    uint32_t                     i, count, ntop;
    infer_buf_t                 *log;
    infer_top_t                 *top;
    infer_cursor_t               cursor;
    infer_record_t              *rec;
    ngx_http_infer_cache_ctx_t  *cc;

    cc = ctx->cache;

    if (cc == NULL || !cc->store) {
        return;
    }

    ntop = ctx->req->sampling.top_logprobs;
    count = choice->nread;

    if (cc->logs == NULL) {
        cc->logs = ngx_calloc(ctx->nchoices * sizeof(infer_buf_t),
                              ngx_http_infer_log(ctx));
        if (cc->logs == NULL) {
            cc->store = 0;
            return;
        }
    }

    log = &cc->logs[choice - ctx->choices];

    if (infer_answer_room(log, finish, count, ntop, &rec, &top) != INFER_OK) {
        cc->store = 0;
        return;
    }

    ngx_memzero(&cursor, sizeof(infer_cursor_t));

    for (i = 0; i < count; i++) {

        if (infer_log_read(&ctx->bus->bus, choice->ref, &cursor, i, &rec[i],
                           &top[(size_t) i * ntop], ntop)
            != INFER_OK)
        {
            cc->store = 0;
            return;
        }
    }
}


/*
 * The answer is complete. Of those that read one generation, the first to end
 * stores it, and in the same step it is not being made any more: who looks for
 * it meets one or the other.
 */

void
ngx_http_infer_cache_store(ngx_http_infer_ctx_t *ctx,
    infer_api_usage_t *usage)
{
    ngx_uint_t                   landed;
    ngx_msec_t                   fresh, stale;
    infer_buf_t                  value;
    ngx_http_infer_cache_ctx_t  *cc;

    cc = ctx->cache;

    if (cc == NULL || !cc->store || cc->logs == NULL) {
        return;
    }

    landed = ngx_http_infer_cache_first(cc);

    if (!landed && !ngx_http_infer_cache_redis_due(ctx, 0)) {
        ngx_http_infer_cache_free(ctx);
        return;
    }

    stale = ngx_http_infer_cache_stale_ms(cc->conf);

    if (ngx_http_infer_cache_pack(ctx, usage, &value, &fresh) == INFER_OK) {

        if (landed) {
            landed = ngx_http_infer_cache_land(ctx, &value, fresh, stale);
        }

        if (ngx_http_infer_cache_redis_due(ctx, landed)) {
            ngx_http_infer_cache_redis_put(ctx, &value, fresh, stale);
        }
    }

    infer_buf_free(&value);
    ngx_http_infer_cache_free(ctx);
}


/* 1: nobody has stored it yet, as far as can be told */

static ngx_uint_t
ngx_http_infer_cache_first(ngx_http_infer_cache_ctx_t *cc)
{
    int                    rc;
    infer_store_t         *store;
    infer_store_flight_t   now;

    store = ngx_http_infer_cache_enter(cc->conf->cache);

    if (store == NULL || !cc->flying) {
        return store != NULL;
    }

    rc = infer_store_flight(store, cc->log_key, &now);

    return rc == INFER_BUSY
           || (rc == INFER_OK && now.slot == cc->flight.slot
               && now.generation == cc->flight.generation);
}


/* 0: another one was quicker */

static ngx_uint_t
ngx_http_infer_cache_land(ngx_http_infer_ctx_t *ctx, infer_buf_t *value,
    ngx_msec_t fresh, ngx_msec_t stale)
{
    int                          rc;
    ngx_http_infer_cache_ctx_t  *cc;

    cc = ctx->cache;

    rc = ngx_http_infer_cache_put(ctx, cc->log_key, &cc->ident, value, fresh,
                                  stale);

    if (cc->flying && (rc == INFER_BUSY || rc == INFER_INVALID)) {
        rc = infer_store_land(ngx_http_infer_cache_enter(cc->conf->cache),
                              cc->log_key, cc->flight);
        return rc != INFER_AGAIN;
    }

    return rc != INFER_CANCELLED;
}


/* value is the caller's, whatever comes out. fresh: of its shortest choice */

static int
ngx_http_infer_cache_pack(ngx_http_infer_ctx_t *ctx, infer_api_usage_t *usage,
    infer_buf_t *value, ngx_msec_t *fresh)
{
    uint32_t                     finish;
    ngx_uint_t                   i;
    ngx_msec_t                   valid;
    ngx_http_infer_cache_ctx_t  *cc;

    cc = ctx->cache;

    ngx_memzero(value, sizeof(infer_buf_t));
    *fresh = (ngx_msec_t) -1;

    (void) infer_answer_begin(value, (uint32_t) ctx->nchoices,
                              ctx->req->sampling.top_logprobs);

    for (i = 0; i < ctx->nchoices; i++) {
        infer_buf_put(value, cc->logs[i].data, cc->logs[i].len);

        ngx_memcpy(&finish, cc->logs[i].data, sizeof(finish));

        valid = (finish == INFER_FINISH_STOP) ? cc->conf->stop_ms
                                              : cc->conf->length_ms;
        *fresh = ngx_min(*fresh, valid);
    }

    return infer_answer_end(value, usage);
}
