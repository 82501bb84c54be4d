
/*
 * A streamed answer out of the cache, sent at a pace: its events lie rendered
 * in ctx->out, and a timer hands on those whose time has come. A client that
 * is slow gets them later and in larger pieces; nothing is copied for it.
 */


#include "ngx_http_infer_request.h"


#define NGX_HTTP_INFER_PACE_TICK  20      /* ms between sends, at least */


struct ngx_http_infer_pace_s {
    u_char      *pos;
    u_char      *end;
    ngx_uint_t   events;
    ngx_uint_t   sent;
    ngx_msec_t   total;                   /* ms from first to last */
    ngx_msec_t   start;
    ngx_str_t    finish;                  /* told when it is complete */
};


static void ngx_http_infer_pace_timer(ngx_http_infer_ctx_t *ctx,
    ngx_msec_t ms);
static void ngx_http_infer_pace_handler(ngx_event_t *ev);
static u_char *ngx_http_infer_pace_event(u_char *p, u_char *end);


/*
 * Takes body over. The tokens are spread over the events: the first one is
 * due now, the answer is complete when its last token would be. DONE: under
 * way, else a status.
 */

ngx_int_t
ngx_http_infer_pace(ngx_http_infer_ctx_t *ctx, infer_buf_t *body)
{
    u_char                 *p;
    ngx_http_infer_pace_t  *pace;

    pace = ngx_pcalloc(ctx->request->pool, sizeof(ngx_http_infer_pace_t));

    if (pace == NULL || infer_buf_rc(body) != INFER_OK) {
        infer_buf_free(body);
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    infer_buf_free(&ctx->out);
    ctx->out = *body;
    ngx_memzero(body, sizeof(infer_buf_t));

    pace->pos = (u_char *) ctx->out.data;
    pace->end = pace->pos + ctx->out.len;
    pace->start = ngx_current_msec;
    pace->finish = ctx->info.finish_reason;
    pace->total = (ngx_msec_t) ((uint64_t) ctx->info.completion_tokens * 1000
                                / ctx->cache->conf->pace);

    for (p = pace->pos; p < pace->end; pace->events++) {
        p = ngx_http_infer_pace_event(p, pace->end);
    }

    ngx_str_null(&ctx->info.finish_reason);
    ctx->pace = pace;
    ctx->done = 0;

    ngx_http_infer_watch_client(ctx->request);
    ngx_http_infer_pace_timer(ctx, 0);

    return NGX_DONE;
}


/* Behind the empty line that ends an event. */

static u_char *
ngx_http_infer_pace_event(u_char *p, u_char *end)
{
    for ( /* void */ ; end - p > 2; p++) {
        if (p[0] == '\n' && p[1] == '\n') {
            return p + 2;
        }
    }

    return end;
}


static void
ngx_http_infer_pace_timer(ngx_http_infer_ctx_t *ctx, ngx_msec_t ms)
{
    if (ctx->timer.timer_set) {
        ngx_del_timer(&ctx->timer);
    }

    ctx->timer.handler = ngx_http_infer_pace_handler;
    ctx->timer.data = ctx;
    ctx->timer.log = ctx->request->connection->log;

    ngx_add_timer(&ctx->timer, ms);
}


static void
ngx_http_infer_pace_handler(ngx_event_t *ev)
{
    ngx_connection_t      *c;
    ngx_http_infer_ctx_t  *ctx;

    ctx = ev->data;
    c = ctx->request->connection;

    ngx_http_set_log_request(c->log, ctx->request);

    ngx_http_infer_output(ctx);

    ngx_http_run_posted_requests(c);
}


/* Sends what is due; may end the request. */

void
ngx_http_infer_pace_output(ngx_http_infer_ctx_t *ctx)
{
    u_char                 *p;
    ngx_int_t               rc;
    ngx_msec_t              elapsed, next;
    ngx_uint_t              last;
    ngx_http_infer_pace_t  *pace;

    pace = ctx->pace;
    elapsed = ngx_current_msec - pace->start;
    p = pace->pos;

    /* event k is due at k / events of the whole */

    while (p < pace->end
           && (uint64_t) elapsed * pace->events
              >= (uint64_t) pace->total * pace->sent)
    {
        p = ngx_http_infer_pace_event(p, pace->end);
        pace->sent++;
    }

    last = (p == pace->end);

    if (last) {
        ctx->info.finish_reason = pace->finish;
    }

    if (p > pace->pos || last) {
        rc = ngx_http_infer_flush(ctx, pace->pos, p - pace->pos, last);
        pace->pos = p;

        if (last || rc == NGX_ERROR) {
            ngx_http_infer_finalize(ctx, rc);
            return;
        }
    }

    if (ctx->blocked) {
        return;
    }

    next = (ngx_msec_t) ((uint64_t) pace->total * pace->sent / pace->events);
    next = (next > elapsed) ? next - elapsed : 0;

    ngx_http_infer_pace_timer(ctx, ngx_max(next, NGX_HTTP_INFER_PACE_TICK));
}
