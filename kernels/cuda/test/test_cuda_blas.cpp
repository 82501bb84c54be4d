/*
 * test_cuda_blas.cpp: prefill through cublasLt: values, scales, what happens
 * without the library, without an algorithm and when a call fails. In
 * emulation the library is kernels/sim/blas_fake.cpp, linked in; on a GPU it
 * is the real one, and where that is absent the rest is skipped.
 */

#include "blas.h"
#include "gemm_f_test.h"

#ifdef SIMT_EMU
#define BLAS_NAME  ""
#else
#define BLAS_NAME  NULL
#endif

static void
absent(void)
{
    cu_blas_t    *b = (cu_blas_t *) 1;
    infer_err_t   err = {};

    ok(cu_blas_open(&b, "libno_such_library.so.1", &err) == INFER_UNSUPPORTED
       && b == NULL && strstr(err.text, "libno_such_library.so.1") != NULL,
       "absent: %s", err.text);
    ok(cu_blas_open(&b, "libm.so.6", &err) == INFER_UNSUPPORTED && b == NULL
       && strstr(err.text, "cublasLtCreate") != NULL, "no such function: %s",
       err.text);
    cu_blas_close(NULL);
}

/* All families, with and without a sum added, over a few shapes. */
static void
values(TestDev &t)
{
    const uint32_t  shapes[][2] = { { 16, 64 }, { 64, 96 }, { 65, 32 },
                                    { 48, 576 } };

    for (int f = CU_BF16; f < CU_N_FAMILIES; f++) {
        if (f == CU_FP8 && t.dev.cc < 89) {
            continue;
        }

        for (const uint32_t *s : shapes) {
            for (int add = 0; add < 2; add++) {
                linear(t, { (cu_family_e) f, s[0], s[1], 32, false },
                       { 65, 129 }, add);
            }
        }
    }
}

/* More shapes than there are plans, then the first ones again. */
static void
many_shapes(TestDev &t)
{
    std::vector<uint32_t>  rows;

    for (uint32_t n = 65; n < 65 + 560; n++) {
        rows.push_back(n);
    }

    rows.push_back(65);
    rows.push_back(66);
    linear(t, { CU_BF16, 16, 32, 32, false }, rows, false);
}

#ifdef SIMT_EMU
/* Kernels of ours that ran. */
static long
kernels(void)
{
    return simt::rt_calls("kernel");
}

/* The library does the work, or refuses it in this way and ours do. */
static void
refused(TestDev &t, const char *how, cu_family_e f, bool ours)
{
    cu_blas_t  *old = t.dev.blas;
    long        before;

    setenv("SIMT_BLAS", how, 1);
    ok(cu_blas_open(&t.dev.blas, BLAS_NAME, NULL) == INFER_OK, "\"%s\"", how);
    before = kernels();
    linear(t, { f, 17, 96, 32, false }, { 65, 65, 66 }, true);
    ok((kernels() > before) == ours, "%s kernels ran", ours ? "own" : "no own");
    cu_blas_close(t.dev.blas);
    t.dev.blas = old;
    unsetenv("SIMT_BLAS");
}
#endif

static void
all(TestDev &t)
{
    TestBuf<uint8_t>  work;
    infer_err_t       err = {};

    if (cu_blas_open(&t.dev.blas, BLAS_NAME, &err) != INFER_OK) {
        diag("%s", err.text);
        return;
    }

    work.alloc(CU_BLAS_WORK + (1 << 20));
    t.dev.work = work.p;
    t.dev.work_bytes = work.n;
    values(t);

    if (!test_quick()) {
        many_shapes(t);
    }

#ifdef SIMT_EMU
    refused(t, "", CU_BF16, false);
    refused(t, "noalgo", CU_BF16, true);
    refused(t, "fail", CU_F16, true);
    refused(t, "fail", CU_W8A8, true);
    refused(t, "", CU_FP8, false);
    refused(t, "novec", CU_FP8, true);
    t.dev.work = NULL;
    t.dev.work_bytes = 0;
    refused(t, "", CU_W8A8, true);
#endif

    ok(work.clean(), "no more work than there is");
    cu_blas_close(t.dev.blas);
    t.dev.blas = NULL;
}

int
main(int argc, char **argv)
{
    test_begin(argc, argv);
    absent();
    test_schedules(all);
    return test_end();
}
