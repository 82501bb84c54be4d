/*
 * gemm_w8.cu: linears of s8 weights and activations with one scale a row of
 * each (W8A8). Sums over all columns are exact s32: |sum| <= 127 * 127 *
 * n_in, so n_in may be up to 133,000. Every kernel gives the same bits.
 */

#include "gemm_f.cuh"

int
cu_w8_decode(const cu_dev_t *dev, cu_f_args_t *p)
{
    return plain_decode<f_w8_t>(dev, p);
}

int
cu_w8_tiles(const cu_dev_t *dev, const cu_f_args_t *p)
{
    return plain_tiles<f_w8_t>(dev, p);
}
