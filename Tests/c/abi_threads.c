/* SPDX-License-Identifier: Apache-2.0 */

/*
 * One scheduler, many threads: some step sessions, some take DDIM steps without sessions, and one sets new timesteps all the while.
 * Every result belongs to one of the plans, and error texts belong to their thread.
 *
 *     abi_threads [ROUNDS]
 */

#include <diffusion_scheduling.h>

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { N_ELEMENTS = 64, N_THREADS = 4, N_PLANS = 3 };

static int n_rounds = 2000;

static const size_t step_counts[N_PLANS] = {5, 8, 13};
static ds_scheduler multistep, ddim;
static float expected_runs[N_PLANS][N_ELEMENTS], expected_steps[N_PLANS][N_ELEMENTS];
static atomic_int failures, stop;

static void check(ds_status status) {
    if (status == DS_OK) return;
    fprintf(stderr, "%s\n", ds_error_message());
    atomic_fetch_add(&failures, 1);
}

static void fill(float *values, float factor) {
    for (int i = 0; i < N_ELEMENTS; i++) values[i] = factor * (float)(i % 9 - 4);
}

/* A run of a session; the model's output is a tenth of the sample. Returns the number of steps. */
static size_t run(float *x) {
    float e[N_ELEMENTS];
    const int64_t shape[] = {N_ELEMENTS};
    const ds_tensor sample = {x, DS_FLOAT32, 1, shape}, output = {e, DS_FLOAT32, 1, shape};
    ds_session session;
    double timestep;
    size_t n_steps = 0;
    fill(x, 1);
    check(ds_session_create(multistep, 0, &session));
    while (ds_session_timestep(session, &timestep) == DS_OK) {
        for (int i = 0; i < N_ELEMENTS; i++) e[i] = 0.1f * x[i];
        check(ds_session_step(session, &output, &sample, NULL, &sample, NULL, 1));
        n_steps++;
    }
    check(ds_session_free(session));
    return n_steps;
}

static void one_step(float *x) {
    float e[N_ELEMENTS];
    const int64_t shape[] = {N_ELEMENTS};
    const ds_tensor sample = {x, DS_FLOAT32, 1, shape}, output = {e, DS_FLOAT32, 1, shape};
    fill(x, 1);
    fill(e, 0.3f);
    ds_row row;
    ds_prepared_row prepared;
    check(ds_scheduler_row_at(ddim, 700, NULL, &row));
    check(ds_scheduler_prepare_row(ddim, &row, &prepared));
    check(ds_row_step(&prepared, &output, &sample, NULL, NULL, 0, NULL, &sample, NULL, 1));
}

static void *work(void *argument) {
    float x[N_ELEMENTS];
    (void)argument;
    if (ds_error_message()[0] != 0) atomic_fetch_add(&failures, 1); /* another thread's text */
    for (int round = 0; round < n_rounds; round++) {
        size_t n_steps = run(x), plan = 0;
        while (plan < N_PLANS && step_counts[plan] != n_steps) plan++;
        if (plan == N_PLANS || memcmp(x, expected_runs[plan], sizeof x) != 0) atomic_fetch_add(&failures, 1);
        for (int i = 0; i < 20; i++) {
            bool found = false;
            one_step(x);
            for (plan = 0; plan < N_PLANS; plan++) found = found || memcmp(x, expected_steps[plan], sizeof x) == 0;
            if (!found) atomic_fetch_add(&failures, 1);
        }
    }
    return NULL;
}

static void *plan_anew(void *argument) {
    (void)argument;
    for (unsigned i = 0; !atomic_load(&stop); i++) {
        check(ds_scheduler_set_timesteps(multistep, step_counts[i % N_PLANS], NULL));
        check(ds_scheduler_set_timesteps(ddim, step_counts[i % N_PLANS], NULL));
    }
    return NULL;
}

int main(int n_arguments, char **arguments) {
    if (n_arguments > 1) n_rounds = atoi(arguments[1]);
    const char *deis = "{\"_class_name\": \"DEISMultistepScheduler\", \"solver_order\": 3, \"num_train_timesteps\": 100}";
    const char *other = "{\"_class_name\": \"DDIMScheduler\"}";
    pthread_t threads[N_THREADS], planner;
    check(ds_scheduler_create(deis, strlen(deis), NULL, NULL, &multistep));
    check(ds_scheduler_create(other, strlen(other), NULL, NULL, &ddim));
    for (int plan = 0; plan < N_PLANS; plan++) {
        check(ds_scheduler_set_timesteps(multistep, step_counts[plan], NULL));
        check(ds_scheduler_set_timesteps(ddim, step_counts[plan], NULL));
        run(expected_runs[plan]);
        one_step(expected_steps[plan]);
    }
    if (ds_scheduler_set_timesteps(multistep, 0, NULL) == DS_OK) return EXIT_FAILURE; /* leaves a text on this thread */
    pthread_create(&planner, NULL, plan_anew, NULL);
    for (int i = 0; i < N_THREADS; i++) pthread_create(&threads[i], NULL, work, NULL);
    for (int i = 0; i < N_THREADS; i++) pthread_join(threads[i], NULL);
    atomic_store(&stop, 1);
    pthread_join(planner, NULL);
    if (!strstr(ds_error_message(), "number of steps is 0")) atomic_fetch_add(&failures, 1);
    check(ds_scheduler_free(multistep));
    check(ds_scheduler_free(ddim));
    printf("%d threads, %d failures\n", N_THREADS, atomic_load(&failures));
    return atomic_load(&failures) == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
