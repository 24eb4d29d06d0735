// SPDX-License-Identifier: Apache-2.0

/// The grids of the multistep schedulers, from a configuration and a request.
extension SigmaGridConfiguration {
    /// The spacing of the noise levels, in diffusers' order of precedence.
    func sigmaSpacing(flowShift: Double) -> SigmaSpacing {
        if useKarrasSigmas { return .karras }
        if (self as? any LuLambdasConfiguration)?.useLuLambdas == true { return .lu }
        if useExponentialSigmas { return .exponential }
        if useBetaSigmas { return .beta }
        if useFlowSigmas { return .flow(shift: flowShift) }
        return .timesteps
    }

    /// The grid of a denoising run, noisiest first.
    ///
    /// - Parameters:
    ///   - usedCount: the training timesteps that may be used, from 0 on.
    ///   - final: the noise level after the last step. nil: the least training level, or the last level again if the levels
    ///     aren't those of timesteps.
    ///   - spacing: the spread of the levels.
    ///   - roundsTimesteps: whether timesteps of Karras levels are rounded rather than truncated.
    func denoisingGrid(
        _ request: TimestepRequest, noise: NoiseSchedule, usedCount: Int, final: FinalSigmasType?, spacing: SigmaSpacing,
        roundsTimesteps: Bool = true
    ) throws(SchedulerError) -> TimestepGrid {
        let timesteps: [Double], sigmas: [Double]
        var repeatsLast = true
        switch request {
        case .timesteps(let custom, _):
            try requireOrdered("timesteps", custom, by: >, within: 0...Double(noise.count - 1), "from 0 to \(noise.count - 1)")
            timesteps = custom
            sigmas = custom.map { customSigma(atTimestep: $0, noise: noise) }
            repeatsLast = useFlowSigmas
        case .sigmas(let custom, _):
            if case .shiftedFlow = spacing {
                try requireOrdered("sigmas", custom, by: >, within: .leastNonzeroMagnitude...1, "greater than 0 and at most 1")
                sigmas = spacing.flowLevels(custom)
                timesteps = sigmas.map { timestep(atSigma: $0, spacing: spacing, noise: noise, rounds: false) }
            } else {
                try requireOrdered("sigmas", custom, by: >, within: allowedSigmas.range, allowedSigmas.text)
                timesteps = custom.map { customTimestep(atSigma: $0, noise: noise) }
                sigmas = custom
            }
        case .timestepsAndSigmas:
            throw .invalidValue(key: "timesteps and sigmas", value: "both given", allowed: "one of them")
        case .count(let count, _):
            try requireStepCount(count)
            if spacing == .timesteps {
                timesteps = timestepSpacing.denoisingTimesteps(
                    count: count, trainingCount: noise.count, usedCount: usedCount, offset: stepsOffset)
                sigmas = timesteps.map(noise.sigma(atTimestep:))
                repeatsLast = false
            } else {
                let ends = try sigmaEnds(spacing, noise: noise)
                sigmas = spacing.sigmas(count: count, from: ends.greatest, to: ends.least, trainingCount: noise.count)
                timesteps = sigmas.map { timestep(atSigma: $0, spacing: spacing, noise: noise, rounds: roundsTimesteps) }
            }
        }
        let last: Double
        switch final {
        case .zero: last = 0
        case .sigmaMin:
            // diffusers takes the training's least level on flow grids too; one of 1 or more isn't a flow level at all.
            last = useFlowSigmas && noise.sigmas[0] >= 1 ? sigmas[sigmas.count - 1] : noise.sigmas[0]
        case nil: last = repeatsLast ? sigmas[sigmas.count - 1] : noise.sigmas[0]
        }
        return TimestepGrid(timesteps: timesteps, sigmas: sigmas + [last], process: useFlowSigmas ? .flow : .variancePreserving)
    }

    /// The grid of an inverting run, from the clean sample to noise.
    func invertingGrid(
        _ request: TimestepRequest, noise: NoiseSchedule, usedCount: Int
    ) throws(SchedulerError) -> TimestepGrid {
        var timesteps: [Double], sigmas: [Double]
        switch request {
        case .timesteps(let custom, _):
            try requireOrdered("timesteps", custom, by: <, within: 0...Double(noise.count - 1), "from 0 to \(noise.count - 1)")
            timesteps = custom
            sigmas = custom.map { customSigma(atTimestep: $0, noise: noise) }
            sigmas.append(noise.sigmas[usedCount - 1])
        case .sigmas(let custom, _):
            try requireOrdered("sigmas", custom, by: <, within: allowedSigmas.range, allowedSigmas.text)
            timesteps = custom.map { customTimestep(atSigma: $0, noise: noise) }
            sigmas = custom + [custom[custom.count - 1]]
        case .timestepsAndSigmas:
            throw .invalidValue(key: "timesteps and sigmas", value: "both given", allowed: "one of them")
        case .count(let count, _):
            try requireStepCount(count)
            let spacing = sigmaSpacing(flowShift: flowShift)
            switch spacing {
            case .timesteps:
                timesteps = timestepSpacing.invertingTimesteps(
                    count: count, trainingCount: noise.count, usedCount: usedCount, offset: stepsOffset)
                sigmas = timesteps.map(noise.sigma(atTimestep:)) + [noise.sigmas[usedCount - 1]]
            case .flow(let shift):
                // The levels of the denoising run backwards. The clean sample is taken to have the noise of the least
                // training level, since no step can start from none.
                let levels = spacing.sigmas(count: count, from: 0, to: 0, trainingCount: noise.count)
                let least = min(1 / Double(noise.count), levels[count - 1] / 2)
                sigmas = [shift * least / (1 + (shift - 1) * least)] + levels.reversed()
                if sigmas[0] >= sigmas[1] { sigmas[0] = sigmas[1] / 2 }
                timesteps = sigmas.dropLast().map { timestep(atSigma: $0, spacing: spacing, noise: noise, rounds: true) }
            default:
                let ends = try sigmaEnds(spacing, noise: noise)
                sigmas = spacing.sigmas(count: count, from: ends.least, to: ends.greatest, trainingCount: noise.count)
                timesteps = sigmas.map { timestep(atSigma: $0, spacing: spacing, noise: noise, rounds: true) }
                sigmas.append(sigmas[count - 1])
            }
        }
        // No step can start from a level without noise, which beta_start 0 gives; the floor is 2⁻¹², from 1 − ᾱ = 2⁻²⁴.
        sigmas = sigmas.map { $0 == 0 ? 0x1p-12 : $0 }
        return TimestepGrid(timesteps: timesteps, sigmas: sigmas, process: useFlowSigmas ? .flow : .variancePreserving)
    }

    /// The model's timestep at a level of a spacing: an integer, rounded or truncated as in diffusers.
    private func timestep(atSigma sigma: Double, spacing: SigmaSpacing, noise: NoiseSchedule, rounds: Bool) -> Double {
        switch spacing {
        case .flow, .karrasFlow, .shiftedFlow: (sigma * Double(noise.count)).rounded(.towardZero)
        case .karras where rounds, .lu where rounds: roundedHalfToEven(noise.timestep(atSigma: sigma))
        default: noise.timestep(atSigma: sigma).rounded(.towardZero)
        }
    }

    /// The ends of a spacing: the training's, or those that the configuration brought along.
    private func sigmaEnds(
        _ spacing: SigmaSpacing, noise: NoiseSchedule
    ) throws(SchedulerError) -> (least: Double, greatest: Double) {
        let least = noise.sigmas[0], greatest = noise.sigmas[noise.count - 1]
        if spacing == .lu || spacing == .exponential, (sigmaMin ?? least) == 0 {
            throw .invalidValue(
                key: trainedBetas == nil ? "beta_start" : "trained_betas[0]", value: "0",
                allowed: "greater than 0 if noise levels are spaced logarithmically")
        }
        // The lu spacing runs on the training's logarithms, which are float32.
        if spacing == .lu { return (exponential(noise.logSigmas[0]), exponential(noise.logSigmas[noise.count - 1])) }
        return (sigmaMin ?? least, sigmaMax ?? greatest)
    }

    private func customSigma(atTimestep timestep: Double, noise: NoiseSchedule) -> Double {
        guard useFlowSigmas else { return noise.sigma(atTimestep: timestep) }
        return max(timestep, 0.5) / Double(noise.count)
    }

    /// The model's timestep at a caller's level.
    func customTimestep(atSigma sigma: Double, noise: NoiseSchedule) -> Double {
        useFlowSigmas ? sigma * Double(noise.count) : roundedHalfToEven(noise.timestep(atSigma: sigma))
    }

    private var allowedSigmas: (range: ClosedRange<Double>, text: String) {
        useFlowSigmas
            ? (Double.leastNonzeroMagnitude...1.0.nextDown, "greater than 0 and less than 1")
            : (Double.leastNonzeroMagnitude...Double(Float.greatestFiniteMagnitude), "greater than 0")
    }
}

extension DynamicShiftingConfiguration where Self: SigmaGridConfiguration {
    /// κ of a request: κ = e^mu if `mu` is given and allowed, else the configuration's `flow_shift`.
    ///
    /// - Throws: `invalidValue` for a `mu` that isn't allowed, or outside of −80 to 80.
    public func flowShift(_ request: TimestepRequest) throws(SchedulerError) -> Double {
        guard let mu = request.mu else { return flowShift }
        try require("mu", mu, "left out unless use_dynamic_shifting is true", useDynamicShifting)
        try require("mu", mu, "a number from -80 to 80", abs(mu) <= 80)
        return exponential(mu)
    }
}
