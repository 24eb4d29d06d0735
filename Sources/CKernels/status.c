/* SPDX-License-Identifier: Apache-2.0 */

/* Functions that take no tensors: element sizes, messages, the version. */

#include "elements.h"

size_t dsk_element_size(dsk_element_type type) { return dsk_is_type(type) ? dsk_size(type) : 0; }

const char *dsk_status_message(dsk_status status) {
    switch (status) {
    case DSK_OK: return "no error";
    case DSK_NULL_POINTER: return "a required array or row is NULL";
    case DSK_UNKNOWN_TYPE: return "an element type is not one of dsk_element_type";
    case DSK_MISSING_INPUT: return "a coefficient is nonzero but its tensor is NULL";
    case DSK_MISALIGNED: return "a tensor's address is not a multiple of its element size";
    case DSK_OVERLAP: return "an output partly overlaps an input of its item, or overlaps another output";
    case DSK_TOO_LARGE: return "the elements of the call don't fit the address space";
    case DSK_OUT_OF_RANGE: return "a ratio, a clamp or a limit is outside its documented range";
    }
    return "unknown status";
}

unsigned dsk_version(void) { return DSK_VERSION_MAJOR * 10000 + DSK_VERSION_MINOR * 100 + DSK_VERSION_PATCH; }
