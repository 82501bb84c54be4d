/*
 * hash.h: a keyed hash of 128 bits for the names of tenants and for chains
 * of tokens. Pure; any process.
 */

#ifndef INFER_IPC_HASH_H
#define INFER_IPC_HASH_H

#include <stddef.h>
#include <stdint.h>

#define INFER_HASH_BYTES  16

/* SipHash-2-4 with 128 bits of output (Aumasson, Bernstein: "SipHash: a fast
 * short-input PRF", and the authors' reference for the longer output). */
void infer_hash(const uint8_t key[INFER_HASH_BYTES], const void *data,
    size_t len, uint8_t out[INFER_HASH_BYTES]);
/* SipHash-1-3, in half the time: for tables whose entries are compared with
 * what was asked for, so that nothing but their speed hangs on it. */
void infer_hash_quick(const uint8_t key[INFER_HASH_BYTES], const void *data,
    size_t len, uint8_t out[INFER_HASH_BYTES]);

#endif
