/*
 * ptx_exec.cpp: runs kernels. A warp is a set of groups of lanes, each with a
 * pc; the group with the lowest pc runs until it branches apart or meets
 * another, so that lanes come together again where the compiler put the
 * join. A block runs its warps in turn, each until all its lanes wait or
 * have left. The blocks of a cooperative launch take turns; others run one
 * after another.
 */

#include <dlfcn.h>

#include <cstdio>
#include <cstdlib>

#include "fiber.h"
#include "ptx_int.h"

namespace simt {

PtxWho ptx_who;
uint64_t ptx_ins, ptx_lanes;

namespace ptx {

/* ---- faults ---- */

void fault(const Warp &w, const Ins &i, int lane, const char *why)
{
    const Block &b = *w.block;
    const Stmt &s = *b.k->stmt[&i - b.k->code.data()];
    const LaunchCfg &c = *b.cfg;
    unsigned t = w.id * LANES + lane;

    fprintf(stderr, "ptx: %s at %s:%d\n  %s   (PTX line %d)\n"
        "  kernel %s block (%u,%u,%u) thread (%u,%u,%u)\n", why,
        s.file.c_str(), s.line, s.text.c_str(), s.at, b.k->name.c_str(),
        blockIdx.x, blockIdx.y, blockIdx.z, t % c.block.x,
        t / c.block.x % c.block.y, t / (c.block.x * c.block.y));
    fflush(nullptr);
    cover_write();
    _Exit(97);
}

/* ---- a warp ---- */

/* Between turns of other warps, instructions without a barrier. */
const u32 TURN = 1 << 22;

/* The runnable group with the lowest pc, and all others at that pc. */
static bool next_group(Warp &w, Group &g)
{
    size_t best = w.groups.size();

    for (size_t x = 0; x < w.groups.size(); x++)
        if (!w.groups[x].held && (best == w.groups.size()
            || w.groups[x].pc < w.groups[best].pc))
            best = x;
    if (best == w.groups.size())
        return false;
    g = w.groups[best];
    g.mask = 0;
    for (size_t x = 0; x < w.groups.size();) {
        if (w.groups[x].pc != g.pc) {
            x++;
            continue;
        }
        g.mask |= w.groups[x].mask;
        w.groups.erase(w.groups.begin() + (long) x);
    }
    return true;
}

/* Splits g by where its lanes go; false: all go to one place, g.pc. */
static bool branch(Warp &w, const Kernel &k, const Ins &i, Group &g,
    u32 taken)
{
    u32 stay = g.mask & ~taken;

    if (i.kind == K_TABLE) {
        const std::vector<s32> &table = k.tables[i.target];
        for (u32 x = taken; x; x &= x - 1) {
            int l = __builtin_ctz(x);
            u32 n = w.row(i.s[0])[l];
            if (n >= table.size())
                fault(w, i, l, "index beyond the table of a branch");
            w.groups.push_back({table[n], 1u << l, false});
        }
        if (stay)
            w.groups.push_back({g.pc + 1, stay, false});
        return true;
    }
    if (!taken) {
        g.pc++;
        return false;
    }
    if (stay) {
        w.groups.push_back({i.target, taken, false});
        w.groups.push_back({g.pc + 1, stay, false});
        return true;
    }
    bool back = i.target <= g.pc;
    g.pc = i.target;
    if (back && !w.groups.empty()) {
        w.groups.push_back(g);
        return true;
    }
    return false;
}

static void leave(Warp &w, const Ins &i, Group &g, u32 mask)
{
    w.live &= ~mask;
    for (u32 x = mask; x; x &= x - 1) {
        int l = __builtin_ctz(x);
        bool pending = !w.open[l].empty();
        for (auto &c : w.committed[l])
            pending |= !c.empty();
        if (pending)
            fault(w, i, l, "thread exits with cp.async copies that it "
                "never waited for");
    }
    if (g.mask & ~mask)
        w.groups.push_back({g.pc + 1, g.mask & ~mask, false});
}

/* Whether the lanes of g may run the collective now. When not, they wait. */
static bool gather(Warp &w, const Ins &i, Group &g, u32 mask)
{
    int first = __builtin_ctz(mask);
    u32 members = i.full ? ALL : w.row(i.s[MEMBERS])[first];

    if (i.full && w.exists != ALL)
        fault(w, i, first, "matrix instruction in a warp of less than 32");
    for (u32 x = i.full ? 0 : mask; x; x &= x - 1)
        if (w.row(i.s[MEMBERS])[__builtin_ctz(x)] != members)
            fault(w, i, __builtin_ctz(x), "lanes name different masks");
    members &= w.exists;
    if (mask & ~members)
        fault(w, i, __builtin_ctz(mask & ~members),
            "warp collective by a lane outside of its mask");
    if (members & ~w.live)
        fault(w, i, first, "warp collective names lanes that have exited");
    if (members == mask)
        return true;
    g.held = true;
    w.groups.push_back(g);
    for (auto &o : w.groups)
        if (!o.held)
            return false;
    fault(w, i, first,
        "warp collective: lanes of its mask never come (divergent)");
}

static void arrive(Warp &w, const Ins &i, const Group &g, u32 mask)
{
    if (w.at_barrier && w.barrier_pc != g.pc)
        fault(w, i, __builtin_ctz(mask), "divergent bar.sync: lanes of a "
            "warp wait at different barriers");
    w.at_barrier |= mask;
    w.barrier_pc = g.pc;
    if (i.s[0] != NONE) {
        u32 p = pred(w, i.s[0]) ^ (i.inv ? ~0u : 0);
        w.barrier_pred = (w.barrier_pred & ~mask) | (p & mask);
    }
    if (g.mask & ~mask)
        w.groups.push_back({g.pc + 1, g.mask & ~mask, false});
}

/* Runs until no group can go on or one of them spins. */
static void run_warp(Warp &w, const Kernel &k)
{
    const Ins *code = k.code.data();
    u64 ins = 0, lanes = 0;
    Group g;
    bool turn = true;

    while (turn && next_group(w, g)) {
        s32 stop = INT32_MAX;     /* where it meets the next group */
        for (auto &o : w.groups)
            if (o.pc > g.pc)
                stop = std::min(stop, o.pc);
        for (bool on = true; on;) {
            if (g.pc >= stop || ins > TURN) {
                w.groups.push_back(g);
                turn = ins <= TURN;
                break;
            }
            const Ins &i = code[g.pc];
            u32 m = g.mask & (w.pred[i.guard & ~PRED] ^ i.guard_not);
            ins++;
            if (m) {
                lanes += (u32) __builtin_popcount(m);
                k.stmt[g.pc]->runs++;
            }
            switch (i.kind) {
            case K_PLAIN:
                if (m)
                    i.fn(w, i, m);
                g.pc++;
                break;
            case K_BRANCH:
            case K_TABLE:
                on = !branch(w, k, i, g, m);
                break;
            case K_EXIT:
                if (m) {
                    leave(w, i, g, m);
                    on = false;
                } else {
                    g.pc++;
                }
                break;
            case K_BARRIER:
                if (m) {
                    arrive(w, i, g, m);
                    on = false;
                } else {
                    g.pc++;
                }
                break;
            case K_COLLECTIVE:
                if (m && m != g.mask) {
                    w.groups.push_back({g.pc + 1, g.mask & ~m, false});
                    g.mask = m;
                    stop = std::min(stop, g.pc + 1);
                }
                if (m && !gather(w, i, g, m)) {
                    on = false;
                    break;
                }
                if (m)
                    i.fn(w, i, m);
                g.pc++;
                break;
            case K_YIELD:
                g.pc++;
                w.groups.push_back(g);
                on = turn = false;
                break;
            }
        }
    }
    ptx_ins += ins;
    ptx_lanes += lanes;
}

/* ---- a block ---- */

static u32 special_value(const Block &b, u8 which, u32 thread)
{
    const dim3 &n = b.cfg->block, &g = b.cfg->grid;
    u32 lane = thread % LANES;

    switch (which) {
    case 0: return thread % n.x;
    case 1: return thread / n.x % n.y;
    case 2: return thread / (n.x * n.y);
    case 3: return n.x;
    case 4: return n.y;
    case 5: return n.z;
    case 6: return b.index % g.x;
    case 7: return b.index / g.x % g.y;
    case 8: return b.index / (g.x * g.y);
    case 9: return g.x;
    case 10: return g.y;
    case 11: return g.z;
    case 12: return lane;
    case 13: return thread / LANES;
    case 14: return (1u << lane) - 1;
    case 15: return (2u << lane) - 1;
    case 16: return ~((2u << lane) - 1);
    case 17: return ~((1u << lane) - 1);
    default: return 1u << lane;
    }
}

/* Memory of a block of the kernel; registers are poison. */
static void prepare(Block &b, const Kernel &k, const LaunchCfg &cfg,
    const char *params)
{
    u32 threads = cfg.block.x * cfg.block.y * cfg.block.z;

    b.k = &k;
    b.cfg = &cfg;
    b.params = params;
    b.lo = b.hi = nullptr;
    b.shared_bytes = k.shared + cfg.smem;
    b.shared_mem.resize(b.shared_bytes + 128);
    b.shared = (char *) (((uintptr_t) b.shared_mem.data() + 127)
        & ~(uintptr_t) 127);
    b.local_mem.assign((size_t) (threads + LANES) * k.local, (char) 0xff);
    b.warps.clear();
    b.warps.resize((threads + LANES - 1) / LANES);
    for (size_t n = 0; n < b.warps.size(); n++) {
        Warp &w = b.warps[n];
        size_t bytes = ((size_t) k.units + 1) * LANES * 4;
        w.block = &b;
        w.id = (u32) n;
        w.file.reset((u32 *) aligned_alloc(64, bytes));
        memset(w.file.get(), 0xff, bytes);
        w.pred.assign(k.preds, 0);
        w.pred[0] = ~0u;
        for (auto &f : k.fixed) {
            for (int l = 0; l < LANES; l++) {
                if (f.size == 8)
                    set<u64>(w.row(f.row), l, f.value);
                else
                    set<u32>(w.row(f.row), l, (u32) f.value);
            }
        }
    }
}

static void start(Block &b, unsigned index)
{
    u32 threads = b.cfg->block.x * b.cfg->block.y * b.cfg->block.z;

    b.index = index;
    b.epoch = 0;
    b.waited_epoch = ~0u;
    memset(b.shared, 0xff, b.shared_bytes);
    for (auto &w : b.warps) {
        u32 n = std::min(threads - w.id * LANES, (u32) LANES);
        w.exists = w.live = n == LANES ? ALL : (1u << n) - 1;
        w.groups.assign(1, {0, w.live, false});
        w.at_barrier = w.waited = 0;
        w.epoch = 0;
        for (auto &s : b.k->special)
            for (int l = 0; l < LANES; l++)
                w.row(s.row)[l] = special_value(b, s.which,
                    w.id * LANES + (u32) l);
        for (int l = 0; l < LANES; l++) {
            w.open[l].clear();
            w.committed[l].clear();
        }
    }
}

/* Result of bar.red over the block. */
static void barrier_result(Block &b, const Ins &i)
{
    u32 count = 0, threads = 0;

    for (auto &w : b.warps) {
        count += (u32) __builtin_popcount(w.barrier_pred & w.at_barrier);
        threads += (u32) __builtin_popcount(w.at_barrier);
    }
    bool yes = i.op == 'a' ? count == threads : count != 0;
    for (auto &w : b.warps) {
        u32 r[LANES];
        for (u32 &x : r)
            x = count;
        if (i.op == 'p')
            put(w.row(i.d[0]), r, w.at_barrier);
        else
            put_pred(w, i.d[0], yes ? ~0u : 0, w.at_barrier);
    }
}

/* All live threads wait at the barrier: they go on behind it. */
static void release(Block &b)
{
    const Warp *first = nullptr;

    for (auto &w : b.warps) {
        if (!w.live)
            continue;
        if (first && w.barrier_pc != first->barrier_pc)
            fault(w, b.k->code[w.barrier_pc], __builtin_ctz(w.live),
                "divergent bar.sync: warps wait at different barriers");
        first = &w;
    }
    const Ins &i = b.k->code[first->barrier_pc];
    if (i.d[0] != NONE)
        barrier_result(b, i);
    b.epoch++;
    for (auto &w : b.warps) {
        if (!w.live)
            continue;
        w.groups.push_back({w.barrier_pc + 1, w.at_barrier, false});
        w.at_barrier = 0;
    }
}

static void deadlock(Block &b)
{
    for (auto &w : b.warps) {
        if (!w.live || w.at_barrier == w.live)
            continue;
        s32 pc = w.groups.empty() ? w.barrier_pc : w.groups[0].pc;
        fault(w, b.k->code[pc], __builtin_ctz(w.live & ~w.at_barrier),
            "deadlock: no thread of the block can go on");
    }
}

/* A turn for every warp; false: the block has ended. */
static bool turn(Block &b)
{
    u32 n = (u32) b.warps.size();
    u32 begin = order_mode == 2 ? (u32) (random_next() % n) : 0;
    bool live = false, waiting = true, can = false;

    ptx_who.block = b.index;
    ptx_who.sh = b.shared;
    ptx_who.shn = b.shared_bytes;
    blockIdx = {b.index % b.cfg->grid.x,
        b.index / b.cfg->grid.x % b.cfg->grid.y,
        b.index / (b.cfg->grid.x * b.cfg->grid.y)};
    for (u32 x = 0; x < n; x++) {
        Warp &w = b.warps[order_mode == 1 ? n - 1 - x : (x + begin) % n];
        if (!w.groups.empty())
            run_warp(w, *b.k);
    }
    for (auto &w : b.warps) {
        live |= w.live != 0;
        waiting &= w.at_barrier == w.live;
        for (auto &g : w.groups)
            can |= !g.held;
    }
    if (!live) {
        if (cur_rec && b.waited_epoch == ~0u)
            cur_rec->early = true;    /* its end counts as a trigger */
        return false;
    }
    if (waiting)
        release(b);
    else if (!can)
        deadlock(b);
    return true;
}

/* ---- a launch ---- */

static void run(const Kernel &k, const LaunchCfg &cfg, const char *params)
{
    unsigned n = cfg.grid.x * cfg.grid.y * cfg.grid.z;
    unsigned begin = order_mode == 2 ? (unsigned) (random_next() % n) : 0;
    auto nth = [&](unsigned x) {
        return order_mode == 1 ? n - 1 - x : (x + begin) % n;
    };

    if (!cfg.coop) {
        Block b;
        prepare(b, k, cfg, params);
        for (unsigned x = 0; x < n; x++) {
            start(b, nth(x));
            while (turn(b)) {}
        }
        return;
    }
    std::vector<Block> blocks(n);
    for (unsigned x = 0; x < n; x++) {
        prepare(blocks[x], k, cfg, params);
        start(blocks[x], nth(x));
    }
    for (size_t live = n; live > 0;) {
        for (auto &b : blocks) {
            if (b.k && !turn(b)) {
                b.k = nullptr;
                live--;
            }
        }
    }
}

std::deque<Module> &modules()
{
    static std::deque<Module> m;
    static bool done;
    const char *list = getenv("SIMT_PTX");

    if (done || !list)
        return m;
    done = true;
    std::string s = list;
    for (size_t p = 0; p < s.size();) {
        size_t colon = std::min(s.find(':', p), s.size());
        m.emplace_back();
        parse(s.substr(p, colon - p), m.back());
        p = colon + 1;
    }
    atexit(cover_write);
    return m;
}

static std::map<std::string, std::unique_ptr<Kernel>> &kernels()
{
    static std::map<std::string, std::unique_ptr<Kernel>> k;
    return k;
}

const Kernel *find_kernel(const std::string &name)
{
    auto it = kernels().find(name);

    if (it != kernels().end())
        return it->second.get();
    for (auto &m : modules()) {
        auto f = m.funcs.find(name);
        if (f == m.funcs.end() || !f->second.entry)
            continue;
        auto k = std::make_unique<Kernel>();
        k->name = name;
        k->module = &m;
        k->func = &f->second;
        decode(*k);
        return (kernels()[name] = std::move(k)).get();
    }
    return nullptr;
}

/* The kernel of a host function. That a kernel is not in the files means
 * that something was forgotten, unless SIMT_PTX_PARTIAL is set. */
static const Kernel *kernel_of(const void *fn)
{
    static std::unordered_map<const void *, const Kernel *> known;
    Dl_info d;
    auto it = known.find(fn);

    if (it != known.end())
        return it->second;
    const char *name = dladdr(fn, &d) && d.dli_sname
        && d.dli_saddr == fn ? d.dli_sname : "a kernel without a dynamic "
        "symbol";
    const Kernel *k = find_kernel(name);
    if (!k && !getenv("SIMT_PTX_PARTIAL"))
        unknown(name, nullptr, "not in the files of SIMT_PTX");
    return known[fn] = k;
}

void launch(const Kernel &k, const LaunchCfg &cfg,
    const std::vector<char> &args,
    const std::vector<std::pair<int, int>> &layout)
{
    const std::vector<Param> &p = k.func->params;
    std::vector<char> params(k.param_bytes + 8);

    if (layout.size() != p.size())
        fail("ptx: %s has %zu parameters, %zu are given", k.name.c_str(),
            p.size(), layout.size());
    for (size_t n = 0; n < p.size(); n++) {
        if ((unsigned) layout[n].second != p[n].size)
            fail("ptx: parameter %zu of %s has %u bytes, %d are given", n,
                k.name.c_str(), p[n].size, layout[n].second);
        memcpy(&params[p[n].offset], &args[(size_t) layout[n].first],
            p[n].size);
    }
    launch_id++;
    blockDim = {cfg.block.x, cfg.block.y, cfg.block.z};
    gridDim = {cfg.grid.x, cfg.grid.y, cfg.grid.z};
    ptx_who = PtxWho();
    ptx_who.on = true;
    ptx_who.kernel = k.name.c_str();
    run(k, cfg, params.data());
    ptx_who.on = false;
}

}  // namespace ptx

bool ptx_launch(const LaunchCfg &cfg, const void *fn,
    const std::vector<char> &args,
    const std::vector<std::pair<int, int>> &layout)
{
    if (ptx::modules().empty())
        return false;
    const ptx::Kernel *k = ptx::kernel_of(fn);
    if (!k)
        return false;
    ptx::launch(*k, cfg, args, layout);
    return true;
}

const char *ptx_where(const void *pc)
{
    static std::string s;

    for (auto &e : ptx::kernels()) {
        const ptx::Kernel &k = *e.second;
        const ptx::Ins *i = (const ptx::Ins *) pc;
        if (i >= k.code.data() && i < k.code.data() + k.code.size()) {
            const ptx::Stmt *t = k.stmt[(size_t) (i - k.code.data())];
            s = t->file + ":" + std::to_string(t->line);
            return s.c_str();
        }
    }
    return nullptr;
}

}  // namespace simt
