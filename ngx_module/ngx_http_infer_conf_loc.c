
/*
 * The directives of a location that have a form of their own: a target that
 * may be a variable, "name=value" parameters, lists, files.
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>

#include "ngx_http_infer_module.h"


#define ngx_http_infer_param(v, name)                                         \
    (ngx_strncmp((v)->data, name "=", sizeof(name)) == 0)


typedef struct {
    ngx_str_t    name;
    ngx_uint_t   bit;
    size_t       offset;                 /* of a float; 0: special */
    float        min;
    float        max;
} ngx_http_infer_sampling_key_t;


static char *ngx_http_infer_invalid(ngx_conf_t *cf, ngx_str_t *value);
static ngx_int_t ngx_http_infer_float(ngx_str_t *value, float *number);
static char *ngx_http_infer_sampling_value(ngx_conf_t *cf,
    ngx_http_infer_loc_conf_t *ilcf, ngx_http_infer_sampling_key_t *key,
    ngx_str_t *param, ngx_str_t *value);


/* ranges as in requests; 0 and 0 are judged by their own code */

static ngx_http_infer_sampling_key_t  ngx_http_infer_sampling_keys[] = {

    { ngx_string("temperature"), NGX_HTTP_INFER_SET_TEMPERATURE,
      offsetof(infer_sampling_t, temperature), 0, 2 },

    { ngx_string("top_p"), NGX_HTTP_INFER_SET_TOP_P,
      offsetof(infer_sampling_t, top_p), 0, 1 },

    { ngx_string("min_p"), NGX_HTTP_INFER_SET_MIN_P,
      offsetof(infer_sampling_t, min_p), 0, 1 },

    { ngx_string("repetition_penalty"), NGX_HTTP_INFER_SET_REPETITION,
      offsetof(infer_sampling_t, repetition_penalty), 0.01f, 100 },

    { ngx_string("presence_penalty"), NGX_HTTP_INFER_SET_PRESENCE,
      offsetof(infer_sampling_t, presence_penalty), -2, 2 },

    { ngx_string("frequency_penalty"), NGX_HTTP_INFER_SET_FREQUENCY,
      offsetof(infer_sampling_t, frequency_penalty), -2, 2 },

    { ngx_string("top_k"), NGX_HTTP_INFER_SET_TOP_K, 0, 0, 0 },

    { ngx_string("seed"), NGX_HTTP_INFER_SET_SEED, 0, 0, 0 },

    { ngx_string("max_n"), NGX_HTTP_INFER_SET_MAX_N, 0, 0, 0 },

    { ngx_null_string, 0, 0, 0, 0 }
};


static char *
ngx_http_infer_invalid(ngx_conf_t *cf, ngx_str_t *value)
{
    ngx_str_t  *args;

    args = cf->args->elts;

    ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                       "invalid \"%V\" parameter \"%V\"", &args[0], value);

    return NGX_CONF_ERROR;
}


char *
ngx_http_infer_location(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_infer_loc_conf_t *ilcf = conf;

    ngx_str_t                         *value;
    ngx_http_core_loc_conf_t          *clcf;
    ngx_http_compile_complex_value_t   ccv;

    if (ilcf->infer != NULL) {
        return "is duplicate";
    }

    value = cf->args->elts;

    if (value[1].len == 0) {
        return ngx_http_infer_invalid(cf, &value[1]);
    }

    ilcf->infer = ngx_pcalloc(cf->pool, sizeof(ngx_http_complex_value_t));
    if (ilcf->infer == NULL) {
        return NGX_CONF_ERROR;
    }

    ngx_memzero(&ccv, sizeof(ngx_http_compile_complex_value_t));

    ccv.cf = cf;
    ccv.value = &value[1];
    ccv.complex_value = ilcf->infer;

    if (ngx_http_compile_complex_value(&ccv) != NGX_OK) {
        return NGX_CONF_ERROR;
    }

    ilcf->place.file = cf->conf_file->file.name;
    ilcf->place.line = cf->conf_file->line;

    clcf = ngx_http_conf_get_module_loc_conf(cf, ngx_http_core_module);
    clcf->handler = ngx_http_infer_handler;

    return NGX_CONF_OK;
}


char *
ngx_http_infer_thread_pool(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_infer_loc_conf_t *ilcf = conf;

    ngx_str_t  *value;

    if (ilcf->thread_pool != NULL) {
        return "is duplicate";
    }

    value = cf->args->elts;

    ilcf->thread_pool = ngx_thread_pool_add(cf, &value[1]);
    if (ilcf->thread_pool == NULL) {
        return NGX_CONF_ERROR;
    }

    return NGX_CONF_OK;
}


char *
ngx_http_infer_max_tokens(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_infer_loc_conf_t *ilcf = conf;

    ngx_int_t   n;
    ngx_str_t  *value;

    if (ilcf->max_tokens != NGX_CONF_UNSET_UINT) {
        return "is duplicate";
    }

    value = cf->args->elts;
    n = ngx_atoi(value[1].data, value[1].len);

    if (n < 1 || n > INT32_MAX) {
        return ngx_http_infer_invalid(cf, &value[1]);
    }

    ilcf->max_tokens = n;

    if (cf->args->nelts == 2) {
        return NGX_CONF_OK;
    }

    if (!ngx_http_infer_param(&value[2], "max")) {
        return ngx_http_infer_invalid(cf, &value[2]);
    }

    n = ngx_atoi(value[2].data + 4, value[2].len - 4);

    if (n < 1 || n > INT32_MAX || (ngx_uint_t) n < ilcf->max_tokens) {
        return ngx_http_infer_invalid(cf, &value[2]);
    }

    ilcf->max_tokens_cap = n;

    return NGX_CONF_OK;
}


char *
ngx_http_infer_queue(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_infer_loc_conf_t *ilcf = conf;

    ngx_int_t    n;
    ngx_str_t   *value;
    ngx_uint_t   i, *limit;

    if (ilcf->queue_length != NGX_CONF_UNSET_UINT
        || ilcf->queue_tokens != NGX_CONF_UNSET_UINT)
    {
        return "is duplicate";
    }

    value = cf->args->elts;

    for (i = 1; i < cf->args->nelts; i++) {

        if (ngx_http_infer_param(&value[i], "length")) {
            limit = &ilcf->queue_length;

        } else if (ngx_http_infer_param(&value[i], "tokens")) {
            limit = &ilcf->queue_tokens;

        } else {
            return ngx_http_infer_invalid(cf, &value[i]);
        }

        n = ngx_atoi(value[i].data + 7, value[i].len - 7);

        if (n < 1) {
            return ngx_http_infer_invalid(cf, &value[i]);
        }

        *limit = n;
    }

    return NGX_CONF_OK;
}


char *
ngx_http_infer_timeout(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_infer_loc_conf_t *ilcf = conf;

    ngx_int_t    ms;
    ngx_str_t   *value, s;
    ngx_uint_t   i;
    ngx_msec_t  *limit;

    if (ilcf->queue_timeout != NGX_CONF_UNSET_MSEC
        || ilcf->first_timeout != NGX_CONF_UNSET_MSEC
        || ilcf->total_timeout != NGX_CONF_UNSET_MSEC)
    {
        return "is duplicate";
    }

    value = cf->args->elts;

    for (i = 1; i < cf->args->nelts; i++) {

        if (ngx_http_infer_param(&value[i], "queue")) {
            limit = &ilcf->queue_timeout;

        } else if (ngx_http_infer_param(&value[i], "first")) {
            limit = &ilcf->first_timeout;

        } else if (ngx_http_infer_param(&value[i], "total")) {
            limit = &ilcf->total_timeout;

        } else {
            return ngx_http_infer_invalid(cf, &value[i]);
        }

        /* each of the three names has five letters */

        s.data = value[i].data + 6;
        s.len = value[i].len - 6;

        ms = ngx_parse_time(&s, 0);

        if (ms == NGX_ERROR || ms == 0) {
            return ngx_http_infer_invalid(cf, &value[i]);
        }

        *limit = ms;
    }

    return NGX_CONF_OK;
}


/* one without variables is judged here */

char *
ngx_http_infer_priority(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    char       *rv;
    int32_t     priority;
    ngx_str_t  *value;

    value = cf->args->elts;

    rv = ngx_http_set_complex_value_slot(cf, cmd, conf);

    if (rv != NGX_CONF_OK) {
        return rv;
    }

    if (ngx_http_script_variables_count(&value[1]) == 0
        && ngx_http_infer_priority_value(&value[1], &priority) != NGX_OK)
    {
        return ngx_http_infer_invalid(cf, &value[1]);
    }

    return NGX_CONF_OK;
}


/* nothing is normal: a variable may have no value */

ngx_int_t
ngx_http_infer_priority_value(ngx_str_t *value, int32_t *priority)
{
    ngx_int_t   n;
    ngx_uint_t  minus;

    *priority = 0;

    if (value->len == 0
        || (value->len == 6 && ngx_strncmp(value->data, "normal", 6) == 0))
    {
        return NGX_OK;
    }

    if (value->len == 3 && ngx_strncmp(value->data, "low", 3) == 0) {
        *priority = -1;
        return NGX_OK;
    }

    if (value->len == 4 && ngx_strncmp(value->data, "high", 4) == 0) {
        *priority = 1;
        return NGX_OK;
    }

    minus = (value->data[0] == '-');

    n = ngx_atoi(value->data + minus, value->len - minus);

    if (n < 0 || n > INFER_MAX_PRIORITY) {
        return NGX_DECLINED;
    }

    *priority = (int32_t) (minus ? -n : n);

    return NGX_OK;
}


char *
ngx_http_infer_sampling(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_infer_loc_conf_t *ilcf = conf;

    char                           *rv;
    ngx_str_t                      *value, s;
    ngx_uint_t                      i;
    ngx_http_infer_sampling_key_t  *key;

    value = cf->args->elts;

    for (i = 1; i < cf->args->nelts; i++) {

        for (key = ngx_http_infer_sampling_keys; key->name.len; key++) {
            if (value[i].len > key->name.len
                && value[i].data[key->name.len] == '='
                && ngx_strncmp(value[i].data, key->name.data, key->name.len)
                   == 0)
            {
                break;
            }
        }

        if (key->name.len == 0) {
            return ngx_http_infer_invalid(cf, &value[i]);
        }

        if (ilcf->sampling_set & key->bit) {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "duplicate \"infer_sampling\" parameter "
                               "\"%V\"", &value[i]);
            return NGX_CONF_ERROR;
        }

        s.data = value[i].data + key->name.len + 1;
        s.len = value[i].len - key->name.len - 1;

        rv = ngx_http_infer_sampling_value(cf, ilcf, key, &value[i], &s);

        if (rv != NGX_CONF_OK) {
            return rv;
        }

        ilcf->sampling_set |= key->bit;
    }

    return NGX_CONF_OK;
}


static char *
ngx_http_infer_sampling_value(ngx_conf_t *cf, ngx_http_infer_loc_conf_t *ilcf,
    ngx_http_infer_sampling_key_t *key, ngx_str_t *param, ngx_str_t *value)
{
    float      f;
    ngx_int_t  n;

    if (key->offset != 0) {

        if (ngx_http_infer_float(value, &f) != NGX_OK
            || f < key->min || f > key->max
            || (key->bit == NGX_HTTP_INFER_SET_TOP_P && f == 0))
        {
            return ngx_http_infer_invalid(cf, param);
        }

        *(float *) ((char *) &ilcf->sampling + key->offset) = f;
        return NGX_CONF_OK;
    }

    n = ngx_atoi(value->data, value->len);

    if (n < 0) {
        return ngx_http_infer_invalid(cf, param);
    }

    switch (key->bit) {

    case NGX_HTTP_INFER_SET_TOP_K:

        if (n > INT32_MAX) {
            return ngx_http_infer_invalid(cf, param);
        }

        ilcf->sampling.top_k = n;
        break;

    case NGX_HTTP_INFER_SET_SEED:
        ilcf->sampling.seed = n;
        break;

    default: /* NGX_HTTP_INFER_SET_MAX_N */

        if (n < 1 || n > INFER_MAX_CHOICES) {
            return ngx_http_infer_invalid(cf, param);
        }

        ilcf->max_n = n;
        break;
    }

    return NGX_CONF_OK;
}


/* [-]digits[.digits], without the process's locale */

static ngx_int_t
ngx_http_infer_float(ngx_str_t *value, float *number)
{
    double       n, scale;
    u_char      *p, *last;
    ngx_uint_t   digits, dot, negative;

    p = value->data;
    last = value->data + value->len;

    n = 0;
    scale = 1;
    digits = 0;
    dot = 0;
    negative = 0;

    if (p < last && *p == '-') {
        negative = 1;
        p++;
    }

    for ( /* void */ ; p < last; p++) {

        if (*p == '.' && !dot) {
            dot = 1;
            continue;
        }

        if (*p < '0' || *p > '9' || ++digits > 15) {
            return NGX_DECLINED;
        }

        n = n * 10 + (*p - '0');

        if (dot) {
            scale *= 10;
        }
    }

    if (digits == 0) {
        return NGX_DECLINED;
    }

    n /= scale;
    *number = negative ? -n : n;

    return NGX_OK;
}


char *
ngx_http_infer_api_keys(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_infer_loc_conf_t *ilcf = conf;

    ngx_str_t  *value, file;

    if (ilcf->keys != NGX_CONF_UNSET_PTR) {
        return "is duplicate";
    }

    value = cf->args->elts;

    if (ngx_strcmp(value[1].data, "off") == 0) {
        ilcf->keys = NULL;
        return NGX_CONF_OK;
    }

    file = value[1];

    if (ngx_conf_full_name(cf->cycle, &file, 1) != NGX_OK) {
        return NGX_CONF_ERROR;
    }

    ilcf->keys = ngx_http_infer_keys_read(cf, &file);
    if (ilcf->keys == NULL) {
        return NGX_CONF_ERROR;
    }

    return NGX_CONF_OK;
}


char *
ngx_http_infer_cors(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_infer_loc_conf_t *ilcf = conf;

    ngx_str_t   *value, *origin;
    ngx_uint_t   i;

    if (ilcf->cors != NGX_CONF_UNSET_PTR) {
        return "is duplicate";
    }

    value = cf->args->elts;

    if (cf->args->nelts == 2 && ngx_strcmp(value[1].data, "off") == 0) {
        ilcf->cors = NULL;
        return NGX_CONF_OK;
    }

    ilcf->cors = ngx_array_create(cf->pool, cf->args->nelts,
                                  sizeof(ngx_str_t));
    if (ilcf->cors == NULL) {
        return NGX_CONF_ERROR;
    }

    for (i = 1; i < cf->args->nelts; i++) {

        origin = ngx_array_push(ilcf->cors);
        if (origin == NULL) {
            return NGX_CONF_ERROR;
        }

        *origin = value[i];

        if (ngx_strcmp(value[i].data, "*") == 0
            || (cf->args->nelts == 2
                && ngx_strcmp(value[i].data, "on") == 0))
        {
            ngx_str_set(origin, "*");
            continue;
        }

        if (ngx_strstr(value[i].data, "://") == NULL) {
            return ngx_http_infer_invalid(cf, &value[i]);
        }
    }

    return NGX_CONF_OK;
}
