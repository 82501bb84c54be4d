/*
 * test_pipeline.c: the loop with steps launched before the last is read, on a
 * fake device (fake_device.h), against the same requests run one by one on a
 * backend that does one step at a time: every log has to be the same, record
 * by record, whatever ends, is cancelled, times out, is preempted or starts
 * again in an engine that takes over; and one that was cut short is the same
 * up to there.
 *
 * SEED=n chooses the worlds.
 */

#include <fcntl.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "fake_device.h"
#include "run/engine.h"
#include "tap.h"
#include "tool/tiny_gguf.h"

#define N         20               /* requests */
#define CONTEXT   256
#define SEQS      8
#define ROOMY     400              /* pages */
#define FEW       10               /* 8 hold the longest one */
#define MAX_OUT   100
#define STRIDE    (INFER_MAX_TOP_LOGPROBS)

typedef struct {
    infer_sampling_t  p;
    int32_t           prompt[160];
    uint32_t          n_prompt, n_stops, n_stop_ids, n_bias;
    int32_t           stop_id[4];
    infer_bias_t      bias[4];
    char              stops[16];
    size_t            stops_bytes;
} request_t;

/* What came of it. */
typedef struct {
    uint32_t        finish, n;
    infer_record_t  rec[MAX_OUT];
    infer_top_t     top[MAX_OUT][STRIDE];
} log_t;

typedef struct {
    infer_bus_t     bus;
    infer_engine_t *e;             /* the living one */
    infer_gguf_t   *gguf;
    void           *image;
    size_t          image_bytes;
    uint32_t        entry, n_pages, max_edits;
    int             wake_fd, entry_fd;
    kern_ops_t      ops;
    infer_ref_t     ref[N];
    uint32_t        state[N];      /* 0: not submitted, 1: is, 2: read */
    uint8_t         cut[N];        /* cancelled or out of time */
} world_t;

static request_t  request[N];
static log_t      want[N], got;
static uint64_t   rng;
static uint32_t   n_preempted;


__attribute__((noreturn))
static void
bail(const char *what)
{
    printf("Bail out! %s\n", what);
    exit(1);
}

static uint32_t
below(uint32_t n)
{
    rng ^= rng << 13;
    rng ^= rng >> 7;
    rng ^= rng << 17;

    return (uint32_t) ((rng >> 11) % n);
}

static uint32_t
chance(uint32_t percent)
{
    return below(100) < percent;
}

/* ---- requests ---- */

static void
make_params(infer_sampling_t *p)
{
    *p = (infer_sampling_t) { .top_p = 1, .repetition_penalty = 1 };
    p->max_tokens = 1 + below(MAX_OUT);
    p->ignore_eos = (uint8_t) chance(30);
    p->temperature = chance(50) ? 0 : 0.8f;
    p->seed = below(1u << 30);
    p->top_k = chance(30) ? 1 + (int32_t) below(40) : 0;
    p->min_tokens = chance(25) ? below(30) : 0;
    p->logprobs = (uint8_t) chance(30);
    p->top_logprobs = chance(25) ? below(6) : 0;
    if (chance(30)) {
        p->repetition_penalty = 1.3f;
        p->frequency_penalty = 0.2f;
    }
}

static void
make_request(request_t *r)
{
    uint32_t  shared = chance(50) ? 32 * below(4) : 0;
    uint16_t  one = 1;

    memset(r, 0, sizeof(*r));
    make_params(&r->p);
    r->n_prompt = shared + 1 + below(chance(30) ? 60 : 8);
    for (uint32_t i = 0; i < r->n_prompt; i++) {
        r->prompt[i] = (int32_t) (3 + 'a' + (i < shared ? i * i % 23
                                                        : below(26)));
    }
    if (chance(30)) {
        r->n_stops = 1;
        memcpy(r->stops, &one, sizeof(one));
        r->stops[2] = (char) ('a' + below(25));
        r->stops_bytes = 3;
    }
    r->n_stop_ids = chance(30) ? below(3) : 0;
    for (uint32_t i = 0; i < r->n_stop_ids; i++) {
        r->stop_id[i] = (int32_t) (3 + 'a' + below(25));
    }
    r->n_bias = chance(25) ? below(5) : 0;
    for (uint32_t i = 0; i < r->n_bias; i++) {
        r->bias[i].id = (int32_t) (3 + 'a' + below(25));
        r->bias[i].bias = (float) below(30) - 15;
    }
}

/* deaths: of engines that it is said to have killed. */
static void
submit(world_t *w, uint32_t k, uint32_t deaths)
{
    infer_slot_t     *s;
    const request_t  *r = &request[k];

    if (infer_slot_claim(&w->bus, w->entry, &w->ref[k]) != INFER_OK) {
        bail("no slot");
    }
    s = &w->bus.slot[w->ref[k].slot];
    s->sampling = r->p;
    s->n_prompt = r->n_prompt;
    s->n_stops = r->n_stops;
    s->n_stop_ids = r->n_stop_ids;
    s->n_bias = r->n_bias;
    atomic_store(&s->deaths, deaths);
    if (infer_slot_put(&w->bus, w->ref[k], INFER_EXT_PROMPT, r->prompt,
                       r->n_prompt * 4) != INFER_OK
        || infer_slot_put(&w->bus, w->ref[k], INFER_EXT_STOPS, r->stops,
                          r->stops_bytes) != INFER_OK
        || infer_slot_put(&w->bus, w->ref[k], INFER_EXT_STOP_IDS, r->stop_id,
                          r->n_stop_ids * 4) != INFER_OK
        || infer_slot_put(&w->bus, w->ref[k], INFER_EXT_BIAS, r->bias,
                          r->n_bias * sizeof(r->bias[0])) != INFER_OK
        || infer_slot_reserve_log(&w->bus, w->ref[k], r->p.max_tokens)
           != INFER_OK)
    {
        bail("no room");
    }
    infer_slot_submit(&w->bus, w->entry, w->ref[k]);
    w->state[k] = 1;
    w->cut[k] = 0;
}

/* ---- a world ---- */

static void
engine_open(world_t *w)
{
    infer_err_t            err;
    infer_engine_t        *e = calloc(1, sizeof(*e));
    infer_engine_model_t  *m = &e->model[0];
    infer_model_conf_t     conf = {
        .context = CONTEXT, .max_rows = 64, .max_outs = SEQS,
        .max_seqs = SEQS, .n_pages = w->n_pages, .n_threads = 1
    };

    if (infer_bus_attach(&e->bus, dup(w->bus.fd), &err) != INFER_OK
        || infer_model_load(&m->model, w->gguf, &w->ops, &conf, &err)
           != INFER_OK
        || infer_text_open(&m->text, w->image, w->image_bytes, &err)
           != INFER_OK)
    {
        bail(err.text);
    }
    e->wake_fd = w->wake_fd;
    e->control_fd = -1;
    e->entry_fd0 = w->entry_fd - (int) w->entry;
    e->n_threads = 1;
    e->n_models = 1;
    m->context = CONTEXT;
    m->max_seqs = SEQS;
    m->batch_tokens = 64;
    m->n_pages = w->n_pages;
    m->vocab = tiny_default.V;
    if (infer_engine_arrays(e, m, &err) != INFER_OK) {
        bail(err.text);
    }
    if (w->max_edits != 0) {
        m->max_edits = w->max_edits;
    }
    w->e = e;
    infer_engine_look_at_all(e);
}

/* 1: a poisoned one is on the device beside another step. */
static int
shares(const world_t *w)
{
    uint32_t                     i, k;
    const infer_flight_t        *f;
    const infer_engine_model_t  *m = &w->e->model[0];

    for (k = 0; m->n_flying > 1 && k < m->n_flying; k++) {
        f = &m->flight[(m->oldest + k) % m->depth];
        for (i = 0; i < f->plan.n_items; i++) {
            if (f->plan.item[i].seq != NULL && f->plan.item[i].seq->alone) {
                return 1;
            }
        }
    }

    return 0;
}

/* As if it were killed: nothing more is said to anybody. */
static void
engine_close(world_t *w)
{
    infer_engine_t        *e = w->e;
    infer_engine_model_t  *m = &e->model[0];

    infer_engine_drain(m);
    for (uint32_t i = 0; i < INFER_MAX_SLOTS; i++) {
        if (e->seq[i] != NULL) {
            infer_sched_remove(&m->sched, &e->seq[i]->sched);
            infer_seq_free(e->seq[i]);
        }
    }
    m->file_fd = m->image_fd = -1;
    infer_engine_unload(e, 0);
    infer_bus_unmap(&e->bus, 1);
    free(e);
}

static void
world_open(world_t *w, uint32_t depth, uint32_t n_pages)
{
    int                fd;
    void              *file;
    size_t             len;
    infer_err_t        err;
    infer_bus_model_t  bm;
    infer_bus_conf_t   bc = { .bytes = 4 << 20, .n_slots = N + 4,
                              .n_models = 1, .models = &bm, .threads = 1 };

    memset(w, 0, sizeof(*w));
    memset(&bm, 0, sizeof(bm));
    snprintf(bm.name, sizeof(bm.name), "fake");
    bm.context = CONTEXT;
    bm.sequences = SEQS;
    bm.batch_tokens = 64;
    bm.n_pages = n_pages;
    bm.vocab = tiny_default.V;
    w->ops = fake_ops(depth);
    w->n_pages = n_pages;
    w->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    w->entry_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

    file = tiny_build(&tiny_default, &len);
    fd = memfd_create("tiny", MFD_CLOEXEC);
    if (file == NULL || fd < 0 || write(fd, file, len) != (ssize_t) len
        || infer_gguf_open(&w->gguf, fd, &err) != INFER_OK
        || infer_text_build(w->gguf, NULL, 0, &w->image, &w->image_bytes,
                            &err) != INFER_OK
        || infer_bus_create(&w->bus, &bc, &err) != INFER_OK
        || infer_entry_claim(&w->bus, &w->entry) != INFER_OK)
    {
        bail("no world");
    }
    free(file);
    close(fd);
    engine_open(w);
}

static void
world_close(world_t *w)
{
    engine_close(w);
    infer_gguf_close(w->gguf);
    free(w->image);
    close(w->wake_fd);
    close(w->entry_fd);
    infer_bus_unmap(&w->bus, 1);
}

/* Everything that a finished request gave, and its slot back. */
static void
collect(world_t *w, uint32_t k)
{
    uint32_t        i;
    infer_cursor_t  cur = { 0 };

    memset(&got, 0, sizeof(got));
    got.finish = atomic_load(&w->bus.slot[w->ref[k].slot].finish);
    got.n = infer_log_count(&w->bus, w->ref[k]);
    for (i = 0; i < got.n && i < MAX_OUT; i++) {
        if (infer_log_read(&w->bus, w->ref[k], &cur, i, &got.rec[i],
                           got.top[i], request[k].p.top_logprobs)
            != INFER_OK)
        {
            bail("log");
        }
    }
    infer_slot_release(&w->bus, w->entry, w->ref[k]);
    w->state[k] = 2;
}

static int
is_done(const world_t *w, uint32_t k)
{
    return w->state[k] == 1
           && infer_slot_status(&w->bus, w->ref[k]) == INFER_SLOT_DONE;
}

/* Whether what came is what had to come. */
static int
is_right(const world_t *w, uint32_t k)
{
    uint32_t  n = got.n;

    if (n > want[k].n
        || memcmp(got.rec, want[k].rec, n * sizeof(got.rec[0])) != 0
        || memcmp(got.top, want[k].top, n * sizeof(got.top[0])) != 0)
    {
        diag("request %u: another log (%u of %u records)", k, n, want[k].n);
        return 0;
    }
    if ((!w->cut[k] || got.finish == want[k].finish)
        && (n != want[k].n || got.finish != want[k].finish))
    {
        diag("request %u: %u of %u records, finish %u instead of %u", k, n,
             want[k].n, got.finish, want[k].finish);
        return 0;
    }

    return 1;
}

static int
turn(world_t *w)
{
    infer_engine_take(w->e);

    return infer_engine_turn(w->e);
}

/* All that has been given is free again. */
static int
is_empty(world_t *w)
{
    uint32_t  i, left = 0;

    for (i = 0; i < 4; i++) {
        (void) turn(w);
    }
    infer_engine_look_at_all(w->e);
    for (i = 0; i < w->bus.n_slots; i++) {
        left += infer_slot_state(atomic_load(&w->bus.slot[i].state))
                != INFER_SLOT_FREE;
    }

    return left == 0 && infer_kv_used(&w->e->model[0].kv) == 0
           && w->e->n_seqs == 0 && w->e->model[0].n_flying == 0;
}

/* ---- tests ---- */

/* Each request alone, one step at a time. */
static void
reference(void)
{
    uint32_t  k, i, finish[8] = { 0 };
    world_t   w;

    world_open(&w, 1, ROOMY);
    for (k = 0; k < N; k++) {
        make_request(&request[k]);
        submit(&w, k, 0);
        for (i = 0; i < 1000 && !is_done(&w, k); i++) {
            (void) turn(&w);
        }
        collect(&w, k);
        want[k] = got;
        finish[got.finish]++;
    }
    ok(is_empty(&w) && finish[INFER_FINISH_NONE] == 0,
       "one by one: %u stop, %u at their length, %u fail",
       finish[INFER_FINISH_STOP], finish[INFER_FINISH_LENGTH],
       finish[INFER_FINISH_ERROR]);
    world_close(&w);
}

/* Something happens to request k. */
static void
meddle(world_t *w, uint32_t k, uint32_t how)
{
    infer_seq_t  *q = w->e->seq[w->ref[k].slot];

    if (how == 0) {
        atomic_store(&w->bus.slot[w->ref[k].slot].cancel, 1);
        infer_engine_look_at_all(w->e);
        w->cut[k] = 1;

    } else if (q != NULL) {
        atomic_store(&w->bus.slot[w->ref[k].slot].total_deadline_us, 1);
        infer_engine_look_at_all(w->e);
        w->cut[k] = 1;
    }
}

/* All requests at random moments, with `cuts` percent of them cut short and
 * engines that die; pages: few. */
static int
run_all(world_t *w, uint32_t cuts, uint32_t kills)
{
    int       right = 1;
    uint32_t  k, t, left = N;

    for (k = 0; k < N; k++) {
        w->state[k] = 0;
    }
    for (t = 0; t < 20000 && left > 0 && right; t++) {
        k = below(N);
        if (w->state[k] == 0 && chance(40)) {
            submit(w, k, chance(15) ? 2 : 0);
        }
        if (cuts != 0 && w->state[k] == 1 && below(1000) < cuts) {
            meddle(w, k, below(2));
        }
        if (kills != 0 && below(1000) < kills) {
            engine_close(w);
            engine_open(w);
        }
        if (turn(w) < 0) {
            diag("the device failed");
            return 0;
        }
        if (shares(w)) {
            diag("a poisoned one is not alone");
            right = 0;
        }
        for (k = 0; k < N; k++) {
            if (is_done(w, k)) {
                collect(w, k);
                right &= is_right(w, k);
                left--;
            }
        }
    }
    if (left > 0 && right) {
        diag("%u requests do not end", left);
    }

    return right && left == 0 && is_empty(w) && fake.bad == 0;
}

static void
test_runs(uint32_t depth, uint32_t n_pages, uint32_t cuts, uint32_t kills,
    uint32_t n_worlds)
{
    int         good = 1;
    uint32_t    i, preempted = 0;
    world_t     w;

    fake = (fake_conf_t) { 0 };
    for (i = 0; i < n_worlds && good; i++) {
        fake.when = (int) (i % 3);
        world_open(&w, depth, n_pages);
        if (i % 2) {
            /* enough for biases and bans, not for penalties */
            w.max_edits = 12;
            engine_close(&w);
            engine_open(&w);
        }
        good = run_all(&w, cuts, kills);
        preempted += w.e->model[0].sched.preemptions;
        world_close(&w);
    }
    ok(good, "depth %u, %u pages, cuts %u, kills %u: %u steps, %u rows ahead, "
       "%u preempted", depth, n_pages, cuts, kills, fake.steps, fake.ahead,
       preempted);
    ok(fake.most == depth && (depth == 1) == (fake.ahead == 0)
       && fake.by_host > 0, "as many steps at once as can be, %u rows by the "
       "host", fake.by_host);
    n_preempted += preempted;
}

/* The device breaks, in a step or with what it has sampled or not: what was
 * published stays, the next engine goes on. */
static void
test_broken(uint32_t fail_step, uint32_t lose_turn, uint32_t depth)
{
    int       rc = 0, good = 1;
    uint32_t  k, i;
    world_t   w;

    fake = (fake_conf_t) { .when = FAKE_LAZY, .fail_step = fail_step };
    world_open(&w, depth, ROOMY);
    for (k = 0; k < SEQS; k++) {
        submit(&w, k, 0);
    }
    for (i = 0; i < 100 && rc >= 0; i++) {
        fake.lose = lose_turn != 0 && i >= lose_turn;
        rc = turn(&w);
    }
    ok(rc == INFER_DEVICE, "depth %u: a step that fails is the engine's end",
       depth);
    engine_close(&w);
    fake.fail_step = 0;
    fake.lose = 0;
    engine_open(&w);
    for (i = 0; i < 1000; i++) {
        (void) turn(&w);
    }
    for (k = 0; k < SEQS; k++) {
        if (!is_done(&w, k)) {
            good = 0;
            continue;
        }
        collect(&w, k);
        good &= is_right(&w, k);
    }
    ok(good && is_empty(&w), "the next one goes on where it was");
    world_close(&w);
}

int
main(void)
{
    const char  *seed = getenv("SEED");
    uint32_t     i, rounds = getenv("INFER_QUICK") != NULL ? 1 : 3;

    rng = seed != NULL ? strtoull(seed, NULL, 10) : 1;
    diag("SEED=%llu", (unsigned long long) rng);
    rng = rng * 0x9e3779b97f4a7c15ull + 12345;

    for (i = 0; i < rounds; i++) {
        reference();
        test_runs(1, ROOMY, 0, 0, 1);
        test_runs(1, FEW, 3, 3, 3);
        test_runs(2, ROOMY, 0, 0, 6);
        test_runs(2, FEW, 0, 0, 6);
        test_runs(2, ROOMY, 5, 0, 6);
        test_runs(2, FEW, 5, 0, 6);
        test_runs(2, FEW, 3, 3, 6);
        test_broken(12, 0, 2);
        test_broken(0, 10, 2);
        test_broken(0, 10, 1);
    }

    ok(n_preempted > 0, "some were preempted");

    return tap_done();
}
