// SPDX-License-Identifier: Apache-2.0

import CBareLoop
import DiffusionScheduling

/// `setTimesteps` for 50 steps.
final class PlanCost<S: Scheduler>: Contestant {
    private var scheduler: S

    init(_ scheduler: S) { self.scheduler = scheduler }

    func run(steps: Int) throws { for _ in 0..<steps { try scheduler.setTimesteps(StepCase.stepCount) } }
}

/// All schedulers with all their grids of noise levels, measured together.
struct PlanGroup {
    private var names: [(scheduler: String, sigmas: String)] = []
    private var contestants: [any Contestant] = []

    /// - Parameter wants: whether a row, given by name, is to be measured.
    init(wants: (String) -> Bool) throws {
        func add(_ scheduler: String, _ sigmas: String, _ make: () throws -> some Scheduler) throws {
            guard wants("plan/\(scheduler)/\(sigmas)") else { return }
            names.append((scheduler, sigmas))
            contestants.append(PlanCost(try make()))
        }
        try add("DDIM", "linear") { try DDIMScheduler() }
        for grid in SigmaChoice.allCases {
            try add("DEIS 3", grid.rawValue) {
                try DEISMultistepScheduler(
                    .with { configuration in
                        configuration.solverOrder = 3
                        grid.choose(in: &configuration)
                    })
            }
        }
        for grid in SigmaChoice.allCases {
            try add("DPM-Solver++ 3", grid.rawValue) {
                try DPMSolverMultistepScheduler(
                    .with { configuration in
                        configuration.solverOrder = 3
                        grid.choose(in: &configuration)
                    })
            }
        }
        try add("DPM-Solver++ 3", "lu") {
            try DPMSolverMultistepScheduler(.with { ($0.solverOrder, $0.useLuLambdas) = (3, true) })
        }
    }

    func run(effort: MeasurementEffort) throws -> [PlanResult] {
        if contestants.isEmpty { return [] }
        let measurement = try Measurement(contestants, effort: effort, threads: 1, caches: .warm)
        return zip(names, measurement.outcomes).map { name, outcome in
            PlanResult(
                scheduler: name.scheduler, sigmas: name.sigmas, time: outcome.timing, allocations: outcome.allocationsPerStep)
        }
    }
}

/// The grids of noise levels that all multistep schedulers have.
private enum SigmaChoice: String, CaseIterable {
    case timesteps, karras, exponential, beta, flow

    func choose(in configuration: inout some SigmaGridConfiguration) {
        configuration.useKarrasSigmas = self == .karras
        configuration.useExponentialSigmas = self == .exponential
        configuration.useBetaSigmas = self == .beta
        configuration.useFlowSigmas = self == .flow
    }
}
