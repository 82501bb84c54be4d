/*
 * test_content.c: the hash of a model file's bytes: right, of every byte,
 * known after the engine is ready and not before, kept in the bus for the
 * next engine, and not of a file that changes meanwhile.
 */

#include "engine_site.h"
#include "ipc/hash.h"

#define MIB  (1 << 20)

static const site_conf_t  small = { 256, 4, 64, 32, 2, 0, 0 };


/* A site whose model file ends with this much that no tensor has. */
static void
open_site(site_t *s, off_t more, const char *last)
{
    off_t  size;

    site_open(s, &small);
    size = lseek(s->model_fd, 0, SEEK_END) + more;
    if (ftruncate(s->model_fd, size) != 0
        || pwrite(s->model_fd, last, 1, size - 1) != 1)
    {
        site_bail("model file: %s", strerror(errno));
    }
}

static void
start(site_t *s)
{
    site_start(s);
    if (site_wait_word(&s->bus.hdr->engine_state, INFER_ENGINE_READY, 30000)
        < 0)
    {
        site_bail("the engine does not get ready");
    }
}

/* The definition, over the whole file at once. */
static void
want(site_t *s, uint8_t h[16])
{
    size_t                len = (size_t) lseek(s->model_fd, 0, SEEK_END), n;
    uint8_t              *p, *block = malloc(16 + MIB);
    uint64_t              at, size = len;
    static const uint8_t  key[16] = "infer content 1";

    p = mmap(NULL, len, PROT_READ, MAP_SHARED, s->model_fd, 0);
    if (p == MAP_FAILED || block == NULL) {
        site_bail("no memory");
    }
    memset(h, 0, 16);
    for (at = 0; at < len; at += n) {
        n = len - at < MIB ? len - at : MIB;
        memcpy(block, h, 16);
        memcpy(block + 16, p + at, n);
        infer_hash(key, block, 16 + n, h);
    }
    memcpy(block, h, 16);
    memcpy(block + 16, &size, 8);
    infer_hash(key, block, 24, h);
    (void) munmap(p, len);
    free(block);
}

/* Log lines with this text, those taken out of the ring. */
static uint32_t
logged(site_t *s, const char *text)
{
    uint32_t         n = 0;
    infer_log_rec_t  rec;

    while (infer_ring_take(&s->bus, &rec)) {
        n += strstr(rec.text, text) != NULL;
    }
    return n;
}

static void
test_known(site_t *s, uint8_t h[16])
{
    uint32_t  i;

    start(s);
    for (i = 0; i < 2; i++) {
        (void) site_wait_word(&s->bus.model[i].content_known, 1, 30000);
    }
    want(s, h);
    ok(atomic_load(&s->bus.model[0].content_known)
       && memcmp(s->bus.model[0].content, h, 16) == 0, "the right hash");
    ok(atomic_load(&s->bus.model[1].content_known)
       && memcmp(s->bus.model[1].content, h, 16) == 0,
       "the same for the same file");
    (void) poll(NULL, 0, 100);
    ok(logged(s, "content of") == 2, "one line each");
}

static void
test_restart(site_t *s)
{
    site_kill(s);
    memset(s->bus.model[0].content, 0x55, 16);
    atomic_store(&s->bus.model[1].content_known, 0);
    start(s);
    ok(site_wait_word(&s->bus.model[1].content_known, 1, 30000) >= 0,
       "another engine finds out what is not known");
    (void) poll(NULL, 0, 100);
    ok(s->bus.model[0].content[0] == 0x55 && logged(s, "content of") == 1,
       "and leaves what is");
}

static void
test_other(const uint8_t h[16])
{
    site_t  s;

    open_site(&s, 3 * MIB / 2, "y");
    start(&s);
    (void) site_wait_word(&s.bus.model[0].content_known, 1, 30000);
    ok(atomic_load(&s.bus.model[0].content_known)
       && memcmp(s.bus.model[0].content, h, 16) != 0,
       "another byte, another hash");
    site_close(&s);
}

static void
test_changed(void)
{
    int     i;
    site_t  s;

    open_site(&s, 512 * MIB, "x");
    start(&s);
    ok(atomic_load(&s.bus.model[0].content_known) == 0,
       "ready before the content of a large file is known");
    if (pwrite(s.model_fd, "y", 1, lseek(s.model_fd, 0, SEEK_END) - 1) != 1) {
        site_bail("pwrite");
    }
    for (i = 0; i < 600 && logged(&s, "it changed while") == 0; i++) {
        (void) poll(NULL, 0, 100);
    }
    ok(i < 600 && atomic_load(&s.bus.model[0].content_known) == 0,
       "a file that changes has no content");
    site_close(&s);
}

int
main(void)
{
    site_t   s;
    uint8_t  h[16];

    open_site(&s, 3 * MIB / 2, "x");
    test_known(&s, h);
    test_restart(&s);
    site_close(&s);
    test_other(h);
    test_changed();

    return tap_done();
}
