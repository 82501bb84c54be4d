/*
 * engine.c: the loop. Takes what the workers submitted and cancelled, runs a
 * step of each model in turn, publishes, wakes, and sleeps in poll() when
 * there is nothing to do.
 */

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

#include "ipc/spawn.h"
#include "run/engine.h"

#define ENGINE_SWEEP_US   100000       /* between looks for dead workers */
#define ENGINE_IDLE_US    1000000      /* longest sleep */
#define ENGINE_ALONE_US   10000000     /* without a worker: end */
#define ENGINE_DRAIN_US   3000000      /* retired and idle: end */
#define ENGINE_MAX_DEATHS 3


void
infer_engine_notify(infer_engine_t *e, infer_ref_t ref)
{
    infer_slot_notify(&e->bus, ref, e->woken);
}

static void
engine_write(int fd)
{
    uint64_t  one = 1;

    /* EAGAIN: the counter is full, so the reader has a wake-up anyway */
    while (write(fd, &one, sizeof(one)) < 0 && errno == EINTR) {
        continue;
    }
}

void
infer_engine_wake(infer_engine_t *e)
{
    uint32_t  i, k;

    for (i = 0; i < INFER_MAX_ENTRIES / 64; i++) {
        while (e->woken[i] != 0) {
            k = i * 64 + (uint32_t) __builtin_ctzll(e->woken[i]);
            e->woken[i] &= e->woken[i] - 1;
            engine_write(e->entry_fd0 + (int) k);
        }
    }
}

void
infer_engine_wake_all(infer_engine_t *e)
{
    uint32_t  k;

    for (k = 0; k < INFER_MAX_ENTRIES; k++) {
        if (atomic_load(&e->bus.entry[k].state) != INFER_ENTRY_FREE) {
            e->woken[k / 64] |= 1ull << (k % 64);
        }
    }

    infer_engine_wake(e);
}

/* ---- slots ---- */

static int
engine_has_reader(const infer_engine_t *e, uint32_t slot)
{
    uint32_t  i;
    uint64_t  bits = 0;

    for (i = 0; i < INFER_MAX_ENTRIES / 64; i++) {
        bits |= atomic_load(&e->bus.slot[slot].readers[i]);
    }

    return bits != 0;
}

/* Ends a slot that has no sequence (any more). */
static void
engine_close_slot(infer_engine_t *e, infer_ref_t ref, uint32_t finish,
    const char *error)
{
    uint64_t       now_us = infer_now_us();
    infer_slot_t  *s = &e->bus.slot[ref.slot];

    atomic_fetch_add(&e->bus.stats->finished[finish], 1);
    if (now_us > s->submit_us) {
        infer_hist_add(&e->bus.stats->e2e, now_us - s->submit_us);
    }

    infer_slot_finish(&e->bus, ref, finish, error);

    if (engine_has_reader(e, ref.slot)) {
        infer_engine_notify(e, ref);
    } else {
        infer_slot_free(&e->bus, ref.slot);
    }
}

void
infer_engine_finish(infer_engine_t *e, infer_seq_t *q, uint32_t finish,
    const char *error)
{
    infer_ref_t  ref = q->ref;

    infer_engine_forget(&e->model[q->model], q);
    /* before the slot may be free and taken again */
    atomic_store(&e->bus.slot[ref.slot].in_batch, 0);
    infer_sched_remove(&e->model[q->model].sched, &q->sched);
    e->seq[ref.slot] = NULL;
    e->n_seqs--;
    infer_seq_free(q);
    engine_close_slot(e, ref, finish, error);
}

static void
engine_start(infer_engine_t *e, infer_ref_t ref)
{
    uint32_t               model, deaths;
    infer_err_t            err;
    infer_seq_t           *q;
    infer_slot_t          *s = &e->bus.slot[ref.slot];
    infer_seq_env_t        env;
    infer_engine_model_t  *m;

    deaths = atomic_load(&s->deaths);
    if (deaths >= ENGINE_MAX_DEATHS) {
        infer_engine_log(e, INFER_LOG_ERR,
                         "infer slot %u failed: %u engines died with it",
                         ref.slot, deaths);
        engine_close_slot(e, ref, INFER_FINISH_ERROR,
                          "the engine died with this request three times");
        return;
    }

    model = s->model;
    if (model >= e->n_models) {
        engine_close_slot(e, ref, INFER_FINISH_ERROR, "no such model");
        return;
    }

    m = &e->model[model];
    env.text = m->text;
    env.model = model;
    env.context = m->context;
    env.vocab = m->vocab;

    if (infer_seq_new(&q, &e->bus, ref, &env, &err) != INFER_OK) {
        infer_engine_log(e, INFER_LOG_ERR, "infer slot %u failed: %s",
                         ref.slot, err.text);
        engine_close_slot(e, ref, INFER_FINISH_ERROR, err.text);
        return;
    }

    if (q->finish != INFER_FINISH_NONE) {
        /* an engine before us logged the end and could not say so */
        uint32_t finish = q->finish;

        infer_seq_free(q);
        engine_close_slot(e, ref, finish, NULL);
        return;
    }

    q->sched.alone = deaths >= ENGINE_MAX_DEATHS - 1;
    q->sched.waits |= infer_model_ops(m->model)->sample == NULL;
    q->sched.preempted = atomic_load(&s->preempted);

    if (infer_sched_add(&m->sched, &q->sched) != INFER_OK) {
        infer_seq_free(q);
        engine_close_slot(e, ref, INFER_FINISH_ERROR, "too many sequences");
        return;
    }

    e->seq[ref.slot] = q;
    e->n_seqs++;
}

static void
engine_cancel(infer_engine_t *e, infer_ref_t ref)
{
    if (e->seq[ref.slot] != NULL) {
        infer_engine_finish(e, e->seq[ref.slot], INFER_FINISH_CANCELLED,
                            NULL);
    } else {
        engine_close_slot(e, ref, INFER_FINISH_CANCELLED, NULL);
    }
}

/* 1: a reader that has come since has moved a deadline. */
static int
engine_terms(infer_engine_t *e, infer_seq_t *q)
{
    return infer_seq_terms(q, &e->bus.slot[q->ref.slot],
                           &e->model[q->model].sched);
}

/* Looks at a slot that may be in any state. */
static void
engine_look(infer_engine_t *e, uint32_t slot)
{
    uint64_t     w = atomic_load(&e->bus.slot[slot].state);
    infer_ref_t  ref = { slot, infer_slot_generation(w) };

    switch (infer_slot_state(w)) {

    case INFER_SLOT_SUBMITTED:
        if (!infer_slot_advance(&e->bus, ref, INFER_SLOT_SUBMITTED,
                                INFER_SLOT_RUNNING))
        {
            break;
        }
        /* fall through */

    case INFER_SLOT_RUNNING:
        if (infer_slot_cancelled(&e->bus, ref)) {
            engine_cancel(e, ref);

        } else if (e->seq[slot] == NULL) {
            engine_start(e, ref);

        } else {
            (void) engine_terms(e, e->seq[slot]);
        }
        break;

    case INFER_SLOT_DONE:
        if (!engine_has_reader(e, slot)) {
            infer_slot_free(&e->bus, slot);
        }
        break;

    case INFER_SLOT_CLOSING:
        infer_slot_free(&e->bus, slot);
        break;

    default:
        break;
    }
}

void
infer_engine_take(infer_engine_t *e)
{
    uint32_t  i, slot;
    uint64_t  bits[INFER_BITMAP_WORDS];

    if (infer_bus_submitted(&e->bus, bits) == 0) {
        return;
    }

    for (i = 0; i < INFER_BITMAP_WORDS; i++) {
        while (bits[i] != 0) {
            slot = i * 64 + (uint32_t) __builtin_ctzll(bits[i]);
            bits[i] &= bits[i] - 1;
            if (slot < e->bus.n_slots) {
                engine_look(e, slot);
            }
        }
    }
}

void
infer_engine_look_at_all(infer_engine_t *e)
{
    uint32_t  i;

    for (i = 0; i < e->bus.n_slots; i++) {
        engine_look(e, i);
    }
}

/* ---- recovery ---- */

void
infer_engine_recover(infer_engine_t *e)
{
    uint32_t       i, st, left = 0;
    uint64_t       w;
    infer_ref_t    ref;
    infer_slot_t  *s;

    (void) infer_bus_sweep(&e->bus, e->woken);

    for (i = 0; i < e->bus.n_slots; i++) {
        s = &e->bus.slot[i];
        w = atomic_load(&s->state);
        st = infer_slot_state(w);
        ref.slot = i;
        ref.generation = infer_slot_generation(w);

        if (st == INFER_SLOT_CLOSING) {
            /* somebody may have joined it just before */
            infer_engine_notify(e, ref);
            infer_slot_free(&e->bus, i);
        }

        if (st != INFER_SLOT_RUNNING && st != INFER_SLOT_DONE) {
            continue;
        }

        if (st == INFER_SLOT_RUNNING) {
            left++;
            if (atomic_exchange(&s->in_batch, 0) != 0) {
                atomic_fetch_add(&s->deaths, 1);
            }
        }

        /* it may have died between publishing and telling */
        infer_engine_notify(e, ref);
    }

    /* last: of a slot that was being freed, some may have been given back */
    infer_bus_sweep_blocks(&e->bus);
    infer_engine_wake(e);

    if (left != 0) {
        infer_engine_log(e, INFER_LOG_WARN,
                         "infer engine takes over %u generations of an "
                         "engine that died", left);
    }
}

/* 1: every slot is free or has its answer. */
static int
engine_drained(const infer_engine_t *e)
{
    uint32_t  i, st;

    for (i = 0; i < e->bus.n_slots; i++) {
        st = infer_slot_state(atomic_load(&e->bus.slot[i].state));
        if (st != INFER_SLOT_FREE && st != INFER_SLOT_DONE) {
            return 0;
        }
    }

    return 1;
}

int
infer_engine_sweep(infer_engine_t *e)
{
    uint32_t  alive;
    uint64_t  now_us = infer_now_us();
    int       retired;

    if (now_us - e->sweep_us < ENGINE_SWEEP_US) {
        return 0;
    }

    e->sweep_us = now_us;
    alive = infer_bus_sweep(&e->bus, e->woken);
    retired = atomic_load(&e->bus.hdr->retired) != 0;

    if (alive != 0) {
        e->alone_us = now_us;
    }

    if (!retired || e->n_seqs != 0 || !engine_drained(e)) {
        e->idle_us = now_us;
    }

    return now_us - e->alone_us >= ENGINE_ALONE_US
           || (retired && (alive == 0
                           || now_us - e->idle_us >= ENGINE_DRAIN_US));
}

/* ---- the loop ---- */

static void
engine_expire(infer_engine_t *e)
{
    uint32_t      i, finish;
    infer_seq_t  *q;

    for (i = 0; i < e->n_models; i++) {
        while ((q = (infer_seq_t *) infer_sched_expired(&e->model[i].sched,
                                                e->now_us, &finish)) != NULL)
        {
            if (!engine_terms(e, q)) {
                infer_engine_finish(e, q, finish, NULL);
            }
        }
    }
}

/* Smoothed output rate of all models, about once a second. */
static void
engine_rate(infer_engine_t *e)
{
    uint64_t  us = e->now_us - e->rate_us;
    double    rate;

    if (us < ENGINE_SWEEP_US) {
        return;
    }

    rate = (double) e->rate_tokens * 1e6 / (double) us;
    e->rate = e->rate == 0 || rate == 0 ? rate : (e->rate + rate) / 2;
    e->rate_us = e->now_us;
    e->rate_tokens = 0;
    atomic_store(&e->bus.hdr->tokens_per_s, (uint32_t) (e->rate + 0.5));
}

/* Waits for news, at most until the next sweep; not at all while there is
 * work. */
static void
engine_wait(infer_engine_t *e, int worked)
{
    int            timeout = 0;
    uint64_t       count, now_us;
    struct pollfd  pfd[2] = {
        { .fd = e->wake_fd, .events = POLLIN },
        { .fd = e->control_fd, .events = POLLIN }
    };

    if (!worked) {
        now_us = infer_now_us();
        timeout = now_us - e->sweep_us >= ENGINE_IDLE_US ? 1
                  : (int) ((ENGINE_IDLE_US - (now_us - e->sweep_us)) / 1000
                           + 1);
        if (e->n_seqs != 0 && timeout > 10) {
            timeout = 10;
        }
    }

    if (poll(pfd, 2, timeout) <= 0) {
        return;
    }

    if (pfd[0].revents & POLLIN) {
        if (read(e->wake_fd, &count, sizeof(count)) > 0) {
            infer_engine_take(e);
        }
    }

    if (pfd[1].revents & POLLIN) {
        (void) infer_engine_receive(e);
    }

    if (pfd[1].revents & (POLLHUP | POLLERR | POLLNVAL)) {
        /* nobody can send any more; the lifeline says what that means */
        e->control_fd = -1;
    }
}

int
infer_engine_turn(infer_engine_t *e)
{
    int       rc, worked = 0;
    uint32_t  i;

    e->now_us = infer_now_us();
    engine_expire(e);

    for (i = 0; i < e->n_models; i++) {
        e->now_us = infer_now_us();
        atomic_store(&e->bus.hdr->heartbeat_us, e->now_us);

        rc = infer_engine_step(e, &e->model[i]);
        infer_engine_wake(e);
        if (rc < 0) {
            return rc;
        }
        worked |= rc;
    }

    return worked;
}

int
infer_engine_run(infer_engine_t *e)
{
    int       worked;
    uint64_t  swept_us;

    /* what was there before we were ready */
    infer_engine_take(e);
    infer_engine_look_at_all(e);
    e->rate_us = infer_now_us();

    while (!atomic_load(&e->ending)) {
        worked = infer_engine_turn(e);
        if (worked < 0) {
            return INFER_EXIT_DEVICE;
        }

        engine_rate(e);
        infer_engine_health(e);
        infer_content_take(e);
        swept_us = e->sweep_us;
        if (infer_engine_sweep(e)) {
            infer_engine_log(e, INFER_LOG_NOTICE, "infer engine ends: %s",
                             atomic_load(&e->bus.hdr->retired)
                             ? "its bus is retired and drained"
                             : "no worker has been there for 10 s");
            infer_engine_wake_all(e);
            return INFER_EXIT_OK;
        }

        if (swept_us != e->sweep_us) {
            infer_engine_look_at_all(e);
            if (atomic_load(&e->bus.hdr->retired)) {
                atomic_store(&e->bus.hdr->engine_state,
                             INFER_ENGINE_DRAINING);
            }
        }

        infer_engine_wake(e);
        engine_wait(e, worked);
    }

    return INFER_EXIT_OK;
}
