/*
 * gguf_impl.h: what the two files of the GGUF reader share: gguf.c parses
 * and checks, gguf_get.c answers questions about the checked result. Nobody
 * else includes this.
 */

#ifndef INFER_MODEL_GGUF_IMPL_H
#define INFER_MODEL_GGUF_IMPL_H

#include "model/gguf.h"

#define GGUF_MAX_NAME     64              /* the specification's limit */

typedef struct {
    uint64_t   key_off;         /* in meta */
    uint64_t   key_len;
    uint64_t   off;             /* of the scalar, string length or element */
    uint64_t   count;           /* of an array */
    uint32_t  *str_off;         /* array of strings: where each begins */
    uint32_t   type;
    uint32_t   elem;            /* of an array */
} gguf_kv_t;

struct infer_gguf_s {
    int                          fd;
    uint64_t                     size;       /* of the file */
    unsigned char               *meta;
    uint64_t                     meta_len;   /* bytes read so far */
    uint64_t                     meta_cap;
    uint64_t                     n_kv;
    gguf_kv_t                   *kv;         /* sorted by key after open */
    uint64_t                     n_tensors;
    infer_gguf_tensor_t         *tensor;     /* in file order */
    char                       (*name)[GGUF_MAX_NAME + 1];
    const infer_gguf_tensor_t  **by_name;
};

/* A little-endian number of the metadata, at an offset already checked. */
uint64_t infer_gguf_u64(const infer_gguf_t *g, uint64_t off);
/* Bytes of a scalar type; 0 for strings, arrays and unknown ones. */
uint32_t infer_gguf_scalar_bytes(uint32_t type);
/* Exactly len bytes or CORRUPT. */
int infer_gguf_pread(int fd, void *buf, size_t len, uint64_t off);
/* As memcmp, then the shorter one first. */
int infer_gguf_cmp_bytes(const void *a, size_t a_len, const void *b,
    size_t b_len);
/* NULL when there is no such key; keys must be sorted. */
const gguf_kv_t *infer_gguf_find(const infer_gguf_t *g, const char *key);

#endif
