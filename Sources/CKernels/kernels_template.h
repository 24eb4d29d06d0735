/*
 * The inner loops, written once for every kind of item and every instruction set. The includer defines
 *
 *   DSK_SUM           the type that sums are made in
 *   DSK_REAL          the type of p
 *   DSK_KEY           a signed integer of the same size
 *   DSK_TYPE(stored)  the element type of a tensor: the kind's own, or what the program says it is
 *   DSK_IS_MIXED      1 where it is what the program says
 *   DSK_COEFFICIENT   the function that rounds a coefficient for this kind (see kernels.c)
 *   DSK_VECTOR_BYTES  the size of a vector
 *   DSK_TARGET        the function attribute that allows the instruction set, or nothing
 *   DSK_TILE(name)    the name of the functions and types for tiles of DSK_SUM (see double_tile_template.h)
 *   DSK_NAME(name)    the name of this variant's function
 *
 * Elements are widened to DSK_SUM when they are read and rounded once when they are written. A tile is computed for all outputs
 * before any of them is stored: that is what makes every kind of in-place step right.
 * Every variant and every loop has the same products and sums in the same order, and so the same bits.
 */

typedef DSK_REAL DSK_NAME(reals) __attribute__((vector_size(DSK_VECTOR_BYTES / sizeof(DSK_SUM) * sizeof(DSK_REAL)), may_alias));

typedef DSK_KEY DSK_NAME(real_mask)
    __attribute__((vector_size(DSK_VECTOR_BYTES / sizeof(DSK_SUM) * sizeof(DSK_REAL)), may_alias));

typedef DSK_KEY DSK_NAME(keys) __attribute__((vector_size(DSK_VECTOR_BYTES)));

#define VECTOR DSK_TILE(vector)
#define MASK DSK_TILE(mask)
#define REALS DSK_NAME(reals)
#define REAL_MASK DSK_NAME(real_mask)
#define KEYS DSK_NAME(keys)
#define ROUND(vector) __builtin_convertvector(__builtin_convertvector(vector, REALS), VECTOR)
#define TILE (DSK_TILE_VECTORS * (DSK_VECTOR_BYTES / sizeof(DSK_SUM)))
#define EACH_VECTOR DSK_UNROLL for (int u = 0; u < DSK_TILE_VECTORS; u++)
#if DSK_IS_MIXED /* code for every type, which is too much to have it for every output as well */
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
    DSK_REAL range; /* r or s */
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
    double range = program->clamp_range;
    scalars->range = range == range ? (DSK_REAL)range : (DSK_REAL)__builtin_nan(""); /* as DSK_COEFFICIENT does */
}

/* p of one element before it is clamped, the plain way. */
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

INLINE void DSK_NAME(combine_tile)(const dsk_combination *terms, const DSK_SUM *coefficients, DSK_SUM factor,
                                   const VECTOR *prediction, size_t i, VECTOR *sums) {
    VECTOR x[DSK_TILE_VECTORS];
    if (terms->n_terms > 0) {
        DSK_TILE(load)(DSK_TYPE(terms->types[0]), terms->tensors[0], i, x);
        for (int u = 0; u < DSK_TILE_VECTORS; u++) sums[u] = coefficients[0] * x[u];
    } else {
        for (int u = 0; u < DSK_TILE_VECTORS; u++) sums[u] = (VECTOR){0};
    }
    for (unsigned j = 1; j < terms->n_terms; j++) {
        DSK_TILE(load)(DSK_TYPE(terms->types[j]), terms->tensors[j], i, x);
        DSK_SUM c = coefficients[j];
        for (int u = 0; u < DSK_TILE_VECTORS; u++) sums[u] = sums[u] + c * x[u];
    }
    if (terms->prediction != 0) {
        if (terms->n_terms > 0) {
            for (int u = 0; u < DSK_TILE_VECTORS; u++) sums[u] = sums[u] + factor * prediction[u];
        } else {
            for (int u = 0; u < DSK_TILE_VECTORS; u++) sums[u] = factor * prediction[u];
        }
    }
}

/* Lanes of `a` where the mask is set, of `b` elsewhere; a NaN compares as unset and so stays. */
INLINE void DSK_NAME(select)(REAL_MASK mask, REALS a, REALS *b) { *b = (REALS)((mask & (REAL_MASK)a) | (~mask & (REAL_MASK)*b)); }

/* Rounds p, cuts it to [-range, range], which is rounded already, and then divides it by the range if it is to. */
INLINE VECTOR DSK_NAME(clamp)(VECTOR p, DSK_REAL range, bool divides) {
    REALS reals = __builtin_convertvector(p, REALS), high = (REALS){0} + range, low = -high;
    DSK_NAME(select)((REAL_MASK)(reals < low), low, &reals);
    DSK_NAME(select)((REAL_MASK)(reals > high), high, &reals);
    if (divides) reals = reals / high;
    return __builtin_convertvector(reals, VECTOR);
}

INLINE void DSK_NAME(predict_tile)(const dsk_program *program, const DSK_NAME(scalars) * scalars, size_t i, VECTOR *p) {
    DSK_NAME(combine_tile)(&program->prediction, scalars->prediction, 0, p, i, p);
    if (program->clamp == DSK_CLAMP_NONE) {
        for (int u = 0; u < DSK_TILE_VECTORS; u++) p[u] = ROUND(p[u]);
        return;
    }
    const bool divides = program->clamp == DSK_CLAMP_THRESHOLD;
    for (int u = 0; u < DSK_TILE_VECTORS; u++) p[u] = DSK_NAME(clamp)(p[u], scalars->range, divides);
}

/* The tiles that fit into [begin, end) of any program with so many outputs; returns where they end. */
INLINE size_t DSK_NAME(any_tiles)(const dsk_program *program, const DSK_NAME(scalars) * scalars, size_t begin, size_t end,
                                  const bool *streaming, unsigned n_outputs) {
    size_t i = begin;
    for (; end - i >= TILE; i += TILE) {
        VECTOR p[DSK_TILE_VECTORS] = {{0}};
        DSK_TILE(elements) results[DSK_OUTPUT_COUNT];
        if (program->uses_prediction) DSK_NAME(predict_tile)(program, scalars, i, p);
        EACH_OUTPUT {
            const dsk_combination *terms = &program->outputs[k];
            dsk_element_type type = DSK_TYPE(program->destination_types[k]);
            if (scalars->copies[k]) {
                DSK_TILE(copy)(type, terms->tensors[0], i, &results[k]);
            } else {
                VECTOR sums[DSK_TILE_VECTORS];
                DSK_NAME(combine_tile)(terms, scalars->outputs[k], scalars->output_prediction[k], p, i, sums);
                DSK_TILE(round)(type, sums, &results[k]);
            }
        }
        EACH_OUTPUT
            DSK_TILE(store)(DSK_TYPE(program->destination_types[k]), &results[k], program->destinations[k], i, streaming[k]);
    }
    return i;
}

#if !DSK_IS_MIXED

/*
 * The same for plain programs, which nearly all steps are (see dsk_plain_form). The form and the number of the first output's terms
 * are known when this is compiled: so the loop has no branches but for streaming, its scalars stay in registers, and what two
 * outputs read is widened once.
 */
INLINE size_t DSK_NAME(plain_tiles)(const dsk_program *program, const DSK_NAME(scalars) * scalars, size_t begin, size_t end,
                                    const bool *streaming, unsigned n_terms, dsk_plain_form form) {
    const dsk_element_type type = DSK_TYPE(program->destination_types[0]);
    const bool is_clamped = form >= DSK_PLAIN_CLAMPED, has_second = form != DSK_PLAIN_SUM && form != DSK_PLAIN_CLAMPED;
    /* The first output's tensors that the second one combines. */
    const unsigned shared = form == DSK_PLAIN_AND_TRIPLE                                          ? 3
                            : form == DSK_PLAIN_AND_PAIR || form == DSK_PLAIN_AND_LATER_PAIR ? 2
                                                                                                  : 0;
    const unsigned shared_begin = form == DSK_PLAIN_AND_LATER_PAIR ? 1 : 0;
    void *const first = program->destinations[0], *const second = has_second ? program->destinations[1] : NULL;
    const bool stream_first = streaming[0], stream_second = has_second && streaming[1];
    /* The compiler can't know that no store changes these: so they are copied. */
    const void *tensors[DSK_MOST_PLAIN_TERMS], *p_tensors[2] = {NULL, NULL};
    DSK_SUM factors[DSK_MOST_PLAIN_TERMS], others_factors[3] = {0, 0, 0}, p_factors[2] = {0, 0};
    const DSK_SUM p_factor = scalars->output_prediction[0], second_p_factor = scalars->output_prediction[1];
    const DSK_REAL range = scalars->range;
    const bool divides = program->clamp == DSK_CLAMP_THRESHOLD;
    const unsigned n_begin = is_clamped ? program->outputs[0].n_terms - n_terms : 0;
    for (unsigned j = 0; is_clamped && j < 2; j++) {
        p_tensors[j] = program->prediction.tensors[j];
        p_factors[j] = scalars->prediction[j];
    }
    const bool begins_with_a = is_clamped && program->outputs[0].tensors[0] == p_tensors[0];
    const bool begins_with_b = n_begin == 2 || !begins_with_a;
    const DSK_SUM a_factor = scalars->outputs[0][0], b_factor = scalars->outputs[0][begins_with_a ? 1 : 0];
    for (unsigned j = 0; j < n_terms; j++) {
        tensors[j] = program->outputs[0].tensors[n_begin + j];
        factors[j] = scalars->outputs[0][n_begin + j];
    }
    const void *const another = form == DSK_PLAIN_AND_COPY ? program->outputs[1].tensors[0] : NULL;
    const DSK_SUM another_factor = form == DSK_PLAIN_CLAMPED_AND_SUM ? scalars->outputs[1][0] : 0;
    for (unsigned j = 0; j < shared; j++) others_factors[j] = scalars->outputs[1][j];

    size_t i = begin;
    for (; end - i >= TILE; i += TILE) {
        DSK_TILE(elements) results[2];
        VECTOR sums[DSK_TILE_VECTORS] = {{0}}, others[DSK_TILE_VECTORS] = {{0}}, p[DSK_TILE_VECTORS];
        if (is_clamped) {
            /* What p combines is widened once, and begins the first output's sum. */
            EACH_VECTOR {
                const VECTOR a = DSK_TILE(load_vector)(type, p_tensors[0], i, u);
                const VECTOR b = DSK_TILE(load_vector)(type, p_tensors[1], i, u);
                p[u] = p_factors[0] * a;
                p[u] = p[u] + p_factors[1] * b;
                p[u] = divides ? DSK_NAME(clamp)(p[u], range, true) : DSK_NAME(clamp)(p[u], range, false);
                if (begins_with_a) {
                    sums[u] = a_factor * a;
                    if (begins_with_b) sums[u] = sums[u] + b_factor * b;
                } else {
                    sums[u] = b_factor * b;
                }
                if (form == DSK_PLAIN_CLAMPED_AND_P) others[u] = p[u];
                if (form == DSK_PLAIN_CLAMPED_AND_SUM) {
                    others[u] = another_factor * a;
                    others[u] = others[u] + second_p_factor * p[u];
                }
            }
        }
        /* Term by term: a sum's additions wait for each other, those of the tile's other vectors fill the gaps. */
        for (unsigned j = 0; j < n_terms; j++) {
            EACH_VECTOR {
                VECTOR x = DSK_TILE(load_vector)(type, tensors[j], i, u);
                sums[u] = j == 0 && !is_clamped ? factors[j] * x : sums[u] + factors[j] * x;
                if (j >= shared_begin && j < shared_begin + shared) {
                    DSK_SUM factor = others_factors[j - shared_begin];
                    others[u] = j == shared_begin ? factor * x : others[u] + factor * x;
                }
            }
        }
        if (is_clamped) EACH_VECTOR sums[u] = sums[u] + p_factor * p[u];
        EACH_VECTOR DSK_TILE(round_vector)(type, sums[u], u, &results[0]);
        if (form == DSK_PLAIN_AND_COPY) DSK_TILE(copy)(type, another, i, &results[1]);
        else if (has_second) EACH_VECTOR DSK_TILE(round_vector)(type, others[u], u, &results[1]);
        /* One branch for all stores: between two of them the compiler would put off the work for the second. */
        if (stream_first || stream_second) {
            DSK_TILE(store)(type, &results[0], first, i, stream_first);
            if (has_second) DSK_TILE(store)(type, &results[1], second, i, stream_second);
        } else {
            DSK_TILE(store)(type, &results[0], first, i, false);
            if (has_second) DSK_TILE(store)(type, &results[1], second, i, false);
        }
    }
    return i;
}

#endif

/* The tiles that fit into [begin, end); returns where they end. It is large: so it isn't inlined into both of its callers. */
DSK_TARGET static __attribute__((noinline)) size_t DSK_NAME(step_tiles)(
    const dsk_program *program, const DSK_NAME(scalars) * scalars, size_t begin, size_t end, const bool *streaming) {
#if !DSK_IS_MIXED
#define PLAIN(n_terms, form)       \
    case DSK_PLAIN(n_terms, form): \
        return DSK_NAME(plain_tiles)(program, scalars, begin, end, streaming, n_terms, form)
    switch (dsk_plain_program(program, scalars->copies)) {
        PLAIN(1, DSK_PLAIN_SUM);
        PLAIN(2, DSK_PLAIN_SUM);
        PLAIN(3, DSK_PLAIN_SUM);
        PLAIN(4, DSK_PLAIN_SUM);
        PLAIN(2, DSK_PLAIN_AND_COPY);
        PLAIN(3, DSK_PLAIN_AND_COPY);
        PLAIN(4, DSK_PLAIN_AND_COPY);
        PLAIN(5, DSK_PLAIN_AND_COPY);
        PLAIN(2, DSK_PLAIN_AND_PAIR);
        PLAIN(3, DSK_PLAIN_AND_PAIR);
        PLAIN(4, DSK_PLAIN_AND_PAIR);
        PLAIN(5, DSK_PLAIN_AND_PAIR);
        PLAIN(4, DSK_PLAIN_AND_LATER_PAIR);
        PLAIN(5, DSK_PLAIN_AND_LATER_PAIR);
        PLAIN(4, DSK_PLAIN_AND_TRIPLE);
        PLAIN(5, DSK_PLAIN_AND_TRIPLE);
        PLAIN(0, DSK_PLAIN_CLAMPED);
        PLAIN(1, DSK_PLAIN_CLAMPED);
        PLAIN(0, DSK_PLAIN_CLAMPED_AND_P);
        PLAIN(1, DSK_PLAIN_CLAMPED_AND_P);
        PLAIN(2, DSK_PLAIN_CLAMPED_AND_P);
        PLAIN(0, DSK_PLAIN_CLAMPED_AND_SUM);
        PLAIN(1, DSK_PLAIN_CLAMPED_AND_SUM);
        PLAIN(2, DSK_PLAIN_CLAMPED_AND_SUM);
    }
#undef PLAIN
#endif
    switch (program->n_outputs) {
    case 1: return DSK_NAME(any_tiles)(program, scalars, begin, end, streaming, 1);
    case 2: return DSK_NAME(any_tiles)(program, scalars, begin, end, streaming, 2);
    case 3: return DSK_NAME(any_tiles)(program, scalars, begin, end, streaming, 3);
    default: return end; /* no outputs, no work */
    }
}

/*
 * The ends of tensors, a tile each at most: it is computed in buffers on the stack, padded with zeros. Inputs are taken before
 * outputs are written, which is right in place.
 */
DSK_TARGET static void DSK_NAME(step_end)(const dsk_program *program, const DSK_NAME(scalars) * scalars, size_t begin,
                                          size_t end) {
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

    /* Streaming stores need aligned addresses: the first streamed output decides where the tiles start. */
    size_t i = begin;
    for (unsigned k = 0; k < program->n_outputs && !streams; k++) {
        streams = program->streaming[k];
        while (streams && i < end && !DSK_NAME(is_aligned)(program, k, i)) i++;
    }
    for (unsigned k = 0; k < program->n_outputs; k++)
        streaming[k] = program->streaming[k] && DSK_NAME(is_aligned)(program, k, i);

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

/* A bit for each lane that is negative. */
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

/* What a block of elements leaves to be looked at one by one. */
typedef struct DSK_NAME(sifted) {
    DSK_KEY keys[DSK_SIEVE_ELEMENTS];
    uint64_t marks[DSK_SIEVE_ELEMENTS / 64]; /* a bit for each key that is above the lower fence, not above the higher one */
    size_t n_below, n_above;
    DSK_KEY greatest;
} DSK_NAME(sifted);

/* The tiles that fit into [begin, end), for a prediction of so many terms, 0 for any number; returns where they end. */
INLINE size_t DSK_NAME(sift_tiles)(const dsk_program *program, const DSK_NAME(scalars) * scalars, size_t begin, size_t end,
                                   DSK_KEY low, DSK_KEY high, DSK_NAME(sifted) * sifted, unsigned n_terms) {
    enum { KEY_VECTORS = DSK_TILE_VECTORS * sizeof(DSK_REAL) / sizeof(DSK_SUM), LANES = sizeof(KEYS) / sizeof(DSK_KEY) };
    KEYS below = {0}, above = {0}, greatest = {0};
#if !DSK_IS_MIXED
    const dsk_element_type type = DSK_TYPE(program->prediction.types[0]);
    const void *tensors[DSK_PREDICTION_INPUT_COUNT] = {0};
    DSK_SUM coefficients[DSK_PREDICTION_INPUT_COUNT] = {0};
    for (unsigned j = 0; j < n_terms; j++) {
        tensors[j] = program->prediction.tensors[j];
        coefficients[j] = scalars->prediction[j];
    }
#endif
    size_t i = begin;
    for (; end - i >= TILE; i += TILE) {
        VECTOR p[DSK_TILE_VECTORS] = {{0}};
        REALS rounded[DSK_TILE_VECTORS];
        KEYS keys[KEY_VECTORS];
        uint64_t marks = 0;
        if (n_terms == 0) DSK_NAME(combine_tile)(&program->prediction, scalars->prediction, 0, p, i, p);
        EACH_VECTOR {
#if !DSK_IS_MIXED
            for (unsigned j = 0; j < n_terms; j++) {
                VECTOR x = DSK_TILE(load_vector)(type, tensors[j], i, u);
                p[u] = j == 0 ? coefficients[j] * x : p[u] + coefficients[j] * x;
            }
#endif
            rounded[u] = __builtin_convertvector(p[u], REALS);
        }
        memcpy(keys, rounded, sizeof keys);
        DSK_UNROLL for (int u = 0; u < KEY_VECTORS; u++) {
            keys[u] &= MAGNITUDE;
            /* A lane of a mask is 0 or -1. No difference overflows: no key is negative, nor is high, and low is -1 at least. */
            const KEYS is_greater = keys[u] > greatest;
            below -= keys[u] < low;
            above -= keys[u] > high;
            greatest = (is_greater & keys[u]) | (~is_greater & greatest);
            marks |= DSK_NAME(signs)((low - keys[u]) & (keys[u] - high - 1)) << u * LANES;
        }
        memcpy(sifted->keys + (i - begin), keys, sizeof keys);
        sifted->marks[(i - begin) / 64] |= marks << (i - begin) % 64;
    }
    sifted->n_below = DSK_NAME(sum)(below);
    sifted->n_above = DSK_NAME(sum)(above);
    sifted->greatest = 0;
    for (int lane = 0; lane < LANES; lane++)
        sifted->greatest = greatest[lane] > sifted->greatest ? greatest[lane] : sifted->greatest;
    return i;
}

DSK_TARGET static size_t DSK_NAME(sift)(const dsk_program *program, size_t begin, size_t end, dsk_sieve *sieve,
                                        uint64_t *between) {
    _Static_assert(64 % TILE == 0 && DSK_SIEVE_ELEMENTS % 64 == 0, "a tile's marks have to fit into one word of them");
    const DSK_KEY low = (DSK_KEY)sieve->low, high = (DSK_KEY)sieve->high;
    const size_t n = end - begin;
    DSK_NAME(sifted) sifted;
    memset(sifted.marks, 0, sizeof sifted.marks);
    DSK_NAME(scalars) scalars;
    DSK_NAME(round_scalars)(program, &scalars);
    size_t i;
    switch (DSK_IS_MIXED ? 0 : program->prediction.n_terms) {
    case 1: i = DSK_NAME(sift_tiles)(program, &scalars, begin, end, low, high, &sifted, 1); break;
    case 2: i = DSK_NAME(sift_tiles)(program, &scalars, begin, end, low, high, &sifted, 2); break;
    default: i = DSK_NAME(sift_tiles)(program, &scalars, begin, end, low, high, &sifted, 0); break;
    }
    for (; i < end; i++) {
        const DSK_KEY key = DSK_NAME(element_key)(program, &scalars, i);
        sifted.n_below += key < low;
        sifted.n_above += key > high;
        if (key > sifted.greatest) sifted.greatest = key;
        sifted.keys[i - begin] = key;
        sifted.marks[(i - begin) / 64] |= (uint64_t)(key > low && key <= high) << (i - begin) % 64;
    }

    /* At the usual ratios few elements are marked, but too many tiles to branch at each. */
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
#undef MASK
#undef REALS
#undef REAL_MASK
#undef KEYS
#undef ROUND
#undef TILE
#undef EACH_VECTOR
#undef EACH_OUTPUT
#undef INLINE
