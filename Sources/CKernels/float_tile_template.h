/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Tiles of floats, written once for every instruction set: DSK_TILE_VECTORS vectors, read from halves (float16 or bfloat16) and
 * rounded to them. The includer defines the same macros as for double_tile_template.h.
 *
 * Every instruction set gives the same bits: widening is exact, and there is one rounding, to nearest even.
 */

/* Vectors of floats, of their bits, and of the same number of halves; halves also with an element's alignment. */
typedef float DSK_TILE(vector) __attribute__((vector_size(DSK_VECTOR_BYTES), may_alias));
typedef uint32_t DSK_TILE(mask) __attribute__((vector_size(DSK_VECTOR_BYTES)));
typedef int32_t DSK_TILE(integers) __attribute__((vector_size(DSK_VECTOR_BYTES)));
typedef uint16_t DSK_TILE(halves) __attribute__((vector_size(DSK_VECTOR_BYTES / 2), may_alias));
typedef uint16_t DSK_TILE(loose_halves) __attribute__((vector_size(DSK_VECTOR_BYTES / 2), aligned(2), may_alias));

typedef float DSK_TILE(loose_floats) __attribute__((vector_size(DSK_VECTOR_BYTES), aligned(4), may_alias));

/* A tile's elements in their memory layout. */
typedef struct DSK_TILE(elements) {
    DSK_TILE(halves) parts[DSK_TILE_VECTORS];
} DSK_TILE(elements);

#define VECTOR DSK_TILE(vector)
#define MASK DSK_TILE(mask)
#define HALVES DSK_TILE(halves)
#define LOOSE_HALVES DSK_TILE(loose_halves)
#define INLINE static inline __attribute__((always_inline)) DSK_TARGET

/* Lanes of `a` where the mask is set, of `b` elsewhere. */
INLINE MASK DSK_TILE(select)(MASK mask, MASK a, MASK b) { return (mask & a) | (~mask & b); }

INLINE VECTOR DSK_TILE(widen_float16)(const LOOSE_HALVES *halves) {
#if DSK_HAS_F16C && DSK_VECTOR_BYTES == 64
    return (VECTOR)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)halves));
#elif DSK_HAS_F16C && DSK_VECTOR_BYTES == 32
    return (VECTOR)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)halves));
#elif defined(__aarch64__)
    typedef _Float16 native __attribute__((vector_size(DSK_VECTOR_BYTES / 2)));
    return __builtin_convertvector((native)*halves, VECTOR);
#else
    MASK words = __builtin_convertvector(*halves, MASK), magnitudes = words & 0x7FFF;
    /* A subnormal number is its fraction times 2^-24; other numbers get the wider type's exponent bias. */
    MASK subnormal = (MASK)(__builtin_convertvector((DSK_TILE(integers))magnitudes, VECTOR) * 0x1p-24f);
    MASK normal = (magnitudes << 13) + ((127 - 15) << 23);
    normal |= (MASK)((DSK_TILE(integers))magnitudes >= 0x7C00) & 0x7F800000;
    MASK bits = DSK_TILE(select)((MASK)((DSK_TILE(integers))magnitudes < 0x400), subnormal, normal);
    return (VECTOR)(bits | (words & 0x8000) << 16);
#endif
}

INLINE HALVES DSK_TILE(round_to_float16)(VECTOR values) {
#if DSK_HAS_F16C && DSK_VECTOR_BYTES == 64
    return (HALVES)_mm512_cvtps_ph((__m512)values, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#elif DSK_HAS_F16C && DSK_VECTOR_BYTES == 32
    return (HALVES)_mm256_cvtps_ph((__m256)values, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#elif defined(__aarch64__)
    typedef _Float16 native __attribute__((vector_size(DSK_VECTOR_BYTES / 2)));
    return (HALVES) __builtin_convertvector(values, native);
#else
    MASK zero = {0}, bits = (MASK)values, magnitudes = bits & 0x7FFFFFFF;
    VECTOR absolute = (VECTOR)magnitudes, half = (VECTOR)(zero + 0x3F000000); /* 1/2 */
    /* The addend is half a unit of the kept part, less one bit if that is even: it carries exactly if the kept part must grow. */
    MASK normal = (magnitudes - ((127 - 15) << 23) + 0xFFF + (magnitudes >> 13 & 1)) >> 13;
    /* The unit in the last place of 1/2 is 2^-24, as in subnormal float16. */
    MASK subnormal = (MASK)(absolute + half) - (MASK)half;
    MASK rounded = DSK_TILE(select)((MASK)(absolute < 0x1p-14f), subnormal, normal);
    rounded = DSK_TILE(select)((MASK)(absolute >= 0x1p16f), zero + 0x7C00, rounded);
    rounded = DSK_TILE(select)((MASK)(absolute != absolute), zero + 0x7E00, rounded);
    return __builtin_convertvector(rounded | (bits >> 16 & 0x8000), HALVES);
#endif
}

INLINE VECTOR DSK_TILE(widen_bfloat16)(const LOOSE_HALVES *halves) {
    return (VECTOR)(__builtin_convertvector(*halves, MASK) << 16);
}

INLINE HALVES DSK_TILE(round_to_bfloat16)(VECTOR values) {
    MASK bits = (MASK)values;
    /* Correct for subnormal numbers and up to infinity, too: see round_to_float16. A NaN keeps its first bits and becomes quiet. */
    MASK rounded = bits + 0x7FFF + (bits >> 16 & 1);
    rounded = DSK_TILE(select)((MASK)(values != values), bits | 0x400000, rounded);
    return __builtin_convertvector(rounded >> 16, HALVES);
}

/* Widens vector u of the tile that begins at element i. Elements may also be floats already. */
INLINE VECTOR DSK_TILE(load_vector)(dsk_element_type type, const void *tensor, size_t i, int u) {
    if (type == DSK_FLOAT32) return ((const DSK_TILE(loose_floats) *)((const float *)tensor + i))[u];
    const LOOSE_HALVES *halves = (const LOOSE_HALVES *)((const uint16_t *)tensor + i) + u;
    return type == DSK_FLOAT16 ? DSK_TILE(widen_float16)(halves) : DSK_TILE(widen_bfloat16)(halves);
}

/* Widens the tile that begins at element i; one branch on the type serves all its vectors. */
INLINE void DSK_TILE(load)(dsk_element_type type, const void *tensor, size_t i, VECTOR *values) {
    if (type == DSK_FLOAT16) {
        for (int u = 0; u < DSK_TILE_VECTORS; u++) values[u] = DSK_TILE(load_vector)(DSK_FLOAT16, tensor, i, u);
    } else {
        for (int u = 0; u < DSK_TILE_VECTORS; u++) values[u] = DSK_TILE(load_vector)(DSK_BFLOAT16, tensor, i, u);
    }
}

#include "widen_template.h"

/* Copies the bits of the tile that begins at element i. */
INLINE void DSK_TILE(copy)(dsk_element_type type, const void *tensor, size_t i, DSK_TILE(elements) *elements) {
    const LOOSE_HALVES *halves = (const LOOSE_HALVES *)((const uint16_t *)tensor + i);
    (void)type;
    for (int u = 0; u < DSK_TILE_VECTORS; u++) elements->parts[u] = halves[u];
}

/* Rounds vector u of a tile. */
INLINE void DSK_TILE(round_vector)(dsk_element_type type, VECTOR values, int u, DSK_TILE(elements) *elements) {
    elements->parts[u] = type == DSK_FLOAT16 ? DSK_TILE(round_to_float16)(values) : DSK_TILE(round_to_bfloat16)(values);
}

/* Rounds a tile. */
INLINE void DSK_TILE(round)(dsk_element_type type, const VECTOR *values, DSK_TILE(elements) *elements) {
    if (type == DSK_FLOAT16) {
        for (int u = 0; u < DSK_TILE_VECTORS; u++) DSK_TILE(round_vector)(DSK_FLOAT16, values[u], u, elements);
    } else {
        for (int u = 0; u < DSK_TILE_VECTORS; u++) DSK_TILE(round_vector)(DSK_BFLOAT16, values[u], u, elements);
    }
}

/* Writes half a tile, its vectors 0 and 1 or 2 and 3; the tile begins at element i. `streaming`: bypasses the caches; the address must be
 * aligned to a vector. */
INLINE void DSK_TILE(store_half)(dsk_element_type type, const DSK_TILE(elements) *elements, void *tensor, size_t i, int half,
                                 bool streaming) {
    uint16_t *halves = (uint16_t *)tensor + i;
    (void)type;
    for (int u = half * DSK_TILE_VECTORS / 2; u < (half + 1) * DSK_TILE_VECTORS / 2; u++) {
        if (streaming)
            dsk_store_streaming(elements->parts[u], (HALVES *)halves + u);
        else
            ((LOOSE_HALVES *)halves)[u] = elements->parts[u];
    }
}

/* Writes a tile. */
INLINE void DSK_TILE(store)(dsk_element_type type, const DSK_TILE(elements) *elements, void *tensor, size_t i, bool streaming) {
    for (int half = 0; half < 2; half++) DSK_TILE(store_half)(type, elements, tensor, i, half, streaming);
}

#undef VECTOR
#undef MASK
#undef HALVES
#undef LOOSE_HALVES
#undef INLINE
