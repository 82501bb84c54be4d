/*
 * redis_conn.c: connections: made without waiting longer than told, logged
 * in, kept idle for the next call of any thread, never more than
 * conf.connections of one process. Sockets are ours and non-blocking; hiredis
 * reads replies. Connections live as long as the
 * process, or until a call breaks them.
 *
 * An idle connection that its server has closed is dropped when it is taken
 * from the pool. What closes just then shows as lost before the first byte of
 * a reply, and the caller asks once more on a fresh one.
 */

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "cache/redis_int.h"
#include "ipc/hash.h"

#define CONN_READ        32768         /* bytes at once */
#define CONN_KEEP_BYTES  65536         /* that a reader may keep */
#define CONN_UNIX_MS     2             /* between tries while its queue is
                                        * full: nothing wakes us there */


static void
conn_close(redis_conn_t *c)
{
    if (c->fd >= 0) {
        (void) close(c->fd);
    }
    if (c->reader != NULL) {
        redisReaderFree(c->reader);
    }
    free(c);
}

/* Milliseconds until then, rounded up; 0: it is over. */
static int
conn_left_ms(uint64_t deadline_us)
{
    uint64_t  now = infer_redis_now_us();

    return now >= deadline_us ? 0 : (int) ((deadline_us - now + 999) / 1000);
}

/* ---- addresses ---- */

static int
conn_address(const infer_redis_addr_t *addr, struct sockaddr_storage *ss,
    socklen_t *len)
{
    char                 port[8];
    struct addrinfo     *ai, hints = {
        .ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM,
        .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV
    };
    struct sockaddr_un  *un = (struct sockaddr_un *) ss;

    memset(ss, 0, sizeof(*ss));
    if (addr->port == 0) {
        if (addr->host[0] == '\0'
            || strlen(addr->host) >= sizeof(un->sun_path))
        {
            return INFER_INVALID;
        }
        un->sun_family = AF_UNIX;
        strcpy(un->sun_path, addr->host);
        *len = sizeof(*un);
        return INFER_OK;
    }

    (void) snprintf(port, sizeof(port), "%u", addr->port);
    if (getaddrinfo(addr->host, port, &hints, &ai) != 0) {
        return INFER_INVALID;
    }
    memcpy(ss, ai->ai_addr, ai->ai_addrlen);
    *len = ai->ai_addrlen;
    freeaddrinfo(ai);
    return INFER_OK;
}

int
infer_redis_target(redis_target_t *target, const infer_redis_addr_t *addr)
{
    int                      rc;
    uint8_t                  hash[INFER_HASH_BYTES];
    socklen_t                len;
    struct sockaddr_storage  ss;
    static const uint8_t     key[INFER_HASH_BYTES] = "redis address";

    if (memchr(addr->host, '\0', sizeof(addr->host)) == NULL) {
        return INFER_INVALID;
    }
    rc = conn_address(addr, &ss, &len);
    if (rc == INFER_OK) {
        target->addr = *addr;
        infer_hash(key, &ss, len, hash);
        memcpy(&target->id, hash, sizeof(target->id));
        target->id |= 1;
    }
    return rc;
}

/* ---- one connection ---- */

static int
conn_wait(int fd, short events, uint64_t deadline_us)
{
    int            n, left;
    struct pollfd  p = { .fd = fd, .events = events };

    do {
        left = conn_left_ms(deadline_us);
        n = left > 0 ? poll(&p, 1, left) : 0;
    } while (n < 0 && errno == EINTR);

    return n > 0;
}

static int
conn_connect(int fd, const infer_redis_addr_t *addr, uint64_t deadline_us)
{
    int                      error = 0, on = 1;
    socklen_t                len, error_len = sizeof(error);
    struct sockaddr_storage  ss;

    if (conn_address(addr, &ss, &len) != INFER_OK) {
        return INFER_BUSY;
    }
    if (ss.ss_family != AF_UNIX) {
        (void) setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    }

    while (connect(fd, (struct sockaddr *) &ss, len) != 0) {
        if (ss.ss_family == AF_UNIX && (errno == EAGAIN || errno == EINTR)
            && conn_left_ms(deadline_us) > 0)
        {
            (void) poll(NULL, 0, CONN_UNIX_MS);
            continue;
        }
        if (errno != EINPROGRESS && errno != EINTR) {
            return INFER_BUSY;
        }
        return conn_wait(fd, POLLOUT, deadline_us)
               && getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &error_len)
                  == 0
               && error == 0 ? INFER_OK : INFER_BUSY;
    }
    return INFER_OK;
}

/* AUTH and SELECT, where they are needed. */
static int
conn_login(infer_redis_t *redis, redis_conn_t *c, uint64_t deadline_us)
{
    int                        rc;
    char                       database[16];
    uint32_t                   i;
    infer_buf_t                b = { 0 };
    const infer_redis_conf_t  *conf = &redis->conf;
    redis_reply_t             *reply[REDIS_PENDING];
    redis_command_t            cmd = { .budget = { REDIS_LINE_MAX, 1, 0, 0 } };

    if (conf->password[0] != '\0') {
        if (conf->user[0] != '\0') {
            infer_redis_put(&b, 3, "AUTH", conf->user, conf->password);
        } else {
            infer_redis_put(&b, 2, "AUTH", conf->password);
        }
        cmd.n++;
    }
    if (conf->database != 0) {
        (void) snprintf(database, sizeof(database), "%u", conf->database);
        infer_redis_put(&b, 2, "SELECT", database);
        cmd.n++;
    }
    if (cmd.n == 0) {
        return INFER_OK;
    }

    cmd.data = b.data;
    cmd.len = b.len;
    rc = infer_buf_rc(&b);
    if (rc == INFER_OK) {
        rc = infer_redis_exchange(redis, c, &cmd, deadline_us, reply);
        for (i = 0; rc == INFER_OK && i < cmd.n; i++) {
            if (reply[i]->type != REDIS_REPLY_STATUS) {
                infer_redis_blame(redis, infer_redis_reason(reply[i]));
                rc = INFER_BUSY;
            }
        }
        infer_redis_free_replies(reply);
    }
    infer_buf_free(&b);
    return rc == INFER_OK || rc == INFER_NOMEM ? rc : INFER_BUSY;
}

/* Up to conf.connect_ms. */
static int
conn_open(infer_redis_t *redis, const redis_target_t *target,
    uint64_t deadline_us, redis_conn_t **conn)
{
    int            rc;
    uint64_t       until;
    redis_conn_t  *c;

    until = infer_redis_now_us() + redis->conf.connect_ms * 1000ull;
    if (until < deadline_us) {
        deadline_us = until;
    }
    c = calloc(1, sizeof(*c));
    if (c == NULL) {
        return INFER_NOMEM;
    }
    c->id = target->id;
    c->reader = infer_redis_reader(&c->budget);
    c->fd = socket(target->addr.port == 0 ? AF_UNIX
                   : strchr(target->addr.host, ':') != NULL ? AF_INET6
                                                            : AF_INET,
                   SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    rc = c->reader == NULL ? INFER_NOMEM : c->fd < 0 ? INFER_BUSY : INFER_OK;
    if (rc == INFER_OK) {
        infer_redis_add(redis->shared->connects, 1);
        rc = conn_connect(c->fd, &target->addr, deadline_us);
    }
    if (rc == INFER_BUSY) {
        infer_redis_blame(redis, INFER_REDIS_UNREACHABLE);
    }
    if (rc == INFER_OK) {
        rc = conn_login(redis, c, deadline_us);
    }
    if (rc != INFER_OK) {
        conn_close(c);
        return rc;
    }
    *conn = c;
    return INFER_OK;
}

/* ---- the pool ---- */

/* An idle one has nothing to say; a byte or an end of file is not ours. */
static int
conn_idle_good(const redis_conn_t *c)
{
    char  byte;

    return recv(c->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) < 0
           && (errno == EAGAIN || errno == EWOULDBLOCK);
}

/* Unlinks the one of id that was used last, or the one of any other that was
 * idle longest. */
static redis_conn_t *
conn_take(infer_redis_t *redis, uint64_t id, int other)
{
    redis_conn_t  *c, **at, **found = NULL;

    for (at = &redis->idle; *at != NULL; at = &(*at)->next) {
        if (((*at)->id == id) != other) {
            found = at;
            if (!other) {
                break;
            }
        }
    }
    if (found == NULL) {
        return NULL;
    }
    c = *found;
    *found = c->next;
    return c;
}

int
infer_redis_conn_detach(infer_redis_t *redis, uint64_t id, int *fd)
{
    redis_conn_t  *c;

    (void) pthread_mutex_lock(&redis->lock);
    c = conn_take(redis, id, 0);
    if (c != NULL) {
        redis->n_conns--;
        (void) pthread_cond_signal(&redis->freed);
    }
    (void) pthread_mutex_unlock(&redis->lock);
    if (c == NULL) {
        return INFER_AGAIN;
    }
    if (conn_idle_good(c)) {
        *fd = c->fd;
        c->fd = -1;
    }
    conn_close(c);
    return *fd >= 0 ? INFER_OK : INFER_AGAIN;
}

/* A connection, or *conn NULL and the right to make one. */
static int
conn_reserve(infer_redis_t *redis, uint64_t id, int fresh,
    uint64_t deadline_us, redis_conn_t **conn)
{
    int              rc = INFER_OK;
    redis_conn_t    *c = NULL;
    struct timespec  ts = { (time_t) (deadline_us / 1000000),
                            (long) (deadline_us % 1000000) * 1000 };

    *conn = NULL;
    (void) pthread_mutex_lock(&redis->lock);
    while (rc == INFER_OK) {
        if (!fresh && (c = conn_take(redis, id, 0)) != NULL) {
            *conn = c;
            c = NULL;
            break;
        }
        if (redis->n_conns < redis->conf.connections) {
            redis->n_conns++;
            break;
        }
        /* a place of another server's, or in the way of a fresh one */
        c = conn_take(redis, id, 1);
        if (c == NULL && fresh) {
            c = conn_take(redis, id, 0);
        }
        if (c != NULL) {
            break;
        }
        if (pthread_cond_timedwait(&redis->freed, &redis->lock, &ts) != 0) {
            rc = INFER_AGAIN;
        }
    }
    (void) pthread_mutex_unlock(&redis->lock);

    if (c != NULL) {
        conn_close(c);
    }
    return rc;
}

static void
conn_unreserve(infer_redis_t *redis)
{
    (void) pthread_mutex_lock(&redis->lock);
    redis->n_conns--;
    (void) pthread_cond_signal(&redis->freed);
    (void) pthread_mutex_unlock(&redis->lock);
}

int
infer_redis_conn_get(infer_redis_t *redis, const redis_target_t *target,
    uint64_t deadline_us, int fresh, redis_conn_t **conn)
{
    int            rc;
    redis_conn_t  *c;

    for ( ;; ) {
        rc = conn_reserve(redis, target->id, fresh, deadline_us, &c);
        if (rc != INFER_OK) {
            return rc;
        }
        if (c == NULL) {
            rc = conn_open(redis, target, deadline_us, conn);
            if (rc != INFER_OK) {
                conn_unreserve(redis);
            }
            return rc;
        }
        if (conn_idle_good(c)) {
            c->reused = 1;
            *conn = c;
            return INFER_OK;
        }
        conn_close(c);
        conn_unreserve(redis);
    }
}

void
infer_redis_conn_put(infer_redis_t *redis, redis_conn_t *c, int broken)
{
    if (broken) {
        conn_close(c);
        conn_unreserve(redis);
        return;
    }
    (void) pthread_mutex_lock(&redis->lock);
    c->next = redis->idle;
    redis->idle = c;
    (void) pthread_cond_signal(&redis->freed);
    (void) pthread_mutex_unlock(&redis->lock);
}

void
infer_redis_conn_close_all(infer_redis_t *redis)
{
    redis_conn_t  *c;

    while ((c = redis->idle) != NULL) {
        redis->idle = c->next;
        conn_close(c);
    }
}

/* ---- asking ---- */

typedef struct {
    const redis_command_t  *cmd;
    redis_reply_t         **reply;
    size_t                  sent;
    size_t                  received;
    uint32_t                n;
    int                     lost;
} conn_talk_t;

/* AGAIN: not all yet. */
static int
conn_send(infer_redis_t *redis, redis_conn_t *c, conn_talk_t *t)
{
    ssize_t  n;

    n = send(c->fd, t->cmd->data + t->sent, t->cmd->len - t->sent,
             MSG_NOSIGNAL);
    if (n >= 0) {
        t->sent += (size_t) n;
        infer_redis_add(redis->shared->sent_bytes, (uint64_t) n);
    } else if (errno != EAGAIN && errno != EINTR) {
        t->lost = 1;
        return INFER_CORRUPT;
    }
    return INFER_AGAIN;
}

/* Replies out of what is in the reader. */
static int
conn_parse(redis_conn_t *c, conn_talk_t *t)
{
    int  rc;

    while (t->n < t->cmd->n) {
        rc = infer_redis_read(c->reader, &c->budget, &t->reply[t->n]);
        if (rc != INFER_OK) {
            return rc;
        }
        t->n++;
        c->budget = t->cmd->budget;
    }
    /* more than was asked for, or an answer before the question */
    return c->reader->pos != c->reader->len || t->sent != t->cmd->len
           ? INFER_CORRUPT : INFER_OK;
}

static int
conn_receive(infer_redis_t *redis, redis_conn_t *c, conn_talk_t *t)
{
    char     buf[CONN_READ];
    ssize_t  n;

    n = recv(c->fd, buf, sizeof(buf), 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
        return INFER_AGAIN;
    }
    if (n <= 0) {
        t->lost = 1;
        return INFER_CORRUPT;
    }
    t->received += (size_t) n;
    infer_redis_add(redis->shared->received_bytes, (uint64_t) n);
    if (redisReaderFeed(c->reader, buf, (size_t) n) != REDIS_OK) {
        return INFER_NOMEM;
    }
    return conn_parse(c, t);
}

/* A reader keeps the room of its last reply; a large one is not kept. */
static int
conn_trim(redis_conn_t *c, const conn_talk_t *t)
{
    if (t->received > CONN_KEEP_BYTES) {
        redisReaderFree(c->reader);
        c->reader = infer_redis_reader(&c->budget);
    }
    return c->reader != NULL ? INFER_OK : INFER_NOMEM;
}

int
infer_redis_exchange(infer_redis_t *redis, redis_conn_t *c,
    const redis_command_t *cmd, uint64_t deadline_us,
    redis_reply_t *reply[REDIS_PENDING])
{
    int            rc = INFER_AGAIN, left;
    conn_talk_t    t = { .cmd = cmd, .reply = reply };
    struct pollfd  p = { .fd = c->fd };

    memset(reply, 0, REDIS_PENDING * sizeof(reply[0]));
    c->budget = cmd->budget;
    rc = conn_send(redis, c, &t);
    while (rc == INFER_AGAIN) {
        left = conn_left_ms(deadline_us);
        if (left == 0) {
            rc = INFER_BUSY;
            break;
        }
        p.events = t.sent < cmd->len ? POLLIN | POLLOUT : POLLIN;
        if (poll(&p, 1, left) <= 0) {
            continue;
        }
        if (p.revents & ~POLLOUT) {
            rc = conn_receive(redis, c, &t);
        } else {
            rc = conn_send(redis, c, &t);
        }
    }
    if (rc == INFER_OK) {
        rc = conn_trim(c, &t);
    }
    if (rc == INFER_OK) {
        return INFER_OK;
    }

    infer_redis_free_replies(reply);
    if (c->budget.over) {
        infer_redis_add(redis->shared->oversized, 1);
    }
    infer_redis_blame(redis, c->budget.over ? INFER_REDIS_OVERSIZED
                             : rc == INFER_BUSY ? INFER_REDIS_TIMEOUT
                             : t.lost ? INFER_REDIS_LOST
                                      : INFER_REDIS_NONSENSE);
    return rc == INFER_CORRUPT && t.received == 0 ? INFER_AGAIN : rc;
}
