/* SPDX-License-Identifier: Apache-2.0 */

#include "../../../Sources/CKernels/switches.h"

/* The instruction set that DIFFUSION_SCHEDULING_TEST_ISA made of the processor's; -1: it isn't set. */
int test_isa(void);
