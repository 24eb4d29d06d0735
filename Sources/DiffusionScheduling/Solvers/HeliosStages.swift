// SPDX-License-Identifier: Apache-2.0

/// The stages of a pyramid, which divide the training's timesteps by the lengths of their parts of the flow (Jin et al. 2024,
/// arXiv:2410.05954, sections 3.2 and 3.3).
struct HeliosStages {
    /// Both ends of each stage's T timesteps, which are evenly spaced. A stage includes `first` but not `end`.
    let first: [Double], end: [Double]

    /// - Parameters:
    ///   - range: the shares of the training's levels where the stages begin, and where the last one ends.
    ///   - gamma: the bound of the correlation of the noise that is added between stages.
    init(count stages: Int, range: [Double], gamma: Double, noise: NoiseSchedule) {
        let count = noise.count
        func place(_ share: Double) -> Int { Int(share * Double(count)) }
        /// The training's values from noise to data.
        func value(_ values: [Double], _ index: Int) -> Double { values[count - 1 - min(index, count - 1)] }
        let lengths = (0..<stages).map { stage in
            var start = value(noise.sigmas, place(range[stage]))
            let end = place(range[stage + 1])
            if stage > 0 {
                let clean = 1 - start
                start = 1 - 1 / ((1 + 1 / gamma).squareRoot() * (1 - clean) + clean) * clean
            }
            return start - (end < count ? value(noise.sigmas, end) : 0)
        }
        /// The sum of the lengths before each stage, and of all.
        let sums = lengths.reduce(into: [0.0]) { sums, length in sums.append(sums[sums.count - 1] + length) }
        func share(_ stage: Int) -> Double { sums[stages] > 0 ? sums[stage] / sums[stages] : 0 }
        first = (0..<stages).map { stage in min(value(noise.timesteps, place(share(stage))), 999) }
        end = (0..<stages).map { stage in
            value(noise.timesteps, stage == stages - 1 ? count - 1 : place(share(stage + 1)))
        }
    }
}

extension HeliosConfiguration {
    public func makeNoiseSchedule() throws(SchedulerError) -> NoiseSchedule {
        let levels = linspace(1, 1 / count, count: solver.numTrainTimesteps + 1).dropFirst().map { 1 - $0 }
        let sigmas = FlowShift.constant(shift).levels(levels, terminal: nil)
        return NoiseSchedule(sigmas: sigmas, timesteps: sigmas.map { $0 * count }, process: .flow)
    }

    private var count: Double { Double(solver.numTrainTimesteps) }

    /// The levels of a run with their timesteps, and the level 0 after them.
    func grid(
        _ request: TimestepRequest, options: Options, noise: NoiseSchedule
    ) throws(SchedulerError) -> TimestepGrid {
        let isDynamic = solver.useDynamicShifting
        let shift = try FlowShift(constant: 1, isDynamic: isDynamic, type: solver.timeShiftType, mu: request.mu)
        func shifted<Real: BinaryFloatingPoint>(_ sigmas: [Real]) -> [Real] {
            isDynamic ? shift.levels(sigmas, terminal: nil) : sigmas
        }
        let isLone = stages == 1, stage = isLone ? 0 : options.stageIndex ?? 0
        try require("stage_index", stage, "from 0 to \(stages - 1)", (0..<stages).contains(stage))
        var sigmas: [Double], timesteps: [Double]
        switch request {
        case .count(let steps, _):
            try requireStepCount(steps)
            let isDistilled = schedulerType == .dmd, isAmplified = isDistilled && options.isAmplifyFirstChunk
            let levelCount = isDistilled ? (isAmplified ? 2 * steps : steps) + 1 : steps
            let used = isDistilled ? levelCount - 1 : levelCount
            try requireStepCount(used)
            if isLone {
                let even = linspace(1, 1 / count, count: levelCount + 1).prefix(used).map { Float($0) }
                let levels = shifted(self.shift == 1 ? even : loneShift.levels(even, terminal: nil))
                (sigmas, timesteps) = (levels.map(Double.init), levels.map { Double($0 * Float(count)) })
            } else {
                let stages = HeliosStages(count: stages, range: stageRange, gamma: gamma, noise: noise)
                let first = stages.first[stage]
                let last = linspace(first, stages.end[stage], count: noise.count + 1)[noise.count - 1]
                let lastLevel = linspace(0.999, 0, count: noise.count + 1)[noise.count - 1]
                sigmas = shifted(Array(linspace(0.999, lastLevel, count: levelCount).prefix(used)))
                timesteps = Array(linspace(first, last, count: levelCount).prefix(used))
                if isDynamic { timesteps = sigmas.map { min(first, last) + $0 * abs(first - last) } }
            }
        case .sigmas(let levels, _) where isLone:
            try requireOrdered("sigmas", levels, by: >, within: 0...1, "from 0 to 1")
            sigmas = shifted(schedulerType == .dmd ? levels.dropLast() : levels)
            try require(
                "number of sigmas", levels.count, "at least 2: the last one isn't used where scheduler_type is dmd", !sigmas.isEmpty
            )
            timesteps = sigmas.map { $0 * count }
        default:
            throw .invalidValue(
                key: "timesteps or sigmas", value: "given", allowed: "left out: only sigmas may be given, where stages is 1")
        }
        return TimestepGrid(
            timesteps: timesteps, exactSigmas: sigmas + [0], process: solver.useFlowSigmas ? .flow : .variancePreserving)
    }

    /// The shift of a single stage, for which κ is used as mu.
    private var loneShift: FlowShift {
        .weight(solver.timeShiftType == .linear ? shift : exponential(min(shift, 80)))
    }
}

/// The solver of a Helios run.
public enum HeliosSchedulerType: String, ConfigurationKeyword {
    /// UniPC: a predictor, and a corrector without another call of the model.
    case unipc
    /// Euler's method.
    case euler
    /// The levels of a distilled model.
    case dmd
}
