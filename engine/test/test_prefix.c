/*
 * test_prefix.c: the real engine reuses what it has computed: the second
 * turn of a conversation, page boundaries, several at once, preemption,
 * tenants, kill -9; the same bits with a hit and without one.
 */

#include "engine_site.h"

typedef struct {
    site_t      s;
    site_out_t  want, got;
    int32_t     id[SITE_OUT];
} test_t;

static const site_conf_t  roomy = { 2048, 8, 512, 256, 1, 0, 0 };


/* A request of the first n of t->id. */
static infer_ref_t
fill(test_t *t, uint32_t n, uint8_t scope, const infer_sampling_t *p)
{
    infer_ref_t    ref;
    infer_slot_t  *slot;

    if (infer_slot_claim(&t->s.bus, t->s.entry, &ref) != INFER_OK) {
        site_bail("no slot");
    }
    slot = &t->s.bus.slot[ref.slot];
    slot->sampling = *p;
    slot->n_prompt = n;
    slot->scope[0] = scope;
    if (infer_slot_put(&t->s.bus, ref, INFER_EXT_PROMPT, t->id, n * 4)
        != INFER_OK
        || infer_slot_reserve_log(&t->s.bus, ref, p->max_tokens) != INFER_OK)
    {
        site_bail("no room");
    }

    return ref;
}

static uint32_t
finish(test_t *t, infer_ref_t ref, site_out_t *out)
{
    uint32_t  cached;

    if (!site_wait_done(&t->s, ref, 60000)) {
        diag("slot %u is not done", ref.slot);
    }
    cached = atomic_load(&t->s.bus.slot[ref.slot].cached_tokens);
    site_finish(&t->s, ref, out);

    return cached;
}

/* Runs one; returns its cached tokens. */
static uint32_t
ask(test_t *t, uint32_t n, uint8_t scope, uint32_t max_tokens,
    site_out_t *out)
{
    infer_ref_t       ref;
    infer_sampling_t  p = site_greedy(max_tokens);

    ref = fill(t, n, scope, &p);
    site_submit(&t->s, ref);

    return finish(t, ref, out);
}

static uint64_t
rows(const test_t *t)
{
    return atomic_load(&t->s.bus.stats->rows);
}

static int
same(const site_out_t *a, const site_out_t *b)
{
    return a->n == b->n && a->finish == INFER_FINISH_LENGTH
           && b->finish == INFER_FINISH_LENGTH
           && memcmp(a->rec, b->rec, a->n * sizeof(a->rec[0])) == 0;
}

static void
test_boundaries(test_t *t)
{
    static const uint32_t  len[] = { 31, 32, 33, 63, 64, 65, 127, 128, 129,
                                     300, 1000 };
    uint32_t               k, n, first, again, bad = 0;
    uint64_t               before;

    for (k = 0; k < sizeof(len) / sizeof(len[0]); k++) {
        n = len[k];
        site_prompt(t->id, n, 100 + k);
        first = ask(t, n, 1, 40, &t->want);
        before = rows(t);
        again = ask(t, n, 1, 40, &t->got);

        if (first != 0 || again != (n - 1) / 32 * 32
            || rows(t) - before != n - again + 39
            || !same(&t->got, &t->want))
        {
            diag("%u tokens: %u, then %u cached, %u rows", n, first, again,
                 (uint32_t) (rows(t) - before));
            bad++;
        }
    }
    ok(bad == 0, "a second time, only the open page is computed, and the "
       "bits are the same");
}

static void
test_turns(test_t *t)
{
    uint32_t  i, n = 700, cached;
    uint64_t  before;

    site_prompt(t->id, SITE_OUT, 50);
    (void) ask(t, n, 1, 60, &t->got);
    for (i = 0; i < 60; i++) {
        t->id[n + i] = t->got.rec[i].id;
    }
    n += 60 + 45;                          /* the answer and a new question */

    before = rows(t);
    cached = ask(t, n, 1, 50, &t->got);
    ok(cached == (700 + 59) / 32 * 32 && rows(t) - before == n - cached + 49,
       "the second turn of a conversation computes what is new: %u of %u "
       "tokens were there", cached, n);

    before = rows(t);
    ok(ask(t, n, 2, 50, &t->want) == 0 && rows(t) - before == n + 49,
       "another tenant computes everything");
    ok(same(&t->got, &t->want), "and gets the same bits");

    t->id[40]++;
    ok(ask(t, n, 1, 5, &t->got) == 32,
       "a prompt that differs shares up to there");
    ok(site_all_free(&t->s)
       && atomic_load(&t->s.bus.model[0].pages_cached) > 40,
       "no page is in use, though %u are kept",
       atomic_load(&t->s.bus.model[0].pages_cached));
}

/* Choices of one prompt that arrive together compute it once. */
static void
test_choices(test_t *t)
{
    uint32_t          k, cached, good = 0, sum = 0;
    uint64_t          before;
    infer_ref_t       ref[4];
    infer_sampling_t  p = site_greedy(30);

    site_prompt(t->id, 300, 60);
    (void) ask(t, 300, 3, 30, &t->want);
    before = rows(t);

    for (k = 0; k < 4; k++) {
        ref[k] = fill(t, 300, 4, &p);
    }
    for (k = 0; k < 4; k++) {
        site_submit(&t->s, ref[k]);
    }
    for (k = 0; k < 4; k++) {
        cached = finish(t, ref[k], &t->got);
        good += same(&t->got, &t->want);
        sum += cached;
    }
    ok(good == 4, "four at once say the same");
    ok(sum == 3 * 288 && rows(t) - before == 300 + 3 * 12 + 4 * 29,
       "and three of them take the first one's pages (%u tokens, %u rows)",
       sum, (uint32_t) (rows(t) - before));
}

/* What a cancelled one has computed stays. */
static void
test_cancelled(test_t *t)
{
    infer_ref_t       ref;
    infer_sampling_t  p = site_greedy(1000);

    site_prompt(t->id, 200, 70);
    ref = fill(t, 200, 1, &p);
    site_submit(&t->s, ref);
    (void) site_wait_records(&t->s, ref, 3, 10000);
    site_release(&t->s, ref);
    ok(site_all_free(&t->s), "a generation is cancelled");
    ok(ask(t, 200, 1, 20, &t->got) == 192, "its prompt is kept");
    (void) ask(t, 200, 5, 20, &t->want);
    ok(same(&t->got, &t->want), "with the right bits");
}

static void
test_kill(test_t *t)
{
    int               i, early = 0;
    infer_ref_t       ref = { 0, 0 };
    infer_sampling_t  p = site_greedy(500);

    site_prompt(t->id, 200, 80);
    (void) ask(t, 200, 1, 500, &t->want);

    /* on a busy machine it may be over before the engine dies */
    for (i = 0; i < 50 && !early; i++) {
        ref = fill(t, 200, 1, &p);
        site_submit(&t->s, ref);
        (void) site_wait_records(&t->s, ref, 20, 10000);
        site_kill(&t->s);
        early = infer_slot_status(&t->s.bus, ref) == INFER_SLOT_RUNNING;
        if (!early) {
            site_start(&t->s);
            (void) finish(t, ref, &t->got);
            (void) ask(t, 200, 1, 500, &t->got);
        }
    }
    site_start(&t->s);
    ok(finish(t, ref, &t->got) == 192 && same(&t->got, &t->want),
       "after kill -9 the answer goes on from empty pages, bit for bit");
    ok(ask(t, 200, 1, 500, &t->got) == 192 && same(&t->got, &t->want),
       "and fills them for the next one");
}

/* 14 pages for 4 sequences that need 8 each, all of one tenant. */
static void
test_preempted(test_t *t)
{
    uint32_t           k, good = 0, cached = 0;
    uint64_t           computed;
    infer_ref_t        ref[4];
    site_out_t        *want = calloc(4, sizeof(*want));
    infer_sampling_t   p = site_greedy(150);
    const site_conf_t  tight = { 320, 4, 64, 14, 1, 0, 0 };

    if (want == NULL) {
        site_bail("no memory");
    }
    for (k = 0; k < 4; k++) {
        site_prompt(t->id, 90, 90 + k);
        (void) ask(t, 90, 1, 150, &want[k]);
    }
    site_close(&t->s);

    site_open(&t->s, &tight);
    site_start(&t->s);
    for (k = 0; k < 4; k++) {
        site_prompt(t->id, 90, 90 + k);
        ref[k] = fill(t, 90, 1, &p);
    }
    for (k = 0; k < 4; k++) {
        site_submit(&t->s, ref[k]);
    }
    for (k = 0; k < 4; k++) {
        cached += finish(t, ref[k], &t->got);
        good += same(&t->got, &want[k]);
    }
    computed = rows(t);
    k = atomic_load(&t->s.bus.model[0].preemptions);
    ok(good == 4 && k > 0, "preempted %u times, all say the same", k);
    ok(cached == 0, "what they find again is no cached prompt");
    ok(computed >= 4 * (90 + 149) && computed < 4 * (90 + 149) + k * 200,
       "and not all is computed again (%llu rows)",
       (unsigned long long) computed);
    ok(site_all_free(&t->s), "no page is in use");
    free(want);
}

int
main(void)
{
    test_t  *t = calloc(1, sizeof(*t));

    if (t == NULL) {
        site_bail("no memory");
    }

    site_open(&t->s, &roomy);
    site_start(&t->s);
    test_boundaries(t);
    test_turns(t);
    test_choices(t);
    test_cancelled(t);
    test_kill(t);
    test_preempted(t);
    site_close(&t->s);
    free(t);

    return tap_done();
}
