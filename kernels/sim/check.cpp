/*
 * check.cpp: the checker. Kernels are compiled with gcc -fsanitize=thread,
 * so that every memory access calls __tsan_readN or __tsan_writeN; libtsan
 * is not linked, those are ours. The PTX interpreter calls touch().
 *
 * A cell for each byte that kernels touched holds its last writer and last
 * reader. Two accesses of one launch are ordered by
 *   - program order of a thread;
 *   - a block barrier between them; a warp barrier, within a warp;
 *   - a fence of the writer's thread that covers the write, then an atomic
 *     of that thread on some word, then an atomic on that word in the
 *     reader's block, then (for its other threads) a barrier. So a missing
 *     fence or barrier around a "last block" counter or a lock is found.
 * Work before a launch is ordered by the stream, except for programmatic
 * launches: until grid_wait(), launches in flight (LaunchRec) are not.
 *
 * Found: races, accesses out of bounds, of misaligned or constant memory,
 * reads of what was never written (device memory; shared memory by this
 * block) or of a cp.async destination before it landed.
 */

#include "check.h"
#include "ptx.h"

#include <link.h>
#include <map>
#include <unordered_map>
#include <vector>

namespace simt {

int check_reports;

struct Cell {
    Moment      w, r;             /* launch 0: none */
    const void *wpc;
    bool        init;             /* device memory: ever written */
    bool        atomic_w, atomic_r;
    bool        pending;          /* cp.async is under way */
};

/* ---- shadow memory ---- */

constexpr unsigned PAGE_BITS = 10;

struct Page {
    Cell cell[1 << PAGE_BITS];
};

static std::unordered_map<uintptr_t, Page *> pages;
static struct { uintptr_t key; Page *page; } recent[64];

static Cell &cell_of(uintptr_t a)
{
    uintptr_t key = a >> PAGE_BITS;
    auto     &slot = recent[key & 63];

    if (slot.page == nullptr || slot.key != key) {
        Page *&p = pages[key];
        if (p == nullptr) {
            p = (Page *) calloc(1, sizeof(Page));
        }
        slot = {key, p};
    }
    return slot.page->cell[a & ((1 << PAGE_BITS) - 1)];
}

/* ---- the running thread ---- */

static bool now(Moment *m)
{
    m->launch = launch_id;
    if (ptx_who.on) {
        m->block = ptx_who.block;
        m->tid = ptx_who.tid;
        m->bep = ptx_who.bep;
        m->wep = ptx_who.wep;
        return true;
    }
    if (!cur_fiber || !cur_fiber->began) {
        return false;
    }
    m->block = block_index();
    m->tid = thread_index();
    m->bep = cur_block->epoch;
    m->wep = cur_fiber->warp->epoch;
    return true;
}

static bool has_waited()
{
    if (ptx_who.on) {
        return ptx_who.waited;
    }
    return cur_fiber->waited || cur_block->waited_epoch < cur_block->epoch;
}

/* Static __shared__ variables are thread-local in the module that the
 * emulator is part of. */
static thread_local char *tls_lo, *tls_hi;

static int find_tls(dl_phdr_info *info, size_t, void *)
{
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) &h = info->dlpi_phdr[i];
        char *lo = (char *) info->dlpi_tls_data;

        if (h.p_type == PT_TLS && lo && (char *) &cur_block >= lo
            && (char *) &cur_block < lo + h.p_memsz)
        {
            tls_lo = lo;
            tls_hi = lo + h.p_memsz;
            return 1;
        }
    }
    return 0;
}

static bool is_shared(const void *p, size_t n)
{
    const char *c = (const char *) p;

    if (ptx_who.on) {
        return c >= ptx_who.sh && c + n <= ptx_who.sh + ptx_who.shn;
    }
    return in_dyn(p, n) || (c >= tls_lo && c < tls_hi);
}

/* ---- order by fences and atomics ---- */

struct Acquired {
    Moment release, here;
};

struct BlockSync {
    std::map<unsigned, Moment>   fence;       /* by thread */
    std::map<unsigned, Acquired> from;        /* by block */
};

static std::map<unsigned, BlockSync> sync_block;
static std::map<uintptr_t, std::map<unsigned, Moment>> published;
static uint32_t sync_launch, clock_now;

static void new_launch()
{
    if (sync_launch != launch_id) {
        sync_launch = launch_id;
        sync_block.clear();
        published.clear();
    }
}

/* a and b of one block, a before b in time: ordered for sure. */
static bool ordered(const Moment &a, const Moment &b)
{
    return a.tid == b.tid || a.bep < b.bep
           || (a.tid / 32 == b.tid / 32 && a.wep < b.wep);
}

static void note_fence()
{
    Moment m;

    if (now(&m)) {
        new_launch();
        m.time = ++clock_now;
        sync_block[m.block].fence[m.tid] = m;
    }
}

/* An atomic on a word: takes what others published there, publishes what
 * this thread fenced. */
static void note_atomic(const void *p, Moment m, bool write)
{
    new_launch();
    m.time = ++clock_now;

    auto      &word = published[(uintptr_t) p];
    BlockSync &b = sync_block[m.block];
    for (const auto &x : word) {
        if (x.first != m.block || x.second.tid != m.tid) {
            b.from[x.first] = {x.second, m};
        }
    }
    auto f = b.fence.find(m.tid);
    if (write && f != b.fence.end()) {
        word[m.block] = f->second;
        for (const auto &x : b.from) {
            word.insert({x.first, x.second.release});
        }
    }
}

/* An earlier access of another thread was published and taken. */
static bool ordered_by_atomics(const Moment &a, const Moment &me)
{
    auto b = sync_block.find(me.block);

    if (sync_launch != me.launch || b == sync_block.end()) {
        return false;
    }
    auto from = b->second.from.find(a.block);
    if (from == b->second.from.end()) {
        return false;
    }
    const Moment &release = from->second.release;
    bool covered = a.tid == release.tid ? a.time < release.time
                                        : ordered(a, release);
    return covered && ordered(from->second.here, me);
}

static bool clash(const Moment &a, const Moment &me, bool shared)
{
    if (a.launch != me.launch) {
        return false;
    }
    if (shared && a.block != me.block) {
        return false;
    }
    return !(a.block == me.block && ordered(a, me))
           && !ordered_by_atomics(a, me);
}

/* ---- one access ---- */

static bool in_flight(uint32_t launch, bool waited)
{
    const LaunchRec *rec = cur_rec;

    if (rec) {
        for (unsigned id : waited ? rec->after : rec->before) {
            if (id == launch) {
                return true;
            }
        }
    }
    return false;
}

/* Of device memory, against launches that may still run. */
static bool check_flight(Cell &c, const void *p, size_t n, bool write,
    const void *pc)
{
    bool waited = has_waited();

    if (c.w.launch && in_flight(c.w.launch, waited)) {
        report(waited ? "access to what a launch before the previous one "
                        "wrote, which nobody waited for"
                      : "access before grid_wait() to what a previous "
                        "launch wrote", p, n, pc, c.wpc);
        c.w.launch = 0;
        return true;
    }
    if (write && c.r.launch && in_flight(c.r.launch, waited)) {
        report("write before grid_wait() to what a previous launch reads",
               p, n, pc, nullptr);
        c.r.launch = 0;
        return true;
    }
    return false;
}

/* One byte; false when something was reported, which ends the access. */
static bool check_byte(Cell &c, const char *p, size_t n, bool write,
    bool atomic, bool shared, const void *pc, const Moment &me)
{
    bool init = shared ? c.w.launch == me.launch && c.w.block == me.block
                       : c.init;

    if (!write && !init) {
        report(shared ? "read of shared memory this block never wrote"
                      : "read of uninitialised device memory", p, n, pc,
               nullptr);
        c.init = true;
        c.w = me;
        return false;
    }
    if (c.pending && !write && c.w.launch == me.launch
        && c.w.block == me.block)
    {
        report("read of a cp.async destination before it landed", p, n, pc,
               c.wpc);
        c.pending = false;
        return false;
    }
    if (!shared && check_flight(c, p, n, write, pc)) {
        return false;
    }
    if (c.w.launch && !(atomic && c.atomic_w) && clash(c.w, me, shared)) {
        report(write ? "write-write race" : "read-write race", p, n, pc,
               c.wpc);
        c.w.launch = 0;
        c.init = true;
        return false;
    }
    if (write && c.r.launch && !(atomic && c.atomic_r)
        && clash(c.r, me, shared))
    {
        report("write after an unsynchronised read (race)", p, n, pc,
               nullptr);
        c.r.launch = 0;
        return false;
    }
    if (write) {
        c.w = me;
        c.wpc = pc;
        c.init = true;
        c.atomic_w = atomic;
        c.pending = false;
    } else {
        c.r = me;
        c.atomic_r = atomic;
    }
    return true;
}

/* Bounds of device memory; false: nothing more to check. */
static bool check_bounds(const void *p, size_t n, bool write, const void *pc)
{
    size_t      size;
    const char *base = find_alloc(p, size);

    if (base) {
        if ((const char *) p + n <= base + size) {
            return true;
        }
        report("access runs past the end of its allocation", p, n, pc,
               nullptr);
    } else if (in_image(p)) {
        if (write) {
            report("write to constant memory", p, n, pc, nullptr);
        }
    } else {
        report(write ? "write outside any device allocation"
                     : "read outside any device allocation", p, n, pc,
               nullptr);
    }
    return false;
}

/* aligned: the type of the access says that it is. */
static void access(const void *p, size_t n, bool write, bool atomic,
    const void *pc, bool aligned = true)
{
    Moment me = {};
    bool   shared;

    if (n == 0 || !now(&me)) {
        return;
    }
    if (!ptx_who.on && (in_stack(p) || in_emulator(p))) {
        return;
    }
    me.time = clock_now;
    shared = is_shared(p, n);
    if (!shared && !check_bounds(p, n, write, pc)) {
        return;
    }
    if (aligned && (n & (n - 1)) == 0
        && (uintptr_t) p % std::min(n, (size_t) 16))
    {
        report("misaligned access", p, n, pc, nullptr);
    }
    if (perf_on) {
        perf_access(me, p, n, write, shared, pc);
    }
    if (atomic && !shared) {           /* shared ones order only by barriers */
        note_atomic(p, me, write);
    }
    for (size_t i = 0; i < n; i++) {
        if (!check_byte(cell_of((uintptr_t) p + i), (const char *) p + i, n,
                        write, atomic, shared, pc, me))
        {
            break;
        }
    }
}

void touch(const void *p, size_t n, bool write, bool atomic, void *pc)
{
    access(p, n, write, atomic, pc ? pc : __builtin_return_address(0));
}

void check_print()
{
    if (perf_on) {
        perf_print();
    }
    fprintf(stderr, "simt-check: %d report(s)\n", check_reports);
}

/* ---- hooks ---- */

static void on_block_begin(Block *)
{
    if (!tls_lo) {
        dl_iterate_phdr(find_tls, nullptr);
    }
}

/* Also when memory is freed: cells take many times its bytes. An allocation
 * has pages of its own (memory.cpp). */
static void on_alloc(char *p, size_t n, bool)
{
    uintptr_t a = (uintptr_t) p;

    for (uintptr_t key = a >> PAGE_BITS; key <= (a + n - 1) >> PAGE_BITS;
         key++)
    {
        auto it = pages.find(key);
        if (it != pages.end()) {
            free(it->second);
            pages.erase(it);
            recent[key & 63] = {};
        }
    }
}

static void on_host_write(const void *p, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        Cell &c = cell_of((uintptr_t) p + i);
        c.init = true;
        c.w.launch = 0;
    }
}

static void on_issue(const void *p, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        cell_of((uintptr_t) p + i).pending = true;
    }
}

/* The write is this moment's: a barrier before it orders nothing. */
static void on_landed(const void *p, size_t n)
{
    Moment me = {};

    if (now(&me)) {
        me.time = clock_now;
        for (size_t i = 0; i < n; i++) {
            Cell &c = cell_of((uintptr_t) p + i);
            c.pending = false;
            c.w = me;
        }
    }
}

static void on_sync(const void *p)
{
    Moment me;

    if (now(&me)) {
        note_atomic(p, me, true);
    }
}

static struct Hooks {
    Hooks()
    {
        hook_block_begin = on_block_begin;
        hook_launch_end = [](const char *name) { perf_launch_end(name); };
        hook_alloc = on_alloc;
        hook_host_write = on_host_write;
        hook_fence = note_fence;
        hook_issue = on_issue;
        hook_landed = on_landed;
        hook_sync = on_sync;
    }
} hooks;

}  // namespace simt

/* ---- what gcc calls ---- */

#define PC __builtin_return_address(0)
#define EXPORT extern "C" __attribute__((visibility("hidden")))
#define SIMT_TSAN(n) \
    EXPORT void __tsan_read##n(void *p) \
    { \
        simt::access(p, n, false, false, PC); \
    } \
    EXPORT void __tsan_write##n(void *p) \
    { \
        simt::access(p, n, true, false, PC); \
    } \
    EXPORT void __tsan_volatile_read##n(void *p) \
    { \
        simt::access(p, n, false, true, PC); \
    } \
    EXPORT void __tsan_volatile_write##n(void *p) \
    { \
        simt::access(p, n, true, true, PC); \
    }
SIMT_TSAN(1)
SIMT_TSAN(2)
SIMT_TSAN(4)
SIMT_TSAN(8)
SIMT_TSAN(16)

/* Unaligned by type, such as memcpy: no alignment to check. */
#define SIMT_TSAN_UNALIGNED(n) \
    EXPORT void __tsan_unaligned_read##n(void *p) \
    { \
        simt::access(p, n, false, false, PC, false); \
    } \
    EXPORT void __tsan_unaligned_write##n(void *p) \
    { \
        simt::access(p, n, true, false, PC, false); \
    }
SIMT_TSAN_UNALIGNED(2)
SIMT_TSAN_UNALIGNED(4)
SIMT_TSAN_UNALIGNED(8)
SIMT_TSAN_UNALIGNED(16)

EXPORT void __tsan_read_range(void *p, size_t n)
{
    simt::access(p, n, false, false, PC, false);
}

EXPORT void __tsan_write_range(void *p, size_t n)
{
    simt::access(p, n, true, false, PC, false);
}

EXPORT void __tsan_init(void) {}
EXPORT void __tsan_func_entry(void *) {}
EXPORT void __tsan_func_exit(void) {}
EXPORT void __tsan_vptr_update(void **, void *) {}
EXPORT void __tsan_vptr_read(void **) {}

/* Atomics of intrinsics.h, which reports them itself. */
#define SIMT_TSAN_ATOMIC(bits) \
    EXPORT uint##bits##_t __tsan_atomic##bits##_load( \
        const volatile uint##bits##_t *p, int) \
    { \
        return __atomic_load_n(p, __ATOMIC_SEQ_CST); \
    } \
    EXPORT void __tsan_atomic##bits##_store(volatile uint##bits##_t *p, \
        uint##bits##_t v, int) \
    { \
        __atomic_store_n(p, v, __ATOMIC_SEQ_CST); \
    } \
    EXPORT int __tsan_atomic##bits##_compare_exchange_strong( \
        volatile uint##bits##_t *p, uint##bits##_t *e, uint##bits##_t v, \
        int, int) \
    { \
        return __atomic_compare_exchange_n(p, e, v, false, \
            __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST); \
    }
SIMT_TSAN_ATOMIC(32)
SIMT_TSAN_ATOMIC(64)

EXPORT uint64_t __tsan_atomic64_fetch_add(volatile uint64_t *p, uint64_t v,
    int)
{
    return __atomic_fetch_add(p, v, __ATOMIC_SEQ_CST);
}

EXPORT uint32_t __tsan_atomic32_fetch_add(volatile uint32_t *p, uint32_t v,
    int)
{
    return __atomic_fetch_add(p, v, __ATOMIC_SEQ_CST);
}

EXPORT void __tsan_atomic_thread_fence(int)
{
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
}
