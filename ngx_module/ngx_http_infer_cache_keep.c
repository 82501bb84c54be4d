
/*
 * What a generation made goes into the response cache: the logs of its choices
 * are packed as they end, and stored when all have.
 */


#include "ngx_http_infer_request.h"

#include "cache/answer.h"


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


/* The answer is complete. */

void
ngx_http_infer_cache_store(ngx_http_infer_ctx_t *ctx,
    infer_api_usage_t *usage)
{
    uint32_t                     finish;
    ngx_uint_t                   i, landed, second;
    ngx_msec_t                   fresh, stale, valid;
    infer_buf_t                  value;
    infer_store_t               *store;
    ngx_http_infer_cache_ctx_t  *cc;

    cc = ctx->cache;

    if (cc == NULL || !cc->store || cc->logs == NULL) {
        return;
    }

    store = ngx_http_infer_cache_enter(cc->conf->cache);

    /* of those that read one generation, the first to end stores it */

    landed = store && !(cc->flying
                        && infer_store_land(store, cc->log_key, cc->flight)
                           == INFER_AGAIN);
    second = ngx_http_infer_cache_redis_due(ctx, landed);

    if (!landed && !second) {
        ngx_http_infer_cache_free(ctx);
        return;
    }

    ngx_memzero(&value, sizeof(infer_buf_t));
    fresh = (ngx_msec_t) -1;
    stale = ngx_http_infer_cache_stale_ms(cc->conf);

    (void) infer_answer_begin(&value, (uint32_t) ctx->nchoices,
                              ctx->req->sampling.top_logprobs);

    for (i = 0; i < ctx->nchoices; i++) {
        infer_buf_put(&value, cc->logs[i].data, cc->logs[i].len);

        ngx_memcpy(&finish, cc->logs[i].data, sizeof(finish));

        valid = (finish == INFER_FINISH_STOP) ? cc->conf->stop_ms
                                              : cc->conf->length_ms;
        fresh = ngx_min(fresh, valid);
    }

    if (infer_answer_end(&value, usage) == INFER_OK) {

        if (landed) {
            (void) ngx_http_infer_cache_put(ctx, cc->log_key, &cc->ident,
                                            &value, fresh, stale);
        }

        if (second) {
            ngx_http_infer_cache_redis_put(ctx, &value, fresh, stale);
        }
    }

    infer_buf_free(&value);
    ngx_http_infer_cache_free(ctx);
}
