/*
 * linear_avx2.c: linear layers of the avx2 level, maddubs.
 */

#define DOT_NAME  kern_linear_avx2
#define DOT_VNNI  0

#include "x86/body_dot256.h"
