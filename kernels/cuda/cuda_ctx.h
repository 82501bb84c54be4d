/*
 * cuda_ctx.h: the host side of the CUDA backend: one model on one device.
 * cuda_shape.c says what can be served, cuda_device.c finds the device,
 * cuda_ctx.c opens the context, cuda_arena.c cuts one allocation into weights,
 * activations, plan arrays and KV pages, cuda_load.c fills the weights, cuda_step.c takes a batch in and results out, cuda_graph.c
 * launches it, cuda_nvml.c watches the device's health.
 *
 * Two steps may be under way, so everything that a step has of its own is
 * in one of two cu_slot_t, used in turn. Three streams: `up` carries the
 * plan arrays of the next step while `run` computes, `down` carries logits
 * back; events order them. One thread calls; lifetime: process.
 *
 *   up     [plan k]        [plan k+1]
 *              \ uploaded       \ uploaded
 *   run         [kernels of k    ][kernels of k+1    ]
 *                                \ computed
 *   down                          [logits of k] done
 */

#ifndef KERN_CUDA_CTX_H
#define KERN_CUDA_CTX_H

#include <stdatomic.h>

#include "cpu_team.h"
#include "cuda.h"

#define CU_DEPTH        2
#define CU_BUCKETS      12       /* 1, 2, 4 .. 2048 sequences */
#define CU_ALIGN        256
#define CU_MAX_BIAS     (INFER_MAX_LOGIT_BIAS + INFER_MAX_STOP_IDS            \
                         + INFER_MAX_EOG)   /* edits beside tokens seen */

/* Stores the text of a failed call and returns from the function; sticky. */
#define KERN_CUDA_TRY(c, call)                                                \
    do {                                                                      \
        cudaError_t  try_rc = (call);                                         \
        if (try_rc != cudaSuccess) {                                          \
            return cu_failed(c, #call, try_rc);                               \
        }                                                                     \
    } while (0)

struct kern_weight_s {
    cu_weight_t  w;
    uint64_t     bytes;
};

typedef enum { CU_EMBED = 0, CU_ATTN, CU_FFN, CU_HEAD } cu_phase_e;

/* One recorded phase. Unused weights are NULL, so that two recordings can be
 * compared byte for byte. */
typedef struct {
    uint32_t              kind;        /* cu_phase_e */
    uint32_t              layer;
    const kern_weight_t  *w[4];
} cu_phase_t;

/* The arrays of a plan, at the same offsets in host and device memory. */
typedef struct {
    int32_t  *token, *row_seq, *row_pos;              /* [rows] */
    int32_t  *seq_row0, *seq_rows, *seq_pos0;         /* [seqs] */
    int32_t  *out_row, *sample_row;                   /* [outs] */
    int32_t  *table;                                  /* [seqs, pages] */
} cu_arrays_t;

/* What one of the two steps under way owns. */
typedef struct {
    uint8_t         *host, *dev;       /* plan arrays; host: pinned */
    cu_arrays_t      h, d;
    cu_sample_t     *h_sample, *d_sample;      /* [outs] */
    kern_edit_t     *h_edit, *d_edit;          /* [max_edits] */
    uint32_t        *h_mask, *d_mask;          /* [outs, mask_words] */
    int32_t         *sampled;                  /* device [outs] */
    cu_sampled_t    *h_out;                    /* pinned [outs] */
    float           *logits, *h_logits;        /* [outs, vocab] */
    kern_sampled_t  *result;                   /* [outs] */
    uint8_t         *asked;                    /* [outs] given to sample() */
    uint8_t         *fetched;                  /* [outs] in h_logits */
    cudaEvent_t      uploaded, computed, done;

    cu_plan_t        plan;
    int              bucket;           /* index, or -1: no graph */
    uint32_t         n_outs;           /* without padding */
    uint32_t         n_sampled;
    uint32_t         n_edits, n_mask_words;
    uint32_t         table_pages;      /* widest row of the table */
    int              in_flight;
} cu_slot_t;

typedef struct {
    cudaGraphExec_t  exec;
    cu_phase_t      *phase;            /* [n_phases] what was captured */
    uint32_t         n_phases;
} cu_graph_t;

typedef struct cu_nvml_s  cu_nvml_t;

/* What the device told when it was opened. */
typedef struct {
    int     index;
    char    name[64];
    char    pci[32];
    int     cc, n_sms;
    size_t  free_bytes, total_bytes;
} cu_device_t;

struct kern_ctx_s {
    kern_shape_t     shape;
    cu_device_t      device;
    cu_dev_t         dev;              /* dev.stream is `run` */
    cudaStream_t     up, down;
    cpu_team_t      *team;
    cu_nvml_t       *nvml;             /* or NULL */

    uint8_t         *arena;            /* the one device allocation */
    size_t           arena_bytes;
    uint8_t         *pinned;           /* and the one on the host */
    size_t           pinned_bytes;
    size_t           weight_bytes, weight_used;
    uint8_t         *weights;
    uint8_t         *kv;               /* [L, n_pages, G, head_bytes] */
    size_t           head_bytes;
    uint32_t         n_pages;

    uint32_t         rows, seqs, outs; /* room: shape's, up to a bucket */
    uint32_t         seq_pages;        /* of one sequence */
    uint32_t         max_edits, mask_words;
    size_t           plan_bytes;       /* of a slot's arrays */

    float           *norms;            /* [2 L + 1, D] */
    const float    **norm_from;        /* [2 L + 1] host vector there */
    float           *rope;
    float           *x, *qkv, *att, *gate_up;
    cu_acts_t        acts, acts_att, acts_hid;
    void            *attn_work, *sample_work;

    cu_phase_t      *phase;            /* [L * 2 + 2] of the step begun */
    uint32_t         n_phases, max_phases;
    cu_slot_t        slot[CU_DEPTH];
    uint32_t        *row_of;           /* [rows] place of a batch's row */
    uint64_t         n_submitted, n_waited;
    cu_graph_t       graph[CU_DEPTH][CU_BUCKETS][2];   /* [..][sampled] */
    int              no_graph;         /* tests: launch directly */
    uint64_t         n_graph_launches;

    struct cu_stage_s  *stage;         /* while weights are loaded */
    int              broken;
    char             error[256];
};

/* Remembers what failed; INFER_DEVICE. */
int cu_failed(kern_ctx_t *c, const char *call, cudaError_t rc);
/* The same for a launcher that returned `rc`; INFER_OK passes. */
int cu_launched(kern_ctx_t *c, const char *what, int rc);

/* ---- cuda_device.c ---- */

/* Makes device n this thread's and describes it. DEVICE with the sentence
 * for an operator: no driver, an old one, no device n, an old device. */
int cu_device_open(cu_device_t *d, uint32_t n, infer_err_t *err);

/* ---- cuda_shape.c ---- */

int cu_supports(const kern_shape_t *shape, infer_err_t *err);
int cu_loss(const kern_shape_t *shape, const kern_tensor_t *t, char *text,
    size_t len);
/* The same as cu_supports() for a device of compute capability cc;
 * *weight_bytes: of all packed tensors. */
int cu_shape_check(const kern_shape_t *s, int cc, size_t *weight_bytes,
    infer_err_t *err);
uint64_t cu_kv_page_bytes(const kern_shape_t *shape);

/* ---- cuda_arena.c ---- */

/* Room for rows, sequences and outputs, from the shape. */
void cu_arena_sizes(kern_ctx_t *c);
/* The device's allocation, all but the weights and pages zeroed; DEVICE with
 * a sentence when there is too little memory. */
int cu_arena_device(kern_ctx_t *c, infer_err_t *err);
/* Memory on the host, pinned and not. */
int cu_arena_host(kern_ctx_t *c, infer_err_t *err);
/* Both, also after a failure. */
void cu_arena_free(kern_ctx_t *c);
uint32_t cu_n_pages(const kern_ctx_t *c);

/* ---- cuda_ctx.c ---- */

int cu_open(kern_ctx_t **ctx, const kern_ops_t *ops,
    const kern_shape_t *shape, infer_err_t *err);
void cu_close(kern_ctx_t *c);
void cu_kv_zero(kern_ctx_t *c, uint32_t page);
const char *cu_error(kern_ctx_t *c);
void cu_parallel(kern_ctx_t *c, void (*fn)(void *arg, uint32_t i), void *arg,
    uint32_t n);

/* ---- cuda_load.c ---- */

int cu_pack(kern_ctx_t *c, kern_weight_t **w, const kern_src_t *src,
    infer_err_t *err);
void cu_weight_free(kern_ctx_t *c, kern_weight_t *w);
uint64_t cu_weight_bytes(const kern_weight_t *w);
/* Ends loading: waits for copies, frees staging memory. */
int cu_load_end(kern_ctx_t *c);

/* ---- cuda_step.c ---- */

int cu_begin(kern_ctx_t *c, const kern_batch_t *batch);
int cu_embed_phase(kern_ctx_t *c, const kern_weight_t *embd);
int cu_attn_phase(kern_ctx_t *c, uint32_t layer, const kern_layer_t *w);
int cu_ffn_phase(kern_ctx_t *c, uint32_t layer, const kern_layer_t *w);
int cu_head_phase(kern_ctx_t *c, const float *norm, const kern_weight_t *w);
int cu_sample_phase(kern_ctx_t *c, const kern_sample_t *s, uint32_t n);
int cu_submit(kern_ctx_t *c);
int cu_wait(kern_ctx_t *c);
float *cu_logits(kern_ctx_t *c, uint32_t out);
const kern_sampled_t *cu_sampled(kern_ctx_t *c, uint32_t out);

/* ---- cuda_graph.c ---- */

/* Sequences of bucket i; the least bucket for n, -1 beyond the last. */
static inline uint32_t
cu_bucket_seqs(int i)
{
    return 1u << i;
}
int cu_bucket(uint32_t n);
/* Launches all recorded phases of a slot's step on `run`, by a graph where
 * there is one for its bucket. */
int cu_run(kern_ctx_t *c, cu_slot_t *s);
void cu_graphs_free(kern_ctx_t *c);

/* ---- cuda_nvml.c ---- */

/* Watches the device with this PCI id from a thread of its own; NULL where
 * libnvidia-ml.so.1 or the device in it is not there. */
cu_nvml_t *cu_nvml_open(const char *pci);
void cu_nvml_close(cu_nvml_t *n);
int cu_nvml_read(cu_nvml_t *n, kern_health_t *h);
int cu_health(kern_ctx_t *c, kern_health_t *h);

#endif
