/* The fused step: checking items, cutting them into chunks, and the calls built on it. */

#include "elements.h"

#include <stdatomic.h>

/*
 * Measured on a two-core virtual machine (Zen 4). A parallel region costs about 2 microseconds, which is what one thread
 * needs for some 30,000 elements of an order-3 step; streaming stores win once the traffic is well above the last-level
 * cache's share of a core, and lose below.
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

/* Two arrays of so many bytes share some. */
static bool overlap(const void *a, size_t a_bytes, const void *b, size_t b_bytes) {
    uintptr_t first = (uintptr_t)a, second = (uintptr_t)b;
    if (a_bytes == 0 || b_bytes == 0) return false;
    return first < second ? second - first < a_bytes : first - second < b_bytes;
}

/* An output may not lie so: not in place, where every element has its own bytes, but over others. */
static bool partly_overlap(const void *input, size_t input_bytes, const void *output, size_t output_bytes) {
    if (input == output && input_bytes == output_bytes) return false;
    return overlap(input, input_bytes, output, output_bytes);
}

static bool reads_prediction(const dsk_row *row, void *const *outputs) {
    for (unsigned k = 0; k < DSK_OUTPUT_COUNT; k++)
        if (outputs[k] && row->outputs[k][DSK_PREDICTION] != 0) return true;
    return false;
}

/* Sets of inputs are sets of bits, made without a branch: a small step's time is what is spent here. */

static unsigned nonzero(const double *coefficients, unsigned count) {
    unsigned set = 0;
    for (unsigned i = 0; i < count; i++) set |= (unsigned)(coefficients[i] != 0) << i;
    return set;
}

static unsigned read_by_prediction(const dsk_row *row) { return nonzero(row->prediction, DSK_PREDICTION_INPUT_COUNT); }

static unsigned read_by_outputs(const dsk_item *item) {
    unsigned set = 0;
    for (unsigned k = 0; k < DSK_OUTPUT_COUNT; k++)
        if (item->outputs[k]) set |= nonzero(item->row->outputs[k], DSK_INPUT_COUNT);
    return set;
}

/* All that dsk_step reads of an item. */
static unsigned read_by_step(const dsk_item *item) {
    return read_by_outputs(item) | (reads_prediction(item->row, item->outputs) ? read_by_prediction(item->row) : 0);
}

/* Takes the first input out of a set that isn't empty. */
static unsigned take_first(unsigned *set) {
    unsigned first = (unsigned)__builtin_ctz(*set);
    *set &= *set - 1;
    return first;
}

/* More elements than any address space has room for, of whatever type. */
static const size_t most_elements = SIZE_MAX / sizeof(double);

static bool is_type(dsk_element_type type) { return (unsigned)type <= DSK_BFLOAT16; }

/* Stores the bytes that a step of the item reads and writes. */
static dsk_status check_item(const dsk_item *item, bool for_thresholds, size_t *traffic) {
    const dsk_row *row = item->row;
    size_t n = item->n_elements;
    *traffic = 0;
    if (!row) return DSK_NULL_POINTER;
    if (n > most_elements) return DSK_TOO_LARGE;
    if (for_thresholds) {
        if (row->clamp != DSK_CLAMP_THRESHOLD) return DSK_OK;
        if (!(row->threshold_ratio >= 0 && row->threshold_ratio <= 1) || !(row->threshold_maximum > 0)) return DSK_OUT_OF_RANGE;
        if (n > 0 && !item->workspace) return DSK_NULL_POINTER;
        if ((uintptr_t)item->workspace % _Alignof(double) != 0) return DSK_MISALIGNED;
    } else {
        if (row->clamp != DSK_CLAMP_NONE && row->clamp != DSK_CLAMP_RANGE && row->clamp != DSK_CLAMP_THRESHOLD)
            return DSK_OUT_OF_RANGE;
        if (row->clamp == DSK_CLAMP_RANGE && !(row->clamp_range > 0)) return DSK_OUT_OF_RANGE;
        /* A threshold that is NaN is what dsk_find_thresholds gives for an item with a NaN. */
        if (row->clamp == DSK_CLAMP_THRESHOLD && item->threshold <= 0) return DSK_OUT_OF_RANGE;
    }
    if (n == 0) return DSK_OK;

    size_t element_bytes = 0; /* of all tensors */
    size_t output_bytes[DSK_OUTPUT_COUNT] = {0};
    for (unsigned k = 0; k < DSK_OUTPUT_COUNT; k++) {
        if (!item->outputs[k]) continue;
        if (!is_type(item->output_types[k])) return DSK_UNKNOWN_TYPE;
        element_bytes += dsk_size(item->output_types[k]);
        output_bytes[k] = n * dsk_size(item->output_types[k]);
    }
    for (unsigned read = for_thresholds ? read_by_prediction(row) : read_by_step(item); read;) {
        unsigned input = take_first(&read);
        const void *tensor = item->inputs[input];
        if (!tensor) return DSK_MISSING_INPUT;
        if (!is_type(item->input_types[input])) return DSK_UNKNOWN_TYPE;
        size_t size = dsk_size(item->input_types[input]);
        if ((uintptr_t)tensor & (size - 1)) return DSK_MISALIGNED;
        element_bytes += size;
        if (for_thresholds) continue;
        for (unsigned k = 0; k < DSK_OUTPUT_COUNT; k++)
            if (partly_overlap(tensor, n * size, item->outputs[k], output_bytes[k])) return DSK_OVERLAP;
    }
    if (for_thresholds) return DSK_OK;
    for (unsigned k = 0; k < DSK_OUTPUT_COUNT; k++) {
        if (!item->outputs[k]) continue;
        if ((uintptr_t)item->outputs[k] & (dsk_size(item->output_types[k]) - 1)) return DSK_MISALIGNED;
        for (unsigned other = 0; other < k; other++)
            if (overlap(item->outputs[other], output_bytes[other], item->outputs[k], output_bytes[k])) return DSK_OVERLAP;
    }
    if (__builtin_mul_overflow(n, element_bytes, traffic)) *traffic = SIZE_MAX;
    return DSK_OK;
}

static dsk_status check_items(const dsk_item *items, size_t n_items, bool for_thresholds, size_t *traffic) {
    if (!items && n_items) return DSK_NULL_POINTER;
    size_t total = 0;
    *traffic = 0;
    for (size_t i = 0; i < n_items; i++) {
        size_t item_traffic;
        dsk_status status = check_item(&items[i], for_thresholds, &item_traffic);
        if (status != DSK_OK) return status;
        if (items[i].n_elements > most_elements - total) return DSK_TOO_LARGE;
        total += items[i].n_elements;
        *traffic = *traffic > SIZE_MAX - item_traffic ? SIZE_MAX : *traffic + item_traffic;
    }
    return DSK_OK;
}

dsk_status dsk_check_items(const dsk_item *items, size_t n_items, bool for_thresholds) {
    size_t traffic;
    return check_items(items, n_items, for_thresholds, &traffic);
}

static unsigned type_bit(dsk_element_type type) { return 1u << type; }

/* Adds a term, and its tensor's type to `types`. */
static void add_term(dsk_combination *terms, const dsk_item *item, unsigned input, double coefficient, unsigned *types) {
    terms->tensors[terms->n_terms] = item->inputs[input];
    terms->types[terms->n_terms] = (uint8_t)item->input_types[input];
    terms->coefficients[terms->n_terms++] = coefficient;
    *types |= type_bit(item->input_types[input]);
}

/* The kernels for tensors of the types in the set `own`, in an item of the types in the set `all`. */
static dsk_kernel_kind kernel_kind(unsigned own, unsigned all) {
    const unsigned float32 = type_bit(DSK_FLOAT32), float64 = type_bit(DSK_FLOAT64);
    if (all & float64) return own == float64 ? (dsk_kernel_kind)DSK_FLOAT64 : DSK_KERNEL_WIDE;
    if (all & float32) return own == float32 ? (dsk_kernel_kind)DSK_FLOAT32 : DSK_KERNEL_SHORT;
    if (own == type_bit(DSK_FLOAT16)) return (dsk_kernel_kind)DSK_FLOAT16;
    return own == type_bit(DSK_BFLOAT16) ? (dsk_kernel_kind)DSK_BFLOAT16 : DSK_KERNEL_HALF;
}

/* The types of the outputs and of what they read beside p, which a program for thresholds doesn't show. */
static unsigned types_of_outputs(const dsk_item *item) {
    unsigned types = 0;
    for (unsigned k = 0; k < DSK_OUTPUT_COUNT; k++)
        if (item->outputs[k]) types |= type_bit(item->output_types[k]);
    for (unsigned read = read_by_outputs(item); read;) {
        unsigned input = take_first(&read);
        if (item->inputs[input] && is_type(item->input_types[input])) types |= type_bit(item->input_types[input]);
    }
    return types;
}

void dsk_prepare(dsk_program *program, const dsk_item *item, bool for_thresholds, bool streaming) {
    const dsk_row *row = item->row;
    unsigned types = 0; /* a set of bits: those of the tensors that the program reads and writes */
    program->uses_prediction = for_thresholds || reads_prediction(row, item->outputs);
    program->n_outputs = 0;
    program->prediction.n_terms = 0;
    program->prediction.prediction = 0; /* p isn't a term of itself */
    program->clamp = DSK_CLAMP_NONE;
    program->clamp_range = 0;
    if (program->uses_prediction)
        for (unsigned read = read_by_prediction(row); read;) {
            unsigned input = take_first(&read);
            add_term(&program->prediction, item, input, row->prediction[input], &types);
        }
    if (for_thresholds) {
        const unsigned all = types | types_of_outputs(item);
        program->is_wide = all & type_bit(DSK_FLOAT64);
        program->kind = kernel_kind(types, all);
        return;
    }

    program->clamp = row->clamp;
    program->clamp_range = row->clamp == DSK_CLAMP_THRESHOLD ? item->threshold : row->clamp_range;
    for (unsigned k = 0; k < DSK_OUTPUT_COUNT; k++) {
        if (!item->outputs[k]) continue;
        unsigned place = program->n_outputs++;
        dsk_combination *terms = &program->outputs[place];
        terms->n_terms = 0;
        for (unsigned read = nonzero(row->outputs[k], DSK_INPUT_COUNT); read;) {
            unsigned input = take_first(&read);
            add_term(terms, item, input, row->outputs[k][input], &types);
        }
        terms->prediction = row->outputs[k][DSK_PREDICTION];
        program->destinations[place] = item->outputs[k];
        program->destination_types[place] = (uint8_t)item->output_types[k];
        types |= type_bit(item->output_types[k]);
        program->streaming[place] = streaming;
        /* A line that was read is in the cache anyway. */
        for (unsigned input = 0; streaming && input < DSK_INPUT_COUNT; input++)
            if (item->inputs[input] == item->outputs[k]) program->streaming[place] = false;
    }
    program->is_wide = types & type_bit(DSK_FLOAT64);
    program->kind = kernel_kind(types, types);
}

typedef struct step_work {
    const dsk_item *items;
    size_t n_items;
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
    size_t item_begin = 0; /* where the item starts in the whole call */
    for (size_t i = 0; i < work->n_items && item_begin < end; i++) {
        const dsk_item *item = &work->items[i];
        size_t item_end = item_begin + item->n_elements;
        size_t from = begin > item_begin ? begin : item_begin, to = end < item_end ? end : item_end;
        if (from < to) {
            dsk_program program;
            dsk_prepare(&program, item, false, work->streaming);
            dsk_kernels_for(program.kind)->step(&program, from - item_begin, to - item_begin);
        }
        item_begin = item_end;
    }
}

dsk_status dsk_step(const dsk_item *items, size_t n_items, unsigned max_threads) {
    size_t bytes;
    dsk_status status = check_items(items, n_items, false, &bytes);
    if (status != DSK_OK) return status;

    dsk_limits limits = dsk_get_limits();
    step_work work = {.items = items, .n_items = n_items, .n_chunks = 1};
    for (size_t i = 0; i < n_items; i++) work.total_elements += items[i].n_elements;
    work.streaming = bytes >= limits.streaming_bytes;
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
    double conditional = factor * scale, unconditional = factor * (1 - scale);
    if (guided != row) *guided = *row;
    guide(guided->prediction, conditional, unconditional);
    for (unsigned k = 0; k < DSK_OUTPUT_COUNT; k++) guide(guided->outputs[k], conditional, unconditional);
}

dsk_status dsk_add_noise(dsk_element_type type, const void *sample, const void *noise, const double *signal_rates,
                         const double *noise_rates, size_t n_items, size_t n_elements_per_item, void *out,
                         unsigned max_threads) {
    enum { BLOCK = 16 }; /* items a call of dsk_step, so that rows and items stay on the stack */
    size_t element_size = dsk_element_size(type);
    if (element_size == 0) return DSK_UNKNOWN_TYPE;
    if (n_items == 0) return DSK_OK;
    if (!sample || !noise || !signal_rates || !noise_rates || !out) return DSK_NULL_POINTER;
    if (n_elements_per_item > SIZE_MAX / element_size / n_items) return DSK_TOO_LARGE;
    if ((uintptr_t)sample % element_size || (uintptr_t)noise % element_size || (uintptr_t)out % element_size)
        return DSK_MISALIGNED;
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

dsk_status dsk_scale(dsk_element_type type, const void *sample, double factor, size_t n_elements, void *out,
                     unsigned max_threads) {
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
