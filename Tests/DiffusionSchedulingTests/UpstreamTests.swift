// SPDX-License-Identifier: Apache-2.0

import DiffusionScheduling
import Testing

/// The constants that diffusers' own tests of DEIS assert, with its dummy model, and the oracle's elements for the same loops.
@Suite struct UpstreamTests {
    static let count = 4 * 3 * 8 * 8

    /// Shape (4, 3, 8, 8): element [b, c, h, w] is j/768 with j = ((8c + h)·8 + w)·4 + b.
    static func pattern(_ value: (Int) -> Double) -> [Double] {
        (0..<count).map { position in
            let (item, rest) = (position / 192, position % 192)
            return value(rest * 4 + item)
        }
    }

    static let sample = pattern { Double($0) / 768 }
    static let noise = pattern { Double(767 - $0) / 768 }

    static func model(_ x: [Double], _ timestep: Double) -> [Double] { x.map { $0 * timestep / (timestep + 1) } }

    static func run(_ change: (inout DEISMultistepConfiguration) -> Void = { _ in }) throws -> [Double] {
        var scheduler = try makeDEIS(change)
        return try DiffusionSchedulingTests.sample(from: sample, with: &scheduler, steps: 10, model: model)
    }

    static func mean(_ x: [Double]) -> Double { x.map { abs($0) }.reduce(0, +) / Double(x.count) }

    /// The mean of a float32 loop that draws noise with a generator of seed 0.
    static func meanWithNoise(_ scheduler: inout some PlannedScheduler, steps: Int) throws -> Double {
        try scheduler.setTimesteps(steps)
        var generator = TorchCPUNoise(seed: 0), x = sample.map { Float($0) }
        for timestep in scheduler.timesteps {
            let factor = Float(timestep) / Float(timestep + 1)
            try scheduler.step(
                modelOutput: x.map { $0 * factor }, timestep: timestep, sample: &x, generator: &generator, batchSize: 4)
        }
        return mean(x.map { Double($0) })
    }

    @Test func theFixtureIsUpstreams() {
        #expect(Self.sample[3 * 192 + 2 * 64 + 7 * 8 + 7] == 767.0 / 768)
        #expect(Self.sample[1] == 4.0 / 768 && Self.sample[192] == 1.0 / 768)
    }

    struct Case: Sendable, CustomTestStringConvertible {
        let testDescription: String
        var asserted: Double?
        let oracle: Double
        var element: Double?
        let change: @Sendable (inout DEISMultistepConfiguration) -> Void
    }

    static let cases: [Case] = [
        Case(testDescription: "full loop", asserted: 0.23916, oracle: 0.239162207, element: 0.478324473) { _ in },
        Case(testDescription: "v_prediction", asserted: 0.091, oracle: 0.091072634, element: 0.182145238) {
            $0.predictionType = .vPrediction
        },
        Case(testDescription: "order 1", oracle: 0.224302319) { $0.solverOrder = 1 },
        Case(testDescription: "order 3", oracle: 0.241639826) { $0.solverOrder = 3 },
        Case(testDescription: "karras", oracle: 0.245786466) { $0.useKarrasSigmas = true },
        Case(testDescription: "exponential", oracle: 0.245985996) { $0.useExponentialSigmas = true },
        Case(testDescription: "beta", oracle: 0.057677348) { $0.useBetaSigmas = true },
    ]

    @Test(arguments: cases) func meansAreUpstreams(_ expected: Case) throws {
        let x = try Self.run(expected.change)
        if let asserted = expected.asserted { #expect(abs(Self.mean(x) - asserted) < 1e-3) }
        #expect(abs(Self.mean(x) - expected.oracle) <= Tolerance.upstreamLoop, "\(Self.mean(x))")
        if let element = expected.element {
            #expect(abs(x[3 * 192 + 2 * 64 + 7 * 8 + 7] - element) <= Tolerance.upstreamLoop)
        }
    }

    @Test func aLoopFromANoisedSampleIsUpstreams() throws {
        var scheduler = try makeDEIS()
        try scheduler.setTimesteps(10)
        var x = try scheduler.addNoise(Self.noise, to: Self.sample, timesteps: [scheduler.timesteps[8]])
        for timestep in scheduler.timesteps[8...] {
            try scheduler.step(modelOutput: Self.model(x, timestep), timestep: timestep, sample: &x)
        }
        let sum = Self.mean(x) * Double(Self.count)
        #expect(abs(sum - 315.3016) < 1e-2 && abs(Self.mean(x) - 0.41054) < 1e-3)
        #expect(abs(sum - 315.301651) <= Tolerance.upstreamLoop * sum)
    }

    /// Upstream switches from DEIS through other multistep schedulers back to DEIS.
    @Test func switchingThereAndBackIsUpstreamsLoop() throws {
        let there = try NeighbourConfiguration(from: DEISMultistepConfiguration())
        var back = try DEISMultistepScheduler(from: there)
        let x = try DiffusionSchedulingTests.sample(from: Self.sample, with: &back, steps: 10, model: Self.model)
        #expect(bits(x) == bits(try Self.run()))
    }

    /// Upstream's combinations of order, solver type and prediction type; none gives NaN, and all solver types are equivalent.
    @Test func everyCombinationIsANumber() throws {
        for order in [1, 2, 3] {
            for type in [PredictionType.epsilon, .vPrediction] {
                for lowerOrderFinal in [false, true] {
                    let x = try Self.run {
                        ($0.solverOrder, $0.predictionType, $0.lowerOrderFinal) = (order, type, lowerOrderFinal)
                    }
                    #expect(x.allFinite, "order \(order), \(type)")
                }
            }
        }
    }

    /// Upstream's table of steps: none fails, and a scheduler loaded from its saved configuration gives the same samples.
    @Test func savedAndLoadedSchedulersStepTheSame() throws {
        let folder = try TemporaryFolder()
        let changes: [@Sendable (inout DEISMultistepConfiguration) -> Void] = [
            { $0.numTrainTimesteps = 100 }, { ($0.betaStart, $0.betaEnd) = (0.01, 0.05) }, { $0.betaSchedule = .squaredcosCapV2 },
            { ($0.thresholding, $0.sampleMaxValue) = (true, 2) }, { $0.useExponentialSigmas = true }, { $0.solverOrder = 3 },
        ]
        for (index, change) in changes.enumerated() {
            var original = try makeDEIS(change)
            try original.configuration.save(toDirectory: folder.path)
            var loaded = try DEISMultistepScheduler(contentsOf: folder.path)
            let model = { (x: [Double], _: Double) in x.map { 0.1 * $0 } }
            let x = try DiffusionSchedulingTests.sample(from: Self.sample, with: &original, steps: 10, model: model)
            let y = try DiffusionSchedulingTests.sample(from: Self.sample, with: &loaded, steps: 10, model: model)
            #expect(x.allFinite && bits(x) == bits(y), "change \(index)")
        }
    }
}
