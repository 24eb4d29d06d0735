// SPDX-License-Identifier: Apache-2.0

/// A multistep scheduler for EDM models: DPM-Solver++ on the variance-exploding process, with preconditioned outputs.
public protocol EDMMultistepDefinition: EDMDefinition, MultistepDefinition {
    /// The number of model outputs that a step combines.
    var solverOrder: Int { get set }
    /// The approximation of the integral in steps of order 2; `midpoint` is the better choice for most.
    var solverType: DPMSolver.SolverType { get set }
    /// Whether the last steps of a run of fewer than 15 use lower orders, which keeps short runs stable.
    var lowerOrderFinal: Bool { get set }
    /// Whether the last step is of order 1.
    var eulerAtFinal: Bool { get set }
    /// The integral that is approximated.
    var integral: DPMSolver.AlgorithmType { get }
}

extension EDMMultistepDefinition {
    public static var noiseType: NoiseType { .promoted }

    static func solverOrderParameter(_ orders: String) -> ConfigurationParameter<Self> {
        .init("solver_order", \.solverOrder, "How many model outputs a step combines: \(orders).")
    }
    static var solverTypeParameters: [ConfigurationParameter<Self>] {
        [
            .init("solver_type", \.solverType, "How a step of order 2 approximates the integral."),
            .init("lower_order_final", \.lowerOrderFinal, "Whether runs of fewer than 15 steps end with lower orders."),
            .init("euler_at_final", \.eulerAtFinal, "Whether the last step is of order 1."),
            finalSigmasTypeParameter,
        ]
    }

    /// The solver: EDM's preconditioning around DPM-Solver's integral.
    public var solver: EDMSolver {
        EDMSolver(
            preconditioning: preconditioning,
            integrator: DPMSolver(algorithmType: integral, solverType: solverType, predictionType: predictionType))
    }
    /// The configuration's order; at most 2 for the stochastic integral, which has no third (diffusers fails at the first such step).
    public var highestSolverOrder: Int { integral.isStochastic ? min(solverOrder, 2) : solverOrder }
    public var initNoiseSigma: Double { startingNoise }
    public func inputScale(at level: NoiseLevel) -> Double { preconditioning.inputScale(at: level.sigma) }

    /// The grid of a number of steps.
    ///
    /// - Throws: `invalidValue` for other requests, and for a number that no plan may have.
    public func grid(_ request: TimestepRequest, noise: NoiseSchedule) throws(SchedulerError) -> TimestepGrid {
        grid(levels(count: try request.onlyCount()), final: finalSigmasType == .zero ? 0 : sigmaMin)
    }

    public func highestOrder(atStep index: Int, of stepCount: Int) -> Int {
        DiffusionScheduling.highestOrder(
            atStep: index, of: stepCount, lowerOrderFinal: lowerOrderFinal,
            firstOrderAtEnd: eulerAtFinal || finalSigmasType == .zero)
    }
}

/// A solver that extrapolates the clean sample of ``EDMPreconditioning``.
public struct EDMSolver: MultistepSolver {
    var preconditioning: EDMPreconditioning
    var integrator: DPMSolver

    public var isStochastic: Bool { integrator.isStochastic }

    public func prediction(at level: NoiseLevel) -> Combination { preconditioning.prediction(at: level.sigma) }

    public func conversion(at level: NoiseLevel, clamped: Bool) -> Combination {
        clamped ? Combination(.prediction) : prediction(at: level)
    }

    public func update(from s: NoiseLevel, to t: NoiseLevel, previous: [NoiseLevel]) -> MultistepUpdate {
        integrator.update(from: s, to: t, previous: previous)
    }
}
