/*
 * redis_reply.c: replies out of hiredis' reader, with objects of our own: a
 * claimed length allocates nothing, an element only what has arrived of it,
 * and all of a reply counts against a budget. What is not whole yet is looked
 * at too, so that a length beyond the budget ends a connection before the
 * bytes come.
 */

#include <errno.h>

#include "cache/redis_int.h"


static redis_reply_t *
reply_new(const redisReadTask *task, int type)
{
    redis_reply_t   *r;
    redis_budget_t  *b = task->privdata;

    if (b->objects == 0) {
        b->over = 1;
        return NULL;
    }
    r = calloc(1, sizeof(*r));
    if (r == NULL) {
        return NULL;
    }
    b->objects--;
    r->type = type;
    return r;
}

/* Last, when nothing can fail any more: whoever frees the root frees it. */
static void *
reply_link(const redisReadTask *task, redis_reply_t *r)
{
    redis_reply_t  *parent;

    parent = task->parent != NULL ? task->parent->obj : NULL;
    if (parent != NULL) {
        if (parent->last != NULL) {
            parent->last->next = r;
        } else {
            parent->first = r;
        }
        parent->last = r;
        parent->n++;
    }
    return r;
}

static void *
reply_string(const redisReadTask *task, char *str, size_t len)
{
    redis_reply_t   *r;
    redis_budget_t  *b = task->privdata;

    if (len > b->bytes) {
        b->over = 1;
        return NULL;
    }
    r = reply_new(task, task->type);
    if (r == NULL) {
        return NULL;
    }
    r->str = malloc(len + 1);
    if (r->str == NULL) {
        free(r);
        return NULL;
    }
    b->bytes -= len;
    memcpy(r->str, str, len);
    r->str[len] = '\0';
    r->len = len;
    return reply_link(task, r);
}

static void *
reply_array(const redisReadTask *task, int elements)
{
    redis_reply_t   *r;
    redis_budget_t  *b = task->privdata;

    if (!b->arrays || elements < 0 || (uint32_t) elements > b->objects) {
        b->over = 1;
        return NULL;
    }
    r = reply_new(task, REDIS_REPLY_ARRAY);
    return r != NULL ? reply_link(task, r) : NULL;
}

static void *
reply_integer(const redisReadTask *task, long long value)
{
    redis_reply_t  *r = reply_new(task, REDIS_REPLY_INTEGER);

    if (r == NULL) {
        return NULL;
    }
    r->integer = value;
    return reply_link(task, r);
}

static void *
reply_nil(const redisReadTask *task)
{
    redis_reply_t  *r = reply_new(task, REDIS_REPLY_NIL);

    return r != NULL ? reply_link(task, r) : NULL;
}

static void
reply_free(void *obj)
{
    infer_redis_reply_free(obj);
}

/* Depth first without recursion: the children go before their uncles. */
void
infer_redis_reply_free(redis_reply_t *r)
{
    redis_reply_t  *next;

    while (r != NULL) {
        next = r->next;
        if (r->first != NULL) {
            r->last->next = next;
            next = r->first;
        }
        free(r->str);
        free(r);
        r = next;
    }
}

redisReader *
infer_redis_reader(redis_budget_t *budget)
{
    redisReader  *r;
    /* hiredis wants it writable, and only reads it */
    static redisReplyObjectFunctions  fn = {
        .createString = reply_string, .createArray = reply_array,
        .createInteger = reply_integer, .createNil = reply_nil,
        .freeObject = reply_free
    };

    r = redisReaderCreateWithFunctions(&fn);
    if (r != NULL) {
        r->privdata = budget;
    }
    return r;
}

/* What waits for more bytes: a line that does not end, a string that is
 * longer than it may be. The reader has taken the byte of the type off. */
static int
reply_may_fit(const redisReader *r, const redis_budget_t *b)
{
    size_t       n = r->len - r->pos;
    long long    len;
    const char  *p = r->buf + r->pos;

    if (r->ridx < 0 || n == 0) {
        return 1;
    }
    if (memmem(p, n < REDIS_LINE_MAX ? n : REDIS_LINE_MAX, "\r\n", 2)
        == NULL)
    {
        return n < REDIS_LINE_MAX;
    }
    if (r->rstack[r->ridx].type != REDIS_REPLY_STRING) {
        return 1;
    }
    errno = 0;
    len = strtoll(p, NULL, 10);
    return errno == 0 && (len < 0 || (unsigned long long) len <= b->bytes);
}

int
infer_redis_read(redisReader *r, redis_budget_t *budget,
    redis_reply_t **reply)
{
    void  *obj = NULL;

    *reply = NULL;
    if (redisReaderGetReply(r, &obj) != REDIS_OK) {
        return r->err == REDIS_ERR_OOM && !budget->over ? INFER_NOMEM
                                                        : INFER_CORRUPT;
    }
    if (obj != NULL) {
        *reply = obj;
        return INFER_OK;
    }
    if (!reply_may_fit(r, budget)) {
        budget->over = 1;
        return INFER_CORRUPT;
    }
    return INFER_AGAIN;
}

int
infer_redis_error(const redis_reply_t *reply, const char *word)
{
    size_t  len = strlen(word);

    return reply != NULL && reply->type == REDIS_REPLY_ERROR
           && strncmp(reply->str, word, len) == 0
           && (reply->str[len] == ' ' || reply->str[len] == '\0');
}
