/*
 * attn_neon.c: KV pages and attention of the neon level.
 */

#include "arm/arm.h"
#include "arm/v16_neon.h"
#include "x86/body_vec.h"
#include "x86/body_kv.h"
#include "x86/body_attn.h"
