/*
 * Dynamic thresholds: the exact quantile of |p| by radix selection.
 *
 * The keys (see kernels_template.h) are read digit by digit from the top: a pass counts the keys that agree with the k-th one
 * in the digits known so far by their next digit, and the counts say which digit the k-th key has. The last digit's counts
 * give v[k] exactly, and v[k+1] is v[k] again, or the next key counted, or the least key seen above the prefix.
 * Counts don't depend on who counted, so neither does the result.
 */

#include "internal.h"

#include <math.h>
#include <stdatomic.h>
#include <string.h>

/* Elements a chunk counts: long enough to pay for its own table of counts. */
enum { COUNT_GRAIN = 65536 };

typedef struct selection {
    const dsk_program *program;
    size_t n_elements;
    const dsk_kernels *kernels;
    dsk_digit digit;
    _Atomic size_t bins[DSK_BIN_COUNT];
    _Atomic uint64_t least_above;
    _Atomic bool has_nan;
} selection;

static void count_chunk(void *context, size_t chunk) {
    selection *work = context;
    size_t begin = chunk * COUNT_GRAIN;
    size_t end = work->n_elements - begin < COUNT_GRAIN ? work->n_elements : begin + COUNT_GRAIN;
    dsk_histogram local;
    memset(&local, 0, sizeof local);
    local.least_above = UINT64_MAX;
    work->kernels->count(work->program, begin, end, work->digit, &local);

    for (unsigned bin = 0; bin < DSK_BIN_COUNT; bin++)
        if (local.bins[bin]) atomic_fetch_add_explicit(&work->bins[bin], local.bins[bin], memory_order_relaxed);
    if (local.has_nan) atomic_store_explicit(&work->has_nan, true, memory_order_relaxed);
    uint64_t seen = atomic_load_explicit(&work->least_above, memory_order_relaxed);
    while (local.least_above < seen &&
           !atomic_compare_exchange_weak_explicit(&work->least_above, &seen, local.least_above, memory_order_relaxed,
                                                  memory_order_relaxed)) {}
}

static void count_digit(selection *work, unsigned max_threads) {
    for (unsigned bin = 0; bin < DSK_BIN_COUNT; bin++) atomic_store_explicit(&work->bins[bin], 0, memory_order_relaxed);
    atomic_store_explicit(&work->least_above, UINT64_MAX, memory_order_relaxed);
    dsk_parallel((work->n_elements + COUNT_GRAIN - 1) / COUNT_GRAIN, max_threads, count_chunk, work);
}

static double key_value(bool is_wide, uint64_t key) {
    if (is_wide) {
        double value;
        memcpy(&value, &key, sizeof value);
        return value;
    }
    uint32_t bits = (uint32_t)key;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static double find_threshold(const dsk_item *item, double ratio, double max_value, unsigned max_threads) {
    size_t n = item->n_elements;
    if (n == 0) return fmin(1, max_value);

    dsk_program program;
    dsk_prepare(&program, item, true, false);
    selection work = {.program = &program, .n_elements = n, .kernels = dsk_kernels_for(program.kind)};
    const unsigned key_bits = program.is_wide ? 63 : 31;
    if (!program.is_wide) ratio = (float)ratio;
    const double rank = ratio * (double)(n - 1);
    const size_t k = (size_t)rank;
    size_t below = 0; /* the number of keys less than every key with the prefix */
    unsigned undecided = key_bits;

    work.digit.prefix_shift = 64;
    while (undecided > 0) {
        unsigned width = undecided < DSK_DIGIT_BITS ? undecided : DSK_DIGIT_BITS;
        work.digit.shift = undecided - width;
        /* The bins are DSK_DIGIT_BITS wide; the last digit repeats bits of the prefix, which all its keys share. */
        count_digit(&work, max_threads);
        if (atomic_load_explicit(&work.has_nan, memory_order_relaxed)) return NAN;
        if (max_value <= 1) return max_value;

        unsigned bin = 0;
        while (below + work.bins[bin] <= k) below += work.bins[bin++];
        uint64_t digit = bin & ((1u << width) - 1);
        work.digit.prefix = work.digit.prefix << width | digit;
        undecided -= width;
        work.digit.prefix_shift = undecided;
        if (undecided > 0) continue;

        double low = key_value(program.is_wide, work.digit.prefix), high = low;
        if (rank > (double)k && below + work.bins[bin] == k + 1) {
            unsigned next = bin + 1;
            while (next < DSK_BIN_COUNT && work.bins[next] == 0) next++;
            uint64_t key = next < DSK_BIN_COUNT ? work.digit.prefix + (next - bin) : work.least_above;
            high = key_value(program.is_wide, key);
        }
        /* Two infinities make a NaN of the difference: torch's interpolation says so too. */
        double quantile = low + (rank - (double)k) * (high - low);
        if (!program.is_wide) quantile = (float)quantile;
        if (isnan(quantile)) return NAN;
        return fmin(fmax(quantile, 1), max_value);
    }
    return NAN;
}

typedef struct thresholds_work {
    dsk_item *items;
    double ratio, max_value;
} thresholds_work;

static void find_one_threshold(void *context, size_t i) {
    const thresholds_work *work = context;
    work->items[i].threshold = find_threshold(&work->items[i], work->ratio, work->max_value, 1);
}

dsk_status dsk_find_thresholds(dsk_item *items, size_t n_items, double ratio, double max_value, unsigned max_threads) {
    dsk_status status = dsk_check_items(items, n_items, true);
    if (status != DSK_OK) return status;
    if (!(ratio >= 0 && ratio <= 1) || !(max_value > 0)) return DSK_OUT_OF_RANGE;

    thresholds_work work = {items, ratio, max_value};
    size_t total = 0;
    for (size_t i = 0; i < n_items; i++) total += items[i].n_elements;
    if (total < dsk_get_limits().parallel_elements) max_threads = 1;

    /* Enough items keep every thread busy with one each; few large ones are shared out inside. */
    if (n_items >= dsk_thread_count(max_threads)) {
        dsk_parallel(n_items, max_threads, find_one_threshold, &work);
    } else {
        const dsk_environment host = dsk_begin_default_environment();
        for (size_t i = 0; i < n_items; i++)
            items[i].threshold = find_threshold(&items[i], ratio, max_value, max_threads);
        dsk_end_default_environment(host);
    }
    return DSK_OK;
}
