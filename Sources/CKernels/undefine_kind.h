/* SPDX-License-Identifier: Apache-2.0 */

/* Undefines what describes a kind of kernels: see kernels_template.h. */

#undef DSK_KIND_NAME
#undef DSK_TYPE
#undef DSK_HAS_OTHER_TYPES
#undef DSK_TILE_NAME
#undef DSK_SUM
#undef DSK_REAL
#undef DSK_KEY
#undef DSK_COEFFICIENTS
#undef DSK_WIDEN
