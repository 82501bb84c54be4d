/*
 * collective.cpp: what threads do together: block barriers, warp
 * collectives, vector accesses and asynchronous copies.
 */

#include "fiber.h"

namespace simt {

/* ---- barriers ---- */

int barrier_count(int pred, const char *file, int line)
{
    Block *b = cur_block;
    Fiber *f = cur_fiber;

    f->state = AT_BARRIER;
    f->file = file;
    f->line = line;
    b->n_barrier++;
    b->pred_sum += pred;
    to_sched();
    return b->pred_out;
}

void barrier(const char *file, int line)
{
    barrier_count(0, file, line);
}

/* ---- warp collectives ---- */

/* The mask with lanes cut off that a short last warp does not have. */
static unsigned existing(const Warp *w, unsigned mask, const char *file,
    int line)
{
    unsigned exist = w->n == 32 ? ~0u : (1u << w->n) - 1;

    if ((mask & ~exist) && mask != ~0u) {
        fail("%s:%d: mask %08x names lanes beyond the block", file, line,
             mask);
    }
    return mask & exist;
}

/* The open collective of that mask, or a new one. */
static Coll *find_or_open(Warp *w, int op, unsigned mask, const char *file,
    int line)
{
    Coll *spare = nullptr;

    for (Coll &c : w->coll) {
        if (c.mask == mask && !c.done) {
            if (c.op != op || c.line != line || strcmp(c.file, file)) {
                fail("divergent warp collective: lane %u at %s:%d, others "
                     "at %s:%d", cur_fiber->lane, file, line, c.file,
                     c.line);
            }
            return &c;
        }
        if (c.mask == 0) {
            spare = &c;
        }
    }
    if (!spare) {
        fail("%s:%d: more than 4 warp collectives open at once in a warp",
             file, line);
    }
    spare->mask = mask;
    spare->arrived = spare->left = 0;
    spare->op = op;
    spare->file = file;
    spare->line = line;
    spare->done = false;
    return spare;
}

Coll *enter(int op, unsigned mask, const void *v, size_t n, const char *file,
    int line, Finish fin)
{
    Fiber *f = cur_fiber;
    Warp  *w = f->warp;
    Coll  *c;

    if (!(mask >> f->lane & 1)) {
        fail("%s:%d: lane %u calls a warp collective whose mask %08x leaves "
             "it out", file, line, f->lane, mask);
    }
    mask = existing(w, mask, file, line);
    if (mask & ~w->alive) {
        fail("%s:%d: mask %08x of a warp collective names exited lanes "
             "(alive %08x)", file, line, mask, w->alive);
    }
    c = find_or_open(w, op, mask, file, line);
    if (n) {
        memcpy(c->val[f->lane], v, n);
    }
    c->arrived |= 1u << f->lane;
    if (c->arrived != mask) {
        f->state = IN_COLL;
        f->coll = c;
        f->file = file;
        f->line = line;
        to_sched();
        return c;
    }

    /* the last one */
    if (fin) {
        fin(c);
    }
    c->done = true;
    if (op == OP_SYNC) {
        w->epoch++;
    }
    for (int i = 0; i < w->n; i++) {
        if (w->fiber[i].state == IN_COLL && w->fiber[i].coll == c) {
            w->fiber[i].state = READY;
        }
    }
    return c;
}

void leave(Coll *c)
{
    c->left |= 1u << cur_fiber->lane;
    if (c->left == c->mask) {
        c->mask = 0;
    }
}

/* ---- vector accesses ---- */

void load(void *dst, const void *p, size_t n)
{
    if ((uintptr_t) p & (n - 1)) {
        fail("misaligned load of %zu bytes at %p", n, p);
    }
    touch(p, n, false, false, __builtin_return_address(0));
    memcpy(dst, p, n);
}

void store(void *p, const void *src, size_t n)
{
    if ((uintptr_t) p & (n - 1)) {
        fail("misaligned store of %zu bytes at %p", n, p);
    }
    touch(p, n, true, false, __builtin_return_address(0));
    memcpy(p, src, n);
}

/* ---- asynchronous copies ---- */

void cp_async(void *dst, const void *src, int n, int valid)
{
    if (((uintptr_t) dst | (valid ? (uintptr_t) src : 0))
        & (unsigned) (n - 1))
    {
        fail("misaligned cp.async of %d bytes", n);
    }
    if (!in_dyn(dst, (size_t) n) && in_stack(dst)) {
        fail("cp.async into local memory");
    }
    if (valid) {
        touch(src, (size_t) valid, false, false,
              __builtin_return_address(0));
    }
    touch(dst, (size_t) n, true, false, __builtin_return_address(0));
    if (hook_issue) {
        hook_issue(dst, (size_t) n);
    }
    memset(dst, 0xff, (size_t) n);
    cur_fiber->open.push_back({dst, src, n, valid});
}

void cp_commit()
{
    cur_fiber->groups.push_back(std::move(cur_fiber->open));
    cur_fiber->open.clear();
}

void cp_wait(int keep, const char *, int)
{
    std::vector<std::vector<Copy>> &groups = cur_fiber->groups;

    while ((int) groups.size() > keep) {
        for (const Copy &c : groups.front()) {
            memcpy(c.dst, c.src, (size_t) c.valid);
            memset((char *) c.dst + c.valid, 0, (size_t) (c.n - c.valid));
            if (hook_landed) {
                hook_landed(c.dst, (size_t) c.n);
            }
        }
        groups.erase(groups.begin());
    }
}

}  // namespace simt
