/*
 * blas.h: cublasLt for prefill, loaded by dlopen when a device is there and
 * never needed: without it, or where it has no algorithm, the tiles of
 * gemm_f.cuh do the work.
 *
 * Which copy of the weights it reads. bf16, f16, fp8 and W8A8: the same
 * bytes as decode, since those layouts are row-major (gemm_f.h); no memory,
 * no time. W4A16: bf16 in dev->work, made again for every matrix of every
 * step of more than CU_F_DECODE rows: 2 n_out n_in bytes of scratch, the
 * largest matrix once (8B: 117 MB for the feed-forward; a head beyond
 * CU_F_PLAIN_MAX bytes gets none and stays with the decode kernel), and 4.6
 * bytes of traffic a weight, about 10 ms a step of 8B at 3 TB/s, which 2048
 * tokens (29 TFLOP of GEMM) share. A second, plain layout was rejected: it
 * quadruples the memory that 4-bit weights were chosen for.
 *
 * Measured (H200, bench_float, 2048 rows of 8B.qkv, 6144 x 4096): bf16 136
 * us, W4A16 155 us with the copy, fp8 82 us, W8A8 102 us with the scaling.
 *
 * Numbers: y f32. Results may differ from decode in the last bits, W8A8's
 * do not: its s32 sums are exact, its scales are applied by cu_f_scale().
 */

#ifndef KERN_CUDA_BLAS_H
#define KERN_CUDA_BLAS_H

#include "cuda.h"
#include "gemm_f.h"

#ifdef __cplusplus
extern "C" {
#endif

#define CU_BLAS_LIB   "libcublasLt.so.13"
#define CU_BLAS_WORK  ((size_t) 32 << 20)   /* bytes for its algorithms */

typedef struct cu_blas_s  cu_blas_t;

/* Opens the library lib (NULL: CU_BLAS_LIB; "": symbols that this process
 * has) and a handle on the current device. UNSUPPORTED with a sentence when
 * it is absent or lacks a function, DEVICE when it does not start; *blas is
 * NULL then, which is what cu_dev_t wants. Process lifetime, one thread; the
 * caller closes it before the device goes. */
int cu_blas_open(cu_blas_t **blas, const char *lib, infer_err_t *err);
void cu_blas_close(cu_blas_t *blas);

/* y of p->part[0] = or += a W^T, scales included, with work as scratch of
 * the library and of raw sums. The algorithm is chosen once for each shape
 * and kept. INFER_OK; INFER_UNSUPPORTED when nothing was enqueued, because
 * there is no algorithm, it failed, or work is too small: the shape is then
 * not tried again, and the caller has its own kernels. INFER_DEVICE from
 * cu_f_scale(). */
int cu_blas_linear(const cu_dev_t *dev, cu_family_e family,
    const cu_f_args_t *p, uint8_t *work, size_t work_bytes);

/* Bytes of work beside CU_BLAS_WORK for n rows of this matrix: raw sums of
 * fp8 and W8A8 that are added to y. Those matrices (attention's output, the
 * feed-forward's second) have no more rows than columns; others get none. */
size_t cu_blas_scratch(const cu_weight_t *w, uint32_t n);

#ifdef __cplusplus
}
#endif

#endif
