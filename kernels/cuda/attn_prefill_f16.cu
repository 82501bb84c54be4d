/*
 * attn_prefill_f16.cu: prefill attention over f16 pages.
 */

#include "attn_prefill.cuh"

int
attn_prefill_f16(const cu_dev_t *dev, const attn_job_t *job)
{
    return pre_dispatch<KERN_KV_F16>(dev, job);
}
