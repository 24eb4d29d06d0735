/* SPDX-License-Identifier: Apache-2.0 */

/* Reads single elements of any type, widened to double, which is exact. */
#ifndef DSK_ELEMENTS_H
#define DSK_ELEMENTS_H

#include "internal.h"

#include <string.h>

static inline double dsk_double_from_bits(uint64_t bits) {
    double value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline double dsk_widen_float16(uint64_t half) {
    uint64_t sign = (half & 0x8000) << 48, magnitude = half & 0x7FFF;
    double value = magnitude < 0x400 ? (double)(int)magnitude * 0x1p-24
                                     : dsk_double_from_bits((magnitude << 42) + ((uint64_t)(1023 - 15) << 52));
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    if (magnitude >= 0x7C00) bits |= 0x7FFull << 52;
    return dsk_double_from_bits(bits | sign);
}

static inline double dsk_widen_bfloat16(uint16_t half) {
    uint32_t bits = (uint32_t)half << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return (double)value;
}

/* Calls function(type, ...) with the type as a constant, so that loops in it vectorise and don't branch on the type. */
#define DSK_FOR_TYPE(type, function, ...)   \
    if ((type) == DSK_FLOAT32)              \
        function(DSK_FLOAT32, __VA_ARGS__); \
    else if ((type) == DSK_FLOAT64)         \
        function(DSK_FLOAT64, __VA_ARGS__); \
    else if ((type) == DSK_FLOAT16)         \
        function(DSK_FLOAT16, __VA_ARGS__); \
    else                                    \
        function(DSK_BFLOAT16, __VA_ARGS__)

static inline bool dsk_is_type(dsk_element_type type) { return (unsigned)type <= DSK_BFLOAT16; }

/* dsk_element_size of a valid type. */
static inline size_t dsk_size(dsk_element_type type) { return type == DSK_FLOAT64 ? 8 : type == DSK_FLOAT32 ? 4 : 2; }

static inline double dsk_element_value(dsk_element_type type, const void *tensor, size_t i) {
    switch (type) {
    case DSK_FLOAT64: return ((const dsk_loose_double *)tensor)[i];
    case DSK_FLOAT32: return (double)((const dsk_loose_float *)tensor)[i];
    case DSK_FLOAT16: return dsk_widen_float16(((const dsk_loose_uint16 *)tensor)[i]);
    case DSK_BFLOAT16: return dsk_widen_bfloat16(((const dsk_loose_uint16 *)tensor)[i]);
    }
    return 0;
}

/* dsk_overlap: whether two ranges share a byte. dsk_partly_overlap: the same, except when they are identical. */
static inline bool dsk_overlap(const void *input, size_t input_bytes, const void *output, size_t output_bytes) {
    uintptr_t distance = (uintptr_t)input - (uintptr_t)output;
    return distance < output_bytes || (uintptr_t)0 - distance < input_bytes;
}

static inline bool dsk_partly_overlap(const void *input, size_t input_bytes, const void *output, size_t output_bytes) {
    return dsk_overlap(input, input_bytes, output, output_bytes) && !(input == output && input_bytes == output_bytes);
}

#endif
