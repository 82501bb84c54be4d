
/*
 * Rendered answers out of the cache: id and time are filled in while an
 * answer is cut into buffers. Short parts, and answers that lie in nobody
 * else's memory, are copied; long parts of one that stays in the zone are
 * sent from there, and its reference is given back with the request's pool.
 */


#include "ngx_http_infer_request.h"

#include "cache/answer.h"


#define NGX_HTTP_INFER_PAGE_PART   1024           /* shorter ones are copied */
#define NGX_HTTP_INFER_PAGE_CHUNK  (16 * 1024)    /* of copies, at most */


/* what is being put together */

typedef struct {
    ngx_pool_t                  *pool;
    ngx_str_t                    id;            /* needs no escapes */
    ngx_str_t                    created;
    u_char                      *pos;           /* free room for copies */
    u_char                      *end;
    size_t                       chunk;         /* of the next such room */
    ngx_buf_t                   *buf;           /* the last one */
    ngx_chain_t                 *out;
    ngx_chain_t                **last;
    off_t                        len;
    unsigned                     shared:1;      /* some of it is not copied */
    unsigned                     once:1;        /* there is one time, and no */
    unsigned                     filled:1;      /* mark is behind it; it was */
} ngx_http_infer_page_out_t;


static ngx_int_t ngx_http_infer_page_describe(ngx_http_infer_ctx_t *ctx,
    ngx_http_infer_cache_page_t *head, uint64_t age_ms, char *digits);
static ngx_str_t *ngx_http_infer_page_now(ngx_http_infer_ctx_t *ctx);
static ngx_int_t ngx_http_infer_page_pace(ngx_http_infer_ctx_t *ctx,
    u_char *blank, size_t len);
static void ngx_http_infer_page_begin(ngx_http_infer_page_out_t *out,
    ngx_http_infer_ctx_t *ctx, size_t chunk);
static ngx_int_t ngx_http_infer_page_piece(ngx_http_infer_page_out_t *out,
    const u_char *blank, size_t len, ngx_uint_t shared);
static ngx_int_t ngx_http_infer_page_copy(ngx_http_infer_page_out_t *out,
    const void *data, size_t len);
static ngx_buf_t *ngx_http_infer_page_buf(ngx_http_infer_page_out_t *out,
    const u_char *pos, const u_char *last);
static ngx_int_t ngx_http_infer_page_end(ngx_http_infer_page_out_t *out,
    ngx_http_infer_ctx_t *ctx, ngx_http_infer_cache_page_t *head);
static void *ngx_http_infer_hit_alloc(void *data, size_t len);
static ngx_int_t ngx_http_infer_hit_in_place(ngx_http_infer_ctx_t *ctx,
    ngx_http_infer_hit_t *hit, uint64_t age_ms);
static ngx_int_t ngx_http_infer_page_shared(ngx_http_infer_page_out_t *out,
    ngx_http_infer_hit_t *hit);
static void ngx_http_infer_page_release(void *data);


static ngx_str_t  ngx_http_infer_page_json = ngx_string("application/json");
static ngx_str_t  ngx_http_infer_page_events = ngx_string("text/event-stream");


/* The head of a page that was stored; DECLINED: it is none of ours. */

ngx_int_t
ngx_http_infer_cache_head(ngx_http_infer_cache_page_t *head, void *page,
    size_t len)
{
    if (len < sizeof(ngx_http_infer_cache_page_t)) {
        return NGX_DECLINED;
    }

    ngx_memcpy(head, page, sizeof(ngx_http_infer_cache_page_t));

    return head->version == NGX_HTTP_INFER_CACHE_PAGE ? NGX_OK : NGX_DECLINED;
}


/* A page, at once or at the location's pace; DONE: it is under way. */

ngx_int_t
ngx_http_infer_cache_send(ngx_http_infer_ctx_t *ctx, u_char *page, size_t len,
    uint64_t age_ms)
{
    char                        *digits;
    ngx_http_infer_page_out_t    out;
    ngx_http_infer_cache_page_t  head;

    ngx_memcpy(&head, page, sizeof(head));
    page += sizeof(head);
    len -= sizeof(head);

    digits = ngx_pnalloc(ctx->request->pool, INFER_ANSWER_DECIMAL);

    if (digits == NULL
        || ngx_http_infer_page_describe(ctx, &head, age_ms, digits) != NGX_OK)
    {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    if (head.stream && ctx->cache->conf->pace) {
        return ngx_http_infer_page_pace(ctx, page, len);
    }

    ngx_http_infer_page_begin(&out, ctx, len + len / 2);

    if (ngx_http_infer_page_piece(&out, page, len, 0) != NGX_OK) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    return ngx_http_infer_page_end(&out, ctx, &head);
}


static ngx_int_t
ngx_http_infer_page_pace(ngx_http_infer_ctx_t *ctx, u_char *blank, size_t len)
{
    infer_buf_t          body;
    infer_render_conf_t  conf;

    ngx_memzero(&body, sizeof(infer_buf_t));
    ngx_http_infer_cache_conf(ctx, &conf);

    (void) infer_buf_room(&body, len + len / 2);
    (void) infer_answer_fill(&body, (char *) blank, len, &conf);

    return ngx_http_infer_pace(ctx, &body);
}


/* What variables and headers say of an answer; digits are kept. */

static ngx_int_t
ngx_http_infer_page_describe(ngx_http_infer_ctx_t *ctx,
    ngx_http_infer_cache_page_t *head, uint64_t age_ms, char *digits)
{
    size_t     n;
    ngx_str_t  value;

    ctx->info.prompt_tokens = head->prompt_tokens;
    ctx->info.completion_tokens = head->completion_tokens;
    ctx->info.has_prompt = 1;
    ctx->info.finish_reason.data =
                              (u_char *) infer_api_finish_name(head->finish);
    ctx->info.finish_reason.len = ngx_strlen(ctx->info.finish_reason.data);

    n = infer_answer_decimal(digits, (int64_t) (age_ms / 1000));

    value.data = (u_char *) digits + INFER_ANSWER_DECIMAL - n;
    value.len = n;

    return ngx_http_infer_header_out(ctx->request, "Age", &value);
}


/* The time in digits; good until it is asked for again. */

static ngx_str_t *
ngx_http_infer_page_now(ngx_http_infer_ctx_t *ctx)
{
    ngx_http_infer_now_t        *now;
    ngx_http_infer_main_conf_t  *imcf;

    imcf = ngx_http_get_module_main_conf(ctx->request, ngx_http_infer_module);
    now = &imcf->now;

    if (now->time != ngx_time() || now->text.len == 0) {
        now->time = ngx_time();
        now->text.len = infer_answer_decimal(now->digits, now->time);
        now->text.data = (u_char *) now->digits + INFER_ANSWER_DECIMAL
                         - now->text.len;
    }

    return &now->text;
}


void
ngx_http_infer_hit_begin(ngx_http_infer_ctx_t *ctx, ngx_http_infer_hit_t *hit)
{
    hit->pool = ctx->request->pool;
    hit->grow = ctx->info.request_id.len + INFER_ANSWER_DECIMAL;
    hit->room = NULL;
    hit->ref.count = NULL;

    hit->got.alloc = ngx_http_infer_hit_alloc;
    hit->got.alloc_arg = hit;

    /* a single process may unmap a zone under its own requests */

    hit->got.ref = (ctx->cache->conf->pace
                    || ngx_process != NGX_PROCESS_WORKER) ? NULL : &hit->ref;
}


static void *
ngx_http_infer_hit_alloc(void *data, size_t len)
{
    ngx_http_infer_hit_t *hit = data;

    hit->room = ngx_palloc(hit->pool, sizeof(ngx_http_infer_hit_room_t)
                                      + hit->grow + len);

    return hit->room ? (u_char *) (hit->room + 1) + hit->grow : NULL;
}


/* OK: the head is read, and what remains is the answer. */

ngx_int_t
ngx_http_infer_hit_read(ngx_http_infer_hit_t *hit)
{
    size_t          n, len;
    const u_char   *p;

    if (hit->got.value) {
        ngx_memzero(&hit->room->rb, sizeof(ngx_http_request_body_t));
        ngx_memzero(&hit->room->out_buf, sizeof(ngx_buf_t));
        hit->room->in.next = NULL;
        hit->room->out.next = NULL;

        return ngx_http_infer_cache_head(&hit->head, hit->got.value,
                                         hit->got.value_len);
    }

    hit->room = ngx_pcalloc(hit->pool, sizeof(ngx_http_infer_hit_room_t));

    if (hit->room == NULL) {
        infer_store_release(&hit->ref);
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    for (len = 0; len < sizeof(hit->head); len += n) {
        n = infer_store_piece(&hit->ref, sizeof(hit->head) - len, &p);

        if (n == 0) {
            break;
        }

        ngx_memcpy((u_char *) &hit->head + len, p, n);
    }

    if (len == sizeof(hit->head)
        && hit->head.version == NGX_HTTP_INFER_CACHE_PAGE)
    {
        return NGX_OK;
    }

    infer_store_release(&hit->ref);

    return NGX_DECLINED;
}


ngx_int_t
ngx_http_infer_hit_send(ngx_http_infer_ctx_t *ctx, ngx_http_infer_hit_t *hit)
{
    size_t                     n;
    uint64_t                   age_ms;
    ngx_int_t                  rc;
    const u_char              *p;
    infer_store_ref_t          at;
    ngx_http_infer_page_out_t  out;

    age_ms = hit->got.age_ms + (uint64_t) hit->head.age * 1000;

    if (hit->got.value) {
        rc = ngx_http_infer_hit_in_place(ctx, hit, age_ms);

        return rc != NGX_DECLINED ? rc
               : ngx_http_infer_cache_send(ctx, hit->got.value,
                                           hit->got.value_len, age_ms);
    }

    rc = ngx_http_infer_page_describe(ctx, &hit->head, age_ms,
                                      hit->room->age);
    at = hit->ref;

    ngx_http_infer_page_begin(&out, ctx, NGX_HTTP_INFER_PAGE_PART);
    out.once = hit->head.time_at != 0;

    while (rc == NGX_OK && (n = infer_store_piece(&at, at.left, &p)) > 0) {
        rc = ngx_http_infer_page_piece(&out, p, n, 1);
    }

    if (rc == NGX_OK) {
        rc = ngx_http_infer_page_shared(&out, hit);
    }

    if (rc != NGX_OK) {
        infer_store_release(&hit->ref);
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    return ngx_http_infer_page_end(&out, ctx, &hit->head);
}


/*
 * A value in our own memory with one id and one time, near its start: what
 * lies before them moves to the front, and all else stays where it is.
 */

static ngx_int_t
ngx_http_infer_hit_in_place(ngx_http_infer_ctx_t *ctx,
    ngx_http_infer_hit_t *hit, uint64_t age_ms)
{
    size_t                        middle;
    u_char                       *page, *p;
    ngx_buf_t                    *b;
    ngx_str_t                    *id, *created;
    ngx_http_infer_cache_page_t  *head;

    head = &hit->head;
    page = (u_char *) hit->got.value + sizeof(*head);

    b = &hit->room->out_buf;
    b->last = (u_char *) hit->got.value + hit->got.value_len;

    if (head->stream || head->id_at >= head->time_at
        || head->time_at >= (size_t) (b->last - page))
    {
        return NGX_DECLINED;
    }

    id = &ctx->info.request_id;
    created = ngx_http_infer_page_now(ctx);
    middle = head->time_at - head->id_at - 1;

    p = page + head->time_at + 1 - created->len - middle - id->len
        - head->id_at;
    b->pos = p;
    b->temporary = 1;

    ngx_memmove(p, page, head->id_at);
    p = ngx_cpymem(p + head->id_at, id->data, id->len);
    ngx_memmove(p, page + head->id_at + 1, middle);
    ngx_memcpy(p + middle, created->data, created->len);

    if (ngx_http_infer_page_describe(ctx, head, age_ms, hit->room->age)
        != NGX_OK)
    {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    b->last_buf = (ctx->request == ctx->request->main) ? 1 : 0;
    b->last_in_chain = 1;
    hit->room->out.buf = b;

    return ngx_http_infer_send_chain(ctx->request, NGX_HTTP_OK,
                                     &ngx_http_infer_page_json,
                                     &hit->room->out, b->last - b->pos);
}


static void
ngx_http_infer_page_begin(ngx_http_infer_page_out_t *out,
    ngx_http_infer_ctx_t *ctx, size_t chunk)
{
    ngx_memzero(out, sizeof(ngx_http_infer_page_out_t));

    out->pool = ctx->request->pool;
    out->id = ctx->info.request_id;
    out->created = *ngx_http_infer_page_now(ctx);
    out->chunk = ngx_min(chunk, NGX_HTTP_INFER_PAGE_CHUNK);
    out->last = &out->out;
}


static ngx_int_t
ngx_http_infer_page_piece(ngx_http_infer_page_out_t *out, const u_char *blank,
    size_t len, ngx_uint_t shared)
{
    int                    mark;
    size_t                 n;
    ngx_int_t              rc;
    ngx_str_t             *value;
    const char            *text;
    infer_answer_parts_t   parts;

    mark = 0;
    text = (const char *) blank;
    n = len;

    if (!out->filled) {
        infer_answer_parts(&parts, text, len);
        mark = infer_answer_part(&parts, &text, &n);
    }

    for ( ;; ) {

        if (shared && n >= NGX_HTTP_INFER_PAGE_PART) {
            out->shared = 1;
            rc = ngx_http_infer_page_buf(out, (const u_char *) text,
                                         (const u_char *) text + n)
                 ? NGX_OK : NGX_ERROR;

        } else {
            rc = ngx_http_infer_page_copy(out, text, n);
        }

        out->len += n;

        if (mark == 0 || rc != NGX_OK) {
            return rc;
        }

        value = (mark == INFER_RENDER_ID) ? &out->id : &out->created;
        out->filled = (out->once && mark == INFER_RENDER_TIME);

        rc = ngx_http_infer_page_copy(out, value->data, value->len);
        out->len += value->len;

        if (rc != NGX_OK) {
            return rc;
        }

        mark = infer_answer_part(&parts, &text, &n);
    }
}


/* Behind what was copied last, where it is the end. */

static ngx_int_t
ngx_http_infer_page_copy(ngx_http_infer_page_out_t *out, const void *data,
    size_t len)
{
    size_t         n;
    const u_char  *p;

    p = data;

    while (len) {

        if (out->pos == out->end) {
            out->pos = ngx_pnalloc(out->pool, out->chunk);
            if (out->pos == NULL) {
                return NGX_ERROR;
            }

            out->end = out->pos + out->chunk;
            out->chunk = ngx_min(out->chunk * 2, NGX_HTTP_INFER_PAGE_CHUNK);
        }

        if (out->buf == NULL || !out->buf->temporary
            || out->buf->last != out->pos)
        {
            if (ngx_http_infer_page_buf(out, out->pos, out->pos) == NULL) {
                return NGX_ERROR;
            }

            out->buf->temporary = 1;
            out->buf->memory = 0;
        }

        n = ngx_min(len, (size_t) (out->end - out->pos));

        out->pos = ngx_cpymem(out->pos, p, n);
        out->buf->last = out->pos;
        p += n;
        len -= n;
    }

    return NGX_OK;
}


static ngx_buf_t *
ngx_http_infer_page_buf(ngx_http_infer_page_out_t *out, const u_char *pos,
    const u_char *last)
{
    ngx_buf_t    *b;
    ngx_chain_t  *cl;

    b = ngx_calloc_buf(out->pool);
    cl = ngx_alloc_chain_link(out->pool);

    if (b == NULL || cl == NULL) {
        return NULL;
    }

    b->pos = (u_char *) pos;
    b->last = (u_char *) last;
    b->memory = 1;

    cl->buf = b;
    cl->next = NULL;

    out->buf = b;
    *out->last = cl;
    out->last = &cl->next;

    return b;
}


static ngx_int_t
ngx_http_infer_page_end(ngx_http_infer_page_out_t *out,
    ngx_http_infer_ctx_t *ctx, ngx_http_infer_cache_page_t *head)
{
    ngx_http_request_t  *r;

    r = ctx->request;

    if (out->buf == NULL
        || (head->stream && ngx_http_infer_stream_headers(r) != NGX_OK))
    {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    out->buf->last_buf = (r == r->main) ? 1 : 0;
    out->buf->last_in_chain = 1;

    return ngx_http_infer_send_chain(r, NGX_HTTP_OK,
                                     head->stream ? &ngx_http_infer_page_events
                                                  : &ngx_http_infer_page_json,
                                     out->out, out->len);
}


/* The reference goes with the pool, or now where all was copied. */

static ngx_int_t
ngx_http_infer_page_shared(ngx_http_infer_page_out_t *out,
    ngx_http_infer_hit_t *hit)
{
    ngx_pool_cleanup_t  *cln;

    if (!out->shared) {
        infer_store_release(&hit->ref);
        return NGX_OK;
    }

    cln = ngx_pool_cleanup_add(out->pool, sizeof(infer_store_ref_t));
    if (cln == NULL) {
        return NGX_ERROR;
    }

    ngx_memcpy(cln->data, &hit->ref, sizeof(infer_store_ref_t));
    cln->handler = ngx_http_infer_page_release;

    return NGX_OK;
}


static void
ngx_http_infer_page_release(void *data)
{
    infer_store_release(data);
}
