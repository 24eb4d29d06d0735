/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The factors of noise whose variance the model predicts, written once for every instruction set. The includer defines DSK_REAL,
 * DSK_TARGET and DSK_NAME as for kernels_template.h.
 *
 * Every variant gives the same bits: all operations are in float64, in one order, and none is fused.
 */

/* scaled[i] = f(variance[i]) * noise[i], of n elements of DSK_REAL. Its loops have no branches, so that compilers vectorise them. */
DSK_TARGET static __attribute__((noinline)) void DSK_NAME(scale_noise)(const dsk_row *row, const void *variance, const void *noise,
                                                                       size_t n, DSK_REAL *scaled) {
    const DSK_REAL *const v = variance, *const z = noise;
    if (row->noise_factor == DSK_NOISE_FACTOR_ROOT) {
        for (size_t i = 0; i < n; i++) scaled[i] = (DSK_REAL)(dsk_root((double)v[i]) * (double)z[i]);
    } else {
        const double offset = row->noise_offset, slope = row->noise_slope;
        for (size_t i = 0; i < n; i++) scaled[i] = (DSK_REAL)(dsk_exponential(offset + slope * (double)v[i]) * (double)z[i]);
    }
}
