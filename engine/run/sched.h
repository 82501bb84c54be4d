/*
 * sched.h: which sequences run in a step and with how many rows. Pure
 * policy: the clock comes in as a number, pages are numbers (kv.h), no
 * kernel is called and no shared memory read, so tests run it with a fake
 * clock. Loop thread only; one scheduler per model.
 *
 * A sequence is a row of n_known tokens (prompt, then output) of which the
 * first n_kv are in its pages. It is *waiting* (no pages) or *running*; a
 * running one with one token pending decodes, with more it prefills.
 *
 * A step: decode rows first, then prefill chunks in order of arrival, until
 * batch_tokens or the time of a step is used up. Pages are taken as they are
 * needed; when there are none, the youngest running sequence loses its own
 * and waits again, in front of those that have not started. Priority says who
 * starts first, no more: what runs is served by order of arrival, so none that
 * has started waits for ever behind those that come. A *poisoned*
 * sequence (two engines died with it) runs in steps of its own, every other
 * step.
 *
 * Full pages that are known (kv.h) are not computed again, whoever computed
 * them: at the start, after a preemption, and when another sequence was
 * quicker. One whose next page is in the batch already, in another's rows,
 * sits the step out.
 *
 * Where the device samples, a step is planned while the one before still
 * runs: a sequence that samples there goes on one position ahead of what is
 * known (n_ahead), unless that was its last token or its next one cannot do
 * without (waits). The row is dropped if the token turns out to end it. Pages
 * are committed up to the known tokens only. A poisoned sequence never shares
 * the device: nothing else is launched beside its steps.
 *
 *   plan k+1, launch it, launched(k+1) | wait for k, ran(k), its tokens known
 */

#ifndef INFER_RUN_SCHED_H
#define INFER_RUN_SCHED_H

#include "run/kv.h"

enum {
    INFER_SEQ_NONE = 0,            /* not in the scheduler */
    INFER_SEQ_WAITING,
    INFER_SEQ_RUNNING
};

/* The scheduler's part of a sequence; the caller owns the memory and sets
 * all fields but state before infer_sched_add(). */
typedef struct {
    uint64_t          ticket;              /* order of arrival */
    int32_t           priority;            /* infer_sched_raise() changes
                                            * it */
    uint64_t          queue_deadline_us;   /* 0: none, all three */
    uint64_t          first_deadline_us;
    uint64_t          total_deadline_us;
    uint32_t          n_known;             /* caller adds output tokens */
    uint32_t          max_known;           /* none is sampled beyond */
    uint32_t          n_ahead;             /* sampled by launched steps, not
                                            * known yet; counted here */
    uint32_t          n_kv;                /* in pages after what is launched */
    infer_kv_table_t  table;
    infer_kv_key_t    key;                 /* its tokens, whose pages it may
                                            * share */
    uint32_t          n_cached;            /* prompt tokens that were found
                                            * in pages; counted here */
    uint32_t          preempted;           /* times; counted here */
    uint8_t           state;
    uint8_t           started;             /* was in a batch, ever */
    uint8_t           has_output;          /* a token was published */
    uint8_t           alone;               /* poisoned */
    uint8_t           waits;               /* for each token to be known */
} infer_sched_seq_t;

typedef struct {
    infer_sched_seq_t  *seq;
    uint32_t            first_row;
    uint32_t            n_rows;
    uint32_t            pos0;
    uint32_t            sample;            /* 1: reaches its last token */
} infer_plan_item_t;                       /* seq: NULL once it has ended */

typedef struct {
    infer_plan_item_t  *item;              /* [max_seqs], in order of rows */
    uint32_t            n_items;
    uint32_t            n_rows;
    uint32_t            n_prefill;         /* rows of prefill among them */
} infer_plan_t;

typedef struct {
    uint32_t  max_seqs;
    uint32_t  max_waiting;
    uint32_t  batch_tokens;                /* >= max_seqs */
    uint32_t  step_us;                     /* time budget; 0: 50 ms; four
                                            * times that while nobody
                                            * decodes */
} infer_sched_conf_t;

typedef struct {
    infer_sched_conf_t   conf;
    infer_kv_t          *kv;
    infer_sched_seq_t  **running;          /* by ticket */
    infer_sched_seq_t  **waiting;          /* started ones, then by priority
                                            * and ticket */
    uint32_t             n_running;
    uint32_t             n_waiting;
    uint32_t             preemptions;
    uint32_t             n_launched;       /* steps that have not run yet */
    int                  last_alone;
    /* decayed sums over prefill steps, rows x and time y */
    double               w, x, y, xx, xy;
} infer_sched_t;

/* kv stays the caller's. NOMEM, INVALID for a batch smaller than its
 * sequences. */
int infer_sched_init(infer_sched_t *s, const infer_sched_conf_t *conf,
    infer_kv_t *kv);
void infer_sched_done(infer_sched_t *s);

/* BUSY when max_waiting sequences wait. */
int infer_sched_add(infer_sched_t *s, infer_sched_seq_t *q);
/* q's priority from now on; it may change its place among the waiting. */
void infer_sched_raise(infer_sched_t *s, infer_sched_seq_t *q,
    int32_t priority);
/* Out of the scheduler, pages given back. Nothing for NONE. */
void infer_sched_remove(infer_sched_t *s, infer_sched_seq_t *q);

/* The first sequence that has a deadline in the past, or NULL; *finish gets
 * INFER_FINISH_TIMEOUT_QUEUE (never started) or INFER_FINISH_TIMEOUT. */
infer_sched_seq_t *infer_sched_expired(const infer_sched_t *s,
    uint64_t now_us, uint32_t *finish);

/* Admits, takes pages, preempts; fills plan->item (the caller's memory, of
 * max_seqs). n_items is 0 when there is nothing to do before a launched step
 * has run. */
void infer_sched_plan(infer_sched_t *s, infer_plan_t *plan);
/* The plan is on the device, which has its own copy of the page tables (or is
 * through with it): the next one may count on its positions. */
void infer_sched_launched(infer_sched_t *s, const infer_plan_t *plan);
/* It has been run. The caller now adds the tokens that it sampled. Learns
 * what a row of prefill costs. */
void infer_sched_ran(infer_sched_t *s, const infer_plan_t *plan,
    uint64_t step_us);

/* Prompt tokens, and tokens to be computed again, that are not in pages. */
uint64_t infer_sched_queued_tokens(const infer_sched_t *s);

#endif
