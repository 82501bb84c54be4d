
/*
 * The response cache's zone over cycles and processes: formatted once, taken
 * over by the cycles that follow, entered by workers at their first use. With
 * it goes a memfd of which each worker has locked a byte, so that the others
 * know of its death (engine/cache/owner.h). The cycles that have the zone
 * share one descriptor: closing any in a single process would unlock its byte.
 */


#include "ngx_http_infer_module.h"

#include <sys/mman.h>


#define NGX_HTTP_INFER_CACHE_RECOVER  1000        /* ms between looks */


/* of a zone, on the heap; counted by the cycles that have it */

struct ngx_http_infer_cache_life_s {
    ngx_uint_t    refs;
    int           fd;
    ngx_pid_t     pid;                            /* whose number it is */
    uint32_t      owner;                          /* 0: there was none */
};


static ngx_int_t ngx_http_infer_cache_format(ngx_http_infer_cache_t *cache,
    ngx_slab_pool_t *pool, ngx_log_t *log);
static ngx_http_infer_cache_life_t *ngx_http_infer_cache_live(
    ngx_log_t *log);
static ngx_int_t ngx_http_infer_cache_attach(ngx_http_infer_cache_t *cache);
static void ngx_http_infer_cache_recover(ngx_http_infer_cache_t *cache);
static int ngx_http_infer_cache_alive(void *arg, uint32_t owner);


/*
 * All pages of the zone in one piece, taken when it is empty: the store has
 * its own blocks. It is kept over reloads unless its size changes. Old workers
 * may read in it for long, so it cannot be cut anew under them.
 */

ngx_int_t
ngx_http_infer_cache_init(ngx_shm_zone_t *shm_zone, void *data)
{
    ngx_http_infer_cache_t *old = data;

    ngx_log_t               *log;
    ngx_http_infer_cache_t  *cache;

    cache = shm_zone->data;
    log = shm_zone->shm.log;

    if (old == NULL) {
        return ngx_http_infer_cache_format(cache, (ngx_slab_pool_t *)
                                           shm_zone->shm.addr, log);
    }

    if (old->shards != cache->shards) {
        ngx_log_error(NGX_LOG_EMERG, log, 0,
                      "infer_cache_zone \"%V\" has %ui shards while it had "
                      "%ui: that needs another name, another size or a "
                      "restart", &cache->name, cache->shards, old->shards);
        return NGX_ERROR;
    }

    cache->shm = old->shm;
    cache->life = old->life;
    cache->life->refs++;

    return NGX_OK;
}


static ngx_int_t
ngx_http_infer_cache_format(ngx_http_infer_cache_t *cache,
    ngx_slab_pool_t *pool, ngx_log_t *log)
{
    ngx_http_infer_cache_shm_t  *shm;

    pool->log_nomem = 0;

    shm = ngx_slab_calloc(pool, sizeof(ngx_http_infer_cache_shm_t));
    if (shm == NULL) {
        return NGX_ERROR;
    }

    /* the page that holds shm is gone, the others lie together */

    shm->bytes = pool->pfree * ngx_pagesize;
    shm->store = ngx_slab_alloc(pool, shm->bytes);

    if (shm->store == NULL) {
        return NGX_ERROR;
    }

    ngx_http_infer_random(shm->secret, sizeof(shm->secret));
    cache->shm = shm;

    if (infer_store_init(shm->store, shm->bytes, (uint32_t) cache->shards)
        != INFER_OK)
    {
        ngx_log_error(NGX_LOG_EMERG, log, 0,
                      "infer_cache_zone \"%V\" is too small for its shards",
                      &cache->name);
        return NGX_ERROR;
    }

    if (ngx_test_config) {
        return NGX_OK;
    }

    cache->life = ngx_http_infer_cache_live(log);

    return cache->life ? NGX_OK : NGX_ERROR;
}


static ngx_http_infer_cache_life_t *
ngx_http_infer_cache_live(ngx_log_t *log)
{
    ngx_http_infer_cache_life_t  *life;

    life = ngx_calloc(sizeof(ngx_http_infer_cache_life_t), log);
    if (life == NULL) {
        return NULL;
    }

    life->refs = 1;
    life->fd = memfd_create("infer cache", MFD_CLOEXEC);

    if (life->fd == -1) {
        ngx_log_error(NGX_LOG_EMERG, log, ngx_errno,
                      "memfd_create() failed");
        ngx_free(life);
        return NULL;
    }

    return life;
}


/* the cycle goes: rolled back, replaced, or the process ends */

void
ngx_http_infer_cache_cleanup(void *data)
{
    ngx_http_infer_cache_t *cache = data;

    if (cache->life == NULL
        || (ngx_process != NGX_PROCESS_MASTER
            && ngx_process != NGX_PROCESS_SINGLE))
    {
        return;
    }

    if (--cache->life->refs == 0) {
        (void) close(cache->life->fd);
        ngx_free(cache->life);
    }

    cache->life = NULL;
}


u_char *
ngx_http_infer_cache_hash_key(ngx_http_infer_cache_t *cache)
{
    return cache->redis ? cache->redis->secret : cache->shm->secret;
}


infer_store_t *
ngx_http_infer_cache_enter(ngx_http_infer_cache_t *cache)
{
    if (cache->pid != ngx_pid
        && ngx_http_infer_cache_attach(cache) != NGX_OK)
    {
        return NULL;
    }

    return &cache->store;
}


static ngx_int_t
ngx_http_infer_cache_attach(ngx_http_infer_cache_t *cache)
{
    ngx_http_infer_cache_life_t  *life;

    life = cache->life;

    if (life->pid != ngx_pid) {
        life->pid = ngx_pid;

        if (infer_owner_claim(&cache->shm->owners, life->fd, &life->owner)
            != INFER_OK)
        {
            life->owner = 0;
            ngx_log_error(NGX_LOG_ERR, ngx_cycle->log, 0,
                          "infer cache \"%V\" is used by too many processes, "
                          "this one goes without", &cache->name);
        }
    }

    if (infer_store_attach(&cache->store, cache->shm->store,
                           cache->shm->bytes, life->owner)
        != INFER_OK)
    {
        return NGX_ERROR;
    }

    cache->pid = ngx_pid;

    /* who has died since, or just now before us, reads nothing any more */

    ngx_http_infer_cache_recover(cache);

    return NGX_OK;
}


void
ngx_http_infer_cache_busy(ngx_http_infer_cache_t *cache)
{
    if (ngx_current_msec - cache->recovered >= NGX_HTTP_INFER_CACHE_RECOVER) {
        ngx_http_infer_cache_recover(cache);
    }
}


static void
ngx_http_infer_cache_recover(ngx_http_infer_cache_t *cache)
{
    uint32_t  wiped;

    cache->recovered = ngx_current_msec;

    wiped = infer_store_recover(&cache->store, ngx_http_infer_cache_alive,
                                cache);
    if (wiped) {
        ngx_log_error(NGX_LOG_WARN, ngx_cycle->log, 0,
                      "infer cache \"%V\" lost %uD shards with a worker that "
                      "died", &cache->name, wiped);
    }
}


static int
ngx_http_infer_cache_alive(void *arg, uint32_t owner)
{
    ngx_http_infer_cache_t *cache = arg;

    return infer_owner_alive(&cache->shm->owners, cache->life->fd,
                             cache->life->owner, owner);
}
