/*
 * kern_model.h: a small random model driven through the outer table the way
 * forward.c does it.
 */

#ifndef KERN_TEST_MODEL_H
#define KERN_TEST_MODEL_H

#include "kern_test.h"

#define MODEL_LAYERS  2

typedef struct {
    kern_shape_t   shape;
    test_tensor_t  embd, m[MODEL_LAYERS][7];
    float         *norm[MODEL_LAYERS][2], *last_norm;
    float          freq[128];
} test_model_t;

typedef struct {
    const kern_ops_t    *ops;
    kern_ctx_t          *c;
    const test_model_t  *model;
    kern_weight_t       *embd, *w[MODEL_LAYERS][7];
} test_run_t;


/* types[i]: of q, k, v, o, gate, up, down; types[7]: embedding */
TEST_UNUSED static test_model_t
test_model(kern_shape_t shape, const uint32_t types[8])
{
    uint32_t      l, i, q = shape.n_heads * shape.head_dim;
    uint32_t      k = shape.n_kv_heads * shape.head_dim;
    uint32_t      out[7] = { q, k, k, shape.dim, shape.ffn, shape.ffn,
                             shape.dim };
    uint32_t      in[7] = { shape.dim, shape.dim, shape.dim, q, shape.dim,
                            shape.dim, shape.ffn };
    test_model_t  m;

    memset(&m, 0, sizeof(m));
    m.shape = shape;
    for (i = 0; i < shape.rope_dim / 2; i++) {
        m.freq[i] = (float) pow(10000, -2.0 * i / shape.rope_dim);
    }
    m.embd = test_tensor(types[7], shape.vocab, shape.dim, 1);
    m.last_norm = test_floats(shape.dim, 1);
    for (l = 0; l < MODEL_LAYERS; l++) {
        for (i = 0; i < 7; i++) {
            m.m[l][i] = test_tensor(types[i], out[i], in[i],
                                    3 / sqrtf((float) in[i]));
        }
        m.norm[l][0] = test_floats(shape.dim, 2);
        m.norm[l][1] = test_floats(shape.dim, 2);
    }
    return m;
}

TEST_UNUSED static void
test_model_free(test_model_t *m)
{
    uint32_t  l, i;

    free(m->embd.raw);
    test_free(m->last_norm);
    for (l = 0; l < MODEL_LAYERS; l++) {
        for (i = 0; i < 7; i++) {
            free(m->m[l][i].raw);
        }
        test_free(m->norm[l][0]);
        test_free(m->norm[l][1]);
    }
}

TEST_UNUSED static test_run_t
test_open(const test_model_t *m, const char *isa, uint32_t threads)
{
    test_run_t    r = { .ops = kern_init("cpu", isa, NULL), .model = m };
    kern_shape_t  s = m->shape;
    infer_err_t   err;
    uint32_t      l, i;
    int           bad = 0;

    s.rope_inv_freq = m->freq;
    s.n_threads = threads;
    if (r.ops == NULL || r.ops->open(&r.c, r.ops, &s, &err) != INFER_OK) {
        diag("open: %s", r.ops != NULL ? err.text : isa);
        exit(1);
    }
    bad |= r.ops->pack(r.c, &r.embd, &m->embd.src, &err);
    for (l = 0; l < MODEL_LAYERS; l++) {
        for (i = 0; i < 7; i++) {
            bad |= r.ops->pack(r.c, &r.w[l][i], &m->m[l][i].src, &err);
        }
    }
    if (bad) {
        diag("pack: %s", err.text);
        exit(1);
    }
    return r;
}

TEST_UNUSED static void
test_close(test_run_t *r)
{
    uint32_t  l, i;

    r->ops->weight_free(r->c, r->embd);
    for (l = 0; l < MODEL_LAYERS; l++) {
        for (i = 0; i < 7; i++) {
            r->ops->weight_free(r->c, r->w[l][i]);
        }
    }
    r->ops->close(r->c);
}

TEST_UNUSED static int
test_step(test_run_t *r, const kern_batch_t *b)
{
    kern_layer_t  w;
    uint32_t      l;
    int           rc;

    rc = r->ops->begin(r->c, b);
    rc = rc ? rc : r->ops->embed(r->c, r->embd);
    for (l = 0; l < MODEL_LAYERS && rc == 0; l++) {
        w = (kern_layer_t) {
            .attn_norm = r->model->norm[l][0], .wq = r->w[l][0],
            .wk = r->w[l][1], .wv = r->w[l][2], .wo = r->w[l][3],
            .ffn_norm = r->model->norm[l][1], .gate = r->w[l][4],
            .up = r->w[l][5], .down = r->w[l][6]
        };
        rc = r->ops->attn(r->c, l, &w);
        rc = rc ? rc : r->ops->ffn(r->c, l, &w);
    }
    rc = rc ? rc : r->ops->head(r->c, r->model->last_norm, r->embd);
    rc = rc ? rc : r->ops->submit(r->c);
    return rc ? rc : r->ops->wait(r->c);
}

#endif
