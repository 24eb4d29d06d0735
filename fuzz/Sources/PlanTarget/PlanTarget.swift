// SPDX-License-Identifier: Apache-2.0

import DiffusionScheduling
import Foundation

/// Decodes a plan as JSON. A plan that loads must survive encoding and run, with noise and without, by its own arithmetic.
///
/// - Returns: 1 if the plan loads, else 0.
@_cdecl("fuzz_plan")
public func fuzzPlan(_ data: UnsafePointer<UInt8>?, _ size: Int) -> Int32 {
    let decoder = JSONDecoder(), encoder = JSONEncoder()
    guard let plan = try? decoder.decode(SamplingPlan.self, from: Data(UnsafeRawBufferPointer(start: data, count: size))) else {
        return 0
    }
    guard let text = try? encoder.encode(plan), let again = try? decoder.decode(SamplingPlan.self, from: text), again == plan else {
        fatalError("a plan doesn't survive encoding")
    }
    precondition(plan.sigmas.count == plan.stepCount + 1 && plan.levels.count == plan.stepCount + 1)
    precondition(plan.sigmas.allSatisfy { $0.isFinite } && plan.timesteps.allSatisfy { $0.isFinite })

    runAndSave(plan, again)
    for begin in 0..<min(plan.stepCount, 3) where plan.isStart(begin) {
        for withNoise in [true, false] {
            var run = CheckedRun(plan: plan, beginIndex: begin, withNoise: withNoise)
            run.run()
        }
    }
    return 1
}

/// Runs a plan on samples with an infinity and a NaN, and saves and restores the session after each step.
private func runAndSave(_ plan: SamplingPlan, _ again: SamplingPlan) {
    var session = SamplingSession(plan: plan)
    session.maximumThreads = 1
    var sample: [Float] = [0.5, -1, 0, 2, .infinity, .nan]
    let noise: [Float] = [1, -1, 0.5, 0, 2, -2]
    let needsVariance = (0..<plan.stepCount).contains { plan.row(at: $0, age: $0).needsVariance }
    let doubled = plan.modelLearnsVariance && (needsVariance || plan.stepCount % 2 == 1)
    for _ in 0..<min(plan.stepCount, 4) {
        do {
            let output = doubled ? sample + sample : sample
            try session.step(modelOutput: output, sample: &sample, noise: noise, batchSize: 2)
            let saved = session.savedState()
            guard try SamplingSession(plan: again, restoring: saved).savedState() == saved else {
                fatalError("a session doesn't survive saving")
            }
        } catch {
            fatalError("a valid plan doesn't run: \(error)")
        }
    }
}

/// A run whose steps are compared with the sums in the plan's rows, computed in plain loops.
///
/// run.sh makes the allocator fill memory with NaN patterns, and the variance is NaN for rows that don't use it: a read of the
/// wrong memory makes the result NaN.
private struct CheckedRun {
    private let plan: SamplingPlan
    private let beginIndex: Int
    private let withNoise: Bool
    private var slots: [Estimates?]

    init(plan: SamplingPlan, beginIndex: Int, withNoise: Bool) {
        self.plan = plan
        self.beginIndex = beginIndex
        self.withNoise = withNoise
        slots = Array(repeating: nil, count: plan.slotCount)
    }

    mutating func run() {
        var session = SamplingSession(plan: plan, beginIndex: beginIndex)
        session.maximumThreads = 1
        for index in beginIndex..<min(plan.stepCount, beginIndex + 4) {
            let sample = [0.5, -1, 0.25, 2, -0.75, 1.5 + Double(index)], output = sample.map { 0.3 * $0 - 0.1 }
            let row = plan.row(at: index, age: index - beginIndex)
            let combinations = [row.prediction, row.nextSample] + row.stores.map(\.value) + (row.report.map { [$0] } ?? [])
            let readsNoise = combinations.contains { $0.noise != 0 }
            precondition(session.needsNoise == readsNoise, "evaluation \(index) isn't asked for its noise")
            var noise: [Double]? = withNoise ? [1, -0.5, 0.75, 0, 2, -2] : nil
            if readsNoise, !withNoise {
                let before = session.savedState()
                do {
                    _ = try step(&session, output, row, sample, nil)
                    fatalError("evaluation \(index) reads noise, and runs without it")
                } catch SchedulerError.missingNoise {
                    precondition(session.savedState() == before, "evaluation \(index) is refused, and has changed the session")
                } catch {
                    fatalError("evaluation \(index) without noise: \(error)")
                }
                noise = [1, -0.5, 0.75, 0, 2, -2]
            }
            let expected = evaluate(row, output, sample, noise)
            do {
                let found = try step(&session, output, row, sample, noise)
                compare(found.nextSample, expected.nextSample, "next sample of evaluation \(index)")
                compare(found.predOriginalSample!, expected.report, "report of evaluation \(index)")
            } catch {
                fatalError("evaluation \(index): \(error)")
            }
        }
    }

    private func step(
        _ session: inout SamplingSession, _ output: [Double], _ row: PlanRow, _ sample: [Double], _ noise: [Double]?
    ) throws -> SchedulerOutput<Double> {
        let variance = row.needsVariance ? Self.variance : [Double](repeating: .nan, count: 6)
        let output = plan.modelLearnsVariance ? output[..<3] + variance[..<3] + output[3...] + variance[3...] : output[...]
        return try session.step(
            modelOutput: Array(output), sample: sample, noise: noise, batchSize: 2, predictingOriginalSample: true)
    }

    private func compare(_ found: [Double], _ expected: Estimates, _ name: String) {
        for (found, expected) in zip(found, expected) where expected.error.isFinite && expected.value.isFinite {
            precondition(abs(found - expected.value) <= expected.error, "\(name) is \(found), not \(expected.value)")
        }
    }

    // MARK: - Sums of a row

    private mutating func evaluate(
        _ row: PlanRow, _ output: [Double], _ sample: [Double], _ noise: [Double]?
    ) -> (nextSample: Estimates, report: Estimates) {
        let exact = { (values: [Double]) in values.map { Estimate(value: $0, error: 0) } }
        var streams: [DiffusionScheduling.Stream: Estimates] = [.sample: exact(sample), .modelOutput: exact(output)]
        if let noise { streams[.noise] = row.needsVariance ? scaled(noise, by: row.noiseFactor) : exact(noise) }
        for (slot, tensor) in slots.enumerated() { streams[.slot(slot)] = tensor }
        let prediction = clamp(sum(row.prediction, streams))
        streams[.prediction] = prediction
        let nextSample = sum(row.nextSample, streams), report = row.report.map { sum($0, streams) } ?? prediction
        let stored = row.stores.map { (slot: $0.slot, tensor: sum($0.value, streams)) }
        for store in stored { slots[store.slot] = store.tensor }
        return (nextSample, report)
    }

    /// The model's variance.
    private static let variance = [0.5, -0.25, 2, 0, 1, -1]

    private func scaled(_ noise: [Double], by factor: NoiseFactor) -> Estimates {
        zip(noise, Self.variance).map { noise, variance in
            switch factor {
            case .none: return Estimate(value: noise, error: 0)
            case .root: return Estimate(value: noise * max(variance, 0).squareRoot(), error: 0x1p-48 * abs(noise) * 2)
            case .exponential(let offset, let slope):
                let value = noise * exp(offset + slope * variance)
                // The exponential multiplies its argument's rounding errors.
                return Estimate(value: value, error: abs(value) * 0x1p-48 * (1 + abs(offset) + abs(slope * variance)) + 1e-300)
            }
        }
    }

    private func sum(_ combination: Combination, _ streams: [DiffusionScheduling.Stream: Estimates]) -> Estimates {
        var sums = Estimates(repeating: Estimate(value: 0, error: 1e-300), count: 6)
        for (stream, coefficient) in combination.terms {
            guard let tensor = streams[stream] else { fatalError("\(stream) is read, and isn't there") }
            for i in sums.indices {
                let term = coefficient * tensor[i].value
                sums[i].value += term
                sums[i].error += 0x1p-48 * abs(term) + abs(coefficient) * tensor[i].error
            }
        }
        return sums
    }

    private func clamp(_ prediction: Estimates) -> Estimates {
        switch plan.clamp {
        case .none: return prediction
        case .range(let limit):
            return prediction.map { Estimate(value: min(max($0.value, -limit), limit), error: $0.error) }
        case .dynamicThreshold(let ratio, let maximum):
            return [0..<3, 3..<6].flatMap { range in
                let item = prediction[range], sorted = item.map { abs($0.value) }.sorted(), rank = ratio * 2
                let lower = sorted[Int(rank)], upper = sorted[min(Int(rank) + 1, 2)]
                let s = min(max(lower + (rank - rank.rounded(.down)) * (upper - lower), 1), maximum)
                let error = item.map(\.error).max()! + 0x1p-48 * upper
                return item.map { p in
                    // A quotient can't be bounded if its threshold is far off.
                    Estimate(
                        value: min(max(p.value, -s), s) / s, error: error < s / 4 ? 0x1p-48 + 4 * (p.error + error) / s : .infinity)
                }
            }
        }
    }
}

/// A number, and a bound on the library's distance from it.
private struct Estimate {
    var value: Double
    var error: Double
}

private typealias Estimates = [Estimate]
