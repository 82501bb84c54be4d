/*
 * cpu_ctx.h: the CPU backend's context (one model on one team) and the
 * functions of the outer table, each in the file that its name says.
 * Lifetime: process; everything is sized at open, nothing is allocated in
 * a step.
 */

#ifndef KERN_CPU_CTX_H
#define KERN_CPU_CTX_H

#include "cpu.h"
#include "cpu_team.h"

#define CPU_ROW_TILE  32     /* rows whose gate and up outputs stay in L1 */
#define CPU_ROW_BLOCK 128    /* rows of one unit of the other linears */
#define CPU_FFN_UNIT  (2 * CPU_STRIPE)   /* whole blocks of 32 columns */
#define CPU_QTILE     12     /* query vectors of one attention call */
#define CPU_SPLIT     2      /* fewer units a thread: attention is split */
#define CPU_SPLIT_MIN 3      /* and from so many chunks on */
#define CPU_KV_HUGE   65536  /* KV pages from here on: memory in huge pages */
#define CPU_OWN_ROWS  4      /* up to here each thread norms all rows itself */

typedef struct cpu_phase_s  cpu_phase_t;

/* One unit of a phase. */
typedef void (*cpu_phase_pt)(kern_ctx_t *c, cpu_phase_t *ph, uint32_t unit,
    uint32_t tid);

struct cpu_phase_s {
    cpu_phase_pt          fn;
    uint32_t              layer;
    uint32_t              n_rows;
    const float          *norm;
    const uint32_t       *idx;        /* rows of x, NULL: all */
    const kern_weight_t  *w[3];       /* matrices of the phase */
    const kern_weight_t  *dest;       /* matrix that takes the output */
};

/* Arena of packed weights: huge-page slabs, freed when empty. */
typedef struct cpu_slab_s {
    struct cpu_slab_s  *next;
    uint8_t            *base;
    size_t              size, used;
    uint32_t            live;
} cpu_slab_t;

/* A tile of consecutive rows of one sequence for attention. */
typedef struct {
    uint32_t  seq;
    uint32_t  row, n_rows;
} cpu_qtile_t;

/* The phase whose input a thread holds in its rows of ctx.own; NULL: none.
 * Written by that thread, cleared between steps. */
typedef struct {
    const cpu_phase_t  *ph;
    char                pad[56];
} cpu_own_t;

struct kern_ctx_s {
    const cpu_inner_t  *in;
    kern_shape_t        shape;
    float              *inv_freq;
    uint32_t            v_dim;
    uint32_t            qkv_dim;       /* (H + 2G) * K */
    uint32_t            tile_rows;     /* query rows of one attention call */
    float               q_scale;       /* 1 / sqrt(K) */

    cpu_team_t         *team;
    cpu_slab_t         *slabs;

    uint8_t            *kv;            /* n_pages * page_bytes, NORESERVE */
    size_t              page_bytes, kv_bytes;

    uint8_t            *scratch;       /* one mapping, cut up below */
    size_t              scratch_bytes;
    float              *x;             /* [T, D] residual stream */
    float              *qkv;           /* [T, qkv_dim] */
    float              *att;           /* [T, H * K] */
    float              *hid;           /* [T, F] */
    float              *cs;            /* [T, 2 * rope_dim] */
    float              *logits;        /* [max_outs, V] */
    cpu_acts_t          acts;          /* [max(T, max_outs), D or H * K] */
    cpu_acts_t          acts_hid;      /* [T, F] */
    cpu_acts_t          own;           /* [n_threads * CPU_OWN_ROWS, D] */
    cpu_own_t          *own_of;        /* [n_threads] */
    float              *work;          /* [n_threads, work_floats] */
    size_t              work_floats;
    cpu_qtile_t        *qtile;         /* [T] */
    uint32_t            n_qtiles;
    uint32_t           *row_seq;       /* [T] */
    int                 whole_seqs;    /* no sequence has two tiles */
    uint32_t            n_chunks;      /* of attention split; 0: not split */
    float              *parts;         /* [CPU_SPLIT * n_threads, chunks] */

    cpu_phase_t        *phase;         /* [max_phases] */
    uint32_t           *units;         /* [max_phases] of each phase */
    uint32_t            n_phases, max_phases;
    const kern_batch_t *batch;
};

int kern_cpu_open(kern_ctx_t **ctx, const cpu_inner_t *in,
    const kern_shape_t *shape, infer_err_t *err);
void kern_cpu_close(kern_ctx_t *c);
uint64_t kern_cpu_kv_page_bytes(const kern_shape_t *shape);
void kern_cpu_kv_zero(kern_ctx_t *c, uint32_t page);
float *kern_cpu_logits(kern_ctx_t *c, uint32_t out_idx);
void kern_cpu_parallel(kern_ctx_t *c, void (*fn)(void *arg, uint32_t i),
    void *arg, uint32_t n);

int kern_cpu_pack(kern_ctx_t *c, kern_weight_t **w, const kern_src_t *src,
    infer_err_t *err);
void kern_cpu_weight_free(kern_ctx_t *c, kern_weight_t *w);
uint64_t kern_cpu_weight_bytes(const kern_weight_t *w);
void cpu_slabs_free(kern_ctx_t *c);

int kern_cpu_begin(kern_ctx_t *c, const kern_batch_t *batch);
int kern_cpu_embed(kern_ctx_t *c, const kern_weight_t *embd);
int kern_cpu_attn(kern_ctx_t *c, uint32_t layer, const kern_layer_t *w);
int kern_cpu_ffn(kern_ctx_t *c, uint32_t layer, const kern_layer_t *w);
int kern_cpu_head(kern_ctx_t *c, const float *norm, const kern_weight_t *w);
int kern_cpu_submit(kern_ctx_t *c);
int kern_cpu_wait(kern_ctx_t *c);

#endif
