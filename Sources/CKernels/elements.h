/* Elements of every type, one at a time: widened to double, which is exact, and rounded from double, once. */
#ifndef DSK_ELEMENTS_H
#define DSK_ELEMENTS_H

#include "internal.h"

#include <string.h>

/* The least exponent of a normal number, and the bits after its leading one. */
enum { DSK_FLOAT16_LEAST_EXPONENT = -14, DSK_FLOAT16_FRACTION_BITS = 10 };
enum { DSK_BFLOAT16_LEAST_EXPONENT = -126, DSK_BFLOAT16_FRACTION_BITS = 7 };

static inline uint64_t dsk_double_bits(double value) {
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static inline double dsk_double_from_bits(uint64_t bits) {
    double value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/*
 * The multiple of 2^(e - fraction_bits) nearest to the value, ties to even, where 2^e is the value's power of two or the least
 * one: what a narrow type with so many bits rounds it to, subnormal numbers included, but for overflow.
 *
 * Why is it rounded once? The unit in the last place of 1.5 * 2^(e + 52 - fraction_bits) is 2^(e - fraction_bits), and adding
 * |value| < 2^(e+1) stays below the next power of two: the sum rounds to the multiple wanted, and the difference is exact.
 * From 2^200 on nothing is added that counts, and everything overflows later. A NaN and an infinity go through.
 */
static inline uint64_t dsk_grid_constant(int fraction_bits) { return ((uint64_t)(52 - fraction_bits) << 52) + (1ull << 51); }
static inline uint64_t dsk_power_bits(int exponent) { return (uint64_t)(1023 + exponent) << 52; }

static inline double dsk_round_to_grid(double value, int least_exponent, int fraction_bits) {
    uint64_t bits = dsk_double_bits(value), power = bits & 0x7FFull << 52;
    if (power < dsk_power_bits(least_exponent)) power = dsk_power_bits(least_exponent);
    if (power > dsk_power_bits(200)) power = dsk_power_bits(200);
    double shift = dsk_double_from_bits(power + dsk_grid_constant(fraction_bits));
    double rounded = (value + shift) - shift;
    return dsk_double_from_bits(dsk_double_bits(rounded) | (bits & 1ull << 63)); /* a zero keeps its sign */
}

static inline double dsk_widen_float16(uint16_t half) {
    uint64_t sign = (uint64_t)(half & 0x8000) << 48, magnitude = half & 0x7FFF;
    double value = magnitude < 0x400 ? (double)(int)magnitude * 0x1p-24
                                     : dsk_double_from_bits((magnitude << 42) + ((uint64_t)(1023 - 15) << 52));
    uint64_t bits = dsk_double_bits(value);
    if (magnitude >= 0x7C00) bits |= 0x7FFull << 52;
    return dsk_double_from_bits(bits | sign);
}

static inline uint16_t dsk_round_to_float16(double value) {
    value = dsk_round_to_grid(value, DSK_FLOAT16_LEAST_EXPONENT, DSK_FLOAT16_FRACTION_BITS);
    uint64_t bits = dsk_double_bits(value), magnitude = bits & ~(1ull << 63);
    uint16_t sign = (uint16_t)(bits >> 48 & 0x8000);
    double absolute = dsk_double_from_bits(magnitude);
    if (value != value) return sign | 0x7E00;
    if (absolute >= 0x1p16) return sign | 0x7C00;
    if (absolute < 0x1p-14) return sign | (uint16_t)(absolute * 0x1p24);
    return sign | (uint16_t)((magnitude - ((uint64_t)(1023 - 15) << 52)) >> 42);
}

static inline double dsk_widen_bfloat16(uint16_t half) {
    uint32_t bits = (uint32_t)half << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return (double)value;
}

static inline uint16_t dsk_round_to_bfloat16(double value) {
    /* Exact, or to infinity; a NaN becomes a quiet one, whose first bits are kept. */
    float narrow = (float)dsk_round_to_grid(value, DSK_BFLOAT16_LEAST_EXPONENT, DSK_BFLOAT16_FRACTION_BITS);
    uint32_t bits;
    memcpy(&bits, &narrow, sizeof bits);
    return (uint16_t)(bits >> 16);
}

/* dsk_element_size of a valid type. */
static inline size_t dsk_size(dsk_element_type type) { return type == DSK_FLOAT64 ? 8 : type == DSK_FLOAT32 ? 4 : 2; }

/* An element of a tensor as it lies in memory, in the low bits. */
static inline uint64_t dsk_get_element(dsk_element_type type, const void *tensor, size_t i) {
    switch (type) {
    case DSK_FLOAT64: return ((const dsk_loose_uint64 *)tensor)[i];
    case DSK_FLOAT32: return ((const dsk_loose_uint32 *)tensor)[i];
    default: return ((const dsk_loose_uint16 *)tensor)[i];
    }
}

static inline void dsk_put_element(dsk_element_type type, void *tensor, size_t i, uint64_t element) {
    switch (type) {
    case DSK_FLOAT64: ((dsk_loose_uint64 *)tensor)[i] = element; break;
    case DSK_FLOAT32: ((dsk_loose_uint32 *)tensor)[i] = (uint32_t)element; break;
    default: ((dsk_loose_uint16 *)tensor)[i] = (uint16_t)element; break;
    }
}

static inline double dsk_widen_element(dsk_element_type type, uint64_t element) {
    uint32_t word = (uint32_t)element;
    float value;
    switch (type) {
    case DSK_FLOAT64: return dsk_double_from_bits(element);
    case DSK_FLOAT32: memcpy(&value, &word, sizeof value); return (double)value;
    case DSK_FLOAT16: return dsk_widen_float16((uint16_t)element);
    case DSK_BFLOAT16: return dsk_widen_bfloat16((uint16_t)element);
    }
    return 0;
}

static inline uint64_t dsk_round_to_element(dsk_element_type type, double value) {
    float narrow = (float)value;
    uint32_t word;
    switch (type) {
    case DSK_FLOAT64: return dsk_double_bits(value);
    case DSK_FLOAT32: memcpy(&word, &narrow, sizeof word); return word;
    case DSK_FLOAT16: return dsk_round_to_float16(value);
    case DSK_BFLOAT16: return dsk_round_to_bfloat16(value);
    }
    return 0;
}

static inline double dsk_element_value(dsk_element_type type, const void *tensor, size_t i) {
    return dsk_widen_element(type, dsk_get_element(type, tensor, i));
}

#endif
