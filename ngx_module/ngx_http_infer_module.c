
/*
 * The command table, creation and merging of configurations, and the
 * variables. No request code lives here.
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>

#include "ngx_http_infer_module.h"


typedef enum {
    ngx_http_infer_var_model = 0,
    ngx_http_infer_var_prompt_tokens,
    ngx_http_infer_var_completion_tokens,
    ngx_http_infer_var_queue_time,
    ngx_http_infer_var_first_token_time,
    ngx_http_infer_var_finish_reason,
    ngx_http_infer_var_key,
    ngx_http_infer_var_request_id,
    ngx_http_infer_var_cache_status,
    ngx_http_infer_var_cache_key
} ngx_http_infer_var_e;


static ngx_int_t ngx_http_infer_add_variables(ngx_conf_t *cf);
static ngx_int_t ngx_http_infer_variable(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data);
static ngx_int_t ngx_http_infer_postconfiguration(ngx_conf_t *cf);
static void *ngx_http_infer_create_main_conf(ngx_conf_t *cf);
static void *ngx_http_infer_create_loc_conf(ngx_conf_t *cf);
static char *ngx_http_infer_merge_loc_conf(ngx_conf_t *cf, void *parent,
    void *child);
static void ngx_http_infer_merge_sampling(ngx_http_infer_loc_conf_t *prev,
    ngx_http_infer_loc_conf_t *conf);
static void ngx_http_infer_merge_purge(ngx_conf_t *cf,
    ngx_http_infer_loc_conf_t *prev, ngx_http_infer_loc_conf_t *conf);
static char *ngx_http_infer_merge_target(ngx_conf_t *cf,
    ngx_http_infer_loc_conf_t *prev, ngx_http_infer_loc_conf_t *conf);


static ngx_conf_bitmask_t  ngx_http_infer_endpoints_mask[] = {
    { ngx_string("chat"), NGX_HTTP_INFER_EP_CHAT },
    { ngx_string("completions"), NGX_HTTP_INFER_EP_COMPLETIONS },
    { ngx_string("models"), NGX_HTTP_INFER_EP_MODELS },
    { ngx_string("tokenize"), NGX_HTTP_INFER_EP_TOKENIZE },
    { ngx_string("detokenize"), NGX_HTTP_INFER_EP_DETOKENIZE },
    { ngx_string("apply-template"), NGX_HTTP_INFER_EP_TEMPLATE },
    { ngx_string("health"), NGX_HTTP_INFER_EP_HEALTH },
    { ngx_string("metrics"), NGX_HTTP_INFER_EP_METRICS },
    { ngx_string("all"), NGX_HTTP_INFER_EP_ALL },
    { ngx_null_string, 0 }
};


static ngx_command_t  ngx_http_infer_commands[] = {

    { ngx_string("infer_zone"),
      NGX_HTTP_MAIN_CONF|NGX_CONF_TAKE12,
      ngx_http_infer_zone_directive,
      NGX_HTTP_MAIN_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("infer_engine"),
      NGX_HTTP_MAIN_CONF|NGX_CONF_2MORE,
      ngx_http_infer_engine_directive,
      NGX_HTTP_MAIN_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("infer_model"),
      NGX_HTTP_MAIN_CONF|NGX_CONF_BLOCK|NGX_CONF_TAKE1,
      ngx_http_infer_model_block,
      NGX_HTTP_MAIN_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("infer_cache_zone"),
      NGX_HTTP_MAIN_CONF|NGX_CONF_TAKE23,
      ngx_http_infer_cache_zone,
      NGX_HTTP_MAIN_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("infer_redis"),
      NGX_HTTP_MAIN_CONF|NGX_CONF_BLOCK|NGX_CONF_TAKE1,
      ngx_http_infer_redis_block,
      NGX_HTTP_MAIN_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("infer_cache_secret"),
      NGX_HTTP_MAIN_CONF|NGX_CONF_TAKE1,
      ngx_http_infer_cache_secret,
      NGX_HTTP_MAIN_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("infer"),
      NGX_HTTP_LOC_CONF|NGX_HTTP_LIF_CONF|NGX_CONF_TAKE1,
      ngx_http_infer_location,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("infer_endpoints"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_1MORE,
      ngx_conf_set_bitmask_slot,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_infer_loc_conf_t, endpoints),
      &ngx_http_infer_endpoints_mask },

    { ngx_string("infer_thread_pool"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_TAKE1,
      ngx_http_infer_thread_pool,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("infer_max_tokens"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_TAKE12,
      ngx_http_infer_max_tokens,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("infer_queue"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_TAKE12,
      ngx_http_infer_queue,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("infer_timeout"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_TAKE123,
      ngx_http_infer_timeout,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("infer_priority"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_TAKE1,
      ngx_http_infer_priority,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_infer_loc_conf_t, priority),
      NULL },

    { ngx_string("infer_sampling"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_1MORE,
      ngx_http_infer_sampling,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("infer_system"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_TAKE1,
      ngx_http_set_complex_value_slot,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_infer_loc_conf_t, system),
      NULL },

    { ngx_string("infer_api_keys"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_TAKE1,
      ngx_http_infer_api_keys,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("infer_prefix_scope"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_TAKE1,
      ngx_http_set_complex_value_slot,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_infer_loc_conf_t, prefix_scope),
      NULL },

    { ngx_string("infer_cors"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_1MORE,
      ngx_http_infer_cors,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("infer_ping"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_TAKE1,
      ngx_conf_set_msec_slot,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_infer_loc_conf_t, ping),
      NULL },

    { ngx_string("infer_cache"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_TAKE12,
      ngx_http_infer_cache,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("infer_cache_lock"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_TAKE12,
      ngx_http_infer_cache_lock,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("infer_cache_valid"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_TAKE123,
      ngx_http_infer_cache_valid,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("infer_cache_max_size"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_TAKE1,
      ngx_conf_set_size_slot,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_infer_loc_conf_t, cache.max_size),
      NULL },

    { ngx_string("infer_cache_sampled"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_FLAG,
      ngx_conf_set_flag_slot,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_infer_loc_conf_t, cache.sampled),
      NULL },

    { ngx_string("infer_cache_scope"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_TAKE1,
      ngx_http_set_complex_value_slot,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_infer_loc_conf_t, cache.scope),
      NULL },

    { ngx_string("infer_cache_tag"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_TAKE1,
      ngx_http_set_complex_value_slot,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_infer_loc_conf_t, cache.tag),
      NULL },

    { ngx_string("infer_cache_bypass"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_1MORE,
      ngx_http_set_predicate_slot,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_infer_loc_conf_t, cache.bypass),
      NULL },

    { ngx_string("infer_no_cache"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_1MORE,
      ngx_http_set_predicate_slot,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_infer_loc_conf_t, cache.no_cache),
      NULL },

    { ngx_string("infer_cache_use_stale"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_1MORE,
      ngx_http_infer_cache_use_stale,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("infer_cache_refresh"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_FLAG,
      ngx_conf_set_flag_slot,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_infer_loc_conf_t, cache.refresh),
      NULL },

    { ngx_string("infer_cache_pace"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_TAKE1,
      ngx_conf_set_num_slot,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_infer_loc_conf_t, cache.pace),
      NULL },

    { ngx_string("infer_cache_purge"),
      NGX_HTTP_LOC_CONF|NGX_CONF_TAKE1,
      ngx_http_infer_cache_purge,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

      ngx_null_command
};


static ngx_http_module_t  ngx_http_infer_module_ctx = {
    ngx_http_infer_add_variables,          /* preconfiguration */
    ngx_http_infer_postconfiguration,      /* postconfiguration */

    ngx_http_infer_create_main_conf,       /* create main configuration */
    NULL,                                  /* init main configuration */

    NULL,                                  /* create server configuration */
    NULL,                                  /* merge server configuration */

    ngx_http_infer_create_loc_conf,        /* create location configuration */
    ngx_http_infer_merge_loc_conf          /* merge location configuration */
};


ngx_module_t  ngx_http_infer_module = {
    NGX_MODULE_V1,
    &ngx_http_infer_module_ctx,            /* module context */
    ngx_http_infer_commands,               /* module directives */
    NGX_HTTP_MODULE,                       /* module type */
    NULL,                                  /* init master */
    ngx_http_infer_zone_commit,            /* init module */
    ngx_http_infer_zone_process,           /* init process */
    NULL,                                  /* init thread */
    NULL,                                  /* exit thread */
    ngx_http_infer_zone_exit,              /* exit process */
    NULL,                                  /* exit master */
    NGX_MODULE_V1_PADDING
};


static ngx_http_variable_t  ngx_http_infer_vars[] = {

    { ngx_string("infer_model"), NULL, ngx_http_infer_variable,
      ngx_http_infer_var_model, NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("infer_prompt_tokens"), NULL, ngx_http_infer_variable,
      ngx_http_infer_var_prompt_tokens, NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("infer_completion_tokens"), NULL, ngx_http_infer_variable,
      ngx_http_infer_var_completion_tokens, NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("infer_queue_time"), NULL, ngx_http_infer_variable,
      ngx_http_infer_var_queue_time, NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("infer_first_token_time"), NULL, ngx_http_infer_variable,
      ngx_http_infer_var_first_token_time, NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("infer_finish_reason"), NULL, ngx_http_infer_variable,
      ngx_http_infer_var_finish_reason, NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("infer_key"), NULL, ngx_http_infer_variable,
      ngx_http_infer_var_key, NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("infer_request_id"), NULL, ngx_http_infer_variable,
      ngx_http_infer_var_request_id, NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("infer_cache_status"), NULL, ngx_http_infer_variable,
      ngx_http_infer_var_cache_status, NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("infer_cache_key"), NULL, ngx_http_infer_variable,
      ngx_http_infer_var_cache_key, NGX_HTTP_VAR_NOCACHEABLE, 0 },

      ngx_http_null_variable
};


static ngx_int_t
ngx_http_infer_add_variables(ngx_conf_t *cf)
{
    ngx_http_variable_t  *var, *v;

    for (v = ngx_http_infer_vars; v->name.len; v++) {
        var = ngx_http_add_variable(cf, &v->name, v->flags);
        if (var == NULL) {
            return NGX_ERROR;
        }

        var->get_handler = v->get_handler;
        var->data = v->data;
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_infer_variable(ngx_http_request_t *r, ngx_http_variable_value_t *v,
    uintptr_t data)
{
    u_char                 *p;
    uint64_t                us;
    ngx_str_t               value;
    ngx_uint_t              known;
    ngx_http_infer_info_t  *info;

    info = ngx_http_get_module_ctx(r, ngx_http_infer_module);

    if (info == NULL) {
        v->not_found = 1;
        return NGX_OK;
    }

    us = 0;
    known = 0;
    ngx_str_null(&value);

    /* of a time, a number or a key */

    p = ngx_pnalloc(r->pool, ngx_max(NGX_INT64_LEN + sizeof(".000"),
                                     2 * INFER_STORE_KEY));
    if (p == NULL) {
        return NGX_ERROR;
    }

    switch (data) {

    case ngx_http_infer_var_model:
        value = info->model;
        break;

    case ngx_http_infer_var_finish_reason:
        value = info->finish_reason;
        break;

    case ngx_http_infer_var_key:
        value = info->key;
        break;

    case ngx_http_infer_var_request_id:
        value = info->request_id;
        break;

    case ngx_http_infer_var_cache_status:
        value = info->cache_status;
        break;

    case ngx_http_infer_var_cache_key:

        if (info->has_cache_key) {
            value.data = p;
            value.len = ngx_hex_dump(p, info->cache_key, INFER_STORE_KEY) - p;
        }

        break;

    case ngx_http_infer_var_prompt_tokens:
    case ngx_http_infer_var_completion_tokens:

        if (info->has_prompt) {
            value.data = p;
            value.len = ngx_sprintf(p, "%ui",
                                    data == ngx_http_infer_var_prompt_tokens
                                    ? info->prompt_tokens
                                    : info->completion_tokens)
                        - p;
        }

        break;

    case ngx_http_infer_var_queue_time:
        us = info->queue_us;
        known = info->has_queue;
        break;

    case ngx_http_infer_var_first_token_time:
        us = info->first_us;
        known = info->has_first;
        break;
    }

    if (known) {
        value.data = p;
        value.len = ngx_sprintf(p, "%uL.%03uL", us / 1000000,
                                us / 1000 % 1000)
                    - p;
    }

    if (value.len == 0) {
        v->not_found = 1;
        return NGX_OK;
    }

    v->len = value.len;
    v->valid = 1;
    v->no_cacheable = 0;
    v->not_found = 0;
    v->data = value.data;

    return NGX_OK;
}


static ngx_int_t
ngx_http_infer_postconfiguration(ngx_conf_t *cf)
{
    ngx_http_infer_main_conf_t  *imcf;

    imcf = ngx_http_conf_get_module_main_conf(cf, ngx_http_infer_module);

    if (ngx_http_infer_conf_finish(cf, imcf) != NGX_OK
        || ngx_http_infer_redis_finish(cf, imcf) != NGX_OK)
    {
        return NGX_ERROR;
    }

    return ngx_http_infer_filter_init(cf);
}


static void *
ngx_http_infer_create_main_conf(ngx_conf_t *cf)
{
    ngx_http_infer_main_conf_t  *imcf;

    imcf = ngx_pcalloc(cf->pool, sizeof(ngx_http_infer_main_conf_t));
    if (imcf == NULL) {
        return NULL;
    }

    /*
     * set by ngx_pcalloc():
     *
     *     imcf->max_tokens = 0;
     *     imcf->random = { 0 };
     *     imcf->secret_set = 0;
     */

    if (ngx_array_init(&imcf->zones, cf->pool, 2,
                       sizeof(ngx_http_infer_zone_t *))
        != NGX_OK
        || ngx_array_init(&imcf->models, cf->pool, 4,
                          sizeof(ngx_http_infer_model_t *))
           != NGX_OK
        || ngx_array_init(&imcf->engines, cf->pool, 2,
                          sizeof(ngx_http_infer_engine_conf_t *))
           != NGX_OK
        || ngx_array_init(&imcf->caches, cf->pool, 2,
                          sizeof(ngx_http_infer_cache_t *))
           != NGX_OK
        || ngx_array_init(&imcf->redis, cf->pool, 2,
                          sizeof(ngx_http_infer_redis_t *))
           != NGX_OK)
    {
        return NULL;
    }

    return imcf;
}


static void *
ngx_http_infer_create_loc_conf(ngx_conf_t *cf)
{
    ngx_http_infer_loc_conf_t  *conf;

    conf = ngx_pcalloc(cf->pool, sizeof(ngx_http_infer_loc_conf_t));
    if (conf == NULL) {
        return NULL;
    }

    /*
     * set by ngx_pcalloc():
     *
     *     conf->infer = NULL;
     *     conf->model = NULL;
     *     conf->endpoints = 0;
     *     conf->thread_pool = NULL;
     *     conf->priority = NULL;
     *     conf->sampling_set = 0;
     *     conf->sampling = { 0 };
     *     conf->system = NULL;
     *     conf->prefix_scope = NULL;
     *     conf->place = { 0 };
     */

    conf->max_tokens = NGX_CONF_UNSET_UINT;
    conf->max_tokens_cap = NGX_CONF_UNSET_UINT;
    conf->queue_length = NGX_CONF_UNSET_UINT;
    conf->queue_tokens = NGX_CONF_UNSET_UINT;
    conf->queue_timeout = NGX_CONF_UNSET_MSEC;
    conf->first_timeout = NGX_CONF_UNSET_MSEC;
    conf->total_timeout = NGX_CONF_UNSET_MSEC;
    conf->max_n = NGX_CONF_UNSET_UINT;
    conf->keys = NGX_CONF_UNSET_PTR;
    conf->cors = NGX_CONF_UNSET_PTR;
    conf->ping = NGX_CONF_UNSET_MSEC;

    ngx_http_infer_cache_create_conf(&conf->cache);

    return conf;
}


static char *
ngx_http_infer_merge_loc_conf(ngx_conf_t *cf, void *parent, void *child)
{
    ngx_http_infer_loc_conf_t *prev = parent;
    ngx_http_infer_loc_conf_t *conf = child;

    ngx_conf_merge_bitmask_value(conf->endpoints, prev->endpoints,
                              (NGX_CONF_BITMASK_SET|NGX_HTTP_INFER_EP_ALL));

    if (conf->thread_pool == NULL) {
        conf->thread_pool = prev->thread_pool;
    }

    ngx_conf_merge_uint_value(conf->max_tokens, prev->max_tokens, 1024);
    ngx_conf_merge_uint_value(conf->max_tokens_cap, prev->max_tokens_cap, 0);
    ngx_conf_merge_uint_value(conf->queue_length, prev->queue_length, 0);
    ngx_conf_merge_uint_value(conf->queue_tokens, prev->queue_tokens, 0);
    ngx_conf_merge_msec_value(conf->queue_timeout, prev->queue_timeout,
                              30000);
    ngx_conf_merge_msec_value(conf->first_timeout, prev->first_timeout,
                              60000);
    ngx_conf_merge_msec_value(conf->total_timeout, prev->total_timeout,
                              600000);

    if (conf->priority == NULL) {
        conf->priority = prev->priority;
    }

    ngx_http_infer_merge_sampling(prev, conf);

    ngx_conf_merge_uint_value(conf->max_n, prev->max_n, 8);

    if (conf->system == NULL) {
        conf->system = prev->system;
    }

    ngx_conf_merge_ptr_value(conf->keys, prev->keys, NULL);

    if (conf->prefix_scope == NULL) {
        conf->prefix_scope = prev->prefix_scope;
    }

    ngx_conf_merge_ptr_value(conf->cors, prev->cors, NULL);
    ngx_conf_merge_msec_value(conf->ping, prev->ping, 15000);

    (void) ngx_http_infer_cache_merge_conf(&prev->cache, &conf->cache);
    ngx_http_infer_merge_purge(cf, prev, conf);

    return ngx_http_infer_merge_target(cf, prev, conf);
}


static void
ngx_http_infer_merge_sampling(ngx_http_infer_loc_conf_t *prev,
    ngx_http_infer_loc_conf_t *conf)
{
    ngx_uint_t         set;
    infer_sampling_t  *s, *p;

    s = &conf->sampling;
    p = &prev->sampling;
    set = conf->sampling_set;

    /* each key is inherited by itself; the default is "off" */

#define ngx_http_infer_merge_key(field, bit, value)                           \
    if (!(set & bit)) {                                                       \
        s->field = (prev->sampling_set & bit) ? p->field : value;             \
    }

    ngx_http_infer_merge_key(temperature, NGX_HTTP_INFER_SET_TEMPERATURE, 1);
    ngx_http_infer_merge_key(top_p, NGX_HTTP_INFER_SET_TOP_P, 1);
    ngx_http_infer_merge_key(min_p, NGX_HTTP_INFER_SET_MIN_P, 0);
    ngx_http_infer_merge_key(top_k, NGX_HTTP_INFER_SET_TOP_K, 0);
    ngx_http_infer_merge_key(repetition_penalty,
                             NGX_HTTP_INFER_SET_REPETITION, 1);
    ngx_http_infer_merge_key(presence_penalty, NGX_HTTP_INFER_SET_PRESENCE,
                             0);
    ngx_http_infer_merge_key(frequency_penalty, NGX_HTTP_INFER_SET_FREQUENCY,
                             0);
    ngx_http_infer_merge_key(seed, NGX_HTTP_INFER_SET_SEED, 0);

#undef ngx_http_infer_merge_key

    conf->sampling_set |= prev->sampling_set;
}


/* like infer: not inherited, but for the blocks within its location */

static void
ngx_http_infer_merge_purge(ngx_conf_t *cf, ngx_http_infer_loc_conf_t *prev,
    ngx_http_infer_loc_conf_t *conf)
{
    ngx_http_core_loc_conf_t  *clcf;

    clcf = ngx_http_conf_get_module_loc_conf(cf, ngx_http_core_module);

    if (conf->cache.purge != NULL || !(clcf->noname || clcf->lmt_excpt)) {
        return;
    }

    conf->cache.purge = prev->cache.purge;

    if (conf->cache.purge != NULL && clcf->lmt_excpt
        && clcf->handler == NULL)
    {
        clcf->handler = ngx_http_infer_purge_handler;
    }
}


/* infer itself is not inherited, but for the "if" blocks of its location */

static char *
ngx_http_infer_merge_target(ngx_conf_t *cf, ngx_http_infer_loc_conf_t *prev,
    ngx_http_infer_loc_conf_t *conf)
{
    ngx_http_core_loc_conf_t    *clcf;
    ngx_http_infer_main_conf_t  *imcf;

    clcf = ngx_http_conf_get_module_loc_conf(cf, ngx_http_core_module);

    if (conf->infer == NULL && (clcf->noname || clcf->lmt_excpt)) {
        conf->infer = prev->infer;
        conf->model = prev->model;
        conf->place = prev->place;

        if (conf->infer != NULL && clcf->lmt_excpt && clcf->handler == NULL) {
            clcf->handler = ngx_http_infer_handler;
        }
    }

    if (conf->infer == NULL) {
        return NGX_CONF_OK;
    }

    imcf = ngx_http_conf_get_module_main_conf(cf, ngx_http_infer_module);

    if (conf->infer->lengths == NULL && conf->model == NULL) {
        conf->model = ngx_http_infer_find_model(imcf, &conf->infer->value);

        if (conf->model == NULL) {
            ngx_http_infer_emerg(cf->log, &conf->place, 0,
                                 "\"infer\" names the unknown model \"%V\"",
                                 &conf->infer->value);
            return NGX_CONF_ERROR;
        }
    }

    if (conf->max_tokens_cap && conf->max_tokens > conf->max_tokens_cap) {
        conf->max_tokens = conf->max_tokens_cap;
    }

    imcf->max_tokens = ngx_max(imcf->max_tokens, conf->max_tokens);

    if (conf->thread_pool == NULL) {
        conf->thread_pool = ngx_thread_pool_add(cf, NULL);
        if (conf->thread_pool == NULL) {
            return NGX_CONF_ERROR;
        }
    }

    return NGX_CONF_OK;
}
