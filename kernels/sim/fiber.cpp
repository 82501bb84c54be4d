/*
 * fiber.cpp: one fiber for each thread of a block, the order in which they
 * run, and the order of blocks. A warp runs until all its lanes wait, then
 * the next one; a barrier opens when every live thread is there.
 */

#include "fiber.h"
#include "ptx.h"

#include <condition_variable>
#include <csignal>
#include <cstdarg>
#include <memory>
#include <mutex>
#include <sys/mman.h>
#include <thread>
#include <unistd.h>

__thread uint3 threadIdx, blockIdx, blockDim, gridDim;

/* Saves the callee-saved registers and the stack pointer, takes others. */
extern "C" __attribute__((visibility("hidden")))
void simt_switch(void **save, void *to);

#if defined(__x86_64__)
asm(".text\n"
    ".hidden simt_switch\n"
    ".globl simt_switch\n"
    ".type simt_switch,@function\n"
    "simt_switch:\n"
    "push %rbp\npush %rbx\npush %r12\npush %r13\npush %r14\npush %r15\n"
    "mov %rsp,(%rdi)\nmov %rsi,%rsp\n"
    "pop %r15\npop %r14\npop %r13\npop %r12\npop %rbx\npop %rbp\n"
    "ret\n"
    ".size simt_switch,.-simt_switch\n");
#elif defined(__aarch64__)
asm(".text\n"
    ".hidden simt_switch\n"
    ".globl simt_switch\n"
    ".type simt_switch,%function\n"
    "simt_switch:\n"
    "sub sp,sp,#160\n"
    "stp x19,x20,[sp]\nstp x21,x22,[sp,#16]\nstp x23,x24,[sp,#32]\n"
    "stp x25,x26,[sp,#48]\nstp x27,x28,[sp,#64]\nstp x29,x30,[sp,#80]\n"
    "stp d8,d9,[sp,#96]\nstp d10,d11,[sp,#112]\n"
    "stp d12,d13,[sp,#128]\nstp d14,d15,[sp,#144]\n"
    "mov x9,sp\nstr x9,[x0]\nmov sp,x1\n"
    "ldp x19,x20,[sp]\nldp x21,x22,[sp,#16]\nldp x23,x24,[sp,#32]\n"
    "ldp x25,x26,[sp,#48]\nldp x27,x28,[sp,#64]\nldp x29,x30,[sp,#80]\n"
    "ldp d8,d9,[sp,#96]\nldp d10,d11,[sp,#112]\n"
    "ldp d12,d13,[sp,#128]\nldp d14,d15,[sp,#144]\n"
    "add sp,sp,#160\n"
    "ret\n");
#else
#error "simt_switch is not written for this CPU"
#endif

namespace simt {

thread_local Block *cur_block;
thread_local Fiber *cur_fiber;
unsigned launch_id;
int order_mode;
uint64_t seed_state = 1;
LaunchRec *cur_rec;

void (*hook_block_begin)(Block *b);
void (*hook_launch_end)(const char *kernel);
void (*hook_alloc)(char *p, size_t n, bool alive);
void (*hook_host_write)(const void *p, size_t n);
void (*hook_fence)();
void (*hook_issue)(const void *p, size_t n);
void (*hook_landed)(const void *p, size_t n);
void (*hook_sync)(const void *word);

constexpr unsigned MAX_SPINS = 1 << 20;    /* of a launch */
static unsigned spins;

uint64_t random_next()
{
    seed_state ^= seed_state << 13;
    seed_state ^= seed_state >> 7;
    seed_state ^= seed_state << 17;
    return seed_state;
}

void fail(const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    fprintf(stderr, "simt: ");
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    if (cur_block && cur_fiber) {
        fprintf(stderr, "\n  kernel %s block (%u,%u,%u) thread (%u,%u,%u)",
                cur_block->cfg->name, blockIdx.x, blockIdx.y, blockIdx.z,
                threadIdx.x, threadIdx.y, threadIdx.z);
    }
    fputc('\n', stderr);
    fflush(nullptr);
    _exit(97);
}

/* ---- what others ask about the running thread ---- */

void kernel_begin()
{
    cur_fiber->began = true;
}

unsigned lane()
{
    return cur_fiber->lane;
}

unsigned active()
{
    return cur_fiber->warp->alive;
}

void *dyn_smem()
{
    if (cur_block->dyn_size == 0) {
        fail("dynamic shared memory used, but the launch asked for none");
    }
    return cur_block->dyn;
}

unsigned thread_index()
{
    return (unsigned) (cur_fiber - cur_block->fiber.data());
}

unsigned block_index()
{
    return blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
}

static bool within(const void *p, const void *base, size_t n)
{
    return (const char *) p >= (const char *) base
           && (const char *) p < (const char *) base + n;
}

bool in_stack(const void *p)
{
    return cur_block && within(p, cur_block->stacks,
                               cur_block->n_stacks * STACK_BYTES);
}

bool in_dyn(const void *p, size_t n)
{
    return cur_block && within(p, cur_block->dyn, cur_block->dyn_size)
           && (const char *) p + n <= cur_block->dyn + cur_block->dyn_size;
}

bool in_emulator(const void *p)
{
    Block *b = cur_block;

    return within(p, &threadIdx, sizeof threadIdx)
           || within(p, &blockIdx, sizeof blockIdx)
           || within(p, &blockDim, sizeof blockDim)
           || within(p, &gridDim, sizeof gridDim)
           || within(p, &cur_block, sizeof cur_block)
           || within(p, &cur_fiber, sizeof cur_fiber)
           || (b && (within(p, b, sizeof *b)
                     || within(p, b->warp.data(),
                               b->warp.size() * sizeof(Warp))
                     || within(p, b->fiber.data(),
                               b->fiber.size() * sizeof(Fiber))));
}

void fence()
{
    if (hook_fence) {
        hook_fence();
    }
}

/* ---- switching ---- */

void to_sched()
{
    simt_switch(&cur_fiber->sp, cur_block->sched);
}

static void resume(Fiber *f)
{
    cur_fiber = f;
    threadIdx = f->tid;
    simt_switch(&cur_block->sched, f->sp);
}

static void fiber_main()
{
    Fiber *f = cur_fiber;

    (*cur_block->body)();
    f = cur_fiber;
    if (!f->open.empty() || !f->groups.empty()) {
        fail("thread exits with cp.async copies never waited for");
    }
    f->state = DONE;
    cur_block->live--;
    f->warp->alive &= ~(1u << f->lane);
    to_sched();
    abort();
}

void spin_yield()
{
    if (++spins > MAX_SPINS) {
        fail("a spin loop does not end: what it waits for cannot run%s",
             cur_block->cfg->coop ? "" : " (the launch is not cooperative)");
    }
    cur_fiber->spun = true;
    to_sched();
}

/* ---- memory of a block ---- */

static void make_stacks(Block *b, size_t n)
{
    b->stacks = (char *) mmap(nullptr, n * STACK_BYTES,
        PROT_READ | PROT_WRITE,
        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (b->stacks == MAP_FAILED) {
        fail("no memory for the stacks of %zu threads", n);
    }
    b->n_stacks = n;
    b->fiber.resize(n);
    for (size_t i = 0; i < n; i++) {
        b->fiber[i].stack = b->stacks + i * STACK_BYTES;
        mprotect(b->fiber[i].stack, 4096, PROT_NONE);
    }
}

/* Guard pages on both sides; the data ends at the upper one. */
static void make_dyn(Block *b, size_t cap)
{
    b->dyn_base = (char *) mmap(nullptr, cap + 8192, PROT_NONE,
        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (b->dyn_base == MAP_FAILED
        || mprotect(b->dyn_base + 4096, cap, PROT_READ | PROT_WRITE))
    {
        fail("no memory for dynamic shared memory");
    }
    b->dyn_cap = cap;
}

static void free_block_memory(Block *b)
{
    if (b->n_stacks) {
        munmap(b->stacks, b->n_stacks * STACK_BYTES);
    }
    if (b->dyn_base) {
        munmap(b->dyn_base, b->dyn_cap + 8192);
    }
}

static void prepare(Block *b, const LaunchCfg &cfg,
    const std::function<void()> &body)
{
    size_t n = (size_t) cfg.block.x * cfg.block.y * cfg.block.z;
    size_t cap = (cfg.smem + 4095) & ~(size_t) 4095;

    b->cfg = &cfg;
    b->body = &body;
    b->n = (int) n;
    b->dyn_size = cfg.smem;
    if (n > b->n_stacks) {
        if (b->n_stacks) {
            munmap(b->stacks, b->n_stacks * STACK_BYTES);
        }
        make_stacks(b, n);
    }
    if (cap > b->dyn_cap) {
        if (b->dyn_base) {
            munmap(b->dyn_base, b->dyn_cap + 8192);
        }
        make_dyn(b, cap);
    }
    b->dyn = b->dyn_base == nullptr ? nullptr : b->dyn_base + 4096
             + b->dyn_cap - ((cfg.smem + 15) & ~(size_t) 15);
    b->warp.resize((n + 31) / 32);
}

/* ---- one block ---- */

/* A stack on which simt_switch() finds fiber_main as its return address. */
static void *fresh_stack(char *stack)
{
    void **sp = (void **) (stack + STACK_BYTES - 64);

#if defined(__x86_64__)
    *--sp = nullptr;
    *--sp = (void *) fiber_main;
    for (int i = 0; i < 6; i++) {
        *--sp = nullptr;
    }
#else
    sp -= 20;
    memset(sp, 0, 160);
    sp[11] = (void *) fiber_main;
#endif
    return sp;
}

static void reset_block(Block *b)
{
    const dim3 &d = b->cfg->block;

    b->live = b->n;
    b->n_barrier = b->pred_sum = 0;
    b->epoch = 0;
    b->waited_epoch = ~0u;
    if (b->dyn_size) {
        memset(b->dyn, 0xff, (b->dyn_size + 15) & ~(size_t) 15);
    }
    for (size_t i = 0; i < b->warp.size(); i++) {
        Warp &w = b->warp[i];
        w.fiber = &b->fiber[i * 32];
        w.n = std::min(32, b->n - (int) i * 32);
        w.alive = w.n == 32 ? ~0u : (1u << w.n) - 1;
        w.epoch = 0;
        for (Coll &c : w.coll) {
            c.mask = 0;
        }
    }
    for (unsigned i = 0; i < (unsigned) b->n; i++) {
        Fiber &f = b->fiber[i];
        f.state = READY;
        f.began = f.waited = f.spun = false;
        f.lane = i & 31;
        f.warp = &b->warp[i / 32];
        f.open.clear();
        f.groups.clear();
        f.tid = {i % d.x, i / d.x % d.y, i / (d.x * d.y)};
        f.sp = fresh_stack(f.stack);
    }
}

static void release_barrier(Block *b)
{
    Fiber *first = nullptr;

    for (int i = 0; i < b->n; i++) {
        Fiber &f = b->fiber[i];
        if (f.state != AT_BARRIER) {
            continue;
        }
        if (!first) {
            first = &f;
        } else if (f.line != first->line || strcmp(f.file, first->file)) {
            cur_fiber = &f;
            threadIdx = f.tid;
            fail("divergent __syncthreads: this thread at %s:%d, another at "
                 "%s:%d", f.file, f.line, first->file, first->line);
        }
        f.state = READY;
    }
    b->pred_out = b->pred_sum;
    b->pred_sum = b->n_barrier = 0;
    b->epoch++;
}

[[noreturn]] static void deadlock(Block *b)
{
    int shown = 0;

    fprintf(stderr, "simt: kernel %s block (%u,%u,%u): no thread can run "
            "(%d live, %d at a barrier)\n", b->cfg->name, blockIdx.x,
            blockIdx.y, blockIdx.z, b->live, b->n_barrier);
    for (int i = 0; i < b->n && shown < 8; i++) {
        Fiber &f = b->fiber[i];
        if (f.state == AT_BARRIER && shown < 4) {
            fprintf(stderr, "  thread %d waits at %s:%d (barrier)\n", i,
                    f.file, f.line);
            shown++;
        } else if (f.state == IN_COLL) {
            fprintf(stderr, "  thread %d waits at %s:%d (warp collective, "
                    "mask %08x, arrived %08x)\n", i, f.file, f.line,
                    f.coll->mask, f.coll->arrived);
            shown++;
        }
    }
    cur_fiber = nullptr;
    fail("deadlock");
}

/* Runs a warp until none of its lanes can go on, or one of them spins.
 * Whether any ran. */
static bool run_warp(Warp &w, bool *spun)
{
    bool any = false, ran;

    do {
        unsigned start = order_mode == 2 ? random_next() & 31 : 0;

        ran = false;
        for (unsigned j = 0; j < 32; j++) {
            int    i = (int) (order_mode == 1 ? 31 - j : (j + start) & 31);
            Fiber *f = &w.fiber[i];
            if (i >= w.n || f->state != READY) {
                continue;
            }
            f->spun = false;
            resume(f);
            ran = true;
            *spun |= f->spun;
        }
        any |= ran;
    } while (ran && !*spun);
    return any;
}

/* All warps once. Whether any thread ran. */
static bool run_warps(Block *b, bool *spun)
{
    int  n = (int) b->warp.size();
    int  start = order_mode == 2 ? (int) (random_next() % (unsigned) n) : 0;
    bool any = false;

    for (int k = 0; k < n; k++) {
        int  i = order_mode == 1 ? n - 1 - k : (k + start) % n;
        bool s = false;
        any |= run_warp(b->warp[i], &s);
        *spun |= s;
    }
    return any;
}

/* between: called when some thread spins, so that other blocks can run. */
static void run_block(Block *b, const std::function<void()> &between)
{
    cur_block = b;
    reset_block(b);
    if (hook_block_begin) {
        hook_block_begin(b);
    }
    while (b->live > 0) {
        bool spun = false;
        bool any = run_warps(b, &spun);

        if (spun && between) {
            between();
        }
        if (any || b->live == 0) {
            continue;
        }
        if (b->n_barrier != b->live) {
            deadlock(b);
        }
        release_barrier(b);
    }
    if (b->cfg->rec && b->waited_epoch == ~0u) {
        b->cfg->rec->early = true;       /* its end counts as a trigger */
    }
    cur_fiber = nullptr;
}

/* ---- programmatic launches ---- */

void pdl_begin(LaunchRec *rec, const LaunchRec *prev, bool pdl)
{
    *rec = LaunchRec();
    rec->pdl = pdl && prev != nullptr;
    rec->id = launch_id + 1;
    if (!rec->pdl) {
        return;
    }
    rec->before.push_back(prev->id);
    if (prev->early) {
        rec->before.insert(rec->before.end(), prev->before.begin(),
                           prev->before.end());
    }
    rec->after = prev->waited ? prev->after : prev->before;
}

void grid_wait()
{
    cur_fiber->waited = true;
    cur_block->waited_epoch = std::min(cur_block->waited_epoch,
                                       cur_block->epoch);
    if (cur_block->cfg->rec) {
        cur_block->cfg->rec->waited = true;
    }
}

void grid_launch_dependents()
{
    if (cur_block->cfg->rec && !cur_fiber->waited) {
        cur_block->cfg->rec->early = true;
    }
}

/* ---- faults ---- */

void explain_address(const void *p);     /* memory.cpp */

static void on_fault(int sig, siginfo_t *info, void *)
{
    Block      *b = cur_block;
    const void *p = info->si_addr;

    if (b == nullptr && !ptx_who.on) {   /* not ours: as if not caught */
        signal(sig, SIG_DFL);
        return;
    }
    fprintf(stderr, "simt: illegal address %p: %s\n", p,
            b && within(p, b->dyn_base, b->dyn_cap + 8192)
            ? "guard of dynamic shared memory"
            : in_stack(p) ? "guard of a thread's stack"
            : "global memory (guard page, freed, or the host's)");
    explain_address(p);
    fail("illegal memory access");
}

/* The handler has a stack of its own in each thread that runs blocks. */
static void catch_faults()
{
    static thread_local char *stack;
    struct sigaction          sa = {};
    stack_t                   ss = {};

    if (stack) {
        return;
    }
    ss.ss_size = 64 << 10;
    stack = (char *) mmap(nullptr, ss.ss_size, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    ss.ss_sp = stack;
    sigaltstack(&ss, nullptr);
    sa.sa_sigaction = on_fault;
    sa.sa_flags = SA_SIGINFO | SA_ONSTACK;
    sigaction(SIGSEGV, &sa, nullptr);
    sigaction(SIGBUS, &sa, nullptr);
}

/* ---- grids ---- */

static void set_block(const LaunchCfg &cfg, unsigned b)
{
    blockDim = {cfg.block.x, cfg.block.y, cfg.block.z};
    gridDim = {cfg.grid.x, cfg.grid.y, cfg.grid.z};
    blockIdx = {b % cfg.grid.x, b / cfg.grid.x % cfg.grid.y,
                b / (cfg.grid.x * cfg.grid.y)};
}

/* Whose turn it is among the OS threads of a cooperative launch. */
struct Baton {
    std::mutex              lock;
    std::condition_variable changed;
    std::vector<char>       live;
    unsigned                turn;
    unsigned                arrived = 0, generation = 0;   /* grid_sync */
    unsigned                n;

    void wait(unsigned me)
    {
        std::unique_lock<std::mutex> held(lock);
        changed.wait(held, [&] { return turn == me; });
    }

    void pass(unsigned me)
    {
        std::lock_guard<std::mutex> held(lock);
        unsigned step = order_mode == 1 ? n - 1 : 1;
        unsigned k = order_mode == 2 ? (unsigned) (random_next() % n) : me;

        for (unsigned i = 0; i < n; i++) {
            k = (k + step) % n;
            if (live[k]) {
                break;
            }
        }
        turn = k;
        changed.notify_all();
    }
};

static Baton *baton;

static void run_cooperative(const LaunchCfg &cfg,
    const std::function<void()> &body, unsigned n)
{
    std::vector<std::thread> threads;
    Baton                    b;

    b.live.assign(n, 1);
    b.n = n;
    b.turn = order_mode == 1 ? n - 1 : 0;
    baton = &b;
    for (unsigned i = 0; i < n; i++) {
        threads.emplace_back([&, i] {
            Block blk = {};

            b.wait(i);
            catch_faults();
            set_block(cfg, i);
            prepare(&blk, cfg, body);
            run_block(&blk, [&] { b.pass(i); b.wait(i); });
            cur_block = nullptr;
            free_block_memory(&blk);
            b.live[i] = 0;
            b.pass(i);
        });
    }
    for (std::thread &t : threads) {
        t.join();
    }
    baton = nullptr;
}

void grid_sync()
{
    barrier(__FILE__, __LINE__);
    if (cur_fiber == &cur_block->fiber[0]) {
        unsigned generation;

        if (baton == nullptr) {
            fail("grid-wide barrier in a launch that is not cooperative");
        }
        fence();
        generation = baton->generation;
        if (hook_sync) {
            hook_sync(&baton->generation);
        }
        if (++baton->arrived == baton->n) {
            baton->arrived = 0;
            baton->generation++;
        }
        while (baton->generation == generation) {
            spin_yield();
        }
        if (hook_sync) {
            hook_sync(&baton->generation);
        }
    }
    barrier(__FILE__, __LINE__);
}

void run_grid(const LaunchCfg &cfg, const std::function<void()> &body)
{
    static thread_local Block *blk = new Block();
    unsigned n = cfg.grid.x * cfg.grid.y * cfg.grid.z;
    unsigned start = order_mode == 2 ? (unsigned) (random_next() % n) : 0;

    launch_id++;
    spins = 0;
    if (cfg.coop) {
        run_cooperative(cfg, body, n);
    } else {
        catch_faults();
        prepare(blk, cfg, body);
        for (unsigned i = 0; i < n; i++) {
            set_block(cfg, order_mode == 1 ? n - 1 - i : (i + start) % n);
            run_block(blk, nullptr);
        }
    }
    cur_block = nullptr;
}

/* Builds without the checker. */
__attribute__((weak))
void touch(const void *, size_t, bool, bool, void *) {}

}  // namespace simt
