/*
 * The inner loops, written once for every element type and instruction set. The includer defines
 *
 *   DSK_REAL          the element type; arithmetic is done in it
 *   DSK_KEY           an unsigned integer of the same size
 *   DSK_VECTOR_BYTES  the size of a vector
 *   DSK_TARGET        the function attribute that allows the instruction set, or nothing
 *   DSK_NAME(name)    the name of this variant's function
 *
 * A tile of DSK_TILE_VECTORS vectors is computed for all outputs before any of them is stored: that is what makes every
 * kind of in-place step right. The same products and sums in the same order, never fused, give every variant and the loop
 * over single elements at the ends the same bits.
 */

typedef DSK_REAL DSK_NAME(vector) __attribute__((vector_size(DSK_VECTOR_BYTES), may_alias));
typedef DSK_REAL DSK_NAME(loose_vector)
    __attribute__((vector_size(DSK_VECTOR_BYTES), aligned(sizeof(DSK_REAL)), may_alias));
typedef DSK_KEY DSK_NAME(mask) __attribute__((vector_size(DSK_VECTOR_BYTES)));

#define VECTOR DSK_NAME(vector)
#define LOOSE_VECTOR DSK_NAME(loose_vector)
#define MASK DSK_NAME(mask)
#define LANES (DSK_VECTOR_BYTES / sizeof(DSK_REAL))
#define TILE (DSK_TILE_VECTORS * LANES)
#define INLINE static inline __attribute__((always_inline)) DSK_TARGET

/* The coefficients of a program in the type of the arithmetic. */
typedef struct DSK_NAME(scalars) {
    DSK_REAL prediction[DSK_PREDICTION_INPUT_COUNT];
    DSK_REAL outputs[DSK_OUTPUT_COUNT][DSK_INPUT_COUNT];
    DSK_REAL output_prediction[DSK_OUTPUT_COUNT];
    DSK_REAL range;
} DSK_NAME(scalars);

INLINE void DSK_NAME(round_scalars)(const dsk_program *program, DSK_NAME(scalars) * scalars) {
    for (unsigned j = 0; j < program->prediction.n_terms; j++)
        scalars->prediction[j] = (DSK_REAL)program->prediction.coefficients[j];
    for (unsigned k = 0; k < program->n_outputs; k++) {
        for (unsigned j = 0; j < program->outputs[k].n_terms; j++)
            scalars->outputs[k][j] = (DSK_REAL)program->outputs[k].coefficients[j];
        scalars->output_prediction[k] = (DSK_REAL)program->outputs[k].prediction;
    }
    scalars->range = (DSK_REAL)program->clamp_range;
}

/* One element, the plain way. */

INLINE DSK_REAL DSK_NAME(combine_element)(const dsk_combination *terms, const DSK_REAL *coefficients, DSK_REAL factor,
                                          DSK_REAL prediction, size_t i) {
    DSK_REAL sum = 0;
    for (unsigned j = 0; j < terms->n_terms; j++) {
        DSK_REAL product = coefficients[j] * ((const DSK_REAL *)terms->tensors[j])[i];
        sum = j == 0 ? product : sum + product;
    }
    if (terms->prediction != 0) {
        DSK_REAL product = factor * prediction;
        sum = terms->n_terms == 0 ? product : sum + product;
    }
    return sum;
}

INLINE DSK_REAL DSK_NAME(predict_element)(const dsk_program *program, const DSK_NAME(scalars) * scalars, size_t i) {
    DSK_REAL p = DSK_NAME(combine_element)(&program->prediction, scalars->prediction, 0, 0, i);
    if (program->clamp != DSK_CLAMP_NONE) {
        p = p < -scalars->range ? -scalars->range : p;
        p = p > scalars->range ? scalars->range : p;
        if (program->clamp == DSK_CLAMP_THRESHOLD) p /= scalars->range;
    }
    return p;
}

INLINE void DSK_NAME(step_element)(const dsk_program *program, const DSK_NAME(scalars) * scalars, size_t i) {
    DSK_REAL p = program->uses_prediction ? DSK_NAME(predict_element)(program, scalars, i) : 0;
    DSK_REAL sums[DSK_OUTPUT_COUNT];
    for (unsigned k = 0; k < program->n_outputs; k++)
        sums[k] = DSK_NAME(combine_element)(&program->outputs[k], scalars->outputs[k], scalars->output_prediction[k], p, i);
    for (unsigned k = 0; k < program->n_outputs; k++) ((DSK_REAL *)program->destinations[k])[i] = sums[k];
}

/* A tile of elements. */

INLINE void DSK_NAME(combine_tile)(const dsk_combination *terms, const DSK_REAL *coefficients, DSK_REAL factor,
                                   const VECTOR *prediction, size_t i, VECTOR *sums) {
    unsigned first = 0;
    if (terms->n_terms > 0) {
        const LOOSE_VECTOR *tensor = (const LOOSE_VECTOR *)((const DSK_REAL *)terms->tensors[0] + i);
        for (int u = 0; u < DSK_TILE_VECTORS; u++) sums[u] = coefficients[0] * tensor[u];
        first = 1;
    } else {
        for (int u = 0; u < DSK_TILE_VECTORS; u++) sums[u] = (VECTOR){0};
    }
    for (unsigned j = first; j < terms->n_terms; j++) {
        const LOOSE_VECTOR *tensor = (const LOOSE_VECTOR *)((const DSK_REAL *)terms->tensors[j] + i);
        DSK_REAL c = coefficients[j];
        for (int u = 0; u < DSK_TILE_VECTORS; u++) sums[u] += c * tensor[u];
    }
    if (terms->prediction != 0) {
        if (first) {
            for (int u = 0; u < DSK_TILE_VECTORS; u++) sums[u] += factor * prediction[u];
        } else {
            for (int u = 0; u < DSK_TILE_VECTORS; u++) sums[u] = factor * prediction[u];
        }
    }
}

/* Lanes of `a` where the mask is set, of `b` elsewhere; a NaN compares as unset and so stays. */
INLINE void DSK_NAME(select)(MASK mask, VECTOR a, VECTOR *b) { *b = (VECTOR)((mask & (MASK)a) | (~mask & (MASK)*b)); }

INLINE void DSK_NAME(predict_tile)(const dsk_program *program, const DSK_NAME(scalars) * scalars, size_t i, VECTOR *p) {
    DSK_NAME(combine_tile)(&program->prediction, scalars->prediction, 0, p, i, p);
    if (program->clamp == DSK_CLAMP_NONE) return;
    VECTOR high = (VECTOR){0} + scalars->range, low = -high;
    for (int u = 0; u < DSK_TILE_VECTORS; u++) {
        DSK_NAME(select)((MASK)(p[u] < low), low, &p[u]);
        DSK_NAME(select)((MASK)(p[u] > high), high, &p[u]);
    }
    if (program->clamp == DSK_CLAMP_THRESHOLD)
        for (int u = 0; u < DSK_TILE_VECTORS; u++) p[u] /= high;
}

/* Elements [begin, end) for a number of outputs, and a use of p, that are known when this is compiled. */
INLINE void DSK_NAME(step_tiles)(const dsk_program *program, const DSK_NAME(scalars) * scalars, size_t begin, size_t end,
                                 unsigned n_outputs, bool uses_prediction) {
    size_t i = begin;
    bool streaming[DSK_OUTPUT_COUNT] = {false, false, false};

    /* Streaming stores need aligned addresses: the first streamed output decides where the tiles start. */
    for (unsigned k = 0; k < n_outputs; k++) {
        if (!program->streaming[k]) continue;
        while (i < end && (uintptr_t)((DSK_REAL *)program->destinations[k] + i) % DSK_VECTOR_BYTES != 0)
            DSK_NAME(step_element)(program, scalars, i++);
        break;
    }
    for (unsigned k = 0; k < n_outputs; k++)
        streaming[k] = program->streaming[k] &&
                       (uintptr_t)((DSK_REAL *)program->destinations[k] + i) % DSK_VECTOR_BYTES == 0;

    for (; end - i >= TILE; i += TILE) {
        VECTOR p[DSK_TILE_VECTORS] = {{0}}, sums[DSK_OUTPUT_COUNT][DSK_TILE_VECTORS];
        if (uses_prediction) DSK_NAME(predict_tile)(program, scalars, i, p);
        for (unsigned k = 0; k < n_outputs; k++)
            DSK_NAME(combine_tile)
            (&program->outputs[k], scalars->outputs[k], scalars->output_prediction[k], p, i, sums[k]);
        for (unsigned k = 0; k < n_outputs; k++) {
            DSK_REAL *destination = (DSK_REAL *)program->destinations[k] + i;
            if (streaming[k]) {
                for (int u = 0; u < DSK_TILE_VECTORS; u++)
                    dsk_store_streaming(sums[k][u], (VECTOR *)destination + u);
            } else {
                for (int u = 0; u < DSK_TILE_VECTORS; u++) ((LOOSE_VECTOR *)destination)[u] = sums[k][u];
            }
        }
    }
    for (; i < end; i++) DSK_NAME(step_element)(program, scalars, i);
    if (streaming[0] || streaming[1] || streaming[2]) dsk_fence_streaming();
}

DSK_TARGET static void DSK_NAME(step)(const dsk_program *program, size_t begin, size_t end) {
    DSK_NAME(scalars) scalars;
    DSK_NAME(round_scalars)(program, &scalars);
    bool p = program->uses_prediction;
    switch (program->n_outputs) {
    case 1: p ? DSK_NAME(step_tiles)(program, &scalars, begin, end, 1, true)
              : DSK_NAME(step_tiles)(program, &scalars, begin, end, 1, false); break;
    case 2: p ? DSK_NAME(step_tiles)(program, &scalars, begin, end, 2, true)
              : DSK_NAME(step_tiles)(program, &scalars, begin, end, 2, false); break;
    case 3: p ? DSK_NAME(step_tiles)(program, &scalars, begin, end, 3, true)
              : DSK_NAME(step_tiles)(program, &scalars, begin, end, 3, false); break;
    default: break;
    }
}

/*
 * Counts the keys of |p|. The bits of a non-negative IEEE number, read as an integer, are ordered as the numbers are, so
 * |p| is its own sort key; keys above infinity's are NaNs.
 */
DSK_TARGET static void DSK_NAME(count)(const dsk_program *program, size_t begin, size_t end, dsk_digit digit,
                                       dsk_histogram *histogram) {
    const DSK_KEY magnitude = (DSK_KEY)-1 >> 1;
    const DSK_REAL infinity_value = (DSK_REAL)__builtin_inf();
    DSK_KEY infinity;
    memcpy(&infinity, &infinity_value, sizeof infinity);
    DSK_NAME(scalars) scalars;
    DSK_NAME(round_scalars)(program, &scalars);

    for (size_t i = begin; i < end;) {
        VECTOR p[DSK_TILE_VECTORS] = {{0}};
        size_t n = end - i;
        if (n >= TILE) {
            n = TILE;
            DSK_NAME(predict_tile)(program, &scalars, i, p);
        } else {
            for (size_t j = 0; j < n; j++) ((DSK_REAL *)p)[j] = DSK_NAME(predict_element)(program, &scalars, i + j);
        }
        DSK_KEY keys[TILE];
        memcpy(keys, p, sizeof keys);
        for (size_t j = 0; j < n; j++) {
            DSK_KEY key = keys[j] & magnitude;
            uint64_t prefix = digit.prefix_shift < 64 ? (uint64_t)key >> digit.prefix_shift : 0;
            histogram->has_nan |= key > infinity;
            if (prefix == digit.prefix)
                histogram->bins[(key >> digit.shift) & (DSK_BIN_COUNT - 1)]++;
            else if (prefix > digit.prefix && key < histogram->least_above)
                histogram->least_above = key;
        }
        i += n;
    }
}

#undef VECTOR
#undef LOOSE_VECTOR
#undef MASK
#undef LANES
#undef TILE
#undef INLINE
