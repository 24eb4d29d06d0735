// SPDX-License-Identifier: Apache-2.0

import DiffusionScheduling
import Digits

/// What somebody asks the server for: a digit or any, by a plan of the requester's choice.
struct Request {
    let number: Int
    /// When it arrives, in model calls.
    let arrival: Double
    let planIndex: Int
    /// The digit, and how strongly to guide to it; nil for any.
    let guided: (digit: Int, guidance: Guidance)?
    let seed: UInt64
    /// The step before which the request is put aside for a while, saved to bytes; nil for most.
    let pausesBefore: Int?
}

/// A request on its way: all that the server keeps of it besides its row of the batch.
struct Run {
    let request: Request
    var session: SamplingSession
    var sample: [Float]
    /// Of the steps that add noise; each request has its own, so that its picture depends on nothing else.
    var noise: TorchCPUNoise

    init(_ request: Request, plan: SamplingPlan, pixelCount: Int) {
        self.request = request
        session = SamplingSession(plan: plan)
        noise = TorchCPUNoise(seed: request.seed)
        sample = noise.normals(pixelCount)
    }

    /// The noise for the next step; nil if it needs none.
    mutating func nextNoise() -> [Float]? {
        let needsNoise = session.plan.needsNoise(at: session.stepIndex, age: session.age)
        return needsNoise ? noise.normals(sample.count) : nil
    }
}

/// The denoisers, row by row: what a row's answer is must not depend on who stands beside it, and a matrix product's last bits do.
struct Model {
    private let unconditional: DigitMixture
    private let conditional: [DigitMixture]
    let pixelCount: Int

    init() throws {
        let digits = try DigitImages()
        let mixture = DigitMixture(images: digits.pixels, bandwidth: 0.45)
        unconditional = mixture
        conditional = (0...9).map { digit in
            var model = mixture
            model.logWeights = digits.labels.map { $0 == digit ? 0 : -.infinity }
            return model
        }
        pixelCount = digits.pixels.columns
    }

    /// The noise in a sample: of any digit, and of the one that is asked for.
    func predict(_ sample: [Float], at level: NoiseLevel, digit: Int?) -> (unconditional: [Float], conditional: [Float]?) {
        (noise(in: sample, at: level, by: unconditional), digit.map { noise(in: sample, at: level, by: conditional[$0]) })
    }

    /// ε = (x − A E[x₀ | x]) / S
    private func noise(in sample: [Float], at level: NoiseLevel, by mixture: DigitMixture) -> [Float] {
        let x = Matrix<Float>(rows: 1, columns: sample.count, elements: sample)
        let clean = mixture.posteriorMean(of: x, signalRate: level.signalRate, noiseRate: level.noiseRate)
        let (signal, divisor) = (Float(level.signalRate), Float(level.noiseRate))
        return zip(sample, clean.elements).map { ($0 - signal * $1) / divisor }
    }
}
