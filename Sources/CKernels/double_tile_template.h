/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Tiles of doubles, written once for every instruction set: DSK_TILE_VECTORS vectors, read from elements of any type and rounded to
 * them. The includer defines
 *
 *   DSK_VECTOR_BYTES  the size of a vector
 *   DSK_HAS_F16C      1 if the instruction set converts float16
 *   DSK_TARGET        the function attribute that allows the instruction set, or nothing
 *   DSK_TILE(name)    the name of this variant's function or type
 *
 * Every instruction set gives the same bits: widening is exact, and there is one rounding, to nearest even.
 */

#define DSK_FLOATS_BYTES (DSK_VECTOR_BYTES / 2)
#include "halves_template.h"

/* Vectors of doubles, also with an element's alignment, and their bits. */
typedef double DSK_TILE(vector) __attribute__((vector_size(DSK_VECTOR_BYTES), may_alias));
typedef double DSK_TILE(loose_doubles) __attribute__((vector_size(DSK_VECTOR_BYTES), aligned(8), may_alias));
typedef uint64_t DSK_TILE(mask) __attribute__((vector_size(DSK_VECTOR_BYTES)));

/* The vectors that round_vector joins to one vector of elements. */
enum { DSK_TILE(joined) = 1 };

#define VECTOR DSK_TILE(vector)
#define MASK DSK_TILE(mask)

/* Lanes of `a` where the mask is set, of `b` elsewhere. */
INLINE MASK DSK_TILE(select_long)(MASK mask, MASK a, MASK b) { return (mask & a) | (~mask & b); }

/*
 * The multiple of 2^(e - fraction_bits) nearest to the value, ties to even. 2^e is the value's power of two, but at least the
 * narrow type's least one. Except for overflow, this is the value rounded to the narrow type, subnormal numbers included.
 *
 * Why is it rounded once? The unit in the last place of 1.5 * 2^(e + 52 - fraction_bits) is 2^(e - fraction_bits), and adding
 * |value| < 2^(e+1) stays below the next power of two: the sum rounds to the multiple wanted, and the difference is exact.
 * From 2^200 on the addition has no effect, and the value overflows later. NaN and infinity pass through.
 * The powers are compared as doubles, as SSE2 can; an infinite one is the greatest. A zero keeps its sign.
 */
INLINE VECTOR DSK_TILE(round_to_grid)(VECTOR values, int least_exponent, int fraction_bits) {
    MASK zero = {0}, bits = (MASK)values, power = bits & 0x7FFull << 52;
    MASK least = zero + dsk_power_bits(least_exponent), greatest = zero + dsk_power_bits(200);
    power = DSK_TILE(select_long)((MASK)((VECTOR)power < (VECTOR)least), least, power);
    power = DSK_TILE(select_long)((MASK)((VECTOR)power > (VECTOR)greatest), greatest, power);
    VECTOR shift = (VECTOR)(power + dsk_grid_constant(fraction_bits));
    return (VECTOR)((MASK)((values + shift) - shift) | (bits & 1ull << 63));
}

/* Packs the result of round_to_grid as bfloat16: exact, or infinity. */
INLINE HALVES DSK_TILE(pack_bfloat16)(VECTOR values) {
    return __builtin_convertvector((WORDS) __builtin_convertvector(values, FLOATS) >> 16, HALVES);
}

/* Widens vector u of the tile that begins at element i. */
INLINE VECTOR DSK_TILE(load_vector)(dsk_element_type type, const void *tensor, size_t i, int u) {
    const LOOSE_HALVES *halves = (const LOOSE_HALVES *)((const uint16_t *)tensor + i) + u;
    switch (type) {
    case DSK_FLOAT64: return ((const DSK_TILE(loose_doubles) *)((const double *)tensor + i))[u];
    case DSK_FLOAT32: return __builtin_convertvector(((const DSK_TILE(loose_floats) *)((const float *)tensor + i))[u], VECTOR);
    case DSK_FLOAT16: return __builtin_convertvector(DSK_TILE(widen_float16)(halves), VECTOR);
    default: return __builtin_convertvector(DSK_TILE(widen_bfloat16)(halves), VECTOR);
    }
}

/* Rounds vector u of a tile, whose elements are written as they lie in memory. */
INLINE void DSK_TILE(round_vector)(dsk_element_type type, VECTOR values, int u, void *elements) {
    switch (type) {
    case DSK_FLOAT64: ((VECTOR *)elements)[u] = values; break;
    case DSK_FLOAT32: ((FLOATS *)elements)[u] = __builtin_convertvector(values, FLOATS); break;
    case DSK_FLOAT16:
        values = DSK_TILE(round_to_grid)(values, DSK_FLOAT16_LEAST_EXPONENT, DSK_FLOAT16_FRACTION_BITS);
        ((HALVES *)elements)[u] = DSK_TILE(round_to_float16)(__builtin_convertvector(values, FLOATS));
        break;
    default: /* bfloat16 */
        values = DSK_TILE(round_to_grid)(values, DSK_BFLOAT16_LEAST_EXPONENT, DSK_BFLOAT16_FRACTION_BITS);
        ((HALVES *)elements)[u] = DSK_TILE(pack_bfloat16)(values);
        break;
    }
}

#include "widen_template.h"

#undef VECTOR
#undef MASK
#undef FLOATS
#undef HALVES
#undef LOOSE_HALVES
#undef WORDS
#undef INTEGERS
#undef INLINE
#undef DSK_FLOATS_BYTES
