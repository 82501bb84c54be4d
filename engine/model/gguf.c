/*
 * gguf.c: the GGUF parser behind gguf.h. The front of the file (header,
 * metadata, tensor list) is read into one heap buffer that grows as the
 * parser advances, never beyond GGUF_MAX_META; values are kept as offsets
 * into it and copied out when asked for. Tensor data is only ever reached
 * by pread. One infer_gguf_t is constant after open, so any thread may use
 * it. Numbers in the file are little-endian, as on every host that we run
 * on.
 */

#include "model/gguf_impl.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__,
    "numbers are copied out of the file as they are");

#define GGUF_MAX_META     (512ull << 20)  /* bytes before the tensor data */
#define GGUF_MAX_KEYS     65536
#define GGUF_MAX_TENSORS  262144
#define GGUF_MAX_KEY      1024            /* it allows 65535; none is long */
#define GGUF_MAX_ALIGN    (1u << 20)
#define GGUF_READ_STEP    (256u << 10)
#define GGUF_MIN_KEY      13              /* length, one byte, type, value */
#define GGUF_MIN_TENSOR   33              /* length, one byte, one dim, ... */

typedef struct {
    infer_gguf_t  *g;
    uint64_t       off;
    infer_err_t   *err;
    char           where[128];  /* what is being read, for sentences */
} gguf_parser_t;

/* Values and bytes per block of the format's tensor types, also of those
 * that no kernel has, so that overlaps are found; zeros: not a type. */
static const struct {
    uint16_t  values;
    uint16_t  bytes;
} gguf_block[] = {
    [0] = { 1, 4 },      [1] = { 1, 2 },      [2] = { 32, 18 },
    [3] = { 32, 20 },    [6] = { 32, 22 },    [7] = { 32, 24 },
    [8] = { 32, 34 },    [9] = { 32, 36 },    [10] = { 256, 84 },
    [11] = { 256, 110 }, [12] = { 256, 144 }, [13] = { 256, 176 },
    [14] = { 256, 210 }, [15] = { 256, 292 }, [20] = { 32, 18 },
    [23] = { 256, 136 }, [24] = { 1, 1 },
    [25] = { 1, 2 },     [26] = { 1, 4 },     [27] = { 1, 8 },
    [28] = { 1, 8 },     [30] = { 1, 2 }
};


/* A name from the file as it may appear in a log line. */
static void
gguf_show(char *dst, size_t size, const unsigned char *s, uint64_t len)
{
    size_t n = len < size - 1 ? (size_t) len : size - 1;

    for (size_t i = 0; i < n; i++) {
        dst[i] = (s[i] >= 0x20 && s[i] < 0x7f && s[i] != '"')
                 ? (char) s[i] : '?';
    }

    dst[n] = '\0';
}


/* Makes n bytes at p->off readable. */
static int
gguf_need(gguf_parser_t *p, uint64_t n)
{
    infer_gguf_t *g = p->g;

    if (n <= g->meta_len - p->off) {
        return INFER_OK;
    }

    if (n > g->size - p->off) {
        return infer_err(p->err, INFER_CORRUPT,
                         "truncated or damaged: %s goes beyond the end of "
                         "the file (%llu bytes)", p->where,
                         (unsigned long long) g->size);
    }

    if (n > GGUF_MAX_META - p->off) {
        return infer_err(p->err, INFER_UNSUPPORTED,
                         "metadata is larger than %llu MiB at %s",
                         GGUF_MAX_META >> 20, p->where);
    }

    uint64_t want = p->off + n + GGUF_READ_STEP;

    want = want > g->size ? g->size : want;
    want = want > GGUF_MAX_META ? GGUF_MAX_META : want;

    if (want > g->meta_cap) {
        uint64_t cap = want + want / 2;
        unsigned char *meta = realloc(g->meta, cap);

        if (meta == NULL) {
            return infer_err(p->err, INFER_NOMEM,
                             "no memory for %llu bytes of metadata",
                             (unsigned long long) cap);
        }

        g->meta = meta;
        g->meta_cap = cap;
    }

    if (infer_gguf_pread(g->fd, g->meta + g->meta_len, want - g->meta_len,
                   g->meta_len) != INFER_OK)
    {
        return infer_err(p->err, INFER_CORRUPT,
                         "cannot read the file at byte %llu",
                         (unsigned long long) g->meta_len);
    }

    g->meta_len = want;

    return INFER_OK;
}


static int
gguf_take_u32(gguf_parser_t *p, uint32_t *v)
{
    int rc = gguf_need(p, sizeof(*v));

    if (rc == INFER_OK) {
        memcpy(v, p->g->meta + p->off, sizeof(*v));
        p->off += sizeof(*v);
    }

    return rc;
}


static int
gguf_take_u64(gguf_parser_t *p, uint64_t *v)
{
    int rc = gguf_need(p, sizeof(*v));

    if (rc == INFER_OK) {
        *v = infer_gguf_u64(p->g, p->off);
        p->off += sizeof(*v);
    }

    return rc;
}


/* Skips a string; *off is where its bytes begin. */
static int
gguf_take_str(gguf_parser_t *p, uint64_t *off, uint64_t *len)
{
    int rc = gguf_take_u64(p, len);

    if (rc != INFER_OK || (rc = gguf_need(p, *len)) != INFER_OK) {
        return rc;
    }

    *off = p->off;
    p->off += *len;

    return INFER_OK;
}


/* A key or a tensor name: 1 .. max bytes, no NUL. */
static int
gguf_take_name(gguf_parser_t *p, const char *kind, uint64_t max,
    uint64_t *off, uint64_t *len)
{
    int rc = gguf_take_str(p, off, len);

    if (rc != INFER_OK) {
        return rc;
    }

    if (*len == 0 || *len > max) {
        return infer_err(p->err, INFER_CORRUPT,
                         "%s has a name of %llu bytes (1 to %llu allowed)",
                         p->where, (unsigned long long) *len,
                         (unsigned long long) max);
    }

    if (memchr(p->g->meta + *off, '\0', *len) != NULL) {
        return infer_err(p->err, INFER_CORRUPT, "%s has a NUL in its name",
                         p->where);
    }

    char shown[80];

    gguf_show(shown, sizeof(shown), p->g->meta + *off, *len);
    (void) snprintf(p->where, sizeof(p->where), "%s \"%s\"", kind, shown);

    return INFER_OK;
}


static int
gguf_take_array(gguf_parser_t *p, gguf_kv_t *kv)
{
    int rc = gguf_take_u32(p, &kv->elem);

    if (rc != INFER_OK || (rc = gguf_take_u64(p, &kv->count)) != INFER_OK) {
        return rc;
    }

    uint32_t bytes = infer_gguf_scalar_bytes(kv->elem);

    kv->off = p->off;

    if (bytes == 0 && kv->elem != INFER_GGUF_STRING) {
        return infer_err(p->err, INFER_UNSUPPORTED,
                         "%s is an array of elements of type %u", p->where,
                         kv->elem);
    }

    uint64_t least = bytes ? bytes : sizeof(uint64_t);

    if (kv->count > GGUF_MAX_META / least) {
        return infer_err(p->err, INFER_CORRUPT,
                         "%s claims an array of %llu elements", p->where,
                         (unsigned long long) kv->count);
    }

    if (bytes != 0) {
        rc = gguf_need(p, kv->count * bytes);
        p->off += rc == INFER_OK ? kv->count * bytes : 0;
        return rc;
    }

    if (kv->count * least > p->g->size - p->off) {
        return infer_err(p->err, INFER_CORRUPT,
                         "%s claims an array of %llu strings, more than the "
                         "file can hold", p->where,
                         (unsigned long long) kv->count);
    }

    kv->str_off = malloc((kv->count + 1) * sizeof(uint32_t));
    if (kv->str_off == NULL) {
        return infer_err(p->err, INFER_NOMEM, "no memory for %s", p->where);
    }

    for (uint64_t i = 0; i < kv->count; i++) {
        uint64_t off, len;

        kv->str_off[i] = (uint32_t) p->off;

        rc = gguf_take_str(p, &off, &len);
        if (rc != INFER_OK) {
            return rc;
        }
    }

    return INFER_OK;
}


static int
gguf_take_kv(gguf_parser_t *p, gguf_kv_t *kv)
{
    int rc = gguf_take_name(p, "key", GGUF_MAX_KEY, &kv->key_off,
                            &kv->key_len);

    if (rc != INFER_OK || (rc = gguf_take_u32(p, &kv->type)) != INFER_OK) {
        return rc;
    }

    kv->off = p->off;

    if (kv->type == INFER_GGUF_ARRAY) {
        return gguf_take_array(p, kv);
    }

    if (kv->type == INFER_GGUF_STRING) {
        uint64_t off, len;

        return gguf_take_str(p, &off, &len);
    }

    uint32_t bytes = infer_gguf_scalar_bytes(kv->type);

    if (bytes == 0) {
        return infer_err(p->err, INFER_CORRUPT,
                         "%s has a value of unknown type %u", p->where,
                         kv->type);
    }

    rc = gguf_need(p, bytes);
    if (rc != INFER_OK) {
        return rc;
    }

    if (kv->type == INFER_GGUF_BOOL && p->g->meta[p->off] > 1) {
        return infer_err(p->err, INFER_CORRUPT,
                         "%s is a bool with the value %u", p->where,
                         p->g->meta[p->off]);
    }

    p->off += bytes;

    return INFER_OK;
}


/* Sizes of a tensor from its type and dimensions. */
static int
gguf_size_tensor(gguf_parser_t *p, infer_gguf_tensor_t *t)
{
    uint64_t n = 1;

    for (uint32_t i = 0; i < t->n_dims; i++) {
        if (t->dim[i] == 0
            || __builtin_mul_overflow(n, t->dim[i], &n)
            || n > INT64_MAX)
        {
            return infer_err(p->err, INFER_CORRUPT,
                             "%s has an impossible dimension %u: %llu",
                             p->where, i, (unsigned long long) t->dim[i]);
        }
    }

    if (t->type >= sizeof(gguf_block) / sizeof(gguf_block[0])
        || gguf_block[t->type].values == 0)
    {
        t->bytes = 0;
        return INFER_OK;
    }

    uint32_t values = gguf_block[t->type].values;

    if (t->dim[0] % values != 0) {
        return infer_err(p->err, INFER_CORRUPT,
                         "%s: rows of %llu values are not whole blocks of "
                         "%u", p->where, (unsigned long long) t->dim[0],
                         values);
    }

    if (__builtin_mul_overflow(n / values, gguf_block[t->type].bytes,
                               &t->bytes))
    {
        return infer_err(p->err, INFER_CORRUPT, "%s is impossibly large",
                         p->where);
    }

    return INFER_OK;
}


static int
gguf_take_tensor(gguf_parser_t *p, infer_gguf_tensor_t *t, char *name)
{
    uint64_t off, len;
    int rc = gguf_take_name(p, "tensor", GGUF_MAX_NAME, &off, &len);

    if (rc != INFER_OK) {
        return rc;
    }

    memcpy(name, p->g->meta + off, len);
    name[len] = '\0';
    t->name = name;

    rc = gguf_take_u32(p, &t->n_dims);
    if (rc != INFER_OK) {
        return rc;
    }

    if (t->n_dims < 1 || t->n_dims > 4) {
        return infer_err(p->err, INFER_CORRUPT,
                         "%s has %u dimensions (1 to 4 allowed)", p->where,
                         t->n_dims);
    }

    for (uint32_t i = 0; i < 4; i++) {
        t->dim[i] = 1;

        if (i < t->n_dims
            && (rc = gguf_take_u64(p, &t->dim[i])) != INFER_OK)
        {
            return rc;
        }
    }

    if ((rc = gguf_take_u32(p, &t->type)) != INFER_OK
        || (rc = gguf_take_u64(p, &t->offset)) != INFER_OK)
    {
        return rc;
    }

    return gguf_size_tensor(p, t);
}


static int
gguf_take_header(gguf_parser_t *p)
{
    uint32_t magic, version;
    infer_gguf_t *g = p->g;
    int rc;

    (void) snprintf(p->where, sizeof(p->where), "the header");

    if ((rc = gguf_take_u32(p, &magic)) != INFER_OK) {
        return rc;
    }

    if (magic != 0x46554747) {
        return infer_err(p->err, INFER_INVALID,
                         "not a GGUF file: it does not begin with \"GGUF\"");
    }

    if ((rc = gguf_take_u32(p, &version)) != INFER_OK) {
        return rc;
    }

    if (version != 2 && version != 3) {
        return infer_err(p->err, INFER_UNSUPPORTED,
                         "GGUF version %u%s is not supported (2 and 3 are)",
                         version, (version & 0xffff) == 0
                         ? " (a big-endian file)" : "");
    }

    if ((rc = gguf_take_u64(p, &g->n_tensors)) != INFER_OK
        || (rc = gguf_take_u64(p, &g->n_kv)) != INFER_OK)
    {
        return rc;
    }

    if (g->n_kv > GGUF_MAX_KEYS
        || g->n_kv > (g->size - p->off) / GGUF_MIN_KEY)
    {
        return infer_err(p->err, INFER_CORRUPT,
                         "the header claims %llu metadata keys, more than "
                         "the file can hold", (unsigned long long) g->n_kv);
    }

    if (g->n_tensors > GGUF_MAX_TENSORS
        || g->n_tensors > (g->size - p->off) / GGUF_MIN_TENSOR)
    {
        return infer_err(p->err, INFER_CORRUPT,
                         "the header claims %llu tensors, more than the "
                         "file can hold", (unsigned long long) g->n_tensors);
    }

    return INFER_OK;
}


static int
gguf_cmp_kv(const void *one, const void *two, void *meta)
{
    const gguf_kv_t *a = one, *b = two;

    return infer_gguf_cmp_bytes((unsigned char *) meta + a->key_off,
                                a->key_len,
                                (unsigned char *) meta + b->key_off,
                                b->key_len);
}


static int
gguf_cmp_name(const void *one, const void *two)
{
    const infer_gguf_tensor_t *const *a = one, *const *b = two;

    return strcmp((*a)->name, (*b)->name);
}


static int
gguf_cmp_offset(const void *one, const void *two)
{
    const infer_gguf_tensor_t *const *a = one, *const *b = two;

    return ((*a)->offset > (*b)->offset) - ((*a)->offset < (*b)->offset);
}


static int
gguf_take_keys(gguf_parser_t *p)
{
    infer_gguf_t *g = p->g;
    uint64_t n = g->n_kv;

    g->kv = calloc(n + 1, sizeof(gguf_kv_t));
    if (g->kv == NULL) {
        return infer_err(p->err, INFER_NOMEM, "no memory for %llu keys",
                         (unsigned long long) n);
    }

    for (uint64_t i = 0; i < n; i++) {
        (void) snprintf(p->where, sizeof(p->where), "key number %llu",
                        (unsigned long long) i);

        int rc = gguf_take_kv(p, &g->kv[i]);

        if (rc != INFER_OK) {
            return rc;
        }
    }

    qsort_r(g->kv, n, sizeof(gguf_kv_t), gguf_cmp_kv, g->meta);

    for (uint64_t i = 1; i < n; i++) {
        if (gguf_cmp_kv(&g->kv[i - 1], &g->kv[i], g->meta) == 0) {
            char shown[80];

            gguf_show(shown, sizeof(shown), g->meta + g->kv[i].key_off,
                      g->kv[i].key_len);
            return infer_err(p->err, INFER_CORRUPT,
                             "key \"%s\" is there twice", shown);
        }
    }

    return INFER_OK;
}


static int
gguf_take_tensors(gguf_parser_t *p)
{
    infer_gguf_t *g = p->g;
    uint64_t n = g->n_tensors;

    g->tensor = calloc(n + 1, sizeof(*g->tensor));
    g->name = calloc(n + 1, sizeof(*g->name));
    g->by_name = calloc(n + 1, sizeof(*g->by_name));

    if (g->tensor == NULL || g->name == NULL || g->by_name == NULL) {
        return infer_err(p->err, INFER_NOMEM, "no memory for %llu tensors",
                         (unsigned long long) n);
    }

    for (uint64_t i = 0; i < n; i++) {
        (void) snprintf(p->where, sizeof(p->where), "tensor number %llu",
                        (unsigned long long) i);

        int rc = gguf_take_tensor(p, &g->tensor[i], g->name[i]);

        if (rc != INFER_OK) {
            return rc;
        }

        g->by_name[i] = &g->tensor[i];
    }

    return INFER_OK;
}


/* Where the tensor data begins: the next multiple of general.alignment. */
static int
gguf_data_start(gguf_parser_t *p, uint64_t *align, uint64_t *start)
{
    const infer_gguf_t *g = p->g;

    *align = 32;

    if (infer_gguf_find(g, "general.alignment") != NULL
        && (!infer_gguf_get_u64(g, "general.alignment", align)
            || *align == 0 || *align > GGUF_MAX_ALIGN
            || (*align & (*align - 1)) != 0))
    {
        return infer_err(p->err, INFER_CORRUPT,
                         "key \"general.alignment\" is not a power of two "
                         "up to %u", GGUF_MAX_ALIGN);
    }

    *start = (p->off + *align - 1) / *align * *align;

    return INFER_OK;
}


/* Makes offsets absolute; each tensor aligned, inside the file, apart from
 * all others. Leaves by_name sorted by name. */
static int
gguf_place_tensors(gguf_parser_t *p)
{
    infer_gguf_t *g = p->g;
    uint64_t align = 0, start = 0, n = g->n_tensors;
    int rc = gguf_data_start(p, &align, &start);

    if (rc != INFER_OK) {
        return rc;
    }

    for (uint64_t i = 0; i < n; i++) {
        infer_gguf_tensor_t *t = &g->tensor[i];
        char name[80];

        gguf_show(name, sizeof(name), (const unsigned char *) t->name,
                  strlen(t->name));

        if (t->offset % align != 0) {
            return infer_err(p->err, INFER_CORRUPT,
                             "tensor \"%s\": offset %llu is not a multiple "
                             "of %llu", name, (unsigned long long) t->offset,
                             (unsigned long long) align);
        }

        if (start > g->size || t->offset > g->size - start
            || t->bytes > g->size - start - t->offset)
        {
            return infer_err(p->err, INFER_CORRUPT,
                             "truncated: tensor \"%s\" of %llu bytes goes "
                             "beyond the end of the file (%llu bytes)",
                             name, (unsigned long long) t->bytes,
                             (unsigned long long) g->size);
        }

        t->offset += start;
    }

    qsort(g->by_name, n, sizeof(*g->by_name), gguf_cmp_offset);

    for (uint64_t i = 1; i < n; i++) {
        const infer_gguf_tensor_t *a = g->by_name[i - 1], *b = g->by_name[i];

        if (b->offset - a->offset < a->bytes
            || (b->offset == a->offset && a->bytes + b->bytes > 0))
        {
            char one[80], two[80];

            gguf_show(one, sizeof(one), (const unsigned char *) a->name,
                      strlen(a->name));
            gguf_show(two, sizeof(two), (const unsigned char *) b->name,
                      strlen(b->name));
            return infer_err(p->err, INFER_CORRUPT,
                             "tensors \"%s\" and \"%s\" overlap", one, two);
        }
    }

    qsort(g->by_name, n, sizeof(*g->by_name), gguf_cmp_name);

    for (uint64_t i = 1; i < n; i++) {
        if (gguf_cmp_name(&g->by_name[i - 1], &g->by_name[i]) == 0) {
            char name[80];

            gguf_show(name, sizeof(name),
                      (const unsigned char *) g->by_name[i]->name,
                      strlen(g->by_name[i]->name));
            return infer_err(p->err, INFER_CORRUPT,
                             "tensor \"%s\" is there twice", name);
        }
    }

    return INFER_OK;
}


int
infer_gguf_open(infer_gguf_t **gguf, int fd, infer_err_t *err)
{
    struct stat st;

    if (fstat(fd, &st) != 0) {
        return infer_err(err, INFER_INVALID, "cannot stat the file: %s",
                         strerror(errno));
    }

    if (!S_ISREG(st.st_mode)) {
        return infer_err(err, INFER_INVALID, "not a regular file");
    }

    infer_gguf_t *g = calloc(1, sizeof(*g));

    if (g == NULL) {
        return infer_err(err, INFER_NOMEM, "no memory");
    }

    gguf_parser_t p = { .g = g, .err = err };
    int rc;

    g->fd = fd;
    g->size = (uint64_t) st.st_size;

    if ((rc = gguf_take_header(&p)) != INFER_OK
        || (rc = gguf_take_keys(&p)) != INFER_OK
        || (rc = gguf_take_tensors(&p)) != INFER_OK
        || (rc = gguf_place_tensors(&p)) != INFER_OK)
    {
        infer_gguf_close(g);
        return rc;
    }

    /* tensor data that was read ahead is not kept */
    unsigned char *meta = realloc(g->meta, p.off);

    g->meta = meta != NULL ? meta : g->meta;
    g->meta_len = p.off;
    *gguf = g;

    return INFER_OK;
}


void
infer_gguf_close(infer_gguf_t *g)
{
    if (g == NULL) {
        return;
    }

    for (uint64_t i = 0; g->kv != NULL && i < g->n_kv; i++) {
        free(g->kv[i].str_off);
    }

    free(g->kv);
    free(g->tensor);
    free(g->name);
    free(g->by_name);
    free(g->meta);
    free(g);
}


