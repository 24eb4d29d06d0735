// SPDX-License-Identifier: Apache-2.0

import Testing

@testable import DiffusionScheduling

/// Coded plans with one number changed or one term added: each is refused in words, or runs by its own arithmetic.
///
/// The oracle reads NaN from slots that nothing was stored to, so unwritten memory can't pass for a result.
@Suite struct ChangedPlanTests {
    private static let configurations = [
        #"{"_class_name": "DEISMultistepScheduler", "solver_order": 2}"#,
        #"{"_class_name": "DEISMultistepScheduler", "solver_order": 3}"#,
        #"{"_class_name": "DPMSolverMultistepScheduler", "algorithm_type": "sde-dpmsolver++"}"#,
        #"{"_class_name": "DDIMScheduler", "clip_sample": true}"#,
        #"{"_class_name": "DPMSolverMultistepScheduler", "thresholding": true, "sample_max_value": 2}"#,
    ]
    private static let streams =
        ["sample", "model_output", "noise", "prediction"] + (0..<Combination.maximumSlotCount).map { "slot_\($0)" }
    private static let combinations = [".prediction", ".next_sample", ".report"]

    private static func plan(_ configuration: String) throws -> JSONValue {
        var scheduler = try SchedulerCatalog.makeScheduler(json: configuration)
        try scheduler.setTimesteps(4)
        return try #require(scheduler.plan).json
    }

    /// Two slots and two stores in each row, a report, noise, and steps with two evaluations.
    private static func twoStores() throws -> JSONValue {
        let rows = (0..<4).map { index in
            let isFirst = index % 2 == 0
            return [
                PlanRow(
                    prediction: Combination(sample: 1.5, modelOutput: -0.5),
                    nextSample: Combination(
                        sample: 0.75, modelOutput: 0.25, noise: isFirst ? 0 : 0.125, prediction: 0.25,
                        slots: isFirst ? [] : [-0.5, 0.375]),
                    stores: [
                        PlanRow.Store(slot: 1, value: Combination(modelOutput: 1)),
                        PlanRow.Store(slot: 0, value: Combination(sample: 1, prediction: 0.5, slots: isFirst ? [] : [0, 0.25])),
                    ],
                    report: Combination(modelOutput: 0.5, prediction: 1, slots: isFirst ? [] : [0.5]))
            ]
        }
        let grid = TimestepGrid(timesteps: [999, 600, 400, 100], exactSigmas: [8, 4, 2, 1, 0], process: .variancePreserving)
        return try SamplingPlan(
            grid: grid, clamp: .range(1), slotCount: 2, warmUp: 0, steps: [0, 0, 1, 1], rows: rows
        ).json
    }

    // MARK: - Changes

    private struct Change {
        let name: String
        let plan: JSONValue
    }

    private static func changes(of plan: JSONValue) -> [Change] {
        var changes: [Change] = []
        for part in PlanFileTests.parts(plan, path: "plan", replace: { $0 ?? .null }) {
            switch part.value {
            case .number:
                changes.append(Change(name: "\(part.path) = 0.5", plan: part.replace(0.5)))
            case .object(let members):
                if isCombination(part.path) {
                    changes += additions(to: members, part.path, part.replace)
                } else if members["next_sample"] != nil, members["report"] == nil {
                    // A report isn't coded if it is p.
                    changes += additions(to: [:], "\(part.path).report") { report in
                        var row = members
                        row["report"] = report
                        return part.replace(.object(row))
                    }
                }
            default: break
            }
        }
        return changes
    }

    private static func isCombination(_ path: String) -> Bool {
        combinations.contains { path.hasSuffix($0) }
            || path.contains(".stores.slot_") && path.split(separator: ".").last!.count == 6
    }

    private static func additions(
        to members: [String: JSONValue], _ path: String, _ replace: (JSONValue?) -> JSONValue
    ) -> [Change] {
        streams.map { stream in
            var changed = members
            changed[stream] = 0.5
            return Change(name: "\(path).\(stream) = 0.5", plan: replace(.object(changed)))
        }
    }

    // MARK: - Runs

    private static let sample: [Double] = [0.5, -1, 0.25, 2, -0.75, 1.5], noise: [Double] = [1, -0.5, 0.75, 0, 2, -2]

    /// Whether a row reads noise, worked out without the library's own answer.
    private func readsNoise(_ row: PlanRow) -> Bool {
        var combinations = [row.prediction, row.nextSample] + row.stores.map(\.value)
        if let report = row.report { combinations.append(report) }
        return combinations.contains { $0.noise != 0 }
    }

    /// Runs a plan from one of its starts and compares every step with the oracle; rows that don't read noise get none.
    private func run(_ plan: SamplingPlan, from beginIndex: Int, withNoise: Bool, _ name: String) throws {
        var session = SamplingSession(plan: plan, beginIndex: beginIndex), oracle = PlainOracle(plan: plan, beginIndex: beginIndex)
        session.maximumThreads = 1
        var x = Self.sample
        for index in beginIndex..<plan.stepCount {
            let e = x.map { 0.3 * $0 - 0.1 }
            let readsNoise = readsNoise(plan.row(at: index, age: index - beginIndex))
            #expect(session.needsNoise == readsNoise, "\(name), step \(index)")
            var z: [Double]? = withNoise ? Self.noise : nil
            if readsNoise, !withNoise {
                let before = session.savedState()
                #expect(throws: SchedulerError.missingNoise(step: index), "\(name), step \(index)") {
                    try session.step(modelOutput: e, sample: x, batchSize: 2, predictingOriginalSample: true)
                }
                #expect(session.savedState() == before, "\(name), step \(index)")
                z = Self.noise
            }
            let expected = oracle.step(modelOutput: e, sample: x, noise: z, batchSize: 2)
            let output = try session.step(modelOutput: e, sample: x, noise: z, batchSize: 2, predictingOriginalSample: true)
            compare(output.nextSample, expected.nextSample, "\(name), step \(index), next sample")
            compare(try #require(output.predOriginalSample), expected.report, "\(name), step \(index), report")
            // Keeps the sample at most 2 in magnitude, whatever the change has done to it.
            let largest = output.nextSample.reduce(1) { max($0, abs($1)) }
            x = output.nextSample.map { 2 * $0 / largest }
        }
    }

    /// Inputs are at most 2, coefficients of these plans at most 200 in magnitude, and a slot passes through two of them: sums of
    /// ten terms are off by some 10 · 200² · 2 · 2⁻⁵³.
    private static let tolerance = 1e-10

    private func compare(_ found: [Double], _ expected: [Double], _ name: String) {
        for (a, b) in zip(found, expected) {
            guard abs(a - b) <= Self.tolerance || (a.isNaN && b.isNaN) else {
                Issue.record("\(name): \(a), expected \(b)")
                return
            }
        }
    }

    private func check(_ plan: JSONValue) throws {
        let changes = Self.changes(of: plan)
        #expect(changes.count > 100)
        var loaded = 0
        for change in changes {
            do throws(SchedulerError) {
                let plan = try SamplingPlan(json: change.plan)
                loaded += 1
                do {
                    for begin in 0..<plan.stepCount where plan.isStart(begin) {
                        for withNoise in [true, false] { try run(plan, from: begin, withNoise: withNoise, change.name) }
                    }
                } catch {
                    Issue.record("\(change.name) is loaded, and doesn't run: \(error)")
                }
            } catch {
                guard case .invalidValue(let key, _, let allowed) = error, key.count > 4, !allowed.isEmpty else {
                    Issue.record("\(change.name) is refused, but not in words: \(error)")
                    continue
                }
            }
        }
        #expect(loaded > changes.count / 4 && loaded < changes.count, "\(loaded) of \(changes.count) are loaded")
    }

    @Test(arguments: configurations) func refusedOrRunsAsItSays(configuration: String) throws {
        try check(Self.plan(configuration))
    }

    @Test func refusedOrRunsAsItSaysWithTwoStores() throws { try check(Self.twoStores()) }

    /// Noise that only a store reads must be asked for. A step once loaded it unasked, from no valid address.
    @Test func noiseInStoresIsAskedFor() throws {
        var plan = try Self.plan(Self.configurations[0])
        for index in 0..<4 {
            for age in 0...min(index, 1) {
                let path = "plan.evaluations[\(index)].rows[\(age)].stores.slot_0"
                let parts = PlanFileTests.parts(plan, path: "plan") { $0 ?? .null }
                let store = try #require(parts.first { $0.path == path }, "\(path) is missing")
                guard case .object(var members) = store.value else { continue }
                members["noise"] = 0.5
                plan = store.replace(.object(members))
            }
        }
        let loaded = try SamplingPlan(json: plan)
        #expect(loaded.isStochastic)
        for begin in 0..<4 {
            for index in begin..<4 { #expect(loaded.needsNoise(at: index, age: index - begin)) }
            try run(loaded, from: begin, withNoise: false, "noise in stores")
            try run(loaded, from: begin, withNoise: true, "noise in stores")
        }
    }
}
