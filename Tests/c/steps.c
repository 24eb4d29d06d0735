/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Runs a fixed set of steps, thresholds, noisings and scalings and prints a checksum of the resulting bits for every instruction
 * set and number of threads. Inputs are made from integers and every conversion is exact, so a checksum depends on the arithmetic
 * alone: every processor, compiler and OpenMP runtime gives the same one. No result is NaN, since IEEE 754 leaves its bits open.
 *
 * Output, for Tests/check-c.sh:
 *
 *     runtime: <sentence>
 * threads: <the most that a call may use>
 *     isa <i> threads <n> checksum <16 hexadecimal digits>
 */
#include "../../Sources/CKernels/switches.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LARGEST 20011
#define N_ITEMS 3
#define MIXED (DSK_BFLOAT16 + 1) /* beside the element types */

static uint64_t state;

/* Knuth's multiplier (MMIX). The low bits of such a generator are weak, so only the high ones are used. */
static unsigned draw(unsigned count) {
    state = state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (unsigned)((state >> 33) % count);
}

/* A multiple of 2^-16 with at most 21 significant bits: exact in float32, while sums of its products round. */
static double number(void) { return ((double)draw(1u << 21) - (double)(1u << 20)) / 65536; }

/* FNV-1a */
static uint64_t hash(uint64_t sum, const void *data, size_t n_bytes) {
    const unsigned char *bytes = data;
    for (size_t i = 0; i < n_bytes; i++) sum = (sum ^ bytes[i]) * UINT64_C(0x100000001b3);
    return sum;
}

/* Hashes the least significant byte first, on every processor. */
static uint64_t hash_elements(uint64_t sum, dsk_element_type type, const void *elements, size_t n_elements) {
    size_t size = dsk_element_size(type);
    for (size_t i = 0; i < n_elements; i++) {
        const char *element = (const char *)elements + i * size;
        uint64_t bits = 0;
        uint32_t word;
        uint16_t half;
        switch (size) {
        case 2:
            memcpy(&half, element, size);
            bits = half;
            break;
        case 4:
            memcpy(&word, element, size);
            bits = word;
            break;
        default: memcpy(&bits, element, size); break;
        }
        unsigned char bytes[8];
        for (size_t b = 0; b < size; b++) bytes[b] = (unsigned char)(bits >> (8 * b));
        sum = hash(sum, bytes, size);
    }
    return sum;
}

/* A half made from random bits, with exponents for magnitudes from 2^-5 to 2^4. */
static uint16_t half(dsk_element_type type) {
    unsigned fraction_bits = type == DSK_FLOAT16 ? 10 : 7, bias = type == DSK_FLOAT16 ? 15 : 127;
    return (uint16_t)(draw(2) << 15 | (bias - 5 + draw(9)) << fraction_bits | draw(1u << fraction_bits));
}

static void fill(dsk_element_type type, void *elements, size_t n_elements) {
    for (size_t i = 0; i < n_elements; i++) {
        switch (type) {
        case DSK_FLOAT32: ((float *)elements)[i] = (float)number(); break;
        case DSK_FLOAT64: ((double *)elements)[i] = number(); break;
        default: ((uint16_t *)elements)[i] = half(type); break;
        }
    }
}

static void must(dsk_status status) {
    if (status == DSK_OK) return;
    fprintf(stderr, "steps: %s\n", dsk_status_message(status));
    exit(1);
}

static void *allocate(size_t n_bytes) {
    void *memory = malloc(n_bytes);
    if (!memory) {
        fprintf(stderr, "steps: out of memory\n");
        exit(1);
    }
    return memory;
}

static void random_row(dsk_row *row) {
    memset(row, 0, sizeof *row);
    for (unsigned i = 0; i < DSK_PREDICTION_INPUT_COUNT; i++)
        if (draw(4)) row->prediction[i] = number() / 3; /* not exact in float32: the rounding of scalars counts as well */
    for (unsigned k = 0; k < DSK_OUTPUT_COUNT; k++)
        for (unsigned i = 0; i < DSK_TERM_COUNT; i++)
            if (draw(3)) row->outputs[k][i] = draw(5) ? number() / 3 : 1;
    row->clamp = (dsk_clamp[]){DSK_CLAMP_NONE, DSK_CLAMP_RANGE, DSK_CLAMP_THRESHOLD}[draw(3)];
    row->clamp_range = 0.3 + draw(1000) / 1024.0;
    row->threshold_ratio = 0.8 + draw(200) / 1001.0;
    row->threshold_maximum = 1e6;
    if (row->prediction[DSK_NOISE] == 0)
        row->noise_factor =
            (dsk_noise_factor[]){DSK_NOISE_FACTOR_NONE, DSK_NOISE_FACTOR_ROOT, DSK_NOISE_FACTOR_EXPONENTIAL}[draw(3)];
    row->noise_offset = number() / 3;
    row->noise_slope = number() / 30;
}

/* The item's type, or a random one for each tensor of a mixed item. */
static dsk_element_type pick(dsk_element_type type) { return type == MIXED ? (dsk_element_type)draw(DSK_BFLOAT16 + 1) : type; }

/* A call of N_ITEMS items with their thresholds; the second output is written over the noise. */
static uint64_t run_steps(uint64_t sum, dsk_element_type type, size_t n_elements, unsigned n_threads) {
    dsk_prepared_row rows[N_ITEMS];
    dsk_item items[N_ITEMS];
    void *inputs[N_ITEMS][DSK_INPUT_COUNT], *outputs[N_ITEMS][DSK_OUTPUT_COUNT];
    memset(items, 0, sizeof items);
    for (unsigned i = 0; i < N_ITEMS; i++) {
        dsk_row row;
        random_row(&row);
        must(dsk_prepare_row(&row, &rows[i]));
        items[i].row = &rows[i];
        items[i].n_elements = n_elements;
        for (unsigned j = 0; j < DSK_INPUT_COUNT; j++) {
            items[i].input_types[j] = pick(type);
            inputs[i][j] = allocate(n_elements * dsk_element_size(items[i].input_types[j]) + 1);
            fill(items[i].input_types[j], inputs[i][j], n_elements);
            items[i].inputs[j] = inputs[i][j];
        }
        for (unsigned k = 0; k < DSK_OUTPUT_COUNT; k++) {
            items[i].output_types[k] = k == 1 ? items[i].input_types[DSK_NOISE] : pick(type);
            outputs[i][k] = allocate(n_elements * dsk_element_size(items[i].output_types[k]) + 1);
            items[i].outputs[k] = k == 1 ? inputs[i][DSK_NOISE] : outputs[i][k];
        }
    }
    for (unsigned i = 0; i < N_ITEMS; i++) items[i].workspace = allocate(dsk_threshold_workspace_size(n_elements) + 1);
    must(dsk_find_thresholds(items, N_ITEMS, n_threads));
    must(dsk_step(items, N_ITEMS, n_threads));
    for (unsigned i = 0; i < N_ITEMS; i++) {
        sum = hash_elements(sum, DSK_FLOAT64, &items[i].threshold, 1);
        for (unsigned k = 0; k < DSK_OUTPUT_COUNT; k++) {
            sum = hash_elements(sum, items[i].output_types[k], items[i].outputs[k], n_elements);
            free(outputs[i][k]);
        }
        for (unsigned j = 0; j < DSK_INPUT_COUNT; j++) free(inputs[i][j]);
        free(items[i].workspace);
    }
    return sum;
}

static uint64_t run_neighbours(uint64_t sum, dsk_element_type type, size_t n_items, size_t n_elements, unsigned n_threads) {
    size_t count = n_items * n_elements, bytes = count * dsk_element_size(type);
    void *sample = allocate(bytes + 1), *noise = allocate(bytes + 1), *out = allocate(bytes + 1);
    double *rates = allocate(2 * n_items * sizeof *rates);
    fill(type, sample, count);
    fill(type, noise, count);
    for (size_t i = 0; i < 2 * n_items; i++) rates[i] = number() / 3;
    must(dsk_add_noise(type, sample, noise, rates, rates + n_items, n_items, n_elements, out, n_threads));
    must(dsk_scale(type, out, rates[0], count, out, n_threads));
    sum = hash_elements(sum, type, out, count);
    free(sample);
    free(noise);
    free(out);
    free(rates);
    return sum;
}

static uint64_t run_all(unsigned n_threads) {
    static const size_t sizes[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 64, 1000, LARGEST};
    uint64_t sum = UINT64_C(0xcbf29ce484222325);
    state = 1;
    for (unsigned type = DSK_FLOAT32; type <= MIXED; type++) {
        for (unsigned i = 0; i < sizeof sizes / sizeof *sizes; i++)
            sum = run_steps(sum, (dsk_element_type)type, sizes[i], n_threads);
        if (type != MIXED) sum = run_neighbours(sum, (dsk_element_type)type, 20, 333, n_threads);
    }
    return sum;
}

int main(void) {
    static const unsigned thread_counts[] = {1, 2, 3, 7, 0};
    printf("runtime: %s\n", dsk_runtime_description());
    printf("threads: %u\n", dsk_default_thread_count());
    /* Small calls use threads and streaming stores, too. */
    dsk_set_limits((dsk_limits){.parallel_elements = 500, .streaming_bytes = 100000});
    for (int isa = DSK_ISA_BASELINE; isa <= DSK_ISA_AVX512; isa++) {
        if ((int)dsk_limit_isa((dsk_isa)isa) != isa) continue;
        for (unsigned i = 0; i < sizeof thread_counts / sizeof *thread_counts; i++) {
            uint64_t sum = run_all(thread_counts[i]);
            printf("isa %d threads %u checksum %016" PRIx64 "\n", isa, thread_counts[i], sum);
        }
    }
#if defined(_OPENMP)
    /* A host may call from inside its own parallel region. (One at a time: the generator is shared.) */
    uint64_t nested = 0;
#pragma omp parallel num_threads(3)
#pragma omp critical
    {
        uint64_t sum = run_all(0);
        if (nested != 0 && nested != sum) exit(1);
        nested = sum;
    }
    printf("isa %d threads 0 nested checksum %016" PRIx64 "\n", (int)dsk_limit_isa(DSK_ISA_AVX512), nested);
#endif
    return 0;
}
