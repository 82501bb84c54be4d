/*
 * test_sched.c: the scheduler's policy with a fake clock, made-up pages and
 * no kernels: order, chunks, time, known prefixes, preemption, deadlines,
 * poisoned ones.
 */

#include <string.h>

#include "run/sched.h"
#include "tap.h"

#define MAX  16

typedef struct {
    infer_kv_t         kv;
    infer_sched_t      s;
    infer_plan_t       plan;
    infer_plan_item_t  item[MAX];
    infer_sched_seq_t  seq[MAX];
    uint32_t           n;
} world_t;


static void
world_open(world_t *w, uint32_t max_seqs, uint32_t batch, uint32_t n_pages)
{
    infer_sched_conf_t  conf = { .max_seqs = max_seqs, .max_waiting = MAX,
                                 .batch_tokens = batch };

    memset(w, 0, sizeof(*w));
    w->plan.item = w->item;
    if (infer_kv_init(&w->kv, n_pages, NULL) != INFER_OK
        || infer_sched_init(&w->s, &conf, &w->kv) != INFER_OK)
    {
        printf("Bail out! no memory\n");
        exit(1);
    }
}

static void
world_close(world_t *w)
{
    uint32_t  i;

    for (i = 0; i < w->n; i++) {
        infer_sched_remove(&w->s, &w->seq[i]);
        infer_kv_table_done(&w->seq[i].table);
    }

    ok(infer_kv_used(&w->kv) == 0, "all pages came back");
    infer_sched_done(&w->s);
    infer_kv_done(&w->kv);
}

static infer_sched_seq_t *
add(world_t *w, uint32_t n_prompt)
{
    infer_sched_seq_t  *q = &w->seq[w->n];

    q->ticket = w->n++;
    q->n_known = n_prompt;
    q->max_known = 4096;
    (void) infer_kv_table_init(&q->table, 4096);
    (void) infer_sched_add(&w->s, q);

    return q;
}

/* One step that takes us per row; every sample is a new token. */
static void
step(world_t *w, uint32_t us_per_row)
{
    uint32_t  i;

    infer_sched_plan(&w->s, &w->plan);
    infer_sched_launched(&w->s, &w->plan);
    infer_sched_ran(&w->s, &w->plan,
                    (uint64_t) us_per_row * w->plan.n_rows);

    for (i = 0; i < w->plan.n_items; i++) {
        if (w->item[i].sample) {
            w->item[i].seq->n_known++;
            w->item[i].seq->has_output = 1;
        }
    }
}

static const infer_plan_item_t *
planned(const world_t *w, const infer_sched_seq_t *q)
{
    uint32_t  i;

    for (i = 0; i < w->plan.n_items; i++) {
        if (w->item[i].seq == q) {
            return &w->item[i];
        }
    }

    return NULL;
}

static void
test_order(void)
{
    world_t             w;
    infer_sched_seq_t  *a, *b, *c;

    world_open(&w, 2, 64, 100);
    a = add(&w, 100);
    b = add(&w, 10);
    c = add(&w, 5);

    step(&w, 1);
    ok(w.plan.n_items == 1 && w.item[0].seq == a && w.item[0].n_rows == 64
       && !w.item[0].sample && w.item[0].pos0 == 0,
       "the first prompt fills the batch");
    ok(c->state == INFER_SEQ_WAITING && b->state == INFER_SEQ_RUNNING,
       "no more sequences than allowed");

    step(&w, 1);
    ok(w.plan.n_items == 2 && planned(&w, a)->n_rows == 36
       && planned(&w, a)->pos0 == 64 && planned(&w, a)->sample
       && planned(&w, b)->n_rows == 10 && planned(&w, b)->sample,
       "its rest and the next prompt share a step");

    step(&w, 1);
    ok(w.plan.n_rows == 2 && w.plan.n_prefill == 0, "both decode");
    ok(planned(&w, a)->pos0 == 100 && planned(&w, b)->pos0 == 10,
       "at their next positions");

    infer_sched_remove(&w.s, a);
    step(&w, 1);
    ok(planned(&w, b) != NULL && planned(&w, b)->n_rows == 1
       && planned(&w, c) != NULL && planned(&w, c)->n_rows == 5,
       "a free place goes to who waits, decode goes on beside it");
    ok(w.item[1].first_row == 1 && w.plan.n_rows == 6, "rows are dense");
    world_close(&w);
}

static void
test_priority(void)
{
    uint32_t            i;
    world_t             w;
    infer_sched_seq_t  *q[5], *late;

    world_open(&w, 1, 64, 100);
    q[0] = add(&w, 10);
    step(&w, 1);
    for (i = 1; i < 5; i++) {
        q[i] = add(&w, 10);
    }
    infer_sched_raise(&w.s, q[1], -1);
    infer_sched_raise(&w.s, q[3], 1);
    infer_sched_raise(&w.s, q[4], 1);
    infer_sched_raise(&w.s, q[0], -8);
    step(&w, 1);
    ok(planned(&w, q[0]) != NULL && w.plan.n_items == 1,
       "what runs goes on, whoever waits");
    infer_sched_remove(&w.s, q[0]);
    step(&w, 1);
    ok(planned(&w, q[3]) != NULL, "the highest starts first, by arrival");
    infer_sched_remove(&w.s, q[3]);
    infer_sched_raise(&w.s, q[1], 2);
    step(&w, 1);
    ok(planned(&w, q[1]) != NULL, "one that is raised overtakes");
    infer_sched_remove(&w.s, q[1]);
    step(&w, 1);
    ok(planned(&w, q[4]) != NULL, "then the next");
    infer_sched_remove(&w.s, q[4]);
    step(&w, 1);
    ok(planned(&w, q[2]) != NULL, "and the lowest at last");
    infer_sched_raise(&w.s, q[2], 1);
    ok(q[2]->priority == 1 && q[2]->state == INFER_SEQ_RUNNING,
       "a running one has another priority in its place");
    world_close(&w);

    /* pages for one; the older of two goes on, whatever their priority */
    world_open(&w, 4, 256, 5);
    q[0] = add(&w, 60);
    infer_sched_raise(&w.s, q[0], -1);
    q[1] = add(&w, 60);
    infer_sched_raise(&w.s, q[1], 8);
    for (i = 0; i < 40 && w.s.preemptions == 0; i++) {
        step(&w, 1);
    }
    late = add(&w, 1);
    infer_sched_raise(&w.s, late, 8);
    step(&w, 1);
    ok(q[1]->state == INFER_SEQ_WAITING && planned(&w, q[0]) != NULL
       && late->state == INFER_SEQ_WAITING && w.s.waiting[0] == q[1],
       "none that runs loses its pages to priority, nor its turn");
    world_close(&w);
}

static void
test_decode_first(void)
{
    uint32_t            i;
    world_t             w;
    infer_sched_seq_t  *q[4], *late;

    world_open(&w, 8, 8, 100);
    for (i = 0; i < 4; i++) {
        q[i] = add(&w, 1);
    }
    step(&w, 1);
    late = add(&w, 100);
    step(&w, 1);

    for (i = 0; i < 4; i++) {
        ok(planned(&w, q[i]) != NULL && planned(&w, q[i])->n_rows == 1,
           "decode row %u is in", i);
    }
    ok(planned(&w, late) != NULL && planned(&w, late)->n_rows == 4,
       "prefill gets the rest of the batch");
    world_close(&w);
}

static void
test_time(void)
{
    uint32_t            i;
    world_t             w;
    infer_sched_seq_t  *q;

    world_open(&w, 2, 1000, 300);
    (void) add(&w, 1);
    step(&w, 1);
    q = add(&w, 4000);
    for (i = 0; i < 6; i++) {
        step(&w, 500);                   /* 50 ms are 100 rows */
    }
    ok(planned(&w, q) != NULL && w.plan.n_rows == 100,
       "a chunk beside decode fits the time of a step (%u rows)",
       w.plan.n_rows);

    for (i = 0; i < 40 && q->n_known - q->n_kv > 400; i++) {
        step(&w, 250);
    }
    ok(w.plan.n_rows >= 180 && w.plan.n_rows <= 220,
       "and follows the speed (%u rows)", w.plan.n_rows);
    world_close(&w);

    world_open(&w, 2, 1000, 200);
    (void) add(&w, 4000);
    for (i = 0; i < 4; i++) {
        step(&w, 500);
    }
    ok(w.plan.n_rows == 400, "four times as much when nobody decodes");
    world_close(&w);

    world_open(&w, 2, 1000, 200);
    (void) add(&w, 4000);
    for (i = 0; i < 5; i++) {
        step(&w, 100000);
    }
    ok(w.plan.n_rows == 16, "but never below 16 rows");
    world_close(&w);
}

static void
test_preempt(void)
{
    uint32_t            i;
    world_t             w;
    infer_sched_seq_t  *a, *b;

    /* 5 pages: two of 60 tokens fit, until they grow */
    world_open(&w, 4, 256, 5);
    a = add(&w, 60);
    b = add(&w, 60);
    step(&w, 1);
    ok(w.plan.n_items == 2, "both run");

    for (i = 0; i < 40 && w.s.preemptions == 0; i++) {
        step(&w, 1);
    }
    ok(w.s.preemptions == 1 && b->state == INFER_SEQ_WAITING
       && b->n_kv == 0 && b->table.n == 0 && b->preempted == 1,
       "without pages the younger one goes");
    ok(a->state == INFER_SEQ_RUNNING && planned(&w, a) != NULL
       && planned(&w, b) == NULL, "and the older one goes on");

    step(&w, 1);
    ok(b->state == INFER_SEQ_WAITING, "it waits until it fits");

    (void) add(&w, 1);
    infer_sched_remove(&w.s, a);
    step(&w, 1);
    ok(planned(&w, b) != NULL && planned(&w, b)->n_rows > 60
       && planned(&w, b)->pos0 == 0 && planned(&w, b) == &w.item[0],
       "then prompt and output are prefilled, before newer ones");
    world_close(&w);
}

static void
test_one_alone_fits(void)
{
    uint32_t            i, n = 0;
    world_t             w;
    infer_sched_seq_t  *q;

    world_open(&w, 4, 64, 4);
    q = add(&w, 100);
    for (i = 0; i < 60 && q->n_known < 128; i++) {
        step(&w, 1);
        n += w.plan.n_items == 0;
    }
    ok(q->n_known == 128 && n == 0,
       "one sequence can use every page, without a pause");
    world_close(&w);
}

/* Token i of everybody. */
static void
give_tokens(infer_sched_seq_t *q, int32_t *id, uint32_t n)
{
    uint32_t  i;

    for (i = 0; i < n; i++) {
        id[i] = (int32_t) i;
    }
    q->key.token = id;
}

/* Until q has a token. */
static void
first_token(world_t *w, const infer_sched_seq_t *q)
{
    uint32_t  i;

    for (i = 0; i < 100 && !q->has_output; i++) {
        step(w, 1);
    }
}

static void
test_prefix(void)
{
    int32_t             id[4096], other[4096];
    world_t             w;
    infer_sched_seq_t  *a, *b, *c, *d;

    world_open(&w, 4, 512, 100);
    a = add(&w, 200);
    give_tokens(a, id, 4096);
    first_token(&w, a);
    ok(a->n_kv == 200 && a->n_cached == 0, "all of a prompt is computed");
    infer_sched_remove(&w.s, a);
    ok(w.kv.n_cached == 6 && infer_kv_used(&w.kv) == 0,
       "its full pages stay");

    b = add(&w, 300);
    give_tokens(b, id, 4096);
    step(&w, 1);
    ok(planned(&w, b)->pos0 == 192 && planned(&w, b)->n_rows == 108
       && planned(&w, b)->sample && b->n_cached == 192,
       "the next turn computes what is new");

    c = add(&w, 192);
    give_tokens(c, id, 4096);
    step(&w, 1);
    ok(planned(&w, c)->pos0 == 160 && planned(&w, c)->n_rows == 32
       && c->n_cached == 160, "and the last token always, with its page");

    give_tokens(c, other, 4096);
    infer_sched_remove(&w.s, c);
    infer_sched_remove(&w.s, b);
    c = add(&w, 600);
    give_tokens(c, other, 4096);
    c->key.scope[0] = 1;
    d = add(&w, 600);
    give_tokens(d, other, 4096);
    d->key.scope[0] = 1;
    step(&w, 1);
    ok(planned(&w, c)->n_rows == 512 && c->n_cached == 0
       && planned(&w, d) == NULL, "of two with one prompt the second waits");
    first_token(&w, d);
    ok(planned(&w, d) != NULL && planned(&w, d)->sample
       && planned(&w, d)->n_rows == 600 - 576 && d->n_cached == 576,
       "until the first has computed what both need (%u)", d->n_cached);
    world_close(&w);
}

/* One whose last token alone is left, all others found, is a row more than
 * the decoding ones that were counted. */
static void
test_prefix_full_batch(void)
{
    int32_t             id[4096], other[4096];
    world_t             w;
    infer_sched_seq_t  *a, *b, *c;

    world_open(&w, 4, 64, 100);
    a = add(&w, 33);
    b = add(&w, 200);
    c = add(&w, 33);
    give_tokens(a, id, 4096);
    give_tokens(b, other, 4096);
    b->key.scope[0] = 1;
    give_tokens(c, id, 4096);
    step(&w, 1);
    ok(planned(&w, b)->n_rows == 31 && planned(&w, c) == NULL,
       "one waits for a page, another fills the batch");
    step(&w, 1);
    ok(c->n_kv >= 32 && planned(&w, b)->n_rows == 63 && w.plan.n_rows == 64,
       "a prompt that is found does not overfill it (%u)", w.plan.n_rows);
    world_close(&w);
}

/* What is not read yet when the next step is planned. */

static void
launch(world_t *w)
{
    infer_sched_plan(&w->s, &w->plan);
    if (w->plan.n_items != 0) {
        infer_sched_launched(&w->s, &w->plan);
    }
}

/* The step of these sequences has run and given each a token. */
static void
land(world_t *w, infer_sched_seq_t **q, uint32_t n)
{
    uint32_t           i;
    infer_plan_t       plan;
    infer_plan_item_t  item[MAX];

    memset(&plan, 0, sizeof(plan));
    memset(item, 0, sizeof(item));
    plan.item = item;
    for (i = 0; i < n; i++) {
        item[i].seq = q[i];
        item[i].sample = 1;
    }
    plan.n_items = n;
    infer_sched_ran(&w->s, &plan, 1);
    for (i = 0; i < n; i++) {
        if (q[i] != NULL) {
            q[i]->n_known++;
            q[i]->has_output = 1;
        }
    }
}

static void
test_ahead(void)
{
    world_t             w;
    infer_sched_seq_t  *q[3], *a, *b, *c, *none = NULL;

    world_open(&w, 4, 64, 100);
    a = q[0] = add(&w, 10);
    b = q[1] = add(&w, 10);
    c = q[2] = add(&w, 10);
    b->waits = 1;
    c->max_known = 12;

    launch(&w);
    ok(w.plan.n_items == 3 && a->n_ahead == 1 && a->n_kv == 10,
       "three prompts are launched");
    launch(&w);
    ok(w.plan.n_items == 2 && planned(&w, a)->pos0 == 10
       && planned(&w, a)->n_rows == 1 && planned(&w, a)->sample
       && planned(&w, b) == NULL && planned(&w, c)->sample,
       "who can goes on before its token is known");
    land(&w, q, 3);
    ok(a->n_ahead == 1 && b->n_ahead == 0 && a->n_known == 11,
       "the first step has run");
    launch(&w);
    ok(planned(&w, a)->pos0 == 11 && planned(&w, b)->pos0 == 10
       && planned(&w, c) == NULL,
       "whose length is reached is not launched, who waited is");

    infer_sched_remove(&w.s, c);
    q[1] = none;
    q[2] = none;
    land(&w, q, 1);
    ok(a->n_known == 12 && a->n_ahead == 1, "and one may end in between");
    q[1] = b;
    land(&w, q, 2);
    ok(w.s.n_launched == 0 && a->n_ahead == 0 && a->n_known == 13
       && a->n_kv == 12 && b->n_known == 12, "nothing is left");
    world_close(&w);
}

static void
test_ahead_pages(void)
{
    int32_t             id[4096];
    world_t             w;
    infer_sched_seq_t  *q[1], *a;

    world_open(&w, 4, 64, 2);
    a = q[0] = add(&w, 31);
    give_tokens(a, id, 4096);
    launch(&w);
    launch(&w);
    ok(a->n_kv == 32 && a->table.n == 1 && a->table.n_full == 0,
       "a page is not found before its last token is known");
    land(&w, q, 1);
    launch(&w);
    ok(a->n_kv == 33 && a->table.n == 2 && a->table.n_full == 1,
       "then it is; the position ahead has its page");
    land(&w, q, 1);
    land(&w, q, 1);
    world_close(&w);
}

/* The youngest loses its pages while it is on the device. */
static void
test_ahead_preempt(void)
{
    world_t             w;
    infer_sched_seq_t  *q[2], *a, *b;

    world_open(&w, 4, 64, 3);
    a = q[0] = add(&w, 31);
    b = q[1] = add(&w, 31);
    launch(&w);
    launch(&w);
    land(&w, q, 2);
    launch(&w);
    ok(planned(&w, a)->pos0 == 32 && planned(&w, b) == NULL
       && b->state == INFER_SEQ_WAITING && b->n_ahead == 1 && b->n_kv == 0,
       "who finds no page ahead gives up its own");
    land(&w, q, 2);
    ok(b->n_known == 33 && b->n_ahead == 0, "its token still comes");
    land(&w, q, 1);
    infer_sched_remove(&w.s, a);
    launch(&w);
    ok(planned(&w, b) != NULL && planned(&w, b)->n_rows == 33,
       "and later it computes everything again");
    land(&w, &b, 1);
    world_close(&w);
}

static void
test_ahead_alone(void)
{
    world_t             w;
    infer_sched_seq_t  *q[1], *bad;

    world_open(&w, 4, 64, 100);
    q[0] = add(&w, 10);
    launch(&w);
    bad = add(&w, 10);
    bad->alone = 1;
    launch(&w);
    ok(w.plan.n_items == 0, "nothing is launched before a poisoned one");
    land(&w, q, 1);
    launch(&w);
    ok(w.plan.n_items == 1 && planned(&w, bad) != NULL, "until it is alone");
    launch(&w);
    ok(w.plan.n_items == 0, "and nothing beside it");
    land(&w, &bad, 1);
    launch(&w);
    ok(w.plan.n_items == 1 && planned(&w, q[0]) != NULL,
       "then the others again");
    land(&w, q, 1);
    world_close(&w);
}

/* A preempted one finds its own pages again, as far as they are left. */
static void
test_preempt_prefix(void)
{
    int32_t             id[4096], other[4096];
    uint32_t            i, at = 0, again = 0;
    world_t             w;
    infer_sched_seq_t  *a, *b;

    world_open(&w, 4, 256, 8);
    a = add(&w, 100);
    b = add(&w, 90);
    give_tokens(a, id, 4096);
    give_tokens(b, other, 4096);
    b->key.scope[0] = 1;

    for (i = 0; i < 100 && w.s.preemptions == 0; i++) {
        step(&w, 1);
    }
    ok(w.s.preemptions == 1 && b->state == INFER_SEQ_WAITING && b->n_kv == 0,
       "the younger one goes");
    ok(w.kv.n_cached > 0, "and leaves its pages");
    at = b->n_known;
    infer_sched_remove(&w.s, a);
    step(&w, 1);
    again = planned(&w, b) != NULL ? planned(&w, b)->pos0 : 0;
    ok(again >= 64 && again % 32 == 0 && b->n_kv == at && b->n_cached == 0,
       "it goes on with %u of %u tokens in pages, which are no cached "
       "prompt", again, at);
    world_close(&w);
}

/* Everyone gets to the end, whatever the sizes. */
static void
test_progress(void)
{
    uint32_t            i, k, left, steps, empty = 0, seed = 7;
    world_t             w;

    world_open(&w, 6, 32, 9);
    for (i = 0; i < 12; i++) {
        seed = seed * 1103515245u + 12345u;
        (void) add(&w, 1 + (seed >> 16) % 150);
    }

    left = 12;
    for (steps = 0; steps < 20000 && left > 0; steps++) {
        step(&w, 1);
        empty += w.plan.n_items == 0;
        for (k = 0; k < 12; k++) {
            if (w.seq[k].state != INFER_SEQ_NONE && w.seq[k].n_known >= 280) {
                infer_sched_remove(&w.s, &w.seq[k]);
                left--;
            }
        }
    }

    ok(left == 0, "12 sequences of 280 tokens end on 9 pages (%u steps, %u "
       "preemptions)", steps, w.s.preemptions);
    ok(w.s.preemptions > 0 && empty == 0, "with preemptions, never idle");
    world_close(&w);
}

static void
test_deadlines(void)
{
    uint32_t            finish;
    world_t             w;
    infer_sched_seq_t  *a, *b;

    world_open(&w, 1, 64, 100);
    a = add(&w, 10);
    b = add(&w, 10);
    a->first_deadline_us = 500;
    a->total_deadline_us = 1000;
    b->queue_deadline_us = 700;

    ok(infer_sched_expired(&w.s, 499, &finish) == NULL, "nothing is over");
    ok(infer_sched_expired(&w.s, 500, &finish) == a
       && finish == INFER_FINISH_TIMEOUT, "time to the first token");
    step(&w, 1);
    ok(infer_sched_expired(&w.s, 699, &finish) == NULL,
       "after it, that deadline is void");
    ok(infer_sched_expired(&w.s, 700, &finish) == b
       && finish == INFER_FINISH_TIMEOUT_QUEUE, "time in the queue");
    infer_sched_remove(&w.s, b);
    ok(infer_sched_expired(&w.s, 1000, &finish) == a
       && finish == INFER_FINISH_TIMEOUT, "total time");

    infer_sched_remove(&w.s, a);
    a->total_deadline_us = 0;
    a->queue_deadline_us = 1;
    (void) infer_sched_add(&w.s, a);
    ok(infer_sched_expired(&w.s, 5000, &finish) == NULL,
       "the queue's deadline is void for one that had started");
    world_close(&w);

    /* a place, but no row: the batch is another's */
    world_open(&w, 2, 64, 100);
    a = add(&w, 200);
    b = add(&w, 10);
    b->queue_deadline_us = 700;
    step(&w, 1);
    ok(planned(&w, a) != NULL && planned(&w, b) == NULL
       && b->state == INFER_SEQ_RUNNING
       && infer_sched_expired(&w.s, 700, &finish) == b
       && finish == INFER_FINISH_TIMEOUT_QUEUE,
       "one that was in no batch has not started");
    world_close(&w);
}

static void
test_alone(void)
{
    uint32_t            i, with_others = 0, n_alone = 0, n_normal = 0;
    world_t             w;
    infer_sched_seq_t  *p;

    world_open(&w, 4, 64, 100);
    (void) add(&w, 5);
    p = add(&w, 5);
    p->alone = 1;
    (void) add(&w, 5);

    for (i = 0; i < 10; i++) {
        step(&w, 1);
        if (planned(&w, p) != NULL) {
            n_alone++;
            with_others += w.plan.n_items > 1;
        } else {
            n_normal += w.plan.n_items == 2;
        }
    }
    ok(with_others == 0 && n_alone == 5 && n_normal == 5,
       "a poisoned sequence runs alone, every other step");

    p->alone = 0;
    step(&w, 1);
    ok(w.plan.n_items == 3, "and with the others once it is cleared");
    world_close(&w);
}

static void
test_limits(void)
{
    uint32_t            i;
    infer_kv_t          kv = { 0 };
    infer_sched_t       s;
    infer_sched_conf_t  conf = { .max_seqs = 4, .max_waiting = 2,
                                 .batch_tokens = 3 };
    infer_sched_seq_t   q[3];

    memset(q, 0, sizeof(q));
    ok(infer_sched_init(&s, &conf, &kv) == INFER_INVALID,
       "a batch must hold every sequence");

    conf.batch_tokens = 4;
    (void) infer_sched_init(&s, &conf, &kv);
    for (i = 0; i < 2; i++) {
        q[i].n_known = 1;
        (void) infer_sched_add(&s, &q[i]);
    }
    ok(infer_sched_add(&s, &q[2]) == INFER_BUSY
       && q[2].state == INFER_SEQ_NONE, "the queue has a limit");
    ok(infer_sched_queued_tokens(&s) == 2, "queued tokens are counted");
    infer_sched_done(&s);
}

int
main(void)
{
    test_order();
    test_priority();
    test_decode_first();
    test_time();
    test_preempt();
    test_prefix();
    test_prefix_full_batch();
    test_ahead();
    test_ahead_pages();
    test_ahead_preempt();
    test_ahead_alone();
    test_preempt_prefix();
    test_one_alone_fits();
    test_progress();
    test_deadlines();
    test_alone();
    test_limits();

    return tap_done();
}
