/*
 * test_redis.c: the client of L2 against a real Redis: every call over TCP and
 * a unix socket, logins, errors of the server, failover, a server that stands
 * still, and many threads at once.
 */

#include "redis_site.h"

static rs_server_t            server;
static infer_redis_shared_t  *shared;


static const char *const      none[2] = { NULL, NULL };

static void
test_calls(infer_redis_t *r, const char *over)
{
    char               out[64], long_key[INFER_REDIS_KEY_MAX + 2];
    void              *value, *big;
    size_t             len;
    uint64_t           count[2], n;
    const char *const  counters[2] = { "c1", "c2" };

    (void) infer_redis_del(r, "k");
    ok(rs_get(r, "k", out, sizeof(out)) == INFER_AGAIN, "%s: nothing there",
       over);
    ok(infer_redis_set(r, "k", "v\0w", 3, 60000) == INFER_OK
       && rs_get(r, "k", out, sizeof(out)) == INFER_OK
       && memcmp(out, "v\0w", 4) == 0, "set and got, any bytes");
    ok(infer_redis_set(r, "k", "", 0, 60000) == INFER_OK
       && rs_get(r, "k", out, sizeof(out)) == INFER_OK && out[0] == '\0',
       "an empty value");
    ok(infer_redis_del(r, "k") == INFER_OK
       && infer_redis_del(r, "k") == INFER_AGAIN, "deleted once");
    ok(infer_redis_set(r, "k", "x", 1, 50) == INFER_OK
       && poll(NULL, 0, 120) == 0
       && rs_get(r, "k", out, sizeof(out)) == INFER_AGAIN, "a value expires");

    (void) infer_redis_del(r, "c1");
    (void) infer_redis_del(r, "c2");
    ok(infer_redis_set(r, "k", "x", 1, 60000) == INFER_OK
       && infer_redis_get(r, "k", counters, &value, &len, count) == INFER_OK
       && len == 1 && count[0] == 0 && count[1] == 0,
       "counters that are not there are 0");
    free(value);
    ok(infer_redis_count(r, "c2", &n) == INFER_OK && n == 1
       && infer_redis_count(r, "c2", &n) == INFER_OK && n == 2
       && infer_redis_count(r, "c1", &n) == INFER_OK && n == 1,
       "counters count");
    ok(infer_redis_get(r, "k", counters, &value, &len, count) == INFER_OK
       && count[0] == 1 && count[1] == 2, "and come with a value");
    free(value);
    count[0] = 9;
    ok(infer_redis_get(r, "none", counters, &value, &len, count)
       == INFER_AGAIN && value == NULL && count[0] == 1 && count[1] == 2,
       "and without one");

    ok(infer_redis_lock(r, "l", "me", 60000) == INFER_OK
       && infer_redis_lock(r, "l", "you", 60000) == INFER_AGAIN
       && infer_redis_lock(r, "l", "me", 60000) == INFER_AGAIN,
       "a lock is taken once");
    ok(infer_redis_renew(r, "l", "you", 60000) == INFER_AGAIN
       && infer_redis_unlock(r, "l", "you") == INFER_AGAIN
       && infer_redis_renew(r, "l", "me", 100) == INFER_OK,
       "and is its owner's");
    ok(poll(NULL, 0, 200) == 0
       && infer_redis_renew(r, "l", "me", 100) == INFER_AGAIN
       && infer_redis_lock(r, "l", "you", 60000) == INFER_OK
       && infer_redis_unlock(r, "l", "me") == INFER_AGAIN
       && infer_redis_unlock(r, "l", "you") == INFER_OK,
       "renewed for a time, then another's");

    big = malloc(1 << 20);
    memset(big, 'b', 1 << 20);
    ok(infer_redis_set(r, "big", big, 1 << 20, 60000) == INFER_OK
       && infer_redis_get(r, "big", none, &value, &len, count) == INFER_OK
       && len == 1 << 20 && memcmp(value, big, len) == 0,
       "the largest value");
    free(value);
    ok(infer_redis_set(r, "big", big, (1 << 20) + 1, 60000)
       == INFER_INVALID, "no larger one");
    free(big);
    memset(long_key, 'k', sizeof(long_key));
    long_key[INFER_REDIS_KEY_MAX + 1] = '\0';
    ok(infer_redis_set(r, long_key, "x", 1, 1) == INFER_INVALID
       && infer_redis_set(r, "", "x", 1, 1) == INFER_INVALID
       && infer_redis_set(r, "k", "x", 1, 0) == INFER_INVALID
       && infer_redis_lock(r, long_key, "me", 1) == INFER_INVALID
       && infer_redis_count(r, long_key, &n) == INFER_INVALID
       && rs_get(r, long_key, out, sizeof(out)) == INFER_INVALID,
       "what is out of range is not sent");
}

static void
test_wrong_types(infer_redis_t *r)
{
    char               out[8];
    void              *value;
    size_t             len;
    uint64_t           count[2], failed;
    const char *const  counters[2] = { "list", NULL }, *word[2] = { "w" };

    failed = atomic_load(&shared->failed);
    ok(RS_COMMAND(server.port, NULL, "LPUSH", "list", "a")
       && rs_get(r, "list", out, sizeof(out)) == INFER_BUSY
       && atomic_load(&shared->failed) == failed + 1,
       "another type at the key");
    ok(infer_redis_get(r, "k", counters, &value, &len, count) == INFER_BUSY
       && value == NULL, "and at a counter");
    ok(infer_redis_count(r, "list", &count[0]) == INFER_BUSY
       && infer_redis_lock(r, "list", "me", 1000) == INFER_AGAIN
       && infer_redis_renew(r, "list", "me", 1000) == INFER_BUSY,
       "and at locks");
    ok(infer_redis_set(r, "w", "12x", 3, 60000) == INFER_OK
       && infer_redis_get(r, "w", word, &value, &len, count) == INFER_BUSY,
       "a counter that is no number");
    ok(rs_get(r, "w", out, sizeof(out)) == INFER_OK
       && infer_redis_breaker(shared, 0, rs_now_ms()) == 0,
       "the connection goes on, the breaker stays closed");
}

static void
test_full(infer_redis_t *r)
{
    char  out[8];

    ok(RS_COMMAND(server.port, NULL, "CONFIG", "SET", "maxmemory", "1")
       && infer_redis_set(r, "k", "v", 1, 60000) == INFER_BUSY
       && rs_get(r, "w", out, sizeof(out)) == INFER_OK
       && infer_redis_breaker(shared, 0, rs_now_ms()) == 0,
       "a server without memory is read from");
    ok(RS_COMMAND(server.port, NULL, "CONFIG", "SET", "maxmemory", "0")
       && RS_COMMAND(server.port, NULL, "FLUSHALL")
       && rs_get(r, "w", out, sizeof(out)) == INFER_AGAIN,
       "after FLUSHALL nothing is there");
}

/* What the server closes while nobody looks is nobody's failure. */
static void
test_closed(infer_redis_t *r)
{
    char      out[8];
    uint64_t  failed = atomic_load(&shared->failed),
              connects = atomic_load(&shared->connects);

    (void) infer_redis_set(r, "k", "v", 1, 60000);
    ok(RS_COMMAND(server.port, NULL, "CLIENT", "KILL", "TYPE", "normal")
       && poll(NULL, 0, 50) == 0
       && rs_get(r, "k", out, sizeof(out)) == INFER_OK,
       "a connection that was closed is replaced");
    rs_kill(&server);
    rs_start(&server, NULL);
    ok(rs_get(r, "k", out, sizeof(out)) == INFER_AGAIN,
       "so it is after a restart");
    ok(atomic_load(&shared->failed) == failed
       && atomic_load(&shared->server[0].failures) == 0
       && atomic_load(&shared->connects) >= connects + 2, "without a failure");
}

static void
test_login(void)
{
    char                 out[8];
    uint32_t             i;
    rs_server_t          locked = { .port = 0 };
    infer_redis_t       *r, *other;
    infer_redis_conf_t   conf = rs_conf(server.port);
    infer_redis_shared_t *own = rs_shared();
    static const char *const  extra[] = { "--requirepass", "open sesame",
                                          NULL };

    (void) RS_COMMAND(server.port, NULL, "ACL", "SETUSER", "infer", "on",
                      ">s ecret", "~*", "+@all");
    strcpy(conf.user, "infer");
    strcpy(conf.password, "s ecret");
    conf.database = 3;
    r = rs_client(&conf, own);
    conf.database = 0;
    other = rs_client(&conf, own);
    ok(infer_redis_set(r, "db", "3", 1, 60000) == INFER_OK
       && rs_get(r, "db", out, sizeof(out)) == INFER_OK
       && rs_get(other, "db", out, sizeof(out)) == INFER_AGAIN,
       "a user with a database");
    infer_redis_free(r);
    infer_redis_free(other);
    conf.database = 99;
    r = rs_client(&conf, own);
    ok(rs_get(r, "db", out, sizeof(out)) == INFER_BUSY, "none of that many");
    infer_redis_free(r);

    conf.database = 0;
    strcpy(conf.password, "wrong");
    atomic_store(&own->server[0].failures, 0);
    r = rs_client(&conf, own);
    for (i = 0; i < 3; i++) {
        (void) rs_get(r, "db", out, sizeof(out));
    }
    ok(infer_redis_breaker(own, 0, rs_now_ms()) == 1
       && rs_get(r, "db", out, sizeof(out)) == INFER_BUSY
       && atomic_load(&own->refused) == 1, "a wrong password opens the "
       "breaker");
    infer_redis_free(r);

    rs_start(&locked, extra);
    conf = rs_conf(locked.port);
    memset(own, 0, sizeof(*own));
    r = rs_client(&conf, own);
    ok(rs_get(r, "k", out, sizeof(out)) == INFER_BUSY
       && atomic_load(&own->server[0].failures) == 1,
       "no password where one is needed");
    infer_redis_free(r);
    strcpy(conf.password, extra[1]);
    r = rs_client(&conf, own);
    ok(rs_get(r, "k", out, sizeof(out)) == INFER_AGAIN
       && atomic_load(&own->server[0].failures) == 0,
       "a password without a user");
    infer_redis_free(r);
    rs_stop(&locked);
    (void) munmap(own, sizeof(*own));
}

static void
test_failover(void)
{
    char                  out[8];
    uint32_t              i, good = 0;
    uint64_t              start, connects;
    rs_server_t           replica = { .port = 0 };
    infer_redis_t        *r;
    infer_redis_conf_t    conf = rs_conf(rs_free_port());
    infer_redis_shared_t *own = rs_shared();
    static const char *const  extra[] = {
        "--replicaof", "127.0.0.1 1", NULL      /* nobody is there */
    };

    conf.n_servers = 2;
    conf.server[1] = conf.server[0];
    conf.server[1].port = server.port;
    conf.retry_ms = 60000;
    r = rs_client(&conf, own);
    for (i = 0; i < 6; i++) {
        good += infer_redis_set(r, "f", "v", 1, 60000) == INFER_OK;
    }
    connects = atomic_load(&own->connects);
    ok(good == 6 && infer_redis_breaker(own, 0, rs_now_ms()) == 1
       && infer_redis_breaker(own, 1, rs_now_ms()) == 0
       && connects == 4, "the second server, where the first refuses "
       "(%u connects)", (unsigned) connects);
    infer_redis_free(r);

    rs_start(&replica, extra);
    memset(own, 0, sizeof(*own));
    conf.server[0].port = replica.port;
    r = rs_client(&conf, own);
    ok(infer_redis_set(r, "r", "v", 1, 60000) == INFER_OK
       && rs_get(r, "r", out, sizeof(out)) == INFER_AGAIN
       && atomic_load(&own->server[0].failures) == 0,
       "written where writing is possible, read from the first");
    (void) kill(replica.pid, SIGSTOP);
    start = rs_now_ms();
    ok(rs_get(r, "r", out, sizeof(out)) == INFER_OK, "or from the second");
    start = rs_now_ms() - start;
    ok(start >= RS_COMMAND_MS
       && start < RS_CONNECT_MS + RS_COMMAND_MS + RS_SLACK_MS,
       "when the first stands still (%u ms)", (unsigned) start);
    infer_redis_free(r);
    rs_stop(&replica);
    (void) munmap(own, sizeof(*own));
}

/* ---- a server that stands still ---- */

/* Calls for a while; how many were refused at once. */
static uint32_t
knock(infer_redis_t *r, uint64_t ms)
{
    char      out[8];
    uint32_t  n = 0;
    uint64_t  until = rs_now_ms() + ms, start;

    while (rs_now_ms() < until) {
        start = rs_now_ms();
        (void) rs_get(r, "k", out, sizeof(out));
        n += rs_now_ms() - start < RS_COMMAND_MS;
        (void) poll(NULL, 0, 5);
    }
    return n;
}

static void
test_frozen(void)
{
    char                  out[8];
    pid_t                 pid;
    uint32_t              i, slow = 0, quick;
    uint64_t              start, connects, probes, refused;
    infer_redis_t        *r;
    infer_redis_conf_t    conf = rs_conf(server.port);
    infer_redis_shared_t *own = rs_shared();

    r = rs_client(&conf, own);
    (void) infer_redis_set(r, "k", "v", 1, 60000);
    (void) kill(server.pid, SIGSTOP);
    for (i = 0; i < 3; i++) {
        start = rs_now_ms();
        slow += rs_get(r, "k", out, sizeof(out)) == INFER_BUSY;
        start = rs_now_ms() - start;
        slow += start >= RS_COMMAND_MS
                && start < RS_CONNECT_MS + RS_COMMAND_MS + RS_SLACK_MS;
    }
    ok(slow == 6, "frozen: three calls wait for their time");
    connects = atomic_load(&own->connects);
    ok(rs_get(r, "k", out, sizeof(out)) == INFER_BUSY
       && atomic_load(&own->refused) == 1
       && atomic_load(&own->connects) == connects
       && infer_redis_breaker(own, 0, rs_now_ms()) == 1,
       "the next one does not");

    refused = atomic_load(&own->refused);
    pid = fork();
    if (pid == 0) {
        infer_redis_free(r);
        r = rs_client(&conf, own);         /* of its own process */
        (void) knock(r, 3000);
        infer_redis_free(r);
        _exit(0);
    }
    quick = knock(r, 3000);
    (void) waitpid(pid, NULL, 0);
    probes = atomic_load(&own->connects) - connects;
    refused = atomic_load(&own->refused) - refused;
    ok(probes >= 2 && probes <= 7 && refused > 4 * probes && quick > 20,
       "two processes, 3 s: %u probes, %u refused", (unsigned) probes,
       (unsigned) refused);

    (void) kill(server.pid, SIGCONT);
    (void) poll(NULL, 0, conf.retry_ms + 20);
    ok(infer_redis_breaker(own, 0, rs_now_ms()) == 2, "half open");
    ok(rs_get(r, "k", out, sizeof(out)) == INFER_OK
       && infer_redis_breaker(own, 0, rs_now_ms()) == 0
       && rs_get(r, "k", out, sizeof(out)) == INFER_OK,
       "one good call closes it");
    infer_redis_free(r);
    (void) munmap(own, sizeof(*own));
}

/* ---- threads ---- */

typedef struct {
    infer_redis_t  *redis;
    uint32_t        id, bad;
} worker_t;

static void *
work(void *arg)
{
    char       key[32], out[64];
    worker_t  *w = arg;
    uint32_t   i;
    uint64_t   n;

    for (i = 0; i < 150; i++) {
        snprintf(key, sizeof(key), "t%u-%u", w->id, i % 7);
        w->bad += infer_redis_set(w->redis, key, key, strlen(key), 60000)
                  != INFER_OK;
        w->bad += rs_get(w->redis, key, out, sizeof(out)) != INFER_OK
                  || strcmp(key, out) != 0;
        w->bad += infer_redis_count(w->redis, "threads", &n) != INFER_OK;
        snprintf(key, sizeof(key), "lock%u", w->id);
        w->bad += infer_redis_lock(w->redis, key, key, 60000) != INFER_OK
                  || infer_redis_unlock(w->redis, key, key) != INFER_OK;
    }
    return NULL;
}

static void
test_threads(void)
{
    uint32_t              i, bad = 0, open;
    uint64_t              n = 0;
    pthread_t             thread[8];
    worker_t              w[8];
    infer_redis_t        *r;
    infer_redis_conf_t    conf = rs_conf(server.port);
    infer_redis_shared_t *own = rs_shared();

    open = rs_descriptors();
    conf.connect_ms = conf.command_ms = 10000;
    r = rs_client(&conf, own);
    for (i = 0; i < 8; i++) {
        w[i] = (worker_t) { r, i, 0 };
        if (pthread_create(&thread[i], NULL, work, &w[i]) != 0) {
            rs_bail("no thread");
        }
    }
    for (i = 0; i < 8; i++) {
        (void) pthread_join(thread[i], NULL);
        bad += w[i].bad;
    }
    ok(bad == 0 && infer_redis_count(r, "threads", &n) == INFER_OK
       && n == 8 * 150 + 1, "8 threads (%u calls failed)", bad);
    ok(atomic_load(&own->connects) <= conf.connections,
       "shared %u connections", (unsigned) atomic_load(&own->connects));
    infer_redis_free(r);
    ok(rs_descriptors() == open, "no descriptor is left");
    (void) munmap(own, sizeof(*own));
}

/* One connection for two: the second waits for it, but not for long. */
static void
test_no_room(void)
{
    char                  out[8];
    uint64_t              start;
    redis_conn_t         *c;
    infer_redis_t        *r;
    infer_redis_conf_t    conf = rs_conf(server.port);
    infer_redis_shared_t *own = rs_shared();

    conf.connections = 1;
    r = rs_client(&conf, own);
    if (infer_redis_conn_get(r, &r->server[0],
                             infer_redis_now_us() + 1000000, 0, &c)
        != INFER_OK)
    {
        rs_bail("no connection");
    }
    start = rs_now_ms();
    ok(rs_get(r, "k", out, sizeof(out)) == INFER_BUSY
       && rs_now_ms() - start < RS_CONNECT_MS + RS_COMMAND_MS + RS_SLACK_MS
       && atomic_load(&own->server[0].failures) == 0,
       "no connection free: not now, and nobody's failure");
    infer_redis_conn_put(r, c, 0);
    ok(rs_get(r, "none", out, sizeof(out)) == INFER_AGAIN, "then it is");
    infer_redis_free(r);
    (void) munmap(own, sizeof(*own));
}

static void
test_conf(void)
{
    uint32_t             i, bad = 0;
    infer_redis_t       *r;
    infer_redis_conf_t   conf;

    for (i = 0; i < 9; i++) {
        conf = rs_conf(1);
        switch (i) {
        case 0: strcpy(conf.server[0].host, "redis.example"); break;
        case 1: conf.server[0].host[0] = '\0'; break;
        case 2: conf.n_servers = 0; break;
        case 3: conf.n_servers = INFER_REDIS_SERVERS + 1; break;
        case 4: conf.connections = 0; break;
        case 5: conf.command_ms = 0; break;
        case 6: conf.cluster = conf.database = 1; break;
        case 7: memset(conf.password, 'p', sizeof(conf.password)); break;
        case 8:
            conf.server[0].port = 0;
            memset(conf.server[0].host, 'p', 200);
            break;
        }
        bad += infer_redis_new(&r, &conf, shared) != INFER_INVALID
               || r != NULL;
    }
    ok(bad == 0, "no client of a wrong configuration");
    conf = rs_conf(server.port);
    strcpy(conf.server[0].host, "::1");
    ok(infer_redis_new(&r, &conf, shared) == INFER_OK, "IPv6 is one");
    infer_redis_free(r);
    infer_redis_free(NULL);
}

static void
test_latency(void)
{
    uint32_t  i;
    uint64_t  n = 0;

    for (i = 0; i < INFER_REDIS_BUCKETS; i++) {
        n += atomic_load(&shared->latency[i]);
    }
    ok(n == atomic_load(&shared->calls) && atomic_load(&shared->latency_us)
       && atomic_load(&shared->sent_bytes) > 1 << 20
       && atomic_load(&shared->received_bytes) > 1 << 20,
       "every call was measured");
}

int
main(void)
{
    uint32_t             open;
    infer_redis_t       *r;
    infer_redis_conf_t   conf;

    (void) signal(SIGPIPE, SIG_IGN);
    if (!rs_installed()) {
        printf("1..0 # SKIP redis-server is not installed\n");
        return 0;
    }
    open = rs_descriptors();
    shared = rs_shared();
    rs_start(&server, NULL);
    test_conf();
    conf = rs_conf(server.port);
    r = rs_client(&conf, shared);
    test_calls(r, "tcp");
    test_wrong_types(r);
    test_full(r);
    test_closed(r);
    infer_redis_free(r);

    strcpy(conf.server[0].host, server.path);
    conf.server[0].port = 0;
    r = rs_client(&conf, shared);
    test_calls(r, "unix socket");
    infer_redis_free(r);
    test_latency();

    test_login();
    test_failover();
    test_threads();
    test_no_room();
    test_frozen();

    rs_stop(&server);
    ok(rs_descriptors() == open, "no descriptor is left at all");
    return tap_done();
}
