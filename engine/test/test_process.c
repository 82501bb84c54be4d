/*
 * test_process.c: the engine as a process among others: how its threads are
 * scheduled, and that it ends when no worker is left.
 */

#include <dirent.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/utsname.h>

#include "engine_site.h"

#define SLICE_NS  100000000

static const site_conf_t  small = { 256, 4, 64, 32, 1, 0, 0 };


static void
ready(site_t *s)
{
    if (site_wait_word(&s->bus.hdr->engine_state, INFER_ENGINE_READY, 30000)
        < 0)
    {
        site_bail("the engine does not get ready (state %u)",
                  atomic_load(&s->bus.hdr->engine_state));
    }
    /* the thread that found out is not one of those that stay */
    (void) site_wait_word(&s->bus.model[0].content_known, 1, 30000);
    (void) poll(NULL, 0, 50);
}

/* Time slice of a thread; 0 where the kernel does not tell. */
static uint64_t
slice_ns(pid_t tid)
{
    uint64_t  attr[8] = { 0 };

    if (syscall(SYS_sched_getattr, tid, attr, 48, 0) != 0) {
        return 0;
    }

    return attr[3];
}

static int
linux_is(int major, int minor)
{
    int             a = 0, b = 0;
    struct utsname  u;

    (void) uname(&u);
    (void) sscanf(u.release, "%d.%d", &a, &b);

    return a > major || (a == major && b >= minor);
}

/* Threads of the engine; *nice and *slice: those that have these. */
static uint32_t
threads(pid_t pid, int want_nice, uint32_t *nice, uint32_t *slice)
{
    DIR            *dir;
    char            path[64];
    pid_t           tid;
    uint32_t        n = 0;
    struct dirent  *d;

    *nice = *slice = 0;
    snprintf(path, sizeof(path), "/proc/%d/task", (int) pid);
    dir = opendir(path);
    while (dir != NULL && (d = readdir(dir)) != NULL) {
        tid = atoi(d->d_name);
        if (tid > 0) {
            n++;
            *nice += getpriority(PRIO_PROCESS, (id_t) tid) == want_nice;
            *slice += slice_ns(tid) == SLICE_NS;
        }
    }
    if (dir != NULL) {
        (void) closedir(dir);
    }

    return n;
}

/* nice of the session's group; 99 where there is none. */
static int
group_nice(pid_t pid)
{
    int    nice = 99;
    char   path[64];
    FILE  *f;

    snprintf(path, sizeof(path), "/proc/%d/autogroup", (int) pid);
    f = fopen(path, "r");
    if (f == NULL) {
        return 99;
    }
    if (fscanf(f, "/autogroup-%*d nice %d", &nice) != 1) {
        nice = 99;
    }
    (void) fclose(f);

    return nice;
}

static void
test_priority(site_t *s, int want)
{
    int       group;
    uint32_t  n, nice, slice;

    n = threads(s->pid, want, &nice, &slice);
    ok(n >= 3 && nice == n, "nice %d: all %u threads have it (%u)", want, n,
       nice);

    group = group_nice(s->pid);
    if (group == 99) {
        ok(1, "session's group # SKIP no autogroup here");
    } else {
        ok(group == want, "and the session has nice %d", group);
    }

    if (!linux_is(6, 12)) {
        ok(1, "time slices # SKIP Linux before 6.12");
    } else {
        ok(slice == n, "time slices are long in all (%u of %u)", slice, n);
    }
}

/* What the end of a worker's process does. */
static void
leave(site_t *s)
{
    struct flock  fl = { .l_type = F_UNLCK, .l_whence = SEEK_SET,
                         .l_start = INFER_LOCK_ENTRY(s->entry), .l_len = 1 };

    infer_entry_leave(&s->bus, s->entry);
    if (fcntl(s->bus.fd, F_SETLK, &fl) != 0) {
        site_bail("unlock: %s", strerror(errno));
    }
}

int
main(void)
{
    int      ms;
    site_t  *s = calloc(2, sizeof(*s));

    if (s == NULL) {
        site_bail("no memory");
    }

    site_open(&s[0], &small);
    site_start(&s[0]);
    ready(&s[0]);
    test_priority(&s[0], 0);
    leave(&s[0]);
    ms = (int) (infer_now_us() / 1000);

    site_open(&s[1], &small);
    s[1].bus.hdr->nice = 3;
    site_start(&s[1]);
    ready(&s[1]);
    test_priority(&s[1], 3);

    ok(site_wait_exit(s[0].pid, 30000) == INFER_EXIT_OK,
       "an engine without a worker ends");
    ms = (int) (infer_now_us() / 1000) - ms;
    ok(ms > 9000 && ms < 25000, "after 10 seconds (%d ms)", ms);
    ok(atomic_load(&s[0].bus.hdr->engine_state) == INFER_ENGINE_NONE,
       "and says so");
    s[0].pid = 0;
    ok(site_wait_exit(s[1].pid, 1) == -1, "one with a worker lives");

    site_close(&s[0]);
    site_close(&s[1]);
    free(s);

    return tap_done();
}
