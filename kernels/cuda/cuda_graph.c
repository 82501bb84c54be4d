/*
 * cuda_graph.c: the launches of a step, and the graphs that repeat them. A
 * step that only decodes is padded to a bucket; what differs from one to the
 * next lies in its slot's arrays, so that a graph captured once can be
 * replayed. There is one for each slot, bucket and whether tokens are
 * sampled. Steps with a prefill are launched kernel by kernel.
 */

#include <string.h>

#include "cuda_ctx.h"
#include "cuda_ops.h"

/* One launcher. */
#define GRAPH_TRY(c, call)                                                    \
    do {                                                                      \
        int  try_rc = cu_launched(c, #call, call);                            \
        if (try_rc != INFER_OK) {                                             \
            return try_rc;                                                    \
        }                                                                     \
    } while (0)


int
cu_bucket(uint32_t n)
{
    int  i;

    for (i = 0; i < CU_BUCKETS; i++) {
        if (n <= cu_bucket_seqs(i)) {
            return i;
        }
    }
    return -1;
}

/* Families whose activations w reads. */
static uint32_t
graph_want(const kern_weight_t *w)
{
    return w != NULL ? 1u << w->w.family : 0;
}

static int
graph_attn(kern_ctx_t *c, cu_slot_t *s, const cu_phase_t *ph)
{
    const kern_shape_t  *k = &c->shape;
    uint32_t             n = s->plan.n_rows;
    uint32_t             want = graph_want(ph->w[0]) | graph_want(ph->w[1])
                                | graph_want(ph->w[2]);
    size_t               layer = (size_t) c->n_pages * k->n_kv_heads
                                 * c->head_bytes;
    const cu_attn_t      attn = {
        .kv = c->kv + ph->layer * layer, .head_bytes = c->head_bytes,
        .type = k->kv_type, .n_heads = k->n_heads,
        .n_kv_heads = k->n_kv_heads, .head_dim = k->head_dim,
        .rope_dim = k->rope_dim, .rope = c->rope
    };
    const cu_linear_t    qkv = {
        .w = { &ph->w[0]->w, &ph->w[1]->w, &ph->w[2]->w }, .y = c->qkv,
        .ldy = (k->n_heads + 2 * k->n_kv_heads) * k->head_dim
    };
    const cu_linear_t    out = {
        .w = { &ph->w[3]->w }, .y = c->x, .ldy = k->dim, .add = 1
    };

    GRAPH_TRY(c, cu_norm(&c->dev, c->x,
                         c->norms + (size_t) 2 * ph->layer * k->dim, k->eps,
                         NULL, n, k->dim, want, &c->acts));
    GRAPH_TRY(c, cu_linear(&c->dev, &qkv, &c->acts, n));
    GRAPH_TRY(c, cu_attend(&c->dev, &attn, &s->plan, c->qkv, c->att,
                           graph_want(ph->w[3]), &c->acts_att,
                           c->attn_work));
    GRAPH_TRY(c, cu_linear(&c->dev, &out, &c->acts_att, n));
    return INFER_OK;
}

static int
graph_ffn(kern_ctx_t *c, cu_slot_t *s, const cu_phase_t *ph)
{
    const kern_shape_t  *k = &c->shape;
    uint32_t             n = s->plan.n_rows;
    const cu_linear_t    down = {
        .w = { &ph->w[2]->w }, .y = c->x, .ldy = k->dim, .add = 1
    };

    GRAPH_TRY(c, cu_norm(&c->dev, c->x,
                         c->norms + (size_t) (2 * ph->layer + 1) * k->dim,
                         k->eps, NULL, n, k->dim,
                         graph_want(ph->w[0]) | graph_want(ph->w[1]),
                         &c->acts));
    GRAPH_TRY(c, cu_gate_up(&c->dev, &ph->w[0]->w, &ph->w[1]->w, &c->acts, n,
                            graph_want(ph->w[2]), &c->acts_hid, c->gate_up));
    GRAPH_TRY(c, cu_linear(&c->dev, &down, &c->acts_hid, n));
    return INFER_OK;
}

static int
graph_head(kern_ctx_t *c, cu_slot_t *s, const cu_phase_t *ph)
{
    const kern_shape_t  *k = &c->shape;
    uint32_t             n = s->plan.n_outs;
    const cu_linear_t    head = {
        .w = { &ph->w[0]->w }, .y = s->logits, .ldy = k->vocab
    };

    if (n == 0) {
        return INFER_OK;
    }

    GRAPH_TRY(c, cu_norm(&c->dev, c->x,
                         c->norms + (size_t) 2 * k->n_layers * k->dim,
                         k->eps, s->plan.out_row, n, k->dim,
                         graph_want(ph->w[0]), &c->acts));
    GRAPH_TRY(c, cu_linear(&c->dev, &head, &c->acts, n));
    return INFER_OK;
}

/* Every launch of the step, in order, on `run`. */
static int
graph_launch_all(kern_ctx_t *c, cu_slot_t *s)
{
    int                rc = INFER_OK;
    uint32_t           i;
    const cu_phase_t  *ph;

    for (i = 0; rc == INFER_OK && i < c->n_phases; i++) {
        ph = &c->phase[i];

        switch ((cu_phase_e) ph->kind) {
        case CU_EMBED:
            rc = cu_launched(c, "cu_embed",
                             cu_embed(&c->dev, &ph->w[0]->w, &s->plan,
                                      c->x));
            break;
        case CU_ATTN:
            rc = graph_attn(c, s, ph);
            break;
        case CU_FFN:
            rc = graph_ffn(c, s, ph);
            break;
        case CU_HEAD:
            rc = graph_head(c, s, ph);
            break;
        }
    }

    if (rc == INFER_OK && s->n_sampled != 0) {
        rc = cu_launched(c, "cu_sample",
                         cu_sample(&c->dev, s->logits, c->shape.vocab,
                                   s->plan.n_outs, s->d.sample_row,
                                   s->d_sample, s->d_edit, s->d_mask,
                                   s->sampled, s->h_out, c->sample_work));
    }

    return rc;
}

/* ---- graphs ---- */

static void
graph_free(cu_graph_t *g)
{
    if (g->exec != NULL) {
        (void) cudaGraphExecDestroy(g->exec);
    }
    free(g->phase);
    memset(g, 0, sizeof(*g));
}

void
cu_graphs_free(kern_ctx_t *c)
{
    int  i, k, m;

    for (i = 0; i < CU_DEPTH; i++) {
        for (k = 0; k < CU_BUCKETS; k++) {
            for (m = 0; m < 2; m++) {
                graph_free(&c->graph[i][k][m]);
            }
        }
    }
}

static int
graph_is_for(const cu_graph_t *g, const kern_ctx_t *c)
{
    return g->exec != NULL && g->n_phases == c->n_phases
           && memcmp(g->phase, c->phase,
                     c->n_phases * sizeof(c->phase[0])) == 0;
}

static int
graph_capture(kern_ctx_t *c, cu_slot_t *s, cu_graph_t *g)
{
    int          rc;
    cudaError_t  e;
    cudaGraph_t  graph = NULL;

    graph_free(g);
    g->phase = malloc(c->n_phases * sizeof(c->phase[0]));
    if (g->phase == NULL) {
        return INFER_NOMEM;
    }
    memcpy(g->phase, c->phase, c->n_phases * sizeof(c->phase[0]));
    g->n_phases = c->n_phases;

    KERN_CUDA_TRY(c, cudaStreamBeginCapture(c->dev.stream,
                                            cudaStreamCaptureModeThreadLocal));
    rc = graph_launch_all(c, s);
    e = cudaStreamEndCapture(c->dev.stream, &graph);
    if (rc == INFER_OK && e == cudaSuccess) {
        e = cudaGraphInstantiate(&g->exec, graph, 0);
    }
    if (graph != NULL) {
        (void) cudaGraphDestroy(graph);
    }
    if (rc == INFER_OK && e != cudaSuccess) {
        g->exec = NULL;
        rc = cu_failed(c, "capture of a step", e);
    }
    return rc;
}

int
cu_run(kern_ctx_t *c, cu_slot_t *s)
{
    int          rc;
    cu_graph_t  *g;

    if (s->bucket < 0 || c->no_graph) {
        return graph_launch_all(c, s);
    }

    g = &c->graph[s - c->slot][s->bucket][s->n_sampled != 0];
    if (!graph_is_for(g, c)) {
        rc = graph_capture(c, s, g);
        if (rc != INFER_OK) {
            return rc;
        }
    }

    KERN_CUDA_TRY(c, cudaGraphLaunch(g->exec, c->dev.stream));
    c->n_graph_launches++;
    return INFER_OK;
}

void
cu_use_graphs(kern_ctx_t *c, int on)
{
    c->no_graph = !on;
}

uint64_t
cu_graph_launches(const kern_ctx_t *c)
{
    return c->n_graph_launches;
}
