// SPDX-License-Identifier: Apache-2.0

import CBareLoop
import DiffusionScheduling
import Foundation

/// Many sessions, each a row of one tensor, stepped together.
struct SessionsResult: Codable {
    enum Kind: String, Codable, CaseIterable {
        case differentTimesteps = "one call, different timesteps"
        case oneTimestep = "one call, one timestep"
        case singleCalls = "single calls"
    }

    let kind: Kind
    let rows, elementsPerRow, threads: Int
    /// The time of a step of all rows.
    let time: Timing
    let bytes: Int
    /// The time relative to one call for rows at one timestep, and to separate calls for all rows; lower deciles.
    let ofOneTimestep, ofSingleCalls: Double
    let allocations: Double?
    let repeatedRounds: Int
    let isDisturbed: Bool

    var name: String { "sessions/\(rows)/\(elementsPerRow)/\(threads)/\(kind.rawValue)" }
}

/// Rows of many sessions, measured together.
struct SessionsGroup {
    static let rows = 256, elementsPerRow = 16_384

    let threads: Int
    private let kinds: [SessionsResult.Kind]

    init(threads: Int, wants: (String) -> Bool) {
        self.threads = threads
        // The kinds are measured only together, since each is a reference for the others.
        let names = SessionsResult.Kind.allCases.map { "sessions/\(Self.rows)/\(Self.elementsPerRow)/\(threads)/\($0.rawValue)" }
        kinds = names.contains(where: wants) ? SessionsResult.Kind.allCases : []
    }

    func run(effort: MeasurementEffort) throws -> [SessionsResult] {
        if kinds.isEmpty { return [] }
        let plan = try DEISMultistepScheduler(.with { $0.solverOrder = 3 }).plan(.count(SessionRowsStepper.stepCount))
        let stepCase = StepCase(scheduler: "DEIS", order: 3, plan: plan)
        for data in DataKind.allCases { try verify(stepCase, data) }
        let steppers = kinds.map { SessionRowsStepper(stepCase, kind: $0, threads: threads, data: .random) }
        let measurement = try Measurement.repeatedIfDisturbed(steppers, effort: effort, threads: threads, caches: .cold)
        func decile(_ kind: SessionsResult.Kind) -> Double {
            measurement.outcomes[kinds.firstIndex(of: kind)!].timing.lowerDecile
        }
        return zip(kinds, measurement.outcomes).map { kind, outcome in
            SessionsResult(
                kind: kind, rows: Self.rows, elementsPerRow: Self.elementsPerRow, threads: threads, time: outcome.timing,
                bytes: (stepCase.inputs.count + stepCase.outputCount(.inPlace)) * Self.rows * Self.elementsPerRow * 4,
                ofOneTimestep: outcome.timing.lowerDecile / decile(.oneTimestep),
                ofSingleCalls: outcome.timing.lowerDecile / decile(.singleCalls), allocations: outcome.allocationsPerStep,
                repeatedRounds: measurement.repeatedRounds, isDisturbed: measurement.isDisturbed)
        }
    }

    /// Compares every row of every kind with the plain oracle, and the kinds with single calls on sessions at the same timesteps.
    private func verify(_ stepCase: StepCase, _ data: DataKind) throws {
        for kind in kinds {
            let stepper = SessionRowsStepper(stepCase, kind: kind, threads: threads, data: data)
            stepper.restart()
            var oracles = (0..<Self.rows).map { StepOracle<Float, Float>(stepCase, beginIndex: stepper.beginIndex(of: $0)) }
            for step in 0..<stepCase.plan.warmUp + 2 {
                let before = Tensor<Float>(stepper.sample.elements), output = stepper.output(step: step)
                try stepper.run(steps: 1)
                for row in 0..<Self.rows {
                    let range = row * Self.elementsPerRow..<(row + 1) * Self.elementsPerRow
                    let rowOutput = UnsafeBufferPointer(rebasing: output[range])
                    // DEIS stores the model output itself, so only the use of the stored outputs is compared between the rows of a
                    // call.
                    let error = oracles[row].error(
                        of: Tensor(stepper.sample.elements[range]), slot: { _ in Tensor(rowOutput) },
                        sample: Tensor(before.elements[range]), modelOutput: rowOutput, unconditional: nil, noise: nil)
                    guard error <= 0.5 + Double(stepCase.inputs.count) / 32 else {
                        throw BenchmarkFailure(
                            "\(kind.rawValue), \(data.rawValue) data, row \(row), step \(step): off by \(error) units")
                    }
                }
            }
        }
    }
}

/// Rows of sessions, stepped in one call or in one call each.
final class SessionRowsStepper: Contestant {
    /// Enough steps for rows to begin at different ones and to run for some time.
    static let stepCount = 250
    private static let spread = 128

    private let kind: SessionsResult.Kind
    private let plan: SamplingPlan
    private let threads: Int
    private let start: Tensor<Float>
    private let outputs: Tensor<Float>
    private static let outputCount = 4, outputOffset = 64
    let sample: Tensor<Float>
    private var sessions: [SamplingSession?] = []
    private var step = 0

    init(_ stepCase: StepCase, kind: SessionsResult.Kind, threads: Int, data: DataKind) {
        self.kind = kind
        plan = stepCase.plan
        self.threads = threads
        let count = SessionsGroup.rows * SessionsGroup.elementsPerRow
        start = Tensor(count: count)
        sample = Tensor(count: count)
        outputs = Tensor(count: count + (Self.outputCount - 1) * Self.outputOffset)
        data.fill(start, seed: 1)
        data.fill(outputs, seed: 2)
    }

    /// Neighbouring rows are far apart in their runs, as when requests come and go.
    func beginIndex(of row: Int) -> Int { kind == .oneTimestep ? Self.spread / 2 : row * 37 % Self.spread }

    func output(step: Int) -> UnsafeBufferPointer<Float> {
        let begin = step % Self.outputCount * Self.outputOffset
        return UnsafeBufferPointer(rebasing: outputs.elements[begin..<begin + sample.count])
    }

    func restart() {
        sessions = (0..<SessionsGroup.rows).map { row in
            var session = SamplingSession(plan: plan, beginIndex: beginIndex(of: row))
            session.maximumThreads = threads
            return session
        }
        step = 0
        sample.copy(from: start)
    }

    func prepare(steps: Int) throws {
        if !sessions.isEmpty, step + steps + Self.spread < Self.stepCount { return }
        restart()
        try run(steps: plan.warmUp + 1)
    }

    func run(steps: Int) throws {
        for _ in 0..<steps {
            let output = output(step: step)
            if kind == .singleCalls {
                for row in sessions.indices {
                    let range = row * SessionsGroup.elementsPerRow..<(row + 1) * SessionsGroup.elementsPerRow
                    var span = UnsafeMutableBufferPointer(rebasing: sample.elements[range]).mutableSpan
                    try sessions[row]!.step(modelOutput: UnsafeBufferPointer(rebasing: output[range]).span, sample: &span)
                }
            } else {
                var span = sample.elements.mutableSpan
                try SamplingSession.step(rows: &sessions, modelOutput: output.span, sample: &span, maximumThreads: threads)
            }
            step += 1
        }
    }
}
