/*
 * cost.c: see cost.h.
 */

#include "cost.h"


kern_cost_t
kern_linear_cost(uint32_t type, uint32_t n_out, uint32_t n_in, uint32_t rows)
{
    uint32_t  values, bytes;
    double    mats = (double) n_out * n_in;

    kern_type_layout(type, &values, &bytes);
    if (values == 0) {
        return (kern_cost_t) { 0, 0 };
    }
    return (kern_cost_t) {
        .bytes = mats / values * bytes + (n_in + 4.0 * n_out) * rows,
        .ops = 2 * mats * rows
    };
}

kern_cost_t
kern_rmsnorm_cost(uint32_t dim, uint32_t rows)
{
    return (kern_cost_t) { .bytes = 8.0 * dim * rows + 4.0 * dim,
                           .ops = 4.0 * dim * rows };
}

kern_cost_t
kern_quantize_cost(uint32_t dim, uint32_t rows)
{
    return (kern_cost_t) { .bytes = 5.4 * dim * rows,
                           .ops = 4.0 * dim * rows };
}

kern_cost_t
kern_row_cost(uint32_t n, uint32_t words, uint32_t ops)
{
    return (kern_cost_t) { .bytes = 4.0 * words * n, .ops = (double) ops * n };
}

kern_cost_t
kern_attend_cost(const kern_shape_t *s, uint32_t n_keys)
{
    double  kd = (double) n_keys * s->head_dim;

    return (kern_cost_t) { .bytes = 4 * kd * s->n_kv_heads
                                    + 8.0 * s->n_heads * s->head_dim,
                           .ops = 4 * kd * s->n_heads };
}

static void
cost_add(kern_cost_t *sum, kern_cost_t c)
{
    sum->bytes += c.bytes;
    sum->ops += c.ops;
}

kern_cost_t
kern_step_cost(const kern_shape_t *s, uint32_t layer_type, uint32_t head_type,
    uint32_t rows, uint32_t outs, uint32_t n_keys)
{
    uint32_t     q = s->n_heads * s->head_dim, k = s->n_kv_heads * s->head_dim;
    kern_cost_t  c = { 0, 0 }, a;

    cost_add(&c, kern_linear_cost(layer_type, q + 2 * k, s->dim, rows));
    cost_add(&c, kern_linear_cost(layer_type, s->dim, q, rows));
    cost_add(&c, kern_linear_cost(layer_type, 2 * s->ffn, s->dim, rows));
    cost_add(&c, kern_linear_cost(layer_type, s->dim, s->ffn, rows));
    a = kern_attend_cost(s, n_keys - rows / 2);
    c.bytes += a.bytes;
    c.ops += a.ops * rows;
    c.bytes *= s->n_layers;
    c.ops *= s->n_layers;
    cost_add(&c, kern_linear_cost(head_type, s->vocab, s->dim, outs));
    return c;
}
