// SPDX-License-Identifier: Apache-2.0

import Synchronization

/// The greatest of the values from any number of threads; at least 0.
final class Greatest: Sendable {
    private let greatest = Mutex(0.0)

    func take(_ value: Double) { greatest.withLock { $0 = max($0, value) } }

    var value: Double { greatest.withLock { $0 } }
}
