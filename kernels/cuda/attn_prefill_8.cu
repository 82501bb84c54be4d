/*
 * attn_prefill_8.cu: prefill attention over q8 and fp8 pages.
 */

#include "attn_prefill.cuh"

int
attn_prefill_8(const cu_dev_t *dev, const attn_job_t *job)
{
    return pre_dispatch<KERN_KV_Q8>(dev, job);
}
