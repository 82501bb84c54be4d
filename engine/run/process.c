/*
 * process.c: starts and ends an engine. The main thread becomes the loop;
 * one more, the watcher, waits for the lifeline and for signals, so that the
 * engine ends even when the loop is in the middle of a long step.
 */

#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "ipc/spawn.h"
#include "run/engine.h"
#include "run/process.h"

#define PROCESS_GRACE_MS    5000      /* from EOF to the end */
#define PROCESS_MODELS_US   30000000  /* for the descriptors to arrive */

typedef struct {
    infer_engine_t  *e;
    int              signal_fd;
} process_watch_t;


/* SIGTERM and SIGINT end the engine, whatever else is not for us. All
 * threads inherit the mask. -1 on failure. */
static int
process_signals(void)
{
    sigset_t  ends;

    (void) signal(SIGPIPE, SIG_IGN);
    (void) signal(SIGHUP, SIG_IGN);
    (void) signal(SIGQUIT, SIG_IGN);
    (void) signal(SIGUSR1, SIG_IGN);
    (void) signal(SIGUSR2, SIG_IGN);
    (void) signal(SIGWINCH, SIG_IGN);
    (void) signal(SIGALRM, SIG_IGN);

    sigemptyset(&ends);
    sigaddset(&ends, SIGTERM);
    sigaddset(&ends, SIGINT);
    if (pthread_sigmask(SIG_SETMASK, &ends, NULL) != 0) {
        return -1;
    }

    return signalfd(-1, &ends, SFD_CLOEXEC);
}

static void *
process_watch(void *arg)
{
    char              buf[64];
    uint64_t          one = 1;
    process_watch_t   w = *(process_watch_t *) arg;
    struct pollfd     pfd[2] = {
        { .fd = INFER_FD_LIFELINE, .events = POLLIN },
        { .fd = w.signal_fd, .events = POLLIN }
    };

    free(arg);

    for ( ;; ) {
        if (poll(pfd, 2, -1) < 0) {
            continue;
        }

        if (pfd[1].revents != 0) {
            break;
        }

        /* nobody writes there; the end of file is the message */
        if (pfd[0].revents != 0
            && read(INFER_FD_LIFELINE, buf, sizeof(buf)) <= 0)
        {
            break;
        }
    }

    atomic_store(&w.e->ending, 1);
    if (write(w.e->wake_fd, &one, sizeof(one)) < 0) {
        /* a full counter wakes the loop as well */
    }

    (void) poll(NULL, 0, PROCESS_GRACE_MS);
    _exit(INFER_EXIT_OK);
}

static int
process_start_watch(infer_engine_t *e, int signal_fd)
{
    pthread_t         thread;
    process_watch_t  *w = malloc(sizeof(*w));

    if (w == NULL) {
        return INFER_NOMEM;
    }

    w->e = e;
    w->signal_fd = signal_fd;
    if (pthread_create(&thread, NULL, process_watch, w) != 0) {
        free(w);
        return INFER_NOMEM;
    }

    (void) pthread_detach(thread);

    return INFER_OK;
}

static void
process_threads(infer_engine_t *e)
{
    uint32_t   i, n = e->bus.hdr->threads, n_cpus = e->bus.hdr->n_cpus;
    cpu_set_t  set;

    e->n_cpus = n_cpus < 128 ? n_cpus : 128;
    for (i = 0; i < e->n_cpus; i++) {
        e->cpus[i] = e->bus.hdr->cpus[i];
    }

    if (n == 0) {
        n = e->n_cpus;
    }

    if (n == 0 && sched_getaffinity(0, sizeof(set), &set) == 0) {
        n = (uint32_t) CPU_COUNT(&set);
    }

    n = n == 0 ? 1 : n;
    e->n_threads = n < KERN_MAX_THREADS ? n : KERN_MAX_THREADS;
}

static void
process_niceties(infer_engine_t *e, const char *name)
{
    int   k;
    char  comm[16];

    (void) setsid();                  /* EPERM: the spawner did it */
    snprintf(comm, sizeof(comm), "infer %.9s", name);
    (void) prctl(PR_SET_NAME, comm);

    for (k = INFER_FD_BUS; k < INFER_FD_ENTRY0 + INFER_MAX_ENTRIES; k++) {
        (void) fcntl(k, F_SETFD, FD_CLOEXEC);
    }

    infer_process_priority(e->bus.hdr->nice);
}

/* Bus and byte lock; an INFER_EXIT_* code. */
static int
process_attach(infer_engine_t *e, const char *build_id)
{
    infer_err_t  err;

    if (strcmp(build_id, infer_build_id()) != 0) {
        fprintf(stderr, "infer engine: its build %s is not nginx's %.64s\n",
                infer_build_id(), build_id);
        return INFER_EXIT_BUILD;
    }

    if (infer_bus_attach(&e->bus, INFER_FD_BUS, &err) != INFER_OK) {
        fprintf(stderr, "infer engine: %s\n", err.text);
        return INFER_EXIT_CORRUPT;
    }

    if (strncmp(e->bus.hdr->build_id, infer_build_id(),
                sizeof(e->bus.hdr->build_id)) != 0)
    {
        fprintf(stderr, "infer engine: the bus has another build id\n");
        return INFER_EXIT_BUILD;
    }

    if (infer_lock_take(e->bus.fd, INFER_LOCK_ENGINE) != INFER_OK) {
        return INFER_EXIT_TAKEN;
    }

    /* at once: by the lock it is alive, and the one before may have died
     * READY */
    atomic_store(&e->bus.hdr->engine_state, INFER_ENGINE_LOADING);

    return INFER_EXIT_OK;
}

/* Waits until every model's descriptors are there. */
static int
process_receive(infer_engine_t *e, infer_err_t *err)
{
    uint64_t       start_us = infer_now_us();
    struct pollfd  pfd = { .fd = INFER_FD_CONTROL, .events = POLLIN };

    while (infer_engine_receive(e) < e->n_models) {
        if (atomic_load(&e->ending) || infer_engine_sweep(e)) {
            return infer_err(err, INFER_CANCELLED, "nobody is left");
        }

        if (infer_now_us() - start_us > PROCESS_MODELS_US) {
            return infer_err(err, INFER_INVALID,
                             "the models' descriptors did not arrive");
        }

        if (poll(&pfd, 1, 200) > 0 && !(pfd.revents & POLLIN)) {
            (void) poll(NULL, 0, 200);     /* hung up: the lifeline tells */
        }
    }

    return INFER_OK;
}

static int
process_load(infer_engine_t *e, infer_err_t *err)
{
    int       rc;
    uint32_t  i;

    rc = process_receive(e, err);

    for (i = 0; rc == INFER_OK && i < e->n_models; i++) {
        rc = infer_engine_load(e, i, err);
    }

    if (rc == INFER_OK) {
        (void) malloc_trim(0);
    }

    return rc;
}

static void
process_ready(infer_engine_t *e)
{
    infer_bus_header_t  *h = e->bus.hdr;

    atomic_store(&h->load_percent, 100);
    atomic_store(&h->heartbeat_us, infer_now_us());
    atomic_store(&h->spawn_failures, 0);
    atomic_store(&h->engine_state, atomic_load(&h->retired)
                                   ? INFER_ENGINE_DRAINING
                                   : INFER_ENGINE_READY);
    infer_engine_log(e, INFER_LOG_NOTICE, "infer engine %d is ready",
                     (int) getpid());
    infer_engine_wake_all(e);
}

static int
process_serve(infer_engine_t *e)
{
    int                  rc;
    uint32_t             i;
    infer_err_t          err = { 0, "" };
    infer_bus_header_t  *h = e->bus.hdr;

    atomic_store(&h->load_percent, 0);
    atomic_store(&h->engine_pid, (uint32_t) getpid());
    atomic_store(&h->heartbeat_us, infer_now_us());
    atomic_fetch_add(&h->engine_starts, 1);
    for (i = 0; i < e->bus.n_models; i++) {
        atomic_store(&e->bus.model[i].loaded, 0);
    }

    infer_engine_recover(e);

    rc = infer_engine_sizes(e, &err);
    if (rc == INFER_OK) {
        rc = process_load(e, &err);
    }

    if (rc == INFER_CANCELLED) {
        return INFER_EXIT_OK;
    }

    if (rc != INFER_OK) {
        infer_engine_log(e, INFER_LOG_CRIT, "infer engine failed: %s",
                         err.text);
        snprintf(h->error, sizeof(h->error), "%.319s", err.text);
        atomic_store(&h->engine_state, INFER_ENGINE_FAILED);
        infer_engine_wake_all(e);
        return rc == INFER_DEVICE ? INFER_EXIT_DEVICE : INFER_EXIT_FAILED;
    }

    process_ready(e);
    infer_content_start(e);
    rc = infer_engine_run(e);
    atomic_store(&h->engine_state, INFER_ENGINE_NONE);
    infer_engine_wake_all(e);

    return rc;
}

static void
process_free(infer_engine_t *e)
{
    uint32_t      i;
    infer_seq_t  *q;

    for (i = 0; i < INFER_MAX_SLOTS; i++) {
        q = e->seq[i];
        if (q != NULL) {
            infer_sched_remove(&e->model[q->model].sched, &q->sched);
            infer_seq_free(q);
        }
    }

    for (i = 0; i < e->n_models; i++) {
        infer_engine_unload(e, i);
    }
}

int
infer_process_run(const char *build_id, const char *bus_name)
{
    int              rc, signal_fd;
    infer_engine_t  *e;

    signal_fd = process_signals();
    e = calloc(1, sizeof(*e));
    if (e == NULL || signal_fd < 0) {
        free(e);
        return INFER_EXIT_FAILED;
    }

    rc = process_attach(e, build_id);
    if (rc != INFER_EXIT_OK) {
        free(e);
        return rc;
    }

    e->wake_fd = INFER_FD_WAKE;
    e->control_fd = INFER_FD_CONTROL;
    e->entry_fd0 = INFER_FD_ENTRY0;
    e->alone_us = infer_now_us();
    e->idle_us = e->alone_us;
    process_threads(e);
    process_niceties(e, bus_name);

    if (process_start_watch(e, signal_fd) != INFER_OK) {
        free(e);
        return INFER_EXIT_FAILED;
    }

    rc = process_serve(e);
    process_free(e);

    /* e stays: the watcher may still look at it */
    return rc;
}
