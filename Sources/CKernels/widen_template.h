/* SPDX-License-Identifier: Apache-2.0 */

/* Widens n elements of another type: a part of double_tile_template.h and of float_tile_template.h, whose macros it uses. */

DSK_TARGET static
    __attribute__((noinline, unused)) void DSK_TILE(widen)(dsk_element_type type, const void *tensor, size_t n, void *widened) {
    enum { TILE = DSK_TILE_VECTORS * sizeof(VECTOR) / sizeof(((VECTOR){0})[0]) };
    __typeof__(((VECTOR){0})[0]) *values = widened;
    size_t i = 0;
    for (; n - i >= TILE; i += TILE) {
        VECTOR tile[DSK_TILE_VECTORS];
        DSK_TILE(load)(type, tensor, i, tile);
        memcpy(values + i, tile, sizeof tile);
    }
    for (; i < n; i++) values[i] = (__typeof__(values[0]))dsk_element_value(type, tensor, i);
}
