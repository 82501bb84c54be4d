/*
 * body_attn.h: attention of ref_attn.c over v16 lanes. Scores have keys in
 * lanes and one chain over d; outputs have d in lanes and one chain over
 * keys. Query vectors of a call share each load of K and V; where their key
 * counts differ (the diagonal), the rest is done one by one in the same
 * order, so that a row's bits do not depend on its neighbours.
 *
 * bound    f32 fma; 12 queries x 512 keys of 64 on one Zen 4 core: 78 of
 *          118 GOP/s (66 %), softmax and f16 conversion are the rest
 */

/* Scores of `rows` queries against the 32 keys of one page. */
V16_INLINE void
attn_scores(const float *const *q, float *s, const uint16_t *k,
    uint32_t head_dim, const int rows)
{
    v16_t     acc[V16_QK_ROWS][2], k0, k1, x;
    uint32_t  d;
    int       r;

#pragma GCC unroll 12
    for (r = 0; r < rows; r++) {
        acc[r][0] = acc[r][1] = v16_set1(0.0f);
    }
    for (d = 0; d < head_dim; d++, k += KERN_PAGE_TOKENS) {
        k0 = v16_from_f16(k);
        k1 = v16_from_f16(k + 16);
#pragma GCC unroll 12
        for (r = 0; r < rows; r++) {
            x = v16_set1(q[r][d]);
            acc[r][0] = v16_fma(x, k0, acc[r][0]);
            acc[r][1] = v16_fma(x, k1, acc[r][1]);
        }
    }
#pragma GCC unroll 12
    for (r = 0; r < rows; r++) {
        v16_store(s + r * CPU_CHUNK, acc[r][0]);
        v16_store(s + r * CPU_CHUNK + 16, acc[r][1]);
    }
}

/* n keys from one page added to columns d .. of `rows` outputs. */
V16_INLINE void
attn_outputs(float *o, const float *p, const uint16_t *v, uint32_t v_dim,
    uint32_t n, const int rows, const int cols)
{
    v16_t     acc[V16_PV_ROWS][V16_PV_COLS], vc[V16_PV_COLS], x;
    uint32_t  i;
    int       r, c;

#pragma GCC unroll 6
    for (r = 0; r < rows; r++) {
#pragma GCC unroll 4
        for (c = 0; c < cols; c++) {
            acc[r][c] = v16_load(o + (size_t) r * v_dim + c * 16);
        }
    }
    for (i = 0; i < n; i++, v += v_dim) {
#pragma GCC unroll 4
        for (c = 0; c < cols; c++) {
            vc[c] = v16_from_f16(v + c * 16);
        }
#pragma GCC unroll 6
        for (r = 0; r < rows; r++) {
            x = v16_set1(p[r * CPU_CHUNK + i]);
#pragma GCC unroll 4
            for (c = 0; c < cols; c++) {
                acc[r][c] = v16_fma(x, vc[c], acc[r][c]);
            }
        }
    }
#pragma GCC unroll 6
    for (r = 0; r < rows; r++) {
#pragma GCC unroll 4
        for (c = 0; c < cols; c++) {
            v16_store(o + (size_t) r * v_dim + c * 16, acc[r][c]);
        }
    }
}

static void
attn_scores_n(const float *const *q, float *s, const uint16_t *k,
    uint32_t head_dim, uint32_t nq)
{
#if V16_QK_ROWS >= 12
    while (nq >= 12) {
        attn_scores(q, s, k, head_dim, 12);
        q += 12;
        s += 12 * CPU_CHUNK;
        nq -= 12;
    }
    while (nq >= 6) {
        attn_scores(q, s, k, head_dim, 6);
        q += 6;
        s += 6 * CPU_CHUNK;
        nq -= 6;
    }
    while (nq >= 3) {
        attn_scores(q, s, k, head_dim, 3);
        q += 3;
        s += 3 * CPU_CHUNK;
        nq -= 3;
    }
#endif
    while (nq >= 2) {
        attn_scores(q, s, k, head_dim, 2);
        q += 2;
        s += 2 * CPU_CHUNK;
        nq -= 2;
    }
    if (nq == 1) {
        attn_scores(q, s, k, head_dim, 1);
    }
}

V16_INLINE void
attn_outputs_cols(float *o, const float *p, const uint16_t *v,
    uint32_t v_dim, uint32_t n, const int rows)
{
    uint32_t  d = 0;

#if V16_PV_COLS >= 4
    for ( /* void */ ; d + 64 <= v_dim; d += 64) {
        attn_outputs(o + d, p, v + d, v_dim, n, rows, 4);
    }
#endif
    for ( /* void */ ; d < v_dim; d += 16) {
        attn_outputs(o + d, p, v + d, v_dim, n, rows, 1);
    }
}

static void
attn_outputs_n(float *o, const float *p, const uint16_t *v, uint32_t v_dim,
    uint32_t n, uint32_t nq)
{
#if V16_PV_ROWS >= 6
    while (nq >= 6) {
        attn_outputs_cols(o, p, v, v_dim, n, 6);
        o += 6 * (size_t) v_dim;
        p += 6 * CPU_CHUNK;
        nq -= 6;
    }
#endif
    while (nq >= 3) {
        attn_outputs_cols(o, p, v, v_dim, n, 3);
        o += 3 * (size_t) v_dim;
        p += 3 * CPU_CHUNK;
        nq -= 3;
    }
    for ( /* void */ ; nq > 0; nq--) {
        attn_outputs_cols(o, p, v, v_dim, n, 1);
        o += v_dim;
        p += CPU_CHUNK;
    }
}

/* Scores of one query to weights; n of them count. */
static void
attn_softmax(float *s, uint32_t n, float *m, float *l)
{
    uint32_t  i, end = (n + 15) / 16 * 16;
    v16_t     a, max = v16_set1(-INFINITY), sum = v16_set1(0.0f);

    for (i = n; i < end; i++) {
        s[i] = -INFINITY;
    }
    for (i = 0; i < end; i += 16) {
        max = v16_max(v16_load(s + i), max);
    }
    *m = v16_hmax(max);
    for (i = 0; i < end; i += 16) {
        a = v16_exp(v16_sub(v16_load(s + i), v16_set1(*m)));
        v16_store(s + i, a);
        sum = v16_add(sum, a);
    }
    *l = v16_sum(sum);
}

/* Weights times V of the chunk at pos, for queries first .. nq - 1. */
static void
attn_values(const cpu_attn_t *a, float *o, const float *s, uint32_t pos,
    uint32_t first)
{
    uint32_t         i, j, n, min, max;
    const uint16_t  *v;

    for (i = 0; i < CPU_CHUNK; i += KERN_PAGE_TOKENS) {
        if (pos + i >= a->n_keys[a->nq - 1]) {
            break;
        }
        v = (const uint16_t *) (a->kv + a->pages[(pos + i)
                                                 / KERN_PAGE_TOKENS]
                                        * a->page_bytes)
            + (size_t) KERN_PAGE_TOKENS * a->head_dim;

        /* keys that all see, then what single queries see beyond */
        min = a->n_keys[first] > pos + i ? a->n_keys[first] - pos - i : 0;
        min = min < KERN_PAGE_TOKENS ? min : KERN_PAGE_TOKENS;
        attn_outputs_n(o + (size_t) first * a->v_dim,
                       s + first * CPU_CHUNK + i, v, a->v_dim, min,
                       a->nq - first);
        for (j = first; j < a->nq; j++) {
            max = a->n_keys[j] > pos + i ? a->n_keys[j] - pos - i : 0;
            max = max < KERN_PAGE_TOKENS ? max : KERN_PAGE_TOKENS;
            n = max - min;
            if (n != 0) {
                attn_outputs_n(o + (size_t) j * a->v_dim,
                               s + j * CPU_CHUNK + i + min,
                               v + (size_t) min * a->v_dim, a->v_dim, n, 1);
            }
        }
    }
}

/* One chunk of queries first .. nq - 1: outputs o [nq, v_dim] and m, l. */
static void
attn_chunk(const cpu_attn_t *a, uint32_t pos, uint32_t first, float *o,
    float *ml)
{
    uint32_t   i, j, n, last = a->n_keys[a->nq - 1];
    float     *s = a->work;

    for (i = 0; i < CPU_CHUNK && pos + i < last; i += KERN_PAGE_TOKENS) {
        j = a->pages[(pos + i) / KERN_PAGE_TOKENS];
        attn_scores_n(a->q + first, s + first * CPU_CHUNK + i,
                      (const uint16_t *) (a->kv + j * a->page_bytes),
                      a->head_dim, a->nq - first);
    }
    for (j = first; j < a->nq; j++) {
        n = a->n_keys[j] - pos;
        n = n < CPU_CHUNK ? n : CPU_CHUNK;
        attn_softmax(s + j * CPU_CHUNK, n, &ml[2 * j], &ml[2 * j + 1]);
    }
    memset(o + (size_t) first * a->v_dim, 0,
           (a->nq - first) * a->v_dim * sizeof(float));
    attn_values(a, o, s, pos, first);
}

/* The next chunk into the running one. */
static void
attn_fold(const cpu_attn_t *a, uint32_t first, float *run, float *rml,
    const float *o, const float *ml)
{
    uint32_t  j, d;
    float     m, f, g;
    v16_t     v;

    run += (size_t) first * a->v_dim;
    o += (size_t) first * a->v_dim;
    for (j = first; j < a->nq; j++, run += a->v_dim, o += a->v_dim) {
        m = ml[2 * j] > rml[2 * j] ? ml[2 * j] : rml[2 * j];
        f = kern_exp(rml[2 * j] - m);
        g = kern_exp(ml[2 * j] - m);
        rml[2 * j] = m;
        rml[2 * j + 1] = fmaf(rml[2 * j + 1], f, ml[2 * j + 1] * g);
        for (d = 0; d < a->v_dim; d += 16) {
            v = v16_mul(v16_load(o + d), v16_set1(g));
            v16_store(run + d, v16_fma(v16_load(run + d), v16_set1(f), v));
        }
    }
}

static void
attn_finish(const cpu_attn_t *a, const float *run, const float *rml)
{
    uint32_t  j, d;
    float     f;

    for (j = 0; j < a->nq; j++, run += a->v_dim) {
        f = 1.0f / rml[2 * j + 1];
        for (d = 0; d < a->head_dim; d++) {
            a->out[j][d] = run[d] * f;
        }
    }
}

/* First query that sees position pos. */
static uint32_t
attn_first(const cpu_attn_t *a, uint32_t pos)
{
    uint32_t  j = 0;

    while (j < a->nq && a->n_keys[j] <= pos) {
        j++;
    }
    return j;
}

void
V16_NAME(attend)(const cpu_attn_t *a)
{
    float     *o = a->work + CPU_QMAX * CPU_CHUNK;
    float     *run = o + (size_t) CPU_QMAX * a->v_dim;
    float     *rml = run + (size_t) CPU_QMAX * a->v_dim;
    float     *ml = rml + 2 * CPU_QMAX;
    uint32_t   pos, first;

    attn_chunk(a, 0, 0, run, rml);
    for (pos = CPU_CHUNK; pos < a->n_keys[a->nq - 1]; pos += CPU_CHUNK) {
        first = attn_first(a, pos);
        attn_chunk(a, pos, first, o, ml);
        attn_fold(a, first, run, rml, o, ml);
    }
    attn_finish(a, run, rml);
}

void
V16_NAME(attend_part)(const cpu_attn_t *a, uint32_t chunk, float *part)
{
    uint32_t  first = attn_first(a, chunk * CPU_CHUNK);

    if (first < a->nq) {
        attn_chunk(a, chunk * CPU_CHUNK, first, part,
                   part + (size_t) CPU_QMAX * a->v_dim);
    }
}

void
V16_NAME(attend_join)(const cpu_attn_t *a, float *part)
{
    size_t     step = cpu_part_floats(a->v_dim);
    float     *ml = part + (size_t) CPU_QMAX * a->v_dim;
    uint32_t   c;

    for (c = 1; c * CPU_CHUNK < a->n_keys[a->nq - 1]; c++) {
        attn_fold(a, attn_first(a, c * CPU_CHUNK), part, ml, part + c * step,
                  ml + c * step);
    }
    attn_finish(a, part, ml);
}
