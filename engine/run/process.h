/*
 * process.h: the engine as a process: from the descriptors that the spawner
 * left (ipc/spawn.h) to its exit code.
 */

#ifndef INFER_RUN_PROCESS_H
#define INFER_RUN_PROCESS_H

/* `--run`: build_id is the spawner's. Returns an INFER_EXIT_* code. */
int infer_process_run(const char *build_id, const char *bus_name);

#endif
