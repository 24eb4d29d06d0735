/* SPDX-License-Identifier: Apache-2.0 */

/* Between the Swift sources of the C interface and its error text. No part of the interface, and not exported. */
#ifndef DSI_ERROR_TEXT_H
#define DSI_ERROR_TEXT_H

#include <stddef.h>

/* The bytes of the error text, the terminating zero included. */
enum { DSI_ERROR_TEXT_SIZE = 1024 };

/* This thread's error text, to be written. */
char *dsi_error_text(void);

#endif
