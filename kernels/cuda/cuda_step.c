/*
 * cuda_step.c: a batch into plan arrays, phases into a list, results out.
 * The device wants decoding sequences first, row i being sequence i; the
 * batch may have them anywhere. Nothing is launched before submit().
 */

#include <string.h>

#include "cuda_ctx.h"


/* The slot of the step that is begun, of the oldest submitted one, and of
 * the one that was last waited for. */
static cu_slot_t *
step_begun(kern_ctx_t *c)
{
    return &c->slot[c->n_submitted % CU_DEPTH];
}

static cu_slot_t *
step_oldest(kern_ctx_t *c)
{
    return &c->slot[c->n_waited % CU_DEPTH];
}

static cu_slot_t *
step_last(kern_ctx_t *c)
{
    return &c->slot[(c->n_waited + CU_DEPTH - 1) % CU_DEPTH];
}

/* ---- begin ---- */

static int
step_check(const kern_ctx_t *c, const kern_batch_t *b)
{
    return b->n_rows != 0 && b->n_rows <= c->shape.max_rows
           && b->n_seqs != 0 && b->n_seqs <= c->shape.max_seqs
           && b->n_outs <= c->shape.max_outs
           ? INFER_OK : INFER_INVALID;
}

/* Sequence `from` of the batch becomes sequence `to` with rows from row0. */
static void
step_put(kern_ctx_t *c, cu_slot_t *s, const kern_batch_t *b, uint32_t from,
    uint32_t to, uint32_t row0)
{
    uint32_t           i, row, pages, end;
    const kern_seq_t  *q = &b->seq[from];
    cu_arrays_t       *h = &s->h;

    end = q->pos0 + q->n_rows;
    pages = (end + KERN_PAGE_TOKENS - 1) / KERN_PAGE_TOKENS;
    h->seq_row0[to] = (int32_t) row0;
    h->seq_rows[to] = (int32_t) q->n_rows;
    h->seq_pos0[to] = (int32_t) q->pos0;
    memcpy(h->table + (size_t) to * c->seq_pages, q->pages,
           pages * sizeof(int32_t));

    for (i = 0; i < q->n_rows; i++) {
        row = row0 + i;
        h->token[row] = b->token[q->first_row + i];
        h->row_seq[row] = (int32_t) to;
        h->row_pos[row] = (int32_t) (q->pos0 + i);
        c->row_of[q->first_row + i] = row;
    }

    s->table_pages = pages > s->table_pages ? pages : s->table_pages;
    s->plan.max_keys = end > s->plan.max_keys ? end : s->plan.max_keys;
    if (q->n_rows > 1 && q->n_rows > s->plan.max_rows) {
        s->plan.max_rows = q->n_rows;
    }
}

/* Decoding sequences, then the others; returns rows. */
static uint32_t
step_seqs(kern_ctx_t *c, cu_slot_t *s, const kern_batch_t *b)
{
    uint32_t  i, n = 0, rows = 0;

    for (i = 0; i < b->n_seqs; i++) {
        if (b->seq[i].n_rows == 1) {
            step_put(c, s, b, i, n++, rows++);
        }
    }

    s->plan.n_decode = n;

    for (i = 0; i < b->n_seqs; i++) {
        if (b->seq[i].n_rows != 1) {
            step_put(c, s, b, i, n++, rows);
            rows += b->seq[i].n_rows;
        }
    }

    return rows;
}

/* Fills up to the bucket's size with sequences that have nothing to do. */
static void
step_pad(cu_slot_t *s, uint32_t n_seqs, uint32_t room)
{
    uint32_t      i;
    cu_arrays_t  *h = &s->h;

    for (i = n_seqs; i < room; i++) {
        h->seq_row0[i] = (int32_t) i;
        h->seq_rows[i] = 0;
        h->seq_pos0[i] = 0;
        h->token[i] = 0;
        h->row_seq[i] = -1;
        h->row_pos[i] = 0;
    }

    s->plan.n_rows = room;
    s->plan.n_seqs = room;
    s->plan.n_decode = room;
    s->plan.n_outs = room;
}

static void
step_outs(kern_ctx_t *c, cu_slot_t *s, const kern_batch_t *b)
{
    uint32_t  i;

    for (i = 0; i < s->plan.n_outs; i++) {
        s->h.out_row[i] = i < b->n_outs ? (int32_t) c->row_of[b->out_row[i]]
                                        : -1;
        s->h.sample_row[i] = -1;
    }

    memset(s->asked, 0, s->plan.n_outs);
    memset(s->fetched, 0, s->plan.n_outs);
    s->n_outs = b->n_outs;
}

int
cu_begin(kern_ctx_t *c, const kern_batch_t *b)
{
    int         rc;
    uint32_t    room;
    cu_slot_t  *s = step_begun(c), *before;

    if (c->broken) {
        return INFER_DEVICE;
    }
    if (s->in_flight || step_check(c, b) != INFER_OK) {
        return INFER_INVALID;
    }
    rc = cu_load_end(c);
    if (rc != INFER_OK) {
        return rc;
    }

    before = &c->slot[(c->n_submitted + CU_DEPTH - 1) % CU_DEPTH];
    s->plan = (cu_plan_t) {
        .n_seqs = b->n_seqs, .n_outs = b->n_outs, .max_pages = c->seq_pages,
        .token = s->d.token, .sampled = before->sampled,
        .row_seq = s->d.row_seq, .row_pos = s->d.row_pos,
        .seq_row0 = s->d.seq_row0, .seq_rows = s->d.seq_rows,
        .seq_pos0 = s->d.seq_pos0, .table = s->d.table,
        .out_row = s->d.out_row
    };
    s->table_pages = 0;
    s->n_sampled = s->n_edits = s->n_mask_words = 0;
    s->bucket = -1;
    c->n_phases = 0;

    s->plan.n_rows = step_seqs(c, s, b);
    if (s->plan.n_decode == b->n_seqs) {
        room = cu_bucket_seqs(cu_bucket(b->n_seqs));
        if (b->n_outs <= room) {
            s->bucket = cu_bucket(b->n_seqs);
            s->plan.max_keys = c->shape.context;
            step_pad(s, b->n_seqs, room);
        }
    }

    step_outs(c, s, b);
    return INFER_OK;
}

/* ---- phases ---- */

static int
step_record(kern_ctx_t *c, cu_phase_t ph)
{
    if (c->broken) {
        return INFER_DEVICE;
    }
    if (c->n_phases == c->max_phases) {
        return INFER_INVALID;
    }
    c->phase[c->n_phases++] = ph;
    return INFER_OK;
}

/* Norm weights are the host's; each is sent when it is first seen, in the
 * stream of the kernels that read it. */
static int
step_norm(kern_ctx_t *c, uint32_t i, const float *w)
{
    if (c->norm_from[i] == w) {
        return INFER_OK;
    }

    KERN_CUDA_TRY(c, cudaMemcpyAsync(c->norms + (size_t) i * c->shape.dim, w,
                                     c->shape.dim * sizeof(float),
                                     cudaMemcpyHostToDevice, c->dev.stream));
    c->norm_from[i] = w;
    return INFER_OK;
}

int
cu_embed_phase(kern_ctx_t *c, const kern_weight_t *embd)
{
    return step_record(c, (cu_phase_t) { CU_EMBED, 0, { embd } });
}

int
cu_attn_phase(kern_ctx_t *c, uint32_t layer, const kern_layer_t *w)
{
    int  rc = step_norm(c, 2 * layer, w->attn_norm);

    return rc != INFER_OK ? rc
           : step_record(c, (cu_phase_t) { CU_ATTN, layer,
                                           { w->wq, w->wk, w->wv, w->wo } });
}

int
cu_ffn_phase(kern_ctx_t *c, uint32_t layer, const kern_layer_t *w)
{
    int  rc = step_norm(c, 2 * layer + 1, w->ffn_norm);

    return rc != INFER_OK ? rc
           : step_record(c, (cu_phase_t) { CU_FFN, layer,
                                           { w->gate, w->up, w->down } });
}

int
cu_head_phase(kern_ctx_t *c, const float *norm, const kern_weight_t *w)
{
    int  rc = step_norm(c, 2 * c->shape.n_layers, norm);

    return rc != INFER_OK ? rc
           : step_record(c, (cu_phase_t) { CU_HEAD, 0, { w } });
}

static void
step_sample_one(kern_ctx_t *c, cu_slot_t *s, const kern_sample_t *k)
{
    cu_sample_pack(k, c->shape.vocab, &s->h_sample[k->out], s->h_edit,
                   &s->n_edits, s->h_mask, &s->n_mask_words);
    s->h.sample_row[k->out] = s->h.out_row[k->out];
    s->asked[k->out] = 1;
    s->n_sampled++;
}

int
cu_sample_phase(kern_ctx_t *c, const kern_sample_t *list, uint32_t n)
{
    uint32_t              i;
    uint64_t              edits;
    cu_slot_t            *s = step_begun(c);
    const kern_sample_t  *k;

    for (i = 0; i < n; i++) {
        k = &list[i];
        edits = (uint64_t) s->n_edits + k->n_bias + k->n_ban + k->n_seen;
        if (k->out >= s->n_outs || s->asked[k->out]
            || edits > c->max_edits)
        {
            return INFER_INVALID;
        }
        step_sample_one(c, s, k);
    }

    return c->broken ? INFER_DEVICE : INFER_OK;
}

/* ---- submit ---- */

static int
step_upload(kern_ctx_t *c, cu_slot_t *s)
{
    size_t  table = (size_t) ((uint8_t *) s->h.table - s->host);
    size_t  pitch = c->seq_pages * sizeof(int32_t);

    KERN_CUDA_TRY(c, cudaMemcpyAsync(s->dev, s->host, table,
                                     cudaMemcpyHostToDevice, c->up));
    KERN_CUDA_TRY(c, cudaMemcpy2DAsync(s->d.table, pitch, s->h.table, pitch,
                                       s->table_pages * sizeof(int32_t),
                                       s->plan.n_seqs,
                                       cudaMemcpyHostToDevice, c->up));

    if (s->n_sampled != 0) {
        KERN_CUDA_TRY(c, cudaMemcpyAsync(s->d_sample, s->h_sample,
                                         s->n_outs * sizeof(cu_sample_t),
                                         cudaMemcpyHostToDevice, c->up));
    }
    if (s->n_edits != 0) {
        KERN_CUDA_TRY(c, cudaMemcpyAsync(s->d_edit, s->h_edit,
                                         s->n_edits * sizeof(kern_edit_t),
                                         cudaMemcpyHostToDevice, c->up));
    }
    if (s->n_mask_words != 0) {
        KERN_CUDA_TRY(c, cudaMemcpyAsync(s->d_mask, s->h_mask,
                                         s->n_mask_words * sizeof(uint32_t),
                                         cudaMemcpyHostToDevice, c->up));
    }

    KERN_CUDA_TRY(c, cudaEventRecord(s->uploaded, c->up));
    KERN_CUDA_TRY(c, cudaStreamWaitEvent(c->dev.stream, s->uploaded, 0));
    return INFER_OK;
}

/* Logits that the host samples, and the event that ends the step. */
static int
step_download(kern_ctx_t *c, cu_slot_t *s)
{
    size_t    v = c->shape.vocab;
    uint32_t  i, n;

    if (s->n_sampled == s->n_outs) {
        KERN_CUDA_TRY(c, cudaEventRecord(s->done, c->dev.stream));
        return INFER_OK;
    }

    KERN_CUDA_TRY(c, cudaEventRecord(s->computed, c->dev.stream));
    KERN_CUDA_TRY(c, cudaStreamWaitEvent(c->down, s->computed, 0));

    for (i = 0; i < s->n_outs; i += n) {
        for (n = 0; i + n < s->n_outs && !s->asked[i + n]; n++) {
            s->fetched[i + n] = 1;
        }
        if (n == 0) {
            n = 1;
            continue;
        }
        KERN_CUDA_TRY(c, cudaMemcpyAsync(s->h_logits + i * v,
                                         s->logits + i * v,
                                         n * v * sizeof(float),
                                         cudaMemcpyDeviceToHost, c->down));
    }

    KERN_CUDA_TRY(c, cudaEventRecord(s->done, c->down));
    return INFER_OK;
}

int
cu_submit(kern_ctx_t *c)
{
    int         rc;
    cu_slot_t  *s = step_begun(c);

    if (c->broken) {
        return INFER_DEVICE;
    }

    if ((rc = step_upload(c, s)) != INFER_OK
        || (rc = cu_run(c, s)) != INFER_OK
        || (rc = step_download(c, s)) != INFER_OK)
    {
        return rc;
    }

    s->in_flight = 1;
    c->n_submitted++;
    return INFER_OK;
}

/* ---- results ---- */

int
cu_wait(kern_ctx_t *c)
{
    uint32_t    i;
    cu_slot_t  *s = step_oldest(c);

    if (c->broken) {
        return INFER_DEVICE;
    }
    if (!s->in_flight) {
        return INFER_INVALID;
    }

    KERN_CUDA_TRY(c, cudaEventSynchronize(s->done));
    s->in_flight = 0;
    c->n_waited++;

    for (i = 0; i < s->n_outs; i++) {
        if (s->asked[i]) {
            cu_sample_unpack(&s->h_out[i], &s->h_sample[i],
                             &s->result[i]);
        }
    }

    return INFER_OK;
}

/* Those that the device sampled are fetched only when somebody asks. */
float *
cu_logits(kern_ctx_t *c, uint32_t out)
{
    size_t       v = c->shape.vocab;
    cu_slot_t   *s = step_last(c);
    cudaError_t  rc;

    if (c->broken || c->n_waited == 0 || out >= s->n_outs) {
        return NULL;
    }

    if (!s->fetched[out]) {
        rc = cudaMemcpyAsync(s->h_logits + out * v, s->logits + out * v,
                             v * sizeof(float), cudaMemcpyDeviceToHost,
                             c->down);
        if (rc == cudaSuccess) {
            rc = cudaStreamSynchronize(c->down);
        }
        if (rc != cudaSuccess) {
            (void) cu_failed(c, "cudaMemcpyAsync of logits", rc);
            return NULL;
        }
        s->fetched[out] = 1;
    }

    return s->h_logits + out * v;
}

const kern_sampled_t *
cu_sampled(kern_ctx_t *c, uint32_t out)
{
    cu_slot_t  *s = step_last(c);

    return !c->broken && c->n_waited != 0 && out < s->n_outs && s->asked[out]
           ? &s->result[out] : NULL;
}
