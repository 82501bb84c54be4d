/*
 * test_engine.c: the real engine process on a tiny model, from the side of a
 * worker: streams, stop conditions, cancels, deadlines, few pages, kill -9
 * and restart, poisoned slots, hostile slots, and how it ends.
 */

#include "engine_site.h"

#define N  8

/* Memory of the test, too large for a stack. */
typedef struct {
    site_t      s;
    site_out_t  want[N], got;
} test_t;

static const site_conf_t  roomy = { 2048, 8, 64, 1024 };


static infer_sampling_t
params(uint32_t k, uint32_t max_tokens)
{
    infer_sampling_t  p = site_greedy(max_tokens);

    if (k % 2) {
        p.temperature = 1;
        p.seed = 1000 + k;
        p.top_p = 0.95f;
        p.presence_penalty = 0.5f;
    }

    return p;
}

static int
same(const site_out_t *a, const site_out_t *b)
{
    return a->finish == b->finish && a->n == b->n
           && memcmp(a->rec, b->rec, a->n * sizeof(a->rec[0])) == 0;
}

static void
ready(test_t *t)
{
    if (site_wait_word(&t->s.bus.hdr->engine_state, INFER_ENGINE_READY, 30000)
        < 0)
    {
        site_bail("the engine does not get ready (state %u)",
                  atomic_load(&t->s.bus.hdr->engine_state));
    }
}

/* The answers of N requests, each run alone: what every later test wants. */
static void
test_alone(test_t *t)
{
    uint32_t          k, i, bad = 0;
    infer_sampling_t  p;
    site_out_t       *o;

    site_open(&t->s, &roomy);
    site_start(&t->s);
    ready(t);
    ok(atomic_load(&t->s.bus.hdr->engine_starts) == 1
       && atomic_load(&t->s.bus.hdr->load_percent) == 100
       && atomic_load(&t->s.bus.model[0].loaded) == 1
       && atomic_load(&t->s.bus.hdr->numerics) != 0, "the engine is ready");

    for (k = 0; k < N; k++) {
        p = params(k, 200);
        site_finish(&t->s, site_request(&t->s, 20 + 13 * k, k, &p),
                    &t->want[k]);
        o = &t->want[k];
        bad += o->finish != INFER_FINISH_LENGTH || o->n != 200
               || o->rec[199].flags != INFER_REC_END;
        for (i = 1; i < o->n; i++) {
            bad += o->rec[i].visible < o->rec[i - 1].visible
                   || (i < 199 && o->rec[i].flags != 0);
        }
    }
    ok(bad == 0, "%d requests have 200 tokens each and one end", N);
    ok(!same(&t->want[0], &t->want[1]), "that differ");
    ok(site_all_free(&t->s), "released slots, blocks and pages are free");
}

static void
submit_all(test_t *t, infer_ref_t ref[N])
{
    uint32_t          k;
    infer_sampling_t  p;

    for (k = 0; k < N; k++) {
        p = params(k, 200);
        ref[k] = site_fill(&t->s, 20 + 13 * k, k, &p);
    }
    for (k = 0; k < N; k++) {
        site_submit(&t->s, ref[k]);
    }
}

static uint32_t
finish_all(test_t *t, infer_ref_t ref[N])
{
    uint32_t  k, n = 0;

    for (k = 0; k < N; k++) {
        site_finish(&t->s, ref[k], &t->got);
        n += same(&t->got, &t->want[k]);
    }

    return n;
}

static void
test_together(test_t *t)
{
    infer_ref_t         ref[N];
    infer_bus_stats_t  *st = t->s.bus.stats;

    submit_all(t, ref);
    ok(finish_all(t, ref) == N, "together they say the same");
    ok(site_all_free(&t->s), "everything is free again");
    ok(atomic_load(&st->output_tokens) == 2 * N * 200
       && atomic_load(&st->finished[INFER_FINISH_LENGTH]) == 2 * N
       && atomic_load(&st->ttft.count) == 2 * N
       && atomic_load(&st->e2e.count) == 2 * N
       && atomic_load(&st->queue.count) == 2 * N
       && atomic_load(&st->itl.count) == 2 * N * 199,
       "and the statistics know it");
}

static void
test_stops(test_t *t)
{
    int32_t           id;
    char              stop[2 + 64];
    size_t            len;
    uint16_t          n;
    uint32_t          i;
    const char       *piece;
    infer_ref_t       ref;
    infer_err_t       err;
    infer_text_t     *text;
    infer_sampling_t  p = params(0, 200);
    void             *image;
    off_t             bytes = lseek(t->s.image_fd, 0, SEEK_END);

    /* a stop id */
    id = t->want[0].rec[5].id;
    for (i = 0; t->want[0].rec[i].id != id; i++) {
        continue;
    }
    ref = site_fill(&t->s, 20, 0, &p);
    (void) infer_slot_put(&t->s.bus, ref, INFER_EXT_STOP_IDS, &id, 4);
    t->s.bus.slot[ref.slot].n_stop_ids = 1;
    site_submit(&t->s, ref);
    site_finish(&t->s, ref, &t->got);
    ok(t->got.finish == INFER_FINISH_STOP && t->got.n == i + 1
       && t->got.rec[i].id == id
       && t->got.rec[i].flags == (INFER_REC_END | INFER_REC_HIDDEN),
       "a stop id ends it, as a hidden token");

    /* a stop string: the first piece of at least one byte */
    image = mmap(NULL, (size_t) bytes, PROT_READ, MAP_SHARED, t->s.image_fd,
                 0);
    if (image == MAP_FAILED
        || infer_text_open(&text, image, (size_t) bytes, &err) != INFER_OK)
    {
        site_bail("image");
    }
    piece = infer_text_piece(text, t->want[0].rec[0].id, 0, &len);
    n = (uint16_t) (len > 64 ? 64 : len);
    memcpy(stop, &n, 2);
    memcpy(stop + 2, piece, n);
    infer_text_close(text);
    munmap(image, (size_t) bytes);

    ref = site_fill(&t->s, 20, 0, &p);
    (void) infer_slot_put(&t->s.bus, ref, INFER_EXT_STOPS, stop, n + 2u);
    t->s.bus.slot[ref.slot].n_stops = 1;
    site_submit(&t->s, ref);
    site_finish(&t->s, ref, &t->got);
    ok(t->got.finish == INFER_FINISH_STOP && t->got.n == 1
       && t->got.rec[0].flags == (INFER_REC_END | INFER_REC_STOP)
       && t->got.rec[0].visible == 0, "a stop string ends it, unseen");

    /* the context */
    p = site_greedy(1000);
    site_finish(&t->s, site_request(&t->s, 1500, 3, &p), &t->got);
    ok(t->got.finish == INFER_FINISH_LENGTH && t->got.n == 548,
       "the context ends it (%u tokens)", t->got.n);
}

static void
test_cancel(test_t *t)
{
    infer_ref_t       ref, other;
    infer_sampling_t  p = site_greedy(1500);

    ref = site_request(&t->s, 10, 1, &p);
    (void) site_wait_records(&t->s, ref, 20, 10000);
    site_release(&t->s, ref);
    ok(site_wait_word(&t->s.bus.model[0].running, 0, 1000) >= 0
       && !infer_slot_valid(&t->s.bus, ref),
       "a generation without a reader stops");

    ref = site_request(&t->s, 10, 1, &p);
    (void) site_wait_records(&t->s, ref, 20, 10000);
    atomic_store(&t->s.bus.slot[ref.slot].cancel, 1);
    atomic_fetch_or(&t->s.bus.entry[t->s.entry].submitted[0],
                    1ull << ref.slot);
    site_wake(&t->s);
    site_finish(&t->s, ref, &t->got);
    ok(t->got.finish == INFER_FINISH_CANCELLED && t->got.n < 1500,
       "a cancelled one says so to its reader");

    p = site_greedy(10);
    other = site_fill(&t->s, 1500, 2, &p);
    site_submit(&t->s, other);
    site_release(&t->s, other);
    ok(site_all_free(&t->s), "also before it has started");
}

static void
test_hostile(test_t *t)
{
    uint32_t          k, bad = 0;
    int32_t           id = 1 << 20;
    infer_ref_t       ref;
    infer_slot_t     *slot;
    infer_sampling_t  p = site_greedy(10);

    for (k = 0; k < 12; k++) {
        ref = site_fill(&t->s, 30, k, &p);
        slot = &t->s.bus.slot[ref.slot];
        switch (k) {
        case 0: slot->n_prompt = 0; break;
        case 1: slot->n_prompt = 31; break;
        case 2: slot->n_prompt = UINT32_MAX; break;
        case 3: slot->model = 7; break;
        case 4: slot->stride = 0; break;
        case 5: slot->max_records = 0; break;
        case 6: slot->sampling.temperature = -1; break;
        case 7: slot->ext[INFER_EXT_PROMPT].first = 1u << 30; break;
        case 8: slot->n_stops = 3; break;
        case 9: slot->n_stop_ids = 1000; break;
        case 10: slot->sampling.top_logprobs = 4000; break;
        default:
            (void) infer_slot_put(&t->s.bus, ref, INFER_EXT_PROMPT, &id, 4);
            slot->n_prompt = 1;
        }
        site_submit(&t->s, ref);
        site_finish(&t->s, ref, &t->got);
        if (t->got.finish != INFER_FINISH_ERROR || t->got.error[0] == '\0') {
            diag("case %u: finish %u \"%s\"", k, t->got.finish,
                 t->got.error);
            bad++;
        }
    }
    ok(bad == 0, "twelve damaged slots fail with a sentence");
    ok(site_wait_exit(t->s.pid, 1) == -1, "and the engine lives");
}

static void
test_deadlines(test_t *t)
{
    infer_ref_t       ref;
    infer_sampling_t  p = site_greedy(1900);

    ref = site_fill(&t->s, 20, 1, &p);
    t->s.bus.slot[ref.slot].total_deadline_us = infer_now_us() + 50000;
    site_submit(&t->s, ref);
    site_finish(&t->s, ref, &t->got);
    ok(t->got.finish == INFER_FINISH_TIMEOUT && t->got.n < 1900,
       "total time over (%u tokens)", t->got.n);

    ref = site_fill(&t->s, 20, 1, &p);
    t->s.bus.slot[ref.slot].queue_deadline_us = infer_now_us();
    site_submit(&t->s, ref);
    site_finish(&t->s, ref, &t->got);
    ok(t->got.finish == INFER_FINISH_TIMEOUT_QUEUE && t->got.n == 0,
       "queue time over");
}

static void
test_kill(test_t *t)
{
    uint32_t     round, good = 0, left = 0;
    infer_ref_t  ref[N];

    for (round = 0; round < 3; round++) {
        submit_all(t, ref);
        (void) site_wait_records(&t->s, ref[0], 10 + 60 * round, 10000);
        site_kill(&t->s);
        left += infer_log_count(&t->s.bus, ref[0]) < 200;
        site_start(&t->s);
        good += finish_all(t, ref);
    }
    ok(left > 0, "the engine was killed in the middle");
    ok(good == 3 * N, "after kill -9 every answer is what it would have been "
       "(%u of %u)", good, 3 * N);
    ok(site_all_free(&t->s), "nothing is lost");

    /* killed while nothing ran, submitted while nobody was there */
    site_kill(&t->s);
    submit_all(t, ref);
    site_start(&t->s);
    ok(finish_all(t, ref) == N, "what was submitted meanwhile is served");
}

static void
test_poison(test_t *t)
{
    infer_ref_t    ref;
    infer_slot_t  *slot;
    infer_sampling_t  p = params(3, 200);

    /* as if it had been in the batch of two engines that died, then three */
    ready(t);
    site_kill(&t->s);
    ref = site_request(&t->s, 20 + 13 * 3, 3, &p);
    slot = &t->s.bus.slot[ref.slot];
    (void) infer_slot_advance(&t->s.bus, ref, INFER_SLOT_SUBMITTED,
                              INFER_SLOT_RUNNING);
    atomic_store(&slot->deaths, 1);
    atomic_store(&slot->in_batch, 1);
    site_start(&t->s);
    site_finish(&t->s, ref, &t->got);
    ok(same(&t->got, &t->want[3]), "after two deaths it runs");
    ok(atomic_load(&slot->deaths) == 0, "and publishing clears it");

    ready(t);
    site_kill(&t->s);
    ref = site_request(&t->s, 20 + 13 * 3, 3, &p);
    slot = &t->s.bus.slot[ref.slot];
    (void) infer_slot_advance(&t->s.bus, ref, INFER_SLOT_SUBMITTED,
                              INFER_SLOT_RUNNING);
    atomic_store(&slot->deaths, 2);
    atomic_store(&slot->in_batch, 1);
    site_start(&t->s);
    site_finish(&t->s, ref, &t->got);
    ok(t->got.finish == INFER_FINISH_ERROR && t->got.n == 0,
       "after three it fails");
}

/* An end that was logged counts, though the engine died before it said so. */
static void
test_logged_end(test_t *t)
{
    infer_ref_t       ref;
    infer_cursor_t    cur = { 0 };
    infer_record_t    rec = t->want[0].rec[0];
    infer_sampling_t  p = params(0, 200);

    ready(t);
    site_kill(&t->s);
    ref = site_request(&t->s, 20, 0, &p);
    (void) infer_slot_advance(&t->s.bus, ref, INFER_SLOT_SUBMITTED,
                              INFER_SLOT_RUNNING);
    (void) infer_log_append(&t->s.bus, ref, &cur, &rec, NULL);
    rec.flags = INFER_REC_END | INFER_REC_STOP;
    (void) infer_log_append(&t->s.bus, ref, &cur, &rec, NULL);
    site_start(&t->s);
    site_finish(&t->s, ref, &t->got);
    ok(t->got.finish == INFER_FINISH_STOP && t->got.n == 2,
       "a logged end is honoured");
}

static void
test_exits(test_t *t)
{
    pid_t  pid;

    ready(t);
    pid = site_spawn(&t->s, infer_build_id());
    ok(site_wait_exit(pid, 5000) == INFER_EXIT_TAKEN,
       "a second engine on the bus ends at once");
    pid = site_spawn(&t->s, "another");
    ok(site_wait_exit(pid, 5000) == INFER_EXIT_BUILD,
       "so does one of another build");

    (void) kill(t->s.pid, SIGTERM);
    ok(site_wait_exit(t->s.pid, 5000) == INFER_EXIT_OK, "SIGTERM");
    site_start(&t->s);
    ready(t);
    (void) close(t->s.lifeline[1]);
    t->s.lifeline[1] = -1;
    ok(site_wait_exit(t->s.pid, 5500) == INFER_EXIT_OK,
       "the end of the lifeline");
    t->s.pid = 0;
    site_close(&t->s);
}

/* 12 pages for 4 sequences that need 7 each. */
static void
test_few_pages(test_t *t)
{
    uint32_t           k, good = 0;
    infer_ref_t        ref[4];
    infer_sampling_t   p;
    const site_conf_t  tight = { 320, 4, 32, 12 };

    site_open(&t->s, &tight);
    site_start(&t->s);
    for (k = 0; k < 4; k++) {
        p = params(k, 200);
        ref[k] = site_request(&t->s, 20 + 13 * k, k, &p);
    }
    for (k = 0; k < 4; k++) {
        site_finish(&t->s, ref[k], &t->got);
        good += same(&t->got, &t->want[k]);
    }
    ok(good == 4, "with few pages the answers are the same");
    ok(atomic_load(&t->s.bus.model[0].preemptions) > 0,
       "though some were preempted (%u times)",
       atomic_load(&t->s.bus.model[0].preemptions));
    ok(site_all_free(&t->s)
       && atomic_load(&t->s.bus.model[0].pages_peak) <= 12, "pages");

    /* a retired bus ends its engine when it is drained */
    p = params(0, 200);
    ref[0] = site_request(&t->s, 20, 0, &p);
    atomic_store(&t->s.bus.hdr->retired, 1);
    site_finish(&t->s, ref[0], &t->got);
    ok(same(&t->got, &t->want[0]), "a retired bus is drained");
    ok(site_wait_exit(t->s.pid, 7000) == INFER_EXIT_OK, "then its engine ends");
    t->s.pid = 0;
    site_close(&t->s);
}

static void
test_load_fails(test_t *t)
{
    infer_log_rec_t  rec;

    site_open(&t->s, &roomy);
    if (ftruncate(t->s.model_fd, 100000) != 0) {
        site_bail("ftruncate");
    }
    site_start(&t->s);
    ok(site_wait_exit(t->s.pid, 10000) == INFER_EXIT_FAILED
       && atomic_load(&t->s.bus.hdr->engine_state) == INFER_ENGINE_FAILED,
       "a truncated model fails");
    ok(infer_ring_take(&t->s.bus, &rec) == 1
       && strncmp(rec.text, "infer engine failed: ", 21) == 0,
       "and the log says why: %s", rec.text);
    t->s.pid = 0;
    site_close(&t->s);
}

int
main(void)
{
    test_t  *t = calloc(1, sizeof(*t));

    if (t == NULL) {
        site_bail("no memory");
    }

    test_alone(t);
    test_together(t);
    test_stops(t);
    test_cancel(t);
    test_hostile(t);
    test_deadlines(t);
    test_kill(t);
    test_poison(t);
    test_logged_end(t);
    test_exits(t);
    test_few_pages(t);
    test_load_fails(t);
    free(t);

    return tap_done();
}
