/*
 * tiny_gguf.h: builds a small but complete llama-architecture GGUF file in
 * memory: random weights from a seed, a byte-level BPE vocabulary and a chat
 * template. Shared by the tool make_tiny and by C tests, so all of it is
 * static. The same configuration gives the same bytes on every machine: no
 * libm call, no floating-point contraction.
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

enum {
    TINY_F32 = 0, TINY_F16 = 1, TINY_Q4_0 = 2, TINY_Q4_1 = 3, TINY_Q5_0 = 6,
    TINY_Q5_1 = 7, TINY_Q8_0 = 8, TINY_BF16 = 30, TINY_MIXED = 1000
};

#define TINY_SPECIALS  3                  /* ids 0, 1, 2 */
#define TINY_BYTES     256                /* ids 3 .. 258 */

typedef struct {
    uint64_t     seed;
    uint32_t     type;                    /* TINY_* */
    uint32_t     L, D, H, G, F, V, S;
    uint32_t     K;                       /* 0: D / H, and no key for it */
    int          tied;
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
    const char  *retype;                  /* it claims type 10; D, F % 256 == 0 */
} tiny_conf_t;

typedef struct {
    unsigned char  *p;
    size_t          len, cap;
    int             failed;               /* out of memory */
} tiny_buf_t;

typedef struct {
    tiny_conf_t   conf;
    tiny_buf_t    meta, infos, data;
    uint64_t      n_kv, n_tensors;
    uint64_t      rng;
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


/* Round to nearest, ties to even; no NaN comes here. */
static uint16_t
tiny_f16(float f)
{
    uint32_t u, sign, mant, half;
    int exp;

    memcpy(&u, &f, sizeof(u));
    sign = u >> 16 & 0x8000;
    exp = (int) (u >> 23 & 0xff) - 127;
    mant = (u & 0x7fffff) | 0x800000;

    if (exp > 15) {
        return (uint16_t) (sign | 0x7bff);
    }

    if (exp < -25) {
        return (uint16_t) sign;
    }

    int shift = exp < -14 ? 13 + (-14 - exp) : 13;
    uint32_t rest = mant & ((1u << shift) - 1), tie = 1u << (shift - 1);

    half = mant >> shift;
    half += rest > tie || (rest == tie && (half & 1));

    if (exp >= -14) {
        half += (uint32_t) (exp + 14) << 10;
    }

    return (uint16_t) (sign | (half > 0x7bff ? 0x7bff : half));
}


static int
tiny_round(float v, int lo, int hi)
{
    int q = (int) (v < 0 ? v - 0.5f : v + 0.5f);

    return q < lo ? lo : q > hi ? hi : q;
}


/* One block of 32 values of a quantized type. */
static void
tiny_quantize(tiny_buf_t *b, uint32_t type, const float *x)
{
    float lo = x[0], hi = x[0], top = 0;
    int q[32], levels = (type == TINY_Q4_0 || type == TINY_Q4_1) ? 16 : 32;
    int with_min = type == TINY_Q4_1 || type == TINY_Q5_1;
    uint32_t high = 0;
    unsigned char byte[32];

    for (int i = 0; i < 32; i++) {
        lo = x[i] < lo ? x[i] : lo;
        hi = x[i] > hi ? x[i] : hi;
        top = x[i] * x[i] > top * top ? x[i] : top;
    }

    float d = type == TINY_Q8_0 ? (top < 0 ? -top : top) / 127
              : with_min ? (hi - lo) / (float) (levels - 1)
              : top / (float) (-levels / 2);
    float inv = d != 0 ? 1 / d : 0;
    uint16_t half = tiny_f16(d);

    tiny_put(b, &half, sizeof(half));

    if (type == TINY_Q8_0) {
        for (int i = 0; i < 32; i++) {
            byte[i] = (unsigned char) tiny_round(x[i] * inv, -127, 127);
        }

        tiny_put(b, byte, 32);
        return;
    }

    if (with_min) {
        half = tiny_f16(lo);
        tiny_put(b, &half, sizeof(half));
    }

    for (int i = 0; i < 32; i++) {
        q[i] = with_min ? tiny_round((x[i] - lo) * inv, 0, levels - 1)
               : tiny_round(x[i] * inv + (float) (levels / 2), 0,
                            levels - 1);
        high |= (uint32_t) (q[i] >> 4) << i;
    }

    for (int i = 0; i < 16; i++) {
        byte[i] = (unsigned char) ((q[i] & 15) | (q[i + 16] & 15) << 4);
    }

    if (levels == 32) {
        tiny_u32(b, high);
    }

    tiny_put(b, byte, 16);
}


static void
tiny_encode(tiny_buf_t *b, uint32_t type, const float *x, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        uint16_t half;

        switch (type) {

        case TINY_F32:
            tiny_put(b, &x[i], sizeof(float));
            break;

        case TINY_F16:
            half = tiny_f16(x[i]);
            tiny_put(b, &half, sizeof(half));
            break;

        case TINY_BF16:
            memcpy(&half, (const char *) &x[i] + 2, sizeof(half));
            tiny_put(b, &half, sizeof(half));
            break;

        default:
            tiny_quantize(b, type, &x[i]);
            i += 31;
        }
    }
}


/* Lists a tensor and pads the data so that it can follow; 0 when the
 * configuration leaves it out. */
static int
tiny_tensor(tiny_t *t, const char *name, uint32_t type, uint32_t cols,
    uint32_t rows)
{
    static const char zeros[32];

    if (t->conf.omit != NULL && strcmp(t->conf.omit, name) == 0) {
        return 0;
    }

    if (t->conf.misshape != NULL && strcmp(t->conf.misshape, name) == 0) {
        rows > 1 ? rows-- : cols--;
    }

    if (t->conf.retype != NULL && strcmp(t->conf.retype, name) == 0) {
        type = 10;
    }

    tiny_put(&t->data, zeros, (32 - t->data.len % 32) % 32);
    tiny_strn(&t->infos, name, strlen(name));
    tiny_u32(&t->infos, rows > 1 ? 2 : 1);
    tiny_u64(&t->infos, cols);

    if (rows > 1) {
        tiny_u64(&t->infos, rows);
    }

    tiny_u32(&t->infos, type);
    tiny_u64(&t->infos, t->data.len);
    t->n_tensors++;

    return 1;
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

        tiny_put(&t->data, &w, sizeof(w));
    }
}


static int
tiny_printable(const tiny_t *t, uint32_t id)
{
    return id >= TINY_SPECIALS + TINY_BYTES
           || (id >= TINY_SPECIALS && t->token[id][1] == '\0');
}


/* kind: 'e' embedding, 'h' head, 't' both, 'r' writes the residual, 'w'. */
static void
tiny_matrix(tiny_t *t, const char *name, uint32_t type, uint32_t cols,
    uint32_t rows, float scale, int kind)
{
    float *row = malloc(cols * sizeof(float));

    if (row == NULL) {
        t->data.failed = 1;
        return;
    }

    if (!tiny_tensor(t, name, type, cols, rows)) {
        free(row);
        return;
    }

    for (uint32_t r = 0; r < rows; r++) {
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

        tiny_encode(&t->data, type, row, cols);
    }

    free(row);
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

    tiny_matrix(t, "token_embd.weight", mixed ? TINY_Q8_0 : c->type, c->D,
                c->V, c->tied ? 0.5f : 1, c->tied ? 't' : 'e');

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
        tiny_matrix(t, "output.weight", mixed ? TINY_Q4_1 : c->type, c->D,
                    c->V, 3 * tiny_inv_sqrt((float) c->D), 'h');
    }

    if (c->extra_tensor != NULL
        && tiny_tensor(t, c->extra_tensor, TINY_F32, 1, 1))
    {
        tiny_u32(&t->data, 0);
    }

    if (c->rope_freqs && tiny_tensor(t, "rope_freqs.weight", TINY_F32,
                                     K / 2, 1))
    {
        for (uint32_t i = 0; i < K / 2; i++) {
            float f = 1 + (float) i;

            tiny_put(&t->data, &f, sizeof(f));
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


static int
tiny_find(const tiny_t *t, const char *text)
{
    for (uint32_t i = 0; i < t->n_tokens; i++) {
        if (strcmp(t->token[i], text) == 0) {
            return (int) i;
        }
    }

    return -1;
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

    if (t->n_tokens == t->conf.V || tiny_find(t, token) >= 0) {
        free(token);
        free(merge);
        return;
    }

    t->token[t->n_tokens++] = token;
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

    t->token = calloc(t->conf.V, sizeof(char *));
    t->merge = calloc(t->conf.V, sizeof(char *));

    if (t->token == NULL || t->merge == NULL) {
        return 0;
    }

    for (uint32_t i = 0; i < TINY_SPECIALS + TINY_BYTES; i++) {
        if (i >= TINY_SPECIALS) {
            tiny_byte_text(i - TINY_SPECIALS, text);
        }

        t->token[i] = strdup(i < TINY_SPECIALS ? specials[i] : text);
        if (t->token[i] == NULL) {
            return 0;
        }

        t->n_tokens++;
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
    free(t->meta.p);
    free(t->infos.p);
    free(t->data.p);
}


/* The whole file, malloc'd, the caller's; NULL when memory is short or the
 * shape is none (V below 259, widths not multiples of 32, H / G not whole). */
__attribute__((unused))
static void *
tiny_build(const tiny_conf_t *conf, size_t *len)
{
    static const char zeros[32];
    tiny_t t = { .conf = *conf, .rng = conf->seed };
    tiny_buf_t out = { NULL, 0, 0, 0 };
    uint32_t K = conf->H ? (conf->K ? conf->K : conf->D / conf->H) : 0;

    if (conf->V < TINY_SPECIALS + TINY_BYTES || conf->L == 0 || K == 0
        || conf->G == 0 || conf->H % conf->G != 0 || conf->D % 32 != 0
        || conf->F == 0 || conf->F % 32 != 0 || conf->H * K % 32 != 0
        || K % 2 != 0)
    {
        return NULL;
    }

    if (tiny_vocabulary(&t)) {
        tiny_metadata(&t);
        tiny_kv_tokens(&t);
        tiny_weights(&t);

        tiny_u32(&out, 0x46554747);
        tiny_u32(&out, 3);
        tiny_u64(&out, t.n_tensors);
        tiny_u64(&out, t.n_kv);
        tiny_put(&out, t.meta.p, t.meta.len);
        tiny_put(&out, t.infos.p, t.infos.len);
        tiny_put(&out, zeros, (32 - out.len % 32) % 32);
        tiny_put(&out, t.data.p, t.data.len);
    }

    if (out.len == 0 || out.failed || t.meta.failed || t.infos.failed
        || t.data.failed)
    {
        free(out.p);
        out.p = NULL;
    }

    tiny_release(&t);
    *len = out.len;

    return out.p;
}

#endif
