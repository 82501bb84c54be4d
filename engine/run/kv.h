/*
 * kv.h: which KV page belongs to which sequence. Pure bookkeeping: numbers
 * of pages, no memory of them and no kernel; so the scheduler's tests run
 * without a model. Loop thread only.
 *
 * Lifetimes: the pool lives as long as its model, a table as long as its
 * sequence. Neither allocates between init and free.
 */

#ifndef INFER_RUN_KV_H
#define INFER_RUN_KV_H

#include "kern.h"

/* A sequence's pages; page[p / KERN_PAGE_TOKENS] holds position p. */
typedef struct {
    uint32_t  *page;
    uint32_t   n;
    uint32_t   cap;
} infer_kv_table_t;

typedef struct {
    uint32_t  *free;           /* stack, top at n_free - 1 */
    uint8_t   *stale;          /* 1: zero it before its next use */
    uint32_t   n_pages;
    uint32_t   n_free;
    uint32_t   peak;           /* pages ever in use at once */
} infer_kv_t;

/* NOMEM. Pages are handed out lowest first and the last one freed is the
 * first one used again, so pages beyond the peak are never touched. */
int infer_kv_init(infer_kv_t *kv, uint32_t n_pages);
void infer_kv_done(infer_kv_t *kv);

/* Room for the pages of `context` tokens. NOMEM. */
int infer_kv_table_init(infer_kv_table_t *t, uint32_t context);
void infer_kv_table_done(infer_kv_table_t *t);

/* Pages that hold n tokens. */
static inline uint32_t
infer_kv_pages(uint32_t n_tokens)
{
    return n_tokens / KERN_PAGE_TOKENS + (n_tokens % KERN_PAGE_TOKENS != 0);
}

/* The table holds at least n_tokens afterwards; BUSY, and nothing taken,
 * when there are not enough pages, INVALID beyond the table's context. */
int infer_kv_extend(infer_kv_t *kv, infer_kv_table_t *t, uint32_t n_tokens);
/* Keeps the pages of the first n_tokens; 0 gives back all. */
void infer_kv_truncate(infer_kv_t *kv, infer_kv_table_t *t,
    uint32_t n_tokens);

/* 1 once for a page whose content is somebody else's: the caller zeroes it.
 * A page's last life may have ended with NaNs, and 0 times NaN is not 0 for
 * a kernel that masks keys by their weight. */
int infer_kv_needs_zero(infer_kv_t *kv, uint32_t page);

#endif
