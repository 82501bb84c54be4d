/*
 * bench.h: clock, median and weights for the benches.
 */

#ifndef KERN_BENCH_H
#define KERN_BENCH_H

#include <time.h>

#include "../test/kern_test.h"
#include "cost.h"


static inline double
bench_now(void)
{
    struct timespec  ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double) ts.tv_sec * 1e6 + (double) ts.tv_nsec / 1e3;
}

static inline int
bench_order(const void *a, const void *b)
{
    double  x = *(const double *) a, y = *(const double *) b;

    return x < y ? -1 : x > y;
}

/* Median of the times of fn, repeated for about ms. */
static inline double
bench_us(double ms, void (*fn)(void *arg), void *arg, double *min,
    double *max)
{
    static const int  cap = 4000;
    double           *t = malloc((size_t) cap * sizeof(double)), end, m;
    int               n = 0;

    if (t == NULL) {
        exit(1);
    }
    fn(arg);
    end = bench_now() + ms * 1000;
    do {
        t[n] = bench_now();
        fn(arg);
        t[n] = bench_now() - t[n];
        n++;
    } while (n < cap && (n < 3 || bench_now() < end));
    qsort(t, (size_t) n, sizeof(t[0]), bench_order);
    m = t[n / 2];
    *min = t[0];
    *max = t[n - 1];
    free(t);
    return m;
}

/* A source of weights whose f16 scales are neither huge nor NaN. */
static inline int
bench_read(void *arg, void *buf, size_t len, uint64_t off)
{
    uint8_t   *p = buf;
    uint64_t   x = off * 0x9e3779b97f4a7c15u + 1;
    size_t     i;

    (void) arg;
    for (i = 0; i < len; i++) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        p[i] = (uint8_t) x & 0x3b;
    }
    return INFER_OK;
}

#endif
