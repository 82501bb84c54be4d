/*
 * sample_host.c: the host's side of cu_sample(): requests into the arrays
 * that are uploaded, results into what kern_ops_t.sampled() returns. The
 * logarithm is libm's, as in engine/run/sample.c, so logprobs have its bits.
 */

#include <math.h>
#include <string.h>

#include "cuda.h"


void
cu_sample_pack(const kern_sample_t *s, uint32_t vocab, cu_sample_t *to,
    kern_edit_t *edit, uint32_t *n_edits, uint32_t *mask, uint32_t *n_words)
{
    uint32_t                 n = s->n_bias + s->n_ban + s->n_seen;
    const infer_sampling_t  *p = s->params;

    *to = (cu_sample_t) {
        .seed = p->seed, .temperature = p->temperature, .top_p = p->top_p,
        .min_p = p->min_p, .repetition = p->repetition_penalty,
        .presence = p->presence_penalty, .frequency = p->frequency_penalty,
        .top_k = p->top_k, .n_out = s->n_out, .choice = s->choice,
        .first_edit = *n_edits, .n_bias = s->n_bias, .n_ban = s->n_ban,
        .n_seen = s->n_seen, .top_logprobs = p->top_logprobs,
        .want = p->logprobs || p->top_logprobs != 0, .mask_off = UINT32_MAX
    };

    if (n != 0) {
        memcpy(edit + *n_edits, s->edit, n * sizeof(edit[0]));
        *n_edits += n;
    }
    if (s->mask != NULL) {
        to->mask_off = *n_words;
        memcpy(mask + *n_words, s->mask,
               KERN_MASK_WORDS(vocab) * sizeof(mask[0]));
        *n_words += KERN_MASK_WORDS(vocab);
    }
}

void
cu_sample_unpack(const cu_sampled_t *from, const cu_sample_t *s,
    kern_sampled_t *to)
{
    double  lse;

    to->rc = from->rc;
    to->id = from->id;
    to->logprob = 0;
    if (from->rc != INFER_OK || s->want == 0) {
        return;
    }

    lse = (double) from->max + log(from->sum);
    to->logprob = (float) ((double) from->logit - lse);
    for (uint32_t i = 0; i < s->top_logprobs; i++) {
        to->top[i].id = from->top_id[i];
        to->top[i].logprob = from->top_id[i] < 0 ? -INFINITY
                             : (float) ((double) from->top_logit[i] - lse);
    }
}
