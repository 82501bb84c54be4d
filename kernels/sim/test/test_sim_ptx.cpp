/*
 * test_sim_ptx.cpp: the PTX interpreter on ptx_fixture.ptx: memory, control
 * flow, what lanes, warps and blocks do together, matrices, asynchronous
 * copies; and that planted mistakes are reported with their line. In a
 * checked build also races and uninitialised reads. Each part runs in three
 * orders of warps and blocks.
 */

#include <sys/wait.h>

#include <cmath>

#include "../control.h"
#include "ptx_test.h"

typedef uint64_t u64;
typedef uint32_t u32;
typedef int32_t  s32;
typedef uint16_t u16;
typedef int8_t   s8;
typedef uint8_t  u8;

static std::vector<u32> randoms(size_t n)
{
    std::vector<u32> v(n);

    for (u32 &x : v)
        x = (u32) (test_random() >> 11);
    return v;
}

static void test_memory()
{
    const int n = 40;
    std::vector<u32> in = randoms(4 * n);
    Dev<u32> d_in(in);
    Dev<u64> d_out(std::vector<u64>(64 * n, 7));
    static const int8_t bytes[8] = {1, 2, -1, -128, 5, 6, 7, 8};
    bool widths = true, vectors = true, spaces = true, locals = true;
    bool consts = true, packs = true, rest = true;

    run_ptx("memory_k", dim3(1), dim3(n), 1024, {(u64) d_in.p, (u64) d_out.p});
    std::vector<u64> out = d_out.down();
    for (int t = 0; t < n; t++) {
        const u32 *i = &in[4 * t];
        const u64 *o = &out[64 * t];
        u64 pair = (u64) i[2] << 32 | i[3], two = (u64) i[3] << 32 | i[2];
        widths &= o[0] == (u64) (int64_t) (s8) i[0]
            && o[1] == (i[0] >> 8 & 255)
            && o[2] == (u64) (int64_t) (int16_t) (i[0] >> 16)
            && o[3] == (u64) (int64_t) (s32) i[1];
        vectors &= o[4] == pair && o[6] == ((u64) i[2] << 32 | i[3])
            && o[7] == ((u64) i[0] << 32 | i[1]);
        spaces &= o[8] == two && o[9] == i[2] >> 16 && o[10] == i[2] >> 24;
        locals &= o[11] == ((u32) t & ~255u) + 7;
        consts &= o[12] == (u64) (int64_t) bytes[t & 7] && o[13] == 30;
        packs &= o[14] == (i[2] >> 16 | i[2] << 16)
            && (u32) o[15] == (u32) pair && o[15] >> 32 == (u32) pair;
        for (int k = 16; k < 64; k++)
            rest &= o[k] == 7;
    }
    tap(widths, "loads of 8, 16, 32 bits, extended to the register");
    tap(vectors, "vectors of 2 and 4");
    tap(spaces, "shared memory, static and dynamic, by both addresses");
    tap(locals, "local memory by both addresses");
    tap(consts, "const and global variables");
    tap(packs, "mov packs and unpacks, narrow stores of wide registers");
    tap(rest, "nothing else is written");
}

static void test_branches()
{
    const int n = 70;
    Dev<u32> d_out(4 * n);
    bool walk = true, table = true, call = true, active = true;

    run_ptx("branch_k", dim3(1), dim3(n), 0, {(u64) d_out.p});
    std::vector<u32> out = d_out.down();
    for (int t = 0; t < n; t++) {
        static const u32 cases[] = {100, 200, 300, 200, 400};
        const u32 *o = &out[4 * t];
        u32 steps = 0, lanes = t >= 64 ? 0x3f : ~0u;
        for (u32 x = (u32) t + 1; x != 1; steps++)
            x = x & 1 ? 3 * x + 1 : x / 2;
        walk &= o[0] == steps;
        table &= o[1] == cases[t % 5];
        call &= o[2] == (t > 40 ? 99 : 2 * (u32) t + o[1]);
        if (t % 5 == 2) {
            lanes = 0;
            for (int l = t / 32 * 32; l < std::min(t / 32 * 32 + 32, n); l++)
                lanes |= (u32) (l % 5 == 2) << l % 32;
        }
        active &= o[3] == lanes;
    }
    tap(walk, "loops whose lanes leave at different times");
    tap(table, "brx.idx and a branch around it");
    tap(call, "calls with parameters and two returns");
    tap(active, "lanes come together where paths join");
}

static void test_warp()
{
    std::vector<u32> in = randoms(32);
    for (int i = 0; i < 32; i++)
        in[i] = in[i] % (i % 2 ? 120 : 90);
    Dev<u32> d_in(in), d_out(16 * 32);
    u32 sum = 0, least = ~0u, ballot = 0, most_odd = 0, or_even = 0;
    bool good[8];
    static const char *const what[] = {"shfl.idx", "shfl.up", "shfl.down in "
        "segments", "shfl.bfly", "vote", "match", "redux",
        "collectives of half a warp"};

    run_ptx("warp_k", dim3(1), dim3(32), 0, {(u64) d_in.p, (u64) d_out.p});
    std::vector<u32> out = d_out.down();
    for (bool &g : good)
        g = true;
    for (int i = 0; i < 32; i++) {
        sum += in[i];
        least = std::min(least, in[i]);
        ballot |= (u32) (in[i] > 100) << i;
        if (i & 1)
            most_odd = std::max(most_odd, in[i]);
        else
            or_even |= in[i];
    }
    for (int i = 0; i < 32; i++) {
        const u32 *o = &out[16 * i];
        u32 same = 0;
        for (int k = 0; k < 32; k++)
            same |= (u32) ((in[k] & 3) == (in[i] & 3)) << k;
        good[0] &= o[0] == in[5];
        good[1] &= o[1] == (i >= 3 ? in[i - 3] : 77);
        good[2] &= o[2] == (i % 8 < 6 ? in[i + 2] : 77);
        good[3] &= o[3] == in[i ^ 9];
        good[4] &= o[4] == ballot
            && o[5] == (ballot ? 1 : 0) + (ballot ? 0 : 2u);
        good[5] &= o[6] == same && o[7] == (same == ~0u ? 1 : 0u);
        good[6] &= o[8] == sum && o[9] == least;
        good[7] &= o[10] == (i & 1 ? most_odd : or_even)
            && o[11] == (i & 1 ? in[1] : 0)
            && o[12] == (u32) i + ((1u << i) - 1);
    }
    for (int k = 0; k < 8; k++)
        tap(good[k], "%s", what[k]);
}

static void test_barrier(u32 n)
{
    std::vector<u32> in = randoms(n);
    u32 count = 0;
    bool good = true;

    for (u32 &x : in) {
        x = x % 8;
        count += x > 5;
    }
    Dev<u32> d_in(in), d_out(2 * n);
    run_ptx("barrier_k", dim3(1), dim3(n), 0, {(u64) d_in.p, (u64) d_out.p});
    std::vector<u32> out = d_out.down();
    for (u32 t = 0; t < n; t++)
        good &= out[2 * t] == count + (count == n ? 1000 : 0)
            + (count < n ? 2000 : 0) && out[2 * t + 1] == in[(t + 32) % n];
    tap(good, "bar.sync and bar.red in a block of %u", n);
}

static void test_atomics()
{
    const u32 n = 80;
    Dev<u32> d_c(std::vector<u32>{5, 3, 60, 0, 9, 0, 42, 0xff, 0, 0});
    Dev<u32> d_out(n);
    std::vector<char> seen(n);
    bool good = true;

    run_ptx("atomic_k", dim3(1), dim3(n), 0, {(u64) d_c.p, (u64) d_out.p});
    std::vector<u32> c = d_c.down(), out = d_out.down();
    for (u32 v : out) {
        u32 old = v % 100000;
        good &= v / 100000 == n && (old - 5) % 3 == 0 && (old - 5) / 3 < n
            && !seen[(old - 5) / 3]++;
    }
    tap(good, "atomics give each thread another old value");
    tap(c[0] == 5 + 3 * n && c[1] == n - 1 && c[2] == 0 && c[3] == 127
        && c[4] < n && c[5] == n % 5 && c[6] == 1000 && c[7] == 0xf0
        && c[8] == n, "atomics of all kinds");
}

static void test_ldmatrix()
{
    std::vector<u32> in = randoms(128);
    Dev<u32> d_in(in), d_out(12 * 32);
    const u16 *m = (const u16 *) in.data();
    bool plain = true, trans = true, few = true;

    run_ptx("ldmatrix_k", dim3(1), dim3(32), 0,
        {(u64) d_in.p, (u64) d_out.p});
    std::vector<u32> out = d_out.down();
    for (int l = 0; l < 32; l++) {
        const u32 *o = &out[12 * l];
        u32 p[4], t[4];
        for (int k = 0; k < 4; k++) {
            const u16 *q = m + 64 * k;
            p[k] = q[l / 4 * 8 + l % 4 * 2]
                | (u32) q[l / 4 * 8 + l % 4 * 2 + 1] << 16;
            t[k] = q[l % 4 * 2 * 8 + l / 4]
                | (u32) q[(l % 4 * 2 + 1) * 8 + l / 4] << 16;
            plain &= o[k] == p[k];
            trans &= o[4 + k] == t[k];
        }
        few &= o[8] == p[0] && o[9] == t[0] && o[10] == t[1];
    }
    tap(plain, "ldmatrix x4");
    tap(trans, "ldmatrix x4.trans");
    tap(few, "ldmatrix x1, x2.trans");
}

/* Element of a fragment's registers by row and column, as the PTX ISA says:
 * lane, register and position from the indices. */
static u32 a_element(const std::vector<u32> &in, int row, int col, int k,
    int e)
{
    int half = col / (4 * e);
    int lane = row % 8 * 4 + col % (4 * e) / e;
    int reg = half * 2 + row / 8;

    (void) k;
    return in[10 * lane + reg] >> 32 / e * (col % e);
}

static u32 b_element(const std::vector<u32> &in, int row, int col, int e)
{
    int lane = col * 4 + row % (4 * e) / e;

    return in[10 * lane + 4 + row / (4 * e)] >> 32 / e * (row % e);
}

static double small(int kind, u32 v)
{
    switch (kind) {
    case 0: {
        u32 u = v << 16;
        float f;
        memcpy(&f, &u, 4);
        return f;
    }
    case 1: {
        int e = (int) (v >> 10 & 31), m = (int) (v & 1023);
        double x = e ? ldexp(1024 + m, e - 25) : ldexp(m, -24);
        return v & 0x8000 ? -x : x;
    }
    case 2: {
        int e = (int) (v >> 3 & 15), m = (int) (v & 7);
        double x = e ? ldexp(8 + m, e - 10) : ldexp(m, -9);
        return v & 0x80 ? -x : x;
    }
    case 5:
        return (u8) v;
    default:
        return (s8) v;
    }
}

static void test_mma()
{
    static const struct { const char *name; int k, e; } kind[] = {
        {"m16n8k16 bf16", 16, 2}, {"m16n8k16 f16", 16, 2},
        {"m16n8k32 e4m3", 32, 4}, {"m16n8k32 s8", 32, 4},
        {"m16n8k16 s8", 16, 4}, {"m16n8k32 u8", 32, 4}};
    std::vector<u32> in = randoms(320);
    for (int l = 0; l < 32; l++)
        for (int k = 0; k < 10; k++) {
            u32 &x = in[10 * l + k];
            /* exponents near 0 in every format, no NaN */
            x = k < 6 ? (x & 0xbebfbebf) | 0x20202020
                : 0x3f800000 | (x & 0x807fffff);
        }
    Dev<u32> d_in(in), d_out(24 * 32);

    run_ptx("mma_k", dim3(1), dim3(32), 0, {(u64) d_in.p, (u64) d_out.p});
    std::vector<u32> out = d_out.down();
    for (int q = 0; q < 6; q++) {
        bool good = true;
        /* b of the one-register kind lies in register 4 alone */
        for (int r = 0; r < 16; r++) {
            for (int c = 0; c < 8; c++) {
                int lane = r % 8 * 4 + c / 2, reg = r / 8 * 2 + c % 2;
                u32 start = in[10 * lane + 6 + reg];
                u32 got = out[24 * lane + 4 * q + reg];
                float sum;
                u32 isum = start;
                memcpy(&sum, &start, 4);
                for (int k = 0; k < kind[q].k; k++) {
                    double a = small(q, a_element(in, r, k, kind[q].k,
                        kind[q].e));
                    double b = small(q, b_element(in, k, c, kind[q].e));
                    sum = (float) (sum + (float) (a * b));
                    isum += (u32) (s32) (a * b);
                }
                good &= q < 3 ? memcmp(&sum, &got, 4) == 0 : isum == got;
            }
        }
        tap(good, "mma %s", kind[q].name);
    }
}

static void test_copies()
{
    const u32 n = 33;
    std::vector<u32> in = randoms(12 * n);
    Dev<u32> d_in(in), d_out(3 * n);
    bool all = true, some = true;

    run_ptx("copy_0_k", dim3(1), dim3(n), 48 * n,
        {(u64) d_in.p, (u64) d_out.p});
    std::vector<u32> out = d_out.down();
    for (u32 t = 0; t < n; t++)
        all &= out[3 * t] == in[12 * t + 1] && out[3 * t + 1]
            == in[12 * t + 4] && out[3 * t + 2] == 0;
    tap(all, "cp.async of 4, 8, 16 bytes and of zeros");
    if (simt::checked())
        return;                   /* what follows is a mistake on purpose */
    run_ptx("copy_1_k", dim3(1), dim3(n), 48 * n,
        {(u64) d_in.p, (u64) d_out.p});
    out = d_out.down();
    for (u32 t = 0; t < n; t++)
        some &= out[3 * t] == in[12 * t + 1] && out[3 * t + 1] == ~0u
            && out[3 * t + 2] == in[12 * t + 4];
    tap(some, "a copy that was not waited for has not landed");
}

static void test_grid()
{
    const u32 blocks = 3, n = 40;
    Dev<u32> d_word(std::vector<u32>(1, 0)), d_out(blocks * n);
    bool good = true;

    run_ptx("grid_k", dim3(blocks), dim3(n), 0,
        {(u64) d_word.p, (u64) d_out.p}, true);
    for (u32 v : d_out.down())
        good &= v == blocks;
    tap(good, "blocks of a cooperative launch wait for each other");
}

/* What a child that runs the kernel says and returns. */
static std::string fate(const char *kernel, u32 threads, int *rc)
{
    int p[2];
    char buf[4096];
    std::string s;

    fflush(stdout);
    if (pipe(p) < 0)
        abort();
    pid_t pid = fork();
    if (pid == 0) {
        dup2(p[1], 2);
        close(p[0]);
        {
            Dev<u32> out(std::vector<u32>(threads, 0));
            run_ptx(kernel, dim3(1), dim3(threads), 0, {(u64) out.p});
        }
        fflush(stderr);
        _exit(simt::checked() && simt::check_reports ? 96 : 0);
    }
    close(p[1]);
    for (ssize_t n; (n = read(p[0], buf, sizeof(buf))) > 0;)
        s.append(buf, (size_t) n);
    close(p[0]);
    int status = 0;
    waitpid(pid, &status, 0);
    *rc = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    return s;
}

static void must_fail(const char *kernel, u32 threads, int want,
    const std::vector<const char *> &text)
{
    int rc;
    std::string s = fate(kernel, threads, &rc);
    bool good = rc == want;

    for (const char *t : text)
        good &= s.find(t) != s.npos;
    tap(good, "%s: %s", kernel, text[0]);
    if (!good)
        printf("# rc %d: %s\n", rc, s.c_str());
}

static void test_faults()
{
    must_fail("bad_store_k", 40, 97, {"global store out of bounds",
        "fixture.cu:101", "st.global.u32", "thread (39,0,0)"});
    must_fail("bad_align_k", 4, 97, {"misaligned", "fixture.cu:102"});
    must_fail("bad_shared_k", 32, 97, {"shared memory out of bounds",
        "fixture.cu:103", "thread (31,0,0)"});
    must_fail("bad_barrier_k", 64, 97, {"divergent bar.sync",
        "warps wait at different barriers", "fixture.cu:10"});
    must_fail("bad_lanes_k", 32, 97, {"divergent bar.sync: lanes of a warp",
        "fixture.cu:10"});
    must_fail("bad_shuffle_k", 32, 97, {"shfl reads a lane that is not in "
        "its mask", "fixture.cu:108"});
    must_fail("bad_mask_k", 32, 97, {"outside of its mask",
        "fixture.cu:109", "thread (8,0,0)"});
    must_fail("bad_exited_k", 32, 97, {"exited", "fixture.cu:110"});
    must_fail("bad_apart_k", 32, 97, {"never come", "fixture.cu:11"});
    must_fail("bad_copy_k", 16, 97, {"never waited for", "fixture.cu:113"});
    must_fail("bad_trap_k", 16, 97, {"trap", "fixture.cu:114"});
}

static void test_checker()
{
    int rc;

    if (!simt::checked()) {
        tap(true, "races and poison # SKIP not a checked build");
        return;
    }
    must_fail("race_k", 64, 96, {"race", "fixture.cu:201", "fixture.cu:202"});
    must_fail("poison_k", 64, 96, {"shared memory", "fixture.cu:204"});
    fate("no_race_k", 64, &rc);
    tap(rc == 0, "no report where there is a barrier");
}

/* PTX that is not understood, to the last modifier. */
static void test_unknown()
{
    static const char *const lines[] = {"add.rn.ftz.f32 %f1, %f1, %f1;",
        "add.s32 %r1, %r1;", "wgmma.fence.sync.aligned;",
        "ld.global.u32 %r1, [%rd1+4+4];",
        "ld.global.v3.u32 {%r1, %r1, %r1}, [%rd1];",
        "atom.global.add.f32 %f1, [%rd1], %f1;", "bar.sync 1;",
        "mov.u32 %r1, %smid;", "cvt.rna.tf32.f32 %r1, %f1;",
        "bra $nowhere;", "setp.lt.ftz.f32 %p1, %f1, %f1;",
        "shfl.bfly.b32 %r1, %r1, 1, 31;"};

    for (const char *line : lines) {
        char path[] = "/tmp/test_sim_ptx.XXXXXX";
        int fd = mkstemp(path), status = 0;
        std::string s = std::string(".version 9.0\n.target sm_90\n"
            ".address_size 64\n.visible .entry k()\n{\n.reg .pred %p<2>;\n"
            ".reg .b32 %r<2>;\n.reg .f32 %f<2>;\n.reg .b64 %rd<2>;\n")
            + line + "\nret;\n}\n";
        if (write(fd, s.data(), s.size()) != (ssize_t) s.size())
            abort();
        close(fd);
        fflush(stdout);
        pid_t pid = fork();
        if (pid == 0) {
            simt::ptx::Module m;
            simt::ptx::Kernel k;
            if (!freopen("/dev/null", "w", stderr))
                _exit(1);
            simt::ptx::parse(path, m);
            k.name = "k";
            k.module = &m;
            k.func = &m.funcs.at("k");
            simt::ptx::decode(k);
            _exit(0);
        }
        waitpid(pid, &status, 0);
        unlink(path);
        tap(WIFEXITED(status) && WEXITSTATUS(status) == 98,
            "not understood: %s", line);
    }
}

int main()
{
    setenv("SIMT_PTX", "kernels/sim/test/ptx_fixture.ptx", 1);
    for (int order = 0; order < 3; order++) {
        simt::rt_config(simt::LAZY, 1 + (u64) order, order);
        printf("# order %d\n", order);
        test_memory();
        test_branches();
        test_warp();
        test_barrier(32);
        test_barrier(48);
        test_barrier(250);
        test_atomics();
        test_ldmatrix();
        test_mma();
        test_copies();
        test_grid();
        test_faults();
        test_checker();
    }
    test_unknown();
    tap(!simt::checked() || simt::check_reports == 0,
        "the checker has nothing to say");
    return tap_end();
}
