/* SPDX-License-Identifier: Apache-2.0 */

/* One template (DSK_TEMPLATE) for every instruction set of this processor. */

#ifndef DSK_JOIN
#define DSK_JOIN_(a, b, c) a##_##b##_##c
#define DSK_JOIN(a, b, c) DSK_JOIN_(a, b, c)
#endif

#define DSK_VECTOR_BYTES 16
#define DSK_HAS_F16C 0
#define DSK_TARGET
#define DSK_TILE(name) DSK_JOIN(name, DSK_TILE_NAME, baseline)
#define DSK_NAME(name) DSK_JOIN(name, DSK_KIND_NAME, baseline)
#define DSK_ISA_NAME(name) name##_baseline
#include DSK_TEMPLATE
#undef DSK_VECTOR_BYTES
#undef DSK_HAS_F16C
#undef DSK_TARGET
#undef DSK_TILE
#undef DSK_NAME
#undef DSK_ISA_NAME

#if defined(__x86_64__)

#define DSK_VECTOR_BYTES 32
#define DSK_HAS_F16C 1
#define DSK_TARGET __attribute__((target("avx2,fma,f16c")))
#define DSK_TILE(name) DSK_JOIN(name, DSK_TILE_NAME, avx2)
#define DSK_NAME(name) DSK_JOIN(name, DSK_KIND_NAME, avx2)
#define DSK_ISA_NAME(name) name##_avx2
#include DSK_TEMPLATE
#undef DSK_VECTOR_BYTES
#undef DSK_HAS_F16C
#undef DSK_TARGET
#undef DSK_TILE
#undef DSK_NAME
#undef DSK_ISA_NAME

#define DSK_VECTOR_BYTES 64
#define DSK_HAS_F16C 1
#define DSK_TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,fma,f16c")))
#define DSK_TILE(name) DSK_JOIN(name, DSK_TILE_NAME, avx512)
#define DSK_NAME(name) DSK_JOIN(name, DSK_KIND_NAME, avx512)
#define DSK_ISA_NAME(name) name##_avx512
#include DSK_TEMPLATE
#undef DSK_VECTOR_BYTES
#undef DSK_HAS_F16C
#undef DSK_TARGET
#undef DSK_TILE
#undef DSK_NAME
#undef DSK_ISA_NAME

#endif
