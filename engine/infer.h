/*
 * infer.h: the types that every part of the engine shares: result codes,
 * the error sentence, hard limits and a request's sampling parameters.
 * Types only; plain C11, no allocation, no globals. May be included by
 * ngx_module/, engine/ and kernels/.
 */

#ifndef INFER_H
#define INFER_H

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>


/* Result codes. Hot functions return only the code. */
enum {
    INFER_OK = 0,
    INFER_AGAIN = -1,        /* nothing yet, come back on an event */
    INFER_BUSY = -2,         /* full: slots, room, queue */
    INFER_NOMEM = -3,
    INFER_INVALID = -4,      /* the caller's or the client's data is wrong */
    INFER_CORRUPT = -5,      /* a file or shared memory is damaged */
    INFER_UNSUPPORTED = -6,  /* well-formed, but not something we can do */
    INFER_DEVICE = -7,
    INFER_CANCELLED = -8
};

/* Set-up functions take one of these and write the sentence that an operator
 * needs: lower case, no period, values quoted. */
typedef struct {
    int   code;
    char  text[512];
} infer_err_t;

/* Writes code and text (err may be NULL) and returns code, so that a caller
 * can write: return infer_err(err, INFER_INVALID, "bad \"%s\"", s); */
__attribute__((format(printf, 3, 4)))
static inline int
infer_err(infer_err_t *err, int code, const char *fmt, ...)
{
    va_list ap;

    if (err != NULL) {
        err->code = code;
        va_start(ap, fmt);
        (void) vsnprintf(err->text, sizeof(err->text), fmt, ap);
        va_end(ap);
    }

    return code;
}

/* Our own mistakes: aborts in builds with INFER_DEBUG (all tests). */
#ifdef INFER_DEBUG
#define infer_assert(x)  do { if (!(x)) {                                     \
        fprintf(stderr, "infer_assert: %s:%d: %s\n", __FILE__, __LINE__, #x); \
        abort(); } } while (0)
#else
#define infer_assert(x)  ((void) 0)
#endif


/* Hard limits of one generation. */
#define INFER_MAX_STOPS         16    /* stop strings */
#define INFER_MAX_STOP_BYTES    256   /* of one stop string */
#define INFER_MAX_STOP_IDS      64
#define INFER_MAX_LOGIT_BIAS    1024
#define INFER_MAX_TOP_LOGPROBS  20
#define INFER_MAX_CHOICES       128   /* prompts x n of one request */
#define INFER_MAX_EOG           16    /* end-of-generation token ids */
#define INFER_MAX_PRIORITY      8     /* of -8..8; 0 is normal, higher is
                                       * earlier */

/* How a generation ended. */
enum {
    INFER_FINISH_NONE = 0,
    INFER_FINISH_STOP,       /* end-of-generation token, stop string or id */
    INFER_FINISH_LENGTH,
    INFER_FINISH_CANCELLED,
    INFER_FINISH_TIMEOUT_QUEUE,   /* not started in time */
    INFER_FINISH_TIMEOUT,         /* first token or total time over */
    INFER_FINISH_ERROR            /* failed by us */
};

typedef struct {
    int32_t  id;
    float    bias;
} infer_bias_t;

/* One of the likeliest tokens. */
typedef struct {
    int32_t  id;
    float    logprob;
} infer_top_t;

/* Sampling parameters of one generation (DESIGN.md 4 has the definition).
 * Lives in a slot of shared memory: fixed widths, no pointers. */
typedef struct {
    uint64_t  seed;
    float     temperature;        /* 0: greedy */
    float     top_p;              /* 1: off */
    float     min_p;              /* 0: off */
    float     repetition_penalty; /* 1: off; over prompt and output */
    float     presence_penalty;   /* 0: off; over output only */
    float     frequency_penalty;
    int32_t   top_k;              /* <= 0: off */
    uint32_t  max_tokens;         /* >= 1, the ending token counts */
    uint32_t  min_tokens;
    uint32_t  top_logprobs;       /* 0..INFER_MAX_TOP_LOGPROBS */
    uint8_t   logprobs;           /* 1: logprobs wanted */
    uint8_t   ignore_eos;
    uint8_t   echo;               /* completions: prompt comes back too */
    uint8_t   reserved[5];
} infer_sampling_t;

#ifndef __cplusplus
_Static_assert(sizeof(infer_sampling_t) == 56, "infer_sampling_t");
#endif

#endif
