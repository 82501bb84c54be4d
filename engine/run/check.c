/*
 * check.c: reads a model file on behalf of nginx, says in one sentence what
 * is wrong with it or with its configuration, chooses what was left open,
 * and writes the text image.
 */

#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "ipc/layout.h"
#include "ipc/spawn.h"
#include "model/model.h"
#include "run/check.h"
#include "text/text.h"

#define CHECK_CONTEXT       8192
#define CHECK_SEQUENCES     32
#define CHECK_BATCH         512
#define CHECK_MAX_BATCH     65536
#define CHECK_SEQ_TOKENS    2048      /* KV chosen for each sequence */
#define CHECK_MAX_TEMPLATE  (1u << 20)
#define CHECK_MAX_ROPE      256       /* as the kernels' heads */

typedef struct {
    int                  file, image, template;
    const char          *name, *device, *isa, *kv_type, *precision;
    int                  own_memory;        /* the device's, not ours */
    uint64_t             threads;
    uint64_t             context, sequences, batch_tokens, kv_bytes;
    uint64_t             page_bytes, n_pages, memory;
    infer_model_info_t   info;
} check_t;


static int
check_number(const char *text, uint64_t *v)
{
    char  *end;

    if (*text < '0' || *text > '9') {
        return INFER_INVALID;
    }

    errno = 0;
    *v = strtoull(text, &end, 10);

    return errno == 0 && *end == '\0' ? INFER_OK : INFER_INVALID;
}

static int
check_word(check_t *c, const char *word, infer_err_t *err)
{
    int          rc;
    size_t       i, n;
    uint64_t     v;
    const char  *value = strchr(word, '=');
    const struct {
        const char  *key;
        const char **text;
        uint64_t    *number;
        int         *fd;
    } keys[] = {
        { "file", NULL, NULL, &c->file },
        { "image", NULL, NULL, &c->image },
        { "template", NULL, NULL, &c->template },
        { "name", &c->name, NULL, NULL },
        { "device", &c->device, NULL, NULL },
        { "isa", &c->isa, NULL, NULL },
        { "kv_type", &c->kv_type, NULL, NULL },
        { "precision", &c->precision, NULL, NULL },
        { "threads", NULL, &c->threads, NULL },
        { "context", NULL, &c->context, NULL },
        { "sequences", NULL, &c->sequences, NULL },
        { "batch_tokens", NULL, &c->batch_tokens, NULL },
        { "kv_bytes", NULL, &c->kv_bytes, NULL }
    };

    n = value != NULL ? (size_t) (value - word) : 0;

    for (i = 0; i < sizeof(keys) / sizeof(keys[0]); i++) {
        if (n != strlen(keys[i].key) || memcmp(word, keys[i].key, n) != 0) {
            continue;
        }

        value++;
        rc = INFER_OK;
        if (keys[i].text != NULL) {
            *keys[i].text = value;

        } else if (keys[i].number != NULL) {
            rc = check_number(value, keys[i].number);

        } else if (strcmp(value, "-1") == 0) {
            *keys[i].fd = -1;

        } else {
            rc = check_number(value, &v);
            *keys[i].fd = rc == INFER_OK && v < 1u << 20 ? (int) v : -1;
        }

        return rc == INFER_OK ? rc
                              : infer_err(err, rc, "bad argument \"%s\"",
                                          word);
    }

    return infer_err(err, INFER_INVALID, "unknown argument \"%s\"", word);
}

/* Memory of the machine, or of the container that we are in. */
static uint64_t
check_memory(void)
{
    FILE                *f;
    uint64_t             n, limit;
    unsigned long long   v;

    n = (uint64_t) sysconf(_SC_PHYS_PAGES) * (uint64_t) sysconf(_SC_PAGESIZE);

    f = fopen("/sys/fs/cgroup/memory.max", "r");
    if (f != NULL) {
        if (fscanf(f, "%llu", &v) == 1) {
            limit = v;
            n = limit != 0 && limit < n ? limit : n;
        }
        fclose(f);
    }

    return n;
}

/* Context, sequences and rows of a step, without KV. */
static int
check_sizes(check_t *c, infer_err_t *err)
{
    uint64_t  train = c->info.train_context;

    if (c->context == 0) {
        c->context = train != 0 && train < CHECK_CONTEXT ? train
                                                         : CHECK_CONTEXT;
    } else if (train != 0 && c->context > train) {
        return infer_err(err, INFER_INVALID,
                         "context of %llu tokens is more than the %llu that "
                         "the model was made for",
                         (unsigned long long) c->context,
                         (unsigned long long) train);
    } else if (c->context > 1u << 28) {
        return infer_err(err, INFER_INVALID,
                         "context of %llu tokens is more than %u",
                         (unsigned long long) c->context, 1u << 28);
    }

    if (c->sequences == 0) {
        c->sequences = CHECK_SEQUENCES;
        if (c->batch_tokens != 0 && c->batch_tokens < c->sequences) {
            c->sequences = c->batch_tokens;
        }
    }

    if (c->sequences > INFER_MAX_SLOTS) {
        return infer_err(err, INFER_INVALID,
                         "%llu sequences are more than the %d that are "
                         "possible", (unsigned long long) c->sequences,
                         INFER_MAX_SLOTS);
    }

    if (c->batch_tokens == 0) {
        c->batch_tokens = c->sequences > CHECK_BATCH ? c->sequences
                                                     : CHECK_BATCH;
    }

    if (c->batch_tokens < c->sequences || c->batch_tokens > CHECK_MAX_BATCH) {
        return infer_err(err, INFER_INVALID,
                         "batch_tokens of %llu must be at least the %llu "
                         "sequences and at most %d",
                         (unsigned long long) c->batch_tokens,
                         (unsigned long long) c->sequences, CHECK_MAX_BATCH);
    }

    return INFER_OK;
}

/* Pages: what was asked for, or enough for every sequence at a usual length,
 * within a quarter of the memory. One whole context must fit. */
static int
check_kv(check_t *c, int context_given, infer_err_t *err)
{
    uint64_t  whole, usual, room;

    if (c->info.tensor_bytes > c->memory) {
        return infer_err(err, INFER_INVALID,
                         "weights of %llu bytes do not fit the memory of "
                         "%llu bytes",
                         (unsigned long long) c->info.tensor_bytes,
                         (unsigned long long) c->memory);
    }

    if (c->kv_bytes > c->memory) {
        return infer_err(err, INFER_INVALID,
                         "kv_cache of %llu bytes does not fit the memory of "
                         "%llu bytes", (unsigned long long) c->kv_bytes,
                         (unsigned long long) c->memory);
    }

    whole = (c->context + KERN_PAGE_TOKENS - 1) / KERN_PAGE_TOKENS;
    room = (c->kv_bytes != 0 ? c->kv_bytes : c->memory / 4) / c->page_bytes;

    if (room == 0 || (whole > room && context_given)) {
        return infer_err(err, INFER_INVALID,
                         "context of %llu tokens needs %llu bytes of KV "
                         "cache, but there are only %llu",
                         (unsigned long long) c->context,
                         (unsigned long long) (whole * c->page_bytes),
                         (unsigned long long) (c->kv_bytes != 0
                                               ? c->kv_bytes
                                               : c->memory / 4));
    }

    if (whole > room) {
        whole = room;
        c->context = room * KERN_PAGE_TOKENS;
    }

    if (c->kv_bytes != 0) {
        c->n_pages = room;

    } else {
        usual = whole < CHECK_SEQ_TOKENS / KERN_PAGE_TOKENS
                ? whole : CHECK_SEQ_TOKENS / KERN_PAGE_TOKENS;
        c->n_pages = usual * c->sequences;
        c->n_pages = c->n_pages < whole ? whole : c->n_pages;
        c->n_pages = c->n_pages > room ? room : c->n_pages;
    }

    if (c->n_pages > 1u << 28) {
        c->n_pages = 1u << 28;
    }

    return INFER_OK;
}

/* Pages in the memory of a device that is not touched here: as many as can
 * ever be used, unless kv_cache says less. The engine takes what there is. */
static int
check_kv_device(check_t *c, infer_err_t *err)
{
    uint64_t  whole;

    whole = (c->context + KERN_PAGE_TOKENS - 1) / KERN_PAGE_TOKENS;
    c->n_pages = whole * c->sequences;

    if (c->kv_bytes != 0) {
        if (c->kv_bytes / c->page_bytes < whole) {
            return infer_err(err, INFER_INVALID,
                             "context of %llu tokens needs %llu bytes of KV "
                             "cache, but there are only %llu",
                             (unsigned long long) c->context,
                             (unsigned long long) (whole * c->page_bytes),
                             (unsigned long long) c->kv_bytes);
        }
        c->n_pages = c->kv_bytes / c->page_bytes;
    }

    if (c->n_pages > 1u << 28) {
        c->n_pages = 1u << 28;
    }

    return INFER_OK;
}

/* Asks supports(), or, where a device is only memory of ours, opens and
 * closes. The rotation's frequencies are all zero: no answer depends on
 * them. */
static int
check_shape(check_t *c, const kern_ops_t *ops, kern_shape_t *shape,
    infer_err_t *err)
{
    int          rc;
    float        freq[CHECK_MAX_ROPE / 2] = { 0 };
    kern_ctx_t  *ctx;

    if (c->info.rope_dim > CHECK_MAX_ROPE) {
        return infer_err(err, INFER_UNSUPPORTED,
                         "rotation of %u values cannot be served",
                         c->info.rope_dim);
    }

    shape->rope_inv_freq = freq;
    if (ops->supports != NULL) {
        return ops->supports(shape, err);
    }

    rc = ops->open(&ctx, ops, shape, err);
    if (rc == INFER_OK) {
        ops->close(ctx);
    }

    return rc;
}

/* What the device cannot do, whatever the model. */
static int
check_device(check_t *c, const kern_ops_t *ops, kern_shape_t *shape,
    infer_err_t *err)
{
    int  kv_type = kern_kv_type(c->kv_type);
    int  precision = kern_prec(c->precision);

    if (kv_type < 0) {
        return infer_err(err, INFER_INVALID, "unknown KV type \"%s\"",
                         c->kv_type);
    }

    if (precision < 0) {
        return infer_err(err, INFER_INVALID, "unknown precision \"%s\"",
                         c->precision);
    }

    c->own_memory = ops->n_pages != NULL;
    if (!c->own_memory && kv_type >= KERN_N_CPU_KV) {
        return infer_err(err, INFER_UNSUPPORTED,
                         "KV type \"%s\" needs \"device cuda\"", c->kv_type);
    }

    if (!c->own_memory && precision != KERN_PREC_Q8) {
        return infer_err(err, INFER_UNSUPPORTED,
                         "precision \"%s\" needs \"device cuda\"",
                         c->precision);
    }

    shape->kv_type = (uint32_t) kv_type;
    shape->precision = (uint32_t) precision;

    return INFER_OK;
}

/* Whether the kernels can serve this shape at all; no device is touched. */
static int
check_kernels(check_t *c, const infer_gguf_t *gguf, infer_err_t *err)
{
    int                rc;
    kern_tensor_t     *tensor;
    const kern_ops_t  *ops;
    kern_shape_t       shape = {
        .n_layers = c->info.n_layers, .dim = c->info.dim,
        .n_heads = c->info.n_heads, .n_kv_heads = c->info.n_kv_heads,
        .head_dim = c->info.head_dim, .ffn = c->info.ffn,
        .vocab = c->info.vocab, .rope_dim = c->info.rope_dim,
        .rope_attn_scale = 1, .eps = c->info.eps, .max_rows = 1,
        .max_outs = 1, .max_seqs = 1, .context = 1, .n_pages = 1,
        .n_threads = 1
    };

    if (c->threads > KERN_MAX_THREADS) {
        return infer_err(err, INFER_INVALID,
                         "%llu threads are more than the %d that are "
                         "possible", (unsigned long long) c->threads,
                         KERN_MAX_THREADS);
    }

    ops = kern_init(c->device, c->isa, err);
    if (ops == NULL) {
        return INFER_UNSUPPORTED;
    }

    if ((rc = check_device(c, ops, &shape, err)) != INFER_OK
        || (rc = infer_model_tensors(gguf, &c->info, &tensor,
                                     &shape.n_tensors, err)) != INFER_OK)
    {
        return rc;
    }

    shape.tensor = tensor;
    rc = check_shape(c, ops, &shape, err);
    free(tensor);
    c->page_bytes = ops->kv_page_bytes(&shape);

    return rc;
}

/* ---- the text image ---- */

static int
check_read_template(const check_t *c, char **text, size_t *len,
    infer_err_t *err)
{
    ssize_t      n;
    size_t       at = 0;
    struct stat  st;

    *text = NULL;
    *len = 0;
    if (c->template < 0) {
        return INFER_OK;
    }

    if (fstat(c->template, &st) != 0 || st.st_size < 0
        || st.st_size > CHECK_MAX_TEMPLATE)
    {
        return infer_err(err, INFER_INVALID,
                         "chat_template is larger than %u bytes",
                         CHECK_MAX_TEMPLATE);
    }

    *text = malloc((size_t) st.st_size + 1);
    if (*text == NULL) {
        return infer_err(err, INFER_NOMEM, "no memory");
    }

    while (at < (size_t) st.st_size) {
        n = pread(c->template, *text + at, (size_t) st.st_size - at,
                  (off_t) at);
        if (n <= 0) {
            free(*text);
            *text = NULL;
            return infer_err(err, INFER_INVALID,
                             "chat_template cannot be read");
        }
        at += (size_t) n;
    }

    *len = at;

    return INFER_OK;
}

static int
check_write_image(const check_t *c, const char *image, size_t len,
    infer_err_t *err)
{
    ssize_t  n;
    size_t   at = 0;

    while (at < len) {
        n = pwrite(c->image, image + at, len - at, (off_t) at);
        if (n <= 0 && errno != EINTR) {
            return infer_err(err, INFER_NOMEM,
                             "the text image cannot be written: %s",
                             strerror(errno));
        }
        at += n > 0 ? (size_t) n : 0;
    }

    return INFER_OK;
}

/* Also opens the image as a worker will, so that what cannot be opened
 * there is found here. *has_template: the model can chat. */
static int
check_text(const check_t *c, infer_gguf_t *gguf, int *has_template,
    infer_err_t *err)
{
    int            rc;
    char          *tpl;
    void          *image = NULL;
    size_t         tpl_len, len;
    infer_text_t  *text;

    rc = check_read_template(c, &tpl, &tpl_len, err);
    if (rc != INFER_OK) {
        return rc;
    }

    rc = infer_text_build(gguf, tpl, tpl_len, &image, &len, err);
    free(tpl);
    if (rc != INFER_OK) {
        return rc;
    }

    rc = infer_text_open(&text, image, len, err);
    if (rc == INFER_OK) {
        *has_template = infer_text_template(text) != NULL;

        if (infer_text_vocab(text) > c->info.vocab) {
            rc = infer_err(err, INFER_CORRUPT,
                           "the tokenizer has %u tokens, the model only %u",
                           infer_text_vocab(text), c->info.vocab);
        }
        infer_text_close(text);
    }

    if (rc == INFER_OK && c->image >= 0) {
        rc = check_write_image(c, image, len, err);
    }

    free(image);

    return rc;
}

static int
check_run(check_t *c, int argc, char **argv, infer_err_t *err)
{
    int            i, rc, context_given, has_template = 0;
    infer_gguf_t  *gguf;

    for (i = 0; i < argc; i++) {
        rc = check_word(c, argv[i], err);
        if (rc != INFER_OK) {
            return rc;
        }
    }

    if (c->file < 0) {
        return infer_err(err, INFER_INVALID, "no file= argument");
    }

    context_given = c->context != 0;
    c->memory = check_memory();

    rc = infer_gguf_open(&gguf, c->file, err);
    if (rc != INFER_OK) {
        return rc;
    }

    if ((rc = infer_model_inspect(gguf, &c->info, err)) == INFER_OK
        && (rc = check_kernels(c, gguf, err)) == INFER_OK
        && (rc = check_sizes(c, err)) == INFER_OK
        && (rc = c->own_memory ? check_kv_device(c, err)
                               : check_kv(c, context_given, err))
           == INFER_OK)
    {
        rc = check_text(c, gguf, &has_template, err);
    }

    infer_gguf_close(gguf);
    if (rc != INFER_OK) {
        return rc;
    }

    printf("ok context=%llu sequences=%llu batch_tokens=%llu n_pages=%llu "
           "page_bytes=%llu vocab=%u tensor_bytes=%llu n_params=%llu "
           "train_context=%u template=%d\n",
           (unsigned long long) c->context,
           (unsigned long long) c->sequences,
           (unsigned long long) c->batch_tokens,
           (unsigned long long) c->n_pages,
           (unsigned long long) c->page_bytes, c->info.vocab,
           (unsigned long long) c->info.tensor_bytes,
           (unsigned long long) c->info.n_params, c->info.train_context,
           has_template);

    return INFER_OK;
}

int
infer_check(int argc, char **argv)
{
    char        *p;
    check_t      c;
    infer_err_t  err = { 0, "" };

    memset(&c, 0, sizeof(c));
    c.file = -1;
    c.image = -1;
    c.template = -1;
    c.device = "cpu";
    c.isa = "auto";
    c.kv_type = "f16";
    c.precision = "q8";

    if (check_run(&c, argc, argv, &err) == INFER_OK
        && fflush(stdout) == 0)
    {
        return INFER_EXIT_OK;
    }

    for (p = err.text; *p != '\0'; p++) {
        if (*p == '\n' || *p == '\r') {
            *p = ' ';
        }
    }

    printf("error %s\n", err.text[0] ? err.text : "the check failed");

    return INFER_EXIT_FAILED;
}
