import DiffusionScheduling
import Digits

/// A scheduler configuration to be run with various orders and numbers of steps.
struct Solver {
    /// The scheduler's name in diffusers.
    let name: String
    /// The orders that the scheduler has; 1 alone for one whose configuration has no such key.
    let orders: [Int]
    private let path: String
    private let predictionType: PredictionType

    /// - Parameter path: a `scheduler_config.json`, or the folder it is in.
    init(configuration path: String) throws {
        let configuration = try SchedulerCatalog.makeScheduler(contentsOf: path).configuration
        guard case .object(let values) = configuration.json else { preconditionFailure("a configuration is a JSON object") }
        name = type(of: configuration).className
        orders = values["solver_order"] == nil ? [1] : [1, 2, 3]
        predictionType = values["prediction_type"].flatMap(PredictionType.init(json:)) ?? .epsilon
        self.path = path
    }

    struct Run {
        let samples: Matrix<Float>
        let evaluations: Int
        let schedulerSeconds, modelSeconds: Double
    }

    /// Turns noise into samples: the loop that every pipeline has.
    func run(
        from noise: Matrix<Float>, order: Int, steps: Int, mixture: DigitMixture, afterEachStep: () -> Void
    ) throws -> Run {
        let clock = ContinuousClock()
        var (schedulerTime, modelTime) = (Duration.zero, Duration.zero)

        var scheduler = try SchedulerCatalog.makeScheduler(
            contentsOf: path, overrides: orders == [1] ? [:] : ["solver_order": JSONValue(integerLiteral: order)])
        schedulerTime += try clock.measure { try scheduler.setTimesteps(steps) }
        guard let plan = scheduler.plan else { throw SchedulerError.timestepsNotSet }

        var x = noise
        for i in x.elements.indices { x.elements[i] *= Float(scheduler.initNoiseSigma) }
        for (level, timestep) in zip(plan.levels, plan.timesteps) {
            // A network would be told the timestep. The exact model takes the noise level itself, which lies between timesteps.
            var modelOutput = x
            modelTime += clock.measure { modelOutput = mixture.predict(predictionType, from: x, at: level) }
            schedulerTime += try clock.measure {
                try scheduler.step(
                    modelOutput: modelOutput.elements, timestep: timestep, sample: &x.elements, batchSize: x.rows)
            }
            afterEachStep()
        }
        return Run(
            samples: x, evaluations: plan.timesteps.count,
            schedulerSeconds: schedulerTime / .seconds(1), modelSeconds: modelTime / .seconds(1))
    }
}
