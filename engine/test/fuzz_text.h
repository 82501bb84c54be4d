/*
 * fuzz_text.h: seeds of fuzz targets that are strings.
 */

#ifndef FUZZ_TEXT_H
#define FUZZ_TEXT_H

#include <stdint.h>
#include <string.h>


/* The i-th of n, cut to cap bytes; returns how many, 0: there is none. */
static inline size_t
fuzz_text(const char *const *seeds, size_t n, uint32_t i, uint8_t *buf,
    size_t cap)
{
    size_t  len;

    if (i >= n) {
        return 0;
    }
    len = strlen(seeds[i]);
    len = len > cap ? cap : len;
    memcpy(buf, seeds[i], len);
    return len;
}

#endif
