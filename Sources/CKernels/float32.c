/* SPDX-License-Identifier: Apache-2.0 */

/* Items whose widest type is float32: sums in float64; coefficients are shortened so that products are exact. */

#include "kernels.h"

/* Tiles of floats, only to widen halves. */
#define DSK_TILE_NAME float_tile
#define DSK_TEMPLATE "float_tile_template.h"
#include "kernels_all_isas.h"
#undef DSK_TEMPLATE
#undef DSK_TILE_NAME

#define DSK_KIND_NAME float32
#define DSK_TYPE DSK_FLOAT32
#define DSK_HAS_OTHER_TYPES 1
#define DSK_TILE_NAME double_tile
#define DSK_TILE_TEMPLATE "double_tile_template.h"
#define DSK_SUM double
#define DSK_REAL float
#define DSK_KEY int32_t
#define DSK_COEFFICIENTS shortened
#define DSK_WIDEN DSK_JOIN(widen, float_tile, DSK_ISA)
#define DSK_KIND_LOOPS DSK_LOOPS
#define DSK_FUSES 1
#define DSK_SCALES_NOISE 1
#include "kind.h"
