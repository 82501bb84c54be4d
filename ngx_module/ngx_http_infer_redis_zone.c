
/*
 * What an infer_redis block has besides its values: a thread pool of its own,
 * which nobody need declare, so that a frozen server stops nothing but Redis
 * jobs; and a small zone for its counters and breakers.
 */


#include "ngx_http_infer_module.h"


#define NGX_HTTP_INFER_REDIS_QUEUE  65536


static ngx_int_t ngx_http_infer_redis_init(ngx_shm_zone_t *shm_zone,
    void *data);


/*
 * A pool with as many threads as connections, made by nginx's own directive,
 * since ngx_thread_pool_add() gives a pool no threads (core/ngx_thread_pool.c
 * of nginx 1.7.11 and later: "thread_pool" is its first command). One that is
 * declared before is taken as it is.
 */

ngx_int_t
ngx_http_infer_redis_pool(ngx_conf_t *cf, ngx_http_infer_redis_t *redis)
{
    char           *rv;
    u_char         *p;
    ngx_str_t       value[4], *name;
    ngx_uint_t      i;
    ngx_array_t     args, *save;
    ngx_command_t  *cmd;

    ngx_str_set(&value[0], "thread_pool");

    name = &value[1];
    name->len = sizeof("infer_redis_") - 1 + redis->name.len;
    name->data = ngx_pnalloc(cf->pool, name->len + 1);
    p = ngx_pnalloc(cf->pool, 2 * NGX_INT_T_LEN
                              + sizeof("threads=max_queue="));

    if (name->data == NULL || p == NULL) {
        return NGX_ERROR;
    }

    ngx_sprintf(name->data, "infer_redis_%V%Z", &redis->name);

    redis->thread_pool = ngx_thread_pool_get(cf->cycle, name);

    if (redis->thread_pool) {
        return NGX_OK;
    }

    value[2].data = p;
    value[2].len = ngx_sprintf(p, "threads=%uD%Z", redis->conf.connections)
                   - p - 1;
    p += value[2].len + 1;
    value[3].data = p;
    value[3].len = ngx_sprintf(p, "max_queue=%d%Z", NGX_HTTP_INFER_REDIS_QUEUE)
                   - p - 1;

    ngx_memzero(&args, sizeof(ngx_array_t));
    args.elts = value;
    args.nelts = 4;
    args.size = sizeof(ngx_str_t);
    args.nalloc = 4;
    args.pool = cf->pool;

    for (i = 0; cf->cycle->modules[i]; i++) {

        cmd = cf->cycle->modules[i]->commands;

        if (cmd == NULL || cf->cycle->modules[i]->type != NGX_CORE_MODULE
            || ngx_strcmp(cmd->name.data, value[0].data) != 0)
        {
            continue;
        }

        save = cf->args;
        cf->args = &args;

        rv = cmd->set(cf, cmd, NULL);

        cf->args = save;

        if (rv != NGX_CONF_OK) {
            return NGX_ERROR;
        }
    }

    redis->thread_pool = ngx_thread_pool_get(cf->cycle, name);

    return redis->thread_pool ? NGX_OK : NGX_ERROR;
}


ngx_int_t
ngx_http_infer_redis_zone(ngx_conf_t *cf, ngx_http_infer_redis_t *redis)
{
    size_t     size;
    ngx_str_t  name;

    name.len = sizeof("infer_redis:") - 1 + redis->name.len;
    name.data = ngx_pnalloc(cf->pool, name.len + 1);
    if (name.data == NULL) {
        return NGX_ERROR;
    }

    ngx_sprintf(name.data, "infer_redis:%V%Z", &redis->name);

    size = 8 * ngx_pagesize
           + ngx_align(sizeof(ngx_http_infer_redis_shm_t), ngx_pagesize);

    redis->shm_zone = ngx_shared_memory_add(cf, &name, size,
                                            &ngx_http_infer_module);
    if (redis->shm_zone == NULL) {
        return NGX_ERROR;
    }

    redis->shm_zone->init = ngx_http_infer_redis_init;
    redis->shm_zone->data = redis;

    return NGX_OK;
}


/* Counters and breakers live on; those of servers that are others now too,
 * for a moment. */

static ngx_int_t
ngx_http_infer_redis_init(ngx_shm_zone_t *shm_zone, void *data)
{
    ngx_http_infer_redis_t *old = data;

    ngx_slab_pool_t         *pool;
    ngx_http_infer_redis_t  *redis;

    redis = shm_zone->data;
    pool = (ngx_slab_pool_t *) shm_zone->shm.addr;

    redis->shm = old ? old->shm : shm_zone->shm.exists ? pool->data : NULL;

    if (redis->shm == NULL) {
        redis->shm = ngx_slab_calloc(pool,
                                     sizeof(ngx_http_infer_redis_shm_t));
        pool->data = redis->shm;
    }

    return redis->shm ? NGX_OK : NGX_ERROR;
}
