/* SPDX-License-Identifier: Apache-2.0 */

/* Gives the Swift sources of the C interface access to the error text. Not part of the interface, and not exported. */
#ifndef DSI_ERROR_TEXT_H
#define DSI_ERROR_TEXT_H

#include <stddef.h>

/* The bytes of the error text, including the terminating zero. */
enum { DSI_ERROR_TEXT_SIZE = 1024 };

/* This thread's error text, for writing. */
char *dsi_error_text(void);

#endif
