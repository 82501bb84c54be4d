/*
 * model.h: a model file as the engine runs it: hyperparameters, what it
 * needs of memory, its weights packed by a kernel backend, and the forward
 * pass over one batch. Engine process only, except infer_model_inspect(),
 * which `ngx_infer_engine --check` runs too.
 */

#ifndef INFER_MODEL_MODEL_H
#define INFER_MODEL_MODEL_H

#include "kern.h"
#include "model/gguf.h"

/* Hyperparameters and sizes, read and checked without reading weights. */
typedef struct {
    char      arch[32];
    char      name[64];           /* general.name, cut; may be empty */
    uint32_t  n_layers, dim, n_heads, n_kv_heads, head_dim, ffn, vocab;
    uint32_t  train_context;      /* 0 when the file does not say */
    uint32_t  rope_dim;
    float     eps;
    uint64_t  n_params;
    uint64_t  tensor_bytes;       /* in the file, those that we use */
    uint64_t  kv_token_bytes;     /* KV of one token over all layers, f16 */
} infer_model_info_t;

/* UNSUPPORTED / CORRUPT with a sentence that names key or tensor. Checks
 * that every tensor the architecture needs is there with the right shape
 * and a type that we have. */
int infer_model_inspect(infer_gguf_t *gguf, infer_model_info_t *info,
    infer_err_t *err);

typedef struct infer_model_s  infer_model_t;

typedef struct {
    uint32_t     context;
    uint32_t     max_rows, max_outs, max_seqs;
    uint32_t     n_pages;
    uint32_t     kv_type;         /* KERN_KV_* */
    uint32_t     n_threads;
    const int   *cpus;            /* or NULL */
    /* of a device with a memory of its own, as in kern_shape_t */
    uint32_t     device;
    uint32_t     precision;       /* KERN_PREC_* */
    uint64_t     gpu_bytes;
    float        gpu_fraction;
    /* called with 0..100 while weights are packed; may be NULL */
    void       (*progress)(void *arg, int percent);
    void        *progress_arg;
    /* called with progress_arg and a sentence for each type of weights that
     * loses something; may be NULL */
    void       (*notice)(void *arg, const char *text);
    /* looked at between tensors: nonzero ends the load with CANCELLED */
    int        (*cancelled)(void *arg);
} infer_model_conf_t;

/* The matrices that infer_model_load() will pack, in its order; *list is the
 * caller's. */
int infer_model_tensors(const infer_gguf_t *gguf,
    const infer_model_info_t *info, kern_tensor_t **list, uint32_t *n,
    infer_err_t *err);

/* Loads and packs all weights. gguf may be closed afterwards; the file's
 * pages are given back (posix_fadvise). */
int infer_model_load(infer_model_t **model, infer_gguf_t *gguf,
    const kern_ops_t *ops, const infer_model_conf_t *conf, infer_err_t *err);
void infer_model_free(infer_model_t *model);
const infer_model_info_t *infer_model_info(const infer_model_t *model);
kern_ctx_t *infer_model_ctx(const infer_model_t *model);
const kern_ops_t *infer_model_ops(const infer_model_t *model);
/* KV pages that there are: at most the configured ones. */
uint32_t infer_model_pages(const infer_model_t *model);

/* Starts one batch through all layers and the head (model/forward.c), at most
 * ops->depth of them before the first is waited for. samples: outputs that the
 * device samples, where ops->sample is there. */
int infer_model_launch(infer_model_t *model, const kern_batch_t *batch,
    const kern_sample_t *samples, uint32_t n_samples);
/* Ends the oldest batch: its logits are in ops->logits(), what was sampled in
 * ops->sampled(). */
int infer_model_wait(infer_model_t *model);
/* Both, one batch at a time. */
int infer_model_forward(infer_model_t *model, const kern_batch_t *batch);

#endif
