/* SPDX-License-Identifier: Apache-2.0 */

/* Loops by hand for rows, for every instruction set, and the choice among them. */

#include "include/CBareLoop.h"

#include "team.h"

#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#pragma STDC FP_CONTRACT ON

/* X(inputs, sets of the outputs) for every row that is measured in cache. */
/* clang-format off */
#define HAND_ROWS(X)                                                                                  \
    X(2, 3, 0, 0) X(3, 7, 0, 0) X(4, 15, 0, 0)                                                        \
    X(3, 7, 3, 0) X(4, 15, 3, 0)                                                                      \
    X(2, 3, 2 | HAND_COPIES, 0) X(3, 7, 2 | HAND_COPIES, 0) X(4, 15, 2 | HAND_COPIES, 0)              \
    X(5, 31, 2 | HAND_COPIES, 0) X(5, 31, 3, 0)                                                       \
    X(4, 15, 3, 15) X(5, 31, 3, 31) X(4, 15, 3, 7) X(5, 31, 3, 15)                                    \
    X(2, 1 | HAND_READS_PREDICTION, 0, 0) X(2, 2 | HAND_READS_PREDICTION, 0, 0)                       \
    X(2, 3 | HAND_READS_PREDICTION, 0, 0) X(3, 5 | HAND_READS_PREDICTION, 0, 0)
/* clang-format on */

#define BARE_VECTOR_BYTES 16
#define BARE_TARGET
#define BARE_NAME(name) name##_baseline
#define BARE_HAS_HALVES 0
#include "by_hand_template.h"
#undef BARE_VECTOR_BYTES
#undef BARE_TARGET
#undef BARE_NAME
#undef BARE_HAS_HALVES

#if defined(__x86_64__)

#define BARE_VECTOR_BYTES 32
#define BARE_TARGET __attribute__((target("avx2,fma,f16c")))
#define BARE_NAME(name) name##_avx2
#define BARE_HAS_HALVES 1
#include "by_hand_template.h"
#undef BARE_VECTOR_BYTES
#undef BARE_TARGET
#undef BARE_NAME

/* Vectors of 64 bytes took 1.4 times as long (two inputs, one output, AMD EPYC with AVX-512). */
#define BARE_VECTOR_BYTES 32
#define BARE_TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,fma,f16c")))
#define BARE_NAME(name) name##_avx512
#include "by_hand_template.h"
#undef BARE_VECTOR_BYTES
#undef BARE_TARGET
#undef BARE_NAME
#undef BARE_HAS_HALVES

#endif

typedef struct hand_work {
    const hand_row *row;
    bool (*loop)(const hand_row *row, size_t begin, size_t end);
    unsigned n_parts;
} hand_work;

static void hand_part(void *context, unsigned part) {
    const hand_work *work = context;
    const size_t n = work->row->n_elements;
    work->loop(work->row, bare_begin_of(part, work->n_parts, n), bare_begin_of(part + 1, work->n_parts, n));
}

static bool (*chosen(void))(const hand_row *row, size_t begin, size_t end) {
#if defined(__x86_64__)
    if (bare_vector_bytes() == 64) return hand_avx512;
    if (bare_vector_bytes() == 32) return hand_avx2;
#endif
    return hand_baseline;
}

bool hand_has_loop(const hand_row *row) { return chosen()(row, 0, 0); }

void hand_run(const hand_row *row, unsigned n_threads) {
    hand_work work = {row, chosen(), n_threads > 1 ? n_threads : 1};
    bare_team(work.n_parts, hand_part, &work);
}
