// SPDX-License-Identifier: Apache-2.0

import DiffusionScheduling
import Digits
import Drawing
import ExactModel
import Foundation

/// Strong guidance without overexposure: the recipe for models trained down to a signal of zero.
///
/// Guidance exaggerates the model's prediction for one digit, e_c, beyond its prediction for digits in general, e_u (Ho and
/// Salimans 2022, arXiv:2207.12598): e = e_u + g (e_c − e_u). The contrast grows with g; rescaled guidance undoes a part of the
/// growth.
///
/// Lin et al. 2023, arXiv:2305.08891: rescaled betas (section 3.1), v prediction (3.2), the spacing trailing (3.3), rescaled
/// guidance (3.4).
struct ZeroTerminalSNR: Experiment {
    static let steps = 50
    /// Samples of each of the ten digits.
    static let sampleCount = 64

    static let guidances = [Guidance(scale: 1), Guidance(scale: 3), Guidance(scale: 7.5), Guidance(scale: 7.5, rescale: 0.7)]

    let digits: DigitImages
    let mixture: DigitMixture
    let seed: UInt64

    func run() throws -> Report {
        let progress = ProgressBar(total: Self.guidances.count * 10 * Self.steps)
        defer { progress.finish() }

        var configuration = DDIMConfiguration()
        configuration.useNoiseOfStableDiffusion()
        configuration.rescaleBetasZeroSNR = true
        configuration.predictionType = .vPrediction
        configuration.timestepSpacing = .trailing
        // Clipping would hide the overexposure.
        configuration.clipSample = false

        var rows: [Row] = []
        for guidance in Self.guidances {
            let samples = try (0...9).map { digit in
                try sample(digit, guidance: guidance, configuration) { progress.advance(by: 1, doing: "digit \(digit)") }
            }
            rows.append(Row(name: guidance.name, samples: samples))
        }
        var drawing = NormalNoise(seed: seed, stream: .max)
        rows.append(
            Row(
                name: "exact draws",
                samples: (0...9).map { mixture.restricted(to: $0, of: digits).draw(Self.sampleCount, using: &drawing) }))
        rows.append(Row(name: "the data", samples: (0...9).map { digits.images(of: $0) }))
        return report(rows)
    }

    /// The recipe, as in a pipeline with a network.
    private func sample(
        _ digit: Int, guidance: Guidance, _ configuration: DDIMConfiguration, afterEachStep: () -> Void
    ) throws -> Matrix<Float> {
        let model = mixture.restricted(to: digit, of: digits)
        var scheduler = try DDIMScheduler(configuration)
        try scheduler.setTimesteps(Self.steps)
        // Every digit and guidance begins with the same noise. The first timestep has no signal, so pure noise is exact there.
        var x = NormalNoise.matrix(rows: Self.sampleCount, columns: digits.pixels.columns, seed: seed)
        for timestep in scheduler.timesteps {
            let level = try scheduler.level(atTimestep: timestep)
            try scheduler.step(
                conditional: model.predict(.vPrediction, from: x, at: level).elements,
                unconditional: mixture.predict(.vPrediction, from: x, at: level).elements, guidance: guidance, timestep: timestep,
                sample: &x.elements, batchSize: Self.sampleCount)
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
        let mean, deviation: Double
        /// The share of pixels outside −1 ... 1, which can't be displayed.
        let clippedShare: Double

        init(name: String, samples: [Matrix<Float>]) {
            (self.name, self.samples) = (name, samples)
            let pixels = samples.flatMap { $0.elements.map(Double.init) }
            let mean = pixels.reduce(0, +) / Double(pixels.count)
            self.mean = mean
            deviation = (pixels.reduce(0) { $0 + ($1 - mean) * ($1 - mean) } / Double(pixels.count)).squareRoot()
            clippedShare = Double(pixels.filter { abs($0) > 1 }.count) / Double(pixels.count)
        }
    }

    private func report(_ rows: [Row]) -> Report {
        let table = rows.map { row in
            row.name + String(repeating: " ", count: 30 - row.name.count)
                + String(format: "%6.3f  %9.3f  %13.1f %%", row.mean, row.deviation, 100 * row.clippedShare)
        }
        let head = [
            "Zero terminal SNR: DDIM, \(Self.steps) steps, guided to each of the ten digits; pixels of \(Self.sampleCount) samples "
                + "of each",
            "",
            "                                mean  deviation  beyond ±1",
        ]
        let sheet = SampleSheet(
            title: "Zero terminal SNR: guidance without overexposure",
            notes: [
                "DDIM, \(Self.steps) steps, the same noise everywhere, guided to the digits 0 to 9.",
                "Pixels run from −1 (paper) to 1 (ink). Guidance raises the contrast above the data's; rescaling takes part of "
                    + "that back.",
            ],
            remarkTitle: "mean ± deviation of the pixels",
            groups: rows.map { row in
                let remark = String(format: "%.2f ± %.2f", row.mean, row.deviation)
                return [.init(label: row.name, remark: remark, images: row.samples.map { Array($0.row(0)) })]
            }, side: DigitImages.side)
        return Report(
            text: (head + table).joined(separator: "\n"), pictures: [.init(name: "zero_snr.png", canvas: sheet.draw())])
    }
}

extension NoiseScheduleConfiguration {
    /// √β evenly spaced from √0.00085 to √0.012.
    mutating func useNoiseOfStableDiffusion() {
        betaSchedule = .scaledLinear
        betaStart = 0.00085
        betaEnd = 0.012
    }
}
