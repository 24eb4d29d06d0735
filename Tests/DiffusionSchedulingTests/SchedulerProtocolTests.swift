// SPDX-License-Identifier: Apache-2.0

import DiffusionScheduling
import Testing

// Everything here uses the library's public names only, as a user of the library would.

/// A third party's scheduler from the ground up: Euler's method in dx/dς = ε, in the variance-exploding convention, which scales
/// the model's input to x/√(1 + ς²) (Karras et al. 2022, algorithm 1 without churn).
struct ThirdPartyEuler: Scheduler {
    struct Configuration: SchedulerConfiguration {
        static let className = "ThirdPartyEuler"
        static let compatibleClassNames: [String] = []
        static var parameters: [ConfigurationParameter<Self>] { [.init("greatest", \.greatest), .init("least", \.least)] }
        var greatest = 10.0
        var least = 0.1
        var origin = ConfigurationOrigin()
        func validate() throws(SchedulerError) {}
    }

    var configuration = Configuration()
    private(set) var timesteps: [Double] = [3, 2, 1]
    private var sigmas: [Double] = []
    private var index = 0

    var initNoiseSigma: Double { configuration.greatest }

    mutating func setTimesteps(_ count: Int) throws(SchedulerError) {
        guard count > 0 else { throw .invalidValue(key: "number of steps", value: "\(count)", allowed: "at least 1") }
        timesteps = (0..<count).map { Double(count - $0) }
        let slope = (configuration.greatest - configuration.least) / Double(count)
        sigmas = (0...count).map { configuration.greatest - slope * Double($0) }
        index = 0
    }

    func scaleModelInput<Element: TensorElement>(
        _ sample: inout MutableSpan<Element>, timestep: Double
    ) throws(SchedulerError) {
        let sigma = sigmas[timesteps.firstIndex(of: timestep) ?? 0]
        Self.update(&sample) { _, x in x / (1 + sigma * sigma).squareRoot() }
    }

    mutating func step<Element: TensorElement>(
        modelOutput: Span<Element>, timestep: Double, sample: inout MutableSpan<Element>, noise: Span<Element>?, batchSize: Int
    ) throws(SchedulerError) {
        guard index < timesteps.count else { throw .stepPastEnd(stepCount: timesteps.count) }
        let width = sigmas[index + 1] - sigmas[index]
        let output = (0..<modelOutput.count).map { Self.number(modelOutput[$0]) }
        Self.update(&sample) { i, x in x + width * output[i] }
        index += 1
    }

    func addNoise<Element: TensorElement>(
        _ noise: Span<Element>, to sample: inout MutableSpan<Element>, timesteps: [Double]
    ) throws(SchedulerError) {
        let sigma = sigmas[self.timesteps.firstIndex(of: timesteps[0]) ?? 0]
        let noise = (0..<noise.count).map { Self.number(noise[$0]) }
        Self.update(&sample) { i, x in x + sigma * noise[i] }
    }

    private static func number<Element: TensorElement>(_ element: Element) -> Double {
        (element as? Double) ?? Double(element as! Float)
    }

    private static func update<Element: TensorElement>(_ sample: inout MutableSpan<Element>, _ change: (Int, Double) -> Double) {
        for i in 0..<sample.count {
            let x = change(i, number(sample[i]))
            sample[i] = (x as? Element) ?? (Float(x) as! Element)
        }
    }
}

/// A third party's scheduler that makes plans: stochastic, with its own clamp, run by the library's sessions.
struct ThirdPartyPlanned: PlannedScheduler {
    let configuration: NeighbourConfiguration
    let noiseSchedule: NoiseSchedule
    var session: SamplingSession?

    init(_ configuration: NeighbourConfiguration) throws(SchedulerError) {
        try configuration.validate()
        self.configuration = configuration
        var schedule = DEISMultistepConfiguration()
        schedule.numTrainTimesteps = configuration.numTrainTimesteps
        noiseSchedule = try NoiseSchedule(schedule)
    }

    /// x' = (x + e + p)/4 + z/2 with p = clamp(x − e) to ±1; the last step has no noise.
    func plan(_ request: TimestepRequest) throws(SchedulerError) -> SamplingPlan {
        guard case .count(let count, _) = request else {
            throw .invalidValue(key: "request", value: "\(request)", allowed: "a number of steps")
        }
        let timesteps = (0..<count).map { Double(count - $0) }
        let rows = (0..<count).map { index in
            [
                PlanRow(
                    prediction: Combination(sample: 1, modelOutput: -1),
                    nextSample: Combination(
                        sample: 0.25, modelOutput: 0.25, noise: index == count - 1 ? 0 : 0.5, prediction: 0.25))
            ]
        }
        return try SamplingPlan(
            grid: TimestepGrid(timesteps: timesteps, sigmas: timesteps + [0], process: .variancePreserving), initNoiseSigma: 2,
            clamp: .range(1),
            rows: rows)
    }
}

/// The full use of any scheduler.
func sample<S: Scheduler, Element: TensorElement>(
    from start: [Element], with scheduler: inout S, steps: Int, model: ([Element], Double) -> [Element]
) throws -> [Element] {
    try scheduler.setTimesteps(steps)
    var x = start
    for timestep in scheduler.timesteps {
        let input = try scheduler.scaleModelInput(x, timestep: timestep)
        try scheduler.step(modelOutput: model(input, timestep), timestep: timestep, sample: &x)
    }
    return x
}

func sampleWithAny(from start: [Float], with scheduler: any Scheduler, steps: Int) throws -> [Float] {
    var scheduler = scheduler
    return try DiffusionSchedulingTests.sample(from: start, with: &scheduler, steps: steps, model: goldenOutput)
}

@Suite struct SchedulerProtocolTests {
    static let orders = [1, 2, 3]

    // MARK: Third parties

    @Test func aThirdPartysSchedulerRunsThroughGenericCode() throws {
        var euler = ThirdPartyEuler()
        // ε is the scaled input: dx/dς = x/√(1 + ς²), so x grows in proportion to ς + √(1 + ς²).
        let start = [1.0, -2]
        let result = try sample(from: start, with: &euler, steps: 4000) { input, _ in input }
        let exact = (0.1 + (1 + 0.01).squareRoot()) / (10 + 101.squareRoot())
        for (x, y) in zip(result, start) { #expect(abs(x - y * exact) <= 2e-3 * abs(y * exact)) }
    }

    @Test func existentialsStepAsTheirTypesDo() throws {
        var euler = ThirdPartyEuler(), deis = try DEISMultistepScheduler()
        let expectedEuler = try sample(from: goldenStart, with: &euler, steps: 5, model: goldenOutput)
        let expectedDEIS = try sample(from: goldenStart, with: &deis, steps: 5, model: goldenOutput)
        let schedulers: [any Scheduler] = [
            ThirdPartyEuler(), try DEISMultistepScheduler(), try SchedulerCatalog.makeScheduler(json: deis.configuration.jsonText),
        ]
        let results = try schedulers.map { bits(try sampleWithAny(from: goldenStart, with: $0, steps: 5)) }
        #expect(results == [bits(expectedEuler), bits(expectedDEIS), bits(expectedDEIS)])
        #expect(results[0] != results[1])
        #expect(schedulers.map(\.initNoiseSigma) == [10, 1, 1])
    }

    @Test func arraysAndTheReturningStepComeWithTheProtocol() throws {
        var one = ThirdPartyEuler(), other = one
        try one.setTimesteps(3)
        try other.setTimesteps(3)
        var x: [Float] = [1, 2]
        try one.step(modelOutput: [0.5, 1], timestep: 3, sample: &x)
        let output: SchedulerOutput<Float> = try other.step(modelOutput: [0.5, 1], timestep: 3, sample: [1, 2])
        #expect(output == SchedulerOutput(nextSample: x))
        #expect(try one.addNoise([1, -1], to: [0, 0] as [Double], timesteps: [3]) == [10, -10])
    }

    @Test func aThirdPartysPlanRunsInASession() throws {
        var scheduler = try ThirdPartyPlanned(NeighbourConfiguration())
        // Noise added before the first plan has the training's levels.
        let noisy = try scheduler.addNoise([0], to: [1] as [Double], timesteps: [999])[0]
        #expect(abs(noisy - scheduler.noiseSchedule.alphasCumprod[999].squareRoot()) <= 1e-7)
        try scheduler.setTimesteps(2)
        #expect(scheduler.initNoiseSigma == 2 && scheduler.timesteps == [2, 1] && scheduler.count == 1000)
        var x: [Double] = [4, -1, 0.5]
        let e: [Double] = [1, 2, 0.25], z: [Double] = [1, 0, -2]
        #expect(fault { try scheduler.step(modelOutput: e, timestep: 2, sample: &x) } == .missingNoise(step: 0))
        #expect(x == [4, -1, 0.5])
        // p = [1, −1, 0.25]
        let output = try scheduler.step(modelOutput: e, timestep: 2, sample: x, noise: z, predictingOriginalSample: true)
        #expect(output.predOriginalSample == [1, -1, 0.25])
        #expect(output.nextSample == [6.0 / 4 + 0.5, 0, 1.0 / 4 - 1])
        x = output.nextSample
        try scheduler.step(modelOutput: [0, 0, 0], timestep: 1, sample: &x)
        #expect(x == [(2.0 + 1) / 4, 0, (-0.75 - 0.75) / 4])
        #expect(try ThirdPartyPlanned(from: NeighbourConfiguration()).plan(.count(2)) == scheduler.plan)
    }

    @Test func whatAThirdPartyLeavesOutHasDefaults() throws {
        let scheduler = try ThirdPartyPlanned(NeighbourConfiguration())
        #expect(!ThirdPartyPlanned.hasVelocity && !ThirdPartyPlanned.countsEnd && ThirdPartyPlanned.sigmaList == .levels)
        #expect(ThirdPartyPlanned.schedulerDescription == ["class_name": .string(NeighbourConfiguration.className)])
        let karras = try SigmaSchedule.karras.sigmas(count: 4, of: scheduler.noiseSchedule)
        #expect(try scheduler.sigmas(count: 4, of: .karras, mu: nil) == karras)
        #expect(try scheduler.plan(.count(2), optionValues: [:]) == scheduler.plan(.count(2)))
        #expect(throws: SchedulerError.invalidValue(key: "eta", value: "given", allowed: "left out: this scheduler has no options"))
        {
            try scheduler.plan(.count(2), optionValues: ["eta": 1])
        }
        let name = NeighbourConfiguration.className
        #expect(throws: SchedulerError.unsupportedOperation("step outside of a run", className: name)) {
            try scheduler.row(at: 3, optionValues: [:])
        }
        #expect(throws: SchedulerError.unsupportedOperation("plan on noise levels of the caller's", className: name)) {
            try scheduler.plan(on: TimestepGrid(timesteps: [1], sigmas: [1, 0], process: .variancePreserving), optionValues: [:])
        }
        #expect(throws: SchedulerError.unsupportedOperation("row over attributes", className: name)) {
            try scheduler.attributeRow(at: 0, age: 0)
        }
    }

    // MARK: The built-in one

    @Test func theFactsOfAScheduler() throws {
        var scheduler = try makeDEIS { $0.numTrainTimesteps = 10 }
        #expect(scheduler.count == 10 && scheduler.initNoiseSigma == 1)
        #expect(scheduler.timesteps == [9, 8, 7, 6, 5, 4, 3, 2, 1, 0])
        #expect(scheduler.sigmas == scheduler.noiseSchedule.sigmas.reversed())
        #expect(scheduler.plan == nil && scheduler.stepIndex == nil && scheduler.session == nil)
        try scheduler.setTimesteps(3)
        #expect(scheduler.timesteps == [9, 6, 3] && scheduler.sigmas.count == 4 && scheduler.stepIndex == 0)
        #expect(scheduler.plan?.stepCount == 3 && scheduler.plan?.timesteps == scheduler.timesteps && scheduler.count == 10)
        #expect(try scheduler.plan(.count(3)) == scheduler.plan)
        #expect(scheduler.initNoiseSigma == 1)
    }

    @Test func modelInputsAreTheSamples() throws {
        let scheduler = try makeDEIS()
        #expect(bits(try scheduler.scaleModelInput(goldenStart, timestep: 999)) == bits(goldenStart))
        #expect(try scheduler.scaleModelInput([Double](), timestep: 0) == [])
        var sample = [1.5, -0.0], span = sample.mutableSpan
        try scheduler.scaleModelInput(&span, timestep: 3)
        #expect(bits(sample) == bits([1.5, -0.0]))
    }

    @Test(arguments: orders, [false, true]) func stepsInPlaceAndReturningAreTheSame(order: Int, thresholding: Bool) throws {
        func run<Element: TensorElement & BinaryFloatingPoint>(_ start: [Element]) throws {
            var inPlace = try makeDEIS {
                $0.solverOrder = order
                $0.thresholding = thresholding
                ($0.sampleMaxValue, $0.dynamicThresholdingRatio) = (1.75, 0.75)
            }
            try inPlace.setTimesteps(8)
            var returning = inPlace, predicting = inPlace, spans = inPlace, session = try #require(inPlace.session)
            var x = start, y = start
            for timestep in inPlace.timesteps {
                let e = x.map { Element(GoldenProblem.model(Double($0), timestep: timestep, trainingCount: 1000)) }
                let output = try returning.step(modelOutput: e, timestep: timestep, sample: x, batchSize: 2)
                let predicted = try predicting.step(
                    modelOutput: e, timestep: timestep, sample: x, batchSize: 2, predictingOriginalSample: true)
                let fromSession = try session.step(modelOutput: e, sample: x, batchSize: 2)
                var span = y.mutableSpan
                try spans.step(modelOutput: e.span, timestep: timestep, sample: &span, batchSize: 2)
                try inPlace.step(modelOutput: e, timestep: timestep, sample: &x, batchSize: 2)
                #expect(bits(output.nextSample) == bits(x) && output.predOriginalSample == nil)
                #expect(bits(predicted.nextSample) == bits(x), "asking for the prediction changes nothing")
                #expect(bits(fromSession.nextSample) == bits(x))
                #expect(bits(y) == bits(x))
            }
        }
        try run(goldenStart)
        try run(GoldenProblem.initialSample)
    }

    @Test(arguments: orders) func arraysThatShareTheirMemoryAreToldApart(order: Int) throws {
        var scheduler = try makeDEIS { $0.solverOrder = order }
        try scheduler.setTimesteps(4)
        var apart = scheduler, x = goldenStart
        let keptX = x
        let e = x  // the same memory as x until x is written
        try scheduler.step(modelOutput: e, timestep: 999, sample: &x)
        #expect(bits(keptX) == bits(goldenStart) && bits(e) == bits(goldenStart))
        let copied = goldenStart.map { $0 + 0 }
        #expect(bits(try apart.step(modelOutput: copied, timestep: 999, sample: goldenStart).nextSample) == bits(x))
    }

    /// p of each prediction type, computed here from its formula.
    @Test(arguments: [PredictionType.epsilon, .sample, .vPrediction, .flowPrediction], [false, true])
    func thePredictedCleanSampleIsThePrediction(_ type: PredictionType, thresholding: Bool) throws {
        let isFlow = type == .flowPrediction
        var scheduler = try makeDEIS {
            $0.predictionType = type
            $0.useFlowSigmas = isFlow
            $0.thresholding = thresholding
            ($0.sampleMaxValue, $0.dynamicThresholdingRatio) = (2.5, 0.5)
        }
        try scheduler.setTimesteps(6)
        let plan = try #require(scheduler.plan)
        var x = GoldenProblem.initialSample
        for (index, timestep) in plan.timesteps.enumerated() {
            let level = plan.levels[index]
            let (a, s) = (level.signalRate, level.noiseRate)
            let e = x.map { GoldenProblem.model($0, timestep: timestep, trainingCount: 1000) }
            var p = zip(x, e).map { x, e in
                switch type {
                case .epsilon: (x - s * e) / a
                case .sample: e
                case .vPrediction: a * x - s * e
                case .flowPrediction: x - level.sigma * e
                }
            }
            if thresholding {
                p = [p[..<12], p[12...]].flatMap { item -> [Double] in
                    let sorted = item.map { abs($0) }.sorted()
                    let limit = min(max((sorted[5] + sorted[6]) / 2, 1), 2.5)
                    return item.map { min(max($0, -limit), limit) / limit }
                }
            }
            let output = try scheduler.step(
                modelOutput: e, timestep: timestep, sample: x, batchSize: 2, predictingOriginalSample: true)
            let ours = try #require(output.predOriginalSample)
            // x/A cancels by up to the ratio of S e to A p.
            #expect(ours.deviation(from: p) <= 8 * 0x1p-53 * 8 / a, "step \(index)")
            if thresholding { #expect(ours.allSatisfy { abs($0) <= 1 }) }
            x = output.nextSample
        }
    }

    /// The step consists of convertModelOutput and the update of the step's order.
    @Test(arguments: orders, [PredictionType.epsilon, .sample, .vPrediction])
    func theDocumentedPartsMakeUpAStep(order: Int, _ type: PredictionType) throws {
        for thresholding in [false, true] {
            var scheduler = try makeDEIS {
                $0.solverOrder = order
                $0.predictionType = type
                $0.thresholding = thresholding
                ($0.sampleMaxValue, $0.dynamicThresholdingRatio) = (2, 0.9)
            }
            try scheduler.setTimesteps(9)
            let plan = try #require(scheduler.plan)
            var outputs: [[Double]] = [], x = GoldenProblem.initialSample
            for (index, timestep) in plan.timesteps.enumerated() {
                let e = x.map { GoldenProblem.model($0, timestep: timestep, trainingCount: 1000) }
                outputs.append(try scheduler.convertModelOutput(e, sample: x, batchSize: 2))
                let parts: [Double]
                switch 1 + plan.history(at: index, age: index).count {
                case 1: parts = try scheduler.firstOrderUpdate(modelOutput: outputs[index], sample: x)
                case 2: parts = try scheduler.secondOrderUpdate(modelOutputs: Array(outputs.suffix(2)), sample: x)
                default: parts = try scheduler.thirdOrderUpdate(modelOutputs: Array(outputs.suffix(3)), sample: x)
                }
                try scheduler.step(modelOutput: e, timestep: timestep, sample: &x, batchSize: 2)
                let deviation = parts.deviation(from: x)
                #expect(deviation <= Tolerance.parts, "step \(index), thresholding \(thresholding): \(deviation)")
            }
            #expect(scheduler.stepIndex == 9, "the parts move nothing")
        }
    }

    @Test func addedNoiseIsEachItemsOwn() throws {
        var scheduler = try makeDEIS()
        for planned in [false, true] {
            if planned { try scheduler.setTimesteps(10) }
            let timesteps: [Double] = [999, 500, 100, 500]
            let data = GoldenProblem.initialSample, noise = GoldenProblem.noise(step: 3)
            let noisy = try scheduler.addNoise(noise, to: data, timesteps: timesteps)
            for (i, x) in noisy.enumerated() {
                let alphaCumprod = scheduler.noiseSchedule.alphasCumprod[Int(timesteps[i / 6])]
                let exact = alphaCumprod.squareRoot() * data[i] + (1 - alphaCumprod).squareRoot() * noise[i]
                // ᾱ is a float32 number, and ς is another, rounded once more.
                #expect(abs(x - exact) <= 4 * Tolerance.float32Roundoff * (abs(data[i]) + abs(noise[i])), "element \(i)")
            }
            let float32 = try scheduler.addNoise(noise.map { Float($0) }, to: data.map { Float($0) }, timesteps: timesteps)
            #expect(float32.map(Double.init).deviation(from: noisy) <= 8 * Tolerance.float32Roundoff)
        }
    }

    /// Image-to-image: noise at a step's level, then steps from there, at the plan's levels, which differ from the table's.
    @Test func addedNoiseHasTheLevelOfThePlansStep() throws {
        var scheduler = try makeDEIS { $0.useKarrasSigmas = true }
        try scheduler.setTimesteps(6)
        let level = try #require(scheduler.plan?.levels[2])
        let noisy = try scheduler.addNoise([1, 0], to: [0, 1] as [Double], timesteps: [scheduler.timesteps[2]])
        #expect(noisy == [level.noiseRate, level.signalRate])
    }

    /// A repeated timestep means the step that comes next.
    @Test func addedNoiseAtARepeatedTimestepIsTheNextSteps() throws {
        var scheduler = try makeDEIS { ($0.betaSchedule, $0.useBetaSigmas) = (.squaredcosCapV2, true) }
        try scheduler.setTimesteps(20)
        let plan = try #require(scheduler.plan)
        #expect(plan.timesteps[0] == plan.timesteps[1] && plan.sigmas[0] != plan.sigmas[1])
        for index in [0, 1] {
            try scheduler.setBeginIndex(index)
            #expect(
                try scheduler.addNoise([1], to: [0] as [Double], timesteps: [plan.timesteps[0]]) == [plan.levels[index].noiseRate])
        }
    }

    @Test(arguments: orders, [false, true]) func emptySamplesStep(order: Int, thresholding: Bool) throws {
        var scheduler = try makeDEIS {
            $0.solverOrder = order
            $0.thresholding = thresholding
        }
        try scheduler.setTimesteps(5)
        var x: [Float] = []
        for (index, timestep) in scheduler.timesteps.enumerated() {
            if index % 2 == 0 {
                try scheduler.step(modelOutput: [], timestep: timestep, sample: &x)
            } else {
                let output = try scheduler.step(modelOutput: [], timestep: timestep, sample: x, predictingOriginalSample: true)
                #expect(output == SchedulerOutput(nextSample: [], predOriginalSample: []))
            }
        }
        #expect(scheduler.stepIndex == 5 && x.isEmpty)
        #expect(try scheduler.addNoise([], to: x, timesteps: [999]) == [])
        #expect(try scheduler.addNoise([], to: [Double](), timesteps: [999, 200]) == [])
    }

    @Test func singleElementsStep() throws {
        var scheduler = try makeDEIS { ($0.thresholding, $0.solverOrder) = (true, 3) }
        try scheduler.setTimesteps(5)
        var x = [0.5]
        for timestep in scheduler.timesteps { try scheduler.step(modelOutput: [0.25], timestep: timestep, sample: &x) }
        #expect(x[0].isFinite)
    }

    @Test func float32AndFloat64Agree() throws {
        for order in Self.orders {
            let plan = try makeDEIS { $0.solverOrder = order }.plan(.count(20))
            var wide = SamplingSession(plan: plan), x = GoldenProblem.initialSample, bound = 0.0
            var narrow = SamplingSession(plan: plan), y = goldenStart
            while let timestep = wide.timestep {
                let e = x.map { GoldenProblem.model($0, timestep: timestep, trainingCount: 1000) }
                let before = x
                try wide.step(modelOutput: e, sample: &x)
                try narrow.step(modelOutput: e.map { Float($0) }, sample: &y)
                // Both get the same outputs, so only the steps' own roundings remain, carried on by a = A_t/A_s.
                let row = plan.row(at: wide.stepIndex - 1, age: order - 1).nextSample
                let size =
                    before.map { abs($0) }.max()! * row.sample + 1.5
                    * row.slotCoefficients.map { abs($0) }.reduce(abs(row.modelOutput), +)
                bound = bound * row.sample + Tolerance.float32Step(terms: 6, magnitude: size)
                let error = zip(x, y).map { abs($0 - Double($1)) }.max()!
                #expect(error <= bound, "order \(order), step \(wide.stepIndex - 1)")
            }
        }
    }

    /// Arrays that a caller writes as literals reach the step: optimised builds once dropped their stores, see `ArraySpans.swift`.
    @Test func literalsReachTheStep() throws {
        var scheduler = try makeDDIM(), session = SamplingSession(plan: try makeDDIM().plan(.count(3)))
        try scheduler.setTimesteps(3)
        var sample = [1.0], other = [1.0], variable: [Double] = []
        for timestep in scheduler.timesteps {
            let output = [0.5 * sample[0] + 0.25]
            try session.step(modelOutput: [0.5 * other[0] + 0.25], sample: &other)
            variable.append(output[0])
            try scheduler.step(modelOutput: output, timestep: timestep, sample: &sample)
        }
        var expected = [1.0], alone = SamplingSession(plan: try makeDDIM().plan(.count(3)))
        for output in variable {
            let copy = [Double](repeating: output, count: 1)
            expected = try alone.step(modelOutput: copy, sample: expected).nextSample
        }
        #expect(sample == expected && other == expected)
    }

}
