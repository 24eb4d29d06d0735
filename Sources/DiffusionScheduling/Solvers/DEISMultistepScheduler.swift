// SPDX-License-Identifier: Apache-2.0

/// DEIS: the diffusion exponential integrator sampler, a fast deterministic multistep solver (Zhang and Chen 2022,
/// arXiv:2204.13902).
///
/// ```swift
/// var scheduler = try DEISMultistepScheduler(contentsOf: "model/scheduler")
/// try scheduler.setTimesteps(20)
/// for timestep in scheduler.timesteps {
///     try scheduler.step(modelOutput: model(sample, timestep), timestep: timestep, sample: &sample)
/// }
/// ```
///
/// Each step combines the outputs of up to three steps and calls the model once. Order 2 suits guided sampling, order 3
/// unconditional sampling; order 1 is DDIM. Thresholding is for models of pixels, not of latents. Models that were trained as
/// Stable Diffusion was want `stepsOffset` 1.
///
/// The class of that name in diffusers is the reference; see the README for where this one differs.
public struct DEISMultistepScheduler: MultistepScheduler {
    public let configuration: DEISMultistepConfiguration
    public let noiseSchedule: NoiseSchedule
    public var session: SamplingSession?

    public init(_ configuration: DEISMultistepConfiguration = .init()) throws(SchedulerError) {
        try configuration.validate()
        self.configuration = configuration
        noiseSchedule = try NoiseSchedule(configuration)
    }

    /// Plans a run of that many steps and goes to its start; `mu` shifts flow sigmas by e^mu if `useDynamicShifting`.
    public mutating func setTimesteps(_ count: Int, mu: Double?) throws(SchedulerError) {
        try setTimesteps(.count(count, mu: mu))
    }

    public var solver: DEISSolver { DEISSolver(predictionType: configuration.predictionType) }
    public var solverOrder: Int { configuration.solverOrder }
    public var clamp: PredictionClamp { configuration.clamp }

    public func grid(_ request: TimestepRequest) throws(SchedulerError) -> TimestepGrid {
        // The least training level is another one on flow grids, and diffusers has no word on it.
        let endsAtLeastFlow = configuration.useFlowSigmas && configuration.finalSigmasType == .sigmaMin
        let grid = try configuration.denoisingGrid(
            request, noise: noiseSchedule, usedCount: noiseSchedule.count,
            final: endsAtLeastFlow ? nil : configuration.finalSigmasType, flowShift: configuration.flowShift(request))
        guard endsAtLeastFlow, let last = grid.sigmas.last else { return grid }
        return TimestepGrid(
            timesteps: grid.timesteps, sigmas: grid.sigmas.dropLast() + [min(last, 1 / Double(noiseSchedule.count))], process: .flow
        )
    }

    public func highestOrder(atStep index: Int, of stepCount: Int) -> Int {
        DiffusionScheduling.highestOrder(
            atStep: index, of: stepCount, lowerOrderFinal: configuration.lowerOrderFinal,
            firstOrderAtEnd: configuration.finalSigmasType == .zero)
    }
}
