/* SPDX-License-Identifier: Apache-2.0 */

/* Widens n elements of another type: a part of double_tile_template.h and of float_tile_template.h, whose macros it uses. */

INLINE void DSK_TILE(widen_type)(dsk_element_type type, const void *tensor, size_t n, void *widened) {
    enum { TILE = DSK_TILE_VECTORS * sizeof(VECTOR) / sizeof(((VECTOR){0})[0]) };
    __typeof__(((VECTOR){0})[0]) *values = widened;
    size_t i = 0;
    for (; n - i >= TILE; i += TILE)
        for (int u = 0; u < DSK_TILE_VECTORS; u++) {
            const VECTOR vector = DSK_TILE(load_vector)(type, tensor, i, u);
            memcpy(values + i + (size_t)u * TILE / DSK_TILE_VECTORS, &vector, sizeof vector);
        }
    for (; i < n; i++) values[i] = (__typeof__(values[0]))dsk_element_value(type, tensor, i);
}

DSK_TARGET static
    __attribute__((noinline, unused)) void DSK_TILE(widen)(dsk_element_type type, const void *tensor, size_t n, void *widened) {
    DSK_FOR_TYPE(type, DSK_TILE(widen_type), tensor, n, widened);
}
