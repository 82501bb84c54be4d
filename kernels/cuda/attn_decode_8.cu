/*
 * attn_decode_8.cu: decode attention over q8 and fp8 pages.
 */

#include "attn_decode.cuh"

int
attn_decode_8(const cu_dev_t *dev, const attn_job_t *job)
{
    return job->a.type == KERN_KV_Q8 ? dec_dispatch<KERN_KV_Q8>(dev, job)
                                     : dec_dispatch<KERN_KV_FP8>(dev, job);
}
