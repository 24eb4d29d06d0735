// SPDX-License-Identifier: Apache-2.0

import DiffusionScheduling

/// A class of the library, run with numbers of model evaluations that all classes allow.
struct ComparedScheduler {
    let order: Int
    /// The spacing of a run's noise levels.
    let levels: String
    let predictionType: PredictionType
    /// The number of steps for a number of evaluations.
    let steps: (_ evaluations: Int) -> Int
    private let className: String
    private let scheduler: any PlannedScheduler

    private init<S: PlannedScheduler>(
        order: Int, levels: String, _ scheduler: S, steps: @escaping (_ evaluations: Int) -> Int = { $0 }
    ) {
        (self.order, self.levels, self.scheduler, self.steps) = (order, levels, scheduler, steps)
        (className, predictionType) = (S.Configuration.className, scheduler.predictionType)
    }

    /// The class name without "Scheduler", which all names have.
    var name: String { className.replacing("Scheduler", with: "") }
    /// The class name without the words that many names share.
    var shortName: String { name.replacing("Multistep", with: "").replacing("Discrete", with: "") }

    func plan(evaluations: Int) throws -> SamplingPlan { try scheduler.plan(.count(steps(evaluations))) }

    /// All classes that sample, made from one configuration file.
    ///
    /// The file asks for Karras' noise levels. Classes without that key take evenly spaced timesteps from the noisiest on. Flow
    /// matching has its own noise schedule, and reads nothing from the file.
    static func all(contentsOf path: String) throws -> [ComparedScheduler] {
        let third: [String: JSONValue] = ["solver_order": 3]
        let even: [String: JSONValue] = ["timestep_spacing": "trailing", "clip_sample": false]
        func with(_ overrides: [String: JSONValue]) -> [String: JSONValue] { even.merging(overrides) { $1 } }
        return [
            .init(order: 3, levels: "Karras", try DEISMultistepScheduler(contentsOf: path, overrides: third)),
            .init(order: 3, levels: "Karras", try DPMSolverMultistepScheduler(contentsOf: path, overrides: third)),
            .init(order: 3, levels: "Karras", try UniPCMultistepScheduler(contentsOf: path, overrides: third)),
            // The first step has two evaluations.
            .init(
                order: 4, levels: "timesteps", try PNDMScheduler(contentsOf: path, overrides: with(["skip_prk_steps": true])),
                steps: { $0 - 1 }),
            // Every step but the last one has two evaluations.
            .init(
                order: 2, levels: "Karras", try HeunDiscreteScheduler(contentsOf: path), steps: { ($0 + 1) / 2 }),
            .init(order: 1, levels: "Karras", try EulerDiscreteScheduler(contentsOf: path)),
            .init(
                order: 1, levels: "timesteps",
                try DDIMScheduler(contentsOf: path, overrides: with(["previous_timestep": "schedule"]))),
            .init(order: 1, levels: "flow", try FlowMatchEulerDiscreteScheduler(.init())),
            .init(order: 1, levels: "timesteps", try EulerAncestralDiscreteScheduler(contentsOf: path, overrides: even)),
            .init(order: 1, levels: "timesteps", try DDPMScheduler(contentsOf: path, overrides: even)),
            // Runs take some of the original steps, 50 by default.
            .init(
                order: 1, levels: "timesteps",
                try LCMScheduler(contentsOf: path, overrides: with(["original_inference_steps": 1000]))),
        ]
    }
}
