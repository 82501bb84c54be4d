/*
 * test_sim_check.cpp: bugs planted on purpose. Each kernel is run without
 * its bug, which must be silent, and with it. A checked build must report
 * it in every order of threads; a plain build must give a wrong result or
 * end, in the orders that are told.
 */

#include "sim_test.h"

/* bug: the barrier between warps is missing */
__global__ void sum_k(const float *x, float *y, int n, int bug)
{
    __shared__ float part[4];
    float s = 0;

    for (int i = (int) threadIdx.x; i < n; i += 128) {
        s += x[i];
    }
    for (int o = 16; o; o >>= 1) {
        s += __shfl_xor_sync(~0u, s, o);
    }
    if ((threadIdx.x & 31) == 0) {
        part[threadIdx.x >> 5] = s;
    }
    if (!bug) {
        __syncthreads();
    }
    y[threadIdx.x] = part[0] + part[1] + part[2] + part[3];
}

/* bug: some threads wait at another barrier */
__global__ void diverge_k(float *y, int bug)
{
    if (bug && threadIdx.x < 32) {
        __syncthreads();
    } else {
        __syncthreads();
    }
    y[threadIdx.x] = 1;
}

/* bug: writes `over` elements past its row */
__global__ void fill_k(float *y, int n, int over)
{
    for (int i = (int) threadIdx.x; i < n + over; i += (int) blockDim.x) {
        y[(int) blockIdx.x * n + i] = (float) i;
    }
}

/* bug: waits for one group less than it reads */
__global__ void stages_k(const float *x, float *y, int bug)
{
    float *s = (float *) simt::dyn_smem();
    float  sum = 0;

    for (int g = 0; g < 4; g++) {
        simt::cp_async(&s[g * 128 + threadIdx.x * 4],
                       &x[g * 128 + threadIdx.x * 4], 16, 16);
        simt::cp_commit();
    }
    for (int g = 0; g < 4; g++) {
        simt::cp_wait(3 - g + (bug && g < 3), __FILE__, __LINE__);
        __syncthreads();
        sum += s[g * 128 + 4 * (31 - threadIdx.x)];
    }
    simt::cp_wait(0, __FILE__, __LINE__);
    y[threadIdx.x] = sum;
}

/* An index from a table that may never have been uploaded. */
__global__ void gather_k(const int *table, const float *x, float *y)
{
    y[threadIdx.x] = x[table[threadIdx.x]];
}

/* bug 1: no fence before the counter; 2: no barrier before it; 3: no
 * barrier after it */
__global__ void last_block_k(const float *x, float *part, unsigned *count,
    float *y, int bug)
{
    __shared__ unsigned last;
    const unsigned b = blockIdx.x, t = threadIdx.x;

    if (t < 64 && t >= 32) {
        part[b * 32 + t - 32] = x[b * 32 + t - 32] * 2;
        if (bug != 1) {
            __threadfence();
        }
    }
    if (bug != 2) {
        __syncthreads();
    }
    if (t == 0) {
        if (bug != 1) {
            __threadfence();
        }
        last = atomicAdd(count, 1u) == gridDim.x - 1;
    }
    if (bug != 3) {
        __syncthreads();
    }
    if (last && t >= 32 && t < 64) {
        float s = 0;
        for (unsigned i = 0; i < gridDim.x; i++) {
            s += part[i * 32 + t - 32];
        }
        y[t - 32] = s;
        if (t == 32) {
            *count = 0;
        }
    }
}

/* bug: reads before the wait; bug 2: writes what the one before reads */
__global__ void produce_k(const float *w, float *x)
{
    simt::grid_launch_dependents();
    simt::grid_wait();
    x[threadIdx.x] = w[threadIdx.x] + 1;
}

__global__ void consume_k(float *w, const float *x, float *y, int bug)
{
    float prefetch = w[threadIdx.x + 32];

    if (bug == 1) {
        prefetch += x[threadIdx.x];
    }
    if (bug == 2) {
        w[threadIdx.x] = 0;
    }
    if (bug != 3) {
        simt::grid_wait();
    }
    y[threadIdx.x] = x[threadIdx.x] + prefetch;
}

/* Neither waits: what comes after may run while the first still does. */
__global__ void careless_k(float *z)
{
    z[threadIdx.x] = 1;
}

__global__ void shuffle_k(float *y, int bug)
{
    if (!bug || threadIdx.x < 16) {
        y[threadIdx.x] = __shfl_xor_sync(bug ? 0xffffu : ~0u, 1.0f,
                                         bug ? 16 : 1);
    }
}

/* Neighbours of a warp pass values through shared memory. */
__global__ void warp_k(float *y, int bug)
{
    __shared__ float s[32];

    s[threadIdx.x] = (float) threadIdx.x;
    if (!bug) {
        __syncwarp();
    }
    y[threadIdx.x] = s[threadIdx.x ^ 1];
}

static std::vector<float>
ones(size_t n)
{
    return std::vector<float>(n, 1.0f);
}

static bool
run_sum(int bug)
{
    Dev<float>         x(ones(1024)), y(128);
    cudaLaunchConfig_t c = cfg(1, 128);

    cudaLaunchKernelEx(&c, sum_k, x.p, y.p, 1024, bug);
    for (float f : y.down()) {
        if (f != 1024) {
            return false;
        }
    }
    return true;
}

static bool
run_diverge(int bug)
{
    Dev<float>         y(64);
    cudaLaunchConfig_t c = cfg(1, 64);

    cudaLaunchKernelEx(&c, diverge_k, y.p, bug);
    return y.down()[63] == 1;
}

static bool
run_fill(int over)
{
    Dev<float>         y(4 * 64);
    cudaLaunchConfig_t c = cfg(4, 32);

    cudaLaunchKernelEx(&c, fill_k, y.p, 64, over);
    return y.down()[64] == 0;
}

static bool
run_stages(int bug)
{
    Dev<float>         x(ones(512)), y(32);
    cudaLaunchConfig_t c = cfg(1, 32, 2048);

    cudaLaunchKernelEx(&c, stages_k, x.p, y.p, bug);
    return y.down()[5] == 4;
}

static bool
run_gather(int bug)
{
    Dev<float>         x(ones(32)), y(32);
    Dev<int>           t(32);
    cudaLaunchConfig_t c = cfg(1, 32);

    if (!bug) {
        t.up(std::vector<int>(32, 7));
    }
    cudaLaunchKernelEx(&c, gather_k, t.p, x.p, y.p);
    return y.down()[0] == 1;
}

static bool
run_last_block(int bug)
{
    Dev<float>         x(ones(8 * 32)), part(8 * 32), y(32);
    Dev<unsigned>      count(std::vector<unsigned>{0});
    cudaLaunchConfig_t c = cfg(8, 64);

    for (int i = 0; i < 2; i++) {
        cudaLaunchKernelEx(&c, last_block_k, x.p, part.p, count.p, y.p, bug);
    }
    return y.down()[3] == 16;
}

static bool
run_chain(int bug, bool graph)
{
    Dev<float>          w(ones(64)), x(32), y(32), z(32);
    cudaStream_t        s;
    cudaLaunchAttribute pdl[1] = {};
    cudaLaunchConfig_t  c = cfg(1, 32);
    cudaGraph_t         g;
    cudaGraphExec_t     e;

    cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking);
    pdl[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    pdl[0].val.programmaticStreamSerializationAllowed = 1;
    c.stream = s;
    c.attrs = pdl;
    c.numAttrs = 1;
    if (graph) {
        cudaStreamBeginCapture(s, cudaStreamCaptureModeGlobal);
    }
    cudaLaunchKernelEx(&c, produce_k, (const float *) w.p, x.p);
    if (bug == 4) {
        cudaLaunchKernelEx(&c, careless_k, z.p);
    }
    cudaLaunchKernelEx(&c, consume_k, w.p, (const float *) x.p, y.p, bug);
    if (graph) {
        cudaStreamEndCapture(s, &g);
        cudaGraphInstantiate(&e, g, 0);
        cudaGraphLaunch(e, s);
        cudaStreamSynchronize(s);
        cudaGraphExecDestroy(e);
        cudaGraphDestroy(g);
    }
    cudaStreamSynchronize(s);
    cudaStreamDestroy(s);
    return bug == 1 || y.down()[0] == 3;
}

static bool
run_shuffle(int bug)
{
    Dev<float>         y(32);
    cudaLaunchConfig_t c = cfg(1, 32);

    cudaLaunchKernelEx(&c, shuffle_k, y.p, bug);
    return y.down()[0] == 1;
}

static bool
run_warp(int bug)
{
    Dev<float>         y(32);
    cudaLaunchConfig_t c = cfg(1, 32);

    cudaLaunchKernelEx(&c, warp_k, y.p, bug);
    return y.down()[4] == 5 && y.down()[5] == 4;
}

/* what: of the report in a checked build. orders: bits of those in which
 * the plain build fails too. end: what a plain build's message says when it
 * ends the process. */
static void
planted(const char *name, bool (*run)(int), int bug, const char *what,
    int orders, const char *end = nullptr)
{
    for (int order = 0; order < 3; order++) {
        Outcome good = in_child([=] {
            simt::rt_config(simt::LAZY, 5, order);
            return run(0);
        });
        Outcome bad = in_child([=] {
            simt::rt_config(simt::LAZY, 5, order);
            return run(bug);
        });
        bool caught;

        if (!ok(good.status == 0, "%s, order %d: silent without the bug",
                name, order))
        {
            show(good);
        }
        if (simt::checked()) {
            caught = bad.status != 0 && bad.says(what)
                     && bad.says("test_sim_check.cpp");
        } else if (end) {
            caught = bad.status == 97 && bad.says(end);
        } else {
            caught = (bad.status == 1) == (orders >> order & 1);
        }
        if (!ok(caught, "%s %d, order %d: %s", name, bug, order,
                simt::checked() || end || orders >> order & 1
                ? "caught" : "unseen without the checker"))
        {
            show(bad);
        }
    }
}

static void
chains()
{
    static const char *const what[] = {
        nullptr, "access before grid_wait() to what a previous launch wrote",
        "write before grid_wait() to what a previous launch reads",
        "access before grid_wait() to what a previous launch wrote",
        "access to what a launch before the previous one wrote",
    };

    for (int graph = 0; graph < 2; graph++) {
        for (int bug = 0; bug <= 4; bug++) {
            Outcome o = in_child([=] { return run_chain(bug, graph != 0); });
            bool    right = bug == 0 || !simt::checked()
                            ? o.status == 0 || bug == 2
                            : o.status == 2 && o.says(what[bug]);

            if (!ok(right, "programmatic launches, %s, bug %d",
                    graph ? "graph" : "stream", bug))
            {
                show(o);
            }
        }
    }
}

int
main(void)
{
    planted("missing barrier", run_sum, 1, "race", 7);
    planted("divergent barrier", run_diverge, 1, "divergent __syncthreads",
            7, "divergent __syncthreads");
    planted("overrun of a row", run_fill, 8,
            "write outside any device allocation", 7, "illegal address");
    planted("wait for too few copies", run_stages, 1,
            "read of a cp.async destination before it landed", 5);
    planted("table never uploaded", run_gather, 1,
            "read of uninitialised device memory", 7);
    planted("no fence before the counter", run_last_block, 1, "race", 0);
    planted("no barrier before the counter", run_last_block, 2, "race", 0);
    planted("no barrier after the counter", run_last_block, 3, "race", 0);
    planted("shuffle beyond its mask", run_shuffle, 1, "outside mask", 7,
            "outside mask");
    planted("missing __syncwarp", run_warp, 1, "race", 7);
    chains();
    ok(simt::rt_leaks() == 0, "nothing is left allocated");
    return tap_done();
}
