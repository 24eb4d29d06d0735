/*
 * Makes all Swift tests use a lesser instruction set than the processor has: DIFFUSION_SCHEDULING_TEST_ISA is a number of dsk_isa.
 * Here rather than in the library, which no environment variable of its own changes.
 */

#include "CTestSupport.h"

#include <CKernels.h>

#include <stdlib.h>

__attribute__((constructor)) static void limit_isa(void) {
    const char *isa = getenv("DIFFUSION_SCHEDULING_TEST_ISA");
    if (isa) dsk_limit_isa((dsk_isa)atoi(isa));
}

int test_isa(void) {
    const char *isa = getenv("DIFFUSION_SCHEDULING_TEST_ISA");
    return isa ? atoi(isa) : -1;
}
