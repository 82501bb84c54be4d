/*
 * cuda_ops.c: the one table of the CUDA backend.
 */

#include "cuda_ctx.h"
#include "cuda_ops.h"

/* Linears have the q8 definition's bits, attention has not, and prefill may
 * differ from decode: a definition of its own (kern_init.c has the others). */
#define OPS_NUMERICS  3

const kern_ops_t  cu_ops = {
    .name = "cuda", .numerics = OPS_NUMERICS, .depth = CU_DEPTH,
    .supports = cu_supports, .loss = cu_loss,
    .open = cu_open, .close = cu_close,
    .pack = cu_pack, .weight_free = cu_weight_free,
    .weight_bytes = cu_weight_bytes,
    .begin = cu_begin, .embed = cu_embed_phase, .attn = cu_attn_phase,
    .ffn = cu_ffn_phase, .head = cu_head_phase, .sample = cu_sample_phase,
    .submit = cu_submit, .wait = cu_wait, .logits = cu_logits,
    .sampled = cu_sampled, .error = cu_error,
    .kv_page_bytes = cu_kv_page_bytes, .n_pages = cu_n_pages,
    .kv_zero = cu_kv_zero, .health = cu_health, .parallel = cu_parallel
};
