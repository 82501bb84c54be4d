/*
 * test_cuda_step.cpp: the host side of the CUDA backend by its table: a
 * small random model against the CPU's q8 definition, graphs against single
 * launches, one bucket against another, two steps under way, memory, and
 * what happens when a call of the CUDA API fails.
 */

#include "cuda_test.h"
#include "cuda_ops.h"

#define N_LAYERS  2
#define N_MATS    7
#define N_PAGES   24
#define SEQ_PAGES 3

typedef struct {
    kern_shape_t                       shape;
    std::vector<kern_tensor_t>         list;
    std::vector<std::vector<uint8_t>>  raw;    /* embedding, then layers */
    std::vector<std::vector<float>>    norm;
    std::vector<float>                 freq;
} model_t;

/* A model on one backend. */
typedef struct {
    const kern_ops_t              *ops;
    const model_t                 *m;
    kern_ctx_t                    *c;
    std::vector<kern_weight_t *>   w;
    std::vector<uint32_t>          pages;
} run_t;


static int
model_read(void *arg, void *buf, size_t len, uint64_t off)
{
    memcpy(buf, (const uint8_t *) arg + off, len);
    return INFER_OK;
}

static void
model_add(model_t *m, uint32_t type, uint32_t n_out, uint32_t n_in)
{
    m->list.push_back({ type, n_out, n_in });
    m->raw.push_back(test_tensor(type, n_out, n_in, 3 / sqrtf((float) n_in)));
}

static void
model_make(model_t *m, uint32_t type, uint32_t heads, uint32_t groups,
    uint32_t head_dim)
{
    kern_shape_t  s;

    memset(&s, 0, sizeof(s));
    s.n_layers = N_LAYERS;
    s.dim = 256;
    s.n_heads = heads;
    s.n_kv_heads = groups;
    s.head_dim = head_dim;
    s.ffn = 512;
    s.vocab = 512;
    s.rope_dim = head_dim;
    s.rope_attn_scale = 1;
    s.eps = 1e-5f;
    s.max_rows = 48;
    s.max_outs = 8;
    s.max_seqs = 8;
    s.context = SEQ_PAGES * KERN_PAGE_TOKENS;
    s.n_pages = N_PAGES;
    s.n_threads = 2;
    m->shape = s;

    for (uint32_t i = 0; i < head_dim / 2; i++) {
        m->freq.push_back((float) pow(10000, -2.0 * i / head_dim));
    }

    model_add(m, type, s.vocab, s.dim);
    for (int l = 0; l < N_LAYERS; l++) {
        model_add(m, type, heads * head_dim, s.dim);
        model_add(m, type, groups * head_dim, s.dim);
        model_add(m, type, groups * head_dim, s.dim);
        model_add(m, type, s.dim, heads * head_dim);
        model_add(m, type, s.ffn, s.dim);
        model_add(m, type, s.ffn, s.dim);
        model_add(m, type, s.dim, s.ffn);
    }
    for (int l = 0; l < 2 * N_LAYERS + 1; l++) {
        m->norm.push_back(test_floats(s.dim, 2));
    }
}

static void
run_close(run_t *r)
{
    for (kern_weight_t *w : r->w) {
        r->ops->weight_free(r->c, w);
    }
    r->w.clear();
    if (r->c != NULL) {
        r->ops->close(r->c);
    }
    r->c = NULL;
}

/* Opens, packs, zeroes the pages; on failure everything is given back. */
static int
run_open(run_t *r, const kern_ops_t *ops, const model_t *m, infer_err_t *err)
{
    int           rc;
    kern_shape_t  s = m->shape;

    s.rope_inv_freq = m->freq.data();
    s.tensor = m->list.data();
    s.n_tensors = (uint32_t) m->list.size();
    r->ops = ops;
    r->m = m;
    r->c = NULL;
    rc = ops->open(&r->c, ops, &s, err);

    for (size_t i = 0; rc == INFER_OK && i < m->list.size(); i++) {
        kern_weight_t  *w = NULL;
        kern_src_t      src = { m->list[i].type, m->list[i].n_out,
                                m->list[i].n_in, model_read,
                                (void *) m->raw[i].data() };

        rc = ops->pack(r->c, &w, &src, err);
        if (rc == INFER_OK) {
            r->w.push_back(w);
        }
    }

    if (rc != INFER_OK) {
        run_close(r);
        return rc;
    }

    r->pages.resize(N_PAGES);
    for (uint32_t i = 0; i < N_PAGES; i++) {
        r->pages[i] = (i * 7 + 3) % N_PAGES;
        if (ops->n_pages == NULL || i < ops->n_pages(r->c)) {
            ops->kv_zero(r->c, i);
        }
    }
    return INFER_OK;
}

/* Everything of a step up to the head. */
static int
run_record(run_t *r, const kern_batch_t *b)
{
    int  rc = r->ops->begin(r->c, b);

    rc = rc ? rc : r->ops->embed(r->c, r->w[0]);
    for (uint32_t l = 0; rc == 0 && l < N_LAYERS; l++) {
        kern_weight_t  **w = &r->w[1 + l * N_MATS];
        kern_layer_t     layer = { r->m->norm[2 * l].data(), w[0], w[1], w[2],
                                   w[3], r->m->norm[2 * l + 1].data(), w[4],
                                   w[5], w[6] };

        rc = r->ops->attn(r->c, l, &layer);
        rc = rc ? rc : r->ops->ffn(r->c, l, &layer);
    }
    return rc ? rc : r->ops->head(r->c, r->m->norm[2 * N_LAYERS].data(),
                                  r->w[0]);
}

static int
run_step(run_t *r, const kern_batch_t *b)
{
    int  rc = run_record(r, b);

    rc = rc ? rc : r->ops->submit(r->c);
    return rc ? rc : r->ops->wait(r->c);
}

/* Sequence i of a batch, from row `row` on. */
static kern_seq_t
run_seq(const run_t *r, uint32_t i, uint32_t row, uint32_t n, uint32_t pos)
{
    return { row, n, pos, &r->pages[i * SEQ_PAGES] };
}

/* The token of sequence i at a position: the same in every test. */
static int32_t
token_at(uint32_t i, uint32_t pos)
{
    return (int32_t) ((i * 131 + pos * 57 + 11) % 512);
}

static std::vector<float>
run_logits(run_t *r, uint32_t n)
{
    const uint32_t      v = r->m->shape.vocab;
    std::vector<float>  all;

    for (uint32_t i = 0; i < n; i++) {
        float  *l = r->ops->logits(r->c, i);

        if (l == NULL) {
            all.insert(all.end(), v, NAN);
        } else {
            all.insert(all.end(), l, l + v);
        }
    }
    return all;
}

/* Prompts of n[i] tokens in one step; logits of each one's last. */
static std::vector<float>
run_prefill(run_t *r, const std::vector<uint32_t> &n)
{
    uint32_t                 rows = 0;
    std::vector<int32_t>     token;
    std::vector<kern_seq_t>  seq;
    std::vector<uint32_t>    out;

    for (uint32_t i = 0; i < n.size(); i++) {
        seq.push_back(run_seq(r, i, rows, n[i], 0));
        for (uint32_t k = 0; k < n[i]; k++) {
            token.push_back(token_at(i, k));
        }
        rows += n[i];
        out.push_back(rows - 1);
    }

    kern_batch_t  b = { rows, token.data(), (uint32_t) seq.size(), seq.data(),
                        (uint32_t) out.size(), out.data() };

    return run_step(r, &b) == INFER_OK ? run_logits(r, b.n_outs)
                                       : std::vector<float>();
}

/* One token of each of sequences first .. first + n - 1 at pos. */
static std::vector<float>
run_decode(run_t *r, uint32_t first, uint32_t n, uint32_t pos)
{
    std::vector<int32_t>     token;
    std::vector<kern_seq_t>  seq;
    std::vector<uint32_t>    out;

    for (uint32_t i = 0; i < n; i++) {
        seq.push_back(run_seq(r, first + i, i, 1, pos));
        token.push_back(token_at(first + i, pos));
        out.push_back(i);
    }

    kern_batch_t  b = { n, token.data(), n, seq.data(), n, out.data() };

    return run_step(r, &b) == INFER_OK ? run_logits(r, n)
                                       : std::vector<float>();
}

/* Root of the mean square of the difference over that of b. */
static double
distance(const std::vector<float> &a, const std::vector<float> &b)
{
    double  d = 0, n = 0;

    if (a.size() != b.size() || a.empty()) {
        return 1e9;
    }
    for (size_t i = 0; i < a.size(); i++) {
        d += ((double) a[i] - b[i]) * ((double) a[i] - b[i]);
        n += (double) b[i] * b[i];
    }
    return sqrt(d / n);
}

static bool
same(const std::vector<float> &a, const std::vector<float> &b)
{
    return a.size() == b.size() && !a.empty()
           && memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

/* ---- against the CPU ---- */

/* Linears have the definition's bits; attention rounds differently in the
 * last place, which moves a quantized activation by one now and then: 1 % of
 * an activation block's scale each. */
#define NEAR  0.03

static void
test_reference(uint32_t type, uint32_t heads, uint32_t groups, uint32_t dim,
    uint32_t kv_type)
{
    double       far = 0;
    run_t        cpu, gpu;
    model_t      m;
    infer_err_t  err = { 0, "" };

    model_make(&m, type, heads, groups, dim);
    m.shape.kv_type = kv_type;

    if (run_open(&cpu, kern_init("cpu", "ref-q8", &err), &m, &err)
        || run_open(&gpu, &cu_ops, &m, &err))
    {
        ok(0, "%s: %s", kern_type_name(type), err.text);
        return;
    }

    const std::vector<uint32_t>  n = { 17, 1, 30 };

    far = distance(run_prefill(&gpu, n), run_prefill(&cpu, n));
    ok(far < NEAR, "%s, heads %u / %u of %u, kv %s: prompts (%.4f)",
       kern_type_name(type), heads, groups, dim, kern_kv_name(kv_type), far);

    far = 0;
    for (uint32_t pos = 30; pos < 33; pos++) {
        /* only the third has keys up to there; the others a hole of zeros,
         * which both see */
        double  d = distance(run_decode(&gpu, 0, 3, pos),
                             run_decode(&cpu, 0, 3, pos));

        far = d > far ? d : far;
    }
    ok(far < NEAR, "then decoding across a page (%.4f)", far);
    run_close(&cpu);
    run_close(&gpu);
}

/* ---- graphs, buckets, order ---- */

static void
test_graphs(void)
{
    run_t        a, b;
    model_t      m;
    infer_err_t  err = { 0, "" };
    bool         equal = true, bucket = true;

    model_make(&m, KERN_Q4_0, 4, 1, 64);
    if (run_open(&a, &cu_ops, &m, &err) || run_open(&b, &cu_ops, &m, &err)) {
        ok(0, "open: %s", err.text);
        return;
    }
    cu_use_graphs(b.c, 0);

    const std::vector<uint32_t>  n = { 5, 5, 5, 5, 5 };

    equal = same(run_prefill(&a, n), run_prefill(&b, n));
    ok(equal, "a prompt is the same in two contexts");

    for (uint32_t pos = 5; pos < 9; pos++) {
        for (uint32_t k = 1; k <= 5; k += 2) {
            equal &= same(run_decode(&a, 0, k, pos),
                          run_decode(&b, 0, k, pos));
        }
    }
    ok(equal, "graphs give the bits of single launches");
    ok(cu_graph_launches(a.c) == 12 && cu_graph_launches(b.c) == 0,
       "and were used where they should be");

    for (uint32_t pos = 9; pos < 12; pos++) {
        std::vector<float>  all = run_decode(&a, 0, 5, pos);

        for (uint32_t i = 0; i < 5; i++) {
            std::vector<float>  one = run_decode(&a, i, 1, pos);

            bucket &= all.size() == 5 * one.size()
                      && memcmp(&all[i * one.size()], one.data(),
                                one.size() * sizeof(float)) == 0;
        }
    }
    ok(bucket, "no bit depends on the bucket");
    run_close(&a);
    run_close(&b);
}

/* A prompt before decoding sequences in the batch, as the scheduler has it
 * when the prompt came first. */
static void
test_mixed(void)
{
    run_t        a, b;
    model_t      m;
    infer_err_t  err = { 0, "" };

    model_make(&m, KERN_Q8_0, 4, 2, 64);
    if (run_open(&a, &cu_ops, &m, &err) || run_open(&b, &cu_ops, &m, &err)) {
        ok(0, "open: %s", err.text);
        return;
    }

    const std::vector<uint32_t>  n = { 4, 4 };
    run_prefill(&a, n);
    run_prefill(&b, n);

    int32_t       token[9];
    kern_seq_t    seq[3] = { run_seq(&a, 2, 0, 7, 0), run_seq(&a, 0, 7, 1, 4),
                             run_seq(&a, 1, 8, 1, 4) };
    uint32_t      out[3] = { 6, 7, 8 };
    kern_batch_t  batch = { 9, token, 3, seq, 3, out };

    for (uint32_t i = 0; i < 7; i++) {
        token[i] = token_at(2, i);
    }
    token[7] = token_at(0, 4);
    token[8] = token_at(1, 4);

    ok(run_step(&a, &batch) == INFER_OK, "a prompt before decoding rows");
    std::vector<float>  mixed = run_logits(&a, 3);
    std::vector<float>  apart = run_decode(&b, 0, 2, 4);
    const size_t        v = m.shape.vocab;

    ok(mixed.size() == 3 * v && apart.size() == 2 * v
       && memcmp(&mixed[v], apart.data(), 2 * v * sizeof(float)) == 0,
       "outputs keep the batch's order, decoding its bits");
    run_close(&a);
    run_close(&b);
}

/* ---- two steps under way, sampled on the device ---- */

static int
sample_greedy(run_t *r, uint32_t n)
{
    infer_sampling_t            p;
    std::vector<kern_sample_t>  list(n);

    memset(&p, 0, sizeof(p));
    p.top_p = 1;
    p.repetition_penalty = 1;
    p.logprobs = 1;
    for (uint32_t i = 0; i < n; i++) {
        memset(&list[i], 0, sizeof(list[i]));
        list[i].out = i;
        list[i].params = &p;
    }
    return r->ops->sample(r->c, list.data(), n);
}

/* Submits a decode step of two sequences whose tokens are given or those of
 * the step before. */
static int
submit_two(run_t *r, uint32_t pos, int32_t t0, int32_t t1)
{
    int32_t       token[2] = { t0, t1 };
    kern_seq_t    seq[2] = { run_seq(r, 0, 0, 1, pos),
                             run_seq(r, 1, 1, 1, pos) };
    uint32_t      out[2] = { 0, 1 };
    kern_batch_t  b = { 2, token, 2, seq, 2, out };
    int           rc = run_record(r, &b);

    rc = rc ? rc : sample_greedy(r, 2);
    return rc ? rc : r->ops->submit(r->c);
}

static void
test_pipeline(void)
{
    int          rc;
    run_t        a, b;
    model_t      m;
    infer_err_t  err = { 0, "" };
    bool         equal = true;
    int32_t      id[2] = { 3, 4 };
    uint32_t     pos;

    model_make(&m, KERN_Q4_0, 4, 1, 64);
    if (run_open(&a, &cu_ops, &m, &err) || run_open(&b, &cu_ops, &m, &err)) {
        ok(0, "open: %s", err.text);
        return;
    }

    /* a: one after the other; b: always one ahead */
    rc = submit_two(&b, 0, 3, 4);
    for (pos = 0; rc == INFER_OK && pos < 6; pos++) {
        rc = submit_two(&a, pos, id[0], id[1]);
        rc = rc ? rc : a.ops->wait(a.c);
        rc = rc ? rc : submit_two(&b, pos + 1, KERN_TOKEN_OF(0),
                                  KERN_TOKEN_OF(1));
        rc = rc ? rc : b.ops->wait(b.c);

        for (uint32_t i = 0; rc == INFER_OK && i < 2; i++) {
            const kern_sampled_t  *x = a.ops->sampled(a.c, i);
            const kern_sampled_t  *y = b.ops->sampled(b.c, i);
            int32_t  best = kern_init("cpu", NULL, NULL)->argmax(
                                a.ops->logits(a.c, i), m.shape.vocab);

            equal &= x->rc == INFER_OK && y->rc == INFER_OK && x->id == y->id
                     && x->id == best && x->logprob == y->logprob
                     && x->logprob < 0;
            id[i] = x->id;
        }
    }
    ok(rc == INFER_OK && equal,
       "a step submitted before the last is read samples the same");
    ok(b.ops->wait(b.c) == INFER_OK, "and the one under way ends");
    run_close(&a);
    run_close(&b);
}

/* ---- memory and devices ---- */

static void
test_memory(void)
{
    run_t        r;
    model_t      m;
    infer_err_t  err = { 0, "" };
    uint64_t     page;

    model_make(&m, KERN_Q4_0, 4, 1, 64);
    page = cu_ops.kv_page_bytes(&m.shape);

    ok(run_open(&r, &cu_ops, &m, &err) == INFER_OK
       && cu_ops.n_pages(r.c) == N_PAGES, "all pages when there is room");
    run_close(&r);

    m.shape.gpu_bytes = 1000;
    ok(run_open(&r, &cu_ops, &m, &err) == INFER_DEVICE
       && strstr(err.text, "too little memory") != NULL
       && strstr(err.text, " 1000 of ") != NULL, "%s", err.text);

    unsigned long long  need = 0;
    const char         *p = strstr(err.text, "too little memory: ");

    if (p != NULL) {
        need = strtoull(p + strlen("too little memory: "), NULL, 10);
    }
    m.shape.gpu_bytes = need;
    ok(run_open(&r, &cu_ops, &m, &err) == INFER_OK
       && cu_ops.n_pages(r.c) == SEQ_PAGES, "what it asked for is enough");
    run_close(&r);
    m.shape.gpu_bytes = need + 4 * page;
    ok(run_open(&r, &cu_ops, &m, &err) == INFER_OK
       && cu_ops.n_pages(r.c) == SEQ_PAGES + 4, "more becomes pages (%u)",
       r.c != NULL ? cu_ops.n_pages(r.c) : 0);
    run_close(&r);
    m.shape.gpu_bytes = need - 1;
    ok(run_open(&r, &cu_ops, &m, &err) == INFER_DEVICE, "less is not");

    m.shape.gpu_bytes = 1ull << 60;
    ok(run_open(&r, &cu_ops, &m, &err) == INFER_DEVICE
       && strstr(err.text, "are free on CUDA device") != NULL, "%s",
       err.text);

    m.shape.gpu_bytes = 0;
    m.shape.device = 77;
    ok(run_open(&r, &cu_ops, &m, &err) == INFER_DEVICE
       && strstr(err.text, "there is no CUDA device 77") != NULL, "%s",
       err.text);
}

#ifdef SIMT_EMU

static void
test_devices(void)
{
    static const struct {
        const char  *spec, *text;
    } dev[] = {
        { "nodriver", "there is no NVIDIA driver" },
        { "olddriver", "the NVIDIA driver is too old: it knows CUDA 11.8" },
        { "none", "the NVIDIA driver finds no CUDA device" },
        { "cc=75", "is too old: its compute capability is 7.5" },
        { "mem=100k", "has too little memory" }
    };
    run_t        r;
    model_t      m;
    infer_err_t  err;

    model_make(&m, KERN_Q4_0, 4, 1, 64);

    for (size_t i = 0; i < N_OF(dev); i++) {
        ok(simt::rt_device(dev[i].spec)
           && run_open(&r, &cu_ops, &m, &err) == INFER_DEVICE
           && strstr(err.text, dev[i].text) != NULL, "%s", err.text);
        simt::rt_reset_errors();
    }
    simt::rt_device(NULL);
}

/* Loads, runs a prompt and two decode steps of one sequence. */
static int
fail_run(const model_t *m, infer_err_t *err)
{
    int          rc;
    run_t        r;
    const char  *why;

    rc = run_open(&r, &cu_ops, m, err);
    if (rc != INFER_OK) {
        return rc;
    }

    if (run_prefill(&r, { 6 }).empty() || run_decode(&r, 0, 1, 6).empty()
        || run_decode(&r, 0, 1, 7).empty() || submit_two(&r, 8, 1, 2) != 0
        || r.ops->wait(r.c) != INFER_OK
        || r.ops->logits(r.c, 0) == NULL)
    {
        rc = INFER_DEVICE;
        why = r.ops->error(r.c);
        infer_err(err, rc, "%s", why != NULL ? why : "");
    }
    run_close(&r);
    return rc;
}

#define CLOSE_SYNCS  4            /* waits of close(), which tells nobody */

/* Each call of each API fails once: nothing is left, a sentence is there. A
 * kernel that fails breaks the device for the whole process, in which even
 * cudaFree() fails then: t/150-cuda.t has that. */
static void
test_failures(void)
{
    static const char *const  api[] = {
        "cudaSetDevice", "cudaGetDeviceCount", "cudaGetDeviceProperties",
        "cudaMemGetInfo", "cudaMalloc", "cudaHostAlloc", "cudaMemset",
        "cudaMemsetAsync", "cudaMemset2DAsync", "cudaMemcpy",
        "cudaMemcpyAsync", "cudaMemcpy2DAsync", "cudaStreamCreateWithFlags",
        "cudaEventCreateWithFlags", "cudaEventRecord",
        "cudaEventSynchronize", "cudaStreamWaitEvent",
        "cudaStreamSynchronize", "cudaDeviceSynchronize",
        "cudaStreamBeginCapture",
        "cudaStreamEndCapture", "cudaGraphInstantiate", "cudaGraphLaunch",
        "cudaLaunchKernelExC"
    };
    long         leaks = simt::rt_leaks();
    model_t      m;
    infer_err_t  err;

    model_make(&m, KERN_Q4_0, 4, 1, 64);

    for (size_t i = 0; i < N_OF(api); i++) {
        bool  fine = true;
        long  before, calls, step, tried = 0;

        before = simt::rt_calls(api[i]);
        err.text[0] = 0;
        fine &= fail_run(&m, &err) == INFER_OK;
        calls = simt::rt_calls(api[i]) - before;
        if (strcmp(api[i], "cudaStreamSynchronize") == 0) {
            calls -= CLOSE_SYNCS;
        }
        /* calls in a loop are all alike: some of them */
        step = calls > 12 ? calls / 6 : 1;

        for (long nth = 1; nth <= calls; nth += step, tried++) {
            err.text[0] = 0;
            simt::rt_fail(api[i], (int) nth);
            if (fail_run(&m, &err) == INFER_OK || err.text[0] == 0
                || simt::rt_leaks() != leaks)
            {
                diag("%s, call %ld of %ld: \"%s\", %ld left", api[i], nth,
                     calls, err.text, simt::rt_leaks() - leaks);
                fine = false;
            }
            simt::rt_reset_errors();
        }
        ok(fine, "%s fails, %ld of %ld calls", api[i], tried, calls);
    }
}

/* A step that only decodes: 7 kernels a layer (8 of q8: gate_up.cu) and 3
 * beside them, and no call per kernel once there is a graph. */
static void
test_counts(uint32_t type, uint32_t precision)
{
    const long   layer = precision == KERN_PREC_Q8 ? 8 : 7;
    long         kernels, launches;
    run_t        r;
    model_t      m;
    infer_err_t  err = { 0, "" };

    model_make(&m, type, 4, 1, 64);
    m.shape.precision = precision;
    if (run_open(&r, &cu_ops, &m, &err) != INFER_OK) {
        ok(0, "open: %s", err.text);
        return;
    }
    for (uint32_t pos = 0; pos < 4; pos++) {
        run_decode(&r, 0, 4, pos);
    }
    kernels = simt::rt_calls("kernel");
    launches = simt::rt_calls("cudaLaunchKernelExC");
    run_decode(&r, 0, 4, 4);
    kernels = simt::rt_calls("kernel") - kernels;
    launches = simt::rt_calls("cudaLaunchKernelExC") - launches;
    ok(kernels == layer * N_LAYERS + 3, "%s, %s: %ld kernels a step, %ld L + 3",
       kern_type_name(type), kern_prec_name(precision), kernels, layer);
    ok(launches == 0, "none of them launched by itself (%ld)", launches);
    run_close(&r);
}

#endif

static void
all(TestDev &t)
{
    (void) t;
    test_reference(KERN_Q4_0, 4, 1, 64, KERN_KV_F16);
    if (!test_quick()) {
        test_reference(KERN_Q4_1, 3, 1, 64, KERN_KV_Q8);
        test_reference(KERN_Q4_K, 4, 2, 64, KERN_KV_Q8);
        test_reference(KERN_Q6_K, 4, 1, 128, KERN_KV_BF16);
    }
    test_graphs();
    test_mixed();
    test_pipeline();
}

int
main(int argc, char **argv)
{
    test_begin(argc, argv);
    test_schedules(all);
    test_memory();
#ifdef SIMT_EMU
    test_counts(KERN_Q4_0, KERN_PREC_Q8);
    test_counts(KERN_Q6_K, KERN_PREC_Q8);
    test_counts(KERN_Q4_1, KERN_PREC_W4A16);
    test_counts(KERN_BF16, KERN_PREC_BF16);
    if (!test_quick()) {
        test_devices();
        test_failures();
    }
#endif
    return test_end();
}
