/* SPDX-License-Identifier: Apache-2.0 */

/* The JSON of a plan, decoded. Sources/PlanTarget does the work. */

#include <stddef.h>
#include <stdint.h>

int fuzz_plan(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    fuzz_plan(data, size);
    return 0;
}
