import DiffusionScheduling

/// A scheduler whose steps are measured: its plan, and the streams of a step in the midst of a run.
struct StepCase {
    let scheduler: String
    let order: Int
    let plan: SamplingPlan
    /// The batch items of the tensors, which matter for thresholding.
    let batchSize: Int
    let sizes: [Int]

    /// 50 steps: from the third to the last but one all are alike.
    static let stepCount = 50

    /// The tensors that a step reads, by name.
    var inputs: [String] {
        let row = plan.coefficients(at: Self.stepCount / 2, remembered: plan.historyLength)
        let combinations = [row.nextSample, row.prediction] + (row.history.map { [$0] } ?? [])
        var names = ["sample", "model output"]
        if combinations.contains(where: { $0.noise != 0 }) { names.append("noise") }
        return names + row.nextSample.history.indices.map { "remembered \($0 + 1)" }
    }

    /// The tensors that a step writes: the next sample, and what it remembers.
    var outputCount: Int { plan.historyLength > 0 ? 2 : 1 }

    var isStochastic: Bool { plan.isStochastic }

    var name: String { "\(scheduler) \(order)" }
}

extension StepCase {
    /// Elements of a tensor: a toy's; 4 × 64 × 64, a latent; then batches of them; pictures of 1024 × 1024 × 3, and a video.
    static let sizes = [64, 16_384, 65_536, 524_288, 3_145_728, 25_165_824]
    /// Pictures of 256 × 256 × 3 and 512 × 512 × 3, four of each: pixels are what thresholding is for.
    static let thresholdSizes = [64, 16_384, 65_536, 786_432, 3_145_728]

    static func all() throws -> [StepCase] {
        var cases = [try StepCase("DDIM", order: 1, DDIMScheduler(.with { $0.clipSample = false }))]
        cases.append(try StepCase("DDIM clipped", order: 1, DDIMScheduler()))
        for order in 1...3 {
            cases.append(try StepCase("DEIS", order: order, DEISMultistepScheduler(.with { $0.solverOrder = order })))
        }
        for order in 1...3 {
            cases.append(try StepCase("DPM-Solver++", order: order, DPMSolverMultistepScheduler(.with { $0.solverOrder = order })))
        }
        cases.append(
            try StepCase(
                "SDE-DPM-Solver++", order: 2, DPMSolverMultistepScheduler(.with { $0.algorithmType = .sdeDPMSolverPlusPlus })))
        cases.append(
            try StepCase(
                "DEIS thresholded", order: 3,
                DEISMultistepScheduler(.with { ($0.solverOrder, $0.thresholding, $0.sampleMaxValue) = (3, true, 2) }),
                batchSize: 4, sizes: thresholdSizes))
        return cases
    }

    private init(
        _ name: String, order: Int, _ scheduler: some PlannedScheduler, batchSize: Int = 1, sizes: [Int] = Self.sizes
    ) throws {
        self.init(
            scheduler: name, order: order, plan: try scheduler.plan(.count(Self.stepCount)), batchSize: batchSize, sizes: sizes)
    }
}

extension SchedulerConfiguration {
    /// The defaults, changed.
    static func with(_ change: (inout Self) -> Void) -> Self {
        var configuration = Self()
        change(&configuration)
        return configuration
    }
}
