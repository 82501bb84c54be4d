/*
 * check.h: between the checker (check.cpp), its reports (report.cpp) and
 * the counters (perf.cpp).
 */

#ifndef SIMT_CHECK_H
#define SIMT_CHECK_H

#include <string>

#include "fiber.h"

namespace simt {

/* A moment of a thread: what the order of two accesses is told from. */
struct Moment {
    uint32_t launch, block;
    uint32_t time;                /* fences and atomics so far, of all */
    uint32_t tid : 10, bep : 22;  /* thread; barriers so far */
    uint32_t wep;                 /* warp barriers so far */
};

/* report.cpp: one line for each kind and place, the count of all. other: the
 * instruction of the other access, or NULL. */
void report(const char *what, const void *p, size_t n, const void *pc,
    const void *other);
/* "file:line" of an instruction, inlined ones with their callers. */
std::string where(const void *pc);
/* p lies in the image of the program or of a library: constants. */
bool in_image(const void *p);

/* perf.cpp */
extern bool perf_on;
void perf_access(const Moment &m, const void *p, size_t n, bool write,
    bool shared, const void *pc);
void perf_launch_end(const char *kernel);
void perf_print();

}  // namespace simt

#endif
