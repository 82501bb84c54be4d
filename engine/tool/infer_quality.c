/*
 * infer_quality.c: how far the next-token distributions of a fast level are
 * from those of the f32 reference kernels on the same weights: mean
 * Kullback-Leibler divergence over a text, cut into chunks whose second
 * halves are scored. Reference and levels run side by side, chunk by chunk,
 * so that no more than one chunk of logits is ever held.
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

#define QUALITY_MAX_LEVELS  8

static const char usage[] =
    "usage: infer_quality [options] FILE...\n"
    "  --isa A,B      levels to judge (auto)\n"
    "  --kv A,B       KV types to judge (f16); the reference has f16\n"
    "  --float FILE   the same weights as f32 (requant -t f32): the first\n"
    "                 level with these is the reference, several times as\n"
    "                 fast, but for the order of roundings the same\n"
    "  --text FILE    default /usr/share/common-licenses/GPL-3\n"
    "  --bytes N      of the text (24000)\n"
    "  --chunk N      tokens of a chunk, its second half is scored (512)\n"
    "  --tokens N     stop when so many are scored\n"
    "  --max-kl X     exit with 1 when a mean is above X\n"
    "  -t, --threads N  (all)\n";

typedef struct {
    const char  *isa, *kv, *text, *floats;
    uint32_t     bytes, chunk, tokens, threads;
    double       max_kl;                  /* 0: no limit */
} quality_conf_t;

typedef struct {
    double   *kl;                         /* [chunk / 2], of this chunk */
    uint8_t  *same;                       /* [chunk / 2] */
    double    sum, squares, worst;
    uint64_t  n, n_same;
} quality_score_t;

typedef struct {
    const char        *name;
    uint32_t           kv;
    infer_model_t     *model;
    const kern_ops_t  *ops;
    quality_score_t    score;             /* unused in the reference's */
    double             seconds;
} quality_level_t;

/* One chunk's comparison, spread over rows. */
typedef struct {
    quality_level_t  *ref, *level;
    uint32_t          vocab;
} quality_pair_t;


static void
quality_die(const char *what, const char *why)
{
    fprintf(stderr, "infer_quality: %s: %s\n", what, why);
    exit(2);
}


static double
quality_now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);

    return (double) t.tv_sec + 1e-9 * (double) t.tv_nsec;
}


static uint32_t
quality_number(const char *option, const char *s)
{
    char *end;
    unsigned long n = strtoul(s, &end, 10);

    if (*s < '0' || *s > '9' || *end != '\0' || n == 0 || n > (1 << 24)) {
        quality_die(option, "is not a number above 0");
    }

    return (uint32_t) n;
}


static void
quality_options(quality_conf_t *c, int argc, char **argv)
{
    static const struct option options[] = {
        { "isa", required_argument, NULL, 'i' },
        { "kv", required_argument, NULL, 'k' },
        { "float", required_argument, NULL, 'F' },
        { "text", required_argument, NULL, 'f' },
        { "bytes", required_argument, NULL, 'b' },
        { "chunk", required_argument, NULL, 'c' },
        { "tokens", required_argument, NULL, 'n' },
        { "max-kl", required_argument, NULL, 'm' },
        { "threads", required_argument, NULL, 't' },
        { "help", no_argument, NULL, 'h' },
        { NULL, 0, NULL, 0 }
    };
    int opt;

    while ((opt = getopt_long(argc, argv, "t:h", options, NULL)) != -1) {
        switch (opt) {

        case 'i':
            c->isa = optarg;
            break;

        case 'k':
            c->kv = optarg;
            break;

        case 'F':
            c->floats = optarg;
            break;

        case 'f':
            c->text = optarg;
            break;

        case 'b':
            c->bytes = quality_number("--bytes", optarg);
            break;

        case 'c':
            c->chunk = quality_number("--chunk", optarg);
            break;

        case 'n':
            c->tokens = quality_number("--tokens", optarg);
            break;

        case 'm':
            c->max_kl = strtod(optarg, NULL);
            break;

        case 't':
            c->threads = quality_number("--threads", optarg);
            break;

        default:
            fputs(usage, opt == 'h' ? stdout : stderr);
            exit(opt == 'h' ? 0 : 2);
        }
    }

    if (optind == argc || c->chunk < 4 || c->chunk > 8192
        || c->threads > KERN_MAX_THREADS)
    {
        fputs(usage, stderr);
        exit(2);
    }
}


/* The ids of the text's first bytes; the caller's. */
static int32_t *
quality_ids(const quality_conf_t *c, infer_gguf_t *gguf, size_t *n,
    int32_t *bos)
{
    infer_err_t err = { 0, "" };
    infer_text_t *text = NULL;
    void *image;
    size_t image_len;
    int32_t *ids = NULL;
    char *s = malloc(c->bytes);
    FILE *f = fopen(c->text, "rb");

    if (s == NULL || f == NULL) {
        quality_die(c->text, f == NULL ? strerror(errno) : "no memory");
    }

    size_t len = fread(s, 1, c->bytes, f);

    if (infer_text_build(gguf, NULL, 0, &image, &image_len, &err) != INFER_OK
        || infer_text_open(&text, image, image_len, &err) != INFER_OK
        || infer_text_encode(text, s, len, 0, &ids, n, &err) != INFER_OK)
    {
        quality_die("tokenizer", err.text);
    }

    *bos = infer_text_add_bos(text) ? infer_text_bos(text) : -1;
    infer_text_close(text);
    free(image);
    fclose(f);
    free(s);

    return ids;
}


static void
quality_open(quality_level_t *l, const quality_conf_t *c,
    infer_gguf_t *gguf, const char *file)
{
    infer_err_t err = { 0, "" };
    long cpus = sysconf(_SC_NPROCESSORS_ONLN);
    uint32_t pages = (c->chunk + KERN_PAGE_TOKENS - 1) / KERN_PAGE_TOKENS;
    const infer_model_conf_t conf = {
        .context = c->chunk, .max_rows = c->chunk,
        .max_outs = c->chunk / 2, .max_seqs = 1, .n_pages = pages,
        .kv_type = l->kv,
        .n_threads = c->threads ? c->threads
                     : cpus > 0 && cpus < KERN_MAX_THREADS ? (uint32_t) cpus
                     : 1
    };

    l->ops = kern_init("cpu", l->name, &err);
    l->score.kl = calloc(c->chunk, sizeof(double));
    l->score.same = calloc(c->chunk, 1);

    if (l->ops == NULL) {
        quality_die(l->name, err.text);
    }

    if (l->score.kl == NULL || l->score.same == NULL
        || infer_model_load(&l->model, gguf, l->ops, &conf, &err)
           != INFER_OK)
    {
        quality_die(file, err.text);
    }
}


static void
quality_close(quality_level_t *l)
{
    infer_model_free(l->model);
    free(l->score.kl);
    free(l->score.same);
}


/* One chunk from an empty cache; logits of its second half. */
static void
quality_run(quality_level_t *l, const int32_t *ids, uint32_t n)
{
    uint32_t pages[8192 / KERN_PAGE_TOKENS], out[4096];
    double t0 = quality_now();

    for (uint32_t i = 0; i * KERN_PAGE_TOKENS < n; i++) {
        pages[i] = i;
        l->ops->kv_zero(infer_model_ctx(l->model), i);
    }

    for (uint32_t i = 0; i < n / 2; i++) {
        out[i] = n - n / 2 + i;
    }

    const kern_seq_t seq = {
        .first_row = 0, .n_rows = n, .pos0 = 0, .pages = pages
    };
    const kern_batch_t batch = {
        .n_rows = n, .token = ids, .n_seqs = 1, .seq = &seq,
        .n_outs = n / 2, .out_row = out
    };

    if (infer_model_forward(l->model, &batch) != INFER_OK) {
        quality_die(l->name, "the forward pass failed");
    }

    l->seconds += quality_now() - t0;
}


/* max and log of the sum of exp(x - max), in f64. */
static double
quality_log_sum(const float *x, uint32_t n, double *max)
{
    double sum = 0;

    *max = x[0];

    for (uint32_t i = 1; i < n; i++) {
        *max = x[i] > *max ? x[i] : *max;
    }

    for (uint32_t i = 0; i < n; i++) {
        sum += exp(x[i] - *max);
    }

    return log(sum);
}


/* Row i: sum of p * (log p - log q), p the reference's. */
static void
quality_row(void *arg, uint32_t i)
{
    quality_pair_t *pair = arg;
    const float *p = pair->ref->ops->logits(infer_model_ctx(pair->ref->model),
                                            i);
    const float *q = pair->level->ops->logits(
                         infer_model_ctx(pair->level->model), i);
    double p_max, q_max, kl = 0;
    double p_log = quality_log_sum(p, pair->vocab, &p_max) + p_max;
    double q_log = quality_log_sum(q, pair->vocab, &q_max) + q_max;

    for (uint32_t v = 0; v < pair->vocab; v++) {
        double lp = p[v] - p_log;

        kl += exp(lp) * (lp - (q[v] - q_log));
    }

    pair->level->score.kl[i] = kl;
    pair->level->score.same[i] = pair->ref->ops->argmax(p, pair->vocab)
                                 == pair->ref->ops->argmax(q, pair->vocab);
}


static void
quality_compare(quality_level_t *ref, quality_level_t *level, uint32_t n)
{
    quality_score_t *s = &level->score;
    quality_pair_t pair = {
        .ref = ref, .level = level,
        .vocab = infer_model_info(ref->model)->vocab
    };

    ref->ops->parallel(infer_model_ctx(ref->model), quality_row, &pair, n);

    for (uint32_t i = 0; i < n; i++) {
        s->sum += s->kl[i];
        s->squares += s->kl[i] * s->kl[i];
        s->worst = s->kl[i] <= s->worst ? s->worst : s->kl[i];
        s->n_same += s->same[i];
    }

    s->n += n;
}


/* 0 when the limit is kept; a NaN breaks it. */
static int
quality_print(const quality_conf_t *c, const quality_level_t *l)
{
    const quality_score_t *s = &l->score;
    double n = (double) s->n, mean = s->sum / n;
    double variance = s->squares / n - mean * mean;
    int bad = c->max_kl > 0 && !(mean <= c->max_kl);

    printf("  %-8s kv %s  mean KL %.6f +- %.6f  worst %.3f  same best "
           "%.2f %%  %llu tokens  %.1f s%s\n", l->name,
           kern_kv_name(l->kv), mean,
           sqrt(variance > 0 ? variance / n : 0), s->worst,
           100.0 * (double) s->n_same / n, (unsigned long long) s->n,
           l->seconds, bad ? "  TOO FAR" : "");

    return bad;
}


/* Runs the chunks through the reference and each level. */
static int
quality_judge(const quality_conf_t *c, quality_level_t *ref,
    quality_level_t *level, uint32_t n_levels, int32_t *ids, size_t n_ids,
    int32_t bos)
{
    uint32_t scored = 0;
    int bad = 0;

    for (size_t at = 0; n_ids - at >= c->chunk; at += c->chunk) {
        if (c->tokens != 0 && scored >= c->tokens) {
            break;
        }

        if (bos >= 0) {
            ids[at] = bos;
        }

        quality_run(ref, ids + at, c->chunk);

        for (uint32_t i = 0; i < n_levels; i++) {
            quality_run(&level[i], ids + at, c->chunk);
            quality_compare(ref, &level[i], c->chunk / 2);
        }

        scored += c->chunk / 2;
    }

    if (scored == 0) {
        quality_die(c->text, "is shorter than a chunk");
    }

    for (uint32_t i = 0; i < n_levels; i++) {
        bad |= quality_print(c, &level[i]);
    }

    return bad;
}


static infer_gguf_t *
quality_gguf(const char *file, int *fd)
{
    infer_err_t err = { 0, "" };
    infer_gguf_t *gguf;

    *fd = open(file, O_RDONLY | O_CLOEXEC);

    if (*fd < 0) {
        quality_die(file, strerror(errno));
    }

    if (infer_gguf_open(&gguf, *fd, &err) != INFER_OK) {
        quality_die(file, err.text);
    }

    return gguf;
}


/* The reference: its own level, or the first one with f32 weights. */
static void
quality_open_ref(quality_level_t *ref, const quality_conf_t *c,
    infer_gguf_t *gguf, const char *file)
{
    char name[32];
    int fd;

    if (c->floats == NULL) {
        ref->name = "ref";
        quality_open(ref, c, gguf, file);
        return;
    }

    (void) snprintf(name, sizeof(name), "%.*s",
                    (int) strcspn(c->isa, ","), c->isa);
    gguf = quality_gguf(c->floats, &fd);
    ref->name = name;
    quality_open(ref, c, gguf, c->floats);
    ref->name = ref->ops->name;
    infer_gguf_close(gguf);
    close(fd);
}


static int
quality_file(const quality_conf_t *c, const char *file)
{
    quality_level_t ref = { 0 };
    quality_level_t level[QUALITY_MAX_LEVELS] = { 0 };
    uint32_t n_levels = 0;
    char *names = strdup(c->isa), *kvs, *rest = NULL;
    size_t n_ids;
    int32_t bos;
    int fd;
    infer_gguf_t *gguf = quality_gguf(file, &fd);
    int32_t *ids = quality_ids(c, gguf, &n_ids, &bos);

    if (names == NULL) {
        quality_die(file, "no memory");
    }

    quality_open_ref(&ref, c, gguf, file);

    for (char *s = strtok_r(names, ",", &rest); s != NULL;
         s = strtok_r(NULL, ",", &rest))
    {
        char *rest_kv = NULL;

        kvs = strdup(c->kv);

        for (char *k = strtok_r(kvs, ",", &rest_kv); k != NULL;
             k = strtok_r(NULL, ",", &rest_kv))
        {
            if (n_levels == QUALITY_MAX_LEVELS || kern_kv_type(k) < 0) {
                quality_die("--isa or --kv", "has too many or unknown ones");
            }

            level[n_levels].name = s;
            level[n_levels].kv = (uint32_t) kern_kv_type(k);
            quality_open(&level[n_levels], c, gguf, file);
            level[n_levels].name = level[n_levels].ops->name;

            if (infer_model_info(level[n_levels].model)->vocab
                != infer_model_info(ref.model)->vocab)
            {
                quality_die(c->floats, "is another model");
            }

            n_levels++;
        }

        free(kvs);
    }

    printf("%s\n", file);

    int bad = quality_judge(c, &ref, level, n_levels, ids, n_ids, bos);

    printf("  (reference: %.1f s)\n", ref.seconds);
    fflush(stdout);

    for (uint32_t i = 0; i < n_levels; i++) {
        quality_close(&level[i]);
    }

    quality_close(&ref);
    infer_gguf_close(gguf);
    close(fd);
    free(ids);
    free(names);

    return bad;
}


int
main(int argc, char **argv)
{
    quality_conf_t conf = {
        .isa = "auto", .kv = "f16", .bytes = 24000, .chunk = 512,
        .text = "/usr/share/common-licenses/GPL-3"
    };
    int bad = 0;

    quality_options(&conf, argc, argv);

    for (int i = optind; i < argc; i++) {
        bad |= quality_file(&conf, argv[i]);
    }

    return bad;
}
