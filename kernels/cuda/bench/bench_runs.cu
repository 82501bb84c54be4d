/*
 * bench_runs.cu: the candidates of gemm_f_runs.cuh beside the kernels in use,
 * at the shapes of an 8B and a 1B model. One line each:
 *
 *     family n_out x n_in rows  in use us  candidates us ...  worst difference
 *
 * The difference is of the results of both, over the largest result of the
 * row; W8A8 must be 0, others below 1e-4 (fp8: 1e-2 where the tensor core adds
 * it). Launches are nodes of one graph over copies of the weights that together
 * exceed the L2 cache, medians of 5 graphs. Exit 77 without a device, 1 where
 * results differ. bench_pick.h picks lines. Candidates: "flat" and "deep" rings
 * of runs_few_k; 1, 2 or 4 blocks a tile of runs_many_k.
 */

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "bench_linear.cuh"
#include "bench_pick.h"
#include "gemm_f.cuh"
#include "gemm_f_runs.cuh"

#define REPEATS  5
#define SPREAD   ((size_t) 256 << 20)
#define NODES    32
#define MAX_OUT  128256u

struct Bench {
    cu_dev_t      dev;
    uint8_t      *acts;
    float        *y, *other, *row, *sums;
    uint32_t     *counters;
};

static const struct {
    const char  *name;
    uint32_t     n_out, n_in;
} shapes[] = {
    { "8B.down", 4096, 14336 }, { "8B.gate_up", 28672, 4096 },
    { "8B.qkv", 6144, 4096 }, { "8B.o", 4096, 4096 },
    { "8B.head", MAX_OUT, 4096 }, { "1B.qkv", 3072, 2048 },
    { "1B.o", 2048, 2048 }, { "1B.gate_up", 16384, 2048 },
    { "1B.down", 2048, 8192 },
};

static const char *const  names[] = { "q8", "bf16", "f16", "W4A16", "fp8",
                                      "W8A8" };

/* splits 0: the kernel in use. */
static void
launch(const Bench &b, const cu_weight_t &w, uint32_t n, uint32_t splits,
    bool deep)
{
    const bool    half = w.family == CU_BF16 || w.family == CU_W4A16;
    cu_acts_t     a = {};
    cu_linear_t   l = {};
    runs::args_t  p = {};
    int           rc;

    a.q = (int8_t *) b.acts;
    a.h = (uint16_t *) b.acts;
    a.f8 = b.acts;
    a.row = b.row;
    a.n_in = w.n_in;
    l.w[0] = &w;
    l.y = b.y;
    l.ldy = w.n_out;
    p.w = w.data;
    p.scale = w.scale;
    p.a = b.acts;
    p.a_scale = half ? NULL : b.row;
    p.y = b.other;
    p.sums = b.sums;
    p.counters = b.counters;
    p.n = n;
    p.n_out = w.n_out;
    p.a_bytes = w.n_in * (half ? 2 : 1);
    p.pitch = w.family == CU_W4A16 ? (w.n_in + 63) / 64
                                   : cu_f_pitch(w.family, w.n_in);
    p.units = (p.a_bytes + RUNS_UNIT - 1) / RUNS_UNIT;
    p.chunk = (p.units + 2 * RUNS - 1) / (2 * RUNS) * 2;
    p.groups = w.group == 0 ? 0 : (w.n_in + w.group - 1) / w.group;
    p.shift = w.group == 128 ? 2 : w.group == 64 ? 1 : 0;

    rc = splits == 0 ? cu_linear_f(&b.dev, &l, &a, n)
         : w.family == CU_BF16
           ? runs::launch<runs::plain_t<f_bf16_t, float>>(&b.dev, p, splits,
                                                          deep)
         : w.family == CU_FP8
           ? runs::launch<runs::plain_t<f_f8_t, float>>(&b.dev, p, splits,
                                                        deep)
         : w.family == CU_W8A8
           ? runs::launch<runs::plain_t<f_w8_t, int>>(&b.dev, p, splits, deep)
         : w.form == CU_N4M
           ? runs::launch<runs::w4_t<true>>(&b.dev, p, splits, deep)
         : runs::launch<runs::w4_t<false>>(&b.dev, p, splits, deep);

    if (rc != INFER_OK) {
        check(cudaGetLastError(), "launch");
        fprintf(stderr, "bench_runs: launch failed\n");
        exit(1);
    }
}

/* Microseconds of one launch. */
static double
measure(const Bench &b, const std::vector<cu_weight_t> &w, uint32_t n,
    uint32_t splits, bool deep)
{
    return graph_us(b.dev.stream, NODES, REPEATS, [&](size_t i) {
        launch(b, w[i % w.size()], n, splits, deep);
    });
}

/* The worst difference of a row over its largest value. */
static double
differ(const Bench &b, const cu_weight_t &w, uint32_t n, uint32_t splits,
    bool deep)
{
    const size_t        count = (size_t) n * w.n_out;
    std::vector<float>  y(count), z(count);
    double              worst = 0;

    launch(b, w, n, 0, false);
    launch(b, w, n, splits, deep);
    check(cudaStreamSynchronize(b.dev.stream), "results");
    cudaMemcpy(y.data(), b.y, count * 4, cudaMemcpyDeviceToHost);
    cudaMemcpy(z.data(), b.other, count * 4, cudaMemcpyDeviceToHost);
    for (uint32_t i = 0; i < n; i++) {
        double  most = 1e-30, bad = 0;

        for (size_t k = (size_t) i * w.n_out; k < (i + 1ull) * w.n_out; k++) {
            most = std::max(most, std::fabs((double) y[k]));
            bad = std::max(bad, std::fabs((double) y[k] - z[k]));
        }
        worst = std::isfinite(most) ? std::max(worst, bad / most) : 1e9;
    }
    return worst;
}

static bool
family(const Bench &b, cu_family_e f, uint32_t form, uint32_t n_out,
    uint32_t n_in, const char *name)
{
    const double              most = f == CU_W8A8 ? 0 : f == CU_FP8 ? 1e-2
                                     : 1e-4;
    cu_weight_t               one = {};
    std::vector<cu_weight_t>  w;
    bool                      good = true;

    one.family = f;
    one.form = form;
    one.group = 32;
    one.n_out = n_out;
    one.n_in = n_in;

    const size_t  bytes = cu_pack_f_bytes(&one);
    const size_t  copies = std::min(SPREAD / bytes + 2, (size_t) NODES);
    uint8_t      *all = device(bytes * copies);

    for (size_t i = 0; i < copies; i++) {
        cu_pack_f_place(&one, all + i * bytes);
        w.push_back(one);
    }
    for (uint32_t n : { 1u, 8u, 16u, 32u, 64u }) {
        double  bad = 0;

        if (!wanted(name, n, names[f])) {
            continue;
        }
        printf("%-6s%s %-10s %6ux%-5u %3u %9.2f us,", names[f],
               f == CU_W4A16 && form == CU_N4M ? "m" : " ", name, n_out, n_in,
               n, measure(b, w, n, 0, false));
        for (uint32_t s : { 1u, 2u, 4u }) {
            const bool  deep = n <= 8 && s == 2;

            if ((n <= 8 && s == 4) || (n > 8 && s > 1 && n_out > 16384)) {
                continue;
            }
            bad = std::max(bad, differ(b, w[0], n, s, deep));
            printf(" %s %.2f", n > 8 ? s == 1 ? "1" : s == 2 ? "2" : "4"
                               : deep ? "deep" : "flat",
                   measure(b, w, n, s, deep));
        }
        printf(" us, %.1e%s\n", bad, bad > most ? " DIFFERS" : "");
        fflush(stdout);
        good = good && bad <= most;
    }
    cudaFree(all);
    return good;
}

int
main(void)
{
    Bench   b = {};
    double  rate;
    bool    good = true;

    if (!open_device(b.dev, rate, 80)) {
        return 77;
    }
    b.acts = device((size_t) 64 * 14336 * 2);
    b.row = (float *) device(64 * 4);
    b.y = (float *) device((size_t) 64 * MAX_OUT * 4);
    b.other = (float *) device((size_t) 64 * MAX_OUT * 4);
    b.sums = (float *) device((size_t) 128 * RUNS * 32768);
    b.counters = (uint32_t *) device(128 * 4);
    check(cudaMemset(b.counters, 0, 128 * 4), "counters");
    check(cudaDeviceSynchronize(), "counters");

    for (const auto &s : shapes) {
        good &= family(b, CU_BF16, 0, s.n_out, s.n_in, s.name);
        good &= family(b, CU_W4A16, CU_N4Z, s.n_out, s.n_in, s.name);
        good &= family(b, CU_W4A16, CU_N4M, s.n_out, s.n_in, s.name);
        if (b.dev.cc >= 89) {
            good &= family(b, CU_FP8, 0, s.n_out, s.n_in, s.name);
        }
        good &= family(b, CU_W8A8, 0, s.n_out, s.n_in, s.name);
    }
    return good ? 0 : 1;
}
