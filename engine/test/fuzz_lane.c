/*
 * fuzz_lane.c: any bytes as what a server sends into a lane, in pieces, while
 * lookups wait and more are asked: each ends once, with a value within bounds,
 * or the lane does; nothing is left behind.
 */

#include <stdint.h>

#include "cache/redis_int.h"
#include "cache/redis_lane.h"
#include "fuzz_text.h"

#define FUZZ_BYTES  4096               /* of a value */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);
size_t fuzz_seed(uint32_t i, uint8_t *buf, size_t cap);


size_t
fuzz_seed(uint32_t i, uint8_t *buf, size_t cap)
{
    static const char *const  seeds[] = {
        "\1\11$5\r\nhello\r\n$1\r\n7\r\n$-1\r\n$-1\r\n-ERR no\r\n$2\r\n12\r\n",
        "\7\2$-1\r\n$-1\r\n:1\r\n", "\3\17$2147483647\r\n",
        "\2\7*2147483647\r\n", "\17\14$3\r\nabc\r\n$20\r\n"
        "18446744073709551615\r\n$3\r\nabc\r\n$1\r\n1\r\n"
    };

    return fuzz_text(seeds, sizeof(seeds) / sizeof(seeds[0]), i, buf, cap);
}

static uint32_t
fuzz_ask(infer_redis_lane_t *l, uint32_t n, uint8_t how)
{
    size_t       len;
    uint32_t     asked = 0;
    const char  *counter[2] = { how & 1 ? "infer:e:1" : NULL,
                                how & 2 ? "infer:e:2" : NULL };

    while (n-- > 0) {
        asked += infer_redis_lane_get(l, "infer:v:1", counter, 0)
                 == INFER_OK;
    }
    (void) infer_redis_lane_out(l, &len);
    infer_redis_lane_sent(l, len);
    return asked;
}

/* What came out so far; the rc that ended it. */
static int
fuzz_pop(infer_redis_lane_t *l, uint32_t *ended)
{
    int                rc;
    infer_redis_got_t  got;

    while ((rc = infer_redis_lane_pop(l, 1, &got)) == INFER_OK) {
        if ((got.value != NULL) != (got.rc == INFER_OK)
            || got.len > FUZZ_BYTES
            || (got.rc != INFER_OK && got.rc != INFER_AGAIN
                && got.rc != INFER_BUSY))
        {
            abort();
        }
        free(got.value);
        (*ended)++;
    }
    if (got.value != NULL) {
        abort();
    }
    return rc;
}

static void
fuzz_feed(infer_redis_lane_t *l, const uint8_t *data, size_t len, size_t step)
{
    int       rc = INFER_AGAIN;
    size_t    at, n;
    uint8_t   how = data[0];
    uint32_t  asked, ended = 0;

    asked = fuzz_ask(l, 1 + how / 4 % 16, how);
    for (at = 1; at < len && rc == INFER_AGAIN; at += n) {
        n = len - at < step ? len - at : step;
        if (infer_redis_lane_feed(l, data + at, n) != INFER_OK) {
            rc = INFER_NOMEM;
            break;
        }
        rc = fuzz_pop(l, &ended);
        if (infer_redis_lane_waiting(l) != asked - ended) {
            abort();
        }
        if (how & 64) {
            asked += fuzz_ask(l, 1, how);
        }
    }
    if (infer_redis_lane_end(l, rc == INFER_AGAIN ? INFER_BUSY : rc, 1)
        > asked - ended)
    {
        abort();
    }
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    infer_redis_t         *redis;
    infer_redis_lane_t    *l;
    infer_redis_conf_t     conf = {
        .server = { { "127.0.0.1", 1 } }, .n_servers = 1, .connections = 1,
        .connect_ms = 1, .command_ms = 1, .failures = 3, .retry_ms = 1,
        .max_value = FUZZ_BYTES
    };
    infer_redis_shared_t   shared;

    if (len < 2) {
        return 0;
    }
    memset(&shared, 0, sizeof(shared));
    if (infer_redis_new(&redis, &conf, &shared) != INFER_OK) {
        return 0;
    }
    if (infer_redis_lane_new(redis, 0, &l) == INFER_OK) {
        fuzz_feed(l, data + 1, len - 1, 1 + data[0] % 16);
        infer_redis_lane_free(l);
    }
    infer_redis_free(redis);
    return 0;
}
