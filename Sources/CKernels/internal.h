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

#include "switches.h"

#include <stdbool.h>

/* Marks symbols that are private to the library. */
#if defined(__GNUC__)
#define DSK_HIDDEN __attribute__((visibility("hidden")))
#else
#define DSK_HIDDEN
#endif

/* 1 if the compiler has a root and a fused product and sum that set no errno, for vectors too. */
#if defined(__has_builtin)
#if __has_builtin(__builtin_elementwise_fma) && __has_builtin(__builtin_elementwise_sqrt)
#define DSK_HAS_ELEMENTWISE 1
#endif
#endif
#if !defined(DSK_HAS_ELEMENTWISE)
#define DSK_HAS_ELEMENTWISE 0
#endif

/* Elements of a caller's tensor, which may have another type for the caller. */
typedef uint16_t __attribute__((may_alias)) dsk_loose_uint16;
typedef float __attribute__((may_alias)) dsk_loose_float;
typedef double __attribute__((may_alias)) dsk_loose_double;

/*
 * The kinds of inner loops. Kinds 0 to 3, numbered like the element types, run items whose tensors all have that type. Kinds 0 and
 * 1, float32 and float64, also run items whose widest type it is. DSK_KERNEL_HALVES runs items of both half types.
 */
typedef enum dsk_kernel_kind {
    DSK_KERNEL_HALVES = 4,
    DSK_KERNEL_COUNT = 5,
} dsk_kernel_kind;

/* The greatest number of inputs that a loop of DSK_LOOPS reads. */
enum { DSK_LOOP_INPUTS = 6 };

/* The bits of all inputs, in a set of terms. */
#define DSK_ALL_INPUTS ((1u << DSK_INPUT_COUNT) - 1)

/* An item in the form that the loops run. */
typedef struct dsk_program {
    const dsk_item *item;
    const dsk_form *form;
    dsk_kernel_kind kind;
    bool has_other_types;             /* a tensor has another type than the kind's */
    bool streams;                     /* whether any output bypasses the caches */
    bool streaming[DSK_OUTPUT_COUNT]; /* by the form's outputs: set if the output is large and not also an input */
    double range;                     /* r or s; infinite if p isn't clamped */
    bool divides;                     /* by s, after the clamp */
    const void *raw_input;            /* a tensor copied bit for bit, because its type isn't the kind's; NULL: none */
    void *raw_output;
    size_t raw_size;   /* bytes of an element */
    dsk_form own_form; /* used if the row has no prepared form for the wanted outputs */
} dsk_program;

/* Removes the first element from a set that isn't empty. */
static inline unsigned dsk_take_first(unsigned *set) {
    unsigned first = (unsigned)__builtin_ctz(*set);
    *set &= *set - 1;
    return first;
}

/* One selection pass over the keys of |p| (see threshold.c). */
typedef struct dsk_sieve {
    int64_t low, high; /* the fences: -1 <= low <= high, 0 <= high */
    size_t n_below;    /* key < low */
    size_t n_to_low;   /* key <= low */
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

/* The kernels of each kind, indexed by instruction set. Each kind has a file. */
DSK_HIDDEN extern const dsk_kernels dsk_float32_kernels[], dsk_float64_kernels[], dsk_float16_kernels[], dsk_bfloat16_kernels[],
    dsk_halves_kernels[];

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

/*
 * Runs body(context, i, max_threads) once for every item i of a call with n_elements elements. Many items: one item per thread at a
 * time. Few large items: the threads share each item.
 */
typedef void (*dsk_item_body)(void *context, size_t i, unsigned max_threads);
DSK_HIDDEN void dsk_parallel_items(size_t n_items, size_t n_elements, unsigned max_threads, dsk_item_body body, void *context);

/* The most threads that dsk_parallel would use. */
DSK_HIDDEN unsigned dsk_thread_count(unsigned max_threads);

/* Finds the form of a row for the wanted outputs; `copies`: one may be a copy rather than a sum. */
DSK_HIDDEN void dsk_find_form(const dsk_prepared_row *row, unsigned wanted, bool copies, dsk_form *form);

/* Prepares a row whose clamp is within its documented range. */
DSK_HIDDEN void dsk_prepare_valid_row(const dsk_row *row, dsk_prepared_row *prepared);

/* Makes dsk_find_thresholds' checks of a call's items. */
DSK_HIDDEN dsk_status dsk_check_thresholds(const dsk_item *items, size_t n_items);

/* Prepares the prediction of a checked item. */
DSK_HIDDEN void dsk_prepare_thresholds(dsk_program *program, const dsk_item *item);

#endif
