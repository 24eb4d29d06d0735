/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The library neither relies on the caller's floating-point environment nor changes it: the same work under every rounding mode,
 * with subnormal numbers flushed, and with traps enabled, on one thread and on several, gives the same bits and leaves the
 * environment as it was.
 */
#include "../../Sources/CKernels/switches.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { COUNT = 40000, SMALL = 37 };

static int n_failures;

#if defined(__x86_64__)
static uint64_t control(void) {
    uint32_t value;
    __asm__ __volatile__("stmxcsr %0" : "=m"(value));
    return value & ~0x3Fu; /* not the flags */
}
static void set_control(uint64_t value) {
    const uint32_t bits = (uint32_t)value;
    __asm__ __volatile__("ldmxcsr %0" : : "m"(bits));
}
static const uint64_t plain = 0x1F80;
static const struct {
    const char *name;
    uint64_t control;
} environments[] = {
    {"rounding down", 0x1F80 | 0x2000},
    {"rounding up", 0x1F80 | 0x4000},
    {"rounding towards zero", 0x1F80 | 0x6000},
    {"flushing to zero", 0x1F80 | 0x8000},
    {"reading zeros", 0x1F80 | 0x40},
    {"all of it", 0x1F80 | 0xE040},
    {"trapping", 0}, /* every exception */
};
#elif defined(__aarch64__)
static uint64_t control(void) {
    uint64_t value;
    __asm__ __volatile__("mrs %0, fpcr" : "=r"(value));
    return value;
}
static void set_control(uint64_t value) { __asm__ __volatile__("msr fpcr, %0" : : "r"(value)); }
static const uint64_t plain = 0;
static const struct {
    const char *name;
    uint64_t control;
} environments[] = {
    {"rounding up", (uint64_t)1 << 22},      {"rounding down", (uint64_t)2 << 22},   {"rounding towards zero", (uint64_t)3 << 22},
    {"flushing to zero", (uint64_t)1 << 24}, {"one NaN for all", (uint64_t)1 << 25},
};
#else
static uint64_t control(void) { return 0; }
static void set_control(uint64_t value) { (void)value; }
static const uint64_t plain = 0;
static const struct {
    const char *name;
    uint64_t control;
} environments[] = {{"as it is", 0}};
#endif

/* Integer arithmetic only, so the inputs don't depend on the environment under test. */
static uint64_t state;
static uint64_t draw(void) { return state = state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407); }

static unsigned char inputs[4][COUNT * 8], outputs[3][COUNT * 8];
static double workspace[COUNT]; /* more than enough for thresholds */

/* Ordinary numbers, one in eight of them subnormal. */
static void fill(dsk_element_type type) {
    static const uint64_t fractions[] = {
        [DSK_FLOAT32] = 0x7FFFFF, [DSK_FLOAT64] = 0xFFFFFFFFFFFFF, [DSK_FLOAT16] = 0x3FF, [DSK_BFLOAT16] = 0x7F};
    static const uint64_t ones[] = {
        [DSK_FLOAT32] = 0x3F800000, [DSK_FLOAT64] = 0x3FF0000000000000, [DSK_FLOAT16] = 0x3C00, [DSK_BFLOAT16] = 0x3F80};
    const size_t size = dsk_element_size(type);
    state = 1;
    for (int k = 0; k < 4; k++)
        for (size_t i = 0; i < COUNT; i++) {
            uint64_t bits = draw() >> 11 & fractions[type];
            const uint64_t kind = draw() >> 60;
            if (kind >= 2) bits |= ones[type];
            if (kind & 1) bits |= (uint64_t)1 << (8 * size - 1);
            for (size_t b = 0; b < size; b++) inputs[k][i * size + b] = (unsigned char)(bits >> (8 * b));
        }
}

static uint64_t hash(uint64_t sum, const void *data, size_t n_bytes) {
    const unsigned char *bytes = data;
    for (size_t i = 0; i < n_bytes; i++) sum = (sum ^ bytes[i]) * UINT64_C(0x100000001b3);
    return sum;
}

static void require(int line, dsk_status status) {
    if (status == DSK_OK) return;
    n_failures++;
    printf("line %d: %s\n", line, dsk_status_message(status));
}
#define REQUIRE(call) require(__LINE__, call)

static uint64_t steps(dsk_element_type type, size_t count, unsigned max_threads) {
    /* Thirds are infinite in binary; the smallest numbers make subnormal products. */
    dsk_row row = {
        .prediction = {1.0 / 3, -0.7, 0, 0}, .clamp = DSK_CLAMP_THRESHOLD, .threshold_ratio = 0.99, .threshold_maximum = 100};
    dsk_prepared_row prepared;
    dsk_item item = {.row = &prepared, .n_elements = count, .workspace = workspace};
    row.outputs[0][DSK_SAMPLE] = 2.0 / 3;
    row.outputs[0][DSK_MODEL_OUTPUT] = -1.1;
    row.outputs[0][DSK_NOISE] = 0x1.8p-14;
    row.outputs[0][DSK_SLOT_1] = 1.0 / 7;
    row.outputs[1][DSK_PREDICTION] = 0.9;
    row.outputs[2][DSK_SAMPLE] = 0.5;
    REQUIRE(dsk_prepare_row(&row, &prepared));
    for (unsigned i = 0; i < DSK_INPUT_COUNT; i++) item.input_types[i] = type;
    for (unsigned k = 0; k < DSK_OUTPUT_COUNT; k++) item.output_types[k] = type, item.outputs[k] = outputs[k];
    item.inputs[DSK_SAMPLE] = inputs[0];
    item.inputs[DSK_MODEL_OUTPUT] = inputs[1];
    item.inputs[DSK_NOISE] = inputs[2];
    item.inputs[DSK_SLOT_1] = inputs[3];
    REQUIRE(dsk_find_thresholds(&item, 1, max_threads));
    REQUIRE(dsk_step(&item, 1, max_threads));
    uint64_t sum = hash(UINT64_C(0xcbf29ce484222325), &item.threshold, sizeof item.threshold);
    for (unsigned k = 0; k < DSK_OUTPUT_COUNT; k++) sum = hash(sum, outputs[k], count * dsk_element_size(type));
    dsk_moments moments;
    const void *a = inputs[0], *b = inputs[1];
    REQUIRE(dsk_find_moments(type, &a, &b, 1, count, &moments, max_threads));
    return hash(sum, &moments, sizeof moments);
}

static uint64_t noise(size_t count, unsigned max_threads) {
    static float singles[COUNT];
    static double doubles[COUNT];
    dsk_normal_generator generator;
    dsk_torch_cuda_generator cuda = {.seed = 7, .max_blocks = 640};
    dsk_normal_generator_seed(&generator, 42);
    uint64_t sum = 0;
    REQUIRE(dsk_torch_normal_float32(&generator, count, singles, max_threads));
    sum = hash(sum, singles, count * sizeof *singles);
    REQUIRE(dsk_torch_normal_float64(&generator, count, doubles, max_threads));
    sum = hash(sum, doubles, count * sizeof *doubles);
    REQUIRE(dsk_torch_normal_float32(&generator, 7, singles, max_threads));
    sum = hash(sum, singles, 7 * sizeof *singles);
    REQUIRE(dsk_numpy_normal_float64(&generator, count, doubles));
    sum = hash(sum, doubles, count * sizeof *doubles);
    REQUIRE(dsk_numpy_normal_float32(&generator, count, singles));
    sum = hash(sum, singles, count * sizeof *singles);
    REQUIRE(dsk_torch_cuda_normal_float32(&cuda, count, singles, max_threads));
    return hash(sum, singles, count * sizeof *singles);
}

static uint64_t everything(unsigned max_threads) {
    uint64_t sum = 0;
    for (int type = DSK_FLOAT32; type <= DSK_BFLOAT16; type++) {
        fill((dsk_element_type)type);
        sum = sum * 31 + steps((dsk_element_type)type, COUNT, max_threads);
        sum = sum * 31 + steps((dsk_element_type)type, SMALL, max_threads);
    }
    return (sum * 31 + noise(COUNT, max_threads)) * 31 + noise(SMALL, max_threads);
}

int main(void) {
    static const unsigned threads[] = {1, 2, 3, 7};
    dsk_set_limits((dsk_limits){.parallel_elements = 1000, .streaming_bytes = (size_t)1 << 40});
    int n_runs = 0;
    for (int isa = DSK_ISA_BASELINE; isa <= DSK_ISA_AVX512; isa++) {
        if ((int)dsk_limit_isa((dsk_isa)isa) != isa) continue;
        const uint64_t expected = everything(1);
        for (size_t e = 0; e < sizeof environments / sizeof *environments; e++)
            for (size_t t = 0; t < sizeof threads / sizeof *threads; t++) {
                set_control(environments[e].control);
                const uint64_t wanted = control(); /* a processor may lack some bits */
                const uint64_t sum = everything(threads[t]);
                const uint64_t found = control();
                set_control(plain);
                n_runs++;
                if (found != wanted) {
                    n_failures++;
                    printf("%s: the environment was 0x%" PRIx64 " and is 0x%" PRIx64 "\n", environments[e].name, wanted, found);
                }
                if (sum != expected) {
                    n_failures++;
                    printf("%s, isa %d, %u threads: other bits\n", environments[e].name, isa, threads[t]);
                }
            }
    }
    printf("%d runs, %d failures\n", n_runs, n_failures);
    return n_failures == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
