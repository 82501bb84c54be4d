/*
 * test_kv.c: page numbers: order of use, limits, give-back, zeroing; known
 * pages: who finds them, who loses them, and hashes that collide.
 */

#include <string.h>

#include "run/kv.h"
#include "tap.h"


static void
test_tables(void)
{
    infer_kv_t        kv;
    infer_kv_table_t  a, b;

    ok(infer_kv_init(&kv, 6, NULL) == INFER_OK && kv.n_free == 6, "a pool");
    ok(infer_kv_table_init(&a, 128) == INFER_OK && a.cap == 4,
       "a table holds its context");
    (void) infer_kv_table_init(&b, 1000);

    ok(infer_kv_extend(&kv, &a, 1) == INFER_OK && a.n == 1
       && a.page[0] == 0, "one token takes one page, the lowest");
    ok(infer_kv_extend(&kv, &a, 32) == INFER_OK && a.n == 1,
       "32 tokens need no more");
    ok(infer_kv_extend(&kv, &a, 33) == INFER_OK && a.n == 2
       && a.page[1] == 1, "33 do");
    ok(infer_kv_extend(&kv, &a, 129) == INFER_INVALID && a.n == 2,
       "not beyond the context");

    ok(infer_kv_extend(&kv, &b, 5 * 32) == INFER_BUSY && b.n == 0
       && kv.n_free == 4, "too many: none is taken");
    ok(infer_kv_extend(&kv, &b, 4 * 32) == INFER_OK && kv.n_free == 0,
       "the rest");
    ok(infer_kv_extend(&kv, &a, 65) == INFER_BUSY, "the pool is empty");
    ok(kv.peak == 6, "peak");

    infer_kv_truncate(&kv, &b, 33);
    ok(b.n == 2 && kv.n_free == 2, "truncate keeps what holds the tokens");
    ok(infer_kv_extend(&kv, &a, 65) == INFER_OK && a.page[2] != b.page[0]
       && a.page[2] != b.page[1], "freed pages are used again");

    infer_kv_truncate(&kv, &a, 0);
    infer_kv_truncate(&kv, &b, 0);
    ok(kv.n_free == 6 && a.n == 0 && kv.peak == 6, "everything is back");
    infer_kv_table_done(&a);
    infer_kv_table_done(&b);
    infer_kv_done(&kv);
}

static void
test_zero(void)
{
    uint32_t          first;
    infer_kv_t        kv;
    infer_kv_table_t  t;

    (void) infer_kv_init(&kv, 3, NULL);
    (void) infer_kv_table_init(&t, 96);
    (void) infer_kv_extend(&kv, &t, 1);
    first = t.page[0];

    ok(infer_kv_needs_zero(&kv, first) == 1, "a new page is zeroed");
    ok(infer_kv_needs_zero(&kv, first) == 0, "once");
    infer_kv_truncate(&kv, &t, 0);
    (void) infer_kv_extend(&kv, &t, 1);
    ok(t.page[0] == first && infer_kv_needs_zero(&kv, first) == 1,
       "and again in its next life");
    infer_kv_truncate(&kv, &t, 0);
    infer_kv_table_done(&t);
    infer_kv_done(&kv);
}

/* ---- known pages ---- */

#define LONG  640

/* A sequence that a test runs without a model. */
typedef struct {
    infer_kv_table_t  t;
    infer_kv_key_t    key;
    int32_t           id[LONG];
} seq_t;

static void
seq_open(seq_t *q, uint8_t scope, int32_t first)
{
    uint32_t  i;

    memset(q, 0, sizeof(*q));
    (void) infer_kv_table_init(&q->t, LONG);
    for (i = 0; i < LONG; i++) {
        q->id[i] = first + (int32_t) i;
    }
    q->key.token = q->id;
    q->key.scope[0] = scope;
}

static void
seq_close(infer_kv_t *kv, seq_t *q)
{
    infer_kv_truncate(kv, &q->t, 0);
    infer_kv_table_done(&q->t);
}

/* As if n tokens had been computed. */
static void
seq_run(infer_kv_t *kv, seq_t *q, uint32_t n)
{
    uint32_t  i;

    (void) infer_kv_extend(kv, &q->t, n);
    for (i = 0; i < q->t.n; i++) {
        (void) infer_kv_needs_zero(kv, q->t.page[i]);
    }
    infer_kv_commit(kv, &q->t, &q->key, n);
}

static void
test_share(void)
{
    seq_t       a, b, c;
    uint32_t    p0, p1;
    infer_kv_t  kv;

    (void) infer_kv_init(&kv, 8, NULL);
    seq_open(&a, 1, 0);
    seq_open(&b, 1, 0);
    seq_run(&kv, &a, 70);
    p0 = a.t.page[0];
    p1 = a.t.page[1];
    ok(a.t.n == 3 && a.t.n_full == 2 && kv.n_free == 5,
       "70 tokens commit two pages of three");

    ok(infer_kv_match(&kv, &b.t, &b.key, 31) == 0 && b.t.n == 0,
       "31 tokens have no full page");
    ok(infer_kv_match(&kv, &b.t, &b.key, 63) == 32 && b.t.page[0] == p0
       && kv.page[p0].refs == 2 && kv.page[p1].refs == 1,
       "63 find one, which both have then");
    ok(infer_kv_match(&kv, &b.t, &b.key, LONG) == 64 && b.t.page[1] == p1
       && kv.n_free == 5 && infer_kv_used(&kv) == 3,
       "more find the other, and no page is taken");

    seq_close(&kv, &a);
    ok(kv.page[p0].refs == 1 && kv.n_cached == 0 && kv.n_free == 6,
       "the first one ends: only its open page is free");
    (void) infer_kv_extend(&kv, &b.t, 96);
    ok(!infer_kv_needs_zero(&kv, p0) && infer_kv_needs_zero(&kv, b.t.page[2]),
       "only pages that will be written are zeroed");
    seq_close(&kv, &b);
    ok(kv.n_cached == 2 && kv.n_free == 6 && infer_kv_used(&kv) == 0,
       "then the second: two pages are kept, none is used");

    seq_open(&a, 1, 0);
    ok(infer_kv_match(&kv, &a.t, &a.key, LONG) == 64 && kv.n_cached == 0
       && infer_kv_used(&kv) == 2, "and found again");
    seq_open(&b, 2, 0);
    ok(infer_kv_match(&kv, &b.t, &b.key, LONG) == 0, "not by another scope");
    seq_open(&c, 1, 0);
    c.id[0] = 7;
    ok(infer_kv_match(&kv, &c.t, &c.key, LONG) == 0,
       "not after other tokens, though the second page has the same");
    c.id[0] = 0;
    c.id[63] = 7;
    ok(infer_kv_match(&kv, &c.t, &c.key, LONG) == 32, "up to a difference");

    seq_close(&kv, &a);
    seq_close(&kv, &b);
    seq_close(&kv, &c);
    ok(infer_kv_used(&kv) == 0 && kv.n_cached == 2 && kv.peak == 3,
       "everything is back");
    infer_kv_done(&kv);
}

/* Two that compute the same at a time end up with one set of pages. */
static void
test_same_time(void)
{
    seq_t       a, b;
    infer_kv_t  kv;

    (void) infer_kv_init(&kv, 8, NULL);
    seq_open(&a, 1, 0);
    seq_open(&b, 1, 0);
    (void) infer_kv_extend(&kv, &a.t, 70);
    (void) infer_kv_extend(&kv, &b.t, 70);
    ok(kv.n_free == 2 && a.t.page[0] != b.t.page[0], "each has its own");
    infer_kv_commit(&kv, &a.t, &a.key, 70);
    infer_kv_commit(&kv, &b.t, &b.key, 70);
    ok(kv.n_free == 4 && a.t.page[0] == b.t.page[0]
       && a.t.page[1] == b.t.page[1] && a.t.page[2] != b.t.page[2]
       && kv.page[a.t.page[1]].refs == 2, "the full ones become common");

    a.key.token = NULL;
    infer_kv_commit(&kv, &a.t, &a.key, 96);
    ok(a.t.n_full == 2, "nothing is committed without tokens");
    seq_close(&kv, &a);
    seq_close(&kv, &b);
    ok(kv.n_cached == 2 && kv.n_free == 6, "everything is back");
    infer_kv_done(&kv);
}

static void
test_eviction(void)
{
    seq_t       a, b, c;
    infer_kv_t  kv;

    (void) infer_kv_init(&kv, 6, NULL);
    seq_open(&a, 1, 0);
    seq_open(&b, 1, 1000);
    seq_run(&kv, &a, 64);
    seq_run(&kv, &b, 64);
    infer_kv_truncate(&kv, &a.t, 0);
    infer_kv_truncate(&kv, &b.t, 0);
    ok(kv.n_cached == 4 && kv.n_free == 2 && infer_kv_available(&kv) == 6,
       "two prompts are kept");

    seq_open(&c, 1, 2000);
    (void) infer_kv_extend(&kv, &c.t, 64);
    ok(kv.n_cached == 4 && kv.evictions == 0, "free pages go first");
    (void) infer_kv_extend(&kv, &c.t, 96);
    ok(kv.n_cached == 3 && infer_kv_needs_zero(&kv, c.t.page[2]),
       "then a kept one, to be zeroed");
    ok(infer_kv_match(&kv, &a.t, &a.key, LONG) == 32,
       "the far end of what was let go first");
    infer_kv_truncate(&kv, &a.t, 0);
    (void) infer_kv_extend(&kv, &c.t, 128);
    ok(infer_kv_match(&kv, &a.t, &a.key, LONG) == 32,
       "what was used since stays");
    ok(infer_kv_match(&kv, &b.t, &b.key, LONG) == 32 && kv.evictions == 2,
       "and the next oldest went");
    ok(infer_kv_extend(&kv, &c.t, 129) == INFER_BUSY && c.t.n == 4,
       "pages in use are never given away");

    infer_kv_truncate(&kv, &a.t, 0);
    ok(infer_kv_extend(&kv, &c.t, 160) == INFER_OK && kv.n_cached == 0
       && kv.page[b.t.page[0]].refs == 1, "the last one");
    seq_close(&kv, &a);
    seq_close(&kv, &b);
    seq_close(&kv, &c);
    infer_kv_done(&kv);
}

/* The same content, computed again after its chain was broken, is another
 * life: what followed the first one is not taken for what follows it. */
static void
test_lives(void)
{
    seq_t       a, b;
    infer_kv_t  kv;

    (void) infer_kv_init(&kv, 4, NULL);
    kv.hash_mask = 0;
    seq_open(&a, 1, 0);
    seq_open(&b, 1, 0);
    b.id[5] = 77;
    seq_run(&kv, &a, 64);
    seq_run(&kv, &b, 64);
    ok(a.t.page[1] != b.t.page[1] && kv.page[a.t.page[1]].refs == 1,
       "the same ids after different ones are different, though all hashes "
       "are 0");
    infer_kv_truncate(&kv, &a.t, 0);
    infer_kv_truncate(&kv, &b.t, 0);
    ok(infer_kv_match(&kv, &b.t, &b.key, LONG) == 64
       && infer_kv_match(&kv, &a.t, &a.key, LONG) == 64
       && a.t.page[0] != b.t.page[0] && a.t.page[1] != b.t.page[1],
       "each finds its own");
    a.key.scope[3] = 1;
    infer_kv_truncate(&kv, &a.t, 0);
    ok(infer_kv_match(&kv, &a.t, &a.key, LONG) == 0,
       "and another scope nothing");
    seq_close(&kv, &a);
    seq_close(&kv, &b);
    infer_kv_done(&kv);
}

/* Random sequences over few prompts, few pages and colliding hashes: each
 * table's committed pages hold just its tokens, and all counts agree. */
static void
random_check(const infer_kv_t *kv, const seq_t *q, uint32_t n, uint32_t *bad)
{
    uint32_t                k, p, refs[24], seen = 0;
    const infer_kv_page_t  *page;

    memset(refs, 0, sizeof(refs));
    for (k = 0; k < n; k++) {
        for (p = 0; p < q[k].t.n; p++) {
            page = &kv->page[q[k].t.page[p]];
            refs[q[k].t.page[p]]++;
            if (p < q[k].t.n_full) {
                *bad += page->uid == 0
                        || memcmp(page->id, q[k].id + p * KERN_PAGE_TOKENS,
                                  sizeof(page->id)) != 0
                        || page->scope[0] != q[k].key.scope[0]
                        || page->before
                           != (p == 0 ? 0
                               : kv->page[q[k].t.page[p - 1]].uid);
            } else {
                *bad += page->uid != 0 || page->refs != 1;
            }
        }
    }

    for (p = 0; p < kv->n_pages; p++) {
        *bad += kv->page[p].refs != refs[p];
    }
    for (p = kv->oldest; p != INFER_KV_NONE; p = kv->page[p].newer) {
        *bad += kv->page[p].refs != 0 || kv->page[p].uid == 0;
        seen++;
    }
    *bad += seen != kv->n_cached;
}

static void
test_random_share(void)
{
    seq_t       q[4];
    uint32_t    i, k, n, hits = 0, seed = 3, bad = 0;
    infer_kv_t  kv;

    (void) infer_kv_init(&kv, 24, NULL);
    kv.hash_mask = 1;
    for (k = 0; k < 4; k++) {
        seq_open(&q[k], 0, 0);
    }

    for (i = 0; i < 4000; i++) {
        seed = seed * 1103515245u + 12345u;
        k = (seed >> 8) % 4;
        n = (seed >> 16) % 400;

        if (q[k].t.n == 0) {
            /* one of four prompts that share 64 tokens, one of two scopes */
            q[k].key.scope[0] = (seed >> 12) & 1;
            q[k].id[70] = (int32_t) ((seed >> 13) & 3);
            hits += infer_kv_match(&kv, &q[k].t, &q[k].key, n) > 0;
            if (infer_kv_extend(&kv, &q[k].t, n + 1) == INFER_OK) {
                infer_kv_commit(&kv, &q[k].t, &q[k].key, n);
            }

        } else if (n < 150) {
            infer_kv_truncate(&kv, &q[k].t, 0);

        } else if (n >= q[k].t.n * KERN_PAGE_TOKENS
                   && infer_kv_extend(&kv, &q[k].t, n) == INFER_OK)
        {
            infer_kv_commit(&kv, &q[k].t, &q[k].key, n);
        }
        random_check(&kv, q, 4, &bad);
    }

    ok(bad == 0 && hits > 200 && kv.evictions > 200,
       "4000 random steps keep the counts right (%u hits, %llu evictions)",
       hits, (unsigned long long) kv.evictions);
    for (k = 0; k < 4; k++) {
        seq_close(&kv, &q[k]);
    }
    ok(infer_kv_used(&kv) == 0 && infer_kv_available(&kv) == 24,
       "and nothing is lost");
    infer_kv_done(&kv);
}

/* Random growth and shrinking: no page is ever in two tables. */
static void
test_random(void)
{
    uint32_t          i, k, p, seed = 1, bad = 0;
    uint8_t           seen[40];
    infer_kv_t        kv;
    infer_kv_table_t  t[5];

    (void) infer_kv_init(&kv, 40, NULL);
    for (k = 0; k < 5; k++) {
        (void) infer_kv_table_init(&t[k], 640);
    }

    for (i = 0; i < 5000; i++) {
        seed = seed * 1103515245u + 12345u;
        k = (seed >> 8) % 5;
        p = (seed >> 16) % 640;
        if (p < t[k].n * KERN_PAGE_TOKENS) {
            infer_kv_truncate(&kv, &t[k], p);
        } else {
            (void) infer_kv_extend(&kv, &t[k], p);
        }

        memset(seen, 0, sizeof(seen));
        for (k = 0; k < 5; k++) {
            for (p = 0; p < t[k].n; p++) {
                bad += seen[t[k].page[p]]++ != 0;
            }
        }
        for (p = 0; p < kv.n_free; p++) {
            bad += seen[kv.free[p]]++ != 0;
        }
        for (p = 0; p < 40; p++) {
            bad += seen[p] != 1;
        }
    }

    ok(bad == 0, "each page is in exactly one place, 5000 times");
    for (k = 0; k < 5; k++) {
        infer_kv_truncate(&kv, &t[k], 0);
        infer_kv_table_done(&t[k]);
    }
    infer_kv_done(&kv);
}

int
main(void)
{
    test_tables();
    test_zero();
    test_random();
    test_share();
    test_same_time();
    test_eviction();
    test_lives();
    test_random_share();

    return tap_done();
}
