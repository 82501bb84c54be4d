/*
 * sequence.h: one generation inside the engine: everything that follows from
 * a slot's request and the ids of its log. Built from a slot, whether that is
 * new or was left by an engine that died: the log is replayed, so both ways
 * lead to the same state. Loop thread only; one allocation set per sequence,
 * nothing is allocated by a step.
 */

#ifndef INFER_RUN_SEQUENCE_H
#define INFER_RUN_SEQUENCE_H

#include "ipc/bus.h"
#include "run/sample.h"
#include "run/sched.h"
#include "text/stream.h"

typedef struct infer_seq_s  infer_seq_t;

struct infer_seq_s {
    infer_sched_seq_t   sched;             /* first: the plan points here */
    infer_ref_t         ref;
    uint32_t            model;             /* index */
    uint32_t            context;           /* n_known never exceeds it */
    uint32_t            n_prompt;
    uint32_t            n_out;             /* output tokens accepted */
    uint32_t            max_out;
    uint32_t            finish;            /* INFER_FINISH_*, once ended */
    int32_t            *token;             /* prompt, then output */
    infer_sampling_t    params;            /* checked copy */
    uint64_t            submit_us;
    uint64_t            last_us;           /* of the last token, this life */
    uint32_t            n_flying;          /* launched steps that it is in */
    uint32_t            out;               /* its output in the last of them */
    const infer_text_t *text;
    infer_stream_t     *stream;
    infer_sampler_t    *sampler;
    infer_cursor_t      cursor;            /* of the log */
    uint32_t            n_stop_ids;
    int32_t             stop_id[INFER_MAX_STOP_IDS];
};

/* What a sequence needs of its model. */
typedef struct {
    const infer_text_t *text;
    uint32_t            model;
    uint32_t            context;
    uint32_t            vocab;
} infer_seq_env_t;

/*
 * Copies a slot's request out of shared memory, checks the copy and replays
 * the log. INVALID (a value out of range), CORRUPT (a damaged extent or log)
 * or NOMEM, with a sentence for the client; the slot is left alone. After OK
 * seq->finish tells whether the log had ended already; sched.waits is what
 * the request asks for.
 */
int infer_seq_new(infer_seq_t **seq, const infer_bus_t *bus, infer_ref_t ref,
    const infer_seq_env_t *env, infer_err_t *err);
/* Priority and deadlines once more, which a new reader of the slot may have
 * raised. 1: a deadline has changed. */
int infer_seq_terms(infer_seq_t *seq, const infer_slot_t *slot,
    infer_sched_t *sched);
/* sched.state must be NONE. */
void infer_seq_free(infer_seq_t *seq);

/* Takes one output token in: text, penalties, stop conditions. *rec gets id,
 * flags and visible bytes; logprob is the caller's. */
void infer_seq_accept(infer_seq_t *seq, int32_t id, infer_record_t *rec);

#endif
