/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The loops for one instruction set. The includer defines
 *
 *   BARE_VECTOR_BYTES  the size of a vector
 *   BARE_TARGET        the function attribute that allows the instruction set, or nothing
 *   BARE_NAME(name)    the name of this variant's function
 */

typedef float BARE_NAME(vector) __attribute__((vector_size(BARE_VECTOR_BYTES), may_alias));

#define VECTOR BARE_NAME(vector)
/* Several cache lines of each stream per round. All are read before any is written, so working in place is right and reads don't
   wait for stores. */
#define TILE_VECTORS 4
#define TILE_FLOATS (TILE_VECTORS * BARE_VECTOR_BYTES / sizeof(float))

static inline
    __attribute__((always_inline)) BARE_TARGET void BARE_NAME(pass)(const bare_streams *streams, size_t begin, size_t end,
                                                                    unsigned n_inputs, unsigned n_outputs, bool streaming) {
    const float *inputs[BARE_MOST_INPUTS];
    float *outputs[BARE_MOST_OUTPUTS];
    for (unsigned j = 0; j < n_inputs; j++) inputs[j] = streams->inputs[j];
    for (unsigned k = 0; k < n_outputs; k++) outputs[k] = streams->outputs[k];

    size_t i = begin;
    for (; end - i >= TILE_FLOATS; i += TILE_FLOATS) {
        VECTOR sums[BARE_MOST_OUTPUTS][TILE_VECTORS];
        for (unsigned k = 0; k < n_outputs; k++)
            for (size_t u = 0; u < TILE_VECTORS; u++) sums[k][u] = ((const VECTOR *)(inputs[k % n_inputs] + i))[u];
        for (unsigned j = n_outputs; j < n_inputs; j++)
            for (size_t u = 0; u < TILE_VECTORS; u++) sums[j % n_outputs][u] += ((const VECTOR *)(inputs[j] + i))[u];
        for (unsigned k = 0; k < n_outputs; k++)
            for (size_t u = 0; u < TILE_VECTORS; u++) {
                VECTOR *address = (VECTOR *)(outputs[k] + i) + u;
                if (streaming)
                    bare_store_streaming(sums[k][u], address);
                else
                    *address = sums[k][u];
            }
    }
    for (; i < end; i++) {
        float sums[BARE_MOST_OUTPUTS];
        for (unsigned k = 0; k < n_outputs; k++) sums[k] = inputs[k % n_inputs][i];
        for (unsigned j = n_outputs; j < n_inputs; j++) sums[j % n_outputs] += inputs[j][i];
        for (unsigned k = 0; k < n_outputs; k++) outputs[k][i] = sums[k];
    }
    if (streaming) bare_fence_streaming();
}

/* The numbers of streams are constants in each call, so the compiler unrolls over them. */
#define PASS(r, w)                                                                                                                 \
    case (r) * 4 + (w):                                                                                                            \
        streams->streaming ? BARE_NAME(pass)(streams, begin, end, r, w, true) : BARE_NAME(pass)(streams, begin, end, r, w, false); \
        break;
BARE_TARGET static void BARE_NAME(loop)(const bare_streams *streams, size_t begin, size_t end) {
    switch (streams->n_inputs * 4 + streams->n_outputs) {
        /* clang-format off */
        PASS(1, 1) PASS(2, 1) PASS(3, 1) PASS(4, 1) PASS(5, 1) PASS(6, 1)
        PASS(1, 2) PASS(2, 2) PASS(3, 2) PASS(4, 2) PASS(5, 2) PASS(6, 2)
        PASS(1, 3) PASS(2, 3) PASS(3, 3) PASS(4, 3) PASS(5, 3) PASS(6, 3)
    default: __builtin_trap();
        /* clang-format on */
    }
}

/* Enough independent sums to keep two multiply-add units busy with a latency of four or five cycles. */
BARE_TARGET static float BARE_NAME(compute)(size_t n_rounds) {
    enum { CHAINS = 12 };
    VECTOR sums[CHAINS], factor = (VECTOR){0} + 0.999f, summand = (VECTOR){0} + 0.001f;
    for (int c = 0; c < CHAINS; c++) sums[c] = (VECTOR){0} + (float)c;
    for (size_t round = 0; round < n_rounds; round++)
        for (int c = 0; c < CHAINS; c++) sums[c] = sums[c] * factor + summand;
    VECTOR total = sums[0];
    for (int c = 1; c < CHAINS; c++) total += sums[c];
    return total[0];
}

/* The passes of bare_guide: plain loops, which the compiler turns into vectors. */
BARE_TARGET static void BARE_NAME(guide)(bare_guidance_pass pass, const bare_guidance *guidance, size_t begin, size_t end,
                                         double *sums) {
    const float *restrict conditional = guidance->conditional, *restrict unconditional = guidance->unconditional;
    float *restrict guided = guidance->guided;
    const float scale = guidance->scale, factor = guidance->factor;
    switch (pass) {
    case BARE_SUBTRACT:
        for (size_t i = begin; i < end; i++) guided[i] = conditional[i] - unconditional[i];
        break;
    case BARE_SCALE:
        for (size_t i = begin; i < end; i++) guided[i] *= scale;
        break;
    case BARE_ADD:
        for (size_t i = begin; i < end; i++) guided[i] += unconditional[i];
        break;
    case BARE_MEASURE: {
        /* Sums of elements and of squares, for both tensors, in independent lanes. */
        enum { LANES = 16 };
        double lanes[4][LANES] = {{0}};
        size_t i = begin;
        for (; end - i >= LANES; i += LANES)
            for (size_t l = 0; l < LANES; l++) {
                double e = guided[i + l], c = conditional[i + l];
                lanes[0][l] += e;
                lanes[1][l] += e * e;
                lanes[2][l] += c;
                lanes[3][l] += c * c;
            }
        for (; i < end; i++) {
            double e = guided[i], c = conditional[i];
            lanes[0][0] += e;
            lanes[1][0] += e * e;
            lanes[2][0] += c;
            lanes[3][0] += c * c;
        }
        for (unsigned k = 0; k < 4; k++)
            for (unsigned l = 0; l < LANES; l++) sums[k] += lanes[k][l];
        break;
    }
    case BARE_RESCALE:
        for (size_t i = begin; i < end; i++) guided[i] *= factor;
        break;
    }
}

#undef PASS
#undef VECTOR
#undef TILE_VECTORS
#undef TILE_FLOATS
