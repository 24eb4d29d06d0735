/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Calls that C programs get wrong. Each must return the status that the header names, with a sentence that says what was wrong, and
 * write nothing.
 */

#include <diffusion_scheduling.h>

#include <ctype.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { N_ELEMENTS = 24 };

static int n_calls, n_failures;

/* Memory that calls may write to: filled with a pattern before each call. */
static unsigned char out_bytes[4][N_ELEMENTS * 8 + 64];
static char text[256];
static double numbers[64];

static void fill(void) {
    memset(out_bytes, 0xA5, sizeof out_bytes);
    memset(text, 0xA5, sizeof text);
    memset(numbers, 0xA5, sizeof numbers);
}

static bool untouched(void) {
    const unsigned char *places[] = {(unsigned char *)out_bytes, (unsigned char *)text, (unsigned char *)numbers};
    const size_t sizes[] = {sizeof out_bytes, sizeof text, sizeof numbers};
    for (int i = 0; i < 3; i++)
        for (size_t j = 0; j < sizes[i]; j++)
            if (places[i][j] != 0xA5) return false;
    return true;
}

/* Whether a text contains one of Swift's names, for example setTimesteps. */
static bool has_swift_name(const char *text) {
    for (const char *c = text; *c; c++) {
        const bool begins = islower((unsigned char)*c) && (c == text || !isalnum((unsigned char)c[-1]));
        if (!begins) continue;
        while (isalnum((unsigned char)c[1]))
            if (isupper((unsigned char)*++c)) return true;
    }
    return false;
}

/* Prepares a row and steps with it. */
static ds_status row_step(ds_scheduler scheduler, const ds_row *row, const ds_tensor *model_output, const ds_tensor *sample,
                          const ds_tensor *noise, const ds_tensor *slots, size_t n_slots, const ds_tensor *stores,
                          const ds_tensor *prev_sample, const ds_tensor *pred_original_sample, unsigned max_threads) {
    ds_prepared_row prepared;
    ds_status status = ds_scheduler_prepare_row(scheduler, row, &prepared);
    return status ? status
                  : ds_row_step(&prepared, model_output, sample, noise, slots, n_slots, stores, prev_sample, pred_original_sample,
                                max_threads);
}

static void judge(int line, const char *call, ds_status status, ds_status expected, const char *part) {
    n_calls++;
    const bool is_right =
        status == expected &&
        (expected == DS_OK || (strstr(ds_error_message(), part) && untouched() && !has_swift_name(ds_error_message())));
    if (is_right) return;
    n_failures++;
    printf("line %d: %s\n  gave %d (%s), expected %d with \"%s\"%s\n", line, call, (int)status, ds_error_message(), (int)expected,
           part, untouched() ? "" : "; something was written");
}

/* The call returns the status and a sentence that contains the part and none of Swift's names, and writes nothing. */
#define BAD(call, expected, part) (fill(), judge(__LINE__, #call, (call), (expected), (part)))
#define GOOD(call) judge(__LINE__, #call, (call), DS_OK, "")

#define JSON(text) (text), strlen(text)

static const char deis[] = "{\"_class_name\": \"DEISMultistepScheduler\", \"solver_order\": 3}";
static const char stochastic[] = "{\"_class_name\": \"DPMSolverMultistepScheduler\", \"algorithm_type\": \"sde-dpmsolver++\"}";
static const char learned[] = "{\"_class_name\": \"DPMSolverMultistepScheduler\", \"variance_type\": \"learned_range\"}";
static const char ddim[] = "{\"_class_name\": \"DDIMScheduler\"}";

static void making(void) {
    ds_scheduler scheduler = {0};
    BAD(ds_scheduler_create(NULL, 5, NULL, NULL, &scheduler), DS_NULL_POINTER, "json is NULL");
    BAD(ds_scheduler_create(JSON(deis), NULL, NULL, NULL), DS_NULL_POINTER, "scheduler is NULL");
    BAD(ds_scheduler_create(deis, 0, NULL, NULL, &scheduler), DS_MALFORMED_JSON, "line 1, column 1");
    BAD(ds_scheduler_create(deis, SIZE_MAX, NULL, NULL, &scheduler), DS_TOO_LARGE, "json");
    BAD(ds_scheduler_create(JSON("[1]"), NULL, NULL, &scheduler), DS_MALFORMED_JSON, "object");
    BAD(ds_scheduler_create(JSON("{\"a\": }"), NULL, NULL, &scheduler), DS_MALFORMED_JSON, "line 1, column 7");
    BAD(ds_scheduler_create(JSON("{}"), NULL, NULL, &scheduler), DS_INVALID_VALUE, "_class_name is missing");
    BAD(ds_scheduler_create(JSON("{\"_class_name\": \"Nope\"}"), NULL, NULL, &scheduler), DS_UNSUPPORTED_SCHEDULER, "Nope");
    BAD(ds_scheduler_create(JSON(deis), "Nope", NULL, &scheduler), DS_UNSUPPORTED_SCHEDULER, "DDIMScheduler");
    BAD(ds_scheduler_create(JSON(deis), "\xff", NULL, &scheduler), DS_INVALID_VALUE, "UTF-8");
    BAD(ds_scheduler_create(JSON(deis), NULL, "{", &scheduler), DS_MALFORMED_JSON, "column 2");
    BAD(ds_scheduler_create(JSON(deis), NULL, "{\"solver_order\": 9}", &scheduler), DS_INVALID_VALUE, "solver_order is 9");
    BAD(ds_scheduler_create(JSON(deis), NULL, "{\"use_karras_sigmas\": true, \"use_beta_sigmas\": true}", &scheduler),
        DS_CONFLICTING_KEYS, "use_karras_sigmas and use_beta_sigmas");
    BAD(ds_scheduler_load(NULL, NULL, NULL, NULL, &scheduler), DS_NULL_POINTER, "path is NULL");
    BAD(ds_scheduler_load("/nowhere/at/all", NULL, NULL, NULL, &scheduler), DS_INACCESSIBLE_FILE, "/nowhere/at/all");
    BAD(ds_scheduler_load("/tmp", "\xff", NULL, NULL, &scheduler), DS_INVALID_VALUE, "subfolder");
    if (scheduler.handle != 0) n_failures++, printf("a handle was written by a call that failed\n");
}

static void handles(void) {
    ds_scheduler scheduler, none = {0}, odd = {0xFFFFFFFFFFFFFFFF}, other;
    ds_session session, no_session = {0};
    ds_noise noise;
    ds_plan_properties properties;
    size_t count;
    bool flag;
    GOOD(ds_scheduler_create(JSON(deis), NULL, NULL, &scheduler));
    BAD(ds_session_create(scheduler, 0, &session), DS_TIMESTEPS_NOT_SET, "call ds_scheduler_set_timesteps first");
    GOOD(ds_scheduler_set_timesteps(scheduler, 4, NULL));
    GOOD(ds_session_create(scheduler, 0, &session));
    GOOD(ds_noise_create(DS_NOISE_NUMPY, 1, &noise));

    BAD(ds_scheduler_plan_properties(none, &properties), DS_INVALID_HANDLE, "zero");
    BAD(ds_scheduler_plan_properties(odd, &properties), DS_INVALID_HANDLE, "18446744073709551615");
    for (unsigned bit = 0; bit < 64; bit++) {
        const ds_scheduler wrong = {scheduler.handle ^ (uint64_t)1 << bit};
        BAD(ds_scheduler_plan_properties(wrong, &properties), DS_INVALID_HANDLE, "handle");
    }
    BAD(ds_scheduler_plan_properties((ds_scheduler){session.handle}, &properties), DS_INVALID_HANDLE, "of another kind");
    BAD(ds_session_step_index((ds_session){noise.handle}, &count), DS_INVALID_HANDLE, "of another kind");
    BAD(ds_session_step(no_session, NULL, NULL, NULL, NULL, NULL, 0), DS_INVALID_HANDLE, "session");
    BAD(ds_noise_fill((ds_noise){scheduler.handle}, NULL, 0), DS_INVALID_HANDLE, "noise source");
    GOOD(ds_scheduler_free(none));
    GOOD(ds_session_free(no_session));
    GOOD(ds_noise_free((ds_noise){0}));

    /* The handle is freed, and its slot used again. */
    GOOD(ds_scheduler_free(scheduler));
    BAD(ds_scheduler_free(scheduler), DS_INVALID_HANDLE, "freed");
    BAD(ds_scheduler_set_timesteps(scheduler, 4, NULL), DS_INVALID_HANDLE, "freed");
    GOOD(ds_scheduler_create(JSON(ddim), NULL, NULL, &other));
    BAD(ds_scheduler_plan_properties(scheduler, &properties), DS_INVALID_HANDLE, "freed");
    if (other.handle == scheduler.handle) n_failures++, printf("a handle was given twice\n");
    GOOD(ds_session_step_index(session, &count)); /* a session outlives its scheduler */
    GOOD(ds_session_free(session));
    BAD(ds_session_free(session), DS_INVALID_HANDLE, "freed");
    BAD(ds_session_reset(session), DS_INVALID_HANDLE, "freed");
    BAD(ds_session_copy(session, &session), DS_INVALID_HANDLE, "freed");
    BAD(ds_session_needs_noise(session, &flag), DS_INVALID_HANDLE, "freed");
    BAD(ds_session_save(session, out_bytes, sizeof out_bytes, &count), DS_INVALID_HANDLE, "freed");
    GOOD(ds_noise_free(noise));
    BAD(ds_noise_copy(noise, &noise), DS_INVALID_HANDLE, "freed");
    GOOD(ds_scheduler_free(other));
}

static void plans(void) {
    ds_scheduler scheduler, sampler;
    ds_session session;
    ds_row row;
    ds_plan_properties properties;
    size_t count = 77;
    GOOD(ds_scheduler_create(JSON(deis), NULL, NULL, &scheduler));
    GOOD(ds_scheduler_create(JSON(ddim), NULL, NULL, &sampler));
    BAD(ds_scheduler_plan_properties(scheduler, &properties), DS_TIMESTEPS_NOT_SET, "no timesteps");
    BAD(ds_scheduler_row(scheduler, 0, 0, &row), DS_TIMESTEPS_NOT_SET, "no timesteps");
    BAD(ds_scheduler_attribute_row(scheduler, 0, 0, &row), DS_TIMESTEPS_NOT_SET, "no timesteps");
    BAD(ds_scheduler_input_scales(scheduler, numbers, 64, &count), DS_TIMESTEPS_NOT_SET, "no timesteps");
    BAD(ds_scheduler_output_weights(scheduler, numbers, 64, &count), DS_TIMESTEPS_NOT_SET, "no timesteps");
    BAD(ds_scheduler_plan_json(scheduler, text, sizeof text, &count), DS_TIMESTEPS_NOT_SET, "no timesteps");
    BAD(ds_scheduler_device_table(scheduler, 0, NULL, 0, &count), DS_TIMESTEPS_NOT_SET, "no timesteps");
    BAD(ds_scheduler_signal_rates(scheduler, numbers, 64, &count), DS_TIMESTEPS_NOT_SET, "no timesteps");
    BAD(ds_scheduler_set_timesteps(scheduler, 0, NULL), DS_INVALID_VALUE, "number of steps is 0");
    BAD(ds_scheduler_set_timesteps(scheduler, SIZE_MAX, NULL), DS_INVALID_VALUE, "number of steps");
    BAD(ds_scheduler_set_timesteps(scheduler, 1 << 30, NULL), DS_INVALID_VALUE, "100000");

    /* Arguments. */
    BAD(ds_scheduler_set_timesteps(scheduler, 4, ""), DS_MALFORMED_JSON, "line 1, column 1");
    BAD(ds_scheduler_set_timesteps(scheduler, 4, "{"), DS_MALFORMED_JSON, "column 2");
    BAD(ds_scheduler_set_timesteps(scheduler, 4, "[1]"), DS_MALFORMED_JSON, "arguments must be an object");
    BAD(ds_scheduler_set_timesteps(scheduler, 4, "{\"\xff\": 1}"), DS_MALFORMED_JSON, "UTF-8");
    BAD(ds_scheduler_set_timesteps(scheduler, SIZE_MAX, "{\"timesteps\": [1]}"), DS_INVALID_VALUE, "18446744073709551615");
    BAD(ds_scheduler_set_timesteps(scheduler, 4, "{\"mu\": 1}"), DS_INVALID_VALUE, "use_dynamic_shifting");
    BAD(ds_scheduler_set_timesteps(scheduler, 4, "{\"mu\": \"much\"}"), DS_INVALID_VALUE, "mu is \"much\"");
    BAD(ds_scheduler_set_timesteps(scheduler, 0, "{\"mu\": 1, \"timesteps\": [1]}"), DS_INVALID_VALUE, "mu is 1");
    BAD(ds_scheduler_set_timesteps(scheduler, 4, "{\"eta\": 0.5}"), DS_INVALID_VALUE,
        "eta is given, but must be left out: this scheduler has no options");
    BAD(ds_scheduler_set_timesteps(sampler, 4, "{\"s_churn\": 0.5}"), DS_INVALID_VALUE,
        "s_churn is given, but must be one of the options eta, use_clipped_model_output");
    BAD(ds_scheduler_set_timesteps(sampler, 4, "{\"eta\": 1.5}"), DS_INVALID_VALUE, "eta is 1.5");
    BAD(ds_scheduler_set_timesteps(sampler, 4, "{\"eta\": NaN}"), DS_INVALID_VALUE, "eta is nan");
    BAD(ds_scheduler_set_timesteps(sampler, 4, "{\"eta\": \"much\"}"), DS_INVALID_VALUE, "eta is \"much\"");
    BAD(ds_scheduler_set_timesteps(sampler, 4, "{\"use_clipped_model_output\": 3}"), DS_INVALID_VALUE, "use_clipped_model_output");
    BAD(ds_scheduler_set_timesteps(scheduler, 0, "{\"timesteps\": 3}"), DS_INVALID_VALUE, "timesteps is 3");
    BAD(ds_scheduler_set_timesteps(scheduler, 0, "{\"timesteps\": []}"), DS_INVALID_VALUE, "number of timesteps is 0");
    BAD(ds_scheduler_set_timesteps(scheduler, 0, "{\"timesteps\": [10, 20]}"), DS_INVALID_VALUE, "timesteps[1] is 20");
    BAD(ds_scheduler_set_timesteps(scheduler, 0, "{\"timesteps\": [NaN, 1]}"), DS_INVALID_VALUE, "timesteps[0] is nan");
    BAD(ds_scheduler_set_timesteps(scheduler, 0, "{\"timesteps\": [20, \"10\"]}"), DS_INVALID_VALUE, "timesteps is");
    BAD(ds_scheduler_set_timesteps(scheduler, 4, "{\"timesteps\": [20, 10]}"), DS_INVALID_VALUE,
        "number of steps is 4, but must be 0, or 2");
    BAD(ds_scheduler_set_timesteps(scheduler, 4, "{\"sigmas\": [2, 1]}"), DS_INVALID_VALUE,
        "number of steps is 4, but must be 0, or 2");
    BAD(ds_scheduler_set_timesteps(scheduler, 0, "{\"sigmas\": [1, 2]}"), DS_INVALID_VALUE, "sigmas[1] is 2");
    BAD(ds_scheduler_set_timesteps(sampler, 0, "{\"sigmas\": [2, 1]}"), DS_INVALID_VALUE, "sigmas");
    BAD(ds_scheduler_set_timesteps(scheduler, 0, "{\"sigmas\": [2, 1], \"timesteps\": [20, 10]}"), DS_INVALID_VALUE,
        "timesteps and sigmas");
    BAD(ds_scheduler_set_timesteps(scheduler, 0, "{\"sigmas\": null}"), DS_INVALID_VALUE, "number of steps is 0");
    BAD(ds_scheduler_plan_properties(scheduler, &properties), DS_TIMESTEPS_NOT_SET, "no timesteps");
    GOOD(ds_scheduler_set_timesteps(scheduler, 4, NULL));
    BAD(ds_scheduler_set_timesteps(scheduler, 0, NULL), DS_INVALID_VALUE, "number of steps is 0");
    GOOD(ds_scheduler_plan_properties(scheduler, &properties)); /* the plan is still there */
    if (properties.n_steps != 4) n_failures++, printf("a plan was lost\n");
    BAD(ds_session_create(scheduler, 5, &session), DS_INVALID_VALUE, "begin_index is 5");
    BAD(ds_session_create(scheduler, SIZE_MAX, &session), DS_INVALID_VALUE, "begin_index");
    BAD(ds_session_create(scheduler, 0, NULL), DS_NULL_POINTER, "session is NULL");
    BAD(ds_scheduler_row(scheduler, 4, 0, &row), DS_INVALID_VALUE, "index is 4");
    BAD(ds_scheduler_row(scheduler, 0, 0, NULL), DS_NULL_POINTER, "row is NULL");
    GOOD(ds_scheduler_row(scheduler, 3, SIZE_MAX, &row));
    BAD(ds_scheduler_attribute_row(scheduler, 4, 0, &row), DS_INVALID_VALUE, "index is 4");
    BAD(ds_scheduler_attribute_row(scheduler, 0, 0, NULL), DS_NULL_POINTER, "row is NULL");
    GOOD(ds_scheduler_attribute_row(scheduler, 3, SIZE_MAX, &row));
    uint8_t record[1024];
    BAD(ds_scheduler_device_table(scheduler, 0, record, sizeof record, &count), DS_BUFFER_TOO_SMALL, "but needs 10240");
    BAD(ds_scheduler_device_table(scheduler, SIZE_MAX, NULL, 0, &count), DS_INVALID_VALUE, "first record is -1");
    BAD(ds_scheduler_device_table(scheduler, 0, NULL, 0, NULL), DS_NULL_POINTER, "length is NULL");
    BAD(ds_scheduler_device_row(scheduler, NULL, record), DS_NULL_POINTER, "row is NULL");
    BAD(ds_scheduler_device_row(scheduler, &row, NULL), DS_NULL_POINTER, "record is NULL");
    GOOD(ds_scheduler_device_row(scheduler, &row, record));
    BAD(ds_scheduler_plan_properties(scheduler, NULL), DS_NULL_POINTER, "properties is NULL");
    BAD(ds_scheduler_input_scales(scheduler, numbers, 3, &count), DS_BUFFER_TOO_SMALL, "room for 3, but needs 4");
    BAD(ds_scheduler_input_scales(scheduler, NULL, 4, &count), DS_NULL_POINTER, "buffer is NULL");
    GOOD(ds_scheduler_input_scales(scheduler, numbers, 4, &count));
    if (count != 4 || numbers[0] != 1 || numbers[3] != 1) n_failures++, printf("an input scale isn't 1\n");
    GOOD(ds_scheduler_output_weights(scheduler, NULL, 0, &count));
    if (count != 0) n_failures++, printf("a model with one output has weights\n");

    /* Buffers. */
    BAD(ds_scheduler_timesteps(scheduler, numbers, 3, &count), DS_BUFFER_TOO_SMALL, "room for 3, but needs 4");
    if (count != 4) n_failures++, printf("the size wasn't told\n");
    BAD(ds_scheduler_sigmas(scheduler, numbers, 4, NULL), DS_BUFFER_TOO_SMALL, "needs 5");
    BAD(ds_scheduler_timesteps(scheduler, NULL, 4, &count), DS_NULL_POINTER, "buffer is NULL");
    BAD(ds_scheduler_timesteps(scheduler, NULL, 0, NULL), DS_NULL_POINTER, "count is NULL");
    BAD(ds_scheduler_alphas_cumprod(scheduler, numbers, 64, NULL), DS_BUFFER_TOO_SMALL, "needs 1000");
    BAD(ds_scheduler_class_name(scheduler, text, 22, &count), DS_BUFFER_TOO_SMALL, "needs 23");
    if (count != 22) n_failures++, printf("the length wasn't told\n");
    BAD(ds_scheduler_class_name(scheduler, NULL, 23, NULL), DS_NULL_POINTER, "buffer is NULL");
    BAD(ds_scheduler_config_json(scheduler, text, 9, NULL), DS_BUFFER_TOO_SMALL, "room for 9");
    BAD(ds_scheduler_unused_keys(scheduler, text, 1, NULL), DS_BUFFER_TOO_SMALL, "room for 1");
    GOOD(ds_scheduler_class_name(scheduler, text, 23, &count));
    if (strcmp(text, "DEISMultistepScheduler") != 0) n_failures++, printf("the class name is %s\n", text);
    BAD(ds_scheduler_num_train_timesteps(scheduler, NULL), DS_NULL_POINTER, "count is NULL");
    BAD(ds_scheduler_init_noise_sigma(scheduler, NULL), DS_NULL_POINTER, "sigma is NULL");
    GOOD(ds_scheduler_free(scheduler));
    GOOD(ds_scheduler_free(sampler));
}

static void tensors(void) {
    static float x_data[N_ELEMENTS], e_data[2 * N_ELEMENTS];
    static double wide_data[N_ELEMENTS];
    const int64_t shape[] = {2, 3, 4}, flat[] = {24}, other[] = {2, 4, 3}, negative[] = {2, -3, 4}, twice[] = {2, 6, 4};
    const int64_t overflow[] = {INT64_C(1) << 62, INT64_C(1) << 62}, huge[] = {INT64_C(1) << 61, 2}, fewer[] = {1, 3, 4};
    const int64_t terrible[] = {INT64_C(1) << 58}, empty[] = {0, INT64_C(1) << 62, INT64_C(1) << 62};
    int64_t ones[65];
    for (int i = 0; i < 65; i++) ones[i] = 1;

    const ds_tensor x = {x_data, DS_FLOAT32, 3, shape}, e = {e_data, DS_FLOAT32, 3, shape}, z = {wide_data, DS_FLOAT64, 3, shape};
    const ds_tensor out = {out_bytes[0], DS_FLOAT32, 3, shape}, p = {out_bytes[1], DS_FLOAT32, 3, shape};
    const ds_tensor wide = {out_bytes[0], DS_FLOAT64, 3, shape}, two = {e_data, DS_FLOAT32, 3, twice};
    const ds_tensor no_data = {NULL, DS_FLOAT32, 3, shape}, no_shape = {x_data, DS_FLOAT32, 3, NULL};
    const ds_tensor no_type = {x_data, (ds_element_type)99, 3, shape}, turned = {e_data, DS_FLOAT32, 3, other};
    const ds_tensor flattened = {e_data, DS_FLOAT32, 1, flat}, below = {x_data, DS_FLOAT32, 3, negative};
    const ds_tensor deep = {x_data, DS_FLOAT32, 65, ones}, deepest = {x_data, DS_FLOAT32, SIZE_MAX, ones};
    const ds_tensor over = {x_data, DS_FLOAT32, 2, overflow}, beyond = {x_data, DS_FLOAT32, 2, huge};
    const ds_tensor odd = {(char *)x_data + 1, DS_FLOAT32, 3, shape}, odd_out = {out_bytes[0] + 2, DS_FLOAT32, 3, shape};
    const ds_tensor shifted = {out_bytes[0] + 4, DS_FLOAT32, 3, shape}, less = {out_bytes[0], DS_FLOAT32, 3, fewer};
    const ds_tensor much = {x_data, DS_FLOAT32, 1, terrible}, nothing = {NULL, DS_FLOAT32, 3, empty};
    const ds_tensor at_the_end = {(void *)(UINTPTR_MAX - 31), DS_FLOAT32, 3, shape};
    const ds_tensor few_x = {x_data, DS_FLOAT32, 3, fewer}, few_e = {e_data, DS_FLOAT32, 3, fewer};

    ds_scheduler scheduler;
    ds_session session, again;
    ds_row part;
    GOOD(ds_scheduler_create(JSON(deis), NULL, NULL, &scheduler));
    BAD(ds_scheduler_part_row(scheduler, 0, 0, &part), DS_TIMESTEPS_NOT_SET, "no timesteps");
    GOOD(ds_scheduler_set_timesteps(scheduler, 3, NULL));
    GOOD(ds_session_create(scheduler, 0, &session));

    BAD(ds_session_step(session, NULL, &x, NULL, &out, NULL, 0), DS_NULL_POINTER, "model_output is NULL");
    BAD(ds_session_step(session, &e, NULL, NULL, &out, NULL, 0), DS_NULL_POINTER, "sample is NULL");
    BAD(ds_session_step(session, &e, &x, NULL, NULL, NULL, 0), DS_NULL_POINTER, "prev_sample is NULL");
    BAD(ds_session_step(session, &e, &no_data, NULL, &out, NULL, 0), DS_NULL_POINTER, "data of sample");
    BAD(ds_session_step(session, &e, &no_shape, NULL, &out, NULL, 0), DS_NULL_POINTER, "shape of sample");
    BAD(ds_session_step(session, &no_type, &x, NULL, &out, NULL, 0), DS_UNKNOWN_ELEMENT_TYPE, "model_output");
    BAD(ds_session_step(session, &e, &no_type, NULL, &out, NULL, 0), DS_UNKNOWN_ELEMENT_TYPE, "99");
    BAD(ds_session_step(session, &e, &below, NULL, &out, NULL, 0), DS_INVALID_SHAPE, "axis 1 is -3");
    BAD(ds_session_step(session, &e, &deep, NULL, &out, NULL, 0), DS_INVALID_SHAPE, "rank is 65");
    BAD(ds_session_step(session, &e, &deepest, NULL, &out, NULL, 0), DS_INVALID_SHAPE, "rank is 18446744073709551615");
    BAD(ds_session_step(session, &e, &over, NULL, &out, NULL, 0), DS_TOO_LARGE, "sample");
    BAD(ds_session_step(session, &e, &beyond, NULL, &out, NULL, 0), DS_TOO_LARGE, "sample");
    BAD(ds_session_step(session, &e, &at_the_end, NULL, &out, NULL, 0), DS_TOO_LARGE, "sample");
    BAD(ds_session_step(session, &e, &odd, NULL, &out, NULL, 0), DS_MISALIGNED, "sample");
    BAD(ds_session_step(session, &e, &x, NULL, &odd_out, NULL, 0), DS_MISALIGNED, "prev_sample is not a multiple");
    BAD(ds_session_step(session, &turned, &x, NULL, &out, NULL, 0), DS_SHAPE_MISMATCH,
        "[2, 4, 3], but must have [2, 3, 4], like sample");
    BAD(ds_session_step(session, &flattened, &x, NULL, &out, NULL, 0), DS_SHAPE_MISMATCH, "[24]");
    BAD(ds_session_step(session, &two, &x, NULL, &out, NULL, 0), DS_SHAPE_MISMATCH, "[2, 6, 4]");
    BAD(ds_session_step(session, &e, &x, NULL, &less, NULL, 0), DS_SHAPE_MISMATCH, "prev_sample"); /* an output too small */
    BAD(ds_session_step(session, &e, &x, NULL, &out, &less, 0), DS_SHAPE_MISMATCH, "pred_original_sample");
    BAD(ds_session_step(session, &e, &x, &z, &out, NULL, 0), DS_WRONG_ELEMENT_TYPE, "noise has elements of type float64");
    BAD(ds_session_step(session, &e, &x, NULL, &wide, NULL, 0), DS_WRONG_ELEMENT_TYPE, "prev_sample");
    BAD(ds_session_step(session, &e, &x, NULL, &out, &out, 0), DS_OVERLAP, "pred_original_sample overlaps prev_sample");
    BAD(ds_session_step(session, &e, &x, NULL, &out, &shifted, 0), DS_OVERLAP, "overlaps");
    BAD(ds_session_step(session, &e, &out, NULL, &shifted, NULL, 0), DS_OVERLAP, "prev_sample overlaps sample");
    BAD(ds_session_step(session, &shifted, &x, NULL, &out, NULL, 0), DS_OVERLAP, "prev_sample overlaps model_output");
    BAD(ds_session_step_with_input(session, &e, &x, NULL, &out, NULL, NULL, 0), DS_NULL_POINTER, "model_input is NULL");
    BAD(ds_session_step_with_input(session, &e, &x, NULL, &out, NULL, &less, 0), DS_SHAPE_MISMATCH, "model_input");
    BAD(ds_session_step_with_input(session, &e, &x, NULL, &out, NULL, &wide, 0), DS_WRONG_ELEMENT_TYPE, "model_input");
    BAD(ds_session_step_with_input(session, &e, &x, NULL, &out, NULL, &x, 0), DS_OVERLAP, "model_input overlaps sample");
    BAD(ds_session_step_with_input(session, &e, &x, NULL, &out, NULL, &shifted, 0), DS_OVERLAP, "model_input overlaps prev_sample");
    BAD(ds_session_step(session, &much, &much, NULL, &much, NULL, 0), DS_OUT_OF_MEMORY, "slots of");
    BAD(ds_scheduler_part_row(scheduler, 0, 4, &part), DS_INVALID_VALUE, "order is 4");
    BAD(ds_scheduler_part_row(scheduler, 0, UINT_MAX, &part), DS_INVALID_VALUE, "order is 4294967295");
    BAD(ds_scheduler_part_row(scheduler, 0, 2, &part), DS_INVALID_VALUE, "at least 1 for an update of order 2");
    BAD(ds_scheduler_part_row(scheduler, 3, 0, &part), DS_INVALID_VALUE, "index is 3");
    BAD(ds_scheduler_part_row(scheduler, 0, 1, NULL), DS_NULL_POINTER, "row is NULL");
    GOOD(ds_scheduler_part_row(scheduler, 0, 1, &part));
    GOOD(row_step(scheduler, &part, &e, &x, NULL, NULL, 0, NULL, &out, NULL, 0));
    GOOD(ds_scheduler_part_row(scheduler, 1, 2, &part));
    BAD(row_step(scheduler, &part, &e, &x, NULL, NULL, 0, NULL, &out, NULL, 0), DS_INVALID_VALUE, "slot 0 is missing");
    BAD(ds_session_step_index(session, NULL), DS_NULL_POINTER, "index is NULL");
    BAD(ds_session_timestep(session, NULL), DS_NULL_POINTER, "timestep is NULL");
    BAD(ds_session_copy(session, NULL), DS_NULL_POINTER, "copy is NULL");

    /* The calls above have neither taken a step nor fixed the type or the number of elements. */
    size_t index = 77;
    GOOD(ds_session_step_index(session, &index));
    if (index != 0) n_failures++, printf("a call that failed has taken a step\n");
    GOOD(ds_session_step(session, &e, &x, NULL, &out, &p, 0));
    BAD(ds_session_step(session, &z, &z, NULL, &wide, NULL, 0), DS_WRONG_ELEMENT_TYPE, "float32");
    BAD(ds_session_step(session, &few_e, &few_x, NULL, &less, NULL, 0), DS_WRONG_ELEMENT_COUNT, "24, as at the first step");
    GOOD(ds_session_step(session, &e, &x, NULL, &x, NULL, 0));
    GOOD(ds_session_step(session, &e, &x, NULL, &e, NULL, 0));
    BAD(ds_session_step(session, &e, &x, NULL, &out, NULL, 0), DS_STEP_PAST_END, "all 3 steps");
    BAD(ds_session_timestep(session, numbers), DS_STEP_PAST_END, "all 3 steps");
    GOOD(ds_session_reset(session));
    GOOD(ds_session_step(session, &nothing, &nothing, NULL, &nothing, NULL, 0));
    GOOD(ds_session_free(session));
    GOOD(ds_scheduler_free(scheduler));

    GOOD(ds_scheduler_create(JSON(stochastic), NULL, NULL, &scheduler));
    GOOD(ds_scheduler_set_timesteps(scheduler, 3, NULL));
    GOOD(ds_session_create(scheduler, 1, &again));
    BAD(ds_session_step(again, &e, &x, NULL, &out, NULL, 0), DS_MISSING_NOISE, "step 1 is stochastic");
    GOOD(ds_scheduler_part_row(scheduler, 1, 1, &part));
    BAD(row_step(scheduler, &part, &e, &x, NULL, NULL, 0, NULL, &out, NULL, 0), DS_MISSING_NOISE, "noise");
    GOOD(ds_session_free(again));
    GOOD(ds_scheduler_free(scheduler));

    /* Learned variances would make the output's items overlap the model output's. */
    const ds_tensor into_two = {e_data, DS_FLOAT32, 3, shape};
    GOOD(ds_scheduler_create(JSON(learned), NULL, NULL, &scheduler));
    GOOD(ds_scheduler_set_timesteps(scheduler, 3, NULL));
    GOOD(ds_session_create(scheduler, 0, &session));
    BAD(ds_session_step(session, &two, &x, NULL, &into_two, NULL, 0), DS_OVERLAP, "prev_sample overlaps model_output");
    GOOD(ds_session_step(session, &two, &x, NULL, &out, NULL, 0));
    GOOD(ds_session_free(session));
    GOOD(ds_scheduler_free(scheduler));
}

static void beside(void) {
    static float x_data[N_ELEMENTS], e_data[N_ELEMENTS];
    const int64_t shape[] = {2, 3, 4}, other[] = {3, 2, 4};
    const ds_tensor x = {x_data, DS_FLOAT32, 3, shape}, e = {e_data, DS_FLOAT32, 3, shape}, turned = {e_data, DS_FLOAT32, 3, other};
    const ds_tensor out = {out_bytes[0], DS_FLOAT32, 3, shape}, shifted = {(char *)x_data + 4, DS_FLOAT32, 3, shape};
    const double timesteps[] = {999, 500, 1}, wrong[] = {999, 0.5}, beyond[] = {1000}, rates[] = {1, INFINITY};
    ds_scheduler multistep, sampler;
    GOOD(ds_scheduler_create(JSON(deis), NULL, NULL, &multistep));
    GOOD(ds_scheduler_create(JSON(ddim), NULL, NULL, &sampler));

    BAD(ds_scheduler_add_noise(multistep, &x, &e, NULL, 1, &out, 0), DS_NULL_POINTER, "timesteps is NULL");
    BAD(ds_scheduler_add_noise(multistep, &x, &e, timesteps, 0, &out, 0), DS_WRONG_ELEMENT_COUNT, "1, or 2");
    BAD(ds_scheduler_add_noise(multistep, &x, &e, timesteps, 3, &out, 0), DS_WRONG_ELEMENT_COUNT, "1, or 2");
    BAD(ds_scheduler_add_noise(multistep, &x, &e, timesteps, SIZE_MAX, &out, 0), DS_WRONG_ELEMENT_COUNT, "1, or 2");
    BAD(ds_scheduler_add_noise(multistep, &x, &e, beyond, 1, &out, 0), DS_UNKNOWN_TIMESTEP, "1000");
    BAD(ds_scheduler_add_noise(sampler, &x, &e, wrong, 2, &out, 0), DS_UNKNOWN_TIMESTEP, "0.5");
    BAD(ds_scheduler_add_noise(multistep, &x, &turned, timesteps, 1, &out, 0), DS_SHAPE_MISMATCH, "noise");
    BAD(ds_scheduler_add_noise(multistep, &x, &e, timesteps, 1, &shifted, 0), DS_OVERLAP, "out overlaps sample");
    BAD(ds_combine_noise(&x, &e, NULL, rates, 1, &out, 0), DS_NULL_POINTER, "signal_rates is NULL");
    BAD(ds_combine_noise(&x, &e, rates, NULL, 1, &out, 0), DS_NULL_POINTER, "noise_rates is NULL");
    BAD(ds_combine_noise(&x, &e, rates, rates, 2, &out, 0), DS_INVALID_VALUE, "signal_rates[1] is inf");
    BAD(ds_combine_noise(&x, &e, rates, rates, 7, &out, 0), DS_WRONG_ELEMENT_COUNT, "1, or 2");
    BAD(ds_scheduler_get_velocity(multistep, &x, &e, timesteps, 1, &out, 0), DS_UNSUPPORTED_OPERATION, "no velocity");
    BAD(ds_scheduler_get_velocity(sampler, &x, &e, beyond, 1, &out, 0), DS_UNKNOWN_TIMESTEP, "1000");
    BAD(ds_scheduler_scale_model_input(multistep, NULL, 1, &out, 0), DS_NULL_POINTER, "sample is NULL");
    BAD(ds_scheduler_scale_model_input(multistep, &x, 1, &shifted, 0), DS_OVERLAP, "out");
    BAD(ds_rescale_noise_cfg(&x, &e, 1.5, &out, 0), DS_INVALID_VALUE, "guidance_rescale is 1.5");
    BAD(ds_rescale_noise_cfg(&x, &e, NAN, &out, 0), DS_INVALID_VALUE, "guidance_rescale is nan");
    BAD(ds_rescale_noise_cfg(&x, &turned, 0.7, &out, 0), DS_SHAPE_MISMATCH, "conditional");
    BAD(ds_rescale_noise_cfg(&x, NULL, 0.7, &out, 0), DS_NULL_POINTER, "conditional is NULL");
    GOOD(ds_scheduler_free(multistep));
    GOOD(ds_scheduler_free(sampler));
}

/* A copy of a row with one fault. */
static ds_row row_with(const ds_row *right, void (*change)(ds_row *)) {
    ds_row row = *right;
    change(&row);
    return row;
}
static void endless_sample(ds_row *row) { row->next_sample.sample = INFINITY; }
static void no_number_in_prediction(ds_row *row) { row->prediction.model_output = NAN; }
static void no_number_in_slot(ds_row *row) { row->report.slots[5] = NAN; }
static void no_number_in_store(ds_row *row) { row->stores[0].value.noise = NAN; }
static void three_stores(ds_row *row) { row->n_stores = 3; }
static void many_stores(ds_row *row) { row->n_stores = SIZE_MAX; }
static void store_in_6(ds_row *row) { row->stores[0].slot = 6; }
static void store_in_the_last(ds_row *row) { row->stores[0].slot = SIZE_MAX; }
static void store_in_300(ds_row *row) { row->stores[0].slot = 300; }
static void same_stores(ds_row *row) { row->n_stores = 2, row->stores[1] = row->stores[0]; }
static void seven_reads(ds_row *row) { row->n_reads = 7; }
static void read_of_6(ds_row *row) { row->n_reads = 1, row->reads[0] = 6; }
static void read_of_the_last(ds_row *row) { row->n_reads = 2, row->reads[1] = SIZE_MAX; }
static void prediction_of_slot(ds_row *row) { row->prediction.slots[0] = 1; }
static void prediction_of_itself(ds_row *row) { row->prediction.prediction = 1; }
static void noisy(ds_row *row) { row->next_sample.noise = 1; }
static void two_stores(ds_row *row) { row->n_stores = 2, row->stores[1] = (ds_store){.slot = 4, .value.sample = 1}; }

static void rows(void) {
    static float x_data[N_ELEMENTS], e_data[N_ELEMENTS], slot_data[DS_MAX_SLOTS][N_ELEMENTS];
    static double wide_data[N_ELEMENTS];
    const int64_t shape[] = {2, 3, 4}, other[] = {3, 2, 4};
    const ds_tensor x = {x_data, DS_FLOAT32, 3, shape}, e = {e_data, DS_FLOAT32, 3, shape}, turned = {e_data, DS_FLOAT32, 3, other};
    const ds_tensor out = {out_bytes[0], DS_FLOAT32, 3, shape}, p = {out_bytes[1], DS_FLOAT32, 3, shape};
    const ds_tensor wide = {wide_data, DS_FLOAT64, 3, shape}, odd = {(char *)x_data + 1, DS_FLOAT32, 3, shape};
    ds_tensor slots[DS_MAX_SLOTS], wrong[DS_MAX_SLOTS];
    for (int i = 0; i < DS_MAX_SLOTS; i++) slots[i] = (ds_tensor){out_bytes[2], DS_FLOAT32, 3, shape};
    /* Slot 0 is stored, slots 1 and 2 are read, slot 3 isn't used. */
    slots[1].data = slot_data[1];
    slots[2].data = slot_data[2];
    slots[3] = (ds_tensor){NULL, (ds_element_type)99, SIZE_MAX, NULL};
    ds_scheduler multistep, sampler, none = {0};
    ds_row row = {0};
    GOOD(ds_scheduler_create(JSON(deis), NULL, NULL, &multistep));
    GOOD(ds_scheduler_create(JSON(ddim), NULL, NULL, &sampler));

    BAD(ds_scheduler_row_at(none, 1, NULL, &row), DS_INVALID_HANDLE, "zero");
    BAD(ds_scheduler_row_at(multistep, 1, NULL, &row), DS_UNSUPPORTED_OPERATION, "DEISMultistepScheduler");
    BAD(ds_scheduler_row_at(sampler, 1, NULL, &row), DS_TIMESTEPS_NOT_SET, "no timesteps");
    BAD(row_step(sampler, &row, &e, &x, NULL, NULL, 0, NULL, &out, NULL, 0), DS_TIMESTEPS_NOT_SET, "no timesteps");
    GOOD(ds_scheduler_set_timesteps(multistep, 10, NULL));
    GOOD(ds_scheduler_set_timesteps(sampler, 10, NULL));
    BAD(ds_scheduler_row_at(multistep, 999, NULL, &row), DS_UNSUPPORTED_OPERATION, "DEISMultistepScheduler");
    BAD(ds_scheduler_part_row(sampler, 0, 0, &row), DS_UNSUPPORTED_OPERATION, "DDIMScheduler");
    BAD(ds_scheduler_row_at(sampler, 1000, NULL, &row), DS_UNKNOWN_TIMESTEP, "1000");
    BAD(ds_scheduler_row_at(sampler, 0.5, NULL, &row), DS_UNKNOWN_TIMESTEP, "0.5");
    BAD(ds_scheduler_row_at(sampler, -1, NULL, &row), DS_UNKNOWN_TIMESTEP, "-1");
    BAD(ds_scheduler_row_at(sampler, NAN, NULL, &row), DS_UNKNOWN_TIMESTEP, "nan");
    BAD(ds_scheduler_row_at(sampler, 900, "{\"eta\": 2}", &row), DS_INVALID_VALUE, "eta is 2");
    BAD(ds_scheduler_row_at(sampler, 900, "{\"eta\"", &row), DS_MALFORMED_JSON, "line 1");
    BAD(ds_scheduler_row_at(sampler, 900, "{\"timesteps\": [1]}", &row), DS_INVALID_VALUE, "timesteps is given");
    BAD(ds_scheduler_row_at(sampler, 900, NULL, NULL), DS_NULL_POINTER, "row is NULL");

    /* Steps without slots. */
    GOOD(ds_scheduler_row_at(sampler, 900, "{\"eta\": 1}", &row));
    BAD(row_step(none, &row, &e, &x, &x, NULL, 0, NULL, &out, NULL, 0), DS_INVALID_HANDLE, "zero");
    BAD(ds_scheduler_prepare_row(sampler, &row, NULL), DS_NULL_POINTER, "prepared is NULL");
    BAD(ds_row_step(NULL, &e, &x, &x, NULL, 0, NULL, &out, NULL, 0), DS_NULL_POINTER, "row is NULL");
    const ds_prepared_row unprepared = {{0}};
    BAD(ds_row_step(&unprepared, &e, &x, &x, NULL, 0, NULL, &out, NULL, 0), DS_INVALID_VALUE, "ds_scheduler_prepare_row");
    BAD(row_step(sampler, NULL, &e, &x, &x, NULL, 0, NULL, &out, NULL, 0), DS_NULL_POINTER, "row is NULL");
    BAD(row_step(sampler, &row, NULL, &x, &x, NULL, 0, NULL, &out, NULL, 0), DS_NULL_POINTER, "model_output is NULL");
    BAD(row_step(sampler, &row, &e, NULL, &x, NULL, 0, NULL, &out, NULL, 0), DS_NULL_POINTER, "sample is NULL");
    BAD(row_step(sampler, &row, &e, &x, NULL, NULL, 0, NULL, &out, NULL, 0), DS_MISSING_NOISE, "stochastic");
    BAD(row_step(sampler, &row, &e, &x, &x, NULL, 0, NULL, NULL, NULL, 0), DS_NULL_POINTER, "prev_sample is NULL");
    BAD(row_step(sampler, &row, &e, &x, &x, NULL, 0, NULL, &out, &out, 0), DS_OVERLAP, "pred_original_sample");
    BAD(row_step(sampler, &row, &turned, &x, &x, NULL, 0, NULL, &out, NULL, 0), DS_SHAPE_MISMATCH, "model_output");
    BAD(row_step(sampler, &row, &e, &x, &wide, NULL, 0, NULL, &out, NULL, 0), DS_WRONG_ELEMENT_TYPE, "noise");
    BAD(row_step(sampler, &row, &e, &x, &x, NULL, 7, NULL, &out, NULL, 0), DS_INVALID_VALUE, "n_slots is 7");
    BAD(row_step(sampler, &row, &e, &x, &x, NULL, SIZE_MAX, NULL, &out, NULL, 0), DS_INVALID_VALUE, "18446744073709551615");
    BAD(row_step(sampler, &row, &e, &x, &x, NULL, 1, NULL, &out, NULL, 0), DS_NULL_POINTER, "slots is NULL");
    GOOD(row_step(sampler, &row, &e, &x, &x, slots + 3, 1, NULL, &out, &p, 0)); /* an unused slot may be anything */
    GOOD(row_step(sampler, &row, &e, &x, &x, NULL, 0, NULL, &x, &e, 0));

    /* Steps with slots. */
    ds_row right = {.prediction.sample = 1,
                    .next_sample = {.sample = 1, .model_output = 0.5, .slots = {0, 0.25, -1}},
                    .n_stores = 1,
                    .stores = {{.slot = 0, .value.model_output = 1}},
                    .report.prediction = 1,
                    .n_reads = 2,
                    .reads = {2, 1}};
#define STEP(row, slots, n_slots) row_step(multistep, row, &e, &x, NULL, slots, n_slots, NULL, &out, &p, 0)
#define CHANGED(change, part)                                             \
    do {                                                                  \
        const ds_row changed = row_with(&right, change);                  \
        BAD(STEP(&changed, slots, DS_MAX_SLOTS), DS_INVALID_VALUE, part); \
    } while (0)
    CHANGED(endless_sample, "finite");
    CHANGED(no_number_in_prediction, "finite");
    CHANGED(no_number_in_store, "finite");
    CHANGED(three_stores, "n_stores is 3");
    CHANGED(many_stores, "n_stores is 18446744073709551615");
    CHANGED(store_in_6, "stores[0].slot is 6");
    CHANGED(store_in_the_last, "stores[0].slot is 18446744073709551615");
    CHANGED(store_in_300, "stores[0].slot is 300");
    CHANGED(same_stores, "different");
    CHANGED(seven_reads, "n_reads is 7");
    CHANGED(read_of_6, "reads[0] is 6");
    CHANGED(read_of_the_last, "reads[1] is 18446744073709551615");
    CHANGED(prediction_of_slot, "prediction of the row");
    CHANGED(prediction_of_itself, "prediction of the row");
    row = row_with(&right, no_number_in_slot);
    wrong[0] = slots[0], wrong[1] = slots[1], wrong[2] = slots[2], wrong[3] = slots[3], wrong[4] = slots[3], wrong[5] = slots[1];
    BAD(STEP(&row, wrong, DS_MAX_SLOTS), DS_INVALID_VALUE, "finite");
    row = row_with(&right, noisy);
    BAD(STEP(&row, slots, DS_MAX_SLOTS), DS_MISSING_NOISE, "stochastic");
    BAD(STEP(&right, NULL, 3), DS_NULL_POINTER, "slots is NULL");
    BAD(STEP(&right, NULL, 0), DS_INVALID_VALUE, "slot 0 is missing");
    BAD(STEP(&right, slots, 2), DS_INVALID_VALUE, "slot 2 is missing");
#define WRONG(index, tensor, status, part)                    \
    do {                                                      \
        memcpy(wrong, slots, sizeof wrong);                   \
        wrong[index] = (tensor);                              \
        BAD(STEP(&right, wrong, DS_MAX_SLOTS), status, part); \
    } while (0)
    WRONG(1, slots[3], DS_UNKNOWN_ELEMENT_TYPE, "slots[1]");
    WRONG(1, wide, DS_WRONG_ELEMENT_TYPE, "slots[1]");
    WRONG(2, turned, DS_SHAPE_MISMATCH, "slots[2]");
    WRONG(2, odd, DS_MISALIGNED, "slots[2]");
    WRONG(0, ((ds_tensor){NULL, DS_FLOAT32, 3, shape}), DS_NULL_POINTER, "data of slots[0]");
    WRONG(0, x, DS_OVERLAP, "slots[0] overlaps sample");
    WRONG(0, e, DS_OVERLAP, "slots[0] overlaps model_output");
    WRONG(0, out, DS_OVERLAP, "prev_sample overlaps slots[0]");
    WRONG(0, p, DS_OVERLAP, "pred_original_sample overlaps slots[0]");
    WRONG(0, slots[2], DS_OVERLAP, "slots[0] overlaps slots[2]");
    WRONG(2, slots[0], DS_OVERLAP, "slots[0] overlaps slots[2]");
    WRONG(1, out, DS_OVERLAP, "prev_sample overlaps slots[1]");
    WRONG(1, ((ds_tensor){out_bytes[1] + 4, DS_FLOAT32, 3, shape}), DS_OVERLAP, "pred_original_sample overlaps slots[1]");
    WRONG(2, ((ds_tensor){out_bytes[2] + 8, DS_FLOAT32, 3, shape}), DS_OVERLAP, "slots[0] overlaps slots[2]");
    row = row_with(&right, noisy);
    memcpy(wrong, slots, sizeof wrong);
    BAD(row_step(multistep, &row, &e, &x, &slots[0], slots, DS_MAX_SLOTS, NULL, &out, NULL, 0), DS_OVERLAP,
        "slots[0] overlaps noise");
    /* Two stores: the report is computed first, so it can't be in place. */
    row = row_with(&right, two_stores);
    memcpy(wrong, slots, sizeof wrong);
    wrong[4].data = out_bytes[3];
    BAD(row_step(multistep, &row, &e, &x, NULL, wrong, DS_MAX_SLOTS, NULL, &out, &x, 0), DS_INVALID_VALUE, "pred_original_sample");
    GOOD(STEP(&row, wrong, DS_MAX_SLOTS));
    GOOD(STEP(&right, slots, 3));
    /* Tensors that are only read may be an input, or another slot that is only read. */
    memcpy(wrong, slots, sizeof wrong);
    wrong[1] = x, wrong[2] = x;
    GOOD(STEP(&right, wrong, 3));
    GOOD(ds_scheduler_free(multistep));
    GOOD(ds_scheduler_free(sampler));
}

static void states(void) {
    static float x_data[8];
    static unsigned char saved[256], damaged[256];
    const int64_t shape[] = {8};
    const ds_tensor x = {x_data, DS_FLOAT32, 1, shape};
    ds_scheduler scheduler, other;
    ds_session session, restored = {0};
    size_t length, needed;
    GOOD(ds_scheduler_create(JSON(deis), NULL, NULL, &scheduler));
    GOOD(ds_scheduler_create(JSON(deis), NULL, NULL, &other));
    GOOD(ds_scheduler_set_timesteps(scheduler, 6, NULL));
    GOOD(ds_scheduler_set_timesteps(other, 7, NULL));
    GOOD(ds_session_create(scheduler, 0, &session));
    for (int i = 0; i < 3; i++) GOOD(ds_session_step(session, &x, &x, NULL, &x, NULL, 0));

    GOOD(ds_session_save(session, NULL, 0, &needed));
    if (needed != 72 + 2 * 8 * 4) n_failures++, printf("a state has %zu bytes\n", needed);
    BAD(ds_session_save(session, out_bytes, needed - 1, &length), DS_BUFFER_TOO_SMALL, "room for 135");
    BAD(ds_session_save(session, NULL, needed, &length), DS_NULL_POINTER, "buffer is NULL");
    GOOD(ds_session_save(session, saved, sizeof saved, &length));
    if (length != needed) n_failures++, printf("a state was saved in %zu bytes\n", length);

    BAD(ds_session_restore(scheduler, NULL, length, &restored), DS_NULL_POINTER, "bytes is NULL");
    BAD(ds_session_restore(scheduler, saved, length, NULL), DS_NULL_POINTER, "session is NULL");
    BAD(ds_session_restore(scheduler, saved, SIZE_MAX, &restored), DS_DAMAGED_STATE, "0 bytes");
    BAD(ds_session_restore(other, saved, length, &restored), DS_FOREIGN_STATE, "another plan");
    for (size_t n = 0; n < length; n++) BAD(ds_session_restore(scheduler, saved, n, &restored), DS_DAMAGED_STATE, "damaged");
    for (size_t i = 0; i < length; i++)
        for (int bit = 0; bit < 8; bit++) {
            memcpy(damaged, saved, length);
            damaged[i] ^= (unsigned char)(1 << bit);
            BAD(ds_session_restore(scheduler, damaged, length, &restored), DS_DAMAGED_STATE, "damaged");
        }
    if (restored.handle != 0) n_failures++, printf("a handle was written by a call that failed\n");
    GOOD(ds_session_restore(scheduler, saved, length, &restored));
    GOOD(ds_session_step(restored, &x, &x, NULL, &x, NULL, 0));
    GOOD(ds_session_free(restored));
    GOOD(ds_session_free(session));
    GOOD(ds_scheduler_free(scheduler));
    GOOD(ds_scheduler_free(other));
}

static void serving(void) {
    static float x_data[N_ELEMENTS], e_data[2 * N_ELEMENTS];
    static double wide_data[N_ELEMENTS];
    const int64_t shape[] = {2, 12}, other[] = {12, 2}, twice[] = {2, 24};
    const ds_tensor x = {x_data, DS_FLOAT32, 2, shape}, e = {e_data, DS_FLOAT32, 2, shape},
                    out = {out_bytes[0], DS_FLOAT32, 2, shape};
    const ds_tensor wide = {wide_data, DS_FLOAT64, 2, shape}, turned = {e_data, DS_FLOAT32, 2, other};
    const ds_tensor two = {e_data, DS_FLOAT32, 2, twice}, shifted = {out_bytes[0] + 4, DS_FLOAT32, 2, shape};
    const ds_tensor scalar = {x_data, DS_FLOAT32, 0, NULL};
    const ds_guidance guidance = {7.5, 0}, rescaled = {7.5, 1.5}, endless = {INFINITY, 0}, no_number = {NAN, 0};
    const ds_guidance each[] = {{1, 0}, {5, 0.5}}, wrong[] = {{1, 0}, {5, -1}};
    ds_scheduler scheduler, noisy;
    ds_session session, last, stochastic_session, on_plan = {0};
    size_t index = 77, length;
    GOOD(ds_scheduler_create(JSON(deis), NULL, NULL, &scheduler));
    GOOD(ds_scheduler_create(JSON(stochastic), NULL, NULL, &noisy));
    GOOD(ds_scheduler_set_timesteps(scheduler, 3, NULL));
    GOOD(ds_scheduler_set_timesteps(noisy, 3, NULL));
    GOOD(ds_session_create(scheduler, 0, &session));
    GOOD(ds_session_create(scheduler, 3, &last));
    GOOD(ds_session_create(noisy, 0, &stochastic_session));

    BAD(ds_session_step_guided(session, &e, &e, NULL, &x, NULL, &out, NULL, 0), DS_NULL_POINTER, "guidance is NULL");
    BAD(ds_session_step_guided(session, NULL, &e, &guidance, &x, NULL, &out, NULL, 0), DS_NULL_POINTER, "conditional is NULL");
    BAD(ds_session_step_guided(session, &e, NULL, &guidance, &x, NULL, &out, NULL, 0), DS_NULL_POINTER, "unconditional is NULL");
    BAD(ds_session_step_guided(session, &e, &e, &rescaled, &x, NULL, &out, NULL, 0), DS_INVALID_VALUE, "rescale is 1.5");
    BAD(ds_session_step_guided(session, &e, &e, &endless, &x, NULL, &out, NULL, 0), DS_INVALID_VALUE, "scale is inf");
    BAD(ds_session_step_guided(session, &e, &e, &no_number, &x, NULL, &out, NULL, 0), DS_INVALID_VALUE, "scale is nan");
    BAD(ds_session_step_guided(session, &e, &turned, &guidance, &x, NULL, &out, NULL, 0), DS_SHAPE_MISMATCH, "unconditional");
    BAD(ds_session_step_guided(session, &e, &wide, &guidance, &x, NULL, &out, NULL, 0), DS_WRONG_ELEMENT_TYPE, "unconditional");
    BAD(ds_session_step_guided(session, &e, &shifted, &guidance, &x, NULL, &out, NULL, 0), DS_OVERLAP, "overlaps unconditional");

    const ds_session rows[] = {session, {0}}, same[] = {session, session}, finished[] = {session, last};
    const ds_session noisy_rows[] = {session, stochastic_session}, gone[] = {session, {1234567}};
    BAD(ds_sessions_step(NULL, 2, &e, NULL, NULL, &x, NULL, &out, NULL, 0), DS_NULL_POINTER, "sessions is NULL");
    BAD(ds_sessions_step(rows, 2, &e, NULL, NULL, NULL, NULL, &out, NULL, 0), DS_NULL_POINTER, "sample is NULL");
    BAD(ds_sessions_step(rows, 3, &e, NULL, NULL, &x, NULL, &out, NULL, 0), DS_INVALID_VALUE, "n_rows is 3");
    BAD(ds_sessions_step(rows, SIZE_MAX, &e, NULL, NULL, &x, NULL, &out, NULL, 0), DS_INVALID_VALUE,
        "n_rows is 18446744073709551615");
    BAD(ds_sessions_step(rows, 1, &scalar, NULL, NULL, &scalar, NULL, &out, NULL, 0), DS_INVALID_VALUE, "n_rows is 1");
    BAD(ds_sessions_step(same, 2, &e, NULL, NULL, &x, NULL, &out, NULL, 0), DS_INVALID_VALUE, "sessions[1]");
    BAD(ds_sessions_step(gone, 2, &e, NULL, NULL, &x, NULL, &out, NULL, 0), DS_INVALID_HANDLE, "1234567");
    BAD(ds_sessions_step(finished, 2, &e, NULL, NULL, &x, NULL, &out, NULL, 0), DS_STEP_PAST_END,
        "row 1: all 3 steps have been taken: call ds_session_reset");
    BAD(ds_sessions_step(noisy_rows, 2, &e, NULL, NULL, &x, NULL, &out, NULL, 0), DS_MISSING_NOISE, "row 1: step 0");
    BAD(ds_sessions_step(noisy_rows, 2, &e, NULL, each, &x, &x, &out, NULL, 0), DS_INVALID_VALUE, "row 1: guidance");
    BAD(ds_sessions_step(noisy_rows, 2, &e, &e, wrong, &x, &x, &out, NULL, 0), DS_INVALID_VALUE, "row 1: guidance rescale is -1");
    BAD(ds_sessions_step(rows, 2, &two, NULL, NULL, &x, NULL, &out, NULL, 0), DS_WRONG_ELEMENT_COUNT, "row 0: model_output has");
    GOOD(ds_session_step_index(session, &index));
    if (index != 0) n_failures++, printf("a call that failed has taken a step\n");
    GOOD(ds_sessions_step(noisy_rows, 2, &e, &e, each, &x, &x, &out, NULL, 0));
    GOOD(ds_sessions_step(rows, 2, &e, NULL, NULL, &x, NULL, &x, NULL, 0));
    GOOD(ds_session_step_index(session, &index));
    if (index != 2) n_failures++, printf("after two steps of rows a session stands at %zu\n", index);

    static char plan[65536];
    GOOD(ds_scheduler_plan_json(scheduler, plan, sizeof plan, &length));
    BAD(ds_session_create_on_plan(NULL, length, 0, &on_plan), DS_NULL_POINTER, "json is NULL");
    BAD(ds_session_create_on_plan(plan, length, 0, NULL), DS_NULL_POINTER, "session is NULL");
    BAD(ds_session_create_on_plan(plan, length, 4, &on_plan), DS_INVALID_VALUE, "begin_index is 4");
    BAD(ds_session_create_on_plan(plan, length - 1, 0, &on_plan), DS_MALFORMED_JSON, "line");
    BAD(ds_session_create_on_plan(plan, SIZE_MAX, 0, &on_plan), DS_MALFORMED_JSON, "line 1, column 1");
    BAD(ds_session_create_on_plan(JSON("{}"), 0, &on_plan), DS_INVALID_VALUE, "plan.version");
    BAD(ds_session_create_on_plan(JSON("[1]"), 0, &on_plan), DS_INVALID_VALUE, "plan.version");
    BAD(ds_session_create_on_plan(JSON("{\"version\": 9}"), 0, &on_plan), DS_INVALID_VALUE, "plan.version is 9");
    if (on_plan.handle != 0) n_failures++, printf("a handle was written by a call that failed\n");
    GOOD(ds_session_create_on_plan(plan, length, 0, &on_plan));
    BAD(ds_session_restore_like(on_plan, NULL, 3, &last), DS_NULL_POINTER, "bytes is NULL");
    BAD(ds_session_restore_like(on_plan, plan, length, &last), DS_DAMAGED_STATE, "damaged");
    GOOD(ds_session_step(on_plan, &e, &x, NULL, &out, NULL, 0));
    GOOD(ds_session_free(on_plan));
    GOOD(ds_session_free(session));
    GOOD(ds_session_free(last));
    GOOD(ds_session_free(stochastic_session));
    GOOD(ds_scheduler_free(scheduler));
    GOOD(ds_scheduler_free(noisy));
}

static void noises(void) {
    static unsigned char saved[3000];
    const int64_t shape[] = {24}, much[] = {(INT64_C(1) << 29) + 1}, negative[] = {-1};
    const ds_tensor out = {out_bytes[0], DS_FLOAT32, 1, shape}, wide = {out_bytes[0], DS_FLOAT64, 1, shape};
    const ds_tensor half = {out_bytes[0], DS_FLOAT16, 1, shape}, large = {out_bytes[0], DS_FLOAT32, 1, much};
    const ds_tensor below = {out_bytes[0], DS_FLOAT32, 1, negative}, odd = {out_bytes[0] + 1, DS_FLOAT32, 1, shape};
    ds_noise noise = {0}, cuda;
    size_t length;
    BAD(ds_noise_create((ds_noise_kind)7, 1, &noise), DS_INVALID_VALUE, "kind is 7");
    BAD(ds_noise_create(DS_NOISE_NUMPY, UINT64_C(1) << 32, &noise), DS_INVALID_VALUE, "seed is 4294967296");
    BAD(ds_noise_create(DS_NOISE_NUMPY, 1, NULL), DS_NULL_POINTER, "noise is NULL");
    BAD(ds_noise_create_torch_cuda(1, 3, 108, 2048, &noise), DS_INVALID_VALUE, "offset is 3");
    BAD(ds_noise_create_torch_cuda(1, 0, 0, 2048, &noise), DS_INVALID_VALUE, "n_multiprocessors is 0");
    BAD(ds_noise_create_torch_cuda(1, 0, 108, 255, &noise), DS_INVALID_VALUE, "n_threads_per_multiprocessor is 255");
    GOOD(ds_noise_create_torch_cuda(1, 0, 108, 2048, &cuda));
    GOOD(ds_noise_create(DS_NOISE_TORCH_CPU, 1, &noise));
    BAD(ds_noise_fill(noise, NULL, 0), DS_NULL_POINTER, "out is NULL");
    BAD(ds_noise_fill(noise, &below, 0), DS_INVALID_SHAPE, "out");
    BAD(ds_noise_fill(noise, &odd, 0), DS_MISALIGNED, "out");
    BAD(ds_noise_fill(noise, &half, 0), DS_WRONG_ELEMENT_TYPE, "float32 or float64");
    BAD(ds_noise_fill(cuda, &wide, 0), DS_WRONG_ELEMENT_TYPE, "float32");
    BAD(ds_noise_fill(cuda, &large, 0), DS_WRONG_ELEMENT_COUNT, "2^29");
    GOOD(ds_noise_fill(cuda, &out, 0));
    GOOD(ds_noise_save(noise, saved, sizeof saved, &length));
    BAD(ds_noise_save(noise, out_bytes, 100, NULL), DS_BUFFER_TOO_SMALL, "room for 100");
    ds_noise restored = {0};
    BAD(ds_noise_restore(NULL, length, &restored), DS_NULL_POINTER, "bytes is NULL");
    for (size_t n = 0; n < length; n += 5) BAD(ds_noise_restore(saved, n, &restored), DS_DAMAGED_STATE, "damaged");
    for (size_t i = 0; i < length; i++) {
        saved[i] ^= 4;
        BAD(ds_noise_restore(saved, length, &restored), DS_DAMAGED_STATE, "damaged");
        saved[i] ^= 4;
    }
    GOOD(ds_noise_restore(saved, length, &restored));
    GOOD(ds_noise_free(restored));
    GOOD(ds_noise_free(noise));
    GOOD(ds_noise_free(cuda));
}

int main(void) {
    if (ds_error_message()[0] != 0) n_failures++, printf("there was an error before the first call\n");
    if (ds_version() != DS_VERSION) n_failures++, printf("the library's version isn't the header's\n");
    making();
    handles();
    plans();
    tensors();
    beside();
    rows();
    states();
    serving();
    noises();
    for (int status = 0; status < 40; status++)
        if (strlen(ds_status_message((ds_status)status)) < 8) n_failures++, printf("status %d has no message\n", status);
    printf("%d calls, %d failures\n", n_calls, n_failures);
    return n_failures == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
