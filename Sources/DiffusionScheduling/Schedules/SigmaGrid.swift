/// The grids of the multistep schedulers, from a configuration and a request.
extension SigmaGridConfiguration {
    /// The spacing of the noise levels, in diffusers' order of precedence.
    func sigmaSpacing(flowShift: Double) -> SigmaSpacing {
        if useKarrasSigmas { return .karras }
        if useExponentialSigmas { return .exponential }
        if useBetaSigmas { return .beta }
        if useFlowSigmas { return .flow(shift: flowShift) }
        return .timesteps
    }

    /// The grid of a denoising run, noisiest first.
    ///
    /// - Parameters:
    ///   - final: what follows the last step's noise level; nil for diffusers' DEIS, which see.
    ///   - flowShift: κ of flow sigmas.
    func denoisingGrid(
        _ request: TimestepRequest, noise: NoiseSchedule, final: FinalSigmasType?, flowShift: Double
    ) throws(SchedulerError) -> TimestepGrid {
        let timesteps: [Double], sigmas: [Double]
        var repeatsLast = true
        switch request {
        case .timesteps(let custom):
            try requireDescending("timesteps", custom, within: 0...Double(noise.count - 1), "from 0 to \(noise.count - 1)")
            timesteps = custom
            sigmas = custom.map(noise.sigma(atTimestep:))
            repeatsLast = false
        case .sigmas(let custom):
            let most = useFlowSigmas ? 1.0.nextDown : Double(Float.greatestFiniteMagnitude)
            try requireDescending(
                "sigmas", custom, within: Double.leastNonzeroMagnitude...most,
                useFlowSigmas ? "greater than 0 and less than 1" : "greater than 0")
            timesteps = custom.map { useFlowSigmas ? $0 * Double(noise.count) : roundedHalfToEven(noise.timestep(atSigma: $0)) }
            sigmas = custom
        case .count(let count, _):
            try require(
                "number of steps", count, "from 1 to \(TimestepRequest.maximumSteps)",
                (1...TimestepRequest.maximumSteps).contains(count))
            let spacing = sigmaSpacing(flowShift: flowShift)
            if spacing == .timesteps {
                timesteps = timestepSpacing.multistepTimesteps(
                    count: count, trainingCount: noise.count, usedCount: noise.count, offset: stepsOffset)
                sigmas = timesteps.map(noise.sigma(atTimestep:))
                repeatsLast = false
            } else {
                let greatest = sigmaMax ?? noise.sigmas[noise.count - 1], least = sigmaMin ?? noise.sigmas[0]
                sigmas = spacing.sigmas(count: count, from: greatest, to: least, trainingCount: noise.count)
                timesteps = sigmas.map { timestep(atSigma: $0, spacing: spacing, noise: noise) }
            }
        }
        let last: Double
        switch final {
        case .zero: last = 0
        case .sigmaMin: last = noise.sigmas[0]
        case nil: last = repeatsLast ? sigmas[sigmas.count - 1] : noise.sigmas[0]
        }
        return TimestepGrid(timesteps: timesteps, sigmas: sigmas + [last], isFlow: useFlowSigmas)
    }

    /// What the model is told at a level of a spacing: an integer, rounded or cut off as diffusers does.
    func timestep(atSigma sigma: Double, spacing: SigmaSpacing, noise: NoiseSchedule) -> Double {
        switch spacing {
        case .flow: (sigma * Double(noise.count)).rounded(.towardZero)
        case .karras: roundedHalfToEven(noise.timestep(atSigma: sigma))
        default: noise.timestep(atSigma: sigma).rounded(.towardZero)
        }
    }

    private func requireDescending(
        _ argument: String, _ values: [Double], within range: ClosedRange<Double>, _ allowed: String
    ) throws(SchedulerError) {
        try require(
            "number of \(argument)", values.count, "from 1 to \(TimestepRequest.maximumSteps)",
            (1...TimestepRequest.maximumSteps).contains(values.count))
        for (index, value) in values.enumerated() {
            try require("\(argument)[\(index)]", value, allowed, range.contains(value))
            if index > 0 {
                try require("\(argument)[\(index)]", value, "less than the one before, \(values[index - 1])", value < values[index - 1])
            }
        }
    }
}

extension DynamicShiftingConfiguration where Self: SigmaGridConfiguration {
    /// κ of a request: e^mu where `mu` is given and allowed, else the configuration's `flow_shift`.
    func flowShift(_ request: TimestepRequest) throws(SchedulerError) -> Double {
        guard case .count(_, let mu?) = request else { return flowShift }
        try require("mu", mu, "given only where use_dynamic_shifting is true", useDynamicShifting)
        try require("mu", mu, "a number from -80 to 80", abs(mu) <= 80)
        return exponential(mu)
    }
}
