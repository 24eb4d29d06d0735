/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Dynamic thresholds: the exact quantile of |p| by selection, in one pass over the tensors at the usual sizes.
 *
 * The key of a non-negative IEEE number is its bits, read as an integer. Keys are ordered like their numbers; keys above infinity's
 * are NaNs. A sample of the keys gives two fences that very probably enclose the k-th smallest key. One pass then counts the keys
 * below and at the low fence, and copies the few keys between the fences, the candidates. The counts tell whether the k-th key is
 * the low fence or which candidate it is. If it is neither, because the sample was unrepresentative or there are too many
 * candidates, the counts still narrow it down, and the next pass has other fences. (Floyd and Rivest 1975,
 * doi:10.1145/360680.360691, also select from a sample.)
 *
 * The result is one of the keys, so it depends neither on the sample nor on the order in which threads find the candidates.
 */

#include "internal.h"

#include <math.h>
#include <stdatomic.h>
#include <string.h>

enum {
    CHUNK_ELEMENTS = 16384, /* elements per chunk: enough to outweigh summing the chunk's counts */
    NO_SAMPLE = 512,        /* up to this many elements, select without a sample */
    LEAST_ROOM = 2048,      /* candidate buffer: n / ROOM_SHARE, but at least min(n, LEAST_ROOM) */
    ROOM_SHARE = 8,
    LEAST_SAMPLE = 64, /* see sample_size */
    GREATEST_SAMPLE = 8192,
};

/* The most that fences from a sample are widened. */
static const double most_widening = 16;

static size_t candidate_capacity(size_t n) {
    size_t least = n < LEAST_ROOM ? n : LEAST_ROOM;
    return n / ROOM_SHARE > least ? n / ROOM_SHARE : least;
}

/*
 * About n^(2/3) / 4, with Floyd and Rivest's exponent. A larger sample costs more itself but leaves fewer candidates between the
 * fences: a share of about m^(-1/2), if the sample has m elements.
 */
static size_t sample_size(size_t n) {
    if (n <= NO_SAMPLE) return 0;
    const int third_of_bits = (63 - __builtin_clzll(n)) / 3;
    size_t size = n >> (2 + third_of_bits);
    return size < LEAST_SAMPLE ? LEAST_SAMPLE : size < GREATEST_SAMPLE ? size : GREATEST_SAMPLE;
}

size_t dsk_threshold_workspace_size(size_t n_elements) {
    return (candidate_capacity(n_elements) + sample_size(n_elements)) * sizeof(uint64_t);
}

/* The number that a key encodes. */
static double value_of(uint64_t key, bool is_wide) {
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

/*
 * The k-th smallest, from 0, of n keys; reorders the keys. Radix selection: the six highest bits in which the keys differ
 * separate most keys from the k-th, then the next six bits do.
 */
static uint64_t select_smallest(uint64_t *keys, size_t n, size_t k) {
    for (;;) {
        uint64_t least = UINT64_MAX, greatest = 0;
        for (size_t i = 0; i < n; i++) {
            least = keys[i] < least ? keys[i] : least;
            greatest = keys[i] > greatest ? keys[i] : greatest;
        }
        if (least == greatest) return least;
        int differing = 64 - __builtin_clzll(least ^ greatest);
        int shift = differing > 6 ? differing - 6 : 0;
        uint32_t bins[64] = {0};
        for (size_t i = 0; i < n; i++) bins[keys[i] >> shift & 63]++;
        unsigned bin = 0;
        while (k >= bins[bin]) k -= bins[bin++];
        size_t n_same = 0;
        for (size_t i = 0; i < n; i++) {
            uint64_t key = keys[i];
            keys[i] = keys[n_same];
            keys[n_same] = key;
            n_same += (key >> shift & 63) == bin;
        }
        n = n_same;
    }
}

typedef struct selection {
    const dsk_program *program;
    const dsk_kernels *kernels;
    size_t n_elements;
    unsigned max_threads;
    int64_t infinity; /* the key of infinity */
    uint64_t *candidates;
    size_t capacity;
    uint64_t *sample;
    size_t n_sample;
    bool has_sample;
    atomic_bool has_nan;
    /* The last pass: */
    int64_t low, high; /* the fences */
    atomic_size_t n_below, n_to_low;
    atomic_size_t n_candidates; /* all keys between the fences, even if the buffer was too small */
} selection;

static void sift_chunk(void *context, size_t chunk) {
    selection *work = context;
    size_t begin = chunk * CHUNK_ELEMENTS;
    size_t end = work->n_elements - begin < CHUNK_ELEMENTS ? work->n_elements : begin + CHUNK_ELEMENTS;
    uint64_t between[DSK_SIEVE_ELEMENTS];
    dsk_sieve counts = {.low = work->low, .high = work->high};
    for (size_t i = begin; i < end; i += DSK_SIEVE_ELEMENTS) {
        size_t block_end = end - i < DSK_SIEVE_ELEMENTS ? end : i + DSK_SIEVE_ELEMENTS;
        size_t n = work->kernels->sift(work->program, i, block_end, &counts, between);
        if (n == 0) continue;
        size_t place = atomic_fetch_add_explicit(&work->n_candidates, n, memory_order_relaxed);
        if (place < work->capacity) {
            size_t room = work->capacity - place;
            memcpy(work->candidates + place, between, (n < room ? n : room) * sizeof *between);
        }
    }
    atomic_fetch_add_explicit(&work->n_below, counts.n_below, memory_order_relaxed);
    atomic_fetch_add_explicit(&work->n_to_low, counts.n_to_low, memory_order_relaxed);
    if (counts.has_nan) atomic_store_explicit(&work->has_nan, true, memory_order_relaxed);
}

/* One pass. */
static void sift(selection *work, int64_t low, int64_t high) {
    work->low = low;
    work->high = high;
    work->n_below = work->n_to_low = work->n_candidates = 0;
    dsk_parallel((work->n_elements + CHUNK_ELEMENTS - 1) / CHUNK_ELEMENTS, work->max_threads, sift_chunk, work);
}

enum { SAMPLE_PART = 256 };

/* The sample: one element from each of n_sample equal parts, at a position that no pattern in the tensor matches. */
static void pick_chunk(void *context, size_t chunk) {
    selection *work = context;
    size_t begin = chunk * SAMPLE_PART, end = begin + SAMPLE_PART < work->n_sample ? begin + SAMPLE_PART : work->n_sample;
    size_t positions[SAMPLE_PART] = {0}, part = work->n_elements / work->n_sample;
    for (size_t i = begin; i < end; i++) {
        /*
         * The first half of splitmix64's mixing of a counter; the high bits are used (Steele, Lea and Flood 2014,
         * doi:10.1145/2660193.2660195).
         */
        uint64_t mixed = (i + 1) * 0x9E3779B97F4A7C15u;
        mixed = (mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9u;
        positions[i - begin] = i * part + (size_t)((mixed >> 32) * part >> 32);
    }
    work->kernels->pick(work->program, positions, end - begin, work->sample + begin);
    for (size_t i = begin; i < end; i++)
        if ((int64_t)work->sample[i] > work->infinity) atomic_store_explicit(&work->has_nan, true, memory_order_relaxed);
}

static void take_sample(selection *work) {
    dsk_parallel((work->n_sample + SAMPLE_PART - 1) / SAMPLE_PART, work->max_threads, pick_chunk, work);
    work->has_sample = true;
}

/*
 * The fences of one attempt: the expected rank in the sample, plus and minus `widening` times three standard deviations of that
 * rank, as far as the candidate buffer allows. Wider fences fail less often and cost more candidates.
 */
static void choose_fences(const selection *work, size_t rank, double widening, int64_t *low, int64_t *high) {
    double m = (double)work->n_sample, n = (double)work->n_elements, share = ((double)rank + 0.5) / n;
    double margin = 3 * sqrt(m * share * (1 - share)) + 1;
    double most = 0.375 * m * (double)work->capacity / n;
    margin = widening * (margin < most ? margin : most);
    double first = floor(share * m - margin), last = ceil(share * m + margin);
    if (first >= 0) *low = (int64_t)select_smallest(work->sample, work->n_sample, (size_t)first);
    if (last < m) *high = (int64_t)select_smallest(work->sample, work->n_sample, (size_t)last);
}

/* Whether the last pass determines the key of a rank. */
static bool is_told(selection *work, size_t rank, int64_t *key) {
    *key = work->low;
    if (rank < work->n_to_low) return rank >= work->n_below;
    if (rank >= work->n_to_low + work->n_candidates || work->n_candidates > work->capacity) return false;
    *key = (int64_t)select_smallest(work->candidates, work->n_candidates, rank - work->n_to_low);
    return true;
}

/* The key of a rank, from 0, in ascending order; -1 if there is a NaN. */
static int64_t order_statistic(selection *work, size_t rank) {
    /* The key is at least `low` and below `high`, as n_keys are. */
    int64_t low = 0, high = work->infinity + 1, key;
    size_t n_below = 0, n_keys = work->n_elements;
    double widening = 1;
    for (int pass = 0;; pass++) {
        int64_t a = low - 1, b = high;
        if (n_keys > (pass == 0 ? NO_SAMPLE : work->capacity)) {
            if (!work->has_sample) take_sample(work);
            if (work->has_nan) return -1;
            if (widening <= most_widening)
                choose_fences(work, rank, widening, &a, &b);
            else /* the sample misleads: halve the range of keys, at most 63 times */
                a = low + (high - low) / 2;
            /* Fences in the range, the low one below the high one. */
            a = a < low ? low : a < high ? a : high - 1;
            b = b <= a ? a + 1 : b < high ? b : high;
        }
        sift(work, a, b);
        if (work->has_nan) return -1;
        if (is_told(work, rank, &key)) return key;
        const size_t n_to_a = work->n_to_low, n_below_b = n_to_a + work->n_candidates, n_below_high = n_below + n_keys;
        widening *= 4;
        if (rank < work->n_below) {
            high = a;
            n_keys = work->n_below - n_below;
        } else if (rank < n_below_b) {
            low = a + 1;
            high = b;
            n_below = n_to_a;
            n_keys = n_below_b - n_to_a;
            widening = INFINITY;
        } else {
            low = b;
            n_below = n_below_b;
            n_keys = n_below_high - n_below_b;
        }
    }
}

/* The key of the next rank, once the last pass determined this rank's. */
static int64_t next_order_statistic(selection *work, size_t rank, int64_t key) {
    int64_t next;
    if (rank < work->n_to_low || rank + 1 >= work->n_to_low + work->n_candidates)
        return is_told(work, rank + 1, &next) ? next : order_statistic(work, rank + 1);
    /* Both are candidates. */
    size_t n_to_key = work->n_to_low;
    next = INT64_MAX;
    for (size_t i = 0; i < work->n_candidates; i++) {
        int64_t candidate = (int64_t)work->candidates[i];
        n_to_key += candidate <= key;
        next = candidate > key && candidate < next ? candidate : next;
    }
    return rank + 1 < n_to_key ? key : next;
}

static double find_threshold(const dsk_item *item, unsigned max_threads) {
    const double max_value = item->row->row.threshold_maximum;
    size_t n = item->n_elements;
    if (n == 0) return fmin(1, max_value);

    dsk_program program;
    dsk_prepare_thresholds(&program, item);
    const bool is_wide = program.kind == (dsk_kernel_kind)DSK_FLOAT64; /* p is float64 */
    selection work = {.program = &program,
                      .kernels = dsk_kernels_for(program.kind),
                      .n_elements = n,
                      .max_threads = max_threads,
                      .infinity = is_wide ? 0x7FFll << 52 : 0xFFll << 23,
                      .candidates = item->workspace,
                      .capacity = candidate_capacity(n),
                      .n_sample = sample_size(n)};
    work.sample = work.candidates + work.capacity;
    if (max_value <= 1) { /* only a NaN changes the answer */
        sift(&work, 0, 0);
        return work.has_nan ? (double)NAN : max_value;
    }

    double ratio = item->row->row.threshold_ratio;
    if (!is_wide) ratio = (float)ratio;
    const double rank = ratio * (double)(n - 1);
    const size_t k = (size_t)rank;
    int64_t first = order_statistic(&work, k), second = first;
    if (first >= 0 && rank > (double)k) second = next_order_statistic(&work, k, first);
    if (first < 0 || second < 0) return NAN;
    const double below = value_of((uint64_t)first, is_wide), above = value_of((uint64_t)second, is_wide);
    /* The difference of two infinities is NaN, as in torch's interpolation. */
    double quantile = below + (rank - (double)k) * (above - below);
    if (!is_wide) quantile = (float)quantile;
    if (isnan(quantile)) return NAN;
    return fmin(fmax(quantile, 1), max_value);
}

static void find_item_threshold(void *context, size_t i, unsigned max_threads) {
    dsk_item *item = (dsk_item *)context + i;
    if (item->row->row.clamp == DSK_CLAMP_THRESHOLD) item->threshold = find_threshold(item, max_threads);
}

dsk_status dsk_find_thresholds(dsk_item *items, size_t n_items, unsigned max_threads) {
    dsk_status status = dsk_check_thresholds(items, n_items);
    if (status != DSK_OK) return status;
    size_t n_elements = 0;
    for (size_t i = 0; i < n_items; i++)
        if (items[i].row->row.clamp == DSK_CLAMP_THRESHOLD) n_elements += items[i].n_elements;
    dsk_parallel_items(n_items, n_elements, max_threads, find_item_threshold, items);
    return DSK_OK;
}
