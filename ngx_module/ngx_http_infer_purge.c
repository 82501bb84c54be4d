
/*
 * A location that empties the response cache: POST or DELETE with ?all,
 * ?tag=NAME or ?key=KEY (several at once), protected like any location. What
 * is purged is a miss from the answer on, for every worker, and in Redis for
 * every node. A key is what $infer_cache_key says; with the logs under it go
 * all pages made of them.
 */


#include "ngx_http_infer_request.h"


static ngx_int_t ngx_http_infer_purge_args(ngx_http_request_t *r,
    ngx_http_infer_cache_t *cache, ngx_array_t *purges);
static ngx_int_t ngx_http_infer_purge_arg(ngx_http_request_t *r,
    ngx_http_infer_cache_t *cache, ngx_str_t *arg,
    ngx_http_infer_purge_t *purge);
static ngx_int_t ngx_http_infer_purge_key(u_char *p, size_t len,
    ngx_http_infer_purge_t *purge);


ngx_int_t
ngx_http_infer_purge_handler(ngx_http_request_t *r)
{
    ngx_int_t                   rc;
    ngx_str_t                   value;
    ngx_uint_t                  i;
    ngx_array_t                 purges;
    ngx_http_infer_cache_t     *cache;
    ngx_http_infer_purge_t     *purge;
    ngx_http_infer_loc_conf_t  *ilcf;

    ilcf = ngx_http_get_module_loc_conf(r, ngx_http_infer_module);
    cache = ilcf->cache.purge;

    if (ngx_http_infer_get_ctx(r) == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    rc = ngx_http_discard_request_body(r);
    if (rc != NGX_OK) {
        return rc;
    }

    if (!(r->method & (NGX_HTTP_POST|NGX_HTTP_DELETE))) {
        ngx_str_set(&value, "POST, DELETE");

        if (ngx_http_infer_header_out(r, "Allow", &value) != NGX_OK) {
            return NGX_HTTP_INTERNAL_SERVER_ERROR;
        }

        return ngx_http_infer_error(r, NGX_HTTP_NOT_ALLOWED,
                                    "A purge is asked by POST or DELETE.");
    }

    if (ngx_http_infer_cache_enter(cache) == NULL
        || ngx_array_init(&purges, r->pool, 4, sizeof(ngx_http_infer_purge_t))
           != NGX_OK
        || ngx_http_infer_purge_args(r, cache, &purges) != NGX_OK)
    {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    if (purges.nelts == 0) {
        return ngx_http_infer_error(r, NGX_HTTP_BAD_REQUEST,
                                    "Say ?all, ?tag=NAME or ?key=KEY.");
    }

    purge = purges.elts;

    for (i = 0; i < purges.nelts; i++) {
        ngx_http_infer_purge_here(cache, purge[i].tag);
    }

    if (cache->redis == NULL) {
        return ngx_http_infer_purge_answer(r, 1);
    }

    rc = ngx_http_infer_redis_purge(r, cache, purge, purges.nelts);

    return (rc == NGX_DECLINED) ? ngx_http_infer_purge_answer(r, 0) : rc;
}


/* In the first tier; tag 0: all. */

void
ngx_http_infer_purge_here(ngx_http_infer_cache_t *cache, uint64_t tag)
{
    infer_store_t  *store;

    store = ngx_http_infer_cache_enter(cache);

    if (store == NULL) {
        return;
    }

    /* before: what is under way must not come in afterwards */

    (void) atomic_fetch_add(&cache->shm->purges, 1);

    if (tag) {
        infer_store_purge_tag(store, tag);

    } else {
        infer_store_purge_all(store);
    }
}


/* Without Redis only this node has purged: whoever asked has to ask again. */

ngx_int_t
ngx_http_infer_purge_answer(ngx_http_request_t *r, ngx_uint_t ok)
{
    ngx_str_t  value;

    if (ok) {
        ngx_str_set(&value, "{\"purged\":true}");
        return ngx_http_infer_send(r, NGX_HTTP_OK, "application/json",
                                   &value);
    }

    ngx_str_set(&value, "{\"purged\":false,\"redis\":\"unreachable\"}");

    return ngx_http_infer_send(r, NGX_HTTP_BAD_GATEWAY, "application/json",
                               &value);
}


static ngx_int_t
ngx_http_infer_purge_args(ngx_http_request_t *r,
    ngx_http_infer_cache_t *cache, ngx_array_t *purges)
{
    u_char                  *p, *last, *end;
    ngx_int_t                rc;
    ngx_str_t                arg;
    ngx_http_infer_purge_t   purge, *slot;

    last = r->args.data + r->args.len;

    for (p = r->args.data; p < last; p = end + 1) {
        end = ngx_strlchr(p, last, '&');

        if (end == NULL) {
            end = last;
        }

        arg.data = p;
        arg.len = end - p;

        ngx_memzero(&purge, sizeof(purge));

        rc = ngx_http_infer_purge_arg(r, cache, &arg, &purge);

        if (rc == NGX_ERROR) {
            return NGX_ERROR;
        }

        if (rc == NGX_DECLINED) {
            continue;
        }

        slot = ngx_array_push(purges);
        if (slot == NULL) {
            return NGX_ERROR;
        }

        *slot = purge;
    }

    return NGX_OK;
}


/* DECLINED: nothing that we know */

static ngx_int_t
ngx_http_infer_purge_arg(ngx_http_request_t *r, ngx_http_infer_cache_t *cache,
    ngx_str_t *arg, ngx_http_infer_purge_t *purge)
{
    u_char     *dst, *src;
    ngx_str_t   tag;

    if (arg->len == 3 && ngx_strncmp(arg->data, "all", 3) == 0) {
        return NGX_OK;
    }

    if (arg->len <= 4) {
        return NGX_DECLINED;
    }

    if (ngx_strncmp(arg->data, "key=", 4) == 0) {
        return ngx_http_infer_purge_key(arg->data + 4, arg->len - 4, purge);
    }

    if (ngx_strncmp(arg->data, "tag=", 4) != 0) {
        return NGX_DECLINED;
    }

    tag.data = ngx_pnalloc(r->pool, arg->len);
    if (tag.data == NULL) {
        return NGX_ERROR;
    }

    dst = tag.data;
    src = arg->data + 4;
    ngx_unescape_uri(&dst, &src, arg->len - 4, NGX_UNESCAPE_URI);
    tag.len = dst - tag.data;

    purge->tag = ngx_http_infer_cache_tag(cache, &tag);

    return NGX_OK;
}


/* DECLINED: no key */

static ngx_int_t
ngx_http_infer_purge_key(u_char *p, size_t len, ngx_http_infer_purge_t *purge)
{
    ngx_int_t   byte;
    ngx_uint_t  i;

    if (len != 2 * INFER_STORE_KEY) {
        return NGX_DECLINED;
    }

    for (i = 0; i < INFER_STORE_KEY; i++) {
        byte = ngx_hextoi(p + 2 * i, 2);

        if (byte == NGX_ERROR) {
            return NGX_DECLINED;
        }

        purge->key[i] = (u_char) byte;
    }

    purge->by_key = 1;
    purge->tag = ngx_http_infer_cache_origin(purge->key);

    return NGX_OK;
}
