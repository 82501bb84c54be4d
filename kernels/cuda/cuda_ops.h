/*
 * cuda_ops.h: the backend's table, for the plugin's door and for tests that
 * are linked with the backend itself.
 */

#ifndef KERN_CUDA_OPS_H
#define KERN_CUDA_OPS_H

#include "kern.h"

#ifdef __cplusplus
extern "C" {
#endif

/* argmax and exp_row are NULL: the host has its own. */
extern const kern_ops_t  cu_ops;

/* Tests: steps that only decode are launched kernel by kernel when on is 0,
 * by graphs (the default) else. */
void cu_use_graphs(kern_ctx_t *c, int on);
/* Steps that were a graph's. */
uint64_t cu_graph_launches(const kern_ctx_t *c);

#ifdef __cplusplus
}
#endif

#endif
