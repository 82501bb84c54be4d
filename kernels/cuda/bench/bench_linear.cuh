/*
 * bench_linear.cuh: what the benches of linears share: checked calls, device
 * memory full of random bits, activations, the time of a launch in a graph,
 * and the device with its read bandwidth.
 */

#ifndef BENCH_LINEAR_CUH
#define BENCH_LINEAR_CUH

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include <cuda_runtime.h>

#include "bench_pick.h"
#include "cuda.h"

static void
check(cudaError_t rc, const char *what)
{
    if (rc != cudaSuccess) {
        fprintf(stderr, "%s: %s: %s\n", program_invocation_short_name, what,
                cudaGetErrorString(rc));
        exit(1);
    }
}

/* Random bits, finite as any of our types. */
__global__ void
fill_k(uint32_t *p, size_t n)
{
    size_t  i = blockIdx.x * (size_t) blockDim.x + threadIdx.x;

    for ( ; i < n; i += (size_t) gridDim.x * blockDim.x) {
        uint32_t  x = (uint32_t) i * 2654435761u;

        x ^= x >> 15;
        p[i] = (x & 0xbfbfbfbfu) | 0x20202020u;
    }
}

__global__ void __launch_bounds__(512)
read_k(const uint4 *p, size_t n, uint32_t *out)
{
    uint4   a = { 0, 0, 0, 0 };
    size_t  i = blockIdx.x * (size_t) blockDim.x + threadIdx.x;

    for ( ; i < n; i += (size_t) gridDim.x * blockDim.x) {
        const uint4  v = __ldcs(p + i);

        a.x ^= v.x ^ v.y;
        a.y ^= v.z ^ v.w;
    }

    if ((a.x ^ a.y) == 0xdeadbeef) {
        *out = 1;
    }
}

static uint8_t *
device(size_t bytes)
{
    uint8_t  *p = NULL;

    check(cudaMalloc((void **) &p, bytes), "cudaMalloc");
    fill_k<<<1024, 256>>>((uint32_t *) p, bytes / 4);
    check(cudaDeviceSynchronize(), "fill");
    return p;
}

/* Microseconds of one of the n launches of a graph, in which launch(i) makes the i-th in the stream;
 * the median of so many replays. */
template <class F>
static double
graph_us(cudaStream_t stream, int n, int repeats, F launch)
{
    cudaGraph_t         g;
    cudaGraphExec_t     x;
    cudaEvent_t         from, to;
    std::vector<float>  ms(repeats);

    check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeRelaxed), "capture");
    for (int i = 0; i < n; i++) {
        launch((size_t) i);
    }
    check(cudaStreamEndCapture(stream, &g), "end of capture");
    check(cudaGraphInstantiate(&x, g, 0), "graph");
    cudaEventCreate(&from);
    cudaEventCreate(&to);
    check(cudaGraphLaunch(x, stream), "graph launch");

    for (float &t : ms) {
        cudaEventRecord(from, stream);
        check(cudaGraphLaunch(x, stream), "graph launch");
        cudaEventRecord(to, stream);
        check(cudaEventSynchronize(to), "graph run");
        cudaEventElapsedTime(&t, from, to);
    }

    cudaEventDestroy(from);
    cudaEventDestroy(to);
    cudaGraphExecDestroy(x);
    cudaGraphDestroy(g);
    std::sort(ms.begin(), ms.end());
    return ms[repeats / 2] * 1e3 / n;
}

/* Bytes a second of a plain read of 2 GiB. */
static double
read_rate(void)
{
    const size_t  bytes = (size_t) 2 << 30;
    uint8_t      *p = device(bytes + 16);
    cudaEvent_t   a, b;
    float         ms, best = 1e9f;

    cudaEventCreate(&a);
    cudaEventCreate(&b);

    for (int i = 0; i < 9; i++) {
        cudaEventRecord(a);
        read_k<<<132 * 8, 512>>>((const uint4 *) p, bytes / 16,
                                 (uint32_t *) (p + bytes));
        cudaEventRecord(b);
        check(cudaEventSynchronize(b), "read");
        cudaEventElapsedTime(&ms, a, b);
        best = std::min(best, ms);
    }

    cudaFree(p);
    return (double) bytes / best * 1e3;
}

/* The device as kernels get it, its read bandwidth in bytes a second; both are told. False, and
 * that is told: there is none of compute capability CC at least. */
static bool
open_device(cu_dev_t &dev, double &rate, int cc)
{
    cudaDeviceProp  prop;
    int             count = 0;

    if (cudaGetDeviceCount(&count) != cudaSuccess || count == 0
        || cudaGetDeviceProperties(&prop, 0) != cudaSuccess
        || 10 * prop.major + prop.minor < cc)
    {
        printf("no CUDA device of compute capability %d.%d\n", cc / 10, cc % 10);
        return false;
    }
    check(cudaStreamCreateWithFlags(&dev.stream, cudaStreamNonBlocking), "stream");
    dev.n_sms = prop.multiProcessorCount;
    dev.cc = 10 * prop.major + prop.minor;
    dev.pdl = dev.cc >= 90;
    rate = read_rate();
    printf("# %s, %d SMs, read %.0f GB/s\n", prop.name, dev.n_sms, rate / 1e9);
    return true;
}

/* Activations of q8, random bits. */
static inline cu_acts_t
q8_acts(size_t rows, uint32_t n_in)
{
    const size_t  n = rows * n_in;
    cu_acts_t     a = {};

    a.q = (int8_t *) device(n);
    a.d = (float *) device(n / 8);
    a.dsum = (float *) device(n / 8);
    a.dsum2 = (float *) device(n / 4);
    a.n_in = n_in;
    return a;
}

#endif
