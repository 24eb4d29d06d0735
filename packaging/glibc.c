/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Keeps the shared library compatible with glibc 2.34, the version of RHEL 9 and Amazon Linux 2023.
 *
 * glibc 2.35 added a second version of hypot and hypotf, which reports overflow differently and returns the same bits. A linker picks
 * the newest version it finds, so a library built with 2.35 or later would refuse to load with 2.34. Built on Debian 12, the library
 * doesn't need any other symbol newer than 2.34. --wrap=hypot and --wrap=hypotf send its calls here, to the first version.
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
