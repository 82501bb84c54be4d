/*
 * tokenizer_bpe.c: text -> token ids by byte-level BPE. Special tokens are
 * cut out first, the rest is cut into valid UTF-8 and other bytes, valid
 * text, in normal form C where the model was trained on that, by the
 * pre-tokenizer's pattern, and each piece is merged by rank.
 * Pure functions over the image; scratch memory lives for one call.
 *
 * Merging takes a heap of (rank, position) over a linked list of symbols,
 * O(n log n) for a piece of n bytes. The patterns never go back further than
 * over one run of white space; should PCRE2 reach its limit anyway, what is
 * left of the text is one piece.
 *
 * Source of the method: Sennrich et al., Neural Machine Translation of Rare
 * Words with Subword Units (2016); the patterns are those that the models'
 * tokenizers publish, with \s written out as Unicode's White_Space.
 */

#define PCRE2_CODE_UNIT_WIDTH  8

#include "text/image.h"
#include "text/nfc.h"

#include <pcre2.h>
#include <string.h>

#define BPE_MATCH_LIMIT  100000000u

#define WS   "\\x{9}-\\x{d}\\x{20}\\x{85}\\x{a0}\\x{1680}\\x{2000}-"          \
             "\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}"
#define REST "\\x{20}?[^" WS "\\p{L}\\p{N}]+"

#define BPE_LLAMA3(digits)                                                    \
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|" digits "|"  \
    REST "[\\r\\n]*|[" WS "]*[\\r\\n]+|[" WS "]+(?![^" WS "])|[" WS "]+"

typedef struct {
    const char  *pattern;
    int          whole;       /* a piece that is a token is not merged */
    int          bos;         /* BOS unless the file says otherwise */
    int          nfc;
} bpe_def_t;

/* SmolLM cuts off each digit before the rest of the pattern sees the text,
 * so white space before a digit stands at an end. */
static const bpe_def_t bpe_def[BPE_PRE_COUNT] = {
    [BPE_PRE_GPT2] = {
        "'s|'t|'re|'ve|'m|'ll|'d|\\x{20}?\\p{L}+|\\x{20}?\\p{N}+|" REST "|["
        WS "]+(?![^" WS "])|[" WS "]+", 0, 0, 0
    },
    [BPE_PRE_SMOLLM] = {
        "\\p{N}|'s|'t|'re|'ve|'m|'ll|'d|\\x{20}?\\p{L}+|" REST "|["
        WS "]+(?![^" WS "\\p{N}])|[" WS "]+", 0, 0, 0
    },
    [BPE_PRE_LLAMA3] = { BPE_LLAMA3("\\p{N}{1,3}"), 1, 1, 0 },
    [BPE_PRE_QWEN2] = { BPE_LLAMA3("\\p{N}"), 0, 0, 1 }
};

struct bpe_pre_s {
    pcre2_code           *code;
    pcre2_match_context  *limits;
    int                   whole;
    int                   nfc;
};

/* One symbol of the piece that is being merged. */
typedef struct {
    uint32_t  id;
    uint32_t  prev, next;     /* BPE_NONE at the ends */
    uint32_t  rank;           /* of the merge with next, or IMAGE_NO_RANK */
    uint32_t  merged;         /* what that gives */
} bpe_symbol_t;

#define BPE_NONE  UINT32_MAX

/* One call of infer_text_encode. */
typedef struct {
    const infer_text_t  *t;
    pcre2_match_data    *match;
    int32_t             *ids;
    size_t               n_ids, cap_ids;
    bpe_symbol_t        *sym;
    uint64_t            *heap;           /* rank << 32 | position */
    size_t               cap, n_heap;
} bpe_t;


int
bpe_pre_find(const char *name, size_t len)
{
    static const struct {
        const char  *name;
        int          id;
    } names[] = {
        { "gpt-2", BPE_PRE_GPT2 }, { "gpt2", BPE_PRE_GPT2 },
        { "smollm", BPE_PRE_SMOLLM }, { "llama-bpe", BPE_PRE_LLAMA3 },
        { "llama3", BPE_PRE_LLAMA3 }, { "llama-v3", BPE_PRE_LLAMA3 },
        { "qwen2", BPE_PRE_QWEN2 }, { "deepseek-r1-qwen", BPE_PRE_QWEN2 }
    };

    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        if (strlen(names[i].name) == len
            && memcmp(names[i].name, name, len) == 0)
        {
            return names[i].id;
        }
    }

    return -1;
}


int
bpe_pre_wants_bos(int id)
{
    return bpe_def[id].bos;
}


int
bpe_pre_open(bpe_pre_t **pre, uint32_t id, infer_err_t *err)
{
    bpe_pre_t *p = calloc(1, sizeof(*p));
    PCRE2_SIZE at;
    int code;

    *pre = p;

    if (p == NULL) {
        return infer_err(err, INFER_NOMEM, "no memory for a pre-tokenizer");
    }

    p->whole = bpe_def[id].whole;
    p->nfc = bpe_def[id].nfc;
    p->limits = pcre2_match_context_create(NULL);
    p->code = pcre2_compile((PCRE2_SPTR) bpe_def[id].pattern,
                            PCRE2_ZERO_TERMINATED,
                            PCRE2_UTF | PCRE2_UCP | PCRE2_ANCHORED, &code,
                            &at, NULL);

    if (p->limits == NULL || p->code == NULL) {
        *pre = NULL;
        bpe_pre_close(p);
        return infer_err(err, INFER_NOMEM, "pre-tokenizer %u does not "
                         "compile: PCRE2 error %d", id, code);
    }

    pcre2_set_match_limit(p->limits, BPE_MATCH_LIMIT);

    /* without JIT (no executable memory) the interpreter does the same */
    (void) pcre2_jit_compile(p->code, PCRE2_JIT_COMPLETE);

    return INFER_OK;
}


void
bpe_pre_close(bpe_pre_t *pre)
{
    if (pre != NULL) {
        pcre2_code_free(pre->code);
        pcre2_match_context_free(pre->limits);
        free(pre);
    }
}


static int
bpe_emit(bpe_t *b, int32_t id)
{
    if (b->n_ids == b->cap_ids) {
        size_t cap = b->cap_ids ? 2 * b->cap_ids : 64;
        int32_t *p;

        if (cap > SIZE_MAX / sizeof(*p)) {
            return INFER_NOMEM;
        }

        p = realloc(b->ids, cap * sizeof(*p));

        if (p == NULL) {
            return INFER_NOMEM;
        }

        b->ids = p;
        b->cap_ids = cap;
    }

    b->ids[b->n_ids++] = id;

    return INFER_OK;
}


/* Room for n symbols; every merge takes one off the heap and puts at most
 * two on it, so 2 n places are enough there. */
static int
bpe_reserve(bpe_t *b, size_t n)
{
    size_t cap = 64;

    if (n <= b->cap) {
        return INFER_OK;
    }

    while (cap < n) {
        cap *= 2;
    }

    free(b->sym);
    free(b->heap);
    b->cap = 0;
    b->sym = malloc(cap * sizeof(*b->sym));
    b->heap = malloc(cap * 2 * sizeof(*b->heap));

    if (b->sym == NULL || b->heap == NULL) {
        return INFER_NOMEM;
    }

    b->cap = cap;

    return INFER_OK;
}


static void
bpe_heap_push(bpe_t *b, uint64_t key)
{
    size_t i = b->n_heap++;

    while (i > 0 && b->heap[(i - 1) / 2] > key) {
        b->heap[i] = b->heap[(i - 1) / 2];
        i = (i - 1) / 2;
    }

    b->heap[i] = key;
}


static uint64_t
bpe_heap_pop(bpe_t *b)
{
    uint64_t top = b->heap[0], last = b->heap[--b->n_heap];
    size_t i = 0, child;

    while ((child = 2 * i + 1) < b->n_heap) {
        child += child + 1 < b->n_heap
                 && b->heap[child + 1] < b->heap[child];

        if (b->heap[child] >= last) {
            break;
        }

        b->heap[i] = b->heap[child];
        i = child;
    }

    b->heap[i] = last;

    return top;
}


/* Looks up the merge of symbol i with its next one. */
static void
bpe_pair(bpe_t *b, uint32_t i)
{
    bpe_symbol_t *s = &b->sym[i];
    const image_merge_t *m = NULL;

    if (s->next != BPE_NONE) {
        m = image_find_merge(b->t, s->id, b->sym[s->next].id);
    }

    s->rank = IMAGE_NO_RANK;

    if (m != NULL) {
        s->rank = m->rank;
        s->merged = m->id;
        bpe_heap_push(b, (uint64_t) m->rank << 32 | i);
    }
}


/* The bytes of the piece as symbols. A byte that the vocabulary does not
 * have becomes U+FFFD, or nothing when that is not there either. */
static int
bpe_symbols(bpe_t *b, const char *s, size_t len, uint32_t *count)
{
    const int32_t *byte_id = b->t->h.byte_id;
    static const unsigned char fffd[3] = { 0xef, 0xbf, 0xbd };
    int have = byte_id[fffd[0]] >= 0 && byte_id[fffd[1]] >= 0
               && byte_id[fffd[2]] >= 0;
    size_t need = len;
    uint32_t n = 0;

    for (size_t i = 0; i < len; i++) {
        need += byte_id[(unsigned char) s[i]] < 0 ? 2 : 0;
    }

    if (len > BPE_NONE / 8 || bpe_reserve(b, need) != INFER_OK) {
        return INFER_NOMEM;
    }

    for (size_t i = 0; i < len; i++) {
        int32_t id = byte_id[(unsigned char) s[i]];

        if (id >= 0) {
            b->sym[n++].id = (uint32_t) id;
            continue;
        }

        for (int k = 0; have && k < 3; k++) {
            b->sym[n++].id = (uint32_t) byte_id[fffd[k]];
        }
    }

    for (uint32_t i = 0; i < n; i++) {
        b->sym[i].prev = i - 1;          /* BPE_NONE for the first */
        b->sym[i].next = i + 1 < n ? i + 1 : BPE_NONE;
    }

    *count = n;

    return INFER_OK;
}


static int
bpe_merge(bpe_t *b, const char *s, size_t len)
{
    uint32_t n, i, next;
    uint64_t key;
    int rc;

    rc = bpe_symbols(b, s, len, &n);

    if (rc != INFER_OK) {
        return rc;
    }

    b->n_heap = 0;

    for (i = 0; i < n; i++) {
        bpe_pair(b, i);
    }

    while (b->n_heap > 0) {
        key = bpe_heap_pop(b);
        i = (uint32_t) key;

        /* a symbol that has changed since or was merged away */
        if (b->sym[i].rank != (uint32_t) (key >> 32)) {
            continue;
        }

        next = b->sym[i].next;
        b->sym[i].id = b->sym[i].merged;
        b->sym[i].next = b->sym[next].next;
        b->sym[next].rank = IMAGE_NO_RANK;

        if (b->sym[i].next != BPE_NONE) {
            b->sym[b->sym[i].next].prev = i;
        }

        bpe_pair(b, i);

        if (b->sym[i].prev != BPE_NONE) {
            bpe_pair(b, b->sym[i].prev);
        }
    }

    for (i = n > 0 ? 0 : BPE_NONE; i != BPE_NONE && rc == INFER_OK;
         i = b->sym[i].next)
    {
        rc = bpe_emit(b, (int32_t) b->sym[i].id);
    }

    return rc;
}


static int
bpe_piece(bpe_t *b, const char *s, size_t len)
{
    int32_t id;

    if (b->t->pre->whole || len == 1) {
        id = image_find_token(b->t, s, len);

        if (id >= 0) {
            return bpe_emit(b, id);
        }
    }

    return bpe_merge(b, s, len);
}


/* End of the piece that begins at `at`; s[0..len) is valid UTF-8. at itself
 * when there is no memory. */
static size_t
bpe_next(bpe_t *b, const char *s, size_t len, size_t at)
{
    const bpe_pre_t *pre = b->t->pre;
    PCRE2_SIZE *ov = pcre2_get_ovector_pointer(b->match);
    int rc;

    rc = pcre2_match(pre->code, (PCRE2_SPTR) s, len, at, PCRE2_NO_UTF_CHECK,
                     b->match, pre->limits);

    if (rc == PCRE2_ERROR_JIT_STACKLIMIT) {
        rc = pcre2_match(pre->code, (PCRE2_SPTR) s, len, at,
                         PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, b->match,
                         pre->limits);
    }

    if (rc == PCRE2_ERROR_NOMEMORY) {
        return at;
    }

    return rc > 0 && ov[1] > at && ov[1] <= len ? ov[1] : len;
}


/* Bytes of the valid UTF-8 character at s, 0 when there is none. */
static size_t
bpe_utf8(const unsigned char *s, size_t len)
{
    size_t n = s[0] < 0x80 ? 1 : s[0] < 0xc2 ? 0 : s[0] < 0xe0 ? 2
               : s[0] < 0xf0 ? 3 : s[0] < 0xf5 ? 4 : 0;

    if (n == 0 || n > len) {
        return 0;
    }

    for (size_t i = 1; i < n; i++) {
        if ((s[i] & 0xc0) != 0x80) {
            return 0;
        }
    }

    if ((s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xed && s[1] > 0x9f)
        || (s[0] == 0xf0 && s[1] < 0x90) || (s[0] == 0xf4 && s[1] > 0x8f))
    {
        return 0;
    }

    return n;
}


/* A run of valid UTF-8. */
static int
bpe_valid(bpe_t *b, const char *s, size_t len)
{
    char *form = NULL;
    size_t n, end;
    int rc = b->t->pre->nfc ? infer_nfc(s, len, &form, &n) : INFER_OK;

    if (form != NULL) {
        s = form;
        len = n;
    }

    for (size_t at = 0; at < len && rc == INFER_OK; at = end) {
        end = bpe_next(b, s, len, at);
        rc = end == at ? INFER_NOMEM : bpe_piece(b, s + at, end - at);
    }

    free(form);

    return rc;
}


/* Text without special tokens: runs of valid UTF-8 through the pattern,
 * runs of other bytes as pieces of their own. */
static int
bpe_text(bpe_t *b, const char *s, size_t len)
{
    const unsigned char *u = (const unsigned char *) s;
    size_t i = 0, n;
    int rc = INFER_OK;

    while (i < len && rc == INFER_OK) {
        size_t from = i;

        while (i < len && (n = bpe_utf8(u + i, len - i)) > 0) {
            i += n;
        }

        rc = bpe_valid(b, s + from, i - from);
        from = i;

        while (i < len && bpe_utf8(u + i, len - i) == 0) {
            i++;
        }

        if (i > from && rc == INFER_OK) {
            rc = bpe_piece(b, s + from, i - from);
        }
    }

    return rc;
}


/* First special in [lo, hi), all alike in the d bytes before, whose byte d
 * is at least c; hi when there is none. Those that end at d come first. */
static uint32_t
bpe_bound(const infer_text_t *t, uint32_t lo, uint32_t hi, size_t d,
    unsigned c)
{
    while (lo < hi) {
        uint32_t mid = lo + (hi - lo) / 2;
        size_t len;
        const char *s = image_token(t, t->specials[mid], &len);

        if (len <= d || (unsigned char) s[d] < c) {
            lo = mid + 1;

        } else {
            hi = mid;
        }
    }

    return lo;
}


/* The longest special token that s[0..len) begins with, or -1. Control tokens
 * count within s[0..own) alone, those that are ordinary text (user-defined)
 * everywhere. */
static int32_t
bpe_special(const infer_text_t *t, const char *s, size_t len, size_t own)
{
    const unsigned char *u = (const unsigned char *) s;
    uint32_t lo = t->buckets[u[0]], hi = t->buckets[u[0] + 1];
    int32_t best = -1;
    size_t have;

    for (size_t d = 1; lo < hi; d++) {
        uint32_t id = t->specials[lo];

        (void) image_token(t, id, &have);

        if (have == d) {
            if (d <= own || t->types[id] == IMAGE_USER_DEFINED) {
                best = (int32_t) id;
            }

            lo++;
        }

        if (d == len) {
            break;
        }

        lo = bpe_bound(t, lo, hi, d, u[d]);
        hi = bpe_bound(t, lo, hi, d, u[d] + 1u);
    }

    return best;
}


/* The first byte of client[at..len) that is the client's, or len. */
static size_t
bpe_client(const uint8_t *client, size_t at, size_t len)
{
    const uint8_t *p = client ? memchr(client + at, 1, len - at) : NULL;

    return p != NULL ? (size_t) (p - client) : len;
}


/* Without `control` the only special tokens are user-defined. */
static int
bpe_all(bpe_t *b, const char *s, const uint8_t *client, size_t len,
    int control)
{
    size_t from = 0, i = 0, n, own = 0;
    int32_t id;
    int rc = INFER_OK;

    while (i < len && rc == INFER_OK) {
        if (own <= i) {
            own = control ? bpe_client(client, i, len) : i;
        }

        id = bpe_special(b->t, s + i, len - i, own - i);

        if (id < 0) {
            i++;
            continue;
        }

        if (i > from) {
            rc = bpe_text(b, s + from, i - from);
        }

        if (rc == INFER_OK) {
            rc = bpe_emit(b, id);
        }

        (void) image_token(b->t, (uint32_t) id, &n);
        i += n;
        from = i;
    }

    if (rc == INFER_OK && len > from) {
        rc = bpe_text(b, s + from, len - from);
    }

    return rc;
}


int
infer_text_encode(const infer_text_t *text, const char *s, size_t len,
    unsigned flags, int32_t **ids, size_t *n_ids, infer_err_t *err)
{
    return infer_text_encode_marked(text, s, NULL, len, flags, ids, n_ids,
                                    err);
}


int
infer_text_encode_marked(const infer_text_t *text, const char *s,
    const uint8_t *client, size_t len, unsigned flags, int32_t **ids,
    size_t *n_ids, infer_err_t *err)
{
    bpe_t b = { .t = text };
    int rc = INFER_OK;

    *ids = NULL;
    *n_ids = 0;
    b.match = pcre2_match_data_create(1, NULL);

    if (b.match == NULL) {
        rc = INFER_NOMEM;

    } else if ((flags & INFER_TEXT_BOS) && infer_text_add_bos(text)) {
        rc = bpe_emit(&b, text->h.bos);
    }

    if (rc == INFER_OK) {
        rc = bpe_all(&b, s, client, len, (flags & INFER_TEXT_SPECIAL) != 0);
    }

    pcre2_match_data_free(b.match);
    free(b.sym);
    free(b.heap);

    if (rc != INFER_OK) {
        free(b.ids);
        return infer_err(err, rc, "no memory to tokenize %zu bytes", len);
    }

    *ids = b.ids;
    *n_ids = b.n_ids;

    return INFER_OK;
}
