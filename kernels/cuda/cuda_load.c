/*
 * cuda_load.c: weights from file order to the device. The team packs a
 * matrix into an image on the host; the image goes through two pinned
 * buffers, so that copying into one overlaps the transfer of the other.
 * Staging memory lives from the first pack() to the first step.
 */

#include <string.h>
#include <sys/mman.h>

#include "cuda_ctx.h"

#define LOAD_PIECE  (8u << 20)     /* bytes of a pinned buffer */
#define LOAD_RAW    (1u << 20)     /* bytes of the file in one unit */
#define LOAD_UNIT   (256u << 10)   /* bytes of one copy into a buffer */

typedef struct cu_stage_s {
    uint8_t      *piece[2];        /* pinned */
    cudaEvent_t   sent[2];
    uint64_t      n_pieces;
} cu_stage_t;

/* One matrix being packed. */
typedef struct {
    const cu_weight_t  *w;
    const kern_src_t   *src;
    uint8_t            *image;
    uint8_t            *raw;       /* [threads, raw_bytes] */
    size_t              raw_bytes, row_bytes;
    uint32_t            unit_rows;
    _Atomic int         rc;
} load_job_t;

typedef struct {
    uint8_t        *to;
    const uint8_t  *from;
    size_t          bytes;
} load_copy_t;


static int
load_stage(kern_ctx_t *c, infer_err_t *err)
{
    int          i;
    cu_stage_t  *st;

    if (c->stage != NULL) {
        return INFER_OK;
    }

    st = calloc(1, sizeof(*st));
    if (st == NULL) {
        return infer_err(err, INFER_NOMEM, "no memory for loading");
    }
    c->stage = st;

    for (i = 0; i < 2; i++) {
        KERN_CUDA_TRY(c, cudaHostAlloc((void **) &st->piece[i], LOAD_PIECE,
                                       cudaHostAllocDefault));
        KERN_CUDA_TRY(c, cudaEventCreateWithFlags(&st->sent[i],
                                                  cudaEventDisableTiming));
    }

    return INFER_OK;
}

int
cu_load_end(kern_ctx_t *c)
{
    int          i;
    cudaError_t  rc;
    cu_stage_t  *st = c->stage;

    if (st == NULL) {
        return INFER_OK;
    }

    rc = cudaStreamSynchronize(c->up);
    for (i = 0; i < 2; i++) {
        if (st->piece[i] != NULL) {
            (void) cudaFreeHost(st->piece[i]);
        }
        if (st->sent[i] != NULL) {
            (void) cudaEventDestroy(st->sent[i]);
        }
    }
    free(st);
    c->stage = NULL;
    return rc == cudaSuccess ? INFER_OK
                             : cu_failed(c, "cudaStreamSynchronize", rc);
}

static void
load_pack_unit(void *arg, uint32_t item, uint32_t unit, uint32_t tid)
{
    int          rc;
    uint8_t     *raw;
    uint32_t     r0, n;
    load_job_t  *job = arg;

    (void) item;
    r0 = unit * job->unit_rows;
    n = job->src->n_out - r0;
    n = n < job->unit_rows ? n : job->unit_rows;
    raw = job->raw + tid * job->raw_bytes;

    if (atomic_load_explicit(&job->rc, memory_order_relaxed) != INFER_OK) {
        return;
    }

    rc = job->src->read(job->src->arg, raw, n * job->row_bytes,
                        (uint64_t) r0 * job->row_bytes);
    if (rc == INFER_OK) {
        rc = cu_pack_rows(job->w, job->src->type, job->image, raw, r0, n);
    }
    if (rc != INFER_OK) {
        atomic_store(&job->rc, rc);
    }
}

/* Packs the whole matrix into job->image. */
static int
load_pack(kern_ctx_t *c, load_job_t *job, infer_err_t *err)
{
    uint32_t  values, bytes, units;

    kern_type_layout(job->src->type, &values, &bytes);
    job->row_bytes = (size_t) job->src->n_in / values * bytes;
    job->unit_rows = (uint32_t) (LOAD_RAW / job->row_bytes) / CU_PACK_ROWS
                     * CU_PACK_ROWS;
    job->unit_rows = job->unit_rows ? job->unit_rows : CU_PACK_ROWS;
    job->raw_bytes = job->unit_rows * job->row_bytes;
    units = (job->src->n_out + job->unit_rows - 1) / job->unit_rows;

    job->raw = malloc(c->shape.n_threads * job->raw_bytes);
    if (job->raw == NULL) {
        return infer_err(err, INFER_NOMEM, "no memory for loading");
    }

    cpu_team_start(c->team, load_pack_unit, job, &units, 1);
    cpu_team_join(c->team);
    free(job->raw);
    return atomic_load(&job->rc);
}

static void
load_copy_unit(void *arg, uint32_t unit)
{
    load_copy_t  *job = arg;
    size_t        at = (size_t) unit * LOAD_UNIT, n = job->bytes - at;

    memcpy(job->to + at, job->from + at, n < LOAD_UNIT ? n : LOAD_UNIT);
}

/* The image to the device, in pieces; returns with copies under way. */
static int
load_send(kern_ctx_t *c, uint8_t *to, const uint8_t *image, size_t bytes)
{
    int           k;
    size_t        at;
    load_copy_t   copy;
    cu_stage_t   *st = c->stage;

    for (at = 0; at < bytes; at += copy.bytes) {
        k = (int) (st->n_pieces++ % 2);
        copy.to = st->piece[k];
        copy.from = image + at;
        copy.bytes = bytes - at < LOAD_PIECE ? bytes - at : LOAD_PIECE;

        KERN_CUDA_TRY(c, cudaEventSynchronize(st->sent[k]));
        cu_parallel(c, load_copy_unit, &copy,
                    (uint32_t) ((copy.bytes + LOAD_UNIT - 1) / LOAD_UNIT));
        KERN_CUDA_TRY(c, cudaMemcpyAsync(to + at, copy.to, copy.bytes,
                                         cudaMemcpyHostToDevice, c->up));
        KERN_CUDA_TRY(c, cudaEventRecord(st->sent[k], c->up));
    }

    return INFER_OK;
}

/* Packs and sends; the image's pages are there only in between. */
static int
load_matrix(kern_ctx_t *c, kern_weight_t *w, const kern_src_t *src,
    infer_err_t *err)
{
    int         rc;
    load_job_t  job = { .w = &w->w, .src = src };

    job.image = mmap(NULL, w->bytes, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (job.image == MAP_FAILED) {
        return infer_err(err, INFER_NOMEM, "no memory for %llu bytes",
                         (unsigned long long) w->bytes);
    }

    rc = load_pack(c, &job, err);
    if (rc == INFER_OK) {
        rc = load_send(c, c->weights + c->weight_used, job.image, w->bytes);
    }
    (void) munmap(job.image, w->bytes);
    return rc;
}

int
cu_pack(kern_ctx_t *c, kern_weight_t **weight, const kern_src_t *src,
    infer_err_t *err)
{
    int             rc, lossy;
    kern_weight_t  *w = calloc(1, sizeof(*w));

    if (w == NULL) {
        return infer_err(err, INFER_NOMEM, "no memory for a tensor");
    }

    rc = cu_pack_plan(src->type, src->n_out, src->n_in,
                      (cu_family_e) c->shape.precision, &w->w, &w->bytes,
                      &lossy);
    if (rc != INFER_OK) {
        (void) infer_err(err, rc, "precision \"%s\" cannot serve type %s",
                         kern_prec_name(c->shape.precision),
                         kern_type_name(src->type));

    } else if (c->weight_used + w->bytes > c->weight_bytes) {
        rc = infer_err(err, INFER_INVALID,
                       "it was not among the tensors of the shape");

    } else if ((rc = load_stage(c, err)) == INFER_OK) {
        rc = load_matrix(c, w, src, err);
    }

    if (rc != INFER_OK) {
        if (c->broken) {
            (void) infer_err(err, rc, "%s", c->error);
        }
        free(w);
        return rc;
    }

    cu_pack_place(&w->w, c->weights + c->weight_used);
    c->weight_used += (w->bytes + CU_ALIGN - 1) / CU_ALIGN * CU_ALIGN;
    *weight = w;
    return INFER_OK;
}

void
cu_weight_free(kern_ctx_t *c, kern_weight_t *w)
{
    (void) c;
    free(w);
}

uint64_t
cu_weight_bytes(const kern_weight_t *w)
{
    return w->bytes;
}
