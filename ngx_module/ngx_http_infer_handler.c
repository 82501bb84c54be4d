
/*
 * The content handler: which endpoint, method, key, content type and model a
 * request is for; the body; and the small answers that need no generation.
 * What comes after the body is request.c's.
 */


#include "ngx_http_infer_request.h"

#include <sys/random.h>


typedef struct {
    ngx_str_t                   path;
    ngx_uint_t                  bit;        /* NGX_HTTP_INFER_EP_* */
    ngx_http_infer_endpoint_e   endpoint;
} ngx_http_infer_route_t;


static ngx_http_infer_route_t *ngx_http_infer_route(ngx_http_request_t *r,
    ngx_str_t *rest);
static ngx_http_infer_route_t *ngx_http_infer_route_exact(ngx_str_t *rest);
static ngx_http_infer_route_t *ngx_http_infer_route_suffix(ngx_str_t *uri);
static ngx_int_t ngx_http_infer_get(ngx_http_request_t *r,
    ngx_http_infer_loc_conf_t *ilcf, ngx_http_infer_route_t *route,
    ngx_str_t *rest);
static ngx_int_t ngx_http_infer_post(ngx_http_request_t *r,
    ngx_http_infer_loc_conf_t *ilcf, ngx_http_infer_route_t *route);
static ngx_int_t ngx_http_infer_not_allowed(ngx_http_request_t *r,
    ngx_uint_t post);
static ngx_uint_t ngx_http_infer_is_json(ngx_http_request_t *r);
static ngx_uint_t ngx_http_infer_is_encoded(ngx_http_request_t *r);
static ngx_http_infer_model_t *ngx_http_infer_locate(ngx_http_request_t *r,
    ngx_http_infer_loc_conf_t *ilcf);
static ngx_int_t ngx_http_infer_models(ngx_http_request_t *r,
    ngx_http_infer_model_t *model, ngx_str_t *id);
static ngx_table_elt_t *ngx_http_infer_headers(ngx_http_request_t *r,
    ngx_http_infer_ctx_t *ctx);
static void ngx_http_infer_header_is(ngx_table_elt_t **found,
    ngx_table_elt_t *h, char *name);
static void ngx_http_infer_request_id(ngx_http_request_t *r,
    ngx_http_infer_ctx_t *ctx, ngx_table_elt_t *h);
static void ngx_http_infer_random_digits(ngx_http_request_t *r,
    u_char digits[32]);


/* models/{id} is matched by its prefix */

static ngx_http_infer_route_t  ngx_http_infer_routes[] = {

    { ngx_string("chat/completions"), NGX_HTTP_INFER_EP_CHAT,
      NGX_HTTP_INFER_CHAT },

    { ngx_string("completions"), NGX_HTTP_INFER_EP_COMPLETIONS,
      NGX_HTTP_INFER_COMPLETIONS },

    { ngx_string("tokenize"), NGX_HTTP_INFER_EP_TOKENIZE,
      NGX_HTTP_INFER_TOKENIZE },

    { ngx_string("detokenize"), NGX_HTTP_INFER_EP_DETOKENIZE,
      NGX_HTTP_INFER_DETOKENIZE },

    { ngx_string("apply-template"), NGX_HTTP_INFER_EP_TEMPLATE,
      NGX_HTTP_INFER_TEMPLATE },

    { ngx_string("models"), NGX_HTTP_INFER_EP_MODELS,
      NGX_HTTP_INFER_MODELS },

    { ngx_string("health/live"), NGX_HTTP_INFER_EP_HEALTH,
      NGX_HTTP_INFER_LIVE },

    { ngx_string("health/ready"), NGX_HTTP_INFER_EP_HEALTH,
      NGX_HTTP_INFER_READY },

    { ngx_string("health"), NGX_HTTP_INFER_EP_HEALTH,
      NGX_HTTP_INFER_READY },

    { ngx_string("metrics"), NGX_HTTP_INFER_EP_METRICS,
      NGX_HTTP_INFER_METRICS },

    { ngx_null_string, 0, 0 }
};


ngx_int_t
ngx_http_infer_handler(ngx_http_request_t *r)
{
    ngx_int_t                   rc;
    ngx_str_t                   rest;
    ngx_uint_t                  get;
    ngx_http_infer_ctx_t       *ctx;
    ngx_http_infer_route_t     *route;
    ngx_http_infer_loc_conf_t  *ilcf;

    ilcf = ngx_http_get_module_loc_conf(r, ngx_http_infer_module);

    ctx = ngx_http_infer_get_ctx(r);
    if (ctx == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    route = ngx_http_infer_route(r, &rest);

    if (route && !(ilcf->endpoints & route->bit)) {
        route = NULL;
    }

    ngx_log_debug2(NGX_LOG_DEBUG_HTTP, r->connection->log, 0,
                   "infer request \"%V\" for \"%V\"",
                   &ctx->info.request_id, &rest);

    if (r->method == NGX_HTTP_OPTIONS && route && ilcf->cors) {

        if (ngx_http_discard_request_body(r) != NGX_OK) {
            return NGX_HTTP_INTERNAL_SERVER_ERROR;
        }

        rc = ngx_http_infer_cors_preflight(r, ilcf);

        if (rc != NGX_DECLINED) {
            return rc;
        }
    }

    if (ilcf->keys && (route == NULL || route->bit != NGX_HTTP_INFER_EP_HEALTH)
        && ngx_http_infer_auth(r, ilcf->keys, &ctx->info.key) != NGX_OK)
    {
        ngx_log_error(NGX_LOG_INFO, r->connection->log, 0,
                      "infer no valid api key given");
        return ngx_http_infer_unauthorized(r);
    }

    if (route == NULL) {
        return ngx_http_infer_error(r, NGX_HTTP_NOT_FOUND,
                                    "There is no such endpoint.");
    }

    get = (route->endpoint >= NGX_HTTP_INFER_MODELS);

    if (!(r->method & (get ? NGX_HTTP_GET|NGX_HTTP_HEAD : NGX_HTTP_POST))) {
        return ngx_http_infer_not_allowed(r, !get);
    }

    if (get) {
        return ngx_http_infer_get(r, ilcf, route, &rest);
    }

    return ngx_http_infer_post(r, ilcf, route);
}


/*
 * The path behind the location's prefix and an optional "v1/". A location
 * that is not a plain prefix, or that names an endpoint in full, leaves
 * nothing to strip: there the end of the URI decides.
 */

static ngx_http_infer_route_t *
ngx_http_infer_route(ngx_http_request_t *r, ngx_str_t *rest)
{
    ngx_uint_t                 plain;
    ngx_http_core_loc_conf_t  *clcf;

    clcf = ngx_http_get_module_loc_conf(r, ngx_http_core_module);

    *rest = r->uri;

    plain = !clcf->exact_match && !clcf->named
            && r->uri.len >= clcf->name.len
            && ngx_strncmp(r->uri.data, clcf->name.data, clcf->name.len) == 0;

#if (NGX_PCRE)
    if (clcf->regex) {
        plain = 0;
    }
#endif

    if (plain) {
        rest->data += clcf->name.len;
        rest->len -= clcf->name.len;
    }

    if (rest->len == 0 || !plain) {
        rest->len = 0;
        return ngx_http_infer_route_suffix(&r->uri);
    }

    if (rest->data[0] == '/') {
        rest->data++;
        rest->len--;
    }

    if (rest->len >= 3 && ngx_strncmp(rest->data, "v1/", 3) == 0) {
        rest->data += 3;
        rest->len -= 3;
    }

    return ngx_http_infer_route_exact(rest);
}


static ngx_http_infer_route_t *
ngx_http_infer_route_exact(ngx_str_t *rest)
{
    ngx_http_infer_route_t  *route;

    for (route = ngx_http_infer_routes; route->path.len; route++) {

        if (rest->len < route->path.len
            || ngx_strncmp(rest->data, route->path.data, route->path.len) != 0)
        {
            continue;
        }

        if (rest->len == route->path.len) {
            return route;
        }

        if (route->endpoint == NGX_HTTP_INFER_MODELS
            && rest->len > route->path.len + 1
            && rest->data[route->path.len] == '/')
        {
            return route;
        }
    }

    return NULL;
}


static ngx_http_infer_route_t *
ngx_http_infer_route_suffix(ngx_str_t *uri)
{
    size_t                   len;
    ngx_http_infer_route_t  *route;

    for (route = ngx_http_infer_routes; route->path.len; route++) {
        len = route->path.len;

        if (uri->len > len
            && uri->data[uri->len - len - 1] == '/'
            && ngx_strncmp(uri->data + uri->len - len, route->path.data, len)
               == 0)
        {
            return route;
        }
    }

    return NULL;
}


static ngx_int_t
ngx_http_infer_get(ngx_http_request_t *r, ngx_http_infer_loc_conf_t *ilcf,
    ngx_http_infer_route_t *route, ngx_str_t *rest)
{
    ngx_int_t                rc;
    ngx_str_t                id;
    ngx_http_infer_model_t  *model;

    rc = ngx_http_discard_request_body(r);
    if (rc != NGX_OK) {
        return rc;
    }

    if (route->endpoint == NGX_HTTP_INFER_LIVE) {
        return ngx_http_infer_health_live(r);
    }

    if (route->endpoint == NGX_HTTP_INFER_METRICS) {
        return ngx_http_infer_metrics(r);
    }

    model = ngx_http_infer_locate(r, ilcf);
    if (model == NULL) {
        return ngx_http_infer_no_model(r);
    }

    if (route->endpoint == NGX_HTTP_INFER_READY) {
        return ngx_http_infer_health_ready(r, model);
    }

    ngx_str_null(&id);

    if (rest->len > route->path.len
        && rest->data[route->path.len] == '/')
    {
        id.data = rest->data + route->path.len + 1;
        id.len = rest->len - route->path.len - 1;
    }

    return ngx_http_infer_models(r, model, &id);
}


static ngx_int_t
ngx_http_infer_post(ngx_http_request_t *r, ngx_http_infer_loc_conf_t *ilcf,
    ngx_http_infer_route_t *route)
{
    ngx_int_t              rc;
    ngx_http_infer_ctx_t  *ctx;

    ctx = ngx_http_get_module_ctx(r, ngx_http_infer_module);

    if (!ngx_http_infer_is_json(r)) {
        return ngx_http_infer_error(r, NGX_HTTP_UNSUPPORTED_MEDIA_TYPE,
                                    "Content-Type must be application/json.");
    }

    ctx->model = ngx_http_infer_locate(r, ilcf);
    if (ctx->model == NULL) {
        return ngx_http_infer_no_model(r);
    }

    ctx->info.model = ctx->model->name;
    ctx->endpoint = route->endpoint;

    ctx->bus = ngx_http_infer_bus_enter(ctx->model->zone, r->connection->log);

    if (ctx->bus == NULL) {
        return ngx_http_infer_refuse(r, NGX_HTTP_SERVICE_UNAVAILABLE, 1,
                                     "The server has no room for requests.");
    }

    (void) atomic_fetch_add(&ctx->bus->bus.stats->requests, 1);

    rc = ngx_http_infer_cache_lookup_early(r, ctx);

    if (rc != NGX_DECLINED) {
        return rc;
    }

    if (ngx_http_infer_is_encoded(r)) {
        return ngx_http_infer_error(r, NGX_HTTP_UNSUPPORTED_MEDIA_TYPE,
                                    "Content-Encoding must be identity: "
                                    "bodies are not unpacked.");
    }

    rc = ngx_http_read_client_request_body(r, ngx_http_infer_body_handler);

    if (rc >= NGX_HTTP_SPECIAL_RESPONSE) {
        return rc;
    }

    return NGX_DONE;
}


static ngx_int_t
ngx_http_infer_not_allowed(ngx_http_request_t *r, ngx_uint_t post)
{
    ngx_str_t  allow;

    if (post) {
        ngx_str_set(&allow, "POST");

    } else {
        ngx_str_set(&allow, "GET, HEAD");
    }

    if (ngx_http_infer_header_out(r, "Allow", &allow) != NGX_OK) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    return ngx_http_infer_error(r, NGX_HTTP_NOT_ALLOWED,
                                post ? "This endpoint is asked by POST."
                                     : "This endpoint is asked by GET.");
}


/* application/json, application/...+json, or nothing said */

static ngx_uint_t
ngx_http_infer_is_json(ngx_http_request_t *r)
{
    size_t            len;
    u_char           *p;
    ngx_table_elt_t  *h;

    h = r->headers_in.content_type;

    if (h == NULL || h->value.len == 0
        || (h->value.len == sizeof("application/json") - 1
            && ngx_memcmp(h->value.data, "application/json", h->value.len)
               == 0))
    {
        return 1;
    }

    p = ngx_strlchr(h->value.data, h->value.data + h->value.len, ';');
    len = p ? (size_t) (p - h->value.data) : h->value.len;

    while (len && (h->value.data[len - 1] == ' '
                   || h->value.data[len - 1] == '\t'))
    {
        len--;
    }

    if (len < sizeof("application/json") - 1
        || ngx_strncasecmp(h->value.data, (u_char *) "application/", 12) != 0)
    {
        return 0;
    }

    p = h->value.data + len - 4;

    return ngx_strncasecmp(p, (u_char *) "json", 4) == 0
           && (p[-1] == '/' || p[-1] == '+');
}


/* A cached answer to such a body cannot be: it was never valid JSON. */

static ngx_uint_t
ngx_http_infer_is_encoded(ngx_http_request_t *r)
{
    ngx_table_elt_t  *h;

    h = ngx_http_infer_header_in(r, "content-encoding", 16);

    return h != NULL
           && (h->value.len != 8
               || ngx_strncasecmp(h->value.data, (u_char *) "identity", 8)
                  != 0);
}


static ngx_http_infer_model_t *
ngx_http_infer_locate(ngx_http_request_t *r, ngx_http_infer_loc_conf_t *ilcf)
{
    ngx_str_t                    name;
    ngx_http_infer_model_t      *model;
    ngx_http_infer_main_conf_t  *imcf;

    if (ilcf->model) {
        return ilcf->model;
    }

    if (ngx_http_complex_value(r, ilcf->infer, &name) != NGX_OK) {
        return NULL;
    }

    imcf = ngx_http_get_module_main_conf(r, ngx_http_infer_module);

    model = ngx_http_infer_find_model(imcf, &name);

    if (model == NULL) {
        ngx_log_error(NGX_LOG_INFO, r->connection->log, 0,
                      "infer model \"%V\" is not configured", &name);
    }

    return model;
}


/* /models: the location's model and its aliases; /models/{id}: one of them */

static ngx_int_t
ngx_http_infer_models(ngx_http_request_t *r, ngx_http_infer_model_t *model,
    ngx_str_t *id)
{
    ngx_str_t             *alias, *name;
    ngx_uint_t             i, n;
    infer_buf_t            buf;
    infer_api_model_t     *models;
    infer_bus_model_t     *bm;
    ngx_http_infer_bus_t  *bus;

    bus = ngx_http_infer_bus_enter(model->zone, r->connection->log);
    if (bus == NULL) {
        return ngx_http_infer_refuse(r, NGX_HTTP_SERVICE_UNAVAILABLE, 1,
                                     "The server has no room for requests.");
    }

    bm = &bus->bus.model[model->index];
    alias = model->aliases.elts;

    models = ngx_pcalloc(r->pool, (model->aliases.nelts + 1)
                                  * sizeof(infer_api_model_t));
    if (models == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    n = 0;

    for (i = 0; i <= model->aliases.nelts; i++) {
        name = i ? &alias[i - 1] : &model->name;

        if (id->len && (id->len != name->len
                        || ngx_memcmp(id->data, name->data, id->len) != 0))
        {
            continue;
        }

        models[n].name.data = (char *) name->data;
        models[n].name.len = name->len;
        models[n].created = bus->models[model->index].created;
        models[n].n_ctx = bm->context;
        models[n].n_ctx_train = bm->train_context;
        models[n].n_vocab = bm->vocab;
        models[n].n_params = bm->n_params;
        models[n].size = bm->tensor_bytes;
        n++;
    }

    if (n == 0) {
        return ngx_http_infer_no_model(r);
    }

    ngx_memzero(&buf, sizeof(infer_buf_t));

    if (id->len) {
        (void) infer_api_render_model(&buf, models);

    } else {
        (void) infer_api_render_models(&buf, models, (uint32_t) n);
    }

    return ngx_http_infer_send_buf(r, NGX_HTTP_OK, "application/json", &buf);
}


ngx_http_infer_ctx_t *
ngx_http_infer_get_ctx(ngx_http_request_t *r)
{
    ngx_http_infer_ctx_t  *ctx;

    ctx = ngx_http_get_module_ctx(r, ngx_http_infer_module);

    if (ctx) {
        return ctx;
    }

    ctx = ngx_pcalloc(r->pool, sizeof(ngx_http_infer_ctx_t));
    if (ctx == NULL) {
        return NULL;
    }

    ctx->request = r;

    ngx_http_infer_request_id(r, ctx, ngx_http_infer_headers(r, ctx));

    ngx_http_set_ctx(r, ctx, ngx_http_infer_module);

    return ctx;
}


/* X-Request-Id or NULL; the others that each request is asked for: in ctx. */

static ngx_table_elt_t *
ngx_http_infer_headers(ngx_http_request_t *r, ngx_http_infer_ctx_t *ctx)
{
    ngx_uint_t        i;
    ngx_list_part_t  *part;
    ngx_table_elt_t  *h, *id;

    id = NULL;

    for (part = &r->headers_in.headers.part; part; part = part->next) {
        h = part->elts;

        for (i = 0; i < part->nelts; i++) {

            switch (h[i].key.len) {

            case sizeof("x-api-key") - 1:
                ngx_http_infer_header_is(&ctx->api_key, &h[i], "x-api-key");
                break;

            case sizeof("x-request-id") - 1:
                ngx_http_infer_header_is(&id, &h[i], "x-request-id");
                break;

            case sizeof("cache-control") - 1:
                ngx_http_infer_header_is(&ctx->cache_control, &h[i],
                                         "cache-control");
                break;
            }
        }
    }

    return id;
}


/* the first of its name counts; the length is right */

static void
ngx_http_infer_header_is(ngx_table_elt_t **found, ngx_table_elt_t *h,
    char *name)
{
    if (*found == NULL
        && ngx_strncasecmp(h->key.data, (u_char *) name, h->key.len) == 0)
    {
        *found = h;
    }
}


/* X-Request-Id when it is sane, else 32 random hexadecimal digits */

static void
ngx_http_infer_request_id(ngx_http_request_t *r, ngx_http_infer_ctx_t *ctx,
    ngx_table_elt_t *h)
{
    u_char      c;
    ngx_uint_t  i;

    if (h && h->value.len && h->value.len <= NGX_HTTP_INFER_ID_MAX) {

        for (i = 0; i < h->value.len; i++) {
            c = h->value.data[i];

            if (!((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z')
                  || (c >= '0' && c <= '9') || c == '-' || c == '_'
                  || c == '.' || c == ':' || c == '/' || c == '='
                  || c == '+'))
            {
                break;
            }
        }

        if (i == h->value.len) {
            ctx->info.request_id = h->value;
            return;
        }
    }

    ngx_http_infer_random_digits(r, ctx->id);

    ctx->info.request_id.data = ctx->id;
    ctx->info.request_id.len = sizeof(ctx->id);
}


/*
 * One call of the kernel is as dear as all of a short request's parsing; and
 * eight digits at a time, in whatever order, are a quarter of the work.
 */

static void
ngx_http_infer_random_digits(ngx_http_request_t *r, u_char digits[32])
{
    uint64_t                     w[4], letters;
    ngx_uint_t                   i;
    ngx_http_infer_random_t     *random;
    ngx_http_infer_main_conf_t  *imcf;

    imcf = ngx_http_get_module_main_conf(r, ngx_http_infer_module);
    random = &imcf->random;

    if (random->pid != ngx_pid || random->left < 16) {
        ngx_http_infer_random(random->data, sizeof(random->data));
        random->pid = ngx_pid;
        random->left = sizeof(random->data);
    }

    random->left -= 16;

    ngx_memcpy(w, random->data + random->left, 16);

    w[2] = w[0] >> 4;
    w[3] = w[1] >> 4;

    for (i = 0; i < 4; i++) {
        w[i] &= 0x0f0f0f0f0f0f0f0f;
        letters = (w[i] + 0x0606060606060606) >> 4 & 0x0101010101010101;
        w[i] += 0x3030303030303030 + letters * ('a' - '0' - 10);
    }

    ngx_memcpy(digits, w, 32);
}


/* Never fails: nginx's own generator stands in where getrandom() cannot. */

void
ngx_http_infer_random(void *data, size_t len)
{
    u_char  *p;
    size_t   i;

    if (getrandom(data, len, GRND_NONBLOCK) == (ssize_t) len) {
        return;
    }

    p = data;

    for (i = 0; i < len; i++) {
        p[i] = (u_char) (ngx_random() >> 8);
    }
}
