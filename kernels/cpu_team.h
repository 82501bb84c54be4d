/*
 * cpu_team.h: a team of threads that runs lists of items. An item is a
 * number of independent units; the next item starts when all units of the
 * one before are done. Each member has its own range of an item's units, in
 * order, and helps with the others' when that is empty, so that a member
 * which is not running delays nothing but the unit it holds.
 *
 * The caller of start / join is member 0; the others sleep on a futex when
 * there is nothing to do.
 */

#ifndef KERN_CPU_TEAM_H
#define KERN_CPU_TEAM_H

#include <stdint.h>

#include "infer.h"

typedef struct cpu_team_s  cpu_team_t;

/* Runs one unit; may be called by any member, for any order of units. */
typedef void (*cpu_team_pt)(void *arg, uint32_t item, uint32_t unit,
    uint32_t tid);

/* max_items: most items of one list. cpus: [n] or NULL; cpus[0] is the
 * caller's and is not applied here. */
int cpu_team_open(cpu_team_t **team, uint32_t n, uint32_t max_items,
    const int *cpus, infer_err_t *err);
void cpu_team_close(cpu_team_t *team);

/* start() lets the members begin with fn over n_items items of units[i]
 * units each (none of 0); join() helps and returns when all is done. What a
 * unit wrote is seen by every later item and by the caller. One caller at a
 * time. */
void cpu_team_start(cpu_team_t *team, cpu_team_pt fn, void *arg,
    const uint32_t *units, uint32_t n_items);
void cpu_team_join(cpu_team_t *team);

/* fn(arg, i) for i in 0 .. n - 1, spread over the team; returns when all are
 * done. With one thread or one call, in the caller alone. */
void cpu_team_parallel(cpu_team_t *team, uint32_t n_threads,
    void (*fn)(void *arg, uint32_t i), void *arg, uint32_t n);

/* First unit of member tid's range of n. */
uint32_t cpu_team_part(const cpu_team_t *team, uint32_t n, uint32_t tid);

#endif
