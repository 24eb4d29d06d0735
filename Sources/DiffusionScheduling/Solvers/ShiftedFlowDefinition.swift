// SPDX-License-Identifier: Apache-2.0

/// A scheduler of flow matching whose levels may be shifted by the size of a picture, stretched, and spaced in several ways.
public protocol ShiftedFlowDefinition: FlowMatchDefinition, SigmaSpacingConfiguration where Options == NoRunOptions {
    var useDynamicShifting: Bool { get set }
    /// mu at ``baseImageSeqLen``.
    var baseShift: Double? { get set }
    /// mu at ``maxImageSeqLen``.
    var maxShift: Double? { get set }
    /// The number of image tokens that ``baseShift`` belongs to.
    var baseImageSeqLen: Int { get set }
    /// The number of image tokens that ``maxShift`` belongs to.
    var maxImageSeqLen: Int { get set }
    /// Whether levels ascend from 0 to 1.
    var invertSigmas: Bool { get set }
    /// The level that the last step begins at.
    var shiftTerminal: Double? { get set }
    /// The form of mu.
    var timeShiftType: FlowTimeShiftType { get set }

    /// The row of a step from one level to another.
    func row(from source: Double, to target: Double) -> PlanRow
}

extension ShiftedFlowDefinition {
    static var shiftedFlowParameters: [ConfigurationParameter<Self>] {
        [
            numTrainTimestepsParameter,
            .init("shift", \.shift, "Moves the levels towards noise; 1 leaves them alone, and dynamic shifting replaces it."),
            .init("use_dynamic_shifting", \.useDynamicShifting, "Whether each run brings its own shift, mu."),
            .init("base_shift", \.baseShift, "mu at base_image_seq_len, for pipelines."),
            .init("max_shift", \.maxShift, "mu at max_image_seq_len, for pipelines."),
            .init("base_image_seq_len", \.baseImageSeqLen, "The number of image tokens that base_shift belongs to."),
            .init("max_image_seq_len", \.maxImageSeqLen, "The number of image tokens that max_shift belongs to."),
            .init(
                "invert_sigmas", \.invertSigmas, "Whether levels ascend from 0 to 1, for models whose level is the share of data."),
            .init("shift_terminal", \.shiftTerminal, "Stretches the levels so that the last step begins here."),
            .init("use_karras_sigmas", \.useKarrasSigmas, "Whether the levels follow Karras et al. 2022."),
            .init("use_exponential_sigmas", \.useExponentialSigmas, "Whether the levels are evenly spaced in their logarithm."),
            .init("use_beta_sigmas", \.useBetaSigmas, "Whether the levels are the quantiles of a beta distribution."),
            sigmaScheduleParameter,
            .init("time_shift_type", \.timeShiftType, "How mu shifts: by its exponential, or linear."),
        ]
    }

    func validateShiftedFlow() throws(SchedulerError) {
        try validateFlowMatch()
        for (key, value) in [("base_shift", baseShift), ("max_shift", maxShift)] {
            if let value { try require(key, value, "finite", value.isFinite) }
        }
        try require("base_image_seq_len", baseImageSeqLen, "at least 1", baseImageSeqLen >= 1)
        try require("max_image_seq_len", maxImageSeqLen, "at least 1", maxImageSeqLen >= 1)
        try validateShiftTerminal(shiftTerminal)
        try validateSigmaSpacing()
        if invertSigmas, spacing != .timesteps, let sigmaMax {
            try require("sigma_max", sigmaMax, "at most 1 where invert_sigmas is true", sigmaMax <= 1)
        }
    }

    /// Refuses levels above 1 for steps that leave the share 1 − τ of the data: it would be negative, and samples would grow step by step.
    func validateRenoising() throws(SchedulerError) {
        guard spacing != .timesteps, let sigmaMax else { return }
        try require("sigma_max", sigmaMax, "at most 1: a step leaves the share 1 - sigma of the data", sigmaMax <= 1)
    }

    /// mu for a picture of L = `imageSequenceLength` tokens, on the line through the two lengths that the model was trained for;
    /// nil without such a line. As in diffusers' pipelines for FLUX.1,
    ///
    ///     mu = baseShift + (L − baseImageSeqLen) (maxShift − baseShift)/(maxImageSeqLen − baseImageSeqLen)
    public func mu(imageSequenceLength: Int) -> Double? {
        guard let baseShift, let maxShift, baseImageSeqLen != maxImageSeqLen else { return nil }
        let slope = (maxShift - baseShift) / (Double(maxImageSeqLen) - Double(baseImageSeqLen))
        return Double(imageSequenceLength) * slope + (baseShift - slope * Double(baseImageSeqLen))
    }

    /// The plan on the grid of a request.
    ///
    /// - Throws: `invalidValue` for a request that is out of range or doesn't fit the configuration; `unrepresentablePlan`.
    public func plan(
        _ request: TimestepRequest, options: NoRunOptions, noise: NoiseSchedule
    ) throws(SchedulerError) -> SamplingPlan {
        try plan(on: grid(request, noise: noise), options: options)
    }

    /// The plan of the rows between a grid's levels.
    ///
    /// - Throws: `invalidValue` for a grid that isn't valid; `unrepresentablePlan`.
    public func plan(on grid: TimestepGrid, options: NoRunOptions) throws(SchedulerError) -> SamplingPlan {
        let rows = zip(grid.sigmas, grid.sigmas.dropFirst()).map { [row(from: $0, to: $1)] }
        return try SamplingPlan(grid: grid, initNoiseSigma: grid.process == .flow ? 1 : grid.sigmas[0], rows: rows)
    }

    /// The levels of a request: shifted, stretched, spaced anew between their ends, rounded to float32, in this order.
    ///
    /// diffusers shifts the levels of a count twice: their ends, which are the training's, are already shifted.
    func grid(_ request: TimestepRequest, noise: NoiseSchedule) throws(SchedulerError) -> TimestepGrid {
        let count = Double(noise.count)
        let shift = try FlowShift(constant: shift, isDynamic: useDynamicShifting, type: timeShiftType, mu: request.mu)
        let levels: [Double]
        var timesteps: [Float]?
        switch request {
        case .count(let steps, _):
            try requireStepCount(steps)
            levels = shift.levels(evenLevels(count: steps, noise: noise), terminal: shiftTerminal)
        case .timesteps(let custom, _):
            try requireOrdered("timesteps", custom, by: >, within: 0...count, "from 0 to \(noise.count)")
            timesteps = custom.map { Float($0) }
            levels = shift.levels(custom.map { Float($0) / Float(count) }, terminal: shiftTerminal).map(Double.init)
        case .sigmas(let custom, _):
            levels = try self.levels(custom, shift)
        case .timestepsAndSigmas(let custom, let sigmas, _):
            try require("number of timesteps", custom.count, "the number of sigmas, \(sigmas.count)", custom.count == sigmas.count)
            for (index, timestep) in custom.enumerated() {
                try require("timesteps[\(index)]", timestep, "finite in float32", Float(timestep).isFinite)
            }
            timesteps = custom.map { Float($0) }
            levels = try self.levels(sigmas, shift)
        }
        var sigmas = try spaced(levels).map { Float($0) }
        if invertSigmas { sigmas = sigmas.map { 1 - $0 } }
        if timesteps == nil || invertSigmas { timesteps = sigmas.map { $0 * Float(count) } }
        // Levels above 1 come from another scheduler's sigma_max; there, the step is Euler's on the variance-exploding process.
        let explodes = spacing != .timesteps && (sigmaMax ?? 0) > 1
        // A float32 shift of 1 may be off by its rounding.
        if !explodes { sigmas = sigmas.map { min(max($0, 0), 1) } }
        return TimestepGrid(
            timesteps: timesteps!.map(Double.init), sigmas: sigmas.map(Double.init) + [invertSigmas ? 1 : 0],
            process: explodes ? .varianceExploding : .flow)
    }

    /// The requested levels, shifted; only their number matters if the configuration has both ends.
    private func levels(_ custom: [Double], _ shift: FlowShift) throws(SchedulerError) -> [Double] {
        if spacing != .timesteps, sigmaMin != nil, sigmaMax != nil {
            try requireStepCount(custom.count)
        } else {
            try requireOrdered("sigmas", custom, by: >, within: 0...1, "from 0 to 1")
        }
        return shift.levels(custom.map { Float($0) }, terminal: shiftTerminal).map(Double.init)
    }

    var spacing: SigmaSpacing {
        useKarrasSigmas ? .karras : useExponentialSigmas ? .exponential : useBetaSigmas ? .beta : .timesteps
    }

    private func spaced(_ levels: [Double]) throws(SchedulerError) -> [Double] {
        if spacing == .timesteps { return levels }
        let last = sigmaMin ?? levels[levels.count - 1]
        try require(
            "sigmas[\(levels.count - 1)]", last, "greater than 0 where use_exponential_sigmas is true",
            last > 0 || spacing != .exponential)
        return spacing.sigmas(count: levels.count, from: sigmaMax ?? levels[0], to: last, trainingCount: numTrainTimesteps)
    }
}
