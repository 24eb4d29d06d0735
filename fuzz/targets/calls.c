/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Calls of the C interface in any order, with any arguments: the input is a program of one byte per operation, followed by its
 * arguments' bytes. Handles may be freed, of another kind or made up; pointers may be NULL, tensors invalid. Tensors' memory is
 * allocated to the byte, and a failed call must have written nothing.
 */

#include "fuzz.h"

enum { N_HANDLES = 8, N_TENSORS = 5, N_MOST_ELEMENTS = 300, N_MOST_CALLS = 200 };

static const uint8_t *input;
static size_t n_input;

static uint8_t byte(void) {
    if (n_input == 0) return 0;
    n_input--;
    return *input++;
}

static uint64_t word(void) {
    uint64_t value = 0;
    for (int i = 0; i < 8; i++) value = value << 8 | byte();
    return value;
}

/* A number, usually small, sometimes arbitrary. */
static size_t number(void) {
    static const uint64_t odd[] = {SIZE_MAX,     SIZE_MAX - 1,      SIZE_MAX / 2, SIZE_MAX / 2 + 1,
                                   SIZE_MAX / 8, (uint64_t)1 << 32, 100000,       100001};
    const uint8_t kind = byte();
    if (kind < 240) return kind % 24;
    return (size_t)odd[kind % 8];
}

static double real(void) {
    static const double values[] = {0, -0.0, 1, -1, 0.5, 999, 1e-300, 1e300, INFINITY, -INFINITY, NAN, 20, 700, 0.25, 4e-320, 1000};
    const uint8_t kind = byte();
    if (kind < 16) return values[kind];
    if (kind < 32) {
        uint64_t bits = word();
        double value;
        memcpy(&value, &bits, sizeof value);
        return value;
    }
    return kind;
}

/* ---- Handles: all that calls have returned, freed or not */

static uint64_t handles[N_HANDLES];

static uint64_t handle(void) {
    const uint8_t kind = byte();
    if (kind < 250) return handles[kind % N_HANDLES];
    return kind == 250 ? 0 : kind == 251 ? word() : handles[kind % N_HANDLES] ^ (uint64_t)1 << (byte() % 64);
}

static uint64_t *new_handle(void) { return &handles[byte() % N_HANDLES]; }

/* ---- Tensors */

typedef struct place {
    ds_tensor tensor;
    const ds_tensor *pointer; /* NULL, or the tensor */
    int64_t shape[DS_MAX_RANK];
    uint8_t *memory; /* allocated to the byte, or NULL */
    size_t size;
    uint8_t *before; /* what was in it */
} place;

static place places[N_TENSORS];

static void fill(uint8_t *memory, size_t size, ds_element_type type) {
    const uint8_t kind = byte();
    for (size_t i = 0; i < size; i++) memory[i] = kind < 200 ? (uint8_t)(i * 37 + kind) : 0xFF;
    if (kind >= 128 || ds_element_size(type) != 4) return;
    for (size_t i = 0; i + 4 <= size; i += 4) {
        const float value = (float)((i * 7 + kind) % 19) / 8 - 1;
        memcpy(memory + i, &value, sizeof value);
    }
}

/* Tensor `index`: a copy of the previous one or a new one, in new memory or in an earlier tensor's, possibly a little off. */
static void make_tensor(int index) {
    place *p = &places[index];
    memset(p, 0, sizeof *p);
    const uint8_t kind = byte();
    if (index > 0 && kind < 160) {
        p->tensor = places[index - 1].tensor;
        memcpy(p->shape, places[index - 1].shape, sizeof p->shape);
    } else {
        static const int64_t extents[] = {1, 2, 3, 4, 5, 7, 8, 16, 0, -1, INT64_MIN, INT64_MAX, (int64_t)1 << 40, 33, 6, 64};
        const uint8_t rank = byte();
        p->tensor.rank = rank < 240 ? rank % 5 : rank < 250 ? rank - 180u : (size_t)SIZE_MAX;
        for (size_t axis = 0; axis < p->tensor.rank && axis < DS_MAX_RANK; axis++) {
            const uint8_t extent = byte();
            p->shape[axis] = extents[extent < 200 ? extent % 8 : extent % 16];
        }
        const uint8_t type = byte();
        p->tensor.element_type = (ds_element_type)(type < 240 ? type % 4 : type);
    }
    if (kind % 8 == 7) p->tensor.element_type = (ds_element_type)(kind / 8 % 5);
    if (kind % 16 == 14 && p->tensor.rank >= 1 && p->tensor.rank <= DS_MAX_RANK) /* variances */
        p->shape[p->tensor.rank > 1] = (int64_t)((uint64_t)p->shape[p->tensor.rank > 1] * 2);
    p->tensor.shape = kind == 255 ? NULL : p->shape;
    p->pointer = kind >= 248 && kind < 252 ? NULL : &p->tensor;

    /* The number of elements that the shape claims. */
    unsigned __int128 count = 1;
    bool is_empty = false;
    for (size_t axis = 0; axis < p->tensor.rank && axis < DS_MAX_RANK; axis++) {
        if (p->shape[axis] <= 0)
            is_empty = true;
        else if (count <= UINT64_MAX)
            count *= (uint64_t)p->shape[axis];
    }
    if (is_empty) count = 0;
    if (count > N_MOST_ELEMENTS) {
        p->tensor.data = NULL; /* must be refused, for its size or for NULL */
        return;
    }
    const size_t element = ds_element_size(p->tensor.element_type);
    p->size = (size_t)count * (element ? element : 1);
    const uint8_t where = byte();
    if (index > 0 && where < 100 && places[where % index].memory) {
        place *other = &places[where % index];
        const size_t offset = where < 70 ? 0 : where % 3 * (element ? element : 1);
        if (offset + p->size <= other->size) {
            p->tensor.data = other->memory + offset;
            p->size = 0; /* belongs to the other tensor */
            return;
        }
    }
    const size_t misalignment = where >= 250 ? 1 : 0;
    p->size += misalignment;
    p->memory = malloc(p->size ? p->size : 1);
    p->before = malloc(p->size ? p->size : 1);
    MUST(p->memory && p->before);
    fill(p->memory, p->size, p->tensor.element_type);
    memcpy(p->before, p->memory, p->size);
    p->tensor.data = where >= 245 && where < 250 ? NULL : p->memory + misalignment;
}

static void make_tensors(void) {
    for (int i = 0; i < N_TENSORS; i++) make_tensor(i);
}

static void free_tensors(ds_status status) {
    for (int i = 0; i < N_TENSORS; i++) {
        if (status != DS_OK && places[i].memory) MUST(memcmp(places[i].memory, places[i].before, places[i].size) == 0);
        free(places[i].memory);
        free(places[i].before);
        places[i].memory = places[i].before = NULL;
    }
}

/* ---- Calls */

static const char *text(void) {
    static const char *const texts[] = {
        "{}",
        "{\"_class_name\": \"DEISMultistepScheduler\", \"solver_order\": 3}",
        "{\"_class_name\": \"DPMSolverMultistepScheduler\", \"algorithm_type\": \"sde-dpmsolver++\", \"use_karras_sigmas\": true}",
        "{\"_class_name\": \"DDIMScheduler\", \"thresholding\": true, \"clip_sample\": false}",
        "{\"_class_name\": \"DDIMScheduler\"}",
        "{\"_class_name\": \"DDIMInverseScheduler\"}",
        "{\"_class_name\": \"DPMSolverMultistepInverseScheduler\", \"solver_order\": 3}",
        "{\"_class_name\": \"DPMSolverMultistepScheduler\", \"variance_type\": \"learned\", \"thresholding\": true}",
        ("{\"_class_name\": \"DEISMultistepScheduler\", \"use_flow_sigmas\": true, \"prediction_type\": \"flow_prediction\", "
         "\"use_dynamic_shifting\": true}"),
        "{\"_class_name\": \"DDIMScheduler\", \"num_train_timesteps\": 10}",
        "{\"_class_name\": \"DDIMScheduler\", \"rescale_betas_zero_snr\": true, \"timestep_spacing\": \"trailing\"}",
        "{\"_class_name\": \"EulerDiscreteScheduler\", \"use_karras_sigmas\": true}",
        "{\"_class_name\": \"HeunDiscreteScheduler\"}",
        "{\"_class_name\": \"KDPM2AncestralDiscreteScheduler\"}",
        "{\"_class_name\": \"UniPCMultistepScheduler\", \"solver_order\": 3}",
        "{\"_class_name\": \"SASolverScheduler\"}",
        "{\"_class_name\": \"PNDMScheduler\", \"skip_prk_steps\": true}",
        "{\"_class_name\": \"DPMSolverSDEScheduler\"}",
        "{\"_class_name\": \"DDPMScheduler\", \"variance_type\": \"learned_range\"}",
        "{\"_class_name\": \"CogVideoXDPMScheduler\"}",
        "{\"_class_name\": \"FlowMatchEulerDiscreteScheduler\", \"use_dynamic_shifting\": true}",
        "{\"_class_name\": \"LCMScheduler\"}",
        "{\"solver_order\": 1}",
        "{",
        "",
    };
    return texts[byte() % (sizeof texts / sizeof *texts)];
}

static const char *class_name(void) {
    const uint8_t kind = byte();
    size_t count = 0;
    while (ds_supported_class_name(count)) count++;
    return kind < 200 ? NULL : kind == 255 ? "\xff" : kind == 254 ? "Nope" : ds_supported_class_name(kind % count);
}

/* The arguments of a run: NULL, one of a few texts, or a text of numbers or of arbitrary bytes. */
static const char *arguments(void) {
    static const char *const texts[] = {
        "{}",
        "{\"eta\": 1}",
        "{\"eta\": 0.5, \"use_clipped_model_output\": true}",
        "{\"eta\": null}",
        "{\"mu\": 0.5}",
        "{\"timesteps\": [900, 500, 20]}",
        "{\"timesteps\": [7, 3, 0], \"eta\": 1}",
        "{\"sigmas\": [10, 2, 0.5]}",
        "{\"sigmas\": [1, 0.5], \"mu\": 1}",
        "{\"timesteps\": [900, 20], \"sigmas\": [1, 0.5]}",
        "{\"timesteps\": []}",
        "{\"s_churn\": 1}",
        "[1]",
        "{",
    };
    static char made[512];
    const uint8_t kind = byte();
    if (kind < 100) return NULL;
    if (kind < 200) return texts[kind % (sizeof texts / sizeof *texts)];
    static const char *const keys[] = {"timesteps", "sigmas", "mu", "eta", "use_clipped_model_output", "solver_order", "\xff", ""};
    int length = 0;
    for (int member = 0; member < 1 + kind % 2; member++) {
        length += snprintf(made + length, sizeof made - (size_t)length, "%s\"%s\": ", member ? ", " : "{", keys[byte() % 8]);
        const int count = kind < 240 ? byte() % 6 : -1;
        for (int i = 0; i < count; i++)
            length += snprintf(made + length, sizeof made - (size_t)length, "%s%.17g", i ? ", " : "[", real());
        length += count < 0    ? snprintf(made + length, sizeof made - (size_t)length, "%.17g", real())
                  : count == 0 ? snprintf(made + length, sizeof made - (size_t)length, "[]")
                               : snprintf(made + length, sizeof made - (size_t)length, "]");
    }
    snprintf(made + length, sizeof made - (size_t)length, "}");
    if (kind > 250) made[byte() % strlen(made)] = (char)(1 + byte() % 255);
    return made;
}

static void must_be_finite(const ds_combination *combination) {
    MUST(isfinite(combination->sample) && isfinite(combination->model_output) && isfinite(combination->noise));
    MUST(isfinite(combination->prediction));
    for (size_t slot = 0; slot < DS_MAX_SLOTS; slot++) MUST(isfinite(combination->slots[slot]));
}

/* Checks a row that the library returned. */
static void check_row(const ds_row *row) {
    MUST(row->n_reads <= DS_MAX_SLOTS && row->n_stores <= DS_MAX_STORES && row->n_noise_draws <= 2);
    must_be_finite(&row->prediction);
    must_be_finite(&row->next_sample);
    must_be_finite(&row->report);
    for (size_t i = 0; i < row->n_reads; i++) MUST(row->reads[i] < DS_MAX_SLOTS);
    for (size_t i = 0; i < row->n_stores; i++) {
        MUST(row->stores[i].slot < DS_MAX_SLOTS);
        must_be_finite(&row->stores[i].value);
    }
}

/* A random combination by the caller. */
static ds_combination combination(void) {
    ds_combination made = {.sample = byte() < 128 ? 0.5 : real()};
    const uint8_t with = byte();
    if (with & 1) made.model_output = real();
    if (with & 2) made.noise = real();
    if (with & 4) made.prediction = real();
    if (with & 8) made.slots[with >> 4 & 7 ? (with >> 4 & 7) % DS_MAX_SLOTS : 0] = real();
    return made;
}

static void change_row(ds_row *row) {
    switch (byte() % 8) {
    case 0: row->prediction = combination(); break;
    case 1: row->next_sample = combination(); break;
    case 2: row->report = combination(); break;
    case 3: row->n_stores = number(); break;
    case 4: row->stores[byte() % DS_MAX_STORES] = (ds_store){number(), combination()}; break;
    case 5: row->n_reads = number(); break;
    case 6: row->reads[byte() % DS_MAX_SLOTS] = number(); break;
    case 7: break;
    }
}

static void check(ds_status status) {
    MUST((int)status >= DS_OK && (int)status <= 60);
    MUST(status != DS_KERNEL_FAILURE);
    MUST(strlen(ds_status_message(status)) > 5);
    if (status != DS_OK) MUST(strlen(ds_error_message()) > 5 && strlen(ds_error_message()) < 1024);
}

/* Checks a call that makes an object: the handle is written if and only if it succeeds. */
static void check_made(ds_status status, uint64_t made, uint64_t *kept) {
    MUST((status == DS_OK) == (made != 0));
    if (status == DS_OK) *kept = made;
}

/* Frees a handle of any kind before it would be lost. */
static void free_handle(uint64_t value) {
    if (ds_scheduler_free((ds_scheduler){value}) == DS_OK) return;
    if (ds_session_free((ds_session){value}) == DS_OK) return;
    ds_noise_free((ds_noise){value});
}

static uint64_t *slot_for_new(void) {
    uint64_t *slot = new_handle();
    if (*slot) free_handle(*slot);
    return slot;
}

static void call(void) {
    double numbers[24], single;
    char buffer[96];
    size_t size = 0;
    bool flag;
    ds_plan_properties properties;
    ds_row row;
    ds_status status = DS_OK;
    const uint8_t operation = byte();
    switch (operation < 216 ? operation % 36 : 36 + operation % 6) {
    case 0:
    case 1: {
        ds_scheduler made = {0};
        const char *json = text(), *overrides = byte() < 220 ? NULL : text();
        uint64_t *slot = slot_for_new();
        status = ds_scheduler_create(json, strlen(json), class_name(), overrides, &made);
        check_made(status, made.handle, slot);
        break;
    }
    case 2:
    case 3: {
        size_t n_steps = number();
        if (n_steps > 40 && n_steps <= 100000) n_steps = 40; /* tests of the limits cover larger plans */
        const ds_scheduler scheduler = {handle()};
        status = ds_scheduler_set_timesteps(scheduler, n_steps, arguments());
        break;
    }
    case 4: {
        const ds_scheduler scheduler = {handle()};
        status = ds_scheduler_set_timesteps(scheduler, 0, arguments());
        break;
    }
    case 5: {
        char description[64];
        memset(description, 0x5A, sizeof description);
        const size_t capacity = byte() % 65;
        const char *name = class_name();
        status = ds_class_description(name, description, capacity, &size);
        MUST(status != DS_OK || (size > 100 && capacity == 0));
        for (size_t i = 0; i < sizeof description; i++) MUST(description[i] == 0x5A);
        break;
    }
    case 6: {
        ds_session made = {0};
        const ds_scheduler scheduler = {handle()};
        const size_t begin = number();
        uint64_t *slot = new_handle(), old = *slot;
        status = ds_session_create(scheduler, begin, &made);
        check_made(status, made.handle, slot);
        if (status == DS_OK && old && old != scheduler.handle)
            free_handle(old);
        else if (status == DS_OK && old)
            free_handle(old); /* a session outlives its scheduler */
        break;
    }
    case 7: status = ds_scheduler_free((ds_scheduler){handle()}); break;
    case 8: status = ds_session_free((ds_session){handle()}); break;
    case 9: {
        ds_session copy = {0};
        const uint64_t from = handle();
        uint64_t *slot = new_handle(), old = *slot;
        status = ds_session_copy((ds_session){from}, &copy);
        check_made(status, copy.handle, slot);
        if (status == DS_OK && old) free_handle(old);
        break;
    }
    case 10: status = ds_session_reset((ds_session){handle()}); break;
    case 11:
        status = ds_session_step_index((ds_session){handle()}, &size);
        if (status == DS_OK) MUST(size <= 100000);
        break;
    case 12: status = ds_session_timestep((ds_session){handle()}, &single); break;
    case 13: status = ds_session_needs_noise((ds_session){handle()}, &flag); break;
    case 14:
    case 15:
    case 16:
    case 17:
    case 18: {
        make_tensors();
        const uint8_t with = byte();
        const ds_session session = {handle()};
        const ds_tensor *const noise = with & 1 ? NULL : places[2].pointer;
        const ds_tensor *const next = with & 2 ? places[1].pointer : places[3].pointer;
        if (with & 8)
            status = ds_session_step_with_input(session, places[0].pointer, places[1].pointer, noise, next,
                                                with & 4 ? NULL : places[2].pointer, places[4].pointer, with >> 5);
        else
            status = ds_session_step(session, places[0].pointer, places[1].pointer, noise, next,
                                     with & 4 ? NULL : places[4].pointer, with >> 5);
        free_tensors(status);
        break;
    }
    case 21: {
        uint64_t from = handle(), *slot;
        size_t length;
        status = ds_session_save((ds_session){from}, NULL, 0, &length);
        if (status != DS_OK) break;
        uint8_t *bytes = malloc(length);
        MUST(bytes && ds_session_save((ds_session){from}, bytes, length, &length) == DS_OK);
        if (byte() > 200) bytes[byte() % length] ^= (uint8_t)(1 << byte() % 8);
        ds_session made = {0};
        const ds_scheduler scheduler = {handle()};
        slot = new_handle();
        const uint64_t old = *slot;
        status = ds_session_restore(scheduler, bytes, length - (byte() > 250), &made);
        check_made(status, made.handle, slot);
        if (status == DS_OK && old) free_handle(old);
        free(bytes);
        break;
    }
    case 22:
    case 23: {
        make_tensors();
        for (int i = 0; i < 24; i++) numbers[i] = real();
        size_t n = number();
        if (n > 24 && n <= SIZE_MAX / 2) n = 24;
        const ds_scheduler scheduler = {handle()};
        status = operation % 36 == 22
                     ? ds_scheduler_add_noise(scheduler, places[0].pointer, places[1].pointer, numbers, n, places[2].pointer, 2)
                     : ds_scheduler_get_velocity(scheduler, places[0].pointer, places[1].pointer, numbers, n, places[2].pointer, 2);
        free_tensors(status);
        break;
    }
    case 24: {
        make_tensors();
        for (int i = 0; i < 24; i++) numbers[i] = real();
        size_t n = number() % 13;
        status = ds_combine_noise(places[0].pointer, places[1].pointer, numbers, numbers + 12, n, places[2].pointer, 0);
        free_tensors(status);
        break;
    }
    case 25:
        make_tensors();
        status = ds_scheduler_scale_model_input((ds_scheduler){handle()}, places[0].pointer, real(), places[1].pointer, 0);
        free_tensors(status);
        break;
    case 19:
    case 20:
    case 26:
    case 27: {
        /* A row of the library's or the caller's; slots in the tensors, including the call's own. */
        const ds_scheduler scheduler = {handle()};
        memset(&row, 0, sizeof row);
        const uint8_t with = byte();
        if (operation % 36 < 26)
            status = ds_scheduler_part_row(scheduler, with % 8, byte() % 5, &row);
        else
            status = operation % 36 == 26 ? ds_scheduler_row_at(scheduler, real(), arguments(), &row)
                     : with & 64          ? ds_scheduler_attribute_row(scheduler, with % 8, number(), &row)
                                          : ds_scheduler_row(scheduler, with % 8, number(), &row);
        if (status == DS_OK) check_row(&row);
        while (byte() > 160) change_row(&row);
        make_tensors();
        ds_tensor slots[DS_MAX_SLOTS];
        for (int i = 0; i < DS_MAX_SLOTS; i++) slots[i] = places[byte() % N_TENSORS].tensor;
        if (with & 1) /* of the sample's shape, in memory of their own */
            for (int i = 0; i < DS_MAX_SLOTS; i++) {
                static double memory[DS_MAX_SLOTS][N_MOST_ELEMENTS];
                slots[i] = places[1].tensor;
                slots[i].data = memory[i];
            }
        size_t n_slots = with & 2 ? DS_MAX_SLOTS : number();
        if (n_slots > DS_MAX_SLOTS && n_slots < SIZE_MAX / 2) n_slots = DS_MAX_SLOTS;
        if ((with & 1) && !places[1].tensor.data) n_slots = 0; /* the shape exceeds the slots' memory */
        ds_prepared_row prepared = {{0}};
        status = ds_scheduler_prepare_row(scheduler, &row, &prepared);
        uint8_t record[1024];
        MUST(ds_scheduler_device_row(scheduler, &row, record) == status);
        if (status == DS_OK || byte() > 250)
            status =
                ds_row_step(&prepared, places[0].pointer, places[1].pointer, with & 4 ? NULL : places[2].pointer,
                            with & 8 ? NULL : slots, n_slots, with & 128 ? slots + 4 : NULL,
                            with & 16 ? places[1].pointer : places[3].pointer, with & 32 ? NULL : places[4].pointer, with >> 6);
        free_tensors(status);
        break;
    }
    case 28:
        make_tensors();
        status = ds_rescale_noise_cfg(places[0].pointer, places[1].pointer, real(), places[2].pointer, 1);
        free_tensors(status);
        break;
    case 29: {
        ds_noise made = {0};
        uint64_t *slot = slot_for_new();
        *slot = 0;
        status = byte() < 200
                     ? ds_noise_create((ds_noise_kind)(byte() % 4), word(), &made)
                     : ds_noise_create_torch_cuda(word(), word() & ~(uint64_t)(byte() & 3 ? 3 : 0), byte(), byte() * 256u, &made);
        check_made(status, made.handle, slot);
        break;
    }
    case 30:
        make_tensors();
        status = ds_noise_fill((ds_noise){handle()}, places[0].pointer, byte() % 4);
        free_tensors(status);
        break;
    case 31: status = ds_noise_free((ds_noise){handle()}); break;
    case 32: {
        uint8_t bytes[2700];
        const ds_noise noise = {handle()};
        ds_noise made = {0};
        status = ds_noise_save(noise, bytes, sizeof bytes, &size);
        if (status != DS_OK) break;
        if (byte() > 200) bytes[word() % size] ^= 1;
        uint64_t *slot = new_handle(), old = *slot;
        status = ds_noise_restore(bytes, size, &made);
        check_made(status, made.handle, slot);
        if (status == DS_OK && old) free_handle(old);
        break;
    }
    case 33: status = ds_scheduler_plan_properties((ds_scheduler){handle()}, byte() > 250 ? NULL : &properties); break;
    case 34: {
        const ds_scheduler scheduler = {handle()};
        const size_t index = number(), age = number();
        status = ds_scheduler_row(scheduler, index, age, &row);
        if (status == DS_OK) check_row(&row);
        break;
    }
    case 35: {
        /* Texts and numbers in buffers of all sizes. */
        const ds_scheduler scheduler = {handle()};
        const size_t capacity = byte() % 97, count = byte() % 25;
        size_t *told = byte() > 240 ? NULL : &size;
        memset(buffer, 0x5A, sizeof buffer);
        char *where = byte() > 240 ? NULL : buffer;
        switch (byte() % 14) {
        case 0: status = ds_scheduler_class_name(scheduler, where, capacity, told); break;
        case 1: status = ds_scheduler_config_json(scheduler, where, capacity, told); break;
        case 2: status = ds_scheduler_unused_keys(scheduler, where, capacity, told); break;
        case 3: status = ds_scheduler_plan_json(scheduler, where, capacity, told); break;
        case 10: status = ds_scheduler_device_table(scheduler, byte() > 250 ? SIZE_MAX : number(), where, capacity, told); break;
        case 4: status = ds_scheduler_timesteps(scheduler, numbers, count, told); break;
        case 5: status = ds_scheduler_sigmas(scheduler, numbers, count, told); break;
        case 6: status = ds_scheduler_alphas_cumprod(scheduler, numbers, count, told); break;
        case 7: status = ds_scheduler_signal_rates(scheduler, numbers, count, told); break;
        case 8: status = ds_scheduler_noise_rates(scheduler, numbers, count, told); break;
        case 9: status = ds_scheduler_input_scales(scheduler, numbers, count, told); break;
        case 11: status = ds_scheduler_defaulted_keys(scheduler, where, capacity, told); break;
        case 12: status = ds_scheduler_init_noise_sigma(scheduler, told ? &single : NULL); break;
        case 13: status = ds_scheduler_output_weights(scheduler, numbers, count, told); break;
        }
        for (size_t i = capacity; i < sizeof buffer; i++) MUST(buffer[i] == 0x5A);
        break;
    }
    case 36: {
        make_tensors();
        const ds_guidance guidance = {real(), real()};
        const uint8_t with = byte();
        status = ds_session_step_guided((ds_session){handle()}, places[0].pointer, places[1].pointer, with & 1 ? NULL : &guidance,
                                        places[2].pointer, with & 2 ? NULL : places[3].pointer,
                                        with & 4 ? places[2].pointer : places[4].pointer, with & 8 ? NULL : places[1].pointer,
                                        with >> 5);
        free_tensors(status);
        break;
    }
    case 37:
    case 38: {
        make_tensors();
        const uint8_t with = byte();
        ds_session sessions[6];
        ds_guidance guidance[6];
        for (int i = 0; i < 6; i++) {
            sessions[i].handle = handle();
            if (byte() < 40) sessions[i].handle = 0;
            guidance[i].scale = byte() < 100 ? 1 : real();
            guidance[i].rescale = byte() < 150 ? 0 : real();
        }
        /* Usually as many rows as the tensors have, and never more than there are sessions, which only the caller can check. */
        size_t n_rows =
            with & 16 && places[0].tensor.rank >= 1 && places[0].tensor.rank <= DS_MAX_RANK ? (size_t)places[0].shape[0] : number();
        if (n_rows > 6) n_rows = 6;
        status =
            ds_sessions_step(sessions, n_rows, places[0].pointer, with & 1 ? NULL : places[1].pointer, with & 2 ? NULL : guidance,
                             places[2].pointer, with & 4 ? NULL : places[3].pointer,
                             with & 8 ? places[2].pointer : places[4].pointer, byte() < 128 ? NULL : places[4].pointer, with >> 5);
        free_tensors(status);
        break;
    }
    case 39: {
        /* A session on a scheduler's own plan, whole or damaged, and a second one restored from its state. */
        const ds_scheduler scheduler = {handle()};
        const uint8_t damage = byte(), where = byte();
        const size_t begin = number();
        status = ds_scheduler_plan_json(scheduler, NULL, 0, &size);
        if (status != DS_OK) break;
        char *json = malloc(size + 1);
        MUST(json && ds_scheduler_plan_json(scheduler, json, size + 1, &size) == DS_OK);
        if (damage > 200) json[where * 7919u % size] ^= (char)(1 << damage % 8);
        ds_session made = {0};
        uint64_t *slot = slot_for_new();
        *slot = 0;
        status = ds_session_create_on_plan(json, size - (damage == 200), begin, &made);
        free(json);
        check_made(status, made.handle, slot);
        if (status != DS_OK) break;
        uint8_t bytes[4096];
        if (ds_session_save(made, bytes, sizeof bytes, &size) != DS_OK) break;
        const ds_session other = {handle()};
        ds_session restored = {0};
        slot = new_handle();
        const uint64_t old = *slot;
        status = ds_session_restore_like(other, bytes, size, &restored);
        check_made(status, restored.handle, slot);
        if (status == DS_OK && old) free_handle(old);
        break;
    }
    case 40:
        memset(&row, 0, sizeof row);
        single = real();
        status = ds_scheduler_row_at((ds_scheduler){handle()}, single, arguments(), byte() > 250 ? NULL : &row);
        if (status == DS_OK) check_row(&row);
        break;
    case 41: {
        const uint64_t from = handle();
        uint64_t *slot = new_handle(), old = *slot, made = 0;
        if (byte() < 200) {
            ds_noise copy = {0};
            status = ds_noise_copy((ds_noise){from}, &copy);
            made = copy.handle;
        } else { /* paths without a configuration */
            ds_scheduler loaded = {0};
            status = ds_scheduler_load(byte() < 128   ? NULL
                                       : byte() < 128 ? "."
                                                      : "\xff",
                                       byte() < 128 ? NULL : text(), class_name(), byte() < 128 ? NULL : text(), &loaded);
            MUST(status != DS_OK);
        }
        check_made(status, made, slot);
        if (status == DS_OK && old) free_handle(old);
        break;
    }
    }
    check(status);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    input = data;
    n_input = size;
    for (int i = 0; i < N_MOST_CALLS && n_input; i++) call();
    for (int i = 0; i < N_HANDLES; i++) {
        free_handle(handles[i]);
        handles[i] = 0;
    }
    return 0;
}
