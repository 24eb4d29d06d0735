/* SPDX-License-Identifier: Apache-2.0 */

/* Private declarations that the files of CKernels share. */
#ifndef DSK_INTERNAL_H
#define DSK_INTERNAL_H

/*
 * The compiler may not fuse a product and a sum, except in files that allow it explicitly. A fused pair is rounded once instead of
 * twice, so the bits would depend on the processor. (GCC lacks this pragma and uses an option instead.)
 */
#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#elif defined(__GNUC__)
#pragma GCC optimize("fp-contract=off")
#endif

#include "include/CKernels.h"

#include <stdbool.h>

/* Marks symbols that are private to the library. */
#if defined(__GNUC__)
#define DSK_HIDDEN __attribute__((visibility("hidden")))
#else
#define DSK_HIDDEN
#endif

/* Integers for reading and writing elements of any type. */
typedef uint16_t __attribute__((may_alias)) dsk_loose_uint16;
typedef uint32_t __attribute__((may_alias)) dsk_loose_uint32;
typedef uint64_t __attribute__((may_alias)) dsk_loose_uint64;

/* One combination without its absent terms, as the inner loop reads it. */
typedef struct dsk_combination {
    const void *tensors[DSK_INPUT_COUNT];
    uint8_t types[DSK_INPUT_COUNT]; /* dsk_element_type */
    double coefficients[DSK_INPUT_COUNT];
    unsigned n_terms;
    double prediction; /* the coefficient of p; 0: absent */
} dsk_combination;

/*
 * The variants of the inner loops: one for each element type that all tensors of an item share, numbered like the types, and three
 * for mixed types, named after the widest.
 */
typedef enum dsk_kernel_kind {
    DSK_KERNEL_HALF = 4,  /* float16 and bfloat16 */
    DSK_KERNEL_SHORT = 5, /* float32 with half types */
    DSK_KERNEL_WIDE = 6,  /* float64 with any type */
    DSK_KERNEL_COUNT = 7,
} dsk_kernel_kind;

/* An item prepared for the inner loop. */
typedef struct dsk_program {
    dsk_combination prediction;
    dsk_combination outputs[DSK_OUTPUT_COUNT];
    void *destinations[DSK_OUTPUT_COUNT];
    uint8_t destination_types[DSK_OUTPUT_COUNT];
    bool streaming[DSK_OUTPUT_COUNT]; /* bypasses the caches: the output is large and not also an input */
    unsigned n_outputs;
    bool uses_prediction;
    dsk_clamp clamp;
    double clamp_range; /* r, or s */
    bool is_wide;       /* p is float64 */
    dsk_kernel_kind kind;
} dsk_program;

/* The counts of one selection pass over the keys of |p| (see threshold.c). */
typedef struct dsk_sieve {
    int64_t low, high;   /* the fences: -1 <= low <= high, 0 <= high */
    size_t n_below_low;  /* key < low */
    size_t n_to_low;     /* key <= low */
    size_t n_below_high; /* key < high */
    size_t n_to_high;    /* key <= high */
    bool has_nan;
} dsk_sieve;

/* The most elements sifted at a time; their keys are on the stack. */
enum { DSK_SIEVE_ELEMENTS = 2048 };

/*
 * The inner loops for one kind and one instruction set.
 *
 * step  writes the elements [begin, end) of an item's outputs
 * sift  adds to the counts for the elements [begin, end), at most DSK_SIEVE_ELEMENTS of them, and stores the keys between the
 *       fences; returns the number of stored keys. `between` needs room for end - begin keys.
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
 * returns when all are done. Each thread begins with consecutive chunks, the same ones in every call with the same number of
 * chunks, then steals chunks that others haven't started. Data thus stays in the cache of the core that wrote it, and a thread that
 * arrives late costs nothing. A chunk's result must not depend on its thread.
 */
typedef void (*dsk_chunk_body)(void *context, size_t chunk);
DSK_HIDDEN void dsk_parallel(size_t n_chunks, unsigned max_threads, dsk_chunk_body body, void *context);

/* The most threads that dsk_parallel would use. */
DSK_HIDDEN unsigned dsk_thread_count(unsigned max_threads);

/* Prepares a row whose clamp is within its documented range. */
DSK_HIDDEN void dsk_prepare_valid_row(const dsk_row *row, dsk_prepared_row *prepared);

/* Makes dsk_find_thresholds' checks of a call's items. */
DSK_HIDDEN dsk_status dsk_check_thresholds(const dsk_item *items, size_t n_items);

/* Prepares the prediction of a checked item. */
DSK_HIDDEN void dsk_prepare_thresholds(dsk_program *program, const dsk_item *item);

#endif
