/* SPDX-License-Identifier: Apache-2.0 */

/* Threads of the OpenMP runtime that the library has bound. */
#ifndef BARE_TEAM_H
#define BARE_TEAM_H

#include <stddef.h>

/* The first element of one of n_parts parts of n elements; parts begin at multiples of a cache line, as in the library. */
size_t bare_begin_of(unsigned part, unsigned n_parts, size_t n);

/* The vector size, in bytes, of the loops' instruction set. */
unsigned bare_vector_bytes(void);

/* Runs body(context, i) for every i in [0, n_parts), each on its own thread; returns when all are done. */
void bare_team(unsigned n_parts, void (*body)(void *context, unsigned part), void *context);

#endif
