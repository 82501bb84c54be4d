/*
 * cpu_team.c: thread team with spin-then-futex waiting. One wait word
 * serves both the start of a job and the barriers inside it. Waiting first
 * spins (a barrier of a decode step takes well under a microsecond), then
 * sleeps, so that a member whose partner was preempted gives its core away
 * and an idle engine uses no CPU.
 */

#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "cpu_team.h"

#define TEAM_SPIN_NS    60000
#define TEAM_SPIN_STEP  64       /* pauses between looks at the clock */

/* A word that grows, with the number of those asleep on it. */
typedef struct {
    _Atomic uint32_t  word;
    _Atomic uint32_t  sleepers;
    char              pad[56];
} team_gate_t;

typedef struct {
    cpu_team_t  *team;
    uint32_t     tid;
    pthread_t    thread;
} team_member_t;

struct cpu_team_s {
    team_gate_t        job;        /* counts jobs; +1 by start() */
    team_gate_t        bar;        /* counts barriers passed */
    _Atomic uint32_t   arrived;
    char               pad[60];
    uint32_t           n;
    _Atomic int        quit;
    void             (*fn)(void *arg, uint32_t tid);
    void              *arg;
    team_member_t     *member;
};


static uint64_t
team_now_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t) ts.tv_sec * 1000000000u + (uint64_t) ts.tv_nsec;
}

static inline void
team_pause(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#else
    sched_yield();
#endif
}

/* Returns when the gate's word is no longer `old`. */
static void
team_gate_wait(team_gate_t *g, uint32_t old)
{
    uint64_t  end = 0;
    int       i;

    for ( ;; ) {
        for (i = 0; i < TEAM_SPIN_STEP; i++) {
            /* acquire; pairs with the store in team_gate_open */
            if (atomic_load_explicit(&g->word, memory_order_acquire) != old) {
                return;
            }
            team_pause();
        }
        if (end == 0) {
            end = team_now_ns() + TEAM_SPIN_NS;
        } else if (team_now_ns() >= end) {
            break;
        }
    }

    /* seq_cst: either we see the new word or the opener sees a sleeper */
    atomic_fetch_add(&g->sleepers, 1);
    while (atomic_load(&g->word) == old) {
        syscall(SYS_futex, &g->word, FUTEX_WAIT_PRIVATE, old, NULL, NULL, 0);
    }
    atomic_fetch_sub(&g->sleepers, 1);
}

static void
team_gate_open(team_gate_t *g)
{
    /* seq_cst; pairs with the loads in team_gate_wait */
    atomic_fetch_add(&g->word, 1);
    if (atomic_load(&g->sleepers) != 0) {
        syscall(SYS_futex, &g->word, FUTEX_WAKE_PRIVATE, INT32_MAX, NULL,
                NULL, 0);
    }
}

void
cpu_team_barrier(cpu_team_t *t)
{
    uint32_t  old;

    if (t->n == 1) {
        return;
    }

    /* Read before arriving: the word cannot move until we have arrived. */
    old = atomic_load_explicit(&t->bar.word, memory_order_relaxed);

    /* acq_rel: the last one has seen everybody's writes */
    if (atomic_fetch_add_explicit(&t->arrived, 1, memory_order_acq_rel) + 1
        == t->n)
    {
        atomic_store_explicit(&t->arrived, 0, memory_order_relaxed);
        team_gate_open(&t->bar);
        return;
    }

    team_gate_wait(&t->bar, old);
}

static void *
team_thread(void *arg)
{
    team_member_t  *m = arg;
    cpu_team_t     *t = m->team;
    uint32_t        seen = 0;

    for ( ;; ) {
        team_gate_wait(&t->job, seen);
        seen++;
        if (atomic_load_explicit(&t->quit, memory_order_acquire)) {
            return NULL;
        }
        t->fn(t->arg, m->tid);
        cpu_team_barrier(t);
    }
}

void
cpu_team_start(cpu_team_t *t, void (*fn)(void *arg, uint32_t tid), void *arg)
{
    t->fn = fn;
    t->arg = arg;
    if (t->n > 1) {
        team_gate_open(&t->job);
    }
}

void
cpu_team_join(cpu_team_t *t)
{
    t->fn(t->arg, 0);
    cpu_team_barrier(t);
}

static int
team_spawn(team_member_t *m, const int *cpus)
{
    pthread_attr_t  attr;
    cpu_set_t       set;
    sigset_t        all, old;
    int             rc;

    if (pthread_attr_init(&attr) != 0) {
        return INFER_NOMEM;
    }
    if (cpus != NULL && cpus[m->tid] >= 0 && cpus[m->tid] < CPU_SETSIZE) {
        CPU_ZERO(&set);
        CPU_SET(cpus[m->tid], &set);
        (void) pthread_attr_setaffinity_np(&attr, sizeof(set), &set);
    }

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    rc = pthread_create(&m->thread, &attr, team_thread, m);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    pthread_attr_destroy(&attr);

    return rc == 0 ? INFER_OK : INFER_NOMEM;
}

static void
team_stop(cpu_team_t *t, uint32_t n_started)
{
    uint32_t  i;

    atomic_store_explicit(&t->quit, 1, memory_order_release);
    team_gate_open(&t->job);
    for (i = 1; i < n_started; i++) {
        pthread_join(t->member[i].thread, NULL);
    }
    free(t->member);
    free(t);
}

int
cpu_team_open(cpu_team_t **team, uint32_t n, const int *cpus,
    infer_err_t *err)
{
    cpu_team_t  *t = aligned_alloc(64, (sizeof(*t) + 63) / 64 * 64);
    uint32_t     i;

    if (t == NULL) {
        return infer_err(err, INFER_NOMEM, "no memory for the thread team");
    }
    *t = (cpu_team_t) { .n = n };
    t->member = calloc(n, sizeof(t->member[0]));
    if (t->member == NULL) {
        free(t);
        return infer_err(err, INFER_NOMEM, "no memory for the thread team");
    }

    for (i = 1; i < n; i++) {
        t->member[i] = (team_member_t) { .team = t, .tid = i };
        if (team_spawn(&t->member[i], cpus) != INFER_OK) {
            team_stop(t, i);
            return infer_err(err, INFER_NOMEM,
                             "cannot start compute thread %u of %u", i + 1, n);
        }
    }

    *team = t;
    return INFER_OK;
}

void
cpu_team_close(cpu_team_t *t)
{
    if (t != NULL) {
        team_stop(t, t->n);
    }
}
