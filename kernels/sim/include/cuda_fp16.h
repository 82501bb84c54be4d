/* Stand-in for the toolkit's header; the types are in kernels/sim/types.h. */
#ifdef __cplusplus
#include "../types.h"
#endif
