/* SPDX-License-Identifier: Apache-2.0 */

/* The layout of records, which compilers for devices rely on. */

#include "device_table.h"

#include <stddef.h>

#define AT(member, offset) _Static_assert(offsetof(ds_device_row, member) == (offset), #member)

AT(timestep, 0);
AT(next, 56);
AT(reads, 80);
AT(stores, 104);
AT(uses_prediction, 112);
AT(prediction, 128);
AT(outputs, 160);
AT(prediction_parts, 480);
AT(output_parts, 512);
AT(padding, 832);
_Static_assert(sizeof(ds_device_row) == DS_DEVICE_ROW_BYTES, "records have another size");
