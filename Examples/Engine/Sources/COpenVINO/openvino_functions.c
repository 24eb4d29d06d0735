// SPDX-License-Identifier: Apache-2.0

#include "openvino_functions.h"

#include <dlfcn.h>
#include <stddef.h>

const char *openvino_open(const char *path, openvino_functions *functions) {
    void *const library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (library == NULL) return dlerror();
    const char *complaint = NULL;
#define OPENVINO_FIND(name)                                               \
    functions->name = (__typeof__(functions->name))dlsym(library, #name); \
    if (functions->name == NULL && complaint == NULL) complaint = #name " isn't in the library"
    OPENVINO_FUNCTIONS(OPENVINO_FIND)
#undef OPENVINO_FIND
    return complaint;
}
