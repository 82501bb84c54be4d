/*
 * vec_neon.c: row functions of the neon level.
 */

#include "arm/arm.h"
#include "arm/v16_neon.h"
#include "x86/body_vec.h"
#include "x86/body_row.h"
