/* SPDX-License-Identifier: Apache-2.0 */

/* The loops of threshold.c over the keys of |p|, for one kind and one instruction set: a part of kernels_template.h. */

/* Whole tiles of p, at most a block: n elements from `begin` on, in the order of tiles. */
DSK_TARGET static __attribute__((noinline)) void DSK_NAME(predict_block)(const dsk_program *program, size_t begin, size_t n,
                                                                         DSK_REAL *p) {
    const void *inputs[DSK_INPUT_COUNT];
    DSK_REAL widened[DSK_HAS_OTHER_TYPES ? DSK_PREDICTION_INPUT_COUNT : 1][BLOCK] __attribute__((aligned(64)));
    DSK_NAME(find_inputs)(program, program->item->row->prediction_reads, begin, n, inputs, widened);
    DSK_NAME(predict)(program, inputs, n, p);
}

/* p of one element before the clamp, without vectors. */
INLINE DSK_REAL DSK_NAME(predict_element)(const dsk_program *program, size_t i) {
    const dsk_item *item = program->item;
    DSK_SUM p = 0;
    for (unsigned j = 0; j < item->row->n_prediction_inputs; j++) {
        const unsigned input = item->row->prediction_inputs[j];
        const dsk_element_type type = DSK_HAS_OTHER_TYPES ? item->input_types[input] : DSK_TYPE;
        const DSK_SUM c = item->row->DSK_COEFFICIENTS.prediction[input];
        const DSK_SUM element = (DSK_SUM)dsk_element_value(type, item->inputs[input], i);
        p = j == 0 ? c * element : p + c * element;
    }
    return (DSK_REAL)p;
}

#define MAGNITUDE (sizeof(DSK_KEY) == 4 ? (DSK_KEY)INT32_MAX : (DSK_KEY)INT64_MAX) /* all bits but the sign */
#define INFINITE ((DSK_KEY)(sizeof(DSK_KEY) == 4 ? 0xFFll << 23 : 0x7FFll << 52))

INLINE DSK_KEY DSK_NAME(element_key)(const dsk_program *program, size_t i) {
    DSK_REAL p = DSK_NAME(predict_element)(program, i);
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
    uint64_t marks[DSK_SIEVE_ELEMENTS / 64]; /* one bit per key, set if low < key < high */
    size_t n_below, n_above_low;
    DSK_KEY greatest; /* of all keys, or of the marked ones: above infinity's if any key is a NaN's */
} DSK_NAME(sifted);

/*
 * Turns n values of p into keys in place, and counts and marks them. `has_high`: high is at most infinity's key. Otherwise all keys
 * above low are marked, also NaNs', and only the tail's keys enter `greatest`.
 */
INLINE void DSK_NAME(sift_keys)(DSK_NAME(sifted) * sifted, size_t n, DSK_KEY low, DSK_KEY high, const bool has_high) {
    enum { LANES = sizeof(KEYS) / sizeof(DSK_KEY), VECTORS = 4 };
    _Static_assert(64 % (VECTORS * LANES) == 0, "the marks of VECTORS vectors must fit into one word");
    KEYS below = {0}, above_low = {0}, greatest = {0};
    size_t i = 0;
    for (; n - i >= VECTORS * LANES; i += VECTORS * LANES) {
        KEYS *const keys = (KEYS *)(sifted->keys + i);
        uint64_t marks = 0;
        DSK_UNROLL for (int u = 0; u < VECTORS; u++) {
            const KEYS key = keys[u] & MAGNITUDE;
            KEYS is_marked = (KEYS)(key > low); /* a lane of a mask is 0 or -1 */
            below -= key < low;
            above_low -= is_marked;
            if (has_high) {
                is_marked &= key - high; /* negative if key < high; never overflows, as both are at least 0 */
                const KEYS is_greater = key > greatest;
                greatest = (is_greater & key) | (~is_greater & greatest);
            }
            marks |= DSK_NAME(signs)(is_marked) << u * LANES;
            keys[u] = key;
        }
        sifted->marks[i / 64] |= marks << i % 64;
    }
    sifted->n_below = DSK_NAME(sum)(below);
    sifted->n_above_low = DSK_NAME(sum)(above_low);
    sifted->greatest = 0;
    for (int lane = 0; lane < LANES; lane++)
        sifted->greatest = greatest[lane] > sifted->greatest ? greatest[lane] : sifted->greatest;
    for (; i < n; i++) {
        const DSK_KEY key = sifted->keys[i] &= MAGNITUDE;
        sifted->n_below += key < low;
        sifted->n_above_low += key > low;
        if (key > sifted->greatest) sifted->greatest = key;
        sifted->marks[i / 64] |= (uint64_t)(key > low && (key < high || !has_high)) << i % 64;
    }
}

DSK_TARGET static size_t DSK_NAME(sift)(const dsk_program *program, size_t begin, size_t end, dsk_sieve *sieve, uint64_t *between) {
    const DSK_KEY low = (DSK_KEY)sieve->low, high = (DSK_KEY)sieve->high;
    const size_t n = end - begin, n_in_tiles = n / TILE * TILE;
    DSK_NAME(sifted) sifted;
    memset(sifted.marks, 0, sizeof sifted.marks);
    for (size_t i = 0; i < n_in_tiles; i += BLOCK)
        DSK_NAME(predict_block)(program, begin + i, n_in_tiles - i < BLOCK ? n_in_tiles - i : BLOCK, (DSK_REAL *)sifted.keys + i);
    for (size_t i = n_in_tiles; i < n; i++) sifted.keys[i] = DSK_NAME(element_key)(program, begin + i);
    if (high > INFINITE)
        DSK_NAME(sift_keys)(&sifted, n, low, high, false);
    else
        DSK_NAME(sift_keys)(&sifted, n, low, high, true);

    /* At the usual ratios few elements are marked, but marks are in too many tiles to branch on each tile. */
    size_t n_between = 0;
    for (size_t word = 0; word < (n + 63) / 64; word++) {
        for (uint64_t marks = sifted.marks[word]; marks != 0; marks &= marks - 1) {
            const DSK_KEY key = sifted.keys[word * 64 + (size_t)__builtin_ctzll(marks)];
            between[n_between++] = (uint64_t)key;
            if (key > sifted.greatest) sifted.greatest = key;
        }
    }
    sieve->n_below += sifted.n_below;
    sieve->n_to_low += n - sifted.n_above_low;
    sieve->has_nan |= sifted.greatest > INFINITE;
    return n_between;
}

DSK_TARGET static void DSK_NAME(pick)(const dsk_program *program, const size_t *positions, size_t n, uint64_t *keys) {
    for (size_t i = 0; i < n; i++) keys[i] = (uint64_t)DSK_NAME(element_key)(program, positions[i]);
}

#undef MAGNITUDE
#undef INFINITE
