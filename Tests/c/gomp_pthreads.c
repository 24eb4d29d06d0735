/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The functions of an OpenMP runtime that the library and its tests look up, on plain threads, visible to the thread sanitizer.
 * (libomp and libgomp aren't instrumented, so it would report their synchronisation as races.)
 */

#include <pthread.h>

enum { N_MOST = 8 };

static _Thread_local int n_wanted = N_MOST, number;

typedef struct body {
    void (*function)(void *);
    void *argument;
    int number;
} body;

static void *run(void *argument) {
    const body *b = argument;
    number = b->number;
    b->function(b->argument);
    return 0;
}

void GOMP_parallel(void (*function)(void *), void *argument, unsigned n_threads, unsigned flags);
int omp_get_max_threads(void);
int omp_get_thread_num(void);
void omp_set_num_threads(int count);

void GOMP_parallel(void (*function)(void *), void *argument, unsigned n_threads, unsigned flags) {
    pthread_t threads[N_MOST];
    body bodies[N_MOST];
    unsigned n_started = 0;
    (void)flags;
    while (n_started + 1 < n_threads && n_started < N_MOST) {
        bodies[n_started] = (body){function, argument, (int)n_started + 1};
        if (pthread_create(&threads[n_started], 0, run, &bodies[n_started]) != 0) break;
        n_started++;
    }
    const int outer = number;
    number = 0;
    function(argument);
    number = outer;
    for (unsigned i = 0; i < n_started; i++) pthread_join(threads[i], 0);
}

int omp_get_max_threads(void) { return n_wanted; }

int omp_get_thread_num(void) { return number; }

void omp_set_num_threads(int count) { n_wanted = count < 1 ? 1 : count > N_MOST ? N_MOST : count; }
