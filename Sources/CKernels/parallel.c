/* SPDX-License-Identifier: Apache-2.0 */

/* Shares chunks among the threads of the process's OpenMP runtime. */

#if !defined(_GNU_SOURCE)
#define _GNU_SOURCE /* RTLD_DEFAULT */
#endif

#include "environment.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#if defined(_OPENMP)
#include <omp.h>
#else
#include <dlfcn.h>
#endif

/* Each thread begins with its own share, the same in every call: its nearest cache still has the share's data from the call
 * before. */
typedef struct team_share {
    _Alignas(64) atomic_size_t next_chunk; /* one cache line per share; other threads touch it only to steal */
    size_t end;
} team_share;

enum { MOST_SHARES = 64 }; /* further threads begin with another thread's share */

typedef struct team_work {
    dsk_chunk_body body;
    void *context;
    unsigned n_shares;
    team_share shares[MOST_SHARES];
} team_work;

static unsigned thread_number(void);

static void take_chunks(void *argument) {
    team_work *work = argument;
    const dsk_environment host = dsk_begin_default();
    const unsigned own = thread_number();
    for (unsigned i = 0; i < work->n_shares; i++) {
        team_share *share = &work->shares[(own + i) % work->n_shares];
        for (;;) {
            size_t chunk = atomic_fetch_add_explicit(&share->next_chunk, 1, memory_order_relaxed);
            if (chunk >= share->end) break;
            work->body(work->context, chunk);
        }
    }
    dsk_end_default(host);
}

/* After a fork the child has one thread; the runtime's other threads are gone, and GNU's runtime would wait for them for ever. The
 * child therefore works alone. */
static atomic_bool is_child;

static void become_child(void) { atomic_store_explicit(&is_child, true, memory_order_relaxed); }

__attribute__((constructor)) static void watch_forks(void) { pthread_atfork(NULL, NULL, become_child); }

#if defined(_OPENMP)

static unsigned runtime_thread_count(void) {
    int count = omp_get_max_threads();
    return count > 1 ? (unsigned)count : 1;
}

static unsigned thread_number(void) { return (unsigned)omp_get_thread_num(); }

static void run_team(team_work *work, unsigned n_threads) {
#pragma omp parallel num_threads(n_threads)
    take_chunks(work);
}

const char *dsk_runtime_description(void) { return "OpenMP as compiled in"; }

#else

/* GNU's entry for `#pragma omp parallel`, which LLVM's and Intel's runtimes export as well. */
typedef void (*parallel_entry)(void (*body)(void *), void *argument, unsigned n_threads, unsigned flags);
typedef int (*number_entry)(void);

typedef struct runtime {
    parallel_entry parallel;
    number_entry thread_count, thread_number;
    char description[96];
} runtime;

static runtime found;

/* Binds a library's runtime; the words describe it. */
static bool bind_runtime(void *library, const char *words, const char *name, const char *more_words) {
    void *parallel = dlsym(library, "GOMP_parallel");
    void *thread_count = dlsym(library, "omp_get_max_threads");
    void *thread_number = dlsym(library, "omp_get_thread_num");
    if (!parallel || !thread_count || !thread_number) return false;
    /* POSIX guarantees that dlsym's object pointer holds a function's address; ISO C has no cast for it. */
    memcpy(&found.parallel, &parallel, sizeof parallel);
    memcpy(&found.thread_count, &thread_count, sizeof thread_count);
    memcpy(&found.thread_number, &thread_number, sizeof thread_number);
    snprintf(found.description, sizeof found.description, "%s%s%s", words, name, more_words);
    return true;
}

static void find_runtime(void) {
    static const char *const names[] = {"libomp.so.5", "libgomp.so.1", "libomp.so", "libiomp5.so", "libomp.dylib"};
    enum { NAME_COUNT = sizeof names / sizeof *names };

    if (bind_runtime(RTLD_DEFAULT, "the process's OpenMP runtime", "", "")) return;
    /* A plug-in's runtime may be loaded without being globally visible. */
    for (unsigned i = 0; i < NAME_COUNT; i++) {
        void *library = dlopen(names[i], RTLD_LAZY | RTLD_NOLOAD);
        if (library && bind_runtime(library, "the process's OpenMP runtime, ", names[i], "")) return;
    }
    for (unsigned i = 0; i < NAME_COUNT; i++) {
        void *library = dlopen(names[i], RTLD_LAZY | RTLD_LOCAL);
        if (library && bind_runtime(library, "", names[i], ", loaded because the process had no OpenMP runtime")) return;
    }
    snprintf(found.description, sizeof found.description, "none found: every call stays on the caller's thread");
}

static const runtime *bound_runtime(void) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, find_runtime);
    return &found;
}

static unsigned runtime_thread_count(void) {
    const runtime *bound = bound_runtime();
    int count = bound->parallel ? bound->thread_count() : 1;
    return count > 1 ? (unsigned)count : 1;
}

static unsigned thread_number(void) { return (unsigned)bound_runtime()->thread_number(); }

static void run_team(team_work *work, unsigned n_threads) { bound_runtime()->parallel(take_chunks, work, n_threads, 0); }

const char *dsk_runtime_description(void) { return bound_runtime()->description; }

#endif

unsigned dsk_thread_count(unsigned max_threads) {
    if (max_threads == 1 || atomic_load_explicit(&is_child, memory_order_relaxed)) return 1;
    unsigned available = runtime_thread_count();
    return max_threads && max_threads < available ? max_threads : available;
}

unsigned dsk_default_thread_count(void) { return dsk_thread_count(0); }

void dsk_parallel(size_t n_chunks, unsigned max_threads, dsk_chunk_body body, void *context) {
    unsigned n_threads = n_chunks > 1 ? dsk_thread_count(max_threads) : 1;
    if (n_threads > n_chunks) n_threads = (unsigned)n_chunks;
    if (n_threads <= 1) {
        const dsk_environment host = dsk_begin_default();
        for (size_t chunk = 0; chunk < n_chunks; chunk++) body(context, chunk);
        dsk_end_default(host);
        return;
    }
    team_work work;
    work.body = body;
    work.context = context;
    work.n_shares = n_threads < MOST_SHARES ? n_threads : MOST_SHARES;
    const size_t least = n_chunks / work.n_shares, n_larger = n_chunks % work.n_shares;
    size_t begin = 0;
    for (unsigned i = 0; i < work.n_shares; i++) {
        atomic_init(&work.shares[i].next_chunk, begin);
        begin += least + (i < n_larger);
        work.shares[i].end = begin;
    }
    run_team(&work, n_threads);
}

typedef struct items_work {
    dsk_item_body body;
    void *context;
} items_work;

static void run_item(void *context, size_t i) {
    const items_work *work = context;
    work->body(work->context, i, 1);
}

void dsk_parallel_items(size_t n_items, size_t n_elements, unsigned max_threads, dsk_item_body body, void *context) {
    if (n_elements < dsk_get_limits().parallel_elements) max_threads = 1;
    if (n_items >= dsk_thread_count(max_threads)) {
        items_work work = {body, context};
        dsk_parallel(n_items, max_threads, run_item, &work);
        return;
    }
    const dsk_environment host = dsk_begin_default();
    for (size_t i = 0; i < n_items; i++) body(context, i, max_threads);
    dsk_end_default(host);
}
