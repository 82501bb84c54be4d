/*
 * attn_decode_16.cu: decode attention over f16 and bf16 pages.
 */

#include "attn_decode.cuh"

int
attn_decode_16(const cu_dev_t *dev, const attn_job_t *job)
{
    return job->a.type == KERN_KV_F16 ? dec_dispatch<KERN_KV_F16>(dev, job)
                                      : dec_dispatch<KERN_KV_BF16>(dev, job);
}
