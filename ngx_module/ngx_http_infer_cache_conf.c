
/*
 * Directives of the response cache.
 */


#include "ngx_http_infer_module.h"


#define NGX_HTTP_INFER_CACHE_SHARDS   16
#define NGX_HTTP_INFER_CACHE_LEAST    (512 * 1024)
#define NGX_HTTP_INFER_CACHE_STALE    3600000     /* ms past a good time */


static ngx_http_infer_cache_t *ngx_http_infer_cache_find(ngx_conf_t *cf,
    ngx_str_t *name);
static char *ngx_http_infer_cache_redis_param(ngx_conf_t *cf,
    ngx_http_infer_cache_conf_t *ccf, ngx_str_t *value);


/* infer_cache_zone NAME SIZE [shards=N] */

char *
ngx_http_infer_cache_zone(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_infer_main_conf_t *imcf = conf;

    ssize_t                   size;
    ngx_int_t                 shards;
    ngx_str_t                *value, name;
    ngx_pool_cleanup_t       *cln;
    ngx_http_infer_cache_t   *cache, **slot;

    value = cf->args->elts;

    if (ngx_http_infer_valid_name(&value[1]) != NGX_OK) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid name \"%V\"", &value[1]);
        return NGX_CONF_ERROR;
    }

    if (ngx_http_infer_cache_find(cf, &value[1])) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "infer_cache_zone \"%V\" is duplicate", &value[1]);
        return NGX_CONF_ERROR;
    }

    size = ngx_parse_size(&value[2]);

    if (size < NGX_HTTP_INFER_CACHE_LEAST) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"infer_cache_zone\" needs at least 512k, not "
                           "\"%V\"", &value[2]);
        return NGX_CONF_ERROR;
    }

    /* a shard holds 256 KiB at least, by default */

    shards = ngx_min(NGX_HTTP_INFER_CACHE_SHARDS, size / (256 * 1024));

    if (cf->args->nelts == 4) {

        shards = NGX_ERROR;

        if (ngx_strncmp(value[3].data, "shards=", 7) == 0) {
            shards = ngx_atoi(value[3].data + 7, value[3].len - 7);
        }

        if (shards < 1 || shards > INFER_STORE_SHARDS
            || size / shards < 64 * 1024)
        {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "invalid parameter \"%V\", \"shards\" is from "
                               "1 to %d, of 64k at least", &value[3],
                               INFER_STORE_SHARDS);
            return NGX_CONF_ERROR;
        }
    }

    cache = ngx_pcalloc(cf->pool, sizeof(ngx_http_infer_cache_t));
    slot = ngx_array_push(&imcf->caches);
    cln = ngx_pool_cleanup_add(cf->cycle->pool, 0);

    if (cache == NULL || slot == NULL || cln == NULL) {
        return NGX_CONF_ERROR;
    }

    cln->handler = ngx_http_infer_cache_cleanup;
    cln->data = cache;

    *slot = cache;
    cache->name = value[1];
    cache->shards = (ngx_uint_t) shards;

    name.len = sizeof("infer_cache_zone:") - 1 + value[1].len;
    name.data = ngx_pnalloc(cf->pool, name.len + 1);
    if (name.data == NULL) {
        return NGX_CONF_ERROR;
    }

    ngx_sprintf(name.data, "infer_cache_zone:%V%Z", &value[1]);

    cache->shm_zone = ngx_shared_memory_add(cf, &name, size,
                                            &ngx_http_infer_module);
    if (cache->shm_zone == NULL) {
        return NGX_CONF_ERROR;
    }

    cache->shm_zone->init = ngx_http_infer_cache_init;
    cache->shm_zone->data = cache;

    return NGX_CONF_OK;
}


static ngx_http_infer_cache_t *
ngx_http_infer_cache_find(ngx_conf_t *cf, ngx_str_t *name)
{
    ngx_uint_t                    i;
    ngx_http_infer_cache_t      **cache;
    ngx_http_infer_main_conf_t   *imcf;

    imcf = ngx_http_conf_get_module_main_conf(cf, ngx_http_infer_module);
    cache = imcf->caches.elts;

    for (i = 0; i < imcf->caches.nelts; i++) {
        if (cache[i]->name.len == name->len
            && ngx_strncmp(cache[i]->name.data, name->data, name->len) == 0)
        {
            return cache[i];
        }
    }

    return NULL;
}


/* infer_cache ZONE [redis=NAME] | off */

char *
ngx_http_infer_cache(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_infer_loc_conf_t *ilcf = conf;

    ngx_str_t  *value;

    value = cf->args->elts;

    if (ilcf->cache.cache != NGX_CONF_UNSET_PTR) {
        return "is duplicate";
    }

    if (cf->args->nelts == 2 && ngx_strcmp(value[1].data, "off") == 0) {
        ilcf->cache.cache = NULL;
        return NGX_CONF_OK;
    }

    ilcf->cache.cache = ngx_http_infer_cache_find(cf, &value[1]);

    if (ilcf->cache.cache == NULL) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "unknown infer_cache_zone \"%V\", it must be "
                           "defined before it is used", &value[1]);
        return NGX_CONF_ERROR;
    }

    return cf->args->nelts == 3
           ? ngx_http_infer_cache_redis_param(cf, &ilcf->cache, &value[2])
           : NGX_CONF_OK;
}


/* A zone has one Redis at most, so that a purge knows where to go. */

static char *
ngx_http_infer_cache_redis_param(ngx_conf_t *cf,
    ngx_http_infer_cache_conf_t *ccf, ngx_str_t *value)
{
    ngx_str_t  name;

    if (ngx_strncmp(value->data, "redis=", 6) != 0) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid parameter \"%V\"", value);
        return NGX_CONF_ERROR;
    }

    name.data = value->data + 6;
    name.len = value->len - 6;

    ccf->redis = ngx_http_infer_redis_use(cf, &name);

    if (ccf->redis == NULL) {
        return NGX_CONF_ERROR;
    }

    if (ccf->cache->redis && ccf->cache->redis != ccf->redis) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "infer_cache_zone \"%V\" is used with infer_redis "
                           "\"%V\" already", &ccf->cache->name,
                           &ccf->cache->redis->name);
        return NGX_CONF_ERROR;
    }

    ccf->cache->redis = ccf->redis;

    return NGX_CONF_OK;
}


/* infer_cache_valid [stop] [length] TIME, all of them without a name */

char *
ngx_http_infer_cache_valid(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_infer_loc_conf_t *ilcf = conf;

    ngx_str_t   *value;
    ngx_uint_t   i, n, stop, length;
    ngx_msec_t   ms;

    value = cf->args->elts;
    n = cf->args->nelts;
    stop = (n == 2);
    length = (n == 2);

    ms = ngx_parse_time(&value[n - 1], 0);

    if (ms == (ngx_msec_t) NGX_ERROR) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid time \"%V\"", &value[n - 1]);
        return NGX_CONF_ERROR;
    }

    for (i = 1; i < n - 1; i++) {

        if (ngx_strcmp(value[i].data, "stop") == 0) {
            stop = 1;

        } else if (ngx_strcmp(value[i].data, "length") == 0) {
            length = 1;

        } else if (ngx_strcmp(value[i].data, "any") == 0) {
            stop = 1;
            length = 1;

        } else {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "invalid value \"%V\", there are \"stop\", "
                               "\"length\" and \"any\"", &value[i]);
            return NGX_CONF_ERROR;
        }
    }

    if (stop) {
        ilcf->cache.stop_ms = ms;
    }

    if (length) {
        ilcf->cache.length_ms = ms;
    }

    return NGX_CONF_OK;
}


/* infer_cache_use_stale [error] [timeout] [overload] [updating] [for=TIME] */

char *
ngx_http_infer_cache_use_stale(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_infer_loc_conf_t *ilcf = conf;

    ngx_str_t            *value, time;
    ngx_uint_t            i;
    ngx_conf_bitmask_t   *m;

    static ngx_conf_bitmask_t  masks[] = {
        { ngx_string("error"), NGX_HTTP_INFER_STALE_ERROR },
        { ngx_string("timeout"), NGX_HTTP_INFER_STALE_TIMEOUT },
        { ngx_string("overload"), NGX_HTTP_INFER_STALE_OVERLOAD },
        { ngx_string("updating"), NGX_HTTP_INFER_STALE_UPDATING },
        { ngx_string("off"), NGX_HTTP_INFER_STALE_OFF },
        { ngx_null_string, 0 }
    };

    if (ilcf->cache.use_stale) {
        return "is duplicate";
    }

    value = cf->args->elts;
    ilcf->cache.stale_ms = NGX_HTTP_INFER_CACHE_STALE;

    for (i = 1; i < cf->args->nelts; i++) {

        if (value[i].len > 4 && ngx_strncmp(value[i].data, "for=", 4) == 0) {
            time.data = value[i].data + 4;
            time.len = value[i].len - 4;

            ilcf->cache.stale_ms = ngx_parse_time(&time, 0);

            if (ilcf->cache.stale_ms == (ngx_msec_t) NGX_ERROR
                || ilcf->cache.stale_ms == 0)
            {
                goto invalid;
            }

            continue;
        }

        for (m = masks; m->name.len; m++) {
            if (m->name.len == value[i].len
                && ngx_strncmp(m->name.data, value[i].data, m->name.len) == 0)
            {
                break;
            }
        }

        if (m->name.len == 0) {
            goto invalid;
        }

        ilcf->cache.use_stale |= m->mask;
    }

    if (ilcf->cache.use_stale == 0
        || ((ilcf->cache.use_stale & NGX_HTTP_INFER_STALE_OFF)
            && cf->args->nelts > 2))
    {
        return "takes causes, or \"off\" alone";
    }

    ilcf->cache.use_stale |= NGX_CONF_BITMASK_SET;

    return NGX_CONF_OK;

invalid:

    ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                       "invalid \"infer_cache_use_stale\" parameter \"%V\"",
                       &value[i]);

    return NGX_CONF_ERROR;
}


/* infer_cache_purge ZONE */

char *
ngx_http_infer_cache_purge(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_infer_loc_conf_t *ilcf = conf;

    ngx_str_t                 *value;
    ngx_http_core_loc_conf_t  *clcf;

    value = cf->args->elts;

    if (ilcf->cache.purge) {
        return "is duplicate";
    }

    ilcf->cache.purge = ngx_http_infer_cache_find(cf, &value[1]);

    if (ilcf->cache.purge == NULL) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "unknown infer_cache_zone \"%V\", it must be "
                           "defined before it is used", &value[1]);
        return NGX_CONF_ERROR;
    }

    clcf = ngx_http_conf_get_module_loc_conf(cf, ngx_http_core_module);
    clcf->handler = ngx_http_infer_purge_handler;

    return NGX_CONF_OK;
}


void
ngx_http_infer_cache_create_conf(ngx_http_infer_cache_conf_t *conf)
{
    /*
     * set by ngx_pcalloc():
     *
     *     conf->redis = NULL;
     *     conf->use_stale = 0;
     *     conf->ahead = 0;
     *     conf->scope = NULL;
     *     conf->tag = NULL;
     *     conf->purge = NULL;
     *     conf->memo = { 0 };
     */

    conf->cache = NGX_CONF_UNSET_PTR;
    conf->lock_ms = NGX_CONF_UNSET_MSEC;
    conf->stop_ms = NGX_CONF_UNSET_MSEC;
    conf->length_ms = NGX_CONF_UNSET_MSEC;
    conf->max_size = NGX_CONF_UNSET_SIZE;
    conf->sampled = NGX_CONF_UNSET;
    conf->stale_ms = NGX_CONF_UNSET_MSEC;
    conf->refresh = NGX_CONF_UNSET;
    conf->pace = NGX_CONF_UNSET_UINT;
    conf->bypass = NGX_CONF_UNSET_PTR;
    conf->no_cache = NGX_CONF_UNSET_PTR;
}


char *
ngx_http_infer_cache_merge_conf(ngx_http_infer_cache_conf_t *prev,
    ngx_http_infer_cache_conf_t *conf)
{
    if (conf->cache == NGX_CONF_UNSET_PTR) {
        conf->redis = prev->redis;
    }

    ngx_conf_merge_ptr_value(conf->cache, prev->cache, NULL);
    ngx_conf_merge_msec_value(conf->lock_ms, prev->lock_ms, 0);
    ngx_conf_merge_msec_value(conf->stop_ms, prev->stop_ms, 600000);
    ngx_conf_merge_msec_value(conf->length_ms, prev->length_ms, 600000);
    ngx_conf_merge_size_value(conf->max_size, prev->max_size, 256 * 1024);
    ngx_conf_merge_value(conf->sampled, prev->sampled, 0);
    ngx_conf_merge_bitmask_value(conf->use_stale, prev->use_stale,
                                 (NGX_CONF_BITMASK_SET
                                  |NGX_HTTP_INFER_STALE_OFF));
    ngx_conf_merge_msec_value(conf->stale_ms, prev->stale_ms,
                              NGX_HTTP_INFER_CACHE_STALE);

    /* not said: where old answers are refreshed anyway */

    ngx_conf_merge_value(conf->refresh, prev->refresh, NGX_CONF_UNSET);
    conf->ahead = (conf->refresh != NGX_CONF_UNSET)
                  ? (ngx_uint_t) conf->refresh
                  : (conf->use_stale & NGX_HTTP_INFER_STALE_UPDATING) != 0;

    ngx_conf_merge_uint_value(conf->pace, prev->pace, 0);
    ngx_conf_merge_ptr_value(conf->bypass, prev->bypass, NULL);
    ngx_conf_merge_ptr_value(conf->no_cache, prev->no_cache, NULL);

    if (conf->scope == NULL) {
        conf->scope = prev->scope;
    }

    if (conf->tag == NULL) {
        conf->tag = prev->tag;
    }

    return NGX_CONF_OK;
}
