/*
 * vec_avx2.c: row functions of the avx2 level.
 */

#include "x86/v16_avx2.h"
#include "x86/body_vec.h"
#include "x86/body_row.h"
