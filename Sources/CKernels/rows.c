/* SPDX-License-Identifier: Apache-2.0 */

/* Rows, prepared once for all steps that take them. */

#include "environment.h"
#include "kernels.h"

#include <math.h>

static bool has_noise_factor(const dsk_prepared_row *row) { return row->row.noise_factor != DSK_NOISE_FACTOR_NONE; }

/* Whether an output is a plain copy of one term. */
static bool is_copy(const dsk_prepared_row *row, unsigned k) {
    const unsigned terms = row->output_reads[k];
    if (has_noise_factor(row) && terms == 1u << DSK_NOISE) return false;
    return terms != 0 && (terms & (terms - 1)) == 0 && row->row.outputs[k][__builtin_ctz(terms)] == 1;
}

/* Lists the elements of a set; returns their number. */
static uint8_t list(unsigned set, uint8_t *elements) {
    uint8_t n = 0;
    while (set) elements[n++] = (uint8_t)dsk_take_first(&set);
    return n;
}

/* The number of the loop for a form; `is_regular`: all sums read all inputs, but for the last, whose inputs are consecutive. */
static uint8_t find_loop(const dsk_form *form, bool is_regular) {
    const bool is_full = form->n_sums == 1 || form->n_last - form->n_first == form->n_inputs, uses_p = form->uses_prediction,
               copies = form->n_sums < form->n_outputs;
    if (form->n_inputs > DSK_LOOP_INPUTS || (!is_regular && (uses_p || copies))) return DSK_NO_LOOP;
    const dsk_loop_variant variant = uses_p                                    ? (copies ? DSK_P_AND_COPY : DSK_P)
                                     : copies                                  ? DSK_COPY
                                     : !is_regular                             ? DSK_MASKED
                                     : is_full                                 ? DSK_FULL
                                     : form->n_last == 2 && form->n_first == 0 ? DSK_PAIR
                                     : form->n_sums == DSK_OUTPUT_COUNT        ? DSK_MASKED
                                                                               : DSK_COPY;
    return (uint8_t)DSK_LOOP_NUMBER(form->n_inputs, form->n_sums, variant);
}

void dsk_find_form(const dsk_prepared_row *row, unsigned wanted, bool copies, dsk_form *form) {
    unsigned sums[DSK_OUTPUT_COUNT], n_sums = 0, inputs = 0, read = 0, copy = DSK_OUTPUT_COUNT;
    bool uses_prediction = false;
    for (unsigned set = wanted; set;) {
        const unsigned k = dsk_take_first(&set), terms = row->output_reads[k];
        uses_prediction |= terms >> DSK_PREDICTION;
        read |= terms & DSK_ALL_INPUTS;
        if (copies && copy == DSK_OUTPUT_COUNT && is_copy(row, k)) {
            copy = k;
        } else {
            sums[n_sums++] = k;
            inputs |= terms & DSK_ALL_INPUTS;
        }
    }
    const unsigned prediction_inputs = uses_prediction ? row->prediction_reads : 0;
    const bool scales_noise = has_noise_factor(row) && read >> DSK_NOISE & 1;
    if (scales_noise) read |= 1u << DSK_VARIANCE;
    *form = (dsk_form){
        .wanted = (uint8_t)wanted, .n_sums = (uint8_t)n_sums, .uses_prediction = uses_prediction, .scales_noise = scales_noise};
    form->read_inputs = (uint16_t)(read | prediction_inputs);
    form->n_inputs = list(inputs, form->inputs);

    /* Sums of all inputs come first. A form stays regular with one sum of fewer inputs, the last, if these are consecutive. (A
     * guided row that stores the guided output skips the sample, which precedes them.) */
    bool is_regular = n_sums > 0 && inputs != 0, has_terms = true;
    form->n_last = form->n_inputs;
    uint8_t n = 0, last = DSK_OUTPUT_COUNT;
    for (unsigned m = 0; m < n_sums; m++) {
        const unsigned k = sums[m], terms = row->output_reads[k], own = terms & DSK_ALL_INPUTS;
        has_terms &= terms != 0;
        if (own == inputs || last != DSK_OUTPUT_COUNT) {
            form->outputs[n++] = (uint8_t)k;
            is_regular &= own == inputs;
        } else {
            last = (uint8_t)k;
            const unsigned before = own ? (1u << __builtin_ctz(own)) - 1 : 0, behind = own ? ~0u << (31 - __builtin_clz(own)) : ~0u;
            form->n_first = (uint8_t)__builtin_popcount(inputs & before);
            form->n_last = (uint8_t)(form->n_first + __builtin_popcount(own));
            is_regular &= n_sums > 1 && (inputs & ~own & ~before & ~behind) == 0;
        }
    }
    if (last != DSK_OUTPUT_COUNT) form->outputs[n++] = last;
    if (copy != DSK_OUTPUT_COUNT) {
        form->outputs[n++] = (uint8_t)copy;
        form->copied = (uint8_t)__builtin_ctz(row->output_reads[copy]);
    }
    form->n_outputs = n;
    form->loop = has_terms ? find_loop(form, is_regular) : DSK_NO_LOOP;
}

/*
 * Rounds a coefficient to 29 bits, to nearest even. Its product with a float32 of 24 bits is then exact in a double of 53, and so
 * are its products with narrower types. Fusing a product and a sum therefore changes nothing, and every instruction set may use its
 * fastest instructions and still give the same bits. The relative error of up to 2^-29 is far below the result's rounding, 2^-24.
 */
static double shortened(double coefficient) {
    uint64_t bits;
    memcpy(&bits, &coefficient, sizeof bits);
    if ((bits >> 52 & 0x7FF) == 0x7FF) return coefficient; /* infinity or NaN: nothing to round */
    bits = (bits + 0x7FFFFF + (bits >> 24 & 1)) & ~(uint64_t)0xFFFFFF;
    memcpy(&coefficient, &bits, sizeof bits);
    return coefficient;
}

/* Replaces every NaN by one whose lower half is zero, as bfloat16_tile_template.h needs for rounding. */
static float single(double coefficient) { return coefficient == coefficient ? (float)coefficient : __builtin_nanf(""); }

/* Sets a coefficient in every width, and whether its term is in the set `reads`. */
static void set_term(double *exact, double *short_one, float *single_one, uint16_t *reads, unsigned i, double coefficient) {
    exact[i] = coefficient;
    short_one[i] = shortened(coefficient);
    single_one[i] = single(coefficient);
    *reads = (uint16_t)((*reads & ~(1u << i)) | (unsigned)(coefficient != 0) << i);
}

static void set_prediction_term(dsk_prepared_row *p, unsigned i, double coefficient) {
    set_term(p->row.prediction, p->shortened.prediction, p->single.prediction, &p->prediction_reads, i, coefficient);
}

static void set_output_term(dsk_prepared_row *p, unsigned k, unsigned i, double coefficient) {
    set_term(p->row.outputs[k], p->shortened.outputs[k], p->single.outputs[k], &p->output_reads[k], i, coefficient);
}

static void find_forms(dsk_prepared_row *prepared) {
    const unsigned last = 1u << (DSK_OUTPUT_COUNT - 1);
    unsigned wanted = 0;
    for (unsigned k = 0; k < DSK_OUTPUT_COUNT; k++) wanted |= (unsigned)(prepared->output_reads[k] != 0) << k;
    prepared->n_prediction_inputs = list(prepared->prediction_reads, prepared->prediction_inputs);
    dsk_find_form(prepared, wanted & ~last, true, &prepared->forms[0]);
    dsk_find_form(prepared, wanted | last, true, &prepared->forms[1]);
}

void dsk_prepare_valid_row(const dsk_row *row, dsk_prepared_row *prepared) {
    const dsk_environment host = dsk_begin_default();
    *prepared = (dsk_prepared_row){.row = *row};
    for (unsigned i = 0; i < DSK_PREDICTION_INPUT_COUNT; i++) set_prediction_term(prepared, i, row->prediction[i]);
    for (unsigned k = 0; k < DSK_OUTPUT_COUNT; k++)
        for (unsigned i = 0; i < DSK_TERM_COUNT; i++) set_output_term(prepared, k, i, row->outputs[k][i]);
    find_forms(prepared);
    dsk_end_default(host);
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
    switch (row->noise_factor) {
    case DSK_NOISE_FACTOR_NONE: break;
    case DSK_NOISE_FACTOR_EXPONENTIAL:
        if (!isfinite(row->noise_offset) || !isfinite(row->noise_slope)) return DSK_OUT_OF_RANGE;
        /* fall through */
    case DSK_NOISE_FACTOR_ROOT:
        if (row->prediction[DSK_NOISE] != 0) return DSK_OUT_OF_RANGE;
        break;
    default: return DSK_OUT_OF_RANGE;
    }
    dsk_prepare_valid_row(row, prepared);
    return DSK_OK;
}

void dsk_guide_row(const dsk_prepared_row *row, double scale, double factor, dsk_prepared_row *guided) {
    const dsk_environment host = dsk_begin_default();
    const double conditional = factor * scale, unconditional = factor * (1 - scale);
    if (guided != row) *guided = *row;
    const double coefficient = guided->row.prediction[DSK_MODEL_OUTPUT];
    set_prediction_term(guided, DSK_MODEL_OUTPUT, conditional * coefficient);
    set_prediction_term(guided, DSK_MODEL_OUTPUT_2, unconditional * coefficient);
    for (unsigned k = 0; k < DSK_OUTPUT_COUNT; k++) {
        const double own = guided->row.outputs[k][DSK_MODEL_OUTPUT];
        set_output_term(guided, k, DSK_MODEL_OUTPUT, conditional * own);
        set_output_term(guided, k, DSK_MODEL_OUTPUT_2, unconditional * own);
    }
    find_forms(guided);
    dsk_end_default(host);
}
