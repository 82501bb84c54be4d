/*
 * bench_pick.h: SHAPE=8B.o, ROWS=64 and FORM=B8H in the environment pick lines of a bench on a GPU,
 * for a profiler, say.
 */

#ifndef BENCH_PICK_H
#define BENCH_PICK_H

#include <cstdint>
#include <cstdlib>
#include <cstring>

static bool
wanted(const char *shape, uint32_t rows, const char *form)
{
    const char  *s = getenv("SHAPE"), *r = getenv("ROWS"), *f = getenv("FORM");

    return (s == NULL || strcmp(s, shape) == 0) && (f == NULL || strcmp(f, form) == 0)
           && (r == NULL || strtoul(r, NULL, 10) == rows);
}

#endif
