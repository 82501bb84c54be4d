/*
 * fuzz_reply.c: any bytes as what a Redis server sends, in pieces: the reader
 * ends with whole replies, wants more, or refuses; it never holds more than
 * the budget.
 */

#include <stdint.h>

#include "cache/redis_int.h"
#include "fuzz_text.h"

#define FUZZ_BYTES    4096
#define FUZZ_OBJECTS  64

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);
size_t fuzz_seed(uint32_t i, uint8_t *buf, size_t cap);


size_t
fuzz_seed(uint32_t i, uint8_t *buf, size_t cap)
{
    static const char *const  seeds[] = {
        "\1$5\r\nhello\r\n$-1\r\n:12\r\n+OK\r\n-ERR no\r\n",
        "\7*2\r\n*3\r\n:0\r\n:99\r\n*2\r\n$9\r\n127.0.0.1\r\n:7000\r\n"
            "*3\r\n:100\r\n:16383\r\n*2\r\n$-1\r\n:7001\r\n",
        "\3$2147483647\r\n", "\2*2147483647\r\n",
        "\4*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*0\r\n"
    };

    return fuzz_text(seeds, sizeof(seeds) / sizeof(seeds[0]), i, buf, cap);
}

/* All of a reply, against what it may have. */
static void
fuzz_look(redis_reply_t *r)
{
    size_t                bytes = 0;
    uint32_t              objects = 0, depth = 0;
    const redis_reply_t  *up[16], *e = r;

    while (e != NULL) {
        objects++;
        bytes += e->len;
        if (e->str != NULL && e->str[e->len] != '\0') {
            abort();
        }
        if (e->first != NULL) {
            if (depth == 16) {
                abort();
            }
            up[depth++] = e;
            e = e->first;
            continue;
        }
        while (e->next == NULL && depth > 0) {
            e = up[--depth];
        }
        e = e->next;
    }
    if (bytes > FUZZ_BYTES || objects > FUZZ_OBJECTS) {
        abort();
    }
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    int              rc = INFER_AGAIN;
    size_t           at, n, step;
    redisReader     *r;
    redis_reply_t   *reply;
    redis_budget_t   full = { FUZZ_BYTES, FUZZ_OBJECTS, 1, 0 }, budget;

    if (len == 0) {
        return 0;
    }
    step = 1 + data[0] % 16;
    budget = full;
    budget.arrays = data[0] < 128;
    r = infer_redis_reader(&budget);
    for (at = 1; r != NULL && at < len && rc == INFER_AGAIN; at += n) {
        n = len - at < step ? len - at : step;
        if (redisReaderFeed(r, (const char *) data + at, n) != REDIS_OK) {
            break;
        }
        while ((rc = infer_redis_read(r, &budget, &reply)) == INFER_OK) {
            fuzz_look(reply);
            infer_redis_reply_free(reply);
            budget.bytes = full.bytes;
            budget.objects = full.objects;
        }
        if (reply != NULL || (rc == INFER_AGAIN
                              && r->len - r->pos > FUZZ_BYTES + REDIS_LINE_MAX
                                                   + 16))
        {
            abort();
        }
    }
    if (r != NULL) {
        redisReaderFree(r);
    }
    return 0;
}
