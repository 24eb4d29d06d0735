/* SPDX-License-Identifier: Apache-2.0 */

/* The fused step: checking items, cutting them into chunks, and the calls built on it. */

#include "elements.h"
#include "environment.h"

#include <stdatomic.h>

/*
 * Measured on a two-core virtual machine (Zen 4). A parallel region costs about 2 microseconds, the time of one thread for about
 * 30,000 elements of an order-3 step. Streaming stores win if the traffic is well above a core's share of the last-level cache, and
 * lose below.
 */
static _Atomic size_t parallel_elements = 32768;
static _Atomic size_t streaming_bytes = (size_t)32 << 20;

dsk_limits dsk_get_limits(void) {
    return (dsk_limits){atomic_load_explicit(&parallel_elements, memory_order_relaxed),
                        atomic_load_explicit(&streaming_bytes, memory_order_relaxed)};
}

void dsk_set_limits(dsk_limits limits) {
    atomic_store_explicit(&parallel_elements, limits.parallel_elements, memory_order_relaxed);
    atomic_store_explicit(&streaming_bytes, limits.streaming_bytes, memory_order_relaxed);
}

/* overlap: whether two ranges share a byte. partly_overlap: the same, except when they are identical. A skipped output has 0 bytes
 * at NULL. */
static bool overlap(const void *input, size_t input_bytes, const void *output, size_t output_bytes) {
    uintptr_t distance = (uintptr_t)input - (uintptr_t)output;
    return distance < output_bytes || (uintptr_t)0 - distance < input_bytes;
}

static bool partly_overlap(const void *input, size_t input_bytes, const void *output, size_t output_bytes) {
    return overlap(input, input_bytes, output, output_bytes) && !(input == output && input_bytes == output_bytes);
}

/* The inputs that an item reads, as sets of bits 1 << dsk_input. They are computed once and without a branch, because a small step
 * spends most of its time here. */
typedef struct item_reads {
    unsigned prediction; /* for p, if an output uses it */
    unsigned outputs[DSK_OUTPUT_COUNT];
    bool uses_prediction;
} item_reads;

static unsigned nonzero(const double *coefficients, unsigned count) {
    unsigned set = 0;
    for (unsigned i = 0; i < count; i++) set |= (unsigned)(coefficients[i] != 0) << i;
    return set;
}

static void find_reads(const dsk_item *item, bool for_thresholds, item_reads *reads) {
    const dsk_row *row = item->row;
    bool uses_prediction = for_thresholds;
    for (unsigned k = 0; k < DSK_OUTPUT_COUNT; k++) {
        reads->outputs[k] = item->outputs[k] ? nonzero(row->outputs[k], DSK_INPUT_COUNT) : 0;
        uses_prediction |= item->outputs[k] && row->outputs[k][DSK_PREDICTION] != 0;
    }
    reads->uses_prediction = uses_prediction;
    reads->prediction = uses_prediction ? nonzero(row->prediction, DSK_PREDICTION_INPUT_COUNT) : 0;
}

/* Removes the first input from a non-empty set. */
static unsigned take_first(unsigned *set) {
    unsigned first = (unsigned)__builtin_ctz(*set);
    *set &= *set - 1;
    return first;
}

/* More elements than any address space holds, of any type. */
static const size_t most_elements = SIZE_MAX / sizeof(double);

static bool is_type(dsk_element_type type) { return (unsigned)type <= DSK_BFLOAT16; }

static dsk_status check_row(const dsk_item *item, bool for_thresholds) {
    const dsk_row *row = item->row;
    if (for_thresholds) {
        if (!(row->threshold_ratio >= 0 && row->threshold_ratio <= 1) || !(row->threshold_maximum > 0)) return DSK_OUT_OF_RANGE;
        if (item->n_elements > 0 && !item->workspace) return DSK_NULL_POINTER;
        return (uintptr_t)item->workspace % _Alignof(double) == 0 ? DSK_OK : DSK_MISALIGNED;
    }
    switch (row->clamp) {
    case DSK_CLAMP_NONE: return DSK_OK;
    case DSK_CLAMP_RANGE: return row->clamp_range > 0 ? DSK_OK : DSK_OUT_OF_RANGE;
    /* NaN is allowed: dsk_find_thresholds gives it for an item with a NaN. */
    case DSK_CLAMP_THRESHOLD: return item->threshold <= 0 ? DSK_OUT_OF_RANGE : DSK_OK;
    default: return DSK_OUT_OF_RANGE;
    }
}

/* Checks the tensors that an item with elements reads and, for a step, writes; adds their bytes to `traffic`. */
static dsk_status check_tensors(const dsk_item *item, const item_reads *reads, bool for_thresholds, size_t *traffic) {
    const size_t n = item->n_elements;
    const void *outputs[DSK_OUTPUT_COUNT]; /* the outputs that aren't skipped */
    size_t output_bytes[DSK_OUTPUT_COUNT], element_bytes = 0;
    unsigned n_outputs = 0, all = reads->prediction;
    for (unsigned k = 0; k < DSK_OUTPUT_COUNT; k++) {
        if (!item->outputs[k]) continue;
        if (!is_type(item->output_types[k])) return DSK_UNKNOWN_TYPE;
        if (for_thresholds) continue;
        size_t size = dsk_size(item->output_types[k]);
        if ((uintptr_t)item->outputs[k] & (size - 1)) return DSK_MISALIGNED;
        for (unsigned other = 0; other < n_outputs; other++)
            if (overlap(outputs[other], output_bytes[other], item->outputs[k], n * size)) return DSK_OVERLAP;
        outputs[n_outputs] = item->outputs[k];
        output_bytes[n_outputs++] = n * size;
        element_bytes += size;
        all |= reads->outputs[k];
    }
    while (all) {
        unsigned input = take_first(&all);
        const void *tensor = item->inputs[input];
        if (!tensor) return DSK_MISSING_INPUT;
        if (!is_type(item->input_types[input])) return DSK_UNKNOWN_TYPE;
        size_t size = dsk_size(item->input_types[input]);
        if ((uintptr_t)tensor & (size - 1)) return DSK_MISALIGNED;
        element_bytes += size;
        for (unsigned k = 0; k < n_outputs; k++)
            if (partly_overlap(tensor, n * size, outputs[k], output_bytes[k])) return DSK_OVERLAP;
    }
    size_t bytes;
    if (__builtin_mul_overflow(n, element_bytes, &bytes) || __builtin_add_overflow(*traffic, bytes, traffic)) *traffic = SIZE_MAX;
    return DSK_OK;
}

/* Checks an item and finds the inputs that it reads; adds to the call's elements and bytes. */
static dsk_status check_item(const dsk_item *item, bool for_thresholds, item_reads *reads, size_t *n_elements, size_t *traffic) {
    if (!item->row) return DSK_NULL_POINTER;
    if (item->n_elements > most_elements - *n_elements) return DSK_TOO_LARGE;
    *n_elements += item->n_elements;
    if (for_thresholds && item->row->clamp != DSK_CLAMP_THRESHOLD) return DSK_OK;
    dsk_status status = check_row(item, for_thresholds);
    if (status != DSK_OK) return status;
    find_reads(item, for_thresholds, reads);
    return item->n_elements == 0 ? DSK_OK : check_tensors(item, reads, for_thresholds, traffic);
}

dsk_status dsk_check_thresholds(const dsk_item *items, size_t n_items) {
    if (!items && n_items) return DSK_NULL_POINTER;
    size_t n_elements = 0, traffic = 0;
    item_reads reads;
    for (size_t i = 0; i < n_items; i++) {
        dsk_status status = check_item(&items[i], true, &reads, &n_elements, &traffic);
        if (status != DSK_OK) return status;
    }
    return DSK_OK;
}

static unsigned type_bit(dsk_element_type type) { return 1u << type; }

/* Sets the terms for the inputs of a set, and adds their types to `types`. */
static void add_terms(dsk_combination *terms, const dsk_item *item, unsigned inputs, const double *coefficients, unsigned *types) {
    unsigned n = 0;
    while (inputs) {
        unsigned input = take_first(&inputs);
        terms->tensors[n] = item->inputs[input];
        terms->types[n] = (uint8_t)item->input_types[input];
        terms->coefficients[n++] = coefficients[input];
        *types |= type_bit(item->input_types[input]);
    }
    terms->n_terms = n;
}

/* The kernels for tensors of the types in the set `own`, in an item of the types in the set `all`. */
static dsk_kernel_kind kernel_kind(unsigned own, unsigned all) {
    const unsigned float32 = type_bit(DSK_FLOAT32), float64 = type_bit(DSK_FLOAT64);
    if (all & float64) return own == float64 ? (dsk_kernel_kind)DSK_FLOAT64 : DSK_KERNEL_WIDE;
    if (all & float32) return own == float32 ? (dsk_kernel_kind)DSK_FLOAT32 : DSK_KERNEL_SHORT;
    if (own == type_bit(DSK_FLOAT16)) return (dsk_kernel_kind)DSK_FLOAT16;
    return own == type_bit(DSK_BFLOAT16) ? (dsk_kernel_kind)DSK_BFLOAT16 : DSK_KERNEL_HALF;
}

/* p alone. Its type depends on all tensors that a step of the item reads and writes; some of them may be missing here. */
void dsk_prepare_thresholds(dsk_program *program, const dsk_item *item) {
    item_reads reads;
    find_reads(item, true, &reads);
    unsigned own = 0, others = 0;
    *program = (dsk_program){.uses_prediction = true};
    add_terms(&program->prediction, item, reads.prediction, item->row->prediction, &own);
    for (unsigned k = 0; k < DSK_OUTPUT_COUNT; k++) {
        if (!item->outputs[k]) continue;
        others |= type_bit(item->output_types[k]);
        for (unsigned read = reads.outputs[k]; read;) {
            unsigned input = take_first(&read);
            if (item->inputs[input] && is_type(item->input_types[input])) others |= type_bit(item->input_types[input]);
        }
    }
    program->is_wide = (own | others) & type_bit(DSK_FLOAT64);
    program->kind = kernel_kind(own, own | others);
}

/* Prepares a checked item; `streaming`: outputs that aren't inputs bypass the caches. */
static void prepare(dsk_program *program, const dsk_item *item, const item_reads *reads, bool streaming) {
    const dsk_row *row = item->row;
    unsigned types = 0;
    program->uses_prediction = reads->uses_prediction;
    program->prediction.prediction = 0; /* p is not a term of itself */
    add_terms(&program->prediction, item, reads->prediction, row->prediction, &types);
    program->clamp = row->clamp;
    program->clamp_range = row->clamp == DSK_CLAMP_THRESHOLD ? item->threshold : row->clamp_range;
    program->n_outputs = 0;
    for (unsigned k = 0; k < DSK_OUTPUT_COUNT; k++) {
        if (!item->outputs[k]) continue;
        unsigned place = program->n_outputs++;
        add_terms(&program->outputs[place], item, reads->outputs[k], row->outputs[k], &types);
        program->outputs[place].prediction = row->outputs[k][DSK_PREDICTION];
        program->destinations[place] = item->outputs[k];
        program->destination_types[place] = (uint8_t)item->output_types[k];
        types |= type_bit(item->output_types[k]);
        program->streaming[place] = streaming;
        /* Cache lines of inputs are in the cache anyway. */
        for (unsigned input = 0; streaming && input < DSK_INPUT_COUNT; input++)
            if (item->inputs[input] == item->outputs[k]) program->streaming[place] = false;
    }
    program->is_wide = types & type_bit(DSK_FLOAT64);
    program->kind = kernel_kind(types, types);
}

typedef struct step_work {
    const dsk_item *items;
    size_t n_items;
    const dsk_program *only_program; /* the item's, if there is only one item */
    size_t total_elements;
    size_t n_chunks;
    bool streaming;
} step_work;

/* Chunks begin at multiples of this many elements of the whole call, so that they seldom share a cache line. */
enum { CHUNK_GRAIN = 64 };

static size_t chunk_begin(const step_work *work, size_t chunk) {
    if (chunk == work->n_chunks) return work->total_elements;
    size_t begin = work->total_elements / work->n_chunks * chunk;
    return begin - begin % CHUNK_GRAIN;
}

static void step_chunk(void *context, size_t chunk) {
    const step_work *work = context;
    size_t begin = chunk_begin(work, chunk), end = chunk_begin(work, chunk + 1);
    if (work->only_program) {
        if (begin < end) dsk_kernels_for(work->only_program->kind)->step(work->only_program, begin, end);
        return;
    }
    size_t item_begin = 0; /* where the item starts in the whole call */
    for (size_t i = 0; i < work->n_items && item_begin < end; i++) {
        const dsk_item *item = &work->items[i];
        size_t item_end = item_begin + item->n_elements;
        size_t from = begin > item_begin ? begin : item_begin, to = end < item_end ? end : item_end;
        if (from < to) {
            dsk_program program;
            item_reads reads;
            find_reads(item, false, &reads);
            prepare(&program, item, &reads, work->streaming);
            dsk_kernels_for(program.kind)->step(&program, from - item_begin, to - item_begin);
        }
        item_begin = item_end;
    }
}

dsk_status dsk_step(const dsk_item *items, size_t n_items, unsigned max_threads) {
    if (!items && n_items) return DSK_NULL_POINTER;
    step_work work = {.items = items, .n_items = n_items, .n_chunks = 1};
    size_t traffic = 0;
    item_reads reads;
    for (size_t i = 0; i < n_items; i++) {
        dsk_status status = check_item(&items[i], false, &reads, &work.total_elements, &traffic);
        if (status != DSK_OK) return status;
    }

    const dsk_limits limits = dsk_get_limits();
    work.streaming = traffic >= limits.streaming_bytes;
    dsk_program program;
    if (n_items == 1) {
        prepare(&program, items, &reads, work.streaming);
        work.only_program = &program;
    }
    if (work.total_elements >= limits.parallel_elements && max_threads != 1) {
        unsigned n_threads = dsk_thread_count(max_threads);
        size_t most = work.total_elements / CHUNK_GRAIN;
        work.n_chunks = n_threads < most ? n_threads : most ? most : 1;
    }
    dsk_parallel(work.n_chunks, max_threads, step_chunk, &work);
    return DSK_OK;
}

static void guide(double *coefficients, double conditional, double unconditional) {
    double coefficient = coefficients[DSK_MODEL_OUTPUT];
    coefficients[DSK_MODEL_OUTPUT] = conditional * coefficient;
    coefficients[DSK_MODEL_OUTPUT_2] = unconditional * coefficient;
}

void dsk_guide_row(const dsk_row *row, double scale, double factor, dsk_row *guided) {
    const dsk_environment host = dsk_begin_default();
    double conditional = factor * scale, unconditional = factor * (1 - scale);
    if (guided != row) *guided = *row;
    guide(guided->prediction, conditional, unconditional);
    for (unsigned k = 0; k < DSK_OUTPUT_COUNT; k++) guide(guided->outputs[k], conditional, unconditional);
    dsk_end_default(host);
}

dsk_status dsk_add_noise(dsk_element_type type, const void *sample, const void *noise, const double *signal_rates,
                         const double *noise_rates, size_t n_items, size_t n_elements_per_item, void *out, unsigned max_threads) {
    enum { BLOCK = 16 }; /* items per call of dsk_step, so that rows and items stay on the stack */
    size_t element_size = dsk_element_size(type);
    if (element_size == 0) return DSK_UNKNOWN_TYPE;
    if (n_items == 0) return DSK_OK;
    if (!sample || !noise || !signal_rates || !noise_rates || !out) return DSK_NULL_POINTER;
    if (n_elements_per_item > SIZE_MAX / element_size / n_items) return DSK_TOO_LARGE;
    if ((uintptr_t)sample % element_size || (uintptr_t)noise % element_size || (uintptr_t)out % element_size) return DSK_MISALIGNED;
    size_t bytes = n_elements_per_item * element_size;
    size_t all = n_items * bytes;
    if (partly_overlap(sample, all, out, all) || partly_overlap(noise, all, out, all)) return DSK_OVERLAP;

    for (size_t first = 0; first < n_items; first += BLOCK) {
        dsk_row rows[BLOCK] = {0};
        dsk_item items[BLOCK] = {0};
        size_t count = n_items - first < BLOCK ? n_items - first : BLOCK;
        for (size_t i = 0; i < count; i++) {
            size_t offset = (first + i) * bytes;
            rows[i].outputs[0][DSK_SAMPLE] = signal_rates[first + i];
            rows[i].outputs[0][DSK_NOISE] = noise_rates[first + i];
            items[i].row = &rows[i];
            items[i].input_types[DSK_SAMPLE] = items[i].input_types[DSK_NOISE] = items[i].output_types[0] = type;
            items[i].inputs[DSK_SAMPLE] = (const char *)sample + offset;
            items[i].inputs[DSK_NOISE] = (const char *)noise + offset;
            items[i].outputs[0] = (char *)out + offset;
            items[i].n_elements = n_elements_per_item;
        }
        dsk_status status = dsk_step(items, count, max_threads);
        if (status != DSK_OK) return status;
    }
    return DSK_OK;
}

dsk_status dsk_scale(dsk_element_type type, const void *sample, double factor, size_t n_elements, void *out, unsigned max_threads) {
    if (dsk_element_size(type) == 0) return DSK_UNKNOWN_TYPE;
    if (n_elements && (!sample || !out)) return DSK_NULL_POINTER;
    dsk_row row = {0};
    dsk_item item = {.row = &row, .n_elements = n_elements};
    row.outputs[0][DSK_SAMPLE] = factor;
    item.inputs[DSK_SAMPLE] = sample;
    item.input_types[DSK_SAMPLE] = item.output_types[0] = type;
    item.outputs[0] = out;
    return dsk_step(&item, 1, max_threads);
}
