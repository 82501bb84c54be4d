/*
 * kern_check.h: what every backend asks of a model's shape before it opens a
 * context. Any process; UNSUPPORTED says what cannot be served.
 */

#ifndef KERN_CHECK_H
#define KERN_CHECK_H

#include "kern.h"

static inline int
kern_check_shape(const kern_shape_t *s, infer_err_t *err)
{
    if (s->n_layers == 0 || s->dim == 0 || s->dim % 32 != 0
        || s->dim > 1u << 17 || s->ffn == 0 || s->ffn % 32 != 0
        || s->ffn > 1u << 19 || s->vocab == 0 || s->vocab > 1u << 24)
    {
        return infer_err(err, INFER_UNSUPPORTED,
                         "model width %u, ffn %u or vocabulary %u cannot be "
                         "served: widths must be multiples of 32", s->dim,
                         s->ffn, s->vocab);
    }
    if (s->n_kv_heads == 0 || s->n_heads == 0 || s->n_heads > 1024
        || s->n_heads % s->n_kv_heads != 0 || s->head_dim == 0
        || s->head_dim % 2 != 0 || s->head_dim > 256
        || s->n_heads * s->head_dim % 32 != 0 || s->rope_dim > s->head_dim
        || s->rope_dim % 2 != 0)
    {
        return infer_err(err, INFER_UNSUPPORTED,
                         "attention of %u heads, %u kv heads and %u values a "
                         "head cannot be served", s->n_heads, s->n_kv_heads,
                         s->head_dim);
    }
    return INFER_OK;
}

#endif
