/*
 * bench_attn.cu: cu_attend() and cu_norm() on a real GPU against their floors. Each line is the
 * median of replays of a graph of calls, which go through layers of KV larger than the L2 cache.
 * Floors: GB/s of memory and TFLOP/s of bf16 as given, or the data sheet's of an H100 SXM.
 *
 *   make GPU_ARCH=90a build/gpu/bench_attn        (one nvcc command a file, gpu.mk)
 *   build/gpu/bench_attn [quick] [GB/s TFLOP/s]
 */

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include <cuda_runtime.h>

extern "C" {
#include "kern.h"
}
#include "bench_pick.h"
#include "cuda.h"
#include "cuda_cost.h"

#define REPLAYS   9
#define MAX_BYTES ((size_t) 1 << 32)     /* of KV at most */
#define COLD      ((size_t) 256 << 20)   /* of KV at least, so that L2 does not hold it */

typedef struct {
    const char  *name;
    uint32_t     heads, kv_heads, dim;
} shape_t;

static double  peak_gb = 3350, peak_tf = 989;
static int     quick;

static void
check(cudaError_t rc, const char *what)
{
    if (rc != cudaSuccess) {
        fprintf(stderr, "bench_attn: %s: %s\n", what, cudaGetErrorString(rc));
        exit(1);
    }
}

static void *
device(size_t bytes)
{
    void  *p = NULL;

    check(cudaMalloc(&p, bytes), "cudaMalloc");
    check(cudaMemset(p, 0, bytes), "cudaMemset");
    return p;
}

/* Random bits, finite as any float type, as f32 too when `small`. */
__global__ void
fill_k(uint32_t *p, size_t n, uint32_t keep, uint32_t set)
{
    for (size_t i = blockIdx.x * (size_t) blockDim.x + threadIdx.x; i < n;
         i += (size_t) gridDim.x * blockDim.x)
    {
        uint32_t  x = (uint32_t) i * 2654435761u;

        x ^= x >> 15;
        x *= 2246822519u;
        x ^= x >> 13;
        p[i] = (x & keep) | set;
    }
}

static void
fill(void *p, size_t bytes, uint32_t keep, uint32_t set)
{
    fill_k<<<1024, 256>>>((uint32_t *) p, bytes / 4, keep, set);
    check(cudaDeviceSynchronize(), "fill");
}

static int32_t *
upload(const std::vector<int32_t> &v)
{
    int32_t  *p = (int32_t *) device(v.size() * 4 + 4);

    check(cudaMemcpy(p, v.data(), v.size() * 4, cudaMemcpyHostToDevice), "upload");
    return p;
}

/* Median us of one call of fn(arg, i), i < n, in a graph of n. */
static double
measure(cu_dev_t *dev, int (*fn)(void *arg, uint32_t i), void *arg, uint32_t n)
{
    cudaGraph_t          g;
    cudaGraphExec_t      exec;
    cudaEvent_t          e[2];
    std::vector<double>  us;

    check(cudaStreamBeginCapture(dev->stream, cudaStreamCaptureModeGlobal), "capture");
    for (uint32_t i = 0; i < n; i++) {
        if (fn(arg, i) != INFER_OK) {
            fprintf(stderr, "bench_attn: a launch failed\n");
            exit(1);
        }
    }
    check(cudaStreamEndCapture(dev->stream, &g), "capture");
    check(cudaGraphInstantiate(&exec, g, 0), "instantiate");
    check(cudaEventCreate(&e[0]), "event");
    check(cudaEventCreate(&e[1]), "event");
    for (int r = 0; r < (quick ? 1 : REPLAYS) + 1; r++) {
        float  ms;

        check(cudaEventRecord(e[0], dev->stream), "record");
        check(cudaGraphLaunch(exec, dev->stream), "launch");
        check(cudaEventRecord(e[1], dev->stream), "record");
        check(cudaStreamSynchronize(dev->stream), "run");
        check(cudaEventElapsedTime(&ms, e[0], e[1]), "time");
        if (r > 0) {
            us.push_back(ms * 1e3 / n);
        }
    }
    check(cudaEventDestroy(e[0]), "event");
    check(cudaEventDestroy(e[1]), "event");
    check(cudaGraphExecDestroy(exec), "graph");
    check(cudaGraphDestroy(g), "graph");
    std::sort(us.begin(), us.end());
    return us[us.size() / 2];
}

typedef struct {
    cu_dev_t   *dev;
    cu_attn_t   a;
    cu_plan_t   p;
    cu_acts_t   acts;
    float      *qkv, *out;
    void       *work;
    size_t      layer_bytes;
    uint32_t    layers, want;
} attend_t;

static int
attend(void *arg, uint32_t i)
{
    attend_t   *t = (attend_t *) arg;
    cu_attn_t   a = t->a;

    a.kv += i % t->layers * t->layer_bytes;
    return cu_attend(t->dev, &a, &t->p, t->qkv, t->out, t->want, &t->acts, t->work);
}

/* One line: seqs sequences of `rows` rows after pos0 positions. context: what the grid allows for. */
static void
line(cu_dev_t *dev, const shape_t *s, uint32_t type, uint32_t seqs, uint32_t rows, uint32_t pos0,
    uint32_t context)
{
    const uint32_t        keys = pos0 + rows, pages = (keys + 31) / 32, n = seqs * rows;
    const uint32_t        ld = (s->heads + 2 * s->kv_heads) * s->dim, wide = s->heads * s->dim;
    std::vector<int32_t>  row_seq, row_pos, row0, n_rows, first, table;
    attend_t              t;
    kern_cost_t           cost;
    double                us, floor;

    if (!wanted(s->name, rows > 1 ? rows : seqs, kern_kv_name(type))) {
        return;
    }
    memset(&t, 0, sizeof(t));
    t.dev = dev;
    for (uint32_t b = 0; b < seqs; b++) {
        row0.push_back(b * rows);
        n_rows.push_back(rows);
        first.push_back(pos0);
        for (uint32_t r = 0; r < rows; r++) {
            row_seq.push_back(b);
            row_pos.push_back(pos0 + r);
        }
        for (uint32_t p = 0; p < pages; p++) {      /* neighbours in a sequence are far apart */
            table.push_back(p * seqs + b);
        }
    }
    t.a.type = type;
    t.a.n_heads = s->heads;
    t.a.n_kv_heads = s->kv_heads;
    t.a.head_dim = t.a.rope_dim = s->dim;
    t.a.head_bytes = cu_kv_head_bytes(type, s->dim);
    t.layer_bytes = (size_t) pages * seqs * s->kv_heads * t.a.head_bytes;
    if (t.layer_bytes > MAX_BYTES) {
        return;
    }
    t.layers = (uint32_t) std::min<size_t>(64, COLD / t.layer_bytes + 1);
    t.a.kv = (uint8_t *) device(t.layer_bytes * t.layers);
    fill(t.a.kv, t.layer_bytes * t.layers, type < 2 ? 0xbfffbfff : 0x9fff9fff,
         type < 2 ? 0x20002000 : 0);
    t.a.rope = (float *) device((size_t) keys * s->dim * 4);
    fill((void *) t.a.rope, (size_t) keys * s->dim * 4, 0x803fffff, 0x3f000000);
    t.qkv = (float *) device((size_t) n * ld * 4);
    fill(t.qkv, (size_t) n * ld * 4, 0x803fffff, 0x3f000000);
    t.out = (float *) device((size_t) n * wide * 4);
    t.work = device(cu_attn_work(seqs, s->heads, s->dim));
    t.want = 1u << CU_Q8;
    t.acts.q = (int8_t *) device((size_t) n * wide);
    t.acts.d = (float *) device((size_t) n * wide / 8);
    t.acts.dsum = (float *) device((size_t) n * wide / 8);
    t.acts.dsum2 = (float *) device((size_t) n * wide / 4);
    t.acts.n_in = wide;
    t.p.n_rows = n;
    t.p.n_seqs = seqs;
    t.p.n_decode = rows == 1 ? seqs : 0;
    t.p.max_rows = rows;
    t.p.max_keys = context;
    t.p.max_pages = pages;
    t.p.row_seq = upload(row_seq);
    t.p.row_pos = upload(row_pos);
    t.p.seq_row0 = upload(row0);
    t.p.seq_rows = upload(n_rows);
    t.p.seq_pos0 = upload(first);
    t.p.table = upload(table);

    us = measure(dev, attend, &t, std::max(t.layers, quick ? 2u : 16u));
    cost = cu_attend_cost(&t.a, rows, keys);
    cost.bytes *= seqs;
    cost.ops *= seqs;
    floor = std::max(cost.bytes / peak_gb / 1e3, cost.ops / peak_tf / 1e6);
    printf("%-8s %-4s %-4s B=%-3u ctx %-5u %9.2f us %7.0f GB/s %6.1f TFLOP/s %5.1f %% of %s\n",
           rows == 1 ? "decode" : "prefill", s->name, kern_kv_name(type), seqs, keys, us,
           cost.bytes / us / 1e3, cost.ops / us / 1e6, 100 * floor / us,
           cost.bytes / peak_gb * 1e3 > cost.ops / peak_tf ? "memory" : "bf16");
    fflush(stdout);

    for (void *p : { (void *) t.a.kv, (void *) t.a.rope, (void *) t.qkv, (void *) t.out, t.work,
                     (void *) t.acts.q, (void *) t.acts.d, (void *) t.acts.dsum,
                     (void *) t.acts.dsum2, (void *) t.p.row_seq, (void *) t.p.row_pos,
                     (void *) t.p.seq_row0, (void *) t.p.seq_rows, (void *) t.p.seq_pos0,
                     (void *) t.p.table })
    {
        check(cudaFree(p), "cudaFree");
    }
}

typedef struct {
    cu_dev_t    *dev;
    float       *x, *w;
    cu_acts_t    acts;
    uint32_t     n, dim;
} norm_t;

static int
norm(void *arg, uint32_t i)
{
    norm_t  *t = (norm_t *) arg;

    (void) i;
    return cu_norm(t->dev, t->x, t->w, 1e-5f, NULL, t->n, t->dim, 1u << CU_Q8, &t->acts);
}

static void
norm_line(cu_dev_t *dev, uint32_t n, uint32_t dim)
{
    const size_t  all = (size_t) n * dim;
    norm_t        t = { dev, (float *) device(all * 4), (float *) device(dim * 4), {}, n, dim };
    kern_cost_t   cost = cu_norm_cost(1u << CU_Q8, n, dim);
    double        us;

    fill(t.x, all * 4, 0x803fffff, 0x3f000000);
    t.acts.q = (int8_t *) device(all);
    t.acts.d = (float *) device(all / 8);
    t.acts.dsum = (float *) device(all / 8);
    t.acts.dsum2 = (float *) device(all / 4);
    t.acts.n_in = dim;
    us = measure(dev, norm, &t, 64);
    printf("norm     %5u x %-6u q8 %9.2f us %7.0f GB/s %5.1f %% of memory\n", n, dim, us,
           cost.bytes / us / 1e3, 100 * cost.bytes / us / 1e3 / peak_gb);
    for (void *p : { (void *) t.x, (void *) t.w, (void *) t.acts.q, (void *) t.acts.d,
                     (void *) t.acts.dsum, (void *) t.acts.dsum2 })
    {
        check(cudaFree(p), "cudaFree");
    }
}

static void
decode_lines(cu_dev_t *dev, const shape_t *s, uint32_t type)
{
    static const uint32_t  seqs[] = { 1, 16, 64 }, ctx[] = { 512, 2048, 8192 };

    for (uint32_t b : seqs) {
        for (uint32_t c : ctx) {
            if (!quick || (b == 64 && c == 2048)) {
                line(dev, s, type, b, 1, c - 1, 8192);
            }
        }
    }
}

int
main(int argc, char **argv)
{
    static const shape_t  shapes[] = { { "135M", 9, 3, 64 }, { "1B", 32, 8, 64 },
                                       { "8B", 32, 8, 128 } };
    cudaDeviceProp        prop;
    cu_dev_t              dev;
    int                   n = 0, at = 1;

    if (cudaGetDeviceCount(&n) != cudaSuccess || n == 0) {
        printf("bench_attn: no CUDA device\n");
        return 77;
    }
    quick = argc > at && strcmp(argv[at], "quick") == 0;
    at += quick;
    if (argc > at + 1) {
        peak_gb = atof(argv[at]);
        peak_tf = atof(argv[at + 1]);
    }
    check(cudaGetDeviceProperties(&prop, 0), "properties");
    memset(&dev, 0, sizeof(dev));
    check(cudaStreamCreateWithFlags(&dev.stream, cudaStreamNonBlocking), "stream");
    dev.n_sms = prop.multiProcessorCount;
    dev.cc = 10 * prop.major + prop.minor;
    dev.pdl = dev.cc >= 90;
    printf("%s, %d SMs; floors of %.0f GB/s, %.0f TFLOP/s\n", prop.name, dev.n_sms, peak_gb, peak_tf);

    for (const shape_t &s : shapes) {
        decode_lines(&dev, &s, KERN_KV_F16);
        for (uint32_t rows : { 512u, 2048u }) {
            line(&dev, &s, KERN_KV_BF16, 1, rows, 0, 8192);
        }
    }
    line(&dev, &shapes[2], KERN_KV_F16, 1, 2048, 0, 8192);
    line(&dev, &shapes[2], KERN_KV_Q8, 1, 2048, 0, 8192);
    line(&dev, &shapes[2], KERN_KV_BF16, 4, 2048, 0, 8192);
    line(&dev, &shapes[2], KERN_KV_BF16, 1, 512, 7680, 8192);
    decode_lines(&dev, &shapes[2], KERN_KV_Q8);
    decode_lines(&dev, &shapes[2], KERN_KV_FP8);
    for (uint32_t rows : { 1u, 64u, 2048u }) {
        for (uint32_t dim : { 576u, 2048u, 4096u }) {
            norm_line(&dev, rows, dim);
        }
    }
    return 0;
}
