/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Lets the shared library run with the C library of 2021 (glibc 2.34), on whatever newer one it is built.
 *
 * glibc 2.35 gave hypot and hypotf a second version, which differs only in how overflow is reported. The linker picks the newest
 * version, and of all that the library needs only these two come from 2.35. Linking with --wrap=hypot,--wrap=hypotf picks the first
 * version instead; the results have the same bits.
 */
#include <math.h>

#if defined __GLIBC__ && defined __x86_64__
#define FIRST_VERSION "GLIBC_2.2.5"
#elif defined __GLIBC__ && defined __aarch64__
#define FIRST_VERSION "GLIBC_2.17"
#endif

double __wrap_hypot(double x, double y);
float __wrap_hypotf(float x, float y);

#ifdef FIRST_VERSION
double ds_first_hypot(double x, double y);
float ds_first_hypotf(float x, float y);
__asm__(".symver ds_first_hypot, hypot@" FIRST_VERSION);
__asm__(".symver ds_first_hypotf, hypotf@" FIRST_VERSION);
#else
double __real_hypot(double x, double y);
float __real_hypotf(float x, float y);
#define ds_first_hypot __real_hypot
#define ds_first_hypotf __real_hypotf
#endif

double __wrap_hypot(double x, double y) { return ds_first_hypot(x, y); }
float __wrap_hypotf(float x, float y) { return ds_first_hypotf(x, y); }
