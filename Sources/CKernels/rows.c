/* SPDX-License-Identifier: Apache-2.0 */

/* Rows, prepared once for all steps that take them. */

#include "environment.h"

/* The terms with a coefficient other than 0, as bits. */
static uint16_t terms_of(const double *coefficients, unsigned count) {
    unsigned terms = 0;
    for (unsigned i = 0; i < count; i++) terms |= (unsigned)(coefficients[i] != 0) << i;
    return (uint16_t)terms;
}

static bool is_copy(const double *coefficients, unsigned terms) {
    const unsigned inputs = (1u << DSK_INPUT_COUNT) - 1;
    bool is_one_input = terms != 0 && (terms & (terms - 1)) == 0 && (terms & ~inputs) == 0;
    return is_one_input && coefficients[__builtin_ctz(terms)] == 1;
}

void dsk_prepare_valid_row(const dsk_row *row, dsk_prepared_row *prepared) {
    prepared->row = *row;
    prepared->prediction_reads = terms_of(row->prediction, DSK_PREDICTION_INPUT_COUNT);
    for (unsigned k = 0; k < DSK_OUTPUT_COUNT; k++) {
        prepared->output_reads[k] = terms_of(row->outputs[k], DSK_TERM_COUNT);
        prepared->is_copy[k] = is_copy(row->outputs[k], prepared->output_reads[k]);
    }
}

dsk_status dsk_prepare_row(const dsk_row *row, dsk_prepared_row *prepared) {
    if (!row || !prepared) return DSK_NULL_POINTER;
    switch (row->clamp) {
    case DSK_CLAMP_NONE: break;
    case DSK_CLAMP_RANGE:
        if (!(row->clamp_range > 0)) return DSK_OUT_OF_RANGE;
        break;
    case DSK_CLAMP_THRESHOLD:
        if (!(row->threshold_ratio >= 0 && row->threshold_ratio <= 1) || !(row->threshold_maximum > 0)) return DSK_OUT_OF_RANGE;
        break;
    default: return DSK_OUT_OF_RANGE;
    }
    dsk_prepare_valid_row(row, prepared);
    return DSK_OK;
}

static void guide(double *coefficients, double conditional, double unconditional) {
    double coefficient = coefficients[DSK_MODEL_OUTPUT];
    coefficients[DSK_MODEL_OUTPUT] = conditional * coefficient;
    coefficients[DSK_MODEL_OUTPUT_2] = unconditional * coefficient;
}

void dsk_guide_row(const dsk_prepared_row *row, double scale, double factor, dsk_prepared_row *guided) {
    const dsk_environment host = dsk_begin_default();
    double conditional = factor * scale, unconditional = factor * (1 - scale);
    dsk_row result = row->row;
    guide(result.prediction, conditional, unconditional);
    for (unsigned k = 0; k < DSK_OUTPUT_COUNT; k++) guide(result.outputs[k], conditional, unconditional);
    dsk_prepare_valid_row(&result, guided);
    dsk_end_default(host);
}
