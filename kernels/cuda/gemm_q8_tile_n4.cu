/*
 * gemm_q8_tile_n4.cu: q8_tile_k for the forms of 4 bits.
 */

#include "gemm_q8_tile.cuh"


int
cu_q8_tiles_n4(const cu_dev_t *dev, cu_q8_args_t *p, uint32_t form)
{
    switch (form) {

    case CU_N4Z:
        return q8_tile_any<CU_N4Z>(dev, p);

    case CU_N4M:
        return q8_tile_any<CU_N4M>(dev, p);

    default:
        return q8_tile_any<CU_N4S>(dev, p);
    }
}
