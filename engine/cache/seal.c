/*
 * seal.c: see seal.h. The MAC's key is derived from the secret and the key in
 * Redis, so that a value moved to another key does not open. Nothing of a
 * value is used before its MAC has proved it ours; lengths are checked all
 * the same, since a secret may be shared with another version.
 *
 * Bytes are in the order of the machine: an answer is, too. A value of a
 * machine with another order is a miss.
 */

#include <string.h>

#include "cache/seal.h"
#include "ipc/hash.h"

#if defined(__has_include)
#if __has_include(<zstd.h>)
#include <zstd.h>
#define SEAL_ZSTD  1
#endif
#endif

#define SEAL_MAGIC    0x31534952u        /* "RIS1" */
#define SEAL_VERSION  1
#define SEAL_PACKED   1u                 /* the value is a zstd frame */

typedef struct {
    uint32_t  magic;
    uint16_t  version, flags;
    uint64_t  created_ms, fresh_ms, stale_ms;
    uint64_t  epoch[2];
    uint64_t  ident_len;
    uint64_t  value_len;                 /* unpacked */
    uint64_t  packed_len;                /* as it lies here */
} seal_head_t;

_Static_assert(sizeof(seal_head_t) == 72, "seal_head_t");

/* head | ident, padded to 8 | value | MAC */
#define seal_pad(n)  ((8 - (n) % 8) % 8)


static void
seal_mac(const uint8_t secret[INFER_SEAL_SECRET], const char *key,
    const void *data, size_t len, uint8_t mac[INFER_HASH_BYTES])
{
    uint8_t  derived[INFER_HASH_BYTES];

    infer_hash(secret, key, strlen(key), derived);
    infer_hash(derived, data, len, mac);
}

/* In a time that says nothing about where they differ. */
static int
seal_same(const uint8_t *a, const uint8_t *b)
{
    uint32_t          i;
    volatile uint8_t  differ = 0;

    for (i = 0; i < INFER_HASH_BYTES; i++) {
        differ |= a[i] ^ b[i];
    }
    return differ == 0;
}

int
infer_seal_secret(const void *file, size_t len,
    uint8_t secret[INFER_SEAL_SECRET])
{
    const char            *p = file;
    static const uint8_t   key[INFER_HASH_BYTES] = "infer seal 1";

    while (len > 0 && (p[len - 1] == '\n' || p[len - 1] == '\r')) {
        len--;
    }
    if (len < INFER_SEAL_LEAST) {
        return INFER_INVALID;
    }
    infer_hash(key, p, len, secret);
    return INFER_OK;
}

#ifdef SEAL_ZSTD

/* Bytes written behind out, 0 where packing does not pay. */
static size_t
seal_pack(infer_buf_t *out, const void *value, size_t len, int level)
{
    char    *p;
    size_t   n;

    if (len < 2) {
        return 0;
    }
    p = infer_buf_room(out, len - 1);
    if (p == NULL) {
        return 0;
    }
    n = ZSTD_compress(p, len - 1, value, len, level);
    if (ZSTD_isError(n)) {
        return 0;
    }
    out->len += n;
    return n;
}

static int
seal_unpack(infer_sealed_t *s, const void *packed, size_t len)
{
    size_t  n;

    if (ZSTD_getFrameContentSize(packed, len) != s->value_len) {
        return INFER_CORRUPT;
    }
    s->memory = malloc(s->value_len != 0 ? s->value_len : 1);
    if (s->memory == NULL) {
        return INFER_NOMEM;
    }
    n = ZSTD_decompress(s->memory, s->value_len, packed, len);
    if (ZSTD_isError(n) || n != s->value_len) {
        free(s->memory);
        s->memory = NULL;
        return INFER_CORRUPT;
    }
    s->value = s->memory;
    return INFER_OK;
}

#else

static size_t
seal_pack(infer_buf_t *out, const void *value, size_t len, int level)
{
    (void) out;
    (void) value;
    (void) len;
    (void) level;
    return 0;
}

static int
seal_unpack(infer_sealed_t *s, const void *packed, size_t len)
{
    (void) s;
    (void) packed;
    (void) len;
    return INFER_CORRUPT;
}

#endif

int
infer_seal(infer_buf_t *out, const uint8_t secret[INFER_SEAL_SECRET],
    const infer_sealed_t *s, int level)
{
    size_t              start = out->len;
    uint8_t             mac[INFER_HASH_BYTES];
    seal_head_t         h = {
        .magic = SEAL_MAGIC, .version = SEAL_VERSION,
        .created_ms = s->created_ms, .fresh_ms = s->fresh_ms,
        .stale_ms = s->stale_ms, .epoch = { s->epoch[0], s->epoch[1] },
        .ident_len = s->ident_len, .value_len = s->value_len
    };
    static const char   zeros[8];

    infer_buf_put(out, (const char *) &h, sizeof(h));
    infer_buf_put(out, s->ident, s->ident_len);
    infer_buf_put(out, zeros, seal_pad(s->ident_len));
    if (level != 0) {
        h.packed_len = seal_pack(out, s->value, s->value_len, level);
    }
    if (h.packed_len != 0) {
        h.flags = SEAL_PACKED;
    } else {
        h.packed_len = s->value_len;
        infer_buf_put(out, s->value, s->value_len);
    }
    if (infer_buf_rc(out) != INFER_OK) {
        return infer_buf_rc(out);
    }

    memcpy(out->data + start, &h, sizeof(h));
    seal_mac(secret, s->key, out->data + start, out->len - start, mac);
    infer_buf_put(out, (const char *) mac, sizeof(mac));
    return infer_buf_rc(out);
}

/* The value in place, or in memory of its own where it would not be
 * aligned. */
static int
seal_in_place(infer_sealed_t *s, const char *value)
{
    s->value = value;
    if ((uintptr_t) value % 8 == 0) {
        return INFER_OK;
    }
    s->memory = malloc(s->value_len != 0 ? s->value_len : 1);
    if (s->memory == NULL) {
        return INFER_NOMEM;
    }
    memcpy(s->memory, value, s->value_len);
    s->value = s->memory;
    return INFER_OK;
}

int
infer_seal_open(infer_sealed_t *s, const uint8_t secret[INFER_SEAL_SECRET],
    const void *data, size_t len, size_t max)
{
    size_t       at;
    uint8_t      mac[INFER_HASH_BYTES];
    const char  *p = data;
    seal_head_t  h;

    s->memory = NULL;
    s->value = NULL;
    if (len < sizeof(h) + sizeof(mac)) {
        return INFER_CORRUPT;
    }
    len -= sizeof(mac);
    seal_mac(secret, s->key, p, len, mac);
    if (!seal_same(mac, (const uint8_t *) p + len)) {
        return INFER_CORRUPT;
    }

    memcpy(&h, p, sizeof(h));
    if (h.magic != SEAL_MAGIC || h.version != SEAL_VERSION
        || (h.flags & ~SEAL_PACKED) != 0 || h.ident_len != s->ident_len
        || h.value_len > max || h.ident_len > len - sizeof(h))
    {
        return INFER_CORRUPT;
    }
    at = sizeof(h) + h.ident_len + seal_pad(h.ident_len);
    if (at > len || h.packed_len != len - at
        || (!(h.flags & SEAL_PACKED) && h.packed_len != h.value_len)
        || memcmp(p + sizeof(h), s->ident, s->ident_len) != 0)
    {
        return INFER_CORRUPT;
    }

    s->created_ms = h.created_ms;
    s->fresh_ms = h.fresh_ms;
    s->stale_ms = h.stale_ms;
    s->epoch[0] = h.epoch[0];
    s->epoch[1] = h.epoch[1];
    s->value_len = h.value_len;
    return h.flags & SEAL_PACKED ? seal_unpack(s, p + at, h.packed_len)
                                 : seal_in_place(s, p + at);
}

size_t
infer_seal_size(const void *data, size_t len)
{
    seal_head_t  h;

    if (len < sizeof(h)) {
        return len;
    }
    memcpy(&h, data, sizeof(h));
    return h.value_len > len ? (size_t) h.value_len : len;
}
