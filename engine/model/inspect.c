/*
 * inspect.c: hyperparameters and tensors of a model file, checked without
 * reading a weight. Whatever the llama architecture of the file asks for
 * and we do not do is refused with a sentence, never ignored: a model that
 * loads computes what its maker meant.
 */

#include "model/model_impl.h"

#include <math.h>
#include <string.h>

#define MODEL_MAX_LAYERS    1024
#define MODEL_MAX_DIM       65536
#define MODEL_MAX_HEADS     1024
#define MODEL_MAX_HEAD_DIM  256
#define MODEL_MAX_FFN       (1u << 20)
#define MODEL_MAX_VOCAB     (1u << 22)

/* Which size of the model a dimension must have. */
enum {
    SIZE_ONE, SIZE_DIM, SIZE_Q, SIZE_KV, SIZE_FFN, SIZE_VOCAB,
    SIZE_ROPE_HALF
};

static const struct {
    const char  *name;            /* in a layer: after "blk.N." */
    uint8_t      cols, rows;      /* SIZE_* */
    uint8_t      optional;
    uint8_t      vector;          /* 1: must be F32, read as it is */
} model_tensor[MODEL_TENSORS] = {
    [MODEL_ATTN_NORM] = { "attn_norm.weight", SIZE_DIM, SIZE_ONE, 0, 1 },
    [MODEL_WQ] = { "attn_q.weight", SIZE_DIM, SIZE_Q, 0, 0 },
    [MODEL_WK] = { "attn_k.weight", SIZE_DIM, SIZE_KV, 0, 0 },
    [MODEL_WV] = { "attn_v.weight", SIZE_DIM, SIZE_KV, 0, 0 },
    [MODEL_WO] = { "attn_output.weight", SIZE_Q, SIZE_DIM, 0, 0 },
    [MODEL_FFN_NORM] = { "ffn_norm.weight", SIZE_DIM, SIZE_ONE, 0, 1 },
    [MODEL_GATE] = { "ffn_gate.weight", SIZE_DIM, SIZE_FFN, 0, 0 },
    [MODEL_UP] = { "ffn_up.weight", SIZE_DIM, SIZE_FFN, 0, 0 },
    [MODEL_DOWN] = { "ffn_down.weight", SIZE_FFN, SIZE_DIM, 0, 0 },
    [MODEL_EMBED] = { "token_embd.weight", SIZE_DIM, SIZE_VOCAB, 0, 0 },
    [MODEL_OUT_NORM] = { "output_norm.weight", SIZE_DIM, SIZE_ONE, 0, 1 },
    [MODEL_HEAD] = { "output.weight", SIZE_DIM, SIZE_VOCAB, 1, 0 },
    [MODEL_ROPE_FREQS] = { "rope_freqs.weight", SIZE_ROPE_HALF, SIZE_ONE, 1,
                           1 }
};


static uint64_t
model_size(const infer_model_info_t *info, int size)
{
    switch (size) {

    case SIZE_DIM:
        return info->dim;

    case SIZE_Q:
        return (uint64_t) info->n_heads * info->head_dim;

    case SIZE_KV:
        return (uint64_t) info->n_kv_heads * info->head_dim;

    case SIZE_FFN:
        return info->ffn;

    case SIZE_VOCAB:
        return info->vocab;

    case SIZE_ROPE_HALF:
        return info->rope_dim / 2;

    default:
        return 1;
    }
}


/* Names of file types that we do not run, for the sentence. */
static const char *
model_type_name(uint32_t type)
{
    static const char *const k[] = {
        [9] = "Q8_1", [16] = "IQ2_XXS", [17] = "IQ2_XS", [18] = "IQ3_XXS",
        [19] = "IQ1_S", [21] = "IQ3_S", [22] = "IQ2_S", [24] = "I8",
        [25] = "I16", [26] = "I32", [27] = "I64", [28] = "F64",
        [29] = "IQ1_M", [34] = "TQ1_0", [35] = "TQ2_0", [39] = "MXFP4"
    };

    return type < sizeof(k) / sizeof(k[0]) && k[type] != NULL
           ? k[type] : "of this number";
}


static int
model_check_type(const infer_gguf_tensor_t *t, int vector, infer_err_t *err)
{
    uint32_t values, bytes;

    kern_type_layout(t->type, &values, &bytes);

    if (values == 0) {
        return infer_err(err, INFER_UNSUPPORTED,
                         "tensor \"%s\" has type %u; type %s is not "
                         "supported (F32, F16, BF16, Q4_0, Q4_1, Q5_0, "
                         "Q5_1, Q8_0, Q2_K to Q6_K, Q8_K, IQ4_NL and IQ4_XS "
                         "are)", t->name, t->type,
                         model_type_name(t->type));
    }

    if (vector && t->type != KERN_F32) {
        return infer_err(err, INFER_UNSUPPORTED,
                         "tensor \"%s\" has type %s instead of F32", t->name,
                         kern_type_name(t->type));
    }

    if (t->bytes != t->dim[0] / values * bytes * t->dim[1]) {
        return infer_err(err, INFER_CORRUPT,
                         "tensor \"%s\" has %llu bytes, which its shape "
                         "does not give", t->name,
                         (unsigned long long) t->bytes);
    }

    return INFER_OK;
}


int
infer_model_tensor(const infer_gguf_t *g, const infer_model_info_t *info,
    int which, uint32_t l, const infer_gguf_tensor_t **t, infer_err_t *err)
{
    char name[80];

    if (which < MODEL_LAYER_TENSORS) {
        (void) snprintf(name, sizeof(name), "blk.%u.%s", l,
                        model_tensor[which].name);

    } else {
        (void) snprintf(name, sizeof(name), "%s", model_tensor[which].name);
    }

    *t = infer_gguf_tensor(g, name);

    if (*t == NULL) {
        return model_tensor[which].optional
               ? INFER_OK
               : infer_err(err, INFER_CORRUPT, "tensor \"%s\" is missing",
                           name);
    }

    uint64_t cols = model_size(info, model_tensor[which].cols);
    uint64_t rows = model_size(info, model_tensor[which].rows);

    if ((*t)->dim[0] != cols || (*t)->dim[1] != rows
        || (*t)->dim[2] != 1 || (*t)->dim[3] != 1)
    {
        return infer_err(err, INFER_CORRUPT,
                         "tensor \"%s\" has the shape %llu x %llu instead "
                         "of %llu x %llu", name,
                         (unsigned long long) (*t)->dim[0],
                         (unsigned long long) (*t)->dim[1],
                         (unsigned long long) cols,
                         (unsigned long long) rows);
    }

    return model_check_type(*t, model_tensor[which].vector, err);
}


/* A number of 1 .. max; a missing key takes def unless that is 0. */
static int
model_u32(const infer_gguf_t *g, const char *key, uint32_t max, uint32_t def,
    uint32_t *v, infer_err_t *err)
{
    const char *s;
    size_t len;
    uint32_t type;
    uint64_t n, count;
    double f;
    int b;

    if (infer_gguf_get_u64(g, key, &n)) {
        if (n < 1 || n > max) {
            return infer_err(err, INFER_UNSUPPORTED,
                             "key \"%s\" is %llu (1 to %u are supported)",
                             key, (unsigned long long) n, max);
        }

        *v = (uint32_t) n;
        return INFER_OK;
    }

    if (infer_gguf_get_array(g, key, &type, &count)) {
        return infer_err(err, INFER_UNSUPPORTED,
                         "key \"%s\" differs from layer to layer, which is "
                         "not supported", key);
    }

    if (infer_gguf_get_f64(g, key, &f) || infer_gguf_get_bool(g, key, &b)
        || infer_gguf_get_str(g, key, &s, &len))
    {
        return infer_err(err, INFER_CORRUPT,
                         "key \"%s\" is not a positive integer", key);
    }

    if (def == 0) {
        return infer_err(err, INFER_CORRUPT, "key \"%s\" is missing", key);
    }

    *v = def;

    return INFER_OK;
}


/* A finite number above 0; a missing key leaves *v alone. */
static int
model_f64(const infer_gguf_t *g, const char *key, double *v,
    infer_err_t *err)
{
    double f;

    if (!infer_gguf_get_f64(g, key, &f)) {
        return INFER_OK;
    }

    if (!(f > 0) || f > 1e12) {
        return infer_err(err, INFER_CORRUPT,
                         "key \"%s\" is %g, which is not a usable number",
                         key, f);
    }

    *v = f;

    return INFER_OK;
}


/* A string of the file, cut to size and printable. */
static void
model_text(const infer_gguf_t *g, const char *key, char *dst, size_t size)
{
    const char *s;
    size_t len, n = 0;

    if (infer_gguf_get_str(g, key, &s, &len)) {
        for (; n < len && n < size - 1; n++) {
            dst[n] = ((unsigned char) s[n] >= 0x20 && s[n] != 0x7f)
                     ? s[n] : '?';
        }

        /* a UTF-8 sequence is kept whole or dropped */
        while (n < len && n > 0 && (s[n] & 0xc0) == 0x80) {
            n--;
        }
    }

    dst[n] = '\0';
}


/* Keys that change what the architecture computes. */
static int
model_refuse_variants(const infer_gguf_t *g, infer_err_t *err)
{
    static const char *const key[] = {
        "llama.expert_count", "llama.attention.sliding_window",
        "llama.attention.clamp_kqv", "llama.attention.max_alibi_bias",
        "llama.rope.scaling.yarn_log_multiplier"
    };
    uint64_t n;
    double f;

    for (size_t i = 0; i < sizeof(key) / sizeof(key[0]); i++) {
        if ((infer_gguf_get_u64(g, key[i], &n) && n != 0)
            || (infer_gguf_get_f64(g, key[i], &f) && f != 0))
        {
            return infer_err(err, INFER_UNSUPPORTED,
                             "key \"%s\" is set, which is not supported",
                             key[i]);
        }
    }

    return INFER_OK;
}


static int
model_sizes(const infer_gguf_t *g, infer_model_info_t *info,
    infer_err_t *err)
{
    uint32_t value_length;
    double eps = 0;
    int rc;

    if ((rc = model_u32(g, "llama.block_count", MODEL_MAX_LAYERS, 0,
                        &info->n_layers, err))
        || (rc = model_u32(g, "llama.embedding_length", MODEL_MAX_DIM, 0,
                           &info->dim, err))
        || (rc = model_u32(g, "llama.attention.head_count", MODEL_MAX_HEADS,
                           0, &info->n_heads, err))
        || (rc = model_u32(g, "llama.attention.head_count_kv",
                           MODEL_MAX_HEADS, info->n_heads,
                           &info->n_kv_heads, err))
        || (rc = model_u32(g, "llama.feed_forward_length", MODEL_MAX_FFN, 0,
                           &info->ffn, err)))
    {
        return rc;
    }

    uint32_t k = info->dim / info->n_heads;

    if ((rc = model_u32(g, "llama.attention.key_length", MODEL_MAX_HEAD_DIM,
                        k, &info->head_dim, err))
        || (rc = model_u32(g, "llama.attention.value_length",
                           MODEL_MAX_HEAD_DIM, info->head_dim,
                           &value_length, err))
        || (rc = model_u32(g, "llama.rope.dimension_count", info->head_dim,
                           info->head_dim, &info->rope_dim, err))
        || (rc = model_f64(g, "llama.attention.layer_norm_rms_epsilon", &eps,
                           err)))
    {
        return rc;
    }

    if (value_length != info->head_dim) {
        return infer_err(err, INFER_UNSUPPORTED,
                         "key \"llama.attention.value_length\" is %u, but "
                         "keys have %u", value_length, info->head_dim);
    }

    if (eps == 0 || eps >= 1) {
        return infer_err(err, INFER_CORRUPT,
                         "key \"llama.attention.layer_norm_rms_epsilon\" is "
                         "missing or too large");
    }

    info->eps = (float) eps;

    return INFER_OK;
}


static int
model_check_sizes(const infer_model_info_t *info, infer_err_t *err)
{
    uint64_t q = (uint64_t) info->n_heads * info->head_dim;

    if (info->n_heads % info->n_kv_heads != 0) {
        return infer_err(err, INFER_UNSUPPORTED,
                         "%u query heads cannot share %u key heads evenly",
                         info->n_heads, info->n_kv_heads);
    }

    if (info->head_dim > MODEL_MAX_HEAD_DIM || info->head_dim % 2 != 0
        || info->rope_dim % 2 != 0)
    {
        return infer_err(err, INFER_UNSUPPORTED,
                         "heads of %u values with %u of them rotated are "
                         "not supported (even numbers up to %u are)",
                         info->head_dim, info->rope_dim,
                         MODEL_MAX_HEAD_DIM);
    }

    if (info->dim % 32 != 0 || info->ffn % 32 != 0 || q % 32 != 0) {
        return infer_err(err, INFER_UNSUPPORTED,
                         "widths that are not multiples of 32 are not "
                         "supported: embedding %u, feed-forward %u, heads "
                         "%llu", info->dim, info->ffn,
                         (unsigned long long) q);
    }

    return INFER_OK;
}


/* The vocabulary is what the embedding has rows for. */
static int
model_vocab(const infer_gguf_t *g, infer_model_info_t *info,
    infer_err_t *err)
{
    const infer_gguf_tensor_t *t = infer_gguf_tensor(g, "token_embd.weight");
    uint64_t n;
    uint32_t type;

    if (t == NULL) {
        return infer_err(err, INFER_CORRUPT,
                         "tensor \"token_embd.weight\" is missing");
    }

    if (t->dim[1] < 2 || t->dim[1] > MODEL_MAX_VOCAB) {
        return infer_err(err, INFER_UNSUPPORTED,
                         "tensor \"token_embd.weight\" has %llu rows (2 to "
                         "%u are supported)", (unsigned long long) t->dim[1],
                         MODEL_MAX_VOCAB);
    }

    info->vocab = (uint32_t) t->dim[1];

    if (infer_gguf_get_array(g, "tokenizer.ggml.tokens", &type, &n)
        && n != info->vocab)
    {
        return infer_err(err, INFER_CORRUPT,
                         "the tokenizer has %llu tokens, but tensor "
                         "\"token_embd.weight\" has %u rows",
                         (unsigned long long) n, info->vocab);
    }

    return INFER_OK;
}


/* 1: a tensor name that the walk below looks up. */
static int
model_known(const infer_model_info_t *info, const char *name)
{
    unsigned l;
    int used = 0, in_layer = sscanf(name, "blk.%5u.%n", &l, &used) == 1
                             && used > 0 && l < info->n_layers;

    for (int i = 0; i < MODEL_TENSORS; i++) {
        int layered = i < MODEL_LAYER_TENSORS;

        if (layered == in_layer
            && strcmp(name + (in_layer ? used : 0), model_tensor[i].name)
               == 0)
        {
            return 1;
        }
    }

    return 0;
}


static int
model_count(const infer_gguf_t *g, infer_model_info_t *info, int which,
    uint32_t l, infer_err_t *err)
{
    const infer_gguf_tensor_t *t;
    int rc = infer_model_tensor(g, info, which, l, &t, err);

    if (rc == INFER_OK && t != NULL) {
        info->n_params += t->dim[0] * t->dim[1];
        info->tensor_bytes += t->bytes;
    }

    return rc;
}


static int
model_tensors(const infer_gguf_t *g, infer_model_info_t *info,
    infer_err_t *err)
{
    int rc;

    for (int i = MODEL_LAYER_TENSORS; i < MODEL_TENSORS; i++) {
        if ((rc = model_count(g, info, i, 0, err)) != INFER_OK) {
            return rc;
        }
    }

    for (uint32_t l = 0; l < info->n_layers; l++) {
        for (int i = 0; i < MODEL_LAYER_TENSORS; i++) {
            if ((rc = model_count(g, info, i, l, err)) != INFER_OK) {
                return rc;
            }
        }
    }

    for (uint64_t i = 0; i < infer_gguf_n_tensors(g); i++) {
        const char *name = infer_gguf_tensor_at(g, i)->name;

        if (!model_known(info, name)) {
            return infer_err(err, INFER_UNSUPPORTED,
                             "tensor \"%s\" is not one that this "
                             "architecture is run with", name);
        }
    }

    return INFER_OK;
}


int
infer_model_inspect(infer_gguf_t *gguf, infer_model_info_t *info,
    infer_err_t *err)
{
    model_rope_t rope;
    uint64_t context = 0;
    int rc;

    memset(info, 0, sizeof(*info));
    model_text(gguf, "general.architecture", info->arch, sizeof(info->arch));
    model_text(gguf, "general.name", info->name, sizeof(info->name));

    if (info->arch[0] == '\0') {
        return infer_err(err, INFER_CORRUPT,
                         "key \"general.architecture\" is missing");
    }

    if (strcmp(info->arch, "llama") != 0) {
        return infer_err(err, INFER_UNSUPPORTED,
                         "architecture \"%s\" is not supported (\"llama\" "
                         "is)", info->arch);
    }

    if ((rc = model_refuse_variants(gguf, err)) != INFER_OK
        || (rc = model_sizes(gguf, info, err)) != INFER_OK
        || (rc = model_check_sizes(info, err)) != INFER_OK
        || (rc = model_vocab(gguf, info, err)) != INFER_OK
        || (rc = model_tensors(gguf, info, err)) != INFER_OK)
    {
        return rc;
    }

    if (infer_gguf_get_u64(gguf, "llama.context_length", &context)
        && context <= UINT32_MAX)
    {
        info->train_context = (uint32_t) context;
    }

    info->kv_token_bytes = 4ull * info->n_layers * info->n_kv_heads
                           * info->head_dim;

    return infer_model_rope(gguf, info, &rope, err);
}


/* YaRN (Peng et al. 2023, "YaRN: Efficient Context Window Extension"): fast
 * dimensions keep their frequency, slow ones are divided by the factor, with
 * a ramp between the two wavelengths beta. */
static int
model_yarn(const infer_gguf_t *g, const infer_model_info_t *info,
    double base, double factor, double *freq, double *scale,
    infer_err_t *err)
{
    double original = 0, fast = 32, slow = 1, mult = 1;
    double d = info->rope_dim;
    int rc;

    if ((rc = model_f64(g, "llama.rope.scaling.original_context_length",
                        &original, err))
        || (rc = model_f64(g, "llama.rope.scaling.yarn_beta_fast", &fast,
                           err))
        || (rc = model_f64(g, "llama.rope.scaling.yarn_beta_slow", &slow,
                           err))
        || (rc = model_f64(g, "llama.rope.scaling.attn_factor", &mult, err)))
    {
        return rc;
    }

    if (original == 0 || base <= 1) {
        return infer_err(err, INFER_CORRUPT,
                         "key \"llama.rope.scaling.original_context_length\""
                         " is needed for yarn");
    }

    double low = floor(d * log(original / (fast * 2 * M_PI))
                       / (2 * log(base)));
    double high = ceil(d * log(original / (slow * 2 * M_PI))
                       / (2 * log(base)));

    low = fmax(low, 0);
    high = fmin(high, d - 1);

    for (uint32_t i = 0; i < info->rope_dim / 2; i++) {
        double ramp = (i - low) / fmax(high - low, 0.001);

        ramp = fmin(fmax(ramp, 0), 1);
        freq[i] = freq[i] / factor * ramp + freq[i] * (1 - ramp);
    }

    *scale = mult * (1 + 0.1 * log(fmax(factor, 1)));

    return INFER_OK;
}


/* Per-dimension divisors, as files for Llama 3.1 and later have them. */
static int
model_rope_divisors(const infer_gguf_t *g, const infer_model_info_t *info,
    double *freq, infer_err_t *err)
{
    const infer_gguf_tensor_t *t;
    float div[MODEL_MAX_HEAD_DIM / 2];
    uint32_t n = info->rope_dim / 2;
    int rc = infer_model_tensor(g, info, MODEL_ROPE_FREQS, 0, &t, err);

    if (rc != INFER_OK || t == NULL) {
        return rc;
    }

    if (infer_gguf_read(g, t, div, n * sizeof(float), 0) != INFER_OK) {
        return infer_err(err, INFER_CORRUPT, "cannot read tensor \"%s\"",
                         t->name);
    }

    for (uint32_t i = 0; i < n; i++) {
        if (!(div[i] > 0) || isinf(div[i])) {
            return infer_err(err, INFER_CORRUPT,
                             "tensor \"%s\" has the value %g", t->name,
                             (double) div[i]);
        }

        freq[i] /= div[i];
    }

    return INFER_OK;
}


int
infer_model_rope(const infer_gguf_t *g, const infer_model_info_t *info,
    model_rope_t *rope, infer_err_t *err)
{
    double freq[MODEL_MAX_HEAD_DIM / 2];
    double base = 10000, factor = 1, scale = 1;
    const char *type = "none";
    size_t len = 4;
    int rc;

    if ((rc = model_f64(g, "llama.rope.freq_base", &base, err)) != INFER_OK
        || (rc = model_f64(g, "llama.rope.scale_linear", &factor, err))
           != INFER_OK
        || (rc = model_f64(g, "llama.rope.scaling.factor", &factor, err))
           != INFER_OK)
    {
        return rc;
    }

    if (!infer_gguf_get_str(g, "llama.rope.scaling.type", &type, &len)
        && factor != 1)
    {
        type = "linear";
        len = 6;
    }

    for (uint32_t i = 0; i < info->rope_dim / 2; i++) {
        freq[i] = pow(base, -2.0 * i / info->rope_dim);
    }

    if (len == 6 && memcmp(type, "linear", 6) == 0) {
        for (uint32_t i = 0; i < info->rope_dim / 2; i++) {
            freq[i] /= factor;
        }

    } else if (len == 4 && memcmp(type, "yarn", 4) == 0) {
        rc = model_yarn(g, info, base, factor, freq, &scale, err);

    } else if (len != 4 || memcmp(type, "none", 4) != 0) {
        char shown[32];

        model_text(g, "llama.rope.scaling.type", shown, sizeof(shown));
        return infer_err(err, INFER_UNSUPPORTED,
                         "key \"llama.rope.scaling.type\" is \"%s\" "
                         "(\"none\", \"linear\" and \"yarn\" are supported)",
                         shown);
    }

    if (rc != INFER_OK
        || (rc = model_rope_divisors(g, info, freq, err)) != INFER_OK)
    {
        return rc;
    }

    for (uint32_t i = 0; i < info->rope_dim / 2; i++) {
        rope->inv_freq[i] = (float) freq[i];
    }

    rope->attn_scale = (float) scale;

    return INFER_OK;
}
