// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import DiffusionScheduling
import Digits
import Drawing
import Foundation

/// Real digits taken to their noise by an inverse scheduler, and back.
///
/// The way back must begin where the way there ended, and end where it began. A clean picture counts as one at the least noise level of
/// the training, so sampling ends there, too, and not at zero.
struct Invert: ParsableCommand {
    static let defaultSteps = [10, 25, 50, 100]
    static let configuration = CommandConfiguration(
        abstract: "Takes real digits to noise and back, and prints the error: inverted.png.",
        discussion:
            "The schedulers are DPM-Solver++ of order 2 and DDIM with their inverses, for the model's noise levels; --sampler has no effect."
    )

    @OptionGroup var options: Options

    @Option(parsing: .upToNextOption, help: "Numbers of steps in either direction. (default: 10 25 50 100)")
    var steps: [Int] = []

    func run() throws {
        try Self.run(Setup(options), steps: steps.isEmpty ? Self.defaultSteps : steps)
    }

    private static let digitCount = 64
    private static let columns = 10

    private struct Method {
        let name: String
        let sampling, inverting: any PlannedScheduler
    }

    private struct RoundTrip {
        let steps: Int
        let noise, back: [Float]
        let error, deviation: Double
    }

    static func run(_ setup: Setup, steps: [Int]) throws {
        let digits = try setup.digits()
        let model = setup.folder.scheduler.configuration
        // Levels even in the logarithm of signal over noise: those of even timesteps leave a wide gap at the clean end.
        let dpmSolver: [String: JSONValue] = ["final_sigmas_type": "sigma_min", "use_exponential_sigmas": true, "solver_order": 2]
        let ddim: [String: JSONValue] = [
            "clip_sample": false, "set_alpha_to_one": false, "timestep_spacing": "trailing", "previous_timestep": "schedule",
        ]
        let methods = [
            Method(
                name: "DPM-Solver++ 2, levels even in λ",
                sampling: try DPMSolverMultistepScheduler(from: model, overrides: dpmSolver),
                inverting: try DPMSolverMultistepInverseScheduler(from: model, overrides: dpmSolver)),
            Method(
                name: "DDIM, even timesteps", sampling: try DDIMScheduler(from: model, overrides: ddim),
                inverting: try DDIMInverseScheduler(from: model, overrides: ddim)),
        ]
        let images = digits.pixels.prefix(digitCount), labels = Array(digits.labels.prefix(digitCount))
        let progress = ProgressBar(total: methods.count * 2 * steps.reduce(0, +) * digitCount)
        defer { progress.finish() }
        let trips = try methods.map { method in
            try steps.map { count in
                var noise = TorchCPUNoise(seed: setup.seed)
                let there = try setup.pipeline.run(
                    method.inverting.plan(.count(count)), from: images.elements, labels: labels, noise: &noise, progress: progress,
                    activity: "to noise")
                let back = try setup.pipeline.run(
                    method.sampling.plan(.count(count)), from: there, labels: labels, noise: &noise, progress: progress,
                    activity: "back")
                return RoundTrip(
                    steps: count, noise: there, back: back, error: zip(back, images.elements).rootMeanSquareDifference,
                    deviation: setup.matrix(there).rootMeanSquare)
            }
        }
        progress.finish()

        print("\(digitCount) digits to noise and back: RMSE by the number of steps in either direction, and the noise's deviation")
        print("with the most steps, which is 1 for noise as the training has it:\n")
        print("".padded(to: 34) + steps.map { String(format: "%9d", $0) }.joined() + "  deviation")
        for (method, trips) in zip(methods, trips) {
            let errors = trips.map { String(format: "%9.5f", $0.error) }.joined()
            print(method.name.padded(to: 34) + errors + String(format: "%11.2f", trips.last?.deviation ?? .nan))
        }
        try setup.save(sheet(of: images, methods: methods.map(\.name), trips, setup), as: "inverted.png")
        print()
    }

    private static func sheet(of images: Matrix<Float>, methods: [String], _ trips: [[RoundTrip]], _ setup: Setup) -> SampleSheet {
        func first(_ samples: [Float]) -> [[Float]] { Array(setup.pictures(samples).prefix(columns)) }
        let digits = first(images.elements)
        let groups = trips[0].indices.map { index in
            let trips = trips.map { $0[index] }, steps = trips[0].steps
            return [
                SampleSheet.Row(label: "its noise, \(steps) steps", cells: trips.map { .init(images: first($0.noise)) }),
                SampleSheet.Row(
                    label: "back, \(steps) steps",
                    cells: trips.map { .init(images: first($0.back), remark: String(format: "%.4f", $0.error)) }),
            ]
        }
        return SampleSheet(
            title: "From a real digit to its noise, and back",
            notes: ["An inverse scheduler takes the digit to noise, and its scheduler takes that noise back, with as many steps."],
            blockTitles: methods, remarkTitle: "RMSE",
            groups: [[.init(label: "digit", cells: methods.map { _ in .init(images: digits) })]] + groups, side: setup.folder.side)
    }
}

extension String {
    func padded(to width: Int) -> String { self + String(repeating: " ", count: max(width - count, 0)) }
    func leftPadded(to width: Int) -> String { String(repeating: " ", count: max(width - count, 0)) + self }
}
