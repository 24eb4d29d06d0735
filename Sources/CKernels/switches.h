/* SPDX-License-Identifier: Apache-2.0 */

/* Switches of the whole process, for tests. No result depends on them. */
#ifndef DSK_SWITCHES_H
#define DSK_SWITCHES_H

#include "include/CKernels.h"

/*
 * The instruction sets that a build may choose from, best last. Builds for processors other than x86-64 have only the baseline: the
 * set that the compiler was told to use.
 */
typedef enum dsk_isa {
    DSK_ISA_BASELINE = 0,
    DSK_ISA_AVX2 = 1,
    DSK_ISA_AVX512 = 2,
} dsk_isa;

/* Limits later calls to instruction set `limit`. Returns the set in use from now on: the best within the limit and the processor. */
dsk_isa dsk_limit_isa(dsk_isa limit);

/* Replaces the limits that dsk_get_limits returns. */
void dsk_set_limits(dsk_limits limits);

#endif
