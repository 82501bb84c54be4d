/*
 * ptx_rows.cpp: where registers lie in a warp's file. PTX has a new register
 * for nearly every instruction; those that are never live at the same place
 * share a row, so that a warp's file stays in the cache.
 *
 * Liveness is that of one thread. It holds for a warp, too, although its
 * lanes are at different places: a lane only writes while it is active, so
 * in each lane a row has the value of the one register that is live there.
 * A guarded write does not end the life of what the register held before.
 *
 * Positions: an instruction at pc reads at 2 pc and writes at 2 pc + 1.
 */

#include <queue>

#include "ptx_int.h"

namespace simt {
namespace ptx {

typedef std::vector<u64> Bits;

static bool test(const Bits &b, u16 r) { return b[r / 64] >> r % 64 & 1; }
static void add(Bits &b, u16 r) { b[r / 64] |= 1ull << r % 64; }

/* Instructions first .. last, without a jump into or out of their middle. */
struct Segment {
    s32 first, last;
    std::vector<u32> next;
    Bits reads, writes;           /* read before written; surely written */
    Bits live_in, live_out;
};

static bool is_row(u16 r) { return r != NONE && !(r & PRED); }

static std::vector<s32> targets(const Kernel &k, s32 pc)
{
    const Ins &i = k.code[(size_t) pc];
    std::vector<s32> t;

    if (i.kind == K_TABLE)
        t = k.tables[(size_t) i.target];
    else if (i.kind == K_BRANCH)
        t.push_back(i.target);
    bool jumps = i.kind == K_TABLE || i.kind == K_BRANCH || i.kind == K_EXIT;
    if ((!jumps || i.guard != PRED) && pc + 1 < (s32) k.code.size())
        t.push_back(pc + 1);
    return t;
}

static std::vector<Segment> segments(const Kernel &k)
{
    size_t n = k.code.size(), words = k.sizes.size() / 64 + 1;
    std::vector<char> first(n + 1);
    std::vector<u32> of(n);
    std::vector<Segment> out;

    first[0] = 1;
    for (size_t pc = 0; pc < n; pc++) {
        Kind kind = k.code[pc].kind;
        if (kind != K_BRANCH && kind != K_TABLE && kind != K_EXIT)
            continue;
        first[pc + 1] = 1;
        for (s32 t : targets(k, (s32) pc))
            first[(size_t) t] = 1;
    }
    for (size_t pc = 0; pc < n; pc++) {
        if (first[pc]) {
            out.emplace_back();
            out.back().first = (s32) pc;
            for (Bits *b : {&out.back().reads, &out.back().writes,
                &out.back().live_in, &out.back().live_out})
                b->resize(words);
        }
        Segment &s = out.back();
        const Ins &i = k.code[pc];
        s.last = (s32) pc;
        of[pc] = (u32) out.size() - 1;
        for (u16 r : i.s)
            if (is_row(r) && !test(s.writes, r))
                add(s.reads, r);
        for (u16 r : i.d)
            if (is_row(r) && i.guard == PRED)
                add(s.writes, r);
    }
    for (auto &s : out)
        for (s32 t : targets(k, s.last))
            s.next.push_back(of[(size_t) t]);
    return out;
}

static void solve(std::vector<Segment> &seg)
{
    for (bool again = true; again;) {
        again = false;
        for (size_t n = seg.size(); n-- > 0;) {
            Segment &s = seg[n];
            for (u32 t : s.next)
                for (size_t w = 0; w < s.live_out.size(); w++)
                    s.live_out[w] |= seg[t].live_in[w];
            for (size_t w = 0; w < s.live_in.size(); w++) {
                u64 in = s.reads[w] | (s.live_out[w] & ~s.writes[w]);
                again |= in != s.live_in[w];
                s.live_in[w] = in;
            }
        }
    }
}

struct Life { s32 from = INT32_MAX, to = -1; };

static std::vector<Life> lives(const Kernel &k)
{
    std::vector<Life> life(k.sizes.size());
    std::vector<Segment> seg = segments(k);
    auto at = [&](u16 r, s32 position) {
        life[r].from = std::min(life[r].from, position);
        life[r].to = std::max(life[r].to, position);
    };

    solve(seg);
    for (auto &s : seg) {
        for (u16 r = 0; r < k.sizes.size(); r++) {
            if (test(s.live_in, r))
                at(r, 2 * s.first);
            if (test(s.live_out, r))
                at(r, 2 * s.last + 1);
        }
    }
    for (s32 pc = 0; pc < (s32) k.code.size(); pc++) {
        for (u16 r : k.code[(size_t) pc].s)
            if (is_row(r))
                at(r, 2 * pc);
        for (u16 r : k.code[(size_t) pc].d)
            if (is_row(r))
                at(r, 2 * pc + 1);
    }
    for (auto &f : k.fixed)
        life[f.row] = {-1, INT32_MAX};
    for (auto &s : k.special)
        life[s.row] = {-1, INT32_MAX};
    return life;
}

void assign_rows(Kernel &k)
{
    typedef std::pair<s32, u16> End;      /* of a life, its register */
    std::vector<Life> life = lives(k);
    std::vector<u16> order, unit(k.sizes.size(), NONE);
    std::vector<u16> spare[2];            /* units for 4, 8 bytes a lane */
    std::priority_queue<End, std::vector<End>, std::greater<End>> active;

    for (u16 r = 0; r < k.sizes.size(); r++)
        if (life[r].to >= 0)
            order.push_back(r);
    std::stable_sort(order.begin(), order.end(), [&](u16 a, u16 b) {
        return life[a].from < life[b].from;
    });
    for (u16 r : order) {
        while (!active.empty() && active.top().first < life[r].from) {
            u16 dead = active.top().second;
            spare[k.sizes[dead] == 8].push_back(unit[dead]);
            active.pop();
        }
        std::vector<u16> &from = spare[k.sizes[r] == 8];
        if (from.empty()) {
            unit[r] = (u16) k.units;
            k.units += k.sizes[r] / 4;
            if (k.units >= NONE)
                unknown(k.name.c_str(), nullptr, "too many registers");
        } else {
            unit[r] = from.back();
            from.pop_back();
        }
        active.push({life[r].to, r});
    }
    auto move = [&](u16 &r) {
        if (is_row(r))
            r = unit[r];
    };
    for (auto &i : k.code) {
        for (u16 &r : i.d)
            move(r);
        for (u16 &r : i.s)
            move(r);
    }
    for (auto &f : k.fixed)
        move(f.row);
    for (auto &s : k.special)
        move(s.row);
}

}  // namespace ptx
}  // namespace simt
