// SPDX-License-Identifier: Apache-2.0

import Foundation
import TestDraws
import Testing

@testable import DiffusionScheduling

// Helpers that the other test files share, and tests of the helpers.

/// SplitMix64 (Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators", figure 16).
struct SeededGenerator: RandomNumberGenerator {
    private var state: UInt64

    /// The stream of a test; streams of different names are independent.
    init(_ name: String, seed: UInt64 = TestDraws.seed) { state = seed &+ checksum(Array(name.utf8)) }

    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var z = state
        z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
        z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
        return z ^ (z >> 31)
    }
}

/// FNV-1a of 64 bits.
func checksum(_ bytes: [UInt8]) -> UInt64 {
    bytes.reduce(0xCBF2_9CE4_8422_2325) { ($0 ^ UInt64($1)) &* 0x100_0000_01B3 }
}

/// The bits of an array's elements for comparisons bit for bit; == equates 0 and −0, and no NaN with itself.
func bits<Element: BitwiseCopyable>(_ elements: [Element]) -> [UInt8] { elements.withUnsafeBytes { Array($0) } }

extension Array where Element: FloatingPoint {
    var allFinite: Bool { allSatisfy { $0.isFinite } }
}

/// The error that an operation throws; nil if it succeeds.
func fault(_ operation: () throws -> Void) -> SchedulerError? {
    do {
        try operation()
        return nil
    } catch let error as SchedulerError {
        return error
    } catch {
        Issue.record("\(error) is no SchedulerError")
        return nil
    }
}

/// Expects `invalidValue` for a key and a value, with allowed values whose text contains `allowed`.
func expectInvalid(
    _ key: String, _ value: String, allowed: String, sourceLocation: SourceLocation = #_sourceLocation,
    _ operation: () throws -> Void
) {
    guard case .invalidValue(let actualKey, let actualValue, let actualAllowed)? = fault(operation) else {
        Issue.record(
            "\(key) = \(value): expected invalidValue, got \(String(describing: fault(operation)))", sourceLocation: sourceLocation)
        return
    }
    #expect(actualKey == key, sourceLocation: sourceLocation)
    #expect(actualValue == value, "value of \(key)", sourceLocation: sourceLocation)
    #expect(actualAllowed.contains(allowed), "what \(key) may be", sourceLocation: sourceLocation)
}

/// A DEIS scheduler with some changed values.
func makeDEIS(_ change: (inout DEISMultistepConfiguration) -> Void = { _ in }) throws -> DEISMultistepScheduler {
    var configuration = DEISMultistepConfiguration()
    change(&configuration)
    return try DEISMultistepScheduler(configuration)
}

func makeDPMSolver(_ change: (inout DPMSolverMultistepConfiguration) -> Void = { _ in }) throws -> DPMSolverMultistepScheduler {
    var configuration = DPMSolverMultistepConfiguration()
    change(&configuration)
    return try DPMSolverMultistepScheduler(configuration)
}

/// A DDIM scheduler without the clipping that diffusers has by default.
func makeDDIM(_ change: (inout DDIMConfiguration) -> Void = { _ in }) throws -> DDIMScheduler {
    var configuration = DDIMConfiguration()
    configuration.clipSample = false
    change(&configuration)
    return try DDIMScheduler(configuration)
}

/// The spacings of a run's steps.
enum GridChoice: String, CaseIterable, Sendable {
    case linspace, leading, trailing, karras, exponential, beta, flow

    /// The grids that use the timesteps' own noise levels.
    static let plain: [Self] = [.linspace, .leading, .trailing]
    /// The grids that diffusers ends with a step from the last level to itself.
    static let repeating: [Self] = [.karras, .exponential, .beta, .flow]

    func apply(to configuration: inout DEISMultistepConfiguration) {
        switch self {
        case .linspace: configuration.timestepSpacing = .linspace
        case .leading: configuration.timestepSpacing = .leading
        case .trailing: configuration.timestepSpacing = .trailing
        case .karras: configuration.useKarrasSigmas = true
        case .exponential: configuration.useExponentialSigmas = true
        case .beta: configuration.useBetaSigmas = true
        case .flow: configuration.useFlowSigmas = true
        }
    }
}

/// A problem with a known exact solution: data drawn from a normal distribution.
///
/// A sample at the level (A, S) is normal with mean Aμ and variance A²s² + S². In y = x/A and ρ = S/A the best prediction of the
/// noise is ε = ρ (y − μ)/(s² + ρ²), and along the probability flow dy/dρ = ε the ratio (y − μ)/√(s² + ρ²) stays constant.
struct GaussianProblem {
    var mean = 0.7
    var deviation = 0.5
    /// The constant ratios of the elements.
    var ratios = [-1.75, -0.5, 0.25, 1.5]

    func spread(_ level: NoiseLevel) -> Double {
        (deviation * deviation + level.noiseToSignal * level.noiseToSignal).squareRoot()
    }

    /// The exact sample at a level.
    func sample(at level: NoiseLevel) -> [Double] {
        ratios.map { level.signalRate * (mean + $0 * spread(level)) }
    }

    func noise(in x: [Double], at level: NoiseLevel) -> [Double] {
        let variance = spread(level) * spread(level)
        return x.map { level.noiseToSignal * ($0 / level.signalRate - mean) / variance }
    }

    /// The exact model's output for a prediction type.
    func output(_ type: PredictionType, for x: [Double], at level: NoiseLevel) -> [Double] {
        let noise = noise(in: x, at: level)
        let clean = zip(x, noise).map { ($0 - level.noiseRate * $1) / level.signalRate }
        switch type {
        case .epsilon: return noise
        case .sample: return clean
        case .vPrediction: return zip(noise, clean).map { level.signalRate * $0 - level.noiseRate * $1 }
        case .flowPrediction: return zip(noise, clean).map { $0 - $1 }
        }
    }

    /// Runs a plan from the exact sample at its first level to its end.
    func run(_ plan: SamplingPlan, _ type: PredictionType = .epsilon) throws -> [Double] {
        var session = SamplingSession(plan: plan)
        var x = sample(at: plan.levels[0])
        while session.timestep != nil {
            try session.step(modelOutput: output(type, for: x, at: plan.levels[session.stepIndex]), sample: &x)
        }
        return x
    }

    /// The largest error of a run, in units of y.
    func error(of plan: SamplingPlan, _ type: PredictionType = .epsilon) throws -> Double {
        let last = plan.levels[plan.stepCount]
        return zip(try run(plan, type), sample(at: last)).map { abs($0 - $1) / last.signalRate }.max() ?? .nan
    }
}

extension SamplingSession {
    /// Takes at most `count` steps on the goldens' problem, whose model isn't linear in the sample.
    mutating func run(_ sample: inout [Float], steps count: Int = .max) throws {
        var left = count
        while left > 0, let timestep {
            try step(
                modelOutput: goldenOutput(sample, timestep: timestep), sample: &sample, batchSize: GoldenProblem.batchSize)
            left -= 1
        }
    }

    /// The result of a run from the goldens' first sample to the end.
    static func finalSample(of plan: SamplingPlan, beginIndex: Int = 0) throws -> [Float] {
        var session = SamplingSession(plan: plan, beginIndex: beginIndex)
        var sample = goldenStart
        try session.run(&sample)
        return sample
    }
}

let goldenStart = GoldenProblem.initialSample.map { Float($0) }

func goldenOutput(_ sample: [Float], timestep: Double) -> [Float] {
    sample.map { Float(GoldenProblem.model(Double($0), timestep: timestep, trainingCount: 1000)) }
}

/// A folder that exists as long as a test.
final class TemporaryFolder {
    let path: String

    init() throws {
        path = FileManager.default.temporaryDirectory.appending(path: "diffusion-scheduling-\(UUID().uuidString)").path
        try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: false)
    }

    deinit { try? FileManager.default.removeItem(atPath: path) }

    /// Writes a file, and creates its folders.
    @discardableResult
    func write(_ text: String, to name: String) throws -> String {
        let file = "\(path)/\(name)"
        try FileManager.default.createDirectory(
            atPath: (file as NSString).deletingLastPathComponent, withIntermediateDirectories: true)
        try Data(text.utf8).write(to: URL(filePath: file))
        return file
    }

    func read(_ name: String) throws -> String { try String(contentsOfFile: "\(path)/\(name)", encoding: .utf8) }

    var names: [String] { get throws { try FileManager.default.contentsOfDirectory(atPath: path).sorted() } }
}

@Suite struct FixtureTests {
    @Test func equalSeedsGiveEqualStreams() {
        var one = SeededGenerator("a", seed: 1), again = SeededGenerator("a", seed: 1), other = SeededGenerator("b", seed: 1)
        let numbers = (0..<8).map { _ in one.next() }
        #expect(numbers == (0..<8).map { _ in again.next() })
        #expect(numbers != (0..<8).map { _ in other.next() })
    }

    @Test func checksumsAreFNV1a() {
        #expect(checksum([]) == 0xCBF2_9CE4_8422_2325)
        #expect(checksum(Array("foobar".utf8)) == 0x8594_4171_F739_67E8)
    }

    /// The derivative of the exact solution, by central differences, is the predicted noise.
    @Test func gaussianSolutionSolvesTheProbabilityFlow() {
        let problem = GaussianProblem()
        for sigma in [0.1, 1, 7.5] {
            let h = 1e-5 * sigma
            let y = { (ratio: Double, level: NoiseLevel) in problem.mean + ratio * problem.spread(level) }
            let level = NoiseLevel(sigma: sigma, process: .variancePreserving)
            let above = NoiseLevel(sigma: sigma + h, process: .variancePreserving),
                below = NoiseLevel(sigma: sigma - h, process: .variancePreserving)
            let noise = problem.noise(in: problem.sample(at: level), at: level)
            for (ratio, exact) in zip(problem.ratios, noise) {
                #expect(abs((y(ratio, above) - y(ratio, below)) / (2 * h) - exact) < 1e-8)
            }
        }
    }
}
