/*
 * blas_fake.cpp: the fake libcublasLt, a loop behind the library's checks:
 * column-major matrices, D = alpha op(A) op(B) + beta C, f32 or s32 sums.
 * It is a shared object of its own (sim.mk), as the real one, and may be
 * linked into a test. It reaches the fake runtime through the stream.
 *
 * Refused as by the real library: 8-bit types other than A transposed and B
 * not, leading dimensions and addresses not multiples of 16 bytes there.
 * SIMT_BLAS=novec refuses scale vectors, as devices before sm_90 do; noalgo
 * has no algorithm for anything; fail has, but every product fails.
 */

#include "include/cublasLt.h"
#include "blas_door.h"
#include "types.h"

#include <cstdlib>
#include <vector>

#define EXPORT extern "C" __attribute__((visibility("default")))

struct cublasLtContext {
    int live;
};

struct SimtBlasDesc {
    cublasComputeType_t compute;
    cudaDataType_t      scale;
    int                 trans_a, trans_b;
    const float        *scale_a, *scale_b;
    int                 mode_a, mode_b;
};

struct SimtBlasLayout {
    cudaDataType type;
    uint64_t     rows, cols;
    int64_t      ld;
};

struct SimtBlasPref {
    size_t work;
};

namespace {

struct Operand {
    SimtBlasLayout layout;
    const void    *p;
};

struct Call {
    SimtBlasDesc        desc;
    Operand             a, b, c, d;
    float               alpha, beta;
    simt::BlasDoor     *door;
};

size_t size_of(cudaDataType t)
{
    switch (t) {
    case CUDA_R_32F:
    case CUDA_R_32I: return 4;
    case CUDA_R_16F:
    case CUDA_R_16BF: return 2;
    default: return 1;
    }
}

float element(const void *p, cudaDataType t, size_t i)
{
    switch (t) {
    case CUDA_R_32F: return ((const float *) p)[i];
    case CUDA_R_16F: return simt::half_value(((const uint16_t *) p)[i]);
    case CUDA_R_16BF: return simt::bf16_value(((const uint16_t *) p)[i]);
    case CUDA_R_8F_E4M3: return simt::e4m3_value(((const uint8_t *) p)[i]);
    case CUDA_R_32I: return (float) ((const int32_t *) p)[i];
    default: return ((const int8_t *) p)[i];
    }
}

void set_element(void *p, cudaDataType t, size_t i, float v)
{
    switch (t) {
    case CUDA_R_32F: ((float *) p)[i] = v; break;
    case CUDA_R_16F: ((uint16_t *) p)[i] = simt::half_bits(v); break;
    case CUDA_R_16BF: ((uint16_t *) p)[i] = simt::bf16_bits(v); break;
    default: break;
    }
}

/* Rows of op(X), k contiguous: [n, k]. by_col: row j is column j of X. */
template <class T>
std::vector<T> unpack(const Operand &x, bool by_col, size_t n, size_t k)
{
    std::vector<T> v(n * k);

    for (size_t j = 0; j < n; j++) {
        for (size_t i = 0; i < k; i++) {
            size_t at = by_col ? j * (size_t) x.layout.ld + i
                               : i * (size_t) x.layout.ld + j;
            v[j * k + i] = (T) element(x.p, x.layout.type, at);
        }
    }
    return v;
}

/* Eight chains: fast enough, and another order than our own kernels'. */
template <class T>
T dot(const T *a, const T *b, size_t k)
{
    T part[8] = {};

    for (size_t i = 0; i < k; i++) {
        part[i & 7] += a[i] * b[i];
    }
    return ((part[0] + part[4]) + (part[2] + part[6]))
           + ((part[1] + part[5]) + (part[3] + part[7]));
}

float scale_at(const float *p, int mode, size_t i)
{
    return p == nullptr ? 1.0f
           : p[mode == CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F ? i : 0];
}

template <class T>
void multiply(const Call &c)
{
    const SimtBlasLayout &d = c.d.layout;
    size_t m = d.rows, n = d.cols;
    size_t k = c.desc.trans_a ? c.a.layout.rows : c.a.layout.cols;
    std::vector<T> a = unpack<T>(c.a, c.desc.trans_a, m, k);
    std::vector<T> b = unpack<T>(c.b, !c.desc.trans_b, n, k);

    for (size_t j = 0; j < n; j++) {
        for (size_t i = 0; i < m; i++) {
            T      sum = dot(&a[i * k], &b[j * k], k);
            size_t at = j * (size_t) d.ld + i;
            size_t from = j * (size_t) c.c.layout.ld + i;

            if (d.type == CUDA_R_32I) {
                int32_t old = c.beta != 0 ? ((const int32_t *) c.c.p)[from]
                                          : 0;
                ((int32_t *) c.d.p)[at] = (int32_t) c.alpha * (int32_t) sum
                                          + (int32_t) c.beta * old;
                continue;
            }
            float v = c.alpha * (float) sum
                      * scale_at(c.desc.scale_a, c.desc.mode_a, i)
                      * scale_at(c.desc.scale_b, c.desc.mode_b, j);
            if (c.beta != 0) {
                v += c.beta * element(c.c.p, c.c.layout.type, from);
            }
            set_element((void *) c.d.p, d.type, at, v);
        }
        c.door->wrote((char *) c.d.p + j * (size_t) d.ld * size_of(d.type),
                      m * size_of(d.type));
    }
}

void run(void *arg)
{
    const Call *c = (const Call *) arg;

    if (c->desc.compute == CUBLAS_COMPUTE_32I) {
        multiply<int32_t>(*c);
    } else {
        multiply<float>(*c);
    }
}

void drop(void *arg)
{
    delete (Call *) arg;
}

bool is_byte(cudaDataType t)
{
    return size_of(t) == 1;
}

bool told(const char *what)
{
    const char *e = getenv("SIMT_BLAS");

    return e && strcmp(e, what) == 0;
}

/* Types, shapes and leading dimensions. */
cublasStatus_t check(const SimtBlasDesc &s, const SimtBlasLayout &a,
    const SimtBlasLayout &b, const SimtBlasLayout &c, const SimtBlasLayout &d)
{
    uint64_t m = s.trans_a ? a.cols : a.rows;
    uint64_t k = s.trans_a ? a.rows : a.cols;
    uint64_t n = s.trans_b ? b.rows : b.cols;
    bool     ints = a.type == CUDA_R_8I;

    if ((s.trans_b ? b.cols : b.rows) != k || d.rows != m || d.cols != n
        || c.rows != m || c.cols != n)
    {
        return CUBLAS_STATUS_INVALID_VALUE;
    }
    if (a.type != b.type || c.type != d.type
        || ints != (s.compute == CUBLAS_COMPUTE_32I)
        || ints != (d.type == CUDA_R_32I)
        || a.type == CUDA_R_32F || a.type == CUDA_R_32I)
    {
        return CUBLAS_STATUS_NOT_SUPPORTED;
    }
    if (is_byte(a.type)
        && (!s.trans_a || s.trans_b || a.ld % 16 || b.ld % 16 || k % 16))
    {
        return CUBLAS_STATUS_NOT_SUPPORTED;
    }
    if (s.mode_a != s.mode_b || (s.mode_a && a.type != CUDA_R_8F_E4M3)) {
        return CUBLAS_STATUS_NOT_SUPPORTED;
    }
    return s.mode_a && told("novec")
           ? CUBLAS_STATUS_NOT_SUPPORTED : CUBLAS_STATUS_SUCCESS;
}

/* All columns of x lie in one device allocation. */
bool on_device(const simt::BlasDoor *door, const Operand &x)
{
    size_t n = x.layout.cols == 0 ? 0
               : ((x.layout.cols - 1) * (size_t) x.layout.ld
                  + x.layout.rows) * size_of(x.layout.type);

    return door->is_device(x.p, n);
}

}  // namespace

EXPORT cublasStatus_t cublasLtCreate(cublasLtHandle_t *handle)
{
    *handle = new cublasLtContext{1};
    return CUBLAS_STATUS_SUCCESS;
}

EXPORT cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle)
{
    delete handle;
    return CUBLAS_STATUS_SUCCESS;
}

EXPORT size_t cublasLtGetVersion(void)
{
    return 130000;
}

EXPORT cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t *desc,
    cublasComputeType_t compute, cudaDataType_t scale)
{
    if ((compute == CUBLAS_COMPUTE_32I) != (scale == CUDA_R_32I)) {
        return CUBLAS_STATUS_NOT_SUPPORTED;
    }
    *desc = new SimtBlasDesc();
    (*desc)->compute = compute;
    (*desc)->scale = scale;
    return CUBLAS_STATUS_SUCCESS;
}

EXPORT cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t desc)
{
    delete desc;
    return CUBLAS_STATUS_SUCCESS;
}

EXPORT cublasStatus_t cublasLtMatmulDescSetAttribute(
    cublasLtMatmulDesc_t desc, cublasLtMatmulDescAttributes_t attr,
    const void *value, size_t size)
{
    void  *to;
    size_t want = sizeof(int32_t);

    switch (attr) {
    case CUBLASLT_MATMUL_DESC_TRANSA: to = &desc->trans_a; break;
    case CUBLASLT_MATMUL_DESC_TRANSB: to = &desc->trans_b; break;
    case CUBLASLT_MATMUL_DESC_A_SCALE_MODE: to = &desc->mode_a; break;
    case CUBLASLT_MATMUL_DESC_B_SCALE_MODE: to = &desc->mode_b; break;
    case CUBLASLT_MATMUL_DESC_A_SCALE_POINTER:
        to = &desc->scale_a;
        want = sizeof(void *);
        break;
    case CUBLASLT_MATMUL_DESC_B_SCALE_POINTER:
        to = &desc->scale_b;
        want = sizeof(void *);
        break;
    case CUBLASLT_MATMUL_DESC_FAST_ACCUM:
        return size == 1 ? CUBLAS_STATUS_SUCCESS
                         : CUBLAS_STATUS_INVALID_VALUE;
    default:
        return CUBLAS_STATUS_INVALID_VALUE;
    }
    if (size != want) {
        return CUBLAS_STATUS_INVALID_VALUE;
    }
    memcpy(to, value, size);
    return CUBLAS_STATUS_SUCCESS;
}

EXPORT cublasStatus_t cublasLtMatrixLayoutCreate(
    cublasLtMatrixLayout_t *layout, cudaDataType type, uint64_t rows,
    uint64_t cols, int64_t ld)
{
    if (ld < (int64_t) rows) {
        return CUBLAS_STATUS_INVALID_VALUE;
    }
    *layout = new SimtBlasLayout{type, rows, cols, ld};
    return CUBLAS_STATUS_SUCCESS;
}

EXPORT cublasStatus_t cublasLtMatrixLayoutDestroy(
    cublasLtMatrixLayout_t layout)
{
    delete layout;
    return CUBLAS_STATUS_SUCCESS;
}

EXPORT cublasStatus_t cublasLtMatmulPreferenceCreate(
    cublasLtMatmulPreference_t *pref)
{
    *pref = new SimtBlasPref{0};
    return CUBLAS_STATUS_SUCCESS;
}

EXPORT cublasStatus_t cublasLtMatmulPreferenceDestroy(
    cublasLtMatmulPreference_t pref)
{
    delete pref;
    return CUBLAS_STATUS_SUCCESS;
}

EXPORT cublasStatus_t cublasLtMatmulPreferenceSetAttribute(
    cublasLtMatmulPreference_t pref,
    cublasLtMatmulPreferenceAttributes_t attr, const void *value,
    size_t size)
{
    if (attr != CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES
        || size != sizeof pref->work)
    {
        return CUBLAS_STATUS_INVALID_VALUE;
    }
    memcpy(&pref->work, value, size);
    return CUBLAS_STATUS_SUCCESS;
}

/* One algorithm, which wants 64 KiB of work where it may have them. */
EXPORT cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t handle,
    cublasLtMatmulDesc_t desc, cublasLtMatrixLayout_t a,
    cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c,
    cublasLtMatrixLayout_t d, cublasLtMatmulPreference_t pref, int wanted,
    cublasLtMatmulHeuristicResult_t *results, int *found)
{
    cublasStatus_t st;

    *found = 0;
    if (!handle || wanted < 1) {
        return CUBLAS_STATUS_INVALID_VALUE;
    }
    st = check(*desc, *a, *b, *c, *d);
    if (st != CUBLAS_STATUS_SUCCESS) {
        return st;
    }
    if (told("noalgo")) {
        return CUBLAS_STATUS_NOT_SUPPORTED;
    }
    memset(results, 0, sizeof *results);
    results->algo.data[0] = simt::BLAS_DOOR_MAGIC;
    results->workspaceSize = pref->work < 65536 ? 0 : 65536;
    results->state = CUBLAS_STATUS_SUCCESS;
    *found = 1;
    return CUBLAS_STATUS_SUCCESS;
}

EXPORT cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle,
    cublasLtMatmulDesc_t desc, const void *alpha, const void *a,
    cublasLtMatrixLayout_t a_layout, const void *b,
    cublasLtMatrixLayout_t b_layout, const void *beta, const void *c,
    cublasLtMatrixLayout_t c_layout, void *d,
    cublasLtMatrixLayout_t d_layout, const cublasLtMatmulAlgo_t *algo,
    void *work, size_t work_bytes, cudaStream_t stream)
{
    simt::BlasDoor *door = (simt::BlasDoor *) stream;
    cublasStatus_t  st = check(*desc, *a_layout, *b_layout, *c_layout,
                               *d_layout);
    bool            ints = desc->scale == CUDA_R_32I;

    if (st != CUBLAS_STATUS_SUCCESS) {
        return st;
    }
    if (told("fail")) {
        return CUBLAS_STATUS_EXECUTION_FAILED;
    }
    if (!handle || !door || door->magic != simt::BLAS_DOOR_MAGIC
        || (algo && algo->data[0] != simt::BLAS_DOOR_MAGIC))
    {
        return CUBLAS_STATUS_INVALID_VALUE;
    }
    if (is_byte(a_layout->type)
        && (((uintptr_t) a | (uintptr_t) b | (uintptr_t) d) & 15))
    {
        return CUBLAS_STATUS_NOT_SUPPORTED;
    }

    Call *call = new Call{*desc, {*a_layout, a}, {*b_layout, b},
        {*c_layout, c}, {*d_layout, d},
        ints ? (float) *(const int32_t *) alpha : *(const float *) alpha,
        ints ? (float) *(const int32_t *) beta : *(const float *) beta,
        door};
    if (!on_device(door, call->a) || !on_device(door, call->b)
        || !on_device(door, call->d)
        || (work_bytes && !door->is_device(work, work_bytes)))
    {
        delete call;
        return CUBLAS_STATUS_EXECUTION_FAILED;
    }
    return door->enqueue(door, run, drop, call) == 0
           ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_EXECUTION_FAILED;
}
