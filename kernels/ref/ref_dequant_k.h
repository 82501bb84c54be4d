/*
 * ref_dequant_k.h: blocks of the quantized types of GGUF files, the K and
 * IQ4 ones too, taken apart into integers and scales, and their values in
 * f32. For packers of kernels and for the model tools. Pure functions of
 * their arguments, any thread.
 *
 * Bytes of a block, in file order (f16 unless said otherwise; a 6-bit scale
 * list of 12 bytes has its packing in ref_dequant_k.c):
 *
 *   Q2_K    84  scale and minimum nibbles [16], 2 bits [64], d, dmin
 *   Q3_K   110  high bits [32], 2 bits [64], 6-bit scales [12], d
 *   Q4_K   144  d, dmin, 6-bit scales and minima [12], nibbles [128]
 *   Q5_K   176  d, dmin, 6-bit scales and minima [12], high bits [32],
 *               nibbles [128]
 *   Q6_K   210  nibbles [128], high 2 bits [64], i8 scales [16], d
 *   Q8_K   292  d f32, i8 [256], i16 sums of 16 [16]
 *   IQ4_NL  18  d, nibbles [16]
 *   IQ4_XS 136  d, high 2 bits of scales u16, low nibbles of scales [4],
 *               nibbles [128]
 */

#ifndef KERN_REF_DEQUANT_K_H
#define KERN_REF_DEQUANT_K_H

#include <stddef.h>
#include <stdint.h>

/* Types beyond those of kern.h, numbered as in GGUF files. */
enum {
    REF_Q2_K = 10,
    REF_Q3_K = 11,
    REF_Q4_K = 12,
    REF_Q5_K = 13,
    REF_Q6_K = 14,
    REF_Q8_K = 15,
    REF_IQ4_NL = 20,
    REF_IQ4_XS = 23
};

#define REF_BLOCK_MAX_BYTES  292

/* Value i is (d * scale[i / sub]) * q[i] - dmin * min[i / sub], each product
 * and the difference rounded to f32; dmin and min are 0 for types without
 * minima. */
typedef struct {
    uint32_t  values;           /* 32 or 256 */
    uint32_t  sub;              /* values under one scale: 16, 32 or all */
    float     d, dmin;
    int16_t   scale[16];        /* 1 where the type has d alone */
    uint8_t   min[16];
    int8_t    q[256];           /* of IQ4: the value of the table */
} ref_block_t;

/* The 16 values of IQ4_NL and IQ4_XS, ascending. */
extern const int8_t kern_iq4_values[16];

/* Values and bytes per block of all types, floats too (1 value); both 0 for
 * unknown ones. */
void kern_block_layout_ref(uint32_t type, uint32_t *values,
    uint32_t *bytes);
const char *kern_block_name_ref(uint32_t type);

/* Takes one block of a quantized type apart; 0 when type is none. */
int kern_unpack_ref(ref_block_t *b, uint32_t type, const uint8_t *src);

/* n values, whole blocks, of any type; 0 when the type is unknown. */
int kern_dequant_ref(float *y, uint32_t type, const void *src, size_t n);

#endif
