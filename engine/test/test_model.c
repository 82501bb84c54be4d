/*
 * test_model.c: inspecting and loading generated models: sizes, each missing
 * or misshapen tensor, each key, RoPE scaling, progress and cancelling.
 */

#include "model/model_impl.h"
#include "tap.h"
#include "tool/tiny_gguf.h"

#include <math.h>
#include <sys/mman.h>
#include <unistd.h>

typedef struct {
    infer_gguf_t  *g;
    int            fd;
} opened_t;


static opened_t
open_tiny(const tiny_conf_t *conf)
{
    opened_t o = { NULL, memfd_create("model", MFD_CLOEXEC) };
    infer_err_t err = { 0, "" };
    size_t len = 0;
    void *file = tiny_build(conf, &len);

    if (file == NULL || o.fd < 0
        || pwrite(o.fd, file, len, 0) != (ssize_t) len
        || infer_gguf_open(&o.g, o.fd, &err) != INFER_OK)
    {
        printf("Bail out! no tiny model: %s\n", err.text);
        exit(1);
    }

    free(file);

    return o;
}


static void
close_tiny(opened_t *o)
{
    infer_gguf_close(o->g);
    close(o->fd);
}


static int
inspect(const tiny_conf_t *conf, infer_model_info_t *info, infer_err_t *err)
{
    opened_t o = open_tiny(conf);

    err->text[0] = '\0';

    int rc = infer_model_inspect(o.g, info, err);

    close_tiny(&o);

    return rc;
}


static void
test_info(void)
{
    infer_model_info_t i;
    infer_err_t err = { 0, "" };
    tiny_conf_t c = tiny_default;

    ok(inspect(&c, &i, &err) == INFER_OK, "a good model %s", err.text);
    ok(strcmp(i.arch, "llama") == 0 && strcmp(i.name, "tiny") == 0, "names");
    ok(i.n_layers == 2 && i.dim == 64 && i.n_heads == 4 && i.n_kv_heads == 2
       && i.head_dim == 16 && i.ffn == 128 && i.vocab == 512
       && i.rope_dim == 16 && i.train_context == 2048, "sizes");
    ok(fabsf(i.eps - 1e-5f) < 1e-9f, "eps");
    ok(i.n_params == 2 * 512 * 64 + 64
       + 2 * (2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 128 + 2 * 64),
       "parameters");
    ok(i.kv_token_bytes == 2 * 2 * 16 * 2 * 2, "bytes of KV");
    ok(i.tensor_bytes > 100000 && i.tensor_bytes < 150000,
       "bytes of tensors");

    c.tied = 1;
    c.K = 24;
    ok(inspect(&c, &i, &err) == INFER_OK && i.head_dim == 24,
       "tied, own head size %s", err.text);
    c.omit = "llama.attention.head_count_kv";
    c.G = 4;
    ok(inspect(&c, &i, &err) == INFER_OK && i.n_kv_heads == 4,
       "as many key heads as query heads by default");
    c.omit = "llama.context_length";
    ok(inspect(&c, &i, &err) == INFER_OK && i.train_context == 0,
       "no context length is fine");
}


static void
refused(const tiny_conf_t *c, int rc, const char *why, const char *what)
{
    infer_model_info_t info;
    infer_err_t err;
    int got = inspect(c, &info, &err);

    ok(got == rc && strstr(err.text, why) != NULL, "%s: %s", what, err.text);
}


static void
test_tensors(void)
{
    static const char *const name[] = {
        "token_embd.weight", "output_norm.weight", "blk.0.attn_norm.weight",
        "blk.0.attn_q.weight", "blk.1.attn_k.weight", "blk.1.attn_v.weight",
        "blk.0.attn_output.weight", "blk.1.ffn_norm.weight",
        "blk.0.ffn_gate.weight", "blk.0.ffn_up.weight",
        "blk.1.ffn_down.weight"
    };
    tiny_conf_t c;

    for (size_t i = 0; i < sizeof(name) / sizeof(name[0]); i++) {
        c = tiny_default;
        c.omit = name[i];
        refused(&c, INFER_CORRUPT, name[i], "missing");
        c.omit = NULL;
        c.misshape = name[i];
        refused(&c, INFER_CORRUPT, i == 0 ? "512 tokens" : name[i], "shape");
    }

    c = tiny_default;
    c.misshape = "output.weight";
    refused(&c, INFER_CORRUPT, "output.weight", "shape");


    opened_t o = open_tiny(&tiny_default);
    infer_model_info_t info;
    infer_err_t err;

    if (infer_model_inspect(o.g, &info, &err) == INFER_OK) {
        const infer_gguf_tensor_t *t;

        ok(infer_model_tensor(o.g, &info, MODEL_ROPE_FREQS, 0, &t, &err)
           == INFER_OK && t == NULL, "an optional tensor may be missing");
    }

    close_tiny(&o);
}


static void
test_keys(void)
{
    static const char *const needed[] = {
        "general.architecture", "llama.block_count",
        "llama.embedding_length", "llama.feed_forward_length",
        "llama.attention.head_count",
        "llama.attention.layer_norm_rms_epsilon"
    };
    tiny_conf_t c = tiny_default;

    for (size_t i = 0; i < sizeof(needed) / sizeof(needed[0]); i++) {
        c.omit = needed[i];
        refused(&c, INFER_CORRUPT, needed[i], "missing");
    }

    c = tiny_default;
    c.arch = "mamba";
    refused(&c, INFER_UNSUPPORTED, "\"mamba\"", "architecture");
    c = tiny_default;
    c.rope_scaling = "longrope";
    c.rope_factor = 4;
    refused(&c, INFER_UNSUPPORTED, "\"longrope\"", "scaling");
    c.rope_scaling = "linear";
    c.rope_factor = -1;
    refused(&c, INFER_CORRUPT, "rope.scaling.factor", "factor");
    c.rope_factor = NAN;
    refused(&c, INFER_CORRUPT, "rope.scaling.factor", "factor");
    c.rope_scaling = "yarn";
    c.rope_factor = 2;
    refused(&c, INFER_CORRUPT, "original_context_length", "yarn");
    c = tiny_default;
    c.expert_count = 8;
    refused(&c, INFER_UNSUPPORTED, "expert_count", "experts");
    c = tiny_default;
    c.retype = "blk.0.attn_q.weight";
    refused(&c, INFER_UNSUPPORTED, "IQ2_XXS", "type");
    c = tiny_default;
    c.extra_tensor = "blk.0.attn_q.bias";
    refused(&c, INFER_UNSUPPORTED, "attn_q.bias", "unknown tensor");
}


static int
rope_of(const tiny_conf_t *c, model_rope_t *rope)
{
    infer_model_info_t info;
    infer_err_t err = { 0, "" };
    opened_t o = open_tiny(c);
    int rc = infer_model_inspect(o.g, &info, &err);

    if (rc == INFER_OK) {
        rc = infer_model_rope(o.g, &info, rope, &err);
    }

    if (rc != INFER_OK) {
        diag("%s", err.text);
    }

    close_tiny(&o);

    return rc;
}


static void
test_rope(void)
{
    model_rope_t plain, r;
    tiny_conf_t c = tiny_default;
    int good = 1;

    ok(rope_of(&c, &plain) == INFER_OK && plain.attn_scale == 1,
       "no scaling");

    for (int i = 0; i < 8; i++) {
        good &= fabs(plain.inv_freq[i] - pow(10000, -i / 8.0)) < 1e-7;
    }

    ok(good, "frequencies");
    c.rope_scaling = "linear";
    c.rope_factor = 4;
    ok(rope_of(&c, &r) == INFER_OK && r.inv_freq[0] == 0.25f
       && fabsf(r.inv_freq[3] * 4 - plain.inv_freq[3]) < 1e-8f, "linear");

    /* wavelengths: dimension 0 turns 163 times in 1024 tokens, dimension 7
     * less than once */
    c.rope_scaling = "yarn";
    c.rope_original = 1024;
    ok(rope_of(&c, &r) == INFER_OK && r.inv_freq[0] == plain.inv_freq[0]
       && fabsf(r.inv_freq[7] * 4 - plain.inv_freq[7]) < 1e-8f
       && r.inv_freq[3] < plain.inv_freq[3]
       && r.inv_freq[3] > plain.inv_freq[3] / 4
       && fabs(r.attn_scale - (1 + 0.1 * log(4))) < 1e-6, "yarn");

    c = tiny_default;
    c.rope_freqs = 1;
    ok(rope_of(&c, &r) == INFER_OK && r.inv_freq[0] == 1
       && fabsf(r.inv_freq[5] * 6 - plain.inv_freq[5]) < 1e-8f, "divisors");
}


typedef struct {
    int  calls, last, falls, stop_at;
} watch_t;


static void
on_progress(void *arg, int percent)
{
    watch_t *w = arg;

    w->calls++;
    w->falls += percent < w->last;
    w->last = percent;
}


static int
on_cancel(void *arg)
{
    const watch_t *w = arg;

    return w->stop_at > 0 && w->calls >= w->stop_at;
}


static int
load(const kern_ops_t *ops, watch_t *w, uint32_t pages, infer_err_t *err)
{
    const infer_model_conf_t conf = {
        .context = 256, .max_rows = 8, .max_outs = 2, .max_seqs = 2,
        .n_pages = pages, .n_threads = 1, .progress = on_progress,
        .progress_arg = w, .cancelled = on_cancel
    };
    infer_model_t *m = NULL;
    opened_t o = open_tiny(&tiny_default);
    int rc = infer_model_load(&m, o.g, ops, &conf, err);

    close_tiny(&o);

    if (rc == INFER_OK) {
        ok(infer_model_ops(m) == ops && infer_model_ctx(m) != NULL
           && infer_model_info(m)->dim == 64, "what a model tells");
        infer_model_free(m);
    }

    return rc;
}


static void
test_load(void)
{
    infer_err_t err = { 0, "" };
    const kern_ops_t *ops = kern_init("cpu", "ref", &err);
    watch_t w = { 0, 0, 0, 0 };

    if (!ok(ops != NULL, "reference kernels %s", err.text)) {
        return;
    }

    ok(load(ops, &w, 16, &err) == INFER_OK, "loads %s", err.text);
    ok(w.calls == 21 && w.last == 100 && w.falls == 0, "progress to 100");
    w = (watch_t) { 0, 0, 0, 5 };
    ok(load(ops, &w, 16, &err) == INFER_CANCELLED && w.calls == 5,
       "cancelled: %s", err.text);
    ok(load(ops, &w, 0, &err) == INFER_INVALID, "no pages: %s", err.text);
    infer_model_free(NULL);
}


int
main(void)
{
    test_info();
    test_tensors();
    test_keys();
    test_rope();
    test_load();

    return tap_done();
}
