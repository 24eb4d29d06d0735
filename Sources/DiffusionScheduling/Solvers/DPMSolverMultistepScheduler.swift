// SPDX-License-Identifier: Apache-2.0

/// DPM-Solver and DPM-Solver++: fast multistep solvers of the diffusion ODE, and of the diffusion SDE (Lu et al. 2022,
/// arXiv:2206.00927 and arXiv:2211.01095).
///
/// ```swift
/// var scheduler = try DPMSolverMultistepScheduler(contentsOf: "model/scheduler")
/// try scheduler.setTimesteps(20)
/// for timestep in scheduler.timesteps {
///     try scheduler.step(modelOutput: model(sample, timestep), timestep: timestep, sample: &sample)
/// }
/// ```
///
/// Order 2 of `dpmsolver++` or `sde-dpmsolver++` suits guided sampling, order 3 unconditional sampling; order 1 is DDIM.
/// The stochastic algorithms need noise at each step. Thresholding is for models of pixels, not of latents. Models that were
/// trained as Stable Diffusion was want `stepsOffset` 1, and with the cosine schedule `lambdaMinClipped` −5.1.
///
/// The class of that name in diffusers is the reference; see the README for where this one differs.
public struct DPMSolverMultistepScheduler: MultistepScheduler {
    public let configuration: DPMSolverMultistepConfiguration
    public let noiseSchedule: NoiseSchedule
    public var session: SamplingSession?
    private let usedCount: Int

    public init(_ configuration: DPMSolverMultistepConfiguration = .init()) throws(SchedulerError) {
        try configuration.validate()
        self.configuration = configuration
        noiseSchedule = try NoiseSchedule(configuration)
        usedCount = try configuration.usedCount(of: noiseSchedule)
    }

    /// Plans a run of that many steps and goes to its start; `mu` shifts flow sigmas by e^mu if `useDynamicShifting`.
    public mutating func setTimesteps(_ count: Int, mu: Double?) throws(SchedulerError) {
        try setTimesteps(.count(count, mu: mu))
    }

    public var solver: DPMSolver {
        DPMSolver(
            algorithmType: configuration.algorithmType, solverType: configuration.solverType,
            predictionType: configuration.predictionType)
    }
    /// The configuration's order; at most 2 for `sdeDPMSolver`, which has no third (diffusers fails at the first such step).
    public var solverOrder: Int {
        configuration.algorithmType == .sdeDPMSolver ? min(configuration.solverOrder, 2) : configuration.solverOrder
    }
    public var clamp: PredictionClamp { configuration.clamp }
    public var modelLearnsVariance: Bool { configuration.learnsVariance }

    public func grid(_ request: TimestepRequest) throws(SchedulerError) -> TimestepGrid {
        try configuration.denoisingGrid(
            request, noise: noiseSchedule, usedCount: usedCount, final: configuration.finalSigmasType,
            flowShift: configuration.flowShift(request),
            // diffusers rounds only where the schedule isn't the cosine one, whose first timesteps would coincide.
            roundsTimesteps: configuration.betaSchedule != .squaredcosCapV2)
    }

    public func highestOrder(atStep index: Int, of stepCount: Int) -> Int {
        DiffusionScheduling.highestOrder(
            atStep: index, of: stepCount, lowerOrderFinal: configuration.lowerOrderFinal,
            firstOrderAtEnd: configuration.eulerAtFinal || configuration.finalSigmasType == .zero)
    }
}

/// DPM-Solver backwards in time: from a picture to the noise that `DPMSolverMultistepScheduler` makes the picture of
/// (diffusers' `DPMSolverMultistepInverseScheduler`; for editing real pictures, Mokady et al. 2022, arXiv:2211.09794).
///
/// ```swift
/// var inverse = try DPMSolverMultistepInverseScheduler(from: scheduler.configuration)
/// try inverse.setTimesteps(50)
/// for timestep in inverse.timesteps {
///     try inverse.step(modelOutput: model(sample, timestep), timestep: timestep, sample: &sample)
/// }
/// ```
///
/// Inverting is deterministic: a configuration with a stochastic algorithm is inverted by the same algorithm without noise.
public struct DPMSolverMultistepInverseScheduler: MultistepScheduler {
    public let configuration: DPMSolverMultistepInverseConfiguration
    public let noiseSchedule: NoiseSchedule
    public var session: SamplingSession?
    private let usedCount: Int

    public init(_ configuration: DPMSolverMultistepInverseConfiguration = .init()) throws(SchedulerError) {
        try configuration.validate()
        self.configuration = configuration
        noiseSchedule = try NoiseSchedule(configuration)
        usedCount = try configuration.usedCount(of: noiseSchedule)
    }

    public var solver: DPMSolver {
        DPMSolver(
            algorithmType: configuration.algorithmType.deterministicTwin, solverType: configuration.solverType,
            predictionType: configuration.predictionType)
    }
    public var solverOrder: Int { configuration.solverOrder }
    public var clamp: PredictionClamp { configuration.clamp }
    public var modelLearnsVariance: Bool { configuration.learnsVariance }

    public func grid(_ request: TimestepRequest) throws(SchedulerError) -> TimestepGrid {
        if case .count(_, .some(let mu)) = request {
            try require("mu", mu, "left out: this scheduler has no dynamic shifting", false)
        }
        return try configuration.invertingGrid(request, noise: noiseSchedule, usedCount: usedCount)
    }

    public func highestOrder(atStep index: Int, of stepCount: Int) -> Int {
        DiffusionScheduling.highestOrder(
            atStep: index, of: stepCount, lowerOrderFinal: configuration.lowerOrderFinal,
            firstOrderAtEnd: configuration.eulerAtFinal)
    }
}

extension DPMSolverConfiguration {
    /// The training timesteps that `lambda_min_clipped` leaves.
    fileprivate func usedCount(of noise: NoiseSchedule) throws(SchedulerError) -> Int {
        let count = noise.usedCount(lambdaMin: lambdaMinClipped)
        try require("lambda_min_clipped", lambdaMinClipped, "less than the greatest lambda of the noise schedule", count > 0)
        return count
    }
}
