/* SPDX-License-Identifier: Apache-2.0 */

/* The choice among the variants of the inner loops. */

#include "internal.h"

#include <stdatomic.h>

static const dsk_kernels *const kinds[DSK_KERNEL_COUNT] = {
    [DSK_FLOAT32] = dsk_float32_kernels,   [DSK_FLOAT64] = dsk_float64_kernels,      [DSK_FLOAT16] = dsk_float16_kernels,
    [DSK_BFLOAT16] = dsk_bfloat16_kernels, [DSK_KERNEL_HALVES] = dsk_halves_kernels,
};

#if defined(__x86_64__)
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
static dsk_isa best_isa(void) { return DSK_ISA_BASELINE; }
static bool is_faster_narrow(dsk_kernel_kind kind) { return (void)kind, false; }
#endif

/* -1: not known yet. Relaxed is enough: a thread that sees the old value asks the processor again and gets the same answer. */
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
    return &kinds[kind][isa == DSK_ISA_AVX512 && !is_named && is_faster_narrow(kind) ? DSK_ISA_AVX2 : isa];
}

dsk_isa dsk_limit_isa(dsk_isa limit) {
    dsk_isa best = best_isa();
    dsk_isa isa = limit < best ? limit : best;
    if ((int)isa < 0) isa = DSK_ISA_BASELINE;
    atomic_store_explicit(&is_isa_named, true, memory_order_relaxed);
    atomic_store_explicit(&chosen_isa, (int)isa, memory_order_relaxed);
    return isa;
}
