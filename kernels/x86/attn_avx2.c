/*
 * attn_avx2.c: KV pages and attention of the avx2 level.
 */

#include "x86/v16_avx2.h"
#include "x86/body_vec.h"
#include "x86/body_kv.h"
#include "x86/body_attn.h"
