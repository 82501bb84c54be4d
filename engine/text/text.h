/*
 * text.h: a model's text side: tokenizer tables, special tokens and chat
 * template, packed into one position-independent *text image* that every
 * worker and the engine map read-only, so that a vocabulary exists once per
 * machine. `ngx_infer_engine --check` builds it from the GGUF file.
 *
 * The image is validated once when it is opened (magic, version, checksum,
 * every offset and count); afterwards all functions are pure and may be
 * called by several threads at once on the same infer_text_t.
 */

#ifndef INFER_TEXT_TEXT_H
#define INFER_TEXT_TEXT_H

#include "infer.h"
#include "text/template.h"

struct infer_gguf_s;                       /* model/gguf.h */

typedef struct infer_text_s  infer_text_t; /* per process, over an image */

/* Builds the image. chat_template: text that replaces the file's own, or
 * NULL. *image is malloc'd and belongs to the caller. UNSUPPORTED names a
 * tokenizer or pre-tokenizer that we do not have. A template that does not
 * compile is an error here already. */
int infer_text_build(struct infer_gguf_s *gguf, const char *chat_template,
    size_t chat_template_len, void **image, size_t *image_len,
    infer_err_t *err);

/* Opens an image; base[0..len) stays the caller's and must outlive *text.
 * Compiles the pre-tokenizer (PCRE2) and the chat template. */
int infer_text_open(infer_text_t **text, const void *base, size_t len,
    infer_err_t *err);
void infer_text_close(infer_text_t *text);

uint32_t infer_text_vocab(const infer_text_t *text);
/* -1 where the model has none */
int32_t infer_text_bos(const infer_text_t *text);
int32_t infer_text_eos(const infer_text_t *text);
int infer_text_add_bos(const infer_text_t *text);    /* the model wants one */
int infer_text_is_eog(const infer_text_t *text, int32_t id);
/* End-of-generation ids (eos, eot, ...); returns their number. */
uint32_t infer_text_eog(const infer_text_t *text,
    int32_t ids[INFER_MAX_EOG]);
/* NULL when the model has no chat template. */
const infer_template_t *infer_text_template(const infer_text_t *text);
const char *infer_text_template_source(const infer_text_t *text, size_t *len);

#define INFER_TEXT_SPECIAL   1u   /* recognise special tokens in the text */
#define INFER_TEXT_BOS       2u   /* prepend BOS if the model adds one */

/* Encodes s[0..len), any bytes; *ids is malloc'd, the caller's (NULL when
 * there is none). Time is bounded by O(len log len). The ids' pieces give
 * the text back, except for bytes that the vocabulary has no token for:
 * each becomes U+FFFD, and of text in another than Unicode's normal form
 * C, which `qwen2` takes. User-defined tokens are always recognised. NOMEM is
 * the only error. */
int infer_text_encode(const infer_text_t *text, const char *s, size_t len,
    unsigned flags, int32_t **ids, size_t *n_ids, infer_err_t *err);

/* The same for a prompt that a chat template made. Where any byte of a
 * special (control) token's text is the client's (client[i] is 1), the text
 * is ordinary. client has len flags; NULL: nothing is the client's. */
int infer_text_encode_marked(const infer_text_t *text, const char *s,
    const uint8_t *client, size_t len, unsigned flags, int32_t **ids,
    size_t *n_ids, infer_err_t *err);

/* Bytes of one token as it appears in output: raw bytes, perhaps a part of a
 * UTF-8 sequence. Special (control) tokens give their literal text when
 * special is 1 and nothing when it is 0. The pointer lies in the image.
 * An id outside the vocabulary gives length 0. */
const char *infer_text_piece(const infer_text_t *text, int32_t id,
    int special, size_t *len);

/* Bytes of the longest piece. */
uint32_t infer_text_max_piece(const infer_text_t *text);

/* 1: id is a control token, never shown in output. */
int infer_text_is_control(const infer_text_t *text, int32_t id);

#endif
