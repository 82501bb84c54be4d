
/*
 * The header and body filter of infer locations. It adds X-Request-Id and
 * the CORS headers to every answer, and puts the API's error object where
 * nginx itself has made an error page: body too large, authentication,
 * limit_req and the like. Answers of the content handler are not touched.
 */


#include "ngx_http_infer_request.h"


static ngx_int_t ngx_http_infer_header_filter(ngx_http_request_t *r);
static ngx_int_t ngx_http_infer_body_filter(ngx_http_request_t *r,
    ngx_chain_t *in);
static ngx_int_t ngx_http_infer_filter_replace(ngx_http_request_t *r,
    ngx_http_infer_ctx_t *ctx);


static ngx_http_output_header_filter_pt  ngx_http_next_header_filter;
static ngx_http_output_body_filter_pt    ngx_http_next_body_filter;


ngx_int_t
ngx_http_infer_filter_init(ngx_conf_t *cf)
{
    ngx_http_next_header_filter = ngx_http_top_header_filter;
    ngx_http_top_header_filter = ngx_http_infer_header_filter;

    ngx_http_next_body_filter = ngx_http_top_body_filter;
    ngx_http_top_body_filter = ngx_http_infer_body_filter;

    return NGX_OK;
}


static ngx_int_t
ngx_http_infer_header_filter(ngx_http_request_t *r)
{
    ngx_http_infer_ctx_t       *ctx;
    ngx_http_infer_loc_conf_t  *ilcf;

    ilcf = ngx_http_get_module_loc_conf(r, ngx_http_infer_module);

    if (ilcf->infer == NULL || r != r->main) {
        return ngx_http_next_header_filter(r);
    }

    ctx = ngx_http_infer_get_ctx(r);
    if (ctx == NULL) {
        return NGX_ERROR;
    }

    if (ngx_http_infer_header_out(r, "X-Request-Id", &ctx->info.request_id)
        != NGX_OK
        || ngx_http_infer_cors_answer(r, ilcf) != NGX_OK
        || (ctx->info.cache_status.len
            && ngx_http_infer_header_out(r, "X-Infer-Cache",
                                         &ctx->info.cache_status)
               != NGX_OK))
    {
        return NGX_ERROR;
    }

    if (!ctx->own && r->err_status >= NGX_HTTP_BAD_REQUEST
        && ctx->page.len == 0)
    {
        if (ngx_http_infer_filter_replace(r, ctx) != NGX_OK) {
            return NGX_ERROR;
        }
    }

    return ngx_http_next_header_filter(r);
}


static ngx_int_t
ngx_http_infer_filter_replace(ngx_http_request_t *r, ngx_http_infer_ctx_t *ctx)
{
    infer_buf_t        buf;
    infer_api_error_t  e;

    ngx_memzero(&buf, sizeof(infer_buf_t));

    infer_api_error_status(&e, (int) r->headers_out.status, NULL);

    if (infer_api_render_error(&buf, &e) != INFER_OK) {
        infer_buf_free(&buf);
        return NGX_ERROR;
    }

    ctx->page.data = ngx_pnalloc(r->pool, buf.len);
    if (ctx->page.data == NULL) {
        infer_buf_free(&buf);
        return NGX_ERROR;
    }

    ctx->page.len = buf.len;
    ngx_memcpy(ctx->page.data, buf.data, buf.len);

    infer_buf_free(&buf);

    ngx_http_clear_content_length(r);
    r->headers_out.content_length_n = ctx->page.len;

    ngx_str_set(&r->headers_out.content_type, "application/json");
    r->headers_out.content_type_len = r->headers_out.content_type.len;
    r->headers_out.content_type_lowcase = NULL;
    r->headers_out.charset.len = 0;

    return NGX_OK;
}


static ngx_int_t
ngx_http_infer_body_filter(ngx_http_request_t *r, ngx_chain_t *in)
{
    ngx_buf_t             *b;
    ngx_chain_t           *cl, out;
    ngx_http_infer_ctx_t  *ctx;

    ctx = ngx_http_get_module_ctx(r, ngx_http_infer_module);

    if (ctx == NULL || ctx->page.len == 0 || in == NULL) {
        return ngx_http_next_body_filter(r, in);
    }

    for (cl = in; cl; cl = cl->next) {
        cl->buf->pos = cl->buf->last;
        cl->buf->file_pos = cl->buf->file_last;
    }

    if (ctx->page_sent) {
        return ngx_http_next_body_filter(r, NULL);
    }

    b = ngx_calloc_buf(r->pool);
    if (b == NULL) {
        return NGX_ERROR;
    }

    b->pos = ctx->page.data;
    b->last = ctx->page.data + ctx->page.len;
    b->memory = 1;
    b->last_buf = 1;
    b->last_in_chain = 1;

    out.buf = b;
    out.next = NULL;

    ctx->page_sent = 1;

    return ngx_http_next_body_filter(r, &out);
}
