/*
 * cpu_team.h: a team of threads for SPMD work. The caller of start / join
 * is member 0; the others sleep on a futex when there is nothing to do.
 */

#ifndef KERN_CPU_TEAM_H
#define KERN_CPU_TEAM_H

#include <stdint.h>

#include "infer.h"

typedef struct cpu_team_s  cpu_team_t;

/* cpus: [n] or NULL; cpus[0] is the caller's and is not applied here. */
int cpu_team_open(cpu_team_t **team, uint32_t n, const int *cpus,
    infer_err_t *err);
void cpu_team_close(cpu_team_t *team);

/* start() lets members 1 .. n - 1 begin fn(arg, tid); join() runs it as
 * member 0 and returns when all are done. One caller at a time. */
void cpu_team_start(cpu_team_t *team, void (*fn)(void *arg, uint32_t tid),
    void *arg);
void cpu_team_join(cpu_team_t *team);

/* Inside fn: all members wait for each other; writes before it are seen
 * by all after it. */
void cpu_team_barrier(cpu_team_t *team);

#endif
