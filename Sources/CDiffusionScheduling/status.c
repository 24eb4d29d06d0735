/* SPDX-License-Identifier: Apache-2.0 */

/* Functions that need no Swift: the version, the messages of statuses, and each thread's error text. */

#include "error_text.h"
#include "include/diffusion_scheduling.h"

uint32_t ds_version(void) { return DS_VERSION; }

static _Thread_local char error_text[DSI_ERROR_TEXT_SIZE];

char *dsi_error_text(void) { return error_text; }

const char *ds_error_message(void) { return error_text; }

const char *ds_status_message(ds_status status) {
    switch (status) {
    case DS_OK: return "no error";
    case DS_INVALID_VALUE: return "a configuration key or an argument has a value that isn't allowed";
    case DS_CONFLICTING_KEYS: return "configuration keys exclude one another";
    case DS_UNSUPPORTED_SCHEDULER: return "no scheduler has that class name";
    case DS_INACCESSIBLE_FILE: return "the file can't be read";
    case DS_MALFORMED_JSON: return "the text isn't the JSON that diffusers writes";
    case DS_TIMESTEPS_NOT_SET: return "no timesteps have been set";
    case DS_UNKNOWN_TIMESTEP: return "the call doesn't accept this timestep";
    case DS_STEP_PAST_END: return "all steps of the plan have been taken";
    case DS_WRONG_ELEMENT_COUNT: return "a tensor or an array has the wrong number of elements";
    case DS_WRONG_ELEMENT_TYPE: return "a tensor has the wrong element type";
    case DS_MISSING_NOISE: return "the step is stochastic, but noise is NULL";
    case DS_UNREPRESENTABLE_PLAN: return "a coefficient of the plan isn't finite in float64";
    case DS_DAMAGED_STATE: return "the bytes are not a saved state, or have been corrupted";
    case DS_FOREIGN_STATE: return "the state was saved with another plan";
    case DS_NULL_POINTER: return "a required argument is NULL";
    case DS_INVALID_HANDLE: return "the handle is zero, has been freed, or has another kind";
    case DS_UNKNOWN_ELEMENT_TYPE: return "the element type is not one of ds_element_type";
    case DS_INVALID_SHAPE: return "a tensor's shape has a negative extent or too many axes";
    case DS_TOO_LARGE: return "the elements of a tensor don't fit the address space";
    case DS_MISALIGNED: return "a tensor's address is not a multiple of its element size";
    case DS_OVERLAP: return "an output overlaps an input in part, or overlaps another output";
    case DS_SHAPE_MISMATCH: return "the shapes of the tensors don't match";
    case DS_BUFFER_TOO_SMALL: return "the result doesn't fit the buffer";
    case DS_UNSUPPORTED_OPERATION: return "the scheduler has no such operation";
    case DS_OUT_OF_MEMORY: return "not enough memory for a session's slots";
    case DS_TOO_MANY_HANDLES: return "too many objects of one kind exist";
    case DS_KERNEL_FAILURE: return "the kernels refused a call, which is a fault of this library";
    }
    return "unknown status";
}
