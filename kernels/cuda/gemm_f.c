/*
 * gemm_f.c: sizes of a packed matrix of the float families, and which kernel
 * a linear gets: decode kernels for few rows, cublasLt for many where it is
 * there, else own tiles.
 */

#include <string.h>

#include "blas.h"
#include "gemm_f.h"


static uint64_t
gemm_f_round(uint64_t n)
{
    return (n + 255) & ~(uint64_t) 255;
}


uint64_t
cu_pack_f_data(const cu_weight_t *w)
{
    uint64_t  tiles = (w->n_out + CU_F_TILE - 1) / CU_F_TILE;

    if (w->family == CU_W4A16) {
        return gemm_f_round(tiles * ((w->n_in + 63) / 64) * 512);
    }

    return gemm_f_round(tiles * CU_F_TILE * cu_f_pitch(w->family, w->n_in));
}


uint64_t
cu_pack_f_bytes(const cu_weight_t *w)
{
    uint64_t  tiles = (w->n_out + CU_F_TILE - 1) / CU_F_TILE, scale = 0;

    if (w->family == CU_W4A16) {
        scale = tiles * ((w->n_in + w->group - 1) / w->group) * CU_F_TILE
                * (w->form == CU_N4M ? 4 : 2);

    } else if (w->family == CU_FP8 || w->family == CU_W8A8) {
        scale = (uint64_t) w->n_out * sizeof(float);
    }

    return cu_pack_f_data(w) + gemm_f_round(scale);
}


void
cu_pack_f_place(cu_weight_t *w, uint8_t *device)
{
    w->data = device;
    w->scale = w->family == CU_BF16 || w->family == CU_F16
               ? NULL : device + cu_pack_f_data(w);
    w->min = NULL;
}


/* Arguments that do not depend on the matrices. */
static void
gemm_f_args(cu_f_args_t *p, const cu_weight_t *w, const cu_acts_t *a,
    uint32_t n)
{
    memset(p, 0, sizeof(*p));
    p->n = n;
    p->pitch = cu_f_pitch(w->family, w->n_in);

    switch (w->family) {

    case CU_FP8:
        p->a = a->f8;
        p->a_scale = a->row;
        p->a_bytes = w->n_in;
        break;

    case CU_W8A8:
        p->a = (const uint8_t *) a->q;
        p->a_scale = a->row;
        p->a_bytes = w->n_in;
        break;

    default:
        p->a = (const uint8_t *) a->h;
        p->a_bytes = 2 * w->n_in;
        break;
    }

    if (w->family == CU_W4A16) {
        p->pitch = (w->n_in + 63) / 64;
        p->group_shift = w->group == 128 ? 2 : w->group == 64 ? 1 : 0;
        p->n_groups = (w->n_in + w->group - 1) / w->group;
    }
}


static void
gemm_f_part(cu_f_args_t *p, const cu_weight_t *w, float *y)
{
    cu_f_part_t  *part = &p->part[p->n_parts++];

    part->data = w->data;
    part->scale = w->scale;
    part->n_out = w->n_out;
    part->y = y;
}


static int
gemm_f_decode(const cu_dev_t *dev, const cu_weight_t *w, cu_f_args_t *p)
{
    switch (w->family) {

    case CU_FP8:
        return cu_f8_decode(dev, p);

    case CU_W8A8:
        return cu_w8_decode(dev, p);

    case CU_W4A16:
        return cu_w4_decode(dev, p, w->form);

    default:
        return cu_f16_decode(dev, p, w->family == CU_F16);
    }
}


/* Bytes of a plain bf16 copy. */
static size_t
gemm_f_plain(const cu_weight_t *w)
{
    return gemm_f_round((uint64_t) w->n_out * cu_f_pitch(CU_BF16, w->n_in));
}


/* One matrix, more than CU_F_DECODE rows. */
static int
gemm_f_prefill(const cu_dev_t *dev, const cu_weight_t *w, cu_f_args_t *p)
{
    cu_family_e  family = (cu_family_e) w->family;
    uint8_t     *work = dev->work;
    size_t       left = dev->work == NULL ? 0 : dev->work_bytes;
    int          rc;

    if (family == CU_W4A16) {
        size_t  plain = gemm_f_plain(w);

        if ((dev->blas == NULL && p->n <= CU_F_W4_PLAIN) || left < plain) {
            return cu_w4_decode(dev, p, w->form);
        }

        rc = cu_w4_plain(dev, w, (uint16_t *) (void *) work);

        if (rc != INFER_OK) {
            return rc;
        }

        family = CU_BF16;
        p->part[0].data = work;
        p->part[0].scale = NULL;
        p->pitch = cu_f_pitch(CU_BF16, w->n_in);
        work += plain;
        left -= plain;
    }

    if (dev->blas != NULL) {
        rc = cu_blas_linear(dev, family, p, work, left);

        if (rc != INFER_UNSUPPORTED) {
            return rc;
        }
    }

    return family == CU_FP8 ? cu_f8_tiles(dev, p)
           : family == CU_W8A8 ? cu_w8_tiles(dev, p)
           : cu_f16_tiles(dev, p, family == CU_F16);
}


int
cu_linear_f(const cu_dev_t *dev, const cu_linear_t *l, const cu_acts_t *a,
    uint32_t n)
{
    cu_f_args_t  p;
    uint32_t     col = 0;
    int          rc = INFER_OK;

    if (n == 0) {
        return INFER_OK;
    }

    gemm_f_args(&p, l->w[0], a, n);
    p.ldy = l->ldy;
    p.add = l->add;

    for (uint32_t i = 0; i < 3 && l->w[i] != NULL; i++) {
        if (n > CU_F_DECODE) {
            cu_f_args_t  one = p;

            gemm_f_part(&one, l->w[i], l->y + col);
            rc = gemm_f_prefill(dev, l->w[i], &one);

            if (rc != INFER_OK) {
                return rc;
            }

        } else {
            gemm_f_part(&p, l->w[i], l->y + col);
        }

        col += l->w[i]->n_out;
    }

    return n > CU_F_DECODE ? rc : gemm_f_decode(dev, l->w[0], &p);
}


int
cu_gate_up_f_alike(const cu_weight_t *gate, const cu_weight_t *up)
{
    return gate->family == up->family && gate->form == up->form
           && gate->group == up->group && gate->n_out == up->n_out
           && gate->n_in == up->n_in;
}


int
cu_gate_up_f_sums(const cu_dev_t *dev, const cu_weight_t *gate,
    const cu_weight_t *up, const cu_acts_t *a, uint32_t n, float *const y[2])
{
    cu_f_args_t  p;

    if (n == 0) {
        return INFER_OK;
    }

    gemm_f_args(&p, gate, a, n);
    gemm_f_part(&p, gate, y[0]);
    gemm_f_part(&p, up, y[1]);
    p.ldy = gate->n_out;
    return gemm_f_decode(dev, gate, &p);
}


int
cu_gate_up_f_fuses(const cu_weight_t *gate, const cu_weight_t *up, uint32_t n,
    uint32_t want)
{
    uint32_t  bf16 = 1u << CU_BF16 | 1u << CU_W4A16, f16 = 1u << CU_F16;

    return n <= CU_F_DECODE && gate->family != CU_Q8
           && cu_gate_up_f_alike(gate, up)
           && want != 0 && ((want & ~bf16) == 0 || (want & ~f16) == 0);
}


int
cu_gate_up_f(const cu_dev_t *dev, const cu_weight_t *gate,
    const cu_weight_t *up, const cu_acts_t *a, uint32_t n, uint32_t want,
    const cu_acts_t *out)
{
    cu_f_args_t  p;

    if (n == 0) {
        return INFER_OK;
    }

    gemm_f_args(&p, gate, a, n);
    gemm_f_part(&p, gate, NULL);
    gemm_f_part(&p, up, NULL);
    p.h = out->h;
    p.h_f16 = want == 1u << CU_F16;
    return gemm_f_decode(dev, gate, &p);
}


int
cu_linear_f_supports(const cu_weight_t *w, int cc, infer_err_t *err)
{
    if (w->n_in % CU_BLOCK != 0) {
        return infer_err(err, INFER_UNSUPPORTED, "a matrix has %u columns, "
                         "which is not a multiple of %u",
                         (unsigned) w->n_in, CU_BLOCK);
    }

    if (w->family == CU_FP8 && cc < 89) {
        return infer_err(err, INFER_UNSUPPORTED, "fp8 weights need a device "
                         "of compute capability 8.9, this one has %d.%d",
                         cc / 10, cc % 10);
    }

    if (w->family == CU_W8A8 && w->n_in > CU_W8_MAX_IN) {
        return infer_err(err, INFER_UNSUPPORTED, "a matrix has %u columns, "
                         "W8A8 sums are exact up to %u", (unsigned) w->n_in,
                         CU_W8_MAX_IN);
    }

    return INFER_OK;
}


size_t
cu_linear_f_work(const cu_weight_t *w, uint32_t n)
{
    size_t  plain = 0;

    if (n <= CU_F_DECODE) {
        return 0;
    }

    if (w->family == CU_W4A16) {
        plain = gemm_f_plain(w);

        if (plain > CU_F_PLAIN_MAX) {
            return 0;
        }
    }

    return plain + cu_blas_scratch(w, n) + CU_BLAS_WORK;
}
