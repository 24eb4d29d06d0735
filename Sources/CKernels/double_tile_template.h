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

/* Vectors of doubles, and of the same number of floats and of halves; each also with an element's alignment. */
typedef double DSK_TILE(vector) __attribute__((vector_size(DSK_VECTOR_BYTES), may_alias));
typedef double DSK_TILE(loose_doubles) __attribute__((vector_size(DSK_VECTOR_BYTES), aligned(8), may_alias));
typedef float DSK_TILE(floats) __attribute__((vector_size(DSK_VECTOR_BYTES / 2), may_alias));
typedef float DSK_TILE(loose_floats) __attribute__((vector_size(DSK_VECTOR_BYTES / 2), aligned(4), may_alias));
typedef uint16_t DSK_TILE(halves) __attribute__((vector_size(DSK_VECTOR_BYTES / 4), may_alias));
typedef uint16_t DSK_TILE(loose_halves) __attribute__((vector_size(DSK_VECTOR_BYTES / 4), aligned(2), may_alias));
/* All halves of a tile. */
typedef uint16_t DSK_TILE(half_tile) __attribute__((vector_size(DSK_TILE_VECTORS * DSK_VECTOR_BYTES / 4), may_alias));
typedef uint16_t DSK_TILE(loose_half_tile)
    __attribute__((vector_size(DSK_TILE_VECTORS * DSK_VECTOR_BYTES / 4), aligned(2), may_alias));
/* The bits of doubles and of floats. */
typedef uint64_t DSK_TILE(mask) __attribute__((vector_size(DSK_VECTOR_BYTES)));
typedef uint32_t DSK_TILE(words) __attribute__((vector_size(DSK_VECTOR_BYTES / 2)));
typedef int32_t DSK_TILE(integers) __attribute__((vector_size(DSK_VECTOR_BYTES / 2)));

/* A tile's elements in their memory layout, packed from the start. */
typedef struct DSK_TILE(elements) {
    DSK_TILE(vector) parts[DSK_TILE_VECTORS];
} DSK_TILE(elements);

#define VECTOR DSK_TILE(vector)
#define FLOATS DSK_TILE(floats)
#define HALVES DSK_TILE(halves)
#define MASK DSK_TILE(mask)
#define WORDS DSK_TILE(words)
#define INLINE static inline __attribute__((always_inline)) DSK_TARGET

/* Lanes of `a` where the mask is set, of `b` elsewhere. */
INLINE MASK DSK_TILE(select_long)(MASK mask, MASK a, MASK b) { return (mask & a) | (~mask & b); }
INLINE WORDS DSK_TILE(select)(WORDS mask, WORDS a, WORDS b) { return (mask & a) | (~mask & b); }

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

/* Like dsk_widen_float16, but to float, which is also exact. */
INLINE FLOATS DSK_TILE(widen_float16)(const DSK_TILE(loose_halves) *halves) {
#if DSK_HAS_F16C && DSK_VECTOR_BYTES == 64
    return (FLOATS)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)halves));
#elif DSK_HAS_F16C && DSK_VECTOR_BYTES == 32
    return (FLOATS)_mm_cvtph_ps(_mm_loadl_epi64((const __m128i *)halves));
#elif defined(__aarch64__)
    typedef _Float16 native __attribute__((vector_size(DSK_VECTOR_BYTES / 4)));
    return __builtin_convertvector((native)*halves, FLOATS);
#else
    WORDS words = __builtin_convertvector(*halves, WORDS), magnitudes = words & 0x7FFF;
    /* A subnormal number is its fraction times 2^-24; other numbers get the wider type's exponent bias. */
    WORDS subnormal = (WORDS)(__builtin_convertvector((DSK_TILE(integers))magnitudes, FLOATS) * 0x1p-24f);
    WORDS normal = (magnitudes << 13) + ((127 - 15) << 23);
    normal |= (WORDS)((DSK_TILE(integers))magnitudes >= 0x7C00) & 0x7F800000;
    WORDS bits = DSK_TILE(select)((WORDS)((DSK_TILE(integers))magnitudes < 0x400), subnormal, normal);
    return (FLOATS)(bits | (words & 0x8000) << 16);
#endif
}

/* Packs the result of round_to_grid as float16: exact, or infinity. */
INLINE HALVES DSK_TILE(pack_float16)(VECTOR values) {
    FLOATS floats = __builtin_convertvector(values, FLOATS);
#if DSK_HAS_F16C && DSK_VECTOR_BYTES == 64
    return (HALVES)_mm256_cvtps_ph((__m256)floats, _MM_FROUND_TO_NEAREST_INT);
#elif DSK_HAS_F16C && DSK_VECTOR_BYTES == 32
    __m128i packed = _mm_cvtps_ph((__m128)floats, _MM_FROUND_TO_NEAREST_INT);
    HALVES halves;
    memcpy(&halves, &packed, sizeof halves);
    return halves;
#elif defined(__aarch64__)
    typedef _Float16 native __attribute__((vector_size(DSK_VECTOR_BYTES / 4)));
    return (HALVES) __builtin_convertvector(floats, native);
#else
    WORDS zero = {0}, bits = (WORDS)floats, magnitudes = bits & 0x7FFFFFFF;
    FLOATS absolute = (FLOATS)magnitudes;
    WORDS tiny = (WORDS)(absolute < 0x1p-14f), huge = (WORDS)(absolute >= 0x1p16f), nan = (WORDS)(absolute != absolute);
    /* Only tiny numbers are converted to integers; others wouldn't fit. */
    FLOATS units = (FLOATS)(magnitudes & tiny) * 0x1p24f;
    WORDS subnormal = (WORDS) __builtin_convertvector(units, DSK_TILE(integers));
    WORDS packed = DSK_TILE(select)(tiny, subnormal, (magnitudes - ((127 - 15) << 23)) >> 13);
    packed = DSK_TILE(select)(huge, zero + 0x7C00, packed);
    packed = DSK_TILE(select)(nan, zero + 0x7E00, packed);
    return __builtin_convertvector(packed | (bits >> 16 & 0x8000), HALVES);
#endif
}

INLINE FLOATS DSK_TILE(widen_bfloat16)(const DSK_TILE(loose_halves) *halves) {
    return (FLOATS)(__builtin_convertvector(*halves, WORDS) << 16);
}

/* Packs the result of round_to_grid as bfloat16: exact, or infinity. */
INLINE HALVES DSK_TILE(pack_bfloat16)(VECTOR values) {
    return __builtin_convertvector((WORDS) __builtin_convertvector(values, FLOATS) >> 16, HALVES);
}

/* Widens vector u of the tile that begins at element i. */
INLINE VECTOR DSK_TILE(load_vector)(dsk_element_type type, const void *tensor, size_t i, int u) {
    switch (type) {
    case DSK_FLOAT64: return ((const DSK_TILE(loose_doubles) *)((const double *)tensor + i))[u];
    case DSK_FLOAT32: return __builtin_convertvector(((const DSK_TILE(loose_floats) *)((const float *)tensor + i))[u], VECTOR);
    case DSK_FLOAT16:
        return __builtin_convertvector(DSK_TILE(widen_float16)((const DSK_TILE(loose_halves) *)((const uint16_t *)tensor + i) + u),
                                       VECTOR);
    default: /* bfloat16 */
        return __builtin_convertvector(DSK_TILE(widen_bfloat16)((const DSK_TILE(loose_halves) *)((const uint16_t *)tensor + i) + u),
                                       VECTOR);
    }
}

/* Widens the tile that begins at element i; one branch on the type serves all its vectors. */
INLINE void DSK_TILE(load)(dsk_element_type type, const void *tensor, size_t i, VECTOR *values) {
#define LOAD(type) \
    for (int u = 0; u < DSK_TILE_VECTORS; u++) values[u] = DSK_TILE(load_vector)(type, tensor, i, u)
    switch (type) {
    case DSK_FLOAT64: LOAD(DSK_FLOAT64); break;
    case DSK_FLOAT32: LOAD(DSK_FLOAT32); break;
    case DSK_FLOAT16: LOAD(DSK_FLOAT16); break;
    default: LOAD(DSK_BFLOAT16); break;
    }
#undef LOAD
}

#include "widen_template.h"

/* Copies the bits of the tile that begins at element i. */
INLINE void DSK_TILE(copy)(dsk_element_type type, const void *tensor, size_t i, DSK_TILE(elements) *elements) {
    const DSK_TILE(loose_doubles) *doubles = (const DSK_TILE(loose_doubles) *)((const double *)tensor + i);
    const DSK_TILE(loose_floats) *floats = (const DSK_TILE(loose_floats) *)((const float *)tensor + i);
    switch (type) {
    case DSK_FLOAT64:
        for (int u = 0; u < DSK_TILE_VECTORS; u++) elements->parts[u] = doubles[u];
        break;
    case DSK_FLOAT32:
        for (int u = 0; u < DSK_TILE_VECTORS; u++) ((FLOATS *)elements)[u] = floats[u];
        break;
    default: *(DSK_TILE(half_tile) *)elements = *(const DSK_TILE(loose_half_tile) *)((const uint16_t *)tensor + i); break;
    }
}

/* Rounds vector u of a tile. */
INLINE void DSK_TILE(round_vector)(dsk_element_type type, VECTOR values, int u, DSK_TILE(elements) *elements) {
    switch (type) {
    case DSK_FLOAT64: elements->parts[u] = values; break;
    case DSK_FLOAT32: ((FLOATS *)elements)[u] = __builtin_convertvector(values, FLOATS); break;
    case DSK_FLOAT16:
        ((HALVES *)elements)[u] =
            DSK_TILE(pack_float16)(DSK_TILE(round_to_grid)(values, DSK_FLOAT16_LEAST_EXPONENT, DSK_FLOAT16_FRACTION_BITS));
        break;
    default: /* bfloat16 */
        ((HALVES *)elements)[u] =
            DSK_TILE(pack_bfloat16)(DSK_TILE(round_to_grid)(values, DSK_BFLOAT16_LEAST_EXPONENT, DSK_BFLOAT16_FRACTION_BITS));
        break;
    }
}

/* Rounds a tile. */
INLINE void DSK_TILE(round)(dsk_element_type type, const VECTOR *values, DSK_TILE(elements) *elements) {
#define ROUND(type) \
    for (int u = 0; u < DSK_TILE_VECTORS; u++) DSK_TILE(round_vector)(type, values[u], u, elements)
    switch (type) {
    case DSK_FLOAT64: ROUND(DSK_FLOAT64); break;
    case DSK_FLOAT32: ROUND(DSK_FLOAT32); break;
    case DSK_FLOAT16: ROUND(DSK_FLOAT16); break;
    default: ROUND(DSK_BFLOAT16); break;
    }
#undef ROUND
}

/* Writes half a tile, its vectors 0 and 1 or 2 and 3; the tile begins at element i. Elements are float64 or float32. `streaming`:
 * bypasses the caches; the address must be aligned to a vector. */
INLINE void DSK_TILE(store_half)(dsk_element_type type, const DSK_TILE(elements) *elements, void *tensor, size_t i, int half,
                                 bool streaming) {
    double *doubles = (double *)tensor + i;
    float *floats = (float *)tensor + i;
    for (int u = half * DSK_TILE_VECTORS / 2; u < (half + 1) * DSK_TILE_VECTORS / 2; u++) {
        if (type == DSK_FLOAT64) {
            if (streaming)
                dsk_store_streaming(elements->parts[u], (VECTOR *)doubles + u);
            else
                ((DSK_TILE(loose_doubles) *)doubles)[u] = elements->parts[u];
        } else {
            if (streaming)
                dsk_store_streaming(((const FLOATS *)elements)[u], (FLOATS *)floats + u);
            else
                ((DSK_TILE(loose_floats) *)floats)[u] = ((const FLOATS *)elements)[u];
        }
    }
}

/* Writes a tile of elements of any type. */
INLINE void DSK_TILE(store)(dsk_element_type type, const DSK_TILE(elements) *elements, void *tensor, size_t i, bool streaming) {
    uint16_t *halves = (uint16_t *)tensor + i;
    switch (type) {
    case DSK_FLOAT64:
        for (int half = 0; half < 2; half++) DSK_TILE(store_half)(DSK_FLOAT64, elements, tensor, i, half, streaming);
        break;
    case DSK_FLOAT32:
        for (int half = 0; half < 2; half++) DSK_TILE(store_half)(DSK_FLOAT32, elements, tensor, i, half, streaming);
        break;
    default:
        if (streaming)
            dsk_store_streaming(*(const DSK_TILE(half_tile) *)elements, (DSK_TILE(half_tile) *)halves);
        else
            *(DSK_TILE(loose_half_tile) *)halves = *(const DSK_TILE(half_tile) *)elements;
        break;
    }
}

#undef VECTOR
#undef FLOATS
#undef HALVES
#undef MASK
#undef WORDS
#undef INLINE
