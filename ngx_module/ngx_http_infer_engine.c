
/*
 * The life of an engine: woken, watched, another one started when it died,
 * killed when it hangs. Who lives is told by its byte lock on the bus; a pidfd
 * only tells sooner.
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>

#include <sys/eventfd.h>
#include <sys/syscall.h>

#include "ngx_http_infer_module.h"


#define NGX_HTTP_INFER_TICK           1000
#define NGX_HTTP_INFER_FAST_TICK      200

/*
 * back-off between starts: 1 s, doubled with each that did not get ready, up
 * to 30 s; it is also the time that one has for taking its lock
 */

#define NGX_HTTP_INFER_BACKOFF_US     1000000
#define NGX_HTTP_INFER_BACKOFF_MAX    30000000

#ifndef SYS_pidfd_send_signal
#define SYS_pidfd_send_signal         424
#endif

#ifndef SYS_pidfd_open
#define SYS_pidfd_open                434
#endif


static void ngx_http_infer_engine_ensure(ngx_http_infer_bus_t *bus);
static ngx_uint_t ngx_http_infer_engine_wanted(ngx_http_infer_bus_t *bus);
static ngx_uint_t ngx_http_infer_engine_busy(ngx_http_infer_bus_t *bus);
static void ngx_http_infer_engine_logs(ngx_http_infer_bus_t *bus);
static void ngx_http_infer_engine_watch(ngx_http_infer_bus_t *bus);
static void ngx_http_infer_engine_hangs(ngx_http_infer_bus_t *bus);
static void ngx_http_infer_engine_died(ngx_event_t *ev);


ngx_uint_t
ngx_http_infer_engine_alive(ngx_http_infer_bus_t *bus)
{
    return infer_lock_alive(bus->bus.fd, INFER_LOCK_ENGINE);
}


ngx_uint_t
ngx_http_infer_engine_ready(ngx_http_infer_bus_t *bus)
{
    /* in this order: with its lock an engine takes back what was said last */

    return ngx_http_infer_engine_alive(bus)
           && atomic_load_explicit(&bus->bus.hdr->engine_state,
                                   memory_order_acquire)
              == INFER_ENGINE_READY;
}


void
ngx_http_infer_engine_wake(ngx_http_infer_bus_t *bus)
{
    (void) eventfd_write(bus->wake_fd, 1);

    /* with a pidfd its end is told; without one, look each time */

    if (bus->engine == NULL) {
        ngx_http_infer_engine_ensure(bus);
    }
}


void
ngx_http_infer_engine_housekeeping(ngx_event_t *ev)
{
    ngx_http_infer_bus_t  *bus;

    bus = ev->data;

    ngx_http_infer_engine_logs(bus);
    ngx_http_infer_engine_ensure(bus);
    ngx_http_infer_engine_hangs(bus);

    ngx_add_timer(ev, bus->engine ? NGX_HTTP_INFER_TICK
                                  : NGX_HTTP_INFER_FAST_TICK);
}


static void
ngx_http_infer_engine_logs(ngx_http_infer_bus_t *bus)
{
    ngx_uint_t       n;
    infer_log_rec_t  rec;

    for (n = 0; n < INFER_RING_RECORDS; n++) {

        if (!infer_ring_take(&bus->bus, &rec)) {
            return;
        }

        if (rec.level < NGX_LOG_EMERG || rec.level > NGX_LOG_DEBUG) {
            rec.level = NGX_LOG_ERR;
        }

        rec.len = ngx_min(rec.len, sizeof(rec.text));

        ngx_log_error(rec.level, ngx_cycle->log, 0,
                      "infer engine \"%s\": %*s", bus->name,
                      (size_t) rec.len, rec.text);
    }
}


/* at the end of a bus or a worker, only as long as something runs on it */

static ngx_uint_t
ngx_http_infer_engine_wanted(ngx_http_infer_bus_t *bus)
{
    if (!ngx_exiting
        && atomic_load_explicit(&bus->bus.hdr->retired, memory_order_acquire)
           == 0)
    {
        return 1;
    }

    return ngx_http_infer_engine_busy(bus);
}


static ngx_uint_t
ngx_http_infer_engine_busy(ngx_http_infer_bus_t *bus)
{
    ngx_uint_t        i;
    infer_bus_load_t  load;

    for (i = 0; i < bus->nmodels; i++) {
        infer_bus_load(&bus->bus, i, &load);

        if (load.waiting || load.running) {
            return 1;
        }
    }

    return 0;
}


static void
ngx_http_infer_engine_ensure(ngx_http_infer_bus_t *bus)
{
    uint32_t             failures, starts;
    uint64_t             now, last, wait;
    ngx_log_t           *log;
    infer_bus_header_t  *hdr;

    if (ngx_http_infer_engine_alive(bus)) {
        ngx_http_infer_engine_watch(bus);
        return;
    }

    ngx_http_infer_engine_unwatch(bus);

    if (!ngx_http_infer_engine_wanted(bus)) {
        return;
    }

    hdr = bus->bus.hdr;
    log = ngx_cycle->log;

    /* the clock last: what another worker has set by then is not after it */

    last = atomic_load_explicit(&hdr->last_spawn_us, memory_order_acquire);
    failures = atomic_load_explicit(&hdr->spawn_failures,
                                    memory_order_acquire);
    now = infer_now_us();

    /*
     * One that was started but has not taken its lock yet has the same time.
     * The winner counts itself as a failure until its engine is ready.
     */

    wait = NGX_HTTP_INFER_BACKOFF_US << ngx_min(failures, 6);
    wait = failures ? ngx_min(wait, NGX_HTTP_INFER_BACKOFF_MAX)
                    : NGX_HTTP_INFER_BACKOFF_US / 4;

    if (last != 0 && now - last < wait) {
        return;
    }

    /* one that was started meanwhile has its lock by now */

    if (ngx_http_infer_engine_alive(bus)) {
        return;
    }

    if (!atomic_compare_exchange_strong(&hdr->last_spawn_us, &last, now)) {
        return;
    }

    (void) atomic_fetch_add(&hdr->spawn_failures, 1);
    starts = atomic_load_explicit(&hdr->engine_starts, memory_order_relaxed);

    if (failures == 0 && starts != 0) {
        ngx_log_error(NGX_LOG_CRIT, log, 0,
                      "infer engine \"%s\" with pid %uD died, "
                      "starting another", bus->name,
                      atomic_load(&hdr->engine_pid));

    } else if (failures != 0) {
        ngx_log_error(NGX_LOG_CRIT, log, 0,
                      "infer engine \"%s\" did not come up, "
                      "starting another, attempt %uD", bus->name,
                      failures + 1);

    } else {
        ngx_log_error(NGX_LOG_NOTICE, log, 0,
                      "infer engine \"%s\" is started", bus->name);
    }

    ngx_http_infer_engine_spawn(bus, log);
}


/* the end of the engine that holds the lock now, as an event */

static void
ngx_http_infer_engine_watch(ngx_http_infer_bus_t *bus)
{
    int                fd;
    uint32_t           pid;
    ngx_uint_t         flags;
    ngx_connection_t  *c;

    pid = atomic_load_explicit(&bus->bus.hdr->engine_pid,
                               memory_order_acquire);

    if (pid == bus->engine_pid) {
        return;
    }

    ngx_http_infer_engine_unwatch(bus);

    /* remembered also if there is no pidfd: the timer does it then */

    bus->engine_pid = pid;

    if (pid == 0) {
        return;
    }

    fd = syscall(SYS_pidfd_open, (pid_t) pid, 0);

    if (fd == -1) {
        return;
    }

    c = ngx_get_connection(fd, ngx_cycle->log);

    if (c == NULL) {
        (void) close(fd);
        return;
    }

    c->data = bus;
    c->log = ngx_cycle->log;
    c->read->log = ngx_cycle->log;
    c->write->log = ngx_cycle->log;
    c->read->handler = ngx_http_infer_engine_died;

    flags = (ngx_event_flags & NGX_USE_CLEAR_EVENT) ? NGX_CLEAR_EVENT
                                                    : NGX_LEVEL_EVENT;

    if (ngx_add_event(c->read, NGX_READ_EVENT, flags) != NGX_OK) {
        ngx_close_connection(c);
        return;
    }

    bus->engine = c;
}


void
ngx_http_infer_engine_unwatch(ngx_http_infer_bus_t *bus)
{
    if (bus->engine != NULL) {
        ngx_close_connection(bus->engine);
        bus->engine = NULL;
    }

    bus->engine_pid = 0;
}


/*
 * An engine that has work and whose heart stands still over many ticks is
 * killed: what runs goes on in the next one. Time counts only as ticks see it
 * pass, two at most for each, so that neither a worker that was held up nor a
 * machine that slept is taken for an engine that hangs.
 */

static void
ngx_http_infer_engine_hangs(ngx_http_infer_bus_t *bus)
{
    uint64_t    beat;
    ngx_msec_t  passed;

    beat = atomic_load_explicit(&bus->bus.hdr->heartbeat_us,
                                memory_order_relaxed);
    passed = ngx_current_msec - bus->hang_seen;
    bus->hang_seen = ngx_current_msec;

    if (bus->hang == 0 || bus->engine == NULL || beat != bus->hang_beat
        || !ngx_http_infer_engine_ready(bus)
        || !ngx_http_infer_engine_busy(bus))
    {
        bus->hang_beat = beat;
        bus->hang_time = 0;
        return;
    }

    bus->hang_time += ngx_min(passed, 2 * NGX_HTTP_INFER_TICK);

    if (bus->hang_time < bus->hang) {
        return;
    }

    bus->hang_time = 0;

    ngx_log_error(NGX_LOG_CRIT, ngx_cycle->log, 0,
                  "infer engine \"%s\" with pid %uD has made no progress "
                  "for %M ms, it is killed", bus->name, bus->engine_pid,
                  bus->hang);

    if (syscall(SYS_pidfd_send_signal, bus->engine->fd, SIGKILL, NULL, 0)
        == -1)
    {
        ngx_log_error(NGX_LOG_ALERT, ngx_cycle->log, ngx_errno,
                      "pidfd_send_signal() to infer engine \"%s\" failed",
                      bus->name);
    }
}


static void
ngx_http_infer_engine_died(ngx_event_t *ev)
{
    ngx_connection_t      *c;
    ngx_http_infer_bus_t  *bus;

    c = ev->data;
    bus = c->data;

    ngx_http_infer_engine_unwatch(bus);
    ngx_http_infer_engine_logs(bus);
    ngx_http_infer_engine_ensure(bus);

    if (bus->engine == NULL && bus->housekeeping.timer_set) {
        ngx_add_timer(&bus->housekeeping, NGX_HTTP_INFER_FAST_TICK);
    }
}
