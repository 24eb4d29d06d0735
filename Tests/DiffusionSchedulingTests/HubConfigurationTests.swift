// SPDX-License-Identifier: Apache-2.0

import Foundation
import Testing

@testable import DiffusionScheduling

/// The scheduler files of well-known models, as shipped: Tests/HubConfigurations.
@Suite struct HubConfigurationTests {
    static let folder = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
        .appending(path: "HubConfigurations")

    /// The request that a model's pipeline makes.
    struct Request: Decodable {
        enum Sigmas: Decodable {
            /// Evenly spaced levels from 1 to 1/n.
            case linspace
            case list([Double])

            init(from decoder: any Decoder) throws {
                let container = try decoder.singleValueContainer()
                if let list = try? container.decode([Double].self) {
                    self = .list(list)
                } else {
                    self = .linspace
                }
            }
        }

        let steps: Int
        let sigmas: Sigmas?
        let timesteps: [Double]?
        let mu: Double?

        var request: TimestepRequest {
            let levels: [Double]? =
                switch sigmas {
                case .linspace?: (0..<steps).map { 1 + (1 / Double(steps) - 1) * Double($0) / Double(max(steps - 1, 1)) }
                case .list(let list)?: list
                case nil: nil
                }
            return switch (timesteps, levels) {
            case (let timesteps?, let levels?): .timestepsAndSigmas(timesteps, levels, mu: mu)
            case (let timesteps?, nil): .timesteps(timesteps)
            case (nil, let levels?): .sigmas(levels, mu: mu)
            case (nil, nil): .count(steps, mu: mu)
            }
        }
    }

    static func requests() throws -> [String: Request] {
        try JSONDecoder().decode([String: Request].self, from: Data(contentsOf: folder.appending(path: "requests.json")))
    }

    /// Each file loads, plans 20 steps and steps to a finite sample.
    @Test func everyFileRuns() throws {
        let requests = try Self.requests()
        var running = 0
        for (model, request) in requests.sorted(by: { $0.key < $1.key }) {
            do throws(SchedulerError) {
                let scheduler = try SchedulerCatalog.makeScheduler(contentsOf: Self.folder.appending(path: model).path)
                let plan = try scheduler.plan(request.request)
                let steps = request.steps - (type(of: scheduler).countsEnd ? 1 : 0)
                #expect(plan.stepCount >= steps, "\(model) has \(plan.stepCount) evaluations")
                try #expect(Self.finalSample(of: plan).allSatisfy(\.isFinite), "\(model)")
                running += 1
            } catch {
                Issue.record("\(model): \(error)")
            }
        }
        print("\(running) of \(requests.count) scheduler files of models run")
    }

    /// Flax's classes had torch's parameters, so their files are read as torch's.
    @Test func filesOfFlax() throws {
        let scheduler = try SchedulerCatalog.makeScheduler(
            contentsOf: Self.folder.appending(path: "stable-diffusion-2-1-flax").path)
        #expect((scheduler as? DDIMScheduler)?.configuration.predictionType == .vPrediction)
        let flax = #"{"_class_name": "FlaxKarrasVeScheduler", "s_churn": 40}"#
        #expect((try SchedulerCatalog.makeScheduler(json: flax) as? KarrasVeScheduler)?.configuration.sChurn == 40)
        #expect(
            "\(try #require(fault { _ = try SchedulerCatalog.makeScheduler(json: #"{"_class_name": "FlaxRePaintScheduler"}"#) }))"
                .hasPrefix("scheduler RePaintScheduler is not supported: its steps"))
    }

    /// A run of a small latent with a model whose outputs are of order 1.
    private static func finalSample(of plan: SamplingPlan) throws(SchedulerError) -> [Float] {
        var session = SamplingSession(plan: plan)
        var sample = GoldenProblem.initialSample.map { Float($0 * plan.initNoiseSigma) }
        while session.timestep != nil {
            let input = sample.map { Double($0) * session.inputScale }
            let output = input.map { Float($0 / (1 + $0 * $0).squareRoot()) }
            let noise = GoldenProblem.noise(step: session.stepIndex).map { Float($0) }
            try session.step(
                modelOutput: plan.withVariance(output), sample: &sample, noise: noise, batchSize: GoldenProblem.batchSize)
        }
        return sample
    }
}
