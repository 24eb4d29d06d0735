/* SPDX-License-Identifier: Apache-2.0 */

/* Helpers of all targets. */
#ifndef FUZZ_H
#define FUZZ_H

#include <diffusion_scheduling.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A condition that must hold for every input. */
#define MUST(holds)                                                                                      \
    do {                                                                                                 \
        if (!(holds)) {                                                                                  \
            fprintf(stderr, "%s:%d: not so: %s (%s)\n", __FILE__, __LINE__, #holds, ds_error_message()); \
            abort();                                                                                     \
        }                                                                                                \
    } while (0)

/* A contiguous tensor whose memory has exactly its size, so a sanitizer sees any byte beyond. */
static inline ds_tensor tensor_of(void *data, ds_element_type type, size_t rank, const int64_t *shape) {
    ds_tensor tensor = {data, type, rank, shape};
    return tensor;
}

#endif
