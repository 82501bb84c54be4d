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
#include "ref/ref_dequant_k.h"

#define SLAB_BYTES  (64u << 20)
#define SLAB_ALIGN  (2u << 20)

typedef struct {
    uint32_t     type;
    const char  *name;
    uint32_t     values, bytes;    /* of a block in the file */
    cpu_form_e   form;
    uint32_t     zero_shift;
    uint32_t     d_at;             /* of d in a block; dmin or m follows */
} pack_type_t;

static const pack_type_t  pack_types[] = {
    { KERN_F32,    "F32",    1,   4,   CPU_F32,  0, 0 },
    { KERN_F16,    "F16",    1,   2,   CPU_F16,  0, 0 },
    { KERN_BF16,   "BF16",   1,   2,   CPU_BF16, 0, 0 },
    { KERN_Q4_0,   "Q4_0",   32,  18,  CPU_N4Z,  3, 0 },
    { KERN_Q4_1,   "Q4_1",   32,  20,  CPU_N4M,  0, 0 },
    { KERN_Q5_0,   "Q5_0",   32,  22,  CPU_N5Z,  4, 0 },
    { KERN_Q5_1,   "Q5_1",   32,  24,  CPU_N5M,  0, 0 },
    { KERN_Q8_0,   "Q8_0",   32,  34,  CPU_B8Z,  7, 0 },
    { KERN_Q2_K,   "Q2_K",   256, 84,  CPU_G2,   0, 80 },
    { KERN_Q3_K,   "Q3_K",   256, 110, CPU_G3,   2, 108 },
    { KERN_Q4_K,   "Q4_K",   256, 144, CPU_G4,   0, 0 },
    { KERN_Q5_K,   "Q5_K",   256, 176, CPU_G5,   0, 0 },
    { KERN_Q6_K,   "Q6_K",   256, 210, CPU_G6,   5, 208 },
    { KERN_Q8_K,   "Q8_K",   256, 292, CPU_B8D,  7, 0 },
    { KERN_IQ4_NL, "IQ4_NL", 32,  18,  CPU_T4,   7, 0 },
    { KERN_IQ4_XS, "IQ4_XS", 256, 136, CPU_T4G,  7, 0 }
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

/* A plane of `bits` bits of 32 values each (cpu.h has the drawing). */
static void
pack_plane(uint8_t *plane, uint32_t bits, uint32_t lane, const uint8_t *v)
{
    uint32_t  k, i, h, b;

    plane += lane * 4;
    switch (bits) {
    case 8:
        for (k = 0; k < 32; k++) {
            plane[k / 4 * 64 + k % 4] = v[k];
        }
        return;
    case 4:
        for (k = 0; k < 16; k++) {
            plane[k / 4 * 64 + k % 4] =
                (uint8_t) ((v[k] & 15) | v[k + 16] << 4);
        }
        return;
    case 2:
        for (k = 0; k < 8; k++) {
            h = k / 4;
            for (i = 0, b = 0; i < 4; i++) {
                b |= (v[16 * h + 4 * i + k % 4] & 3u) << 2 * i;
            }
            plane[h * 64 + k % 4] = (uint8_t) b;
        }
        return;
    default:
        for (k = 0; k < 4; k++) {
            for (i = 0, b = 0; i < 8; i++) {
                b |= (v[4 * i + k] & 1u) << i;
            }
            plane[k] = (uint8_t) b;
        }
    }
}

/* Values and scales of the k-th 32 values of blk, output j of a block.
 * index: places of values in the table, for forms that have one. */
static void
pack_block(const pack_type_t *t, const cpu_traits_t f, const uint8_t *index,
    uint8_t *out, uint32_t j, const ref_block_t *blk, uint32_t k)
{
    const int8_t  *q = blk->q + k * CPU_BLOCK;
    uint8_t        v[CPU_BLOCK], *p = out + j / CPU_LANES
                                          * cpu_panel_bytes(f);
    uint32_t       i, s;
    int            zero = f.min ? 0 : 1 << t->zero_shift;

    for (i = 0; i < CPU_BLOCK; i++) {
        v[i] = (uint8_t) (q[i] + zero);
    }
    if (f.table) {
        for (i = 0; i < CPU_BLOCK; i++) {
            v[i] = index[v[i]];
        }
    }
    pack_plane(p, (uint32_t) f.low, j % CPU_LANES, v);
    if (f.high) {
        for (i = 0; i < CPU_BLOCK; i++) {
            v[i] = (uint8_t) (v[i] >> f.low);
        }
        pack_plane(p + 64 * f.low, (uint32_t) f.high, j % CPU_LANES, v);
    }
    if (f.scale != 1) {
        return;
    }

    p = out + 3 * cpu_panel_bytes(f) + j;
    for (s = 0; s < (uint32_t) f.subs; s++, p += CPU_STRIPE) {
        i = k * (uint32_t) f.subs + s;
        *p = (uint8_t) (blk->scale[i] | (f.shared ? blk->min[i] << 4 : 0));
    }
    if (f.min && !f.shared) {
        *p = blk->min[k];
    }
}

/* rows: n file rows of a stripe, each row_bytes long. */
static void
pack_stripe_quant(const pack_job_t *job, uint8_t *out, const uint8_t *rows,
    uint32_t n, size_t row_bytes)
{
    const pack_type_t   *t = job->type;
    const cpu_traits_t   f = cpu_traits(t->form);
    uint32_t             blocks = t->values / CPU_BLOCK, b, j, k;
    size_t               scales = 3 * cpu_panel_bytes(f);
    const uint8_t       *d;
    uint8_t             *p, index[256] = { 0 };
    ref_block_t          blk;

    for (k = 0; k < 16; k++) {
        index[kern_iq4_values[k] + 128] = (uint8_t) k;
    }
    memset(out, 0, job->w->stripe_bytes);
    for (b = 0; b < job->w->n_in / CPU_BLOCK; b += blocks) {
        for (j = 0; j < n; j++) {
            d = rows + j * row_bytes + (size_t) (b / blocks) * t->bytes;
            (void) kern_unpack_ref(&blk, t->type, d);
            d += t->d_at;
            if (f.scale == 1) {
                p = out + cpu_head_at(f, b);
                memcpy(p + 2 * j, d, 2);
                if (f.min) {
                    memcpy(p + 2 * (CPU_STRIPE + j), d + 2, 2);
                }
            }
            for (k = 0; k < blocks; k++) {
                p = out + cpu_block_at(f, b + k);
                pack_block(t, f, index, p, j, &blk, k);
                if (f.scale == 1) {
                    continue;
                }
                memcpy(p + scales + (size_t) f.scale * j, d,
                       (size_t) f.scale);
                if (f.min) {
                    memcpy(p + scales + 2 * (CPU_STRIPE + j), d + 2, 2);
                }
            }
        }
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
    if (t->form >= CPU_F32) {
        return (size_t) n_in * CPU_STRIPE * t->bytes;
    }
    return cpu_head_at(cpu_traits(t->form), n_in / CPU_BLOCK);
}

int
kern_cpu_pack(kern_ctx_t *c, kern_weight_t **weight, const kern_src_t *src,
    infer_err_t *err)
{
    const pack_type_t  *t = pack_type(src->type);
    pack_job_t          job;
    kern_weight_t      *w;
    uint32_t            block;
    int                 rc;

    if (t == NULL) {
        return infer_err(err, INFER_UNSUPPORTED,
                         "tensor type %u has no kernel", src->type);
    }
    block = t->values > CPU_BLOCK ? t->values : CPU_BLOCK;
    if (src->n_out == 0 || src->n_in == 0 || src->n_in % block != 0
        || src->n_in > 1u << 20 || src->n_out > 1u << 24)
    {
        return infer_err(err, INFER_UNSUPPORTED,
                         "matrix of %u x %u: the columns must be a multiple "
                         "of %u", src->n_out, src->n_in, block);
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
