/*
 * tiny_gguf.h: builds a complete llama-architecture GGUF file, in memory or
 * row by row into a file of any size: random weights from a seed, a
 * byte-level BPE vocabulary and a chat template. Shared by the tool
 * make_tiny and by C tests, so all of it is static. The same configuration
 * gives the same bytes on every machine: no libm call, no floating-point
 * contraction.
 *
 * The weights are shaped so that tests can stream: dimension 0 of the
 * residual stream is a constant that no layer writes, and the head reads it
 * to keep control tokens (by far) and unprintable bytes (mildly) unlikely.
 * The head is not tied by default, since a tied random model repeats itself.
 */

#ifndef INFER_TINY_GGUF_H
#define INFER_TINY_GGUF_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tool/quantize.h"

/* Types are numbers of GGUF (any that quantize.h makes), or this mix. */
enum {
    TINY_F32 = 0, TINY_F16 = 1, TINY_Q4_0 = 2, TINY_Q4_1 = 3, TINY_Q5_0 = 6,
    TINY_Q5_1 = 7, TINY_Q8_0 = 8, TINY_BF16 = 30, TINY_MIXED = 1000
};

#define TINY_SPECIALS  3                  /* ids 0, 1, 2 */
#define TINY_BYTES     256                /* ids 3 .. 258 */

typedef struct {
    uint64_t     seed;
    uint32_t     type;                    /* of matrices */
    uint32_t     head;                    /* 1 + type of embedding and head;
                                             0: as the others */
    uint32_t     L, D, H, G, F, V, S;
    uint32_t     K;                       /* 0: D / H, and no key for it */
    int          tied;
    uint32_t     repeat;                  /* 0, or how many rows of a matrix
                                             are made; they repeat then */
    const char  *pre;                     /* tokenizer.ggml.pre */
    const char  *tpl;                     /* chat template; NULL: none */
    size_t       tpl_len;
    /* what tests bend; zero in make_tiny */
    const char  *arch;                    /* NULL: "llama" */
    const char  *rope_scaling;            /* "linear", "yarn", ... */
    float        rope_factor;
    uint32_t     rope_original;           /* context before scaling */
    uint32_t     expert_count;
    const char  *extra_tensor;            /* one more, that nobody knows */
    int          rope_freqs;              /* 1: write rope_freqs.weight */
    const char  *omit;                    /* leave this tensor or key out */
    const char  *misshape;                /* this tensor gets one row less */
    const char  *retype;                  /* it claims IQ2_XXS, which none runs */
} tiny_conf_t;

typedef struct {
    unsigned char  *p;
    size_t          len, cap;
    int             failed;               /* out of memory */
} tiny_buf_t;

typedef struct {
    tiny_conf_t   conf;
    tiny_buf_t    meta, infos, out;
    FILE         *file;                   /* instead of out */
    int           listing;                /* first pass: tensors, no data */
    uint64_t      data_len;
    uint64_t      n_kv, n_tensors;
    uint64_t      rng;
    uint32_t     *slot;                   /* hash table of 1 + token index */
    uint32_t      n_slots;                /* a power of two */
    char        **token;                  /* [V], in GPT-2's alphabet */
    char        **merge;                  /* [n_merges] "left right" */
    uint32_t      n_tokens, n_merges;
} tiny_t;

static const char tiny_template[] =
    "{%- for m in messages -%}\n"
    "{{- '<|im_start|>' + m.role + '\\n' -}}\n"
    "{{- m.content + '<|im_end|>\\n' -}}\n"
    "{%- endfor -%}\n"
    "{%- if add_generation_prompt -%}\n"
    "{{- '<|im_start|>assistant\\n' -}}\n"
    "{%- endif -%}\n";

static const tiny_conf_t tiny_default = {
    .seed = 1, .type = TINY_MIXED, .L = 2, .D = 64, .H = 4, .G = 2,
    .F = 128, .V = 512, .S = 2048, .pre = "smollm", .tpl = tiny_template,
    .tpl_len = sizeof(tiny_template) - 1
};


static void
tiny_put(tiny_buf_t *b, const void *p, size_t len)
{
    if (b->failed) {
        return;
    }

    if (len > b->cap - b->len) {
        size_t cap = b->cap * 2 + len + 4096;
        unsigned char *grown = realloc(b->p, cap);

        if (grown == NULL) {
            b->failed = 1;
            return;
        }

        b->p = grown;
        b->cap = cap;
    }

    if (len > 0) {
        memcpy(b->p + b->len, p, len);
        b->len += len;
    }
}


static void
tiny_u32(tiny_buf_t *b, uint32_t v)
{
    tiny_put(b, &v, sizeof(v));
}


static void
tiny_u64(tiny_buf_t *b, uint64_t v)
{
    tiny_put(b, &v, sizeof(v));
}


static void
tiny_strn(tiny_buf_t *b, const char *s, size_t len)
{
    tiny_u64(b, len);
    tiny_put(b, s, len);
}


/* Begins a key; 0 when the configuration leaves it out. */
static int
tiny_key(tiny_t *t, const char *key, uint32_t type)
{
    if (t->conf.omit != NULL && strcmp(t->conf.omit, key) == 0) {
        return 0;
    }

    tiny_strn(&t->meta, key, strlen(key));
    tiny_u32(&t->meta, type);
    t->n_kv++;

    return 1;
}


static void
tiny_kv_u32(tiny_t *t, const char *key, uint32_t v)
{
    if (tiny_key(t, key, 4)) {
        tiny_u32(&t->meta, v);
    }
}


static void
tiny_kv_f32(tiny_t *t, const char *key, float v)
{
    if (tiny_key(t, key, 6)) {
        tiny_put(&t->meta, &v, sizeof(v));
    }
}


static void
tiny_kv_bool(tiny_t *t, const char *key, int v)
{
    unsigned char byte = v != 0;

    if (tiny_key(t, key, 7)) {
        tiny_put(&t->meta, &byte, 1);
    }
}


static void
tiny_kv_str(tiny_t *t, const char *key, const char *s, size_t len)
{
    if (tiny_key(t, key, 8)) {
        tiny_strn(&t->meta, s, len);
    }
}


/* splitmix64 */
static uint64_t
tiny_random(tiny_t *t)
{
    uint64_t z = t->rng += 0x9e3779b97f4a7c15ull;

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;

    return z ^ (z >> 31);
}


/* About normal, mean 0, deviation 1: four 16-bit uniforms. */
static float
tiny_normal(tiny_t *t)
{
    uint64_t r = tiny_random(t);
    int32_t sum = (int32_t) ((r & 0xffff) + (r >> 16 & 0xffff)
                             + (r >> 32 & 0xffff) + (r >> 48));

    return (float) (sum - 131070) * (1.7320508f / 65536.0f);
}


static void
tiny_out(tiny_t *t, const void *p, size_t len)
{
    t->data_len += len;

    if (t->file == NULL) {
        tiny_put(&t->out, p, len);

    } else if (fwrite(p, 1, len, t->file) != len) {
        t->out.failed = 1;
    }
}


/* Lists a tensor in the first pass; in the second, pads the data so that it
 * can follow. 0: no data is wanted. */
static int
tiny_tensor(tiny_t *t, const char *name, uint32_t type, uint32_t cols,
    uint32_t rows)
{
    static const char zeros[32];
    uint64_t pad = (32 - t->data_len % 32) % 32;
    uint32_t values, bytes;

    if (t->conf.omit != NULL && strcmp(t->conf.omit, name) == 0) {
        return 0;
    }

    if (!t->listing) {
        tiny_out(t, zeros, pad);
        return 1;
    }

    kern_block_layout_ref(type, &values, &bytes);

    uint64_t size = (uint64_t) cols / values * bytes * rows;

    if (t->conf.misshape != NULL && strcmp(t->conf.misshape, name) == 0) {
        rows > 1 ? rows-- : cols--;
    }

    if (t->conf.retype != NULL && strcmp(t->conf.retype, name) == 0) {
        type = 16;
    }

    tiny_strn(&t->infos, name, strlen(name));
    tiny_u32(&t->infos, rows > 1 ? 2 : 1);
    tiny_u64(&t->infos, cols);

    if (rows > 1) {
        tiny_u64(&t->infos, rows);
    }

    tiny_u32(&t->infos, type);
    tiny_u64(&t->infos, t->data_len + pad);
    t->data_len += pad + size;
    t->n_tensors++;

    return 0;
}


/* Norm weights around 1, always F32. */
static void
tiny_norm(tiny_t *t, const char *name)
{
    if (!tiny_tensor(t, name, TINY_F32, t->conf.D, 1)) {
        return;
    }

    for (uint32_t i = 0; i < t->conf.D; i++) {
        float w = 1 + 0.1f * tiny_normal(t);

        tiny_out(t, &w, sizeof(w));
    }
}


static int
tiny_printable(const tiny_t *t, uint32_t id)
{
    return id >= TINY_SPECIALS + TINY_BYTES
           || (id >= TINY_SPECIALS && t->token[id][1] == '\0');
}


/* A row as it is in the file; raw has room for it as f32. BF16 is
 * truncated. Returns its bytes. */
static size_t
tiny_encode(uint32_t type, float *row, uint32_t cols, uint8_t *raw)
{
    uint32_t values, bytes, u;

    for (uint32_t i = 0; type == TINY_BF16 && i < cols; i++) {
        memcpy(&u, &row[i], sizeof(u));
        u &= 0xffff0000;
        memcpy(&row[i], &u, sizeof(u));
    }

    kern_block_layout_ref(type, &values, &bytes);
    quant_row(raw, type, row, cols);

    return (size_t) cols / values * bytes;
}


/* Row r of a matrix; kind: 'e' embedding, 'h' head, 't' both, 'r' writes the
 * residual, 'w'. */
static void
tiny_row(tiny_t *t, float *row, uint32_t cols, uint32_t r, float scale,
    int kind)
{
    for (uint32_t c = 0; c < cols; c++) {
        row[c] = scale * tiny_normal(t);
    }

    if (kind == 'r' && r == 0) {
        memset(row, 0, cols * sizeof(float));
    }

    if (kind == 'e') {
        row[0] = 4;
    }

    if (kind == 'h' || kind == 't') {
        row[0] = tiny_printable(t, r) ? 0 : -2 * scale;
        row[0] = kind == 't' ? row[0] + 4 : row[0];
    }

    if ((kind == 'h' || kind == 't') && r < TINY_SPECIALS) {
        memset(row, 0, cols * sizeof(float));
        row[0] = -8;
    }
}


static void
tiny_matrix(tiny_t *t, const char *name, uint32_t type, uint32_t cols,
    uint32_t rows, float scale, int kind)
{
    type = quant_fit(type, cols);

    if (!tiny_tensor(t, name, type, cols, rows)) {
        return;
    }

    const uint32_t made = t->conf.repeat ? t->conf.repeat : rows;
    const uint32_t kept = t->conf.repeat ? t->conf.repeat : 1;
    float *row = malloc(cols * sizeof(float));
    uint8_t *raw = malloc((size_t) kept * cols * sizeof(float));
    size_t bytes = 0;

    if (row == NULL || raw == NULL) {
        t->out.failed = 1;
        rows = 0;
    }

    for (uint32_t r = 0; r < rows; r++) {
        uint8_t *at = raw + (size_t) (r % kept) * cols * sizeof(float);

        if (r < made) {
            tiny_row(t, row, cols, r, scale, kind);
            bytes = tiny_encode(type, row, cols, at);
        }

        tiny_out(t, at, bytes);
    }

    free(row);
    free(raw);
}


static float
tiny_inv_sqrt(float n)
{
    float y = n > 1 ? 1 / n : 1;

    for (int i = 0; i < 60; i++) {
        y = y * (1.5f - 0.5f * n * y * y);
    }

    return y;
}


static void
tiny_weights(tiny_t *t)
{
    static const uint32_t cycle[] = {
        TINY_Q4_1, TINY_Q4_0, TINY_Q8_0, TINY_Q5_0, TINY_Q4_1, TINY_Q5_1,
        TINY_BF16, TINY_Q4_1, TINY_F16, TINY_Q5_0, TINY_F32
    };
    const tiny_conf_t *c = &t->conf;
    uint32_t K = c->K ? c->K : c->D / c->H, mixed = c->type == TINY_MIXED;
    uint32_t embed = c->head ? c->head - 1 : mixed ? TINY_Q8_0 : c->type;
    uint32_t head = c->head ? c->head - 1 : mixed ? TINY_Q4_1 : c->type;
    float zero = 0;
    struct { const char *name; uint32_t cols, rows; float gain; int kind; }
        m[] = {
            { "attn_q", c->D, c->H * K, 2.0f, 'w' },
            { "attn_k", c->D, c->G * K, 2.0f, 'w' },
            { "attn_v", c->D, c->G * K, 1.5f, 'w' },
            { "attn_output", c->H * K, c->D, 1.5f, 'r' },
            { "ffn_gate", c->D, c->F, 2.0f, 'w' },
            { "ffn_up", c->D, c->F, 2.0f, 'w' },
            { "ffn_down", c->F, c->D, 1.5f, 'r' }
        };
    char name[80];

    tiny_matrix(t, "token_embd.weight", embed, c->D, c->V,
                c->tied ? 0.5f : 1, c->tied ? 't' : 'e');

    for (uint32_t l = 0; l < c->L; l++) {
        (void) snprintf(name, sizeof(name), "blk.%u.attn_norm.weight", l);
        tiny_norm(t, name);
        (void) snprintf(name, sizeof(name), "blk.%u.ffn_norm.weight", l);
        tiny_norm(t, name);

        for (uint32_t i = 0; i < 7; i++) {
            (void) snprintf(name, sizeof(name), "blk.%u.%s.weight", l,
                            m[i].name);
            tiny_matrix(t, name, mixed ? cycle[(l * 7 + i) % 11] : c->type,
                        m[i].cols, m[i].rows,
                        m[i].gain * tiny_inv_sqrt((float) m[i].cols),
                        m[i].kind);
        }
    }

    tiny_norm(t, "output_norm.weight");

    if (!c->tied) {
        tiny_matrix(t, "output.weight", head, c->D, c->V,
                    3 * tiny_inv_sqrt((float) c->D), 'h');
    }

    if (c->extra_tensor != NULL
        && tiny_tensor(t, c->extra_tensor, TINY_F32, 1, 1))
    {
        tiny_out(t, &zero, sizeof(zero));
    }

    if (c->rope_freqs && tiny_tensor(t, "rope_freqs.weight", TINY_F32,
                                     K / 2, 1))
    {
        for (uint32_t i = 0; i < K / 2; i++) {
            float f = 1 + (float) i;

            tiny_out(t, &f, sizeof(f));
        }
    }
}


/* GPT-2's alphabet: printable bytes stand for themselves, the others for
 * U+0100, U+0101, ... in order. */
static void
tiny_byte_text(unsigned byte, char out[4])
{
    unsigned cp = byte, shifted = 256;

    for (unsigned b = 0; b <= byte; b++) {
        int direct = (b >= 0x21 && b <= 0x7e) || (b >= 0xa1 && b <= 0xac)
                     || b >= 0xae;

        cp = direct ? b : shifted++;
    }

    if (cp < 0x80) {
        out[0] = (char) cp;
        out[1] = '\0';
        return;
    }

    out[0] = (char) (0xc0 | cp >> 6);
    out[1] = (char) (0x80 | (cp & 0x3f));
    out[2] = '\0';
}


/* Where a text is in the hash table, or where it belongs. */
static uint32_t *
tiny_find(const tiny_t *t, const char *text)
{
    uint32_t h = 2166136261u;

    for (const char *s = text; *s != '\0'; s++) {
        h = (h ^ (unsigned char) *s) * 16777619u;
    }

    for (;; h++) {
        uint32_t *slot = &t->slot[h & (t->n_slots - 1)];

        if (*slot == 0 || strcmp(t->token[*slot - 1], text) == 0) {
            return slot;
        }
    }
}


/* The token becomes the vocabulary's. */
static void
tiny_token(tiny_t *t, char *token)
{
    uint32_t *slot = tiny_find(t, token);

    t->token[t->n_tokens++] = token;
    *slot = t->n_tokens;
}


/* Adds the token left + right and the merge that makes it. */
static void
tiny_merge(tiny_t *t, const char *left, const char *right)
{
    size_t len = strlen(left) + strlen(right) + 2;
    char *token = malloc(len), *merge = malloc(len);

    if (token == NULL || merge == NULL) {
        t->meta.failed = 1;
        free(token);
        free(merge);
        return;
    }

    (void) snprintf(token, len, "%s%s", left, right);
    (void) snprintf(merge, len, "%s %s", left, right);

    if (t->n_tokens == t->conf.V || *tiny_find(t, token) != 0) {
        free(token);
        free(merge);
        return;
    }

    tiny_token(t, token);
    t->merge[t->n_merges++] = merge;
}


/* Merges that build a word from its first letter on; '_' is a space. */
static void
tiny_word(tiny_t *t, const char *word)
{
    char prefix[64] = "", piece[4];

    for (size_t i = 0; word[i] != '\0'; i++) {
        tiny_byte_text(word[i] == '_' ? ' ' : (unsigned char) word[i],
                       piece);

        if (i > 0) {
            tiny_merge(t, prefix, piece);
        }

        strcat(prefix, piece);
    }
}


static int
tiny_vocabulary(tiny_t *t)
{
    static const char *const specials[TINY_SPECIALS] = {
        "<|endoftext|>", "<|im_start|>", "<|im_end|>"
    };
    static const char *const words[] = {
        "_the", "_and", "_of", "_to", "in", "er", "on", "_model", "_river",
        "_light", "_stone", "_winter", "user", "system", "assistant",
        "_answer", "_little", "_house", "_water", "_green", "_never",
        "_always", "_where", "_under", "_people", "_morning", "_silver",
        "_window", "_garden", "_question", "_number", "_letter", "_hello",
        "_world", "Hello", "The", "What", "_is", "_was", "_a", "_I"
    };
    char text[4];

    for (t->n_slots = 1024; t->n_slots < 2 * t->conf.V; t->n_slots *= 2) {
        /* void */
    }

    t->token = calloc(t->conf.V, sizeof(char *));
    t->merge = calloc(t->conf.V, sizeof(char *));
    t->slot = calloc(t->n_slots, sizeof(uint32_t));

    if (t->token == NULL || t->merge == NULL || t->slot == NULL) {
        return 0;
    }

    for (uint32_t i = 0; i < TINY_SPECIALS + TINY_BYTES; i++) {
        if (i >= TINY_SPECIALS) {
            tiny_byte_text(i - TINY_SPECIALS, text);
        }

        char *token = strdup(i < TINY_SPECIALS ? specials[i] : text);

        if (token == NULL) {
            return 0;
        }

        tiny_token(t, token);
    }

    for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
        tiny_word(t, words[i]);
    }

    /* more tokens than words give: join two printable ones */
    while (t->n_tokens < t->conf.V && !t->meta.failed) {
        const char *one = t->token[tiny_random(t) % t->n_tokens];
        const char *two = t->token[tiny_random(t) % t->n_tokens];

        if (one[0] != '<' && two[0] != '<' && strlen(one) < 8
            && strlen(two) < 8 && (signed char) one[0] > 0
            && (signed char) two[0] > 0)
        {
            tiny_merge(t, one, two);
        }
    }

    return !t->meta.failed;
}


static void
tiny_kv_tokens(tiny_t *t)
{
    tiny_kv_str(t, "tokenizer.ggml.model", "gpt2", 4);
    tiny_kv_str(t, "tokenizer.ggml.pre", t->conf.pre, strlen(t->conf.pre));

    if (tiny_key(t, "tokenizer.ggml.tokens", 9)) {
        tiny_u32(&t->meta, 8);
        tiny_u64(&t->meta, t->n_tokens);

        for (uint32_t i = 0; i < t->n_tokens; i++) {
            tiny_strn(&t->meta, t->token[i], strlen(t->token[i]));
        }
    }

    if (tiny_key(t, "tokenizer.ggml.token_type", 9)) {
        tiny_u32(&t->meta, 5);
        tiny_u64(&t->meta, t->n_tokens);

        for (uint32_t i = 0; i < t->n_tokens; i++) {
            tiny_u32(&t->meta, i < TINY_SPECIALS ? 3 : 1);
        }
    }

    if (tiny_key(t, "tokenizer.ggml.merges", 9)) {
        tiny_u32(&t->meta, 8);
        tiny_u64(&t->meta, t->n_merges);

        for (uint32_t i = 0; i < t->n_merges; i++) {
            tiny_strn(&t->meta, t->merge[i], strlen(t->merge[i]));
        }
    }

    tiny_kv_u32(t, "tokenizer.ggml.bos_token_id", 1);
    tiny_kv_u32(t, "tokenizer.ggml.eos_token_id", 2);
    tiny_kv_u32(t, "tokenizer.ggml.unknown_token_id", 0);
    tiny_kv_u32(t, "tokenizer.ggml.padding_token_id", 2);
    tiny_kv_bool(t, "tokenizer.ggml.add_bos_token", 0);

    if (t->conf.tpl != NULL) {
        tiny_kv_str(t, "tokenizer.chat_template", t->conf.tpl,
                    t->conf.tpl_len);
    }
}


static void
tiny_metadata(tiny_t *t)
{
    const tiny_conf_t *c = &t->conf;
    const char *arch = c->arch ? c->arch : "llama";

    tiny_kv_str(t, "general.architecture", arch, strlen(arch));
    tiny_kv_str(t, "general.name", "tiny", 4);
    tiny_kv_u32(t, "general.alignment", 32);
    tiny_kv_u32(t, "llama.block_count", c->L);
    tiny_kv_u32(t, "llama.context_length", c->S);
    tiny_kv_u32(t, "llama.embedding_length", c->D);
    tiny_kv_u32(t, "llama.feed_forward_length", c->F);
    tiny_kv_u32(t, "llama.attention.head_count", c->H);
    tiny_kv_u32(t, "llama.attention.head_count_kv", c->G);
    tiny_kv_f32(t, "llama.attention.layer_norm_rms_epsilon", 1e-5f);
    tiny_kv_f32(t, "llama.rope.freq_base", 10000.0f);
    tiny_kv_u32(t, "llama.rope.dimension_count", c->K ? c->K : c->D / c->H);
    tiny_kv_u32(t, "llama.vocab_size", c->V);

    if (c->K) {
        tiny_kv_u32(t, "llama.attention.key_length", c->K);
        tiny_kv_u32(t, "llama.attention.value_length", c->K);
    }

    if (c->rope_scaling != NULL) {
        tiny_kv_str(t, "llama.rope.scaling.type", c->rope_scaling,
                    strlen(c->rope_scaling));
        tiny_kv_f32(t, "llama.rope.scaling.factor", c->rope_factor);
    }

    if (c->rope_original) {
        tiny_kv_u32(t, "llama.rope.scaling.original_context_length",
                    c->rope_original);
    }

    if (c->expert_count) {
        tiny_kv_u32(t, "llama.expert_count", c->expert_count);
    }
}


static void
tiny_release(tiny_t *t)
{
    for (uint32_t i = 0; t->token != NULL && i < t->n_tokens; i++) {
        free(t->token[i]);
    }

    for (uint32_t i = 0; t->merge != NULL && i < t->n_merges; i++) {
        free(t->merge[i]);
    }

    free(t->token);
    free(t->merge);
    free(t->slot);
    free(t->meta.p);
    free(t->infos.p);
}


/* V below 259 or above 2^24, widths that are no multiples of 32, H / G not
 * whole. */
static int
tiny_possible(const tiny_conf_t *c)
{
    uint32_t K = c->H ? (c->K ? c->K : c->D / c->H) : 0, values, bytes;

    kern_block_layout_ref(c->type, &values, &bytes);

    return (values != 0 || c->type == TINY_MIXED)
           && c->V >= TINY_SPECIALS + TINY_BYTES && c->V <= 1 << 24
           && c->L > 0 && K > 0 && c->G > 0 && c->H % c->G == 0
           && c->D % 32 == 0 && c->F > 0 && c->F % 32 == 0
           && c->H * K % 32 == 0 && K % 2 == 0;
}


/* The whole file into t->file or t->out; 0 when that failed. */
static int
tiny_make(tiny_t *t)
{
    static const char zeros[32];
    const uint32_t head[2] = { 0x46554747, 3 };
    uint64_t seed_after_words;

    if (tiny_vocabulary(t)) {
        tiny_metadata(t);
        tiny_kv_tokens(t);

        seed_after_words = t->rng;
        t->listing = 1;
        tiny_weights(t);
        t->listing = 0;
        t->rng = seed_after_words;

        const uint64_t counts[2] = { t->n_tensors, t->n_kv };

        tiny_out(t, head, sizeof(head));
        tiny_out(t, counts, sizeof(counts));
        tiny_out(t, t->meta.p, t->meta.len);
        tiny_out(t, t->infos.p, t->infos.len);
        tiny_out(t, zeros, (32 - (sizeof(head) + sizeof(counts) + t->meta.len
                                  + t->infos.len) % 32) % 32);
        t->data_len = 0;
        tiny_weights(t);

    } else {
        t->out.failed = 1;
    }

    int good = !t->out.failed && !t->meta.failed && !t->infos.failed;

    tiny_release(t);

    return good;
}


/* The whole file, malloc'd, the caller's; NULL when memory is short or the
 * shape is none. */
__attribute__((unused))
static void *
tiny_build(const tiny_conf_t *conf, size_t *len)
{
    tiny_t t = { .conf = *conf, .rng = conf->seed };

    if (!tiny_possible(conf)) {
        return NULL;
    }

    if (!tiny_make(&t)) {
        free(t.out.p);
        return NULL;
    }

    *len = t.out.len;

    return t.out.p;
}


/* The same into a file, a row at a time; 0 when that failed. */
__attribute__((unused))
static int
tiny_write(const tiny_conf_t *conf, FILE *f)
{
    tiny_t t = { .conf = *conf, .rng = conf->seed, .file = f };

    return tiny_possible(conf) && tiny_make(&t);
}

#endif
