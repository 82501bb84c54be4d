/*
 * cuda_ctx.c: opens and closes a context. Everything on the device is one
 * allocation, cut up here: first counted, then placed. What is left of the
 * memory that may be used becomes KV pages; nothing is allocated later
 * except the graphs' own nodes.
 */

#include <math.h>
#include <string.h>

#include "blas.h"
#include "cuda_ctx.h"

#define CTX_FRACTION  0.9f
#define CTX_ANY_CC    120       /* "some device" for what is asked at nginx -t */

_Static_assert((int) KERN_PREC_Q8 == (int) CU_Q8
               && (int) KERN_PREC_BF16 == (int) CU_BF16
               && (int) KERN_PREC_F16 == (int) CU_F16
               && (int) KERN_PREC_W4A16 == (int) CU_W4A16
               && (int) KERN_PREC_FP8 == (int) CU_FP8
               && (int) KERN_PREC_W8A8 == (int) CU_W8A8
               && (int) KERN_N_PRECS == (int) CU_N_FAMILIES,
               "precisions are numbered as families");

/* A region that is cut into pieces; base NULL: only counted. */
typedef struct {
    uint8_t  *base;
    size_t    used;
} ctx_region_t;


static void *
ctx_cut(ctx_region_t *r, size_t bytes)
{
    void  *p = r->base != NULL ? r->base + r->used : NULL;

    r->used += (bytes + CU_ALIGN - 1) / CU_ALIGN * CU_ALIGN;
    return p;
}

int
cu_failed(kern_ctx_t *c, const char *call, cudaError_t rc)
{
    /* the runtime's memory of it is not for the next one who asks */
    (void) cudaGetLastError();
    if (!c->broken) {
        c->broken = 1;
        snprintf(c->error, sizeof(c->error), "%.80s: %s (%d)", call,
                 cudaGetErrorString(rc), (int) rc);
    }
    return INFER_DEVICE;
}

int
cu_launched(kern_ctx_t *c, const char *what, int rc)
{
    cudaError_t  last;

    if (rc == INFER_OK) {
        return INFER_OK;
    }

    last = cudaGetLastError();
    return cu_failed(c, what, last != cudaSuccess ? last : cudaErrorUnknown);
}

const char *
cu_error(kern_ctx_t *c)
{
    return c->broken ? c->error : NULL;
}

/* ---- what can be served ---- */

static cu_attn_t
ctx_attn(const kern_shape_t *s)
{
    return (cu_attn_t) {
        .head_bytes = cu_kv_head_bytes(s->kv_type, s->head_dim),
        .type = s->kv_type, .n_heads = s->n_heads,
        .n_kv_heads = s->n_kv_heads, .head_dim = s->head_dim,
        .rope_dim = s->rope_dim
    };
}

static int
ctx_check(const kern_shape_t *s, infer_err_t *err)
{
    if (s->n_layers == 0 || s->dim == 0 || s->dim % 32 != 0
        || s->dim > 1u << 17 || s->ffn == 0 || s->ffn % 32 != 0
        || s->ffn > 1u << 19 || s->vocab == 0 || s->vocab > 1u << 24)
    {
        return infer_err(err, INFER_UNSUPPORTED,
                         "model width %u, ffn %u or vocabulary %u cannot be "
                         "served: widths must be multiples of 32", s->dim,
                         s->ffn, s->vocab);
    }

    if (s->n_kv_heads == 0 || s->n_heads == 0 || s->n_heads > 1024
        || s->n_heads % s->n_kv_heads != 0 || s->head_dim == 0
        || s->head_dim % 2 != 0 || s->head_dim > 256
        || s->n_heads * s->head_dim % 32 != 0 || s->rope_dim > s->head_dim
        || s->rope_dim % 2 != 0)
    {
        return infer_err(err, INFER_UNSUPPORTED,
                         "attention of %u heads, %u kv heads and %u values a "
                         "head cannot be served", s->n_heads, s->n_kv_heads,
                         s->head_dim);
    }

    if (s->n_threads == 0 || s->n_threads > KERN_MAX_THREADS
        || s->max_rows == 0 || s->max_outs == 0 || s->max_seqs == 0
        || s->max_rows > 1u << 16 || s->max_outs > 1u << (CU_BUCKETS - 1)
        || s->max_seqs > 1u << (CU_BUCKETS - 1) || s->context == 0
        || s->n_pages == 0 || s->kv_type >= KERN_N_KV_TYPES
        || s->precision >= KERN_N_PRECS)
    {
        return infer_err(err, INFER_INVALID,
                         "%u threads, %u rows, %u outputs, %u sequences a "
                         "step, %u pages", s->n_threads, s->max_rows,
                         s->max_outs, s->max_seqs, s->n_pages);
    }

    return INFER_OK;
}

/* Every tensor has a form, and kernels for it are there. *bytes: of all. */
static int
ctx_check_tensors(const kern_shape_t *s, int cc, size_t *bytes,
    infer_err_t *err)
{
    int          rc, lossy;
    uint32_t     i;
    uint64_t     n;
    cu_weight_t  w;

    *bytes = 0;

    for (i = 0; i < s->n_tensors; i++) {
        if (cu_pack_plan(s->tensor[i].type, s->tensor[i].n_out,
                         s->tensor[i].n_in, (cu_family_e) s->precision, &w,
                         &n, &lossy) != INFER_OK)
        {
            return infer_err(err, INFER_UNSUPPORTED,
                             "precision \"%s\" cannot serve a tensor of type "
                             "%s", kern_prec_name(s->precision),
                             kern_type_name(s->tensor[i].type));
        }

        rc = cu_linear_supports(&w, cc, err);
        if (rc != INFER_OK) {
            return rc;
        }
        *bytes += (n + CU_ALIGN - 1) / CU_ALIGN * CU_ALIGN;
    }

    return INFER_OK;
}

static int
ctx_check_all(const kern_shape_t *s, int cc, size_t *weight_bytes,
    infer_err_t *err)
{
    int        rc = ctx_check(s, err);
    cu_attn_t  attn;

    if (rc != INFER_OK) {
        return rc;
    }

    attn = ctx_attn(s);
    rc = cu_attn_supports(&attn, cc, err);
    return rc == INFER_OK ? ctx_check_tensors(s, cc, weight_bytes, err) : rc;
}

int
cu_supports(const kern_shape_t *shape, infer_err_t *err)
{
    size_t  bytes;

    return ctx_check_all(shape, CTX_ANY_CC, &bytes, err);
}

uint64_t
cu_kv_page_bytes(const kern_shape_t *s)
{
    return (uint64_t) cu_kv_head_bytes(s->kv_type, s->head_dim)
           * s->n_kv_heads * s->n_layers;
}

uint32_t
cu_n_pages(const kern_ctx_t *c)
{
    return c->n_pages;
}

/* ---- layout ---- */

static void
ctx_cut_acts(ctx_region_t *r, cu_acts_t *a, size_t rows, uint32_t n_in)
{
    size_t  n = rows * n_in;

    a->n_in = n_in;
    a->q = ctx_cut(r, n);
    a->d = ctx_cut(r, n / 32 * sizeof(float));
    a->dsum = ctx_cut(r, n / 32 * sizeof(float));
    a->dsum2 = ctx_cut(r, n / 16 * sizeof(float));
    a->h = ctx_cut(r, n * sizeof(uint16_t));
    a->f8 = ctx_cut(r, n);
    a->row = ctx_cut(r, rows * sizeof(float));
}

/* The arrays whose whole is uploaded in each step come first, then the
 * table. Returns its offset in *table_at. */
static void
ctx_cut_arrays(const kern_ctx_t *c, ctx_region_t *r, cu_arrays_t *a)
{
    a->token = ctx_cut(r, c->rows * sizeof(int32_t));
    a->row_seq = ctx_cut(r, c->rows * sizeof(int32_t));
    a->row_pos = ctx_cut(r, c->rows * sizeof(int32_t));
    a->seq_row0 = ctx_cut(r, c->seqs * sizeof(int32_t));
    a->seq_rows = ctx_cut(r, c->seqs * sizeof(int32_t));
    a->seq_pos0 = ctx_cut(r, c->seqs * sizeof(int32_t));
    a->out_row = ctx_cut(r, c->outs * sizeof(int32_t));
    a->sample_row = ctx_cut(r, c->outs * sizeof(int32_t));
    a->table = ctx_cut(r, (size_t) c->seqs * c->seq_pages * sizeof(int32_t));
}

static void
ctx_cut_slot(kern_ctx_t *c, ctx_region_t *r, cu_slot_t *s)
{
    size_t  logits = (size_t) c->outs * c->shape.vocab * sizeof(float);
    size_t  at = r->used;

    s->dev = r->base != NULL ? r->base + r->used : NULL;
    ctx_cut_arrays(c, r, &s->d);
    c->plan_bytes = r->used - at;
    s->d_sample = ctx_cut(r, c->outs * sizeof(cu_sample_t));
    s->d_edit = ctx_cut(r, c->max_edits * sizeof(kern_edit_t));
    s->d_mask = ctx_cut(r, (size_t) c->outs * c->mask_words
                           * sizeof(uint32_t));
    s->sampled = ctx_cut(r, c->outs * sizeof(int32_t));
    s->logits = ctx_cut(r, logits);
}

static void
ctx_cut_pinned(kern_ctx_t *c, ctx_region_t *r, cu_slot_t *s)
{
    size_t  logits = (size_t) c->outs * c->shape.vocab * sizeof(float);

    s->host = r->base != NULL ? r->base + r->used : NULL;
    ctx_cut_arrays(c, r, &s->h);
    s->h_sample = ctx_cut(r, c->outs * sizeof(cu_sample_t));
    s->h_edit = ctx_cut(r, c->max_edits * sizeof(kern_edit_t));
    s->h_mask = ctx_cut(r, (size_t) c->outs * c->mask_words
                           * sizeof(uint32_t));
    s->h_out = ctx_cut(r, c->outs * sizeof(cu_sampled_t));
    s->h_logits = ctx_cut(r, logits);
}

/* Everything but weights and KV pages. */
static void
ctx_cut_work(kern_ctx_t *c, ctx_region_t *r)
{
    uint32_t             i;
    const kern_shape_t  *s = &c->shape;
    size_t               t = c->rows, hk = (size_t) s->n_heads * s->head_dim;
    size_t               qkv = (s->n_heads + 2 * s->n_kv_heads) * s->head_dim;

    c->norms = ctx_cut(r, (2 * (size_t) s->n_layers + 1) * s->dim
                          * sizeof(float));
    c->rope = ctx_cut(r, (size_t) s->context * s->rope_dim * sizeof(float));
    c->x = ctx_cut(r, t * s->dim * sizeof(float));
    c->qkv = ctx_cut(r, t * qkv * sizeof(float));
    c->att = ctx_cut(r, t * hk * sizeof(float));
    c->gate_up = ctx_cut(r, t * 2 * s->ffn * sizeof(float));
    c->gate_up_counters = ctx_cut(r, cu_gate_up_counters(c->rows, s->ffn)
                                     * sizeof(uint32_t));
    ctx_cut_acts(r, &c->acts, t > c->outs ? t : c->outs, s->dim);
    ctx_cut_acts(r, &c->acts_att, t, (uint32_t) hk);
    ctx_cut_acts(r, &c->acts_hid, t, s->ffn);
    c->attn_work = ctx_cut(r, cu_attn_work(c->seqs, s->n_heads,
                                           s->head_dim));
    c->sample_work = ctx_cut(r, cu_sample_work(c->outs, s->vocab));
    c->dev.work = ctx_cut(r, c->dev.work_bytes);

    for (i = 0; i < CU_DEPTH; i++) {
        ctx_cut_slot(c, r, &c->slot[i]);
    }
}

/* Scratch of the linear that needs the most. */
static void
ctx_linear_work(kern_ctx_t *c)
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

static void
ctx_sizes(kern_ctx_t *c)
{
    uint32_t             room;
    uint64_t             edits;
    const kern_shape_t  *s = &c->shape;

    room = cu_bucket_seqs(cu_bucket(s->max_seqs));
    c->seqs = room;
    c->rows = s->max_rows > room ? s->max_rows : room;
    c->outs = s->max_outs > room ? s->max_outs : room;
    c->seq_pages = (s->context + KERN_PAGE_TOKENS - 1) / KERN_PAGE_TOKENS;
    c->mask_words = (s->vocab + 31) / 32;
    edits = (uint64_t) c->outs
            * ((s->vocab < s->context ? s->vocab : s->context) + CU_MAX_BIAS);
    c->max_edits = edits > UINT32_MAX ? UINT32_MAX : (uint32_t) edits;
    c->head_bytes = cu_kv_head_bytes(s->kv_type, s->head_dim);
    c->max_phases = 2 * s->n_layers + 2;
    ctx_linear_work(c);
}

/* How many pages there are memory for; DEVICE with the sum when not even
 * one whole context fits. */
static int
ctx_pages(kern_ctx_t *c, size_t fixed, infer_err_t *err)
{
    float                f;
    uint64_t             n, least, page = cu_kv_page_bytes(&c->shape), may;
    const kern_shape_t  *s = &c->shape;

    f = s->gpu_fraction > 0 && s->gpu_fraction <= 1 ? s->gpu_fraction
                                                    : CTX_FRACTION;
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

static int
ctx_alloc_device(kern_ctx_t *c, infer_err_t *err)
{
    int           rc;
    size_t        work;
    cudaError_t   e;
    ctx_region_t  r = { NULL, 0 };

    ctx_cut_work(c, &r);
    work = r.used;
    rc = ctx_pages(c, c->weight_bytes + work, err);
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
    r = (ctx_region_t) { c->arena + c->weight_bytes, 0 };
    ctx_cut_work(c, &r);
    c->kv = c->arena + c->weight_bytes + work;

    /* padded rows are computed on, so they must be numbers */
    KERN_CUDA_TRY(c, cudaMemset(c->arena + c->weight_bytes, 0, work));
    return INFER_OK;
}

static int
ctx_alloc_host(kern_ctx_t *c, infer_err_t *err)
{
    uint32_t      i;
    cu_slot_t    *s;
    ctx_region_t  r = { NULL, 0 };

    for (i = 0; i < CU_DEPTH; i++) {
        ctx_cut_pinned(c, &r, &c->slot[i]);
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
    r = (ctx_region_t) { c->pinned, 0 };

    c->norm_from = calloc(2 * (size_t) c->shape.n_layers + 1,
                          sizeof(c->norm_from[0]));
    c->phase = calloc(c->max_phases, sizeof(c->phase[0]));
    c->row_of = calloc(c->rows, sizeof(c->row_of[0]));

    for (i = 0; i < CU_DEPTH; i++) {
        s = &c->slot[i];
        ctx_cut_pinned(c, &r, s);
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

static int
ctx_streams(kern_ctx_t *c)
{
    uint32_t  i;

    KERN_CUDA_TRY(c, cudaStreamCreateWithFlags(&c->dev.stream,
                                               cudaStreamNonBlocking));
    KERN_CUDA_TRY(c, cudaStreamCreateWithFlags(&c->up,
                                               cudaStreamNonBlocking));
    KERN_CUDA_TRY(c, cudaStreamCreateWithFlags(&c->down,
                                               cudaStreamNonBlocking));

    for (i = 0; i < CU_DEPTH; i++) {
        KERN_CUDA_TRY(c, cudaEventCreateWithFlags(&c->slot[i].uploaded,
                                                  cudaEventDisableTiming));
        KERN_CUDA_TRY(c, cudaEventCreateWithFlags(&c->slot[i].computed,
                                                  cudaEventDisableTiming));
        KERN_CUDA_TRY(c, cudaEventCreateWithFlags(&c->slot[i].done,
                                                  cudaEventDisableTiming));
    }

    return INFER_OK;
}

/* ---- rotation ---- */

typedef struct {
    const kern_shape_t  *shape;
    float               *table;       /* [S, rope_dim / 2] cos, sin */
} ctx_rope_t;

#define CTX_ROPE_ROWS  256

static void
ctx_rope_rows(void *arg, uint32_t unit)
{
    uint32_t       i, pos, end, half;
    double         angle;
    float         *p;
    ctx_rope_t    *job = arg;
    const kern_shape_t  *s = job->shape;

    half = s->rope_dim / 2;
    end = (unit + 1) * CTX_ROPE_ROWS;
    end = end < s->context ? end : s->context;

    for (pos = unit * CTX_ROPE_ROWS; pos < end; pos++) {
        p = job->table + (size_t) pos * s->rope_dim;
        for (i = 0; i < half; i++) {
            angle = (double) pos * s->rope_inv_freq[i];
            p[2 * i] = (float) cos(angle) * s->rope_attn_scale;
            p[2 * i + 1] = (float) sin(angle) * s->rope_attn_scale;
        }
    }
}

/* The same numbers as the CPU's. */
static int
ctx_rope(kern_ctx_t *c, infer_err_t *err)
{
    size_t       bytes = (size_t) c->shape.context * c->shape.rope_dim
                         * sizeof(float);
    ctx_rope_t   job = { .shape = &c->shape };
    cudaError_t  rc;

    if (bytes == 0) {
        return INFER_OK;
    }

    job.table = malloc(bytes);
    if (job.table == NULL) {
        return infer_err(err, INFER_NOMEM, "no memory for the rotation");
    }

    cu_parallel(c, ctx_rope_rows, &job,
                (c->shape.context + CTX_ROPE_ROWS - 1) / CTX_ROPE_ROWS);
    rc = cudaMemcpy(c->rope, job.table, bytes, cudaMemcpyHostToDevice);
    free(job.table);
    return rc == cudaSuccess ? INFER_OK : cu_failed(c, "cudaMemcpy", rc);
}

/* One kernel, so that a device this plugin has no code for is found now. */
static int
ctx_try(kern_ctx_t *c, infer_err_t *err)
{
    int          rc;
    cudaError_t  e;

    rc = cu_quantize(&c->dev, c->x, 1, c->shape.dim,
                     1u << c->shape.precision, &c->acts);
    e = cudaGetLastError();
    if (e == cudaSuccess) {
        e = cudaStreamSynchronize(c->dev.stream);
    }
    if (rc == INFER_OK && e == cudaSuccess) {
        return INFER_OK;
    }

    if (e == cudaErrorNoKernelImageForDevice) {
        return infer_err(err, INFER_DEVICE,
                         "the CUDA plugin was built without code for compute "
                         "capability %d.%d of device %d (%s)",
                         c->device.cc / 10, c->device.cc % 10,
                         c->device.index, c->device.name);
    }
    return cu_failed(c, "the first kernel", e);
}

/* ---- open and close ---- */

static int
ctx_start(kern_ctx_t *c, infer_err_t *err)
{
    int  rc;

    if ((rc = cpu_team_open(&c->team, c->shape.n_threads, 1, c->shape.cpus,
                            err)) != INFER_OK
        || (rc = ctx_alloc_device(c, err)) != INFER_OK
        || (rc = ctx_alloc_host(c, err)) != INFER_OK
        || (rc = ctx_streams(c)) != INFER_OK
        || (rc = ctx_rope(c, err)) != INFER_OK
        || (rc = ctx_try(c, err)) != INFER_OK)
    {
        return rc;
    }

    c->nvml = cu_nvml_open(c->device.pci);
    return INFER_OK;
}

int
cu_open(kern_ctx_t **ctx, const kern_ops_t *ops, const kern_shape_t *shape,
    infer_err_t *err)
{
    int           rc;
    kern_ctx_t   *c;
    infer_err_t   why = { 0, "" };

    (void) ops;
    c = calloc(1, sizeof(*c));
    if (c == NULL) {
        return infer_err(err, INFER_NOMEM, "no memory for the CUDA context");
    }

    c->shape = *shape;
    rc = ctx_check(shape, &why);
    if (rc == INFER_OK) {
        rc = cu_device_open(&c->device, shape->device, &why);
    }
    if (rc == INFER_OK) {
        rc = ctx_check_all(shape, c->device.cc, &c->weight_bytes, &why);
    }

    if (rc == INFER_OK) {
        c->dev.n_sms = c->device.n_sms;
        c->dev.cc = c->device.cc;
        c->dev.pdl = c->device.cc >= 90;
        ctx_sizes(c);
        if (c->dev.work_bytes != 0) {
            /* without it own kernels do the work; q8 never needs it */
            (void) cu_blas_open(&c->dev.blas, NULL, NULL);
        }
        rc = ctx_start(c, &why);
    }

    if (rc != INFER_OK) {
        (void) infer_err(err, rc, "%s", why.text[0] ? why.text : c->error);
        cu_close(c);
        return rc;
    }

    c->shape.rope_inv_freq = NULL;
    c->shape.cpus = NULL;
    c->shape.tensor = NULL;
    *ctx = c;
    return INFER_OK;
}

static void
ctx_free_slot(cu_slot_t *s)
{
    if (s->uploaded != NULL) {
        (void) cudaEventDestroy(s->uploaded);
    }
    if (s->computed != NULL) {
        (void) cudaEventDestroy(s->computed);
    }
    if (s->done != NULL) {
        (void) cudaEventDestroy(s->done);
    }
    free(s->result);
    free(s->asked);
    free(s->fetched);
}

static void
ctx_free_stream(cudaStream_t stream)
{
    if (stream != NULL) {
        (void) cudaStreamSynchronize(stream);
        (void) cudaStreamDestroy(stream);
    }
}

void
cu_close(kern_ctx_t *c)
{
    uint32_t  i;

    if (c == NULL) {
        return;
    }

    cu_nvml_close(c->nvml);
    (void) cu_load_end(c);
    if (c->dev.stream != NULL) {
        (void) cudaStreamSynchronize(c->dev.stream);
    }
    cu_graphs_free(c);
    ctx_free_stream(c->up);
    ctx_free_stream(c->down);
    ctx_free_stream(c->dev.stream);
    cu_blas_close(c->dev.blas);
    for (i = 0; i < CU_DEPTH; i++) {
        ctx_free_slot(&c->slot[i]);
    }
    if (c->arena != NULL) {
        (void) cudaFree(c->arena);
    }
    if (c->pinned != NULL) {
        (void) cudaFreeHost(c->pinned);
    }
    cpu_team_close(c->team);
    free(c->norm_from);
    free(c->phase);
    free(c->row_of);
    free(c);
}

void
cu_kv_zero(kern_ctx_t *c, uint32_t page)
{
    size_t       layer = (size_t) c->n_pages * c->shape.n_kv_heads
                         * c->head_bytes;
    size_t       bytes = c->shape.n_kv_heads * c->head_bytes;
    cudaError_t  rc;

    rc = cudaMemset2DAsync(c->kv + page * bytes, layer, 0, bytes,
                           c->shape.n_layers, c->dev.stream);
    if (rc != cudaSuccess) {
        (void) cu_failed(c, "cudaMemset2DAsync", rc);
    }
}

/* ---- the team ---- */

void
cu_parallel(kern_ctx_t *c, void (*fn)(void *arg, uint32_t i), void *arg,
    uint32_t n)
{
    cpu_team_parallel(c->team, c->shape.n_threads, fn, arg, n);
}
