/*
 * content.c: a hash of all bytes of a model's file, by which nodes that have
 * the same file, wherever it lies, know each other's answers. Computed when
 * the engine is ready, by a thread that takes only what nobody else wants of
 * CPU and disk, and once per bus: an engine that is started again finds it
 * there. The thread hands results to the loop, which publishes them; it
 * touches nothing else of the engine, and ends with the process.
 *
 * The hash is a chain: h = H(h | 1 MiB of the file), at last H(h | size).
 */

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "ipc/hash.h"
#include "run/engine.h"

#define CONTENT_BLOCK     (1u << 20)
#define CONTENT_REST_US   20000          /* between two blocks, at most */
#define CONTENT_IO_IDLE   (3 << 13)      /* IOPRIO_CLASS_IDLE */
#define CONTENT_IO_THREAD 1              /* IOPRIO_WHO_PROCESS */

static const uint8_t  content_key[INFER_HASH_BYTES] = "infer content 1";


void
infer_content_keep(infer_engine_t *e, uint32_t i, int fd)
{
    struct stat      st;
    infer_content_t *c = &e->content;

    c->model[i].fd = -1;
    if (atomic_load(&e->bus.model[i].content_known) || fstat(fd, &st) != 0) {
        close(fd);
        return;
    }
    c->model[i].fd = fd;
    c->model[i].bytes = (uint64_t) st.st_size;
    c->model[i].mtime = st.st_mtim;
}

/* What the kernel refuses is left as it is. */
static void
content_yield(void)
{
    struct sched_param  none = { 0 };

    (void) sched_setscheduler(0, SCHED_IDLE, &none);
    (void) setpriority(PRIO_PROCESS, (id_t) syscall(SYS_gettid), 19);
    (void) syscall(SYS_ioprio_set, CONTENT_IO_THREAD, 0, CONTENT_IO_IDLE);
}

/* Bytes of a block: all of it, or what is left of the file. */
static size_t
content_read(int fd, uint8_t *buf, uint64_t at)
{
    size_t   got = 0;
    ssize_t  n;

    while (got < CONTENT_BLOCK) {
        n = pread(fd, buf + got, CONTENT_BLOCK - got, (off_t) (at + got));
        if (n <= 0 && !(n < 0 && errno == EINTR)) {
            break;
        }
        got += n > 0 ? (size_t) n : 0;
    }
    return got;
}

/* As much rest as work: of two threads that want a core, the other one should
 * hardly notice. */
static void
content_rest(uint64_t since_us)
{
    uint64_t  us = infer_now_us() - since_us;

    (void) usleep((useconds_t) (us < CONTENT_REST_US ? us
                                                     : CONTENT_REST_US));
}

static int
content_hash(infer_content_model_t *m, uint8_t *buf)
{
    size_t       n;
    uint64_t     at = 0, start;
    struct stat  st;

    memset(buf, 0, INFER_HASH_BYTES);
    do {
        start = infer_now_us();
        n = content_read(m->fd, buf + INFER_HASH_BYTES, at);
        if (n != 0) {
            infer_hash(content_key, buf, INFER_HASH_BYTES + n, buf);
            at += n;
            content_rest(start);
        }
    } while (n == CONTENT_BLOCK);

    /* the file as it was loaded? */
    if (at != m->bytes || fstat(m->fd, &st) != 0
        || (uint64_t) st.st_size != m->bytes
        || st.st_mtim.tv_sec != m->mtime.tv_sec
        || st.st_mtim.tv_nsec != m->mtime.tv_nsec)
    {
        return INFER_CORRUPT;
    }
    memcpy(buf + INFER_HASH_BYTES, &at, sizeof(at));
    infer_hash(content_key, buf, INFER_HASH_BYTES + sizeof(at), m->hash);
    return INFER_OK;
}

static void *
content_run(void *arg)
{
    uint8_t          *buf = malloc(INFER_HASH_BYTES + CONTENT_BLOCK);
    uint32_t          i;
    uint64_t          one = 1, start;
    infer_engine_t   *e = arg;
    infer_content_t  *c = &e->content;

    content_yield();
    for (i = 0; i < c->n; i++) {
        start = infer_now_us();
        if (c->model[i].fd >= 0) {
            c->model[i].rc = buf != NULL ? content_hash(&c->model[i], buf)
                                         : INFER_NOMEM;
            close(c->model[i].fd);
            c->model[i].us = infer_now_us() - start;
        }
        /* release: pairs with the acquire in infer_content_take() */
        atomic_store_explicit(&c->done, i + 1, memory_order_release);
        if (write(e->wake_fd, &one, sizeof(one)) < 0) {
            /* a full counter wakes the loop as well */
        }
    }
    free(buf);
    return NULL;
}

void
infer_content_start(infer_engine_t *e)
{
    uint32_t   i;
    pthread_t  thread;

    e->content.n = e->n_models;
    if (pthread_create(&thread, NULL, content_run, e) == 0) {
        (void) pthread_detach(thread);
        return;
    }
    for (i = 0; i < e->n_models; i++) {
        if (e->content.model[i].fd >= 0) {
            close(e->content.model[i].fd);
        }
    }
}

void
infer_content_take(infer_engine_t *e)
{
    uint32_t                i, done;
    infer_bus_model_t      *bm;
    infer_content_model_t  *m;

    /* acquire: pairs with the release in content_run() */
    done = atomic_load_explicit(&e->content.done, memory_order_acquire);
    while (e->content.taken < done) {
        i = e->content.taken++;
        m = &e->content.model[i];
        bm = &e->bus.model[i];
        if (m->fd < 0) {
            continue;
        }
        if (m->rc != INFER_OK) {
            infer_engine_log(e, INFER_LOG_WARN, "infer model \"%s\": the "
                             "content of its file is not known: %s",
                             e->model[i].name, m->rc == INFER_CORRUPT
                             ? "it changed while it was read"
                             : "no memory");
            continue;
        }
        memcpy(bm->content, m->hash, sizeof(bm->content));
        /* release: pairs with the acquire of who reads content */
        atomic_store_explicit(&bm->content_known, 1, memory_order_release);
        infer_engine_log(e, INFER_LOG_NOTICE, "infer model \"%s\": content "
                         "of %llu bytes known after %llu ms",
                         e->model[i].name, (unsigned long long) m->bytes,
                         (unsigned long long) (m->us / 1000));
    }
}
