/*
 * kern_test.h: what the kernel tests share: a seeded random source (set
 * INFER_SEED to repeat a run), buffers with canaries, random tensors in file
 * order and their values decoded independently of the packers (those of K
 * and IQ4 blocks by kern_dequant_ref(), which has its own test).
 */

#ifndef KERN_TEST_H
#define KERN_TEST_H

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cpu_ctx.h"
#include "ref/ref_dequant_k.h"
#include "../../engine/test/tap.h"

#define TEST_UNUSED  __attribute__((unused))
#define TEST_CANARY  64

static uint64_t  test_rng;

TEST_UNUSED static void
test_seed(void)
{
    const char  *s = getenv("INFER_SEED");

    test_rng = s != NULL ? strtoull(s, NULL, 0) : 20261125;
    diag("INFER_SEED=%llu", (unsigned long long) test_rng);
}

/* Fewer shapes, for machines that are emulated. */
TEST_UNUSED static int
test_quick(void)
{
    return getenv("INFER_QUICK") != NULL;
}

/* splitmix64 */
TEST_UNUSED static uint64_t
test_u64(void)
{
    uint64_t  z = (test_rng += 0x9e3779b97f4a7c15u);

    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

TEST_UNUSED static uint32_t
test_below(uint32_t n)
{
    return (uint32_t) (test_u64() % n);
}

/* -1 .. 1 */
TEST_UNUSED static float
test_f32(void)
{
    return (float) (int32_t) test_u64() * 0x1p-31f;
}

/* Allocated bytes with canaries on both sides. */
TEST_UNUSED static void *
test_alloc(size_t bytes)
{
    uint8_t  *p = malloc(bytes + 2 * TEST_CANARY + sizeof(size_t));

    if (p == NULL) {
        exit(1);
    }
    memcpy(p, &bytes, sizeof(size_t));
    memset(p + sizeof(size_t), 0xa5, bytes + 2 * TEST_CANARY);
    return p + sizeof(size_t) + TEST_CANARY;
}

/* Frees; returns whether the canaries are whole. */
TEST_UNUSED static int
test_free(void *ptr)
{
    uint8_t  *p = (uint8_t *) ptr - TEST_CANARY;
    size_t    bytes, i;
    int       whole = 1;

    memcpy(&bytes, p - sizeof(size_t), sizeof(size_t));
    for (i = 0; i < TEST_CANARY; i++) {
        whole &= p[i] == 0xa5 && p[TEST_CANARY + bytes + i] == 0xa5;
    }
    free(p - sizeof(size_t));
    return whole;
}

TEST_UNUSED static float *
test_floats(size_t n, float scale)
{
    float   *p = test_alloc(n * sizeof(float));
    size_t   i;

    for (i = 0; i < n; i++) {
        p[i] = test_f32() * scale;
    }
    return p;
}

/* A tensor in memory. */
typedef struct {
    kern_src_t  src;
    uint8_t    *raw;
    size_t      row_bytes;
} test_tensor_t;

TEST_UNUSED static int
test_read(void *arg, void *buf, size_t len, uint64_t off)
{
    memcpy(buf, (uint8_t *) arg + off, len);
    return INFER_OK;
}

TEST_UNUSED static void
test_put_half(uint8_t *p, float f)
{
    uint16_t  h = cpu_f32_to_f16(f);

    memcpy(p, &h, 2);
}

/* The scales of a block of a K or IQ4 type, whose other bytes are random:
 * values of about +-f. */
TEST_UNUSED static void
test_put_scales(uint8_t *b, uint32_t type, float f)
{
    switch (type) {
    case KERN_Q2_K:
        test_put_half(b + 80, fabsf(f) / 20);
        test_put_half(b + 82, fabsf(f) / 14);
        break;
    case KERN_Q3_K:
        test_put_half(b + 108, f / 100);
        break;
    case KERN_Q4_K:
        test_put_half(b, fabsf(f) / 300);
        test_put_half(b + 2, fabsf(f) / 40);
        break;
    case KERN_Q5_K:
        test_put_half(b, fabsf(f) / 600);
        test_put_half(b + 2, fabsf(f) / 40);
        break;
    case KERN_Q6_K:
        test_put_half(b + 208, f / 3000);
        break;
    case KERN_Q8_K:
        f /= 127;
        memcpy(b, &f, sizeof(f));
        break;
    case KERN_IQ4_XS:
        test_put_half(b, f / 3000);
        break;
    default:
        test_put_half(b, f / 127);
    }
}

/* Random values of about +-amp. */
TEST_UNUSED static test_tensor_t
test_tensor(uint32_t type, uint32_t n_out, uint32_t n_in, float amp)
{
    uint32_t       values, bytes;
    size_t         i, j, n;
    test_tensor_t  t;
    uint8_t       *b;
    float          f;

    kern_type_layout(type, &values, &bytes);
    t.row_bytes = (size_t) n_in / values * bytes;
    n = t.row_bytes * n_out / bytes;
    t.raw = malloc(n * bytes);
    if (t.raw == NULL) {
        exit(1);
    }
    for (i = 0; i < n; i++) {
        b = t.raw + i * bytes;
        for (j = 0; j < bytes; j++) {
            b[j] = (uint8_t) test_u64();
        }
        f = test_f32() * amp;
        switch (type) {
        case KERN_F32:
            memcpy(b, &f, 4);
            break;
        case KERN_F16:
            test_put_half(b, f);
            break;
        case KERN_BF16:
            memcpy(b, (uint8_t *) &f + 2, 2);
            break;
        case KERN_Q8_0:
            test_put_half(b, f / 127);
            break;
        case KERN_Q4_0:
            test_put_half(b, f / 8);
            break;
        case KERN_Q5_0:
            test_put_half(b, f / 16);
            break;
        case KERN_Q4_1:
            test_put_half(b, fabsf(f) / 8);
            test_put_half(b + 2, -fabsf(f) * (0.9f + 0.2f * test_f32()));
            break;
        case KERN_Q5_1:
            test_put_half(b, fabsf(f) / 16);
            test_put_half(b + 2, -fabsf(f) * (0.9f + 0.2f * test_f32()));
            break;
        default:
            test_put_scales(b, type, f);
        }
    }
    t.src = (kern_src_t) { .type = type, .n_out = n_out, .n_in = n_in,
                           .read = test_read, .arg = t.raw };
    return t;
}

/* One value, decoded from the file's bytes. */
TEST_UNUSED static float
test_value(const test_tensor_t *t, uint32_t row, uint32_t col)
{
    uint32_t        values, bytes, k, qh, v;
    const uint8_t  *b;
    uint16_t        h[2] = { 0, 0 };
    float           f = 0, d, m, all[256];

    kern_type_layout(t->src.type, &values, &bytes);
    b = t->raw + row * t->row_bytes + (size_t) (col / values) * bytes;
    k = col % values;
    if (t->src.type >= KERN_Q2_K && t->src.type != KERN_BF16) {
        (void) kern_dequant_ref(all, t->src.type, b, values);
        return all[k];
    }
    memcpy(h, b, bytes < 4 ? 2 : 4);
    d = cpu_f16_to_f32(h[0]);
    m = cpu_f16_to_f32(h[1]);

    switch (t->src.type) {
    case KERN_F32:
        memcpy(&f, b, 4);
        return f;
    case KERN_F16:
        return d;
    case KERN_BF16:
        memcpy((uint8_t *) &f + 2, b, 2);
        return f;
    case KERN_Q8_0:
        return d * (float) (int8_t) b[2 + k];
    case KERN_Q4_0:
        v = k < 16 ? b[2 + k] & 15 : b[2 + k - 16] >> 4;
        return d * ((float) v - 8);
    case KERN_Q4_1:
        v = k < 16 ? b[4 + k] & 15 : b[4 + k - 16] >> 4;
        return d * (float) v + m;
    case KERN_Q5_0:
        memcpy(&qh, b + 2, 4);
        v = k < 16 ? b[6 + k] & 15 : b[6 + k - 16] >> 4;
        return d * ((float) (v | (qh >> k & 1) << 4) - 16);
    default:
        memcpy(&qh, b + 4, 4);
        v = k < 16 ? b[8 + k] & 15 : b[8 + k - 16] >> 4;
        return d * (float) (v | (qh >> k & 1) << 4) + m;
    }
}

/* Value d of the key (v: 0) or value (1) in a slot of a KV page, decoded
 * from its bytes. */
TEST_UNUSED static float
test_kv_value(const uint8_t *page, uint32_t type, uint32_t hd, uint32_t vd,
    int v, uint32_t slot, uint32_t d)
{
    size_t    at = v ? 32 * hd + slot * vd + d : d * 32 + slot, s;
    uint16_t  h;
    float     f = 0;

    if (type == KERN_KV_Q8) {
        s = 32 * (hd + vd) + (v ? (hd + 31) / 32 * 64 : 0);
        memcpy(&h, page + s + d / 32 * 64 + slot * 2, 2);
        return cpu_f16_to_f32(h) * (float) (int8_t) page[at];
    }
    memcpy(&h, page + 2 * at, 2);
    if (type == KERN_KV_F16) {
        return cpu_f16_to_f32(h);
    }
    memcpy((uint8_t *) &f + 2, &h, 2);
    return f;
}

static const uint32_t  test_types[] TEST_UNUSED = {
    KERN_F32, KERN_F16, KERN_BF16, KERN_Q4_0, KERN_Q4_1, KERN_Q5_0,
    KERN_Q5_1, KERN_Q8_0, KERN_Q2_K, KERN_Q3_K, KERN_Q4_K, KERN_Q5_K,
    KERN_Q6_K, KERN_Q8_K, KERN_IQ4_NL, KERN_IQ4_XS
};

#define TEST_N_TYPES  (sizeof(test_types) / sizeof(test_types[0]))

static const char *const  test_fast[] TEST_UNUSED = {
    "avx2", "avxvnni", "vnni256", "avx512", "neon"
};

#define TEST_N_FAST  5

#endif
