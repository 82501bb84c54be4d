/*
 * ptx_decode.h: the decoder's state, shared by ptx_decode.cpp (names,
 * declarations, statements) and ptx_decode_ops.cpp (a method for each kind
 * of instruction).
 */

#ifndef SIMT_PTX_DECODE_H
#define SIMT_PTX_DECODE_H

#include <set>

#include "ptx_int.h"

namespace simt {
namespace ptx {

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

}  // namespace ptx
}  // namespace simt

#endif
