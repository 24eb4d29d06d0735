/* SPDX-License-Identifier: Apache-2.0 */

/* The thread's floating-point environment, inlined because small steps take nanoseconds. */
#ifndef DSK_ENVIRONMENT_H
#define DSK_ENVIRONMENT_H

#include "internal.h"

#if defined(__x86_64__)

/* All exceptions masked, rounding to nearest even, nothing flushed; the lowest six bits are flags. */
#define DSK_DEFAULT_CONTROL 0x1F80u
#define DSK_CONTROL_FLAGS 0x3Fu

/* The memory clobbers keep loads and stores, and so the arithmetic between them, on their side of the change. */
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

/* The default is 0. */
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

/* Other processors: leave the environment alone. */
static inline dsk_environment dsk_begin_default(void) { return (dsk_environment){0}; }
static inline void dsk_end_default(dsk_environment host) { (void)host; }

#endif

#endif
