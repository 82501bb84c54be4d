/*
 * gemm_f.h: the families whose sums are not the q8 definition's: bf16, f16,
 * W4A16, fp8 and W8A8. Layouts, host packing and launchers; cu_linear and
 * cu_gate_up (gemm.h) call the latter for weights of these families.
 *
 * Plain families (bf16, f16, fp8, W8A8). data is row-major, rows of
 * cu_f_pitch() bytes, n_out rounded up to 16 rows, the rest zero. No
 * fragment order is needed: the columns of a dot product may be permuted as
 * long as both operands are, so lane (g, t) of a warp takes 16 bytes at 16 t
 * of a block of 64 bytes of weight rows g and g + 8 and of activation row g,
 * and these are the fragments of two mma steps. Every load is 16 bytes a
 * lane and whole sectors; cublasLt and the embedding read the same bytes, so
 * prefill costs no second copy. scale: f32 [n_out] of fp8 and W8A8.
 *
 * W4A16. data[tile of 16 rows][block of 64 columns][lane] is 16 bytes: word
 * s is mma step s, and of its nibbles i and i + 4 are columns c, c + 1 of
 * fragment register i, where
 *     row    = 16 tile + g + 8 (i & 1)
 *     column = 64 block + 32 (s >> 1) + 8 t + 4 (s & 1) + 2 (i >> 1)
 * scale[tile][group][g][half] with half 0: row g, 1: row g + 8; an f16 scale
 * (form CU_N4Z: value = (q - 8) scale) or an f16 pair scale, minimum (form
 * CU_N4M: value = q scale + min). Rows and columns beyond the matrix have
 * scale 0. min is not used.
 *
 * Numerics. Up to CU_F_DECODE rows: the 64-byte blocks of a row (64 columns
 * of W4A16) go to CU_F_SPLIT warps in turn, each sums its own ascending, and
 * the partial sums are added in the order of the warps. So the bits of a row
 * depend on the matrix and that row, on nothing else. fp8 is multiplied as
 * f16 where the device has no product of its own. More rows: cublasLt or
 * tiles, whose sums may differ in the last bits. W8A8 is exact everywhere:
 * y = (float) sum * (row scale * weight scale).
 */

#ifndef KERN_CUDA_GEMM_F_H
#define KERN_CUDA_GEMM_F_H

#include "cuda.h"

#ifdef __cplusplus
extern "C" {
#endif

#define CU_F_DECODE   64      /* rows up to which decode kernels run */
#define CU_F_SPLIT    8       /* warps that share the columns of a row */
#define CU_F_TILE     16      /* rows of an mma */
#define CU_F_W4_PLAIN 256     /* W4A16 without cublasLt: rows up to which the
                               * decode kernel, in chunks, beats a plain copy
                               * and tiles */
#define CU_F_PLAIN_MAX ((size_t) 256 << 20)   /* bytes of a plain copy */
#define CU_W8_MAX_IN  131072u /* 127 * 127 * this fits in 31 bits */

/* Bytes of a row of a plain family, a multiple of 64. */
static inline uint32_t
cu_f_pitch(uint32_t family, uint32_t n_in)
{
    uint32_t  bytes = family == CU_BF16 || family == CU_F16 ? 2 * n_in : n_in;

    return (bytes + 63) & ~63u;
}

/* ---- host packing: pack_f.c ---- */

/* As cu_pack_plan(), for a family other than CU_Q8. lossy: bf16 from
 * anything but bf16, f16 from anything but f16, every fp8 and W8A8, and
 * W4A16 from Q4_K, whose scales have up to 17 bits. INFER_UNSUPPORTED for
 * W4A16 from a type that is not 4 bits with scales for 32 values. */
int cu_pack_f_plan(uint32_t type, uint32_t n_out, uint32_t n_in,
    cu_family_e family, cu_weight_t *w, uint64_t *bytes, int *lossy);
/* Rows r0 .. r0 + n - 1 into the image; r0 a multiple of CU_PACK_ROWS. value:
 * their values [n][n_in], for the plain families; raw: their GGUF bytes, for
 * W4A16. Several threads may pack different rows at once. */
void cu_pack_f_rows(const cu_weight_t *w, uint32_t type, uint8_t *image,
    const uint8_t *raw, const float *value, uint32_t r0, uint32_t n);
/* The same for W4A16 of any source: q [n][n_in], 0 .. 15, and f16 bits of
 * scale and min [n][n_in / group]; min NULL for CU_N4Z. w->group is 32, 64
 * or 128 and may leave a smaller last group. */
void cu_pack_w4_rows(const cu_weight_t *w, uint8_t *image, const uint8_t *q,
    const uint16_t *scale, const uint16_t *min, uint32_t r0, uint32_t n);
/* f32 to e4m3 (finite, saturating, ties to even) and back. */
uint8_t cu_e4m3(float x);
float cu_e4m3_value(uint8_t x);

/* ---- sizes and launchers: gemm_f.c ---- */

/* Bytes of data, and of data + scale, each rounded up to 256. */
uint64_t cu_pack_f_data(const cu_weight_t *w);
uint64_t cu_pack_f_bytes(const cu_weight_t *w);
/* As cu_pack_place(). */
void cu_pack_f_place(cu_weight_t *w, uint8_t *device);

/* cu_linear() for matrices that are all of one family, not CU_Q8, and have
 * one n_in and one group. INFER_OK or INFER_DEVICE. */
int cu_linear_f(const cu_dev_t *dev, const cu_linear_t *l,
    const cu_acts_t *a, uint32_t n);

/* Whether one launch can do both, of up to CU_F_DECODE rows. */
int cu_gate_up_f_alike(const cu_weight_t *gate, const cu_weight_t *up);
/* Their products, each [n, F], in one launch. */
int cu_gate_up_f_sums(const cu_dev_t *dev, const cu_weight_t *gate,
    const cu_weight_t *up, const cu_acts_t *a, uint32_t n, float *const y[2]);
/* Whether cu_gate_up_f() can do it: matrices alike, up to CU_F_DECODE rows,
 * and 16-bit activations as its output (bits CU_BF16, CU_F16,
 * CU_W4A16 of want alone, not bf16 and f16 at once). */
int cu_gate_up_f_fuses(const cu_weight_t *gate, const cu_weight_t *up,
    uint32_t n, uint32_t want);
/* out->h = silu(gate a) * (up a), rounded to what want says. */
int cu_gate_up_f(const cu_dev_t *dev, const cu_weight_t *gate,
    const cu_weight_t *up, const cu_acts_t *a, uint32_t n, uint32_t want,
    const cu_acts_t *out);

/* As cu_linear_supports() and cu_linear_work(), for these families. */
int cu_linear_f_supports(const cu_weight_t *w, int cc, infer_err_t *err);
size_t cu_linear_f_work(const cu_weight_t *w, uint32_t n);

/* ---- between the files of these families ---- */

/* One launch: what a decode or tile kernel gets. */
typedef struct {
    const uint8_t  *data;
    const void     *scale;
    float          *y;            /* of column 0 of this matrix */
    uint32_t        n_out;
    uint32_t        tile0;        /* first block of the grid */
} cu_f_part_t;

typedef struct {
    cu_f_part_t     part[3];
    uint32_t        n_parts;
    const uint8_t  *a;            /* [n, a_bytes] */
    const float    *a_scale;      /* [n] or NULL */
    uint32_t        a_bytes;
    uint32_t        pitch;        /* bytes of a weight row; W4A16: blocks */
    uint32_t        group_shift;  /* W4A16: log2(group / 32) */
    uint32_t        n_groups;     /* W4A16 */
    uint32_t        n;            /* rows of a */
    uint32_t        ldy;
    int             add;
    uint16_t       *h;            /* fused gate and up: output [n, n_out] */
    int             h_f16;
} cu_f_args_t;

/* Decode kernels, any n (in chunks of CU_F_DECODE rows); tiles, any n. */
int cu_f16_decode(const cu_dev_t *dev, cu_f_args_t *p, int f16);
int cu_f16_tiles(const cu_dev_t *dev, const cu_f_args_t *p, int f16);
int cu_f8_decode(const cu_dev_t *dev, cu_f_args_t *p);
int cu_f8_tiles(const cu_dev_t *dev, const cu_f_args_t *p);
int cu_w8_decode(const cu_dev_t *dev, cu_f_args_t *p);
int cu_w8_tiles(const cu_dev_t *dev, const cu_f_args_t *p);
int cu_w4_decode(const cu_dev_t *dev, cu_f_args_t *p, uint32_t form);
/* plain[n_out][n_in] = the matrix in bf16. */
int cu_w4_plain(const cu_dev_t *dev, const cu_weight_t *w, uint16_t *plain);
/* y = raw * (a_scale * scale), or added to y; raw [n, n_out] f32, or s32 for
 * W8A8; may be y itself. */
int cu_f_scale(const cu_dev_t *dev, const void *raw, uint32_t ld_raw,
    int raw_s32, const cu_f_args_t *p);

#ifdef __cplusplus
}
#endif

#endif
