/*
 * gguf_get.c: questions about an open GGUF file: metadata values, array
 * elements, tensors and their bytes. Everything was checked by gguf.c.
 */

#include "model/gguf_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>


uint64_t
infer_gguf_u64(const infer_gguf_t *g, uint64_t off)
{
    uint64_t v;

    memcpy(&v, g->meta + off, sizeof(v));
    return v;
}


uint32_t
infer_gguf_scalar_bytes(uint32_t type)
{
    static const uint8_t bytes[] = { 1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8 };

    return type < sizeof(bytes) ? bytes[type] : 0;
}


int
infer_gguf_pread(int fd, void *buf, size_t len, uint64_t off)
{
    char *p = buf;

    while (len > 0) {
        ssize_t n = pread(fd, p, len, (off_t) off);

        if (n < 0 && errno == EINTR) {
            continue;
        }

        if (n <= 0) {
            return INFER_CORRUPT;
        }

        p += n;
        len -= (size_t) n;
        off += (uint64_t) n;
    }

    return INFER_OK;
}


int
infer_gguf_cmp_bytes(const void *a, size_t a_len, const void *b, size_t b_len)
{
    int c = memcmp(a, b, a_len < b_len ? a_len : b_len);

    return c ? c : (a_len > b_len) - (a_len < b_len);
}


const gguf_kv_t *
infer_gguf_find(const infer_gguf_t *g, const char *key)
{
    size_t len = strlen(key);
    uint64_t lo = 0, hi = g->n_kv;

    while (lo < hi) {
        uint64_t mid = lo + (hi - lo) / 2;
        const gguf_kv_t *kv = &g->kv[mid];
        int c = infer_gguf_cmp_bytes(key, len, g->meta + kv->key_off,
                                     kv->key_len);

        if (c == 0) {
            return kv;
        }

        if (c < 0) {
            hi = mid;

        } else {
            lo = mid + 1;
        }
    }

    return NULL;
}


/* One scalar as the widest type of its family; returns 'u', 'i' or 'f'. */
static int
gguf_scalar(const infer_gguf_t *g, uint32_t type, uint64_t off, uint64_t *u,
    int64_t *i, double *f)
{
    uint32_t bytes = infer_gguf_scalar_bytes(type);
    float f32;

    *u = 0;
    memcpy(u, g->meta + off, bytes);

    switch (type) {

    case INFER_GGUF_INT8:
        *i = (int8_t) *u;
        return 'i';

    case INFER_GGUF_INT16:
        *i = (int16_t) *u;
        return 'i';

    case INFER_GGUF_INT32:
        *i = (int32_t) *u;
        return 'i';

    case INFER_GGUF_INT64:
        *i = (int64_t) *u;
        return 'i';

    case INFER_GGUF_FLOAT32:
        memcpy(&f32, g->meta + off, sizeof(f32));
        *f = f32;
        return 'f';

    case INFER_GGUF_FLOAT64:
        memcpy(f, g->meta + off, sizeof(*f));
        return 'f';

    default:
        return 'u';
    }
}


static int
gguf_as_f64(const infer_gguf_t *g, uint32_t type, uint64_t off, double *v)
{
    uint64_t u;
    int64_t i;
    double f;

    switch (gguf_scalar(g, type, off, &u, &i, &f)) {

    case 'u':
        *v = (double) u;
        break;

    case 'i':
        *v = (double) i;
        break;

    default:
        *v = f;
    }

    return 1;
}


int
infer_gguf_get_u64(const infer_gguf_t *g, const char *key, uint64_t *v)
{
    const gguf_kv_t *kv = infer_gguf_find(g, key);
    uint64_t u;
    int64_t i;
    double f;

    if (kv == NULL || kv->type == INFER_GGUF_BOOL
        || infer_gguf_scalar_bytes(kv->type) == 0)
    {
        return 0;
    }

    switch (gguf_scalar(g, kv->type, kv->off, &u, &i, &f)) {

    case 'u':
        *v = u;
        return 1;

    case 'i':
        if (i < 0) {
            return 0;
        }

        *v = (uint64_t) i;
        return 1;

    default:
        return 0;
    }
}


int
infer_gguf_get_f64(const infer_gguf_t *g, const char *key, double *v)
{
    const gguf_kv_t *kv = infer_gguf_find(g, key);

    if (kv == NULL || kv->type == INFER_GGUF_BOOL
        || infer_gguf_scalar_bytes(kv->type) == 0)
    {
        return 0;
    }

    return gguf_as_f64(g, kv->type, kv->off, v);
}


int
infer_gguf_get_bool(const infer_gguf_t *g, const char *key, int *v)
{
    const gguf_kv_t *kv = infer_gguf_find(g, key);

    if (kv == NULL || kv->type != INFER_GGUF_BOOL) {
        return 0;
    }

    *v = g->meta[kv->off];

    return 1;
}


int
infer_gguf_get_str(const infer_gguf_t *g, const char *key, const char **s,
    size_t *len)
{
    const gguf_kv_t *kv = infer_gguf_find(g, key);

    if (kv == NULL || kv->type != INFER_GGUF_STRING) {
        return 0;
    }

    *len = infer_gguf_u64(g, kv->off);
    *s = (const char *) g->meta + kv->off + sizeof(uint64_t);

    return 1;
}


int
infer_gguf_get_array(const infer_gguf_t *g, const char *key, uint32_t *type,
    uint64_t *count)
{
    const gguf_kv_t *kv = infer_gguf_find(g, key);

    if (kv == NULL || kv->type != INFER_GGUF_ARRAY) {
        return 0;
    }

    *type = kv->elem;
    *count = kv->count;

    return 1;
}


int
infer_gguf_array_str(const infer_gguf_t *g, const char *key, uint64_t i,
    const char **s, size_t *len)
{
    const gguf_kv_t *kv = infer_gguf_find(g, key);

    if (kv == NULL || kv->str_off == NULL || i >= kv->count) {
        return 0;
    }

    *len = infer_gguf_u64(g, kv->str_off[i]);
    *s = (const char *) g->meta + kv->str_off[i] + sizeof(uint64_t);

    return 1;
}


/* The array behind key when it holds numbers and i is inside, else NULL. */
static const gguf_kv_t *
gguf_numbers(const infer_gguf_t *g, const char *key, uint64_t i)
{
    const gguf_kv_t *kv = infer_gguf_find(g, key);

    if (kv == NULL || kv->type != INFER_GGUF_ARRAY || i >= kv->count
        || infer_gguf_scalar_bytes(kv->elem) == 0)
    {
        return NULL;
    }

    return kv;
}


int
infer_gguf_array_i64(const infer_gguf_t *g, const char *key, uint64_t i,
    int64_t *v)
{
    const gguf_kv_t *kv = gguf_numbers(g, key, i);
    uint64_t u;
    double f;

    if (kv == NULL) {
        return 0;
    }

    switch (gguf_scalar(g, kv->elem,
                        kv->off + i * infer_gguf_scalar_bytes(kv->elem),
                        &u, v, &f))
    {

    case 'u':
        if (u > INT64_MAX) {
            return 0;
        }

        *v = (int64_t) u;
        return 1;

    case 'i':
        return 1;

    default:
        return 0;
    }
}


int
infer_gguf_array_f64(const infer_gguf_t *g, const char *key, uint64_t i,
    double *v)
{
    const gguf_kv_t *kv = gguf_numbers(g, key, i);

    if (kv == NULL) {
        return 0;
    }

    return gguf_as_f64(g, kv->elem,
                       kv->off + i * infer_gguf_scalar_bytes(kv->elem), v);
}


uint64_t
infer_gguf_n_tensors(const infer_gguf_t *g)
{
    return g->n_tensors;
}


const infer_gguf_tensor_t *
infer_gguf_tensor_at(const infer_gguf_t *g, uint64_t i)
{
    return i < g->n_tensors ? &g->tensor[i] : NULL;
}


const infer_gguf_tensor_t *
infer_gguf_tensor(const infer_gguf_t *g, const char *name)
{
    uint64_t lo = 0, hi = g->n_tensors;

    while (lo < hi) {
        uint64_t mid = lo + (hi - lo) / 2;
        int c = strcmp(name, g->by_name[mid]->name);

        if (c == 0) {
            return g->by_name[mid];
        }

        if (c < 0) {
            hi = mid;

        } else {
            lo = mid + 1;
        }
    }

    return NULL;
}


int
infer_gguf_read(const infer_gguf_t *g, const infer_gguf_tensor_t *t,
    void *buf, size_t len, uint64_t off)
{
    if (off > t->bytes || len > t->bytes - off) {
        return INFER_INVALID;
    }

    return infer_gguf_pread(g->fd, buf, len, t->offset + off);
}


void
infer_gguf_drop(const infer_gguf_t *g, const infer_gguf_tensor_t *t)
{
    (void) posix_fadvise(g->fd, (off_t) t->offset, (off_t) t->bytes,
                         POSIX_FADV_DONTNEED);
}
