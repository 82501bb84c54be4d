/*
 * ref_attn.c: the definition of attention. Keys in chunks of 128 at absolute
 * positions; each chunk starts from a fresh (m, l, o) and is merged into the
 * running one in ascending order, so that the bits do not depend on how many
 * rows are computed together. Source of the method: Milakov and Gimelshein,
 * "Online normalizer calculation for softmax", 2018.
 */

#include <math.h>
#include <string.h>

#include "ref/ref.h"


#define REF_MAX_DIM  256    /* of a head */


/* Inlined into both versions of ref_chunk(). */
#define REF_INLINE  static inline __attribute__((always_inline))

/* cpu_f16_to_f32() for n values, without branches, so that it vectorizes. */
REF_INLINE void
ref_halves(float *y, const uint16_t *h, uint32_t n)
{
    uint32_t  i, man, exp, sub, inf, u;
    float     f;

    for (i = 0; i < n; i++) {
        man = h[i] & 0x3ff;
        exp = h[i] & 0x7c00;
        f = (float) (int32_t) man * 0x1p-24f;
        memcpy(&sub, &f, sizeof(sub));
        inf = 0x7f800000 | man << 13 | (man != 0 ? 0x400000 : 0);
        u = ((exp | man) << 13) + (112u << 23);
        u = exp == 0 ? sub : u;
        u = exp == 0x7c00 ? inf : u;
        u |= (uint32_t) (h[i] & 0x8000) << 16;
        memcpy(&y[i], &u, sizeof(u));
    }
}

/* n values of a page's type at p; of q8 without their scales. */
REF_INLINE void
ref_values(uint32_t type, float *y, const uint8_t *p, uint32_t n)
{
    uint32_t  i, u;

    switch (type) {
    case KERN_KV_F16:
        ref_halves(y, (const uint16_t *) p, n);
        break;
    case KERN_KV_BF16:
        for (i = 0; i < n; i++) {
            u = (uint32_t) ((const uint16_t *) p)[i] << 16;
            memcpy(&y[i], &u, sizeof(u));
        }
        break;
    default:
        for (i = 0; i < n; i++) {
            y[i] = (float) ((const int8_t *) p)[i];
        }
    }
}

REF_INLINE const uint8_t *
ref_page(const cpu_attn_t *a, uint32_t pos)
{
    return a->kv + a->pages[pos / KERN_PAGE_TOKENS] * a->page_bytes;
}

/* s[i] = q * key pos + i: one chain over d each, keys inner. pos is the
 * first of a page. */
REF_INLINE void
ref_scores(const cpu_attn_t *a, const float *q, uint32_t pos, uint32_t n,
    float *s)
{
    const uint8_t   *page = ref_page(a, pos), *k = page;
    const uint16_t  *ks;
    uint32_t         i, d;
    float            key[KERN_PAGE_TOKENS], scale[KERN_PAGE_TOKENS];

    ks = (const uint16_t *) (page + cpu_kv_ks_at(a->head_dim, a->v_dim));

    for (i = 0; i < n; i++) {
        s[i] = 0;
    }
    for (d = 0; d < a->head_dim; d++) {
        ref_values(a->kv_type, key, k, n);
        k += KERN_PAGE_TOKENS * cpu_kv_value_bytes(a->kv_type);
        if (a->kv_type == KERN_KV_Q8) {
            if (d % CPU_BLOCK == 0) {
                ref_halves(scale, ks + d, n);
            }
            for (i = 0; i < n; i++) {
                key[i] *= scale[i];
            }
        }
        for (i = 0; i < n; i++) {
            s[i] = fmaf(q[d], key[i], s[i]);
        }
    }
}

REF_INLINE void
ref_scale_value(const cpu_attn_t *a, float *value, const uint8_t *page,
    uint32_t slot)
{
    uint32_t         d;
    const uint16_t  *vs;

    vs = (const uint16_t *) (page + cpu_kv_vs_at(a->head_dim, a->v_dim));
    for (d = 0; d < a->head_dim; d++) {
        value[d] *= cpu_f16_to_f32(vs[d / CPU_BLOCK * KERN_PAGE_TOKENS
                                      + slot]);
    }
}

/* o[d] += p[i] * value pos + i: one chain over keys each, d inner. */
REF_INLINE void
ref_sum(const cpu_attn_t *a, const float *p, uint32_t pos, uint32_t n,
    float *o)
{
    const uint8_t  *page;
    uint32_t        i, d, slot;
    float           value[REF_MAX_DIM];

    for (i = 0; i < n; i++) {
        page = ref_page(a, pos + i);
        slot = (pos + i) % KERN_PAGE_TOKENS;
        ref_values(a->kv_type, value,
                   page + cpu_kv_v_at(a->kv_type, a->head_dim)
                   + slot * cpu_kv_v_at(a->kv_type, a->v_dim)
                     / KERN_PAGE_TOKENS, a->head_dim);
        if (a->kv_type == KERN_KV_Q8) {
            ref_scale_value(a, value, page, slot);
        }
        for (d = 0; d < a->head_dim; d++) {
            o[d] = fmaf(p[i], value[d], o[d]);
        }
    }
}

/* Keys pos .. pos + n - 1 of one chunk: o[d], m and l. */
REF_INLINE void
ref_chunk_body(const cpu_attn_t *a, const float *q, uint32_t pos, uint32_t n,
    float *o, float *m, float *l)
{
    float     s[CPU_CHUNK], lane[CPU_LANES] = { 0 };
    uint32_t  i, step;

    *m = -INFINITY;
    for (i = 0; i < n; i += KERN_PAGE_TOKENS) {
        step = n - i < KERN_PAGE_TOKENS ? n - i : KERN_PAGE_TOKENS;
        ref_scores(a, q, pos + i, step, s + i);
    }
    for (i = 0; i < n; i++) {
        *m = s[i] > *m ? s[i] : *m;
    }

    for (i = 0; i < n; i++) {
        s[i] = kern_exp(s[i] - *m);
        lane[i % CPU_LANES] += s[i];
    }
    for (step = CPU_LANES / 2; step > 0; step /= 2) {
        for (i = 0; i < step; i++) {
            lane[i] += lane[i + step];
        }
    }
    *l = lane[0];

    memset(o, 0, a->head_dim * sizeof(float));
    ref_sum(a, s, pos, n, o);
}

#if defined(__x86_64__)

/* fmaf() as an instruction instead of a call: exact both ways. */
__attribute__((target("avx2,fma")))
static void
ref_chunk_fma(const cpu_attn_t *a, const float *q, uint32_t pos, uint32_t n,
    float *o, float *m, float *l)
{
    ref_chunk_body(a, q, pos, n, o, m, l);
}

#endif

static void
ref_chunk(const cpu_attn_t *a, const float *q, uint32_t pos, uint32_t n,
    float *o, float *m, float *l)
{
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
        ref_chunk_fma(a, q, pos, n, o, m, l);
        return;
    }
#endif
    ref_chunk_body(a, q, pos, n, o, m, l);
}

/* The next chunk (o, m, l) into the running one. */
static void
ref_fold(const cpu_attn_t *a, float *run, float *rm, float *rl,
    const float *o, float m, float l)
{
    float     nm = m > *rm ? m : *rm;
    float     f = kern_exp(*rm - nm), g = kern_exp(m - nm);
    uint32_t  d;

    *rl = fmaf(*rl, f, l * g);
    *rm = nm;
    for (d = 0; d < a->head_dim; d++) {
        run[d] = fmaf(run[d], f, o[d] * g);
    }
}

static void
ref_finish(const cpu_attn_t *a, uint32_t i, const float *run, float l)
{
    uint32_t  d;
    float     f = 1.0f / l;

    for (d = 0; d < a->head_dim; d++) {
        a->out[i][d] = run[d] * f;
    }
}

static uint32_t
ref_keys(const cpu_attn_t *a, uint32_t i, uint32_t pos)
{
    uint32_t  n = a->n_keys[i] - pos;

    return n < CPU_CHUNK ? n : CPU_CHUNK;
}

void
kern_attend_ref(const cpu_attn_t *a)
{
    uint32_t  i, pos;
    float    *o = a->work, *run = a->work + a->v_dim;
    float     m, l, rm, rl;

    for (i = 0; i < a->nq; i++) {
        ref_chunk(a, a->q[i], 0, ref_keys(a, i, 0), run, &rm, &rl);
        for (pos = CPU_CHUNK; pos < a->n_keys[i]; pos += CPU_CHUNK) {
            ref_chunk(a, a->q[i], pos, ref_keys(a, i, pos), o, &m, &l);
            ref_fold(a, run, &rm, &rl, o, m, l);
        }
        ref_finish(a, i, run, rl);
    }
}

void
kern_attend_part_ref(const cpu_attn_t *a, uint32_t chunk, float *part)
{
    float     *ml = part + (size_t) CPU_QMAX * a->v_dim;
    uint32_t   i, pos = chunk * CPU_CHUNK;

    for (i = 0; i < a->nq; i++) {
        if (pos < a->n_keys[i]) {
            ref_chunk(a, a->q[i], pos, ref_keys(a, i, pos),
                      part + (size_t) i * a->v_dim, &ml[2 * i],
                      &ml[2 * i + 1]);
        }
    }
}

void
kern_attend_join_ref(const cpu_attn_t *a, float *part)
{
    size_t     step = cpu_part_floats(a->v_dim);
    float     *ml = part + (size_t) CPU_QMAX * a->v_dim, *run;
    uint32_t   i, c;

    for (i = 0; i < a->nq; i++) {
        run = part + (size_t) i * a->v_dim;
        for (c = 1; c * CPU_CHUNK < a->n_keys[i]; c++) {
            ref_fold(a, run, &ml[2 * i], &ml[2 * i + 1], run + c * step,
                     ml[c * step + 2 * i], ml[c * step + 2 * i + 1]);
        }
        ref_finish(a, i, run, ml[2 * i + 1]);
    }
}
