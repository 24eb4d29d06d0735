/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The inner loops, written once for every kind of item and every instruction set. The includer defines
 *
 *   DSK_SUM           the type of sums
 *   DSK_REAL          the type of p
 *   DSK_KEY           a signed integer of the same size
 *   DSK_TYPE(stored)  the element type of a tensor: the kind's own, or the program's
 *   DSK_IS_MIXED      1 if it is the program's
 *   DSK_COEFFICIENT   the function that rounds a coefficient for this kind (see kernels.c)
 *   DSK_VECTOR_BYTES  the size of a vector
 *   DSK_TARGET        the function attribute that allows the instruction set, or nothing
 *   DSK_TILE(name)    the name of the functions and types for tiles of DSK_SUM (see double_tile_template.h)
 *   DSK_NAME(name)    the name of this variant's function
 *
 * Elements are widened to DSK_SUM when read and rounded once when written. A tile is computed for all outputs before any of them is
 * stored, which makes every kind of in-place step correct.
 * Every variant and every loop computes the same products and sums in the same order, so all give the same bits.
 */

typedef DSK_REAL DSK_NAME(reals) __attribute__((vector_size(DSK_VECTOR_BYTES / sizeof(DSK_SUM) * sizeof(DSK_REAL)), may_alias));

/* Whole vectors of p, and of its keys. */
typedef DSK_REAL DSK_NAME(whole_reals) __attribute__((vector_size(DSK_VECTOR_BYTES), may_alias));
typedef DSK_KEY DSK_NAME(keys) __attribute__((vector_size(DSK_VECTOR_BYTES), may_alias));

#define VECTOR DSK_TILE(vector)
#define REALS DSK_NAME(reals)
#define WHOLE_REALS DSK_NAME(whole_reals)
#define KEYS DSK_NAME(keys)
#define TILE (DSK_TILE_VECTORS * (DSK_VECTOR_BYTES / sizeof(DSK_SUM)))
/* The number of whole vectors in a tile of p. */
#define WHOLE_VECTORS (DSK_TILE_VECTORS * sizeof(DSK_REAL) / sizeof(DSK_SUM))
/* Whether the loop that combines p also computes it: only if p is neither rounded nor widened there (see step_tiles). */
#define FUSES (sizeof(DSK_REAL) == sizeof(DSK_SUM))
#define EACH_VECTOR DSK_UNROLL for (int u = 0; u < DSK_TILE_VECTORS; u++)
#if DSK_IS_MIXED /* Mixed kinds contain every type's code; unrolling over outputs too would triple it. */
#define EACH_OUTPUT for (unsigned k = 0; k < n_outputs; k++)
#else
#define EACH_OUTPUT DSK_UNROLL for (unsigned k = 0; k < n_outputs; k++)
#endif
#define INLINE static inline __attribute__((always_inline)) DSK_TARGET

/* The coefficients of a program, rounded. */
typedef struct DSK_NAME(scalars) {
    DSK_SUM prediction[DSK_PREDICTION_INPUT_COUNT];
    DSK_SUM outputs[DSK_OUTPUT_COUNT][DSK_INPUT_COUNT];
    DSK_SUM output_prediction[DSK_OUTPUT_COUNT];
    DSK_REAL range;                /* r or s; infinite if p isn't clamped */
    bool copies[DSK_OUTPUT_COUNT]; /* the output is one of the inputs: nothing to compute */
} DSK_NAME(scalars);

INLINE void DSK_NAME(round_scalars)(const dsk_program *program, DSK_NAME(scalars) * scalars) {
    for (unsigned j = 0; j < program->prediction.n_terms; j++)
        scalars->prediction[j] = DSK_COEFFICIENT(program->prediction.coefficients[j]);
    for (unsigned k = 0; k < program->n_outputs; k++) {
        const dsk_combination *terms = &program->outputs[k];
        for (unsigned j = 0; j < terms->n_terms; j++) scalars->outputs[k][j] = DSK_COEFFICIENT(terms->coefficients[j]);
        scalars->output_prediction[k] = DSK_COEFFICIENT(terms->prediction);
        scalars->copies[k] = terms->n_terms == 1 && terms->coefficients[0] == 1 && terms->prediction == 0 &&
                             DSK_TYPE(terms->types[0]) == DSK_TYPE(program->destination_types[k]);
    }
    double range = program->clamp == DSK_CLAMP_NONE ? __builtin_inf() : program->clamp_range;
    scalars->range = range == range ? (DSK_REAL)range : (DSK_REAL)__builtin_nan(""); /* as DSK_COEFFICIENT does */
}

/* p of one element before the clamp, without vectors. */
INLINE DSK_REAL DSK_NAME(predict_element)(const dsk_program *program, const DSK_NAME(scalars) * scalars, size_t i) {
    const dsk_combination *terms = &program->prediction;
    DSK_SUM p = 0;
    for (unsigned j = 0; j < terms->n_terms; j++) {
        DSK_SUM element = (DSK_SUM)dsk_element_value(DSK_TYPE(terms->types[j]), terms->tensors[j], i);
        p = j == 0 ? scalars->prediction[j] * element : p + scalars->prediction[j] * element;
    }
    return (DSK_REAL)p;
}

/* Whether element i of an output begins a cache line. */
INLINE bool DSK_NAME(is_aligned)(const dsk_program *program, unsigned k, size_t i) {
    size_t offset = i * dsk_size(DSK_TYPE(program->destination_types[k]));
    return ((uintptr_t)program->destinations[k] + offset) % DSK_STREAM_ALIGNMENT == 0;
}

/* A tile of elements. */

INLINE void DSK_NAME(combine_tile)(const dsk_combination *terms, const DSK_SUM *coefficients, size_t i, VECTOR *sums) {
    for (int u = 0; u < DSK_TILE_VECTORS; u++) sums[u] = (VECTOR){0};
    for (unsigned j = 0; j < terms->n_terms; j++) {
        VECTOR x[DSK_TILE_VECTORS];
        DSK_TILE(load)(DSK_TYPE(terms->types[j]), terms->tensors[j], i, x);
        const DSK_SUM c = coefficients[j];
        if (j == 0) {
            for (int u = 0; u < DSK_TILE_VECTORS; u++) sums[u] = c * x[u];
        } else {
            for (int u = 0; u < DSK_TILE_VECTORS; u++) sums[u] = sums[u] + c * x[u];
        }
    }
}

/* Copies of the two tensors that nearly every p combines: the compiler can't know that stores don't change the program. */
typedef struct DSK_NAME(pair) {
    const void *tensors[2];
    DSK_SUM coefficients[2];
    dsk_element_type type;
} DSK_NAME(pair);

INLINE DSK_NAME(pair) DSK_NAME(copy_pair)(const dsk_program *program, const DSK_NAME(scalars) * scalars) {
    const dsk_combination *terms = &program->prediction;
    return (DSK_NAME(pair)){.tensors = {terms->tensors[0], terms->tensors[1]},
                            .coefficients = {scalars->prediction[0], scalars->prediction[1]},
                            .type = DSK_TYPE(terms->types[0])};
}

INLINE bool DSK_NAME(is_pair)(const dsk_program *program) { return !DSK_IS_MIXED && program->prediction.n_terms == 2; }

/* A tile of p before the clamp, rounded. */
INLINE void DSK_NAME(predict_tile)(const dsk_program *program, const DSK_NAME(scalars) * scalars, const DSK_NAME(pair) * pair,
                                   bool is_pair, size_t i, WHOLE_REALS *p) {
    VECTOR sums[DSK_TILE_VECTORS];
    REALS rounded[DSK_TILE_VECTORS];
    if (!is_pair) DSK_NAME(combine_tile)(&program->prediction, scalars->prediction, i, sums);
    EACH_VECTOR {
        if (is_pair) {
            sums[u] = pair->coefficients[0] * DSK_TILE(load_vector)(pair->type, pair->tensors[0], i, u);
            sums[u] = sums[u] + pair->coefficients[1] * DSK_TILE(load_vector)(pair->type, pair->tensors[1], i, u);
        }
        rounded[u] = __builtin_convertvector(sums[u], REALS);
    }
    memcpy(p, rounded, WHOLE_VECTORS * sizeof *p);
}

/* Lanes of `a` where the mask is set, of `b` elsewhere; a NaN leaves the mask unset, so it stays. */
INLINE void DSK_NAME(select)(KEYS mask, WHOLE_REALS a, WHOLE_REALS *b) {
    *b = (WHOLE_REALS)((mask & (KEYS)a) | (~mask & (KEYS)*b));
}

/* Clamps a tile of p to [-range, range], then divides it by range if `divides`. `range` is already rounded. */
INLINE void DSK_NAME(clamp_tile)(WHOLE_REALS *p, DSK_REAL range, bool divides) {
    const WHOLE_REALS high = (WHOLE_REALS){0} + range, low = -high;
    DSK_UNROLL for (size_t u = 0; u < WHOLE_VECTORS; u++) {
        DSK_NAME(select)((KEYS)(p[u] < low), low, &p[u]);
        DSK_NAME(select)((KEYS)(p[u] > high), high, &p[u]);
        if (divides) p[u] = p[u] / high;
    }
}

/* The tiles of p that fit into [begin, end), clamped. */
INLINE void DSK_NAME(clamped_tiles)(const dsk_program *program, const DSK_NAME(scalars) * scalars, size_t begin, size_t end,
                                    DSK_REAL *p, bool is_pair, bool divides) {
    const DSK_NAME(pair) pair = is_pair ? DSK_NAME(copy_pair)(program, scalars) : (DSK_NAME(pair)){0};
    for (size_t i = begin; end - i >= TILE; i += TILE, p += TILE) {
        WHOLE_REALS tile[WHOLE_VECTORS];
        DSK_NAME(predict_tile)(program, scalars, &pair, is_pair, i, tile);
        DSK_NAME(clamp_tile)(tile, scalars->range, divides);
        memcpy(p, tile, sizeof tile);
    }
}

/* Like clamped_tiles, with the program's clamp and terms. Too large to inline into each caller. */
DSK_TARGET static __attribute__((noinline)) void DSK_NAME(predict_tiles)(const dsk_program *program,
                                                                         const DSK_NAME(scalars) * scalars, size_t begin,
                                                                         size_t end, DSK_REAL *p) {
#define PREDICT(is_pair, divides) DSK_NAME(clamped_tiles)(program, scalars, begin, end, p, is_pair, divides)
    const bool divides = program->clamp == DSK_CLAMP_THRESHOLD;
    if (DSK_NAME(is_pair)(program)) {
        if (divides)
            PREDICT(true, true);
        else
            PREDICT(true, false);
    } else {
        if (divides)
            PREDICT(false, true);
        else
            PREDICT(false, false);
    }
#undef PREDICT
}

/* Widens vector u of a tile of p. */
INLINE VECTOR DSK_NAME(widen_prediction)(const void *tile, int u) {
    REALS reals;
    memcpy(&reals, (const char *)tile + (size_t)u * sizeof reals, sizeof reals);
    return __builtin_convertvector(reals, VECTOR);
}

/* The tiles that fit into [begin, end), for any program with n_outputs outputs. `p` holds its values from begin on. */
INLINE void DSK_NAME(any_tiles)(const dsk_program *program, const DSK_NAME(scalars) * scalars, size_t begin, size_t end,
                                const bool *streaming, const DSK_REAL *p, unsigned n_outputs) {
    for (size_t i = begin; end - i >= TILE; i += TILE) {
        DSK_TILE(elements) results[DSK_OUTPUT_COUNT];
        EACH_OUTPUT {
            const dsk_combination *terms = &program->outputs[k];
            dsk_element_type type = DSK_TYPE(program->destination_types[k]);
            if (scalars->copies[k]) {
                DSK_TILE(copy)(type, terms->tensors[0], i, &results[k]);
            } else {
                VECTOR sums[DSK_TILE_VECTORS];
                DSK_NAME(combine_tile)(terms, scalars->outputs[k], i, sums);
                if (terms->prediction != 0) {
                    const DSK_SUM factor = scalars->output_prediction[k];
                    EACH_VECTOR {
                        const VECTOR x = DSK_NAME(widen_prediction)(p + (i - begin), u);
                        sums[u] = terms->n_terms == 0 ? factor * x : sums[u] + factor * x;
                    }
                }
                DSK_TILE(round)(type, sums, &results[k]);
            }
        }
        EACH_OUTPUT
        DSK_TILE(store)(DSK_TYPE(program->destination_types[k]), &results[k], program->destinations[k], i, streaming[k]);
    }
}

#if !DSK_IS_MIXED

/*
 * Like any_tiles, for plain programs, as nearly all steps are (see dsk_plain_form). The form and the number of the first output's
 * terms are compile-time constants: the loop only branches for streaming, its scalars stay in registers, and a tensor that both
 * outputs read is widened once.
 */
INLINE void DSK_NAME(plain_tiles)(const dsk_program *program, const DSK_NAME(scalars) * scalars, size_t begin, size_t end,
                                  const bool *streaming, const DSK_REAL *p, unsigned n_terms, dsk_plain_form form) {
    const dsk_element_type type = DSK_TYPE(program->destination_types[0]);
    const bool has_p = form >= DSK_PLAIN_WITH_P, has_second = form != DSK_PLAIN_SUM && form != DSK_PLAIN_WITH_P;
    const bool is_p_copied = form == DSK_PLAIN_WITH_P_AND_P && dsk_size(type) == sizeof(DSK_REAL);
    /* The number of the first output's tensors that the second output combines. */
    const unsigned shared = form == DSK_PLAIN_AND_TRIPLE                                     ? 3
                            : form == DSK_PLAIN_AND_PAIR || form == DSK_PLAIN_AND_LATER_PAIR ? 2
                            : form == DSK_PLAIN_WITH_P_AND_BOTH                              ? 1
                                                                                             : 0;
    const unsigned shared_begin = form == DSK_PLAIN_AND_LATER_PAIR ? 1 : 0;
    void *const first = program->destinations[0], *const second = has_second ? program->destinations[1] : NULL;
    const bool stream_first = streaming[0], stream_second = has_second && streaming[1];
    const DSK_NAME(pair) pair = has_p && FUSES ? DSK_NAME(copy_pair)(program, scalars) : (DSK_NAME(pair)){0};
    const DSK_REAL range = scalars->range;
    const bool divides = program->clamp == DSK_CLAMP_THRESHOLD;
    /* Copied for the same reason as pairs. */
    const void *tensors[DSK_MOST_PLAIN_TERMS];
    DSK_SUM factors[DSK_MOST_PLAIN_TERMS], others_factors[3] = {0, 0, 0};
    const DSK_SUM p_factor = scalars->output_prediction[0], others_p_factor = scalars->output_prediction[1];
    for (unsigned j = 0; j < n_terms; j++) {
        tensors[j] = program->outputs[0].tensors[j];
        factors[j] = scalars->outputs[0][j];
    }
    const void *const another = form == DSK_PLAIN_AND_COPY ? program->outputs[1].tensors[0] : NULL;
    for (unsigned j = 0; j < shared; j++) others_factors[j] = scalars->outputs[1][j];

    for (size_t i = begin; end - i >= TILE; i += TILE) {
        DSK_TILE(elements) results[2];
        VECTOR sums[DSK_TILE_VECTORS] = {{0}}, others[DSK_TILE_VECTORS] = {{0}};
        WHOLE_REALS tile[WHOLE_VECTORS];
        if (has_p && FUSES) {
            DSK_NAME(predict_tile)(program, scalars, &pair, true, i, tile);
            if (divides)
                DSK_NAME(clamp_tile)(tile, range, true);
            else
                DSK_NAME(clamp_tile)(tile, range, false);
        } else if (has_p) {
            memcpy(tile, p + (i - begin), sizeof tile);
        }
        /* Term by term: one vector's additions depend on each other; the tile's other vectors fill the gaps. */
        for (unsigned j = 0; j < n_terms; j++) {
            EACH_VECTOR {
                const VECTOR x = DSK_TILE(load_vector)(type, tensors[j], i, u);
                sums[u] = j == 0 ? factors[j] * x : sums[u] + factors[j] * x;
                if (j >= shared_begin && j < shared_begin + shared) {
                    const DSK_SUM factor = others_factors[j - shared_begin];
                    others[u] = j == shared_begin ? factor * x : others[u] + factor * x;
                }
            }
        }
        if (has_p) {
            EACH_VECTOR {
                const VECTOR x = DSK_NAME(widen_prediction)(tile, u);
                sums[u] = sums[u] + p_factor * x;
                if (form == DSK_PLAIN_WITH_P_AND_P && !is_p_copied) others[u] = x;
                if (form == DSK_PLAIN_WITH_P_AND_BOTH) others[u] = others[u] + others_p_factor * x;
            }
        }
        EACH_VECTOR DSK_TILE(round_vector)(type, sums[u], u, &results[0]);
        if (form == DSK_PLAIN_AND_COPY)
            DSK_TILE(copy)(type, another, i, &results[1]);
        else if (is_p_copied)
            DSK_TILE(copy)(type, tile, 0, &results[1]);
        else if (has_second)
            EACH_VECTOR DSK_TILE(round_vector)(type, others[u], u, &results[1]);
        /* One branch for all stores. With two, the compiler would delay the second output's work. */
        if (stream_first || stream_second) {
            DSK_TILE(store)(type, &results[0], first, i, stream_first);
            if (has_second) DSK_TILE(store)(type, &results[1], second, i, stream_second);
        } else {
            DSK_TILE(store)(type, &results[0], first, i, false);
            if (has_second) DSK_TILE(store)(type, &results[1], second, i, false);
        }
    }
}

#endif

/* The tiles that fit into [begin, end), for a program of DSK_PLAIN form `form`; `p` as for any_tiles. Too large to inline. */
DSK_TARGET static __attribute__((noinline)) void DSK_NAME(combine_tiles)(const dsk_program *program,
                                                                         const DSK_NAME(scalars) * scalars, size_t begin,
                                                                         size_t end, const bool *streaming, const DSK_REAL *p,
                                                                         unsigned form) {
    (void)form;
#if !DSK_IS_MIXED
#define PLAIN(n_terms, form) \
    case DSK_PLAIN(n_terms, form): DSK_NAME(plain_tiles)(program, scalars, begin, end, streaming, p, n_terms, form); return;
    switch (form) { DSK_PLAIN_LOOPS(PLAIN) }
#undef PLAIN
#endif
    switch (program->n_outputs) {
    case 1: DSK_NAME(any_tiles)(program, scalars, begin, end, streaming, p, 1); return;
    case 2: DSK_NAME(any_tiles)(program, scalars, begin, end, streaming, p, 2); return;
    case 3: DSK_NAME(any_tiles)(program, scalars, begin, end, streaming, p, 3); return;
    }
}

/*
 * The tiles that fit into [begin, end); returns their end. p is computed for a block and then combined. A single loop would round
 * and widen p between a tile's inputs and outputs: a float32 step then takes up to a third longer (measured), although it widens
 * less.
 */
INLINE size_t DSK_NAME(step_tiles)(const dsk_program *program, const DSK_NAME(scalars) * scalars, size_t begin, size_t end,
                                   const bool *streaming) {
    const size_t tiles_end = begin + (end - begin) / TILE * TILE;
    unsigned form = DSK_IS_MIXED ? 0 : dsk_plain_program(program, scalars->copies);
    if (program->uses_prediction && FUSES && !DSK_NAME(is_pair)(program)) form = 0;
    if (!program->uses_prediction || (FUSES && form != 0)) {
        DSK_NAME(combine_tiles)(program, scalars, begin, tiles_end, streaming, NULL, form);
        return tiles_end;
    }
    enum { BLOCK = DSK_BLOCK_BYTES / sizeof(DSK_REAL) };
    _Static_assert(BLOCK % TILE == 0, "only the last tile may be incomplete");
    DSK_REAL p[BLOCK] __attribute__((aligned(64)));
    for (size_t i = begin; i < tiles_end; i += BLOCK) {
        const size_t block_end = tiles_end - i < BLOCK ? tiles_end : i + BLOCK;
        DSK_NAME(predict_tiles)(program, scalars, i, block_end, p);
        DSK_NAME(combine_tiles)(program, scalars, i, block_end, streaming, p, form);
    }
    return tiles_end;
}

/*
 * The ends of tensors, at most a tile each. They are computed in buffers on the stack, padded with zeros. Inputs are copied before
 * outputs are written, so steps in place are correct.
 */
DSK_TARGET static void DSK_NAME(step_end)(const dsk_program *program, const DSK_NAME(scalars) * scalars, size_t begin, size_t end) {
    DSK_REAL buffers[DSK_INPUT_COUNT + DSK_OUTPUT_COUNT][TILE] __attribute__((aligned(64)));
    const bool streaming[DSK_OUTPUT_COUNT] = {false, false, false};
    dsk_padded_program padded;
    while (begin < end) {
        size_t n = end - begin < TILE ? end - begin : TILE;
        dsk_pad(&padded, program, begin, n, buffers, sizeof buffers[0]);
        DSK_NAME(step_tiles)(&padded.program, scalars, 0, TILE, streaming);
        dsk_unpad(&padded, program, begin, n);
        begin += n;
    }
}

DSK_TARGET static void DSK_NAME(step)(const dsk_program *program, size_t begin, size_t end) {
    DSK_NAME(scalars) scalars;
    DSK_NAME(round_scalars)(program, &scalars);
    bool streaming[DSK_OUTPUT_COUNT] = {false, false, false}, streams = false;

    /* Streaming stores need aligned addresses: the first streamed output determines where the tiles start. */
    size_t i = begin;
    for (unsigned k = 0; k < program->n_outputs && !streams; k++) {
        streams = program->streaming[k];
        while (streams && i < end && !DSK_NAME(is_aligned)(program, k, i)) i++;
    }
    for (unsigned k = 0; k < program->n_outputs; k++) streaming[k] = program->streaming[k] && DSK_NAME(is_aligned)(program, k, i);

    if (begin < i) DSK_NAME(step_end)(program, &scalars, begin, i);
    i = DSK_NAME(step_tiles)(program, &scalars, i, end, streaming);
    if (i < end) DSK_NAME(step_end)(program, &scalars, i, end);
    if (streams) dsk_fence_streaming();
}

/* The key of |p|: see threshold.c. */

#define MAGNITUDE (sizeof(DSK_KEY) == 4 ? (DSK_KEY)INT32_MAX : (DSK_KEY)INT64_MAX) /* all bits but the sign */
#define INFINITE ((DSK_KEY)(sizeof(DSK_KEY) == 4 ? 0xFFll << 23 : 0x7FFll << 52))

INLINE DSK_KEY DSK_NAME(element_key)(const dsk_program *program, const DSK_NAME(scalars) * scalars, size_t i) {
    DSK_REAL p = DSK_NAME(predict_element)(program, scalars, i);
    DSK_KEY key;
    memcpy(&key, &p, sizeof key);
    return key & MAGNITUDE;
}

/* One bit per lane, set if the lane is negative. */
INLINE uint64_t DSK_NAME(signs)(KEYS lanes) {
#if defined(__x86_64__) && DSK_VECTOR_BYTES == 64
    return sizeof(DSK_KEY) == 4 ? _mm512_movepi32_mask((__m512i)lanes) : _mm512_movepi64_mask((__m512i)lanes);
#elif defined(__x86_64__) && DSK_VECTOR_BYTES == 32
    return (unsigned)(sizeof(DSK_KEY) == 4 ? _mm256_movemask_ps((__m256)lanes) : _mm256_movemask_pd((__m256d)lanes));
#elif defined(__x86_64__)
    return (unsigned)(sizeof(DSK_KEY) == 4 ? _mm_movemask_ps((__m128)lanes) : _mm_movemask_pd((__m128d)lanes));
#else
    uint64_t bits = 0;
    for (size_t lane = 0; lane < sizeof lanes / sizeof lanes[0]; lane++) bits |= (uint64_t)(lanes[lane] < 0) << lane;
    return bits;
#endif
}

INLINE size_t DSK_NAME(sum)(KEYS counts) {
    size_t sum = 0;
    for (size_t lane = 0; lane < sizeof counts / sizeof counts[0]; lane++) sum += (size_t)counts[lane];
    return sum;
}

/* A block of keys, and the result of sifting it. */
typedef struct DSK_NAME(sifted) {
    DSK_KEY keys[DSK_SIEVE_ELEMENTS] __attribute__((aligned(64)));
    uint64_t marks[DSK_SIEVE_ELEMENTS / 64]; /* one bit per key, set if low < key <= high */
    size_t n_below, n_above;
    DSK_KEY greatest;
} DSK_NAME(sifted);

/* Turns n values of p into keys in place, and counts and marks them. */
INLINE void DSK_NAME(sift_keys)(DSK_NAME(sifted) * sifted, size_t n, DSK_KEY low, DSK_KEY high) {
    enum { LANES = sizeof(KEYS) / sizeof(DSK_KEY), VECTORS = 4 };
    _Static_assert(64 % (VECTORS * LANES) == 0, "the marks of VECTORS vectors must fit into one word");
    KEYS below = {0}, above = {0}, greatest = {0};
    size_t i = 0;
    for (; n - i >= VECTORS * LANES; i += VECTORS * LANES) {
        KEYS *const keys = (KEYS *)(sifted->keys + i);
        uint64_t marks = 0;
        DSK_UNROLL for (int u = 0; u < VECTORS; u++) {
            const KEYS key = keys[u] & MAGNITUDE;
            /* A lane of a mask is 0 or -1. No difference overflows: keys and high are at least 0, low is at least -1. */
            const KEYS is_greater = key > greatest;
            below -= key < low;
            above -= key > high;
            greatest = (is_greater & key) | (~is_greater & greatest);
            marks |= DSK_NAME(signs)((low - key) & (key - high - 1)) << u * LANES;
            keys[u] = key;
        }
        sifted->marks[i / 64] |= marks << i % 64;
    }
    sifted->n_below = DSK_NAME(sum)(below);
    sifted->n_above = DSK_NAME(sum)(above);
    sifted->greatest = 0;
    for (int lane = 0; lane < LANES; lane++)
        sifted->greatest = greatest[lane] > sifted->greatest ? greatest[lane] : sifted->greatest;
    for (; i < n; i++) {
        const DSK_KEY key = sifted->keys[i] &= MAGNITUDE;
        sifted->n_below += key < low;
        sifted->n_above += key > high;
        if (key > sifted->greatest) sifted->greatest = key;
        sifted->marks[i / 64] |= (uint64_t)(key > low && key <= high) << i % 64;
    }
}

DSK_TARGET static size_t DSK_NAME(sift)(const dsk_program *program, size_t begin, size_t end, dsk_sieve *sieve, uint64_t *between) {
    const DSK_KEY low = (DSK_KEY)sieve->low, high = (DSK_KEY)sieve->high;
    const size_t n = end - begin, n_in_tiles = n / TILE * TILE;
    DSK_NAME(sifted) sifted;
    memset(sifted.marks, 0, sizeof sifted.marks);
    DSK_NAME(scalars) scalars;
    DSK_NAME(round_scalars)(program, &scalars);
    DSK_NAME(predict_tiles)(program, &scalars, begin, begin + n_in_tiles, (DSK_REAL *)sifted.keys);
    for (size_t i = n_in_tiles; i < n; i++) sifted.keys[i] = DSK_NAME(element_key)(program, &scalars, begin + i);
    DSK_NAME(sift_keys)(&sifted, n, low, high);

    /* At the usual ratios few elements are marked, but marks are in too many tiles to branch on each tile. */
    size_t n_marked = 0, n_between = 0;
    for (size_t word = 0; word < (n + 63) / 64; word++) {
        for (uint64_t marks = sifted.marks[word]; marks != 0; marks &= marks - 1) {
            const DSK_KEY key = sifted.keys[word * 64 + (size_t)__builtin_ctzll(marks)];
            between[n_between] = (uint64_t)key;
            n_between += key < high;
            n_marked++;
        }
    }
    sieve->n_below_low += sifted.n_below;
    sieve->n_to_low += n - sifted.n_above - n_marked;
    sieve->n_below_high += low < high ? n - sifted.n_above - n_marked + n_between : sifted.n_below;
    sieve->n_to_high += n - sifted.n_above;
    sieve->has_nan |= sifted.greatest > INFINITE;
    return n_between;
}

DSK_TARGET static void DSK_NAME(pick)(const dsk_program *program, const size_t *positions, size_t n, uint64_t *keys) {
    DSK_NAME(scalars) scalars;
    DSK_NAME(round_scalars)(program, &scalars);
    for (size_t i = 0; i < n; i++) keys[i] = (uint64_t)DSK_NAME(element_key)(program, &scalars, positions[i]);
}

#undef MAGNITUDE
#undef INFINITE
#undef VECTOR
#undef REALS
#undef WHOLE_REALS
#undef WHOLE_VECTORS
#undef KEYS
#undef TILE
#undef FUSES
#undef EACH_VECTOR
#undef EACH_OUTPUT
#undef INLINE
