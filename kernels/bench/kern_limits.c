/*
 * kern_limits.c: the machine's limits as one line of JSON.
 *
 *   kern_limits [threads [MB ...]]     INFER_BENCH_MS=N time of each (300)
 *
 * Rates of all threads together in 1e9 a second: int8 and f32 operations of
 * the best level, and bytes read of sets of so many MB.
 */

#include "limits.h"


int
main(int argc, char **argv)
{
    static const float  freq[1];
    const char         *env = getenv("INFER_BENCH_MS");
    double              ms = env != NULL ? atof(env) : 300;
    infer_err_t         err;
    int                 i;
    kern_shape_t        s = {
        .n_layers = 1, .dim = 32, .n_heads = 1, .n_kv_heads = 1,
        .head_dim = 32, .ffn = 32, .vocab = 32, .rope_dim = 2,
        .rope_inv_freq = freq, .rope_attn_scale = 1, .max_rows = 1,
        .max_outs = 1, .max_seqs = 1, .context = 32, .n_pages = 1,
        .n_threads = argc > 1 ? (uint32_t) atoi(argv[1]) : 2
    };
    const kern_ops_t   *ops = kern_init("cpu", NULL, &err);
    kern_ctx_t         *c;

    if (ops == NULL || ops->open(&c, ops, &s, &err) != INFER_OK) {
        fprintf(stderr, "kern_limits: %s\n", err.text);
        return 1;
    }
    printf("{\"isa\": \"%s\", \"threads\": %u, \"int8\": %.1f, "
           "\"f32\": %.1f, \"read\": {", ops->name, s.n_threads,
           limit_int8(c, s.n_threads, ms), limit_f32(c, s.n_threads, ms));
    for (i = 2; i < argc; i++) {
        printf("%s\"%s\": %.2f", i > 2 ? ", " : "", argv[i],
               limit_read(c, s.n_threads, ms, (size_t) atoi(argv[i]) << 20));
    }
    printf("}}\n");
    ops->close(c);
    return 0;
}
