/* SPDX-License-Identifier: Apache-2.0 */

/* Threads of the OpenMP runtime that the library has bound. */
#ifndef BARE_TEAM_H
#define BARE_TEAM_H

/* Runs body(context, i) for every i in [0, n_parts) on as many threads; returns when all are done. */
void bare_team(unsigned n_parts, void (*body)(void *context, unsigned part), void *context);

#endif
