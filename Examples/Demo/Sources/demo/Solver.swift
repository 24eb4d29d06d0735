// SPDX-License-Identifier: Apache-2.0

import DiffusionScheduling

extension PlannedScheduler {
    /// The model's required prediction type. The class for flow matching has no key for it.
    var predictionType: PredictionType {
        if noiseSchedule.process == .flow { return .flowPrediction }
        return configuration.json["prediction_type"].flatMap(PredictionType.init(json:)) ?? .epsilon
    }
}

/// A scheduler's configuration file, for runs with various orders and numbers of steps.
struct Solver {
    /// The scheduler's name in diffusers.
    let name: String
    let predictionType: PredictionType
    /// Whether steps add noise.
    let isStochastic: Bool
    /// Whether runs lead from pictures to noise.
    let isInverse: Bool
    /// The scheduler of the unchanged file.
    private let scheduler: any PlannedScheduler
    /// The schedulers by order; a configuration without that key has one alone, under order 1.
    private let schedulersByOrder: [Int: any PlannedScheduler]
    /// A short plan that answers questions about all plans of the file.
    private let example: SamplingPlan

    /// - Parameter path: a `scheduler_config.json`, or its folder.
    init(configuration path: String) throws {
        scheduler = try SchedulerCatalog.makeScheduler(contentsOf: path)
        let configuration = scheduler.configuration
        name = type(of: configuration).className
        predictionType = scheduler.predictionType
        example = try scheduler.plan(.count(2))
        isStochastic = example.isStochastic
        isInverse = example.sigmas[0] < example.sigmas[example.stepCount]

        var schedulers = [1: scheduler]
        if configuration.json["solver_order"] != nil {
            for order in 1...3 {
                // Some algorithms don't have every order.
                schedulers[order] = try? SchedulerCatalog.makeScheduler(
                    contentsOf: path, overrides: ["solver_order": JSONValue(order)])
            }
        }
        schedulersByOrder = schedulers
    }

    var orders: [Int] { schedulersByOrder.keys.sorted() }

    /// The number of noise levels that the model was trained with; DDIM can't have more steps.
    var trainingCount: Int { scheduler.noiseSchedule.count }

    /// The noise level that runs start at.
    var firstLevel: NoiseLevel { example.levels[0] }

    /// - Precondition: `order` is one of `orders`.
    func plan(order: Int, steps: Int) throws -> SamplingPlan {
        guard let scheduler = schedulersByOrder[order] else { preconditionFailure("\(name) has no order \(order)") }
        return try scheduler.plan(.count(steps))
    }

    /// DDIM for the same model, from the noisiest timestep to the same last level.
    ///
    /// nil for inverse runs and for flow-matching models, which DDIM doesn't fit.
    var ddim: DDIMScheduler? {
        if isInverse || example.grid.process != .variancePreserving { return nil }
        return try? DDIMScheduler(
            from: scheduler.configuration,
            overrides: [
                "clip_sample": false, "timestep_spacing": "trailing", "previous_timestep": "schedule",
                "set_alpha_to_one": .bool(example.sigmas.last == 0),
            ])
    }
}
