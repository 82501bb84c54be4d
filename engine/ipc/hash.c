/*
 * hash.c: SipHash with 128 bits of output (hash.h).
 */

#include <endian.h>
#include <string.h>

#include "ipc/hash.h"

typedef struct {
    uint64_t  a, b, c, d;
} hash_state_t;


static uint64_t
hash_load(const uint8_t *p)
{
    uint64_t  w;

    memcpy(&w, p, sizeof(w));

    return le64toh(w);
}

static void
hash_store(uint8_t *p, uint64_t w)
{
    w = htole64(w);
    memcpy(p, &w, sizeof(w));
}

static uint64_t
hash_rotate(uint64_t x, int n)
{
    return x << n | x >> (64 - n);
}

static inline void
hash_round(hash_state_t *s)
{
    s->a += s->b;
    s->c += s->d;
    s->b = hash_rotate(s->b, 13) ^ s->a;
    s->d = hash_rotate(s->d, 16) ^ s->c;
    s->a = hash_rotate(s->a, 32);
    s->c += s->b;
    s->a += s->d;
    s->b = hash_rotate(s->b, 17) ^ s->c;
    s->d = hash_rotate(s->d, 21) ^ s->a;
    s->c = hash_rotate(s->c, 32);
}

static inline void
hash_word(hash_state_t *s, uint64_t w, int rounds)
{
    int  i;

    s->d ^= w;
    for (i = 0; i < rounds; i++) {
        hash_round(s);
    }
    s->a ^= w;
}

/* rounds: of each word; last: before each half of the output. Inline, or
 * they would be counted at run time. */
static inline __attribute__((always_inline)) void
hash_bytes(const uint8_t key[INFER_HASH_BYTES], const void *data, size_t len,
    uint8_t out[INFER_HASH_BYTES], int rounds, int last)
{
    int             i;
    size_t          left = len;
    uint64_t        tail = 0;
    uint64_t        k0 = hash_load(key), k1 = hash_load(key + 8);
    hash_state_t    s;
    const uint8_t  *p = data;

    /* the paper's initial state, with the mark of the longer output */
    s.a = k0 ^ 0x736f6d6570736575ull;
    s.b = k1 ^ 0x646f72616e646f6dull ^ 0xee;
    s.c = k0 ^ 0x6c7967656e657261ull;
    s.d = k1 ^ 0x7465646279746573ull;

    for ( ; left >= 8; left -= 8, p += 8) {
        hash_word(&s, hash_load(p), rounds);
    }

    if (left > 0 && len >= 8) {
        tail = hash_load(p + left - 8) >> (64 - 8 * left);
    } else if (left > 0) {
        memcpy(&tail, p, left);
        tail = le64toh(tail);
    }
    hash_word(&s, tail | (uint64_t) len << 56, rounds);

    s.c ^= 0xee;
    for (i = 0; i < last; i++) {
        hash_round(&s);
    }
    hash_store(out, s.a ^ s.b ^ s.c ^ s.d);
    s.b ^= 0xdd;
    for (i = 0; i < last; i++) {
        hash_round(&s);
    }
    hash_store(out + 8, s.a ^ s.b ^ s.c ^ s.d);
}

void
infer_hash(const uint8_t key[INFER_HASH_BYTES], const void *data, size_t len,
    uint8_t out[INFER_HASH_BYTES])
{
    hash_bytes(key, data, len, out, 2, 4);
}

void
infer_hash_quick(const uint8_t key[INFER_HASH_BYTES], const void *data,
    size_t len, uint8_t out[INFER_HASH_BYTES])
{
    hash_bytes(key, data, len, out, 1, 3);
}
