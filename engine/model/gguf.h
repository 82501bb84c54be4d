/*
 * gguf.h: reads GGUF model files and trusts nothing in them. Every count,
 * length, offset, type and dimension is checked before use; overlapping and
 * truncated data are refused with a sentence that says what is wrong. The
 * file is read with pread, so a file that shrinks meanwhile is an error and
 * not a SIGBUS. Source: the GGUF specification, versions 2 and 3.
 */

#ifndef INFER_MODEL_GGUF_H
#define INFER_MODEL_GGUF_H

#include "infer.h"

typedef struct infer_gguf_s  infer_gguf_t;

enum {
    INFER_GGUF_UINT8 = 0, INFER_GGUF_INT8, INFER_GGUF_UINT16,
    INFER_GGUF_INT16, INFER_GGUF_UINT32, INFER_GGUF_INT32,
    INFER_GGUF_FLOAT32, INFER_GGUF_BOOL, INFER_GGUF_STRING,
    INFER_GGUF_ARRAY, INFER_GGUF_UINT64, INFER_GGUF_INT64,
    INFER_GGUF_FLOAT64
};

typedef struct {
    const char  *name;            /* NUL-terminated, in the gguf object */
    uint32_t     type;            /* as in the file */
    uint32_t     n_dims;          /* 1..4 */
    uint64_t     dim[4];          /* dim[0] is contiguous; unused are 1 */
    uint64_t     offset;          /* in the file */
    uint64_t     bytes;           /* 0 when the type is unknown to us */
} infer_gguf_tensor_t;

/* fd stays the caller's and must stay open as long as the object. */
int infer_gguf_open(infer_gguf_t **gguf, int fd, infer_err_t *err);
void infer_gguf_close(infer_gguf_t *gguf);

/* Metadata. get_* return 1 when the key is there with a fitting type, else
 * 0 and leave *v alone. Integers of any width are taken when they fit. */
int infer_gguf_get_u64(const infer_gguf_t *g, const char *key, uint64_t *v);
int infer_gguf_get_f64(const infer_gguf_t *g, const char *key, double *v);
int infer_gguf_get_bool(const infer_gguf_t *g, const char *key, int *v);
int infer_gguf_get_str(const infer_gguf_t *g, const char *key,
    const char **s, size_t *len);

/* Arrays: element type and count; elements by index. Strings lie in the
 * object (not NUL-terminated). */
int infer_gguf_get_array(const infer_gguf_t *g, const char *key,
    uint32_t *type, uint64_t *count);
int infer_gguf_array_str(const infer_gguf_t *g, const char *key, uint64_t i,
    const char **s, size_t *len);   /* O(1) after the first use of a key */
int infer_gguf_array_i64(const infer_gguf_t *g, const char *key, uint64_t i,
    int64_t *v);
int infer_gguf_array_f64(const infer_gguf_t *g, const char *key, uint64_t i,
    double *v);

uint64_t infer_gguf_n_tensors(const infer_gguf_t *g);
const infer_gguf_tensor_t *infer_gguf_tensor_at(const infer_gguf_t *g,
    uint64_t i);
/* NULL when there is none */
const infer_gguf_tensor_t *infer_gguf_tensor(const infer_gguf_t *g,
    const char *name);
/* Bytes off .. off + len of a tensor; thread-safe. */
int infer_gguf_read(const infer_gguf_t *g, const infer_gguf_tensor_t *t,
    void *buf, size_t len, uint64_t off);
/* Tells the system that the tensor's pages of the file may go. */
void infer_gguf_drop(const infer_gguf_t *g, const infer_gguf_tensor_t *t);

#endif
