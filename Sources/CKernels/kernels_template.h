/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The inner loops, written once for every kind of item and every instruction set. The includer defines
 *
 *   DSK_SUM              the type of sums
 *   DSK_REAL             the type of p
 *   DSK_KEY              a signed integer of the same size
 *   DSK_TYPE             the kind's element type
 *   DSK_HAS_OTHER_TYPES  1 if tensors of an item may have other types, which are widened
 *   DSK_WIDEN            the function that widens elements to DSK_REAL
 *   DSK_SCALES_NOISE     1 if rows whose noise has a factor run as this kind; scale_noise (noise_factor_template.h) is defined then
 *   DSK_KIND_LOOPS(X)    the loops that the kind has: see DSK_LOOPS (kernels.h)
 *   DSK_COEFFICIENTS     the member of dsk_prepared_row with the coefficients, rounded for this kind
 *   DSK_VECTOR_BYTES     the size of a vector
 *   DSK_TARGET           the function attribute that allows the instruction set, or nothing
 *   DSK_TILE(name)       the name of the functions and types for tiles of DSK_SUM (see double_tile_template.h)
 *   DSK_NAME(name)       the name of this variant's function
 *
 * The way of an item from dsk_run (step.c) to its loop:
 *
 *   prepare      finds the kind by the tensors' types, and the row's form for the outputs that are wanted (rows.c made it)
 *   step         takes a thread's elements of the item in blocks, if some of them are computed or widened first, else at once
 *   step_block   widens tensors of other types, multiplies noise by its factors, and pads the last elements to a tile
 *   step_tiles   computes p for the block
 *   run_loop     finds the loop for the form: see DSK_LOOPS (kernels.h)
 *   combine      is the loop: for each tile it widens every input once, adds it to the sums that read it, and rounds the sums
 *   combine_any  is the loop of all forms that have none of their own
 *
 * A tile, or half of one, is computed for all outputs before any of them is stored, which makes every kind of in-place step correct.
 * Every variant and every loop computes the same products and sums in the same order, so all give the same bits.
 */

typedef DSK_REAL DSK_NAME(reals) __attribute__((vector_size(DSK_VECTOR_BYTES / sizeof(DSK_SUM) * sizeof(DSK_REAL)), may_alias));

/* Whole vectors of p, and of its keys. */
typedef DSK_REAL DSK_NAME(whole_reals) __attribute__((vector_size(DSK_VECTOR_BYTES), may_alias));
typedef DSK_KEY DSK_NAME(keys) __attribute__((vector_size(DSK_VECTOR_BYTES), may_alias));

/* Half a vector of elements. */
typedef uint16_t DSK_NAME(half_vector) __attribute__((vector_size(DSK_VECTOR_BYTES / 2), may_alias));

#define VECTOR DSK_TILE(vector)
#define HALF_VECTOR DSK_NAME(half_vector)
#define REALS DSK_NAME(reals)
#define WHOLE_REALS DSK_NAME(whole_reals)
#define KEYS DSK_NAME(keys)
#define TILE (DSK_TILE_VECTORS * (DSK_VECTOR_BYTES / sizeof(DSK_SUM)))
/* The number of whole vectors in a tile of p. */
#define WHOLE_VECTORS (DSK_TILE_VECTORS * sizeof(DSK_REAL) / sizeof(DSK_SUM))
#define EACH_VECTOR DSK_UNROLL for (int u = 0; u < DSK_TILE_VECTORS; u++)
#define EACH_PART DSK_UNROLL for (int u = 0; u < part; u++)
/* Whether the loop computes p itself. It doesn't if p must be rounded and widened there, as for float32: that took 1.13 to 1.37
 * times as long (AVX2). A p computed beforehand has the kind's element type. */
#define COMPUTES_P (sizeof(DSK_REAL) == sizeof(DSK_SUM))
#define INLINE static inline __attribute__((always_inline)) DSK_TARGET
/* Elements of a block: p and the widened tensors of a block fit in L1. */
#define BLOCK (DSK_BLOCK_BYTES / sizeof(DSK_REAL))
_Static_assert(BLOCK % TILE == 0, "only the last tile of a tensor may be incomplete");

/* ---- Tensors */

/* Fills `inputs`, indexed by dsk_input, for a set: n elements of each from `begin` on, widened if their type isn't the kind's. */
INLINE void DSK_NAME(find_inputs)(const dsk_program *program, unsigned set, size_t begin, size_t n, const void **inputs,
                                  DSK_REAL (*widened)[BLOCK]) {
    const dsk_item *item = program->item;
    const bool has_other_types = DSK_HAS_OTHER_TYPES && program->has_other_types;
    while (set) {
        const unsigned input = dsk_take_first(&set);
        const dsk_element_type type = has_other_types ? item->input_types[input] : DSK_TYPE;
        inputs[input] = (const char *)item->inputs[input] + begin * dsk_size(type);
        if (has_other_types && type != DSK_TYPE) {
            DSK_WIDEN(type, inputs[input], n, widened[input]);
            inputs[input] = widened[input];
        }
    }
}

/* A tile of elements of any type as they lie in memory, packed from the start. */
typedef struct DSK_NAME(elements) {
    double room[TILE];
} __attribute__((aligned(64))) DSK_NAME(elements);

/* Rounds the vectors of a part of a tile, which begins at vector `begin`. */
INLINE void DSK_NAME(round_part)(dsk_element_type type, const VECTOR *values, int begin, int part, DSK_NAME(elements) * elements) {
    EACH_PART DSK_TILE(round_vector)(type, values[u], begin + u, elements);
}

/* Copies the bits of the tile that begins at element i. */
INLINE void DSK_NAME(copy_tile)(dsk_element_type type, const void *tensor, size_t i, DSK_NAME(elements) * elements) {
    memcpy(elements, (const char *)tensor + i * dsk_size(type), TILE * dsk_size(type));
}

/*
 * Writes the elements of n vectors of a tile, from vector `first` on; the tile begins at element i. `streaming`: bypasses the caches;
 * the address must be aligned to a vector.
 */
INLINE void DSK_NAME(store_vectors)(dsk_element_type type, const DSK_NAME(elements) * elements, void *tensor, size_t i, int first,
                                    int n, bool streaming) {
    const size_t size = TILE / DSK_TILE_VECTORS * dsk_size(type), begin = (size_t)first * size, end = begin + (size_t)n * size;
    char *const to = (char *)tensor + i * dsk_size(type);
    const char *const from = (const char *)elements;
    if (!streaming)
        memcpy(to + begin, from + begin, end - begin);
    else if (size * DSK_TILE(joined) == DSK_VECTOR_BYTES)
        for (size_t at = begin; at < end; at += sizeof(VECTOR))
            dsk_store_streaming(*(const VECTOR *)(from + at), (VECTOR *)(to + at));
    else
        for (size_t at = begin; at < end; at += sizeof(HALF_VECTOR))
            dsk_store_streaming(*(const HALF_VECTOR *)(from + at), (HALF_VECTOR *)(to + at));
}

/* Writes a tile. */
INLINE void DSK_NAME(store_tile)(dsk_element_type type, const DSK_NAME(elements) * elements, void *tensor, size_t i,
                                 bool streaming) {
    DSK_NAME(store_vectors)(type, elements, tensor, i, 0, DSK_TILE_VECTORS, streaming);
}

/* The outputs of a program, in the order of its form. */
typedef struct DSK_NAME(outputs) {
    void *addresses[DSK_OUTPUT_COUNT];
    dsk_element_type types[DSK_OUTPUT_COUNT];
    bool streams, streaming[DSK_OUTPUT_COUNT];
} DSK_NAME(outputs);

/* ---- The prediction */

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

/* The prediction's scalars, copied: the compiler can't know that stores don't change a program. */
typedef struct DSK_NAME(prediction) {
    const void *tensors[DSK_PREDICTION_INPUT_COUNT];
    DSK_SUM coefficients[DSK_PREDICTION_INPUT_COUNT];
    unsigned n_inputs;
    DSK_REAL range; /* r or s; infinite if p isn't clamped */
    bool divides;   /* by s, after the clamp */
} DSK_NAME(prediction);

/* `inputs` is indexed by dsk_input. */
INLINE DSK_NAME(prediction) DSK_NAME(find_prediction)(const dsk_program *program, const void *const *inputs) {
    const dsk_prepared_row *row = program->item->row;
    DSK_NAME(prediction) prediction = {.n_inputs = row->n_prediction_inputs, .divides = program->divides};
    for (unsigned j = 0; j < row->n_prediction_inputs; j++) {
        const unsigned input = row->prediction_inputs[j];
        prediction.tensors[j] = inputs[input];
        prediction.coefficients[j] = row->DSK_COEFFICIENTS.prediction[input];
    }
    const double range = program->range;
    prediction.range = range == range ? (DSK_REAL)range : (DSK_REAL)__builtin_nanf(""); /* as coefficients: see rows.c */
    return prediction;
}

/* The sum of a tile of p. */
INLINE void DSK_NAME(sum_prediction)(const DSK_NAME(prediction) * prediction, size_t i, VECTOR *sums, const unsigned n_inputs) {
    EACH_VECTOR sums[u] = (VECTOR){0};
    for (unsigned j = 0; j < n_inputs; j++) {
        const DSK_SUM c = prediction->coefficients[j];
        EACH_VECTOR {
            const VECTOR x = DSK_TILE(load_vector)(DSK_TYPE, prediction->tensors[j], i, u);
            sums[u] = j == 0 ? c * x : sums[u] + c * x;
        }
    }
}

/* A tile of p. */
INLINE void DSK_NAME(predict_tile)(const DSK_NAME(prediction) * prediction, size_t i, WHOLE_REALS *tile) {
    VECTOR sums[DSK_TILE_VECTORS];
    REALS rounded[DSK_TILE_VECTORS];
    if (__builtin_expect(prediction->n_inputs == 2, 1)) /* the usual case: with a constant count, sums stay in registers */
        DSK_NAME(sum_prediction)(prediction, i, sums, 2);
    else
        DSK_NAME(sum_prediction)(prediction, i, sums, prediction->n_inputs);
    EACH_VECTOR rounded[u] = __builtin_convertvector(sums[u], REALS);
    memcpy(tile, rounded, sizeof rounded);
    if (prediction->divides)
        DSK_NAME(clamp_tile)(tile, prediction->range, true);
    else if (prediction->range < (DSK_REAL)__builtin_inff())
        DSK_NAME(clamp_tile)(tile, prediction->range, false);
}

/* n elements of p, whole tiles; their elements are in the order of a tile's vectors. */
DSK_TARGET static __attribute__((noinline)) void DSK_NAME(predict)(const dsk_program *program, const void *const *inputs, size_t n,
                                                                   DSK_REAL *p) {
    const DSK_NAME(prediction) prediction = DSK_NAME(find_prediction)(program, inputs);
    for (size_t i = 0; i < n; i += TILE) {
        WHOLE_REALS tile[WHOLE_VECTORS];
        DSK_NAME(predict_tile)(&prediction, i, tile);
        memcpy(p + i, tile, sizeof tile);
    }
}

/* ---- The outputs */

/* Widens vector u of a tile of p. */
INLINE VECTOR DSK_NAME(widen_prediction)(const void *tile, int u) {
    REALS reals;
    memcpy(&reals, (const char *)tile + (size_t)u * sizeof reals, sizeof reals);
    return __builtin_convertvector(reals, VECTOR);
}

/*
 * The loop: n elements, whole tiles, of all outputs. The numbers of inputs and of sums and the variant are compile-time constants,
 * so that sums and coefficients stay in registers and a tile has no branches for parts that the form lacks.
 *
 * inputs  indexed by dsk_input
 * p       the block's predictions; NULL if the loop computes p itself
 */
INLINE void DSK_NAME(combine)(const dsk_program *program, const DSK_NAME(outputs) * outputs, const void *const *inputs,
                              const DSK_REAL *p, size_t n, const unsigned n_inputs, const unsigned n_sums,
                              const dsk_loop_variant variant) {
    enum { VECTORS = DSK_TILE_VECTORS };
    /* Three sums take half a tile at a time: there are too few registers for a whole one. */
    const int part = n_sums == 3 ? VECTORS / 2 : VECTORS;
    const dsk_form *form = program->form;
    const void *tensors[DSK_LOOP_INPUTS];
    void *addresses[DSK_OUTPUT_COUNT];
    DSK_SUM coefficients[DSK_OUTPUT_COUNT][DSK_LOOP_INPUTS], p_coefficients[DSK_OUTPUT_COUNT];
    bool reads_p[DSK_OUTPUT_COUNT];
    unsigned reads[DSK_OUTPUT_COUNT] = {0}; /* bit j: input j; for DSK_MASKED */
    for (unsigned j = 0; j < n_inputs; j++) tensors[j] = inputs[form->inputs[j]];
    for (unsigned m = 0; m < n_sums; m++) {
        const dsk_prepared_row *row = program->item->row;
        const unsigned k = form->outputs[m];
        for (unsigned j = 0; j < n_inputs; j++) {
            coefficients[m][j] = row->DSK_COEFFICIENTS.outputs[k][form->inputs[j]];
            reads[m] |= (row->output_reads[k] >> form->inputs[j] & 1u) << j;
        }
        p_coefficients[m] = row->DSK_COEFFICIENTS.outputs[k][DSK_PREDICTION];
        /* One sum and no copy: only that sum can use p. */
        reads_p[m] = (n_sums == 1 && variant == DSK_P) || row->output_reads[k] >> DSK_PREDICTION;
        addresses[m] = outputs->addresses[m];
    }
    const unsigned n_first = variant == DSK_FULL || variant == DSK_PAIR ? 0 : form->n_first;
    const unsigned n_last = variant == DSK_FULL ? n_inputs : variant == DSK_PAIR ? 2 : form->n_last;
    const bool uses_p = variant == DSK_P || variant == DSK_P_AND_COPY, streams = outputs->streams;
    const bool copies = variant == DSK_P_AND_COPY || (variant == DSK_COPY && n_sums < DSK_OUTPUT_COUNT && n_sums < form->n_outputs);
    const bool copies_p = uses_p && copies && form->copied == DSK_PREDICTION;
    const void *const copied = copies && !copies_p ? inputs[form->copied] : p;
    void *const copy = copies ? outputs->addresses[n_sums] : NULL;
    DSK_NAME(prediction) prediction = {.n_inputs = 0};
    if (uses_p && COMPUTES_P) prediction = DSK_NAME(find_prediction)(program, inputs);

    for (size_t i = 0; i < n; i += TILE) {
        DSK_NAME(elements) results[DSK_OUTPUT_COUNT], bits;
        WHOLE_REALS tile[WHOLE_VECTORS];
        if (uses_p && COMPUTES_P) DSK_NAME(predict_tile)(&prediction, i, tile);
        DSK_UNROLL for (int begin = 0; begin < VECTORS; begin += part) {
            VECTOR sums[DSK_OUTPUT_COUNT][VECTORS], x[VECTORS];
            DSK_UNROLL for (unsigned m = variant == DSK_MASKED ? 0 : 1; m < n_sums; m++) EACH_PART sums[m][u] = -(VECTOR){0};
            DSK_UNROLL for (unsigned j = 0; j < n_inputs; j++) {
                EACH_PART x[u] = DSK_TILE(load_vector)(DSK_TYPE, tensors[j], i, begin + u);
                DSK_UNROLL for (unsigned m = 0; m < n_sums; m++) {
                    const DSK_SUM c = coefficients[m][j];
                    const bool is_last = m > 0 && m == n_sums - 1;
                    if (variant == DSK_MASKED ? !(reads[m] >> j & 1) : is_last && (j < n_first || j >= n_last)) continue;
                    if (variant != DSK_MASKED && m == 0 && j == 0)
                        EACH_PART sums[m][u] = c * x[u];
                    else
                        EACH_PART sums[m][u] = sums[m][u] + c * x[u];
                }
            }
            if (uses_p) {
                EACH_PART x[u] = DSK_NAME(widen_prediction)(COMPUTES_P ? (const void *)tile : (const void *)(p + i), begin + u);
                DSK_UNROLL for (unsigned m = 0; m < n_sums; m++) {
                    const DSK_SUM c = p_coefficients[m];
                    if (reads_p[m]) EACH_PART sums[m][u] = sums[m][u] + c * x[u];
                }
            }
            DSK_UNROLL for (unsigned m = 0; m < n_sums; m++)
                EACH_PART DSK_TILE(round_vector)(DSK_TYPE, sums[m][u], begin + u, &results[m]);
            /* Storing each half at once leaves registers for the sums of the next. */
            if (part == VECTORS / 2) {
                DSK_UNROLL for (unsigned m = 0; m < n_sums; m++)
                    DSK_NAME(store_vectors)(DSK_TYPE, &results[m], addresses[m], i, begin, part, streams && outputs->streaming[m]);
            }
            if (copies_p && COMPUTES_P) EACH_PART DSK_TILE(round_vector)(DSK_TYPE, x[u], begin + u, &bits);
        }
        if (copies) {
            if (!copies_p || !COMPUTES_P) DSK_NAME(copy_tile)(DSK_TYPE, copied, i, &bits);
            DSK_NAME(store_tile)(DSK_TYPE, &bits, copy, i, streams && outputs->streaming[n_sums]);
        }
        if (part == VECTORS / 2) continue;
        /* One branch for all stores. With one for each, the compiler would delay the later outputs' work. */
        if (streams) {
            DSK_UNROLL for (unsigned m = 0; m < n_sums; m++)
                DSK_NAME(store_tile)(DSK_TYPE, &results[m], addresses[m], i, outputs->streaming[m]);
        } else {
            DSK_UNROLL for (unsigned m = 0; m < n_sums; m++) DSK_NAME(store_tile)(DSK_TYPE, &results[m], addresses[m], i, false);
        }
    }
}

/*
 * Like combine, but for any form with that number of sums: masks tell which sums read an input. Outputs may be of any type unless
 * `has_own_type`.
 */
INLINE void DSK_NAME(combine_any)(const dsk_program *program, const DSK_NAME(outputs) * outputs, const void *const *inputs,
                                  const DSK_REAL *p, size_t n, const unsigned n_sums, const bool has_own_type) {
    enum { VECTORS = DSK_TILE_VECTORS };
    const int part = n_sums == 3 ? VECTORS / 2 : VECTORS;
    const dsk_form *form = program->form;
    const dsk_prepared_row *row = program->item->row;
    dsk_element_type types[DSK_OUTPUT_COUNT];
    for (unsigned m = 0; m < DSK_OUTPUT_COUNT; m++) types[m] = has_own_type ? DSK_TYPE : outputs->types[m];
    const void *tensors[DSK_INPUT_COUNT];
    DSK_SUM coefficients[DSK_INPUT_COUNT + 1][DSK_OUTPUT_COUNT]; /* those of p last */
    unsigned reads[DSK_INPUT_COUNT + 1] = {0};                   /* bit m: sum m reads it */
    const unsigned n_inputs = form->n_inputs;
    const bool uses_p = form->uses_prediction;
    for (unsigned j = 0; j <= n_inputs; j++) {
        const unsigned term = j < n_inputs ? form->inputs[j] : DSK_PREDICTION;
        if (j < n_inputs) tensors[j] = inputs[term];
        for (unsigned m = 0; m < n_sums; m++) {
            coefficients[j][m] = row->DSK_COEFFICIENTS.outputs[form->outputs[m]][term];
            reads[j] |= (row->output_reads[form->outputs[m]] >> term & 1u) << m;
        }
    }
    DSK_NAME(prediction) prediction = {.n_inputs = 0};
    if (uses_p && COMPUTES_P) prediction = DSK_NAME(find_prediction)(program, inputs);
    WHOLE_REALS tile[WHOLE_VECTORS] = {{0}}; /* gcc doesn't see that only a computed p is read */
    for (size_t i = 0; i < n; i += TILE) {
        DSK_NAME(elements) results[DSK_OUTPUT_COUNT], bits;
        if (uses_p && COMPUTES_P) DSK_NAME(predict_tile)(&prediction, i, tile);
        DSK_UNROLL for (int begin = 0; n_sums > 0 && begin < VECTORS; begin += part) {
            VECTOR sums[DSK_OUTPUT_COUNT][VECTORS], x[VECTORS];
            /* A sum begins with -0, which changes no number, unless it has no terms. */
            DSK_UNROLL for (unsigned m = 0; m < n_sums; m++) EACH_PART sums[m][u] =
                row->output_reads[form->outputs[m]] ? -(VECTOR){0} : (VECTOR){0};
            for (unsigned j = 0; j < n_inputs; j++) {
                EACH_PART x[u] = DSK_TILE(load_vector)(DSK_TYPE, tensors[j], i, begin + u);
                DSK_UNROLL for (unsigned m = 0; m < n_sums; m++) {
                    const DSK_SUM c = coefficients[j][m];
                    if (reads[j] >> m & 1) EACH_PART sums[m][u] = sums[m][u] + c * x[u];
                }
            }
            if (uses_p) {
                EACH_PART x[u] = DSK_NAME(widen_prediction)(COMPUTES_P ? (const void *)tile : (const void *)(p + i), begin + u);
                DSK_UNROLL for (unsigned m = 0; m < n_sums; m++) {
                    const DSK_SUM c = coefficients[n_inputs][m];
                    if (reads[n_inputs] >> m & 1) EACH_PART sums[m][u] = sums[m][u] + c * x[u];
                }
            }
            DSK_UNROLL for (unsigned m = 0; m < n_sums; m++)
                DSK_FOR_TYPE(types[m], DSK_NAME(round_part), sums[m], begin, part, &results[m]);
        }
        if (n_sums < DSK_OUTPUT_COUNT && n_sums < form->n_outputs) {
            if (uses_p && form->copied == DSK_PREDICTION) {
                VECTOR values[VECTORS];
                EACH_VECTOR values[u] = DSK_NAME(widen_prediction)(COMPUTES_P ? (const void *)tile : (const void *)(p + i), u);
                DSK_FOR_TYPE(types[n_sums], DSK_NAME(round_part), values, 0, VECTORS, &bits);
            } else {
                DSK_FOR_TYPE(types[n_sums], DSK_NAME(copy_tile), inputs[form->copied], i, &bits);
            }
            const bool streaming = outputs->streams && outputs->streaming[n_sums];
            DSK_FOR_TYPE(types[n_sums], DSK_NAME(store_tile), &bits, outputs->addresses[n_sums], i, streaming);
        }
        DSK_UNROLL for (unsigned m = 0; m < n_sums; m++) {
            const bool streaming = outputs->streams && outputs->streaming[m];
            DSK_FOR_TYPE(types[m], DSK_NAME(store_tile), &results[m], outputs->addresses[m], i, streaming);
        }
    }
}

/* A function for each number of sums, for outputs of the kind's type and of any. */
#define ANY(n_sums, name, has_own_type)                                                                                          \
    DSK_TARGET static __attribute__((noinline)) void DSK_NAME(name##_##n_sums)(                                                  \
        const dsk_program *program, const DSK_NAME(outputs) * outputs, const void *const *inputs, const DSK_REAL *p, size_t n) { \
        DSK_NAME(combine_any)(program, outputs, inputs, p, n, n_sums, has_own_type);                                             \
    }
#define EACH_ANY(name, has_own_type) \
    ANY(0, name, has_own_type) ANY(1, name, has_own_type) ANY(2, name, has_own_type) ANY(3, name, has_own_type)
EACH_ANY(any_form, true)
#if DSK_HAS_OTHER_TYPES
EACH_ANY(any_type, false)
#endif
#undef ANY
#undef EACH_ANY

/* A function for each loop of DSK_LOOPS, so that a profile names it. */
#define LOOP_NAME(n_inputs, n_sums, variant) DSK_NAME(loop_##n_inputs##_##n_sums##_##variant)
#define LOOP(n_inputs, n_sums, variant)                                                                                          \
    DSK_TARGET static __attribute__((noinline)) void LOOP_NAME(n_inputs, n_sums, variant)(                                       \
        const dsk_program *program, const DSK_NAME(outputs) * outputs, const void *const *inputs, const DSK_REAL *p, size_t n) { \
        DSK_NAME(combine)(program, outputs, inputs, p, n, n_inputs, n_sums, DSK_##variant);                                      \
    }
DSK_KIND_LOOPS(LOOP)
#undef LOOP

/* Runs the loop for a program's form. */
INLINE void DSK_NAME(run_loop)(const dsk_program *program, const DSK_NAME(outputs) * outputs, const void *const *inputs,
                               const DSK_REAL *p, size_t n) {
#define ANY(name)                                                        \
    switch (program->form->n_sums) {                                     \
    case 0: DSK_NAME(name##_0)(program, outputs, inputs, p, n); return;  \
    case 1: DSK_NAME(name##_1)(program, outputs, inputs, p, n); return;  \
    case 2: DSK_NAME(name##_2)(program, outputs, inputs, p, n); return;  \
    default: DSK_NAME(name##_3)(program, outputs, inputs, p, n); return; \
    }
#if DSK_HAS_OTHER_TYPES
    for (unsigned m = 0; m < program->form->n_outputs; m++)
        if (outputs->types[m] != DSK_TYPE) ANY(any_type)
#endif
#define LOOP(n_inputs, n_sums, variant)                                       \
    case DSK_LOOP_NUMBER(n_inputs, n_sums, DSK_##variant):                    \
        LOOP_NAME(n_inputs, n_sums, variant)(program, outputs, inputs, p, n); \
        return;
    switch (program->form->loop) {
        DSK_KIND_LOOPS(LOOP)
    default: ANY(any_form)
    }
#undef LOOP
#undef ANY
}

/* ---- The step */

/* Whole tiles of all outputs, at most a block of them if the program uses p. */
INLINE void DSK_NAME(step_tiles)(const dsk_program *program, const DSK_NAME(outputs) * outputs, const void *const *inputs,
                                 size_t n) {
    if (COMPUTES_P || !program->form->uses_prediction) {
        DSK_NAME(run_loop)(program, outputs, inputs, NULL, n);
        return;
    }
    DSK_REAL p[BLOCK] __attribute__((aligned(64)));
    DSK_NAME(predict)(program, inputs, n, p);
    DSK_NAME(run_loop)(program, outputs, inputs, p, n);
}

/* Fewer elements than a tile, in buffers padded with zeros. Inputs are copied before outputs are written. */
DSK_TARGET static __attribute__((noinline)) void DSK_NAME(step_end)(const dsk_program *program, const DSK_NAME(outputs) * outputs,
                                                                    const void *const *inputs, size_t n) {
    DSK_SUM buffers[DSK_INPUT_COUNT + DSK_OUTPUT_COUNT][TILE] __attribute__((aligned(64)));
    const void *padded[DSK_INPUT_COUNT];
    DSK_NAME(outputs) end = *outputs;
    end.streams = false;
    for (unsigned set = program->form->read_inputs; set;) {
        const unsigned input = dsk_take_first(&set);
        memset(buffers[input], 0, sizeof buffers[input]);
        memcpy(buffers[input], inputs[input], n * dsk_size(DSK_TYPE));
        padded[input] = buffers[input];
    }
    const unsigned n_outputs = program->form->n_outputs;
    for (unsigned m = 0; m < n_outputs; m++) end.addresses[m] = buffers[DSK_INPUT_COUNT + m];
    DSK_NAME(step_tiles)(program, &end, padded, TILE);
    for (unsigned m = 0; m < n_outputs; m++) memcpy(outputs->addresses[m], end.addresses[m], n * dsk_size(outputs->types[m]));
}

/* n elements from `begin` on, at most a block of them if `step` takes blocks. Moves the outputs' addresses on. */
DSK_TARGET static __attribute__((noinline)) void DSK_NAME(step_block)(const dsk_program *program, DSK_NAME(outputs) * outputs,
                                                                      size_t begin, size_t n) {
    const dsk_form *form = program->form;
    const void *inputs[DSK_INPUT_COUNT];
    DSK_REAL widened[DSK_HAS_OTHER_TYPES ? DSK_INPUT_COUNT : 1][BLOCK] __attribute__((aligned(64)));
    DSK_NAME(find_inputs)(program, form->read_inputs, begin, n, inputs, widened);
#if DSK_SCALES_NOISE
    DSK_REAL scaled[BLOCK] __attribute__((aligned(64)));
    if (form->scales_noise) {
        DSK_NAME(scale_noise)(&program->item->row->row, inputs[DSK_VARIANCE], inputs[DSK_NOISE], n, scaled);
        inputs[DSK_NOISE] = scaled;
    }
#endif
    /* Safe here: inputs of this element size have been widened already, and no output has been written yet. */
    if (DSK_HAS_OTHER_TYPES && program->raw_input)
        memmove((char *)program->raw_output + begin * program->raw_size,
                (const char *)program->raw_input + begin * program->raw_size, n * program->raw_size);
    const size_t n_tiled = n / TILE * TILE;
    if (n_tiled > 0) DSK_NAME(step_tiles)(program, outputs, inputs, n_tiled);
    for (unsigned m = 0; m < form->n_outputs; m++)
        outputs->addresses[m] = (char *)outputs->addresses[m] + n_tiled * dsk_size(outputs->types[m]);
    if (n_tiled == n) return;
    for (unsigned set = form->read_inputs; set;) {
        const unsigned input = dsk_take_first(&set);
        inputs[input] = (const char *)inputs[input] + n_tiled * dsk_size(DSK_TYPE);
    }
    DSK_NAME(step_end)(program, outputs, inputs, n - n_tiled);
    for (unsigned m = 0; m < form->n_outputs; m++)
        outputs->addresses[m] = (char *)outputs->addresses[m] + (n - n_tiled) * dsk_size(outputs->types[m]);
}

/*
 * Takes the elements up to the first cache line of an output that streams, and decides which outputs stream from there on: streaming
 * stores need aligned addresses. Returns the index of the next element.
 */
DSK_TARGET static __attribute__((noinline)) size_t DSK_NAME(begin_streaming)(const dsk_program *program,
                                                                             DSK_NAME(outputs) * outputs, size_t begin,
                                                                             size_t end) {
    unsigned first = 0;
    while (!program->streaming[first]) first++;
    const size_t size = dsk_size(outputs->types[first]), past = (uintptr_t)outputs->addresses[first] % DSK_STREAM_ALIGNMENT;
    const size_t n = (DSK_STREAM_ALIGNMENT - past) % DSK_STREAM_ALIGNMENT / size;
    if (n >= end - begin) return begin;
    if (n > 0) DSK_NAME(step_block)(program, outputs, begin, n);
    outputs->streams = true;
    for (unsigned m = 0; m < program->form->n_outputs; m++)
        outputs->streaming[m] = program->streaming[m] && (uintptr_t)outputs->addresses[m] % DSK_STREAM_ALIGNMENT == 0;
    return begin + n;
}

DSK_TARGET static void DSK_NAME(step)(const dsk_program *program, size_t begin, size_t end) {
    const dsk_form *form = program->form;
    const dsk_item *item = program->item;
    DSK_NAME(outputs) outputs;
    for (unsigned m = 0; m < form->n_outputs; m++) {
        const unsigned k = form->outputs[m];
        outputs.types[m] = DSK_HAS_OTHER_TYPES ? item->output_types[k] : DSK_TYPE;
        outputs.addresses[m] = (char *)item->outputs[k] + begin * dsk_size(outputs.types[m]);
    }
    outputs.streams = false;
    if (program->streams) begin = DSK_NAME(begin_streaming)(program, &outputs, begin, end);
    const bool in_blocks =
        (form->uses_prediction && !COMPUTES_P) || form->scales_noise || (DSK_HAS_OTHER_TYPES && program->has_other_types);
    const size_t most = in_blocks ? BLOCK : end - begin;
    while (begin < end) {
        const size_t n = end - begin < most ? end - begin : most;
        DSK_NAME(step_block)(program, &outputs, begin, n);
        begin += n;
    }
    if (outputs.streams) dsk_fence_streaming();
}

#include "sieve_template.h"

#undef VECTOR
#undef HALF_VECTOR
#undef REALS
#undef WHOLE_REALS
#undef WHOLE_VECTORS
#undef KEYS
#undef TILE
#undef BLOCK
#undef LOOP_NAME
#undef EACH_VECTOR
#undef EACH_PART
#undef COMPUTES_P
#undef INLINE
