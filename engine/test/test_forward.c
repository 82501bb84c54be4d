/*
 * test_forward.c: batch invariance of the whole forward pass on generated
 * models. The bits of a row's logits must not depend on what else is in the
 * batch, on the cut of the prompt into chunks, on prefill or decode, on the
 * pages used or on the number of threads; each level is held to it, and
 * levels with equal numerics ids to each other.
 */

#include "levels.h"
#include "model/model.h"
#include "tap.h"
#include "tool/tiny_gguf.h"

#include <math.h>
#include <sys/mman.h>
#include <unistd.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SEQS       3              /* everything is ten times slower */
#else
#define SEQS       16
#endif

#define TOKENS     140            /* crosses a chunk of 128 keys */
#define PAGES      ((TOKENS + KERN_PAGE_TOKENS - 1) / KERN_PAGE_TOKENS)
#define MAX_ROWS   200
#define OUTS       7

static const uint32_t out_pos[OUTS] = { 0, 1, 31, 32, 127, 128, 139 };

/* Rows per step of sequence s: chunk[s % 4]; first: the step in which it
 * begins, so that decodes and prompts meet in one batch. */
typedef struct {
    const char  *what;
    uint32_t     n_seqs;
    uint32_t     chunk[4];
    uint32_t     stagger;
    uint32_t     page_shift;
} plan_t;

static const plan_t plans[] = {
    { "decode alone", 1, { 1, 1, 1, 1 }, 0, 0 },
    { "chunks of 33", 1, { 33, 33, 33, 33 }, 0, 3 },
    { "two in step", 2, { 1, 1, 1, 1 }, 0, 1 },
    { "seven, chunks 1 and 5", 7, { 1, 5, 1, 5 }, 0, 7 },
    { "sixteen, mixed", 16, { 1, 33, 2, 17 }, 3, 11 }
};

typedef struct {
    infer_model_t     *m;
    const kern_ops_t  *ops;
    uint32_t           vocab;
    uint32_t           page[SEQS][PAGES];
    uint32_t           fed[SEQS];
    /* the batch being made */
    int32_t            token[MAX_ROWS];
    uint32_t           n_rows, n_seqs, n_outs;
    kern_seq_t         seq[SEQS];
    uint32_t           out_row[SEQS * OUTS];
    float             *out_to[SEQS * OUTS];
} run_t;


static int32_t
token_of(uint32_t s, uint32_t pos, uint32_t vocab)
{
    return (int32_t) (((s * 7919 + pos) * 2654435761u >> 7) % vocab);
}


static int
open_model(run_t *r, const tiny_conf_t *conf, const kern_ops_t *ops,
    uint32_t threads)
{
    const infer_model_conf_t mc = {
        .context = PAGES * KERN_PAGE_TOKENS, .max_rows = MAX_ROWS,
        .max_outs = SEQS * OUTS, .max_seqs = SEQS, .n_pages = SEQS * PAGES,
        .n_threads = threads
    };
    infer_gguf_t *g = NULL;
    infer_err_t err = { 0, "" };
    size_t len = 0;
    void *file = tiny_build(conf, &len);
    int fd = memfd_create("model", MFD_CLOEXEC);

    r->ops = ops;
    r->m = NULL;

    if (file == NULL || fd < 0 || pwrite(fd, file, len, 0) != (ssize_t) len
        || infer_gguf_open(&g, fd, &err) != INFER_OK
        || infer_model_load(&r->m, g, ops, &mc, &err) != INFER_OK)
    {
        diag("%s", err.text);
    }

    infer_gguf_close(g);
    close(fd);
    free(file);

    if (r->m != NULL) {
        r->vocab = infer_model_info(r->m)->vocab;
    }

    return r->m != NULL;
}


/* Adds the next n rows of sequence s and the outputs among them. */
static void
add_rows(run_t *r, uint32_t s, uint32_t n, float *logits)
{
    r->seq[r->n_seqs++] = (kern_seq_t) {
        .first_row = r->n_rows, .n_rows = n, .pos0 = r->fed[s],
        .pages = r->page[s]
    };

    for (uint32_t i = 0; i < n; i++) {
        uint32_t pos = r->fed[s] + i;

        for (uint32_t o = 0; o < OUTS; o++) {
            if (out_pos[o] == pos) {
                r->out_to[r->n_outs] = logits
                                       + (size_t) (s * OUTS + o) * r->vocab;
                r->out_row[r->n_outs++] = r->n_rows + i;
            }
        }

        r->token[r->n_rows + i] = token_of(s, pos, r->vocab);
    }

    r->n_rows += n;
    r->fed[s] += n;
}


static int
run_batch(run_t *r)
{
    const kern_batch_t batch = {
        .n_rows = r->n_rows, .token = r->token, .n_seqs = r->n_seqs,
        .seq = r->seq, .n_outs = r->n_outs, .out_row = r->out_row
    };
    int rc = infer_model_forward(r->m, &batch);

    for (uint32_t i = 0; rc == INFER_OK && i < r->n_outs; i++) {
        memcpy(r->out_to[i], r->ops->logits(infer_model_ctx(r->m), i),
               r->vocab * sizeof(float));
    }

    return rc;
}


/* Fresh pages, in an order of this plan's own. */
static void
take_pages(run_t *r, uint32_t shift)
{
    for (uint32_t i = 0; i < SEQS * PAGES; i++) {
        r->ops->kv_zero(infer_model_ctx(r->m), i);
        r->page[i / PAGES][i % PAGES] = (i * 7 + shift) % (SEQS * PAGES);
    }
}


/* Feeds the plan's sequences, first_seq .. + n_seqs; logits [SEQS, OUTS]. */
static int
run_plan(run_t *r, const plan_t *p, uint32_t first_seq, float *logits)
{
    uint32_t left = p->n_seqs < SEQS ? p->n_seqs : SEQS;
    uint32_t end = first_seq + left;

    take_pages(r, p->page_shift);
    memset(r->fed, 0, sizeof(r->fed));

    for (uint32_t step = 0; left > 0; step++) {
        r->n_rows = r->n_seqs = r->n_outs = 0;

        for (uint32_t s = first_seq; s < end; s++) {
            uint32_t n = p->chunk[s % 4], rest = TOKENS - r->fed[s];

            if (rest == 0 || step < s * p->stagger) {
                continue;
            }

            n = n < rest ? n : rest;

            if (r->n_rows + n <= MAX_ROWS) {
                add_rows(r, s, n, logits);
                left -= r->fed[s] == TOKENS;
            }
        }

        if (r->n_rows > 0 && run_batch(r) != INFER_OK) {
            return 0;
        }
    }

    return 1;
}


static int
all_finite(const float *v, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (!isfinite(v[i])) {
            return 0;
        }
    }

    return 1;
}


static void
compare(run_t *r, const plan_t *p, uint32_t threads, const char *model,
    const float *want, float *got)
{
    size_t per_seq = (size_t) OUTS * r->vocab;

    memset(got, 0xff, SEQS * per_seq * sizeof(float));

    uint32_t n_seqs = p->n_seqs < SEQS ? p->n_seqs : SEQS;
    int ran = run_plan(r, p, 0, got);

    ok(ran && memcmp(want, got, n_seqs * per_seq * sizeof(float)) == 0,
       "%s, %s, %u thread%s: %s", model, r->ops->name, threads,
       threads > 1 ? "s" : "", p->what);
}


/* One level on one model; want takes the logits of each sequence alone and
 * whole, on one thread. */
static void
test_level(const tiny_conf_t *conf, const char *model,
    const kern_ops_t *ops, float *want, float *got)
{
    size_t per_seq = (size_t) OUTS * conf->V;
    static const plan_t whole = { "whole", 1, { 140, 140, 140, 140 }, 0, 0 };
    run_t *r = calloc(1, sizeof(*r));

    if (r == NULL) {
        return;
    }

    for (uint32_t threads = 1; threads <= 2; threads++) {
        if (!open_model(r, conf, ops, threads)) {
            ok(0, "%s loads on %s", model, ops->name);
            break;
        }

        if (threads == 1) {
            int ran = 1;

            for (uint32_t s = 0; s < SEQS; s++) {
                ran &= run_plan(r, &whole, s, want);
            }

            ok(ran && all_finite(want, SEQS * per_seq),
               "%s, %s: finite logits", model, ops->name);
            ok(memcmp(want, want + per_seq, per_seq * sizeof(float)) != 0,
               "%s, %s: sequences differ", model, ops->name);

        } else {
            compare(r, &whole, threads, model, want, got);
        }

        for (size_t i = 0; i < sizeof(plans) / sizeof(plans[0]); i++) {
            if (threads == 1 || i == 1 || i == 4) {
                compare(r, &plans[i], threads, model, want, got);
            }
        }

        infer_model_free(r->m);
    }

    free(r);
}


static void
test_model(const tiny_conf_t *conf, const char *model)
{
    size_t n = (size_t) SEQS * OUTS * conf->V;
    float *want[TEST_N_LEVELS] = { 0 }, *got = malloc(n * sizeof(float));
    const kern_ops_t *ops[TEST_N_LEVELS] = { 0 };

    for (size_t i = 0; i < TEST_N_LEVELS; i++) {
        infer_err_t err = { 0, "" };

        want[i] = malloc(n * sizeof(float));
        ops[i] = kern_init("cpu", test_levels[i], &err);

        if (got == NULL || want[i] == NULL) {
            printf("Bail out! no memory\n");
            exit(1);
        }

        if (ops[i] == NULL) {
            ok(1, "%s # SKIP %s", test_levels[i], err.text);
            continue;
        }

        test_level(conf, model, ops[i], want[i], got);

        for (size_t j = 0; j < i; j++) {
            if (ops[j] != NULL && ops[j]->numerics == ops[i]->numerics) {
                ok(memcmp(want[i], want[j], n * sizeof(float)) == 0,
                   "%s: %s equals %s", model, test_levels[i], test_levels[j]);
            }
        }
    }

    for (size_t i = 0; i < TEST_N_LEVELS; i++) {
        free(want[i]);
    }

    free(got);
}


int
main(void)
{
    static const uint32_t k_types[] = {
        KERN_Q2_K, KERN_Q3_K, KERN_Q4_K, KERN_Q5_K, KERN_Q6_K, KERN_Q8_K,
        KERN_IQ4_NL, KERN_IQ4_XS
    };
    tiny_conf_t c = tiny_default;

    test_model(&c, "mixed types");

    /* three heads over one, widths that are not whole panels */
    c.L = 1;
    c.D = 96;
    c.H = 3;
    c.G = 1;
    c.F = 160;
    c.V = 300;
    c.type = TINY_Q4_1;
    c.tied = 1;
    test_model(&c, "q4_1, tied");

    c = tiny_default;
    c.L = 1;
    c.D = 32;
    c.H = 1;
    c.G = 1;
    c.K = 64;
    c.F = 96;
    c.V = 261;
    c.type = TINY_BF16;
    test_model(&c, "bf16, one head");

    /* groups of 256 in all matrices, each type once; the embedding too */
    c = tiny_default;
    c.L = 1;
    c.D = 256;
    c.H = 4;
    c.G = 2;
    c.F = 256;
    c.V = 300;

    for (size_t i = 0; i < sizeof(k_types) / sizeof(k_types[0]); i++) {
        c.type = k_types[i];
        c.tied = i % 2;
        test_model(&c, kern_type_name(c.type));
    }

    return tap_done();
}
