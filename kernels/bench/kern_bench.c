/*
 * kern_bench.c: time of whole steps and of single kernels against limits
 * measured in the same run.
 *
 *   kern_bench [isa [threads [sequences rows position]]]
 *   INFER_BENCH_TYPE=2|3|8   type of the layers (GGUF number; default 3)
 *   INFER_BENCH_MS=N         time per row (default 400)
 *
 * Weights are random in SmolLM2-135M's shape, so numbers are about speed
 * only. Medians; other load on the machine shows up as a wide min .. max.
 */

#include "limits.h"

enum { LAYERS = 30, MAX_ROWS = 512, MAX_SEQS = 32, CTX = 640 };

typedef struct {
    const kern_ops_t  *ops;
    kern_ctx_t        *c;
    kern_shape_t       shape;
    uint32_t           layer_type;
    kern_weight_t     *embd, *w[LAYERS][7];
    float             *norm;
    double             gbs, gops;       /* measured limits */
    double             ms;
} bench_t;


/* Reads as many bytes as a decode step does; int8 products at full rate. */
static void
measure_limits(bench_t *b)
{
    uint32_t  n = b->shape.n_threads;

    b->gbs = limit_read(b->c, n, b->ms, 97u << 20);
    b->gops = limit_int8(b->c, n, b->ms);
    printf("read 97 MB %.1f GB/s, int8 %.1f GOP/s\n", b->gbs, b->gops);
}

static kern_weight_t *
pack(bench_t *b, uint32_t type, uint32_t n_out, uint32_t n_in)
{
    kern_src_t      s = { .type = type, .n_out = n_out, .n_in = n_in,
                          .read = bench_read };
    kern_weight_t  *w;

    if (b->ops->pack(b->c, &w, &s, NULL) != INFER_OK) {
        exit(1);
    }
    return w;
}

static void
load(bench_t *b)
{
    const kern_shape_t  *s = &b->shape;
    uint32_t             l, i, q = s->n_heads * s->head_dim;
    uint32_t             k = s->n_kv_heads * s->head_dim;
    uint32_t             out[7] = { q, k, k, s->dim, s->ffn, s->ffn, s->dim };
    uint32_t             in[7] = { s->dim, s->dim, s->dim, q, s->dim, s->dim,
                                   s->ffn };

    for (l = 0; l < LAYERS; l++) {
        for (i = 0; i < 7; i++) {
            b->w[l][i] = pack(b, b->layer_type, out[i], in[i]);
        }
    }
    b->embd = pack(b, KERN_Q8_0, s->vocab, s->dim);
    b->norm = malloc(s->dim * sizeof(float));
    for (i = 0; i < s->dim; i++) {
        b->norm[i] = 1;
    }
}

typedef struct {
    bench_t       *b;
    kern_batch_t   batch;
    kern_seq_t     seq[MAX_SEQS];
    int32_t        token[MAX_ROWS];
    uint32_t       out[MAX_SEQS];
    uint32_t       pages[MAX_SEQS][CTX / KERN_PAGE_TOKENS];
} step_t;

static void
step_run(void *arg)
{
    step_t        *st = arg;
    bench_t       *b = st->b;
    kern_layer_t   w;
    uint32_t       l;

    b->ops->begin(b->c, &st->batch);
    b->ops->embed(b->c, b->embd);
    for (l = 0; l < LAYERS; l++) {
        w = (kern_layer_t) {
            .attn_norm = b->norm, .wq = b->w[l][0], .wk = b->w[l][1],
            .wv = b->w[l][2], .wo = b->w[l][3], .ffn_norm = b->norm,
            .gate = b->w[l][4], .up = b->w[l][5], .down = b->w[l][6]
        };
        b->ops->attn(b->c, l, &w);
        b->ops->ffn(b->c, l, &w);
    }
    b->ops->head(b->c, b->norm, b->embd);
    b->ops->submit(b->c);
    b->ops->wait(b->c);
}

/* n_seqs sequences of `rows` rows each, from position pos on. */
static void
bench_step(bench_t *b, uint32_t n_seqs, uint32_t rows, uint32_t pos)
{
    step_t      *st = calloc(1, sizeof(*st));
    uint32_t     s, i;
    double       us, min, max;
    kern_cost_t  c;

    st->b = b;
    for (s = 0; s < n_seqs; s++) {
        for (i = 0; i < CTX / KERN_PAGE_TOKENS; i++) {
            st->pages[s][i] = s * (CTX / KERN_PAGE_TOKENS) + i;
        }
        st->seq[s] = (kern_seq_t) { s * rows, rows, pos, st->pages[s] };
        st->out[s] = s * rows + rows - 1;
    }
    for (i = 0; i < n_seqs * rows; i++) {
        st->token[i] = (int32_t) (i * 97 % b->shape.vocab);
    }
    st->batch = (kern_batch_t) { n_seqs * rows, st->token, n_seqs, st->seq,
                                 n_seqs, st->out };
    us = bench_us(b->ms, step_run, st, &min, &max);
    c = kern_step_cost(&b->shape, b->layer_type, KERN_Q8_0, n_seqs * rows,
                       n_seqs, pos + rows);
    printf("%2u x %3u rows at %3u  %8.0f us %7.1f tok/s  %5.1f GB/s %4.0f%% "
           "%7.1f GOP/s %4.0f%%  (%.0f .. %.0f)\n", n_seqs, rows, pos, us,
           n_seqs * rows * 1e6 / us, c.bytes / us / 1e3,
           100 * c.bytes / us / 1e3 / b->gbs, c.ops / us / 1e3,
           100 * c.ops / us / 1e3 / (b->gops + 1e-9), min, max);
    free(st);
}

int
main(int argc, char **argv)
{
    static float  freq[32];
    const char   *env = getenv("INFER_BENCH_TYPE");
    infer_err_t   err;
    uint32_t      i;
    bench_t       b = {
        .layer_type = env != NULL ? (uint32_t) atoi(env) : KERN_Q4_1,
        .shape = {
            .n_layers = LAYERS, .dim = 576, .n_heads = 9, .n_kv_heads = 3,
            .head_dim = 64, .ffn = 1536, .vocab = 49152, .rope_dim = 64,
            .rope_inv_freq = freq, .rope_attn_scale = 1, .eps = 1e-5f,
            .max_rows = MAX_ROWS, .max_outs = MAX_SEQS,
            .max_seqs = MAX_SEQS, .context = CTX,
            .n_pages = MAX_SEQS * CTX / KERN_PAGE_TOKENS,
            .n_threads = argc > 2 ? (uint32_t) atoi(argv[2]) : 2
        }
    };

    env = getenv("INFER_BENCH_MS");
    b.ms = env != NULL ? atof(env) : 400;
    for (i = 0; i < 32; i++) {
        freq[i] = powf(1e5f, -2.0f * (float) i / 64);
    }
    b.ops = kern_init("cpu", argc > 1 ? argv[1] : NULL, &err);
    if (b.ops == NULL
        || b.ops->open(&b.c, b.ops, &b.shape, &err) != INFER_OK)
    {
        fprintf(stderr, "%s\n", err.text);
        return 1;
    }
    printf("%s, %u threads, layers %s\n", b.ops->name, b.shape.n_threads,
           kern_type_name(b.layer_type));
    load(&b);
    measure_limits(&b);
    if (argc > 5) {
        bench_step(&b, (uint32_t) atoi(argv[3]), (uint32_t) atoi(argv[4]),
                   (uint32_t) atoi(argv[5]));
        b.ops->close(b.c);
        return 0;
    }
    for (i = 1; i <= MAX_SEQS; i *= 2) {
        bench_step(&b, i, 1, 127);
    }
    bench_step(&b, 1, 1, 511);
    bench_step(&b, 1, 64, 0);
    bench_step(&b, 1, 512, 0);
    b.ops->close(b.c);
    return 0;
}
