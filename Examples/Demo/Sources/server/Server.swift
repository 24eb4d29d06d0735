// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import DiffusionScheduling
import Foundation

@main
struct Server: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "server",
        abstract: "Serves many requests with one model: continuous batching against whole batches.",
        discussion: """
            Requests for handwritten digits arrive at random (Poisson), each with a scheduler, an order and a number of steps of \
            its own, most of them guided, and share a pool of rows. With continuous batching a request joins as soon as a row is \
            free and leaves at its last step; a whole batch begins together, and its rows are free when the longest request is \
            done. One model call takes one unit of time, however many rows are filled, as on a device that the batch fits.

            Afterwards every request is run alone, and its picture has to have the same bits.
            """)

    @Option(help: "Number of requests.")
    var requests = 400

    @Option(help: "Rows of the pool.")
    var rows = 16

    @Option(help: "Requests that arrive per model call, on average.")
    var rate = 0.85

    @Option(help: "Seed of arrivals, requests and noise.")
    var seed: UInt64 = 0

    func validate() throws {
        guard (1...100_000).contains(requests) else {
            throw ValidationError("--requests is \(requests), but must be from 1 to 100000")
        }
        guard (1...1024).contains(rows) else { throw ValidationError("--rows is \(rows), but must be from 1 to 1024") }
        guard rate > 0, rate.isFinite else { throw ValidationError("--rate is \(rate), but must be greater than 0") }
    }

    func run() throws {
        let model = try Model()
        let plans = try Self.plans()
        let queue = Self.requests(count: requests, rate: rate, plans: plans, seed: seed)
        let steps = queue.map { plans[$0.planIndex].stepCount }.reduce(0, +)
        print(
            "\(requests) requests of \(plans.map { String($0.stepCount) }.joined(separator: ", ")) steps by \(plans.count) schedulers, "
                + "\(steps) steps in all; \(rate) arrive per model call, \(rows) rows.\n")

        let continuous = try serve(queue, with: RowPool(rowCount: rows, model: model, plans: plans), isContinuous: true)
        let whole = try serve(queue, with: RowPool(rowCount: rows, model: model, plans: plans), isContinuous: false)
        print("                     model calls  rows filled  requests  latency in model calls: p50    p95    p99  measured")
        for (name, outcome) in [("continuous batching", continuous), ("whole batches", whole)] {
            let latencies = outcome.latencies.sorted()
            func percentile(_ share: Double) -> Double { latencies[min(Int(share * Double(latencies.count)), latencies.count - 1)] }
            print(
                name.padding(toLength: 19, withPad: " ", startingAt: 0)
                    + String(
                        format: "  %11d  %9.1f %%  %4.2f/call  %28.1f %6.1f %6.1f  %6.2f s", outcome.calls,
                        100 * Double(steps) / Double(outcome.calls * rows), Double(requests) / Double(outcome.calls),
                        percentile(0.5),
                        percentile(0.95), percentile(0.99), outcome.seconds))
        }

        let differing = try queue.filter { request in
            let alone = try Self.runAlone(request, plan: plans[request.planIndex], model: model)
            return [continuous, whole].contains { $0.samples[request.number].map(\.bitPattern) != alone.map(\.bitPattern) }
        }
        print("\n\(continuous.pauses) requests were put aside, saved to bytes, and restored into another row.")
        guard differing.isEmpty else {
            print(
                "\(differing.count) of \(requests) requests differ from the same request run alone, the first is \(differing[0].number)."
            )
            throw ExitCode.failure
        }
        print("All \(requests) pictures have the bits of the same request run alone, in both ways of serving.")
    }

    // MARK: Requests

    private static func plans() throws -> [SamplingPlan] {
        var deis = DEISMultistepConfiguration(), dpmSolver = DPMSolverMultistepConfiguration(), ddim = DDIMConfiguration()
        (deis.solverOrder, deis.useKarrasSigmas) = (3, true)
        (dpmSolver.solverOrder, dpmSolver.useKarrasSigmas) = (2, true)
        (ddim.clipSample, ddim.timestepSpacing) = (false, .trailing)
        var stochastic = dpmSolver
        stochastic.algorithmType = .sdeDPMSolverPlusPlus
        return [
            try DEISMultistepScheduler(deis).plan(.count(8)), try DPMSolverMultistepScheduler(dpmSolver).plan(.count(12)),
            try DPMSolverMultistepScheduler(stochastic).plan(.count(20)), try DDIMScheduler(ddim).plan(.count(30)),
        ]
    }

    private static func requests(count: Int, rate: Double, plans: [SamplingPlan], seed: UInt64) -> [Request] {
        var random = SplitMix64(state: seed)
        var time = 0.0
        return (0..<count).map { number in
            // The time between two arrivals of a Poisson process.
            time -= log(1 - Double.random(in: 0..<1, using: &random)) / rate
            let planIndex = Int.random(in: plans.indices, using: &random), isGuided = Int.random(in: 0..<4, using: &random) > 0
            let digit = Int.random(in: 0...9, using: &random)
            let guidance = Guidance(
                scale: [1.5, 3, 6].randomElement(using: &random)!, rescale: Bool.random(using: &random) ? 0.7 : 0)
            let pause = Int.random(in: 1..<plans[planIndex].stepCount, using: &random)
            return Request(
                number: number, arrival: time, planIndex: planIndex, guided: isGuided ? (digit, guidance) : nil,
                seed: random.next(), pausesBefore: Int.random(in: 0..<8, using: &random) == 0 ? pause : nil)
        }
    }

    // MARK: Serving

    private struct Outcome {
        var samples: [[Float]]
        var latencies: [Double] = []
        var calls = 0
        var pauses = 0
        var seconds = 0.0
    }

    private func serve(_ requests: [Request], with pool: RowPool, isContinuous: Bool) throws -> Outcome {
        var pool = pool, waiting = requests[...], now = 0.0
        var outcome = Outcome(samples: Array(repeating: [], count: requests.count))
        let clock = ContinuousClock(), began = clock.now
        while !waiting.isEmpty || !pool.isEmpty {
            if pool.isEmpty, let next = waiting.first { now = max(now, next.arrival) }
            if isContinuous { try pool.resume() }
            if isContinuous || pool.isEmpty {
                for row in pool.freeRows {
                    guard let request = waiting.first, request.arrival <= now else { break }
                    pool.admit(request, to: row)
                    waiting.removeFirst()
                }
            }
            let finished = try pool.step(mayPause: isContinuous)
            now += 1
            outcome.calls += 1
            for run in finished {
                outcome.samples[run.request.number] = run.sample
                outcome.latencies.append(now - run.request.arrival)
            }
        }
        outcome.pauses = pool.pauses
        outcome.seconds = (clock.now - began) / .seconds(1)
        return outcome
    }

    private static func runAlone(_ request: Request, plan: SamplingPlan, model: Model) throws -> [Float] {
        var run = Run(request, plan: plan, pixelCount: model.pixelCount)
        while run.session.timestep != nil {
            let level = plan.levels[run.session.stepIndex]
            let output = model.predict(run.sample, at: level, digit: request.guided?.digit)
            let noise = run.nextNoise()
            if let guided = request.guided, let conditional = output.conditional {
                try run.session.step(
                    conditional: conditional, unconditional: output.unconditional, guidance: guided.guidance, sample: &run.sample,
                    noise: noise)
            } else {
                try run.session.step(modelOutput: output.unconditional, sample: &run.sample, noise: noise)
            }
        }
        return run.sample
    }
}

/// Steele, Lea and Flood 2014, doi:10.1145/2660193.2660195.
struct SplitMix64: RandomNumberGenerator {
    var state: UInt64

    mutating func next() -> UInt64 {
        state &+= 0x9e37_79b9_7f4a_7c15
        var z = state
        z = (z ^ (z >> 30)) &* 0xbf58_476d_1ce4_e5b9
        z = (z ^ (z >> 27)) &* 0x94d0_49bb_1331_11eb
        return z ^ (z >> 31)
    }
}
