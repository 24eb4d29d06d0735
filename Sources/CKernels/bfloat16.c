/* SPDX-License-Identifier: Apache-2.0 */

/* Items of bfloat16 alone: sums in float32. */

#define DSK_KIND_NAME bfloat16
#define DSK_TYPE DSK_BFLOAT16
#define DSK_HAS_OTHER_TYPES 0
#define DSK_TILE_NAME bfloat16_tile
#define DSK_TILE_TEMPLATE "bfloat16_tile_template.h"
#define DSK_SUM float
#define DSK_REAL float
#define DSK_KEY int32_t
#define DSK_COEFFICIENTS single
#define DSK_WIDEN(type, tensor, n, values) ((void)(type), (void)(n)) /* no tensor has another type */
#define DSK_KIND_LOOPS DSK_LOOPS
#define DSK_FUSES 0
#define DSK_SCALES_NOISE 0
#include "kind.h"
