/*
 * linear_vnni256.c: linear_avxvnni.c in the EVEX encoding, for machines that
 * have AVX-512 but not AVX-VNNI. Chosen by name only.
 */

#define DOT_NAME  kern_linear_vnni256
#define DOT_VNNI  1

#include "x86/body_dot256.h"
