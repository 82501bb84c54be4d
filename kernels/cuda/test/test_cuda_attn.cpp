/*
 * test_cuda_attn.cpp: cu_attend() against double precision from the same
 * pages, and the pages against the CPU's rounding bit for bit. Pages are
 * shuffled; pages and slots that nobody wrote hold NaN, table entries
 * beyond a sequence an index that leads out of memory.
 *
 * Tolerances, of the largest magnitude in a row's head: decode and general
 * kernels 3e-6 (bf16 pages 3e-5: queries and weights have 16 bits), prefill
 * 3e-3 (operands of 11 bits), bf16 1.5e-2 (8 bits).
 */

#include "cuda_test.h"

#include <map>

extern "C" {
#include "ref/ref.h"
}

#define PAGE  KERN_PAGE_TOKENS

struct Shape {
    uint32_t  type, heads, kv_heads, dim, rope_dim;
};

struct Seq {
    uint32_t  rows, pos0;
};

static const char *
shape_name(const Shape &s)
{
    static char  text[80];

    snprintf(text, sizeof(text), "%s %u/%u heads of %u", kern_kv_name(s.type),
             s.heads, s.kv_heads, s.dim);
    return text;
}


/* ---- pages on the host ---- */

/* A page's head, after cuda.h. */
struct Head {
    const Shape  &s;
    uint8_t      *p;

    uint32_t blocks() const { return (s.dim + 31) / 32; }
    bool scaled() const
    {
        return s.type == KERN_KV_Q8 || s.type == KERN_KV_FP8;
    }
    uint8_t *row(int v, uint32_t slot) const
    {
        return p + (size_t) (v * PAGE + slot) * s.dim * (scaled() ? 1 : 2);
    }
    uint16_t *scale(int v, uint32_t slot) const
    {
        return (uint16_t *) (void *) (p + 2 * (size_t) PAGE * s.dim)
               + (v * PAGE + slot) * blocks();
    }
};

static uint8_t
to_e4m3(float x)
{
    float    a = fminf(fabsf(x), 448), step;
    int      e;

    if (isnan(x)) {
        return 0x7f;
    }
    (void) frexpf(a, &e);
    step = ldexpf(1, (a < 0x1p-6f ? -5 : e) - 4);
    a = fminf(rintf(a / step) * step, 448);
    (void) frexpf(a, &e);
    return (uint8_t) ((signbit(x) ? 0x80 : 0)
                      | (a < 0x1p-6f ? (int) (a * 512)
                                     : (e + 6) << 3
                                       | ((int) (ldexpf(a, 4 - e)) & 7)));
}

static float
of_e4m3(uint8_t b)
{
    int    e = b >> 3 & 15, m = b & 7;
    float  v = e == 0 ? ldexpf((float) m, -9) : ldexpf((float) (8 + m), e - 10);

    return (b & 0x7f) == 0x7f ? NAN : b & 0x80 ? -v : v;
}

/* x [dim] as key (v 0) or value (v 1) of a slot, rounded as ref_kv.c does. */
static void
put(const Head &h, int v, uint32_t slot, const float *x)
{
    const uint32_t  dim = h.s.dim;
    uint16_t       *half = (uint16_t *) (void *) h.row(v, slot);

    for (uint32_t b = 0; b < dim; b += 32) {
        uint32_t  n = dim - b < 32 ? dim - b : 32, amax = 0, u;
        uint16_t  d;
        float     inv, max;

        for (uint32_t i = 0; i < n; i++) {
            memcpy(&u, &x[b + i], 4);
            amax = (u & 0x7fffffff) > amax ? u & 0x7fffffff : amax;
        }
        memcpy(&max, &amax, 4);
        if (h.s.type == KERN_KV_Q8) {
            d = cpu_kv_scale(amax, &inv);
        } else {
            d = cpu_f32_to_f16(max / 448);
            inv = cpu_f16_to_f32(d) != 0 ? 1 / cpu_f16_to_f32(d) : 0;
        }
        if (h.scaled()) {
            h.scale(v, slot)[b / 32] = d;
        }
        for (uint32_t i = b; i < b + n; i++) {
            float  t = x[i] * inv;

            switch (h.s.type) {
            case KERN_KV_F16:
                half[i] = cpu_f32_to_f16(x[i]);
                break;
            case KERN_KV_BF16:
                half[i] = cpu_f32_to_bf16(x[i]);
                break;
            case KERN_KV_Q8:
                t = t > -127 ? t : -127;
                t = t < 127 ? t : 127;
                h.row(v, slot)[i] = (uint8_t) (int8_t) rintf(t);
                break;
            default:
                h.row(v, slot)[i] = to_e4m3(t);
            }
        }
    }
}

static double
get(const Head &h, int v, uint32_t slot, uint32_t i)
{
    const uint16_t  *half = (const uint16_t *) (void *) h.row(v, slot);
    const uint8_t   *byte = h.row(v, slot);

    switch (h.s.type) {
    case KERN_KV_F16:
        return cpu_f16_to_f32(half[i]);
    case KERN_KV_BF16:
        return cpu_bf16_to_f32(half[i]);
    case KERN_KV_Q8:
        return (double) (int8_t) byte[i]
               * cpu_f16_to_f32(h.scale(v, slot)[i / 32]);
    default:
        return (double) of_e4m3(byte[i])
               * cpu_f16_to_f32(h.scale(v, slot)[i / 32]);
    }
}


/* ---- sequences with a past, and one step of them ---- */

struct World {
    Shape                               s;
    std::vector<Seq>                    seqs;
    uint32_t                            n_decode;   /* the first of them */
    size_t                              head_bytes;
    std::vector<uint8_t>                before, after;    /* pool */
    std::vector<std::vector<int32_t> >  pages;
    std::vector<std::vector<float> >    qkv;              /* of a row */
    std::vector<float>                  rope;
    uint32_t                            max_keys, max_rows, n_rows;

    World(const Shape &shape, const std::vector<Seq> &list, uint32_t decode,
        float amp = 1)
        : s(shape), seqs(list), n_decode(decode), max_keys(0), max_rows(0),
          n_rows(0)
    {
        head_bytes = cu_kv_head_bytes(s.type, s.dim);
        for (const Seq &q : seqs) {
            max_keys = std::max(max_keys, q.pos0 + q.rows);
            n_rows += q.rows;
        }
        for (size_t i = n_decode; i < seqs.size(); i++) {
            max_rows = std::max(max_rows, seqs[i].rows);
        }
        make_rope();
        make_pages();
        for (size_t i = 0; i < seqs.size(); i++) {
            draw(i, amp);
        }
        before = after;
        for (size_t i = 0, row = 0; i < seqs.size(); i++) {
            for (uint32_t k = 0; k < seqs[i].rows; k++, row++) {
                append(i, seqs[i].pos0 + k, qkv[row]);
            }
        }
    }

    /* Made once for all worlds: many have thousands of positions. */
    void make_rope()
    {
        static std::map<uint32_t, std::vector<float> >  known;
        std::vector<float>  &t = known[s.rope_dim];
        const uint32_t       n = s.rope_dim;

        for (size_t at = t.size(); at < (size_t) max_keys * n; at += 2) {
            double  a = (double) (at / n) * pow(10000, -1.0 * (at % n) / n);

            t.push_back((float) cos(a) * 1.25f);
            t.push_back((float) sin(a) * 1.25f);
        }
        rope.assign(t.begin(), t.begin() + (size_t) max_keys * n);
        rope.resize(rope.size() + 2);             /* never empty */
    }

    void make_pages()
    {
        uint32_t              n = 3;
        std::vector<int32_t>  perm;

        for (const Seq &q : seqs) {
            n += (q.pos0 + q.rows + PAGE - 1) / PAGE;
        }
        for (uint32_t i = 0; i < n; i++) {
            perm.insert(perm.begin() + test_below(i + 1), (int32_t) i);
        }
        after.assign(n * s.kv_heads * head_bytes, 0xff);       /* NaN */
        for (const Seq &q : seqs) {
            uint32_t  k = (q.pos0 + q.rows + PAGE - 1) / PAGE;

            pages.emplace_back(perm.end() - k, perm.end());
            perm.resize(perm.size() - k);
        }
    }

    Head head(std::vector<uint8_t> &pool, size_t seq, uint32_t pos,
        uint32_t g) const
    {
        size_t  page = (size_t) pages[seq][pos / PAGE];

        return { s, &pool[(page * s.kv_heads + g) * head_bytes] };
    }

    std::vector<float> rotated(const float *x, uint32_t pos) const
    {
        const uint32_t      n = s.rope_dim;
        std::vector<float>  cs(2 * n + 1), y(s.dim);
        const float        *t = &rope[(size_t) pos * n];

        for (uint32_t i = 0; i < n; i += 2) {
            cs[i] = cs[i + 1] = t[i];
            cs[n + i] = -t[i + 1];
            cs[n + i + 1] = t[i + 1];
        }
        kern_rope_ref(y.data(), x, cs.data(), n, s.dim, 1);
        return y;
    }

    /* Past keys and values of sequence i, and its rows of this step. Some
     * are so small that fp8 has them below its normal values. */
    void draw(size_t i, float amp)
    {
        const uint32_t  end = seqs[i].pos0 + seqs[i].rows;

        for (uint32_t pos = 0; pos < end; pos++) {
            std::vector<float>  row = test_floats((s.heads + 2 * s.kv_heads)
                                                  * s.dim, 1.5f * amp);

            for (float &x : row) {
                x *= test_below(16) == 0 ? 0x1p-16f : 1;
            }
            if (pos < seqs[i].pos0) {
                append(i, pos, row);
            } else {
                qkv.push_back(row);
            }
        }
    }

    /* Keys and values of a row go to the pages. */
    void append(size_t i, uint32_t pos, const std::vector<float> &row)
    {
        for (uint32_t g = 0; g < s.kv_heads; g++) {
            const float  *k = &row[(s.heads + g) * s.dim];
            const Head    h = head(after, i, pos, g);

            put(h, 0, pos % PAGE, rotated(k, pos).data());
            put(h, 1, pos % PAGE, k + s.kv_heads * s.dim);
        }
    }

    /* Keys (v 0) or values (v 1) of sequence i, [pos0 + rows][dim]. */
    std::vector<double> all_of(int v, size_t i, uint32_t g)
    {
        std::vector<double>  x;

        for (uint32_t k = 0; k < seqs[i].pos0 + seqs[i].rows; k++) {
            const Head  h = head(after, i, k, g);

            for (uint32_t d = 0; d < s.dim; d++) {
                x.push_back(get(h, v, k % PAGE, d));
            }
        }
        return x;
    }

    /* Head h of a row at pos, in double precision, from all_of(). */
    std::vector<double> expect(uint32_t row, uint32_t pos, uint32_t h,
        const std::vector<double> &key, const std::vector<double> &value) const
    {
        std::vector<float>   q = rotated(&qkv[row][h * s.dim], pos);
        std::vector<double>  w(pos + 1), o(s.dim);
        double               max = -INFINITY, sum = 0;

        for (uint32_t k = 0; k <= pos; k++) {
            for (uint32_t d = 0; d < s.dim; d++) {
                w[k] += q[d] * key[(size_t) k * s.dim + d];
            }
            w[k] /= sqrt((double) s.dim);
            max = fmax(max, w[k]);
        }
        for (uint32_t k = 0; k <= pos; k++) {
            w[k] = exp(w[k] - max);
            sum += w[k];
            for (uint32_t d = 0; d < s.dim; d++) {
                o[d] += w[k] * value[(size_t) k * s.dim + d];
            }
        }
        for (double &x : o) {
            x /= sum;
        }
        return o;
    }
};

/* What a step gave: rows of the world in order, padding left out. */
struct Result {
    std::vector<float>     out;
    std::vector<int8_t>    q;
    std::vector<float>     d, dsum, dsum2, row;
    std::vector<uint16_t>  h;
    std::vector<uint8_t>   f8;
    std::vector<uint8_t>   pool;
    bool                   whole;          /* nothing else was touched */
};

/* How a step is laid out: decode sequences of padding, the most keys that
 * the launch allows for, SMs and compute capability that it believes in
 * (0: the device's), which decides on shared memory. */
struct Layout {
    uint32_t  pad, max_keys, n_sms, cc;
};

template <typename T>
static std::vector<T>
pick(const TestBuf<T> &b, const std::vector<uint32_t> &rows, size_t width)
{
    std::vector<T>  all = b.down(), v;

    for (uint32_t r : rows) {
        v.insert(v.end(), &all[r * width], &all[r * width] + width);
    }
    return v;
}

static Result
step(TestDev &t, const World &w, const Layout &l, uint32_t want)
{
    const Shape          &s = w.s;
    const uint32_t        ld = (s.heads + 2 * s.kv_heads) * s.dim;
    const uint32_t        wide = s.heads * s.dim, T = w.n_rows + l.pad;
    const uint32_t        B = (uint32_t) w.seqs.size() + l.pad;
    const uint32_t        max_pages = (w.max_keys + PAGE - 1) / PAGE + 2;
    std::vector<float>    qkv((size_t) T * ld, NAN);
    std::vector<int32_t>  row_seq(T, -1), row_pos(T, 0), row0(B, 0);
    std::vector<int32_t>  rows(B, 0), pos0(B, 0);
    std::vector<int32_t>  table((size_t) B * max_pages, 0x7fffffff);
    std::vector<uint32_t> real;
    Result                r;

    /* Padding lies behind the decode sequences. */
    for (uint32_t i = 0, from = 0, at = 0; i < w.seqs.size(); i++) {
        uint32_t  b = i < w.n_decode ? i : i + l.pad;

        at = i == w.n_decode ? w.n_decode + l.pad : at;
        row0[b] = (int32_t) at;
        rows[b] = (int32_t) w.seqs[i].rows;
        pos0[b] = (int32_t) w.seqs[i].pos0;
        std::copy(w.pages[i].begin(), w.pages[i].end(),
                  table.begin() + (size_t) b * max_pages);
        for (uint32_t k = 0; k < w.seqs[i].rows; k++, at++, from++) {
            std::copy(w.qkv[from].begin(), w.qkv[from].end(),
                      qkv.begin() + (size_t) at * ld);
            row_seq[at] = (int32_t) b;
            row_pos[at] = (int32_t) (w.seqs[i].pos0 + k);
            real.push_back(at);
        }
    }

    const size_t         n = (size_t) T * wide;
    TestBuf<float>       dqkv(qkv), drope(w.rope), d(n / 32), dsum(n / 32);
    TestBuf<float>       dsum2(n / 16), row(T);
    TestBuf<float>       out(std::vector<float>(n, 7));
    TestBuf<int32_t>     dseq(row_seq), dpos(row_pos), drow0(row0);
    TestBuf<int32_t>     drows(rows), dpos0(pos0), dtable(table);
    TestBuf<uint8_t>     pool(w.before), f8(n);
    TestBuf<int8_t>      q(n);
    TestBuf<uint16_t>    h(n);
    const size_t         n_work = cu_attn_work(B, s.heads, s.dim);
    TestBuf<uint8_t>     work(n_work);
    cu_acts_t            acts = { q.p, d.p, dsum.p, dsum2.p, h.p, f8.p,
                                  row.p, wide };
    cu_attn_t            a = { pool.p, w.head_bytes, s.type, s.heads,
                               s.kv_heads, s.dim, s.rope_dim, drope.p };
    cu_plan_t            p;
    cu_dev_t             dev = t.dev;

    cudaMemset(work.p, 0, CU_ATTN_ZERO);
    cudaDeviceSynchronize();
    memset(&p, 0, sizeof(p));
    p.n_rows = T;
    p.n_seqs = B;
    p.max_pages = max_pages;
    p.n_decode = w.n_decode + l.pad;
    p.max_rows = w.max_rows;
    p.max_keys = l.max_keys;
    p.row_seq = dseq.p;
    p.row_pos = dpos.p;
    p.seq_row0 = drow0.p;
    p.seq_rows = drows.p;
    p.seq_pos0 = dpos0.p;
    p.table = dtable.p;
    dev.n_sms = l.n_sms != 0 ? (int) l.n_sms : dev.n_sms;
    dev.cc = l.cc != 0 ? (int) l.cc : dev.cc;

    r.whole = cu_attend(&dev, &a, &p, dqkv.p, out.p, want, &acts, work.p)
              == INFER_OK && t.sync();
    r.out = pick(out, real, wide);
    r.q = pick(q, real, wide);
    r.d = pick(d, real, wide / 32);
    r.dsum = pick(dsum, real, wide / 32);
    r.dsum2 = pick(dsum2, real, wide / 16);
    r.h = pick(h, real, wide);
    r.f8 = pick(f8, real, wide);
    r.row = pick(row, real, 1);
    r.pool = pool.down();
    std::vector<float>    all = out.down();
    std::vector<uint8_t>  left = work.down();

    for (uint32_t i = w.n_decode; i < w.n_decode + l.pad; i++) {
        r.whole = r.whole && all[(size_t) i * wide] == 7
                  && all[(size_t) (i + 1) * wide - 1] == 7;
    }
    for (size_t i = 0; i < CU_ATTN_ZERO; i++) {
        r.whole = r.whole && left[i] == 0;
    }
    r.whole = r.whole && out.clean() && pool.clean() && work.clean()
              && q.clean() && d.clean() && h.clean() && f8.clean()
              && dsum.clean() && dsum2.clean() && row.clean();
    return r;
}


/* ---- judgement ---- */

/* Largest error of a row's head, of its largest magnitude. */
static double
error_in(const float *got, const std::vector<double> &o)
{
    double  max = 1e-30, e = 0;

    for (size_t d = 0; d < o.size(); d++) {
        max = fmax(max, fabs(o[d]));
        e = isfinite(got[d]) ? fmax(e, fabs(got[d] - o[d])) : 1e9;
    }
    return e / max;
}

static double
error_of(World &w, const Result &r, bool prefill)
{
    const Shape    &s = w.s;
    const uint32_t  group = s.heads / s.kv_heads;
    double          worst = 0;

    for (uint32_t i = 0, row0 = 0; i < w.seqs.size(); i++) {
        const Seq  &q = w.seqs[i];

        for (uint32_t g = 0; g < s.kv_heads && (i >= w.n_decode) == prefill;
             g++)
        {
            std::vector<double>  key = w.all_of(0, i, g);
            std::vector<double>  value = w.all_of(1, i, g);

            for (uint32_t k = 0; k < q.rows * group; k++) {
                uint32_t  row = row0 + k / group, h = g * group + k % group;

                worst = fmax(worst, error_in(
                    &r.out[((size_t) row * s.heads + h) * s.dim],
                    w.expect(row, q.pos0 + k / group, h, key, value)));
            }
        }
        row0 += q.rows;
    }
    return worst;
}

static bool
fast_dim(uint32_t dim)
{
    return dim == 64 || dim == 80 || dim == 96 || dim == 128 || dim == 256;
}

static double
allowed(const Shape &s, bool prefill)
{
    if (!prefill || !fast_dim(s.dim)) {
        return s.type == KERN_KV_BF16 && fast_dim(s.dim) ? 3e-5 : 3e-6;
    }
    return s.type == KERN_KV_BF16 ? 1.5e-2 : 3e-3;
}

/* The quantized forms against ref's of the f32 output. */
static bool
forms(const World &w, const Result &r, uint32_t want)
{
    const uint32_t         wide = w.s.heads * w.s.dim;
    std::vector<int8_t>    q(wide);
    std::vector<float>     d(wide / 32), dsum(wide / 32);
    std::vector<int32_t>   nsum(wide / 32), hsum(wide / 16);
    cpu_acts_t             a = { q.data(), d.data(), nsum.data(), hsum.data(),
                                 dsum.data(), NULL, wide };
    bool                   same = true;

    for (uint32_t row = 0; row < w.n_rows; row++) {
        const float  *x = &r.out[(size_t) row * wide];
        float         amax = 0;

        for (uint32_t i = 0; i < wide; i++) {
            amax = fmaxf(amax, fabsf(x[i]));
            same = same && (!(want & 1u << CU_BF16)
                            || r.h[(size_t) row * wide + i]
                               == cpu_f32_to_bf16(x[i]));
            same = same && (!(want & 1u << CU_F16)
                            || r.h[(size_t) row * wide + i]
                               == cpu_f32_to_f16(x[i]));
        }
        same = same && (!(want & 1u << CU_FP8) || r.row[row] == amax / 448);
        if (want & 1u << CU_Q8) {
            size_t  at = (size_t) row * (wide / 32);

            kern_quantize_ref(&a, 0, 0, wide / 32, x);
            same = same && memcmp(q.data(), &r.q[at * 32], wide) == 0
                   && memcmp(d.data(), &r.d[at], wide / 8) == 0
                   && memcmp(dsum.data(), &r.dsum[at], wide / 8) == 0;
            for (uint32_t b = 0; b < wide / 16; b++) {
                same = same && r.dsum2[2 * at + b]
                               == d[b / 2] * (float) -hsum[b];
            }
        }
    }
    return same;
}

static void
judge_in(TestDev &t, const Shape &s, const std::vector<Seq> &seqs,
    uint32_t n_decode, uint32_t want, uint32_t n_sms, uint32_t pad = 0)
{
    World         w(s, seqs, n_decode);
    const Layout  l = { pad, w.max_keys, n_sms, 0 };
    Result        r = step(t, w, l, want);
    double        dec = error_of(w, r, false), pre = error_of(w, r, true);

    ok(dec <= allowed(s, false) && pre <= allowed(s, true) && r.whole,
       "%s, %u decode, %zu prefill, %u keys: decode %.1e, prefill %.1e",
       shape_name(s), n_decode, seqs.size() - n_decode, w.max_keys, dec, pre);
    ok(r.pool == w.after, "the pages are the CPU's");
    ok(forms(w, r, want), "quantized for %#x", want);
}

static void
judge(TestDev &t, const Shape &s, const std::vector<Seq> &seqs,
    uint32_t n_decode, uint32_t want)
{
    judge_in(t, s, seqs, n_decode, want, 0);
}


/* ---- cases ---- */

static const uint32_t  wants[] = {
    1u << CU_Q8, 1u << CU_BF16 | 1u << CU_FP8, 1u << CU_F16 | 1u << CU_Q8, 0
};

/* Lengths around pages and chunks, in pairs. */
static const Seq  lens[][2] = {
    { { 1, 0 }, { 1, 127 } }, { { 1, 30 }, { 1, 128 } },
    { { 1, 31 }, { 1, 299 } }, { { 1, 32 }, { 1, 126 } }
};

static void
decode(TestDev &t)
{
    static const struct {
        uint32_t  dim, rope, group, kv_heads;
    } shapes[] = {
        { 64, 64, 1, 3 }, { 64, 64, 2, 2 }, { 64, 32, 3, 2 },
        { 64, 64, 7, 1 }, { 64, 64, 8, 1 }, { 64, 64, 19, 1 },
        { 80, 40, 4, 2 }, { 96, 96, 3, 1 }, { 128, 128, 4, 2 },
        { 128, 128, 8, 1 }, { 256, 256, 2, 1 }, { 10, 6, 16, 1 },
        { 32, 0, 4, 1 }, { 136, 64, 4, 1 }
    };

    for (uint32_t i = 0; i < N_OF(shapes); i++) {
        for (uint32_t type = 0; type < KERN_N_KV_TYPES; type++) {
            const Seq  *q = lens[(i + type) % N_OF(lens)];

            if (test_quick() && (i + type) % 3 != 0) {
                continue;
            }
            judge(t, { type, shapes[i].group * shapes[i].kv_heads,
                       shapes[i].kv_heads, shapes[i].dim, shapes[i].rope },
                  { q[0], q[1] }, 2, wants[(i + type) % N_OF(wants)]);
        }
    }
}

static void
prefill(TestDev &t)
{
    static const struct {
        uint32_t  dim, rope, group, kv_heads, rows, pos0;
    } c[] = {
        { 64, 64, 3, 1, 65, 0 }, { 64, 64, 1, 2, 64, 31 },
        { 64, 64, 8, 1, 5, 100 }, { 128, 64, 4, 1, 5, 31 },
        { 128, 128, 2, 1, 33, 100 }, { 96, 96, 7, 1, 5, 0 },
        { 80, 80, 2, 2, 17, 31 }, { 256, 256, 1, 1, 20, 50 },
        { 10, 10, 16, 1, 5, 31 }
    };

    for (uint32_t i = 0; i < N_OF(c); i++) {
        for (uint32_t type = 0; type < KERN_N_KV_TYPES; type++) {
            if (test_quick() && (i + type) % 3 != 0) {
                continue;
            }
            judge(t, { type, c[i].group * c[i].kv_heads, c[i].kv_heads,
                       c[i].dim, c[i].rope },
                  { { c[i].rows, c[i].pos0 } }, 0,
                  wants[(i + type) % N_OF(wants)]);
        }
    }
}

static void
mixed(TestDev &t)
{
    judge(t, { KERN_KV_F16, 4, 2, 64, 64 },
          { { 1, 40 }, { 1, 0 }, { 1, 33 }, { 9, 30 }, { 2, 0 } }, 2,
          1u << CU_Q8);
    judge(t, { KERN_KV_Q8, 6, 2, 64, 64 },
          { { 1, 128 }, { 5, 0 }, { 1, 100 } }, 1,
          1u << CU_BF16 | 1u << CU_FP8);
    judge(t, { KERN_KV_BF16, 6, 2, 10, 10 }, { { 1, 128 }, { 5, 3 } }, 1, 0);
}

static bool
same(const Result &a, const Result &b)
{
    return a.whole && b.whole && a.pool == b.pool
           && memcmp(a.out.data(), b.out.data(), a.out.size() * 4) == 0
           && a.q == b.q
           && memcmp(a.d.data(), b.d.data(), a.d.size() * 4) == 0;
}

/* Equal bits in every bucket, however parts are spread over blocks and tiles
 * chosen; a sequence alone has the bits that it has among others. */
static void
buckets(TestDev &t, const Shape &s, const std::vector<Seq> &seqs,
    uint32_t n_decode)
{
    World         w(s, seqs, n_decode);
    const Layout  l[] = { { 0, w.max_keys, 0, 0 }, { 2, 4096, 0, 0 },
                          { 6, w.max_keys + 100, 1, 0 },
                          { 1, 1024, 132, 0 }, { 3, w.max_keys, 1, 86 } };
    Result        r = step(t, w, l[0], 1u << CU_Q8);
    bool          equal = true;

    for (size_t i = 1; i < N_OF(l); i++) {
        equal = equal && same(r, step(t, w, l[i], 1u << CU_Q8));
    }
    ok(equal, "%s, %zu sequences: equal bits in every bucket", shape_name(s),
       seqs.size());

    World   one = w;
    Result  alone;

    one.seqs.resize(1);
    one.qkv.resize(one.n_rows = seqs[0].rows);
    one.pages.resize(1);
    one.n_decode = n_decode > 0;
    one.max_keys = seqs[0].pos0 + seqs[0].rows;
    one.max_rows = one.n_decode ? 0 : seqs[0].rows;
    alone = step(t, one, l[3], 1u << CU_Q8);
    ok(memcmp(alone.out.data(), r.out.data(), alone.out.size() * 4) == 0
       && alone.whole, "equal bits alone");
}

/* More chunks than parts: a part has several. */
static void
longer(TestDev &t)
{
    const Shape  s = { KERN_KV_Q8, 2, 1, 64, 64 };

    judge(t, s, { { 1, 8200 } }, 1, 1u << CU_Q8);
    buckets(t, s, { { 1, 8450 } }, 1);
}

/* More sequences than a warp has lanes, shared by few blocks and by many. */
static void
crowd(TestDev &t)
{
    const Shape       s = { KERN_KV_F16, 4, 2, 64, 64 };
    std::vector<Seq>  seqs;

    for (uint32_t i = 0; i < 75; i++) {
        seqs.push_back({ 1, i * 37 % 140 });
    }
    judge_in(t, s, seqs, 75, 1u << CU_Q8, 1, 3);
    buckets(t, s, seqs, 75);
}

/* Each head size has kernels of its own, a type's: one part and several, parts
 * of several chunks, one block for two parts, more than eight heads a group,
 * every form of a result; prefill with small and with large tiles. */
static void
every(TestDev &t)
{
    static const uint32_t  dims[] = { 64, 80, 96, 128, 256 };
    const uint32_t         half = 1u << CU_F16, q8 = 1u << CU_Q8;

    for (uint32_t D : dims) {
        for (uint32_t type = 0; type < KERN_N_KV_TYPES; type++) {
            const uint32_t  n = D % 32 == 0 ? 1 : 2;    /* whole blocks */
            const Shape     one = { type, n, n, D, D };
            const Shape     half_rope = { type, n, n, D, D / 2 };
            const Shape     many = { type, 10, 1, D, 32 };
            const uint32_t  bf16 = 1u << (type % 2 ? CU_BF16 : CU_W4A16);

            judge_in(t, one, { { 1, 8192 }, { 1, 33 } }, 2, q8 | bf16, 1);
            judge_in(t, one, { { 1, 140 } }, 1, q8, 1, 15);
            judge_in(t, many, { { 1, 890 }, { 1, 33 } }, 2, half, 1);
            judge_in(t, many, { { 1, 31 } }, 1, q8 | bf16, 0);
            judge_in(t, half_rope, { { 140, 0 }, { 3, 90 } }, 0, q8, 1);
            judge_in(t, many, { { 12, 130 } }, 0, half, 0);
        }
    }
}

/* Prefill by chunks gives the bits of prefill in one. */
static void
chunks(TestDev &t, const Shape &s)
{
    World   w(s, { { 70, 0 } }, 0);
    Layout  l = { 0, 70, 0, 0 };
    Result  whole = step(t, w, l, 0);
    World   part = w;
    bool    equal = whole.whole;

    for (uint32_t from = 0; from < 70; from += 23) {
        uint32_t     n = std::min(70 - from, 23u);
        const size_t  wide = s.heads * s.dim;

        part.seqs[0] = { n, from };
        part.max_rows = part.n_rows = n;
        part.qkv.assign(w.qkv.begin() + from, w.qkv.begin() + from + n);
        Result  r = step(t, part, l, 0);

        equal = equal && r.whole
                && memcmp(r.out.data(), &whole.out[from * wide],
                          r.out.size() * 4) == 0;
        part.before = r.pool;
    }
    ok(equal && part.before == w.after, "%s: equal bits in chunks",
       shape_name(s));
}

/* NaNs in one sequence's query, key or value fail that one only; large
 * values of f16 pages are clamped. */
static void
nan_stays(TestDev &t, const Shape &s, uint32_t n_decode)
{
    const uint32_t  rows = n_decode ? 1 : 5;

    for (uint32_t where = 0; where < 3; where++) {
        World           w(s, { { rows, 60 }, { rows, 140 } }, n_decode);
        const uint32_t  at[] = { 0, s.heads * s.dim,
                                 (s.heads + s.kv_heads) * s.dim };
        const size_t    wide = s.heads * s.dim;
        const Layout    l = { 0, w.max_keys, 0, 0 };
        Result          clean, r;
        bool            bad = false;

        w.qkv[rows][0] *= 1e6f;
        clean = step(t, w, l, 1u << CU_Q8);
        for (uint32_t d = 5; d < s.dim; d += 31) {
            w.qkv[rows - 1][at[where] + d] = NAN;
        }
        r = step(t, w, l, 1u << CU_Q8);
        for (size_t i = 0; i < wide; i++) {
            bad = bad || isnan(r.out[(rows - 1) * wide + i]);
        }
        ok(bad && r.whole && memcmp(&r.out[rows * wide],
                                    &clean.out[rows * wide],
                                    rows * wide * 4) == 0,
           "%s, %s: a NaN in %s stays in its sequence", shape_name(s),
           n_decode ? "decode" : "prefill",
           where == 0 ? "q" : where == 1 ? "k" : "v");
    }
}

static void
supports(void)
{
    infer_err_t  err;
    cu_attn_t    a = { NULL, 0, KERN_KV_F16, 9, 3, 64, 64, NULL };

    ok(cu_attn_supports(&a, 80, &err) == INFER_OK, "SmolLM2 is supported");
    ok(cu_attn_supports(&a, 75, &err) == INFER_UNSUPPORTED
       && strstr(err.text, "7.5") != NULL, "an old device is not");
    a.head_dim = 258;
    ok(cu_attn_supports(&a, 90, &err) == INFER_UNSUPPORTED
       && strstr(err.text, "258") != NULL, "nor are large heads");
    a.head_dim = 64;
    a.n_kv_heads = 2;
    ok(cu_attn_supports(&a, 90, &err) == INFER_UNSUPPORTED,
       "nor groups that do not divide");
    a.n_kv_heads = 3;
    a.rope_dim = 66;
    ok(cu_attn_supports(&a, 90, &err) == INFER_UNSUPPORTED,
       "nor more rotated values than there are");
}

static void
all(TestDev &t)
{
    decode(t);
    prefill(t);
    mixed(t);
    buckets(t, { KERN_KV_F16, 6, 2, 64, 64 }, { { 1, 300 }, { 1, 3 } }, 2);
    buckets(t, { KERN_KV_FP8, 4, 1, 128, 128 }, { { 1, 200 }, { 1, 140 } },
            2);
    buckets(t, { KERN_KV_BF16, 3, 1, 64, 64 }, { { 45, 20 }, { 3, 0 } }, 0);
    buckets(t, { KERN_KV_F16, 8, 1, 256, 256 }, { { 1, 150 }, { 1, 40 } },
            2);
    longer(t);
    crowd(t);
    every(t);
    chunks(t, { KERN_KV_F16, 2, 1, 64, 64 });
    chunks(t, { KERN_KV_Q8, 2, 2, 96, 96 });
    nan_stays(t, { KERN_KV_F16, 4, 2, 64, 64 }, 2);
    nan_stays(t, { KERN_KV_Q8, 4, 2, 64, 64 }, 2);
    nan_stays(t, { KERN_KV_FP8, 2, 1, 64, 64 }, 0);
    nan_stays(t, { KERN_KV_FP8, 2, 1, 256, 32 }, 0);
    for (uint32_t D : { 64u, 80u, 96u, 128u, 256u }) {
        nan_stays(t, { KERN_KV_FP8, 2, 1, D, D }, 1);
    }
    supports();
}

int
main(int argc, char **argv)
{
    test_begin(argc, argv);
    test_schedules(all);
    return test_end();
}
