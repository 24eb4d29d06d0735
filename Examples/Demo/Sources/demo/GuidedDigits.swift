// SPDX-License-Identifier: Apache-2.0

import DiffusionScheduling
import Digits
import Drawing
import ExactModel
import Foundation

/// Guidance to a digit: the scale that the model needs, and its cost in variety.
///
/// The model predicts e_c for the digit and e_u for digits in general, and the step itself computes e_u + g (e_c − e_u) (Ho and
/// Salimans 2022, arXiv:2207.12598, equation 6). g = 0 ignores the digit, g = 1 is exact; larger values make the digit clearer and
/// the samples more alike.
struct GuidedDigits: Experiment {
    static let steps = 20
    /// Samples of each of the ten digits.
    static let sampleCount = 64
    static let guidances = [
        Guidance(scale: 0), Guidance(scale: 0.5), Guidance(scale: 1), Guidance(scale: 2), Guidance(scale: 4), Guidance(scale: 8),
        Guidance(scale: 8, rescale: 0.7),
    ]

    let digits: DigitImages
    let mixture: DigitMixture
    let seed: UInt64

    func run() throws -> Report {
        let progress = ProgressBar(total: Self.guidances.count * 10 * Self.steps)
        defer { progress.finish() }
        var configuration = DPMSolverMultistepConfiguration()
        configuration.useNoiseOfStableDiffusion()
        configuration.useKarrasSigmas = true
        let plan = try DPMSolverMultistepScheduler(configuration).plan(.count(Self.steps))

        let rows = try Self.guidances.map { guidance in
            Row(
                name: guidance.name,
                samples: try (0...9).map { digit in
                    try sample(digit, guidance: guidance, plan) { progress.advance(by: 1, doing: "digit \(digit)") }
                }, digits: digits)
        }
        var drawing = NormalNoise(seed: seed, stream: .max)
        let exact = Row(
            name: "exact draws",
            samples: (0...9).map { mixture.restricted(to: $0, of: digits).draw(Self.sampleCount, using: &drawing) },
            digits: digits)
        return report(rows + [exact])
    }

    private func sample(
        _ digit: Int, guidance: Guidance, _ plan: SamplingPlan, afterEachStep: () -> Void
    ) throws -> Matrix<Float> {
        let model = mixture.restricted(to: digit, of: digits)
        var session = SamplingSession(plan: plan)
        // Every digit and guidance begins with the same noise.
        var x = NormalNoise.matrix(rows: Self.sampleCount, columns: digits.pixels.columns, seed: seed)
        for level in plan.levels.dropLast() {
            try session.step(
                conditional: model.predict(.epsilon, from: x, at: level).elements,
                unconditional: mixture.predict(.epsilon, from: x, at: level).elements, guidance: guidance, sample: &x.elements,
                batchSize: Self.sampleCount)
            afterEachStep()
        }
        return x
    }

    // MARK: Report

    /// The results for one guidance scale.
    private struct Row {
        let name: String
        /// The samples of each digit.
        let samples: [Matrix<Float>]
        /// The share of samples whose nearest image shows the requested digit.
        let recognisedShare: Double
        /// A pixel's deviation among the samples of a digit, relative to its deviation among the digit's images.
        let variety: Double

        init(name: String, samples: [Matrix<Float>], digits: DigitImages) {
            (self.name, self.samples) = (name, samples)
            var recognised = 0
            for (digit, samples) in samples.enumerated() {
                recognised += (0..<samples.rows).filter { digits.nearestLabel(to: Array(samples.row($0))) == digit }.count
            }
            recognisedShare = Double(recognised) / Double(samples.map(\.rows).reduce(0, +))
            let spreads = samples.map(\.pixelDeviation), images = (0...9).map { digits.images(of: $0).pixelDeviation }
            variety = spreads.reduce(0, +) / images.reduce(0, +)
        }
    }

    private func report(_ rows: [Row]) -> Report {
        let table = rows.map { row in
            row.name.padding(toLength: 30, withPad: " ", startingAt: 0)
                + String(format: "%11.1f %%  %7.2f", 100 * row.recognisedShare, row.variety)
        }
        let head = [
            "Guidance: DPM-Solver++ of order 2, \(Self.steps) steps, guided to each of the ten digits; \(Self.sampleCount) samples of each",
            "",
            "                               recognised  variety",
        ]
        let foot = [
            "",
            "Recognised: the nearest of the 1,797 images shows the digit. Variety: deviation of the pixels within a digit over the data's.",
        ]
        let sheet = SampleSheet(
            title: "Guidance to a digit",
            notes: [
                "DPM-Solver++ of order 2, \(Self.steps) steps, the same noise everywhere, guided to the digits 0 to 9.",
                "Guidance of 0 doesn't ask for a digit, 1 is the exact model of it; more makes digits clearer and more alike.",
            ],
            remarkTitle: "recognised",
            groups: rows.map { row in
                let remark = String(format: "%.0f %%", 100 * row.recognisedShare)
                return [.init(label: row.name, remark: remark, images: row.samples.map { Array($0.row(0)) })]
            }, side: DigitImages.side)
        return Report(
            text: (head + table + foot).joined(separator: "\n"), pictures: [.init(name: "guidance.png", canvas: sheet.draw())])
    }
}

extension Guidance {
    /// The guidance's name in tables and pictures.
    var name: String {
        String(format: "guidance %g", scale) + (rescale == 0 ? "" : String(format: ", rescaled by %g", rescale))
    }
}

extension Matrix<Float> {
    /// The root mean square, over all columns, of the deviation within a column.
    fileprivate var pixelDeviation: Double {
        var means = [Double](repeating: 0, count: columns), sum = 0.0
        for index in elements.indices { means[index % columns] += Double(elements[index]) / Double(rows) }
        for index in elements.indices {
            let difference = Double(elements[index]) - means[index % columns]
            sum += difference * difference
        }
        return (sum / Double(rows * columns)).squareRoot()
    }
}
