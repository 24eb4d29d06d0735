/* SPDX-License-Identifier: Apache-2.0 */

#if !defined(_GNU_SOURCE)
#define _GNU_SOURCE /* RTLD_DEFAULT, RTLD_NOLOAD */
#endif

#include "team.h"

#include "include/CBareLoop.h"

#include <dlfcn.h>
#include <stdatomic.h>
#include <string.h>

/* GNU's entry for `#pragma omp parallel`; see parallel.c of the library. */
typedef void (*parallel_entry)(void (*body)(void *), void *argument, unsigned n_threads, unsigned flags);

/* Finds the runtime without loading it: the library has loaded one before the first call. */
static parallel_entry find_runtime(void) {
    static const char *const names[] = {"libomp.so.5", "libgomp.so.1", "libomp.so", "libiomp5.so", "libomp.dylib"};
    void *symbol = dlsym(RTLD_DEFAULT, "GOMP_parallel");
    for (size_t i = 0; !symbol && i < sizeof names / sizeof *names; i++) {
        void *library = dlopen(names[i], RTLD_LAZY | RTLD_NOLOAD);
        if (library) symbol = dlsym(library, "GOMP_parallel");
    }
    parallel_entry entry;
    memcpy(&entry, &symbol, sizeof entry);
    return entry;
}

static parallel_entry runtime(void) {
    static parallel_entry found;
    if (!found) found = find_runtime();
    return found;
}

bool bare_has_threads(void) { return runtime() != NULL; }

typedef struct team {
    void (*body)(void *context, unsigned part);
    void *context;
    unsigned n_parts;
    atomic_uint next_part;
} team;

/* Tickets, as in the library: a thread that arrives late finds its part done. */
static void take_parts(void *argument) {
    team *work = argument;
    for (;;) {
        unsigned part = atomic_fetch_add_explicit(&work->next_part, 1, memory_order_relaxed);
        if (part >= work->n_parts) return;
        work->body(work->context, part);
    }
}

void bare_team(unsigned n_parts, void (*body)(void *context, unsigned part), void *context) {
    if (n_parts <= 1 || !bare_has_threads()) {
        for (unsigned part = 0; part < n_parts; part++) body(context, part);
        return;
    }
    team work = {body, context, n_parts, 0};
    runtime()(take_parts, &work, n_parts, 0);
}
