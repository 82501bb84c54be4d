/*
 * spawn.h: what the process that starts the engine and the engine itself
 * agree on: descriptor numbers, arguments, exit codes, control messages.
 * Header only.
 */

#ifndef INFER_IPC_SPAWN_H
#define INFER_IPC_SPAWN_H

#include "ipc/layout.h"

/* Descriptors of a running engine, set by the spawner before exec; all
 * others but 0..2 are closed. */
enum {
    INFER_FD_BUS = 3,            /* the memfd */
    INFER_FD_LIFELINE = 4,       /* read end: EOF means nobody is left */
    INFER_FD_CONTROL = 5,        /* SOCK_SEQPACKET, infer_control_t + fds */
    INFER_FD_WAKE = 6,           /* the engine's eventfd */
    INFER_FD_ENTRY0 = 7          /* eventfd of entry k is 7 + k */
};

/* argv of a running engine: "ngx_infer_engine", "--run", build id, bus name
 * (for ps and logs). */

/* Exit codes. 2 is reserved by nginx. */
enum {
    INFER_EXIT_OK = 0,
    INFER_EXIT_FAILED = 1,       /* could not start: see its log */
    INFER_EXIT_BUILD = 3,        /* other build id or bus version */
    INFER_EXIT_TAKEN = 4,        /* another engine holds the byte lock */
    INFER_EXIT_DEVICE = 5,       /* no such device, or a sticky error of it */
    INFER_EXIT_CORRUPT = 6       /* the bus is damaged */
};

/* Messages to the engine, one datagram each, descriptors as SCM_RIGHTS.
 * Sent for every model after each spawn; the engine keeps the first one of
 * a model and closes doubles. */
enum { INFER_CTL_MODEL = 1 };    /* fds: model file, text image */

typedef struct {
    uint32_t  type;
    uint32_t  model;             /* index in models[] */
} infer_control_t;

/*
 * ngx_infer_engine --check KEY=VALUE...
 *   file=FD  image=FD (an empty memfd to be filled)  template=FD|-1
 *   name=NAME device=cpu isa=auto threads=N
 *   context=N sequences=N batch_tokens=N kv_bytes=N   (0: choose)
 *   kv_type=f16|bf16|q8|fp8  precision=q8|bf16|f16|w4a16|fp8|w8a8
 * Runs with the workers' privileges, reads the file, fills the image and
 * prints one line on stdout:
 *   ok context=N sequences=N batch_tokens=N n_pages=N page_bytes=N vocab=N
 *      tensor_bytes=N n_params=N train_context=N template=0|1
 * or
 *   error SENTENCE
 * exit code 0 or 1. Whatever else happens (killed, garbage) is an error too.
 */

#endif
