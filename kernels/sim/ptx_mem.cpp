/*
 * ptx_mem.cpp: ld, st, atom, red, cp.async. Every access of every lane is
 * checked for alignment and for the exact bounds of its allocation, and told
 * to the checker, if one is linked, with the width that it has in PTX.
 *
 * cp.async: the bytes land when the thread waits for them. Until then the
 * destination is poisoned, so that a missing wait gives a wrong result.
 */

#include "fiber.h"
#include "ptx_int.h"

namespace simt {
namespace ptx {

void addresses(Warp &w, u16 base, bool wide, s64 off, u64 *a)
{
    const u32 *r = base == NONE ? nullptr : w.row(base);

    for (int l = 0; l < LANES; l++)
        a[l] = (!r ? 0 : wide ? get<u64>(r, l) : r[l]) + (u64) off;
}

static bool in_window(u64 a, u64 window)
{
    return a >= window && a < window + WINDOW_BYTES;
}

/* A host pointer: in an allocation, or in a variable of the module. */
static char *global_at(Warp &w, const Ins &i, int lane, u64 a, u32 bytes,
    u8 how, bool &variable)
{
    Block &b = *w.block;
    char *p = (char *) a;
    size_t size;

    if (p >= b.lo && p + bytes <= b.hi)
        return p;
    for (auto &g : b.k->module->globals) {
        const char *base = g.bytes.data();
        if (p >= base && p + bytes <= base + g.bytes.size()) {
            variable = true;
            return p;
        }
    }
    const char *base = find_alloc(p, size);
    if (!base || p + bytes > base + size)
        fault(w, i, lane, how & WRITE ? "global store out of bounds"
            : "global load out of bounds");
    b.lo = base;
    b.hi = base + size;
    return p;
}

static char *lane_at(Warp &w, const Ins &i, int lane, Space space, u64 a,
    u32 bytes, u8 how, bool &silent)
{
    Block &b = *w.block;

    if ((bytes & (bytes - 1)) == 0 && (a & (bytes - 1)))
        fault(w, i, lane, "misaligned address");
    if (space == S_GENERIC) {
        space = in_window(a, SHARED_WINDOW) ? S_SHARED
            : in_window(a, LOCAL_WINDOW) ? S_LOCAL
            : in_window(a, PARAM_WINDOW) ? S_PARAM : S_GLOBAL;
        a -= space == S_SHARED ? SHARED_WINDOW : space == S_LOCAL
            ? LOCAL_WINDOW : space == S_PARAM ? PARAM_WINDOW : 0;
    }
    switch (space) {
    case S_SHARED:
        if (a + bytes > b.shared_bytes)
            fault(w, i, lane, "shared memory out of bounds");
        return b.shared + a;
    case S_LOCAL:
        silent = true;
        if (a + bytes > b.k->local)
            fault(w, i, lane, "local memory out of bounds");
        return &b.local_mem[((size_t) w.id * LANES + lane) * b.k->local + a];
    case S_PARAM:
        silent = true;
        if (a + bytes > b.k->param_bytes || (how & WRITE))
            fault(w, i, lane, "parameters out of bounds");
        return (char *) b.params + a;
    default:
        return global_at(w, i, lane, a, bytes, how, silent);
    }
}

void speak_for(Warp &w, int lane)
{
    const LaunchCfg &c = *w.block->cfg;
    unsigned t = w.id * LANES + lane;

    ptx_who.tid = t;
    ptx_who.bep = w.block->epoch;
    ptx_who.wep = w.epoch;
    ptx_who.waited = (w.waited >> lane & 1)
        || w.block->waited_epoch < w.block->epoch;
    threadIdx = {t % c.block.x, t / c.block.x % c.block.y,
        t / (c.block.x * c.block.y)};
}

void locate(Warp &w, const Ins &i, u32 mask, Space space, const u64 *a,
    u32 bytes, u8 how, char **p)
{
    bool checked = &check_reports != nullptr;

    for (u32 x = mask; x; x &= x - 1) {
        int l = __builtin_ctz(x);
        bool silent = false;
        p[l] = lane_at(w, i, l, space, a[l], bytes, how, silent);
        if (checked && !silent) {
            speak_for(w, l);
            touch(p[l], bytes, how & WRITE, how & ATOMIC, (void *) &i);
        }
    }
}

/* ---- ld, st ---- */

/* D: storage of the register, as wide as T or wider. */
template <class T, class D> static void load(Warp &w, const Ins &i, u32 mask)
{
    u64 a[LANES];
    char *p[LANES];

    addresses(w, i.s[0], i.wide, i.off, a);
    locate(w, i, mask, i.space, a, i.size * i.n, i.sync ? ATOMIC : READ, p);
    for (int k = 0; k < i.n; k++) {
        if (i.d[k] == NONE)
            continue;
        u32 *d = w.row(i.d[k]);
        for (u32 x = mask; x; x &= x - 1) {
            int l = __builtin_ctz(x);
            T v;
            memcpy(&v, p[l] + k * sizeof(T), sizeof(T));
            set<D>(d, l, (D) v);
        }
    }
}

Fn find_load(const std::string &type, bool wide)
{
    static const std::map<std::string, std::pair<Fn, Fn>> fn = {
        {"u8", {load<u8, u32>, load<u8, u64>}},
        {"s8", {load<s8, u32>, load<s8, u64>}},
        {"b8", {load<u8, u32>, load<u8, u64>}},
        {"u16", {load<u16, u32>, load<u16, u64>}},
        {"s16", {load<s16, u32>, load<s16, u64>}},
        {"b16", {load<u16, u32>, load<u16, u64>}},
        {"u32", {load<u32, u32>, load<u32, u64>}},
        {"s32", {load<s32, u32>, load<s32, u64>}},
        {"b32", {load<u32, u32>, load<u32, u64>}},
        {"f32", {load<u32, u32>, nullptr}},
        {"u64", {nullptr, load<u64, u64>}},
        {"s64", {nullptr, load<u64, u64>}},
        {"b64", {nullptr, load<u64, u64>}},
        {"f64", {nullptr, load<u64, u64>}}};
    auto it = fn.find(type);

    return it == fn.end() ? nullptr : wide ? it->second.second
        : it->second.first;
}

void run_store(Warp &w, const Ins &i, u32 mask)
{
    u64 a[LANES];
    char *p[LANES];
    int step = i.size == 8 ? 2 : 1;

    addresses(w, i.s[0], i.wide, i.off, a);
    locate(w, i, mask, i.space, a, i.size * i.n,
        i.sync ? WRITE | ATOMIC : WRITE, p);
    for (int k = 0; k < i.n; k++) {
        const u32 *s = w.row(i.s[1 + k]);
        for (u32 x = mask; x; x &= x - 1) {
            int l = __builtin_ctz(x);
            memcpy(p[l] + k * i.size, s + step * l, i.size);
        }
    }
}

/* ---- atom, red ---- */

template <class T> static T at_add(T o, T v, T) { return o + v; }
template <class T> static T at_min(T o, T v, T) { return o < v ? o : v; }
template <class T> static T at_max(T o, T v, T) { return o > v ? o : v; }
template <class T> static T at_and(T o, T v, T) { return o & v; }
template <class T> static T at_or(T o, T v, T) { return o | v; }
template <class T> static T at_xor(T o, T v, T) { return o ^ v; }
template <class T> static T at_exch(T, T v, T) { return v; }
template <class T> static T at_cas(T o, T c, T v) { return o == c ? v : o; }
template <class T> static T at_inc(T o, T v, T) { return o >= v ? 0 : o + 1; }
template <class T> static T at_dec(T o, T v, T)
{
    return o == 0 || o > v ? v : o - 1;
}

template <class T, T (*F)(T, T, T)>
static void atomic(Warp &w, const Ins &i, u32 mask)
{
    u64 a[LANES];
    char *p[LANES];

    addresses(w, i.s[0], i.wide, i.off, a);
    locate(w, i, mask, i.space, a, sizeof(T), WRITE | ATOMIC, p);
    for (u32 x = mask; x; x &= x - 1) {
        int l = __builtin_ctz(x);
        T old, b = get<T>(w.row(i.s[1]), l);
        T c = i.s[2] == NONE ? T(0) : get<T>(w.row(i.s[2]), l);
        memcpy(&old, p[l], sizeof(T));
        T now = F(old, b, c);
        memcpy(p[l], &now, sizeof(T));
        if (i.d[0] != NONE)
            set(w.row(i.d[0]), l, old);
    }
}

template <class T> static Fn integer_atomic(const std::string &op)
{
    static const std::map<std::string, Fn> fn = {
        {"add", atomic<T, at_add<T>>}, {"min", atomic<T, at_min<T>>},
        {"max", atomic<T, at_max<T>>}, {"and", atomic<T, at_and<T>>},
        {"or", atomic<T, at_or<T>>}, {"xor", atomic<T, at_xor<T>>},
        {"exch", atomic<T, at_exch<T>>}, {"cas", atomic<T, at_cas<T>>},
        {"inc", atomic<T, at_inc<T>>}, {"dec", atomic<T, at_dec<T>>}};
    auto it = fn.find(op);

    return it == fn.end() ? nullptr : it->second;
}

/* Integers only: sums of floats by atomics depend on the order of threads. */
bool atom_decode(const std::string &op, const std::string &type, Ins &i)
{
    i.fn = type == "u32" || type == "b32" ? integer_atomic<u32>(op)
        : type == "s32" ? integer_atomic<s32>(op)
        : type == "u64" || type == "b64" ? integer_atomic<u64>(op)
        : type == "s64" ? integer_atomic<s64>(op) : nullptr;
    i.size = (u8) type_size(type);
    return i.fn != nullptr;
}

/* ---- cp.async ---- */

/* [s0 + off] shared <- [s1 + off2] global, size bytes, of which the first
 * s2 are read and the others become 0. */
void run_cp_async(Warp &w, const Ins &i, u32 mask)
{
    u64 dst[LANES], src[LANES];
    char *to[LANES], *from[LANES];

    addresses(w, i.s[0], i.wide, i.off, dst);
    addresses(w, i.s[1], true, i.off2, src);
    locate(w, i, mask, S_SHARED, dst, i.size, WRITE, to);
    for (u32 x = mask; x; x &= x - 1) {
        int l = __builtin_ctz(x);
        u32 valid = i.s[2] == NONE ? i.size : w.row(i.s[2])[l];
        if (valid > i.size)
            fault(w, i, l, "cp.async reads more than it writes");
        if (valid && src[l] & (i.size - 1u))
            fault(w, i, l, "misaligned source of cp.async");
        if (valid)
            locate(w, i, 1u << l, S_GLOBAL, src, valid, READ, from);
        memset(to[l], 0xff, i.size);
        if (hook_issue) {
            speak_for(w, l);
            hook_issue(to[l], i.size);
        }
        w.open[l].push_back({to[l], valid ? from[l] : nullptr, i.size,
            valid});
    }
}

void run_cp_commit(Warp &w, const Ins &, u32 mask)
{
    for (; mask; mask &= mask - 1) {
        int l = __builtin_ctz(mask);
        w.committed[l].push_back(std::move(w.open[l]));
        w.open[l].clear();
    }
}

static void land(std::vector<Copy> &copies)
{
    for (auto &c : copies) {
        memset(c.dst, 0, c.size);
        if (c.valid)
            memcpy(c.dst, c.src, c.valid);
        if (hook_landed)
            hook_landed(c.dst, c.size);
    }
    copies.clear();
}

/* All but the last n groups; n < 0 (.wait_all): what is open, too. */
void run_cp_wait(Warp &w, const Ins &i, u32 mask)
{
    size_t keep = i.target < 0 ? 0 : (size_t) i.target;

    for (; mask; mask &= mask - 1) {
        int l = __builtin_ctz(mask);
        speak_for(w, l);
        while (w.committed[l].size() > keep) {
            land(w.committed[l].front());
            w.committed[l].pop_front();
        }
        if (i.target < 0)
            land(w.open[l]);
    }
}

}  // namespace ptx
}  // namespace simt
