/*
 * priority.c: how the engine shares the CPUs with nginx. It may saturate all
 * of them, while a worker needs a few microseconds at once, many times a
 * second.
 *
 * The engine asks for long time slices. That changes nothing about its share,
 * but the scheduler (EEVDF, since Linux 6.12) lets a task with shorter slices,
 * such as a worker, run at once when it wakes up, instead of after the slice
 * or the timer tick of who is running.
 *
 * Where sessions are scheduled as groups (autogroup), nice values count inside
 * of a session only, and the engine has a session of its own. So nice goes to
 * the group as well.
 */

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "run/process.h"

#define PRIORITY_SLICE_NS   100000000  /* the longest that Linux takes */
#define PRIORITY_TRIES      5          /* one group may change in 0.1 s */

/* struct sched_attr, which older C libraries do not have */
typedef struct {
    uint32_t  size, policy;
    uint64_t  flags;
    int32_t   nice;
    uint32_t  priority;
    uint64_t  runtime_ns;
    uint64_t  deadline_ns, period_ns;
} priority_attr_t;

_Static_assert(sizeof(priority_attr_t) == 48, "SCHED_ATTR_SIZE_VER0");


static void
priority_slice(void)
{
    priority_attr_t  a;

    memset(&a, 0, sizeof(a));
    if (syscall(SYS_sched_getattr, 0, &a, sizeof(a), 0) != 0
        || (a.policy != SCHED_OTHER && a.policy != SCHED_BATCH))
    {
        return;
    }

    a.size = sizeof(a);
    a.runtime_ns = PRIORITY_SLICE_NS;
    (void) syscall(SYS_sched_setattr, 0, &a, 0);
}

/* Of the session, when it is ours. */
static void
priority_group(int nice)
{
    int   fd, i, len;
    char  text[16];

    if (getsid(0) != getpid()) {
        return;
    }

    fd = open("/proc/self/autogroup", O_WRONLY | O_CLOEXEC);
    if (fd < 0) {
        return;
    }

    len = snprintf(text, sizeof(text), "%d\n", nice);
    for (i = 0; i < PRIORITY_TRIES; i++) {
        if (write(fd, text, (size_t) len) == len || errno != EAGAIN) {
            break;
        }
        (void) poll(NULL, 0, 120);
    }

    (void) close(fd);
}

void
infer_process_priority(int nice)
{
    if (nice != 0) {
        (void) setpriority(PRIO_PROCESS, 0, nice);
        priority_group(nice);
    }

    priority_slice();
}
