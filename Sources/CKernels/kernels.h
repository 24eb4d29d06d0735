/* SPDX-License-Identifier: Apache-2.0 */

/* Definitions that all kinds of kernels share. */
#ifndef DSK_KERNELS_H
#define DSK_KERNELS_H

#include "elements.h"
#include "noise_factor.h"

#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

/* Four vectors in flight hide the latency of a multiply-add. */
#define DSK_TILE_VECTORS 4

/* Unrolls a loop over the vectors of a tile or over outputs, which compilers consider too long to unroll by themselves. */
#if defined(__clang__)
#define DSK_UNROLL _Pragma("unroll")
#else
#define DSK_UNROLL _Pragma("GCC unroll 4")
#endif

/* The variants of loops, by the inputs of the last sum, copies and p: see dsk_form. */
typedef enum dsk_loop_variant {
    DSK_FULL,       /* all sums read all inputs */
    DSK_PAIR,       /* the last sum reads the first two inputs; 1.35 times as quick as DSK_COPY with two sums (AVX2) */
    DSK_COPY,       /* the last sum reads the inputs from n_first up to n_last; one output may be a copy */
    DSK_P,          /* like DSK_COPY without a copy, and sums may read p */
    DSK_P_AND_COPY, /* DSK_P plus a copy; separate, because one sum without a copy is 1.04 to 1.19 times as quick (AVX2) */
    DSK_MASKED,     /* masks tell which inputs each sum reads; 1.33 to 1.44 times as quick as combine_any (AVX-512) */
    DSK_LOOP_VARIANT_COUNT,
} dsk_loop_variant;

/* X(inputs, sums, variant) for each form that schedulers' steps have. Other forms run in combine_any. */
/* clang-format off */
#define DSK_LOOPS(X)                                                                \
    X(1, 1, FULL) X(2, 1, FULL) X(3, 1, FULL) X(4, 1, FULL) X(5, 1, FULL) X(6, 1, FULL) \
    X(2, 2, FULL) X(3, 2, FULL) X(4, 2, FULL) X(2, 3, FULL) X(3, 3, FULL) X(4, 3, FULL) \
    X(3, 2, PAIR) X(4, 2, PAIR) X(5, 2, PAIR) X(3, 3, PAIR) X(4, 3, PAIR) X(5, 3, PAIR) \
    X(3, 2, MASKED) X(4, 2, MASKED) X(4, 3, MASKED) X(5, 3, MASKED) X(6, 3, MASKED) \
    X(1, 1, COPY) X(2, 1, COPY) X(3, 1, COPY) X(4, 1, COPY) X(5, 1, COPY)           \
    X(2, 2, COPY) X(3, 2, COPY) X(4, 2, COPY) X(5, 2, COPY)                         \
    X(1, 1, P) X(2, 1, P) X(3, 1, P) X(1, 2, P) X(2, 2, P) X(3, 2, P) X(2, 3, P) X(3, 3, P) \
    X(1, 1, P_AND_COPY) X(2, 1, P_AND_COPY) X(3, 1, P_AND_COPY)                     \
    X(1, 2, P_AND_COPY) X(2, 2, P_AND_COPY) X(3, 2, P_AND_COPY)
/* clang-format on */

/* The number of a loop, as in dsk_form. */
#define DSK_NO_LOOP 0
#define DSK_LOOP_NUMBER(n_inputs, n_sums, variant) \
    (((unsigned)(n_inputs) * (DSK_OUTPUT_COUNT + 1u) + (unsigned)(n_sums)) * DSK_LOOP_VARIANT_COUNT + (unsigned)(variant))

/* Bytes per block of p, and of a widened tensor. */
enum { DSK_BLOCK_BYTES = 4096 };

/* Streaming stores should fill whole cache lines. */
#define DSK_STREAM_ALIGNMENT 64

#if defined(__clang__)
#define dsk_store_streaming(value, address) __builtin_nontemporal_store(value, address)
#else
#define dsk_store_streaming(value, address) (*(address) = (value))
#endif

/* Streaming stores are weakly ordered on x86: make them visible before the threads meet. */
static inline void dsk_fence_streaming(void) {
#if defined(__x86_64__)
    __builtin_ia32_sfence();
#endif
}

/* The least exponent of a normal number, and the bits after its leading one. */
enum { DSK_FLOAT16_LEAST_EXPONENT = -14, DSK_FLOAT16_FRACTION_BITS = 10 };
enum { DSK_BFLOAT16_LEAST_EXPONENT = -126, DSK_BFLOAT16_FRACTION_BITS = 7 };

/* The bits of 2^exponent, and the addend that turns the bits of 2^e into those of 1.5 * 2^(e + 52 - fraction_bits). */
static inline uint64_t dsk_power_bits(int exponent) { return (uint64_t)(1023 + exponent) << 52; }
static inline uint64_t dsk_grid_constant(int fraction_bits) { return ((uint64_t)(52 - fraction_bits) << 52) + (1ull << 51); }

#endif
