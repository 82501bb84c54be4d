/*
 * bench_gemm.cu: linears of the q8 family at the shapes of an 8B and a 1B
 * model and of SmolLM2-135M, against the floor of this device. One line each:
 *
 *     form shape n_out x n_in rows us GB/s Top/s floor_us %floor
 *
 * gate_up is cu_gate_up() with both matrices and quantized output. The floor
 * is max(bytes / read bandwidth measured here, operations / 1979 Top/s of an
 * H100's data sheet). Launches are nodes of one graph, programmatic where
 * the device has it, over copies of the weights that together exceed the L2
 * cache. Medians of 9 graphs. Exit 77 without a device. "quick": few lines.
 *
 *   nvcc -O3 -std=c++17 -fmad=false -arch=sm_90a -Ikernels/cuda -Ikernels \
 *       -Iengine kernels/cuda/bench/bench_gemm.cu kernels/cuda/gemm*.cu \
 *       kernels/cuda/linear.cu kernels/cuda/gate_up.cu kernels/cuda/norm.cu \
 *       kernels/cuda/gemm_f.c kernels/cuda/blas.c kernels/cuda/pack*.c \
 *       -o bench_gemm     with $(BUILD)/libinfer.a, or make gpu-benches
 */

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include <cuda_runtime.h>

#include "bench_linear.cuh"
#include "cuda_cost.h"
#include "gemm.h"

#define REPEATS   9
#define SPREAD    ((size_t) 256 << 20)   /* bytes of weights in one graph */
#define MAX_NODES 64
#define PEAK      1979e12                /* s8 operations a second */
#define MAX_ROWS  2048
#define MAX_FFN   14336

struct Bench {
    cu_dev_t   dev;
    double     rate;              /* bytes a second */
    cu_acts_t  a, out;
    float     *y;
};

struct Shape {
    const char  *name;
    uint32_t     n_out, n_in;
    bool         pair;            /* gate and up of n_out rows each */
};

static const Shape  shapes[] = {
    { "8B.qkv", 6144, 4096, false }, { "8B.o", 4096, 4096, false },
    { "8B.gate_up", 14336, 4096, true }, { "8B.down", 4096, 14336, false },
    { "8B.head", 128256, 4096, false },
    { "1B.o", 2048, 2048, false }, { "1B.gate_up", 8192, 2048, true },
    { "1B.down", 2048, 8192, false },
    { "135M.o", 576, 576, false }, { "135M.gate_up", 1536, 576, true },
    { "135M.down", 576, 1536, false }, { "135M.head", 49152, 576, false }
};

static const char *const  names[] = { "N4Z", "N4M", "N4S", "B8H", "B8HM",
                                      "B8S", "B8SM", "B8S2", "B8SM2" };

static void
launch(const Bench &b, const cu_weight_t *w, const cu_weight_t *up, uint32_t n)
{
    cu_acts_t    a = b.a;
    cu_linear_t  l = {};
    int          rc;

    a.n_in = w->n_in;
    l.w[0] = w;
    l.y = b.y;
    l.ldy = w->n_out;
    rc = up != NULL ? cu_gate_up(&b.dev, w, up, &a, n, 1u << CU_Q8, &b.out,
                                 b.y)
                    : cu_linear(&b.dev, &l, &a, n);
    if (rc != INFER_OK) {
        check(cudaGetLastError(), "launch");
        fprintf(stderr, "bench_gemm: launch failed\n");
        exit(1);
    }
}

/* Microseconds of one launch. */
static double
measure(const Bench &b, const std::vector<cu_weight_t> &w, const Shape &s,
    uint32_t n, int nodes)
{
    const size_t  step = s.pair ? 2 : 1;

    return graph_us(b.dev.stream, nodes, REPEATS, [&](size_t i) {
        const size_t  at = i * step % w.size();

        launch(b, &w[at], s.pair ? &w[at + 1] : NULL, n);
    });
}

static void
line(const Bench &b, const std::vector<cu_weight_t> &w, const Shape &s,
    uint32_t n)
{
    const kern_cost_t  c = s.pair ? cu_gate_up_cost(&w[0], &w[1], n,
                                                    1u << CU_Q8)
                                  : cu_linear_cost(&w[0], n);
    const double       floor = std::max(c.bytes / b.rate, c.ops / PEAK) * 1e6;
    const int          nodes = c.ops > 1e11 ? 4 : c.ops > 1e10 ? 16
                                                              : MAX_NODES;
    const double       us = measure(b, w, s, n, nodes);

    printf("%-5s %-12s %6ux%-5u %4u %9.2f us %6.0f GB/s %6.1f Top/s %9.2f "
           "%5.1f%%\n", names[w[0].form], s.name, s.n_out, s.n_in, n, us,
           c.bytes / us / 1e3, c.ops / us / 1e6, floor, 100 * floor / us);
    fflush(stdout);
}

static void
form(const Bench &b, uint32_t f, const Shape &s, bool quick)
{
    static const uint32_t     rows[] = { 1, 2, 4, 8, 16, 32, 64, 128, 512,
                                         2048 };
    cu_weight_t               one = {};
    std::vector<cu_weight_t>  w;

    one.family = CU_Q8;
    one.form = f;
    one.n_out = s.n_out;
    one.n_in = s.n_in;

    const size_t  bytes = (size_t) cu_linear_cost(&one, 0).bytes;
    size_t        copies = SPREAD / (bytes * (s.pair ? 2 : 1)) + 2;

    copies = std::min(copies, (size_t) MAX_NODES) * (s.pair ? 2 : 1);

    uint8_t  *all = device(bytes * copies);

    for (size_t i = 0; i < copies; i++) {
        cu_pack_place(&one, all + i * bytes);
        w.push_back(one);
    }
    for (uint32_t n : rows) {
        if ((quick && n != 1 && n != 8 && n != 64 && n != 512)
            || (n > 64 && s.n_out > 40000)
            || !wanted(s.name, n, names[f]))
        {
            continue;
        }
        line(b, w, s, n);
    }
    cudaFree(all);
}

int
main(int argc, char **argv)
{
    const bool  quick = argc > 1 && strcmp(argv[1], "quick") == 0;
    Bench       b = {};

    if (!open_device(b.dev, b.rate, 80)) {
        return 77;
    }
    b.a = q8_acts(MAX_ROWS, MAX_FFN);
    b.out = q8_acts(MAX_ROWS, MAX_FFN);
    b.y = (float *) device((size_t) MAX_ROWS * 2 * MAX_FFN * 4);

    for (const Shape &s : shapes) {
        if (quick && strcmp(s.name, "8B.o") != 0
            && strcmp(s.name, "8B.gate_up") != 0)
        {
            continue;
        }
        form(b, CU_N4Z, s, quick);
        form(b, CU_B8H, s, quick);
        if (strcmp(s.name, "8B.o") == 0 || strcmp(s.name, "8B.down") == 0) {
            form(b, CU_N4S, s, quick);
            form(b, CU_B8S2, s, quick);
        }
    }
    return 0;
}
