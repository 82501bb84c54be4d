/*
 * test_quantize.c: the blocks that the model tools make: packing undoes
 * unpacking on random blocks of an unrelated origin (the kernels' fixture),
 * values come back within half a step of their type, hard inputs stay
 * finite, and generated files of every type are sound.
 */

#include "model/gguf.h"
#include "tap.h"
#include "tool/quantize.h"
#include "tool/tiny_gguf.h"

#include <math.h>
#include <sys/mman.h>
#include <unistd.h>

/* Root mean square error of normal values that each type must keep; about
 * a tenth above what it has, so that a worse scale is noticed. */
static const struct {
    uint32_t  type;
    float     rms;
} types[] = {
    { KERN_F32, 0 }, { KERN_F16, 0.0004f }, { KERN_BF16, 0.003f },
    { KERN_Q4_0, 0.1f }, { KERN_Q4_1, 0.085f }, { KERN_Q5_0, 0.05f },
    { KERN_Q5_1, 0.042f }, { KERN_Q8_0, 0.0055f }, { REF_Q2_K, 0.36f },
    { REF_Q3_K, 0.17f }, { REF_Q4_K, 0.09f }, { REF_Q5_K, 0.05f },
    { REF_Q6_K, 0.02f }, { REF_Q8_K, 0.0085f }, { REF_IQ4_NL, 0.085f },
    { REF_IQ4_XS, 0.088f }
};

#define N_TYPES  (sizeof(types) / sizeof(types[0]))


static void
test_round_trip(const char *path)
{
    FILE *f = fopen(path, "r");
    char line[1024], hex[1024];
    unsigned type, byte, n = 0, equal = 0;

    while (f != NULL && fgets(line, sizeof(line), f) != NULL) {
        uint8_t block[REF_BLOCK_MAX_BYTES], again[REF_BLOCK_MAX_BYTES];
        uint32_t values, bytes;
        ref_block_t b;

        if (sscanf(line, "%u %1023s", &type, hex) != 2
            || (type != REF_IQ4_NL && (type < REF_Q2_K || type > REF_Q6_K)
                && type != REF_IQ4_XS))
        {
            continue;
        }

        kern_block_layout_ref(type, &values, &bytes);

        for (uint32_t i = 0; i < bytes; i++) {
            block[i] = (uint8_t) (sscanf(hex + 2 * i, "%2x", &byte) == 1
                                  ? byte : 0);
        }

        (void) kern_unpack_ref(&b, type, block);
        quant_block(again, type, &b);
        n++;
        equal += memcmp(block, again, bytes) == 0;
    }

    if (f != NULL) {
        fclose(f);
    }

    ok(n == 56 && equal == n, "packing undoes unpacking: %u of %u blocks",
       equal, n);
}


static void
test_errors(void)
{
    static float x[8192], y[8192];
    static uint8_t raw[sizeof(x)];
    tiny_t t = { .rng = 42 };

    for (size_t i = 0; i < 8192; i++) {
        x[i] = tiny_normal(&t);
    }

    for (size_t k = 0; k < N_TYPES; k++) {
        double sum = 0;

        quant_row(raw, types[k].type, x, 8192);
        (void) kern_dequant_ref(y, types[k].type, raw, 8192);

        for (size_t i = 0; i < 8192; i++) {
            sum += ((double) x[i] - y[i]) * ((double) x[i] - y[i]);
        }

        double rms = sqrt(sum / 8192);

        ok(rms <= types[k].rms && rms >= 0.5 * types[k].rms,
           "%s: error %.5f, at most %.5f",
           kern_block_name_ref(types[k].type), rms, types[k].rms);
    }
}


/* Zeros, one value, tiny and huge ones: finite, near, and
 * a block of zeros stays one. */
static void
test_hard(void)
{
    static const float fill[] = { 0, -0.0f, 1e-30f, -1e-7f, 5, -60000 };
    uint8_t raw[1024];
    float x[256], y[256];

    for (size_t k = 0; k < N_TYPES; k++) {
        int bad = 0;

        for (size_t f = 0; f < 2 * sizeof(fill) / sizeof(fill[0]); f++) {
            for (int i = 0; i < 256; i++) {
                x[i] = f % 2 == 0 || i == 77 ? fill[f / 2] : 0;
            }

            quant_row(raw, types[k].type, x, 256);
            (void) kern_dequant_ref(y, types[k].type, raw, 256);

            for (int i = 0; i < 256; i++) {
                bad += !isfinite(y[i]) || (fill[f / 2] == 0 && y[i] != 0)
                       || fabsf(y[i] - x[i]) > 0.1f * fabsf(fill[f / 2])
                                               + 1e-6f;
            }
        }

        ok(bad == 0, "%s: hard blocks (%d bad values)",
           kern_block_name_ref(types[k].type), bad);
    }
}


static void
test_names(void)
{
    uint32_t type = 99;

    ok(quant_type("q4_k", &type) && type == REF_Q4_K
       && quant_type("IQ4_XS", &type) && type == REF_IQ4_XS
       && quant_type("f32", &type) && type == KERN_F32
       && !quant_type("q4", &type) && !quant_type("", &type)
       && !quant_type("unknown", &type), "names");
    ok(quant_fit(REF_Q4_K, 512) == REF_Q4_K
       && quant_fit(REF_Q4_K, 576) == KERN_Q5_0
       && quant_fit(REF_IQ4_XS, 576) == REF_IQ4_NL
       && quant_fit(KERN_Q4_0, 40) == KERN_F16, "substitutes");
}


/* A file of each type, in memory and streamed: same bytes, and the reader
 * takes it. */
static void
test_files(void)
{
    for (size_t k = 0; k < N_TYPES; k++) {
        tiny_conf_t c = tiny_default;
        infer_err_t err = { 0, "" };
        infer_gguf_t *g = NULL;
        size_t len = 0;

        c.type = types[k].type;
        c.head = 1 + KERN_Q8_0;
        c.D = 256;
        c.F = 512;
        c.L = 1;

        void *file = tiny_build(&c, &len);
        int fd = memfd_create("test", 0);
        FILE *f = fdopen(dup(fd), "wb");
        int good = file != NULL && f != NULL && tiny_write(&c, f)
                   && fflush(f) == 0
                   && infer_gguf_open(&g, fd, &err) == INFER_OK;
        char *again = calloc(1, len + 1);
        ssize_t n = again != NULL ? pread(fd, again, len + 1, 0) : -1;
        const infer_gguf_tensor_t *t =
            good ? infer_gguf_tensor(g, "blk.0.ffn_down.weight") : NULL;
        uint32_t values, bytes;

        kern_block_layout_ref(c.type, &values, &bytes);
        ok(good && n == (ssize_t) len && memcmp(again, file, len) == 0
           && t != NULL && t->type == c.type
           && t->bytes == 512 / values * bytes * 256,
           "%s: a file%s%s", kern_block_name_ref(c.type),
           err.text[0] ? ": " : "", err.text);

        infer_gguf_close(g);

        if (f != NULL) {
            fclose(f);
        }

        close(fd);
        free(again);
        free(file);
    }
}


int
main(void)
{
    test_round_trip("kernels/test/fixtures/dequant.txt");
    test_errors();
    test_hard();
    test_names();
    test_files();

    return tap_done();
}
