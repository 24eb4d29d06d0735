/* Every variant of the inner loops, and the choice among them. */

#include "elements.h"

#include <stdatomic.h>
#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

/* Four vectors in flight hide the latency of a multiply-add. */
#define DSK_TILE_VECTORS 4

/* A cache line, which is what a streaming store had better fill. */
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
 * A coefficient rounded to 29 bits, to nearest and even: its product with a float32 of 24 bits is exact in a double of 53, and so
 * are those with the narrower types.
 * So it doesn't matter whether a product and a sum are fused, and every instruction set gives the same bits with what it does
 * best. The relative error of up to 2^-29 is far below the 2^-24 of the result's rounding.
 */
static inline double dsk_short_coefficient(double coefficient) {
    uint64_t bits;
    memcpy(&bits, &coefficient, sizeof bits);
    if ((bits >> 52 & 0x7FF) == 0x7FF) return coefficient; /* infinite or no number: nothing to round */
    bits = (bits + 0x7FFFFF + (bits >> 24 & 1)) & ~(uint64_t)0xFFFFFF;
    memcpy(&coefficient, &bits, sizeof bits);
    return coefficient;
}
static inline double dsk_whole_coefficient(double coefficient) { return coefficient; }
static inline float dsk_float_coefficient(double coefficient) { return (float)coefficient; }

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
/*
 * The quotient of two float32 numbers is no nearer than 2^-49 of itself to the middle between two others, and the product in
 * float64 is off by less than 2^-52: it rounds to the same float32, and a division takes longer.
 */
#define DSK_QUOTIENT(p, s, reciprocal) ((p) * (reciprocal))
#define DSK_COEFFICIENT dsk_short_coefficient

#define DSK_KIND_NAME float32
#define DSK_TYPE(stored) DSK_FLOAT32
#include "kernels_all_isas.h"
#undef DSK_KIND_NAME
#undef DSK_TYPE

#define DSK_KIND_NAME short
#define DSK_TYPE(stored) ((dsk_element_type)(stored))
#include "kernels_all_isas.h"
#undef DSK_KIND_NAME
#undef DSK_TYPE

#undef DSK_REAL
#undef DSK_KEY
#undef DSK_QUOTIENT
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
#define DSK_QUOTIENT(p, s, reciprocal) ((p) / (s))
#define DSK_COEFFICIENT dsk_whole_coefficient

#define DSK_KIND_NAME float64
#define DSK_TYPE(stored) DSK_FLOAT64
#include "kernels_all_isas.h"
#undef DSK_KIND_NAME
#undef DSK_TYPE

#define DSK_KIND_NAME wide
#define DSK_TYPE(stored) ((dsk_element_type)(stored))
#include "kernels_all_isas.h"
#undef DSK_KIND_NAME
#undef DSK_TYPE

#undef DSK_TILE_NAME
#undef DSK_SUM
#undef DSK_REAL
#undef DSK_KEY
#undef DSK_QUOTIENT
#undef DSK_COEFFICIENT

#define DSK_TILE_NAME float_tile
#define DSK_SUM float
#define DSK_REAL float
#define DSK_KEY int32_t
#define DSK_QUOTIENT(p, s, reciprocal) ((p) / (s))
#define DSK_COEFFICIENT dsk_float_coefficient

#define DSK_KIND_NAME float16
#define DSK_TYPE(stored) DSK_FLOAT16
#include "kernels_all_isas.h"
#undef DSK_KIND_NAME
#undef DSK_TYPE

#define DSK_KIND_NAME bfloat16
#define DSK_TYPE(stored) DSK_BFLOAT16
#include "kernels_all_isas.h"
#undef DSK_KIND_NAME
#undef DSK_TYPE

#define DSK_KIND_NAME half
#define DSK_TYPE(stored) ((dsk_element_type)(stored))
#include "kernels_all_isas.h"
#undef DSK_KIND_NAME
#undef DSK_TYPE

#undef DSK_TILE_NAME
#undef DSK_SUM
#undef DSK_REAL
#undef DSK_KEY
#undef DSK_QUOTIENT
#undef DSK_COEFFICIENT

#define DSK_VARIANT(kind, isa) {step_##kind##_##isa, sift_##kind##_##isa, pick_##kind##_##isa}
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
#else
static const dsk_kernels variants[][DSK_KERNEL_COUNT] = {[DSK_ISA_BASELINE] = DSK_VARIANTS(baseline)};
static dsk_isa best_isa(void) { return DSK_ISA_BASELINE; }
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

const dsk_kernels *dsk_kernels_for(dsk_kernel_kind kind) { return &variants[dsk_chosen_isa()][kind]; }

dsk_isa dsk_limit_isa(dsk_isa limit) {
    dsk_isa best = best_isa();
    dsk_isa isa = limit < best ? limit : best;
    if ((int)isa < 0) isa = DSK_ISA_BASELINE;
    atomic_store_explicit(&chosen_isa, (int)isa, memory_order_relaxed);
    return isa;
}
