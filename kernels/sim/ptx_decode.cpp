/*
 * ptx_decode.cpp: statements of a kernel -> Ins. Names are resolved by scope,
 * calls are inlined (their parameters become local memory), labels become
 * positions. What is not understood to the last modifier ends the process.
 */

#include <cstdio>
#include <cstdlib>
#include <set>

#include "ptx_int.h"

namespace simt {
namespace ptx {

void unknown(const char *where, const Stmt *s, const char *why)
{
    fprintf(stderr, "ptx: %s: %s\n", where, why);
    if (s)
        fprintf(stderr, "  %s:%d: %s   (PTX line %d)\n", s->file.c_str(),
            s->line, s->text.c_str(), s->at);
    fflush(nullptr);
    _Exit(98);
}

static const char *const special_names[] = {"%tid.x", "%tid.y", "%tid.z",
    "%ntid.x", "%ntid.y", "%ntid.z", "%ctaid.x", "%ctaid.y", "%ctaid.z",
    "%nctaid.x", "%nctaid.y", "%nctaid.z", "%laneid", "%warpid",
    "%lanemask_lt", "%lanemask_le", "%lanemask_gt", "%lanemask_ge",
    "%lanemask_eq"};

typedef std::vector<std::string> Strings;

struct Sym {
    enum What { ROW, PREDICATE, VALUE, DYNAMIC, KERNEL_PARAM, CALL_PARAM }
        what;
    u16 id;                       /* ROW: virtual register, PREDICATE */
    u32 size;                     /* ROW: 4 or 8 */
    u64 value;                    /* an address in its space */
};

typedef std::map<std::string, Sym> Scope;

/* One function on its way into the kernel, or one copy of it. */
struct Frame {
    const Func *func;
    bool entry;
    std::vector<Scope> scopes;
    std::string last_label;
    std::map<std::string, s32> labels, tables;
    std::vector<std::pair<size_t, std::string>> jumps;
    std::vector<std::pair<s32, Strings>> targets;      /* of tables */
    std::vector<size_t> returns;
};

class Decoder {
public:
    explicit Decoder(Kernel &k) : k_(k) {}
    void run();

private:
    typedef void (Decoder::*Method)();
    static const std::map<std::string, Method> &methods();

    [[noreturn]] void fail(const char *why)
    {
        unknown(k_.name.c_str(), stmt_, why);
    }
    void need(bool ok) { if (!ok) fail("unknown instruction"); }
    void args(size_t least, size_t most)
    {
        if (a_.size() < least || a_.size() > most)
            fail("unknown number of operands");
    }

    void body();
    void finish(Frame &f);
    void directive();
    void registers(const std::string &s);
    void shared(const std::string &s);
    void local(const std::string &s, Sym::What what);
    void op();

    Sym *find(const std::string &name);
    u16 new_row(u32 size);
    u16 constant(u64 value, u32 size);
    u16 special(const std::string &name);
    u16 source(const std::string &s, u32 size);
    s64 number(const std::string &s);
    u16 dest(const std::string &s, u32 size);
    u16 predicate(const std::string &s, bool *inv);
    void address(const std::string &s, u16 &base, bool &wide, s64 &off,
        Space *space);
    Strings elements(const std::string &s);
    void two_results(const std::string &s, std::string &first, Ins &i);
    Ins &emit(const Ins &i);
    bool has(const char *part) const;
    Space space_of(const std::set<std::string> &also);

    void load();
    void store();
    void atomic();
    void move();
    void to_address();
    void compare();
    void select();
    void convert();
    void pred_or_alu();
    void alu();
    void branch();
    void table_branch();
    void leave();
    void call();
    void barrier();
    void shuffle();
    void vote();
    void match();
    void reduce();
    void active();
    void matrix();
    void load_matrix();
    void copy_async();
    void fence();
    void grid();
    void sleep();
    void trap();
    void nothing();

    Kernel &k_;
    Frame *f_ = nullptr;
    int depth_ = 0;
    const Stmt *stmt_ = nullptr;
    Op op_;
    Strings a_;                   /* operands */
    u16 guard_ = PRED;
    u32 guard_not_ = 0;
    std::map<std::pair<u64, u32>, u16> constants_;
    std::map<std::string, u16> specials_;
    std::map<std::string, Sym> module_shared_;
    std::vector<size_t> dynamic_; /* of Kernel::fixed */
};

/* ---- names ---- */

Sym *Decoder::find(const std::string &name)
{
    for (size_t n = f_->scopes.size(); n-- > 0;) {
        auto it = f_->scopes[n].find(name);
        if (it != f_->scopes[n].end())
            return &it->second;
    }
    auto it = module_shared_.find(name);
    if (it != module_shared_.end())
        return &it->second;
    for (auto &g : k_.module->globals) {
        if (g.name == name)
            return &(module_shared_[name] =
                {Sym::VALUE, 0, 0, (u64) g.bytes.data()});
    }
    for (auto &s : k_.module->shared) {
        std::string n;
        s64 bytes;
        u32 align;
        declaration(s, n, bytes, align);
        if (n == name) {
            shared(s);
            return find(name);
        }
    }
    return nullptr;
}

u16 Decoder::new_row(u32 size)
{
    if (k_.sizes.size() >= NONE)
        fail("too many registers");
    k_.sizes.push_back((u8) size);
    return (u16) (k_.sizes.size() - 1);
}

u16 Decoder::constant(u64 value, u32 size)
{
    auto key = std::make_pair(size == 4 ? value & 0xffffffffu : value, size);
    auto it = constants_.find(key);

    if (it != constants_.end())
        return it->second;
    u16 row = new_row(size);
    k_.fixed.push_back({row, (u8) size, key.first});
    return constants_[key] = row;
}

u16 Decoder::special(const std::string &name)
{
    auto it = specials_.find(name);

    if (it != specials_.end())
        return it->second;
    for (u8 n = 0; n < sizeof(special_names) / sizeof(*special_names); n++) {
        if (name == special_names[n]) {
            u16 row = new_row(4);
            k_.special.push_back({row, n});
            return specials_[name] = row;
        }
    }
    fail("unknown register");
}

/* A row that holds the operand in 4 or 8 bytes a lane. */
u16 Decoder::source(const std::string &s, u32 size)
{
    Sym *y = find(s);

    if (y && y->what == Sym::ROW) {
        if (y->size == size)
            return y->id;
        Ins i;
        i.fn = size == 4 ? run_narrow : run_widen;
        i.s[0] = y->id;
        i.d[0] = new_row(size);
        return emit(i).d[0];
    }
    if (y && y->what == Sym::DYNAMIC) {
        u16 row = new_row(size);
        dynamic_.push_back(k_.fixed.size());
        k_.fixed.push_back({row, (u8) size, y->value});
        return row;
    }
    if (y && y->what != Sym::PREDICATE)
        return constant(y->value, size);
    if (s[0] == '%')
        return special(s);
    if (s == "WARP_SZ")
        return constant(LANES, size);
    bool real = s.size() > 2 && s[0] == '0' && strchr("fFdD", s[1]);
    return constant(real ? strtoull(&s[2], nullptr, 16) : (u64) number(s),
        size);
}

/* An integer literal and nothing else. */
s64 Decoder::number(const std::string &s)
{
    char *rest;
    u64 v = s[0] == '-' ? (u64) strtoll(s.c_str(), &rest, 0)
        : strtoull(s.c_str(), &rest, 0);

    if (rest == s.c_str() || (*rest && strcmp(rest, "U") != 0))
        fail("unknown operand");
    return (s64) v;
}

u16 Decoder::dest(const std::string &s, u32 size)
{
    if (s == "_")
        return NONE;
    Sym *y = find(s);
    if (!y || y->what != Sym::ROW || y->size != size)
        fail("result is no register of the instruction's width");
    return y->id;
}

u16 Decoder::predicate(const std::string &s, bool *inv)
{
    bool minus = s[0] == '!';
    Sym *y = find(minus ? s.substr(1) : s);

    if (!y || y->what != Sym::PREDICATE || (minus && !inv))
        fail("no predicate where one is needed");
    if (inv)
        *inv = minus;
    return y->id;
}

/* "[base+offset]" */
void Decoder::address(const std::string &s, u16 &base, bool &wide, s64 &off,
    Space *space)
{
    if (s.size() < 3 || s[0] != '[' || s.back() != ']')
        fail("no address where one is needed");
    std::string in = s.substr(1, s.size() - 2);
    size_t plus = in.find_first_of("+-", 1);
    std::string name = trim(in.substr(0, plus));

    off = 0;
    if (plus != in.npos)
        off = number(in.substr(plus + (in[plus] == '+')));
    Sym *y = find(name);
    bool param = space && *space == S_PARAM;
    if (param && (!f_->entry || (y && y->what == Sym::CALL_PARAM)))
        *space = S_LOCAL;
    wide = y && y->what == Sym::ROW ? y->size == 8 : name[0] != '%';
    base = source(name, wide ? 8 : 4);
}

/* "{a, b}" or "a" */
Strings Decoder::elements(const std::string &s)
{
    if (s[0] != '{')
        return {s};
    return split(s.substr(1, s.size() - 2));
}

/* "d|p" */
void Decoder::two_results(const std::string &s, std::string &first, Ins &i)
{
    size_t bar = s.find('|');

    first = trim(s.substr(0, bar));
    if (bar != s.npos)
        i.d[1] = predicate(trim(s.substr(bar + 1)), nullptr);
}

bool Decoder::has(const char *part) const
{
    for (auto &p : op_.part)
        if (p == part)
            return true;
    return false;
}

Ins &Decoder::emit(const Ins &i)
{
    k_.code.push_back(i);
    k_.stmt.push_back(stmt_);
    k_.code.back().guard = guard_;
    k_.code.back().guard_not = guard_not_;
    return k_.code.back();
}

/* ---- declarations ---- */

/* .reg .b32 %r<12>;  .reg .pred p, q; */
void Decoder::registers(const std::string &s)
{
    std::string rest = trim(s.substr(4));
    size_t blank = rest.find_first_of(" \t");
    std::string type = rest.substr(1, blank - 1);
    u32 bytes = type_size(type);

    if (type != "pred" && !bytes)
        fail("unknown register type");
    auto add = [&](const std::string &name) {
        Sym y = {Sym::PREDICATE, 0, 0, 0};
        if (type == "pred") {
            y.id = (u16) (PRED | k_.preds++);
        } else {
            y.what = Sym::ROW;
            y.size = bytes == 8 ? 8 : 4;
            y.id = new_row(y.size);
        }
        f_->scopes.back()[name] = y;
    };
    for (auto &n : split(rest.substr(blank))) {
        size_t lt = n.find('<');
        int count = lt == n.npos ? 0 : atoi(&n[lt + 1]);
        if (lt == n.npos)
            add(n);
        for (int x = 0; x < count; x++)
            add(n.substr(0, lt) + std::to_string(x));
    }
}

void Decoder::shared(const std::string &s)
{
    std::string name;
    s64 bytes;
    u32 align;

    declaration(s, name, bytes, align);
    if (bytes < 0) {
        module_shared_[name] = {Sym::DYNAMIC, 0, 0, 0};
        return;
    }
    k_.shared = (k_.shared + align - 1) / align * align;
    module_shared_[name] = {Sym::VALUE, 0, 0, k_.shared};
    k_.shared += (u32) bytes;
}

void Decoder::local(const std::string &s, Sym::What what)
{
    std::string name;
    s64 bytes;
    u32 align;

    declaration(s, name, bytes, align);
    k_.local = (k_.local + 15) / 16 * 16;
    f_->scopes.back()[name] = {what, 0, 0, k_.local};
    k_.local += (u32) bytes;
}

void Decoder::directive()
{
    const std::string &s = stmt_->text;
    std::string word = s.substr(0, s.find_first_of(" .\t", 1));

    if (word == ".reg") {
        registers(s);
    } else if (word == ".shared") {
        shared(s);
    } else if (word == ".local") {
        local(s, Sym::VALUE);
    } else if (word == ".param") {
        local(s, Sym::CALL_PARAM);
    } else if (word == ".branchtargets") {
        s32 n = (s32) k_.tables.size();
        k_.tables.push_back({});
        f_->tables[f_->last_label] = n;
        f_->targets.push_back({n, split(s.substr(word.size()))});
    } else {
        fail("unknown directive");
    }
}

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

/* ---- all of it ---- */

const std::map<std::string, Decoder::Method> &Decoder::methods()
{
    typedef Decoder D;
    static const std::map<std::string, Method> m = {
        {"ld", &D::load}, {"st", &D::store}, {"atom", &D::atomic},
        {"red", &D::atomic}, {"mov", &D::move}, {"cvta", &D::to_address},
        {"setp", &D::compare}, {"selp", &D::select}, {"cvt", &D::convert},
        {"and", &D::pred_or_alu}, {"or", &D::pred_or_alu},
        {"xor", &D::pred_or_alu}, {"not", &D::pred_or_alu},
        {"bra", &D::branch}, {"brx", &D::table_branch}, {"ret", &D::leave},
        {"exit", &D::leave}, {"call", &D::call}, {"bar", &D::barrier},
        {"barrier", &D::barrier}, {"membar", &D::fence},
        {"fence", &D::fence}, {"griddepcontrol", &D::grid},
        {"nanosleep", &D::sleep}, {"trap", &D::trap},
        {"shfl", &D::shuffle}, {"vote", &D::vote}, {"match", &D::match},
        {"redux", &D::reduce}, {"activemask", &D::active},
        {"mma", &D::matrix}, {"ldmatrix", &D::load_matrix},
        {"cp", &D::copy_async}, {"prefetch", &D::nothing},
        {"prefetchu", &D::nothing}};

    return m;
}

/* [@[!]p] opcode operands */
void Decoder::op()
{
    std::string s = stmt_->text;

    guard_ = PRED;
    guard_not_ = 0;
    if (s[0] == '@') {
        size_t blank = s.find_first_of(" \t");
        bool inv;
        guard_ = predicate(s.substr(1, blank - 1), &inv);
        guard_not_ = inv ? ~0u : 0;
        s = trim(s.substr(blank));
    }
    size_t blank = s.find_first_of(" \t");
    op_.full = s.substr(0, blank);
    op_.part.clear();
    for (size_t p = 0; p <= op_.full.size();) {
        size_t dot = std::min(op_.full.find('.', p), op_.full.size());
        op_.part.push_back(op_.full.substr(p, dot - p));
        p = dot + 1;
    }
    a_ = blank == s.npos ? Strings() : split(s.substr(blank));
    auto it = methods().find(op_.part[0]);
    if (it == methods().end())
        alu();
    else
        (this->*it->second)();
}

void Decoder::finish(Frame &f)
{
    for (auto &j : f.jumps) {
        auto it = f.labels.find(j.second);
        stmt_ = k_.stmt[j.first];
        if (it == f.labels.end())
            fail("unknown label");
        k_.code[j.first].target = it->second;
    }
    for (auto &t : f.targets) {
        for (auto &name : t.second) {
            auto it = f.labels.find(name);
            if (it == f.labels.end())
                fail("unknown label in a table");
            k_.tables[t.first].push_back(it->second);
        }
    }
    for (size_t at : f.returns)
        k_.code[at].target = (s32) k_.code.size();
}

void Decoder::body()
{
    for (auto &s : f_->func->body) {
        stmt_ = &s;
        switch (s.what) {
        case Stmt::OPEN:
            f_->scopes.push_back({});
            break;
        case Stmt::CLOSE:
            f_->scopes.pop_back();
            break;
        case Stmt::LABEL:
            f_->labels[s.text] = (s32) k_.code.size();
            f_->last_label = s.text;
            break;
        case Stmt::DIRECTIVE:
            directive();
            break;
        case Stmt::OP:
            op();
            break;
        }
    }
    finish(*f_);
}

void Decoder::run()
{
    Frame f;

    f.func = k_.func;
    f.entry = true;
    f.scopes.resize(1);
    for (auto &p : k_.func->params) {
        f.scopes[0][p.name] = {Sym::KERNEL_PARAM, 0, 0, p.offset};
        k_.param_bytes = p.offset + p.size;
    }
    f_ = &f;
    body();
    guard_ = PRED;
    guard_not_ = 0;
    Ins end;
    end.kind = K_EXIT;
    emit(end);
    k_.shared = (k_.shared + 127) / 128 * 128;
    for (size_t n : dynamic_)
        k_.fixed[n].value += k_.shared;
}

void decode(Kernel &k)
{
    Decoder(k).run();
    assign_rows(k);
}

}  // namespace ptx
}  // namespace simt
