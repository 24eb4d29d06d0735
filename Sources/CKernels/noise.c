/* SPDX-License-Identifier: Apache-2.0 */

/* Normal sources that match torch and NumPy for the same seeds. */

/* All functions with arguments wider than a register are inlined, so their calling convention doesn't matter. */
#if defined(__GNUC__)
#pragma GCC diagnostic ignored "-Wpsabi"
#endif

#include "internal.h"

#include <math.h>
#include <stdatomic.h>
#include <string.h>

/* A caller's float array holds the 32-bit draws before it holds the normals made from them. */
typedef uint32_t __attribute__((may_alias)) loose_word;

/* MARK: Shared by the instruction sets */

static inline uint32_t mix_words(uint32_t upper, uint32_t lower) {
    uint32_t mixed = (upper & 0x80000000u) | (lower & 0x7fffffffu);
    return (mixed >> 1) ^ ((0u - (lower & 1u)) & 0x9908b0dfu);
}

static inline uint32_t temper_word(uint32_t word) {
    word ^= word >> 11;
    word ^= (word << 7) & 0x9d2c5680u;
    word ^= (word << 15) & 0xefc60000u;
    return word ^ (word >> 18);
}

/* P of Cephes' logf, the highest power first. */
static const float log_coefficients[9] = {
    7.0376836292e-2f,  -1.1514610310e-1f, 1.1676998740e-1f,  -1.2420140846e-1f, 1.4249322787e-1f,
    -1.6668057665e-1f, 2.0000714765e-1f,  -2.4999993993e-1f, 3.3333331174e-1f,
};

/* 1/21 ... 1/3 of artanh; -+1/n! of the sine and the cosine; the highest power first. */
static const double artanh_coefficients[10] = {
    1.0 / 21, 1.0 / 19, 1.0 / 17, 1.0 / 15, 1.0 / 13, 1.0 / 11, 1.0 / 9, 1.0 / 7, 1.0 / 5, 1.0 / 3,
};
static const double sine_coefficients[7] = {
    -1.0 / 1307674368000.0, 1.0 / 6227020800.0, -1.0 / 39916800.0, 1.0 / 362880.0, -1.0 / 5040.0, 1.0 / 120.0, -1.0 / 6.0,
};
static const double cosine_coefficients[7] = {
    -1.0 / 87178291200.0, 1.0 / 479001600.0, -1.0 / 3628800.0, 1.0 / 40320.0, -1.0 / 720.0, 1.0 / 24.0, -1.0 / 2.0,
};

/* Salmon et al. 2011, table 2 and section 3.3. */
#define PHILOX_MULTIPLIER_0 UINT32_C(0xd2511f53)
#define PHILOX_MULTIPLIER_1 UINT32_C(0xcd9e8d57)
#define PHILOX_WEYL_0 UINT32_C(0x9e3779b9) /* the golden ratio */
#define PHILOX_WEYL_1 UINT32_C(0xbb67ae85) /* sqrt(3) - 1 */

/* Consecutive threads of one launch of torch's kernel at one value of their counters: each makes up to four normals. */
typedef struct cuda_tile {
    uint32_t key[2];
    uint64_t counter;
    size_t first_thread;
    float *out[4]; /* the first thread's normals; the other threads' follow */
    size_t n[4];   /* the number of threads that make this normal; never more than for the one before */
} cuda_tile;

/* MARK: One variant for each instruction set */

#define DSK_JOIN_(a, b) a##_##b
#define DSK_JOIN(a, b) DSK_JOIN_(a, b)

#define DSK_LANES 8
#if defined(__FMA__) || defined(__ARM_FEATURE_FMA)
#define DSK_FUSED 1
#else
#define DSK_FUSED 0
#endif
#define DSK_TARGET
#define DSK_NAME(name) DSK_JOIN(name, baseline)
#include "noise_template.h"
#undef DSK_LANES
#undef DSK_FUSED
#undef DSK_TARGET
#undef DSK_NAME

#if defined(__x86_64__)

#define DSK_LANES 8
#define DSK_FUSED 1
#define DSK_TARGET __attribute__((target("avx2,fma")))
#define DSK_NAME(name) DSK_JOIN(name, avx2)
#include "noise_template.h"
#undef DSK_LANES
#undef DSK_FUSED
#undef DSK_TARGET
#undef DSK_NAME

#define DSK_LANES 16
#define DSK_FUSED 1
#define DSK_TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl")))
#define DSK_NAME(name) DSK_JOIN(name, avx512)
#include "noise_template.h"
#undef DSK_LANES
#undef DSK_FUSED
#undef DSK_TARGET
#undef DSK_NAME

#endif

typedef struct noise_kernels {
    void (*twist)(uint32_t *words);
    void (*temper)(const uint32_t *words, size_t n, loose_word *out);
    void (*torch_blocks)(loose_word *draws, size_t n_blocks);
    void (*cuda_tile)(const cuda_tile *tile);
} noise_kernels;

#define DSK_VARIANT(isa) {twist_##isa, temper_##isa, torch_blocks_##isa, cuda_tile_##isa}

#if defined(__x86_64__)

static const noise_kernels variants[] = {
    [DSK_ISA_BASELINE] = DSK_VARIANT(baseline),
    [DSK_ISA_AVX2] = DSK_VARIANT(avx2),
    [DSK_ISA_AVX512] = DSK_VARIANT(avx512),
};

#else

static const noise_kernels variants[] = {DSK_VARIANT(baseline)};

#endif

static const noise_kernels *kernels_in_force(void) { return &variants[dsk_chosen_isa()]; }

/* MARK: MT19937 */

void dsk_mt19937_seed(dsk_mt19937 *generator, uint32_t seed) {
    uint32_t *words = generator->words;
    words[0] = seed;
    for (uint32_t k = 1; k < DSK_MT19937_WORD_COUNT; k++) words[k] = 1812433253u * (words[k - 1] ^ (words[k - 1] >> 30)) + k;
    generator->next = DSK_MT19937_WORD_COUNT;
}

static void draw_words(const noise_kernels *kernels, dsk_mt19937 *generator, size_t n, loose_word *out) {
    while (n > 0) {
        if (generator->next >= DSK_MT19937_WORD_COUNT) {
            kernels->twist(generator->words);
            generator->next = 0;
        }
        size_t left = DSK_MT19937_WORD_COUNT - generator->next;
        size_t count = n < left ? n : left;
        kernels->temper(generator->words + generator->next, count, out);
        generator->next += (uint32_t)count;
        out += count;
        n -= count;
    }
}

static uint32_t next_word(const noise_kernels *kernels, dsk_mt19937 *generator) {
    if (generator->next >= DSK_MT19937_WORD_COUNT) {
        kernels->twist(generator->words);
        generator->next = 0;
    }
    return temper_word(generator->words[generator->next++]);
}

uint32_t dsk_mt19937_next(dsk_mt19937 *generator) { return next_word(kernels_in_force(), generator); }

void dsk_normal_generator_seed(dsk_normal_generator *generator, uint32_t seed) {
    dsk_mt19937_seed(&generator->words, seed);
    generator->spare = 0;
    generator->has_spare = 0;
}

/* Checks an output of n elements. */
static dsk_status check_output(const void *state, size_t n, const void *out, size_t element_size) {
    if (!state || (n > 0 && !out)) return DSK_NULL_POINTER;
    if (n > SIZE_MAX / element_size) return DSK_TOO_LARGE;
    return (uintptr_t)out % element_size == 0 ? DSK_OK : DSK_MISALIGNED;
}

/* MARK: torch on the CPU */

enum {
    TORCH_BLOCK = 16,   /* elements transformed together */
    CHUNK_BLOCKS = 512, /* blocks per chunk: about 10 microseconds */
    CHUNK_ELEMENTS = CHUNK_BLOCKS * TORCH_BLOCK,
};

/* A uniform in [0, 1), a multiple of 2^-53, from two draws. */
static double torch_uniform(uint32_t high, uint32_t low) {
    return (double)(((uint64_t)high << 32 | low) & ((UINT64_C(1) << 53) - 1)) * 0x1p-53;
}

/* The next of fewer than 16 normals: Box & Muller 1958, one pair at a time, the sine kept for the next call. */
static double torch_single(const noise_kernels *kernels, dsk_normal_generator *generator) {
    if (generator->has_spare) {
        double spare = generator->spare;
        generator->has_spare = 0;
        generator->spare = 0;
        return spare + 0.0;
    }
    uint32_t draws[4];
    for (unsigned i = 0; i < 4; i++) draws[i] = next_word(kernels, &generator->words);
    double radius = sqrt(-2.0 * log1p(-torch_uniform(draws[2], draws[3])));
    double theta = 0x1.921fb54442d18p+2 * torch_uniform(draws[0], draws[1]); /* 2 pi */
    generator->spare = radius * sin(theta);
    generator->has_spare = 1;
    return radius * cos(theta) + 0.0;
}

/* One block of float64: eight pairs of uniforms, from the draws of sixteen. */
static void torch_block_float64(double *values) {
    uint32_t draws[2 * TORCH_BLOCK];
    memcpy(draws, values, sizeof draws);
    for (unsigned i = 0; i < TORCH_BLOCK / 2; i++) {
        const uint32_t *second = draws + TORCH_BLOCK;
        double radius = sqrt(-2.0 * log(1.0 - torch_uniform(draws[2 * i], draws[2 * i + 1])));
        double theta = 0x1.921fb54442d18p+2 * torch_uniform(second[2 * i], second[2 * i + 1]);
        values[i] = radius * cos(theta) + 0.0;
        values[i + TORCH_BLOCK / 2] = radius * sin(theta) + 0.0;
    }
}

typedef struct torch_work {
    const noise_kernels *kernels;
    void *values;
    size_t n_blocks;
} torch_work;

static size_t blocks_of_chunk(const torch_work *work, size_t chunk) {
    size_t left = work->n_blocks - chunk * CHUNK_BLOCKS;
    return left < CHUNK_BLOCKS ? left : CHUNK_BLOCKS;
}

static void torch_chunk_float32(void *context, size_t chunk) {
    const torch_work *work = context;
    work->kernels->torch_blocks((loose_word *)work->values + chunk * CHUNK_ELEMENTS, blocks_of_chunk(work, chunk));
}

static void torch_chunk_float64(void *context, size_t chunk) {
    const torch_work *work = context;
    double *values = (double *)work->values + chunk * CHUNK_ELEMENTS;
    for (size_t block = 0; block < blocks_of_chunk(work, chunk); block++) torch_block_float64(values + block * TORCH_BLOCK);
}

dsk_status dsk_torch_normal_float32(dsk_normal_generator *generator, size_t n, float *out, unsigned max_threads) {
    dsk_status status = check_output(generator, n, out, sizeof *out);
    if (status != DSK_OK) return status;
    const noise_kernels *kernels = kernels_in_force();
    if (n < TORCH_BLOCK) {
        const dsk_environment host = dsk_begin_default_environment();
        for (size_t i = 0; i < n; i++) out[i] = (float)torch_single(kernels, generator);
        dsk_end_default_environment(host);
        return DSK_OK;
    }
    draw_words(kernels, &generator->words, n, (loose_word *)out);
    torch_work work = {kernels, out, n / TORCH_BLOCK};
    dsk_parallel((work.n_blocks + CHUNK_BLOCKS - 1) / CHUNK_BLOCKS, max_threads, torch_chunk_float32, &work);
    if (n % TORCH_BLOCK != 0) {
        loose_word tail[TORCH_BLOCK];
        draw_words(kernels, &generator->words, TORCH_BLOCK, tail);
        const dsk_environment host = dsk_begin_default_environment();
        kernels->torch_blocks(tail, 1);
        dsk_end_default_environment(host);
        memcpy(out + n - TORCH_BLOCK, tail, sizeof tail);
    }
    return DSK_OK;
}

dsk_status dsk_torch_normal_float64(dsk_normal_generator *generator, size_t n, double *out, unsigned max_threads) {
    dsk_status status = check_output(generator, n, out, sizeof *out);
    if (status != DSK_OK) return status;
    const noise_kernels *kernels = kernels_in_force();
    if (n < TORCH_BLOCK) {
        const dsk_environment host = dsk_begin_default_environment();
        for (size_t i = 0; i < n; i++) out[i] = torch_single(kernels, generator);
        dsk_end_default_environment(host);
        return DSK_OK;
    }
    draw_words(kernels, &generator->words, 2 * n, (loose_word *)out);
    torch_work work = {kernels, out, n / TORCH_BLOCK};
    dsk_parallel((work.n_blocks + CHUNK_BLOCKS - 1) / CHUNK_BLOCKS, max_threads, torch_chunk_float64, &work);
    if (n % TORCH_BLOCK != 0) {
        double *tail = out + n - TORCH_BLOCK;
        draw_words(kernels, &generator->words, 2 * TORCH_BLOCK, (loose_word *)tail);
        const dsk_environment host = dsk_begin_default_environment();
        torch_block_float64(tail);
        dsk_end_default_environment(host);
    }
    return DSK_OK;
}

/* MARK: NumPy */

/* A uniform in [0, 1), a multiple of 2^-53, from 27 bits of one draw and 26 of the next. */
static double numpy_uniform(const noise_kernels *kernels, dsk_mt19937 *generator) {
    uint32_t high = next_word(kernels, generator) >> 5;
    uint32_t low = next_word(kernels, generator) >> 6;
    return (high * 0x1p26 + low) * 0x1p-53;
}

/* Marsaglia & Bray 1964: the polar form of Box and Muller's transform, the first coordinate kept for the next call. */
static double numpy_single(const noise_kernels *kernels, dsk_normal_generator *generator) {
    if (generator->has_spare) {
        double spare = generator->spare;
        generator->has_spare = 0;
        generator->spare = 0;
        return spare;
    }
    double first, second, square;
    do {
        first = 2.0 * numpy_uniform(kernels, &generator->words) - 1.0;
        second = 2.0 * numpy_uniform(kernels, &generator->words) - 1.0;
        square = first * first + second * second;
    } while (square >= 1.0 || square == 0.0);
    double factor = sqrt(-2.0 * log(square) / square);
    generator->spare = factor * first;
    generator->has_spare = 1;
    return factor * second;
}

dsk_status dsk_numpy_normal_float32(dsk_normal_generator *generator, size_t n, float *out) {
    dsk_status status = check_output(generator, n, out, sizeof *out);
    if (status != DSK_OK) return status;
    const noise_kernels *kernels = kernels_in_force();
    const dsk_environment host = dsk_begin_default_environment();
    for (size_t i = 0; i < n; i++) out[i] = (float)numpy_single(kernels, generator);
    dsk_end_default_environment(host);
    return DSK_OK;
}

dsk_status dsk_numpy_normal_float64(dsk_normal_generator *generator, size_t n, double *out) {
    dsk_status status = check_output(generator, n, out, sizeof *out);
    if (status != DSK_OK) return status;
    const noise_kernels *kernels = kernels_in_force();
    const dsk_environment host = dsk_begin_default_environment();
    for (size_t i = 0; i < n; i++) out[i] = numpy_single(kernels, generator);
    dsk_end_default_environment(host);
    return DSK_OK;
}

/* MARK: torch on CUDA */

void dsk_philox4x32_10(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4]) {
    uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3], key0 = key[0], key1 = key[1];
    for (unsigned round = 0; round < 10; round++) {
        uint64_t even = (uint64_t)PHILOX_MULTIPLIER_0 * c0, odd = (uint64_t)PHILOX_MULTIPLIER_1 * c2;
        c0 = (uint32_t)(odd >> 32) ^ c1 ^ key0;
        c1 = (uint32_t)odd;
        c2 = (uint32_t)(even >> 32) ^ c3 ^ key1;
        c3 = (uint32_t)even;
        key0 += PHILOX_WEYL_0;
        key1 += PHILOX_WEYL_1;
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}

enum {
    CUDA_BLOCK = 256, /* threads per block */
    CUDA_TILE = 4096, /* device threads per chunk */
};

typedef struct cuda_work {
    const noise_kernels *kernels;
    uint64_t seed;
    uint64_t first_counter;
    size_t n_threads;
    size_t n_tiles_per_round; /* a round is one counter of every thread: up to 4 n_threads elements */
    size_t n;
    float *out;
} cuda_work;

static void cuda_chunk(void *context, size_t chunk) {
    const cuda_work *work = context;
    size_t round = chunk / work->n_tiles_per_round;
    size_t first_thread = chunk % work->n_tiles_per_round * CUDA_TILE;
    size_t left = work->n_threads - first_thread;
    size_t n_threads = left < CUDA_TILE ? left : CUDA_TILE;
    cuda_tile tile = {
        .key = {(uint32_t)work->seed, (uint32_t)(work->seed >> 32)},
        .counter = work->first_counter + round,
        .first_thread = first_thread,
    };
    for (unsigned k = 0; k < 4; k++) {
        size_t at = (4 * round + k) * work->n_threads + first_thread;
        if (at >= work->n) break;
        tile.out[k] = work->out + at;
        tile.n[k] = work->n - at < n_threads ? work->n - at : n_threads;
    }
    work->kernels->cuda_tile(&tile);
}

dsk_status dsk_torch_cuda_normal_float32(dsk_torch_cuda_generator *generator, size_t n, float *out, unsigned max_threads) {
    dsk_status status = check_output(generator, n, out, sizeof *out);
    if (status != DSK_OK) return status;
    if (generator->max_blocks == 0 || generator->offset % 4 != 0) return DSK_OUT_OF_RANGE;
    if (n > DSK_TORCH_CUDA_MAX_ELEMENTS) return DSK_TOO_LARGE;
    if (n == 0) return DSK_OK;

    size_t n_blocks = (n + CUDA_BLOCK - 1) / CUDA_BLOCK;
    if (n_blocks > generator->max_blocks) n_blocks = generator->max_blocks;
    size_t n_threads = n_blocks * CUDA_BLOCK;
    size_t n_rounds = (n - 1) / (4 * n_threads) + 1;
    cuda_work work = {
        .kernels = kernels_in_force(),
        .seed = generator->seed,
        .first_counter = generator->offset / 4,
        .n_threads = n_threads,
        .n_tiles_per_round = (n_threads + CUDA_TILE - 1) / CUDA_TILE,
        .n = n,
        .out = out,
    };
    dsk_parallel(n_rounds * work.n_tiles_per_round, max_threads, cuda_chunk, &work);
    generator->offset += 4 * (uint64_t)n_rounds;
    return DSK_OK;
}
