/*
 * image.c: opens a text image and answers questions about it. The image
 * comes from another process (sealed, read-only), so everything that is
 * used as an index later is checked here once.
 */

#include "text/image.h"

#include <string.h>

const uint32_t image_elem_bytes[IMAGE_SECTIONS] = {
    [IMAGE_BYTES] = 1, [IMAGE_OFFSETS] = 4, [IMAGE_TYPES] = 1,
    [IMAGE_TOKENS] = 4, [IMAGE_MERGES] = sizeof(image_merge_t),
    [IMAGE_SPECIALS] = 4, [IMAGE_BUCKETS] = 4, [IMAGE_TEMPLATE] = 1
};


static uint64_t
image_mix(uint64_t h)
{
    h ^= h >> 32;
    h *= 0x9fb21c651e98df25ull;
    h ^= h >> 29;

    return h;
}


/* base is on 8 bytes and total a multiple of 8. */
uint64_t
image_checksum(const void *base, uint64_t total)
{
    const uint64_t *w = base;
    const uint64_t skip = offsetof(image_header_t, checksum) / 8;
    uint64_t h = total;

    for (uint64_t i = 0; i < total / 8; i++) {
        h = (h ^ (i == skip ? 0 : w[i])) * 0x9e3779b97f4a7c15ull;
        h ^= h >> 31;
    }

    return image_mix(h);
}


uint64_t
image_hash_bytes(const char *s, size_t len)
{
    uint64_t h = 0xcbf29ce484222325ull;

    for (size_t i = 0; i < len; i++) {
        h = (h ^ (unsigned char) s[i]) * 0x100000001b3ull;
    }

    return image_mix(h);
}


uint64_t
image_hash_pair(uint32_t left, uint32_t right)
{
    return image_mix(((uint64_t) left << 32 | right)
                     * 0x9e3779b97f4a7c15ull);
}


/* Probing is bounded by the table's size: a full table must not hang. */
int32_t
image_find_token(const infer_text_t *t, const char *s, size_t len)
{
    uint64_t n = t->h.section[IMAGE_TOKENS].n;
    uint64_t i = image_hash_bytes(s, len);
    size_t have;

    for (uint64_t k = 0; k < n; k++, i++) {
        uint32_t cell = t->tokens[i & (n - 1)];

        if (cell == 0) {
            return -1;
        }

        const char *b = image_token(t, cell - 1, &have);

        if (have == len && memcmp(b, s, len) == 0) {
            return (int32_t) (cell - 1);
        }
    }

    return -1;
}


const image_merge_t *
image_find_merge(const infer_text_t *t, uint32_t left, uint32_t right)
{
    uint64_t n = t->h.section[IMAGE_MERGES].n;
    uint64_t i = image_hash_pair(left, right);

    for (uint64_t k = 0; k < n; k++, i++) {
        const image_merge_t *m = &t->merges[i & (n - 1)];

        if (m->rank == IMAGE_NO_RANK) {
            return NULL;
        }

        if (m->left == left && m->right == right) {
            return m;
        }
    }

    return NULL;
}


static int
image_id_ok(int32_t id, uint32_t vocab)
{
    return id == -1 || (id >= 0 && (uint32_t) id < vocab);
}


static int
image_pow2(uint64_t n)
{
    return n != 0 && (n & (n - 1)) == 0;
}


/* The copied header: magic, sizes, sections inside the image, ids. */
static int
image_check_header(const image_header_t *h, size_t len, infer_err_t *err)
{
    if (h->magic != IMAGE_MAGIC) {
        return infer_err(err, INFER_CORRUPT, "text image has no magic");
    }

    if (h->version != IMAGE_VERSION) {
        return infer_err(err, INFER_CORRUPT, "text image is version %u, "
                         "not %u", h->version, IMAGE_VERSION);
    }

    if (h->total != len || len % 8 != 0) {
        return infer_err(err, INFER_CORRUPT, "text image has %zu bytes, "
                         "its header says %llu", len,
                         (unsigned long long) h->total);
    }

    for (int i = 0; i < IMAGE_SECTIONS; i++) {
        const image_section_t *s = &h->section[i];

        if (s->off % 8 != 0 || s->off < sizeof(*h) || s->off > len
            || s->n > (len - s->off) / image_elem_bytes[i])
        {
            return infer_err(err, INFER_CORRUPT, "text image section %d "
                             "is outside", i);
        }
    }

    if (h->vocab == 0 || h->vocab > IMAGE_MAX_VOCAB
        || h->section[IMAGE_OFFSETS].n != (uint64_t) h->vocab + 1
        || h->section[IMAGE_TYPES].n != h->vocab
        || h->section[IMAGE_BYTES].n > UINT32_MAX
        || h->section[IMAGE_SPECIALS].n > h->vocab
        || h->section[IMAGE_BUCKETS].n != 257
        || h->section[IMAGE_TEMPLATE].n > IMAGE_MAX_TEMPLATE
        || !image_pow2(h->section[IMAGE_TOKENS].n)
        || !image_pow2(h->section[IMAGE_MERGES].n))
    {
        return infer_err(err, INFER_CORRUPT, "text image has bad counts");
    }

    if (h->pre >= BPE_PRE_COUNT || h->max_piece > IMAGE_MAX_PIECE
        || h->n_eog > INFER_MAX_EOG || (h->flags & ~IMAGE_ADD_BOS) != 0
        || !image_id_ok(h->bos, h->vocab) || !image_id_ok(h->eos, h->vocab))
    {
        return infer_err(err, INFER_CORRUPT, "text image has bad fields");
    }

    for (uint32_t i = 0; i < h->n_eog; i++) {
        if (h->eog[i] < 0 || (uint32_t) h->eog[i] >= h->vocab) {
            return infer_err(err, INFER_CORRUPT, "text image has a bad "
                             "end-of-generation id");
        }
    }

    for (int i = 0; i < 256; i++) {
        if (!image_id_ok(h->byte_id[i], h->vocab)) {
            return infer_err(err, INFER_CORRUPT, "text image has a bad "
                             "byte token");
        }
    }

    return INFER_OK;
}


static int
image_check_tokens(const infer_text_t *t, infer_err_t *err)
{
    const image_header_t *h = &t->h;
    uint32_t V = h->vocab;

    for (uint32_t i = 0; i < V; i++) {
        if (t->offsets[i] > t->offsets[i + 1]
            || t->offsets[i + 1] - t->offsets[i] > h->max_piece
            || t->types[i] < IMAGE_NORMAL || t->types[i] > IMAGE_BYTE)
        {
            return infer_err(err, INFER_CORRUPT, "text image has a bad "
                             "token %u", i);
        }
    }

    if (t->offsets[0] != 0 || t->offsets[V] != h->section[IMAGE_BYTES].n) {
        return infer_err(err, INFER_CORRUPT, "text image has bad token "
                         "offsets");
    }

    for (uint64_t i = 0; i < h->section[IMAGE_TOKENS].n; i++) {
        if (t->tokens[i] > V) {
            return infer_err(err, INFER_CORRUPT, "text image has a bad "
                             "token table");
        }
    }

    for (uint64_t i = 0; i < h->section[IMAGE_MERGES].n; i++) {
        const image_merge_t *m = &t->merges[i];

        if (m->rank != IMAGE_NO_RANK
            && (m->left >= V || m->right >= V || m->id >= V))
        {
            return infer_err(err, INFER_CORRUPT, "text image has a bad "
                             "merge table");
        }
    }

    return INFER_OK;
}


/* Buckets go up, and each special is a token that begins with its byte. */
static int
image_check_specials(const infer_text_t *t, infer_err_t *err)
{
    uint64_t n = t->h.section[IMAGE_SPECIALS].n;
    size_t len;

    for (uint32_t b = 0; b <= 256; b++) {
        if (t->buckets[b] > n || (b > 0 && t->buckets[b - 1] > t->buckets[b])
            || (b == 0 && t->buckets[b] != 0)
            || (b == 256 && t->buckets[b] != n))
        {
            return infer_err(err, INFER_CORRUPT, "text image has bad "
                             "buckets");
        }
    }

    for (uint32_t b = 0; b < 256; b++) {
        for (uint32_t i = t->buckets[b]; i < t->buckets[b + 1]; i++) {
            if (t->specials[i] >= t->h.vocab) {
                return infer_err(err, INFER_CORRUPT, "text image has a bad "
                                 "special token");
            }

            const char *s = image_token(t, t->specials[i], &len);

            if (len == 0 || (unsigned char) s[0] != b) {
                return infer_err(err, INFER_CORRUPT, "text image has a "
                                 "misplaced special token");
            }
        }
    }

    return INFER_OK;
}


static void
image_point(infer_text_t *t, const char *base)
{
    const image_section_t *s = t->h.section;

    t->bytes = base + s[IMAGE_BYTES].off;
    t->offsets = (const void *) (base + s[IMAGE_OFFSETS].off);
    t->types = (const void *) (base + s[IMAGE_TYPES].off);
    t->tokens = (const void *) (base + s[IMAGE_TOKENS].off);
    t->merges = (const void *) (base + s[IMAGE_MERGES].off);
    t->specials = (const void *) (base + s[IMAGE_SPECIALS].off);
    t->buckets = (const void *) (base + s[IMAGE_BUCKETS].off);
    t->tpl_src = base + s[IMAGE_TEMPLATE].off;
}


static int
image_open_parts(infer_text_t *t, const void *base, size_t len,
    infer_err_t *err)
{
    uint64_t n;
    int rc;

    memcpy(&t->h, base, sizeof(t->h));
    rc = image_check_header(&t->h, len, err);

    if (rc != INFER_OK) {
        return rc;
    }

    if (image_checksum(base, len) != t->h.checksum) {
        return infer_err(err, INFER_CORRUPT, "text image has a wrong "
                         "checksum");
    }

    image_point(t, base);

    if ((rc = image_check_tokens(t, err)) != INFER_OK
        || (rc = image_check_specials(t, err)) != INFER_OK
        || (rc = bpe_pre_open(&t->pre, t->h.pre, err)) != INFER_OK)
    {
        return rc;
    }

    n = t->h.section[IMAGE_TEMPLATE].n;

    return n == 0 ? INFER_OK
                  : infer_template_compile(&t->tpl, t->tpl_src, n, err);
}


int
infer_text_open(infer_text_t **text, const void *base, size_t len,
    infer_err_t *err)
{
    infer_text_t *t;
    int rc;

    *text = NULL;

    if ((uintptr_t) base % 8 != 0 || len < sizeof(image_header_t)
        || len > IMAGE_MAX_BYTES)
    {
        return infer_err(err, INFER_CORRUPT, "text image of %zu bytes is "
                         "none", len);
    }

    t = calloc(1, sizeof(*t));

    if (t == NULL) {
        return infer_err(err, INFER_NOMEM, "no memory for a text image");
    }

    rc = image_open_parts(t, base, len, err);

    if (rc != INFER_OK) {
        infer_text_close(t);
        return rc;
    }

    *text = t;

    return INFER_OK;
}


void
infer_text_close(infer_text_t *text)
{
    if (text == NULL) {
        return;
    }

    if (text->tpl != NULL) {
        infer_template_free(text->tpl);
    }

    bpe_pre_close(text->pre);
    free(text);
}


uint32_t
infer_text_vocab(const infer_text_t *text)
{
    return text->h.vocab;
}


int32_t
infer_text_bos(const infer_text_t *text)
{
    return text->h.bos;
}


int32_t
infer_text_eos(const infer_text_t *text)
{
    return text->h.eos;
}


int
infer_text_add_bos(const infer_text_t *text)
{
    return (text->h.flags & IMAGE_ADD_BOS) != 0;
}


int
infer_text_is_eog(const infer_text_t *text, int32_t id)
{
    for (uint32_t i = 0; i < text->h.n_eog; i++) {
        if (text->h.eog[i] == id) {
            return 1;
        }
    }

    return 0;
}


uint32_t
infer_text_eog(const infer_text_t *text, int32_t ids[INFER_MAX_EOG])
{
    memcpy(ids, text->h.eog, text->h.n_eog * sizeof(ids[0]));

    return text->h.n_eog;
}


const infer_template_t *
infer_text_template(const infer_text_t *text)
{
    return text->tpl;
}


const char *
infer_text_template_source(const infer_text_t *text, size_t *len)
{
    *len = text->h.section[IMAGE_TEMPLATE].n;

    return *len == 0 ? NULL : text->tpl_src;
}


int
infer_text_is_control(const infer_text_t *text, int32_t id)
{
    if (id < 0 || (uint32_t) id >= text->h.vocab) {
        return 0;
    }

    return text->types[id] == IMAGE_CONTROL
           || text->types[id] == IMAGE_UNKNOWN;
}


const char *
infer_text_piece(const infer_text_t *text, int32_t id, int special,
    size_t *len)
{
    *len = 0;

    if (id < 0 || (uint32_t) id >= text->h.vocab
        || (!special && infer_text_is_control(text, id)))
    {
        return text->bytes;
    }

    return image_token(text, (uint32_t) id, len);
}


uint32_t
infer_text_max_piece(const infer_text_t *text)
{
    return text->h.max_piece;
}
