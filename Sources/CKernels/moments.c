/* Means, variances and covariances of batch items, the same for any number of threads. */

#include "elements.h"

#include <math.h>

/* Elements a partial sum covers, and partial sums that are computed at a time (on the stack). */
enum { PART_ELEMENTS = 16384, PART_COUNT = 64, LANES = 8 };

typedef struct part_sums {
    size_t n;
    double a, b, aa, bb, ab; /* sums of deviations from the pivots, and of their products */
} part_sums;

typedef struct moments_work {
    dsk_element_type type;
    const void *a, *b;
    size_t n_elements, first_part;
    double pivot_a, pivot_b;
    part_sums *parts;
} moments_work;

static void sum_part(void *context, size_t part) {
    const moments_work *work = context;
    size_t begin = (work->first_part + part) * PART_ELEMENTS;
    size_t end = work->n_elements - begin < PART_ELEMENTS ? work->n_elements : begin + PART_ELEMENTS;
    /* Lanes are added up in their order at the end, so the compiler may keep them in a vector of any length. */
    double a[LANES] = {0}, b[LANES] = {0}, aa[LANES] = {0}, bb[LANES] = {0}, ab[LANES] = {0};
    for (size_t i = begin; i < end; i++) {
        size_t lane = (i - begin) % LANES;
        double da = dsk_element_value(work->type, work->a, i) - work->pivot_a;
        double db = dsk_element_value(work->type, work->b, i) - work->pivot_b;
        a[lane] += da;
        b[lane] += db;
        aa[lane] += da * da;
        bb[lane] += db * db;
        ab[lane] += da * db;
    }
    part_sums sums = {.n = end - begin};
    for (unsigned lane = 0; lane < LANES; lane++) {
        sums.a += a[lane];
        sums.b += b[lane];
        sums.aa += aa[lane];
        sums.bb += bb[lane];
        sums.ab += ab[lane];
    }
    work->parts[part] = sums;
}

static dsk_moments item_moments(dsk_element_type type, const void *a, const void *b, size_t n, unsigned max_threads) {
    if (n == 0) return (dsk_moments){NAN, NAN, NAN, NAN, NAN};
    part_sums parts[PART_COUNT];
    moments_work work = {
        .type = type, .a = a, .b = b, .n_elements = n, .pivot_a = dsk_element_value(type, a, 0),
        .pivot_b = dsk_element_value(type, b, 0), .parts = parts};
    size_t n_parts = (n + PART_ELEMENTS - 1) / PART_ELEMENTS;
    double count = 0, mean_a = 0, mean_b = 0, aa = 0, bb = 0, ab = 0; /* of what has been combined so far */
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
    return (dsk_moments){
        .mean_a = mean_a + work.pivot_a, .mean_b = mean_b + work.pivot_b, .variance_a = aa > 0 || isnan(aa) ? aa / count : 0,
        .variance_b = bb > 0 || isnan(bb) ? bb / count : 0, .covariance = ab / count};
}

dsk_status dsk_find_moments(dsk_element_type type, const void *a, const void *b, size_t n_items, size_t n_elements_per_item,
                            dsk_moments *moments, unsigned max_threads) {
    size_t element_size = dsk_element_size(type);
    if (element_size == 0) return DSK_UNKNOWN_TYPE;
    if (n_items == 0) return DSK_OK;
    if (!moments || (n_elements_per_item > 0 && (!a || !b))) return DSK_NULL_POINTER;
    if ((uintptr_t)a % element_size != 0 || (uintptr_t)b % element_size != 0) return DSK_MISALIGNED;
    if (n_elements_per_item > SIZE_MAX / element_size / n_items) return DSK_TOO_LARGE;
    if (n_elements_per_item < dsk_get_limits().parallel_elements) max_threads = 1;
    const dsk_environment host = dsk_begin_default_environment();
    for (size_t i = 0; i < n_items; i++) {
        size_t offset = i * n_elements_per_item * element_size;
        moments[i] = item_moments(type, (const char *)a + offset, (const char *)b + offset, n_elements_per_item, max_threads);
    }
    dsk_end_default_environment(host);
    return DSK_OK;
}
