
/*
 * The response cache on the way of a request. Before its JSON is parsed, the
 * body's own bytes are looked up: a hit is answered at once, in the event
 * loop. Once it is tokenized, its canonical form is: a hit is rendered from
 * the logs, and the result is kept under the body's bytes. On a miss the
 * logs are packed as the choices end, and stored. Equal requests that come
 * meanwhile, to whatever worker, read the same generation.
 */


#include "ngx_http_infer_request.h"

#include "cache/answer.h"
#include "ipc/hash.h"

#include <ngx_sha1.h>


#define NGX_HTTP_INFER_CACHE_BODY_MAX  (64 * 1024)


/* a rendered answer: this, then its bytes with id and time left blank */

typedef struct {
    uint32_t                     version;
    uint32_t                     stream;
    uint32_t                     prompt_tokens;
    uint32_t                     completion_tokens;
    uint32_t                     finish;
    uint32_t                     reserved;
} ngx_http_infer_cache_page_t;


/* what a body's answer depends on, but for the body and the system prompt */

typedef struct {
    uint32_t                     endpoint;
    uint32_t                     seed_set;
    uint32_t                     max_tokens;
    uint32_t                     max_tokens_cap;
    uint32_t                     max_n;
    uint32_t                     day;           /* templates may ask */
    uint32_t                     system_len;
    uint32_t                     sampled;
    infer_sampling_t             sampling;
    u_char                       names[20];     /* of the model */
} ngx_http_infer_cache_body_t;


static ngx_http_infer_cache_ctx_t *ngx_http_infer_cache_ctx(
    ngx_http_request_t *r, ngx_http_infer_ctx_t *ctx,
    ngx_http_infer_cache_conf_t *ccf);
static ngx_int_t ngx_http_infer_cache_scope(ngx_http_request_t *r,
    ngx_http_infer_cache_conf_t *ccf, u_char *scope);
static ngx_int_t ngx_http_infer_cache_variable(ngx_http_request_t *r,
    char *name, ngx_str_t *value);
static ngx_uint_t ngx_http_infer_cache_control(ngx_http_request_t *r,
    char *directive);
static ngx_int_t ngx_http_infer_cache_body(ngx_http_request_t *r,
    ngx_http_infer_ctx_t *ctx, ngx_http_infer_loc_conf_t *ilcf);
static void ngx_http_infer_cache_names(ngx_http_infer_ctx_t *ctx,
    u_char *names);
static ngx_int_t ngx_http_infer_cache_join(ngx_http_infer_ctx_t *ctx,
    infer_store_flight_t *flight);
static int ngx_http_infer_cache_get(ngx_http_infer_ctx_t *ctx, u_char *key,
    infer_buf_t *ident, infer_store_get_t *g);
static void *ngx_http_infer_cache_room(void *arg, size_t len);
static ngx_int_t ngx_http_infer_cache_page(ngx_http_infer_ctx_t *ctx,
    infer_store_get_t *g);
static ngx_int_t ngx_http_infer_cache_log(ngx_http_infer_ctx_t *ctx,
    infer_store_get_t *g);
static int ngx_http_infer_cache_put(ngx_http_infer_ctx_t *ctx, u_char *key,
    infer_buf_t *ident, infer_buf_t *value, ngx_msec_t fresh);
static ngx_int_t ngx_http_infer_cache_send(ngx_http_infer_ctx_t *ctx,
    ngx_http_infer_cache_page_t *page, u_char *blank, size_t len,
    uint64_t age_ms);
static void ngx_http_infer_cache_conf(ngx_http_infer_ctx_t *ctx,
    infer_render_conf_t *conf);
static void ngx_http_infer_cache_status(ngx_http_infer_ctx_t *ctx,
    char *status);


/* DECLINED: no cached answer, the request goes on. Else it is answered. */

ngx_int_t
ngx_http_infer_cache_lookup_body(ngx_http_request_t *r,
    ngx_http_infer_ctx_t *ctx)
{
    int                          rc;
    infer_store_get_t            g;
    ngx_http_infer_cache_ctx_t  *cc;
    ngx_http_infer_loc_conf_t   *ilcf;

    ilcf = ngx_http_get_module_loc_conf(r, ngx_http_infer_module);

    if (ilcf->cache.cache == NULL
        || ctx->endpoint > NGX_HTTP_INFER_COMPLETIONS)
    {
        return NGX_DECLINED;
    }

    cc = ngx_http_infer_cache_ctx(r, ctx, &ilcf->cache);

    if (cc == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    ctx->cache = cc;

    ngx_http_infer_cache_status(ctx, cc->lookup ? "MISS" : "BYPASS");

    if (!cc->lookup
        || ngx_http_infer_cache_body(r, ctx, ilcf) != NGX_OK)
    {
        return NGX_DECLINED;
    }

    infer_key(ilcf->cache.cache->shm->secret, INFER_KEY_BODY, &cc->space,
              cc->body.data, cc->body.len, cc->body_key);

    rc = ngx_http_infer_cache_get(ctx, cc->body_key, &cc->body, &g);

    return rc == INFER_OK ? ngx_http_infer_cache_page(ctx, &g)
                          : NGX_DECLINED;
}


/* Whose answers, and whether to look and to store at all. */

static ngx_http_infer_cache_ctx_t *
ngx_http_infer_cache_ctx(ngx_http_request_t *r, ngx_http_infer_ctx_t *ctx,
    ngx_http_infer_cache_conf_t *ccf)
{
    ngx_str_t                    tag;
    ngx_sha1_t                   sha1;
    ngx_http_infer_cache_ctx_t  *cc;

    cc = ngx_pcalloc(r->pool, sizeof(ngx_http_infer_cache_ctx_t));

    if (cc == NULL
        || ngx_http_infer_cache_scope(r, ccf, cc->space.scope) != NGX_OK)
    {
        return NULL;
    }

    ngx_sha1_init(&sha1);
    ngx_sha1_update(&sha1, ctx->bus->signature, 20);
    ngx_sha1_update(&sha1, &ctx->model->index, sizeof(ngx_uint_t));
    ngx_sha1_final(cc->space.model, &sha1);

    if (ccf->tag) {

        if (ngx_http_complex_value(r, ccf->tag, &tag) != NGX_OK) {
            return NULL;
        }

        if (tag.len) {
            cc->tag = ngx_http_infer_cache_tag(ccf->cache, &tag);
        }
    }

    cc->lookup = !ngx_http_infer_cache_control(r, "no-cache")
                 && !ngx_http_infer_cache_control(r, "no-store")
                 && ngx_http_test_predicates(r, ccf->bypass) == NGX_OK;

    cc->store = !ngx_http_infer_cache_control(r, "no-store")
                && ngx_http_test_predicates(r, ccf->no_cache) == NGX_OK;

    return cc;
}


uint64_t
ngx_http_infer_cache_tag(ngx_http_infer_cache_t *cache, ngx_str_t *tag)
{
    uint64_t  h;
    u_char    hash[INFER_HASH_BYTES];

    infer_hash(cache->shm->secret, tag->data, tag->len, hash);
    ngx_memcpy(&h, hash, sizeof(h));

    return h ? h : 1;
}


/*
 * Who shares answers with whom: the value of infer_cache_scope; else the
 * credentials of every kind together, so that no two tenants ever share by
 * accident.
 */

static ngx_int_t
ngx_http_infer_cache_scope(ngx_http_request_t *r,
    ngx_http_infer_cache_conf_t *ccf, u_char *scope)
{
    size_t            len;
    u_char           *p, *text;
    ngx_str_t         part[4];
    ngx_uint_t        i, n;
    ngx_table_elt_t  *h;

    ngx_memzero(part, sizeof(part));
    n = 1;

    if (ccf->scope) {

        if (ngx_http_complex_value(r, ccf->scope, &part[0]) != NGX_OK) {
            return NGX_ERROR;
        }

    } else {
        n = 4;

        if (r->headers_in.authorization) {
            part[0] = r->headers_in.authorization->value;
        }

        h = ngx_http_infer_header_in(r, "x-api-key", 9);

        if (h) {
            part[1] = h->value;
        }

        if (ngx_http_infer_cache_variable(r, "remote_user", &part[2])
            != NGX_OK
            || ngx_http_infer_cache_variable(r, "ssl_client_fingerprint",
                                             &part[3])
               != NGX_OK)
        {
            return NGX_ERROR;
        }
    }

    len = 1;

    for (i = 0; i < n; i++) {
        len += sizeof(size_t) + part[i].len;
    }

    text = ngx_pnalloc(r->pool, len);
    if (text == NULL) {
        return NGX_ERROR;
    }

    p = text;
    *p++ = (u_char) n;

    for (i = 0; i < n; i++) {
        p = ngx_cpymem(p, &part[i].len, sizeof(size_t));

        if (part[i].len) {
            p = ngx_cpymem(p, part[i].data, part[i].len);
        }
    }

    infer_hash(ccf->cache->shm->secret, text, len, scope);

    return NGX_OK;
}


/* a variable that may not exist in this build of nginx, or not be set */

static ngx_int_t
ngx_http_infer_cache_variable(ngx_http_request_t *r, char *name,
    ngx_str_t *value)
{
    ngx_str_t                   s;
    ngx_uint_t                  key;
    ngx_http_variable_value_t  *vv;

    s.data = (u_char *) name;
    s.len = ngx_strlen(name);
    key = ngx_hash_key(s.data, s.len);

    vv = ngx_http_get_variable(r, &s, key);

    if (vv == NULL) {
        return NGX_ERROR;
    }

    if (!vv->not_found && vv->valid) {
        value->data = vv->data;
        value->len = vv->len;
    }

    return NGX_OK;
}


static ngx_uint_t
ngx_http_infer_cache_control(ngx_http_request_t *r, char *directive)
{
    ngx_table_elt_t  *h;

    h = ngx_http_infer_header_in(r, "cache-control", 13);

    return h && ngx_strlcasestrn(h->value.data, h->value.data + h->value.len,
                                 (u_char *) directive,
                                 ngx_strlen(directive) - 1)
                != NULL;
}


/* The ident of a body that lies in memory; DECLINED for others. */

static ngx_int_t
ngx_http_infer_cache_body(ngx_http_request_t *r, ngx_http_infer_ctx_t *ctx,
    ngx_http_infer_loc_conf_t *ilcf)
{
    off_t                         len;
    ngx_str_t                     system;
    ngx_chain_t                  *cl;
    infer_buf_t                  *ident;
    ngx_http_infer_cache_body_t   head;

    len = 0;
    ngx_str_set(&system, "");

    for (cl = r->request_body ? r->request_body->bufs : NULL; cl;
         cl = cl->next)
    {
        len += ngx_buf_size(cl->buf);

        if (cl->buf->in_file || len > NGX_HTTP_INFER_CACHE_BODY_MAX) {
            return NGX_DECLINED;
        }
    }

    if (ilcf->system
        && ngx_http_complex_value(r, ilcf->system, &system) != NGX_OK)
    {
        return NGX_ERROR;
    }

    ngx_memzero(&head, sizeof(head));
    head.endpoint = ctx->endpoint;
    head.seed_set = (ilcf->sampling_set & NGX_HTTP_INFER_SET_SEED) ? 1 : 0;
    head.max_tokens = (uint32_t) ilcf->max_tokens;
    head.max_tokens_cap = (uint32_t) ilcf->max_tokens_cap;
    head.max_n = (uint32_t) ilcf->max_n;
    head.day = (uint32_t) (ngx_time() / 86400);
    head.system_len = (uint32_t) system.len;
    head.sampled = (uint32_t) ilcf->cache.sampled;
    head.sampling = ilcf->sampling;
    ngx_http_infer_cache_names(ctx, head.names);

    ident = &ctx->cache->body;

    infer_buf_put(ident, (char *) &head, sizeof(head));
    infer_buf_put(ident, (char *) system.data, system.len);

    for (cl = r->request_body ? r->request_body->bufs : NULL; cl;
         cl = cl->next)
    {
        infer_buf_put(ident, (char *) cl->buf->pos,
                      cl->buf->last - cl->buf->pos);
    }

    return infer_buf_rc(ident) == INFER_OK ? NGX_OK : NGX_ERROR;
}


/* Names that "model" in a body may have: another one is a 404. */

static void
ngx_http_infer_cache_names(ngx_http_infer_ctx_t *ctx, u_char *names)
{
    ngx_str_t   *alias;
    ngx_sha1_t   sha1;
    ngx_uint_t   i;

    alias = ctx->model->aliases.elts;

    ngx_sha1_init(&sha1);
    ngx_sha1_update(&sha1, ctx->model->name.data, ctx->model->name.len);

    for (i = 0; i < ctx->model->aliases.nelts; i++) {
        ngx_sha1_update(&sha1, "", 1);
        ngx_sha1_update(&sha1, alias[i].data, alias[i].len);
    }

    ngx_sha1_final(names, &sha1);
}


/* The request is tokenized. DECLINED: generate. Else it is answered. */

ngx_int_t
ngx_http_infer_cache_lookup(ngx_http_infer_ctx_t *ctx)
{
    int                          rc;
    infer_store_get_t            g;
    ngx_http_infer_cache_ctx_t  *cc;
    ngx_http_infer_loc_conf_t   *ilcf;

    cc = ctx->cache;

    if (cc == NULL) {
        return NGX_DECLINED;
    }

    ilcf = ngx_http_get_module_loc_conf(ctx->request, ngx_http_infer_module);

    if (!infer_key_repeatable(ctx->req) && !ilcf->cache.sampled) {
        ngx_http_infer_cache_status(ctx, "BYPASS");
        cc->lookup = 0;
        cc->store = 0;
    }

    if ((!cc->lookup && !cc->store)
        || infer_key_ident(&cc->ident, &cc->space, ctx->req) != INFER_OK)
    {
        cc->store = 0;
        infer_buf_free(&cc->body);
        infer_buf_free(&cc->ident);
        return NGX_DECLINED;
    }

    infer_key(ilcf->cache.cache->shm->secret, INFER_KEY_LOG, &cc->space,
              cc->ident.data, cc->ident.len, cc->log_key);

    if (cc->lookup) {
        rc = ngx_http_infer_cache_get(ctx, cc->log_key, &cc->ident, &g);

        if (rc == INFER_OK) {
            return ngx_http_infer_cache_log(ctx, &g);
        }
    }

    infer_buf_free(&cc->body);

    return cc->lookup ? ngx_http_infer_cache_join(ctx, NULL) : NGX_DECLINED;
}


/*
 * Reads along with a generation that runs for the same request. flight: of
 * it, or NULL to look for one. DONE: joined.
 */

static ngx_int_t
ngx_http_infer_cache_join(ngx_http_infer_ctx_t *ctx,
    infer_store_flight_t *flight)
{
    infer_ref_t                  ref;
    infer_store_t               *store;
    infer_store_flight_t         found;
    ngx_http_infer_choice_t     *choice;
    ngx_http_infer_loc_conf_t   *ilcf;

    if (ctx->req->n_prompts * ctx->req->n != 1) {
        return NGX_DECLINED;
    }

    if (flight == NULL) {
        ilcf = ngx_http_get_module_loc_conf(ctx->request,
                                            ngx_http_infer_module);
        store = ngx_http_infer_cache_enter(ilcf->cache.cache);
        flight = &found;

        if (store == NULL
            || infer_store_flight(store, ctx->cache->log_key, &found)
               != INFER_OK)
        {
            return NGX_DECLINED;
        }
    }

    ref.slot = flight->slot;
    ref.generation = flight->generation;

    if ((ctx->cache->failed.generation == flight->generation
         && ctx->cache->failed.slot == flight->slot)
        || infer_slot_join(&ctx->bus->bus, (uint32_t) ctx->bus->entry, ref)
           != INFER_OK)
    {
        return NGX_DECLINED;
    }

    choice = ngx_pcalloc(ctx->request->pool, sizeof(ngx_http_infer_choice_t));
    if (choice == NULL) {
        infer_slot_release(&ctx->bus->bus, (uint32_t) ctx->bus->entry, ref);
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    choice->ctx = ctx;
    choice->ref = ref;
    choice->held = 1;
    choice->joined = 1;

    ctx->choices = choice;
    ctx->nchoices = 1;
    ctx->cache->flight = *flight;
    ctx->cache->flying = 1;

    ngx_http_infer_cache_status(ctx, "JOIN");

    return ngx_http_infer_joined(ctx);
}


/*
 * The slot is filled and not yet submitted: others may read along from now
 * on. DONE: another request was quicker, and is joined.
 */

ngx_int_t
ngx_http_infer_cache_board(ngx_http_infer_ctx_t *ctx)
{
    int                          rc;
    infer_ref_t                  ref;
    infer_store_t               *store;
    infer_store_flight_t         theirs;
    ngx_http_infer_cache_ctx_t  *cc;
    ngx_http_infer_loc_conf_t   *ilcf;

    cc = ctx->cache;

    if (cc == NULL || !cc->store || ctx->nchoices != 1) {
        return NGX_DECLINED;
    }

    ilcf = ngx_http_get_module_loc_conf(ctx->request, ngx_http_infer_module);
    store = ngx_http_infer_cache_enter(ilcf->cache.cache);

    if (store == NULL) {
        return NGX_DECLINED;
    }

    ref = ctx->choices->ref;
    ngx_memzero(&cc->flight, sizeof(infer_store_flight_t));
    cc->flight.slot = ref.slot;
    cc->flight.generation = ref.generation;

    rc = infer_store_board(store, cc->log_key, cc->flight, &theirs);

    if (rc == INFER_AGAIN && cc->lookup
        && ngx_http_infer_cache_join(ctx, &theirs) == NGX_DONE)
    {
        infer_slot_abandon(&ctx->bus->bus, ref);
        return NGX_DONE;
    }

    if (rc == INFER_AGAIN) {
        rc = infer_store_takeoff(store, cc->log_key, cc->flight);
    }

    cc->flying = (rc == INFER_OK);

    return NGX_DECLINED;
}


/* OK: the value is in g, in the request's pool */

static int
ngx_http_infer_cache_get(ngx_http_infer_ctx_t *ctx, u_char *key,
    infer_buf_t *ident, infer_store_get_t *g)
{
    int                         rc;
    infer_store_t              *store;
    ngx_http_infer_cache_t     *cache;
    ngx_http_infer_loc_conf_t  *ilcf;

    ilcf = ngx_http_get_module_loc_conf(ctx->request, ngx_http_infer_module);
    cache = ilcf->cache.cache;

    store = ngx_http_infer_cache_enter(cache);
    if (store == NULL) {
        return INFER_AGAIN;
    }

    ngx_memzero(g, sizeof(infer_store_get_t));
    g->ident = ident->data;
    g->ident_len = ident->len;
    g->now_ms = infer_now_us() / 1000;
    g->alloc = ngx_http_infer_cache_room;
    g->alloc_arg = ctx->request->pool;

    rc = infer_store_get(store, key, g);

    if (rc == INFER_BUSY) {
        ngx_http_infer_cache_busy(cache);
    }

    return rc == INFER_OK && g->stale ? INFER_AGAIN : rc;
}


static void *
ngx_http_infer_cache_room(void *arg, size_t len)
{
    return ngx_palloc(arg, len ? len : 1);
}


static ngx_int_t
ngx_http_infer_cache_page(ngx_http_infer_ctx_t *ctx, infer_store_get_t *g)
{
    ngx_http_infer_cache_page_t  page;

    if (g->value_len < sizeof(page)) {
        return NGX_DECLINED;
    }

    ngx_memcpy(&page, g->value, sizeof(page));
    infer_buf_free(&ctx->cache->body);

    return ngx_http_infer_cache_send(ctx, &page,
                                     (u_char *) g->value + sizeof(page),
                                     g->value_len - sizeof(page), g->age_ms);
}


/* Renders from the logs, and keeps the result for the next such body. */

static ngx_int_t
ngx_http_infer_cache_log(ngx_http_infer_ctx_t *ctx, infer_store_get_t *g)
{
    int                          rc;
    ngx_int_t                    src;
    infer_buf_t                  value;
    infer_answer_t               answer;
    infer_render_conf_t          conf;
    ngx_http_infer_cache_ctx_t  *cc;
    ngx_http_infer_cache_page_t  page;

    cc = ctx->cache;

    rc = infer_answer_open(&answer, g->value, g->value_len,
                           ctx->req->n_prompts * ctx->req->n,
                           ctx->req->sampling.top_logprobs,
                           ctx->bus->bus.model[ctx->model->index].vocab);
    if (rc != INFER_OK) {
        return NGX_DECLINED;
    }

    ngx_memzero(&page, sizeof(page));
    page.stream = ctx->req->stream;
    page.prompt_tokens = (uint32_t) answer.usage.prompt_tokens;
    page.completion_tokens = (uint32_t) answer.usage.completion_tokens;
    page.finish = answer.choice[answer.n_choices - 1].finish;

    ngx_memzero(&value, sizeof(infer_buf_t));
    infer_buf_put(&value, (char *) &page, sizeof(page));

    ngx_http_infer_cache_conf(ctx, &conf);
    conf.blank = 1;

    rc = infer_answer_render(&value,
                             ctx->bus->models[ctx->model->index].text,
                             ctx->req, &answer, &conf);
    if (rc != INFER_OK) {
        infer_buf_free(&value);
        return NGX_DECLINED;
    }

    if (cc->body.len && cc->store) {
        (void) ngx_http_infer_cache_put(ctx, cc->body_key, &cc->body, &value,
                                        (ngx_msec_t) g->left_ms);
    }

    src = ngx_http_infer_cache_send(ctx, &page,
                                    (u_char *) value.data + sizeof(page),
                                    value.len - sizeof(page), g->age_ms);
    infer_buf_free(&value);

    return src;
}


static int
ngx_http_infer_cache_put(ngx_http_infer_ctx_t *ctx, u_char *key,
    infer_buf_t *ident, infer_buf_t *value, ngx_msec_t fresh)
{
    int                         rc;
    infer_store_t              *store;
    infer_store_put_t           p;
    ngx_http_infer_loc_conf_t  *ilcf;

    ilcf = ngx_http_get_module_loc_conf(ctx->request, ngx_http_infer_module);

    store = ngx_http_infer_cache_enter(ilcf->cache.cache);

    if (store == NULL || fresh == 0 || value->len > ilcf->cache.max_size) {
        return INFER_INVALID;
    }

    ngx_memzero(&p, sizeof(infer_store_put_t));
    p.ident = ident->data;
    p.ident_len = ident->len;
    p.value = value->data;
    p.value_len = value->len;
    p.now_ms = infer_now_us() / 1000;
    p.fresh_ms = fresh;
    p.tag = ctx->cache->tag;

    rc = infer_store_put(store, key, &p);

    if (rc == INFER_BUSY) {
        ngx_http_infer_cache_busy(ilcf->cache.cache);
    }

    ngx_log_debug2(NGX_LOG_DEBUG_HTTP, ctx->request->connection->log, 0,
                   "infer cache put %uz bytes: %d", value->len, rc);

    return rc;
}


static ngx_int_t
ngx_http_infer_cache_send(ngx_http_infer_ctx_t *ctx,
    ngx_http_infer_cache_page_t *page, u_char *blank, size_t len,
    uint64_t age_ms)
{
    ngx_str_t             value;
    infer_buf_t           body;
    ngx_http_request_t   *r;
    infer_render_conf_t   conf;

    r = ctx->request;

    ngx_memzero(&body, sizeof(infer_buf_t));
    ngx_http_infer_cache_conf(ctx, &conf);

    (void) infer_buf_room(&body, len + len / 2);
    (void) infer_answer_fill(&body, (char *) blank, len, &conf);

    ctx->info.prompt_tokens = page->prompt_tokens;
    ctx->info.completion_tokens = page->completion_tokens;
    ctx->info.has_prompt = 1;
    ctx->info.finish_reason.data =
                              (u_char *) infer_api_finish_name(page->finish);
    ctx->info.finish_reason.len = ngx_strlen(ctx->info.finish_reason.data);

    ngx_http_infer_cache_status(ctx, "HIT");

    value.data = ngx_pnalloc(r->pool, NGX_INT64_LEN);

    if (value.data == NULL) {
        infer_buf_free(&body);
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    value.len = ngx_sprintf(value.data, "%uL", age_ms / 1000) - value.data;

    if (ngx_http_infer_header_out(r, "Age", &value) != NGX_OK
        || (page->stream && ngx_http_infer_stream_headers(r) != NGX_OK))
    {
        infer_buf_free(&body);
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    return ngx_http_infer_send_buf(r, NGX_HTTP_OK,
                                   page->stream ? "text/event-stream"
                                                : "application/json",
                                   &body);
}


static void
ngx_http_infer_cache_conf(ngx_http_infer_ctx_t *ctx, infer_render_conf_t *conf)
{
    const char  *build;

    build = infer_build_id();

    conf->id.data = (char *) ctx->info.request_id.data;
    conf->id.len = ctx->info.request_id.len;
    conf->created = (int64_t) ngx_time();
    conf->fingerprint.data = build;
    conf->fingerprint.len = ngx_strlen(build);
    conf->blank = 0;
}


static void
ngx_http_infer_cache_status(ngx_http_infer_ctx_t *ctx, char *status)
{
    ctx->info.cache_status.data = (u_char *) status;
    ctx->info.cache_status.len = ngx_strlen(status);
}


/* A choice is done and its slot still ours: its log is packed. */

void
ngx_http_infer_cache_keep(ngx_http_infer_ctx_t *ctx,
    ngx_http_infer_choice_t *choice, uint32_t finish)
{
    uint32_t                     i, count, ntop;
    infer_buf_t                 *log;
    infer_top_t                 *top;
    infer_cursor_t               cursor;
    infer_record_t              *rec;
    ngx_http_infer_cache_ctx_t  *cc;

    cc = ctx->cache;

    if (cc == NULL || !cc->store) {
        return;
    }

    ntop = ctx->req->sampling.top_logprobs;
    count = choice->nread;

    if (cc->logs == NULL) {
        cc->logs = ngx_pcalloc(ctx->request->pool,
                               ctx->nchoices * sizeof(infer_buf_t));
        if (cc->logs == NULL) {
            cc->store = 0;
            return;
        }
    }

    log = &cc->logs[choice - ctx->choices];

    if (infer_answer_room(log, finish, count, ntop, &rec, &top) != INFER_OK) {
        cc->store = 0;
        return;
    }

    ngx_memzero(&cursor, sizeof(infer_cursor_t));

    for (i = 0; i < count; i++) {

        if (infer_log_read(&ctx->bus->bus, choice->ref, &cursor, i, &rec[i],
                           &top[(size_t) i * ntop], ntop)
            != INFER_OK)
        {
            cc->store = 0;
            return;
        }
    }
}


/* The answer is complete. */

void
ngx_http_infer_cache_store(ngx_http_infer_ctx_t *ctx,
    infer_api_usage_t *usage)
{
    uint32_t                     finish;
    ngx_uint_t                   i;
    ngx_msec_t                   fresh, valid;
    infer_buf_t                  value;
    infer_store_t               *store;
    ngx_http_infer_cache_ctx_t  *cc;
    ngx_http_infer_loc_conf_t   *ilcf;

    cc = ctx->cache;

    if (cc == NULL || !cc->store || cc->logs == NULL) {
        return;
    }

    ilcf = ngx_http_get_module_loc_conf(ctx->request, ngx_http_infer_module);
    store = ngx_http_infer_cache_enter(ilcf->cache.cache);

    /* of those that read one generation, the first to end stores it */

    if (store == NULL
        || (cc->flying
            && infer_store_land(store, cc->log_key, cc->flight)
               == INFER_AGAIN))
    {
        ngx_http_infer_cache_free(ctx);
        return;
    }

    ngx_memzero(&value, sizeof(infer_buf_t));
    fresh = (ngx_msec_t) -1;

    (void) infer_answer_begin(&value, (uint32_t) ctx->nchoices,
                              ctx->req->sampling.top_logprobs);

    for (i = 0; i < ctx->nchoices; i++) {
        infer_buf_put(&value, cc->logs[i].data, cc->logs[i].len);

        ngx_memcpy(&finish, cc->logs[i].data, sizeof(finish));

        valid = (finish == INFER_FINISH_STOP) ? ilcf->cache.stop_ms
                                              : ilcf->cache.length_ms;
        fresh = ngx_min(fresh, valid);
    }

    if (infer_answer_end(&value, usage) == INFER_OK) {
        (void) ngx_http_infer_cache_put(ctx, cc->log_key, &cc->ident, &value,
                                        fresh);
    }

    infer_buf_free(&value);
    ngx_http_infer_cache_free(ctx);
}


/* What was joined has failed: not that one again. */

void
ngx_http_infer_cache_crashed(ngx_http_infer_ctx_t *ctx)
{
    ctx->cache->failed = ctx->cache->flight;
    ctx->cache->flying = 0;

    ngx_http_infer_cache_status(ctx, "MISS");
}


void
ngx_http_infer_cache_free(ngx_http_infer_ctx_t *ctx)
{
    ngx_uint_t                   i;
    ngx_http_infer_cache_ctx_t  *cc;

    cc = ctx->cache;

    if (cc == NULL) {
        return;
    }

    infer_buf_free(&cc->body);
    infer_buf_free(&cc->ident);

    for (i = 0; cc->logs && i < ctx->nchoices; i++) {
        infer_buf_free(&cc->logs[i]);
    }

    cc->store = 0;
}
