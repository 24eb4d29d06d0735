/* SPDX-License-Identifier: Apache-2.0 */

/* Functions of one number for noise_factor_template.h, without branches and without fused operations. */
#ifndef DSK_NOISE_FACTOR_H
#define DSK_NOISE_FACTOR_H

#include "internal.h"

#include <string.h>

/* The root of max(x, 0); NaN stays. Negative variances, which a model can predict, have no root. */
static inline double dsk_root(double x) {
    const double bounded = x < 0 ? 0 : x;
#if DSK_HAS_ELEMENTWISE
    return __builtin_elementwise_sqrt(bounded); /* never errno, unlike sqrt */
#else
    return __builtin_sqrt(bounded);
#endif
}

static inline uint64_t dsk_bits(double x) {
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

/* 2^n for an integer n from -1022 to 1023, given as the bits of n + 1.5 * 2^52, whose last ones are n. */
static inline double dsk_power(uint64_t bits) {
    const uint64_t exponent = (bits + 1023) << 52;
    double power;
    memcpy(&power, &exponent, sizeof power);
    return power;
}

/*
 * exp(x) = 2^n exp(r) with n the integer nearest to x / ln 2 and |r| <= ln 2 / 2. exp(r) is the Taylor polynomial of degree 13,
 * whose remainder is 4e-18. ln 2 is split in two; the first part has 32 bits, so n times it is exact (Cody and Waite 1980). 2^n is
 * two factors, because it may be less than the least normal number. NaN stays.
 */
static inline double dsk_exponential(double x) {
    const double bounded = x < -746 ? -746 : x > 710 ? 710 : x, to_integer = 0x1.8p52;
    const double shifted = bounded * 0x1.71547652b82fep+0 + to_integer, n = shifted - to_integer;
    const double half = n * 0.5 + to_integer, other = n - (half - to_integer) + to_integer;
    const double r = (bounded - n * 0x1.62e42feep-1) - n * 0x1.a39ef35793c76p-33;
    double p = 1.0 / 6227020800;
    p = p * r + 1.0 / 479001600;
    p = p * r + 1.0 / 39916800;
    p = p * r + 1.0 / 3628800;
    p = p * r + 1.0 / 362880;
    p = p * r + 1.0 / 40320;
    p = p * r + 1.0 / 5040;
    p = p * r + 1.0 / 720;
    p = p * r + 1.0 / 120;
    p = p * r + 1.0 / 24;
    p = p * r + 1.0 / 6;
    p = p * r + 0.5;
    p = p * (r * r) + r;
    return (p + 1) * dsk_power(dsk_bits(half)) * dsk_power(dsk_bits(other));
}

#endif
