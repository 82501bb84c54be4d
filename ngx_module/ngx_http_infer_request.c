
/*
 * From a body to submitted slots. A job in nginx's thread pool parses,
 * renders the template and tokenizes; it owns its memory and knows nothing
 * of the request, which may end while the job is under way. Its completion,
 * in the event loop, decides on admission, fills the slots and submits them.
 */


#include "ngx_http_infer_request.h"


#define NGX_HTTP_INFER_RETRY_MAX  60
#define NGX_HTTP_INFER_DEAD       3      /* failed starts in a row */


struct ngx_http_infer_job_s {
    ngx_thread_task_t       task;
    ngx_http_infer_ctx_t   *ctx;            /* loop only; NULL: has ended */

    const infer_text_t     *text;
    infer_api_conf_t        conf;
    int                     endpoint;

    char                   *body;
    size_t                  len;
    ngx_fd_t                fd;             /* a body in a file */
    off_t                   offset;

    int                     rc;
    infer_api_request_t    *req;
    infer_api_error_t       error;

    u_char                 *system;
    infer_str_t             aliases[];
};


static ngx_int_t ngx_http_infer_start(ngx_http_request_t *r);
static ngx_int_t ngx_http_infer_terms(ngx_http_request_t *r,
    ngx_http_infer_loc_conf_t *ilcf, infer_terms_t *terms);
static ngx_int_t ngx_http_infer_overload(ngx_http_infer_ctx_t *ctx,
    ngx_uint_t status, ngx_uint_t retry, char *message);
static ngx_http_infer_job_t *ngx_http_infer_job(ngx_http_request_t *r,
    ngx_http_infer_ctx_t *ctx);
static ngx_int_t ngx_http_infer_job_body(ngx_http_request_t *r,
    ngx_http_infer_job_t *job);
static void ngx_http_infer_job_conf(ngx_http_infer_job_t *job,
    ngx_http_infer_ctx_t *ctx, ngx_http_infer_loc_conf_t *ilcf);
static void ngx_http_infer_job_free(ngx_http_infer_job_t *job);
static void ngx_http_infer_job_run(void *data, ngx_log_t *log);
static int ngx_http_infer_job_read(ngx_http_infer_job_t *job);
static void ngx_http_infer_job_done(ngx_event_t *ev);
static ngx_int_t ngx_http_infer_prepared(ngx_http_infer_ctx_t *ctx);
static ngx_int_t ngx_http_infer_admit(ngx_http_infer_ctx_t *ctx);
static void ngx_http_infer_submitted(ngx_http_infer_ctx_t *ctx);
static int ngx_http_infer_stops(infer_api_request_t *req, infer_buf_t *stops);
static int ngx_http_infer_fill(ngx_http_infer_ctx_t *ctx, ngx_uint_t i,
    infer_buf_t *stops);
static void ngx_http_infer_cancel(void *data);
static void ngx_http_infer_free(void *data);


void
ngx_http_infer_body_handler(ngx_http_request_t *r)
{
    ngx_int_t  rc;

    rc = ngx_http_infer_start(r);

    if (rc != NGX_DONE) {
        ngx_http_finalize_request(r, rc);
    }
}


/* DONE: a job is under way */

static ngx_int_t
ngx_http_infer_start(ngx_http_request_t *r)
{
    ngx_int_t                   rc;
    ngx_pool_cleanup_t         *pcln;
    ngx_http_cleanup_t         *cln;
    ngx_http_infer_ctx_t       *ctx;
    ngx_http_infer_job_t       *job;
    ngx_http_infer_loc_conf_t  *ilcf;

    ctx = ngx_http_get_module_ctx(r, ngx_http_infer_module);
    ilcf = ngx_http_get_module_loc_conf(r, ngx_http_infer_module);

    ctx->done = 1;

    pcln = ngx_pool_cleanup_add(r->pool, 0);
    if (pcln == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    pcln->handler = ngx_http_infer_free;
    pcln->data = ctx;
    ctx->freed = 1;

    cln = ngx_http_cleanup_add(r, 0);
    if (cln == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    cln->handler = ngx_http_infer_cancel;
    cln->data = ctx;

    rc = ngx_http_infer_cache_lookup_body(r, ctx);

    if (rc != NGX_DECLINED) {
        return rc;
    }

    if (ctx->bus->models[ctx->model->index].text == NULL) {
        rc = ngx_http_infer_cache_stale(ctx, NGX_HTTP_INFER_STALE_ERROR,
                                        "The model is not ready.");

        return (rc != NGX_DECLINED) ? rc
               : ngx_http_infer_refuse(r, NGX_HTTP_SERVICE_UNAVAILABLE, 1,
                                       "The model is not ready.");
    }

    if (ngx_http_infer_terms(r, ilcf, &ctx->terms) != NGX_OK) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    job = ngx_http_infer_job(r, ctx);
    if (job == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    if (ngx_thread_task_post(ilcf->thread_pool, &job->task) != NGX_OK) {
        ngx_http_infer_job_free(job);

        return ngx_http_infer_overload(ctx, NGX_HTTP_SERVICE_UNAVAILABLE, 1,
                                       "Too many requests are being "
                                       "prepared.");
    }

    ctx->job = job;
    ctx->done = 0;

    ngx_http_infer_watch_client(r);
    ngx_http_infer_timer(ctx);

    ngx_log_debug1(NGX_LOG_DEBUG_HTTP, r->connection->log, 0,
                   "infer preparing, %uz bytes", job->len);

    return NGX_DONE;
}


/* How long it may take, and who goes first. */

static ngx_int_t
ngx_http_infer_terms(ngx_http_request_t *r, ngx_http_infer_loc_conf_t *ilcf,
    infer_terms_t *terms)
{
    uint64_t   now;
    ngx_str_t  value;

    now = infer_now_us();

    if (ilcf->queue_timeout) {
        terms->queue_deadline_us = now + (uint64_t) ilcf->queue_timeout * 1000;
    }

    if (ilcf->first_timeout) {
        terms->first_deadline_us = now + (uint64_t) ilcf->first_timeout * 1000;
    }

    if (ilcf->total_timeout) {
        terms->total_deadline_us = now + (uint64_t) ilcf->total_timeout * 1000;
    }

    if (ilcf->priority == NULL) {
        return NGX_OK;
    }

    if (ngx_http_complex_value(r, ilcf->priority, &value) != NGX_OK) {
        return NGX_ERROR;
    }

    if (ngx_http_infer_priority_value(&value, &terms->priority) != NGX_OK) {
        ngx_log_error(NGX_LOG_INFO, r->connection->log, 0,
                      "infer priority \"%V\" is taken for normal", &value);
    }

    return NGX_OK;
}


/* There is too much to do: an old answer, or a refusal. */

static ngx_int_t
ngx_http_infer_overload(ngx_http_infer_ctx_t *ctx, ngx_uint_t status,
    ngx_uint_t retry, char *message)
{
    ngx_int_t           rc;
    infer_bus_stats_t  *stats;

    rc = ngx_http_infer_cache_stale(ctx, NGX_HTTP_INFER_STALE_OVERLOAD,
                                    message);

    if (rc != NGX_DECLINED) {
        return rc;
    }

    stats = ctx->bus->bus.stats;

    (void) atomic_fetch_add(status == NGX_HTTP_TOO_MANY_REQUESTS
                            ? &stats->rejected_429 : &stats->rejected_503, 1);

    return ngx_http_infer_refuse(ctx->request, status, retry, message);
}


/* A client that goes away is noticed in every phase. */

void
ngx_http_infer_watch_client(ngx_http_request_t *r)
{
    ngx_event_t       *rev;
    ngx_connection_t  *c;

    if (r != r->main) {
        return;
    }

    c = r->connection;
    rev = c->read;

    r->read_event_handler = ngx_http_test_reading;
    r->write_event_handler = ngx_http_request_empty_handler;

#if (NGX_HTTP_V2)
    if (r->stream) {
        return;
    }
#endif

    if (rev->timer_set) {
        ngx_del_timer(rev);
    }

#if (NGX_HAVE_EPOLLRDHUP)
    if (rev->pending_eof) {
        ngx_post_event(rev, &ngx_posted_events);
    }
#endif
}


static ngx_http_infer_job_t *
ngx_http_infer_job(ngx_http_request_t *r, ngx_http_infer_ctx_t *ctx)
{
    ngx_str_t                   system;
    ngx_http_infer_job_t       *job;
    ngx_http_infer_loc_conf_t  *ilcf;

    ilcf = ngx_http_get_module_loc_conf(r, ngx_http_infer_module);

    job = ngx_calloc(sizeof(ngx_http_infer_job_t)
                     + ctx->model->aliases.nelts * sizeof(infer_str_t),
                     r->connection->log);
    if (job == NULL) {
        return NULL;
    }

    job->fd = NGX_INVALID_FILE;
    job->ctx = ctx;
    job->endpoint = ctx->endpoint;
    job->text = ctx->bus->models[ctx->model->index].text;

    ngx_http_infer_job_conf(job, ctx, ilcf);

    if (ilcf->system) {

        if (ngx_http_complex_value(r, ilcf->system, &system) != NGX_OK) {
            goto failed;
        }

        if (system.len) {
            job->system = ngx_alloc(system.len, r->connection->log);
            if (job->system == NULL) {
                goto failed;
            }

            ngx_memcpy(job->system, system.data, system.len);

            job->conf.system.data = (char *) job->system;
            job->conf.system.len = system.len;
        }
    }

    if (ngx_http_infer_job_body(r, job) != NGX_OK) {
        goto failed;
    }

    job->task.ctx = job;
    job->task.handler = ngx_http_infer_job_run;
    job->task.event.data = job;
    job->task.event.handler = ngx_http_infer_job_done;
    job->task.event.log = ngx_cycle->log;

    return job;

failed:

    ngx_http_infer_job_free(job);

    return NULL;
}


static void
ngx_http_infer_job_conf(ngx_http_infer_job_t *job, ngx_http_infer_ctx_t *ctx,
    ngx_http_infer_loc_conf_t *ilcf)
{
    ngx_str_t         *alias;
    ngx_uint_t         i;
    infer_api_conf_t  *conf;

    conf = &job->conf;
    alias = ctx->model->aliases.elts;

    for (i = 0; i < ctx->model->aliases.nelts; i++) {
        job->aliases[i].data = (char *) alias[i].data;
        job->aliases[i].len = alias[i].len;
    }

    conf->model.data = (char *) ctx->model->name.data;
    conf->model.len = ctx->model->name.len;
    conf->aliases = job->aliases;
    conf->n_aliases = (uint32_t) i;

    conf->context = ctx->bus->bus.model[ctx->model->index].context;
    conf->sampling = ilcf->sampling;
    conf->seed_set = (ilcf->sampling_set & NGX_HTTP_INFER_SET_SEED) ? 1 : 0;
    conf->max_tokens = (uint32_t) ilcf->max_tokens;
    conf->max_tokens_cap = (uint32_t) ilcf->max_tokens_cap;
    conf->max_n = (uint32_t) ilcf->max_n;
    conf->now = (int64_t) ngx_time();
}


/*
 * Takes the body over: what is in memory is copied, since the pool may go
 * before the job does; of a file, only the descriptor. Then gives back
 * nginx's buffer, unless a mirror may still read it.
 */

static ngx_int_t
ngx_http_infer_job_body(ngx_http_request_t *r, ngx_http_infer_job_t *job)
{
    size_t                    len;
    ngx_buf_t                *b;
    ngx_chain_t              *cl;
    ngx_http_request_body_t  *rb;

    rb = r->request_body;

    if (rb == NULL) {
        return NGX_OK;
    }

    for (cl = rb->bufs; cl; cl = cl->next) {
        b = cl->buf;

        if (b->in_file) {

            if (job->fd != NGX_INVALID_FILE || job->len || cl->next) {
                ngx_log_error(NGX_LOG_ALERT, r->connection->log, 0,
                              "infer body is spread over files");
                return NGX_ERROR;
            }

            job->offset = b->file_pos;
            job->fd = dup(b->file->fd);

            if (job->fd == NGX_INVALID_FILE) {
                ngx_log_error(NGX_LOG_ERR, r->connection->log, ngx_errno,
                              "infer dup() of a body's file failed");
                return NGX_ERROR;
            }
        }

        job->len += (size_t) ngx_buf_size(b);
    }

    job->body = ngx_alloc(job->len + 1, r->connection->log);
    if (job->body == NULL) {
        return NGX_ERROR;
    }

    if (job->fd != NGX_INVALID_FILE) {
        return NGX_OK;
    }

    len = 0;

    for (cl = rb->bufs; cl; cl = cl->next) {
        b = cl->buf;

        if (b->last > b->pos) {
            ngx_memcpy(job->body + len, b->pos, b->last - b->pos);
            len += b->last - b->pos;
        }
    }

    if (r == r->main && !r->preserve_body && rb->buf && rb->buf->start
        && rb->buf->start != r->header_in->start
        && ngx_pfree(r->pool, rb->buf->start) == NGX_OK)
    {
        rb->buf = NULL;
        rb->bufs = NULL;
    }

    return NGX_OK;
}


static void
ngx_http_infer_job_free(ngx_http_infer_job_t *job)
{
    if (job->fd != NGX_INVALID_FILE) {
        (void) close(job->fd);
    }

    if (job->req) {
        infer_api_request_free(job->req);
    }

    if (job->body) {
        ngx_free(job->body);
    }

    if (job->system) {
        ngx_free(job->system);
    }

    ngx_free(job);
}


/* in a thread */

static void
ngx_http_infer_job_run(void *data, ngx_log_t *log)
{
    ngx_http_infer_job_t *job = data;

    if (job->fd != NGX_INVALID_FILE && ngx_http_infer_job_read(job) != 0) {
        job->rc = INFER_NOMEM;
        infer_api_error_status(&job->error, NGX_HTTP_INTERNAL_SERVER_ERROR,
                               NULL);
        return;
    }

    job->rc = infer_api_prepare(job->text, &job->conf, job->endpoint,
                                job->body ? job->body : "", job->len,
                                &job->req, &job->error);

    if (job->body) {
        ngx_free(job->body);
        job->body = NULL;
    }
}


static int
ngx_http_infer_job_read(ngx_http_infer_job_t *job)
{
    size_t   done;
    ssize_t  n;

    done = 0;

    while (done < job->len) {
        n = pread(job->fd, job->body + done, job->len - done,
                  job->offset + (off_t) done);

        if (n == -1 && ngx_errno == NGX_EINTR) {
            continue;
        }

        if (n <= 0) {
            return -1;
        }

        done += n;
    }

    return 0;
}


static void
ngx_http_infer_job_done(ngx_event_t *ev)
{
    ngx_int_t              rc;
    ngx_connection_t      *c;
    ngx_http_request_t    *r;
    ngx_http_infer_ctx_t  *ctx;
    ngx_http_infer_job_t  *job;

    job = ev->data;
    ctx = job->ctx;

    if (ctx == NULL) {
        ngx_http_infer_job_free(job);
        return;
    }

    ctx->job = NULL;

    r = ctx->request;
    c = r->connection;

    ngx_http_set_log_request(c->log, r);

    if (job->rc != INFER_OK) {
        ngx_http_infer_event_forget(ctx);
        ctx->done = 1;
        rc = NGX_DECLINED;

        if (job->error.status >= NGX_HTTP_INTERNAL_SERVER_ERROR) {
            rc = ngx_http_infer_cache_stale(ctx, NGX_HTTP_INFER_STALE_ERROR,
                                            job->error.message);
        }

        if (rc == NGX_DECLINED) {
            rc = ngx_http_infer_send_error(r, &job->error, 0);
        }

        ngx_http_infer_job_free(job);

    } else {
        ctx->req = job->req;
        job->req = NULL;

        ngx_http_infer_job_free(job);

        rc = ngx_http_infer_prepared(ctx);
    }

    if (rc != NGX_DONE) {
        ngx_http_finalize_request(r, rc);
    }

    ngx_http_run_posted_requests(c);
}


/* DONE: submitted */

static ngx_int_t
ngx_http_infer_prepared(ngx_http_infer_ctx_t *ctx)
{
    ngx_int_t            rc;
    infer_buf_t          body;
    ngx_http_request_t  *r;

    r = ctx->request;

    if (ctx->req->endpoint >= INFER_API_TOKENIZE) {
        ngx_http_infer_event_forget(ctx);
        ctx->done = 1;

        body = ctx->req->body;
        ngx_memzero(&ctx->req->body, sizeof(infer_buf_t));

        return ngx_http_infer_send_buf(r, NGX_HTTP_OK, "application/json",
                                       &body);
    }

    ctx->info.prompt_tokens = (ngx_uint_t) ctx->req->n_prompt_tokens;
    ctx->info.has_prompt = 1;

    rc = ngx_http_infer_cache_lookup(ctx);

    if (rc == NGX_DECLINED) {
        rc = ngx_http_infer_cache_redis(ctx);
    }

    return ngx_http_infer_proceed(ctx, rc);
}


/* rc: of the looks into the cache; DECLINED: it is to be generated */

ngx_int_t
ngx_http_infer_proceed(ngx_http_infer_ctx_t *ctx, ngx_int_t rc)
{
    if (rc == NGX_DECLINED) {
        rc = ngx_http_infer_admit(ctx);
    }

    if (rc == NGX_DECLINED) {
        rc = ngx_http_infer_submit(ctx);
    }

    if (rc != NGX_DONE) {
        ngx_http_infer_event_forget(ctx);
        ctx->done = 1;
    }

    return rc;
}


/* DECLINED: it may go on, else an answer has been given */

static ngx_int_t
ngx_http_infer_admit(ngx_http_infer_ctx_t *ctx)
{
    if (ngx_http_infer_engine_down(ctx->bus)) {
        (void) atomic_fetch_add(&ctx->bus->bus.stats->rejected_503, 1);

        return ngx_http_infer_refuse(ctx->request,
                                     NGX_HTTP_SERVICE_UNAVAILABLE, 10,
                                     "The engine is down.");
    }

    if (ngx_http_infer_queue_full(ctx)) {
        return ngx_http_infer_overload(ctx, NGX_HTTP_TOO_MANY_REQUESTS,
                                       ngx_http_infer_retry_after(ctx),
                                       "The queue is full.");
    }

    return NGX_DECLINED;
}


/* It could not load, or does not come up. */

ngx_uint_t
ngx_http_infer_engine_down(ngx_http_infer_bus_t *bus)
{
    infer_bus_header_t  *hdr;

    hdr = bus->bus.hdr;

    return atomic_load(&hdr->engine_state) == INFER_ENGINE_FAILED
           || (atomic_load(&hdr->spawn_failures) >= NGX_HTTP_INFER_DEAD
               && !ngx_http_infer_engine_alive(bus));
}


/* The location's limits leave no room for the request. */

ngx_uint_t
ngx_http_infer_queue_full(ngx_http_infer_ctx_t *ctx)
{
    uint64_t                    n;
    infer_bus_t                *bus;
    infer_bus_load_t            load;
    ngx_http_infer_loc_conf_t  *ilcf;

    bus = &ctx->bus->bus;
    ilcf = ngx_http_get_module_loc_conf(ctx->request, ngx_http_infer_module);

    if (ilcf->queue_length == 0 && ilcf->queue_tokens == 0) {
        return 0;
    }

    infer_bus_load(bus, (uint32_t) ctx->model->index, &load);

    /* what runs at once is not a queue */

    n = (uint64_t) load.waiting + load.running
        + (uint64_t) ctx->req->n_prompts * ctx->req->n;

    return (ilcf->queue_length
            && n > bus->model[ctx->model->index].sequences
                   + ilcf->queue_length)
           || (ilcf->queue_tokens && load.waiting
               && load.waiting_tokens + ctx->req->n_prompt_tokens
                  > ilcf->queue_tokens);
}


/* Seconds until what waits now is likely to have been worked off. */

ngx_uint_t
ngx_http_infer_retry_after(ngx_http_infer_ctx_t *ctx)
{
    uint64_t          tokens, rate;
    infer_bus_load_t  load;

    infer_bus_load(&ctx->bus->bus, (uint32_t) ctx->model->index, &load);

    rate = atomic_load(&ctx->bus->bus.hdr->tokens_per_s);
    tokens = load.waiting_tokens;

    if (rate == 0) {
        return load.waiting + load.running ? 5 : 1;
    }

    return (ngx_uint_t) ngx_max(1, ngx_min(tokens / rate,
                                           NGX_HTTP_INFER_RETRY_MAX));
}


/* DONE: submitted, else an answer has been given. */

ngx_int_t
ngx_http_infer_submit(ngx_http_infer_ctx_t *ctx)
{
    ngx_uint_t           n;
    ngx_http_request_t  *r;

    r = ctx->request;
    n = (ngx_uint_t) ctx->req->n_prompts * ctx->req->n;

    ctx->choices = ngx_pcalloc(r->pool, n * sizeof(ngx_http_infer_choice_t));
    if (ctx->choices == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    if (ngx_http_infer_prefix_scope(ctx) != NGX_OK) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    ctx->nchoices = n;

    if (ngx_http_infer_claim(ctx) != INFER_OK) {
        ctx->nchoices = 0;

        return ngx_http_infer_overload(ctx, NGX_HTTP_SERVICE_UNAVAILABLE,
                                       ngx_http_infer_retry_after(ctx),
                                       "The server has no room for the "
                                       "request.");
    }

    if (ngx_http_infer_cache_board(ctx) == NGX_DONE) {
        return NGX_DONE;
    }

    ctx->ping = 0;

    ngx_http_infer_launch(ctx);
    ngx_http_infer_submitted(ctx);

    return NGX_DONE;
}


int
ngx_http_infer_claim(ngx_http_infer_ctx_t *ctx)
{
    int                   rc;
    ngx_uint_t            i;
    infer_buf_t           stops;
    infer_api_request_t  *req;

    req = ctx->req;

    if (!req->seed_set) {
        ngx_http_infer_random(&req->sampling.seed, sizeof(uint64_t));
    }

    rc = ngx_http_infer_stops(req, &stops);

    for (i = 0; i < ctx->nchoices && rc == INFER_OK; i++) {
        rc = ngx_http_infer_fill(ctx, i, &stops);
    }

    infer_buf_free(&stops);

    if (rc == INFER_OK) {
        return INFER_OK;
    }

    for (i = 0; i < ctx->nchoices && ctx->choices[i].held; i++) {
        infer_slot_abandon(&ctx->bus->bus, ctx->choices[i].ref);
        ctx->choices[i].held = 0;
    }

    return rc;
}


void
ngx_http_infer_launch(ngx_http_infer_ctx_t *ctx)
{
    ngx_uint_t                i;
    infer_api_request_t      *req;
    ngx_http_infer_choice_t  *choice;

    req = ctx->req;

    for (i = 0; i < ctx->nchoices; i++) {
        choice = &ctx->choices[i];

        ngx_http_infer_event_add(ctx, choice);

        infer_slot_submit(&ctx->bus->bus, (uint32_t) ctx->bus->entry,
                          choice->ref);

        ngx_log_debug3(NGX_LOG_DEBUG_HTTP, ngx_http_infer_log(ctx), 0,
                       "infer submitted slot %uD, %uD prompt tokens, "
                       "at most %uD", choice->ref.slot,
                       req->prompts[i / req->n].n_ids,
                       req->prompts[i / req->n].max_tokens);
    }

    infer_api_request_shrink(req);

    ngx_http_infer_engine_wake(ctx->bus);
}


ngx_uint_t
ngx_http_infer_slot_runs(ngx_http_infer_bus_t *bus, infer_ref_t ref)
{
    uint32_t  status;

    status = infer_slot_status(&bus->bus, ref);

    return status == INFER_SLOT_SUBMITTED || status == INFER_SLOT_RUNNING;
}


static void
ngx_http_infer_submitted(ngx_http_infer_ctx_t *ctx)
{
    ngx_http_infer_loc_conf_t  *ilcf;

    if (ctx->req->stream) {
        ilcf = ngx_http_get_module_loc_conf(ctx->request,
                                            ngx_http_infer_module);
        ctx->ping = ilcf->ping;
        ctx->last_sent = ngx_current_msec;
    }

    ngx_http_infer_timer(ctx);
}


/*
 * The choices read generations that another request began, from their start.
 * The ids are kept: should one of them fail before anything was sent, we begin
 * our own.
 */

ngx_int_t
ngx_http_infer_joined(ngx_http_infer_ctx_t *ctx)
{
    ngx_http_infer_event_kick(ctx);
    ngx_http_infer_submitted(ctx);

    ngx_log_debug1(NGX_LOG_DEBUG_HTTP, ctx->request->connection->log, 0,
                   "infer joined slot %uD", ctx->choices->ref.slot);

    return NGX_DONE;
}


/* The extent of stop strings: each with its length before it. */

static int
ngx_http_infer_stops(infer_api_request_t *req, infer_buf_t *stops)
{
    uint32_t  i;
    uint16_t  len;

    ngx_memzero(stops, sizeof(infer_buf_t));

    for (i = 0; i < req->n_stops; i++) {
        len = (uint16_t) req->stop_lens[i];
        infer_buf_put(stops, (char *) &len, sizeof(len));
        infer_buf_put(stops, req->stops[i], len);
    }

    return infer_buf_rc(stops);
}


/* BUSY: no slot or no room; what has been claimed is marked as held */

static int
ngx_http_infer_fill(ngx_http_infer_ctx_t *ctx, ngx_uint_t i,
    infer_buf_t *stops)
{
    int                       rc;
    infer_bus_t              *bus;
    infer_ref_t               ref;
    infer_slot_t             *slot;
    infer_api_prompt_t       *prompt;
    infer_api_request_t      *req;
    ngx_http_infer_choice_t  *choice;

    req = ctx->req;
    bus = &ctx->bus->bus;
    choice = &ctx->choices[i];
    prompt = &req->prompts[i / req->n];

    rc = infer_slot_claim(bus, (uint32_t) ctx->bus->entry, &ref);

    if (rc != INFER_OK) {
        return rc;
    }

    choice->ctx = ctx;
    choice->ref = ref;
    choice->held = 1;

    if (i) {
        infer_slot_chain(bus, ctx->choices[i - 1].ref, ref);
    }

    slot = &bus->slot[ref.slot];

    slot->model = (uint32_t) ctx->model->index;
    slot->queue_deadline_us = ctx->terms.queue_deadline_us;
    slot->first_deadline_us = ctx->terms.first_deadline_us;
    slot->total_deadline_us = ctx->terms.total_deadline_us;
    slot->priority = ctx->terms.priority;
    slot->choice = (uint32_t) i;
    slot->group = ctx->choices[0].ref.slot;
    slot->n_prompt = prompt->n_ids;
    slot->n_stops = req->n_stops;
    slot->n_stop_ids = req->n_stop_ids;
    slot->n_bias = req->n_bias;
    slot->sampling = req->sampling;
    slot->sampling.max_tokens = prompt->max_tokens;
    ngx_memcpy(slot->scope, ctx->scope, sizeof(slot->scope));

    rc = infer_slot_put(bus, ref, INFER_EXT_PROMPT, prompt->ids,
                        (size_t) prompt->n_ids * sizeof(int32_t));

    if (rc == INFER_OK) {
        rc = infer_slot_put(bus, ref, INFER_EXT_STOPS, stops->data,
                            stops->len);
    }

    if (rc == INFER_OK) {
        rc = infer_slot_put(bus, ref, INFER_EXT_STOP_IDS, req->stop_ids,
                            (size_t) req->n_stop_ids * sizeof(int32_t));
    }

    if (rc == INFER_OK) {
        rc = infer_slot_put(bus, ref, INFER_EXT_BIAS, req->bias,
                            (size_t) req->n_bias * sizeof(infer_bias_t));
    }

    if (rc == INFER_OK) {
        rc = infer_slot_reserve_log(bus, ref, prompt->max_tokens);
    }

    return rc;
}


/* The caller wakes the engine. Tokens that nobody read count too. */

void
ngx_http_infer_release(ngx_http_infer_ctx_t *ctx,
    ngx_http_infer_choice_t *choice)
{
    uint32_t  n;

    n = infer_log_count(&ctx->bus->bus, choice->ref);

    if (n > choice->nread) {
        ctx->info.completion_tokens += n - choice->nread;
        choice->nread = n;
    }

    ngx_http_infer_output_note(ctx, choice);

    if (ngx_http_infer_event_del(ctx, choice)) {
        infer_slot_release(&ctx->bus->bus, (uint32_t) ctx->bus->entry,
                           choice->ref);
    }

    choice->held = 0;

    ngx_log_debug2(NGX_LOG_DEBUG_HTTP, ngx_http_infer_log(ctx), 0,
                   "infer released slot %uD after %uD tokens",
                   choice->ref.slot, choice->nread);
}


void
ngx_http_infer_release_all(ngx_http_infer_ctx_t *ctx)
{
    ngx_uint_t  i, n;

    n = 0;

    for (i = 0; i < ctx->nchoices; i++) {
        if (ctx->choices[i].held) {
            ngx_http_infer_release(ctx, &ctx->choices[i]);
            n++;
        }
    }

    if (n) {
        ngx_http_infer_engine_wake(ctx->bus);
    }
}


/* The request's cleanup: it ends, in whatever phase. */

static void
ngx_http_infer_cancel(void *data)
{
    ngx_http_infer_ctx_t *ctx = data;

    if (ctx->job) {
        ctx->job->ctx = NULL;
        ctx->job = NULL;
    }

    ngx_http_infer_cache_redis_forget(ctx);
    ngx_http_infer_event_forget(ctx);
    ngx_http_infer_release_all(ctx);

    if (!ctx->done) {
        ctx->done = 1;
        ngx_http_infer_gone(ctx);
    }
}


/* The client left before its answer was complete. */

void
ngx_http_infer_gone(ngx_http_infer_ctx_t *ctx)
{
    ngx_log_debug1(NGX_LOG_DEBUG_HTTP, ctx->request->connection->log, 0,
                   "infer client gone after %ui tokens",
                   ctx->info.completion_tokens);

    (void) atomic_fetch_add(&ctx->bus->bus.stats->client_gone, 1);

    ngx_str_set(&ctx->info.finish_reason, "cancelled");
}


/* The pool's cleanup. */

static void
ngx_http_infer_free(void *data)
{
    ngx_uint_t             i;
    ngx_http_infer_ctx_t  *ctx;

    ctx = data;

    for (i = 0; i < ctx->nchoices; i++) {
        if (ctx->choices[i].stream) {
            infer_stream_free(ctx->choices[i].stream);
        }
    }

    if (ctx->render) {
        infer_render_free(ctx->render);
    }

    ngx_http_infer_cache_free(ctx);

    if (ctx->req) {
        infer_api_request_free(ctx->req);
    }

    infer_buf_free(&ctx->out);
}
