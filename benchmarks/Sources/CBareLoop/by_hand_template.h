/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Loops by hand for one instruction set. The includer defines
 *
 *   BARE_VECTOR_BYTES  the size of a vector
 *   BARE_TARGET        the function attribute that allows the instruction set, or nothing
 *   BARE_NAME(name)    the name of this variant's function
 *   BARE_HAS_HALVES    1 if the instruction set converts float16
 *
 * A row's sets are constants of its loop, so each line of HAND_ROWS is a loop written for that row alone: inputs are loaded once,
 * sums stay in registers, and there are no branches.
 */

#define INLINE static inline __attribute__((always_inline)) BARE_TARGET
#define UNROLL _Pragma("unroll")
#define SET(k) ((k) == 0 ? reads_0 : (k) == 1 ? reads_1 : reads_2)
#define COUNT_OF_OUTPUTS (1u + (reads_1 != 0) + (reads_2 != 0))

/* ---- float32: sums in double */

typedef double BARE_NAME(doubles) __attribute__((vector_size(BARE_VECTOR_BYTES), may_alias));
typedef float BARE_NAME(narrow) __attribute__((vector_size(BARE_VECTOR_BYTES / 2), aligned(4), may_alias));
typedef int32_t BARE_NAME(narrow_bits) __attribute__((vector_size(BARE_VECTOR_BYTES / 2)));
#define DOUBLES BARE_NAME(doubles)
#define NARROW BARE_NAME(narrow)
#define BITS BARE_NAME(narrow_bits)
#define LANES (BARE_VECTOR_BYTES / 8)

/* Values between -range and range stay unchanged, and so do NaNs. */
INLINE NARROW BARE_NAME(clamped)(NARROW p, float range) {
    const NARROW high = (NARROW){0} + range, low = -high;
    const BITS is_low = (BITS)(p < low);
    const BITS is_high = (BITS)(p > high);
    return (NARROW)((is_low & (BITS)low) | (is_high & (BITS)high) | (~is_low & ~is_high & (BITS)p));
}

INLINE void BARE_NAME(hand_float32)(const hand_row *row, size_t begin, size_t end, const unsigned n_inputs, const unsigned reads_0,
                                    const unsigned reads_1, const unsigned reads_2) {
    /* Three sums of a tile would need more registers than the processor has. */
    enum { MOST = 4 };
    const unsigned n_outputs = COUNT_OF_OUTPUTS, n_vectors = n_outputs == 3 ? 2 : MOST;
    const float *inputs[HAND_MOST_INPUTS];
    float *outputs[HAND_MOST_OUTPUTS];
    double c[HAND_MOST_OUTPUTS][HAND_MOST_INPUTS + 1], a[2] = {row->prediction[0], row->prediction[1]};
    const float range = (float)row->range;
    memcpy(c, row->coefficients, sizeof c);
    for (unsigned j = 0; j < n_inputs; j++) inputs[j] = row->inputs[j];
    for (unsigned k = 0; k < n_outputs; k++) outputs[k] = row->outputs[k];
    for (size_t i = begin; i + n_vectors * LANES <= end; i += n_vectors * LANES) {
        DOUBLES sums[HAND_MOST_OUTPUTS][MOST], p[MOST];
        NARROW copies[HAND_MOST_OUTPUTS][MOST];
        UNROLL for (unsigned j = 0; j < n_inputs; j++) {
            UNROLL for (unsigned u = 0; u < n_vectors; u++) {
                const NARROW narrow = ((const NARROW *)(inputs[j] + i))[u];
                const DOUBLES x = __builtin_convertvector(narrow, DOUBLES);
                UNROLL for (unsigned k = 0; k < n_outputs; k++) {
                    if (!(SET(k) >> j & 1)) continue;
                    if (SET(k) & HAND_COPIES)
                        copies[k][u] = narrow;
                    else
                        sums[k][u] = SET(k) & ((1u << j) - 1) ? sums[k][u] + c[k][j] * x : c[k][j] * x;
                }
                if (reads_0 & HAND_READS_PREDICTION && j < 2) p[u] = j ? p[u] + a[j] * x : a[j] * x;
            }
        }
        if (reads_0 & HAND_READS_PREDICTION) {
            UNROLL for (unsigned u = 0; u < n_vectors; u++) {
                const NARROW narrow = BARE_NAME(clamped)(__builtin_convertvector(p[u], NARROW), range);
                sums[0][u] = sums[0][u] + c[0][HAND_MOST_INPUTS] * __builtin_convertvector(narrow, DOUBLES);
            }
        }
        UNROLL for (unsigned k = 0; k < n_outputs; k++) {
            UNROLL for (unsigned u = 0; u < n_vectors; u++) {
                const bool copies_input = SET(k) & HAND_COPIES;
                ((NARROW *)(outputs[k] + i))[u] = copies_input ? copies[k][u] : __builtin_convertvector(sums[k][u], NARROW);
            }
        }
    }
}

/* ---- Half types: sums in float, each product rounded */

#if BARE_HAS_HALVES

typedef float BARE_NAME(floats) __attribute__((vector_size(BARE_VECTOR_BYTES), may_alias));
typedef uint32_t BARE_NAME(words) __attribute__((vector_size(BARE_VECTOR_BYTES)));
typedef uint16_t BARE_NAME(halves) __attribute__((vector_size(BARE_VECTOR_BYTES / 2), aligned(2), may_alias));
#define FLOATS BARE_NAME(floats)
#define WORDS BARE_NAME(words)
#define HALVES BARE_NAME(halves)

INLINE FLOATS BARE_NAME(widened)(HALVES halves, const bool is_float16) {
    if (!is_float16) return (FLOATS)(__builtin_convertvector(halves, WORDS) << 16);
    return (FLOATS)_mm256_cvtph_ps((__m128i)halves);
}

INLINE HALVES BARE_NAME(rounded)(FLOATS values, const bool is_float16) {
    if (is_float16) return (HALVES)_mm256_cvtps_ph((__m256)values, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    const WORDS bits = (WORDS)values, is_nan = (WORDS)(values != values);
    const WORDS rounded = bits + 0x7FFF + (bits >> 16 & 1);
    return __builtin_convertvector(((is_nan & (bits | 0x400000)) | (~is_nan & rounded)) >> 16, HALVES);
}

INLINE void BARE_NAME(hand_half)(const hand_row *row, size_t begin, size_t end, const bool is_float16, const unsigned n_inputs,
                                 const unsigned reads_0, const unsigned reads_1, const unsigned reads_2) {
#pragma STDC FP_CONTRACT OFF
    enum { MOST = 4, WIDTH = BARE_VECTOR_BYTES / 4 };
    const unsigned n_outputs = COUNT_OF_OUTPUTS, n_vectors = n_outputs == 3 ? 2 : MOST;
    const uint16_t *inputs[HAND_MOST_INPUTS];
    uint16_t *outputs[HAND_MOST_OUTPUTS];
    float c[HAND_MOST_OUTPUTS][HAND_MOST_INPUTS];
    for (unsigned j = 0; j < n_inputs; j++) inputs[j] = row->inputs[j];
    for (unsigned k = 0; k < n_outputs; k++) {
        outputs[k] = row->outputs[k];
        for (unsigned j = 0; j < n_inputs; j++) c[k][j] = (float)row->coefficients[k][j];
    }
    for (size_t i = begin; i + n_vectors * WIDTH <= end; i += n_vectors * WIDTH) {
        FLOATS sums[HAND_MOST_OUTPUTS][MOST];
        HALVES copies[HAND_MOST_OUTPUTS][MOST];
        UNROLL for (unsigned j = 0; j < n_inputs; j++) {
            UNROLL for (unsigned u = 0; u < n_vectors; u++) {
                const HALVES halves = ((const HALVES *)(inputs[j] + i))[u];
                const FLOATS x = BARE_NAME(widened)(halves, is_float16);
                UNROLL for (unsigned k = 0; k < n_outputs; k++) {
                    if (!(SET(k) >> j & 1)) continue;
                    if (SET(k) & HAND_COPIES)
                        copies[k][u] = halves;
                    else
                        sums[k][u] = SET(k) & ((1u << j) - 1) ? sums[k][u] + c[k][j] * x : c[k][j] * x;
                }
            }
        }
        UNROLL for (unsigned k = 0; k < n_outputs; k++) {
            UNROLL for (unsigned u = 0; u < n_vectors; u++) {
                const bool copies_input = SET(k) & HAND_COPIES;
                ((HALVES *)(outputs[k] + i))[u] = copies_input ? copies[k][u] : BARE_NAME(rounded)(sums[k][u], is_float16);
            }
        }
    }
}

#undef FLOATS
#undef WORDS
#undef HALVES
#define HALF_LOOPS(n, r0, r1, r2)                                                \
    if (row->type == HAND_FLOAT16 && !((r0) & HAND_READS_PREDICTION))            \
        return BARE_NAME(hand_half)(row, begin, end, true, n, r0, r1, r2), true; \
    if (row->type == HAND_BFLOAT16 && !((r0) & HAND_READS_PREDICTION))           \
        return BARE_NAME(hand_half)(row, begin, end, false, n, r0, r1, r2), true;
#else
#define HALF_LOOPS(n, r0, r1, r2)
#endif

/* ---- The choice */

#define LOOP(n, r0, r1, r2)                                                                                  \
    if (row->n_inputs == (n) && row->reads[0] == (r0) && row->reads[1] == (r1) && row->reads[2] == (r2)) {   \
        if (row->type == HAND_FLOAT32) return BARE_NAME(hand_float32)(row, begin, end, n, r0, r1, r2), true; \
        HALF_LOOPS(n, r0, r1, r2)                                                                            \
    }
/* False if the row has no loop. */
BARE_TARGET static bool BARE_NAME(hand)(const hand_row *row, size_t begin, size_t end) {
    HAND_ROWS(LOOP)
    return false;
}

#undef LOOP
#undef HALF_LOOPS
#undef DOUBLES
#undef NARROW
#undef BITS
#undef LANES
#undef COUNT_OF_OUTPUTS
#undef SET
#undef UNROLL
#undef INLINE
