/*
 * attn_any.cu: attention for head sizes without kernels of their own: any even one up to 256, decode
 * and prefill alike, a block for each row and head. Written for being right; keys and values are read
 * once for every query head.
 */

#include "attn.h"
#include "kv.cuh"

#define ANY_THREADS  CU_CHUNK

/* Maximum or sum over the block, warps ascending; all threads get it. tmp: [2 * warps], one half for
 * each use in turn, so that one barrier is enough. */
DEV_INLINE float
any_reduce(float *tmp, float v, bool sum)
{
    v = sum ? warp_sum(v) : warp_max(v);
    if (threadIdx.x % DEV_WARP == 0) {
        tmp[threadIdx.x / DEV_WARP] = v;
    }
    __syncthreads();                           /* every warp's value is there */
    v = tmp[0];
    for (int w = 1; w < ANY_THREADS / DEV_WARP; w++) {
        v = sum ? v + tmp[w] : fmaxf(v, tmp[w]);
    }
    return v;
}

DEV_INLINE float
any_score(const attn_job_t &job, const float *q, const uint8_t *head, uint32_t slot)
{
    const uint32_t   dim = job.a.head_dim, type = job.a.type;
    const uint8_t   *k = head + kv_at(type, dim, false, slot);
    const uint16_t  *ks = (const uint16_t *) (head + kv_scale_at(dim, false, slot));
    float            s = 0;

    for (uint32_t d = 0; d < dim; d++) {
        float  v = kv_value(type, k, d);

        s = fmaf(q[d], kv_scaled(type) ? v * dev_f16(ks[d / CU_BLOCK]) : v, s);
    }
    return s;
}

DEV_INLINE float
any_value(const attn_job_t &job, const uint8_t *head, uint32_t slot, uint32_t d)
{
    const uint32_t   dim = job.a.head_dim, type = job.a.type;
    const uint16_t  *vs = (const uint16_t *) (head + kv_scale_at(dim, true, slot));
    float            v = kv_value(type, head + kv_at(type, dim, true, slot), d);

    return kv_scaled(type) ? v * dev_f16(vs[d / CU_BLOCK]) : v;
}

/* attn_any_k: out of row blockIdx.y, head blockIdx.x
 * shapes   as attn_decode_k; D even, D <= 256
 * launch   (H, T) blocks of 128: a key of the chunk each, then up to two values of the output each
 * math     f32 fma chains over d and over keys; chunks merged ascending
 * traffic  pages once for every row and query head        bound  latency
 */
__global__ void __launch_bounds__(ANY_THREADS)
attn_any_k(attn_job_t job)
{
    __shared__ float  q[ATTN_MAX_DIM], p[CU_CHUNK], tmp[2][ANY_THREADS / DEV_WARP];
    const uint32_t    tid = threadIdx.x, row = blockIdx.y, h = blockIdx.x, dim = job.a.head_dim;
    const uint32_t    g = h / (job.a.n_heads / job.a.n_kv_heads);
    const int32_t    *table;
    uint32_t          keys;
    float             o[2] = { 0, 0 }, m = -INFINITY, l = 0;

    dev_wait();
    dev_launch_dependents();
    if (job.p.row_seq[row] < 0) {
        return;
    }
    table = job.p.table + (size_t) job.p.row_seq[row] * job.p.max_pages;
    keys = (uint32_t) job.p.row_pos[row] + 1;
    for (uint32_t d = 2 * tid; d < dim; d += 2 * ANY_THREADS) {
        float2  v = rope_pair(job.qkv + (size_t) row * job.ld + h * dim, d,
                              rope_row(job.a, keys - 1), job.a.rope_dim);

        q[d] = v.x * job.scale;
        q[d + 1] = v.y * job.scale;
    }

    for (uint32_t pos = 0; pos < keys; pos += CU_CHUNK) {
        uint32_t  n = min(keys - pos, (uint32_t) CU_CHUNK);
        float     s = -INFINITY, cm, cl, nm, f, e;

        __syncthreads();       /* the query is there; the last chunk's weights are read no more */
        if (tid < n) {
            s = any_score(job, q, kv_head(job.a, table, pos + tid, g),
                          (pos + tid) % KERN_PAGE_TOKENS);
        }
        cm = any_reduce(tmp[0], s, false);
        s = tid < n ? dev_exp2(s - cm) : 0;
        p[tid] = s;
        cl = any_reduce(tmp[1], s, true);      /* its barrier: all weights are there */

        nm = fmaxf(m, cm);
        f = pos == 0 ? 0 : dev_exp2(m - nm);
        e = pos == 0 ? 1 : dev_exp2(cm - nm);
        l = fmaf(l, f, cl * e);
        m = nm;
        for (int j = 0; j < 2; j++) {
            uint32_t  d = tid + j * ANY_THREADS;
            float     v = 0;

            for (uint32_t i = 0; d < dim && i < n; i++) {
                v = fmaf(p[i], any_value(job, kv_head(job.a, table, pos + i, g),
                                         (pos + i) % KERN_PAGE_TOKENS, d), v);
            }
            o[j] = fmaf(o[j], f, v * e);
        }
    }
    for (int j = 0; j < 2; j++) {
        if (tid + j * ANY_THREADS < dim) {
            job.out[((size_t) row * job.a.n_heads + h) * dim + tid + j * ANY_THREADS]
                = o[j] * (1.0f / l);
        }
    }
}

int
attn_any(const cu_dev_t *dev, const attn_job_t *job)
{
    return dev_launch(dev, attn_any_k, dim3(job->a.n_heads, job->p.n_rows), dim3(ANY_THREADS), 0,
                      *job);
}
