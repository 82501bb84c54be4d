/*
 * vec_avx512.c: row functions of the avx512 level.
 */

#include "x86/v16_avx512.h"
#include "x86/body_vec.h"
#include "x86/body_row.h"
