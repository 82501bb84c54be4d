/*
 * cuda_ctx.c: opens and closes a context: device, memory (cuda_arena.c),
 * streams and events, the table of rotations, and a first kernel; and what
 * every call shares: a failed one is remembered.
 */

#include <math.h>
#include <string.h>

#include "blas.h"
#include "cuda_ctx.h"


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

/* One kernel, so that a device this plugin has no code for is found now. What
 * the default stream was given has to be there first: our streams do not
 * wait for it. */
static int
ctx_try(kern_ctx_t *c, infer_err_t *err)
{
    int          rc;
    cudaError_t  e;

    KERN_CUDA_TRY(c, cudaDeviceSynchronize());
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
        || (rc = cu_arena_device(c, err)) != INFER_OK
        || (rc = cu_arena_host(c, err)) != INFER_OK
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
    rc = cu_supports(shape, &why);
    if (rc == INFER_OK) {
        rc = cu_device_open(&c->device, shape->device, &why);
    }
    if (rc == INFER_OK) {
        rc = cu_shape_check(shape, c->device.cc, &c->weight_bytes, &why);
    }

    if (rc == INFER_OK) {
        c->dev.n_sms = c->device.n_sms;
        c->dev.cc = c->device.cc;
        c->dev.pdl = c->device.cc >= 90;
        cu_arena_sizes(c);
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
ctx_free_event(cudaEvent_t event)
{
    if (event != NULL) {
        (void) cudaEventDestroy(event);
    }
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
        ctx_free_event(c->slot[i].uploaded);
        ctx_free_event(c->slot[i].computed);
        ctx_free_event(c->slot[i].done);
    }
    cu_arena_free(c);
    cpu_team_close(c->team);
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
