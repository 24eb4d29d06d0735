/* SPDX-License-Identifier: Apache-2.0 */

/* Threads of the OpenMP runtime that the library has bound. */
#ifndef BARE_TEAM_H
#define BARE_TEAM_H

#include <stddef.h>

/* The first element of a part of n; parts begin at multiples of a cache line, as the library's do. */
size_t bare_begin_of(unsigned part, unsigned n_parts, size_t n);

/* Bytes of a vector of the instruction set that the loops use. */
unsigned bare_vector_bytes(void);

/* Runs body(context, i) for every i in [0, n_parts) on as many threads; returns when all are done. */
void bare_team(unsigned n_parts, void (*body)(void *context, unsigned part), void *context);

#endif
