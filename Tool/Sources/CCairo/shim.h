/* SPDX-License-Identifier: Apache-2.0 */

#include <cairo-svg.h>
#include <cairo.h>
