/*
 * fiber.h: what fiber.cpp (order of threads), collective.cpp (barriers,
 * shuffles, cp.async), check.cpp and launch.cpp share: the state of the
 * running block.
 *
 * One OS thread runs one block at a time. The blocks of a cooperative launch
 * have an OS thread each and pass a baton, so that only one of them runs at
 * any moment: results are reproducible and nothing here needs a lock.
 */

#ifndef SIMT_FIBER_H
#define SIMT_FIBER_H

#include <vector>

#include "simt.h"

namespace simt {

enum State { READY, IN_COLL, AT_BARRIER, DONE };

struct Copy {                     /* a cp.async under way */
    void       *dst;
    const void *src;
    int         n, valid;
};

struct Warp;

struct Fiber {
    void       *sp;               /* saved stack pointer */
    char       *stack;
    State       state;
    uint3       tid;
    unsigned    lane;
    Warp       *warp;
    Coll       *coll;             /* IN_COLL: which */
    const char *file;             /* where it waits */
    int         line;
    bool        spun;             /* gave up its turn in a spin loop */
    bool        began;            /* arguments are unpacked */
    bool        waited;           /* grid_wait() was called */
    std::vector<Copy>              open;      /* not committed */
    std::vector<std::vector<Copy>> groups;    /* committed, oldest first */
};

struct Warp {
    Coll      coll[4];
    Fiber    *fiber;              /* of lane 0 */
    int       n;                  /* lanes */
    unsigned  alive;              /* mask of lanes not exited */
    unsigned  epoch;              /* __syncwarp so far */
};

struct Block {
    std::vector<Fiber>  fiber;
    std::vector<Warp>   warp;
    const LaunchCfg    *cfg;
    const std::function<void()> *body;
    void               *sched;    /* stack pointer of the scheduler */
    int                 n, live;  /* threads */
    int                 n_barrier;        /* waiting at the barrier */
    int                 pred_sum, pred_out;
    unsigned            epoch;    /* barriers so far */
    unsigned            waited_epoch;     /* first grid_wait(), or ~0 */
    char               *stacks;
    size_t              n_stacks;
    char               *dyn, *dyn_base;   /* dynamic shared memory */
    size_t              dyn_size, dyn_cap;
};

constexpr size_t STACK_BYTES = 64 << 10;

extern thread_local Block *cur_block;
extern thread_local Fiber *cur_fiber;
extern unsigned launch_id;
extern int order_mode;
extern uint64_t seed_state;
uint64_t random_next();           /* of seed_state */

/* The running fiber gives its turn back. */
void to_sched();
/* Only in an emulated thread: its index in the block, and the block's. */
unsigned thread_index();
unsigned block_index();

/* Memory of the emulator itself, which kernels touch without knowing. */
bool in_stack(const void *p);
bool in_dyn(const void *p, size_t n);
bool in_emulator(const void *p);

/* ---- programmatic launches ---- */

/*
 * What the check of programmatic launches must know of a launch: which
 * earlier ones may still run while it does, before its grid_wait() and after
 * it. Kept by the stream or graph for the next launch there.
 */
struct LaunchRec {
    unsigned              id = 0;
    bool                  pdl = false;
    bool                  waited = false;      /* some thread called it */
    bool                  early = false;       /* dependents may start
                                                * before it waited */
    std::vector<unsigned> before, after;       /* launch ids in flight */
};

/* Of the launch that runs, or NULL; for the checker. */
extern LaunchRec *cur_rec;

/* Fills rec for a launch right after prev in stream order; prev NULL: what
 * was before has ended. */
void pdl_begin(LaunchRec *rec, const LaunchRec *prev, bool pdl);

/* ---- hooks of the checker; NULL without one ---- */

const char *find_alloc(const void *p, size_t &size);     /* memory.cpp */
extern void (*hook_block_begin)(Block *b);
extern void (*hook_launch_end)(const char *kernel);
extern void (*hook_alloc)(char *p, size_t n, bool alive);
extern void (*hook_host_write)(const void *p, size_t n);
extern void (*hook_fence)();
extern void (*hook_issue)(const void *p, size_t n);      /* cp.async */
extern void (*hook_landed)(const void *p, size_t n);
extern void (*hook_sync)(const void *word);              /* grid_sync */

}  // namespace simt

#endif
