// SPDX-License-Identifier: Apache-2.0

import CBareLoop

/// Whether the threads have a processor core each.
struct CoreCheck {
    let threads: Int

    /// The least share of the threads' work done at once; below it, some threads share a core.
    static let leastShare = 0.75

    private static let rounds = 40_000

    /// The work that all threads do in the time of one thread's, as a multiple of that work.
    func speedUp() -> Double {
        guard threads > 1, bare_has_threads() else { return Double(threads) }
        bare_compute(Self.rounds / 40, UInt32(threads))
        let one = (0..<3).map { _ in seconds { bare_compute(Self.rounds, 1) } }.min()!
        // Threads that take turns on a core are lucky now and then, so the median counts, not the best time.
        let all = (0..<3).map { _ in seconds { bare_compute(Self.rounds, UInt32(threads)) } }.sorted()[1]
        return Double(threads) * one / all
    }

    func hasCoresOfTheirOwn() -> Bool { speedUp() >= Self.leastShare * Double(threads) }
}
