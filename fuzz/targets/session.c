/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The bytes of a saved session or of a saved noise source, restored. The first byte chooses the plan, and whether signature, size,
 * fingerprint and checksum are corrected; otherwise almost all inputs would be refused. An accepted state must be saved with the
 * same bytes, and continue.
 */

#include "fuzz.h"

enum { N_PLANS = 10, SIGNATURE = 8, N_MOST = 64 };

static ds_scheduler schedulers[N_PLANS];
static uint8_t heads[N_PLANS][32]; /* of a session saved by each */

static void make_schedulers(void) {
    static const char *const texts[N_PLANS] = {
        "{\"_class_name\": \"DEISMultistepScheduler\", \"solver_order\": 3}",
        "{\"_class_name\": \"DPMSolverMultistepScheduler\", \"algorithm_type\": \"sde-dpmsolver++\"}",
        "{\"_class_name\": \"DDIMScheduler\", \"clip_sample\": true}",
        "{\"_class_name\": \"DPMSolverMultistepScheduler\", \"variance_type\": \"learned\", \"thresholding\": true}",
        "{\"_class_name\": \"DPMSolverMultistepInverseScheduler\", \"solver_order\": 2}",
        "{\"_class_name\": \"DEISMultistepScheduler\", \"solver_order\": 1}",
        "{\"_class_name\": \"HeunDiscreteScheduler\"}",
        "{\"_class_name\": \"UniPCMultistepScheduler\", \"solver_order\": 3}",
        "{\"_class_name\": \"SASolverScheduler\"}",
        "{\"_class_name\": \"PNDMScheduler\", \"skip_prk_steps\": true}",
    };
    for (int i = 0; i < N_PLANS; i++) {
        uint8_t bytes[256];
        ds_session session;
        MUST(ds_scheduler_create(texts[i], strlen(texts[i]), NULL, NULL, &schedulers[i]) == DS_OK);
        MUST(ds_scheduler_set_timesteps(schedulers[i], 5, NULL) == DS_OK);
        MUST(ds_session_create(schedulers[i], 0, &session) == DS_OK);
        MUST(ds_session_save(session, bytes, sizeof bytes, NULL) == DS_OK);
        MUST(ds_session_free(session) == DS_OK);
        memcpy(heads[i], bytes, sizeof heads[i]);
    }
}

/* XXH64, see https://github.com/Cyan4973/xxHash/blob/dev/doc/xxhash_spec.md; for machines with the least byte first. */
static uint64_t rotated(uint64_t value, int count) { return value << count | value >> (64 - count); }
static uint64_t word_at(const uint8_t *bytes) {
    uint64_t word;
    memcpy(&word, bytes, sizeof word);
    return word;
}
static uint64_t lane(uint64_t accumulator, uint64_t word) {
    return rotated(accumulator + word * 0xC2B2AE3D27D4EB4Fu, 31) * 0x9E3779B185EBCA87u;
}
static uint64_t checksum(const uint8_t *bytes, size_t count) {
    const uint64_t p1 = 0x9E3779B185EBCA87u, p2 = 0xC2B2AE3D27D4EB4Fu, p3 = 0x165667B19E3779F9u, p4 = 0x85EBCA77C2B2AE63u,
                   p5 = 0x27D4EB2F165667C5u;
    uint64_t hash = p5;
    size_t at = 0;
    if (count >= 32) {
        uint64_t lanes[4] = {p1 + p2, p2, 0, 0 - p1};
        for (; count - at >= 32; at += 32)
            for (int i = 0; i < 4; i++) lanes[i] = lane(lanes[i], word_at(bytes + at + 8 * i));
        hash = rotated(lanes[0], 1) + rotated(lanes[1], 7) + rotated(lanes[2], 12) + rotated(lanes[3], 18);
        for (int i = 0; i < 4; i++) hash = (hash ^ lane(0, lanes[i])) * p1 + p4;
    }
    hash += count;
    for (; count - at >= 8; at += 8) hash = rotated(hash ^ lane(0, word_at(bytes + at)), 27) * p1 + p4;
    if (count - at >= 4) {
        uint32_t half;
        memcpy(&half, bytes + at, sizeof half);
        hash = rotated(hash ^ half * p1, 23) * p2 + p3;
        at += 4;
    }
    for (; at < count; at++) hash = rotated(hash ^ bytes[at] * p5, 11) * p1;
    hash = (hash ^ hash >> 33) * p2;
    hash = (hash ^ hash >> 29) * p3;
    return hash ^ hash >> 32;
}

static void seal(uint8_t *bytes, size_t size) {
    const uint64_t sum = checksum(bytes, size - 8);
    memcpy(bytes + size - 8, &sum, sizeof sum);
}

static void go_on(ds_session session, const uint8_t *bytes) {
    uint64_t n_elements, index;
    uint32_t type;
    memcpy(&type, bytes + 12, sizeof type);
    memcpy(&index, bytes + 40, sizeof index);
    memcpy(&n_elements, bytes + 48, sizeof n_elements);
    size_t step_index;
    MUST(ds_session_step_index(session, &step_index) == DS_OK && step_index == index);
    double timestep;
    const ds_status status = ds_session_timestep(session, &timestep);
    MUST(status == DS_OK || status == DS_STEP_PAST_END);
    if (type == UINT32_MAX) type = DS_FLOAT16, n_elements = 3; /* the session hasn't begun */
    if (n_elements > N_MOST) return;
    const int64_t shape[] = {(int64_t)n_elements};
    const size_t size = (size_t)n_elements * ds_element_size((ds_element_type)type);
    MUST(size || n_elements == 0);
    void *x = calloc(1, size ? size : 1), *e = calloc(1, size ? size : 1), *z = calloc(1, size ? size : 1);
    MUST(x && e && z);
    const ds_tensor tx = tensor_of(x, (ds_element_type)type, 1, shape), te = tensor_of(e, (ds_element_type)type, 1, shape),
                    tz = tensor_of(z, (ds_element_type)type, 1, shape);
    MUST(ds_session_step(session, &te, &tx, &tz, &tx, NULL, 1) == status);
    free(x);
    free(e);
    free(z);
}

static void restore_session(ds_scheduler scheduler, const uint8_t *bytes, size_t size) {
    ds_session session = {0}, copy;
    const ds_status status = ds_session_restore(scheduler, bytes, size, &session);
    if (status != DS_OK) {
        MUST(status == DS_DAMAGED_STATE || status == DS_FOREIGN_STATE);
        MUST(session.handle == 0 && strlen(ds_error_message()) > 8);
        return;
    }
    uint8_t *saved = malloc(size);
    size_t length;
    MUST(saved && ds_session_save(session, saved, size, &length) == DS_OK && length == size && memcmp(saved, bytes, size) == 0);
    MUST(ds_session_copy(session, &copy) == DS_OK);
    go_on(session, bytes);
    /* The copy has the original's state. */
    MUST(ds_session_save(copy, saved, size, NULL) == DS_OK && memcmp(saved, bytes, size) == 0);
    MUST(ds_session_reset(session) == DS_OK && ds_session_free(session) == DS_OK && ds_session_free(copy) == DS_OK);
    free(saved);
}

static void restore_noise(const uint8_t *bytes, size_t size) {
    ds_noise noise = {0};
    if (ds_noise_restore(bytes, size, &noise) != DS_OK) {
        MUST(noise.handle == 0);
        return;
    }
    uint8_t saved[3000];
    float numbers[37];
    size_t length;
    const int64_t shape[] = {37};
    const ds_tensor out = tensor_of(numbers, DS_FLOAT32, 1, shape);
    MUST(ds_noise_save(noise, saved, sizeof saved, &length) == DS_OK && length == size);
    MUST(ds_noise_fill(noise, &out, 1) == DS_OK);
    for (int i = 0; i < 37; i++) MUST(isfinite(numbers[i]));
    MUST(ds_noise_free(noise) == DS_OK);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (schedulers[0].handle == 0) make_schedulers();
    if (size == 0) return 0;
    const unsigned plan = (data[0] & 15) % (N_PLANS + 1), mends = data[0] & 16;
    const size_t count = size - 1;
    uint8_t *bytes = malloc(count ? count : 1);
    MUST(bytes);
    memcpy(bytes, data + 1, count);
    if (plan < N_PLANS) {
        if (mends && count >= 72) {
            const uint64_t size_of_all = count;
            memcpy(bytes, heads[plan], 12);
            memcpy(bytes + 16, &size_of_all, sizeof size_of_all);
            memcpy(bytes + 24, heads[plan] + 24, 8);
            seal(bytes, count);
        }
        restore_session(schedulers[plan], bytes, count);
    } else {
        if (mends && count >= 24) {
            memcpy(bytes, "\x44\x53\x4E\x4F\x49\x53\x0D\x0A\x01\x00\x00", 12);
            seal(bytes, count);
        }
        restore_noise(bytes, count);
    }
    free(bytes);
    return 0;
}
