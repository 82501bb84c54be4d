/*
 * test_cuda_gemm_f.cpp: linears of bf16, f16, W4A16, fp8 and W8A8, own
 * kernels (test_cuda_blas.cpp has cublasLt's).
 */

#include "gemm_f_test.h"

/* Three matrices in one launch, as q, k and v. */
static void
three(TestDev &t, cu_family_e family, uint32_t n, bool min)
{
    const Case          c[3] = { { family, 33, 96, 32, min },
                                 { family, 16, 96, 32, min },
                                 { family, 1, 96, 32, min } };
    const uint32_t      ld = 33 + 16 + 1;
    Matrix              m[3];
    Acts                x;
    TestBuf<float>        y;
    std::vector<float>  got((size_t) n * ld);
    cu_linear_t         l = {};
    double              bad = 0;
    uint32_t            col = 0;

    for (int i = 0; i < 3; i++) {
        make(m[i], c[i]);
        l.w[i] = &m[i].w;
    }

    make_acts(x, family, n, 96);
    y.alloc(got.size());
    l.y = y.p;
    l.ldy = ld;

    const bool  ran = cu_linear_f(&t.dev, &l, &x.a, n) == INFER_OK
                      && t.sync();

    y.down(got.data());

    for (int i = 0; i < 3; i++) {
        bad = fmax(bad, worst(m[i], x, n, got.data(), ld, col, NULL)
                        / tolerance(t.dev, family, n));
        col += m[i].w.n_out;
    }

    ok(ran && y.clean() && bad <= (family == CU_W8A8 ? 0 : 1),
       "%s three matrices, %u rows: error %.3f of what is allowed",
       name(c[0]), n, bad);
}

/* silu(gate) * up fused: against the two linears of the same rows, whose
 * bits the fused sums have; so only exp and rounding to 16 bits differ, f16
 * in steps of 2^-24 below its normal values. And both sums in one launch. */
static void
gate_up(TestDev &t, const Case &c, uint32_t n, bool f16)
{
    const uint32_t         want = 1u << (f16 ? CU_F16 : CU_BF16);
    const size_t           count = (size_t) n * c.n_out;
    Matrix                 gate, up;
    Acts                   x;
    TestBuf<uint16_t>        h;
    TestBuf<float>           y, apart;
    std::vector<uint16_t>  got(count);
    std::vector<float>     sums(2 * count), two;
    cu_acts_t              out = {};
    cu_linear_t            l = {};
    double                 bad = 0;
    bool                   same = true;

    make(gate, c);
    make(up, c);
    make_acts(x, c.family, n, c.n_in);
    h.alloc(count);
    y.alloc(2 * count);
    apart.alloc(2 * count);
    out.h = h.p;
    l.w[0] = &gate.w;
    l.w[1] = &up.w;
    l.y = y.p;
    l.ldy = 2 * c.n_out;

    float *const  to[2] = { apart.p, apart.p + count };
    const bool    ran = cu_gate_up_f_fuses(&gate.w, &up.w, n, want)
                      && cu_gate_up_f(&t.dev, &gate.w, &up.w, &x.a, n, want,
                                      &out) == INFER_OK
                      && cu_linear_f(&t.dev, &l, &x.a, n) == INFER_OK
                      && cu_gate_up_f_sums(&t.dev, &gate.w, &up.w, &x.a, n,
                                           to) == INFER_OK
                      && t.sync();

    h.down(got.data());
    y.down(sums.data());
    two = apart.down();

    for (size_t i = 0; i < count; i++) {
        const float   *s = &sums[i / c.n_out * 2 * c.n_out + i % c.n_out];
        const double   ref = s[0] / (1 + exp(-(double) s[0])) * s[c.n_out];
        const float    v = f16 ? cpu_f16_to_f32(got[i])
                               : cpu_bf16_to_f32(got[i]);

        bad = fmax(bad, fabs(v - ref) / (fabs(ref) + 6.2e-5));
        same = same && memcmp(&two[i], s, 4) == 0
               && memcmp(&two[count + i], s + c.n_out, 4) == 0;
    }

    ok(ran && same && h.clean() && apart.clean()
       && bad <= (f16 ? ldexp(1, -10) : ldexp(1, -7)),
       "%s gate and up %ux%u to %s, %u rows: relative error %.1e", name(c),
       c.n_out, c.n_in, f16 ? "f16" : "bf16", n, bad);
}

/* A row of NaN fails that row and no other, also where rows end within a
 * block and a lane's piece would reach into the next one. */
static void
nan_row(TestDev &t, cu_family_e f, uint32_t n)
{
    const Case          c = { f, 17, 96, 32, false };
    const uint32_t      bad = n / 2;
    Matrix              m;
    Acts                x;
    TestBuf<float>      y((size_t) n * c.n_out);
    std::vector<float>  want, got;
    cu_linear_t         l = {};
    bool                ran = true, same = true;

    make(m, c);
    make_acts(x, f, n, c.n_in);
    l.w[0] = &m.w;
    l.y = y.p;
    l.ldy = c.n_out;
    ran = cu_linear_f(&t.dev, &l, &x.a, n) == INFER_OK && t.sync();
    want = y.down();

    std::vector<uint8_t>  raw = x.dev.down();
    const size_t          row = raw.size() / n;

    memset(&raw[bad * row], 0xff, row);   /* NaN as bf16, f16 and e4m3 */
    x.dev.up(raw);
    ran = ran && cu_linear_f(&t.dev, &l, &x.a, n) == INFER_OK && t.sync();
    got = y.down();

    for (uint32_t i = 0; i < n; i++) {
        for (uint32_t o = 0; o < c.n_out; o++) {
            const size_t  at = (size_t) i * c.n_out + o;

            same = same && (i == bad ? isnan(got[at])
                                     : memcmp(&got[at], &want[at], 4) == 0);
        }
    }

    ok(ran && same, "%s: a NaN fails its row of %u and no other", name(c), n);
}

/* GGUF blocks to W4A16: the values of kern_dequant_ref(). */
static void
from_gguf(TestDev &t, uint32_t type)
{
    const uint32_t        n_out = 19, n_in = 512, n = 3;
    uint32_t              values, block;
    uint64_t              bytes;
    int                   lossy;
    Matrix                m;
    Acts                  x;
    TestBuf<float>          y;
    std::vector<float>    got((size_t) n * n_out);
    cu_linear_t           l = {};

    kern_type_layout(type, &values, &block);

    std::vector<uint8_t>  raw((size_t) n_out * (n_in / values) * block);

    for (uint8_t &b : raw) {
        b = (uint8_t) test_below(256);
    }

    for (size_t i = 0; i < raw.size(); i += block) {
        for (uint32_t k = 0; k < (type == KERN_Q4_0 ? 2u : 4u); k += 2) {
            const uint16_t  s = cpu_f32_to_f16(test_f32() * 0.01f);

            memcpy(&raw[i + k], &s, 2);
        }
    }

    const int  rc = cu_pack_f_plan(type, n_out, n_in, CU_W4A16, &m.w, &bytes,
                                   &lossy);

    m.image.assign(bytes, 0xa5);
    cu_pack_f_rows(&m.w, type, m.image.data(), raw.data(), NULL, 0, n_out);
    m.v.resize((size_t) n_out * n_in);
    (void) kern_dequant_ref(m.v.data(), type, raw.data(), m.v.size());
    m.scale.assign(n_out, 1.0f);
    m.mag.assign(m.v.size(), 0);

    for (size_t i = 0; i < m.mag.size(); i++) {
        ref_block_t  b;
        const size_t k = i % values / 32;

        (void) kern_unpack_ref(&b, type, raw.data() + i / values * block);
        m.mag[i] = fabsf(b.d * b.scale[k] * b.q[i % values])
                   + fabsf(b.dmin * b.min[k]);
    }

    m.dev.alloc(bytes);
    m.dev.up(m.image.data());
    cu_pack_f_place(&m.w, m.dev.p);
    make_acts(x, CU_W4A16, n, n_in);
    y.alloc(got.size());
    l.w[0] = &m.w;
    l.y = y.p;
    l.ldy = n_out;

    const bool  ran = cu_linear_f(&t.dev, &l, &x.a, n) == INFER_OK
                      && t.sync();

    y.down(got.data());

    /* Q4_K: scales are rounded to f16 */
    const double  tol = ldexp(1, lossy ? -11 : -20);
    const double  bad = worst(m, x, n, got.data(), n_out, 0, NULL) / tol;

    ok(rc == INFER_OK && ran && bad <= 1 && lossy == (type == KERN_Q4_K),
       "%s as W4A16: error %.3f of what is allowed", kern_type_name(type), bad);
}

/* Every code and the midpoints between neighbours, host against definition. */
static void
e4m3(void)
{
    bool  good = true;

    for (int i = 0; i < 0x7e; i++) {
        const float  a = cu_e4m3_value((uint8_t) i);
        const float  b = cu_e4m3_value((uint8_t) (i + 1)), mid = (a + b) / 2;
        const int    even = i % 2 == 0 ? i : i + 1;

        good = good && a < b && cu_e4m3(a) == i && cu_e4m3(-a) == (i | 0x80)
               && cu_e4m3(mid) == even
               && cu_e4m3(nextafterf(mid, a)) == i
               && cu_e4m3(nextafterf(mid, b)) == i + 1;
    }

    ok(good && cu_e4m3_value(0x7e) == 448 && cu_e4m3(1e9f) == 0x7e
       && cu_e4m3(-449) == 0xfe && isnan(cu_e4m3_value(0x7f))
       && (cu_e4m3(NAN) & 0x7f) == 0x7f, "e4m3: codes and ties");
}

static void
plans(void)
{
    cu_weight_t  w;
    uint64_t     bytes;
    int          lossy;
    infer_err_t  err;

    ok(cu_pack_f_plan(KERN_BF16, 3, 64, CU_BF16, &w, &bytes, &lossy)
       == INFER_OK && !lossy && bytes == 16 * 128, "bf16 as it is");
    ok(cu_pack_f_plan(KERN_F16, 3, 64, CU_BF16, &w, &bytes, &lossy)
       == INFER_OK && lossy, "f16 to bf16 loses bits");
    ok(cu_pack_f_plan(KERN_Q6_K, 3, 256, CU_W4A16, &w, &bytes, &lossy)
       == INFER_UNSUPPORTED, "Q6_K is not 4 bits");
    ok(cu_pack_f_plan(KERN_F32, 3, 40, CU_FP8, &w, &bytes, &lossy)
       == INFER_UNSUPPORTED, "40 columns are not whole blocks");
    (void) cu_pack_f_plan(KERN_F32, 3, 64, CU_FP8, &w, &bytes, &lossy);
    ok(cu_linear_f_supports(&w, 86, &err) == INFER_UNSUPPORTED
       && strstr(err.text, "8.6") != NULL
       && cu_linear_f_supports(&w, 89, &err) == INFER_OK, "fp8 from 8.9 on");
}

static void
family(TestDev &t, cu_family_e f, bool min)
{
    const std::vector<uint32_t>  all = { 1, 2, 7, 8, 9, 16, 17, 33, 64, 65,
                                         129 };
    const uint32_t  outs[] = { 1, 15, 16, 17, 63, 64, 65 };
    const uint32_t  ins[] = { 32, 64, 96, 256, 576 };

    linear(t, { f, 48, 96, 32, min }, all, false);
    linear(t, { f, 17, 256, 32, min }, { 64, 1, 8, 17, 33, 65 }, true);

    for (uint32_t o : outs) {
        linear(t, { f, o, 64, 32, min }, { 1, 9, 17, 64, 65 }, false);
    }

    for (uint32_t k : ins) {
        linear(t, { f, 31, k, 32, min }, { 7, 16, 64, 129 }, false);
    }

    /* as on a device so small that blocks of 64 rows are chosen */
    const int  n_sms = t.dev.n_sms;

    t.dev.n_sms = 2;
    linear(t, { f, 150, 96, 32, min }, { 33, 64, 1, 17 }, true);
    gate_up(t, { f, 80, 96, 32, min }, 33, false);
    gate_up(t, { f, 80, 96, 32, min }, 33, true);
    t.dev.n_sms = 3;
    three(t, f, 40, min);
    t.dev.n_sms = n_sms;

    for (uint32_t n : { 1u, 9u, 33u, 65u }) {
        three(t, f, n, min);
    }

    for (uint32_t n : { 5u, 12u, 40u, 70u }) {
        if (f != CU_W8A8) {
            nan_row(t, f, n);
        }
    }

    for (uint32_t n : { 1u, 9u, 17u, 64u }) {
        gate_up(t, { f, 33, 96, 32, min }, n, false);
        gate_up(t, { f, 33, 96, 32, min }, n, true);
    }

    if (f == CU_W4A16) {
        for (uint32_t g : { 64u, 128u }) {
            for (uint32_t k : { 96u, 256u, 576u }) {
                linear(t, { f, 17, k, g, min }, { 1, 17, 65 }, false);
            }
        }
    }
}

/* More columns than the stages in shared memory hold at once: a ring of 6
 * stages of 64 bytes for 8 warps, of 128 bytes for a tile; on a device of
 * many SMs and on one so small that wide blocks and large tiles fill it.
 * Seven turns of a warp are what copies of its loop for four leave over. */
static void
deep(TestDev &t, cu_family_e f, bool min)
{
    const int       n_sms = t.dev.n_sms;
    const uint32_t  bytes = f == CU_BF16 || f == CU_F16 ? 2 : 1;
    const uint32_t  ring = 4096 / bytes, tile = 896 / bytes;
    const uint32_t  seven = 3584 / bytes;

    for (int sms : { n_sms, 1 }) {
        t.dev.n_sms = sms;
        linear(t, { f, 15, ring, 64, min }, { 1, 9, 17, 64 }, sms == 1);
        linear(t, { f, 15, ring + 32, 64, min }, { 8, 16, 32 }, true);
        for (uint32_t n : { 8u, 16u, 32u, 64u }) {
            gate_up(t, { f, 7, ring + n / 16 * 32, 64, min }, n, f == CU_F16);
        }
        three(t, f, 20, min);
        three(t, f, 40, min);
        if (f != CU_W4A16) {
            linear(t, { f, 33, seven, 64, min }, { 17, 33 }, false);
            for (uint32_t n : { 1u, 9u, 17u, 33u }) {
                gate_up(t, { f, 17, seven, 64, min }, n, f == CU_F16);
            }
            linear(t, { f, 65, tile, 64, min }, { 65 }, false);
            linear(t, { f, 65, tile - 32, 64, min }, { 67 }, true);
        }
    }
    t.dev.n_sms = n_sms;
}

/* Many rows of W4A16: by way of a plain copy in dev->work. */
static void
plain_copy(TestDev &t)
{
    TestBuf<uint8_t>  work;

    work.alloc(65 * 128 + 256);
    t.dev.work = work.p;
    t.dev.work_bytes = work.n;
    linear(t, { CU_W4A16, 17, 96, 32, true }, { CU_F_W4_PLAIN + 1 }, false);
    linear(t, { CU_W4A16, 65, 64, 64, false }, { CU_F_W4_PLAIN + 7 }, true);
    ok(work.clean(), "no more scratch than there is");
    t.dev.work = NULL;
    t.dev.work_bytes = 0;
    linear(t, { CU_W4A16, 17, 96, 32, true }, { CU_F_W4_PLAIN + 1 }, false);
}

static void
all(TestDev &t)
{
    for (int f = CU_BF16; f < CU_N_FAMILIES; f++) {
        if (f == CU_FP8 && t.dev.cc < 89) {
            diag("no fp8 before compute capability 8.9");
            continue;
        }

        family(t, (cu_family_e) f, false);
        deep(t, (cu_family_e) f, false);

        if (f == CU_W4A16) {
            family(t, CU_W4A16, true);
            deep(t, CU_W4A16, true);
        }
    }

    for (uint32_t type : { KERN_Q4_0, KERN_Q4_1, KERN_Q4_K }) {
        from_gguf(t, type);
    }

    plain_copy(t);
}

int
main(int argc, char **argv)
{
    test_begin(argc, argv);
    e4m3();
    plans();
    test_schedules(all);
    return test_end();
}
