/*
 * attn_prefill_bf16.cu: prefill attention over bf16 pages.
 */

#include "attn_prefill.cuh"

int
attn_prefill_bf16(const cu_dev_t *dev, const attn_job_t *job)
{
    return pre_dispatch<KERN_KV_BF16>(dev, job);
}
