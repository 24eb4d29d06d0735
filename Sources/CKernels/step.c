/* SPDX-License-Identifier: Apache-2.0 */

/* The fused step: checks of items, and their execution in chunks. */

#include "elements.h"

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

/* The inputs that an item reads, as sets of bits 1 << dsk_input. */
typedef struct item_reads {
    unsigned prediction; /* for p, if an output uses it */
    unsigned outputs[DSK_OUTPUT_COUNT];
    bool uses_prediction;
} item_reads;

static void find_reads(const dsk_item *item, bool for_thresholds, item_reads *reads) {
    const dsk_prepared_row *row = item->row;
    unsigned all = 0;
    for (unsigned k = 0; k < DSK_OUTPUT_COUNT; k++) {
        unsigned terms = item->outputs[k] ? row->output_reads[k] : 0;
        reads->outputs[k] = terms & ~(1u << DSK_PREDICTION);
        all |= terms;
    }
    reads->uses_prediction = for_thresholds || all >> DSK_PREDICTION;
    reads->prediction = reads->uses_prediction ? row->prediction_reads : 0;
}

/* Removes the first input from a non-empty set. */
static unsigned take_first(unsigned *set) {
    unsigned first = (unsigned)__builtin_ctz(*set);
    *set &= *set - 1;
    return first;
}

/* More elements than any address space holds, of any type. */
static const size_t most_elements = SIZE_MAX / sizeof(double);

/* The most bytes that a step reads and writes for one element. */
static const size_t most_element_bytes = (DSK_INPUT_COUNT + DSK_OUTPUT_COUNT) * sizeof(double);

static bool is_type(dsk_element_type type) { return (unsigned)type <= DSK_BFLOAT16; }

/* Checks what a clamp needs of an item. */
static dsk_status check_clamp(const dsk_item *item, bool for_thresholds) {
    if (item->row->row.clamp != DSK_CLAMP_THRESHOLD) return DSK_OK;
    /* NaN is allowed: dsk_find_thresholds gives it for an item with a NaN. */
    if (!for_thresholds) return item->threshold <= 0 ? DSK_OUT_OF_RANGE : DSK_OK;
    if (item->n_elements > 0 && !item->workspace) return DSK_NULL_POINTER;
    return (uintptr_t)item->workspace % _Alignof(double) == 0 ? DSK_OK : DSK_MISALIGNED;
}

/* Checks the tensors that an item with elements reads and, for a step, writes. */
static dsk_status check_tensors(const dsk_item *item, const item_reads *reads, bool for_thresholds) {
    const size_t n = item->n_elements;
    const void *outputs[DSK_OUTPUT_COUNT]; /* the outputs that aren't skipped */
    size_t output_bytes[DSK_OUTPUT_COUNT];
    unsigned n_outputs = 0, all = reads->prediction;
    for (unsigned k = 0; k < DSK_OUTPUT_COUNT; k++) {
        if (!item->outputs[k]) continue;
        if (!is_type(item->output_types[k])) return DSK_UNKNOWN_TYPE;
        if (for_thresholds) continue;
        size_t size = dsk_size(item->output_types[k]);
        if ((uintptr_t)item->outputs[k] & (size - 1)) return DSK_MISALIGNED;
        for (unsigned other = 0; other < n_outputs; other++)
            if (dsk_overlap(outputs[other], output_bytes[other], item->outputs[k], n * size)) return DSK_OVERLAP;
        outputs[n_outputs] = item->outputs[k];
        output_bytes[n_outputs++] = n * size;
        all |= reads->outputs[k];
    }
    while (all) {
        unsigned input = take_first(&all);
        const void *tensor = item->inputs[input];
        if (!tensor) return DSK_MISSING_INPUT;
        if (!is_type(item->input_types[input])) return DSK_UNKNOWN_TYPE;
        size_t size = dsk_size(item->input_types[input]);
        if ((uintptr_t)tensor & (size - 1)) return DSK_MISALIGNED;
        for (unsigned k = 0; k < n_outputs; k++)
            if (dsk_partly_overlap(tensor, n * size, outputs[k], output_bytes[k])) return DSK_OVERLAP;
    }
    return DSK_OK;
}

/* Checks the items of a call. */
static dsk_status check_items(const dsk_item *items, size_t n_items, bool for_thresholds) {
    if (!items && n_items) return DSK_NULL_POINTER;
    size_t n_elements = 0;
    for (size_t i = 0; i < n_items; i++) {
        const dsk_item *item = &items[i];
        if (!item->row) return DSK_NULL_POINTER;
        if (item->n_elements > most_elements - n_elements) return DSK_TOO_LARGE;
        n_elements += item->n_elements;
        if (for_thresholds && item->row->row.clamp != DSK_CLAMP_THRESHOLD) continue;
        dsk_status status = check_clamp(item, for_thresholds);
        if (status != DSK_OK) return status;
        if (item->n_elements == 0) continue;
        item_reads reads;
        find_reads(item, for_thresholds, &reads);
        status = check_tensors(item, &reads, for_thresholds);
        if (status != DSK_OK) return status;
    }
    return DSK_OK;
}

dsk_status dsk_check_thresholds(const dsk_item *items, size_t n_items) { return check_items(items, n_items, true); }

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
    add_terms(&program->prediction, item, reads.prediction, item->row->row.prediction, &own);
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

/* Prepares an item; `streaming`: outputs that aren't inputs bypass the caches. */
static void prepare(dsk_program *program, const dsk_item *item, bool streaming) {
    const dsk_row *row = &item->row->row;
    item_reads reads;
    find_reads(item, false, &reads);
    unsigned types = 0;
    program->uses_prediction = reads.uses_prediction;
    program->prediction.prediction = 0; /* p is not a term of itself */
    add_terms(&program->prediction, item, reads.prediction, row->prediction, &types);
    program->clamp = row->clamp;
    program->clamp_range = row->clamp == DSK_CLAMP_THRESHOLD ? item->threshold : row->clamp_range;
    program->n_outputs = 0;
    for (unsigned k = 0; k < DSK_OUTPUT_COUNT; k++) {
        if (!item->outputs[k]) continue;
        unsigned place = program->n_outputs++;
        add_terms(&program->outputs[place], item, reads.outputs[k], row->outputs[k], &types);
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
            prepare(&program, item, work->streaming);
            dsk_kernels_for(program.kind)->step(&program, from - item_begin, to - item_begin);
        }
        item_begin = item_end;
    }
}

/* The bytes that an item reads and writes. */
static size_t traffic(const dsk_item *item) {
    item_reads reads;
    find_reads(item, false, &reads);
    unsigned inputs = reads.prediction;
    size_t element_bytes = 0;
    for (unsigned k = 0; k < DSK_OUTPUT_COUNT; k++) {
        if (item->outputs[k]) element_bytes += dsk_size(item->output_types[k]);
        inputs |= reads.outputs[k];
    }
    while (inputs) element_bytes += dsk_size(item->input_types[take_first(&inputs)]);
    return item->n_elements * element_bytes;
}

void dsk_run(const dsk_item *items, size_t n_items, unsigned max_threads) {
    const dsk_limits limits = dsk_get_limits();
    step_work work = {.items = items, .n_items = n_items, .n_chunks = 1};
    size_t bytes = 0;
    for (size_t i = 0; i < n_items; i++) work.total_elements += items[i].n_elements;
    if (work.total_elements >= limits.streaming_bytes / most_element_bytes)
        for (size_t i = 0; i < n_items; i++) bytes += traffic(&items[i]);
    work.streaming = bytes >= limits.streaming_bytes;

    dsk_program program;
    if (n_items == 1) {
        prepare(&program, items, work.streaming);
        work.only_program = &program;
    }
    if (work.total_elements >= limits.parallel_elements && max_threads != 1) {
        unsigned n_threads = dsk_thread_count(max_threads);
        size_t most = work.total_elements / CHUNK_GRAIN;
        work.n_chunks = n_threads < most ? n_threads : most ? most : 1;
    }
    dsk_parallel(work.n_chunks, max_threads, step_chunk, &work);
}

dsk_status dsk_step(const dsk_item *items, size_t n_items, unsigned max_threads) {
    dsk_status status = check_items(items, n_items, false);
    if (status == DSK_OK) dsk_run(items, n_items, max_threads);
    return status;
}
