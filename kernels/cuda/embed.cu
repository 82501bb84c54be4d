/*
 * embed.cu: rows of an embedding matrix of any family as f32.
 */

#include "dev.cuh"
#include "gemm.h"
#include "gemm_f.h"

#define EMBED_THREADS  256

/* Where the scale of link i of a row of 16 is, in its tile. */
DEV_INLINE float
embed_scale(const cu_traits_t t, const void *scale, uint64_t tile, uint32_t groups, uint32_t row,
    uint32_t i)
{
    const uint8_t  *p = (const uint8_t *) scale + (tile * groups + i / CU_GROUP)
                        * (uint32_t) (CU_TILE * CU_GROUP * t.scale)
                        + (row * CU_GROUP + i % CU_GROUP) * (uint32_t) t.scale;

    return t.scale == 2 ? dev_f16(*(const uint16_t *) p) : *(const float *) p;
}

/* Columns 4 k .. 4 k + 3 of a row of the q8 family: the bits of cpu_weight_row(). */
DEV_INLINE void
embed_q8(const cu_weight_t &w, uint32_t id, uint32_t k, float x[4])
{
    const cu_traits_t  t = cu_traits(w.form);
    const uint64_t     tile = id / CU_TILE;
    const uint32_t     row = id % CU_TILE, b = k / 8, h = k % 8 / 4, lane = row % 8 * 4 + k % 4;
    const uint32_t     step = t.nibbles ? b / 2 : b, link = t.subs == 2 ? 2 * b + h : b;
    const uint32_t     groups = cu_groups(t, w.n_in);
    const uint32_t     v = ld4(w.data + (tile * cu_steps(t, w.n_in) + step) * CU_STEP + lane * 16
                               + (2 * h + row / 8) * 4);
    const float        d = embed_scale(t, w.scale, tile, groups, row, link);
    const float        m = t.min ? embed_scale(t, w.min, tile, groups, row, link) : 0;

    for (int i = 0; i < 4; i++) {
        int  q = (int8_t) (v >> 8 * i);

        if (t.nibbles) {
            q = (int) (v >> (8 * i + b % 2 * 4) & 15);
            q = w.form == CU_N4Z ? (q ^ 8) - 8 : q;
        }
        x[i] = d * (float) q;
        if (t.min) {
            x[i] += m;
        }
    }
}

/* The same of a family with rows of plain values. */
DEV_INLINE void
embed_plain(const cu_weight_t &w, uint32_t pitch, uint32_t id, uint32_t k, float x[4])
{
    const uint8_t  *row = w.data + (uint64_t) id * pitch;

    if (w.family == CU_BF16 || w.family == CU_F16) {
        const uint2     v = ld8(row + k * 8);
        const uint16_t  h[4] = { (uint16_t) v.x, (uint16_t) (v.x >> 16), (uint16_t) v.y,
                                 (uint16_t) (v.y >> 16) };

        for (int i = 0; i < 4; i++) {
            x[i] = w.family == CU_BF16 ? dev_bf16(h[i]) : dev_f16(h[i]);
        }
        return;
    }

    const uint32_t  v = ld4(row + k * 4);
    const float     d = ((const float *) w.scale)[id];

    for (int i = 0; i < 4; i++) {
        const uint8_t  c = (uint8_t) (v >> 8 * i);

        x[i] = d * (w.family == CU_FP8 ? dev_e4m3(c) : (float) (int8_t) c);
    }
}

/* The same of W4A16 (gemm_f.h): four columns are half of a step's word, its registers 0 and 2, or 1
 * and 3 of the upper rows. */
DEV_INLINE void
embed_w4(const cu_weight_t &w, uint32_t id, uint32_t k, float x[4])
{
    const uint64_t   tile = id / CU_F_TILE;
    const uint32_t   row = id % CU_F_TILE, g = row % 8, high = row / 8, c = 4 * k % 64;
    const uint32_t   step = c / 32 * 2 + c % 8 / 4, t = c % 32 / 8;
    const uint32_t   groups = (w.n_in + w.group - 1) / w.group;
    const uint32_t   v = ld4(w.data + (tile * ((w.n_in + 63) / 64) + 4 * k / 64) * CU_STEP
                             + (g * 4 + t) * 16 + step * 4);
    const uint16_t  *s = (const uint16_t *) w.scale
                         + ((tile * groups + 4 * k / w.group) * 16 + 2 * g + high)
                           * (w.form == CU_N4M ? 2 : 1);
    const float      d = dev_f16(s[0]), m = w.form == CU_N4M ? dev_f16(s[1]) : 0;

    for (int i = 0; i < 4; i++) {
        const uint32_t  q = v >> 4 * (i / 2 * 2 + high + i % 2 * 4) & 15;

        x[i] = w.form == CU_N4M ? d * (float) q + m : d * (float) ((int) q - 8);
    }
}

/* embed_k: x[t, :] = row token[t] of w
 * shapes   w any family [V, D]; x f32 [T, D]; D % 32 == 0
 * launch   (ceil(D / 1024), T) blocks of 256, four columns a thread
 * math     exact products of the q8 family, + minimum: equal bits to cpu_weight_row()
 * traffic  cu_embed_cost()     bound: latency
 * measured not measured
 * source   gemm.h, gemm_f.h */
__global__ void __launch_bounds__(EMBED_THREADS)
embed_k(const cu_weight_t w, uint32_t pitch, const cu_plan_t p, float *x)
{
    const uint32_t  t = blockIdx.y, k = blockIdx.x * EMBED_THREADS + threadIdx.x;
    int32_t         id;
    float           v[4] = { 0, 0, 0, 0 };

    dev_wait();
    dev_launch_dependents();
    if (k >= w.n_in / 4) {
        return;
    }
    if (p.row_seq[t] >= 0) {
        id = p.token[t];
        id = id < 0 ? p.sampled[-1 - id] : id;
        id = id < 0 || (uint32_t) id >= w.n_out ? 0 : id;    /* what failed to be sampled */
        if (w.family == CU_Q8) {
            embed_q8(w, (uint32_t) id, k, v);
        } else if (w.family == CU_W4A16) {
            embed_w4(w, (uint32_t) id, k, v);
        } else {
            embed_plain(w, pitch, (uint32_t) id, k, v);
        }
    }
    st16(x + (uint64_t) t * w.n_in + 4 * k,
         make_uint4(__float_as_uint(v[0]), __float_as_uint(v[1]), __float_as_uint(v[2]),
                    __float_as_uint(v[3])));
}

int
cu_embed(const cu_dev_t *dev, const cu_weight_t *embd, const cu_plan_t *p, float *x)
{
    const uint32_t  blocks = (embd->n_in / 4 + EMBED_THREADS - 1) / EMBED_THREADS;

    if (p->n_rows == 0) {
        return INFER_OK;
    }
    return dev_launch(dev, embed_k, dim3(blocks, p->n_rows), dim3(EMBED_THREADS), 0, *embd,
                      cu_f_pitch(embd->family, embd->n_in), *p, x);
}
