/* SPDX-License-Identifier: Apache-2.0 */

/* The fused step: checks of items, and their execution in chunks. */

#include "elements.h"

#include <math.h>
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

/* The wanted outputs of an item: bit k for output k. */
static unsigned wanted_outputs(const dsk_item *item) {
    unsigned wanted = 0;
    for (unsigned k = 0; k < DSK_OUTPUT_COUNT; k++) wanted |= (unsigned)(item->outputs[k] != NULL) << k;
    return wanted;
}

/* The form for the wanted outputs of an item: one of the row's, else made in `own`. */
static const dsk_form *find_form(const dsk_item *item, dsk_form *own) {
    const unsigned wanted = wanted_outputs(item);
    const dsk_form *form = &item->row->forms[wanted >> (DSK_OUTPUT_COUNT - 1)];
    if (form->wanted == wanted) return form;
    dsk_find_form(item->row, wanted, true, own);
    return own;
}

/* More elements than any address space holds, of any type. */
static const size_t most_elements = SIZE_MAX / sizeof(double);

/* The most bytes that a step reads and writes for one element. */
static const size_t most_element_bytes = (DSK_INPUT_COUNT + DSK_OUTPUT_COUNT) * sizeof(double);

/* Checks an item's threshold, or the workspace for finding it. */
static dsk_status check_clamp(const dsk_item *item, bool for_thresholds) {
    if (item->row->row.clamp != DSK_CLAMP_THRESHOLD) return DSK_OK;
    /* NaN is allowed: dsk_find_thresholds gives it for an item with a NaN. */
    if (!for_thresholds) return item->threshold <= 0 ? DSK_OUT_OF_RANGE : DSK_OK;
    if (item->n_elements > 0 && !item->workspace) return DSK_NULL_POINTER;
    return (uintptr_t)item->workspace % _Alignof(double) == 0 ? DSK_OK : DSK_MISALIGNED;
}

/* Checks the tensors that an item with elements reads and, for a step, writes. */
static dsk_status check_tensors(const dsk_item *item, bool for_thresholds) {
    dsk_form own;
    const dsk_form *form = find_form(item, &own);
    const size_t n = item->n_elements;
    const void *outputs[DSK_OUTPUT_COUNT]; /* the outputs that are wanted */
    size_t output_bytes[DSK_OUTPUT_COUNT];
    unsigned n_outputs = 0;
    for (unsigned k = 0; k < DSK_OUTPUT_COUNT; k++) {
        if (!item->outputs[k]) continue;
        if (!dsk_is_type(item->output_types[k])) return DSK_UNKNOWN_TYPE;
        if (for_thresholds) continue;
        size_t size = dsk_size(item->output_types[k]);
        if ((uintptr_t)item->outputs[k] & (size - 1)) return DSK_MISALIGNED;
        for (unsigned other = 0; other < n_outputs; other++)
            if (dsk_overlap(outputs[other], output_bytes[other], item->outputs[k], n * size)) return DSK_OVERLAP;
        outputs[n_outputs] = item->outputs[k];
        output_bytes[n_outputs++] = n * size;
    }
    for (unsigned set = for_thresholds ? item->row->prediction_reads : form->read_inputs; set;) {
        unsigned input = dsk_take_first(&set);
        const void *tensor = item->inputs[input];
        if (!tensor) return DSK_MISSING_INPUT;
        if (!dsk_is_type(item->input_types[input])) return DSK_UNKNOWN_TYPE;
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
        status = check_tensors(item, for_thresholds);
        if (status != DSK_OK) return status;
    }
    return DSK_OK;
}

dsk_status dsk_check_thresholds(const dsk_item *items, size_t n_items) { return check_items(items, n_items, true); }

static unsigned type_bit(dsk_element_type type) { return 1u << type; }

/* Sets the kernels that run a form on tensors of the types in a set. Half types are too coarse for factors of noise. */
static void set_kind(dsk_program *program, const dsk_form *form, unsigned types) {
    if (form->scales_noise) types |= type_bit(DSK_FLOAT32);
    const unsigned float32 = type_bit(DSK_FLOAT32), float64 = type_bit(DSK_FLOAT64), float16 = type_bit(DSK_FLOAT16);
    dsk_element_type widest = types & float64   ? DSK_FLOAT64
                              : types & float32 ? DSK_FLOAT32
                              : types & float16 ? DSK_FLOAT16
                                                : DSK_BFLOAT16;
    const bool has_both_halves = types == (float16 | type_bit(DSK_BFLOAT16));
    program->kind = has_both_halves ? DSK_KERNEL_HALVES : (dsk_kernel_kind)widest;
    program->has_other_types = has_both_halves || types & ~type_bit(widest);
}

/* The types of the tensors in a set, as a set. */
static unsigned types_of(const dsk_element_type *tensor_types, unsigned set) {
    unsigned types = 0;
    while (set) types |= type_bit(tensor_types[dsk_take_first(&set)]);
    return types;
}

/* Prepares p alone. Its type depends on all tensors that a step of the item reads and writes; some may be missing here. */
void dsk_prepare_thresholds(dsk_program *program, const dsk_item *item) {
    const dsk_form *form = find_form(item, &program->own_form);
    unsigned types = types_of(item->input_types, item->row->prediction_reads) | types_of(item->output_types, form->wanted);
    for (unsigned set = form->read_inputs; set;) {
        unsigned input = dsk_take_first(&set);
        if (item->inputs[input] && dsk_is_type(item->input_types[input])) types |= type_bit(item->input_types[input]);
    }
    program->item = item;
    program->form = form;
    program->range = (double)INFINITY;
    program->divides = false;
    set_kind(program, form, types);
}

/* Whether an output is also an input: its cache lines are in the cache anyway. */
static bool is_input(const dsk_item *item, const void *output) {
    for (unsigned input = 0; input < DSK_INPUT_COUNT; input++)
        if (item->inputs[input] == output) return true;
    return false;
}

/* Prepares an item; `streaming`: outputs that aren't inputs bypass the caches. */
static void prepare(dsk_program *program, const dsk_item *item, bool streaming) {
    const dsk_prepared_row *row = item->row;
    const dsk_form *form = find_form(item, &program->own_form);
    set_kind(program, form, types_of(item->input_types, form->read_inputs) | types_of(item->output_types, form->wanted));
    program->raw_input = NULL;
    if (form->n_sums < form->n_outputs) {
        /* The loops copy only tensors of the kind's type. */
        const unsigned k = form->outputs[form->n_sums], input = form->copied;
        const dsk_element_type type = item->output_types[k];
        if ((unsigned)type != (unsigned)program->kind) {
            const bool is_raw = input != DSK_PREDICTION && item->input_types[input] == type;
            if (is_raw) {
                program->raw_input = item->inputs[input];
                program->raw_output = item->outputs[k];
                program->raw_size = dsk_size(type);
            }
            dsk_find_form(row, is_raw ? form->wanted & ~(1u << k) : form->wanted, false, &program->own_form);
            form = &program->own_form;
        }
    }
    program->item = item;
    program->form = form;
    program->divides = row->row.clamp == DSK_CLAMP_THRESHOLD;
    program->range = program->divides                    ? item->threshold
                     : row->row.clamp == DSK_CLAMP_RANGE ? row->row.clamp_range
                                                         : (double)INFINITY;
    program->streams = false;
    for (unsigned m = 0; streaming && m < form->n_outputs; m++) {
        program->streaming[m] = !is_input(item, item->outputs[form->outputs[m]]);
        program->streams |= program->streaming[m];
    }
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
    if (chunk == 0) return 0;
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
            prepare(&program, item, work->streaming);
            dsk_kernels_for(program.kind)->step(&program, from - item_begin, to - item_begin);
        }
        item_begin = item_end;
    }
}

/* The bytes that an item reads and writes. */
static size_t traffic(const dsk_item *item) {
    dsk_form own;
    const dsk_form *form = find_form(item, &own);
    size_t element_bytes = 0;
    for (unsigned set = form->read_inputs; set;) element_bytes += dsk_size(item->input_types[dsk_take_first(&set)]);
    for (unsigned m = 0; m < form->n_outputs; m++) element_bytes += dsk_size(item->output_types[form->outputs[m]]);
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
