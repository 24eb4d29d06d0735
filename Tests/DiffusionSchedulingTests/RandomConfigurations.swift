// SPDX-License-Identifier: Apache-2.0

import Foundation

@testable import DiffusionScheduling

/// Draws valid configurations of every scheduler, with all parameters.
enum RandomConfigurations {
    static func deis(_ generator: inout SeededGenerator) -> DEISMultistepConfiguration {
        var c = DEISMultistepConfiguration()
        drawNoiseSchedule(&c, &generator)
        drawGrid(&c, &generator)
        drawThresholding(&c, &generator)
        (c.solverOrder, c.lowerOrderFinal) = (.random(in: 1...4, using: &generator), .random(using: &generator))
        c.method = Bool.random(using: &generator) ? nil : .allCases.randomElement(using: &generator)
        c.predictionType = c.useFlowSigmas ? .flowPrediction : .allCases.randomElement(using: &generator)!
        c.finalSigmasType = Bool.random(using: &generator) ? nil : .allCases.randomElement(using: &generator)
        return c
    }

    static func dpmSolver(_ generator: inout SeededGenerator) -> DPMSolverMultistepConfiguration {
        var c = DPMSolverMultistepConfiguration()
        drawDPMSolver(&c, &generator)
        c.finalSigmasType = .allCases.randomElement(using: &generator)!
        c.rescaleBetasZeroSNR = .random(using: &generator)
        let hasLogarithms = c.betaStart > 0 && c.trainedBetas == nil
        c.useLuLambdas = Int.random(in: 0..<6, using: &generator) == 0 && !c.useFlowSigmas && hasLogarithms
        return c
    }

    static func dpmSolverInverse(_ generator: inout SeededGenerator) -> DPMSolverMultistepInverseConfiguration {
        var c = DPMSolverMultistepInverseConfiguration()
        drawDPMSolver(&c, &generator)
        return c
    }

    static func dpmSolverSinglestep(_ generator: inout SeededGenerator) -> DPMSolverSinglestepConfiguration {
        var c = DPMSolverSinglestepConfiguration()
        drawNoiseSchedule(&c, &generator)
        drawLevels(&c, &generator)
        drawThresholding(&c, &generator)
        c.algorithmType = [.dpmsolver, .dpmsolverPlusPlus, .sdeDPMSolverPlusPlus].randomElement(using: &generator)!
        c.solverType = .allCases.randomElement(using: &generator)!
        c.solverOrder = .random(in: 1...3, using: &generator)
        c.lowerOrderFinal = .random(using: &generator)
        c.finalSigmasType = .allCases.randomElement(using: &generator)!
        c.predictionType = c.useFlowSigmas ? .flowPrediction : .allCases.randomElement(using: &generator)!
        drawLambdaClipping(&c, &generator)
        return c
    }

    static func saSolver(_ generator: inout SeededGenerator) -> SASolverConfiguration {
        var c = SASolverConfiguration()
        drawNoiseSchedule(&c, &generator)
        drawGrid(&c, &generator)
        drawThresholding(&c, &generator)
        (c.predictorOrder, c.correctorOrder) = (.random(in: 1...4, using: &generator), .random(in: 1...4, using: &generator))
        c.algorithmType = c.useFlowSigmas ? .dataPrediction : .allCases.randomElement(using: &generator)!
        c.lowerOrderFinal = .random(using: &generator)
        c.tauFunc = [nil, [0], [1], [0, 2], [0.3]].randomElement(using: &generator)!
        c.predictionType =
            c.useFlowSigmas ? .flowPrediction : [.epsilon, .sample, .vPrediction].randomElement(using: &generator)!
        drawLambdaClipping(&c, &generator)
        return c
    }

    static func ddim(_ generator: inout SeededGenerator) -> DDIMConfiguration {
        var c = DDIMConfiguration()
        drawNoiseSchedule(&c, &generator)
        drawThresholding(&c, &generator)
        drawDDIM(&c, &generator)
        c.previousTimestep = Bool.random(using: &generator) ? nil : .schedule
        return c
    }

    static func ddimParallel(_ generator: inout SeededGenerator) -> ParallelDefinition<DDIMConfiguration> {
        var c = ParallelDefinition<DDIMConfiguration>()
        c.base = ddim(&generator)
        return c
    }

    static func ddimInverse(_ generator: inout SeededGenerator) -> DDIMInverseConfiguration {
        var c = DDIMInverseConfiguration()
        drawNoiseSchedule(&c, &generator)
        drawDDIM(&c, &generator)
        if c.timestepSpacing == .linspace { c.timestepSpacing = .leading }
        return c
    }

    static func euler(_ generator: inout SeededGenerator) -> EulerDiscreteConfiguration {
        var c = EulerDiscreteConfiguration()
        drawNoiseSchedule(&c, &generator)
        drawSpacing(&c, &generator)
        c.predictionType = .allCases.randomElement(using: &generator)!
        c.timestepType = .allCases.randomElement(using: &generator)!
        if c.betaStart > 0, c.trainedBetas == nil { c.interpolationType = .allCases.randomElement(using: &generator)! }
        c.rescaleBetasZeroSNR = .random(using: &generator)
        c.finalSigmasType = .allCases.randomElement(using: &generator)!
        return c
    }

    static func eulerAncestral(_ generator: inout SeededGenerator) -> EulerAncestralDiscreteConfiguration {
        var c = EulerAncestralDiscreteConfiguration()
        drawNoiseSchedule(&c, &generator)
        c.predictionType = EulerAncestralDiscreteConfiguration.predictionTypes.randomElement(using: &generator)!
        c.timestepSpacing = .allCases.randomElement(using: &generator)!
        c.stepsOffset = .random(in: 0...3, using: &generator)
        c.rescaleBetasZeroSNR = .random(using: &generator)
        return c
    }

    static func edmEuler(_ generator: inout SeededGenerator) -> EDMEulerConfiguration {
        var c = EDMEulerConfiguration()
        drawEDM(&c, &generator)
        return c
    }

    static func edmDPMSolver(_ generator: inout SeededGenerator) -> EDMDPMSolverMultistepConfiguration {
        var c = EDMDPMSolverMultistepConfiguration()
        drawEDMMultistep(&c, &generator)
        drawThresholding(&c, &generator)
        c.solverOrder = .random(in: 1...3, using: &generator)
        c.algorithmType = EDMDPMSolverMultistepConfiguration.algorithmTypes.randomElement(using: &generator)!
        return c
    }

    static func cosineDPMSolver(_ generator: inout SeededGenerator) -> CosineDPMSolverMultistepConfiguration {
        var c = CosineDPMSolverMultistepConfiguration()
        drawEDMMultistep(&c, &generator)
        c.solverOrder = .random(in: 1...2, using: &generator)
        return c
    }

    static func heun(_ generator: inout SeededGenerator) -> HeunDiscreteConfiguration {
        var c = HeunDiscreteConfiguration()
        drawNoiseSchedule(&c, &generator)
        drawSpacing(&c, &generator)
        c.predictionType = HeunDiscreteConfiguration.predictionTypes.randomElement(using: &generator)!
        c.clipSample = .random(using: &generator)
        c.clipSampleRange = .random(in: 0.5...3, using: &generator)
        return c
    }

    static func kdpm2Ancestral(_ generator: inout SeededGenerator) -> KDPM2AncestralDiscreteConfiguration {
        var c = KDPM2AncestralDiscreteConfiguration()
        drawNoiseSchedule(&c, &generator)
        drawSpacing(&c, &generator)
        c.predictionType = KDPM2AncestralDiscreteConfiguration.predictionTypes.randomElement(using: &generator)!
        return c
    }

    static func dpmSolverSDE(_ generator: inout SeededGenerator) -> DPMSolverSDEConfiguration {
        var c = DPMSolverSDEConfiguration()
        drawNoiseSchedule(&c, &generator)
        drawSpacing(&c, &generator)
        c.predictionType = DPMSolverSDEConfiguration.predictionTypes.randomElement(using: &generator)!
        return c
    }

    static func lms(_ generator: inout SeededGenerator) -> LMSDiscreteConfiguration {
        var c = LMSDiscreteConfiguration()
        drawNoiseSchedule(&c, &generator)
        drawSpacing(&c, &generator)
        c.predictionType = LMSDiscreteConfiguration.predictionTypes.randomElement(using: &generator)!
        return c
    }

    static func kdpm2(_ generator: inout SeededGenerator) -> KDPM2DiscreteConfiguration {
        var c = KDPM2DiscreteConfiguration()
        drawNoiseSchedule(&c, &generator)
        drawSpacing(&c, &generator)
        c.predictionType = KDPM2DiscreteConfiguration.predictionTypes.randomElement(using: &generator)!
        return c
    }

    /// Values for all keys in a class's description: random words and truth values, and numbers from a list for each key. About
    /// half of the keys keep their defaults.
    static func values(of description: JSONValue, _ generator: inout SeededGenerator) -> [String: JSONValue] {
        let numbers: [String: [JSONValue]] = [
            "num_train_timesteps": [1000, 1000, 500, 100], "beta_start": [0.0001, 0.00085, 1e-6], "beta_end": [0.02, 0.012, 0.05],
            "solver_order": [1, 2, 3, 4, 5, 6], "predictor_order": [1, 2, 3, 4], "corrector_order": [1, 2, 3, 4],
            "shift": [0.5, 1, 3, 12], "flow_shift": [0.5, 3, 8], "shift_terminal": [.null, 0.02, 0.3], "steps_offset": [0, 1, 2],
            "sigma_min": [0.002, 0.02], "sigma_max": [80, 14, 0.9], "sigma_data": [0.5, 1], "rho": [7, 1.5, 40], "s": [0.008, 0.1],
            "scaler": [1, 0.5, 3], "clip_sample_range": [0.5, 1, 3], "sample_max_value": [0.5, 1, 4],
            "dynamic_thresholding_ratio": [0.5, 0.995, 1], "original_inference_steps": [50, 20, 100], "timestep_scaling": [10, 1],
            "snr_shift_scale": [1, 3, 0.5], "eta": [0, 0.5, 1], "s_noise": [1, 0.9], "lambda_min_clipped": [-5.1],
            "disable_corrector": [[], [0], [1, 2]], "tau_func": [[0], [1], [0, 2]], "stages": [1, 3], "gamma": [0.3, 0.5],
            "diffusion_scheduling_final_alpha_cumprod": [0.999, 1],
        ]
        guard case .array(let parameters)? = description["parameters"] else { return [:] }
        var values: [String: JSONValue] = [:]
        for parameter in parameters where Bool.random(using: &generator) {
            guard case .string(let key)? = parameter["key"] else { continue }
            if case .array(let words)? = parameter["words"] {
                values[key] = words.randomElement(using: &generator)
            } else if parameter["type"] == "bool" {
                values[key] = .bool(.random(using: &generator))
            } else {
                values[key] = numbers[key]?.randomElement(using: &generator)
            }
        }
        return values
    }

    private static func drawNoiseSchedule<C: NoiseScheduleConfiguration>(_ c: inout C, _ generator: inout SeededGenerator) {
        c.numTrainTimesteps = [1000, 1000, 1000, 500, 100, 7, 1].randomElement(using: &generator)!
        c.betaSchedule = C.betaSchedules.randomElement(using: &generator)!
        (c.betaStart, c.betaEnd) = [(0.0001, 0.02), (0.00085, 0.012), (1e-6, 0.05), (0, 0.02)].randomElement(using: &generator)!
        if c.numTrainTimesteps == 7 { c.trainedBetas = [0, 0.01, 0.01, 0.5, 0, 0.2, 0.9] }
    }

    private static func drawEDM(_ c: inout some EDMDefinition, _ generator: inout SeededGenerator) {
        c.sigmaMin = [0.002, 0.3, 1e-4, 1].randomElement(using: &generator)!
        c.sigmaMax = [80, 500, 1, 1e4].randomElement(using: &generator)!
        c.sigmaData = [0.5, 1, 0, 3].randomElement(using: &generator)!
        c.sigmaSchedule = .allCases.randomElement(using: &generator)!
        c.numTrainTimesteps = [1000, 100, 1].randomElement(using: &generator)!
        c.predictionType = [.epsilon, .vPrediction].randomElement(using: &generator)!
        c.rho = [7, 1.5, 2.5, 40].randomElement(using: &generator)!
        c.finalSigmasType = .allCases.randomElement(using: &generator)!
    }

    private static func drawEDMMultistep(_ c: inout some EDMMultistepDefinition, _ generator: inout SeededGenerator) {
        drawEDM(&c, &generator)
        c.solverType = .allCases.randomElement(using: &generator)!
        (c.lowerOrderFinal, c.eulerAtFinal) = (.random(using: &generator), .random(using: &generator))
    }

    static func flowMatchEuler(_ generator: inout SeededGenerator) -> FlowMatchEulerDiscreteConfiguration {
        var c: FlowMatchEulerDiscreteConfiguration = shiftedFlow(&generator)
        c.stochasticSampling = .random(using: &generator)
        return c
    }

    static func flowMatchLCM(_ generator: inout SeededGenerator) -> FlowMatchLCMConfiguration { shiftedFlow(&generator) }

    static func flowMapEuler(_ generator: inout SeededGenerator) -> FlowMapEulerDiscreteConfiguration {
        var c = FlowMapEulerDiscreteConfiguration()
        c.numTrainTimesteps = .random(in: 1...1000, using: &generator)
        c.shift = exponential(.random(in: -4...4, using: &generator))
        return c
    }

    static func piflow(_ generator: inout SeededGenerator) -> PiflowConfiguration {
        var c = PiflowConfiguration()
        c.numTrainTimesteps = .random(in: 1...1000, using: &generator)
        c.shift = exponential(.random(in: -4...4, using: &generator))
        c.nGrid = .random(in: 2...20, using: &generator)
        c.eps = exponential(.random(in: -20...0, using: &generator))
        c.finalStepSizeScale = .random(in: 0.01...1, using: &generator)
        c.numPolicySubsteps = .random(in: 1...300, using: &generator)
        return c
    }

    /// Several stages, or a single one whose levels begin at pure noise.
    static func helios(_ generator: inout SeededGenerator) -> HeliosConfiguration {
        var c = HeliosConfiguration()
        c.solver.numTrainTimesteps = .random(in: 1...1000, using: &generator)
        c.shift = exponential(.random(in: -3...3, using: &generator))
        c.stages = .random(in: 1...3, using: &generator)
        c.gamma = .random(in: 0.01...2, using: &generator)
        c.schedulerType = .allCases.randomElement(using: &generator)!
        c.solver.solverOrder = .random(in: 1...6, using: &generator)
        c.solver.solverType = .allCases.randomElement(using: &generator)!
        (c.solver.lowerOrderFinal, c.solver.useFlowSigmas) = (.random(using: &generator), .random(using: &generator))
        return c
    }

    static func heliosDMD(_ generator: inout SeededGenerator) -> HeliosDMDConfiguration {
        var c = HeliosDMDConfiguration()
        c.pyramid.solver.numTrainTimesteps = .random(in: 1...1000, using: &generator)
        c.pyramid.shift = exponential(.random(in: -3...3, using: &generator))
        c.pyramid.stages = .random(in: 1...3, using: &generator)
        c.pyramid.gamma = .random(in: 0.01...2, using: &generator)
        return c
    }

    /// Levels whose ratio float32 holds, and some whose ratio it doesn't.
    static func karrasVe(_ generator: inout SeededGenerator) -> KarrasVeConfiguration {
        var c = KarrasVeConfiguration()
        c.sigmaMax = exponential(.random(in: -3...6, using: &generator))
        c.sigmaMin = c.sigmaMax * exponential(.random(in: -12...0, using: &generator))
        if Int.random(in: 0..<20, using: &generator) == 0 { c.sigmaMin = 1e-18 }
        c.sNoise = [0, 0.9, 1, 1.007].randomElement(using: &generator)!
        c.sChurn = [0, 1, 20, 80, .infinity].randomElement(using: &generator)!
        c.sMin = [0, 0.05, 1].randomElement(using: &generator)!
        c.sMax = [5, 50, .infinity].randomElement(using: &generator)!
        return c
    }

    static func scoreSdeVe(_ generator: inout SeededGenerator) -> ScoreSdeVeConfiguration {
        var c = ScoreSdeVeConfiguration()
        c.numTrainTimesteps = .random(in: 1...1000, using: &generator)
        c.snr = [0, 0.075, 0.15, 1].randomElement(using: &generator)!
        c.sigmaMax = exponential(.random(in: -3...8, using: &generator))
        c.sigmaMin = c.sigmaMax * exponential(.random(in: -12...0, using: &generator))
        c.samplingEps = [0, 1e-5, 1e-3, 0.3, 1].randomElement(using: &generator)!
        c.correctSteps = .random(in: 0...3, using: &generator)
        return c
    }

    /// The shifts include ones at which float32 merges levels, or makes levels near 1 rise again.
    static func miniMaxH3(_ generator: inout SeededGenerator) -> MiniMaxH3Configuration {
        var c = MiniMaxH3Configuration()
        c.shift = exponential(.random(in: -69...69, using: &generator) / [1, 10].randomElement(using: &generator)!)
        return c
    }

    private static func shiftedFlow<C: ShiftedFlowDefinition>(_ generator: inout SeededGenerator) -> C {
        var c = C()
        c.numTrainTimesteps = .random(in: 1...1000, using: &generator)
        c.shift = .random(in: 0.1...12, using: &generator)
        c.invertSigmas = .random(using: &generator)
        if Int.random(in: 0..<4, using: &generator) == 0 { c.shiftTerminal = .random(in: 0.01...0.5, using: &generator) }
        switch Int.random(in: 0...4, using: &generator) {
        case 1: c.useKarrasSigmas = true
        case 2: c.useExponentialSigmas = true
        case 3: c.useBetaSigmas = true
        default: break
        }
        if Int.random(in: 0..<3, using: &generator) == 0 {
            (c.sigmaMin, c.sigmaMax) = (.random(in: 0.001...0.1, using: &generator), .random(in: 0.5...1, using: &generator))
        }
        return c
    }

    private static func drawThresholding(_ c: inout some ThresholdingConfiguration, _ generator: inout SeededGenerator) {
        c.thresholding = Int.random(in: 0..<3, using: &generator) == 0
        c.dynamicThresholdingRatio = .random(in: 0...1, using: &generator)
        c.sampleMaxValue = .random(in: 0.1...4, using: &generator)
    }

    private static func drawSpacing(
        _ c: inout some SigmaSpacingConfiguration & VarianceExplodingDefinition, _ generator: inout SeededGenerator
    ) {
        switch Int.random(in: 0...6, using: &generator) {
        case 1: c.useKarrasSigmas = true
        case 2: c.useExponentialSigmas = c.betaStart > 0 && c.trainedBetas == nil
        case 3: c.useBetaSigmas = true
        default: break
        }
        if Int.random(in: 0..<3, using: &generator) == 0 { (c.sigmaMin, c.sigmaMax) = (0.02, 80) }
        c.timestepSpacing = .allCases.randomElement(using: &generator)!
        c.stepsOffset = .random(in: 0...3, using: &generator)
    }

    private static func drawGrid(
        _ c: inout some SigmaGridConfiguration & TimestepSpacingConfiguration, _ generator: inout SeededGenerator
    ) {
        drawLevels(&c, &generator)
        c.timestepSpacing = .allCases.randomElement(using: &generator)!
        c.stepsOffset = .random(in: 0...3, using: &generator)
    }

    private static func drawLevels(_ c: inout some SigmaGridConfiguration, _ generator: inout SeededGenerator) {
        // A level of 0 has no logarithm, and is refused by spacings that need one.
        let grids = c.betaStart == 0 || c.trainedBetas != nil ? [0, 1, 3, 4] : [0, 1, 2, 3, 4]
        switch grids.randomElement(using: &generator)! {
        case 1: c.useKarrasSigmas = true
        case 2: c.useExponentialSigmas = true
        case 3: c.useBetaSigmas = true
        case 4: c.useFlowSigmas = true
        default: break
        }
        c.flowShift = .random(in: 0.3...8, using: &generator)
    }

    private static func drawDPMSolver(_ c: inout some DPMSolverConfiguration, _ generator: inout SeededGenerator) {
        drawNoiseSchedule(&c, &generator)
        drawGrid(&c, &generator)
        drawThresholding(&c, &generator)
        c.algorithmType = .allCases.randomElement(using: &generator)!
        c.solverType = .allCases.randomElement(using: &generator)!
        c.solverOrder = .random(in: 1...3, using: &generator)
        (c.lowerOrderFinal, c.eulerAtFinal) = (.random(using: &generator), .random(using: &generator))
        c.predictionType = c.useFlowSigmas ? .flowPrediction : .allCases.randomElement(using: &generator)!
        drawLambdaClipping(&c, &generator)
    }

    private static func drawLambdaClipping(
        _ c: inout some LambdaClippingConfiguration, _ generator: inout SeededGenerator
    ) {
        c.lambdaMinClipped = Bool.random(using: &generator) ? -.infinity : -5.1
        c.varianceType = [nil, "learned_range", "fixed_small"].randomElement(using: &generator)!
    }

    private static func drawDDIM(_ c: inout some DDIMFamilyConfiguration, _ generator: inout SeededGenerator) {
        c.clipSample = .random(using: &generator)
        c.clipSampleRange = .random(in: 0.5...3, using: &generator)
        c.setAlphaToOne = .random(using: &generator)
        c.timestepSpacing = .allCases.randomElement(using: &generator)!
        c.stepsOffset = Int.random(in: 0...1, using: &generator) * (c.numTrainTimesteps > 1 ? 1 : 0)
        c.predictionType = [.epsilon, .sample, .vPrediction].randomElement(using: &generator)!
        c.rescaleBetasZeroSNR = .random(using: &generator)
    }
}
