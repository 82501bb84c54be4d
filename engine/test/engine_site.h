/*
 * engine_site.h: what a worker and the master do, for tests of the real
 * engine process: a tiny model in a memfd, its text image, a bus, the
 * descriptors, and a spawned ngx_infer_engine that is a child of the test.
 */

#ifndef INFER_ENGINE_SITE_H
#define INFER_ENGINE_SITE_H

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "ipc/bus.h"
#include "ipc/spawn.h"
#include "model/gguf.h"
#include "tap.h"
#include "text/stream.h"
#include "tool/tiny_gguf.h"

/* not every test uses all of it */
#pragma GCC diagnostic ignored "-Wunused-function"

#define SITE_SLOTS    32
#define SITE_OUT      2048

typedef struct {
    char          engine[4096];        /* path */
    infer_bus_t   bus;
    uint32_t      n_models;
    int           model_fd, image_fd;
    int           wake_fd, entry_fd, other_fd;
    int           lifeline[2], control[2];
    uint32_t      entry;
    pid_t         pid;
} site_t;

typedef struct {
    uint32_t      context, sequences, batch_tokens, n_pages;
    uint32_t      n_models;            /* 0: one; all are the same file */
    int32_t       nan_token;           /* its embedding is not a number */
    uint32_t      kv_type;             /* KERN_KV_* */
} site_conf_t;

/* What came of one generation. */
typedef struct {
    uint32_t        finish, n, n_prompt;
    infer_record_t  rec[SITE_OUT];
    char            error[96];
} site_out_t;


__attribute__((noreturn, format(printf, 1, 2)))
static void
site_bail(const char *fmt, ...)
{
    va_list  ap;

    va_start(ap, fmt);
    printf("Bail out! ");
    vprintf(fmt, ap);
    printf("\n");
    va_end(ap);
    exit(1);
}

static int
site_memfd(const void *p, size_t len, int seal)
{
    int  fd = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING);

    if (fd < 0 || write(fd, p, len) != (ssize_t) len
        || (seal && fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW
                          | F_SEAL_WRITE) != 0))
    {
        site_bail("memfd: %s", strerror(errno));
    }

    return fd;
}

/* The engine lies two directories above the test. */
static void
site_find_engine(site_t *s)
{
    int      i;
    ssize_t  n = readlink("/proc/self/exe", s->engine, 4000);
    char    *p;

    s->engine[n > 0 ? n : 0] = '\0';
    for (i = 0; i < 3; i++) {
        p = strrchr(s->engine, '/');
        if (p == NULL) {
            site_bail("no engine beside the tests");
        }
        *p = '\0';
    }
    strcat(s->engine, "/ngx_infer_engine");

    if (access(s->engine, X_OK) != 0) {
        site_bail("%s is not there", s->engine);
    }
}

static void
site_break_row(site_t *s, infer_gguf_t *gguf, int32_t token)
{
    float                       row[64];
    const infer_gguf_tensor_t  *t;

    t = infer_gguf_tensor(gguf, "token_embd.weight");
    memset(row, 0xff, sizeof(row));
    if (t == NULL || t->type != TINY_F32
        || pwrite(s->model_fd, row, sizeof(row),
                  (off_t) (t->offset + (uint64_t) token * t->dim[0] * 4))
           != (ssize_t) sizeof(row))
    {
        site_bail("no embedding to break");
    }
}

static void
site_model(site_t *s, const site_conf_t *conf)
{
    void          *file, *image;
    size_t         len;
    tiny_conf_t    tiny = tiny_default;
    infer_err_t    err;
    infer_gguf_t  *gguf;

    if (conf->nan_token != 0) {
        tiny.type = TINY_F32;
    }
    file = tiny_build(&tiny, &len);
    if (file == NULL) {
        site_bail("no model");
    }
    s->model_fd = site_memfd(file, len, 0);
    free(file);

    if (infer_gguf_open(&gguf, s->model_fd, &err) != INFER_OK
        || infer_text_build(gguf, NULL, 0, &image, &len, &err) != INFER_OK)
    {
        site_bail("%s", err.text);
    }
    if (conf->nan_token != 0) {
        site_break_row(s, gguf, conf->nan_token);
    }
    infer_gguf_close(gguf);
    s->image_fd = site_memfd(image, len, 1);
    free(image);
}

static void
site_open(site_t *s, const site_conf_t *conf)
{
    uint32_t           i;
    infer_err_t        err;
    infer_bus_conf_t   bc = { .bytes = 8 << 20, .n_slots = SITE_SLOTS,
                              .threads = 2 };
    infer_bus_model_t  bm[2];

    memset(s, 0, sizeof(*s));
    memset(bm, 0, sizeof(bm));
    s->n_models = conf->n_models == 0 ? 1 : conf->n_models;
    for (i = 0; i < s->n_models; i++) {
        snprintf(bm[i].name, sizeof(bm[i].name), "tiny%u", i);
        snprintf(bm[i].device, sizeof(bm[i].device), "cpu");
        bm[i].context = conf->context;
        bm[i].sequences = conf->sequences;
        bm[i].batch_tokens = conf->batch_tokens;
        bm[i].n_pages = conf->n_pages;
        bm[i].kv_type = conf->kv_type;
        bm[i].vocab = tiny_default.V;
    }
    bc.models = bm;
    bc.n_models = s->n_models;

    site_find_engine(s);
    site_model(s, conf);
    if (infer_bus_create(&s->bus, &bc, &err) != INFER_OK
        || infer_entry_claim(&s->bus, &s->entry) != INFER_OK)
    {
        site_bail("no bus");
    }

    s->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    s->entry_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    s->other_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (s->wake_fd < 0 || s->entry_fd < 0 || s->other_fd < 0
        || pipe2(s->lifeline, O_CLOEXEC) != 0
        || socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, s->control)
           != 0)
    {
        site_bail("descriptors: %s", strerror(errno));
    }
}

static void
site_send_model(site_t *s, uint32_t model)
{
    int              fds[2] = { s->model_fd, s->image_fd };
    infer_control_t  ctl = { INFER_CTL_MODEL, model };
    struct iovec     iov = { &ctl, sizeof(ctl) };
    struct msghdr    mh = { .msg_iov = &iov, .msg_iovlen = 1 };
    union {
        struct cmsghdr  c;
        char            b[CMSG_SPACE(sizeof(fds))];
    } u;

    memset(&u, 0, sizeof(u));
    mh.msg_control = u.b;
    mh.msg_controllen = sizeof(u.b);
    u.c.cmsg_len = CMSG_LEN(sizeof(fds));
    u.c.cmsg_level = SOL_SOCKET;
    u.c.cmsg_type = SCM_RIGHTS;
    memcpy(CMSG_DATA(&u.c), fds, sizeof(fds));
    if (sendmsg(s->control[0], &mh, 0) < 0) {
        site_bail("sendmsg: %s", strerror(errno));
    }
}

static void
site_child(const site_t *s, const char *build_id)
{
    int   k, last = INFER_FD_ENTRY0 + INFER_MAX_ENTRIES;
    int   fd[INFER_FD_ENTRY0 + INFER_MAX_ENTRIES];
    char  build[64];

    for (k = INFER_FD_BUS; k < last; k++) {
        fd[k] = s->other_fd;
    }
    fd[INFER_FD_BUS] = s->bus.fd;
    fd[INFER_FD_LIFELINE] = s->lifeline[0];
    fd[INFER_FD_CONTROL] = s->control[1];
    fd[INFER_FD_WAKE] = s->wake_fd;
    fd[INFER_FD_ENTRY0 + s->entry] = s->entry_fd;

    for (k = INFER_FD_BUS; k < last; k++) {
        fd[k] = fcntl(fd[k], F_DUPFD, 400);
    }
    for (k = INFER_FD_BUS; k < last; k++) {
        if (dup2(fd[k], k) < 0) {
            _exit(99);
        }
    }
    for (k = last; k < 1000; k++) {
        (void) close(k);
    }

    snprintf(build, sizeof(build), "%s", build_id);
    (void) execl(s->engine, "ngx_infer_engine", "--run", build, "test",
                 (char *) NULL);
    _exit(99);
}

static pid_t
site_spawn(site_t *s, const char *build_id)
{
    pid_t  pid = fork();

    if (pid == 0) {
        site_child(s, build_id);
    }

    return pid;
}

static void
site_start(site_t *s)
{
    uint32_t  i;

    for (i = 0; i < s->n_models; i++) {
        site_send_model(s, i);
    }
    s->pid = site_spawn(s, infer_build_id());
}

/* Milliseconds until *word has this value; -1 when it never gets it. */
static int
site_wait_word(const _Atomic uint32_t *word, uint32_t value, int ms)
{
    int  i;

    for (i = 0; i < ms; i++) {
        if (atomic_load(word) == value) {
            return i;
        }
        (void) poll(NULL, 0, 1);
    }

    return -1;
}

/* Exit code, -1 when it has not ended in time, 1000 + signal. */
static int
site_wait_exit(pid_t pid, int ms)
{
    int  i, status;

    for (i = 0; i < ms; i++) {
        if (waitpid(pid, &status, WNOHANG) == pid) {
            return WIFEXITED(status) ? WEXITSTATUS(status)
                                     : 1000 + WTERMSIG(status);
        }
        (void) poll(NULL, 0, 1);
    }

    return -1;
}

static void
site_kill(site_t *s)
{
    (void) kill(s->pid, SIGKILL);
    (void) site_wait_exit(s->pid, 5000);
    s->pid = 0;
}

static void
site_close(site_t *s)
{
    if (s->pid != 0) {
        site_kill(s);
    }
    (void) close(s->model_fd);
    (void) close(s->image_fd);
    (void) close(s->wake_fd);
    (void) close(s->entry_fd);
    (void) close(s->other_fd);
    (void) close(s->lifeline[0]);
    if (s->lifeline[1] >= 0) {
        (void) close(s->lifeline[1]);
    }
    (void) close(s->control[0]);
    (void) close(s->control[1]);
    infer_bus_unmap(&s->bus, 1);
}

static void
site_wake(const site_t *s)
{
    uint64_t  one = 1;

    if (write(s->wake_fd, &one, sizeof(one)) < 0) {
        site_bail("eventfd: %s", strerror(errno));
    }
}

static infer_sampling_t
site_greedy(uint32_t max_tokens)
{
    infer_sampling_t  p;

    memset(&p, 0, sizeof(p));
    p.top_p = 1;
    p.repetition_penalty = 1;
    p.max_tokens = max_tokens;
    p.ignore_eos = 1;

    return p;
}

/* Prompt number k: n tokens that are bytes. */
static void
site_prompt(int32_t *id, uint32_t n, uint32_t k)
{
    uint32_t  i, seed = 77 * k + 1;

    for (i = 0; i < n; i++) {
        seed = seed * 1103515245u + 12345u;
        id[i] = (int32_t) (TINY_SPECIALS + 'a' + (seed >> 16) % 26);
    }
}

/* Claims and fills a slot; the caller may change it before it submits. */
static infer_ref_t
site_fill(site_t *s, uint32_t n_prompt, uint32_t k, const infer_sampling_t *p)
{
    int32_t        id[SITE_OUT];
    infer_ref_t    ref;
    infer_slot_t  *slot;

    site_prompt(id, n_prompt, k);
    if (infer_slot_claim(&s->bus, s->entry, &ref) != INFER_OK) {
        site_bail("no slot");
    }
    slot = &s->bus.slot[ref.slot];
    slot->sampling = *p;
    slot->n_prompt = n_prompt;
    if (infer_slot_put(&s->bus, ref, INFER_EXT_PROMPT, id, n_prompt * 4)
        != INFER_OK
        || infer_slot_reserve_log(&s->bus, ref, p->max_tokens) != INFER_OK)
    {
        site_bail("no room");
    }

    return ref;
}

static void
site_submit(site_t *s, infer_ref_t ref)
{
    infer_slot_submit(&s->bus, s->entry, ref);
    site_wake(s);
}

static infer_ref_t
site_request(site_t *s, uint32_t n_prompt, uint32_t k,
    const infer_sampling_t *p)
{
    infer_ref_t  ref = site_fill(s, n_prompt, k, p);

    site_submit(s, ref);

    return ref;
}

/* Waits for the end, as a worker would: by its eventfd and news bits. */
static int
site_wait_done(site_t *s, infer_ref_t ref, int ms)
{
    uint64_t       count, bits[INFER_BITMAP_WORDS];
    uint64_t       end_us = infer_now_us() + (uint64_t) ms * 1000;
    struct pollfd  pfd = { .fd = s->entry_fd, .events = POLLIN };

    for ( ;; ) {
        if (infer_slot_status(&s->bus, ref) == INFER_SLOT_DONE) {
            return 1;
        }
        if (infer_now_us() > end_us) {
            return 0;
        }
        if (poll(&pfd, 1, 2000) > 0
            && read(s->entry_fd, &count, sizeof(count)) > 0)
        {
            (void) infer_entry_news(&s->bus, s->entry, bits);
        }
    }
}

/* Waits until n records are there. */
static int
site_wait_records(site_t *s, infer_ref_t ref, uint32_t n, int ms)
{
    int  i;

    for (i = 0; i < ms * 10; i++) {
        if (infer_log_count(&s->bus, ref) >= n) {
            return 1;
        }
        (void) usleep(100);
    }

    return 0;
}

static void
site_read(site_t *s, infer_ref_t ref, site_out_t *out)
{
    uint32_t        i;
    infer_top_t     none;
    infer_cursor_t  cur = { 0 };

    memset(out, 0, sizeof(*out));
    out->finish = atomic_load(&s->bus.slot[ref.slot].finish);
    out->n_prompt = s->bus.slot[ref.slot].n_prompt;
    snprintf(out->error, sizeof(out->error), "%s",
             s->bus.slot[ref.slot].error);
    out->n = infer_log_count(&s->bus, ref);
    for (i = 0; i < out->n && i < SITE_OUT; i++) {
        if (infer_log_read(&s->bus, ref, &cur, i, &out->rec[i], &none, 0)
            != INFER_OK)
        {
            site_bail("log");
        }
    }
}

static void
site_release(site_t *s, infer_ref_t ref)
{
    infer_slot_release(&s->bus, s->entry, ref);
    site_wake(s);
}

/* Waits, reads, releases. */
static void
site_finish(site_t *s, infer_ref_t ref, site_out_t *out)
{
    if (!site_wait_done(s, ref, 60000)) {
        diag("slot %u is not done", ref.slot);
    }
    site_read(s, ref, out);
    site_release(s, ref);
}

static int
site_all_free(const site_t *s)
{
    uint32_t  i, n;
    int       t;

    for (t = 0; t < 3000; t++) {
        n = 0;
        for (i = 0; i < s->bus.n_slots; i++) {
            n += infer_slot_state(atomic_load(&s->bus.slot[i].state))
                 != INFER_SLOT_FREE;
        }
        for (i = 0; i < s->bus.n_blocks; i++) {
            n += atomic_load(&s->bus.owner[i]) != 0;
        }
        if (n == 0 && atomic_load(&s->bus.model[0].pages_used) == 0) {
            return 1;
        }
        (void) poll(NULL, 0, 1);
    }

    return 0;
}

#endif
