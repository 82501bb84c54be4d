/*
 * model_impl.h: what the files of a model share: inspect.c reads and checks
 * hyperparameters and tensors, model.c loads weights, forward.c runs them.
 * Nobody else includes this.
 */

#ifndef INFER_MODEL_MODEL_IMPL_H
#define INFER_MODEL_MODEL_IMPL_H

#include "model/model.h"

/* Tensors of one layer, in the order in which a step uses them. */
enum {
    MODEL_ATTN_NORM = 0, MODEL_WQ, MODEL_WK, MODEL_WV, MODEL_WO,
    MODEL_FFN_NORM, MODEL_GATE, MODEL_UP, MODEL_DOWN,
    MODEL_LAYER_TENSORS
};

/* Tensors outside the layers. */
enum {
    MODEL_EMBED = MODEL_LAYER_TENSORS, MODEL_OUT_NORM,
    MODEL_HEAD,                   /* optional: else the embedding is used */
    MODEL_ROPE_FREQS,             /* optional */
    MODEL_TENSORS
};

typedef struct {
    float   inv_freq[128];        /* [rope_dim / 2] */
    float   attn_scale;
} model_rope_t;

struct infer_model_s {
    infer_model_info_t   info;
    const kern_ops_t    *ops;
    kern_ctx_t          *ctx;
    uint32_t             n_layers;      /* 0 until layer[] is there */
    kern_layer_t        *layer;         /* [n_layers] */
    float               *norms;         /* [2 * n_layers + 1, dim] */
    kern_weight_t       *embed;
    kern_weight_t       *head;          /* NULL: tied */
    uint32_t             n_pages;
};

/* The tensor `which` (of layer l) with its shape and type checked. *t is
 * NULL, with OK, when an optional one is not there. */
int infer_model_tensor(const infer_gguf_t *g, const infer_model_info_t *info,
    int which, uint32_t l, const infer_gguf_tensor_t **t, infer_err_t *err);

/* Rotation frequencies with the file's scaling applied. */
int infer_model_rope(const infer_gguf_t *g, const infer_model_info_t *info,
    model_rope_t *rope, infer_err_t *err);

#endif
