/* SPDX-License-Identifier: Apache-2.0 */

/* One template (DSK_TEMPLATE) for every instruction set of this processor. */

#ifndef DSK_JOIN
#define DSK_JOIN_(a, b, c) a##_##b##_##c
#define DSK_JOIN(a, b, c) DSK_JOIN_(a, b, c)
/* A variant's names end in its kind or tile and in DSK_ISA, the instruction set. */
#define DSK_TILE(name) DSK_JOIN(name, DSK_TILE_NAME, DSK_ISA)
#define DSK_NAME(name) DSK_JOIN(name, DSK_KIND_NAME, DSK_ISA)
#endif

#define DSK_ISA baseline
#define DSK_VECTOR_BYTES 16
#define DSK_HAS_F16C 0
#define DSK_TARGET
#include DSK_TEMPLATE
#undef DSK_ISA
#undef DSK_VECTOR_BYTES
#undef DSK_HAS_F16C
#undef DSK_TARGET

#if defined(__x86_64__)

#define DSK_ISA avx2
#define DSK_VECTOR_BYTES 32
#define DSK_HAS_F16C 1
#define DSK_TARGET __attribute__((target("avx2,fma,f16c")))
#include DSK_TEMPLATE
#undef DSK_ISA
#undef DSK_VECTOR_BYTES
#undef DSK_TARGET

#define DSK_ISA avx512
#define DSK_VECTOR_BYTES 64
#define DSK_TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,fma,f16c")))
#include DSK_TEMPLATE
#undef DSK_ISA
#undef DSK_VECTOR_BYTES
#undef DSK_HAS_F16C
#undef DSK_TARGET

#endif
