/*
 * ptx_warp.cpp: what the lanes of a warp do together: shuffles, votes,
 * reductions, matrix loads and products. The caller (ptx_exec.cpp) has made
 * sure that exactly the lanes of the member mask are here.
 *
 * Products of small floats are exact in f32; sums are f32, ascending k, as
 * in mma.cpp: both engines give the same bits.
 */

#include "fiber.h"
#include "ptx_int.h"

namespace simt {
namespace ptx {

/* ---- shfl, vote, match, redux ---- */

enum Shuffle : u8 { UP, DOWN, BFLY, IDX };

/* d0[|p1] = s0 of another lane; s1 distance, s2 = segment mask << 8 | clamp */
void run_shfl(Warp &w, const Ins &i, u32 mask)
{
    const u32 *v = w.row(i.s[0]), *b = w.row(i.s[1]), *c = w.row(i.s[2]);
    u32 r[LANES] = {0}, in_range = 0;

    for (u32 x = mask; x; x &= x - 1) {
        int l = __builtin_ctz(x), j;
        int segment = c[l] >> 8 & 31, clamp = c[l] & 31;
        int end = (l & segment) | (clamp & ~segment), n = b[l] & 31;
        bool ok;
        switch (i.op) {
        case UP:
            j = l - n;
            ok = j >= end;
            break;
        case DOWN:
            j = l + n;
            ok = j <= end;
            break;
        case BFLY:
            j = l ^ n;
            ok = j <= end;
            break;
        default:
            j = (l & segment) | (n & ~segment);
            ok = j <= end;
        }
        if (ok && !(mask >> j & 1))
            fault(w, i, l, "shfl reads a lane that is not in its mask");
        in_range |= (u32) ok << l;
        r[l] = v[ok ? j : l];
    }
    put(w.row(i.d[0]), r, mask);
    if (i.d[1] != NONE)
        put_pred(w, i.d[1], in_range, mask);
}

/* op: 'b'allot, 'a'll, 'o' any, 'u'ni */
void run_vote(Warp &w, const Ins &i, u32 mask)
{
    u32 p = (pred(w, i.s[0]) ^ (i.inv ? ~0u : 0)) & mask;

    if (i.op == 'b') {
        u32 r[LANES];
        for (u32 &x : r)
            x = p;
        put(w.row(i.d[0]), r, mask);
        return;
    }
    bool yes = i.op == 'a' ? p == mask : i.op == 'o' ? p != 0
        : p == mask || p == 0;
    put_pred(w, i.d[0], yes ? ~0u : 0, mask);
}

/* op: 'a'ny, all 'l'; size 4 or 8 */
void run_match(Warp &w, const Ins &i, u32 mask)
{
    const u32 *v = w.row(i.s[0]);
    auto at = [&](int l) { return i.size == 8 ? get<u64>(v, l) : v[l]; };
    u32 r[LANES] = {0}, all = mask;

    for (u32 x = mask; x; x &= x - 1) {
        int l = __builtin_ctz(x);
        for (u32 y = mask; y; y &= y - 1) {
            int k = __builtin_ctz(y);
            r[l] |= (u32) (at(k) == at(l)) << k;
        }
        all &= r[l];
    }
    if (i.op == 'l') {
        for (u32 &x : r)
            x = all == mask ? mask : 0;
        if (i.d[1] != NONE)
            put_pred(w, i.d[1], all == mask ? ~0u : 0, mask);
    }
    put(w.row(i.d[0]), r, mask);
}

template <class T, T (*F)(T, T)>
static void redux(Warp &w, const Ins &i, u32 mask)
{
    const u32 *v = w.row(i.s[0]);
    T r = get<T>(v, __builtin_ctz(mask)), all[LANES];

    for (u32 x = mask & (mask - 1); x; x &= x - 1)
        r = F(r, get<T>(v, __builtin_ctz(x)));
    for (T &x : all)
        x = r;
    put(w.row(i.d[0]), all, mask);
}

template <class T> static T sum(T a, T b) { return a + b; }
template <class T> static T least(T a, T b) { return a < b ? a : b; }
template <class T> static T most(T a, T b) { return a > b ? a : b; }
static u32 both(u32 a, u32 b) { return a & b; }
static u32 either(u32 a, u32 b) { return a | b; }
static u32 differ(u32 a, u32 b) { return a ^ b; }

/* redux.sync.op.type */
bool redux_decode(const Op &op, Ins &i)
{
    static const std::map<std::string, Fn> fn = {
        {"redux.sync.add.u32", redux<u32, sum<u32>>},
        {"redux.sync.add.s32", redux<u32, sum<u32>>},
        {"redux.sync.min.u32", redux<u32, least<u32>>},
        {"redux.sync.min.s32", redux<s32, least<s32>>},
        {"redux.sync.max.u32", redux<u32, most<u32>>},
        {"redux.sync.max.s32", redux<s32, most<s32>>},
        {"redux.sync.and.b32", redux<u32, both>},
        {"redux.sync.or.b32", redux<u32, either>},
        {"redux.sync.xor.b32", redux<u32, differ>}};
    auto it = fn.find(op.full);

    i.fn = it == fn.end() ? nullptr : it->second;
    return i.fn != nullptr;
}

void run_warp_sync(Warp &w, const Ins &, u32) { w.epoch++; }

void run_active(Warp &w, const Ins &i, u32 mask)
{
    u32 r[LANES];

    for (u32 &x : r)
        x = mask;
    put(w.row(i.d[0]), r, mask);
}

/* ---- order between threads and grids ---- */

void run_fence(Warp &w, const Ins &, u32 mask)
{
    for (; mask; mask &= mask - 1) {
        speak_for(w, __builtin_ctz(mask));
        fence();
    }
}

void run_grid_wait(Warp &w, const Ins &, u32 mask)
{
    Block &b = *w.block;

    w.waited |= mask;
    b.waited_epoch = std::min(b.waited_epoch, b.epoch);
    if (cur_rec)
        cur_rec->waited = true;
}

void run_grid_dependents(Warp &w, const Ins &, u32 mask)
{
    if (cur_rec && (mask & ~w.waited))
        cur_rec->early = true;
}

void run_trap(Warp &w, const Ins &i, u32 mask)
{
    fault(w, i, __builtin_ctz(mask), "trap");
}

/* ---- ldmatrix, mma ---- */

/* Lanes 8 k .. 8 k + 7 give the rows of matrix k of n. */
void run_ldmatrix(Warp &w, const Ins &i, u32)
{
    u64 a[LANES];
    char *row[LANES];
    u32 givers = i.n == 4 ? ALL : (1u << 8 * i.n) - 1;

    addresses(w, i.s[0], i.wide, i.off, a);
    locate(w, i, givers, S_SHARED, a, 16, READ, row);
    for (int k = 0; k < i.n; k++) {
        u32 r[LANES];
        for (int l = 0; l < LANES; l++) {
            int g = l / 4, t = l % 4;
            u16 lo, hi;
            if (!i.trans) {
                memcpy(&r[l], row[k * 8 + g] + t * 4, 4);
                continue;
            }
            memcpy(&lo, row[k * 8 + t * 2] + g * 2, 2);
            memcpy(&hi, row[k * 8 + t * 2 + 1] + g * 2, 2);
            r[l] = (u32) hi << 16 | lo;
        }
        put(w.row(i.d[k]), r, ALL);
    }
}

static f32 bf16_element(u32 v) { return bf16_to_f32((u16) v); }
static f32 half_element(u32 v) { return half_to_f32((u16) v); }
static f32 s8_element(u32 v) { return (s8) v; }
static f32 u8_element(u32 v) { return (u8) v; }

/* A table: the conversion is long, and there are 768 of them in a product */
static f32 e4m3_element(u32 v)
{
    static const struct Table {
        f32 f[256];
        Table()
        {
            for (int k = 0; k < 256; k++)
                f[k] = e4m3_to_f32((u8) k);
        }
    } t;

    return t.f[v & 255];
}

/* Eight columns of the result, or of a row of b. */
typedef f32 Row8 __attribute__((vector_size(32)));

/*
 * Fragments (PTX ISA, "Matrix Fragments for mma.m16n8k16", "... m16n8k32"):
 * lane 4 g + t; register r of a has row g + 8 (r & 1), columns from
 * (r >> 1) * K / 2 + E t; register r of b has column g, rows from
 * r * K / 2 + E t; E elements a register. With 8-bit elements and K = 16, a
 * has two registers and b one, of E t .. E t + 3.
 */
template <int K, int E, f32 (*element)(u32)>
static void fragments(Warp &w, const Ins &i, f32 a[16][K], Row8 b[K])
{
    const int parts = K / (4 * E), step = 4 * E;   /* of K, of b's rows */
    f32 v[LANES];

    for (int r = 0; r < 3 * parts; r++) {
        const u32 *s = w.row(i.s[r]);
        int rb = r - 2 * parts;
        for (int e = 0; e < E; e++) {
            for (int l = 0; l < LANES; l++)
                v[l] = element(s[l] >> 32 / E * e);
            for (int l = 0; l < LANES; l++) {
                if (rb < 0)
                    a[l / 4 + (r & 1) * 8][(r >> 1) * step + l % 4 * E + e]
                        = v[l];
                else
                    b[rb * step + l % 4 * E + e][l / 4] = v[l];
            }
        }
    }
}

/* T: of the sums. Integer products sum to at most 2^21: exact in f32, too. */
template <int K, int E, class T, f32 (*element)(u32)>
static void product(Warp &w, const Ins &i, u32)
{
    const bool integer = std::is_integral<T>::value;
    const int c0 = 3 * K / (4 * E);
    f32 a[16][K];
    Row8 b[K], d[16] = {};
    T r[4][LANES];

    fragments<K, E, element>(w, i, a, b);
    for (int k = 0; k < 4; k++) {
        const u32 *c = w.row(i.s[c0 + k]);
        for (int l = 0; l < LANES; l++) {
            r[k][l] = get<T>(c, l);
            if (!integer)
                d[l / 4 + (k >> 1) * 8][l % 4 * 2 + (k & 1)] = r[k][l];
        }
    }
    for (int m = 0; m < 16; m += 4) {
        Row8 x[4] = {d[m], d[m + 1], d[m + 2], d[m + 3]};
        for (int k = 0; k < K; k++)
            for (int n = 0; n < 4; n++)
                x[n] += a[m + n][k] * b[k];
        for (int n = 0; n < 4; n++)
            d[m + n] = x[n];
    }
    for (int k = 0; k < 4; k++) {
        for (int l = 0; l < LANES; l++) {
            f32 v = d[l / 4 + (k >> 1) * 8][l % 4 * 2 + (k & 1)];
            r[k][l] = integer ? (T) ((u32) r[k][l] + (u32) (s32) v) : (T) v;
        }
        put(w.row(i.d[k]), r[k], ALL);
    }
}

/* n: registers of a, b, c */
bool mma_decode(const Op &op, Ins &i, int n[3])
{
    static const std::map<std::string, std::pair<Fn, int>> fn = {
        {"m16n8k16.row.col.f32.bf16.bf16.f32",
            {product<16, 2, f32, bf16_element>, 2}},
        {"m16n8k16.row.col.f32.f16.f16.f32",
            {product<16, 2, f32, half_element>, 2}},
        {"m16n8k32.row.col.f32.e4m3.e4m3.f32",
            {product<32, 4, f32, e4m3_element>, 2}},
        {"m16n8k32.row.col.s32.s8.s8.s32",
            {product<32, 4, s32, s8_element>, 2}},
        {"m16n8k32.row.col.s32.u8.u8.s32",
            {product<32, 4, s32, u8_element>, 2}},
        {"m16n8k16.row.col.s32.s8.s8.s32",
            {product<16, 4, s32, s8_element>, 1}}};
    const std::string head = "mma.sync.aligned.";
    auto it = fn.end();

    if (op.full.compare(0, head.size(), head) == 0)
        it = fn.find(op.full.substr(head.size()));
    if (it == fn.end())
        return false;
    i.fn = it->second.first;
    n[0] = 2 * it->second.second;
    n[1] = it->second.second;
    n[2] = 4;
    return true;
}

}  // namespace ptx
}  // namespace simt
