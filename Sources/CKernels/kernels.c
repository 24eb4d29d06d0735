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

/* Bytes of p computed per block. A block and its inputs fit in L1. */
enum { DSK_BLOCK_BYTES = 2048 };

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

/*
 * Rounds a coefficient to 29 bits, to nearest even. Its product with a float32 of 24 bits is then exact in a double of 53, and so
 * are its products with narrower types. Fusing a product and a sum therefore changes nothing, and every instruction set may use its
 * fastest instructions and still give the same bits. The relative error of up to 2^-29 is far below the result's rounding, 2^-24.
 */
static inline double dsk_short_coefficient(double coefficient) {
    uint64_t bits;
    memcpy(&bits, &coefficient, sizeof bits);
    if ((bits >> 52 & 0x7FF) == 0x7FF) return coefficient; /* infinity or NaN: nothing to round */
    bits = (bits + 0x7FFFFF + (bits >> 24 & 1)) & ~(uint64_t)0xFFFFFF;
    memcpy(&coefficient, &bits, sizeof bits);
    return coefficient;
}
static inline double dsk_whole_coefficient(double coefficient) { return coefficient; }
/* Replaces every NaN by one whose lower half is zero, as bfloat16_tile_template.h needs for rounding. */
static inline float dsk_float_coefficient(double coefficient) {
    return coefficient == coefficient ? (float)coefficient : __builtin_nanf("");
}

/*
 * The forms of nearly all steps: programs of one element type whose first output has few terms and is not a copy.
 *
 * Without p:
 *   DSK_PLAIN_SUM             one output
 *   DSK_PLAIN_AND_COPY        the second output is a copy
 *   DSK_PLAIN_AND_PAIR        the second output combines the first one's first two tensors
 *   DSK_PLAIN_AND_LATER_PAIR  ... its second and third, as guided steps do
 *   DSK_PLAIN_AND_TRIPLE      ... its first three
 * With p, the first output's last term:
 *   DSK_PLAIN_WITH_P          one output
 *   DSK_PLAIN_WITH_P_AND_P    the second output is p
 *   DSK_PLAIN_WITH_P_AND_BOTH the second output combines the first one's first tensor and p
 */
typedef enum dsk_plain_form {
    DSK_PLAIN_SUM,
    DSK_PLAIN_AND_COPY,
    DSK_PLAIN_AND_PAIR,
    DSK_PLAIN_AND_LATER_PAIR,
    DSK_PLAIN_AND_TRIPLE,
    DSK_PLAIN_WITH_P,
    DSK_PLAIN_WITH_P_AND_P,
    DSK_PLAIN_WITH_P_AND_BOTH,
    DSK_PLAIN_FORM_COUNT,
} dsk_plain_form;

enum { DSK_MOST_PLAIN_TERMS = 5 };

#define DSK_PLAIN(n_terms, form) ((n_terms) * DSK_PLAIN_FORM_COUNT + (unsigned)(form))

/* The numbers of terms and forms with a compiled loop. */
/* clang-format off */
#define DSK_PLAIN_LOOPS(X)                                                                                                 \
    X(1, DSK_PLAIN_SUM) X(2, DSK_PLAIN_SUM) X(3, DSK_PLAIN_SUM) X(4, DSK_PLAIN_SUM)                                        \
    X(2, DSK_PLAIN_AND_COPY) X(3, DSK_PLAIN_AND_COPY) X(4, DSK_PLAIN_AND_COPY) X(5, DSK_PLAIN_AND_COPY)                    \
    X(2, DSK_PLAIN_AND_PAIR) X(3, DSK_PLAIN_AND_PAIR) X(4, DSK_PLAIN_AND_PAIR) X(5, DSK_PLAIN_AND_PAIR)                    \
    X(4, DSK_PLAIN_AND_LATER_PAIR) X(5, DSK_PLAIN_AND_LATER_PAIR) X(4, DSK_PLAIN_AND_TRIPLE) X(5, DSK_PLAIN_AND_TRIPLE)    \
    X(1, DSK_PLAIN_WITH_P) X(2, DSK_PLAIN_WITH_P)                                                                          \
    X(1, DSK_PLAIN_WITH_P_AND_P) X(2, DSK_PLAIN_WITH_P_AND_P) X(3, DSK_PLAIN_WITH_P_AND_P) X(4, DSK_PLAIN_WITH_P_AND_P)    \
    X(1, DSK_PLAIN_WITH_P_AND_BOTH) X(2, DSK_PLAIN_WITH_P_AND_BOTH) X(3, DSK_PLAIN_WITH_P_AND_BOTH)
/* clang-format on */

/* Whether `some` combines exactly the `count` tensors that `all` combines from index `begin` on. */
static bool dsk_same_tensors(const dsk_combination *some, const dsk_combination *all, unsigned begin, unsigned count) {
    if (some->n_terms != count || all->n_terms < begin + count) return false;
    for (unsigned j = 0; j < count; j++)
        if (some->tensors[j] != all->tensors[begin + j]) return false;
    return true;
}

/* DSK_PLAIN of the first output's number of terms (without p) and the program's form; 0 if it has none of the forms. */
static unsigned dsk_plain_candidate(const dsk_program *program, const bool *copies) {
    const dsk_combination *first = &program->outputs[0], *second = &program->outputs[1];
    const unsigned n = first->n_terms;
    if (program->n_outputs == 0 || program->n_outputs > 2 || copies[0] || n == 0 || n > DSK_MOST_PLAIN_TERMS) return 0;
    if (program->uses_prediction) {
        if (first->prediction == 0) return 0;
        if (program->n_outputs == 1) return DSK_PLAIN(n, DSK_PLAIN_WITH_P);
        if (second->n_terms == 0 && second->prediction == 1) return DSK_PLAIN(n, DSK_PLAIN_WITH_P_AND_P);
        return second->prediction != 0 && dsk_same_tensors(second, first, 0, 1) ? DSK_PLAIN(n, DSK_PLAIN_WITH_P_AND_BOTH) : 0;
    }
    if (program->n_outputs == 1) return DSK_PLAIN(n, DSK_PLAIN_SUM);
    if (copies[1]) return DSK_PLAIN(n, DSK_PLAIN_AND_COPY);
    if (dsk_same_tensors(second, first, 0, 2)) return DSK_PLAIN(n, DSK_PLAIN_AND_PAIR);
    if (dsk_same_tensors(second, first, 1, 2)) return DSK_PLAIN(n, DSK_PLAIN_AND_LATER_PAIR);
    return dsk_same_tensors(second, first, 0, 3) ? DSK_PLAIN(n, DSK_PLAIN_AND_TRIPLE) : 0;
}

/* The same; 0 also for those that there is no loop for. */
static unsigned dsk_plain_program(const dsk_program *program, const bool *copies) {
    const unsigned plain = dsk_plain_candidate(program, copies);
#define FOUND(n_terms, form) case DSK_PLAIN(n_terms, form):
    switch (plain) { DSK_PLAIN_LOOPS(FOUND) return plain; }
#undef FOUND
    return 0;
}

/* A program for a few elements of another one, whose tensors are buffers. */
typedef struct dsk_padded_program {
    dsk_program program;
    const void *inputs[DSK_INPUT_COUNT]; /* the tensors that have a buffer: the first ones */
    uint8_t types[DSK_INPUT_COUNT];
    unsigned n_inputs;
} dsk_padded_program;

/* Replaces the tensors of some terms by buffers, which get the elements [begin, begin + n) and zeros. */
static void dsk_pad_terms(dsk_padded_program *padded, dsk_combination *terms, size_t begin, size_t n, void *buffers,
                          size_t buffer_size) {
    for (unsigned j = 0; j < terms->n_terms; j++) {
        unsigned place = 0;
        while (place < padded->n_inputs && (padded->inputs[place] != terms->tensors[j] || padded->types[place] != terms->types[j]))
            place++;
        char *buffer = (char *)buffers + place * buffer_size;
        if (place == padded->n_inputs) {
            size_t size = dsk_size((dsk_element_type)terms->types[j]);
            memset(buffer, 0, buffer_size);
            memcpy(buffer, (const char *)terms->tensors[j] + begin * size, n * size);
            padded->inputs[place] = terms->tensors[j];
            padded->types[place] = terms->types[j];
            padded->n_inputs++;
        }
        terms->tensors[j] = buffer;
    }
}

static void dsk_pad(dsk_padded_program *padded, const dsk_program *program, size_t begin, size_t n, void *buffers,
                    size_t buffer_size) {
    padded->program = *program;
    padded->n_inputs = 0;
    if (program->uses_prediction) dsk_pad_terms(padded, &padded->program.prediction, begin, n, buffers, buffer_size);
    for (unsigned k = 0; k < program->n_outputs; k++) {
        dsk_pad_terms(padded, &padded->program.outputs[k], begin, n, buffers, buffer_size);
        padded->program.destinations[k] = (char *)buffers + (DSK_INPUT_COUNT + k) * buffer_size;
    }
}

/* Copies what the program for the buffers wrote to where the other one writes. */
static void dsk_unpad(const dsk_padded_program *padded, const dsk_program *program, size_t begin, size_t n) {
    for (unsigned k = 0; k < program->n_outputs; k++) {
        size_t size = dsk_size((dsk_element_type)program->destination_types[k]);
        memcpy((char *)program->destinations[k] + begin * size, padded->program.destinations[k], n * size);
    }
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

/* Fusing is welcome here, since it changes nothing. */
#if defined(__clang__)
#pragma STDC FP_CONTRACT ON
#elif defined(__GNUC__)
#pragma GCC push_options
#pragma GCC optimize("fp-contract=fast")
#endif

#define DSK_TILE_NAME double_tile
#define DSK_SUM double
#define DSK_REAL float
#define DSK_KEY int32_t
#define DSK_COEFFICIENT dsk_short_coefficient

#define DSK_KIND_NAME float32
#define DSK_IS_MIXED 0
#define DSK_TYPE(stored) DSK_FLOAT32
#include "kernels_all_isas.h"
#undef DSK_KIND_NAME
#undef DSK_IS_MIXED
#undef DSK_TYPE

#define DSK_KIND_NAME short
#define DSK_IS_MIXED 1
#define DSK_TYPE(stored) ((dsk_element_type)(stored))
#include "kernels_all_isas.h"
#undef DSK_KIND_NAME
#undef DSK_IS_MIXED
#undef DSK_TYPE

#undef DSK_REAL
#undef DSK_KEY
#undef DSK_COEFFICIENT

/* Other products aren't exact: fusing would give other bits where the processor has it. */
#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#elif defined(__GNUC__)
#pragma GCC pop_options
#pragma GCC optimize("fp-contract=off")
#endif

#define DSK_REAL double
#define DSK_KEY int64_t
#define DSK_COEFFICIENT dsk_whole_coefficient

#define DSK_KIND_NAME float64
#define DSK_IS_MIXED 0
#define DSK_TYPE(stored) DSK_FLOAT64
#include "kernels_all_isas.h"
#undef DSK_KIND_NAME
#undef DSK_IS_MIXED
#undef DSK_TYPE

#define DSK_KIND_NAME wide
#define DSK_IS_MIXED 1
#define DSK_TYPE(stored) ((dsk_element_type)(stored))
#include "kernels_all_isas.h"
#undef DSK_KIND_NAME
#undef DSK_IS_MIXED
#undef DSK_TYPE

#undef DSK_TILE_NAME
#undef DSK_SUM
#undef DSK_REAL
#undef DSK_KEY
#undef DSK_COEFFICIENT

#define DSK_TILE_NAME float_tile
#define DSK_SUM float
#define DSK_REAL float
#define DSK_KEY int32_t
#define DSK_COEFFICIENT dsk_float_coefficient

#define DSK_KIND_NAME float16
#define DSK_IS_MIXED 0
#define DSK_TYPE(stored) DSK_FLOAT16
#include "kernels_all_isas.h"
#undef DSK_KIND_NAME
#undef DSK_IS_MIXED
#undef DSK_TYPE

#define DSK_KIND_NAME half
#define DSK_IS_MIXED 1
#define DSK_TYPE(stored) ((dsk_element_type)(stored))
#include "kernels_all_isas.h"
#undef DSK_KIND_NAME
#undef DSK_IS_MIXED
#undef DSK_TYPE

#undef DSK_TILE_NAME
#define DSK_TILE_NAME bfloat16_tile

#define DSK_KIND_NAME bfloat16
#define DSK_IS_MIXED 0
#define DSK_TYPE(stored) DSK_BFLOAT16
#include "kernels_all_isas.h"
#undef DSK_KIND_NAME
#undef DSK_IS_MIXED
#undef DSK_TYPE

#undef DSK_TILE_NAME
#undef DSK_SUM
#undef DSK_REAL
#undef DSK_KEY
#undef DSK_COEFFICIENT

#define DSK_VARIANT(kind, isa) {step_##kind##_##isa, sift_##kind##_##isa, pick_##kind##_##isa}
/* clang-format off */
#define DSK_VARIANTS(isa)                             \
    {                                                 \
        [DSK_FLOAT32] = DSK_VARIANT(float32, isa),    \
        [DSK_FLOAT64] = DSK_VARIANT(float64, isa),    \
        [DSK_FLOAT16] = DSK_VARIANT(float16, isa),    \
        [DSK_BFLOAT16] = DSK_VARIANT(bfloat16, isa),  \
        [DSK_KERNEL_HALF] = DSK_VARIANT(half, isa),   \
        [DSK_KERNEL_SHORT] = DSK_VARIANT(short, isa), \
        [DSK_KERNEL_WIDE] = DSK_VARIANT(wide, isa),   \
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
