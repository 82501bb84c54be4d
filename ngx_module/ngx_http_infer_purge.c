
/*
 * A location that empties the response cache: POST or DELETE with ?all,
 * ?tag=NAME or ?key=KEY (several at once), protected like any location. What
 * is purged is a miss from the answer on, for every worker. A key is what
 * $infer_cache_key says; with the logs under it go all pages made of them.
 */


#include "ngx_http_infer_request.h"


static ngx_uint_t ngx_http_infer_purge_args(ngx_http_request_t *r,
    ngx_http_infer_cache_t *cache);
static ngx_int_t ngx_http_infer_purge_key(u_char *p, size_t len,
    uint64_t *origin);


ngx_int_t
ngx_http_infer_purge_handler(ngx_http_request_t *r)
{
    ngx_int_t                   rc;
    ngx_str_t                   value;
    ngx_http_infer_cache_t     *cache;
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

    if (ngx_http_infer_cache_enter(cache) == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    if (ngx_http_infer_purge_args(r, cache) == 0) {
        return ngx_http_infer_error(r, NGX_HTTP_BAD_REQUEST,
                                    "Say ?all, ?tag=NAME or ?key=KEY.");
    }

    ngx_str_set(&value, "{\"purged\":true}");

    return ngx_http_infer_send(r, NGX_HTTP_OK, "application/json", &value);
}


/* the number of purges that were asked for */

static ngx_uint_t
ngx_http_infer_purge_args(ngx_http_request_t *r, ngx_http_infer_cache_t *cache)
{
    u_char      *p, *last, *end, *dst, *src;
    uint64_t     origin;
    ngx_str_t    tag;
    ngx_uint_t   n;

    n = 0;
    last = r->args.data + r->args.len;

    for (p = r->args.data; p < last; p = end + 1) {
        end = ngx_strlchr(p, last, '&');

        if (end == NULL) {
            end = last;
        }

        if (end - p == 3 && ngx_strncmp(p, "all", 3) == 0) {
            infer_store_purge_all(&cache->store);
            n++;
            continue;
        }

        if (end - p > 4 && ngx_strncmp(p, "key=", 4) == 0
            && ngx_http_infer_purge_key(p + 4, end - p - 4, &origin)
               == NGX_OK)
        {
            infer_store_purge_tag(&cache->store, origin);
            n++;
            continue;
        }

        if (end - p <= 4 || ngx_strncmp(p, "tag=", 4) != 0) {
            continue;
        }

        tag.data = ngx_pnalloc(r->pool, end - p);
        if (tag.data == NULL) {
            return 0;
        }

        dst = tag.data;
        src = p + 4;
        ngx_unescape_uri(&dst, &src, end - src, NGX_UNESCAPE_URI);
        tag.len = dst - tag.data;

        infer_store_purge_tag(&cache->store,
                              ngx_http_infer_cache_tag(cache, &tag));
        n++;
    }

    return n;
}


/* DECLINED: no key */

static ngx_int_t
ngx_http_infer_purge_key(u_char *p, size_t len, uint64_t *origin)
{
    u_char      key[INFER_STORE_KEY];
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

        key[i] = (u_char) byte;
    }

    *origin = ngx_http_infer_cache_origin(key);

    return NGX_OK;
}
