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

static const site_conf_t  roomy = { 2048, 8, 64, 1024, 1, 0, 0 };


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

/* Text of the first records of an answer, as far as it is shown with them. */
static size_t
shown(const infer_text_t *text, const site_out_t *o, uint32_t n, char *to,
    size_t most)
{
    size_t           len, at = 0;
    uint32_t         i;
    const char      *out;
    infer_stream_t  *st;

    if (infer_stream_new(&st, text, NULL, NULL, 0, 0) != INFER_OK) {
        site_bail("no memory");
    }
    for (i = 0; i < n; i++) {
        (void) infer_stream_put(st, o->rec[i].id, 0, &out, &len);
        len = len < most - at ? len : most - at;
        memcpy(to + at, out, len);
        at += len;
    }
    infer_stream_free(st);

    return at;
}

/* One stop string is there, another that begins before it may still come:
 * the last token that there may be decides. */
static void
test_stop_at_end(test_t *t, const infer_text_t *text)
{
    char              stop[2 * (2 + 255)];
    size_t            len = shown(text, &t->want[0], 8, stop + 2, 254);
    uint16_t          n = (uint16_t) (len + 1), m = (uint16_t) (len - 1);
    infer_ref_t       ref;
    infer_sampling_t  p = params(0, 8);

    memcpy(stop, &n, 2);
    stop[2 + len] = '\1';
    memcpy(stop + 2 + n, &m, 2);
    memcpy(stop + 2 + n + 2, stop + 3, m);

    ref = site_fill(&t->s, 20, 0, &p);
    (void) infer_slot_put(&t->s.bus, ref, INFER_EXT_STOPS, stop,
                          2u + n + 2u + m);
    t->s.bus.slot[ref.slot].n_stops = 2;
    site_submit(&t->s, ref);
    site_finish(&t->s, ref, &t->got);
    ok(len > 2 && t->got.finish == INFER_FINISH_STOP && t->got.n == 8
       && t->got.rec[7].flags == (INFER_REC_END | INFER_REC_STOP)
       && t->got.rec[7].visible == 1,
       "one that waits for another is a stop at the last token, too");
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
    test_stop_at_end(t, text);
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
    int               i, early;
    infer_ref_t       ref, other;
    infer_sampling_t  p = site_greedy(1500);

    ref = site_request(&t->s, 10, 1, &p);
    (void) site_wait_records(&t->s, ref, 20, 10000);
    site_release(&t->s, ref);
    for (i = 0; i < 5000 && infer_slot_valid(&t->s.bus, ref); i++) {
        usleep(1000);
    }
    ok(!infer_slot_valid(&t->s.bus, ref)
       && site_wait_word(&t->s.bus.model[0].running, 0, 1000) >= 0,
       "a generation without a reader stops");

    /* on a busy machine it may be over before we get to cancel it */
    for (i = 0; i < 50; i++) {
        ref = site_request(&t->s, 10, 1, &p);
        (void) site_wait_records(&t->s, ref, 20, 10000);
        atomic_store(&t->s.bus.slot[ref.slot].cancel, 1);
        early = infer_slot_status(&t->s.bus, ref) == INFER_SLOT_RUNNING
                && infer_log_count(&t->s.bus, ref) < 1000;
        atomic_fetch_or(&t->s.bus.entry[t->s.entry].submitted[0],
                        1ull << ref.slot);
        site_wake(&t->s);
        site_finish(&t->s, ref, &t->got);
        if (early) {
            break;
        }
    }
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
    infer_terms_t     later = { 0, 0, 0, 1 };
    infer_sampling_t  p = site_greedy(1900);

    ref = site_fill(&t->s, 20, 1, &p);
    t->s.bus.slot[ref.slot].total_deadline_us = infer_now_us() + 8000;
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

    ref = site_fill(&t->s, 20, 1, &p);
    t->s.bus.slot[ref.slot].total_deadline_us = infer_now_us() + 8000;
    site_submit(&t->s, ref);
    ok(infer_slot_raise(&t->s.bus, t->s.entry, ref, &later) == 1,
       "a reader with more time comes");
    site_wake(&t->s);
    site_finish(&t->s, ref, &t->got);
    ok(t->got.finish == INFER_FINISH_LENGTH && t->got.n == 1900,
       "and it goes on to its end");

    /* the deadline is over when the engine first sees that it has moved */
    site_kill(&t->s);
    ref = site_fill(&t->s, 20, 1, &p);
    t->s.bus.slot[ref.slot].queue_deadline_us = infer_now_us();
    site_submit(&t->s, ref);
    (void) infer_slot_raise(&t->s.bus, t->s.entry, ref, &later);
    site_start(&t->s);
    site_finish(&t->s, ref, &t->got);
    ok(t->got.finish == INFER_FINISH_LENGTH, "so does one that waits");
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
    const site_conf_t  tight = { 320, 4, 32, 12, 1, 0, 0 };

    site_open(&t->s, &tight);
    site_start(&t->s);
    ready(t);
    (void) kill(t->s.pid, SIGSTOP);        /* it finds all four at once */
    for (k = 0; k < 4; k++) {
        p = params(k, 200);
        ref[k] = site_request(&t->s, 20 + 13 * k, k, &p);
    }
    (void) kill(t->s.pid, SIGCONT);
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

/* q8 pages: answers of their own, the same ones alone, together and after a
 * preemption. */
static void
test_kv_type(test_t *t)
{
    uint32_t           i, k, good = 0, differ = 0;
    infer_ref_t        ref[4];
    infer_sampling_t   p;
    site_out_t        *alone = calloc(4, sizeof(*alone));
    const site_conf_t  conf[2] = {
        { .context = 2048, .sequences = 8, .batch_tokens = 64,
          .n_pages = 1024, .n_models = 1, .kv_type = 2 },
        { .context = 320, .sequences = 4, .batch_tokens = 32, .n_pages = 12,
          .n_models = 1, .kv_type = 2 }
    };

    if (alone == NULL) {
        site_bail("no memory");
    }
    for (i = 0; i < 2; i++) {
        site_open(&t->s, &conf[i]);
        site_start(&t->s);
        for (k = 0; k < 4; k++) {
            p = params(k, 200);
            ref[k] = site_request(&t->s, 20 + 13 * k, k, &p);
            if (i == 0) {
                site_finish(&t->s, ref[k], &alone[k]);
                differ += !same(&alone[k], &t->want[k]);
            }
        }
        for (k = 0; i == 1 && k < 4; k++) {
            site_finish(&t->s, ref[k], &t->got);
            good += same(&t->got, &alone[k]);
        }
        ok(atomic_load(&t->s.bus.hdr->numerics) >> 8 == 2,
           "the numerics id has the KV type");
        if (i == 1) {
            ok(atomic_load(&t->s.bus.model[0].preemptions) > 0,
               "sequences with q8 pages were preempted");
        }
        site_close(&t->s);
    }
    ok(good == 4 && differ > 0, "answers with q8 pages are their own, and the "
       "same with few pages (%u, %u)", good, differ);
    free(alone);
}

/* A worker that is killed takes its own generations with it. */
static void
test_worker_dies(test_t *t)
{
    int               ready_pipe[2];
    char              c;
    pid_t             pid;
    infer_ref_t       ref;
    infer_sampling_t  p = site_greedy(1900);

    if (pipe(ready_pipe) != 0) {
        site_bail("pipe");
    }
    pid = fork();
    if (pid == 0) {
        (void) infer_entry_claim(&t->s.bus, &t->s.entry);
        (void) site_request(&t->s, 20, 1, &p);
        (void) site_fill(&t->s, 20, 1, &p);      /* claimed only */
        (void) !write(ready_pipe[1], "x", 1);
        for ( ;; ) {
            pause();
        }
    }

    (void) !read(ready_pipe[0], &c, 1);
    p = params(1, 200);
    ref = site_request(&t->s, 20 + 13, 1, &p);
    (void) kill(pid, SIGKILL);
    (void) site_wait_exit(pid, 5000);
    site_finish(&t->s, ref, &t->got);
    ok(same(&t->got, &t->want[1]), "another worker's answer is not touched");
    ok(site_all_free(&t->s), "the dead worker's slots are freed");
    ok(atomic_load(&t->s.bus.entry[1].state) == INFER_ENTRY_FREE,
       "and so is its entry");
    (void) close(ready_pipe[0]);
    (void) close(ready_pipe[1]);
}

/* An engine dies while it gives back what a slot had. */
static void
test_dies_freeing(test_t *t)
{
    uint32_t           i, n = 0, left = 0;
    uint64_t           bits[INFER_BITMAP_WORDS];
    infer_bus_t       *bus = &t->s.bus;
    infer_ref_t        ref;
    infer_sampling_t   p = site_greedy(1900);
    const site_conf_t  conf = { 2048, 4, 64, 256, 1, 0, 0 };

    site_open(&t->s, &conf);
    ref = site_fill(&t->s, 20, 1, &p);
    infer_slot_submit(bus, t->s.entry, ref);
    for (i = 0; i < bus->n_blocks; i++) {
        n += atomic_load(&bus->owner[i]) != 0;
    }
    i = bus->slot[ref.slot].ext[INFER_EXT_LOG].first;
    atomic_store(&bus->owner[i], 0);
    atomic_store(&bus->slot[ref.slot].state,
                 infer_slot_word(ref.generation, INFER_SLOT_CLOSING));

    site_start(&t->s);
    (void) site_wait_word(&bus->hdr->engine_state, INFER_ENGINE_READY, 10000);
    for (i = 0; i < bus->n_blocks; i++) {
        left += atomic_load(&bus->owner[i]) != 0;
    }
    ok(n > 3 && left == 0, "an engine dies freeing a slot: the next gives "
       "back all of its %u blocks (%u left)", n, left);
    ok(!infer_slot_valid(bus, ref)
       && infer_entry_news(bus, t->s.entry, bits) == 1
       && bits[0] == 1ull << ref.slot, "and tells a reader");
    site_close(&t->s);
}

/* One that died READY: the next is not, from the moment it has the lock. */
static void
test_not_yet_ready(test_t *t)
{
    int                alive;
    uint32_t           state, starts, early = 0;
    uint64_t           end_us;
    infer_bus_t       *bus = &t->s.bus;
    const site_conf_t  conf = { 2048, 4, 64, 256, 1, 0, 0 };

    site_open(&t->s, &conf);
    site_start(&t->s);
    (void) site_wait_word(&bus->hdr->engine_state, INFER_ENGINE_READY, 10000);
    site_kill(&t->s);
    site_start(&t->s);
    end_us = infer_now_us() + 5000000;
    do {
        alive = infer_lock_alive(bus->fd, INFER_LOCK_ENGINE);
        state = atomic_load(&bus->hdr->engine_state);
        starts = atomic_load(&bus->hdr->engine_starts);
        early += alive && state == INFER_ENGINE_READY && starts == 1;
    } while (starts == 1 && infer_now_us() < end_us);
    /* its two steps take less time than a few of our looks */
    ok(starts == 2 && early < 5,
       "a new engine is not taken for one that is ready (%u)", early);
    site_close(&t->s);
}

static void
test_two_models(test_t *t)
{
    uint32_t           k, good = 0;
    infer_ref_t        ref[N];
    infer_sampling_t   p;
    const site_conf_t  conf = { 2048, 4, 64, 256, 2, 0, 0 };

    site_open(&t->s, &conf);
    site_start(&t->s);
    for (k = 0; k < N; k++) {
        p = params(k, 200);
        ref[k] = site_fill(&t->s, 20 + 13 * k, k, &p);
        t->s.bus.slot[ref[k].slot].model = k % 2;
        site_submit(&t->s, ref[k]);
    }
    good = finish_all(t, ref);
    ok(good == N, "two models in one engine answer (%u)", good);
    ok(atomic_load(&t->s.bus.model[0].pages_peak) > 0
       && atomic_load(&t->s.bus.model[1].pages_peak) > 0, "both");
    site_close(&t->s);
}

static void
test_nan(test_t *t)
{
    int32_t            id[40];
    uint32_t           k, bad = 0;
    infer_ref_t        ref[4];
    infer_sampling_t   p = site_greedy(100);
    const site_conf_t  conf = { 2048, 4, 64, 64, 1, 1, 0 };

    site_open(&t->s, &conf);
    site_start(&t->s);
    for (k = 0; k < 3; k++) {
        site_finish(&t->s, site_request(&t->s, 40, k, &p), &t->want[k]);
    }

    for (k = 0; k < 4; k++) {
        ref[k] = site_fill(&t->s, 40, k, &p);
    }
    site_prompt(id, 40, 3);
    id[20] = conf.nan_token;
    (void) infer_slot_put(&t->s.bus, ref[3], INFER_EXT_PROMPT, id, 160);
    for (k = 0; k < 4; k++) {
        site_submit(&t->s, ref[3 - k]);
    }

    for (k = 0; k < 3; k++) {
        site_finish(&t->s, ref[k], &t->got);
        bad += !same(&t->got, &t->want[k]);
    }
    site_finish(&t->s, ref[3], &t->got);
    ok(t->got.finish == INFER_FINISH_ERROR && t->got.n == 0,
       "not a number: %s", t->got.error);
    ok(bad == 0, "fails that sequence only");

    for (k = 0; k < 3; k++) {
        site_finish(&t->s, site_request(&t->s, 40, k, &p), &t->got);
        bad += !same(&t->got, &t->want[k]);
    }
    ok(bad == 0, "and its pages do no harm to those who get them next");
    site_close(&t->s);
}

/* ---- --check ---- */

/* Runs the check with two more words; the answer without its newline. */
static int
check(site_t *s, const char *a, const char *b, char *line, size_t cap)
{
    int      out[2], code;
    char     file[32], image[32];
    ssize_t  n;
    pid_t    pid;

    if (pipe(out) != 0 || ftruncate(s->entry_fd, 0) != 0) {
        site_bail("pipe: %s", strerror(errno));
    }
    snprintf(file, sizeof(file), "file=%d", s->model_fd);
    snprintf(image, sizeof(image), "image=%d", s->entry_fd);

    pid = fork();
    if (pid == 0) {
        (void) dup2(out[1], 1);
        (void) fcntl(s->model_fd, F_SETFD, 0);
        (void) fcntl(s->entry_fd, F_SETFD, 0);
        (void) execl(s->engine, "ngx_infer_engine", "--check", file, image,
                     a, b, (char *) NULL);
        _exit(99);
    }

    (void) close(out[1]);
    n = read(out[0], line, cap - 1);
    line[n > 0 ? n - 1 : 0] = '\0';
    (void) close(out[0]);
    code = site_wait_exit(pid, 20000);

    return code;
}

static void
test_check(void)
{
    static const struct {
        const char  *a, *b, *says;
    } bad[] = {
        { "context=4096", "name=x", "context of 4096 tokens is more than the "
          "2048 that the model was made for" },
        { "context=2048", "kv_bytes=65536", "context of 2048 tokens needs "
          "524288 bytes of KV cache, but there are only 65536" },
        { "sequences=64", "batch_tokens=32", "batch_tokens of 32 must be at "
          "least the 64 sequences and at most 65536" },
        { "sequences=5000", "name=x", "5000 sequences are more than the 1024 "
          "that are possible" },
        { "kv_bytes=1000000000000000", "name=x", "kv_cache of "
          "1000000000000000 bytes does not fit the memory" },
        { "threads=1000", "name=x", "1000 threads are more than the 256 that "
          "are possible" },
        { "device=abacus", "name=x", "unknown device \"abacus\"" },
        { "device=cuda:", "name=x", "unknown device \"cuda:\"" },
        { "device=cuda:x", "name=x", "unknown device \"cuda:x\"" },
        { "precision=q9", "name=x", "unknown precision \"q9\"" },
        { "precision=fp8", "name=x", "precision \"fp8\" needs \"device "
          "cuda\"" },
        { "kv_type=fp8", "name=x", "KV type \"fp8\" needs \"device cuda\"" },
        { "kv_type=q9", "name=x", "unknown KV type \"q9\"" },
        { "isa=abacus", "name=x", "unknown instruction set \"abacus\"" },
        { "context=-5", "name=x", "bad argument \"context=-5\"" },
        { "colour=1", "name=x", "unknown argument \"colour=1\"" }
    };
    char      line[1024];
    size_t    i;
    site_t    s;

    memset(&s, 0, sizeof(s));
    site_find_engine(&s);
    site_model(&s, &roomy);
    s.entry_fd = memfd_create("image", MFD_CLOEXEC);

    ok(check(&s, "context=0", "template=-1", line, sizeof(line)) == 0
       && strcmp(line, "ok context=2048 sequences=32 batch_tokens=512 "
                 "n_pages=2048 page_bytes=8192 vocab=512 tensor_bytes=135808 "
                 "n_params=139584 train_context=2048 template=1") == 0,
       "check: %s", line);
    ok(lseek(s.entry_fd, 0, SEEK_END) == lseek(s.image_fd, 0, SEEK_END),
       "with the text image");
    ok(check(&s, "kv_bytes=65536", "sequences=4", line, sizeof(line)) == 0
       && strncmp(line, "ok context=256 sequences=4 batch_tokens=512 "
                  "n_pages=8 ", 54) == 0,
       "a small cache makes a small context: %.54s", line);

    ok(check(&s, "kv_type=q8", "kv_bytes=65536", line, sizeof(line)) == 0
       && strstr(line, "context=448 ") != NULL
       && strstr(line, "n_pages=14 page_bytes=4608 ") != NULL,
       "q8 pages are smaller: %.80s", line);
    ok(check(&s, "kv_type=bf16", "name=x", line, sizeof(line)) == 0
       && strstr(line, "page_bytes=8192 ") != NULL, "bf16 pages");

    for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        ok(check(&s, bad[i].a, bad[i].b, line, sizeof(line)) == 1
           && strncmp(line, "error ", 6) == 0
           && strncmp(line + 6, bad[i].says, strlen(bad[i].says)) == 0,
           "check: %s", line);
    }

    (void) ftruncate(s.model_fd, 5000);
    ok(check(&s, "context=0", "name=x", line, sizeof(line)) == 1
       && strncmp(line, "error truncated", 15) == 0, "check: %s", line);
    (void) close(s.model_fd);
    (void) close(s.image_fd);
    (void) close(s.entry_fd);
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
    test_worker_dies(t);
    test_deadlines(t);
    test_kill(t);
    test_poison(t);
    test_logged_end(t);
    test_exits(t);
    test_few_pages(t);
    test_kv_type(t);
    test_load_fails(t);
    test_dies_freeing(t);
    test_not_yet_ready(t);
    test_two_models(t);
    test_nan(t);
    test_check();
    free(t);

    return tap_done();
}
