/*
 * test_q8.h: a matrix on both sides, packed for the device and for the CPU's
 * ref-q8, and activations by the q8 definition on both.
 */

#ifndef KERN_CUDA_TEST_Q8_H
#define KERN_CUDA_TEST_Q8_H

#include "cuda_test.h"
#include "gemm.h"

extern "C" {
#include "cpu_ctx.h"
}

static kern_ctx_t  *test_cpu;

/* The CPU's context, which packs. */
TEST_UNUSED static kern_ctx_t *
test_cpu_open(void)
{
    static const float  freq[16] = { 0 };
    const kern_ops_t   *ops = kern_init("cpu", "ref-q8", NULL);
    kern_shape_t        s;
    infer_err_t         err;

    memset(&s, 0, sizeof(s));
    s.n_layers = s.n_heads = s.n_kv_heads = 1;
    s.dim = s.head_dim = s.ffn = s.vocab = s.rope_dim = s.context = 32;
    s.rope_inv_freq = freq;
    s.rope_attn_scale = 1;
    s.eps = 1e-5f;
    s.max_rows = s.max_outs = s.max_seqs = s.n_pages = s.n_threads = 1;
    if (ops->open(&test_cpu, ops, &s, &err) != INFER_OK) {
        diag("%s", err.text);
        exit(1);
    }
    return test_cpu;
}

struct TestSource {
    const uint8_t  *raw;

    static int read(void *arg, void *buf, size_t len, uint64_t off)
    {
        memcpy(buf, ((TestSource *) arg)->raw + off, len);
        return INFER_OK;
    }
};

struct TestMatrix {
    uint32_t              type;
    std::vector<uint8_t>  raw;
    cu_weight_t           w;
    TestBuf<uint8_t>      dev;
    kern_weight_t        *cpu = NULL;
    int                   lossy = 0;
    int                   fill = -1;     /* of all bytes of a block from */
    uint32_t              fill_from = 0; /* here on; -1: random ones */

    TestMatrix() = default;
    TestMatrix(const TestMatrix &) = delete;
    TestMatrix &operator=(const TestMatrix &) = delete;
    ~TestMatrix()
    {
        if (cpu != NULL) {
            kern_init("cpu", "ref-q8", NULL)->weight_free(test_cpu, cpu);
        }
    }

    /* Whether there is such a matrix in that family. */
    bool make(uint32_t t, uint32_t n_out, uint32_t n_in,
        cu_family_e family = CU_Q8, float amp = 1)
    {
        TestSource            src;
        kern_src_t            s;
        uint64_t              bytes;
        uint32_t              values, block;
        std::vector<uint8_t>  image;

        type = t;
        if (cu_pack_plan(type, n_out, n_in, family, &w, &bytes, &lossy)
            != INFER_OK)
        {
            return false;
        }
        raw = test_tensor(type, n_out, n_in, amp);
        kern_type_layout(type, &values, &block);
        for (size_t i = 0; i < raw.size() && fill >= 0; i++) {
            raw[i] = i % block < fill_from ? raw[i] : (uint8_t) fill;
        }
        image.assign(bytes, 0xa5);
        for (uint32_t r = 0; r < n_out; r += CU_PACK_ROWS) {
            const uint32_t  n = n_out - r < CU_PACK_ROWS ? n_out - r
                                                         : CU_PACK_ROWS;

            (void) cu_pack_rows(&w, type, image.data(),
                                raw.data() + r * test_row_bytes(type, n_in),
                                r, n);
        }
        dev.alloc(image.size());
        dev.up(image);
        cu_pack_place(&w, dev.p);

        src.raw = raw.data();
        memset(&s, 0, sizeof(s));
        s.type = type;
        s.n_out = n_out;
        s.n_in = n_in;
        s.read = TestSource::read;
        s.arg = &src;
        return kern_init("cpu", "ref-q8", NULL)->pack(test_cpu, &cpu, &s,
                                                      NULL) == INFER_OK;
    }
};

/* Activation rows by kern_quantize_ref(), here and on the device. */
struct TestActs {
    uint32_t              n_in = 0;
    std::vector<int8_t>   q;
    std::vector<float>    d, dsum, dsum2, f;
    std::vector<int32_t>  nsum, hsum;
    TestBuf<int8_t>       dev_q;
    TestBuf<float>        dev_d, dev_dsum, dev_dsum2;
    cpu_acts_t            cpu;
    cu_acts_t             a;

    void make(uint32_t rows, uint32_t columns, float scale = 3)
    {
        const size_t  n = (size_t) rows * columns;

        n_in = columns;
        q.resize(n);
        d.resize(n / 32);
        dsum.resize(n / 32);
        dsum2.resize(n / 16);
        nsum.resize(n / 32);
        hsum.resize(n / 16);
        f = test_floats(n, scale);
        memset(&cpu, 0, sizeof(cpu));
        cpu.q = q.data();
        cpu.d = d.data();
        cpu.dsum = dsum.data();
        cpu.nsum = nsum.data();
        cpu.hsum = hsum.data();
        cpu.f = f.data();
        cpu.n_in = columns;
        for (uint32_t r = 0; r < rows; r++) {
            cpu_inner("ref-q8")->quantize(&cpu, r, 0, columns / 32,
                                          f.data() + (size_t) r * columns);
        }
        up();
    }

    /* To the device, after changes too. */
    void up(void)
    {
        for (size_t i = 0; i < dsum2.size(); i++) {
            dsum2[i] = d[i / 2] * (float) -hsum[i];
        }
        dev_q.alloc(q.size());
        dev_q.up(q);
        dev_d.alloc(d.size());
        dev_d.up(d);
        dev_dsum.alloc(dsum.size());
        dev_dsum.up(dsum);
        dev_dsum2.alloc(dsum2.size());
        dev_dsum2.up(dsum2);
        memset(&a, 0, sizeof(a));
        a.q = dev_q.p;
        a.d = dev_d.p;
        a.dsum = dev_dsum.p;
        a.dsum2 = dev_dsum2.p;
        a.n_in = n_in;
    }
};

/* ref-q8's linear of rows 0 .. n - 1 into y. */
TEST_UNUSED static void
test_linear_ref(const TestMatrix &m, const TestActs &x, uint32_t n, float *y,
    size_t ldy, int add)
{
    for (uint32_t s = 0; s < m.cpu->n_stripes; s++) {
        cpu_inner("ref-q8")->linear(m.cpu, s, &x.cpu, 0, n, y + s * CPU_STRIPE,
                                    ldy, add);
    }
}

/* Activations in every form, of n rows, on the device. */
struct TestForms {
    TestBuf<int8_t>    q;
    TestBuf<float>     d, dsum, dsum2, row;
    TestBuf<uint16_t>  h;
    TestBuf<uint8_t>   f8;
    cu_acts_t          a;

    TestForms(uint32_t n, uint32_t F)
    {
        const size_t  count = (size_t) n * F;

        q.alloc(count);
        d.alloc(count / 32);
        dsum.alloc(count / 32);
        dsum2.alloc(count / 16);
        row.alloc(n);
        h.alloc(count);
        f8.alloc(count);
        memset(&a, 0, sizeof(a));
        a.q = q.p;
        a.d = d.p;
        a.dsum = dsum.p;
        a.dsum2 = dsum2.p;
        a.row = row.p;
        a.h = h.p;
        a.f8 = f8.p;
        a.n_in = F;
    }

    bool clean() const
    {
        return q.clean() && d.clean() && dsum.clean() && dsum2.clean()
               && row.clean() && h.clean() && f8.clean();
    }
};

#endif
