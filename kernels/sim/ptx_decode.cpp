/*
 * ptx_decode.cpp: statements of a kernel -> Ins. Names are resolved by scope,
 * calls are inlined (their parameters become local memory), labels become
 * positions. What is not understood to the last modifier ends the process.
 */

#include <cstdio>
#include <cstdlib>

#include "ptx_decode.h"

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
