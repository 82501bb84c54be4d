/*
 * test_sim_fiber.cpp: warps, blocks, tensor cores, asynchronous copies and
 * cooperative launches of the emulator against plain formulas, in three
 * orders of threads.
 */

#include "sim_test.h"

/* ---- collectives ---- */

__global__ void collectives_k(int *out)
{
    const int l = (int) threadIdx.x & 31;
    int       i = (int) threadIdx.x * 16;

    out[i++] = __shfl_sync(~0u, l * 3, 5);
    out[i++] = __shfl_sync(~0u, l, 9, 8);
    out[i++] = __shfl_xor_sync(~0u, l, 7);
    out[i++] = __shfl_down_sync(~0u, l, 3, 16);
    out[i++] = __shfl_up_sync(~0u, l, 2);
    out[i++] = (int) __ballot_sync(~0u, l % 3 == 0);
    out[i++] = __any_sync(~0u, l == 40) + 2 * __all_sync(~0u, l < 32);
    out[i++] = __reduce_add_sync(~0u, l);
    out[i++] = __reduce_max_sync(~0u, -l);
    out[i++] = (int) __match_any_sync(~0u, l / 4);
    out[i++] = __syncthreads_count(l & 1);
    out[i++] = __syncthreads_or(threadIdx.x == 33);
    if (l < 8) {
        out[i++] = __shfl_xor_sync(0xffu, l, 1);
    } else {
        out[i++] = __shfl_xor_sync(0xffffff00u, l, 2);
    }
}

static int
collective_want(int t, int k)
{
    int l = t & 31;

    switch (k) {
    case 0: return 15;
    case 1: return (l & ~7) + 1;
    case 2: return l ^ 7;
    case 3: return (l & 15) + 3 < 16 ? l + 3 : l;
    case 4: return l >= 2 ? l - 2 : l;
    case 5: return 0x49249249;
    case 6: return 2;
    case 7: return 496;
    case 8: return 0;
    case 9: return 15 << (l & ~3);
    case 10: return 32;
    case 11: return 1;
    default: return l < 8 ? l ^ 1 : l ^ 2;
    }
}

static void
collectives(void)
{
    Dev<int>           out(64 * 16);
    cudaLaunchConfig_t c = cfg(1, 64);
    long               wrong = 0;

    cudaLaunchKernelEx(&c, collectives_k, out.p);
    std::vector<int> got = out.down();
    for (int t = 0; t < 64; t++) {
        for (int k = 0; k < 13; k++) {
            if (got[(size_t) (t * 16 + k)] != collective_want(t, k)) {
                wrong++;
                diag("thread %d, %d: %d", t, k, got[(size_t) (t * 16 + k)]);
            }
        }
    }
    ok(wrong == 0, "warp and block collectives");
}

/* ---- tensor cores ---- */

/* A [16, K] row-major, B [8, K] (columns contiguous), elements of E bytes:
 * every lane gathers its fragments by the formulas of the PTX ISA. */
template <class T, int K, int E>
__device__ static void
product(simt::Finish fin, const uint8_t *a, const uint8_t *b, T *d)
{
    const int lane = (int) threadIdx.x, g = lane >> 2, t = lane & 3;
    uint32_t  fa[4], fb[2];
    T         fd[4];

    for (int r = 0; r < 4; r++) {
        int row = r % 2 == 0 ? g : g + 8;
        int col = t * (4 / E) + (r >= 2 ? K / 2 : 0);
        memcpy(&fa[r], a + (row * K + col) * E, 4);
        fd[r] = (T) (r + lane);
    }
    for (int r = 0; r < 2; r++) {
        memcpy(&fb[r], b + (g * K + t * (4 / E) + r * (K / 2)) * E, 4);
    }
    simt::mma(fin, fd, fa, fb, __FILE__, __LINE__);
    for (int r = 0; r < 4; r++) {
        d[(g + (r >= 2 ? 8 : 0)) * 8 + t * 2 + (r & 1)] = fd[r];
    }
}

__global__ void mma_k(int kind, const uint8_t *a, const uint8_t *b, float *f,
    int *i)
{
    switch (kind) {
    case 0: product<float, 16, 2>(simt::mma_bf16_fin, a, b, f); break;
    case 1: product<float, 16, 2>(simt::mma_f16_fin, a, b, f); break;
    case 2: product<int, 32, 1>(simt::mma_s8_fin, a, b, i); break;
    case 3: product<float, 32, 1>(simt::mma_e4m3_fin, a, b, f); break;
    }
}

static double
value(int kind, const uint8_t *p, int i)
{
    uint16_t h;

    memcpy(&h, p + 2 * i, 2);
    switch (kind) {
    case 0: return simt::bf16_value(h);
    case 1: return simt::half_value(h);
    case 2: return (int8_t) p[i];
    default: return simt::e4m3_value(p[i]);
    }
}

static void
tensor_cores(void)
{
    static const char *const name[] = {"bf16", "f16", "s8", "e4m3"};

    for (int kind = 0; kind < 4; kind++) {
        int                  k = kind < 2 ? 16 : 32;
        std::vector<uint8_t> a(512), b(256);
        double               worst = 0;

        for (size_t i = 0; i < 512; i++) {
            float f = (float) ((i * 37 + 11) % 41) / 8 - 2.5f;
            float h = (float) ((i * 29 + 5) % 31) / 4 - 3.75f;
            auto  put = [&](std::vector<uint8_t> &v, float x) {
                uint16_t u = kind == 0 ? simt::bf16_bits(x)
                                       : simt::half_bits(x);
                if (kind < 2 && i * 2 < v.size()) {
                    memcpy(&v[i * 2], &u, 2);
                } else if (kind >= 2 && i < v.size()) {
                    v[i] = kind == 2 ? (uint8_t) (int) (x * 40)
                                     : simt::e4m3_bits(x);
                }
            };
            put(a, f);
            put(b, h);
        }

        Dev<uint8_t>       da(a), db(b);
        Dev<float>         df(128);
        Dev<int>           di(128);
        cudaLaunchConfig_t c = cfg(1, 32);
        cudaLaunchKernelEx(&c, mma_k, kind, (const uint8_t *) da.p,
                           (const uint8_t *) db.p, df.p, di.p);
        std::vector<float> f = df.down();
        std::vector<int>   n = di.down();

        for (int i = 0; i < 16; i++) {
            for (int j = 0; j < 8; j++) {
                int    r = (i >= 8 ? 2 : 0) + (j & 1);
                int    lane = (i & 7) * 4 + j / 2;
                double want = r + lane;
                for (int x = 0; x < k; x++) {
                    want += value(kind, a.data(), i * k + x)
                            * value(kind, b.data(), j * k + x);
                }
                size_t at = (size_t) (i * 8 + j);
                double got = kind == 2 ? (double) n[at] : (double) f[at];
                worst = std::max(worst, fabs(got - want));
            }
        }
        ok(worst <= (kind == 2 ? 0 : 1e-4), "mma %s: off by %g", name[kind],
           worst);
    }
}

/* ---- ldmatrix ---- */

__global__ void ldmatrix_k(uint32_t *out, int trans)
{
    uint16_t *s = (uint16_t *) simt::dyn_smem();
    uint32_t  r[4];

    for (int i = (int) threadIdx.x; i < 32 * 8; i += 32) {
        s[i] = (uint16_t) i;
    }
    __syncwarp();
    if (trans) {
        simt::ldmatrix_x4_trans(r, s + threadIdx.x * 8);
    } else {
        simt::ldmatrix_x4(r, s + threadIdx.x * 8);
    }
    for (int i = 0; i < 4; i++) {
        out[threadIdx.x * 4 + (unsigned) i] = r[i];
    }
}

static void
matrices(void)
{
    for (int trans = 0; trans < 2; trans++) {
        Dev<uint32_t>      out(128);
        cudaLaunchConfig_t c = cfg(1, 32, 512);
        long               wrong = 0;

        cudaLaunchKernelEx(&c, ldmatrix_k, out.p, trans);
        std::vector<uint32_t> got = out.down();
        for (unsigned l = 0; l < 32; l++) {
            for (unsigned m = 0; m < 4; m++) {
                for (unsigned h = 0; h < 2; h++) {
                    /* element (l / 4, 2 (l % 4) + h) of matrix m */
                    unsigned row = l / 4, col = 2 * (l % 4) + h;
                    unsigned want = m * 64 + (trans ? col * 8 + row
                                                    : row * 8 + col);
                    wrong += (got[l * 4 + m] >> 16 * h & 0xffff) != want;
                }
            }
        }
        ok(wrong == 0, "ldmatrix%s", trans ? ", transposed" : "");
    }
}

/* ---- atomics, cooperative launches ---- */

__global__ void atomics_k(unsigned *u, int *i, unsigned long long *q)
{
    atomicAdd(&u[0], 2u);
    atomicMax(&i[0], (int) threadIdx.x);
    atomicMin(&i[1], -(int) blockIdx.x);
    atomicOr(&u[1], 1u << (threadIdx.x & 31));
    atomicInc(&u[2], 5u);
    atomicAdd(q, 1ull << 32);
    for (unsigned old = 0; old != 1;) {       /* a lock by compare and swap */
        old = atomicCAS(&u[3], 0u, 1u) == 0;
        if (old) {
            u[4]++;
            __threadfence();
            atomicExch(&u[3], 0u);
        } else {
            __nanosleep(20);
        }
    }
}

static void
atomics(void)
{
    Dev<unsigned>           u(std::vector<unsigned>(5, 0));
    Dev<int>                i(std::vector<int>(2, 0));
    Dev<unsigned long long> q(std::vector<unsigned long long>{7});
    cudaLaunchConfig_t      c = cfg(3, 64);

    cudaLaunchKernelEx(&c, atomics_k, u.p, i.p, q.p);
    std::vector<unsigned> v = u.down();
    ok(v[0] == 384 && v[1] == ~0u && v[2] == 192 % 6 && v[4] == 192
       && i.down()[0] == 63 && i.down()[1] == -2
       && q.down()[0] == (192ull << 32) + 7, "atomics and a lock");
}

/* Each round reads what all blocks wrote in the one before. */
__global__ void rounds_k(int *a, int *b, int rounds)
{
    __shared__ int sum;

    for (int r = 0; r < rounds; r++) {
        int *from = r & 1 ? b : a, *to = r & 1 ? a : b;

        if (threadIdx.x == 0) {
            sum = 0;
            for (unsigned i = 0; i < gridDim.x; i++) {
                sum += from[i];
            }
        }
        __syncthreads();
        if (threadIdx.x == 33) {
            to[blockIdx.x] = sum + (int) blockIdx.x;
        }
        simt::grid_sync();
    }
}

/* The second block waits for a flag of the first, which waits for one of
 * the second. */
__global__ void flags_k(unsigned *flag, int *out)
{
    unsigned me = blockIdx.x;

    if (threadIdx.x == 0) {
        out[me] = (int) me + 10;
        __threadfence();
        atomicExch(&flag[me], 1u);
        while (atomicAdd(&flag[1 - me], 0u) == 0) {
            __nanosleep(100);
        }
        out[me + 2] = out[1 - me];
    }
}

static void
cooperative(void)
{
    Dev<int>            a(std::vector<int>(4, 1)), b(4);
    Dev<unsigned>       flag(std::vector<unsigned>(2, 0));
    Dev<int>            out(4);
    cudaLaunchAttribute at[1] = {};
    cudaLaunchConfig_t  c = cfg(4, 64);
    std::vector<int>    x(4, 1), y(4);

    at[0].id = cudaLaunchAttributeCooperative;
    at[0].val.cooperative = 1;
    c.attrs = at;
    c.numAttrs = 1;
    cudaLaunchKernelEx(&c, rounds_k, a.p, b.p, 6);
    for (int r = 0; r < 6; r++) {
        int sum = x[0] + x[1] + x[2] + x[3];
        for (int i = 0; i < 4; i++) {
            y[(size_t) i] = sum + i;
        }
        std::swap(x, y);
    }
    ok(a.down() == x, "a grid-wide barrier, six rounds");

    c.gridDim = dim3(2);
    c.blockDim = dim3(32);
    cudaLaunchKernelEx(&c, flags_k, flag.p, out.p);
    ok(out.down()[2] == 11 && out.down()[3] == 10,
       "blocks wait for each other's flags");

    c.gridDim = dim3(1000);
    ok(cudaLaunchKernelEx(&c, flags_k, flag.p, out.p)
       == cudaErrorCooperativeLaunchTooLarge, "too many blocks for that");
    (void) cudaGetLastError();

    Outcome o = in_child([&] {
        cudaLaunchConfig_t plain = cfg(2, 32);
        cudaMemset(flag.p, 0, 8);
        cudaLaunchKernelEx(&plain, flags_k, flag.p, out.p);
        return cudaDeviceSynchronize() == cudaSuccess;
    });
    ok(o.status == 97 && o.says("spin loop does not end"),
       "a spin that nothing can end is found");
}

int
main(void)
{
    static const simt::Async mode[] = {simt::EAGER, simt::LAZY,
                                       simt::RANDOM};

    for (int order = 0; order < 3; order++) {
        diag("order %d", order);
        simt::rt_config(mode[order], 3, order);
        collectives();
        tensor_cores();
        matrices();
        atomics();
        cooperative();
    }
    if (simt::checked()) {
        ok(simt::check_reports == 0, "the checker is silent");
    }
    ok(simt::rt_leaks() == 0, "nothing is left allocated");
    return tap_done();
}
