/*
 * test_sim_perf.cpp: the counters against access patterns whose cost is
 * known: sectors of global requests, passes over the banks, bytes.
 */

#include "sim_test.h"

/* Lane i reads the float at i * stride + off; writes are dense. */
__global__ void stride_k(const float *x, float *y, int stride, int off)
{
    y[threadIdx.x] = x[(int) threadIdx.x * stride + off];
}

__global__ void vector_k(const float *x, float *y)
{
    uint4 v;

    for (int r = 0; r < 3; r++) {
        simt::load(&v, x + r * 128 + threadIdx.x * 4, 16);
        simt::store(y + r * 128 + threadIdx.x * 4, &v, 16);
    }
}

/* Lane i uses the word i * stride of shared memory. */
__global__ void banks_k(float *y, int stride)
{
    float *s = (float *) simt::dyn_smem();

    s[(int) threadIdx.x * stride] = 1;
    __syncwarp();
    y[threadIdx.x] = s[(int) threadIdx.x * stride];
}

/* Only some lanes, in a loop of a different length for each. */
__global__ void ragged_k(const float *x, float *y)
{
    float s = 0;

    for (int i = (int) threadIdx.x; i < 80; i += 32) {
        s += x[i];
    }
    y[threadIdx.x] = s;
}

/* 16 bytes a lane after a rendezvous, from which lanes come in an order of
 * their own: rows of 144 bytes, no conflict in a quarter of lanes. */
__global__ void order_k(float *y)
{
    float   *s = (float *) simt::dyn_smem();
    int      lane = (int) threadIdx.x, row = lane / 16 * 8 + lane % 8;
    unsigned r[4], v;

    for (int i = lane; i < 16 * 36; i += 32) {
        s[i] = 0;
    }
    __syncwarp();
    v = (unsigned) __shfl_xor_sync(~0u, lane, 1);
    simt::ldmatrix_x4(r, s + row * 36 + lane / 8 % 2 * 4);
    y[lane] = (float) (v + r[0]);
}

template <class... A>
static simt::PerfCount
count(const char *name, int smem, void (*k)(A...), A... args)
{
    cudaLaunchConfig_t c = cfg(1, 32, (size_t) smem);

    simt::perf_start();
    cudaLaunchKernelEx(&c, k, args...);
    cudaDeviceSynchronize();
    simt::perf_stop();
    return simt::perf_count(name);
}

static void
strides(const float *x, float *y)
{
    static const struct {
        int      stride, off;
        unsigned sectors, least;
    } list[] = {
        {1, 0, 4, 4}, {1, 1, 5, 4}, {2, 0, 8, 4}, {8, 0, 32, 4}, {0, 5, 1, 1}
    };

    for (const auto &l : list) {
        simt::PerfCount p = count("stride_k", 0, stride_k, x, y, l.stride,
                                  l.off);
        /* 4 of them are the writes */
        if (!ok(p.launches == 1 && p.requests == 2
                && p.sectors == l.sectors + 4
                && p.min_sectors == l.least + 4,
                "stride %d, offset %d", l.stride, l.off))
        {
            diag("%lu requests, %lu sectors, least %lu",
                 (unsigned long) p.requests, (unsigned long) p.sectors,
                 (unsigned long) p.min_sectors);
        }
        ok(p.read_bytes == l.sectors * 32 && p.write_bytes == 128,
           "bytes of that");
    }
}

static void
banks(float *y)
{
    static const struct {
        int      stride;
        unsigned passes;          /* of one access */
    } list[] = {{1, 1}, {2, 2}, {3, 1}, {32, 32}, {33, 1}};

    for (const auto &l : list) {
        simt::PerfCount p;

        p = count("banks_k", 33 * 32 * 4, banks_k, y, l.stride);
        ok(p.shared == 2 && p.passes == 2 * l.passes && p.min_passes == 2,
           "stride of %d words: %u passes", l.stride, l.passes);
    }
}

int
main(void)
{
    if (!simt::checked()) {
        printf("1..0 # SKIP counters are in checked builds\n");
        return 0;
    }

    Dev<float> x(std::vector<float>(512, 1.0f)), y(512);

    strides(x.p, y.p);
    banks(y.p);

    simt::PerfCount p = count("vector_k", 0, vector_k, (const float *) x.p,
                              y.p);
    ok(p.requests == 6 && p.sectors == 96 && p.min_sectors == 96,
       "16 bytes a lane");
    p = count("order_k", 16 * 144, order_k, y.p);
    ok(p.shared == 19 && p.passes == 18 + 4 && p.min_passes == 18 + 4,
       "quarters of a warp are by lane (%lu passes)",
       (unsigned long) p.passes);
    p = count("ragged_k", 0, ragged_k, (const float *) x.p, y.p);
    ok(p.requests == 4 && p.sectors == 4 + 4 + 2 + 4 && p.read_bytes == 320,
       "lanes that leave a loop early");
    p = count("no such kernel", 0, ragged_k, (const float *) x.p, y.p);
    ok(p.launches == 0 && simt::perf_count(nullptr).launches == 1,
       "by name");
    ok(simt::check_reports == 0, "the checker is silent");
    return tap_done();
}
