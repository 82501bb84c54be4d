
/*
 * The bus object. The master (or the single process) makes it in the shm
 * zone's callback, where a failure still rolls a reload back: opens the
 * files, has the engine check them, makes the memfd and the descriptors.
 * Zones of living cycles count it, so that an unchanged one outlives a
 * reload; the last to go retires it, and the old engine drains it.
 *
 * A worker inherits the object and its mapping by fork and enters it: claims
 * an entry, opens the text images, attaches its eventfd, starts the timer
 * that looks after the engine. No descriptor of the memfd is ever closed by a
 * process that holds a byte lock on it.
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include <ngx_sha1.h>

#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include "ngx_http_infer_module.h"


#define NGX_HTTP_INFER_ANSWER     4096
#define NGX_HTTP_INFER_LEAST_BUS  (64 * 1024 * 1024)
#define NGX_HTTP_INFER_NO_FD      (-1)


/* what a bus is made from while it is being made */

typedef struct {
    ngx_http_infer_zone_t   *zone;
    ngx_core_conf_t         *ccf;
    ngx_pool_t              *pool;
    ngx_log_t               *log;
    int                      file_fd[INFER_MAX_MODELS];
    int                      template_fd[INFER_MAX_MODELS];
    struct stat              file[INFER_MAX_MODELS];
    u_char                   signature[20];
    infer_bus_model_t        info[INFER_MAX_MODELS];
} ngx_http_infer_plan_t;


static ngx_int_t ngx_http_infer_plan_files(ngx_http_infer_plan_t *plan,
    ngx_sha1_t *sha1);
static int ngx_http_infer_plan_open(ngx_http_infer_plan_t *plan,
    const char *directive, ngx_http_infer_model_t *model, ngx_str_t *path,
    ngx_http_infer_place_t *place, struct stat *st);
static void ngx_http_infer_plan_settings(ngx_http_infer_plan_t *plan,
    ngx_sha1_t *sha1);
static void ngx_http_infer_plan_close(ngx_http_infer_plan_t *plan);
static void ngx_http_infer_sha1_str(ngx_sha1_t *sha1, ngx_str_t *s);
static void ngx_http_infer_sha1_num(ngx_sha1_t *sha1, uint64_t n);
static ngx_http_infer_bus_t *ngx_http_infer_bus_make(
    ngx_http_infer_plan_t *plan);
static ngx_int_t ngx_http_infer_bus_check(ngx_http_infer_plan_t *plan,
    ngx_http_infer_bus_t *bus, ngx_uint_t n);
static char **ngx_http_infer_check_argv(ngx_http_infer_plan_t *plan,
    ngx_http_infer_model_t *model, ngx_uint_t template);
static uint64_t ngx_http_infer_answer(const char *answer, const char *key);
static ngx_int_t ngx_http_infer_bus_memory(ngx_http_infer_plan_t *plan,
    ngx_http_infer_bus_t *bus);
static ngx_int_t ngx_http_infer_bus_descriptors(ngx_http_infer_bus_t *bus,
    ngx_log_t *log);
static ngx_int_t ngx_http_infer_bus_env(ngx_http_infer_bus_t *bus,
    ngx_http_infer_zone_t *zone);
static void ngx_http_infer_bus_free(ngx_http_infer_bus_t *bus);
static void ngx_http_infer_close(int *fd);
static ngx_int_t ngx_http_infer_bus_text(ngx_http_infer_bus_t *bus,
    ngx_log_t *log);
static void ngx_http_infer_bus_leave(ngx_http_infer_bus_t *bus);


ngx_int_t
ngx_http_infer_zone_init(ngx_shm_zone_t *shm_zone, void *data)
{
    ngx_http_infer_zone_t *ozone = data;

    ngx_int_t               rc;
    ngx_uint_t              i;
    ngx_sha1_t              sha1;
    ngx_http_infer_zone_t  *zone;
    ngx_http_infer_plan_t  *plan;

    zone = shm_zone->data;

    plan = ngx_calloc(sizeof(ngx_http_infer_plan_t), shm_zone->shm.log);
    if (plan == NULL) {
        return NGX_ERROR;
    }

    plan->zone = zone;
    plan->log = shm_zone->shm.log;
    plan->ccf = (ngx_core_conf_t *) ngx_get_conf(zone->cycle->conf_ctx,
                                                 ngx_core_module);

    for (i = 0; i < INFER_MAX_MODELS; i++) {
        plan->file_fd[i] = NGX_HTTP_INFER_NO_FD;
        plan->template_fd[i] = NGX_HTTP_INFER_NO_FD;
    }

    rc = NGX_ERROR;

    plan->pool = ngx_create_pool(4096, plan->log);
    if (plan->pool == NULL) {
        goto done;
    }

    ngx_sha1_init(&sha1);
    ngx_http_infer_plan_settings(plan, &sha1);

    if (ngx_http_infer_plan_files(plan, &sha1) != NGX_OK) {
        goto done;
    }

    ngx_sha1_final(plan->signature, &sha1);

    if (ozone != NULL && ozone->bus != NULL
        && ngx_memcmp(ozone->bus->signature, plan->signature,
                      sizeof(plan->signature))
           == 0)
    {
        zone->bus = ozone->bus;
        zone->bus->refs++;

        rc = NGX_OK;
        goto done;
    }

    zone->bus = ngx_http_infer_bus_make(plan);

    if (zone->bus != NULL) {
        rc = NGX_OK;
    }

    if (zone->bus != NULL && ngx_test_config) {
        ngx_http_infer_bus_free(zone->bus);
        zone->bus = NULL;
    }

done:

    ngx_http_infer_plan_close(plan);

    return rc;
}


static ngx_int_t
ngx_http_infer_plan_files(ngx_http_infer_plan_t *plan, ngx_sha1_t *sha1)
{
    ngx_uint_t                i;
    struct stat               st;
    ngx_http_infer_model_t   *model, **models;

    models = plan->zone->models.elts;

    for (i = 0; i < plan->zone->models.nelts; i++) {
        model = models[i];

        plan->file_fd[i] = ngx_http_infer_plan_open(plan, "path", model,
                                                    &model->path,
                                                    &model->path_place,
                                                    &plan->file[i]);
        if (plan->file_fd[i] == NGX_HTTP_INFER_NO_FD) {
            return NGX_ERROR;
        }

        st = plan->file[i];

        ngx_http_infer_sha1_num(sha1, st.st_dev);
        ngx_http_infer_sha1_num(sha1, st.st_ino);
        ngx_http_infer_sha1_num(sha1, st.st_size);
        ngx_http_infer_sha1_num(sha1, st.st_mtim.tv_sec);
        ngx_http_infer_sha1_num(sha1, st.st_mtim.tv_nsec);

        if (model->chat_template.len == 0) {
            continue;
        }

        plan->template_fd[i] = ngx_http_infer_plan_open(plan, "chat_template",
                                                       model,
                                                       &model->chat_template,
                                                       &model->template_place,
                                                       &st);
        if (plan->template_fd[i] == NGX_HTTP_INFER_NO_FD) {
            return NGX_ERROR;
        }

        ngx_http_infer_sha1_num(sha1, st.st_dev);
        ngx_http_infer_sha1_num(sha1, st.st_ino);
        ngx_http_infer_sha1_num(sha1, st.st_size);
        ngx_http_infer_sha1_num(sha1, st.st_mtim.tv_sec);
        ngx_http_infer_sha1_num(sha1, st.st_mtim.tv_nsec);
    }

    return NGX_OK;
}


/* a regular file only: O_NONBLOCK keeps a fifo from stopping the master */

static int
ngx_http_infer_plan_open(ngx_http_infer_plan_t *plan, const char *directive,
    ngx_http_infer_model_t *model, ngx_str_t *path,
    ngx_http_infer_place_t *place, struct stat *st)
{
    int         fd;
    ngx_err_t   err;

    fd = open((char *) path->data, O_RDONLY|O_CLOEXEC|O_NONBLOCK|O_NOCTTY);

    if (fd == -1) {
        ngx_log_error(NGX_LOG_EMERG, plan->log, ngx_errno,
                      "\"%s\" of infer_model \"%V\": open() \"%V\" failed "
                      "in %V:%ui", directive, &model->name, path,
                      &place->file, place->line);
        return NGX_HTTP_INFER_NO_FD;
    }

    err = 0;

    if (fstat(fd, st) == -1) {
        err = ngx_errno;

    } else if (S_ISREG(st->st_mode)) {
        return fd;
    }

    ngx_log_error(NGX_LOG_EMERG, plan->log, err,
                  "\"%s\" of infer_model \"%V\": \"%V\" is not a regular "
                  "file in %V:%ui", directive, &model->name, path,
                  &place->file, place->line);

    ngx_http_infer_close(&fd);

    return NGX_HTTP_INFER_NO_FD;
}


/* all that a bus and its engine are made from, but for the files */

static void
ngx_http_infer_plan_settings(ngx_http_infer_plan_t *plan, ngx_sha1_t *sha1)
{
    ngx_str_t                     *s, build;
    ngx_uint_t                     i, n;
    ngx_http_infer_zone_t         *zone;
    ngx_http_infer_model_t       **models;
    ngx_http_infer_engine_conf_t  *ecf;

    zone = plan->zone;
    ecf = zone->engine;

    build.data = (u_char *) infer_build_id();
    build.len = ngx_strlen(build.data);

    ngx_sha1_update(sha1, build.data, build.len);
    ngx_http_infer_sha1_num(sha1, INFER_BUS_VERSION);
    ngx_http_infer_sha1_num(sha1, zone->size);
    ngx_http_infer_sha1_num(sha1, zone->size ? 0 : zone->max_tokens);
    ngx_http_infer_sha1_num(sha1, plan->ccf->user);
    ngx_http_infer_sha1_num(sha1, plan->ccf->group);
    ngx_http_infer_sha1_num(sha1, ecf != NULL);

    if (ecf != NULL) {
        ngx_http_infer_sha1_num(sha1, ecf->threads);
        ngx_http_infer_sha1_num(sha1, ecf->nice);
        ngx_http_infer_sha1_str(sha1, &ecf->path);
        ngx_http_infer_sha1_str(sha1, &ecf->isa);
        ngx_http_infer_sha1_num(sha1, ecf->cpus.nelts);
        ngx_sha1_update(sha1, ecf->cpus.elts,
                        ecf->cpus.nelts * sizeof(uint16_t));
        ngx_http_infer_sha1_num(sha1, ecf->env.nelts);

        s = ecf->env.elts;

        for (i = 0; i < ecf->env.nelts; i++) {
            ngx_http_infer_sha1_str(sha1, &s[i]);
        }
    }

    models = zone->models.elts;
    ngx_http_infer_sha1_num(sha1, zone->models.nelts);

    for (i = 0; i < zone->models.nelts; i++) {
        ngx_http_infer_sha1_str(sha1, &models[i]->name);
        ngx_http_infer_sha1_str(sha1, &models[i]->path);
        ngx_http_infer_sha1_str(sha1, &models[i]->chat_template);
        ngx_http_infer_sha1_str(sha1, &models[i]->device);
        ngx_http_infer_sha1_num(sha1, models[i]->context);
        ngx_http_infer_sha1_num(sha1, models[i]->sequences);
        ngx_http_infer_sha1_num(sha1, models[i]->batch_tokens);
        ngx_http_infer_sha1_num(sha1, models[i]->kv_bytes);
        ngx_http_infer_sha1_num(sha1, models[i]->aliases.nelts);

        s = models[i]->aliases.elts;

        for (n = 0; n < models[i]->aliases.nelts; n++) {
            ngx_http_infer_sha1_str(sha1, &s[n]);
        }
    }
}


static void
ngx_http_infer_plan_close(ngx_http_infer_plan_t *plan)
{
    ngx_uint_t  i;

    for (i = 0; i < INFER_MAX_MODELS; i++) {
        ngx_http_infer_close(&plan->file_fd[i]);
        ngx_http_infer_close(&plan->template_fd[i]);
    }

    if (plan->pool != NULL) {
        ngx_destroy_pool(plan->pool);
    }

    ngx_free(plan);
}


static void
ngx_http_infer_sha1_str(ngx_sha1_t *sha1, ngx_str_t *s)
{
    ngx_http_infer_sha1_num(sha1, s->len);
    ngx_sha1_update(sha1, s->data, s->len);
}


static void
ngx_http_infer_sha1_num(ngx_sha1_t *sha1, uint64_t n)
{
    ngx_sha1_update(sha1, &n, sizeof(uint64_t));
}


static ngx_http_infer_bus_t *
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


/* has the engine's binary look at one model, and fill its text image */

static ngx_int_t
ngx_http_infer_bus_check(ngx_http_infer_plan_t *plan,
    ngx_http_infer_bus_t *bus, ngx_uint_t n)
{
    int                           fds[3];
    char                        **argv, *answer;
    ngx_int_t                     rc;
    struct stat                   st;
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

    rc = ngx_http_infer_engine_check(bus->engine_fd, argv, fds, plan->ccf,
                                     answer, NGX_HTTP_INFER_ANSWER,
                                     plan->log);

    if (rc == NGX_DECLINED) {
        ngx_log_error(NGX_LOG_EMERG, plan->log, 0,
                      "\"infer_model\" \"%V\": %s in %V:%ui",
                      &model->name, answer, &model->path_place.file,
                      model->path_place.line);
    }

    if (rc != NGX_OK) {
        return NGX_ERROR;
    }

    ngx_memcpy(info->name, model->name.data, model->name.len);
    ngx_cpystrn((u_char *) info->device, model->device.data,
                ngx_min(model->device.len + 1, sizeof(info->device)));

    info->context = ngx_http_infer_answer(answer, "context=");
    info->sequences = ngx_http_infer_answer(answer, "sequences=");
    info->batch_tokens = ngx_http_infer_answer(answer, "batch_tokens=");
    info->n_pages = ngx_http_infer_answer(answer, "n_pages=");
    info->vocab = ngx_http_infer_answer(answer, "vocab=");
    info->tensor_bytes = ngx_http_infer_answer(answer, "tensor_bytes=");
    info->n_params = ngx_http_infer_answer(answer, "n_params=");
    info->train_context = ngx_http_infer_answer(answer, "train_context=");
    info->page_tokens = 32;

    if (info->context == 0 || info->sequences == 0 || info->vocab == 0
        || info->sequences > INFER_MAX_SLOTS || info->batch_tokens == 0
        || info->n_pages == 0)
    {
        ngx_log_error(NGX_LOG_EMERG, plan->log, 0,
                      "\"infer_model\" \"%V\": the engine's check answered "
                      "\"%s\", which is not complete, in %V:%ui",
                      &model->name, answer, &model->place.file,
                      model->place.line);
        return NGX_ERROR;
    }

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
        ngx_log_error(NGX_LOG_EMERG, plan->log, 0,
                      "\"infer_model\" \"%V\": the engine's check left no "
                      "text image in %V:%ui", &model->name,
                      &model->place.file, model->place.line);
        return NGX_ERROR;
    }

    ngx_log_error(NGX_LOG_NOTICE, plan->log, 0,
                  "infer model \"%V\": context %uD, sequences %uD, "
                  "batch_tokens %uD, kv pages %uD", &model->name,
                  info->context, info->sequences, info->batch_tokens,
                  info->n_pages);

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

    argv = ngx_pcalloc(plan->pool, 15 * sizeof(char *));
    if (argv == NULL) {
        return NULL;
    }

    for (i = 0; i < 14; i++) {
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
ngx_http_infer_answer(const char *answer, const char *key)
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
    ngx_uint_t                     i, sequences, slots;
    infer_bus_conf_t               conf;
    ngx_http_infer_zone_t         *zone;
    ngx_http_infer_engine_conf_t  *ecf;

    zone = plan->zone;
    ecf = zone->engine;
    sequences = 0;

    for (i = 0; i < bus->nmodels; i++) {
        sequences += plan->info[i].sequences;
    }

    /* four generations may wait behind each that runs */

    slots = ngx_min(ngx_max(sequences * 4, 64), INFER_MAX_SLOTS);
    least = infer_bus_least(slots, sequences, zone->max_tokens);

    ngx_memzero(&conf, sizeof(infer_bus_conf_t));

    conf.bytes = zone->size ? zone->size
                            : ngx_max(least, NGX_HTTP_INFER_LEAST_BUS);

    if (conf.bytes < least) {
        ngx_log_error(NGX_LOG_EMERG, plan->log, 0,
                      "\"infer_zone\" \"%V\" is too small for its models, "
                      "it must have at least %uLk in %V:%ui", &zone->name,
                      (least + 1023) / 1024, &zone->place.file,
                      zone->place.line);
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

        ngx_log_error(NGX_LOG_EMERG, plan->log, 0,
                      "\"infer_zone\" \"%V\": %s in %V:%ui", &zone->name,
                      err.text, &zone->place.file, zone->place.line);
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


static void
ngx_http_infer_close(int *fd)
{
    if (*fd != NGX_HTTP_INFER_NO_FD) {
        (void) close(*fd);
        *fd = NGX_HTTP_INFER_NO_FD;
    }
}


static void
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


/* the cycle goes: rolled back, replaced, or the process ends */

void
ngx_http_infer_zone_cleanup(void *data)
{
    ngx_http_infer_zone_t *zone = data;

    if (zone->bus == NULL
        || (ngx_process != NGX_PROCESS_MASTER
            && ngx_process != NGX_PROCESS_SINGLE))
    {
        return;
    }

    if (--zone->bus->refs == 0) {
        ngx_http_infer_bus_free(zone->bus);
    }

    zone->bus = NULL;
}


ngx_int_t
ngx_http_infer_zone_commit(ngx_cycle_t *cycle)
{
    ngx_uint_t                   i;
    ngx_http_infer_zone_t      **zones;
    ngx_http_infer_main_conf_t  *imcf;

    imcf = ngx_http_cycle_get_module_main_conf(cycle, ngx_http_infer_module);

    if (imcf == NULL || ngx_test_config) {
        return NGX_OK;
    }

    zones = imcf->zones.elts;

    for (i = 0; i < imcf->zones.nelts; i++) {
        if (zones[i]->bus == NULL) {
            continue;
        }

        ngx_log_error(NGX_LOG_NOTICE, cycle->log, 0,
                      "infer zone \"%V\": %uzk, %uD slots, %s",
                      &zones[i]->name, zones[i]->bus->bus.bytes / 1024,
                      zones[i]->bus->bus.n_slots,
                      zones[i]->bus->refs > 1 ? "kept" : "new");
    }

    return NGX_OK;
}


/*
 * init_process of cache manager and loader too: those hold no lifeline, so
 * that only masters and workers keep an engine alive.
 */

ngx_int_t
ngx_http_infer_zone_process(ngx_cycle_t *cycle)
{
    ngx_uint_t                   i;
    ngx_http_infer_zone_t      **zones;
    ngx_http_infer_main_conf_t  *imcf;

    imcf = ngx_http_cycle_get_module_main_conf(cycle, ngx_http_infer_module);

    if (imcf == NULL) {
        return NGX_OK;
    }

    zones = imcf->zones.elts;

    for (i = 0; i < imcf->zones.nelts; i++) {
        if (zones[i]->bus == NULL) {
            continue;
        }

        if (ngx_process == NGX_PROCESS_WORKER
            || ngx_process == NGX_PROCESS_SINGLE)
        {
            (void) ngx_http_infer_bus_enter(zones[i], cycle->log);

        } else {
            ngx_http_infer_close(&zones[i]->bus->lifeline[1]);
        }
    }

    return NGX_OK;
}


void
ngx_http_infer_zone_exit(ngx_cycle_t *cycle)
{
    ngx_uint_t                   i;
    ngx_http_infer_bus_t        *bus;
    ngx_http_infer_zone_t      **zones;
    ngx_http_infer_main_conf_t  *imcf;

    imcf = ngx_http_cycle_get_module_main_conf(cycle, ngx_http_infer_module);

    if (imcf == NULL) {
        return;
    }

    zones = imcf->zones.elts;

    for (i = 0; i < imcf->zones.nelts; i++) {
        bus = zones[i]->bus;

        if (bus != NULL && bus->pid == ngx_pid
            && bus->entry != NGX_HTTP_INFER_NO_ENTRY)
        {
            ngx_http_infer_bus_leave(bus);
        }
    }
}


ngx_http_infer_bus_t *
ngx_http_infer_bus_enter(ngx_http_infer_zone_t *zone, ngx_log_t *log)
{
    uint32_t               entry;
    ngx_event_t           *ev;
    ngx_http_infer_bus_t  *bus;

    bus = zone->bus;

    if (bus == NULL) {
        return NULL;
    }

    if (bus->pid == ngx_pid && bus->entry != NGX_HTTP_INFER_NO_ENTRY) {
        return bus;
    }

    if (ngx_http_infer_bus_text(bus, log) != NGX_OK) {
        return NULL;
    }

    if (infer_entry_claim(&bus->bus, &entry) != INFER_OK
        || entry >= INFER_MAX_ENTRIES)
    {
        ngx_log_error(NGX_LOG_ERR, log, 0,
                      "infer zone \"%s\" has no free worker entry",
                      bus->name);
        return NULL;
    }

    bus->pid = ngx_pid;
    bus->entry = entry;
    bus->engine = NULL;
    bus->engine_pid = 0;

    if (ngx_http_infer_event_attach(bus, log) != NGX_OK) {
        infer_entry_leave(&bus->bus, entry);
        bus->entry = NGX_HTTP_INFER_NO_ENTRY;
        return NULL;
    }

    ev = &bus->housekeeping;

    ngx_memzero(ev, sizeof(ngx_event_t));

    ev->handler = ngx_http_infer_engine_housekeeping;
    ev->log = ngx_cycle->log;
    ev->data = bus;
    ev->cancelable = 1;

    ngx_add_timer(ev, 1);

    return bus;
}


static ngx_int_t
ngx_http_infer_bus_text(ngx_http_infer_bus_t *bus, ngx_log_t *log)
{
    infer_err_t                  err;
    ngx_uint_t                   i;
    ngx_http_infer_bus_model_t  *bm;

    for (i = 0; i < bus->nmodels; i++) {
        bm = &bus->models[i];

        if (bm->text != NULL) {
            continue;
        }

        if (bm->image == NULL) {
            bm->image = mmap(NULL, bm->image_size, PROT_READ, MAP_SHARED,
                             bm->image_fd, 0);

            if (bm->image == MAP_FAILED) {
                bm->image = NULL;
                ngx_log_error(NGX_LOG_ALERT, log, ngx_errno,
                              "mmap() of a text image failed");
                return NGX_ERROR;
            }
        }

        if (infer_text_open(&bm->text, bm->image, bm->image_size, &err)
            != INFER_OK)
        {
            bm->text = NULL;
            ngx_log_error(NGX_LOG_ERR, log, 0,
                          "infer zone \"%s\" cannot open the text image of "
                          "model \"%s\": %s", bus->name,
                          bus->bus.model[i].name, err.text);
            return NGX_ERROR;
        }
    }

    return NGX_OK;
}


static void
ngx_http_infer_bus_leave(ngx_http_infer_bus_t *bus)
{
    ngx_uint_t                   i;
    ngx_http_infer_bus_model_t  *bm;

    if (bus->housekeeping.timer_set) {
        ngx_del_timer(&bus->housekeeping);
    }

    ngx_http_infer_engine_unwatch(bus);
    ngx_http_infer_event_detach(bus);

    infer_entry_leave(&bus->bus, bus->entry);
    bus->entry = NGX_HTTP_INFER_NO_ENTRY;

    /* the engine frees what we leave behind */
    (void) eventfd_write(bus->wake_fd, 1);

    for (i = 0; i < bus->nmodels; i++) {
        bm = &bus->models[i];

        infer_text_close(bm->text);
        bm->text = NULL;

        if (bm->image != NULL) {
            (void) munmap(bm->image, bm->image_size);
            bm->image = NULL;
        }
    }
}
