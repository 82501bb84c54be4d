/*
 * image_build.c: makes the text image of a model file: decodes the
 * vocabulary from GPT-2's printable alphabet to bytes, lays out tokens and
 * merges as hash tables, sorts the special tokens and finds the ids that
 * end a generation. Runs in the checking process on files that nobody
 * trusts; what does not fit together is refused with a sentence.
 *
 * Source of the alphabet: the byte table of GPT-2's encoder (printable
 * Latin-1 stands for itself, the other bytes for U+0100 and up, in order).
 */

#include "model/gguf.h"
#include "text/image.h"

#include <string.h>

#define BUILD_ALPHABET  324     /* code points 0 .. 0x143 */

typedef struct {
    const infer_gguf_t  *g;
    infer_err_t         *err;
    infer_text_t         t;                       /* over image */
    char                *image;
    int16_t              byte_of[BUILD_ALPHABET]; /* or -1 */
    uint32_t             V;
    uint64_t             M;
    uint64_t             token_bytes;             /* upper bound */
    uint64_t             n_types;                 /* 0 or V */
    const char          *tpl;
    size_t               tpl_len;
} build_t;


static void
build_alphabet(build_t *b)
{
    int next = 256;

    memset(b->byte_of, -1, sizeof(b->byte_of));

    for (int c = 0; c < 256; c++) {
        int printable = (c >= '!' && c <= '~') || (c >= 0xa1 && c <= 0xac)
                        || c >= 0xae;

        b->byte_of[printable ? c : next++] = (int16_t) c;
    }
}


/* Token text in the alphabet -> its bytes, never more of them. A character
 * that the alphabet does not have stands for itself. */
static size_t
build_decode(const build_t *b, const char *s, size_t len, char *out)
{
    size_t n = 0;

    for (size_t i = 0; i < len; ) {
        unsigned c = (unsigned char) s[i];
        size_t step = 1;

        if (c >= 0xc2 && c <= 0xdf && i + 1 < len
            && ((unsigned char) s[i + 1] & 0xc0) == 0x80)
        {
            c = (c & 0x1f) << 6 | ((unsigned char) s[i + 1] & 0x3f);
            step = 2;

        } else if (c >= 0x80) {
            c = BUILD_ALPHABET;
        }

        if (c < BUILD_ALPHABET && b->byte_of[c] >= 0) {
            out[n++] = (char) b->byte_of[c];

        } else {
            memcpy(out + n, s + i, step);
            n += step;
        }

        i += step;
    }

    return n;
}


static int
build_type(const build_t *b, uint32_t id, uint8_t *type)
{
    int64_t v = IMAGE_NORMAL;

    if (b->n_types != 0
        && (!infer_gguf_array_i64(b->g, "tokenizer.ggml.token_type", id, &v)
            || v < 0 || v > IMAGE_BYTE))
    {
        return infer_err(b->err, INFER_CORRUPT, "token %u has no valid type",
                         id);
    }

    *type = v == 0 ? IMAGE_NORMAL : (uint8_t) v;

    return INFER_OK;
}


/* What the file says about its tokenizer, and the counts of its tables. */
static int
build_counts(build_t *b)
{
    uint64_t n;
    uint32_t type;
    size_t len;
    const char *s;

    if (!infer_gguf_get_str(b->g, "tokenizer.ggml.model", &s, &len)) {
        return infer_err(b->err, INFER_INVALID, "the file has no tokenizer "
                         "(key \"tokenizer.ggml.model\")");
    }

    if (len != 4 || memcmp(s, "gpt2", 4) != 0) {
        return infer_err(b->err, INFER_UNSUPPORTED, "tokenizer \"%.*s\" is "
                         "not supported, only \"gpt2\" is",
                         (int) (len < 64 ? len : 64), s);
    }

    if (!infer_gguf_get_array(b->g, "tokenizer.ggml.tokens", &type, &n)
        || type != INFER_GGUF_STRING || n == 0 || n > IMAGE_MAX_VOCAB)
    {
        return infer_err(b->err, INFER_CORRUPT, "\"tokenizer.ggml.tokens\" "
                         "is not a list of 1 to %u strings",
                         IMAGE_MAX_VOCAB);
    }

    b->V = (uint32_t) n;

    if (infer_gguf_get_array(b->g, "tokenizer.ggml.token_type", &type,
                             &b->n_types)
        && b->n_types != b->V)
    {
        return infer_err(b->err, INFER_CORRUPT, "\"tokenizer.ggml."
                         "token_type\" has %llu elements for %u tokens",
                         (unsigned long long) b->n_types, b->V);
    }

    if (!infer_gguf_get_array(b->g, "tokenizer.ggml.merges", &type, &b->M)
        || type != INFER_GGUF_STRING || b->M > IMAGE_MAX_MERGES)
    {
        return infer_err(b->err, INFER_CORRUPT, "\"tokenizer.ggml.merges\" "
                         "is not a list of at most %u strings",
                         IMAGE_MAX_MERGES);
    }

    for (uint32_t i = 0; i < b->V; i++) {
        if (!infer_gguf_array_str(b->g, "tokenizer.ggml.tokens", i, &s, &len)
            || len > IMAGE_MAX_PIECE)
        {
            return infer_err(b->err, INFER_CORRUPT, "token %u is longer "
                             "than %u bytes", i, IMAGE_MAX_PIECE);
        }

        b->token_bytes += len;
    }

    return b->token_bytes <= UINT32_MAX ? INFER_OK
           : infer_err(b->err, INFER_CORRUPT, "the vocabulary is too large");
}


static int
build_pre(build_t *b)
{
    const char *s = "";
    size_t len = 0;
    int id;

    if (!infer_gguf_get_str(b->g, "tokenizer.ggml.pre", &s, &len)) {
        return infer_err(b->err, INFER_UNSUPPORTED, "the file does not say "
                         "which pre-tokenizer it wants (key "
                         "\"tokenizer.ggml.pre\")");
    }

    id = bpe_pre_find(s, len);

    if (id < 0) {
        return infer_err(b->err, INFER_UNSUPPORTED, "pre-tokenizer "
                         "\"%.*s\" is not supported",
                         (int) (len < 64 ? len : 64), s);
    }

    b->t.h.pre = (uint32_t) id;

    return INFER_OK;
}


static uint64_t
build_table_size(uint64_t n)
{
    uint64_t cells = 8;

    while (cells < n + n / 2 + 1) {
        cells *= 2;
    }

    return cells;
}


/* Places the sections, allocates the image and points t at them. Bytes and
 * specials get their upper bounds; the template comes last. */
static int
build_layout(build_t *b)
{
    image_section_t *s = b->t.h.section;
    uint64_t off = sizeof(image_header_t);

    s[IMAGE_BYTES].n = b->token_bytes;
    s[IMAGE_OFFSETS].n = (uint64_t) b->V + 1;
    s[IMAGE_TYPES].n = b->V;
    s[IMAGE_TOKENS].n = build_table_size(b->V);
    s[IMAGE_MERGES].n = build_table_size(b->M);
    s[IMAGE_SPECIALS].n = b->V;
    s[IMAGE_BUCKETS].n = 257;
    s[IMAGE_TEMPLATE].n = b->tpl_len;

    for (int i = 0; i < IMAGE_SECTIONS; i++) {
        s[i].off = off;
        off += (s[i].n * image_elem_bytes[i] + 7) & ~7ull;
    }

    if (off > IMAGE_MAX_BYTES) {
        return infer_err(b->err, INFER_UNSUPPORTED, "the vocabulary is too "
                         "large");
    }

    b->image = calloc(1, off);

    if (b->image == NULL) {
        return infer_err(b->err, INFER_NOMEM, "no memory for a text image "
                         "of %llu bytes", (unsigned long long) off);
    }

    b->t.h.total = off;
    b->t.bytes = b->image + s[IMAGE_BYTES].off;
    b->t.offsets = (void *) (b->image + s[IMAGE_OFFSETS].off);
    b->t.types = (void *) (b->image + s[IMAGE_TYPES].off);
    b->t.tokens = (void *) (b->image + s[IMAGE_TOKENS].off);
    b->t.merges = (void *) (b->image + s[IMAGE_MERGES].off);
    b->t.specials = (void *) (b->image + s[IMAGE_SPECIALS].off);
    b->t.buckets = (void *) (b->image + s[IMAGE_BUCKETS].off);

    return INFER_OK;
}


static void *
build_section(build_t *b, int i)
{
    return b->image + b->t.h.section[i].off;
}


/* Of several ordinary tokens with the same bytes the first is found. */
static void
build_add_token(build_t *b, uint32_t id)
{
    uint32_t *table = build_section(b, IMAGE_TOKENS);
    uint64_t mask = b->t.h.section[IMAGE_TOKENS].n - 1;
    size_t len, have;
    const char *s = image_token(&b->t, id, &len);
    uint64_t i = image_hash_bytes(s, len);

    if (len == 0) {
        return;
    }

    for ( ; table[i & mask] != 0; i++) {
        const char *other = image_token(&b->t, table[i & mask] - 1, &have);

        if (have == len && memcmp(s, other, len) == 0) {
            return;
        }
    }

    table[i & mask] = id + 1;

    if (len == 1) {
        b->t.h.byte_id[(unsigned char) s[0]] = (int32_t) id;
    }
}


static int
build_tokens(build_t *b)
{
    char *bytes = build_section(b, IMAGE_BYTES);
    uint32_t *offsets = build_section(b, IMAGE_OFFSETS);
    uint8_t *types = build_section(b, IMAGE_TYPES);
    uint32_t off = 0;
    const char *s;
    size_t len;
    int rc;

    memset(b->t.h.byte_id, -1, sizeof(b->t.h.byte_id));

    for (uint32_t i = 0; i < b->V; i++) {
        if (!infer_gguf_array_str(b->g, "tokenizer.ggml.tokens", i, &s,
                                  &len))
        {
            return infer_err(b->err, INFER_CORRUPT, "token %u is gone", i);
        }

        rc = build_type(b, i, &types[i]);

        if (rc != INFER_OK) {
            return rc;
        }

        if (types[i] == IMAGE_NORMAL) {
            len = build_decode(b, s, len, bytes + off);

        } else if (types[i] == IMAGE_UNUSED || types[i] == IMAGE_BYTE) {
            len = 0;

        } else {
            memcpy(bytes + off, s, len);
        }

        off += (uint32_t) len;
        offsets[i + 1] = off;

        if (len > b->t.h.max_piece) {
            b->t.h.max_piece = (uint32_t) len;
        }

        if (types[i] == IMAGE_NORMAL) {
            build_add_token(b, i);
        }
    }

    b->t.h.section[IMAGE_BYTES].n = off;

    return INFER_OK;
}


/* Of the same pair twice the first rank counts. */
static void
build_add_merge(build_t *b, const image_merge_t *m)
{
    image_merge_t *table = build_section(b, IMAGE_MERGES);
    uint64_t mask = b->t.h.section[IMAGE_MERGES].n - 1;
    uint64_t i = image_hash_pair(m->left, m->right);

    for ( ; table[i & mask].rank != IMAGE_NO_RANK; i++) {
        if (table[i & mask].left == m->left
            && table[i & mask].right == m->right)
        {
            return;
        }
    }

    table[i & mask] = *m;
}


static int
build_merges(build_t *b)
{
    image_merge_t *table = build_section(b, IMAGE_MERGES);
    char buf[2 * IMAGE_MAX_PIECE];
    const char *s, *sep;
    size_t len, left, right;

    for (uint64_t i = 0; i < b->t.h.section[IMAGE_MERGES].n; i++) {
        table[i].rank = IMAGE_NO_RANK;
    }

    for (uint32_t i = 0; i < b->M; i++) {
        if (!infer_gguf_array_str(b->g, "tokenizer.ggml.merges", i, &s, &len)
            || len < 3 || len > sizeof(buf)
            || (sep = memchr(s + 1, ' ', len - 2)) == NULL)
        {
            return infer_err(b->err, INFER_CORRUPT, "merge %u is not two "
                             "tokens with a space between them", i);
        }

        left = build_decode(b, s, (size_t) (sep - s), buf);
        right = build_decode(b, sep + 1, len - 1 - (size_t) (sep - s),
                             buf + left);

        int32_t l = image_find_token(&b->t, buf, left);
        int32_t r = image_find_token(&b->t, buf + left, right);
        int32_t id = image_find_token(&b->t, buf, left + right);

        if (l < 0 || r < 0 || id < 0) {
            return infer_err(b->err, INFER_CORRUPT, "merge %u, \"%.*s\", "
                             "uses or gives what is no token", i,
                             (int) (len < 64 ? len : 64), s);
        }

        build_add_merge(b, &(image_merge_t) {
            .left = (uint32_t) l, .right = (uint32_t) r, .rank = i,
            .id = (uint32_t) id
        });
    }

    return INFER_OK;
}


static int
build_cmp_special(const void *a, const void *c, void *arg)
{
    const infer_text_t *t = arg;
    uint32_t x = *(const uint32_t *) a, y = *(const uint32_t *) c;
    size_t x_len, y_len;
    const char *p = image_token(t, x, &x_len);
    const char *q = image_token(t, y, &y_len);
    int rc = memcmp(p, q, x_len < y_len ? x_len : y_len);

    if (rc != 0) {
        return rc;
    }

    if (x_len != y_len) {
        return x_len < y_len ? -1 : 1;
    }

    return (x > y) - (x < y);
}


static int
build_same_token(const build_t *b, uint32_t x, uint32_t y)
{
    size_t x_len, y_len;
    const char *p = image_token(&b->t, x, &x_len);
    const char *q = image_token(&b->t, y, &y_len);

    return x_len == y_len && memcmp(p, q, x_len) == 0;
}


/* Sorted by bytes, each text once, with the first index of each byte. */
static void
build_specials(build_t *b)
{
    uint32_t *ids = build_section(b, IMAGE_SPECIALS);
    uint32_t *bucket = build_section(b, IMAGE_BUCKETS);
    uint32_t n = 0, kept = 0;
    size_t len;

    for (uint32_t i = 0; i < b->V; i++) {
        uint8_t type = b->t.types[i];

        (void) image_token(&b->t, i, &len);

        if (len > 0 && (type == IMAGE_CONTROL || type == IMAGE_UNKNOWN
            || type == IMAGE_USER_DEFINED))
        {
            ids[n++] = i;
        }
    }

    qsort_r(ids, n, sizeof(ids[0]), build_cmp_special, &b->t);

    for (uint32_t i = 0; i < n; i++) {
        if (kept == 0 || !build_same_token(b, ids[kept - 1], ids[i])) {
            ids[kept++] = ids[i];
        }
    }

    memset(ids + kept, 0, (n - kept) * sizeof(ids[0]));
    b->t.h.section[IMAGE_SPECIALS].n = kept;

    for (uint32_t c = 0, i = 0; c <= 256; c++) {
        while (i < kept
               && (unsigned char) *image_token(&b->t, ids[i], &len) < c)
        {
            i++;
        }

        bucket[c] = i;
    }
}


static int
build_id(build_t *b, const char *key, int32_t *id)
{
    uint64_t v;

    *id = -1;

    if (!infer_gguf_get_u64(b->g, key, &v)) {
        return INFER_OK;
    }

    if (v >= b->V) {
        return infer_err(b->err, INFER_CORRUPT, "\"%s\" is %llu, but there "
                         "are %u tokens", key, (unsigned long long) v, b->V);
    }

    *id = (int32_t) v;

    return INFER_OK;
}


static void
build_add_eog(build_t *b, int32_t id)
{
    if (id >= 0 && b->t.h.n_eog < INFER_MAX_EOG
        && !infer_text_is_eog(&b->t, id))
    {
        b->t.h.eog[b->t.h.n_eog++] = id;
    }
}


/* EOS, end of turn and end of message as the file names them, then control
 * tokens whose text says that they end something. */
static int
build_ends(build_t *b)
{
    static const char *const names[] = {
        "<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end|>", "<|endoftext|>",
        "<|end_of_text|>", "<end_of_turn>", "<EOT>"
    };
    int32_t eot, eom;
    size_t len;
    int rc, bos;

    if ((rc = build_id(b, "tokenizer.ggml.bos_token_id", &b->t.h.bos))
        || (rc = build_id(b, "tokenizer.ggml.eos_token_id", &b->t.h.eos))
        || (rc = build_id(b, "tokenizer.ggml.eot_token_id", &eot))
        || (rc = build_id(b, "tokenizer.ggml.eom_token_id", &eom)))
    {
        return rc;
    }

    build_add_eog(b, b->t.h.eos);
    build_add_eog(b, eot);
    build_add_eog(b, eom);

    for (uint32_t i = 0; i < b->V; i++) {
        if (b->t.types[i] != IMAGE_CONTROL) {
            continue;
        }

        const char *s = image_token(&b->t, i, &len);

        for (size_t k = 0; k < sizeof(names) / sizeof(names[0]); k++) {
            if (strlen(names[k]) == len && memcmp(s, names[k], len) == 0) {
                build_add_eog(b, (int32_t) i);
            }
        }
    }

    bos = bpe_pre_wants_bos((int) b->t.h.pre);
    (void) infer_gguf_get_bool(b->g, "tokenizer.ggml.add_bos_token", &bos);

    if (bos && b->t.h.bos >= 0) {
        b->t.h.flags |= IMAGE_ADD_BOS;
    }

    return INFER_OK;
}


static int
build_template(build_t *b, const char *own, size_t own_len)
{
    infer_template_t *tpl;
    int rc;

    if (own != NULL) {
        b->tpl = own;
        b->tpl_len = own_len;

    } else {
        (void) infer_gguf_get_str(b->g, "tokenizer.chat_template", &b->tpl,
                                  &b->tpl_len);
    }

    if (b->tpl_len == 0) {
        return INFER_OK;
    }

    if (b->tpl_len > IMAGE_MAX_TEMPLATE) {
        return infer_err(b->err, INFER_INVALID, "the chat template is "
                         "longer than %u bytes", IMAGE_MAX_TEMPLATE);
    }

    rc = infer_template_compile(&tpl, b->tpl, b->tpl_len, b->err);

    if (rc == INFER_OK) {
        infer_template_free(tpl);
    }

    return rc;
}


static int
build_image(build_t *b)
{
    int rc;

    build_alphabet(b);
    b->t.h.vocab = b->V;

    if ((rc = build_layout(b)) != INFER_OK
        || (rc = build_tokens(b)) != INFER_OK
        || (rc = build_merges(b)) != INFER_OK
        || (rc = build_ends(b)) != INFER_OK)
    {
        return rc;
    }

    build_specials(b);

    if (b->tpl_len > 0) {
        memcpy(build_section(b, IMAGE_TEMPLATE), b->tpl, b->tpl_len);
    }

    b->t.h.magic = IMAGE_MAGIC;
    b->t.h.version = IMAGE_VERSION;
    memcpy(b->image, &b->t.h, sizeof(b->t.h));
    b->t.h.checksum = image_checksum(b->image, b->t.h.total);
    memcpy(b->image, &b->t.h, sizeof(b->t.h));

    return INFER_OK;
}


int
infer_text_build(struct infer_gguf_s *gguf, const char *chat_template,
    size_t chat_template_len, void **image, size_t *image_len,
    infer_err_t *err)
{
    build_t b = { .g = gguf, .err = err };
    int rc;

    *image = NULL;
    *image_len = 0;

    if ((rc = build_counts(&b)) != INFER_OK
        || (rc = build_pre(&b)) != INFER_OK
        || (rc = build_template(&b, chat_template, chat_template_len))
           != INFER_OK
        || (rc = build_image(&b)) != INFER_OK)
    {
        free(b.image);
        return rc;
    }

    *image = b.image;
    *image_len = b.t.h.total;

    return INFER_OK;
}
