/*
 * test_owner.c: who of a store's processes lives: not who has a pid, nor who
 * has a byte, but who had it when the number was given.
 */

#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cache/owner.h"
#include "ipc/bus.h"
#include "store_site.h"
#include "tap.h"

#define TEST_VALUE  9000

typedef struct {
    infer_owners_t  owners;
    infer_store_t   store;                /* a view, before it has an owner */
    uint32_t        mine;                 /* of the parent */
    int             fd;
} test_site_t;

static uint8_t  test_value[TEST_VALUE];


static void *
test_map(size_t bytes)
{
    void  *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                    MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    if (p == MAP_FAILED) {
        printf("Bail out! no memory\n");
        exit(1);
    }
    return p;
}

static test_site_t *
test_open(void)
{
    size_t        bytes = infer_store_bytes(1, 256);
    test_site_t  *t = test_map(sizeof(*t));
    void         *mem = test_map(bytes);

    t->fd = memfd_create("owners", MFD_CLOEXEC);
    if (t->fd < 0 || infer_store_init(mem, bytes, 1) != INFER_OK
        || infer_store_attach(&t->store, mem, bytes, 1) != INFER_OK)
    {
        printf("Bail out! no store\n");
        exit(1);
    }
    return t;
}

static void *
test_room(void *arg, size_t len)
{
    (void) arg;
    return len <= TEST_VALUE ? test_value : NULL;
}

/* 1: found, and stays where it is. */
static int
test_hold(infer_store_t *s, uint32_t n)
{
    infer_store_ref_t  ref = { 0 };
    infer_store_get_t  g = {
        .ident = &n, .ident_len = sizeof(n), .ref = &ref, .ref_min = 1,
        .alloc = test_room
    };

    return infer_store_get(s, test_key(n), &g) == INFER_OK
           && ref.count != NULL;
}

/* A process that has a number, reads value n in place (0: none), and waits. */
static pid_t
test_process(test_site_t *t, uint32_t n, uint32_t *owner)
{
    int            end[2];
    pid_t          pid;
    infer_store_t  s = t->store;

    if (pipe(end) != 0 || (pid = fork()) < 0) {
        printf("Bail out! no process\n");
        exit(1);
    }
    if (pid == 0) {
        if (infer_owner_claim(&t->owners, t->fd, &s.owner) != INFER_OK) {
            s.owner = 0;
        }
        if ((n != 0 && !test_hold(&s, n))
            || write(end[1], &s.owner, sizeof(s.owner)) != sizeof(s.owner))
        {
            _exit(1);
        }
        (void) pause();
        _exit(0);
    }
    (void) close(end[1]);
    if (read(end[0], owner, sizeof(*owner)) != sizeof(*owner)) {
        *owner = 0;
    }
    (void) close(end[0]);
    return pid;
}

static void
test_bury(pid_t pid)
{
    (void) kill(pid, SIGKILL);
    (void) waitpid(pid, NULL, 0);
}

/* Dead, and still there for kill(). */
static void
test_zombie(pid_t pid)
{
    siginfo_t  si;

    (void) kill(pid, SIGKILL);
    (void) waitid(P_PID, (id_t) pid, &si, WEXITED | WNOWAIT);
}

static int
test_alive(void *arg, uint32_t owner)
{
    const test_site_t  *t = arg;

    return infer_owner_alive(&t->owners, t->fd, t->mine, owner);
}

static uint64_t
test_refs(const test_site_t *t)
{
    infer_store_stats_t  st;

    infer_store_stats(&t->store, &st);
    return st.refs;
}

static void
test_numbers(void)
{
    pid_t         first, second;
    uint32_t      a, b;
    test_site_t  *t = test_open();

    first = test_process(t, 0, &a);
    ok(a != 0 && infer_owner_claim(&t->owners, t->fd, &t->mine) == INFER_OK
       && t->mine != 0 && t->mine != a, "two processes have two numbers");
    ok(test_alive(t, a) && test_alive(t, t->mine), "and both live");
    test_zombie(first);
    ok(kill(first, 0) == 0 && !test_alive(t, a),
       "one is dead although its pid is not free");
    second = test_process(t, 0, &b);
    ok(b % INFER_OWNERS == a % INFER_OWNERS && b != a,
       "another has its byte, and a number of its own");
    ok(test_alive(t, b) && !test_alive(t, a), "only that one lives");
    test_bury(first);
    test_bury(second);
}

static void
test_full(void)
{
    int           i;
    pid_t         last;
    uint32_t      owner = 0;
    test_site_t  *t = test_open();

    for (i = 0; i < INFER_OWNERS; i++) {
        (void) infer_lock_take(t->fd, (uint32_t) i);
    }
    last = test_process(t, 0, &owner);
    ok(owner == 0, "all bytes are taken: no number");
    test_bury(last);
    infer_lock_drop(t->fd, INFER_OWNERS - 1);
    last = test_process(t, 0, &owner);
    ok(owner % INFER_OWNERS == INFER_OWNERS - 1, "one is given back");
    test_bury(last);
}

/* What the dead read in place is given back, what their successor reads is
 * not, by whoever looks. */
static void
test_pins(void)
{
    pid_t              first, second;
    uint32_t           n = 1, a, b;
    test_site_t       *t = test_open();
    infer_store_t      s = t->store;
    infer_store_put_t  p = {
        .ident = &n, .ident_len = sizeof(n), .value = test_value,
        .value_len = TEST_VALUE, .fresh_ms = 1000
    };

    first = test_process(t, 0, &a);
    (void) infer_owner_claim(&t->owners, t->fd, &t->mine);
    s.owner = t->mine;
    test_bury(first);
    ok(infer_store_put(&s, test_key(n), &p) == INFER_OK, "a value");
    first = test_process(t, n, &a);
    ok(a != 0 && test_refs(t) == 1, "is read in place");
    (void) infer_store_recover(&s, test_alive, t);
    ok(test_refs(t) == 1, "its reader lives");
    test_zombie(first);
    second = test_process(t, n, &b);
    ok(test_refs(t) == 2, "it dies, and another one reads");
    (void) infer_store_recover(&s, test_alive, t);
    ok(b % INFER_OWNERS == a % INFER_OWNERS && test_refs(t) == 1,
       "of the same byte: only the dead one's goes");
    test_bury(first);
    test_bury(second);
    (void) infer_store_recover(&s, test_alive, t);
    ok(test_refs(t) == 0, "then nobody reads");
}

int
main(void)
{
    test_numbers();
    test_full();
    test_pins();

    return tap_done();
}
