/* SPDX-License-Identifier: Apache-2.0 */

/*
 * One kind of kernels for every instruction set. The includer, a file for the kind, defines
 *
 *   DSK_KIND_NAME      the kind's name
 *   DSK_TILE_NAME      double_tile, float_tile or bfloat16_tile
 *   DSK_TILE_TEMPLATE  the file that defines the tile
 *   DSK_FUSES          1 if a product and a sum may be fused, because products are exact
 *   DSK_SCALES_NOISE   1 if rows whose noise has a factor run as this kind
 *
 * and the macros of the kind that kernels_template.h lists.
 */

#include "kernels.h"

#define DSK_TEMPLATE DSK_TILE_TEMPLATE
#include "kernels_all_isas.h"
#undef DSK_TEMPLATE

#if DSK_SCALES_NOISE /* before products and sums may be fused */
#define DSK_TEMPLATE "noise_factor_template.h"
#include "kernels_all_isas.h"
#undef DSK_TEMPLATE
#endif

#if DSK_FUSES && defined(__clang__)
#pragma STDC FP_CONTRACT ON
#elif DSK_FUSES && defined(__GNUC__)
#pragma GCC optimize("fp-contract=fast")
#endif

#define DSK_TEMPLATE "kernels_template.h"
#include "kernels_all_isas.h"
#undef DSK_TEMPLATE

#define DSK_VARIANT(isa) \
    {DSK_JOIN(step, DSK_KIND_NAME, isa), DSK_JOIN(sift, DSK_KIND_NAME, isa), DSK_JOIN(pick, DSK_KIND_NAME, isa)}
#define DSK_KERNELS_(kind) dsk_##kind##_kernels
#define DSK_KERNELS(kind) DSK_KERNELS_(kind)

const dsk_kernels DSK_KERNELS(DSK_KIND_NAME)[] = {
    [DSK_ISA_BASELINE] = DSK_VARIANT(baseline),
#if defined(__x86_64__)
    [DSK_ISA_AVX2] = DSK_VARIANT(avx2),
    [DSK_ISA_AVX512] = DSK_VARIANT(avx512),
#endif
};
