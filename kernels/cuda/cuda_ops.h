/*
 * cuda_ops.h: the backend's table, for the plugin's door and for tests that
 * are linked with the backend itself.
 */

#ifndef KERN_CUDA_OPS_H
#define KERN_CUDA_OPS_H

#include "kern.h"

/* argmax and exp_row are NULL: the host has its own. */
extern const kern_ops_t  cu_ops;

#endif
