/*
 * body_row.h: entries of the inner table that work on one row.
 */

void
V16_NAME(rmsnorm)(float *y, const float *x, const float *w, float eps,
    uint32_t n)
{
    v16_t     s = v16_set1(0.0f), a;
    uint32_t  i;
    float     r;

    for (i = 0; i < n; i += 16) {
        a = v16_load(x + i);
        s = v16_fma(a, a, s);
    }
    r = 1.0f / sqrtf(v16_sum(s) / (float) n + eps);
    for (i = 0; i < n; i += 16) {
        a = v16_mul(v16_load(x + i), v16_set1(r));
        v16_store(y + i, v16_mul(a, v16_load(w + i)));
    }
}

void
V16_NAME(quantize)(const cpu_acts_t *a, uint32_t row, uint32_t b0,
    uint32_t nb, const float *x)
{
    uint32_t  b, bits;
    size_t    at = (size_t) row * (a->n_in / CPU_BLOCK) + b0;
    int8_t   *q = a->q + at * CPU_BLOCK;
    v16_t     lo, hi, m;
    float     amax, d, id;
    int32_t   sum, *half = a->hsum + 2 * at;

    for (b = 0; b < nb; b++, x += CPU_BLOCK, q += CPU_BLOCK) {
        lo = v16_load(x);
        hi = v16_load(x + 16);
        bits = v16_hmax_u32(v16_abs_bits(lo), v16_abs_bits(hi));
        memcpy(&amax, &bits, sizeof(amax));
        if (bits - 0x0d800000 < 0x7f800000 - 0x0d800000) {
            d = amax / 127.0f;
            id = 127.0f / amax;
            m = v16_set1(id);
            v16_store_q8(q, half, v16_mul(lo, m), v16_mul(hi, m));
        } else {
            d = bits < 0x0d800000 ? 0.0f : NAN;
            half[0] = half[1] = 0;
            memset(q, 0, CPU_BLOCK);
        }
        sum = -(half[0] + half[1]);
        a->d[at + b] = d;
        a->nsum[at + b] = -sum;
        a->dsum[at + b] = d * (float) sum;
        half += 2;
    }
}

void
V16_NAME(silu_mul)(float *y, const float *g, const float *u, uint32_t n)
{
    v16_t     a, e, one = v16_set1(1.0f);
    uint32_t  i, k;

    for (i = 0; i < n; i += 16) {
        k = n - i < 16 ? n - i : 16;
        a = k == 16 ? v16_load(g + i) : v16_load_n(g + i, k, 0);
        e = v16_add(one, v16_exp(v16_mul(a, v16_set1(-1.0f))));
        a = v16_div(a, e);
        if (k == 16) {
            v16_store(y + i, v16_mul(a, v16_load(u + i)));
        } else {
            v16_store_n(y + i, k, v16_mul(a, v16_load_n(u + i, k, 0)));
        }
    }
}

void
V16_NAME(rope)(float *y, const float *x, const float *cs, uint32_t rope_dim,
    uint32_t head_dim, float scale)
{
    const float  *sn = cs + rope_dim;
    uint32_t      i, k;
    v16_t         a, r, s = v16_set1(scale);

    for (i = 0; i < rope_dim; i += 16) {
        k = rope_dim - i < 16 ? rope_dim - i : 16;
        if (k == 16) {
            a = v16_load(x + i);
            r = v16_mul(v16_swap(a), v16_load(sn + i));
            r = v16_fma(a, v16_load(cs + i), r);
            v16_store(y + i, v16_mul(r, s));
        } else {
            a = v16_load_n(x + i, k, 0);
            r = v16_mul(v16_swap(a), v16_load_n(sn + i, k, 0));
            r = v16_fma(a, v16_load_n(cs + i, k, 0), r);
            v16_store_n(y + i, k, v16_mul(r, s));
        }
    }
    for (i = rope_dim; i < head_dim; i++) {
        y[i] = x[i] * scale;
    }
}

int32_t
V16_NAME(argmax)(const float *x, size_t n)
{
    v16_t     m = v16_set1(-INFINITY), a;
    size_t    i;
    uint32_t  mask;
    float     max;

    for (i = 0; i + 16 <= n; i += 16) {
        m = v16_max(v16_load(x + i), m);
    }
    if (i < n) {
        m = v16_max(v16_load_n(x + i, (uint32_t) (n - i), -INFINITY), m);
    }
    max = v16_hmax(m);
    if (max == -INFINITY) {
        return -1;
    }

    for (i = 0; i < n; i += 16) {
        a = n - i >= 16 ? v16_load(x + i)
                        : v16_load_n(x + i, (uint32_t) (n - i), -INFINITY);
        mask = v16_eq_mask(a, v16_set1(max));
        if (mask != 0) {
            return (int32_t) (i + (size_t) __builtin_ctz(mask));
        }
    }
    return -1;
}

void
V16_NAME(exp_row)(float *y, const float *x, float sub, size_t n)
{
    size_t    i;
    uint32_t  k;
    v16_t     s = v16_set1(sub);

    for (i = 0; i + 16 <= n; i += 16) {
        v16_store(y + i, v16_exp(v16_sub(v16_load(x + i), s)));
    }
    if (i < n) {
        k = (uint32_t) (n - i);
        v16_store_n(y + i, k, v16_exp(v16_sub(v16_load_n(x + i, k, 0), s)));
    }
}
