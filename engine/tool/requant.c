/*
 * requant.c: writes a GGUF file again with its matrices in another type,
 * through f32, so that every type can be tried on a real model. Metadata is
 * kept byte for byte (general.file_type too), order and names of tensors as
 * well; vectors and types that we cannot read stay as they are. One row is
 * in memory at a time.
 */

#include "model/gguf.h"
#include "tool/quantize.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static const char usage[] =
    "usage: requant -t TYPE [--head TYPE] IN OUT\n"
    "  -t, --type TYPE   q4_0 q4_1 q5_0 q5_1 q8_0 q2_k q3_k q4_k q5_k q6_k\n"
    "                    q8_k iq4_nl iq4_xs f16 bf16 f32; rows too short for\n"
    "                    a type get its substitute\n"
    "  --head TYPE       of embedding and head (as -t)\n";

typedef struct {
    infer_gguf_t   *gguf;
    int             fd;                   /* of the input */
    const char     *in;
    FILE           *out;
    const char     *out_name;
    uint32_t        type, head;
    uint64_t        align;
    uint64_t        meta_off;             /* first byte of the metadata */
    uint64_t        meta_end;             /* first byte of the tensor list */
    uint64_t        written;
} requant_t;


static void
requant_die(const char *what, const char *why)
{
    fprintf(stderr, "requant: %s: %s\n", what, why);
    exit(1);
}


static void
requant_options(requant_t *r, int argc, char **argv)
{
    static const struct option options[] = {
        { "type", required_argument, NULL, 't' },
        { "head", required_argument, NULL, 'H' },
        { "help", no_argument, NULL, 'h' },
        { NULL, 0, NULL, 0 }
    };
    const char *type = NULL, *head = NULL;
    int opt;

    while ((opt = getopt_long(argc, argv, "t:h", options, NULL)) != -1) {
        switch (opt) {

        case 't':
            type = optarg;
            break;

        case 'H':
            head = optarg;
            break;

        default:
            fputs(usage, opt == 'h' ? stdout : stderr);
            exit(opt != 'h');
        }
    }

    if (type == NULL || argc - optind != 2) {
        fputs(usage, stderr);
        exit(1);
    }

    if (!quant_type(type, &r->type)
        || !quant_type(head ? head : type, &r->head))
    {
        requant_die("no such type", head ? head : type);
    }

    r->in = argv[optind];
    r->out_name = argv[optind + 1];
}


static void
requant_read(const requant_t *r, void *buf, size_t len, uint64_t off)
{
    char *p = buf;

    while (len > 0) {
        ssize_t n = pread(r->fd, p, len, (off_t) off);

        if (n <= 0) {
            requant_die(r->in, n == 0 ? "ends too early" : strerror(errno));
        }

        p += n;
        len -= (size_t) n;
        off += (uint64_t) n;
    }
}


static void
requant_write(requant_t *r, const void *p, size_t len)
{
    if (fwrite(p, 1, len, r->out) != len) {
        requant_die(r->out_name, strerror(errno));
    }

    r->written += len;
}


static void
requant_pad(requant_t *r)
{
    static const char zero;

    while (r->written % r->align != 0) {
        requant_write(r, &zero, 1);
    }
}


static uint64_t
requant_u64(const requant_t *r, uint64_t off)
{
    uint64_t v;

    requant_read(r, &v, sizeof(v), off);

    return v;
}


/* The byte after a value of a type that is no array. */
static uint64_t
requant_skip(const requant_t *r, uint32_t type, uint64_t off)
{
    static const uint8_t bytes[] = { 1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8 };

    if (type == INFER_GGUF_STRING) {
        return off + 8 + requant_u64(r, off);
    }

    return off + bytes[type];
}


/* Finds where the tensor list begins; the reader has checked the file. */
static void
requant_find_list(requant_t *r)
{
    uint64_t n_keys = requant_u64(r, 16), off = 24;

    r->meta_off = off;

    for (uint64_t k = 0; k < n_keys; k++) {
        uint32_t type = INFER_GGUF_STRING;
        uint64_t count = 1;

        off = requant_skip(r, type, off);
        requant_read(r, &type, sizeof(type), off);
        off += sizeof(type);

        if (type == INFER_GGUF_ARRAY) {
            requant_read(r, &type, sizeof(type), off);
            count = requant_u64(r, off + sizeof(type));
            off += sizeof(type) + sizeof(count);
        }

        if (type != INFER_GGUF_STRING) {
            off += count * (requant_skip(r, type, off) - off);
            continue;
        }

        for (uint64_t i = 0; i < count; i++) {
            off = requant_skip(r, type, off);
        }
    }

    r->meta_end = off;
}


static int
requant_is_head(const char *name)
{
    return strcmp(name, "token_embd.weight") == 0
           || strcmp(name, "output.weight") == 0;
}


/* What a tensor becomes. */
static uint32_t
requant_target(const requant_t *r, const infer_gguf_tensor_t *t)
{
    uint32_t values, bytes;

    kern_block_layout_ref(t->type, &values, &bytes);

    if (t->n_dims < 2 || values == 0) {
        return t->type;
    }

    return quant_fit(requant_is_head(t->name) ? r->head : r->type,
                     t->dim[0]);
}


static uint64_t
requant_rows(const infer_gguf_tensor_t *t)
{
    return t->dim[1] * t->dim[2] * t->dim[3];
}


static uint64_t
requant_bytes(const infer_gguf_tensor_t *t, uint32_t type)
{
    uint32_t values, bytes;

    if (type == t->type) {
        return t->bytes;
    }

    kern_block_layout_ref(type, &values, &bytes);

    return t->dim[0] / values * bytes * requant_rows(t);
}


static void
requant_head(requant_t *r)
{
    const uint32_t magic[2] = { 0x46554747, 3 };
    uint64_t n = infer_gguf_n_tensors(r->gguf), off = 0;
    const uint64_t counts[2] = { n, requant_u64(r, 16) };
    char buf[4096];

    requant_write(r, magic, sizeof(magic));
    requant_write(r, counts, sizeof(counts));

    for (uint64_t at = r->meta_off; at < r->meta_end; ) {
        uint64_t left = r->meta_end - at;
        size_t len = left < sizeof(buf) ? (size_t) left : sizeof(buf);

        requant_read(r, buf, len, at);
        requant_write(r, buf, len);
        at += len;
    }

    for (uint64_t i = 0; i < n; i++) {
        const infer_gguf_tensor_t *t = infer_gguf_tensor_at(r->gguf, i);
        uint32_t type = requant_target(r, t);
        uint64_t len = strlen(t->name);

        requant_write(r, &len, sizeof(len));
        requant_write(r, t->name, len);
        requant_write(r, &t->n_dims, sizeof(t->n_dims));
        requant_write(r, t->dim, t->n_dims * sizeof(t->dim[0]));
        requant_write(r, &type, sizeof(type));
        requant_write(r, &off, sizeof(off));
        off += requant_bytes(t, type);
        off = (off + r->align - 1) / r->align * r->align;
    }

    requant_pad(r);
}


static void
requant_copy(requant_t *r, const infer_gguf_tensor_t *t)
{
    char buf[65536];

    for (uint64_t off = 0; off < t->bytes; ) {
        uint64_t left = t->bytes - off;
        size_t len = left < sizeof(buf) ? (size_t) left : sizeof(buf);

        if (infer_gguf_read(r->gguf, t, buf, len, off) != INFER_OK) {
            requant_die(t->name, "cannot be read");
        }

        requant_write(r, buf, len);
        off += len;
    }
}


static void
requant_tensor(requant_t *r, const infer_gguf_tensor_t *t)
{
    uint32_t values, bytes, type = requant_target(r, t);
    uint64_t n_rows = requant_rows(t);

    if (type == t->type) {
        requant_copy(r, t);
        return;
    }

    if (t->dim[0] > 1 << 24 || n_rows == 0) {
        requant_die(t->name, "has no usable shape");
    }

    kern_block_layout_ref(t->type, &values, &bytes);

    size_t cols = (size_t) t->dim[0], in_bytes = cols / values * bytes;
    size_t out_bytes = (size_t) (requant_bytes(t, type) / n_rows);
    float *x = malloc(cols * sizeof(float));
    uint8_t *in = malloc(in_bytes), *out = malloc(out_bytes);

    if (x == NULL || in == NULL || out == NULL) {
        requant_die(t->name, "no memory");
    }

    for (uint64_t row = 0; row < n_rows; row++) {
        if (infer_gguf_read(r->gguf, t, in, in_bytes, row * in_bytes)
            != INFER_OK)
        {
            requant_die(t->name, "cannot be read");
        }

        (void) kern_dequant_ref(x, t->type, in, cols);
        quant_row(out, type, x, cols);
        requant_write(r, out, out_bytes);
    }

    free(x);
    free(in);
    free(out);
}


int
main(int argc, char **argv)
{
    requant_t r = { .align = 32 };
    infer_err_t err = { 0, "" };

    requant_options(&r, argc, argv);

    r.fd = open(r.in, O_RDONLY | O_CLOEXEC);
    if (r.fd < 0) {
        requant_die(r.in, strerror(errno));
    }

    if (infer_gguf_open(&r.gguf, r.fd, &err) != INFER_OK) {
        requant_die(r.in, err.text);
    }

    (void) infer_gguf_get_u64(r.gguf, "general.alignment", &r.align);
    requant_find_list(&r);

    r.out = fopen(r.out_name, "wbx");
    if (r.out == NULL) {
        requant_die(r.out_name, strerror(errno));
    }

    requant_head(&r);

    for (uint64_t i = 0; i < infer_gguf_n_tensors(r.gguf); i++) {
        requant_pad(&r);
        requant_tensor(&r, infer_gguf_tensor_at(r.gguf, i));
    }

    if (fclose(r.out) != 0) {
        requant_die(r.out_name, strerror(errno));
    }

    infer_gguf_close(r.gguf);
    close(r.fd);

    return 0;
}
