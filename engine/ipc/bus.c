/*
 * bus.c: makes, maps and checks the bus, and takes its byte locks.
 * The master makes it; whoever maps it later trusts no number in it.
 */

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "infer_build_id.h"
#include "ipc/bus.h"

#define BUS_PAGE  4096


const char *
infer_build_id(void)
{
    return INFER_BUILD_ID;
}

uint64_t
infer_now_us(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);

    return (uint64_t) ts.tv_sec * 1000000u + (uint64_t) ts.tv_nsec / 1000u;
}

static uint64_t
bus_round(uint64_t n, uint64_t to)
{
    return (n + to - 1) / to * to;
}

/* Blocks of a log of n records with this stride. */
static uint64_t
bus_log_blocks(uint32_t n_records, uint32_t stride)
{
    uint32_t  per_block = INFER_BLOCK_BYTES / stride;

    return ((uint64_t) n_records + per_block - 1) / per_block;
}

uint64_t
infer_bus_reservation(uint32_t n_prompt, uint32_t max_tokens,
    uint32_t top_logprobs)
{
    uint64_t  blocks;

    if (top_logprobs > INFER_MAX_TOP_LOGPROBS) {
        top_logprobs = INFER_MAX_TOP_LOGPROBS;
    }

    blocks = bus_round((uint64_t) n_prompt * 4, INFER_BLOCK_BYTES)
             / INFER_BLOCK_BYTES;
    blocks += bus_log_blocks(max_tokens, 16 + 8 * top_logprobs);
    blocks += 3;                         /* stops, stop ids, bias */

    return blocks * INFER_BLOCK_BYTES;
}

/* Everything in front of the owner words, whose number is still open. */
static uint64_t
bus_fixed(uint32_t n_slots, uint32_t n_models, infer_bus_header_t *h)
{
    uint64_t  off = BUS_PAGE;

    h->entry_off = off;
    off += (uint64_t) INFER_MAX_ENTRIES * sizeof(infer_entry_t);
    off = bus_round(off, BUS_PAGE);
    h->model_off = off;
    off += (uint64_t) n_models * sizeof(infer_bus_model_t);
    off = bus_round(off, BUS_PAGE);
    h->slot_off = off;
    off += (uint64_t) n_slots * sizeof(infer_slot_t);
    off = bus_round(off, BUS_PAGE);
    h->ring_off = off;
    off += (uint64_t) INFER_RING_RECORDS * sizeof(infer_log_rec_t);
    h->stats_off = off;
    off += sizeof(infer_bus_stats_t);

    return bus_round(off, BUS_PAGE);
}

/* Fills all offsets for a zone of this size; 0 when it is too small. */
static uint32_t
bus_layout(uint64_t bytes, uint32_t n_slots, uint32_t n_models,
    infer_bus_header_t *h)
{
    uint64_t  off = bus_fixed(n_slots, n_models, h), n;

    if (off + 4 * BUS_PAGE > bytes) {
        return 0;
    }

    /* a block costs its 4 KiB, an owner word and a next index */
    n = (bytes - off - 2 * BUS_PAGE) / (INFER_BLOCK_BYTES + 8 + 4);
    if (n >= INFER_NO_BLOCK) {
        n = INFER_NO_BLOCK - 1;
    }

    h->owner_off = off;
    off = bus_round(off + n * 8, BUS_PAGE);
    h->next_off = off;
    off = bus_round(off + n * 4, BUS_PAGE);
    h->arena_off = off;

    return (uint32_t) n;
}

uint64_t
infer_bus_least(uint32_t n_slots, uint32_t sequences, uint32_t max_tokens)
{
    uint64_t            blocks;
    infer_bus_header_t  h;

    blocks = (infer_bus_reservation(1, max_tokens, 0) / INFER_BLOCK_BYTES)
             * sequences;

    return bus_fixed(n_slots, INFER_MAX_MODELS, &h)
           + blocks * (INFER_BLOCK_BYTES + 8 + 4) + 4 * BUS_PAGE;
}

static void
bus_pointers(infer_bus_t *bus, uint8_t *base)
{
    infer_bus_header_t  *h = (infer_bus_header_t *) base;

    bus->hdr = h;
    bus->entry = (infer_entry_t *) (base + h->entry_off);
    bus->model = (infer_bus_model_t *) (base + h->model_off);
    bus->slot = (infer_slot_t *) (base + h->slot_off);
    bus->ring = (infer_log_rec_t *) (base + h->ring_off);
    bus->stats = (infer_bus_stats_t *) (base + h->stats_off);
    bus->owner = (_Atomic uint64_t *) (base + h->owner_off);
    bus->next = (uint32_t *) (base + h->next_off);
    bus->arena = base + h->arena_off;
    bus->n_slots = h->n_slots;
    bus->n_blocks = h->n_blocks;
    bus->n_models = h->n_models;
}

/* Where generations begin to count: what somebody still knows of another
 * bus, which may have had the same slots, names none of this one. 40 bits. */
static int
bus_generations(infer_bus_t *bus)
{
    uint32_t  i;
    uint64_t  first;

    if (getrandom(&first, sizeof(first), 0) != (ssize_t) sizeof(first)) {
        return -1;
    }

    for (i = 0; i < bus->n_slots; i++) {
        atomic_store(&bus->slot[i].state,
                     infer_slot_word(first >> 24, INFER_SLOT_FREE));
    }

    return 0;
}

static int
bus_fill(infer_bus_t *bus, const infer_bus_conf_t *conf, uint8_t *base,
    infer_err_t *err)
{
    uint32_t             i;
    infer_bus_header_t  *h = (infer_bus_header_t *) base;

    h->magic = INFER_BUS_MAGIC;
    h->version = INFER_BUS_VERSION;
    h->header_bytes = sizeof(infer_bus_header_t);
    h->total_bytes = bus->bytes;
    h->n_slots = conf->n_slots;
    h->n_models = conf->n_models;
    h->n_blocks = bus_layout(bus->bytes, conf->n_slots, conf->n_models, h);
    if (h->n_blocks == 0) {
        return infer_err(err, INFER_INVALID,
                         "zone of %zu bytes is too small", bus->bytes);
    }

    bus_pointers(bus, base);
    if (getrandom(h->hash_key, sizeof(h->hash_key), 0)
        != (ssize_t) sizeof(h->hash_key) || bus_generations(bus) != 0)
    {
        return infer_err(err, INFER_UNSUPPORTED, "getrandom() failed: %s",
                         strerror(errno));
    }

    h->threads = conf->threads;
    h->nice = conf->nice;
    h->n_cpus = conf->n_cpus > 128 ? 128 : conf->n_cpus;
    for (i = 0; i < h->n_cpus; i++) {
        h->cpus[i] = conf->cpus[i];
    }

    snprintf(h->build_id, sizeof(h->build_id), "%s", infer_build_id());
    snprintf(h->isa, sizeof(h->isa), "%s", conf->isa ? conf->isa : "auto");

    for (i = 0; i < conf->n_models; i++) {
        bus->model[i] = conf->models[i];
    }

    return INFER_OK;
}

int
infer_bus_create(infer_bus_t *bus, const infer_bus_conf_t *conf,
    infer_err_t *err)
{
    int       rc;
    uint8_t  *base;

    memset(bus, 0, sizeof(*bus));
    bus->fd = -1;

    if (conf->n_slots == 0 || conf->n_slots > INFER_MAX_SLOTS
        || conf->n_models == 0 || conf->n_models > INFER_MAX_MODELS)
    {
        return infer_err(err, INFER_INVALID,
                         "a bus needs 1..%d slots and 1..%d models",
                         INFER_MAX_SLOTS, INFER_MAX_MODELS);
    }

    bus->bytes = (size_t) (conf->bytes / BUS_PAGE * BUS_PAGE);
    bus->fd = memfd_create("ngx_infer_bus", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (bus->fd < 0) {
        return infer_err(err, INFER_NOMEM, "memfd_create() failed: %s",
                         strerror(errno));
    }

    if (ftruncate(bus->fd, (off_t) bus->bytes) != 0
        || fcntl(bus->fd, F_ADD_SEALS,
                 F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0)
    {
        rc = infer_err(err, INFER_NOMEM, "cannot size or seal the bus: %s",
                       strerror(errno));
        goto failed;
    }

    base = mmap(NULL, bus->bytes, PROT_READ | PROT_WRITE, MAP_SHARED,
                bus->fd, 0);
    if (base == MAP_FAILED) {
        rc = infer_err(err, INFER_NOMEM, "cannot map the bus: %s",
                       strerror(errno));
        goto failed;
    }

    bus->hdr = (infer_bus_header_t *) base;
    rc = bus_fill(bus, conf, base, err);
    if (rc == INFER_OK) {
        return INFER_OK;
    }

failed:

    infer_bus_unmap(bus, 1);

    return rc;
}

/* Everything that addresses memory, against the size of the mapping. */
static int
bus_check(const infer_bus_header_t *h, uint64_t bytes, infer_err_t *err)
{
    uint32_t            n;
    infer_bus_header_t  want;

    if (h->magic != INFER_BUS_MAGIC || h->version != INFER_BUS_VERSION
        || h->header_bytes != sizeof(infer_bus_header_t))
    {
        return infer_err(err, INFER_CORRUPT, "the bus has another version");
    }

    if (h->total_bytes != bytes || h->n_slots == 0
        || h->n_slots > INFER_MAX_SLOTS || h->n_models == 0
        || h->n_models > INFER_MAX_MODELS || h->n_cpus > 128)
    {
        return infer_err(err, INFER_CORRUPT, "the bus header is damaged");
    }

    n = bus_layout(bytes, h->n_slots, h->n_models, &want);
    if (n == 0 || h->n_blocks != n || h->entry_off != want.entry_off
        || h->model_off != want.model_off || h->slot_off != want.slot_off
        || h->ring_off != want.ring_off || h->stats_off != want.stats_off
        || h->owner_off != want.owner_off || h->next_off != want.next_off
        || h->arena_off != want.arena_off)
    {
        return infer_err(err, INFER_CORRUPT, "the bus layout is damaged");
    }

    return INFER_OK;
}

int
infer_bus_attach(infer_bus_t *bus, int fd, infer_err_t *err)
{
    int          seals;
    uint8_t     *base;
    struct stat  st;

    memset(bus, 0, sizeof(*bus));
    bus->fd = fd;

    seals = fcntl(fd, F_GET_SEALS);
    if (seals < 0 || (seals & (F_SEAL_SHRINK | F_SEAL_GROW))
                     != (F_SEAL_SHRINK | F_SEAL_GROW)
        || fstat(fd, &st) != 0)
    {
        return infer_err(err, INFER_CORRUPT, "the bus is not a sealed memfd");
    }

    if (st.st_size < 2 * BUS_PAGE || st.st_size % BUS_PAGE != 0) {
        return infer_err(err, INFER_CORRUPT, "the bus has an odd size");
    }

    bus->bytes = (size_t) st.st_size;
    base = mmap(NULL, bus->bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (base == MAP_FAILED) {
        return infer_err(err, INFER_NOMEM, "cannot map the bus: %s",
                         strerror(errno));
    }

    bus->hdr = (infer_bus_header_t *) base;
    if (bus_check(bus->hdr, bus->bytes, err) != INFER_OK) {
        infer_bus_unmap(bus, 0);
        return INFER_CORRUPT;
    }

    bus_pointers(bus, base);

    return INFER_OK;
}

void
infer_bus_unmap(infer_bus_t *bus, int close_fd)
{
    if (bus->hdr != NULL) {
        munmap(bus->hdr, bus->bytes);
    }

    if (close_fd && bus->fd >= 0) {
        close(bus->fd);
    }

    memset(bus, 0, sizeof(*bus));
    bus->fd = -1;
}

static int
bus_lock(int fd, int cmd, short type, uint32_t byte, struct flock *fl)
{
    *fl = (struct flock) { .l_type = type, .l_whence = SEEK_SET,
                           .l_start = byte, .l_len = 1 };
    return fcntl(fd, cmd, fl);
}

int
infer_lock_take(int fd, uint32_t byte)
{
    struct flock  fl;

    return bus_lock(fd, F_SETLK, F_WRLCK, byte, &fl) == 0 ? INFER_OK
                                                          : INFER_BUSY;
}

void
infer_lock_drop(int fd, uint32_t byte)
{
    struct flock  fl;

    (void) bus_lock(fd, F_SETLK, F_UNLCK, byte, &fl);
}

int
infer_lock_alive(int fd, uint32_t byte)
{
    struct flock  fl;

    /* on an error the owner counts as alive: nothing is swept by mistake */
    return bus_lock(fd, F_GETLK, F_WRLCK, byte, &fl) != 0
           || fl.l_type != F_UNLCK;
}
