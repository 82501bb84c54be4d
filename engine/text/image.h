/*
 * image.h: layout of the text image and the per-process object over it,
 * shared by image_build.c (writes), image.c (checks, answers questions) and
 * tokenizer_bpe.c (encodes). Nobody else includes this.
 *
 *   header | token bytes | token offsets | types | token table | merge table
 *          | special ids | special buckets | chat template
 *
 * Position-independent: offsets from the start, sections on 8 bytes, unused
 * bytes zero, so that the same file gives the same bytes. The byte order is
 * the machine's; the magic number tells another one.
 */

#ifndef INFER_TEXT_IMAGE_H
#define INFER_TEXT_IMAGE_H

#include "text/text.h"
#include "text/tokenizer_bpe.h"

#define IMAGE_MAGIC        0x6567616d49747854ull
#define IMAGE_VERSION      1u

#define IMAGE_MAX_VOCAB    (1u << 20)
#define IMAGE_MAX_MERGES   (1u << 22)
#define IMAGE_MAX_PIECE    4096u          /* bytes of one token */
#define IMAGE_MAX_TEMPLATE (1u << 20)
#define IMAGE_MAX_BYTES    (1ull << 30)

/* Token types of a GGUF file. */
enum {
    IMAGE_NORMAL = 1, IMAGE_UNKNOWN, IMAGE_CONTROL, IMAGE_USER_DEFINED,
    IMAGE_UNUSED, IMAGE_BYTE
};

enum { IMAGE_ADD_BOS = 1u };

enum {
    IMAGE_BYTES = 0,        /* char, all tokens one after the other */
    IMAGE_OFFSETS,          /* uint32_t [vocab + 1], into IMAGE_BYTES */
    IMAGE_TYPES,            /* uint8_t [vocab] */
    IMAGE_TOKENS,           /* uint32_t [2^k]: id + 1, or 0 */
    IMAGE_MERGES,           /* image_merge_t [2^k] */
    IMAGE_SPECIALS,         /* uint32_t ids, sorted by their bytes */
    IMAGE_BUCKETS,          /* uint32_t [257]: specials by first byte */
    IMAGE_TEMPLATE,         /* char */
    IMAGE_SECTIONS
};

typedef struct {
    uint64_t  off;
    uint64_t  n;            /* elements */
} image_section_t;

/* A cell of the merge table; rank is IMAGE_NO_RANK in an empty one. */
typedef struct {
    uint32_t  left, right;
    uint32_t  rank;
    uint32_t  id;           /* of what they become */
} image_merge_t;

#define IMAGE_NO_RANK  UINT32_MAX

typedef struct {
    uint64_t         magic;
    uint32_t         version;
    uint32_t         flags;
    uint64_t         total;               /* bytes, a multiple of 8 */
    uint64_t         checksum;            /* of the image with 0 here */
    uint32_t         vocab;
    uint32_t         pre;                 /* BPE_PRE_* */
    uint32_t         max_piece;           /* bytes of the longest token */
    uint32_t         n_eog;
    int32_t          bos, eos;            /* or -1 */
    int32_t          eog[INFER_MAX_EOG];
    int32_t          byte_id[256];        /* or -1 */
    image_section_t  section[IMAGE_SECTIONS];
} image_header_t;

_Static_assert(sizeof(image_merge_t) == 16, "image_merge_t");
_Static_assert(sizeof(image_header_t) == 1272, "image_header_t");

struct infer_text_s {
    image_header_t        h;              /* a copy, checked */
    const char           *bytes;
    const uint32_t       *offsets;
    const uint8_t        *types;
    const uint32_t       *tokens;
    const image_merge_t  *merges;
    const uint32_t       *specials;
    const uint32_t       *buckets;
    const char           *tpl_src;
    infer_template_t     *tpl;
    bpe_pre_t            *pre;
};

extern const uint32_t image_elem_bytes[IMAGE_SECTIONS];

uint64_t image_checksum(const void *base, uint64_t total);
uint64_t image_hash_bytes(const char *s, size_t len);
uint64_t image_hash_pair(uint32_t left, uint32_t right);

static inline const char *
image_token(const infer_text_t *t, uint32_t id, size_t *len)
{
    *len = t->offsets[id + 1] - t->offsets[id];

    return t->bytes + t->offsets[id];
}

/* -1 when these bytes are no ordinary token. */
int32_t image_find_token(const infer_text_t *t, const char *s, size_t len);
/* NULL when the two do not merge. */
const image_merge_t *image_find_merge(const infer_text_t *t, uint32_t left,
    uint32_t right);

#endif
