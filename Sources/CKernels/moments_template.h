/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The sums behind the moments, for every instruction set: see kernels_all_isas.h. Lanes are summed separately and then added in
 * order, so that vectors of any length give the same bits.
 */

static inline __attribute__((always_inline)) DSK_TARGET void DSK_NAME(sum_typed)(dsk_element_type type, const void *a,
                                                                                 const void *b, size_t begin, size_t end,
                                                                                 double pivot_a, double pivot_b, part_sums *sums) {
    double sum_a[LANES] = {0}, sum_b[LANES] = {0}, sum_aa[LANES] = {0}, sum_bb[LANES] = {0}, sum_ab[LANES] = {0};
    size_t i = begin;
    for (; end - i >= LANES; i += LANES)
        for (size_t lane = 0; lane < LANES; lane++) {
            double da = dsk_element_value(type, a, i + lane) - pivot_a, db = dsk_element_value(type, b, i + lane) - pivot_b;
            sum_a[lane] += da;
            sum_b[lane] += db;
            sum_aa[lane] += da * da;
            sum_bb[lane] += db * db;
            sum_ab[lane] += da * db;
        }
    for (size_t lane = 0; lane < end - i; lane++) {
        double da = dsk_element_value(type, a, i + lane) - pivot_a, db = dsk_element_value(type, b, i + lane) - pivot_b;
        sum_a[lane] += da;
        sum_b[lane] += db;
        sum_aa[lane] += da * da;
        sum_bb[lane] += db * db;
        sum_ab[lane] += da * db;
    }
    *sums = (part_sums){.n = end - begin};
    for (unsigned lane = 0; lane < LANES; lane++) {
        sums->a += sum_a[lane];
        sums->b += sum_b[lane];
        sums->aa += sum_aa[lane];
        sums->bb += sum_bb[lane];
        sums->ab += sum_ab[lane];
    }
}

DSK_TARGET static void DSK_NAME(sum)(dsk_element_type type, const void *a, const void *b, size_t begin, size_t end, double pivot_a,
                                     double pivot_b, part_sums *sums) {
    DSK_FOR_TYPE(type, DSK_NAME(sum_typed), a, b, begin, end, pivot_a, pivot_b, sums);
}
