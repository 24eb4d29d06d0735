// SPDX-License-Identifier: Apache-2.0

/// The functions of OpenVINO's C interface that the engine calls, found in a library that is opened at run time.
///
/// The loader ends a program that is linked with a missing library before its first line. An opened library lets the program say what is
/// missing. A program that links needs only a module map that names openvino/c/openvino.h.

#pragma once

#if !__has_include(<openvino/c/openvino.h>)
#error "openvino/c/openvino.h is missing: make engine installs it into out/openvino"
#endif
#include <openvino/c/openvino.h>

#define OPENVINO_FUNCTIONS(apply)                       \
    apply(ov_get_openvino_version);                     \
    apply(ov_version_free);                             \
    apply(ov_get_last_err_msg);                         \
    apply(ov_core_create);                              \
    apply(ov_core_free);                                \
    apply(ov_core_read_model);                          \
    apply(ov_core_compile_model_props);                 \
    apply(ov_model_free);                               \
    apply(ov_model_const_input_by_name);                \
    apply(ov_model_reshape);                            \
    apply(ov_port_get_element_type);                    \
    apply(ov_output_const_port_free);                   \
    apply(ov_partial_shape_create_static);              \
    apply(ov_partial_shape_free);                       \
    apply(ov_compiled_model_create_infer_request);      \
    apply(ov_compiled_model_free);                      \
    apply(ov_infer_request_get_tensor);                 \
    apply(ov_infer_request_get_output_tensor_by_index); \
    apply(ov_infer_request_infer);                      \
    apply(ov_infer_request_free);                       \
    apply(ov_tensor_data);                              \
    apply(ov_tensor_get_size);                          \
    apply(ov_tensor_free);

/// A pointer to each function, under its name.
#define OPENVINO_MEMBER(name) __typeof__(name) *name
typedef struct openvino_functions {
    OPENVINO_FUNCTIONS(OPENVINO_MEMBER)
} openvino_functions;
#undef OPENVINO_MEMBER

/// Opens the library at a path, for the rest of the process, and finds the functions. A function that isn't there is NULL.
///
/// Returns NULL, or a sentence about the first thing that is missing, which lives until the thread's next call.
const char *openvino_open(const char *path, openvino_functions *functions);
