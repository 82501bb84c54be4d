/*
 * gemm.h: the q8 family of linears: how a packed matrix lies in memory, and
 * the launchers behind cu_linear() and cu_gate_up(). The other families are
 * in gemm_f.h.
 *
 * Rows are cut into tiles of 16, the last one filled up with zero rows,
 * columns into blocks of 32. The values of a tile are in the order in which
 * the lanes of a warp feed them to an mma of 16 x 32, 16 bytes a lane and 512
 * a step, so that a warp reads whole lines and nobody rearranges anything:
 *
 *   bytes    data[tile][block][lane] word j, byte i:
 *              row 16 tile + g + 8 (j & 1), column 32 block + 16 (j >> 1)
 *              + 4 t + i, where lane = 4 g + t
 *   nibbles  data[tile][pair of blocks][lane]: the same, block 2 pair in the
 *              low nibbles and 2 pair + 1 in the high ones. Of CU_N4Z they
 *              are signed, -8 .. 7, else 0 .. 15.
 *   scales   scale[tile][group][row of 16][4]: f16 or f32; four links of the
 *              chain make a group, a block has one link or, with two scales,
 *              two. min the same.
 *
 * What lies beyond the columns (the last half pair, the last group) is zero:
 * such links add fma(0, 0, acc), which changes no bit of acc, as no chain
 * that starts at +0 ever holds a -0.
 */

#ifndef KERN_CUDA_GEMM_H
#define KERN_CUDA_GEMM_H

#include "cuda.h"

#ifdef __cplusplus
extern "C" {
#endif

#define CU_TILE      16       /* rows of a tile */
#define CU_GROUP     4        /* links of a scale group */
#define CU_STEP      512      /* bytes of a tile's data in one step */
#define CU_SPLIT_MAX 16      /* rows up to which warps share the columns */

/* What a form of the q8 family is made of. */
typedef struct {
    int  nibbles;             /* a step is two blocks, else one */
    int  subs;                /* links of a block */
    int  scale;               /* bytes of a scale or minimum: 2 or 4 */
    int  min;                 /* 1: there are minima */
} cu_traits_t;

#ifdef __CUDACC__
#define CU_BOTH  __host__ __device__
#else
#define CU_BOTH
#endif

static inline CU_BOTH
#ifdef __cplusplus
constexpr
#endif
cu_traits_t
cu_traits(uint32_t form)
{
    cu_traits_t t = { 0, 1, 4, 0 };

    t.nibbles = form == CU_N4Z || form == CU_N4M || form == CU_N4S;
    t.subs = form == CU_B8S2 || form == CU_B8SM2 ? 2 : 1;
    t.scale = form == CU_N4Z || form == CU_N4M || form == CU_B8H
              || form == CU_B8HM ? 2 : 4;
    t.min = form == CU_N4M || form == CU_N4S || form == CU_B8HM
            || form == CU_B8SM || form == CU_B8SM2;
    return t;
}

/* Tiles of a matrix, steps and groups of a tile. */
static inline CU_BOTH uint32_t
cu_tiles(uint32_t n_out)
{
    return (n_out + CU_TILE - 1) / CU_TILE;
}

static inline CU_BOTH uint32_t
cu_steps(const cu_traits_t t, uint32_t n_in)
{
    uint32_t  nb = n_in / CU_BLOCK;

    return t.nibbles ? (nb + 1) / 2 : nb;
}

static inline CU_BOTH uint32_t
cu_groups(const cu_traits_t t, uint32_t n_in)
{
    uint32_t  links = n_in / CU_BLOCK * (uint32_t) t.subs;

    return (links + CU_GROUP - 1) / CU_GROUP;
}

/* Bytes of the scales of a tile's group. */
static inline CU_BOTH uint32_t
cu_group_bytes(const cu_traits_t t)
{
    return (uint32_t) (CU_TILE * CU_GROUP * t.scale);
}

/* Bytes of a packed matrix's data, and of its scales (or minima), rounded up
 * to 256. */
static inline uint64_t
cu_q8_data(const cu_weight_t *w)
{
    return (uint64_t) cu_tiles(w->n_out) * CU_STEP
           * cu_steps(cu_traits(w->form), w->n_in);
}

static inline uint64_t
cu_q8_scale(const cu_weight_t *w)
{
    const cu_traits_t  t = cu_traits(w->form);

    return ((uint64_t) cu_tiles(w->n_out) * cu_groups(t, w->n_in)
            * cu_group_bytes(t) + 255) & ~(uint64_t) 255;
}

/* Rows up to which a form's warps share the columns. */
static inline uint32_t
cu_split_rows(uint32_t form)
{
    return cu_traits(form).subs == 2 ? CU_SPLIT_MAX / 2 : CU_SPLIT_MAX;
}

/* One matrix of a launch, and the launch: all of one form and n_in. */
typedef struct {
    const uint8_t  *data, *scale, *min;
    float          *y;            /* of column 0 of this matrix */
    uint32_t        n_out;
    uint32_t        block0;       /* first block of the grid that has it */
} cu_q8_part_t;

typedef struct {
    cu_q8_part_t    part[3];
    uint32_t        n_parts;
    uint32_t        n_blocks;     /* of outputs, all parts */
    const int8_t   *q;            /* [n, n_in] */
    const float    *d;            /* [n, n_in / 32] */
    const float    *dsum;         /* [n, links] or NULL */
    uint32_t        n_in;
    uint32_t        n;            /* rows */
    uint32_t        ldy;
    int             add;
} cu_q8_args_t;

/* Whether one launch can do both matrices. */
int cu_linear_alike(const cu_weight_t *a, const cu_weight_t *b);
/* One launch for up to three matrices w of the q8 family that are alike;
 * row r of the i-th result is at y[i] + r * ldy. INFER_OK or INFER_DEVICE. */
int cu_linear_q8(const cu_dev_t *dev, const cu_weight_t *const *w,
    float *const *y, uint32_t n_parts, const cu_acts_t *a, uint32_t n,
    uint32_t ldy, int add);

/* y (+)= a w^T, equal bits to kern_linear_q8_ref(); chains in registers, any
 * number of rows. The launchers set n_blocks and block0. INFER_OK or
 * INFER_DEVICE. By forms: 4 bits; 8 bits; 8 bits with two scales. */
int cu_q8_tiles_n4(const cu_dev_t *dev, cu_q8_args_t *p, uint32_t form);
int cu_q8_tiles_b8(const cu_dev_t *dev, cu_q8_args_t *p, uint32_t form);
int cu_q8_tiles_s2(const cu_dev_t *dev, cu_q8_args_t *p, uint32_t form);
/* The same bits, for up to CU_SPLIT_MAX rows; half as many of the last. */
int cu_q8_split_n4(const cu_dev_t *dev, cu_q8_args_t *p, uint32_t form);
int cu_q8_split_b8(const cu_dev_t *dev, cu_q8_args_t *p, uint32_t form);
int cu_q8_split_s2(const cu_dev_t *dev, cu_q8_args_t *p, uint32_t form);

#ifdef __cplusplus
}
#endif

#endif
