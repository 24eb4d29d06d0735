/* SPDX-License-Identifier: Apache-2.0 */

/* Items whose widest type is float64. */

#define DSK_KIND_NAME float64
#define DSK_TYPE DSK_FLOAT64
#define DSK_HAS_OTHER_TYPES 1
#define DSK_TILE_NAME double_tile
#define DSK_TILE_TEMPLATE "double_tile_template.h"
#define DSK_SUM double
#define DSK_REAL double
#define DSK_KEY int64_t
#define DSK_COEFFICIENTS row
#define DSK_WIDEN DSK_TILE(widen)
#define DSK_KIND_LOOPS DSK_LOOPS
#define DSK_FUSES 0
#define DSK_SCALES_NOISE 1
#include "kind.h"
