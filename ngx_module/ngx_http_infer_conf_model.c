
/*
 * infer_model {}: reads the block. Files are opened and judged later, in the
 * shm zone's callback, so that each directive's place is kept.
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>

#include "ngx_http_infer_module.h"

#include <ngx_sha1.h>


static void ngx_http_infer_model_names(ngx_http_infer_model_t *model);
static char *ngx_http_infer_model_param(ngx_conf_t *cf, ngx_command_t *dummy,
    void *conf);
static char *ngx_http_infer_model_number(ngx_conf_t *cf,
    ngx_uint_t *number, ngx_uint_t max);
static char *ngx_http_infer_model_time(ngx_conf_t *cf, ngx_msec_t *time);
static char *ngx_http_infer_model_string(ngx_conf_t *cf, ngx_str_t *string);
static char *ngx_http_infer_model_file(ngx_conf_t *cf, ngx_str_t *file,
    ngx_http_infer_place_t *place);
static char *ngx_http_infer_model_kv(ngx_conf_t *cf,
    ngx_http_infer_model_t *model);
static char *ngx_http_infer_model_device(ngx_conf_t *cf,
    ngx_http_infer_model_t *model);
static char *ngx_http_infer_model_precision(ngx_conf_t *cf,
    ngx_http_infer_model_t *model);
static char *ngx_http_infer_model_gpu_memory(ngx_conf_t *cf,
    ngx_http_infer_model_t *model);
static char *ngx_http_infer_model_alias(ngx_conf_t *cf,
    ngx_http_infer_model_t *model);


/* in the order of infer_bus_model_t.kv_type */

ngx_str_t  ngx_http_infer_kv_types[] = {
    ngx_string("f16"),
    ngx_string("bf16"),
    ngx_string("q8"),
    ngx_string("fp8"),
    ngx_null_string
};


/* in the order of infer_bus_model_t.precision */

ngx_str_t  ngx_http_infer_precisions[] = {
    ngx_string("q8"),
    ngx_string("bf16"),
    ngx_string("f16"),
    ngx_string("w4a16"),
    ngx_string("fp8"),
    ngx_string("w8a8"),
    ngx_null_string
};


char *
ngx_http_infer_model_block(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_infer_main_conf_t *imcf = conf;

    char                     *rv;
    ngx_str_t                *value;
    ngx_conf_t                save;
    ngx_http_infer_model_t   *model, **mp;

    value = cf->args->elts;

    if (ngx_http_infer_valid_name(&value[1]) != NGX_OK) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid model name \"%V\"", &value[1]);
        return NGX_CONF_ERROR;
    }

    if (ngx_http_infer_find_model(imcf, &value[1]) != NULL) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "infer_model \"%V\" is duplicate", &value[1]);
        return NGX_CONF_ERROR;
    }

    model = ngx_pcalloc(cf->pool, sizeof(ngx_http_infer_model_t));
    if (model == NULL) {
        return NGX_CONF_ERROR;
    }

    model->name = value[1];
    ngx_http_infer_place(cf, &model->place);
    model->path_place = model->place;

    if (ngx_array_init(&model->aliases, cf->pool, 2, sizeof(ngx_str_t))
        != NGX_OK)
    {
        return NGX_CONF_ERROR;
    }

    mp = ngx_array_push(&imcf->models);
    if (mp == NULL) {
        return NGX_CONF_ERROR;
    }

    *mp = model;

    save = *cf;
    cf->handler = ngx_http_infer_model_param;
    cf->handler_conf = (void *) model;

    rv = ngx_conf_parse(cf, NULL);

    *cf = save;

    if (rv != NGX_CONF_OK) {
        return rv;
    }

    if (model->path.len == 0) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "infer_model \"%V\" has no \"path\"",
                           &model->name);
        return NGX_CONF_ERROR;
    }

    if (model->device.len == 0) {
        ngx_str_set(&model->device, "cpu");
    }

    if (ngx_strncmp(model->device.data, "cuda", 4) != 0
        && (model->gpu_permille != 0 || model->gpu_bytes != 0))
    {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"gpu_memory\" of infer_model \"%V\" needs "
                           "\"device cuda\"", &model->name);
        return NGX_CONF_ERROR;
    }

    ngx_http_infer_model_names(model);

    return NGX_CONF_OK;
}


/* what "model" in a body may say: another name is a 404 */

static void
ngx_http_infer_model_names(ngx_http_infer_model_t *model)
{
    ngx_str_t   *alias;
    ngx_sha1_t   sha1;
    ngx_uint_t   i;

    alias = model->aliases.elts;

    ngx_sha1_init(&sha1);
    ngx_sha1_update(&sha1, model->name.data, model->name.len);

    for (i = 0; i < model->aliases.nelts; i++) {
        ngx_sha1_update(&sha1, "", 1);
        ngx_sha1_update(&sha1, alias[i].data, alias[i].len);
    }

    ngx_sha1_final(model->names, &sha1);
}


static char *
ngx_http_infer_model_param(ngx_conf_t *cf, ngx_command_t *dummy, void *conf)
{
    char                    *rv;
    ngx_str_t               *value;
    ngx_http_infer_model_t  *model;

    model = (ngx_http_infer_model_t *) cf->handler_conf;
    value = cf->args->elts;

    if (cf->args->nelts < 2
        || (cf->args->nelts > 2 && ngx_strcmp(value[0].data, "alias") != 0
            && ngx_strcmp(value[0].data, "kv_cache") != 0))
    {
        rv = "has an invalid number of arguments";

    } else if (ngx_strcmp(value[0].data, "zone") == 0) {
        rv = ngx_http_infer_model_string(cf, &model->zone_name);

    } else if (ngx_strcmp(value[0].data, "path") == 0) {
        rv = ngx_http_infer_model_file(cf, &model->path, &model->path_place);

    } else if (ngx_strcmp(value[0].data, "chat_template") == 0) {
        rv = ngx_http_infer_model_file(cf, &model->chat_template,
                                       &model->template_place);

    } else if (ngx_strcmp(value[0].data, "alias") == 0) {
        rv = ngx_http_infer_model_alias(cf, model);

    } else if (ngx_strcmp(value[0].data, "device") == 0) {
        rv = ngx_http_infer_model_device(cf, model);

    } else if (ngx_strcmp(value[0].data, "precision") == 0) {
        rv = ngx_http_infer_model_precision(cf, model);

    } else if (ngx_strcmp(value[0].data, "gpu_memory") == 0) {
        rv = ngx_http_infer_model_gpu_memory(cf, model);

    } else if (ngx_strcmp(value[0].data, "context") == 0) {
        rv = ngx_http_infer_model_number(cf, &model->context, 1 << 24);

    } else if (ngx_strcmp(value[0].data, "sequences") == 0) {
        rv = ngx_http_infer_model_number(cf, &model->sequences,
                                         INFER_MAX_SLOTS);

    } else if (ngx_strcmp(value[0].data, "batch_tokens") == 0) {
        rv = ngx_http_infer_model_number(cf, &model->batch_tokens, 65536);

    } else if (ngx_strcmp(value[0].data, "step_time") == 0) {
        rv = ngx_http_infer_model_time(cf, &model->step_time);

    } else if (ngx_strcmp(value[0].data, "kv_cache") == 0) {
        rv = ngx_http_infer_model_kv(cf, model);

    } else {
        rv = "is unknown in \"infer_model\"";
    }

    if (rv == NGX_CONF_OK || rv == NGX_CONF_ERROR) {
        return rv;
    }

    ngx_conf_log_error(NGX_LOG_EMERG, cf, 0, "\"%V\" %s", &value[0], rv);

    return NGX_CONF_ERROR;
}


static char *
ngx_http_infer_model_string(ngx_conf_t *cf, ngx_str_t *string)
{
    ngx_str_t  *value;

    if (string->data != NULL) {
        return "is duplicate";
    }

    value = cf->args->elts;

    if (value[1].len == 0) {
        return "has an empty value";
    }

    *string = value[1];

    return NGX_CONF_OK;
}


static char *
ngx_http_infer_model_file(ngx_conf_t *cf, ngx_str_t *file,
    ngx_http_infer_place_t *place)
{
    char  *rv;

    rv = ngx_http_infer_model_string(cf, file);
    if (rv != NGX_CONF_OK) {
        return rv;
    }

    ngx_http_infer_place(cf, place);

    if (ngx_conf_full_name(cf->cycle, file, 1) != NGX_OK) {
        return NGX_CONF_ERROR;
    }

    return NGX_CONF_OK;
}


static char *
ngx_http_infer_model_number(ngx_conf_t *cf, ngx_uint_t *number,
    ngx_uint_t max)
{
    ngx_int_t   n;
    ngx_str_t  *value;

    if (*number != 0) {
        return "is duplicate";
    }

    value = cf->args->elts;
    n = ngx_atoi(value[1].data, value[1].len);

    if (n < 1 || (ngx_uint_t) n > max) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid \"%V\" value \"%V\", it must be between "
                           "1 and %ui", &value[0], &value[1], max);
        return NGX_CONF_ERROR;
    }

    *number = n;

    return NGX_CONF_OK;
}


static char *
ngx_http_infer_model_time(ngx_conf_t *cf, ngx_msec_t *time)
{
    ngx_int_t   ms;
    ngx_str_t  *value;

    if (*time != 0) {
        return "is duplicate";
    }

    value = cf->args->elts;
    ms = ngx_parse_time(&value[1], 0);

    if (ms < 1 || ms > INFER_MAX_STEP_US / 1000) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid \"%V\" value \"%V\", it must be between "
                           "1ms and %uis", &value[0], &value[1],
                           (ngx_uint_t) INFER_MAX_STEP_US / 1000000);
        return NGX_CONF_ERROR;
    }

    *time = ms;

    return NGX_CONF_OK;
}


static char *
ngx_http_infer_model_kv(ngx_conf_t *cf, ngx_http_infer_model_t *model)
{
    off_t       bytes;
    ngx_str_t  *type, *value;

    if (model->kv_bytes != 0) {
        return "is duplicate";
    }

    value = cf->args->elts;

    type = ngx_http_infer_kv_types;

    if (cf->args->nelts == 3) {
        while (type->len != 0
               && ngx_strcmp(type->data, value[2].data) != 0)
        {
            type++;
        }
    }

    if (cf->args->nelts > 3 || type->len == 0) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "unknown \"kv_cache\" type \"%V\", there are "
                           "\"f16\", \"bf16\", \"q8\" and \"fp8\"",
                           &value[cf->args->nelts - 1]);
        return NGX_CONF_ERROR;
    }

    bytes = ngx_parse_offset(&value[1]);

    if (bytes <= 0) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid \"kv_cache\" value \"%V\"", &value[1]);
        return NGX_CONF_ERROR;
    }

    model->kv_bytes = bytes;
    model->kv_type = type - ngx_http_infer_kv_types;

    return NGX_CONF_OK;
}


/* cpu | cuda[:N], N at most two digits */

static char *
ngx_http_infer_model_device(ngx_conf_t *cf, ngx_http_infer_model_t *model)
{
    char       *rv;
    u_char     *p;
    ngx_str_t  *value;

    rv = ngx_http_infer_model_string(cf, &model->device);
    if (rv != NGX_CONF_OK) {
        return rv;
    }

    value = cf->args->elts;
    p = value[1].data;

    if (ngx_strcmp(p, "cpu") == 0 || ngx_strcmp(p, "cuda") == 0
        || (ngx_strncmp(p, "cuda:", 5) == 0 && value[1].len <= 7
            && ngx_atoi(p + 5, value[1].len - 5) != NGX_ERROR))
    {
        return NGX_CONF_OK;
    }

    ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                       "unknown device \"%V\", there are \"cpu\" and "
                       "\"cuda[:N]\"", &value[1]);

    return NGX_CONF_ERROR;
}


static char *
ngx_http_infer_model_precision(ngx_conf_t *cf, ngx_http_infer_model_t *model)
{
    ngx_str_t  *name, *value;

    if (model->precision != 0) {
        return "is duplicate";
    }

    value = cf->args->elts;

    for (name = ngx_http_infer_precisions; name->len != 0; name++) {

        if (ngx_strcmp(name->data, value[1].data) == 0) {
            model->precision = name - ngx_http_infer_precisions;
            return NGX_CONF_OK;
        }
    }

    ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                       "unknown \"precision\" \"%V\", there are \"q8\", "
                       "\"bf16\", \"f16\", \"w4a16\", \"fp8\" and "
                       "\"w8a8\"", &value[1]);

    return NGX_CONF_ERROR;
}


/* a part of what is free, 0.001 to 1, or bytes */

static char *
ngx_http_infer_model_gpu_memory(ngx_conf_t *cf,
    ngx_http_infer_model_t *model)
{
    off_t       bytes;
    ngx_int_t   n;
    ngx_str_t  *value;

    if (model->gpu_permille != 0 || model->gpu_bytes != 0) {
        return "is duplicate";
    }

    value = cf->args->elts;

    n = ngx_atofp(value[1].data, value[1].len, 3);

    if (n >= 1 && n <= 1000) {
        model->gpu_permille = n;
        return NGX_CONF_OK;
    }

    bytes = ngx_parse_offset(&value[1]);

    /* a device with less than a megabyte has no model */

    if (bytes < 1024 * 1024) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid \"gpu_memory\" value \"%V\", it must be "
                           "a part of 1 or a size of at least 1m",
                           &value[1]);
        return NGX_CONF_ERROR;
    }

    model->gpu_bytes = bytes;

    return NGX_CONF_OK;
}


static char *
ngx_http_infer_model_alias(ngx_conf_t *cf, ngx_http_infer_model_t *model)
{
    ngx_str_t                   *value, *alias;
    ngx_uint_t                   i;
    ngx_http_infer_main_conf_t  *imcf;

    imcf = ngx_http_conf_get_module_main_conf(cf, ngx_http_infer_module);
    value = cf->args->elts;

    for (i = 1; i < cf->args->nelts; i++) {

        if (ngx_http_infer_valid_name(&value[i]) != NGX_OK) {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "invalid alias \"%V\"", &value[i]);
            return NGX_CONF_ERROR;
        }

        if (ngx_http_infer_find_model(imcf, &value[i]) != NULL) {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "alias \"%V\" is taken by a model",
                               &value[i]);
            return NGX_CONF_ERROR;
        }

        alias = ngx_array_push(&model->aliases);
        if (alias == NULL) {
            return NGX_CONF_ERROR;
        }

        *alias = value[i];
    }

    return NGX_CONF_OK;
}
