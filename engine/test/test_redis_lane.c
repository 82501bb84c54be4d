/*
 * test_redis_lane.c: the lane without a socket: commands out, replies in by
 * any pieces, in order; whatever a server says it is bounded and counted as by
 * a thread's call. Then a connection of a real server's, taken from a thread.
 */

#include "redis_site.h"

#include "cache/redis_lane.h"

#define T_MAX      4096                /* of a value */
/* more than that and something was allocated because it was claimed */
#define T_ROOM_KB  (48 << 10)

static infer_redis_shared_t  *shared;
static infer_redis_t         *client;
static const char *const      none[2] = { NULL, NULL };
static const char *const      both[2] = { "infer:e:1", "infer:e:2" };


static infer_redis_lane_t *
t_lane(void)
{
    infer_redis_lane_t  *l;

    if (infer_redis_lane_new(client, 0, &l) != INFER_OK) {
        rs_bail("no lane");
    }
    return l;
}

/* So many lookups that were sent. */
static infer_redis_lane_t *
t_asked(uint32_t n, const char *const counter[2], uint64_t now_us)
{
    size_t               len;
    uint32_t             i;
    infer_redis_lane_t  *l = t_lane();

    for (i = 0; i < n; i++) {
        if (infer_redis_lane_get(l, "infer:v:1", counter, now_us)
            != INFER_OK)
        {
            rs_bail("not asked");
        }
    }
    (void) infer_redis_lane_out(l, &len);
    infer_redis_lane_sent(l, len);
    return l;
}

static uint64_t
t_tripped(void)
{
    return atomic_load(&shared->server[0].failures);
}

static void
t_clear(void)
{
    memset(shared, 0, sizeof(*shared));
}

/* ---- good replies ---- */

static void
test_out(void)
{
    int                  rc = INFER_OK;
    char                 key[INFER_REDIS_KEY_MAX + 2];
    size_t               len;
    uint32_t             i;
    const char          *p;
    infer_redis_lane_t  *l = t_lane();
    static const char    want[] =
        "*2\r\n$3\r\nGET\r\n$1\r\nv\r\n*2\r\n$3\r\nGET\r\n$9\r\n"
        "infer:e:1\r\n*2\r\n$3\r\nGET\r\n$9\r\ninfer:e:2\r\n";

    (void) infer_redis_lane_out(l, &len);
    ok(len == 0 && infer_redis_lane_until_us(l) == 0, "a new lane is empty");
    ok(infer_redis_lane_get(l, "v", both, 1000) == INFER_OK, "a lookup");
    p = infer_redis_lane_out(l, &len);
    ok(len == sizeof(want) - 1 && memcmp(p, want, len) == 0,
       "a value and two counters in one go");
    for (i = 0; len != 0; i++) {
        infer_redis_lane_sent(l, 1);
        p = infer_redis_lane_out(l, &len);
        rc |= len != 0 && memcmp(p, want + i + 1, len) != 0;
    }
    ok(rc == 0 && i == sizeof(want) - 1
       && atomic_load(&shared->sent_bytes) == i, "sent byte by byte");
    ok(infer_redis_lane_until_us(l) == 1000 + RS_COMMAND_MS * 1000,
       "it waits so long");

    memset(key, 'k', sizeof(key));
    key[sizeof(key) - 1] = '\0';
    ok(infer_redis_lane_get(l, "", none, 0) == INFER_INVALID
       && infer_redis_lane_get(l, key, none, 0) == INFER_INVALID
       && infer_redis_lane_get(l, "v", (const char *[]) { "", NULL }, 0)
          == INFER_INVALID, "not of a key that is none");
    for (i = 1; i < INFER_REDIS_LANE_DEPTH; i++) {
        rc |= infer_redis_lane_get(l, "v", none, i);
    }
    ok(rc == INFER_OK && infer_redis_lane_get(l, "v", none, 0) == INFER_BUSY
       && infer_redis_lane_waiting(l) == INFER_REDIS_LANE_DEPTH,
       "crowded at its depth");
    infer_redis_lane_free(l);
}

/* Three lookups' replies by pieces of so many bytes. */
static int
pieces(const char *text, size_t len, size_t step)
{
    int                  rc, bad = 0;
    size_t               at, n;
    uint32_t             got_n = 0;
    infer_redis_got_t    got;
    infer_redis_lane_t  *l = t_asked(3, both, 0);

    for (at = 0; at < len; at += n) {
        n = len - at < step ? len - at : step;
        bad |= infer_redis_lane_feed(l, text + at, n) != INFER_OK;
        while ((rc = infer_redis_lane_pop(l, 50, &got)) == INFER_OK) {
            switch (got_n++) {
            case 0:
                bad |= got.rc != INFER_OK || got.len != 5
                       || memcmp(got.value, "a\r\nb\0", 6) != 0
                       || got.count[0] != 7 || got.count[1] != 0;
                break;
            case 1:
                bad |= got.rc != INFER_AGAIN || got.value != NULL
                       || got.count[0] != 0
                       || got.count[1] != 18446744073709551615ull;
                break;
            default:
                bad |= got.rc != INFER_BUSY || got.value != NULL;
            }
            free(got.value);
        }
        bad |= rc != INFER_AGAIN;
    }
    bad |= got_n != 3 || infer_redis_lane_waiting(l) != 0;
    infer_redis_lane_free(l);
    return bad;
}

static void
test_pieces(void)
{
    int                bad = 0;
    size_t             step;
    static const char  text[] =
        "$5\r\na\r\nb\0\r\n$1\r\n7\r\n$-1\r\n"
        "$-1\r\n$-1\r\n$20\r\n18446744073709551615\r\n"
        "-WRONGTYPE no\r\n$1\r\n1\r\n$1\r\n2\r\n";

    t_clear();
    for (step = 1; step < sizeof(text); step++) {
        bad |= pieces(text, sizeof(text) - 1, step);
    }
    ok(bad == 0, "replies come in order, by any pieces");
    step = sizeof(text) - 1;
    ok(atomic_load(&shared->calls) == 3 * step
       && atomic_load(&shared->failed) == step
       && atomic_load(&shared->latency_us) == 3 * 50 * step
       && t_tripped() == 0, "each is counted, an error against no server");
    ok(strstr(infer_redis_why(atomic_load(&shared->why)), "error") != NULL,
       "and why it is one");
}

/* ---- what is none ---- */

typedef struct {
    const char  *name, *bytes;
    uint32_t     why;
    int          counts;                   /* against the server */
} said_t;

#define NEST  "*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n"

static const said_t  said[] = {
    { "garbage", "HTTP/1.1 400 Bad Request\r\n\r\n", INFER_REDIS_NONSENSE, 1 },
    { "bytes", "\x01\x02\xff\xfe\r\n", INFER_REDIS_NONSENSE, 1 },
    { "$2147483647", "$2147483647\r\n", INFER_REDIS_OVERSIZED, 0 },
    { "$9223372036854775807", "$9223372036854775807\r\n",
      INFER_REDIS_OVERSIZED, 0 },
    { "one byte too many", "$4097\r\n", INFER_REDIS_OVERSIZED, 0 },
    { "$-2", "$-2\r\n", INFER_REDIS_NONSENSE, 1 },
    { "*2147483647", "*2147483647\r\n", INFER_REDIS_OVERSIZED, 0 },
    { "an array", "*1\r\n$1\r\nv\r\n", INFER_REDIS_OVERSIZED, 0 },
    { "nested arrays", NEST NEST NEST, INFER_REDIS_OVERSIZED, 0 },
    { "an integer", ":5\r\n$-1\r\n$-1\r\n", INFER_REDIS_NONSENSE, 1 },
    { "a status", "+OK\r\n$-1\r\n$-1\r\n", INFER_REDIS_NONSENSE, 1 },
    { "a counter of letters", "$-1\r\n$1\r\nx\r\n$-1\r\n",
      INFER_REDIS_NONSENSE, 1 },
    { "a counter of 21 digits", "$-1\r\n$21\r\n123456789012345678901\r\n"
      "$-1\r\n", INFER_REDIS_NONSENSE, 1 },
    { "a counter that is huge", "$-1\r\n$1025\r\n", INFER_REDIS_OVERSIZED,
      0 },
};

/* The second of three lookups meets it. */
static int
odd(const said_t *s)
{
    int                  rc, bad;
    uint32_t             n;
    infer_redis_got_t    got;
    infer_redis_lane_t  *l = t_asked(3, both, 0);

    t_clear();
    bad = infer_redis_lane_feed(l, "$-1\r\n$-1\r\n$-1\r\n", 15) != INFER_OK
          || infer_redis_lane_feed(l, s->bytes, strlen(s->bytes)) != INFER_OK
          || infer_redis_lane_pop(l, 50, &got) != INFER_OK
          || got.rc != INFER_AGAIN;
    rc = infer_redis_lane_pop(l, 50, &got);
    n = infer_redis_lane_end(l, rc, 60);
    bad |= rc != INFER_CORRUPT || got.value != NULL || n != 1
           || atomic_load(&shared->why) != s->why
           || (t_tripped() != 0) != s->counts
           || atomic_load(&shared->failed) != 1
           || atomic_load(&shared->oversized)
              != (s->why == INFER_REDIS_OVERSIZED);
    infer_redis_lane_free(l);
    return bad;
}

static void
test_odd(void)
{
    size_t    i, bad = 0;
    uint64_t  before = rs_room_kb();

    for (i = 0; i < sizeof(said) / sizeof(said[0]); i++) {
        if (odd(&said[i])) {
            diag("%s", said[i].name);
            bad++;
        }
    }
    ok(bad == 0, "what is no reply ends the lane, and one lookup of three");
    ok(rs_room_kb() < before + T_ROOM_KB,
       "no memory for what is only claimed");
}

/* A large line, also one with half of an end in it, and a large value never
 * come to an end. */
static void
test_endless(void)
{
    int                  i, k, rc, bad = 0;
    char                 block[1024];
    size_t               fed;
    infer_redis_got_t    got;
    infer_redis_lane_t  *l;
    static const char   *begin[] = { "+", "$4096\r\n", "+OK\r", "$12\r", "$\r",
                                     "-\r" };

    memset(block, 'x', sizeof(block));
    for (k = 0; k < (int) (sizeof(begin) / sizeof(begin[0])); k++) {
        l = t_asked(1, none, 0);
        rc = infer_redis_lane_feed(l, begin[k], strlen(begin[k]));
        fed = 0;
        for (i = 0; rc == INFER_OK && i < 64; i++) {
            bad |= infer_redis_lane_feed(l, block, sizeof(block)) != INFER_OK;
            fed += sizeof(block);
            rc = infer_redis_lane_pop(l, 0, &got);
            rc = rc == INFER_AGAIN ? INFER_OK : rc;
        }
        bad |= rc != INFER_CORRUPT || fed > T_MAX + 2048;
        infer_redis_lane_free(l);
    }
    ok(bad == 0, "what does not end is not kept");
}

/* A reply to what was not sent, and one that nobody asked for. */
static void
test_early(void)
{
    size_t               len;
    infer_redis_got_t    got;
    infer_redis_lane_t  *l = t_lane();

    (void) infer_redis_lane_get(l, "v", none, 0);
    (void) infer_redis_lane_out(l, &len);
    infer_redis_lane_sent(l, len - 1);
    (void) infer_redis_lane_feed(l, "$-1\r\n", 5);
    ok(infer_redis_lane_pop(l, 0, &got) == INFER_CORRUPT,
       "an answer before the question");
    infer_redis_lane_free(l);

    l = t_asked(1, none, 0);
    (void) infer_redis_lane_feed(l, "$-1\r\n$-1\r\n", 10);
    ok(infer_redis_lane_pop(l, 0, &got) == INFER_CORRUPT,
       "more than was asked for");
    infer_redis_lane_free(l);

    l = t_lane();
    (void) infer_redis_lane_feed(l, "+", 1);
    ok(infer_redis_lane_pop(l, 0, &got) == INFER_CORRUPT
       && infer_redis_lane_end(l, INFER_CORRUPT, 0) == 0,
       "something unasked, which nobody has waited for");
    infer_redis_lane_free(l);
}

/* ---- the end ---- */

static void
test_end(void)
{
    uint32_t             i, n;
    uint64_t             late = RS_COMMAND_MS * 1000;
    infer_redis_got_t    got;
    infer_redis_lane_t  *l;

    t_clear();
    l = t_asked(5, none, 0);
    n = infer_redis_lane_end(l, INFER_AGAIN, 10);
    ok(n == 0 && t_tripped() == 0 && atomic_load(&shared->calls) == 0,
       "closed before an answer: a thread may ask for all");
    infer_redis_lane_free(l);

    l = t_asked(5, none, 0);
    (void) infer_redis_lane_feed(l, "$4\r\nab", 6);
    ok(infer_redis_lane_pop(l, 0, &got) == INFER_AGAIN, "a part of one");
    n = infer_redis_lane_end(l, INFER_AGAIN, 10);
    ok(n == 1 && t_tripped() == 1 && atomic_load(&shared->failed) == 1
       && atomic_load(&shared->why) == INFER_REDIS_LOST,
       "lost in a reply: that one has failed");
    infer_redis_lane_free(l);

    t_clear();
    l = t_asked(2, none, 0);
    for (i = 0; i < 3; i++) {
        (void) infer_redis_lane_get(l, "v", none, late - 1);
    }
    n = infer_redis_lane_end(l, INFER_BUSY, late);
    ok(n == 5 && atomic_load(&shared->failed) == 5
       && atomic_load(&shared->why) == INFER_REDIS_TIMEOUT, "late: all are");
    ok(t_tripped() == 2, "the breaker hears of those that waited in full");
    ok(infer_redis_lane_first(l), "two are not enough");
    infer_redis_lane_free(l);
    l = t_asked(1, none, 0);
    (void) infer_redis_lane_end(l, INFER_BUSY, late);
    ok(!infer_redis_lane_first(l), "the third opens it");
    infer_redis_lane_free(l);

    t_clear();
    l = t_asked(1, none, 0);
    (void) infer_redis_lane_feed(l, "-LOADING x\r\n", 12);
    ok(infer_redis_lane_pop(l, 0, &got) == INFER_OK && got.rc == INFER_BUSY
       && t_tripped() == 1, "a server that is loading fails too");
    infer_redis_lane_free(l);
    infer_redis_lane_free(NULL);
}

/* Values that are large, again and again: the reader's room is given back. */
static void
test_large(void)
{
    int                  bad = 0;
    char                *text = malloc(T_MAX + 16);
    size_t               len, n = (size_t) sprintf(text, "$%d\r\n", T_MAX);
    uint32_t             i, k;
    infer_redis_got_t    got;
    infer_redis_lane_t  *l = t_lane();

    memset(text + n, 'v', T_MAX);
    n += T_MAX + (size_t) sprintf(text + n + T_MAX, "\r\n");
    for (i = 0; i < 50; i++) {
        for (k = 0; k < 100; k++) {
            bad |= infer_redis_lane_get(l, "v", none, 0);
        }
        (void) infer_redis_lane_out(l, &len);
        infer_redis_lane_sent(l, len);
        for (k = 0; k < 100; k++) {
            bad |= infer_redis_lane_feed(l, text, n);
            bad |= infer_redis_lane_pop(l, 0, &got) || got.len != T_MAX
                   || ((char *) got.value)[T_MAX - 1] != 'v';
            free(got.value);
        }
    }
    ok(bad == 0, "5,000 values of the most that there may be");
    infer_redis_lane_free(l);
    free(text);
}

/* ---- a real one ---- */

static int
real_get(infer_redis_lane_t *l, int fd, infer_redis_got_t *got)
{
    int            rc;
    char           buf[256];
    size_t         len;
    ssize_t        n;
    const char    *p;
    struct pollfd  pfd = { .fd = fd, .events = POLLIN };

    rc = infer_redis_lane_get(l, "k", none, infer_redis_now_us());
    p = infer_redis_lane_out(l, &len);
    if (rc != INFER_OK || send(fd, p, len, MSG_NOSIGNAL) != (ssize_t) len) {
        return INFER_BUSY;
    }
    infer_redis_lane_sent(l, len);
    do {
        (void) poll(&pfd, 1, 1000);
        n = recv(fd, buf, sizeof(buf), 0);
        rc = n > 0 ? infer_redis_lane_feed(l, buf, (size_t) n) : INFER_BUSY;
        rc = rc == INFER_OK
             ? infer_redis_lane_pop(l, infer_redis_now_us(), got) : rc;
    } while (rc == INFER_AGAIN);
    return rc;
}

static void
test_taken(rs_server_t *s)
{
    int                  fd, rc;
    char                 out[16];
    uint32_t             open = rs_descriptors();
    infer_redis_t       *r;
    infer_redis_got_t    got = { 0 };
    infer_redis_conf_t   conf = rs_conf(s->port);
    infer_redis_lane_t  *l;

    t_clear();
    conf.connections = 1;
    r = rs_client(&conf, shared);
    ok(infer_redis_lane_take(r, &l, &fd) == INFER_AGAIN && l == NULL
       && fd == -1, "no lane before a call");
    rc = infer_redis_set(r, "k", "value", 5, 60000);
    ok(rc == INFER_OK && infer_redis_lane_take(r, &l, &fd) == INFER_OK
       && l != NULL && fcntl(fd, F_GETFD) == FD_CLOEXEC
       && (fcntl(fd, F_GETFL) & O_NONBLOCK), "after one its connection");
    ok(real_get(l, fd, &got) == INFER_OK && got.rc == INFER_OK && got.len == 5
       && memcmp(got.value, "value", 5) == 0, "is a lane");
    free(got.value);
    ok(rs_get(r, "k", out, sizeof(out)) == INFER_OK
       && atomic_load(&shared->connects) == 2, "calls have a place as before");
    ok(infer_redis_lane_first(l), "the server is the first");
    atomic_store(&shared->server[0].open_until_ms, 1);
    ok(!infer_redis_lane_first(l), "a call probes it before");
    infer_redis_lane_free(l);
    close(fd);
    ok(infer_redis_lane_take(r, &l, &fd) == INFER_AGAIN, "no lane so long");
    ok(rs_get(r, "k", out, sizeof(out)) == INFER_OK, "it is probed");
    rs_kill(s);
    ok(infer_redis_lane_take(r, &l, &fd) == INFER_AGAIN && fd == -1,
       "none of a connection that is closed");
    infer_redis_free(r);
    conf.cluster = 1;
    r = rs_client(&conf, shared);
    ok(infer_redis_lane_take(r, &l, &fd) == INFER_UNSUPPORTED,
       "none of a cluster");
    infer_redis_free(r);
    ok(rs_descriptors() == open, "no descriptor is left");
}

int
main(void)
{
    rs_server_t         server = { .port = 0 };
    infer_redis_conf_t  conf = rs_conf(1);

    (void) signal(SIGPIPE, SIG_IGN);
    shared = rs_shared();
    conf.max_value = T_MAX;
    client = rs_client(&conf, shared);
    test_out();
    test_pieces();
    test_odd();
    test_endless();
    test_early();
    test_end();
    test_large();
    infer_redis_free(client);

    if (!rs_installed()) {
        ok(1, "# SKIP redis-server is not installed");
        return tap_done();
    }
    rs_start(&server, NULL);
    test_taken(&server);
    rs_stop(&server);
    return tap_done();
}
