
/*
 * Jobs in the thread pool of an infer_redis: bounded in number, given up when
 * they waited too long, refused while no server is to be asked. And what all
 * of them need: the process's client, names of keys, counters.
 */


#include "ngx_http_infer_module.h"


/* jobs under way, for each thread */

#define NGX_HTTP_INFER_REDIS_READS   64
#define NGX_HTTP_INFER_REDIS_WRITES  16

#define NGX_HTTP_INFER_REDIS_WARN    10000     /* ms between records */


static infer_redis_t *ngx_http_infer_redis_client(
    ngx_http_infer_redis_t *redis);
static ngx_uint_t ngx_http_infer_redis_refused(ngx_http_infer_redis_t *redis);
static void ngx_http_infer_redis_run(void *data, ngx_log_t *log);
static void ngx_http_infer_redis_done(ngx_event_t *ev);
static int ngx_http_infer_redis_counter(infer_redis_t *client,
    const char *name, uint64_t *count);


void *
ngx_http_infer_redis_job(ngx_http_infer_redis_t *redis, size_t size,
    ngx_http_infer_redis_run_pt run, ngx_http_infer_redis_done_pt done)
{
    ngx_http_infer_redis_job_t  *job;

    job = ngx_calloc(size, ngx_cycle->log);

    if (job) {
        job->redis = redis;
        job->run = run;
        job->done = done;
    }

    return job;
}


ngx_int_t
ngx_http_infer_redis_post(ngx_http_infer_redis_job_t *job)
{
    ngx_uint_t               *n, max;
    ngx_http_infer_redis_t   *redis;

    redis = job->redis;

    if (ngx_http_infer_redis_client(redis) == NULL
        || ngx_http_infer_redis_refused(redis))
    {
        return NGX_BUSY;
    }

    n = job->write ? &redis->writes : &redis->reads;
    max = job->write ? NGX_HTTP_INFER_REDIS_WRITES
                     : NGX_HTTP_INFER_REDIS_READS;

    if (*n >= max * redis->conf.connections) {
        return NGX_BUSY;
    }

    job->posted_us = infer_now_us();

    job->task.ctx = job;
    job->task.handler = ngx_http_infer_redis_run;
    job->task.event.data = job;
    job->task.event.handler = ngx_http_infer_redis_done;
    job->task.event.log = ngx_cycle->log;

    if (ngx_thread_task_post(redis->thread_pool, &job->task) != NGX_OK) {
        return NGX_BUSY;
    }

    (*n)++;

    return NGX_OK;
}


static infer_redis_t *
ngx_http_infer_redis_client(ngx_http_infer_redis_t *redis)
{
    if (redis->pid != ngx_pid) {

        redis->client = NULL;
        redis->reads = 0;
        redis->writes = 0;
        redis->lane = NULL;

        if (infer_redis_new(&redis->client, &redis->conf, &redis->shm->client)
            != INFER_OK)
        {
            return NULL;
        }

        redis->pid = ngx_pid;
    }

    return redis->client;
}


/* All breakers are open: not worth a hop. The client knows a cluster's. */

static ngx_uint_t
ngx_http_infer_redis_refused(ngx_http_infer_redis_t *redis)
{
    uint32_t  i;
    uint64_t  now;

    if (redis->conf.cluster || redis->conf.failures == 0) {
        return 0;
    }

    now = infer_now_us() / 1000;

    for (i = 0; i < redis->conf.n_servers; i++) {
        if (infer_redis_breaker(&redis->shm->client, i, now) != 1) {
            return 0;
        }
    }

    return 1;
}


/* in a thread */

static void
ngx_http_infer_redis_run(void *data, ngx_log_t *log)
{
    ngx_http_infer_redis_job_t *job = data;

    /* behind others that wait for a frozen server: a request pays once */

    if (!job->write
        && infer_now_us() - job->posted_us
           > (uint64_t) job->redis->conf.command_ms * 1000)
    {
        job->rc = INFER_BUSY;
        return;
    }

    job->run(job);
}


static void
ngx_http_infer_redis_done(ngx_event_t *ev)
{
    ngx_http_infer_redis_t      *redis;
    ngx_http_infer_redis_job_t  *job;

    job = ev->data;
    redis = job->redis;

    if (job->write) {
        redis->writes--;

    } else {
        redis->reads--;
    }

    if (job->rc == INFER_BUSY) {
        ngx_http_infer_redis_warn(redis);

    } else if (redis->lane == NULL) {
        ngx_http_infer_lane_take(redis);
    }

    job->done(job);
}


void
ngx_http_infer_redis_warn(ngx_http_infer_redis_t *redis)
{
    uint64_t  now, last;

    now = infer_now_us() / 1000;
    last = atomic_load(&redis->shm->warned_ms);

    if (last && now - last < NGX_HTTP_INFER_REDIS_WARN) {
        return;
    }

    if (atomic_compare_exchange_strong(&redis->shm->warned_ms, &last, now)) {
        ngx_log_error(NGX_LOG_WARN, ngx_cycle->log, 0,
                      "infer redis \"%V\" does not answer: %s; going on "
                      "without it", &redis->name,
                      infer_redis_why(atomic_load(&redis->shm->client.why)));
    }
}


uint64_t
ngx_http_infer_redis_wall_us(void)
{
    struct timespec  ts;

    (void) clock_gettime(CLOCK_REALTIME, &ts);

    return (uint64_t) ts.tv_sec * 1000000 + ts.tv_nsec / 1000;
}


u_char *
ngx_http_infer_redis_name(char *dst, u_char kind, u_char *id)
{
    u_char  *p;

    p = ngx_sprintf((u_char *) dst, "infer:%c:", kind);
    p = ngx_hex_dump(p, id, INFER_STORE_KEY);
    *p = '\0';

    return p;
}


/*
 * A counter begins at the time of day, so that one that was lost (FLUSHALL,
 * an eviction, a new server) never comes back to a value that it had, and
 * nothing made under an old value is good again.
 */

int
ngx_http_infer_redis_begin(infer_redis_t *client,
    const char *const counter[2], uint64_t count[2])
{
    int         rc;
    char        now[NGX_INT64_LEN + 1];
    ngx_uint_t  i;

    for (i = 0; i < 2; i++) {

        if (counter[i] == NULL || count[i]) {
            continue;
        }

        count[i] = ngx_http_infer_redis_wall_us();
        *ngx_sprintf((u_char *) now, "%uL", count[i]) = '\0';

        rc = infer_redis_lock(client, counter[i], now,
                              NGX_HTTP_INFER_REDIS_YEARS);

        if (rc == INFER_AGAIN) {
            rc = ngx_http_infer_redis_counter(client, counter[i], &count[i]);
        }

        if (rc != INFER_OK) {
            return rc;
        }
    }

    return INFER_OK;
}


/* Another was quicker to begin it. */

static int
ngx_http_infer_redis_counter(infer_redis_t *client, const char *name,
    uint64_t *count)
{
    int          rc;
    void        *value;
    size_t       len;
    uint64_t     n[2];
    const char  *counter[2];

    counter[0] = name;
    counter[1] = NULL;
    value = NULL;

    rc = infer_redis_get(client, name, counter, &value, &len, n);

    if (rc != INFER_OK) {
        return rc == INFER_AGAIN ? INFER_BUSY : rc;
    }

    free(value);
    *count = n[0];

    return n[0] ? INFER_OK : INFER_BUSY;
}


/* No job is under way: nginx ends its threads before. */

void
ngx_http_infer_redis_exit(void *main)
{
    ngx_http_infer_main_conf_t *imcf = main;

    ngx_uint_t                i;
    ngx_http_infer_redis_t  **redis;

    redis = imcf->redis.elts;

    for (i = 0; i < imcf->redis.nelts; i++) {

        if (redis[i]->client && redis[i]->pid == ngx_pid) {
            ngx_http_infer_lane_exit(redis[i]);
            infer_redis_free(redis[i]->client);
            redis[i]->client = NULL;
            redis[i]->pid = 0;
        }
    }
}
