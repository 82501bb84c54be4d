/*
 * test_redis.c: the client of L2 against a real Redis: every call over TCP and
 * a unix socket, logins, errors of the server, failover, a server that stands
 * still, and many threads at once.
 */

#include "redis_site.h"

static rs_server_t            server;
static infer_redis_shared_t  *shared;


static const char *const  none[2] = { NULL, NULL };

static int
get(infer_redis_t *r, const char *key, char *out, size_t cap)
{
    int       rc;
    void     *value;
    size_t    len;
    uint64_t  count[2];

    rc = infer_redis_get(r, key, none, &value, &len, count);
    out[0] = '\0';
    if (rc == INFER_OK && len < cap) {
        memcpy(out, value, len);
        out[len] = '\0';
    }
    free(value);
    return rc;
}

static void
test_calls(infer_redis_t *r, const char *over)
{
    char               out[64], long_key[INFER_REDIS_KEY_MAX + 2];
    void              *value, *big;
    size_t             len;
    uint64_t           count[2], n;
    const char *const  counters[2] = { "c1", "c2" };

    (void) infer_redis_del(r, "k");
    ok(get(r, "k", out, sizeof(out)) == INFER_AGAIN, "%s: nothing there",
       over);
    ok(infer_redis_set(r, "k", "v\0w", 3, 60000) == INFER_OK
       && get(r, "k", out, sizeof(out)) == INFER_OK
       && memcmp(out, "v\0w", 4) == 0, "set and got, any bytes");
    ok(infer_redis_set(r, "k", "", 0, 60000) == INFER_OK
       && get(r, "k", out, sizeof(out)) == INFER_OK && out[0] == '\0',
       "an empty value");
    ok(infer_redis_del(r, "k") == INFER_OK
       && infer_redis_del(r, "k") == INFER_AGAIN, "deleted once");
    ok(infer_redis_set(r, "k", "x", 1, 50) == INFER_OK
       && poll(NULL, 0, 120) == 0
       && get(r, "k", out, sizeof(out)) == INFER_AGAIN, "a value expires");

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
       && get(r, long_key, out, sizeof(out)) == INFER_INVALID,
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
       && get(r, "list", out, sizeof(out)) == INFER_BUSY
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
    ok(get(r, "w", out, sizeof(out)) == INFER_OK
       && infer_redis_breaker(shared, 0, rs_now_ms()) == 0,
       "the connection goes on, the breaker stays closed");
}

int
main(void)
{
    infer_redis_t       *r;
    infer_redis_conf_t   conf;

    (void) signal(SIGPIPE, SIG_IGN);
    if (!rs_installed()) {
        printf("1..0 # SKIP redis-server is not installed\n");
        return 0;
    }
    shared = rs_shared();
    rs_start(&server, NULL);
    conf = rs_conf(server.port);
    r = rs_client(&conf, shared);
    test_calls(r, "tcp");
    test_wrong_types(r);
    infer_redis_free(r);

    strcpy(conf.server[0].host, server.path);
    conf.server[0].port = 0;
    r = rs_client(&conf, shared);
    test_calls(r, "unix socket");
    infer_redis_free(r);

    rs_stop(&server);
    return tap_done();
}
