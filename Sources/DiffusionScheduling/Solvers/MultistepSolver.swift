// SPDX-License-Identifier: Apache-2.0

extension PredictionType {
    /// The clean sample as a combination of the sample x and the model output e at a noise level with rates A and S:
    ///
    ///     epsilon  (x − S e)/A      sample  e      v_prediction  A x − S e      flow_prediction  x − ς e
    func cleanSample(at level: NoiseLevel) -> Combination {
        switch self {
        case .epsilon: Combination(sample: 1 / level.signalRate, modelOutput: -level.noiseRate / level.signalRate)
        case .sample: Combination(modelOutput: 1)
        case .vPrediction: Combination(sample: level.signalRate, modelOutput: -level.noiseRate)
        case .flowPrediction: Combination(sample: 1, modelOutput: -level.sigma)
        }
    }

    /// The noise as a combination of x and e:
    ///
    ///     epsilon  e      sample  (x − A e)/S      v_prediction  A e + S x      flow_prediction  (x − A (x − ς e))/S
    func noise(at level: NoiseLevel) -> Combination {
        let divisor = level.noiseRateToDivideBy
        switch self {
        case .epsilon:
            return Combination(modelOutput: 1)
        case .sample:
            return Combination(sample: 1 / divisor, modelOutput: -level.signalRate / divisor)
        case .vPrediction:
            return Combination(sample: level.noiseRate, modelOutput: level.signalRate)
        case .flowPrediction:
            return Combination(
                sample: level.lostSignalRate / divisor, modelOutput: level.signalRate * level.sigma / divisor)
        }
    }
}

/// A step of a multistep solver as a combination of the sample x, the converted model outputs m₀ (the newest), m₁, m₂ and noise:
/// x' = a x + Σ bₖ mₖ + c z.
public struct MultistepUpdate: Sendable, Equatable {
    /// a: the coefficient of x.
    public var sample: Double
    /// b: the coefficients of the outputs, newest first.
    public var outputs: [Double]
    /// c: the coefficient of z.
    public var noise: Double

    /// An update with these coefficients.
    public init(sample: Double, outputs: [Double], noise: Double = 0) {
        self.sample = sample
        self.outputs = outputs
        self.noise = noise
    }

    /// x' = x, for a step that leads nowhere.
    static let identity = MultistepUpdate(sample: 1, outputs: [])
}

/// A linear multistep solver: a conversion and an update.
public protocol MultistepSolver: Sendable {
    /// Whether diffusers draws noise at every step that denoises, even where it adds none.
    var isStochastic: Bool { get }

    /// p, the predicted clean sample, as a combination of x and e: for predicted noise p = (x − S e)/A.
    func prediction(at level: NoiseLevel) -> Combination

    /// m, the quantity that the solver extrapolates, as a combination of x and e; `clamped`: of x and the clamped p. It is m = p
    /// for solvers that extrapolate the clean sample, and m = (x − A p)/S for those that extrapolate the noise.
    func conversion(at level: NoiseLevel, clamped: Bool) -> Combination

    /// The ``MultistepUpdate`` from s to t, with the levels of the steps before s, newest first: of order 1 + `previous.count`.
    func update(from s: NoiseLevel, to t: NoiseLevel, previous: [NoiseLevel]) -> MultistepUpdate

    /// The ``MultistepUpdate`` of at most the given order from evaluation i of a grid, for a run that remembers `remembered`
    /// evaluations.
    func update(order: Int, at index: Int, of levels: [NoiseLevel], remembered: Int) -> MultistepUpdate
}

extension MultistepSolver {
    public var isStochastic: Bool { false }

    public func update(order: Int, at index: Int, of levels: [NoiseLevel], remembered: Int) -> MultistepUpdate {
        multistepUpdate(order: order, at: index, of: levels, remembered: remembered)
    }

    /// The update of a solver with one evaluation a step.
    ///
    /// A step between equal levels is the identity, and a level that equals one of its successors carries no information, so
    /// the order falls where it would be used. (Divided differences would be 0/0 there.)
    func multistepUpdate(order: Int, at index: Int, of levels: [NoiseLevel], remembered: Int) -> MultistepUpdate {
        let s = levels[index], t = levels[index + 1]
        // No step leads away from a level without noise either: there is nothing to remove, and no ratio to go by.
        if s.sigma == t.sigma || s.noiseToSignal == 0 { return .identity }
        var count = 0
        while count + 1 < order, count < remembered, count < index {
            let older = index - count - 1
            if (older + 1...index).contains(where: { levels[$0].sigma == levels[older].sigma }) { break }
            count += 1
        }
        return update(from: s, to: t, previous: (0..<count).map { levels[index - 1 - $0] })
    }
}

extension MultistepUpdate {
    /// The update with m₀ replaced by its combination of x, e and p.
    ///
    /// - Parameter ring: the number of slots of a ring; evaluation `index` stores m₀ in slot `index` mod `ring`.
    func combination(converting conversion: Combination, at index: Int, ring: Int) -> Combination {
        let newest = outputs.first ?? 0
        var combination = Combination(
            sample: sample + newest * conversion.sample, modelOutput: newest * conversion.modelOutput, noise: noise,
            prediction: newest * conversion.prediction)
        for (age, coefficient) in outputs.enumerated().dropFirst() { combination[.slot((index - age) % ring)] = coefficient }
        return combination
    }
}
