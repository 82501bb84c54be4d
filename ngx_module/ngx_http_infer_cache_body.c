
/*
 * The response cache's first look, before a body is parsed: its own bytes,
 * with what a location adds to them, name a rendered answer, which is sent
 * at once, in the event loop. And what decides whether a request is cached at
 * all, and for whom.
 */


#include "ngx_http_infer_request.h"

#include "ipc/hash.h"


#define NGX_HTTP_INFER_CACHE_BODY_MAX    (64 * 1024)
#define NGX_HTTP_INFER_CACHE_BODY_SHORT  1024   /* idents, on the stack */


static ngx_int_t ngx_http_infer_cache_at_hand(ngx_http_request_t *r,
    ngx_buf_t *b);
static void ngx_http_infer_cache_take_body(ngx_http_request_t *r,
    ngx_buf_t *b, ngx_http_infer_hit_room_t *room);
static ngx_int_t ngx_http_infer_cache_find(ngx_http_request_t *r,
    ngx_http_infer_ctx_t *ctx, ngx_chain_t *body, ngx_http_infer_hit_t *hit);
static ngx_http_infer_cache_ctx_t *ngx_http_infer_cache_ctx(
    ngx_http_request_t *r, ngx_http_infer_ctx_t *ctx,
    ngx_http_infer_cache_conf_t *ccf);
static ngx_int_t ngx_http_infer_cache_scope(ngx_http_request_t *r,
    ngx_http_infer_ctx_t *ctx, ngx_http_infer_cache_conf_t *ccf,
    u_char *scope);
static ngx_int_t ngx_http_infer_cache_scope_hash(ngx_http_request_t *r,
    ngx_http_infer_cache_conf_t *ccf, ngx_str_t *part, ngx_uint_t n,
    u_char *scope);
static ngx_int_t ngx_http_infer_cache_variable(ngx_http_request_t *r,
    char *name, ngx_str_t *value);
static ngx_uint_t ngx_http_infer_cache_control(ngx_table_elt_t *h,
    char *directive);
static ngx_int_t ngx_http_infer_cache_body(ngx_http_request_t *r,
    ngx_http_infer_ctx_t *ctx, ngx_http_infer_loc_conf_t *ilcf,
    ngx_chain_t *body, infer_buf_t *ident);
static void ngx_http_infer_cache_body_head(ngx_http_infer_ctx_t *ctx,
    ngx_http_infer_loc_conf_t *ilcf, size_t system_len);


/*
 * A short body has come with the headers: most of what a hit would cost is
 * spared by answering before nginx is asked to read it. Nothing has happened
 * when it is DECLINED, but that the body's first look is done.
 */

ngx_int_t
ngx_http_infer_cache_lookup_early(ngx_http_request_t *r,
    ngx_http_infer_ctx_t *ctx)
{
    ngx_int_t              rc;
    ngx_buf_t              b;
    ngx_chain_t            body;
    ngx_http_infer_hit_t   hit;

    if (ngx_http_infer_cache_at_hand(r, &b) != NGX_OK) {
        return NGX_DECLINED;
    }

    body.buf = &b;
    body.next = NULL;

    rc = ngx_http_infer_cache_find(r, ctx, &body, &hit);

    if (rc == NGX_OK) {

        ngx_http_infer_cache_take_body(r, &b, hit.room);

        return ngx_http_infer_hit_send(ctx, &hit);
    }

    if (ngx_http_infer_own(ctx) != NGX_OK) {
        ngx_http_infer_cache_free(ctx);
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    return rc;
}


/* DECLINED: no cached answer, the request goes on. Else it is answered. */

ngx_int_t
ngx_http_infer_cache_lookup_body(ngx_http_request_t *r,
    ngx_http_infer_ctx_t *ctx)
{
    ngx_int_t             rc;
    ngx_chain_t          *body;
    ngx_http_infer_hit_t  hit;

    if (ctx->cache) {
        return NGX_DECLINED;
    }

    body = r->request_body ? r->request_body->bufs : NULL;

    rc = ngx_http_infer_cache_find(r, ctx, body, &hit);

    return rc == NGX_OK ? ngx_http_infer_hit_send(ctx, &hit) : rc;
}


/*
 * OK: b is the whole body, behind the headers in nginx's buffer, and nobody
 * else wants to see it pass: no filter of bodies, no file, no "100 Continue".
 */

static ngx_int_t
ngx_http_infer_cache_at_hand(ngx_http_request_t *r, ngx_buf_t *b)
{
    off_t                       len;
    ngx_http_infer_loc_conf_t  *ilcf;

    ilcf = ngx_http_get_module_loc_conf(r, ngx_http_infer_module);

    len = r->headers_in.content_length_n;

    if (ilcf->cache.cache == NULL || ilcf->cache.pace
        || r != r->main || r->http_version >= NGX_HTTP_VERSION_20
        || r->request_body || r->discard_body || r->request_body_in_file_only
        || r->headers_in.chunked || r->headers_in.expect || len <= 0
        || len > r->header_in->last - r->header_in->pos
        || ngx_http_top_request_body_filter
           != ngx_http_request_body_save_filter)
    {
        return NGX_DECLINED;
    }

    ngx_memzero(b, sizeof(ngx_buf_t));

    b->start = r->header_in->pos;
    b->pos = b->start;
    b->last = b->start + (size_t) len;
    b->end = b->last;
    b->temporary = 1;

    return NGX_OK;
}


/* As if nginx had read it: what follows is the next request. */

static void
ngx_http_infer_cache_take_body(ngx_http_request_t *r, ngx_buf_t *b,
    ngx_http_infer_hit_room_t *room)
{
    room->in_buf = *b;
    room->in.buf = &room->in_buf;
    room->rb.bufs = &room->in;

    r->request_body = &room->rb;
    r->header_in->pos = b->last;
    r->request_length += b->last - b->pos;
}


/* OK: the hit is the rendered answer to the body. DECLINED: there is none. */

static ngx_int_t
ngx_http_infer_cache_find(ngx_http_request_t *r, ngx_http_infer_ctx_t *ctx,
    ngx_chain_t *body, ngx_http_infer_hit_t *hit)
{
    char                         room[NGX_HTTP_INFER_CACHE_BODY_SHORT];
    ngx_int_t                    rc;
    infer_buf_t                  ident;
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

    ngx_str_set(&ctx->info.cache_status, "MISS");

    if (!cc->lookup) {
        ngx_str_set(&ctx->info.cache_status, "BYPASS");
        return NGX_DECLINED;
    }

    ngx_memzero(&ident, sizeof(infer_buf_t));
    ident.data = room;
    ident.cap = sizeof(room);

    if (ngx_http_infer_cache_body(r, ctx, ilcf, body, &ident) != NGX_OK) {
        return NGX_DECLINED;
    }

    ngx_http_infer_hit_begin(ctx, hit);

    rc = NGX_DECLINED;

    if (ngx_http_infer_cache_get(ctx, cc->body_key, &ident, &hit->got)
        == INFER_OK)
    {
        rc = ngx_http_infer_hit_read(hit);
    }

    if (rc == NGX_DECLINED) {

        if (ident.data != room) {
            cc->body = ident;

        } else {
            infer_buf_put(&cc->body, ident.data, ident.len);
        }

        return NGX_DECLINED;
    }

    if (ident.data != room) {
        infer_buf_free(&ident);
    }

    if (rc == NGX_OK) {
        ngx_http_infer_cache_known(ctx, hit->head.key);
        ngx_str_set(&ctx->info.cache_status, "HIT");
    }

    return rc;
}


/* Whose answers, and whether to look and to store at all. */

static ngx_http_infer_cache_ctx_t *
ngx_http_infer_cache_ctx(ngx_http_request_t *r, ngx_http_infer_ctx_t *ctx,
    ngx_http_infer_cache_conf_t *ccf)
{
    ngx_str_t                    tag;
    ngx_uint_t                   no_store;
    ngx_http_infer_cache_ctx_t  *cc;

    cc = ngx_pcalloc(r->pool, sizeof(ngx_http_infer_cache_ctx_t));

    if (cc == NULL
        || ngx_http_infer_cache_scope(r, ctx, ccf, cc->space.scope) != NGX_OK)
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

    no_store = ngx_http_infer_cache_control(ctx->cache_control, "no-store");

    cc->lookup = !no_store
                 && !ngx_http_infer_cache_control(ctx->cache_control,
                                                  "no-cache")
                 && (ccf->bypass == NULL
                     || ngx_http_test_predicates(r, ccf->bypass) == NGX_OK);

    cc->store = !no_store
                && (ccf->no_cache == NULL
                    || ngx_http_test_predicates(r, ccf->no_cache) == NGX_OK);

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
ngx_http_infer_cache_scope(ngx_http_request_t *r, ngx_http_infer_ctx_t *ctx,
    ngx_http_infer_cache_conf_t *ccf, u_char *scope)
{
    ngx_str_t   part[4];
    ngx_uint_t  n;

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

        if (ctx->api_key) {
            part[1] = ctx->api_key->value;
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

    return ngx_http_infer_cache_scope_hash(r, ccf, part, n, scope);
}


/* Those that say nothing are the same each time. */

static ngx_int_t
ngx_http_infer_cache_scope_hash(ngx_http_request_t *r,
    ngx_http_infer_cache_conf_t *ccf, ngx_str_t *part, ngx_uint_t n,
    u_char *scope)
{
    size_t                        len, said;
    u_char                       *p, *text;
    ngx_uint_t                    i;
    ngx_http_infer_cache_memo_t  *memo;

    memo = &ccf->memo;
    said = 0;

    for (i = 0; i < n; i++) {
        said += part[i].len;
    }

    if (said == 0 && memo->has_anonymous) {
        ngx_memcpy(scope, memo->anonymous, sizeof(memo->anonymous));
        return NGX_OK;
    }

    len = 1 + n * sizeof(size_t) + said;

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

    if (said == 0) {
        ngx_memcpy(memo->anonymous, scope, sizeof(memo->anonymous));
        memo->has_anonymous = 1;
    }

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


/*
 * The ident and key of a body that lies in memory; DECLINED for others. ident
 * has room that is not of malloc, and may leave it for some that is.
 */

static ngx_int_t
ngx_http_infer_cache_body(ngx_http_request_t *r, ngx_http_infer_ctx_t *ctx,
    ngx_http_infer_loc_conf_t *ilcf, ngx_chain_t *body, infer_buf_t *ident)
{
    char                         *p;
    size_t                        len;
    ngx_str_t                     system;
    ngx_chain_t                  *cl;
    ngx_http_infer_cache_memo_t  *memo;

    len = 0;
    ngx_str_set(&system, "");

    for (cl = body; cl; cl = cl->next) {
        len += (size_t) ngx_buf_size(cl->buf);

        if (cl->buf->in_file || len > NGX_HTTP_INFER_CACHE_BODY_MAX) {
            return NGX_DECLINED;
        }
    }

    if (ilcf->system
        && ngx_http_complex_value(r, ilcf->system, &system) != NGX_OK)
    {
        return NGX_ERROR;
    }

    len += sizeof(memo->head) + system.len;

    if (len > ident->cap) {
        ngx_memzero(ident, sizeof(infer_buf_t));

        if (infer_buf_room(ident, len) == NULL) {
            return NGX_ERROR;
        }
    }

    ngx_http_infer_cache_body_head(ctx, ilcf, system.len);

    memo = &ilcf->cache.memo;
    ident->len = len;

    p = (char *) ngx_cpymem(ident->data, &memo->head, sizeof(memo->head));

    if (system.len) {
        p = (char *) ngx_cpymem(p, system.data, system.len);
    }

    for (cl = body; cl; cl = cl->next) {

        /* the last one of a chunked body is nowhere */

        if (cl->buf->last != cl->buf->pos) {
            p = (char *) ngx_cpymem(p, cl->buf->pos,
                                    cl->buf->last - cl->buf->pos);
        }
    }

    infer_hash_quick(memo->key, ident->data + sizeof(memo->head),
                     len - sizeof(memo->head), ctx->cache->body_key);

    return NGX_OK;
}


/*
 * The head, which seldom changes, makes the key that the rest is hashed by.
 * What is not compared is the same in all requests for a location.
 */

static void
ngx_http_infer_cache_body_head(ngx_http_infer_ctx_t *ctx,
    ngx_http_infer_loc_conf_t *ilcf, size_t system_len)
{
    uint32_t                      day;
    infer_key_space_t            *space;
    ngx_http_infer_cache_body_t  *head;
    ngx_http_infer_cache_memo_t  *memo;

    memo = &ilcf->cache.memo;
    head = &memo->head;
    space = &ctx->cache->space;
    day = (uint32_t) (ngx_time() / 86400);

    if (memo->has_key
        && head->endpoint == ctx->endpoint
        && head->day == day
        && head->system_len == system_len
        && ngx_memcmp(&head->space, space, sizeof(*space)) == 0
        && ngx_memcmp(head->names, ctx->model->names, sizeof(head->names))
           == 0)
    {
        return;
    }

    ngx_memzero(head, sizeof(*head));
    head->space = *space;
    ngx_memcpy(head->names, ctx->model->names, sizeof(head->names));
    head->endpoint = ctx->endpoint;
    head->seed_set = (ilcf->sampling_set & NGX_HTTP_INFER_SET_SEED) ? 1 : 0;
    head->max_tokens = (uint32_t) ilcf->max_tokens;
    head->max_tokens_cap = (uint32_t) ilcf->max_tokens_cap;
    head->max_n = (uint32_t) ilcf->max_n;
    head->day = day;
    head->system_len = (uint32_t) system_len;
    head->sampled = (uint32_t) ilcf->cache.sampled;
    head->sampling = ilcf->sampling;

    infer_key(ilcf->cache.cache->shm->secret, INFER_KEY_BODY, space, head,
              sizeof(*head), memo->key);
    memo->has_key = 1;
}
