/*
 * body_kv.h: a token's key and value into its KV page, as in ref_kv.c, over
 * v16 lanes. Keys are scattered (a page has tokens in its rows), values are
 * contiguous.
 */

/* n <= 16 values, 0 in the other lanes. */
V16_INLINE void
kv_round(uint16_t *t, const float *x, uint32_t n, uint32_t type)
{
    /* the second operand survives when it is NaN */
    v16_t  a = v16_load_n(x, n, 0);

    if (type == KERN_KV_BF16) {
        a = v16_max(v16_set1(-0x1.fep+127f), a);
        v16_to_bf16(t, v16_min(v16_set1(0x1.fep+127f), a));

    } else {
        a = v16_max(v16_set1(-65504.0f), a);
        v16_to_f16(t, v16_min(v16_set1(65504.0f), a));
    }
}

/* A block of n <= 32 values; returns the scale. */
V16_INLINE uint16_t
kv_block(int8_t *q, const float *x, uint32_t n)
{
    v16_t     lo = v16_set1(-127.0f), hi = v16_set1(127.0f), a, b;
    int32_t   sum[2];
    uint16_t  h;
    float     inv;

    a = v16_load_n(x, n < 16 ? n : 16, 0);
    b = n > 16 ? v16_load_n(x + 16, n - 16, 0) : v16_set1(0);
    h = cpu_kv_scale(v16_hmax_u32(v16_abs_bits(a), v16_abs_bits(b)), &inv);
    a = v16_max(v16_mul(a, v16_set1(inv)), lo);
    b = v16_max(v16_mul(b, v16_set1(inv)), lo);
    v16_store_q8(q, sum, v16_min(a, hi), v16_min(b, hi));
    return h;
}

static void
kv_store_q8(uint8_t *kv, uint32_t slot, const float *k, const float *v,
    uint32_t head_dim, uint32_t v_dim)
{
    uint16_t  *ks = (uint16_t *) (kv + cpu_kv_ks_at(head_dim, v_dim)) + slot;
    uint16_t  *vs = (uint16_t *) (kv + cpu_kv_vs_at(head_dim, v_dim)) + slot;
    int8_t    *kp = (int8_t *) kv + slot, *vp, q[CPU_BLOCK];
    uint32_t   b, i, n;

    vp = (int8_t *) kv + cpu_kv_v_at(KERN_KV_Q8, head_dim)
         + (size_t) slot * v_dim;
    for (b = 0; b < head_dim; b += CPU_BLOCK) {
        n = head_dim - b < CPU_BLOCK ? head_dim - b : CPU_BLOCK;
        ks[b] = kv_block(q, k + b, n);          /* 32 tokens a block */
        for (i = 0; i < n; i++) {
            kp[(size_t) (b + i) * KERN_PAGE_TOKENS] = q[i];
        }
        vs[b] = kv_block(q, v + b, n);
        memcpy(vp + b, q, n);
    }
}

void
V16_NAME(kv_store)(uint8_t *kv, uint32_t type, uint32_t slot, const float *k,
    const float *v, uint32_t head_dim, uint32_t v_dim)
{
    uint16_t  *kp = (uint16_t *) kv + slot, *vp, t[16];
    uint32_t   i, j, n;

    if (type == KERN_KV_Q8) {
        kv_store_q8(kv, slot, k, v, head_dim, v_dim);
        return;
    }
    vp = (uint16_t *) (kv + cpu_kv_v_at(type, head_dim))
         + (size_t) slot * v_dim;
    for (i = 0; i < head_dim; i += 16) {
        n = head_dim - i < 16 ? head_dim - i : 16;
        kv_round(t, k + i, n, type);
        for (j = 0; j < n; j++) {
            kp[(size_t) (i + j) * KERN_PAGE_TOKENS] = t[j];
        }
        kv_round(vp + i, v + i, n, type);
    }
}
