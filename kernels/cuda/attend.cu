/*
 * attend.cu: cu_attend(): which attention kernels a step takes, the work memory they share, and the
 * rotation and append of all keys and values that decode does not append itself.
 */

#include "attn.h"
#include "kv.cuh"

#include "infer.h"

#define ATTN_ALIGN  256
#define ATTN_PAIRS  (CU_ATTN_ZERO / sizeof(int))    /* most of decode sequences times kv heads */

size_t
cu_kv_head_bytes(uint32_t type, uint32_t head_dim)
{
    size_t  n = (size_t) 2 * KERN_PAGE_TOKENS * head_dim * kv_bytes(type);

    return kv_scaled(type) ? n + (size_t) 2 * KERN_PAGE_TOKENS * kv_blocks(head_dim) * 2 : n;
}

int
cu_attn_supports(const cu_attn_t *a, int cc, infer_err_t *err)
{
    if (cc < 80) {
        return infer_err(err, INFER_UNSUPPORTED, "attention needs a device of compute capability "
                         "8.0 or later, this one has %d.%d", cc / 10, cc % 10);
    }
    if (a->type >= KERN_N_KV_TYPES) {
        return infer_err(err, INFER_UNSUPPORTED, "no KV type %u", (unsigned) a->type);
    }
    if (a->head_dim == 0 || a->head_dim % 2 != 0 || a->head_dim > ATTN_MAX_DIM) {
        return infer_err(err, INFER_UNSUPPORTED, "heads of %u values: only even sizes up to %d are "
                         "supported", (unsigned) a->head_dim, ATTN_MAX_DIM);
    }
    if (a->n_kv_heads == 0 || a->n_heads % a->n_kv_heads != 0
        || a->n_heads * a->head_dim % CU_BLOCK != 0)
    {
        return infer_err(err, INFER_UNSUPPORTED, "%u heads of %u values over %u KV heads are not "
                         "supported", (unsigned) a->n_heads, (unsigned) a->head_dim,
                         (unsigned) a->n_kv_heads);
    }
    if (a->rope_dim % 2 != 0 || a->rope_dim > a->head_dim) {
        return infer_err(err, INFER_UNSUPPORTED, "rotation of %u values of a head of %u is not "
                         "supported", (unsigned) a->rope_dim, (unsigned) a->head_dim);
    }
    return INFER_OK;
}

static size_t
attn_align(size_t n)
{
    return (n + ATTN_ALIGN - 1) / ATTN_ALIGN * ATTN_ALIGN;
}

static size_t
attn_ml_bytes(uint32_t seqs, uint32_t n_heads)
{
    return attn_align((size_t) seqs * n_heads * CU_MAX_SPLITS * 2 * sizeof(float));
}

size_t
cu_attn_work(uint32_t max_seqs, uint32_t n_heads, uint32_t head_dim)
{
    return CU_ATTN_ZERO + attn_ml_bytes(max_seqs, n_heads)
           + attn_align((size_t) max_seqs * n_heads * CU_MAX_SPLITS * head_dim * sizeof(float));
}

#define APPEND_WARPS  8

/* attn_append_k: keys (rotated) and values of rows row0 .. into their pages
 * shapes   qkv f32 [T, ld]
 * launch   a warp for each row, kv head, and key or value
 * math     bit-equal to kern_rope_ref() and kern_kv_store_ref() for the same table
 * traffic  8 * G * D bytes in, the page's bytes out, a row          bound  latency
 */
__global__ void __launch_bounds__(APPEND_WARPS * DEV_WARP)
attn_append_k(attn_job_t job, uint32_t row0)
{
    const cu_attn_t  &a = job.a;
    uint32_t          i = blockIdx.x * APPEND_WARPS + threadIdx.x / DEV_WARP;
    uint32_t          row = row0 + i / (2 * a.n_kv_heads), g = i / 2 % a.n_kv_heads;
    bool              value = i % 2 != 0;
    uint32_t          pos;

    dev_wait();
    dev_launch_dependents();
    if (row >= job.p.n_rows || job.p.row_seq[row] < 0) {
        return;
    }
    pos = (uint32_t) job.p.row_pos[row];
    kv_append(kv_head(a, job.p.table + (size_t) job.p.row_seq[row] * job.p.max_pages, pos, g),
              a.type, a.head_dim, value, pos % KERN_PAGE_TOKENS,
              job.qkv + (size_t) row * job.ld + (a.n_heads + value * a.n_kv_heads + g) * a.head_dim,
              rope_row(a, pos), a.rope_dim);
}

static int
attn_append(const cu_dev_t *dev, const attn_job_t *job, uint32_t row0)
{
    uint32_t  warps = (job->p.n_rows - row0) * 2 * job->a.n_kv_heads;

    return dev_launch(dev, attn_append_k, dim3((warps + APPEND_WARPS - 1) / APPEND_WARPS),
                      dim3(APPEND_WARPS * DEV_WARP), 0, *job, row0);
}

/* p + n where there is a p. */
template <class T>
static T *
attn_from(T *p, size_t n)
{
    return p == NULL ? p : p + n;
}

/* Rows row0 .. of out into acts. */
static int
attn_quantize(const cu_dev_t *dev, const attn_job_t *job, uint32_t row0, uint32_t want)
{
    cu_acts_t  a = job->acts;
    uint32_t   dim = job->a.n_heads * job->a.head_dim;
    size_t     at = (size_t) row0 * dim;

    a.q = attn_from(a.q, at);
    a.d = attn_from(a.d, at / 32);
    a.dsum = attn_from(a.dsum, at / 32);
    a.dsum2 = attn_from(a.dsum2, at / 16);
    a.h = attn_from(a.h, at);
    a.f8 = attn_from(a.f8, at);
    a.row = attn_from(a.row, row0);
    return cu_quantize(dev, job->out + at, job->p.n_rows - row0, dim, want, &a);
}

static int
attn_decode(const cu_dev_t *dev, const attn_job_t *job)
{
    return kv_scaled(job->a.type) ? attn_decode_8(dev, job) : attn_decode_16(dev, job);
}

static int
attn_prefill(const cu_dev_t *dev, const attn_job_t *job)
{
    int  rc = attn_append(dev, job, job->p.n_decode);

    if (rc != INFER_OK) {
        return rc;
    }
    switch (job->a.type) {
    case KERN_KV_F16:
        return attn_prefill_f16(dev, job);
    case KERN_KV_BF16:
        return attn_prefill_bf16(dev, job);
    default:
        return attn_prefill_8(dev, job);
    }
}

static void
attn_job(attn_job_t *job, const cu_attn_t *a, const cu_plan_t *p, const float *qkv, float *out,
    const cu_acts_t *acts, void *work)
{
    job->a = *a;
    job->p = *p;
    job->acts = *acts;
    job->qkv = qkv;
    job->out = out;
    job->count = (int *) work;
    job->part_ml = (float *) ((uint8_t *) work + CU_ATTN_ZERO);
    job->part_o = (float *) ((uint8_t *) work + CU_ATTN_ZERO
                             + attn_ml_bytes(p->n_decode, a->n_heads));
    job->want = 0;
    job->ld = (a->n_heads + 2 * a->n_kv_heads) * a->head_dim;
    job->scale = 1.44269504f / sqrtf((float) a->head_dim);
}

int
cu_attend(const cu_dev_t *dev, const cu_attn_t *a, const cu_plan_t *p, float *qkv, float *out,
    uint32_t want, const cu_acts_t *acts, void *work)
{
    uint32_t    fused = attn_is_fast(a->head_dim) ? attn_fused(want, a->head_dim) : 0;
    attn_job_t  job;
    int         rc = INFER_OK;

    if (p->n_rows == 0) {
        return INFER_OK;
    }
    if ((size_t) p->n_decode * a->n_kv_heads > ATTN_PAIRS) {
        return INFER_UNSUPPORTED;
    }
    attn_job(&job, a, p, qkv, out, acts, work);

    if (!attn_is_fast(a->head_dim)) {
        rc = attn_append(dev, &job, 0);
        rc = rc == INFER_OK ? attn_any(dev, &job) : rc;
    } else {
        job.want = fused;
        if (p->n_decode > 0) {
            rc = attn_decode(dev, &job);
        }
        if (rc == INFER_OK && p->n_rows > p->n_decode) {
            rc = attn_prefill(dev, &job);
            if (rc == INFER_OK) {
                rc = attn_quantize(dev, &job, p->n_decode, fused);
            }
        }
    }
    return rc == INFER_OK ? attn_quantize(dev, &job, 0, want & ~fused) : rc;
}
