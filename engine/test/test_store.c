/*
 * test_store.c: L1 of the response cache: what is found and what is not,
 * times, purges, sizes, who stays; two processes at once, and processes that
 * die at any point.
 */

#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "store_site.h"
#include "tap.h"

#define TEST_VALUE  40000

static uint8_t  test_value[TEST_VALUE];


static void *
test_room(void *arg, size_t len)
{
    return len <= TEST_VALUE ? arg : NULL;
}

static void *
test_no_room(void *arg, size_t len)
{
    (void) arg;
    (void) len;
    return NULL;
}

static int
test_put(infer_store_t *s, uint32_t n, size_t len, uint64_t now_ms)
{
    size_t             i;
    uint8_t            value[TEST_VALUE];
    infer_store_put_t  p = {
        .ident = &n, .ident_len = sizeof(n), .value = value,
        .value_len = len, .now_ms = now_ms, .fresh_ms = 1000,
        .stale_ms = 500, .tag = n % 2 ? 77 : 0
    };

    for (i = 0; i < len && i < TEST_VALUE; i++) {
        value[i] = test_byte(n, i);
    }
    return infer_store_put(s, test_key(n), &p);
}

/* As infer_store_get(), and the value is what was put: else CORRUPT. */
static int
test_get(infer_store_t *s, uint32_t n, uint64_t now_ms, infer_store_get_t *g)
{
    int     rc;
    size_t  i;

    memset(g, 0, sizeof(*g));
    g->ident = &n;
    g->ident_len = sizeof(n);
    g->now_ms = now_ms;
    g->alloc = test_room;
    g->alloc_arg = test_value;
    rc = infer_store_get(s, test_key(n), g);
    for (i = 0; rc == INFER_OK && i < g->value_len; i++) {
        if (test_value[i] != test_byte(n, i)) {
            return INFER_CORRUPT;
        }
    }
    return rc;
}

static void *
test_map(size_t bytes)
{
    void  *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                    MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    return p == MAP_FAILED ? NULL : p;
}

/* A store that ends at the end of its memory, a guard page behind. */
static size_t
test_open(infer_store_t *s, uint32_t n_shards, uint32_t n_blocks)
{
    size_t  bytes = infer_store_bytes(n_shards, n_blocks);
    size_t  pages = (bytes + 4095) / 4096 * 4096;
    uint8_t *mem = test_map(pages + 4096);

    (void) mprotect(mem + pages, 4096, PROT_NONE);
    mem += pages - bytes;
    mem -= (uintptr_t) mem % 64;
    if (infer_store_init(mem, bytes, n_shards) != INFER_OK
        || infer_store_attach(s, mem, bytes, 1) != INFER_OK)
    {
        return 0;
    }
    return bytes;
}

/* Three entries of two origins, one of them with a tag as well. */
static void
test_origin(void)
{
    uint32_t           n;
    infer_store_t      s;
    infer_store_get_t  g;
    infer_store_put_t  p = { .ident_len = sizeof(n), .value_len = 0,
                             .value = "", .fresh_ms = 1000 };

    (void) test_open(&s, 1, 64);
    for (n = 0; n < 3; n++) {
        p.ident = &n;
        p.origin = n < 2 ? 5000 : 5001;
        p.tag = n == 1 ? 6000 : 0;
        (void) infer_store_put(&s, test_key(n), &p);
    }
    infer_store_purge_tag(&s, 4999);
    ok(test_get(&s, 0, 0, &g) == INFER_OK
       && test_get(&s, 1, 0, &g) == INFER_OK
       && test_get(&s, 2, 0, &g) == INFER_OK, "another origin purges nothing");
    infer_store_purge_tag(&s, 6000);
    ok(test_get(&s, 0, 0, &g) == INFER_OK
       && test_get(&s, 1, 0, &g) == INFER_AGAIN, "a tag purges by itself");
    infer_store_purge_tag(&s, 5000);
    ok(test_get(&s, 0, 0, &g) == INFER_AGAIN
       && test_get(&s, 2, 0, &g) == INFER_OK,
       "an origin purges what was made from it");
}

/* What is put was being made while it was purged. */
static void
test_late(void)
{
    int                   bad = 0;
    uint32_t              n, purge;
    infer_store_t         s;
    infer_store_get_t     g;
    infer_store_epochs_t  before;
    infer_store_put_t     p = { .ident = &n, .ident_len = sizeof(n),
                                .value = "", .fresh_ms = 1000, .tag = 6000,
                                .origin = 5000, .epochs = &before };

    (void) test_open(&s, 1, 64);
    for (n = 0, purge = 0; purge < 4; n++, purge++) {
        infer_store_epochs(&s, p.tag, p.origin, &before);
        if (purge == 0) {
            infer_store_purge_all(&s);
        } else if (purge < 3) {
            infer_store_purge_tag(&s, purge == 1 ? 6000 : 5000);
        }
        bad |= infer_store_put(&s, test_key(n), &p)
               != (purge < 3 ? INFER_AGAIN : INFER_OK);
        bad |= test_get(&s, n, 0, &g) != (purge < 3 ? INFER_AGAIN : INFER_OK);
    }
    ok(!bad, "what was purged while it was made does not come in");
    n = 3;
    infer_store_purge_tag(&s, 6000);
    ok(infer_store_put(&s, test_key(n), &p) == INFER_AGAIN
       && test_put(&s, n, 0, 0) == INFER_OK
       && infer_store_put(&s, test_key(n), &p) == INFER_AGAIN
       && test_get(&s, n, 0, &g) == INFER_OK, "nor takes a later one's place");
}

static void
test_basics(void)
{
    size_t             bytes, len;
    infer_store_t      s, other;
    infer_store_get_t  g;
    infer_store_put_t  p = { 0 };
    static const size_t  lens[] = { 0, 1, 2043, 2044, 2045, 4088, 10000 };

    bytes = test_open(&s, 2, 64);
    ok(bytes != 0, "a store of two shards");
    ok(infer_store_attach(&other, s.head, bytes - 64, 2) == INFER_CORRUPT,
       "another size is not attached");
    ok(test_get(&s, 1, 0, &g) == INFER_AGAIN, "nothing there");

    for (size_t i = 0; i < sizeof(lens) / sizeof(lens[0]); i++) {
        len = lens[i];
        ok(test_put(&s, 1, len, 100) == INFER_OK
           && test_get(&s, 1, 150, &g) == INFER_OK && g.value_len == len
           && g.age_ms == 50 && g.left_ms == 950 && !g.stale,
           "%zu bytes come back", len);
    }
    ok(test_put(&s, 2, 8 * 2044 + 1, 100) == INFER_INVALID,
       "no entry above an eighth of a shard");

    p.ident = "other";
    p.ident_len = 5;
    ok(infer_store_put(&s, test_key(1), &p) == INFER_OK
       && test_get(&s, 1, 0, &g) == INFER_AGAIN,
       "equal hashes of different requests are a miss");

    (void) test_put(&s, 3, 10, 0);
    memset(&g, 0, sizeof(g));
    g.ident = &(uint32_t) { 3 };
    g.ident_len = 4;
    g.alloc = test_no_room;
    ok(infer_store_get(&s, test_key(3), &g) == INFER_NOMEM
       && test_get(&s, 3, 0, &g) == INFER_OK, "no memory loses nothing");
    ok(infer_store_remove(&s, test_key(3)) == INFER_OK
       && infer_store_remove(&s, test_key(3)) == INFER_AGAIN
       && test_get(&s, 3, 0, &g) == INFER_AGAIN, "removed");
}

static void
test_times(void)
{
    infer_store_t        s;
    infer_store_get_t    g;
    infer_store_stats_t  st;

    (void) test_open(&s, 1, 64);
    (void) test_put(&s, 1, 100, 5000);
    ok(test_get(&s, 1, 5999, &g) == INFER_OK && !g.stale && g.left_ms == 1,
       "fresh to the end");
    ok(test_get(&s, 1, 6000, &g) == INFER_OK && g.stale && g.left_ms == 0
       && g.age_ms == 1000, "then stale");
    ok(test_get(&s, 1, 6500, &g) == INFER_AGAIN, "then gone");
    infer_store_stats(&s, &st);
    ok(st.entries == 0 && st.bytes == 0 && st.expired == 1 && st.hits == 1
       && st.stale == 1 && st.misses == 1 && st.tries == 4, "and counted");

    (void) test_put(&s, 1, 100, 0);
    (void) test_put(&s, 2, 100, 0);
    infer_store_purge_tag(&s, 77);
    ok(test_get(&s, 1, 0, &g) == INFER_AGAIN
       && test_get(&s, 2, 0, &g) == INFER_OK, "a tag is purged");
    (void) test_put(&s, 1, 100, 0);
    ok(test_get(&s, 1, 0, &g) == INFER_OK, "what comes later stays");
    infer_store_purge_all(&s);
    ok(test_get(&s, 1, 0, &g) == INFER_AGAIN
       && test_get(&s, 2, 0, &g) == INFER_AGAIN, "all are purged");

    (void) test_put(&s, 2, 100, (uint64_t) -400);
    ok(test_get(&s, 2, 100, &g) == INFER_OK && !g.stale && g.left_ms == 500
       && g.age_ms == 500, "older than the clock");
}

/* Entries of the store, by looking. */
static uint32_t
test_blocks(const infer_store_t *s)
{
    infer_store_stats_t  st;

    infer_store_stats(s, &st);
    return (uint32_t) (st.bytes / INFER_STORE_BLOCK);
}

static void
test_policy(void)
{
    uint32_t           i, k, found = 0;
    infer_store_t      s;
    infer_store_get_t  g;

    (void) test_open(&s, 1, 200);
    for (k = 0; k < 5; k++) {
        for (i = 0; i < 100; i++) {
            if (test_get(&s, i, 0, &g) != INFER_OK) {
                (void) test_put(&s, i, 100, 0);
            }
        }
    }
    for (i = 1000; i < 6000; i++) {
        (void) test_get(&s, i, 0, &g);
        (void) test_put(&s, i, 100 + i % 5 * 2000, 0);
    }
    for (i = 0; i < 100; i++) {
        found += test_get(&s, i, 0, &g) == INFER_OK;
    }
    ok(found >= 98, "5,000 that come once do not drive 100 away (%u left)",
       found);
    ok(test_blocks(&s) <= 200, "no more blocks than there are");

    for (k = 0; k < 40; k++) {
        for (i = 7000; i < 7100; i++) {
            if (test_get(&s, i, 0, &g) != INFER_OK) {
                (void) test_put(&s, i, 2500, 0);
            }
        }
    }
    found = 0;
    for (i = 7000; i < 7100; i++) {
        found += test_get(&s, i, 0, &g) == INFER_OK;
    }
    ok(found >= 85, "others that are wanted more take their place (%u)",
       found);
}

/* One round of requests for n keys from first on; how many were hits. */
static uint32_t
test_round(infer_store_t *s, uint32_t first, uint32_t n, uint64_t now_ms)
{
    uint32_t           i, found = 0;
    infer_store_get_t  g;

    for (i = first; i < first + n; i++) {
        if (test_get(s, i, now_ms, &g) == INFER_OK) {
            found++;
        } else {
            (void) test_put(s, i, 100, now_ms);
        }
    }
    return found;
}

/* What is popular, for long, and then not; what only looks like that. */
static void
test_change(void)
{
    uint32_t           i, found = 0;
    infer_store_t      s;
    infer_store_get_t  g;

    (void) test_open(&s, 1, 200);
    for (i = 0; i < 200; i++) {
        (void) test_round(&s, 0, 180, 0);
    }
    (void) test_round(&s, 10000, 5000, 0);
    ok(test_round(&s, 0, 180, 0) >= 175, "a scan changes nothing");

    ok(test_round(&s, 0, 180, 5000) == 0, "all have come to their end");
    for (i = 0; i < 5; i++) {
        (void) test_round(&s, 0, 180, 5000);
    }
    (void) test_get(&s, 9, 5000, &g);
    ok(g.frequency > 50, "which is no change either: %u", g.frequency);

    for (i = 0; i < 6; i++) {
        found = test_round(&s, 500, 180, 5000);
    }
    ok(found >= 150, "others instead are in soon (%u of 180)", found);
}

/* Random work; every value that is found must be its own. */
static int
test_work(infer_store_t *s, uint32_t seed, uint32_t rounds)
{
    int                rc, bad = 0;
    uint32_t           i, n;
    infer_store_get_t  g;

    for (i = 0; i < rounds; i++) {
        seed = seed * 1664525 + 1013904223;
        n = (seed >> 8) % 300;
        rc = test_get(s, n, i / 50, &g);
        bad += rc == INFER_CORRUPT;
        if (rc == INFER_AGAIN) {
            (void) test_put(s, n, n * 37 % 9000, i / 50);
        }
        if (seed >> 28 == 3) {
            (void) infer_store_remove(s, test_key(n + 1));
        }
    }
    return bad;
}

static int
test_alive(void *arg, uint32_t owner)
{
    return owner != *(uint32_t *) arg;
}

static void
test_two(void)
{
    int                  status = 0;
    pid_t                pid;
    infer_store_t        s, child;
    infer_store_stats_t  st;

    (void) test_open(&s, 4, 256);
    pid = fork();
    if (pid == 0) {
        child = s;
        child.owner = 2;
        _exit(test_work(&child, 11, 30000) != 0);
    }
    ok(test_work(&s, 5, 30000) == 0, "two at once: no wrong byte here");
    (void) waitpid(pid, &status, 0);
    ok(WIFEXITED(status) && WEXITSTATUS(status) == 0, "nor there");
    infer_store_stats(&s, &st);
    diag("%llu of %llu tries found a shard busy",
         (unsigned long long) st.busy, (unsigned long long) st.tries);
}

static void
test_death(void)
{
    int                  i, bad = 0, status;
    pid_t                pid;
    uint32_t             dead = 2, wiped = 0;
    infer_store_t        s, child;
    infer_store_get_t    g;
    infer_store_stats_t  st;

    (void) test_open(&s, 1, 256);
    for (i = 0; i < 60; i++) {
        pid = fork();
        if (pid == 0) {
            child = s;
            child.owner = dead;
            for ( ;; ) {
                (void) test_work(&child, (uint32_t) i, 1000);
            }
        }
        usleep(1000 + (unsigned) i * 97 % 1500);
        kill(pid, SIGKILL);
        (void) waitpid(pid, &status, 0);
        wiped += infer_store_recover(&s, test_alive, &dead);
        bad += test_work(&s, (uint32_t) i, 300);
        bad += test_get(&s, 1, 0, &g) == INFER_BUSY;
    }
    infer_store_stats(&s, &st);
    ok(bad == 0, "60 killed at work: no wrong byte, no lock left");
    ok(st.wiped == wiped, "%u wiped shards are counted", wiped);

    /* by hand: one that died while it changed the lists, one that did not */
    (void) test_put(&s, 400, 10, 0);
    store_shard(s.head, test_key(400))->lock = dead;
    ok(test_get(&s, 400, 0, &g) == INFER_BUSY, "a locked shard is busy");
    ok(infer_store_recover(&s, test_alive, &(uint32_t) { 9 }) == 0
       && test_get(&s, 400, 0, &g) == INFER_BUSY,
       "one whose owner lives stays locked");
    ok(infer_store_recover(&s, test_alive, &dead) == 0
       && test_get(&s, 400, 0, &g) == INFER_OK, "unlocked, nothing lost");
    store_shard(s.head, test_key(400))->lock = dead;
    store_shard(s.head, test_key(400))->dirty = 1;
    ok(infer_store_recover(&s, test_alive, &dead) == 1
       && test_get(&s, 400, 0, &g) == INFER_AGAIN
       && test_blocks(&s) == 0, "half-changed: wiped");
    ok(test_put(&s, 400, 10, 0) == INFER_OK
       && test_get(&s, 400, 0, &g) == INFER_OK, "and it goes on");
}

static void
test_flights(void)
{
    uint32_t              i;
    infer_store_t         s;
    infer_store_flight_t  f, a = { .generation = 9, .slot = 3 };
    infer_store_flight_t  b = { .generation = 1, .slot = 4 };

    (void) test_open(&s, 1, 64);
    ok(infer_store_flight(&s, test_key(1), &f) == INFER_AGAIN, "no flight");
    ok(infer_store_takeoff(&s, test_key(1), a) == INFER_OK
       && infer_store_flight(&s, test_key(1), &f) == INFER_OK
       && f.slot == 3 && f.generation == 9, "a flight");
    ok(infer_store_takeoff(&s, test_key(1), b) == INFER_OK
       && infer_store_land(&s, test_key(1), a) == INFER_AGAIN
       && infer_store_flight(&s, test_key(1), &f) == INFER_OK
       && f.slot == 4, "the later one stays when the earlier one lands");
    ok(infer_store_land(&s, test_key(1), b) == INFER_OK
       && infer_store_flight(&s, test_key(1), &f) == INFER_AGAIN, "landed");
    ok(infer_store_board(&s, test_key(1), a, &f, NULL) == INFER_OK
       && infer_store_board(&s, test_key(1), b, &f, NULL) == INFER_AGAIN
       && f.slot == 3, "the second one on board learns of the first");
    (void) infer_store_land(&s, test_key(1), a);
    for (i = 0; i < INFER_STORE_FLIGHTS + 1; i++) {
        (void) infer_store_takeoff(&s, test_key(i), a);
    }
    ok(infer_store_flight(&s, test_key(0), &f) == INFER_AGAIN
       && infer_store_flight(&s, test_key(i - 1), &f) == INFER_OK,
       "a full table forgets its oldest");
}

/* As test_put() of what a flight made. */
static int
test_arrive(infer_store_t *s, uint32_t n, const infer_store_flight_t *flight)
{
    uint8_t            value[100];
    size_t             i;
    infer_store_put_t  p = {
        .ident = &n, .ident_len = sizeof(n), .value = value,
        .value_len = sizeof(value), .fresh_ms = 1000, .stale_ms = 500,
        .flight = flight
    };

    for (i = 0; i < sizeof(value); i++) {
        value[i] = test_byte(n, i);
    }
    return infer_store_put(s, test_key(n), &p);
}

/* A flight and what it made are one after the other without a gap: whoever
 * boards at any time meets one of them, unless he does not want to. */
static void
test_arrivals(void)
{
    uint32_t              n = 1, other = 2;
    infer_store_t         s;
    infer_store_get_t     g;
    infer_store_flight_t  f, a = { .generation = 9, .slot = 3 };
    infer_store_flight_t  b = { .generation = 1, .slot = 4 };

    (void) test_open(&s, 1, 64);
    (void) infer_store_board(&s, test_key(n), a, &f, NULL);
    ok(test_get(&s, n, 0, &g) == INFER_AGAIN, "two look: nothing there");
    g.ident = &n;
    ok(infer_store_board(&s, test_key(n), b, &f, &g) == INFER_AGAIN
       && f.slot == 3, "while it is made the flight is met");
    ok(test_arrive(&s, n, &a) == INFER_OK
       && infer_store_flight(&s, test_key(n), &f) == INFER_AGAIN,
       "a put lands it");
    g.now_ms = 999;
    ok(infer_store_board(&s, test_key(n), b, &f, &g) == INFER_CANCELLED
       && g.value_len == 100 && g.left_ms == 1
       && infer_store_flight(&s, test_key(n), &f) == INFER_AGAIN,
       "who boards now has the value");
    ok(test_arrive(&s, n, &a) == INFER_CANCELLED, "it lands once");

    ok(infer_store_board(&s, test_key(n), b, &f, NULL) == INFER_OK,
       "one that is made anew boards past it");
    (void) infer_store_land(&s, test_key(n), b);
    g.ident = &other;
    ok(infer_store_board(&s, test_key(n), b, &f, &g) == INFER_OK,
       "so does another request of the same key");
    (void) infer_store_land(&s, test_key(n), b);
    g.ident = &n;
    g.now_ms = 1000;
    ok(infer_store_board(&s, test_key(n), b, &f, &g) == INFER_OK,
       "and one that comes when its time is over");
    infer_store_purge_all(&s);
    ok(test_arrive(&s, n, &a) == INFER_CANCELLED
       && test_arrive(&s, n, &b) == INFER_OK,
       "the flight that is known lands, another one does not");
    ok(test_get(&s, n, 0, &g) == INFER_OK, "and is found");

    (void) infer_store_board(&s, test_key(other), a, &f, NULL);
    infer_store_epochs(&s, 0, 77, &a.epochs);
    infer_store_purge_tag(&s, 77);
    ok(infer_store_put(&s, test_key(other), &(infer_store_put_t) {
           .ident = &other, .ident_len = sizeof(other), .value = &other,
           .value_len = 4, .fresh_ms = 1000, .origin = 77,
           .epochs = &a.epochs, .flight = &a }) == INFER_AGAIN
       && infer_store_flight(&s, test_key(other), &f) == INFER_AGAIN,
       "purged while it was made: it lands with nothing");
}

int
main(void)
{
    test_basics();
    test_origin();
    test_late();
    test_times();
    test_policy();
    test_change();
    test_two();
    test_death();
    test_flights();
    test_arrivals();

    return tap_done();
}
