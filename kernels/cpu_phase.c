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

/* Norm of rows from .. to - 1 into rows r0 + from .. of a, in the forms that
 * the phase's matrices want. idx: rows of x, or NULL for all in order. */
static void
phase_norm_rows(kern_ctx_t *c, const cpu_phase_t *ph, const cpu_acts_t *a,
    uint32_t r0, uint32_t from, uint32_t to, const uint32_t *idx, float *tmp)
{
    int          f = 0, q = 0, i;
    const float *x;
    uint32_t     r;
    float       *y;

    for (i = 0; i < 3; i++) {
        f |= phase_wants_f(c, ph->w[i]);
        q |= phase_wants_q(c, ph->w[i]);
    }
    for (r = from; r < to; r++) {
        x = c->x + (size_t) (idx != NULL ? idx[r] : r) * a->n_in;
        y = f ? a->f + (size_t) (r0 + r) * a->n_in : tmp;
        c->in->rmsnorm(y, x, ph->norm, c->shape.eps, a->n_in);
        if (q) {
            c->in->quantize(a, r0 + r, 0, a->n_in / CPU_BLOCK, y);
        }
    }
}

static void
phase_norm(kern_ctx_t *c, cpu_phase_t *ph, uint32_t tid)
{
    cpu_acts_t  a = c->acts;

    a.n_in = c->shape.dim;
    phase_norm_rows(c, ph, &a, 0, cpu_part(c, ph->n_rows, tid),
                    cpu_part(c, ph->n_rows, tid + 1), ph->idx,
                    phase_work(c, tid));
}

/* The normed input of a phase: from the phase before, or, for a few rows,
 * made here by each thread for itself, which is cheaper than waiting for
 * each other. *r0 is its first row. */
static cpu_acts_t
phase_input(kern_ctx_t *c, const cpu_phase_t *ph, uint32_t tid, uint32_t *r0)
{
    cpu_acts_t  a = c->acts;

    *r0 = 0;
    if (ph->n_rows <= CPU_OWN_ROWS) {
        a = c->own;
        *r0 = tid * CPU_OWN_ROWS;
    }
    a.n_in = c->shape.dim;
    if (ph->n_rows <= CPU_OWN_ROWS) {
        phase_norm_rows(c, ph, &a, *r0, 0, ph->n_rows, ph->idx,
                        phase_work(c, tid));
    }
    return a;
}

static void
phase_qkv(kern_ctx_t *c, cpu_phase_t *ph, uint32_t tid)
{
    const kern_weight_t  *w;
    uint32_t              s, end, i, n, total, r0, first = 0;
    float                *y = c->qkv;
    cpu_acts_t            a = phase_input(c, ph, tid, &r0);

    total = ph->w[0]->n_stripes + ph->w[1]->n_stripes + ph->w[2]->n_stripes;
    s = cpu_part(c, total, tid);
    end = cpu_part(c, total, tid + 1);
    for (i = 0; i < 3; i++) {
        w = ph->w[i];
        n = first + w->n_stripes;
        for ( /* void */ ; s < end && s < n; s++) {
            c->in->linear(w, s - first, &a, r0, ph->n_rows,
                          y + (s - first) * CPU_STRIPE, c->qkv_dim, 0);
        }
        first = n;
        y += w->n_out;
    }
}

/* One row and kv head: its query heads are rotated and scaled in place, its
 * key and value go into the page. */
static void
phase_rope_unit(kern_ctx_t *c, uint32_t layer, const kern_seq_t *sq,
    uint32_t row, uint32_t g, float *k)
{
    const kern_shape_t  *sh = &c->shape;
    uint32_t             h, dim = sh->head_dim;
    uint32_t             pos = sq->pos0 + row - sq->first_row;
    uint32_t             group = sh->n_heads / sh->n_kv_heads;
    float               *x = c->qkv + (size_t) row * c->qkv_dim;
    const float         *cs = c->cs + (size_t) row * 2 * sh->rope_dim;
    uint8_t             *kv;

    for (h = g * group; h < (g + 1) * group; h++) {
        c->in->rope(x + h * dim, x + h * dim, cs, sh->rope_dim, dim,
                    c->q_scale);
    }
    x += (sh->n_heads + g) * dim;
    c->in->rope(k, x, cs, sh->rope_dim, dim, 1.0f);
    kv = c->kv + sq->pages[pos / KERN_PAGE_TOKENS] * c->page_bytes
         + cpu_kv_head_bytes(dim, c->v_dim) * (layer * sh->n_kv_heads + g);
    c->in->kv_store(kv, pos % KERN_PAGE_TOKENS, k, x + sh->n_kv_heads * dim,
                    dim, c->v_dim);
}

static void
phase_rope(kern_ctx_t *c, cpu_phase_t *ph, uint32_t tid)
{
    const kern_batch_t  *b = c->batch;
    uint32_t             u, end, row, s = 0, n_g = c->shape.n_kv_heads;

    end = cpu_part(c, b->n_rows * n_g, tid + 1);
    for (u = cpu_part(c, b->n_rows * n_g, tid); u < end; u++) {
        row = u / n_g;
        while (s + 1 < b->n_seqs && row >= b->seq[s + 1].first_row) {
            s++;
        }
        phase_rope_unit(c, ph->layer, &b->seq[s], row, u % n_g,
                        phase_work(c, tid));
    }
}

/* One tile of rows and kv head. */
static void
phase_attend_unit(kern_ctx_t *c, uint32_t layer, const cpu_qtile_t *t,
    uint32_t g, float *work)
{
    const kern_shape_t  *sh = &c->shape;
    const kern_seq_t    *sq = &c->batch->seq[t->seq];
    uint32_t             r, h, dim = sh->head_dim;
    uint32_t             group = sh->n_heads / sh->n_kv_heads;
    cpu_attn_t           a = { .head_dim = dim, .v_dim = c->v_dim,
                               .page_bytes = c->page_bytes,
                               .pages = sq->pages, .work = work };

    a.kv = c->kv + cpu_kv_head_bytes(dim, c->v_dim)
                   * (layer * sh->n_kv_heads + g);
    for (r = t->row; r < t->row + t->n_rows; r++) {
        for (h = g * group; h < (g + 1) * group; h++) {
            a.q[a.nq] = c->qkv + (size_t) r * c->qkv_dim + h * dim;
            a.out[a.nq] = c->att + ((size_t) r * sh->n_heads + h) * dim;
            a.n_keys[a.nq] = sq->pos0 + r - sq->first_row + 1;
            if (++a.nq == CPU_QTILE) {
                c->in->attend(&a);
                a.nq = 0;
            }
        }
    }
    if (a.nq != 0) {
        c->in->attend(&a);
    }
}

/* Whether the outputs of one kv head's queries are whole blocks. */
static int
phase_attend_quantizes(const kern_ctx_t *c)
{
    const kern_shape_t  *s = &c->shape;

    return s->n_heads / s->n_kv_heads * s->head_dim % CPU_BLOCK == 0;
}

/* Units are (tile of query rows, kv head), taken from a counter: their cost
 * grows with the position. Where a tile is all that its sequence has, its
 * keys are stored here too. Outputs are quantized for wo, ph->w[0]. */
static void
phase_attend(kern_ctx_t *c, cpu_phase_t *ph, uint32_t tid)
{
    const kern_shape_t  *sh = &c->shape;
    const cpu_qtile_t   *t;
    uint32_t             u, g, r, wide;
    float               *work = phase_work(c, tid);
    cpu_acts_t           a = c->acts;

    a.n_in = sh->n_heads * sh->head_dim;
    wide = a.n_in / sh->n_kv_heads;

    /* relaxed: only the number counts; the barrier orders the data */
    while ((u = atomic_fetch_add_explicit(&ph->next, 1,
                                          memory_order_relaxed))
           < c->n_qtiles * sh->n_kv_heads)
    {
        t = &c->qtile[u / sh->n_kv_heads];
        g = u % sh->n_kv_heads;
        for (r = t->row; c->whole_seqs && r < t->row + t->n_rows; r++) {
            phase_rope_unit(c, ph->layer, &c->batch->seq[t->seq], r, g, work);
        }
        phase_attend_unit(c, ph->layer, t, g, work);
        if (!phase_wants_q(c, ph->w[0]) || !phase_attend_quantizes(c)) {
            continue;
        }
        for (r = t->row; r < t->row + t->n_rows; r++) {
            c->in->quantize(&a, r, g * wide / CPU_BLOCK, wide / CPU_BLOCK,
                            c->att + (size_t) r * a.n_in + g * wide);
        }
    }
}

static void
phase_quantize_att(kern_ctx_t *c, cpu_phase_t *ph, uint32_t tid)
{
    cpu_acts_t  a = c->acts;
    uint32_t    r, end = cpu_part(c, ph->n_rows, tid + 1);

    a.n_in = c->shape.n_heads * c->shape.head_dim;
    for (r = cpu_part(c, ph->n_rows, tid); r < end; r++) {
        c->in->quantize(&a, r, 0, a.n_in / CPU_BLOCK,
                        c->att + (size_t) r * a.n_in);
    }
}

/* Rows of a times the phase's matrix, stripes split over the team. */
static void
phase_matrix(kern_ctx_t *c, const cpu_phase_t *ph, const cpu_acts_t *a,
    uint32_t r0, float *y, size_t ldy, int add, uint32_t tid)
{
    const kern_weight_t  *w = ph->w[0];
    uint32_t              s, end = cpu_part(c, w->n_stripes, tid + 1);

    for (s = cpu_part(c, w->n_stripes, tid); s < end; s++) {
        c->in->linear(w, s, a, r0, ph->n_rows, y + (size_t) s * CPU_STRIPE,
                      ldy, add);
    }
}

static void
phase_wo(kern_ctx_t *c, cpu_phase_t *ph, uint32_t tid)
{
    cpu_acts_t  a = c->acts;

    a.n_in = c->shape.n_heads * c->shape.head_dim;
    a.f = c->att;
    phase_matrix(c, ph, &a, 0, c->x, c->shape.dim, 1, tid);
}

static void
phase_down(kern_ctx_t *c, cpu_phase_t *ph, uint32_t tid)
{
    cpu_acts_t  a = c->acts_hid;

    a.n_in = c->shape.ffn;
    a.f = c->hid;
    phase_matrix(c, ph, &a, 0, c->x, c->shape.dim, 1, tid);
}

static void
phase_head(kern_ctx_t *c, cpu_phase_t *ph, uint32_t tid)
{
    uint32_t    r0;
    cpu_acts_t  a = phase_input(c, ph, tid, &r0);

    phase_matrix(c, ph, &a, r0, c->logits, c->shape.vocab, 0, tid);
}

/* Units of 96 hidden columns, gate and up together, so that a thread has
 * whole blocks of the activation and can quantize them for down, ph->dest,
 * while they are in its cache. */
static void
phase_ffn_unit(kern_ctx_t *c, const cpu_phase_t *ph, const cpu_acts_t *a,
    uint32_t r0, uint32_t unit, float *gate)
{
    uint32_t     s, r, i, n, valid, col = unit * CPU_FFN_UNIT;
    cpu_acts_t   hid = c->acts_hid;
    float       *up = gate + CPU_ROW_TILE * CPU_FFN_UNIT, *y;

    hid.n_in = c->shape.ffn;
    valid = c->shape.ffn - col;
    valid = valid < CPU_FFN_UNIT ? valid : CPU_FFN_UNIT;
    for (r = 0; r < ph->n_rows; r += n) {
        n = ph->n_rows - r;
        n = n < CPU_ROW_TILE ? n : CPU_ROW_TILE;
        for (s = 0; s * CPU_STRIPE < valid; s++) {
            c->in->linear(ph->w[0], 2 * unit + s, a, r0 + r, n,
                          gate + s * CPU_STRIPE, CPU_FFN_UNIT, 0);
            c->in->linear(ph->w[1], 2 * unit + s, a, r0 + r, n,
                          up + s * CPU_STRIPE, CPU_FFN_UNIT, 0);
        }
        for (i = 0; i < n; i++) {
            y = gate + i * CPU_FFN_UNIT;
            if (phase_wants_f(c, ph->dest)) {
                y = c->hid + (size_t) (r + i) * c->shape.ffn + col;
            }
            c->in->silu_mul(y, gate + i * CPU_FFN_UNIT, up + i * CPU_FFN_UNIT,
                            valid);
            if (phase_wants_q(c, ph->dest)) {
                c->in->quantize(&hid, r + i, col / CPU_BLOCK,
                                valid / CPU_BLOCK, y);
            }
        }
    }
}

static void
phase_gate_up(kern_ctx_t *c, cpu_phase_t *ph, uint32_t tid)
{
    uint32_t    u, end, r0;
    uint32_t    units = (c->shape.ffn + CPU_FFN_UNIT - 1) / CPU_FFN_UNIT;
    cpu_acts_t  a;

    a = phase_input(c, ph, tid, &r0);
    end = cpu_part(c, units, tid + 1);
    for (u = cpu_part(c, units, tid); u < end; u++) {
        phase_ffn_unit(c, ph, &a, r0, u, phase_work(c, tid));
    }
}


/* Callers have made sure that there is room. */
static cpu_phase_t *
phase_add(kern_ctx_t *c, cpu_phase_pt fn, uint32_t layer,
    const kern_weight_t *w0, const kern_weight_t *w1, const kern_weight_t *w2)
{
    cpu_phase_t  *ph = &c->phase[c->n_phases++];

    ph->fn = fn;
    ph->layer = layer;
    ph->norm = NULL;
    ph->dest = NULL;
    ph->idx = NULL;
    ph->n_rows = c->batch->n_rows;
    ph->w[0] = w0;
    ph->w[1] = w1;
    ph->w[2] = w2;
    atomic_store_explicit(&ph->next, 0, memory_order_relaxed);
    return ph;
}

/* Adds fn with its normed input: by a phase of its own, or, for few rows,
 * by fn itself. */
static cpu_phase_t *
phase_add_normed(kern_ctx_t *c, cpu_phase_pt fn, const float *norm,
    const uint32_t *idx, uint32_t n_rows, const kern_weight_t *w0,
    const kern_weight_t *w1, const kern_weight_t *w2)
{
    cpu_phase_t  *ph;
    int           own = n_rows <= CPU_OWN_ROWS;

    for ( ;; ) {
        ph = phase_add(c, own ? fn : phase_norm, 0, w0, w1, w2);
        ph->norm = norm;
        ph->idx = idx;
        ph->n_rows = n_rows;
        if (own++) {
            return ph;
        }
    }
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
    c->whole_seqs = 1;
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
        c->whole_seqs &= sq->n_rows <= c->tile_rows;
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
    cpu_phase_t         *ph;
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
    ph = phase_add_normed(c, phase_qkv, w->attn_norm, NULL, c->batch->n_rows,
                          w->wq, w->wk, w->wv);
    ph->layer = layer;
    if (!c->whole_seqs) {
        phase_add(c, phase_rope, layer, NULL, NULL, NULL);
    }
    phase_add(c, phase_attend, layer, w->wo, NULL, NULL);
    if (phase_wants_q(c, w->wo) && !phase_attend_quantizes(c)) {
        phase_add(c, phase_quantize_att, layer, NULL, NULL, NULL);
    }
    phase_add(c, phase_wo, layer, w->wo, NULL, NULL);
    return INFER_OK;
}

int
kern_cpu_ffn(kern_ctx_t *c, uint32_t layer, const kern_layer_t *w)
{
    cpu_phase_t         *ph;
    const kern_shape_t  *s = &c->shape;

    if (c->batch == NULL || layer >= s->n_layers
        || c->n_phases + 6 > c->max_phases
        || !phase_fits(w->gate, s->ffn, s->dim)
        || !phase_fits(w->up, s->ffn, s->dim)
        || !phase_fits(w->down, s->dim, s->ffn))
    {
        return INFER_INVALID;
    }
    ph = phase_add_normed(c, phase_gate_up, w->ffn_norm, NULL,
                          c->batch->n_rows, w->gate, w->up, NULL);
    ph->dest = w->down;
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
    phase_add_normed(c, phase_head, norm, c->batch->out_row,
                     c->batch->n_outs, w, NULL, NULL);
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
