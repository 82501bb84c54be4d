/*
 * gemm_f_test.h: what the tests of the float families share: the device,
 * device buffers between canaries, a seeded random source (argument 1 or
 * INFER_SEED) and the emulator's schedules.
 */

#ifndef GEMM_F_TEST_H
#define GEMM_F_TEST_H

#include <cuda_runtime.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <vector>

extern "C" {
#include "kern.h"
}
#include "../../../engine/test/tap.h"
#include "cuda.h"

#ifdef SIMT_EMU
#include "control.h"
#endif

/* cpu.h, which C++ cannot read without warnings */
extern "C" float cpu_f16_to_f32(uint16_t h);
extern "C" uint16_t cpu_f32_to_f16(float f);
extern "C" uint16_t cpu_f32_to_bf16(float f);

#define GF_CANARY  256            /* bytes on either side */

static uint64_t  gf_rng;

/* splitmix64 */
static inline uint64_t
gf_u64(void)
{
    uint64_t  z = (gf_rng += 0x9e3779b97f4a7c15u);

    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static inline uint32_t
gf_below(uint32_t n)
{
    return (uint32_t) (gf_u64() % n);
}

/* -1 .. 1 */
static inline float
gf_f32(void)
{
    return (float) ((int) (gf_u64() >> 40) - (1 << 23)) / 8388608.0f;
}

static inline void
gf_seed(int argc, char **argv)
{
    const char  *s = argc > 1 ? argv[1] : getenv("INFER_SEED");

    gf_rng = s == NULL ? 20261127 : strtoull(s, NULL, 0);
    diag("INFER_SEED=%llu", (unsigned long long) gf_rng);
}

/* Device memory between canaries, freed at the end of its scope. */
template <class T>
struct GfBuf {
    T       *p = NULL;
    uint8_t *base = NULL;
    size_t   n = 0, bytes = 0;

    GfBuf() {}
    GfBuf(const GfBuf &) = delete;
    GfBuf &operator=(const GfBuf &) = delete;

    ~GfBuf()
    {
        if (base != NULL) {
            (void) cudaFree(base);
        }
    }

    void
    alloc(size_t count)
    {
        n = count;
        bytes = count * sizeof(T);

        if (cudaMalloc((void **) &base, bytes + 2 * GF_CANARY) != cudaSuccess) {
            printf("Bail out! no device memory\n");
            exit(1);
        }

        std::vector<uint8_t>  all(bytes + 2 * GF_CANARY, 0xc3);

        p = (T *) (void *) (base + GF_CANARY);
        (void) cudaMemcpy(base, all.data(), all.size(), cudaMemcpyHostToDevice);
    }

    void
    up(const T *from)
    {
        (void) cudaMemcpy(p, from, bytes, cudaMemcpyHostToDevice);
    }

    void
    down(T *to) const
    {
        (void) cudaMemcpy(to, p, bytes, cudaMemcpyDeviceToHost);
    }

    /* The canaries are as they were. */
    bool
    clean(void) const
    {
        std::vector<uint8_t>  all(bytes + 2 * GF_CANARY);

        (void) cudaMemcpy(all.data(), base, all.size(), cudaMemcpyDeviceToHost);

        for (size_t i = 0; i < GF_CANARY; i++) {
            if (all[i] != 0xc3 || all[all.size() - 1 - i] != 0xc3) {
                return false;
            }
        }

        return true;
    }
};

/* The device and a stream; 0 when there is none. */
static inline int
gf_open(cu_dev_t *dev)
{
    int             count = 0;
    cudaDeviceProp  prop;

    memset(dev, 0, sizeof(*dev));

    if (cudaGetDeviceCount(&count) != cudaSuccess || count == 0
        || cudaGetDeviceProperties(&prop, 0) != cudaSuccess
        || cudaStreamCreateWithFlags(&dev->stream, cudaStreamNonBlocking)
           != cudaSuccess)
    {
        printf("1..0 # SKIP no CUDA device\n");
        return 0;
    }

    dev->n_sms = prop.multiProcessorCount;
    dev->cc = 10 * prop.major + prop.minor;
    dev->pdl = dev->cc >= 90;
    return 1;
}

static inline void
gf_close(cu_dev_t *dev)
{
    (void) cudaStreamDestroy(dev->stream);
}

/* Everything queued has run, without an error. */
static inline bool
gf_sync(const cu_dev_t *dev)
{
    const cudaError_t  e = cudaStreamSynchronize(dev->stream);

    if (e != cudaSuccess) {
        diag("%s", cudaGetErrorString(e));
    }

    return e == cudaSuccess;
}

/* The order of threads, blocks and streams: 0 .. GF_SCHEDULES - 1; on a GPU
 * there is one. */
#ifdef SIMT_EMU
#define GF_SCHEDULES  3
static inline void
gf_schedule(int i)
{
    simt::rt_config(i == 0 ? simt::LAZY : simt::RANDOM, gf_rng | 1, i);
}
#else
#define GF_SCHEDULES  1
static inline void
gf_schedule(int i)
{
    (void) i;
}
#endif

/* Nothing left behind, and the checker, where built in, saw nothing. */
static inline void
gf_end(void)
{
#ifdef SIMT_EMU
    ok(simt::rt_leaks() == 0, "nothing is left allocated");

    if (simt::checked()) {
        simt::check_print();
        ok(simt::check_reports == 0, "the checker is silent");
    }
#endif
}

#endif
