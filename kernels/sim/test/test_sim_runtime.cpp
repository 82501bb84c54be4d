/*
 * test_sim_runtime.cpp: the fake runtime's rules: order of streams, events,
 * graphs, memory, failures on demand, devices that are not there.
 */

#include "sim_test.h"

#include <cublasLt.h>

struct Streams {
    cudaStream_t a, b;
    cudaEvent_t  e, f;

    Streams()
    {
        cudaStreamCreateWithFlags(&a, cudaStreamNonBlocking);
        cudaStreamCreateWithFlags(&b, cudaStreamNonBlocking);
        cudaEventCreateWithFlags(&e, cudaEventDisableTiming);
        cudaEventCreateWithFlags(&f, cudaEventDisableTiming);
    }
    ~Streams()
    {
        cudaEventDestroy(e);
        cudaEventDestroy(f);
        cudaStreamDestroy(a);
        cudaStreamDestroy(b);
    }
};

/* Pinned memory of n ints. */
struct Pinned {
    int *p = nullptr;

    explicit Pinned(size_t n)
    {
        if (cudaMallocHost(&p, n * sizeof(int)) != cudaSuccess) {
            abort();
        }
    }
    ~Pinned() { cudaFreeHost(p); }
};

__global__ void add_k(int *x, int v)
{
    x[threadIdx.x] += v;
}

__global__ void fault_k(int *x)
{
    x[1 << 20] = 1;
}

/* ---- streams ---- */

static void
events(simt::Async mode, const char *name)
{
    Streams  s;
    Dev<int> d(256);
    Pinned   h(256), o(256);
    int      with = 0, without = 0;

    for (int i = 0; i < 256; i++) {
        h.p[i] = i;
    }
    for (int t = 0; t < 64; t++) {
        for (int dep = 0; dep < 2; dep++) {
            simt::rt_config(mode, (uint64_t) t, 0);
            cudaMemsetAsync(d.p, 0, 1024, s.a);
            cudaStreamSynchronize(s.a);
            cudaMemcpyAsync(d.p, h.p, 1024, cudaMemcpyHostToDevice, s.a);
            cudaEventRecord(s.e, s.a);
            if (dep) {
                cudaStreamWaitEvent(s.b, s.e, 0);
            }
            cudaMemcpyAsync(o.p, d.p, 1024, cudaMemcpyDeviceToHost, s.b);
            cudaStreamSynchronize(s.b);
            (dep ? with : without) += o.p[255] == 255;
            cudaDeviceSynchronize();
        }
    }
    ok(with == 64, "%s: an event orders two streams", name);
    ok(mode == simt::EAGER ? without == 64 : without < 64,
       "%s: without it %d of 64 are right", name, without);
}

static void
polling(void)
{
    Streams s;
    Pinned  h(1), o(1);
    Dev<int> d(1);
    int      turns = 0;

    simt::rt_config(simt::LAZY, 1, 0);
    h.p[0] = 5;
    cudaMemcpyAsync(d.p, h.p, 4, cudaMemcpyHostToDevice, s.a);
    cudaMemcpyAsync(o.p, d.p, 4, cudaMemcpyDeviceToHost, s.a);
    cudaEventRecord(s.e, s.a);
    ok(cudaEventQuery(s.e) == cudaErrorNotReady, "not ready at first");
    while (cudaEventQuery(s.e) == cudaErrorNotReady && turns < 100) {
        turns++;
    }
    ok(o.p[0] == 5 && turns < 100, "polling makes it ready");
    ok(cudaGetLastError() == cudaSuccess, "not ready is no error");

    std::vector<int> page(1, 9);
    cudaMemcpyAsync(d.p, page.data(), 4, cudaMemcpyHostToDevice, s.a);
    page[0] = 1;
    cudaMemcpyAsync(page.data(), d.p, 4, cudaMemcpyDeviceToHost, s.a);
    ok(page[0] == 9, "pageable memory is read and written at once");
}

static void
default_stream(void)
{
    Streams          s;
    Pinned           o(2);
    Dev<int>         d(std::vector<int>(1, 4));
    std::vector<int> v(1, 8);

    simt::rt_config(simt::LAZY, 1, 0);
    cudaMemcpy(d.p, v.data(), 4, cudaMemcpyHostToDevice);
    cudaMemcpyAsync(o.p, d.p, 4, cudaMemcpyDeviceToHost, s.a);
    cudaStreamSynchronize(s.a);
    cudaDeviceSynchronize();
    cudaMemcpyAsync(o.p + 1, d.p, 4, cudaMemcpyDeviceToHost, s.a);
    cudaStreamSynchronize(s.a);
    ok(o.p[0] == 4 && o.p[1] == 8,
       "other streams do not wait for a copy from pageable memory");
}

static void
host_functions(void)
{
    Streams  s;
    Dev<int> d(std::vector<int>(32, 1));
    int      n = 0;
    cudaLaunchConfig_t c = cfg(1, 32, 0, s.a);

    simt::rt_config(simt::LAZY, 1, 0);
    cudaLaunchKernelEx(&c, add_k, d.p, 3);
    cudaLaunchHostFunc(s.a, [](void *p) { ++*(int *) p; }, &n);
    ok(n == 0, "work is deferred");
    cudaStreamSynchronize(s.a);
    ok(n == 1 && d.down()[31] == 4, "kernel, then host function");
}

/* ---- graphs ---- */

/* b must wait for a's upload; edge: whether the event between is there. */
static int
graph_right(uint64_t seed, bool edge)
{
    Streams         s;
    Dev<int>        d(std::vector<int>(64, 0)), r(std::vector<int>(64, 0));
    cudaGraph_t     g;
    cudaGraphExec_t x;
    cudaLaunchConfig_t ca = cfg(1, 32, 0, s.a), cb = cfg(1, 32, 0, s.b);

    simt::rt_config(simt::RANDOM, seed, 0);
    cudaStreamBeginCapture(s.a, cudaStreamCaptureModeGlobal);
    cudaEventRecord(s.e, s.a);
    cudaStreamWaitEvent(s.b, s.e, 0);
    cudaLaunchKernelEx(&ca, add_k, d.p, 7);
    if (edge) {
        cudaEventRecord(s.e, s.a);
        cudaStreamWaitEvent(s.b, s.e, 0);
    }
    cudaMemcpyAsync(r.p, d.p, 128, cudaMemcpyDeviceToDevice, s.b);
    cudaLaunchKernelEx(&cb, add_k, r.p, 1);
    cudaEventRecord(s.f, s.b);
    cudaStreamWaitEvent(s.a, s.f, 0);
    cudaLaunchKernelEx(&ca, add_k, r.p, 1);
    if (cudaStreamEndCapture(s.a, &g) != cudaSuccess
        || cudaGraphInstantiate(&x, g, 0) != cudaSuccess)
    {
        return -1;
    }
    cudaGraphLaunch(x, s.a);
    cudaStreamSynchronize(s.a);
    int right = r.down()[0] == 9;
    cudaGraphExecDestroy(x);
    cudaGraphDestroy(g);
    return right;
}

static void
graphs(void)
{
    int      with = 0, without = 0;
    Streams  s;
    Dev<int> d(32);
    void    *p = nullptr;
    cudaGraph_t g;
    cudaStreamCaptureStatus st;

    for (uint64_t i = 0; i < 32; i++) {
        with += graph_right(i, true);
        without += graph_right(i, false);
    }
    ok(with == 32 && without < 32, "random replay finds a missing edge "
       "(%d, %d of 32 right)", with, without);

    simt::rt_config(simt::LAZY, 1, 0);
    cudaStreamBeginCapture(s.a, cudaStreamCaptureModeGlobal);
    cudaMemsetAsync(d.p, 0, 4, s.a);
    cudaEventRecord(s.e, s.a);
    cudaStreamWaitEvent(s.b, s.e, 0);
    cudaMemsetAsync(d.p, 1, 4, s.b);
    ok(cudaStreamEndCapture(s.a, &g) == cudaErrorStreamCaptureUnjoined
       && g == nullptr, "work of another stream not joined");

    cudaStreamBeginCapture(s.a, cudaStreamCaptureModeGlobal);
    ok(cudaMalloc(&p, 64) == cudaErrorStreamCaptureUnsupported
       && p == nullptr, "no allocation in a capture");
    cudaStreamIsCapturing(s.a, &st);
    ok(st == cudaStreamCaptureStatusInvalidated
       && cudaStreamEndCapture(s.a, &g)
          == cudaErrorStreamCaptureInvalidated, "and it is invalid then");

    cudaStreamBeginCapture(s.a, cudaStreamCaptureModeGlobal);
    ok(cudaStreamSynchronize(s.a) == cudaErrorStreamCaptureUnsupported
       && cudaStreamEndCapture(s.a, &g)
          == cudaErrorStreamCaptureInvalidated, "no waiting in a capture");

    cudaEventRecord(s.f, s.b);
    cudaStreamBeginCapture(s.a, cudaStreamCaptureModeGlobal);
    ok(cudaStreamWaitEvent(s.a, s.f, 0) == cudaErrorStreamCaptureIsolation
       && cudaStreamEndCapture(s.a, &g)
          == cudaErrorStreamCaptureInvalidated,
       "no dependency on work outside of the capture");
    ok(cudaStreamEndCapture(s.a, &g) == cudaErrorIllegalState,
       "no end without a beginning");
    (void) cudaGetLastError();
    cudaDeviceSynchronize();
}

/* ---- memory ---- */

static void
memory(void)
{
    size_t avail, total;
    void  *p = nullptr, *q = nullptr;
    int    h[16];
    cudaLaunchConfig_t c = cfg(1, 32, 49 << 10);
    cudaDeviceProp     prop;

    simt::rt_device("mem=1m,cc=86,sms=7,name=Test");
    cudaMemGetInfo(&avail, &total);
    cudaGetDeviceProperties(&prop, 0);
    ok(avail == 1 << 20 && total == 1 << 20 && prop.major == 8
       && prop.minor == 6 && prop.multiProcessorCount == 7
       && std::string(prop.name) == "Test", "a device as asked for");
    ok(cudaMalloc(&p, 1 << 19) == cudaSuccess
       && cudaMalloc(&q, (1 << 19) + 1) == cudaErrorMemoryAllocation
       && q == nullptr, "memory ends");
    cudaMemGetInfo(&avail, &total);
    ok(avail == 1 << 19, "what is left");

    unsigned char poison[64];
    cudaMemcpy(poison, p, 64, cudaMemcpyDeviceToHost);
    ok(poison[0] == 0xff && poison[63] == 0xff, "new memory is poison");
    ok(cudaMemcpy(p, h, 64, cudaMemcpyDeviceToHost) == cudaErrorInvalidValue
       && cudaMemcpy((char *) p + (1 << 19) - 32, h, 64,
                     cudaMemcpyHostToDevice) == cudaErrorInvalidValue
       && cudaMemset((char *) p + (1 << 19), 0, 1) == cudaErrorInvalidValue,
       "copies of a wrong kind or past an allocation");
    ok(cudaGetLastError() == cudaErrorInvalidValue
       && cudaGetLastError() == cudaSuccess, "the last error, once");
    cudaMemset2DAsync(p, 16, 5, 3, 2, nullptr);
    cudaMemcpy2DAsync(poison, 32, p, 16, 4, 2, cudaMemcpyDeviceToHost,
                      nullptr);
    ok(poison[2] == 5 && poison[3] == 0xff && poison[34] == 5
       && cudaMemset2DAsync(p, 16, 0, 17, 2, nullptr)
          == cudaErrorInvalidValue, "rows of a pitch");
    (void) cudaGetLastError();
    ok(cudaFree(h) == cudaErrorInvalidValue && cudaFree(nullptr) == 0,
       "free of what was never allocated, and of nothing");
    cudaMemset(p, 0, 128);
    ok(cudaLaunchKernelEx(&c, add_k, (int *) p, 1) == cudaErrorInvalidValue,
       "more shared memory than asked for");
    ok(cudaFuncSetAttribute(add_k,
           cudaFuncAttributeMaxDynamicSharedMemorySize, 64 << 10) == 0
       && cudaLaunchKernelEx(&c, add_k, (int *) p, 1) == 0
       && cudaFuncSetAttribute(add_k,
           cudaFuncAttributeMaxDynamicSharedMemorySize, 228 << 10)
          == cudaErrorInvalidValue, "shared memory by attribute");
    c = cfg(1, 1025);
    ok(cudaLaunchKernelEx(&c, add_k, (int *) p, 1)
       == cudaErrorInvalidConfiguration, "too many threads");
    (void) cudaGetLastError();
    ok(simt::rt_leaks() == 1, "one leak");
    cudaFree(p);
    ok(simt::rt_leaks() == 0, "none");

    simt::rt_device("mem=4g");
    ok(cudaMalloc(&p, (size_t) 3 << 30) == cudaSuccess, "3 GiB");
    cudaMemcpy(poison, (char *) p + ((size_t) 3 << 30) - 64, 64,
               cudaMemcpyDeviceToHost);
    ok(poison[0] == 0xff && poison[63] == 0xff, "poison to the end");
    cudaFree(p);
    simt::rt_device(nullptr);
}

/* ---- failures ---- */

static void
failures(void)
{
    void              *p = nullptr;
    int                n = -1;
    Dev<int>           d(std::vector<int>(32, 0));
    cudaLaunchConfig_t c = cfg(1, 32);

    simt::rt_fail("cudaMalloc", 2);
    ok(cudaMalloc(&p, 64) == cudaSuccess, "first");
    cudaFree(p);
    p = nullptr;
    ok(cudaMalloc(&p, 64) == cudaErrorMemoryAllocation && !p, "second fails");
    ok(cudaGetLastError() == cudaErrorMemoryAllocation
       && cudaMalloc(&p, 64) == cudaSuccess, "third does not");
    cudaFree(p);

    simt::rt_config(simt::LAZY, 1, 0);
    simt::rt_fail("kernel", 2);
    for (int i = 0; i < 3; i++) {
        ok(cudaLaunchKernelEx(&c, add_k, d.p, 1) == cudaSuccess,
           "launch %d is taken", i);
    }
    ok(cudaDeviceSynchronize() == cudaErrorIllegalAddress,
       "the second faults when it runs");
    ok(cudaDeviceSynchronize() == cudaErrorIllegalAddress
       && cudaMalloc(&p, 4) == cudaErrorIllegalAddress
       && cudaLaunchKernelEx(&c, add_k, d.p, 1) == cudaErrorIllegalAddress
       && cudaGetLastError() == cudaErrorIllegalAddress
       && cudaGetLastError() == cudaErrorIllegalAddress,
       "and every later call says so");
    simt::rt_reset_errors();
    ok(d.down()[0] == 1, "nothing ran after it");

    simt::rt_fail("cudaGraphLaunch", 1, cudaErrorLaunchFailure);
    cudaStream_t    s;
    cudaGraph_t     g;
    cudaGraphExec_t x;
    cudaStreamCreate(&s);
    cudaStreamBeginCapture(s, cudaStreamCaptureModeGlobal);
    cudaStreamEndCapture(s, &g);
    cudaGraphInstantiate(&x, g, 0);
    ok(cudaGraphLaunch(x, s) == cudaErrorLaunchFailure
       && cudaGetDeviceCount(&n) == cudaErrorLaunchFailure,
       "a code that sticks");
    simt::rt_reset_errors();
    cudaGraphExecDestroy(x);
    cudaGraphDestroy(g);
    cudaStreamDestroy(s);
    ok(cudaStreamSynchronize(s) == cudaErrorInvalidResourceHandle
       && cudaGraphLaunch(x, nullptr) == cudaErrorInvalidValue,
       "handles that are gone");
    (void) cudaGetLastError();

    Outcome o = in_child([] {
        Dev<int>           y(32);
        cudaLaunchConfig_t one = cfg(1, 1);
        cudaLaunchKernelEx(&one, fault_k, y.p);
        return cudaDeviceSynchronize() == cudaSuccess;
    });
    ok(o.status == 97 && o.says("fault_k"), "a real fault names the kernel");
}

static void
devices(void)
{
    int n = -1, v = -1;

    simt::rt_device("nodriver");
    ok(cudaGetDeviceCount(&n) == cudaErrorInsufficientDriver && n == 0
       && cudaDriverGetVersion(&v) == cudaSuccess && v == 0, "no driver");
    simt::rt_device("olddriver");
    ok(cudaGetDeviceCount(&n) == cudaErrorInsufficientDriver
       && cudaDriverGetVersion(&v) == cudaSuccess && v > 0 && v < 13000,
       "an old driver");
    simt::rt_device("none");
    ok(cudaGetDeviceCount(&n) == cudaErrorNoDevice
       && cudaSetDevice(0) == cudaErrorNoDevice, "no device");
    simt::rt_device("count=2");
    ok(cudaGetDeviceCount(&n) == cudaSuccess && n == 2
       && cudaSetDevice(1) == cudaSuccess
       && cudaSetDevice(2) == cudaErrorInvalidDevice, "two devices");
    (void) cudaGetLastError();

    simt::rt_device("cc=75");
    cudaLaunchConfig_t c = cfg(1, 32);
    cudaFuncAttributes a;
    ok(cudaFuncGetAttributes(&a, add_k) == cudaErrorNoKernelImageForDevice
       && cudaLaunchKernelEx(&c, add_k, (int *) nullptr, 1)
          == cudaErrorNoKernelImageForDevice, "an architecture without code");
    (void) cudaGetLastError();
    ok(!simt::rt_device("cc=") && !simt::rt_device("what"),
       "what is no device");
    simt::rt_device(nullptr);
    simt::rt_reset_errors();

    Outcome o = in_child([] {
        setenv("SIMT_DEVICE", "cc=120,mem=64m", 1);
        setenv("SIMT_FAIL", "cudaMalloc:1,cudaMallocHost:2:3", 1);
        execl("/proc/self/exe", "test_sim_runtime", "environment",
              (char *) nullptr);
        return false;
    });
    ok(o.status == 0, "device and failures from the environment");
}

/* As a new process with SIMT_DEVICE and SIMT_FAIL set. */
static int
environment(void)
{
    void  *p = nullptr;
    size_t avail, total;
    int    cc = 0;

    cudaDeviceGetAttribute(&cc, cudaDevAttrComputeCapabilityMajor, 0);
    cudaMemGetInfo(&avail, &total);
    return !(cc == 12 && total == 64 << 20
             && cudaMalloc(&p, 4) == cudaErrorMemoryAllocation
             && cudaMalloc(&p, 4) == cudaSuccess
             && cudaMallocHost(&p, 4) == cudaSuccess
             && cudaMallocHost(&p, 4) == cudaErrorInitializationError);
}

/* ---- cublasLt ---- */

static void
blas(void)
{
    const int m = 20, n = 7, k = 32;
    std::vector<uint16_t> a(m * k), b(n * k);
    std::vector<float>    y(m * n, 1.0f);
    cublasLtHandle_t      h;
    cublasLtMatmulDesc_t  op;
    cublasLtMatrixLayout_t la, lb, ly;
    cublasLtMatmulPreference_t pref;
    cublasLtMatmulHeuristicResult_t best;
    cublasOperation_t     t = CUBLAS_OP_T;
    float                 alpha = 2, beta = 1;
    int                   found = 0;
    double                worst = 0;
    Streams               s;

    for (size_t i = 0; i < a.size(); i++) {
        a[i] = simt::bf16_bits((float) (i * 7 % 13) - 6);
    }
    for (size_t i = 0; i < b.size(); i++) {
        b[i] = simt::bf16_bits((float) (i * 5 % 11) - 5);
    }
    Dev<uint16_t> da(a), db(b);
    Dev<float>    dy(y);

    cublasLtCreate(&h);
    cublasLtMatmulDescCreate(&op, CUBLAS_COMPUTE_32F, CUDA_R_32F);
    cublasLtMatmulDescSetAttribute(op, CUBLASLT_MATMUL_DESC_TRANSA, &t,
                                   sizeof t);
    cublasLtMatrixLayoutCreate(&la, CUDA_R_16BF, k, m, k);
    cublasLtMatrixLayoutCreate(&lb, CUDA_R_16BF, k, n, k);
    cublasLtMatrixLayoutCreate(&ly, CUDA_R_32F, m, n, m);
    cublasLtMatmulPreferenceCreate(&pref);
    ok(cublasLtMatmulAlgoGetHeuristic(h, op, la, lb, ly, ly, pref, 1, &best,
                                      &found) == CUBLAS_STATUS_SUCCESS
       && found == 1 && best.workspaceSize == 0, "an algorithm");
    ok(cublasLtMatmul(h, op, &alpha, da.p, la, db.p, lb, &beta, dy.p, ly,
                      dy.p, ly, &best.algo, nullptr, 0, s.a)
       == CUBLAS_STATUS_SUCCESS, "a product is queued");
    cudaStreamSynchronize(s.a);
    y = dy.down();
    for (int j = 0; j < n; j++) {
        for (int i = 0; i < m; i++) {
            double want = 0;
            for (int x = 0; x < k; x++) {
                want += (double) simt::bf16_value(a[(size_t) (i * k + x)])
                        * simt::bf16_value(b[(size_t) (j * k + x)]);
            }
            worst = std::max(worst, fabs(2 * want + 1
                             - (double) y[(size_t) (j * m + i)]));
        }
    }
    ok(worst == 0, "alpha A^T B + beta C");
    ok(cublasLtMatmul(h, op, &alpha, da.p, la, db.p, lb, &beta, y.data(), ly,
                      y.data(), ly, &best.algo, nullptr, 0, s.a)
       == CUBLAS_STATUS_EXECUTION_FAILED, "not into the host's memory");
    cublasLtMatrixLayoutDestroy(la);
    cublasLtMatrixLayoutDestroy(lb);
    cublasLtMatrixLayoutDestroy(ly);
    cublasLtMatmulPreferenceDestroy(pref);
    cublasLtMatmulDescDestroy(op);
    cublasLtDestroy(h);
}

int
main(int argc, char **)
{
    if (argc > 1) {
        return environment();
    }
    events(simt::EAGER, "eager");
    events(simt::LAZY, "lazy");
    events(simt::RANDOM, "random");
    polling();
    default_stream();
    host_functions();
    graphs();
    memory();
    failures();
    devices();
    blas();
    if (simt::checked()) {
        ok(simt::check_reports == 0, "the checker is silent");
    }
    ok(simt::rt_leaks() == 0, "nothing is left allocated");
    return tap_done();
}
