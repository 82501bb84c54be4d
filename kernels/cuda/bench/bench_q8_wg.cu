/*
 * bench_q8_wg.cu: gemm_q8_wg.cuh, a candidate, beside the kernels in use. One line for each:
 *
 *     form parts x n_out x n_in rows name us in_use us ratio same|n differ
 *
 * Launches are nodes of one graph over copies of the weights that together exceed the L2 cache;
 * medians of 7 graphs; the candidate's time has both of its launches in it. Bits are compared with
 * what the kernels in use make of the same weights. Exit 1 where any differ, 77 without a device of
 * compute capability 9.0. "quick": one shape. FORM=, ROWS= and SHAPE= pick lines (bench_pick.h).
 */

#include <vector>

#include "bench_linear.cuh"
#include "cuda_cost.h"
#include "gemm_q8_wg.cuh"

#define REPEATS   7
#define SPREAD    ((size_t) 200 << 20)   /* bytes of weights in one graph */
#define MAX_ROWS  2048
#define MAX_IN    14336
#define MAX_OUT   28672                  /* of all parts */

typedef int (*launch_pt)(const cu_dev_t *dev, cu_q8_args_t *p);

struct Cand {
    const char  *name;            /* groups of four warps x tiles of 8 rows, blocks of an SM */
    uint32_t     from, to;        /* rows */
    launch_pt    launch;
};

struct Shape {
    const char  *name;
    uint32_t     parts, n_out, n_in;
};

struct Bench {
    cu_dev_t               dev;
    cu_acts_t              a;
    float                 *y, *ref;
    uint32_t              *wrong;
    std::vector<uint32_t>  rows;
    std::vector<Shape>     shapes;
    int                    bad;
};

static const char *const  names[] = { "N4Z", "N4M", "N4S", "B8H", "B8HM",
                                      "B8S", "B8SM", "B8S2", "B8SM2" };

static std::vector<Shape>
all_shapes(void)
{
    return { { "8B.qkv", 1, 6144, 4096 }, { "8B.gate_up", 2, 14336, 4096 },
             { "8B.down", 1, 4096, 14336 }, { "1B.o", 1, 2048, 2048 },
             { "135M.down", 1, 576, 1536 } };
}

template <int FORM>
static std::vector<Cand>
cands(void)
{
    using F = Q8Form<FORM>;
    constexpr int      two = F::nibbles && !F::min ? 3 : 2;
    std::vector<Cand>  v = {
        { "1x2.3", 1, 16, q8_wg_launch<Q8Wg<FORM, 1, 2, 1, false, 8, 3>> },
        { "1x4.3", 17, 64, q8_wg_launch<Q8Wg<FORM, 1, 4, 1, true, 5, 3>> },
        { "1x8", 33, 128, q8_wg_launch<Q8Wg<FORM, 1, 8, 1, true, 4, two>> },
        { "2x8.1", 65, MAX_ROWS, q8_wg_launch<Q8Wg<FORM, 2, 8, 1, true, 4, 1>> }
    };

    if constexpr (!F::min && F::subs == 1) {
        v.push_back({ "2x8.2", 33, MAX_ROWS, q8_wg_launch<Q8Wg<FORM, 2, 8, 1, true, 4, 2>> });
        v.push_back({ "4x8.1", 65, MAX_ROWS, q8_wg_launch<Q8Wg<FORM, 4, 8, 1, true, 4, 1>> });
        v.push_back({ "3x12.1", 65, MAX_ROWS, q8_wg_launch<Q8Wg<FORM, 3, 12, 1, true, 4, 1>> });
        v.push_back({ "2x16.1", 65, MAX_ROWS, q8_wg_launch<Q8Wg<FORM, 2, 16, 1, true, 4, 1>> });
    }
    return v;
}

template <int FORM>
static int
in_use(const cu_dev_t *dev, cu_q8_args_t *p)
{
    const cu_traits_t  t = cu_traits(FORM);

    if (p->n <= cu_split_rows(FORM)) {
        return t.nibbles ? cu_q8_split_n4(dev, p, FORM)
               : t.subs == 2 ? cu_q8_split_s2(dev, p, FORM) : cu_q8_split_b8(dev, p, FORM);
    }
    return t.nibbles ? cu_q8_tiles_n4(dev, p, FORM)
           : t.subs == 2 ? cu_q8_tiles_s2(dev, p, FORM) : cu_q8_tiles_b8(dev, p, FORM);
}

/* Random bits, of which only those of keep stay and those of set are set. */
__global__ void
bits_k(uint32_t *p, size_t n, uint32_t seed, uint32_t keep, uint32_t set)
{
    size_t  i = blockIdx.x * (size_t) blockDim.x + threadIdx.x;

    for ( ; i < n; i += (size_t) gridDim.x * blockDim.x) {
        uint32_t  x = (uint32_t) i * 2654435761u + seed;

        x ^= x >> 16;
        x *= 0x7feb352d;
        x ^= x >> 15;
        p[i] = (x & keep) | set;
    }
}

__global__ void
differ_k(const uint32_t *a, const uint32_t *b, size_t n, uint32_t *count)
{
    size_t  i = blockIdx.x * (size_t) blockDim.x + threadIdx.x;

    for ( ; i < n; i += (size_t) gridDim.x * blockDim.x) {
        if (a[i] != b[i]) {
            atomicAdd(count, 1);
        }
    }
}

static void
bits(void *p, size_t bytes, uint32_t seed, uint32_t keep, uint32_t set)
{
    bits_k<<<264, 512>>>((uint32_t *) p, bytes / 4, seed, keep, set);
}

static void
launched(int rc, const char *what)
{
    if (rc != INFER_OK) {
        check(cudaGetLastError(), what);
        fprintf(stderr, "bench_q8_wg: %s: launch failed\n", what);
        exit(1);
    }
}

/* Microseconds of one launch. */
static double
measure(const Bench &b, launch_pt f, const std::vector<cu_q8_args_t> &w, uint32_t n, int nodes)
{
    return graph_us(b.dev.stream, nodes, REPEATS, [&](size_t i) {
        cu_q8_args_t  p = w[i % w.size()];

        p.n = n;
        launched(f(&b.dev, &p), "in a graph");
    });
}

/* All outputs of one launch into y, where nothing was. */
static void
run(const Bench &b, launch_pt f, cu_q8_args_t p, const Shape &s, uint32_t n, float *y)
{
    p.n = n;
    for (uint32_t i = 0; i < s.parts; i++) {
        p.part[i].y = y + (size_t) i * s.n_out;
    }
    check(cudaMemset(y, 0xff, (size_t) n * s.parts * s.n_out * sizeof(float)), "clear");
    check(cudaDeviceSynchronize(), "clear");
    launched(f(&b.dev, &p), "alone");
    check(cudaStreamSynchronize(b.dev.stream), "run");
}

/* Copies of the weights of a shape. */
template <int FORM>
static std::vector<cu_q8_args_t>
weights(const Bench &b, const Shape &s, uint8_t **mem)
{
    const cu_traits_t          t = cu_traits(FORM);
    const uint32_t             keep = t.scale == 4 ? 0x807fffff : 0x83ff83ff;
    const uint32_t             set = t.scale == 4 ? 0x3c000000 : 0x24002400;
    cu_weight_t                w = {};
    std::vector<cu_q8_args_t>  all;

    w.form = FORM;
    w.n_out = s.n_out;
    w.n_in = s.n_in;

    const size_t  data = cu_q8_data(&w), scale = cu_q8_scale(&w), bytes = data + 2 * scale;
    const size_t  copies = std::min<size_t>(SPREAD / (bytes * s.parts) + 2, 40);

    *mem = device(bytes * copies * s.parts);
    for (size_t i = 0; i < copies; i++) {
        cu_q8_args_t  p = {};

        for (uint32_t k = 0; k < s.parts; k++) {
            uint8_t  *m = *mem + (i * s.parts + k) * bytes;

            bits(m, data, (uint32_t) (i * 3 + k), ~0u, 0);
            bits(m + data, 2 * scale, (uint32_t) (i * 5 + k), keep, set);
            p.part[k].data = m;
            p.part[k].scale = m + data;
            p.part[k].min = m + data + scale;
            p.part[k].y = b.y + (size_t) k * s.n_out;
            p.part[k].n_out = s.n_out;
        }
        p.n_parts = s.parts;
        p.q = b.a.q;
        p.d = b.a.d;
        p.dsum = !t.min ? NULL : t.subs == 2 ? b.a.dsum2 : b.a.dsum;
        p.n_in = s.n_in;
        p.ldy = s.parts * s.n_out;
        all.push_back(p);
    }
    check(cudaDeviceSynchronize(), "weights");
    return all;
}

template <int FORM>
static void
form(Bench &b)
{
    for (const Shape &s : b.shapes) {
        uint8_t                         *mem;
        const std::vector<cu_q8_args_t>  w = weights<FORM>(b, s, &mem);

        for (uint32_t n : b.rows) {
            const double  ops = 2.0 * n * s.parts * s.n_out * s.n_in;
            const size_t  count = (size_t) n * s.parts * s.n_out;
            const int     nodes = ops > 1e11 ? 4 : ops > 1e10 ? 12 : 40;

            if (!wanted(s.name, n, names[FORM])) {
                continue;
            }

            const double  old = measure(b, in_use<FORM>, w, n, nodes);

            run(b, in_use<FORM>, w[0], s, n, b.ref);
            for (const Cand &c : cands<FORM>()) {
                uint32_t  wrong = 0;

                if (n < c.from || n > c.to) {
                    continue;
                }
                run(b, c.launch, w[0], s, n, b.y);
                check(cudaMemset(b.wrong, 0, sizeof(wrong)), "clear");
                differ_k<<<264, 512>>>((uint32_t *) b.ref, (uint32_t *) b.y, count, b.wrong);
                check(cudaMemcpy(&wrong, b.wrong, sizeof(wrong), cudaMemcpyDeviceToHost), "count");

                const double  us = measure(b, c.launch, w, n, nodes);

                printf("%-5s %-10s %u x %5u x %-5u %4u %-6s %9.2f us, in use %9.2f us, %.2f, ",
                       names[FORM], s.name, s.parts, s.n_out, s.n_in, n, c.name, us, old,
                       us / old);
                printf(wrong ? "%u differ\n" : "same\n", wrong);
                fflush(stdout);
                b.bad += wrong != 0;
            }
        }
        cudaFree(mem);
    }
}

/* Activations as the definition makes them: -127 .. 127, scales above 0. */
static void
acts(Bench &b)
{
    const size_t         n = (size_t) MAX_ROWS * MAX_IN;
    std::vector<int8_t>  q(n);
    uint32_t             x = 1;

    for (int8_t &v : q) {
        x = x * 1664525 + 1013904223;
        v = (int8_t) ((int) (x >> 8) % 255 - 127);
    }
    b.a = q8_acts(MAX_ROWS, MAX_IN);
    check(cudaMemcpy(b.a.q, q.data(), n, cudaMemcpyHostToDevice), "activations");
    bits(b.a.d, n / 8, 7, 0x007fffff, 0x3c000000);
    bits(b.a.dsum, n / 8, 8, 0x807fffff, 0x3f000000);
    bits(b.a.dsum2, n / 4, 9, 0x807fffff, 0x3f000000);
    check(cudaDeviceSynchronize(), "activations");
}

int
main(int argc, char **argv)
{
    const bool  quick = argc > 1 && strcmp(argv[1], "quick") == 0;
    Bench       b = {};
    double      rate;

    if (!open_device(b.dev, rate, 90)) {
        return 77;
    }
    if (b.dev.cc != 90) {
        printf("wgmma is of compute capability 9.0 alone\n");
        return 77;
    }
    b.dev.work_bytes = q8_wg_work(CU_B8SM2, MAX_IN, MAX_ROWS);
    b.dev.work = device(b.dev.work_bytes);
    b.rows = { 8, 16, 32, 64, 128, 512, 2048 };
    b.shapes = all_shapes();
    if (quick) {
        b.shapes.resize(1);
    }
    acts(b);
    b.y = (float *) device((size_t) MAX_ROWS * MAX_OUT * sizeof(float));
    b.ref = (float *) device((size_t) MAX_ROWS * MAX_OUT * sizeof(float));
    b.wrong = (uint32_t *) device(sizeof(uint32_t));
    form<CU_N4Z>(b);
    form<CU_B8H>(b);
    b.shapes.resize(1);
    form<CU_N4M>(b);
    form<CU_N4S>(b);
    form<CU_B8S2>(b);
    form<CU_B8SM2>(b);
    return b.bad != 0;
}
