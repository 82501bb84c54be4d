
/*
 * Who may ask, and from where: API keys (infer_api_keys) and CORS
 * (infer_cors). Keys are read with the configuration; a request's key is
 * compared with all of them in a time that depends on the file alone.
 */


#include "ngx_http_infer_request.h"
#include "ipc/hash.h"


#define NGX_HTTP_INFER_KEYS_FILE_MAX  (1024 * 1024)
#define NGX_HTTP_INFER_KEY_MAX        512


typedef struct {
    ngx_str_t     key;
    ngx_str_t     name;
} ngx_http_infer_key_t;


struct ngx_http_infer_keys_s {
    ngx_array_t   keys;          /* ngx_http_infer_key_t */
};


static ngx_int_t ngx_http_infer_keys_load(ngx_conf_t *cf, ngx_str_t *path,
    ngx_str_t *text);
static ngx_int_t ngx_http_infer_keys_parse(ngx_conf_t *cf,
    ngx_http_infer_keys_t *keys, ngx_str_t *path, ngx_str_t *text);
static ngx_uint_t ngx_http_infer_key_equal(ngx_str_t *key, ngx_str_t *given);
static ngx_int_t ngx_http_infer_cors_origin(ngx_http_request_t *r,
    ngx_http_infer_loc_conf_t *ilcf, ngx_str_t *origin);


static ngx_str_t  ngx_http_infer_cors_headers =
    ngx_string("authorization, content-type, x-api-key, x-request-id");


ngx_http_infer_keys_t *
ngx_http_infer_keys_read(ngx_conf_t *cf, ngx_str_t *file)
{
    ngx_str_t               path, text;
    ngx_http_infer_keys_t  *keys;

    path = *file;

    if (ngx_conf_full_name(cf->cycle, &path, 1) != NGX_OK) {
        return NULL;
    }

    keys = ngx_palloc(cf->pool, sizeof(ngx_http_infer_keys_t));
    if (keys == NULL) {
        return NULL;
    }

    if (ngx_array_init(&keys->keys, cf->pool, 4, sizeof(ngx_http_infer_key_t))
        != NGX_OK)
    {
        return NULL;
    }

    if (ngx_http_infer_keys_load(cf, &path, &text) != NGX_OK) {
        return NULL;
    }

    if (ngx_http_infer_keys_parse(cf, keys, &path, &text) != NGX_OK) {
        return NULL;
    }

    if (keys->keys.nelts == 0) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "infer no key in \"%V\"", &path);
        return NULL;
    }

    return keys;
}


static ngx_int_t
ngx_http_infer_keys_load(ngx_conf_t *cf, ngx_str_t *path, ngx_str_t *text)
{
    size_t           size;
    ssize_t          n;
    ngx_fd_t         fd;
    ngx_int_t        rc;
    ngx_file_info_t  fi;

    rc = NGX_ERROR;

    /* a fifo would stop the master until somebody writes */

    fd = ngx_open_file(path->data, NGX_FILE_RDONLY|NGX_FILE_NONBLOCK,
                       NGX_FILE_OPEN, 0);

    if (fd == NGX_INVALID_FILE) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, ngx_errno,
                           ngx_open_file_n " \"%V\" failed", path);
        return NGX_ERROR;
    }

    if (ngx_fd_info(fd, &fi) == NGX_FILE_ERROR) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, ngx_errno,
                           ngx_fd_info_n " \"%V\" failed", path);
        goto done;
    }

    if (!ngx_is_file(&fi) || ngx_file_size(&fi) > NGX_HTTP_INFER_KEYS_FILE_MAX)
    {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "infer \"%V\" is not a file of at most %d bytes",
                           path, NGX_HTTP_INFER_KEYS_FILE_MAX);
        goto done;
    }

    size = (size_t) ngx_file_size(&fi);

    text->data = ngx_pnalloc(cf->pool, size + 1);
    if (text->data == NULL) {
        goto done;
    }

    text->len = 0;

    while (text->len < size) {
        n = ngx_read_fd(fd, text->data + text->len, size - text->len);

        if (n == -1) {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, ngx_errno,
                               ngx_read_fd_n " \"%V\" failed", path);
            goto done;
        }

        if (n == 0) {
            break;
        }

        text->len += n;
    }

    rc = NGX_OK;

done:

    if (ngx_close_file(fd) == NGX_FILE_ERROR) {
        ngx_conf_log_error(NGX_LOG_ALERT, cf, ngx_errno,
                           ngx_close_file_n " \"%V\" failed", path);
    }

    return rc;
}


/* One "key [name]" per line; empty lines and lines after "#" are skipped. */

static ngx_int_t
ngx_http_infer_keys_parse(ngx_conf_t *cf, ngx_http_infer_keys_t *keys,
    ngx_str_t *path, ngx_str_t *text)
{
    u_char                *p, *end, *line_end;
    ngx_uint_t             i, line;
    ngx_str_t              word[3];
    ngx_http_infer_key_t  *key;

    p = text->data;
    end = text->data + text->len;

    for (line = 1; p < end; line++, p = line_end + 1) {

        line_end = ngx_strlchr(p, end, '\n');
        if (line_end == NULL) {
            line_end = end;
        }

        ngx_memzero(word, sizeof(word));

        for (i = 0; i < 3; i++) {

            while (p < line_end && (*p == ' ' || *p == '\t' || *p == '\r')) {
                p++;
            }

            word[i].data = p;

            while (p < line_end && *p != ' ' && *p != '\t' && *p != '\r') {
                p++;
            }

            word[i].len = p - word[i].data;
        }

        if (word[0].len == 0 || word[0].data[0] == '#') {
            continue;
        }

        if (word[2].len || word[0].len > NGX_HTTP_INFER_KEY_MAX) {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "infer line %ui of \"%V\" is not \"key [name]\"",
                               line, path);
            return NGX_ERROR;
        }

        key = ngx_array_push(&keys->keys);
        if (key == NULL) {
            return NGX_ERROR;
        }

        key->key = word[0];
        key->name = word[1];
    }

    return NGX_OK;
}


/* The time depends on the length of key, which is ours, not of given. */

static ngx_uint_t
ngx_http_infer_key_equal(ngx_str_t *key, ngx_str_t *given)
{
    size_t               i, k;
    volatile ngx_uint_t  diff;

    diff = key->len ^ given->len;

    for (i = 0, k = 0; i < key->len; i++, k++) {

        if (k == given->len) {
            k = 0;
        }

        diff |= key->data[i] ^ given->data[k];
    }

    return diff == 0;
}


ngx_int_t
ngx_http_infer_auth(ngx_http_request_t *r, ngx_http_infer_keys_t *keys,
    ngx_str_t *name)
{
    ngx_str_t              given;
    ngx_uint_t             i, found;
    ngx_table_elt_t       *h;
    ngx_http_infer_key_t  *key;

    given.len = 0;
    h = r->headers_in.authorization;

    if (h && h->value.len > 7
        && ngx_strncasecmp(h->value.data, (u_char *) "Bearer ", 7) == 0)
    {
        given.data = h->value.data + 7;
        given.len = h->value.len - 7;

        while (given.len && *given.data == ' ') {
            given.data++;
            given.len--;
        }

    } else {
        h = ngx_http_infer_header_in(r, "x-api-key", 9);

        if (h) {
            given = h->value;
        }
    }

    if (given.len == 0) {
        return NGX_DECLINED;
    }

    found = keys->keys.nelts;
    key = keys->keys.elts;

    for (i = 0; i < keys->keys.nelts; i++) {
        if (ngx_http_infer_key_equal(&key[i].key, &given)) {
            found = i;
        }
    }

    if (found == keys->keys.nelts) {
        return NGX_DECLINED;
    }

    *name = key[found].name;

    return NGX_OK;
}


/*
 * Whose prompts a request may share pages with, hashed with the bus's key:
 * the value of infer_prefix_scope; else the name of the api key, or, where it
 * has none, the credentials that the client sent. A mark keeps the three
 * apart. Sharing shows in the time to the first token, so tenants must not.
 */

ngx_int_t
ngx_http_infer_prefix_scope(ngx_http_infer_ctx_t *ctx)
{
    size_t                      len;
    u_char                     *p, *text;
    ngx_str_t                   name, key;
    ngx_table_elt_t            *h;
    ngx_http_request_t         *r;
    ngx_http_infer_loc_conf_t  *ilcf;

    r = ctx->request;
    ilcf = ngx_http_get_module_loc_conf(r, ngx_http_infer_module);

    /* empty, not null: they are copied */

    ngx_str_set(&name, "");
    ngx_str_set(&key, "");

    if (ilcf->prefix_scope) {

        if (ngx_http_complex_value(r, ilcf->prefix_scope, &name) != NGX_OK) {
            return NGX_ERROR;
        }

    } else if (ctx->info.key.len) {
        name = ctx->info.key;

    } else {

        if (r->headers_in.authorization) {
            name = r->headers_in.authorization->value;
        }

        h = ngx_http_infer_header_in(r, "x-api-key", 9);

        if (h) {
            key = h->value;
        }
    }

    len = 1 + sizeof(size_t) + name.len + key.len;

    text = ngx_pnalloc(r->pool, len);
    if (text == NULL) {
        return NGX_ERROR;
    }

    p = text;
    *p++ = ilcf->prefix_scope ? 'v' : ctx->info.key.len ? 'k' : 'h';
    p = ngx_cpymem(p, &name.len, sizeof(size_t));
    p = ngx_cpymem(p, name.data, name.len);
    ngx_memcpy(p, key.data, key.len);

    infer_hash(ctx->bus->bus.hdr->hash_key, text, len, ctx->scope);

    return NGX_OK;
}


static ngx_int_t
ngx_http_infer_cors_origin(ngx_http_request_t *r,
    ngx_http_infer_loc_conf_t *ilcf, ngx_str_t *origin)
{
    ngx_str_t        *allowed;
    ngx_uint_t        i;
    ngx_table_elt_t  *h;

    if (ilcf->cors == NULL) {
        return NGX_DECLINED;
    }

    h = ngx_http_infer_header_in(r, "origin", 6);
    if (h == NULL) {
        return NGX_DECLINED;
    }

    allowed = ilcf->cors->elts;

    for (i = 0; i < ilcf->cors->nelts; i++) {

        if (allowed[i].len == 1 && allowed[i].data[0] == '*') {
            *origin = allowed[i];
            return NGX_OK;
        }

        if (allowed[i].len == h->value.len
            && ngx_strncasecmp(allowed[i].data, h->value.data, h->value.len)
               == 0)
        {
            *origin = h->value;
            return NGX_OK;
        }
    }

    return NGX_DECLINED;
}


/* Every answer of a location with infer_cors; called by the header filter. */

ngx_int_t
ngx_http_infer_cors_answer(ngx_http_request_t *r,
    ngx_http_infer_loc_conf_t *ilcf)
{
    ngx_str_t  origin;

    if (ngx_http_infer_cors_origin(r, ilcf, &origin) != NGX_OK) {
        return NGX_OK;
    }

    if (ngx_http_infer_header_out(r, "Access-Control-Allow-Origin", &origin)
        != NGX_OK)
    {
        return NGX_ERROR;
    }

    if (origin.data[0] != '*') {
        ngx_str_set(&origin, "Origin");

        if (ngx_http_infer_header_out(r, "Vary", &origin) != NGX_OK) {
            return NGX_ERROR;
        }
    }

    ngx_str_set(&origin, "x-request-id, retry-after");

    return ngx_http_infer_header_out(r, "Access-Control-Expose-Headers",
                                     &origin);
}


/* OPTIONS: 204 when infer_cors allows the origin, else DECLINED. */

ngx_int_t
ngx_http_infer_cors_preflight(ngx_http_request_t *r,
    ngx_http_infer_loc_conf_t *ilcf)
{
    ngx_str_t         origin, value;
    ngx_table_elt_t  *h;

    if (ngx_http_infer_cors_origin(r, ilcf, &origin) != NGX_OK) {
        return NGX_DECLINED;
    }

    ngx_str_set(&value, "GET, HEAD, POST, OPTIONS");

    if (ngx_http_infer_header_out(r, "Access-Control-Allow-Methods", &value)
        != NGX_OK)
    {
        return NGX_ERROR;
    }

    h = ngx_http_infer_header_in(r, "access-control-request-headers", 30);

    if (ngx_http_infer_header_out(r, "Access-Control-Allow-Headers",
                                  h ? &h->value : &ngx_http_infer_cors_headers)
        != NGX_OK)
    {
        return NGX_ERROR;
    }

    ngx_str_set(&value, "86400");

    if (ngx_http_infer_header_out(r, "Access-Control-Max-Age", &value)
        != NGX_OK)
    {
        return NGX_ERROR;
    }

    r->headers_out.status = NGX_HTTP_NO_CONTENT;
    r->header_only = 1;

    return ngx_http_send_header(r);
}
