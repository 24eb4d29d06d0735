/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Tiles of floats, written once for every instruction set: DSK_TILE_VECTORS vectors, read from bfloat16 and rounded to it. The
 * includer defines the same macros as for double_tile_template.h.
 *
 * A bfloat16 is the upper half of a float. A vector of 32-bit words, each holding two elements, is therefore widened without moving
 * anything across lanes: the even elements by a shift, the odd ones by a mask. Vectors 2u and 2u + 1 of a tile are the even and the
 * odd elements of its u-th words. A step may use any order of elements that all tensors share.
 *
 * Every instruction set gives the same bits: widening is exact, and there is one rounding, to nearest even.
 */

/* Vectors of floats and of 32-bit words, which hold a float's bits or two elements; words also at an element's alignment. */
typedef float DSK_TILE(vector) __attribute__((vector_size(DSK_VECTOR_BYTES), may_alias));
typedef uint32_t DSK_TILE(mask) __attribute__((vector_size(DSK_VECTOR_BYTES), may_alias));
typedef uint32_t DSK_TILE(loose_words) __attribute__((vector_size(DSK_VECTOR_BYTES), aligned(2), may_alias));

/* The vectors that round_vector joins to one vector of elements. */
enum { DSK_TILE(joined) = 2 };

#define VECTOR DSK_TILE(vector)
#define MASK DSK_TILE(mask)
#define LOOSE_WORDS DSK_TILE(loose_words)
#define INLINE static inline __attribute__((always_inline)) DSK_TARGET

/* Widens vector u of the tile that begins at element i; a word's low half is the even element (little-endian). */
INLINE VECTOR DSK_TILE(load_vector)(dsk_element_type type, const void *tensor, size_t i, int u) {
    MASK words = ((const LOOSE_WORDS *)((const uint16_t *)tensor + i))[u / 2];
    (void)type;
    if (u % 2 == 0) return (VECTOR)(words << 16);
    return (VECTOR)(words & 0xFFFF0000);
}

/*
 * Rounds vector u of a tile, whose elements are written as they lie in memory, even elements before odd ones. The addend is half a
 * unit of the kept part, less one bit if the kept part is even: it carries exactly if the kept part must grow, for subnormal numbers
 * and up to infinity, too. The lower half of a NaN is zero, so it doesn't carry: the NaN comes from an element, from a scalar (see
 * `single` in rows.c), or from the processor.
 */
INLINE void DSK_TILE(round_vector)(dsk_element_type type, VECTOR values, int u, void *elements) {
    MASK *const words = (MASK *)elements + u / 2;
    MASK bits = (MASK)values, rounded = bits + 0x7FFF + (bits >> 16 & 1);
    (void)type;
    if (u % 2 == 0)
        *words = rounded >> 16;
    else
        *words |= rounded & 0xFFFF0000;
}

#undef VECTOR
#undef MASK
#undef LOOSE_WORDS
#undef INLINE
