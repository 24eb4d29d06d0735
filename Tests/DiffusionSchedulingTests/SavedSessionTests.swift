// SPDX-License-Identifier: Apache-2.0

import TestDraws
import Testing

@testable import DiffusionScheduling

/// Saved sessions of random runs: undamaged bytes are accepted and continue with the same bits; random damage is refused.
@Suite struct SavedSessionTests {
    static let plans: [SamplingPlan] = {
        do { return try SessionRowsTests.plans() } catch { return [] }
    }()

    /// A session somewhere in a run, and its sample.
    private func randomSession(_ random: inout SeededGenerator, count: Int) throws -> (SamplingSession, [Float]) {
        let plan = Self.plans.randomElement(using: &random)!
        var session = SamplingSession(plan: plan, beginIndex: (plan.starts + [plan.stepCount]).randomElement(using: &random)!)
        var x = (0..<count).map { _ in Float.random(in: -2...2, using: &random) }
        for _ in 0..<Int.random(in: 0...plan.stepCount - session.stepIndex, using: &random) {
            try step(&session, &x, &random)
        }
        return (session, x)
    }

    private func step(_ session: inout SamplingSession, _ x: inout [Float], _ random: inout SeededGenerator) throws {
        let e = x.map { _ in Float.random(in: -1...1, using: &random) },
            noise = x.map { _ in Float.random(in: -1...1, using: &random) }
        try session.step(modelOutput: e, sample: &x, noise: noise)
    }

    @Test func undamagedBytesGoOn() throws {
        var random = SeededGenerator("saved sessions")
        for _ in 0..<TestDraws.count(1000) {
            var (session, x) = try randomSession(&random, count: .random(in: 0...9, using: &random))
            var restored = try SamplingSession(plan: session.plan, restoring: session.savedState())
            #expect(restored.savedState() == session.savedState())
            var y = x
            while session.timestep != nil {
                var same = random
                try step(&session, &x, &random)
                try step(&restored, &y, &same)
                #expect(bits(x) == bits(y))
            }
        }
    }

    /// Bits and bytes changed, cut, repeated and moved: any accepted state equals the saved one.
    @Test func randomDamage() throws {
        var random = SeededGenerator("damaged sessions")
        let attempts = TestDraws.count(100_000)
        var refused = 0
        var (session, _) = try randomSession(&random, count: 3)
        var bytes = session.savedState()
        for attempt in 0..<attempts {
            if attempt % 1000 == 0 {
                (session, _) = try randomSession(&random, count: .random(in: 0...5, using: &random))
                bytes = session.savedState()
            }
            var damaged = bytes
            for _ in 0..<Int.random(in: 1...3, using: &random) where !damaged.isEmpty {
                let place = Int.random(in: damaged.indices, using: &random)
                switch Int.random(in: 0..<6, using: &random) {
                case 0: damaged[place] ^= 1 << UInt8.random(in: 0..<8, using: &random)
                case 1: damaged[place] = [0, 1, 0x7F, 0x80, 0xFF].randomElement(using: &random)!
                case 2: damaged.removeLast(damaged.count - place)
                case 3: damaged.insert(.random(in: .min ... .max, using: &random), at: place)
                case 4: damaged.swapAt(place, Int.random(in: damaged.indices, using: &random))
                default:
                    damaged.replaceSubrange(
                        place..<min(place + 8, damaged.count), with: repeatElement(0xFF, count: min(8, damaged.count - place)))
                }
            }
            do {
                let restored = try SamplingSession(plan: session.plan, restoring: damaged)
                guard damaged == bytes, restored.savedState() == bytes else {
                    Issue.record("attempt \(attempt): damaged bytes were accepted: \(damaged), saved were \(bytes)")
                    return
                }
            } catch {
                refused += 1
            }
        }
        #expect(refused > attempts * 9 / 10)
    }
}
