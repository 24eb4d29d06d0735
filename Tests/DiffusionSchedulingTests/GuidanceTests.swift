// SPDX-License-Identifier: Apache-2.0

import Testing

@testable import DiffusionScheduling

/// A guided step against the separate passes that it replaces.
@Suite struct GuidanceTests {
    static let batchSize = 3

    /// Schedulers of every clamp, with and without history, deterministic and not.
    static func plans() throws -> [(name: String, plan: SamplingPlan)] {
        [
            ("DEIS", try makeDEIS { $0.solverOrder = 3 }.plan(.count(7))),
            ("DEIS, thresholds", try makeDEIS { ($0.thresholding, $0.dynamicThresholdingRatio) = (true, 0.8) }.plan(.count(7))),
            ("DPM-Solver++ with noise", try makeDPMSolver { $0.algorithmType = .sdeDPMSolverPlusPlus }.plan(.count(7))),
            ("DDIM, clipped", try makeDDIM { ($0.clipSample, $0.clipSampleRange) = (true, 1.5) }.plan(.count(7))),
        ]
    }

    /// e_u + g (e_c − e_u), rescaled for each batch item, as the papers define it.
    static func guided(_ c: [Double], _ u: [Double], _ guidance: Guidance) -> [Double] {
        var e = zip(c, u).map { $1 + guidance.scale * ($0 - $1) }
        func deviation(_ values: ArraySlice<Double>) -> Double {
            let mean = values.reduce(0, +) / Double(values.count)
            return (values.map { ($0 - mean) * ($0 - mean) }.reduce(0, +) / Double(values.count)).squareRoot()
        }
        let count = e.count / batchSize
        for item in 0..<batchSize {
            let range = item * count..<(item + 1) * count
            let factor = guidance.rescale * deviation(c[range]) / deviation(e[range]) + 1 - guidance.rescale
            for index in range { e[index] *= factor }
        }
        return e
    }

    @Test(arguments: [
        Guidance(scale: 7.5), Guidance(scale: 0), Guidance(scale: -2), Guidance(scale: 3, rescale: 0.7),
        Guidance(scale: 9, rescale: 1),
    ])
    func equalsTheSeparatePasses(guidance: Guidance) throws {
        var random = SeededGenerator("guidance \(guidance)")
        for (name, plan) in try Self.plans() {
            var session = SamplingSession(plan: plan), separate = session
            var x = (0..<60).map { _ in Double.random(in: -2...2, using: &random) }, y = x
            while session.timestep != nil {
                let c = x.map { $0 * 0.3 + .random(in: -1...1, using: &random) }
                let u = x.map { $0 * 0.2 + .random(in: -1...1, using: &random) }
                let noise = x.map { _ in Double.random(in: -1...1, using: &random) }
                try session.step(
                    conditional: c, unconditional: u, guidance: guidance, sample: &x, noise: noise, batchSize: Self.batchSize)
                try separate.step(
                    modelOutput: Self.guided(c, u, guidance), sample: &y, noise: noise, batchSize: Self.batchSize)
                let difference = zip(x, y).map { abs($0 - $1) / max(1, abs($1)) }.max()!
                #expect(difference < 1e-11, "\(name), step \(session.stepIndex - 1)")
            }
        }
    }

    /// Scale 1 reads the conditional output alone, and has a plain step's bits.
    @Test func scaleOfOne() throws {
        for (name, plan) in try Self.plans() {
            var session = SamplingSession(plan: plan), plain = session
            var x = (0..<60).map { Float($0 % 7) / 3 - 1 }, y = x
            while session.timestep != nil {
                let c = x.map { $0 * 0.4 - 0.1 }, noise = x.map { -$0 }
                try session.step(
                    conditional: c, unconditional: x.map { _ in .nan }, guidance: Guidance(scale: 1), sample: &x, noise: noise,
                    batchSize: Self.batchSize)
                try plain.step(modelOutput: c, sample: &y, noise: noise, batchSize: Self.batchSize)
                #expect(bits(x) == bits(y), "\(name)")
            }
        }
    }

    /// Half-precision model outputs with a float32 sample: no intermediate result is rounded to the half type.
    @Test func halfOutputs() throws {
        let plan = try makeDEIS { $0.solverOrder = 2 }.plan(.count(5))
        var random = SeededGenerator("guided halves")
        var session = SamplingSession(plan: plan), oracle = PlainOracle(plan: plan)
        // A step's error is proportional to its terms, and the two outputs' terms are larger than their difference e.
        var sizes = PlainOracle(plan: plan)
        var x = (0..<200).map { _ in Float.random(in: -2...2, using: &random) }
        let guidance = Guidance(scale: 12.5)
        while let timestep = session.timestep {
            let c = x.map { _ in Float16.random(in: -1...1, using: &random) }
            let u = x.map { _ in Float16.random(in: -1...1, using: &random) }
            let before = x.map(Double.init)
            var span = x.mutableSpan
            try session.step(conditional: c.span, unconditional: u.span, guidance: guidance, sample: &span)

            let exact = oracle.step(
                modelOutput: Self.guided(c.map(Double.init), u.map(Double.init), guidance), sample: before)
            let size = sizes.step(
                modelOutput: zip(c, u).map { abs(guidance.scale * Double($0)) + abs((1 - guidance.scale) * Double($1)) },
                sample: before)
            for i in x.indices {
                let bound = Tolerance.float32Step(terms: exact.terms, magnitude: size.magnitudes[i])
                #expect(abs(Double(x[i]) - exact.nextSample[i]) <= bound, "element \(i) at timestep \(timestep)")
            }
        }
    }

    /// Outputs with a variance: only the first half of each batch item counts, in both outputs and in the deviations.
    @Test func learnedVariance() throws {
        let plan = try makeDPMSolver { $0.varianceType = "learned_range" }.plan(.count(4))
        var random = SeededGenerator("guided variances")
        let guidance = Guidance(scale: 4, rescale: 0.5)
        var session = SamplingSession(plan: plan), plain = session
        var x = (0..<30).map { _ in Double.random(in: -2...2, using: &random) }, y = x
        while session.timestep != nil {
            let c = x.map { _ in Double.random(in: -1...1, using: &random) }
            let u = x.map { _ in Double.random(in: -1...1, using: &random) }
            func withVariances(_ e: [Double]) -> [Double] {
                (0..<Self.batchSize).flatMap { item in e[item * 10..<(item + 1) * 10] + Array(repeating: .nan, count: 10) }
            }
            try session.step(
                conditional: withVariances(c), unconditional: withVariances(u), guidance: guidance, sample: &x,
                batchSize: Self.batchSize)
            try plain.step(conditional: c, unconditional: u, guidance: guidance, sample: &y, batchSize: Self.batchSize)
            #expect(bits(x) == bits(y))
        }
    }

    /// A constant item has no deviation to be rescaled to.
    @Test func constantOutputs() throws {
        let plan = try makeDDIM { $0.clipSample = false }.plan(.count(3))
        var session = SamplingSession(plan: plan), plain = session
        var x = [Double](repeating: 0.5, count: 8), y = x
        let c = [Double](repeating: 0.25, count: 8), u = [Double](repeating: -0.5, count: 8)
        try session.step(conditional: c, unconditional: u, guidance: Guidance(scale: 2, rescale: 0.9), sample: &x)
        try plain.step(conditional: c, unconditional: u, guidance: Guidance(scale: 2), sample: &y)
        #expect(bits(x) == bits(y) && x.allFinite)
    }

    @Test func errorsChangeNothing() throws {
        var session = SamplingSession(plan: try makeDEIS { $0.solverOrder = 2 }.plan(.count(3)))
        var x: [Float] = [1, 2, 3, 4]
        let c: [Float] = [1, 1, 2, 2]
        func expectFault(_ expected: SchedulerError, unconditional: [Float] = c, _ guidance: Guidance) {
            let before = x
            let actual = fault {
                try session.step(conditional: c, unconditional: unconditional, guidance: guidance, sample: &x)
            }
            #expect(actual == expected)
            #expect(x == before && session.stepIndex == 0 && session.elementType == nil)
        }
        for scale in [Double.nan, .infinity, -.infinity] {
            expectFault(.invalidValue(key: "guidance scale", value: "\(scale)", allowed: "finite"), Guidance(scale: scale))
        }
        for rescale in [-0.1, 1.1, .nan] {
            expectFault(
                .invalidValue(key: "guidance rescale", value: "\(rescale)", allowed: "from 0 to 1"),
                Guidance(scale: 2, rescale: rescale))
        }
        expectFault(
            .wrongElementCount(argument: "unconditional", count: 3, expected: "4, like conditional"),
            unconditional: [1, 2, 3], Guidance(scale: 2))
    }

    /// Guidance through the scheduler protocol.
    @Test func schedulers() throws {
        var scheduler = try makeDEIS { $0.solverOrder = 2 }
        try scheduler.setTimesteps(4)
        var session = SamplingSession(plan: scheduler.plan!)
        var x: [Float] = [1, -2, 3], y = x
        for timestep in scheduler.timesteps {
            let c = x.map { $0 * 0.5 }, u = x.map { $0 * 0.25 }
            try scheduler.step(
                conditional: c, unconditional: u, guidance: Guidance(scale: 3), timestep: timestep, sample: &x)
            try session.step(conditional: c, unconditional: u, guidance: Guidance(scale: 3), sample: &y)
        }
        #expect(bits(x) == bits(y))
    }
}
