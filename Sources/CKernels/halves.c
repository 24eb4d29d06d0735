/* SPDX-License-Identifier: Apache-2.0 */

/* Items of both half types. All tensors are widened to float32; no output has that type, so every form runs in combine_any. */

#define DSK_KIND_NAME halves
#define DSK_TYPE DSK_FLOAT32
#define DSK_HAS_OTHER_TYPES 1
#define DSK_TILE_NAME float_tile
#define DSK_TILE_TEMPLATE "float_tile_template.h"
#define DSK_SUM float
#define DSK_REAL float
#define DSK_KEY int32_t
#define DSK_COEFFICIENTS single
#define DSK_WIDEN DSK_TILE(widen)
#define DSK_KIND_LOOPS(X)
#define DSK_FUSES 0
#define DSK_SCALES_NOISE 0
#include "kind.h"
