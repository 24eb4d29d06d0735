// SPDX-License-Identifier: Apache-2.0

internal import CKernels

/// The floating-point environment in which scalars are computed: rounding to nearest even, subnormal numbers kept, no traps.
///
/// The host may have set another environment on the calling thread. Plans must not depend on it, and it must be restored:
///
/// ```swift
/// let host = FloatingPointEnvironment.begin()
/// defer { host.end() }
/// ```
package struct FloatingPointEnvironment {
    private let host: dsk_environment

    package static func begin() -> FloatingPointEnvironment {
        FloatingPointEnvironment(host: dsk_begin_default_environment())
    }

    package func end() { dsk_end_default_environment(host) }
}
