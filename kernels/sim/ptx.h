/*
 * ptx.h: the door between the emulator (fake runtime, checker) and the PTX
 * interpreter (ptx_*.cpp), which runs what nvcc made of a kernel instead of
 * what g++ made of it.
 *
 * SIMT_PTX=a.ptx:b.ptx     kernels are found there by their mangled name and
 *                          interpreted; one that is not there ends the
 *                          process with 98
 * SIMT_PTX_PARTIAL=1       ... or, with this, runs as fibers
 * SIMT_PTX_COVER=dir       every process adds a file there that says how
 *                          often each instruction ran; ptx_cover.py merges
 *
 * Everything here is called by the thread that executes launches.
 */

#ifndef SIMT_PTX_H
#define SIMT_PTX_H

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "simt.h"

namespace simt {

/* ---- offered by the interpreter ---- */

/*
 * Runs one launch to its end if its kernel is in the PTX files. fn: the host
 * address of the kernel, a dynamic symbol of its program or library. args:
 * the parameters as bytes, layout[i] the offset and size of the i-th. False:
 * no PTX, or not this kernel's: the caller runs it as fibers. Adds 1 to
 * launch_id when it runs. A fault of the kernel ends the process with 97, PTX
 * that the interpreter does not know with 98, both with a message that names
 * kernel, source line and instruction.
 */
bool ptx_launch(const LaunchCfg &cfg, const void *fn,
    const std::vector<char> &args,
    const std::vector<std::pair<int, int>> &layout);

/* "file:line" of an instruction as touch() gets it in pc, or NULL when pc
 * is none of the interpreter's. Valid until the next call. */
const char *ptx_where(const void *pc);

/* Which emulated thread touch() is being called for. */
struct PtxWho {
    bool        on;               /* false: not in the interpreter */
    bool        waited;           /* griddepcontrol.wait was executed */
    unsigned    block, tid;       /* linear */
    unsigned    bep, wep;         /* barriers and warp barriers so far */
    char       *sh;               /* the block's shared memory, static */
    size_t      shn;              /* and dynamic */
    const char *kernel;           /* mangled name */
};
extern PtxWho ptx_who;

/* Instructions executed so far: by warps, and by their active lanes. */
extern uint64_t ptx_ins, ptx_lanes;

/* ---- needed from the emulator ---- */

/* Base and size of the live allocation that p lies in, or NULL. */
const char *find_alloc(const void *p, size_t &size);

/* Order of blocks and warps: 0 forward, 1 reverse, 2 random. */
extern int order_mode;
extern unsigned launch_id;

/* From the checker; the interpreter looks at its address only: without a
 * checker no access is reported by touch(). */
extern int check_reports __attribute__((weak));

}  // namespace simt

#endif
