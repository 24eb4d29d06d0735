// SPDX-License-Identifier: Apache-2.0

import DiffusionScheduling
import Drawing

/// The loop of an engine: the network, guidance and the scheduler's steps, batch by batch.
final class Pipeline {
    /// The most samples that one batch holds; a guided batch has two rows of the network for each.
    static let batchSize = 64

    let folder: ModelFolder
    private let openVINO: OpenVINO
    /// By the number of rows.
    private var networks: [Int: Network] = [:]

    /// A run's time. Outside of the network and the scheduler are the loop itself, noise and labels.
    struct Times {
        var network = Duration.zero, scheduler = Duration.zero, total = Duration.zero

        var rest: Duration { total - network - scheduler }

        /// The times of a run that makes its plan.
        func adding(plan: Duration) -> Times { Times(network: network, scheduler: scheduler + plan, total: total + plan) }
    }
    private(set) var times = Times()

    init(_ folder: ModelFolder, _ openVINO: OpenVINO) { (self.folder, self.openVINO) = (folder, openVINO) }

    /// Reads and compiles the network for the batches of a run, so that none of that is in its times.
    func prepare(_ count: Int, isGuided: Bool) throws {
        for size in Set([min(count, Self.batchSize), count % Self.batchSize]) where size > 0 {
            _ = try network(rows: isGuided ? 2 * size : size)
        }
    }

    private func network(rows: Int) throws -> Network {
        if let network = networks[rows] { return network }
        let network = try Network(openVINO, folder, rows: rows)
        networks[rows] = network
        return network
    }

    /// Takes samples from a step of the plan to its end.
    ///
    /// - Parameters:
    ///   - beginIndex: the first step of the run.
    ///   - starts: the samples at that step, one after the other.
    ///   - labels: a class for each sample; the network's last label for any class.
    ///   - guidance: nil: the network runs with the labels alone.
    ///   - noise: for the steps that draw some.
    ///   - passes: takes each step of one guided batch just before the library does, which then finds its tensors in cache.
    func run(
        _ plan: SamplingPlan, beginIndex: Int = 0, from starts: [Float], labels: [Int],
        guidance: Guidance? = nil, noise: inout TorchCPUNoise, beside passes: PassPerOperation? = nil,
        progress: ProgressBar? = nil, activity: String = ""
    ) throws -> [Float] {
        try prepare(labels.count, isGuided: guidance != nil)
        times = Times()
        let clock = ContinuousClock(), began = clock.now
        var samples: [Float] = []
        for start in stride(from: 0, to: labels.count, by: Self.batchSize) {
            let items = start..<min(start + Self.batchSize, labels.count), size = folder.elementCount
            samples += try runBatch(
                SamplingSession(plan: plan, beginIndex: beginIndex),
                from: Array(starts[items.lowerBound * size..<items.upperBound * size]), labels: labels[items], guidance: guidance,
                noise: &noise, beside: passes
            ) {
                progress?.advance(by: items.count, doing: activity)
            }
        }
        times.total = clock.now - began
        return samples
    }

    private func runBatch(
        _ session: SamplingSession, from start: [Float], labels: ArraySlice<Int>, guidance: Guidance?, noise: inout TorchCPUNoise,
        beside passes: PassPerOperation?, afterEachStep: () -> Void
    ) throws -> [Float] {
        let clock = ContinuousClock(), count = labels.count
        let network = try network(rows: guidance == nil ? count : 2 * count)
        // The second half of a guided batch is the first without its classes.
        for (row, label) in labels.enumerated() { network.classLabels[row] = Int64(label) }
        for row in count..<network.classLabels.count { network.classLabels[row] = Int64(folder.classCount) }

        var session = session, sample = start
        while let timestep = session.timestep {
            let began = clock.now
            network.setSamples(sample, scaledBy: Float(session.inputScale))
            let scaled = clock.now
            network.timesteps.update(repeating: Float(timestep))
            let stepNoise = session.needsNoise ? noise.normals(sample.count) : nil
            let told = clock.now
            try network.infer()
            let inferred = clock.now
            let half = network.output.count / 2
            if let passes {
                let halves = [network.output[..<half], network.output[half...]].map { Tensor(viewing: .init(rebasing: $0)) }
                sample.withUnsafeBufferPointer {
                    passes.step(sample: Tensor(viewing: $0), conditional: halves[0], unconditional: halves[1])
                }
            }
            let ready = clock.now
            let output = network.output.span
            var span = sample.mutableSpan
            if let guidance {
                try session.step(
                    conditional: output.extracting(..<half), unconditional: output.extracting(half...),
                    guidance: guidance, sample: &span, noise: stepNoise?.span, batchSize: count)
            } else {
                try session.step(modelOutput: output, sample: &span, noise: stepNoise?.span, batchSize: count)
            }
            times.scheduler += (scaled - began) + (clock.now - ready)
            times.network += inferred - told
            try passes?.check(sample)
            afterEachStep()
        }
        return sample
    }
}
