/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Tiles of floats, written once for every instruction set: DSK_TILE_VECTORS vectors, read from halves (float16 or bfloat16) and
 * rounded to them. The includer defines the same macros as for double_tile_template.h.
 *
 * Every instruction set gives the same bits: widening is exact, and there is one rounding, to nearest even.
 */

#define DSK_FLOATS_BYTES DSK_VECTOR_BYTES
#include "halves_template.h"

typedef DSK_TILE(floats) DSK_TILE(vector);

/* The vectors that round_vector joins to one vector of elements. */
enum { DSK_TILE(joined) = 1 };

#define VECTOR DSK_TILE(vector)

INLINE HALVES DSK_TILE(round_to_bfloat16)(VECTOR values) {
    WORDS bits = (WORDS)values;
    /* Correct for subnormal numbers and up to infinity, too: see round_to_float16. A NaN keeps its first bits and becomes quiet. */
    WORDS rounded = bits + 0x7FFF + (bits >> 16 & 1);
    rounded = DSK_TILE(select)((WORDS)(values != values), bits | 0x400000, rounded);
    return __builtin_convertvector(rounded >> 16, HALVES);
}

/* Widens vector u of the tile that begins at element i. Elements may also be floats already. */
INLINE VECTOR DSK_TILE(load_vector)(dsk_element_type type, const void *tensor, size_t i, int u) {
    if (type == DSK_FLOAT32) return ((const DSK_TILE(loose_floats) *)((const float *)tensor + i))[u];
    const LOOSE_HALVES *halves = (const LOOSE_HALVES *)((const uint16_t *)tensor + i) + u;
    return type == DSK_FLOAT16 ? DSK_TILE(widen_float16)(halves) : DSK_TILE(widen_bfloat16)(halves);
}

/* Rounds vector u of a tile, whose elements are written as they lie in memory. */
INLINE void DSK_TILE(round_vector)(dsk_element_type type, VECTOR values, int u, void *elements) {
    ((HALVES *)elements)[u] = type == DSK_FLOAT16 ? DSK_TILE(round_to_float16)(values) : DSK_TILE(round_to_bfloat16)(values);
}

#include "widen_template.h"

#undef VECTOR
#undef FLOATS
#undef HALVES
#undef LOOSE_HALVES
#undef WORDS
#undef INTEGERS
#undef INLINE
#undef DSK_FLOATS_BYTES
