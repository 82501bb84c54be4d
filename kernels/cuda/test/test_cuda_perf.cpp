/*
 * test_cuda_perf.cpp: what follows from addresses alone, as a regression test
 * of the causes of speed: sectors against the fewest that could hold what was
 * asked for, passes over the banks of shared memory against those without
 * conflicts, bytes against the cost functions. Where a kernel is not at 1.05,
 * 1 and the formula, its true figure is the bound, with a reason. Only the
 * checked build counts.
 */

#include "test_q8.h"
#include "cuda_cost.h"

#include <algorithm>
#include <functional>

#ifdef SIMT_EMU

/* What a launch may cost; 0: the rule. */
struct Bound {
    double       sectors = 0, passes = 0, bytes = 0;   /* ratios */
    const char  *why = "";
};

/* Counts what f launches; bytes: that the formula says. */
template <class F>
static void
judge(TestDev &t, const char *name, const char *kernel, double bytes,
    const Bound &b, F f)
{
    const double     most_s = b.sectors != 0 ? b.sectors : 1.05;
    const double     most_p = b.passes != 0 ? b.passes : 1.0;
    const double     most_b = b.bytes != 0 ? b.bytes : 1.0;
    simt::PerfCount  c;
    double           s, p, n;
    bool             good;

    simt::perf_start();
    good = f() == INFER_OK && t.sync();
    simt::perf_stop();
    c = simt::perf_count(kernel);
    s = c.min_sectors != 0 ? (double) c.sectors / (double) c.min_sectors : 0;
    p = c.min_passes != 0 ? (double) c.passes / (double) c.min_passes : 0;
    n = (double) (c.read_bytes + c.write_bytes) / bytes;
    ok(good && c.launches != 0 && s <= most_s + 1e-3 && p <= most_p + 1e-3
       && n <= most_b + 1e-3,
       "%s: sectors %.3f, passes %.3f, bytes %.3f of the formula%s%s", name,
       s, p, n, b.why[0] ? ": " : "", b.why);
}

static const char *
text(const char *fmt, ...)
{
    static char  buf[128];
    va_list      ap;

    va_start(ap, fmt);
    vsnprintf(buf, sizeof(buf), fmt, ap);
    va_end(ap);
    return buf;
}

/* All zero but initialized. */
struct Zeros : TestForms {
    Zeros(uint32_t rows, uint32_t n_in) : TestForms(rows, n_in)
    {
        clear(q);
        clear(d);
        clear(dsum);
        clear(dsum2);
        clear(row);
        clear(h);
        clear(f8);
    }

    template <class T>
    static void clear(TestBuf<T> &b) { b.up(std::vector<T>(b.n)); }
};

/* ---- linears ---- */

static void
linear(TestDev &t, uint32_t type, cu_family_e family, const char *kernel,
    uint32_t n, const Bound &b)
{
    const uint32_t      F = 256, D = 512;
    TestMatrix          m;
    Zeros               x(n, D);
    TestBuf<float>      y(std::vector<float>((size_t) n * F));
    cu_linear_t         l;

    if (!m.make(type, F, D, family)) {
        ok(0, "no such matrix");
        return;
    }
    memset(&l, 0, sizeof(l));
    l.w[0] = &m.w;
    l.y = y.p;
    l.ldy = F;
    judge(t, text("%s, %s, %u rows", kern_type_name(type),
                  kern_prec_name(family), n), kernel,
          cu_linear_cost(&m.w, n).bytes, b,
          [&] { return cu_linear(&t.dev, &l, &x.a, n); });
}

static void
gate_up(TestDev &t, uint32_t type, const char *kernel, uint32_t n,
    const Bound &b)
{
    const uint32_t     F = 256, D = 512;
    TestMatrix         gate, up;
    Zeros              x(n, D), out(n, F);
    TestBuf<float>     y(std::vector<float>((size_t) n * 2 * F));

    if (!gate.make(type, F, D) || !up.make(type, F, D)) {
        ok(0, "no such matrix");
        return;
    }
    /* what the two launches hand over lies in L2: written, then read */
    judge(t, text("gate and up %s, %u rows", kern_type_name(type), n),
          kernel, cu_gate_up_cost(&gate.w, &up.w, n, 1u << CU_Q8).bytes
                  + 2 * 8.0 * n * F, b,
          [&] { return cu_gate_up(&t.dev, &gate.w, &up.w, &x.a, n,
                                  1u << CU_Q8, &out.a, y.p); });
}

static Bound
bound(double sectors, double passes, double bytes, const char *why)
{
    Bound  b;

    b.sectors = sectors;
    b.passes = passes;
    b.bytes = bytes;
    b.why = why;
    return b;
}

/* Every form, by every kernel: the splits for 1, 2, 4, 8 and 16 rows, small
 * tiles up to 64, middle ones, and large ones where they fill the device. */
static void
linears_q8(TestDev &t)
{
    static const uint32_t  types[] = {
        KERN_Q4_0, KERN_Q4_1, KERN_Q4_K, KERN_Q8_0, KERN_Q5_1, KERN_Q8_K,
        KERN_Q5_K, KERN_Q6_K, KERN_Q2_K
    };
    const int  n_sms = t.dev.n_sms;

    for (uint32_t type : types) {
        const bool  twice = type == KERN_Q6_K || type == KERN_Q2_K;

        for (uint32_t n : { 1u, 2u, 4u, 8u, 16u }) {
            linear(t, type, CU_Q8, n == 16 && twice ? "q8_tile_k"
                                                    : "q8_split_k", n,
                   Bound());
        }
        linear(t, type, CU_Q8, "q8_tile_k", 64, Bound());
        linear(t, type, CU_Q8, "q8_tile_k", 96, Bound());
        t.dev.n_sms = 1;
        linear(t, type, CU_Q8, "q8_tile_k", 96, Bound());
        t.dev.n_sms = n_sms;
    }
}

static void
linears(TestDev &t)
{
    linears_q8(t);
    gate_up(t, KERN_Q4_0, "q8_split_k", 1, Bound());
    gate_up(t, KERN_Q4_0, "q8_tile_k", 96, Bound());
    for (uint32_t n : { 1u, 8u, 16u, 64u }) {
        linear(t, KERN_BF16, CU_BF16, "plain_decode_k", n, Bound());
        linear(t, KERN_Q4_1, CU_W4A16, "w4_decode_k", n, Bound());
        linear(t, KERN_BF16, CU_FP8, "plain_decode_k", n, Bound());
        linear(t, KERN_BF16, CU_W8A8, "plain_decode_k", n, Bound());
    }
    linear(t, KERN_BF16, CU_BF16, "plain_tile_k", 96, Bound());
}

/* ---- norms ---- */

static void
norm(TestDev &t, uint32_t dim, uint32_t want, const Bound &b)
{
    const uint32_t  n = 3;
    Zeros           out(n, dim);
    TestBuf<float>  x(test_floats((size_t) n * dim)), w(test_floats(dim));

    judge(t, text("norm of %u, families %#x", dim, want), "norm_k",
          cu_norm_cost(want, n, dim).bytes, b,
          [&] { return cu_norm(&t.dev, x.p, w.p, 1e-5f, NULL, n, dim, want,
                               &out.a); });
    judge(t, text("quantization of %u, families %#x", dim, want),
          "quantize", cu_quantize_cost(want, n, dim).bytes, b,
          [&] { return cu_quantize(&t.dev, x.p, n, dim, want, &out.a); });
}

static void
norms(TestDev &t)
{
    for (uint32_t dim : { 576u, 4096u }) {
        for (uint32_t want : { 1u << CU_Q8, 1u << CU_BF16, 1u << CU_FP8,
                               1u << CU_W8A8 })
        {
            norm(t, dim, want,
                 bound(0, 0, 1.01, "sectors of scales that are not full"));
        }
    }
}

/* ---- attention ---- */

#define KEYS  320u

static void
decode(TestDev &t, uint32_t kv_type, uint32_t heads, uint32_t groups,
    uint32_t dim, const Bound &b)
{
    const uint32_t             B = 2, pages = KEYS / KERN_PAGE_TOKENS;
    const uint32_t             ld = (heads + 2 * groups) * dim;
    const size_t               head = cu_kv_head_bytes(kv_type, dim);
    std::vector<int32_t>       table(B * pages), seq(B), one(B, 1);
    TestBuf<float>             qkv(test_floats((size_t) B * ld));
    TestBuf<float>             out((size_t) B * heads * dim);
    TestBuf<float>             rope(test_floats(KEYS * dim));
    TestBuf<uint8_t>           kv(std::vector<uint8_t>(B * pages * groups
                                                       * head));
    TestBuf<uint8_t>           work(std::vector<uint8_t>(
                                   cu_attn_work(B, heads, dim)));
    Zeros                      acts(B, heads * dim);
    cu_attn_t                  a;
    cu_plan_t                  p;

    for (uint32_t i = 0; i < table.size(); i++) {
        table[i] = (int32_t) i;
    }
    seq[1] = 1;

    TestBuf<int32_t>  d_table(table), d_seq(seq), d_one(one);
    TestBuf<int32_t>  d_pos(std::vector<int32_t>(B, KEYS - 1));

    memset(&a, 0, sizeof(a));
    a.kv = kv.p;
    a.head_bytes = head;
    a.type = kv_type;
    a.n_heads = heads;
    a.n_kv_heads = groups;
    a.head_dim = a.rope_dim = dim;
    a.rope = rope.p;
    memset(&p, 0, sizeof(p));
    p.n_rows = p.n_seqs = p.n_decode = B;
    p.max_pages = pages;
    p.max_keys = KEYS;
    p.row_seq = p.seq_row0 = d_seq.p;
    p.row_pos = p.seq_pos0 = d_pos.p;
    p.seq_rows = d_one.p;
    p.table = d_table.p;
    judge(t, text("decode of %s, %u / %u heads of %u", kern_kv_name(kv_type),
                  heads, groups, dim), "attn_decode_k",
          B * cu_attend_cost(&a, 1, KEYS).bytes
          + cu_quantize_cost(1u << CU_Q8, B, heads * dim).bytes, b,
          [&] { return cu_attend(&t.dev, &a, &p, qkv.p, out.p, 1u << CU_Q8,
                                 &acts.a, work.p); });
}

static void
attention(TestDev &t)
{
    static const char  parts[] = "tables and parts are not in the formula";

    decode(t, KERN_KV_F16, 4, 1, 64, bound(0, 0, 1.07, parts));
    decode(t, KERN_KV_Q8, 4, 1, 64, bound(0, 0, 1.12, parts));
    decode(t, KERN_KV_BF16, 8, 2, 128, bound(0, 0, 1.07, parts));
    decode(t, KERN_KV_Q8, 8, 2, 128, bound(0, 0, 1.12, parts));
    decode(t, KERN_KV_F16, 8, 1, 80, bound(0, 0, 1.12, parts));
    decode(t, KERN_KV_F16, 6, 2, 96, bound(0, 0, 1.05, parts));
    decode(t, KERN_KV_FP8, 2, 1, 256, bound(0, 0, 1.06, parts));
}

/* ---- sampling ---- */

/* What a row asks for, and how often its logits are read, once a launch. */
struct Sampling {
    const char  *name;
    float        temperature;
    int32_t      top_k;
    float        top_p;
    uint32_t     logprobs, reads;
};

/* Bytes of a row, of a vocabulary of V in parts of 16 chunks: the logits;
 * each part's largest; of a chunk sum and number of tokens within each of the
 * sampler's 6 distances, read again (of a row without filters, one sum), and
 * place in the list; 12 bytes a listed token; of a chunk and each of 8 lanes
 * of the log-sum, written and read: about 8 bytes, exactly 20; and 1 KiB of
 * the request, its state and its result, by four launches. */
static double
sampling_bytes(const Sampling &m, const TestDev &t, uint32_t B, uint32_t V,
    const float *l)
{
    static const float  depth[] = { 1.5f, 4, 6.5f, 9, 12, 23 };
    const uint32_t      most = std::min(V / 2048 + 1, 32u);
    const uint32_t      parts = std::min((uint32_t) t.dev.n_sms * 4 / B, most);
    const float         max = *std::max_element(l, l + V);
    double              n = m.reads * 4.0 * V + parts * 16 + 1024;
    uint32_t            listed = 0;

    if (m.top_k > 0) {
        for (uint32_t j = 0; listed < (uint32_t) m.top_k; j++) {
            listed = (uint32_t) std::count_if(l, l + V, [&](float x) {
                return x >= max - depth[j];
            });
        }
        n += parts * 16 * (6 * 12 * 2 + 4 * 2) + listed * 12;
    } else if (m.temperature > 0) {
        n += parts * 16 * (6 * 12 + 8);
    }
    return n + (m.logprobs != 0 ? parts * 16 * 8 * (8 + 20) * 2 : 0);
}

static void
sampling(TestDev &t, const Sampling &m, const Bound &b)
{
    const uint32_t            B = 2, V = 49152;
    const int                 n_sms = t.dev.n_sms;
    std::vector<float>        host((size_t) B * V);
    double                    bytes = 0;
    std::vector<cu_sample_t>  s(B);
    TestBuf<float>            logits((size_t) B * V);
    TestBuf<int32_t>          rows(std::vector<int32_t>{ 0, 1 }), got(B);
    TestBuf<kern_edit_t>      edit(std::vector<kern_edit_t>(1));
    TestBuf<uint32_t>         mask(std::vector<uint32_t>(1));
    TestBuf<cu_sampled_t>     out(B);
    TestBuf<uint8_t>          work(std::vector<uint8_t>(cu_sample_work(B, V)));

    memset((void *) s.data(), 0, B * sizeof(s[0]));
    for (cu_sample_t &x : s) {
        x.temperature = m.temperature;
        x.top_p = m.top_p;
        x.top_k = m.top_k;
        x.repetition = 1;
        x.want = m.logprobs != 0;
        x.top_logprobs = m.logprobs;
        x.mask_off = UINT32_MAX;
    }
    /* few are near the largest, as a model makes them, on a large device */
    for (uint32_t k = 0; k < 12; k++) {
        const std::vector<float>  more = test_floats(host.size(), 1.25f);

        std::transform(host.begin(), host.end(), more.begin(), host.begin(),
                       std::plus<float>());
    }
    logits.up(host);
    t.dev.n_sms = 132;
    for (uint32_t i = 0; i < B; i++) {
        bytes += sampling_bytes(m, t, B, V, host.data() + (size_t) i * V);
    }

    TestBuf<cu_sample_t>  d_s(s);

    judge(t, m.name, "sample", bytes, b,
          [&] { return cu_sample(&t.dev, logits.p, V, B, rows.p, d_s.p,
                                 edit.p, mask.p, got.p, out.p, work.p); });
    t.dev.n_sms = n_sms;
}

static void
samples(TestDev &t)
{
    sampling(t, { "greedy", 0, 0, 1, 0, 1 }, Bound());
    sampling(t, { "random", 1, 0, 1, 0, 2 }, Bound());
    sampling(t, { "top_k and top_p", 1, 40, 0.9f, 0, 3 },
             bound(0, 1.01, 0, "values decide which bins are counted up"));
    sampling(t, { "greedy with logprobs", 0, 0, 1, 5, 3 },
             bound(1.09, 0, 1.04, "each part of a lane of the sum is written "
                   "to a sector of its own; chunks in which its exponent "
                   "changes are read again"));
}

static void
all(TestDev &t)
{
    linears(t);
    norms(t);
    attention(t);
    samples(t);
}

#endif

int
main(int argc, char **argv)
{
    test_begin(argc, argv);
#ifdef SIMT_EMU
    if (simt::checked()) {
        test_cpu_open();
        test_pass(all, 1);
        kern_init("cpu", "ref-q8", NULL)->close(test_cpu);
        return test_end();
    }
#endif
    printf("1..0 # SKIP counters are in checked builds\n");
    return 0;
}
