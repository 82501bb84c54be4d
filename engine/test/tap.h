/*
 * tap.h: the few lines that a C test needs to speak TAP to prove(1).
 * One test program is one process; call tap_done() last.
 */

#ifndef INFER_TAP_H
#define INFER_TAP_H

#include <stdarg.h>
#include <stdio.h>

static int  tap_count, tap_failed;

__attribute__((format(printf, 2, 3), unused))
static int
ok(int pass, const char *fmt, ...)
{
    va_list ap;

    tap_count++;
    tap_failed += !pass;
    printf("%sok %d - ", pass ? "" : "not ", tap_count);
    va_start(ap, fmt);
    vprintf(fmt, ap);
    va_end(ap);
    printf("\n");
    fflush(stdout);

    return pass;
}

__attribute__((format(printf, 1, 2), unused))
static void
diag(const char *fmt, ...)
{
    va_list ap;

    printf("# ");
    va_start(ap, fmt);
    vprintf(fmt, ap);
    va_end(ap);
    printf("\n");
    fflush(stdout);
}

__attribute__((unused))
static int
tap_done(void)
{
    printf("1..%d\n", tap_count);
    return tap_failed != 0;
}

#endif
