/*
 * kv.c: page numbers of the KV store: a stack of free pages, tables of
 * sequences.
 */

#include <string.h>

#include "run/kv.h"


int
infer_kv_init(infer_kv_t *kv, uint32_t n_pages)
{
    uint32_t  i;

    memset(kv, 0, sizeof(*kv));
    kv->free = calloc(n_pages, sizeof(kv->free[0]));
    kv->stale = malloc(n_pages);

    if (kv->free == NULL || kv->stale == NULL) {
        infer_kv_done(kv);
        return INFER_NOMEM;
    }

    kv->n_pages = n_pages;
    kv->n_free = n_pages;
    memset(kv->stale, 1, n_pages);
    for (i = 0; i < n_pages; i++) {
        kv->free[i] = n_pages - 1 - i;
    }

    return INFER_OK;
}

void
infer_kv_done(infer_kv_t *kv)
{
    free(kv->free);
    free(kv->stale);
    memset(kv, 0, sizeof(*kv));
}

int
infer_kv_table_init(infer_kv_table_t *t, uint32_t context)
{
    t->n = 0;
    t->cap = infer_kv_pages(context);
    t->page = calloc(t->cap, sizeof(t->page[0]));

    return t->page != NULL ? INFER_OK : INFER_NOMEM;
}

void
infer_kv_table_done(infer_kv_table_t *t)
{
    free(t->page);
    memset(t, 0, sizeof(*t));
}

int
infer_kv_extend(infer_kv_t *kv, infer_kv_table_t *t, uint32_t n_tokens)
{
    uint32_t  want = infer_kv_pages(n_tokens);

    if (want <= t->n) {
        return INFER_OK;
    }
    if (want > t->cap) {
        return INFER_INVALID;
    }
    if (want - t->n > kv->n_free) {
        return INFER_BUSY;
    }

    while (t->n < want) {
        t->page[t->n++] = kv->free[--kv->n_free];
    }

    if (kv->n_pages - kv->n_free > kv->peak) {
        kv->peak = kv->n_pages - kv->n_free;
    }

    return INFER_OK;
}

void
infer_kv_truncate(infer_kv_t *kv, infer_kv_table_t *t, uint32_t n_tokens)
{
    uint32_t  page, keep = infer_kv_pages(n_tokens);

    while (t->n > keep) {
        page = t->page[--t->n];
        infer_assert(page < kv->n_pages && kv->n_free < kv->n_pages);
        kv->stale[page] = 1;
        kv->free[kv->n_free++] = page;
    }
}

int
infer_kv_needs_zero(infer_kv_t *kv, uint32_t page)
{
    int  stale = kv->stale[page];

    kv->stale[page] = 0;

    return stale;
}
