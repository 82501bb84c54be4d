/*
 * load.c: brings a model into the engine: descriptors from the control
 * channel, sizes from the bus, weights, text image, KV pages and the arrays
 * of a step. Runs before the loop; what it allocates lives as long as the
 * process.
 */

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "ipc/spawn.h"
#include "run/engine.h"

#define LOAD_MAX_FDS     4
#define LOAD_MAX_IMAGE   (1u << 30)


int
infer_engine_sizes(infer_engine_t *e, infer_err_t *err)
{
    uint32_t               i;
    uint64_t               tokens;
    infer_bus_model_t     *bm;
    infer_engine_model_t  *m;

    e->n_models = e->bus.n_models;

    for (i = 0; i < e->n_models; i++) {
        bm = &e->bus.model[i];
        m = &e->model[i];
        m->file_fd = -1;
        m->image_fd = -1;

        memcpy(m->name, bm->name, sizeof(m->name));
        m->name[sizeof(m->name) - 1] = '\0';
        m->context = bm->context;
        m->max_seqs = bm->sequences;
        m->batch_tokens = bm->batch_tokens;
        m->step_us = bm->step_us;
        m->n_pages = bm->n_pages;

        if (m->context == 0 || m->max_seqs == 0 || m->batch_tokens == 0
            || m->n_pages == 0 || m->max_seqs > INFER_MAX_SLOTS
            || m->batch_tokens > 1u << 16
            || m->step_us > INFER_MAX_STEP_US || m->context > 1u << 28
            || m->n_pages > 1u << 28 || bm->kv_type >= KERN_N_KV_TYPES
            || bm->precision >= KERN_N_PRECS || bm->gpu_permille > 1000)
        {
            return infer_err(err, INFER_CORRUPT,
                             "a size of model \"%s\" is out of range",
                             m->name);
        }

        if (m->max_seqs > m->batch_tokens) {
            m->max_seqs = m->batch_tokens;
        }

        /* one sequence alone must always be able to go on */
        tokens = (uint64_t) m->n_pages * KERN_PAGE_TOKENS;
        if (m->context > tokens) {
            m->context = (uint32_t) tokens;
        }
    }

    return INFER_OK;
}

static void
load_keep(infer_engine_t *e, const infer_control_t *msg, const int *fd,
    uint32_t n)
{
    uint32_t               i, kept = 0;
    infer_engine_model_t  *m;

    if (msg->type == INFER_CTL_MODEL && msg->model < e->n_models && n == 2) {
        m = &e->model[msg->model];
        if (m->file_fd < 0 && m->model == NULL) {
            m->file_fd = fd[0];
            m->image_fd = fd[1];
            kept = 2;
        }
    }

    /* doubles, and what we do not know */
    for (i = kept; i < n; i++) {
        close(fd[i]);
    }
}

/* One datagram; 0 when there is none. */
static int
load_receive_one(infer_engine_t *e)
{
    int              fd[LOAD_MAX_FDS];
    ssize_t          n;
    uint32_t         n_fds = 0;
    struct iovec     iov;
    struct msghdr    mh;
    infer_control_t  msg;
    struct cmsghdr  *c;
    union {
        struct cmsghdr  align;
        char            buf[CMSG_SPACE(LOAD_MAX_FDS * sizeof(int))];
    } ctl;

    memset(&mh, 0, sizeof(mh));
    memset(&msg, 0, sizeof(msg));
    iov.iov_base = &msg;
    iov.iov_len = sizeof(msg);
    mh.msg_iov = &iov;
    mh.msg_iovlen = 1;
    mh.msg_control = ctl.buf;
    mh.msg_controllen = sizeof(ctl.buf);

    n = recvmsg(e->control_fd, &mh, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (n < 0) {
        return errno == EINTR;
    }

    for (c = CMSG_FIRSTHDR(&mh); c != NULL; c = CMSG_NXTHDR(&mh, c)) {
        if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS) {
            n_fds = (uint32_t) ((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));
            memcpy(fd, CMSG_DATA(c), n_fds * sizeof(int));
        }
    }

    if (n == 0 && n_fds == 0) {
        return 0;                          /* no sender is left */
    }

    load_keep(e, &msg, fd, n == sizeof(msg) ? n_fds : 0);
    if (n != sizeof(msg)) {
        while (n_fds > 0) {
            close(fd[--n_fds]);
        }
    }

    return 1;
}

uint32_t
infer_engine_receive(infer_engine_t *e)
{
    uint32_t  i, n = 0;

    while (load_receive_one(e)) {
        continue;
    }

    for (i = 0; i < e->n_models; i++) {
        n += e->model[i].file_fd >= 0;
    }

    return n;
}

/* The image is used in place only when nobody can change it any more. */
static int
load_image(infer_engine_model_t *m, infer_err_t *err)
{
    int          seals, want = F_SEAL_SHRINK | F_SEAL_WRITE;
    ssize_t      n;
    size_t       at = 0;
    struct stat  st;

    if (fstat(m->image_fd, &st) != 0 || st.st_size <= 0
        || st.st_size > LOAD_MAX_IMAGE)
    {
        return infer_err(err, INFER_CORRUPT, "the text image is damaged");
    }

    m->image_bytes = (size_t) st.st_size;
    seals = fcntl(m->image_fd, F_GET_SEALS);

    if (seals >= 0 && (seals & want) == want) {
        m->image = mmap(NULL, m->image_bytes, PROT_READ, MAP_SHARED,
                        m->image_fd, 0);
        if (m->image == MAP_FAILED) {
            m->image = NULL;
            return infer_err(err, INFER_NOMEM,
                             "cannot map the text image: %s",
                             strerror(errno));
        }
        m->image_mapped = 1;

    } else {
        m->image = malloc(m->image_bytes);
        if (m->image == NULL) {
            return infer_err(err, INFER_NOMEM,
                             "no memory for the text image");
        }

        while (at < m->image_bytes) {
            n = pread(m->image_fd, (char *) m->image + at,
                      m->image_bytes - at, (off_t) at);
            if (n <= 0) {
                return infer_err(err, INFER_CORRUPT,
                                 "cannot read the text image");
            }
            at += (size_t) n;
        }
    }

    return infer_text_open(&m->text, m->image, m->image_bytes, err);
}

/* ---- the weights ---- */

typedef struct {
    infer_engine_t  *e;
    uint32_t         model;
} load_arg_t;

static void
load_progress(void *arg, int percent)
{
    load_arg_t  *a = arg;

    atomic_store(&a->e->bus.hdr->load_percent,
                 (100 * a->model + (uint32_t) percent) / a->e->n_models);
    atomic_store(&a->e->bus.hdr->heartbeat_us, infer_now_us());
}

static void
load_notice(void *arg, const char *text)
{
    load_arg_t  *a = arg;

    infer_engine_log(a->e, INFER_LOG_NOTICE, "infer model \"%s\": %s",
                     a->e->model[a->model].name, text);
}

static int
load_cancelled(void *arg)
{
    load_arg_t  *a = arg;

    return atomic_load(&a->e->ending) || infer_engine_sweep(a->e);
}

static int
load_weights(infer_engine_t *e, uint32_t i, infer_err_t *err)
{
    int                    rc;
    load_arg_t             arg = { e, i };
    infer_gguf_t          *gguf;
    const kern_ops_t      *ops;
    infer_engine_model_t  *m = &e->model[i];
    infer_model_conf_t     conf = {
        .context = m->context, .max_rows = m->batch_tokens,
        .max_outs = m->max_seqs, .max_seqs = m->max_seqs,
        .n_pages = m->n_pages, .kv_type = e->bus.model[i].kv_type,
        .n_threads = e->n_threads, .precision = e->bus.model[i].precision,
        .gpu_bytes = e->bus.model[i].gpu_bytes,
        .gpu_fraction = (float) e->bus.model[i].gpu_permille / 1000,
        .cpus = e->n_cpus >= e->n_threads ? e->cpus : NULL,
        .progress = load_progress, .progress_arg = &arg,
        .notice = load_notice,
        .cancelled = load_cancelled
    };
    char                   device[16], isa[16];

    snprintf(device, sizeof(device), "%.15s", e->bus.model[i].device);
    snprintf(isa, sizeof(isa), "%.15s", e->bus.hdr->isa);

    ops = kern_init(device[0] ? device : "cpu", isa[0] ? isa : "auto", err);
    if (ops == NULL) {
        return INFER_UNSUPPORTED;
    }
    conf.device = (uint32_t) kern_device(device[0] ? device : "cpu");

    rc = infer_gguf_open(&gguf, m->file_fd, err);
    if (rc != INFER_OK) {
        return rc;
    }

    rc = infer_model_load(&m->model, gguf, ops, &conf, err);
    infer_gguf_close(gguf);
    if (rc != INFER_OK) {
        return rc;
    }

    m->vocab = infer_model_info(m->model)->vocab;
    m->n_pages = infer_model_pages(m->model);
    atomic_store(&e->bus.model[i].pages_total, m->n_pages);
    atomic_store(&e->bus.hdr->numerics, kern_numerics(ops, conf.kv_type));
    infer_engine_log(e, INFER_LOG_NOTICE,
                     "infer model \"%s\" loaded: %s, %u threads, context %u, "
                     "%u sequences, %u KV pages of %s", m->name, ops->name,
                     e->n_threads, m->context, m->max_seqs, m->n_pages,
                     kern_kv_name(conf.kv_type));

    return INFER_OK;
}

static int
load_flights(infer_engine_model_t *m, const kern_ops_t *ops)
{
    uint32_t  k;

    for (k = 0; k < m->depth; k++) {
        m->flight[k].plan.item = calloc(m->max_seqs,
                                        sizeof(infer_plan_item_t));
        m->flight[k].out = calloc(m->max_seqs, sizeof(infer_out_t));
        if (m->flight[k].plan.item == NULL || m->flight[k].out == NULL) {
            return INFER_NOMEM;
        }
    }

    if (ops->sample != NULL) {
        m->max_edits = KERN_MAX_EDITS;
        m->sample = calloc(m->max_seqs, sizeof(m->sample[0]));
        m->edit = calloc((size_t) m->max_seqs * KERN_MAX_EDITS,
                         sizeof(m->edit[0]));
        if (m->sample == NULL || m->edit == NULL) {
            return INFER_NOMEM;
        }
    }

    return INFER_OK;
}

int
infer_engine_arrays(infer_engine_t *e, infer_engine_model_t *m,
    infer_err_t *err)
{
    uint32_t            k;
    const kern_ops_t   *ops = infer_model_ops(m->model);
    infer_sched_conf_t  conf = {
        .max_seqs = m->max_seqs, .max_waiting = e->bus.n_slots,
        .batch_tokens = m->batch_tokens, .step_us = m->step_us
    };

    m->n_scratch = e->n_threads < m->max_seqs ? e->n_threads : m->max_seqs;
    m->token = calloc(m->batch_tokens, sizeof(m->token[0]));
    m->kseq = calloc(m->max_seqs, sizeof(m->kseq[0]));
    m->out_row = calloc(m->max_seqs, sizeof(m->out_row[0]));
    m->scratch = calloc(m->n_scratch, sizeof(m->scratch[0]));
    m->depth = ops->depth < INFER_MAX_DEPTH ? ops->depth : INFER_MAX_DEPTH;

    if (m->token == NULL || m->kseq == NULL || m->out_row == NULL
        || m->scratch == NULL || load_flights(m, ops) != INFER_OK
        || infer_kv_init(&m->kv, m->n_pages, e->bus.hdr->hash_key)
           != INFER_OK
        || infer_sched_init(&m->sched, &conf, &m->kv) != INFER_OK)
    {
        return infer_err(err, INFER_NOMEM, "no memory for the scheduler");
    }

    for (k = 0; k < m->n_scratch; k++) {
        m->scratch[k] = malloc(infer_sample_scratch(m->vocab));
        if (m->scratch[k] == NULL) {
            return infer_err(err, INFER_NOMEM, "no memory for sampling");
        }
    }

    return INFER_OK;
}

int
infer_engine_load(infer_engine_t *e, uint32_t i, infer_err_t *err)
{
    int                    rc;
    infer_engine_model_t  *m = &e->model[i];

    if ((rc = load_weights(e, i, err)) != INFER_OK
        || (rc = load_image(m, err)) != INFER_OK
        || (rc = infer_engine_arrays(e, m, err)) != INFER_OK)
    {
        return rc;
    }

    infer_content_keep(e, i, m->file_fd);
    close(m->image_fd);
    m->file_fd = -1;
    m->image_fd = -1;
    atomic_store(&e->bus.model[i].loaded, 1);

    return INFER_OK;
}

void
infer_engine_unload(infer_engine_t *e, uint32_t i)
{
    uint32_t               k;
    infer_engine_model_t  *m = &e->model[i];

    infer_engine_drain(m);
    for (k = 0; m->scratch != NULL && k < m->n_scratch; k++) {
        free(m->scratch[k]);
    }

    free(m->scratch);
    for (k = 0; k < INFER_MAX_DEPTH; k++) {
        free(m->flight[k].plan.item);
        free(m->flight[k].out);
    }

    free(m->token);
    free(m->kseq);
    free(m->out_row);
    free(m->sample);
    free(m->edit);
    infer_sched_done(&m->sched);
    infer_kv_done(&m->kv);
    infer_text_close(m->text);
    infer_model_free(m->model);

    if (m->image_mapped) {
        munmap(m->image, m->image_bytes);
    } else {
        free(m->image);
    }

    memset(m, 0, sizeof(*m));
    m->file_fd = -1;
    m->image_fd = -1;
}
