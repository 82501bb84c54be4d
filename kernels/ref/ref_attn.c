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


static float
ref_k(const cpu_attn_t *a, uint32_t pos, uint32_t d)
{
    const uint16_t  *p;

    p = (const uint16_t *) (a->kv + a->pages[pos / KERN_PAGE_TOKENS]
                                    * a->page_bytes);
    return cpu_f16_to_f32(p[(size_t) d * KERN_PAGE_TOKENS
                            + pos % KERN_PAGE_TOKENS]);
}

static float
ref_v(const cpu_attn_t *a, uint32_t pos, uint32_t d)
{
    const uint16_t  *p;

    p = (const uint16_t *) (a->kv + a->pages[pos / KERN_PAGE_TOKENS]
                                    * a->page_bytes);
    return cpu_f16_to_f32(p[(size_t) KERN_PAGE_TOKENS * a->head_dim
                            + (size_t) (pos % KERN_PAGE_TOKENS) * a->v_dim
                            + d]);
}

/* Keys pos .. pos + n - 1 of one chunk: o[d], m and l. */
static void
ref_chunk(const cpu_attn_t *a, const float *q, uint32_t pos, uint32_t n,
    float *o, float *m, float *l)
{
    float     s[CPU_CHUNK], lane[CPU_LANES] = { 0 };
    uint32_t  i, d, step;

    *m = -INFINITY;
    for (i = 0; i < n; i++) {
        s[i] = 0;
        for (d = 0; d < a->head_dim; d++) {
            s[i] = fmaf(q[d], ref_k(a, pos + i, d), s[i]);
        }
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

    for (d = 0; d < a->head_dim; d++) {
        o[d] = 0;
        for (i = 0; i < n; i++) {
            o[d] = fmaf(s[i], ref_v(a, pos + i, d), o[d]);
        }
    }
}

void
kern_attend_ref(const cpu_attn_t *a)
{
    uint32_t  i, d, pos, n;
    float    *o = a->work, *run = a->work + a->v_dim;
    float     m, l, rm, rl, nm, f, g;

    for (i = 0; i < a->nq; i++) {
        rm = rl = 0;
        for (pos = 0; pos < a->n_keys[i]; pos += CPU_CHUNK) {
            n = a->n_keys[i] - pos;
            n = n < CPU_CHUNK ? n : CPU_CHUNK;
            if (pos == 0) {
                ref_chunk(a, a->q[i], pos, n, run, &rm, &rl);
                continue;
            }
            ref_chunk(a, a->q[i], pos, n, o, &m, &l);
            nm = m > rm ? m : rm;
            f = kern_exp(rm - nm);
            g = kern_exp(m - nm);
            rl = fmaf(rl, f, l * g);
            for (d = 0; d < a->head_dim; d++) {
                run[d] = fmaf(run[d], f, o[d] * g);
            }
            rm = nm;
        }
        f = 1.0f / rl;
        for (d = 0; d < a->head_dim; d++) {
            a->out[i][d] = run[d] * f;
        }
    }
}
