/*
 * body_attn8.h: attention of many rows where registers are few: tiles of up
 * to 12 queries x 8 lanes, so that a value of K or V is converted once for
 * all of them. The chains are those of body_attn.h, which includes this.
 * Queries come with their rows inner, [d][CPU_QMAX]: one register finds all.
 */

/* Eight values of a page, from value `at` of p on; q8 times scale. */
V16_INLINE v8_t
attn8_value(const int type, const uint8_t *p, size_t at, v8_t scale)
{
    if (type == KERN_KV_F16) {
        return v8_from_f16((const uint16_t *) p + at);
    }
    if (type == KERN_KV_BF16) {
        return v8_from_bf16((const uint16_t *) p + at);
    }
    return v8_mul(v8_from_i8((const int8_t *) p + at), scale);
}

/* Scores of `rows` queries against the keys of one page; as much is fetched
 * from `next` as the keys are. */
V16_INLINE void
attn8_scores(const float *q, float *s, const uint8_t *k, const uint16_t *ks,
    uint32_t head_dim, const int type, const int rows, const uint8_t *next)
{
    v8_t      acc[V8_ROWS], v, scale = v8_set1(1.0f);
    size_t    at, d;
    int       r;

    for (at = 0; at < KERN_PAGE_TOKENS; at += 8) {
#pragma GCC unroll 12
        for (r = 0; r < rows; r++) {
            acc[r] = v8_set1(0.0f);
        }
#pragma GCC unroll 1
        for (d = 0; d < head_dim; d++) {
            if (d % 4 == 0) {
                attn_ahead(next, (at / 8 * head_dim + d) / 4
                                 * attn_line(type));
            }
            if (type == KERN_KV_Q8 && d % CPU_BLOCK == 0) {
                scale = v8_from_f16(ks + d + at);
            }
            v = attn8_value(type, k, d * KERN_PAGE_TOKENS + at, scale);
#pragma GCC unroll 12
            for (r = 0; r < rows; r++) {
                acc[r] = v8_fma(v8_set1(q[d * CPU_QMAX + (size_t) r]), v,
                                acc[r]);
            }
        }
#pragma GCC unroll 12
        for (r = 0; r < rows; r++) {
            v8_store(s + (size_t) r * CPU_CHUNK + at, acc[r]);
        }
    }
}

/* n keys of one page from slot i0 on, added to `rows` outputs. */
V16_INLINE void
attn8_outputs(float *o, const float *p, const attn_v_t *v, uint32_t i0,
    uint32_t n, const int type, const int rows, const uint8_t *next)
{
    const float  *vs;
    v8_t          acc[V8_ROWS], x;
    size_t        v_dim = v->v_dim, at, d, i;
    int           r;

    for (d = 0; d < v_dim; d += 8) {
        vs = v->scale + d / CPU_BLOCK * KERN_PAGE_TOKENS + i0;
        at = i0 * v_dim + d;
#pragma GCC unroll 12
        for (r = 0; r < rows; r++) {
            acc[r] = v8_load(o + (size_t) r * v_dim + d);
        }
#pragma GCC unroll 1
        for (i = 0; i < n; i++, at += v_dim) {
            if (i % 4 == 0) {
                attn_ahead(next, (d + i / 4) * attn_line(type));
            }
            x = type == KERN_KV_Q8 ? v8_set1(vs[i]) : acc[0];
            x = attn8_value(type, v->values, at, x);
#pragma GCC unroll 12
            for (r = 0; r < rows; r++) {
                acc[r] = v8_fma(v8_set1(p[(size_t) r * CPU_CHUNK + i]), x,
                                acc[r]);
            }
        }
#pragma GCC unroll 12
        for (r = 0; r < rows; r++) {
            v8_store(o + (size_t) r * v_dim + d, acc[r]);
        }
    }
}
