/*
 * cpu_team.c: thread team over lists of items. Every item of every list has
 * a number of its own, its stage; the team's stage word only grows and says
 * which item is being worked on. Waiting first spins (a step has over a
 * hundred stages of a few microseconds), then sleeps, so that an idle engine
 * uses no CPU.
 *
 * A member's range of an item is one 64-bit word: stage << 32 | next unit.
 * It is taken by compare-and-swap, which fails when the word belongs to
 * another stage: a member that was preempted anywhere can come back at any
 * time and do no harm, so nobody has to wait for it at the end of an item
 * or of a list unless it holds a unit.
 */

#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "cpu_team.h"

#define TEAM_BUSY_NS    20000    /* spin inside a list */
#define TEAM_IDLE_NS    60000    /* spin after one, the next may be near */
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

/* One member's units of one item; a cache line of its own. */
typedef struct {
    _Atomic uint64_t  next;        /* stage << 32 | unit */
    _Atomic uint32_t  end;
    char              pad[52];
} team_range_t;

typedef struct {
    _Atomic uint32_t  done;        /* units */
    _Atomic uint32_t  n_units;
    char              pad[56];
} team_item_t;

struct cpu_team_s {
    team_gate_t         stage;
    _Atomic uint32_t    base;      /* stage of the list's first item */
    _Atomic uint32_t    n_items;
    _Atomic int         quit;
    char                pad[52];
    uint32_t            n, max_items;
    cpu_team_pt         fn;
    void               *arg;
    team_member_t      *member;
    team_item_t        *item;      /* [max_items] */
    team_range_t       *range;     /* [max_items * n] */
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
team_gate_wait(team_gate_t *g, uint32_t old, uint32_t spin_ns)
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
            end = team_now_ns() + spin_ns;
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
team_gate_open(team_gate_t *g, uint32_t word)
{
    /* seq_cst; pairs with the loads in team_gate_wait */
    atomic_store(&g->word, word);
    if (atomic_load(&g->sleepers) != 0) {
        syscall(SYS_futex, &g->word, FUTEX_WAKE_PRIVATE, INT32_MAX, NULL,
                NULL, 0);
    }
}

/* Takes a unit of the range at this stage: 1 and *unit, or 0. */
static int
team_take(team_range_t *r, uint32_t stage, uint32_t *unit)
{
    uint64_t  v;

    /* acquire; pairs with the release in cpu_team_start: end is then of
     * this stage or of a later one, and then the exchange fails */
    v = atomic_load_explicit(&r->next, memory_order_acquire);
    while (v >> 32 == stage
           && (uint32_t) v < atomic_load_explicit(&r->end,
                                                  memory_order_relaxed))
    {
        if (atomic_compare_exchange_weak_explicit(&r->next, &v, v + 1,
                                                  memory_order_acquire,
                                                  memory_order_acquire))
        {
            *unit = (uint32_t) v;
            return 1;
        }
    }
    return 0;
}

/* Works on the item of this stage until no unit is left. */
static void
team_work(cpu_team_t *t, uint32_t stage, uint32_t item, uint32_t tid)
{
    team_range_t  *r = t->range + (size_t) item * t->n;
    uint32_t       i, who, unit, n = 0, done;

    for (i = 0; i < t->n; i++) {
        who = tid + i < t->n ? tid + i : tid + i - t->n;
        while (team_take(&r[who], stage, &unit)) {
            t->fn(t->arg, item, unit, tid);
            n++;
        }
    }
    if (n == 0) {
        return;
    }

    /* acq_rel: the last one has seen everybody's writes and passes them on
     * with the stage */
    done = atomic_fetch_add_explicit(&t->item[item].done, n,
                                     memory_order_acq_rel) + n;
    if (done == atomic_load_explicit(&t->item[item].n_units,
                                     memory_order_relaxed))
    {
        team_gate_open(&t->stage, stage + 1);
    }
}

/* One look at the team: works where there is something to do, then waits
 * for the stage to move. */
static void
team_turn(cpu_team_t *t, uint32_t stage, uint32_t tid)
{
    uint32_t  item, spin = TEAM_IDLE_NS;

    item = stage - atomic_load_explicit(&t->base, memory_order_acquire);
    if (item < atomic_load_explicit(&t->n_items, memory_order_relaxed)) {
        team_work(t, stage, item, tid);
        spin = TEAM_BUSY_NS;
    }
    team_gate_wait(&t->stage, stage, spin);
}

static void *
team_thread(void *arg)
{
    team_member_t  *m = arg;
    cpu_team_t     *t = m->team;

    /* acquire: pairs with team_gate_open */
    while (!atomic_load_explicit(&t->quit, memory_order_acquire)) {
        team_turn(t, atomic_load_explicit(&t->stage.word,
                                          memory_order_acquire), m->tid);
    }
    return NULL;
}

uint32_t
cpu_team_part(const cpu_team_t *t, uint32_t n, uint32_t tid)
{
    return (uint32_t) ((uint64_t) n * tid / t->n);
}

void
cpu_team_start(cpu_team_t *t, cpu_team_pt fn, void *arg,
    const uint32_t *units, uint32_t n_items)
{
    uint32_t       base, i, m;
    team_range_t  *r;

    infer_assert(n_items <= t->max_items);
    base = atomic_load_explicit(&t->stage.word, memory_order_relaxed) + 1;
    t->fn = fn;
    t->arg = arg;
    for (i = 0; i < n_items; i++) {
        atomic_store_explicit(&t->item[i].done, 0, memory_order_relaxed);
        atomic_store_explicit(&t->item[i].n_units, units[i],
                              memory_order_relaxed);
        for (m = 0; m < t->n; m++) {
            r = &t->range[(size_t) i * t->n + m];
            atomic_store_explicit(&r->end, cpu_team_part(t, units[i], m + 1),
                                  memory_order_relaxed);
            /* release; pairs with the acquire in team_take */
            atomic_store_explicit(&r->next, (uint64_t) (base + i) << 32
                                            | cpu_team_part(t, units[i], m),
                                  memory_order_release);
        }
    }
    atomic_store_explicit(&t->n_items, n_items, memory_order_relaxed);
    atomic_store_explicit(&t->base, base, memory_order_release);
    team_gate_open(&t->stage, base);
}

void
cpu_team_join(cpu_team_t *t)
{
    uint32_t  stage, end;

    end = atomic_load_explicit(&t->base, memory_order_relaxed)
          + atomic_load_explicit(&t->n_items, memory_order_relaxed);

    /* acquire: pairs with team_gate_open; all units' writes are seen */
    while ((stage = atomic_load_explicit(&t->stage.word,
                                         memory_order_acquire)) != end)
    {
        team_turn(t, stage, 0);
    }
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
    team_gate_open(&t->stage, atomic_load(&t->stage.word) + 1);
    for (i = 1; i < n_started; i++) {
        pthread_join(t->member[i].thread, NULL);
    }
    free(t->member);
    free(t->item);
    free(t->range);
    free(t);
}

/* Zeroed and aligned to cache lines; sizes are multiples of 64. */
static void *
team_alloc(size_t n, size_t size)
{
    void  *p = aligned_alloc(64, n * size);

    return p != NULL ? memset(p, 0, n * size) : NULL;
}

int
cpu_team_open(cpu_team_t **team, uint32_t n, uint32_t max_items,
    const int *cpus, infer_err_t *err)
{
    cpu_team_t  *t = team_alloc(1, (sizeof(*t) + 63) / 64 * 64);
    uint32_t     i;

    if (t == NULL) {
        return infer_err(err, INFER_NOMEM, "no memory for the thread team");
    }
    t->n = n;
    t->max_items = max_items;
    t->member = calloc(n, sizeof(t->member[0]));
    t->item = team_alloc(max_items, sizeof(t->item[0]));
    t->range = team_alloc((size_t) max_items * n, sizeof(t->range[0]));
    if (t->member == NULL || t->item == NULL || t->range == NULL) {
        team_stop(t, 0);
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


/* cpu_team_parallel's job. */
typedef struct {
    void  (*fn)(void *arg, uint32_t i);
    void   *arg;
} team_parallel_t;

static void
team_parallel_unit(void *arg, uint32_t item, uint32_t unit, uint32_t tid)
{
    team_parallel_t  *job = arg;

    (void) item;
    (void) tid;
    job->fn(job->arg, unit);
}

void
cpu_team_parallel(cpu_team_t *team, uint32_t n_threads,
    void (*fn)(void *arg, uint32_t i), void *arg, uint32_t n)
{
    team_parallel_t  job = { .fn = fn, .arg = arg };
    uint32_t         i;

    if (n <= 1 || n_threads == 1) {
        for (i = 0; i < n; i++) {
            fn(arg, i);
        }
        return;
    }
    cpu_team_start(team, team_parallel_unit, &job, &n, 1);
    cpu_team_join(team);
}
