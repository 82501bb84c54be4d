/*
 * test_gguf.c: the GGUF reader on good files, on every truncation of one, on
 * a damaged version of each field, and on a file that shrinks. Files live in
 * a memfd.
 */

#include "model/gguf.h"
#include "tap.h"
#include "tool/tiny_gguf.h"

#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define CASE_BYTES  4096

/* A small file with a key of each type and three tensors, and where its
 * fields lie. */
typedef struct {
    unsigned char  b[CASE_BYTES];
    size_t         len;
    size_t         n_tensors, n_kv, align_value, bool_value, str_len;
    size_t         arr_elem, arr_count, strs_elem, strs_count, strs_len;
    size_t         key_len, key_type, key_name, second_name;
    size_t         t_name_len[3], t_name[3], t_dims[3], t_dim0[3];
    size_t         t_type[3], t_offset[3], data;
} sample_t;


static size_t
put(sample_t *s, const void *p, size_t n)
{
    size_t at = s->len;

    memcpy(s->b + s->len, p, n);
    s->len += n;

    return at;
}


static size_t
put32(sample_t *s, uint32_t v)
{
    return put(s, &v, sizeof(v));
}


static size_t
put64(sample_t *s, uint64_t v)
{
    return put(s, &v, sizeof(v));
}


static size_t
put_str(sample_t *s, const char *v)
{
    size_t at = put64(s, strlen(v));

    put(s, v, strlen(v));

    return at;
}


static size_t
put_key(sample_t *s, const char *key, uint32_t type)
{
    put_str(s, key);

    return put32(s, type) + 4;
}


static void
sample_keys(sample_t *s)
{
    const float f = 1.5f;
    const double d = -2.25;
    const int64_t i64 = -5;

    s->key_len = s->len;
    s->key_name = s->len + 8;
    s->align_value = put_key(s, "general.alignment", 4);
    s->key_type = s->align_value - 4;
    put32(s, 64);
    s->second_name = s->len + 8;
    put_key(s, "k.u8", 0);
    put(s, "\xc8", 1);
    put_key(s, "k.i8", 1);
    put(s, "\xff", 1);
    put_key(s, "k.u16", 2);
    put(s, "\x39\x30", 2);
    put_key(s, "k.i16", 3);
    put(s, "\xfe\xff", 2);
    put_key(s, "k.i32", 5);
    put32(s, 77);
    put_key(s, "k.f32", 6);
    put(s, &f, sizeof(f));
    s->bool_value = put_key(s, "k.bool", 7);
    put(s, "\1", 1);
    put_key(s, "k.str", 8);
    s->str_len = put_str(s, "hello");
    put_key(s, "k.u64", 10);
    put64(s, UINT64_MAX);
    put_key(s, "k.i64", 11);
    put(s, &i64, sizeof(i64));
    put_key(s, "k.f64", 12);
    put(s, &d, sizeof(d));
    s->arr_elem = put_key(s, "k.arr", 9);
    put32(s, 5);
    s->arr_count = put64(s, 3);
    put32(s, 10);
    put32(s, (uint32_t) -20);
    put32(s, 30);
    s->strs_elem = put_key(s, "k.strs", 9);
    put32(s, 8);
    s->strs_count = put64(s, 3);
    s->strs_len = put_str(s, "a");
    put_str(s, "");
    put_str(s, "ccc");
}


/* Tensors: F32 [4, 2], Q8_0 [64], an unknown type. */
static void
sample_tensors(sample_t *s)
{
    static const struct {
        const char *name; uint32_t n; uint64_t dim[2]; uint32_t type;
        uint64_t offset;
    } t[3] = {
        { "first", 2, { 4, 2 }, 0, 0 }, { "second", 1, { 64, 1 }, 8, 64 },
        { "third", 1, { 10, 1 }, 99, 192 }
    };

    for (int i = 0; i < 3; i++) {
        s->t_name_len[i] = put_str(s, t[i].name);
        s->t_name[i] = s->t_name_len[i] + 8;
        s->t_dims[i] = put32(s, t[i].n);
        s->t_dim0[i] = put64(s, t[i].dim[0]);

        if (t[i].n > 1) {
            put64(s, t[i].dim[1]);
        }

        s->t_type[i] = put32(s, t[i].type);
        s->t_offset[i] = put64(s, t[i].offset);
    }
}


static void
sample(sample_t *s)
{
    memset(s, 0, sizeof(*s));
    put32(s, 0x46554747);
    put32(s, 3);
    s->n_tensors = put64(s, 3);
    s->n_kv = put64(s, 14);
    sample_keys(s);
    sample_tensors(s);
    s->len = (s->len + 63) / 64 * 64;
    s->data = s->len;

    for (int i = 0; i < 192; i++) {
        s->b[s->len++] = (unsigned char) i;
    }
}


static int
memfd_of(const void *p, size_t len)
{
    int fd = memfd_create("gguf", MFD_CLOEXEC);

    if (fd < 0 || ftruncate(fd, 0) != 0
        || pwrite(fd, p, len, 0) != (ssize_t) len)
    {
        printf("Bail out! memfd\n");
        exit(1);
    }

    return fd;
}


/* Opens bytes; closes again; returns the code. */
static int
try_open(const void *p, size_t len, infer_err_t *err)
{
    infer_gguf_t *g = NULL;
    int fd = memfd_of(p, len), rc;

    err->text[0] = '\0';
    rc = infer_gguf_open(&g, fd, err);

    if (rc == INFER_OK) {
        infer_gguf_close(g);
    }

    close(fd);

    return rc;
}


static void
test_scalars(const infer_gguf_t *g)
{
    uint64_t u = 1;
    double f = 0;
    const char *s = "";
    size_t len = 0;
    int b = 0;

    ok(infer_gguf_get_u64(g, "k.u8", &u) && u == 200, "u8");
    ok(infer_gguf_get_u64(g, "k.u16", &u) && u == 12345, "u16");
    ok(infer_gguf_get_u64(g, "k.i32", &u) && u == 77, "i32 as unsigned");
    ok(infer_gguf_get_u64(g, "k.u64", &u) && u == UINT64_MAX, "u64");
    u = 9;
    ok(!infer_gguf_get_u64(g, "k.i8", &u) && u == 9, "negative i8");
    ok(!infer_gguf_get_u64(g, "k.i64", &u) && u == 9, "negative i64");
    ok(!infer_gguf_get_u64(g, "k.f32", &u), "a float is no integer");
    ok(!infer_gguf_get_u64(g, "k.str", &u), "a string is no integer");
    ok(!infer_gguf_get_u64(g, "k.arr", &u), "an array is no integer");
    ok(!infer_gguf_get_u64(g, "k.none", &u), "no such key");
    ok(!infer_gguf_get_u64(g, "k.u", &u), "a prefix is not the key");
    ok(infer_gguf_get_f64(g, "k.f32", &f) && f == 1.5, "f32");
    ok(infer_gguf_get_f64(g, "k.f64", &f) && f == -2.25, "f64");
    ok(infer_gguf_get_f64(g, "k.i16", &f) && f == -2, "i16 as f64");
    ok(infer_gguf_get_bool(g, "k.bool", &b) && b == 1, "bool");
    ok(!infer_gguf_get_bool(g, "k.u8", &b), "u8 is no bool");
    ok(infer_gguf_get_str(g, "k.str", &s, &len) && len == 5
       && memcmp(s, "hello", 5) == 0, "string");
    ok(!infer_gguf_get_str(g, "k.strs", &s, &len), "strings are no string");
}


static void
test_arrays(const infer_gguf_t *g)
{
    const char *s = "";
    uint32_t type = 0;
    uint64_t count = 0;
    int64_t v = 0;
    size_t len = 0;
    double f = 0;

    ok(infer_gguf_get_array(g, "k.arr", &type, &count)
       && type == INFER_GGUF_INT32 && count == 3, "array of i32");
    ok(infer_gguf_array_i64(g, "k.arr", 1, &v) && v == -20, "element 1");
    ok(infer_gguf_array_f64(g, "k.arr", 2, &f) && f == 30, "as f64");
    ok(!infer_gguf_array_i64(g, "k.arr", 3, &v), "behind the end");
    ok(!infer_gguf_array_i64(g, "k.strs", 0, &v), "strings are no numbers");
    ok(infer_gguf_array_str(g, "k.strs", 0, &s, &len) && len == 1
       && *s == 'a', "string 0");
    ok(infer_gguf_array_str(g, "k.strs", 1, &s, &len) && len == 0,
       "empty string");
    ok(infer_gguf_array_str(g, "k.strs", 2, &s, &len) && len == 3
       && memcmp(s, "ccc", 3) == 0, "string 2");
    ok(!infer_gguf_array_str(g, "k.strs", 3, &s, &len), "no string 3");
    ok(!infer_gguf_array_str(g, "k.arr", 0, &s, &len), "numbers, not text");
}


static void
test_tensors(const infer_gguf_t *g, const sample_t *s, int fd)
{
    unsigned char buf[192];
    const infer_gguf_tensor_t *t = infer_gguf_tensor(g, "second");

    ok(infer_gguf_n_tensors(g) == 3 && infer_gguf_tensor_at(g, 3) == NULL,
       "three tensors");
    ok(t != NULL && t == infer_gguf_tensor_at(g, 1) && t->bytes == 68
       && t->offset == s->data + 64 && t->dim[1] == 1, "second");
    ok(infer_gguf_tensor_at(g, 0)->dim[1] == 2
       && infer_gguf_tensor_at(g, 0)->bytes == 32, "first");
    ok(infer_gguf_tensor_at(g, 2)->bytes == 0, "an unknown type has 0 bytes");
    ok(infer_gguf_tensor(g, "fourth") == NULL, "no such tensor");
    ok(infer_gguf_read(g, t, buf, 68, 0) == INFER_OK && buf[0] == 64
       && buf[67] == 131, "data");
    ok(infer_gguf_read(g, t, buf, 8, 60) == INFER_OK && buf[0] == 124,
       "data at an offset");
    ok(infer_gguf_read(g, t, buf, 8, 61) == INFER_INVALID, "too far");
    ok(infer_gguf_read(g, t, buf, 1, UINT64_MAX) == INFER_INVALID,
       "much too far");
    ok(ftruncate(fd, (off_t) s->data + 70) == 0
       && infer_gguf_read(g, t, buf, 68, 0) == INFER_CORRUPT,
       "the file shrank");
}


static void
test_good(void)
{
    infer_err_t err = { 0, "" };
    infer_gguf_t *g = NULL;
    sample_t s;

    sample(&s);

    int fd = memfd_of(s.b, s.len);

    if (!ok(infer_gguf_open(&g, fd, &err) == INFER_OK, "opens %s", err.text))
    {
        return;
    }

    test_scalars(g);
    test_arrays(g);
    test_tensors(g, &s, fd);
    infer_gguf_close(g);
    close(fd);

    s.b[4] = 2;
    ok(try_open(s.b, s.len, &err) == INFER_OK, "version 2");
}


static void
test_truncated(void)
{
    infer_err_t err;
    sample_t s;
    int opened = 0, silent = 0;

    sample(&s);

    for (size_t len = 0; len < s.len; len++) {
        int rc = try_open(s.b, len, &err);

        /* the last tensor has no size that we know */
        opened += rc == INFER_OK && len < s.data + 192;
        silent += rc != INFER_OK && err.text[0] == '\0';
    }

    ok(opened == 0 && silent == 0, "no truncation opens, each has a reason");
}


/* Writes v over n bytes at `at` and expects a refusal that says `why`. */
static void
refused(const char *what, size_t at, uint64_t v, size_t n, const char *why)
{
    infer_err_t err;
    sample_t s;

    sample(&s);
    memcpy(s.b + at, &v, n);

    int rc = try_open(s.b, s.len, &err);

    ok(rc != INFER_OK && strstr(err.text, why) != NULL, "%s: %s", what,
       rc == INFER_OK ? "(opened)" : err.text);
}


static void
test_damaged_keys(void)
{
    sample_t s;

    sample(&s);
    refused("magic", 0, 0x46554748, 4, "not a GGUF");
    refused("version", 4, 1, 4, "version 1");
    refused("version", 4, 0x03000000, 4, "big-endian");
    refused("tensor count", s.n_tensors, 4, 8, "number 3");
    refused("tensor count", s.n_tensors, 1ull << 60, 8, "claims");
    refused("key count", s.n_kv, 1ull << 60, 8, "claims");
    refused("key count", s.n_kv, 15, 8, "");
    refused("key length", s.key_len, 0, 8, "0 bytes");
    refused("key length", s.key_len, UINT64_MAX, 8, "beyond the end");
    refused("key length", s.key_len, UINT64_MAX - 31, 8, "beyond the end");
    refused("key length", s.key_len, 760, 8, "beyond the end");
    refused("NUL in a key", s.key_name, 0, 1, "NUL");
    refused("key type", s.key_type, 13, 4, "\"general.alignment\"");
    refused("alignment", s.align_value, 0, 4, "power of two");
    refused("alignment", s.align_value, 48, 4, "power of two");
    refused("alignment", s.align_value, 1u << 31, 4, "power of two");
    refused("alignment is text", s.key_type, 6, 4, "power of two");
    refused("bool", s.bool_value, 2, 1, "\"k.bool\"");
    refused("string length", s.str_len, UINT64_MAX, 8, "\"k.str\"");
    refused("nested array", s.arr_elem, 9, 4, "\"k.arr\"");
    refused("array element", s.arr_elem, 77, 4, "\"k.arr\"");
    refused("array count", s.arr_count, 1ull << 62, 8, "\"k.arr\"");
    refused("array count", s.arr_count, 100000, 8, "beyond the end");
    refused("nested array", s.strs_elem, 9, 4, "\"k.strs\"");
    refused("string count", s.strs_count, 1ull << 61, 8, "\"k.strs\"");
    refused("string count", s.strs_count, 100000, 8, "more than");
    refused("string in array", s.strs_len, 1ull << 63, 8, "\"k.strs\"");
    refused("same key twice", s.second_name, 0x38692e6b, 4, "twice");
}


static void
test_damaged_tensors(void)
{
    sample_t s;

    sample(&s);
    refused("tensor name", s.t_name_len[0], 0, 8, "0 bytes");
    refused("tensor name", s.t_name_len[0], 65, 8, "65 bytes");
    refused("NUL in a name", s.t_name[1], 0, 1, "NUL");
    refused("dimensions", s.t_dims[0], 0, 4, "\"first\"");
    refused("dimensions", s.t_dims[0], 5, 4, "\"first\"");
    refused("no values", s.t_dim0[0], 0, 8, "\"first\"");
    refused("overflow", s.t_dim0[0], 1ull << 63, 8, "\"first\"");
    refused("byte overflow", s.t_dim0[0], 1ull << 61, 8, "\"first\"");
    refused("half a block", s.t_dim0[1], 48, 8, "whole blocks");
    refused("too large", s.t_dim0[1], 32 * 100, 8, "beyond the end");
    refused("offset", s.t_offset[1], 65, 8, "multiple");
    refused("offset", s.t_offset[1], 1ull << 63, 8, "beyond the end");
    refused("offset", s.t_offset[1], UINT64_MAX - 63, 8, "beyond the end");
    refused("overlap", s.t_offset[1], 0, 8, "overlap");
    refused("overlap", s.t_dim0[0], 20, 8, "overlap");
    refused("unknown type inside", s.t_offset[2], 256, 8, "beyond the end");

    static const char name[] = "second";
    infer_err_t err;

    memcpy(s.b + s.t_name[0], name, 5);
    memcpy(s.b + s.t_name[1], name, 5);
    s.b[s.t_name_len[1]] = 5;
    memmove(s.b + s.t_name[1] + 5, s.b + s.t_name[1] + 6,
            s.data - s.t_name[1] - 6);
    ok(try_open(s.b, s.len, &err) != INFER_OK
       && strstr(err.text, "twice"), "same tensor twice: %s", err.text);
}


static void
test_log_safe(void)
{
    infer_err_t err;
    sample_t s;

    sample(&s);
    s.b[s.second_name] = '\n';
    s.b[s.second_name + 1] = '"';
    s.b[s.second_name + 4] = 99;
    ok(try_open(s.b, s.len, &err) != INFER_OK
       && strchr(err.text, '\n') == NULL && strstr(err.text, "??u8"),
       "names are shown printable: %s", err.text);
}


/* A vocabulary of a quarter of a million tokens opens at once. */
static void
test_large(void)
{
    const uint64_t n = 256 * 1024;
    tiny_buf_t b = { NULL, 0, 0, 0 };
    struct timespec t0, t1;
    infer_gguf_t *g = NULL;
    infer_err_t err = { 0, "" };
    char text[32];
    const char *s;
    size_t len;

    tiny_u32(&b, 0x46554747);
    tiny_u32(&b, 3);
    tiny_u64(&b, 0);
    tiny_u64(&b, 1);
    tiny_strn(&b, "tokens", 6);
    tiny_u32(&b, 9);
    tiny_u32(&b, 8);
    tiny_u64(&b, n);

    for (uint64_t i = 0; i < n; i++) {
        (void) snprintf(text, sizeof(text), "token-%u", (unsigned) i);
        tiny_strn(&b, text, strlen(text));
    }

    int fd = memfd_of(b.p, b.len);

    clock_gettime(CLOCK_MONOTONIC, &t0);

    int rc = infer_gguf_open(&g, fd, &err);

    clock_gettime(CLOCK_MONOTONIC, &t1);
    ok(rc == INFER_OK && infer_gguf_array_str(g, "tokens", n - 1, &s, &len)
       && len == 12 && memcmp(s, "token-262143", 12) == 0,
       "256 Ki strings %s", err.text);
    ok((double) (t1.tv_sec - t0.tv_sec) + 1e-9 * (double) (t1.tv_nsec
       - t0.tv_nsec) < 2, "within two seconds");
    infer_gguf_close(g);
    free(b.p);
    close(fd);
}


static void
test_tiny(void)
{
    infer_err_t err = { 0, "" };
    size_t len = 0;
    void *file = tiny_build(&tiny_default, &len);

    ok(file != NULL && try_open(file, len, &err) == INFER_OK,
       "a generated model opens %s", err.text);
    ok(try_open(file, len - 1, &err) == INFER_CORRUPT
       && strstr(err.text, "truncated"), "one byte short: %s", err.text);
    free(file);
    ok(infer_gguf_open(NULL, -1, &err) == INFER_INVALID, "no descriptor");

    int fds[2];

    if (pipe(fds) == 0) {
        ok(infer_gguf_open(NULL, fds[0], &err) == INFER_INVALID, "a pipe: %s",
           err.text);
        close(fds[0]);
        close(fds[1]);
    }
}


int
main(void)
{
    test_good();
    test_truncated();
    test_damaged_keys();
    test_damaged_tensors();
    test_log_safe();
    test_large();
    test_tiny();

    return tap_done();
}
