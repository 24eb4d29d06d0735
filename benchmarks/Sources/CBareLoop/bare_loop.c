/* The bare loops for every instruction set, and the choice among them. */

#include "include/CBareLoop.h"

#include "team.h"

#if defined(__clang__)
#define bare_store_streaming(value, address) __builtin_nontemporal_store(value, address)
#else
#define bare_store_streaming(value, address) (*(address) = (value))
#endif

/* Streaming stores are weakly ordered on x86: make them visible before the threads meet. */
static inline void bare_fence_streaming(void) {
#if defined(__x86_64__)
    __builtin_ia32_sfence();
#endif
}

#define BARE_VECTOR_BYTES 16
#define BARE_TARGET
#define BARE_NAME(name) name##_baseline
#include "bare_loop_template.h"
#undef BARE_VECTOR_BYTES
#undef BARE_TARGET
#undef BARE_NAME

#if defined(__x86_64__)

#define BARE_VECTOR_BYTES 32
#define BARE_TARGET __attribute__((target("avx2,fma")))
#define BARE_NAME(name) name##_avx2
#include "bare_loop_template.h"
#undef BARE_VECTOR_BYTES
#undef BARE_TARGET
#undef BARE_NAME

#define BARE_VECTOR_BYTES 64
#define BARE_TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,fma")))
#define BARE_NAME(name) name##_avx512
#include "bare_loop_template.h"
#undef BARE_VECTOR_BYTES
#undef BARE_TARGET
#undef BARE_NAME

#endif

typedef struct variant {
    const char *name;
    void (*loop)(const bare_streams *streams, size_t begin, size_t end);
    float (*compute)(size_t n_rounds);
} variant;

static const variant *chosen(void) {
    static const variant baseline = {"baseline", loop_baseline, compute_baseline};
#if defined(__x86_64__)
    static const variant avx2 = {"AVX2", loop_avx2, compute_avx2}, avx512 = {"AVX-512", loop_avx512, compute_avx512};
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl"))
        return &avx512;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return &avx2;
#endif
    return &baseline;
}

const char *bare_isa(void) { return chosen()->name; }
const char *bare_compiler(void) { return __VERSION__; }

typedef struct bare_work {
    const bare_streams *streams;
    const variant *variant;
    unsigned n_parts;
} bare_work;

/* Parts begin at multiples of a cache line, as the library's do. */
static size_t part_begin(const bare_work *work, unsigned part) {
    size_t n = work->streams->n_floats;
    if (part == work->n_parts) return n;
    size_t begin = n / work->n_parts * part;
    return begin - begin % 64;
}

static void run_part(void *context, unsigned part) {
    const bare_work *work = context;
    work->variant->loop(work->streams, part_begin(work, part), part_begin(work, part + 1));
}

void bare_run(const bare_streams *streams, unsigned n_threads) {
    bare_work work = {streams, chosen(), n_threads > 1 ? n_threads : 1};
    bare_team(work.n_parts, run_part, &work);
}

typedef struct compute_work {
    float (*compute)(size_t n_rounds);
    size_t n_rounds;
} compute_work;

static void compute_part(void *context, unsigned part) {
    const compute_work *work = context;
    (void)part;
    volatile float result = work->compute(work->n_rounds); /* or the compiler drops the loop */
    (void)result;
}

void bare_compute(size_t n_rounds, unsigned n_threads) {
    compute_work work = {chosen()->compute, n_rounds};
    bare_team(n_threads > 1 ? n_threads : 1, compute_part, &work);
}
