/*
 * test_redis_fake.c: the client of L2 against a server that means no good: a
 * thread of this test, which says what it is told to, or nothing. Whatever it
 * does, a call ends in its time, takes little memory, and is a miss.
 */

#include "redis_site.h"

#define FAKE_CONNS    16
#define FAKE_DRIP_MS  20
/* more than that and something was allocated because it was claimed */
#define FAKE_ROOM_KB  (48 << 10)

enum { SAY = 0, DRIP, RESET, CLOSE_SECOND, FLOOD };

typedef struct {
    int               listen_fd;
    uint16_t          port;
    pthread_t         thread;
    _Atomic int       ending;
    _Atomic uint32_t  accepted;
    pthread_mutex_t   lock;                /* of what follows */
    int               mode;
    const char       *bytes;
    size_t            len;
    const char       *topology;            /* to CLUSTER; NULL: bytes too */
} fake_t;

typedef struct {
    int       fd;
    uint32_t  asked;
    size_t    at;                          /* of bytes, dripping */
} fake_conn_t;

static fake_t                 fake = { .lock = PTHREAD_MUTEX_INITIALIZER };
static infer_redis_shared_t  *shared;


/* 0: this connection is over. */
static int
fake_answer(fake_conn_t *c, int mode, const char *request)
{
    size_t         len;
    struct linger  now = { 1, 0 };

    c->asked++;
    if (fake.topology != NULL && strstr(request, "CLUSTER") != NULL) {
        len = strlen(fake.topology);
        return send(c->fd, fake.topology, len, MSG_NOSIGNAL) == (ssize_t) len;
    }
    if (strstr(request, "ASKING") != NULL
        && send(c->fd, "+OK\r\n", 5, MSG_NOSIGNAL) != 5)
    {
        return 0;
    }
    if (mode == DRIP) {
        c->at = 1;                         /* the rest in fake_drip() */
        return send(c->fd, fake.bytes, 1, MSG_NOSIGNAL) == 1;
    }
    if (mode == CLOSE_SECOND && c->asked == 2) {
        return 0;
    }
    if (send(c->fd, fake.bytes, fake.len, MSG_NOSIGNAL | MSG_DONTWAIT)
        != (ssize_t) fake.len && mode != FLOOD)
    {
        return 0;
    }
    if (mode == RESET) {
        (void) poll(NULL, 0, 20);
        (void) setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
        return 0;
    }
    return 1;
}

static int
fake_drip(fake_conn_t *c, int mode)
{
    if (mode == FLOOD && c->asked != 0) {
        return send(c->fd, fake.bytes, fake.len, MSG_NOSIGNAL | MSG_DONTWAIT)
               > 0 || errno == EAGAIN;
    }
    if (mode == DRIP && c->at != 0 && c->at < fake.len) {
        return send(c->fd, fake.bytes + c->at++, 1, MSG_NOSIGNAL) == 1;
    }
    return 1;
}

static void
fake_round(struct pollfd *p, fake_conn_t *c, uint32_t *n)
{
    int       fd, mode = fake.mode, alive;
    char      buf[4096];
    ssize_t   len;
    uint32_t  i;

    for (i = *n; i-- > 0; ) {
        alive = 1;
        if (p[i + 1].revents != 0) {
            len = recv(c[i].fd, buf, sizeof(buf) - 1, MSG_DONTWAIT);
            buf[len > 0 ? len : 0] = '\0';
            alive = len > 0 && fake_answer(&c[i], mode, buf);
        } else {
            alive = fake_drip(&c[i], mode);
        }
        if (!alive) {
            close(c[i].fd);
            c[i] = c[--*n];
        }
    }
    if (p[0].revents & POLLIN && *n < FAKE_CONNS) {
        fd = accept4(fake.listen_fd, NULL, NULL, SOCK_CLOEXEC);
        if (fd >= 0) {
            c[(*n)++] = (fake_conn_t) { .fd = fd };
            atomic_fetch_add(&fake.accepted, 1);
        }
    }
}

static void *
fake_run(void *arg)
{
    uint32_t       i, n = 0;
    fake_conn_t    c[FAKE_CONNS];
    struct pollfd  p[FAKE_CONNS + 1];

    (void) arg;
    p[0] = (struct pollfd) { .fd = fake.listen_fd, .events = POLLIN };
    while (!atomic_load(&fake.ending)) {
        for (i = 0; i < n; i++) {
            p[i + 1] = (struct pollfd) { .fd = c[i].fd, .events = POLLIN };
        }
        (void) poll(p, n + 1, FAKE_DRIP_MS);
        (void) pthread_mutex_lock(&fake.lock);
        fake_round(p, c, &n);
        (void) pthread_mutex_unlock(&fake.lock);
    }
    while (n-- > 0) {
        close(c[n].fd);
    }
    return NULL;
}

/* When it returns, nothing that was set before is used any more. */
static void
fake_set_all(int mode, const char *bytes, size_t len, const char *topology)
{
    (void) pthread_mutex_lock(&fake.lock);
    fake.mode = mode;
    fake.bytes = bytes;
    fake.len = len;
    fake.topology = topology;
    (void) pthread_mutex_unlock(&fake.lock);
}

static void
fake_set(int mode, const char *bytes, size_t len)
{
    fake_set_all(mode, bytes, len, NULL);
}

/* ---- what it says ---- */

typedef struct {
    const char  *name, *bytes;
    int          rc;
    int          slow;                     /* only time ends it */
    int          counts;                   /* against the server */
    int          over;                     /* as too large */
} said_t;

#define NEST  "*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n"

static const said_t  said[] = {
    { "a value", "$1\r\nv\r\n", INFER_OK, 0, 0, 0 },
    { "nil", "$-1\r\n", INFER_AGAIN, 0, 0, 0 },
    { "nothing", "", INFER_BUSY, 1, 1, 0 },
    { "a part", "$3\r\nab", INFER_BUSY, 1, 1, 0 },
    { "a part of a line", "+O", INFER_BUSY, 1, 1, 0 },
    { "garbage", "HTTP/1.1 400 Bad Request\r\n\r\n", INFER_BUSY, 0, 1, 0 },
    { "bytes", "\x01\x02\xff\xfe\r\n", INFER_BUSY, 0, 1, 0 },
    { "$2147483647", "$2147483647\r\n", INFER_BUSY, 0, 0, 1 },
    { "$9223372036854775807", "$9223372036854775807\r\n", INFER_BUSY, 0, 0,
      1 },
    { "$99999999999999999999", "$99999999999999999999\r\nx", INFER_BUSY, 0, 1,
      0 },
    { "$-2", "$-2\r\n", INFER_BUSY, 0, 1, 0 },
    { "$ of one byte too many", "$1048577\r\n", INFER_BUSY, 0, 0, 1 },
    { "*2147483647", "*2147483647\r\n", INFER_BUSY, 0, 0, 1 },
    { "*-2", "*-2\r\n", INFER_BUSY, 0, 1, 0 },
    { "an array", "*1\r\n$1\r\nv\r\n", INFER_BUSY, 0, 0, 1 },
    { "nested arrays", NEST NEST NEST, INFER_BUSY, 0, 0, 1 },
    { "an integer", ":5\r\n", INFER_BUSY, 0, 0, 0 },
    { "a status", "+OK\r\n", INFER_BUSY, 0, 0, 0 },
    { "two replies", "$1\r\nv\r\n$1\r\nv\r\n", INFER_BUSY, 0, 1, 0 },
    { "an error", "-ERR no\r\n", INFER_BUSY, 0, 0, 0 },
    { "-OOM", "-OOM command not allowed\r\n", INFER_BUSY, 0, 0, 0 },
    { "-NOAUTH", "-NOAUTH Authentication required.\r\n", INFER_BUSY, 0, 1,
      0 },
    { "-LOADING", "-LOADING Redis is loading\r\n", INFER_BUSY, 0, 1, 0 },
    { "-MASTERDOWN", "-MASTERDOWN Link\r\n", INFER_BUSY, 0, 1, 0 },
    { "a full house", "-ERR max number of clients reached\r\n", INFER_BUSY, 0,
      1, 0 },
    { "-", "-\r\n", INFER_BUSY, 0, 0, 0 },
    { "-MOVED", "-MOVED 1 127.0.0.1:1\r\n", INFER_BUSY, 0, 0, 0 },
    { "an unknown type", "%1\r\n", INFER_BUSY, 0, 1, 0 }
};

static void
test_said(void)
{
    int                  rc;
    char                 out[8];
    size_t               i;
    uint64_t             ms, kb;
    const said_t        *s;
    infer_redis_t       *r;
    infer_redis_conf_t   conf = rs_conf(fake.port);

    for (i = 0; i < sizeof(said) / sizeof(said[0]); i++) {
        s = &said[i];
        memset(shared, 0, sizeof(*shared));
        fake_set(SAY, s->bytes, strlen(s->bytes));
        r = rs_client(&conf, shared);
        kb = rs_room_kb();
        ms = rs_now_ms();
        rc = rs_get(r, "k", out, sizeof(out));
        ms = rs_now_ms() - ms;
        kb = rs_room_kb() - kb;
        infer_redis_free(r);
        ok(rc == s->rc
           && (s->slow ? ms >= RS_COMMAND_MS : 1)
           && ms < (s->slow ? RS_COMMAND_MS + RS_SLACK_MS : RS_SLACK_MS)
           && atomic_load(&shared->server[0].failures) == (uint32_t) s->counts
           && atomic_load(&shared->oversized) == (uint64_t) s->over
           && atomic_load(&shared->failed) == (rc == INFER_BUSY)
           && kb < FAKE_ROOM_KB,
           "%s (rc %d, %u ms, %u failures, %u oversized, %u KiB)", s->name,
           rc, (unsigned) ms,
           atomic_load(&shared->server[0].failures),
           (unsigned) atomic_load(&shared->oversized), (unsigned) kb);
    }
}

/* Why it was a miss, for who reads the log. */
static void
test_why(void)
{
    char                 out[8];
    size_t               i;
    uint32_t             why;
    infer_redis_t       *r;
    infer_redis_conf_t   conf = rs_conf(fake.port);
    static const struct {
        const char  *bytes;
        uint32_t     why;
    } cases[] = {
        { "", INFER_REDIS_TIMEOUT },
        { "$100\r\nabc", INFER_REDIS_TIMEOUT },
        { "hello\r\n", INFER_REDIS_NONSENSE },
        { ":1\r\n", INFER_REDIS_NONSENSE },
        { "$2147483647\r\n", INFER_REDIS_OVERSIZED },
        { "-NOAUTH Authentication required.\r\n", INFER_REDIS_DENIED },
        { "-NOPERM this user\r\n", INFER_REDIS_DENIED },
        { "-LOADING Redis\r\n", INFER_REDIS_UNREADY },
        { "-READONLY You\r\n", INFER_REDIS_UNREADY },
        { "-OOM command\r\n", INFER_REDIS_MEMORY },
        { "-ERR max number of clients reached\r\n", INFER_REDIS_CROWDED },
        { "-WHATEVER\r\n", INFER_REDIS_ERROR },
    };

    for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        memset(shared, 0, sizeof(*shared));
        fake_set(SAY, cases[i].bytes, strlen(cases[i].bytes));
        r = rs_client(&conf, shared);
        (void) rs_get(r, "k", out, sizeof(out));
        infer_redis_free(r);
        why = atomic_load(&shared->why);
        ok(why == cases[i].why, "because %s", infer_redis_why(why));
    }

    memset(shared, 0, sizeof(*shared));
    fake_set(RESET, "$100\r\nabc", 9);
    r = rs_client(&conf, shared);
    (void) rs_get(r, "k", out, sizeof(out));
    infer_redis_free(r);
    why = atomic_load(&shared->why);
    ok(why == INFER_REDIS_LOST, "because %s", infer_redis_why(why));

    memset(shared, 0, sizeof(*shared));
    conf.server[0].port = 1;
    r = rs_client(&conf, shared);
    (void) rs_get(r, "k", out, sizeof(out));
    infer_redis_free(r);
    why = atomic_load(&shared->why);
    ok(why == INFER_REDIS_UNREACHABLE, "because %s", infer_redis_why(why));
}

/* ---- what it does ---- */

static int
ask(infer_redis_t *r, uint64_t *ms)
{
    int   rc;
    char  out[8];

    *ms = rs_now_ms();
    rc = rs_get(r, "k", out, sizeof(out));
    *ms = rs_now_ms() - *ms;
    return rc;
}

static void
test_drip(void)
{
    int                  i, rc, bad = 0;
    uint64_t             ms, kb;
    char                *flood = malloc(1 << 20);
    infer_redis_t       *r;
    infer_redis_conf_t   conf = rs_conf(fake.port);
    static const char    slow[] = "$900\r\n0123456789012345678901234567890123"
                                  "456789012345678901234567890123456789012";

    memset(shared, 0, sizeof(*shared));
    fake_set(DRIP, slow, sizeof(slow) - 1);
    r = rs_client(&conf, shared);
    rc = ask(r, &ms);
    ok(rc == INFER_BUSY && ms >= RS_COMMAND_MS
       && ms < RS_COMMAND_MS + RS_SLACK_MS, "a drip ends in time (%u ms)",
       (unsigned) ms);
    infer_redis_free(r);

    /* while it logs in, too */
    strcpy(conf.password, "p");
    r = rs_client(&conf, shared);
    rc = ask(r, &ms);
    ok(rc == INFER_BUSY && ms >= RS_CONNECT_MS
       && ms < RS_CONNECT_MS + RS_COMMAND_MS + RS_SLACK_MS,
       "and at login (%u ms)", (unsigned) ms);
    infer_redis_free(r);
    conf.password[0] = '\0';

    /* a line that never ends, and values that do */
    for (i = 0; i < 3; i++) {
        memset(shared, 0, sizeof(*shared));
        memset(flood, 'x', 1 << 20);
        memcpy(flood, i == 0 ? "+" : i == 1 ? "$1048576\r\n" : ":", i == 1
               ? 10 : 1);
        fake_set(FLOOD, flood, 1 << 20);
        r = rs_client(&conf, shared);
        kb = rs_room_kb();
        bad += ask(r, &ms) != INFER_BUSY || ms > RS_SLACK_MS
               || rs_room_kb() - kb > FAKE_ROOM_KB
               || atomic_load(&shared->received_bytes) > 4 << 20
               || (i != 1 && atomic_load(&shared->oversized) != 1);
        infer_redis_free(r);
    }
    ok(bad == 0, "a flood is not read to its end");
    fake_set(SAY, "", 0);
    free(flood);
}

static void
test_reset(void)
{
    int                  rc;
    uint64_t             ms;
    infer_redis_t       *r;
    infer_redis_conf_t   conf = rs_conf(fake.port);

    memset(shared, 0, sizeof(*shared));
    fake_set(RESET, "$100\r\nabc", 9);
    r = rs_client(&conf, shared);
    ok(ask(r, &ms) == INFER_BUSY && ms < RS_SLACK_MS
       && atomic_load(&shared->server[0].failures) == 1
       && atomic_load(&shared->connects) == 1, "a reset in a reply");
    fake_set(RESET, "", 0);
    ok(ask(r, &ms) == INFER_BUSY && ms < RS_SLACK_MS
       && atomic_load(&shared->server[0].failures) == 2
       && atomic_load(&shared->connects) == 2,
       "a reset before one, on a new connection: once");
    infer_redis_free(r);

    memset(shared, 0, sizeof(*shared));
    fake_set(CLOSE_SECOND, "$1\r\nv\r\n", 7);
    r = rs_client(&conf, shared);
    rc = ask(r, &ms);
    ok(rc == INFER_OK && ask(r, &ms) == INFER_OK
       && atomic_load(&shared->connects) == 2
       && atomic_load(&shared->failed) == 0
       && atomic_load(&shared->server[0].failures) == 0,
       "closed when it is used again: replaced, no failure");
    infer_redis_free(r);
}

/* Unasked bytes on an idle connection: whoever asks next must not take them
 * for an answer. */
static void
test_early(void)
{
    uint64_t             ms;
    redis_conn_t        *c;
    infer_redis_t       *r;
    infer_redis_conf_t   conf = rs_conf(fake.port);

    memset(shared, 0, sizeof(*shared));
    fake_set(SAY, "$1\r\nv\r\n", 7);
    r = rs_client(&conf, shared);
    (void) infer_redis_conn_get(r, &r->server[0],
                                infer_redis_now_us() + 1000000, 0, &c);
    (void) send(c->fd, "x", 1, MSG_NOSIGNAL);
    (void) poll(NULL, 0, 200);
    infer_redis_conn_put(r, c, 0);
    ok(ask(r, &ms) == INFER_OK && atomic_load(&shared->connects) == 2,
       "a connection with an answer to nothing is not used");
    infer_redis_free(r);
}

static void
test_away(void)
{
    int                  i, rc, fd, waiting[8];
    uint16_t             port = 0;
    uint64_t             ms;
    infer_redis_t       *r;
    infer_redis_conf_t   conf = rs_conf(rs_free_port());
    struct sockaddr_in   sin = { .sin_family = AF_INET };

    memset(shared, 0, sizeof(*shared));
    r = rs_client(&conf, shared);
    ok(ask(r, &ms) == INFER_BUSY && ms < RS_SLACK_MS
       && atomic_load(&shared->server[0].failures) == 1, "refused");
    infer_redis_free(r);

    conf.server[0].port = 0;
    strcpy(conf.server[0].host, "/nonexistent/socket");
    r = rs_client(&conf, shared);
    ok(ask(r, &ms) == INFER_BUSY && ms < RS_SLACK_MS, "no such socket");
    infer_redis_free(r);

    /* a queue that is full: connecting takes forever */
    fd = rs_listen(&port);
    (void) listen(fd, 0);
    sin.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    sin.sin_port = htons(port);
    for (i = 0; i < 8; i++) {
        waiting[i] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
        (void) connect(waiting[i], (struct sockaddr *) &sin, sizeof(sin));
    }
    (void) poll(NULL, 0, 50);
    conf = rs_conf(port);
    memset(shared, 0, sizeof(*shared));
    r = rs_client(&conf, shared);
    rc = ask(r, &ms);
    ok(rc == INFER_BUSY && ms >= RS_CONNECT_MS
       && ms < RS_CONNECT_MS + RS_SLACK_MS, "no answer to connecting "
       "(%u ms)", (unsigned) ms);
    infer_redis_free(r);
    for (i = 0; i < 8; i++) {
        close(waiting[i]);
    }
    close(fd);
}

/* Replies to the other calls that these do not have. */
static void
test_calls(void)
{
    size_t               i, bad = 0;
    uint64_t             n, count[2];
    void                *value;
    size_t               len;
    infer_redis_t       *r;
    infer_redis_conf_t   conf = rs_conf(fake.port);
    const char *const    counter[2] = { "c", NULL };
    static const char *const  odd[] = {
        "$1\r\nv\r\n", "-OOM x\r\n", "-READONLY x\r\n", "*0\r\n", "+NO\r\n",
        "$5\r\nhello\r\n", "-WRONGTYPE x\r\n"
    };

    conf.failures = 0;
    memset(shared, 0, sizeof(*shared));
    r = rs_client(&conf, shared);
    for (i = 0; i < sizeof(odd) / sizeof(odd[0]); i++) {
        fake_set(SAY, odd[i], strlen(odd[i]));
        bad += infer_redis_set(r, "k", "v", 1, 1000) != INFER_BUSY;
        bad += infer_redis_del(r, "k") != INFER_BUSY;
        bad += infer_redis_count(r, "k", &n) != INFER_BUSY;
        bad += infer_redis_lock(r, "k", "me", 1000) != INFER_BUSY;
        bad += infer_redis_renew(r, "k", "me", 1000) != INFER_BUSY;
        bad += infer_redis_unlock(r, "k", "me") != INFER_BUSY;
    }
    ok(bad == 0 && atomic_load(&shared->failed) == 6 * i,
       "no other call takes such a reply");
    fake_set(SAY, ":-1\r\n", 5);
    ok(infer_redis_count(r, "k", &n) == INFER_BUSY, "nor a negative count");
    fake_set(SAY, "$1\r\nv\r\n$-1\r\n", 12);
    ok(infer_redis_get(r, "k", counter, &value, &len, count) == INFER_OK
       && count[0] == 0, "a counter that is not there");
    free(value);
    fake_set(SAY, "$1\r\nv\r\n$2\r\n-1\r\n", 15);
    ok(infer_redis_get(r, "k", counter, &value, &len, count) == INFER_BUSY
       && value == NULL, "one that is negative");
    fake_set(SAY, "$1\r\nv\r\n-ERR\r\n", 13);
    ok(infer_redis_get(r, "k", counter, &value, &len, count) == INFER_BUSY
       && value == NULL, "one that is an error");
    infer_redis_free(r);
}

/* ---- a cluster of one, as it likes to be seen ---- */

static int
cluster_ask(const char *topology, const char *bytes, uint64_t *ms)
{
    int                  rc;
    infer_redis_t       *r;
    infer_redis_conf_t   conf = rs_conf(fake.port);

    memset(shared, 0, sizeof(*shared));
    conf.cluster = 1;
    fake_set_all(SAY, bytes, strlen(bytes), topology);
    r = rs_client(&conf, shared);
    rc = ask(r, ms);
    infer_redis_free(r);
    fake_set(SAY, "", 0);
    return rc;
}

static void
test_topology(void)
{
    int       rc;
    size_t    i, bad = 0;
    char      all[128], text[128];
    uint64_t  ms;
    static const char *const  odd[] = {
        "*0\r\n", "*1\r\n:1\r\n", "*1\r\n*0\r\n", "*-1\r\n", "$1\r\nv\r\n",
        "*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n:1\r\n",
        "*2147483647\r\n", "*1\r\n*2147483647\r\n", "-ERR no cluster\r\n",
        "*1\r\n*3\r\n:0\r\n:16384\r\n*2\r\n$9\r\n127.0.0.1\r\n:1\r\n",
        "*1\r\n*3\r\n:-1\r\n:16383\r\n*2\r\n$9\r\n127.0.0.1\r\n:1\r\n",
        "*1\r\n*3\r\n:9\r\n:8\r\n*2\r\n$9\r\n127.0.0.1\r\n:1\r\n",
        "*1\r\n*3\r\n:0\r\n:16383\r\n*2\r\n$9\r\n127.0.0.1\r\n:0\r\n",
        "*1\r\n*3\r\n:0\r\n:16383\r\n*2\r\n$9\r\n127.0.0.1\r\n:65536\r\n",
        "*1\r\n*3\r\n:0\r\n:16383\r\n*2\r\n$5\r\nredis\r\n:6379\r\n",
        "*1\r\n*3\r\n:0\r\n:16383\r\n*2\r\n:1\r\n:6379\r\n",
        "*1\r\n*3\r\n:0\r\n:16383\r\n*1\r\n$9\r\n127.0.0.1\r\n",
        "*1\r\n*3\r\n:0\r\n:16383\r\n:5\r\n",
        "*1\r\n*3\r\n$1\r\n0\r\n:16383\r\n*2\r\n$9\r\n127.0.0.1\r\n:1\r\n"
    };
    static const char *const  moved[] = {
        "-MOVED\r\n", "-MOVED 1\r\n", "-MOVED x y\r\n", "-MOVED 1 x\r\n",
        "-MOVED 1 :\r\n", "-MOVED 16384 127.0.0.1:1\r\n",
        "-MOVED -1 127.0.0.1:1\r\n", "-ASK 1 127.0.0.1:99999\r\n",
        "-ASK 1 redis.example:6379\r\n", "-ASK \r\n", "-ASK : \r\n",
        "-TRYAGAIN x\r\n", "-CLUSTERDOWN x\r\n", "-CROSSSLOT x\r\n"
    };

    for (i = 0; i < sizeof(odd) / sizeof(odd[0]); i++) {
        if (cluster_ask(odd[i], "$1\r\nv\r\n", &ms) != INFER_BUSY
            || ms > RS_SLACK_MS)
        {
            diag("topology %zu", i);
            bad++;
        }
    }
    ok(bad == 0, "no topology that is none");

    /* no host, or nil: the one that was asked */
    snprintf(all, sizeof(all), "*1\r\n*3\r\n:0\r\n:16383\r\n*2\r\n$-1\r\n"
             ":%u\r\n", fake.port);
    ok(cluster_ask(all, "$1\r\nv\r\n", &ms) == INFER_OK, "one without a host");
    for (i = 0; i < sizeof(moved) / sizeof(moved[0]); i++) {
        if (cluster_ask(all, moved[i], &ms) != INFER_BUSY || ms > RS_SLACK_MS)
        {
            diag("%s", moved[i]);
            bad++;
        }
    }
    ok(bad == 0, "no redirect that is none");
    for (i = 0; i < 2; i++) {
        snprintf(text, sizeof(text), "-%s 1 127.0.0.1:%u\r\n",
                 i == 0 ? "MOVED" : "ASK", fake.port);
        rc = cluster_ask(all, text, &ms);
        ok(rc == INFER_BUSY && atomic_load(&shared->redirects) > 3
           && atomic_load(&shared->redirects) < 10
           && ms < RS_CONNECT_MS + RS_COMMAND_MS + RS_SLACK_MS,
           "%s in a circle ends (%u redirects, %u ms)",
           i == 0 ? "MOVED" : "ASK",
           (unsigned) atomic_load(&shared->redirects), (unsigned) ms);
    }
}

/* n ranges of so many slots each, ascending, of as many nodes from a port on,
 * or all of one. */
static char *
topology_of(infer_buf_t *b, uint32_t n, uint32_t slots, uint16_t port,
    int many)
{
    uint32_t  i, at;

    infer_buf_reset(b);
    infer_buf_printf(b, "*%u\r\n", n);
    for (i = 0; i < n; i++) {
        at = i * slots % REDIS_SLOTS;
        infer_buf_printf(b, "*3\r\n:%u\r\n:%u\r\n*2\r\n$9\r\n127.0.0.1\r\n"
                         ":%u\r\n", at, at + slots - 1,
                         port + (many ? i : 0));
    }
    infer_buf_put(b, "", 1);
    return b->data;
}

/* One that has slots twice is none, however little there is of it, and so is
 * never worked through; one of more nodes than we know keeps its first ones,
 * and their breakers. */
static void
test_wide(void)
{
    int             rc;
    uint32_t        i, lost = 0;
    uint64_t        ms;
    infer_buf_t     b = { 0 };
    redis_target_t  t;
    const uint32_t  n = 4096, slots = REDIS_SLOTS / n;

    ok(cluster_ask(topology_of(&b, n, slots, fake.port, 0), "$1\r\nv\r\n",
                   &ms) == INFER_OK, "a topology of %u ranges", n);
    ok(cluster_ask(topology_of(&b, n + 1, slots, fake.port, 0),
                   "$1\r\nv\r\n", &ms) == INFER_BUSY, "slots that come twice");
    ok(cluster_ask(topology_of(&b, 2, REDIS_SLOTS, fake.port, 0),
                   "$1\r\nv\r\n", &ms) == INFER_BUSY, "all of them");
    rc = cluster_ask(topology_of(&b, 20000, REDIS_SLOTS, fake.port, 0),
                     "$1\r\nv\r\n", &ms);
    ok(rc == INFER_BUSY && ms < RS_COMMAND_MS + RS_SLACK_MS,
       "20,000 times (%u ms)", (unsigned) ms);

    (void) cluster_ask(topology_of(&b, n, slots, 1, 1), "$1\r\nv\r\n", &ms);
    for (i = 1; i < INFER_REDIS_NODES; i++) {
        (void) infer_redis_target(&t, &rs_conf((uint16_t) i).server[0]);
        lost += atomic_load(&shared->server[i].node) != t.id;
    }
    /* the 64th has the place of one of them: the server itself has one, too */
    ok(lost <= 1, "%u nodes: the first ones keep their breakers", n);
    infer_buf_free(&b);
}

int
main(void)
{
    uint32_t  open = rs_descriptors();

    (void) signal(SIGPIPE, SIG_IGN);
    shared = rs_shared();
    fake.listen_fd = rs_listen(&fake.port);
    if (pthread_create(&fake.thread, NULL, fake_run, NULL) != 0) {
        rs_bail("no thread");
    }
    test_said();
    test_why();
    test_drip();
    test_reset();
    test_early();
    test_away();
    test_calls();
    test_topology();
    test_wide();

    atomic_store(&fake.ending, 1);
    (void) pthread_join(fake.thread, NULL);
    close(fake.listen_fd);
    ok(rs_descriptors() == open, "no descriptor is left");
    return tap_done();
}
