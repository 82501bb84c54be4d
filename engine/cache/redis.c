/*
 * redis.c: the calls of redis.h: commands made, the server or node asked, the
 * reply understood, all within one deadline.
 */

#include <stdarg.h>
#include <stdio.h>
#include <time.h>

#include "cache/redis_int.h"

static const char redis_renew_script[] =
    "if redis.call('get',KEYS[1])==ARGV[1] then "
    "return redis.call('pexpire',KEYS[1],ARGV[2]) end return 0";
static const char redis_unlock_script[] =
    "if redis.call('get',KEYS[1])==ARGV[1] then "
    "return redis.call('del',KEYS[1]) end return 0";


uint64_t
infer_redis_now_us(void)
{
    struct timespec  ts;

    (void) clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t) ts.tv_sec * 1000000 + (uint64_t) ts.tv_nsec / 1000;
}

/* ---- the client ---- */

static int
redis_conf_sane(const infer_redis_conf_t *c)
{
    return c->n_servers != 0 && c->n_servers <= INFER_REDIS_SERVERS
           && c->connections != 0 && c->connect_ms != 0 && c->command_ms != 0
           && c->connect_ms <= INFER_REDIS_MAX_MS
           && c->command_ms <= INFER_REDIS_MAX_MS
           && !(c->cluster && c->database != 0)
           && memchr(c->user, '\0', sizeof(c->user)) != NULL
           && memchr(c->password, '\0', sizeof(c->password)) != NULL;
}

int
infer_redis_new(infer_redis_t **redis, const infer_redis_conf_t *conf,
    infer_redis_shared_t *shared)
{
    int                 rc = INFER_OK;
    uint32_t            i;
    infer_redis_t      *r;
    pthread_condattr_t  attr;

    *redis = NULL;
    if (!redis_conf_sane(conf)) {
        return INFER_INVALID;
    }
    r = calloc(1, sizeof(*r));
    if (r == NULL) {
        return INFER_NOMEM;
    }
    r->conf = *conf;
    r->shared = shared;
    for (i = 0; rc == INFER_OK && i < conf->n_servers; i++) {
        rc = infer_redis_target(&r->server[i], &conf->server[i]);
        r->server[i].breaker = i;
        if (rc == INFER_OK && conf->cluster) {
            r->server[i].breaker = infer_redis_place(shared,
                                                     r->server[i].id);
        }
    }
    if (rc == INFER_OK && conf->cluster) {
        r->map = infer_redis_map_new();
        rc = r->map != NULL ? INFER_OK : INFER_NOMEM;
    }
    if (rc != INFER_OK) {
        free(r);
        return rc;
    }

    (void) pthread_condattr_init(&attr);
    (void) pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    (void) pthread_mutex_init(&r->lock, NULL);
    (void) pthread_cond_init(&r->freed, &attr);
    (void) pthread_cond_init(&r->mapped, &attr);
    (void) pthread_condattr_destroy(&attr);
    *redis = r;
    return INFER_OK;
}

void
infer_redis_free(infer_redis_t *r)
{
    if (r == NULL) {
        return;
    }
    infer_redis_conn_close_all(r);
    (void) pthread_cond_destroy(&r->mapped);
    (void) pthread_cond_destroy(&r->freed);
    (void) pthread_mutex_destroy(&r->lock);
    free(r->map);
    free(r);
}

/* ---- one server ---- */

void
infer_redis_free_replies(redis_reply_t *reply[REDIS_PENDING])
{
    uint32_t  i;

    for (i = 0; i < REDIS_PENDING; i++) {
        infer_redis_reply_free(reply[i]);
        reply[i] = NULL;
    }
}

/* How errors begin; unfit: the server as a whole is of no use now. */
static const struct {
    const char  *word;
    uint32_t     why;
    int          unfit;
} redis_errors[] = {
    { "LOADING", INFER_REDIS_UNREADY, 1 },
    { "MASTERDOWN", INFER_REDIS_UNREADY, 1 },
    { "NOAUTH", INFER_REDIS_DENIED, 1 },
    { "ERR max number of clients reached", INFER_REDIS_CROWDED, 1 },
    { "ERR AUTH", INFER_REDIS_DENIED, 0 },
    { "ERR invalid password", INFER_REDIS_DENIED, 0 },
    { "WRONGPASS", INFER_REDIS_DENIED, 0 },
    { "NOPERM", INFER_REDIS_DENIED, 0 },
    { "OOM", INFER_REDIS_MEMORY, 0 },
    { "CLUSTERDOWN", INFER_REDIS_UNSERVED, 0 },
};

static const char *const  redis_whys[] = {
    [INFER_REDIS_WELL] = "for no known reason",
    [INFER_REDIS_UNREACHABLE] = "it cannot be reached",
    [INFER_REDIS_TIMEOUT] = "it does not answer in time",
    [INFER_REDIS_LOST] = "it closes the connection",
    [INFER_REDIS_NONSENSE] = "what it says is not what was asked for",
    [INFER_REDIS_OVERSIZED] = "its reply is larger than max_value",
    [INFER_REDIS_DENIED] = "it refuses the user, the password or the command",
    [INFER_REDIS_UNREADY] = "it is loading, or its master is away",
    [INFER_REDIS_MEMORY] = "it has no memory for more values",
    [INFER_REDIS_CROWDED] = "no connection is free",
    [INFER_REDIS_UNSERVED] = "no node of the cluster serves the key",
    [INFER_REDIS_ERROR] = "it answers with an error"
};

static const uint32_t  redis_n_errors = sizeof(redis_errors)
                                        / sizeof(redis_errors[0]);

const char *
infer_redis_why(uint32_t why)
{
    return redis_whys[why < sizeof(redis_whys) / sizeof(redis_whys[0])
                      ? why : INFER_REDIS_WELL];
}

uint32_t
infer_redis_reason(const redis_reply_t *reply)
{
    uint32_t  k;

    if (reply->type != REDIS_REPLY_ERROR) {
        return INFER_REDIS_NONSENSE;
    }
    for (k = 0; k < redis_n_errors; k++) {
        if (infer_redis_error(reply, redis_errors[k].word)) {
            return redis_errors[k].why;
        }
    }
    return INFER_REDIS_ERROR;
}

int
infer_redis_unfit(infer_redis_t *redis,
    redis_reply_t *const reply[REDIS_PENDING])
{
    uint32_t  i, k;

    for (i = 0; i < REDIS_PENDING; i++) {
        for (k = 0; k < redis_n_errors; k++) {
            if (redis_errors[k].unfit
                && infer_redis_error(reply[i], redis_errors[k].word))
            {
                infer_redis_blame(redis, redis_errors[k].why);
                return 1;
            }
        }
    }
    return 0;
}

int
infer_redis_ask(infer_redis_t *redis, const redis_target_t *target,
    const redis_command_t *cmd, uint64_t deadline_us,
    redis_reply_t *reply[REDIS_PENDING], int *asked)
{
    int            rc, probe, over = 0, fresh = 0, reused;
    uint64_t       until;
    redis_conn_t  *c;

    memset(reply, 0, REDIS_PENDING * sizeof(reply[0]));
    if (!infer_redis_allow(redis, target->breaker, &probe)) {
        return INFER_BUSY;
    }

    do {
        rc = infer_redis_conn_get(redis, target, deadline_us, fresh, &c);
        if (rc == INFER_AGAIN || rc == INFER_NOMEM) {
            *asked = 1;
            if (rc == INFER_AGAIN) {
                infer_redis_blame(redis, INFER_REDIS_CROWDED);
            }
            return rc == INFER_NOMEM ? rc : INFER_BUSY;
        }
        *asked = 1;
        if (rc != INFER_OK) {
            break;
        }
        until = infer_redis_now_us() + redis->conf.command_ms * 1000ull;
        reused = c->reused;
        rc = infer_redis_exchange(redis, c, cmd,
                                  until < deadline_us ? until : deadline_us,
                                  reply);
        over = c->budget.over;
        infer_redis_conn_put(redis, c, rc != INFER_OK);
        fresh++;
    } while (rc == INFER_AGAIN && reused && fresh == 1);

    if (rc == INFER_OK && infer_redis_unfit(redis, reply)) {
        infer_redis_free_replies(reply);
        rc = INFER_BUSY;
    }
    /* too large a value says nothing about the server */
    if (rc != INFER_NOMEM) {
        infer_redis_tell(redis, target->breaker, rc == INFER_OK || over,
                         probe);
    }
    return rc == INFER_OK || rc == INFER_NOMEM ? rc : INFER_BUSY;
}

/* The first server that can; a replica that cannot write is no error of a
 * server, but the next one may be able to. */
static int
redis_ask_in_turn(infer_redis_t *redis, const redis_command_t *cmd,
    uint64_t deadline_us, redis_reply_t *reply[REDIS_PENDING], int *asked)
{
    int       rc = INFER_BUSY;
    uint32_t  i;

    for (i = 0; i < redis->conf.n_servers; i++) {
        rc = infer_redis_ask(redis, &redis->server[i], cmd, deadline_us,
                             reply, asked);
        if (rc == INFER_NOMEM) {
            return rc;
        }
        if (rc == INFER_OK) {
            if (!infer_redis_error(reply[0], "READONLY")) {
                return rc;
            }
            infer_redis_free_replies(reply);
            infer_redis_blame(redis, INFER_REDIS_UNREADY);
            rc = INFER_BUSY;
        }
        if (infer_redis_now_us() >= deadline_us) {
            break;
        }
    }
    return rc;
}

/* ---- one call ---- */

void
infer_redis_measure(infer_redis_shared_t *s, uint64_t us)
{
    uint32_t  i;

    for (i = 0; i < INFER_REDIS_BUCKETS - 1; i++) {
        if (us <= 125ull << i) {
            break;
        }
    }
    infer_redis_add(s->latency[i], 1);
    infer_redis_add(s->latency_us, us);
}

static int
redis_call(infer_redis_t *redis, const redis_command_t *cmd,
    redis_reply_t *reply[REDIS_PENDING])
{
    int                    rc, asked = 0;
    uint32_t               i;
    uint64_t               start = infer_redis_now_us(), deadline;
    infer_redis_shared_t  *s = redis->shared;

    memset(reply, 0, REDIS_PENDING * sizeof(reply[0]));
    deadline = start + (redis->conf.connect_ms + redis->conf.command_ms)
                       * 1000ull;
    infer_redis_add(s->calls, 1);
    rc = redis->map != NULL
         ? infer_redis_cluster_ask(redis, cmd, deadline, reply, &asked)
         : redis_ask_in_turn(redis, cmd, deadline, reply, &asked);
    if (asked) {
        infer_redis_measure(s, infer_redis_now_us() - start);
    }
    for (i = 0; rc == INFER_OK && i < cmd->n; i++) {
        if (reply[i]->type == REDIS_REPLY_ERROR) {
            infer_redis_blame(redis, infer_redis_reason(reply[i]));
            rc = INFER_BUSY;
        }
    }
    if (rc != INFER_OK) {
        infer_redis_free_replies(reply);
        if (asked) {
            infer_redis_add(s->failed, 1);
        } else {
            infer_redis_add(s->refused, 1);
        }
    }
    return rc;
}

/* A reply of a type that the command does not have. */
static int
redis_odd(infer_redis_t *redis)
{
    infer_redis_add(redis->shared->failed, 1);
    infer_redis_blame(redis, INFER_REDIS_NONSENSE);
    return INFER_BUSY;
}

int
infer_redis_key_sane(const char *key)
{
    return key[0] != '\0'
           && strnlen(key, INFER_REDIS_KEY_MAX + 1) <= INFER_REDIS_KEY_MAX;
}

static void
redis_put_arg(infer_buf_t *b, const void *arg, size_t len)
{
    infer_buf_put(b, "$", 1);
    infer_buf_u64(b, len);
    infer_buf_put(b, "\r\n", 2);
    infer_buf_put(b, arg, len);
    infer_buf_put(b, "\r\n", 2);
}

void
infer_redis_put(infer_buf_t *b, uint32_t n, ...)
{
    va_list      ap;
    uint32_t     i;
    const char  *arg;

    infer_buf_put(b, "*", 1);
    infer_buf_u64(b, n);
    infer_buf_put(b, "\r\n", 2);
    va_start(ap, n);
    for (i = 0; i < n; i++) {
        arg = va_arg(ap, const char *);
        redis_put_arg(b, arg, strlen(arg));
    }
    va_end(ap);
}

/* The one command in b at its key; b is freed. */
static int
redis_one(infer_redis_t *redis, infer_buf_t *b, const char *key,
    redis_reply_t **reply)
{
    int              rc;
    redis_reply_t   *replies[REDIS_PENDING];
    redis_command_t  cmd = {
        .data = b->data, .len = b->len, .n = 1, .key = { key },
        .end = { b->len }, .budget = { REDIS_LINE_MAX, 1, 0, 0 }
    };

    rc = infer_buf_rc(b);
    *reply = NULL;
    if (rc == INFER_OK) {
        rc = redis_call(redis, &cmd, replies);
        *reply = replies[0];
    }
    infer_buf_free(b);
    return rc;
}

/* The same where the reply is an integer. */
static int
redis_integer(infer_redis_t *redis, infer_buf_t *b, const char *key,
    long long *value)
{
    int             rc;
    redis_reply_t  *r;

    rc = redis_one(redis, b, key, &r);
    if (rc == INFER_OK) {
        if (r->type == REDIS_REPLY_INTEGER) {
            *value = r->integer;
        } else {
            rc = redis_odd(redis);
        }
        infer_redis_reply_free(r);
    }
    return rc;
}

/* ---- values and counters ---- */

int
infer_redis_counter(const redis_reply_t *r, uint64_t *count)
{
    char  *end;

    *count = 0;
    if (r->type == REDIS_REPLY_NIL) {
        return INFER_OK;
    }
    if (r->type != REDIS_REPLY_STRING || r->len == 0 || r->len > 20
        || strspn(r->str, "0123456789") != r->len)
    {
        return INFER_BUSY;
    }
    *count = strtoull(r->str, &end, 10);
    return INFER_OK;
}

int
infer_redis_get(infer_redis_t *redis, const char *key,
    const char *const counter[2], void **value, size_t *len,
    uint64_t count[2])
{
    int              rc;
    uint32_t         i, k = 0;
    infer_buf_t      b = { 0 };
    redis_reply_t   *reply[REDIS_PENDING];
    redis_command_t  cmd = { .key = { key, counter[0], counter[1] } };

    *value = NULL;
    *len = 0;
    for (i = 0; i < REDIS_PENDING; i++) {
        if (cmd.key[i] == NULL) {
            continue;
        }
        if (!infer_redis_key_sane(cmd.key[i])) {
            infer_buf_free(&b);
            return INFER_INVALID;
        }
        infer_redis_put(&b, 2, "GET", cmd.key[i]);
        cmd.key[cmd.n] = cmd.key[i];
        cmd.end[cmd.n++] = b.len;
    }
    cmd.data = b.data;
    cmd.len = b.len;
    cmd.budget = (redis_budget_t) { redis->conf.max_value, 1, 0, 0 };
    rc = infer_buf_rc(&b);
    if (rc == INFER_OK) {
        rc = redis_call(redis, &cmd, reply);
    }
    infer_buf_free(&b);
    if (rc != INFER_OK) {
        return rc;
    }

    for (i = 0; rc == INFER_OK && i < 2; i++) {
        if (counter[i] != NULL) {
            rc = infer_redis_counter(reply[++k], &count[i]);
        }
    }
    if (rc == INFER_OK && reply[0]->type == REDIS_REPLY_STRING) {
        *value = reply[0]->str;
        *len = reply[0]->len;
        reply[0]->str = NULL;
    } else if (rc == INFER_OK && reply[0]->type == REDIS_REPLY_NIL) {
        rc = INFER_AGAIN;
    } else {
        rc = redis_odd(redis);
    }
    infer_redis_free_replies(reply);
    return rc;
}

/* +OK, or nil, which is AGAIN. */
static int
redis_status(infer_redis_t *redis, infer_buf_t *b, const char *key)
{
    int             rc;
    redis_reply_t  *r;

    rc = redis_one(redis, b, key, &r);
    if (rc == INFER_OK) {
        rc = r->type == REDIS_REPLY_STATUS && strcmp(r->str, "OK") == 0
             ? INFER_OK
             : r->type == REDIS_REPLY_NIL ? INFER_AGAIN : redis_odd(redis);
        infer_redis_reply_free(r);
    }
    return rc;
}

int
infer_redis_set(infer_redis_t *redis, const char *key, const void *value,
    size_t len, uint64_t ttl_ms)
{
    char         ttl[24];
    infer_buf_t  b = { 0 };

    if (!infer_redis_key_sane(key) || len > redis->conf.max_value
        || ttl_ms == 0 || ttl_ms > INFER_REDIS_MAX_TTL_MS)
    {
        return INFER_INVALID;
    }
    (void) snprintf(ttl, sizeof(ttl), "%llu", (unsigned long long) ttl_ms);
    infer_buf_str(&b, "*5\r\n$3\r\nSET\r\n");
    redis_put_arg(&b, key, strlen(key));
    redis_put_arg(&b, value, len);
    redis_put_arg(&b, "PX", 2);
    redis_put_arg(&b, ttl, strlen(ttl));
    return redis_status(redis, &b, key);
}

int
infer_redis_del(infer_redis_t *redis, const char *key)
{
    int          rc;
    long long    n = 0;
    infer_buf_t  b = { 0 };

    if (!infer_redis_key_sane(key)) {
        return INFER_INVALID;
    }
    infer_redis_put(&b, 2, "DEL", key);
    rc = redis_integer(redis, &b, key, &n);
    return rc == INFER_OK && n == 0 ? INFER_AGAIN : rc;
}

int
infer_redis_count(infer_redis_t *redis, const char *counter, uint64_t *count)
{
    int          rc;
    long long    n = 0;
    infer_buf_t  b = { 0 };

    if (!infer_redis_key_sane(counter)) {
        return INFER_INVALID;
    }
    infer_redis_put(&b, 2, "INCR", counter);
    rc = redis_integer(redis, &b, counter, &n);
    if (rc == INFER_OK && n < 0) {
        return redis_odd(redis);
    }
    *count = (uint64_t) n;
    return rc;
}

/* ---- locks ---- */

static int
redis_lock_args(const char *key, const char *owner, uint64_t ttl_ms,
    char ttl[24])
{
    (void) snprintf(ttl, 24, "%llu", (unsigned long long) ttl_ms);
    return infer_redis_key_sane(key) && infer_redis_key_sane(owner)
           && ttl_ms != 0 && ttl_ms <= INFER_REDIS_MAX_TTL_MS
           ? INFER_OK : INFER_INVALID;
}

int
infer_redis_lock(infer_redis_t *redis, const char *key, const char *owner,
    uint64_t ttl_ms)
{
    char         ttl[24];
    infer_buf_t  b = { 0 };

    if (redis_lock_args(key, owner, ttl_ms, ttl) != INFER_OK) {
        return INFER_INVALID;
    }
    infer_redis_put(&b, 6, "SET", key, owner, "NX", "PX", ttl);
    return redis_status(redis, &b, key);
}

int
infer_redis_renew(infer_redis_t *redis, const char *key, const char *owner,
    uint64_t ttl_ms)
{
    int          rc;
    char         ttl[24];
    long long    n = 0;
    infer_buf_t  b = { 0 };

    if (redis_lock_args(key, owner, ttl_ms, ttl) != INFER_OK) {
        return INFER_INVALID;
    }
    infer_redis_put(&b, 6, "EVAL", redis_renew_script, "1", key, owner, ttl);
    rc = redis_integer(redis, &b, key, &n);
    return rc == INFER_OK && n == 0 ? INFER_AGAIN : rc;
}

int
infer_redis_unlock(infer_redis_t *redis, const char *key, const char *owner)
{
    int          rc;
    long long    n = 0;
    infer_buf_t  b = { 0 };

    if (!infer_redis_key_sane(key) || !infer_redis_key_sane(owner)) {
        return INFER_INVALID;
    }
    infer_redis_put(&b, 5, "EVAL", redis_unlock_script, "1", key, owner);
    rc = redis_integer(redis, &b, key, &n);
    return rc == INFER_OK && n == 0 ? INFER_AGAIN : rc;
}
