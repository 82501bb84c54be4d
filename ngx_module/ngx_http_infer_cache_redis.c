
/*
 * The response cache's second tier: what the first one does not have is asked
 * for in Redis, by the lane or by one job in a thread, and what a generation
 * made is written there, by one that nobody waits for. With infer_cache_lock,
 * of several nodes that miss one generates, the others ask again now and then,
 * by timers.
 *
 * A value is good when it opens under the secret, for this very request, and
 * was made under the epochs that Redis has now; what is written has those that
 * were read before its generation began, or, where nobody waits for Redis
 * (requests that ask past the cache, refreshes of a hit), just after.
 */


#include "ngx_http_infer_request.h"
#include "ngx_http_infer_cache_redis.h"

#include "cache/answer.h"

#include <ngx_sha1.h>


#define NGX_HTTP_INFER_L2_PAUSE      20        /* ms between looks, at first */
#define NGX_HTTP_INFER_L2_PAUSE_MAX  200


static ngx_int_t ngx_http_infer_l2_prepare(ngx_http_infer_ctx_t *ctx);
static void ngx_http_infer_l2_names(ngx_http_infer_ctx_t *ctx,
    ngx_http_infer_l2_t *l2);
static void ngx_http_infer_l2_begin(ngx_http_infer_ctx_t *ctx,
    ngx_http_infer_l2_t *l2);
static void ngx_http_infer_l2_begin_done(ngx_http_infer_redis_job_t *rj);
static ngx_int_t ngx_http_infer_l2_ask(ngx_http_infer_ctx_t *ctx);
static void ngx_http_infer_l2_read_done(ngx_http_infer_redis_job_t *rj);
static void ngx_http_infer_l2_count(ngx_http_infer_l2_job_t *job);
static ngx_int_t ngx_http_infer_l2_answer(ngx_http_infer_ctx_t *ctx,
    ngx_http_infer_l2_job_t *job);
static ngx_int_t ngx_http_infer_l2_hit(ngx_http_infer_ctx_t *ctx,
    ngx_http_infer_l2_job_t *job);
static void ngx_http_infer_l2_keep(ngx_http_infer_ctx_t *ctx,
    infer_store_get_t *g);
static void ngx_http_infer_l2_old(ngx_http_infer_ctx_t *ctx,
    ngx_http_infer_l2_job_t *job);
static ngx_int_t ngx_http_infer_l2_look(ngx_http_infer_ctx_t *ctx);
static ngx_int_t ngx_http_infer_l2_wait(ngx_http_infer_ctx_t *ctx);
static void ngx_http_infer_l2_end(ngx_http_infer_ctx_t *ctx, ngx_int_t rc);
static void ngx_http_infer_l2_timer(ngx_event_t *ev);


/*
 * 1: the location has a second tier, and the model is the same one on all
 * nodes: the file's content, how it is computed with, the cache by its name;
 * the tag, so that a purge of one meets only its own. The scope is hashed
 * under the nodes' secret anyway.
 */

ngx_uint_t
ngx_http_infer_cache_redis_space(ngx_http_infer_ctx_t *ctx,
    ngx_http_infer_cache_conf_t *ccf, uint64_t tag, u_char *model)
{
    uint32_t            how[3];
    ngx_sha1_t          sha1;
    infer_bus_model_t  *bm;

    bm = &ctx->bus->bus.model[ctx->model->index];

    if (ccf->redis == NULL
        || !atomic_load_explicit(&bm->content_known, memory_order_acquire))
    {
        return 0;
    }

    how[0] = (ngx_strncmp(bm->device, "cuda", 4) == 0);
    how[1] = bm->precision;
    how[2] = bm->kv_type;

    ngx_sha1_init(&sha1);
    ngx_sha1_update(&sha1, bm->content, sizeof(bm->content));
    ngx_sha1_update(&sha1, how, sizeof(how));
    ngx_sha1_update(&sha1, ccf->cache->redis_id, INFER_STORE_KEY);
    ngx_sha1_update(&sha1, &tag, sizeof(tag));
    ngx_sha1_final(model, &sha1);

    return 1;
}


/* The first tier has nothing. DONE: this one is being asked; else as
 * ngx_http_infer_cache_missed(). */

ngx_int_t
ngx_http_infer_cache_redis(ngx_http_infer_ctx_t *ctx)
{
    ngx_http_infer_l2_t         *l2;
    ngx_http_infer_cache_ctx_t  *cc;

    cc = ctx->cache;

    if (cc == NULL || !cc->shared) {
        return NGX_DECLINED;
    }

    if (!cc->lookup) {

        if (cc->store) {
            l2 = ngx_pcalloc(ctx->request->pool, sizeof(ngx_http_infer_l2_t));
            ngx_http_infer_l2_begin(ctx, l2);
        }

        return NGX_DECLINED;
    }

    if (ngx_http_infer_l2_prepare(ctx) == NGX_OK
        && ngx_http_infer_l2_ask(ctx) == NGX_DONE)
    {
        return NGX_DONE;
    }

    return ngx_http_infer_cache_missed(ctx);
}


static ngx_int_t
ngx_http_infer_l2_prepare(ngx_http_infer_ctx_t *ctx)
{
    u_char                      random[16];
    ngx_http_infer_l2_t        *l2;

    l2 = ngx_pcalloc(ctx->request->pool, sizeof(ngx_http_infer_l2_t));
    if (l2 == NULL) {
        return NGX_ERROR;
    }

    ngx_http_infer_l2_names(ctx, l2);

    l2->pause = NGX_HTTP_INFER_L2_PAUSE;

    l2->timer.handler = ngx_http_infer_l2_timer;
    l2->timer.data = ctx;
    l2->timer.log = ctx->request->connection->log;

    if (ctx->cache->conf->lock_ms) {
        ngx_http_infer_random(random, sizeof(random));
        *ngx_hex_dump((u_char *) l2->name.owner, random, sizeof(random))
            = '\0';

        l2->until_us = infer_now_us() + 1000ull * ctx->cache->conf->lock_ms;
    }

    return NGX_OK;
}


/* l2 becomes the request's. */

static void
ngx_http_infer_l2_names(ngx_http_infer_ctx_t *ctx, ngx_http_infer_l2_t *l2)
{
    ngx_http_infer_cache_t  *cache;

    cache = ctx->cache->conf->cache;

    ctx->cache->l2 = l2;
    l2->redis = ctx->cache->conf->redis;

    ngx_http_infer_redis_name(l2->name.key, NGX_HTTP_INFER_REDIS_VALUE,
                              ctx->cache->log_key);
    ngx_http_infer_redis_name(l2->name.lock, NGX_HTTP_INFER_REDIS_LOCK,
                              ctx->cache->log_key);
    ngx_http_infer_redis_name(l2->name.all, NGX_HTTP_INFER_REDIS_EPOCH,
                              cache->redis_id);

    if (ctx->cache->tag) {
        ngx_http_infer_redis_tag(cache, ctx->cache->tag, l2->name.tag);
    }
}


/*
 * An answer is going to be made that this tier was not asked for. Nobody waits
 * for the epochs that it is made under: it may be complete before. l2: zeroed,
 * or NULL.
 */

static void
ngx_http_infer_l2_begin(ngx_http_infer_ctx_t *ctx, ngx_http_infer_l2_t *l2)
{
    ngx_http_infer_l2_job_t  *job;

    if (l2 == NULL) {
        return;
    }

    ngx_http_infer_l2_names(ctx, l2);

    job = ngx_http_infer_redis_job(l2->redis, sizeof(ngx_http_infer_l2_job_t),
                                   ngx_http_infer_l2_epochs,
                                   ngx_http_infer_l2_begin_done);
    if (job == NULL) {
        return;
    }

    job->name = l2->name;
    job->job.owner = l2;

    if (ngx_http_infer_redis_post(&job->job) != NGX_OK) {
        (void) atomic_fetch_add(&l2->redis->shm->errors, 1);
        ngx_free(job);
        return;
    }

    l2->job = job;
}


static void
ngx_http_infer_l2_begin_done(ngx_http_infer_redis_job_t *rj)
{
    ngx_http_infer_l2_job_t *job = (ngx_http_infer_l2_job_t *) rj;

    ngx_http_infer_l2_t      *l2;
    ngx_http_infer_l2_job_t  *next;

    l2 = rj->owner;
    next = job->next;

    if (rj->rc != INFER_OK) {
        (void) atomic_fetch_add(&rj->redis->shm->errors, 1);

        if (next) {
            (void) atomic_fetch_add(&rj->redis->shm->dropped, 1);
            ngx_http_infer_l2_free(&next->job);
        }

    } else if (next) {
        next->epoch[0] = job->epoch[0];
        next->epoch[1] = job->epoch[1];
        (void) ngx_http_infer_l2_post_write(next);
    }

    if (l2) {
        l2->job = NULL;
        l2->epoch[0] = job->epoch[0];
        l2->epoch[1] = job->epoch[1];
        l2->known = (rj->rc == INFER_OK);
    }

    ngx_http_infer_l2_free(rj);
}


static ngx_int_t
ngx_http_infer_l2_ask(ngx_http_infer_ctx_t *ctx)
{
    ngx_http_infer_l2_t        *l2;
    ngx_http_infer_l2_job_t    *job;

    l2 = ctx->cache->l2;
    job = ngx_http_infer_redis_job(l2->redis, sizeof(ngx_http_infer_l2_job_t),
                                   ngx_http_infer_l2_read,
                                   ngx_http_infer_l2_read_done);
    if (job == NULL) {
        return NGX_DECLINED;
    }

    job->name = l2->name;
    job->max = ctx->cache->conf->max_size;
    job->lock = (l2->until_us != 0);
    job->job.owner = ctx;

    /* the ident is the job's until it is done */

    job->ident = ctx->cache->ident;
    ngx_memzero(&ctx->cache->ident, sizeof(infer_buf_t));

    l2->purges = atomic_load(&ctx->cache->conf->cache->shm->purges);

    if (ngx_http_infer_l2_post(job) != NGX_OK) {
        (void) atomic_fetch_add(&l2->redis->shm->errors, 1);
        ctx->cache->ident = job->ident;
        ngx_free(job);
        return NGX_DECLINED;
    }

    l2->job = job;

    return NGX_DONE;
}


static void
ngx_http_infer_l2_read_done(ngx_http_infer_redis_job_t *rj)
{
    ngx_http_infer_l2_job_t *job = (ngx_http_infer_l2_job_t *) rj;

    ngx_int_t              rc;
    ngx_http_infer_ctx_t  *ctx;
    ngx_http_infer_l2_t   *l2, gone;

    ngx_http_infer_l2_count(job);

    ctx = rj->owner;

    if (ctx == NULL) {

        if (job->locked) {
            ngx_memzero(&gone, sizeof(ngx_http_infer_l2_t));
            gone.redis = rj->redis;
            gone.name = job->name;
            (void) ngx_http_infer_l2_owner(&gone, 0);
        }

        ngx_http_infer_l2_free(rj);
        return;
    }

    l2 = ctx->cache->l2;
    l2->job = NULL;
    ctx->cache->ident = job->ident;
    ngx_memzero(&job->ident, sizeof(infer_buf_t));

    ngx_http_set_log_request(ctx->request->connection->log, ctx->request);

    rc = ngx_http_infer_l2_answer(ctx, job);

    ngx_http_infer_l2_free(rj);
    ngx_http_infer_l2_end(ctx, rc);
}


static void
ngx_http_infer_l2_count(ngx_http_infer_l2_job_t *job)
{
    ngx_http_infer_redis_shm_t  *shm;

    shm = job->job.redis->shm;

    if (job->job.rc != INFER_OK) {
        (void) atomic_fetch_add(&shm->errors, 1);
        return;
    }

    switch (job->found) {

    case NGX_HTTP_INFER_L2_HIT:
        (void) atomic_fetch_add(&shm->hits, 1);
        return;

    case NGX_HTTP_INFER_L2_FOREIGN:
        (void) atomic_fetch_add(&shm->foreign, 1);
        break;

    case NGX_HTTP_INFER_L2_OUTDATED:
        (void) atomic_fetch_add(&shm->outdated, 1);
        break;

    default: /* NGX_HTTP_INFER_L2_MISS */
        break;
    }

    (void) atomic_fetch_add(&shm->misses, 1);
}


/* DECLINED: to be generated here; DONE: under way; else it is answered. */

static ngx_int_t
ngx_http_infer_l2_answer(ngx_http_infer_ctx_t *ctx,
    ngx_http_infer_l2_job_t *job)
{
    ngx_int_t             rc;
    ngx_http_infer_l2_t  *l2;

    l2 = ctx->cache->l2;

    if (job->job.rc == INFER_OK) {
        l2->epoch[0] = job->epoch[0];
        l2->epoch[1] = job->epoch[1];
        l2->known = 1;
        l2->locked = job->locked;
    }

    if (job->found == NGX_HTTP_INFER_L2_HIT) {
        rc = ngx_http_infer_l2_hit(ctx, job);

        if (rc != NGX_DECLINED) {
            return rc;
        }

    } else if (job->found == NGX_HTTP_INFER_L2_OLD) {
        ngx_http_infer_l2_old(ctx, job);
    }

    rc = ngx_http_infer_l2_look(ctx);

    if (rc != NGX_DECLINED) {
        ngx_http_infer_l2_unlock(l2);
        return rc;
    }

    if (l2->locked) {
        ngx_add_timer(&l2->timer, NGX_HTTP_INFER_L2_BEAT);

    } else if (job->lock && job->job.rc == INFER_OK) {
        return ngx_http_infer_l2_wait(ctx);
    }

    return NGX_DECLINED;
}


static ngx_int_t
ngx_http_infer_l2_hit(ngx_http_infer_ctx_t *ctx, ngx_http_infer_l2_job_t *job)
{
    uint64_t                     now, end;
    infer_answer_t               answer;
    infer_sealed_t              *s;
    infer_store_get_t            g;

    s = &job->sealed;

    if (infer_answer_open(&answer, s->value, s->value_len,
                          ctx->req->n_prompts * ctx->req->n,
                          ctx->req->sampling.top_logprobs,
                          ctx->bus->bus.model[ctx->model->index].vocab)
        != INFER_OK)
    {
        (void) atomic_fetch_add(&job->job.redis->shm->foreign, 1);
        return NGX_DECLINED;
    }

    now = ngx_http_infer_redis_wall_us() / 1000;
    end = s->created_ms + s->fresh_ms;

    ngx_memzero(&g, sizeof(infer_store_get_t));
    g.value = (void *) s->value;
    g.value_len = s->value_len;
    g.age_ms = now > s->created_ms ? now - s->created_ms : 0;
    g.left_ms = end > now ? end - now : 1;

    ngx_http_infer_l2_keep(ctx, &g);

    ctx->cache->second = 1;

    return ngx_http_infer_cache_log(ctx, &g);
}


/*
 * Into the first tier, with the age that it has, unless that was purged since
 * we asked: then its page is not to be kept either.
 */

static void
ngx_http_infer_l2_keep(ngx_http_infer_ctx_t *ctx, infer_store_get_t *g)
{
    infer_store_t               *store;
    infer_store_put_t            p;
    ngx_http_infer_cache_t      *cache;
    ngx_http_infer_cache_ctx_t  *cc;

    cc = ctx->cache;
    cache = ctx->cache->conf->cache;
    store = ngx_http_infer_cache_enter(cache);

    if (store == NULL
        || atomic_load(&cache->shm->purges) != cc->l2->purges)
    {
        cc->store = 0;
    }

    if (!cc->store) {
        return;
    }

    ngx_memzero(&p, sizeof(infer_store_put_t));
    p.ident = cc->ident.data;
    p.ident_len = cc->ident.len;
    p.value = g->value;
    p.value_len = g->value_len;
    p.now_ms = infer_now_us() / 1000 - g->age_ms;
    p.fresh_ms = g->age_ms + g->left_ms;
    p.stale_ms = ngx_http_infer_cache_stale_ms(cc->conf);
    p.tag = cc->tag;
    p.origin = ngx_http_infer_cache_origin(cc->log_key);
    p.epochs = &cc->epochs;

    if (infer_store_put(store, cc->log_key, &p) == INFER_OK
        && atomic_load(&cache->shm->purges) != cc->l2->purges)
    {
        (void) infer_store_remove(store, cc->log_key);
        cc->store = 0;
    }
}


/* It may stand in, as one of the first tier, unless that has a later one. */

static void
ngx_http_infer_l2_old(ngx_http_infer_ctx_t *ctx, ngx_http_infer_l2_job_t *job)
{
    uint64_t                     now;
    infer_sealed_t              *s;
    infer_store_get_t            g;
    ngx_http_infer_cache_ctx_t  *cc;

    cc = ctx->cache;
    s = &job->sealed;
    now = ngx_http_infer_redis_wall_us() / 1000;

    ngx_memzero(&g, sizeof(infer_store_get_t));
    g.value_len = s->value_len;
    g.age_ms = now > s->created_ms ? now - s->created_ms : 0;
    g.stale = 1;

    if (ngx_http_infer_cache_older(cc, g.age_ms)) {
        return;
    }

    g.value = ngx_palloc(ctx->request->pool, s->value_len);

    if (g.value) {
        ngx_memcpy(g.value, s->value, s->value_len);
        ngx_http_infer_cache_expired(ctx, cc->log_key, &g);
    }
}


/* Here once more: it may have come, or have been begun, meanwhile. */

static ngx_int_t
ngx_http_infer_l2_look(ngx_http_infer_ctx_t *ctx)
{
    ngx_int_t                    rc;
    infer_store_get_t            g;
    ngx_http_infer_cache_ctx_t  *cc;

    cc = ctx->cache;

    ngx_http_infer_cache_epochs(ctx);
    ngx_memzero(&g, sizeof(infer_store_get_t));

    if (ngx_http_infer_cache_get(ctx, cc->log_key, &cc->ident, &g)
        == INFER_OK)
    {
        rc = ngx_http_infer_cache_log(ctx, &g);

        if (rc != NGX_DECLINED) {
            return rc;
        }
    }

    return ngx_http_infer_cache_missed(ctx);
}


/* Another has the lock. DONE: we look again later. */

static ngx_int_t
ngx_http_infer_l2_wait(ngx_http_infer_ctx_t *ctx)
{
    uint64_t              now;
    ngx_msec_t            ms;
    ngx_http_infer_l2_t  *l2;

    l2 = ctx->cache->l2;
    now = infer_now_us();

    if (now >= l2->until_us) {
        (void) atomic_fetch_add(&l2->redis->shm->lock_timeouts, 1);
        return NGX_DECLINED;
    }

    if (l2->pause == NGX_HTTP_INFER_L2_PAUSE) {
        (void) atomic_fetch_add(&l2->redis->shm->lock_waits, 1);
    }

    ms = ngx_min(l2->pause, (ngx_msec_t) ((l2->until_us - now) / 1000 + 1));
    l2->pause = ngx_min(2 * l2->pause, NGX_HTTP_INFER_L2_PAUSE_MAX);

    ngx_add_timer(&l2->timer, ms);

    return NGX_DONE;
}


/* Back in the event loop: the request goes on with what has come out. */

static void
ngx_http_infer_l2_end(ngx_http_infer_ctx_t *ctx, ngx_int_t rc)
{
    ngx_connection_t    *c;
    ngx_http_request_t  *r;

    r = ctx->request;
    c = r->connection;

    /* DONE stays DONE: asked again, or joined */

    rc = ngx_http_infer_proceed(ctx, rc);

    if (rc != NGX_DONE) {
        ngx_http_finalize_request(r, rc);
    }

    ngx_http_run_posted_requests(c);
}


static void
ngx_http_infer_l2_timer(ngx_event_t *ev)
{
    ngx_int_t              rc;
    ngx_http_infer_ctx_t  *ctx;

    ctx = ev->data;

    if (ctx->cache->l2->locked) {
        ngx_http_infer_l2_beat(ctx);
        return;
    }

    ngx_http_set_log_request(ctx->request->connection->log, ctx->request);

    rc = ngx_http_infer_l2_look(ctx);

    if (rc == NGX_DECLINED) {
        rc = ngx_http_infer_l2_ask(ctx);
    }

    ngx_http_infer_l2_end(ctx, rc);
}


/* A refresh goes on with what its client has read, or reads it now. */

void
ngx_http_infer_cache_redis_inherit(ngx_http_infer_ctx_t *ctx,
    ngx_http_infer_ctx_t *client)
{
    ngx_http_infer_l2_t  *l2, *from;

    from = client->cache->l2;

    if (!client->cache->shared) {
        return;
    }

    l2 = ngx_calloc(sizeof(ngx_http_infer_l2_t), ngx_cycle->log);
    if (l2 == NULL) {
        return;
    }

    l2->own = 1;

    if (from == NULL || !from->known) {
        ngx_http_infer_l2_begin(ctx, l2);
        return;
    }

    l2->redis = from->redis;
    l2->name = from->name;
    l2->epoch[0] = from->epoch[0];
    l2->epoch[1] = from->epoch[1];
    l2->known = 1;

    ctx->cache->l2 = l2;
}


/* The request ends, or has no more use for the second tier. */

void
ngx_http_infer_cache_redis_forget(ngx_http_infer_ctx_t *ctx)
{
    ngx_http_infer_l2_t  *l2;

    l2 = ctx->cache ? ctx->cache->l2 : NULL;

    if (l2 == NULL) {
        return;
    }

    if (l2->job) {
        l2->job->job.owner = NULL;
        l2->job = NULL;
    }

    ngx_http_infer_l2_unlock(l2);

    if (l2->own) {
        ctx->cache->l2 = NULL;
        ngx_free(l2);
    }
}
