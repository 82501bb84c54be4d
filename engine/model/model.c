/*
 * model.c: loads a model: opens a kernel context for its shape and packs
 * every weight into it, in the order in which a step uses them. A model
 * lives as long as the engine process; only the loop thread calls in here.
 */

#include "model/model_impl.h"

#include <string.h>

/* One load in progress. */
typedef struct {
    infer_model_t             *m;
    const infer_gguf_t        *g;
    const infer_model_conf_t  *conf;
    infer_err_t               *err;
    uint64_t                   done_bytes;
} model_load_t;

typedef struct {
    const infer_gguf_t         *g;
    const infer_gguf_tensor_t  *t;
} model_src_t;


static int
model_read(void *arg, void *buf, size_t len, uint64_t off)
{
    const model_src_t *src = arg;

    return infer_gguf_read(src->g, src->t, buf, len, off);
}


/* After each tensor: its pages of the file go back, progress is told. */
static int
model_loaded(model_load_t *ld, const infer_gguf_tensor_t *t)
{
    const infer_model_conf_t *conf = ld->conf;

    infer_gguf_drop(ld->g, t);
    ld->done_bytes += t->bytes;

    if (conf->progress != NULL) {
        conf->progress(conf->progress_arg,
                       (int) (100 * ld->done_bytes
                              / ld->m->info.tensor_bytes));
    }

    if (conf->cancelled != NULL && conf->cancelled(conf->progress_arg)) {
        return infer_err(ld->err, INFER_CANCELLED, "loading was cancelled");
    }

    return INFER_OK;
}


/* Packs a matrix; *w stays NULL when an optional one is not there. */
static int
model_load_matrix(model_load_t *ld, int which, uint32_t l, kern_weight_t **w)
{
    const infer_gguf_tensor_t *t;
    infer_model_t *m = ld->m;
    int rc = infer_model_tensor(ld->g, &m->info, which, l, &t, ld->err);

    if (rc != INFER_OK || t == NULL) {
        return rc;
    }

    model_src_t src = { .g = ld->g, .t = t };
    const kern_src_t ksrc = {
        .type = t->type, .n_out = (uint32_t) t->dim[1],
        .n_in = (uint32_t) t->dim[0], .read = model_read, .arg = &src
    };

    infer_err_t why = { 0, "" };

    rc = m->ops->pack(m->ctx, w, &ksrc, &why);
    if (rc != INFER_OK) {
        return infer_err(ld->err, rc, "tensor \"%s\": %s", t->name,
                         why.text[0] ? why.text : "cannot be read");
    }

    return model_loaded(ld, t);
}


static int
model_load_vector(model_load_t *ld, int which, uint32_t l, float *v)
{
    const infer_gguf_tensor_t *t;
    int rc = infer_model_tensor(ld->g, &ld->m->info, which, l, &t, ld->err);

    if (rc != INFER_OK) {
        return rc;
    }

    if (infer_gguf_read(ld->g, t, v, t->bytes, 0) != INFER_OK) {
        return infer_err(ld->err, INFER_CORRUPT,
                         "tensor \"%s\" cannot be read", t->name);
    }

    return model_loaded(ld, t);
}


static int
model_load_layer(model_load_t *ld, uint32_t l)
{
    infer_model_t *m = ld->m;
    kern_layer_t *w = &m->layer[l];
    float *attn_norm = m->norms + (size_t) (2 * l) * m->info.dim;
    float *ffn_norm = attn_norm + m->info.dim;
    int rc = model_load_vector(ld, MODEL_ATTN_NORM, l, attn_norm);

    if (rc == INFER_OK) {
        rc = model_load_vector(ld, MODEL_FFN_NORM, l, ffn_norm);
    }

    w->attn_norm = attn_norm;
    w->ffn_norm = ffn_norm;

    const struct {
        int                    which;
        const kern_weight_t  **w;
    } part[] = {
        { MODEL_WQ, &w->wq }, { MODEL_WK, &w->wk }, { MODEL_WV, &w->wv },
        { MODEL_WO, &w->wo }, { MODEL_GATE, &w->gate },
        { MODEL_UP, &w->up }, { MODEL_DOWN, &w->down }
    };

    for (size_t i = 0; i < sizeof(part) / sizeof(part[0]); i++) {
        kern_weight_t *packed = NULL;

        if (rc == INFER_OK) {
            rc = model_load_matrix(ld, part[i].which, l, &packed);
            *part[i].w = packed;
        }
    }

    return rc;
}


static int
model_load_weights(model_load_t *ld)
{
    infer_model_t *m = ld->m;
    uint32_t n_layers = m->info.n_layers;
    int rc;

    m->layer = calloc(n_layers, sizeof(kern_layer_t));
    m->norms = calloc((size_t) (2 * n_layers + 1) * m->info.dim,
                      sizeof(float));

    if (m->layer == NULL || m->norms == NULL) {
        return infer_err(ld->err, INFER_NOMEM, "no memory for %u layers",
                         n_layers);
    }

    m->n_layers = n_layers;

    rc = model_load_matrix(ld, MODEL_EMBED, 0, &m->embed);

    for (uint32_t l = 0; rc == INFER_OK && l < n_layers; l++) {
        rc = model_load_layer(ld, l);
    }

    if (rc == INFER_OK) {
        rc = model_load_vector(ld, MODEL_OUT_NORM, 0,
                               m->norms
                               + (size_t) (2 * n_layers) * m->info.dim);
    }

    return rc == INFER_OK
           ? model_load_matrix(ld, MODEL_HEAD, 0, &m->head) : rc;
}


int
infer_model_tensors(const infer_gguf_t *g, const infer_model_info_t *info,
    kern_tensor_t **list, uint32_t *n, infer_err_t *err)
{
    static const int part[] = {
        MODEL_WQ, MODEL_WK, MODEL_WV, MODEL_WO, MODEL_GATE, MODEL_UP,
        MODEL_DOWN
    };
    const uint32_t n_parts = sizeof(part) / sizeof(part[0]);
    const uint32_t n_all = 2 + n_parts * info->n_layers;
    kern_tensor_t *all = malloc(n_all * sizeof(*all));

    if (all == NULL) {
        return infer_err(err, INFER_NOMEM, "no memory for %u tensors",
                         n_all);
    }

    *n = 0;

    for (uint32_t i = 0; i < n_all; i++) {
        const infer_gguf_tensor_t *t;
        int which = i == 0 ? MODEL_EMBED : i == n_all - 1 ? MODEL_HEAD
                    : part[(i - 1) % n_parts];
        int rc = infer_model_tensor(g, info, which,
                                    i == 0 || i == n_all - 1
                                    ? 0 : (i - 1) / n_parts, &t, err);

        if (rc != INFER_OK) {
            free(all);
            return rc;
        }

        if (t != NULL) {
            all[(*n)++] = (kern_tensor_t) { t->type, (uint32_t) t->dim[1],
                                            (uint32_t) t->dim[0] };
        }
    }

    *list = all;

    return INFER_OK;
}


/* Tells what is lost, once for each type. */
static void
model_tell_losses(const infer_model_t *m, const kern_shape_t *shape,
    const infer_model_conf_t *conf)
{
    char text[160];

    if (conf->notice == NULL || m->ops->loss == NULL) {
        return;
    }

    for (uint32_t i = 0; i < shape->n_tensors; i++) {
        uint32_t k = 0;

        while (shape->tensor[k].type != shape->tensor[i].type) {
            k++;
        }

        if (k == i
            && m->ops->loss(shape, &shape->tensor[i], text, sizeof(text)))
        {
            conf->notice(conf->progress_arg, text);
        }
    }
}


static int
model_open_ctx(infer_model_t *m, const infer_gguf_t *g,
    const infer_model_conf_t *conf, infer_err_t *err)
{
    model_rope_t rope;
    kern_tensor_t *tensor;
    uint32_t n_tensors;
    int rc;

    if ((rc = infer_model_rope(g, &m->info, &rope, err)) != INFER_OK
        || (rc = infer_model_tensors(g, &m->info, &tensor, &n_tensors, err))
           != INFER_OK)
    {
        return rc;
    }

    const infer_model_info_t *info = &m->info;
    const kern_shape_t shape = {
        .n_layers = info->n_layers, .dim = info->dim,
        .n_heads = info->n_heads, .n_kv_heads = info->n_kv_heads,
        .head_dim = info->head_dim, .ffn = info->ffn, .vocab = info->vocab,
        .rope_dim = info->rope_dim, .rope_inv_freq = rope.inv_freq,
        .rope_attn_scale = rope.attn_scale, .eps = info->eps,
        .max_rows = conf->max_rows, .max_outs = conf->max_outs,
        .max_seqs = conf->max_seqs, .context = conf->context,
        .n_pages = conf->n_pages, .kv_type = conf->kv_type,
        .n_threads = conf->n_threads, .cpus = conf->cpus,
        .device = conf->device, .precision = conf->precision,
        .gpu_bytes = conf->gpu_bytes, .gpu_fraction = conf->gpu_fraction,
        .tensor = tensor, .n_tensors = n_tensors
    };

    rc = m->ops->open(&m->ctx, m->ops, &shape, err);

    if (rc == INFER_OK) {
        model_tell_losses(m, &shape, conf);
    }

    free(tensor);

    if (rc == INFER_OK) {
        m->n_pages = m->ops->n_pages != NULL ? m->ops->n_pages(m->ctx)
                                             : conf->n_pages;
    }

    return rc;
}


int
infer_model_load(infer_model_t **model, infer_gguf_t *gguf,
    const kern_ops_t *ops, const infer_model_conf_t *conf, infer_err_t *err)
{
    if (conf->context == 0 || conf->max_rows == 0 || conf->max_outs == 0
        || conf->max_seqs == 0 || conf->n_pages == 0 || conf->n_threads == 0
        || conf->n_threads > KERN_MAX_THREADS)
    {
        return infer_err(err, INFER_INVALID,
                         "context, rows, sequences, pages and threads of a "
                         "model must be at least 1 (threads at most %d)",
                         KERN_MAX_THREADS);
    }

    infer_model_t *m = calloc(1, sizeof(*m));

    if (m == NULL) {
        return infer_err(err, INFER_NOMEM, "no memory");
    }

    m->ops = ops;

    model_load_t ld = { .m = m, .g = gguf, .conf = conf, .err = err };
    int rc;

    if ((rc = infer_model_inspect(gguf, &m->info, err)) != INFER_OK
        || (rc = model_open_ctx(m, gguf, conf, err)) != INFER_OK
        || (rc = model_load_weights(&ld)) != INFER_OK)
    {
        infer_model_free(m);
        return rc;
    }

    *model = m;

    return INFER_OK;
}


static void
model_free_weight(infer_model_t *m, const kern_weight_t *w)
{
    if (w != NULL) {
        m->ops->weight_free(m->ctx, (kern_weight_t *) w);
    }
}


void
infer_model_free(infer_model_t *m)
{
    if (m == NULL) {
        return;
    }

    for (uint32_t l = 0; l < m->n_layers; l++) {
        const kern_layer_t *w = &m->layer[l];

        model_free_weight(m, w->wq);
        model_free_weight(m, w->wk);
        model_free_weight(m, w->wv);
        model_free_weight(m, w->wo);
        model_free_weight(m, w->gate);
        model_free_weight(m, w->up);
        model_free_weight(m, w->down);
    }

    model_free_weight(m, m->embed);
    model_free_weight(m, m->head);

    if (m->ctx != NULL) {
        m->ops->close(m->ctx);
    }

    free(m->layer);
    free(m->norms);
    free(m);
}


const infer_model_info_t *
infer_model_info(const infer_model_t *m)
{
    return &m->info;
}


kern_ctx_t *
infer_model_ctx(const infer_model_t *m)
{
    return m->ctx;
}


uint32_t
infer_model_pages(const infer_model_t *m)
{
    return m->n_pages;
}


const kern_ops_t *
infer_model_ops(const infer_model_t *m)
{
    return m->ops;
}
