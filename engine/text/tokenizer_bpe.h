/*
 * tokenizer_bpe.h: the pre-tokenizers of byte-level BPE, as the files of
 * the text image see them. A pre-tokenizer is a pattern that cuts text into
 * pieces across which nothing merges; compiled code is per process.
 */

#ifndef INFER_TEXT_TOKENIZER_BPE_H
#define INFER_TEXT_TOKENIZER_BPE_H

#include "infer.h"

enum {
    BPE_PRE_GPT2 = 0, BPE_PRE_SMOLLM, BPE_PRE_LLAMA3, BPE_PRE_QWEN2,
    BPE_PRE_COUNT
};

typedef struct bpe_pre_s  bpe_pre_t;

/* The pre-tokenizer of this name in tokenizer.ggml.pre, or -1. */
int bpe_pre_find(const char *name, size_t len);
/* Models of this pre-tokenizer want BOS unless the file says otherwise. */
int bpe_pre_wants_bos(int id);

int bpe_pre_open(bpe_pre_t **pre, uint32_t id, infer_err_t *err);
void bpe_pre_close(bpe_pre_t *pre);

#endif
