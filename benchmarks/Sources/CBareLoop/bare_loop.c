/* SPDX-License-Identifier: Apache-2.0 */

/* The bare loops for every instruction set, and the choice among them. */

#include "include/CBareLoop.h"

#include "team.h"

#include <math.h>
#include <string.h>

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

typedef enum bare_guidance_pass {
    BARE_SUBTRACT,
    BARE_SCALE,
    BARE_ADD,
    BARE_MEASURE, /* sums[4] += guided, its squares, conditional, its squares */
    BARE_RESCALE,
} bare_guidance_pass;

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
    unsigned vector_bytes;
    void (*loop)(const bare_streams *streams, size_t begin, size_t end);
    float (*compute)(size_t n_rounds);
    void (*guide)(bare_guidance_pass pass, const bare_guidance *guidance, size_t begin, size_t end, double *sums);
} variant;

static const variant *chosen(void) {
    static const variant baseline = {"baseline", 16, loop_baseline, compute_baseline, guide_baseline};
#if defined(__x86_64__)
    static const variant avx2 = {"AVX2", 32, loop_avx2, compute_avx2, guide_avx2};
    static const variant avx512 = {"AVX-512", 64, loop_avx512, compute_avx512, guide_avx512};
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl"))
        return &avx512;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return &avx2;
#endif
    return &baseline;
}

const char *bare_isa(void) { return chosen()->name; }
unsigned bare_vector_bytes(void) { return chosen()->vector_bytes; }
const char *bare_compiler(void) { return __VERSION__; }

typedef struct bare_work {
    const bare_streams *streams;
    const variant *variant;
    unsigned n_parts;
} bare_work;

size_t bare_begin_of(unsigned part, unsigned n_parts, size_t n) {
    if (part == n_parts) return n;
    size_t begin = n / n_parts * part;
    return begin - begin % 64;
}

static void run_part(void *context, unsigned part) {
    const bare_work *work = context;
    work->variant->loop(work->streams, bare_begin_of(part, work->n_parts, work->streams->n_floats),
                        bare_begin_of(part + 1, work->n_parts, work->streams->n_floats));
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
    volatile float result = work->compute(work->n_rounds); /* keeps the compiler from dropping the loop */
    (void)result;
}

void bare_compute(size_t n_rounds, unsigned n_threads) {
    compute_work work = {chosen()->compute, n_rounds};
    bare_team(n_threads > 1 ? n_threads : 1, compute_part, &work);
}

enum { MOST_GUIDANCE_PARTS = 64 };

typedef struct guidance_work {
    const bare_guidance *guidance;
    const variant *variant;
    bare_guidance_pass pass;
    unsigned n_parts;
    double sums[MOST_GUIDANCE_PARTS][4];
} guidance_work;

static void guide_part(void *context, unsigned part) {
    guidance_work *work = context;
    const size_t n = work->guidance->n_elements;
    double sums[4] = {0};
    work->variant->guide(work->pass, work->guidance, bare_begin_of(part, work->n_parts, n),
                         bare_begin_of(part + 1, work->n_parts, n), sums);
    memcpy(work->sums[part], sums, sizeof sums);
}

void bare_guide(bare_guidance *guidance, unsigned n_threads) {
    guidance_work work = {.guidance = guidance, .variant = chosen(), .n_parts = n_threads > 1 ? n_threads : 1};
    if (work.n_parts > MOST_GUIDANCE_PARTS) work.n_parts = MOST_GUIDANCE_PARTS;
    for (work.pass = BARE_SUBTRACT; work.pass <= BARE_ADD; work.pass++) bare_team(work.n_parts, guide_part, &work);
    if (guidance->rescale == 0) return;
    work.pass = BARE_MEASURE;
    bare_team(work.n_parts, guide_part, &work);
    double sums[4] = {0};
    for (unsigned part = 0; part < work.n_parts; part++)
        for (unsigned k = 0; k < 4; k++) sums[k] += work.sums[part][k];
    const double n = (double)guidance->n_elements;
    const double guided = sums[1] / n - sums[0] / n * (sums[0] / n), conditional = sums[3] / n - sums[2] / n * (sums[2] / n);
    /* A tensor that is constant except for rounding isn't rescaled. */
    const double ratio = guided > 1e-12 * (sums[1] / n) ? sqrt(conditional / guided) : 1;
    guidance->factor = (float)(guidance->rescale * ratio + 1 - guidance->rescale);
    work.pass = BARE_RESCALE;
    bare_team(work.n_parts, guide_part, &work);
}
