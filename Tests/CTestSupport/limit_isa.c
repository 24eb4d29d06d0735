/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Makes the Swift tests use a lesser instruction set than the processor has: DIFFUSION_SCHEDULING_TEST_ISA is a number of dsk_isa.
 * Here rather than in the library, which no environment variable changes. (The tests of the C core set one after the other by
 * themselves, and the best at last.)
 */

#include "CTestSupport.h"

#include <stdlib.h>

static int isa = -1;

__attribute__((constructor)) static void limit_isa(void) {
    const char *limit = getenv("DIFFUSION_SCHEDULING_TEST_ISA");
    if (limit) isa = (int)dsk_limit_isa((dsk_isa)atoi(limit));
}

int test_isa(void) { return isa; }
