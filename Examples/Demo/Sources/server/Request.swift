// SPDX-License-Identifier: Apache-2.0

import DiffusionScheduling
import Digits

/// A request to the server: for a given digit or any, by a plan of the requester's choice.
struct Request {
    let number: Int
    /// The time of arrival, in model calls.
    let arrival: Double
    let planIndex: Int
    /// The digit and the strength of guidance to it; nil for any digit.
    let guided: (digit: Int, guidance: Guidance)?
    let seed: UInt64
    /// The step before which the request pauses, saved to bytes; nil for most requests.
    let pausesBefore: Int?
}

/// A request in progress: all of its state except for its row of the batch.
struct Run {
    let request: Request
    var session: SamplingSession
    var sample: [Float]
    /// The noise of stochastic steps. Each request has its own source, so its picture depends on nothing else.
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

/// The denoisers, evaluated row by row: a row's result must not depend on its neighbours, and a matrix product's last bits would.
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

    /// The noise in a sample, for digits in general and for the requested digit.
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
