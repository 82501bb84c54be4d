/*
 * simt.h: test-only SIMT emulator. A .cu file is compiled unchanged as host
 * C++ (g++ -x c++) against this and include/; one fiber runs for each CUDA
 * thread, 32 of them are a warp, collectives match by mask and call site.
 *
 *   simt.h        keywords, built-in variables, what kernels may call
 *   types.h       bf16, half, fp8       intrinsics.h  warp, atomics, math
 *   fiber.cpp     fibers and the order in which blocks and threads run
 *   collective.cpp barriers, shuffles, cp.async;  mma.cpp  tensor cores
 *   runtime.h     the fake CUDA runtime: device.cpp memory.cpp stream.cpp
 *                 graph.cpp launch.cpp; blas_fake.cpp is libcublasLt
 *   check.cpp     races, bounds, uninitialised reads, programmatic launches
 *   perf.cpp      sectors and bank conflicts
 *   ptx.h         the PTX interpreter, in ptx_*.cpp
 *
 * Environment (control.h has the same as calls):
 *   SIMT_ORDER=0|1|2          threads and blocks ascending, descending,
 *                             random
 *   SIMT_STREAMS=eager|lazy|random     when queued work runs
 *   SIMT_SEED=n               of both
 *   SIMT_DEVICE=none|nodriver|olddriver|cc=75|mem=64m|sms=4|name=X|count=2
 *   SIMT_FAIL=api:nth[:code]  several by comma; "kernel" is an executed one
 *   SIMT_PTX=a.ptx:b.ptx      kernels are interpreted from there (ptx.h)
 *   SIMT_BLAS=novec           cublasLt without scale vectors
 *   SIMT_PROFILE=1            access patterns by source line (checker)
 *
 * What it cannot tell, on purpose or not:
 * - Time. Occupancy, latency, caches, clocks are unseen; perf.cpp counts
 *   causes only.
 * - The memory model. Threads run one after another, so a missing fence
 *   shows only in the checker, and there only where an atomic publishes
 *   data from block to block.
 * - Races: one last writer and one last reader of a byte are kept, so some
 *   among three threads are missed. Within a warp only __syncwarp orders.
 * - Numerics: approximations (ex2, rsqrt, rcp) are libm's, tensor cores add
 *   in f32 in ascending k. Denormals are kept.
 * - wgmma, TMA, mbarrier, clusters, textures, device printf and malloc,
 *   named barriers, device globals: not there. The null stream is a stream
 *   like others. Graph updates, peers and managed memory are not there.
 * - cublasLt is a loop with the library's argument checks.
 */

#ifndef SIMT_H
#define SIMT_H

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <tuple>
#include <type_traits>
#include <utility>

#include "types.h"

#define SIMT_EMU 1

/* Kernels are dynamic symbols, so that the PTX interpreter and messages
 * know their names. */
#define __global__ __attribute__((visibility("default")))
#define __host__
#define __device__
#define __constant__ static
/* Legal at block scope only: one copy for each OS thread, which is one for
 * each running block. */
#define __shared__ thread_local
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __grid_constant__
#define __restrict__ __restrict
#define __align__(n) __attribute__((aligned(n)))

#define SIMT_SITE \
    const char *file = __builtin_FILE(), int line = __builtin_LINE()

/* Set at every switch of fibers. */
extern __thread uint3 threadIdx, blockIdx, blockDim, gridDim;
static constexpr int warpSize = 32;

namespace simt {

/* ---- launches ---- */

struct LaunchRec;

struct LaunchCfg {
    dim3        grid, block;
    size_t      smem;             /* dynamic bytes */
    bool        coop;             /* all blocks resident */
    bool        pdl;              /* may start before its predecessor ends */
    const char *name;
    LaunchRec  *rec;              /* for the check of programmatic launches,
                                   * or NULL */
};

/* Runs all blocks to their end in the calling thread. */
void run_grid(const LaunchCfg &cfg, const std::function<void()> &body);

/* Ends the process with 97 after a message that names kernel and thread. */
[[noreturn]] void fail(const char *fmt, ...)
    __attribute__((format(printf, 1, 2)));

/* ---- threads, warps, blocks ---- */

enum Op { OP_SYNC, OP_SHFL, OP_VOTE, OP_MATCH, OP_REDUCE, OP_MMA, OP_LDM };

/* One warp collective in flight. */
struct Coll {
    unsigned    mask, arrived, left;
    int         op, line;
    const char *file;
    bool        done;
    alignas(16) unsigned char val[32][64];    /* what lanes brought */
    alignas(16) unsigned char res[32][16];    /* made once by the last */
};
typedef void (*Finish)(Coll *);

/* Waits until all lanes of mask are here with their n bytes; fin runs once,
 * in the last one. leave() when the lane has read what it needs. */
Coll *enter(int op, unsigned mask, const void *v, size_t n, const char *file,
    int line, Finish fin = nullptr);
void leave(Coll *c);

void barrier(const char *file, int line);
/* Sum of pred over the block. */
int barrier_count(int pred, const char *file, int line);
unsigned lane();
unsigned active();                /* lanes that have not exited */
void *dyn_smem();
/* Every loop that waits for another thread calls this (__nanosleep). */
void spin_yield();
void grid_sync();                 /* of a cooperative launch */
void kernel_begin();              /* arguments are unpacked: check from here */
void fence();                     /* __threadfence, for the checker */

/* griddepcontrol.wait and .launch_dependents */
void grid_wait();
void grid_launch_dependents();

/* ---- memory ---- */

/*
 * One access of n bytes by the running thread, for the checker and the
 * counters; nothing in a build without them. pc NULL: the caller's. atomic:
 * an atomic or volatile access that orders others: a write publishes what
 * was fenced before it, a read or read-modify-write takes what was
 * published. Ordinary C++ accesses of kernels are reported by the compiler
 * (-fsanitize=thread); this is for those inside the emulator.
 */
void touch(const void *p, size_t n, bool write, bool atomic = false,
    void *pc = nullptr);

/* Aligned vector accesses as one instruction each: 1, 2, 4, 8, 16 bytes. */
void load(void *dst, const void *p, size_t n);
void store(void *p, const void *src, size_t n);

/* n = 4, 8 or 16; valid < n: the rest becomes zero. Data lands in cp_wait;
 * until then dst is poison. */
void cp_async(void *dst, const void *src, int n, int valid);
void cp_commit();
void cp_wait(int keep, const char *file, int line);

/* ---- tensor cores ---- */

struct Frag {
    uint32_t a[4], b[2], c[4];
};
/* m16n8k16 bf16 and f16, f32 sums; m16n8k32 s8, s32 sums (m16n8k16 is its
 * first half: a[2], a[3] and b[1] zero); m16n8k32 e4m3, f32 sums. */
void mma_bf16_fin(Coll *c);
void mma_f16_fin(Coll *c);
void mma_s8_fin(Coll *c);
void mma_e4m3_fin(Coll *c);
/* d: 4 sums, in and out. */
void mma(Finish fin, void *d, const uint32_t a[4], const uint32_t b[2],
    const char *file, int line);
/* n: 1, 2 or 4 matrices of 8 x 8 b16; trans as in the PTX instruction. */
void ldmatrix(uint32_t *r, const void *row, int n, bool trans,
    const char *file, int line);

static inline void ldmatrix_x4(uint32_t r[4], const void *row, SIMT_SITE)
{
    ldmatrix(r, row, 4, false, file, line);
}

static inline void ldmatrix_x4_trans(uint32_t r[4], const void *row,
    SIMT_SITE)
{
    ldmatrix(r, row, 4, true, file, line);
}

static inline void ldmatrix_x2(uint32_t r[2], const void *row, SIMT_SITE)
{
    ldmatrix(r, row, 2, false, file, line);
}

static inline void ldmatrix_x2_trans(uint32_t r[2], const void *row,
    SIMT_SITE)
{
    ldmatrix(r, row, 2, true, file, line);
}

}  // namespace simt

#include "intrinsics.h"

#endif
