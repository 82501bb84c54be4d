
/*
 * From a body to a tokenized request, and the end of a request, whatever its
 * phase. A job in nginx's thread pool parses, renders the template and
 * tokenizes; it owns its memory and knows nothing of the request, which may
 * end while the job is under way. Its completion, in the event loop, looks
 * into the cache; what is not there is submit.c's.
 */


#include "ngx_http_infer_request.h"


struct ngx_http_infer_job_s {
    ngx_thread_task_t       task;
    ngx_http_infer_ctx_t   *ctx;            /* loop only; NULL: has ended */

    ngx_http_infer_bus_t   *bus;
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
static ngx_http_infer_job_t *ngx_http_infer_job(ngx_http_request_t *r,
    ngx_http_infer_ctx_t *ctx);
static void ngx_http_infer_job_conf(ngx_http_infer_job_t *job,
    ngx_http_infer_ctx_t *ctx, ngx_http_infer_loc_conf_t *ilcf);
static ngx_int_t ngx_http_infer_job_body(ngx_http_request_t *r,
    ngx_http_infer_job_t *job);
static void ngx_http_infer_job_free(ngx_http_infer_job_t *job);
static void ngx_http_infer_job_run(void *data, ngx_log_t *log);
static int ngx_http_infer_job_read(ngx_http_infer_job_t *job);
static void ngx_http_infer_job_done(ngx_event_t *ev);
static ngx_int_t ngx_http_infer_prepared(ngx_http_infer_ctx_t *ctx);
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
    ngx_http_cleanup_t         *cln;
    ngx_http_infer_ctx_t       *ctx;
    ngx_http_infer_job_t       *job;
    ngx_http_infer_loc_conf_t  *ilcf;

    ctx = ngx_http_get_module_ctx(r, ngx_http_infer_module);
    ilcf = ngx_http_get_module_loc_conf(r, ngx_http_infer_module);

    ctx->done = 1;

    if (ngx_http_infer_own(ctx) != NGX_OK) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

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

    ctx->bus->jobs++;
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
    job->bus = ctx->bus;
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

    } else {
        job->rc = infer_api_prepare(job->text, &job->conf, job->endpoint,
                                    job->body ? job->body : "", job->len,
                                    &job->req, &job->error);
    }

    if (job->body) {
        ngx_free(job->body);
        job->body = NULL;
    }

    /* release; pairs with acquire in ngx_http_infer_bus_leave() */

    (void) atomic_fetch_add_explicit(&job->bus->jobs_done, 1,
                                     memory_order_release);
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


/* The request's cleanup: it ends, in whatever phase. */

static void
ngx_http_infer_cancel(void *data)
{
    ngx_http_infer_ctx_t *ctx = data;

    ngx_http_infer_drop(ctx);
    ngx_http_infer_event_forget(ctx);
    ngx_http_infer_release_all(ctx);

    if (!ctx->done) {
        ctx->done = 1;
        ngx_http_infer_gone(ctx);
    }
}


/* What is under way in threads for it, or asked for again, is nobody's. */

void
ngx_http_infer_drop(ngx_http_infer_ctx_t *ctx)
{
    if (ctx->job) {
        ctx->job->ctx = NULL;
        ctx->job = NULL;
    }

    ngx_http_infer_cache_redis_forget(ctx);
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


/* From now on what the context has of malloc goes with the pool. */

ngx_int_t
ngx_http_infer_own(ngx_http_infer_ctx_t *ctx)
{
    ngx_pool_cleanup_t  *cln;

    if (ctx->freed) {
        return NGX_OK;
    }

    cln = ngx_pool_cleanup_add(ctx->request->pool, 0);
    if (cln == NULL) {
        return NGX_ERROR;
    }

    cln->handler = ngx_http_infer_free;
    cln->data = ctx;
    ctx->freed = 1;

    return NGX_OK;
}


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
