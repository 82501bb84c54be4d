/*
 * bench_float.cu: linears of the float families at the shapes of an 8B and a
 * 1B model, against the floor of this device. One line each:
 *
 *     family shape n_out x n_in rows how us GB/s Top/s floor_us %floor
 *
 * how: decode, fused (gate and up with silu), blas, tiles (cublasLt absent),
 * plain (W4A16 by way of bf16). The floor is max(bytes / read bandwidth
 * measured here, operations / data sheet rate of an H100). Launches are
 * nodes of one graph, programmatic where the device has it, over copies of
 * the weights that together exceed the L2 cache. Medians of 9 graphs. Exit
 * 77 without a device. "quick": few shapes.
 *
 *   nvcc -O3 -std=c++17 -fmad=false -arch=sm_90a -Ikernels/cuda -Ikernels \
 *       -Iengine kernels/cuda/bench/bench_float.cu \
 *       kernels/cuda/gemm_f16.cu kernels/cuda/gemm_f8.cu \
 *       kernels/cuda/gemm_w8.cu kernels/cuda/gemm_w4.cu \
 *       kernels/cuda/gemm_f.c kernels/cuda/blas.c kernels/cuda/cuda_cost.c \
 *       -o bench_float -ldl
 */

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include <cuda_runtime.h>

#include "bench_linear.cuh"
#include "blas.h"
#include "cuda_cost.h"
#include "gemm_f.h"

#define REPEATS   9
#define SPREAD    ((size_t) 256 << 20)   /* bytes of weights in one graph */
#define MAX_NODES 64

struct Bench {
    cu_dev_t      dev;
    cu_blas_t    *blas;
    double        rate;           /* bytes a second */
    uint8_t      *acts;
    float        *y;
    uint16_t     *h;
    float        *row;
};

struct Shape {
    const char  *name;
    uint32_t     n_out, n_in;
    int          fused;           /* gate and up of n_out rows each */
};

static const Shape  shapes[] = {
    { "8B.qkv", 6144, 4096, 0 }, { "8B.o", 4096, 4096, 0 },
    { "8B.gate_up", 14336, 4096, 1 }, { "8B.down", 4096, 14336, 0 },
    { "8B.head", 128256, 4096, 0 },
    { "1B.qkv", 3072, 2048, 0 }, { "1B.o", 2048, 2048, 0 },
    { "1B.gate_up", 8192, 2048, 1 }, { "1B.down", 2048, 8192, 0 },
};

static const char *const  names[] = { "q8", "bf16", "f16", "W4A16", "fp8",
                                      "W8A8" };

static void
launch(const Bench &b, const cu_weight_t *w, const cu_weight_t *up, uint32_t n)
{
    cu_acts_t    a = {}, out = {};
    cu_linear_t  l = {};
    int          rc;

    a.q = (int8_t *) b.acts;
    a.h = (uint16_t *) b.acts;
    a.f8 = b.acts;
    a.row = b.row;
    a.n_in = w->n_in;
    out.h = b.h;
    l.w[0] = w;
    l.w[1] = up;
    l.y = b.y;
    l.ldy = w->n_out * (up == NULL ? 1 : 2);
    rc = up != NULL && cu_gate_up_f_fuses(w, up, n, 1u << CU_BF16)
         ? cu_gate_up_f(&b.dev, w, up, &a, n, 1u << CU_BF16, &out)
         : cu_linear_f(&b.dev, &l, &a, n);

    if (rc != INFER_OK) {
        check(cudaGetLastError(), "launch");
        fprintf(stderr, "bench_float: launch failed\n");
        exit(1);
    }
}

/* Microseconds of one launch. */
static double
measure(const Bench &b, std::vector<cu_weight_t> &w, const Shape &s,
    uint32_t n, int nodes)
{
    const size_t  step = s.fused ? 2 : 1;

    launch(b, &w[0], s.fused ? &w[1] : NULL, n);   /* algorithms are chosen */
    check(cudaStreamSynchronize(b.dev.stream), "first launch");
    return graph_us(b.dev.stream, nodes, REPEATS, [&](size_t i) {
        const size_t  at = i * step % w.size();

        launch(b, &w[at], s.fused ? &w[at + 1] : NULL, n);
    });
}

static void
line(const Bench &b, std::vector<cu_weight_t> &w, const Shape &s, uint32_t n,
    const char *how)
{
    const double       peak = w[0].family == CU_FP8 || w[0].family == CU_W8A8
                              ? 1979e12 : 989e12;
    const kern_cost_t  one = cu_linear_f_cost(&w[0], n);
    const double       times = s.fused ? 2 : 1;
    const double       bytes = one.bytes * times, ops = one.ops * times;
    const double       floor = std::max(bytes / b.rate, ops / peak) * 1e6;
    const int          nodes = ops > 1e11 ? 4 : ops > 1e10 ? 16 : MAX_NODES;
    const double       us = measure(b, w, s, n, nodes);

    printf("%-6s%s %-10s %6ux%-5u %4u %-6s %9.2f us %7.0f GB/s %7.1f Top/s "
           "%9.2f %5.1f%%\n", names[w[0].family],
           w[0].family == CU_W4A16 && w[0].form == CU_N4M ? "m" : " ", s.name,
           s.n_out, s.n_in, n, how, us, bytes / us / 1e3, ops / us / 1e6,
           floor, 100 * floor / us);
    fflush(stdout);
}

static void
family(Bench &b, cu_family_e f, uint32_t form, const Shape &s, bool quick)
{
    cu_weight_t               one = {};
    std::vector<cu_weight_t>  w;
    const uint32_t            rows[] = { 1, 8, 16, 32, 64, 128, 512, 2048 };

    one.family = f;
    one.form = form;
    one.group = 32;
    one.n_out = s.n_out;
    one.n_in = s.n_in;

    const size_t  bytes = cu_pack_f_bytes(&one);
    size_t        copies = SPREAD / (bytes * (s.fused ? 2 : 1)) + 2;

    copies = std::min(copies, (size_t) MAX_NODES) * (s.fused ? 2 : 1);

    uint8_t  *all = device(bytes * copies);

    for (size_t i = 0; i < copies; i++) {
        cu_pack_f_place(&one, all + i * bytes);
        w.push_back(one);
    }

    for (uint32_t n : rows) {
        if ((quick && n != 1 && n != 64 && n != 2048)
            || (n > 64 && s.n_out > 100000)
            || !wanted(s.name, n, names[f]))
        {
            continue;
        }

        if (n <= CU_F_DECODE) {
            line(b, w, s, n, s.fused ? "fused" : "decode");
            continue;
        }

        if (b.blas != NULL) {
            b.dev.blas = b.blas;
            line(b, w, s, n, "blas");
            b.dev.blas = NULL;
        }

        line(b, w, s, n, f != CU_W4A16 ? "tiles"
                         : n > CU_F_W4_PLAIN ? "plain" : "decode");
    }

    cudaFree(all);
}

int
main(int argc, char **argv)
{
    const bool   quick = argc > 1 && strcmp(argv[1], "quick") == 0;
    Bench        b = {};
    infer_err_t  err;

    if (!open_device(b.dev, b.rate, 80)) {
        return 77;
    }

    if (cu_blas_open(&b.blas, NULL, &err) != INFER_OK) {
        printf("# %s\n", err.text);
    }

    b.dev.work_bytes = (size_t) 512 << 20;
    b.dev.work = device(b.dev.work_bytes);
    b.acts = device((size_t) 2048 * 14336 * 2);
    b.y = (float *) device((size_t) 2048 * 28672 * 4);
    b.h = (uint16_t *) device((size_t) 2048 * 14336 * 2);
    b.row = (float *) device(2048 * 4);

    for (const Shape &s : shapes) {
        if (quick && strcmp(s.name, "8B.o") != 0
            && strcmp(s.name, "8B.gate_up") != 0)
        {
            continue;
        }

        family(b, CU_BF16, 0, s, quick);
        family(b, CU_W4A16, CU_N4Z, s, quick);
        family(b, CU_W4A16, CU_N4M, s, quick);

        if (b.dev.cc >= 89) {
            family(b, CU_FP8, 0, s, quick);
        }

        family(b, CU_W8A8, 0, s, quick);
    }

    cu_blas_close(b.blas);
    return 0;
}
