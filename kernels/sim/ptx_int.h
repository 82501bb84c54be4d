/*
 * ptx_int.h: what the files of the PTX interpreter share.
 *
 *   ptx_parse.cpp    text -> Module: functions as lists of statements
 *   ptx_decode*.cpp  a function's statements -> Kernel: an array of Ins,
 *                    calls inlined; done at a kernel's first launch
 *   ptx_rows.cpp     registers of a Kernel -> rows, shared by live ranges
 *   ptx_alu.cpp      arithmetic: one table, full opcode -> function
 *   ptx_cvt.cpp      cvt and the small float formats
 *   ptx_mem.cpp      ld, st, atom, red, cp.async
 *   ptx_warp.cpp     shfl, vote, match, redux, ldmatrix, mma
 *   ptx_exec.cpp     warps (divergence, reconvergence), blocks, launches
 *   ptx_cover.cpp    which statements ran
 *
 * A warp executes one Ins for its 32 lanes at a time. A register is a row:
 * 32 consecutive u32, or 32 consecutive u64 for 64-bit registers; 16-bit
 * registers lie in the low half of a u32, and readers truncate. Results are
 * computed for all lanes and stored for the active ones, so that g++ makes
 * vector code of the loops. Predicates are one u32 a register.
 */

#ifndef SIMT_PTX_INT_H
#define SIMT_PTX_INT_H

#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "ptx.h"

namespace simt {
namespace ptx {

typedef uint8_t  u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;
typedef int8_t   s8;
typedef int16_t  s16;
typedef int32_t  s32;
typedef int64_t  s64;
typedef float    f32;
typedef double   f64;

const int LANES = 32;
const u32 ALL = 0xffffffffu;

/* ---- parsed ---- */

struct Stmt {
    enum What : u8 { OP, LABEL, OPEN, CLOSE, DIRECTIVE } what;
    std::string text;             /* as in the file; LABEL: its name */
    std::string file;             /* of the .loc in force */
    int         line;             /* in that file */
    int         at;               /* line in the PTX file */
    mutable u64 runs;             /* by warps with a lane active */
};

struct Param {
    std::string name;
    u32         offset, size, align;
};

struct Func {
    std::string        name;
    bool               entry;
    std::vector<Param> params, results;
    std::vector<Stmt>  body;
};

struct Global {
    std::string       name;
    std::vector<char> bytes;
};

struct Module {
    std::string                  path;       /* file name only */
    std::map<std::string, Func>  funcs;
    std::deque<Global>           globals;    /* .global and .const */
    std::vector<std::string>     shared;     /* .shared at module scope */
};

/* Ends the process with 98 when the file cannot be read or parsed. */
void parse(const std::string &path, Module &m);
std::string trim(const std::string &s);
/* Parts between commas outside of (), [] and {}. */
std::vector<std::string> split(const std::string &s);
/* ".align 16 .b8 name[64]" -> name, bytes (-1: name[]), alignment. */
void declaration(const std::string &s, std::string &name, s64 &bytes,
    u32 &align);
/* Bytes of a type name without its dot; 0: not a type. */
u32 type_size(const std::string &t);

/* ---- decoded ---- */

struct Warp;
struct Ins;
typedef void (*Fn)(Warp &w, const Ins &i, u32 mask);

enum Kind : u8 {
    K_PLAIN, K_BRANCH, K_TABLE, K_EXIT, K_BARRIER, K_COLLECTIVE, K_YIELD
};
enum Space : u8 { S_GENERIC, S_GLOBAL, S_SHARED, S_LOCAL, S_PARAM };

const u16 PRED = 0x8000;          /* this bit: a predicate, not a row */
const u16 NONE = 0x7fff;
const int MEMBERS = 9;            /* s[MEMBERS]: mask of a collective */

struct Ins {
    Fn   fn = nullptr;
    u16  d[4] = {NONE, NONE, NONE, NONE};
    u16  s[10] = {NONE, NONE, NONE, NONE, NONE, NONE, NONE, NONE, NONE, NONE};
    u16  guard = PRED;            /* predicate 0 is always true */
    Kind kind = K_PLAIN;
    u8   n = 1;                   /* elements of a vector, parts of a mov */
    u32  guard_not = 0;           /* ~0: the guard is negated */
    Space space = S_GENERIC;
    u8   op = 0;                  /* kind of comparison, shuffle, vote ... */
    u8   size = 4;                /* bytes of an element */
    bool wide = false;            /* the address is a 64-bit row */
    bool inv = false;             /* a predicate operand is negated */
    bool trans = false;           /* of ldmatrix */
    bool full = false;            /* collective of all 32 lanes */
    bool sync = false;            /* .acquire, .release, .relaxed */
    s32  target = -1;             /* pc, or index in Kernel::tables */
    s64  off = 0;                 /* added to the address */
    s64  off2 = 0;                /* cp.async: to the source's */
};

struct Fixed { u16 row; u8 size; u64 value; };
struct Special { u16 row; u8 which; };

struct Kernel {
    std::string              name;
    const Module            *module;
    const Func              *func;
    std::vector<Ins>         code;
    std::vector<const Stmt *> stmt;          /* of each Ins */
    std::vector<std::vector<s32>> tables;    /* of brx.idx */
    std::vector<u8>          sizes;          /* of virtual registers: 4, 8 */
    std::vector<Fixed>       fixed;          /* constants */
    std::vector<Special>     special;        /* %tid.x ... */
    u32 units = 0, preds = 1;     /* of a warp: 128-byte units, predicates */
    u32 shared = 0, local = 0, param_bytes = 0;
};

/* The kernel, decoded, or NULL when no module has it. */
const Kernel *find_kernel(const std::string &name);
/* All modules named by SIMT_PTX, parsed at the first call. */
std::deque<Module> &modules();
void decode(Kernel &k);
/* As ptx_launch(), of a kernel that need not be a host function. */
void launch(const Kernel &k, const LaunchCfg &cfg,
    const std::vector<char> &args,
    const std::vector<std::pair<int, int>> &layout);
/* Virtual registers in code, fixed and special -> units of a warp's file. */
void assign_rows(Kernel &k);

/* Arithmetic by its full opcode. sig: storage of the result, then of the
 * operands: 'w' 32-bit row, 'd' 64-bit row. NULL: unknown. */
struct Alu { Fn fn; const char *sig; };
const Alu *find_alu(const std::string &opcode);

/* Parts of an opcode -> what runs it; false: unknown. */
struct Op {
    std::vector<std::string> part;
    std::string full;
};
bool cvt_decode(const Op &op, Ins &i, std::string &sig);
bool setp_decode(const Op &op, Ins &i, u32 &size, bool &combine);
Fn find_load(const std::string &type, bool wide_register);
bool atom_decode(const std::string &op, const std::string &type, Ins &i);
bool mma_decode(const Op &op, Ins &i, int n[3]);
bool redux_decode(const Op &op, Ins &i);

void run_select32(Warp &, const Ins &, u32);
void run_select64(Warp &, const Ins &, u32);
void run_pred_logic(Warp &, const Ins &, u32);
void run_narrow(Warp &, const Ins &, u32);
void run_widen(Warp &, const Ins &, u32);
void run_widen_signed(Warp &, const Ins &, u32);
void run_pack(Warp &, const Ins &, u32);
void run_unpack(Warp &, const Ins &, u32);
void run_store(Warp &, const Ins &, u32);
void run_cp_async(Warp &, const Ins &, u32);
void run_cp_commit(Warp &, const Ins &, u32);
void run_cp_wait(Warp &, const Ins &, u32);
void run_shfl(Warp &, const Ins &, u32);
void run_vote(Warp &, const Ins &, u32);
void run_match(Warp &, const Ins &, u32);
void run_warp_sync(Warp &, const Ins &, u32);
void run_ldmatrix(Warp &, const Ins &, u32);
void run_active(Warp &, const Ins &, u32);
void run_fence(Warp &, const Ins &, u32);
void run_grid_wait(Warp &, const Ins &, u32);
void run_grid_dependents(Warp &, const Ins &, u32);
void run_trap(Warp &, const Ins &, u32);
void run_nothing(Warp &, const Ins &, u32);

/* ---- running ---- */

struct Copy { char *dst; const char *src; u32 size, valid; };

struct Group {                    /* lanes of a warp at the same pc */
    s32  pc;
    u32  mask;
    bool held;                    /* waits in front of a collective */
};

struct Block;
struct Warp {
    Block             *block;
    std::unique_ptr<u32[], void (*)(void *)> file{nullptr, free};
    std::vector<u32>   pred;
    std::vector<Group> groups;
    u32                id;
    u32                exists, live;       /* lanes */
    u32                at_barrier;         /* lanes that wait */
    s32                barrier_pc;
    u32                barrier_pred;       /* of bar.red */
    u32                waited;             /* griddepcontrol.wait */
    unsigned           epoch;              /* warp barriers */
    std::vector<Copy>  open[LANES];
    std::deque<std::vector<Copy>> committed[LANES];

    u32 *row(u16 r) { return file.get() + (size_t) r * LANES; }
};

struct Block {
    const Kernel     *k;
    const LaunchCfg  *cfg;
    unsigned          index;
    std::vector<Warp> warps;
    std::vector<char> shared_mem, local_mem;
    char             *shared;              /* aligned to 128 */
    size_t            shared_bytes;
    const char       *params;
    const char       *lo, *hi;             /* the allocation used last */
    unsigned          epoch;               /* barriers */
    unsigned          waited_epoch;        /* first griddepcontrol.wait, or
                                            * ~0 */
};

/* Generic addresses of memory that is not a host pointer. */
const u64 SHARED_WINDOW = 0x600000000000ull;
const u64 LOCAL_WINDOW  = 0x610000000000ull;
const u64 PARAM_WINDOW  = 0x620000000000ull;
const u64 WINDOW_BYTES  = 1 << 20;

/* Ends the process with 97: what a kernel did wrong, and where. */
[[noreturn]] void fault(const Warp &w, const Ins &i, int lane,
    const char *why);
/* Ends the process with 98: PTX that is not understood. */
[[noreturn]] void unknown(const char *where, const Stmt *s, const char *why);

/* What the checker is told next is about this lane. */
void speak_for(Warp &w, int lane);
/* Where the lanes of mask find bytes each at rows a; checks alignment and
 * bounds and tells the checker. */
enum How : u8 { READ = 0, WRITE = 1, ATOMIC = 2 };
void locate(Warp &w, const Ins &i, u32 mask, Space space, const u64 *a,
    u32 bytes, u8 how, char **p);
/* Rows of an address operand: base and offset. */
void addresses(Warp &w, u16 base, bool wide, s64 off, u64 *a);

/* Counts of Stmt::runs into SIMT_PTX_COVER; at exit and before a fault. */
void cover_write();

/* ---- lanes of rows ---- */

template <class T> inline T get(const u32 *row, int lane)
{
    T v;
    memcpy(&v, row + (sizeof(T) == 8 ? 2 * lane : lane), sizeof(T));
    return v;
}

template <class T> inline void set(u32 *row, int lane, T v)
{
    if (sizeof(T) == 8) {
        memcpy(row + 2 * lane, &v, 8);
    } else {
        u32 x = 0;
        memcpy(&x, &v, sizeof(T) < 4 ? sizeof(T) : 4);
        row[lane] = x;
    }
}

/* r[0..31] into the lanes of mask. */
template <class T> inline void put(u32 *row, const T *r, u32 mask)
{
    if (mask == ALL) {
        for (int l = 0; l < LANES; l++)
            set(row, l, r[l]);
        return;
    }
    for (; mask; mask &= mask - 1) {
        int l = __builtin_ctz(mask);
        set(row, l, r[l]);
    }
}

inline void put_pred(Warp &w, u16 p, u32 bits, u32 mask)
{
    u32 &x = w.pred[p & ~PRED];
    x = (x & ~mask) | (bits & mask);
}

inline u32 pred(const Warp &w, u16 p) { return w.pred[p & ~PRED]; }

/* ---- small floats, ptx_cvt.cpp ---- */

struct Half { u16 v; };
struct Bf16 { u16 v; };
enum Round : u8 { R_NEAREST, R_ZERO, R_DOWN, R_UP };

f32 half_to_f32(u16 h);
inline f32 bf16_to_f32(u16 b)
{
    u32 u = (u32) b << 16;
    f32 f;
    memcpy(&f, &u, 4);
    return f;
}
f32 e4m3_to_f32(u8 e);
u16 f64_to_half(f64 v, Round r);
u16 f64_to_bf16(f64 v, Round r);
u8  f64_to_e4m3(f64 v);           /* to nearest, saturated */
/* a * b + c rounded to odd in the last bit of a double: rounding that once
 * more to a format of at most 51 bits gives the exactly rounded sum. */
f64 fma_odd(f64 a, f64 b, f64 c);
/* A double made by fma_odd to f32. */
f32 f64_to_f32(f64 v, Round r);

}  // namespace ptx
}  // namespace simt

#endif
