/*
 * infer_cli.c: the raw engine on a command line, without nginx, bus or
 * scheduler: greedy continuation of one prompt, its logits, or the speed of
 * prefill, decode and batched decode. Owns its model; one thread calls, the
 * kernels' team computes.
 */

#include "model/model.h"
#include "text/text.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <math.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define CLI_MAX_BATCH   256
#define CLI_MAX_ROUNDS  100

static const char usage[] =
    "usage: infer_cli -m FILE [options]\n"
    "  -p TEXT       prompt; special tokens in it are recognised\n"
    "  --ids 1,2,3   prompt as token ids\n"
    "  -n N          tokens to generate (64)\n"
    "  --isa X       ref, ref-q8, avx2, avxvnni, vnni256, avx512, neon\n"
    "  --device X    cpu or cuda[:N] (cpu)\n"
    "  --precision X of cuda: q8, bf16, f16, w4a16, fp8, w8a8 (q8)\n"
    "  --gpu-memory X  of cuda: bytes, or a fraction of what is free (0.9)\n"
    "  --kv X        f16, bf16, q8; cuda: fp8 too (f16)\n"
    "  -t N          threads (all)\n"
    "  -b N          rows of one step (512)\n"
    "  --logits      print the five best of each position\n"
    "  --bench prefill=512,decode=64,batch=16,context=0,rounds=3\n"
    "                print speeds instead, medians of the rounds; steps begin at\n"
    "                position `context`, its keys may be 0; batch=0: none\n";

typedef struct {
    const char  *model, *prompt, *ids, *isa, *device;
    int          kv, precision;
    double       gpu_memory;                 /* <= 1: a fraction */
    uint32_t     n, threads, rows;
    uint32_t     prefill, decode, batch;     /* of --bench; 0: no bench */
    uint32_t     context, rounds;
    int          logits;
} cli_conf_t;

typedef struct {
    infer_model_t     *model;
    const kern_ops_t  *ops;
    uint32_t           vocab, rows, pages_per_seq;
    uint32_t          *pages;                /* [batch, pages_per_seq] */
} cli_t;


static void
cli_die(const char *what, const char *why)
{
    fprintf(stderr, "infer_cli: %s: %s\n", what, why);
    exit(1);
}


static double
cli_now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);

    return (double) t.tv_sec + 1e-9 * (double) t.tv_nsec;
}


static uint32_t
cli_number(const char *option, const char *s)
{
    char *end;
    unsigned long n = strtoul(s, &end, 10);

    if (*s < '0' || *s > '9' || *end != '\0' || n == 0 || n > 1000000) {
        cli_die(option, "is not a number above 0");
    }

    return (uint32_t) n;
}


/* A fraction, or bytes with k, m, g behind. */
static double
cli_memory(const char *s)
{
    char *end;
    double v = strtod(s, &end);
    const char *unit = *end ? strchr("kKmMgG", *end) : NULL;

    if (unit != NULL) {
        v *= (double) (1ull << (10 * ((unit - "kKmMgG") / 2 + 1)));
        end++;
    }

    if (!(v > 0) || *end != '\0' || end == s) {
        cli_die("--gpu-memory", "is neither bytes nor a fraction");
    }

    return v;
}


static void
cli_bench_option(cli_conf_t *c, char *arg)
{
    enum { PREFILL, DECODE, BATCH, CONTEXT, ROUNDS };
    static char *const key[] = { "prefill", "decode", "batch", "context",
                                 "rounds", NULL };
    char *value = NULL;

    c->prefill = 512;
    c->decode = 64;
    c->batch = 16;
    c->rounds = 3;

    while (*arg != '\0') {
        int k = getsubopt(&arg, key, &value);

        if (k < 0 || value == NULL) {
            cli_die("--bench",
                    "takes prefill=N,decode=N,batch=N,context=N,rounds=N");
        }

        uint32_t *const to[] = { &c->prefill, &c->decode, &c->batch,
                                 &c->context, &c->rounds };

        *to[k] = k == BATCH && strcmp(value, "0") == 0
                 ? 0 : cli_number("--bench", value);
    }

    if (c->rounds > CLI_MAX_ROUNDS) {
        cli_die("--bench", "has too many rounds");
    }
}


static void
cli_options(cli_conf_t *c, int argc, char **argv)
{
    static const struct option options[] = {
        { "ids", required_argument, NULL, 'i' },
        { "isa", required_argument, NULL, 'I' },
        { "kv", required_argument, NULL, 'k' },
        { "device", required_argument, NULL, 'D' },
        { "precision", required_argument, NULL, 'P' },
        { "gpu-memory", required_argument, NULL, 'G' },
        { "bench", required_argument, NULL, 'B' },
        { "logits", no_argument, NULL, 'l' },
        { "help", no_argument, NULL, 'h' },
        { NULL, 0, NULL, 0 }
    };
    int opt;

    while ((opt = getopt_long(argc, argv, "m:p:n:t:b:h", options, NULL))
           != -1)
    {
        switch (opt) {

        case 'm':
            c->model = optarg;
            break;

        case 'p':
            c->prompt = optarg;
            break;

        case 'i':
            c->ids = optarg;
            break;

        case 'I':
            c->isa = optarg;
            break;

        case 'k':
            c->kv = kern_kv_type(optarg);

            if (c->kv < 0) {
                cli_die("--kv", "is f16, bf16, q8 or fp8");
            }

            break;

        case 'D':
            c->device = optarg;
            break;

        case 'P':
            c->precision = kern_prec(optarg);

            if (c->precision < 0) {
                cli_die("--precision",
                        "is q8, bf16, f16, w4a16, fp8 or w8a8");
            }

            break;

        case 'G':
            c->gpu_memory = cli_memory(optarg);
            break;

        case 'n':
            c->n = cli_number("-n", optarg);
            break;

        case 't':
            c->threads = cli_number("-t", optarg);
            break;

        case 'b':
            c->rows = cli_number("-b", optarg);
            break;

        case 'B':
            cli_bench_option(c, optarg);
            break;

        case 'l':
            c->logits = 1;
            break;

        default:
            fputs(usage, opt == 'h' ? stdout : stderr);
            exit(opt != 'h');
        }
    }

    if (c->model == NULL || c->batch > CLI_MAX_BATCH) {
        fputs(usage, stderr);
        exit(1);
    }
}


static infer_text_t *
cli_text(infer_gguf_t *gguf)
{
    infer_err_t err = { 0, "" };
    infer_text_t *text = NULL;
    void *image;
    size_t len;

    if (infer_text_build(gguf, NULL, 0, &image, &len, &err) != INFER_OK
        || infer_text_open(&text, image, len, &err) != INFER_OK)
    {
        cli_die("tokenizer", err.text);
    }

    return text;
}


/* The prompt's ids; the caller's. */
static int32_t *
cli_prompt(const cli_conf_t *c, const infer_text_t *text, uint32_t vocab,
    size_t *n)
{
    infer_err_t err = { 0, "" };
    int32_t *ids = NULL;

    if (c->ids == NULL) {
        const char *prompt = c->prompt ? c->prompt : "Once upon a time";

        if (infer_text_encode(text, prompt, strlen(prompt),
                              INFER_TEXT_SPECIAL | INFER_TEXT_BOS, &ids, n,
                              &err) != INFER_OK)
        {
            cli_die("prompt", err.text);
        }

        return ids;
    }

    ids = malloc((strlen(c->ids) + 1) * sizeof(int32_t));
    *n = 0;

    if (ids == NULL) {
        cli_die("prompt", "no memory");
    }

    for (const char *s = c->ids; *s != '\0'; ) {
        char *end;
        long id = strtol(s, &end, 10);

        if (end == s || id < 0 || id >= (long) vocab) {
            cli_die("--ids", "has an id outside the vocabulary");
        }

        ids[(*n)++] = (int32_t) id;
        s = *end == ',' ? end + 1 : end;
    }

    return ids;
}


static void
cli_open(cli_t *x, const cli_conf_t *c, infer_gguf_t *gguf,
    uint32_t context, uint32_t seqs)
{
    infer_err_t err = { 0, "" };
    long cpus = sysconf(_SC_NPROCESSORS_ONLN);
    double t0 = cli_now();

    x->ops = kern_init(c->device, c->isa, &err);
    if (x->ops == NULL) {
        cli_die("--device or --isa", err.text);
    }

    x->rows = c->rows < seqs ? seqs : c->rows;
    x->pages_per_seq = context / KERN_PAGE_TOKENS + 1;

    const infer_model_conf_t conf = {
        .context = x->pages_per_seq * KERN_PAGE_TOKENS,
        .max_rows = x->rows, .max_outs = seqs, .max_seqs = seqs,
        .n_pages = x->pages_per_seq * seqs, .kv_type = (uint32_t) c->kv,
        .n_threads = c->threads ? c->threads
                     : cpus > 0 ? (uint32_t) cpus : 1,
        .device = (uint32_t) kern_device(c->device),
        .precision = (uint32_t) c->precision,
        .gpu_bytes = c->gpu_memory > 1 ? (uint64_t) c->gpu_memory : 0,
        .gpu_fraction = c->gpu_memory > 1 ? 0 : (float) c->gpu_memory
    };

    if (infer_model_load(&x->model, gguf, x->ops, &conf, &err) != INFER_OK) {
        cli_die(c->model, err.text);
    }

    if (infer_model_pages(x->model) < conf.n_pages) {
        cli_die("--gpu-memory", "does not hold all sequences");
    }

    x->vocab = infer_model_info(x->model)->vocab;
    x->pages = malloc(conf.n_pages * sizeof(uint32_t));

    if (x->pages == NULL) {
        cli_die("memory", "none left");
    }

    for (uint32_t i = 0; i < conf.n_pages; i++) {
        x->pages[i] = i;
        x->ops->kv_zero(infer_model_ctx(x->model), i);
    }

    fprintf(stderr, "%s, %u threads, loaded in %.2f s\n", x->ops->name,
            conf.n_threads, cli_now() - t0);
}


static void
cli_forward(cli_t *x, const kern_batch_t *batch)
{
    if (infer_model_forward(x->model, batch) != INFER_OK) {
        const char *why = x->ops->error != NULL
                          ? x->ops->error(infer_model_ctx(x->model)) : NULL;

        cli_die("forward", why != NULL ? why : "failed");
    }
}


/* n tokens of sequence seq from position pos on; logits of the last. */
static const float *
cli_feed(cli_t *x, const int32_t *ids, uint32_t n, uint32_t seq,
    uint32_t pos)
{
    kern_ctx_t *ctx = infer_model_ctx(x->model);

    while (n > 0) {
        const uint32_t rows = n < x->rows ? n : x->rows, last = rows - 1;
        const kern_seq_t s = {
            .first_row = 0, .n_rows = rows, .pos0 = pos,
            .pages = x->pages + (size_t) seq * x->pages_per_seq
        };
        const kern_batch_t batch = {
            .n_rows = rows, .token = ids, .n_seqs = 1, .seq = &s,
            .n_outs = rows == n, .out_row = &last
        };

        cli_forward(x, &batch);

        ids += rows;
        pos += rows;
        n -= rows;
    }

    return x->ops->logits(ctx, 0);
}


/* One token of each of n sequences at position pos;
 * the best of each takes its place. */
static void
cli_step(cli_t *x, int32_t *ids, uint32_t n, uint32_t pos)
{
    kern_seq_t seq[CLI_MAX_BATCH];
    uint32_t out[CLI_MAX_BATCH];

    for (uint32_t i = 0; i < n; i++) {
        seq[i] = (kern_seq_t) {
            .first_row = i, .n_rows = 1, .pos0 = pos,
            .pages = x->pages + (size_t) i * x->pages_per_seq
        };
        out[i] = i;
    }

    const kern_batch_t batch = {
        .n_rows = n, .token = ids, .n_seqs = n, .seq = seq, .n_outs = n,
        .out_row = out
    };

    cli_forward(x, &batch);

    for (uint32_t i = 0; i < n; i++) {
        const float *l = x->ops->logits(infer_model_ctx(x->model), i);
        int32_t best = x->ops->argmax(l, x->vocab);

        ids[i] = best < 0 ? 0 : best;
    }
}


/*
 * count greedy steps of n sequences. Where the device samples, as the engine
 * does it: a step is launched with what the one before has sampled, before
 * that is read.
 */
static void
cli_steps(cli_t *x, int32_t *ids, uint32_t n, uint32_t pos, uint32_t count)
{
    static kern_seq_t              seq[2][CLI_MAX_BATCH];
    static int32_t                 token[2][CLI_MAX_BATCH];
    static uint32_t                out[CLI_MAX_BATCH];
    static kern_sample_t           sample[CLI_MAX_BATCH];
    static const infer_sampling_t  greedy = {
        .top_p = 1, .repetition_penalty = 1
    };

    if (x->ops->sample == NULL) {
        for (uint32_t i = 0; i < count; i++) {
            cli_step(x, ids, n, pos + i);
        }
        return;
    }

    for (uint32_t i = 0; i < count; i++) {
        kern_batch_t batch = {
            .n_rows = n, .token = token[i % 2], .n_seqs = n,
            .seq = seq[i % 2], .n_outs = n, .out_row = out
        };

        for (uint32_t k = 0; k < n; k++) {
            seq[i % 2][k] = (kern_seq_t) {
                .first_row = k, .n_rows = 1, .pos0 = pos + i,
                .pages = x->pages + (size_t) k * x->pages_per_seq
            };
            token[i % 2][k] = i == 0 ? ids[k] : KERN_TOKEN_OF(k);
            out[k] = k;
            sample[k] = (kern_sample_t) {
                .out = k, .n_out = i, .params = &greedy
            };
        }

        if (infer_model_launch(x->model, &batch, sample, n) != INFER_OK
            || (i > 0 && infer_model_wait(x->model) != INFER_OK))
        {
            cli_die("forward", "failed");
        }
    }

    if (count > 0 && infer_model_wait(x->model) != INFER_OK) {
        cli_die("forward", "failed");
    }
}


/* The five best natural logprobs. */
static void
cli_print_logits(const cli_t *x, const float *logits, int32_t id)
{
    double max = -INFINITY, sum = 0;
    int32_t used[5];

    for (uint32_t i = 0; i < x->vocab; i++) {
        max = logits[i] > max ? logits[i] : max;
    }

    for (uint32_t i = 0; i < x->vocab; i++) {
        sum += exp(logits[i] - max);
    }

    printf("%d", id);

    for (int k = 0; k < 5; k++) {
        int32_t best = -1;

        for (int32_t i = 0; i < (int32_t) x->vocab; i++) {
            int taken = 0;

            for (int j = 0; j < k; j++) {
                taken |= used[j] == i;
            }

            if (!taken && (best < 0 || logits[i] > logits[best])) {
                best = i;
            }
        }

        used[k] = best;
        printf(" [%d, %.5f]", best, logits[best] - max - log(sum));
    }

    printf("\n");
}


static void
cli_generate(cli_t *x, const cli_conf_t *c, const infer_text_t *text,
    const int32_t *ids, size_t n_ids)
{
    double t0 = cli_now(), t1;
    const float *logits = cli_feed(x, ids, (uint32_t) n_ids, 0, 0);
    uint32_t pos = (uint32_t) n_ids, done = 0;

    t1 = cli_now();

    for (;;) {
        int32_t id = x->ops->argmax(logits, x->vocab);

        if (id < 0) {
            cli_die("forward", "gave no number");
        }

        if (c->logits) {
            cli_print_logits(x, logits, id);

        } else if (text != NULL) {
            size_t len;
            const char *s = infer_text_piece(text, id, 0, &len);

            fwrite(s, 1, len, stdout);
            fflush(stdout);

        } else {
            printf("%s%d", done ? "," : "", id);
        }

        if (++done == c->n || (text != NULL && infer_text_is_eog(text, id)))
        {
            break;
        }

        logits = cli_feed(x, &id, 1, 0, pos++);
    }

    double t2 = cli_now();

    printf("\n");
    fprintf(stderr, "prompt %zu tokens, %.1f tokens/s; %u generated, "
            "%.1f tokens/s\n", n_ids, (double) n_ids / (t1 - t0), done,
            done > 1 ? (done - 1) / (t2 - t1) : 0);
}


static int
cli_order(const void *a, const void *b)
{
    double x = *(const double *) a, y = *(const double *) b;

    return x < y ? -1 : x > y;
}


static double
cli_median(double *v, uint32_t n)
{
    qsort(v, n, sizeof(v[0]), cli_order);

    return (v[n / 2] + v[(n - 1) / 2]) / 2;
}


/* Medians: a prompt, then single steps, then batched ones. */
static void
cli_bench(cli_t *x, const cli_conf_t *c)
{
    int32_t *ids = malloc(c->prefill * sizeof(int32_t));
    int32_t now[CLI_MAX_BATCH];
    double prefill[CLI_MAX_ROUNDS], decode[CLI_MAX_ROUNDS];
    double batched[CLI_MAX_ROUNDS];
    uint32_t fed = c->prefill < 64 ? c->prefill : 64;
    uint32_t from = c->context ? c->context : c->prefill;

    if (ids == NULL) {
        cli_die("memory", "none left");
    }

    for (uint32_t i = 0; i < c->prefill; i++) {
        ids[i] = (int32_t) ((i * 2654435761u >> 8) % x->vocab);
    }

    /* first uses of memory do not count */
    cli_feed(x, ids, c->prefill < 8 ? c->prefill : 8, 0, 0);

    for (uint32_t r = 0; r < c->rounds; r++) {
        double t0 = cli_now();

        cli_feed(x, ids, c->prefill, 0, 0);
        prefill[r] = c->prefill / (cli_now() - t0);
        now[0] = ids[0];
        t0 = cli_now();

        cli_steps(x, now, 1, from, c->decode);

        decode[r] = c->decode / (cli_now() - t0);

        for (uint32_t i = 0; i < c->batch; i++) {
            cli_feed(x, ids, fed, i, 0);
            now[i] = ids[i % c->prefill];
        }

        t0 = cli_now();

        if (c->batch > 0) {
            cli_steps(x, now, c->batch, c->context ? from : fed, c->decode);
        }

        batched[r] = (double) c->batch * c->decode / (cli_now() - t0);
    }

    printf("isa %s prefill %u: %.1f tok/s  decode %u: %.1f tok/s",
           x->ops->name, c->prefill, cli_median(prefill, c->rounds),
           c->decode, cli_median(decode, c->rounds));

    if (c->batch > 0) {
        printf("  batch %u: %.1f tok/s", c->batch,
               cli_median(batched, c->rounds));
    }

    printf("\n");
    free(ids);
}


int
main(int argc, char **argv)
{
    cli_conf_t c = { .n = 64, .rows = 512, .device = "cpu" };
    infer_model_info_t info;
    infer_err_t err = { 0, "" };
    infer_gguf_t *gguf = NULL;
    cli_t x = { 0 };

    cli_options(&c, argc, argv);

    int fd = open(c.model, O_RDONLY | O_CLOEXEC);

    if (fd < 0) {
        cli_die(c.model, strerror(errno));
    }

    if (infer_gguf_open(&gguf, fd, &err) != INFER_OK
        || infer_model_inspect(gguf, &info, &err) != INFER_OK)
    {
        cli_die(c.model, err.text);
    }

    if (c.prefill > 0) {
        cli_open(&x, &c, gguf, (c.prefill > c.context ? c.prefill : c.context)
                 + c.decode + 64, c.batch ? c.batch : 1);
        cli_bench(&x, &c);

    } else {
        infer_text_t *text = c.ids == NULL ? cli_text(gguf) : NULL;
        size_t n = 0;
        int32_t *ids = cli_prompt(&c, text, info.vocab, &n);

        if (n == 0) {
            cli_die("prompt", "is empty");
        }

        cli_open(&x, &c, gguf, (uint32_t) n + c.n, 1);
        cli_generate(&x, &c, text, ids, n);
        free(ids);
        infer_text_close(text);
    }

    infer_model_free(x.model);
    infer_gguf_close(gguf);
    free(x.pages);

    return 0;
}
