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

#define ATTN_MAX_BLOCKS  8      /* of 32 values, in a head */
#define ATTN_FETCH_ROWS  6      /* from so many queries on, memory is ahead */

/* 16 values of a page, from value `at` of p on; q8 times scale. */
V16_INLINE v16_t
attn_value(const int type, const uint8_t *p, size_t at, v16_t scale)
{
    if (type == KERN_KV_F16) {
        return v16_from_f16((const uint16_t *) p + at);
    }
    if (type == KERN_KV_BF16) {
        return v16_from_bf16((const uint16_t *) p + at);
    }
    return v16_mul(v16_from_i8((const int8_t *) p + at), scale);
}

/* Bytes of 32 values. */
V16_INLINE uint32_t
attn_line(const int type)
{
    return type == KERN_KV_Q8 ? 32 : 64;
}

/* A piece of what comes next, on its way to L2 while something else is
 * computed: pages lie far apart, so the hardware sees no stream, and many
 * lines at once would keep the core's own loads waiting. */
V16_INLINE void
attn_ahead(const uint8_t *next, size_t at)
{
#if V16_AHEAD
    __builtin_prefetch(next + at, 0, 2);
#else
    (void) next;
    (void) at;
#endif
}

#if V16_QK_ROWS == 3

/* Scores of three queries against 16 keys of a page from `at` on: all of
 * its accumulators fit, so that a value is converted once for three. Half
 * of `next` is fetched. */
V16_INLINE void
attn_scores_16(const float *const *q, float *s, const uint8_t *k,
    const uint16_t *ks, uint32_t head_dim, const int type, const int at,
    const uint8_t *next)
{
    v16_t     acc[3], v, scale = v16_set1(1.0f);
    uint32_t  d;
    int       r;

    acc[0] = acc[1] = acc[2] = v16_set1(0.0f);
    next += at != 0 ? head_dim / 2 * attn_line(type) : 0;
#pragma GCC unroll 2
    for (d = 0; d < head_dim; d++) {
        if (d % 2 == 0) {
            attn_ahead(next, d / 2 * attn_line(type));
        }
        if (type == KERN_KV_Q8 && d % CPU_BLOCK == 0) {
            scale = v16_from_f16(ks + d + at);
        }
        v = attn_value(type, k, d * KERN_PAGE_TOKENS + (uint32_t) at, scale);
#pragma GCC unroll 3
        for (r = 0; r < 3; r++) {
            acc[r] = v16_fma(v16_set1(q[r][d]), v, acc[r]);
        }
    }
#pragma GCC unroll 3
    for (r = 0; r < 3; r++) {
        v16_store(s + r * CPU_CHUNK + at, acc[r]);
    }
}

#endif

/* Scores of `rows` queries against the 32 keys of one page; ks: scales of
 * q8, one for each block of 32 values and key. As much is fetched from
 * `next` as the keys are. */
V16_INLINE void
attn_scores(const float *const *q, float *s, const uint8_t *k,
    const uint16_t *ks, uint32_t head_dim, const int type, const int rows,
    const uint8_t *next)
{
    v16_t     acc[V16_QK_ROWS][2], k0, k1, x, s0, s1;
    uint32_t  d;
    int       r;

#pragma GCC unroll 12
    for (r = 0; r < rows; r++) {
        acc[r][0] = acc[r][1] = v16_set1(0.0f);
    }
    s0 = s1 = v16_set1(1.0f);
    for (d = 0; d < head_dim; d++) {
        attn_ahead(next, d * attn_line(type));
        if (type == KERN_KV_Q8 && d % CPU_BLOCK == 0) {
            s0 = v16_from_f16(ks + d);
            s1 = v16_from_f16(ks + d + 16);
        }
        k0 = attn_value(type, k, d * KERN_PAGE_TOKENS, s0);
        k1 = attn_value(type, k, d * KERN_PAGE_TOKENS + 16, s1);
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

/* V of one page: values [32 slots][v_dim]; scales of q8, 32 slots for each
 * block of 32 columns. */
typedef struct {
    const uint8_t  *values;
    const uint8_t  *next;      /* is fetched by the first queries */
    uint32_t        v_dim;
    float           scale[ATTN_MAX_BLOCKS * KERN_PAGE_TOKENS];
} attn_v_t;

/* n keys of one page from slot i0 on, added to columns d0 .. of `rows`
 * outputs. */
V16_INLINE void
attn_outputs(float *o, const float *p, const attn_v_t *v, uint32_t d0,
    uint32_t i0, uint32_t n, const int type, const int rows, const int cols,
    const uint8_t *next)
{
    const float  *vs = v->scale + d0 / CPU_BLOCK * KERN_PAGE_TOKENS + i0;
    size_t        v_dim = v->v_dim, at = i0 * v_dim + d0;
    v16_t         acc[V16_PV_ROWS][V16_PV_COLS], vc[V16_PV_COLS], x;
    uint32_t      i;
    int           r, c;

#pragma GCC unroll 6
    for (r = 0; r < rows; r++) {
#pragma GCC unroll 4
        for (c = 0; c < cols; c++) {
            acc[r][c] = v16_load(o + (size_t) r * v_dim + c * 16);
        }
    }
#if V16_AHEAD
#pragma GCC unroll 2
#endif
    for (i = 0; i < n; i++, at += v_dim) {
        if (i % 2 == 0) {
            attn_ahead(next, (d0 + i / 2) * attn_line(type));
        }
#pragma GCC unroll 4
        for (c = 0; c < cols; c++) {
            x = type == KERN_KV_Q8
                ? v16_set1(vs[c / 2 * KERN_PAGE_TOKENS + i]) : acc[0][0];
            vc[c] = attn_value(type, v->values, at + c * 16, x);
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

#ifdef V8_ROWS
#include "x86/body_attn8.h"
#endif

/* turned: the same queries as body_attn8.h takes them. */
V16_INLINE void
attn_scores_n(const float *const *q, const float *turned, float *s,
    const uint8_t *k, const uint16_t *ks, uint32_t hd, const int type,
    uint32_t nq, const uint8_t *next)
{
    int  n = 0;

#ifdef V8_ROWS
    for ( /* void */ ; nq >= V8_ROWS / 2; nq -= n, q += n, turned += n) {
        n = nq >= V8_ROWS ? V8_ROWS : V8_ROWS / 2;
        if (n == V8_ROWS) {
            attn8_scores(turned, s, k, ks, hd, type, V8_ROWS, next);
        } else {
            attn8_scores(turned, s, k, ks, hd, type, V8_ROWS / 2, next);
        }
        s += n * CPU_CHUNK;
        next = k;
    }
#else
    (void) turned;
#endif
#if V16_QK_ROWS >= 12
    for ( /* void */ ; nq >= 12; nq -= n, q += n, s += n * CPU_CHUNK) {
        n = 12;
        attn_scores(q, s, k, ks, hd, type, 12, next);
    }
    for ( /* void */ ; nq >= 6; nq -= n, q += n, s += n * CPU_CHUNK) {
        n = 6;
        attn_scores(q, s, k, ks, hd, type, 6, next);
    }
    for ( /* void */ ; nq >= 3; nq -= n, q += n, s += n * CPU_CHUNK) {
        n = 3;
        attn_scores(q, s, k, ks, hd, type, 3, next);
    }
#elif V16_QK_ROWS == 3
    for ( /* void */ ; nq >= 3; nq -= n, q += n, s += n * CPU_CHUNK) {
        n = 3;
        attn_scores_16(q, s, k, ks, hd, type, 0, next);
        attn_scores_16(q, s, k, ks, hd, type, 16, next);
        next = k;
    }
#endif
    for ( /* void */ ; nq >= 2; nq -= n, q += n, s += n * CPU_CHUNK) {
        n = 2;
        attn_scores(q, s, k, ks, hd, type, 2, next);
        next = k;
    }
    if (nq == 1) {
        attn_scores(q, s, k, ks, hd, type, 1, next);
    }
}

V16_INLINE void
attn_outputs_cols(float *o, const float *p, const attn_v_t *v, uint32_t i0,
    uint32_t n, const int type, const int rows, const uint8_t *next)
{
    uint32_t  d = 0;

#if V16_PV_COLS >= 4
    for ( /* void */ ; d + 64 <= v->v_dim; d += 64) {
        attn_outputs(o + d, p, v, d, i0, n, type, rows, 4, next);
    }
#endif
    for ( /* void */ ; d < v->v_dim; d += 16) {
        attn_outputs(o + d, p, v, d, i0, n, type, rows, 1, next);
    }
}

V16_INLINE void
attn_outputs_n(float *o, const float *p, const attn_v_t *v, uint32_t i0,
    uint32_t n, const int type, uint32_t nq)
{
    const uint8_t  *next = v->next;

#ifdef V8_ROWS
    for ( /* void */ ; nq >= V8_ROWS; nq -= V8_ROWS) {
        attn8_outputs(o, p, v, i0, n, type, V8_ROWS, next);
        next = v->values;
        p += V8_ROWS * CPU_CHUNK;
        o += V8_ROWS * (size_t) v->v_dim;
    }
    for ( /* void */ ; nq >= V8_ROWS / 2; nq -= V8_ROWS / 2) {
        attn8_outputs(o, p, v, i0, n, type, V8_ROWS / 2, next);
        next = v->values;
        p += V8_ROWS / 2 * CPU_CHUNK;
        o += V8_ROWS / 2 * (size_t) v->v_dim;
    }
#endif
#if V16_PV_ROWS >= 6
    for ( /* void */ ; nq >= 6; nq -= 6, p += 6 * CPU_CHUNK) {
        attn_outputs_cols(o, p, v, i0, n, type, 6, next);
        next = v->values;
        o += 6 * (size_t) v->v_dim;
    }
#endif
    for ( /* void */ ; nq >= 3; nq -= 3, p += 3 * CPU_CHUNK) {
        attn_outputs_cols(o, p, v, i0, n, type, 3, next);
        next = v->values;
        o += 3 * (size_t) v->v_dim;
    }
    for ( /* void */ ; nq > 0; nq--, p += CPU_CHUNK) {
        attn_outputs_cols(o, p, v, i0, n, type, 1, next);
        next = v->values;
        o += v->v_dim;
    }
}

/* One instance for each type of page. */
static void
attn_page_scores(const cpu_attn_t *a, uint32_t first, float *s,
    const uint8_t *page)
{
    const uint8_t      *next = page + cpu_kv_v_at(a->kv_type, a->head_dim);
    const float *const *q = a->q + first;
    const float        *t = a->work + cpu_attn_turned_at(a->v_dim) + first;
    const uint16_t     *ks = NULL;
    uint32_t            nq = a->nq - first;

    switch (a->kv_type) {
    case KERN_KV_F16:
        attn_scores_n(q, t, s, page, ks, a->head_dim, KERN_KV_F16, nq, next);
        break;
    case KERN_KV_BF16:
        attn_scores_n(q, t, s, page, ks, a->head_dim, KERN_KV_BF16, nq, next);
        break;
    default:
        ks = (const uint16_t *) (page + cpu_kv_ks_at(a->head_dim, a->v_dim));
        attn_scores_n(q, t, s, page, ks, a->head_dim, KERN_KV_Q8, nq, next);
    }
}

static void
attn_page_outputs(uint32_t type, float *o, const float *p, const attn_v_t *v,
    uint32_t i0, uint32_t n, uint32_t nq)
{
    switch (type) {
    case KERN_KV_F16:
        attn_outputs_n(o, p, v, i0, n, KERN_KV_F16, nq);
        break;
    case KERN_KV_BF16:
        attn_outputs_n(o, p, v, i0, n, KERN_KV_BF16, nq);
        break;
    default:
        attn_outputs_n(o, p, v, i0, n, KERN_KV_Q8, nq);
    }
}

/* V of a page. */
static void
attn_v(const cpu_attn_t *a, const uint8_t *page, attn_v_t *v)
{
    uint32_t         i, n = cpu_kv_blocks(a->head_dim) * KERN_PAGE_TOKENS;
    const uint16_t  *vs;

    v->values = v->next = page + cpu_kv_v_at(a->kv_type, a->head_dim);
    v->v_dim = a->v_dim;
    if (a->kv_type == KERN_KV_Q8) {
        vs = (const uint16_t *) (page + cpu_kv_vs_at(a->head_dim, a->v_dim));
        for (i = 0; i < n; i += 16) {
            v16_store(v->scale + i, v16_from_f16(vs + i));
        }
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

/* The page's head that holds position pos. */
V16_INLINE const uint8_t *
attn_page(const cpu_attn_t *a, uint32_t pos)
{
    return a->kv + a->pages[pos / KERN_PAGE_TOKENS] * a->page_bytes;
}

/* Bytes from .. to - 1 of a page's head on their way to L2. */
V16_INLINE void
attn_fetch(const cpu_attn_t *a, uint32_t pos, size_t from, size_t to)
{
    const char  *p = (const char *) attn_page(a, pos);

    for ( /* void */ ; from < to; from += 64) {
        __builtin_prefetch(p + from, 0, 2);
    }
}

/* The keys at pos, the first of a page, come after the values v. */
V16_INLINE void
attn_next(const cpu_attn_t *a, uint32_t pos, attn_v_t *v)
{
    if (!V16_AHEAD && a->nq < ATTN_FETCH_ROWS) {
        attn_fetch(a, pos, 0, cpu_kv_v_at(a->kv_type, a->head_dim));
    }
    if (V16_AHEAD) {
        v->next = attn_page(a, pos);
    }
    if (V16_AHEAD && a->kv_type == KERN_KV_Q8) {
        attn_fetch(a, pos, cpu_kv_ks_at(a->head_dim, a->v_dim),
                   cpu_kv_head_bytes(a->kv_type, a->head_dim, a->v_dim));
    }
}

/* Weights times V of the chunk at pos, for queries first .. nq - 1. */
static void
attn_values(const cpu_attn_t *a, float *o, const float *s, uint32_t pos,
    uint32_t first)
{
    uint32_t  i, j, n, min, max;
    attn_v_t  v;

    for (i = 0; i < CPU_CHUNK; i += KERN_PAGE_TOKENS) {
        if (pos + i >= a->n_keys[a->nq - 1]) {
            break;
        }
        attn_v(a, attn_page(a, pos + i), &v);

        /* K of the next chunk, while V is read */
        if (pos + i + CPU_CHUNK < a->n_keys[a->nq - 1]) {
            attn_next(a, pos + i + CPU_CHUNK, &v);
        }

        /* keys that all see, then what single queries see beyond */
        min = a->n_keys[first] > pos + i ? a->n_keys[first] - pos - i : 0;
        min = min < KERN_PAGE_TOKENS ? min : KERN_PAGE_TOKENS;
        attn_page_outputs(a->kv_type, o + (size_t) first * a->v_dim,
                          s + first * CPU_CHUNK + i, &v, 0, min,
                          a->nq - first);
        for (j = first; j < a->nq; j++) {
            max = a->n_keys[j] > pos + i ? a->n_keys[j] - pos - i : 0;
            max = max < KERN_PAGE_TOKENS ? max : KERN_PAGE_TOKENS;
            n = max - min;
            if (n != 0) {
                attn_page_outputs(a->kv_type, o + (size_t) j * a->v_dim,
                                  s + j * CPU_CHUNK + i + min, &v, min, n,
                                  1);
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
    size_t     v_at = cpu_kv_v_at(a->kv_type, a->head_dim);
    size_t     end = cpu_kv_head_bytes(a->kv_type, a->head_dim, a->v_dim);
    float     *s = a->work;

    for (i = 0; i < CPU_CHUNK && pos + i < last; i += KERN_PAGE_TOKENS) {
        if (!V16_AHEAD && a->nq < ATTN_FETCH_ROWS) {
            attn_fetch(a, pos + i, v_at, end);
        }
        attn_page_scores(a, first, s + first * CPU_CHUNK + i,
                         attn_page(a, pos + i));
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

_Static_assert(CPU_QMAX == 16, "weights of all queries in one vector");

/* The next chunk into the running one. */
static void
attn_fold(const cpu_attn_t *a, uint32_t first, float *run, float *rml,
    const float *o, const float *ml)
{
    uint32_t  j, d;
    float     m, f[CPU_QMAX] = { 0 }, g[CPU_QMAX] = { 0 };
    v16_t     v;

    for (j = first; j < a->nq; j++) {
        m = ml[2 * j] > rml[2 * j] ? ml[2 * j] : rml[2 * j];
        f[j] = rml[2 * j] - m;
        g[j] = ml[2 * j] - m;
        rml[2 * j] = m;
    }
    v16_store(f, v16_exp(v16_load(f)));
    v16_store(g, v16_exp(v16_load(g)));

    run += (size_t) first * a->v_dim;
    o += (size_t) first * a->v_dim;
    for (j = first; j < a->nq; j++, run += a->v_dim, o += a->v_dim) {
        rml[2 * j + 1] = fmaf(rml[2 * j + 1], f[j], ml[2 * j + 1] * g[j]);
        for (d = 0; d < a->v_dim; d += 16) {
            v = v16_mul(v16_load(o + d), v16_set1(g[j]));
            v16_store(run + d, v16_fma(v16_load(run + d), v16_set1(f[j]), v));
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

/* Before the first chunk of a call. */
static void
attn_turn(const cpu_attn_t *a)
{
#ifdef V8_ROWS
    float     *t = a->work + cpu_attn_turned_at(a->v_dim);
    uint32_t   j, d;

    for (j = 0; a->nq >= V8_ROWS / 2 && j < a->nq; j++) {
        for (d = 0; d < a->head_dim; d++) {
            t[d * CPU_QMAX + j] = a->q[j][d];
        }
    }
#else
    (void) a;
#endif
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

    attn_turn(a);
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
        attn_turn(a);
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
