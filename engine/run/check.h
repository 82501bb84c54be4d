/*
 * check.h: `ngx_infer_engine --check` (ipc/spawn.h says what it takes and
 * answers). One short-lived process with the workers' privileges.
 */

#ifndef INFER_RUN_CHECK_H
#define INFER_RUN_CHECK_H

/* argv: the KEY=VALUE words. Prints one line; returns the exit code. */
int infer_check(int argc, char **argv);

#endif
