/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The time of a step through the C interface, and its allocations: on 64 elements, order 3, in place, one thread.
 *
 * abi_step_time [LIMIT]      fails if a step takes more than LIMIT nanoseconds, or allocates
 */

#include <diffusion_scheduling.h>

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { N_ELEMENTS = 64, N_STEPS = 50, N_SESSIONS = 20, N_ROUNDS = 400 };

static void check(ds_status status) {
    if (status == DS_OK) return;
    fprintf(stderr, "%s\n", ds_error_message());
    exit(EXIT_FAILURE);
}

/* Counts every allocation of the process, by overriding the C library's function. */
extern void *__libc_malloc(size_t size);
extern void *__libc_memalign(size_t alignment, size_t size);
void *malloc(size_t size);
int posix_memalign(void **address, size_t alignment, size_t size);
void *aligned_alloc(size_t alignment, size_t size);

static atomic_long n_allocations;

void *malloc(size_t size) {
    atomic_fetch_add(&n_allocations, 1);
    return __libc_malloc(size);
}

int posix_memalign(void **address, size_t alignment, size_t size) {
    atomic_fetch_add(&n_allocations, 1);
    *address = __libc_memalign(alignment, size);
    return *address ? 0 : 12;
}

void *aligned_alloc(size_t alignment, size_t size) {
    atomic_fetch_add(&n_allocations, 1);
    return __libc_memalign(alignment, size);
}

static double now(void) {
    struct timespec time;
    timespec_get(&time, TIME_UTC);
    return (double)time.tv_sec * 1e9 + (double)time.tv_nsec;
}

/* The lesser of two times, in nanoseconds. */
static double best(double a, double b) { return a < b ? a : b; }

int main(int n_arguments, char **arguments) {
    const double limit = n_arguments > 1 ? atof(arguments[1]) : 1e9;
    static float sample[8 * N_ELEMENTS], output[8 * N_ELEMENTS];
    const int64_t shape[] = {1, 4, 4, 4}, batch_shape[] = {8, 4, 4, 4};
    const ds_tensor x = {sample, DS_FLOAT32, 4, shape}, e = {output, DS_FLOAT32, 4, shape};
    const ds_tensor batch_x = {sample, DS_FLOAT32, 4, batch_shape}, batch_e = {output, DS_FLOAT32, 4, batch_shape};
    for (int i = 0; i < 8 * N_ELEMENTS; i++) output[i] = (float)(i % 7) * 0.1f - 0.3f;

    const char *deis = "{\"_class_name\": \"DEISMultistepScheduler\", \"solver_order\": 3}";
    const char *ddim = "{\"_class_name\": \"DDIMScheduler\"}";
    const char *thresholding = "{\"_class_name\": \"DPMSolverMultistepScheduler\", \"thresholding\": true}";
    ds_scheduler scheduler;
    ds_session session, sessions[N_SESSIONS];
    double session_time = 1e9, row_time = 1e9;
    long session_allocations, row_allocations, threshold_allocations;

    check(ds_scheduler_create(deis, strlen(deis), NULL, NULL, &scheduler));
    check(ds_scheduler_set_timesteps(scheduler, N_STEPS, NULL));
    for (int k = 0; k < N_SESSIONS; k++) check(ds_session_create(scheduler, 0, &sessions[k]));
    session_allocations = 0;
    for (int round = 0; round < N_ROUNDS; round++) {
        for (int k = 0; k < N_SESSIONS; k++) {
            check(ds_session_reset(sessions[k]));
            check(ds_session_step(sessions[k], &e, &x, NULL, &x, NULL, 1)); /* makes room for the slots */
        }
        long before = n_allocations;
        double begin = now();
        for (int k = 0; k < N_SESSIONS; k++)
            for (int i = 1; i < N_STEPS; i++)
                if (ds_session_step(sessions[k], &e, &x, NULL, &x, NULL, 1)) return EXIT_FAILURE;
        session_time = best(session_time, (now() - begin) / (N_SESSIONS * (N_STEPS - 1)));
        session_allocations += n_allocations - before;
    }
    for (int k = 0; k < N_SESSIONS; k++) check(ds_session_free(sessions[k]));
    check(ds_scheduler_free(scheduler));

    check(ds_scheduler_create(ddim, strlen(ddim), NULL, NULL, &scheduler));
    check(ds_scheduler_set_timesteps(scheduler, N_STEPS, NULL));
    ds_row row;
    ds_prepared_row prepared[1000];
    for (int t = 0; t < 1000; t++) {
        check(ds_scheduler_row_at(scheduler, t, NULL, &row));
        check(ds_scheduler_prepare_row(scheduler, &row, &prepared[t]));
    }
    check(ds_row_step(&prepared[980], &e, &x, NULL, NULL, 0, NULL, &x, NULL, 1));
    long before = n_allocations;
    for (int round = 0; round < N_ROUNDS; round++) {
        double begin = now();
        for (int t = 0; t < 1000; t++)
            if (ds_row_step(&prepared[t], &e, &x, NULL, NULL, 0, NULL, &x, NULL, 1)) return EXIT_FAILURE;
        row_time = best(row_time, (now() - begin) / 1000);
    }
    row_allocations = n_allocations - before;
    check(ds_scheduler_free(scheduler));

    check(ds_scheduler_create(thresholding, strlen(thresholding), NULL, NULL, &scheduler));
    check(ds_scheduler_set_timesteps(scheduler, 10, NULL));
    check(ds_session_create(scheduler, 0, &session));
    check(ds_session_step(session, &batch_e, &batch_x, NULL, &batch_x, NULL, 1));
    before = n_allocations;
    for (int i = 1; i < 10; i++) check(ds_session_step(session, &batch_e, &batch_x, NULL, &batch_x, NULL, 1));
    threshold_allocations = n_allocations - before;
    check(ds_session_free(session));
    check(ds_scheduler_free(scheduler));

    printf("session step %.1f ns, %ld allocations; row and its step %.1f ns, %ld allocations; thresholded step %ld allocations\n",
           session_time, session_allocations, row_time, row_allocations, threshold_allocations);
    const bool is_right = session_allocations + row_allocations + threshold_allocations == 0 && session_time <= limit;
    return is_right ? EXIT_SUCCESS : EXIT_FAILURE;
}
