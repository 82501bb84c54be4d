
/*
 * Answers that are known as a whole: a JSON document, an error object. And
 * the two functions with which headers are read and written.
 */


#include "ngx_http_infer_request.h"


/* body stays the caller's until the request ends */

ngx_int_t
ngx_http_infer_send(ngx_http_request_t *r, ngx_uint_t status, char *type,
    ngx_str_t *body)
{
    ngx_buf_t    *b;
    ngx_str_t     name;
    ngx_chain_t   out;

    b = ngx_calloc_buf(r->pool);
    if (b == NULL) {
        return NGX_ERROR;
    }

    if (body->len) {
        b->pos = body->data;
        b->last = body->data + body->len;
        b->memory = 1;
    }

    b->last_buf = (r == r->main) ? 1 : 0;
    b->last_in_chain = 1;

    out.buf = b;
    out.next = NULL;

    name.data = (u_char *) type;
    name.len = ngx_strlen(type);

    return ngx_http_infer_send_chain(r, status, &name, &out, body->len);
}


/* out is the whole body, of len bytes; type is a constant */

ngx_int_t
ngx_http_infer_send_chain(ngx_http_request_t *r, ngx_uint_t status,
    ngx_str_t *type, ngx_chain_t *out, off_t len)
{
    ngx_int_t              rc;
    ngx_http_infer_ctx_t  *ctx;

    ctx = ngx_http_get_module_ctx(r, ngx_http_infer_module);
    ctx->own = 1;

    r->headers_out.status = status;
    r->headers_out.content_length_n = len;
    r->headers_out.content_type = *type;
    r->headers_out.content_type_len = type->len;
    r->headers_out.content_type_lowcase = NULL;

    rc = ngx_http_send_header(r);

    if (rc == NGX_ERROR || rc > NGX_OK || r->header_only) {
        return rc;
    }

    return ngx_http_output_filter(r, out);
}


/*
 * Takes over what is in buf, or copies and frees it where nobody would: an
 * answer that is not ours to make may have a context without its cleanup.
 */

ngx_int_t
ngx_http_infer_send_buf(ngx_http_request_t *r, ngx_uint_t status, char *type,
    infer_buf_t *buf)
{
    ngx_str_t              body;
    ngx_http_infer_ctx_t  *ctx;

    ctx = ngx_http_get_module_ctx(r, ngx_http_infer_module);

    body.len = buf->len;
    body.data = NULL;

    if (infer_buf_rc(buf) == INFER_OK && ctx->freed
        && (buf == &ctx->out || ctx->out.data == NULL))
    {
        if (buf != &ctx->out) {
            ctx->out = *buf;
            ngx_memzero(buf, sizeof(infer_buf_t));
        }

        body.data = (u_char *) ctx->out.data;

        return ngx_http_infer_send(r, status, type, &body);
    }

    if (infer_buf_rc(buf) == INFER_OK) {
        body.data = ngx_pnalloc(r->pool, buf->len + 1);
    }

    if (body.data == NULL) {
        infer_buf_free(buf);
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    ngx_memcpy(body.data, buf->data, buf->len);

    infer_buf_free(buf);

    return ngx_http_infer_send(r, status, type, &body);
}


/* retry: seconds for Retry-After, 0 is none */

ngx_int_t
ngx_http_infer_send_error(ngx_http_request_t *r, infer_api_error_t *e,
    ngx_uint_t retry)
{
    ngx_str_t              value;
    ngx_uint_t             level;
    infer_buf_t            buf;
    ngx_http_infer_ctx_t  *ctx;

    if (r->header_sent) {
        return NGX_ERROR;
    }

    /* a health probe that waits for the model is nobody's fault */

    if (e->status < NGX_HTTP_INTERNAL_SERVER_ERROR
        || r->method != NGX_HTTP_POST)
    {
        level = NGX_LOG_INFO;

    } else if (e->status == NGX_HTTP_INTERNAL_SERVER_ERROR) {
        level = NGX_LOG_ERR;

    } else {
        level = NGX_LOG_WARN;
    }

    ctx = ngx_http_get_module_ctx(r, ngx_http_infer_module);

    ngx_log_error(level, r->connection->log, 0,
                  "infer answers %d: \"%s\", id: \"%V\"",
                  e->status, e->message, &ctx->info.request_id);

    if (r == r->main && r->request_body == NULL) {

        r->expect_tested = 1;

        if (ngx_http_discard_request_body(r) != NGX_OK) {
            r->keepalive = 0;
        }
    }

    if (retry) {
        value.data = ngx_pnalloc(r->pool, NGX_INT_T_LEN);
        if (value.data == NULL) {
            return NGX_HTTP_INTERNAL_SERVER_ERROR;
        }

        value.len = ngx_sprintf(value.data, "%ui", retry) - value.data;

        if (ngx_http_infer_header_out(r, "Retry-After", &value) != NGX_OK) {
            return NGX_HTTP_INTERNAL_SERVER_ERROR;
        }
    }

    ngx_memzero(&buf, sizeof(infer_buf_t));

    (void) infer_api_render_error(&buf, e);

    return ngx_http_infer_send_buf(r, e->status, "application/json", &buf);
}


ngx_int_t
ngx_http_infer_error(ngx_http_request_t *r, ngx_uint_t status, char *message)
{
    return ngx_http_infer_refuse(r, status, 0, message);
}


ngx_int_t
ngx_http_infer_refuse(ngx_http_request_t *r, ngx_uint_t status,
    ngx_uint_t retry, char *message)
{
    infer_api_error_t  e;

    infer_api_error_status(&e, (int) status, message);

    return ngx_http_infer_send_error(r, &e, retry);
}


ngx_int_t
ngx_http_infer_no_model(ngx_http_request_t *r)
{
    infer_api_error_t  e;

    infer_api_error_status(&e, NGX_HTTP_NOT_FOUND,
                           "The model does not exist.");

    e.code = "model_not_found";
    (void) snprintf(e.param, sizeof(e.param), "model");

    return ngx_http_infer_send_error(r, &e, 0);
}


ngx_int_t
ngx_http_infer_unauthorized(ngx_http_request_t *r)
{
    ngx_str_t  value = ngx_string("Bearer");

    if (ngx_http_infer_header_out(r, "WWW-Authenticate", &value) != NGX_OK) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    return ngx_http_infer_error(r, NGX_HTTP_UNAUTHORIZED, NULL);
}


/* name is in lower case */

ngx_table_elt_t *
ngx_http_infer_header_in(ngx_http_request_t *r, char *name, size_t len)
{
    ngx_uint_t        i;
    ngx_list_part_t  *part;
    ngx_table_elt_t  *h;

    part = &r->headers_in.headers.part;
    h = part->elts;

    for (i = 0; /* void */ ; i++) {

        if (i >= part->nelts) {
            if (part->next == NULL) {
                return NULL;
            }

            part = part->next;
            h = part->elts;
            i = 0;
        }

        if (h[i].key.len == len
            && (h[i].key.data[0] | 0x20) == (u_char) name[0]
            && ngx_strncasecmp(h[i].key.data, (u_char *) name, len) == 0)
        {
            return &h[i];
        }
    }
}


ngx_int_t
ngx_http_infer_header_add(ngx_http_request_t *r, char *name, size_t len,
    ngx_str_t *value)
{
    ngx_table_elt_t  *h;

    h = ngx_list_push(&r->headers_out.headers);
    if (h == NULL) {
        return NGX_ERROR;
    }

    h->hash = 1;
#if (nginx_version >= 1023000)
    h->next = NULL;
#endif
    h->key.data = (u_char *) name;
    h->key.len = len;
    h->value = *value;

    return NGX_OK;
}


/* what keeps proxies and gzip from holding a stream back */

ngx_int_t
ngx_http_infer_stream_headers(ngx_http_request_t *r)
{
    ngx_str_t  value;

    ngx_str_set(&value, "no-cache");

    if (ngx_http_infer_header_out(r, "Cache-Control", &value) != NGX_OK) {
        return NGX_ERROR;
    }

    ngx_str_set(&value, "no");

    if (ngx_http_infer_header_out(r, "X-Accel-Buffering", &value) != NGX_OK) {
        return NGX_ERROR;
    }

#if (NGX_HTTP_GZIP)
    r->gzip_tested = 1;
    r->gzip_ok = 0;
#endif

    return NGX_OK;
}
