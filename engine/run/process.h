/*
 * process.h: the engine as a process: from the descriptors that the spawner
 * left (ipc/spawn.h) to its exit code.
 */

#ifndef INFER_RUN_PROCESS_H
#define INFER_RUN_PROCESS_H

/* `--run`: build_id is the spawner's. Returns an INFER_EXIT_* code. */
int infer_process_run(const char *build_id, const char *bus_name);

/* How the calling process, and every thread it starts later, is scheduled
 * beside others: nice (of its session too, where that counts) and long time
 * slices, so that whoever wakes up does not wait for us. What the kernel
 * refuses or does not know is left as it is. */
void infer_process_priority(int nice);

#endif
