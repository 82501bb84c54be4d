/*
 * ceilings.cu: the numbers that every other result is divided by, measured
 * on the device at hand: copy and read bandwidth, s8 and bf16 mma.sync rates
 * from registers, the gap between two nodes of a graph, with and without
 * programmatic dependent launch, and an empty graph's launch. One line each;
 * medians. Exit 77 without a device.
 *
 *   nvcc -O3 -std=c++17 -arch=sm_90 -Ikernels -Iengine \
 *       kernels/cuda/bench/ceilings.cu -o ceilings
 */

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include <cuda_runtime.h>

#define REPEATS    15
#define BUF_BYTES  ((size_t) 4 << 30)
#define MMA_LOOPS  4096
#define NODES      1000

static void
check(cudaError_t rc, const char *what)
{
    if (rc != cudaSuccess) {
        fprintf(stderr, "ceilings: %s: %s\n", what, cudaGetErrorString(rc));
        exit(1);
    }
}

/* Random bits, finite as any float type. */
__global__ void
fill_k(uint32_t *p, size_t n)
{
    size_t  i = blockIdx.x * (size_t) blockDim.x + threadIdx.x;

    for ( ; i < n; i += (size_t) gridDim.x * blockDim.x) {
        uint32_t  x = (uint32_t) i * 2654435761u;

        x ^= x >> 15;
        p[i] = (x & 0xbfffbfffu) | 0x20002000u;
    }
}

__global__ void __launch_bounds__(512)
read_k(const uint4 *p, size_t n, uint32_t *out)
{
    uint4   a = { 0, 0, 0, 0 };
    size_t  i = blockIdx.x * (size_t) blockDim.x + threadIdx.x;

    for ( ; i < n; i += (size_t) gridDim.x * blockDim.x) {
        uint4  v = __ldcs(p + i);

        a.x ^= v.x;
        a.y ^= v.y;
        a.z ^= v.z;
        a.w ^= v.w;
    }
    if ((a.x ^ a.y ^ a.z ^ a.w) == 0xdeadbeef) {
        *out = 1;
    }
}

/* Eight independent accumulators a warp. */
__global__ void __launch_bounds__(256)
mma_s8_k(uint32_t *out, int loops)
{
    int       c[8][4] = { };
    uint32_t  a[4], b[2];

    for (int i = 0; i < 4; i++) {
        a[i] = threadIdx.x * 2654435761u + i;
    }
    b[0] = a[0] ^ 77;
    b[1] = a[1] ^ 99;
    for (int n = 0; n < loops; n++) {
#pragma unroll
        for (int i = 0; i < 8; i++) {
            asm volatile ("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 "
                          "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                          : "+r"(c[i][0]), "+r"(c[i][1]), "+r"(c[i][2]), "+r"(c[i][3])
                          : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
        }
    }
    for (int i = 0; i < 8; i++) {
        if (c[i][0] == 123456789 && c[i][1] == 987654321) {
            *out = 1;
        }
    }
}

__global__ void __launch_bounds__(256)
mma_bf16_k(uint32_t *out, int loops)
{
    float     c[8][4] = { };
    uint32_t  a[4], b[2];

    for (int i = 0; i < 4; i++) {
        a[i] = 0x3f803f80u + threadIdx.x % 7;
    }
    b[0] = 0x3c003c01u + threadIdx.x % 5;
    b[1] = b[0];
    for (int n = 0; n < loops; n++) {
#pragma unroll
        for (int i = 0; i < 8; i++) {
            asm volatile ("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                          "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                          : "+f"(c[i][0]), "+f"(c[i][1]), "+f"(c[i][2]), "+f"(c[i][3])
                          : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
        }
    }
    for (int i = 0; i < 8; i++) {
        if (c[i][0] == 1.25f && c[i][1] == 7.75f) {
            *out = 1;
        }
    }
}

__global__ void
nop_k(int *p)
{
#if __CUDA_ARCH__ >= 900
    asm volatile ("griddepcontrol.launch_dependents;");
    asm volatile ("griddepcontrol.wait;" ::: "memory");
#endif
    if (p != nullptr && threadIdx.x == 999) {
        *p = 1;
    }
}

/* Median milliseconds of what `run` puts into the stream. */
template <class F>
static float
median_ms(cudaStream_t s, F run)
{
    float               ms;
    cudaEvent_t         from, to;
    std::vector<float>  t;

    check(cudaEventCreate(&from), "event");
    check(cudaEventCreate(&to), "event");
    for (int i = 0; i < REPEATS + 3; i++) {
        cudaEventRecord(from, s);
        run();
        cudaEventRecord(to, s);
        check(cudaEventSynchronize(to), "run");
        cudaEventElapsedTime(&ms, from, to);
        if (i >= 3) {
            t.push_back(ms);
        }
    }
    cudaEventDestroy(from);
    cudaEventDestroy(to);
    std::sort(t.begin(), t.end());
    return t[t.size() / 2];
}

static void
node_gap(cudaStream_t s, int pdl, int n_sms)
{
    cudaGraph_t          g;
    cudaGraphExec_t      x;
    cudaLaunchConfig_t   c = {};
    cudaLaunchAttribute  at[1];

    at[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    at[0].val.programmaticStreamSerializationAllowed = 1;
    c.gridDim = dim3(n_sms);
    c.blockDim = dim3(128);
    c.stream = s;
    c.attrs = at;
    c.numAttrs = pdl;
    check(cudaStreamBeginCapture(s, cudaStreamCaptureModeGlobal), "capture");
    for (int i = 0; i < NODES; i++) {
        check(cudaLaunchKernelEx(&c, nop_k, (int *) nullptr), "launch");
    }
    check(cudaStreamEndCapture(s, &g), "capture");
    check(cudaGraphInstantiate(&x, g, 0), "graph");
    printf("graph node gap%s %.2f us\n", pdl ? ", programmatic" : "",
           median_ms(s, [&] { cudaGraphLaunch(x, s); }) * 1e3 / NODES);
    cudaGraphExecDestroy(x);
    cudaGraphDestroy(g);
}

int
main(void)
{
    int             n = 0;
    float           ms;
    double          ops;
    uint32_t       *a, *b;
    cudaStream_t    s;
    cudaDeviceProp  p;

    if (cudaGetDeviceCount(&n) != cudaSuccess || n == 0) {
        printf("no CUDA device\n");
        return 77;
    }
    check(cudaGetDeviceProperties(&p, 0), "properties");
    printf("device %s, sm_%d%d, %d SMs, L2 %d MB, %zu KB shared a block, %.1f GB\n",
           p.name, p.major, p.minor, p.multiProcessorCount, p.l2CacheSize >> 20,
           p.sharedMemPerBlockOptin >> 10, (double) p.totalGlobalMem / 1e9);

    check(cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking), "stream");
    check(cudaMalloc(&a, BUF_BYTES), "memory");
    check(cudaMalloc(&b, BUF_BYTES), "memory");
    fill_k<<<1024, 256, 0, s>>>(a, BUF_BYTES / 4);
    fill_k<<<1024, 256, 0, s>>>(b, BUF_BYTES / 4);
    check(cudaStreamSynchronize(s), "fill");

    ms = median_ms(s, [&] {
        cudaMemcpyAsync(b, a, BUF_BYTES, cudaMemcpyDeviceToDevice, s);
    });
    printf("copy %.0f GB/s (read + written)\n", 2.0 * BUF_BYTES / ms / 1e6);
    ms = median_ms(s, [&] {
        read_k<<<p.multiProcessorCount * 4, 512, 0, s>>>((uint4 *) a, BUF_BYTES / 16, b);
    });
    printf("read %.0f GB/s\n", (double) BUF_BYTES / ms / 1e6);

    n = p.multiProcessorCount * 2;
    ops = 8.0 * n * MMA_LOOPS * 8 * 2 * 16 * 8;
    ms = median_ms(s, [&] { mma_s8_k<<<n, 256, 0, s>>>(b, MMA_LOOPS); });
    printf("mma.sync s8 %.0f TOP/s\n", ops * 32 / ms / 1e9);
    ms = median_ms(s, [&] { mma_bf16_k<<<n, 256, 0, s>>>(b, MMA_LOOPS); });
    printf("mma.sync bf16 %.0f TFLOP/s\n", ops * 16 / ms / 1e9);

    node_gap(s, 0, p.multiProcessorCount);
    node_gap(s, 1, p.multiProcessorCount);
    check(cudaGetLastError(), "end");
    return 0;
}
