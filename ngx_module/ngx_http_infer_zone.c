
/*
 * The life of a bus over cycles and processes. The shm zone's callback of a
 * cycle, where a failure still rolls a reload back, compares what is wanted
 * with the bus of the cycle before and takes that or has a new one made
 * (bus.c). Zones of living cycles count it; the last to go retires it, and
 * the old engine drains it.
 *
 * A worker inherits the object and its mapping by fork and enters it: claims
 * an entry, opens the text images, attaches its eventfd, starts the timer
 * that looks after the engine.
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include <ngx_sha1.h>

#include <sys/eventfd.h>
#include <sys/mman.h>

#include "ngx_http_infer_zone.h"

#if (defined __GLIBC__)
#include <malloc.h>
#endif


/* glibc's own threshold, from which an allocation is a mapping of its own */

#define NGX_HTTP_INFER_MMAP  (128 * 1024)


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
static ngx_int_t ngx_http_infer_bus_text(ngx_http_infer_bus_t *bus,
    ngx_log_t *log);


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
        ngx_http_infer_emerg(plan->log, place, ngx_errno,
                             "\"%s\" of infer_model \"%V\": open() \"%V\" "
                             "failed", directive, &model->name, path);
        return NGX_HTTP_INFER_NO_FD;
    }

    err = 0;

    if (fstat(fd, st) == -1) {
        err = ngx_errno;

    } else if (S_ISREG(st->st_mode)) {
        return fd;
    }

    ngx_http_infer_emerg(plan->log, place, err,
                         "\"%s\" of infer_model \"%V\": \"%V\" is not a "
                         "regular file", directive, &model->name, path);

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
        ngx_http_infer_sha1_num(sha1, models[i]->step_time);
        ngx_http_infer_sha1_num(sha1, models[i]->kv_bytes);
        ngx_http_infer_sha1_num(sha1, models[i]->kv_type);
        ngx_http_infer_sha1_num(sha1, models[i]->precision);
        ngx_http_infer_sha1_num(sha1, models[i]->gpu_permille);
        ngx_http_infer_sha1_num(sha1, models[i]->gpu_bytes);
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
 *
 * The pool's threads parse bodies, each in an arena of its own. glibc raises
 * its thresholds with the largest block that was freed; from then on every
 * arena would keep as much as the largest body took. Setting one keeps all.
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
#ifdef M_MMAP_THRESHOLD
            (void) mallopt(M_MMAP_THRESHOLD, NGX_HTTP_INFER_MMAP);
#endif
            (void) ngx_http_infer_bus_enter(zones[i], cycle->log);

        } else {
            ngx_http_infer_close(&zones[i]->bus->lifeline[1]);
        }
    }

    if (ngx_process == NGX_PROCESS_WORKER || ngx_process == NGX_PROCESS_SINGLE)
    {
        ngx_http_infer_redis_process(imcf);
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

    ngx_http_infer_redis_exit(imcf);
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
    bus->hang = zone->engine ? zone->engine->hang : NGX_HTTP_INFER_HANG;
    bus->hang_time = 0;

    if (ngx_http_infer_event_attach(bus, log) != NGX_OK) {
        infer_entry_return(&bus->bus, entry);
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


void
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

    /*
     * A worker comes here when it exits, after its last event (and a single
     * process when a cycle is given up): no connection of the cycle is left
     * that could be kept waiting. A job reads what is unmapped below
     * and the cycle's pool, which nginx frees next. nginx itself waits for
     * its threads before it calls us, so that none is left, but not where the
     * queue of a pool is full: then in the time of the bodies in it.
     */

    while (atomic_load_explicit(&bus->jobs_done, memory_order_acquire)
           != bus->jobs)
    {
        ngx_msleep(1);
    }

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
