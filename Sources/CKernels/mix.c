/* SPDX-License-Identifier: Apache-2.0 */

/* Adding noise and scaling: the operations beside a scheduler's steps. */

#include "elements.h"

dsk_status dsk_add_noise(dsk_element_type type, const void *sample, const void *noise, const double *signal_rates,
                         const double *noise_rates, size_t n_items, size_t n_elements_per_item, void *out, unsigned max_threads) {
    enum { BLOCK = 16 }; /* items per call of dsk_run, so that rows and items stay on the stack */
    size_t element_size = dsk_element_size(type);
    if (element_size == 0) return DSK_UNKNOWN_TYPE;
    if (n_items == 0) return DSK_OK;
    if (!sample || !noise || !signal_rates || !noise_rates || !out) return DSK_NULL_POINTER;
    if (n_elements_per_item > SIZE_MAX / sizeof(double) / n_items) return DSK_TOO_LARGE;
    if ((uintptr_t)sample % element_size || (uintptr_t)noise % element_size || (uintptr_t)out % element_size) return DSK_MISALIGNED;
    size_t bytes = n_elements_per_item * element_size;
    size_t all = n_items * bytes;
    if (dsk_partly_overlap(sample, all, out, all) || dsk_partly_overlap(noise, all, out, all)) return DSK_OVERLAP;

    for (size_t first = 0; first < n_items; first += BLOCK) {
        dsk_prepared_row rows[BLOCK];
        dsk_item items[BLOCK] = {0};
        size_t count = n_items - first < BLOCK ? n_items - first : BLOCK;
        for (size_t i = 0; i < count; i++) {
            size_t offset = (first + i) * bytes;
            dsk_row row = {0};
            row.outputs[0][DSK_SAMPLE] = signal_rates[first + i];
            row.outputs[0][DSK_NOISE] = noise_rates[first + i];
            dsk_prepare_valid_row(&row, &rows[i]);
            items[i].row = &rows[i];
            items[i].input_types[DSK_SAMPLE] = items[i].input_types[DSK_NOISE] = items[i].output_types[0] = type;
            items[i].inputs[DSK_SAMPLE] = (const char *)sample + offset;
            items[i].inputs[DSK_NOISE] = (const char *)noise + offset;
            items[i].outputs[0] = (char *)out + offset;
            items[i].n_elements = n_elements_per_item;
        }
        dsk_run(items, count, max_threads);
    }
    return DSK_OK;
}

dsk_status dsk_scale(dsk_element_type type, const void *sample, double factor, size_t n_elements, void *out, unsigned max_threads) {
    if (dsk_element_size(type) == 0) return DSK_UNKNOWN_TYPE;
    if (n_elements && (!sample || !out)) return DSK_NULL_POINTER;
    dsk_row row = {0};
    row.outputs[0][DSK_SAMPLE] = factor;
    dsk_prepared_row prepared;
    dsk_prepare_valid_row(&row, &prepared);
    dsk_item item = {.row = &prepared, .n_elements = n_elements};
    item.inputs[DSK_SAMPLE] = sample;
    item.input_types[DSK_SAMPLE] = item.output_types[0] = type;
    item.outputs[0] = out;
    return dsk_step(&item, 1, max_threads);
}
