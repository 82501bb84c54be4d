
/*
 * The response cache's first look, before a body is parsed: its own bytes,
 * with what a location adds to them, name a rendered answer, which is sent
 * at once, in the event loop. And what decides whether a request is cached at
 * all, and for whom.
 */


#include "ngx_http_infer_request.h"

#include "ipc/hash.h"


#define NGX_HTTP_INFER_CACHE_BODY_MAX  (64 * 1024)


/* what a body's answer depends on, but for the body and the system prompt */

typedef struct {
    uint32_t                     endpoint;
    uint32_t                     seed_set;
    uint32_t                     max_tokens;
    uint32_t                     max_tokens_cap;
    uint32_t                     max_n;
    uint32_t                     day;           /* templates may ask */
    uint32_t                     system_len;
    uint32_t                     sampled;
    infer_sampling_t             sampling;
    u_char                       names[20];     /* of the model */
} ngx_http_infer_cache_body_t;


static ngx_http_infer_cache_ctx_t *ngx_http_infer_cache_ctx(
    ngx_http_request_t *r, ngx_http_infer_ctx_t *ctx,
    ngx_http_infer_cache_conf_t *ccf);
static ngx_int_t ngx_http_infer_cache_scope(ngx_http_request_t *r,
    ngx_http_infer_cache_conf_t *ccf, u_char *scope);
static ngx_int_t ngx_http_infer_cache_variable(ngx_http_request_t *r,
    char *name, ngx_str_t *value);
static ngx_uint_t ngx_http_infer_cache_control(ngx_table_elt_t *h,
    char *directive);
static ngx_int_t ngx_http_infer_cache_body(ngx_http_request_t *r,
    ngx_http_infer_ctx_t *ctx, ngx_http_infer_loc_conf_t *ilcf);
static ngx_int_t ngx_http_infer_cache_page(ngx_http_infer_ctx_t *ctx,
    infer_store_get_t *g);


/* DECLINED: no cached answer, the request goes on. Else it is answered. */

ngx_int_t
ngx_http_infer_cache_lookup_body(ngx_http_request_t *r,
    ngx_http_infer_ctx_t *ctx)
{
    int                          rc;
    infer_store_get_t            g;
    ngx_http_infer_cache_ctx_t  *cc;
    ngx_http_infer_loc_conf_t   *ilcf;

    ilcf = ngx_http_get_module_loc_conf(r, ngx_http_infer_module);

    if (ilcf->cache.cache == NULL
        || ctx->endpoint > NGX_HTTP_INFER_COMPLETIONS)
    {
        return NGX_DECLINED;
    }

    cc = ngx_http_infer_cache_ctx(r, ctx, &ilcf->cache);

    if (cc == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    ctx->cache = cc;

    ngx_http_infer_cache_status(ctx, cc->lookup ? "MISS" : "BYPASS");

    if (!cc->lookup
        || ngx_http_infer_cache_body(r, ctx, ilcf) != NGX_OK)
    {
        return NGX_DECLINED;
    }

    infer_key(ilcf->cache.cache->shm->secret, INFER_KEY_BODY, &cc->space,
              cc->body.data, cc->body.len, cc->body_key);

    rc = ngx_http_infer_cache_get(ctx, cc->body_key, &cc->body, &g);

    return rc == INFER_OK ? ngx_http_infer_cache_page(ctx, &g)
                          : NGX_DECLINED;
}


/* Whose answers, and whether to look and to store at all. */

static ngx_http_infer_cache_ctx_t *
ngx_http_infer_cache_ctx(ngx_http_request_t *r, ngx_http_infer_ctx_t *ctx,
    ngx_http_infer_cache_conf_t *ccf)
{
    ngx_str_t                    tag;
    ngx_uint_t                   no_store;
    ngx_table_elt_t             *control;
    ngx_http_infer_cache_ctx_t  *cc;

    cc = ngx_pcalloc(r->pool, sizeof(ngx_http_infer_cache_ctx_t));

    if (cc == NULL
        || ngx_http_infer_cache_scope(r, ccf, cc->space.scope) != NGX_OK)
    {
        return NULL;
    }

    cc->conf = ccf;

    if (ccf->tag) {

        if (ngx_http_complex_value(r, ccf->tag, &tag) != NGX_OK) {
            return NULL;
        }

        if (tag.len) {
            cc->tag = ngx_http_infer_cache_tag(ccf->cache, &tag);
        }
    }

    cc->shared = ngx_http_infer_cache_redis_space(ctx, ccf, cc->tag,
                                                  cc->space.model);
    if (!cc->shared) {
        ngx_memcpy(cc->space.model, ctx->bus->models[ctx->model->index].digest,
                   sizeof(cc->space.model));
    }

    control = ngx_http_infer_header_in(r, "cache-control", 13);
    no_store = ngx_http_infer_cache_control(control, "no-store");

    cc->lookup = !no_store
                 && !ngx_http_infer_cache_control(control, "no-cache")
                 && ngx_http_test_predicates(r, ccf->bypass) == NGX_OK;

    cc->store = !no_store
                && ngx_http_test_predicates(r, ccf->no_cache) == NGX_OK;

    return cc;
}


uint64_t
ngx_http_infer_cache_tag(ngx_http_infer_cache_t *cache, ngx_str_t *tag)
{
    uint64_t  h;
    u_char    hash[INFER_HASH_BYTES];

    infer_hash(ngx_http_infer_cache_hash_key(cache), tag->data, tag->len,
               hash);
    ngx_memcpy(&h, hash, sizeof(h));

    return h ? h : 1;
}


/*
 * Who shares answers with whom: the value of infer_cache_scope; else the
 * credentials of every kind together, so that no two tenants ever share by
 * accident.
 */

static ngx_int_t
ngx_http_infer_cache_scope(ngx_http_request_t *r,
    ngx_http_infer_cache_conf_t *ccf, u_char *scope)
{
    size_t            len;
    u_char           *p, *text;
    ngx_str_t         part[4];
    ngx_uint_t        i, n;
    ngx_table_elt_t  *h;

    ngx_memzero(part, sizeof(part));
    n = 1;

    if (ccf->scope) {

        if (ngx_http_complex_value(r, ccf->scope, &part[0]) != NGX_OK) {
            return NGX_ERROR;
        }

    } else {
        n = 4;

        if (r->headers_in.authorization) {
            part[0] = r->headers_in.authorization->value;
        }

        h = ngx_http_infer_header_in(r, "x-api-key", 9);

        if (h) {
            part[1] = h->value;
        }

        /* variables only where they can have a value */

        if ((r->headers_in.authorization || r->headers_in.user.len)
            && ngx_http_infer_cache_variable(r, "remote_user", &part[2])
               != NGX_OK)
        {
            return NGX_ERROR;
        }

#if (NGX_SSL)

        if (r->connection->ssl
            && ngx_http_infer_cache_variable(r, "ssl_client_fingerprint",
                                             &part[3])
               != NGX_OK)
        {
            return NGX_ERROR;
        }

#endif
    }

    len = 1;

    for (i = 0; i < n; i++) {
        len += sizeof(size_t) + part[i].len;
    }

    text = ngx_pnalloc(r->pool, len);
    if (text == NULL) {
        return NGX_ERROR;
    }

    p = text;
    *p++ = (u_char) n;

    for (i = 0; i < n; i++) {
        p = ngx_cpymem(p, &part[i].len, sizeof(size_t));

        if (part[i].len) {
            p = ngx_cpymem(p, part[i].data, part[i].len);
        }
    }

    infer_hash(ngx_http_infer_cache_hash_key(ccf->cache), text, len, scope);

    return NGX_OK;
}


/* a variable that may not exist in this build of nginx, or not be set */

static ngx_int_t
ngx_http_infer_cache_variable(ngx_http_request_t *r, char *name,
    ngx_str_t *value)
{
    ngx_str_t                   s;
    ngx_uint_t                  key;
    ngx_http_variable_value_t  *vv;

    s.data = (u_char *) name;
    s.len = ngx_strlen(name);
    key = ngx_hash_key(s.data, s.len);

    vv = ngx_http_get_variable(r, &s, key);

    if (vv == NULL) {
        return NGX_ERROR;
    }

    if (!vv->not_found && vv->valid) {
        value->data = vv->data;
        value->len = vv->len;
    }

    return NGX_OK;
}


static ngx_uint_t
ngx_http_infer_cache_control(ngx_table_elt_t *h, char *directive)
{
    return h && ngx_strlcasestrn(h->value.data, h->value.data + h->value.len,
                                 (u_char *) directive,
                                 ngx_strlen(directive) - 1)
                != NULL;
}


/* The ident of a body that lies in memory; DECLINED for others. */

static ngx_int_t
ngx_http_infer_cache_body(ngx_http_request_t *r, ngx_http_infer_ctx_t *ctx,
    ngx_http_infer_loc_conf_t *ilcf)
{
    off_t                         len;
    ngx_str_t                     system;
    ngx_chain_t                  *cl;
    infer_buf_t                  *ident;
    ngx_http_infer_cache_body_t   head;

    len = 0;
    ngx_str_set(&system, "");

    for (cl = r->request_body ? r->request_body->bufs : NULL; cl;
         cl = cl->next)
    {
        len += ngx_buf_size(cl->buf);

        if (cl->buf->in_file || len > NGX_HTTP_INFER_CACHE_BODY_MAX) {
            return NGX_DECLINED;
        }
    }

    if (ilcf->system
        && ngx_http_complex_value(r, ilcf->system, &system) != NGX_OK)
    {
        return NGX_ERROR;
    }

    ngx_memzero(&head, sizeof(head));
    head.endpoint = ctx->endpoint;
    head.seed_set = (ilcf->sampling_set & NGX_HTTP_INFER_SET_SEED) ? 1 : 0;
    head.max_tokens = (uint32_t) ilcf->max_tokens;
    head.max_tokens_cap = (uint32_t) ilcf->max_tokens_cap;
    head.max_n = (uint32_t) ilcf->max_n;
    head.day = (uint32_t) (ngx_time() / 86400);
    head.system_len = (uint32_t) system.len;
    head.sampled = (uint32_t) ilcf->cache.sampled;
    head.sampling = ilcf->sampling;
    ngx_memcpy(head.names, ctx->model->names, sizeof(head.names));

    ident = &ctx->cache->body;

    (void) infer_buf_room(ident, sizeof(head) + system.len + (size_t) len);

    infer_buf_put(ident, (char *) &head, sizeof(head));
    infer_buf_put(ident, (char *) system.data, system.len);

    for (cl = r->request_body ? r->request_body->bufs : NULL; cl;
         cl = cl->next)
    {
        infer_buf_put(ident, (char *) cl->buf->pos,
                      cl->buf->last - cl->buf->pos);
    }

    return infer_buf_rc(ident) == INFER_OK ? NGX_OK : NGX_ERROR;
}


static ngx_int_t
ngx_http_infer_cache_page(ngx_http_infer_ctx_t *ctx, infer_store_get_t *g)
{
    ngx_http_infer_cache_page_t  page;

    if (ngx_http_infer_cache_head(&page, g->value, g->value_len) != NGX_OK) {
        return NGX_DECLINED;
    }

    infer_buf_free(&ctx->cache->body);
    ngx_http_infer_cache_known(ctx, page.key);
    ngx_http_infer_cache_status(ctx, "HIT");

    return ngx_http_infer_cache_send(ctx, g->value, g->value_len,
                                     g->age_ms + (uint64_t) page.age * 1000);
}
