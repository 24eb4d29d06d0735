/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Limits the Swift tests to a lesser instruction set than the processor's: DIFFUSION_SCHEDULING_TEST_ISA is a number of dsk_isa.
 * The library itself doesn't read the environment. (The C core's tests set one instruction set after the other themselves, the best
 * one last.)
 */

#include "CTestSupport.h"

#include <stdlib.h>

static int isa = -1;

__attribute__((constructor)) static void limit_isa(void) {
    const char *limit = getenv("DIFFUSION_SCHEDULING_TEST_ISA");
    if (limit) isa = (int)dsk_limit_isa((dsk_isa)atoi(limit));
}

int test_isa(void) { return isa; }
