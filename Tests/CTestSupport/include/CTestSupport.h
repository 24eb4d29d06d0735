/* SPDX-License-Identifier: Apache-2.0 */

#include "../../../Sources/CKernels/switches.h"

/* The instruction set in use after DIFFUSION_SCHEDULING_TEST_ISA limited it; -1: the variable isn't set. */
int test_isa(void);
