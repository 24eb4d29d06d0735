/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The JSON of a configuration, read by every class of scheduler. Accepted configurations are planned, written out and read again,
 * and take their first step.
 */

#include "fuzz.h"

enum { N_ELEMENTS = 6, N_ITEM = N_ELEMENTS / 2 };

static double model(double x) { return 0.5 * x + 0.1; }

static void step(ds_scheduler scheduler) {
    static const int64_t shape[] = {2, N_ITEM}, both_shape[] = {2, 2 * N_ITEM};
    ds_session session;
    ds_plan_properties properties;
    MUST(ds_session_create(scheduler, 0, &session) == DS_OK);
    double x[N_ELEMENTS] = {0.5, -1, 0, 2, -0.25, 1}, e[2 * N_ELEMENTS], z[N_ELEMENTS] = {1, -1, 0.5, 0, 2, -2}, before[N_ELEMENTS];
    MUST(ds_scheduler_plan_properties(scheduler, &properties) == DS_OK);
    /* A model that learns its variance puts the variance behind each item's prediction. */
    const int stride = properties.learns_variance ? 2 * N_ITEM : N_ITEM;
    for (int i = 0; i < 2 * N_ELEMENTS; i++) e[i] = 0.25;
    for (int i = 0; i < N_ELEMENTS; i++) e[i / N_ITEM * stride + i % N_ITEM] = model(x[i]);
    memcpy(before, x, sizeof x);
    const ds_tensor tx = tensor_of(x, DS_FLOAT64, 2, shape),
                    te = tensor_of(e, DS_FLOAT64, 2, properties.learns_variance ? both_shape : shape),
                    tz = tensor_of(z, DS_FLOAT64, 2, shape);
    bool needs_noise;
    MUST(ds_session_needs_noise(session, &needs_noise) == DS_OK);
    if (needs_noise) {
        MUST(ds_session_step(session, &te, &tx, NULL, &tx, NULL, 1) == DS_MISSING_NOISE);
        MUST(memcmp(before, x, sizeof x) == 0);
    }
    MUST(ds_session_step(session, &te, &tx, &tz, &tx, NULL, 1) == DS_OK);
    for (int i = 0; i < N_ELEMENTS; i++) MUST(!isnan(x[i]));
    MUST(ds_session_free(session) == DS_OK);
}

static void must_be_finite(const ds_combination *combination) {
    MUST(isfinite(combination->sample) && isfinite(combination->model_output) && isfinite(combination->noise));
    MUST(isfinite(combination->prediction));
    for (size_t slot = 0; slot < DS_MAX_SLOTS; slot++) MUST(isfinite(combination->slots[slot]));
}

static void plan(ds_scheduler scheduler, size_t n_steps) {
    ds_plan_properties properties;
    double *numbers;
    size_t count, n_rates;
    const ds_status status = ds_scheduler_set_timesteps(scheduler, n_steps, NULL);
    if (status != DS_OK) {
        MUST(status == DS_INVALID_VALUE || status == DS_UNREPRESENTABLE_PLAN);
        MUST(strlen(ds_error_message()) > 8);
        return;
    }
    /* Heun evaluates the model 2n - 1 times, PNDM n + 9 times. */
    MUST(ds_scheduler_plan_properties(scheduler, &properties) == DS_OK);
    MUST(properties.n_steps >= 1 && properties.n_steps <= 2 * n_steps + 9);
    MUST(ds_scheduler_sigmas(scheduler, NULL, 0, &n_rates) == DS_OK && n_rates == properties.n_steps + 1);
    MUST((numbers = malloc(n_rates * sizeof *numbers)));
    MUST(ds_scheduler_sigmas(scheduler, numbers, n_rates, NULL) == DS_OK);
    for (size_t i = 0; i < n_rates; i++) MUST(isfinite(numbers[i]) && numbers[i] >= 0);
    MUST(ds_scheduler_timesteps(scheduler, numbers, n_rates, &count) == DS_OK && count + 1 == n_rates);
    /* Continuous timesteps are logarithms for some models. */
    for (size_t i = 0; i < count; i++) MUST(isfinite(numbers[i]));
    free(numbers);
    for (size_t i = 0; i < count; i++)
        for (size_t age = 0; age < 3; age++) {
            ds_row row;
            MUST(ds_scheduler_row(scheduler, i, age, &row) == DS_OK);
            MUST(row.n_stores <= DS_MAX_STORES && row.n_noise_draws <= 2);
            must_be_finite(&row.prediction);
            must_be_finite(&row.next_sample);
            must_be_finite(&row.report);
            for (size_t k = 0; k < row.n_stores; k++) {
                MUST(row.stores[k].slot < DS_MAX_SLOTS);
                must_be_finite(&row.stores[k].value);
            }
        }
    step(scheduler);
}

/* The written configuration is read again, and written with the same bytes. */
static void write_and_read(ds_scheduler scheduler) {
    size_t length, second;
    ds_scheduler again;
    MUST(ds_scheduler_config_json(scheduler, NULL, 0, &length) == DS_OK);
    char *text = malloc(length + 1), *other = malloc(length + 1);
    MUST(text && other);
    MUST(ds_scheduler_config_json(scheduler, text, length + 1, &length) == DS_OK && strlen(text) == length);
    MUST(ds_scheduler_create(text, length, NULL, NULL, &again) == DS_OK);
    MUST(ds_scheduler_config_json(again, other, length + 1, &second) == DS_OK && second == length && strcmp(text, other) == 0);
    MUST(ds_scheduler_free(again) == DS_OK);
    free(text);
    free(other);
}

/* A sampler for the model of a configuration. */
static void sample(ds_scheduler model, size_t number) {
    size_t count = 0, length;
    while (ds_sampler_name(count)) count++;
    ds_scheduler scheduler = {0};
    const ds_status status = ds_scheduler_create_named(ds_sampler_name(number % count), model, NULL, &scheduler);
    if (status != DS_OK) {
        MUST(status == DS_INVALID_VALUE || status == DS_CONFLICTING_KEYS || status == DS_UNSUPPORTED_SCHEDULER);
        return;
    }
    MUST(ds_scheduler_sampler_names(scheduler, NULL, 0, &length) == DS_OK && length >= 2); /* "[]": none */
    write_and_read(scheduler);
    plan(scheduler, 3);
    MUST(ds_scheduler_free(scheduler) == DS_OK);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    /* Memory of exactly this size: the text need not end with a zero. */
    char *json = malloc(size ? size : 1);
    MUST(json);
    memcpy(json, data, size);
    for (size_t class = 0; class == 0 || ds_supported_class_name(class - 1); class++) {
        ds_scheduler scheduler = {0};
        const ds_status status =
            ds_scheduler_create(json, size, class == 0 ? NULL : ds_supported_class_name(class - 1), NULL, &scheduler);
        if (status != DS_OK) {
            MUST(scheduler.handle == 0 && strlen(ds_error_message()) > 8);
            MUST(status == DS_MALFORMED_JSON || status == DS_INVALID_VALUE || status == DS_CONFLICTING_KEYS ||
                 status == DS_UNSUPPORTED_SCHEDULER);
            if (status == DS_MALFORMED_JSON) break; /* for every class alike */
            continue;
        }
        size_t count;
        MUST(ds_scheduler_num_train_timesteps(scheduler, &count) == DS_OK && count >= 1 && count <= 1000000);
        MUST(ds_scheduler_unused_keys(scheduler, NULL, 0, &count) == DS_OK);
        write_and_read(scheduler);
        plan(scheduler, 1 + size % 3);
        plan(scheduler, 4 + size % 29);
        sample(scheduler, size);
        MUST(ds_scheduler_free(scheduler) == DS_OK);
    }
    free(json);
    return 0;
}
