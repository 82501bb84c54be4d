/*
 * kern_plugin.h: what the engine and a backend in a shared object agree on.
 * The plugin exports one symbol, KERN_PLUGIN_SYMBOL, of type kern_plugin_t;
 * everything else is hidden on both sides. Both are of one build.
 */

#ifndef KERN_PLUGIN_H
#define KERN_PLUGIN_H

#include "kern.h"

#define KERN_PLUGIN_FILE    "libngx_infer_cuda.so"
#define KERN_PLUGIN_SYMBOL  "infer_cuda_plugin"

typedef struct {
    const char        *build_id;   /* infer_build_id() of its sources; first */
    const kern_ops_t  *ops;        /* argmax and exp_row are NULL */
} kern_plugin_t;

/* Loads the plugin once and returns its table with the vector helpers of
 * cpu; it is never unloaded, and the table belongs to the kernels. The file
 * is that of the environment's INFER_CUDA_PLUGIN, else KERN_PLUGIN_FILE
 * beside the executable. NULL with a sentence. Nothing of the device is
 * touched. Engine and tools only, any thread. */
const kern_ops_t *kern_plugin_ops(const kern_ops_t *cpu, infer_err_t *err);

#endif
