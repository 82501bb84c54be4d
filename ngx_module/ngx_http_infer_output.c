
/*
 * From the output logs to the client. A wake-up reads what is new in each
 * choice's log, turns it into text and events, and sends them with one
 * flush. While the client is slow nothing is rendered: the log keeps it. A
 * request that does not stream keeps no text; its logs are read at the end.
 */


#include "ngx_http_infer_request.h"


#define NGX_HTTP_INFER_BATCH      16            /* records read at once */
#define NGX_HTTP_INFER_OUT_MAX    (32 * 1024)   /* rendered at once */
#define NGX_HTTP_INFER_OUT_KEEP   4096          /* kept between wake-ups */


static void ngx_http_infer_output_stream(ngx_http_infer_ctx_t *ctx);
static void ngx_http_infer_output_whole(ngx_http_infer_ctx_t *ctx);
static int ngx_http_infer_render_open(ngx_http_infer_ctx_t *ctx);
static int ngx_http_infer_render_choice(ngx_http_infer_ctx_t *ctx,
    ngx_http_infer_choice_t *choice, size_t max);
static int ngx_http_infer_render_records(ngx_http_infer_ctx_t *ctx,
    ngx_http_infer_choice_t *choice, uint32_t n);
static int ngx_http_infer_render_last(ngx_http_infer_ctx_t *ctx,
    ngx_http_infer_choice_t *choice, uint32_t finish);
static int ngx_http_infer_render_end(ngx_http_infer_ctx_t *ctx);
static uint32_t ngx_http_infer_failed(ngx_http_infer_ctx_t *ctx,
    infer_api_error_t *e);
static ngx_int_t ngx_http_infer_retry(ngx_http_infer_ctx_t *ctx,
    uint32_t finish);
static ngx_uint_t ngx_http_infer_late(ngx_http_infer_ctx_t *ctx,
    uint32_t finish);
static void ngx_http_infer_fail(ngx_http_infer_ctx_t *ctx,
    infer_api_error_t *e, ngx_uint_t cause);
static ngx_int_t ngx_http_infer_flush_out(ngx_http_infer_ctx_t *ctx,
    ngx_uint_t last);
static ngx_int_t ngx_http_infer_stream_header(ngx_http_infer_ctx_t *ctx);
static ngx_int_t ngx_http_infer_wait(ngx_http_request_t *r,
    ngx_http_infer_ctx_t *ctx);
static void ngx_http_infer_write_handler(ngx_http_request_t *r);


/* Something is new, or the client took what was there. */

void
ngx_http_infer_output(ngx_http_infer_ctx_t *ctx)
{
    uint32_t           finish;
    infer_api_error_t  e;

    if (ctx->done || ctx->blocked) {
        return;
    }

    if (ctx->pace) {
        ngx_http_infer_pace_output(ctx);
        return;
    }

    finish = ngx_http_infer_failed(ctx, &e);

    if (finish) {

        if (ngx_http_infer_retry(ctx, finish) != NGX_OK) {
            ngx_http_infer_fail(ctx, &e,
                                e.status > NGX_HTTP_INTERNAL_SERVER_ERROR
                                ? NGX_HTTP_INFER_STALE_TIMEOUT
                                : NGX_HTTP_INFER_STALE_ERROR);
        }

        return;
    }

    if (ctx->req->stream) {
        ngx_http_infer_output_stream(ctx);

    } else {
        ngx_http_infer_output_whole(ctx);
    }
}


static void
ngx_http_infer_output_stream(ngx_http_infer_ctx_t *ctx)
{
    int                 rc;
    ngx_int_t           frc;
    ngx_uint_t          i, open;
    infer_api_error_t   e;

    rc = ngx_http_infer_render_open(ctx);

    do {
        infer_buf_reset(&ctx->out);

        open = 0;

        for (i = 0; i < ctx->nchoices && rc == INFER_OK; i++) {
            rc = ngx_http_infer_render_choice(ctx, &ctx->choices[i],
                                              NGX_HTTP_INFER_OUT_MAX);
            open += !ctx->choices[i].ended;
        }

        if (rc == INFER_OK && open == 0) {
            rc = ngx_http_infer_render_end(ctx);
        }

        if (rc != INFER_OK) {
            infer_buf_reset(&ctx->out);
            infer_api_error_rc(&e, rc, NULL);
            ngx_http_infer_fail(ctx, &e, NGX_HTTP_INFER_STALE_ERROR);
            return;
        }

        if (open == 0) {
            ngx_http_infer_finalize(ctx, ngx_http_infer_flush_out(ctx, 1));
            return;
        }

        if (ctx->out.len == 0) {
            break;
        }

        i = ctx->out.len >= NGX_HTTP_INFER_OUT_MAX;

        frc = ngx_http_infer_flush_out(ctx, 0);

        if (frc == NGX_ERROR) {
            ngx_http_infer_finalize(ctx, NGX_ERROR);
            return;
        }

    } while (i && !ctx->blocked);

    if (!ctx->blocked && ctx->out.cap > NGX_HTTP_INFER_OUT_KEEP) {
        infer_buf_free(&ctx->out);
    }

    ngx_http_infer_timer(ctx);
}


/* Nothing is read before all choices are done. */

static void
ngx_http_infer_output_whole(ngx_http_infer_ctx_t *ctx)
{
    int                  rc;
    ngx_int_t            frc;
    ngx_uint_t           i;
    ngx_http_request_t  *r;
    infer_api_error_t    e;

    for (i = 0; i < ctx->nchoices; i++) {
        if (!ctx->choices[i].done) {
            ngx_http_infer_timer(ctx);
            return;
        }
    }

    r = ctx->request;

    rc = ngx_http_infer_render_open(ctx);

    for (i = 0; i < ctx->nchoices && rc == INFER_OK; i++) {
        rc = ngx_http_infer_render_choice(ctx, &ctx->choices[i], 0);
    }

    if (rc == INFER_OK) {
        rc = ngx_http_infer_render_end(ctx);
    }

    if (rc != INFER_OK) {
        infer_api_error_rc(&e, rc, NULL);
        ngx_http_infer_fail(ctx, &e, NGX_HTTP_INFER_STALE_ERROR);
        return;
    }

    frc = ngx_http_infer_send_buf(r, NGX_HTTP_OK, "application/json",
                                  &ctx->out);

    ngx_http_infer_finalize(ctx, frc);
}


static int
ngx_http_infer_render_open(ngx_http_infer_ctx_t *ctx)
{
    int                  rc;
    const char          *build;
    infer_render_conf_t  conf;

    if (ctx->render) {
        return INFER_OK;
    }

    build = infer_build_id();

    conf.id.data = (char *) ctx->info.request_id.data;
    conf.id.len = ctx->info.request_id.len;
    conf.created = (int64_t) ngx_time();
    conf.fingerprint.data = build;
    conf.fingerprint.len = ngx_strlen(build);
    conf.blank = 0;

    rc = infer_render_new(&ctx->render,
                          ctx->bus->models[ctx->model->index].text, ctx->req,
                          &conf);
    if (rc != INFER_OK) {
        ctx->render = NULL;
        return rc;
    }

    return infer_render_begin(ctx->render, &ctx->out);
}


/*
 * Renders what is new in a choice, up to max bytes of output (0: no limit).
 * The state was read before the count: a choice that was done by then has
 * published everything. It is not read again: one that ended meanwhile may
 * have failed, which ngx_http_infer_failed() looks at in the next turn.
 */

static int
ngx_http_infer_render_choice(ngx_http_infer_ctx_t *ctx,
    ngx_http_infer_choice_t *choice, size_t max)
{
    int           rc;
    uint32_t      n, count, finish;
    infer_bus_t  *bus;

    if (choice->ended) {
        return INFER_OK;
    }

    bus = &ctx->bus->bus;

    count = infer_log_count(bus, choice->ref);

    if (choice->stream == NULL) {

        if (count == 0 && !choice->done) {
            return INFER_OK;
        }

        rc = infer_stream_new(&choice->stream,
                              ctx->bus->models[ctx->model->index].text,
                              ctx->req->stops, ctx->req->stop_lens,
                              ctx->req->n_stops,
                              ctx->req->sampling.min_tokens);
        if (rc != INFER_OK) {
            choice->stream = NULL;
            return rc;
        }
    }

    while (choice->nread < count) {

        if (max && ctx->out.len >= max) {
            return INFER_OK;
        }

        n = ngx_min(count - choice->nread, NGX_HTTP_INFER_BATCH);

        rc = ngx_http_infer_render_records(ctx, choice, n);

        if (rc != INFER_OK) {
            return rc;
        }
    }

    if (!choice->done) {
        return INFER_OK;
    }

    finish = atomic_load_explicit(&bus->slot[choice->ref.slot].finish,
                                  memory_order_acquire);

    return ngx_http_infer_render_last(ctx, choice, finish);
}


/* Records joined to one piece: their text waits in the tail of out. */

static int
ngx_http_infer_render_records(ngx_http_infer_ctx_t *ctx,
    ngx_http_infer_choice_t *choice, uint32_t n)
{
    int              rc;
    size_t           len;
    uint32_t         i, ntop;
    const char      *text;
    infer_buf_t      joined;
    infer_record_t   rec[NGX_HTTP_INFER_BATCH];
    infer_top_t      top[NGX_HTTP_INFER_BATCH * INFER_MAX_TOP_LOGPROBS];

    ngx_memzero(&joined, sizeof(infer_buf_t));

    ntop = ngx_min(ctx->req->sampling.top_logprobs, INFER_MAX_TOP_LOGPROBS);

    for (i = 0; i < n; i++) {
        rc = infer_log_read(&ctx->bus->bus, choice->ref, &choice->cursor,
                            choice->nread, &rec[i], &top[i * ntop], ntop);
        if (rc != INFER_OK) {
            goto done;
        }

        choice->nread++;
        ctx->info.completion_tokens++;

        (void) infer_stream_put(choice->stream, rec[i].id,
                                (rec[i].flags & INFER_REC_HIDDEN) ? 1 : 0,
                                &text, &len);

        infer_buf_put(&joined, text, len);
    }

    rc = infer_buf_rc(&joined);

    if (rc == INFER_OK) {
        rc = infer_render_piece(ctx->render, &ctx->out,
                                (uint32_t) (choice - ctx->choices),
                                joined.data ? joined.data : "", joined.len,
                                ctx->req->sampling.logprobs ? rec : NULL,
                                ntop ? top : NULL, n);
    }

done:

    infer_buf_free(&joined);

    return rc;
}


static int
ngx_http_infer_render_last(ngx_http_infer_ctx_t *ctx,
    ngx_http_infer_choice_t *choice, uint32_t finish)
{
    int          rc;
    size_t       len;
    uint32_t     i;
    const char  *text;

    i = (uint32_t) (choice - ctx->choices);

    infer_stream_finish(choice->stream, &text, &len);

    if (len) {
        rc = infer_render_piece(ctx->render, &ctx->out, i, text, len, NULL,
                                NULL, 0);
        if (rc != INFER_OK) {
            return rc;
        }
    }

    rc = infer_render_finish(ctx->render, &ctx->out, i, finish);
    if (rc != INFER_OK) {
        return rc;
    }

    ngx_http_infer_note_finish(ctx, choice, finish);
    ngx_http_infer_cache_keep(ctx, choice, finish);

    choice->ended = 1;

    infer_stream_free(choice->stream);
    choice->stream = NULL;

    /* who comes later reads all choices, or finds what is stored of them */

    if (ctx->cache == NULL || !ctx->cache->flying) {
        ngx_http_infer_release(ctx, choice);
        ngx_http_infer_engine_wake(ctx->bus);
    }

    return INFER_OK;
}


static int
ngx_http_infer_render_end(ngx_http_infer_ctx_t *ctx)
{
    infer_api_usage_t  usage;

    usage.prompt_tokens = ctx->req->n_prompt_tokens;
    usage.completion_tokens = ctx->info.completion_tokens;
    usage.cached_tokens = ctx->cached_tokens;

    ngx_http_infer_cache_store(ctx, &usage);
    ngx_http_infer_release_all(ctx);

    return infer_render_end(ctx->render, &ctx->out, &usage);
}


/* What variables say of times, taken from the slot while it is ours. */

void
ngx_http_infer_output_note(ngx_http_infer_ctx_t *ctx,
    ngx_http_infer_choice_t *choice)
{
    uint64_t       start, first;
    infer_slot_t  *slot;

    slot = &ctx->bus->bus.slot[choice->ref.slot];

    start = atomic_load(&slot->start_us);
    first = atomic_load(&slot->first_us);

    if (start >= slot->submit_us && start && !ctx->info.has_queue) {
        ctx->info.queue_us = start - slot->submit_us;
        ctx->info.has_queue = 1;
    }

    if (first >= slot->submit_us && first && !ctx->info.has_first) {
        ctx->info.first_us = first - slot->submit_us;
        ctx->info.has_first = 1;
    }
}


void
ngx_http_infer_note_finish(ngx_http_infer_ctx_t *ctx,
    ngx_http_infer_choice_t *choice, uint32_t finish)
{
    infer_slot_t  *slot;

    slot = &ctx->bus->bus.slot[choice->ref.slot];

    /* a prompt counts once, however many choices it has */

    if ((ngx_uint_t) (choice - ctx->choices) % ctx->req->n == 0) {
        ctx->cached_tokens += atomic_load(&slot->cached_tokens);
    }

    ctx->info.finish_reason.data = (u_char *) infer_api_finish_name(finish);
    ctx->info.finish_reason.len = ngx_strlen(ctx->info.finish_reason.data);

    ngx_log_debug3(NGX_LOG_DEBUG_HTTP, ngx_http_infer_log(ctx), 0,
                   "infer slot %uD is done, %uD tokens, \"%V\"",
                   choice->ref.slot, choice->nread,
                   &ctx->info.finish_reason);
}


/*
 * The first choice that ended without an answer, if any; and which are done,
 * for all that follows in this turn.
 */

static uint32_t
ngx_http_infer_failed(ngx_http_infer_ctx_t *ctx, infer_api_error_t *e)
{
    char                      text[sizeof(((infer_slot_t *) 0)->error)];
    uint32_t                  status, finish;
    ngx_uint_t                i;
    infer_slot_t             *slot;
    ngx_http_infer_choice_t  *choice;

    for (i = 0; i < ctx->nchoices; i++) {
        choice = &ctx->choices[i];

        if (choice->ended) {
            continue;
        }

        status = infer_slot_status(&ctx->bus->bus, choice->ref);
        choice->done = (status == INFER_SLOT_DONE);

        if (ngx_http_infer_status_runs(status)) {
            continue;
        }

        slot = &ctx->bus->bus.slot[choice->ref.slot];
        finish = INFER_FINISH_CANCELLED;
        text[0] = '\0';

        if (status == INFER_SLOT_DONE) {
            finish = atomic_load_explicit(&slot->finish, memory_order_acquire);

            if (finish == INFER_FINISH_STOP || finish == INFER_FINISH_LENGTH) {
                continue;
            }

            ngx_memcpy(text, slot->error, sizeof(text));
            text[sizeof(text) - 1] = '\0';

            ngx_http_infer_note_finish(ctx, choice, finish);
        }

        infer_api_error_finish(e, finish, text[0] ? text : NULL);

        return finish;
    }

    return INFER_FINISH_NONE;
}


/* What we joined has failed, and the client has seen nothing: our own. */

static ngx_int_t
ngx_http_infer_retry(ngx_http_infer_ctx_t *ctx, uint32_t finish)
{
    ngx_int_t   rc;
    ngx_uint_t  i;

    if (!ctx->choices->joined || ctx->request->header_sent
        || ngx_http_infer_late(ctx, finish))
    {
        return NGX_DECLINED;
    }

    ngx_log_error(NGX_LOG_INFO, ctx->request->connection->log, 0,
                  "infer joined generation failed, starting another");

    ngx_http_infer_release_all(ctx);
    ngx_http_infer_cache_crashed(ctx);

    for (i = 0; i < ctx->nchoices; i++) {
        if (ctx->choices[i].stream) {
            infer_stream_free(ctx->choices[i].stream);
        }
    }

    ctx->nchoices = 0;
    ctx->info.completion_tokens = 0;
    ngx_str_null(&ctx->info.finish_reason);

    if (ctx->render) {
        infer_render_free(ctx->render);
        ctx->render = NULL;
    }

    infer_buf_reset(&ctx->out);

    rc = ngx_http_infer_submit(ctx);

    if (rc != NGX_DONE) {
        ngx_http_infer_finalize(ctx, rc);
    }

    return NGX_OK;
}


/* Of a generation whose time was over: ours is too. */

static ngx_uint_t
ngx_http_infer_late(ngx_http_infer_ctx_t *ctx, uint32_t finish)
{
    uint64_t        now;
    infer_terms_t  *t;

    t = &ctx->terms;
    now = infer_now_us();

    if (finish == INFER_FINISH_TIMEOUT_QUEUE) {
        return t->queue_deadline_us && now >= t->queue_deadline_us;
    }

    return finish == INFER_FINISH_TIMEOUT
           && ((t->first_deadline_us && now >= t->first_deadline_us)
               || (t->total_deadline_us && now >= t->total_deadline_us));
}


/*
 * An old answer in its place, if one may stand in for the cause; an error
 * object, or an event when the stream has begun.
 */

static void
ngx_http_infer_fail(ngx_http_infer_ctx_t *ctx, infer_api_error_t *e,
    ngx_uint_t cause)
{
    ngx_int_t            rc;
    ngx_uint_t           retry;
    ngx_http_request_t  *r;

    r = ctx->request;

    retry = (e->status == NGX_HTTP_SERVICE_UNAVAILABLE)
            ? ngx_http_infer_retry_after(ctx) : 0;

    if (ctx->info.finish_reason.len == 0) {
        ngx_str_set(&ctx->info.finish_reason, "error");
    }

    ngx_http_infer_release_all(ctx);

    if (!r->header_sent) {
        ngx_http_infer_event_forget(ctx);

        rc = ngx_http_infer_cache_stale(ctx, cause, e->message);

        if (rc == NGX_DECLINED) {
            rc = ngx_http_infer_send_error(r, e, retry);
        }

        if (rc != NGX_DONE) {
            ngx_http_infer_finalize(ctx, rc);
        }

        return;
    }

    ngx_log_error(NGX_LOG_ERR, r->connection->log, 0,
                  "infer stream ends with an error: %s, id: \"%V\"",
                  e->message, &ctx->info.request_id);

    r->keepalive = 0;
    infer_buf_reset(&ctx->out);

    if (infer_render_failed(&ctx->out, e) != INFER_OK) {
        rc = NGX_ERROR;

    } else {
        rc = ngx_http_infer_flush_out(ctx, 1);
    }

    ngx_http_infer_finalize(ctx, rc);
}


/* The deadline passed and there is no engine to say so. */

void
ngx_http_infer_output_timeout(ngx_http_infer_ctx_t *ctx, ngx_uint_t status)
{
    infer_api_error_t  e;

    ngx_str_set(&ctx->info.finish_reason, "timeout");

    /* the request may outlive its answer */

    ngx_http_infer_drop(ctx);

    if (ctx->blocked) {
        ngx_http_infer_finalize(ctx, NGX_ERROR);
        return;
    }

    infer_api_error_finish(&e, status == NGX_HTTP_SERVICE_UNAVAILABLE
                               ? INFER_FINISH_TIMEOUT_QUEUE
                               : INFER_FINISH_TIMEOUT, NULL);

    ngx_http_infer_fail(ctx, &e, NGX_HTTP_INFER_STALE_TIMEOUT
                        | (ngx_http_infer_engine_ready(ctx->bus)
                           ? 0 : NGX_HTTP_INFER_STALE_ERROR));
}


void
ngx_http_infer_output_ping(ngx_http_infer_ctx_t *ctx)
{
    infer_buf_reset(&ctx->out);

    if (infer_render_ping(&ctx->out) != INFER_OK
        || ngx_http_infer_flush_out(ctx, 0) == NGX_ERROR)
    {
        ngx_http_infer_finalize(ctx, NGX_ERROR);
        return;
    }

    ngx_http_infer_timer(ctx);
}


void
ngx_http_infer_finalize(ngx_http_infer_ctx_t *ctx, ngx_int_t rc)
{
    ctx->done = 1;

    ngx_http_infer_event_forget(ctx);
    ngx_http_infer_release_all(ctx);

    if ((rc == NGX_ERROR || rc == NGX_HTTP_REQUEST_TIME_OUT)
        && ctx->info.finish_reason.len == 0)
    {
        ngx_http_infer_gone(ctx);
    }

    ngx_http_finalize_request(ctx->request, rc);
}


/* Sent with the first event, so that what fails before has its status. */

static ngx_int_t
ngx_http_infer_stream_header(ngx_http_infer_ctx_t *ctx)
{
    ngx_int_t                  rc;
    ngx_connection_t          *c;
    ngx_http_request_t        *r;
    ngx_http_core_loc_conf_t  *clcf;

    r = ctx->request;
    c = r->connection;

    ctx->own = 1;

    r->headers_out.status = NGX_HTTP_OK;
    ngx_http_clear_content_length(r);

    ngx_str_set(&r->headers_out.content_type, "text/event-stream");
    r->headers_out.content_type_len = r->headers_out.content_type.len;
    r->headers_out.content_type_lowcase = NULL;

    if (ngx_http_infer_stream_headers(r) != NGX_OK) {
        return NGX_ERROR;
    }

    clcf = ngx_http_get_module_loc_conf(r, ngx_http_core_module);

    if (clcf->tcp_nodelay && ngx_tcp_nodelay(c) != NGX_OK) {
        return NGX_ERROR;
    }

    rc = ngx_http_send_header(r);

    return (rc == NGX_ERROR || rc > NGX_OK) ? NGX_ERROR : NGX_OK;
}


static ngx_int_t
ngx_http_infer_flush_out(ngx_http_infer_ctx_t *ctx, ngx_uint_t last)
{
    return ngx_http_infer_flush(ctx, (u_char *) ctx->out.data, ctx->out.len,
                                last);
}


/* One buffer, one flush. out is reused when busy is empty. */

ngx_int_t
ngx_http_infer_flush(ngx_http_infer_ctx_t *ctx, u_char *data, size_t len,
    ngx_uint_t last)
{
    ngx_int_t            rc;
    ngx_buf_t           *b;
    ngx_chain_t         *out;
    ngx_http_request_t  *r;

    r = ctx->request;

    if (!r->header_sent && ngx_http_infer_stream_header(ctx) != NGX_OK) {
        return NGX_ERROR;
    }

    /* a mirror's copy has no client */

    if (r->header_only) {
        return NGX_OK;
    }

    out = ngx_chain_get_free_buf(r->pool, &ctx->free);
    if (out == NULL) {
        return NGX_ERROR;
    }

    b = out->buf;

    ngx_memzero(b, sizeof(ngx_buf_t));

    if (len) {
        b->start = data;
        b->pos = b->start;
        b->last = b->start + len;
        b->end = b->last;
        b->temporary = 1;
    }

    b->tag = (ngx_buf_tag_t) &ngx_http_infer_module;
    b->flush = 1;

    if (last) {
        b->last_buf = (r == r->main) ? 1 : 0;
        b->last_in_chain = 1;
    }

    ngx_log_debug2(NGX_LOG_DEBUG_HTTP, r->connection->log, 0,
                   "infer output %uz bytes, last:%ui", len, last);

    rc = ngx_http_output_filter(r, out);

    ngx_chain_update_chains(r->pool, &ctx->free, &ctx->busy, &out,
                            (ngx_buf_tag_t) &ngx_http_infer_module);

    ctx->last_sent = ngx_current_msec;

    if (rc == NGX_ERROR || last) {
        return rc;
    }

    if (ctx->busy || r->buffered || r->postponed
        || (r == r->main && r->connection->buffered))
    {
        return ngx_http_infer_wait(r, ctx);
    }

    return NGX_OK;
}


/* The client is slow: go on when it has taken what there is. */

static ngx_int_t
ngx_http_infer_wait(ngx_http_request_t *r, ngx_http_infer_ctx_t *ctx)
{
    ngx_event_t               *wev;
    ngx_http_core_loc_conf_t  *clcf;

    ctx->blocked = 1;
    r->write_event_handler = ngx_http_infer_write_handler;

    wev = r->connection->write;
    clcf = ngx_http_get_module_loc_conf(r->main, ngx_http_core_module);

    if (wev->ready && wev->delayed) {
        return NGX_OK;
    }

    if (!wev->delayed) {
        ngx_add_timer(wev, clcf->send_timeout);
    }

    if (ngx_handle_write_event(wev, clcf->send_lowat) != NGX_OK) {
        return NGX_ERROR;
    }

    return NGX_OK;
}


static void
ngx_http_infer_write_handler(ngx_http_request_t *r)
{
    ngx_int_t              rc;
    ngx_event_t           *wev;
    ngx_chain_t           *out;
    ngx_connection_t      *c;
    ngx_http_infer_ctx_t  *ctx;

    c = r->connection;
    wev = c->write;
    ctx = ngx_http_get_module_ctx(r, ngx_http_infer_module);

    if (wev->timedout) {
        ngx_log_error(NGX_LOG_INFO, c->log, NGX_ETIMEDOUT,
                      "infer client timed out");
        c->timedout = 1;

        ngx_http_infer_finalize(ctx, NGX_HTTP_REQUEST_TIME_OUT);
        return;
    }

    if (!wev->delayed) {
        rc = ngx_http_output_filter(r, NULL);

        if (rc == NGX_ERROR) {
            ngx_http_infer_finalize(ctx, NGX_ERROR);
            return;
        }

        out = NULL;
        ngx_chain_update_chains(r->pool, &ctx->free, &ctx->busy, &out,
                                (ngx_buf_tag_t) &ngx_http_infer_module);
    }

    if (wev->delayed || ctx->busy || r->buffered || r->postponed
        || (r == r->main && c->buffered))
    {
        if (ngx_http_infer_wait(r, ctx) != NGX_OK) {
            ngx_http_infer_finalize(ctx, NGX_ERROR);
        }

        return;
    }

    if (wev->timer_set) {
        ngx_del_timer(wev);
    }

    ctx->blocked = 0;
    r->write_event_handler = ngx_http_request_empty_handler;

    ngx_log_debug0(NGX_LOG_DEBUG_HTTP, c->log, 0, "infer client goes on");

    ngx_http_infer_output(ctx);
}
