/* SPDX-License-Identifier: Apache-2.0 */

/* The thread's floating-point environment, for callers that compute coefficients. */

#include "environment.h"

dsk_environment dsk_begin_default_environment(void) { return dsk_begin_default(); }

void dsk_end_default_environment(dsk_environment host) { dsk_end_default(host); }
