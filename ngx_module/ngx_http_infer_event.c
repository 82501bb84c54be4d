
/*
 * Wake-ups. The entry's eventfd lies in the event loop; its news bitmap names
 * the slots that have something new, a table leads from a slot to the choice
 * of a request. Each request in flight has one timer, for pings and for the
 * deadlines that a missing engine cannot watch. The timer is not cancelable,
 * so a worker that exits gracefully stays until its requests are answered;
 * that of a refresh is.
 */


#include "ngx_http_infer_request.h"


/* the engine acts first on a deadline; we come in when it does not */

#define NGX_HTTP_INFER_GRACE_US   1000000
#define NGX_HTTP_INFER_TIMER_MAX  600000


/* of one process and bus */

struct ngx_http_infer_watch_s {
    ngx_connection_t          *connection;
    ngx_queue_t                ready;        /* ngx_http_infer_ctx_t */
    ngx_http_infer_choice_t  **choices;      /* by slot */
};


static void ngx_http_infer_event_handler(ngx_event_t *rev);
static void ngx_http_infer_event_ready(ngx_http_infer_bus_t *bus,
    uint64_t *bits);
static void ngx_http_infer_timer_handler(ngx_event_t *ev);
static ngx_uint_t ngx_http_infer_overdue(ngx_http_infer_ctx_t *ctx,
    uint64_t now, uint64_t *next);
static uint64_t ngx_http_infer_due(ngx_http_infer_ctx_t *ctx,
    uint64_t deadline, _Atomic uint64_t *engine, uint64_t now);


ngx_int_t
ngx_http_infer_event_attach(ngx_http_infer_bus_t *bus, ngx_log_t *log)
{
    ngx_event_t             *rev;
    ngx_connection_t        *c;
    ngx_http_infer_watch_t  *watch;

    watch = ngx_calloc(sizeof(ngx_http_infer_watch_t), log);
    if (watch == NULL) {
        return NGX_ERROR;
    }

    watch->choices = ngx_calloc((size_t) bus->bus.n_slots
                                * sizeof(ngx_http_infer_choice_t *), log);
    if (watch->choices == NULL) {
        ngx_free(watch);
        return NGX_ERROR;
    }

    ngx_queue_init(&watch->ready);
    ngx_queue_init(&bus->refreshes);

    c = ngx_get_connection(bus->entry_fd[bus->entry], ngx_cycle->log);
    if (c == NULL) {
        goto failed;
    }

    c->data = bus;
    c->log = ngx_cycle->log;

    rev = c->read;
    rev->handler = ngx_http_infer_event_handler;
    rev->log = ngx_cycle->log;

    if (ngx_handle_read_event(rev, 0) != NGX_OK) {
        ngx_free_connection(c);
        c->fd = (ngx_socket_t) -1;
        goto failed;
    }

    watch->connection = c;
    bus->watch = watch;

    return NGX_OK;

failed:

    ngx_free(watch->choices);
    ngx_free(watch);

    return NGX_ERROR;
}


/* The descriptor is the bus's and stays open. */

void
ngx_http_infer_event_detach(ngx_http_infer_bus_t *bus)
{
    ngx_connection_t        *c;
    ngx_http_infer_watch_t  *watch;

    watch = bus->watch;

    if (watch == NULL) {
        return;
    }

    c = watch->connection;

    if (c->read->active) {
        (void) ngx_del_event(c->read, NGX_READ_EVENT, 0);
    }

    if (c->read->posted) {
        ngx_delete_posted_event(c->read);
    }

    ngx_free_connection(c);
    c->fd = (ngx_socket_t) -1;

    bus->watch = NULL;

    ngx_http_infer_refresh_cancel(bus);

    ngx_free(watch->choices);
    ngx_free(watch);
}


static void
ngx_http_infer_event_handler(ngx_event_t *rev)
{
    uint64_t               count, bits[INFER_BITMAP_WORDS];
    ngx_connection_t      *c;
    ngx_http_infer_bus_t  *bus;

    c = rev->data;
    bus = c->data;

    if (read(c->fd, &count, sizeof(count)) == -1 && ngx_errno != NGX_EAGAIN) {
        ngx_log_error(NGX_LOG_ALERT, rev->log, ngx_errno,
                      "infer read() of an eventfd failed");
    }

    rev->ready = 0;

    if (ngx_handle_read_event(rev, 0) != NGX_OK) {
        ngx_log_error(NGX_LOG_ALERT, rev->log, 0,
                      "infer wake-ups cannot be waited for");
    }

    if (infer_entry_news(&bus->bus, (uint32_t) bus->entry, bits)) {
        ngx_http_infer_event_ready(bus, bits);
    }
}


/* A request whose choices have news several times is taken on once. */

static void
ngx_http_infer_event_ready(ngx_http_infer_bus_t *bus, uint64_t *bits)
{
    uint32_t                  slot;
    ngx_uint_t                i;
    ngx_queue_t              *q;
    ngx_connection_t         *c;
    ngx_http_infer_ctx_t     *ctx;
    ngx_http_infer_watch_t   *watch;
    ngx_http_infer_choice_t  *choice;

    watch = bus->watch;

    for (i = 0; i < INFER_BITMAP_WORDS; i++) {

        while (bits[i]) {
            slot = i * 64 + __builtin_ctzll(bits[i]);
            bits[i] &= bits[i] - 1;

            choice = slot < bus->bus.n_slots ? watch->choices[slot] : NULL;

            if (choice == NULL) {
                (void) atomic_fetch_add(&bus->bus.stats->stale_messages, 1);
                continue;
            }

            for ( /* void */ ; choice; choice = choice->next) {
                ctx = choice->ctx;

                if (!ctx->ready) {
                    ctx->ready = 1;
                    ngx_queue_insert_tail(&watch->ready, &ctx->queue);
                }
            }
        }
    }

    while (!ngx_queue_empty(&watch->ready)) {
        q = ngx_queue_head(&watch->ready);
        ngx_queue_remove(q);

        ctx = ngx_queue_data(q, ngx_http_infer_ctx_t, queue);
        ctx->ready = 0;

        if (ctx->request == NULL) {
            ngx_http_infer_refresh_news(ctx);
            continue;
        }

        c = ctx->request->connection;

        ngx_http_set_log_request(c->log, ctx->request);

        ngx_http_infer_output(ctx);

        ngx_http_run_posted_requests(c);
    }
}


void
ngx_http_infer_event_add(ngx_http_infer_ctx_t *ctx,
    ngx_http_infer_choice_t *choice)
{
    ngx_http_infer_choice_t  **first;

    first = &ctx->bus->watch->choices[choice->ref.slot];

    choice->next = choice->joined ? *first : NULL;
    *first = choice;
}


/* 1: no other request of this process reads the slot */

ngx_uint_t
ngx_http_infer_event_del(ngx_http_infer_ctx_t *ctx,
    ngx_http_infer_choice_t *choice)
{
    ngx_http_infer_choice_t  **p;

    if (ctx->bus->watch == NULL) {
        return 1;
    }

    p = &ctx->bus->watch->choices[choice->ref.slot];

    while (*p && *p != choice) {
        p = &(*p)->next;
    }

    if (*p) {
        *p = choice->next;
    }

    return ctx->bus->watch->choices[choice->ref.slot] == NULL;
}


/* News of our own making: the eventfd brings us back from the event loop. */

void
ngx_http_infer_event_kick(ngx_http_infer_ctx_t *ctx)
{
    uint64_t  one;

    one = 1;

    if (write(ctx->bus->entry_fd[ctx->bus->entry], &one, sizeof(one)) == -1
        && ngx_errno != NGX_EAGAIN)
    {
        ngx_log_error(NGX_LOG_ALERT, ctx->request->connection->log, ngx_errno,
                      "infer write() to an eventfd failed");
    }
}


/* The request leaves: no timer, no place among the ready ones. */

void
ngx_http_infer_event_forget(ngx_http_infer_ctx_t *ctx)
{
    if (ctx->ready) {
        ngx_queue_remove(&ctx->queue);
        ctx->ready = 0;
    }

    if (ctx->timer.timer_set) {
        ngx_del_timer(&ctx->timer);
    }
}


/* Sets the timer to whatever comes first: a ping or a deadline. */

void
ngx_http_infer_timer(ngx_http_infer_ctx_t *ctx)
{
    uint64_t    now, next;
    ngx_msec_t  ms, idle;

    now = infer_now_us();
    next = 0;
    ms = NGX_HTTP_INFER_TIMER_MAX;

    if (ngx_http_infer_overdue(ctx, now, &next)) {
        ms = 1;

    } else if (next) {
        ms = ngx_min(ms, (ngx_msec_t) ((next - now) / 1000) + 1);
    }

    if (ctx->ping && !ctx->blocked) {
        idle = ngx_current_msec - ctx->last_sent;
        idle = (idle < ctx->ping) ? ctx->ping - idle : 1;
        ms = ngx_min(ms, idle);
    }

    if (ctx->timer.timer_set) {
        ngx_del_timer(&ctx->timer);
    }

    ctx->timer.handler = ngx_http_infer_timer_handler;
    ctx->timer.data = ctx;
    ctx->timer.log = ngx_http_infer_log(ctx);
    ctx->timer.cancelable = (ctx->request == NULL);

    ngx_add_timer(&ctx->timer, ms);
}


static void
ngx_http_infer_timer_handler(ngx_event_t *ev)
{
    uint64_t               now, next;
    ngx_uint_t             status;
    ngx_connection_t      *c;
    ngx_http_infer_ctx_t  *ctx;

    ctx = ev->data;
    now = infer_now_us();
    next = 0;

    status = ngx_http_infer_overdue(ctx, now, &next);

    if (ctx->request == NULL) {

        if (status) {
            ngx_http_infer_refresh_end(ctx, 0);

        } else {
            ngx_http_infer_timer(ctx);
        }

        return;
    }

    c = ctx->request->connection;

    ngx_http_set_log_request(c->log, ctx->request);

    if (status) {

        if (ctx->nchoices && !ctx->outlived) {
            ngx_log_error(NGX_LOG_WARN, c->log, 0,
                          "infer deadline passed without the engine");
        }

        ngx_http_infer_output_timeout(ctx, status);

    } else {

        if (ctx->ping && !ctx->blocked
            && ngx_current_msec - ctx->last_sent >= ctx->ping)
        {
            ngx_http_infer_output_ping(ctx);

        } else {
            ngx_http_infer_timer(ctx);
        }
    }

    ngx_http_run_posted_requests(c);
}


/*
 * The status of a deadline that is over for good (503 queue, 504 others, as
 * the engine has it), or 0 and when to look again. A deadline is the engine's
 * to enforce, so it is over here only some time later; but at once where the
 * engine does not have the request yet or other readers let it wait longer.
 */

static ngx_uint_t
ngx_http_infer_overdue(ngx_http_infer_ctx_t *ctx, uint64_t now, uint64_t *next)
{
    uint64_t                  due, queue, total;
    ngx_uint_t                i, pending, started, first;
    infer_slot_t             *slot, *waits;
    ngx_http_infer_choice_t  *choice;

    pending = (ctx->nchoices == 0);
    waits = NULL;
    started = 0;
    first = 0;

    for (i = 0; i < ctx->nchoices; i++) {
        choice = &ctx->choices[i];

        if (choice->ended
            || infer_slot_status(&ctx->bus->bus, choice->ref)
               == INFER_SLOT_DONE)
        {
            started = 1;
            continue;
        }

        slot = &ctx->bus->bus.slot[choice->ref.slot];

        pending = 1;
        waits = slot;

        /* a request that does not stream reads nothing before the end */

        if (infer_log_count(&ctx->bus->bus, choice->ref)) {
            started = 1;
            first = 1;
            continue;
        }

        if (atomic_load_explicit(&slot->start_us, memory_order_relaxed)) {
            started = 1;
        }
    }

    if (!pending) {
        return 0;
    }

    due = UINT64_MAX;
    queue = UINT64_MAX;
    total = ngx_http_infer_due(ctx, ctx->terms.total_deadline_us,
                               waits ? &waits->total_deadline_us : NULL,
                               now);

    if (!started) {
        queue = ngx_http_infer_due(ctx, ctx->terms.queue_deadline_us,
                                   waits ? &waits->queue_deadline_us : NULL,
                                   now);

    } else if (!first) {
        due = ngx_http_infer_due(ctx, ctx->terms.first_deadline_us,
                                 waits ? &waits->first_deadline_us : NULL,
                                 now);
    }

    if (now >= queue) {
        return NGX_HTTP_SERVICE_UNAVAILABLE;
    }

    due = ngx_min(due, total);

    if (now >= due) {
        return NGX_HTTP_GATEWAY_TIME_OUT;
    }

    due = ngx_min(due, queue);

    if (due != UINT64_MAX) {
        *next = due;
    }

    return 0;
}


/* when to look again, or a time that is not after now: it is over */

static uint64_t
ngx_http_infer_due(ngx_http_infer_ctx_t *ctx, uint64_t deadline,
    _Atomic uint64_t *engine, uint64_t now)
{
    if (deadline == 0) {
        return UINT64_MAX;
    }

    if (now < deadline) {
        return deadline;
    }

    if (engine == NULL) {
        return deadline;
    }

    if (atomic_load(engine) != deadline) {
        ctx->outlived = 1;
        return deadline;
    }

    return deadline + NGX_HTTP_INFER_GRACE_US;
}
