/*
 * sample_work.cuh: what the launches of the sampler share: a row's work memory, their arguments,
 * and how a row ends.
 */

#ifndef KERN_CUDA_SAMPLE_WORK_CUH
#define KERN_CUDA_SAMPLE_WORK_CUH

#include "sample.cuh"

#define SAMPLE_PARTS    32             /* most blocks of a row */
#define SAMPLE_CHUNKS   (SAMPLE_PARTS * SAMPLE_WARPS)
#define SAMPLE_WINDOWS  6
#define SAMPLE_LIST     16384          /* candidates that are listed; more are found in the row */
#define SAMPLE_LANES    8              /* of the f64 sum */

/* How far a row is. */
enum { ROW_DONE = 0, ROW_EDITED, ROW_RANDOM, ROW_RANGE, ROW_LISTED, ROW_DENSE };

typedef struct {
    uint32_t  counter[4];              /* blocks that are through, of a launch */
    uint32_t  mode;
    uint32_t  failed;
    float     raw_max;
    float     scale;                   /* 1 / temperature */
    float     max;                     /* scaled */
    float     least;                   /* of candidates, scaled */
    uint32_t  lo, n;                   /* tokens, or entries of list, to look at */
    u64       target;                  /* ROW_RANGE: of the draw, from lo on */
    u64       need;                    /* weight that top_p keeps when there is no top_k */
    u64       part[SAMPLE_PARTS];      /* largest rank */
    u64       weight[SAMPLE_WINDOWS][SAMPLE_CHUNKS];
    uint32_t  count[SAMPLE_WINDOWS][SAMPLE_CHUNKS];
    uint32_t  place[SAMPLE_CHUNKS];    /* in list */
    uint32_t  list[SAMPLE_LIST];       /* ids, ascending */
    float     scaled[SAMPLE_LIST];     /* their logits, scaled */
    /* of the log-sum: what a chunk adds to a lane, nearly; exactly, to a sum with this exponent
     * field (0: it is not known beforehand) */
    double        sum[SAMPLE_LANES][SAMPLE_CHUNKS];
    sample_add_t  add[SAMPLE_LANES][SAMPLE_CHUNKS];
    uint32_t      add_exp[SAMPLE_LANES][SAMPLE_CHUNKS];
} sample_work_t;

/* Arguments of all launches. */
typedef struct {
    const float        *logits;
    const int32_t      *out_row;
    const cu_sample_t  *sample;
    const kern_edit_t  *edit;
    const uint32_t     *mask;
    int32_t            *sampled;
    cu_sampled_t       *out;
    uint8_t            *work;
    uint32_t            vocab;
    uint32_t            chunk;         /* ids of one warp's part, a multiple of 32 */
} sample_args_t;

__device__ static const float  sample_depth[SAMPLE_WINDOWS] = { 1.5f, 4, 6.5f, 9, 12, 23 };


static inline __host__ __device__ size_t
sample_row_bytes(uint32_t vocab)
{
    return (sizeof(sample_work_t) + (size_t) vocab * sizeof(float) + 255) / 256 * 256;
}

DEV_INLINE sample_work_t *
sample_work(const sample_args_t *a, uint32_t i)
{
    return (sample_work_t *) (a->work + i * sample_row_bytes(a->vocab));
}

/* The row as the request has edited it, in the work memory. */
DEV_INLINE float *
sample_copy(sample_work_t *w)
{
    return (float *) (w + 1);
}

DEV_INLINE bool
sample_wants_log(const cu_sample_t *s)
{
    return s->want != 0 || s->top_logprobs != 0;
}

/* Neither top_k nor top_p nor min_p. */
DEV_INLINE bool
sample_is_plain(const cu_sample_t *s)
{
    return s->top_k <= 0 && s->top_p >= 1 && s->min_p <= 0;
}

DEV_INLINE bool
sample_is_edited(const cu_sample_t *s)
{
    return s->n_bias != 0 || s->n_ban != 0 || s->n_seen != 0 || s->mask_off != UINT32_MAX;
}

DEV_INLINE const float *
sample_source(const sample_args_t *a, uint32_t i)
{
    return sample_is_edited(&a->sample[i]) ? sample_copy(sample_work(a, i))
                                           : a->logits + (size_t) i * a->vocab;
}

DEV_INLINE void
sample_finish(const sample_args_t *a, uint32_t i, uint32_t id)
{
    a->out[i].id = (int32_t) id;
    a->out[i].rc = INFER_OK;
    a->out[i].logit = a->logits[(size_t) i * a->vocab + id];
    a->sampled[i] = (int32_t) id;
}

/* The row fails; the next step may still look its token up. */
DEV_INLINE void
sample_fail(const sample_args_t *a, uint32_t i, int rc)
{
    sample_work_t  *w = sample_work(a, i);

    w->mode = ROW_DONE;
    w->failed = 1;
    a->out[i].id = 0;
    a->out[i].rc = rc;
    a->out[i].logit = 0;
    a->out[i].max = 0;
    a->out[i].sum = 0;
    a->sampled[i] = 0;
}

#endif
