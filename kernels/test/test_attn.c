/*
 * test_attn.c: attention. The definition against a softmax in double; the
 * fast levels against the definition by memcmp, for one and many queries,
 * ragged diagonals, several chunks and pages in any order; keys behind a
 * query's limit may hold anything.
 */

#include "kern_test.h"

enum { MAX_KEYS = 400, N_PAGES = 16 };

typedef struct {
    uint32_t   type, hd, vd;
    size_t     page_bytes;
    uint8_t   *kv;
    uint32_t   pages[N_PAGES];
    float     *q, *out, *work;
} attn_t;


static attn_t
make(uint32_t type, uint32_t hd)
{
    attn_t    t = { .type = type, .hd = hd, .vd = (hd + 15) / 16 * 16 };
    uint32_t  i, j, k;
    float    *a, *b;

    t.page_bytes = cpu_kv_head_bytes(type, hd, t.vd);
    t.kv = test_alloc(t.page_bytes * N_PAGES);
    memset(t.kv, 0, t.page_bytes * N_PAGES);
    for (i = 0; i < N_PAGES; i++) {
        t.pages[i] = i;
    }
    for (i = N_PAGES - 1; i > 0; i--) {
        j = test_below(i + 1);
        k = t.pages[i];
        t.pages[i] = t.pages[j];
        t.pages[j] = k;
    }
    for (i = 0; i < MAX_KEYS; i++) {
        a = test_floats(hd, 2);
        b = test_floats(hd, 2);
        cpu_inner("ref-q8")->kv_store(t.kv + t.pages[i / 32] * t.page_bytes,
                                      type, i % 32, a, b, hd, t.vd);
        test_free(a);
        test_free(b);
    }
    t.q = test_floats(CPU_QMAX * hd, 1);
    t.out = test_alloc(CPU_QMAX * hd * sizeof(float));
    t.work = test_alloc(cpu_attn_work(t.vd) * sizeof(float));
    return t;
}

static void
run(attn_t *t, const cpu_inner_t *in, const uint32_t *n_keys, uint32_t nq)
{
    cpu_attn_t  a = { .nq = nq, .kv_type = t->type,
                      .head_dim = t->hd, .v_dim = t->vd, .kv = t->kv,
                      .page_bytes = t->page_bytes, .pages = t->pages,
                      .work = t->work };
    uint32_t    i;

    for (i = 0; i < nq; i++) {
        a.q[i] = t->q + i * t->hd;
        a.out[i] = t->out + i * t->hd;
        a.n_keys[i] = n_keys[i];
    }
    in->attend(&a);
}

/* The same through parts, chunks in descending order. */
static void
run_parts(attn_t *t, const cpu_inner_t *in, const uint32_t *n_keys,
    uint32_t nq)
{
    cpu_attn_t  a = { .nq = nq, .kv_type = t->type,
                      .head_dim = t->hd, .v_dim = t->vd, .kv = t->kv,
                      .page_bytes = t->page_bytes, .pages = t->pages,
                      .work = t->work };
    size_t      step = cpu_part_floats(t->vd);
    float      *parts = test_alloc(4 * step * sizeof(float));
    uint32_t    i;

    for (i = 0; i < nq; i++) {
        a.q[i] = t->q + i * t->hd;
        a.out[i] = t->out + i * t->hd;
        a.n_keys[i] = n_keys[i];
    }
    for (i = 4; i-- > 0; ) {
        in->attend_part(&a, i, parts + i * step);
    }
    in->attend_join(&a, parts);
    if (!test_free(parts)) {
        memset(t->out, 0xff, sizeof(float));
    }
}

static float
value(const attn_t *t, int v, uint32_t pos, uint32_t d)
{
    return test_kv_value(t->kv + t->pages[pos / 32] * t->page_bytes, t->type,
                         t->hd, t->vd, v, pos % 32, d);
}

static double
check_double(attn_t *t, const uint32_t *n_keys, uint32_t nq)
{
    double    p[MAX_KEYS], l, o, worst = 0;
    uint32_t  i, k, d;

    for (i = 0; i < nq; i++) {
        for (l = 0, k = 0; k < n_keys[i]; k++) {
            for (p[k] = 0, d = 0; d < t->hd; d++) {
                p[k] += (double) t->q[i * t->hd + d] * value(t, 0, k, d);
            }
            p[k] = exp(p[k]);
            l += p[k];
        }
        for (d = 0; d < t->hd; d++) {
            for (o = 0, k = 0; k < n_keys[i]; k++) {
                o += p[k] / l * value(t, 1, k, d);
            }
            o = fabs(o - t->out[i * t->hd + d]);
            worst = o > worst ? o : worst;
        }
    }
    return worst;
}

static void
check(uint32_t type, uint32_t hd)
{
    static const uint32_t  last[] = { 1, 2, 31, 32, 33, 64, 127, 128, 129,
                                      160, 257, 400 };
    attn_t                 t = make(type, hd);
    size_t                 bytes = CPU_QMAX * hd * sizeof(float);
    float                 *keep = test_alloc(bytes);
    uint32_t               i, j, l, nq, n[CPU_QMAX];
    int                    same[TEST_N_FAST], parts = 1;
    double                 e, worst = 0;
    float                  nan[256];
    const char            *name = kern_kv_name(type);

    for (l = 0; l < TEST_N_FAST; l++) {
        same[l] = 1;
    }
    for (i = 0; i < hd; i++) {
        nan[i] = NAN;
    }
    for (i = 0; i < sizeof(last) / sizeof(last[0]); i++) {
        for (nq = 1; nq <= 12; nq++) {
            for (j = 0; j < nq; j++) {    /* groups of 1..3 on a diagonal */
                n[j] = (nq - 1 - j) / (1 + i % 3);
                n[j] = n[j] < last[i] ? last[i] - n[j] : 1;
            }
            memset(t.out, 0, bytes);
            run(&t, cpu_inner("ref-q8"), n, nq);
            memcpy(keep, t.out, bytes);
            memset(t.out, 0, bytes);
            run_parts(&t, cpu_inner("ref-q8"), n, nq);
            parts &= memcmp(keep, t.out, bytes) == 0;
            e = check_double(&t, n, nq);
            worst = e > worst ? e : worst;
            for (l = 0; l < TEST_N_FAST; l++) {
                if (cpu_inner(test_fast[l]) != NULL) {
                    memset(t.out, 0, bytes);
                    run(&t, cpu_inner(test_fast[l]), n, nq);
                    same[l] &= memcmp(keep, t.out, bytes) == 0;
                    memset(t.out, 0, bytes);
                    run_parts(&t, cpu_inner(test_fast[l]), n, nq);
                    parts &= memcmp(keep, t.out, bytes) == 0;
                }
            }
        }
    }
    ok(parts, "%s, head of %u: the same in parts", name, hd);
    ok(worst < 2e-5, "%s, head of %u: near double (%.1e)", name, hd, worst);
    for (l = 0; l < TEST_N_FAST; l++) {
        if (cpu_inner(test_fast[l]) == NULL) {
            ok(1, "%s # SKIP not on this machine", test_fast[l]);
        } else {
            ok(same[l], "%s, head of %u: %s equals ref", name, hd,
               test_fast[l]);
        }
    }

    /* NaN right behind the last key changes nothing */
    n[0] = 70;
    run(&t, cpu_inner("ref-q8"), n, 1);
    memcpy(keep, t.out, hd * sizeof(float));
    for (i = 70; i < 128; i++) {
        cpu_inner("ref-q8")->kv_store(t.kv + t.pages[i / 32] * t.page_bytes,
                                      type, i % 32, nan, nan, hd, t.vd);
    }
    for (l = 0; l < TEST_N_FAST; l++) {
        if (cpu_inner(test_fast[l]) != NULL) {
            run(&t, cpu_inner(test_fast[l]), n, 1);
            ok(memcmp(keep, t.out, hd * sizeof(float)) == 0,
               "%s, head of %u: %s ignores keys behind the limit", name,
               hd, test_fast[l]);
        }
    }

    i = (uint32_t) test_free(keep);
    i &= (uint32_t) test_free(t.kv);
    i &= (uint32_t) test_free(t.q);
    i &= (uint32_t) test_free(t.out);
    i &= (uint32_t) test_free(t.work);
    ok((int) i, "%s, head of %u: canaries", name, hd);
}

int
main(void)
{
    uint32_t  type;

    test_seed();
    for (type = 0; type < KERN_N_CPU_KV; type++) {
        check(type, 64);
        check(type, 20);
        if (test_quick()) {
            continue;
        }
        check(type, 128);
        check(type, 80);
        check(type, 2);
        check(type, 256);
    }
    return tap_done();
}
