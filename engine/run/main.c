/*
 * main.c: the executable ngx_infer_engine. nginx starts it and nobody else
 * needs to; ipc/spawn.h has its arguments, descriptors and exit codes.
 */

#include <string.h>

#include "ipc/bus.h"
#include "ipc/spawn.h"
#include "run/check.h"
#include "run/process.h"


int
main(int argc, char **argv)
{
    if (argc >= 2 && strcmp(argv[1], "--check") == 0) {
        return infer_check(argc - 2, argv + 2);
    }

    if (argc == 4 && strcmp(argv[1], "--run") == 0) {
        return infer_process_run(argv[2], argv[3]);
    }

    if (argc == 2 && strcmp(argv[1], "--version") == 0) {
        printf("%s\n", infer_build_id());
        return INFER_EXIT_OK;
    }

    fprintf(stderr, "usage: ngx_infer_engine --version\n"
                    "(nginx starts it with --run and --check)\n");

    return INFER_EXIT_FAILED;
}
