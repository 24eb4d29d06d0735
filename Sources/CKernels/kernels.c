/* SPDX-License-Identifier: Apache-2.0 */

/* Every variant of the inner loops, and the choice among them. */

#include "elements.h"

#include <stdatomic.h>
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

/* The forms that have a loop of their own: see dsk_form. */
typedef enum dsk_loop_variant {
    DSK_FULL,   /* all sums read all inputs */
    DSK_PAIR,   /* the last sum reads the first two inputs: a third quicker than DSK_COPY (AVX2, two sums) */
    DSK_COPY,   /* the last sum reads some inputs, and one output may be a copy */
    DSK_WITH_P, /* like DSK_COPY, and p has two inputs */
    DSK_LOOP_VARIANT_COUNT,
} dsk_loop_variant;

/* X(inputs, sums, variant) for those that steps of schedulers have. Other forms take combine_any. */
/* clang-format off */
#define DSK_LOOPS(X)                                                                \
    X(1, 1, FULL) X(2, 1, FULL) X(3, 1, FULL) X(4, 1, FULL) X(5, 1, FULL) X(6, 1, FULL) \
    X(2, 2, FULL) X(3, 2, FULL) X(4, 2, FULL) X(2, 3, FULL) X(3, 3, FULL) X(4, 3, FULL) \
    X(3, 2, PAIR) X(4, 2, PAIR) X(5, 2, PAIR) X(3, 3, PAIR) X(4, 3, PAIR) X(5, 3, PAIR) \
    X(1, 1, COPY) X(2, 1, COPY) X(3, 1, COPY) X(4, 1, COPY) X(5, 1, COPY)           \
    X(2, 2, COPY) X(3, 2, COPY) X(4, 2, COPY) X(5, 2, COPY)                         \
    X(1, 1, WITH_P) X(2, 1, WITH_P) X(3, 1, WITH_P) X(1, 2, WITH_P) X(2, 2, WITH_P) X(3, 2, WITH_P) \
    X(2, 3, WITH_P) X(3, 3, WITH_P)
/* clang-format on */

#define DSK_LOOP_NUMBER(n_inputs, n_sums, variant) \
    (((unsigned)(n_inputs) * (DSK_OUTPUT_COUNT + 1u) + (unsigned)(n_sums)) * DSK_LOOP_VARIANT_COUNT + (unsigned)(variant))

/* Bytes of p computed per block. A block and its inputs fit in L1. */
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

/* The bits of 2^exponent, and what is added to those of 2^e to get those of 1.5 * 2^(e + 52 - fraction_bits). */
static inline uint64_t dsk_power_bits(int exponent) { return (uint64_t)(1023 + exponent) << 52; }
static inline uint64_t dsk_grid_constant(int fraction_bits) { return ((uint64_t)(52 - fraction_bits) << 52) + (1ull << 51); }

#define DSK_TILE_NAME double_tile
#define DSK_TEMPLATE "double_tile_template.h"
#include "kernels_all_isas.h"
#undef DSK_TEMPLATE
#undef DSK_TILE_NAME

#define DSK_TILE_NAME float_tile
#define DSK_TEMPLATE "float_tile_template.h"
#include "kernels_all_isas.h"
#undef DSK_TEMPLATE
#undef DSK_TILE_NAME

#define DSK_TILE_NAME bfloat16_tile
#define DSK_TEMPLATE "bfloat16_tile_template.h"
#include "kernels_all_isas.h"
#undef DSK_TEMPLATE
#undef DSK_TILE_NAME

#define DSK_TEMPLATE "kernels_template.h"
#define DSK_KIND_LOOPS DSK_LOOPS

/* Fusing is welcome here, since it changes nothing. */
#if defined(__clang__)
#pragma STDC FP_CONTRACT ON
#elif defined(__GNUC__)
#pragma GCC push_options
#pragma GCC optimize("fp-contract=fast")
#endif

#define DSK_KIND_NAME float32
#define DSK_TYPE DSK_FLOAT32
#define DSK_HAS_OTHER_TYPES 1
#define DSK_TILE_NAME double_tile
#define DSK_SUM double
#define DSK_REAL float
#define DSK_KEY int32_t
#define DSK_COEFFICIENTS shortened
#define DSK_WIDEN DSK_ISA_NAME(widen_to_float)
#include "kernels_all_isas.h"
#include "undefine_kind.h"

/* Other products aren't exact: fusing would give other bits where the processor has it. */
#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#elif defined(__GNUC__)
#pragma GCC pop_options
#pragma GCC optimize("fp-contract=off")
#endif

#define DSK_KIND_NAME float64
#define DSK_TYPE DSK_FLOAT64
#define DSK_HAS_OTHER_TYPES 1
#define DSK_TILE_NAME double_tile
#define DSK_SUM double
#define DSK_REAL double
#define DSK_KEY int64_t
#define DSK_COEFFICIENTS row
#define DSK_WIDEN DSK_ISA_NAME(widen_to_double)
#include "kernels_all_isas.h"
#include "undefine_kind.h"

/* The half types share everything but the type and its tiles. */
#define DSK_SUM float
#define DSK_REAL float
#define DSK_KEY int32_t
#define DSK_COEFFICIENTS single
#define DSK_WIDEN DSK_ISA_NAME(widen_to_float)

#define DSK_KIND_NAME float16
#define DSK_TYPE DSK_FLOAT16
#define DSK_HAS_OTHER_TYPES 0
#define DSK_TILE_NAME float_tile
#include "kernels_all_isas.h"
#undef DSK_KIND_NAME
#undef DSK_TYPE
#undef DSK_HAS_OTHER_TYPES
#undef DSK_TILE_NAME

#define DSK_KIND_NAME bfloat16
#define DSK_TYPE DSK_BFLOAT16
#define DSK_HAS_OTHER_TYPES 0
#define DSK_TILE_NAME bfloat16_tile
#include "kernels_all_isas.h"
#undef DSK_KIND_NAME
#undef DSK_TYPE
#undef DSK_HAS_OTHER_TYPES
#undef DSK_TILE_NAME

/* Items of both half types: all tensors are widened to float32, and no output has it. */
#define DSK_KIND_NAME halves
#define DSK_TYPE DSK_FLOAT32
#define DSK_HAS_OTHER_TYPES 1
#define DSK_TILE_NAME float_tile
#undef DSK_KIND_LOOPS
#define DSK_KIND_LOOPS(X)
#include "kernels_all_isas.h"

#define DSK_VARIANT(kind, isa) {step_##kind##_##isa, sift_##kind##_##isa, pick_##kind##_##isa}
/* clang-format off */
#define DSK_VARIANTS(isa)                             \
    {                                                 \
        [DSK_FLOAT32] = DSK_VARIANT(float32, isa),    \
        [DSK_FLOAT64] = DSK_VARIANT(float64, isa),    \
        [DSK_FLOAT16] = DSK_VARIANT(float16, isa),    \
        [DSK_BFLOAT16] = DSK_VARIANT(bfloat16, isa),  \
        [DSK_KERNEL_HALVES] = DSK_VARIANT(halves, isa), \
    }
/* clang-format on */

#if defined(__x86_64__)
static const dsk_kernels variants[][DSK_KERNEL_COUNT] = {
    [DSK_ISA_BASELINE] = DSK_VARIANTS(baseline),
    [DSK_ISA_AVX2] = DSK_VARIANTS(avx2),
    [DSK_ISA_AVX512] = DSK_VARIANTS(avx512),
};
static dsk_isa best_isa(void) {
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") || !__builtin_cpu_supports("f16c"))
        return DSK_ISA_BASELINE;
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
                   __builtin_cpu_supports("avx512vl")
               ? DSK_ISA_AVX512
               : DSK_ISA_AVX2;
}
/*
 * Zen 4, the only processors of this family with AVX-512, splits vectors of 512 bits. Widening sixteen float32 from memory takes it
 * 2.7 cycles with them and 2 with vectors of 256 bits (measured), and these kinds spend most of their time on conversions.
 */
static bool is_faster_narrow(dsk_kernel_kind kind) {
    return (kind == (dsk_kernel_kind)DSK_FLOAT32 || kind == (dsk_kernel_kind)DSK_FLOAT16) && __builtin_cpu_is("amdfam19h");
}
#else
static const dsk_kernels variants[][DSK_KERNEL_COUNT] = {[DSK_ISA_BASELINE] = DSK_VARIANTS(baseline)};
static dsk_isa best_isa(void) { return DSK_ISA_BASELINE; }
static bool is_faster_narrow(dsk_kernel_kind kind) { return (void)kind, false; }
#endif

/* -1: not asked yet. Relaxed is enough: whoever sees an old value asks the processor again and gets the same answer. */
static _Atomic int chosen_isa = -1;

dsk_isa dsk_chosen_isa(void) {
    int isa = atomic_load_explicit(&chosen_isa, memory_order_relaxed);
    if (isa < 0) {
        isa = (int)best_isa();
        atomic_store_explicit(&chosen_isa, isa, memory_order_relaxed);
    }
    return (dsk_isa)isa;
}

/* A set chosen with dsk_limit_isa is never replaced by a narrower one, so that one machine can test all of them. */
static _Atomic bool is_isa_named = false;

const dsk_kernels *dsk_kernels_for(dsk_kernel_kind kind) {
    dsk_isa isa = dsk_chosen_isa();
    bool is_named = atomic_load_explicit(&is_isa_named, memory_order_relaxed);
    return &variants[isa == DSK_ISA_AVX512 && !is_named && is_faster_narrow(kind) ? DSK_ISA_AVX2 : isa][kind];
}

dsk_isa dsk_limit_isa(dsk_isa limit) {
    dsk_isa best = best_isa();
    dsk_isa isa = limit < best ? limit : best;
    if ((int)isa < 0) isa = DSK_ISA_BASELINE;
    atomic_store_explicit(&is_isa_named, true, memory_order_relaxed);
    atomic_store_explicit(&chosen_isa, (int)isa, memory_order_relaxed);
    return isa;
}
