/*
 * test_dequant.c: values of every quantized type against those of an
 * unrelated implementation (fixtures/dequant.txt, provenance beside it),
 * bit by bit, and what the fixture cannot show: Q8_K, float types, unknown
 * types, and that nothing is read beyond a block.
 */

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "../../engine/test/tap.h"
#include "kern.h"
#include "ref/ref_dequant_k.h"

static const uint32_t  types[] = {
    KERN_Q4_0, KERN_Q4_1, KERN_Q5_0, KERN_Q5_1, KERN_Q8_0, REF_Q2_K,
    REF_Q3_K, REF_Q4_K, REF_Q5_K, REF_Q6_K, REF_Q8_K, REF_IQ4_NL, REF_IQ4_XS
};

#define N_TYPES  (sizeof(types) / sizeof(types[0]))


static uint64_t
fnv(const void *data, size_t n)
{
    const uint8_t  *p = data;
    uint64_t        h = 0xcbf29ce484222325ull;
    size_t          i;

    for (i = 0; i < n; i++) {
        h = (h ^ p[i]) * 0x100000001b3ull;
    }
    return h;
}

/* bytes bytes that end where a page ends that may not be read. */
static uint8_t *
at_guard(size_t bytes)
{
    size_t    page = (size_t) sysconf(_SC_PAGESIZE);
    uint8_t  *p = mmap(NULL, 2 * page, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (p == MAP_FAILED || mprotect(p + page, page, PROT_NONE) != 0) {
        exit(1);
    }
    return p + page - bytes;
}

/* One line; the number of the type, or 0 when it is not as expected. */
static uint32_t
read_line(const char *line, uint8_t *block, uint64_t *hash, uint32_t *first)
{
    char         hex[2 * REF_BLOCK_MAX_BYTES + 1];
    unsigned     type, byte, bits;
    unsigned long long  h;
    uint32_t     values, bytes, i;

    if (sscanf(line, "%u %584s %llx %x", &type, hex, &h, &bits) != 4) {
        return 0;
    }
    kern_block_layout_ref(type, &values, &bytes);
    if (values == 0 || strlen(hex) != 2 * bytes) {
        return 0;
    }
    for (i = 0; i < bytes; i++) {
        if (sscanf(hex + 2 * i, "%2x", &byte) != 1) {
            return 0;
        }
        block[i] = (uint8_t) byte;
    }
    *hash = h;
    *first = bits;
    return type;
}

static void
test_fixture(const char *path)
{
    FILE      *f = fopen(path, "r");
    char       line[1024];
    uint8_t    block[REF_BLOCK_MAX_BYTES], *tight;
    uint64_t   hash;
    uint32_t   type, first, bits, values, bytes, n[32] = { 0 };
    uint32_t   equal[32] = { 0 }, i;
    float      y[256];

    if (!ok(f != NULL, "fixture %s", path)) {
        diag("%s", strerror(errno));
        return;
    }
    while (fgets(line, sizeof(line), f) != NULL) {
        type = read_line(line, block, &hash, &first);
        if (type == 0 || type >= 32) {
            ok(0, "a line is not as expected: %.40s", line);
            continue;
        }
        kern_block_layout_ref(type, &values, &bytes);
        tight = at_guard(bytes);
        memcpy(tight, block, bytes);
        (void) kern_dequant_ref(y, type, tight, values);
        memcpy(&bits, &y[0], sizeof(bits));
        n[type]++;
        equal[type] += bits == first
                       && fnv(y, values * sizeof(float)) == hash;
    }
    fclose(f);
    for (i = 0; i < N_TYPES; i++) {
        type = types[i];
        if (type != REF_Q8_K) {
            ok(n[type] == 8 && equal[type] == 8, "%s: %u of %u blocks equal",
               kern_block_name_ref(type), equal[type], n[type]);
        }
    }
}

static void
test_q8_k(void)
{
    uint8_t   *block = at_guard(292);
    float      d = 0.75f, y[256];
    uint32_t   i, wrong = 0;

    memset(block, 0xee, 292);
    memcpy(block, &d, sizeof(d));
    for (i = 0; i < 256; i++) {
        block[4 + i] = (uint8_t) i;
    }
    (void) kern_dequant_ref(y, REF_Q8_K, block, 256);
    for (i = 0; i < 256; i++) {
        wrong += y[i] != d * (float) (int8_t) i;
    }
    ok(wrong == 0, "Q8_K: d times each byte");
}

static void
test_floats(void)
{
    const uint16_t  half[3] = { 0x3c00, 0xc500, 0x0001 };
    const uint16_t  bf[3] = { 0x3f80, 0xc0a0, 0x0001 };
    const float     f32[3] = { 1, -5, 0x1p-149f };
    float           y[4] = { 0, 0, 0, 42 };

    ok(kern_dequant_ref(y, KERN_F16, half, 3) && y[0] == 1 && y[1] == -5
       && y[2] == 0x1p-24f && y[3] == 42, "F16");
    ok(kern_dequant_ref(y, KERN_BF16, bf, 3) && y[0] == 1 && y[1] == -5
       && y[2] == 0x1p-133f && y[3] == 42, "BF16");
    ok(kern_dequant_ref(y, KERN_F32, f32, 3) && memcmp(y, f32, 12) == 0
       && y[3] == 42, "F32");
}

static void
test_unknown(void)
{
    static const uint32_t  none[] = { 4, 5, 9, 16, 21, 22, 24, 29, 31, 39,
                                      0xffffffff };
    ref_block_t            b;
    uint8_t                block[REF_BLOCK_MAX_BYTES] = { 0 };
    uint32_t               i, values, bytes, taken = 0;
    float                  y[256];

    for (i = 0; i < sizeof(none) / sizeof(none[0]); i++) {
        kern_block_layout_ref(none[i], &values, &bytes);
        taken += values != 0 || bytes != 0
                 || kern_dequant_ref(y, none[i], block, 256)
                 || kern_unpack_ref(&b, none[i], block);
    }
    ok(taken == 0, "unknown types are refused");
    ok(!kern_unpack_ref(&b, KERN_F16, block), "a float type has no blocks");
}

int
main(void)
{
    test_fixture("kernels/test/fixtures/dequant.txt");
    test_q8_k();
    test_floats();
    test_unknown();
    return tap_done();
}
