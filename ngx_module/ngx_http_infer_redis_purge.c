
/*
 * Purges across nodes. In Redis each tag of a cache, and the cache itself, has
 * an epoch, which a purge moves on: values of older ones are misses. For the
 * first tiers of other nodes each purge also takes a number and leaves its
 * tag under it for a while. Every second one worker of a node asks for the
 * last number, and purges what it has not seen; when it cannot tell what that
 * was, everything.
 */


#include "ngx_http_infer_request.h"

#include "ipc/hash.h"


#define NGX_HTTP_INFER_REDIS_POLL        1000       /* ms */
#define NGX_HTTP_INFER_REDIS_JOURNAL_MS  3600000
#define NGX_HTTP_INFER_REDIS_BEHIND      64         /* told one by one */


typedef struct {
    ngx_http_infer_redis_job_t   job;
    ngx_http_infer_cache_t      *cache;
    uint64_t                     seen;
    uint64_t                     last;
    ngx_uint_t                   known;
    ngx_uint_t                   all;
    ngx_uint_t                   n;
    uint64_t                     tag[NGX_HTTP_INFER_REDIS_BEHIND];
} ngx_http_infer_redis_poll_t;


typedef struct {
    ngx_http_infer_redis_job_t   job;
    ngx_http_infer_cache_t      *cache;
    ngx_http_cleanup_t          *cln;           /* of the request */
    ngx_event_t                  hold;          /* of a worker that exits */
    ngx_uint_t                   n;
    struct {
        ngx_http_infer_purge_t   what;
        uint64_t                 number;
    }                            purge[];
} ngx_http_infer_redis_purge_t;


static void ngx_http_infer_redis_poll(ngx_event_t *ev);
static void ngx_http_infer_redis_poll_run(ngx_http_infer_redis_job_t *rj);
static int ngx_http_infer_redis_journal(ngx_http_infer_redis_poll_t *poll,
    uint64_t number, uint64_t *tag, uint64_t *last);
static void ngx_http_infer_redis_poll_done(ngx_http_infer_redis_job_t *rj);
static void ngx_http_infer_redis_purge_run(ngx_http_infer_redis_job_t *rj);
static int ngx_http_infer_redis_purge_one(infer_redis_t *client,
    ngx_http_infer_cache_t *cache, ngx_http_infer_purge_t *what,
    uint64_t *number);
static int ngx_http_infer_redis_count_on(infer_redis_t *client,
    const char *name, uint64_t *count);
static void ngx_http_infer_redis_purge_done(ngx_http_infer_redis_job_t *rj);
static void ngx_http_infer_redis_purge_gone(void *data);
static void ngx_http_infer_redis_hold(ngx_event_t *ev);
static void ngx_http_infer_redis_entry(char *name,
    ngx_http_infer_cache_t *cache, uint64_t number);


/* the epoch of a tag */

void
ngx_http_infer_redis_tag(ngx_http_infer_cache_t *cache, uint64_t tag,
    char *name)
{
    u_char  text[INFER_STORE_KEY + sizeof(tag)], id[INFER_HASH_BYTES];

    ngx_memcpy(text, cache->redis_id, INFER_STORE_KEY);
    ngx_memcpy(text + INFER_STORE_KEY, &tag, sizeof(tag));

    infer_hash(cache->redis->secret, text, sizeof(text), id);

    ngx_http_infer_redis_name(name, NGX_HTTP_INFER_REDIS_EPOCH, id);
}


/* what was purged under a number */

static void
ngx_http_infer_redis_entry(char *name, ngx_http_infer_cache_t *cache,
    uint64_t number)
{
    u_char  *p;

    p = ngx_http_infer_redis_name(name, NGX_HTTP_INFER_REDIS_JOURNAL,
                                  cache->redis_id);
    *ngx_sprintf(p, ":%uL", number) = '\0';
}


/* Of a worker: the polls of all caches begin. */

void
ngx_http_infer_redis_process(ngx_http_infer_main_conf_t *imcf)
{
    ngx_uint_t                i;
    ngx_http_infer_cache_t  **cache;

    cache = imcf->caches.elts;

    for (i = 0; i < imcf->caches.nelts; i++) {

        if (cache[i]->redis == NULL) {
            continue;
        }

        ngx_memzero(&cache[i]->poll, sizeof(ngx_event_t));

        cache[i]->polling = 0;
        cache[i]->poll.handler = ngx_http_infer_redis_poll;
        cache[i]->poll.data = cache[i];
        cache[i]->poll.log = ngx_cycle->log;
        cache[i]->poll.cancelable = 1;

        ngx_add_timer(&cache[i]->poll, 1);
    }
}


/* One worker of the node, whichever comes first. */

static void
ngx_http_infer_redis_poll(ngx_event_t *ev)
{
    uint64_t                      now, last;
    ngx_http_infer_cache_t       *cache;
    ngx_http_infer_cache_shm_t   *shm;
    ngx_http_infer_redis_poll_t  *poll;

    cache = ev->data;
    shm = cache->shm;

    ngx_add_timer(ev, NGX_HTTP_INFER_REDIS_POLL / 2);

    now = infer_now_us() / 1000;
    last = atomic_load(&shm->polled_ms);

    if (cache->polling
        || (last && now - last < NGX_HTTP_INFER_REDIS_POLL)
        || !atomic_compare_exchange_strong(&shm->polled_ms, &last, now))
    {
        return;
    }

    poll = ngx_http_infer_redis_job(cache->redis,
                                    sizeof(ngx_http_infer_redis_poll_t),
                                    ngx_http_infer_redis_poll_run,
                                    ngx_http_infer_redis_poll_done);
    if (poll == NULL) {
        return;
    }

    poll->cache = cache;
    poll->known = atomic_load(&shm->known);
    poll->seen = atomic_load(&shm->seen);

    if (ngx_http_infer_redis_post(&poll->job) != NGX_OK) {
        ngx_free(poll);
        return;
    }

    cache->polling = 1;
}


/* in a thread */

static void
ngx_http_infer_redis_poll_run(ngx_http_infer_redis_job_t *rj)
{
    ngx_http_infer_redis_poll_t *poll = (ngx_http_infer_redis_poll_t *) rj;

    int       rc;
    uint64_t  n, last, tag;

    rc = ngx_http_infer_redis_journal(poll, poll->seen + 1, &tag, &poll->last);

    if (rc != INFER_OK && rc != INFER_AGAIN) {
        rj->rc = rc;
        return;
    }

    if (poll->known && poll->last == poll->seen) {
        return;
    }

    if (!poll->known || poll->last < poll->seen
        || poll->last - poll->seen > NGX_HTTP_INFER_REDIS_BEHIND)
    {
        poll->all = 1;
        return;
    }

    for (n = poll->seen + 1; n <= poll->last; n++) {

        rc = ngx_http_infer_redis_journal(poll, n, &tag, &last);

        if (rc == INFER_AGAIN) {
            poll->all = 1;
            return;
        }

        if (rc != INFER_OK) {
            rj->rc = rc;
            return;
        }

        poll->tag[poll->n++] = tag;
    }
}


/* OK: the tag that was purged under a number. AGAIN: not there. */

static int
ngx_http_infer_redis_journal(ngx_http_infer_redis_poll_t *poll,
    uint64_t number, uint64_t *tag, uint64_t *last)
{
    int          rc, begun;
    char         entry[NGX_HTTP_INFER_REDIS_NAME];
    char         name[NGX_HTTP_INFER_REDIS_NAME];
    void        *value;
    size_t       len;
    uint64_t     count[2];
    const char  *counter[2];

    ngx_http_infer_redis_entry(entry, poll->cache, number);
    ngx_http_infer_redis_name(name, NGX_HTTP_INFER_REDIS_NUMBER,
                              poll->cache->redis_id);
    counter[0] = name;
    counter[1] = NULL;

    ngx_memzero(count, sizeof(count));

    rc = infer_redis_get(poll->job.redis->client, entry, counter, &value,
                         &len, count);

    if (rc != INFER_OK && rc != INFER_AGAIN) {
        return rc;
    }

    if (rc == INFER_OK) {

        if (len == sizeof(*tag)) {
            ngx_memcpy(tag, value, sizeof(*tag));

        } else {
            rc = INFER_AGAIN;
        }

        free(value);
    }

    begun = ngx_http_infer_redis_begin(poll->job.redis->client, counter,
                                       count);
    *last = count[0];

    return begun == INFER_OK ? rc : begun;
}


static void
ngx_http_infer_redis_poll_done(ngx_http_infer_redis_job_t *rj)
{
    ngx_http_infer_redis_poll_t *poll = (ngx_http_infer_redis_poll_t *) rj;

    uint64_t                     seen;
    ngx_uint_t                   i;
    ngx_http_infer_cache_t      *cache;
    ngx_http_infer_cache_shm_t  *shm;

    cache = poll->cache;
    shm = cache->shm;
    cache->polling = 0;

    if (rj->rc != INFER_OK || (poll->known && poll->last == poll->seen)) {
        ngx_free(poll);
        return;
    }

    seen = poll->seen;

    /* who moves it on has purged; a purge of our own may have */

    if (poll->all) {
        ngx_http_infer_purge_here(cache, 0);
    }

    for (i = 0; i < poll->n; i++) {
        ngx_http_infer_purge_here(cache, poll->tag[i]);
    }

    if (atomic_compare_exchange_strong(&shm->seen, &seen, poll->last)) {
        atomic_store(&shm->known, 1);
    }

    ngx_free(poll);
}


/*
 * What the first tier does not have any more goes from Redis too. DONE:
 * ngx_http_infer_purge_answer() will be called then; DECLINED: Redis is not to
 * be asked now.
 */

ngx_int_t
ngx_http_infer_redis_purge(ngx_http_request_t *r,
    ngx_http_infer_cache_t *cache, ngx_http_infer_purge_t *what, ngx_uint_t n)
{
    ngx_uint_t                     i;
    ngx_http_cleanup_t            *cln;
    ngx_http_infer_redis_purge_t  *purge;

    cln = ngx_http_cleanup_add(r, 0);
    purge = ngx_http_infer_redis_job(cache->redis,
                                     sizeof(ngx_http_infer_redis_purge_t)
                                     + n * sizeof(purge->purge[0]),
                                     ngx_http_infer_redis_purge_run,
                                     ngx_http_infer_redis_purge_done);

    if (cln == NULL || purge == NULL) {
        ngx_free(purge);
        return NGX_DECLINED;
    }

    purge->cache = cache;
    purge->n = n;

    for (i = 0; i < n; i++) {
        purge->purge[i].what = what[i];
    }

    if (ngx_http_infer_redis_post(&purge->job) != NGX_OK) {
        ngx_free(purge);
        return NGX_DECLINED;
    }

    purge->job.owner = r;
    cln->handler = ngx_http_infer_redis_purge_gone;
    cln->data = purge;
    purge->cln = cln;

    purge->hold.handler = ngx_http_infer_redis_hold;
    purge->hold.data = purge;
    purge->hold.log = ngx_cycle->log;

    ngx_add_timer(&purge->hold, 60000);

    r->main->count++;

    return NGX_DONE;
}


/* Its timer holds a worker that exits; the job is always quicker. */

static void
ngx_http_infer_redis_hold(ngx_event_t *ev)
{
    ngx_log_debug0(NGX_LOG_DEBUG_HTTP, ev->log, 0, "infer purge is slow");
}


static void
ngx_http_infer_redis_purge_gone(void *data)
{
    ngx_http_infer_redis_purge_t *purge = data;

    purge->job.owner = NULL;
}


/* in a thread */

static void
ngx_http_infer_redis_purge_run(ngx_http_infer_redis_job_t *rj)
{
    ngx_http_infer_redis_purge_t *purge = (ngx_http_infer_redis_purge_t *) rj;

    int         rc;
    ngx_uint_t  i;

    for (i = 0; i < purge->n; i++) {
        rc = ngx_http_infer_redis_purge_one(rj->redis->client, purge->cache,
                                            &purge->purge[i].what,
                                            &purge->purge[i].number);
        if (rc != INFER_OK) {
            rj->rc = rc;
            return;
        }
    }
}


/* What it is goes first, so that nobody who hears of the purge finds an old
 * value good; then its number, and what that stands for. */

static int
ngx_http_infer_redis_purge_one(infer_redis_t *client,
    ngx_http_infer_cache_t *cache, ngx_http_infer_purge_t *what,
    uint64_t *number)
{
    int       rc;
    char      name[NGX_HTTP_INFER_REDIS_NAME];
    uint64_t  epoch;

    if (what->by_key) {
        ngx_http_infer_redis_name(name, NGX_HTTP_INFER_REDIS_VALUE, what->key);

        rc = infer_redis_del(client, name);
        rc = (rc == INFER_AGAIN) ? INFER_OK : rc;

    } else {

        if (what->tag) {
            ngx_http_infer_redis_tag(cache, what->tag, name);

        } else {
            ngx_http_infer_redis_name(name, NGX_HTTP_INFER_REDIS_EPOCH,
                                      cache->redis_id);
        }

        rc = ngx_http_infer_redis_count_on(client, name, &epoch);
    }

    if (rc == INFER_OK) {
        ngx_http_infer_redis_name(name, NGX_HTTP_INFER_REDIS_NUMBER,
                                  cache->redis_id);
        rc = ngx_http_infer_redis_count_on(client, name, number);
    }

    if (rc == INFER_OK) {
        ngx_http_infer_redis_entry(name, cache, *number);
        rc = infer_redis_set(client, name, &what->tag, sizeof(what->tag),
                             NGX_HTTP_INFER_REDIS_JOURNAL_MS);
    }

    return rc;
}


/* One further; from the time of day on where there was none. */

static int
ngx_http_infer_redis_count_on(infer_redis_t *client, const char *name,
    uint64_t *count)
{
    int   rc;
    char  now[NGX_INT64_LEN + 1];

    *ngx_sprintf((u_char *) now, "%uL", ngx_http_infer_redis_wall_us()) = '\0';

    rc = infer_redis_lock(client, name, now, NGX_HTTP_INFER_REDIS_YEARS);

    if (rc != INFER_OK && rc != INFER_AGAIN) {
        return rc;
    }

    return infer_redis_count(client, name, count);
}


static void
ngx_http_infer_redis_purge_done(ngx_http_infer_redis_job_t *rj)
{
    ngx_http_infer_redis_purge_t *purge = (ngx_http_infer_redis_purge_t *) rj;

    uint64_t             before;
    ngx_uint_t           i, ok;
    ngx_connection_t    *c;
    ngx_http_request_t  *r;

    if (purge->hold.timer_set) {
        ngx_del_timer(&purge->hold);
    }

    ok = (rj->rc == INFER_OK);

    if (ok) {
        (void) atomic_fetch_add(&rj->redis->shm->purges, purge->n);
    }

    /* once more, for values that were on their way here; then the poll need
     * not do it again, unless others have purged meanwhile */

    for (i = 0; i < purge->n; i++) {
        ngx_http_infer_purge_here(purge->cache, purge->purge[i].what.tag);

        before = purge->purge[i].number - 1;
        (void) atomic_compare_exchange_strong(&purge->cache->shm->seen,
                                              &before,
                                              purge->purge[i].number);
    }

    r = rj->owner;

    if (r) {
        c = r->connection;
        purge->cln->handler = NULL;

        ngx_http_set_log_request(c->log, r);
        ngx_http_finalize_request(r, ngx_http_infer_purge_answer(r, ok));
        ngx_http_run_posted_requests(c);
    }

    ngx_free(purge);
}
