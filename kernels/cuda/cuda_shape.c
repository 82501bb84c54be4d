/*
 * cuda_shape.c: what can be served: which shapes and types, on which device,
 * in what families, and what that loses. Nothing here touches a device.
 */

#include "cuda_ctx.h"
#include "kern_check.h"

#define SHAPE_ANY_CC  120       /* "some device" for what is asked at nginx -t */

_Static_assert((int) KERN_PREC_Q8 == (int) CU_Q8
               && (int) KERN_PREC_BF16 == (int) CU_BF16
               && (int) KERN_PREC_F16 == (int) CU_F16
               && (int) KERN_PREC_W4A16 == (int) CU_W4A16
               && (int) KERN_PREC_FP8 == (int) CU_FP8
               && (int) KERN_PREC_W8A8 == (int) CU_W8A8
               && (int) KERN_N_PRECS == (int) CU_N_FAMILIES,
               "precisions are numbered as families");


static cu_attn_t
shape_attn(const kern_shape_t *s)
{
    return (cu_attn_t) {
        .head_bytes = cu_kv_head_bytes(s->kv_type, s->head_dim),
        .type = s->kv_type, .n_heads = s->n_heads,
        .n_kv_heads = s->n_kv_heads, .head_dim = s->head_dim,
        .rope_dim = s->rope_dim
    };
}

static int
shape_check(const kern_shape_t *s, infer_err_t *err)
{
    int  rc = kern_check_shape(s, err);

    if (rc != INFER_OK) {
        return rc;
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
shape_check_tensors(const kern_shape_t *s, int cc, size_t *bytes,
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

int
cu_shape_check(const kern_shape_t *s, int cc, size_t *weight_bytes,
    infer_err_t *err)
{
    int        rc = shape_check(s, err);
    cu_attn_t  attn;

    if (rc != INFER_OK) {
        return rc;
    }

    attn = shape_attn(s);
    rc = cu_attn_supports(&attn, cc, err);
    return rc == INFER_OK ? shape_check_tensors(s, cc, weight_bytes, err) : rc;
}

int
cu_supports(const kern_shape_t *shape, infer_err_t *err)
{
    size_t  bytes;

    return cu_shape_check(shape, SHAPE_ANY_CC, &bytes, err);
}

uint64_t
cu_kv_page_bytes(const kern_shape_t *s)
{
    return (uint64_t) cu_kv_head_bytes(s->kv_type, s->head_dim)
           * s->n_kv_heads * s->n_layers;
}

/* What a value may be off by in each family, that of the blocks of W4A16
 * when the type has none. */
int
cu_loss(const kern_shape_t *s, const kern_tensor_t *t, char *text, size_t len)
{
    static const char *const  how[CU_N_FAMILIES] = {
        [CU_BF16] = "are rounded to bf16, each by at most 0.4 %",
        [CU_F16] = "are rounded to f16, each by at most 0.05 %",
        [CU_W4A16] = "are rounded to 4 bits, each by at most 3.4 % of the "
                     "range of 32 of them",
        [CU_FP8] = "are rounded to fp8 with one scale a row, each by at most "
                   "6.3 %, or 0.0002 % of its row's largest",
        [CU_W8A8] = "are rounded to 8 bits with one scale a row, each by at "
                    "most 0.4 % of its row's largest"
    };
    int          lossy = 0;
    uint64_t     bytes;
    const char  *what;
    cu_weight_t  w;

    if (cu_pack_plan(t->type, t->n_out, t->n_in, (cu_family_e) s->precision,
                     &w, &bytes, &lossy) != INFER_OK || !lossy)
    {
        return 0;
    }

    what = how[w.family];
    if (w.family == CU_W4A16 && t->type == KERN_Q4_K) {
        what = "have their scales and minima rounded to f16, each by at most "
               "0.05 %";
    }
    snprintf(text, len, "weights of type %s %s", kern_type_name(t->type),
             what);
    return 1;
}
