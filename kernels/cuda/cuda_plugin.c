/*
 * cuda_plugin.c: the one symbol that libngx_infer_cuda.so exports.
 */

#include "cuda_ops.h"
#include "infer_build_id.h"
#include "kern_plugin.h"

extern const kern_plugin_t  infer_cuda_plugin
    __attribute__((visibility("default")));

const kern_plugin_t  infer_cuda_plugin = {
    .build_id = INFER_BUILD_ID, .ops = &cu_ops
};
