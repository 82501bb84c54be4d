/*
 * ref_dequant_k.c: see ref_dequant_k.h. Written from the description of the
 * file format; the test compares every type bit by bit with what the Python
 * package `gguf` gives for the same blocks.
 */

#include <string.h>

#include "cpu.h"
#include "ref/ref_dequant_k.h"


const int8_t  kern_iq4_values[16] = {
    -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113
};

static const struct {
    const char  *name;
    uint16_t     values, bytes, sub;
} ref_type[] = {
    [KERN_F32] = { "F32", 1, 4, 1 },
    [KERN_F16] = { "F16", 1, 2, 1 },
    [KERN_Q4_0] = { "Q4_0", 32, 18, 32 },
    [KERN_Q4_1] = { "Q4_1", 32, 20, 32 },
    [KERN_Q5_0] = { "Q5_0", 32, 22, 32 },
    [KERN_Q5_1] = { "Q5_1", 32, 24, 32 },
    [KERN_Q8_0] = { "Q8_0", 32, 34, 32 },
    [REF_Q2_K] = { "Q2_K", 256, 84, 16 },
    [REF_Q3_K] = { "Q3_K", 256, 110, 16 },
    [REF_Q4_K] = { "Q4_K", 256, 144, 32 },
    [REF_Q5_K] = { "Q5_K", 256, 176, 32 },
    [REF_Q6_K] = { "Q6_K", 256, 210, 16 },
    [REF_Q8_K] = { "Q8_K", 256, 292, 256 },
    [REF_IQ4_NL] = { "IQ4_NL", 32, 18, 32 },
    [REF_IQ4_XS] = { "IQ4_XS", 256, 136, 32 },
    [KERN_BF16] = { "BF16", 1, 2, 1 }
};

#define REF_N_TYPES  (sizeof(ref_type) / sizeof(ref_type[0]))


void
kern_block_layout_ref(uint32_t type, uint32_t *values, uint32_t *bytes)
{
    *values = type < REF_N_TYPES ? ref_type[type].values : 0;
    *bytes = type < REF_N_TYPES ? ref_type[type].bytes : 0;
}

const char *
kern_block_name_ref(uint32_t type)
{
    return type < REF_N_TYPES && ref_type[type].name != NULL
           ? ref_type[type].name : "unknown";
}

static float
ref_f16_at(const uint8_t *p)
{
    uint16_t  h;

    memcpy(&h, p, sizeof(h));
    return cpu_f16_to_f32(h);
}

/* Blocks of 32: low bits in nibbles (i and i + 16 share a byte), perhaps a
 * fifth bit each in a word of 32; sub is taken off. */
static void
ref_unpack_32(ref_block_t *b, const uint8_t *high, const uint8_t *qs,
    int sub)
{
    uint32_t  i, bits = 0;

    if (high != NULL) {
        memcpy(&bits, high, sizeof(bits));
    }
    for (i = 0; i < 32; i++) {
        b->q[i] = (int8_t) ((i < 16 ? qs[i] & 15 : qs[i - 16] >> 4)
                            + (int) (bits >> i & 1) * 16 - sub);
    }
}

/* Two bits a value: byte l of each half serves values l, l + 32, l + 64 and
 * l + 96 of its 128. */
static uint32_t
ref_two_bits(const uint8_t *qs, uint32_t i)
{
    return qs[i / 128 * 32 + i % 32] >> i % 128 / 32 * 2 & 3;
}

static void
ref_unpack_q2_k(ref_block_t *b, const uint8_t *p)
{
    uint32_t  i;

    b->d = ref_f16_at(p + 80);
    b->dmin = ref_f16_at(p + 82);
    for (i = 0; i < 16; i++) {
        b->scale[i] = p[i] & 15;
        b->min[i] = p[i] >> 4;
    }
    for (i = 0; i < 256; i++) {
        b->q[i] = (int8_t) ref_two_bits(p + 16, i);
    }
}

/* Scale i: low nibble of byte i, for i >= 8 the high nibble of byte i - 8;
 * its two upper bits in byte 8 + i % 4, pair i / 4; 32 is taken off. A high
 * bit that is not set takes 4 off a value: byte i % 32, bit i / 32. */
static void
ref_unpack_q3_k(ref_block_t *b, const uint8_t *p)
{
    const uint8_t  *s = p + 96;
    uint32_t        i;

    b->d = ref_f16_at(p + 108);
    for (i = 0; i < 16; i++) {
        b->scale[i] = (int16_t) ((s[i % 8] >> i / 8 * 4 & 15)
                                 + (s[8 + i % 4] >> i / 4 * 2 & 3) * 16
                                 - 32);
    }
    for (i = 0; i < 256; i++) {
        b->q[i] = (int8_t) ((int) ref_two_bits(p + 32, i)
                            - ((p[i % 32] >> i / 32 & 1) ? 0 : 4));
    }
}

/* Eight scales and eight minima of 6 bits. The first four of each are the
 * low 6 bits of bytes 0..3 and 4..7; of the last four, low and high nibbles
 * of bytes 8..11 are the lower bits and the top pairs of bytes 0..3 and
 * 4..7 the upper ones. */
static void
ref_six_bits(ref_block_t *b, const uint8_t *s)
{
    uint32_t  i;

    for (i = 0; i < 4; i++) {
        b->scale[i] = s[i] & 63;
        b->min[i] = s[4 + i] & 63;
        b->scale[4 + i] = (int16_t) ((s[8 + i] & 15) | s[i] >> 6 << 4);
        b->min[4 + i] = (uint8_t) (s[8 + i] >> 4 | s[4 + i] >> 6 << 4);
    }
}

/* Nibbles: each 32 bytes hold 64 values, the first 32 in the low halves. */
static uint32_t
ref_k_nibble(const uint8_t *qs, uint32_t i)
{
    return qs[i / 64 * 32 + i % 32] >> i % 64 / 32 * 4 & 15;
}

/* Q4_K, and with high bits (byte i % 32, bit i / 32) Q5_K. */
static void
ref_unpack_q45_k(ref_block_t *b, const uint8_t *p, const uint8_t *high,
    const uint8_t *qs)
{
    uint32_t  i;

    b->d = ref_f16_at(p);
    b->dmin = ref_f16_at(p + 2);
    ref_six_bits(b, p + 4);
    for (i = 0; i < 256; i++) {
        b->q[i] = (int8_t) ref_k_nibble(qs, i);
        if (high != NULL) {
            b->q[i] = (int8_t) (b->q[i]
                                + (high[i % 32] >> i / 32 & 1) * 16);
        }
    }
}

/* Each half of 128 values has 64 bytes of nibbles (low ones first) and 32
 * bytes of upper pairs, laid out as in ref_two_bits(). */
static void
ref_unpack_q6_k(ref_block_t *b, const uint8_t *p)
{
    uint32_t  i, low;

    b->d = ref_f16_at(p + 208);
    for (i = 0; i < 16; i++) {
        b->scale[i] = (int8_t) p[192 + i];
    }
    for (i = 0; i < 256; i++) {
        low = p[i / 128 * 64 + i % 64] >> i % 128 / 64 * 4 & 15;
        b->q[i] = (int8_t) ((int) (low | ref_two_bits(p + 128, i) << 4)
                            - 32);
    }
}

static void
ref_unpack_iq4(ref_block_t *b, const uint8_t *qs, uint32_t n)
{
    uint32_t  i;

    for (i = 0; i < n; i++) {
        b->q[i] = kern_iq4_values[qs[i / 32 * 16 + i % 16]
                                  >> i % 32 / 16 * 4 & 15];
    }
}

static void
ref_unpack_iq4_xs(ref_block_t *b, const uint8_t *p)
{
    uint32_t  i, high = p[2] | (uint32_t) p[3] << 8;

    b->d = ref_f16_at(p);
    for (i = 0; i < 8; i++) {
        b->scale[i] = (int16_t) ((p[4 + i / 2] >> i % 2 * 4 & 15)
                                 + (int) (high >> 2 * i & 3) * 16 - 32);
    }
    ref_unpack_iq4(b, p + 8, 256);
}

/* Blocks of 32 and their d; y = d * q + m is written with dmin = -m. */
static void
ref_unpack_plain(ref_block_t *b, uint32_t type, const uint8_t *p)
{
    b->scale[0] = 1;
    b->d = ref_f16_at(p);
    if (type == KERN_Q4_1 || type == KERN_Q5_1) {
        b->dmin = -ref_f16_at(p + 2);
        b->min[0] = 1;
    }

    switch (type) {

    case KERN_Q4_0:
        ref_unpack_32(b, NULL, p + 2, 8);
        break;

    case KERN_Q4_1:
        ref_unpack_32(b, NULL, p + 4, 0);
        break;

    case KERN_Q5_0:
        ref_unpack_32(b, p + 2, p + 6, 16);
        break;

    case KERN_Q5_1:
        ref_unpack_32(b, p + 4, p + 8, 0);
        break;

    case KERN_Q8_0:
        memcpy(b->q, p + 2, 32);
        break;

    default:
        ref_unpack_iq4(b, p + 2, 32);
    }
}

int
kern_unpack_ref(ref_block_t *b, uint32_t type, const uint8_t *src)
{
    memset(b, 0, sizeof(*b));
    if (type >= REF_N_TYPES || ref_type[type].values < 2) {
        return 0;
    }
    b->values = ref_type[type].values;
    b->sub = ref_type[type].sub;

    switch (type) {

    case REF_Q2_K:
        ref_unpack_q2_k(b, src);
        break;

    case REF_Q3_K:
        ref_unpack_q3_k(b, src);
        break;

    case REF_Q4_K:
        ref_unpack_q45_k(b, src, NULL, src + 16);
        break;

    case REF_Q5_K:
        ref_unpack_q45_k(b, src, src + 16, src + 48);
        break;

    case REF_Q6_K:
        ref_unpack_q6_k(b, src);
        break;

    case REF_Q8_K:
        memcpy(&b->d, src, sizeof(float));
        memcpy(b->q, src + 4, 256);
        b->scale[0] = 1;
        break;

    case REF_IQ4_XS:
        ref_unpack_iq4_xs(b, src);
        break;

    default:
        ref_unpack_plain(b, type, src);
    }
    return 1;
}

static void
ref_floats(float *y, uint32_t type, const uint8_t *p, size_t n)
{
    size_t    i;
    uint16_t  h;
    uint32_t  u;

    if (type == KERN_F32) {
        memcpy(y, p, n * sizeof(float));
        return;
    }
    for (i = 0; i < n; i++) {
        memcpy(&h, p + 2 * i, sizeof(h));
        if (type == KERN_F16) {
            y[i] = cpu_f16_to_f32(h);
            continue;
        }
        u = (uint32_t) h << 16;
        memcpy(&y[i], &u, sizeof(u));
    }
}

int
kern_dequant_ref(float *y, uint32_t type, const void *src, size_t n)
{
    const uint8_t  *p = src;
    ref_block_t     b;
    uint32_t        i, s;
    size_t          at;

    if (type >= REF_N_TYPES || ref_type[type].values == 0) {
        return 0;
    }
    if (ref_type[type].values == 1) {
        ref_floats(y, type, p, n);
        return 1;
    }

    for (at = 0; at < n; at += b.values, p += ref_type[type].bytes) {
        (void) kern_unpack_ref(&b, type, p);
        for (i = 0; i < b.values; i++) {
            s = i / b.sub;
            y[at + i] = b.d * (float) b.scale[s] * (float) b.q[i]
                        - b.dmin * (float) b.min[s];
        }
    }
    return 1;
}
