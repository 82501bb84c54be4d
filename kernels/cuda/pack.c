/*
 * pack.c: in which family and form a matrix is served, and its host image in
 * the layout of gemm.h, or of gemm_f.h (pack_f.c). Functions of their
 * arguments alone; threads may pack different rows of an image at once.
 */

#include <stdlib.h>
#include <string.h>

#include "cpu.h"
#include "gemm.h"
#include "gemm_f.h"
#include "ref/ref_dequant_k.h"

#define PACK_W4_GROUP  32         /* columns of a scale made here */


/* Form of the q8 family; CU_N_FORMS when the type is not quantized. */
static uint32_t
pack_form(uint32_t type)
{
    switch (type) {

    case KERN_Q4_0:
        return CU_N4Z;

    case KERN_Q4_1:
        return CU_N4M;

    case KERN_Q4_K:
        return CU_N4S;

    case KERN_Q5_0:
    case KERN_Q8_0:
    case KERN_IQ4_NL:
        return CU_B8H;

    case KERN_Q5_1:
        return CU_B8HM;

    case KERN_Q8_K:
    case KERN_IQ4_XS:
        return CU_B8S;

    case KERN_Q5_K:
        return CU_B8SM;

    case KERN_Q3_K:
    case KERN_Q6_K:
        return CU_B8S2;

    case KERN_Q2_K:
        return CU_B8SM2;

    default:
        return CU_N_FORMS;
    }
}

/* 4 bits from floats: nibble, scale and minimum for 32 columns. */
static void
pack_plan_w4(uint32_t n_out, uint32_t n_in, cu_weight_t *w, uint64_t *bytes)
{
    memset(w, 0, sizeof(*w));
    w->family = CU_W4A16;
    w->form = CU_N4M;
    w->n_out = n_out;
    w->n_in = n_in;
    w->group = PACK_W4_GROUP;
    *bytes = cu_pack_f_bytes(w);
}

static void
pack_plan_q8(uint32_t form, uint32_t n_out, uint32_t n_in, cu_weight_t *w,
    uint64_t *bytes)
{
    memset(w, 0, sizeof(*w));
    w->family = CU_Q8;
    w->form = form;
    w->n_out = n_out;
    w->n_in = n_in;
    *bytes = cu_q8_data(w)
             + (uint64_t) (1 + cu_traits(form).min) * cu_q8_scale(w);
}

/*
 * Asked for CU_Q8, floats are served in 16 bits. Asked for 4 bits, a
 * quantized type that has more of them, or scales for less than 32 columns,
 * stays in the q8 family: nothing is lost there.
 */
int
cu_pack_plan(uint32_t type, uint32_t n_out, uint32_t n_in,
    cu_family_e family, cu_weight_t *w, uint64_t *bytes, int *lossy)
{
    uint32_t  form = pack_form(type), values, block;

    kern_type_layout(type, &values, &block);
    if (values == 0 || n_out == 0 || n_in == 0 || n_in % CU_BLOCK != 0
        || n_in % values != 0)
    {
        return INFER_UNSUPPORTED;
    }

    if (family == CU_Q8 && form == CU_N_FORMS) {
        family = type == KERN_F16 ? CU_F16 : CU_BF16;
    }
    if (family != CU_Q8
        && cu_pack_f_plan(type, n_out, n_in, family, w, bytes, lossy)
           == INFER_OK)
    {
        return INFER_OK;
    }

    if (form != CU_N_FORMS) {
        pack_plan_q8(form, n_out, n_in, w, bytes);
        *lossy = 0;
        return INFER_OK;
    }
    if (family == CU_W4A16) {
        pack_plan_w4(n_out, n_in, w, bytes);
        *lossy = 1;
        return INFER_OK;
    }
    return INFER_UNSUPPORTED;
}

void
cu_pack_place(cu_weight_t *w, uint8_t *device)
{
    if (w->family != CU_Q8) {
        cu_pack_f_place(w, device);
        return;
    }
    w->data = device;
    w->scale = device + cu_q8_data(w);
    w->min = cu_traits(w->form).min
             ? device + cu_q8_data(w) + cu_q8_scale(w) : NULL;
}

/* 32 values of row `row` of a tile, whose data begins at out. */
static void
pack_values(const cu_weight_t *w, uint8_t *out, uint32_t row, uint32_t b,
    const int8_t *q)
{
    uint32_t  nib = (uint32_t) cu_traits(w->form).nibbles, k;
    uint8_t  *p, *at = out + (size_t) (nib ? b / 2 : b) * CU_STEP
                       + row % 8 * 64 + row / 8 * 4;

    for (k = 0; k < CU_BLOCK; k++) {
        p = at + k % 16 / 4 * 16 + k / 16 * 8 + k % 4;
        if (nib) {
            *p = (uint8_t) (*p | (q[k] & 15) << b % 2 * 4);
        } else {
            *p = (uint8_t) q[k];
        }
    }
}

/* Where link i of a row is among the scales of a tile. */
static size_t
pack_link_at(const cu_traits_t t, uint32_t row, uint32_t i)
{
    return (size_t) (i / CU_GROUP) * cu_group_bytes(t)
           + (row * CU_GROUP + i % CU_GROUP) * (uint32_t) t.scale;
}

/* Scales and minima of the links of a GGUF block, the first of which is
 * link i0. f16 ones are copied from the block, so that not even an infinity
 * changes. */
static void
pack_scales(const cu_weight_t *w, uint8_t *scale, uint8_t *min, uint32_t row,
    uint32_t i0, const ref_block_t *b, const uint8_t *raw)
{
    const cu_traits_t  t = cu_traits(w->form);
    uint32_t           i, s, n = b->values / CU_BLOCK * (uint32_t) t.subs;
    float              f;

    for (i = 0; i < n; i++) {
        if (t.scale == 2) {
            memcpy(scale + pack_link_at(t, row, i0 + i), raw, 2);
            if (t.min) {
                memcpy(min + pack_link_at(t, row, i0 + i), raw + 2, 2);
            }
            continue;
        }
        s = i * (b->values / n) / b->sub;
        f = b->d * (float) b->scale[s];
        memcpy(scale + pack_link_at(t, row, i0 + i), &f, 4);
        if (t.min) {
            f = -(b->dmin * (float) b->min[s]);
            memcpy(min + pack_link_at(t, row, i0 + i), &f, 4);
        }
    }
}

static void
pack_rows_q8(const cu_weight_t *w, uint32_t type, uint8_t *image,
    const uint8_t *raw, uint32_t r0, uint32_t n)
{
    const cu_traits_t  t = cu_traits(w->form);
    size_t             data = (size_t) cu_steps(t, w->n_in) * CU_STEP;
    size_t             scales = (size_t) cu_groups(t, w->n_in)
                                * cu_group_bytes(t);
    uint8_t           *s = image + cu_q8_data(w), *m = s + cu_q8_scale(w);
    uint32_t           values, bytes, tile = 0, r, k, i;
    ref_block_t        b;

    kern_type_layout(type, &values, &bytes);
    for (r = 0; r < n; r++) {
        if (r % CU_TILE == 0) {
            tile = (r0 + r) / CU_TILE;
            memset(image + tile * data, 0, data);
            memset(s + tile * scales, 0, scales);
            if (t.min) {
                memset(m + tile * scales, 0, scales);
            }
        }
        for (k = 0; k < w->n_in / CU_BLOCK; k += values / CU_BLOCK) {
            (void) kern_unpack_ref(&b, type, raw);
            for (i = 0; i < values / CU_BLOCK; i++) {
                pack_values(w, image + tile * data, r % CU_TILE, k + i,
                            b.q + i * CU_BLOCK);
            }
            pack_scales(w, s + tile * scales, m + tile * scales, r % CU_TILE,
                        k * (uint32_t) t.subs, &b, raw);
            raw += bytes;
        }
    }
    if (r0 + n == w->n_out) {              /* what rounds the scales up */
        scales *= cu_tiles(w->n_out);
        memset(s + scales, 0, cu_q8_scale(w) - scales);
        if (t.min) {
            memset(m + scales, 0, cu_q8_scale(w) - scales);
        }
    }
}

/* One row to nibbles: from the smallest to the largest of 32 values in 15
 * steps, by f16 scale and minimum as they are stored. */
static void
pack_row_w4(const float *x, uint32_t n_in, uint8_t *q, uint16_t *scale,
    uint16_t *min)
{
    uint32_t  g, k;
    float     lo, hi, d, m, v;

    for (g = 0; g < n_in / PACK_W4_GROUP; g++, x += PACK_W4_GROUP) {
        lo = hi = x[0];
        for (k = 1; k < PACK_W4_GROUP; k++) {
            lo = x[k] < lo ? x[k] : lo;
            hi = x[k] > hi ? x[k] : hi;
        }
        scale[g] = cpu_f32_to_f16((hi - lo) / 15);
        min[g] = cpu_f32_to_f16(lo);
        d = cpu_f16_to_f32(scale[g]);
        m = cpu_f16_to_f32(min[g]);
        for (k = 0; k < PACK_W4_GROUP; k++) {
            v = d != 0 ? (x[k] - m) / d + 0.5f : 0;
            *q++ = (uint8_t) (v >= 15 ? 15 : v > 0 ? (int) v : 0);
        }
    }
}

/* Rows of a float type, or of a family that rounds, through f32. Rows are
 * taken one tile at a time, so that the memory needed is small. */
static int
pack_rows_f32(const cu_weight_t *w, uint32_t type, uint8_t *image,
    const uint8_t *raw, uint32_t r0, uint32_t n)
{
    uint32_t   values, bytes, r, i, step, groups = w->n_in / PACK_W4_GROUP;
    float     *x;
    uint8_t   *q;
    uint16_t  *s;

    kern_type_layout(type, &values, &bytes);
    x = malloc((size_t) CU_TILE * w->n_in * (sizeof(float) + 1)
               + (size_t) CU_TILE * groups * 2 * sizeof(uint16_t));
    if (x == NULL) {
        return INFER_NOMEM;
    }
    s = (uint16_t *) (x + (size_t) CU_TILE * w->n_in);
    q = (uint8_t *) (s + (size_t) CU_TILE * groups * 2);

    for (r = 0; r < n; r += step) {
        step = n - r < CU_TILE ? n - r : CU_TILE;
        (void) kern_dequant_ref(x, type, raw, (size_t) step * w->n_in);
        raw += (size_t) step * (w->n_in / values) * bytes;
        if (w->family != CU_W4A16) {
            cu_pack_f_rows(w, type, image, NULL, x, r0 + r, step);
            continue;
        }
        for (i = 0; i < step; i++) {
            pack_row_w4(x + (size_t) i * w->n_in, w->n_in,
                        q + (size_t) i * w->n_in, s + (size_t) i * groups,
                        s + (size_t) (CU_TILE + i) * groups);
        }
        cu_pack_w4_rows(w, image, q, s, s + (size_t) CU_TILE * groups,
                        r0 + r, step);
    }

    free(x);
    return INFER_OK;
}

int
cu_pack_rows(const cu_weight_t *w, uint32_t type, uint8_t *image,
    const uint8_t *raw, uint32_t r0, uint32_t n)
{
    if (w->family == CU_Q8) {
        pack_rows_q8(w, type, image, raw, r0, n);
    } else if (w->family == CU_W4A16 && pack_form(type) != CU_N_FORMS) {
        cu_pack_f_rows(w, type, image, raw, NULL, r0, n);
    } else {
        return pack_rows_f32(w, type, image, raw, r0, n);
    }
    return INFER_OK;
}
