/*
 * owner.h: the processes that use a store, by numbers that are never used
 * twice, and which of them live. A process locks a byte of a file while it
 * lives; its number names that byte and tells who has it now from who had it
 * before. So what a dead process left behind is known as such, whoever got
 * its pid or its byte since.
 */

#ifndef INFER_CACHE_OWNER_H
#define INFER_CACHE_OWNER_H

#include <stdatomic.h>
#include <stdint.h>

#include "infer.h"

#define INFER_OWNERS  512               /* alive at once */

/* In memory that all of them share; zero at first. holder[i] is written by
 * who has locked byte i; release, pairs with the acquire in
 * infer_owner_alive(). */
typedef struct {
    _Atomic uint32_t  serial;
    _Atomic uint32_t  holder[INFER_OWNERS];
} infer_owners_t;

/* Of this process, which calls it once, and from then on closes no descriptor
 * of the file. *owner >= 1. BUSY: all bytes are locked. */
int infer_owner_claim(infer_owners_t *o, int fd, uint32_t *owner);
/* 0: the process with this number is gone. mine: the caller's own, which no
 * lock tells it of. */
int infer_owner_alive(const infer_owners_t *o, int fd, uint32_t mine,
    uint32_t owner);

#endif
