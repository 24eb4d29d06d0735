// SPDX-License-Identifier: Apache-2.0

/// A multistep solver that corrects each step by the model's output at its end, without another call of the model.
///
/// With the outputs m₀ of this step and m₁, m₂ … of those before, m being p, the predicted clean sample, or the predicted noise, a step
/// takes
///
///     x_c = U + b m₀                    the sample, corrected by m₀; x itself in the first step
///     x'  = a x_c + Σ wₖ mₖ + c z       the predictor
///     U'  = a x_c + Σ cₖ mₖ + c z       the next step's correction, but for the term of its own output
struct PredictorCorrector {
    /// x' = sampleRate x_c + Σ weights[k] mₖ, without the noise.
    struct Update {
        var sampleRate: Double
        var weights: [Double]
    }

    /// The predictor of a step, and its corrector: the part known before the next output, and the weight of that output.
    struct Step {
        var predictor: Update
        /// nil where the next output doesn't correct the step.
        var correction: (known: Update, newest: Double)?
        /// c, the coefficient of the noise in both.
        var noise = 0.0
    }

    /// The tensor kept for the next step's correction: U; or x_c, from which U follows with the outputs if there is no noise.
    enum Kept {
        case correction(slot: Int)
        case correctedSample(slot: Int)
    }

    var predictsCleanSample: Bool
    var predictionType: PredictionType
    var clamp: PredictionClamp
    var levels: [NoiseLevel]
    /// The greatest number of earlier steps' outputs that a step reads.
    var ring: Int
    /// Whether diffusers draws noise at every step, even where it adds none.
    var isStochastic = false
    /// The step at an index in a run that has taken `age` steps before it.
    var step: (_ index: Int, _ age: Int) -> Step

    /// The rows of a plan with `ring` slots of outputs and then one of U.
    ///
    /// - Parameter warmUp: as the plan's.
    func rows(warmUp: Int) -> [[PlanRow]] {
        levels.indices.dropLast().map { index in
            (0...min(index, warmUp)).map { age in
                row(at: index, age: age, keeping: .correction(slot: ring), storesOutput: ring > 0) { (index - $0) % ring }
            }
        }
    }

    /// The row of a step in a run that has taken `age` steps before it.
    ///
    /// - Parameter slot: the slot of mₖ; for k = 0, the slot that m₀ is stored in.
    func row(at index: Int, age: Int, keeping kept: Kept, storesOutput: Bool = true, slot: (Int) -> Int) -> PlanRow {
        // The conversions of the clean sample and of the noise are DPM-Solver's.
        let converter = DPMSolver(
            algorithmType: predictsCleanSample ? .dpmsolverPlusPlus : .dpmsolver, solverType: .midpoint,
            predictionType: predictionType)
        let converted = converter.conversion(at: levels[index], clamped: clamp != .none)
        func output(_ back: Int) -> Combination { back == 0 ? converted : Combination(.slot(slot(back))) }
        func combination(_ sample: Combination, _ update: Update, outputs: (Int) -> Combination) -> Combination {
            var sum = update.sampleRate * sample
            for (back, weight) in update.weights.enumerated() { sum = sum + weight * outputs(back) }
            return sum
        }

        var corrected = Combination(.sample)
        if age > 0, let correction = step(index - 1, age - 1).correction {
            let known =
                switch kept {
                case .correction(let slot): Combination(.slot(slot))
                case .correctedSample(let slot): combination(Combination(.slot(slot)), correction.known) { output($0 + 1) }
                }
            corrected = known + correction.newest * converted
        }
        let step = step(index, age), noise = Combination(noise: step.noise)
        var stores: [PlanRow.Store] = storesOutput ? [.init(slot: slot(0), value: converted)] : []
        if let correction = step.correction, index + 2 < levels.count {
            switch kept {
            case .correction(let slot):
                stores.append(.init(slot: slot, value: combination(corrected, correction.known, outputs: output) + noise))
            case .correctedSample(let slot): stores.append(.init(slot: slot, value: corrected))
            }
        }
        return PlanRow(
            prediction: converter.prediction(at: levels[index]),
            nextSample: combination(corrected, step.predictor, outputs: output) + noise, stores: stores,
            drawCount: isStochastic ? 1 : nil)
    }

    /// A step that needs no weights; nil if it needs an exponential integrator's.
    ///
    /// A step between equal levels has no corrector. A step to the level without noise gives the clean sample, and has none either.
    static func trivialStep(from s: NoiseLevel, to t: NoiseLevel, predictsCleanSample: Bool) -> Step? {
        if s.sigma == t.sigma || s.noiseToSignal == 0 { return Step(predictor: Update(sampleRate: 1, weights: [])) }
        guard t.noiseToSignal == 0 else { return nil }
        return Step(
            predictor: predictsCleanSample
                ? Update(sampleRate: 0, weights: [1])
                : Update(sampleRate: 1 / s.signalRate, weights: [-s.noiseRate / s.signalRate]))
    }

    /// The levels of the newest outputs of a step, its own first, at most `count` of them.
    ///
    /// A level that occurred already carries no information: the order falls.
    static func known(_ count: Int, at index: Int, of levels: [NoiseLevel]) -> [NoiseLevel] {
        var known: [NoiseLevel] = []
        while known.count < count {
            let older = levels[index - known.count]
            if older.noiseToSignal == 0 || (known + [levels[index + 1]]).contains(where: { $0.sigma == older.sigma }) { break }
            known.append(older)
        }
        return known
    }
}
