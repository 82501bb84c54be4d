/*
 * cuda.h: the contract between the host side of the CUDA backend (C: arena,
 * graphs, the kern_ops_t of cuda_ops.c) and its kernels (CUDA C++, one .cu
 * per family). Device memory only behind the pointers here unless said
 * otherwise; nothing here allocates, synchronizes or reads back.
 *
 *   embed -> [ norm -> qkv -> attend -> out (+x) ->
 *              norm -> gate/up + silu -> down (+x) ] x L -> norm -> head
 *                                                          -> sample
 *
 * A step's rows lie in fixed buffers, so that a captured graph can be
 * replayed: what differs from step to step is in cu_plan_t's arrays. Decode
 * steps are padded to a bucket; padded rows have row_seq -1, padded
 * sequences seq_rows 0, padded outputs out_row -1. Kernels do no work for
 * them or harmless work on finite data.
 *
 * Numerics: x, norms, attention and logits in f32. Quantized weights by the
 * q8 definition of kernels/ref: one s8 mma of 32 columns (16 where a type
 * has two scales a block) gives an exact sum, which is one link of an f32 fma
 * chain, blocks ascending, minima in a second chain added at the end: equal
 * bits to ref-q8 for any number of rows, in decode and prefill. No float
 * atomics anywhere; no result depends on the bucket or on other rows.
 * Everything is compiled with -fmad=false: a contraction is written as
 * fmaf().
 */

#ifndef KERN_CUDA_H
#define KERN_CUDA_H

#include <cuda_runtime_api.h>

#include "kern.h"

#ifdef __cplusplus
extern "C" {
#endif

/* How one launcher reaches the device. */
typedef struct {
    cudaStream_t  stream;
    int           n_sms;
    int           cc;             /* 10 * major + minor */
    int           pdl;            /* 1: programmatic dependent launch: the
                                   * kernel waits with dev_wait() before it
                                   * touches what its predecessor wrote */
    struct cu_blas_s  *blas;      /* blas.h; NULL: own kernels only */
    uint8_t           *work;      /* device scratch of one linear at a time,
                                   * cu_linear_work() bytes, aligned to 256;
                                   * NULL: prefill of some families slower */
    size_t             work_bytes;
} cu_dev_t;

#define CU_BLOCK       32         /* columns of one activation scale */
#define CU_CHUNK       128        /* keys of one attention chunk */
#define CU_MAX_SPLITS  64         /* parts of one sequence's attention */

/* ---- weights ---- */

/* What a linear reads of its activations, and with what arithmetic. */
typedef enum {
    CU_Q8 = 0,        /* s8 activations, one scale for 32; q8 definition */
    CU_BF16,          /* bf16 weights and activations, f32 sums */
    CU_F16,
    CU_W4A16,         /* 4 bits, one scale for 32..128, bf16 activations */
    CU_FP8,           /* e4m3, one scale a row of each; sm_89 on */
    CU_W8A8,          /* s8, one scale a row of each: for models made so */
    CU_N_FAMILIES
} cu_family_e;

/* Forms of the q8 family. Every quantized GGUF type is one of them without
 * loss; scales and minima are multiplied out to f32 where a type has 8-bit
 * ones, f16 elsewhere. */
typedef enum {
    CU_N4Z = 0,       /* nibble - 8, f16 scale             Q4_0 */
    CU_N4M,           /* nibble, f16 scale and minimum     Q4_1 */
    CU_N4S,           /* nibble, f32 scale and minimum     Q4_K */
    CU_B8H,           /* s8, f16 scale                     Q8_0, Q5_0, IQ4_NL */
    CU_B8HM,          /* s8, f16 scale and minimum         Q5_1 */
    CU_B8S,           /* s8, f32 scale                     Q8_K, IQ4_XS */
    CU_B8SM,          /* s8, f32 scale and minimum         Q5_K */
    CU_B8S2,          /* s8, two f32 scales                Q3_K, Q6_K */
    CU_B8SM2,         /* s8, two f32 scales and minima     Q2_K */
    CU_N_FORMS
} cu_form_e;

/* A packed matrix; by value into kernels. gemm.h says how data, scale and
 * min are laid out. */
typedef struct {
    const uint8_t  *data;
    const void     *scale;
    const void     *min;          /* or NULL */
    uint32_t        family;       /* cu_family_e */
    uint32_t        form;         /* cu_form_e, of the q8 family */
    uint32_t        n_out, n_in;
    uint32_t        group;        /* columns of a scale: W4A16 */
} cu_weight_t;

/* Family and form in which a GGUF type is served when the model is loaded
 * with `family` (CU_Q8: the default): INFER_UNSUPPORTED when none is.
 * *lossy: 1 when values are rounded. bytes: of data + scale + min, each
 * aligned to 256. Host; pack.c. */
int cu_pack_plan(uint32_t type, uint32_t n_out, uint32_t n_in,
    cu_family_e family, cu_weight_t *w, uint64_t *bytes, int *lossy);
/* Rows r0 .. r0 + n - 1 of a matrix (raw: their GGUF bytes) into the host
 * image of the packed matrix, `bytes` long; r0 and n multiples of
 * CU_PACK_ROWS except for the last. Several threads may pack at once.
 * INFER_OK or INFER_NOMEM. */
#define CU_PACK_ROWS  64
int cu_pack_rows(const cu_weight_t *w, uint32_t type, uint8_t *image,
    const uint8_t *raw, uint32_t r0, uint32_t n);
/* Points data, scale and min into a device copy of the image. */
void cu_pack_place(cu_weight_t *w, uint8_t *device);

/* ---- a step ---- */

typedef struct {
    uint32_t        n_rows;       /* of the launch, padding included */
    uint32_t        n_seqs;
    uint32_t        n_outs;
    uint32_t        max_pages;    /* entries of a sequence in table */
    uint32_t        n_decode;     /* the first of the sequences, one row
                                   * each, row i = sequence i; the others
                                   * prefill. Padding is decode. */
    uint32_t        max_rows;     /* most rows of one prefill sequence */
    uint32_t        max_keys;     /* most positions of any sequence after
                                   * this step; in a captured step the
                                   * context */
    const int32_t  *token;        /* [T] < 0: sampled[-1 - token] */
    const int32_t  *sampled;      /* [O] of the step before */
    const int32_t  *row_seq;      /* [T] or -1 */
    const int32_t  *row_pos;      /* [T] */
    const int32_t  *seq_row0;     /* [B] */
    const int32_t  *seq_rows;     /* [B] 0: padding */
    const int32_t  *seq_pos0;     /* [B] */
    const int32_t  *table;        /* [B, max_pages] */
    const int32_t  *out_row;      /* [O] or -1 */
} cu_plan_t;

/* Activations [T, n_in] of a linear; only what `family` needs is filled.
 * q8: as in kernels/cpu.h: q, d, and for minima dsum = d * sum(q) of the
 * block and of its halves. */
typedef struct {
    int8_t    *q;                 /* [T, n_in]          Q8, W8A8 */
    float     *d;                 /* [T, n_in / 32]     Q8 */
    float     *dsum;              /* [T, n_in / 32]     Q8 */
    float     *dsum2;             /* [T, n_in / 16]     Q8, two minima */
    uint16_t  *h;                 /* [T, n_in]          BF16, F16, W4A16 */
    uint8_t   *f8;                /* [T, n_in]          FP8 */
    float     *row;               /* [T] scale of a row FP8, W8A8 */
    uint32_t   n_in;
} cu_acts_t;

/* Bits of `want` below: 1 << cu_family_e. */

/* x[t, :] = embedding row of token t, f32; embd: any family. */
int cu_embed(const cu_dev_t *dev, const cu_weight_t *embd,
    const cu_plan_t *p, float *x);

/* a = quantized(rmsnorm(x) * w) for the families in want. rows: NULL, or
 * row i of a is row rows[i] of x (-1: skipped), n of them. */
int cu_norm(const cu_dev_t *dev, const float *x, const float *w, float eps,
    const int32_t *rows, uint32_t n, uint32_t dim, uint32_t want,
    const cu_acts_t *a);

/* a = quantized(x), [n, dim]. */
int cu_quantize(const cu_dev_t *dev, const float *x, uint32_t n,
    uint32_t dim, uint32_t want, const cu_acts_t *a);

/* y[t, ld0 + ...] for up to three matrices with one n_in, whose outputs
 * follow each other in a row of y (q, k, v): y = or y += a W^T. ldy: floats
 * of a row of y. Families may differ. n: rows. */
typedef struct {
    const cu_weight_t  *w[3];     /* host pointers, NULL from the end */
    float              *y;
    uint32_t            ldy;
    int                 add;
} cu_linear_t;
int cu_linear(const cu_dev_t *dev, const cu_linear_t *l, const cu_acts_t *a,
    uint32_t n);

/* out = quantized(silu(gate a) * (up a)) for the families in want; scratch:
 * [n, 2 F] f32. One launch where gate and up are of one family and form but not
 * q8, want names none of FP8 and W8A8, and there are up to 64 rows. */
int cu_gate_up(const cu_dev_t *dev, const cu_weight_t *gate,
    const cu_weight_t *up, const cu_acts_t *a, uint32_t n, uint32_t want,
    const cu_acts_t *out, float *scratch);

/* Bytes of dev->work with which a linear of n rows runs at its best; the
 * most over all matrices is what the arena sets aside. 0: none. Host. */
size_t cu_linear_work(const cu_weight_t *w, uint32_t n);

/* Whether kernels for these weights exist on a device of this kind; a
 * sentence when not. */
int cu_linear_supports(const cu_weight_t *w, int cc, infer_err_t *err);

/* ---- attention ---- */

/* KV of one layer: page p, head g at kv + (p * G + g) * head_bytes. A head:
 * K [32 tokens][K], V [32 tokens][K] in the type, then for q8 f16 scales of
 * K [32 tokens][ceil(K / 32)] and of V. fp8: e4m3 with the same scales. */
typedef struct {
    uint8_t   *kv;
    size_t     head_bytes;
    uint32_t   type;              /* KERN_KV_* */
    uint32_t   n_heads, n_kv_heads, head_dim, rope_dim;
    const float *rope;            /* [S, rope_dim / 2] cos, sin pairs, the
                                   * attention scale multiplied in */
} cu_attn_t;

size_t cu_kv_head_bytes(uint32_t type, uint32_t head_dim);
/* UNSUPPORTED with a sentence. */
int cu_attn_supports(const cu_attn_t *a, int cc, infer_err_t *err);
/* Bytes of work for up to max_seqs decode sequences. The host zeroes the
 * first CU_ATTN_ZERO of them once; kernels leave them so. */
#define CU_ATTN_ZERO  (1u << 18)
size_t cu_attn_work(uint32_t max_seqs, uint32_t n_heads, uint32_t head_dim);

/* RoPE of q and k, K and V into the pages, attention, all rows. qkv f32
 * [T, (H + 2 G) K], rotated in place or not, as the kernel likes. out f32
 * [T, H K] and, for the families in want, its quantized form in acts. */
int cu_attend(const cu_dev_t *dev, const cu_attn_t *a, const cu_plan_t *p,
    float *qkv, float *out, uint32_t want, const cu_acts_t *acts,
    void *work);

/* ---- sampling ---- */

/* What one output row is sampled with, as the host uploads it. */
typedef struct {
    uint64_t  seed;
    float     temperature, top_p, min_p;
    float     repetition, presence, frequency;
    int32_t   top_k;
    uint32_t  n_out, choice;      /* Philox counter */
    uint32_t  first_edit;         /* in the step's edit array */
    uint32_t  n_bias, n_ban, n_seen;  /* edits, in this order */
    uint32_t  top_logprobs;
    uint32_t  want;               /* 1: logprob of the token */
    uint32_t  mask_off;           /* words from mask: bit i allows id i;
                                   * UINT32_MAX: everything */
} cu_sample_t;

/* What comes back; KERN_SAMPLED_TOP pairs. The host turns raw logits and the
 * f64 sum into logprobs, so that log() is libm's there too. */
typedef struct {
    int32_t   id;
    int32_t   rc;                 /* INFER_* */
    float     logit;              /* raw, of id */
    float     max;                /* raw */
    double    sum;                /* of exp(l - max), CPU's order */
    int32_t   top_id[INFER_MAX_TOP_LOGPROBS];
    float     top_logit[INFER_MAX_TOP_LOGPROBS];
} cu_sampled_t;

/* Host (sample_host.c): what kern_ops_t.sample() is asked for, for the
 * device. Its edits are put behind edit[*n_edits], its mask (KERN_MASK_WORDS
 * of the vocabulary) behind mask[*n_words]; both counts go up. */
void cu_sample_pack(const kern_sample_t *s, uint32_t vocab, cu_sample_t *to,
    kern_edit_t *edit, uint32_t *n_edits, uint32_t *mask, uint32_t *n_words);
/* And what came back for it. */
void cu_sample_unpack(const cu_sampled_t *from, const cu_sample_t *s,
    kern_sampled_t *to);

/* Of work: all zero before the first call, then left to cu_sample(). */
size_t cu_sample_work(uint32_t max_outs, uint32_t vocab);
/* logits [O, V] f32, left as they are; row i is skipped where out_row[i] < 0
 * (padding, or sampled by the host). sampled[i] gets the id, 0 when the row
 * fails (for the next step's embed), out[i] everything; out may be pinned
 * host memory. Four launches. */
int cu_sample(const cu_dev_t *dev, const float *logits, uint32_t vocab,
    uint32_t n_outs, const int32_t *out_row, const cu_sample_t *s,
    const kern_edit_t *edit, const uint32_t *mask, int32_t *sampled,
    cu_sampled_t *out, void *work);

#ifdef __cplusplus
}
#endif

#endif
