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
    let elements: Int
    let threads: Int
    let form: StepForm
    /// The tensors that a step reads and writes.
    let reads, writes: Int
    let step: Timing
    /// The bare loop with the same streams, with the better kind of store.
    let bare: Timing
    let bareStore: Store
    /// The same loop with one stream in and one out.
    let copy: Timing
    let copyStore: Store
    let maximumErrorInULP: Double
    /// nil where they can't be counted.
    let allocationsPerStep: Double?
    /// How many rounds were repeated because threads shared a core or times jumped, and whether that didn't help.
    let repeatedRounds: Int
    let isDisturbed: Bool

    var bytes: Double { Double((reads + writes) * elements * elementType.size) }
    var gigabytesPerSecond: Double { bytes / step.median * 1e-9 }
    var copyGigabytesPerSecond: Double { 2 * Double(elements * elementType.size) / copy.median * 1e-9 }
    /// How much of the bare loop's bandwidth the step reaches.
    var fractionOfBare: Double { bare.lowerDecile / step.lowerDecile }
}

/// The cost of a plan of 50 steps.
struct PlanResult: Codable {
    let scheduler: String
    let sigmas: String
    let time: Timing
    let allocations: Double?
}
