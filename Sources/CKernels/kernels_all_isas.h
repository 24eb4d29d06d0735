/* The inner loops of one element type (DSK_REAL, DSK_KEY, DSK_TYPE_NAME) for every instruction set of this processor. */

#define DSK_VECTOR_BYTES 16
#define DSK_TARGET
#define DSK_NAME(name) DSK_JOIN(name, DSK_TYPE_NAME, baseline)
#include "kernels_template.h"
#undef DSK_VECTOR_BYTES
#undef DSK_TARGET
#undef DSK_NAME

#if defined(__x86_64__)

#define DSK_VECTOR_BYTES 32
#define DSK_TARGET __attribute__((target("avx2,fma")))
#define DSK_NAME(name) DSK_JOIN(name, DSK_TYPE_NAME, avx2)
#include "kernels_template.h"
#undef DSK_VECTOR_BYTES
#undef DSK_TARGET
#undef DSK_NAME

#define DSK_VECTOR_BYTES 64
#define DSK_TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,fma")))
#define DSK_NAME(name) DSK_JOIN(name, DSK_TYPE_NAME, avx512)
#include "kernels_template.h"
#undef DSK_VECTOR_BYTES
#undef DSK_TARGET
#undef DSK_NAME

#endif
