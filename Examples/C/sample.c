/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Turns noise into points on a ring, with DPM-Solver++ in 20 steps, and draws them.
 *
 * The model is exact: for data that are K points, the clean sample that a perfect model predicts is their mean, weighted by each
 * point's probability of having become the noisy sample.
 */
#include <diffusion_scheduling.h>

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { N_SAMPLES = 400, N_POINTS = 12, N_STEPS = 20 };

static const char configuration[] = "{\"_class_name\": \"DPMSolverMultistepScheduler\", \"solver_order\": 2,"
                                    " \"beta_schedule\": \"scaled_linear\", \"beta_start\": 0.00085, \"beta_end\": 0.012,"
                                    " \"use_karras_sigmas\": true}";

static void check(ds_status status) {
    if (status == DS_OK) return;
    fprintf(stderr, "%s\n", ds_error_message());
    exit(EXIT_FAILURE);
}

static float ring[N_POINTS][2];

static void make_ring(void) {
    for (int k = 0; k < N_POINTS; k++) {
        const double turn = 6.283185307179586 * k / N_POINTS;
        ring[k][0] = (float)cos(turn);
        ring[k][1] = (float)sin(turn);
    }
}

/* The noise in each sample; a sample is signal_rate * data + noise_rate * noise. */
static void model(const float *samples, double signal_rate, double noise_rate, float *noise) {
    for (int i = 0; i < N_SAMPLES; i++) {
        const float *x = samples + 2 * i;
        double distances[N_POINTS], nearest = INFINITY, total = 0, clean[2] = {0, 0};
        for (int k = 0; k < N_POINTS; k++) {
            const double dx = x[0] - signal_rate * ring[k][0], dy = x[1] - signal_rate * ring[k][1];
            distances[k] = (dx * dx + dy * dy) / (2 * noise_rate * noise_rate);
            nearest = fmin(nearest, distances[k]);
        }
        for (int k = 0; k < N_POINTS; k++) {
            const double weight = exp(nearest - distances[k]);
            clean[0] += weight * ring[k][0];
            clean[1] += weight * ring[k][1];
            total += weight;
        }
        for (int j = 0; j < 2; j++) noise[2 * i + j] = (float)((x[j] - signal_rate * clean[j] / total) / noise_rate);
    }
}

static void draw(const float *samples) {
    enum { WIDTH = 49, HEIGHT = 25 };
    char picture[HEIGHT][WIDTH + 1];
    memset(picture, ' ', sizeof picture);
    for (int i = 0; i < N_SAMPLES; i++) {
        const int column = (int)lround((samples[2 * i] + 1.2) / 2.4 * (WIDTH - 1));
        const int row = (int)lround((1.2 - samples[2 * i + 1]) / 2.4 * (HEIGHT - 1));
        if (row >= 0 && row < HEIGHT && column >= 0 && column < WIDTH) picture[row][column] = '*';
    }
    for (int row = 0; row < HEIGHT; row++) {
        picture[row][WIDTH] = 0;
        printf("%s\n", picture[row]);
    }
}

/* FNV-1a of the samples' bytes; examples in other languages print it, too. */
static uint64_t checksum(const float *samples) {
    unsigned char bytes[2 * N_SAMPLES * sizeof *samples];
    uint64_t sum = UINT64_C(0xCBF29CE484222325);
    memcpy(bytes, samples, sizeof bytes);
    for (size_t i = 0; i < sizeof bytes; i++) sum = (sum ^ bytes[i]) * UINT64_C(0x100000001B3);
    return sum;
}

int main(void) {
    static float samples[2 * N_SAMPLES], outputs[2 * N_SAMPLES];
    double signal_rates[N_STEPS + 1], noise_rates[N_STEPS + 1];
    const int64_t shape[] = {N_SAMPLES, 2};
    const ds_tensor x = {samples, DS_FLOAT32, 2, shape}, e = {outputs, DS_FLOAT32, 2, shape};

    make_ring();
    ds_scheduler scheduler;
    check(ds_scheduler_create(configuration, strlen(configuration), NULL, NULL, &scheduler));
    check(ds_scheduler_set_timesteps(scheduler, N_STEPS, NULL));
    check(ds_scheduler_signal_rates(scheduler, signal_rates, N_STEPS + 1, NULL));
    check(ds_scheduler_noise_rates(scheduler, noise_rates, N_STEPS + 1, NULL));

    ds_noise noise;
    check(ds_noise_create(DS_NOISE_TORCH_CPU, 42, &noise));
    check(ds_noise_fill(noise, &x, 0)); /* init_noise_sigma is 1 for this scheduler */
    check(ds_noise_free(noise));

    ds_session session;
    check(ds_session_create(scheduler, 0, &session));
    for (int i = 0; i < N_STEPS; i++) {
        /* A trained model would get the timestep: ds_session_timestep. */
        model(samples, signal_rates[i], noise_rates[i], outputs);
        check(ds_session_step(session, &e, &x, NULL, &x, NULL, 0));
    }
    check(ds_session_free(session));
    check(ds_scheduler_free(scheduler));

    draw(samples);
    double farthest = 0;
    for (int i = 0; i < N_SAMPLES; i++) {
        double nearest = INFINITY;
        for (int k = 0; k < N_POINTS; k++)
            nearest = fmin(nearest, hypot(samples[2 * i] - ring[k][0], samples[2 * i + 1] - ring[k][1]));
        farthest = fmax(farthest, nearest);
    }
    printf("%d samples in %d steps; the farthest is %.4f from its point\nchecksum: %016" PRIx64 "\nthreads: %s\n", N_SAMPLES,
           N_STEPS, farthest, checksum(samples), ds_runtime_description());
    return farthest < 0.1 ? EXIT_SUCCESS : EXIT_FAILURE;
}
