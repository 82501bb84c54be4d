/*
 * cpu_ctx.c: opens and closes a CPU context: the team, one scratch mapping
 * for everything that a step needs, and one mapping for all KV pages whose
 * untouched pages cost nothing.
 */

#include <math.h>
#include <string.h>
#include <sys/mman.h>

#include "cpu_ctx.h"
#include "kern_check.h"


static int
ctx_check(const kern_shape_t *s, infer_err_t *err)
{
    int  rc = kern_check_shape(s, err);

    if (rc != INFER_OK) {
        return rc;
    }
    if (s->n_threads == 0 || s->n_threads > KERN_MAX_THREADS
        || s->max_rows == 0 || s->max_outs == 0 || s->max_seqs == 0
        || s->max_rows > 1u << 20 || s->max_outs > 1u << 20
        || s->context == 0 || s->kv_type >= KERN_N_CPU_KV)
    {
        return infer_err(err, INFER_INVALID,
                         "%u threads, %u rows, %u outputs a step", s->n_threads,
                         s->max_rows, s->max_outs);
    }
    return INFER_OK;
}

static void *
ctx_map(size_t bytes)
{
    void  *p;

    p = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return p == MAP_FAILED ? NULL : p;
}

/* Cuts len bytes, 64-aligned, from the scratch mapping; with no mapping
 * yet only counts. */
static void *
ctx_cut(kern_ctx_t *c, size_t *used, size_t len)
{
    void  *p = c->scratch != NULL ? c->scratch + *used : NULL;

    *used += (len + 63) / 64 * 64;
    return p;
}

static void
ctx_cut_acts(kern_ctx_t *c, size_t *used, cpu_acts_t *a, size_t rows,
    size_t wide, size_t wide_f)
{
    size_t  blocks = rows * wide / CPU_BLOCK;

    a->q = ctx_cut(c, used, rows * wide);
    a->d = ctx_cut(c, used, blocks * sizeof(float));
    a->nsum = ctx_cut(c, used, blocks * sizeof(int32_t));
    a->hsum = ctx_cut(c, used, 2 * blocks * sizeof(int32_t));
    a->dsum = ctx_cut(c, used, blocks * sizeof(float));
    a->f = ctx_cut(c, used, rows * wide_f * sizeof(float));
}

static size_t
ctx_lay_out(kern_ctx_t *c)
{
    const kern_shape_t  *s = &c->shape;
    size_t               used = 0, wide, rows, t = s->max_rows;

    rows = t > s->max_outs ? t : s->max_outs;
    wide = s->n_heads * s->head_dim;
    wide = wide > s->dim ? wide : s->dim;

    c->x = ctx_cut(c, &used, t * s->dim * sizeof(float));
    c->qkv = ctx_cut(c, &used, t * c->qkv_dim * sizeof(float));
    c->att = ctx_cut(c, &used,
                     t * s->n_heads * s->head_dim * sizeof(float));
    c->hid = ctx_cut(c, &used, t * s->ffn * sizeof(float));
    c->cs = ctx_cut(c, &used, t * 2 * s->rope_dim * sizeof(float));
    ctx_cut_acts(c, &used, &c->acts, rows, wide, s->dim);
    ctx_cut_acts(c, &used, &c->acts_hid, t, s->ffn, 0);
    ctx_cut_acts(c, &used, &c->own, (size_t) s->n_threads * CPU_OWN_ROWS,
                 s->dim, s->dim);
    c->work = ctx_cut(c, &used,
                      s->n_threads * c->work_floats * sizeof(float));
    c->qtile = ctx_cut(c, &used, t * sizeof(c->qtile[0]));
    c->parts = ctx_cut(c, &used, CPU_SPLIT * (size_t) s->n_threads
                       * ((s->context + CPU_CHUNK - 1) / CPU_CHUNK)
                       * cpu_part_floats(c->v_dim) * sizeof(float));
    c->row_seq = ctx_cut(c, &used, t * sizeof(c->row_seq[0]));
    c->logits = ctx_cut(c, &used,
                        (size_t) s->max_outs * s->vocab * sizeof(float));
    return used;
}

static size_t
ctx_work_floats(const kern_ctx_t *c)
{
    size_t  attn, norm;

    attn = cpu_attn_work(c->v_dim)
           + (size_t) CPU_QMAX * c->shape.head_dim;
    norm = (size_t) c->shape.dim + 2 * CPU_ROW_TILE * CPU_FFN_UNIT;
    return ((attn > norm ? attn : norm) + 15) / 16 * 16;
}

static int
ctx_alloc(kern_ctx_t *c, infer_err_t *err)
{
    const kern_shape_t  *s = &c->shape;

    c->max_phases = 12 * s->n_layers + 16;
    c->phase = calloc(c->max_phases, sizeof(c->phase[0]));
    c->units = calloc(c->max_phases, sizeof(c->units[0]));
    c->own_of = calloc(s->n_threads, sizeof(c->own_of[0]));

    c->work_floats = ctx_work_floats(c);
    c->scratch_bytes = ctx_lay_out(c);
    c->scratch = ctx_map(c->scratch_bytes);
    c->page_bytes = kern_cpu_kv_page_bytes(s);
    c->kv_bytes = c->page_bytes * s->n_pages;
    c->kv = c->kv_bytes != 0 ? ctx_map(c->kv_bytes) : NULL;
    if (c->kv != NULL && c->page_bytes >= CPU_KV_HUGE) {
        (void) madvise(c->kv, c->kv_bytes, MADV_HUGEPAGE);
    }

    if (c->phase == NULL || c->units == NULL || c->own_of == NULL
        || c->scratch == NULL
        || (c->kv == NULL && c->kv_bytes != 0))
    {
        return infer_err(err, INFER_NOMEM,
                         "no memory for %zu bytes of scratch and %zu of KV "
                         "pages", c->scratch_bytes, c->kv_bytes);
    }
    (void) ctx_lay_out(c);

    if (s->rope_dim != 0) {
        c->inv_freq = malloc(s->rope_dim / 2 * sizeof(float));
        if (c->inv_freq == NULL) {
            return infer_err(err, INFER_NOMEM, "no memory for the rotation");
        }
        memcpy(c->inv_freq, s->rope_inv_freq,
               s->rope_dim / 2 * sizeof(float));
    }
    return INFER_OK;
}

int
kern_cpu_open(kern_ctx_t **ctx, const cpu_inner_t *in,
    const kern_shape_t *shape, infer_err_t *err)
{
    kern_ctx_t  *c;
    uint32_t     group;
    int          rc;

    rc = ctx_check(shape, err);
    if (rc != INFER_OK) {
        return rc;
    }

    c = calloc(1, sizeof(*c));
    if (c == NULL) {
        return infer_err(err, INFER_NOMEM, "no memory for the CPU context");
    }
    c->in = in;
    c->shape = *shape;
    c->shape.rope_inv_freq = NULL;
    c->shape.cpus = NULL;
    c->v_dim = (shape->head_dim + 15) / 16 * 16;
    c->qkv_dim = (shape->n_heads + 2 * shape->n_kv_heads) * shape->head_dim;
    group = shape->n_heads / shape->n_kv_heads;
    c->tile_rows = group < CPU_QTILE ? CPU_QTILE / group : 1;
    c->q_scale = 1.0f / sqrtf((float) shape->head_dim);

    c->shape.rope_inv_freq = shape->rope_inv_freq;
    rc = ctx_alloc(c, err);
    c->shape.rope_inv_freq = c->inv_freq;
    if (rc == INFER_OK) {
        rc = cpu_team_open(&c->team, shape->n_threads, c->max_phases,
                           shape->cpus, err);
    }
    if (rc != INFER_OK) {
        kern_cpu_close(c);
        return rc;
    }

    *ctx = c;
    return INFER_OK;
}

void
kern_cpu_close(kern_ctx_t *c)
{
    if (c == NULL) {
        return;
    }
    cpu_team_close(c->team);
    cpu_slabs_free(c);
    if (c->scratch != NULL) {
        munmap(c->scratch, c->scratch_bytes);
    }
    if (c->kv != NULL) {
        munmap(c->kv, c->kv_bytes);
    }
    free(c->inv_freq);
    free(c->phase);
    free(c->units);
    free(c->own_of);
    free(c);
}

uint64_t
kern_cpu_kv_page_bytes(const kern_shape_t *s)
{
    return cpu_kv_head_bytes(s->kv_type, s->head_dim,
                             (s->head_dim + 15) / 16 * 16)
           * s->n_kv_heads * s->n_layers;
}

void
kern_cpu_kv_zero(kern_ctx_t *c, uint32_t page)
{
    memset(c->kv + page * c->page_bytes, 0, c->page_bytes);
}

float *
kern_cpu_logits(kern_ctx_t *c, uint32_t out_idx)
{
    return c->logits + (size_t) out_idx * c->shape.vocab;
}

void
kern_cpu_parallel(kern_ctx_t *c, void (*fn)(void *arg, uint32_t i), void *arg,
    uint32_t n)
{
    cpu_team_parallel(c->team, c->shape.n_threads, fn, arg, n);
}
