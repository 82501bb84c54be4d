/*
 * cuda_runtime.h: stand-in for the toolkit's header, for C++: the runtime's
 * C interface, what kernels are made of (simt.h) and typed launches.
 */

#ifndef SIMT_CUDA_RUNTIME_H
#define SIMT_CUDA_RUNTIME_H

#include <vector>

#include "cuda_runtime_api.h"
#include "../simt.h"
#include "../control.h"

namespace simt {

/* A kernel's parameters as bytes, for the PTX interpreter. */
struct Args {
    std::vector<char>                 bytes;
    std::vector<std::pair<int, int>>  layout;    /* offset, size */

    template <class T>
    void add(const T &v)
    {
        size_t off = (bytes.size() + alignof(T) - 1) / alignof(T)
                     * alignof(T);

        bytes.resize(off + sizeof(T));
        memcpy(&bytes[off], &v, sizeof v);
        layout.push_back({(int) off, (int) sizeof(T)});
    }
};

/* body: runs the kernel for one thread. */
cudaError_t launch(const cudaLaunchConfig_t *cfg, const void *fn,
    std::function<void()> body, Args args);

}  // namespace simt

template <class... P, class... A>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t *cfg,
    void (*kernel)(P...), A &&...args)
{
    std::tuple<P...> t(std::forward<A>(args)...);
    simt::Args       a;

    std::apply([&a](const P &...p) { (a.add(p), ...); }, t);
    return simt::launch(cfg, (const void *) kernel, [kernel, t] {
        std::apply([kernel](P... p) {
            simt::kernel_begin();
            kernel(p...);
        }, t);
    }, std::move(a));
}

template <class T>
cudaError_t cudaFuncSetAttribute(T *fn, cudaFuncAttribute attr, int value)
{
    return ::cudaFuncSetAttribute((const void *) fn, attr, value);
}

template <class T>
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes *attr, T *fn)
{
    return ::cudaFuncGetAttributes(attr, (const void *) fn);
}

template <class T>
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, T *fn,
    int threads, size_t smem)
{
    return ::cudaOccupancyMaxActiveBlocksPerMultiprocessor(blocks,
        (const void *) fn, threads, smem);
}

template <class T>
cudaError_t cudaMalloc(T **p, size_t size)
{
    return ::cudaMalloc((void **) p, size);
}

template <class T>
cudaError_t cudaMallocHost(T **p, size_t size)
{
    return ::cudaMallocHost((void **) p, size);
}

template <class T>
cudaError_t cudaHostAlloc(T **p, size_t size, unsigned flags)
{
    return ::cudaHostAlloc((void **) p, size, flags);
}

#endif
