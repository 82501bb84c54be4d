/*
 * test_kv.c: page numbers: order of use, limits, give-back, zeroing.
 */

#include <string.h>

#include "run/kv.h"
#include "tap.h"


static void
test_tables(void)
{
    infer_kv_t        kv;
    infer_kv_table_t  a, b;

    ok(infer_kv_init(&kv, 6) == INFER_OK && kv.n_free == 6, "a pool");
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

    (void) infer_kv_init(&kv, 3);
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

/* Random growth and shrinking: no page is ever in two tables. */
static void
test_random(void)
{
    uint32_t          i, k, p, seed = 1, bad = 0;
    uint8_t           seen[40];
    infer_kv_t        kv;
    infer_kv_table_t  t[5];

    (void) infer_kv_init(&kv, 40);
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

    return tap_done();
}
