/* SPDX-License-Identifier: Apache-2.0 */

/* The floating-point environment of the thread, for callers who compute coefficients. */

#include "environment.h"

dsk_environment dsk_begin_default_environment(void) { return dsk_begin_default(); }

void dsk_end_default_environment(dsk_environment host) { dsk_end_default(host); }
