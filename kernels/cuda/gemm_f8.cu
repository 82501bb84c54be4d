/*
 * gemm_f8.cu: linears of e4m3 weights with one scale a row and e4m3
 * activations with one scale a row; sm_89 on. Tensor cores may add fp8
 * products with fewer bits than f32 has, so sums leave them after 64 columns
 * (decode on devices that have such products; elsewhere it multiplies f16) or
 * 128 (tiles).
 */

#include "gemm_f.cuh"

int
cu_f8_decode(const cu_dev_t *dev, cu_f_args_t *p)
{
    return plain_decode<f_f8_t>(dev, p);
}

int
cu_f8_tiles(const cu_dev_t *dev, const cu_f_args_t *p)
{
    return plain_tiles<f_f8_t>(dev, p);
}
