/*
 * engine.h: the engine as its files share it. process.c starts and ends it,
 * load.c brings the models in, engine.c is the loop that owns everything
 * here, step.c runs one batch. Inside engine/run only.
 *
 * One loop thread touches all of this; the watcher thread of process.c only
 * sets `ending` and writes the wake-up, the one of content.c has `content`.
 */

#ifndef INFER_RUN_ENGINE_H
#define INFER_RUN_ENGINE_H

#include <time.h>

#include "ipc/bus.h"
#include "model/model.h"
#include "run/sequence.h"

/* nginx's levels, for infer_engine_log */
enum {
    INFER_LOG_CRIT = 3, INFER_LOG_ERR, INFER_LOG_WARN, INFER_LOG_NOTICE,
    INFER_LOG_INFO
};

/* One row whose logits are sampled. */
typedef struct {
    infer_seq_t      *seq;                 /* NULL: it has ended meanwhile */
    int               on_device;
    int               rc;
    infer_sampled_t   sampled;
} infer_out_t;

/* A step from its plan until its tokens are published. */
typedef struct {
    infer_plan_t      plan;
    infer_out_t      *out;                 /* [max_seqs] */
    uint32_t          n_outs;
    uint64_t          start_us;
} infer_flight_t;

/* A model's file, being hashed. */
typedef struct {
    int               fd;                  /* -1: nothing to do */
    int               rc;
    uint8_t           hash[16];
    uint64_t          bytes, us;
    struct timespec   mtime;               /* when it was loaded */
} infer_content_model_t;

typedef struct {
    infer_content_model_t  model[INFER_MAX_MODELS];
    uint32_t               n;
    uint32_t               taken;          /* published by the loop */
    _Atomic uint32_t       done;           /* results of the thread */
} infer_content_t;

#define INFER_MAX_DEPTH  2                 /* launched steps of a model */

typedef struct {
    int               file_fd;             /* -1: not received yet */
    int               image_fd;
    char              name[64];
    uint32_t          context;             /* of one sequence, that fits */
    uint32_t          max_seqs;
    uint32_t          batch_tokens;
    uint32_t          step_us;             /* as infer_sched_conf_t's */
    uint32_t          n_pages;
    uint32_t          vocab;
    infer_model_t    *model;               /* NULL: not loaded */
    infer_text_t     *text;
    void             *image;
    size_t            image_bytes;
    int               image_mapped;        /* else malloc'd */
    infer_kv_t        kv;
    infer_sched_t     sched;
    infer_flight_t    flight[INFER_MAX_DEPTH];
    uint32_t          depth;               /* of the backend */
    uint32_t          n_flying;            /* launched, not collected */
    uint32_t          oldest;              /* of them */
    uint64_t          ran_us;              /* when the last was collected */
    /* what the backend is given, sized at load */
    int32_t          *token;               /* [batch_tokens] */
    kern_seq_t       *kseq;                /* [max_seqs] */
    uint32_t         *out_row;             /* [max_seqs] */
    kern_sample_t    *sample;              /* [max_seqs], and */
    kern_edit_t      *edit;                /* [max_seqs * KERN_MAX_EDITS]:
                                            * NULL where the host samples */
    uint32_t          max_edits;           /* of an output that the device
                                            * samples */
    void            **scratch;             /* [n_scratch] for sampling */
    uint32_t          n_scratch;
} infer_engine_model_t;

typedef struct {
    infer_bus_t           bus;
    int                   wake_fd;
    int                   control_fd;
    int                   entry_fd0;       /* eventfd of entry k: this + k */
    uint32_t              n_threads;
    int                   cpus[128];
    uint32_t              n_cpus;
    _Atomic int           ending;          /* the watcher's: end now */

    uint32_t              n_models;
    infer_engine_model_t  model[INFER_MAX_MODELS];
    infer_content_t       content;
    infer_seq_t          *seq[INFER_MAX_SLOTS];      /* by slot */
    uint32_t              n_seqs;
    uint64_t              woken[INFER_MAX_ENTRIES / 64];

    uint64_t              now_us;
    uint64_t              sweep_us;        /* last sweep */
    uint64_t              alone_us;        /* since when no worker is there */
    uint64_t              idle_us;         /* retired, since when no work */
    uint64_t              health_us;       /* devices last looked at */
    uint64_t              rate_us;         /* tokens_per_s: window */
    uint64_t              rate_tokens;
    double                rate;
} infer_engine_t;

/* ---- log.c ---- */

/* One line for nginx's error log; to stderr as long as nobody reads it. */
__attribute__((format(printf, 3, 4)))
void infer_engine_log(infer_engine_t *e, uint32_t level, const char *fmt,
    ...);

/* ---- load.c ---- */

/* Fills sizes from the bus, checked. CORRUPT with a sentence. */
int infer_engine_sizes(infer_engine_t *e, infer_err_t *err);
/* Takes what has arrived on the control channel; returns models that have
 * their descriptors. */
uint32_t infer_engine_receive(infer_engine_t *e);
/* Loads model i, whose descriptors are there; they are not the caller's any
 * more. */
int infer_engine_load(infer_engine_t *e, uint32_t i, infer_err_t *err);
/* Its part after the weights: scheduler, pages, what a step needs. */
int infer_engine_arrays(infer_engine_t *e, infer_engine_model_t *m,
    infer_err_t *err);
void infer_engine_unload(infer_engine_t *e, uint32_t i);

/* ---- step.c ---- */

/* Launches the next batch of model m, then collects the oldest one if the
 * backend runs as many as it can, or if there was nothing to launch. 1:
 * something happened; 0: nothing to do; DEVICE: the backend is broken for
 * good. */
int infer_engine_step(infer_engine_t *e, infer_engine_model_t *m);
/* q is about to end: what launched steps make of it is dropped. */
void infer_engine_forget(infer_engine_model_t *m, const infer_seq_t *q);
/* Waits for what is launched; nothing is published. */
void infer_engine_drain(infer_engine_model_t *m);

/* ---- content.c ---- */

/* Takes over the descriptor of model i's file, which was just loaded. */
void infer_content_keep(infer_engine_t *e, uint32_t i, int fd);
/* Begins, when all models are loaded, to hash what is not known yet. */
void infer_content_start(infer_engine_t *e);
/* Publishes what is known by now; of the loop. */
void infer_content_take(infer_engine_t *e);

/* ---- health.c ---- */

/* About once a second: what the devices say about themselves. */
void infer_engine_health(infer_engine_t *e);

/* ---- engine.c ---- */

/* After an engine that died: entries, blocks and slots are put in order,
 * deaths counted. */
void infer_engine_recover(infer_engine_t *e);
/* About once a second: dead workers, slots nobody told us about. 1: nobody
 * has been there for too long, or the bus is retired and drained. */
int infer_engine_sweep(infer_engine_t *e);
/* Ends a sequence: slot DONE (or free), readers told, memory given back. */
void infer_engine_finish(infer_engine_t *e, infer_seq_t *q, uint32_t finish,
    const char *error);
/* News of q for its readers; they are woken at the end of the step. */
void infer_engine_notify(infer_engine_t *e, infer_ref_t ref);
/* Takes what was submitted and cancelled. */
void infer_engine_take(infer_engine_t *e);
/* Looks at every slot, as after a restart. */
void infer_engine_look_at_all(infer_engine_t *e);
/* One round of the loop over deadlines and models: as infer_engine_step(). */
int infer_engine_turn(infer_engine_t *e);
/* Writes the eventfds of all entries noted since the last call. */
void infer_engine_wake(infer_engine_t *e);
/* Wakes every worker that is there. */
void infer_engine_wake_all(infer_engine_t *e);
/* Runs until it has to end; an INFER_EXIT_* code. */
int infer_engine_run(infer_engine_t *e);

#endif
