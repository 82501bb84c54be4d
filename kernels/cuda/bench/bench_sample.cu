/*
 * bench_sample.cu: cu_sample() on a real GPU: microseconds of one step's sampling from a graph,
 * against the time that reading the logits once takes at the bandwidth measured here.
 *
 *   nvcc -O3 -std=c++17 -fmad=false -arch=sm_90a -Iengine -Ikernels -Ikernels/cuda \
 *       -o bench_sample kernels/cuda/bench/bench_sample.cu kernels/cuda/sample.cu
 *   ./bench_sample [quick]
 *
 * Logits: normal, spread 2.5, a few likely tokens, as models make them. Each launch finds the
 * logits of the one before in L2, as a step finds what its head wrote.
 */

#include <cuda_runtime.h>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "cuda.h"

#define TRY(x)                                                                                    \
    do {                                                                                          \
        cudaError_t  rc_ = (x);                                                                   \
        if (rc_ != cudaSuccess) {                                                                 \
            printf("%s: %s\n", #x, cudaGetErrorString(rc_));                                      \
            exit(1);                                                                              \
        }                                                                                         \
    } while (0)

typedef struct {
    const char  *name;
    float        temperature, top_p, min_p;
    int32_t      top_k;
    uint32_t     top_logprobs, want, n_seen;
} request_t;

static const request_t  modes[] = {
    { "greedy", 0, 1, 0, 0, 0, 0, 0 },
    { "greedy, penalties of 2000", 0, 1, 0, 0, 0, 0, 2000 },
    { "greedy, logprob", 0, 1, 0, 0, 0, 1, 0 },
    { "greedy, 20 top logprobs", 0, 1, 0, 0, 20, 1, 0 },
    { "T=1", 1, 1, 0, 0, 0, 0, 0 },
    { "T=0.8 top_k=40 top_p=0.95", 0.8f, 0.95f, 0, 40, 0, 0, 0 },
    { "T=0.7 top_p=0.9", 0.7f, 0.9f, 0, 0, 0, 0, 0 },
    { "T=1 min_p=0.05", 1, 1, 0.05f, 0, 0, 0, 0 },
    { "T=1.5 top_p=0.999", 1.5f, 0.999f, 0, 0, 0, 0, 0 },
};

/* Microseconds of one replay, the least of five rounds. */
static float
time_graph(cudaGraphExec_t exec, cudaStream_t stream, int n)
{
    float        ms, best = 1e30f;
    cudaEvent_t  a, b;

    TRY(cudaEventCreate(&a));
    TRY(cudaEventCreate(&b));
    for (int round = 0; round < 5; round++) {
        TRY(cudaEventRecord(a, stream));
        for (int k = 0; k < n; k++) {
            TRY(cudaGraphLaunch(exec, stream));
        }
        TRY(cudaEventRecord(b, stream));
        TRY(cudaEventSynchronize(b));
        TRY(cudaEventElapsedTime(&ms, a, b));
        best = fminf(best, ms * 1000 / (float) n);
    }
    TRY(cudaEventDestroy(a));
    TRY(cudaEventDestroy(b));
    return best;
}

static void
make_logits(std::vector<float> &l, uint32_t vocab, uint32_t rows)
{
    uint64_t  s = 88172645463325252ull;

    l.resize((size_t) vocab * rows);
    for (float &x : l) {
        float  sum = 0;

        for (int k = 0; k < 6; k++) {
            s = s * 6364136223846793005ull + 1442695040888963407ull;
            sum += (float) (s >> 40) * 0x1p-24f - 0.5f;
        }
        x = sum * 3.5f;                /* spread 2.5 */
        if ((s >> 33) % 4096 == 0) {
            x += 8;
        }
    }
}

/* One row of the table. */
static void
bench(const request_t *m, uint32_t vocab, uint32_t rows, cu_dev_t dev, int n)
{
    float                      us, gb = (float) vocab * (float) rows * 4e-9f;
    void                      *work;
    float                     *logits;
    int32_t                   *out_row, *sampled;
    cu_sample_t               *sample;
    kern_edit_t               *edit;
    cu_sampled_t              *out;
    cudaGraph_t                graph;
    cudaGraphExec_t            exec;
    std::vector<float>         l;
    std::vector<int32_t>       r(rows);
    std::vector<cu_sample_t>   s(rows);
    std::vector<kern_edit_t>   e((size_t) rows * m->n_seen + 1);

    make_logits(l, vocab, rows);
    for (uint32_t i = 0; i < rows; i++) {
        memset(&s[i], 0, sizeof(s[i]));
        s[i].seed = i + 1;
        s[i].temperature = m->temperature;
        s[i].top_p = m->top_p;
        s[i].min_p = m->min_p;
        s[i].top_k = m->top_k;
        s[i].repetition = m->n_seen != 0 ? 1.1f : 1;
        s[i].first_edit = i * m->n_seen;
        s[i].n_seen = m->n_seen;
        s[i].top_logprobs = m->top_logprobs;
        s[i].want = m->want;
        s[i].mask_off = UINT32_MAX;
        r[i] = (int32_t) i;
        for (uint32_t k = 0; k < m->n_seen; k++) {
            e[i * m->n_seen + k] = { (int32_t) (k * 7 % vocab), 1 };
        }
    }
    TRY(cudaMalloc((void **) &logits, l.size() * 4));
    TRY(cudaMalloc((void **) &out_row, rows * 4));
    TRY(cudaMalloc((void **) &sampled, rows * 4));
    TRY(cudaMalloc((void **) &sample, rows * sizeof(cu_sample_t)));
    TRY(cudaMalloc((void **) &edit, e.size() * sizeof(kern_edit_t)));
    TRY(cudaMallocHost((void **) &out, rows * sizeof(cu_sampled_t)));
    TRY(cudaMalloc(&work, cu_sample_work(rows, vocab)));
    TRY(cudaMemset(work, 0, cu_sample_work(rows, vocab)));
    TRY(cudaMemcpy(logits, l.data(), l.size() * 4, cudaMemcpyHostToDevice));
    TRY(cudaMemcpy(out_row, r.data(), rows * 4, cudaMemcpyHostToDevice));
    TRY(cudaMemcpy(sample, s.data(), rows * sizeof(cu_sample_t), cudaMemcpyHostToDevice));
    TRY(cudaMemcpy(edit, e.data(), e.size() * sizeof(kern_edit_t), cudaMemcpyHostToDevice));
    TRY(cudaStreamBeginCapture(dev.stream, cudaStreamCaptureModeGlobal));
    if (cu_sample(&dev, logits, vocab, rows, out_row, sample, edit, NULL, sampled, out, work)
        != INFER_OK)
    {
        printf("cu_sample: %s\n", cudaGetErrorString(cudaGetLastError()));
        exit(1);
    }
    TRY(cudaStreamEndCapture(dev.stream, &graph));
    TRY(cudaGraphInstantiate(&exec, graph, 0));
    (void) time_graph(exec, dev.stream, 3);
    us = time_graph(exec, dev.stream, n);
    printf("%-28s V=%-6u B=%-3u %8.1f us  %7.0f GB/s of one reading\n", m->name, vocab, rows,
           (double) us, (double) (gb * 1e6f / us));

    TRY(cudaGraphExecDestroy(exec));
    TRY(cudaGraphDestroy(graph));
    TRY(cudaFree(logits));
    TRY(cudaFree(out_row));
    TRY(cudaFree(sampled));
    TRY(cudaFree(sample));
    TRY(cudaFree(edit));
    TRY(cudaFree(work));
    TRY(cudaFreeHost(out));
}

int
main(int argc, char **argv)
{
    const bool      quick = argc > 1 && strcmp(argv[1], "quick") == 0;
    const uint32_t  vocab[] = { 49152, 128256 }, rows[] = { 1, 16, 64, 256 };
    int             n = 0;
    cu_dev_t        dev = {};
    cudaDeviceProp  prop;

    if (cudaGetDeviceCount(&n) != cudaSuccess || n == 0) {
        printf("bench_sample: no CUDA device\n");
        return 77;
    }
    TRY(cudaGetDeviceProperties(&prop, 0));
    TRY(cudaStreamCreateWithFlags(&dev.stream, cudaStreamNonBlocking));
    dev.n_sms = prop.multiProcessorCount;
    dev.cc = 10 * prop.major + prop.minor;
    printf("%s, %d SMs\n", prop.name, dev.n_sms);
    for (int pdl = 0; pdl <= (dev.cc >= 90); pdl++) {
        dev.pdl = pdl;
        printf("programmatic launches: %s\n", pdl ? "yes" : "no");
        for (uint32_t v : vocab) {
            for (uint32_t b : rows) {
                for (const request_t &m : modes) {
                    if (!quick || (v == 128256 && b == 64)) {
                        bench(&m, v, b, dev, quick ? 2 : 50);
                    }
                }
            }
        }
    }
    TRY(cudaStreamDestroy(dev.stream));
    return 0;
}
