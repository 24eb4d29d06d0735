// SPDX-License-Identifier: Apache-2.0

import DiffusionScheduling

/// A scheduler whose steps are measured: its plan, and a step's streams in the midst of a run.
struct StepCase {
    let scheduler: String
    let order: Int
    let plan: SamplingPlan
    /// The number of batch items, which matters for thresholding.
    var batchSize = 1
    var sizes = Self.sizes
    var types = TensorTypes.single
    var forms: [StepForm] = [.inPlace, .outOfPlace]
    /// The guidance of guided steps, whose model outputs come in pairs.
    var guidance: Guidance?
    /// A cheaper plan of the same scheduler: for thresholded steps, the plan without thresholds.
    var plainPlan: SamplingPlan?

    /// 50 steps, which are alike from the third to the last but one.
    static let stepCount = 50

    /// The tensors that a step reads, by name.
    var inputs: [String] {
        let combinations = [row.nextSample, row.prediction] + row.stores.map(\.value)
        var names = ["sample", "model output"]
        if guidance != nil { names.append("unconditional output") }
        if combinations.contains(where: { $0.noise != 0 }) { names.append("noise") }
        for slot in 0..<plan.slotCount where combinations.contains(where: { $0[.slot(slot)] != 0 }) { names.append("slot \(slot)") }
        return names
    }

    /// The row of a step in the midst of a run.
    private var row: PlanRow { plan.row(at: Self.stepCount / 2, age: plan.warmUp) }

    /// The model outputs of a step.
    var modelOutputCount: Int { guidance == nil ? 1 : 2 }

    /// The number of times that a step reads each model output: rescaled guidance needs their deviations first.
    var modelOutputReads: Int { (guidance?.rescale ?? 0) == 0 ? 1 : 2 }

    /// The tensors that a step writes: the next sample and the stored slots, except one for steps that keep the model output's
    /// memory.
    func outputCount(_ form: StepForm) -> Int { 1 + row.stores.count - (form == .consuming ? 1 : 0) }

    var isStochastic: Bool { plan.isStochastic }

    var name: String { "\(scheduler) \(order)" }

    /// The steps without guidance or thresholds.
    var plain: StepCase {
        var plain = self
        plain.guidance = nil
        if let plainPlan {
            plain = StepCase(scheduler: scheduler, order: order, plan: plainPlan, batchSize: batchSize, sizes: sizes)
        }
        return plain
    }
}

extension StepCase {
    /// Elements of a tensor: a toy; a latent of 4 × 64 × 64; batches of latents; pictures of 1024 × 1024 × 3; a video.
    static let sizes = [64, 16_384, 65_536, 524_288, 3_145_728, 25_165_824]
    /// The sizes for cases that are compared only with other steps.
    static let comparedSizes = [64, 65_536, 524_288, 3_145_728]
    /// The sizes for rows that only few classes have: a toy and one in cache.
    static let fewSizes = [64, 65_536]
    /// Four pictures each of 256 × 256 × 3 and 512 × 512 × 3, since thresholding is meant for pixels.
    static let thresholdSizes = [64, 16_384, 65_536, 786_432, 3_145_728]
    /// The size from which only the largest orders are measured, in the usual and in a half type: the others add nothing new.
    static let hugeElements = 20_000_000

    static func all() throws -> [StepCase] {
        // The greatest threshold is out of reach, so each item's quantile matters, and is compared.
        func deis(_ order: Int, thresholding: Bool = false) throws -> SamplingPlan {
            try plan(
                DEISMultistepScheduler(.with { ($0.solverOrder, $0.thresholding, $0.sampleMaxValue) = (order, thresholding, 1000) })
            )
        }
        func dpmSolver(_ order: Int) throws -> SamplingPlan {
            try plan(DPMSolverMultistepScheduler(.with { $0.solverOrder = order }))
        }
        var cases = [
            StepCase(scheduler: "DDIM", order: 1, plan: try plan(DDIMScheduler(.with { $0.clipSample = false }))),
            StepCase(
                scheduler: "DDIM clipped", order: 1, plan: try plan(DDIMScheduler()), sizes: sizes.filter { $0 < hugeElements }),
        ]
        for order in 1...3 {
            let plan = try deis(order)
            cases.append(StepCase(scheduler: "DEIS", order: order, plan: plan, sizes: sizes(order: order)))
        }
        for order in 1...3 {
            let plan = try dpmSolver(order)
            cases.append(StepCase(scheduler: "DPM-Solver++", order: order, plan: plan, sizes: sizes(order: order)))
        }
        let smaller = sizes.filter { $0 < hugeElements }
        cases.append(StepCase(scheduler: "Euler", order: 1, plan: try plan(EulerDiscreteScheduler()), sizes: smaller))
        cases.append(
            StepCase(scheduler: "PNDM", order: 4, plan: try plan(PNDMScheduler(.with { $0.skipPRKSteps = true })), sizes: smaller))
        for order in 2...3 {
            let plan = try plan(UniPCMultistepScheduler(.with { $0.solverOrder = order }))
            cases.append(StepCase(scheduler: "UniPC", order: order, plan: plan, sizes: smaller))
        }
        cases.append(
            StepCase(
                scheduler: "SDE-DPM-Solver++", order: 2,
                plan: try plan(DPMSolverMultistepScheduler(.with { $0.algorithmType = .sdeDPMSolverPlusPlus })),
                sizes: sizes(order: 2)))
        cases += try otherRows()
        cases.append(
            StepCase(
                scheduler: "DEIS thresholded", order: 3, plan: try deis(3, thresholding: true), batchSize: 4, sizes: thresholdSizes,
                plainPlan: try deis(3)))
        cases.append(
            StepCase(
                scheduler: "DEIS", order: 3, plan: try deis(3), sizes: comparedSizes, types: [.init(.float32)],
                forms: [.consuming]))
        for (name, plan) in [("DEIS", try deis(3)), ("DPM-Solver++", try dpmSolver(3))] {
            cases.append(
                StepCase(scheduler: name, order: 3, plan: plan, sizes: comparedSizes, types: TensorTypes.mixed, forms: [.inPlace]))
        }
        for order in 2...3 {
            for (name, plan) in [("DEIS", try deis(order)), ("DPM-Solver++", try dpmSolver(order))] {
                for (kind, guidance) in [("guided", Guidance(scale: 7.5)), ("rescaled", Guidance(scale: 7.5, rescale: 0.7))] {
                    cases.append(
                        StepCase(
                            scheduler: "\(name) \(kind)", order: order, plan: plan, sizes: comparedSizes, types: [.init(.float32)],
                            forms: [.inPlace], guidance: guidance))
                }
            }
        }
        return cases
    }

    /// The kinds of rows that the schedulers above don't have: other numbers of inputs, outputs or noises in one row.
    ///
    /// Steps that alternate between two kinds of rows are measured only as toys: a bare loop has the streams of one kind.
    private static func otherRows() throws -> [StepCase] {
        [
            StepCase(scheduler: "DDPM", order: 1, plan: try plan(DDPMScheduler()), sizes: fewSizes),
            StepCase(scheduler: "LCM", order: 1, plan: try plan(LCMScheduler()), sizes: fewSizes),
            StepCase(scheduler: "IPNDM", order: 4, plan: try plan(IPNDMScheduler()), sizes: fewSizes),
            StepCase(scheduler: "SA-Solver", order: 2, plan: try plan(SASolverScheduler()), sizes: fewSizes),
            StepCase(scheduler: "Heun", order: 2, plan: try plan(HeunDiscreteScheduler()), sizes: [64]),
            StepCase(scheduler: "KDPM2", order: 2, plan: try plan(KDPM2DiscreteScheduler()), sizes: [64]),
            StepCase(scheduler: "KDPM2 ancestral", order: 2, plan: try plan(KDPM2AncestralDiscreteScheduler()), sizes: [64]),
            StepCase(scheduler: "DPM-Solver++ singlestep", order: 2, plan: try plan(DPMSolverSinglestepScheduler()), sizes: [64]),
            StepCase(scheduler: "DPM-Solver SDE", order: 2, plan: try plan(DPMSolverSDEScheduler()), sizes: [64]),
        ]
    }

    private static func plan(_ scheduler: some PlannedScheduler) throws -> SamplingPlan { try scheduler.plan(.count(stepCount)) }

    private static func sizes(order: Int) -> [Int] { sizes.filter { $0 < hugeElements || order == 3 } }
}

extension SchedulerConfiguration {
    /// The default configuration with changes.
    static func with(_ change: (inout Self) -> Void) -> Self {
        var configuration = Self()
        change(&configuration)
        return configuration
    }
}
