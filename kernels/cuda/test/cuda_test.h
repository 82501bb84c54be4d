/*
 * cuda_test.h: what the tests of the CUDA kernels share. One source runs
 * three ways: by g++ against kernels/sim, there also with nvcc's PTX
 * interpreted (SIMT_PTX=), and by nvcc on a real GPU. TAP; without a device
 * "1..0 # SKIP" and exit code 77.
 *
 *     static void all(TestDev &t) { ... ok(...); }
 *     int main(int argc, char **argv)
 *     {
 *         test_begin(argc, argv);       seed: argv[1] or INFER_SEED
 *         test_schedules(all);          three orders, or with and without
 *         return test_end();            dependent launches on a GPU
 *     }
 *
 * INFER_QUICK=1: fewer shapes, for slow tools (test_quick()).
 */

#ifndef KERN_CUDA_TEST_H
#define KERN_CUDA_TEST_H

#include <cuda_runtime.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <vector>

extern "C" {
#include "cpu.h"
#include "ref/ref_dequant_k.h"
}
#include "cuda.h"
#include "../../../engine/test/tap.h"
#include "record.h"

#define TEST_UNUSED  __attribute__((unused))
#define TEST_CANARY  256          /* bytes on each side of a buffer */

#define N_OF(a)  (sizeof(a) / sizeof((a)[0]))


/* ---- random data ---- */

static uint64_t  test_rng;

/* splitmix64 */
TEST_UNUSED static uint64_t
test_u64(void)
{
    uint64_t  z = (test_rng += 0x9e3779b97f4a7c15u);

    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

TEST_UNUSED static uint32_t
test_below(uint32_t n)
{
    return (uint32_t) (test_u64() % n);
}

/* -1 .. 1 */
TEST_UNUSED static float
test_f32(void)
{
    return (float) (int32_t) test_u64() * 0x1p-31f;
}

TEST_UNUSED static std::vector<float>
test_floats(size_t n, float scale = 1)
{
    std::vector<float>  v(n);

    for (float &f : v) {
        f = test_f32() * scale;
    }
    return v;
}

TEST_UNUSED static int
test_quick(void)
{
    return getenv("INFER_QUICK") != NULL;
}

TEST_UNUSED static float
cpu_bf16_to_f32(uint16_t h)
{
    uint32_t  u = (uint32_t) h << 16;
    float     f;

    memcpy(&f, &u, 4);
    return f;
}


/* ---- tensors in file order ---- */

static const uint32_t  test_types[] TEST_UNUSED = {
    KERN_Q4_0, KERN_Q4_1, KERN_Q4_K, KERN_Q8_0, KERN_Q5_0, KERN_Q5_1,
    KERN_Q2_K, KERN_Q3_K, KERN_Q5_K, KERN_Q6_K, KERN_Q8_K, KERN_IQ4_NL,
    KERN_IQ4_XS, KERN_F32, KERN_F16, KERN_BF16
};

TEST_UNUSED static void
test_put_half(uint8_t *p, float f)
{
    uint16_t  h = cpu_f32_to_f16(f);

    memcpy(p, &h, 2);
}

/* Scales of one block whose other bytes are random: values of about +-f. */
TEST_UNUSED static void
test_put_scales(uint8_t *b, uint32_t type, float f)
{
    static const struct {
        uint32_t  type, d_at;
        float     d;
        uint32_t  m_at;
        float     m;              /* 0: no minimum */
    } put[] = {
        { KERN_Q4_0, 0, 1 / 8.f, 0, 0 },
        { KERN_Q4_1, 0, 1 / 8.f, 2, -1 },
        { KERN_Q5_0, 0, 1 / 16.f, 0, 0 },
        { KERN_Q5_1, 0, 1 / 16.f, 2, -1 },
        { KERN_Q8_0, 0, 1 / 127.f, 0, 0 },
        { KERN_IQ4_NL, 0, 1 / 127.f, 0, 0 },
        { KERN_Q2_K, 80, 1 / 20.f, 82, 1 / 14.f },
        { KERN_Q3_K, 108, 1 / 100.f, 0, 0 },
        { KERN_Q4_K, 0, 1 / 300.f, 2, 1 / 40.f },
        { KERN_Q5_K, 0, 1 / 600.f, 2, 1 / 40.f },
        { KERN_Q6_K, 208, 1 / 3000.f, 0, 0 },
        { KERN_IQ4_XS, 0, 1 / 3000.f, 0, 0 }
    };

    if (type == KERN_Q8_K) {
        f /= 127;
        memcpy(b, &f, sizeof(f));
        return;
    }
    for (size_t i = 0; i < N_OF(put); i++) {
        if (put[i].type == type) {
            f = put[i].m != 0 ? fabsf(f) : f;
            test_put_half(b + put[i].d_at, f * put[i].d);
            if (put[i].m != 0) {
                test_put_half(b + put[i].m_at,
                              f * put[i].m * (0.9f + 0.2f * test_f32()));
            }
        }
    }
}

/* GGUF bytes of a random matrix, values of about +-amp. */
TEST_UNUSED static std::vector<uint8_t>
test_tensor(uint32_t type, uint32_t n_out, uint32_t n_in, float amp)
{
    uint32_t              values, bytes;
    std::vector<uint8_t>  raw;

    kern_type_layout(type, &values, &bytes);
    raw.resize((size_t) n_out * (n_in / values) * bytes);
    for (uint8_t &b : raw) {
        b = (uint8_t) test_u64();
    }
    for (size_t i = 0; i < raw.size(); i += bytes) {
        float     f = test_f32() * amp;
        uint16_t  h;

        if (type == KERN_F32) {
            memcpy(&raw[i], &f, 4);
        } else if (type == KERN_F16 || type == KERN_BF16) {
            h = type == KERN_F16 ? cpu_f32_to_f16(f) : cpu_f32_to_bf16(f);
            memcpy(&raw[i], &h, 2);
        } else {
            test_put_scales(&raw[i], type, f);
        }
    }
    return raw;
}

/* Bytes of a row of a type. */
TEST_UNUSED static size_t
test_row_bytes(uint32_t type, uint32_t n_in)
{
    uint32_t  values, bytes;

    kern_type_layout(type, &values, &bytes);
    return (size_t) (n_in / values) * bytes;
}


/* ---- the device ---- */

#ifdef SIMT_EMU
static bool
test_checked(void)
{
    return simt::checked();
}
#else
static bool
test_checked(void)
{
    return false;
}
#endif

/* A copy from pageable memory is on its way when cudaMemcpy() returns, and
 * streams that are not the default one do not wait for it. */
TEST_UNUSED static void
test_upload(void *to, const void *from, size_t bytes)
{
    cudaMemcpy(to, from, bytes, cudaMemcpyHostToDevice);
    cudaDeviceSynchronize();
}

/* n values in device memory between canaries; filled with 0xff (NaN, -1)
 * where nothing was uploaded. Under the checker, which knows bounds and what
 * was written, without either. */
template <typename T>
struct TestBuf {
    T       *p = NULL;
    size_t   n = 0;

    TestBuf() = default;
    explicit TestBuf(size_t count) { alloc(count); }
    explicit TestBuf(const std::vector<T> &v) { alloc(v.size()); up(v); }
    TestBuf(const TestBuf &) = delete;
    TestBuf &operator=(const TestBuf &) = delete;
    ~TestBuf() { release(); }

    size_t bytes() const { return n * sizeof(T); }

    void alloc(size_t count)
    {
        release();
        n = count;
        side = test_checked() ? 0 : TEST_CANARY;
        const size_t  all = bytes() + 2 * side;

        if (cudaMalloc((void **) &base, all == 0 ? 1 : all) != cudaSuccess) {
            diag("no device memory for %zu bytes", all);
            exit(1);
        }
        p = (T *) (void *) (base + side);
        if (side != 0) {
            std::vector<uint8_t>  v(all, 0xff);

            memset(v.data(), 0xa5, side);
            memset(v.data() + side + bytes(), 0xa5, side);
            test_upload(base, v.data(), all);
        }
    }

    void up(const T *v)
    {
        test_upload(p, v, bytes());
    }

    void up(const std::vector<T> &v) { up(v.data()); }

    void down(T *v) const
    {
        cudaDeviceSynchronize();
        cudaMemcpy(v, p, bytes(), cudaMemcpyDeviceToHost);
        record(v, n);
    }

    std::vector<T> down() const
    {
        std::vector<T>  v(n);

        down(v.data());
        return v;
    }

    /* Whether nothing wrote beside it. */
    bool clean() const
    {
        std::vector<uint8_t>  v(bytes() + 2 * side);
        bool                  whole = true;

        cudaDeviceSynchronize();
        cudaMemcpy(v.data(), base, v.size(), cudaMemcpyDeviceToHost);
        for (size_t i = 0; i < side; i++) {
            whole = whole && v[i] == 0xa5 && v[side + bytes() + i] == 0xa5;
        }
        return whole;
    }

private:
    uint8_t  *base = NULL;
    size_t    side = 0;

    void release()
    {
        if (base != NULL) {
            cudaFree(base);
        }
        base = NULL;
        p = NULL;
    }
};

struct TestDev {
    cu_dev_t  dev;

    /* Waits; false after an error, which is printed. */
    bool sync()
    {
        cudaError_t  e = cudaStreamSynchronize(dev.stream);

        e = e == cudaSuccess ? cudaGetLastError() : e;
        if (e != cudaSuccess) {
            diag("device: %s", cudaGetErrorString(e));
        }
        return e == cudaSuccess;
    }
};

TEST_UNUSED static void
test_begin(int argc, char **argv)
{
    const char   *s = argc > 1 ? argv[1] : getenv("INFER_SEED");
    cudaError_t   e;
    int           n = 0;

    e = cudaGetDeviceCount(&n);
    if (e != cudaSuccess || n == 0) {
        printf("1..0 # SKIP no CUDA device (%s)\n", cudaGetErrorString(e));
        exit(77);
    }
    test_rng = s != NULL ? strtoull(s, NULL, 0) : 20261125;
    diag("INFER_SEED=%llu", (unsigned long long) test_rng);
    record_begin();
}

/* Runs one pass of a test with a stream of its own. */
TEST_UNUSED static void
test_pass(void (*all)(TestDev &), int pdl)
{
    TestDev         t;
    cudaDeviceProp  prop;

    memset(&t.dev, 0, sizeof(t.dev));
    cudaGetDeviceProperties(&prop, 0);
    t.dev.n_sms = prop.multiProcessorCount;
    t.dev.cc = 10 * prop.major + prop.minor;
    t.dev.pdl = pdl && t.dev.cc >= 90;
    cudaStreamCreateWithFlags(&t.dev.stream, cudaStreamNonBlocking);
    all(t);
    (void) t.sync();
    record_end();
    cudaStreamDestroy(t.dev.stream);
}

/* All passes: in emulation three orders of threads and of queued work with
 * the same data (SIMT_ORDER= in the environment: that one alone); on a GPU
 * with plain and with dependent launches. */
TEST_UNUSED static void
test_schedules(void (*all)(TestDev &))
{
    const uint64_t  seed = test_rng;

#ifdef SIMT_EMU
    static const simt::Async  mode[] = { simt::EAGER, simt::LAZY,
                                         simt::RANDOM };

    if (getenv("SIMT_ORDER") != NULL) {
        test_pass(all, 1);
        return;
    }
    for (int order = 0; order < 3; order++) {
        diag("schedule %d", order);
        simt::rt_config(mode[order], seed, order);
        test_rng = seed;
        test_pass(all, order != 0);
    }
#else
    for (int pdl = 0; pdl < 2; pdl++) {
        diag("dependent launches: %s", pdl ? "yes" : "no");
        test_rng = seed;
        test_pass(all, pdl);
    }
#endif
}

/* The last line of TAP; exit code. */
TEST_UNUSED static int
test_end(void)
{
#ifdef SIMT_EMU
    if (simt::checked()) {
        simt::check_print();
        ok(simt::check_reports == 0, "the checker is silent");
    }
    ok(simt::rt_leaks() == 0, "nothing is left allocated");
#endif
    return tap_done();
}

#endif
