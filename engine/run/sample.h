/*
 * sample.h: from one row of logits to one token, by the definition in
 * DESIGN.md 4: logit bias, bans, penalties, temperature, top_k, top_p,
 * min_p, draw. Pure code: the same request, logged ids and logits give the
 * same token, on any thread, in any batch, before and after a crash.
 *
 * A sampler has sequence lifetime and belongs to one sequence; different
 * samplers may be used by several threads at once, each call with a scratch
 * of its own. Nothing is allocated after infer_sampler_new().
 *
 * Random numbers: Philox4x32-10 (Salmon et al., "Parallel random numbers: as
 * easy as 1, 2, 3", SC 2011), key = (low, high half of the seed), counter =
 * (output index, choice, purpose, 0), r = word 0 + 2^32 * word 1.
 */

#ifndef INFER_RUN_SAMPLE_H
#define INFER_RUN_SAMPLE_H

#include "infer.h"
#include "kern.h"

typedef struct infer_sampler_s  infer_sampler_t;

typedef struct {
    int32_t      id;
    float        logprob;         /* of id; 0 when none was asked for */
    infer_top_t  top[INFER_MAX_TOP_LOGPROBS];  /* top_logprobs of them; id
                                     -1 where the vocabulary is smaller */
} infer_sampled_t;

/* purpose word of the counter */
#define INFER_SAMPLE_DRAW  0u

/* Everything is copied. Ids outside the vocabulary are left out. choice: the
 * index in the request, so that n choices differ. NOMEM, INVALID. */
int infer_sampler_new(infer_sampler_t **s, const infer_sampling_t *params,
    uint32_t choice, uint32_t vocab, const infer_bias_t *biases,
    uint32_t n_biases, const int32_t *stop_ids, uint32_t n_stop_ids,
    const int32_t *eog_ids, uint32_t n_eog_ids, const int32_t *prompt,
    uint32_t n_prompt);
void infer_sampler_free(infer_sampler_t *s);

/* The sequence's next output token, drawn here or replayed from the log. */
void infer_sampler_accept(infer_sampler_t *s, int32_t id);

/* Bytes of scratch that infer_sample() needs, any alignment. */
size_t infer_sample_scratch(uint32_t vocab);

/* Chooses the next token; does not accept it. logits[0..vocab) is
 * overwritten. DEVICE when the row holds a NaN or +inf or nothing above
 * -inf, INVALID when biases and bans leave no token: both fail this sequence
 * only. */
int infer_sample(const infer_sampler_t *s, const kern_ops_t *ops,
    float *logits, void *scratch, infer_sampled_t *out);

/* Logits that the next token's row has changed: the most that export writes. */
uint32_t infer_sampler_edits(const infer_sampler_t *s);
/* For a device that samples (kern.h): what infer_sample() would do with the
 * row once `ahead` more tokens are accepted, whatever they are; not 0 only
 * where infer_sampler_needs_last() is. edit has room for
 * infer_sampler_edits(). to->out is the caller's, mask NULL. */
void infer_sampler_export(const infer_sampler_t *s, uint32_t ahead,
    kern_edit_t *edit, kern_sample_t *to);
/* 1: the next token depends on the last one beyond its place in the context,
 * so that must be accepted first (penalties). */
int infer_sampler_needs_last(const infer_sampler_t *s);

/* Philox4x32-10 itself, for tests. */
void infer_philox(const uint32_t ctr[4], const uint32_t key[2],
    uint32_t out[4]);

#endif
