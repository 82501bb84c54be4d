/*
 * store_site.h: keys and values for tests of the store, by number.
 */

#ifndef STORE_SITE_H
#define STORE_SITE_H

#include "cache/store_int.h"
#include "ipc/hash.h"


/* The key of n, until the next call. */
static inline const uint8_t *
test_key(uint32_t n)
{
    static uint8_t        key[INFER_STORE_KEY];
    static const uint8_t  secret[16] = { 1 };

    infer_hash(secret, &n, sizeof(n), key);
    return key;
}

/* Byte i of the value of n. */
static inline uint8_t
test_byte(uint32_t n, size_t i)
{
    return (uint8_t) (n * 31 + i * 7 + i / 251);
}

#endif
