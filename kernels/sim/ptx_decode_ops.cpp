/*
 * ptx_decode_ops.cpp: instructions -> Ins, a method for each kind. Each
 * checks all parts of the opcode and the number of its operands.
 */

#include <cctype>
#include <cstdlib>

#include "ptx_decode.h"

namespace simt {
namespace ptx {

/* ---- memory ---- */

/* The state space, when all parts but the first and the type are known. */
Space Decoder::space_of(const std::set<std::string> &also)
{
    static const std::map<std::string, Space> spaces = {
        {"global", S_GLOBAL}, {"const", S_GLOBAL}, {"shared", S_SHARED},
        {"shared::cta", S_SHARED}, {"local", S_LOCAL}, {"param", S_PARAM},
        {"param::entry", S_PARAM}, {"param::func", S_PARAM}};
    static const std::set<std::string> hints = {"weak", "volatile",
        "relaxed", "acquire", "release", "acq_rel", "cta", "gpu", "sys",
        "nc", "ca", "cg", "cs", "lu", "cv", "wb", "wt", "v2", "v4"};
    Space space = S_GENERIC;

    for (size_t n = 1; n + 1 < op_.part.size(); n++) {
        const std::string &p = op_.part[n];
        auto it = spaces.find(p);
        if (it != spaces.end())
            space = it->second;
        else
            need(hints.count(p) || also.count(p)
                || p.compare(0, 4, "L1::") == 0
                || p.compare(0, 4, "L2::") == 0);
    }
    return space;
}

void Decoder::load()
{
    Ins i;
    const std::string &type = op_.part.back();

    args(2, 3);
    i.space = space_of({});
    Strings v = elements(a_[0]);
    i.n = (u8) v.size();
    need(v.size() == (has("v4") ? 4u : has("v2") ? 2u : 1u));
    bool wide = false;
    for (size_t n = 0; n < v.size(); n++) {
        Sym *y = find(v[n]);
        wide |= y && y->what == Sym::ROW && y->size == 8;
    }
    for (size_t n = 0; n < v.size(); n++)
        i.d[n] = dest(v[n], wide ? 8 : 4);
    i.size = (u8) type_size(type);
    i.fn = find_load(type, wide);
    need(i.fn);
    i.sync = has("acquire") || has("relaxed");
    address(a_[1], i.s[0], i.wide, i.off, &i.space);
    emit(i);
}

void Decoder::store()
{
    Ins i;

    args(2, 3);
    i.space = space_of({});
    i.size = (u8) type_size(op_.part.back());
    need(i.size);
    Strings v = elements(a_[1]);
    need(v.size() == (has("v4") ? 4u : has("v2") ? 2u : 1u));
    i.n = (u8) v.size();
    i.sync = has("release") || has("relaxed");
    for (size_t n = 0; n < v.size(); n++)
        i.s[1 + n] = source(v[n], i.size == 8 ? 8 : 4);
    address(a_[0], i.s[0], i.wide, i.off, &i.space);
    i.fn = run_store;
    emit(i);
}

void Decoder::atomic()
{
    static const std::set<std::string> ops = {"add", "min", "max", "and",
        "or", "xor", "exch", "cas", "inc", "dec"};
    bool result = op_.part[0] == "atom";
    std::string name;
    Ins i;

    args(2, 4);
    for (auto &p : op_.part)
        if (ops.count(p))
            name = p;
    i.space = space_of(ops);
    need(atom_decode(name, op_.part.back(), i)
        && a_.size() == (result ? 3u : 2u) + (name == "cas"));
    u32 size = i.size == 8 ? 8 : 4;
    if (result)
        i.d[0] = dest(a_[0], size);
    i.s[1] = source(a_[result + 1], size);
    if (name == "cas")
        i.s[2] = source(a_[result + 2], size);
    address(a_[result], i.s[0], i.wide, i.off, nullptr);
    emit(i);
}

void Decoder::copy_async()
{
    Ins i;

    need(op_.part.size() > 2 && op_.part[1] == "async");
    if (op_.full == "cp.async.commit_group") {
        i.fn = run_cp_commit;
    } else if (op_.full == "cp.async.wait_all") {
        i.fn = run_cp_wait;
    } else if (op_.full == "cp.async.wait_group") {
        args(1, 1);
        i.fn = run_cp_wait;
        i.target = (s32) number(a_[0]);
    } else if (op_.full == "cp.async.bulk.prefetch.L2.global") {
        bool wide;

        args(2, 2);
        address(a_[0], i.s[0], wide, i.off, nullptr);
        source(a_[1], 4);
        i.fn = run_nothing;
    } else {
        args(3, 4);
        need((op_.part[2] == "ca" || op_.part[2] == "cg") && has("global"));
        bool any;
        Space space = S_SHARED;
        for (size_t n = 3; n < op_.part.size(); n++)
            need(op_.part[n] == "shared" || op_.part[n] == "shared::cta"
                || op_.part[n] == "global"
                || op_.part[n].compare(0, 4, "L2::") == 0);
        address(a_[0], i.s[0], i.wide, i.off, &space);
        address(a_[1], i.s[1], any, i.off2, nullptr);
        i.size = (u8) number(a_[2]);
        need(any && (i.size == 16 || (op_.part[2] == "ca"
            && (i.size == 4 || i.size == 8))));
        if (a_.size() > 3)
            i.s[2] = source(a_[3], 4);
        i.fn = run_cp_async;
    }
    emit(i);
}

/* ---- moves, arithmetic ---- */

void Decoder::move()
{
    Ins i;
    u32 size = type_size(op_.part.back());

    args(2, 2);
    if (op_.full == "mov.pred") {
        pred_or_alu();
        return;
    }
    need(op_.part.size() == 2 && size);
    bool from = a_[1][0] == '{', to = a_[0][0] == '{';
    if (!from && !to) {
        alu();
        return;
    }
    Strings v = elements(a_[from]);
    need(from != to && v.size() <= 4 && size % v.size() == 0);
    i.n = (u8) v.size();
    i.size = (u8) (size / v.size());
    u32 whole = size == 8 ? 8 : 4;
    for (size_t n = 0; n < v.size(); n++)
        (from ? i.s[n] : i.d[n]) = from ? source(v[n], 4) : dest(v[n], 4);
    if (from)
        i.d[0] = dest(a_[0], whole);
    else
        i.s[0] = source(a_[1], whole);
    i.fn = from ? run_pack : run_unpack;
    emit(i);
}

/* cvta[.to].space.u64: a window's base is added or taken away. */
void Decoder::to_address()
{
    Ins i;
    bool to = has("to");
    Space space = space_of({"to"});
    u64 base = space == S_SHARED ? SHARED_WINDOW : space == S_LOCAL
        ? LOCAL_WINDOW : space == S_PARAM ? PARAM_WINDOW : 0;

    args(2, 2);
    need(op_.part.back() == "u64");
    i.fn = find_alu("add.u64")->fn;
    i.s[0] = source(a_[1], 8);
    i.s[1] = constant(to ? 0 - base : base, 8);
    i.d[0] = dest(a_[0], 8);
    emit(i);
}

void Decoder::compare()
{
    Ins i;
    u32 size;
    bool combine;
    std::string first;

    need(setp_decode(op_, i, size, combine));
    args(combine ? 4 : 3, combine ? 4 : 3);
    two_results(a_[0], first, i);
    if (first != "_")
        i.d[0] = predicate(first, nullptr);
    i.s[0] = source(a_[1], size);
    i.s[1] = source(a_[2], size);
    if (combine)
        i.s[2] = predicate(a_[3], &i.inv);
    emit(i);
}

void Decoder::select()
{
    Ins i;
    u32 bytes = type_size(op_.part.back()), size = bytes == 8 ? 8 : 4;

    args(4, 4);
    need(op_.part.size() == 2 && bytes);
    i.fn = size == 8 ? run_select64 : run_select32;
    i.s[0] = source(a_[1], size);
    i.s[1] = source(a_[2], size);
    i.s[2] = predicate(a_[3], nullptr);
    i.d[0] = dest(a_[0], size);
    emit(i);
}

void Decoder::convert()
{
    Ins i;
    std::string sig;

    need(cvt_decode(op_, i, sig));
    args(sig.size(), sig.size());
    for (size_t n = 1; n < sig.size(); n++)
        i.s[n - 1] = source(a_[n], sig[n] == 'd' ? 8 : 4);
    Sym *y = find(a_[0]);
    if (sig[0] == 'w' && y && y->what == Sym::ROW && y->size == 8) {
        /* a narrow result in a 64-bit register */
        bool is_signed = op_.part[op_.part.size() - 2][0] == 's';
        i.d[0] = new_row(4);
        emit(i);
        Ins x;
        x.fn = is_signed ? run_widen_signed : run_widen;
        x.s[0] = i.d[0];
        x.d[0] = y->id;
        emit(x);
        return;
    }
    i.d[0] = dest(a_[0], sig[0] == 'd' ? 8 : 4);
    emit(i);
}

void Decoder::pred_or_alu()
{
    Ins i;

    if (op_.full != op_.part[0] + ".pred") {
        alu();
        return;
    }
    i.op = (u8) op_.part[0][0];
    args(op_.part[0] == "mov" || op_.part[0] == "not" ? 2 : 3, 3);
    if (i.op == 'm' && !find(a_[1]))
        i.op = number(a_[1]) ? '1' : '0';
    else
        i.s[0] = predicate(a_[1], nullptr);
    if (a_.size() > 2)
        i.s[1] = predicate(a_[2], nullptr);
    i.d[0] = predicate(a_[0], nullptr);
    i.fn = run_pred_logic;
    emit(i);
}

void Decoder::alu()
{
    Ins i;
    const Alu *alu = find_alu(op_.full);

    need(alu);
    size_t n = strlen(alu->sig);
    args(n, n);
    for (size_t x = 1; x < n; x++)
        i.s[x - 1] = source(a_[x], alu->sig[x] == 'd' ? 8 : 4);
    i.d[0] = dest(a_[0], alu->sig[0] == 'd' ? 8 : 4);
    i.fn = alu->fn;
    emit(i);
}

/* ---- control ---- */

void Decoder::branch()
{
    Ins i;

    need(op_.full == "bra" || op_.full == "bra.uni");
    args(1, 1);
    i.kind = K_BRANCH;
    f_->jumps.push_back({k_.code.size(), a_[0]});
    emit(i);
}

void Decoder::table_branch()
{
    Ins i;

    need(op_.full == "brx.idx" || op_.full == "brx.idx.uni");
    args(2, 2);
    i.kind = K_TABLE;
    i.s[0] = source(a_[0], 4);
    auto it = f_->tables.find(a_[1]);
    need(it != f_->tables.end());
    i.target = it->second;
    emit(i);
}

void Decoder::leave()
{
    Ins i;
    bool inner = op_.part[0] == "ret" && !f_->entry;

    args(0, 0);
    i.kind = inner ? K_BRANCH : K_EXIT;
    if (inner)
        f_->returns.push_back(k_.code.size());
    emit(i);
}

/* call (results), name, (params): the body in its place. */
void Decoder::call()
{
    Frame f;
    Frame *outer = f_;
    size_t name = a_.empty() || a_[0][0] != '(' ? 0 : 1;
    auto names = [](const std::string &s) {
        return split(s.substr(1, s.size() - 2));
    };

    need(op_.full == "call" || op_.full == "call.uni");
    args(name + 1, name + 2);
    auto it = k_.module->funcs.find(a_[name]);
    if (it == k_.module->funcs.end())
        fail("call of a function without a body");
    if (depth_ == 32)
        fail("calls too deep: recursion is not supported");
    f.func = &it->second;
    f.entry = false;
    f.scopes.resize(1);
    Strings out = name ? names(a_[0]) : Strings();
    Strings in = a_.size() > name + 1 ? names(a_[name + 1]) : Strings();
    need(out.size() == f.func->results.size()
        && in.size() == f.func->params.size());
    for (size_t n = 0; n < out.size() + in.size(); n++) {
        Sym *y = find(n < out.size() ? out[n] : in[n - out.size()]);
        need(y && y->what == Sym::CALL_PARAM);
        f.scopes[0][n < out.size() ? f.func->results[n].name
            : f.func->params[n - out.size()].name] = *y;
    }
    /* The call itself; a guarded one jumps over the body. */
    u16 guard = guard_;
    size_t at = k_.code.size();
    Ins i;
    guard_not_ = ~guard_not_;
    i.kind = guard == PRED ? K_PLAIN : K_BRANCH;
    i.fn = run_nothing;
    if (guard == PRED)
        guard_not_ = 0;
    emit(i);
    f_ = &f;
    depth_++;
    body();
    depth_--;
    f_ = outer;
    if (guard != PRED)
        k_.code[at].target = (s32) k_.code.size();
}

void Decoder::barrier()
{
    Ins i;

    if (op_.full == "bar.warp.sync") {
        args(1, 1);
        i.kind = K_COLLECTIVE;
        i.fn = run_warp_sync;
        i.s[MEMBERS] = source(a_[0], 4);
        emit(i);
        return;
    }
    bool red = has("red");
    for (size_t n = 1; n < op_.part.size(); n++)
        need(op_.part[n] == "sync" || op_.part[n] == "cta"
            || op_.part[n] == "aligned" || (red && (op_.part[n] == "red"
            || op_.part[n] == "popc" || op_.part[n] == "and"
            || op_.part[n] == "or" || op_.part[n] == "u32"
            || op_.part[n] == "pred")));
    args(red ? 3 : 1, red ? 3 : 1);
    if (a_[red] != "0")
        fail("named barriers are not supported");
    i.kind = K_BARRIER;
    if (red) {
        i.op = has("popc") ? 'p' : has("and") ? 'a' : 'o';
        i.d[0] = i.op == 'p' ? dest(a_[0], 4) : predicate(a_[0], nullptr);
        i.s[0] = predicate(a_[2], &i.inv);
    }
    emit(i);
}

void Decoder::fence()
{
    static const std::set<std::string> device = {"membar.gl", "membar.sys",
        "fence.acq_rel.gpu", "fence.acq_rel.sys", "fence.sc.gpu",
        "fence.sc.sys", "fence.acquire.gpu", "fence.release.gpu",
        "fence.gpu", "fence.sys"};
    static const std::set<std::string> block = {"membar.cta",
        "fence.acq_rel.cta", "fence.sc.cta", "fence.cta"};
    Ins i;

    need(device.count(op_.full) || block.count(op_.full));
    i.fn = device.count(op_.full) ? run_fence : run_nothing;
    emit(i);
}

void Decoder::grid()
{
    Ins i;

    i.fn = op_.full == "griddepcontrol.wait" ? run_grid_wait
        : op_.full == "griddepcontrol.launch_dependents"
        ? run_grid_dependents : nullptr;
    need(i.fn);
    emit(i);
}

void Decoder::sleep()
{
    Ins i;

    need(op_.full == "nanosleep.u32");
    args(1, 1);
    source(a_[0], 4);
    i.kind = K_YIELD;
    emit(i);
}

void Decoder::trap()
{
    Ins i;

    i.fn = run_trap;
    emit(i);
}

/* Prefetches: no result. */
void Decoder::nothing()
{
    Ins i;

    i.fn = run_nothing;
    emit(i);
}

/* ---- warps ---- */

void Decoder::shuffle()
{
    static const std::map<std::string, u8> modes = {
        {"up", 0}, {"down", 1}, {"bfly", 2}, {"idx", 3}};
    Ins i;
    std::string first;

    need(op_.part.size() == 4 && op_.part[1] == "sync"
        && modes.count(op_.part[2]) && op_.part[3] == "b32");
    args(5, 5);
    two_results(a_[0], first, i);
    i.op = modes.at(op_.part[2]);
    for (int n = 0; n < 3; n++)
        i.s[n] = source(a_[1 + n], 4);
    i.s[MEMBERS] = source(a_[4], 4);
    i.d[0] = dest(first, 4);
    i.kind = K_COLLECTIVE;
    i.fn = run_shfl;
    emit(i);
}

void Decoder::vote()
{
    static const std::map<std::string, u8> kinds = {
        {"vote.sync.ballot.b32", 'b'}, {"vote.sync.all.pred", 'a'},
        {"vote.sync.any.pred", 'o'}, {"vote.sync.uni.pred", 'u'}};
    Ins i;

    need(kinds.count(op_.full));
    args(3, 3);
    i.op = kinds.at(op_.full);
    i.d[0] = i.op == 'b' ? dest(a_[0], 4) : predicate(a_[0], nullptr);
    i.s[0] = predicate(a_[1], &i.inv);
    i.s[MEMBERS] = source(a_[2], 4);
    i.kind = K_COLLECTIVE;
    i.fn = run_vote;
    emit(i);
}

void Decoder::match()
{
    Ins i;
    std::string first;

    need(op_.part.size() == 4 && op_.part[2] == "sync");
    args(3, 3);
    two_results(a_[0], first, i);
    i.op = op_.part[1] == "all" ? 'l' : 'a';
    i.size = (u8) type_size(op_.part[3]);
    need(i.size >= 4);
    i.s[0] = source(a_[1], i.size);
    i.s[MEMBERS] = source(a_[2], 4);
    i.d[0] = dest(first, 4);
    i.kind = K_COLLECTIVE;
    i.fn = run_match;
    emit(i);
}

void Decoder::reduce()
{
    Ins i;

    need(redux_decode(op_, i));
    args(3, 3);
    i.s[0] = source(a_[1], 4);
    i.s[MEMBERS] = source(a_[2], 4);
    i.d[0] = dest(a_[0], 4);
    i.kind = K_COLLECTIVE;
    emit(i);
}

void Decoder::active()
{
    Ins i;

    need(op_.full == "activemask.b32");
    args(1, 1);
    i.d[0] = dest(a_[0], 4);
    i.fn = run_active;
    emit(i);
}

void Decoder::matrix()
{
    Ins i;
    int n[3];
    size_t at = 0;

    need(mma_decode(op_, i, n));
    args(4, 4);
    Strings d = elements(a_[0]);
    need(d.size() == 4);
    for (size_t x = 0; x < 4; x++)
        i.d[x] = dest(d[x], 4);
    for (int part = 0; part < 3; part++) {
        Strings v = elements(a_[1 + part]);
        need((int) v.size() == n[part]);
        for (auto &s : v)
            i.s[at++] = source(s, 4);
    }
    i.kind = K_COLLECTIVE;
    i.full = true;
    emit(i);
}

void Decoder::load_matrix()
{
    Ins i;
    Strings v = elements(a_[0]);
    size_t p = 4;

    args(2, 2);
    need(op_.full.compare(0, 26, "ldmatrix.sync.aligned.m8n8") == 0);
    need(op_.part.size() > 5);
    need(op_.part[p] == "x" + std::to_string(v.size()) && v.size() != 3);
    p++;
    if (op_.part[p] == "trans")
        i.trans = true, p++;
    need(p + 2 == op_.part.size() && op_.part[p + 1] == "b16"
        && (op_.part[p] == "shared" || op_.part[p] == "shared::cta"));
    i.n = (u8) v.size();
    for (size_t n = 0; n < v.size(); n++)
        i.d[n] = dest(v[n], 4);
    address(a_[1], i.s[0], i.wide, i.off, nullptr);
    i.kind = K_COLLECTIVE;
    i.full = true;
    i.fn = run_ldmatrix;
    emit(i);
}

}  // namespace ptx
}  // namespace simt
