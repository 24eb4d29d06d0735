/* SPDX-License-Identifier: Apache-2.0 */

/*
 * CBareLoop: the reference loops for a fused step, and the instruments of the measurement.
 *
 * A scheduler's step reads a few tensors and writes one to three. It can't be faster than a loop that moves as many bytes and
 * hardly computes; the benchmarks print how close it comes.
 */
#ifndef CBARELOOP_H
#define CBARELOOP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { BARE_MOST_INPUTS = 6, BARE_MOST_OUTPUTS = 3 };

/*
 * One pass over memory: output k is the sum of the inputs j with j mod n_outputs = k or, if there are fewer inputs than outputs, a
 * copy of input k mod n_inputs. Four inputs and two outputs: one addition for each output. One and one: a copy.
 *
 * inputs, outputs  n_floats each, aligned to 64 bytes. An output may be an input (in place), as in a step.
 * n_floats         The loop moves bytes, so tensors of every element type are float32 here.
 * streaming        The stores bypass the caches.
 */
typedef struct bare_streams {
    const float *inputs[BARE_MOST_INPUTS];
    float *outputs[BARE_MOST_OUTPUTS];
    unsigned n_inputs, n_outputs;
    size_t n_floats;
    bool streaming;
} bare_streams;

/*
 * bare_run makes the pass on n_threads threads of the library's OpenMP runtime: the same pool, and the same share of the elements
 * for each thread.
 */
void bare_run(const bare_streams *streams, unsigned n_threads);

/* Element types of a row's tensors. */
typedef enum hand_type { HAND_FLOAT32, HAND_FLOAT16, HAND_BFLOAT16 } hand_type;

enum { HAND_MOST_INPUTS = 6, HAND_MOST_OUTPUTS = 3 };

/* Members of an output's set besides the inputs' bits: the prediction, and a mark for outputs that copy their input. */
enum { HAND_READS_PREDICTION = 1 << 6, HAND_COPIES = 1 << 7 };

/*
 * A row of a plan: output k is the sum of coefficients[k][j] * input j over the inputs in its set reads[k], plus, if it reads the
 * prediction, coefficients[k][HAND_MOST_INPUTS] * p with p = clamp(prediction[0] * input 0 + prediction[1] * input 1).
 *
 * inputs, outputs  n_elements of the type each; an output may be an input
 * n_elements       a multiple of 64
 */
typedef struct hand_row {
    hand_type type;
    unsigned n_inputs, reads[HAND_MOST_OUTPUTS];
    const void *inputs[HAND_MOST_INPUTS];
    void *outputs[HAND_MOST_OUTPUTS];
    double coefficients[HAND_MOST_OUTPUTS][HAND_MOST_INPUTS + 1], prediction[2], range;
    size_t n_elements;
} hand_row;

/* Whether a loop has been written for rows with these sets. */
bool hand_has_loop(const hand_row *row);

/* hand_run executes a row in its loop, with the library's sums: in float64 for float32 elements, in float32 for half types. */
void hand_run(const hand_row *row, unsigned n_threads);

/*
 * Guidance in engines without fusion, one pass after the other:
 *
 *     guided = conditional - unconditional;  guided *= scale;  guided += unconditional
 *
 * and if rescale isn't 0, a pass that measures the standard deviations of guided and conditional, and one more:
 *
 *     guided *= rescale * deviation(conditional) / deviation(guided) + 1 - rescale
 *
 * conditional, unconditional, guided  n_elements float32 each, all different tensors
 */
typedef struct bare_guidance {
    const float *conditional, *unconditional;
    float *guided;
    size_t n_elements;
    float scale, rescale;
    float factor; /* bare_guide's own */
} bare_guidance;

/* bare_guide makes the passes, each on n_threads threads like bare_run. */
void bare_guide(bare_guidance *guidance, unsigned n_threads);

/* Whether bare_run has found the library's runtime; otherwise all work stays on the caller's thread. */
bool bare_has_threads(void);

/*
 * bare_compute keeps the arithmetic units of n_threads threads busy, with equal work each and without a result. n threads with a
 * core each take as long as one thread; n threads on one core (two hardware threads, or two processors of a virtual machine that
 * its host puts there) take n times as long.
 */
void bare_compute(size_t n_rounds, unsigned n_threads);

/* The instruction set of the loops: "AVX-512", "AVX2" or "baseline". */
const char *bare_isa(void);

/* The compiler of the C code. */
const char *bare_compiler(void);

/*
 * The number of allocations (malloc, calloc, realloc, posix_memalign, aligned_alloc, memalign) that the process has made so far, on
 * all threads; -1 if they can't be counted (C libraries other than glibc).
 */
int64_t bare_allocation_count(void);

#endif
