/* SPDX-License-Identifier: Apache-2.0 */

/* What the files of CKernels share with each other and with nobody else. */
#ifndef DSK_INTERNAL_H
#define DSK_INTERNAL_H

/*
 * No file of the library lets the compiler fuse a product and a sum, unless it says that it does: fused, they are rounded once
 * instead of twice, and then the bits would depend on the processor. (GCC has no such pragma; its attribute stands for it.)
 */
#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#elif defined(__GNUC__)
#pragma GCC optimize("fp-contract=off")
#endif

#include "include/CKernels.h"

#include <stdbool.h>

/* Symbols that other files of the library need but its users don't. */
#if defined(__GNUC__)
#define DSK_HIDDEN __attribute__((visibility("hidden")))
#else
#define DSK_HIDDEN
#endif

/* Reading and writing elements as integers, whatever their type. */
typedef uint16_t __attribute__((may_alias)) dsk_loose_uint16;
typedef uint32_t __attribute__((may_alias)) dsk_loose_uint32;
typedef uint64_t __attribute__((may_alias)) dsk_loose_uint64;

/* One combination with its absent terms squeezed out: what the inner loop walks. */
typedef struct dsk_combination {
    const void *tensors[DSK_INPUT_COUNT];
    uint8_t types[DSK_INPUT_COUNT]; /* dsk_element_type */
    double coefficients[DSK_INPUT_COUNT];
    unsigned n_terms;
    double prediction; /* the coefficient of p; 0: absent */
} dsk_combination;

/*
 * The variants of the inner loops: one for each element type that all tensors of an item may share, numbered as the types are,
 * and three for mixed types, named after the widest.
 */
typedef enum dsk_kernel_kind {
    DSK_KERNEL_HALF = 4,  /* float16 and bfloat16 */
    DSK_KERNEL_SHORT = 5, /* float32 with those */
    DSK_KERNEL_WIDE = 6,  /* float64 with whatever */
    DSK_KERNEL_COUNT = 7,
} dsk_kernel_kind;

/* An item made ready for the inner loop. */
typedef struct dsk_program {
    dsk_combination prediction;
    dsk_combination outputs[DSK_OUTPUT_COUNT];
    void *destinations[DSK_OUTPUT_COUNT];
    uint8_t destination_types[DSK_OUTPUT_COUNT];
    bool streaming[DSK_OUTPUT_COUNT]; /* bypass the caches: large, and not also an input */
    unsigned n_outputs;
    bool uses_prediction;
    dsk_clamp clamp;
    double clamp_range; /* r, or s */
    bool is_wide;       /* p is float64 */
    dsk_kernel_kind kind;
} dsk_program;

/* What a pass of a selection counts among the keys of |p| (see threshold.c). */
typedef struct dsk_sieve {
    int64_t low, high;   /* the fences: -1 <= low <= high, 0 <= high */
    size_t n_below_low;  /* key < low */
    size_t n_to_low;     /* key <= low */
    size_t n_below_high; /* key < high */
    size_t n_to_high;    /* key <= high */
    bool has_nan;
} dsk_sieve;

/* What is sifted at a time, with its keys on the stack. */
enum { DSK_SIEVE_ELEMENTS = 2048 };

/*
 * The inner loops for one kind and one instruction set.
 *
 * step  writes the elements [begin, end) of an item's outputs
 * sift  adds to the counts for the elements [begin, end), at most DSK_SIEVE_ELEMENTS of them, and stores the keys between the
 *       fences; returns how many these are. `between` needs room for end - begin keys.
 * pick  stores the keys of |p| at n positions
 */
typedef struct dsk_kernels {
    void (*step)(const dsk_program *program, size_t begin, size_t end);
    size_t (*sift)(const dsk_program *program, size_t begin, size_t end, dsk_sieve *sieve, uint64_t *between);
    void (*pick)(const dsk_program *program, const size_t *positions, size_t n, uint64_t *keys);
} dsk_kernels;

/* The instruction set in force: the best that the processor and dsk_limit_isa allow. */
DSK_HIDDEN dsk_isa dsk_chosen_isa(void);

/* The kernels of a kind for the instruction set in force. */
DSK_HIDDEN const dsk_kernels *dsk_kernels_for(dsk_kernel_kind kind);

/*
 * Runs body(context, i) once for every i in [0, n_chunks), on at most max_threads threads (0: the runtime's default), and
 * returns when all are done. Each thread begins with consecutive chunks, the same ones in every call with as many, and then takes what
 * others have left: so data stays in the cache of the core that made it, and a thread that arrives late costs nothing. What a chunk
 * computes must not depend on who runs it.
 */
typedef void (*dsk_chunk_body)(void *context, size_t chunk);
DSK_HIDDEN void dsk_parallel(size_t n_chunks, unsigned max_threads, dsk_chunk_body body, void *context);

/* The number of threads dsk_parallel would use at most. */
DSK_HIDDEN unsigned dsk_thread_count(unsigned max_threads);

/* Checks a call's items for their thresholds, as the header promises. */
DSK_HIDDEN dsk_status dsk_check_thresholds(const dsk_item *items, size_t n_items);

/* Makes the prediction of a checked item ready. */
DSK_HIDDEN void dsk_prepare_thresholds(dsk_program *program, const dsk_item *item);

#endif
