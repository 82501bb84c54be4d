/*
 * redis_lane.c: see redis_lane.h. Lookups wait in a ring, in the order of
 * their commands; each has one to three replies, of which those that came are
 * kept in `part` until all are there. A reply whose command was not sent yet,
 * and bytes behind the last one that was asked for, are nonsense.
 */

#include "cache/redis_int.h"
#include "cache/redis_lane.h"

#define LANE_KEEP_BYTES  65536         /* that the reader may keep */
#define LANE_OUT_BYTES   65536         /* unsent, beyond which it is crowded */

_Static_assert((INFER_REDIS_LANE_DEPTH & (INFER_REDIS_LANE_DEPTH - 1)) == 0,
               "INFER_REDIS_LANE_DEPTH");

typedef struct {
    uint64_t  start_us;
    uint64_t  end;                     /* of its commands, from the lane's
                                        * first byte on */
    uint8_t   n;                       /* replies */
    uint8_t   has[2];                  /* counters among them */
} lane_wait_t;

struct infer_redis_lane_s {
    infer_redis_t   *redis;
    uint32_t         server;
    redisReader     *reader;
    redis_budget_t   budget;           /* of the reply that is being read */
    redis_reply_t   *part[REDIS_PENDING];
    uint32_t         n_part;
    infer_buf_t      out;
    size_t           out_at;           /* sent of it */
    uint64_t         sent;             /* of the lane's bytes */
    uint64_t         written;
    size_t           received;         /* since the reader was empty */
    uint32_t         first, n;         /* in wait */
    lane_wait_t      wait[INFER_REDIS_LANE_DEPTH];
};


/* The value may have max_value bytes, a counter a line. */
static void
lane_budget(infer_redis_lane_t *l)
{
    l->budget = (redis_budget_t) {
        l->n_part == 0 ? l->redis->conf.max_value : REDIS_LINE_MAX, 1, 0, 0
    };
}

int
infer_redis_lane_new(infer_redis_t *redis, uint32_t i,
    infer_redis_lane_t **lane)
{
    infer_redis_lane_t  *l = calloc(1, sizeof(*l));

    *lane = NULL;
    if (l == NULL) {
        return INFER_NOMEM;
    }
    l->redis = redis;
    l->server = i;
    lane_budget(l);
    l->reader = infer_redis_reader(&l->budget);
    if (l->reader == NULL) {
        free(l);
        return INFER_NOMEM;
    }
    *lane = l;
    return INFER_OK;
}

void
infer_redis_lane_free(infer_redis_lane_t *l)
{
    if (l == NULL) {
        return;
    }
    infer_redis_free_replies(l->part);
    if (l->reader != NULL) {
        redisReaderFree(l->reader);
    }
    infer_buf_free(&l->out);
    free(l);
}

/* The first that is not passed by, n_servers: none, or one that a thread is
 * to probe first. */
static uint32_t
lane_server(const infer_redis_t *redis, uint64_t now_ms)
{
    int       state;
    uint32_t  i;

    for (i = 0; i < redis->conf.n_servers; i++) {
        state = redis->conf.failures != 0
                ? infer_redis_breaker(redis->shared, i, now_ms) : 0;
        if (state != 1) {
            return state == 0 ? i : redis->conf.n_servers;
        }
    }
    return i;
}

int
infer_redis_lane_first(const infer_redis_lane_t *l)
{
    return l->server == lane_server(l->redis, infer_redis_now_us() / 1000);
}

int
infer_redis_lane_take(infer_redis_t *redis, infer_redis_lane_t **lane,
    int *fd)
{
    int       rc;
    uint32_t  i;

    *lane = NULL;
    *fd = -1;
    if (redis->conf.cluster) {
        return INFER_UNSUPPORTED;
    }
    i = lane_server(redis, infer_redis_now_us() / 1000);
    if (i == redis->conf.n_servers) {
        return INFER_AGAIN;
    }
    rc = infer_redis_lane_new(redis, i, lane);
    if (rc == INFER_OK) {
        rc = infer_redis_conn_detach(redis, redis->server[i].id, fd);
    }
    if (rc != INFER_OK) {
        infer_redis_lane_free(*lane);
        *lane = NULL;
    }
    return rc;
}

/* ---- out ---- */

int
infer_redis_lane_get(infer_redis_lane_t *l, const char *key,
    const char *const counter[2], uint64_t now_us)
{
    int           rc;
    size_t        len = l->out.len;
    uint32_t      i;
    lane_wait_t  *w;

    if (!infer_redis_key_sane(key)
        || (counter[0] != NULL && !infer_redis_key_sane(counter[0]))
        || (counter[1] != NULL && !infer_redis_key_sane(counter[1])))
    {
        return INFER_INVALID;
    }
    if (l->n == INFER_REDIS_LANE_DEPTH || len - l->out_at > LANE_OUT_BYTES) {
        return INFER_BUSY;
    }
    w = &l->wait[(l->first + l->n) % INFER_REDIS_LANE_DEPTH];
    *w = (lane_wait_t) { .start_us = now_us, .n = 1 };
    infer_redis_put(&l->out, 2, "GET", key);
    for (i = 0; i < 2; i++) {
        if (counter[i] != NULL) {
            infer_redis_put(&l->out, 2, "GET", counter[i]);
            w->has[i] = 1;
            w->n++;
        }
    }
    rc = infer_buf_rc(&l->out);
    if (rc == INFER_OK) {
        l->written += l->out.len - len;
        w->end = l->written;
        l->n++;
    }
    return rc;
}

const char *
infer_redis_lane_out(const infer_redis_lane_t *l, size_t *len)
{
    *len = l->out.len - l->out_at;
    return l->out.data + l->out_at;
}

/* What was sent goes when all was, or when it is much: so a lane that always
 * has something to send keeps no more than twice LANE_OUT_BYTES. */
void
infer_redis_lane_sent(infer_redis_lane_t *l, size_t n)
{
    l->out_at += n;
    l->sent += n;
    infer_redis_add(l->redis->shared->sent_bytes, n);
    if (l->out_at == l->out.len) {
        l->out_at = 0;
        infer_buf_reset(&l->out);
    } else if (l->out_at > LANE_OUT_BYTES) {
        l->out.len -= l->out_at;
        memmove(l->out.data, l->out.data + l->out_at, l->out.len);
        l->out_at = 0;
    }
}

/* ---- in ---- */

int
infer_redis_lane_feed(infer_redis_lane_t *l, const void *data, size_t n)
{
    l->received += n;
    infer_redis_add(l->redis->shared->received_bytes, n);
    return redisReaderFeed(l->reader, data, n) == REDIS_OK ? INFER_OK
                                                           : INFER_NOMEM;
}

/* Replies of the first lookup until it has all. */
static int
lane_parts(infer_redis_lane_t *l, const lane_wait_t *w)
{
    int  rc;

    while (l->n_part < w->n) {
        rc = infer_redis_read(l->reader, &l->budget, &l->part[l->n_part]);
        if (rc != INFER_OK) {
            return rc;
        }
        l->n_part++;
        lane_budget(l);
    }
    return INFER_OK;
}

/* The replies are understood; CORRUPT: one that GET cannot have. */
static int
lane_understand(infer_redis_lane_t *l, const lane_wait_t *w,
    infer_redis_got_t *got)
{
    uint32_t        i, k = 0;
    redis_reply_t  *r = l->part[0];

    for (i = 0; i < w->n; i++) {
        if (l->part[i]->type == REDIS_REPLY_ERROR) {
            infer_redis_blame(l->redis, infer_redis_reason(l->part[i]));
            got->rc = INFER_BUSY;
            return INFER_OK;
        }
    }
    for (i = 0; i < 2; i++) {
        if (w->has[i]
            && infer_redis_counter(l->part[++k], &got->count[i]) != INFER_OK)
        {
            return INFER_CORRUPT;
        }
    }
    if (r->type != REDIS_REPLY_STRING) {
        got->rc = INFER_AGAIN;
        return r->type == REDIS_REPLY_NIL ? INFER_OK : INFER_CORRUPT;
    }
    got->value = r->str;
    got->len = r->len;
    r->str = NULL;
    return INFER_OK;
}

/* A reader keeps the room of its last reply; a large one is not kept. */
static int
lane_trim(infer_redis_lane_t *l)
{
    if (l->received > LANE_KEEP_BYTES) {
        redisReaderFree(l->reader);
        l->reader = infer_redis_reader(&l->budget);
        if (l->reader == NULL) {
            return INFER_NOMEM;
        }
    }
    l->received = 0;
    return INFER_OK;
}

static void
lane_count(infer_redis_lane_t *l, const lane_wait_t *w, int failed,
    uint64_t now_us)
{
    infer_redis_shared_t  *s = l->redis->shared;

    infer_redis_add(s->calls, 1);
    infer_redis_measure(s, now_us - w->start_us);
    if (failed) {
        infer_redis_add(s->failed, 1);
    }
}

int
infer_redis_lane_pop(infer_redis_lane_t *l, uint64_t now_us,
    infer_redis_got_t *got)
{
    int           rc, unfit;
    lane_wait_t  *w = &l->wait[l->first];

    memset(got, 0, sizeof(*got));
    if (l->n == 0) {
        return l->reader->pos == l->reader->len ? INFER_AGAIN : INFER_CORRUPT;
    }
    rc = lane_parts(l, w);
    if (rc != INFER_OK) {
        return rc;
    }
    if (w->end > l->sent
        || (l->n == 1 && l->reader->pos != l->reader->len))
    {
        return INFER_CORRUPT;
    }
    rc = lane_understand(l, w, got);
    if (rc == INFER_OK && l->n == 1) {
        rc = lane_trim(l);
    }
    if (rc != INFER_OK) {
        free(got->value);
        memset(got, 0, sizeof(*got));
        return rc;
    }
    unfit = infer_redis_unfit(l->redis, l->part);
    infer_redis_free_replies(l->part);
    l->n_part = 0;
    lane_budget(l);
    lane_count(l, w, got->rc == INFER_BUSY, now_us);
    infer_redis_tell(l->redis, l->server, !unfit, 0);
    l->first = (l->first + 1) % INFER_REDIS_LANE_DEPTH;
    l->n--;
    return INFER_OK;
}

/* ---- the end ---- */

uint32_t
infer_redis_lane_waiting(const infer_redis_lane_t *l)
{
    return l->n;
}

uint64_t
infer_redis_lane_until_us(const infer_redis_lane_t *l)
{
    return l->n != 0 ? l->wait[l->first].start_us
                       + l->redis->conf.command_ms * 1000ull : 0;
}

/* Of the n that have failed, the breaker hears those that waited in full: not
 * of those that came behind them just now, nor of too large a value. */
uint32_t
infer_redis_lane_end(infer_redis_lane_t *l, int rc, uint64_t now_us)
{
    int           over = l->budget.over, begun, late;
    uint32_t      i, n;
    lane_wait_t  *w;

    begun = l->n_part != 0 || l->reader == NULL
            || l->reader->pos != l->reader->len || l->reader->ridx >= 0;
    n = rc == INFER_BUSY ? l->n
        : l->n != 0 && (rc != INFER_AGAIN || begun) ? 1 : 0;
    if (n != 0) {
        infer_redis_blame(l->redis,
                          over ? INFER_REDIS_OVERSIZED
                          : rc == INFER_BUSY ? INFER_REDIS_TIMEOUT
                          : rc == INFER_AGAIN ? INFER_REDIS_LOST
                                              : INFER_REDIS_NONSENSE);
    }
    if (over) {
        infer_redis_add(l->redis->shared->oversized, 1);
    }
    for (i = 0; i < n; i++) {
        w = &l->wait[(l->first + i) % INFER_REDIS_LANE_DEPTH];
        lane_count(l, w, 1, now_us);
        late = rc != INFER_BUSY
               || now_us - w->start_us >= l->redis->conf.command_ms * 1000ull;
        if (late && rc != INFER_NOMEM) {
            infer_redis_tell(l->redis, l->server, over, 0);
        }
    }
    l->n = 0;
    return n;
}
