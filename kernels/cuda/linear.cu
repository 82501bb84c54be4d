/*
 * linear.cu: cu_linear(): which family's kernels a matrix gets.
 */

#include <string.h>

#include "dev.cuh"
#include "gemm.h"
#include "gemm_f.h"


/* What all launches of n rows of the n_parts matrices w share. */
static void
q8_args(cu_q8_args_t *p, const cu_weight_t *const *w, float *const *y, uint32_t n_parts,
    const cu_acts_t *a, uint32_t n)
{
    const cu_traits_t  t = cu_traits(w[0]->form);

    memset(p, 0, sizeof(*p));
    for (uint32_t i = 0; i < n_parts; i++) {
        p->part[i].data = w[i]->data;
        p->part[i].scale = (const uint8_t *) w[i]->scale;
        p->part[i].min = (const uint8_t *) w[i]->min;
        p->part[i].y = y[i];
        p->part[i].n_out = w[i]->n_out;
    }
    p->n_parts = n_parts;
    p->q = a->q;
    p->d = a->d;
    p->dsum = !t.min ? NULL : t.subs == 2 ? a->dsum2 : a->dsum;
    p->n_in = w[0]->n_in;
    p->n = n;
}

static int
q8_launch(const cu_dev_t *dev, cu_q8_args_t *p, uint32_t form)
{
    const cu_traits_t  t = cu_traits(form);

    if (p->n <= cu_split_rows(form)) {
        return t.nibbles ? cu_q8_split_n4(dev, p, form)
               : t.subs == 2 ? cu_q8_split_s2(dev, p, form)
               : cu_q8_split_b8(dev, p, form);
    }
    return t.nibbles ? cu_q8_tiles_n4(dev, p, form)
           : t.subs == 2 ? cu_q8_tiles_s2(dev, p, form)
           : cu_q8_tiles_b8(dev, p, form);
}

int
cu_linear_q8(const cu_dev_t *dev, const cu_weight_t *const *w, float *const *y, uint32_t n_parts,
    const cu_acts_t *a, uint32_t n, uint32_t ldy, int add)
{
    cu_q8_args_t  p;

    q8_args(&p, w, y, n_parts, a, n);
    p.ldy = ldy;
    p.add = add;
    return q8_launch(dev, &p, w[0]->form);
}

int
cu_linear_alike(const cu_weight_t *a, const cu_weight_t *b)
{
    return a->family == b->family && a->n_in == b->n_in && a->form == b->form
           && a->group == b->group;
}

int
cu_linear(const cu_dev_t *dev, const cu_linear_t *l, const cu_acts_t *a, uint32_t n)
{
    float        *y[3] = { l->y, NULL, NULL };
    uint32_t      i, k, n_w = 0;
    int           rc = INFER_OK;
    cu_linear_t   part;

    while (n_w < 3 && l->w[n_w] != NULL) {
        if (n_w > 0) {
            y[n_w] = y[n_w - 1] + l->w[n_w - 1]->n_out;
        }
        n_w++;
    }

    for (i = 0; i < n_w && n > 0 && rc == INFER_OK; i = k) {
        for (k = i + 1; k < n_w && cu_linear_alike(l->w[i], l->w[k]); k++) { /* void */ }

        if (l->w[i]->family == CU_Q8) {
            rc = cu_linear_q8(dev, l->w + i, y + i, k - i, a, n, l->ldy, l->add);
            continue;
        }
        memset(&part, 0, sizeof(part));
        memcpy(part.w, l->w + i, (k - i) * sizeof(part.w[0]));
        part.y = y[i];
        part.ldy = l->ldy;
        part.add = l->add;
        rc = cu_linear_f(dev, &part, a, n);
    }
    return rc;
}

size_t
cu_linear_work(const cu_weight_t *w, uint32_t n)
{
    return w->family == CU_Q8 ? 0 : cu_linear_f_work(w, n);
}

int
cu_linear_supports(const cu_weight_t *w, int cc, infer_err_t *err)
{
    if (w->family != CU_Q8) {
        return cu_linear_f_supports(w, cc, err);
    }
    if (cc < 80) {
        return infer_err(err, INFER_UNSUPPORTED, "compute capability %d.%d is below 8.0",
                         cc / 10, cc % 10);
    }
    return INFER_OK;
}
