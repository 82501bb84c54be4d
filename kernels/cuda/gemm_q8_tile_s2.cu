/*
 * gemm_q8_tile_s2.cu: q8_tile_k for the forms of 8 bits with two scales a block.
 */

#include "gemm_q8_tile.cuh"


int
cu_q8_tiles_s2(const cu_dev_t *dev, cu_q8_args_t *p, uint32_t form)
{
    return form == CU_B8S2 ? q8_tile_any<CU_B8S2>(dev, p) : q8_tile_any<CU_B8SM2>(dev, p);
}
