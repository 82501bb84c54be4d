/*
 * cpu_phase.c: a step as a list of phases, recorded by the caller and run
 * SPMD by the team with a barrier after each. Within a phase threads split
 * rows (norm, quantization), output stripes (linears) or units of rows and
 * kv heads (attention), never a sum.
 */

#include <math.h>
#include <string.h>

#include "cpu_ctx.h"


static int
phase_wants_f(const kern_ctx_t *c, const kern_weight_t *w)
{
    return w != NULL && (!c->in->q8 || w->form >= CPU_F32);
}

static int
phase_wants_q(const kern_ctx_t *c, const kern_weight_t *w)
{
    return w != NULL && c->in->q8 && w->form < CPU_F32;
}

/* The activation rows as seen by a phase: n_in columns, floats from f. */
static cpu_acts_t
phase_acts(const kern_ctx_t *c, uint32_t n_in, float *f)
{
    cpu_acts_t  a = c->acts;

    a.n_in = n_in;
    if (f != NULL) {
        a.f = f;
    }
    return a;
}

static float *
phase_work(const kern_ctx_t *c, uint32_t tid)
{
    return c->work + tid * c->work_floats;
}

/* cos, and sin with the sign of the even column, of one position. */
static void
phase_angles(const kern_ctx_t *c, float *cs, uint32_t pos)
{
    uint32_t  i, n = c->shape.rope_dim;
    double    angle;
    float     co, si;

    for (i = 0; i < n / 2; i++) {
        angle = (double) pos * c->inv_freq[i];
        co = (float) cos(angle) * c->shape.rope_attn_scale;
        si = (float) sin(angle) * c->shape.rope_attn_scale;
        cs[2 * i] = co;
        cs[2 * i + 1] = co;
        cs[n + 2 * i] = -si;
        cs[n + 2 * i + 1] = si;
    }
}

static void
phase_embed(kern_ctx_t *c, cpu_phase_t *ph, uint32_t tid)
{
    const kern_batch_t  *b = c->batch;
    uint32_t             r, s, col, end, dim = c->shape.dim;
    float               *x;

    r = cpu_part(c, b->n_rows, tid);
    end = cpu_part(c, b->n_rows, tid + 1);
    for (s = 0; r < end; r++) {
        while (s + 1 < b->n_seqs && r >= b->seq[s + 1].first_row) {
            s++;
        }
        x = c->x + (size_t) r * dim;
        for (col = 0; col < dim; col++) {
            x[col] = cpu_weight_at(ph->w[0], (uint32_t) b->token[r], col);
        }
        phase_angles(c, c->cs + (size_t) r * 2 * c->shape.rope_dim,
                     b->seq[s].pos0 + r - b->seq[s].first_row);
    }
}

/* Norm of x's row into activation row `row`, in the forms the phase's
 * matrices want. */
static void
phase_norm_row(kern_ctx_t *c, const cpu_phase_t *ph, const cpu_acts_t *a,
    uint32_t row, const float *x, float *tmp)
{
    int    f = 0, q = 0, i;
    float *y;

    for (i = 0; i < 3; i++) {
        f |= phase_wants_f(c, ph->w[i]);
        q |= phase_wants_q(c, ph->w[i]);
    }
    y = f ? a->f + (size_t) row * a->n_in : tmp;
    c->in->rmsnorm(y, x, ph->norm, c->shape.eps, a->n_in);
    if (q) {
        c->in->quantize(a, row, y);
    }
}

static void
phase_norm(kern_ctx_t *c, cpu_phase_t *ph, uint32_t tid)
{
    cpu_acts_t  a = phase_acts(c, c->shape.dim, NULL);
    uint32_t    r, end = cpu_part(c, c->batch->n_rows, tid + 1);

    for (r = cpu_part(c, c->batch->n_rows, tid); r < end; r++) {
        phase_norm_row(c, ph, &a, r, c->x + (size_t) r * a.n_in,
                       phase_work(c, tid));
    }
}

static void
phase_head_norm(kern_ctx_t *c, cpu_phase_t *ph, uint32_t tid)
{
    const kern_batch_t  *b = c->batch;
    cpu_acts_t           a = phase_acts(c, c->shape.dim, NULL);
    uint32_t             i, end = cpu_part(c, b->n_outs, tid + 1);

    for (i = cpu_part(c, b->n_outs, tid); i < end; i++) {
        phase_norm_row(c, ph, &a, i, c->x + (size_t) b->out_row[i] * a.n_in,
                       phase_work(c, tid));
    }
}

static void
phase_qkv(kern_ctx_t *c, cpu_phase_t *ph, uint32_t tid)
{
    cpu_acts_t            a = phase_acts(c, c->shape.dim, NULL);
    const kern_weight_t  *w;
    uint32_t              s, end, i, n, total, first = 0;
    float                *y = c->qkv;

    total = ph->w[0]->n_stripes + ph->w[1]->n_stripes + ph->w[2]->n_stripes;
    s = cpu_part(c, total, tid);
    end = cpu_part(c, total, tid + 1);
    for (i = 0; i < 3; i++) {
        w = ph->w[i];
        n = first + w->n_stripes;
        for ( /* void */ ; s < end && s < n; s++) {
            c->in->linear(w, s - first, &a, 0, c->batch->n_rows,
                          y + (s - first) * CPU_STRIPE, c->qkv_dim, 0);
        }
        first = n;
        y += w->n_out;
    }
}

/* Units are (row, kv head): its query heads are rotated and scaled in
 * place, its key and value go into the page. */
static void
phase_rope(kern_ctx_t *c, cpu_phase_t *ph, uint32_t tid)
{
    const kern_batch_t  *b = c->batch;
    const kern_shape_t  *sh = &c->shape;
    const kern_seq_t    *sq;
    uint32_t             u, end, row, g, h, pos, s = 0, dim = sh->head_dim;
    uint32_t             group = sh->n_heads / sh->n_kv_heads;
    float               *x, *k = phase_work(c, tid), scale;
    const float         *cs;
    uint8_t             *kv;

    scale = 1.0f / sqrtf((float) dim);
    end = cpu_part(c, b->n_rows * sh->n_kv_heads, tid + 1);
    for (u = cpu_part(c, b->n_rows * sh->n_kv_heads, tid); u < end; u++) {
        row = u / sh->n_kv_heads;
        g = u % sh->n_kv_heads;
        while (s + 1 < b->n_seqs && row >= b->seq[s + 1].first_row) {
            s++;
        }
        sq = &b->seq[s];
        pos = sq->pos0 + row - sq->first_row;
        cs = c->cs + (size_t) row * 2 * sh->rope_dim;

        x = c->qkv + (size_t) row * c->qkv_dim;
        for (h = g * group; h < (g + 1) * group; h++) {
            c->in->rope(x + h * dim, x + h * dim, cs, sh->rope_dim, dim,
                        scale);
        }
        x += (sh->n_heads + g) * dim;
        c->in->rope(k, x, cs, sh->rope_dim, dim, 1.0f);
        kv = c->kv + sq->pages[pos / KERN_PAGE_TOKENS] * c->page_bytes
             + cpu_kv_head_bytes(dim, c->v_dim)
               * (ph->layer * sh->n_kv_heads + g);
        c->in->kv_store(kv, pos % KERN_PAGE_TOKENS, k,
                        x + sh->n_kv_heads * dim, dim, c->v_dim);
    }
}

/* Units are (tile of query rows, kv head), taken from a counter: their cost
 * grows with the position. */
static void
phase_attend(kern_ctx_t *c, cpu_phase_t *ph, uint32_t tid)
{
    const kern_shape_t  *sh = &c->shape;
    const kern_seq_t    *sq;
    const cpu_qtile_t   *t;
    uint32_t             u, g, r, h, dim = sh->head_dim;
    uint32_t             group = sh->n_heads / sh->n_kv_heads;
    cpu_attn_t           a = { .head_dim = dim, .v_dim = c->v_dim,
                               .page_bytes = c->page_bytes,
                               .work = phase_work(c, tid) };

    /* relaxed: only the number counts; the barrier orders the data */
    while ((u = atomic_fetch_add_explicit(&ph->next, 1,
                                          memory_order_relaxed))
           < c->n_qtiles * sh->n_kv_heads)
    {
        t = &c->qtile[u / sh->n_kv_heads];
        g = u % sh->n_kv_heads;
        sq = &c->batch->seq[t->seq];
        a.pages = sq->pages;
        a.kv = c->kv + cpu_kv_head_bytes(dim, c->v_dim)
                       * (ph->layer * sh->n_kv_heads + g);
        a.nq = 0;
        for (r = t->row; r < t->row + t->n_rows; r++) {
            for (h = g * group; h < (g + 1) * group; h++) {
                a.q[a.nq] = c->qkv + (size_t) r * c->qkv_dim + h * dim;
                a.out[a.nq] = c->att + ((size_t) r * sh->n_heads + h) * dim;
                a.n_keys[a.nq] = sq->pos0 + r - sq->first_row + 1;
                if (++a.nq == 12) {
                    c->in->attend(&a);
                    a.nq = 0;
                }
            }
        }
        if (a.nq != 0) {
            c->in->attend(&a);
        }
    }
}

static void
phase_quantize_rows(kern_ctx_t *c, uint32_t tid, const float *x,
    uint32_t n_in)
{
    cpu_acts_t  a = phase_acts(c, n_in, NULL);
    uint32_t    r, end = cpu_part(c, c->batch->n_rows, tid + 1);

    for (r = cpu_part(c, c->batch->n_rows, tid); r < end; r++) {
        c->in->quantize(&a, r, x + (size_t) r * n_in);
    }
}

static void
phase_quantize_att(kern_ctx_t *c, cpu_phase_t *ph, uint32_t tid)
{
    (void) ph;
    phase_quantize_rows(c, tid, c->att, c->shape.n_heads * c->shape.head_dim);
}

static void
phase_quantize_hid(kern_ctx_t *c, cpu_phase_t *ph, uint32_t tid)
{
    (void) ph;
    phase_quantize_rows(c, tid, c->hid, c->shape.ffn);
}

/* Rows of `a` times the matrix, stripes split over the team. */
static void
phase_matrix(kern_ctx_t *c, const kern_weight_t *w, const cpu_acts_t *a,
    uint32_t n_rows, float *y, size_t ldy, int add, uint32_t tid)
{
    uint32_t  s, end = cpu_part(c, w->n_stripes, tid + 1);

    for (s = cpu_part(c, w->n_stripes, tid); s < end; s++) {
        c->in->linear(w, s, a, 0, n_rows, y + (size_t) s * CPU_STRIPE, ldy,
                      add);
    }
}

static void
phase_wo(kern_ctx_t *c, cpu_phase_t *ph, uint32_t tid)
{
    cpu_acts_t  a;

    a = phase_acts(c, c->shape.n_heads * c->shape.head_dim, c->att);
    phase_matrix(c, ph->w[0], &a, c->batch->n_rows, c->x, c->shape.dim, 1,
                 tid);
}

static void
phase_down(kern_ctx_t *c, cpu_phase_t *ph, uint32_t tid)
{
    cpu_acts_t  a = phase_acts(c, c->shape.ffn, c->hid);

    phase_matrix(c, ph->w[0], &a, c->batch->n_rows, c->x, c->shape.dim, 1,
                 tid);
}

static void
phase_head(kern_ctx_t *c, cpu_phase_t *ph, uint32_t tid)
{
    cpu_acts_t  a = phase_acts(c, c->shape.dim, NULL);

    phase_matrix(c, ph->w[0], &a, c->batch->n_outs, c->logits,
                 c->shape.vocab, 0, tid);
}

static void
phase_gate_up(kern_ctx_t *c, cpu_phase_t *ph, uint32_t tid)
{
    cpu_acts_t  a = phase_acts(c, c->shape.dim, NULL);
    uint32_t    s, end, r, i, n, valid;
    float      *gate = phase_work(c, tid);
    float      *up = gate + CPU_ROW_TILE * CPU_STRIPE;

    end = cpu_part(c, ph->w[0]->n_stripes, tid + 1);
    for (s = cpu_part(c, ph->w[0]->n_stripes, tid); s < end; s++) {
        valid = cpu_valid(ph->w[0], s);
        for (r = 0; r < c->batch->n_rows; r += n) {
            n = c->batch->n_rows - r;
            n = n < CPU_ROW_TILE ? n : CPU_ROW_TILE;
            c->in->linear(ph->w[0], s, &a, r, n, gate, CPU_STRIPE, 0);
            c->in->linear(ph->w[1], s, &a, r, n, up, CPU_STRIPE, 0);
            for (i = 0; i < n; i++) {
                c->in->silu_mul(c->hid + (size_t) (r + i) * c->shape.ffn
                                + s * CPU_STRIPE, gate + i * CPU_STRIPE,
                                up + i * CPU_STRIPE, valid);
            }
        }
    }
}


static cpu_phase_t *
phase_add(kern_ctx_t *c, cpu_phase_pt fn, uint32_t layer,
    const kern_weight_t *w0, const kern_weight_t *w1, const kern_weight_t *w2)
{
    cpu_phase_t  *ph = &c->phase[c->n_phases++];

    ph->fn = fn;
    ph->layer = layer;
    ph->norm = NULL;
    ph->w[0] = w0;
    ph->w[1] = w1;
    ph->w[2] = w2;
    atomic_store_explicit(&ph->next, 0, memory_order_relaxed);
    return ph;
}

static int
phase_fits(const kern_weight_t *w, uint32_t n_out, uint32_t n_in)
{
    return w != NULL && w->n_out == n_out && w->n_in == n_in;
}

int
kern_cpu_begin(kern_ctx_t *c, const kern_batch_t *b)
{
    const kern_seq_t  *sq;
    uint32_t           s, r, row = 0, n;

    c->n_phases = 0;
    c->n_qtiles = 0;
    c->batch = NULL;
    if (b->n_rows == 0 || b->n_rows > c->shape.max_rows || b->n_seqs == 0
        || b->n_seqs > c->shape.max_seqs || b->n_outs > c->shape.max_outs)
    {
        return INFER_INVALID;
    }

    for (s = 0; s < b->n_seqs; s++) {
        sq = &b->seq[s];
        if (sq->first_row != row || sq->n_rows == 0
            || sq->n_rows > b->n_rows - row
            || sq->pos0 > c->shape.context
            || sq->n_rows > c->shape.context - sq->pos0)
        {
            return INFER_INVALID;
        }
        for (r = 0; r < sq->n_rows; r += n) {
            n = sq->n_rows - r;
            n = n < c->tile_rows ? n : c->tile_rows;
            c->qtile[c->n_qtiles++] = (cpu_qtile_t) {
                .seq = s, .row = row + r, .n_rows = n
            };
        }
        row += sq->n_rows;
    }
    if (row != b->n_rows) {
        return INFER_INVALID;
    }

    c->batch = b;
    return INFER_OK;
}

int
kern_cpu_embed(kern_ctx_t *c, const kern_weight_t *embd)
{
    if (c->batch == NULL || !phase_fits(embd, c->shape.vocab, c->shape.dim)) {
        return INFER_INVALID;
    }
    phase_add(c, phase_embed, 0, embd, NULL, NULL);
    return INFER_OK;
}

int
kern_cpu_attn(kern_ctx_t *c, uint32_t layer, const kern_layer_t *w)
{
    const kern_shape_t  *s = &c->shape;
    uint32_t             q = s->n_heads * s->head_dim;
    uint32_t             k = s->n_kv_heads * s->head_dim;

    if (c->batch == NULL || layer >= s->n_layers
        || c->n_phases + 10 > c->max_phases || !phase_fits(w->wq, q, s->dim)
        || !phase_fits(w->wk, k, s->dim) || !phase_fits(w->wv, k, s->dim)
        || !phase_fits(w->wo, s->dim, q))
    {
        return INFER_INVALID;
    }
    phase_add(c, phase_norm, layer, w->wq, w->wk, w->wv)->norm = w->attn_norm;
    phase_add(c, phase_qkv, layer, w->wq, w->wk, w->wv);
    phase_add(c, phase_rope, layer, NULL, NULL, NULL);
    phase_add(c, phase_attend, layer, NULL, NULL, NULL);
    if (phase_wants_q(c, w->wo)) {
        phase_add(c, phase_quantize_att, layer, NULL, NULL, NULL);
    }
    phase_add(c, phase_wo, layer, w->wo, NULL, NULL);
    return INFER_OK;
}

int
kern_cpu_ffn(kern_ctx_t *c, uint32_t layer, const kern_layer_t *w)
{
    const kern_shape_t  *s = &c->shape;

    if (c->batch == NULL || layer >= s->n_layers
        || c->n_phases + 6 > c->max_phases
        || !phase_fits(w->gate, s->ffn, s->dim)
        || !phase_fits(w->up, s->ffn, s->dim)
        || !phase_fits(w->down, s->dim, s->ffn))
    {
        return INFER_INVALID;
    }
    phase_add(c, phase_norm, layer, w->gate, w->up, NULL)->norm = w->ffn_norm;
    phase_add(c, phase_gate_up, layer, w->gate, w->up, NULL);
    if (phase_wants_q(c, w->down)) {
        phase_add(c, phase_quantize_hid, layer, NULL, NULL, NULL);
    }
    phase_add(c, phase_down, layer, w->down, NULL, NULL);
    return INFER_OK;
}

int
kern_cpu_head(kern_ctx_t *c, const float *norm, const kern_weight_t *w)
{
    if (c->batch == NULL || c->n_phases + 2 > c->max_phases
        || !phase_fits(w, c->shape.vocab, c->shape.dim))
    {
        return INFER_INVALID;
    }
    phase_add(c, phase_head_norm, 0, w, NULL, NULL)->norm = norm;
    phase_add(c, phase_head, 0, w, NULL, NULL);
    return INFER_OK;
}

static void
phase_run(void *arg, uint32_t tid)
{
    kern_ctx_t  *c = arg;
    uint32_t     i;

    for (i = 0; i < c->n_phases; i++) {
        if (i != 0) {
            /* orders a phase's outputs before the next one's inputs */
            cpu_team_barrier(c->team);
        }
        c->phase[i].fn(c, &c->phase[i], tid);
    }
}

int
kern_cpu_submit(kern_ctx_t *c)
{
    if (c->batch == NULL) {
        return INFER_INVALID;
    }
    cpu_team_start(c->team, phase_run, c);
    return INFER_OK;
}

int
kern_cpu_wait(kern_ctx_t *c)
{
    if (c->batch == NULL) {
        return INFER_INVALID;
    }
    cpu_team_join(c->team);
    c->batch = NULL;
    return INFER_OK;
}
