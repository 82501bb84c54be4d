
/*
 * infer_zone and infer_engine, and how models find their zones and zones
 * their engines once all of them are known.
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>

#include "ngx_http_infer_module.h"


#define NGX_HTTP_INFER_MAX_CPUS   128
#define NGX_HTTP_INFER_MAX_NAME   63


static char *ngx_http_infer_engine_param(ngx_conf_t *cf,
    ngx_http_infer_engine_conf_t *ecf, ngx_str_t *value);
static char *ngx_http_infer_cpus(ngx_conf_t *cf,
    ngx_http_infer_engine_conf_t *ecf, ngx_str_t *list);
static char *ngx_http_infer_env(ngx_conf_t *cf,
    ngx_http_infer_engine_conf_t *ecf, ngx_str_t *env);
static ngx_http_infer_zone_t *ngx_http_infer_add_zone(ngx_conf_t *cf,
    ngx_http_infer_main_conf_t *imcf, ngx_str_t *name, size_t size,
    ngx_http_infer_place_t *place);
static ngx_http_infer_zone_t *ngx_http_infer_find_zone(
    ngx_http_infer_main_conf_t *imcf, ngx_str_t *name);
static ngx_int_t ngx_http_infer_model_zone(ngx_conf_t *cf,
    ngx_http_infer_main_conf_t *imcf, ngx_http_infer_model_t *model);
static ngx_int_t ngx_http_infer_zone_shm(ngx_conf_t *cf,
    ngx_http_infer_zone_t *zone);


void
ngx_http_infer_place(ngx_conf_t *cf, ngx_http_infer_place_t *place)
{
    place->file = cf->conf_file->file.name;
    place->line = cf->conf_file->line;
}


void ngx_cdecl
ngx_http_infer_emerg(ngx_log_t *log, ngx_http_infer_place_t *place,
    ngx_err_t err, const char *fmt, ...)
{
    u_char   errstr[NGX_MAX_CONF_ERRSTR], *p, *last;
    va_list  args;

    last = errstr + NGX_MAX_CONF_ERRSTR;

    va_start(args, fmt);
    p = ngx_vslprintf(errstr, last, fmt, args);
    va_end(args);

    if (err) {
        p = ngx_log_errno(p, last, err);
    }

    ngx_log_error(NGX_LOG_EMERG, log, 0, "%*s in %V:%ui",
                  (size_t) (p - errstr), errstr, &place->file, place->line);
}


/* names appear in logs, JSON, arguments and metrics */

ngx_int_t
ngx_http_infer_valid_name(ngx_str_t *name)
{
    u_char  *p, *last;

    if (name->len == 0 || name->len > NGX_HTTP_INFER_MAX_NAME) {
        return NGX_DECLINED;
    }

    last = name->data + name->len;

    for (p = name->data; p < last; p++) {
        if (*p <= 0x20 || *p >= 0x7f || *p == '"' || *p == '\\') {
            return NGX_DECLINED;
        }
    }

    return NGX_OK;
}


char *
ngx_http_infer_zone_directive(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_infer_main_conf_t *imcf = conf;

    ssize_t                 size;
    ngx_str_t              *value;
    ngx_http_infer_place_t  place;

    value = cf->args->elts;
    size = 0;

    if (ngx_http_infer_valid_name(&value[1]) != NGX_OK) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid zone name \"%V\"", &value[1]);
        return NGX_CONF_ERROR;
    }

    if (ngx_http_infer_find_zone(imcf, &value[1]) != NULL) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "infer_zone \"%V\" is duplicate", &value[1]);
        return NGX_CONF_ERROR;
    }

    if (cf->args->nelts == 3) {
        size = ngx_parse_size(&value[2]);

        if (size <= 0) {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "invalid zone size \"%V\"", &value[2]);
            return NGX_CONF_ERROR;
        }
    }

    ngx_http_infer_place(cf, &place);

    if (ngx_http_infer_add_zone(cf, imcf, &value[1], size, &place) == NULL) {
        return NGX_CONF_ERROR;
    }

    return NGX_CONF_OK;
}


char *
ngx_http_infer_engine_directive(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf)
{
    ngx_http_infer_main_conf_t *imcf = conf;

    char                           *rv;
    ngx_str_t                      *value;
    ngx_uint_t                      i;
    ngx_http_infer_engine_conf_t   *ecf, **ecfp;

    value = cf->args->elts;

    ecfp = imcf->engines.elts;

    for (i = 0; i < imcf->engines.nelts; i++) {
        if (ecfp[i]->name.len == value[1].len
            && ngx_strncmp(ecfp[i]->name.data, value[1].data, value[1].len)
               == 0)
        {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "infer_engine \"%V\" is duplicate", &value[1]);
            return NGX_CONF_ERROR;
        }
    }

    ecf = ngx_pcalloc(cf->pool, sizeof(ngx_http_infer_engine_conf_t));
    if (ecf == NULL) {
        return NGX_CONF_ERROR;
    }

    ecf->name = value[1];
    ecf->hang = NGX_HTTP_INFER_HANG;
    ngx_str_set(&ecf->isa, "auto");
    ngx_http_infer_place(cf, &ecf->place);

    if (ngx_array_init(&ecf->cpus, cf->pool, 8, sizeof(uint16_t)) != NGX_OK
        || ngx_array_init(&ecf->env, cf->pool, 4, sizeof(ngx_str_t))
           != NGX_OK)
    {
        return NGX_CONF_ERROR;
    }

    for (i = 2; i < cf->args->nelts; i++) {
        rv = ngx_http_infer_engine_param(cf, ecf, &value[i]);

        if (rv != NGX_CONF_OK) {
            return rv;
        }
    }

    ecfp = ngx_array_push(&imcf->engines);
    if (ecfp == NULL) {
        return NGX_CONF_ERROR;
    }

    *ecfp = ecf;

    return NGX_CONF_OK;
}


static char *
ngx_http_infer_engine_param(ngx_conf_t *cf, ngx_http_infer_engine_conf_t *ecf,
    ngx_str_t *value)
{
    ngx_str_t   s;
    ngx_int_t   n;
    ngx_uint_t  i;

    static ngx_str_t  isas[] = {
        ngx_string("auto"), ngx_string("ref"), ngx_string("ref-q8"),
        ngx_string("avx2"), ngx_string("avxvnni"), ngx_string("vnni256"),
        ngx_string("avx512"), ngx_string("neon")
    };

    if (ngx_strncmp(value->data, "threads=", 8) == 0) {
        n = ngx_atoi(value->data + 8, value->len - 8);

        if (n < 1 || n > NGX_HTTP_INFER_MAX_CPUS) {
            goto invalid;
        }

        ecf->threads = n;
        return NGX_CONF_OK;
    }

    if (ngx_strncmp(value->data, "nice=", 5) == 0) {
        if (value->len > 5 && value->data[5] == '-') {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "\"infer_engine\" cannot raise its priority, "
                               "\"%V\" must not be negative", value);
            return NGX_CONF_ERROR;
        }

        n = ngx_atoi(value->data + 5, value->len - 5);

        if (n < 0 || n > 19) {
            goto invalid;
        }

        ecf->nice = n;
        return NGX_CONF_OK;
    }

    if (ngx_strncmp(value->data, "cpus=", 5) == 0) {
        s.data = value->data + 5;
        s.len = value->len - 5;

        return ngx_http_infer_cpus(cf, ecf, &s);
    }

    if (ngx_strncmp(value->data, "env=", 4) == 0) {
        s.data = value->data + 4;
        s.len = value->len - 4;

        return ngx_http_infer_env(cf, ecf, &s);
    }

    if (ngx_strncmp(value->data, "hang=", 5) == 0) {
        s.data = value->data + 5;
        s.len = value->len - 5;

        ecf->hang = ngx_parse_time(&s, 0);

        if (ecf->hang == (ngx_msec_t) NGX_ERROR || s.len == 0) {
            goto invalid;
        }

        return NGX_CONF_OK;
    }

    if (ngx_strncmp(value->data, "path=", 5) == 0 && value->len > 5) {
        ecf->path.data = value->data + 5;
        ecf->path.len = value->len - 5;

        if (ngx_conf_full_name(cf->cycle, &ecf->path, 0) != NGX_OK) {
            return NGX_CONF_ERROR;
        }

        return NGX_CONF_OK;
    }

    if (ngx_strncmp(value->data, "isa=", 4) == 0) {

        for (i = 0; i < sizeof(isas) / sizeof(isas[0]); i++) {
            if (ngx_strcmp(value->data + 4, isas[i].data) == 0) {
                ecf->isa = isas[i];
                return NGX_CONF_OK;
            }
        }
    }

invalid:

    ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                       "invalid \"infer_engine\" parameter \"%V\"", value);

    return NGX_CONF_ERROR;
}


/* "0,2-5" */

static char *
ngx_http_infer_cpus(ngx_conf_t *cf, ngx_http_infer_engine_conf_t *ecf,
    ngx_str_t *list)
{
    u_char     *p, *last, *end, *dash;
    uint16_t   *cpu;
    ngx_int_t   from, to;

    p = list->data;
    last = list->data + list->len;

    while (p <= last) {
        end = ngx_strlchr(p, last, ',');
        if (end == NULL) {
            end = last;
        }

        dash = ngx_strlchr(p, end, '-');

        from = ngx_atoi(p, (dash ? dash : end) - p);
        to = dash ? ngx_atoi(dash + 1, end - dash - 1) : from;

        if (from < 0 || to < from || to >= 65536
            || ecf->cpus.nelts + (to - from) + 1 > NGX_HTTP_INFER_MAX_CPUS)
        {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "invalid list of cpus \"%V\"", list);
            return NGX_CONF_ERROR;
        }

        for ( /* void */ ; from <= to; from++) {
            cpu = ngx_array_push(&ecf->cpus);
            if (cpu == NULL) {
                return NGX_CONF_ERROR;
            }

            *cpu = from;
        }

        p = end + 1;
    }

    return NGX_CONF_OK;
}


/* NAME=VALUE, or NAME with the value that the master was started with */

static char *
ngx_http_infer_env(ngx_conf_t *cf, ngx_http_infer_engine_conf_t *ecf,
    ngx_str_t *env)
{
    char       **e;
    ngx_str_t   *var;

    if (env->len == 0 || env->data[0] == '=') {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid \"infer_engine\" parameter \"env=%V\"",
                           env);
        return NGX_CONF_ERROR;
    }

    if (ngx_strlchr(env->data, env->data + env->len, '=') != NULL) {
        var = ngx_array_push(&ecf->env);
        if (var == NULL) {
            return NGX_CONF_ERROR;
        }

        *var = *env;
        return NGX_CONF_OK;
    }

    for (e = environ; *e; e++) {

        if (ngx_strncmp(*e, env->data, env->len) != 0
            || (*e)[env->len] != '=')
        {
            continue;
        }

        var = ngx_array_push(&ecf->env);
        if (var == NULL) {
            return NGX_CONF_ERROR;
        }

        var->data = (u_char *) *e;
        var->len = ngx_strlen(*e);
        break;
    }

    return NGX_CONF_OK;
}


ngx_http_infer_model_t *
ngx_http_infer_find_model(ngx_http_infer_main_conf_t *imcf, ngx_str_t *name)
{
    ngx_str_t                *alias;
    ngx_uint_t                i, n;
    ngx_http_infer_model_t  **models;

    models = imcf->models.elts;

    for (i = 0; i < imcf->models.nelts; i++) {

        if (models[i]->name.len == name->len
            && ngx_strncmp(models[i]->name.data, name->data, name->len) == 0)
        {
            return models[i];
        }

        alias = models[i]->aliases.elts;

        for (n = 0; n < models[i]->aliases.nelts; n++) {
            if (alias[n].len == name->len
                && ngx_strncmp(alias[n].data, name->data, name->len) == 0)
            {
                return models[i];
            }
        }
    }

    return NULL;
}


static ngx_http_infer_zone_t *
ngx_http_infer_find_zone(ngx_http_infer_main_conf_t *imcf, ngx_str_t *name)
{
    ngx_uint_t               i;
    ngx_http_infer_zone_t  **zones;

    zones = imcf->zones.elts;

    for (i = 0; i < imcf->zones.nelts; i++) {
        if (zones[i]->name.len == name->len
            && ngx_strncmp(zones[i]->name.data, name->data, name->len) == 0)
        {
            return zones[i];
        }
    }

    return NULL;
}


static ngx_http_infer_zone_t *
ngx_http_infer_add_zone(ngx_conf_t *cf, ngx_http_infer_main_conf_t *imcf,
    ngx_str_t *name, size_t size, ngx_http_infer_place_t *place)
{
    ngx_http_infer_zone_t  *zone, **zp;

    zone = ngx_pcalloc(cf->pool, sizeof(ngx_http_infer_zone_t));
    if (zone == NULL) {
        return NULL;
    }

    zone->name = *name;
    zone->size = size;
    zone->place = *place;
    zone->cycle = cf->cycle;

    if (ngx_array_init(&zone->models, cf->pool, 2,
                       sizeof(ngx_http_infer_model_t *))
        != NGX_OK)
    {
        return NULL;
    }

    zp = ngx_array_push(&imcf->zones);
    if (zp == NULL) {
        return NULL;
    }

    *zp = zone;

    return zone;
}


ngx_int_t
ngx_http_infer_conf_finish(ngx_conf_t *cf, ngx_http_infer_main_conf_t *imcf)
{
    ngx_uint_t                      i;
    ngx_http_infer_zone_t          *zone, **zones;
    ngx_http_infer_model_t        **models;
    ngx_http_infer_engine_conf_t  **engines;

    models = imcf->models.elts;

    for (i = 0; i < imcf->models.nelts; i++) {
        if (ngx_http_infer_model_zone(cf, imcf, models[i]) != NGX_OK) {
            return NGX_ERROR;
        }
    }

    engines = imcf->engines.elts;

    for (i = 0; i < imcf->engines.nelts; i++) {
        zone = ngx_http_infer_find_zone(imcf, &engines[i]->name);

        if (zone == NULL) {
            ngx_http_infer_emerg(cf->log, &engines[i]->place, 0,
                                 "\"infer_engine\" names the unknown zone "
                                 "\"%V\"", &engines[i]->name);
            return NGX_ERROR;
        }

        zone->engine = engines[i];
    }

    zones = imcf->zones.elts;

    for (i = 0; i < imcf->zones.nelts; i++) {
        zones[i]->max_tokens = imcf->max_tokens ? imcf->max_tokens : 1024;

        if (zones[i]->models.nelts != 0
            && ngx_http_infer_zone_shm(cf, zones[i]) != NGX_OK)
        {
            return NGX_ERROR;
        }
    }

    return NGX_OK;
}


/* without "zone": the only zone that there is, or "default" */

static ngx_int_t
ngx_http_infer_model_zone(ngx_conf_t *cf, ngx_http_infer_main_conf_t *imcf,
    ngx_http_infer_model_t *model)
{
    ngx_str_t                 name;
    ngx_http_infer_zone_t    *zone, **zones;
    ngx_http_infer_model_t  **mp;

    zone = NULL;

    if (model->zone_name.len != 0) {
        zone = ngx_http_infer_find_zone(imcf, &model->zone_name);

        if (zone == NULL) {
            ngx_http_infer_emerg(cf->log, &model->place, 0,
                                 "infer_model \"%V\" names the unknown zone "
                                 "\"%V\"", &model->name, &model->zone_name);
            return NGX_ERROR;
        }

    } else if (imcf->zones.nelts == 1) {
        zones = imcf->zones.elts;
        zone = zones[0];

    } else {
        ngx_str_set(&name, "default");

        zone = ngx_http_infer_find_zone(imcf, &name);

        if (zone == NULL) {
            zone = ngx_http_infer_add_zone(cf, imcf, &name, 0,
                                           &model->place);
            if (zone == NULL) {
                return NGX_ERROR;
            }
        }
    }

    if (zone->models.nelts == INFER_MAX_MODELS) {
        ngx_http_infer_emerg(cf->log, &model->place, 0,
                             "infer_zone \"%V\" cannot hold more than %d "
                             "models, \"%V\" is one too many", &zone->name,
                             INFER_MAX_MODELS, &model->name);
        return NGX_ERROR;
    }

    mp = ngx_array_push(&zone->models);
    if (mp == NULL) {
        return NGX_ERROR;
    }

    *mp = model;
    model->zone = zone;
    model->index = zone->models.nelts - 1;

    return NGX_OK;
}


/*
 * The bus is a memfd of our own. A small shared memory zone of nginx gives it
 * a callback that can refuse a reload, and hands us the zone of the cycle
 * before.
 */

static ngx_int_t
ngx_http_infer_zone_shm(ngx_conf_t *cf, ngx_http_infer_zone_t *zone)
{
    ngx_str_t            name;
    ngx_pool_cleanup_t  *cln;

    name.len = sizeof("infer_zone:") - 1 + zone->name.len;
    name.data = ngx_pnalloc(cf->pool, name.len + 1);
    if (name.data == NULL) {
        return NGX_ERROR;
    }

    ngx_sprintf(name.data, "infer_zone:%V%Z", &zone->name);

    zone->shm_zone = ngx_shared_memory_add(cf, &name, 8 * ngx_pagesize,
                                           &ngx_http_infer_module);
    if (zone->shm_zone == NULL) {
        return NGX_ERROR;
    }

    cln = ngx_pool_cleanup_add(cf->cycle->pool, 0);
    if (cln == NULL) {
        return NGX_ERROR;
    }

    cln->handler = ngx_http_infer_zone_cleanup;
    cln->data = zone;

    zone->shm_zone->init = ngx_http_infer_zone_init;
    zone->shm_zone->data = zone;

    return NGX_OK;
}
