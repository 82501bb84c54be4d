/*
 * test_cuda_embed.cpp: rows of an embedding matrix in every family: bits of
 * cpu_weight_row() where nothing was rounded, else near it; ids from the
 * plan and from what was sampled; rows of padding.
 */

#include "test_q8.h"

struct Error {
    bool   same;                  /* all bits */
    float  worst;                 /* difference in units of the row's largest */
};

static Error
embed(TestDev &t, const TestMatrix &m, const std::vector<int32_t> &token,
    const std::vector<int32_t> &row_seq, const std::vector<int32_t> &sampled)
{
    const uint32_t      n = (uint32_t) token.size(), dim = m.w.n_in;
    Error               e = { true, 0 };
    TestBuf<int32_t>    dt(token), ds(sampled), dr(row_seq);
    TestBuf<float>      x((size_t) n * dim);
    std::vector<float>  want(dim), got;
    cu_plan_t           p;

    memset(&p, 0, sizeof(p));
    p.n_rows = n;
    p.token = dt.p;
    p.sampled = ds.p;
    p.row_seq = dr.p;
    if (cu_embed(&t.dev, &m.w, &p, x.p) != INFER_OK || !t.sync()) {
        return { false, 1 };
    }
    got = x.down();
    for (uint32_t r = 0; r < n; r++) {
        const int32_t  id = token[r] < 0 ? sampled[-1 - token[r]] : token[r];
        const float   *y = got.data() + (size_t) r * dim;
        float          most = 0;

        cpu_weight_row(m.cpu, id < 0 ? 0 : (uint32_t) id, want.data());
        if (row_seq[r] < 0) {
            memset(want.data(), 0, dim * sizeof(float));
        }
        for (float f : want) {
            most = fmaxf(most, fabsf(f));
        }
        e.same = e.same && memcmp(want.data(), y, dim * sizeof(float)) == 0;
        for (uint32_t k = 0; k < dim && most > 0; k++) {
            e.worst = fmaxf(e.worst, fabsf(want[k] - y[k]) / most);
        }
    }
    e.same = e.same && x.clean();
    return e;
}

static void
all(TestDev &t)
{
    static const struct {
        cu_family_e  family;
        const char  *name;
        float        error;       /* of what is rounded */
    } family[] = {
        { CU_Q8, "q8", 0.004f }, { CU_BF16, "bf16", 0.004f },
        { CU_F16, "f16", 0.0005f }, { CU_W4A16, "W4A16", 0.08f },
        { CU_FP8, "fp8", 0.0625f }, { CU_W8A8, "W8A8", 0.004f }
    };

    for (size_t f = 0; f < N_OF(family); f++) {
        for (uint32_t type : test_types) {
            TestMatrix                  m;
            const uint32_t              V = 37, D = type % 3 ? 256 : 1280;
            const std::vector<int32_t>  sampled = { 36, -1, 5 };
            const std::vector<int32_t>  token = { 0, 36, -1, -3, 15, 16, 7,
                                                  -2 };
            const std::vector<int32_t>  seq = { 0, 1, 2, 3, 4, 4, -1, 5 };

            if (!m.make(type, V, D, family[f].family)) {
                ok(0, "%s as %s: no such matrix", kern_type_name(type),
                   family[f].name);
                continue;
            }

            const Error  e = embed(t, m, token, seq, sampled);

            ok(m.lossy ? e.worst < family[f].error : e.same,
               "%s as %s: %s (%.1e)", kern_type_name(type), family[f].name,
               m.lossy ? "near" : "equal", (double) e.worst);
        }
    }
}

int
main(int argc, char **argv)
{
    test_begin(argc, argv);
    test_cpu_open();
    test_schedules(all);
    kern_init("cpu", "ref-q8", NULL)->close(test_cpu);
    return test_end();
}
