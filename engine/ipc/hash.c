/*
 * hash.c: SipHash-2-4 with 128 bits of output (hash.h).
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
    int  i;

    for (i = 0; i < 8; i++) {
        p[i] = (uint8_t) (w >> (8 * i));
    }
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
hash_word(hash_state_t *s, uint64_t w)
{
    s->d ^= w;
    hash_round(s);
    hash_round(s);
    s->a ^= w;
}

void
infer_hash(const uint8_t key[INFER_HASH_BYTES], const void *data, size_t len,
    uint8_t out[INFER_HASH_BYTES])
{
    int             i;
    size_t          left = len;
    uint8_t         tail[8] = { 0 };
    uint64_t        k0 = hash_load(key), k1 = hash_load(key + 8);
    hash_state_t    s;
    const uint8_t  *p = data;

    /* the paper's initial state, with the mark of the longer output */
    s.a = k0 ^ 0x736f6d6570736575ull;
    s.b = k1 ^ 0x646f72616e646f6dull ^ 0xee;
    s.c = k0 ^ 0x6c7967656e657261ull;
    s.d = k1 ^ 0x7465646279746573ull;

    for ( ; left >= 8; left -= 8, p += 8) {
        hash_word(&s, hash_load(p));
    }

    if (left > 0) {
        memcpy(tail, p, left);
    }
    tail[7] = (uint8_t) len;
    hash_word(&s, hash_load(tail));

    s.c ^= 0xee;
    for (i = 0; i < 4; i++) {
        hash_round(&s);
    }
    hash_store(out, s.a ^ s.b ^ s.c ^ s.d);
    s.b ^= 0xdd;
    for (i = 0; i < 4; i++) {
        hash_round(&s);
    }
    hash_store(out + 8, s.a ^ s.b ^ s.c ^ s.d);
}
