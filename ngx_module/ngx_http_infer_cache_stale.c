
/*
 * Answers past their time: a look-up that finds one keeps it aside, and it is
 * sent where the location lets it stand in for an error, a timeout or a full
 * queue, or for the answer that a refresh is going to bring.
 */


#include "ngx_http_infer_request.h"


static ngx_int_t ngx_http_infer_cache_old(ngx_http_infer_ctx_t *ctx,
    infer_buf_t *page, uint64_t *age_ms);


/* key was looked up, and g is past its time. Logs stand in for a page. */

void
ngx_http_infer_cache_expired(ngx_http_infer_ctx_t *ctx, u_char *key,
    infer_store_get_t *g)
{
    ngx_http_infer_cache_ctx_t  *cc;

    cc = ctx->cache;

    cc->expired = 1;
    ngx_http_infer_cache_status(ctx, "EXPIRED");

    if (ngx_http_infer_cache_older(cc, g->age_ms)) {
        return;
    }

    if (cc->conf->use_stale & NGX_HTTP_INFER_STALE_ALL) {
        cc->old = g->value;
        cc->old_len = g->value_len;
        cc->old_age_ms = g->age_ms;
        cc->old_page = (key == cc->body_key);
    }
}


/* 1: there are logs already that are no older. */

ngx_uint_t
ngx_http_infer_cache_older(ngx_http_infer_cache_ctx_t *cc, uint64_t age_ms)
{
    return cc->old && !cc->old_page && cc->old_age_ms <= age_ms;
}


/* How long an answer is of use after its time. */

ngx_msec_t
ngx_http_infer_cache_stale_ms(ngx_http_infer_cache_conf_t *ccf)
{
    return (ccf->use_stale & NGX_HTTP_INFER_STALE_ALL) ? ccf->stale_ms : 0;
}


/*
 * Sends what a look-up kept aside, if one of the causes allows it. why: what
 * the client would have been told, or NULL. DECLINED: it is to be told so;
 * else as ngx_http_infer_cache_send().
 */

ngx_int_t
ngx_http_infer_cache_stale(ngx_http_infer_ctx_t *ctx, ngx_uint_t causes,
    const char *why)
{
    uint64_t                        age_ms;
    ngx_int_t                       rc;
    ngx_str_t                       value;
    ngx_uint_t                      i;
    infer_buf_t                     page;
    ngx_http_infer_cache_ctx_t     *cc;
    ngx_http_infer_cache_counts_t  *counts;

    cc = ctx->cache;

    if (cc == NULL || cc->old == NULL || ctx->request->header_sent
        || !(causes & cc->conf->use_stale)
        || ngx_http_infer_cache_old(ctx, &page, &age_ms) != NGX_OK)
    {
        return NGX_DECLINED;
    }

    causes &= cc->conf->use_stale;

    if (causes & NGX_HTTP_INFER_STALE_UPDATING) {
        ngx_str_set(&value, "110 - \"Response is Stale\"");

    } else {
        ngx_str_set(&value, "111 - \"Revalidation Failed\"");
    }

    if (ngx_http_infer_header_out(ctx->request, "Warning", &value) != NGX_OK) {
        infer_buf_free(&page);
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    ngx_http_infer_cache_status(ctx, "STALE");

    if (why) {
        ngx_log_error(NGX_LOG_WARN, ctx->request->connection->log, 0,
                      "infer answers from %uL s ago: \"%s\", id: \"%V\"",
                      age_ms / 1000, why, &ctx->info.request_id);
    }

    counts = &cc->conf->cache->shm->counts;

    for (i = 0; i < NGX_HTTP_INFER_STALE_CAUSES; i++) {
        if (causes & (NGX_HTTP_INFER_STALE_ERROR << i)) {
            (void) ngx_atomic_fetch_add(&counts->stale[i], 1);
            break;
        }
    }

    rc = ngx_http_infer_cache_send(ctx, (u_char *) page.data, page.len,
                                   age_ms);
    infer_buf_free(&page);

    return rc;
}


/* The old answer as a page, the caller's; DECLINED: it is none. */

static ngx_int_t
ngx_http_infer_cache_old(ngx_http_infer_ctx_t *ctx, infer_buf_t *page,
    uint64_t *age_ms)
{
    ngx_http_infer_cache_ctx_t   *cc;
    ngx_http_infer_cache_page_t   head;

    cc = ctx->cache;
    *age_ms = cc->old_age_ms;

    ngx_memzero(page, sizeof(infer_buf_t));

    if (!cc->old_page) {
        return ngx_http_infer_cache_render(ctx, cc->old, cc->old_len,
                                           cc->old_age_ms, page)
               == INFER_OK ? NGX_OK : NGX_DECLINED;
    }

    if (ngx_http_infer_cache_head(&head, cc->old, cc->old_len) != NGX_OK) {
        return NGX_DECLINED;
    }

    *age_ms += (uint64_t) head.age * 1000;
    ngx_http_infer_cache_known(ctx, head.key);

    infer_buf_put(page, (char *) cc->old, cc->old_len);

    if (infer_buf_rc(page) != INFER_OK) {
        infer_buf_free(page);
        return NGX_DECLINED;
    }

    return NGX_OK;
}
