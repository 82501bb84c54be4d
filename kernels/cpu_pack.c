/*
 * cpu_pack.c: weights from file order into stripes (cpu.h has the drawing),
 * by the team, into an arena of huge-page slabs in the order of packing,
 * which is the order of use: each thread then reads one nearly sequential
 * stream per step.
 */

#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>

#include "cpu_ctx.h"

#define SLAB_BYTES  (64u << 20)
#define SLAB_ALIGN  (2u << 20)

typedef struct {
    uint32_t     type;
    const char  *name;
    uint32_t     values, bytes;    /* of a block in the file */
    cpu_form_e   form;
    uint32_t     zero_shift;
} pack_type_t;

static const pack_type_t  pack_types[] = {
    { KERN_F32,  "F32",  1,  4,  CPU_F32,  0 },
    { KERN_F16,  "F16",  1,  2,  CPU_F16,  0 },
    { KERN_BF16, "BF16", 1,  2,  CPU_BF16, 0 },
    { KERN_Q4_0, "Q4_0", 32, 18, CPU_N4Z,  3 },
    { KERN_Q4_1, "Q4_1", 32, 20, CPU_N4M,  0 },
    { KERN_Q5_0, "Q5_0", 32, 22, CPU_B8Z,  4 },
    { KERN_Q5_1, "Q5_1", 32, 24, CPU_B8M,  0 },
    { KERN_Q8_0, "Q8_0", 32, 34, CPU_B8Z,  7 }
};

/* One pack() running on the team. */
typedef struct {
    kern_weight_t      *w;
    const kern_src_t   *src;
    const pack_type_t  *type;
    uint8_t            *rows;          /* a stripe in file order, per thread */
    size_t              rows_bytes;
    _Atomic int         rc;
} pack_job_t;


static const pack_type_t *
pack_type(uint32_t type)
{
    size_t  i;

    for (i = 0; i < sizeof(pack_types) / sizeof(pack_types[0]); i++) {
        if (pack_types[i].type == type) {
            return &pack_types[i];
        }
    }
    return NULL;
}

void
kern_type_layout(uint32_t type, uint32_t *block_values, uint32_t *block_bytes)
{
    const pack_type_t  *t = pack_type(type);

    *block_values = t != NULL ? t->values : 0;
    *block_bytes = t != NULL ? t->bytes : 0;
}

const char *
kern_type_name(uint32_t type)
{
    const pack_type_t  *t = pack_type(type);

    return t != NULL ? t->name : "unknown";
}

static uint8_t *
pack_alloc(kern_ctx_t *c, size_t bytes, cpu_slab_t **slab)
{
    cpu_slab_t  *s;
    uint8_t     *p;
    size_t       size;

    bytes = (bytes + 63) / 64 * 64;
    for (s = c->slabs; s != NULL; s = s->next) {
        if (s->size - s->used >= bytes) {
            break;
        }
    }

    if (s == NULL) {
        size = bytes < SLAB_BYTES ? SLAB_BYTES : bytes;
        size = (size + SLAB_ALIGN - 1) / SLAB_ALIGN * SLAB_ALIGN;
        s = calloc(1, sizeof(*s));
        if (s == NULL) {
            return NULL;
        }
        p = mmap(NULL, size + SLAB_ALIGN, PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (p == MAP_FAILED) {
            free(s);
            return NULL;
        }
        /* keep the aligned middle only */
        s->base = (uint8_t *) (((uintptr_t) p + SLAB_ALIGN - 1)
                               / SLAB_ALIGN * SLAB_ALIGN);
        if (s->base != p) {
            munmap(p, (size_t) (s->base - p));
        }
        if (s->base + size != p + size + SLAB_ALIGN) {
            munmap(s->base + size,
                   (size_t) (p + SLAB_ALIGN - s->base));
        }
        (void) madvise(s->base, size, MADV_HUGEPAGE);
        s->size = size;
        s->next = c->slabs;
        c->slabs = s;
    }

    p = s->base + s->used;
    s->used += bytes;
    s->live++;
    *slab = s;
    return p;
}

static void
pack_slab_free(cpu_slab_t *s)
{
    munmap(s->base, s->size);
    free(s);
}

void
cpu_slabs_free(kern_ctx_t *c)
{
    cpu_slab_t  *s;

    while ((s = c->slabs) != NULL) {
        c->slabs = s->next;
        pack_slab_free(s);
    }
}

/* The block of a file (any quantized type) as 32 unsigned values. */
static void
pack_values(const pack_type_t *t, const uint8_t *blk, uint8_t *v)
{
    uint32_t  i, qh = 0;
    size_t    head = t->type == KERN_Q4_1 || t->type == KERN_Q5_1 ? 4 : 2;

    if (t->type == KERN_Q8_0) {
        for (i = 0; i < 32; i++) {
            v[i] = (uint8_t) (blk[2 + i] ^ 0x80);    /* + 128 */
        }
        return;
    }

    if (t->type == KERN_Q5_0 || t->type == KERN_Q5_1) {
        memcpy(&qh, blk + head, sizeof(qh));
        head += 4;
    }
    for (i = 0; i < 16; i++) {
        v[i] = (uint8_t) ((blk[head + i] & 15) | (qh >> i & 1) << 4);
        v[i + 16] = (uint8_t) (blk[head + i] >> 4
                               | (qh >> (i + 16) & 1) << 4);
    }
}

static void
pack_put_values(cpu_form_e form, uint8_t *panel, uint32_t lane,
    const uint8_t *v)
{
    uint32_t  k;

    if (form == CPU_N4Z || form == CPU_N4M) {
        for (k = 0; k < 16; k++) {
            panel[k / 4 * 64 + lane * 4 + k % 4] =
                (uint8_t) (v[k] | v[k + 16] << 4);
        }
        return;
    }
    for (k = 0; k < 32; k++) {
        panel[k / 4 * 64 + lane * 4 + k % 4] = v[k];
    }
}

/* rows: n file rows of a stripe, each row_bytes long. */
static void
pack_stripe_quant(const pack_job_t *job, uint8_t *out, const uint8_t *rows,
    uint32_t n, size_t row_bytes)
{
    const pack_type_t  *t = job->type;
    int                 nib = t->form == CPU_N4Z || t->form == CPU_N4M;
    int                 min = t->form == CPU_N4M || t->form == CPU_B8M;
    size_t              panel = nib ? 256 : 512;
    uint32_t            nb = job->w->n_in / CPU_BLOCK, b, j;
    const uint8_t      *blk;
    uint8_t             v[CPU_BLOCK];

    for (b = 0; b < nb; b++) {
        memset(out, 0, 3 * panel + (min ? 4 : 2) * CPU_STRIPE);
        for (j = 0; j < n; j++) {
            blk = rows + j * row_bytes + (size_t) b * t->bytes;
            pack_values(t, blk, v);
            pack_put_values(t->form, out + j / CPU_LANES * panel,
                            j % CPU_LANES, v);
            memcpy(out + 3 * panel + 2 * j, blk, 2);
            if (min) {
                memcpy(out + 3 * panel + 2 * (CPU_STRIPE + j), blk + 2, 2);
            }
        }
        out += 3 * panel + (min ? 4 : 2) * CPU_STRIPE;
    }
}

static void
pack_stripe_float(const pack_job_t *job, uint8_t *out, const uint8_t *rows,
    uint32_t n, size_t row_bytes)
{
    size_t    size = job->type->bytes;
    uint32_t  k, j;

    memset(out, 0, job->w->stripe_bytes);
    for (k = 0; k < job->w->n_in; k++) {
        for (j = 0; j < n; j++) {
            memcpy(out + ((size_t) k * CPU_STRIPE + j) * size,
                   rows + j * row_bytes + k * size, size);
        }
    }
}

static void
pack_unit(void *arg, uint32_t item, uint32_t stripe, uint32_t tid)
{
    pack_job_t     *job = arg;
    kern_weight_t  *w = job->w;
    uint8_t        *rows = job->rows + tid * job->rows_bytes;
    uint8_t        *out = w->data + stripe * w->stripe_bytes;
    size_t          row_bytes = job->rows_bytes / CPU_STRIPE;
    uint32_t        n = cpu_valid(w, stripe);
    int             rc;

    (void) item;
    if (atomic_load_explicit(&job->rc, memory_order_relaxed) != INFER_OK) {
        return;
    }
    rc = job->src->read(job->src->arg, rows, n * row_bytes,
                        (uint64_t) stripe * CPU_STRIPE * row_bytes);
    if (rc != INFER_OK) {
        atomic_store_explicit(&job->rc, rc, memory_order_relaxed);
    } else if (w->form >= CPU_F32) {
        pack_stripe_float(job, out, rows, n, row_bytes);
    } else {
        pack_stripe_quant(job, out, rows, n, row_bytes);
    }
}

static size_t
pack_stripe_bytes(const pack_type_t *t, uint32_t n_in)
{
    size_t  nb = n_in / CPU_BLOCK;

    switch (t->form) {
    case CPU_N4Z:
        return nb * CPU_STRIPE * 18;
    case CPU_N4M:
        return nb * CPU_STRIPE * 20;
    case CPU_B8Z:
        return nb * CPU_STRIPE * 34;
    case CPU_B8M:
        return nb * CPU_STRIPE * 36;
    default:
        return (size_t) n_in * CPU_STRIPE * t->bytes;
    }
}

int
kern_cpu_pack(kern_ctx_t *c, kern_weight_t **weight, const kern_src_t *src,
    infer_err_t *err)
{
    const pack_type_t  *t = pack_type(src->type);
    pack_job_t          job;
    kern_weight_t      *w;
    int                 rc;

    if (t == NULL) {
        return infer_err(err, INFER_UNSUPPORTED,
                         "tensor type %u has no kernel", src->type);
    }
    if (src->n_out == 0 || src->n_in == 0 || src->n_in % CPU_BLOCK != 0
        || src->n_in > 1u << 20 || src->n_out > 1u << 24)
    {
        return infer_err(err, INFER_UNSUPPORTED,
                         "matrix of %u x %u: the columns must be a multiple "
                         "of %u", src->n_out, src->n_in, CPU_BLOCK);
    }

    w = calloc(1, sizeof(*w));
    if (w == NULL) {
        return infer_err(err, INFER_NOMEM, "no memory for a weight");
    }
    w->type = t->type;
    w->form = t->form;
    w->zero_shift = t->zero_shift;
    w->n_out = src->n_out;
    w->n_in = src->n_in;
    w->n_stripes = (src->n_out + CPU_STRIPE - 1) / CPU_STRIPE;
    w->stripe_bytes = pack_stripe_bytes(t, src->n_in);
    w->bytes = (uint64_t) w->n_stripes * w->stripe_bytes;
    w->data = pack_alloc(c, w->bytes, &w->slab);
    if (w->data == NULL) {
        free(w);
        return infer_err(err, INFER_NOMEM,
                         "no memory for %llu bytes of weights",
                         (unsigned long long) src->n_out * src->n_in);
    }

    job = (pack_job_t) { .w = w, .src = src, .type = t };
    job.rows_bytes = (size_t) w->n_in / t->values * t->bytes * CPU_STRIPE;
    job.rows = malloc(c->shape.n_threads * job.rows_bytes);
    if (job.rows == NULL) {
        kern_cpu_weight_free(c, w);
        return infer_err(err, INFER_NOMEM, "no memory to pack a weight");
    }
    cpu_team_start(c->team, pack_unit, &job, &w->n_stripes, 1);
    cpu_team_join(c->team);
    free(job.rows);

    rc = atomic_load(&job.rc);
    if (rc != INFER_OK) {
        kern_cpu_weight_free(c, w);
        return infer_err(err, rc, "cannot read a %s matrix of %u x %u",
                         t->name, src->n_out, src->n_in);
    }

    *weight = w;
    return INFER_OK;
}

void
kern_cpu_weight_free(kern_ctx_t *c, kern_weight_t *w)
{
    cpu_slab_t  *s, **at;

    if (w == NULL) {
        return;
    }
    s = w->slab;
    if (--s->live == 0) {
        for (at = &c->slabs; *at != s; at = &(*at)->next) { /* void */ }
        *at = s->next;
        pack_slab_free(s);
    }
    free(w);
}

uint64_t
kern_cpu_weight_bytes(const kern_weight_t *w)
{
    return w->bytes;
}
