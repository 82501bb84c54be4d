
/*
 * Making a bus, in the master: has the engine's binary check each model,
 * chooses sizes, makes the memfd, the eventfds, the lifeline and the control
 * channel, all close-on-exec. Under nginx -t only the checks are made. And
 * taking it apart.
 *
 * No descriptor of the memfd is ever closed by a process that holds a byte
 * lock on it and goes on.
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>

#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include "ngx_http_infer_zone.h"

#include <ngx_sha1.h>


#define NGX_HTTP_INFER_ANSWER     4096
#define NGX_HTTP_INFER_LEAST_BUS  (64 * 1024 * 1024)


static void ngx_http_infer_bus_digest(ngx_http_infer_bus_t *bus, ngx_uint_t n);
static ngx_int_t ngx_http_infer_bus_check(ngx_http_infer_plan_t *plan,
    ngx_http_infer_bus_t *bus, ngx_uint_t n);
static ngx_int_t ngx_http_infer_bus_info(ngx_http_infer_plan_t *plan,
    ngx_http_infer_model_t *model, const char *answer,
    infer_bus_model_t *info);
static ngx_int_t ngx_http_infer_bus_seal(ngx_http_infer_plan_t *plan,
    ngx_http_infer_model_t *model, ngx_http_infer_bus_model_t *bm);
static char **ngx_http_infer_check_argv(ngx_http_infer_plan_t *plan,
    ngx_http_infer_model_t *model, ngx_uint_t template);
static uint64_t ngx_http_infer_check_value(const char *answer, const char *key);
static ngx_int_t ngx_http_infer_bus_memory(ngx_http_infer_plan_t *plan,
    ngx_http_infer_bus_t *bus);
static ngx_int_t ngx_http_infer_bus_descriptors(ngx_http_infer_bus_t *bus,
    ngx_log_t *log);
static ngx_int_t ngx_http_infer_bus_env(ngx_http_infer_bus_t *bus,
    ngx_http_infer_zone_t *zone);


ngx_http_infer_bus_t *
ngx_http_infer_bus_make(ngx_http_infer_plan_t *plan)
{
    ngx_uint_t              i;
    ngx_http_infer_bus_t   *bus;
    ngx_http_infer_zone_t  *zone;

    zone = plan->zone;

    bus = ngx_calloc(sizeof(ngx_http_infer_bus_t), plan->log);
    if (bus == NULL) {
        return NULL;
    }

    bus->refs = 1;
    bus->entry = NGX_HTTP_INFER_NO_ENTRY;
    bus->bus.fd = NGX_HTTP_INFER_NO_FD;
    bus->wake_fd = NGX_HTTP_INFER_NO_FD;
    bus->lifeline[0] = NGX_HTTP_INFER_NO_FD;
    bus->lifeline[1] = NGX_HTTP_INFER_NO_FD;
    bus->control[0] = NGX_HTTP_INFER_NO_FD;
    bus->control[1] = NGX_HTTP_INFER_NO_FD;

    ngx_memcpy(bus->signature, plan->signature, sizeof(bus->signature));

    for (i = 0; i < INFER_MAX_ENTRIES; i++) {
        bus->entry_fd[i] = NGX_HTTP_INFER_NO_FD;
    }

    for (i = 0; i < INFER_MAX_MODELS; i++) {
        bus->models[i].fd = NGX_HTTP_INFER_NO_FD;
        bus->models[i].image_fd = NGX_HTTP_INFER_NO_FD;
    }

    bus->engine_fd = ngx_http_infer_engine_open(zone, plan->log);

    if (bus->engine_fd == NGX_HTTP_INFER_NO_FD
        || ngx_http_infer_bus_env(bus, zone) != NGX_OK)
    {
        goto failed;
    }

    bus->nmodels = zone->models.nelts;

    for (i = 0; i < bus->nmodels; i++) {
        bus->models[i].fd = plan->file_fd[i];
        bus->models[i].created = plan->file[i].st_mtim.tv_sec;
        plan->file_fd[i] = NGX_HTTP_INFER_NO_FD;

        ngx_http_infer_bus_digest(bus, i);

        if (ngx_http_infer_bus_check(plan, bus, i) != NGX_OK) {
            goto failed;
        }
    }

    if (ngx_http_infer_bus_memory(plan, bus) != NGX_OK) {
        goto failed;
    }

    if (!ngx_test_config
        && ngx_http_infer_bus_descriptors(bus, plan->log) != NGX_OK)
    {
        goto failed;
    }

    return bus;

failed:

    ngx_http_infer_bus_free(bus);

    return NULL;
}


/* answers of a model are those of what the bus was made from */

static void
ngx_http_infer_bus_digest(ngx_http_infer_bus_t *bus, ngx_uint_t n)
{
    ngx_sha1_t  sha1;

    ngx_sha1_init(&sha1);
    ngx_sha1_update(&sha1, bus->signature, sizeof(bus->signature));
    ngx_sha1_update(&sha1, &n, sizeof(ngx_uint_t));
    ngx_sha1_final(bus->models[n].digest, &sha1);
}


/* has the engine's binary look at one model, and fill its text image */

static ngx_int_t
ngx_http_infer_bus_check(ngx_http_infer_plan_t *plan,
    ngx_http_infer_bus_t *bus, ngx_uint_t n)
{
    int                           fds[3];
    char                        **argv, *answer;
    ngx_int_t                     rc;
    infer_bus_model_t            *info;
    ngx_http_infer_model_t       *model, **models;
    ngx_http_infer_bus_model_t   *bm;

    models = plan->zone->models.elts;
    model = models[n];
    bm = &bus->models[n];
    info = &plan->info[n];

    bm->image_fd = memfd_create("infer text", MFD_CLOEXEC|MFD_ALLOW_SEALING);

    if (bm->image_fd == -1) {
        ngx_log_error(NGX_LOG_EMERG, plan->log, ngx_errno,
                      "memfd_create() failed");
        return NGX_ERROR;
    }

    argv = ngx_http_infer_check_argv(plan, model,
                                     plan->template_fd[n]
                                     != NGX_HTTP_INFER_NO_FD);
    answer = ngx_pnalloc(plan->pool, NGX_HTTP_INFER_ANSWER);

    if (argv == NULL || answer == NULL) {
        return NGX_ERROR;
    }

    fds[0] = bm->fd;
    fds[1] = bm->image_fd;
    fds[2] = plan->template_fd[n];

    rc = ngx_http_infer_engine_check(bus->engine_fd, argv, bus->env, fds,
                                     plan->ccf, answer,
                                     NGX_HTTP_INFER_ANSWER, plan->log);

    if (rc == NGX_DECLINED) {
        ngx_http_infer_emerg(plan->log, &model->path_place, 0,
                             "\"infer_model\" \"%V\": \"%V\": %s",
                             &model->name, &model->path, answer);
    }

    if (rc != NGX_OK) {
        return NGX_ERROR;
    }

    if (ngx_http_infer_bus_info(plan, model, answer, info) != NGX_OK
        || ngx_http_infer_bus_seal(plan, model, bm) != NGX_OK)
    {
        return NGX_ERROR;
    }

    ngx_log_error(NGX_LOG_NOTICE, plan->log, 0,
                  "infer model \"%V\": context %uD, sequences %uD, "
                  "batch_tokens %uD, kv pages %uD", &model->name,
                  info->context, info->sequences, info->batch_tokens,
                  info->n_pages);

    return NGX_OK;
}


/* what the check found, into the model's place on the bus */

static ngx_int_t
ngx_http_infer_bus_info(ngx_http_infer_plan_t *plan,
    ngx_http_infer_model_t *model, const char *answer,
    infer_bus_model_t *info)
{
    ngx_memcpy(info->name, model->name.data, model->name.len);
    ngx_cpystrn((u_char *) info->device, model->device.data,
                ngx_min(model->device.len + 1, sizeof(info->device)));

    info->context = ngx_http_infer_check_value(answer, "context=");
    info->sequences = ngx_http_infer_check_value(answer, "sequences=");
    info->batch_tokens = ngx_http_infer_check_value(answer, "batch_tokens=");
    info->step_us = (uint32_t) model->step_time * 1000;
    info->n_pages = ngx_http_infer_check_value(answer, "n_pages=");
    info->kv_type = model->kv_type;
    info->precision = model->precision;
    info->gpu_permille = model->gpu_permille;
    info->gpu_bytes = model->gpu_bytes;
    info->vocab = ngx_http_infer_check_value(answer, "vocab=");
    info->tensor_bytes = ngx_http_infer_check_value(answer, "tensor_bytes=");
    info->n_params = ngx_http_infer_check_value(answer, "n_params=");
    info->train_context = ngx_http_infer_check_value(answer, "train_context=");
    info->page_tokens = 32;

    if (info->context == 0 || info->sequences == 0 || info->vocab == 0
        || info->sequences > INFER_MAX_SLOTS || info->batch_tokens == 0
        || info->n_pages == 0)
    {
        ngx_http_infer_emerg(plan->log, &model->place, 0,
                             "\"infer_model\" \"%V\": the engine's check "
                             "answered \"%s\", which is not complete",
                             &model->name, answer);
        return NGX_ERROR;
    }

    return NGX_OK;
}


/* nobody writes the text image any more, so that readers need not fear */

static ngx_int_t
ngx_http_infer_bus_seal(ngx_http_infer_plan_t *plan,
    ngx_http_infer_model_t *model, ngx_http_infer_bus_model_t *bm)
{
    struct stat  st;

    if (fcntl(bm->image_fd, F_ADD_SEALS,
              F_SEAL_SHRINK|F_SEAL_GROW|F_SEAL_WRITE|F_SEAL_SEAL)
        == -1
        || fstat(bm->image_fd, &st) == -1)
    {
        ngx_log_error(NGX_LOG_EMERG, plan->log, ngx_errno,
                      "sealing the text image of infer_model \"%V\" failed",
                      &model->name);
        return NGX_ERROR;
    }

    bm->image_size = st.st_size;

    if (bm->image_size == 0) {
        ngx_http_infer_emerg(plan->log, &model->place, 0,
                             "\"infer_model\" \"%V\": the engine's check left "
                             "no text image", &model->name);
        return NGX_ERROR;
    }

    return NGX_OK;
}


/* the descriptors' numbers are those that engine.c gives them */

static char **
ngx_http_infer_check_argv(ngx_http_infer_plan_t *plan,
    ngx_http_infer_model_t *model, ngx_uint_t template)
{
    char                          **argv;
    u_char                         *p;
    ngx_uint_t                      i;
    ngx_http_infer_engine_conf_t   *ecf;

    ecf = plan->zone->engine;

    argv = ngx_pcalloc(plan->pool, 17 * sizeof(char *));
    if (argv == NULL) {
        return NULL;
    }

    for (i = 0; i < 16; i++) {
        argv[i] = ngx_pcalloc(plan->pool, 128);
        if (argv[i] == NULL) {
            return NULL;
        }
    }

    /* 128 bytes: names have at most 63, numbers 20 */

    i = 0;

#define ngx_http_infer_arg  p = (u_char *) argv[i++]; (void) ngx_snprintf

    ngx_http_infer_arg(p, 127, "ngx_infer_engine");
    ngx_http_infer_arg(p, 127, "--check");
    ngx_http_infer_arg(p, 127, "file=3");
    ngx_http_infer_arg(p, 127, "image=4");
    ngx_http_infer_arg(p, 127, "template=%d", template ? 5 : -1);
    ngx_http_infer_arg(p, 127, "name=%V", &model->name);
    ngx_http_infer_arg(p, 127, "device=%V", &model->device);
    ngx_http_infer_arg(p, 127, "context=%ui", model->context);
    ngx_http_infer_arg(p, 127, "sequences=%ui", model->sequences);
    ngx_http_infer_arg(p, 127, "batch_tokens=%ui", model->batch_tokens);
    ngx_http_infer_arg(p, 127, "kv_bytes=%O", model->kv_bytes);
    ngx_http_infer_arg(p, 127, "kv_type=%V",
                       &ngx_http_infer_kv_types[model->kv_type]);
    ngx_http_infer_arg(p, 127, "precision=%V",
                       &ngx_http_infer_precisions[model->precision]);
    ngx_http_infer_arg(p, 127, "threads=%ui", ecf ? ecf->threads : 0);

    if (ecf != NULL) {
        ngx_http_infer_arg(p, 127, "isa=%V", &ecf->isa);

    } else {
        ngx_http_infer_arg(p, 127, "isa=auto");
    }

#undef ngx_http_infer_arg

    argv[i] = NULL;

    return argv;
}


/* "... key=N ...": N, or 0 */

static uint64_t
ngx_http_infer_check_value(const char *answer, const char *key)
{
    char      *p;
    size_t     len;
    uint64_t   n;

    len = ngx_strlen(key);

    for (p = strstr(answer, key); p; p = strstr(p + len, key)) {
        if (p > answer && p[-1] == ' ') {
            break;
        }
    }

    if (p == NULL) {
        return 0;
    }

    n = 0;

    for (p += len; *p >= '0' && *p <= '9'; p++) {
        if (n > UINT64_MAX / 16) {
            return 0;
        }

        n = n * 10 + (*p - '0');
    }

    return n;
}


static ngx_int_t
ngx_http_infer_bus_memory(ngx_http_infer_plan_t *plan,
    ngx_http_infer_bus_t *bus)
{
    uint64_t                       least;
    infer_err_t                    err;
    ngx_uint_t                     i, context, sequences, slots;
    infer_bus_conf_t               conf;
    ngx_http_infer_zone_t         *zone;
    ngx_http_infer_engine_conf_t  *ecf;

    zone = plan->zone;
    ecf = zone->engine;
    context = 0;
    sequences = 0;

    for (i = 0; i < bus->nmodels; i++) {
        context = ngx_max(context, plan->info[i].context);
        sequences += plan->info[i].sequences;
    }

    /*
     * four generations may wait behind each that runs; none has more output
     * than a context, whatever "infer_max_tokens" says
     */

    slots = ngx_min(ngx_max(sequences * 4, 64), INFER_MAX_SLOTS);
    least = infer_bus_least(slots, sequences,
                            ngx_min(zone->max_tokens, context));

    ngx_memzero(&conf, sizeof(infer_bus_conf_t));

    conf.bytes = zone->size ? zone->size
                            : ngx_max(least, NGX_HTTP_INFER_LEAST_BUS);

    if (conf.bytes < least) {
        ngx_http_infer_emerg(plan->log, &zone->place, 0,
                             "\"infer_zone\" \"%V\" is too small for its "
                             "models, it must have at least %uLk", &zone->name,
                             (least + 1023) / 1024);
        return NGX_ERROR;
    }

    if (ngx_test_config) {
        return NGX_OK;
    }

    conf.n_slots = slots;
    conf.n_models = bus->nmodels;
    conf.models = plan->info;
    conf.isa = "auto";

    if (ecf != NULL) {
        conf.threads = ecf->threads;
        conf.nice = ecf->nice;
        conf.cpus = ecf->cpus.elts;
        conf.n_cpus = ecf->cpus.nelts;
        conf.isa = (char *) ecf->isa.data;
    }

    ngx_memzero(&err, sizeof(infer_err_t));

    if (infer_bus_create(&bus->bus, &conf, &err) != INFER_OK) {
        bus->bus.fd = NGX_HTTP_INFER_NO_FD;
        bus->bus.hdr = NULL;

        ngx_http_infer_emerg(plan->log, &zone->place, 0,
                             "\"infer_zone\" \"%V\": %s", &zone->name,
                             err.text);
        return NGX_ERROR;
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_infer_bus_descriptors(ngx_http_infer_bus_t *bus, ngx_log_t *log)
{
    ngx_uint_t  i;

    for (i = 0; i < INFER_MAX_ENTRIES; i++) {
        bus->entry_fd[i] = eventfd(0, EFD_CLOEXEC|EFD_NONBLOCK);

        if (bus->entry_fd[i] == -1) {
            ngx_log_error(NGX_LOG_EMERG, log, ngx_errno,
                          "eventfd() for \"infer_zone\" \"%s\" failed",
                          bus->name);
            return NGX_ERROR;
        }
    }

    bus->wake_fd = eventfd(0, EFD_CLOEXEC|EFD_NONBLOCK);

    if (bus->wake_fd == -1) {
        ngx_log_error(NGX_LOG_EMERG, log, ngx_errno, "eventfd() failed");
        return NGX_ERROR;
    }

    if (pipe2(bus->lifeline, O_CLOEXEC|O_NONBLOCK) == -1) {
        bus->lifeline[0] = NGX_HTTP_INFER_NO_FD;
        bus->lifeline[1] = NGX_HTTP_INFER_NO_FD;

        ngx_log_error(NGX_LOG_EMERG, log, ngx_errno, "pipe2() failed");
        return NGX_ERROR;
    }

    if (socketpair(AF_UNIX, SOCK_SEQPACKET|SOCK_CLOEXEC|SOCK_NONBLOCK, 0,
                   bus->control)
        == -1)
    {
        bus->control[0] = NGX_HTTP_INFER_NO_FD;
        bus->control[1] = NGX_HTTP_INFER_NO_FD;

        ngx_log_error(NGX_LOG_EMERG, log, ngx_errno, "socketpair() failed");
        return NGX_ERROR;
    }

    return NGX_OK;
}


/* the bus outlives the cycle, so that strings are copied: one block each */

static ngx_int_t
ngx_http_infer_bus_env(ngx_http_infer_bus_t *bus, ngx_http_infer_zone_t *zone)
{
    size_t       size;
    u_char      *p;
    ngx_str_t   *env;
    ngx_uint_t   i, n;

    bus->name = ngx_alloc(zone->name.len + 1, ngx_cycle->log);
    if (bus->name == NULL) {
        return NGX_ERROR;
    }

    ngx_memcpy(bus->name, zone->name.data, zone->name.len);
    bus->name[zone->name.len] = '\0';

    env = NULL;
    n = 0;

    if (zone->engine != NULL) {
        env = zone->engine->env.elts;
        n = zone->engine->env.nelts;
    }

    size = (n + 1) * sizeof(char *);

    for (i = 0; i < n; i++) {
        size += env[i].len + 1;
    }

    bus->env = ngx_calloc(size, ngx_cycle->log);
    if (bus->env == NULL) {
        return NGX_ERROR;
    }

    p = (u_char *) &bus->env[n + 1];

    for (i = 0; i < n; i++) {
        bus->env[i] = (char *) p;
        p = ngx_cpymem(p, env[i].data, env[i].len);
        *p++ = '\0';
    }

    return NGX_OK;
}


void
ngx_http_infer_close(int *fd)
{
    if (*fd != NGX_HTTP_INFER_NO_FD) {
        (void) close(*fd);
        *fd = NGX_HTTP_INFER_NO_FD;
    }
}


void
ngx_http_infer_bus_free(ngx_http_infer_bus_t *bus)
{
    ngx_uint_t  i;

    if (bus->pid == ngx_pid && bus->entry != NGX_HTTP_INFER_NO_ENTRY) {
        ngx_http_infer_bus_leave(bus);
    }

    if (bus->bus.hdr != NULL) {
        /* release; pairs with acquire in the engine's loop */
        atomic_store_explicit(&bus->bus.hdr->retired, 1,
                              memory_order_release);

        if (bus->wake_fd != NGX_HTTP_INFER_NO_FD) {
            (void) eventfd_write(bus->wake_fd, 1);
        }

        infer_bus_unmap(&bus->bus, 1);
    }

    for (i = 0; i < INFER_MAX_ENTRIES; i++) {
        ngx_http_infer_close(&bus->entry_fd[i]);
    }

    for (i = 0; i < INFER_MAX_MODELS; i++) {
        ngx_http_infer_close(&bus->models[i].fd);
        ngx_http_infer_close(&bus->models[i].image_fd);
    }

    ngx_http_infer_close(&bus->wake_fd);
    ngx_http_infer_close(&bus->lifeline[0]);
    ngx_http_infer_close(&bus->lifeline[1]);
    ngx_http_infer_close(&bus->control[0]);
    ngx_http_infer_close(&bus->control[1]);
    ngx_http_infer_close(&bus->engine_fd);

    ngx_free(bus->name);
    ngx_free(bus->env);
    ngx_free(bus);
}
