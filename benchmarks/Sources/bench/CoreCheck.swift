// SPDX-License-Identifier: Apache-2.0

import CBareLoop

/// Whether the threads have a processor core each.
struct CoreCheck {
    let threads: Int

    /// With less than this share of the threads' work done at once, some of them share a core.
    static let leastShare = 0.75

    private static let rounds = 40_000

    /// How many times the work of one thread all of them do in the same time.
    func speedUp() -> Double {
        guard threads > 1, bare_has_threads() else { return Double(threads) }
        bare_compute(Self.rounds / 40, UInt32(threads))
        let one = (0..<3).map { _ in seconds { bare_compute(Self.rounds, 1) } }.min()!
        // Threads that wait for each other's turn on a core are lucky now and then: not the best time, but the usual one.
        let all = (0..<3).map { _ in seconds { bare_compute(Self.rounds, UInt32(threads)) } }.sorted()[1]
        return Double(threads) * one / all
    }

    func hasCoresOfTheirOwn() -> Bool { speedUp() >= Self.leastShare * Double(threads) }
}
