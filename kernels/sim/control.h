/*
 * control.h: what tests ask of the fake runtime, the checker and the
 * counters. Linked statically; for a process of its own, such as the engine,
 * the environment does the same (simt.h).
 */

#ifndef SIMT_CONTROL_H
#define SIMT_CONTROL_H

#include <cstddef>
#include <cstdint>

namespace simt {

/* ---- runtime ---- */

/* When queued work runs: at once; only when something waits for it; or any
 * of what may run, at random times. */
enum Async { EAGER, LAZY, RANDOM };

/* order: 0 threads and blocks ascending, 1 descending, 2 random. */
void rt_config(Async mode, uint64_t seed, int order);

/* As SIMT_DEVICE; NULL or "": the default device. Only while nothing is
 * allocated. False, with nothing changed: not understood. */
bool rt_device(const char *spec);

/* The nth later call of api fails: with code, or the one usual for it when
 * 0. "kernel": the nth executed launch. Codes that mean a broken device
 * (214, 700, 702, 710, 716, 719) stick: every later call returns them. */
void rt_fail(const char *api, int nth, int code = 0);

/* Forgets a sticky error and planned failures, as a new process would. */
void rt_reset_errors();

/* Live allocations + streams + events + graphs. */
long rt_leaks();

/* Calls of an API since the process began; "kernel": executed launches. */
long rt_calls(const char *api);

/* ---- checker: there only in a checked build ---- */

extern int check_reports __attribute__((weak));
/* Prints the number of reports, and access patterns with SIMT_PROFILE. */
void check_print() __attribute__((weak));

static inline bool checked()
{
    return &check_reports != nullptr;
}

/* ---- counters, in a checked build ---- */

struct PerfCount {
    uint64_t launches;
    /* global memory: warp-wide requests, 32-byte sectors they touch, the
     * fewest that could hold the bytes they ask for */
    uint64_t requests, sectors, min_sectors;
    uint64_t read_bytes, write_bytes;     /* distinct sectors of a launch */
    /* shared memory: passes over the banks, and without conflicts */
    uint64_t shared, passes, min_passes;
};

/* Counts from here, from zero. */
void perf_start() __attribute__((weak));
/* What kernels whose name contains the text did since; NULL: all. */
PerfCount perf_count(const char *kernel) __attribute__((weak));
void perf_stop() __attribute__((weak));

}  // namespace simt

#endif
