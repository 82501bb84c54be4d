
/*
 * What the second tier does in threads, and how it is asked to: an answer
 * read, with the lock of infer_cache_lock where it is wanted; that lock kept
 * and given back; what a generation made, written. Where the lane reads, there
 * is no thread, but for that lock, for counters that have to begin, and for
 * large values.
 */


#include "ngx_http_infer_request.h"
#include "ngx_http_infer_cache_redis.h"


#define NGX_HTTP_INFER_L2_SKEW       60000     /* ms between nodes' clocks */

/* bytes of a value that is opened in the event loop: 64 KiB take 38 us, 105
 * with zstd, 1 KiB takes 1.3 (EPYC Zen 1), a hop to a thread 25 */

#define NGX_HTTP_INFER_L2_SMALL      65536


static void ngx_http_infer_l2_got(ngx_http_infer_redis_job_t *rj);
static ngx_http_infer_redis_run_pt ngx_http_infer_l2_rest(
    ngx_http_infer_l2_job_t *job);
static void ngx_http_infer_l2_open_run(ngx_http_infer_redis_job_t *rj);
static void ngx_http_infer_l2_lock_run(ngx_http_infer_redis_job_t *rj);
static void ngx_http_infer_l2_get(ngx_http_infer_l2_job_t *job);
static void ngx_http_infer_l2_open(ngx_http_infer_l2_job_t *job, size_t len);
static void ngx_http_infer_l2_lock(ngx_http_infer_l2_job_t *job);
static void ngx_http_infer_l2_drop(ngx_http_infer_l2_job_t *job);
static void ngx_http_infer_l2_owner_run(ngx_http_infer_redis_job_t *rj);
static void ngx_http_infer_l2_write(ngx_http_infer_redis_job_t *rj);
static void ngx_http_infer_l2_write_done(ngx_http_infer_redis_job_t *rj);


ngx_int_t
ngx_http_infer_l2_post(ngx_http_infer_l2_job_t *job)
{
    const char  *counter[2];

    counter[0] = job->name.tag[0] ? job->name.tag : NULL;
    counter[1] = job->name.all;

    if (ngx_http_infer_lane_get(&job->job, job->name.key, counter,
                                ngx_http_infer_l2_got)
        == NGX_OK)
    {
        return NGX_OK;
    }

    return ngx_http_infer_redis_post(&job->job);
}


/* What the lane brought; what is left to do, if anything, a thread does. */

static void
ngx_http_infer_l2_got(ngx_http_infer_redis_job_t *rj)
{
    ngx_http_infer_l2_job_t *job = (ngx_http_infer_l2_job_t *) rj;

    job->data = rj->got.value;
    rj->got.value = NULL;

    if (rj->owner == NULL) {
        ngx_http_infer_l2_free(rj);
        return;
    }

    if (rj->rc != INFER_BUSY) {

        rj->run = ngx_http_infer_l2_rest(job);
        rj->rc = INFER_OK;

        if (rj->run) {

            if (ngx_http_infer_redis_post(rj) == NGX_OK) {
                return;
            }

            rj->rc = INFER_BUSY;
        }
    }

    rj->done(rj);
}


static ngx_http_infer_redis_run_pt
ngx_http_infer_l2_rest(ngx_http_infer_l2_job_t *job)
{
    infer_redis_got_t  *got;

    got = &job->job.got;

    if (job->job.rc == INFER_AGAIN || got->count[1] == 0
        || (job->name.tag[0] && got->count[0] == 0))
    {
        ngx_http_infer_l2_drop(job);
        return ngx_http_infer_l2_read;
    }

    job->epoch[0] = got->count[0];
    job->epoch[1] = got->count[1];
    job->found = NGX_HTTP_INFER_L2_MISS;

    if (got->rc == INFER_OK) {

        if (infer_seal_size(job->data, got->len) > NGX_HTTP_INFER_L2_SMALL) {
            return ngx_http_infer_l2_open_run;
        }

        ngx_http_infer_l2_open(job, got->len);
    }

    return (job->lock && job->found != NGX_HTTP_INFER_L2_HIT)
           ? ngx_http_infer_l2_lock_run : NULL;
}


/* in a thread, as all that follow */

static void
ngx_http_infer_l2_open_run(ngx_http_infer_redis_job_t *rj)
{
    ngx_http_infer_l2_job_t *job = (ngx_http_infer_l2_job_t *) rj;

    ngx_http_infer_l2_open(job, rj->got.len);
    ngx_http_infer_l2_lock_run(rj);
}


static void
ngx_http_infer_l2_lock_run(ngx_http_infer_redis_job_t *rj)
{
    ngx_http_infer_l2_job_t *job = (ngx_http_infer_l2_job_t *) rj;

    if (job->lock && rj->rc == INFER_OK
        && job->found != NGX_HTTP_INFER_L2_HIT)
    {
        ngx_http_infer_l2_lock(job);
    }
}


void
ngx_http_infer_l2_read(ngx_http_infer_redis_job_t *rj)
{
    ngx_http_infer_l2_job_t *job = (ngx_http_infer_l2_job_t *) rj;

    ngx_http_infer_l2_get(job);
    ngx_http_infer_l2_lock_run(rj);
}


static void
ngx_http_infer_l2_get(ngx_http_infer_l2_job_t *job)
{
    int              rc;
    size_t           len;
    const char      *counter[2];
    infer_redis_t   *client;

    client = job->job.redis->client;

    counter[0] = job->name.tag[0] ? job->name.tag : NULL;
    counter[1] = job->name.all;
    ngx_memzero(job->epoch, sizeof(job->epoch));
    job->data = NULL;
    job->found = NGX_HTTP_INFER_L2_MISS;

    rc = infer_redis_get(client, job->name.key, counter, &job->data, &len,
                         job->epoch);

    if (rc != INFER_OK && rc != INFER_AGAIN) {
        job->job.rc = rc;
        return;
    }

    job->job.rc = ngx_http_infer_redis_begin(client, counter, job->epoch);

    if (rc == INFER_OK) {
        ngx_http_infer_l2_open(job, len);
    }
}


static void
ngx_http_infer_l2_open(ngx_http_infer_l2_job_t *job, size_t len)
{
    uint64_t         now;
    infer_sealed_t  *s;

    s = &job->sealed;

    ngx_memzero(s, sizeof(infer_sealed_t));
    s->key = job->name.key;
    s->ident = job->ident.data;
    s->ident_len = job->ident.len;

    if (infer_seal_open(s, job->job.redis->secret, job->data, len, job->max)
        != INFER_OK)
    {
        ngx_http_infer_l2_drop(job);
        job->found = NGX_HTTP_INFER_L2_FOREIGN;
        return;
    }

    now = ngx_http_infer_redis_wall_us() / 1000;

    if (s->epoch[0] != job->epoch[0] || s->epoch[1] != job->epoch[1]
        || s->created_ms > now + NGX_HTTP_INFER_L2_SKEW
        || s->created_ms + s->fresh_ms + s->stale_ms <= now)
    {
        ngx_http_infer_l2_drop(job);
        job->found = NGX_HTTP_INFER_L2_OUTDATED;
        return;
    }

    job->found = (s->created_ms + s->fresh_ms > now) ? NGX_HTTP_INFER_L2_HIT
                                                     : NGX_HTTP_INFER_L2_OLD;
}


/* What an answer that is being made was made under. */

void
ngx_http_infer_l2_epochs(ngx_http_infer_redis_job_t *rj)
{
    ngx_http_infer_l2_job_t *job = (ngx_http_infer_l2_job_t *) rj;

    int              rc;
    void            *value;
    size_t           len;
    const char      *counter[2];
    infer_redis_t   *client;

    client = rj->redis->client;

    counter[0] = job->name.tag[0] ? job->name.tag : NULL;
    counter[1] = job->name.all;
    value = NULL;

    rc = infer_redis_get(client, job->name.all, counter, &value, &len,
                         job->epoch);
    free(value);

    if (rc == INFER_OK || rc == INFER_AGAIN) {
        rc = ngx_http_infer_redis_begin(client, counter, job->epoch);
    }

    rj->rc = rc;
}


/* Ours: another look, since it may have been stored and given back. */

static void
ngx_http_infer_l2_lock(ngx_http_infer_l2_job_t *job)
{
    int              rc;
    infer_redis_t   *client;

    client = job->job.redis->client;

    rc = infer_redis_lock(client, job->name.lock, job->name.owner,
                          NGX_HTTP_INFER_L2_LOCK);

    if (rc == INFER_OK) {
        ngx_http_infer_l2_drop(job);
        ngx_http_infer_l2_get(job);

        if (job->job.rc == INFER_OK && job->found != NGX_HTTP_INFER_L2_HIT) {
            job->locked = 1;
            return;
        }

        (void) infer_redis_unlock(client, job->name.lock, job->name.owner);

    } else if (rc != INFER_AGAIN) {

        /* nobody can say who has it */

        job->lock = 0;
    }
}


static void
ngx_http_infer_l2_drop(ngx_http_infer_l2_job_t *job)
{
    free(job->sealed.memory);
    free(job->data);

    job->sealed.memory = NULL;
    job->data = NULL;
}


void
ngx_http_infer_l2_beat(ngx_http_infer_ctx_t *ctx)
{
    ngx_http_infer_l2_t  *l2;

    l2 = ctx->cache->l2;

    /* when it cannot be renewed, it runs out, and others go on */

    (void) ngx_http_infer_l2_owner(l2, 1);

    ngx_add_timer(&l2->timer, NGX_HTTP_INFER_L2_BEAT);
}


void
ngx_http_infer_l2_unlock(ngx_http_infer_l2_t *l2)
{
    if (l2->timer.timer_set) {
        ngx_del_timer(&l2->timer);
    }

    if (l2->locked) {
        l2->locked = 0;
        (void) ngx_http_infer_l2_owner(l2, 0);
    }
}


/* Renews or gives back our lock. */

ngx_int_t
ngx_http_infer_l2_owner(ngx_http_infer_l2_t *l2, ngx_uint_t renew)
{
    ngx_http_infer_l2_job_t  *job;

    job = ngx_http_infer_redis_job(l2->redis, sizeof(ngx_http_infer_l2_job_t),
                                   ngx_http_infer_l2_owner_run,
                                   ngx_http_infer_l2_free);
    if (job == NULL) {
        return NGX_ERROR;
    }

    job->name = l2->name;
    job->renew = renew;

    if (ngx_http_infer_redis_post(&job->job) != NGX_OK) {
        ngx_free(job);
        return NGX_BUSY;
    }

    return NGX_OK;
}


/* in a thread */

static void
ngx_http_infer_l2_owner_run(ngx_http_infer_redis_job_t *rj)
{
    ngx_http_infer_l2_job_t *job = (ngx_http_infer_l2_job_t *) rj;

    if (job->renew) {
        rj->rc = infer_redis_renew(rj->redis->client, job->name.lock,
                                   job->name.owner, NGX_HTTP_INFER_L2_LOCK);
        return;
    }

    rj->rc = infer_redis_unlock(rj->redis->client, job->name.lock,
                                job->name.owner);
}


/* 1: what this request generates is to be written. One that another stored in
 * the first tier is still ours to write when we began it. */

ngx_uint_t
ngx_http_infer_cache_redis_due(ngx_http_infer_ctx_t *ctx, ngx_uint_t landed)
{
    ngx_http_infer_l2_t  *l2;

    l2 = ctx->cache->l2;

    return l2 && (l2->known || l2->job)
           && (landed || !ctx->choices[0].joined);
}


/*
 * Takes the value; the epochs that it was made under may still be on their
 * way here.
 */

void
ngx_http_infer_cache_redis_put(ngx_http_infer_ctx_t *ctx, infer_buf_t *value,
    ngx_msec_t fresh, ngx_msec_t stale)
{
    ngx_http_infer_l2_t      *l2;
    ngx_http_infer_l2_job_t  *job;

    l2 = ctx->cache->l2;

    if (fresh == 0) {
        return;
    }

    job = ngx_http_infer_redis_job(l2->redis, sizeof(ngx_http_infer_l2_job_t),
                                   ngx_http_infer_l2_write,
                                   ngx_http_infer_l2_write_done);
    if (job == NULL) {
        return;
    }

    job->job.write = 1;
    job->name = l2->name;
    job->ident = ctx->cache->ident;
    job->epoch[0] = l2->epoch[0];
    job->epoch[1] = l2->epoch[1];
    job->value = *value;
    job->fresh_ms = fresh;
    job->stale_ms = stale;
    job->locked = l2->locked;

    ngx_memzero(value, sizeof(infer_buf_t));
    ngx_memzero(&ctx->cache->ident, sizeof(infer_buf_t));

    if (!l2->known) {
        l2->job->next = job;
        return;
    }

    if (ngx_http_infer_l2_post_write(job) == NGX_OK) {

        /* the job gives it back, after it has written */

        l2->locked = 0;
        ngx_http_infer_l2_unlock(l2);
    }
}


/* Nobody waits: when too many are under way, it is not. */

ngx_int_t
ngx_http_infer_l2_post_write(ngx_http_infer_l2_job_t *job)
{
    if (ngx_http_infer_redis_post(&job->job) != NGX_OK) {
        (void) atomic_fetch_add(&job->job.redis->shm->dropped, 1);
        ngx_http_infer_l2_free(&job->job);
        return NGX_BUSY;
    }

    return NGX_OK;
}


/* in a thread */

static void
ngx_http_infer_l2_write(ngx_http_infer_redis_job_t *rj)
{
    ngx_http_infer_l2_job_t *job = (ngx_http_infer_l2_job_t *) rj;

    uint64_t        ttl;
    infer_buf_t     out;
    infer_sealed_t  s;

    ngx_memzero(&s, sizeof(infer_sealed_t));
    ngx_memzero(&out, sizeof(infer_buf_t));

    s.key = job->name.key;
    s.created_ms = ngx_http_infer_redis_wall_us() / 1000;
    s.fresh_ms = job->fresh_ms;
    s.stale_ms = job->stale_ms;
    s.epoch[0] = job->epoch[0];
    s.epoch[1] = job->epoch[1];
    s.ident = job->ident.data;
    s.ident_len = job->ident.len;
    s.value = job->value.data;
    s.value_len = job->value.len;

    rj->rc = infer_seal(&out, rj->redis->secret, &s, (int) rj->redis->level);

    if (rj->rc == INFER_OK) {
        ttl = ngx_min(job->fresh_ms + job->stale_ms, INFER_REDIS_MAX_TTL_MS);
        rj->rc = infer_redis_set(rj->redis->client, job->name.key, out.data,
                                 out.len, ttl);
    }

    infer_buf_free(&out);

    if (job->locked) {
        (void) infer_redis_unlock(rj->redis->client, job->name.lock,
                                  job->name.owner);
    }
}


static void
ngx_http_infer_l2_write_done(ngx_http_infer_redis_job_t *rj)
{
    (void) atomic_fetch_add(rj->rc == INFER_OK ? &rj->redis->shm->stores
                                               : &rj->redis->shm->store_errors,
                            1);

    ngx_http_infer_l2_free(rj);
}


void
ngx_http_infer_l2_free(ngx_http_infer_redis_job_t *rj)
{
    ngx_http_infer_l2_job_t *job = (ngx_http_infer_l2_job_t *) rj;

    ngx_http_infer_l2_drop(job);
    infer_buf_free(&job->ident);
    infer_buf_free(&job->value);
    ngx_free(job);
}
