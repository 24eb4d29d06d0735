// SPDX-License-Identifier: Apache-2.0

import DiffusionScheduling
import Digits
import Drawing
import Foundation

/// The loss of a picture on the way to its noise and back: first the inverse scheduler, then the scheduler, as in editing real
/// pictures (Mokady et al. 2022, arXiv:2211.09794).
///
/// The way back must begin at the other's end, and end at its beginning. Inverse runs take a clean picture as one at the training's
/// least noise level, so sampling runs must end there and not at zero: `finalSigmasType` `sigmaMin` for DPM-Solver, `setAlphaToOne`
/// false for DDIM. Both runs then visit the same noise levels with each spacing below. With levels even in λ and with Karras',
/// either run's last step stays at its level, so n evaluations are n − 1 steps.
struct Inversion: Experiment {
    static let imageCount = 64
    static let sheetSteps = [10, 25, 50]
    static let tableSteps = [10, 25, 50, 100]
    static let columns = 10

    let digits: DigitImages
    let bandwidth: Double
    let seed: UInt64

    /// A scheduler and its inverse.
    struct Method {
        let name: String
        let sampling: any PlannedScheduler
        let inverting: any PlannedScheduler

        /// DPM-Solver++.
        static func dpmSolver(
            order: Int, _ remark: String, _ change: (inout DPMSolverMultistepConfiguration) -> Void
        ) throws -> Method {
            var configuration = DPMSolverMultistepConfiguration()
            configuration.useNoiseOfStableDiffusion()
            configuration.solverOrder = order
            configuration.finalSigmasType = .sigmaMin
            change(&configuration)
            return Method(
                name: "DPM-Solver++ order \(order), \(remark)", sampling: try DPMSolverMultistepScheduler(configuration),
                inverting: try DPMSolverMultistepInverseScheduler(from: configuration))
        }

        static func ddim() throws -> Method {
            var configuration = DDIMConfiguration()
            configuration.useNoiseOfStableDiffusion()
            configuration.clipSample = false
            configuration.setAlphaToOne = false
            configuration.timestepSpacing = .trailing
            configuration.previousTimestep = .schedule
            return Method(
                name: "DDIM, timesteps", sampling: try DDIMScheduler(configuration),
                inverting: try DDIMInverseScheduler(from: configuration))
        }
    }

    struct RoundTrip {
        let steps: Int
        let noise, reconstruction: Matrix<Float>
        let errors: ErrorSummary
    }

    func run() throws -> Report {
        let images = digits.pixels.prefix(Self.imageCount)
        let known = DigitMixture(images: digits.pixels, bandwidth: bandwidth)
        let unknown = DigitMixture(images: digits.pixels.dropFirst(Self.imageCount), bandwidth: bandwidth)
        var drawing = NormalNoise(seed: seed, stream: .max)
        let draws = known.draw(Self.imageCount, using: &drawing)

        let best = try Method.dpmSolver(order: 2, "even in λ") { $0.useExponentialSigmas = true }
        let ddim = try Method.ddim()
        let methods = [
            best,
            try .dpmSolver(order: 2, "Karras") { $0.useKarrasSigmas = true },
            try .dpmSolver(order: 2, "timesteps") { _ in },
            try .dpmSolver(order: 1, "even in λ") { $0.useExponentialSigmas = true },
            try .dpmSolver(order: 3, "even in λ") { $0.useExponentialSigmas = true },
            try .dpmSolver(order: 2, "ends at σ = 0") {
                $0.useExponentialSigmas = true; $0.finalSigmasType = .zero
            },
            ddim,
        ]

        let progress = ProgressBar(total: (methods.count + 2) * 2 * Self.tableSteps.reduce(0, +) * images.rows)
        defer { progress.finish() }
        func roundTrips(_ method: Method, _ images: Matrix<Float>, _ mixture: DigitMixture) throws -> [RoundTrip] {
            let sampler = Sampler(mixture: mixture, progress: progress)
            return try Self.tableSteps.map { steps in
                let noise = try sampler.run(method.inverting.plan(.count(steps)), from: images, activity: method.name).samples
                let back = try sampler.run(method.sampling.plan(.count(steps)), from: noise, activity: method.name).samples
                return RoundTrip(
                    steps: steps, noise: noise, reconstruction: back,
                    errors: ErrorSummary(back.rootMeanSquareDistances(to: images)))
            }
        }

        var lines = [
            "Image to noise and back: RMSE over \(images.rows) digits by the number of evaluations in either direction,",
            "the exponent p of RMSE ∝ evaluationsᵖ, and the deviation of the noise, with the most evaluations.",
            "",
            Self.tableHead,
        ]
        var byName: [String: [RoundTrip]] = [:]
        for method in methods {
            let trips = try roundTrips(method, images, known)
            byName[method.name] = trips
            lines.append(Self.tableRow(method.name, trips))
        }
        lines += [
            "",
            "Of order 2 the error in h² is the same in both directions and cancels out: the third power is left. Even",
            "timesteps leave a wide gap of λ at the clean end, which spoils it. Ending at σ = 0 takes away noise that was",
            "never added.",
            "",
            "The same by \(best.name), from pictures of other kinds",
            "",
            Self.tableHead,
        ]
        lines += [
            Self.tableRow("draws from the model", try roundTrips(best, draws, known)),
            Self.tableRow("digits the model hasn't seen", try roundTrips(best, images, unknown)),
            "",
            "Digits that the model was made of lie at the centres of its components, and their noise is faint. Digits that",
            "it hasn't seen lie far outside of all components, where the way back is unstable.",
        ]

        let sheet = sheet(of: images, methods: [best, ddim].map { ($0.name, byName[$0.name] ?? []) })
        return Report(text: lines.joined(separator: "\n"), pictures: [.init(name: "inversion.png", canvas: sheet.draw())])
    }

    // MARK: Text

    private static let tableHead = "".padded(to: 36) + tableSteps.map { String(format: "%9d", $0) }.joined() + "      p   noise"

    private static func tableRow(_ name: String, _ trips: [RoundTrip]) -> String {
        let errors = trips.map { String(format: "%9.6f", $0.errors.rootMeanSquare) }.joined()
        let noise = trips.last?.noise.rootMeanSquare ?? 0
        return name.padded(to: 36) + errors + String(format: "%7.1f  %6.2f", slope(trips), noise)
    }

    /// The slope of ln RMSE over ln n, by least squares.
    private static func slope(_ trips: [RoundTrip]) -> Double {
        let x = trips.map { log(Double($0.steps)) }, y = trips.map { log($0.errors.rootMeanSquare) }
        let meanX = x.reduce(0, +) / Double(x.count), meanY = y.reduce(0, +) / Double(y.count)
        let covariance = zip(x, y).reduce(0) { $0 + ($1.0 - meanX) * ($1.1 - meanY) }
        return covariance / x.reduce(0) { $0 + ($1 - meanX) * ($1 - meanX) }
    }

    // MARK: Picture

    private func sheet(of images: Matrix<Float>, methods: [(name: String, trips: [RoundTrip])]) -> SampleSheet {
        func pictures(_ matrix: Matrix<Float>) -> [[Float]] { (0..<Self.columns).map { Array(matrix.row($0)) } }
        func row(_ label: String, _ steps: Int, _ cells: (RoundTrip) -> SampleSheet.Cells) -> SampleSheet.Row {
            .init(label: label, cells: methods.compactMap { $0.trips.first { $0.steps == steps }.map(cells) })
        }
        let digits = SampleSheet.Row(
            label: "digit", cells: methods.map { _ in SampleSheet.Cells(images: pictures(images)) })
        let groups = Self.sheetSteps.map { steps in
            [
                row("its noise, \(steps) steps", steps) { .init(images: pictures($0.noise)) },
                row("back, \(steps) steps", steps) {
                    .init(images: pictures($0.reconstruction), remark: String(format: "%.5f", $0.errors.rootMeanSquare))
                },
                row("error × 10", steps) {
                    .init(images: Self.magnified(pictures($0.reconstruction), minus: pictures(images)))
                },
            ]
        }
        return SampleSheet(
            title: "From a digit to its noise, and from the noise back to the digit",
            notes: [
                "An inverse scheduler takes the digit to noise, and its scheduler takes that noise back, with as many steps.",
                "Noise levels: evenly spaced in λ = ln(signal/noise) on the left, those of evenly spaced timesteps on the right.",
                "RMSE: between digit and reconstruction, over \(images.rows) digits; pixels run from −1 (paper) to 1 (ink).",
                "The model was made of these very digits, so that their noise is faint and still has something of their shape.",
            ],
            blockTitles: methods.map(\.name), remarkTitle: "RMSE", groups: [[digits]] + groups, side: DigitImages.side)
    }

    /// The difference of two pictures, tenfold, as ink on paper.
    private static func magnified(_ pictures: [[Float]], minus others: [[Float]]) -> [[Float]] {
        zip(pictures, others).map { picture, other in zip(picture, other).map { 2 * 10 * abs($0 - $1) - 1 } }
    }
}
