/*
 * gemm_q8_tile_b8.cu: q8_tile_k for the forms of 8 bits with one scale a block.
 */

#include "gemm_q8_tile.cuh"


int
cu_q8_tiles_b8(const cu_dev_t *dev, cu_q8_args_t *p, uint32_t form)
{
    switch (form) {

    case CU_B8H:
        return q8_tile_any<CU_B8H>(dev, p);

    case CU_B8HM:
        return q8_tile_any<CU_B8HM>(dev, p);

    case CU_B8S:
        return q8_tile_any<CU_B8S>(dev, p);

    default:
        return q8_tile_any<CU_B8SM>(dev, p);
    }
}
