/*
 * blas.c: cublasLt behind blas.h. A plan is what one shape needs: the
 * operation, three layouts and the algorithm that the library's heuristic
 * put first. Plans lie in a table of fixed size inside the handle; one whose
 * place is taken is freed for the new one.
 */

#include <cublasLt.h>
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

#include "blas.h"

#define BLAS_PLANS  512u          /* a power of two */

/* How scales reach the result. */
enum {
    BLAS_NONE = 0,                /* bf16, f16: there are none */
    BLAS_VECTOR,                  /* fp8: vectors given to the library */
    BLAS_RAW                      /* raw sums, then cu_f_scale() */
};

typedef struct {
    uint32_t  family, mode, n_out, n_in, n, ld, add;
} blas_key_t;

typedef struct {
    blas_key_t              key;
    int                     used;
    int                     ok;       /* algo may be used */
    cublasLtMatmulDesc_t    op;
    cublasLtMatrixLayout_t  w, a, y;
    cublasLtMatmulAlgo_t    algo;
    size_t                  work;     /* bytes that algo wants */
} blas_plan_t;

struct cu_blas_s {
    void             *lib;
    cublasLtHandle_t  handle;
    blas_plan_t       plan[BLAS_PLANS];

    cublasStatus_t  (*destroy)(cublasLtHandle_t);
    cublasStatus_t  (*op_create)(cublasLtMatmulDesc_t *, cublasComputeType_t,
                        cudaDataType_t);
    cublasStatus_t  (*op_destroy)(cublasLtMatmulDesc_t);
    cublasStatus_t  (*op_set)(cublasLtMatmulDesc_t,
                        cublasLtMatmulDescAttributes_t, const void *, size_t);
    cublasStatus_t  (*layout_create)(cublasLtMatrixLayout_t *, cudaDataType,
                        uint64_t, uint64_t, int64_t);
    cublasStatus_t  (*layout_destroy)(cublasLtMatrixLayout_t);
    cublasStatus_t  (*pref_create)(cublasLtMatmulPreference_t *);
    cublasStatus_t  (*pref_destroy)(cublasLtMatmulPreference_t);
    cublasStatus_t  (*pref_set)(cublasLtMatmulPreference_t,
                        cublasLtMatmulPreferenceAttributes_t, const void *,
                        size_t);
    cublasStatus_t  (*heuristic)(cublasLtHandle_t, cublasLtMatmulDesc_t,
                        cublasLtMatrixLayout_t, cublasLtMatrixLayout_t,
                        cublasLtMatrixLayout_t, cublasLtMatrixLayout_t,
                        cublasLtMatmulPreference_t, int,
                        cublasLtMatmulHeuristicResult_t *, int *);
    cublasStatus_t  (*matmul)(cublasLtHandle_t, cublasLtMatmulDesc_t,
                        const void *, const void *, cublasLtMatrixLayout_t,
                        const void *, cublasLtMatrixLayout_t, const void *,
                        const void *, cublasLtMatrixLayout_t, void *,
                        cublasLtMatrixLayout_t, const cublasLtMatmulAlgo_t *,
                        void *, size_t, cudaStream_t);
};


/* Fills the functions of b; the name of the first that is missing, or NULL.
 * create is kept apart: it is called once. */
static const char *
blas_symbols(cu_blas_t *b, cublasStatus_t (**create)(cublasLtHandle_t *))
{
    const struct {
        const char  *name;
        void        *to;
    } list[] = {
        { "cublasLtCreate", create },
        { "cublasLtDestroy", &b->destroy },
        { "cublasLtMatmulDescCreate", &b->op_create },
        { "cublasLtMatmulDescDestroy", &b->op_destroy },
        { "cublasLtMatmulDescSetAttribute", &b->op_set },
        { "cublasLtMatrixLayoutCreate", &b->layout_create },
        { "cublasLtMatrixLayoutDestroy", &b->layout_destroy },
        { "cublasLtMatmulPreferenceCreate", &b->pref_create },
        { "cublasLtMatmulPreferenceDestroy", &b->pref_destroy },
        { "cublasLtMatmulPreferenceSetAttribute", &b->pref_set },
        { "cublasLtMatmulAlgoGetHeuristic", &b->heuristic },
        { "cublasLtMatmul", &b->matmul },
    };

    for (size_t i = 0; i < sizeof(list) / sizeof(list[0]); i++) {
        void  *sym = dlsym(b->lib, list[i].name);

        if (sym == NULL) {
            return list[i].name;
        }

        /* POSIX makes void * hold a function; C has no cast for it */
        memcpy(list[i].to, &sym, sizeof(sym));
    }

    return NULL;
}


int
cu_blas_open(cu_blas_t **blas, const char *lib, infer_err_t *err)
{
    const char      *name = lib == NULL ? CU_BLAS_LIB : lib, *missing;
    cublasStatus_t  (*create)(cublasLtHandle_t *) = NULL;
    cublasStatus_t   st;
    cu_blas_t       *b = calloc(1, sizeof(*b));

    *blas = NULL;

    if (b == NULL) {
        return infer_err(err, INFER_NOMEM, "no memory for cublasLt's handle");
    }

    b->lib = dlopen(name[0] == '\0' ? NULL : name, RTLD_NOW | RTLD_LOCAL);

    if (b->lib == NULL) {
        free(b);
        return infer_err(err, INFER_UNSUPPORTED, "\"%s\" was not found; "
                         "prefill uses own kernels, which are slower", name);
    }

    missing = blas_symbols(b, &create);

    if (missing != NULL) {
        (void) dlclose(b->lib);
        free(b);
        return infer_err(err, INFER_UNSUPPORTED, "\"%s\" has no %s; prefill "
                         "uses own kernels, which are slower", name, missing);
    }

    st = create(&b->handle);

    if (st != CUBLAS_STATUS_SUCCESS) {
        (void) dlclose(b->lib);
        free(b);
        return infer_err(err, INFER_DEVICE, "cublasLtCreate() failed with "
                         "status %d", (int) st);
    }

    *blas = b;
    return INFER_OK;
}


static void
blas_plan_free(cu_blas_t *b, blas_plan_t *p)
{
    if (p->op != NULL) {
        (void) b->op_destroy(p->op);
    }

    if (p->w != NULL) {
        (void) b->layout_destroy(p->w);
    }

    if (p->a != NULL) {
        (void) b->layout_destroy(p->a);
    }

    if (p->y != NULL) {
        (void) b->layout_destroy(p->y);
    }

    memset(p, 0, sizeof(*p));
}


void
cu_blas_close(cu_blas_t *blas)
{
    if (blas == NULL) {
        return;
    }

    for (uint32_t i = 0; i < BLAS_PLANS; i++) {
        blas_plan_free(blas, &blas->plan[i]);
    }

    (void) blas->destroy(blas->handle);
    (void) dlclose(blas->lib);
    free(blas);
}


size_t
cu_blas_scratch(const cu_weight_t *w, uint32_t n)
{
    return (w->family == CU_FP8 || w->family == CU_W8A8) && w->n_out <= w->n_in
           ? ((size_t) n * w->n_out * sizeof(float) + 255) & ~(size_t) 255
           : 0;
}


static cudaDataType_t
blas_type(uint32_t family)
{
    return family == CU_BF16 ? CUDA_R_16BF : family == CU_F16 ? CUDA_R_16F
           : family == CU_FP8 ? CUDA_R_8F_E4M3 : CUDA_R_8I;
}


/* Row-major y [n, n_out] = a [n, n_in] W [n_out, n_in]^T is column-major
 * y' [n_out, n] = W'^T a' with W' [n_in, n_out], a' [n_in, n]. */
static int
blas_plan_make(cu_blas_t *b, blas_plan_t *p, const cu_f_args_t *args)
{
    const blas_key_t     *k = &p->key;
    int                   s8 = k->family == CU_W8A8;
    uint32_t              bytes = k->family == CU_BF16 || k->family == CU_F16
                                  ? 2 : 1;
    cublasOperation_t     trans = CUBLAS_OP_T;
    cudaDataType_t        type = blas_type(k->family);
    cudaDataType_t        out = s8 ? CUDA_R_32I : CUDA_R_32F;
    cublasComputeType_t   sum = s8 ? CUBLAS_COMPUTE_32I : CUBLAS_COMPUTE_32F;
    int32_t               scale = CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F;

    if (b->op_create(&p->op, sum, out) != CUBLAS_STATUS_SUCCESS
        || b->op_set(p->op, CUBLASLT_MATMUL_DESC_TRANSA, &trans,
                     sizeof(trans)) != CUBLAS_STATUS_SUCCESS
        || b->layout_create(&p->w, type, k->n_in, k->n_out,
                            args->pitch / bytes) != CUBLAS_STATUS_SUCCESS
        || b->layout_create(&p->a, type, k->n_in, k->n,
                            args->a_bytes / bytes) != CUBLAS_STATUS_SUCCESS
        || b->layout_create(&p->y, out, k->n_out, k->n, k->ld)
           != CUBLAS_STATUS_SUCCESS)
    {
        return INFER_UNSUPPORTED;
    }

    if (k->mode == BLAS_VECTOR
        && (b->op_set(p->op, CUBLASLT_MATMUL_DESC_A_SCALE_MODE, &scale,
                      sizeof(scale)) != CUBLAS_STATUS_SUCCESS
            || b->op_set(p->op, CUBLASLT_MATMUL_DESC_B_SCALE_MODE, &scale,
                         sizeof(scale)) != CUBLAS_STATUS_SUCCESS))
    {
        return INFER_UNSUPPORTED;
    }

    return INFER_OK;
}


/* The scale vectors of this call: the plan is shared by matrices. */
static int
blas_vectors(cu_blas_t *b, const blas_plan_t *p, const cu_f_args_t *args)
{
    const void  *w = args->part[0].scale, *a = args->a_scale;

    return b->op_set(p->op, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, &w,
                     sizeof(w)) == CUBLAS_STATUS_SUCCESS
           && b->op_set(p->op, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, &a,
                        sizeof(a)) == CUBLAS_STATUS_SUCCESS
           ? INFER_OK : INFER_UNSUPPORTED;
}


static int
blas_choose(cu_blas_t *b, blas_plan_t *p)
{
    size_t                           max = CU_BLAS_WORK;
    int                              n = 0, rc = INFER_UNSUPPORTED;
    cublasLtMatmulPreference_t       pref = NULL;
    cublasLtMatmulHeuristicResult_t  best;

    memset(&best, 0, sizeof(best));

    if (b->pref_create(&pref) != CUBLAS_STATUS_SUCCESS) {
        return rc;
    }

    if (b->pref_set(pref, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &max,
                    sizeof(max)) == CUBLAS_STATUS_SUCCESS
        && b->heuristic(b->handle, p->op, p->w, p->a, p->y, p->y, pref, 1,
                        &best, &n) == CUBLAS_STATUS_SUCCESS
        && n == 1 && best.state == CUBLAS_STATUS_SUCCESS)
    {
        p->algo = best.algo;
        p->work = best.workspaceSize;
        rc = INFER_OK;
    }

    (void) b->pref_destroy(pref);
    return rc;
}


static blas_plan_t *
blas_plan(cu_blas_t *b, const blas_key_t *key, const cu_f_args_t *args)
{
    const uint32_t  *word = (const uint32_t *) (const void *) key;
    uint32_t         hash = 2166136261u;
    blas_plan_t     *p;

    for (size_t i = 0; i < sizeof(*key) / sizeof(*word); i++) {
        hash = (hash ^ word[i]) * 16777619u;
    }

    p = &b->plan[(hash ^ hash >> 16) & (BLAS_PLANS - 1)];

    if (p->used && memcmp(&p->key, key, sizeof(*key)) == 0) {
        return p;
    }

    blas_plan_free(b, p);
    p->key = *key;
    p->used = 1;
    p->ok = blas_plan_make(b, p, args) == INFER_OK
            && (key->mode != BLAS_VECTOR
                || blas_vectors(b, p, args) == INFER_OK)
            && blas_choose(b, p) == INFER_OK;
    return p;
}


/* One product into y (f32, or s32 of W8A8) with this way of scaling. */
static int
blas_run(const cu_dev_t *dev, const blas_key_t *key, const cu_f_args_t *args,
    void *y, uint8_t *work, size_t work_bytes)
{
    cu_blas_t      *b = dev->blas;
    blas_plan_t    *p = blas_plan(b, key, args);
    const float     f[2] = { 1.0f, (float) key->add };
    const int32_t   i[2] = { 1, (int32_t) key->add };
    int             s8 = key->family == CU_W8A8;
    const void     *alpha = s8 ? (const void *) &i[0] : &f[0];
    const void     *beta = s8 ? (const void *) &i[1] : &f[1];

    if (!p->ok || p->work > work_bytes) {
        return INFER_UNSUPPORTED;
    }

    if (key->mode == BLAS_VECTOR && blas_vectors(b, p, args) != INFER_OK) {
        return INFER_UNSUPPORTED;
    }

    if (b->matmul(b->handle, p->op, alpha, args->part[0].data, p->w, args->a,
                  p->a, beta, y, p->y, y, p->y, &p->algo, work, p->work,
                  dev->stream) != CUBLAS_STATUS_SUCCESS)
    {
        p->ok = 0;
        return INFER_UNSUPPORTED;
    }

    return INFER_OK;
}


int
cu_blas_linear(const cu_dev_t *dev, cu_family_e family, const cu_f_args_t *p,
    uint8_t *work, size_t work_bytes)
{
    uint32_t    n_out = p->part[0].n_out;
    uint32_t    bytes = family == CU_BF16 || family == CU_F16 ? 2 : 1;
    int         rc;
    size_t      raw = ((size_t) p->n * n_out * 4 + 255) & ~(size_t) 255;
    blas_key_t  key = { (uint32_t) family, BLAS_NONE, n_out,
                        p->a_bytes / bytes, p->n, p->ldy,
                        p->add != 0 };

    if (family == CU_BF16 || family == CU_F16) {
        return blas_run(dev, &key, p, p->part[0].y, work, work_bytes);
    }

    if (family == CU_FP8) {
        key.mode = BLAS_VECTOR;
        rc = blas_run(dev, &key, p, p->part[0].y, work, work_bytes);

        if (rc != INFER_UNSUPPORTED) {
            return rc;
        }
    }

    /* raw sums: in y's own place where nothing is to be added to it */
    key.mode = BLAS_RAW;
    key.add = 0;

    if (!p->add) {
        rc = blas_run(dev, &key, p, p->part[0].y, work, work_bytes);
        return rc != INFER_OK ? rc
               : cu_f_scale(dev, p->part[0].y, p->ldy, family == CU_W8A8, p);
    }

    if (work_bytes < raw) {
        return INFER_UNSUPPORTED;
    }

    key.ld = n_out;
    rc = blas_run(dev, &key, p, work, work + raw, work_bytes - raw);
    return rc != INFER_OK ? rc
           : cu_f_scale(dev, work, n_out, family == CU_W8A8, p);
}
