/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Vectors of floats, and their conversions from and to halves: a part of double_tile_template.h and of float_tile_template.h, which
 * define DSK_FLOATS_BYTES, the size of a vector, besides the macros that their includer defines.
 */

/* Vectors of floats and of the same number of halves, each also with an element's alignment; and the bits of floats. */
typedef float DSK_TILE(floats) __attribute__((vector_size(DSK_FLOATS_BYTES), may_alias));
typedef float DSK_TILE(loose_floats) __attribute__((vector_size(DSK_FLOATS_BYTES), aligned(4), may_alias));
typedef uint16_t DSK_TILE(halves) __attribute__((vector_size(DSK_FLOATS_BYTES / 2), may_alias));
typedef uint16_t DSK_TILE(loose_halves) __attribute__((vector_size(DSK_FLOATS_BYTES / 2), aligned(2), may_alias));
typedef uint32_t DSK_TILE(words) __attribute__((vector_size(DSK_FLOATS_BYTES)));
typedef int32_t DSK_TILE(integers) __attribute__((vector_size(DSK_FLOATS_BYTES)));

#define FLOATS DSK_TILE(floats)
#define HALVES DSK_TILE(halves)
#define LOOSE_HALVES DSK_TILE(loose_halves)
#define WORDS DSK_TILE(words)
#define INTEGERS DSK_TILE(integers)
#define INLINE static inline __attribute__((always_inline)) DSK_TARGET

/* Lanes of `a` where the mask is set, of `b` elsewhere. */
INLINE WORDS DSK_TILE(select)(WORDS mask, WORDS a, WORDS b) { return (mask & a) | (~mask & b); }

INLINE FLOATS DSK_TILE(widen_float16)(const LOOSE_HALVES *halves) {
#if DSK_HAS_F16C && DSK_FLOATS_BYTES == 64
    return (FLOATS)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)halves));
#elif DSK_HAS_F16C && DSK_FLOATS_BYTES == 32
    return (FLOATS)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)halves));
#elif DSK_HAS_F16C
    return (FLOATS)_mm_cvtph_ps(_mm_loadl_epi64((const __m128i *)halves));
#elif defined(__aarch64__)
    typedef _Float16 native __attribute__((vector_size(DSK_FLOATS_BYTES / 2)));
    return __builtin_convertvector((native)*halves, FLOATS);
#else
    WORDS words = __builtin_convertvector(*halves, WORDS), magnitudes = words & 0x7FFF;
    /* A subnormal number is its fraction times 2^-24; other numbers get the wider type's exponent bias. */
    WORDS subnormal = (WORDS)(__builtin_convertvector((INTEGERS)magnitudes, FLOATS) * 0x1p-24f);
    WORDS normal = (magnitudes << 13) + ((127 - 15) << 23);
    normal |= (WORDS)((INTEGERS)magnitudes >= 0x7C00) & 0x7F800000;
    WORDS bits = DSK_TILE(select)((WORDS)((INTEGERS)magnitudes < 0x400), subnormal, normal);
    return (FLOATS)(bits | (words & 0x8000) << 16);
#endif
}

INLINE HALVES DSK_TILE(round_to_float16)(FLOATS values) {
#if DSK_HAS_F16C && DSK_FLOATS_BYTES == 64
    return (HALVES)_mm512_cvtps_ph((__m512)values, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#elif DSK_HAS_F16C && DSK_FLOATS_BYTES == 32
    return (HALVES)_mm256_cvtps_ph((__m256)values, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#elif DSK_HAS_F16C
    __m128i rounded = _mm_cvtps_ph((__m128)values, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    HALVES halves;
    memcpy(&halves, &rounded, sizeof halves);
    return halves;
#elif defined(__aarch64__)
    typedef _Float16 native __attribute__((vector_size(DSK_FLOATS_BYTES / 2)));
    return (HALVES) __builtin_convertvector(values, native);
#else
    WORDS zero = {0}, bits = (WORDS)values, magnitudes = bits & 0x7FFFFFFF;
    FLOATS absolute = (FLOATS)magnitudes, half = (FLOATS)(zero + 0x3F000000); /* 1/2 */
    /* The addend is half a unit of the kept part, less one bit if that is even: it carries exactly if the kept part must grow. */
    WORDS normal = (magnitudes - ((127 - 15) << 23) + 0xFFF + (magnitudes >> 13 & 1)) >> 13;
    /* The unit in the last place of 1/2 is 2^-24, as in subnormal float16. */
    WORDS subnormal = (WORDS)(absolute + half) - (WORDS)half;
    WORDS rounded = DSK_TILE(select)((WORDS)(absolute < 0x1p-14f), subnormal, normal);
    rounded = DSK_TILE(select)((WORDS)(absolute >= 0x1p16f), zero + 0x7C00, rounded);
    rounded = DSK_TILE(select)((WORDS)(absolute != absolute), zero + 0x7E00, rounded);
    return __builtin_convertvector(rounded | (bits >> 16 & 0x8000), HALVES);
#endif
}

INLINE FLOATS DSK_TILE(widen_bfloat16)(const LOOSE_HALVES *halves) {
    return (FLOATS)(__builtin_convertvector(*halves, WORDS) << 16);
}
