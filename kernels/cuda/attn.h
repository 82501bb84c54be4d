/*
 * attn.h: what the attention files share: attend.cu (dispatch, rotation and append), attn_decode*.cu
 * (one row a sequence), attn_prefill*.cu (tiles of rows), attn_any.cu (any head size, slow).
 * C++, inside kernels/cuda only.
 *
 * Definition. Scores and sums in f32 from K and V as they are in the pages; weights are powers of
 * two, dev_exp2((s - m) log2 e), log2 e being part of the query's scale. Decode: chunks of CU_CHUNK
 * keys at absolute positions, each from a fresh (m, l, o); up to CU_MAX_SPLITS parts of a sequence,
 * whose size in chunks depends on its own length alone, merged ascending. So the bits of a row
 * depend on its sequence only, not on how parts are spread over blocks.
 */

#ifndef KERN_CUDA_ATTN_H
#define KERN_CUDA_ATTN_H

#include "cuda.h"

/* Head sizes with kernels of their own; others take attn_any.cu. */
#define ATTN_MAX_DIM  256

/* One call of cu_attend(), by value into kernels. */
typedef struct {
    cu_attn_t      a;
    cu_plan_t      p;
    cu_acts_t      acts;
    const float   *qkv;           /* [T, ld] */
    float         *out;           /* [T, H K] */
    int           *count;         /* [B, G] blocks that are done; 0 between launches */
    float         *part_o;        /* [B, G, CU_MAX_SPLITS, H / G, K] */
    float         *part_ml;       /* [B, G, CU_MAX_SPLITS, H / G, 2] */
    uint32_t       want;          /* families that the kernel itself quantizes for */
    uint32_t       ld;            /* floats of a row of qkv */
    float          scale;         /* of a query: log2 e / sqrt(K) */
} attn_job_t;

/* Whether head_dim has decode and prefill kernels of its own. */
static inline int
attn_is_fast(uint32_t head_dim)
{
    return head_dim == 64 || head_dim == 80 || head_dim == 96 || head_dim == 128
           || head_dim == 256;
}

/* Families that attn_put() writes: no scale of a row, and no block of 32 over two heads. */
static inline uint32_t
attn_fused(uint32_t want, uint32_t head_dim)
{
    return head_dim % CU_BLOCK == 0
           ? want & (1u << CU_Q8 | 1u << CU_BF16 | 1u << CU_F16 | 1u << CU_W4A16) : 0;
}

/* Launchers; INFER_OK, UNSUPPORTED or DEVICE. Decode: the plan's first n_decode sequences, with
 * rotation, append and quantization. Prefill: the other sequences, whose keys and values are in the
 * pages; out only. Any: out of all rows, keys and values in the pages. */
int attn_decode_16(const cu_dev_t *dev, const attn_job_t *job);
int attn_decode_8(const cu_dev_t *dev, const attn_job_t *job);
int attn_prefill_f16(const cu_dev_t *dev, const attn_job_t *job);
int attn_prefill_bf16(const cu_dev_t *dev, const attn_job_t *job);
int attn_prefill_8(const cu_dev_t *dev, const attn_job_t *job);
int attn_any(const cu_dev_t *dev, const attn_job_t *job);

#endif
