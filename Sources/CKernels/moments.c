/* SPDX-License-Identifier: Apache-2.0 */

/* Means, variances and covariances of batch items, the same for any number of threads. */

#include "elements.h"

#include <math.h>

/* Elements per partial sum, and partial sums computed at a time (on the stack). */
enum { PART_ELEMENTS = 16384, PART_COUNT = 64, LANES = 8 };

typedef struct part_sums {
    size_t n;
    double a, b, aa, bb, ab; /* sums of deviations from the pivots, and of their products */
} part_sums;

#define DSK_TEMPLATE "moments_template.h"
#define DSK_KIND_NAME moments
#include "kernels_all_isas.h"

typedef void (*part_summer)(dsk_element_type type, const void *a, const void *b, size_t begin, size_t end, double pivot_a,
                            double pivot_b, part_sums *sums);

static part_summer chosen_summer(void) {
#if defined(__x86_64__)
    return (part_summer[]){sum_moments_baseline, sum_moments_avx2, sum_moments_avx512}[dsk_chosen_isa()];
#else
    return sum_moments_baseline;
#endif
}

typedef struct moments_work {
    dsk_element_type type;
    part_summer sum;
    const void *a, *b;
    size_t n_elements, first_part;
    double pivot_a, pivot_b;
    part_sums *parts;
} moments_work;

static void sum_part(void *context, size_t part) {
    const moments_work *work = context;
    size_t begin = (work->first_part + part) * PART_ELEMENTS;
    size_t end = work->n_elements - begin < PART_ELEMENTS ? work->n_elements : begin + PART_ELEMENTS;
    work->sum(work->type, work->a, work->b, begin, end, work->pivot_a, work->pivot_b, &work->parts[part]);
}

static dsk_moments item_moments(dsk_element_type type, const void *a, const void *b, size_t n, unsigned max_threads) {
    if (n == 0) return (dsk_moments){NAN, NAN, NAN, NAN, NAN};
    part_sums parts[PART_COUNT];
    moments_work work = {.type = type,
                         .sum = chosen_summer(),
                         .a = a,
                         .b = b,
                         .n_elements = n,
                         .pivot_a = dsk_element_value(type, a, 0),
                         .pivot_b = dsk_element_value(type, b, 0),
                         .parts = parts};
    size_t n_parts = (n + PART_ELEMENTS - 1) / PART_ELEMENTS;
    double count = 0, mean_a = 0, mean_b = 0, aa = 0, bb = 0, ab = 0; /* of the parts combined so far */
    for (; work.first_part < n_parts; work.first_part += PART_COUNT) {
        size_t present = n_parts - work.first_part < PART_COUNT ? n_parts - work.first_part : PART_COUNT;
        dsk_parallel(present, max_threads, sum_part, &work);
        for (size_t i = 0; i < present; i++) {
            double m = (double)parts[i].n, da = parts[i].a / m - mean_a, db = parts[i].b / m - mean_b;
            double share = m / (count + m), weight = count * share;
            aa += parts[i].aa - parts[i].a * (parts[i].a / m) + da * da * weight;
            bb += parts[i].bb - parts[i].b * (parts[i].b / m) + db * db * weight;
            ab += parts[i].ab - parts[i].a * (parts[i].b / m) + da * db * weight;
            mean_a += da * share;
            mean_b += db * share;
            count += m;
        }
    }
    return (dsk_moments){.mean_a = mean_a + work.pivot_a,
                         .mean_b = mean_b + work.pivot_b,
                         .variance_a = aa > 0 || isnan(aa) ? aa / count : 0,
                         .variance_b = bb > 0 || isnan(bb) ? bb / count : 0,
                         .covariance = ab / count};
}

typedef struct items_work {
    dsk_element_type type;
    const void *const *a, *const *b;
    size_t n_elements_per_item;
    dsk_moments *moments;
} items_work;

static void find_item_moments(void *context, size_t i, unsigned max_threads) {
    const items_work *work = context;
    work->moments[i] = item_moments(work->type, work->a[i], work->b[i], work->n_elements_per_item, max_threads);
}

dsk_status dsk_find_moments(dsk_element_type type, const void *const *a, const void *const *b, size_t n_items,
                            size_t n_elements_per_item, dsk_moments *moments, unsigned max_threads) {
    size_t element_size = dsk_element_size(type);
    if (element_size == 0) return DSK_UNKNOWN_TYPE;
    if (n_items == 0) return DSK_OK;
    if (!a || !b || !moments) return DSK_NULL_POINTER;
    if (n_elements_per_item > SIZE_MAX / element_size / n_items) return DSK_TOO_LARGE;
    for (size_t i = 0; i < n_items && n_elements_per_item > 0; i++) {
        if (!a[i] || !b[i]) return DSK_NULL_POINTER;
        if ((uintptr_t)a[i] % element_size != 0 || (uintptr_t)b[i] % element_size != 0) return DSK_MISALIGNED;
    }
    items_work work = {type, a, b, n_elements_per_item, moments};
    dsk_parallel_items(n_items, n_items * n_elements_per_item, max_threads, find_item_moments, &work);
    return DSK_OK;
}
