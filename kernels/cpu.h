/*
 * cpu.h: what the CPU levels share inside kernels/: the packed weight, the
 * activation rows, the KV page layout and the inner table of per-ISA
 * entries. ref/ fills a table with the definitions in plain C, each x86
 * level overwrites entries. Nobody outside kernels/ includes this.
 *
 * Weight layout. Rows are cut into stripes of 48 = 3 panels of 16, zero
 * padded. A stripe is one sequential stream, blocks of 32 columns ascending;
 * forms with 8-bit scales have groups of eight blocks, headed by what these
 * are multiplied with:
 *
 *   group:            f16 d[48] | f16 dmin[48] | eight blocks
 *   quantized block:  values of panel 0, 1, 2 | scale[48] | min[48]
 *     a panel has planes of dwords [..][lane]; in byte t of a dword
 *     8 bits:         [i], i 0..7: column 4i + t
 *     4 bits:         [i], i 0..3: column 4i + t low and 16 + 4i + t high
 *     2 bits:         [h], h 0..1: column 16h + 4i + t at bit 2i
 *     1 bit:          column 16h + 4i + t at bit 4h + i
 *   two scales a block are scale[2][48], each for 16 columns
 *   float:            value [column][48]
 *
 * All values are unsigned; a form without minima has a zero point, which is
 * 1 << zero_shift and is taken back exactly by the block sums of the
 * activations.
 */

#ifndef KERN_CPU_H
#define KERN_CPU_H

#include <string.h>

#include "kern.h"

#define CPU_LANES    16
#define CPU_STRIPE   48
#define CPU_BLOCK    32
#define CPU_CHUNK    128   /* keys of one attention chunk */
#define CPU_QMAX     16    /* query vectors of one attention call */

typedef enum {
    CPU_N4Z,    /* nibbles, zero point      Q4_0       */
    CPU_N4M,    /* nibbles, minima          Q4_1       */
    CPU_B8Z,    /* bytes, zero point        Q8_0       */
    CPU_N5Z,    /* 4 + 1 bits, zero point   Q5_0       */
    CPU_N5M,    /* 4 + 1 bits, minima       Q5_1       */
    CPU_B8D,    /* bytes, f32 scale         Q8_K       */
    CPU_T4,     /* nibbles through a table  IQ4_NL     */
    CPU_T4G,    /* the same in groups       IQ4_XS     */
    CPU_G2,     /* 2 bits, groups           Q2_K       */
    CPU_G3,     /* 2 + 1 bits               Q3_K       */
    CPU_G4,     /* nibbles                  Q4_K       */
    CPU_G5,     /* 4 + 1 bits               Q5_K       */
    CPU_G6,     /* 4 + 2 bits               Q6_K       */
    CPU_F32,
    CPU_F16,
    CPU_BF16
} cpu_form_e;

/* What a quantized form is made of; a constant wherever the form is one. */
typedef struct {
    int  low;       /* bits of a value in the first plane: 2, 4, 8 */
    int  high;      /* bits in the second plane, above them: 0, 1, 2 */
    int  table;     /* values are kern_iq4_values[] + 128 */
    int  subs;      /* scales of a block: 1 or 2 */
    int  group;     /* blocks of a group: 1 or 8 */
    int  scale;     /* bytes of one: 2 f16, 4 f32, 1 i8 times the head's d */
    int  min;       /* bytes of one: 0 none, 2 f16, 1 u8 times the head's
                     * dmin, to be taken off */
    int  shared;    /* scale and minimum are halves of one byte */
} cpu_traits_t;

struct kern_weight_s {
    uint8_t            *data;
    size_t              stripe_bytes;
    uint64_t            bytes;         /* in the arena */
    uint32_t            type;          /* KERN_* */
    cpu_form_e          form;
    uint32_t            n_out, n_in;
    uint32_t            n_stripes;
    uint32_t            zero_shift;
    struct cpu_slab_s  *slab;
};

/* Activation rows [n_rows, n_in] of one linear. q8: quantized in blocks of
 * 32; f: as they are, for float weights and for the f32 definition. */
typedef struct {
    int8_t   *q;        /* [row * n_in] */
    float    *d;        /* [row * nb]   scale */
    int32_t  *nsum;     /* [row * nb]   minus the sum of a block's q */
    int32_t  *hsum;     /* [row * nb * 2] the same of its halves */
    float    *dsum;     /* [row * nb]   d * sum */
    float    *f;        /* [row * n_in] */
    uint32_t  n_in;
} cpu_acts_t;

/* One attention call: nq query vectors of one kv head against its keys.
 * Query i sees positions 0 .. n_keys[i] - 1; n_keys ascends. */
typedef struct {
    const float     *q[CPU_QMAX];      /* [head_dim], rotated and scaled */
    float           *out[CPU_QMAX];    /* [head_dim] */
    uint32_t         n_keys[CPU_QMAX];
    uint32_t         nq;
    uint32_t         kv_type;          /* KERN_KV_* */
    uint32_t         head_dim, v_dim;  /* v_dim: head_dim up to % 16 */
    const uint8_t   *kv;               /* page 0, this layer and head */
    size_t           page_bytes;
    const uint32_t  *pages;
    float           *work;             /* cpu_attn_work() floats */
} cpu_attn_t;

typedef struct {
    const char  *name;
    int          q8;    /* activations of quantized linears are quantized */

    /* y = x * (1 / sqrt(mean(x^2) + eps)) * w; n % 16 == 0 */
    void (*rmsnorm)(float *y, const float *x, const float *w, float eps,
        uint32_t n);
    /* fills blocks b0 .. b0 + nb - 1 of row `row` of a from x [32 * nb] */
    void (*quantize)(const cpu_acts_t *a, uint32_t row, uint32_t b0,
        uint32_t nb, const float *x);
    /* y[r * ldy + j] (+)= rows r0 + r of a times output j of the stripe,
     * j < min(48, outputs left) */
    void (*linear)(const kern_weight_t *w, uint32_t stripe,
        const cpu_acts_t *a, uint32_t r0, uint32_t n_rows, float *y,
        size_t ldy, int add);
    /* y = silu(g) * u */
    void (*silu_mul)(float *y, const float *g, const float *u, uint32_t n);
    /* y = rotated x * scale; cs: cos and signed sin, [2 * rope_dim] */
    void (*rope)(float *y, const float *x, const float *cs,
        uint32_t rope_dim, uint32_t head_dim, float scale);
    /* k, v [head_dim] of one token into slot 0..31 of a page's head */
    void (*kv_store)(uint8_t *kv, uint32_t type, uint32_t slot,
        const float *k, const float *v, uint32_t head_dim, uint32_t v_dim);
    void (*attend)(const cpu_attn_t *a);
    /* The same in two steps, for few rows on many threads: every chunk into
     * its part (parts follow each other), then all parts into out. */
    void (*attend_part)(const cpu_attn_t *a, uint32_t chunk, float *part);
    void (*attend_join)(const cpu_attn_t *a, float *part);
    int32_t (*argmax)(const float *x, size_t n);
    void (*exp_row)(float *y, const float *x, float sub, size_t n);
} cpu_inner_t;

/* Head of a KV page: K as [head_dim][32 tokens], V as [32 tokens][v_dim], in
 * the page's type; heads follow each other, then layers. q8: f16 scales
 * behind that, of K as [blocks of 32 values][32 tokens], then of V. A value
 * is int8 * scale, which is exact in f32. */
static inline uint32_t
cpu_kv_value_bytes(uint32_t type)
{
    return type == KERN_KV_Q8 ? 1 : 2;
}

static inline uint32_t
cpu_kv_blocks(uint32_t head_dim)
{
    return (head_dim + CPU_BLOCK - 1) / CPU_BLOCK;
}

/* Where V begins. */
static inline size_t
cpu_kv_v_at(uint32_t type, uint32_t head_dim)
{
    return (size_t) KERN_PAGE_TOKENS * head_dim * cpu_kv_value_bytes(type);
}

/* Where the scales of K begin, and of V. */
static inline size_t
cpu_kv_ks_at(uint32_t head_dim, uint32_t v_dim)
{
    return (size_t) KERN_PAGE_TOKENS * (head_dim + v_dim);
}

static inline size_t
cpu_kv_vs_at(uint32_t head_dim, uint32_t v_dim)
{
    return cpu_kv_ks_at(head_dim, v_dim)
           + (size_t) KERN_PAGE_TOKENS * cpu_kv_blocks(head_dim) * 2;
}

static inline size_t
cpu_kv_head_bytes(uint32_t type, uint32_t head_dim, uint32_t v_dim)
{
    size_t  n = cpu_kv_v_at(type, head_dim) + cpu_kv_v_at(type, v_dim);

    if (type == KERN_KV_Q8) {
        n += (size_t) KERN_PAGE_TOKENS * cpu_kv_blocks(head_dim) * 4;
    }
    return n;
}

/* Scores of a chunk, its outputs, the running outputs, four numbers each,
 * then the queries of one column after those of another. */
static inline size_t
cpu_attn_turned_at(uint32_t v_dim)
{
    return (size_t) CPU_QMAX * (CPU_CHUNK + 2 * (size_t) v_dim + 4);
}

static inline size_t
cpu_attn_work(uint32_t v_dim)
{
    return cpu_attn_turned_at(v_dim) + (size_t) CPU_QMAX * v_dim;
}

/* One chunk's outputs [CPU_QMAX, v_dim], then m and l of each query. */
static inline size_t
cpu_part_floats(uint32_t v_dim)
{
    return (size_t) CPU_QMAX * (v_dim + 2);
}

static inline uint32_t
cpu_valid(const kern_weight_t *w, uint32_t stripe)
{
    uint32_t left = w->n_out - stripe * CPU_STRIPE;

    return left < CPU_STRIPE ? left : CPU_STRIPE;
}

static inline __attribute__((always_inline)) cpu_traits_t
cpu_traits(cpu_form_e form)
{
    switch (form) {
    case CPU_N4Z:
        return (cpu_traits_t) { 4, 0, 0, 1, 1, 2, 0, 0 };
    case CPU_N4M:
        return (cpu_traits_t) { 4, 0, 0, 1, 1, 2, 2, 0 };
    case CPU_B8Z:
        return (cpu_traits_t) { 8, 0, 0, 1, 1, 2, 0, 0 };
    case CPU_N5Z:
        return (cpu_traits_t) { 4, 1, 0, 1, 1, 2, 0, 0 };
    case CPU_N5M:
        return (cpu_traits_t) { 4, 1, 0, 1, 1, 2, 2, 0 };
    case CPU_B8D:
        return (cpu_traits_t) { 8, 0, 0, 1, 1, 4, 0, 0 };
    case CPU_T4:
        return (cpu_traits_t) { 4, 0, 1, 1, 1, 2, 0, 0 };
    case CPU_T4G:
        return (cpu_traits_t) { 4, 0, 1, 1, 8, 1, 0, 0 };
    case CPU_G2:
        return (cpu_traits_t) { 2, 0, 0, 2, 8, 1, 1, 1 };
    case CPU_G3:
        return (cpu_traits_t) { 2, 1, 0, 2, 8, 1, 0, 0 };
    case CPU_G4:
        return (cpu_traits_t) { 4, 0, 0, 1, 8, 1, 1, 0 };
    case CPU_G5:
        return (cpu_traits_t) { 4, 1, 0, 1, 8, 1, 1, 0 };
    case CPU_G6:
        return (cpu_traits_t) { 4, 2, 0, 2, 8, 1, 0, 0 };
    default:
        return (cpu_traits_t) { 0, 0, 0, 0, 0, 0, 0, 0 };
    }
}

/* Bytes of a panel, of the head of a group, of a block, and where block b
 * and the head of its group begin. */
static inline __attribute__((always_inline)) size_t
cpu_panel_bytes(const cpu_traits_t t)
{
    return 64 * (size_t) (t.low + t.high);
}

static inline __attribute__((always_inline)) size_t
cpu_head_bytes(const cpu_traits_t t)
{
    return t.group == 1 ? 0 : (size_t) (t.min ? 4 : 2) * CPU_STRIPE;
}

static inline __attribute__((always_inline)) size_t
cpu_block_bytes(const cpu_traits_t t)
{
    return 3 * cpu_panel_bytes(t) + (size_t) (t.subs * t.scale
           + (t.shared ? 0 : t.min)) * CPU_STRIPE;
}

static inline size_t
cpu_head_at(const cpu_traits_t t, uint32_t b)
{
    return b / (uint32_t) t.group
           * (cpu_head_bytes(t) + (size_t) t.group * cpu_block_bytes(t));
}

static inline size_t
cpu_block_at(const cpu_traits_t t, uint32_t b)
{
    return cpu_head_at(t, b) + cpu_head_bytes(t)
           + b % (uint32_t) t.group * cpu_block_bytes(t);
}

float cpu_f16_to_f32(uint16_t h);
uint16_t cpu_f32_to_f16(float f);   /* nearest even, clamped to +-65504 */
/* Nearest even, clamped to the largest finite ones. */
uint16_t cpu_f32_to_bf16(float f);

/* Scale of a block of a q8 page from the bits of its largest magnitude, and
 * what a value is multiplied by. All int8 are 0 when the scale is. */
static inline uint16_t
cpu_kv_scale(uint32_t amax, float *inv)
{
    float     max, d;
    uint16_t  h;

    memcpy(&max, &amax, sizeof(max));
    h = cpu_f32_to_f16(max / 127);
    d = cpu_f16_to_f32(h);
    *inv = d != 0 ? 1 / d : 0;
    return h;
}

/* One row's values [n_in]; the definition of dequantization. */
void cpu_weight_row(const kern_weight_t *w, uint32_t row, float *x);

/* The inner table of a level, named as in kern_init(); NULL when
 * there is none or this machine cannot run it. */
const cpu_inner_t *cpu_inner(const char *isa);

#endif
