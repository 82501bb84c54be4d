/*
 * test_team.c: the thread team. Every unit runs once, items in order, also
 * with more threads than cores, many short lists one after the other, and
 * lists started while members still sleep.
 */

#include <unistd.h>

#include "kern_test.h"

enum { ITEMS = 7, UNITS = 100 };

typedef struct {
    _Atomic uint32_t  ran[ITEMS][UNITS];
    _Atomic uint32_t  total[ITEMS];
    const uint32_t   *units;
    _Atomic int       early;       /* a unit ran before its item's turn */
    _Atomic int       bad_tid;
    uint32_t          n;
} job_t;


static void
unit(void *arg, uint32_t item, uint32_t u, uint32_t tid)
{
    job_t  *j = arg;

    j->early |= item > 0 && j->total[item - 1] != j->units[item - 1];
    j->bad_tid |= tid >= j->n;
    j->ran[item][u]++;
    j->total[item]++;
}

static int
run(cpu_team_t *t, uint32_t n, const uint32_t *units, uint32_t n_items)
{
    job_t    *j = calloc(1, sizeof(*j));
    uint32_t  i, u;
    int       good;

    j->units = units;
    j->n = n;
    cpu_team_start(t, unit, j, units, n_items);
    cpu_team_join(t);
    good = !j->early && !j->bad_tid;
    for (i = 0; i < n_items; i++) {
        for (u = 0; u < units[i]; u++) {
            good &= j->ran[i][u] == 1;
        }
    }
    free(j);
    return good;
}

static void
fill(void *arg, uint32_t i)
{
    ((uint32_t *) arg)[i] += i + 1;
}

static void
check_parallel(void)
{
    static const float  freq[1];
    kern_shape_t        s = {
        .n_layers = 1, .dim = 32, .n_heads = 1, .n_kv_heads = 1,
        .head_dim = 32, .ffn = 32, .vocab = 32, .rope_dim = 2,
        .rope_inv_freq = freq, .rope_attn_scale = 1, .max_rows = 1,
        .max_outs = 1, .max_seqs = 1, .context = 32, .n_threads = 3
    };
    const kern_ops_t   *ops = kern_init("cpu", NULL, NULL);
    kern_ctx_t         *c;
    uint32_t            v[1000] = { 0 }, i;
    int                 good = 1;

    if (ops->open(&c, ops, &s, NULL) != INFER_OK) {
        ok(0, "open");
        return;
    }
    ops->parallel(c, fill, v, 1000);
    ops->parallel(c, fill, v, 1);
    ops->parallel(c, fill, v, 0);
    for (i = 1; i < 1000; i++) {
        good &= v[i] == i + 1;
    }
    ok(good && v[0] == 2, "parallel calls each index once");
    ops->close(c);
}

int
main(void)
{
    static const int  cpus[3] = { 0, 0, -1 };
    uint32_t     n, i, k, units[ITEMS];
    cpu_team_t  *t;
    infer_err_t  err;
    int          good;

    test_seed();
    for (n = 1; n <= 9; n += 1 + n / 3) {
        if (cpu_team_open(&t, n, ITEMS, NULL, &err) != INFER_OK) {
            ok(0, "%s", err.text);
            continue;
        }
        good = 1;
        for (i = 0; i < 300; i++) {
            for (k = 0; k < ITEMS; k++) {
                units[k] = 1 + test_below(i % 2 ? 3 : UNITS);
            }
            good &= run(t, n, units, 1 + test_below(ITEMS));
            if (i % 100 == 50) {
                usleep(2000);           /* members fall asleep */
            }
        }
        ok(good, "%u threads: every unit once, items in order", n);
        cpu_team_close(t);
    }
    if (cpu_team_open(&t, 3, ITEMS, cpus, &err) == INFER_OK) {
        units[0] = UNITS;
        ok(run(t, 3, units, 1), "pinned threads");
        cpu_team_close(t);
    } else {
        ok(0, "%s", err.text);
    }
    check_parallel();
    return tap_done();
}
