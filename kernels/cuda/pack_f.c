/*
 * pack_f.c: host packing of the families of gemm_f.h. A function of its
 * arguments alone; rows of different CU_PACK_ROWS may be packed at once,
 * since tiles of 16 rows never cross that border.
 */

#include <math.h>
#include <string.h>

#include "cpu.h"
#include "gemm_f.h"
#include "ref/ref_dequant_k.h"

#define E4M3_MAX   448.0f


uint8_t
cu_e4m3(float x)
{
    uint8_t   sign = signbit(x) ? 0x80 : 0;
    float     a = fabsf(x), m;
    int       e;

    if (isnan(x)) {
        return sign | 0x7f;
    }

    if (a >= E4M3_MAX) {
        return sign | 0x7e;
    }

    (void) frexpf(a, &e);                  /* a = f 2^e, f in [0.5, 1) */
    e = e < -5 ? -5 : e;                   /* subnormals: steps of 2^-9 */
    m = nearbyintf(ldexpf(a, 4 - e));      /* 8 .. 16, below that subnormal */

    if (m == 16.0f) {
        m = 8.0f;
        e++;
    }

    if (m < 8.0f) {
        return sign | (uint8_t) m;
    }

    return sign | (uint8_t) ((e + 6) << 3 | ((int) m - 8));
}


float
cu_e4m3_value(uint8_t x)
{
    int    e = x >> 3 & 15, m = x & 7;
    float  a;

    if ((x & 0x7f) == 0x7f) {
        return NAN;
    }

    a = e == 0 ? ldexpf((float) m, -9) : ldexpf((float) (8 + m), e - 10);
    return x & 0x80 ? -a : a;
}


static uint32_t
pack_tiles(const cu_weight_t *w)
{
    return (w->n_out + CU_F_TILE - 1) / CU_F_TILE;
}


static uint32_t
pack_groups(const cu_weight_t *w)
{
    return (w->n_in + w->group - 1) / w->group;
}


int
cu_pack_f_plan(uint32_t type, uint32_t n_out, uint32_t n_in,
    cu_family_e family, cu_weight_t *w, uint64_t *bytes, int *lossy)
{
    uint32_t  values, block;

    kern_type_layout(type, &values, &block);

    if (values == 0 || n_in % CU_BLOCK != 0 || n_in % values != 0) {
        return INFER_UNSUPPORTED;
    }

    memset(w, 0, sizeof(*w));
    w->family = family;
    w->n_out = n_out;
    w->n_in = n_in;
    *lossy = 1;

    switch (family) {

    case CU_BF16:
        *lossy = type != KERN_BF16;
        break;

    case CU_F16:
        *lossy = type != KERN_F16;
        break;

    case CU_FP8:
    case CU_W8A8:
        break;

    case CU_W4A16:
        if (type != KERN_Q4_0 && type != KERN_Q4_1 && type != KERN_Q4_K) {
            return INFER_UNSUPPORTED;
        }

        w->group = CU_BLOCK;
        w->form = type == KERN_Q4_0 ? CU_N4Z : CU_N4M;
        *lossy = type == KERN_Q4_K;
        break;

    default:
        return INFER_UNSUPPORTED;
    }

    *bytes = cu_pack_f_bytes(w);
    return INFER_OK;
}


/* One row of a plain family, zeros up to the pitch. */
static void
pack_plain_row(const cu_weight_t *w, uint8_t *image, const float *x,
    uint32_t row)
{
    uint32_t   pitch = cu_f_pitch(w->family, w->n_in);
    uint8_t   *out = image + (uint64_t) row * pitch;
    float     *scale = (float *) (void *) (image + cu_pack_f_data(w)) + row;
    float      max = 0, inv;

    memset(out, 0, pitch);

    if (w->family == CU_BF16 || w->family == CU_F16) {
        for (uint32_t i = 0; i < w->n_in; i++) {
            uint16_t  h = w->family == CU_BF16 ? cpu_f32_to_bf16(x[i])
                                               : cpu_f32_to_f16(x[i]);

            memcpy(out + 2 * (uint64_t) i, &h, 2);
        }

        return;
    }

    for (uint32_t i = 0; i < w->n_in; i++) {
        max = fmaxf(max, fabsf(x[i]));
    }

    *scale = max / (w->family == CU_FP8 ? E4M3_MAX : 127.0f);
    inv = *scale > 0 ? 1.0f / *scale : 0;
    inv = isfinite(inv) ? inv : 0;

    for (uint32_t i = 0; i < w->n_in; i++) {
        float  v = x[i] * inv;

        if (w->family == CU_FP8) {
            out[i] = cu_e4m3(v);

        } else {
            v = nearbyintf(v);
            out[i] = (uint8_t) (int8_t) (v > 127 ? 127 : v < -127 ? -127 : v);
        }
    }
}


/* Columns k0 .. k0 + n - 1 of row `row` into its tile, whose bytes are zero
 * where nothing was written yet; q, scale and min are those of k0 on, k0 a
 * multiple of the group. */
static void
pack_w4_cols(const cu_weight_t *w, uint8_t *image, const uint8_t *q,
    const uint16_t *scale, const uint16_t *min, uint32_t row, uint32_t k0,
    uint32_t n)
{
    uint32_t  tile = row / CU_F_TILE, g = row % 8, high = row % 16 / 8;
    uint32_t  groups = pack_groups(w), blocks = (w->n_in + 63) / 64;
    uint32_t  wide = w->form == CU_N4M ? 2 : 1;
    uint8_t  *data = image + (uint64_t) tile * blocks * 512;
    uint8_t  *sc = image + cu_pack_f_data(w)
                   + (uint64_t) tile * groups * 32 * wide;

    for (uint32_t k = k0; k < k0 + n; k++) {
        uint32_t  c = k % 64, t = c / 8 % 4, e = c % 8;
        uint32_t  step = c / 32 * 2 + e / 4;
        uint32_t  reg = e % 4 / 2 * 2 + high, nib = reg + e % 2 * 4;
        uint8_t  *p = data + (uint64_t) (k / 64) * 512 + (g * 4 + t) * 16
                      + step * 4 + nib / 2;

        *p |= (uint8_t) (q[k - k0] << (nib % 2 * 4));
    }

    for (uint32_t i = 0; i < (n + w->group - 1) / w->group; i++) {
        uint32_t  at = k0 / w->group + i;
        uint8_t  *p = sc + ((uint64_t) (at * 8 + g) * 2 + high) * 2 * wide;

        memcpy(p, &scale[i], 2);

        if (wide == 2) {
            memcpy(p + 2, &min[i], 2);
        }
    }
}


/* Clears the tiles of rows r0 .. r0 + n - 1. */
static void
pack_w4_clear(const cu_weight_t *w, uint8_t *image, uint32_t r0, uint32_t n)
{
    uint64_t  tile = r0 / CU_F_TILE;
    uint64_t  tiles = (r0 + n + CU_F_TILE - 1) / CU_F_TILE - tile;
    uint64_t  data = (uint64_t) ((w->n_in + 63) / 64) * 512;
    uint64_t  scale = (uint64_t) pack_groups(w) * CU_F_TILE
                      * (w->form == CU_N4M ? 4 : 2);

    memset(image + tile * data, 0, tiles * data);
    memset(image + cu_pack_f_data(w) + tile * scale, 0, tiles * scale);
}


/* Row r of raw, which begins with row r0, block by block. */
static void
pack_w4_raw(const cu_weight_t *w, uint32_t type, uint8_t *image,
    const uint8_t *raw, uint32_t r0, uint32_t r)
{
    uint8_t      q[256];
    uint16_t     scale[8], min[8];
    uint32_t     values, bytes;
    ref_block_t  b;

    kern_type_layout(type, &values, &bytes);
    raw += (uint64_t) r * (w->n_in / values) * bytes;

    for (uint32_t k = 0; k < w->n_in; k += values, raw += bytes) {
        (void) kern_unpack_ref(&b, type, raw);

        for (uint32_t i = 0; i < values; i++) {
            q[i] = (uint8_t) (b.q[i] + (type == KERN_Q4_0 ? 8 : 0));
        }

        for (uint32_t i = 0; i < values / 32; i++) {
            scale[i] = cpu_f32_to_f16(b.d * (float) b.scale[i]);
            min[i] = cpu_f32_to_f16(-(b.dmin * (float) b.min[i]));
        }

        pack_w4_cols(w, image, q, scale, min, r0 + r, k, values);
    }
}


void
cu_pack_w4_rows(const cu_weight_t *w, uint8_t *image, const uint8_t *q,
    const uint16_t *scale, const uint16_t *min, uint32_t r0, uint32_t n)
{
    uint32_t  groups = pack_groups(w);

    pack_w4_clear(w, image, r0, n);

    for (uint32_t r = 0; r < n; r++) {
        pack_w4_cols(w, image, q + (uint64_t) r * w->n_in,
                     scale + (uint64_t) r * groups,
                     min == NULL ? NULL : min + (uint64_t) r * groups, r0 + r,
                     0, w->n_in);
    }
}


void
cu_pack_f_rows(const cu_weight_t *w, uint32_t type, uint8_t *image,
    const uint8_t *raw, const float *value, uint32_t r0, uint32_t n)
{
    uint32_t  rows = pack_tiles(w) * CU_F_TILE;

    if (w->family == CU_W4A16) {
        pack_w4_clear(w, image, r0, n);

        for (uint32_t r = 0; r < n; r++) {
            pack_w4_raw(w, type, image, raw, r0, r);
        }

        return;
    }

    for (uint32_t r = 0; r < n; r++) {
        pack_plain_row(w, image, value + (uint64_t) r * w->n_in, r0 + r);
    }

    if (r0 + n == w->n_out && rows > w->n_out) {
        uint64_t  pitch = cu_f_pitch(w->family, w->n_in);

        memset(image + w->n_out * pitch, 0, (rows - w->n_out) * pitch);
    }
}
