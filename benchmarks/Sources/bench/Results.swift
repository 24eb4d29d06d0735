// SPDX-License-Identifier: Apache-2.0

import DiffusionScheduling
import Foundation

/// The contents of `bench.json`.
struct BenchmarkResults: Codable {
    /// The version of this format.
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
    /// The size of all these tensors in bytes.
    let bytes: Int
    let step: Timing
    /// The bare loop with the step's streams and the faster kind of store.
    let bare: Timing
    let bareStore: Store
    /// The bytes that the loop moves: the step's, unless model outputs have a type of their own or are read twice.
    let bareBytes: Int
    /// The bare loop with one stream in and one out.
    let copy: Timing
    let copyStore: Store
    let comparison: StepComparison?
    let maximumErrorInULP: Double
    /// nil if allocations can't be counted.
    let allocationsPerStep: Double?
    /// The rounds repeated because threads shared a core or times jumped, and whether repeating didn't help.
    let repeatedRounds: Int
    let isDisturbed: Bool

    var types: TensorTypes { TensorTypes(elementType, modelOutput: modelOutputType) }
    var gigabytesPerSecond: Double { Double(bytes) / step.median * 1e-9 }
    var copyGigabytesPerSecond: Double { 2 * Double(elements * elementType.size) / copy.median * 1e-9 }
    /// The step's bandwidth as a share of the bare loop's.
    var fractionOfBare: Double { bare.lowerDecile / step.lowerDecile * Double(bytes) / Double(bareBytes) }
    /// The step's time as a share of its rival's.
    var shareOfComparison: Double? { comparison.map { step.lowerDecile / $0.timing.lowerDecile } }
}

/// A further rival of a step: "plain", the step without thresholds; "copying", a step that keeps none of the caller's memory;
/// "passes", guidance in separate passes; "by hand", a loop written for this very row; or the single type of all tensors.
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
