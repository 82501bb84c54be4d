/*
 * cpu_phase.c: a step as a list of phases, recorded by the caller and run
 * by the team as items of units: rows (norm, quantization), output stripes
 * (linears) or tiles of rows and kv heads (attention). A sum is never split.
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

/* Unit: a row. */
static void
phase_embed(kern_ctx_t *c, cpu_phase_t *ph, uint32_t row, uint32_t tid)
{
    const kern_seq_t  *sq = &c->batch->seq[c->row_seq[row]];

    (void) tid;
    cpu_weight_row(ph->w[0], (uint32_t) c->batch->token[row],
                   c->x + (size_t) row * c->shape.dim);
    phase_angles(c, c->cs + (size_t) row * 2 * c->shape.rope_dim,
                 sq->pos0 + row - sq->first_row);
}

/* Norm of rows from .. to - 1 into rows r0 + from .. of a, in the forms that
 * the phase's matrices want. */
static void
phase_norm_rows(kern_ctx_t *c, const cpu_phase_t *ph, const cpu_acts_t *a,
    uint32_t r0, uint32_t from, uint32_t to, float *tmp)
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
        x = c->x + (size_t) (ph->idx != NULL ? ph->idx[r] : r) * a->n_in;
        y = f ? a->f + (size_t) (r0 + r) * a->n_in : tmp;
        c->in->rmsnorm(y, x, ph->norm, c->shape.eps, a->n_in);
        if (q) {
            c->in->quantize(a, r0 + r, 0, a->n_in / CPU_BLOCK, y);
        }
    }
}

/* Unit: a row. */
static void
phase_norm(kern_ctx_t *c, cpu_phase_t *ph, uint32_t row, uint32_t tid)
{
    cpu_acts_t  a = c->acts;

    a.n_in = c->shape.dim;
    phase_norm_rows(c, ph, &a, 0, row, row + 1, phase_work(c, tid));
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
    if (ph->n_rows <= CPU_OWN_ROWS && c->own_of[tid].ph != ph) {
        phase_norm_rows(c, ph, &a, *r0, 0, ph->n_rows, phase_work(c, tid));
        c->own_of[tid].ph = ph;
    }
    return a;
}

/* Linears of many rows: unit is a stripe and a block of rows, blocks outside,
 * so that the activations of a block and the matrix stay in L2. Returns the
 * stripe; *r and *n are the rows. */
static uint32_t
phase_block(const cpu_phase_t *ph, uint32_t unit, uint32_t n_stripes,
    uint32_t *r, uint32_t *n)
{
    *r = unit / n_stripes * CPU_ROW_BLOCK;
    *n = ph->n_rows - *r;
    *n = *n < CPU_ROW_BLOCK ? *n : CPU_ROW_BLOCK;
    return unit % n_stripes;
}

/* Unit: a stripe of q, k or v and a row block. */
static void
phase_qkv(kern_ctx_t *c, cpu_phase_t *ph, uint32_t unit, uint32_t tid)
{
    uint32_t    i, s, r, n, r0;
    float      *y = c->qkv;
    cpu_acts_t  a = phase_input(c, ph, tid, &r0);

    s = phase_block(ph, unit, ph->w[0]->n_stripes + ph->w[1]->n_stripes
                              + ph->w[2]->n_stripes, &r, &n);
    for (i = 0; s >= ph->w[i]->n_stripes; i++) {
        s -= ph->w[i]->n_stripes;
        y += ph->w[i]->n_out;
    }
    c->in->linear(ph->w[i], s, &a, r0 + r, n,
                  y + (size_t) r * c->qkv_dim + s * CPU_STRIPE, c->qkv_dim,
                  0);
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
         + cpu_kv_head_bytes(sh->kv_type, dim, c->v_dim)
           * (layer * sh->n_kv_heads + g);
    c->in->kv_store(kv, sh->kv_type, pos % KERN_PAGE_TOKENS, k,
                    x + sh->n_kv_heads * dim, dim, c->v_dim);
}

/* Unit: a row and kv head. */
static void
phase_rope(kern_ctx_t *c, cpu_phase_t *ph, uint32_t unit, uint32_t tid)
{
    uint32_t  row = unit / c->shape.n_kv_heads;

    phase_rope_unit(c, ph->layer, &c->batch->seq[c->row_seq[row]], row,
                    unit % c->shape.n_kv_heads, phase_work(c, tid));
}

/* One tile of rows and kv head: heads h0 .. h1 - 1 of it as one call. */
static void
phase_attend_call(const kern_ctx_t *c, uint32_t layer, const cpu_qtile_t *t,
    uint32_t g, uint32_t h0, uint32_t h1, cpu_attn_t *a)
{
    const kern_shape_t  *sh = &c->shape;
    const kern_seq_t    *sq = &c->batch->seq[t->seq];
    uint32_t             r, h, dim = sh->head_dim;

    a->kv_type = sh->kv_type;
    a->head_dim = dim;
    a->v_dim = c->v_dim;
    a->page_bytes = c->page_bytes;
    a->pages = sq->pages;
    a->kv = c->kv + cpu_kv_head_bytes(sh->kv_type, dim, c->v_dim)
                    * (layer * sh->n_kv_heads + g);
    a->nq = 0;
    for (r = t->row; r < t->row + t->n_rows; r++) {
        for (h = h0; h < h1; h++) {
            a->q[a->nq] = c->qkv + (size_t) r * c->qkv_dim + h * dim;
            a->out[a->nq] = c->att + ((size_t) r * sh->n_heads + h) * dim;
            a->n_keys[a->nq++] = sq->pos0 + r - sq->first_row + 1;
        }
    }
}

/* Whether the outputs of one kv head's queries are whole blocks. */
static int
phase_attend_quantizes(const kern_ctx_t *c)
{
    const kern_shape_t  *s = &c->shape;

    return s->n_heads / s->n_kv_heads * s->head_dim % CPU_BLOCK == 0;
}

/* Quantizes a unit's outputs for ph->dest where it can. */
static void
phase_attend_done(kern_ctx_t *c, const cpu_phase_t *ph, const cpu_qtile_t *t,
    uint32_t g)
{
    cpu_acts_t  a = c->acts;
    uint32_t    r, wide;

    if (!phase_wants_q(c, ph->dest) || !phase_attend_quantizes(c)) {
        return;
    }
    a.n_in = c->shape.n_heads * c->shape.head_dim;
    wide = a.n_in / c->shape.n_kv_heads;
    for (r = t->row; r < t->row + t->n_rows; r++) {
        c->in->quantize(&a, r, g * wide / CPU_BLOCK, wide / CPU_BLOCK,
                        c->att + (size_t) r * a.n_in + g * wide);
    }
}

/* Unit: a tile of query rows and kv head. Where a tile is all that its
 * sequence has, its keys are stored here too. */
static void
phase_attend(kern_ctx_t *c, cpu_phase_t *ph, uint32_t unit, uint32_t tid)
{
    const cpu_qtile_t  *t = &c->qtile[unit / c->shape.n_kv_heads];
    uint32_t            g = unit % c->shape.n_kv_heads, r, h, n, end;
    uint32_t            group = c->shape.n_heads / c->shape.n_kv_heads;
    cpu_attn_t          a;

    a.work = phase_work(c, tid);
    for (r = t->row; c->whole_seqs && r < t->row + t->n_rows; r++) {
        phase_rope_unit(c, ph->layer, &c->batch->seq[t->seq], r, g, a.work);
    }
    end = (g + 1) * group;
    for (h = g * group; h < end; h += n) {
        n = end - h < CPU_QTILE ? end - h : CPU_QTILE;
        phase_attend_call(c, ph->layer, t, g, h, h + n, &a);
        c->in->attend(&a);
    }
    phase_attend_done(c, ph, t, g);
}

/* The parts of a tile and kv head. */
static float *
phase_parts(const kern_ctx_t *c, uint32_t unit)
{
    return c->parts + unit * c->n_chunks * cpu_part_floats(c->v_dim);
}

/* Unit: a tile of query rows, kv head and chunk of keys. */
static void
phase_attend_part(kern_ctx_t *c, cpu_phase_t *ph, uint32_t unit, uint32_t tid)
{
    uint32_t    chunk = unit % c->n_chunks, u = unit / c->n_chunks;
    uint32_t    g = u % c->shape.n_kv_heads;
    uint32_t    group = c->shape.n_heads / c->shape.n_kv_heads;
    cpu_attn_t  a;

    a.work = phase_work(c, tid);
    phase_attend_call(c, ph->layer, &c->qtile[u / c->shape.n_kv_heads], g,
                      g * group, (g + 1) * group, &a);
    c->in->attend_part(&a, chunk, phase_parts(c, u)
                                  + chunk * cpu_part_floats(c->v_dim));
}

/* Unit: a tile of query rows and kv head. */
static void
phase_attend_join(kern_ctx_t *c, cpu_phase_t *ph, uint32_t unit, uint32_t tid)
{
    const cpu_qtile_t  *t = &c->qtile[unit / c->shape.n_kv_heads];
    uint32_t            g = unit % c->shape.n_kv_heads;
    uint32_t            group = c->shape.n_heads / c->shape.n_kv_heads;
    cpu_attn_t          a;

    a.work = phase_work(c, tid);
    phase_attend_call(c, ph->layer, t, g, g * group, (g + 1) * group, &a);
    c->in->attend_join(&a, phase_parts(c, unit));
    phase_attend_done(c, ph, t, g);
}

/* Unit: a row. */
static void
phase_quantize_att(kern_ctx_t *c, cpu_phase_t *ph, uint32_t row, uint32_t tid)
{
    cpu_acts_t  a = c->acts;

    (void) ph;
    (void) tid;
    a.n_in = c->shape.n_heads * c->shape.head_dim;
    c->in->quantize(&a, row, 0, a.n_in / CPU_BLOCK,
                    c->att + (size_t) row * a.n_in);
}

/* Unit: a stripe and row block. Adds to the residual stream. */
static void
phase_residual(kern_ctx_t *c, const cpu_phase_t *ph, const cpu_acts_t *a,
    uint32_t unit)
{
    uint32_t  s, r, n;

    s = phase_block(ph, unit, ph->w[0]->n_stripes, &r, &n);
    c->in->linear(ph->w[0], s, a, r, n,
                  c->x + (size_t) r * c->shape.dim + s * CPU_STRIPE,
                  c->shape.dim, 1);
}

static void
phase_wo(kern_ctx_t *c, cpu_phase_t *ph, uint32_t unit, uint32_t tid)
{
    cpu_acts_t  a = c->acts;

    (void) tid;
    a.n_in = c->shape.n_heads * c->shape.head_dim;
    a.f = c->att;
    phase_residual(c, ph, &a, unit);
}

static void
phase_down(kern_ctx_t *c, cpu_phase_t *ph, uint32_t unit, uint32_t tid)
{
    cpu_acts_t  a = c->acts_hid;

    (void) tid;
    a.n_in = c->shape.ffn;
    a.f = c->hid;
    phase_residual(c, ph, &a, unit);
}

/* Unit: a stripe. */
static void
phase_head(kern_ctx_t *c, cpu_phase_t *ph, uint32_t s, uint32_t tid)
{
    uint32_t    r0;
    cpu_acts_t  a = phase_input(c, ph, tid, &r0);

    c->in->linear(ph->w[0], s, &a, r0, ph->n_rows,
                  c->logits + (size_t) s * CPU_STRIPE, c->shape.vocab, 0);
}

/* Unit: 96 hidden columns, gate and up together, so that a thread has whole
 * blocks of the activation and can quantize them for down, ph->dest, while
 * they are in its cache. */
static void
phase_gate_up(kern_ctx_t *c, cpu_phase_t *ph, uint32_t unit, uint32_t tid)
{
    uint32_t     s, r, i, n, valid, r0, col = unit * CPU_FFN_UNIT;
    cpu_acts_t   a = phase_input(c, ph, tid, &r0), hid = c->acts_hid;
    float       *gate = phase_work(c, tid), *y;
    float       *up = gate + CPU_ROW_TILE * CPU_FFN_UNIT;

    hid.n_in = c->shape.ffn;
    valid = c->shape.ffn - col;
    valid = valid < CPU_FFN_UNIT ? valid : CPU_FFN_UNIT;
    for (r = 0; r < ph->n_rows; r += n) {
        n = ph->n_rows - r;
        n = n < CPU_ROW_TILE ? n : CPU_ROW_TILE;
        for (s = 0; s * CPU_STRIPE < valid; s++) {
            c->in->linear(ph->w[0], 2 * unit + s, &a, r0 + r, n,
                          gate + s * CPU_STRIPE, CPU_FFN_UNIT, 0);
            c->in->linear(ph->w[1], 2 * unit + s, &a, r0 + r, n,
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


static uint32_t
phase_units(uint32_t n_rows, uint32_t n_stripes)
{
    return (n_rows + CPU_ROW_BLOCK - 1) / CPU_ROW_BLOCK * n_stripes;
}

/* Callers have made sure that there is room. */
static cpu_phase_t *
phase_add(kern_ctx_t *c, cpu_phase_pt fn, uint32_t units)
{
    cpu_phase_t  *ph = &c->phase[c->n_phases];

    c->units[c->n_phases++] = units;
    *ph = (cpu_phase_t) { .fn = fn, .n_rows = c->batch->n_rows };
    return ph;
}

/* Adds fn with its normed input: by a phase of its own, or, for few rows,
 * by fn itself. like: norm, matrices and rows. */
static cpu_phase_t *
phase_add_normed(kern_ctx_t *c, const cpu_phase_t *like, uint32_t units)
{
    cpu_phase_t  *ph;

    if (like->n_rows > CPU_OWN_ROWS) {
        ph = phase_add(c, NULL, like->n_rows);
        *ph = *like;
        ph->fn = phase_norm;
    }
    ph = phase_add(c, NULL, units);
    *ph = *like;
    return ph;
}

static int
phase_fits(const kern_weight_t *w, uint32_t n_out, uint32_t n_in)
{
    return w != NULL && w->n_out == n_out && w->n_in == n_in;
}

/* Few long units would leave threads idle: then attention is split into
 * chunks of keys, for two more waits a layer. Bits are the same. */
static void
phase_plan_split(kern_ctx_t *c, const kern_batch_t *b)
{
    const kern_shape_t  *sh = &c->shape;
    uint32_t             s, n, chunks = 0;

    c->n_chunks = 0;
    for (s = 0; s < b->n_seqs; s++) {
        n = (b->seq[s].pos0 + b->seq[s].n_rows + CPU_CHUNK - 1) / CPU_CHUNK;
        chunks = n > chunks ? n : chunks;
    }
    if (sh->n_threads > 1 && chunks >= CPU_SPLIT_MIN
        && c->n_qtiles * sh->n_kv_heads < CPU_SPLIT * sh->n_threads
        && sh->n_heads / sh->n_kv_heads <= CPU_QTILE)
    {
        c->n_chunks = chunks;
        c->whole_seqs = 0;
    }
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
        for (r = 0; r < sq->n_rows; r++) {
            c->row_seq[row + r] = s;
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

    for (s = 0; s < c->shape.n_threads; s++) {
        c->own_of[s].ph = NULL;
    }
    phase_plan_split(c, b);
    c->batch = b;
    return INFER_OK;
}

int
kern_cpu_embed(kern_ctx_t *c, const kern_weight_t *embd)
{
    if (c->batch == NULL || !phase_fits(embd, c->shape.vocab, c->shape.dim)) {
        return INFER_INVALID;
    }
    phase_add(c, phase_embed, c->batch->n_rows)->w[0] = embd;
    return INFER_OK;
}

int
kern_cpu_attn(kern_ctx_t *c, uint32_t layer, const kern_layer_t *w)
{
    cpu_phase_t         *ph;
    const kern_shape_t  *s = &c->shape;
    uint32_t             q = s->n_heads * s->head_dim;
    uint32_t             k = s->n_kv_heads * s->head_dim, n;

    if (c->batch == NULL || layer >= s->n_layers
        || c->n_phases + 10 > c->max_phases || !phase_fits(w->wq, q, s->dim)
        || !phase_fits(w->wk, k, s->dim) || !phase_fits(w->wv, k, s->dim)
        || !phase_fits(w->wo, s->dim, q))
    {
        return INFER_INVALID;
    }
    n = c->batch->n_rows;
    (void) phase_add_normed(c, &(cpu_phase_t) {
        .fn = phase_qkv, .layer = layer, .n_rows = n, .norm = w->attn_norm,
        .w = { w->wq, w->wk, w->wv }
    }, phase_units(n, w->wq->n_stripes + w->wk->n_stripes
                      + w->wv->n_stripes));
    if (!c->whole_seqs) {
        phase_add(c, phase_rope, n * s->n_kv_heads)->layer = layer;
    }
    if (c->n_chunks != 0) {
        phase_add(c, phase_attend_part, c->n_qtiles * s->n_kv_heads
                                        * c->n_chunks)->layer = layer;
    }
    ph = phase_add(c, c->n_chunks != 0 ? phase_attend_join : phase_attend,
                   c->n_qtiles * s->n_kv_heads);
    ph->layer = layer;
    ph->dest = w->wo;
    if (phase_wants_q(c, w->wo) && !phase_attend_quantizes(c)) {
        (void) phase_add(c, phase_quantize_att, n);
    }
    phase_add(c, phase_wo, phase_units(n, w->wo->n_stripes))->w[0] = w->wo;
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
    (void) phase_add_normed(c, &(cpu_phase_t) {
        .fn = phase_gate_up, .n_rows = c->batch->n_rows,
        .norm = w->ffn_norm, .w = { w->gate, w->up }, .dest = w->down
    }, (s->ffn + CPU_FFN_UNIT - 1) / CPU_FFN_UNIT);
    phase_add(c, phase_down, phase_units(c->batch->n_rows,
                                         w->down->n_stripes))->w[0] = w->down;
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
    if (c->batch->n_outs != 0) {
        (void) phase_add_normed(c, &(cpu_phase_t) {
            .fn = phase_head, .n_rows = c->batch->n_outs, .norm = norm,
            .idx = c->batch->out_row, .w = { w }
        }, w->n_stripes);
    }
    return INFER_OK;
}

static void
phase_run(void *arg, uint32_t item, uint32_t unit, uint32_t tid)
{
    kern_ctx_t  *c = arg;

    c->phase[item].fn(c, &c->phase[item], unit, tid);
}

int
kern_cpu_submit(kern_ctx_t *c)
{
    if (c->batch == NULL || c->n_phases == 0) {
        return INFER_INVALID;
    }
    cpu_team_start(c->team, phase_run, c, c->units, c->n_phases);
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
