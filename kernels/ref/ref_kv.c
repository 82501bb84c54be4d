/*
 * ref_kv.c: how keys and values are rounded on their way into a KV page;
 * the layout is in cpu.h. A NaN stays one, so that it fails its sequence.
 */

#include <math.h>
#include <string.h>

#include "ref/ref.h"


uint16_t
cpu_f32_to_bf16(float f)
{
    const float  max = 0x1.fep+127f;
    uint32_t     u;

    f = f > max ? max : f;
    f = f < -max ? -max : f;
    memcpy(&u, &f, sizeof(u));
    if (isnan(f)) {
        return (uint16_t) (u >> 16 | 0x40);
    }
    return (uint16_t) ((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

/* n <= 32 values of one block; returns the scale. */
static uint16_t
ref_kv_block(int8_t *q, const float *x, uint32_t n)
{
    uint32_t  i, u, amax = 0;
    uint16_t  h;
    float     t, inv;

    for (i = 0; i < n; i++) {           /* as bits: NaN above infinity */
        memcpy(&u, &x[i], sizeof(u));
        u &= 0x7fffffff;
        amax = u > amax ? u : amax;
    }
    h = cpu_kv_scale(amax, &inv);
    for (i = 0; i < n; i++) {
        t = x[i] * inv;
        t = t > -127 ? t : -127;        /* NaN too: the scale is one then */
        t = t < 127 ? t : 127;
        q[i] = (int8_t) rintf(t);
    }
    return h;
}

static void
ref_kv_store_q8(uint8_t *kv, uint32_t slot, const float *k, const float *v,
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
        ks[b] = ref_kv_block(q, k + b, n);      /* 32 tokens a block */
        for (i = 0; i < n; i++) {
            kp[(size_t) (b + i) * KERN_PAGE_TOKENS] = q[i];
        }
        vs[b] = ref_kv_block(q, v + b, n);
        memcpy(vp + b, q, n);
    }
}

void
kern_kv_store_ref(uint8_t *kv, uint32_t type, uint32_t slot, const float *k,
    const float *v, uint32_t head_dim, uint32_t v_dim)
{
    uint16_t   *kp = (uint16_t *) kv + slot, *vp;
    uint32_t    i;
    uint16_t  (*round)(float);

    if (type == KERN_KV_Q8) {
        ref_kv_store_q8(kv, slot, k, v, head_dim, v_dim);
        return;
    }
    round = type == KERN_KV_BF16 ? cpu_f32_to_bf16 : cpu_f32_to_f16;
    vp = (uint16_t *) (kv + cpu_kv_v_at(type, head_dim))
         + (size_t) slot * v_dim;
    for (i = 0; i < head_dim; i++) {
        kp[(size_t) i * KERN_PAGE_TOKENS] = round(k[i]);
        vp[i] = round(v[i]);
    }
}
