/*
 * attn_avx512.c: KV pages and attention of the avx512 level.
 */

#include "x86/v16_avx512.h"
#include "x86/body_vec.h"
#include "x86/body_kv.h"
#include "x86/body_attn.h"
