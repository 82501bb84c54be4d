/*
 * cuda_arena.c: the memory of a context. Everything on the device is one
 * allocation, cut up here: first counted, then placed; so is everything that
 * is pinned on the host. What is left of the memory that may be used becomes
 * KV pages; nothing is allocated later except the graphs' own nodes.
 */

#include <string.h>

#include "cuda_ctx.h"

#define ARENA_FRACTION  0.9f

/* A region that is cut into pieces; base NULL: only counted. */
typedef struct {
    uint8_t  *base;
    size_t    used;
} arena_region_t;


static void *
arena_cut(arena_region_t *r, size_t bytes)
{
    void  *p = r->base != NULL ? r->base + r->used : NULL;

    r->used += (bytes + CU_ALIGN - 1) / CU_ALIGN * CU_ALIGN;
    return p;
}

static void
arena_cut_acts(arena_region_t *r, cu_acts_t *a, size_t rows, uint32_t n_in)
{
    size_t  n = rows * n_in;

    a->n_in = n_in;
    a->q = arena_cut(r, n);
    a->d = arena_cut(r, n / 32 * sizeof(float));
    a->dsum = arena_cut(r, n / 32 * sizeof(float));
    a->dsum2 = arena_cut(r, n / 16 * sizeof(float));
    a->h = arena_cut(r, n * sizeof(uint16_t));
    a->f8 = arena_cut(r, n);
    a->row = arena_cut(r, rows * sizeof(float));
}

/* The arrays whose whole is uploaded in each step come first, then the
 * table. */
static void
arena_cut_arrays(const kern_ctx_t *c, arena_region_t *r, cu_arrays_t *a)
{
    a->token = arena_cut(r, c->rows * sizeof(int32_t));
    a->row_seq = arena_cut(r, c->rows * sizeof(int32_t));
    a->row_pos = arena_cut(r, c->rows * sizeof(int32_t));
    a->seq_row0 = arena_cut(r, c->seqs * sizeof(int32_t));
    a->seq_rows = arena_cut(r, c->seqs * sizeof(int32_t));
    a->seq_pos0 = arena_cut(r, c->seqs * sizeof(int32_t));
    a->out_row = arena_cut(r, c->outs * sizeof(int32_t));
    a->sample_row = arena_cut(r, c->outs * sizeof(int32_t));
    a->table = arena_cut(r, (size_t) c->seqs * c->seq_pages * sizeof(int32_t));
}

static void
arena_cut_slot(kern_ctx_t *c, arena_region_t *r, cu_slot_t *s)
{
    size_t  logits = (size_t) c->outs * c->shape.vocab * sizeof(float);
    size_t  at = r->used;

    s->dev = r->base != NULL ? r->base + r->used : NULL;
    arena_cut_arrays(c, r, &s->d);
    c->plan_bytes = r->used - at;
    s->d_sample = arena_cut(r, c->outs * sizeof(cu_sample_t));
    s->d_edit = arena_cut(r, c->max_edits * sizeof(kern_edit_t));
    s->d_mask = arena_cut(r, (size_t) c->outs * c->mask_words
                           * sizeof(uint32_t));
    s->sampled = arena_cut(r, c->outs * sizeof(int32_t));
    s->logits = arena_cut(r, logits);
}

static void
arena_cut_pinned(kern_ctx_t *c, arena_region_t *r, cu_slot_t *s)
{
    size_t  logits = (size_t) c->outs * c->shape.vocab * sizeof(float);

    s->host = r->base != NULL ? r->base + r->used : NULL;
    arena_cut_arrays(c, r, &s->h);
    s->h_sample = arena_cut(r, c->outs * sizeof(cu_sample_t));
    s->h_edit = arena_cut(r, c->max_edits * sizeof(kern_edit_t));
    s->h_mask = arena_cut(r, (size_t) c->outs * c->mask_words
                           * sizeof(uint32_t));
    s->h_out = arena_cut(r, c->outs * sizeof(cu_sampled_t));
    s->h_logits = arena_cut(r, logits);
}

/* Everything but weights and KV pages. */
static void
arena_cut_work(kern_ctx_t *c, arena_region_t *r)
{
    uint32_t             i;
    const kern_shape_t  *s = &c->shape;
    size_t               t = c->rows, hk = (size_t) s->n_heads * s->head_dim;
    size_t               qkv = (s->n_heads + 2 * s->n_kv_heads) * s->head_dim;

    c->norms = arena_cut(r, (2 * (size_t) s->n_layers + 1) * s->dim
                          * sizeof(float));
    c->rope = arena_cut(r, (size_t) s->context * s->rope_dim * sizeof(float));
    c->x = arena_cut(r, t * s->dim * sizeof(float));
    c->qkv = arena_cut(r, t * qkv * sizeof(float));
    c->att = arena_cut(r, t * hk * sizeof(float));
    c->gate_up = arena_cut(r, t * 2 * s->ffn * sizeof(float));
    arena_cut_acts(r, &c->acts, t > c->outs ? t : c->outs, s->dim);
    arena_cut_acts(r, &c->acts_att, t, (uint32_t) hk);
    arena_cut_acts(r, &c->acts_hid, t, s->ffn);
    c->attn_work = arena_cut(r, cu_attn_work(c->seqs, s->n_heads,
                                           s->head_dim));
    c->sample_work = arena_cut(r, cu_sample_work(c->outs, s->vocab));
    c->dev.work = arena_cut(r, c->dev.work_bytes);

    for (i = 0; i < CU_DEPTH; i++) {
        arena_cut_slot(c, r, &c->slot[i]);
    }
}

/* Scratch of the linear that needs the most. */
static void
arena_linear_work(kern_ctx_t *c)
{
    int          lossy;
    size_t       n;
    uint32_t     i;
    uint64_t     bytes;
    cu_weight_t  w;

    for (i = 0; i < c->shape.n_tensors; i++) {
        if (cu_pack_plan(c->shape.tensor[i].type, c->shape.tensor[i].n_out,
                         c->shape.tensor[i].n_in,
                         (cu_family_e) c->shape.precision, &w, &bytes,
                         &lossy) == INFER_OK)
        {
            n = cu_linear_work(&w, c->rows);
            c->dev.work_bytes = n > c->dev.work_bytes ? n : c->dev.work_bytes;
        }
    }
}

void
cu_arena_sizes(kern_ctx_t *c)
{
    uint32_t             room, edits;
    const kern_shape_t  *s = &c->shape;

    room = cu_bucket_seqs(cu_bucket(s->max_seqs));
    c->seqs = room;
    c->rows = s->max_rows > room ? s->max_rows : room;
    c->outs = s->max_outs > room ? s->max_outs : room;
    c->seq_pages = (s->context + KERN_PAGE_TOKENS - 1) / KERN_PAGE_TOKENS;
    c->mask_words = (s->vocab + 31) / 32;
    edits = (s->vocab < s->context ? s->vocab : s->context) + CU_MAX_BIAS;
    c->max_edits = c->outs * (edits < KERN_MAX_EDITS ? edits
                                                     : KERN_MAX_EDITS);
    c->head_bytes = cu_kv_head_bytes(s->kv_type, s->head_dim);
    c->max_phases = 2 * s->n_layers + 2;
    arena_linear_work(c);
}

/* How many pages there are memory for; DEVICE with the sum when not even
 * one whole context fits. */
static int
arena_pages(kern_ctx_t *c, size_t fixed, infer_err_t *err)
{
    float                f;
    uint64_t             n, least, page = cu_kv_page_bytes(&c->shape), may;
    const kern_shape_t  *s = &c->shape;

    f = s->gpu_fraction > 0 && s->gpu_fraction <= 1 ? s->gpu_fraction
                                                    : ARENA_FRACTION;
    may = s->gpu_bytes != 0 ? s->gpu_bytes
                            : (uint64_t) ((double) f
                                          * (double) c->device.free_bytes);

    if (may > c->device.free_bytes) {
        return infer_err(err, INFER_DEVICE,
                         "gpu_memory of %llu bytes is more than the %zu that "
                         "are free on CUDA device %d (%s)",
                         (unsigned long long) may, c->device.free_bytes,
                         c->device.index, c->device.name);
    }

    least = c->seq_pages < s->n_pages ? c->seq_pages : s->n_pages;
    n = may > fixed ? (may - fixed) / page : 0;

    if (n < least) {
        return infer_err(err, INFER_DEVICE,
                         "CUDA device %d (%s) has too little memory: %llu "
                         "bytes are needed (%zu weights, %zu buffers, %llu "
                         "KV pages of one context), %llu of %zu free ones "
                         "may be used", c->device.index, c->device.name,
                         (unsigned long long) (fixed + least * page),
                         c->weight_bytes, fixed - c->weight_bytes,
                         (unsigned long long) (least * page),
                         (unsigned long long) may, c->device.free_bytes);
    }

    c->n_pages = n < s->n_pages ? (uint32_t) n : s->n_pages;
    return INFER_OK;
}

int
cu_arena_device(kern_ctx_t *c, infer_err_t *err)
{
    int           rc;
    size_t        work;
    cudaError_t   e;
    arena_region_t  r = { NULL, 0 };

    arena_cut_work(c, &r);
    work = r.used;
    rc = arena_pages(c, c->weight_bytes + work, err);
    if (rc != INFER_OK) {
        return rc;
    }

    c->arena_bytes = c->weight_bytes + work
                     + c->n_pages * cu_kv_page_bytes(&c->shape);
    e = cudaMalloc((void **) &c->arena, c->arena_bytes);
    if (e != cudaSuccess) {
        c->arena = NULL;
        (void) cudaGetLastError();
        return infer_err(err, INFER_DEVICE,
                         "CUDA device %d (%s) did not give %zu bytes: %s",
                         c->device.index, c->device.name, c->arena_bytes,
                         cudaGetErrorString(e));
    }

    c->weights = c->arena;
    r = (arena_region_t) { c->arena + c->weight_bytes, 0 };
    arena_cut_work(c, &r);
    c->kv = c->arena + c->weight_bytes + work;

    /* padded rows are computed on, so they must be numbers */
    KERN_CUDA_TRY(c, cudaMemset(c->arena + c->weight_bytes, 0, work));
    return INFER_OK;
}

int
cu_arena_host(kern_ctx_t *c, infer_err_t *err)
{
    uint32_t      i;
    cu_slot_t    *s;
    arena_region_t  r = { NULL, 0 };

    for (i = 0; i < CU_DEPTH; i++) {
        arena_cut_pinned(c, &r, &c->slot[i]);
    }
    c->pinned_bytes = r.used;
    if (cudaHostAlloc((void **) &c->pinned, r.used, cudaHostAllocMapped)
        != cudaSuccess)
    {
        c->pinned = NULL;
        (void) cudaGetLastError();
        return infer_err(err, INFER_NOMEM,
                         "no memory for %zu pinned bytes", r.used);
    }
    memset(c->pinned, 0, c->pinned_bytes);
    r = (arena_region_t) { c->pinned, 0 };

    c->norm_from = calloc(2 * (size_t) c->shape.n_layers + 1,
                          sizeof(c->norm_from[0]));
    c->phase = calloc(c->max_phases, sizeof(c->phase[0]));
    c->row_of = calloc(c->rows, sizeof(c->row_of[0]));

    for (i = 0; i < CU_DEPTH; i++) {
        s = &c->slot[i];
        arena_cut_pinned(c, &r, s);
        s->result = calloc(c->outs, sizeof(s->result[0]));
        s->asked = calloc(c->outs, 1);
        s->fetched = calloc(c->outs, 1);
        if (s->result == NULL || s->asked == NULL || s->fetched == NULL) {
            return infer_err(err, INFER_NOMEM, "no memory for results");
        }
    }

    return c->norm_from != NULL && c->phase != NULL && c->row_of != NULL
           ? INFER_OK : infer_err(err, INFER_NOMEM, "no memory for phases");
}

uint32_t
cu_n_pages(const kern_ctx_t *c)
{
    return c->n_pages;
}

void
cu_arena_free(kern_ctx_t *c)
{
    uint32_t    i;
    cu_slot_t  *s;

    for (i = 0; i < CU_DEPTH; i++) {
        s = &c->slot[i];
        free(s->result);
        free(s->asked);
        free(s->fetched);
    }
    if (c->arena != NULL) {
        (void) cudaFree(c->arena);
    }
    if (c->pinned != NULL) {
        (void) cudaFreeHost(c->pinned);
    }
    free(c->norm_from);
    free(c->phase);
    free(c->row_of);
}
