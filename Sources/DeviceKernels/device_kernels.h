/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Kernels that execute rows of a device table (device_table.h), as CUDA C++ and as OpenCL C: one source for both.
 *
 *     ds_device_threshold   the dynamic threshold of each batch item, in DS_THRESHOLD_LAUNCHES launches; only for tables that clamp so
 *     ds_device_step        one step of each batch item, at its own row; then moves the items to their next rows
 *     ds_device_input       the model's input, timestep and input scale at the present rows, for items that have just begun
 *
 * Nothing is read back, and no argument changes between steps, except for the number of a threshold launch: a graph captured once
 * serves all steps and requests. A request gets a place in the batch by writing its sample and its row's number there. The place is
 * free again when its number is 0.
 *
 * Compile     These macros choose types, by the numbers of ds_element_type: 0 float32, 1 float64, 2 float16, 3 bfloat16.
 *                 DS_SAMPLE_TYPE        sample, noise, next sample and report; 0 unless defined
 *                 DS_MODEL_OUTPUT_TYPE  model output; DS_SAMPLE_TYPE unless defined
 *                 DS_SLOT_TYPE          slots; DS_SAMPLE_TYPE unless defined
 *                 DS_MODEL_INPUT_TYPE   model input; DS_SAMPLE_TYPE unless defined
 *                 DS_TIMESTEP           a C type for the model's timesteps; float unless defined
 *                 DS_FLOAT64_SUMS       if defined, sums are computed in float64, else in float32; float64 tensors need it
 *             CUDA: nvcc or NVRTC, compute capability 7.5 or later. OpenCL: version 1.2 or later, little-endian devices; without
 *             DS_FLOAT64_SUMS no double occurs. device_table.h lies in the include path, or stands before this text. Options for
 *             fast mathematics must be off.
 * Launch      A grid of [blocks per item, n_items] groups of [threads, 1]. Any numbers of blocks and threads give the same bits. A
 *             thread takes DS_PACK elements at a time. They are read and written as one vector if n_elements is a multiple of DS_PACK
 *             and all addresses are multiples of 16.
 * Tensors     [n_items, n_elements], contiguous. The next sample may be the memory of sample, noise, or a model output without
 *             variances, with elements of the same size. Other outputs need memory of their own.
 * Threads     Launches for one batch must follow one another: one stream, or one queue in order. Different batches may run at once.
 *
 * Arithmetic  p = clamp(prediction . (x, e, z)), and the outputs are sums in the table's order, rounded once to their type. p is
 *             rounded before and after the clamp: to float32, or to float64 where a tensor has that type. The model input is the
 *             rounded next sample times the input scale, rounded.
 *                 DS_FLOAT64_SUMS   the bits of ds_session_step, and of ds_scheduler_scale_model_input.
 *                 float32 sums      pairs of float32 with exact products (Ogita, Rump and Oishi 2005, doi:10.1137/030601818). The
 *                                   error of an output of t terms is at most
 *                                       u |out| + (t + 3)^2 2^-47 sum |coefficient * input|
 *                                   beside those of its p and its noise, with u = 2^-24; 2^-11 and 2^-8 for half types. The error
 *                                   of p has the same form, with u = 2^-24. A dynamic threshold has the error of the p that it is
 *                                   found from, and 2^-22 of its own; the division by it adds 2^-22 of the quotient. A factor of
 *                                   noise has a relative error of 2^-20. Sums must stay in float32's range, and products that
 *                                   matter above 2^-100.
 *                 half types alone  float32 sums of float32 products, with float32 coefficients, in both cases: the bits of
 *                                   ds_session_step (without DS_FLOAT64_SUMS, in rows without guidance, thresholds and factors of
 *                                   noise). CKernels.h has the error bound.
 */

#ifndef DS_DEVICE_TABLE_H
#include "device_table.h"
#endif

/* ---- The two languages */

#ifdef __OPENCL_C_VERSION__

#ifdef cl_khr_fp64
#pragma OPENCL EXTENSION cl_khr_fp64 : enable
#endif
#pragma OPENCL FP_CONTRACT OFF
typedef ushort ds_u16;
typedef uint ds_u32;
typedef ulong ds_u64;
#define DS_KERNEL kernel void
/* Inlined, because pocl 3.1 shares a group's local memory with other groups where a function that isn't inlined names it. */
#define DS_FUNCTION static inline __attribute__((always_inline))
#define DS_GLOBAL global
#define DS_LOCAL local  /* of what a pointer points to */
#define DS_SHARED local /* of a variable */
#define DS_ALIGNED(bytes) __attribute__((aligned(bytes)))
#define DS_THREAD ((ds_u32)get_local_id(0))
#define DS_THREADS ((ds_u32)get_local_size(0))
#define DS_BLOCK ((ds_u32)get_group_id(0))
#define DS_BLOCKS ((ds_u32)get_num_groups(0))
#define DS_ITEM ((ds_u32)get_group_id(1))
#define DS_ITEMS ((ds_u32)get_num_groups(1))
#define DS_BARRIER() barrier(CLK_LOCAL_MEM_FENCE | CLK_GLOBAL_MEM_FENCE)
#define DS_FENCE() mem_fence(CLK_GLOBAL_MEM_FENCE)
#define DS_ATOMIC_INCREMENT(address) atomic_inc(address)
#define DS_ATOMIC_OR(address, bits) atomic_or(address, bits)
#define DS_ATOMIC_READ(address) atomic_or(address, 0u)
#define DS_FLOAT_BITS(x) as_uint(x)
#define DS_FLOAT_OF_BITS(bits) as_float(bits)
#define DS_DOUBLE_BITS(x) as_ulong(x)
#define DS_DOUBLE_OF_BITS(bits) as_double(bits)
#define DS_MEMBER_BITS(member) (*(global const ulong *)&(member)) /* of a record's double */
/* Rounded to nearest, and never fused: */
#define DS_ADD(a, b) ((a) + (b))
#define DS_MULTIPLY(a, b) ((a) * (b))
#define DS_FMA(a, b, c) fma(a, b, c)
#define DS_ADD_DOUBLE(a, b) ((a) + (b))
#define DS_MULTIPLY_DOUBLE(a, b) ((a) * (b))
#define DS_WIDEN_HALF(bits, value) value = vload_half(0, (const half *)&(bits))
#define DS_ROUND_TO_HALF(value, bits) vstore_half_rte(value, 0, (half *)&(bits))

#else /* CUDA */

typedef unsigned short ds_u16;
typedef unsigned int ds_u32;
typedef unsigned long long ds_u64;
#define DS_KERNEL extern "C" __global__ void
#define DS_FUNCTION __device__ __forceinline__
#define DS_GLOBAL
#define DS_LOCAL
#define DS_SHARED __shared__
#define DS_ALIGNED(bytes) __align__(bytes)
#define DS_THREAD ((ds_u32)threadIdx.x)
#define DS_THREADS ((ds_u32)blockDim.x)
#define DS_BLOCK ((ds_u32)blockIdx.x)
#define DS_BLOCKS ((ds_u32)gridDim.x)
#define DS_ITEM ((ds_u32)blockIdx.y)
#define DS_ITEMS ((ds_u32)gridDim.y)
#define DS_BARRIER() __syncthreads()
#define DS_FENCE() __threadfence()
#define DS_ATOMIC_INCREMENT(address) atomicAdd(address, 1u)
#define DS_ATOMIC_OR(address, bits) atomicOr(address, bits)
#define DS_ATOMIC_READ(address) (*(volatile const ds_u32 *)(address))
#define DS_FLOAT_BITS(x) __float_as_uint(x)
#define DS_FLOAT_OF_BITS(bits) __uint_as_float(bits)
#define DS_DOUBLE_BITS(x) ((ds_u64)__double_as_longlong(x))
#define DS_DOUBLE_OF_BITS(bits) __longlong_as_double((long long)(bits))
#define DS_MEMBER_BITS(member) DS_DOUBLE_BITS(member)
#define DS_ADD(a, b) __fadd_rn(a, b)
#define DS_MULTIPLY(a, b) __fmul_rn(a, b)
#define DS_FMA(a, b, c) __fmaf_rn(a, b, c)
#define DS_ADD_DOUBLE(a, b) __dadd_rn(a, b)
#define DS_MULTIPLY_DOUBLE(a, b) __dmul_rn(a, b)
#ifndef DS_WIDEN_HALF
#define DS_WIDEN_HALF(bits, value) asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits))
#define DS_ROUND_TO_HALF(value, bits) asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value))
#endif

#endif

/* ---- Types */

#ifndef DS_SAMPLE_TYPE
#define DS_SAMPLE_TYPE 0
#endif
#ifndef DS_MODEL_OUTPUT_TYPE
#define DS_MODEL_OUTPUT_TYPE DS_SAMPLE_TYPE
#endif
#ifndef DS_SLOT_TYPE
#define DS_SLOT_TYPE DS_SAMPLE_TYPE
#endif
#ifndef DS_MODEL_INPUT_TYPE
#define DS_MODEL_INPUT_TYPE DS_SAMPLE_TYPE
#endif
#ifndef DS_TIMESTEP
#define DS_TIMESTEP float
#endif

#define DS_HAS_FLOAT64 (DS_SAMPLE_TYPE == 1 || DS_MODEL_OUTPUT_TYPE == 1 || DS_SLOT_TYPE == 1)
#define DS_HAS_HALVES_ONLY (DS_SAMPLE_TYPE >= 2 && DS_MODEL_OUTPUT_TYPE >= 2 && DS_SLOT_TYPE >= 2)
#if (DS_HAS_FLOAT64 || DS_MODEL_INPUT_TYPE == 1) && !defined(DS_FLOAT64_SUMS)
#error "float64 tensors need DS_FLOAT64_SUMS"
#endif

/* Elements that a thread takes at a time. */
#define DS_PACK 4

/* Widened elements, coefficients, sums in progress, and the bits of |p|, which are ordered like the numbers. */
#ifdef DS_FLOAT64_SUMS
typedef double ds_real;
typedef double ds_coefficient;
typedef double ds_sum;
#else
typedef float ds_real;
typedef struct ds_pair {
    float high, low;
} ds_pair;
typedef ds_pair ds_coefficient;
typedef ds_pair ds_sum;
#endif
#if DS_HAS_FLOAT64
typedef ds_u64 ds_key;
#else
typedef ds_u32 ds_key;
#endif

/* ---- Elements: widened when they are read, rounded to nearest even when they are written */

#define DS_JOIN_(a, b) a##b
#define DS_JOIN(a, b) DS_JOIN_(a, b)

#ifdef DS_FLOAT64_SUMS
/* A float32 that every half type rounds like x: the nearest towards 0, with an odd last bit unless it is x. */
DS_FUNCTION float ds_narrow(ds_real x) {
    const float nearest = (float)x;
    ds_u32 bits = DS_FLOAT_BITS(nearest);
    if (nearest == x || x != x) return nearest;
    if ((x < 0 ? -x : x) < (ds_real)DS_FLOAT_OF_BITS(bits & 0x7FFFFFFFu)) bits -= 1;
    return DS_FLOAT_OF_BITS(bits | 1u);
}
#else
DS_FUNCTION float ds_narrow(ds_real x) { return x; }
#endif

typedef float ds_element_0;
DS_FUNCTION ds_real ds_widen_0(float x) { return x; }
DS_FUNCTION float ds_round_0(ds_real x) { return (float)x; }

#ifdef DS_FLOAT64_SUMS
typedef double ds_element_1;
DS_FUNCTION ds_real ds_widen_1(double x) { return x; }
DS_FUNCTION double ds_round_1(ds_real x) { return x; }
#endif

typedef ds_u16 ds_element_2;
DS_FUNCTION ds_real ds_widen_2(ds_u16 bits) {
    float value;
    DS_WIDEN_HALF(bits, value);
    return value;
}
DS_FUNCTION ds_u16 ds_round_2(ds_real x) {
    const float value = ds_narrow(x);
    ds_u16 bits;
    DS_ROUND_TO_HALF(value, bits);
    return bits;
}

/* A bfloat16 is the upper half of a float32. The addend carries exactly if that half must grow. A NaN becomes quiet. */
typedef ds_u16 ds_element_3;
DS_FUNCTION ds_real ds_widen_3(ds_u16 bits) { return DS_FLOAT_OF_BITS((ds_u32)bits << 16); }
DS_FUNCTION ds_u16 ds_round_3(ds_real x) {
    const ds_u32 bits = DS_FLOAT_BITS(ds_narrow(x));
    return (ds_u16)((x != x ? bits | 0x400000u : bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16);
}

/* For tensors of one role: their type, and functions that read and write a pack, as one vector if it is `whole`, else its first n
 * elements. */
#define DS_DEFINE_ROLE(role, type)                                                                              \
    typedef DS_JOIN(ds_element_, type) ds_##role;                                                               \
    typedef struct DS_ALIGNED((type) < 2 ? 16 : 8) ds_##role##_pack {                                           \
        ds_##role elements[DS_PACK];                                                                            \
    } ds_##role##_pack;                                                                                         \
    DS_FUNCTION ds_real ds_widen_##role(ds_##role x) { return DS_JOIN(ds_widen_, type)(x); }                    \
    DS_FUNCTION ds_##role ds_round_##role(ds_real x) { return DS_JOIN(ds_round_, type)(x); }                    \
    DS_FUNCTION void ds_read_##role(DS_GLOBAL const ds_##role *tensor, int whole, ds_u32 n, ds_real *values) {  \
        if (whole) {                                                                                            \
            const ds_##role##_pack pack = *(DS_GLOBAL const ds_##role##_pack *)tensor;                          \
            for (ds_u32 u = 0; u < DS_PACK; u++) values[u] = ds_widen_##role(pack.elements[u]);                 \
        } else {                                                                                                \
            for (ds_u32 u = 0; u < DS_PACK; u++) values[u] = u < n ? ds_widen_##role(tensor[u]) : (ds_real)0;   \
        }                                                                                                       \
    }                                                                                                           \
    DS_FUNCTION void ds_write_##role(DS_GLOBAL ds_##role *tensor, int whole, ds_u32 n, const ds_real *values) { \
        ds_##role##_pack pack;                                                                                  \
        for (ds_u32 u = 0; u < DS_PACK; u++) pack.elements[u] = ds_round_##role(values[u]);                     \
        if (whole) {                                                                                            \
            *(DS_GLOBAL ds_##role##_pack *)tensor = pack;                                                       \
        } else {                                                                                                \
            for (ds_u32 u = 0; u < n; u++) tensor[u] = pack.elements[u];                                        \
        }                                                                                                       \
    }

DS_DEFINE_ROLE(sample, DS_SAMPLE_TYPE)
DS_DEFINE_ROLE(model_output, DS_MODEL_OUTPUT_TYPE)
DS_DEFINE_ROLE(slot, DS_SLOT_TYPE)
DS_DEFINE_ROLE(model_input, DS_MODEL_INPUT_TYPE)

/* ---- Arithmetic. `single` asks for float32 sums of float32 products, with float32 coefficients. */

#ifdef DS_FLOAT64_SUMS

#define DS_RECORD_COEFFICIENT(member) (member)
DS_FUNCTION ds_coefficient ds_prediction_coefficient(DS_GLOBAL const ds_device_row *record, ds_u32 term) {
    return record->prediction[term];
}
DS_FUNCTION ds_coefficient ds_output_coefficient(DS_GLOBAL const ds_device_row *record, ds_u32 output, ds_u32 term) {
    return record->outputs[output][term];
}

DS_FUNCTION ds_coefficient ds_number(float x) { return x; }
DS_FUNCTION ds_coefficient ds_complement(float x) { return 1 - (double)x; } /* 1 - x */
DS_FUNCTION ds_coefficient ds_product(ds_coefficient a, ds_coefficient b) { return DS_MULTIPLY_DOUBLE(a, b); }
DS_FUNCTION int ds_is_zero(ds_coefficient c) { return c == 0; }

/* Rounds a coefficient to 29 bits, whose products with float32 numbers are exact. */
DS_FUNCTION ds_coefficient ds_shorten(ds_coefficient c, int single) {
    if (DS_HAS_FLOAT64) return c;
    if (single) return (float)c;
    const ds_u64 bits = DS_DOUBLE_BITS(c);
    return DS_DOUBLE_OF_BITS((bits + 0x7FFFFFu + (bits >> 24 & 1u)) & ~(ds_u64)0xFFFFFF);
}

/* A sum of no terms is 0. Another one begins with -0, which changes no number. */
DS_FUNCTION ds_sum ds_begin(int has_terms) { return has_terms ? -0.0 : 0.0; }

/* Products and sums of two float32 numbers are rounded like those of float32 arithmetic, because float64 has enough bits. */
DS_FUNCTION ds_sum ds_add(ds_sum sum, ds_coefficient c, ds_real x, int single) {
    const double product = DS_MULTIPLY_DOUBLE(c, x);
    return single ? (double)(float)DS_ADD_DOUBLE(sum, (double)(float)product) : DS_ADD_DOUBLE(sum, product);
}
DS_FUNCTION ds_real ds_finish(ds_sum sum) { return sum; }

/* Rounds to the type of p. */
DS_FUNCTION ds_real ds_round_p(ds_real x) { return DS_HAS_FLOAT64 ? x : (ds_real)(float)x; }
DS_FUNCTION ds_real ds_divide(ds_real a, ds_real b) { return a / b; }
DS_FUNCTION ds_real ds_root(ds_real x) { return sqrt(x < 0 ? 0 : x); } /* NaN stays */

/* 2^n for an integer n, given as n + 1.5 * 2^52. */
DS_FUNCTION double ds_power(double shifted) { return DS_DOUBLE_OF_BITS((DS_DOUBLE_BITS(shifted) + 1023) << 52); }

/* exp(offset + slope v), by the operations of Sources/CKernels/noise_factor.h, which explains them. */
DS_FUNCTION ds_real ds_exponential(ds_coefficient offset, ds_coefficient slope, ds_real v) {
    const double x = DS_ADD_DOUBLE(offset, DS_MULTIPLY_DOUBLE(slope, v)), bounded = x < -746 ? -746 : x > 710 ? 710 : x;
    const double to_integer = 6755399441055744.0; /* 1.5 * 2^52 */
    const double n = DS_ADD_DOUBLE(DS_ADD_DOUBLE(DS_MULTIPLY_DOUBLE(bounded, 0x1.71547652b82fep+0), to_integer), -to_integer);
    const double half_n = DS_ADD_DOUBLE(DS_MULTIPLY_DOUBLE(n, 0.5), to_integer);
    const double other = DS_ADD_DOUBLE(DS_ADD_DOUBLE(n, -DS_ADD_DOUBLE(half_n, -to_integer)), to_integer);
    const double r = DS_ADD_DOUBLE(DS_ADD_DOUBLE(bounded, -DS_MULTIPLY_DOUBLE(n, 0x1.62e42feep-1)),
                                   -DS_MULTIPLY_DOUBLE(n, 0x1.a39ef35793c76p-33));
    double p = 1.0 / 6227020800.0, factorial = 6227020800.0;
#pragma unroll
    for (int k = 13; k > 2; k--) {
        factorial /= k;
        p = DS_ADD_DOUBLE(DS_MULTIPLY_DOUBLE(p, r), 1.0 / factorial);
    }
    p = DS_ADD_DOUBLE(DS_MULTIPLY_DOUBLE(p, DS_MULTIPLY_DOUBLE(r, r)), r);
    return DS_MULTIPLY_DOUBLE(DS_MULTIPLY_DOUBLE(DS_ADD_DOUBLE(p, 1.0), ds_power(half_n)), ds_power(other));
}

/* The rank of the quantile among n numbers: stores its whole part, returns its fraction. */
DS_FUNCTION ds_real ds_find_rank(ds_real ratio, ds_u32 n, ds_u32 *rank) {
    const double exact = DS_MULTIPLY_DOUBLE(ds_round_p(ratio), (double)(n - 1));
    *rank = (ds_u32)exact;
    return DS_ADD_DOUBLE(exact, -(double)*rank);
}
DS_FUNCTION ds_real ds_interpolate(ds_real below, ds_real above, ds_real fraction) {
    return DS_ADD_DOUBLE(below, DS_MULTIPLY_DOUBLE(fraction, DS_ADD_DOUBLE(above, -below)));
}

#else

#define DS_RECORD_COEFFICIENT(member) ds_split(DS_MEMBER_BITS(member))
DS_FUNCTION ds_pair ds_make_pair(float high, float low) {
    ds_pair pair;
    pair.high = high;
    pair.low = low;
    return pair;
}
DS_FUNCTION ds_coefficient ds_prediction_coefficient(DS_GLOBAL const ds_device_row *record, ds_u32 term) {
    return ds_make_pair(record->prediction_parts[term][0], record->prediction_parts[term][1]);
}
DS_FUNCTION ds_coefficient ds_output_coefficient(DS_GLOBAL const ds_device_row *record, ds_u32 output, ds_u32 term) {
    return ds_make_pair(record->output_parts[output][term][0], record->output_parts[output][term][1]);
}

/* A float64 number, given by its bits: its first 24 bits, and the rest to 24 bits. */
DS_FUNCTION ds_pair ds_split(ds_u64 bits) {
    const ds_u32 sign = (ds_u32)(bits >> 32) & 0x80000000u;
    const int exponent = (int)(bits >> 52 & 0x7FF) - 1023;
    if (exponent < -126) return ds_make_pair(DS_FLOAT_OF_BITS(sign), 0);
    if (exponent > 127) return ds_make_pair(DS_FLOAT_OF_BITS(sign | 0x7F800000u), 0);
    const float high = DS_FLOAT_OF_BITS(sign | (ds_u32)(exponent + 127) << 23 | ((ds_u32)(bits >> 29) & 0x7FFFFFu));
    const float unit = DS_FLOAT_OF_BITS(sign | (exponent < -74 ? 0u : (ds_u32)(exponent + 75) << 23)); /* 2^(exponent - 52) */
    return ds_make_pair(high, DS_MULTIPLY((float)((ds_u32)bits & 0x1FFFFFFFu), unit));
}

/* a + b, exactly (Knuth's TwoSum). */
DS_FUNCTION ds_pair ds_exact_sum(float a, float b) {
    const float sum = DS_ADD(a, b), b_part = DS_ADD(sum, -a);
    return ds_make_pair(sum, DS_ADD(DS_ADD(a, -DS_ADD(sum, -b_part)), DS_ADD(b, -b_part)));
}

DS_FUNCTION ds_coefficient ds_number(float x) { return ds_make_pair(x, 0); }
DS_FUNCTION ds_coefficient ds_complement(float x) { return ds_exact_sum(1, -x); } /* 1 - x */
DS_FUNCTION ds_coefficient ds_product(ds_coefficient a, ds_coefficient b) {
    const float product = DS_MULTIPLY(a.high, b.high), rest = DS_FMA(a.high, b.high, -product);
    return ds_exact_sum(product, DS_FMA(a.high, b.low, DS_FMA(a.low, b.high, rest)));
}
DS_FUNCTION int ds_is_zero(ds_coefficient c) { return c.high == 0; }
DS_FUNCTION ds_coefficient ds_shorten(ds_coefficient c, int single) { return single ? ds_make_pair(DS_ADD(c.high, c.low), 0) : c; }
DS_FUNCTION ds_sum ds_begin(int has_terms) { return ds_make_pair(has_terms ? -0.0f : 0.0f, 0); }

/* `high` sums rounded products, `low` the rounding errors of products and sums. */
DS_FUNCTION ds_sum ds_add(ds_sum sum, ds_coefficient c, ds_real x, int single) {
    const float product = DS_MULTIPLY(c.high, x);
    if (single) return ds_make_pair(DS_ADD(sum.high, product), 0);
    const ds_pair next = ds_exact_sum(sum.high, product);
    const float lost = DS_FMA(c.low, x, DS_FMA(c.high, x, -product));
    return ds_make_pair(next.high, DS_ADD(sum.low, DS_ADD(next.low, lost)));
}

/* Beside an infinity, `low` is a NaN that means nothing; a 0 would change the sign of -0. */
DS_FUNCTION ds_real ds_finish(ds_sum sum) { return sum.low == 0 || sum.low != sum.low ? sum.high : DS_ADD(sum.high, sum.low); }

DS_FUNCTION ds_real ds_round_p(ds_real x) { return x; }
/* One step of Newton's method: a device's quotient may be wrong by 2.5 units in the last place. */
DS_FUNCTION ds_real ds_divide(ds_real a, ds_real b) {
    const float quotient = a / b, correction = DS_FMA(-quotient, b, a) / b;
    return correction != correction ? quotient : DS_ADD(quotient, correction);
}
DS_FUNCTION ds_real ds_root(ds_real x) { return sqrt(x < 0 ? 0 : x); }

/* exp(offset + slope v), with the argument as a pair. */
DS_FUNCTION ds_real ds_exponential(ds_coefficient offset, ds_coefficient slope, ds_real v) {
    const ds_sum x = ds_add(ds_add(ds_begin(1), offset, 1, 0), slope, v, 0);
    const float power = exp(x.high);
    return x.low != x.low ? power : DS_FMA(power, x.low, power);
}

/* The product of the ratio's 24 bits and n - 1 is exact. */
DS_FUNCTION ds_real ds_find_rank(ds_real ratio, ds_u32 n, ds_u32 *rank) {
    const ds_u32 bits = DS_FLOAT_BITS(ratio), shift = 150 - (bits >> 23);
    const ds_u64 product = (ds_u64)((bits & 0x7FFFFFu) | 0x800000u) * (n - 1);
    *rank = 0;
    if (shift > 60) return 0; /* a ratio below 2^-36 */
    *rank = (ds_u32)(product >> shift);
    return DS_MULTIPLY((float)(product & (((ds_u64)1 << shift) - 1)), DS_FLOAT_OF_BITS((127 - shift) << 23));
}
DS_FUNCTION ds_real ds_interpolate(ds_real below, ds_real above, ds_real fraction) {
    return DS_FMA(fraction, DS_ADD(above, -below), below);
}

#endif

/* The number in a record's member. */
#define DS_RECORD_NUMBER(member) ds_finish(DS_RECORD_COEFFICIENT(member))

/* ---- A row, as the threads of a group share it */

/* The terms of its sums, in their order. */
enum { DS_X = 0, DS_E = 1, DS_UNCONDITIONAL = 2, DS_Z = 3, DS_FIRST_SLOT = 4, DS_P = 10, DS_TERMS = 11, DS_INPUTS = 10 };
/* Its sums: the table's outputs, and p. */
enum { DS_PREDICTION = 4, DS_SUMS = 5 };

typedef struct ds_shared_row {
    ds_coefficient coefficients[DS_SUMS][DS_TERMS];
    ds_u32 terms[DS_SUMS]; /* those with a coefficient: bit j for term j */
} ds_shared_row;

/* Whether a record's sums are computed in float32. Factors of noise are too coarse in half types. */
DS_FUNCTION int ds_is_single(DS_GLOBAL const ds_device_row *record) { return DS_HAS_HALVES_ONLY && record->noise_factor == 0; }

/*
 * Reads a record. Guidance, e = scale e_c + (1 - scale) e_u, makes two terms of one.
 *
 * guidance  NULL, or the scale
 */
DS_FUNCTION void ds_share_row(DS_GLOBAL const ds_device_row *record, DS_GLOBAL const float *guidance, DS_LOCAL ds_shared_row *row) {
    for (ds_u32 k = DS_THREAD; k < DS_SUMS; k += DS_THREADS) row->terms[k] = 0;
    DS_BARRIER();
    for (ds_u32 i = DS_THREAD; i < DS_SUMS * DS_TERMS; i += DS_THREADS) {
        const ds_u32 k = i / DS_TERMS, j = i % DS_TERMS, term = j < DS_UNCONDITIONAL ? j : j - 1; /* of the table */
        ds_coefficient c = ds_number(0);
        if (k != DS_PREDICTION)
            c = ds_output_coefficient(record, k, term);
        else if (term < DS_DEVICE_SLOTS)
            c = ds_prediction_coefficient(record, term);
        if (j == DS_UNCONDITIONAL)
            c = guidance ? ds_product(ds_complement(*guidance), c) : ds_number(0);
        else if (j == DS_E && guidance)
            c = ds_product(ds_number(*guidance), c);
        row->coefficients[k][j] = ds_shorten(c, ds_is_single(record));
        if (!ds_is_zero(c)) DS_ATOMIC_OR(&row->terms[k], 1u << j);
    }
    DS_BARRIER();
}

/* The inputs of p, each at an item's first element. */
typedef struct ds_item {
    DS_GLOBAL const ds_sample *sample, *noise;
    DS_GLOBAL const ds_model_output *model_output, *unconditional;
} ds_item;

/* The inputs of the group's item. An item of the model output has twice the elements if it has variances. */
DS_FUNCTION ds_item ds_find_item(DS_GLOBAL const ds_sample *sample, DS_GLOBAL const ds_sample *noise,
                                 DS_GLOBAL const ds_model_output *model_output, DS_GLOBAL const ds_model_output *unconditional,
                                 ds_u32 n_elements, int has_variance) {
    const size_t offset = (size_t)DS_ITEM * n_elements, model_offset = has_variance ? 2 * offset : offset;
    ds_item item;
    item.sample = sample + offset;
    item.noise = noise ? noise + offset : noise;
    item.model_output = model_output + model_offset;
    item.unconditional = unconditional ? unconditional + model_offset : unconditional;
    return item;
}

/* Reads the pack at element i of p's inputs: those in a set of terms. */
DS_FUNCTION void ds_read_item(ds_u32 set, ds_item item, size_t i, int whole, ds_u32 n, ds_real (*inputs)[DS_PACK]) {
    if (set >> DS_X & 1) ds_read_sample(item.sample + i, whole, n, inputs[DS_X]);
    if (set >> DS_E & 1) ds_read_model_output(item.model_output + i, whole, n, inputs[DS_E]);
    if (set >> DS_UNCONDITIONAL & 1) ds_read_model_output(item.unconditional + i, whole, n, inputs[DS_UNCONDITIONAL]);
    if (set >> DS_Z & 1) ds_read_sample(item.noise + i, whole, n, inputs[DS_Z]);
}

/* Sum k of a pack, without its term of p. */
DS_FUNCTION void ds_sum_inputs(DS_LOCAL const ds_shared_row *row, ds_u32 k, ds_real (*inputs)[DS_PACK], int single, ds_sum *sums) {
    const ds_u32 terms = row->terms[k];
    for (ds_u32 u = 0; u < DS_PACK; u++) sums[u] = ds_begin(terms != 0);
#pragma unroll
    for (ds_u32 j = 0; j < DS_INPUTS; j++) {
        if (terms >> j & 1) {
            const ds_coefficient c = row->coefficients[k][j];
            for (ds_u32 u = 0; u < DS_PACK; u++) sums[u] = ds_add(sums[u], c, inputs[j][u], single);
        }
    }
}

/* p of a pack, before the clamp. */
DS_FUNCTION void ds_predict(DS_LOCAL const ds_shared_row *row, ds_real (*inputs)[DS_PACK], int single, ds_real *p) {
    ds_sum sums[DS_PACK];
    ds_sum_inputs(row, DS_PREDICTION, inputs, single, sums);
    for (ds_u32 u = 0; u < DS_PACK; u++) p[u] = ds_round_p(ds_finish(sums[u]));
}

/* Whether packs of tensors, given by their addresses' bits, may be read and written as vectors. */
DS_FUNCTION int ds_is_whole(ds_u32 n_elements, size_t addresses) { return n_elements % DS_PACK == 0 && addresses % 16 == 0; }

/* A loop over the thread's packs: each begins at element i, and n elements are left there. */
#define DS_EACH_PACK(n_elements)                                                                                      \
    for (size_t i = ((size_t)DS_BLOCK * DS_THREADS + DS_THREAD) * DS_PACK, n; n = (n_elements) - i, i < (n_elements); \
         i += (size_t)DS_BLOCKS * DS_THREADS * DS_PACK)

/* The record of the group's item; the one of free places if there is no record of that number. */
DS_FUNCTION ds_u32 ds_find_record(DS_GLOBAL const int *rows, ds_u32 n_records) {
    const ds_u32 number = (ds_u32)rows[DS_ITEM];
    return number < n_records ? number : 0;
}

/* Whether the group is the last one of its item to arrive here. All threads call it. The counter is 0 again afterwards. */
DS_FUNCTION int ds_arrives_last(DS_GLOBAL ds_u32 *counter, DS_LOCAL ds_u32 *is_last) {
    DS_FENCE();
    DS_BARRIER();
    if (DS_THREAD == 0) {
        *is_last = DS_ATOMIC_INCREMENT(counter) == DS_BLOCKS - 1;
        if (*is_last) *counter = 0;
        DS_FENCE();
    }
    DS_BARRIER();
    return *is_last != 0;
}

/* Writes a record's timestep and input scale for the model. */
DS_FUNCTION void ds_tell_model(DS_GLOBAL const ds_device_row *record, DS_GLOBAL DS_TIMESTEP *timesteps,
                               DS_GLOBAL float *input_scales) {
    if (timesteps) timesteps[DS_ITEM] = (DS_TIMESTEP)DS_RECORD_NUMBER(record->timestep);
    if (input_scales) input_scales[DS_ITEM] = (float)DS_RECORD_NUMBER(record->input_scale);
}

/* Writes a pack of the model's input at a record: samples, rounded to their type, times the input scale. */
DS_FUNCTION void ds_write_scaled(DS_GLOBAL const ds_device_row *record, const ds_real *samples,
                                 DS_GLOBAL ds_model_input *model_input, int whole, ds_u32 n) {
    const int single = (DS_SAMPLE_TYPE >= 2) & (DS_MODEL_INPUT_TYPE >= 2);
    const ds_coefficient scale = ds_shorten(DS_RECORD_COEFFICIENT(record->input_scale), single);
    ds_real values[DS_PACK];
    for (ds_u32 u = 0; u < DS_PACK; u++) {
        const ds_real sample = ds_widen_sample(ds_round_sample(samples[u]));
        values[u] = ds_finish(ds_add(ds_begin(1), scale, sample, single));
    }
    ds_write_model_input(model_input, whole, n, values);
}

/* ---- Kernels */

/*
 * ds_device_input writes what the model needs at the items' present rows. A step writes the same for the rows after it.
 *
 * table         [n_records] one table, or several joined ones
 * rows          [n_items] the number of each item's record; free places have 0
 * sample        [n_items, n_elements]
 * model_input   NULL, or [n_items, n_elements]: input scale * sample
 * timesteps     NULL, or [n_items]: what the model is told; 0 in free places
 * input_scales  NULL, or [n_items]; 1 in free places
 */
DS_KERNEL ds_device_input(DS_GLOBAL const ds_device_row *table, ds_u32 n_records, DS_GLOBAL const int *rows, ds_u32 n_elements,
                          DS_GLOBAL const ds_sample *sample, DS_GLOBAL ds_model_input *model_input,
                          DS_GLOBAL DS_TIMESTEP *timesteps, DS_GLOBAL float *input_scales) {
    DS_GLOBAL const ds_device_row *record = table + ds_find_record(rows, n_records);
    const size_t offset = (size_t)DS_ITEM * n_elements;
    const int whole = ds_is_whole(n_elements, (size_t)sample | (size_t)model_input);
    if (DS_BLOCK == 0 && DS_THREAD == 0) ds_tell_model(record, timesteps, input_scales);
    if (!model_input) return;
    DS_EACH_PACK(n_elements) {
        ds_real samples[DS_PACK];
        ds_read_sample(sample + offset + i, whole, n < DS_PACK ? n : DS_PACK, samples);
        ds_write_scaled(record, samples, model_input + offset + i, whole, n < DS_PACK ? n : DS_PACK);
    }
}

/*
 * ds_device_step takes one step of every item. Samples in free places stay as they are.
 *
 * table, rows    as for ds_device_input; `rows` then has the numbers of the next records
 * n_elements     of a batch item; at least 1
 * counters       [n_items] zeros, and zeros afterwards
 * model_output   [n_items, n_elements]; [n_items, 2 n_elements] with variances, each behind its item's prediction
 * unconditional  NULL, or e_u in that form; its variances aren't read
 * guidance       [n_items] guidance scales; 1 where e_u isn't read. NULL if unconditional is.
 * has_variance   1 if model outputs have variances, else 0
 * sample         [n_items, n_elements]
 * noise          in that form; NULL if no row of the table reads noise
 * slots          [n_slots, n_items, n_elements], with the greatest n_slots of the plans; NULL if that is 0. No row reads a slot that its
 *                run hasn't stored: slots need no first value.
 * thresholds     [n_items] of ds_device_threshold; NULL if no row of the table has such a clamp
 * next_sample    [n_items, n_elements]
 * report         NULL, or in that form: what ds_session_step writes to pred_original_sample; not written in free places
 * model_input, timesteps, input_scales
 *                as for ds_device_input, at the next records; not written in places that were free before
 */
DS_KERNEL ds_device_step(DS_GLOBAL const ds_device_row *table, ds_u32 n_records, DS_GLOBAL int *rows, ds_u32 n_elements,
                         DS_GLOBAL ds_u32 *counters, DS_GLOBAL const ds_model_output *model_output,
                         DS_GLOBAL const ds_model_output *unconditional, DS_GLOBAL const float *guidance, int has_variance,
                         DS_GLOBAL const ds_sample *sample, DS_GLOBAL const ds_sample *noise, DS_GLOBAL ds_slot *slots,
                         DS_GLOBAL const ds_real *thresholds, DS_GLOBAL ds_sample *next_sample, DS_GLOBAL ds_sample *report,
                         DS_GLOBAL ds_model_input *model_input, DS_GLOBAL DS_TIMESTEP *timesteps, DS_GLOBAL float *input_scales) {
    DS_SHARED ds_shared_row row;
    DS_SHARED ds_u32 is_last;
    const ds_u32 number = ds_find_record(rows, n_records);
    if (number == 0 && next_sample == sample) return;
    DS_GLOBAL const ds_device_row *record = table + number;
    DS_GLOBAL const ds_device_row *next = table + record->next;
    ds_share_row(record, unconditional ? guidance + DS_ITEM : (DS_GLOBAL const float *)0, &row);

    const ds_u32 wanted = row.terms[0] | row.terms[1] | row.terms[2] | (report ? row.terms[DS_DEVICE_REPORT] : 0u);
    const int uses_p = (int)(wanted >> DS_P & 1), single = ds_is_single(record);
    const ds_u32 set = wanted | (uses_p ? row.terms[DS_PREDICTION] : 0u);
    const int clamp_kind = record->clamp, factor_kind = set >> DS_Z & 1 ? record->noise_factor : 0;
    const ds_real range = ds_round_p(clamp_kind == 2 ? thresholds[DS_ITEM] : DS_RECORD_NUMBER(record->clamp_range));
    const ds_coefficient noise_offset = DS_RECORD_COEFFICIENT(record->noise_offset);
    const ds_coefficient noise_slope = DS_RECORD_COEFFICIENT(record->noise_slope);
    const size_t offset = (size_t)DS_ITEM * n_elements, slot_elements = (size_t)DS_ITEMS * n_elements;
    const ds_item item = ds_find_item(sample, noise, model_output, unconditional, n_elements, has_variance);
    const int whole = ds_is_whole(n_elements, (size_t)model_output | (size_t)unconditional | (size_t)sample | (size_t)noise |
                                                  (size_t)slots | (size_t)next_sample | (size_t)report | (size_t)model_input);

    DS_EACH_PACK(n_elements) {
        const ds_u32 m = n < DS_PACK ? (ds_u32)n : DS_PACK;
        ds_real inputs[DS_INPUTS][DS_PACK], p[DS_PACK];
        ds_read_item(set, item, i, whole, m, inputs);
#pragma unroll
        for (ds_u32 j = 0; j < DS_DEVICE_MAX_READS; j++) {
            if (set >> (DS_FIRST_SLOT + j) & 1)
                ds_read_slot(slots + record->reads[j] * slot_elements + offset + i, whole, m, inputs[DS_FIRST_SLOT + j]);
        }
        if (factor_kind != 0) {
            ds_real variance[DS_PACK];
            ds_read_model_output(item.model_output + n_elements + i, whole, m, variance);
            for (ds_u32 u = 0; u < DS_PACK; u++) {
                const ds_real v = variance[u], f = factor_kind == 1 ? ds_root(v) : ds_exponential(noise_offset, noise_slope, v);
                inputs[DS_Z][u] = ds_round_p(f * inputs[DS_Z][u]);
            }
        }
        if (uses_p) ds_predict(&row, inputs, single, p);
        if (uses_p && clamp_kind != 0) {
            for (ds_u32 u = 0; u < DS_PACK; u++) p[u] = p[u] < -range ? -range : p[u] > range ? range : p[u];
        }
        if (uses_p && clamp_kind == 2) {
            for (ds_u32 u = 0; u < DS_PACK; u++) p[u] = ds_round_p(ds_divide(p[u], range));
        }
#pragma unroll 1
        for (ds_u32 k = 0; k < DS_DEVICE_OUTPUTS; k++) {
            ds_sum sums[DS_PACK];
            ds_real values[DS_PACK];
            if (k == DS_DEVICE_REPORT ? !report : k != 0 && record->stores[k - 1] < 0) continue;
            ds_sum_inputs(&row, k, inputs, single, sums);
            for (ds_u32 u = 0; u < DS_PACK; u++) {
                if (row.terms[k] >> DS_P & 1) sums[u] = ds_add(sums[u], row.coefficients[k][DS_P], p[u], single);
                values[u] = ds_finish(sums[u]);
            }
            if (k == DS_DEVICE_NEXT_SAMPLE) {
                ds_write_sample(next_sample + offset + i, whole, m, values);
                if (model_input) ds_write_scaled(next, values, model_input + offset + i, whole, m);
            } else if (k == DS_DEVICE_REPORT) {
                ds_write_sample(report + offset + i, whole, m, values);
            } else {
                ds_write_slot(slots + record->stores[k - 1] * slot_elements + offset + i, whole, m, values);
            }
        }
    }
    if (ds_arrives_last(counters + DS_ITEM, &is_last) && DS_THREAD == 0) {
        rows[DS_ITEM] = record->next;
        ds_tell_model(next, timesteps, input_scales);
    }
}

/* ---- Thresholds */

enum {
    DS_KEY_BITS = DS_HAS_FLOAT64 ? 63 : 31,
    DS_FIRST_BITS = 16, /* of keys, that the first launch counts */
    DS_OTHER_BITS = 15, /* likewise at most, that each other one counts */
    DS_BINS = 65536,
    DS_PARTS = 256, /* of a histogram */
};

/* The number of launches that find thresholds: 2, or 5 where a tensor is float64. */
#define DS_THRESHOLD_LAUNCHES (1 + (DS_KEY_BITS - DS_FIRST_BITS + DS_OTHER_BITS - 1) / DS_OTHER_BITS)
/* 32-bit words of workspace for an item. */
#define DS_THRESHOLD_WORDS 65544

/* An item's workspace. */
typedef struct ds_selection {
    ds_u32 bins
        [DS_BINS]; /* the first launch's histogram; then two: of keys that begin like the first statistic, and like the second */
    ds_u32 counter, has_nan;
    ds_u32 ranks[2];    /* of the two order statistics, among the keys that begin with the bits found so far, */
    ds_u32 found[2][2]; /* which are these: low words, high words */
} ds_selection;

/* A bin with the key of a rank, that rank among the keys in the bin, and their number. */
typedef struct ds_place {
    ds_u32 bin, rank, count;
} ds_place;

/* The place of a rank among counts, whose sum is greater. */
DS_FUNCTION ds_place ds_find_place(DS_LOCAL const ds_u32 *counts, ds_u32 rank) {
    ds_place place;
    for (place.bin = 0; place.bin < DS_PARTS - 1 && rank >= counts[place.bin]; place.bin++) rank -= counts[place.bin];
    place.rank = rank;
    place.count = counts[place.bin];
    return place;
}

/* The place of a rank in a histogram. All threads call it. */
DS_FUNCTION ds_place ds_locate(DS_GLOBAL ds_u32 *bins, ds_u32 n_bins, ds_u32 rank, DS_LOCAL ds_u32 *counts) {
    const ds_u32 size = (n_bins + DS_PARTS - 1) / DS_PARTS;
    for (ds_u32 part = DS_THREAD; part < DS_PARTS; part += DS_THREADS) {
        ds_u32 count = 0;
        for (ds_u32 bin = part * size; bin < (part + 1) * size && bin < n_bins; bin++) count += DS_ATOMIC_READ(bins + bin);
        counts[part] = count;
    }
    DS_BARRIER();
    const ds_place part = ds_find_place(counts, rank);
    DS_BARRIER();
    for (ds_u32 i = DS_THREAD; i < DS_PARTS; i += DS_THREADS)
        counts[i] = i < size && part.bin * size + i < n_bins ? DS_ATOMIC_READ(bins + part.bin * size + i) : 0;
    DS_BARRIER();
    ds_place place = ds_find_place(counts, part.rank);
    place.bin += part.bin * size;
    DS_BARRIER();
    return place;
}

DS_FUNCTION ds_key ds_key_of(ds_real p) {
#if DS_HAS_FLOAT64
    return DS_DOUBLE_BITS(p) & ~((ds_u64)1 << 63);
#else
    return DS_FLOAT_BITS((float)p) & 0x7FFFFFFFu;
#endif
}

DS_FUNCTION ds_real ds_number_of_key(ds_key key) {
#if DS_HAS_FLOAT64
    return DS_DOUBLE_OF_BITS(key);
#else
    return DS_FLOAT_OF_BITS(key);
#endif
}

/*
 * ds_device_threshold finds the thresholds of the items whose rows have a dynamic one, exactly: min(max(q, 1), maximum), with q the
 * quantile of |p| at the row's ratio, interpolated linearly between two order statistics, which are found by their bits. Each launch
 * counts the keys that begin with the bits found so far by the bits that follow, and the last group to arrive finds these. The two
 * histograms are cleared where they have been read.
 *
 * launch      0, 1, ... DS_THRESHOLD_LAUNCHES - 1, one after the other
 * workspace   [n_items, DS_THRESHOLD_WORDS] zeros before the first launch, and again after the last
 * thresholds  [n_items]; NaN where p has a NaN. Written by the last launch.
 * others      as for ds_device_step, which follows
 */
DS_KERNEL ds_device_threshold(DS_GLOBAL const ds_device_row *table, ds_u32 n_records, DS_GLOBAL const int *rows, ds_u32 n_elements,
                              ds_u32 launch, DS_GLOBAL const ds_model_output *model_output,
                              DS_GLOBAL const ds_model_output *unconditional, DS_GLOBAL const float *guidance, int has_variance,
                              DS_GLOBAL const ds_sample *sample, DS_GLOBAL const ds_sample *noise, DS_GLOBAL ds_u32 *workspace,
                              DS_GLOBAL ds_real *thresholds) {
    DS_SHARED ds_shared_row row;
    DS_SHARED ds_u32 is_last;
    DS_SHARED ds_u32 counts[DS_PARTS];
    DS_GLOBAL const ds_device_row *record = table + ds_find_record(rows, n_records);
    if (record->clamp != 2) return;
    ds_share_row(record, unconditional ? guidance + DS_ITEM : (DS_GLOBAL const float *)0, &row);

    const int single = ds_is_single(record);
    const ds_item item = ds_find_item(sample, noise, model_output, unconditional, n_elements, has_variance);
    const int whole = ds_is_whole(n_elements, (size_t)model_output | (size_t)unconditional | (size_t)sample | (size_t)noise);
    DS_GLOBAL ds_selection *selection = (DS_GLOBAL ds_selection *)(workspace + (size_t)DS_ITEM * DS_THRESHOLD_WORDS);

    /* The bits that this launch counts: below `shift + n_bits`, from `shift` on. */
    const ds_u32 above = launch == 0 ? DS_KEY_BITS : DS_KEY_BITS - DS_FIRST_BITS - (launch - 1) * DS_OTHER_BITS;
    const ds_u32 most = launch == 0 ? DS_FIRST_BITS : DS_OTHER_BITS, n_bits = above < most ? above : most, shift = above - n_bits;
    const ds_u32 n_bins = 1u << n_bits;
    ds_key found[2];
    for (int which = 0; which < 2; which++)
        found[which] = (ds_key)((ds_u64)selection->found[1][which] << 32 | selection->found[0][which]);

    DS_EACH_PACK(n_elements) {
        const ds_u32 m = n < DS_PACK ? (ds_u32)n : DS_PACK;
        ds_real inputs[DS_INPUTS][DS_PACK], p[DS_PACK];
        ds_read_item(row.terms[DS_PREDICTION], item, i, whole, m, inputs);
        ds_predict(&row, inputs, single, p);
        for (ds_u32 u = 0; u < m; u++) {
            const ds_key key = ds_key_of(p[u]);
            const ds_u32 bin = (ds_u32)(key >> shift) & (n_bins - 1);
            if (p[u] != p[u])
                DS_ATOMIC_OR(&selection->has_nan, 1u);
            else if (key >> above == found[0])
                DS_ATOMIC_INCREMENT(&selection->bins[bin]);
            else if (key >> above == found[1])
                DS_ATOMIC_INCREMENT(&selection->bins[DS_BINS / 2 + bin]);
        }
    }
    if (!ds_arrives_last(&selection->counter, &is_last)) return;

    ds_u32 ranks[2];
    const ds_real fraction = ds_find_rank(DS_RECORD_NUMBER(record->threshold_ratio), n_elements, &ranks[0]);
    ranks[1] = fraction > 0 ? ranks[0] + 1 : ranks[0];
    if (launch > 0) {
        ranks[0] = selection->ranks[0];
        ranks[1] = selection->ranks[1];
    }
    const int is_shared = found[0] == found[1];
    ds_place places[2];
    places[0] = ds_locate(selection->bins, n_bins, ranks[0], counts);
    places[1] = places[0];
    places[1].rank += ranks[1] - ranks[0];
    if (!is_shared || places[1].rank >= places[0].count)
        places[1] = ds_locate(selection->bins + (is_shared ? 0 : DS_BINS / 2), n_bins, ranks[1], counts);
    for (int which = 0; which < 2; which++) found[which] = (ds_key)(found[which] << n_bits | places[which].bin);
    for (ds_u32 bin = DS_THREAD; bin < n_bins; bin += DS_THREADS) {
        selection->bins[bin] = 0;
        if (!is_shared) selection->bins[DS_BINS / 2 + bin] = 0;
    }
    if (DS_THREAD != 0) return;

    const int is_done = shift == 0;
    for (int which = 0; which < 2; which++) {
        selection->ranks[which] = is_done ? 0 : places[which].rank;
        selection->found[0][which] = is_done ? 0 : (ds_u32)found[which];
        selection->found[1][which] = is_done ? 0 : (ds_u32)((ds_u64)found[which] >> 32);
    }
    if (!is_done) return;
    const ds_real maximum = DS_RECORD_NUMBER(record->threshold_maximum);
    const ds_real quantile = ds_round_p(ds_interpolate(ds_number_of_key(found[0]), ds_number_of_key(found[1]), fraction));
    const int has_nan = DS_ATOMIC_READ(&selection->has_nan) != 0;
    ds_real threshold = quantile < 1 ? 1 : quantile;
    if (!(threshold < maximum) && (threshold == threshold || maximum <= 1)) threshold = maximum;
    thresholds[DS_ITEM] = has_nan ? (ds_real)DS_FLOAT_OF_BITS(0x7FC00000u) : threshold;
    selection->has_nan = 0;
}
