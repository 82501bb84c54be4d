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

/* The keys of a page as f32 [head_dim][32 tokens]. */
REF_INLINE void
ref_keys_of(const cpu_attn_t *a, const uint8_t *page, float *key)
{
    const uint16_t  *ks;
    uint32_t         i, d;
    float            scale[KERN_PAGE_TOKENS];

    ref_values(a->kv_type, key, page, a->head_dim * KERN_PAGE_TOKENS);
    if (a->kv_type != KERN_KV_Q8) {
        return;
    }
    ks = (const uint16_t *) (page + cpu_kv_ks_at(a->head_dim, a->v_dim));
    for (d = 0; d < a->head_dim; d++) {
        if (d % CPU_BLOCK == 0) {
            ref_halves(scale, ks + d, KERN_PAGE_TOKENS);
        }
        for (i = 0; i < KERN_PAGE_TOKENS; i++) {
            key[i] *= scale[i];
        }
        key += KERN_PAGE_TOKENS;
    }
}

/* The values of a page as f32 [32 tokens][v_dim]. */
REF_INLINE void
ref_values_of(const cpu_attn_t *a, const uint8_t *page, float *value)
{
    const uint16_t  *vs;
    uint32_t         i, d;
    float            scale[KERN_PAGE_TOKENS];

    ref_values(a->kv_type, value, page + cpu_kv_v_at(a->kv_type, a->head_dim),
               KERN_PAGE_TOKENS * a->v_dim);
    if (a->kv_type != KERN_KV_Q8) {
        return;
    }
    vs = (const uint16_t *) (page + cpu_kv_vs_at(a->head_dim, a->v_dim));
    for (d = 0; d < a->head_dim; d++) {
        if (d % CPU_BLOCK == 0) {
            ref_halves(scale, vs + d, KERN_PAGE_TOKENS);
        }
        for (i = 0; i < KERN_PAGE_TOKENS; i++) {
            value[i * a->v_dim + d] *= scale[i];
        }
    }
}

/* s[i] = q * key i of a page: one chain over d each, keys inner. */
REF_INLINE void
ref_scores(const cpu_attn_t *a, const float *q, const float *key, float *s)
{
    uint32_t  i, d;

    for (i = 0; i < KERN_PAGE_TOKENS; i++) {
        s[i] = 0;
    }
    for (d = 0; d < a->head_dim; d++, key += KERN_PAGE_TOKENS) {
        for (i = 0; i < KERN_PAGE_TOKENS; i++) {
            s[i] = fmaf(q[d], key[i], s[i]);
        }
    }
}

/* o[d] += p[i] * value i of a page, i < n: one chain over keys each, d
 * inner. */
REF_INLINE void
ref_sum(const cpu_attn_t *a, const float *p, const float *value, uint32_t n,
    float *o)
{
    uint32_t  i, d;

    for (i = 0; i < n; i++, value += a->v_dim) {
        for (d = 0; d < a->head_dim; d++) {
            o[d] = fmaf(p[i], value[d], o[d]);
        }
    }
}

/* n scores to weights. */
static void
ref_softmax(float *s, uint32_t n, float *m, float *l)
{
    float     lane[CPU_LANES] = { 0 };
    uint32_t  i, step;

    *m = -INFINITY;
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
}

/* Keys of the page or chunk at pos, of `most`, that query i sees. */
static uint32_t
ref_seen(const cpu_attn_t *a, uint32_t i, uint32_t pos, uint32_t most)
{
    uint32_t  n = a->n_keys[i] > pos ? a->n_keys[i] - pos : 0;

    return n < most ? n : most;
}

/* The chunk at pos of all queries that see it: o[i][v_dim], and m and l in
 * ml[i][2]. A page is made f32 once for all of them. */
REF_INLINE void
ref_chunk_body(const cpu_attn_t *a, uint32_t pos, float *o, float *ml)
{
    float           page[KERN_PAGE_TOKENS * REF_MAX_DIM], *s = a->work;
    const uint8_t  *kv;
    uint32_t        i, at, n;

    for (at = 0; at < CPU_CHUNK; at += KERN_PAGE_TOKENS) {
        if (pos + at >= a->n_keys[a->nq - 1]) {
            break;
        }
        kv = ref_page(a, pos + at);
        ref_keys_of(a, kv, page);
        for (i = 0; i < a->nq; i++) {
            ref_scores(a, a->q[i], page, s + i * CPU_CHUNK + at);
        }
    }
    for (i = 0; i < a->nq; i++) {
        n = ref_seen(a, i, pos, CPU_CHUNK);
        if (n != 0) {
            ref_softmax(s + i * CPU_CHUNK, n, &ml[2 * i], &ml[2 * i + 1]);
            memset(o + (size_t) i * a->v_dim, 0, a->v_dim * sizeof(float));
        }
    }
    for (at = 0; at < CPU_CHUNK; at += KERN_PAGE_TOKENS) {
        if (pos + at >= a->n_keys[a->nq - 1]) {
            break;
        }
        kv = ref_page(a, pos + at);
        ref_values_of(a, kv, page);
        for (i = 0; i < a->nq; i++) {
            ref_sum(a, s + i * CPU_CHUNK + at, page,
                    ref_seen(a, i, pos + at, KERN_PAGE_TOKENS),
                    o + (size_t) i * a->v_dim);
        }
    }
}

#if defined(__x86_64__)

/* fmaf() as an instruction instead of a call: exact both ways. */
__attribute__((target("avx2,fma")))
static void
ref_chunk_fma(const cpu_attn_t *a, uint32_t pos, float *o, float *ml)
{
    ref_chunk_body(a, pos, o, ml);
}

#endif

static void
ref_chunk(const cpu_attn_t *a, uint32_t pos, float *o, float *ml)
{
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
        ref_chunk_fma(a, pos, o, ml);
        return;
    }
#endif
    ref_chunk_body(a, pos, o, ml);
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

void
kern_attend_ref(const cpu_attn_t *a)
{
    uint32_t  i, pos;
    float    *o = a->work + CPU_QMAX * CPU_CHUNK;
    float    *run = o + (size_t) CPU_QMAX * a->v_dim;
    float    *rml = run + (size_t) CPU_QMAX * a->v_dim;
    float    *ml = rml + 2 * CPU_QMAX;

    ref_chunk(a, 0, run, rml);
    for (pos = CPU_CHUNK; pos < a->n_keys[a->nq - 1]; pos += CPU_CHUNK) {
        ref_chunk(a, pos, o, ml);
        for (i = 0; i < a->nq; i++) {
            if (pos < a->n_keys[i]) {
                ref_fold(a, run + (size_t) i * a->v_dim, &rml[2 * i],
                         &rml[2 * i + 1], o + (size_t) i * a->v_dim,
                         ml[2 * i], ml[2 * i + 1]);
            }
        }
    }
    for (i = 0; i < a->nq; i++) {
        ref_finish(a, i, run + (size_t) i * a->v_dim, rml[2 * i + 1]);
    }
}

void
kern_attend_part_ref(const cpu_attn_t *a, uint32_t chunk, float *part)
{
    if (chunk * CPU_CHUNK < a->n_keys[a->nq - 1]) {
        ref_chunk(a, chunk * CPU_CHUNK, part,
                  part + (size_t) CPU_QMAX * a->v_dim);
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
