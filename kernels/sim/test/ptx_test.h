/*
 * ptx_test.h: what the tests of the PTX interpreter share: TAP, and launches
 * of kernels by name from PTX text or a fixture.
 */

#ifndef PTX_TEST_H
#define PTX_TEST_H

#include <unistd.h>

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include <cuda_runtime.h>

#include "../ptx_int.h"

static int tap_n, tap_failed;

static inline void tap(bool good, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    tap_failed += !good;
    printf("%sok %d - ", good ? "" : "not ", ++tap_n);
    vprintf(fmt, ap);
    printf("\n");
    va_end(ap);
}

static inline int tap_end()
{
    printf("1..%d\n", tap_n);
    return tap_failed != 0;
}

/* xorshift; the same numbers in every run */
static uint64_t test_state = 88172645463325252ull;
static inline uint64_t test_random()
{
    test_state ^= test_state << 13;
    test_state ^= test_state >> 7;
    test_state ^= test_state << 17;
    return test_state;
}

/* Device memory of n T. */
template <class T> struct Dev {
    T     *p = nullptr;
    size_t n;

    explicit Dev(size_t count) : n(count)
    {
        if (cudaMalloc((void **) &p, n * sizeof(T)) != cudaSuccess)
            abort();
    }
    explicit Dev(const std::vector<T> &v) : Dev(v.size()) { up(v); }
    ~Dev() { cudaFree(p); }
    void up(const std::vector<T> &v)
    {
        cudaMemcpy(p, v.data(), n * sizeof(T), cudaMemcpyHostToDevice);
        cudaDeviceSynchronize();   /* other streams do not wait for it */
    }
    std::vector<T> down() const
    {
        std::vector<T> v(n);
        cudaMemcpy(v.data(), p, n * sizeof(T), cudaMemcpyDeviceToHost);
        return v;
    }
};

/* Launches a kernel of SIMT_PTX's files with 64-bit parameters. */
static inline void run_ptx(const char *kernel, dim3 grid, dim3 block,
    size_t smem, const std::vector<uint64_t> &params, bool coop = false)
{
    const simt::ptx::Kernel *k = simt::ptx::find_kernel(kernel);
    simt::LaunchCfg cfg = {};
    std::vector<char> args(params.size() * 8);
    std::vector<std::pair<int, int>> layout;

    if (!k) {
        printf("Bail out! no kernel %s\n", kernel);
        exit(1);
    }
    cfg.grid = grid;
    cfg.block = block;
    cfg.smem = smem;
    cfg.coop = coop;
    cfg.name = kernel;
    memcpy(args.data(), params.data(), args.size());
    for (size_t i = 0; i < params.size(); i++)
        layout.push_back({(int) i * 8, 8});
    simt::ptx::launch(*k, cfg, args, layout);
}

#endif
