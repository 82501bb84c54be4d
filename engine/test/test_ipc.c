/*
 * test_ipc.c: the bus: sizes, damaged headers, slots, logs, entries, and
 * what is left behind by a process that is killed at any point.
 */

#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "ipc/bus.h"
#include "ipc/spawn.h"
#include "test/tap.h"

static infer_bus_model_t  test_model = { .name = "m", .device = "cpu",
                                         .context = 128, .sequences = 4 };

static void
test_make(infer_bus_t *bus, uint64_t bytes, uint32_t n_slots)
{
    infer_err_t       err;
    infer_bus_conf_t  conf = { .bytes = bytes, .n_slots = n_slots,
                               .n_models = 1, .models = &test_model };

    if (infer_bus_create(bus, &conf, &err) != INFER_OK) {
        printf("Bail out! %s\n", err.text);
        exit(1);
    }
}

static uint32_t
test_free_blocks(infer_bus_t *bus)
{
    infer_bus_load_t  load;

    infer_bus_load(bus, 0, &load);

    return load.free_blocks;
}

static void
test_create(void)
{
    uint64_t          least;
    infer_bus_t       bus, other;
    infer_err_t       err;
    infer_bus_conf_t  conf = { .bytes = 8192, .n_slots = 4, .n_models = 1,
                               .models = &test_model };

    ok(infer_bus_create(&bus, &conf, &err) == INFER_INVALID
       && strstr(err.text, "too small") != NULL, "a tiny zone is refused");
    conf.n_slots = INFER_MAX_SLOTS + 1;
    ok(infer_bus_create(&bus, &conf, &err) == INFER_INVALID,
       "too many slots are refused");

    least = infer_bus_least(8, 4, 1024);
    test_make(&bus, least, 8);
    ok(bus.n_blocks * (uint64_t) INFER_BLOCK_BYTES
       >= 4 * infer_bus_reservation(1, 1024, 0),
       "the least zone holds four full reservations");
    ok(ftruncate(bus.fd, 4096) != 0, "the memfd cannot be truncated");
    ok((fcntl(bus.fd, F_GETFD) & FD_CLOEXEC) != 0, "it is close-on-exec");

    ok(infer_bus_attach(&other, bus.fd, &err) == INFER_OK
       && other.n_slots == 8 && strcmp(other.model[0].name, "m") == 0,
       "it can be attached");
    infer_bus_unmap(&other, 0);

    bus.hdr->arena_off += 4096;
    ok(infer_bus_attach(&other, bus.fd, &err) == INFER_CORRUPT,
       "a wrong offset is refused");
    bus.hdr->arena_off -= 4096;
    bus.hdr->n_blocks++;
    ok(infer_bus_attach(&other, bus.fd, &err) == INFER_CORRUPT,
       "a wrong block count is refused");
    bus.hdr->n_blocks--;
    bus.hdr->version++;
    ok(infer_bus_attach(&other, bus.fd, &err) == INFER_CORRUPT
       && strstr(err.text, "version") != NULL, "another version is refused");
    infer_bus_unmap(&bus, 1);
}

/* Behind a prompt of 10,000 bytes there is room for 2,288. */
static void
test_packed(infer_bus_t *bus, infer_ref_t ref)
{
    char      bias[2200], stop[50], back[3000];
    size_t    len;
    uint16_t  *offset = &bus->slot[ref.slot].ext_offset[INFER_EXT_BIAS];
    uint16_t  kept;
    uint32_t  before = test_free_blocks(bus);

    memset(bias, 'b', sizeof(bias));
    memset(stop, 's', sizeof(stop));

    ok(infer_slot_put(bus, ref, INFER_EXT_BIAS, bias, sizeof(bias))
       == INFER_OK
       && infer_slot_put(bus, ref, INFER_EXT_STOPS, stop, sizeof(stop))
          == INFER_OK
       && test_free_blocks(bus) == before, "two more extents take no block");
    ok(infer_slot_put(bus, ref, INFER_EXT_STOP_IDS, stop, sizeof(stop))
       == INFER_OK && test_free_blocks(bus) == before - 1,
       "one that does not fit has its own");
    ok(infer_slot_get(bus, ref, INFER_EXT_BIAS, back, sizeof(back), &len)
       == INFER_OK && len == sizeof(bias) && memcmp(back, bias, len) == 0
       && infer_slot_get(bus, ref, INFER_EXT_STOPS, back, sizeof(back), &len)
          == INFER_OK && len == sizeof(stop) && memcmp(back, stop, len) == 0
       && infer_slot_get(bus, ref, INFER_EXT_STOP_IDS, back, sizeof(back),
                         &len) == INFER_OK
       && len == sizeof(stop) && memcmp(back, stop, len) == 0,
       "all come back");
    kept = *offset;
    *offset = INFER_BLOCK_BYTES;
    ok(infer_slot_get(bus, ref, INFER_EXT_BIAS, back, sizeof(back), &len)
       == INFER_CORRUPT, "an offset behind the block is corrupt");
    *offset = kept;
}

static void
test_slots(void)
{
    char          buf[10000], back[10000];
    size_t        len;
    uint32_t      i, n, total, entry;
    uint64_t      bits[INFER_BITMAP_WORDS];
    infer_bus_t   bus;
    infer_ref_t   ref, refs[4], more;

    test_make(&bus, 1 << 20, 4);
    total = test_free_blocks(&bus);
    ok(infer_entry_claim(&bus, &entry) == INFER_OK && entry == 0,
       "the first entry is free");

    for (i = 0; i < sizeof(buf); i++) {
        buf[i] = (char) (i * 7);
    }

    for (i = 0; i < 4; i++) {
        infer_slot_claim(&bus, entry, &refs[i]);
    }
    ok(infer_slot_claim(&bus, entry, &more) == INFER_BUSY,
       "a fifth claim of four slots is busy");
    for (i = 0; i < 4; i++) {
        infer_slot_abandon(&bus, refs[i]);
    }

    infer_slot_claim(&bus, entry, &ref);
    ok(ref.generation == refs[ref.slot].generation + 1,
       "an abandoned slot has a new generation");
    ok(!infer_slot_valid(&bus, refs[ref.slot]), "the old one is stale");

    ok(infer_slot_put(&bus, ref, INFER_EXT_PROMPT, buf, sizeof(buf))
       == INFER_OK, "three blocks of prompt");
    ok(test_free_blocks(&bus) == total - 3, "three blocks are taken");
    ok(infer_slot_get(&bus, ref, INFER_EXT_PROMPT, back, sizeof(back), &len)
       == INFER_OK && len == sizeof(buf) && memcmp(buf, back, len) == 0,
       "and come back");
    ok(infer_slot_get(&bus, ref, INFER_EXT_PROMPT, back, 5, &len)
       == INFER_CORRUPT, "a buffer that is too small is refused");
    ok(infer_slot_put(&bus, ref, INFER_EXT_STOPS, buf, 0) == INFER_OK
       && infer_slot_get(&bus, ref, INFER_EXT_STOPS, back, 5, &len)
          == INFER_OK && len == 0, "an empty extent");
    test_packed(&bus, ref);
    ok(infer_slot_reserve_log(&bus, ref, UINT32_MAX / 2) == INFER_BUSY,
       "a log without room is busy");
    ok(test_free_blocks(&bus) == total - 4, "and takes nothing");

    n = bus.slot[ref.slot].ext[INFER_EXT_PROMPT].first;
    bus.next[n] = n;
    ok(infer_slot_get(&bus, ref, INFER_EXT_PROMPT, back, sizeof(back), &len)
       == INFER_OK, "a chain that loops ends with its length");
    bus.next[n] = bus.n_blocks + 5;
    ok(infer_slot_get(&bus, ref, INFER_EXT_PROMPT, back, sizeof(back), &len)
       == INFER_CORRUPT, "a chain that leaves the arena is corrupt");

    infer_slot_submit(&bus, entry, ref);
    ok(infer_bus_submitted(&bus, bits) == 1
       && bits[0] == 1ull << ref.slot, "the engine sees it");
    ok(infer_bus_submitted(&bus, bits) == 0, "once");
    ok(!infer_slot_cancelled(&bus, ref), "it has a reader");
    infer_slot_release(&bus, entry, ref);
    ok(infer_slot_cancelled(&bus, ref), "and then none");
    infer_slot_free(&bus, ref.slot);
    infer_bus_sweep_blocks(&bus);
    ok(test_free_blocks(&bus) == total, "all blocks are free");
    infer_bus_unmap(&bus, 1);
}

/* 1: the slot's terms are these. */
static int
terms_are(const infer_slot_t *s, uint64_t queue, uint64_t first,
    uint64_t total, int32_t priority)
{
    return atomic_load(&s->queue_deadline_us) == queue
           && atomic_load(&s->first_deadline_us) == first
           && atomic_load(&s->total_deadline_us) == total
           && atomic_load(&s->priority) == priority;
}

static void
test_raise(void)
{
    uint32_t       entry, other;
    uint64_t       bits[INFER_BITMAP_WORDS];
    infer_bus_t    bus;
    infer_ref_t    ref, next;
    infer_slot_t  *s;
    infer_terms_t  t = { 0, 0, 0, 0 };

    test_make(&bus, 1 << 20, 2);
    infer_entry_claim(&bus, &entry);
    infer_entry_claim(&bus, &other);
    infer_slot_claim(&bus, entry, &ref);
    s = &bus.slot[ref.slot];
    ok(terms_are(s, 0, 0, 0, 0), "a fresh slot has no terms");
    s->queue_deadline_us = 100;
    s->first_deadline_us = 200;
    s->total_deadline_us = 300;
    s->priority = -1;
    infer_slot_submit(&bus, entry, ref);
    (void) infer_bus_submitted(&bus, bits);

    t = (infer_terms_t) { 90, 200, 299, -3 };
    ok(infer_slot_join(&bus, other, ref) == INFER_OK
       && infer_slot_raise(&bus, other, ref, &t) == 0
       && terms_are(s, 100, 200, 300, -1)
       && infer_bus_submitted(&bus, bits) == 0,
       "who asks for less changes nothing");
    t = (infer_terms_t) { 110, 100, 400, -1 };
    ok(infer_slot_raise(&bus, other, ref, &t) == 1
       && terms_are(s, 110, 200, 400, -1)
       && infer_bus_submitted(&bus, bits) == 1,
       "the latest of each deadline counts, and the engine is told");
    t = (infer_terms_t) { 1, 0, 1, 2 };
    ok(infer_slot_raise(&bus, other, ref, &t) == 1
       && terms_are(s, 110, 0, 400, 2), "none is later than any");
    t = (infer_terms_t) { 0, 900, 0, 1 };
    ok(infer_slot_raise(&bus, other, ref, &t) == 1
       && terms_are(s, 0, 0, 0, 2)
       && infer_slot_raise(&bus, other, ref, &t) == 0, "and stays");

    infer_slot_free(&bus, ref.slot);
    infer_slot_claim(&bus, entry, &next);
    ok(next.slot == ref.slot && terms_are(s, 0, 0, 0, 0),
       "the next generation begins anew");
    infer_bus_unmap(&bus, 1);
}

/* A group of three: who joins follows the chain, as far as it is there. */
static void
test_chain(void)
{
    uint32_t     i, entry, other, joined = 0;
    infer_bus_t  bus;
    infer_ref_t  ref[3], next;

    test_make(&bus, 1 << 20, 4);
    infer_entry_claim(&bus, &entry);
    infer_entry_claim(&bus, &other);
    for (i = 0; i < 3; i++) {
        infer_slot_claim(&bus, entry, &ref[i]);
        if (i > 0) {
            infer_slot_chain(&bus, ref[i - 1], ref[i]);
        }
    }
    for (next = ref[0]; infer_slot_join(&bus, other, next) == INFER_OK;
         next = infer_slot_next(&bus, next))
    {
        joined += next.slot == ref[joined].slot;
    }
    ok(joined == 3 && next.slot == INFER_NO_SLOT, "all of a group are found");

    infer_slot_abandon(&bus, ref[1]);
    infer_slot_claim(&bus, entry, &next);
    ok(next.slot == ref[1].slot
       && infer_slot_join(&bus, other, infer_slot_next(&bus, ref[0]))
          == INFER_AGAIN, "another generation in its place is not");
    infer_slot_abandon(&bus, next);
    infer_slot_abandon(&bus, ref[0]);
    infer_slot_claim(&bus, entry, &next);
    ok(next.slot == ref[0].slot
       && infer_slot_next(&bus, next).slot == INFER_NO_SLOT,
       "a fresh slot has no next");
    infer_bus_unmap(&bus, 1);
}

static void
test_log(uint32_t top)
{
    int             bad = 0;
    uint32_t        i, entry, n = 700;
    infer_ref_t     ref;
    infer_bus_t     bus;
    infer_top_t     pairs[INFER_MAX_TOP_LOGPROBS] = { { 0, 0 } }, back[20];
    infer_cursor_t  w = { 0, 0, 0 }, r = { 0, 0, 0 };
    infer_record_t  rec = { 0, 0, 0, 0 };

    test_make(&bus, 4 << 20, 2);
    infer_entry_claim(&bus, &entry);
    infer_slot_claim(&bus, entry, &ref);
    bus.slot[ref.slot].sampling.top_logprobs = top;
    infer_slot_reserve_log(&bus, ref, n);

    for (i = 0; i < n; i++) {
        rec.id = (int32_t) i * 3;
        rec.visible = i;
        if (top) {
            pairs[top - 1].id = (int32_t) i;
        }
        bad |= infer_log_append(&bus, ref, &w, &rec, pairs) != INFER_OK;
    }
    ok(!bad && infer_log_count(&bus, ref) == n, "%u records, top %u", n, top);
    ok(infer_log_append(&bus, ref, &w, &rec, pairs) == INFER_BUSY,
       "the log is full");

    for (i = 0; i < n; i++) {
        if (infer_log_read(&bus, ref, &r, i, &rec, back, 20) != INFER_OK
            || rec.id != (int32_t) i * 3 || rec.visible != i
            || (top && back[top - 1].id != (int32_t) i))
        {
            bad = 1;
        }
    }
    ok(!bad, "all come back");
    ok(infer_log_read(&bus, ref, &r, 0, &rec, back, 20) == INFER_OK
       && rec.id == 0, "reading back from the start");
    ok(infer_log_read(&bus, ref, &r, n, &rec, back, 20) == INFER_CORRUPT,
       "nothing behind the end");
    infer_bus_unmap(&bus, 1);
}

/* What is known of a slot of one bus must not name one of another. */
static void
test_generations(void)
{
    uint32_t     entry;
    infer_bus_t  bus, other;
    infer_ref_t  ref, same;

    test_make(&bus, 1 << 20, 2);
    test_make(&other, 1 << 20, 2);
    infer_entry_claim(&bus, &entry);
    infer_slot_claim(&bus, entry, &ref);
    infer_entry_claim(&other, &entry);
    infer_slot_claim(&other, entry, &same);
    ok(same.slot == ref.slot && !infer_slot_valid(&other, ref)
       && infer_slot_join(&other, entry, ref) == INFER_AGAIN,
       "two buses have no generation in common");
    infer_bus_unmap(&bus, 1);
    infer_bus_unmap(&other, 1);
}

/* What the child of test_crash does until it is killed. */
static void
test_child(infer_bus_t *bus)
{
    char         buf[6000] = { 0 };
    uint32_t     entry;
    infer_ref_t  ref;

    if (infer_entry_claim(bus, &entry) != INFER_OK) {
        _exit(1);
    }

    for ( ;; ) {
        if (infer_slot_claim(bus, entry, &ref) != INFER_OK) {
            continue;
        }
        infer_slot_put(bus, ref, INFER_EXT_PROMPT, buf, sizeof(buf));
        infer_slot_reserve_log(bus, ref, 300);
        if (ref.generation % 2) {
            infer_slot_abandon(bus, ref);
        } else {
            infer_slot_submit(bus, entry, ref);
            infer_slot_release(bus, entry, ref);
        }
    }
}

/* The engine's part: frees what has no reader. */
static void
test_engine_step(infer_bus_t *bus)
{
    uint32_t     i, st;
    uint64_t     bits[INFER_BITMAP_WORDS], w;
    infer_ref_t  ref;

    infer_bus_submitted(bus, bits);
    for (i = 0; i < bus->n_slots; i++) {
        w = atomic_load(&bus->slot[i].state);
        st = infer_slot_state(w);
        ref.slot = i;
        ref.generation = infer_slot_generation(w);
        if (st == INFER_SLOT_SUBMITTED && infer_slot_cancelled(bus, ref)) {
            infer_slot_free(bus, i);
        }
    }
}

static void
test_crash(void)
{
    int               round, bad = 0;
    pid_t             pid;
    uint32_t          total, k;
    uint64_t          end, woken[INFER_MAX_ENTRIES / 64] = { 0 };
    infer_bus_t       bus;
    infer_bus_load_t  load;

    test_make(&bus, 2 << 20, 8);
    total = test_free_blocks(&bus);

    for (round = 0; round < 200 && !bad; round++) {
        pid = fork();
        if (pid == 0) {
            test_child(&bus);
        }
        end = infer_now_us() + 300 + (uint64_t) (round * 37 % 2000);
        while (infer_now_us() < end) {
            test_engine_step(&bus);
        }
        kill(pid, SIGKILL);
        /* while it is a zombie its lock is gone already: sweep before wait */
        while (infer_bus_sweep(&bus, woken) != 0) {
            usleep(100);
        }
        waitpid(pid, NULL, 0);
        test_engine_step(&bus);
        infer_bus_load(&bus, 0, &load);
        for (k = 0; k < INFER_MAX_ENTRIES; k++) {
            bad |= atomic_load(&bus.entry[k].state) != INFER_ENTRY_FREE;
        }
        bad |= load.free_slots != 8 || load.free_blocks != total;
        if (bad) {
            diag("round %d: %u slots, %u of %u blocks", round,
                 load.free_slots, load.free_blocks, total);
        }
    }

    ok(!bad, "200 workers killed: no slot, block or entry leaks");
    infer_bus_unmap(&bus, 1);
}

/* A worker with an entry and a slot that it has claimed. */
static pid_t
test_worker(infer_bus_t *bus, uint32_t *entry, infer_ref_t *ref)
{
    int    end[2];
    pid_t  pid;

    if (pipe(end) != 0 || (pid = fork()) < 0) {
        printf("Bail out! no process\n");
        exit(1);
    }
    if (pid == 0) {
        _exit(infer_entry_claim(bus, entry) == INFER_OK
              && infer_slot_claim(bus, *entry, ref) == INFER_OK
              && write(end[1], entry, sizeof(*entry)) == sizeof(*entry)
              && write(end[1], ref, sizeof(*ref)) == sizeof(*ref)
              ? (pause(), 0) : 1);
    }
    (void) close(end[1]);
    ok(read(end[0], entry, sizeof(*entry)) == sizeof(*entry)
       && read(end[0], ref, sizeof(*ref)) == sizeof(*ref), "a worker");
    (void) close(end[0]);
    return pid;
}

/* One dies that had filled a slot and told of it: who has joined that must
 * hear of its end, for the engine never will. */
static void
test_dead_leader(void)
{
    pid_t        first, second;
    uint32_t     entry, other;
    uint64_t     bits[INFER_BITMAP_WORDS];
    uint64_t     woken[INFER_MAX_ENTRIES / 64] = { 0 };
    infer_bus_t  bus;
    infer_ref_t  ref, own;

    test_make(&bus, 1 << 20, 2);
    first = test_worker(&bus, &entry, &ref);
    second = test_worker(&bus, &other, &own);
    ok(infer_slot_join(&bus, other, ref) == INFER_OK,
       "what is about to be submitted is joined");
    (void) infer_entry_news(&bus, other, bits);
    kill(first, SIGKILL);
    waitpid(first, NULL, 0);
    ok(infer_bus_sweep(&bus, woken) == 1 && !infer_slot_valid(&bus, ref)
       && infer_slot_valid(&bus, own)
       && infer_entry_news(&bus, other, bits) == 1
       && bits[0] == 1ull << ref.slot && (woken[0] >> other & 1),
       "and its reader told when its worker dies");
    kill(second, SIGKILL);
    waitpid(second, NULL, 0);
    infer_bus_unmap(&bus, 1);
}

static void
test_locks(void)
{
    int          status;
    pid_t        pid;
    infer_bus_t  bus;

    test_make(&bus, 1 << 20, 2);
    pid = fork();
    if (pid == 0) {
        _exit(infer_lock_take(bus.fd, INFER_LOCK_ENGINE) == INFER_OK
              ? (pause(), 0) : 1);
    }
    while (!infer_lock_alive(bus.fd, INFER_LOCK_ENGINE)) {
        usleep(1000);
    }
    ok(infer_lock_take(bus.fd, INFER_LOCK_ENGINE) == INFER_BUSY,
       "a second engine is excluded");
    kill(pid, SIGKILL);
    waitpid(pid, &status, 0);
    ok(!infer_lock_alive(bus.fd, INFER_LOCK_ENGINE)
       && infer_lock_take(bus.fd, INFER_LOCK_ENGINE) == INFER_OK,
       "and may come when the first is dead");
    infer_bus_unmap(&bus, 1);
}

/* Not used after all: the next one has it at once, and the lock with it. */
static void
test_return(void)
{
    pid_t        pid;
    uint32_t     entry, other;
    infer_bus_t  bus;
    infer_ref_t  ref;

    test_make(&bus, 1 << 20, 2);
    ok(infer_entry_claim(&bus, &entry) == INFER_OK, "an entry");
    infer_entry_return(&bus, entry);
    pid = test_worker(&bus, &other, &ref);
    ok(other == entry && infer_lock_alive(bus.fd, INFER_LOCK_ENTRY(entry)),
       "is given back: another process has it");
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    infer_bus_unmap(&bus, 1);
}

static void
test_ring(void)
{
    int              i, n = 0, bad = 0;
    char             line[2000];
    infer_bus_t      bus;
    infer_log_rec_t  rec;

    test_make(&bus, 1 << 20, 2);
    ok(!infer_ring_take(&bus, &rec), "an empty ring");
    for (i = 0; i < INFER_RING_RECORDS + 10; i++) {
        infer_ring_put(&bus, 6, "line %d", i);
    }
    while (infer_ring_take(&bus, &rec)) {
        snprintf(line, sizeof(line), "line %d", n++);
        bad |= strcmp(line, rec.text) != 0 || rec.level != 6;
    }
    ok(!bad && n == INFER_RING_RECORDS, "lines in order, the rest dropped");
    ok(atomic_load(&bus.hdr->ring_dropped) == 10, "and counted");
    memset(line, 'x', sizeof(line) - 1);
    line[sizeof(line) - 1] = '\0';
    infer_ring_put(&bus, 1, "%s", line);
    ok(infer_ring_take(&bus, &rec) && rec.len == sizeof(rec.text) - 1,
       "a long line is cut");
    infer_bus_unmap(&bus, 1);
}

int
main(void)
{
    test_create();
    test_slots();
    test_raise();
    test_chain();
    test_generations();
    test_log(0);
    test_log(20);
    test_return();
    test_dead_leader();
    test_locks();
    test_ring();
    test_crash();

    return tap_done();
}
