/*
 * test_cuda_sample.cpp: cu_sample() against infer_sample() itself: the same
 * token, code and logprob bits, for random requests and logits of every ugly
 * kind, for any number of blocks a row, as single launches, with padding
 * between the rows, and from a graph.
 *
 * test_cuda_sample [SEED]; INFER_QUICK=1 for a few cases.
 */

#include <cuda_runtime.h>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

extern "C" {
#include "run/sample.h"
}
#include "cuda.h"

#define MAX_ROWS  5
#define MAX_BIAS  24

/* A request, its sampler and its logits. */
struct Row {
    infer_sampling_t       p;
    uint32_t               choice, n_bias, n_stop, n_eog, n_prompt, n_out;
    infer_bias_t           bias[MAX_BIAS];
    int32_t                stop[8], eog[2], prompt[48], output[48];
    bool                   masked, skipped;
    std::vector<uint32_t>  mask;
    std::vector<float>     logits;
    infer_sampler_t       *sampler;
};

static uint64_t           rng;
static int                n_tests, n_failed;
static const kern_ops_t  *ops;
static cu_dev_t           dev;

static void
ok(bool good, const char *what)
{
    n_tests++;
    n_failed += !good;
    printf("%sok %d - %s\n", good ? "" : "not ", n_tests, what);
}

static uint64_t
rnd()
{
    rng ^= rng << 13;
    rng ^= rng >> 7;
    rng ^= rng << 17;
    return rng;
}

static uint32_t
below(uint32_t n)
{
    return (uint32_t) ((rnd() >> 11) % n);
}

static float
unit()
{
    return (float) (rnd() >> 40) * 0x1p-24f;
}

static float
gauss()
{
    return sqrtf(-2 * logf(unit() + 1e-9f)) * cosf(6.2831853f * unit());
}

template <size_t N>
static float
any(const float (&of)[N])
{
    return of[below(N)];
}


/* ---- random cases ---- */

static void
make_logits(std::vector<float> &l, uint32_t vocab)
{
    const float     spread = any({ 0.01f, 1, 3, 3, 10, 40, 1e6f, 1e30f });
    const uint32_t  kind = below(12);

    l.resize(vocab);
    for (uint32_t i = 0; i < vocab; i++) {
        float  x = gauss() * spread;

        switch (kind) {
        case 0: x = floorf(x * 2) / 2; break;
        case 1: x = (float) below(3) - 1; break;
        case 2: x = i % 7 == 0 ? -0.0f : 0.0f; break;
        case 3: x = (float) i * spread / (float) vocab; break;
        case 4: x = -(float) (i / 4) * 0.01f; break;
        case 5: x = below(4) == 0 ? x : -INFINITY; break;
        case 6: x = below(50) == 0 ? x + 8 * spread : x; break;
        default: break;
        }
        l[i] = x;
    }
    if (kind == 7) {
        l[below(vocab)] = 12 * spread;
    }
    switch (below(40)) {
    case 0: l[below(vocab)] = NAN; break;
    case 1: l[below(vocab)] = INFINITY; break;
    case 2: l[below(vocab)] = 3.4e38f; break;
    case 3: l.assign(vocab, -INFINITY); break;
    case 4: l[below(vocab)] = -NAN; break;
    default: break;
    }
}

static void
make_filters(infer_sampling_t *p, uint32_t vocab)
{
    p->temperature = any({ 0, 0.7f, 1, 1, 1.3f, 5, 1e-3f, 1e-30f, 1e-45f, 1e6f });
    p->top_p = any({ 1, 1, 0.95f, 0.9f, 0.5f, 0.1f, 1e-6f, 0, 0.999999f });
    p->min_p = any({ 0, 0, 0, 0.01f, 0.05f, 0.5f, 1, 1e-9f, 1e-30f });
    p->top_k = -1;
    switch (below(8)) {
    case 0: p->top_k = 0; break;
    case 1: p->top_k = 1; break;
    case 2: p->top_k = 2 + (int32_t) below(60); break;
    case 3: p->top_k = 1 + (int32_t) below(vocab); break;
    case 4: p->top_k = (int32_t) (vocab + below(3)) - 1; break;
    default: break;
    }
    p->seed = rnd();
}

static void
make_edits(Row &r, uint32_t vocab, bool masked)
{
    infer_sampling_t  *p = &r.p;

    if (below(3) == 0) {
        p->repetition_penalty = any({ 1, 1.1f, 0.5f, 1e-30f, 1e30f });
        p->presence_penalty = any({ 0, 0.5f, -2, 3e38f });
        p->frequency_penalty = any({ 0, 0.2f, -1, 3e38f, -3e38f });
    }
    if (below(3) == 0) {
        r.n_bias = below(MAX_BIAS) + 1;
        for (uint32_t i = 0; i < r.n_bias; i++) {
            r.bias[i].id = (int32_t) below(vocab < 12 ? vocab : 12);
            r.bias[i].bias = any({ 1, -1, 100, -100, 0.25f, -INFINITY, INFINITY, 3e38f });
        }
    }
    if (below(4) == 0) {
        p->min_tokens = below(60);
    }
    r.n_stop = below(9);
    for (uint32_t i = 0; i < r.n_stop; i++) {
        r.stop[i] = (int32_t) below(vocab < 9 ? vocab : 9);
    }
    r.n_eog = below(3);
    for (uint32_t i = 0; i < r.n_eog; i++) {
        r.eog[i] = (int32_t) below(vocab);
    }
    r.masked = masked || below(6) == 0;
}

static void
make_row(Row &r, uint32_t vocab, bool masked)
{
    infer_bias_t  bias[INFER_MAX_LOGIT_BIAS];
    uint32_t      n = 0;

    r.p = infer_sampling_t();
    r.p.repetition_penalty = 1;
    r.p.max_tokens = 64;
    r.n_bias = r.n_stop = r.n_eog = r.n_prompt = 0;
    r.choice = below(3);
    r.skipped = below(8) == 0;
    make_logits(r.logits, vocab);
    make_filters(&r.p, vocab);
    make_edits(r, vocab, masked);
    r.p.logprobs = below(3) == 0;
    r.p.top_logprobs = below(3) == 0 ? below(INFER_MAX_TOP_LOGPROBS + 1) : 0;

    r.n_prompt = below(49);
    for (uint32_t i = 0; i < r.n_prompt; i++) {
        r.prompt[i] = (int32_t) below(vocab < 40 ? vocab : 40);
    }
    r.n_out = below(49);
    for (uint32_t i = 0; i < r.n_out; i++) {
        r.output[i] = (int32_t) below(vocab < 30 ? vocab : 30);
    }

    /* infer_sample() has no mask: ids that it leaves out, which are few, have a bias of -inf
     * there, in front, and what is banned stays so */
    r.mask.assign(KERN_MASK_WORDS(vocab), 0);
    for (uint32_t i = 0; r.masked && i < vocab; i++) {
        if (n == INFER_MAX_LOGIT_BIAS - MAX_BIAS || below(3 + vocab / 64) != 0) {
            r.mask[i / 32] |= 1u << i % 32;
        } else {
            bias[n].id = (int32_t) i;
            bias[n++].bias = -INFINITY;
        }
    }
    for (uint32_t i = 0; i < r.n_bias; i++) {
        bias[n++] = r.bias[i];
    }
    if (infer_sampler_new(&r.sampler, &r.p, r.choice, vocab, bias, n, r.stop, r.n_stop, r.eog,
                          r.n_eog, r.prompt, r.n_prompt) != INFER_OK)
    {
        abort();
    }
    for (uint32_t i = 0; i < r.n_out; i++) {
        infer_sampler_accept(r.sampler, r.output[i]);
    }
}


/* ---- device side ---- */

template <class T>
struct Buf {
    T       *p = NULL;
    size_t   n = 0;

    void
    room(size_t want)
    {
        if (want > n) {
            cudaFree(p);
            if (cudaMalloc((void **) &p, want * sizeof(T)) != cudaSuccess) {
                abort();
            }
            n = want;
        }
    }

    void
    put(const T *from, size_t k)
    {
        room(k);
        cudaMemcpy(p, from, k * sizeof(T), cudaMemcpyHostToDevice);
        cudaDeviceSynchronize();   /* other streams do not wait for it */
    }

    void
    get(T *to, size_t k)
    {
        cudaMemcpy(to, p, k * sizeof(T), cudaMemcpyDeviceToHost);
    }

    ~Buf()
    {
        cudaFree(p);
    }
};

struct Device {
    Buf<float>         logits;
    Buf<cu_sample_t>   sample;
    Buf<kern_edit_t>   edit;
    Buf<uint32_t>      mask;
    Buf<int32_t>       out_row, sampled;
    Buf<cu_sampled_t>  out;
    Buf<uint8_t>       work;
};

/* The rows' requests and logits to the device. host: what sample holds. */
static void
upload(Device &d, const std::vector<Row> &rows, uint32_t vocab, std::vector<cu_sample_t> &host)
{
    std::vector<float>        logits;
    std::vector<kern_edit_t>  edit(1), all(1);
    std::vector<uint32_t>     mask(1);
    std::vector<int32_t>      out_row;
    uint32_t                  n_edits = 0, n_words = 0;

    host.assign(rows.size(), cu_sample_t());
    for (size_t i = 0; i < rows.size(); i++) {
        kern_sample_t  s;
        const Row     &r = rows[i];

        edit.resize(infer_sampler_edits(r.sampler) + 1);
        infer_sampler_export(r.sampler, 0, edit.data(), &s);
        if (r.masked) {
            /* its biases of -inf are the mask's business here */
            s.edit += s.n_bias - r.n_bias;
            s.n_bias = r.n_bias;
            s.mask = r.mask.data();
        }
        all.resize(all.size() + edit.size());
        mask.resize(mask.size() + r.mask.size());
        cu_sample_pack(&s, vocab, &host[i], all.data(), &n_edits, mask.data(), &n_words);
        logits.insert(logits.end(), r.logits.begin(), r.logits.end());
        out_row.push_back(r.skipped ? -1 : (int32_t) i);
    }

    std::vector<cu_sampled_t>  poison(rows.size());
    std::vector<int32_t>       none(rows.size(), -77);

    memset((void *) poison.data(), 0xa5, poison.size() * sizeof(poison[0]));
    d.logits.put(logits.data(), logits.size());
    d.sample.put(host.data(), host.size());
    d.edit.put(all.data(), all.size());
    d.mask.put(mask.data(), mask.size());
    d.out_row.put(out_row.data(), out_row.size());
    d.sampled.put(none.data(), none.size());
    d.out.put(poison.data(), poison.size());
}

static int
sample(Device &d, uint32_t vocab, uint32_t n)
{
    return cu_sample(&dev, d.logits.p, vocab, n, d.out_row.p, d.sample.p, d.edit.p, d.mask.p,
                     d.sampled.p, d.out.p, d.work.p);
}

/* One row as infer_sample() has it; 0 when the device's differs. */
static int
same(const Row &r, uint32_t vocab, const cu_sample_t *s, const cu_sampled_t *out, int32_t id)
{
    std::vector<float>    l = r.logits;
    std::vector<uint8_t>  scratch(infer_sample_scratch(vocab));
    infer_sampled_t       want;
    kern_sampled_t        got;
    int                   rc = infer_sample(r.sampler, ops, l.data(), scratch.data(), &want);

    if (r.skipped) {
        return id == -77;
    }
    cu_sample_unpack(out, s, &got);
    if (rc != got.rc) {
        printf("# rc %d, device %d\n", rc, got.rc);
        return 0;
    }
    if (rc != INFER_OK) {
        return id == 0;
    }
    if (want.id != got.id || want.id != id
        || memcmp(&want.logprob, &got.logprob, sizeof(float)) != 0
        || memcmp(want.top, got.top, r.p.top_logprobs * sizeof(want.top[0])) != 0)
    {
        printf("# id %d %.9g, device %d %d %.9g; T %g k %d p %g min %g top %u edits %u %u %u\n",
               want.id, (double) want.logprob, got.id, id, (double) got.logprob,
               (double) r.p.temperature, r.p.top_k, (double) r.p.top_p, (double) r.p.min_p,
               r.p.top_logprobs, s->n_bias, s->n_ban, s->n_seen);
        return 0;
    }
    return 1;
}

/* The logits come back as they were. */
static int
compare(Device &d, const std::vector<Row> &rows, uint32_t vocab,
    const std::vector<cu_sample_t> &host)
{
    std::vector<cu_sampled_t>  out(rows.size());
    std::vector<int32_t>       ids(rows.size());
    std::vector<float>         logits(rows.size() * vocab);
    int                        good = 1;

    cudaDeviceSynchronize();
    d.out.get(out.data(), out.size());
    d.sampled.get(ids.data(), ids.size());
    d.logits.get(logits.data(), logits.size());
    for (size_t i = 0; i < rows.size(); i++) {
        good &= same(rows[i], vocab, &host[i], &out[i], ids[i]);
        good &= memcmp(&logits[i * vocab], rows[i].logits.data(), vocab * sizeof(float)) == 0;
    }
    return good;
}

static void
make_rows(std::vector<Row> &rows, uint32_t vocab, uint32_t n, bool masked = false)
{
    rows.resize(n);
    for (Row &r : rows) {
        make_row(r, vocab, masked);
    }
}

static void
free_rows(std::vector<Row> &rows)
{
    for (Row &r : rows) {
        infer_sampler_free(r.sampler);
    }
}

/* Work memory as the host makes it. */
static void
room(Device &d, uint32_t vocab)
{
    size_t                n = cu_sample_work(MAX_ROWS, vocab);
    std::vector<uint8_t>  zero(n, 0);

    d.work.put(zero.data(), n);
}


/* ---- tests ---- */

static void
test_random(uint32_t vocab, uint32_t n_cases)
{
    Device                    d;
    int                       good = 1;
    char                      name[80];
    std::vector<Row>          rows;
    std::vector<cu_sample_t>  host;

    room(d, vocab);
    for (uint32_t c = 0; c < n_cases && good; c++) {
        /* at first masked rows of one block each */
        make_rows(rows, vocab, c == 0 ? MAX_ROWS : 1 + below(MAX_ROWS), c == 0);
        dev.n_sms = c == 0 ? 1 : 1 + (int) below(60);
        upload(d, rows, vocab, host);
        good = sample(d, vocab, (uint32_t) rows.size()) == INFER_OK
               && compare(d, rows, vocab, host);
        free_rows(rows);
    }
    snprintf(name, sizeof(name), "vocabulary %u, %u batches", vocab, n_cases);
    ok(good, name);
}

/* Logits as a model makes them, and n of these rows from row `from` on: more candidates than the
 * list holds, a list of more than shared memory holds, few blocks for many tokens. */
static void
test_large(uint32_t vocab, float spread, uint32_t from, uint32_t n, int n_sms)
{
    static const struct {
        float     top_p;
        int32_t   top_k;
        float     min_p, penalty;
        uint32_t  top;
    } as[] = {
        { 1, 0, 0, 1, 0 }, { 0.95f, 0, 0, 1.2f, 0 }, { 0.999f, 0, 0, 1, 20 },
        { 1, 20000, 0, 1, 0 }, { 0.9f, 40, 0.01f, 1, 0 }, { 0.95f, 9000, 0, 1, 0 },
        { 0.999f, 20000, 0, 1, 0 }
    };
    Device                    d;
    int                       good = 1;
    char                      name[80];
    std::vector<Row>          rows;
    std::vector<cu_sample_t>  host;

    room(d, vocab);
    make_rows(rows, vocab, n);
    for (uint32_t i = 0; i < n; i++) {
        rows[i].p.temperature = 0.9f;
        rows[i].p.top_p = as[from + i].top_p;
        rows[i].p.top_k = as[from + i].top_k;
        rows[i].p.min_p = as[from + i].min_p;
        rows[i].p.min_tokens = 0;
        rows[i].p.repetition_penalty = as[from + i].penalty;
        rows[i].p.presence_penalty = rows[i].p.frequency_penalty = 0;
        rows[i].p.logprobs = 1;
        rows[i].p.top_logprobs = as[from + i].top;
        rows[i].skipped = rows[i].masked = false;
        rows[i].n_bias = 0;
        for (float &x : rows[i].logits) {
            x = gauss() * spread;
        }
        infer_sampler_free(rows[i].sampler);
        if (infer_sampler_new(&rows[i].sampler, &rows[i].p, 0, vocab, NULL, 0, NULL, 0, NULL, 0,
                              rows[i].prompt, rows[i].n_prompt) != INFER_OK)
        {
            abort();
        }
    }
    dev.n_sms = n_sms;
    upload(d, rows, vocab, host);
    good = sample(d, vocab, n) == INFER_OK && compare(d, rows, vocab, host);
    free_rows(rows);
    snprintf(name, sizeof(name), "vocabulary %u, spread %g, %d SMs", vocab, (double) spread,
             n_sms);
    ok(good, name);
}

/* One graph serves whatever comes. */
static void
test_graph(uint32_t n_cases)
{
    const uint32_t            vocab = 700;
    Device                    d;
    int                       good;
    cudaStream_t              stream;
    cudaGraph_t               graph;
    cudaGraphExec_t           exec;
    std::vector<Row>          rows;
    std::vector<cu_sample_t>  host;

    room(d, vocab);
    d.edit.room(MAX_ROWS * 2048);
    d.mask.room(MAX_ROWS * KERN_MASK_WORDS(vocab) + 1);
    d.logits.room(MAX_ROWS * vocab);
    d.sample.room(MAX_ROWS);
    d.out_row.room(MAX_ROWS);
    d.sampled.room(MAX_ROWS);
    d.out.room(MAX_ROWS);
    dev.n_sms = 3;
    cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
    dev.stream = stream;
    good = cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal) == cudaSuccess
           && sample(d, vocab, MAX_ROWS) == INFER_OK
           && cudaStreamEndCapture(stream, &graph) == cudaSuccess
           && cudaGraphInstantiate(&exec, graph, 0) == cudaSuccess;
    for (uint32_t c = 0; c < n_cases && good; c++) {
        make_rows(rows, vocab, MAX_ROWS);
        upload(d, rows, vocab, host);
        cudaDeviceSynchronize();
        good = cudaGraphLaunch(exec, stream) == cudaSuccess
               && cudaStreamSynchronize(stream) == cudaSuccess && compare(d, rows, vocab, host);
        free_rows(rows);
    }
    cudaGraphExecDestroy(exec);
    cudaGraphDestroy(graph);
    cudaStreamDestroy(stream);
    dev.stream = NULL;
    ok(good, "from a graph");
}

int
main(int argc, char **argv)
{
    const bool      quick = getenv("INFER_QUICK") != NULL;
    const uint32_t  vocab[] = { 1, 2, 3, 5, 8, 31, 33, 100, 257, 511, 512, 513, 900, 2047,
                                2049, 5000 };
    uint32_t        n = quick ? 3 : 40;
    int             n_devices = 0;
    cudaDeviceProp  prop;
    infer_err_t     err;

    if (cudaGetDeviceCount(&n_devices) != cudaSuccess || n_devices == 0) {
        printf("1..0 # SKIP no CUDA device\n");
        return 77;
    }
    rng = argc > 1 ? strtoull(argv[1], NULL, 10) : 1;
    printf("# seed %llu\n", (unsigned long long) rng);
    rng = rng * 0x9e3779b97f4a7c15ull + 0x1234567;
    ops = kern_init("cpu", "auto", &err);
    if (ops == NULL || cudaGetDeviceProperties(&prop, 0) != cudaSuccess) {
        printf("Bail out! %s\n", err.text);
        return 1;
    }
    dev.cc = prop.major * 10 + prop.minor;
    dev.pdl = dev.cc >= 90;
#ifndef SIMT_EMU
    n *= quick ? 1 : 10;
#endif

    for (uint32_t v : vocab) {
        test_random(v, v > 2000 ? n / 2 + 1 : n);
    }
    test_graph(n);
    if (!quick) {
        test_large(50000, 1, 2, MAX_ROWS, 24);
        test_large(50000, 4, 0, MAX_ROWS, 1);
        test_large(12000, 1, 1, MAX_ROWS, 1);
        test_large(900000, 2.5f, 2, 1, 24);
#ifndef SIMT_EMU
        test_large(128256, 2.5f, 0, MAX_ROWS, 24);
        test_large(300000, 1, 0, MAX_ROWS, 24);
#endif
    }
#ifdef SIMT_EMU
    if (simt::checked()) {
        simt::check_print();
        ok(simt::check_reports == 0, "the checker is silent");
    }
    ok(simt::rt_leaks() == 0, "nothing leaks");
#endif
    printf("1..%d\n", n_tests);
    return n_failed != 0;
}
