/* SPDX-License-Identifier: Apache-2.0 */

/* The floating-point environment of the thread, inlined for where a step takes nanoseconds. */
#ifndef DSK_ENVIRONMENT_H
#define DSK_ENVIRONMENT_H

#include "internal.h"

#if defined(__x86_64__)

/* Everything masked, rounding to nearest and even, nothing flushed; the lowest six bits are flags. */
#define DSK_DEFAULT_CONTROL 0x1F80u
#define DSK_CONTROL_FLAGS 0x3Fu

/* (The clobbers keep the compiler from moving loads and stores, and so the arithmetic between them, across the change.) */
static inline void dsk_set_control(uint32_t value) { __asm__ __volatile__("ldmxcsr %0" : : "m"(value) : "memory"); }

static inline dsk_environment dsk_begin_default(void) {
    uint32_t host;
    __asm__ __volatile__("stmxcsr %0" : "=m"(host) : : "memory");
    if (__builtin_expect((host & ~DSK_CONTROL_FLAGS) == DSK_DEFAULT_CONTROL, 1)) return (dsk_environment){0};
    dsk_set_control(DSK_DEFAULT_CONTROL);
    return (dsk_environment){(uint64_t)1 << 32 | host};
}

static inline void dsk_end_default(dsk_environment host) {
    if (__builtin_expect(host.changed != 0, 0)) dsk_set_control((uint32_t)host.changed);
}

#elif defined(__aarch64__)

static inline void dsk_set_control(uint64_t value) { __asm__ __volatile__("msr fpcr, %0" : : "r"(value) : "memory"); }

/* All of it is 0 by default. */
static inline dsk_environment dsk_begin_default(void) {
    uint64_t host;
    __asm__ __volatile__("mrs %0, fpcr" : "=r"(host) : : "memory");
    if (__builtin_expect(host != 0, 0)) dsk_set_control(0);
    return (dsk_environment){host};
}

static inline void dsk_end_default(dsk_environment host) {
    if (__builtin_expect(host.changed != 0, 0)) dsk_set_control(host.changed);
}

#else

/* What the host has, there is. */
static inline dsk_environment dsk_begin_default(void) { return (dsk_environment){0}; }
static inline void dsk_end_default(dsk_environment host) { (void)host; }

#endif

#endif
