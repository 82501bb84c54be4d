/*
 * kern.h: the only door to the kernels. A backend is one kern_ops_t; the
 * engine's forward pass is its only caller and never sees a layout, an ISA
 * or a thread.
 *
 * A step is recorded and then run: begin() takes the batch, embed / attn /
 * ffn / head append one fused phase each, submit() starts the whole list
 * and wait() returns when the logits are there. The CPU backends run the
 * list SPMD over a team of threads with spin barriers between phases; the
 * calling thread is thread 0 of the team. A device backend enqueues.
 *
 * Numerics (DESIGN.md 4): the bits of a row's logits depend on that row's
 * own tokens alone, not on the batch, the chunking of its prompt, prefill
 * or decode, or the number of threads. Two definitions exist in ref/: f32
 * activations, and q8 activations, which every quantized CPU level equals
 * bit for bit in linears.
 *
 * Ownership: whatever open, pack or vec returns belongs to the caller, who
 * gives it back with close / weight_free. Pointers in kern_batch_t must
 * stay valid until wait() returns.
 */

#ifndef KERN_H
#define KERN_H

#include <stddef.h>
#include <stdint.h>

#include "infer.h"

#ifdef __cplusplus
extern "C" {
#endif


/* Tensor types, numbered as in GGUF files. */
enum {
    KERN_F32 = 0,
    KERN_F16 = 1,
    KERN_Q4_0 = 2,
    KERN_Q4_1 = 3,
    KERN_Q5_0 = 6,
    KERN_Q5_1 = 7,
    KERN_Q8_0 = 8,
    KERN_Q2_K = 10,
    KERN_Q3_K = 11,
    KERN_Q4_K = 12,
    KERN_Q5_K = 13,
    KERN_Q6_K = 14,
    KERN_Q8_K = 15,
    KERN_IQ4_NL = 20,
    KERN_IQ4_XS = 23,
    KERN_BF16 = 30
};

/* Values per block and bytes per block of a type; both 0 when the type is
 * none of those above. */
void kern_type_layout(uint32_t type, uint32_t *block_values,
    uint32_t *block_bytes);
const char *kern_type_name(uint32_t type);

/* Types of KV pages. q8: int8 with one f16 scale for each token, head and
 * block of 32 values. */
enum {
    KERN_KV_F16 = 0,
    KERN_KV_BF16 = 1,
    KERN_KV_Q8 = 2,
    KERN_KV_FP8 = 3,              /* e4m3, the same scales; CUDA only */
    KERN_N_KV_TYPES,
    KERN_N_CPU_KV = KERN_KV_FP8   /* the first ones, which CPUs have */
};

/* "f16", "bf16", "q8", "fp8"; NULL when there is no such type. */
const char *kern_kv_name(uint32_t type);
/* The type of that name; -1 when there is none. */
int kern_kv_type(const char *name);

#define KERN_PAGE_TOKENS  32    /* tokens of one KV page, all layers */
#define KERN_MAX_THREADS  256

/* What weights and activations are computed in on a device that has a
 * choice; numbered as cu_family_e. */
enum {
    KERN_PREC_Q8 = 0,             /* as the CPU; the default */
    KERN_PREC_BF16, KERN_PREC_F16, KERN_PREC_W4A16, KERN_PREC_FP8,
    KERN_PREC_W8A8,
    KERN_N_PRECS
};

/* "q8", "bf16", "f16", "w4a16", "fp8", "w8a8", as kern_kv_name(). */
const char *kern_prec_name(uint32_t prec);
int kern_prec(const char *name);

typedef struct kern_ctx_s     kern_ctx_t;      /* one model on one device */
typedef struct kern_weight_s  kern_weight_t;   /* packed [n_out, n_in] */
typedef struct kern_ops_s     kern_ops_t;

/* A matrix that pack() will get. */
typedef struct {
    uint32_t  type;               /* KERN_* */
    uint32_t  n_out, n_in;
} kern_tensor_t;

/* What open() needs to size everything; a copy is kept. */
typedef struct {
    uint32_t      n_layers;
    uint32_t      dim;            /* D, % 32 == 0 */
    uint32_t      n_heads;        /* H, % n_kv_heads == 0 */
    uint32_t      n_kv_heads;     /* G */
    uint32_t      head_dim;       /* K, % 2 == 0, <= 256, H*K % 32 == 0 */
    uint32_t      ffn;            /* F, % 32 == 0 */
    uint32_t      vocab;          /* V */
    uint32_t      rope_dim;       /* <= head_dim, even; the rest is copied */
    const float  *rope_inv_freq;  /* [rope_dim / 2], scaling applied; copied */
    float         rope_attn_scale;/* multiplies sin and cos; 1 usually */
    float         eps;
    uint32_t      max_rows;       /* T, rows of one step */
    uint32_t      max_outs;       /* rows of one step that need logits */
    uint32_t      max_seqs;       /* sequences of one step */
    uint32_t      context;        /* S, highest position + 1 */
    uint32_t      n_pages;        /* KV pages; memory touched at first use */
    uint32_t      kv_type;        /* KERN_KV_* */
    uint32_t      n_threads;      /* >= 1, the caller included */
    const int    *cpus;           /* [n_threads] or NULL: not pinned; copied */
    /* of devices with a memory of their own; else not looked at */
    uint32_t      device;         /* its number */
    uint32_t      precision;      /* KERN_PREC_* */
    uint64_t      gpu_bytes;      /* that may be taken; 0: gpu_fraction */
    float         gpu_fraction;   /* of what is free at open; 0: 0.9 */
    const kern_tensor_t  *tensor; /* [n_tensors] in the order of pack(); only
                                   * read by open and supports */
    uint32_t      n_tensors;
} kern_shape_t;

/* Where the raw bytes of a tensor come from. read() copies len bytes at
 * offset off of the tensor into buf and may be called from several threads
 * at once; it returns INFER_OK or an error. */
typedef struct {
    uint32_t    type;             /* KERN_* */
    uint32_t    n_out;            /* rows */
    uint32_t    n_in;             /* columns, contiguous in the file */
    int       (*read)(void *arg, void *buf, size_t len, uint64_t off);
    void       *arg;
} kern_src_t;

/* One sequence of a step: rows first_row .. first_row + n_rows - 1 hold
 * consecutive positions pos0, pos0 + 1, ...; all earlier positions are in
 * the pages already. pages[p / KERN_PAGE_TOKENS] is the page of position p. */
typedef struct {
    uint32_t         first_row;
    uint32_t         n_rows;
    uint32_t         pos0;
    const uint32_t  *pages;
} kern_seq_t;

/* As a token: what output k of the step submitted before this one sampled.
 * Only where ops->sample is there and that output was given to it. */
#define KERN_TOKEN_OF(k)  (-1 - (int32_t) (k))

typedef struct {
    uint32_t           n_rows;
    const int32_t     *token;     /* [n_rows], each in 0 .. vocab - 1, or
                                   * KERN_TOKEN_OF() */
    uint32_t           n_seqs;    /* cover all rows, ascending first_row */
    const kern_seq_t  *seq;
    uint32_t           n_outs;
    const uint32_t    *out_row;   /* [n_outs] rows that need logits */
} kern_batch_t;

/* Weights of one layer. norm weights are f32 vectors from ops->vec(). */
typedef struct {
    const float          *attn_norm;   /* [dim] */
    const kern_weight_t  *wq;          /* [H*K, dim] */
    const kern_weight_t  *wk, *wv;     /* [G*K, dim] */
    const kern_weight_t  *wo;          /* [dim, H*K] */
    const float          *ffn_norm;    /* [dim] */
    const kern_weight_t  *gate, *up;   /* [ffn, dim] */
    const kern_weight_t  *down;        /* [dim, ffn] */
} kern_layer_t;

/* A logit that a request changes: bias (value is added), ban (-inf) or a
 * token that was seen (value: how often in the output). */
typedef struct {
    int32_t  id;
    float    value;
} kern_edit_t;

#define KERN_MAX_EDITS      8192    /* of one output: what has more is not
                                     * given to sample() */
#define KERN_MASK_WORDS(v)  (((v) + 31) / 32)

/* How one output row is sampled on the device (DESIGN.md 4). edit: n_bias,
 * then n_ban, then n_seen of them, ids in range, those of the seen distinct;
 * mask: bit i allows id i, or NULL. */
typedef struct {
    uint32_t                 out;         /* index in the batch's outputs */
    uint32_t                 n_out;       /* tokens before this one */
    uint32_t                 choice;
    uint32_t                 n_bias, n_ban, n_seen;
    const infer_sampling_t  *params;
    const kern_edit_t       *edit;
    const uint32_t          *mask;
} kern_sample_t;

typedef struct {
    int32_t      rc;              /* INFER_OK, or what infer_sample() says */
    int32_t      id;
    float        logprob;         /* 0 when none was asked for */
    infer_top_t  top[INFER_MAX_TOP_LOGPROBS];  /* -1: no more tokens */
} kern_sampled_t;

/* How a device is, as its driver tells; negative: not known. */
typedef struct {
    int32_t  temperature_c;
    int32_t  utilization;         /* percent */
    int64_t  memory_used, memory_total;    /* bytes, by everybody */
    int32_t  power_mw;
} kern_health_t;

struct kern_ops_s {
    const char  *name;            /* as in kern_init(); "ref-f32" for ref */
    uint32_t     numerics;        /* see kern_numerics(), < 256 */
    uint32_t     depth;           /* steps between submit() and wait(): 1
                                   * here, 2 where a step may be begun and
                                   * submitted while the one before runs;
                                   * begin() and sample() then copy what
                                   * they are given, and steps and kv_zero()
                                   * happen in the order of the calls */

    /* Whether the shape can be served, as far as that is known without
     * touching the device; UNSUPPORTED with a sentence. NULL: open() says
     * so. */
    int   (*supports)(const kern_shape_t *shape, infer_err_t *err);

    /* 1 when values of a matrix are rounded as pack() stores it, with one
     * sentence about what is lost in text (of len bytes); else 0. NULL:
     * never. */
    int   (*loss)(const kern_shape_t *shape, const kern_tensor_t *t,
              char *text, size_t len);

    /* Starts the team (sleeping), allocates scratch for the shape.
     * UNSUPPORTED with a sentence when the shape cannot be served, DEVICE
     * when the device is not there, too old or has not enough memory. A
     * device with a memory of its own takes at most n_pages: see n_pages
     * below. */
    int   (*open)(kern_ctx_t **ctx, const kern_ops_t *ops,
              const kern_shape_t *shape, infer_err_t *err);
    void  (*close)(kern_ctx_t *ctx);

    /* Repacks one matrix, in parallel over the team. Source bytes are not
     * needed afterwards. */
    int   (*pack)(kern_ctx_t *ctx, kern_weight_t **w, const kern_src_t *src,
              infer_err_t *err);
    void  (*weight_free)(kern_ctx_t *ctx, kern_weight_t *w);
    uint64_t (*weight_bytes)(const kern_weight_t *w);

    /* Phases of a step, called by one thread, in this order. layer counts
     * from 0 and selects the KV storage. */
    int   (*begin)(kern_ctx_t *ctx, const kern_batch_t *batch);
    int   (*embed)(kern_ctx_t *ctx, const kern_weight_t *embd);
    int   (*attn)(kern_ctx_t *ctx, uint32_t layer, const kern_layer_t *w);
    int   (*ffn)(kern_ctx_t *ctx, uint32_t layer, const kern_layer_t *w);
    int   (*head)(kern_ctx_t *ctx, const float *norm, const kern_weight_t *w);
    /* Outputs that the device samples, after head(); NULL where the host
     * does it from logits(). Outputs not named keep their logits only. */
    int   (*sample)(kern_ctx_t *ctx, const kern_sample_t *s, uint32_t n);
    int   (*submit)(kern_ctx_t *ctx);
    /* Ends the oldest step that was submitted. DEVICE is sticky. */
    int   (*wait)(kern_ctx_t *ctx);

    /* Row i of the last awaited step's outputs, [vocab] f32, host memory,
     * writable, valid until the next begin() (with depth 2: until the next
     * but one). NULL when it cannot be had. */
    float *(*logits)(kern_ctx_t *ctx, uint32_t out_idx);
    /* What sample() was asked for output i of that step. */
    const kern_sampled_t *(*sampled)(kern_ctx_t *ctx, uint32_t out_idx);
    /* Text of a DEVICE error, for the log; NULL or never NULL's result. */
    const char *(*error)(kern_ctx_t *ctx);

    /* KV pages. page_bytes: memory of one page over all layers (pages never
     * touched cost nothing). kv_zero before a page's first use in a life. */
    uint64_t (*kv_page_bytes)(const kern_shape_t *shape);
    /* Pages that there are, when memory decided; NULL: all of the shape's. */
    uint32_t (*n_pages)(const kern_ctx_t *ctx);
    void  (*kv_zero)(kern_ctx_t *ctx, uint32_t page);

    /* What was last heard of the device, without waiting; AGAIN when nothing
     * can be. NULL where there is nothing to tell. */
    int   (*health)(kern_ctx_t *ctx, kern_health_t *h);

    /* Host work for sampling: calls fn(arg, i) for i in 0 .. n - 1, spread
     * over the team, returns when all are done. */
    void  (*parallel)(kern_ctx_t *ctx, void (*fn)(void *arg, uint32_t i),
              void *arg, uint32_t n);

    /* Vector helpers, equal bits at every level.
     * argmax: lowest index of the largest value; NaN never wins; -1 when all
     * are NaN or -inf.
     * exp_row: y[i] = kern_exp(x[i] - sub) (one polynomial, f32; exact 0
     * below -87; NaN for NaN). y may equal x. */
    int32_t (*argmax)(const float *x, size_t n);
    void  (*exp_row)(float *y, const float *x, float sub, size_t n);
};

/* Equal ids give equal bits, on the same build. */
static inline uint32_t
kern_numerics(const kern_ops_t *ops, uint32_t kv_type)
{
    return ops->numerics | kv_type << 8;
}

/* The definition of exp everywhere (kernels/ref). */
float kern_exp(float x);

/*
 * Chooses a backend. isa: NULL or "auto" takes the best that this machine
 * has; "ref" (f32 activations), "ref-q8", "avx2", "avxvnni",
 * "vnni256" (the same for AVX-512 machines), "avx512", "neon" force one:
 * UNSUPPORTED with a sentence when the machine cannot run it. The table is
 * constant and belongs to the kernels. device: "cpu", or "cuda[:N]" from the
 * plugin libngx_infer_cuda.so (kern_plugin.c), which is never unloaded.
 */
const kern_ops_t *kern_init(const char *device, const char *isa,
    infer_err_t *err);

/* The number N of "cuda:N", 0 of "cuda" and "cpu"; -1 when there is no such
 * device syntax. */
int kern_device(const char *device);

#ifdef __cplusplus
}
#endif

#endif
