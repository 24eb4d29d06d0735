/* SPDX-License-Identifier: Apache-2.0 */

/* cairo, and C's logarithms and formatting. */
#include <cairo-svg.h>
#include <cairo.h>
#include <math.h>
#include <stdio.h>
