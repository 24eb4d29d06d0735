// SPDX-License-Identifier: Apache-2.0

import DiffusionScheduling
import Foundation

/// What `bench.json` holds.
struct BenchmarkResults: Codable {
    /// The version of this form.
    var version = 1
    var isQuick: Bool
    var machine: Machine
    var steps: [StepResult] = []
    var plans: [PlanResult] = []
    var sessions: [SessionsResult] = []
    var goals: [Goal] = []

    func write(to path: String) throws {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.prettyPrinted, .sortedKeys]
        let url = URL(filePath: path)
        try FileManager.default.createDirectory(at: url.deletingLastPathComponent(), withIntermediateDirectories: true)
        try encoder.encode(self).write(to: url)
    }
}

/// One row of the table of steps. Times are in seconds per step.
struct StepResult: Codable {
    let scheduler: String
    let order: Int
    let elementType: ElementType
    let modelOutputType: ElementType
    let elements: Int
    let threads: Int
    let form: StepForm
    /// The tensors that a step reads and writes; rescaled guidance reads the model outputs twice.
    let reads, writes: Int
    /// How much that is.
    let bytes: Int
    let step: Timing
    /// The bare loop with the same streams, with the better kind of store.
    let bare: Timing
    let bareStore: Store
    /// What the loop reads and writes: as much as the step, unless model outputs have a type of their own or are read twice.
    let bareBytes: Int
    /// The same loop with one stream in and one out.
    let copy: Timing
    let copyStore: Store
    let comparison: StepComparison?
    let maximumErrorInULP: Double
    /// nil where they can't be counted.
    let allocationsPerStep: Double?
    /// How many rounds were repeated because threads shared a core or times jumped, and whether that didn't help.
    let repeatedRounds: Int
    let isDisturbed: Bool

    var types: TensorTypes { TensorTypes(elementType, modelOutput: modelOutputType) }
    var gigabytesPerSecond: Double { Double(bytes) / step.median * 1e-9 }
    var copyGigabytesPerSecond: Double { 2 * Double(elements * elementType.size) / copy.median * 1e-9 }
    /// How much of the bare loop's bandwidth the step reaches.
    var fractionOfBare: Double { bare.lowerDecile / step.lowerDecile * Double(bytes) / Double(bareBytes) }
    /// The step's time as a share of that of what it is compared with.
    var shareOfComparison: Double? { comparison.map { step.lowerDecile / $0.timing.lowerDecile } }
}

/// What else a step is compared with: "plain", the step without thresholds; "copying", the one that keeps nothing of the caller's;
/// "passes", guidance in passes of their own; "by hand", a loop that is written for the very row; or the type that all tensors have.
struct StepComparison: Codable {
    static let byHand = "by hand"

    let name: String
    let timing: Timing
}

/// The cost of a plan of 50 steps.
struct PlanResult: Codable {
    let scheduler: String
    let sigmas: String
    let time: Timing
    let allocations: Double?
}
