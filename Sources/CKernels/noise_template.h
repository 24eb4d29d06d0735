/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The inner loops of the normal sources, written once for every instruction set. The includer defines
 *
 *   DSK_LANES       the number of float32 lanes; a multiple of 8
 *   DSK_FUSED       1 if the instruction set has a fused multiply-add, 0 if it is emulated
 *   DSK_TARGET      the function attribute that allows the instruction set, or nothing
 *   DSK_NAME(name)  the name of this variant's function
 *
 * Every variant gives the same bits: all operations are IEEE 754's, correctly rounded and in one fixed order. If the reference
 * fuses a product and a sum, every variant does, with hardware or without.
 */

typedef float DSK_NAME(real) __attribute__((vector_size(4 * DSK_LANES)));
typedef int32_t DSK_NAME(integer) __attribute__((vector_size(4 * DSK_LANES)));
typedef uint32_t DSK_NAME(word) __attribute__((vector_size(4 * DSK_LANES)));
typedef double DSK_NAME(wide) __attribute__((vector_size(8 * DSK_LANES)));
typedef int64_t DSK_NAME(wide_integer) __attribute__((vector_size(8 * DSK_LANES)));
typedef uint64_t DSK_NAME(wide_word) __attribute__((vector_size(8 * DSK_LANES)));

#define REAL DSK_NAME(real)
#define INTEGER DSK_NAME(integer)
#define WORD DSK_NAME(word)
#define WIDE DSK_NAME(wide)
#define WIDE_INTEGER DSK_NAME(wide_integer)
#define WIDE_WORD DSK_NAME(wide_word)
#define INLINE static inline __attribute__((always_inline)) DSK_TARGET

/* Replaces the words by the next 624 of the sequence: Matsumoto & Nishimura 1998, equation (2.1). */
static DSK_TARGET void DSK_NAME(twist)(uint32_t *words) {
    enum { COUNT = DSK_MT19937_WORD_COUNT, MIDDLE = 397 };
    unsigned k = 0;
    /* Each of the two loops reads at fixed distances, so both vectorise. */
    for (; k < COUNT - MIDDLE; k++) words[k] = words[k + MIDDLE] ^ mix_words(words[k], words[k + 1]);
    for (; k < COUNT - 1; k++) words[k] = words[k + MIDDLE - COUNT] ^ mix_words(words[k], words[k + 1]);
    words[k] = words[MIDDLE - 1] ^ mix_words(words[k], words[0]);
}

/* n outputs from n words of the sequence. */
static DSK_TARGET void DSK_NAME(temper)(const uint32_t *words, size_t n, loose_word *out) {
    for (size_t i = 0; i < n; i++) out[i] = temper_word(words[i]);
}

/* a * b + c with one rounding. */
INLINE REAL DSK_NAME(fused)(REAL a, REAL b, REAL c) {
#if DSK_FUSED && DSK_HAS_ELEMENTWISE
    return __builtin_elementwise_fma(a, b, c);
#elif DSK_FUSED
    REAL sum;
    for (unsigned i = 0; i < DSK_LANES; i++) sum[i] = __builtin_fmaf(a[i], b[i], c[i]);
    return sum;
#else
    /*
     * Boldo & Melquiond 2008, "Emulation of a FMA and correctly rounded sums: proved algorithms using rounding to odd": the product
     * of two float32 is exact in float64. The sum rounded to odd records any loss in its last bit, so that the first rounding can't
     * mislead the second. Knuth's two-sum gives the loss exactly.
     */
    WIDE product = __builtin_convertvector(a, WIDE) * __builtin_convertvector(b, WIDE);
    WIDE term = __builtin_convertvector(c, WIDE);
    WIDE sum = product + term;
    WIDE part = sum - product;
    WIDE lost = (product - (sum - part)) + (term - part);
    WIDE_INTEGER bits = (WIDE_INTEGER)sum;
    /* One unit towards the lost part makes an even sum odd. */
    WIDE_INTEGER towards_zero = (WIDE_INTEGER)((lost < 0.0) ^ (sum < 0.0));
    WIDE_INTEGER adjust = (WIDE_INTEGER)(lost != 0.0) & ((bits & 1) - 1);
    bits += adjust & (towards_zero | 1);
    return __builtin_convertvector((WIDE)bits, REAL);
#endif
}

INLINE REAL DSK_NAME(root)(REAL x) {
#if DSK_HAS_ELEMENTWISE
    return __builtin_elementwise_sqrt(x);
#else
    for (unsigned i = 0; i < DSK_LANES; i++) x[i] = __builtin_sqrtf(x[i]);
    return x;
#endif
}

INLINE WIDE DSK_NAME(wide_root)(WIDE x) {
#if DSK_HAS_ELEMENTWISE
    return __builtin_elementwise_sqrt(x);
#else
    for (unsigned i = 0; i < DSK_LANES; i++) x[i] = __builtin_sqrt(x[i]);
    return x;
#endif
}

INLINE REAL DSK_NAME(all)(float x) { return (REAL){0} + x; }

/*
 * The natural logarithm for x in [2^-24, 1] as Cephes' logf approximates it (Moshier 1989): x = 2^e m with m in
 * [sqrt(1/2), sqrt(2)), and with f = m - 1 and a polynomial P of degree 8
 *
 *     ln x = f - f^2 / 2 + f^3 P(f) + e ln 2
 *
 * The order of the operations, and which of them are fused, are those of torch's AVX2 build.
 */
INLINE REAL DSK_NAME(logarithm)(REAL x) {
    INTEGER bits = (INTEGER)x;
    REAL exponent = __builtin_convertvector((bits >> 23) - 126, REAL);
    REAL m = (REAL)((bits & 0x007fffff) | 0x3f000000);
    INTEGER below = m < 0x1.6a09e6p-1f;
    REAL f = (m - 1.0f) + (REAL)((INTEGER)m & below);
    exponent = exponent - (REAL)((INTEGER)DSK_NAME(all)(1.0f) & below);

    REAL square = f * f;
    REAL p = DSK_NAME(all)(log_coefficients[0]);
    for (unsigned i = 1; i < 9; i++) p = DSK_NAME(fused)(p, f, DSK_NAME(all)(log_coefficients[i]));
    p = p * f;
    p = DSK_NAME(fused)(p, square, exponent * -2.12194440e-4f); /* ln 2 = 0.693359375 - 2.1219444e-4 */
    p = p - square * 0.5f;
    return (f + p) + exponent * 0.693359375f;
}

/*
 * Sine and cosine for x in [0, 2 pi] as Cephes' sinf and cosf approximate them (Moshier 1989): with the even j nearest to
 * x / (pi / 4), r = x - j pi / 4 in three parts, and two polynomials in r^2 that change places with every second quadrant.
 */
INLINE void DSK_NAME(sine_cosine)(REAL x, REAL *sine, REAL *cosine) {
    INTEGER j = __builtin_convertvector(x * 0x1.45f306p+0f, INTEGER); /* 4 / pi */
    j = (j + 1) & ~1;
    REAL octants = __builtin_convertvector(j, REAL);
    REAL r = x + octants * -0.78515625f; /* exact */
    r = DSK_NAME(fused)(octants, DSK_NAME(all)(-2.4187564849853515625e-4f), r);
    r = DSK_NAME(fused)(octants, DSK_NAME(all)(-3.77489497744594108e-8f), r);
    REAL square = r * r;

    REAL c = DSK_NAME(all)(2.443315711809948e-5f);
    c = DSK_NAME(fused)(c, square, DSK_NAME(all)(-1.388731625493765e-3f));
    c = DSK_NAME(fused)(c, square, DSK_NAME(all)(4.166664568298827e-2f));
    c = c * square;
    c = DSK_NAME(fused)(c, square, square * -0.5f);
    c = c + 1.0f;

    REAL s = DSK_NAME(all)(-1.9515295891e-4f);
    s = DSK_NAME(fused)(s, square, DSK_NAME(all)(8.3321608736e-3f));
    s = DSK_NAME(fused)(s, square, DSK_NAME(all)(-1.6666654611e-1f));
    s = s * square;
    s = DSK_NAME(fused)(s, r, r);

    INTEGER straight = (INTEGER)((j & 2) == 0);
    INTEGER first = (INTEGER)s, second = (INTEGER)c;
    *sine = (REAL)(((first & straight) | (second & ~straight)) ^ (INTEGER)(((WORD)j & 4) << 29));
    *cosine = (REAL)(((second & straight) | (first & ~straight)) ^ (INTEGER)(((WORD)(j + 2) & 4) << 29));
}

/* One group of DSK_LANES / 8 blocks of torch's Box-Muller transform, in place (see dsk_torch_normal_float32). */
INLINE void DSK_NAME(torch_group)(loose_word *draws) {
    WORD first, second;
    for (unsigned block = 0; block < DSK_LANES / 8; block++) {
        memcpy((char *)&first + 32 * block, draws + 16 * block, 32);
        memcpy((char *)&second + 32 * block, draws + 16 * block + 8, 32);
    }
    REAL u1 = 1.0f - __builtin_convertvector((INTEGER)(first & 0xffffff), REAL) * 0x1p-24f;
    REAL u2 = __builtin_convertvector((INTEGER)(second & 0xffffff), REAL) * 0x1p-24f;
    REAL radius = DSK_NAME(root)(DSK_NAME(logarithm)(u1) * -2.0f);
    REAL sine, cosine;
    DSK_NAME(sine_cosine)(u2 * 0x1.921fb6p+2f, &sine, &cosine); /* 2 pi */
    /* torch adds the mean, 0, and so turns -0 into 0. */
    cosine = radius * cosine + 0.0f;
    sine = radius * sine + 0.0f;
    for (unsigned block = 0; block < DSK_LANES / 8; block++) {
        memcpy(draws + 16 * block, (char *)&cosine + 32 * block, 32);
        memcpy(draws + 16 * block + 8, (char *)&sine + 32 * block, 32);
    }
}

static DSK_TARGET void DSK_NAME(torch_blocks)(loose_word *draws, size_t n_blocks) {
    enum { GROUP = DSK_LANES / 8 };
    for (; n_blocks >= GROUP; n_blocks -= GROUP, draws += 16 * GROUP) DSK_NAME(torch_group)(draws);
    if (n_blocks > 0) {
        loose_word rest[16 * GROUP] = {0};
        memcpy(rest, draws, 64 * n_blocks);
        DSK_NAME(torch_group)(rest);
        memcpy(draws, rest, 64 * n_blocks);
    }
}

/* Philox 4x32-10 (Salmon et al. 2011, section 3.3) on DSK_LANES counters that share a key. */
INLINE void DSK_NAME(philox)(WORD counter[4], uint32_t key0, uint32_t key1) {
    for (unsigned round = 0; round < 10; round++) {
        WIDE_WORD even = __builtin_convertvector(counter[0], WIDE_WORD) * PHILOX_MULTIPLIER_0;
        WIDE_WORD odd = __builtin_convertvector(counter[2], WIDE_WORD) * PHILOX_MULTIPLIER_1;
        counter[0] = __builtin_convertvector(odd >> 32, WORD) ^ counter[1] ^ key0;
        counter[1] = __builtin_convertvector(odd, WORD);
        counter[2] = __builtin_convertvector(even >> 32, WORD) ^ counter[3] ^ key1;
        counter[3] = __builtin_convertvector(even, WORD);
        key0 += PHILOX_WEYL_0;
        key1 += PHILOX_WEYL_1;
    }
}

INLINE WIDE DSK_NAME(word_to_wide)(WORD x) {
    /* Exact, and avoids the unsigned conversion, which most vector units lack. */
    return __builtin_convertvector((INTEGER)(x ^ 0x80000000u), WIDE) + 0x1p31;
}

/*
 * The natural logarithm in float64 of a float32 in [2^-33, 1]: u = 2^e m with m in [sqrt(1/2), sqrt(2)), and with
 * f = (m - 1) / (m + 1)
 *
 *     ln u = e ln 2 + 2 artanh f,   2 artanh f = 2 f (1 + f^2 / 3 + f^4 / 5 + ...)
 *
 * |f| < 0.1716, so the truncation error is below 2^-54 of the sum. Relative error below 2^-50.
 */
INLINE WIDE DSK_NAME(wide_logarithm)(REAL u) {
    INTEGER bits = (INTEGER)u;
    INTEGER exponent = (bits - 0x3f3504f3) >> 23;
    WIDE m = __builtin_convertvector((REAL)(bits - (exponent << 23)), WIDE);
    WIDE f = (m - 1.0) / (m + 1.0);
    WIDE square = f * f;
    WIDE sum = (WIDE){0} + artanh_coefficients[0];
    for (unsigned i = 1; i < 10; i++) sum = sum * square + artanh_coefficients[i];
    WIDE twice = f + f;
    return __builtin_convertvector(exponent, WIDE) * 0x1.62e42fefa39efp-1 + (twice + twice * (square * sum));
}

/*
 * Sine and cosine in float64 for x in [0, 2 pi]: with the integer q nearest to x / (pi / 2), r = x - q pi / 2 with pi / 2 in
 * two parts (33 bits, so that the product is exact, and the next 53), and Taylor's series, whose remainder is below 2^-49 for
 * |r| <= pi / 4. Relative error below 2^-48.
 */
INLINE void DSK_NAME(wide_sine_cosine)(WIDE x, WIDE *sine, WIDE *cosine) {
    /* Adding 1.5 * 2^52 rounds to an integer and leaves it in the last bits. */
    WIDE shifted = x * 0x1.45f306dc9c883p-1 + 0x1.8p52;
    WIDE_INTEGER q = (WIDE_INTEGER)shifted;
    WIDE quadrants = shifted - 0x1.8p52;
    WIDE r = (x - quadrants * 0x1.921fb544p+0) - quadrants * 0x1.0b4611a626331p-34;
    WIDE square = r * r;
    WIDE s = (WIDE){0} + sine_coefficients[0], c = (WIDE){0} + cosine_coefficients[0];
    for (unsigned i = 1; i < 7; i++) {
        s = s * square + sine_coefficients[i];
        c = c * square + cosine_coefficients[i];
    }
    s = r + r * (square * s);
    c = 1.0 + square * c;

    WIDE_INTEGER swap = -(q & 1);
    WIDE_INTEGER first = (WIDE_INTEGER)s, second = (WIDE_INTEGER)c;
    WIDE_INTEGER sine_sign = (WIDE_INTEGER)((WIDE_WORD)(q & 2) << 62);
    WIDE_INTEGER cosine_sign = (WIDE_INTEGER)((WIDE_WORD)((q + 1) & 2) << 62);
    *sine = (WIDE)(((first & ~swap) | (second & swap)) ^ sine_sign);
    *cosine = (WIDE)(((second & ~swap) | (first & swap)) ^ cosine_sign);
}

/* cuRAND's Box-Muller transform of two words (see dsk_torch_cuda_normal_float32). */
INLINE void DSK_NAME(cuda_pair)(WORD x, WORD y, REAL *sine, REAL *cosine) {
    /* The words are rounded to float32 before and after the scaling, as the device does. */
    WIDE x_rounded = __builtin_convertvector(__builtin_convertvector(DSK_NAME(word_to_wide)(x), REAL), WIDE);
    WIDE y_rounded = __builtin_convertvector(__builtin_convertvector(DSK_NAME(word_to_wide)(y), REAL), WIDE);
    REAL u = __builtin_convertvector(x_rounded * 0x1p-32 + 0x1p-33, REAL);
    REAL v = __builtin_convertvector((y_rounded + 0.5) * 0x1.921fb6p-30, REAL);
    WIDE radius = DSK_NAME(wide_root)(DSK_NAME(wide_logarithm)(u) * -2.0);
    WIDE s, c;
    DSK_NAME(wide_sine_cosine)(__builtin_convertvector(v, WIDE), &s, &c);
    *sine = __builtin_convertvector(radius * s, REAL) + 0.0f;
    *cosine = __builtin_convertvector(radius * c, REAL) + 0.0f;
}

INLINE void DSK_NAME(cuda_store)(REAL values, float *out, size_t n, size_t at) {
    if (at >= n) return;
    memcpy(out + at, &values, n - at < DSK_LANES ? 4 * (n - at) : 4 * DSK_LANES);
}

static DSK_TARGET void DSK_NAME(cuda_tile)(const cuda_tile *tile) {
    WORD lane = {0};
    for (unsigned i = 0; i < DSK_LANES; i++) lane[i] = i;
    for (size_t at = 0; at < tile->n[0]; at += DSK_LANES) {
        /* There are fewer than 2^32 threads. */
        WORD counter[4] = {
            (WORD){0} + (uint32_t)tile->counter,
            (WORD){0} + (uint32_t)(tile->counter >> 32),
            lane + (uint32_t)(tile->first_thread + at),
            (WORD){0},
        };
        DSK_NAME(philox)(counter, tile->key[0], tile->key[1]);
        REAL sine, cosine;
        DSK_NAME(cuda_pair)(counter[0], counter[1], &sine, &cosine);
        DSK_NAME(cuda_store)(sine, tile->out[0], tile->n[0], at);
        DSK_NAME(cuda_store)(cosine, tile->out[1], tile->n[1], at);
        if (at >= tile->n[2]) continue;
        DSK_NAME(cuda_pair)(counter[2], counter[3], &sine, &cosine);
        DSK_NAME(cuda_store)(sine, tile->out[2], tile->n[2], at);
        DSK_NAME(cuda_store)(cosine, tile->out[3], tile->n[3], at);
    }
}

#undef REAL
#undef INTEGER
#undef WORD
#undef WIDE
#undef WIDE_INTEGER
#undef WIDE_WORD
#undef INLINE
