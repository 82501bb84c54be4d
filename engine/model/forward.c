/*
 * forward.c: one pass of a batch through the model, recorded phase by phase
 * and then run by the backend. The only caller of the phases of kern_ops_t;
 * knows neither policy nor layouts. No allocation.
 */

#include "model/model_impl.h"


/* Attention and feed-forward of one layer, each with its norm in front and
 * its residual behind. */
static int
forward_layer(infer_model_t *m, uint32_t l)
{
    int rc = m->ops->attn(m->ctx, l, &m->layer[l]);

    return rc == INFER_OK ? m->ops->ffn(m->ctx, l, &m->layer[l]) : rc;
}


/* The last norm and the logits of the rows that want them. */
static int
forward_head(infer_model_t *m)
{
    const float *norm = m->norms + (size_t) (2 * m->n_layers) * m->info.dim;

    return m->ops->head(m->ctx, norm, m->head != NULL ? m->head : m->embed);
}


int
infer_model_launch(infer_model_t *m, const kern_batch_t *batch,
    const kern_sample_t *samples, uint32_t n_samples)
{
    const kern_ops_t *ops = m->ops;
    int rc = ops->begin(m->ctx, batch);

    if (rc == INFER_OK) {
        rc = ops->embed(m->ctx, m->embed);
    }

    for (uint32_t l = 0; rc == INFER_OK && l < m->n_layers; l++) {
        rc = forward_layer(m, l);
    }

    if (rc == INFER_OK) {
        rc = forward_head(m);
    }

    if (rc == INFER_OK && n_samples != 0) {
        rc = ops->sample(m->ctx, samples, n_samples);
    }

    return rc == INFER_OK ? ops->submit(m->ctx) : rc;
}


int
infer_model_wait(infer_model_t *m)
{
    return m->ops->wait(m->ctx);
}


int
infer_model_forward(infer_model_t *m, const kern_batch_t *batch)
{
    int rc = infer_model_launch(m, batch, NULL, 0);

    return rc == INFER_OK ? infer_model_wait(m) : rc;
}
