/*
 * test_store_pin.c: values of the store that are read where they lie, while
 * they are replaced, evicted, purged and wiped, by processes that die.
 */

#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "store_site.h"
#include "tap.h"

#define TEST_VALUE   20000
#define TEST_BLOCKS  256
#define TEST_HELD    6

typedef struct {
    uint32_t           n;
    size_t             len;
    infer_store_ref_t  ref;
} test_held_t;


static void *
test_room(void *arg, size_t len)
{
    static uint8_t  room[TEST_VALUE];

    (void) arg;
    return len <= TEST_VALUE ? room : NULL;
}

static int
test_put(infer_store_t *s, uint32_t n, size_t len)
{
    size_t             i;
    static uint8_t     value[TEST_VALUE];
    infer_store_put_t  p = {
        .ident = &n, .ident_len = sizeof(n), .value = value,
        .value_len = len, .fresh_ms = 1000, .stale_ms = 1000
    };

    for (i = 0; i < len; i++) {
        value[i] = test_byte(n, i);
    }
    return infer_store_put(s, test_key(n), &p);
}

static int
test_get_at(infer_store_t *s, uint32_t n, size_t min, uint64_t now_ms,
    test_held_t *h, infer_store_get_t *g)
{
    int  rc;

    memset(h, 0, sizeof(*h));
    memset(g, 0, sizeof(*g));
    g->ident = &n;
    g->ident_len = sizeof(n);
    g->now_ms = now_ms;
    g->alloc = test_room;
    g->ref = &h->ref;
    g->ref_min = min;
    rc = infer_store_get(s, test_key(n), g);
    h->n = n;
    h->len = g->value_len;
    return rc;
}

/* 1: found, and stays where it is. */
static int
test_hold(infer_store_t *s, uint32_t n, test_held_t *h)
{
    infer_store_get_t  g;

    return test_get_at(s, n, 1, 0, h, &g) == INFER_OK && g.value == NULL;
}

/* 1: found, and copied. */
static int
test_copied(infer_store_t *s, uint32_t n)
{
    test_held_t        h;
    infer_store_get_t  g;

    return test_get_at(s, n, 1, 0, &h, &g) == INFER_OK && g.value != NULL
           && h.ref.count == NULL
           && ((uint8_t *) g.value)[h.len - 1] == test_byte(n, h.len - 1);
}

/* 1: all its bytes are there, in pieces of any size. */
static int
test_good(const test_held_t *h)
{
    size_t              i, at = 0, n;
    const uint8_t      *p;
    infer_store_ref_t   r = h->ref;

    for ( ;; ) {
        n = infer_store_piece(&r, at % 3 ? 777 : SIZE_MAX, &p);
        if (n == 0) {
            return at == h->len;
        }
        for (i = 0; i < n; i++) {
            if (p[i] != test_byte(h->n, at + i)) {
                return 0;
            }
        }
        at += n;
    }
}

static void
test_open(infer_store_t *s, uint32_t n_blocks)
{
    size_t   bytes = infer_store_bytes(1, n_blocks);
    void    *mem = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                        MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    if (mem == MAP_FAILED || infer_store_init(mem, bytes, 1) != INFER_OK
        || infer_store_attach(s, mem, bytes, 1) != INFER_OK)
    {
        exit(1);
    }
}

static store_shard_t *
test_shard(const infer_store_t *s)
{
    return store_shard(s->head, test_key(0));
}

static infer_store_t
test_other(const infer_store_t *s, uint32_t owner)
{
    infer_store_t  other = *s;

    other.owner = owner;
    return other;
}

/* Blocks that are neither free nor an entry's; with nobody at work. */
static int
test_lost(const infer_store_t *s)
{
    uint32_t        i, n = 0, free = 0;
    store_shard_t  *sh = test_shard(s);

    for (i = STORE_WINDOW; i < STORE_N_LISTS; i++) {
        n += sh->list[i].blocks;
    }
    for (i = sh->free_block; i != STORE_NONE; i = store_blocks(sh)[i].next) {
        free++;
    }
    return free == sh->n_free && sh->used == n && sh->orphans == 0
           ? (int) (sh->n_blocks - n - free) : -1;
}

static void
test_fill(infer_store_t *s, uint32_t from)
{
    uint32_t    i;
    test_held_t h;

    for (i = from; i < from + 600; i++) {
        (void) test_put(s, i, 3000);
        if (test_hold(s, i, &h)) {
            infer_store_release(&h.ref);
        }
    }
}

static uint64_t
test_refs(const infer_store_t *s)
{
    infer_store_stats_t  st;

    infer_store_stats(s, &st);
    return st.refs;
}

static int
test_alive(void *arg, uint32_t owner)
{
    return owner != *(uint32_t *) arg;
}

/* ---- */

static void
test_pieces(void)
{
    int                bad = 0;
    size_t             len;
    test_held_t        h, h2;
    infer_store_t      s;
    infer_store_get_t  g;

    test_open(&s, TEST_BLOCKS);
    for (len = 1; len < 9000; len += len < 2030 || len > 4200 ? 97 : 1) {
        (void) test_put(&s, 1, len);
        bad += !test_hold(&s, 1, &h) || !test_good(&h);
        infer_store_release(&h.ref);
    }
    ok(bad == 0, "values of all lengths are read in place");
    ok(test_get_at(&s, 1, len + 1, 0, &h, &g) == INFER_OK
       && g.value != NULL && h.ref.count == NULL, "a short one is copied");
    ok(test_get_at(&s, 1, 1, 1500, &h, &g) == INFER_OK && g.stale
       && g.value != NULL, "and one past its time");

    ok(test_hold(&s, 1, &h) && test_hold(&s, 1, &h2) && test_refs(&s) == 2,
       "two readers");
    infer_store_release(&h.ref);
    infer_store_release(&h.ref);
    ok(test_refs(&s) == 1 && test_good(&h2), "a release counts once");
    infer_store_release(&h2.ref);
    ok(test_refs(&s) == 0 && test_lost(&s) == 0, "all is given back");
}

static void
test_gone(void)
{
    test_held_t         h, h2;
    infer_store_t       s, other;
    infer_store_get_t   g;

    test_open(&s, TEST_BLOCKS);
    other = test_other(&s, 2);
    (void) test_put(&s, 1, 9000);
    ok(test_hold(&s, 1, &h) && test_hold(&other, 1, &h2),
       "readers of two processes");
    (void) test_put(&s, 1, 5000);
    test_fill(&s, 1000);
    ok(test_good(&h) && test_good(&h2), "replaced: they read the old one");
    infer_store_release(&h.ref);
    test_fill(&s, 2000);
    ok(test_good(&h2), "the first has gone: the second reads on");
    infer_store_release(&h2.ref);
    (void) test_hold(&s, 1, &h);
    infer_store_release(&h.ref);
    ok(test_lost(&s) == 0, "the last one too: its blocks are free");

    (void) test_put(&s, 2, 9000);
    ok(test_hold(&s, 2, &h) && infer_store_remove(&s, test_key(2)) == INFER_OK,
       "removed under a reader");
    test_fill(&s, 3000);
    ok(test_good(&h), "who reads on");
    infer_store_release(&h.ref);

    (void) test_put(&s, 3, 9000);
    (void) test_hold(&s, 3, &h);
    infer_store_purge_all(&s);
    ok(test_get_at(&s, 3, 1, 0, &h2, &g) == INFER_AGAIN, "purged");
    test_fill(&s, 4000);
    ok(test_good(&h), "and read on");
    infer_store_release(&h.ref);
    test_fill(&s, 5000);
    ok(test_lost(&s) == 0, "nothing is lost");
}

static void
test_limits(void)
{
    int                bad = 0;
    uint32_t           i, n;
    test_held_t        h[TEST_BLOCKS];
    infer_store_t      s, other;

    test_open(&s, TEST_BLOCKS);
    for (n = 0; n < 20; n++) {
        (void) test_put(&s, n, 18000);
        if (!test_hold(&s, n, &h[n])) {
            break;
        }
    }
    ok(n == TEST_BLOCKS / 2 / 9, "half of a shard is read in place (%u)", n);
    ok(test_copied(&s, n), "then values are copied");
    test_fill(&s, 1000);
    for (i = 0; i < n; i++) {
        bad += !test_good(&h[i]);
        infer_store_release(&h[i].ref);
    }
    ok(bad == 0, "and entries come and go in the other half");

    (void) test_put(&s, 50, 100);
    for (i = 0; i < STORE_PINS; i++) {
        other = test_other(&s, 100 + i);
        bad += !test_hold(&other, 50, &h[i]);
    }
    ok(bad == 0 && test_copied(&s, 50), "all pins taken: copied");
    other = test_other(&s, 100);
    ok(test_hold(&other, 50, &h[i]), "but for who has one");
    for (i = 0; i < STORE_PINS + 1; i++) {
        infer_store_release(&h[i].ref);
    }
    ok(test_hold(&s, 50, &h[0]), "given back: in place again");
    infer_store_release(&h[0].ref);
    ok(test_lost(&s) == 0, "nothing is lost");
}

static void
test_dead(void)
{
    uint32_t        dead = 2;
    test_held_t     mine, theirs, both;
    infer_store_t   s, other;
    store_shard_t  *sh;

    test_open(&s, TEST_BLOCKS);
    sh = test_shard(&s);
    other = test_other(&s, dead);
    (void) test_put(&s, 1, 9000);
    (void) test_put(&s, 2, 9000);
    (void) test_put(&s, 3, 9000);
    ok(test_hold(&s, 1, &mine) && test_hold(&other, 2, &theirs)
       && test_hold(&s, 3, &both) && test_hold(&other, 3, &theirs),
       "two that read");
    (void) infer_store_remove(&s, test_key(2));
    ok(infer_store_recover(&s, test_alive, &dead) == 0 && test_refs(&s) == 2
       && test_lost(&s) == 0, "one dies: its readers are gone, ours are not");

    /* half-changed by another, while both of ours read */
    sh->lock = dead;
    sh->dirty = 1;
    ok(infer_store_recover(&s, test_alive, &dead) == 1
       && !test_hold(&s, 1, &both), "a wiped shard");
    (void) test_hold(&s, 3, &both);
    test_fill(&s, 1000);
    ok(test_good(&mine), "is read on");
    infer_store_release(&mine.ref);
    test_fill(&s, 2000);
    ok(sh->orphans == 1, "until its last reader");

    sh->lock = dead;
    sh->dirty = 1;
    (void) infer_store_recover(&s, test_alive, &(uint32_t) { 2 });
    ok(sh->orphans == 1 && sh->n_free == sh->n_blocks - 5,
       "wiped again: the same reader");
    (void) infer_store_recover(&s, test_alive, &(uint32_t) { 1 });
    ok(test_refs(&s) == 0 && sh->n_free == sh->n_blocks && test_lost(&s) == 0,
       "a process of the same number has none of them");
}

/* Random work with values held over many steps; a wrong byte is bad. */
static int
test_work(infer_store_t *s, uint32_t seed, uint32_t rounds)
{
    int           bad = 0;
    uint32_t      i, n;
    test_held_t   held[TEST_HELD] = { 0 }, *h;

    for (i = 0; i < rounds; i++) {
        seed = seed * 1664525 + 1013904223;
        n = (seed >> 8) % 200;
        h = &held[i % TEST_HELD];
        if (h->ref.count != NULL) {
            bad += !test_good(h);
            infer_store_release(&h->ref);
        }
        if (!test_hold(s, n, h)) {
            (void) test_put(s, n, 100 + n * 37 % 9000);
        }
        if (seed >> 28 == 3) {
            (void) infer_store_remove(s, test_key(n + 1));
        }
    }
    for (i = 0; i < TEST_HELD; i++) {
        bad += held[i].ref.count != NULL && !test_good(&held[i]);
        infer_store_release(&held[i].ref);
    }
    return bad;
}

static void
test_deaths(void)
{
    int            i, bad = 0, status;
    pid_t          pid;
    uint32_t       dead = 2, wiped = 0;
    test_held_t    held, h;
    infer_store_t  s, child;

    test_open(&s, TEST_BLOCKS);
    for (i = 0; i < 60; i++) {
        (void) test_put(&s, 500, 15000);
        memset(&held, 0, sizeof(held));
        (void) test_hold(&s, 500, &held);
        pid = fork();
        if (pid == 0) {
            child = test_other(&s, dead);
            for ( ;; ) {
                (void) test_work(&child, (uint32_t) i, 1000);
            }
        }
        usleep(1000 + (unsigned) i * 97 % 1500);
        kill(pid, SIGKILL);
        (void) waitpid(pid, &status, 0);
        wiped += infer_store_recover(&s, test_alive, &dead);
        bad += test_work(&s, (uint32_t) i, 300);
        bad += held.ref.count != NULL && !test_good(&held);
        infer_store_release(&held.ref);
    }
    (void) test_hold(&s, 500, &h);
    infer_store_release(&h.ref);
    (void) infer_store_recover(&s, test_alive, &dead);
    ok(bad == 0, "60 killed while they read and write: no wrong byte");
    ok(test_refs(&s) == 0 && test_lost(&s) == 0,
       "no reader and no block is lost (%u wiped)", wiped);
}

int
main(void)
{
    test_pieces();
    test_gone();
    test_limits();
    test_dead();
    test_deaths();

    return tap_done();
}
