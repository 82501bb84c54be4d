/*
 * redis_cluster.c: which node has a key, after the "Redis cluster
 * specification" (redis.io): CRC16 of the key or of its hash tag, CLUSTER
 * SLOTS, MOVED and ASK. The map of slots is a hint: a node that does not have
 * a slot says who has. It is asked for at the first call, after a redirect
 * and after a node that did not answer, by one thread at a time and not more
 * often than every CLUSTER_LEAST_US.
 */

#include <stdio.h>

#include "cache/redis_int.h"

#define CLUSTER_LEAST_US   500000      /* between two looks at the topology */
#define CLUSTER_REDIRECTS  5           /* and failures, of one call */
#define CLUSTER_OBJECTS    131072      /* of a topology */
#define CLUSTER_BYTES      (4u << 20)

static const char  cluster_asking[] = "*1\r\n$6\r\nASKING\r\n";


/* CRC16-CCITT (XMODEM): polynomial 0x1021, nothing reflected. */
uint32_t
infer_redis_slot(const char *key)
{
    size_t       len = strlen(key), i;
    uint32_t     crc = 0, bit;
    const char  *open = strchr(key, '{'), *close;

    if (open != NULL) {
        close = strchr(open, '}');
        if (close != NULL && close > open + 1) {
            key = open + 1;
            len = (size_t) (close - key);
        }
    }
    for (i = 0; i < len; i++) {
        crc ^= (uint32_t) (uint8_t) key[i] << 8;
        for (bit = 0; bit < 8; bit++) {
            crc = crc & 0x8000 ? crc << 1 ^ 0x1021 : crc << 1;
        }
        crc &= 0xffff;
    }
    return crc % REDIS_SLOTS;
}

redis_map_t *
infer_redis_map_new(void)
{
    redis_map_t  *m = calloc(1, sizeof(*m));

    if (m != NULL) {
        memset(m->slot, REDIS_NO_NODE, sizeof(m->slot));
    }
    return m;
}

/* ---- the topology ---- */

/* The node's index in the map, added where it is new; only then it has a
 * breaker, so that there are as many as a map has nodes. */
static uint32_t
cluster_node(infer_redis_t *redis, redis_map_t *m, const redis_target_t *t)
{
    uint32_t  i;

    for (i = 0; i < m->n_nodes; i++) {
        if (m->node[i].id == t->id) {
            return i;
        }
    }
    if (m->n_nodes == INFER_REDIS_NODES) {
        return REDIS_NO_NODE;
    }
    m->node[m->n_nodes] = *t;
    m->node[m->n_nodes].breaker = infer_redis_place(redis->shared, t->id);
    return m->n_nodes++;
}

/* A node's address as another one tells it: no host: the same as that one's.
 * INVALID when we cannot use it. It has no breaker yet. */
static int
cluster_target(const char *host, size_t len, long long port,
    const redis_target_t *teller, redis_target_t *t)
{
    infer_redis_addr_t  a = { .port = (uint16_t) port };

    if (port <= 0 || port > UINT16_MAX || len >= sizeof(a.host)
        || (len == 0 && teller->addr.port == 0))
    {
        return INFER_INVALID;
    }
    if (len == 0) {
        memcpy(a.host, teller->addr.host, sizeof(a.host));
    } else {
        memcpy(a.host, host, len);
    }
    return infer_redis_target(t, &a) == INFER_OK ? INFER_OK : INFER_INVALID;
}

/* [first, last, [host, port, ...], replicas ...]; *left: slots that no range
 * had before. */
static int
cluster_range(infer_redis_t *redis, redis_map_t *m, const redis_reply_t *r,
    const redis_target_t *teller, uint32_t *left)
{
    uint32_t              node;
    long long             i;
    redis_target_t        t;
    const redis_reply_t  *last, *master, *host;

    last = r->n >= 3 ? r->first->next : NULL;
    master = last != NULL ? last->next : NULL;
    if (last == NULL || r->first->type != REDIS_REPLY_INTEGER
        || last->type != REDIS_REPLY_INTEGER || r->first->integer < 0
        || last->integer < r->first->integer
        || last->integer - r->first->integer >= *left
        || last->integer >= REDIS_SLOTS
        || master->type != REDIS_REPLY_ARRAY || master->n < 2)
    {
        return INFER_CORRUPT;
    }
    host = master->first;
    if ((host->type != REDIS_REPLY_STRING && host->type != REDIS_REPLY_NIL)
        || host->next->type != REDIS_REPLY_INTEGER)
    {
        return INFER_CORRUPT;
    }
    *left -= (uint32_t) (last->integer - r->first->integer) + 1;
    if (cluster_target(host->str, host->len, host->next->integer, teller, &t)
        != INFER_OK)
    {
        return INFER_OK;                   /* its keys are misses */
    }
    node = cluster_node(redis, m, &t);
    for (i = r->first->integer; i <= last->integer; i++) {
        m->slot[i] = (uint8_t) node;
    }
    return INFER_OK;
}

/* A new map from one node's word. */
static int
cluster_learn(infer_redis_t *redis, const redis_target_t *teller,
    uint64_t deadline_us, redis_map_t *m, int *asked)
{
    int                   rc;
    uint32_t              left = REDIS_SLOTS;
    infer_buf_t           b = { 0 };
    redis_reply_t        *reply[REDIS_PENDING];
    redis_command_t       cmd = {
        .n = 1, .budget = { CLUSTER_BYTES, CLUSTER_OBJECTS, 1, 0 }
    };
    const redis_reply_t  *r;

    infer_redis_put(&b, 2, "CLUSTER", "SLOTS");
    cmd.data = b.data;
    cmd.len = b.len;
    rc = infer_buf_rc(&b);
    if (rc == INFER_OK) {
        rc = infer_redis_ask(redis, teller, &cmd, deadline_us, reply, asked);
    }
    infer_buf_free(&b);
    if (rc != INFER_OK) {
        return rc;
    }

    m->n_nodes = 0;
    memset(m->slot, REDIS_NO_NODE, sizeof(m->slot));
    rc = reply[0]->type == REDIS_REPLY_ARRAY && reply[0]->n != 0
         ? INFER_OK : INFER_BUSY;
    for (r = reply[0]->first; rc == INFER_OK && r != NULL; r = r->next) {
        rc = r->type == REDIS_REPLY_ARRAY
             ? cluster_range(redis, m, r, teller, &left) : INFER_CORRUPT;
    }
    infer_redis_free_replies(reply);
    return rc;
}

/* The i-th to be asked, of the conf's servers and the nodes; 0: there is
 * none. */
static int
cluster_teller(infer_redis_t *redis, uint32_t i, redis_target_t *t)
{
    int           there;
    uint32_t      n = redis->conf.n_servers;
    redis_map_t  *m = redis->map;

    (void) pthread_mutex_lock(&redis->lock);
    there = i < n + m->n_nodes;
    if (there) {
        i = (i + m->turn) % (n + m->n_nodes);
        *t = i < n ? redis->server[i] : m->node[i - n];
    }
    (void) pthread_mutex_unlock(&redis->lock);
    return there;
}

static void
cluster_take(infer_redis_t *redis, const redis_map_t *fresh, int good)
{
    redis_map_t  *m = redis->map;

    (void) pthread_mutex_lock(&redis->lock);
    if (good) {
        m->n_nodes = fresh->n_nodes;
        memcpy(m->node, fresh->node, sizeof(m->node));
        memcpy(m->slot, fresh->slot, sizeof(m->slot));
        m->stale = 0;
    }
    m->asked_us = infer_redis_now_us();
    m->asking = 0;
    m->turn++;                             /* another one next time */
    (void) pthread_cond_broadcast(&redis->mapped);
    (void) pthread_mutex_unlock(&redis->lock);
}

/* asking was set by the caller. */
static void
cluster_refresh(infer_redis_t *redis, uint64_t deadline_us, int *asked)
{
    int             rc = INFER_NOMEM;
    uint32_t        i;
    redis_map_t    *fresh = calloc(1, sizeof(*fresh));
    redis_target_t  t;

    for (i = 0; fresh != NULL && rc != INFER_OK; i++) {
        if (infer_redis_now_us() >= deadline_us
            || !cluster_teller(redis, i, &t))
        {
            break;
        }
        rc = cluster_learn(redis, &t, deadline_us, fresh, asked);
    }
    cluster_take(redis, fresh, rc == INFER_OK);
    free(fresh);
}

/* ---- whom to ask ---- */

/* The node of a key; waits where another thread is just finding out. BUSY:
 * nobody has it that we know of. */
static int
cluster_find(infer_redis_t *redis, const char *key, uint64_t deadline_us,
    redis_target_t *t, int *asked)
{
    int              rc, known;
    uint8_t          node;
    uint32_t         slot = infer_redis_slot(key);
    redis_map_t     *m = redis->map;
    struct timespec  ts = { (time_t) (deadline_us / 1000000),
                            (long) (deadline_us % 1000000) * 1000 };

    (void) pthread_mutex_lock(&redis->lock);
    for ( ;; ) {
        node = m->slot[slot];
        if (!m->asking && (m->stale || node == REDIS_NO_NODE)
            && (m->asked_us == 0
                || infer_redis_now_us() - m->asked_us > CLUSTER_LEAST_US))
        {
            m->asking = 1;
            (void) pthread_mutex_unlock(&redis->lock);
            cluster_refresh(redis, deadline_us, asked);
            (void) pthread_mutex_lock(&redis->lock);
            node = m->slot[slot];
            break;
        }
        if (node != REDIS_NO_NODE || !m->asking
            || pthread_cond_timedwait(&redis->mapped, &redis->lock, &ts) != 0)
        {
            break;
        }
    }
    rc = node != REDIS_NO_NODE ? INFER_OK : INFER_BUSY;
    if (rc == INFER_OK) {
        *t = m->node[node];
    }
    known = m->n_nodes != 0;
    (void) pthread_mutex_unlock(&redis->lock);
    if (rc != INFER_OK && known) {
        infer_redis_blame(redis, INFER_REDIS_UNSERVED);
    }
    return rc;
}

static void
cluster_stale(infer_redis_t *redis)
{
    (void) pthread_mutex_lock(&redis->lock);
    redis->map->stale = 1;
    (void) pthread_mutex_unlock(&redis->lock);
}

/* "MOVED 3999 127.0.0.1:6381", also an ASK. */
static int
cluster_redirect(infer_redis_t *redis, const redis_reply_t *r,
    const redis_target_t *teller, redis_target_t *t)
{
    char        *end;
    uint8_t      node;
    const char  *host, *colon;
    long         slot;

    slot = strtol(strchr(r->str, ' ') + 1, &end, 10);
    colon = strrchr(r->str, ':');
    host = end + 1;
    if (slot < 0 || slot >= REDIS_SLOTS || *end != ' ' || colon == NULL
        || colon < host
        || cluster_target(host, (size_t) (colon - host),
                          strtol(colon + 1, NULL, 10), teller, t)
           != INFER_OK)
    {
        return INFER_BUSY;
    }
    t->breaker = infer_redis_place(redis->shared, t->id);
    infer_redis_add(redis->shared->redirects, 1);
    if (r->str[0] == 'M') {
        (void) pthread_mutex_lock(&redis->lock);
        node = (uint8_t) cluster_node(redis, redis->map, t);
        if (node != REDIS_NO_NODE) {
            redis->map->slot[slot] = node;
        }
        redis->map->stale = 1;
        (void) pthread_mutex_unlock(&redis->lock);
    }
    return INFER_OK;
}

/* ---- one call ---- */

/* Where each command of a call stands. */
typedef struct {
    const redis_command_t  *cmd;
    redis_reply_t         **reply;         /* NULL: not answered yet */
    redis_target_t          to[REDIS_PENDING];
    int                     known[REDIS_PENDING];   /* to[] is set */
    int                     asking[REDIS_PENDING];
    uint32_t                part[REDIS_PENDING];    /* those asked together */
    uint32_t                n_parts;
} cluster_call_t;

static const char *
cluster_part(const cluster_call_t *c, uint32_t i, size_t *len)
{
    size_t  at = i != 0 ? c->cmd->end[i - 1] : 0;

    *len = c->cmd->end[i] - at;
    return c->cmd->data + at;
}

/* Chooses the commands that go to one node together. */
static int
cluster_choose(infer_redis_t *redis, cluster_call_t *c, uint64_t deadline_us,
    int *asked)
{
    int       rc;
    uint32_t  i, first = REDIS_PENDING;

    c->n_parts = 0;
    for (i = 0; i < c->cmd->n; i++) {
        if (c->reply[i] != NULL) {
            continue;
        }
        if (!c->known[i]) {
            rc = cluster_find(redis, c->cmd->key[i], deadline_us, &c->to[i],
                              asked);
            if (rc != INFER_OK) {
                return rc;
            }
            c->known[i] = 1;
        }
        if (first == REDIS_PENDING) {
            first = i;
        }
        if (i == first || (c->to[i].id == c->to[first].id
                           && !c->asking[i] && !c->asking[first]))
        {
            c->part[c->n_parts++] = i;
        }
    }
    return INFER_OK;
}

/* The chosen ones, asked; *reply: theirs. */
static int
cluster_ask_parts(infer_redis_t *redis, const cluster_call_t *c,
    uint64_t deadline_us, redis_reply_t *reply[REDIS_PENDING], int *asked)
{
    int              rc, asking = c->asking[c->part[0]];
    size_t           len;
    uint32_t         i;
    const char      *p;
    infer_buf_t      b = { 0 };
    redis_command_t  cmd = *c->cmd;

    if (asking || c->n_parts != cmd.n) {
        if (asking) {
            infer_buf_str(&b, cluster_asking);
        }
        for (i = 0; i < c->n_parts; i++) {
            p = cluster_part(c, c->part[i], &len);
            infer_buf_put(&b, p, len);
        }
        cmd.data = b.data;
        cmd.len = b.len;
        cmd.n = c->n_parts + (asking != 0);
    }
    rc = infer_buf_rc(&b);
    if (rc == INFER_OK) {
        rc = infer_redis_ask(redis, &c->to[c->part[0]], &cmd, deadline_us,
                             reply, asked);
    }
    infer_buf_free(&b);
    if (rc == INFER_OK && asking) {
        infer_redis_reply_free(reply[0]);
        reply[0] = reply[1];
        reply[1] = NULL;
    }
    return rc;
}

/* Answers, or other nodes to be asked. */
static int
cluster_sort(infer_redis_t *redis, cluster_call_t *c,
    redis_reply_t *reply[REDIS_PENDING])
{
    int             rc = INFER_OK;
    uint32_t        i, k;
    redis_target_t  to;

    for (i = 0; i < c->n_parts; i++) {
        k = c->part[i];
        c->asking[k] = infer_redis_error(reply[i], "ASK");
        if (!c->asking[k] && !infer_redis_error(reply[i], "MOVED")) {
            c->reply[k] = reply[i];
            reply[i] = NULL;
            continue;
        }
        if (strchr(reply[i]->str, ' ') == NULL
            || cluster_redirect(redis, reply[i], &c->to[k], &to) != INFER_OK)
        {
            rc = INFER_BUSY;
            break;
        }
        c->to[k] = to;
    }
    infer_redis_free_replies(reply);
    return rc;
}

/* A node did not answer: another may have its slots meanwhile. 1: it has. */
static int
cluster_elsewhere(infer_redis_t *redis, cluster_call_t *c,
    uint64_t deadline_us, int *asked)
{
    uint32_t        k = c->part[0], i;
    redis_target_t  to;

    cluster_stale(redis);
    if (infer_redis_now_us() >= deadline_us
        || cluster_find(redis, c->cmd->key[k], deadline_us, &to, asked)
           != INFER_OK
        || to.id == c->to[k].id)
    {
        return 0;
    }
    for (i = 0; i < c->n_parts; i++) {
        c->known[c->part[i]] = c->asking[c->part[i]] = 0;
    }
    return 1;
}

int
infer_redis_cluster_ask(infer_redis_t *redis, const redis_command_t *cmd,
    uint64_t deadline_us, redis_reply_t *reply[REDIS_PENDING], int *asked)
{
    int              rc;
    uint32_t         tries;
    redis_reply_t   *got[REDIS_PENDING];
    cluster_call_t   c = { .cmd = cmd, .reply = reply };

    memset(reply, 0, REDIS_PENDING * sizeof(reply[0]));
    rc = cluster_choose(redis, &c, deadline_us, asked);
    for (tries = 0; rc == INFER_OK && c.n_parts != 0; tries++) {
        if (tries == CLUSTER_REDIRECTS + cmd->n
            || infer_redis_now_us() >= deadline_us)
        {
            rc = INFER_BUSY;
            break;
        }
        rc = cluster_ask_parts(redis, &c, deadline_us, got, asked);
        if (rc == INFER_OK) {
            rc = cluster_sort(redis, &c, got);
        } else if (rc == INFER_BUSY
                   && cluster_elsewhere(redis, &c, deadline_us, asked))
        {
            rc = INFER_OK;
        }
        if (rc == INFER_OK) {
            rc = cluster_choose(redis, &c, deadline_us, asked);
        }
    }
    if (rc != INFER_OK) {
        infer_redis_free_replies(reply);
    }
    return rc;
}
