// SPDX-License-Identifier: Apache-2.0

import Foundation

/// The draws of random tests: their seed, and their number.
///
/// `DIFFUSION_SCHEDULING_TEST_SEED` is a number, or `random` for a different one in every run. Unset, the seed is fixed, so a test
/// that begins to fail points to the last change.
///
/// `DIFFUSION_SCHEDULING_TEST_DRAWS` multiplies the cases of every random test: 0.1 for a tenth of them, and of the golden records.
public enum TestDraws {
    private static let seedVariable = "DIFFUSION_SCHEDULING_TEST_SEED"
    private static let drawsVariable = "DIFFUSION_SCHEDULING_TEST_DRAWS"

    /// The seed is printed, so a failure can be repeated.
    public static let seed: UInt64 = {
        let text = ProcessInfo.processInfo.environment[seedVariable] ?? "20240607"
        guard let seed = text == "random" ? .random(in: 0...999_999_999) : UInt64(text) else {
            fatalError("\(seedVariable) is \(text): must be a number or random")
        }
        print("\(seedVariable)=\(seed)")
        return seed
    }()

    /// The setting that repeats a run, for failure messages.
    public static var seedSetting: String { "\(seedVariable)=\(seed)" }

    /// Whether the tests draw all their cases; only then may a test expect rare cases to occur.
    public static var areComplete: Bool { scale >= 1 }

    /// The number of cases to draw if `full` are drawn by default.
    public static func count(_ full: Int) -> Int { max(Int((Double(full) * scale).rounded()), 1) }

    /// The stride between tested cases in a list: 1 tests all, 10 every tenth.
    public static var step: Int { max(Int((1 / scale).rounded()), 1) }

    private static let scale: Double = {
        guard let text = ProcessInfo.processInfo.environment[drawsVariable] else { return 1 }
        guard let scale = Double(text), scale > 0, scale.isFinite else {
            fatalError("\(drawsVariable) is \(text): must be a number above 0")
        }
        return scale
    }()
}
