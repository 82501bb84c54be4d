
/*
 * The response cache's second look: a tokenized request is looked up in its
 * canonical form, a hit is rendered from the logs, and the result is kept
 * under the body's bytes. And what all looks have in common: entries taken
 * out, put in and sent. cache_body.c has the first look, cache_join.c reads
 * along with generations that run, cache_keep.c stores what they made,
 * cache_page.c sends.
 */


#include "ngx_http_infer_request.h"

#include "cache/answer.h"


static void *ngx_http_infer_cache_room(void *arg, size_t len);
static void ngx_http_infer_cache_keep_page(ngx_http_infer_ctx_t *ctx,
    infer_store_get_t *g, infer_buf_t *page);


/* The request is tokenized. DECLINED: generate. Else it is answered. */

ngx_int_t
ngx_http_infer_cache_lookup(ngx_http_infer_ctx_t *ctx)
{
    int                          rc;
    infer_store_get_t            g;
    ngx_http_infer_cache_ctx_t  *cc;

    cc = ctx->cache;

    if (cc == NULL) {
        return NGX_DECLINED;
    }

    if (!infer_key_repeatable(ctx->req) && !cc->conf->sampled) {
        ngx_http_infer_cache_status(ctx, "BYPASS");
        cc->lookup = 0;
        cc->store = 0;
    }

    if ((!cc->lookup && !cc->store)
        || infer_key_ident(&cc->ident, &cc->space, ctx->req) != INFER_OK)
    {
        cc->store = 0;
        infer_buf_free(&cc->body);
        infer_buf_free(&cc->ident);
        return NGX_DECLINED;
    }

    infer_key(ngx_http_infer_cache_hash_key(cc->conf->cache), INFER_KEY_LOG,
              &cc->space, cc->ident.data, cc->ident.len, cc->log_key);

    ngx_http_infer_cache_known(ctx, cc->log_key);
    ngx_http_infer_cache_epochs(ctx);

    if (cc->lookup) {
        ngx_memzero(&g, sizeof(infer_store_get_t));

        rc = ngx_http_infer_cache_get(ctx, cc->log_key, &cc->ident, &g);

        if (rc == INFER_OK) {
            return ngx_http_infer_cache_log(ctx, &g);
        }
    }

    if (!cc->shared || !cc->lookup) {
        return ngx_http_infer_cache_missed(ctx);
    }

    /* the second tier is asked first, but for what is being made */

    return cc->old ? NGX_DECLINED : ngx_http_infer_cache_join(ctx, NULL);
}


/*
 * No tier has an answer that is good: an old one while it is refreshed, or
 * one that is being made; DECLINED: generate.
 */

ngx_int_t
ngx_http_infer_cache_missed(ngx_http_infer_ctx_t *ctx)
{
    ngx_int_t                    rc;
    ngx_http_infer_cache_ctx_t  *cc;

    cc = ctx->cache;

    infer_buf_free(&cc->body);

    if (!cc->lookup) {
        return NGX_DECLINED;
    }

    if (cc->old && !ngx_http_infer_engine_ready(ctx->bus)) {
        rc = ngx_http_infer_cache_stale(ctx, NGX_HTTP_INFER_STALE_ERROR,
                                        "The engine is not ready.");
        if (rc != NGX_DECLINED) {
            return rc;
        }
    }

    if (cc->store && ngx_process == NGX_PROCESS_WORKER) {
        rc = ngx_http_infer_cache_stale(ctx, NGX_HTTP_INFER_STALE_UPDATING,
                                        NULL);
        if (rc != NGX_DECLINED) {
            ngx_http_infer_refresh(ctx);
            return rc;
        }
    }

    return ngx_http_infer_cache_join(ctx, NULL);
}


/* OK: the value is in g, or stays in the zone. An old one is kept aside. */

int
ngx_http_infer_cache_get(ngx_http_infer_ctx_t *ctx, u_char *key,
    infer_buf_t *ident, infer_store_get_t *g)
{
    int                      rc;
    infer_store_t           *store;
    ngx_http_infer_cache_t  *cache;

    cache = ctx->cache->conf->cache;

    store = ngx_http_infer_cache_enter(cache);
    if (store == NULL) {
        return INFER_AGAIN;
    }

    ngx_http_infer_cache_query(ctx, ident, g);

    rc = infer_store_get(store, key, g);

    if (rc == INFER_BUSY) {
        ngx_http_infer_cache_busy(cache);
    }

    if (rc != INFER_OK) {
        return rc;
    }

    ctx->cache->frequency = ngx_max(ctx->cache->frequency, g->frequency);

    if (g->stale) {
        ngx_http_infer_cache_expired(ctx, key, g);
        return INFER_AGAIN;
    }

    return INFER_OK;
}


/* What is looked for, in a g that says no more than where the value goes. */

void
ngx_http_infer_cache_query(ngx_http_infer_ctx_t *ctx, infer_buf_t *ident,
    infer_store_get_t *g)
{
    g->ident = ident->data;
    g->ident_len = ident->len;
    g->now_ms = infer_now_us() / 1000;
    g->ref_min = NGX_HTTP_INFER_CACHE_REF_MIN;

    if (g->alloc == NULL) {
        g->alloc = ngx_http_infer_cache_room;
        g->alloc_arg = ctx->request->pool;
    }
}


static void *
ngx_http_infer_cache_room(void *arg, size_t len)
{
    return ngx_palloc(arg, len ? len : 1);
}


/* Renders from the logs, and keeps the result for the next such body. */

ngx_int_t
ngx_http_infer_cache_log(ngx_http_infer_ctx_t *ctx, infer_store_get_t *g)
{
    ngx_int_t    rc;
    infer_buf_t  page;

    if (ngx_http_infer_cache_render(ctx, g->value, g->value_len, g->age_ms,
                                    &page)
        != INFER_OK)
    {
        return NGX_DECLINED;
    }

    ngx_http_infer_cache_keep_page(ctx, g, &page);
    ngx_http_infer_cache_status(ctx, ctx->cache->second ? "L2" : "HIT");

    rc = ngx_http_infer_cache_send(ctx, (u_char *) page.data, page.len,
                                   g->age_ms);
    infer_buf_free(&page);

    ngx_http_infer_refresh_ahead(ctx, g);

    return rc;
}


/*
 * The page of packed logs, which may come from anywhere: CORRUPT when they
 * are no answer to the request. page is the caller's when OK.
 */

int
ngx_http_infer_cache_render(ngx_http_infer_ctx_t *ctx, void *logs, size_t len,
    uint64_t age_ms, infer_buf_t *page)
{
    int                          rc;
    infer_answer_t               answer;
    infer_render_conf_t          conf;
    ngx_http_infer_cache_page_t  head;

    rc = infer_answer_open(&answer, logs, len,
                           ctx->req->n_prompts * ctx->req->n,
                           ctx->req->sampling.top_logprobs,
                           ctx->bus->bus.model[ctx->model->index].vocab);
    if (rc != INFER_OK) {
        return rc;
    }

    ngx_memzero(&head, sizeof(head));
    head.version = NGX_HTTP_INFER_CACHE_PAGE;
    head.stream = ctx->req->stream;
    head.prompt_tokens = (uint32_t) answer.usage.prompt_tokens;
    head.completion_tokens = (uint32_t) answer.usage.completion_tokens;
    head.finish = answer.choice[answer.n_choices - 1].finish;
    head.age = (uint32_t) (age_ms / 1000);
    ngx_memcpy(head.key, ctx->cache->log_key, INFER_STORE_KEY);

    ngx_memzero(page, sizeof(infer_buf_t));
    infer_buf_put(page, (char *) &head, sizeof(head));

    ngx_http_infer_cache_conf(ctx, &conf);
    conf.blank = 1;

    rc = infer_answer_render(page, ctx->bus->models[ctx->model->index].text,
                             ctx->req, &answer, &conf);
    if (rc != INFER_OK) {
        infer_buf_free(page);
        return rc;
    }

    /* a stream has an id in each event */

    if (!head.stream
        && infer_answer_once(page->data + sizeof(head),
                             page->len - sizeof(head), &head.id_at,
                             &head.time_at))
    {
        ngx_memcpy(page->data, &head, sizeof(head));
    }

    return INFER_OK;
}


/*
 * For the next such body. Where hot answers are refreshed ahead of their end,
 * a page ends before its logs do, so that somebody looks at those.
 */

static void
ngx_http_infer_cache_keep_page(ngx_http_infer_ctx_t *ctx,
    infer_store_get_t *g, infer_buf_t *page)
{
    ngx_msec_t                   fresh, stale, window;
    ngx_http_infer_cache_ctx_t  *cc;

    cc = ctx->cache;

    if (cc->body.len == 0 || !cc->store) {
        return;
    }

    fresh = (ngx_msec_t) g->left_ms;
    stale = ngx_http_infer_cache_stale_ms(cc->conf);

    if (cc->conf->ahead) {
        window = ngx_http_infer_cache_window(g);
        fresh -= ngx_min(fresh, window);
        stale = ngx_max(stale, window);
    }

    (void) ngx_http_infer_cache_put(ctx, cc->body_key, &cc->body, page, fresh,
                                    stale);
}


int
ngx_http_infer_cache_put(ngx_http_infer_ctx_t *ctx, u_char *key,
    infer_buf_t *ident, infer_buf_t *value, ngx_msec_t fresh,
    ngx_msec_t stale)
{
    int                           rc;
    infer_store_t                *store;
    infer_store_put_t             p;
    ngx_http_infer_cache_conf_t  *ccf;

    ccf = ctx->cache->conf;

    store = ngx_http_infer_cache_enter(ccf->cache);

    if (store == NULL || fresh == 0 || value->len > ccf->max_size) {
        return INFER_INVALID;
    }

    ngx_memzero(&p, sizeof(infer_store_put_t));
    p.ident = ident->data;
    p.ident_len = ident->len;
    p.value = value->data;
    p.value_len = value->len;
    p.now_ms = infer_now_us() / 1000;
    p.fresh_ms = fresh;
    p.stale_ms = stale;
    p.tag = ctx->cache->tag;
    p.origin = ngx_http_infer_cache_origin(ctx->cache->log_key);
    p.epochs = &ctx->cache->epochs;

    if (ctx->cache->flying && key == ctx->cache->log_key) {
        p.flight = &ctx->cache->flight;
    }

    rc = infer_store_put(store, key, &p);

    if (rc == INFER_BUSY) {
        ngx_http_infer_cache_busy(ccf->cache);
    }

    ngx_log_debug2(NGX_LOG_DEBUG_HTTP, ngx_http_infer_log(ctx), 0,
                   "infer cache put %uz bytes: %d", value->len, rc);

    return rc;
}


void
ngx_http_infer_cache_conf(ngx_http_infer_ctx_t *ctx, infer_render_conf_t *conf)
{
    const char  *build;

    build = infer_build_id();

    conf->id.data = (char *) ctx->info.request_id.data;
    conf->id.len = ctx->info.request_id.len;
    conf->created = (int64_t) ngx_time();
    conf->fingerprint.data = build;
    conf->fingerprint.len = ngx_strlen(build);
    conf->blank = 0;
}


void
ngx_http_infer_cache_status(ngx_http_infer_ctx_t *ctx, char *status)
{
    ctx->info.cache_status.data = (u_char *) status;
    ctx->info.cache_status.len = ngx_strlen(status);
}


/* $infer_cache_key */

void
ngx_http_infer_cache_known(ngx_http_infer_ctx_t *ctx, u_char *key)
{
    ngx_memcpy(ctx->info.cache_key, key, INFER_STORE_KEY);
    ctx->info.has_cache_key = 1;
}


/* Of the logs under a key and all that was rendered from them, for purges. */

uint64_t
ngx_http_infer_cache_origin(u_char *key)
{
    uint64_t  origin;

    ngx_memcpy(&origin, key, sizeof(origin));

    return origin ? origin : 1;
}


/* Before logs are looked for or begun: a purge from now on is one of what is
 * made of them, too. */

void
ngx_http_infer_cache_epochs(ngx_http_infer_ctx_t *ctx)
{
    infer_store_t               *store;
    ngx_http_infer_cache_ctx_t  *cc;

    cc = ctx->cache;
    store = ngx_http_infer_cache_enter(cc->conf->cache);

    if (store) {
        infer_store_epochs(store, cc->tag,
                           ngx_http_infer_cache_origin(cc->log_key),
                           &cc->epochs);
    }
}


void
ngx_http_infer_cache_free(ngx_http_infer_ctx_t *ctx)
{
    ngx_uint_t                   i;
    ngx_http_infer_cache_ctx_t  *cc;

    cc = ctx->cache;

    if (cc == NULL) {
        return;
    }

    infer_buf_free(&cc->body);
    infer_buf_free(&cc->ident);

    for (i = 0; cc->logs && i < ctx->nchoices; i++) {
        infer_buf_free(&cc->logs[i]);
    }

    if (cc->logs) {
        ngx_free(cc->logs);
        cc->logs = NULL;
    }

    cc->store = 0;
}
