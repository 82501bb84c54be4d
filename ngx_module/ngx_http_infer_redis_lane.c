
/*
 * The lane of an infer_redis: one connection of the worker's event loop, over
 * which lookups go to Redis without a thread. engine/cache/redis_lane.c speaks
 * the protocol; here are the connection, its events and the jobs that wait.
 *
 * It is opened with a connection that a thread's job has just used, so the
 * event loop never connects. It is closed when a reply is late, wrong or lost,
 * when another server is to be asked first, and when the worker leaves; then
 * threads do the lookups until one of them succeeds.
 *
 * A job whose request has gone keeps its place, since its reply will come.
 */


#include "ngx_http_infer_module.h"


#define NGX_HTTP_INFER_LANE_READ    32768     /* bytes at once */
#define NGX_HTTP_INFER_LANE_READS   4         /* of one event */


static void ngx_http_infer_lane_close(ngx_http_infer_redis_t *redis);
static void ngx_http_infer_lane_send(ngx_http_infer_redis_t *redis);
static void ngx_http_infer_lane_write_handler(ngx_event_t *wev);
static void ngx_http_infer_lane_read_handler(ngx_event_t *rev);
static int ngx_http_infer_lane_receive(ngx_http_infer_redis_t *redis,
    ngx_queue_t *told);
static int ngx_http_infer_lane_pop(ngx_http_infer_redis_t *redis,
    ngx_queue_t *told);
static void ngx_http_infer_lane_end(ngx_http_infer_redis_t *redis, int rc,
    ngx_queue_t *told);
static void ngx_http_infer_lane_timer(ngx_http_infer_redis_t *redis);
static void ngx_http_infer_lane_tell(ngx_queue_t *told);


/* With master_process off, nothing would close it when a cycle ends. */

void
ngx_http_infer_lane_take(ngx_http_infer_redis_t *redis)
{
    int                fd;
    ngx_connection_t  *c;

    if (redis->lane || ngx_exiting || ngx_process != NGX_PROCESS_WORKER
        || ngx_cycle->free_connection_n <= ngx_cycle->connection_n / 16)
    {
        return;
    }

    if (infer_redis_lane_take(redis->client, &redis->lane, &fd) != INFER_OK) {
        return;
    }

    c = ngx_get_connection(fd, ngx_cycle->log);

    if (c == NULL) {
        (void) close(fd);
        infer_redis_lane_free(redis->lane);
        redis->lane = NULL;
        return;
    }

    c->data = redis;
    c->log = ngx_cycle->log;
    c->log_error = NGX_ERROR_INFO;
    c->number = ngx_atomic_fetch_add(ngx_connection_counter, 1);
    c->recv = ngx_recv;
    c->send = ngx_send;
    c->idle = 1;

    c->read->handler = ngx_http_infer_lane_read_handler;
    c->read->log = c->log;
    c->write->handler = ngx_http_infer_lane_write_handler;
    c->write->log = c->log;
    c->write->ready = 1;

    redis->lane_conn = c;
    redis->lane_rc = INFER_OK;
    ngx_queue_init(&redis->lane_jobs);

    if (ngx_handle_read_event(c->read, 0) != NGX_OK) {
        ngx_http_infer_lane_close(redis);
        return;
    }

    ngx_log_debug2(NGX_LOG_DEBUG_HTTP, c->log, 0,
                   "infer redis \"%V\" lane open, fd:%d", &redis->name, fd);
}


/* Nobody waits any more. */

static void
ngx_http_infer_lane_close(ngx_http_infer_redis_t *redis)
{
    ngx_log_debug1(NGX_LOG_DEBUG_HTTP, ngx_cycle->log, 0,
                   "infer redis \"%V\" lane closed", &redis->name);

    ngx_close_connection(redis->lane_conn);
    infer_redis_lane_free(redis->lane);

    redis->lane_conn = NULL;
    redis->lane = NULL;
}


/* Ends nothing itself: its caller is in the middle of a request. */

ngx_int_t
ngx_http_infer_lane_get(ngx_http_infer_redis_job_t *job, const char *key,
    const char *const counter[2], ngx_http_infer_redis_done_pt told)
{
    int                      rc;
    ngx_http_infer_redis_t  *redis;

    redis = job->redis;

    if (redis->pid != ngx_pid || redis->lane == NULL
        || redis->lane_rc != INFER_OK)
    {
        return NGX_DECLINED;
    }

    if (!infer_redis_lane_first(redis->lane)) {

        if (ngx_queue_empty(&redis->lane_jobs)) {
            ngx_http_infer_lane_close(redis);
        }

        return NGX_DECLINED;
    }

    rc = infer_redis_lane_get(redis->lane, key, counter, infer_now_us());

    if (rc == INFER_NOMEM) {
        redis->lane_rc = rc;
        ngx_post_event(redis->lane_conn->read, &ngx_posted_events);
    }

    if (rc != INFER_OK) {
        return NGX_DECLINED;
    }

    job->told = told;
    ngx_queue_insert_tail(&redis->lane_jobs, &job->queue);

    ngx_http_infer_lane_send(redis);
    ngx_http_infer_lane_timer(redis);

    return NGX_OK;
}


static void
ngx_http_infer_lane_send(ngx_http_infer_redis_t *redis)
{
    size_t             len;
    ssize_t            n;
    const char        *data;
    ngx_connection_t  *c;

    c = redis->lane_conn;

    while (c->write->ready) {

        data = infer_redis_lane_out(redis->lane, &len);

        if (len == 0) {
            break;
        }

        n = c->send(c, (u_char *) data, len);

        if (n == NGX_ERROR) {
            goto failed;
        }

        if (n > 0) {
            infer_redis_lane_sent(redis->lane, (size_t) n);
        }
    }

    if (ngx_handle_write_event(c->write, 0) == NGX_OK) {
        return;
    }

failed:

    redis->lane_rc = INFER_AGAIN;
    ngx_post_event(c->read, &ngx_posted_events);
}


static void
ngx_http_infer_lane_write_handler(ngx_event_t *wev)
{
    ngx_connection_t        *c;
    ngx_http_infer_redis_t  *redis;

    c = wev->data;
    redis = c->data;

    if (redis->lane_rc == INFER_OK) {
        ngx_http_infer_lane_send(redis);
    }
}


/* Also of the timer, of an error elsewhere, and of nginx, which closes idle
 * connections when it leaves. */

static void
ngx_http_infer_lane_read_handler(ngx_event_t *rev)
{
    int                      rc;
    uint64_t                 until;
    ngx_queue_t              told;
    ngx_connection_t        *c;
    ngx_http_infer_redis_t  *redis;

    c = rev->data;
    redis = c->data;

    if (rev->timedout) {

        /* that may be our own fault: what has come is taken before */

        rev->timedout = 0;
        ngx_post_event(rev, &ngx_posted_next_events);
        return;
    }

    ngx_queue_init(&told);

    rc = ngx_http_infer_lane_receive(redis, &told);

    if (rc == INFER_OK) {
        rc = redis->lane_rc;
    }

    if (rc == INFER_OK) {
        until = infer_redis_lane_until_us(redis->lane);

        if (until && infer_now_us() >= until) {
            rc = INFER_BUSY;
        }
    }

    if (rc == INFER_OK && ngx_handle_read_event(rev, 0) != NGX_OK) {
        rc = INFER_AGAIN;
    }

    if (rc != INFER_OK) {
        ngx_http_infer_lane_end(redis, rc, &told);

    } else if (ngx_queue_empty(&redis->lane_jobs)
               && (c->close || ngx_exiting))
    {
        ngx_http_infer_lane_close(redis);

    } else {
        ngx_http_infer_lane_timer(redis);
    }

    ngx_http_infer_lane_tell(&told);
}


/* Much is taken in turns with other events. OK; else as of
 * infer_redis_lane_end(). */

static int
ngx_http_infer_lane_receive(ngx_http_infer_redis_t *redis, ngx_queue_t *told)
{
    int                rc;
    u_char             buf[NGX_HTTP_INFER_LANE_READ];
    ssize_t            n;
    ngx_uint_t         i;
    ngx_connection_t  *c;

    c = redis->lane_conn;

    for (i = 0; i < NGX_HTTP_INFER_LANE_READS; i++) {

        n = c->recv(c, buf, sizeof(buf));

        if (n == NGX_AGAIN) {
            return INFER_OK;
        }

        if (n <= 0) {
            return INFER_AGAIN;
        }

        rc = infer_redis_lane_feed(redis->lane, buf, (size_t) n);

        if (rc == INFER_OK) {
            rc = ngx_http_infer_lane_pop(redis, told);
        }

        if (rc != INFER_OK || !c->read->ready) {
            return rc;
        }
    }

    ngx_post_event(c->read, &ngx_posted_next_events);

    return INFER_OK;
}


static int
ngx_http_infer_lane_pop(ngx_http_infer_redis_t *redis, ngx_queue_t *told)
{
    int                          rc;
    uint64_t                     now;
    ngx_queue_t                 *q;
    infer_redis_got_t            got;
    ngx_http_infer_redis_job_t  *job;

    now = infer_now_us();

    for ( ;; ) {
        rc = infer_redis_lane_pop(redis->lane, now, &got);

        if (rc != INFER_OK) {
            return (rc == INFER_AGAIN) ? INFER_OK : rc;
        }

        q = ngx_queue_head(&redis->lane_jobs);
        ngx_queue_remove(q);
        ngx_queue_insert_tail(told, q);

        job = ngx_queue_data(q, ngx_http_infer_redis_job_t, queue);
        job->got = got;
        job->rc = (got.rc == INFER_BUSY) ? INFER_BUSY : INFER_OK;

        if (job->rc == INFER_OK) {
            (void) atomic_fetch_add(&redis->shm->lane, 1);

        } else {
            ngx_http_infer_redis_warn(redis);
        }
    }
}


static void
ngx_http_infer_lane_end(ngx_http_infer_redis_t *redis, int rc,
    ngx_queue_t *told)
{
    uint32_t                     n;
    ngx_queue_t                 *q;
    ngx_http_infer_redis_job_t  *job;

    n = infer_redis_lane_end(redis->lane, rc, infer_now_us());

    if (n) {
        ngx_http_infer_redis_warn(redis);
    }

    while (!ngx_queue_empty(&redis->lane_jobs)) {
        q = ngx_queue_head(&redis->lane_jobs);
        ngx_queue_remove(q);
        ngx_queue_insert_tail(told, q);

        job = ngx_queue_data(q, ngx_http_infer_redis_job_t, queue);
        job->rc = n ? INFER_BUSY : INFER_AGAIN;
        n -= (n != 0);
    }

    ngx_http_infer_lane_close(redis);
}


/* Runs for the one that waits longest; a worker that leaves waits for it. */

static void
ngx_http_infer_lane_timer(ngx_http_infer_redis_t *redis)
{
    uint64_t      now, until;
    ngx_event_t  *rev;

    rev = redis->lane_conn->read;
    until = infer_redis_lane_until_us(redis->lane);
    redis->lane_conn->idle = (until == 0);

    if (until == 0) {

        if (rev->timer_set) {
            ngx_del_timer(rev);
        }

        return;
    }

    if (!rev->timer_set) {
        now = infer_now_us();
        ngx_add_timer(rev, (ngx_msec_t) (until > now
                                         ? (until - now) / 1000 + 1 : 1));
    }
}


/* These may ask again, or be the last that the worker waits for. */

static void
ngx_http_infer_lane_tell(ngx_queue_t *told)
{
    ngx_queue_t                 *q;
    ngx_http_infer_redis_job_t  *job;

    while (!ngx_queue_empty(told)) {
        q = ngx_queue_head(told);
        ngx_queue_remove(q);

        job = ngx_queue_data(q, ngx_http_infer_redis_job_t, queue);
        job->told(job);
    }
}


void
ngx_http_infer_lane_exit(ngx_http_infer_redis_t *redis)
{
    ngx_queue_t                 *q;
    ngx_http_infer_redis_job_t  *job;

    if (redis->lane == NULL) {
        return;
    }

    while (!ngx_queue_empty(&redis->lane_jobs)) {
        q = ngx_queue_head(&redis->lane_jobs);
        ngx_queue_remove(q);

        job = ngx_queue_data(q, ngx_http_infer_redis_job_t, queue);
        job->owner = NULL;
        job->rc = INFER_BUSY;
        job->told(job);
    }

    ngx_http_infer_lane_close(redis);
}
