/*
 * limits.h: what the machine can do, for the benches: read bandwidth of a
 * set of bytes, multiply-adds of int8 and of f32 at the best level, by n
 * threads of a team. A multiply and an add are two operations.
 */

#ifndef KERN_LIMITS_H
#define KERN_LIMITS_H

#include "bench.h"

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

enum { LIMIT_TURNS = 200000, LIMIT_CHAINS = 12 };

typedef struct {
    kern_ctx_t  *c;
    uint32_t     n;              /* threads */
    uint8_t     *buf;
    size_t       bytes;
    void       (*part)(void *arg, uint32_t i);
    char         pad[64];
    uint64_t     sink;           /* so that nothing is optimised away */
} limit_t;


static inline void
limit_read_part(void *arg, uint32_t i)
{
    limit_t         *l = arg;
    const uint64_t  *p = (uint64_t *) (l->buf + l->bytes / l->n / 64 * 64 * i);
    uint64_t         s[8] = { 0 };
    size_t           k, j, n = l->bytes / l->n / 64 * 8;

    for (k = 0; k < n; k += 8) {
        for (j = 0; j < 8; j++) {
            s[j] += p[k + j];
        }
    }
    for (j = 1; j < 8; j++) {
        s[0] += s[j];
    }
    __atomic_fetch_add(&l->sink, s[0], __ATOMIC_RELAXED);
}

static inline void
limit_run(void *arg)
{
    limit_t  *l = arg;

    kern_cpu_parallel(l->c, l->part, l, l->n);
}

/* One chain of LIMIT_CHAINS registers: step(a[j]) LIMIT_TURNS times. */
#define LIMIT_LOOP(type, zero, step)                                         \
    do {                                                                     \
        type  a[LIMIT_CHAINS];                                               \
        int   k, j;                                                          \
                                                                             \
        _Pragma("GCC unroll 12")                                             \
        for (j = 0; j < LIMIT_CHAINS; j++) {                                 \
            a[j] = zero;                                                     \
        }                                                                    \
        for (k = 0; k < LIMIT_TURNS; k++) {                                  \
            _Pragma("GCC unroll 12")                                         \
            for (j = 0; j < LIMIT_CHAINS; j++) {                             \
                a[j] = step;                                                 \
                LIMIT_PIN(a[j]);                                             \
            }                                                                \
        }                                                                    \
    } while (0)

#if defined(__x86_64__)

#define LIMIT_PIN(x)  __asm__ volatile ("" : "+x" (x))

__attribute__((target("avx2,fma"))) static inline void
limit_f32_avx2(void *arg, uint32_t i)
{
    __m256  w = _mm256_set1_ps((float) i);

    (void) arg;
    LIMIT_LOOP(__m256, w, _mm256_fmadd_ps(w, w, a[j]));
}

/* The cheapest exact way without VNNI: products of bytes in pairs, added up
 * in 16 bits. */
__attribute__((target("avx2"))) static inline void
limit_int8_avx2(void *arg, uint32_t i)
{
    __m256i  w = _mm256_set1_epi8((char) (i & 3)), v = w;

    (void) arg;
    LIMIT_LOOP(__m256i, w, ({ LIMIT_PIN(v);
               _mm256_add_epi16(a[j], _mm256_maddubs_epi16(w, v)); }));
}

#undef LIMIT_PIN
#define LIMIT_PIN(x)  __asm__ volatile ("" : "+v" (x))

__attribute__((target("avx512f,avx512bw,avx512vnni"))) static inline void
limit_int8_avx512(void *arg, uint32_t i)
{
    __m512i  w = _mm512_set1_epi8((char) i);

    (void) arg;
    LIMIT_LOOP(__m512i, w, _mm512_dpbusd_epi32(a[j], w, w));
}

__attribute__((target("avx512f"))) static inline void
limit_f32_avx512(void *arg, uint32_t i)
{
    __m512  w = _mm512_set1_ps((float) i);

    (void) arg;
    LIMIT_LOOP(__m512, w, _mm512_fmadd_ps(w, w, a[j]));
}

#undef LIMIT_PIN
#define LIMIT_PIN(x)  __asm__ volatile ("" : "+x" (x))

__attribute__((target("avx2,avxvnni"))) static inline void
limit_int8_avxvnni(void *arg, uint32_t i)
{
    __m256i  w = _mm256_set1_epi8((char) i);

    (void) arg;
    LIMIT_LOOP(__m256i, w, _mm256_dpbusd_avx_epi32(a[j], w, w));
}

#elif defined(__aarch64__)

#define LIMIT_PIN(x)  __asm__ volatile ("" : "+w" (x))

__attribute__((target("+dotprod"))) static inline void
limit_int8_neon(void *arg, uint32_t i)
{
    int8x16_t  w = vdupq_n_s8((int8_t) i);

    (void) arg;
    LIMIT_LOOP(int32x4_t, vdupq_n_s32(0), vdotq_s32(a[j], w, w));
}

static inline void
limit_f32_neon(void *arg, uint32_t i)
{
    float32x4_t  w = vdupq_n_f32((float) i);

    (void) arg;
    LIMIT_LOOP(float32x4_t, w, vfmaq_f32(a[j], w, w));
}

#endif

/* Peak GOP/s of part, which does ops operations in a turn of a chain; 0: no
 * part. */
static inline double
limit_ops(kern_ctx_t *c, uint32_t n, double ms, double ops,
    void (*part)(void *arg, uint32_t i))
{
    limit_t  l = { .c = c, .n = n, .part = part };
    double   min, max;

    if (part == NULL) {
        return 0;
    }
    (void) bench_us(ms, limit_run, &l, &min, &max);
    return (double) LIMIT_TURNS * LIMIT_CHAINS * ops * n / min / 1e3;
}

/* int8 operations a second of the best level of this machine, 1e9. */
static inline double
limit_int8(kern_ctx_t *c, uint32_t n, double ms)
{
#if defined(__x86_64__)
    if (cpu_inner("avx512") != NULL) {
        return limit_ops(c, n, ms, 128, limit_int8_avx512);
    }
    if (cpu_inner("avxvnni") != NULL) {
        return limit_ops(c, n, ms, 64, limit_int8_avxvnni);
    }
    if (cpu_inner("avx2") != NULL) {
        return limit_ops(c, n, ms, 64, limit_int8_avx2);
    }
#elif defined(__aarch64__)
    if (cpu_inner("neon") != NULL) {
        return limit_ops(c, n, ms, 32, limit_int8_neon);
    }
#endif
    return limit_ops(c, n, ms, 0, NULL);
}

static inline double
limit_f32(kern_ctx_t *c, uint32_t n, double ms)
{
#if defined(__x86_64__)
    if (cpu_inner("avx512") != NULL) {
        return limit_ops(c, n, ms, 32, limit_f32_avx512);
    }
    if (cpu_inner("avx2") != NULL) {
        return limit_ops(c, n, ms, 16, limit_f32_avx2);
    }
#elif defined(__aarch64__)
    if (cpu_inner("neon") != NULL) {
        return limit_ops(c, n, ms, 8, limit_f32_neon);
    }
#endif
    return limit_ops(c, n, ms, 0, NULL);
}

/* GB/s of reading `bytes` again and again, each thread its own part. */
static inline double
limit_read(kern_ctx_t *c, uint32_t n, double ms, size_t bytes)
{
    limit_t  l = { .c = c, .n = n, .bytes = bytes / 64 * 64,
                   .part = limit_read_part };
    double   us, min, max;

    l.buf = aligned_alloc(64, l.bytes);
    if (l.buf == NULL) {
        exit(1);
    }
    memset(l.buf, 1, l.bytes);
    us = bench_us(ms, limit_run, &l, &min, &max);
    free(l.buf);
    return (double) l.bytes / us / 1e3;
}

#endif
